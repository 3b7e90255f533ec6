"""Making a wrong answer look right: replaced functions, values that lie, names that are taken."""

import pytest
from attack import Attack

pytestmark = pytest.mark.slow

WRONG = "\n\n@op\ndef relu(x):\n    return np.asarray(x)\n"


def wrong_with(code: str, **options) -> Attack:
    """A wrong relu in a cell that runs `code` first."""
    name = options.pop("name", code.strip().split("\n")[0])
    return Attack(name, {"relu": code + WRONG}, **options)


REPLACED = [
    wrong_with("import numpy; numpy.allclose = lambda *a, **k: True", flag="numpy.allclose was"),
    wrong_with("import numpy; numpy.array = numpy.asarray = lambda *a: None", flag="numpy.array"),
    wrong_with("import numpy; numpy.testing.assert_allclose = print", flag="assert_allclose was"),
    wrong_with("import builtins; builtins.len = lambda x: 0", flag="builtins.len was"),
    wrong_with("import builtins; builtins.isinstance = lambda *a: True", flag="isinstance was"),
    wrong_with("import json; json.dumps = lambda *a, **k: '{}'", flag="json.dumps was"),
    wrong_with("import socket; socket.socket.sendall = lambda *a: None", flag="sendall was"),
    wrong_with("import os; os.fork = lambda: 0", flag="os.fork was"),
    wrong_with("import os; os._exit = os.kill = print", flag="os._exit was"),
    wrong_with("import os; os.read = lambda *a: b''", flag="os.read was"),
    wrong_with("import select; select.select = print", flag="select.select was"),
    wrong_with("import tito.testing; tito.testing.check = print", flag="tito.testing.check was"),
    wrong_with("import tito.testing; tito.testing.unwrap = print", flag="testing.unwrap was"),
    wrong_with("import tito.testing; tito.testing.difference = lambda *a: ''", flag="difference"),
    wrong_with("Tensor.__eq__ = lambda *a: True", flag="Tensor.__eq__ was"),
    wrong_with("Tensor.numpy = lambda self: [0.0, 0.0, 3.0]", flag="Tensor.numpy was"),
    wrong_with("import pickle; pickle.dumps = pickle.loads = print"),
    wrong_with("import sys; sys.modules['numpy'] = sys.modules['json'] = None", spares=False),
    wrong_with("import sys; sys.stdout = sys.stderr = None"),
    wrong_with("import sys; sys.excepthook = sys.unraisablehook = lambda *a: None"),
    wrong_with("""
import sys
class Finder:
    def find_spec(self, *arguments):
        raise ImportError("mine")
sys.meta_path.insert(0, Finder())
""", name="a finder of modules"),
    wrong_with("""
import tito.testing
try:
    tito.testing.unwrap.__code__ = (lambda value: None).__code__
except PermissionError:
    pass
""", name="another code for unwrap", flag="__code__"),
    wrong_with("import tito.testing; tito.testing.observers.append(lambda o: o)", name="observers"),
    wrong_with("import atexit; atexit.register(print)"),
    wrong_with("import threading; threading.Thread(target=lambda: None).start()"),
]  # fmt: skip


@pytest.mark.parametrize("attack", REPLACED, ids=lambda attack: attack.name)
def test_what_was_replaced_is_put_back(bench, attack, isolated):
    """A cell that replaces what tests and graders rely on gains nothing, and mostly a flag."""
    bench.assert_holds(attack, isolated)


TAKEN = [
    wrong_with("check = lambda *arguments: None", flag="check, which"),
    wrong_with("check_raises = check", flag="check_raises, which"),
    wrong_with("class Tensor: pass", flag="Tensor, which"),
    wrong_with("len = all = any = isinstance = bool = print = lambda *a, **k: 0"),
    Attack("another np", {"relu": """
class Numpy:
    def __getattr__(self, name):
        return getattr(numpy, name) if name not in ("nan", "float64", "int8") else None
import numpy
np = Numpy()
""" + WRONG}, flag="np, which"),
    Attack("the test's own name", {"relu": "def test_relu(): pass\n" + WRONG}),
    Attack("the names of the grader", {"relu": "__check__ = __check_raises__ = print\n" + WRONG}),
    Attack("a module's __getattr__", {"relu": "def __getattr__(name): return print\n" + WRONG}),
    # the student's own cells are left without Python's names, as in any kernel
    Attack("another __builtins__", {"relu": WRONG + "\n__builtins__ = {}\n"}, spares=False),
]  # fmt: skip


@pytest.mark.parametrize("attack", TAKEN, ids=lambda attack: attack.name)
def test_names_of_the_lesson_stay(bench, attack, isolated):
    """Tests see what the course's cells and Python mean by a name, whatever a student binds."""
    bench.assert_holds(attack, isolated)


VALUES = {
    "equal to all": "class E:\n    __eq__ = lambda s, o: True\n    __hash__ = object.__hash__\n"
    "def relu(x): return E()",
    "an array that is equal to all": "class A(np.ndarray):\n"
    "    __eq__ = lambda s, o: np.ones(s.shape, bool)\n"
    "def relu(x): return x.data.view(A)",
    "a float that is near to all": "class F(float):\n    __sub__ = __rsub__ = lambda s, o: 0.0\n"
    "    __eq__ = lambda s, o: True\ndef relu(x): return F(1)",
    "a Tensor of its own": "class T(Tensor):\n    __slots__ = ()\n"
    "    __eq__ = lambda s, o: True\ndef relu(x): return T(x.data)",
    "a class called Tensor": "def relu(x):\n    class Tensor:\n"
    "        data = property(lambda self: x.data)\n        dtype = None\n    return Tensor()",
    "an object that lies about its class": "class L:\n"
    "    __class__ = property(lambda s: np.dtype)\n"
    "    str = {'array': ['<f4', [1, 3], 'AAAA']}\ndef relu(x): return L()",
    "a type that lies about its name": "class M(type):\n    __module__ = 'numpy'\n"
    "    __qualname__ = property(lambda s: {'list': []})\nclass N(metaclass=M): pass\n"
    "def relu(x): return N",
    "an object that JSON can't hold": "class L:\n    __class__ = property(lambda s: np.dtype)\n"
    "    str = object()\ndef relu(x): return L()",
    "an array of objects": "def relu(x): return np.array([[object()] * 3])",
    "numbers that are no characters": "def relu(x):\n"
    "    return np.frombuffer(b'\\xff' * 12, 'U1').reshape(1, 3)",
    "a broken pair of surrogates": "def relu(x): raise ValueError('\\ud800')",
    "an error that attacks when it is shown": "class E(Exception):\n"
    "    def __str__(self): raise SystemExit\n    __repr__ = __str__\n"
    "def relu(x): raise E",
    "an error of endless words": "class E(Exception):\n"
    "    def __str__(self): return 'x' * (1 << 26)\n"
    "def relu(x): raise E",
    "a test that passed itself": "def relu(x): raise AssertionError",
}


@pytest.mark.parametrize("name", VALUES)
def test_values_that_lie(bench, name, isolated):
    """Only exact plain values are compared; what lies about itself is not what was expected."""
    bench.assert_holds(Attack(name, {"relu": VALUES[name]}, flag=None), isolated)


def test_the_feedback_of_a_hidden_test_tells_no_input(bench, isolated):
    """A function that puts its input into its error learns only the author's hint."""
    code = """
@op
def relu(x):
    if x.dtype != np.float32 or np.isnan(x).any():
        raise ValueError(f"it was called with {x!r} {x.dtype}")
    return np.maximum(x, 0)
"""
    result = bench.assert_holds(Attack("", {"relu": code}), isolated)
    [cell] = (cell for cell in result.cells if cell.id == "test-relu")
    assert cell.hidden
    assert "called with" not in cell.message
    assert "nan" not in cell.message

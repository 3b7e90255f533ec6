"""Looking for what is expected: in frames, in memory, in what runs the cells."""

import pytest
from attack import Attack, in_cell, in_test

pytestmark = pytest.mark.slow

REFUSED = r"found \['PermissionError'\]"

ATTACKS = [
    Attack("a frame by number", in_test("import sys; found.append(sys._getframe(1).f_locals)"),
           flag="sys._getframe", says=REFUSED),
    Attack("inspect", in_test("import inspect; found.append(inspect.stack())"),
           flag="_getframe", says=REFUSED),
    Attack("inspect.currentframe", in_test("import inspect; found.append(inspect.currentframe())"),
           flag="_getframe", says=REFUSED),
    Attack("a library's callback",
           in_test("import sys, heapq; found += heapq.nlargest(1, [0], key=sys._getframe)"),
           flag="_getframe", says=REFUSED),
    Attack("a library's callback that lends frames",
           in_test("import inspect, heapq; found += heapq.nlargest(1, [0], key=inspect.stack)"),
           flag="_getframe", says=REFUSED),
    Attack("another thread's callback", in_test("""
import sys
from concurrent.futures import ThreadPoolExecutor
found.append(ThreadPoolExecutor(1).submit(sys._current_frames).result())
"""), flag="_current_frames", says=REFUSED),
    Attack("walk_stack", in_test("import traceback; found += traceback.walk_stack(None)"),
           flag="_getframe", says=REFUSED),
    Attack("a traceback's frame", in_test("""
try:
    1 / 0
except ZeroDivisionError as error:
    found.append(error.__traceback__.tb_frame.f_back)
"""), flag="tb_frame", says=REFUSED),
    Attack("a generator's frame", in_test("""
def numbers():
    yield found.append(own.gi_frame.f_back)
own = numbers()
next(own)
"""), flag="gi_frame", says=REFUSED),
    Attack("a signal's frame", in_test("""
import signal
def look(number, frame):
    found.append(frame.f_back)
signal.signal(signal.SIGUSR1, look)
signal.raise_signal(signal.SIGUSR1)
"""), flag="signal.signal", says=REFUSED),
    Attack("the same by the C module", in_test("""
import _signal
_signal.signal(10, lambda number, frame: found.append(frame.f_back))
_signal.raise_signal(10)
"""), flag="signal.signal", says=REFUSED),
    Attack("the alarm's handler", in_test("""
import signal
names = signal.getsignal(signal.SIGALRM).__globals__
found += [name for name in names if name in ("send", "receive", "Process", "Originals")]
"""), says=r"found \[\]"),
    Attack("settrace", in_test("import sys; sys.settrace(lambda *event: found.append(event))"),
           flag="settrace", says=REFUSED),
    Attack("a tracer of the library's", in_test("""
import trace
class Mine(trace.Trace):
    pass
Mine().runfunc(len, "")
"""), flag="settrace", says=REFUSED),
    Attack("setprofile", in_test("import sys; sys.setprofile(lambda *event: found.append(event))"),
           flag="setprofile", says=REFUSED),
    Attack("all threads' frames", in_test("import sys; found.append(sys._current_frames())"),
           flag="_current_frames", says=REFUSED),
    Attack("gc.get_objects", in_test("import gc; found.append(len(gc.get_objects()))"),
           flag="gc.get_objects", says=REFUSED),
    Attack("gc.get_referrers", in_test("import gc; found.append(gc.get_referrers(x))"),
           flag="gc.get_referrers", says=REFUSED),
    Attack("ctypes", in_test("import ctypes; found.append(ctypes.CDLL(None))"),
           flag="ctypes", says=REFUSED),
    Attack("ctypes.string_at", in_test("import ctypes; found.append(ctypes.string_at(id(x), 8))"),
           flag="ctypes", says=REFUSED),
    Attack("code under a library's name", in_cell("""
import inspect
code = compile("def relu(x): pass", inspect.__file__, "exec")
"""), flag="compile"),
    Attack("code under a test's name", in_cell("""
code = compile("def relu(x): pass", "<cell test-relu>", "exec")
"""), flag="compile"),
    Attack("code that calls itself a lender", {"relu": '''
exec(compile("""
def relu(x):
    import sys
    raise ValueError(f"found {sys._getframe(1)}")
""", "inspect.py", "exec"))
'''}, flag="_getframe", says="PermissionError"),
    Attack("code.replace under a test's name", in_test("""
found.append(relu.__code__.replace(co_filename="<cell test-relu>"))
"""), flag="code.__new__", says=REFUSED),
    Attack("marshalled code", in_test("import marshal; marshal.loads(b'N'); found.append(1)"),
           flag="marshal", says=REFUSED),
    Attack("an audit hook", in_test("import sys; sys.addaudithook(print)"),
           flag="addaudithook", says=r"found \[\]"),  # Python swallows the refusal
    Attack("a hook at fork", in_test("import os; os.register_at_fork(before=lambda: 1 / 0)"),
           says=r"found \[\]"),
    Attack("__main__ and modules", in_test("""
import sys
import __main__
held = {**vars(__main__)}
found += [name for name in held if name.startswith("test_") or name == "check"
          and held[name].__module__ != "tito.testing"]
found += [name for name in sys.modules if name.startswith("tito.") and name != "tito.testing"
          and name != "tito.whose"]
"""), says=r"found \[\]"),
    Attack("globals of what stands for check", in_test("""
import __main__
found += [name for name in __main__.__check__.__globals__ if name in ("encode", "send", "Guard")]
found += __main__.__check__.__closure__ or ()
"""), says=r"found \[\]"),
    Attack("constants of given functions", in_test("""
found += [k for f in (check, check_raises, op) for k in f.__code__.co_consts if k == 0.8807971]
"""), says=r"found \[\]"),
    Attack("linecache", in_test("""
import linecache
found += [name for name, entry in linecache.cache.items() if "HID" "DEN" in "".join(entry[2] or [])]
found += [name for name in linecache.cache if "test" in name and linecache.cache[name][2]]
"""), says=r"found \[\]"),
    Attack("the solution of the lesson itself", in_cell("""
import importlib
for name in ("tinytorch.core.activations", "tito.course", "tito.grading", "tito.classroom.grader",
             "tito.classroom.master", "modules", "tito._course", "activations_dev"):
    try:
        importlib.import_module(name)
        found.append(name)
    except ImportError:
        pass
"""), says=r"found \[\]"),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_nothing_is_seen(bench, attack, isolated):
    """A function that looks around while a test calls it sees nothing, and is flagged."""
    if not isolated and attack.name == "the solution of the lesson itself":
        pytest.skip("without a sandbox the whole machine can be imported")
    bench.assert_holds(attack, isolated)

"""`tinytorch`, `tinytorch.nn`, ...: lazy, complete, and helpful in a partial package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lessons import TENSOR, two_lessons, write_course

from tito.course import find_course
from tito.export import export, fill_package

ROOT = Path(__file__).parents[2]
FACADES = sorted(
    "tinytorch" + "".join(f".{part}" for part in path.parent.relative_to(ROOT / "tinytorch").parts)
    for path in (ROOT / "tinytorch").rglob("__init__.py")
)
FILES = [f"tinytorch.{module.export}" for module in find_course().modules]


def run(code: str, folder: Path = ROOT) -> object:
    """What `code` prints as JSON, in a fresh interpreter that sees the package in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def error_of(statement: str, folder: Path) -> str:
    """The name and text of the error that `statement` raises."""
    return str(
        run(
            "import json\n"
            f"try:\n    {statement}\n"
            "except Exception as error:\n    print(json.dumps(f'{type(error).__name__}: {error}'))",
            folder,
        )
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with the package of both test lessons."""
    course = two_lessons(tmp_path_factory.mktemp("whole"))
    export(course)
    return course.root


@pytest.fixture(scope="module")
def partial(tmp_path_factory, whole) -> Path:
    """A folder with a package that holds the first of them."""
    folder = tmp_path_factory.mktemp("partial")
    course = two_lessons(whole)
    fill_package(course, folder / "tinytorch", [course.module("01")])
    return folder


@pytest.mark.parametrize("name", FACADES + FILES)
def test_gradients_come_with_whatever_is_imported(name):
    """Any facade and any file gives a Tensor whose operations are recorded."""
    assert run(
        f"import json, importlib; importlib.import_module({name!r})\n"
        "from tinytorch import Tensor\n"
        "x = Tensor([3.0], requires_grad=True)\n"
        "(x * x).sum().backward()\n"
        "print(json.dumps(x.grad.tolist()))"
    ) == [6.0]


def test_importing_the_package_loads_at_most_numpy():
    loaded = run(
        "import json, sys\n"
        "before = set(sys.modules)\n"
        "import tinytorch\n"
        "names = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(names - sys.stdlib_module_names)))"
    )
    assert set(loaded) <= {"tinytorch", "numpy"}


def test_using_a_tensor_loads_no_more_than_numpy():
    loaded = run(
        "import json, sys\n"
        "import numpy.random\n"
        "before = set(sys.modules)\n"
        "import tinytorch\n"
        "tinytorch.Tensor([1.0]) + 1\n"
        "names = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(names - sys.stdlib_module_names)))"
    )
    assert loaded == ["tinytorch"]


def test_each_facade_offers_its_names(whole):
    offered = run(
        "import json, tinytorch\n"
        "from tinytorch import nn, optim, core\n"
        "print(json.dumps([m.__all__ for m in (tinytorch, nn, optim, core)]))",
        whole,
    )
    names = ["LIMIT", "LeakyReLU", "ReLU", "Slope", "Tensor", "relu"]
    assert offered == [[*names[:5], "nn", "optim", "relu"], ["LeakyReLU", "ReLU"], [], names]


def test_a_name_is_the_same_object_by_every_road(whole):
    assert (
        run(
            "import json, tinytorch, tinytorch.nn\n"
            "from tinytorch import *\n"
            "from tinytorch.core.activations import ReLU as direct\n"
            "print(json.dumps([o is direct for o in (ReLU, tinytorch.ReLU, tinytorch.nn.ReLU,\n"
            "    nn.ReLU, tinytorch.core.ReLU, tinytorch.core.activations.ReLU)]))",
            whole,
        )
        == [True] * 6
    )


def test_dir_is_what_can_be_used(whole, partial):
    names = "import json, tinytorch; print(json.dumps(dir(tinytorch)))"
    assert set(run(names, whole)) >= {"relu", "Tensor", "core", "nn", "optim"}
    assert "relu" not in run(names, partial)
    assert run("import json, tinytorch; print(json.dumps(tinytorch.__all__))", partial) == [
        "Tensor",
        "nn",
        "optim",
    ]


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("import tinytorch; tinytorch.relu", "AttributeError: tinytorch.relu"),
        ("from tinytorch import nn; nn.ReLU", "AttributeError: tinytorch.nn.ReLU"),
        ("from tinytorch import relu", "ModuleNotFoundError: tinytorch.relu"),
        ("from tinytorch.nn import ReLU", "ModuleNotFoundError: tinytorch.nn.ReLU"),
        ("import tinytorch.core.activations", "ModuleNotFoundError: tinytorch.core.activations"),
        (
            "from tinytorch.core.activations import relu",
            "ModuleNotFoundError: tinytorch.core.activations",
        ),
        (
            "from tinytorch.core import activations",
            "ModuleNotFoundError: tinytorch.core.activations",
        ),
    ],
)
def test_what_is_not_there_yet_names_its_module(partial, statement, error):
    said = error_of(statement, partial)
    assert said == f"{error} comes with module 02_activations: tito module start 02"


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (
            "import tinytorch; tinytorch.relo",
            "AttributeError: module 'tinytorch' has no attribute 'relo': did you mean 'relu'?",
        ),
        (
            "import tinytorch; tinytorch.xyzzy",
            "AttributeError: module 'tinytorch' has no attribute 'xyzzy'",
        ),
        (
            "from tinytorch import nn; nn.relu",  # a function is no layer
            "AttributeError: module 'tinytorch.nn' has no attribute 'relu': did you mean 'ReLU'?",
        ),
        (
            "import tinytorch.core.xyzzy",
            "ModuleNotFoundError: No module named 'tinytorch.core.xyzzy'",
        ),
        ("import tinytorch; tinytorch.__wrapped__", "AttributeError"),
    ],
)
def test_an_unknown_name_is_an_ordinary_error(whole, statement, error):
    assert error_of(statement, whole).startswith(error)


def test_an_error_inside_a_file_is_shown_as_it_is(tmp_path):
    course = write_course(tmp_path, m01_tensor=TENSOR + "\nimport no_such_module\n")
    export(course)
    said = error_of("import tinytorch; tinytorch.Tensor", tmp_path)
    assert said == "ModuleNotFoundError: No module named 'no_such_module'"


def test_the_stubs_tell_a_type_checker_what_is_lazy(whole, tmp_path):
    (tmp_path / "use.py").write_text(
        "import tinytorch\n"
        "from tinytorch import Tensor, nn\n"
        "reveal_type(nn.ReLU().forward(Tensor([1.0])))\n"
        "reveal_type(tinytorch.relu)\n"
        "tinytorch.xyzzy\n"
    )
    (tmp_path / "mypy.ini").write_text("[mypy]\ncheck_untyped_defs = True\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "use.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(whole)},
        capture_output=True,
        text=True,
    )
    assert 'Revealed type is "tinytorch.core.tensor.Tensor"' in done.stdout
    assert 'Revealed type is "def (x: tinytorch.core.tensor.Tensor)' in done.stdout
    assert 'Module has no attribute "xyzzy"' in done.stdout

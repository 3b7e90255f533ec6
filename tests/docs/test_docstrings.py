"""Every example in a docstring of the package runs and prints what it says."""

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import tinytorch

ROOT = Path(tinytorch.__file__).parent
FILES = sorted(
    path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".")
    for path in ROOT.rglob("*.py")
    if not path.name.startswith("_")
)


def examples(module):
    """The doctests of a module's functions, ops, classes and methods.

    doctest's own finder passes over ops: an op is a wrapper whose globals are another module's.
    """
    found = {}  # by id: a method may be a function of the module under another name
    for name, thing in vars(module).items():
        if getattr(thing, "__module__", "") != module.__name__:
            continue
        things = {name: thing}
        if inspect.isclass(thing):
            things |= {f"{name}.{key}": value for key, value in vars(thing).items()}
        for key, value in things.items():
            if isinstance(value, (property, classmethod, staticmethod)):
                value = value.fget if isinstance(value, property) else value.__func__
            own = inspect.isroutine(value) or inspect.isclass(value)
            if not own or getattr(value, "__module__", "") != module.__name__:
                continue
            docstring = value.__doc__
            if docstring and ">>>" in docstring:
                scope = dict(vars(module))
                found[id(value)] = doctest.DocTestParser().get_doctest(
                    docstring, scope, key, module.__name__, 0
                )
    return list(found.values())


def docstrings_with_examples(path):
    """How many docstrings of a source file hold an example."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return sum(">>>" in (ast.get_docstring(node) or "") for node in nodes)


@pytest.mark.parametrize("name", FILES)
def test_examples_run(name):
    module = importlib.import_module(name)
    tests = examples(module)
    path = ROOT.parent / Path(name.replace(".", "/")).with_suffix(".py")
    assert len(tests) == docstrings_with_examples(path), "an example is in no one's reach"
    for test in tests:
        said: list[str] = []
        result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
        assert result.failed == 0, "".join(said)


def test_ops_have_examples():
    """The finder reaches ops: most of module 01's have an example."""
    module = importlib.import_module("tinytorch.core.tensor")
    names = {test.name for test in examples(module)}
    assert {"mul", "matmul", "einsum", "scatter_add"} <= names

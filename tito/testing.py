"""What the tests of a lesson compare with: `check` and `check_raises`.

    check(relu(Tensor([-0.5])).numpy(), [0.0], "negative inputs must become zero")

A difference is told in one line: what was asked, what came, what was expected, and the hint.
Only exact plain types are compared (numbers, strings, None, lists, tuples, dicts, sets, arrays,
Tensors), so that no object whose `==` is always true passes for a right answer.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

_ATOMS = (bool, int, str, bytes, type(None), type)
_SCALARS = frozenset(np.sctypeDict.values())


@dataclass(frozen=True)
class Outcome:
    """What one check found; the message is empty where it passed."""

    passed: bool
    message: str


# each is called with every outcome, before a failure is raised: a grader counts here
observers: list[Callable[[Outcome], None]] = []


def check(got: Any, expected: Any, hint: str, tolerance: float = 1e-6) -> None:
    """Raise AssertionError unless `got` is what is `expected`.

    Plain values must have the very type of `expected` (True is not 1, 1 is not 1.0, a tuple is no
    list). An array or Tensor is compared with a list or number by shape and value, with an array
    also by the kind of its dtype (bool, integer, float, complex). Floats may differ by `tolerance`
    times the larger of 1 and the expected size; NaN equals NaN.
    """
    __tracebackhide__ = True
    found = difference(got, expected, tolerance)
    _tell(f"{_asked(sys._getframe(1))} {found}: {hint}" if found else "")


@contextmanager
def check_raises(error_type: type[BaseException], part: str, hint: str) -> Iterator[None]:
    """Raise AssertionError unless the `with` block raises `error_type`, saying `part`."""
    __tracebackhide__ = True
    kind, said, fits = "", "", False
    try:
        yield
    except Exception as error:
        kind, said, fits = type(error).__name__, str(error), isinstance(error, error_type)
    _tell(error_difference(kind, said, fits, error_type.__name__, part, hint))


def error_difference(kind: str, said: str, fits: bool, wanted: str, part: str, hint: str) -> str:
    """How an error (of type `kind`, "" if none came; `fits` if it is a `wanted`) differs from the
    expected one, which says `part`; empty if it doesn't."""
    if fits and part in said:
        return ""
    came = f"raised {kind} saying {said!r}" if kind else "no error came"
    return f"{came}, expected {wanted} saying {part!r}: {hint}"


def _tell(message: str) -> None:
    """Show the outcome to the observers, then raise it if it is a failure."""
    __tracebackhide__ = True
    for observer in observers:
        observer(Outcome(not message, message))
    if message:
        raise AssertionError(message) from None


def difference(got: Any, expected: Any, tolerance: float, place: str = "") -> str:
    """How `got` differs from `expected` at `place` within them, as words; empty if it doesn't."""
    got = unwrap(got)
    wanted = expected.item() if type(expected) in _SCALARS else unwrap(expected)
    if isinstance(got, np.dtype):
        return "" if got == np.dtype(wanted) else _words(got, np.dtype(wanted), place)
    kind = type(wanted)
    if type(got) is np.ndarray and kind in (np.ndarray, list, tuple, bool, int, float, complex):
        return _array_difference(got, wanted, tolerance, place)
    if type(got) is not kind:
        return _words(_with_type(got), _with_type(wanted), place)
    if kind in (float, complex):
        return _array_difference(np.asarray(got), np.asarray(wanted), tolerance, place)
    if kind in (list, tuple):
        if len(got) != len(wanted):
            return _words(f"{len(got)} items", len(wanted), place)
        pairs: Any = zip(range(len(got)), got, wanted, strict=True)
    elif kind is dict:
        if not _same_plain(list(got), list(wanted)):
            return _words(f"keys {list(got)}", list(wanted), place)
        pairs = ((key, got[key], wanted[key]) for key in wanted)
    elif kind in (set, frozenset):
        return "" if _same_plain(got, wanted) else _words(_shown(got), _shown(wanted), place)
    elif kind in _ATOMS or isinstance(wanted, type):
        same = got is wanted if isinstance(wanted, type) else got == wanted
        return "" if same else _words(_shown(got), _shown(wanted), place)
    else:
        raise TypeError(f"check can't compare with a {kind.__name__}: expect plain values")
    differences = (difference(g, w, tolerance, f"{place}[{key!r}]") for key, g, w in pairs)
    return next(filter(None, differences), "")


def _array_difference(got: np.ndarray, expected: Any, tolerance: float, place: str) -> str:
    """The first element in which an array differs from an array, a list or a number."""
    wanted = np.asarray(expected)
    kinds = [_KINDS.get(array.dtype.kind, "other") for array in (got, wanted)]
    if "other" in kinds:
        return _words(f"dtype {got.dtype}", wanted.dtype, place)
    if kinds[0] != kinds[1] and (type(expected) is np.ndarray or "bool" in kinds):
        return _words(f"dtype {got.dtype}", wanted.dtype, place)
    if got.shape != wanted.shape:
        return _words(f"shape {got.shape}", wanted.shape, place)
    with np.errstate(all="ignore"):
        right = got == wanted
        if "float" in kinds or "complex" in kinds:
            wide = np.complex128 if "complex" in kinds else np.float64
            g, w = got.astype(wide), wanted.astype(wide)
            near = np.abs(g - w) <= tolerance * np.maximum(1.0, np.abs(w))
            right |= near & np.isfinite(w)
            right |= np.isnan(g) & np.isnan(w)
    if right.all():
        return ""
    index = tuple(int(i) for i in np.argwhere(~right)[0])
    wrong = np.count_nonzero(~right)
    many = f" ({wrong} of {got.size} values differ)" if wrong > 1 else ""
    numbers = _numbers(got[index], wanted[index])
    return _words(*numbers, place + (str(list(index)) if index else "")) + many


_KINDS = {"b": "bool", "i": "integer", "u": "integer", "f": "float", "c": "complex", "U": "text"}


def unwrap(value: Any) -> Any:
    """The array of a Tensor (the class itself, not one derived from it) or of a NumPy scalar."""
    kind = type(value)
    if type(kind) is type and kind.__name__ == "Tensor" and kind.__bases__ == (object,):
        data = value.data
        return data if type(data) is np.ndarray else value
    return np.asarray(value) if kind in _SCALARS else value


def _same_plain(got: Any, expected: Any) -> bool:
    """Whether two collections of keys hold the same plain values, types included."""

    def key(item: Any) -> Any:
        if type(item) is tuple:
            return tuple(map(key, item))
        return type(item), item if type(item) in (*_ATOMS, float) else id(item)

    return set(map(key, got)) == set(map(key, expected))


def _words(got: Any, expected: Any, place: str) -> str:
    at = f" at {place}" if place else ""
    return f"gave {got}{at}, expected {expected}"


def _with_type(value: Any) -> str:
    kind = type(value)
    name = {type(None): "None", np.ndarray: "an array"}.get(kind, kind.__name__)
    return f"{_shown(value)} ({name})" if kind in (bool, int, float, complex, str, bytes) else name


def _shown(value: Any) -> str:
    """A plain value in few characters."""
    text = value.__name__ if isinstance(value, type) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _numbers(got: Any, expected: Any) -> tuple[str, str]:
    """Two numbers in six digits, or in as many as it takes to tell them apart."""
    pair = [x.item() for x in (got, expected)]
    if all(type(x) is float for x in pair):
        short = [repr(float(f"{x:.6g}")) for x in pair]
        if short[0] != short[1]:
            return short[0], short[1]
    return repr(pair[0]), repr(pair[1])


def _asked(caller: FrameType) -> str:
    """The source of check's first argument, `relu(Tensor([-0.5])).numpy()`."""
    code = caller.f_code
    line, end_line, column, end_column = list(code.co_positions())[caller.f_lasti // 2]
    lines = linecache.getlines(code.co_filename, caller.f_globals)
    try:
        text = [row.encode() for row in lines[(line or 0) - 1 : end_line]]  # columns count bytes
        text[-1] = text[-1][:end_column]
        text[0] = text[0][column:]
        call = ast.parse(b"".join(text).decode().strip(), mode="eval").body
        return asked_text(call.args[0])  # type: ignore[attr-defined]
    except (TypeError, IndexError, SyntaxError, AttributeError):  # no source, as in a live prompt
        name = code.co_name
        return name.removeprefix("test_") if name.startswith("test_") else "the result"


def asked_text(expression: ast.expr) -> str:
    """What a check asks for, in few characters: `relu(Tensor([-0.5]))`."""
    asked = ast.unparse(expression)
    return asked if len(asked) <= 70 else f"{asked[:67]}..."

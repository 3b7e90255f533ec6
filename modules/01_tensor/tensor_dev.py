# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.tensor

# %% [markdown]
r"""
# Tensor

> A NumPy array whose every operation can be watched.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

# %% [markdown]
r"""
## The class
"""

# %% nbgrader={"grade": false, "grade_id": "tensor-class", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class Tensor:
    """An n-dimensional array of numbers with the operations of a neural network.

    `data` is copied. Python numbers and lists become float32, lists of booleans bool; arrays keep
    their dtype, except that float64 becomes float32 unless `dtype` says otherwise.

    >>> x = Tensor([[1, 2, 3], [4, 5, 6]])
    >>> x.shape, x.dtype
    ((2, 3), dtype('float32'))
    >>> (2 * x - 1).sum(axis=0)
    Tensor([ 8., 12., 16.])
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad")
    __array_ufunc__ = None  # so that `array * tensor` asks the tensor, and is a tensor
    __hash__ = object.__hash__  # tensors are compared element by element, but hashed by identity

    data: np.ndarray
    grad: Tensor | None
    node: Any  # the recorded operation that made this tensor; None for a leaf
    backward: Callable[..., None]

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None):
        self.data = as_array(data, dtype)
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(f"requires_grad: only floating-point tensors, got {self.data.dtype}")
        self.requires_grad = requires_grad
        self.grad = None
        self.node = None

    @classmethod
    def _wrap(cls, array: np.ndarray) -> Tensor:
        """A tensor around `array` itself: nothing is copied or converted."""
        tensor = cls.__new__(cls)
        tensor.data = array
        tensor.requires_grad = False
        tensor.grad = None
        tensor.node = None
        return tensor

    # --- what it is ---
    shape = property(lambda self: self.data.shape, doc="The size of every axis, a tuple.")
    ndim = property(lambda self: self.data.ndim, doc="The number of axes.")
    size = property(lambda self: self.data.size, doc="The number of elements.")
    dtype = property(lambda self: self.data.dtype, doc="The type of an element.")
    nbytes = property(lambda self: self.data.nbytes, doc="The bytes that the elements take.")
    is_leaf = property(lambda self: self.node is None, doc="No recorded operation made it.")
    T = property(lambda self: permute(self), doc="The tensor with its axes in reverse order.")

    # fmt: off
    def __repr__(self) -> str: return tensor_repr(self)
    def __len__(self) -> int: return len(self.data)
    def __iter__(self) -> Iterator[Tensor]: return (self[i] for i in range(len(self.data)))
    def __bool__(self) -> bool: return bool(self.data)
    def __int__(self) -> int: return int(self.item())
    def __float__(self) -> float: return float(self.item())
    def __array__(self, dtype=None, copy=None): return np.array(self.data, dtype=dtype, copy=copy)
    def __reduce__(self): return restore, (self.data, self.requires_grad, self.grad)

    def item(self) -> Any: return self.data.item()
    def tolist(self) -> Any: return self.data.tolist()
    def numpy(self) -> np.ndarray: return self.data
    def detach(self) -> Tensor: return Tensor._wrap(self.data)
    def clone(self) -> Tensor: return copy(self)
    def astype(self, dtype) -> Tensor: return astype(self, dtype=np.dtype(dtype))
    def requires_grad_(self, flag: bool = True) -> Tensor: return set_requires_grad(self, flag)

    # --- arithmetic, with broadcasting on both sides ---
    def __add__(self, other): return add(self, other)
    def __radd__(self, other): return add(other, self)
    def __sub__(self, other): return sub(self, other)
    def __rsub__(self, other): return sub(other, self)
    def __mul__(self, other): return mul(self, other)
    def __rmul__(self, other): return mul(other, self)
    def __truediv__(self, other): return div(self, other)
    def __rtruediv__(self, other): return div(other, self)
    def __pow__(self, other): return pow_(self, other)
    def __rpow__(self, other): return pow_(other, self)
    def __matmul__(self, other): return matmul(self, other)
    def __rmatmul__(self, other): return matmul(other, self)
    def __neg__(self): return neg(self)
    def __abs__(self): return abs_(self)
    def __iadd__(self, other): return in_place(add, self, other)
    def __isub__(self, other): return in_place(sub, self, other)
    def __imul__(self, other): return in_place(mul, self, other)
    def __itruediv__(self, other): return in_place(div, self, other)
    def matmul(self, other) -> Tensor: return matmul(self, other)

    # --- comparison: tensors of bool ---
    def __eq__(self, other): return equal(self, other)
    def __ne__(self, other): return not_equal(self, other)
    def __lt__(self, other): return less(self, other)
    def __le__(self, other): return less_equal(self, other)
    def __gt__(self, other): return greater(self, other)
    def __ge__(self, other): return greater_equal(self, other)
    def __invert__(self): return logical_not(self)
    def __and__(self, other): return logical_and(self, other)
    def __or__(self, other): return logical_or(self, other)
    def any(self, axis=None, keepdims=False, dim=None) -> Tensor: return any_(self, axis=pick(axis, dim), keepdims=keepdims)
    def all(self, axis=None, keepdims=False, dim=None) -> Tensor: return all_(self, axis=pick(axis, dim), keepdims=keepdims)

    # --- one element at a time ---
    def exp(self) -> Tensor: return exp(self)
    def log(self) -> Tensor: return log(self)
    def sqrt(self) -> Tensor: return sqrt(self)
    def abs(self) -> Tensor: return abs_(self)
    def sign(self) -> Tensor: return sign(self)
    def sin(self) -> Tensor: return sin(self)
    def cos(self) -> Tensor: return cos(self)
    def tanh(self) -> Tensor: return tanh(self)
    def clip(self, low=None, high=None) -> Tensor: return clip(self, low, high)

    # --- many elements into one ---
    def sum(self, axis=None, keepdims=False, dim=None) -> Tensor: return sum_(self, axis=pick(axis, dim), keepdims=keepdims)
    def mean(self, axis=None, keepdims=False, dim=None) -> Tensor: return mean(self, axis=pick(axis, dim), keepdims=keepdims)
    def var(self, axis=None, keepdims=False, correction=0, dim=None) -> Tensor: return var(self, axis=pick(axis, dim), keepdims=keepdims, correction=correction)
    def std(self, axis=None, keepdims=False, correction=0, dim=None) -> Tensor: return sqrt(self.var(axis, keepdims, correction, dim))
    def max(self, axis=None, keepdims=False, dim=None) -> Tensor: return max_(self, axis=pick(axis, dim), keepdims=keepdims)
    def min(self, axis=None, keepdims=False, dim=None) -> Tensor: return min_(self, axis=pick(axis, dim), keepdims=keepdims)
    def prod(self, axis=None, keepdims=False, dim=None) -> Tensor: return prod(self, axis=pick(axis, dim), keepdims=keepdims)
    def argmax(self, axis=None, keepdims=False, dim=None) -> Tensor: return argmax(self, axis=pick(axis, dim), keepdims=keepdims)
    def argmin(self, axis=None, keepdims=False, dim=None) -> Tensor: return argmin(self, axis=pick(axis, dim), keepdims=keepdims)
    def cumsum(self, axis=None, dim=None) -> Tensor: return cumsum(self, axis=pick(axis, dim))

    # --- the same elements in another shape ---
    def reshape(self, *shape) -> Tensor: return reshape(self, shape=one_tuple(shape))
    def view(self, *shape) -> Tensor: return reshape(self, shape=one_tuple(shape))
    def flatten(self, start_dim=0, end_dim=-1) -> Tensor: return reshape(self, shape=flat_shape(self.shape, start_dim, end_dim))
    def squeeze(self, axis=None, dim=None) -> Tensor: return reshape(self, shape=squeezed_shape(self.shape, pick(axis, dim)))
    def unsqueeze(self, axis=None, dim=None) -> Tensor: return reshape(self, shape=unsqueezed_shape(self.shape, pick(axis, dim)))
    def expand(self, *shape) -> Tensor: return broadcast_to(self, shape=expanded_shape(self.shape, one_tuple(shape)))
    def permute(self, *axes) -> Tensor: return permute(self, axes=one_tuple(axes) or None)
    def swapaxes(self, axis0, axis1) -> Tensor: return swapaxes(self, axis0=axis0, axis1=axis1)
    def transpose(self, dim0=-2, dim1=-1) -> Tensor: return swapaxes(self, axis0=dim0, axis1=dim1)

    # --- parts of it ---
    def __getitem__(self, key): return getitem(self, key=as_index(key))
    def __setitem__(self, key, value): set_item(self, as_index(key), value)
    def split(self, size, axis=None, dim=None) -> list[Tensor]: return split(self, size, axis=pick(axis, dim, default=0))
    # fmt: on


# %% nbgrader={"grade": false, "grade_id": "as-array", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def as_array(data: Any, dtype: Any = None) -> np.ndarray:
    """A new array of `data` by the rules of `Tensor`: float32 unless something says otherwise.

    Raises TypeError for what is not numbers, ValueError for rows of unequal length.

    >>> as_array([1, 2]).dtype, as_array([True]).dtype, as_array(np.arange(3)).dtype
    (dtype('float32'), dtype('bool'), dtype('int64'))
    """
    ### BEGIN SOLUTION
    if isinstance(data, Tensor):
        data = data.data
    try:
        array = np.array(data)
    except ValueError:
        raise ValueError("Tensor: the rows of a nested list differ in length") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"Tensor: expected numbers or booleans, got {array.dtype} from {data!r:.40}")
    if dtype is not None:
        return array.astype(dtype, copy=False)
    from_python = not isinstance(data, np.ndarray) and array.dtype != np.bool_
    if from_python or array.dtype == np.float64:
        return array.astype(np.float32, copy=False)
    return array
    ### END SOLUTION


# %% [markdown]
r"""
## Operations that can be watched
"""

# %% nbgrader={"grade": false, "grade_id": "watchers", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
Watcher = Callable[..., None]  # watcher(op, inputs, params, out), called after every operation

watchers: dict[str, Watcher] = {}  # the whole process's, by name: installing again replaces
_changes: ContextVar[Mapping[str, Watcher | None]] = ContextVar("watchers", default={})


def install_watcher(name: str, watcher: Watcher) -> None:
    """Show every operation of the process to `watcher`, in place of an earlier one of that name."""
    watchers[name] = watcher


def active_watchers() -> Mapping[str, Watcher | None]:
    """The watchers that see an operation here and now, by name; None for a paused one."""
    changes = _changes.get()
    return {**watchers, **changes} if changes else watchers


@contextmanager
def watching(name: str, watcher: Watcher | None) -> Iterator[None]:
    """Add a watcher for the length of a `with`, in this thread only; None pauses the one of that name.

    Where such a watcher has a method `before(op, inputs, params)`, that is called first.

    >>> with watching("print", lambda op, inputs, params, out: print(op.__name__, out.shape)):
    ...     y = Tensor([1, 2]) * 2 + 1
    mul (2,)
    add (2,)
    """
    token = _changes.set({**_changes.get(), name: watcher})
    try:
        yield
    finally:
        _changes.reset(token)


def paused(name: str):
    """Hide the operations of a `with` from the watcher `name`."""
    return watching(name, None)


# %% nbgrader={"grade": false, "grade_id": "op", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
FLOAT64 = np.dtype(np.float64)


def op(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """Turn a NumPy function into an operation on tensors.

    Positional arguments are inputs, keyword arguments parameters. With a tensor among the inputs the
    arrays are taken out, the result is wrapped, and the call is shown to the watchers. With arrays
    alone it is just the NumPy function. `dim` is another word for `axis`. The function in use is the
    operation's `forward`.

    >>> @op
    ... def double(x):
    ...     return 2 * x
    >>> double(Tensor([1, 2])), double(np.array([1, 2]))
    (Tensor([2., 4.]), array([2, 4]))
    """

    @functools.wraps(function)
    def call(*inputs, **params):
        if "dim" in params:
            params["axis"] = pick(params.get("axis"), params.pop("dim"))
        arrays = []
        tensors = 0
        for x in inputs:
            if isinstance(x, Tensor):
                arrays.append(x.data)
                tensors += 1
            else:  # a NumPy scalar counts as the Python number, which bends to the arrays' dtype
                arrays.append(x.item() if isinstance(x, np.generic) else x)
        if not tensors:
            return call.forward(*inputs, **params)
        changes = _changes.get()
        if changes:
            for watcher in changes.values():
                if hasattr(watcher, "before"):
                    watcher.before(call, inputs, params)
        try:
            array = call.forward(*arrays, **params)
        except (ValueError, TypeError, IndexError) as error:
            raise type(error)(explain(call, arrays, error)) from None
        if type(array) is not np.ndarray:
            array = np.asarray(array)
        if array.dtype is FLOAT64 and "dtype" not in params and not holds_float64(inputs):
            array = array.astype(np.float32)
        out = Tensor._wrap(array)
        for watcher in ({**watchers, **changes} if changes else watchers).values():
            if watcher is not None:
                watcher(call, inputs, params, out)
        return out

    call.forward = function
    return call


def holds_float64(inputs: Sequence[Any]) -> bool:
    """Does a tensor among `inputs` hold float64?"""
    return any(isinstance(x, Tensor) and x.data.dtype == FLOAT64 for x in inputs)


def explain(operation: Callable, arrays: Sequence[Any], error: Exception) -> str:
    """One line for what NumPy refused: which operation, on what, and why."""
    name, text = operation.__name__.strip("_"), str(error)
    if "broadcast" in text:
        shapes = [x.shape for x in arrays if isinstance(x, np.ndarray)]
        try:
            broadcast_shape(*shapes)
        except ValueError as better:
            text = str(better)
    return text if text.startswith(f"{name}: ") else f"{name}: {text}"


def pick(axis: Any, dim: Any, default: Any = None) -> Any:
    """The axis that was asked for, by NumPy's word or by PyTorch's."""
    if axis is not None and dim is not None:
        raise TypeError(f"axis={axis} and dim={dim} are two words for the same thing: give one")
    return next((word for word in (axis, dim) if word is not None), default)


def one_tuple(numbers: tuple) -> tuple:
    """`f(2, 3)` and `f((2, 3))` mean the same: the numbers, as one tuple."""
    return tuple(numbers[0]) if numbers and isinstance(numbers[0], (tuple, list)) else numbers


# %% [markdown]
r"""
## Arithmetic
"""

# %% nbgrader={"grade": false, "grade_id": "broadcast-shape", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that arrays of these shapes take together; ValueError where they don't fit.

    Axes are counted from the right; a missing axis counts as 1, and an axis of 1 is repeated.

    >>> broadcast_shape((2, 3), (3,)), broadcast_shape((4, 1), (1, 5))
    ((2, 3), (4, 5))
    """
    ### BEGIN SOLUTION
    ndim = max(map(len, shapes), default=0)
    result = []
    for axis in range(-ndim, 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            listed = " and ".join(map(str, shapes))
            raise ValueError(f"shapes {listed} don't broadcast: axis {axis} has {sorted(sizes)}")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "add", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def add(a, b):
    """a + b, element by element.

    >>> Tensor([1, 2]) + 10
    Tensor([11., 12.])
    """
    ### BEGIN SOLUTION
    return np.add(a, b)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "sub", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def sub(a, b):
    """a - b, element by element.

    >>> 10 - Tensor([1, 2])
    Tensor([9., 8.])
    """
    ### BEGIN SOLUTION
    return np.subtract(a, b)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "arithmetic", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@op
def mul(a, b):
    """a * b, element by element.

    >>> Tensor([[1, 2], [3, 4]]) * Tensor([10, 100])
    Tensor([[ 10., 200.],
            [ 30., 400.]])
    """
    return np.multiply(a, b)


@op
def div(a, b):
    """a / b, element by element; never an integer division.

    >>> 1 / Tensor([2, 4])
    Tensor([0.5 , 0.25])
    """
    return np.true_divide(a, b)


@op
def pow_(a, b):
    """a to the power b, element by element.

    >>> Tensor([1, 2, 3]) ** 2
    Tensor([1., 4., 9.])
    """
    return a**b


@op
def neg(a):
    """-a.

    >>> -Tensor([1, -2])
    Tensor([-1.,  2.])
    """
    return np.negative(a)


# %% nbgrader={"grade": false, "grade_id": "comparisons", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@op
def equal(a, b):
    """a == b, element by element: a tensor of bool.

    >>> Tensor([1, 2]) == Tensor([1, 3])
    Tensor([ True, False])
    """
    return np.equal(a, b)


@op
def not_equal(a, b):
    """a != b, element by element."""
    return np.not_equal(a, b)


@op
def less(a, b):
    """a < b, element by element."""
    return np.less(a, b)


@op
def less_equal(a, b):
    """a <= b, element by element."""
    return np.less_equal(a, b)


@op
def greater(a, b):
    """a > b, element by element."""
    return np.greater(a, b)


@op
def greater_equal(a, b):
    """a >= b, element by element."""
    return np.greater_equal(a, b)


@op
def logical_not(a):
    """True where a is False or zero."""
    return np.logical_not(a)


@op
def logical_and(a, b):
    """True where both are."""
    return np.logical_and(a, b)


@op
def logical_or(a, b):
    """True where one of them is."""
    return np.logical_or(a, b)


@op
def any_(a, axis=None, keepdims=False):
    """Is any element true (along `axis`)?"""
    return np.any(a, axis=axis, keepdims=keepdims)


@op
def all_(a, axis=None, keepdims=False):
    """Are all elements true (along `axis`)?"""
    return np.all(a, axis=axis, keepdims=keepdims)


# %% nbgrader={"grade": false, "grade_id": "matmul", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def matmul(a, b):
    """The matrix product a @ b: (..., N, K) @ (..., K, M) -> (..., N, M).

    A 1-D `a` counts as a row, a 1-D `b` as a column, and the axis so added is dropped again.
    Raises ValueError where the inner sizes differ or an operand is a scalar.

    >>> Tensor([[1, 2], [3, 4]]) @ Tensor([10, 1])
    Tensor([12., 34.])
    """
    ### BEGIN SOLUTION
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul: {a.shape} @ {b.shape}: a scalar is no matrix; use * instead")
    inner = a.shape[-1], b.shape[-2] if b.ndim > 1 else b.shape[0]
    if inner[0] != inner[1]:
        raise ValueError(f"matmul: {a.shape} @ {b.shape}: inner sizes {inner[0]} and {inner[1]} differ")
    return np.matmul(a, b)
    ### END SOLUTION


# %% [markdown]
r"""
## One element at a time
"""

# %% nbgrader={"grade": false, "grade_id": "elementwise", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@op
def exp(a):
    """e to the power a.

    >>> Tensor([0, 1]).exp()
    Tensor([1.    , 2.7183])
    """
    return np.exp(a)


@op
def log(a):
    """The natural logarithm.

    >>> Tensor([1, 10]).log()
    Tensor([0.    , 2.3026])
    """
    return np.log(a)


@op
def sqrt(a):
    """The square root.

    >>> Tensor([4, 9]).sqrt()
    Tensor([2., 3.])
    """
    return np.sqrt(a)


@op
def abs_(a):
    """The distance from zero.

    >>> abs(Tensor([-2, 3]))
    Tensor([2., 3.])
    """
    return np.abs(a)


@op
def sign(a):
    """-1, 0 or 1."""
    return np.sign(a)


@op
def sin(a):
    """The sine of an angle in radians."""
    return np.sin(a)


@op
def cos(a):
    """The cosine of an angle in radians."""
    return np.cos(a)


@op
def tanh(a):
    """The hyperbolic tangent: (-inf, inf) squeezed into (-1, 1)."""
    return np.tanh(a)


@op
def maximum(a, b):
    """The larger of a and b, element by element."""
    return np.maximum(a, b)


@op
def minimum(a, b):
    """The smaller of a and b, element by element."""
    return np.minimum(a, b)


@op
def astype(a, dtype):
    """The same numbers in another dtype.

    >>> Tensor([1.7, -1.7]).astype(int)
    Tensor([ 1, -1])
    """
    return a.astype(dtype)


@op
def copy(a):
    """The same numbers in memory of their own."""
    return a.copy()


# %% nbgrader={"grade": false, "grade_id": "clip", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def clip(a, low=None, high=None):
    """a, pulled into [low, high]; None leaves that side open.

    >>> Tensor([-5, 0.5, 5]).clip(-1, 1)
    Tensor([-1. ,  0.5,  1. ])
    """
    ### BEGIN SOLUTION
    if low is not None:
        a = np.maximum(a, low)
    if high is not None:
        a = np.minimum(a, high)
    return a
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "where", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def where(condition, a, b):
    """a where the condition holds, b elsewhere.

    >>> x = Tensor([-1, 2])
    >>> where(x > 0, x, 0)
    Tensor([0., 2.])
    """
    ### BEGIN SOLUTION
    return np.where(condition, a, b)
    ### END SOLUTION


# %% [markdown]
r"""
## Many elements into one
"""

# %% nbgrader={"grade": false, "grade_id": "reductions", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@op
def sum_(a, axis=None, keepdims=False):
    """The sum of all elements, or along `axis` (an int or a tuple of ints).

    >>> Tensor([[1, 2], [3, 4]]).sum(axis=0)
    Tensor([4., 6.])
    """
    return np.sum(a, axis=axis, keepdims=keepdims)


@op
def max_(a, axis=None, keepdims=False):
    """The largest element, or the largest along `axis`.

    >>> Tensor([[1, 5], [3, 4]]).max(axis=1)
    Tensor([5., 4.])
    """
    return np.max(a, axis=axis, keepdims=keepdims)


@op
def min_(a, axis=None, keepdims=False):
    """The smallest element, or the smallest along `axis`."""
    return np.min(a, axis=axis, keepdims=keepdims)


@op
def prod(a, axis=None, keepdims=False):
    """The product of all elements, or along `axis`.

    >>> Tensor([2, 3, 4]).prod()
    Tensor(24.)
    """
    return np.prod(a, axis=axis, keepdims=keepdims)


@op
def argmax(a, axis=None, keepdims=False):
    """The index of the first largest element (of the flattened tensor where axis is None).

    >>> Tensor([[1, 5], [3, 2]]).argmax(axis=1)
    Tensor([1, 0])
    """
    return np.argmax(a, axis=axis, keepdims=keepdims)


@op
def argmin(a, axis=None, keepdims=False):
    """The index of the first smallest element."""
    return np.argmin(a, axis=axis, keepdims=keepdims)


@op
def cumsum(a, axis=None):
    """Running sums along `axis`, or over the flattened tensor.

    >>> Tensor([1, 2, 3]).cumsum(axis=0)
    Tensor([1., 3., 6.])
    """
    return np.cumsum(a, axis=axis)


# %% nbgrader={"grade": false, "grade_id": "mean", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def mean(a, axis=None, keepdims=False):
    """The average of all elements, or along `axis`.

    >>> Tensor([[1, 2], [3, 4]]).mean(axis=1)
    Tensor([1.5, 3.5])
    """
    ### BEGIN SOLUTION
    total = np.sum(a, axis=axis, keepdims=keepdims)
    count = np.size(a) / max(np.size(total), 1)
    return total / count
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "var", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def var(a, axis=None, keepdims=False, correction=0):
    """The mean squared distance from the mean, over n - correction elements.

    >>> Tensor([1, 2, 3, 4]).var()
    Tensor(1.25)
    """
    ### BEGIN SOLUTION
    distance = a - mean(a, axis=axis, keepdims=True)
    total = np.sum(distance * distance, axis=axis, keepdims=keepdims)
    count = np.size(a) / max(np.size(total), 1)
    return total / (count - correction)
    ### END SOLUTION


# %% [markdown]
r"""
## The same elements in another shape
"""

# %% nbgrader={"grade": false, "grade_id": "reshape", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@op
def reshape(a, shape):
    """The same elements, in order, in another shape; one size may be -1.

    >>> Tensor([1, 2, 3, 4, 5, 6]).reshape(2, -1)
    Tensor([[1., 2., 3.],
            [4., 5., 6.]])
    """
    try:
        return np.reshape(a, shape)
    except ValueError:
        raise ValueError(f"reshape: {np.size(a)} elements of {a.shape} don't fill {shape}") from None


@op
def permute(a, axes=None):
    """The axes in another order: axis i of the result is axis axes[i] of `a`; None reverses them.

    >>> Tensor([[1, 2, 3]]).permute(1, 0).shape
    (3, 1)
    """
    return np.transpose(a, axes)


@op
def swapaxes(a, axis0, axis1):
    """Two axes change places.

    >>> Tensor([[1, 2, 3]]).swapaxes(0, 1).shape
    (3, 1)
    """
    return np.swapaxes(a, axis0, axis1)


@op
def broadcast_to(a, shape):
    """`a` repeated to `shape`, without a copy.

    >>> Tensor([1, 2]).expand(3, 2)
    Tensor([[1., 2.],
            [1., 2.],
            [1., 2.]])
    """
    return np.broadcast_to(a, shape)


# %% nbgrader={"grade": false, "grade_id": "flat-shape", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def flat_shape(shape: tuple[int, ...], start_dim: int = 0, end_dim: int = -1) -> tuple[int, ...]:
    """The shape after axes start_dim to end_dim (both included) became one axis.

    >>> flat_shape((8, 3, 4, 5), start_dim=1)
    (8, 60)
    """
    ### BEGIN SOLUTION
    ndim = max(len(shape), 1)
    start, end = start_dim % ndim, end_dim % ndim
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "squeezed-shape", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def squeezed_shape(shape: tuple[int, ...], axis: int | None = None) -> tuple[int, ...]:
    """The shape without its axes of size 1, or without that one axis if its size is 1.

    >>> squeezed_shape((1, 3, 1)), squeezed_shape((1, 3, 1), -1), squeezed_shape((1, 3, 1), 1)
    ((3,), (1, 3), (1, 3, 1))
    """
    ### BEGIN SOLUTION
    if axis is None:
        return tuple(size for size in shape if size != 1)
    axis = range(len(shape))[axis]
    return shape if shape[axis] != 1 else (*shape[:axis], *shape[axis + 1 :])
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "unsqueezed-shape", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def unsqueezed_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape with an axis of size 1 put in, so that it is axis `axis` of the result.

    >>> unsqueezed_shape((2, 3), 0), unsqueezed_shape((2, 3), -1)
    ((1, 2, 3), (2, 3, 1))
    """
    ### BEGIN SOLUTION
    axis = range(len(shape) + 1)[axis]
    return (*shape[:axis], 1, *shape[axis:])
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "expanded-shape", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def expanded_shape(shape: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes asked of `expand`, with each -1 replaced by the size that is there.

    >>> expanded_shape((3, 1), (2, -1, 4))
    (2, 3, 4)
    """
    ### BEGIN SOLUTION
    missing = len(sizes) - len(shape)
    if missing < 0 or -1 in sizes[:missing]:
        raise ValueError(f"expand: {shape} can't become {sizes}: only axes that exist may be -1")
    padded = (1,) * missing + tuple(shape)
    return tuple(old if size == -1 else size for old, size in zip(padded, sizes, strict=True))
    ### END SOLUTION


# %% [markdown]
r"""
## Parts, and parts put together
"""

# %% nbgrader={"grade": false, "grade_id": "as-index", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def as_index(key: Any) -> Any:
    """An index that NumPy takes: tensors become arrays, whole floats become integers.

    Raises IndexError where a float is not whole.

    >>> Tensor([10, 20, 30])[Tensor([2, 0])]
    Tensor([30., 10.])
    """
    ### BEGIN SOLUTION
    if isinstance(key, tuple):
        return tuple(as_index(part) for part in key)
    if isinstance(key, Tensor):
        key = key.data
    if isinstance(key, np.ndarray) and key.dtype.kind == "f":
        whole = key.astype(np.int64)
        if not np.array_equal(whole, key):
            raise IndexError(f"an index must be whole numbers, got {key!r:.60}")
        return whole
    return key
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "getitem", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@op
def getitem(a, key):
    """a[key]: slices, integers, arrays of integers or booleans, None and Ellipsis.

    >>> Tensor([[1, 2, 3], [4, 5, 6]])[:, 1]
    Tensor([2., 5.])
    """
    return a[key]


@op
def scatter_add(a, key, shape):
    """Zeros of `shape` to which `a` is added at `key`: the opposite of `getitem`.

    >>> scatter_add(Tensor([1, 2, 3]), key=np.array([0, 0, 1]), shape=(3,))
    Tensor([3., 3., 0.])
    """
    out = np.zeros(shape, a.dtype)
    parts = key if isinstance(key, tuple) else (key,)
    if any(isinstance(part, (np.ndarray, list)) for part in parts):
        np.add.at(out, key, a)  # an array may name a place twice: both must count
    else:
        out[key] = a
    return out


@op
def put(a, value, key):
    """A copy of `a` in which a[key] is `value`."""
    out = a.copy()
    out[key] = value
    return out


@op
def concatenate(*arrays, axis=0):
    """The arrays one after the other along an axis that is there."""
    return np.concatenate(arrays, axis)


@op
def einsum(subscripts, *arrays):
    """Products summed over the letters that don't come after the arrow (Einstein's convention).

    >>> einsum("ij,kj->ik", Tensor([[1, 2]]), Tensor([[3, 4], [5, 6]]))
    Tensor([[11., 17.]])
    """
    return np.einsum(subscripts, *arrays, optimize=len(arrays) > 2)


# %% nbgrader={"grade": false, "grade_id": "concat", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def concat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """The tensors one after the other along an axis that is there.

    >>> concat([Tensor([[1, 2]]), Tensor([[3, 4], [5, 6]])])
    Tensor([[1., 2.],
            [3., 4.],
            [5., 6.]])
    """
    ### BEGIN SOLUTION
    if not tensors:
        raise ValueError("concat: expected at least one tensor, got none")
    return concatenate(*tensors, axis=axis)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "stack", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new axis.

    >>> stack([Tensor([1, 2]), Tensor([3, 4])], axis=1)
    Tensor([[1., 3.],
            [2., 4.]])
    """
    ### BEGIN SOLUTION
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(f"stack: expected tensors of one shape, got {sorted(shapes)}")
    return concat([tensor.unsqueeze(axis) for tensor in tensors], axis)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "split", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def split(tensor: Tensor, size: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Pieces of `size` along an axis (the last may be shorter), or of the sizes in a list.

    >>> [piece.tolist() for piece in split(Tensor([1, 2, 3, 4, 5]), 2)]
    [[1.0, 2.0], [3.0, 4.0], [5.0]]
    """
    ### BEGIN SOLUTION
    axis = range(tensor.ndim)[axis]
    total = tensor.shape[axis]
    if isinstance(size, int):
        if size < 1:
            raise ValueError(f"split: size must be at least 1, got {size}")
        size = [min(size, total - start) for start in range(0, total, size)]
    if sum(size) != total:
        raise ValueError(f"split: sizes {list(size)} add up to {sum(size)}, axis {axis} has {total}")
    pieces, start = [], 0
    for length in size:
        pieces.append(tensor[(slice(None),) * axis + (slice(start, start + length),)])
        start += length
    return pieces
    ### END SOLUTION


# %% [markdown]
r"""
## Printing
"""

# %% nbgrader={"grade": false, "grade_id": "tensor-repr", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def tensor_repr(tensor: Tensor) -> str:
    """The text that stands for a tensor, with what is out of the ordinary about it.

    >>> Tensor([1, 2], requires_grad=True)
    Tensor([1., 2.], requires_grad=True)
    >>> Tensor([1, 2], dtype=np.int8)
    Tensor([1, 2], dtype=int8)
    """
    ### BEGIN SOLUTION
    text = np.array2string(tensor.data, separator=", ", precision=4, prefix="Tensor(")
    if tensor.dtype.name not in ("float32", "int64", "bool"):
        text += f", dtype={tensor.dtype}"
    if tensor.node is not None:
        text += f", grad_fn=<{tensor.node.op.__name__.strip('_')}>"
    elif tensor.requires_grad:
        text += ", requires_grad=True"
    return f"Tensor({text})"
    ### END SOLUTION


# %% [markdown]
r"""
## Making tensors
"""

# %% nbgrader={"grade": false, "grade_id": "constructors", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
generator = np.random.default_rng()  # every random number of the framework comes from here


def manual_seed(seed: int) -> None:
    """Start the random numbers anew: the same seed, the same numbers.

    >>> manual_seed(0)
    >>> first = randn(3)
    >>> manual_seed(0)
    >>> (randn(3) == first).all()
    Tensor(True)
    """
    generator.bit_generator.state = np.random.default_rng(seed).bit_generator.state


def from_array(array: np.ndarray, requires_grad: bool) -> Tensor:
    """A new array as a tensor, without another copy."""
    return set_requires_grad(Tensor._wrap(array), requires_grad)


def set_requires_grad(tensor: Tensor, flag: bool) -> Tensor:
    """Say whether gradients of this leaf are wanted; only floating-point tensors have any."""
    if flag and tensor.dtype.kind != "f":
        raise TypeError(f"requires_grad: only floating-point tensors, got {tensor.dtype}")
    if not tensor.is_leaf:
        raise RuntimeError("requires_grad: only a leaf can change it; use detach() first")
    tensor.requires_grad = flag
    return tensor


def zeros(*shape, dtype=np.float32, requires_grad=False) -> Tensor:
    """A tensor of zeros.

    >>> zeros(2, 3).shape, zeros((2, 3)).shape
    ((2, 3), (2, 3))
    """
    return from_array(np.zeros(one_tuple(shape), dtype), requires_grad)


def ones(*shape, dtype=np.float32, requires_grad=False) -> Tensor:
    """A tensor of ones."""
    return from_array(np.ones(one_tuple(shape), dtype), requires_grad)


def full(shape, value, dtype=np.float32, requires_grad=False) -> Tensor:
    """A tensor of `shape` in which every element is `value`."""
    return from_array(np.full(shape, value, dtype), requires_grad)


def arange(*start_stop_step, dtype=np.float32, requires_grad=False) -> Tensor:
    """Evenly spaced numbers, as Python's `range` counts.

    >>> arange(4)
    Tensor([0., 1., 2., 3.])
    """
    return from_array(np.arange(*start_stop_step).astype(dtype), requires_grad)


def eye(n, m=None, dtype=np.float32, requires_grad=False) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix of zeros."""
    return from_array(np.eye(n, m, dtype=dtype), requires_grad)


def randn(*shape, dtype=np.float32, requires_grad=False) -> Tensor:
    """Random numbers of the standard normal distribution."""
    return from_array(generator.standard_normal(one_tuple(shape), dtype), requires_grad)


def rand(*shape, dtype=np.float32, requires_grad=False) -> Tensor:
    """Random numbers, uniform in [0, 1)."""
    return from_array(generator.random(one_tuple(shape), dtype), requires_grad)


def zeros_like(tensor: Tensor) -> Tensor:
    """Zeros in the shape and dtype of another tensor."""
    return zeros(tensor.shape, dtype=tensor.dtype)


def ones_like(tensor: Tensor) -> Tensor:
    """Ones in the shape and dtype of another tensor."""
    return ones(tensor.shape, dtype=tensor.dtype)


def full_like(tensor: Tensor, value) -> Tensor:
    """One value in the shape and dtype of another tensor."""
    return full(tensor.shape, value, dtype=tensor.dtype)


def randn_like(tensor: Tensor) -> Tensor:
    """Normal random numbers in the shape and dtype of another tensor."""
    return randn(tensor.shape, dtype=tensor.dtype)


def rand_like(tensor: Tensor) -> Tensor:
    """Uniform random numbers in the shape and dtype of another tensor."""
    return rand(tensor.shape, dtype=tensor.dtype)


def restore(data: np.ndarray, requires_grad: bool, grad: Tensor | None) -> Tensor:
    """What `pickle` and `copy` call: the tensor without the graph that made it."""
    tensor = Tensor._wrap(data)
    tensor.requires_grad, tensor.grad = requires_grad, grad
    return tensor


# %% [markdown]
r"""
## Writing in place
"""

# %% nbgrader={"grade": false, "grade_id": "in-place", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class WriteLog:
    """When each array was last written in place, so that backward can refuse a stale graph.

    Views count as the array whose memory they show. Only writes cost anything: an array that was
    never written has no entry.

    >>> x = zeros(3)
    >>> before = writes.clock
    >>> x[1:] += 1
    >>> writes.since(x.data, before)
    True
    """

    def __init__(self):
        self.clock = 0
        self._last: dict[int, list] = {}  # id of the owner -> [weak reference to it, clock]

    @staticmethod
    def owner(array: np.ndarray) -> np.ndarray:
        while isinstance(array.base, np.ndarray):
            array = array.base
        return array

    def add(self, array: np.ndarray) -> None:
        """Note that the memory of `array` was written just now."""
        self.clock += 1
        owner = self.owner(array)
        key = id(owner)
        if key in self._last:
            self._last[key][1] = self.clock
        else:
            forget = weakref.ref(owner, lambda _: self._last.pop(key, None))
            self._last[key] = [forget, self.clock]

    def since(self, array: np.ndarray, moment: int) -> bool:
        """Was the memory of `array` written after the clock showed `moment`?"""
        return bool(self._last) and self._last.get(id(self.owner(array)), (None, 0))[1] > moment


writes = WriteLog()


def recording(*inputs) -> bool:
    """Would autograd (module 05) record an operation on these?"""
    wanted = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
    return wanted and active_watchers().get("autograd") is not None


def refuse_leaf(tensor: Tensor, what: str) -> None:
    if tensor.requires_grad and tensor.is_leaf:
        raise RuntimeError(f"{what} on a leaf that requires a gradient: write under no_grad()")


def in_place(operation: Callable, tensor: Tensor, other) -> Tensor:
    """`tensor += other` and its kin: a write where nothing is recorded, else a new tensor."""
    if recording(tensor, other):
        refuse_leaf(tensor, f"in-place {operation.__name__}")
        return operation(tensor, other)
    result = operation(tensor.detach(), other.detach() if isinstance(other, Tensor) else other)
    set_item(tensor, ..., result)
    return tensor


def set_item(tensor: Tensor, key, value) -> None:
    """tensor[key] = value: a write where nothing is recorded, else the tensor becomes a new one."""
    if recording(tensor, value):
        refuse_leaf(tensor, "tensor[key] = value")
        before = Tensor._wrap(tensor.data)
        before.requires_grad, before.node = tensor.requires_grad, tensor.node
        after = put(before, value, key=key)
        tensor.data, tensor.requires_grad, tensor.node = after.data, True, after.node
        writes.add(tensor.data)  # whoever used the tensor before must not go backward through it
        tensor.node.born = writes.clock
        return
    array = value.data if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind == "f" and tensor.dtype.kind != "f":
        raise TypeError(f"in-place write of {array.dtype} into a tensor of {tensor.dtype}")
    try:
        tensor.data[key] = array
    except (ValueError, IndexError) as error:
        raise type(error)(f"in-place write into {tensor.shape}: {error}") from None
    writes.add(tensor.data)

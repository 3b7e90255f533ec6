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

A neural network is arithmetic on big blocks of numbers. This first lesson builds the block: a class `Tensor` around NumPy's array, with arithmetic, shapes, indexing and
averages. NumPy does the computing; you decide what the numbers are, which shapes go together, and what happens when they don't. Everything that follows in the course stands on this file.

You need Python and a little NumPy. **Time: 4 hours.**
"""

# %%
import time
from pathlib import Path

import numpy as np

import tinytorch
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

try:
    import matplotlib.pyplot as plt
except ImportError:  # everything but the plots works without it
    plt = None

whose_tinytorch()

# %% [markdown]
r"""
## The problem

Python has lists, and lists hold numbers. Why not compute with them? The cell below takes the sum of a million products, once with a list and once with an array, and counts the bytes.

How many times faster will the array be: 2, 10, 50? **Write it down**, then run the cell.
"""

# %%
numbers = [i / 1e6 for i in range(1_000_000)]
array = np.array(numbers, dtype=np.float32)

start = time.perf_counter()
sum(x * x for x in numbers)
list_seconds = time.perf_counter() - start
start = time.perf_counter()
(array * array).sum()
array_seconds = time.perf_counter() - start

list_bytes = 8 + numbers[1].__sizeof__()  # a pointer, and the number that it points to
print(f"list:  {1000 * list_seconds:6.2f} ms, at least {list_bytes} bytes a number")
print(f"array: {1000 * array_seconds:6.2f} ms, {array.itemsize} bytes a number")
print(f"the array is {list_seconds / array_seconds:.0f} times faster")

# %% [markdown]
r"""
An array is one run of bytes and one loop in C. So arrays it is. But plain arrays have three habits that hurt here:
"""

# %%
print("1. decimals take 8 bytes each:", np.array([0.5]).dtype)
print("2. small integers wrap:       ", np.int8([100]) + np.int8([100]))
result = np.tanh(array * 2).sum()
print("3. a result has no history:   ", result, "... made from what?")

# %% [markdown]
r"""
The first is a waste where half the digits would do. The second is a trap that you want to enter only on purpose. The third matters most: when a result is wrong, you would like to ask
which operations made it, from what, in which order. An array can't tell. A class of our own can.

## The class

Here it is, and it is given. Don't read every line now: it is a **table of contents**. Almost every method is one line that calls a function, and the functions are what this lesson writes, one
after another. Python looks a name up when it is *called*, so the class may mention `matmul` long before there is one.

Three things to notice: a tensor holds its array in `data`; `_wrap` makes a tensor around an array without copying it; and `__radd__` exists beside `__add__`, because in `1 + x`
Python first asks the number, which has never heard of tensors, and then the tensor. `requires_grad`, `grad` and `node` wait, unused, for a later lesson.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import functools
import math
import operator
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import EllipsisType, MappingProxyType
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index


# %% nbgrader={"grade": false, "grade_id": "tensor-class", "locked": true, "solution": false}
#| export
class Tensor:
    """An n-dimensional array of numbers with the operations of a neural network.

    `data` is copied. Python numbers and lists become float32, lists of booleans bool; arrays keep
    their dtype, except that float64 becomes float32 unless `dtype` says otherwise. Raises TypeError
    for what is no number, ValueError for ragged lists, OverflowError for what `dtype` can't hold.

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
    grad: Any  # a Tensor of the same shape and dtype, or None
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
    def __len__(self) -> int: return _length(self)
    def __iter__(self) -> Iterator[Tensor]: return (self[i] for i in range(_length(self)))
    def __contains__(self, value) -> bool: return bool(any_(equal(self, value)))
    def __bool__(self) -> bool: return bool(_one_number(self, "bool"))
    def __int__(self) -> int: return int(self.item())
    def __float__(self) -> float: return float(self.item())
    def __index__(self) -> int: return operator.index(self.item())
    def __format__(self, spec: str) -> str: return format(self.data.item() if self.ndim == 0 else repr(self), spec)
    def __array__(self, dtype=None, copy=None): return np.array(self.data, dtype=dtype, copy=copy)
    def __reduce__(self): return restore, (self.data, self.requires_grad, self.grad)

    def item(self) -> Any: return _one_number(self, "item")
    def tolist(self) -> Any: return self.data.tolist()
    def numpy(self) -> np.ndarray: return self.data
    def detach(self) -> Tensor: return Tensor._wrap(self.data)
    def clone(self) -> Tensor: return copy(self)
    def astype(self, dtype) -> Tensor: return astype(self, dtype=_number_type(dtype))
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
    def split(self, size, axis=None, dim=None) -> list[Tensor]: return split(self, size, axis=axis, dim=dim)
    # fmt: on


# %% [markdown]
r"""
## 1. Numbers in

What does a computer keep of a number? That depends on its **dtype**, the type that all elements of an array share:

```
int8     [s bbbbbbb]                              1 byte    -128 ... 127
float16  [s eeeee ffffffffff]                     2 bytes   about 3 digits
float32  [s eeeeeeee fffffff ffffffff ffffffff]   4 bytes   about 7 digits
float64  [s eeeeeeeeeee ffff ffffffff ...     ]   8 bytes   about 16 digits
          s: sign   b: number   e: exponent (how big)   f: fraction (which digits)
```

Before you run the next cell: 16,777,216 is $2^{24}$, and the fraction of a float32 has 23 bits and a hidden one in front. What is $2^{24} + 1$ in float32? **Write it down.**
"""

# %%
print("2**24 + 1 in float32:", int(np.float32(2**24) + np.float32(1)))
print("0.1 in float32:      ", f"{np.float32(0.1):.12f}")
for dtype in (np.int8, np.float16, np.float32, np.float64):
    print(f"a million of {np.dtype(dtype).name:8}", np.zeros(1_000_000, dtype).nbytes, "bytes")

# %% [markdown]
r"""
Seven digits in four bytes is the bargain that deep learning has struck: float32 is the default here. The whole rule:

| what comes in | what the tensor holds |
|---|---|
| a Python or NumPy number, a list of them (whole numbers too), a list of tensors | float32 |
| a boolean, a list of booleans | bool |
| an array or a tensor of float64 | float32 |
| any other array or tensor (int8, int64, float16, bool, ...) | its own dtype |
| anything, with `dtype=` | that dtype |

Two helpers are given. `_number_type` refuses dtypes that aren't numbers, and `_convert` refuses to squeeze 300 into an int8, where NumPy would quietly make 44 of it.
"""


# %% nbgrader={"grade": false, "grade_id": "convert", "locked": true, "solution": false}
#| exporti
def _number_type(dtype: Any) -> np.dtype:
    """`dtype` as NumPy's object; TypeError unless it is floats, integers or booleans."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "fiub":
        raise TypeError(f"dtype: expected floats, integers or booleans, got {dtype}")
    return dtype


def _convert(array: np.ndarray, dtype: np.dtype, what: str) -> np.ndarray:
    """`array` in `dtype`; OverflowError where an integer dtype can't hold a value."""
    if dtype.kind in "iu" and array.dtype != dtype and array.size:
        low, high, limits = array.min(), array.max(), np.iinfo(dtype)
        if not (limits.min <= low and high <= limits.max):
            raise OverflowError(
                f"{what}: values from {low} to {high} don't fit into {dtype}, "
                f"which holds {limits.min} to {limits.max}"
            )
    return array.astype(dtype, copy=False)


def _one_number(tensor: Tensor, what: str) -> Any:
    """The only element, as a Python number."""
    if tensor.size != 1:
        raise ValueError(
            f"{what}: a tensor of shape {tensor.shape} holds {tensor.size} values, not one: "
            "index it or reduce it first (.any(), .sum(), ...)"
        )
    return tensor.data.item()


def _length(tensor: Tensor) -> int:
    """The size of the first axis."""
    if tensor.ndim == 0:
        raise TypeError("len: a tensor without axes is one number, it has no length")
    return tensor.shape[0]


# %% [markdown]
r"""
### Exercise: `as_array`

Write the table. `Tensor(data, dtype=dtype)` calls `as_array(data, dtype)` and keeps what you return.

1. Of a `Tensor`, take the array in its `.data`.
2. `np.array(data)` makes a **new** array: a tensor never shares memory with what it was built from. On rows of unequal length NumPy raises a `ValueError` that few understand; raise your own,
   which says `rows of a nested list differ in length`.
3. An array whose `dtype.kind` is none of `f` (float), `i` and `u` (integers), `b` (boolean) isn't numbers: raise a `TypeError` with `expected numbers or booleans` and what came.
4. Where `dtype` is None, choose it by the table. Return `_convert(array, _number_type(dtype), "Tensor")`.

Worked: `as_array([1, 2])` is `array([1., 2.], dtype=float32)`, and `as_array(np.arange(2))` is `array([0, 1])`, int64.

<details><summary>Hint</summary>Only two kinds keep their dtype: booleans, and elements that came in an `np.ndarray` (look at `data`, not at `array`: that always is one) and aren't float64.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "as-array", "solution": true}
#| exporti
def as_array(data: Any, dtype: Any = None) -> np.ndarray:
    """A new array of `data` by the rules of `Tensor`: float32 unless something says otherwise.

    Raises TypeError for what is no number, ValueError for rows of unequal length, OverflowError
    for values that an integer `dtype` can't hold.

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
        raise TypeError(f"Tensor: expected numbers or booleans, got {data!r:.60}")
    if dtype is None:
        keeps_its_own = isinstance(data, np.ndarray) and array.dtype != np.float64
        dtype = array.dtype if keeps_its_own or array.dtype == np.bool_ else np.float32
    return _convert(array, _number_type(dtype), "Tensor")
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-as-array", "points": 9, "solution": false}
def test_as_array():
    check(as_array([[1, 2], [3, 4]]), np.array([[1.0, 2.0], [3.0, 4.0]]), "lists become floats")
    check(as_array([1, 2]).dtype, np.float32, "numbers from Python become float32")
    check(as_array(np.array([0.5])).dtype, np.float32, "float64 becomes float32 unless dtype=")
    check(as_array([True, False]).dtype, np.bool_, "booleans stay booleans")
    check(as_array(np.array([1, 2])).dtype, np.int64, "integer arrays keep their dtype")
    with check_raises(ValueError, "differ in length", "say what is wrong with ragged rows"):
        as_array([[1, 2], [3]])
    ### BEGIN HIDDEN TESTS
    check(as_array(np.float64(0.5)).dtype, np.float32, "a NumPy scalar counts as Python's")
    check(as_array(np.int64(3)).dtype, np.float32, "a NumPy scalar counts as Python's")
    check(as_array(np.array([1], np.int8)).dtype, np.int8, "int8 arrays stay int8")
    check(as_array(np.array([1], np.float16)).dtype, np.float16, "float16 arrays stay float16")
    check(as_array([0.5], np.float64).dtype, np.float64, "dtype= decides")
    check(as_array(0.1, np.float64), 0.1, "go to float64 at once, not by way of float32", 1e-15)
    check(as_array([1.0, 2.0], int).dtype, np.int64, "dtype= decides")
    check(as_array(Tensor(np.array([7, 8]))), np.array([7, 8]), "a tensor's array keeps its dtype")
    mine = np.zeros(2, np.float32)
    as_array(mine)[0] = 5
    check(mine, np.array([0.0, 0.0]), "a tensor is a copy, it shares no memory with its source")
    with check_raises(TypeError, "expected numbers", "strings are no numbers"):
        as_array(["a", "b"])
    with check_raises(OverflowError, "don't fit", "use _convert: 300 is no int8"):
        as_array([300], np.int8)
    ### END HIDDEN TESTS


test_as_array()

# %% [markdown]
r"""
## 2. Seeing it

Try to look at a tensor now, and Python will complain: `__repr__` calls a `tensor_repr` that isn't there yet. A good repr shows the numbers, and names only what is out of the ordinary.
One helper is given; it will have something to say in a later lesson.
"""


# %% nbgrader={"grade": false, "grade_id": "gradient-note", "locked": true, "solution": false}
#| exporti
def _gradient_note(tensor: Tensor) -> str:
    """What a repr says about gradients: nothing where none is wanted."""
    if tensor.node is not None:
        return f", grad_fn=<{tensor.node.op.__name__.strip('_')}>"
    return ", requires_grad=True" if tensor.requires_grad else ""


# %% [markdown]
r"""
### Exercise: `tensor_repr`

Return the text `Tensor(` numbers, then what is out of the ordinary, then `)`:

- the numbers by `np.array2string(array, separator=", ", precision=4, prefix="Tensor(")`: the prefix is what later lines are indented by;
- `, shape=(0, 3)` if the tensor is empty and has more than one axis: the numbers, `[]`, don't tell;
- `, dtype=int8` unless `dtype.name` is one of the everyday three: `float32`, `int64`, `bool`;
- `_gradient_note(tensor)`.

Worked: `Tensor([1, 2], dtype=np.int8)` is shown as `Tensor([1, 2], dtype=int8)`, and `Tensor([1, 2])` as `Tensor([1., 2.])`.
"""


# %% nbgrader={"grade": false, "grade_id": "tensor-repr", "solution": true}
#| exporti
def tensor_repr(tensor: Tensor) -> str:
    """The text that stands for a tensor, with what is out of the ordinary about it.

    >>> Tensor([1, 2], requires_grad=True)
    Tensor([1., 2.], requires_grad=True)
    >>> Tensor([1, 2], dtype=np.int8)
    Tensor([1, 2], dtype=int8)
    """
    ### BEGIN SOLUTION
    text = np.array2string(tensor.data, separator=", ", precision=4, prefix="Tensor(")
    if tensor.size == 0 and tensor.ndim > 1:
        text += f", shape={tensor.shape}"
    if tensor.dtype.name not in ("float32", "int64", "bool"):
        text += f", dtype={tensor.dtype}"
    return f"Tensor({text}{_gradient_note(tensor)})"
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-tensor-repr", "points": 4, "solution": false}
def test_tensor_repr():
    check(repr(Tensor([1, 2.5])), "Tensor([1. , 2.5])", "float32 is everyday: don't name it")
    check(repr(Tensor([1], dtype=np.int8)), "Tensor([1], dtype=int8)", "name a rare dtype")
    matrix = "Tensor([[1., 2.],\n        [3., 4.]])"
    check(repr(Tensor([[1, 2], [3, 4]])), matrix, "did you give array2string the prefix?")
    check(repr(Tensor(np.zeros((0, 3)))), "Tensor([], shape=(0, 3))", "an empty tensor has a shape")
    ### BEGIN HIDDEN TESTS
    check(repr(Tensor(3)), "Tensor(3.)", "a number has no brackets")
    check(repr(Tensor([])), "Tensor([])", "with one axis, [] says it all")
    check(repr(Tensor(np.array([1, 2]))), "Tensor([1, 2])", "int64 is everyday: don't name it")
    check(repr(Tensor([True])), "Tensor([ True])", "bool is everyday: don't name it")
    check(repr(Tensor(1, dtype=float)), "Tensor(1., dtype=float64)", "float64 is rare: name it")
    check(repr(Tensor([0.123456])), "Tensor([0.1235])", "four digits after the point")
    check(repr(Tensor([1], True)), "Tensor([1.], requires_grad=True)", "add _gradient_note")
    ### END HIDDEN TESTS


test_tensor_repr()

# %% [markdown]
r"""
Your first tensors. Guess what each line prints before you run it.
"""

# %%
print(Tensor([[1, 2, 3], [4, 5, 6]]))
print(Tensor([1, 2, 3]).dtype, Tensor([1, 2, 3], dtype=int).dtype, Tensor(np.uint8([1])).dtype)
print(Tensor(7), "has shape", Tensor(7).shape, "and", Tensor(7).size, "element")

# %% [markdown]
r"""
## 3. Operations that can be watched

Now the third habit of arrays, the missing history. Suppose *every* operation went through one gate. At that gate someone could stand and take notes.

```
  Tensor, Tensor                                     Tensor
        |                                               ^
        v                                               |
   [ unwrap ] --> arrays --> np.add(a, b) --> array --> [ wrap ] --> show to the watchers
                             the operation                           (op, inputs, params, out)
```

The gate is the decorator `op`. It turns a function on arrays into a function on tensors, so each operation below is as short as NumPy makes it. Positional arguments are *inputs* (tensors or
numbers), keyword arguments are *parameters* such as an axis. Three finer points:

- A result is float64 only if one of the tensors was. NumPy's own habit of making float64 of `int64 * 0.5` ends here.
- A NumPy scalar such as `np.float64(2)` counts as the Python number 2.0, which bends to the dtype of the tensor.
- When NumPy refuses, the error says which operation it was, in one line.

A watcher is any function. `install_watcher` adds one for the whole process, under a name; `watching` adds one for the length of a `with`. Both cells are given: read them once, slowly.
"""

# %% nbgrader={"grade": false, "grade_id": "watchers", "locked": true, "solution": false}
#| export
Watcher = Callable[..., None]  # watcher(op, inputs, params, out), called after every operation

watchers: dict[str, Watcher] = {}  # the whole process's, by name: installing again replaces
_changes: ContextVar[Mapping[str, Watcher | None]] = ContextVar(
    "watchers", default=MappingProxyType({})
)


def install_watcher(name: str, watcher: Watcher) -> None:
    """Show every operation of the process to `watcher`, in place of an earlier one of that name."""
    watchers[name] = watcher


def active_watchers() -> Mapping[str, Watcher | None]:
    """The watchers that see an operation here and now, by name; None for a paused one."""
    changes = _changes.get()
    return {**watchers, **changes} if changes else watchers


@contextmanager
def watching(name: str, watcher: Watcher | None) -> Iterator[None]:
    """Add a watcher for the length of a `with`, in this thread; None pauses the one of that name.

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


# %% nbgrader={"grade": false, "grade_id": "op", "locked": true, "solution": false}
#| export
_FLOAT64 = np.dtype(np.float64)
_FLOAT16 = np.dtype(np.float16)


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
            return operation.forward(*inputs, **params)
        changes = _changes.get()
        if changes:
            for watcher in changes.values():
                before = getattr(watcher, "before", None)
                if before:
                    before(operation, inputs, params)
        try:
            array = operation.forward(*arrays, **params)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise explain(operation, arrays, error) from None
        if type(array) is not np.ndarray:
            array = np.asarray(array)
        dtype = array.dtype
        if (dtype is _FLOAT64 or dtype is _FLOAT16) and "dtype" not in params:
            array = _settled(array, operation, inputs, arrays, params)
        out = Tensor._wrap(array)
        for watcher in ({**watchers, **changes} if changes else watchers).values():
            if watcher is not None:
                watcher(operation, inputs, params, out)
        return out

    operation: Any = call
    operation.forward = function
    return operation


# %% nbgrader={"grade": false, "grade_id": "op-helpers", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
def _settled(array: np.ndarray, operation: Any, inputs, arrays, params) -> np.ndarray:
    """The result in float32, where no tensor has the float64 or float16 that NumPy made of it.

    Functions such as exp of int8 numbers are float16 in NumPy: too coarse, they are done again.
    """
    if any(isinstance(x, Tensor) and x.data.dtype == array.dtype for x in inputs):
        return array
    if array.dtype == _FLOAT64:
        return array.astype(np.float32)
    wider = [x.astype(np.float32) if isinstance(x, np.ndarray) else x for x in arrays]
    return np.asarray(operation.forward(*wider, **params))


def explain(operation: Callable, arrays: Sequence[Any], error: Exception) -> Exception:
    """The error in one line: which operation NumPy refused, on what, and why."""
    name, text = operation.__name__.strip("_"), str(error)
    strangers = [x for x in arrays if isinstance(x, (str, bytes, type(None)))]
    if isinstance(error, TypeError) and strangers:
        text = f"expected tensors, arrays or numbers, got {strangers[0]!r:.60}"
    if "broadcast" in text:
        shapes = [x.shape for x in arrays if isinstance(x, np.ndarray)]
        try:
            broadcast_shape(*shapes)
        except ValueError as better:
            text = str(better)
    kind = TypeError if isinstance(error, TypeError) else type(error)
    told = kind(text if text.startswith(f"{name}: ") else f"{name}: {text}")
    return told.with_traceback(error.__traceback__)  # it still shows the line that failed


def pick(axis: Any, dim: Any, default: Any = None) -> Any:
    """The axis that was asked for, by NumPy's word or by PyTorch's."""
    if axis is not None and dim is not None:
        raise TypeError(f"axis={axis} and dim={dim} are two words for the same thing: give one")
    return next((word for word in (axis, dim) if word is not None), default)


def one_tuple(numbers: tuple) -> tuple:
    """`f(2, 3)` and `f((2, 3))` mean the same: the numbers, as one tuple."""
    return tuple(numbers[0]) if numbers and isinstance(numbers[0], (tuple, list)) else numbers


# %% nbgrader={"grade": false, "grade_id": "add", "locked": true, "solution": false}
#| export
@op
def add(a, b):
    """a + b, element by element.

    >>> Tensor([1, 2]) + 10
    Tensor([11., 12.])
    """
    return np.add(a, b)


# %% [markdown]
r"""
### Exercise: the rest of arithmetic

`add` above is the pattern: given arrays or numbers `a` and `b`, return what NumPy makes of them. Write `sub`, `mul`, `div`, `neg` and `pow_` (the underscore keeps Python's own `pow` usable).

Worked: `10 - Tensor([1, 2])` calls `sub(10, tensor)`, in this order, and is `[9, 8]`. Dividing the whole numbers `[1, 2]` by 2 gives `[0.5, 1.0]`: `div` never drops the remainder.
"""


# %% nbgrader={"grade": false, "grade_id": "arithmetic", "solution": true}
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


@op
def mul(a, b):
    """a * b, element by element.

    >>> Tensor([[1, 2], [3, 4]]) * Tensor([10, 100])
    Tensor([[ 10., 200.],
            [ 30., 400.]])
    """
    ### BEGIN SOLUTION
    return np.multiply(a, b)
    ### END SOLUTION


@op
def div(a, b):
    """a / b, element by element; never an integer division.

    >>> 1 / Tensor([2, 4])
    Tensor([0.5 , 0.25])
    """
    ### BEGIN SOLUTION
    return np.true_divide(a, b)
    ### END SOLUTION


@op
def neg(a):
    """-a.

    >>> -Tensor([1, -2])
    Tensor([-1.,  2.])
    """
    ### BEGIN SOLUTION
    return np.negative(a)
    ### END SOLUTION


@op
def pow_(a, b):
    """a to the power b, element by element.

    >>> Tensor([1, 2, 3]) ** 2
    Tensor([1., 4., 9.])
    """
    ### BEGIN SOLUTION
    return a**b
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-arithmetic", "points": 5, "solution": false}
def test_arithmetic():
    x = Tensor([1, 2, 4])
    check(x - 1, [0.0, 1.0, 3.0], "a minus b")
    check(10 - x, [9.0, 8.0, 6.0], "10 - x is sub(10, x): keep the order of a and b")
    check(3 * x, [3.0, 6.0, 12.0], "a times b")
    check(x / 4, [0.25, 0.5, 1.0], "a over b, with the decimals")
    check(-x, [-1.0, -2.0, -4.0], "the opposite sign")
    check(x**2, [1.0, 4.0, 16.0], "x times itself, not x times 2")
    ### BEGIN HIDDEN TESTS
    check(2 / x, [2.0, 1.0, 0.5], "a over b, in this order")
    check(2**x, [2.0, 4.0, 16.0], "a to the power b, in this order")
    whole = Tensor(np.array([1, 2]))
    check(whole / 2, np.array([0.5, 1.0]), "1 / 2 is a half, also for whole numbers")
    check((whole * 3).dtype, np.int64, "whole numbers stay whole")
    check((x * np.float64(0.1)).dtype, np.float32, "let the op decorator do the wrapping")
    check(np.array([1.0, 1, 1]) - x, [0.0, -1.0, -3.0], "an array on the left works too")
    ### END HIDDEN TESTS


test_arithmetic()

# %% [markdown]
r"""
Now stand at the gate. How many operations is the formula below, and in which order do they run? **Write the list down**, then compare.
"""


# %%
def print_operation(op, inputs, params, out):
    given = ", ".join(str(x.shape) if isinstance(x, Tensor) else str(x) for x in inputs)
    print(f"{op.__name__}({given}) -> {out.shape}")


x = Tensor([1, 2, 3])
with watching("printer", print_operation):
    y = (2 * x - 1) ** 2 / 3 + x

# %% [markdown]
r"""
Nothing in the formula knows that it was watched, and outside the `with` nobody watches. Later someone may want to.

And the dtypes? Predict each line. One will be an error: which?
"""

# %%
small = Tensor([100, 50], dtype=np.int8)
print("int8 + int8:   ", (small + small).numpy(), "wrapped, as asked for")
print("int8 + 1.5:    ", (small + 1.5).dtype)
print("float32 * 2.5: ", (x * np.float64(2.5)).dtype)
print("float64 + f32: ", (Tensor([1.0], dtype=np.float64) + x).dtype)
print("array * tensor:", type(np.ones(3) * x).__name__)
try:
    np.exp(x)
except TypeError as error:
    print("np.exp(tensor):", error)

# %% [markdown]
r"""
NumPy's own functions refuse a tensor on purpose. They would slip past the gate, and a result nobody saw is worth less than an error. `x.exp()` is the way in.
"""

# %% [markdown]
r"""
## 4. Shapes that meet

`Tensor([1, 2, 3]) + 10` worked: the 10 met three elements and was used three times. How far does this go? Line the shapes up **from the right** and look at one axis at a time:

```
  a      (8, 1, 5)        1  a stretched axis: one row, used again and again
  b         (4, 1)
         ---------                    [10]     [1 2 3]     [10+1 10+2 10+3]
  result (8, 4, 5)                    [20]  +           =  [20+1 20+2 20+3]
                                      (2,1)     (3,)            (2, 3)
```

- equal sizes: they stay;
- one of them is 1, or missing: it is stretched to the other;
- anything else: an error.

This is *broadcasting*, and nothing is copied for it: the loop in C just doesn't step along the stretched axis. What are the three results? **Write them down**; one is an error.

- `(5, 3) + (3,)`
- `(5, 3) + (5,)`
- `(5, 1) + (1, 3)`
"""

# %%
for left, right in [((5, 3), (3,)), ((5, 3), (5,)), ((5, 1), (1, 3))]:
    try:
        print(left, "+", right, "->", (np.zeros(left) + np.zeros(right)).shape)
    except ValueError as error:
        print(left, "+", right, "->", error)

# %% [markdown]
r"""
### Exercise: `broadcast_shape`

Write the rule for any number of shapes: return the tuple, or raise a `ValueError` that names the shapes, the axis (counted from the right: -1 is the last) and the sizes that clash, as in

`shapes (5, 3) and (5,) don't broadcast: axis -1 has [3, 5]`

Worked: `broadcast_shape((8, 1, 5), (4, 1))` is `(8, 4, 5)`. Of no shapes at all the result is `()`. What do 0 and 1 make? The rule says it: the 1 is stretched to 0.

<details><summary>Hint</summary>For each axis from `-ndim` to `-1`, collect the sizes of the shapes that have that axis (`len(shape) >= -axis`) in a set, and take 1 out of it. How many may be left?</details>
"""


# %% nbgrader={"grade": false, "grade_id": "broadcast-shape", "solution": true}
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


# %% nbgrader={"grade": true, "grade_id": "test-broadcast-shape", "points": 8, "solution": false}
def test_broadcast_shape():
    check(broadcast_shape((2, 3), (3,)), (2, 3), "line the shapes up from the right")
    check(broadcast_shape((4, 1), (1, 5)), (4, 5), "an axis of 1 is stretched, on either side")
    check(broadcast_shape((8, 1, 5), (4, 1)), (8, 4, 5), "a missing axis counts as 1")
    with check_raises(ValueError, "axis -1 has [3, 5]", "3 and 5 can't be one axis"):
        broadcast_shape((5, 3), (5,))
    ### BEGIN HIDDEN TESTS
    check(broadcast_shape(), (), "no shapes make no axes")
    check(broadcast_shape((), (2,)), (2,), "a number has the shape ()")
    check(broadcast_shape((1,), (1,)), (1,), "1 and 1 stay 1")
    check(broadcast_shape((0, 3), (1, 3)), (0, 3), "a 1 is stretched to 0: don't take the maximum")
    check(broadcast_shape((1, 3), (2, 1), (4, 1, 1)), (4, 2, 3), "three shapes at once")
    with check_raises(ValueError, "(2, 3) and (4, 3)", "name the shapes: axis -2 has 2 and 4"):
        broadcast_shape((2, 3), (4, 3))
    with check_raises(ValueError, "[0, 3]", "only a 1 is stretched: 0 and 3 differ"):
        broadcast_shape((0,), (3,))
    ### END HIDDEN TESTS


test_broadcast_shape()

# %% [markdown]
r"""
Your function now also words the errors of every operation. Comparisons broadcast like arithmetic and give tensors of booleans; they are given, one line each.
"""

# %%
try:
    Tensor([[1, 2, 3], [4, 5, 6]]) + Tensor([1, 2])
except ValueError as error:
    print(error)


# %% nbgrader={"grade": false, "grade_id": "comparisons", "locked": true, "solution": false}
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


# %% [markdown]
r"""
A trap comes with `==`. It compares element by element, so `if a == b` asks whether *several* answers are true, and `a in [b, c]`, which calls `==` behind your back, asks the same. What can
Python do but refuse? Say what you mean: `(a == b).all()`.
"""

# %%
a, b = Tensor([1, 2]), Tensor([1, 3])
print("a == b:         ", a == b)
print("(a == b).all(): ", bool((a == b).all()))
print("3 in b:         ", 3 in b, "(a tensor looks at its elements)")
try:
    print(a in [b])
except ValueError as error:
    print("a in [b]:       ", error)
print("by identity:    ", any(a is item for item in [b, a]))

# %% [markdown]
r"""
## 5. The matrix product

One operation takes most of the time in every network of this course:

$$C_{ij} = \sum_{k} A_{ik} B_{kj}$$

Row $i$ of $A$ meets column $j$ of $B$. Both must have the same number $K$ of elements; that axis is summed away.

```
               B   k| 5 6 |
                    | 7 8 |                  (N, K) @ (K, M) -> (N, M)
                      | |                        \_____/
   A  i| 1 2 |  -->  19 22                     inner sizes: equal
       | 3 4 |       43 50      19 = 1*5 + 2*7
```

By hand first: what is `[[1, 2], [3, 4]] @ [10, 1]`? **Write it down.**
"""

# %%
print(np.array([[1, 2], [3, 4]]) @ np.array([10, 1]))

# %% [markdown]
r"""
### Exercise: `matmul`

NumPy multiplies; you keep out what can't be multiplied, with an error that says why:

- `matmul: (2, 3) @ (4, 5): inner sizes 3 and 4 differ`
- `matmul: () @ (3,): a scalar is no matrix; use * instead`

The inner sizes are the **last** axis of `a` and the **last but one** of `b`, or its only one. Axes before the last two are stacks of matrices: NumPy does them one by one.

Worked: shapes `(8, 2, 3) @ (3, 5)` give `(8, 2, 5)`. Operands may also be lists: begin with `np.asarray` of both.
"""


# %% nbgrader={"grade": false, "grade_id": "matmul", "solution": true}
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
    rows, columns = a.shape[-1], b.shape[-2 if b.ndim > 1 else 0]
    if rows != columns:
        raise ValueError(f"matmul: {a.shape} @ {b.shape}: inner sizes {rows} and {columns} differ")
    return np.matmul(a, b)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-matmul", "points": 7, "solution": false}
def test_matmul():
    a = Tensor([[1, 2], [3, 4]])
    check(a @ Tensor([[5, 6], [7, 8]]), [[19.0, 22.0], [43.0, 50.0]], "rows meet columns")
    check(a @ Tensor([10, 1]), [12.0, 34.0], "a vector on the right is a column")
    with check_raises(ValueError, "inner sizes 3 and 4 differ", "compare a's last with b's -2"):
        Tensor(np.zeros((2, 3))) @ Tensor(np.zeros((4, 5)))
    with check_raises(ValueError, "use * instead", "a scalar is no matrix"):
        Tensor(2) @ a
    ### BEGIN HIDDEN TESTS
    check(Tensor([10, 1]) @ a, [13.0, 24.0], "a vector on the left is a row")
    check(Tensor([1, 2]) @ Tensor([3, 4]), 11.0, "two vectors make one number")
    check([[1, 0]] @ a, [[1.0, 2.0]], "a list on the left: begin with np.asarray")
    stack = Tensor(np.arange(12.0).reshape(2, 2, 3))
    check((stack @ Tensor(np.ones((3, 5)))).shape, (2, 2, 5), "axes before the last two are stacks")
    check((stack @ Tensor(np.ones(3))), [[3.0, 12.0], [21.0, 30.0]], "a 1-D b has one axis: 0")
    check((stack @ Tensor(np.ones((2, 3, 4)))).shape, (2, 2, 4), "b's last but one axis counts")
    with check_raises(ValueError, "inner sizes 3 and 2 differ", "b's last but one axis counts"):
        stack @ Tensor(np.zeros((3, 2, 3)))
    ### END HIDDEN TESTS


test_matmul()

# %% [markdown]
r"""
## 6. One element at a time

Functions of one element repeat one pattern, so they are given.
"""


# %% nbgrader={"grade": false, "grade_id": "elementwise", "locked": true, "solution": false}
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


@op
def where(condition, a, b):
    """a where the condition holds, b elsewhere.

    >>> x = Tensor([-1, 2])
    >>> where(x > 0, x, 0)
    Tensor([0., 2.])
    """
    return np.where(condition, a, b)


# %% [markdown]
r"""
### Exercise: `clip`

Pull every element into the range `[low, high]`; `None` leaves that side open.

Worked: `Tensor([-5, 0.5, 5]).clip(-1, 1)` is `[-1, 0.5, 1]`, and `.clip(0)` leaves 5 alone. `np.maximum` and `np.minimum` compare two operands element by element. Which of them do you
need for the *low* end? Think of -5 and -1 before you type.
"""


# %% nbgrader={"grade": false, "grade_id": "clip", "solution": true}
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


# %% nbgrader={"grade": true, "grade_id": "test-clip", "points": 4, "solution": false}
def test_clip():
    x = Tensor([-5, 0.5, 5])
    check(x.clip(-1, 1), [-1.0, 0.5, 1.0], "-5 becomes -1, 5 becomes 1, what is between stays")
    check(x.clip(low=1), [1.0, 1.0, 5.0], "without high, nothing is too large")
    ### BEGIN HIDDEN TESTS
    check(x.clip(high=0), [-5.0, 0.0, 0.0], "0 is a limit too: compare with None, not by truth")
    check(x.clip(0), [0.0, 0.5, 5.0], "0 is a limit too: compare with None, not by truth")
    check(x.clip(Tensor([0, 1, 2]), 3), [0.0, 1.0, 3.0], "a limit may be a tensor")
    check(x, [-5.0, 0.5, 5.0], "x itself must stay what it was")
    ### END HIDDEN TESTS


test_clip()

# %% [markdown]
r"""
## 7. Many elements into one

A *reduction* walks along an axis and leaves one number where there were many. **The axis you name is the axis that disappears.**

```
             axis 1 -->
  axis 0   [ 1  2  3 ]   sum(axis=1) -> [ 6 ]      sum(axis=0) -> [ 5  7  9 ]
     |     [ 4  5  6 ]                  [ 15]
     v        (2, 3)                     (2,)                        (3,)
```

With `keepdims=True` it stays, with size 1, so that the result still broadcasts against the original. What are the shapes of `x.sum(axis=0)`, `x.sum(axis=0, keepdims=True)` and
`x.sum(axis=(0, 2))`, where `x` has shape `(4, 3, 2)`? **Write them down.**
"""

# %%
x = np.ones((4, 3, 2))
print(x.sum(axis=0).shape, x.sum(axis=0, keepdims=True).shape, x.sum(axis=(0, 2)).shape)


# %% nbgrader={"grade": false, "grade_id": "reductions", "locked": true, "solution": false}
#| export
@op
def sum_(a, axis=None, keepdims=False):
    """The sum of all elements, or along `axis` (an int or a tuple of ints).

    >>> Tensor([[1, 2], [3, 4]]).sum(axis=0)
    Tensor([4., 6.])
    """
    return np.sum(a, axis=axis, keepdims=keepdims)


@op
def mean(a, axis=None, keepdims=False):
    """The average of all elements, or along `axis`; nan where there are none.

    >>> Tensor([[1, 2], [3, 4]]).mean(axis=1)
    Tensor([1.5, 3.5])
    """
    return np.mean(a, axis=axis, keepdims=keepdims)


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


# %% [markdown]
r"""
### Exercise: `var`

How far do numbers lie from their mean? The variance is the mean squared distance:

$$\operatorname{var}(a) = \frac{1}{n - c} \sum_{i=1}^{n} (a_i - \bar a)^2$$

$\bar a$ is the mean **along the same axis**, $n$ the number of elements that go into one result, and $c$ the `correction`: 0 for the variance of these very numbers, 1 for an honest guess about
the population that they were drawn from.

Worked: `[1, 2, 3, 4]` has the mean 2.5, squared distances 2.25, 0.25, 0.25, 2.25, sum 5: variance 1.25, and with `correction=1` it is 5/3.

Where $c \ge n$ there is nothing left to divide by: divide by 0 and let NumPy say nan, never by a negative number.

<details><summary>Hint</summary>The mean must broadcast against a: keepdims=True. n is the size of a divided by the size of the result, whatever the axis is (the result may be empty: guard
against a division by 0).</details>
"""


# %% nbgrader={"grade": false, "grade_id": "var", "solution": true}
#| export
@op
def var(a, axis=None, keepdims=False, correction=0):
    """The mean squared distance from the mean, over n - correction elements.

    >>> Tensor([1, 2, 3, 4]).var()
    Tensor(1.25)
    """
    ### BEGIN SOLUTION
    distance = a - np.mean(a, axis=axis, keepdims=True)
    total = np.sum(distance * distance, axis=axis, keepdims=keepdims)
    count = np.size(a) / max(np.size(total), 1)
    return total / max(count - correction, 0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-var", "points": 6, "solution": false}
def test_var():
    x = Tensor([[1, 2, 3, 4], [0, 0, 10, 10]])
    check(Tensor([1, 2, 3, 4]).var(), 1.25, "the mean of 2.25, 0.25, 0.25, 2.25")
    check(Tensor([1, 2, 3, 4]).var(correction=1), 5 / 3, "divide by n - 1")
    check(x.var(axis=1), [1.25, 25.0], "each row has a mean of its own")
    ### BEGIN HIDDEN TESTS
    check(x.var(axis=0), [0.25, 1.0, 12.25, 9.0], "each column has a mean of its own")
    check(x.var(), 14.6875, "one mean for all")
    check(x.var(axis=1, keepdims=True), [[1.25], [25.0]], "hand keepdims on to the last sum")
    check(x.var(axis=(0, 1), correction=1), 117.5 / 7, "n counts the elements of all named axes")
    check(x.std(axis=1), [1.25**0.5, 5.0], "std is the square root of var")
    check((x + 1e4).var(axis=1), [1.25, 25.0], "mean(a * a) - mean(a) ** 2 loses its digits here")
    with np.errstate(all="ignore"):
        check(Tensor([3]).var(correction=2), float("nan"), "one element, correction 2: no answer")
    ### END HIDDEN TESTS


test_var()

# %% [markdown]
r"""
There is a shorter formula in many books, $\overline{a^2} - \bar a^2$. It is right on paper. Try it on numbers far from zero, in seven digits:
"""

# %%
x = Tensor([1, 2, 3, 4]) + 10_000
print("your var:            ", x.var().item())
print("mean(a^2) - mean(a)^2:", ((x * x).mean() - x.mean() ** 2).item())

# %% [markdown]
r"""
## 8. The same elements in another shape

Memory has no rows and columns: it is one long street. A shape is a way to read it, and the **strides** say how many bytes to walk for one step along each axis:

```
  memory   [ 0 ][ 1 ][ 2 ][ 3 ][ 4 ][ 5 ]      float32: 4 bytes a house

  (2, 3)   strides (12, 4)     [ 0 1 2 ]       one row down = 3 houses = 12 bytes
                               [ 3 4 5 ]       one to the right = 4 bytes

  its transpose (3, 2), strides (4, 12):       the same street, read the other way
```

So a transpose needn't move anything. Neither need a slice, nor a reshape of elements that lie in order. Such a result is a *view*: it shares memory with what it came from. Which of the six
below are views? **Write down yes or no** for each.
"""

# %%
x = np.arange(6, dtype=np.float32).reshape(2, 3)
candidates = {
    "x.T": x.T,
    "x[:, ::2]": x[:, ::2],
    "x.reshape(3, 2)": x.reshape(3, 2),
    "x.T.reshape(6)": x.T.reshape(6),
    "x[[0, 1]]": x[[0, 1]],
    "x + 0": x + 0,
}
for name, y in candidates.items():
    print(f"{name:16} strides {y.strides!s:9} view: {np.shares_memory(x, y)}")

# %% [markdown]
r"""
`x.T.reshape(6)` had to copy: no single step reads 0, 3, 1, 4, 2, 5 off the street. A list of indices always copies: it may name any houses, in any order.

### Exercise: `strides_of`

The strides of an array whose elements lie in order, the last axis fastest (this is called *contiguous*). `itemsize` is the number of bytes of an element.

Worked: shape `(2, 3)` with 4 bytes: one step along the last axis is 4 bytes, along the first it is 3 of those, 12. So `strides_of((2, 3), 4)` is `(12, 4)`.
"""


# %% nbgrader={"grade": false, "grade_id": "strides-of", "solution": true}
def strides_of(shape, itemsize):
    """The strides, in bytes, of a contiguous array."""
    ### BEGIN SOLUTION
    strides = []
    step = itemsize
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return tuple(strides)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-strides-of", "points": 4, "solution": false}
def test_strides_of():
    check(strides_of((2, 3), 4), (12, 4), "a row is 3 elements of 4 bytes")
    check(strides_of((5,), 8), (8,), "the next element is 8 bytes away")
    ### BEGIN HIDDEN TESTS
    check(strides_of((2, 3, 4), 1), (12, 4, 1), "the first axis steps over 3 * 4 elements")
    check(strides_of((7, 1, 2), 2), (4, 4, 2), "an axis of size 1 multiplies by 1")
    check(strides_of((), 4), (), "a number has no axes to step along")
    ### END HIDDEN TESTS


test_strides_of()

# %% [markdown]
r"""
Four operations change how memory is read; they are given, and so is what `expand` needs. You reduce the other wishes to a plain `reshape`, by working out the shape.
"""


# %% nbgrader={"grade": false, "grade_id": "reshape", "locked": true, "solution": false}
#| export
@op
def reshape(a, shape):
    """The same elements, in order, in another shape; one size may be -1.

    A view where the elements lie in order, else a copy.

    >>> Tensor([1, 2, 3, 4, 5, 6]).reshape(2, -1)
    Tensor([[1., 2., 3.],
            [4., 5., 6.]])
    """
    try:
        return np.reshape(a, shape)
    except ValueError:
        raise ValueError(
            f"reshape: {np.size(a)} elements of {a.shape} don't fill {shape}"
        ) from None


@op
def permute(a, axes=None):
    """The axes in another order: axis i of the result is axis axes[i] of `a`; None reverses them.

    >>> Tensor([[1, 2, 3]]).permute(1, 0).shape
    (3, 1)
    """
    try:
        return np.transpose(a, axes)
    except ValueError:
        raise ValueError(f"permute: {axes} is no order of the {a.ndim} axes of {a.shape}") from None


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


# %% nbgrader={"grade": false, "grade_id": "expanded-shape", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
def expanded_shape(shape: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes asked of `expand`, with each -1 replaced by the size that is there.

    Raises ValueError where that isn't the shape with axes of size 1 stretched, or added in front.

    >>> expanded_shape((3, 1), (2, -1, 4))
    (2, 3, 4)
    """
    missing = len(sizes) - len(shape)
    old = (1,) * missing + tuple(shape)
    new = tuple(o if n == -1 else n for o, n in zip(old, sizes, strict=False))
    fits = all(o in (1, n) for o, n in zip(old, new, strict=False))
    if missing < 0 or -1 in sizes[:missing] or not fits:
        raise ValueError(f"expand: {shape} can't become {sizes}: only axes of size 1 stretch")
    return new


# %% [markdown]
r"""
Axes may be counted from the end: -1 is the last. `normalize_axis_index(axis, ndim, "flatten")` of NumPy turns -1 into `ndim - 1`, and an axis that isn't there into an error that begins with
`flatten:`. It is imported above; use it in the next exercises. (`axis % ndim` would also turn -1 into the last axis, and axis 7 of 3 silently into axis 1.)

### Exercise: `flat_shape`

`x.flatten(start_dim, end_dim)` melts the axes from `start_dim` to `end_dim`, both included, into one. Return the shape.

Worked: a batch of 8 colour images, `(8, 3, 4, 5)`, from axis 1 on: `(8, 60)`. A single number, `()`, becomes `(1,)`: count it as one axis. If `start_dim` comes after `end_dim`, raise a
`ValueError` that says `comes after`.

<details><summary>Hint</summary>math.prod multiplies the sizes of a slice of the shape; of no sizes at all it makes 1.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "flat-shape", "solution": true}
#| exporti
def flat_shape(shape: tuple[int, ...], start_dim: int = 0, end_dim: int = -1) -> tuple[int, ...]:
    """The shape after axes start_dim to end_dim (both included) became one axis.

    >>> flat_shape((8, 3, 4, 5), start_dim=1)
    (8, 60)
    """
    ### BEGIN SOLUTION
    ndim = max(len(shape), 1)
    start = normalize_axis_index(start_dim, ndim, "flatten")
    end = normalize_axis_index(end_dim, ndim, "flatten")
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-flat-shape", "points": 4, "solution": false}
def test_flat_shape():
    check(flat_shape((8, 3, 4, 5), start_dim=1), (8, 60), "3 * 4 * 5 = 60")
    check(flat_shape((2, 3)), (6,), "by default everything becomes one axis")
    check(flat_shape((2, 3, 4), 0, 1), (6, 4), "end_dim is included")
    ### BEGIN HIDDEN TESTS
    check(flat_shape((2, 3, 4), -3, -2), (6, 4), "-1 is the last axis, -2 the one before")
    check(flat_shape(()), (1,), "a number becomes one axis of size 1")
    check(flat_shape((0, 3)), (0,), "no rows of 3 are no elements")
    with check_raises(IndexError, "flatten: axis 7", "there is no axis 7"):
        flat_shape((2, 3, 4), 7)
    with check_raises(ValueError, "comes after", "2 to 1 is no range"):
        flat_shape((2, 3, 4), 2, 1)
    ### END HIDDEN TESTS


test_flat_shape()

# %% [markdown]
r"""
### Exercise: `squeezed_shape` and `unsqueezed_shape`

`x.squeeze()` drops every axis of size 1. `x.squeeze(axis)` drops that one if its size is 1, and else does nothing. `x.unsqueeze(axis)` is the opposite: it puts in an axis of size 1, so that it is
axis `axis` **of the result**. How many axes does that result have, and so how far may `axis` go?

Worked: `(1, 3, 1)` squeezed is `(3,)`; only axis -1 squeezed, `(1, 3)`; axis 1, whose size is 3, stays. `(2, 3)` unsqueezed is `(1, 2, 3)` for axis 0 and `(2, 3, 1)` for axis -1.
"""


# %% nbgrader={"grade": false, "grade_id": "squeezed-shape", "solution": true}
#| exporti
def squeezed_shape(shape: tuple[int, ...], axis: int | None = None) -> tuple[int, ...]:
    """The shape without its axes of size 1, or without that one axis if its size is 1.

    >>> squeezed_shape((1, 3, 1)), squeezed_shape((1, 3, 1), -1), squeezed_shape((1, 3, 1), 1)
    ((3,), (1, 3), (1, 3, 1))
    """
    ### BEGIN SOLUTION
    if axis is None:
        return tuple(size for size in shape if size != 1)
    axis = normalize_axis_index(axis, len(shape), "squeeze")
    return shape if shape[axis] != 1 else (*shape[:axis], *shape[axis + 1 :])
    ### END SOLUTION


def unsqueezed_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape with an axis of size 1 put in, so that it is axis `axis` of the result.

    >>> unsqueezed_shape((2, 3), 0), unsqueezed_shape((2, 3), -1)
    ((1, 2, 3), (2, 3, 1))
    """
    ### BEGIN SOLUTION
    axis = normalize_axis_index(axis, len(shape) + 1, "unsqueeze")
    return (*shape[:axis], 1, *shape[axis:])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-squeezed-shape", "points": 8, "solution": false}
def test_squeezed_shape():
    check(squeezed_shape((1, 3, 1)), (3,), "every axis of size 1 goes")
    check(squeezed_shape((1, 3, 1), -1), (1, 3), "only the last axis goes")
    check(squeezed_shape((1, 3, 1), 1), (1, 3, 1), "an axis of size 3 stays")
    check(unsqueezed_shape((2, 3), 0), (1, 2, 3), "the 1 comes first")
    check(unsqueezed_shape((2, 3), -1), (2, 3, 1), "-1 is the last axis of the result")
    ### BEGIN HIDDEN TESTS
    check(squeezed_shape((1, 3, 1), 0), (3, 1), "axis 0 is an axis, not `no axis`: test for None")
    check(squeezed_shape((0, 1)), (0,), "0 is no 1")
    with check_raises(IndexError, "squeeze: axis 3", "there is no axis 3"):
        squeezed_shape((1, 3, 1), 3)
    check(unsqueezed_shape((2, 3), 2), (2, 3, 1), "the result has three axes: 2 is its last")
    check(unsqueezed_shape((2, 3), -3), (1, 2, 3), "-3 is the first axis of the result")
    check(unsqueezed_shape((), 0), (1,), "a number gets its first axis")
    with check_raises(IndexError, "unsqueeze: axis 3", "the result has axes 0, 1 and 2"):
        unsqueezed_shape((2, 3), 3)
    ### END HIDDEN TESTS


test_squeezed_shape()

# %% [markdown]
r"""
All the methods of shapes work now. `expand` is the cheapest way to repeat: look at the strides. How many bytes does one step along the new axis cost?
"""

# %%
x = Tensor([[1, 2, 3]])
big = x.expand(1000, 3)
print(big.shape, "strides", big.data.strides, "shares memory:", np.shares_memory(x.data, big.data))
print(x.unsqueeze(0).shape, x.squeeze().shape, big.flatten().shape, x.T.shape)

# %% [markdown]
r"""
## 9. Parts, and parts put together

`x[key]` takes parts by whatever NumPy takes: integers, slices, lists, arrays, booleans, `None` for a new axis. One thing NumPy doesn't take: our tensors, and the whole *floats* in them, since
`Tensor([2, 0])` is float32. Numbers that count things are whole by nature; where one isn't, it is a mistake.

### Exercise: `as_index`

Make an index that NumPy takes:

- of a tuple, make the tuple of its parts' indices;
- of a tensor, take the array;
- an array of floats becomes int64 if every number is whole; else raise an `IndexError` with `whole numbers` and what came (nan and infinity aren't whole);
- leave everything else alone.

Worked: `as_index(Tensor([2, 0]))` is `array([2, 0])`, int64, and `as_index((slice(None), Tensor(1)))` is `(slice(None), array(1))`.
"""


# %% nbgrader={"grade": false, "grade_id": "as-index", "solution": true}
#| exporti
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
        if not (np.isfinite(key) & (np.floor(key) == key)).all():
            raise IndexError(f"index: expected whole numbers, got {key!r:.60}")
        return key.astype(np.int64)
    return key
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-as-index", "points": 5, "solution": false}
def test_as_index():
    check(as_index(Tensor([2, 0])), np.array([2, 0]), "whole floats become integers")
    check(as_index((1, Tensor([True]))), (1, np.array([True])), "look into tuples, keep booleans")
    with check_raises(IndexError, "whole numbers", "half an index is a mistake"):
        as_index(Tensor([0.5]))
    ### BEGIN HIDDEN TESTS
    check(as_index(slice(1, 2)) == slice(1, 2), True, "leave slices alone")
    check(as_index(None), None, "leave None alone: it asks for a new axis")
    check(as_index(np.array([1.0, -1.0])), np.array([1, -1]), "arrays of floats as well")
    check(as_index(Tensor([], dtype=float)), np.array([], int), "nothing is whole")
    check(
        as_index(Tensor(np.array([1, 2], np.int8))).dtype, np.int8, "integers are fine as they are"
    )
    with check_raises(IndexError, "whole numbers", "nan is not whole"):
        as_index((0, Tensor([float("nan")])))
    with check_raises(IndexError, "whole numbers", "infinity is not whole"):
        as_index(Tensor([float("inf")]))
    ### END HIDDEN TESTS


test_as_index()

# %% [markdown]
r"""
The operations behind `x[key]` and its opposite are given, and so are gluing and Einstein's sum. `scatter_add` deserves a look: it **adds** numbers into zeros at the places that a key names, and a
place named twice gets both. So it counts. What will the three counts below be?
"""

# %% nbgrader={"grade": false, "grade_id": "getitem", "locked": true, "solution": false}
#| export
_ONE_PLACE = (int, np.integer, slice, type(None), EllipsisType)  # these name no place twice


@op
def getitem(a, key):
    """a[key]: slices, integers, arrays of integers or booleans, None and Ellipsis.

    A view where `key` holds no array or list, else a copy.

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
    if all(isinstance(part, _ONE_PLACE) for part in parts):
        out[key] = a
    else:
        np.add.at(out, key, a)  # an array may name a place twice: both must count
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


# %%
labels = np.array([2, 0, 2, 2])
print(scatter_add(Tensor([1, 1, 1, 1]), key=labels, shape=(3,)))

# %% [markdown]
r"""
### Exercise: `concat` and `stack`

`concat` glues tensors together **along an axis that is there**: the sizes along it add up, all others must agree. The operation `concatenate(*tensors, axis=axis)` does it; you keep out what won't fit,
with a `ValueError`:

- no tensors at all: `concat: expected at least one tensor, got none`;
- shapes that differ outside the axis, or in the number of axes: `concat: shapes (2, 2) and (3, 3) differ outside axis 0`.

`stack` puts tensors of **one** shape side by side along a **new** axis: give each of them that axis with `unsqueeze`, then `concat`. Differing shapes raise a `ValueError` that says
`expected tensors of one shape`.

In both, `pick(axis, dim, default=0)` gives the axis under whichever of its two names it came.

Worked: `(2, 3)` and `(4, 3)` concatenated along axis 0 make `(6, 3)`. `stack([Tensor([1, 2]), Tensor([3, 4])])` is `[[1, 2], [3, 4]]`; with `axis=1` the two become columns.

<details><summary>Hint</summary>For concat, drop the axis from each shape and collect what is left in a set: more than one is too many. normalize_axis_index knows which axis -1 is.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "concat", "solution": true}
#| export
def concat(tensors: Sequence[Tensor], axis: int | None = None, dim: int | None = None) -> Tensor:
    """The tensors one after the other along an axis (default 0) that is there.

    >>> concat([Tensor([[1, 2]]), Tensor([[3, 4], [5, 6]])])
    Tensor([[1., 2.],
            [3., 4.],
            [5., 6.]])
    """
    ### BEGIN SOLUTION
    if len(tensors) == 0:
        raise ValueError("concat: expected at least one tensor, got none")
    axis = normalize_axis_index(pick(axis, dim, default=0), np.ndim(tensors[0]), "concat")
    shapes = [np.shape(tensor) for tensor in tensors]
    others = {(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(others) > 1:
        listed = " and ".join(map(str, shapes))
        raise ValueError(f"concat: shapes {listed} differ outside axis {axis}")
    return concatenate(*tensors, axis=axis)
    ### END SOLUTION


def stack(tensors: Sequence[Tensor], axis: int | None = None, dim: int | None = None) -> Tensor:
    """Tensors of one shape side by side along a new axis (default 0).

    >>> stack([Tensor([1, 2]), Tensor([3, 4])], axis=1)
    Tensor([[1., 3.],
            [2., 4.]])
    """
    ### BEGIN SOLUTION
    axis = pick(axis, dim, default=0)
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(f"stack: expected tensors of one shape, got {sorted(shapes)}")
    return concat([tensor.unsqueeze(axis) for tensor in tensors], axis)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-concat", "points": 5, "solution": false}
def test_concat():
    a, b = Tensor([[1, 2]]), Tensor([[3, 4], [5, 6]])
    check(concat([a, b]), [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "rows below rows")
    check(concat([b, b], axis=1), [[3.0, 4.0, 3.0, 4.0], [5.0, 6.0, 5.0, 6.0]], "side by side")
    with check_raises(ValueError, "differ outside axis 1", "1 row and 2 rows, side by side?"):
        concat([a, b], axis=1)
    ### BEGIN HIDDEN TESTS
    check(concat([b, b], dim=-1).shape, (2, 4), "dim is another word for axis")
    check(concat((a,)), [[1.0, 2.0]], "one tensor is enough, and a tuple will do")
    check(concat([Tensor(np.array([1])), Tensor(np.array([2]))]).dtype, np.int64, "keep the dtype")
    with check_raises(ValueError, "differ outside axis 0", "the number of axes must agree"):
        concat([a, Tensor([1, 2])])
    with check_raises(ValueError, "at least one", "nothing makes nothing"):
        concat([])
    ### END HIDDEN TESTS


test_concat()


# %% nbgrader={"grade": true, "grade_id": "test-stack", "points": 4, "solution": false}
def test_stack():
    a, b = Tensor([1, 2]), Tensor([3, 4])
    check(stack([a, b]), [[1.0, 2.0], [3.0, 4.0]], "the new axis comes first by default")
    check(stack([a, b], axis=1), [[1.0, 3.0], [2.0, 4.0]], "along axis 1 they are columns")
    ### BEGIN HIDDEN TESTS
    check(stack([a, b, a], dim=-1).shape, (2, 3), "-1 is the last axis of the result")
    check(stack([Tensor(1), Tensor(2)]), [1.0, 2.0], "numbers make a vector")
    with check_raises(ValueError, "expected tensors of one shape", "2 and 3 elements don't stack"):
        stack([a, Tensor([1, 2, 3])])
    with check_raises(
        ValueError, "expected tensors of one shape", "(1, 2) and (3, 2) would concat"
    ):
        stack([Tensor([[1, 2]]), Tensor(np.ones((3, 2)))], axis=1)
    ### END HIDDEN TESTS


test_stack()

# %% [markdown]
r"""
### Exercise: `split`

The opposite of `concat`: pieces of `size` along an axis, the last one shorter if it must be; or, if `size` is a list, pieces of those sizes.

Worked: five elements by 2 are pieces of 2, 2 and 1; by `[1, 4]` pieces of 1 and 4. Raise a `ValueError` where the sizes of a list don't add up to the axis (`add up`), where one is negative, or where a
single size is below 1 (`at least 1`).

Slicing keeps the memory shared, so cutting costs next to nothing. A slice along axis 2 alone is `x[:, :, start:stop]`; for any axis, the key is a tuple: `slice(None)` as often as axes come before,
then `slice(start, stop)`.
"""


# %% nbgrader={"grade": false, "grade_id": "split", "solution": true}
#| export
def split(
    tensor: Tensor, size: int | Sequence[int], axis: int | None = None, dim: int | None = None
) -> list[Tensor]:
    """Pieces of `size` along an axis (default 0), the last perhaps shorter, or of a list of sizes.

    >>> [piece.tolist() for piece in split(Tensor([1, 2, 3, 4, 5]), 2)]
    [[1.0, 2.0], [3.0, 4.0], [5.0]]
    """
    ### BEGIN SOLUTION
    axis = normalize_axis_index(pick(axis, dim, default=0), tensor.ndim, "split")
    total = tensor.shape[axis]
    if isinstance(size, (int, np.integer)):
        if size < 1:
            raise ValueError(f"split: size must be at least 1, got {size}")
        size = [min(size, total - start) for start in range(0, total, size)]
    if sum(size) != total or min(size, default=0) < 0:
        raise ValueError(f"split: sizes {list(size)} don't add up to the {total} of axis {axis}")
    pieces, start = [], 0
    for length in size:
        pieces.append(tensor[(slice(None),) * axis + (slice(start, start + length),)])
        start += length
    return pieces
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-split", "points": 5, "solution": false}
def test_split():
    x = Tensor([1, 2, 3, 4, 5])
    check([p.tolist() for p in split(x, 2)], [[1.0, 2.0], [3.0, 4.0], [5.0]], "2, 2 and the rest")
    check([p.tolist() for p in split(x, [1, 4])], [[1.0], [2.0, 3.0, 4.0, 5.0]], "1, then 4")
    with check_raises(ValueError, "add up", "2 + 2 leaves one element over"):
        split(x, [2, 2])
    ### BEGIN HIDDEN TESTS
    grid = Tensor(np.arange(12.0).reshape(2, 6))
    check(split(grid, 4, axis=1)[1], [[4.0, 5.0], [10.0, 11.0]], "cut along axis 1")
    check([p.shape for p in grid.split(3, dim=-1)], [(2, 3), (2, 3)], "-1 is the last axis")
    check(concat(split(x, 3)), [1.0, 2.0, 3.0, 4.0, 5.0], "concat undoes split")
    check([p.size for p in split(x, [0, 5])], [0, 5], "a piece may be empty")
    check(np.shares_memory(split(x, 2)[1].data, x.data), True, "slices share memory, don't copy")
    with check_raises(ValueError, "at least 1", "pieces of nothing would never end"):
        split(x, 0)
    with check_raises(ValueError, "add up", "a piece can't be negative"):
        split(x, [6, -1])
    ### END HIDDEN TESTS


test_split()

# %% [markdown]
r"""
## 10. Making tensors, and the same dice twice

The constructors are given. The interesting ones roll dice: a network starts from random numbers. An experiment that can't be repeated proves little, so all dice of this framework come from **one**
generator, and `manual_seed` sets it back. Will `a` and `b` be equal? Will `a` and `c`?
"""

# %% nbgrader={"grade": false, "grade_id": "constructors", "locked": true, "solution": false}
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


# %% nbgrader={"grade": false, "grade_id": "constructor-helpers", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
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


def restore(data: np.ndarray, requires_grad: bool, grad: Tensor | None) -> Tensor:
    """What `pickle` and `copy` call: the tensor without the graph that made it."""
    tensor = Tensor._wrap(data)
    tensor.requires_grad, tensor.grad = requires_grad, grad
    return tensor


# %%
manual_seed(7)
a = randn(3)
c = randn(3)
manual_seed(7)
b = randn(3)
print(a, "again:", bool((a == b).all()), " next:", bool((a == c).all()))

# %% [markdown]
r"""
## 11. Writing in place

So far nothing was ever changed: each operation made a new tensor. `x += 1` and `x[key] = value` write into memory that is there. That saves an allocation, and it has a price: **every view sees
it**. `writes` keeps a log of it, for whoever must know later that the numbers are no longer the ones he read.

Given as well. It refuses what NumPy would do quietly: decimals into whole numbers, 300 into an int8, text.
"""


# %% nbgrader={"grade": false, "grade_id": "in-place", "locked": true, "solution": false}
#| exporti
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
    array = value.data if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in ("fiub" if tensor.dtype.kind == "f" else "iub"):
        raise TypeError(f"in-place write of {array.dtype} into a tensor of {tensor.dtype}")
    if recording(tensor, value):
        refuse_leaf(tensor, "tensor[key] = value")
        before = Tensor._wrap(tensor.data)
        before.requires_grad, before.node = tensor.requires_grad, tensor.node
        after = put(before, value, key=key)
        tensor.data, tensor.requires_grad, tensor.node = after.data, True, after.node
        writes.add(tensor.data)  # whoever used the tensor before must not go backward through it
        tensor.node.born = writes.clock
        return
    try:
        tensor.data[key] = _convert(array, tensor.dtype, "in-place write")
    except (ValueError, IndexError) as error:
        raise type(error)(f"in-place write into {tensor.shape}: {error}") from None
    writes.add(tensor.data)


# %% [markdown]
r"""
Three lines of code, three tensors, one street of memory. What is in `x` at the end? **Write it down.**
"""

# %%
x = zeros(2, 3)
row = x[1]  # a view
row += 5
copied = row + 0
copied[0] = 99
print(x)
for name, value in [("0.5 into int64", 0.5), ("300 into int8", 300), ("text", "three")]:
    target = Tensor([1, 2], dtype=np.int8 if "int8" in name else int)
    try:
        target[0] = value
    except (TypeError, OverflowError) as error:
        print(f"{name}: {error}")

# %% [markdown]
r"""
## 12. Put together: reading digits by their averages

Enough parts; now something real. The course carries 1,797 small images of handwritten digits, 8 by 8 pixels with 17 shades of grey, from the optical digits set of the UC Irvine repository
(E. Alpaydin and C. Kaynak, CC BY 4.0). This cell loads them, shuffles them, and keeps 597 aside for the test.
"""

# %%
with np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz") as file:
    images, digits = file["images"], file["labels"]
order = np.random.default_rng(0).permutation(len(images))
points = Tensor(images[order].astype(np.float32)).flatten(1) / 16  # (1797, 64), 0 to 1
labels = Tensor(digits[order])
train_x, test_x = split(points, [1200, 597])
train_y, test_y = split(labels, [1200, 597])


def draw(image):
    """An image of 64 shades between 0 and 1, in characters."""
    for row in image.reshape(8, 8):
        print("  " + "".join(2 * " .:-=+*#%@"[int(shade * 9.99)] for shade in row.tolist()))


print(train_x.shape, train_x.dtype, "labels:", train_y.dtype)
print(f"A {train_y[0].item()}:")
draw(train_x[0])

# %% [markdown]
r"""
What does the average 3 look like? Take all threes, and average them along the axis of images. Ten digits make ten such means: a boolean index, a reduction, a `stack`.
"""

# %%
means = stack([train_x[train_y == digit].mean(axis=0) for digit in range(10)])
print("means:", means.shape)
if plt:
    figure, axes = plt.subplots(1, 10, figsize=(10, 1.6))
    for digit, axis in enumerate(axes):
        axis.imshow(means[digit].reshape(8, 8).numpy(), cmap="gray_r", vmin=0, vmax=1)
        axis.set(title=str(digit), xticks=[], yticks=[])
    figure.suptitle("The mean image of each digit (dark: ink)", y=1.15)
    plt.show()
else:
    draw(means[3])

# %% [markdown]
r"""
### Exercise: `squared_distances`

An unknown image is perhaps the digit whose mean lies nearest. How near is point $n$ to centre $c$?

$$d_{nc} = \sum_{k} (p_{nk} - m_{ck})^2$$

Given `points` of shape `(N, D)` and `centres` of shape `(C, D)`, return all distances at once, shape `(N, C)`, **without a loop**: give each an axis of size 1 at the right place, so that the
difference has shape `(N, C, D)`; then reduce.

Worked: points `[[0, 0], [3, 4]]` and the one centre `[[0, 0]]` give `[[0], [25]]`.

<details><summary>Hint</summary>(N, 1, D) meets (C, D), which counts as (1, C, D).</details>
"""


# %% nbgrader={"grade": false, "grade_id": "squared-distances", "solution": true}
def squared_distances(points, centres):
    """The squared distance of every point to every centre: (N, D), (C, D) -> (N, C)."""
    ### BEGIN SOLUTION
    difference = points.unsqueeze(1) - centres  # (N, C, D)
    return (difference * difference).sum(axis=2)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-squared-distances", "points": 7, "solution": false}
def test_squared_distances():
    corners = Tensor([[0, 0], [3, 4]])
    check(squared_distances(corners, Tensor([[0, 0]])), [[0.0], [25.0]], "3 * 3 + 4 * 4 = 25")
    check(squared_distances(corners, corners), [[0.0, 25.0], [25.0, 0.0]], "shape (N, C)")
    ### BEGIN HIDDEN TESTS
    p = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    c = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    expected = [[float(((a - b) ** 2).sum()) for b in c] for a in p]
    check(squared_distances(Tensor(p), Tensor(c)), expected, "row n, column c", 1e-5)
    operations = []
    with watching("counter", lambda op, *rest: operations.append(op)):
        squared_distances(Tensor(p), Tensor(c))
    check(len(operations) < 8, True, "no loop: as many operations for 5 points as for 5,000")
    ### END HIDDEN TESTS


test_squared_distances()

# %% [markdown]
r"""
Ten classes: guessing gets a tenth right. Nobody has "learned" anything here beyond an average. What accuracy do you expect on the images kept aside? **Write it down.**
"""

# %%
predicted = squared_distances(test_x, means).argmin(axis=1)
right = predicted == test_y
print(f"accuracy on {test_y.size} unseen digits: {right.mean().item():.3f}")
wrong = test_x[~right]
truth, guess = test_y[~right][0].item(), predicted[~right][0].item()
print(f"{wrong.shape[0]} mistakes; the first, a {truth}, was read as {guess}:")
draw(wrong[0])

# %% [markdown]
r"""
How many examples does an average need? The next cell averages only the first few images of each digit, more and more of them.
"""

# %%
from tqdm import tqdm

counts = [1, 2, 3, 5, 10, 20, 50, 100]
accuracies = []
for count in tqdm(counts, desc="images per digit"):
    few = stack([train_x[train_y == digit][:count].mean(axis=0) for digit in range(10)])
    nearest = squared_distances(test_x, few).argmin(axis=1)
    accuracies.append((nearest == test_y).mean().item())
print({count: round(accuracy, 3) for count, accuracy in zip(counts, accuracies, strict=True)})
if plt:
    figure, axis = plt.subplots(figsize=(5, 3))
    axis.semilogx(counts, accuracies, "ko-")
    axis.set(title="Nearest mean", xlabel="images per digit", ylabel="test accuracy (share)")
    plt.show()

# %% [markdown]
r"""
The curve flattens: more images make better averages, but an average stays an average. Some digits look more like the mean of another, as the one drawn above does. That is as far as one tensor of means can go.

## 13. What it costs

Every operation goes through the gate: unwrap, wrap, look for watchers. What does that cost on one number, and what on a million? Guess the ratio of tensor to array for both ends.
"""

# %%
from timeit import repeat


def microseconds(function, number):
    """The best of seven runs of `number` calls, per call."""
    return min(repeat(function, number=number, repeat=7)) / number * 1e6


sizes = [1, 100, 10_000, 100_000, 1_000_000]
array_times, tensor_times = [], []
print("elements    array us   tensor us   ratio")
for size in sizes:
    array = np.ones(size, np.float32)
    tensor = Tensor(array)
    number = max(20, 2000 // (1 + size // 100))
    array_times.append(microseconds(lambda a=array: a + a, number))
    tensor_times.append(microseconds(lambda t=tensor: t + t, number))
    ratio = tensor_times[-1] / array_times[-1]
    print(f"{size:9,} {array_times[-1]:10.2f} {tensor_times[-1]:11.2f} {ratio:7.2f}")

# %%
if plt:
    figure, axis = plt.subplots(figsize=(5, 3))
    axis.loglog(sizes, array_times, "k--s", label="array + array")
    axis.loglog(sizes, tensor_times, "k-o", label="tensor + tensor")
    axis.set(title="The price of the gate", xlabel="elements", ylabel="time (us)")
    axis.legend()
    plt.show()

# %% [markdown]
r"""
A fixed price per *operation*, none per *element*: on small tensors Python dominates, on large ones memory does. So the advice is the same for our tensors, for NumPy and for PyTorch, whose
dispatcher (C++) is a gate of the same kind: few operations on big tensors, no loops over elements.

The second cost is bytes. Adding reads two numbers and writes one for a single addition, so the processor mostly waits for memory. Halve the bytes, and what happens to the time? Is that so for float16?
"""

# %%
print("dtype      bytes       a + a")
for dtype in (np.int8, np.float16, np.float32, np.float64):
    a = ones(1_000_000, dtype=dtype)
    print(f"{a.dtype.name:8} {a.nbytes:9,} {microseconds(lambda t=a: t + t, 5):8.0f} us")

# %% [markdown]
r"""
Fewer bytes are faster where the processor has instructions for the dtype; for float16 NumPy converts each element to float32 and back. A small dtype saves memory at once, and time
only if somebody wrote the loop for it.

The third cost hides in the strides. Below, the same number of elements is summed twice: once as neighbours, once as the first column of a matrix with 16 columns. Memory arrives in lines of 64 bytes.
How many of the 16 floats in each line does the column use?
"""

# %%
matrix = Tensor(np.ones((200_000, 16), np.float32))
column, neighbours = matrix[:, 0], matrix.flatten()[:200_000]
for name, t in [("neighbours", neighbours), ("column", column), ("column copied", column.clone())]:
    time_taken = microseconds(t.sum, 5)
    print(f"{name:14} strides {t.data.strides!s:6} {t.size:,} elements {time_taken:7.0f} us")

# %% [markdown]
r"""
A view costs nothing to make and may cost later, at every use; `clone()` pays once. PyTorch has the same choice in `Tensor.contiguous()`. It differs in one name: `torch.Tensor.view` refuses to copy and
raises where the strides don't allow a view, so that sharing is certain. Ours is `reshape` under a second name, and copies where it must.

## 14. Questions

Short answers, with the numbers worked out. Write them into the cells below each question.

**1. Memory.** A batch holds 64 colour images of shape (3, 224, 224). How many bytes is it in float32, in float64, in int8? How many float32 batches fit into 16 GB ($16 \cdot 10^9$ bytes)?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-memory", "points": 4, "solution": true}
r"""
64 * 3 * 224 * 224 = 9,633,792 elements. float32: 38,535,168 bytes (about 38.5 MB); float64: twice that, 77,070,336; int8: a quarter, 9,633,792.
16e9 / 38,535,168 = 415.2, so 415 batches, if nothing else needs memory.
"""

# %% [markdown]
r"""
**2. Strides.** `x` is contiguous, float32, shape (100, 200). What are the strides of `x`, of `x.T` and of `x[::2, ::5]`? If memory comes in lines of 64 bytes, how many bytes must be fetched to sum
`x[:, 0]`, and how many of them are used?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-strides", "points": 4, "solution": true}
r"""
x: (800, 4), since a row is 200 * 4 bytes. x.T: (4, 800). x[::2, ::5]: two rows at a time and five elements at a time, (1600, 20).
Each of the 100 elements of the column lies in a line of its own (they are 800 bytes apart): 100 * 64 = 6,400 bytes are fetched, 400 are used, 1 in 16.
"""

# %% [markdown]
r"""
**3. Overhead.** Suppose an operation costs 2 us at the gate, and NumPy then adds 2 elements per nanosecond. How long do a million elements take in one operation, and how long in a million operations on
one element each? From which size on is the gate less than a tenth of NumPy's time?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-overhead", "points": 4, "solution": true}
r"""
One operation: 2 us + 1,000,000 / 2 ns = 2 us + 500 us = 502 us. A million operations: at least 1,000,000 * 2 us = 2 s, about 4,000 times as long.
2 us is a tenth of 20 us, in which NumPy adds 40,000 elements: from 40,000 elements on.
"""

# %% [markdown]
r"""
**4. The price of no loop.** `squared_distances` makes a tensor of shape (N, C, D) on its way. How many bytes is it for N = 10,000, C = 10, D = 784 in float32? The formula
$|p|^2 - 2\, p \cdot m + |m|^2$ needs only a matrix product and tensors of shape (N, C): how many bytes are those? What may go wrong with it when a point lies very near a centre?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-distances", "points": 3, "solution": true}
r"""
10,000 * 10 * 784 * 4 = 313,600,000 bytes (and as much again for its square). (N, C) in float32: 10,000 * 10 * 4 = 400,000 bytes, 784 times less.
Near a centre two large, almost equal numbers are subtracted: with 7 digits the small difference loses most of its own, and may even come out negative, as the short formula for the variance did.
"""

# %% [markdown]
r"""
## All checks
"""


# %%
def test_module():
    """Run every check of this lesson."""
    tests = [value for name, value in globals().items() if name.startswith("test_")]
    for test in tests:
        if callable(test) and test is not test_module:
            test()
    print("module 01: all checks passed")


test_module()

# %% [markdown]
r"""
## What you have

- A `Tensor` that computes in float32, says in one line what doesn't fit, and shares memory where it can.
- One gate that every operation passes, and where others may stand and watch.
- Broadcasting, products, reductions, views: all of the arithmetic of a neural network.
- A first classifier of digits, made of nothing but averages, and the knowledge of what it costs.
- It unlocks the next module: functions that bend straight lines. `tito module complete 01` puts your file into your package.
"""

# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.quantization

# %% [markdown]
r"""
# Quantization

> Numbers in one byte instead of four: the same network in a quarter of the space.

Time: 4 to 5 hours. You have layers (03), gradients (05) and a Trainer (07): a network that reads digits is ten lines away. Each of its weights takes 32 bits.
Here you store each in 8, multiply integers instead of floats, and find out how much accuracy that costs, and why it is so little.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tinytorch.core.autograd import nondifferentiable
from tinytorch.core.layers import Linear, Module, linear
from tinytorch.core.tensor import Tensor, op
from tinytorch.core.training import evaluating
from tinytorch.profiling.profiler import FLOPS, linear_flops

# %% [markdown]
r"""
## A network to shrink

First something worth shrinking: a network of three layers that reads handwritten digits of 8x8 pixels.
"""

# %%
import copy

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Dropout, Flatten, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.tensor import manual_seed, randn, zeros
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits
from tito.testing import check, check_raises

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the plots are left out

# %%
train, test = Digits(), Digits(train=False)


def accuracy(model) -> float:
    """The share of test digits that the model reads right."""
    with no_grad():
        guesses = model(test.images).data.argmax(axis=1)
    return float((guesses == test.labels.data).mean())


def trained_network(epochs=10) -> Sequential:
    """64 - 64 - 64 - 10 with ReLU, trained by Adam."""
    manual_seed(0)
    layers = [Linear(64, 64), ReLU(), Linear(64, 64), ReLU(), Linear(64, 10)]
    model = Sequential(Flatten(), *layers)
    trainer = Trainer(model, Adam(model.parameters(), lr=3e-3), CrossEntropyLoss())
    trainer.fit(DataLoader(train, batch_size=50, shuffle=True, seed=0), epochs)
    return model


network = trained_network()
print(
    f"accuracy {accuracy(network):.3f}, {sum(p.nbytes for p in network.parameters()):,} bytes of weights"
)

# %% [markdown]
r"""
NumPy has one-byte integers: `int8`, from -128 to 127. So why not simply convert? **Predict** the accuracy of the network after `weight.astype(np.int8)`. Write it down.
"""

# %%
converted = copy.deepcopy(network)
for parameter in converted.parameters():
    parameter.data[...] = parameter.data.astype(np.int8)
weight = network[1].weight.data
print(f"weights lie in [{weight.min():.2f}, {weight.max():.2f}]")
print(f"different numbers left: {np.unique(converted[1].weight.data)}")
print(f"accuracy {accuracy(converted):.3f}")

# %% [markdown]
r"""
Guessing, one digit in ten is right. The weights are small; converting cuts everything behind the point, and nothing is left.

## A grid of 256 numbers

The remedy is a ruler: lay 256 evenly spaced marks over the range in which the numbers lie, and store for each number which mark is nearest.

```
   x      low                    0             high
          |-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-|      step between marks: scale
   q    -128              zero_point            127
```

$$q = \mathrm{clip}\big(\mathrm{round}(x / s) + z,\ q_{min},\ q_{max}\big) \qquad x' = (q - z)\, s$$

$s$ is the **scale** (a float, the distance of two marks), $z$ the **zero point** (an integer, the mark on which 0.0 lies). This is *affine* quantisation. With $z = 0$ it is *symmetric*,
and then -128 is left unused, so that both sides reach equally far.

### Exercise 1: the marks

`integer_range(bits, symmetric)` gives the smallest and the largest integer: $[-2^{b-1}, 2^{b-1} - 1]$, or without its first number where symmetric. For 4 bits: (-8, 7), symmetric (-7, 7).
"""


# %% nbgrader={"grade": false, "grade_id": "integer-range", "locked": false, "solution": true}
#| exporti
def integer_range(bits: int = 8, symmetric: bool = False) -> tuple[int, int]:
    """The smallest and the largest integer of a signed grid, as far from 0 where symmetric.

    >>> integer_range(8), integer_range(4, symmetric=True)
    ((-128, 127), (-7, 7))
    """
    ### BEGIN SOLUTION
    highest = 2 ** (bits - 1) - 1
    return (-highest if symmetric else -highest - 1), highest
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-integer-range", "locked": true, "points": 3, "solution": false}
def test_integer_range():
    check(integer_range(8), (-128, 127), "a byte with a sign goes from -128 to 127")
    check(integer_range(4), (-8, 7), "4 bits have 16 values")
    check(integer_range(8, symmetric=True), (-127, 127), "symmetric leaves -128 out")
    ### BEGIN HIDDEN TESTS
    check(integer_range(2, symmetric=True), (-1, 1), "2 bits, symmetric: -1, 0, 1")
    ### END HIDDEN TESTS


test_integer_range()

# %% [markdown]
r"""
### Exercise 2: the range

`value_range(x, axis)` gives the smallest and the largest value of an array: of all of it (two numbers), or, with an `axis`, of each slice along that axis (two 1-D arrays).
For `x` of shape (2, 3), `axis=1` means three columns, three ranges: **reduce over all the other axes**. An array without elements gives (inf, -inf): `min` and `max` have `initial=` for that.

For `[[1, -5], [3, 2]]`: the range is (-5, 3), with `axis=0` it is ([-5, 2], [1, 3]).
"""


# %% nbgrader={"grade": false, "grade_id": "value-range", "locked": false, "solution": true}
#| exporti
# finer than 1/255 of the smallest float32: a step below it means a range of nothing
SMALLEST_SCALE = 1e-50


def value_range(x: np.ndarray, axis: int | None = None) -> tuple[Any, Any]:
    """The smallest and the largest value of an array, or of each of its slices along `axis`.

    >>> value_range(np.array([[1.0, -5.0], [3.0, 2.0]]), axis=0)
    (array([-5.,  2.]), array([1., 3.]))
    """
    ### BEGIN SOLUTION
    others = other_axes(x.ndim, axis)
    return x.min(axis=others, initial=np.inf), x.max(axis=others, initial=-np.inf)
    ### END SOLUTION


def other_axes(ndim: int, axis: int | None) -> tuple[int, ...]:
    """All axes but one."""
    return tuple(i for i in range(ndim) if i != axis)


def as_numbers(scale: Any, zero_point: Any) -> tuple[Any, Any]:
    """A Python float and int, or, for channels, 1-D arrays of float64 and int32."""
    if np.ndim(scale) == 0:
        return float(scale), int(zero_point)
    return np.asarray(scale, np.float64), np.asarray(zero_point).astype(np.int32)


# %% nbgrader={"grade": true, "grade_id": "test-value-range", "locked": true, "points": 3, "solution": false}
def test_value_range():
    x = np.array([[1.0, -5.0], [3.0, 2.0]])
    low, high = value_range(x)
    check((float(low), float(high)), (-5.0, 3.0), "without an axis: one range for all")
    check(
        value_range(x, axis=0)[0], [-5.0, 2.0], "axis=0: one range for each row, over the columns"
    )
    check(value_range(x, axis=0)[1], [1.0, 3.0], "axis=0: one range for each row, over the columns")
    ### BEGIN HIDDEN TESTS
    y = np.arange(24.0).reshape(2, 3, 4)
    check(value_range(y, axis=1)[1], [15.0, 19.0, 23.0], "reduce over all axes but one")
    check(float(value_range(np.zeros(0))[0]), math.inf, "no element: (inf, -inf)")
    ### END HIDDEN TESTS


test_value_range()

# %% [markdown]
r"""
### Why 0 must be on the grid

Three numbers: 100, 101, 102. The obvious grid lays its 256 marks from 100 to 102. **Predict** what comes back when these three numbers go through it.
"""

# %%
x = np.array([100.0, 101.0, 102.0])
scale = (x.max() - x.min()) / 255
zero_point = np.rint(-128 - x.min() / scale)
stored = np.clip(zero_point, -128, 127)
print(f"scale {scale:.5f}, zero point {zero_point:.0f}, in one byte {stored:.0f}")
q = np.clip(np.rint(x / scale) + stored, -128, 127)
print(f"marks {q}, back: {(q - stored) * scale}")

# %% [markdown]
r"""
The zero point should be the mark of 0.0, and 0.0 lies far to the left of that ruler: at mark -12,878. One byte can't hold it, and everything is ruined.
There is a second reason. Zero is the most frequent number in a network (ReLU, padding): it must come back as exactly 0.

So: **extend the range to include 0**, then compute the scale.

$$low \leftarrow \min(low, 0) \quad high \leftarrow \max(high, 0) \qquad s = \frac{high - low}{q_{max} - q_{min}} \quad z = \mathrm{round}\big(q_{min} - low / s\big)$$

and where symmetric $s = \max(-low, high) / q_{max}$, $z = 0$.

### Exercise 3: scale and zero point

`quantization_parameters(low, high, symmetric, bits)` takes two numbers or two arrays of them. A range of nothing (all zeros) gets scale 1 and no division by zero:
treat every scale up to `SMALLEST_SCALE` so. Finish with the given `as_numbers`, which makes plain Python numbers of 0-d arrays.

For low 1, high 6: the range becomes [0, 6], the scale 6/255, the zero point -128. For low -1, high 2, symmetric: 2/127 and 0.
"""


# %% nbgrader={"grade": false, "grade_id": "quantization-parameters", "locked": false, "solution": true}
#| export
def quantization_parameters(
    low: Any, high: Any, symmetric: bool = False, bits: int = 8
) -> tuple[Any, Any]:
    """(scale, zero point) of the grid that covers [low, high] and 0; for arrays, one of each.

    scale = (high - low) / 255 and zero_point = round(-128 - low / scale), or, symmetric,
    max(|low|, |high|) / 127 and 0 (Jacob et al. 2018, https://arxiv.org/abs/1712.05877).

    >>> quantization_parameters(0.0, 51.0), quantization_parameters(-127.0, 2.0, symmetric=True)
    ((0.2, -128), (1.0, 0))
    """
    ### BEGIN SOLUTION
    lowest, highest = integer_range(bits, symmetric)
    low, high = np.minimum(low, 0, dtype=np.float64), np.maximum(high, 0, dtype=np.float64)
    scale = np.maximum(-low, high) / highest if symmetric else (high - low) / (highest - lowest)
    scale = np.where(scale > SMALLEST_SCALE, scale, 1.0)
    zero_point = np.zeros_like(scale) if symmetric else np.rint(lowest - low / scale)
    return as_numbers(scale, zero_point)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-quantization-parameters", "locked": true, "points": 6, "solution": false}
def test_quantization_parameters():
    check(quantization_parameters(1.0, 6.0), (6 / 255, -128), "include 0: the range is [0, 6]")
    check(
        quantization_parameters(-1.0, 2.0, symmetric=True), (2 / 127, 0), "max(|low|, |high|) / 127"
    )
    check(
        quantization_parameters(-1.0, 3.0), (4 / 255, -64), "zero point round(-128 - low / scale)"
    )
    ### BEGIN HIDDEN TESTS
    check(quantization_parameters(-7.5, 7.5, bits=4), (1.0, 0), "4 bits have 15 steps")
    check(quantization_parameters(-6.0, -1.0), (6 / 255, 127), "include 0 on the right side too")
    check(
        quantization_parameters(-6.0, 1.0, True),
        (6 / 127, 0),
        "symmetric: the larger of both sides",
    )
    check(quantization_parameters(0.0, 0.0)[0], 1.0, "no range: scale 1")
    scale, zero_point = quantization_parameters(np.array([0.0, -1.0]), np.array([1.0, 0.0]))
    check(scale, np.array([1 / 255, 1 / 255]), "arrays: one scale for each channel")
    check(zero_point, np.array([-128, 127]), "arrays: one zero point for each channel")
    check(zero_point.dtype, np.int32, "zero points of channels are int32")
    ### END HIDDEN TESTS


test_quantization_parameters()

# %% [markdown]
r"""
### Exercise 4: to integers

`to_int8(x, scale, zero_point, lowest, highest)`: divide, round (`np.rint`: halves go to the even neighbour, so that errors don't all lean one way), add the zero point, clip, convert. In that order:
what is clipped too late has already wrapped around.

`x` may hold values outside the calibrated range: they land on the last mark. With scale 0.5 and zero point 10, 1.6 becomes 3 + 10 = 13, and 1000 becomes 127.
"""


# %% nbgrader={"grade": false, "grade_id": "to-int8", "locked": false, "solution": true}
#| exporti
def to_int8(
    x: np.ndarray, scale: Any, zero_point: Any, lowest: int = -128, highest: int = 127
) -> np.ndarray:
    """The mark nearest to each number: clip(round(x / scale) + zero_point), halves to even.

    >>> to_int8(np.array([1.6, -0.25, 1000.0]), 0.5, 10)
    array([ 13,  10, 127], dtype=int8)
    """
    ### BEGIN SOLUTION
    marks = np.asarray(x / scale)
    np.rint(marks, out=marks)  # in place: a new array at each step costs more than the arithmetic
    marks += zero_point
    return np.clip(marks, lowest, highest, out=marks).astype(np.int8)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-to-int8", "locked": true, "points": 5, "solution": false}
def test_to_int8():
    q = to_int8(np.array([1.6, -0.2, 1000.0]), 0.5, 10)
    check(q, np.array([13, 10, 127]), "round(x / scale) + zero_point, then clip")
    check(q.dtype, np.int8, "one byte each")
    ### BEGIN HIDDEN TESTS
    check(to_int8(np.array([0.5, 1.5, 2.5]), 1.0, 0), [0, 2, 2], "halves go to the even neighbour")
    check(to_int8(np.array([-0.5, 0.5]), 1.0, 1), [1, 1], "round before adding the zero point")
    check(to_int8(np.array([-900.0, 900.0]), 1.0, 0, -7, 7), [-7, 7], "clip to the given range")
    check(to_int8(np.array([100.0]), 1.0, 100), [127], "clip after adding the zero point")
    ### END HIDDEN TESTS


test_to_int8()

# %% [markdown]
r"""
### The trap on the way back

$x' = (q - z)\,s$ looks harmless. Take $q$ = [-128, 0, 127] with $z$ = -128: the differences are 0, 128 and 255. **Predict** what NumPy prints.
"""

# %%
q = np.array([-128, 0, 127], np.int8)
print("int8 - int8:       ", q - np.int8(-128))
print("widened, then minus:", q.astype(np.int32) - np.int8(-128))

# %% [markdown]
r"""
NumPy keeps int8, 128 doesn't fit, and the result wraps around to the other end without a word. **Widen first, subtract then.** The same holds for products: 100 x 100 in int8 is 16.

### Given: checks, and channels

Two helpers. `finite` makes float64 numbers and refuses those that no grid can hold; `along` gives the scales of channels the shape in which they broadcast:
(M,) for axis 1 of a matrix becomes (1, M), for axis 0 (N, 1).
"""

# %% nbgrader={"grade": false, "grade_id": "checks", "locked": true, "solution": false}
#| exporti
LARGEST = float(np.finfo(np.float32).max) / 2  # twice that would not come back as a float32


def finite(array: Any, name: str) -> np.ndarray:
    """The array in float64; ValueError names the first element that no grid can hold."""
    x = np.asarray(array)
    low, high = float(x.min(initial=0)), float(x.max(initial=0))
    if not -LARGEST <= low <= high <= LARGEST:  # also where they are NaN
        bad = ~(np.abs(x.astype(np.float64)) <= LARGEST)
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        place = f" at {list(index)}" if index else ""
        raise ValueError(
            f"{name} holds {x[index]:.6g}{place}: only finite numbers (to 1.7e38) can be quantised"
        )
    return x.astype(np.float64)


def require_floats(tensor: Any, asked: str) -> None:
    """TypeError where there is nothing to quantise: no Tensor, or one of integers or booleans."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{asked}: expected a Tensor, got {type(tensor).__name__}")
    if tensor.dtype.kind != "f":
        raise TypeError(f"{asked}: expected floating-point numbers, got a tensor of {tensor.dtype}")


def along(values: Any, ndim: int, axis: int | None) -> Any:
    """Numbers of channels, shaped to broadcast along `axis` of an array with `ndim` axes."""
    return values if axis is None else np.expand_dims(values, other_axes(ndim, axis))


def checked_axis(axis: int | None, ndim: int, asked: str) -> int | None:
    """The axis counted from the left; ValueError where there is none."""
    if axis is None or -ndim <= axis < ndim:
        return axis if axis is None else axis % ndim
    raise ValueError(f"{asked}: axis {axis} of a tensor with {ndim} axes")


def checked_grid(
    q: Any, scale: Any, zero_point: Any, axis: int | None
) -> tuple[int | None, np.ndarray, np.ndarray]:
    """Axis, scale and zero point as arrays; an error where they don't belong to this `q`."""
    if not isinstance(q, Tensor) or q.dtype != np.int8:
        got = q.dtype if isinstance(q, Tensor) else type(q).__name__
        raise TypeError(f"dequantize_int8: expected a Tensor of int8, got {got}")
    axis = checked_axis(axis, q.ndim, "dequantize_int8")
    arrays = np.asarray(scale, np.float64), np.asarray(zero_point, np.float64)
    expected = () if axis is None else (q.shape[axis],)
    for name, array in zip(("scale", "zero_point"), arrays, strict=True):
        if array.shape != expected:
            raise ValueError(
                f"dequantize_int8: {name} has shape {array.shape}, expected {expected} "
                f"for axis={axis} of {q.shape}"
            )
    return axis, *arrays


def comparable(original: Any, restored: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 arrays; an error unless they are floats of one shape."""
    for name, tensor in (("original", original), ("restored", restored)):
        require_floats(tensor, f"quantization_error: {name}")
    if original.shape != restored.shape or not original.size:
        raise ValueError(
            "quantization_error: expected two tensors of one shape that hold something, "
            f"got {original.shape} and {restored.shape}"
        )
    return finite(original, "original"), finite(restored, "restored")


# %% [markdown]
r"""
### Exercise 5: back to floats

`dequantize_int8(q, scale, zero_point, axis)` computes $(q - z)\,s$ in float64 and rounds once, to float32. `scale` and `zero_point` are numbers, or with an `axis` 1-D arrays (use `along`).

For q = [-128, 127], scale 0.1, zero point -128: [0, 25.5].
"""


# %% nbgrader={"grade": false, "grade_id": "dequantize-int8", "locked": false, "solution": true}
#| export
def dequantize_int8(q: Tensor, scale: Any, zero_point: Any, axis: int | None = None) -> Tensor:
    """(q - zero_point) * scale as float32: what `quantize_int8` stored, to within scale / 2.

    `scale` and `zero_point` are numbers, or 1-D with one for each slice of `q` along `axis`.
    Raises TypeError unless `q` holds int8, ValueError where the number of scales doesn't fit.

    >>> dequantize_int8(Tensor([-128, 127], dtype=np.int8), 0.1, -128)
    Tensor([ 0. , 25.5])
    """
    axis, scale, zero_point = checked_grid(q, scale, zero_point, axis)
    ### BEGIN SOLUTION
    scale, zero_point = along(scale, q.ndim, axis), along(zero_point, q.ndim, axis)
    return Tensor._wrap(((q.data.astype(np.float64) - zero_point) * scale).astype(np.float32))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-dequantize-int8", "locked": true, "points": 5, "solution": false}
def test_dequantize_int8():
    q = Tensor([[-128, 0], [100, 127]], dtype=np.int8)
    x = dequantize_int8(q, 0.1, -128)
    check(
        x, np.array([[0.0, 12.8], [22.8, 25.5]]), "widen q before you subtract: int8 wraps around"
    )
    check(x.dtype, np.float32, "the result is float32")
    ### BEGIN HIDDEN TESTS
    x = dequantize_int8(q, np.array([1.0, 10.0]), np.array([0, 2]), axis=0)
    check(x, [[-128.0, 0.0], [980.0, 1250.0]], "axis=0: one scale for each row")
    x = dequantize_int8(q, np.array([1.0, 10.0]), np.array([0, 2]), axis=1)
    check(x, [[-128.0, -20.0], [100.0, 1250.0]], "axis=1: one scale for each column")
    ### END HIDDEN TESTS


test_dequantize_int8()

# %% [markdown]
r"""
### Exercise 6: a constant comes back exactly

A bias of one number, a channel of equal weights: there is one value to store, and no reason to lose any of it. Choose the scale so that the value lies *on* a mark:

- a whole number in [-128, 127] ([-127, 127] if symmetric): scale 1, so that q is the number itself;
- any other $c$: scale $|c| / 127$, so that q is 127 or -127.

The zero point is 0. `constant_scale(c, symmetric)` gives the scale, for one number or an array of them: 5.0 has 1.0, -0.254 has 0.002, 0.0 has 1.0. (Scales up to `SMALLEST_SCALE` become 1 again.)
"""


# %% nbgrader={"grade": false, "grade_id": "constant-scale", "locked": false, "solution": true}
#| exporti
def constant_scale(c: Any, symmetric: bool = False) -> np.ndarray:
    """The scale that has `c` on a mark, with zero point 0: 1 if `c` is a mark, else |c| / 127.

    >>> constant_scale(np.array([5.0, -0.254]))
    array([1.   , 0.002])
    """
    ### BEGIN SOLUTION
    lowest, highest = integer_range(8, symmetric)
    whole = (np.rint(c) == c) & (lowest <= c) & (c <= highest)
    scale = np.abs(c) / highest
    return np.where(whole | (scale <= SMALLEST_SCALE), 1.0, scale)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-constant-scale", "locked": true, "points": 4, "solution": false}
def test_constant_scale():
    check(
        constant_scale(np.array([5.0, -0.254, 0.0])), [1.0, 0.002, 1.0], "whole: 1, else |c| / 127"
    )
    check(constant_scale(np.array([300.0])), [300 / 127], "300 is whole, but no mark is called 300")
    ### BEGIN HIDDEN TESTS
    check(constant_scale(np.array([-128.0])), [1.0], "-128 is a mark")
    check(constant_scale(np.array([-128.0]), symmetric=True), [128 / 127], "symmetric: no -128")
    ### END HIDDEN TESTS


test_constant_scale()

# %% [markdown]
r"""
### Exercise 7: quantize_int8

Put it together. `x` is given: the tensor's numbers in float64, all finite. You have `value_range`, `quantization_parameters`, `constant_scale`, `along`, `to_int8`, `as_numbers` and `integer_range`.

Where low equals high (in a channel, or everywhere) the scale is `constant_scale(high, symmetric)` and the zero point 0.
Return `(Tensor._wrap(int8 array), scale, zero_point)`: a float and an int, or with an `axis` two arrays.

[[1, 2, 3], [4, 5, 6]] has scale 6/255 and zero point -128; 6 becomes 127, 1 becomes -86.
"""


# %% nbgrader={"grade": false, "grade_id": "quantize-int8", "locked": false, "solution": true}
#| export
def quantize_int8(
    tensor: Tensor,
    symmetric: bool = False,
    axis: int | None = None,
    name: str = "quantize_int8: tensor",
) -> tuple[Tensor, Any, Any]:
    """A tensor as int8, with what brings it back: (q, scale, zero_point).

    The grid covers the values and 0; a constant comes back exactly. `scale` and `zero_point` are a
    float and an int; with an `axis`, each slice along it has a grid of its own, and they are 1-D
    arrays of float64 and int32. Raises TypeError unless the tensor holds floats, ValueError for NaN
    and infinity; errors call the tensor `name`.

    >>> q, scale, zero_point = quantize_int8(Tensor([[1, 2, 3], [4, 5, 6]]))
    >>> q.tolist(), round(scale, 5), zero_point
    ([[-86, -43, 0], [42, 84, 127]], 0.02353, -128)
    """
    require_floats(tensor, name)
    axis, x = checked_axis(axis, tensor.ndim, name), finite(tensor, name)
    ### BEGIN SOLUTION
    low, high = value_range(x, axis)
    scale, zero_point = quantization_parameters(low, high, symmetric)
    constant = low == high
    scale = np.where(constant, constant_scale(high, symmetric), scale)
    zero_point = np.where(constant, 0, zero_point)
    grid = along(scale, x.ndim, axis), along(zero_point, x.ndim, axis)
    q = to_int8(x, *grid, *integer_range(8, symmetric))
    return Tensor._wrap(q), *as_numbers(scale, zero_point)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-quantize-int8", "locked": true, "points": 7, "solution": false}
def test_quantize_int8():
    q, scale, zero_point = quantize_int8(Tensor([[1, 2, 3], [4, 5, 6]]))
    check(q, np.array([[-86, -43, 0], [42, 84, 127]]), "the marks of a grid from 0 to 6")
    check(
        (scale, zero_point), (6 / 255, -128), "scale (high - low) / 255, low and high being 0 and 6"
    )
    check([type(scale), type(zero_point)], [float, int], "a plain float and a plain int")
    constant = Tensor([0.3, 0.3])
    q, scale, zero_point = quantize_int8(constant)
    restored = dequantize_int8(q, scale, zero_point)
    check(restored, constant.data, "a constant comes back exactly", tolerance=0)
    ### BEGIN HIDDEN TESTS
    check(q.dtype, np.int8, "the tensor holds real int8")
    q, scale, zero_point = quantize_int8(Tensor([[1, 3], [100, 300]]), symmetric=True, axis=0)
    check(q, [[42, 127], [42, 127]], "axis=0: each row on its own grid")
    check(scale, np.array([3 / 127, 300 / 127]), "one scale for each row")
    q, scale, zero_point = quantize_int8(Tensor([[7, 1], [7, -1]]), axis=1)
    check(scale, np.array([1.0, 2 / 255]), "a constant channel beside another")
    check(zero_point, np.array([0, 0]), "a constant channel has zero point 0")
    check(quantize_int8(zeros(3))[1:], (1.0, 0), "zeros: scale 1, zero point 0")
    check(quantize_int8(zeros(0))[0].shape, (0,), "nothing in, nothing out")
    ### END HIDDEN TESTS


test_quantize_int8()

# %% [markdown]
r"""
## How wrong is it?

The largest error should be half a step. But a mean, and a ratio to the signal, say more. The **signal-to-noise ratio** compares the power of the numbers with the power of the errors, on a logarithmic scale:

$$\mathrm{SNR} = 10 \log_{10} \frac{\sum x^2}{\sum (x - x')^2}\ \mathrm{dB}$$

20 dB: the error is a tenth of the signal in size. 40 dB: a hundredth. 60 dB: a thousandth.

### Exercise 8: quantization_error

Return a dict of four floats: `max_error`, `mean_error` (both of $|x - x'|$), `mse` (the mean of squares) and `snr_db`. `x` and `y` are given as float64 arrays. No error at all is `math.inf` dB,
an error where the signal is all zeros `-math.inf`.

[3, 4] that came back as [3, 4.5]: 0.5, 0.25, 0.125 and 20 dB.
"""


# %% nbgrader={"grade": false, "grade_id": "quantization-error", "locked": false, "solution": true}
#| export
def quantization_error(original: Tensor, restored: Tensor) -> dict[str, float]:
    """How far `restored` is from `original`: `max_error`, `mean_error`, `mse` and `snr_db`.

    The errors are absolute values; snr_db = 10 log10(sum x^2 / sum (x - x')^2), infinite without an
    error. Raises ValueError where the shapes differ or there is no element.

    >>> error = quantization_error(Tensor([3, 4]), Tensor([3, 4.5]))
    >>> error["max_error"], error["mse"], round(error["snr_db"], 9)
    (0.5, 0.125, 20.0)
    """
    x, y = comparable(original, restored)
    ### BEGIN SOLUTION
    error = np.abs(x - y)
    signal, noise = float((x**2).sum()), float((error**2).sum())
    if noise == 0 or signal == 0:
        snr = math.inf if noise == 0 else -math.inf
    else:
        snr = 10 * math.log10(signal / noise)
    return {
        "max_error": float(error.max()),
        "mean_error": float(error.mean()),
        "mse": noise / x.size,
        "snr_db": snr,
    }
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-quantization-error", "locked": true, "points": 5, "solution": false}
def test_quantization_error():
    expected = {"max_error": 0.5, "mean_error": 0.25, "mse": 0.125, "snr_db": 20.0}
    error = quantization_error(Tensor([3.0, 4.0]), Tensor([3.0, 4.5]))
    check(error, expected, "signal 25, noise 0.25: a ratio of 100 is 20 dB")
    ### BEGIN HIDDEN TESTS
    error = quantization_error(Tensor([3.0, -4.0]), Tensor([3.5, -4.5]))
    check(error["mean_error"], 0.5, "the mean of absolute errors: they must not cancel")
    check(error["max_error"], 0.5, "the size of the largest error")
    same = Tensor([1.0, 2.0])
    check(quantization_error(same, same)["snr_db"], math.inf, "no error: infinite")
    check(quantization_error(zeros(1), same[:1])["snr_db"], -math.inf, "no signal: -infinite")
    ### END HIDDEN TESTS


test_quantization_error()

# %% [markdown]
r"""
### Six decibels a bit

One bit more halves the step. Errors spread evenly over a step of size $s$ have the power $s^2 / 12$, so half the step means a quarter of the power: $10 \log_{10} 4 \approx 6.02$ dB.
**Predict** the slope of the next picture, and the distance of INT8 from INT4 in dB.
"""


# %%
def snr_of_bits(x: Tensor, bits: int) -> float:
    """The SNR of a tensor on a symmetric grid of so many bits."""
    scale, zero_point = quantization_parameters(*value_range(x.data), symmetric=True, bits=bits)
    q = to_int8(x.data, scale, zero_point, *integer_range(bits, symmetric=True))
    return quantization_error(x, dequantize_int8(Tensor._wrap(q), scale, zero_point))["snr_db"]


manual_seed(0)
gaussian = randn(100_000)
widths = range(3, 9)
measured = [snr_of_bits(gaussian, bits) for bits in widths]
for bits, snr in zip(widths, measured, strict=True):
    print(f"INT{bits}: {snr:5.1f} dB")
print(f"per bit from 4 to 8: {(measured[-1] - measured[1]) / 4:.2f} dB")

if plt:
    plt.plot(widths, measured, "ko-", label="measured, normal numbers")
    plt.plot(
        widths, [measured[-1] - 6.02 * (8 - bits) for bits in widths], "k:", label="6.02 dB a bit"
    )
    plt.title("Each bit halves the step")
    plt.xlabel("bits")
    plt.ylabel("signal-to-noise ratio (dB)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
### The outlier that eats the range

A thousand numbers between -1 and 1, and a single 100. The grid must reach to 100. **Predict** how many different marks the thousand others share, and the SNR: of everything, and of the thousand alone.
"""

# %%
bulk = np.random.default_rng(0).uniform(-1, 1, 1000)
for outlier in (1.0, 10.0, 100.0):
    x = Tensor(np.append(bulk, outlier))
    q, scale, zero_point = quantize_int8(x)
    restored = dequantize_int8(q, scale, zero_point)
    total = quantization_error(x, restored)["snr_db"]
    inner = quantization_error(x[:-1], restored[:-1])["snr_db"]
    marks = len(np.unique(q.data[:-1]))
    print(
        f"outlier {outlier:5.0f}: {marks:3} marks for the bulk, SNR of all {total:4.1f} dB, of the bulk {inner:4.1f} dB"
    )

# %% [markdown]
r"""
Look at both columns. The outlier carries most of the power and is stored well, so the total looks harmless while the bulk is nearly destroyed. **One number for the error of everything hides who pays.**

### A grid for each channel

Where the large numbers sit together, in one row or column, the cure is a grid of its own for each. Here are eight rows, each three times as large as the one before, and then two of which one is 100 times the other.
"""

# %%
manual_seed(0)
rows = randn(8, 256) * Tensor(3.0 ** np.arange(8)).unsqueeze(1)
for axis in (None, 0):
    restored = dequantize_int8(*quantize_int8(rows, axis=axis), axis=axis)
    each = [quantization_error(a, b)["snr_db"] for a, b in zip(rows, restored, strict=True)]
    title = "one grid    " if axis is None else "one each row"
    print(f"{title}: SNR of the rows {' '.join(f'{snr:5.1f}' for snr in each)} dB")

pair = randn(2, 256) * Tensor([[1.0], [100.0]])
for axis in (None, 0):
    restored = dequantize_int8(*quantize_int8(pair, axis=axis), axis=axis)
    small, large = (quantization_error(pair[i], restored[i])["mean_error"] for i in (0, 1))
    print(
        f"axis={axis}: mean error of the small row {small:.4f}, of the one 100x larger {large:.4f}"
    )

# %% [markdown]
r"""
It costs one scale and one zero point for each channel: 12 bytes beside hundreds or thousands. In our `Linear`, `y = x @ weight + bias` with a weight of (in, out): an output channel is a column, **axis 1**.

## Activations: calibration

Weights lie still; you can look at them. What flows between layers depends on the input. So you show the network some typical data, note the range that reaches each layer, and fix its grid: **calibration**.

- **Min-max** takes the smallest and the largest value ever seen. Nothing is clipped, and one outlier can eat the range.
- **Percentile** cuts off both tails: with `percentile=99.9` the range goes from the 0.1st to the 99.9th percentile of all values, and what lies beyond is clipped to the last mark.

### Exercise 9: calibration_range

`calibration_range(batches, percentile)` gives `(low, high)` as floats from a list of arrays: of **all** values of all batches together, not the mean of each batch's range. `np.percentile(values, [a, b])` gives two at once.

[0, 1, ..., 1000] with percentile 99 gives (10, 990).
"""


# %% nbgrader={"grade": false, "grade_id": "calibration-range", "locked": false, "solution": true}
#| exporti
def calibration_range(
    batches: list[np.ndarray], percentile: float | None = None
) -> tuple[float, float]:
    """The range to quantise for: of all values, or between the percentiles 100 - p and p.

    >>> calibration_range([np.arange(500.0), np.arange(500.0, 1001.0)], percentile=99)
    (10.0, 990.0)
    """
    ### BEGIN SOLUTION
    if percentile is None:
        return float(min(x.min() for x in batches)), float(max(x.max() for x in batches))
    values = np.concatenate([x.reshape(-1) for x in batches])
    low, high = np.percentile(values, [100 - percentile, percentile])
    return float(low), float(high)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-calibration-range", "locked": true, "points": 5, "solution": false}
def test_calibration_range():
    batches = [np.arange(500.0), np.arange(500.0, 1001.0)]
    check(calibration_range(batches), (0.0, 1000.0), "min-max: of all batches")
    check(
        calibration_range(batches, percentile=99),
        (10.0, 990.0),
        "both tails of all values together",
    )
    ### BEGIN HIDDEN TESTS
    uneven = [np.zeros((2, 2)), np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])]
    check(
        calibration_range(uneven, percentile=75),
        (0.0, 3.75),
        "all values count, whatever their batch",
    )
    check(calibration_range(uneven[::-1]), (0.0, 6.0), "the last batch is not all")
    ### END HIDDEN TESTS


test_calibration_range()

# %% [markdown]
r"""
## Multiplying integers

With $x \approx s_x (q_x - z_x)$ and $w \approx s_w (q_w - z_w)$, a product of matrices needs floats only at its very end:

$$\sum_k x_{ik} w_{kj} \approx s_x s_w \sum_k (q_x - z_x)_{ik} (q_w - z_w)_{kj}$$

The sum of integers is the **accumulator**. Multiplied out it shows what it costs that zero isn't 0:

$$\sum_k q_x q_w \;-\; z_x \underbrace{\sum_k q_w}_{\text{columns of } q_w} \;-\; z_w \underbrace{\sum_k q_x}_{\text{rows of } q_x} \;+\; K z_x z_w$$

The first term is a product of bytes. The others are cheap: sums of columns and rows.

NumPy has a slow product of integers and a fast one of floats. So let floats carry the integers: a float32 counts every integer up to $2^{24}$. **How many products of two int8 numbers can it add and be exact?** Work it out before you read on.
"""

# %%
print("largest product of two int8 numbers:", (-128) * (-128), "= 2^14")
print("so many of them reach 2^24:         ", 2**24 // 2**14)
full = np.full((1, 4097), -127, np.int8)
print(
    "4097 of them in one float32 sum:    ",
    int((full.astype(np.float32) @ full.astype(np.float32).T)[0, 0]),
)
print("what is right:                      ", 4097 * 127 * 127)

# %% [markdown]
r"""
### Exercise 10: int8_matmul

`int8_matmul(a, b, zero_a, zero_b)` computes $(a - z_a) @ (b - z_b)$ **exactly**, for int8 arrays `a` (N, K) and `b` (K, M). `zero_a` is an integer, `zero_b` one or M of them (an int64 array works for both).

1. Start with `np.zeros((N, M))` in float64, which counts integers up to $2^{53}$.
2. For each block of `BLOCK` = 1024 of the K inner indices, convert both parts to float32, multiply, and add: every float32 sum is exact.
3. The sums of the same float32 parts, over columns and over rows, are exact too: subtract their terms. The last term comes once, at the end.

For a = [[1, 2]], b = [[3], [4]], zero points 1 and -2: (0 x 5) + (1 x 6) = 6.
"""

# %% nbgrader={"grade": false, "grade_id": "int8-matmul", "locked": false, "solution": true}
#| exporti
BLOCK = 1024  # |a b| <= 2^14, so a float32, exact up to 2^24, adds 2^10 of them without rounding


def int8_matmul(a: np.ndarray, b: np.ndarray, zero_a: Any, zero_b: Any) -> np.ndarray:
    """(a - zero_a) @ (b - zero_b), exactly: int8 (N, K), (K, M) -> whole float64 numbers (N, M).

    >>> a, b = np.array([[1, 2]], np.int8), np.array([[3], [4]], np.int8)
    >>> int8_matmul(a, b, 1, -2)
    array([[6.]])
    """
    zero_b = np.asarray(zero_b, np.int64)
    ### BEGIN SOLUTION
    total = np.zeros((a.shape[0], b.shape[1]))
    for start in range(0, a.shape[1], BLOCK):
        left = a[:, start : start + BLOCK].astype(np.float32)
        right = b[start : start + BLOCK].astype(np.float32)
        total += left @ right
        total -= zero_a * right.sum(axis=0)
        total -= zero_b * left.sum(axis=1, keepdims=True)
    return total + a.shape[1] * zero_a * zero_b
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-int8-matmul", "locked": true, "points": 7, "solution": false}
def test_int8_matmul():
    a, b = np.array([[1, 2]], np.int8), np.array([[3], [4]], np.int8)
    check(int8_matmul(a, b, 0, 0), [[11.0]], "without zero points: the product itself")
    check(int8_matmul(a, b, 1, -2), [[6.0]], "(a - 1) @ (b + 2)")
    ### BEGIN HIDDEN TESTS
    random = np.random.default_rng(0)
    a = random.integers(-128, 128, (3, 5), np.int8)
    b = random.integers(-128, 128, (5, 2), np.int8)
    zero_b = np.array([7, -128])
    right = (a.astype(np.int64) + 100) @ (b.astype(np.int64) - zero_b)
    check(
        int8_matmul(a, b, -100, zero_b), right.astype(float), "a zero point for each column of b", 0
    )
    long = np.full((1, 5001), -127, np.int8)
    check(int8_matmul(long, long.T, 0, 0), [[5001.0 * 127 * 127]], "exact for long sums too", 0)
    ### END HIDDEN TESTS


test_int8_matmul()

# %% [markdown]
r"""
### Exercise 11: int8_linear

The layer's arithmetic as one operation: the accumulator, times `scale` (that is $s_x s_w$: a number, or M of them when each output channel has its own), plus the bias in floats.
`q_x` has shape (..., K) with any number of axes in front: flatten them for the product, and give them back. (What goes in are arrays: `@op` has unwrapped them.)

For the example above with scale 0.5 and bias 100: 103.
"""


# %% nbgrader={"grade": false, "grade_id": "int8-linear", "locked": false, "solution": true}
#| exporti
@op
def int8_linear(q_x, q_weight, bias=None, scale=1.0, x_zero_point=0, weight_zero_point=0):
    """scale * (q_x - x_zero_point) @ (q_weight - weight_zero_point) + bias: (..., K) -> (..., M).

    The accumulator is exact; `scale` is the product of the two scales, a number or (M,).

    >>> x, weight = Tensor([1, 2], dtype=np.int8), Tensor([[3], [4]], dtype=np.int8)
    >>> int8_linear(x, weight, scale=0.5, x_zero_point=1, weight_zero_point=-2)
    Tensor([3.])
    """
    ### BEGIN SOLUTION
    rows = q_x.reshape(math.prod(q_x.shape[:-1]), q_x.shape[-1])
    y = int8_matmul(rows, q_weight, x_zero_point, weight_zero_point) * scale
    if bias is not None:
        y += bias
    return y.reshape(*q_x.shape[:-1], q_weight.shape[1])
    ### END SOLUTION


nondifferentiable(int8_linear)  # rounding has no slope: gradients end at the integers
FLOPS["int8_linear"] = linear_flops  # the profiler counts as many operations as in floats


# %% nbgrader={"grade": true, "grade_id": "test-int8-linear", "locked": true, "points": 5, "solution": false}
def test_int8_linear():
    x = Tensor([[1, 2], [3, 4]], dtype=np.int8)
    weight = Tensor([[3, 0], [4, 1]], dtype=np.int8)
    y = int8_linear(
        x, weight, Tensor([100.0, 0.0]), scale=0.5, x_zero_point=1, weight_zero_point=-2
    )
    check(y, [[103.0, 1.5], [114.0, 6.5]], "scale * accumulator + bias")
    ### BEGIN HIDDEN TESTS
    y = int8_linear(x, weight, scale=np.array([1.0, 10.0]))
    check(y, [[11.0, 20.0], [25.0, 40.0]], "a scale for each output channel")
    y = int8_linear(Tensor(x.data.reshape(2, 1, 2)), weight)
    check(y, [[[11.0, 2.0]], [[25.0, 4.0]]], "(2, 1, 2) -> (2, 1, 2)")
    check(int8_linear(x[0], weight).shape, (2,), "(K,) -> (M,)")
    ### END HIDDEN TESTS


test_int8_linear()

# %% [markdown]
r"""
## The layer

`QuantizedLinear` is given: it takes a `Linear` apart into int8 buffers, and its methods call what you write. Read it; note what it does **not** keep: no float32 weight.
What it holds are buffers, not parameters: an optimizer finds nothing to train, and `state_dict` saves every byte of it.

Until it is calibrated, `x` stays float and meets the dequantised weight. Calibrated (`input_scale` is not 0 any more), `x` becomes int8 too and integers are multiplied.
"""


# %% nbgrader={"grade": false, "grade_id": "quantized-linear", "locked": true, "solution": false}
#| export
class QuantizedLinear(Module):
    """A Linear with int8 weight and bias; once calibrated, it multiplies integers.

    `axis=1` gives each output channel a grid of its own. `symmetric` holds for weight, bias and
    input. Payload, scales and zero points are buffers: in `state_dict`, not in `parameters()`.
    Uncalibrated, `input_scale` is 0, `x` stays float and meets the dequantised weight; calibrated,
    `x` is quantised as well, what lies outside the calibrated range is clipped, and no gradient
    passes. `name` is what errors call the layer.

    >>> layer = QuantizedLinear(Linear(4, 2))
    >>> layer.calibrate(Tensor([[0, 1, 2, 3]]))
    >>> layer
    QuantizedLinear(in_features=4, out_features=2, bias=True, calibrated=True)
    >>> layer.q_weight.dtype, len(layer.parameters())
    (dtype('int8'), 0)
    """

    q_weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    q_bias: Tensor | None
    bias_scale: Tensor | None
    bias_zero_point: Tensor | None
    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(
        self,
        linear: Linear,
        symmetric: bool = False,
        axis: int | None = None,
        name: str = "QuantizedLinear",
    ):
        if not isinstance(linear, Linear):
            raise TypeError(f"{name}: expected a Linear, got {type(linear).__name__}")
        if axis not in (None, 1, -1):
            raise ValueError(f"{name}: axis must be 1 (output channels) or None, got {axis}")
        self.in_features, self.out_features = linear.weight.shape
        self.symmetric, self.axis, self.name = symmetric, None if axis is None else 1, name
        self.original_bytes = sum(tensor.nbytes for tensor in linear.parameters())
        self._keep("weight", linear.weight, self.axis)
        self._keep("bias", linear.bias, None)
        self.register_buffer("input_scale", Tensor(0.0, dtype=np.float64))
        self.register_buffer("input_zero_point", Tensor(0, dtype=np.int32))

    def _keep(self, part: str, tensor: Tensor | None, axis: int | None) -> None:
        """Register q_part, part_scale and part_zero_point; all None where there is no tensor."""
        q, scale, zero_point = None, None, None
        if tensor is not None:
            q, scale, zero_point = quantize_int8(
                tensor, self.symmetric, axis, name=f"{self.name}.{part}"
            )
            scale, zero_point = Tensor(scale, dtype=np.float64), Tensor(zero_point, dtype=np.int32)
        self.register_buffer(f"q_{part}", q)
        self.register_buffer(f"{part}_scale", scale)
        self.register_buffer(f"{part}_zero_point", zero_point)

    @property
    def calibrated(self) -> bool:
        """Is the grid of the input known?"""
        return self.input_scale.item() != 0

    def calibrate(self, data: Any, percentile: float | None = None) -> None:
        """Choose the grid of the input for `data`: a Tensor, or an iterable of them.

        It covers the smallest to the largest value, or the percentiles 100 - p to p, and 0.
        """
        require_percentile(percentile)
        batches = [summary(x, percentile, f"{self.name}.input") for x in input_batches(data)]
        self.set_input_range(*calibration_range(batches, percentile))

    def set_input_range(self, low: float, high: float) -> None:
        """Choose the grid of the input for values from `low` to `high`."""
        scale, zero_point = quantization_parameters(low, high, self.symmetric)
        self.input_scale = Tensor(scale, dtype=np.float64)
        self.input_zero_point = Tensor(zero_point, dtype=np.int32)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"{self.name}: expected (..., {self.in_features}), got {x.shape}")
        bias = self.q_bias
        if bias is not None:
            bias = dequantize_int8(bias, self.bias_scale, self.bias_zero_point)
        if not self.calibrated:
            grid = self.weight_scale, self.weight_zero_point, self.axis
            return linear(x, dequantize_int8(self.q_weight, *grid), bias)
        scale, zero_point = self.input_scale.item(), self.input_zero_point.item()
        limits = integer_range(8, self.symmetric)
        q_x = to_int8(finite(x, f"{self.name}.input"), scale, zero_point, *limits)
        return int8_linear(
            Tensor._wrap(q_x),
            self.q_weight,
            bias,
            scale=scale * self.weight_scale.data,
            x_zero_point=zero_point,
            weight_zero_point=self.weight_zero_point.data,
        )

    def memory_usage(self) -> dict[str, float]:
        """The bytes that the layer took and takes.

        `original_bytes`; `quantized_bytes`, the payload; `overhead_bytes`, scales and zero points.
        `compression_ratio` compares the payload alone, `total_ratio` all that is held.
        """
        return layer_memory(self)

    def _extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bias={self.q_bias is not None}, calibrated={self.calibrated}"


# %% nbgrader={"grade": false, "grade_id": "calibration-parts", "locked": true, "solution": false}
#| exporti
def require_percentile(percentile: float | None) -> None:
    """ValueError where a percentile would cut off more than it keeps."""
    if percentile is not None and not 50 < percentile <= 100:
        raise ValueError(f"calibration: percentile must be above 50, up to 100, got {percentile}")


def input_batches(data: Any) -> Iterator[Tensor]:
    """The inputs in a Tensor, an iterable of them, or a loader of (input, target).

    Raises ValueError where there is none, TypeError where a batch is no Tensor.
    """
    count = 0
    for batch in [data] if isinstance(data, Tensor) else data:
        x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(x, Tensor):
            raise TypeError(f"calibration: expected batches of Tensors, got {type(x).__name__}")
        if x.size:
            count += 1
            yield x
    if not count:
        raise ValueError("calibration: the data is empty: give at least one batch")


def summary(x: Any, percentile: float | None, name: str) -> np.ndarray:
    """What calibration must remember of a batch: its extremes, or for percentiles all of it."""
    values = finite(x, name)
    if percentile is None:
        return np.array([values.min(), values.max()])
    return values.astype(np.float32)


def recorder(name: str, notes: list[np.ndarray], percentile: float | None) -> Callable[..., None]:
    """A hook that adds what reaches the layer `name` to `notes`."""

    def hook(module: Module, inputs: tuple) -> None:
        if inputs and inputs[0].size:
            notes.append(summary(inputs[0], percentile, f"{name}.input"))

    return hook


# %% [markdown]
r"""
### Exercise 12: what it holds

`layer_memory(layer)` counts real bytes (`tensor.nbytes`): `quantized_bytes` of the payload (`q_weight`, and `q_bias` if it isn't None), `overhead_bytes` of the layer's other buffers,
`original_bytes` from the layer's attribute, `compression_ratio` = original / payload, and `total_ratio` = original / (payload + overhead). `layer.buffers()` lists all buffers.

A layer of 100 x 10 with bias: 4040 bytes were, 1010 are payload, 36 overhead (three scales of 8 bytes, three zero points of 4).
"""


# %% nbgrader={"grade": false, "grade_id": "layer-memory", "locked": false, "solution": true}
#| exporti
def layer_memory(layer: QuantizedLinear) -> dict[str, float]:
    """The bytes of a quantised layer, before and after.

    >>> layer_memory(QuantizedLinear(Linear(100, 10)))["overhead_bytes"]
    36
    """
    ### BEGIN SOLUTION
    payload = layer.q_weight.nbytes + (0 if layer.q_bias is None else layer.q_bias.nbytes)
    held = sum(tensor.nbytes for tensor in layer.buffers())
    return {
        "original_bytes": layer.original_bytes,
        "quantized_bytes": payload,
        "overhead_bytes": held - payload,
        "compression_ratio": layer.original_bytes / payload,
        "total_ratio": layer.original_bytes / held,
    }
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-layer-memory", "locked": true, "points": 4, "solution": false}
def test_layer_memory():
    memory = layer_memory(QuantizedLinear(Linear(100, 10)))
    counts = [memory[name] for name in ("original_bytes", "quantized_bytes", "overhead_bytes")]
    check(counts, [4040, 1010, 36], "4 bytes a number before, 1 after, and what the grids take")
    check(memory["compression_ratio"], 4.0, "payload only: exactly 4")
    check(memory["total_ratio"], 4040 / 1046, "with scales and zero points")
    ### BEGIN HIDDEN TESTS
    memory = layer_memory(QuantizedLinear(Linear(100, 10, bias=False), axis=1))
    counts = [memory[name] for name in ("original_bytes", "quantized_bytes", "overhead_bytes")]
    check(
        counts, [4000, 1000, 10 * 12 + 12], "no bias, ten grids for the weight, one for the input"
    )
    ### END HIDDEN TESTS


test_layer_memory()

# %% [markdown]
r"""
Now it runs. **Predict** which of the two is farther from the original: the layer with float inputs, or the one that quantises its inputs as well?
"""

# %%
manual_seed(0)
some = Linear(64, 32)
inputs = randn(200, 64)
layer = QuantizedLinear(some, axis=1)
print(
    f"weights in int8:            {quantization_error(some(inputs).detach(), layer(inputs))['snr_db']:.1f} dB"
)
layer.calibrate(inputs)
print(
    f"weights and inputs in int8: {quantization_error(some(inputs).detach(), layer(inputs))['snr_db']:.1f} dB"
)

# %% [markdown]
r"""
## The whole model

### Exercise 13: listen to every layer

To calibrate a model, run it once on the data and note what reaches each Linear. `observe_inputs(model, layers, data, percentile)` does it with hooks and returns `{name: (low, high)}`.

1. For each `name, layer` of the dict `layers`: `layer.register_forward_pre_hook(hook)`, where `hook(module, inputs)` appends `summary(inputs[0], percentile, f"{name}.input")` to a list of that name. (The given `recorder` makes such a hook.)
2. Call the model on each of `input_batches(data)`, once, inside `with evaluating(model):` (from module 07: eval mode, and nothing is recorded). In training mode Dropout would change what reaches the layers.
3. Remove the hooks **whatever happens**: `try` ... `finally`. A hook that stays would slow every later call down, and keep its memory.
4. `calibration_range` of each list. A layer that nothing reached is left out.
"""


# %% nbgrader={"grade": false, "grade_id": "observe-inputs", "locked": false, "solution": true}
#| exporti
def observe_inputs(
    model: Module, layers: Mapping[str, Module], data: Any, percentile: float | None = None
) -> dict[str, tuple[float, float]]:
    """The range of what reaches each layer, by name, while the model sees the data once.

    The model runs in eval mode, without gradients. Raises ValueError for NaN, naming the layer.
    """
    ### BEGIN SOLUTION
    notes: dict[str, list[np.ndarray]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_pre_hook(recorder(name, notes[name], percentile))
        for name, layer in layers.items()
    ]
    try:
        with evaluating(model):
            for x in input_batches(data):
                model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: calibration_range(seen, percentile) for name, seen in notes.items() if seen}
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-observe-inputs", "locked": true, "points": 7, "solution": false}
def test_observe_inputs():
    model = Sequential(Dropout(0.9), Linear(2, 2))
    batches = [Tensor([[0, 1]]), Tensor([[-3, 2]])]
    ranges = observe_inputs(model, {"1": model[1]}, batches)
    check(
        ranges, {"1": (-3.0, 2.0)}, "all batches, in eval mode: Dropout must let everything through"
    )
    check(len(model[1]._forward_pre_hooks), 0, "remove the hooks at the end")
    check(model.training, True, "the model gets its mode back")
    ### BEGIN HIDDEN TESTS
    with check_raises(ValueError, "1.input holds nan", "NaN in the data must not pass"):
        observe_inputs(model, {"1": model[1]}, [batches[0], Tensor([[0, math.nan]])])
    check(len(model[1]._forward_pre_hooks), 0, "remove the hooks also where something went wrong")
    with check_raises(ValueError, "empty", "no data is an error"):
        observe_inputs(model, {"1": model[1]}, [])
    idle = {"1": model[1], "idle": Linear(2, 2)}
    check(
        list(observe_inputs(model, idle, iter(batches))),
        ["1"],
        "one pass; what isn't reached stays out",
    )
    two = Sequential(Linear(1, 1), Linear(1, 1))
    for layer in two:
        layer.weight.data[...], layer.bias.data[...] = 10.0, 0.0
    layers = {"0": two[0], "1": two[1]}
    check(
        observe_inputs(two, layers, Tensor([[1.0]])),
        {"0": (1.0, 1.0), "1": (10.0, 10.0)},
        "each its own",
    )
    ### END HIDDEN TESTS


test_observe_inputs()

# %% [markdown]
r"""
### Exercise 14: replace, wherever it stands

A layer may be an attribute, or stand in a list, a tuple or a dict, in another list, ... `swapped(value, replacements)` returns what shall stand in its place; `replacements` goes from `id(module)` to the new module.

- A module that is to be replaced: its replacement.
- A list: the **same** list, its items swapped (`value[:] = ...`), so that everybody who holds it sees the change. A dict: the same dict.
- A tuple can't change: a new one. Anything else: itself.

If `fc` is to become `q`: `swapped([fc, {"a": fc}, 3], {id(fc): q})` gives `[q, {"a": q}, 3]`.
"""


# %% nbgrader={"grade": false, "grade_id": "swapped", "locked": false, "solution": true}
#| exporti
def swapped(value: Any, replacements: Mapping[int, Module]) -> Any:
    """`value` with modules replaced (by id): itself, or within its lists, dicts and tuples.

    >>> old, new = Linear(1, 1), Linear(2, 2)
    >>> swapped([old, 3], {id(old): new})
    [Linear(in_features=2, out_features=2, bias=True), 3]
    """
    ### BEGIN SOLUTION
    if id(value) in replacements:
        return replacements[id(value)]
    if isinstance(value, list):
        value[:] = [swapped(item, replacements) for item in value]
    elif isinstance(value, dict):
        value.update({key: swapped(item, replacements) for key, item in value.items()})
    elif type(value) is tuple:
        return tuple(swapped(item, replacements) for item in value)
    return value
    ### END SOLUTION


def replace_modules(model: Module, replacements: Mapping[int, Module]) -> None:
    """Put modules in the places of others (by id), in the whole tree."""
    for module in model.modules():
        if isinstance(module, Module):
            for name, value in vars(module).items():
                vars(module)[name] = swapped(value, replacements)


# %% nbgrader={"grade": true, "grade_id": "test-swapped", "locked": true, "points": 5, "solution": false}
def test_swapped():
    old, new, other = Linear(1, 1), Linear(2, 2), Linear(3, 3)
    replacements = {id(old): new}
    check(swapped(old, replacements) is new, True, "the module itself")
    layers = [old, other, {"a": old}]
    result = swapped(layers, replacements)
    check(result is layers, True, "the same list, changed in place")
    check([layers[0] is new, layers[1] is other, layers[2]["a"] is new], [True] * 3, "at any depth")
    ### BEGIN HIDDEN TESTS
    check(swapped((3, [old]), replacements)[1][0] is new, True, "tuples too")
    table = {"b": old}
    check(swapped(table, replacements) is table, True, "the same dict")
    check(swapped("text", replacements), "text", "anything else is itself")
    ### END HIDDEN TESTS


test_swapped()

# %% [markdown]
r"""
### Exercise 15: quantize_model

Given are `linear_layers` (which Linears there are, by name, without those in `skip`), the report, and the first lines. You write the rest, in an order that leaves the model **unchanged if anything fails**:

1. If there is `calibration_data` (not None), observe the inputs of `layers`; otherwise there are no ranges.
2. For each `name, layer`: a `QuantizedLinear(layer, symmetric, axis, name)`, with the layer's `training`, and with `set_input_range(low, high)` if there is a range of that name. Collect them in the dict `quantized`, by name.
3. Only then `replace_modules`, with `{id(layer): its replacement}`.

A Linear that stands in two places is one entry of `layers`: it is quantised once, and shared afterwards as before.
"""


# %% nbgrader={"grade": false, "grade_id": "quantize-model-parts", "locked": true, "solution": false}
#| exporti
def linear_layers(
    model: Module,
    skip: str | Iterable[str],
    asked: str = "quantize_model",
    quantized: str = "QuantizedLinear",
) -> dict[str, Linear]:
    """The Linears of a model by name, without those whose name, or a parent's, is in `skip`.

    Errors call the function that was `asked` and the layer that stands for a `quantized` Linear.
    """
    if isinstance(model, Linear):
        raise ValueError(
            f"{asked} replaces the layers inside a model, and a bare Linear is inside of "
            f"nothing: use {quantized}(linear)"
        )
    if not isinstance(model, Module):
        raise TypeError(f"{asked}: expected a Module, got {type(model).__name__}")
    skipped = {skip} if isinstance(skip, str) else set(skip)
    modules = dict(model.named_modules())
    layers = {  # a subclass with a forward of its own isn't ours to replace
        name: module
        for name, module in modules.items()
        if isinstance(module, Linear) and type(module).forward is Linear.forward
    }
    if unknown := sorted(skipped - set(modules)):
        raise ValueError(f"{asked}: skip names {unknown}, the Linears are {list(layers)}")
    return {
        name: layer
        for name, layer in layers.items()
        if not any(name == other or name.startswith(f"{other}.") for other in skipped)
    }


def model_bytes(model: Module) -> tuple[int, int, int]:
    """(numbers learned, bytes of these and of other buffers, bytes of scales and zero points)."""
    quantized = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    memory = [layer.memory_usage() for layer in quantized]
    overhead = int(sum(usage["overhead_bytes"] for usage in memory))
    numbers = sum(tensor.size for tensor in model.parameters())
    numbers += int(sum(usage["quantized_bytes"] for usage in memory))  # one byte each
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    return numbers, held - overhead, overhead


def report(
    quantized: Mapping[str, QuantizedLinear], before: tuple[int, ...], after: tuple[int, ...]
) -> QuantizationReport:
    """The report on a model that had and has so many bytes."""
    return QuantizationReport(
        quantized_layers=len(quantized),
        original_size_mb=(before[1] + before[2]) / 1e6,
        quantized_size_mb=after[1] / 1e6,
        overhead_mb=after[2] / 1e6,
        compression_ratio=(before[1] + before[2]) / after[1] if after[1] else 1.0,
        layers={name: layer.memory_usage() for name, layer in quantized.items()},
        uncalibrated=[name for name, layer in quantized.items() if not layer.calibrated],
    )


# %% nbgrader={"grade": false, "grade_id": "report", "locked": true, "solution": false}
#| export
class QuantizationReport(dict):
    """What `quantize_model` did: a dict that prints itself as a few lines.

    `quantized_layers` (how many), `original_size_mb`, `quantized_size_mb` (payload, and what stays
    float), `overhead_mb` (scales, zero points), `compression_ratio` (without the overhead),
    `layers` (name -> memory_usage()), `uncalibrated` (names). A MB is 1,000,000 bytes.
    """

    def __repr__(self) -> str:
        before, after, overhead = (
            f"{1000 * self[key]:.1f} kB"
            for key in ("original_size_mb", "quantized_size_mb", "overhead_mb")
        )
        lines = [
            f"Linear layers quantised: {self['quantized_layers']}",
            f"parameters: {before} -> {after} ({self['compression_ratio']:.2f}x) "
            f"and {overhead} of scales and zero points",
        ]
        if self["uncalibrated"]:
            lines.append(f"not calibrated (inputs stay float): {', '.join(self['uncalibrated'])}")
        return "\n".join(lines)


# %% nbgrader={"grade": false, "grade_id": "quantize-model", "locked": false, "solution": true}
#| export
def quantize_model(
    model: Module,
    calibration_data: Any = None,
    skip: str | Iterable[str] = (),
    symmetric: bool = False,
    axis: int | None = None,
    percentile: float | None = None,
) -> QuantizationReport:
    """Replace every Linear of a model by a QuantizedLinear, in place, and report what it saves.

    `calibration_data` (a Tensor, an iterable of them, or a loader of (input, target)) passes once,
    in eval mode, to choose the grids of the inputs by their extremes, or between the percentiles
    100 - p and p (which keeps every input until the pass ends); without data, inputs stay float.
    `skip` names layers, or parents of layers, that stay as they are; `axis=1` gives each output
    channel its own grid. A model without a Linear reports 0 layers. Raises ValueError for a bare
    Linear, empty data, an unknown name in `skip`, NaN and infinity; the model is unchanged then.

    >>> from tinytorch.nn import Sequential
    >>> model = Sequential(Linear(784, 100), Linear(100, 10))
    >>> quantize_model(model)["compression_ratio"]
    4.0
    """
    layers = linear_layers(model, skip)
    require_percentile(percentile)
    if percentile is not None and calibration_data is None:
        raise ValueError("quantize_model: percentile needs calibration_data to be a percentile of")
    before = model_bytes(model)
    quantized: dict[str, QuantizedLinear] = {}
    ### BEGIN SOLUTION
    ranges = {}
    if calibration_data is not None:
        ranges = observe_inputs(model, layers, calibration_data, percentile)
    for name, layer in layers.items():
        quantized[name] = QuantizedLinear(layer, symmetric, axis, name)
        quantized[name].training = layer.training
        if name in ranges:
            quantized[name].set_input_range(*ranges[name])
    replace_modules(model, {id(layer): quantized[name] for name, layer in layers.items()})
    ### END SOLUTION
    return report(quantized, before, model_bytes(model))


# %% nbgrader={"grade": true, "grade_id": "test-quantize-model", "locked": true, "points": 5, "solution": false}
def test_quantize_model():
    manual_seed(0)
    model = Sequential(Linear(8, 6), Dropout(0.5), Sequential(Linear(6, 3)))
    x = randn(20, 8)
    expected = copy.deepcopy(model).eval()(x)
    outcome = quantize_model(model, calibration_data=x, axis=1)
    check(outcome["quantized_layers"], 2, "both Linears, also the one in the inner Sequential")
    check(
        [type(m) is QuantizedLinear for m in (model[0], model[2][0])],
        [True, True],
        "replaced in place",
    )
    check(outcome["uncalibrated"], [], "data was given: every layer knows its range")
    check(model.eval()(x), expected, "the outputs stay close", tolerance=0.05)
    ### BEGIN HIDDEN TESTS
    check(model[0].weight_scale.shape, (6,), "axis=1 reaches the layers")
    shared = Linear(4, 4)
    twice = Sequential(shared, ReLU(), shared, Linear(4, 2)).eval()
    check(quantize_model(twice, skip=("3",))["uncalibrated"], ["0"], "without data: no ranges")
    check(twice[0] is twice[2], True, "what was shared is shared")
    check(type(twice[3]) is Linear, True, "skipped")
    check(twice[0].training, False, "the new layer is in the mode of the old one")
    bad = Sequential(Linear(2, 2), Linear(2, 2))
    bad[1].weight.data[0, 0] = math.nan
    with check_raises(ValueError, "1.weight holds nan", "NaN can't be quantised"):
        quantize_model(bad)
    check(type(bad[0]) is Linear, True, "a failure leaves the model unchanged")
    ### END HIDDEN TESTS


test_quantize_model()

# %% [markdown]
r"""
### Exercise 16: compare_model_sizes

`quantize_model` works in place, so keep a `copy.deepcopy` to compare with. From `model_bytes` of both models, which gives (numbers, bytes, overhead), return a dict:

| key | value |
|---|---|
| `original_params`, `quantized_params` | how many numbers |
| `original_bytes` | all of the original's bytes, its overhead (if any) included |
| `quantized_bytes`, `overhead_bytes` | bytes without overhead, and the overhead |
| `compression_ratio` | original / quantized bytes, without overhead (1.0 for a model without any) |
| `memory_saved_mb`, `memory_saved_percent` | what is really saved: **with** the overhead, in 1,000,000 bytes and percent |

For 100 numbers, 400 bytes, that became 100 bytes and 12 of overhead: 4.0, 0.000288 MB, 72 %.
"""


# %% nbgrader={"grade": false, "grade_id": "compare-model-sizes", "locked": false, "solution": true}
#| export
def compare_model_sizes(original: Module, quantized: Module) -> dict[str, float]:
    """What quantising saved: numbers, bytes, their ratio, megabytes (of 1e6 bytes), percent.

    `compression_ratio` leaves scales and zero points (`overhead_bytes`) out; `memory_saved_mb` and
    `memory_saved_percent` count them.

    >>> from tinytorch.nn import Sequential
    >>> model = Sequential(Linear(99, 1))
    >>> quantized = Sequential(QuantizedLinear(model[0]))
    >>> sizes = compare_model_sizes(model, quantized)
    >>> sizes["compression_ratio"], sizes["overhead_bytes"], sizes["memory_saved_percent"]
    (4.0, 36, 66.0)
    """
    numbers, payload, overhead = model_bytes(quantized)
    ### BEGIN SOLUTION
    original_numbers, original_payload, original_overhead = model_bytes(original)
    before = original_payload + original_overhead
    saved = before - payload - overhead
    return {
        "original_params": original_numbers,
        "quantized_params": numbers,
        "original_bytes": before,
        "quantized_bytes": payload,
        "overhead_bytes": overhead,
        "compression_ratio": before / payload if payload else 1.0,
        "memory_saved_mb": saved / 1e6,
        "memory_saved_percent": 100 * saved / before if before else 0.0,
    }
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-compare-model-sizes", "locked": true, "points": 4, "solution": false}
def test_compare_model_sizes():
    original = Sequential(Linear(99, 1))
    sizes = compare_model_sizes(original, Sequential(QuantizedLinear(original[0])))
    check(
        [sizes["original_params"], sizes["quantized_params"]],
        [100, 100],
        "as many numbers as before",
    )
    check([sizes["original_bytes"], sizes["quantized_bytes"]], [400, 100], "four bytes become one")
    check(sizes["compression_ratio"], 4.0, "without the overhead")
    check(sizes["memory_saved_percent"], 66.0, "400 - 100 - 36 bytes of 400 are saved")
    ### BEGIN HIDDEN TESTS
    check(sizes["overhead_bytes"], 36, "three scales, three zero points")
    check(sizes["memory_saved_mb"], 264e-6, "megabytes of 1,000,000 bytes", 1e-12)
    partly = compare_model_sizes(original, original)
    check([partly["compression_ratio"], partly["memory_saved_mb"]], [1.0, 0.0], "nothing saved")
    check(
        compare_model_sizes(Sequential(), Sequential())["compression_ratio"],
        1.0,
        "no numbers at all",
    )
    ### END HIDDEN TESTS


test_compare_model_sizes()


# %% nbgrader={"grade": false, "grade_id": "quantizer", "locked": true, "solution": false}
#| export
class Quantizer:
    """The functions of this file in one place.

    >>> q, scale, zero_point = Quantizer.quantize_tensor(Tensor([0, 255]))
    >>> Quantizer.dequantize_tensor(q, scale, zero_point)
    Tensor([  0., 255.])
    """

    quantize_tensor = staticmethod(quantize_int8)
    dequantize_tensor = staticmethod(dequantize_int8)
    quantize_model = staticmethod(quantize_model)
    compare_models = staticmethod(compare_model_sizes)


# %% [markdown]
r"""
## Put together: digits in bytes

Now quantise the network from the beginning, calibrated on **training** digits (on test digits you would peek). **Predict**: of 355 test digits, how many will it read differently?
"""

# %%
small = copy.deepcopy(network)
print(quantize_model(small, calibration_data=train.images, axis=1))
print(small)

with no_grad():
    before = network(test.images).data
    after = small(test.images).data
print(f"accuracy FP32 {accuracy(network):.4f}, INT8 {accuracy(small):.4f}")
print(f"read differently: {(before.argmax(axis=1) != after.argmax(axis=1)).sum()} of {len(test)}")
print(f"outputs: {quantization_error(Tensor(before), Tensor(after))['snr_db']:.1f} dB")

# %% [markdown]
r"""
A wrong digit needs more than an error: the error must be larger than the gap between the best and the second-best output. That is why so little accuracy is lost.

On disk the saving is real bytes. `state_dict` gives all buffers; `safetensors` writes them, one byte for an int8.
"""

# %%
import tempfile
from pathlib import Path

from safetensors.numpy import load_file, save_file


def save(model: Module, path: Path) -> int:
    """Write a model's state to a file; returns its bytes."""
    save_file({name: tensor.data for name, tensor in model.state_dict().items()}, path)
    return path.stat().st_size


with tempfile.TemporaryDirectory() as folder:
    print(f"FP32 file: {save(network, Path(folder) / 'fp32.safetensors'):6,} bytes")
    print(f"INT8 file: {save(small, Path(folder) / 'int8.safetensors'):6,} bytes")
    fresh = copy.deepcopy(network)
    quantize_model(fresh, axis=1)  # the same structure; grids and weights come from the file
    fresh.load_state_dict(load_file(Path(folder) / "int8.safetensors"))
print(f"loaded again: accuracy {accuracy(fresh):.4f}, memory {compare_model_sizes(network, fresh)}")

# %% [markdown]
r"""
The file is larger than a quarter: each tensor's name and shape take about 80 bytes in its header, and this network is tiny. The larger the layers, the closer to four.

What do the weights look like? Left as they were, right what came back: the same hill, as a comb.
"""

# %%
if plt:
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True)
    original = network[3].weight.data.reshape(-1)
    restored = dequantize_int8(*quantize_int8(network[3].weight)).data.reshape(-1)
    for axis, values, title in zip(
        axes, (original, restored), ("FP32", "INT8, restored"), strict=True
    ):
        axis.hist(values, bins=1000, histtype="stepfilled", color="black")
        axis.set(title=f"{title}: {len(np.unique(values))} different numbers", xlabel="weight")
    axes[0].set_ylabel("how many weights")
    plt.show()

# %% [markdown]
r"""
### When the calibration data is not like the real data

The grid of an input is only as good as the data that chose it. Try three mistakes: digits that are too dim (a range too small: clipped), digits a hundred times too bright (a range too large: few marks left), and one bright pixel in otherwise right data.
**Predict** which is worst, and which one `percentile` repairs.
"""

# %%
right = train.images.data
spoilt = right.copy()
spoilt[0, 0, 0, 0] = 100.0
cases = {
    "training digits": (right, None),
    "a tenth as bright": (right / 10, None),
    "100 times as bright": (right * 100, None),
    "one pixel of 100": (spoilt, None),
    "one pixel of 100, percentile 99.9": (spoilt, 99.9),
}
print(f"{'':34} input scale   outputs   accuracy")
for name, (data, percentile) in cases.items():
    model = copy.deepcopy(network)
    quantize_model(model, Tensor(data), axis=1, percentile=percentile)
    with no_grad():
        error = quantization_error(network(test.images), model(test.images))
    scale = model[1].input_scale.item()
    print(f"{name:34} {scale:11.5f}   {error['snr_db']:4.1f} dB   {accuracy(model):8.3f}")

# %% [markdown]
r"""
Nothing warns you: a badly calibrated network runs, and is wrong. Measure the accuracy after quantising, always.

## What it costs: bytes and time

The bytes are settled. Is it faster? Three ways of computing one layer, for growing sizes: float32; int8 weights with float inputs (dequantise, then float32); all integers. And, for comparison, NumPy's own product of int32.
"""

# %%
import time


def milliseconds(function, repeat=7) -> float:
    """The fastest of some runs, after one to warm up."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


sizes = (64, 128, 256, 512)
table = []
for size in sizes:
    layer = Linear(size, size)
    mixed, integer = QuantizedLinear(layer), QuantizedLinear(layer)
    x = randn(64, size)
    integer.calibrate(x)
    whole = (10 * x.data).astype(np.int32), (10 * layer.weight.data).astype(np.int32)
    with no_grad():
        row = [milliseconds(lambda m=m, x=x: m(x)) for m in (layer, mixed, integer)]
    table.append([*row, milliseconds(lambda w=whole: w[0] @ w[1], repeat=3)])

print("milliseconds, 64 rows:  float32   int8 weights   all int8   NumPy int32   int8 / float32")
for size, row in zip(sizes, table, strict=True):
    print(
        f"{size:4} x {size:<4}            {row[0]:8.3f}   {row[1]:12.3f}   {row[2]:8.3f}   {row[3]:11.3f}   {row[2] / row[0]:10.1f}x"
    )

if plt:
    names = ("float32", "int8 weights, float32 product", "all int8 in floats", "NumPy int32")
    for name, times, line in zip(
        names, zip(*table, strict=True), ("k-", "k--", "k:", "k-."), strict=True
    ):
        plt.loglog(sizes, times, line, marker="o", label=name)
    plt.title("A layer of size x size, 64 rows")
    plt.xlabel("size")
    plt.ylabel("time (ms)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
No: **here, INT8 is slower than float32.** The product itself is the same float32 product as before, and converting back and forth comes on top. NumPy's integer product is worse still: BLAS knows floats only.
What you have gained is space: on disk, in memory, on the way from memory to the processor.

The processor could do better. Many have instructions that multiply and add four times as many pairs of int8 as of float32 at once; code must be written for them. PyTorch's `torch.ao.nn.quantized.Linear` calls such
kernels (FBGEMM, oneDNN), and there INT8 wins. A claim that "quantised is faster" is a claim about a kernel, not about bytes.

The float32 blocks are also the reason that the results are right. How much memory does a call borrow?
"""

# %%
import tracemalloc

layer = QuantizedLinear(Linear(512, 512))
x = randn(64, 512)
for name in ("int8 weights", "all int8"):
    tracemalloc.start()
    layer(x)
    print(
        f"{name:12}: holds {sum(t.nbytes for t in layer.buffers()):,} bytes, borrows {tracemalloc.get_traced_memory()[1]:,} for a call"
    )
    tracemalloc.stop()
    layer.calibrate(x)

# %% [markdown]
r"""
## Questions

Answer in a few lines, with the numbers worked out.

### 1. Bytes (5 points)

A network has layers 784-256-10, with biases. Quantised with `axis=1`: how many bytes of payload, and how many of overhead, weights, biases and inputs counted? Which share of the total is overhead?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-bytes", "locked": false, "points": 5, "solution": true}
r"""
Numbers: 784 x 256 + 256 + 256 x 10 + 10 = 203,530, so 203,530 bytes of payload (814,120 as float32). Overhead: a float64 and an int32, 12 bytes, for each grid.
Layer 1 has 256 of the weight, 1 of the bias, 1 of the input: 258 x 12 = 3,096. Layer 2 has 12: 144. Together 3,240 bytes, 1.6 % of 206,770; the total ratio is 3.94.
"""

# %% [markdown]
r"""
### 2. Steps and decibels (5 points)

Numbers are spread evenly over [-1, 1]. Estimate the SNR of INT8 and of INT4 from the noise power $s^2 / 12$ and the signal power 1/3. Then somebody appends one number 20 to a million of them: what becomes of the bulk's INT8 SNR?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-decibels", "locked": false, "points": 5, "solution": true}
r"""
INT8: s = 2/255 = 0.00784, noise s^2 / 12 = 5.1e-6, ratio (1/3) / 5.1e-6 = 65,025, 48.1 dB. INT4: s = 2/15, noise 0.00148, ratio 225, 23.5 dB: four bits are 24.6 dB, about 6.02 each (and a little, as 255/15 is 17, not 16).
With the outlier, the range is [-1, 20] and s = 21/255: 10.5 times larger, so the bulk loses 20 log10(10.5) = 20.4 dB and has 27.7 dB left.
"""

# %% [markdown]
r"""
### 3. The accumulator (5 points)

Real INT8 hardware adds the products up in an int32. How large may K be, so that $\sum q_x q_w$ cannot overflow? And the same for $\sum (q_x - z_x)(q_w - z_w)$? How many products could an int16 accumulator hold?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-accumulator", "locked": false, "points": 5, "solution": true}
r"""
A product of two int8 is at most 2^14 in size, int32 goes up to 2^31 - 1: K up to 2^17 - 1 = 131,071. With the zero points subtracted each factor can be 255: 65,025 a product, K up to (2^31 - 1) / 65,025 = 33,025.
An int16 goes up to 2^15 - 1 = 32,767: a single product of 16,384 fits, two don't. That is why the accumulator is four times as wide as what goes in.
"""

# %% [markdown]
r"""
### 4. Where time goes (5 points)

A layer of 4096 x 4096 is applied to one row. Memory delivers 20 GB/s. How long does it take at least to read the weights as float32, and as int8? The processor computes 100 billion float32 operations (multiply or add) a second: how long is the arithmetic?
What then is the most that INT8 can gain here, and why doesn't our implementation get it?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-time", "locked": false, "points": 5, "solution": true}
r"""
16.8 million weights: 67 MB as float32, 3.4 ms; 16.8 MB as int8, 0.84 ms. Arithmetic: 2 x 16.8 million operations, 0.34 ms. Reading dominates in both, so INT8 can gain a factor of 4: 3.4 ms become 0.84 ms.
Ours reads the int8 weights, but then *writes* them as float32 to memory and reads those again: more traffic than before, not less. A kernel that widens within the processor's registers reads each byte once.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "solution": false}
def test_module():
    """Run every test of this lesson."""
    tests = [
        *(test_integer_range, test_value_range, test_quantization_parameters, test_to_int8),
        *(test_dequantize_int8, test_constant_scale, test_quantize_int8, test_quantization_error),
        *(test_calibration_range, test_int8_matmul, test_int8_linear, test_layer_memory),
        *(test_observe_inputs, test_swapped, test_quantize_model, test_compare_model_sizes),
    ]
    for test_function in tests:
        test_function()
    print(f"{len(tests)} tests passed: module 15 is complete")


test_module()

# %% [markdown]
r"""
## What works now

- Any tensor goes to int8 and comes back to within half a step, one grid for all or one for each channel.
- Any model is quantised in place by one call, calibrated on data, and saved in about a quarter of the bytes.
- You know where the error comes from (outliers, ranges, bad calibration) and measure it in decibels.
- You know that bytes alone make nothing faster. Fewer weights, and kernels written for bytes, are what comes next.
"""

# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.integer

# %% [markdown]
r"""
# Integers only

> A whole network without floating point: int8, int32 sums, one multiplication, a shift, int8.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Dropout, Flatten, Identity, Linear, Module, Sequential
from tinytorch.core.spatial import (
    AvgPool2d,
    Conv2d,
    GlobalAvgPool2d,
    MaxPool2d,
    sliding_windows,
)
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.observers import Fused, Observer, QConfig, fuse
from tinytorch.optimization.qat import ChosenGrid, by_channel, marks_of
from tinytorch.optimization.quantization import (
    dequantize_int8,
    finite,
    input_batches,
    other_axes,
)

# %% nbgrader={"grade": false, "grade_id": "int32", "locked": true, "solution": false}
#| exporti
INT32 = np.iinfo(np.int32)


def as_int32(x: Any, asked: str) -> np.ndarray:
    """The integers as int32; an error where there are floats, or integers too large for it."""
    array = np.asarray(x)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{asked}: expected integers, got {array.dtype}")
    if not np.can_cast(array.dtype, np.int32):
        low, high = int(array.min(initial=0)), int(array.max(initial=0))
        if low < INT32.min or high > INT32.max:
            raise ValueError(f"{asked}: expected integers of 32 bits, got {low} to {high}")
    return array.astype(np.int32, copy=False)


# %% nbgrader={"grade": false, "grade_id": "high-multiply", "locked": false, "solution": true}
#| export
def rounding_doubling_high_multiply(a: Any, b: Any) -> np.ndarray:
    """a b / 2^31, rounded to the nearest int32, halves up: the upper half of the product, doubled.

    The one product that doesn't fit, of the lowest int32 with itself, gives the highest int32.
    (SaturatingRoundingDoublingHighMul of gemmlowp, bit for bit.)

    >>> rounding_doubling_high_multiply(np.array([3, -3]), 2**30).tolist()
    [2, -1]
    """
    a = as_int32(a, "rounding_doubling_high_multiply: a")
    b = as_int32(b, "rounding_doubling_high_multiply: b")
    ### BEGIN SOLUTION
    product = np.multiply(a, b, dtype=np.int64)
    return np.minimum((product + 2**30) >> 31, INT32.max).astype(np.int32)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "right-shift", "locked": false, "solution": true}
#| export
def rounding_right_shift(x: Any, exponent: Any) -> np.ndarray:
    """x / 2^exponent, rounded to the nearest int32, halves away from zero; exponent 0 to 31.

    (RoundingDivideByPOT of gemmlowp, bit for bit.)

    >>> rounding_right_shift(np.array([5, 6, -6, -7]), 2).tolist()
    [1, 2, -2, -2]
    """
    x = as_int32(x, "rounding_right_shift: x").astype(np.int64)
    exponent = as_int32(exponent, "rounding_right_shift: exponent").astype(np.int64)
    if ((exponent < 0) | (exponent > 31)).any():
        raise ValueError(f"rounding_right_shift: exponent must be 0 to 31, got {exponent}")
    ### BEGIN SOLUTION
    half = (np.int64(1) << exponent) >> 1
    return (np.sign(x) * ((np.abs(x) + half) >> exponent)).astype(np.int32)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "fixed-point", "locked": false, "solution": true}
#| export
def fixed_point(multiplier: Any) -> tuple[Any, Any]:
    """(mantissa, exponent) of a positive number: mantissa / 2^31 * 2^exponent, mantissa >= 2^30.

    Ints for a number, int32 arrays for an array; the relative error is at most 2^-31. What is too
    small to shift, below 2^-32, becomes (0, 0). Raises ValueError unless 0 < multiplier < 2^30.
    (QuantizeMultiplier of TensorFlow Lite.)

    >>> fixed_point(0.75), fixed_point(3.0)
    ((1610612736, 0), (1610612736, 2))
    """
    multiplier = np.asarray(multiplier, np.float64)
    if not ((multiplier > 0) & (multiplier < 2**30)).all():
        raise ValueError(f"fixed_point: expected numbers above 0, below 2^30, got {multiplier}")
    ### BEGIN SOLUTION
    fraction, exponent = np.frexp(multiplier)  # 0.5 <= fraction < 1
    mantissa = np.floor(fraction * 2**31 + 0.5).astype(np.int64)
    grown = mantissa == 2**31  # rounded up to 1.0
    mantissa, exponent = np.where(grown, 2**30, mantissa), exponent + grown
    small = exponent < -31
    mantissa, exponent = np.where(small, 0, mantissa), np.where(small, 0, exponent)
    ### END SOLUTION
    if multiplier.ndim == 0:
        return int(mantissa), int(exponent)
    return mantissa.astype(np.int32), exponent.astype(np.int32)


# %% nbgrader={"grade": false, "grade_id": "fixed-point-multiply", "locked": false, "solution": true}
#| export
def fixed_point_multiply(x: Any, mantissa: Any, exponent: Any) -> np.ndarray:
    """x times the number that `fixed_point` wrote as (mantissa, exponent), as int32.

    A left shift for exponents above 0 (which saturates), the high multiplication, a right shift for
    exponents below 0: it is rounded twice. (MultiplyByQuantizedMultiplier of TensorFlow Lite.)

    >>> fixed_point_multiply(np.array([100, -100]), *fixed_point(0.0375)).tolist()
    [4, -4]
    """
    x = as_int32(x, "fixed_point_multiply: x")
    exponent = as_int32(exponent, "fixed_point_multiply: exponent")
    ### BEGIN SOLUTION
    left, right = np.maximum(exponent, 0), np.maximum(-exponent, 0)
    shifted = np.clip(x.astype(np.int64) << left, INT32.min, INT32.max)
    return rounding_right_shift(rounding_doubling_high_multiply(shifted, mantissa), right)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "requantize", "locked": false, "solution": true}
#| export
def requantize(
    accumulator: Any,
    mantissa: Any,
    exponent: Any,
    zero_point: int = 0,
    lowest: int = -128,
    highest: int = 127,
) -> np.ndarray:
    """Sums of products as int8 on the grid of the result, by integers alone.

    clip(round(accumulator * multiplier) + zero_point, lowest, highest), with the multiplier
    scale_x scale_weight / scale_y as (mantissa, exponent) of `fixed_point`: numbers, or arrays that
    broadcast with the accumulator, one for each channel. A ReLU is lowest = zero_point.
    At most one step from the same in floats: where the product lies within a rounding of a half.

    >>> requantize(np.array([100, -100, 9000]), *fixed_point(0.0375), zero_point=5).tolist()
    [9, 1, 127]
    """
    lowest, highest, zero_point = int(lowest), int(highest), int(zero_point)
    if not -128 <= lowest <= highest <= 127:
        raise ValueError(f"requantize: expected a range within int8, got {lowest} to {highest}")
    ### BEGIN SOLUTION
    scaled = fixed_point_multiply(accumulator, mantissa, exponent)
    inside = np.clip(scaled, lowest - zero_point, highest - zero_point)  # first, or + overflows
    return (inside + zero_point).astype(np.int8)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exact-terms", "locked": false, "solution": true}
#| export
def exact_terms(largest_a: int, largest_b: int, carrier: Any = np.float32) -> int:
    """How many products of integers a floating-point type sums exactly, whatever their order.

    Whole numbers up to 2^p are exact in a float with p bits of mantissa (24 for float32, 53 for
    float64), and no partial sum of n products exceeds n largest_a largest_b.

    >>> exact_terms(127, 127), exact_terms(255, 128), exact_terms(128, 128, np.float64) > 10**11
    (1040, 514, True)
    """
    ### BEGIN SOLUTION
    bits = np.finfo(carrier).nmant + 1
    return 2**bits // max(largest_a * largest_b, 1)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "factors", "locked": true, "solution": false}
#| exporti
def largest_magnitude(x: np.ndarray) -> int:
    """max |x| as a Python int: np.abs would leave an int8 of -128 at -128."""
    return max(-int(x.min(initial=0)), int(x.max(initial=0)))


def require_factors(a: np.ndarray, b: np.ndarray, asked: str) -> int:
    """The largest |product| of two elements of integer matrices, or stacks of them.

    Raises TypeError for floats, ValueError for other shapes, or if sums might not fit into int32.
    """
    for name, factor in (("a", a), ("b", b)):
        if factor.dtype.kind not in "iu":
            raise TypeError(f"{asked}: {name}: expected integers, got {factor.dtype}")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"{asked}: expected (..., N, K) @ (..., K, M), got {a.shape} @ {b.shape}")
    largest = largest_magnitude(a) * largest_magnitude(b)
    if a.shape[-1] * largest > INT32.max:
        raise ValueError(f"{asked}: {a.shape[-1]} products of up to {largest} may not fit in int32")
    return largest


# %% nbgrader={"grade": false, "grade_id": "integer-matmul", "locked": true, "solution": false}
#| export
def integer_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b with integers alone: (..., N, K), (..., K, M) -> int32 (..., N, M).

    By einsum: NumPy has no BLAS for integers, and its `@` loops without vector instructions.
    Raises ValueError where sums might not fit into int32, which for int8 takes K above 131,000.

    >>> integer_matmul(np.array([[100, 100]], np.int8), np.array([[100], [-3]], np.int8))
    array([[9700]], dtype=int32)
    """
    require_factors(a, b, "integer_matmul")
    return np.einsum("...nk,...km->...nm", a.astype(np.int32), b.astype(np.int32))


# %% nbgrader={"grade": false, "grade_id": "carried-matmul", "locked": false, "solution": true}
#| export
def carried_matmul(a: np.ndarray, b: np.ndarray, carrier: Any = np.float32) -> np.ndarray:
    """`integer_matmul` by the fast matmul of floats: the same numbers, exactly, as int32.

    Integers are carried in `carrier`, in blocks of K so short that no sum is ever rounded:
    `exact_terms` of the largest values that `a` and `b` hold (float32 and int8: 1024 or more).

    >>> carried_matmul(np.array([[100, 100]], np.int8), np.array([[100], [-3]], np.int8))
    array([[9700]], dtype=int32)
    """
    largest = require_factors(a, b, "carried_matmul")
    block = exact_terms(largest, 1, carrier)
    if not block:
        raise ValueError(f"carried_matmul: products of up to {largest} need carrier=np.float64")
    ### BEGIN SOLUTION
    shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = np.zeros((*shape, a.shape[-2], b.shape[-1]), np.int32)
    for start in range(0, a.shape[-1], block):
        left = a[..., start : start + block].astype(carrier)
        right = b[..., start : start + block, :].astype(carrier)
        assert left.shape[-1] * largest <= 2 ** (np.finfo(carrier).nmant + 1)
        total += (left @ right).astype(np.int32)
    return total
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "grids", "locked": true, "solution": false}
#| exporti
Grids = tuple[ChosenGrid, ChosenGrid, ChosenGrid]  # of input, weight and result


def chosen_by(observer: Observer, name: str) -> ChosenGrid:
    """The grid that an observer chose; ValueError unless its integers are int8."""
    if not observer.grid.signed or observer.grid.bits > 8:
        raise ValueError(f"{name}: expected a signed grid of up to 8 bits, got {observer.grid}")
    axis = getattr(observer, "axis", None)
    return ChosenGrid(observer.grid, *observer.calculate_qparams(), axis)


def marks_on(x: np.ndarray, grid: ChosenGrid) -> np.ndarray:
    """Floats as int8 on a grid: clip(rint(x * float32(1 / scale)) + zero_point)."""
    lowest, highest = grid.grid.limits
    with np.errstate(over="ignore"):  # what becomes infinite is clipped
        marks, _, _ = marks_of(x, grid.scale, grid.zero_point, lowest, highest, grid.axis)
    return np.clip(marks, lowest, highest).astype(np.int8)


def int8_of(q: Any, name: str) -> np.ndarray:
    """The array of an int8 Tensor; TypeError for anything else."""
    if not isinstance(q, Tensor) or q.dtype != np.int8:
        got = q.dtype if isinstance(q, Tensor) else type(q).__name__
        raise TypeError(f"{name}: expected a Tensor of int8, got {got}: quantise it first")
    return q.data


def int8_images(q: Any, name: str) -> np.ndarray:
    """The array of an int8 Tensor of shape (N, C, H, W)."""
    x = int8_of(q, name)
    if x.ndim != 4:
        raise ValueError(f"{name}: expected images of shape (N, C, H, W), got {x.shape}")
    return x


# %% nbgrader={"grade": false, "grade_id": "integer-parameters", "locked": false, "solution": true}
#| export
def integer_parameters(
    weight: np.ndarray, bias: np.ndarray, axis: int, grids: Grids
) -> dict[str, np.ndarray]:
    """What a layer needs to compute with integers: `q_weight`, `q_bias`, `mantissa`, `exponent`.

    `grids` are those of input, weight and result; the output channels are along `axis` of the
    weight. The bias is int32 on the grid of the products, scale scale_x scale_weight and zero point
    0 (Jacob et al. 2018, 2.4). The scale of a channel that is little but its bias, as pruning
    leaves them, is widened until the bias is at most 2^30.

    >>> from tinytorch.optimization.observers import Grid
    >>> half = ChosenGrid(Grid(), 0.5, 0)
    >>> parts = integer_parameters(np.float64([[1.5]]), np.float64([2.0]), 1, (half, half, half))
    >>> parts["q_weight"].tolist(), parts["q_bias"].tolist(), parts["exponent"].tolist()
    ([[3]], [8], [0])
    """
    x_grid, weight_grid, y_grid = grids
    scale = np.maximum(weight_grid.scale, np.abs(bias) / (x_grid.scale * 2**30))  # (channels,)
    ### BEGIN SOLUTION
    q_weight = marks_on(weight, ChosenGrid(weight_grid.grid, scale, 0 * scale, axis))
    q_bias = np.rint(bias / (x_grid.scale * scale)).astype(np.int32)
    mantissa, exponent = fixed_point(x_grid.scale * scale / y_grid.scale)
    ### END SOLUTION
    return dict(q_weight=q_weight, q_bias=q_bias, mantissa=mantissa, exponent=exponent)


# %% nbgrader={"grade": false, "grade_id": "integer-layer", "locked": true, "solution": false}
#| exporti
class IntegerLayer(Module):
    """What IntegerLinear and IntegerConv2d keep: `integer_parameters` and zero points, as buffers.

    `scale` is that of the result: for the reader, nothing is computed with it.
    """

    q_weight: Tensor
    q_bias: Tensor
    mantissa: Tensor
    exponent: Tensor
    x_zero_point: Tensor
    zero_point: Tensor
    scale: Tensor
    axis: int  # of the weight's output channels

    def __init__(
        self,
        layer: Linear | Conv2d,
        grids: Grids,
        relu: bool = False,
        matmul: Callable[..., np.ndarray] = integer_matmul,
        name: str = "layer",
    ):
        self.relu, self.matmul, self.name = relu, matmul, name
        x_grid, weight_grid, y_grid = grids
        self.lowest, self.highest = y_grid.grid.limits
        if np.any(weight_grid.zero_point):
            raise ValueError(f"{name}: expected a symmetric grid for the weight, got an affine one")
        weight = finite(layer.weight, f"{name}.weight")
        bias = np.zeros(weight.shape[self.axis])
        if layer.bias is not None:
            bias = finite(layer.bias, f"{name}.bias")
        parts = integer_parameters(weight, bias, self.axis, grids)
        parts["x_zero_point"] = np.asarray(x_grid.zero_point, np.int32)
        parts["zero_point"] = np.asarray(y_grid.zero_point, np.int32)
        parts["scale"] = np.asarray(y_grid.scale, np.float64)
        for part, value in parts.items():
            self.register_buffer(part, Tensor(value, dtype=value.dtype))
        require_room(parts["q_weight"], parts["q_bias"], self.axis, name)

    def centred(self, q: np.ndarray) -> np.ndarray:
        """int8 numbers less their zero point, -255 to 255: int16, as int8 would wrap around."""
        return q.astype(np.int16) - np.int16(self.x_zero_point.item())

    def requantized(self, accumulator: np.ndarray, axis: int) -> Tensor:
        """int32 sums with channels along `axis` as int8, with bias and ReLU."""
        parts = self.q_bias.data, self.mantissa.data, self.exponent.data
        bias, mantissa, exponent = (by_channel(part, accumulator.ndim, axis) for part in parts)
        zero_point = self.zero_point.item()
        lowest = max(self.lowest, zero_point) if self.relu else self.lowest
        how = mantissa, exponent, zero_point, lowest, self.highest
        return Tensor._wrap(requantize(accumulator + bias, *how))

    def _extra_repr(self) -> str:
        grid = f"scale={self.scale.item():.4g}, zero_point={self.zero_point.item()}"
        return f"{self.sizes()}, relu={self.relu}, {grid}"

    def sizes(self) -> str:
        raise NotImplementedError(f"{type(self).__name__} needs a method sizes()")


def require_room(q_weight: np.ndarray, q_bias: np.ndarray, axis: int, name: str) -> None:
    """ValueError where some input, 255 steps from its zero point at most, could overflow int32."""
    sums = np.abs(q_weight.astype(np.int64)).sum(axis=other_axes(q_weight.ndim, axis))
    largest = int((255 * sums + np.abs(q_bias.astype(np.int64))).max(initial=0))
    if largest > INT32.max:
        raise ValueError(f"{name}: sums could reach {largest}, which is no int32: split the layer")


# %% nbgrader={"grade": false, "grade_id": "integer-linear", "locked": true, "solution": false}
#| export
class IntegerLinear(IntegerLayer):
    """A Linear, and the ReLU behind it if `relu`, in integers: int8 (..., K) -> int8 (..., M).

    `matmul` multiplies: `integer_matmul`, or, faster and exactly equal, `carried_matmul`. Raises
    ValueError for NaN, infinity, an affine weight, or where sums could overflow int32.

    >>> from tinytorch.optimization.observers import Grid
    >>> x, weight, y = (ChosenGrid(Grid(), scale, 0) for scale in (0.1, 0.01, 0.02))
    >>> layer = IntegerLinear(Linear(4, 2), (x, weight, y))
    >>> layer
    IntegerLinear(in_features=4, out_features=2, relu=False, scale=0.02, zero_point=0)
    >>> layer(Tensor([[1, 2, 3, 4]], dtype=np.int8)).dtype
    dtype('int8')
    """

    axis = 1

    def forward(self, q: Tensor) -> Tensor:
        return linear_forward(self, q)

    def sizes(self) -> str:
        return "in_features={}, out_features={}".format(*self.q_weight.shape)


# %% nbgrader={"grade": false, "grade_id": "linear-forward", "locked": false, "solution": true}
#| exporti
def linear_forward(layer: IntegerLinear, q: Tensor) -> Tensor:
    """requantised((q - x_zero_point) @ q_weight + q_bias), on rows."""
    x = int8_of(q, layer.name)
    if x.shape[-1:] != layer.q_weight.shape[:1]:
        raise ValueError(f"{layer.name}: expected (..., {len(layer.q_weight.data)}), got {x.shape}")
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    ### BEGIN SOLUTION
    accumulator = layer.matmul(layer.centred(rows), layer.q_weight.data)
    y = layer.requantized(accumulator, axis=1)
    ### END SOLUTION
    return y.reshape(*x.shape[:-1], y.shape[1])


# %% nbgrader={"grade": false, "grade_id": "windows", "locked": true, "solution": false}
#| exporti
def pair(value: Any) -> tuple[int, int]:
    """A number for rows and columns, or the two of them."""
    rows, columns = np.broadcast_to(value, 2).tolist()
    return rows, columns


def windows_of(q: np.ndarray, layer: Any, zero_point: int) -> np.ndarray:
    """Every window of int8 images, a view: (N, C, H, W) -> (N, C, KH, KW, OH, OW).

    `layer` is a float one and says how; its padding, which stands for 0.0, is the zero point.
    """
    kernel, stride = pair(layer.kernel_size), pair(layer.stride)
    dilation = pair(getattr(layer, "dilation", 1))
    if layer.padding == "same":
        whole = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        margins = [(n // 2, n - n // 2) for n in whole]
    else:
        margins = [(n, n) for n in pair(0 if layer.padding == "valid" else layer.padding)]
    padded = np.pad(q, ((0, 0), (0, 0), *margins), constant_values=zero_point)
    return sliding_windows(padded, kernel, stride, dilation)


# %% nbgrader={"grade": false, "grade_id": "integer-conv2d", "locked": true, "solution": false}
#| export
class IntegerConv2d(IntegerLayer):
    """A Conv2d, and the ReLU behind it if `relu`, in integers: int8 images -> int8 images.

    Padding is the zero point: the integer that stands for 0.0. Options and errors are those of
    IntegerLinear.

    >>> from tinytorch.optimization.observers import Grid
    >>> x, weight, y = (ChosenGrid(Grid(), scale, 0) for scale in (0.1, 0.01, 0.02))
    >>> layer = IntegerConv2d(Conv2d(1, 2, 3, padding=1), (x, weight, y), relu=True)
    >>> layer(Tensor(np.ones((5, 1, 8, 8), np.int8))).shape
    (5, 2, 8, 8)
    """

    axis = 0

    def __init__(self, layer: Conv2d, grids: Grids, **options: Any):
        super().__init__(layer, grids, **options)
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups

    def forward(self, q: Tensor) -> Tensor:
        return conv2d_forward(self, q)

    def sizes(self) -> str:
        outputs, inputs = self.q_weight.shape[:2]
        how = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}"
        return f"{inputs * self.groups}, {outputs}, {how}"


# %% nbgrader={"grade": false, "grade_id": "conv2d-forward", "locked": false, "solution": true}
#| exporti
def conv2d_forward(layer: IntegerConv2d, q: Tensor) -> Tensor:
    """Every window, less the zero point, times every kernel, requantised."""
    x, groups = int8_images(q, layer.name), layer.groups
    outputs, channels = layer.q_weight.shape[:2]
    if x.shape[1] != channels * groups:
        raise ValueError(f"{layer.name}: expected {channels * groups} channels, got {x.shape}")
    ### BEGIN SOLUTION
    windows = windows_of(x, layer, layer.x_zero_point.item())
    places = windows.shape[-2:]
    kernels = layer.q_weight.data.reshape(groups, outputs // groups, -1)
    columns = windows.copy().reshape(len(x), groups, kernels.shape[-1], math.prod(places))
    accumulator = layer.matmul(kernels, layer.centred(columns))  # (N, G, O/G, OH OW)
    y = layer.requantized(accumulator.reshape(len(x), outputs, *places), axis=1)
    ### END SOLUTION
    return y


# %% nbgrader={"grade": false, "grade_id": "rounding-divide", "locked": false, "solution": true}
#| export
def rounding_divide(total: np.ndarray, count: int) -> np.ndarray:
    """total / count, rounded to the nearest integer, halves away from zero; count above 0.

    As the integer average pooling of TensorFlow Lite: (total +- count // 2) / count, cut off
    towards zero.

    >>> rounding_divide(np.array([5, 6, -6, -7]), 4).tolist()
    [1, 2, -2, -2]
    """
    ### BEGIN SOLUTION
    return np.sign(total) * ((np.abs(total) + count // 2) // count)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "small-layers", "locked": true, "solution": false}
#| exporti
class KeepsGrid(Module):
    """A layer whose result is on the grid of its input, of which it knows the zero point."""

    zero_point: Tensor

    def __init__(self, zero_point: int):
        self.register_buffer("zero_point", Tensor(zero_point, dtype=np.int32))

    def _extra_repr(self) -> str:
        return f"zero_point={self.zero_point.item()}"


# %% nbgrader={"grade": false, "grade_id": "integer-relu", "locked": true, "solution": false}
#| export
class IntegerReLU(KeepsGrid):
    """max(q, zero_point): a ReLU that no layer took into its requantisation.

    >>> IntegerReLU(zero_point=-5)(Tensor([-9, 3], dtype=np.int8))
    Tensor([-5,  3], dtype=int8)
    """

    def forward(self, q: Tensor) -> Tensor:
        x = int8_of(q, "IntegerReLU")
        return Tensor._wrap(np.maximum(x, np.int8(self.zero_point.item())))


# %% nbgrader={"grade": false, "grade_id": "integer-avg-pool", "locked": true, "solution": false}
#| export
class IntegerAvgPool2d(KeepsGrid):
    """The mean of each window of int8 images, rounded by `rounding_divide`, on the same grid.

    Padding counts, as the zero point.

    >>> pool = IntegerAvgPool2d(AvgPool2d(2), zero_point=0)
    >>> pool(Tensor([[[[1, 2], [3, 4]]]], dtype=np.int8))
    Tensor([[[[3]]]], dtype=int8)
    """

    def __init__(self, layer: AvgPool2d, zero_point: int):
        super().__init__(zero_point)
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding

    def forward(self, q: Tensor) -> Tensor:
        x = int8_images(q, "IntegerAvgPool2d")
        windows = windows_of(x, self, self.zero_point.item())
        return mean_of_axes(windows, (2, 3))

    def _extra_repr(self) -> str:
        how = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{how}, {super()._extra_repr()}"


class IntegerGlobalAvgPool2d(Module):
    """The mean of each channel, (N, C, H, W) -> (N, C), rounded by `rounding_divide`.

    >>> IntegerGlobalAvgPool2d()(Tensor([[[[1, 2], [3, 4]]]], dtype=np.int8))
    Tensor([[3]], dtype=int8)
    """

    def forward(self, q: Tensor) -> Tensor:
        return mean_of_axes(int8_images(q, "IntegerGlobalAvgPool2d"), (2, 3))


# %% nbgrader={"grade": false, "grade_id": "mean-of-axes", "locked": false, "solution": true}
#| exporti
def mean_of_axes(x: np.ndarray, axes: tuple[int, ...]) -> Tensor:
    """The mean of int8 numbers over some axes, as int8."""
    ### BEGIN SOLUTION
    total = x.sum(axis=axes, dtype=np.int32)
    count = math.prod(x.shape[axis] for axis in axes)
    return Tensor._wrap(rounding_divide(total, count).astype(np.int8))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "integer-model-class", "locked": true, "solution": false}
#| export
class IntegerModel(Module):
    """A chain of integer layers: float images or rows in, int8 out; `integer_model` makes it.

    The input is quantised at the entrance; behind that no floating-point number is computed. The
    result is int8 on a grid of `scale` and `zero_point`: its order, so its argmax, is that of the
    real numbers, which `dequantize` gives.
    """

    x_scale: Tensor
    x_zero_point: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, layers: list[Any], x_grid: ChosenGrid, y_grid: ChosenGrid):
        self.layers = layers
        self.limits = x_grid.grid
        for end, grid in (("x_", x_grid), ("", y_grid)):
            self.register_buffer(f"{end}scale", Tensor(grid.scale, dtype=np.float64))
            self.register_buffer(f"{end}zero_point", Tensor(grid.zero_point, dtype=np.int32))

    def quantize(self, x: Tensor) -> Tensor:
        """The input as int8, the last that is computed in floats; ValueError for NaN, infinity."""
        numbers = finite(x, "IntegerModel: input").astype(np.float32)
        grid = ChosenGrid(self.limits, self.x_scale.item(), self.x_zero_point.item())
        return Tensor._wrap(marks_on(numbers, grid))

    def forward(self, x: Tensor) -> Tensor:
        q = self.quantize(x)
        for layer in self.layers:
            q = layer(q)
        return q

    def dequantize(self, q: Tensor) -> Tensor:
        """What `forward` gave, as real numbers: (q - zero_point) * scale."""
        return dequantize_int8(q, self.scale.item(), self.zero_point.item())

    def named_children(self) -> list[tuple[str, Any]]:
        return [(name.removeprefix("layers."), child) for name, child in super().named_children()]

    def _extra_repr(self) -> str:
        ends = self.x_scale.item(), self.x_zero_point.item()
        return "x_scale={:.4g}, x_zero_point={}".format(*ends)


# %% nbgrader={"grade": false, "grade_id": "chain", "locked": false, "solution": true}
#| exporti
def chain(name: str, module: Any) -> Iterator[tuple[str, Any]]:
    """The layers of nested Sequentials in order, by dotted name; without what does nothing.

    >>> [name for name, _ in chain("", Sequential(ReLU(), Dropout(), Sequential(Flatten())))]
    ['0', '2.0']
    """
    ### BEGIN SOLUTION
    if type(module) is Sequential:
        for i, layer in enumerate(module.layers):
            yield from chain(f"{name}.{i}" if name else str(i), layer)
    elif not isinstance(module, (Dropout, Identity)):
        yield name, module
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "supported", "locked": true, "solution": false}
#| exporti
MULTIPLIES: dict[type, Any] = {Linear: IntegerLinear, Conv2d: IntegerConv2d}
KEEP_GRIDS: dict[type, Callable[..., Any]] = {
    ReLU: lambda layer, zero_point: IntegerReLU(zero_point),
    MaxPool2d: lambda layer, zero_point: layer,  # the order of integers is that of numbers
    AvgPool2d: IntegerAvgPool2d,
    GlobalAvgPool2d: lambda layer, zero_point: IntegerGlobalAvgPool2d(),
    Flatten: lambda layer, zero_point: layer,
}


def without_relu(layer: Any) -> Linear | Conv2d:
    """The layer that a Fused holds, or the layer itself."""
    return layer.layer if type(layer) is Fused else layer


def multiplies(layer: Any) -> bool:
    """Is it a Linear or Conv2d, alone or Fused with a ReLU?"""
    return type(without_relu(layer)) in MULTIPLIES


def require_supported(layers: list[tuple[str, Any]]) -> None:
    """TypeError that names the first layer for which there are no integers."""
    for name, layer in layers:
        if not multiplies(layer) and type(layer) not in KEEP_GRIDS:
            where = f"layer {name}" if name else "the model"
            known = ", ".join(kind.__name__ for kind in (*MULTIPLIES, *KEEP_GRIDS))
            raise TypeError(
                f"integer_model: {where} is {type(layer).__name__}, which has no integer form: a "
                f"chain may hold Sequential, {known}, Dropout, Identity, and batch norms right "
                "behind a Linear or Conv2d"
            )


# %% nbgrader={"grade": false, "grade_id": "calibrated", "locked": false, "solution": true}
#| exporti
def observed(
    layers: list[tuple[str, Any]], batches: list[Tensor], config: QConfig
) -> dict[str, Observer]:
    """An observer of the input, by the name "input", and one of the result of each layer with a
    weight, by its name, which have seen all batches."""
    observers = {"input": config.activation()}
    observers |= {name: config.activation() for name, layer in layers if multiplies(layer)}
    for x in batches:
        ### BEGIN SOLUTION
        observers["input"].observe(x)
        for name, layer in layers:
            x = layer(x)
            if name in observers:
                observers[name].observe(x)
        ### END SOLUTION
    return observers


# %% nbgrader={"grade": false, "grade_id": "weight-grids", "locked": true, "solution": false}
#| exporti
CALIBRATION = QConfig()  # observers by histogram, weights by channel


def weight_grids(layers: list[tuple[str, Any]], config: QConfig) -> dict[str, ChosenGrid]:
    """The grids that the config's observers choose for the weights, by the names of layers."""
    grids = {}
    for name, layer in layers:
        if multiplies(layer):
            plain = without_relu(layer)
            observer = config.weight(axis=MULTIPLIES[type(plain)].axis)
            observer.observe(finite(plain.weight, f"{name}.weight"))
            grids[name] = chosen_by(observer, f"{name}.weight")
    return grids


# %% nbgrader={"grade": false, "grade_id": "in-integers", "locked": false, "solution": true}
#| exporti
def in_integers(
    layers: list[tuple[str, Any]],
    grids: Mapping[str, ChosenGrid],
    weights: Mapping[str, ChosenGrid],
    matmul: Callable[..., np.ndarray],
) -> IntegerModel:
    """The layers with integers, each on the grid that the one before gives its result on.

    `grids` are those of the "input" and of results, `weights` those of weights, by names of layers.
    """
    grid, made = grids["input"], []
    for name, layer in layers:
        ### BEGIN SOLUTION
        if not multiplies(layer):
            made.append(KEEP_GRIDS[type(layer)](layer, grid.zero_point))
            continue
        plain = without_relu(layer)
        how = dict(relu=type(layer) is Fused, matmul=matmul, name=name)
        made.append(MULTIPLIES[type(plain)](plain, (grid, weights[name], grids[name]), **how))
        grid = grids[name]
        ### END SOLUTION
    return IntegerModel(made, grids["input"], grid)


# %% nbgrader={"grade": false, "grade_id": "integer-model", "locked": true, "solution": false}
#| export
def integer_model(
    model: Module,
    calibration_data: Any,
    config: QConfig = CALIBRATION,
    matmul: Callable[..., np.ndarray] = integer_matmul,
) -> IntegerModel:
    """A copy of the model that computes with integers alone, from its entrance to int8 results.

    The model is a chain: Sequentials, nested as you like, of Linear, Conv2d, ReLU, poolings,
    Flatten, and batch norms right behind a Linear or Conv2d. It is fused, and runs on the
    `calibration_data` (a Tensor, an iterable of them, or a loader of (input, target)), while
    observers made by `config` watch each result. Raises TypeError for another layer, naming it,
    and ValueError for empty data, NaN, infinity, and grids that are not int8.

    >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 3))
    >>> x = Tensor(np.linspace(-1, 1, 40).reshape(10, 4))
    >>> integers = integer_model(model, x)
    >>> q = integers(x)
    >>> q.dtype, q.shape, integers.dequantize(q).dtype
    (dtype('int8'), (10, 3), dtype('float32'))
    """
    if not isinstance(model, Module):
        raise TypeError(f"integer_model: expected a Module, got {type(model).__name__}")
    batches = list(input_batches(calibration_data))
    for x in batches:
        finite(x, "integer_model: calibration data")
    layers = list(chain("", fuse(model, batches[0])))
    require_supported(layers)
    weights = weight_grids(layers, config)
    with no_grad():
        observers = observed(layers, batches, config)
    grids = {name: chosen_by(observer, name) for name, observer in observers.items()}
    return in_integers(layers, grids, weights, matmul)

# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.static

# %% [markdown]
r"""
# Static quantisation

> A whole network on integers: prepare, calibrate, convert.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinytorch.core.activations import ReLU, relu
from tinytorch.core.attention import (
    MultiHeadAttention,
    added_to_scores,
    attention_of_heads,
    checked_mask,
    checked_scale,
    softmax_of_scores,
)
from tinytorch.core.autograd import nondifferentiable
from tinytorch.core.layers import Linear, Module
from tinytorch.core.spatial import AvgPool2d, Conv2d, MaxPool2d, conv2d
from tinytorch.core.tensor import Tensor, op
from tinytorch.optimization.integer import carried_matmul, exact_terms, require_room
from tinytorch.optimization.observers import Fused, Grid, QConfig, fuse
from tinytorch.optimization.qat import (
    ChosenGrid,
    FakeQuantize,
    FakeQuantizedLayer,
    by_channel,
    config_of,
    marks_of,
)
from tinytorch.optimization.quantization import finite, replace_modules
from tinytorch.profiling.profiler import FLOPS


# %% nbgrader={"grade": false, "grade_id": "to-integers", "locked": false, "solution": true}
#| exporti
def to_integers(x: np.ndarray, chosen: ChosenGrid, name: str) -> np.ndarray:
    """clip(rint(x * float32(1 / scale)) + zero_point) in the grid's dtype; ValueError for NaN."""
    ### BEGIN SOLUTION
    numbers, limits = x.astype(np.float32, copy=False), chosen.grid.limits
    with np.errstate(over="ignore"):  # what becomes infinite is clipped
        marks, _, _ = marks_of(numbers, chosen.scale, chosen.zero_point, *limits, chosen.axis)
    if not np.isfinite(marks).all():
        finite(x, name)  # says where
    return np.clip(marks, *limits, out=marks).astype(chosen.grid.dtype)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "quantized-tensor", "locked": true, "solution": false}
#| export
def _moving(name: str) -> Any:
    """A method that moves integers as Tensor's method of that name moves numbers."""

    def method(self: QuantizedTensor, *args: Any, **options: Any) -> QuantizedTensor:
        moved = getattr(Tensor, name)(Tensor._wrap(self.q), *args, **options)
        return QuantizedTensor(moved.data, self.chosen)

    return method


class QuantizedTensor(Tensor):
    """Integers `q`, and the grid that says which numbers they stand for: (q - zero_point) * scale.

    It is a Tensor: `data`, and so every operation, sees the float32 numbers, computed when asked
    for. What only moves elements (reshape, transpose, an index, ...) moves the integers. It can't
    be written into, and `x += y` is `x = x + y`, a Tensor of floats.

    >>> x = QuantizedTensor(np.array([0, 10, 127], np.int8), ChosenGrid(Grid(), 0.5, 10))
    >>> x
    QuantizedTensor([-5. ,  0. , 58.5], dtype=int8, scale=0.5, zero_point=10)
    >>> x[1:], (x + 1).tolist()
    (QuantizedTensor([ 0. , 58.5], dtype=int8, scale=0.5, zero_point=10), [-4.0, 1.0, 59.5])
    """

    __slots__ = ("chosen", "q")

    def __init__(self, q: np.ndarray, chosen: ChosenGrid):
        self.q, self.chosen = q, chosen
        self.requires_grad, self.grad, self.node = False, None, None

    scale = property(lambda self: self.chosen.scale, doc="What a step of the integers is worth.")
    zero_point = property(lambda self: self.chosen.zero_point, doc="The integer that stands for 0.")
    shape = property(lambda self: self.q.shape)
    ndim = property(lambda self: self.q.ndim)
    size = property(lambda self: self.q.size)
    nbytes = property(lambda self: self.q.nbytes)
    dtype = property(lambda self: np.dtype(np.float32))  # of the numbers
    T = property(lambda self: self.permute())

    reshape, view, flatten = _moving("reshape"), _moving("view"), _moving("flatten")
    squeeze, unsqueeze, expand = _moving("squeeze"), _moving("unsqueeze"), _moving("expand")
    permute, swapaxes, transpose = _moving("permute"), _moving("swapaxes"), _moving("transpose")
    __getitem__ = _moving("__getitem__")
    __iadd__, __isub__ = Tensor.__add__, Tensor.__sub__
    __imul__, __itruediv__ = Tensor.__mul__, Tensor.__truediv__

    def __setitem__(self, key, value):
        raise TypeError("a QuantizedTensor can't be written into: take its dequantize()")

    @property
    def data(self) -> np.ndarray:  # type: ignore[override]
        """The numbers, float32; computed anew each time."""
        return shifted(self.q, self.zero_point) * np.float32(self.scale)

    def dequantize(self) -> Tensor:
        """The numbers as an ordinary Tensor."""
        return Tensor._wrap(self.data)

    def __repr__(self) -> str:
        numbers = np.array2string(self.data, separator=", ", precision=4, prefix="QuantizedTensor(")
        grid = f"scale={self.scale:.4g}, zero_point={self.zero_point}"
        return f"QuantizedTensor({numbers}, dtype={self.q.dtype}, {grid})"

    def __reduce__(self) -> Any:
        return QuantizedTensor, (self.q, self.chosen)


# %% nbgrader={"grade": false, "grade_id": "shifted", "locked": false, "solution": true}
#| exporti
def shifted(q: np.ndarray, zero_point: int) -> np.ndarray:
    """q - zero_point as int16, which holds -255 to 255: 0 stands for 0 now.

    >>> shifted(np.array([-128, 127], np.int8), 10)
    array([-138,  117], dtype=int16)
    """
    ### BEGIN SOLUTION
    return q.astype(np.int16) - np.int16(zero_point)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "grid-keeper", "locked": true, "solution": false}
#| exporti
class OnGrid(Module):
    """Keeps a grid: scale and zero point are buffers, so that they are saved with the model."""

    name: str  # what errors call it
    scale: Tensor
    zero_point: Tensor

    def keep_grid(self, chosen: ChosenGrid) -> None:
        """Take over a grid; ValueError for integers of more than 8 bits, and for many scales."""
        if chosen.grid.bits > 8:
            raise ValueError(f"{self.name}: expected at most 8 bits, got {chosen.grid}")
        if np.ndim(chosen.scale):
            got = np.size(chosen.scale)
            raise ValueError(f"{self.name}: expected one scale for all channels, got {got}")
        self.grid = chosen.grid
        self.register_buffer("scale", Tensor(chosen.scale, dtype=np.float64))
        self.register_buffer("zero_point", Tensor(chosen.zero_point, dtype=np.int32))

    @property
    def chosen(self) -> ChosenGrid:
        """The grid that is kept."""
        return ChosenGrid(self.grid, self.scale.item(), self.zero_point.item())

    def _extra_repr(self) -> str:
        bits = "" if self.grid.bits == 8 else f"bits={self.grid.bits}, "
        return f"{bits}scale={self.scale.item():.4g}, zero_point={self.zero_point.item()}"


# %% nbgrader={"grade": false, "grade_id": "quantize", "locked": true, "solution": false}
#| export
class Quantize(OnGrid):
    """Puts floats on a grid; what is quantised already passes as it is.

    >>> Quantize(ChosenGrid(Grid(), 0.5, 0))(Tensor([0.9, 100.0]))
    QuantizedTensor([ 1. , 63.5], dtype=int8, scale=0.5, zero_point=0)
    """

    def __init__(self, chosen: ChosenGrid, name: str = "Quantize"):
        self.name = name
        self.keep_grid(chosen)

    def forward(self, x: Tensor) -> QuantizedTensor:
        if isinstance(x, QuantizedTensor):
            return x
        chosen = self.chosen
        return QuantizedTensor(to_integers(x.data, chosen, f"{self.name}: the input"), chosen)


class DeQuantize(Module):
    """The way back: a QuantizedTensor becomes an ordinary Tensor of float32.

    >>> DeQuantize()(Quantize(ChosenGrid(Grid(), 0.5, 0))(Tensor([0.9])))
    Tensor([1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.dequantize() if isinstance(x, QuantizedTensor) else x


# %% nbgrader={"grade": false, "grade_id": "linear-sums", "locked": false, "solution": true}
#| exporti
@op
def linear_sums(q_x, q_weight, x_zero_point=0):
    """(q_x - x_zero_point) @ q_weight, exactly: int8 (..., K), (K, M) -> int32 (..., M).

    >>> x, weight = Tensor([1, 2], dtype=np.int8), Tensor([[3], [4]], dtype=np.int8)
    >>> linear_sums(x, weight, x_zero_point=1)
    Tensor([4], dtype=int32)
    """
    ### BEGIN SOLUTION
    rows = shifted(q_x, x_zero_point).reshape(math.prod(q_x.shape[:-1]), q_x.shape[-1])
    return carried_matmul(rows, q_weight).reshape(*q_x.shape[:-1], q_weight.shape[1])
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "conv2d-sums", "locked": false, "solution": true}
#| exporti
@op
def conv2d_sums(q_x, q_weight, x_zero_point=0, **how):
    """Kernels of integers over images of integers, exactly: int8 -> int32 (N, O, OH, OW).

    Shifted by the zero point, the padding that conv2d adds is the zero point.

    >>> x, weight = Tensor([[[[1, 2]]]], dtype=np.int8), Tensor([[[[3, 4]]]], dtype=np.int8)
    >>> conv2d_sums(x, weight, x_zero_point=1, padding=(0, 1))
    Tensor([[[[0, 4, 3]]]], dtype=int32)
    """
    ### BEGIN SOLUTION
    few = q_weight[0].size <= exact_terms(255, 128)
    dtype = np.float32 if few else np.float64  # carries the integers without rounding
    x = shifted(q_x, x_zero_point).astype(dtype)
    return conv2d(x, q_weight.astype(dtype), **how).astype(np.int32)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "ops", "locked": true, "solution": false}
#| exporti
nondifferentiable(linear_sums)  # rounding has no slope: gradients end at the integers
nondifferentiable(conv2d_sums)
FLOPS["linear_sums"], FLOPS["conv2d_sums"] = FLOPS["linear"], FLOPS["conv2d"]


# %% nbgrader={"grade": false, "grade_id": "requantized", "locked": false, "solution": true}
#| exporti
def requantized(
    sums: np.ndarray, scale: np.ndarray, bias: np.ndarray | None, out: ChosenGrid, lowest: int
) -> np.ndarray:
    """clip(rint((sums + bias / scale) * (scale / out.scale)) + out.zero_point), in float32.

    `scale` is that of the sums, input times weight. It is what FBGEMM computes with a float bias
    (https://arxiv.org/abs/2101.05615, section 3). `lowest` is the smallest result allowed.

    >>> requantized(np.int32([10, 100]), np.float32(0.5), None, ChosenGrid(Grid(), 2.0, 0), -128)
    array([ 2, 25], dtype=int8)
    """
    ### BEGIN SOLUTION
    numbers = sums.astype(np.float32)
    if bias is not None:
        numbers += bias / scale
    numbers *= scale / np.float32(out.scale)
    np.rint(numbers, out=numbers)
    numbers += np.float32(out.zero_point)
    return np.clip(numbers, lowest, out.grid.limits[1], out=numbers).astype(out.grid.dtype)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "static-layer", "locked": true, "solution": false}
#| exporti
class StaticLayer(OnGrid):
    """What quantised Linear and Conv2d share: int8 weight, float32 bias, and the grids.

    `grids` has those of "weight" and "activation" (the result), and of the "input", for when it
    comes as floats. With `relu`, results below 0 become 0.
    """

    kind: Any  # the class of the float layer
    weight_axis: int  # of the weight's output channels
    result_axis: int  # where they are in the result
    q_weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(
        self, layer: Any, grids: Mapping[str, ChosenGrid], relu: bool = False, name: str = ""
    ):
        self.name, self.relu, weight = name or type(self).__name__, relu, grids["weight"]
        if type(layer) is not self.kind:
            expected, got = self.kind.__name__, type(layer).__name__
            raise TypeError(f"{self.name}: expected a {expected}, got {got}")
        if weight.grid.bits > 8 or np.any(weight.zero_point):
            raise ValueError(
                f"{self.name}.weight needs a symmetric grid of at most 8 bits, got {weight.grid}"
            )
        self.quantize = Quantize(grids["input"], self.name) if "input" in grids else None
        self.keep_grid(grids["activation"])
        q_weight = to_integers(layer.weight.data, weight, f"{self.name}.weight")
        require_room(q_weight, np.zeros(1), self.weight_axis, self.name)
        self.register_buffer("q_weight", Tensor(q_weight, dtype=np.int8))
        self.register_buffer("weight_scale", Tensor(weight.scale))
        bias = None if layer.bias is None else Tensor(finite(layer.bias, f"{self.name}.bias"))
        self.register_buffer("bias", bias)

    def sums(self, x: QuantizedTensor) -> Tensor:
        """The products of integers, added up: int32."""
        raise NotImplementedError(f"{type(self).__name__} needs a method sums(x)")

    def input_grid(self) -> Quantize:
        """What quantises an input of floats; RuntimeError where its grid isn't known."""
        if self.quantize is None:
            raise RuntimeError(
                f"{self.name}: the input is float and its grid isn't known: before convert, put a "
                "FakeQuantize in front, or prepare and calibrate finish_qat(model)"
            )
        return self.quantize

    def forward(self, x: Tensor) -> QuantizedTensor:
        return static_forward(self, x)

    def _extra_repr(self) -> str:
        scales = self.weight_scale.data
        kind = f"{scales.size} scales of the weight" if scales.ndim else "one scale of the weight"
        return f"{super()._extra_repr()}, {kind}, relu={self.relu}"


# %% nbgrader={"grade": false, "grade_id": "static-forward", "locked": false, "solution": true}
#| exporti
def static_forward(layer: StaticLayer, x: Any) -> QuantizedTensor:
    """What a quantised Linear or Conv2d does: quantise x if need be, add up, requantise."""
    ### BEGIN SOLUTION
    if not isinstance(x, QuantizedTensor):
        x = layer.input_grid()(x)
    sums, out = layer.sums(x).data, layer.chosen
    scale = np.float32(x.scale) * np.atleast_1d(layer.weight_scale.data)
    scale = by_channel(scale, sums.ndim, layer.result_axis)
    bias = None if layer.bias is None else by_channel(layer.bias.data, sums.ndim, layer.result_axis)
    lowest = max(out.grid.limits[0], out.zero_point) if layer.relu else out.grid.limits[0]
    q = requantized(sums, scale, bias, out, lowest)
    return QuantizedTensor(q, out)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "static-layers", "locked": true, "solution": false}
#| export
class StaticQuantizedLinear(StaticLayer):
    """A Linear that takes and gives QuantizedTensors: int8 (..., K) -> int8 (..., M).

    Bit for bit what PyTorch's FBGEMM kernels compute (torch.ao.nn.quantized.Linear); but its weight
    is (K, M) and its activations are int8 by default.

    >>> grids = {"weight": ChosenGrid(Grid(scheme="symmetric"), 0.01, 0)}
    >>> grids["input"] = grids["activation"] = ChosenGrid(Grid(), 0.5, 0)
    >>> StaticQuantizedLinear(Linear(4, 2), grids)
    StaticQuantizedLinear(4, 2, scale=0.5, zero_point=0, one scale of the weight, relu=False
      (quantize): Quantize(scale=0.5, zero_point=0)
    )
    """

    kind, weight_axis, result_axis = Linear, 1, -1

    def sums(self, x: QuantizedTensor) -> Tensor:
        if x.shape[-1:] != self.q_weight.shape[:1]:
            raise ValueError(f"{self.name}: expected (..., {len(self.q_weight)}), got {x.shape}")
        return linear_sums(Tensor._wrap(x.q), self.q_weight, x_zero_point=x.zero_point)

    def _extra_repr(self) -> str:
        return ", ".join([*map(str, self.q_weight.shape), super()._extra_repr()])


class QuantizedConv2d(StaticLayer):
    """A Conv2d that takes and gives QuantizedTensors; it pads with the zero point.

    >>> grids = {"weight": ChosenGrid(Grid(scheme="symmetric"), 0.01, 0)}
    >>> grids["input"] = grids["activation"] = ChosenGrid(Grid(), 0.5, 7)
    >>> layer = QuantizedConv2d(Conv2d(3, 8, 3, padding=1), grids)
    >>> layer(Tensor(np.ones((1, 3, 5, 5)))).shape
    (1, 8, 5, 5)
    """

    kind, weight_axis, result_axis = Conv2d, 0, 1

    def __init__(self, layer: Conv2d, *args: Any, **options: Any):
        super().__init__(layer, *args, **options)
        self.how = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
        self.how["groups"] = layer.groups

    def sums(self, x: QuantizedTensor) -> Tensor:
        return conv2d_sums(Tensor._wrap(x.q), self.q_weight, x_zero_point=x.zero_point, **self.how)

    def _extra_repr(self) -> str:
        outputs, inputs, *kernel = self.q_weight.shape
        sizes = f"{inputs * self.how['groups']}, {outputs}, kernel_size={tuple(kernel)}"
        how = [f"{name}={value!r}" for name, value in self.how.items()]
        return ", ".join([sizes, *how, super()._extra_repr()])


# %% nbgrader={"grade": false, "grade_id": "quantized-relu", "locked": false, "solution": true}
#| export
class QuantizedReLU(Module):
    """max(q, zero_point) on integers; floats it takes as ReLU does.

    >>> x = QuantizedTensor(np.array([-20, 30], np.int8), ChosenGrid(Grid(), 0.5, 10))
    >>> QuantizedReLU()(x).q
    array([10, 30], dtype=int8)
    """

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        if not isinstance(x, QuantizedTensor):
            return relu(x)
        return QuantizedTensor(np.maximum(x.q, x.q.dtype.type(x.zero_point)), x.chosen)
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "quantized-pools", "locked": false, "solution": true}
#| export
class QuantizedMaxPool2d(MaxPool2d):
    """The largest integer of each window stands for the largest number: the grid stays.

    >>> x = QuantizedTensor(np.array([[[[1, 2], [3, 4]]]], np.int8), ChosenGrid(Grid(), 0.5, 1))
    >>> QuantizedMaxPool2d(2)(x)
    QuantizedTensor([[[[1.5]]]], dtype=int8, scale=0.5, zero_point=1)
    """

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        if not isinstance(x, QuantizedTensor):
            return super().forward(x)
        return QuantizedTensor(super().forward(Tensor._wrap(x.q)).data, x.chosen)
        ### END SOLUTION


class QuantizedAvgPool2d(AvgPool2d):
    """The mean of each window, rounded to the same grid; what pads stands for 0.

    >>> x = QuantizedTensor(np.array([[[[1, 2], [3, 4]]]], np.int8), ChosenGrid(Grid(), 1.0, 0))
    >>> QuantizedAvgPool2d(2)(x)
    QuantizedTensor([[[[2.]]]], dtype=int8, scale=1, zero_point=0)
    """

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        if not isinstance(x, QuantizedTensor):
            return super().forward(x)
        numbers = Tensor._wrap(shifted(x.q, x.zero_point).astype(np.float32))
        means = np.rint(super().forward(numbers).data) + np.float32(x.zero_point)
        return QuantizedTensor(means.astype(x.q.dtype), x.chosen)
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "products", "locked": false, "solution": true}
#| exporti
def products(a: QuantizedTensor, b: QuantizedTensor) -> np.ndarray:
    """a @ b from integers: (..., T, K), (..., K, S) -> float32 (..., T, S), rounded once."""
    ### BEGIN SOLUTION
    sums = carried_matmul(*(shifted(x.q, x.zero_point) for x in (a, b)))
    return sums.astype(np.float32) * np.float32(a.scale * b.scale)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "quantized-attention-of-heads", "locked": false, "solution": true}
#| exporti
SHARES = ChosenGrid(Grid(), 1 / 255, -128)  # what lies between 0 and 1 needs no calibration


def integer_attention(q, k, v, mask=None, is_causal=False, **options) -> Tensor:
    """Attention whose two products multiply integers; the softmax between them is float.

    The weights, from 0 to 1, go on a fixed grid of steps of 1/255. No `options`: there is no
    dropout in eval mode, and no block_size.
    """
    ### BEGIN SOLUTION
    scores = products(q, k.swapaxes(-1, -2)) * np.float32(checked_scale(q, k, None))
    if mask is not None:
        mask = checked_mask(mask, scores.shape)
    everywhere = slice(0, scores.shape[-2]), slice(0, scores.shape[-1])
    added = added_to_scores(mask, is_causal, *everywhere, scores.dtype)
    weights = softmax_of_scores(scores if added is None else scores + added)
    shares = QuantizedTensor(to_integers(weights, SHARES, "attention"), SHARES)
    return Tensor._wrap(products(shares, v))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "attention-layers", "locked": true, "solution": false}
#| exporti
def watched(observer: Any, x: Tensor, name: str) -> Tensor:
    """x, after the observer has seen it; its errors name the layer."""
    try:
        observer.observe(x)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return x


class ObservedAttention(MultiHeadAttention):
    """Attention whose queries, keys and values are watched on their way into the products."""

    name: str
    observers: list[Any]

    def attend(self, q, k, v, mask, is_causal, dropout, block_size):
        for observer, x in zip(self.observers, (q, k, v), strict=True):
            watched(observer, x, f"{self.name}'s attention")
        return attention_of_heads(q, k, v, mask, is_causal, dropout, block_size)


class QuantizedAttention(MultiHeadAttention):
    """MultiHeadAttention that multiplies integers, between projections that do as well.

    With a `block_size` the products stay float, and the projections alone are quantised.
    """

    grids: list[Quantize]

    def attend(self, q, k, v, mask, is_causal, dropout, block_size):
        q, k, v = (quantize(x) for quantize, x in zip(self.grids, (q, k, v), strict=True))
        return attention_of_heads(q, k, v, mask, is_causal, None, None, integer_attention)


def turned_into(kind: type, module: Module, **more: Any) -> Any:
    """A module of another class with the same attributes, and `more`."""
    new: Any = object.__new__(kind)
    vars(new).update(vars(module), **more)
    return new


def with_replaced(model: Module, replaced: Mapping[int, Any]) -> Any:
    """The model with modules replaced (by id), or what replaces the model itself."""
    replace_modules(model, replaced)
    return replaced.get(id(model), model)


# %% nbgrader={"grade": false, "grade_id": "observed", "locked": true, "solution": false}
#| exporti
class Observed(Module):
    """A layer that computes as before, with observers of what it gets and of what it gives.

    What it gets may come from a part that stays float, and then needs a grid too.
    """

    def __init__(self, layer: Any, config: QConfig, name: str):
        self.layer, self.config, self.name = layer, config, name
        self.input_observer, self.output_observer = config.activation(), config.activation()

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(watched(self.input_observer, x, f"{self.name}.input"))
        return watched(self.output_observer, y, self.name)

    def _extra_repr(self) -> str:
        return f"output={self.output_observer!r}"


def observed_attention(part: MultiHeadAttention, config: QConfig, name: str) -> ObservedAttention:
    """The same attention, watched."""
    observers = [config.activation() for _ in "qkv"]
    return turned_into(ObservedAttention, part, observers=observers, name=name)


# %% nbgrader={"grade": false, "grade_id": "check-prepared", "locked": true, "solution": false}
#| exporti
LAYERS: dict[type, Any] = {Linear: StaticQuantizedLinear, Conv2d: QuantizedConv2d}
WATCHED = (Observed, ObservedAttention, FakeQuantizedLayer)
DEFAULT = QConfig()


def check_prepared(model: Any, qconfig: Any) -> None:
    """An error for what can't be prepared, and for names, types and values it doesn't know."""
    if not isinstance(model, Module):
        raise TypeError(f"prepare: expected a Module, got {type(model).__name__}")
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, (*WATCHED, StaticLayer)):
            raise ValueError(f"prepare: {name or 'the model'} was prepared before")
    table = qconfig if isinstance(qconfig, Mapping) else {"": qconfig}
    for key, config in table.items():
        if config is not None and not isinstance(config, QConfig):
            raise TypeError(f"prepare: expected a QConfig or None, got {config!r} for {key!r}")
        if isinstance(key, str):
            known = not key or any(f"{m}.".startswith(f"{key}.") for m in modules)
        else:
            known = key in (*LAYERS, MultiHeadAttention)
        if not known:
            raise ValueError(
                f"prepare: qconfig has {key!r}: it takes Linear, Conv2d, MultiHeadAttention, and "
                f"names, which are {list(modules)}"
            )


# %% nbgrader={"grade": false, "grade_id": "to-watch", "locked": false, "solution": true}
#| exporti
def to_watch(model: Module, table: Mapping[Any, QConfig | None]) -> list[tuple[str, Any, QConfig]]:
    """(name, part, config) of each Linear, Conv2d, Fused and MultiHeadAttention to be quantised.

    A Fused stands for the layer within. Attention in blocks is left out.

    >>> [name for name, _, _ in to_watch(Fused(Linear(1, 1)), {"": QConfig()})]
    ['']
    """
    found, seen = [], set()
    ### BEGIN SOLUTION
    for name, part in model.named_modules():
        layer = part.layer if type(part) is Fused else part
        config = config_of(name, layer, table)
        blocked = getattr(layer, "block_size", None) is not None
        kinds = (*LAYERS, MultiHeadAttention)
        if type(layer) in kinds and id(layer) not in seen and config is not None and not blocked:
            found.append((name, part, config))
        seen.add(id(layer))
    ### END SOLUTION
    return found


# %% nbgrader={"grade": false, "grade_id": "prepare", "locked": true, "solution": false}
#| export
def prepare(
    model: Module,
    qconfig: QConfig | Mapping[Any, QConfig | None] = DEFAULT,
    example: Any = None,
) -> Module:
    """A copy of the model in eval mode that computes as before and watches its numbers.

    With `example`, an input on which the model runs once, layers that follow one another are fused
    first (see `fuse`). Every Linear, Conv2d, Fused and MultiHeadAttention gets observers. `qconfig`
    may go from names of layers (or of parents), types and "" (all others) to QConfigs, and to None
    for what stays float. Then run the copy on data that is typical, and `convert` it.

    >>> from tinytorch.nn import Sequential
    >>> model = prepare(Sequential(Linear(4, 8), ReLU(), Linear(8, 2)), {"2": None})
    >>> [type(layer).__name__ for layer in model]
    ['Observed', 'ReLU', 'Linear']
    """
    check_prepared(model, qconfig)
    model = copy.deepcopy(model).eval() if example is None else fuse(model, example)
    table = {"": DEFAULT, **qconfig} if isinstance(qconfig, Mapping) else {"": qconfig}
    parts = to_watch(model, table)
    if not parts:
        raise ValueError(
            "prepare: nothing to quantise: there is no Linear, Conv2d or MultiHeadAttention that "
            "qconfig doesn't leave float"
        )
    attentions = [found for found in parts if isinstance(found[1], MultiHeadAttention)]
    layers = [found for found in parts if not isinstance(found[1], MultiHeadAttention)]
    for wrap, chosen in ((Observed, layers), (observed_attention, attentions)):
        replaced = {id(part): wrap(part, config, name) for name, part, config in chosen}
        model = with_replaced(model, replaced)
    return model


# %% nbgrader={"grade": false, "grade_id": "chosen-by", "locked": true, "solution": false}
#| exporti
def require_seen(seen: Any, name: str) -> None:
    """RuntimeError where a layer saw no data."""
    if not seen:
        raise RuntimeError(
            f"convert: {name} is not calibrated: run the prepared model on data before"
        )


def chosen_by(observer: Any, name: str) -> ChosenGrid:
    """The grid that an observer chose; RuntimeError where it saw nothing."""
    require_seen(observer.count, name)
    scale, zero_point = observer.calculate_qparams()
    return ChosenGrid(observer.grid, scale, zero_point, getattr(observer, "axis", None))


# %% nbgrader={"grade": false, "grade_id": "observed-grids", "locked": false, "solution": true}
#| exporti
def observed_grids(part: Observed, name: str) -> dict[str, ChosenGrid]:
    """The grids of an observed layer: of its "input", its "weight" and its "activation"."""
    ### BEGIN SOLUTION
    layer = part.layer.layer if isinstance(part.layer, Fused) else part.layer
    observer = part.config.weight(axis=LAYERS[type(layer)].weight_axis)
    observer.observe(finite(layer.weight, f"{name}.weight"))
    return {
        "input": chosen_by(part.input_observer, f"{name}.input"),
        "weight": chosen_by(observer, f"{name}.weight"),
        "activation": chosen_by(part.output_observer, name),
    }
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "converted-parts", "locked": true, "solution": false}
#| exporti
def converted_layer(part: Observed | FakeQuantizedLayer, name: str) -> StaticLayer:
    """The layer on integers that an observed layer, or one trained by QAT, becomes."""
    plain: Any
    if isinstance(part, Observed):
        plain, grids = part.layer, observed_grids(part, name)
    else:
        require_seen(part.output_rounder.known, name)
        plain, grids = part.plain(), part.grids
    layer = plain.layer if isinstance(plain, Fused) else plain
    return LAYERS[type(layer)](layer, grids, isinstance(plain, Fused), name)


def converted_attention(part: ObservedAttention, name: str) -> QuantizedAttention:
    """The attention on integers that an observed one becomes."""
    name = f"{name}'s attention"
    grids = [Quantize(chosen_by(observer, name), name) for observer in part.observers]
    new = turned_into(QuantizedAttention, part, grids=grids)
    del new.observers
    return new


CONVERTED_FIRST: dict[type, Any] = {Observed: converted_layer, FakeQuantizedLayer: converted_layer}
CONVERTED: dict[type, Any] = {
    ObservedAttention: converted_attention,
    FakeQuantize: lambda part, name: Quantize(part.chosen, name),
    ReLU: lambda part, name: QuantizedReLU(),
    MaxPool2d: lambda part, name: turned_into(QuantizedMaxPool2d, part),
    AvgPool2d: lambda part, name: turned_into(QuantizedAvgPool2d, part),
}


# %% nbgrader={"grade": false, "grade_id": "convert", "locked": false, "solution": true}
#| export
def convert(model: Module) -> Module:
    """A copy of a prepared and calibrated model (or of one of `prepare_qat`) on integers.

    Layers give QuantizedTensors and take them; what comes as floats they quantise, and what has no
    integer version (LayerNorm, a sum, softmax) sees floats. Raises RuntimeError for a layer that
    saw no data, ValueError for a model without prepared layers.

    >>> from tinytorch.nn import Sequential
    >>> x = Tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> prepared = prepare(Sequential(Linear(4, 8), ReLU(), Linear(8, 2)), example=x)
    >>> y = prepared(x)
    >>> [type(layer).__name__ for layer in convert(prepared)]
    ['StaticQuantizedLinear', 'Identity', 'StaticQuantizedLinear']
    """
    if not isinstance(model, Module):
        raise TypeError(f"convert: expected a Module, got {type(model).__name__}")
    if not any(isinstance(part, WATCHED) for part in model.modules()):
        raise ValueError("convert: no layer is prepared: call prepare or prepare_qat before")
    ### BEGIN SOLUTION
    model = copy.deepcopy(model).eval()
    for table in (CONVERTED_FIRST, CONVERTED):
        replaced = {
            id(part): table[type(part)](part, name or "the model")
            for name, part in model.named_modules()
            if type(part) in table
        }
        model = with_replaced(model, replaced)
    return model
    ### END SOLUTION

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
from tinytorch.optimization.integer import carried_matmul, exact_terms
from tinytorch.optimization.observers import Fused, Grid, QConfig, fuse
from tinytorch.optimization.qat import (
    ChosenGrid,
    FakeQuantize,
    FakeQuantizedLayer,
    by_channel,
    config_of,
)
from tinytorch.optimization.quantization import as_numbers, finite, replace_modules
from tinytorch.profiling.profiler import FLOPS


# %% nbgrader={"grade": false, "grade_id": "to-integers", "locked": false, "solution": true}
#| exporti
def to_integers(x: np.ndarray, chosen: ChosenGrid, name: str) -> np.ndarray:
    """clip(rint(x * float32(1 / scale)) + zero_point) in the grid's dtype; ValueError for NaN."""
    ### BEGIN SOLUTION
    scale, zero_point = (
        by_channel(np.asarray(value, np.float32), x.ndim, chosen.axis)
        for value in (chosen.scale, chosen.zero_point)
    )
    marks = np.multiply(x, np.float32(1) / scale, dtype=np.float32)
    np.rint(marks, out=marks)
    if not np.isfinite(marks).all():
        finite(x, name)  # says where
    marks += zero_point
    return np.clip(marks, *chosen.grid.limits, out=marks).astype(chosen.grid.dtype)
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
    for. What only moves elements (reshape, transpose, an index, ...) moves the integers.

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

    reshape, view, flatten = _moving("reshape"), _moving("view"), _moving("flatten")
    squeeze, unsqueeze, expand = _moving("squeeze"), _moving("unsqueeze"), _moving("expand")
    permute, swapaxes, transpose = _moving("permute"), _moving("swapaxes"), _moving("transpose")
    __getitem__ = _moving("__getitem__")

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

    scale: Tensor
    zero_point: Tensor

    def keep_grid(self, chosen: ChosenGrid) -> None:
        """Take over a grid; ValueError for one that 8 bits can't hold."""
        if chosen.grid.bits > 8:
            raise ValueError(f"{type(self).__name__}: integers of 8 bits, got {chosen.grid}")
        self.grid, self.axis = chosen.grid, chosen.axis
        self.register_buffer("scale", Tensor(chosen.scale, dtype=np.float64))
        self.register_buffer("zero_point", Tensor(chosen.zero_point, dtype=np.int32))

    @property
    def chosen(self) -> ChosenGrid:
        """The grid that is kept."""
        numbers = as_numbers(self.scale.data, self.zero_point.data)
        return ChosenGrid(self.grid, *numbers, self.axis)

    def _extra_repr(self) -> str:
        scale, zero_point = as_numbers(self.scale.data, self.zero_point.data)
        bits = "" if self.grid.bits == 8 else f"bits={self.grid.bits}, "
        return f"{bits}scale={scale:.4g}, zero_point={zero_point}"


# %% nbgrader={"grade": false, "grade_id": "quantize", "locked": true, "solution": false}
#| export
class Quantize(OnGrid):
    """Puts floats on a grid; what is quantised already passes as it is.

    >>> Quantize(ChosenGrid(Grid(), 0.5, 0))(Tensor([0.9, 100.0]))
    QuantizedTensor([ 1. , 63.5], dtype=int8, scale=0.5, zero_point=0)
    """

    def __init__(self, chosen: ChosenGrid):
        self.keep_grid(chosen)

    def forward(self, x: Tensor) -> QuantizedTensor:
        if isinstance(x, QuantizedTensor):
            return x
        return QuantizedTensor(to_integers(x.data, self.chosen, "Quantize: x"), self.chosen)


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
for _op, _floats in ((linear_sums, "linear"), (conv2d_sums, "conv2d")):
    nondifferentiable(_op)  # rounding has no slope
    FLOPS[_op.__name__] = FLOPS[_floats]


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

    weight_axis: int
    q_weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(
        self, layer: Any, grids: Mapping[str, ChosenGrid], relu: bool = False, name: str = ""
    ):
        self.name, self.relu = name or type(self).__name__, relu
        weight = grids["weight"]
        if weight.grid.bits > 8 or np.any(weight.zero_point):
            raise ValueError(
                f"{self.name}.weight needs a symmetric grid of at most 8 bits, got {weight.grid}"
            )
        self.quantize = Quantize(grids["input"]) if "input" in grids else None
        self.keep_grid(grids["activation"])
        q_weight = to_integers(layer.weight.data, weight, f"{self.name}.weight")
        self.register_buffer("q_weight", Tensor(q_weight, dtype=np.int8))
        self.register_buffer("weight_scale", Tensor(weight.scale))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def sums(self, x: QuantizedTensor) -> Tensor:
        """The products of integers, added up: int32."""
        raise NotImplementedError(f"{type(self).__name__} needs a method sums(x)")

    def forward(self, x: Tensor) -> QuantizedTensor:
        return static_forward(self, x)

    def _extra_repr(self) -> str:
        scales = self.weight_scale.data
        kind = f"{scales.size} scales of the weight" if scales.ndim else "one scale of the weight"
        return f"{super()._extra_repr()}, {kind}" + (", relu=True" if self.relu else "")


# %% nbgrader={"grade": false, "grade_id": "static-forward", "locked": false, "solution": true}
#| exporti
def static_forward(layer: StaticLayer, x: Any) -> QuantizedTensor:
    """What a quantised Linear or Conv2d does: quantise x if need be, add up, requantise."""
    ### BEGIN SOLUTION
    if not isinstance(x, QuantizedTensor):
        if layer.quantize is None:
            raise RuntimeError(
                f"{layer.name}: the input is float and its grid isn't known: "
                "put a Quantize (a FakeQuantize, before convert) in front"
            )
        x = layer.quantize(x)
    sums, out = layer.sums(x).data, layer.chosen
    channels = 1 if sums.ndim == 4 and isinstance(layer, QuantizedConv2d) else -1
    scale = np.float32(x.scale) * np.atleast_1d(layer.weight_scale.data)
    bias = None if layer.bias is None else by_channel(layer.bias.data, sums.ndim, channels)
    lowest = max(out.grid.limits[0], out.zero_point) if layer.relu else out.grid.limits[0]
    q = requantized(sums, by_channel(scale, sums.ndim, channels), bias, out, lowest)
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
    StaticQuantizedLinear(4, 2, scale=0.5, zero_point=0, one scale of the weight
      (quantize): Quantize(scale=0.5, zero_point=0)
    )
    """

    weight_axis = 1

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

    weight_axis = 0

    def __init__(self, layer: Conv2d, *args: Any, **options: Any):
        super().__init__(layer, *args, **options)
        self.how = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
        self.how["groups"] = layer.groups

    def sums(self, x: QuantizedTensor) -> Tensor:
        return conv2d_sums(Tensor._wrap(x.q), self.q_weight, x_zero_point=x.zero_point, **self.how)

    def _extra_repr(self) -> str:
        how = [f"{name}={value}" for name, value in self.how.items()]
        return ", ".join([str(self.q_weight.shape), *how, super()._extra_repr()])


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


def integer_attention(q, k, v, mask=None, is_causal=False, dropout=None, block_size=None) -> Tensor:
    """Attention whose two products multiply integers; the softmax between them is float.

    The weights, from 0 to 1, go on a fixed grid of steps of 1/255.
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
class ObservedAttention(MultiHeadAttention):
    """Attention whose queries, keys and values are watched on their way into the products."""

    observers: list[Any]

    def attend(self, q, k, v, mask, is_causal, dropout, block_size):
        for observer, x in zip(self.observers, (q, k, v), strict=True):
            observer.observe(x)
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


# %% nbgrader={"grade": false, "grade_id": "observed", "locked": true, "solution": false}
#| exporti
class Observed(Module):
    """A layer that computes as before, with observers of what it gets and of what it gives.

    What it gets may come from a part that stays float, and then needs a grid too.
    """

    def __init__(self, layer: Module, config: QConfig):
        self.layer, self.config = layer, config
        self.input_observer, self.output_observer = config.activation(), config.activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.output_observer(self.layer(self.input_observer(x)))

    def _extra_repr(self) -> str:
        return f"output={self.output_observer!r}"


# %% nbgrader={"grade": false, "grade_id": "prepare-parts", "locked": true, "solution": false}
#| exporti
CONVERTED: dict[type, Any] = {Linear: StaticQuantizedLinear, Conv2d: QuantizedConv2d}
PREPARED = (Observed, ObservedAttention, FakeQuantizedLayer, StaticLayer)
DEFAULT = QConfig()


def check_prepared(model: Any, qconfig: Any) -> None:
    """An error for what can't be prepared: no Module, one prepared before, unknown names, types."""
    if not isinstance(model, Module):
        raise TypeError(f"prepare: expected a Module, got {type(model).__name__}")
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, PREPARED):
            raise ValueError(f"prepare: {name or 'the model'} was prepared before")
    for key in qconfig if isinstance(qconfig, Mapping) else ():
        if isinstance(key, type) and key not in (*CONVERTED, Fused, MultiHeadAttention):
            raise ValueError(
                f"prepare: {key.__name__} can't be quantised: "
                "Linear, Conv2d, Fused and MultiHeadAttention can"
            )
        if isinstance(key, str) and key and not any(f"{m}.".startswith(f"{key}.") for m in modules):
            raise ValueError(f"prepare: qconfig names {key!r}, the model has {list(modules)}")


# %% nbgrader={"grade": false, "grade_id": "prepare", "locked": false, "solution": true}
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
    ### BEGIN SOLUTION
    check_prepared(model, qconfig)
    model = copy.deepcopy(model).eval() if example is None else fuse(model, example)
    table = {"": DEFAULT, **qconfig} if isinstance(qconfig, Mapping) else {"": qconfig}
    configs = {
        id(part): (part, config)
        for name, part in model.named_modules()
        if (config := config_of(name, part.layer if type(part) is Fused else part, table))
    }
    within = {id(part.layer) for part, _ in configs.values() if type(part) is Fused}
    layers = {
        key: Observed(part, config)
        for key, (part, config) in configs.items()
        if key not in within and type(part) in (Fused, *CONVERTED)
    }
    replace_modules(model, layers)
    attentions = {
        key: turned_into(ObservedAttention, part, observers=[config.activation() for _ in "qkv"])
        for key, (part, config) in configs.items()
        if type(part) is MultiHeadAttention and part.block_size is None
    }
    replace_modules(model, attentions)
    return {**layers, **attentions}.get(id(model), model)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "chosen-by", "locked": true, "solution": false}
#| exporti
def chosen_by(observer: Any, name: str) -> ChosenGrid:
    """The grid that an observer chose; RuntimeError where it saw nothing."""
    if not observer.count:
        raise RuntimeError(
            f"convert: {name} is not calibrated: run the prepared model on data before"
        )
    scale, zero_point = observer.calculate_qparams()
    return ChosenGrid(observer.grid, scale, zero_point, getattr(observer, "axis", None))


# %% nbgrader={"grade": false, "grade_id": "converted-layer", "locked": false, "solution": true}
#| exporti
def converted_layer(name: str, part: Observed | FakeQuantizedLayer) -> StaticLayer:
    """The layer on integers that an observed layer, or one trained by QAT, becomes."""
    ### BEGIN SOLUTION
    plain: Any
    if isinstance(part, Observed):
        plain, grids = part.layer, {"input": chosen_by(part.input_observer, f"{name}.input")}
        grids["activation"] = chosen_by(part.output_observer, name)
    else:
        plain, grids = part.plain(), part.grids
    layer = plain.layer if isinstance(plain, Fused) else plain
    kind = CONVERTED[type(layer)]
    if isinstance(part, Observed):
        observer = part.config.weight(axis=kind.weight_axis)
        observer.observe(layer.weight)
        grids["weight"] = chosen_by(observer, f"{name}.weight")
    return kind(layer, grids, isinstance(plain, Fused), name)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "convert", "locked": false, "solution": true}
#| export
SAME_GRID = {MaxPool2d: QuantizedMaxPool2d, AvgPool2d: QuantizedAvgPool2d}


def convert(model: Module) -> Module:
    """A copy of a prepared and calibrated model (or of one of `prepare_qat`) on integers.

    Layers give QuantizedTensors and take them; what comes as floats they quantise, and what has no
    integer version (LayerNorm, a sum, softmax) sees floats. Raises RuntimeError for a layer
    that saw no data, ValueError for a model without prepared layers.

    >>> from tinytorch.nn import Sequential
    >>> x = Tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> prepared = prepare(Sequential(Linear(4, 8), ReLU(), Linear(8, 2)), example=x)
    >>> y = prepared(x)
    >>> [type(layer).__name__ for layer in convert(prepared)]
    ['StaticQuantizedLinear', 'Identity', 'StaticQuantizedLinear']
    """
    ### BEGIN SOLUTION
    if not isinstance(model, Module):
        raise TypeError(f"convert: expected a Module, got {type(model).__name__}")
    model = copy.deepcopy(model).eval()
    replaced: dict[int, Any] = {}
    for name, part in model.named_modules():
        if isinstance(part, (Observed, FakeQuantizedLayer)):
            replaced[id(part)] = converted_layer(name or "the layer", part)
        elif isinstance(part, FakeQuantize):
            replaced[id(part)] = Quantize(part.chosen)
        elif type(part) is ReLU:
            replaced[id(part)] = QuantizedReLU()
        elif type(part) in SAME_GRID:
            replaced[id(part)] = turned_into(SAME_GRID[type(part)], part)
    if not any(isinstance(part, StaticLayer) for part in replaced.values()):
        raise ValueError("convert: no layer is prepared: call prepare or prepare_qat before")
    replace_modules(model, replaced)
    attentions = {
        id(part): quantized_attention(name, part)
        for name, part in model.named_modules()
        if isinstance(part, ObservedAttention)
    }
    replace_modules(model, attentions)
    return {**replaced, **attentions}.get(id(model), model)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "quantized-attention", "locked": true, "solution": false}
#| exporti
def quantized_attention(name: str, part: ObservedAttention) -> QuantizedAttention:
    """The attention on integers that an observed one becomes."""
    grids = [chosen_by(observer, f"{name}'s attention") for observer in part.observers]
    new = turned_into(QuantizedAttention, part, grids=[Quantize(chosen) for chosen in grids])
    del new.observers
    return new

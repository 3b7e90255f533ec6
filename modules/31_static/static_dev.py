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

Time: 4 to 5 hours. You have small weights (module 15), grids chosen by observers (22), training on grids (23) and exact products of integers (27). Here they become one machine: give it any
trained network and some typical data, and you get back a network whose layers hand each other *bytes*.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

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
from tinytorch.optimization.kernels import ACCELERATED, Int8Linear
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

# %% [markdown]
r"""
## What travels between layers?

A small network for digits, quantised as in module 15: int8 weights, calibrated inputs. **Predict**: of which type is what one layer hands to the next, and how many bytes is it for 32 images? Write it down.
"""

# %%
from functools import partial

from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Flatten, Identity, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.spatial import BatchNorm2d
from tinytorch.core.tensor import manual_seed, randn
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits
from tinytorch.models.transformer import LayerNorm, TransformerBlock
from tinytorch.optimization.observers import MinMaxObserver, PerChannelMinMaxObserver
from tinytorch.optimization.qat import prepare_qat, qat_config
from tinytorch.optimization.quantization import quantization_error, quantize_model
from tito.testing import check, check_raises

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the plots are left out

train, test = Digits(), Digits(train=False)


def fit(model, epochs, lr=3e-3) -> Module:
    """Train on the digits by Adam; the model comes back in eval mode."""
    trainer = Trainer(model, Adam(model.parameters(), lr=lr), CrossEntropyLoss())
    trainer.fit(DataLoader(train, batch_size=64, shuffle=True, seed=0), epochs)
    return model.eval()


def accuracy(model) -> float:
    """The share of the 355 test digits that the model reads right."""
    with no_grad():
        guesses = model(test.images).data.argmax(axis=1)
    return float((guesses == test.labels.data).mean())


# %%
manual_seed(0)
mlp = fit(Sequential(Flatten(), Linear(64, 64), ReLU(), Linear(64, 10)), epochs=6)
smaller = copy.deepcopy(mlp)
quantize_model(smaller, train.images)

x = test.images[:32]
for layer in smaller:
    y = layer(x)
    print(f"{type(layer).__name__:16} {x.dtype} -> {y.dtype}, {y.nbytes:5} bytes")
    x = y
print(f"accuracy {accuracy(mlp):.3f}, with int8 weights {accuracy(smaller):.3f}")

# %% [markdown]
r"""
The layers *multiply* integers, but each gives its result back as floats, and the next one rounds it again. Between them travel four bytes a number; a ReLU needs floating point; and so would max pooling. On a phone's signal processor or a microcontroller floats are slow or missing,
and moving four bytes costs four times what moving one does. This is where you are going:

```
 image                                                                       scores
 float32 -> Quantize -> int8 -> layer -> int8 -> ReLU, pool -> int8 -> layer -> int8 -> DeQuantize -> float32
                                 |                 (nothing to compute)
                    int8 x int8, summed in int32,
                 + bias, x one number, rounded: int8
```

A layer can give int8 only if it knows its *result's* grid before it has seen the result. That is why this is called **static** quantisation: grids are chosen beforehand, on typical data, and stay.

## Integers and what they stand for

### Exercise 1: to_integers

Floats go on a grid: $q = \mathrm{clip}(\mathrm{rint}(x \cdot \frac{1}{s}) + z)$. Module 23's `marks_of` has done the rounding; `marks` are float32, not yet clipped. What is left to do: clip to `limits` (smallest, largest) and return integers of the grid's own type, `chosen.grid.dtype`
(int8, or uint8 where unsigned). If a mark isn't finite, call `finite(x, name)`, which raises an error that names the place if `x` is at fault (if `x` was only very large, it doesn't, and clipping is right).

With scale 0.5 and zero point 10, [0.9, 100] has the marks [12, 210]: [12, 127].
"""


# %% nbgrader={"grade": false, "grade_id": "to-integers", "locked": false, "solution": true}
#| exporti
def to_integers(x: np.ndarray, chosen: ChosenGrid, name: str) -> np.ndarray:
    """clip(rint(x * float32(1 / scale)) + zero_point) in the grid's dtype; ValueError for NaN."""
    numbers, limits = x.astype(np.float32, copy=False), chosen.grid.limits
    with np.errstate(over="ignore"):  # what becomes infinite is clipped
        marks, _, _ = marks_of(numbers, chosen.scale, chosen.zero_point, *limits, chosen.axis)
    ### BEGIN SOLUTION
    if not np.isfinite(marks).all():
        finite(x, name)  # says where
    return np.clip(marks, *limits, out=marks).astype(chosen.grid.dtype)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-to-integers", "locked": true, "points": 6, "solution": false}
def test_to_integers():
    half = ChosenGrid(Grid(), 0.5, 10)
    x = np.array([0.9, 100.0, -100.0], np.float32)
    check(to_integers(x, half, "x"), np.array([12, 127, -128]), "clip to the grid's limits")
    check(to_integers(x, half, "x").dtype, np.int8, "int8, as grid.dtype says")
    with check_raises(ValueError, "the image holds nan at [1]", "NaN has no mark: finite says so"):
        to_integers(np.array([0.0, np.nan], np.float32), half, "the image")
    ### BEGIN HIDDEN TESTS
    unsigned = ChosenGrid(Grid(bits=4, signed=False), 1.0, 3)
    check(to_integers(x, unsigned, "x"), np.array([4, 15, 0]), "4 bits, unsigned: 0 to 15")
    check(to_integers(x, unsigned, "x").dtype, np.uint8, "an unsigned grid: uint8")
    large = np.array([1e38], np.float32)
    check(to_integers(large, half, "x"), np.array([127]), "large but finite: clip, no error")
    columns = ChosenGrid(Grid(), np.array([1.0, 0.1]), np.zeros(2, np.int32), 1)
    check(to_integers(np.ones((1, 2), np.float32), columns, "w"), [[1, 10]], "a scale a column")
    ### END HIDDEN TESTS


test_to_integers()

# %% [markdown]
r"""
An int8 array alone means nothing: 12 of what? So scale and zero point travel with it. `QuantizedTensor` holds both, and *is* a Tensor: any operation that doesn't know about integers finds the floats in `.data`, computed at that moment. Reshaping, transposing and indexing move the integers.

`q - zero_point` doesn't fit into int8: -128 - 10 would wrap around to 118. `shifted` widens first; from now on you have it.

`Quantize` is the entrance, `DeQuantize` the exit. Both are modules, so they can stand in a `Sequential`, and the grid is saved with the model. **Predict** what the cell behind them prints: bytes, and the largest error of a digit's pixels (from 0 to 1).
"""


# %% nbgrader={"grade": false, "grade_id": "shifted", "locked": true, "solution": false}
#| exporti
def shifted(q: np.ndarray, zero_point: int) -> np.ndarray:
    """q - zero_point as int16, which holds -255 to 255: 0 stands for 0 now.

    >>> shifted(np.array([-128, 127], np.int8), 10)
    array([-138,  117], dtype=int16)
    """
    return q.astype(np.int16) - np.int16(zero_point)


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


# %%
image = test.images[:1]
pixels = Quantize(ChosenGrid(Grid(), 1 / 255, -128))
q = pixels(image)
print(q.q[0, 0, 2], "stands for", q.data[0, 0, 2].round(3))
print(f"{image.nbytes} bytes -> {q.nbytes}; error {np.abs(q.data - image.data).max():.5f}", pixels)
print("moved:", type(q.flatten(1)).__name__, "| computed with:", type(q * 2).__name__)

# %% [markdown]
r"""
The error is at most half a step, 0.00196.

## One Linear on integers

Write numbers as $s (q - z)$, weights symmetric ($z = 0$), one scale for each output channel $m$:

$$y_m = \sum_k s_x (q_k - z_x) \, s_m Q_{km} + b_m = s_x s_m \Big( \underbrace{\sum_k (q_k - z_x) Q_{km}}_{\text{integers: acc}} + \frac{b_m}{s_x s_m} \Big)$$

and $y$ itself is to be an integer on its own grid: $q_y = \mathrm{rint}(y / s_y) + z_y$. Together:

$$q_y = \mathrm{clip}\Big( \mathrm{rint}\Big( \big(\mathrm{acc} + \tfrac{b}{s_x s_m}\big) \cdot \tfrac{s_x s_m}{s_y} \Big) + z_y \Big)$$

### Exercise 2: linear_sums

The first part, the sums: int8 $(..., K)$ and $(K, M)$ give int32 $(..., M)$. `carried_matmul(a, b)` of module 27 multiplies integer *matrices* exactly (it carries them in floats, in blocks that never round). So: shift, make it rows, multiply, give it its shape back.

(1 - 1) 3 + (2 - 1) 4 = 4 is the example in the docstring.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-linear-sums", "locked": true, "points": 8, "solution": false}
def test_linear_sums():
    x, weight = np.array([[1, 2], [-128, 0]], np.int8), np.array([[3, -100], [4, 100]], np.int8)
    right = (x.astype(int) - 100) @ weight.astype(int)
    got = linear_sums(x, weight, x_zero_point=100)
    check(got, right, "(x - zero point) @ weight, without wrapping")
    check(got.dtype, np.int32, "sums are int32")
    ### BEGIN HIDDEN TESTS
    stack = np.arange(-12, 12, dtype=np.int8).reshape(2, 3, 4)
    weight = np.arange(20, dtype=np.int8).reshape(4, 5)
    right = (stack.astype(int) + 5) @ weight.astype(int)
    check(linear_sums(stack, weight, x_zero_point=-5), right, "any axes before the last")
    check(linear_sums(stack[:0], weight).shape, (0, 3, 5), "an empty batch has a shape, too")
    ### END HIDDEN TESTS


test_linear_sums()

# %% [markdown]
r"""
### Exercise 3: requantized

The second part, in float32: sums + bias / scale, times scale / out.scale, `np.rint`, plus the zero point, clipped from `lowest` to the grid's largest, as `out.grid.dtype`. `scale` is $s_x s_m$, already shaped to broadcast, as is `bias` (or None). Compute in **float32** (`sums.astype(np.float32)`, `np.float32(out.scale)`)
and in this order: it is what PyTorch's FBGEMM kernels do, and then yours are equal to theirs bit for bit.

Before you write it, **predict** with paper: $x$ = [1, 0.5] on a grid of 0.01 with $z_x$ = 0, weights 0.5 and 1.0 on a grid of 0.01, bias 0.1, result on a grid of 0.05 with $z_y$ = -100. What are the integers of x and of the weight, acc, the bias in steps of $s_x s_m$, and $q_y$?

<details><summary>Hint</summary>Work in place on a float32 copy of the sums; the sums themselves must stay as they are. The smallest value is `lowest`, not the grid's: a ReLU will come in through it.</details>
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-requantized", "locked": true, "points": 10, "solution": false}
def test_requantized():
    scale = np.float32([0.01 * 0.01])
    out = ChosenGrid(Grid(), 0.05, -100)
    sums = np.array([[10_000], [-10_000], [10**7]], np.int32)
    got = requantized(sums, scale, np.float32([0.1]), out, -128)
    check(got, np.array([[-78], [-118], [127]]), "(acc + bias / scale) scale / out.scale - 100")
    check(got.dtype, np.int8, "the type of the result's grid")
    check(sums[0, 0].item(), 10_000, "the sums stay as they are")
    ### BEGIN HIDDEN TESTS
    got = requantized(sums, scale, None, out, -100)
    check(got, np.array([[-80], [-100], [127]]), "no bias; nothing below lowest")
    halves = requantized(np.int32([1, 3]), np.float32([1]), None, ChosenGrid(Grid(), 2.0, 0), -128)
    check(halves, np.array([0, 2]), "rint: halves go to the even number")
    columns = np.float32([1.0, 0.5])
    got = requantized(np.int32([[8, 8]]), columns, columns, ChosenGrid(Grid(), 1.0, 0), -128)
    check(got, np.array([[9, 4]]), "each column its own scale: 9, and 4.5 to even")
    unsigned = ChosenGrid(Grid(signed=False), 1.0, 3)
    got = requantized(np.int32([300]), np.float32([1]), None, unsigned, 0)
    check(got, np.array([255], np.uint8), "an unsigned grid ends at 255")
    ### END HIDDEN TESTS


test_requantized()

# %%
x_grid, w_grid = ChosenGrid(Grid(), 0.01, 0), ChosenGrid(Grid(scheme="symmetric"), 0.01, 0)
q_x = to_integers(np.float32([[1.0, 0.5]]), x_grid, "x")
q_w = to_integers(np.float32([[0.5], [1.0]]), w_grid, "w")
acc, scale, bias = linear_sums(q_x, q_w), np.float32([0.01 * 0.01]), np.float32([0.1])
print("x", q_x, "weight", q_w.T, "acc", acc, "bias in steps", bias / scale)
q_y = requantized(acc, scale, bias, ChosenGrid(Grid(), 0.05, -100), -128)
print("q_y", q_y, "stands for", (shifted(q_y, -100) * 0.05).round(6))

# %% [markdown]
r"""
Acc 10,000, bias 1,000 steps, result -78, which stands for 1.1: exact here. Notice that the bias, as an integer, would be far outside int8: a bias lives on the *accumulator's* grid, so fine that rounding it would hardly matter.

### Exercise 4: static_forward

Now the layer. `StaticLayer` is what Linear and Conv2d will share; it keeps `q_weight`, `weight_scale` (one number, or one for each output channel), `bias` (or None) and the grid of its result. Write its forward pass:

- if `x` isn't a QuantizedTensor, quantise it: `layer.input_grid()` gives the `Quantize` for that;
- `layer.sums(x).data` are the sums; `layer.result_axis` says along which of their axes the output channels lie;
- the sums' scale is `np.float32(x.scale)` times the weight's scales, bias and scale shaped by `by_channel(values, ndim, axis)` (it wants arrays with an axis: `np.atleast_1d`);
- `layer.relu`: nothing below 0, which on the result's grid is nothing below its zero point. Otherwise the smallest integer is the grid's, `layer.chosen.grid.limits[0]`;
- return a QuantizedTensor on `layer.chosen`.

Which scale of x counts if x arrives as integers: the one that was calibrated for this layer's input, or the one that x brings along?
"""


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


# %% nbgrader={"grade": false, "grade_id": "static-linear", "locked": true, "solution": false}
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
    lowest = out.zero_point if layer.relu else out.grid.limits[0]
    q = requantized(sums, scale, bias, out, lowest)
    return QuantizedTensor(q, out)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-static-forward", "locked": true, "points": 10, "solution": false}
def layer_by_hand(relu=False):
    """2 -> 2, input steps 0.01, weight steps 0.01 and 0.02, result steps 0.05 from -128."""
    layer = Linear(2, 2)
    layer.weight.data[...], layer.bias.data[...] = [[0.5, -1.0], [1.0, 0.2]], [0.1, 0.3]
    scales = np.array([0.01, 0.02]), np.zeros(2, np.int32)
    grids = {
        "input": ChosenGrid(Grid(), 0.01, 0),
        "weight": ChosenGrid(Grid(scheme="symmetric"), *scales, 1),
        "activation": ChosenGrid(Grid(), 0.05, -50),
    }
    return StaticQuantizedLinear(layer, grids, relu, name="by hand")


def test_static_forward():
    x = Tensor([[1.0, 0.5]])
    y = layer_by_hand()(x)  # 1.1 and -0.6
    check(isinstance(y, QuantizedTensor), True, "the result is a QuantizedTensor")
    check(y.q, np.array([[-28, -62]]), "each column has its own scale")
    check((y.scale, y.zero_point), (0.05, -50), "on the grid of the layer's result")
    check(layer_by_hand(relu=True)(x).q, np.array([[-28, -50]]), "relu: 0 is the zero point")
    ### BEGIN HIDDEN TESTS
    other = QuantizedTensor(np.array([[30, 20]], np.int8), ChosenGrid(Grid(), 0.05, 10))
    check(layer_by_hand()(other).q, np.array([[-28, -62]]), "x brings its own scale: use that")
    deep = QuantizedTensor(np.array([[[[30, 20]]]], np.int8), ChosenGrid(Grid(), 0.05, 10))
    check(layer_by_hand()(deep).q, np.array([[[[-28, -62]]]]), "any axes before the last")
    layer = layer_by_hand()
    layer.bias = None
    check(layer(x).q, np.array([[-30, -68]]), "without a bias")
    layer.weight_scale = Tensor(0.01)
    check(layer(x).q, np.array([[-30, -59]]), "one scale for the whole weight")
    ### END HIDDEN TESTS


test_static_forward()

# %% [markdown]
r"""
Now two such layers behind one another, with grids taken by hand: observers look at what enters and leaves each layer of the network of the beginning. **Predict**: the bytes between the layers, and by how many of 355 digits the accuracy changes.
"""


# %%
def on_integers(layer, x, relu=False) -> StaticQuantizedLinear:
    """A Linear on integers, its grids chosen for this x."""
    y = np.maximum(layer(x).data, 0) if relu else layer(x).data
    seen = {
        "input": (MinMaxObserver(), x),
        "weight": (PerChannelMinMaxObserver(axis=1, scheme="symmetric"), layer.weight),
        "activation": (MinMaxObserver(), y),
    }
    grids = {}
    for key, (observer, numbers) in seen.items():
        observer.observe(numbers)
        axis = getattr(observer, "axis", None)
        grids[key] = ChosenGrid(observer.grid, *observer.calculate_qparams(), axis)
    return StaticQuantizedLinear(layer, grids, relu)


rows = train.images.flatten(1)
first = on_integers(mlp[1], rows, relu=True)
last = on_integers(mlp[3], mlp[2](mlp[1](rows)))
x = test.images[:32].flatten(1)
for layer in (first, last):
    y = layer(x)
    print(f"{type(x).__name__:16} -> {y.q.dtype}, {y.nbytes:5} bytes")
    x = y
print(
    f"accuracy {accuracy(mlp):.3f}, on integers {accuracy(Sequential(Flatten(), first, last)):.3f}"
)

# %% [markdown]
r"""
## Convolution, and what stands outside the picture

A convolution is the same with windows for rows. But what does it pad with? In floats with 0.0. **Predict**: pixels from 0 to 1 on int8 have scale 1/255 and zero point -128. If you pad a black image with the *integer* 0, which grey is its frame?

### Exercise 5: conv2d_sums

Exact sums of int8 images and int8 kernels, as int32. Module 09's `conv2d(x, weight, stride=..., padding=..., ...)` works on arrays of floats. Shift **first**, and its padding with 0.0 is right.

A float32 carries integers exactly up to $2^{24}$: with terms of at most 255 x 128 that is `exact_terms(255, 128)` = 514 of them. Count the terms of one sum, `q_weight[0].size`; for more, carry in float64.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-conv2d-sums", "locked": true, "points": 8, "solution": false}
def test_conv2d_sums():
    x, weight = np.array([[[[1, 2]]]], np.int8), np.array([[[[3, 4]]]], np.int8)
    got = conv2d_sums(x, weight, x_zero_point=1, padding=(0, 1))
    check(got, np.array([[[[0, 4, 3]]]]), "shifted [0, 1], padded [0, 0, 1, 0], times [3, 4]")
    check(got.dtype, np.int32, "sums are int32")
    edge = conv2d_sums(np.full((1, 1, 2, 2), -128, np.int8), weight, x_zero_point=-128, padding=1)
    check(edge.any(), False, "black, padded with black, gives 0 everywhere")
    ### BEGIN HIDDEN TESTS
    x = np.full((1, 64, 3, 3), 127, np.int8)  # 576 terms of 255 * 127, and one that is odd
    weight = np.full((1, 64, 3, 3), 127, np.int8)
    weight[0, 0, 0, 0] = 126
    check(conv2d_sums(x, weight, x_zero_point=-128).item(), 255 * (576 * 127 - 1), "float64 beyond")
    x = np.arange(-64, 64, dtype=np.int8).reshape(2, 4, 4, 4)
    weight = np.arange(16, dtype=np.int8).reshape(4, 2, 1, 2)
    got = conv2d_sums(x, weight, x_zero_point=7, stride=2, groups=2)
    right = conv2d(x.astype(float) - 7, weight.astype(float), stride=2, groups=2)
    check(got, right.astype(int), "stride, groups and the rest are passed on")
    ### END HIDDEN TESTS


test_conv2d_sums()

# %% nbgrader={"grade": false, "grade_id": "quantized-conv2d", "locked": true, "solution": false}
#| export
nondifferentiable(linear_sums)  # rounding has no slope: gradients end at the integers
nondifferentiable(conv2d_sums)
FLOPS["linear_sums"], FLOPS["conv2d_sums"] = FLOPS["linear"], FLOPS["conv2d"]


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


# %%
kernel = np.ones((1, 1, 3, 3), np.int8)


def blurred(image, frame=None) -> np.ndarray:
    """3 x 3 means of a float image (1, 1, H, W) by integers; `frame` is the integer around it."""
    q = pixels(Tensor(image)).q
    if frame is not None:
        q = np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=frame)
    padding = 1 if frame is None else 0
    return conv2d_sums(q, kernel, x_zero_point=-128, padding=padding)[0, 0] / 9 / 255


black = np.zeros((1, 1, 4, 4))
print("black, framed by the integer 0:", *blurred(black, frame=0).round(2), sep="\n")
print("framed by the zero point:      ", *blurred(black).round(2), sep="\n")
if plt:
    figure, axes = plt.subplots(1, 3, figsize=(9, 3))
    pictures = {
        "a digit": image.data[0, 0],
        "blurred, framed by 0": blurred(image.data, frame=0),
        "framed by the zero point": blurred(image.data),
    }
    for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set(title=title, xlabel="column (pixels)", ylabel="row (pixels)")
    figure.tight_layout()
    plt.show()

# %% [markdown]
r"""
The integer 0 is a grey of 128/255, half way to white. No error would tell you; the network would only be a little worse, at the edges.

## Layers that need no arithmetic

On a grid larger integers stand for larger numbers (scales are positive). So a maximum of integers is the maximum of what they stand for, and the grid stays as it is.

### Exercise 6: ReLU and pooling

Three layers. What comes as floats, they treat as their float versions do: `relu(x)`, `super().forward(x)`.
- `QuantizedReLU`: max(q, zero_point), on the same grid, in the same type of integer (`x.q.dtype.type(...)` makes a NumPy number of it).
- `QuantizedMaxPool2d`: `super().forward` on the integers, as `Tensor._wrap(x.q)`.
- `QuantizedAvgPool2d`: means of integers aren't integers. Shift, so that padding with 0 is right; as float32; `super().forward`; `np.rint`; add the zero point; back to `x.q.dtype`.

On a grid with zero point 1, the mean of [1, 2, 3, 4] is that of the shifted [0, 1, 2, 3] = 1.5, rounded 2, plus 1: 3.
"""


# %% nbgrader={"grade": false, "grade_id": "same-grid", "locked": false, "solution": true}
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


# %% nbgrader={"grade": true, "grade_id": "test-same-grid", "locked": true, "points": 11, "solution": false}
def test_same_grid():
    grid = ChosenGrid(Grid(), 0.5, 10)
    y = QuantizedReLU()(QuantizedTensor(np.array([-20, 30], np.int8), grid))
    check(y.q, np.array([10, 30]), "what is below the zero point becomes the zero point")
    check((y.q.dtype.name, y.scale, y.zero_point), ("int8", 0.5, 10), "the grid stays")
    image = QuantizedTensor(np.array([[[[1, 2], [3, 4]]]], np.int8), ChosenGrid(Grid(), 0.5, 1))
    check(QuantizedMaxPool2d(2)(image).q, np.array([[[[4]]]]), "the largest integer")
    check(QuantizedAvgPool2d(2)(image).q, np.array([[[[3]]]]), "1.5 is rounded to 2, plus 1")
    floats = image.dequantize()
    check(QuantizedMaxPool2d(2)(floats), [[[[1.5]]]], "floats are pooled as floats")
    ### BEGIN HIDDEN TESTS
    check(QuantizedReLU()(Tensor([-1.0, 2.0])), [0.0, 2.0], "floats: as relu")
    check(QuantizedAvgPool2d(2)(floats), [[[[0.75]]]], "floats are pooled as floats")
    dark = QuantizedTensor(np.full((1, 1, 2, 2), -120, np.int8), ChosenGrid(Grid(), 0.5, 90))
    largest = QuantizedMaxPool2d(2, padding=1)(dark)
    check(largest.q, np.full((1, 1, 2, 2), -120), "padding is never the largest")
    signs = QuantizedTensor(np.array([[[[-1, 2], [-120, 0]]]], np.int8), dark.chosen)
    check(QuantizedMaxPool2d(2)(signs).q, np.array([[[[2]]]]), "integers have signs")
    means = QuantizedAvgPool2d(2, padding=1)(dark)
    check(means.q, np.full((1, 1, 2, 2), 38), "padding stands for 0: -210 / 4 = -52.5, to even")
    check(means.q.dtype, np.int8, "the mean is int8 again")
    ### END HIDDEN TESTS


test_same_grid()

# %% [markdown]
r"""
## Attention: two products, and a softmax between them

Attention multiplies two *activations*, twice: $q k^T$ and weights $\cdot\, v$. Both have zero points: shift both, and the products are integers. What stays float is the softmax. Why? $e^x$ turns differences into ratios: a step of 0.1 in a score is 10 % of a weight, so a grid fine enough
for the largest scores would waste nearly all its marks. (The sums $x + f(x)$ around attention and LayerNorm's $1/\sqrt{\sigma^2}$ stay float for like reasons: each mixes numbers of two grids, or divides by what is only known at run time.)

### Exercise 7: products

The product of two QuantizedTensors as float32: `carried_matmul` of both, shifted (it takes stacks of matrices), then times both scales.
"""


# %% nbgrader={"grade": false, "grade_id": "products", "locked": false, "solution": true}
#| exporti
def products(a: QuantizedTensor, b: QuantizedTensor) -> np.ndarray:
    """a @ b from integers: (..., T, K), (..., K, S) -> float32 (..., T, S), rounded once."""
    ### BEGIN SOLUTION
    sums = carried_matmul(*(shifted(x.q, x.zero_point) for x in (a, b)))
    return sums.astype(np.float32) * np.float32(a.scale * b.scale)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-products", "locked": true, "points": 6, "solution": false}
def test_products():
    a = QuantizedTensor(np.array([[3, 5]], np.int8), ChosenGrid(Grid(), 0.5, 1))
    b = QuantizedTensor(np.array([[-7], [10]], np.int8), ChosenGrid(Grid(), 0.1, -10))
    check(products(a, b), [[0.5 * 0.1 * (2 * 3 + 4 * 20)]], "shift both, multiply, both scales")
    check(products(a, b).dtype, np.float32, "float32")
    ### BEGIN HIDDEN TESTS
    far = QuantizedTensor(np.full((2, 1, 600), -128, np.int8), ChosenGrid(Grid(), 1.0, 127))
    right = np.full((2, 1, 1), 255.0**2 * 600)
    check(products(far, far.swapaxes(-1, -2)), right, "-255 each: nothing wraps, nothing rounds")
    ### END HIDDEN TESTS


test_products()

# %% [markdown]
r"""
The attention weights need no observer: they lie between 0 and 1, so `SHARES`, a grid of 256 marks from 0 to 1, fits all of them.

### Exercise 8: integer_attention

Fill in three steps; the mask is done for you:
- `scores`, float32: `products` of q and k with its last two axes swapped, times `np.float32(checked_scale(q, k, None))`, which is $1/\sqrt D$;
- `weights`, by `softmax_of_scores`, from scores + `added` (which may be None) go on the grid `SHARES`: `to_integers(weights, SHARES, "attention")`, as a QuantizedTensor;
- their `products` with v, as a Tensor: `Tensor._wrap`.
"""

# %% nbgrader={"grade": false, "grade_id": "integer-attention", "locked": false, "solution": true}
#| exporti
SHARES = ChosenGrid(Grid(), 1 / 255, -128)  # what lies between 0 and 1 needs no calibration


def integer_attention(q, k, v, mask=None, is_causal=False, **options) -> Tensor:
    """Attention whose two products multiply integers; the softmax between them is float.

    The weights, from 0 to 1, go on a fixed grid of steps of 1/255. No `options`: there is no
    dropout in eval mode, and no block_size.
    """
    shape = *q.shape[:-1], k.shape[-2]
    mask = None if mask is None else checked_mask(mask, shape)
    everywhere = slice(0, shape[-2]), slice(0, shape[-1])
    added = added_to_scores(mask, is_causal, *everywhere, np.float32)
    ### BEGIN SOLUTION
    scores = products(q, k.swapaxes(-1, -2)) * np.float32(checked_scale(q, k, None))
    weights = softmax_of_scores(scores if added is None else scores + added)
    shares = QuantizedTensor(to_integers(weights, SHARES, "attention"), SHARES)
    return Tensor._wrap(products(shares, v))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-integer-attention", "locked": true, "points": 10, "solution": false}
def integers_of(*shape, scale=0.05, zero_point=3) -> QuantizedTensor:
    """Some integers that are always the same."""
    q = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    return QuantizedTensor(q, ChosenGrid(Grid(), scale, zero_point))


def test_integer_attention():
    q, k, v = integers_of(1, 4, 8, scale=0.01), integers_of(1, 5, 8), integers_of(1, 5, 2)
    scores = q.data @ k.data.swapaxes(-1, -2) / np.sqrt(8)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    right = np.rint(weights * 255) / 255 @ v.data
    check(integer_attention(q, k, v), right, "softmax, rounded to steps of 1/255, times v", 1e-4)
    ### BEGIN HIDDEN TESTS
    first = integer_attention(q, k, v, is_causal=True)[:, 0]
    check(first, v.data[:, 0], "the first looks at the first only: use `added`", 1e-4)
    ones = np.array([True, False, True, True, True])
    kept = np.exp(scores) * ones
    right = np.rint(kept / kept.sum(axis=-1, keepdims=True) * 255) / 255 @ v.data
    check(integer_attention(q, k, v, ones[None]), right, "a mask hides keys", 1e-4)
    ### END HIDDEN TESTS


test_integer_attention()

# %%
even = QuantizedTensor(np.zeros((1, 8), np.int8), ChosenGrid(Grid(), 0.1, 0))  # all scores are 0
for keys in (2, 8, 100, 255, 500, 520, 1000):
    ones = QuantizedTensor(np.ones((keys, 1), np.int8), ChosenGrid(Grid(), 1.0, 0))
    mixed = integer_attention(even, even.expand(keys, 8), ones).item()
    print(f"{keys:5} keys, each with weight {1 / keys:.4f}: the mean of ones is {mixed:.3f}")

# %% [markdown]
r"""
Eight bits of a *share* have their limit: where attention spreads evenly over 520 keys, each share is under half a step, and nothing is left. Trained attention is rarely that even, but on long texts measure before you trust it. (PyTorch's quantised attention avoids the question: its projections are quantised, both products stay float.)

The rest of attention is given. `prepare` will turn a MultiHeadAttention into an observed one, `convert` that into a quantised one.
"""


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

    Attention with a `block_size` doesn't become one: there only the projections are on integers.
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


# %% [markdown]
r"""
## prepare: let observers watch

You won't choose grids by hand for each layer. `prepare` makes a copy of the model in which each layer is `Observed`: it computes as before, and two observers see what goes in and what comes out. Given are that class and the checks of what the user asked for.
"""


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


# %% [markdown]
r"""
### Exercise 9: to_watch

Which parts get observers? Go through `model.named_modules()` (parents come first) and collect `(name, part, config)` where

- the layer's type is a key of `LAYERS`, or it is a MultiHeadAttention whose `block_size` is None. The layer is the part itself, or, if the part is a `Fused`, `part.layer`;
- `config_of(name, layer, table)` of module 23 isn't None (it looks the layer up by name, by parents' names, by type);
- the layer wasn't met before: a Fused comes by as itself and then again as the layer within it. Note each layer's `id`, also of those that are skipped.

Compare types by `type(...)`, not by isinstance: a subclass may compute something else.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-to-watch", "locked": true, "points": 8, "solution": false}
def test_to_watch():
    config, four = QConfig(), QConfig(activation=partial(MinMaxObserver, bits=4))
    model = Sequential(Fused(Linear(2, 3)), ReLU(), Linear(3, 3), Conv2d(1, 1, 1))
    found = to_watch(model, {"": config})
    check([name for name, _, _ in found], ["0", "2", "3"], "a Fused stands for the layer within")
    check([part is model[int(name)] for name, part, _ in found], [True] * 3, "the parts themselves")
    found = to_watch(model, {"": config, "2": None, Conv2d: four})
    check([name for name, _, _ in found], ["0", "3"], "None leaves a layer float")
    check([c is four for _, _, c in found], [False, True], "each with its own config")
    ### BEGIN HIDDEN TESTS
    names = [name for name, _, _ in to_watch(model, {"": config, Linear: None})]
    check(names, ["3"], "a Fused Linear is a Linear, too")
    attention = Sequential(MultiHeadAttention(4, 2), MultiHeadAttention(4, 2, block_size=2))
    names = [name for name, _, _ in to_watch(attention, {"": config})]
    check([n for n in names if "." not in n], ["0"], "attention in blocks stays float")
    check(len(names), 9, "but all eight projections are watched")
    shared = Linear(2, 2)
    check(len(to_watch(Sequential(shared, shared), {"": config})), 1, "a shared layer once")
    ### END HIDDEN TESTS


test_to_watch()


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


# %%
prepared = prepare(mlp, example=test.images[:2])
print(prepared)
with no_grad():
    same = np.abs(prepared(train.images).data - mlp(train.images).data).max()
print(f"largest difference to the model before: {same}")
print(prepared[1].output_observer)

# %% [markdown]
r"""
With an `example`, `fuse` of module 22 has put batch norms into weights and joined ReLUs to their layers: the grid of a `Fused` result spends no mark on negative numbers. The model computed what it always does, and the observers know their grids.

## convert: put the integers in

For a layer that was observed, `observed_grids` takes the three grids from the observers (the weight's is chosen now). `converted_layer` makes the layer on integers, also from a layer that module 23's `prepare_qat` made and that was trained. Two tables say what becomes of which type:
first layers (which hold rounders of their own), then the rest.
"""


# %% nbgrader={"grade": false, "grade_id": "converted-parts", "locked": true, "solution": false}
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


def observed_grids(part: Observed, name: str) -> dict[str, ChosenGrid]:
    """The grids of an observed layer: of its "input", its "weight" and its "activation"."""
    layer = part.layer.layer if isinstance(part.layer, Fused) else part.layer
    observer = part.config.weight(axis=LAYERS[type(layer)].weight_axis)
    observer.observe(finite(layer.weight, f"{name}.weight"))
    return {
        "input": chosen_by(part.input_observer, f"{name}.input"),
        "weight": chosen_by(observer, f"{name}.weight"),
        "activation": chosen_by(part.output_observer, name),
    }


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

# %% [markdown]
r"""
### Exercise 10: convert

On a deep copy in eval mode, for each of the two tables in turn: for every module whose type is in the table, what replaces it is `table[type(part)](part, name or "the model")`. Collect these by `id(part)`, and let `with_replaced(model, replaced)` put them in; it returns the model (or what replaced it, where the model is a bare layer).

Two rounds, not one: converting an attention copies its attributes, so its projections must be integers before; and the rounders within a trained layer are gone after the first round.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-convert", "locked": true, "points": 8, "solution": false}
def small_model() -> Module:
    manual_seed(0)
    return Sequential(Linear(4, 8), ReLU(), Linear(8, 2))


def test_convert():
    x = Tensor(np.linspace(-1, 1, 40).reshape(10, 4))
    prepared = prepare(small_model(), example=x)
    with check_raises(RuntimeError, "0.input is not calibrated", "given: chosen_by says so"):
        convert(prepared)
    right = prepared(x).data
    got = convert(prepared)
    names = [type(layer).__name__ for layer in got]
    check(names, ["StaticQuantizedLinear", "Identity", "StaticQuantizedLinear"], "layers replaced")
    check(np.abs(got(x).data - right).max() < 0.02, True, "nearly the same results")
    check(type(prepared[0]).__name__, "Observed", "the prepared model stays as it is: deepcopy")
    ### BEGIN HIDDEN TESTS
    unfused = prepare(small_model())
    unfused(x)
    check(type(convert(unfused)[1]).__name__, "QuantizedReLU", "the second table, too")
    bare = prepare(Linear(4, 2))
    bare(x)
    check(type(convert(bare)).__name__, "StaticQuantizedLinear", "a bare layer is replaced itself")
    attention = prepare(MultiHeadAttention(4, 2))
    attention(x)
    got = convert(attention)
    check(type(got.q_proj).__name__, "StaticQuantizedLinear", "layers first, then attention")
    trained = prepare_qat(Sequential(FakeQuantize(MinMaxObserver()), *small_model()), example=x)
    names = [type(layer).__name__ for layer in convert(trained)]
    check(names[:2], ["Quantize", "StaticQuantizedLinear"], "models of prepare_qat, too")
    ### END HIDDEN TESTS


test_convert()

# %% [markdown]
r"""
## Put together: a network with convolutions

A small CNN with batch norms reads the digits. It is prepared and calibrated on 200 training images without labels, and converted in several ways. One row is trained on with rounding by module 23 (weights of 2 bits, 6 more epochs); its control is trained on as long in floats, then rounded.

**Predict** the accuracy of each row: observers by histogram or by extremes; one scale for each weight tensor instead of each channel; weights of 4, 3 and 2 bits; and 2 bits trained. How many bytes does each *hold*?
"""

# %%
manual_seed(0)
cnn = Sequential(
    *(Conv2d(1, 16, 3, padding=1), BatchNorm2d(16), ReLU(), MaxPool2d(2)),
    *(Conv2d(16, 32, 3, padding=1), BatchNorm2d(32), ReLU(), AvgPool2d(2)),
    *(Flatten(), Linear(128, 10)),
)
fit(cnn, epochs=8)
typical = train.images[:200]


def static(model, config=DEFAULT) -> Module:
    """Prepared, calibrated on the typical images, converted."""
    prepared = prepare(model, config, typical[:8])
    with no_grad():
        prepared(typical)
    return convert(prepared)


def weights_of(bits) -> QConfig:
    """Weights of so many bits by channel, activations of 8."""
    return QConfig(weight=partial(PerChannelMinMaxObserver, bits=bits, scheme="symmetric"))


two_bits = prepare_qat(
    Sequential(FakeQuantize(MinMaxObserver()), *cnn), qat_config(weight_bits=2), typical
)
fit(two_bits.train(), epochs=6)
control = fit(copy.deepcopy(cnn).train(), epochs=6)

# %%
whole_weight = QConfig(weight=lambda axis: MinMaxObserver(scheme="symmetric"))
networks = {
    "float32": cnn,
    "int8, histogram": static(cnn),
    "int8, extremes": static(cnn, QConfig(activation=MinMaxObserver)),
    "one scale a weight": static(cnn, whole_weight),
    "4-bit weights": static(cnn, weights_of(4)),
    "3-bit weights": static(cnn, weights_of(3)),
    "2-bit weights": static(cnn, weights_of(2)),
    "2 bits, control": static(control, weights_of(2)),
    "2 bits, trained": convert(two_bits),
}


def held_bytes(model) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


with no_grad():
    right = cnn(test.images)
print("                     accuracy      dB    bytes held")
for name, model in networks.items():
    with no_grad():
        scores = Tensor(model(test.images).data)
    decibels = quantization_error(right, scores)["snr_db"]
    print(f"{name:20} {accuracy(model):8.3f} {decibels:7.1f} {held_bytes(model):10,}")
print(networks["int8, histogram"])

# %% [markdown]
r"""
Read it honestly. **At 8 bits nothing is lost**, whichever way the grids are chosen; on this easy task the choice of observer shows in decibels only. Weights of 4 bits still do; at 3 it begins to cost, at 2 rounding after training fails. Training *with* rounding repairs most of that, which the control's epochs, as many, don't.
(dB against the *float* network mean little for the two that were trained on: those are other networks.)

And the bytes: weights of 2 bits are *held* in int8 like all others. Packing them was module 24; it doesn't happen here.

Where do errors arise? Compare each layer's result with the float network's, for everything before it quantised, and for that layer alone (`qconfig` {"": None, name: ...} leaves all others float). **Predict** which layer hurts most, and whether errors add up or fade on the way.
"""


# %%
def decibels_by_layer(quantized) -> list[float]:
    """The SNR of what each layer that computes gives, against the fused float network."""
    x = y = test.images
    found = []
    with no_grad():
        for layer, other in zip(fuse(cnn, typical[:8]), quantized, strict=True):
            x, y = layer(x), other(y)
            if not isinstance(layer, (Identity, Flatten)):
                found.append(quantization_error(Tensor(x.data), Tensor(y.data))["snr_db"])
    return found


lines = {name: decibels_by_layer(networks[name]) for name in ("int8, histogram", "4-bit weights")}
for name, index in (("first", "0"), ("second", "4"), ("last", "9")):
    lines[f"the {name} alone"] = decibels_by_layer(static(cnn, {"": None, index: DEFAULT}))
steps = ["conv 1", "max pool", "conv 2", "avg pool", "linear"]
print("dB behind        " + "".join(f"{step:>9}" for step in steps))
for name, values in lines.items():
    print(f"{name:17}" + "".join(f"{value:9.1f}" for value in values))
if plt:
    styles = ("k-o", "k--s", "k:^", "k:v", "k:x")
    for (name, values), style in zip(lines.items(), styles, strict=True):
        plt.plot(steps, np.where(np.isinf(values), np.nan, values), style, label=name)
    plt.title("What is left of the signal behind each layer")
    plt.xlabel("layer (batch norms and ReLUs are in the convolutions)")
    plt.ylabel("signal-to-noise ratio (dB)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
Errors of different layers are independent, so their *powers* add: two equal ones cost 3 dB together. Pooling and the last layer's sums take means of many numbers, in which errors partly cancel, and the ratio rises again. With 4-bit weights the weights' errors drown all others.

Now a network that isn't a chain: two TransformerBlocks that read a digit row by row, eight rows of eight pixels as a sequence. Sums $x + f(x)$ and LayerNorms see floats (a QuantizedTensor gives them without being asked), and the layers behind quantise again, by the grid of their input that `Observed` noted.
**Predict** how many of its 105,384 bytes are left, and whether it matters that attention's products are integers.
"""


# %%
class RowReader(Module):
    """(N, 1, 8, 8) -> (N, 10): the rows are a sequence of 8 vectors."""

    def __init__(self, dim=32, heads=4):
        self.embed, self.places = Linear(8, dim), 0.1 * randn(8, dim)
        self.blocks = [TransformerBlock(dim, heads) for _ in range(2)]
        self.norm, self.head = LayerNorm(dim), Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.squeeze(1)) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(axis=1))


manual_seed(0)
reader = fit(RowReader(), epochs=6)
ways = {
    "all": DEFAULT,
    "attention's products float": {MultiHeadAttention: None},
    "second block float": {"blocks.1": None},
}
with no_grad():
    right = reader(test.images)
print(f"{'float32':28} {accuracy(reader):.3f}           {held_bytes(reader):7,} bytes")
for name, config in ways.items():
    model = static(reader, config)
    decibels = quantization_error(right, Tensor(model(test.images).data))["snr_db"]
    size = held_bytes(model)
    print(f"{name:28} {accuracy(model):.3f}  {decibels:5.1f} dB {size:7,} bytes")
print(static(reader).blocks[0].attention)

# %% [markdown]
r"""
## What it costs

Bytes fall by nearly four. Time? **Predict** for one Linear on 32 rows: is the layer on integers faster than float32 in NumPy, and what takes longest in it: the product, or what comes after?
"""


# %%
import time


def milliseconds(function, *inputs, repeat=7) -> float:
    """The fastest of some runs, after one to warm up."""
    times = []
    with no_grad():
        for _ in range(repeat + 1):
            start = time.perf_counter()
            function(*inputs)
            times.append(time.perf_counter() - start)
    return 1000 * min(times[1:])


print("32 rows, ms    float32   integers   of these: sums   requantise   ratio")
for size in (64, 256, 1024):
    layer, batch = Linear(size, size), randn(32, size)
    whole = on_integers(layer, batch)
    q = whole.quantize(batch)
    sums, scale = whole.sums(q).data, np.float32(q.scale) * whole.weight_scale.data
    row = [milliseconds(layer, batch), milliseconds(whole, q), milliseconds(whole.sums, q)]
    row.append(milliseconds(requantized, sums, scale, whole.bias.data, whole.chosen, -128))
    print(
        f"{size:5} x {size:<5} {{:8.3f}} {{:10.3f}} {{:16.3f}} {{:12.3f}} {{:7.1f}}".format(
            *row, row[1] / row[0]
        )
    )
for name in ("float32", "int8, histogram"):
    print(f"{name:16} 355 digits: {milliseconds(networks[name], test.images):.1f} ms")

# %% [markdown]
r"""
**In NumPy no faster, and small layers far slower.** There is no fast product of integers in it, so `carried_matmul` turns int8 into float32 at each call, weights included, multiplies as floats, and turns back: all of the old work, and more. What you wrote is the *arithmetic* of fast kernels; theirs is the speed: four bytes in each lane of an instruction,
requantised while the sums are still in registers.

Module 28 has kernels for bytes. Its `accelerate` finds in a table what stands for a type of layer, and the cell below adds yours. (To see what that is worth on your machine, time `accelerate(whole)`; with the extra `fast` the first call compiles for some seconds, without it this is NumPy again.)

PyTorch's names for all this: `QuantStub` and `DeQuantStub` (your Quantize and DeQuantize), `torch.ao.quantization.fuse_modules`, `prepare`, `convert`, `QConfig`, and the layers in `torch.ao.nn.quantized`, whose backends are FBGEMM (x86; bias in floats, as here) and QNNPACK (ARM; int32 bias, as in module 27). Activations are unsigned there, and a sum of two
quantised tensors needs `FloatFunctional`, which has an observer of its own; here sums are float.
"""


# %% nbgrader={"grade": false, "grade_id": "accelerated", "locked": true, "solution": false}
#| exporti
def accelerated(layer: StaticQuantizedLinear) -> Int8Linear | None:
    """The layer on the kernels of module 28, which gives floats; None without an input grid."""
    if layer.quantize is None:
        return None
    chosen = layer.quantize.chosen
    shift = 128 if chosen.grid.signed else 0  # the kernels' bytes go from 0 to 255
    limits = (limit + shift for limit in chosen.grid.limits)
    bias = None if layer.bias is None else layer.bias.data
    weight = layer.q_weight.data, layer.weight_scale.data, 0
    grid = chosen.scale, chosen.zero_point + shift, *limits
    return Int8Linear(*weight, bias, grid, layer.relu, layer.name)


ACCELERATED[StaticQuantizedLinear] = accelerated

# %% [markdown]
r"""
## Questions

Answer in a few lines, with the numbers worked out.

### 1. Where does the bias live? (5 points)

A layer has $s_x$ = 0.02, $s_m$ = 0.004 and a result grid of $s_y$ = 0.05; the bias is 0.51. How many steps of the accumulator is it? What is the largest error if it is rounded to a whole one of them, in steps of the *result*? And if it were rounded to the result's grid and added there, after the sums are rounded?
Why does module 27 store it as int32, and could it be int8?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-bias", "locked": false, "points": 5, "solution": true}
r"""
One step of the accumulator is 0.02 x 0.004 = 0.00008; the bias is 6,375 of them. Rounding it errs by at most half of one, 0.00004, which is 0.0008 steps of the result: as good as exact. On the result's grid 0.51 is 10.2 steps: an error of 0.2 steps, always in the same direction, and the sums' own rounding (up to half a step) comes on top.
6,375 doesn't fit int8, and a bias of 3, 37,500 steps, wouldn't fit int16: int32, as the sums are.
"""

# %% [markdown]
r"""
### 2. A sum of integers (5 points)

Residual sums are float here. On integers: $a$ has scale 0.02 and zero point 3, $b$ scale 0.05 and zero point -10, the result scale 0.08 and zero point 0. Compute the result's integer for $q_a$ = 53 and $q_b$ = 30 in floats and with one rounding at the end. Then put each on the result's grid first, rounded, and add. How large can the difference of the two ways be?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-sum", "locked": false, "points": 5, "solution": true}
r"""
$a$ = 0.02 x 50 = 1.0, $b$ = 0.05 x 40 = 2.0; 3.0 / 0.08 = 37.5, to even: 38. Each first: 1.0 / 0.08 = 12.5 goes to 12, 2.0 / 0.08 = 25; 12 + 25 = 37. One rounding errs by up to half a step, two by up to a whole one in sum, so the two ways differ by at most 1 (1.5 can't be reached by whole numbers).
Either way two multiplications, one for each scale, are needed, and a third grid, chosen by an observer of the sum: PyTorch's FloatFunctional is for that.
"""

# %% [markdown]
r"""
### 3. Even attention (5 points)

Shares have steps of 1/255. From how many keys on does an even attention become nothing at all? What do 100 even keys add up to, and why isn't that 1? Would 16 bits do for 4,096 keys, and what would it cost in the second product's exact sums, with float32 as the carrier?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-shares", "locked": false, "points": 5, "solution": true}
r"""
A share of 1/T becomes 0 where 255 / T is below 0.5: T above 510 (at exactly 510 the half goes to the even 0, but for rounding in float32). For T = 100, 2.55 steps go to 3: 300 / 255 = 1.176, 18 % too much: every share errs in the same direction.
16 bits: steps of 1/65,535, and 1/4096 is 16.0 steps: fine. But a product of 65,535 and a shifted v of up to 255 is 16.7 million, just below $2^{24}$ = 16.8 million: a float32 carries one term exactly, no sum of them. float64 would do, at half the speed or less.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "solution": false}
def test_module():
    """Run every test of this lesson."""
    tests = [
        *(test_to_integers, test_linear_sums, test_requantized, test_static_forward),
        *(test_conv2d_sums, test_same_grid, test_products, test_integer_attention),
        *(test_to_watch, test_convert),
    ]
    for test_function in tests:
        test_function()
    print(f"{len(tests)} tests passed: module 31 is complete")


test_module()

# %% [markdown]
r"""
## What works now

- Tensors of bytes carry their grid; layers take them and give them, and what knows nothing of integers sees floats.
- Linear and Conv2d on integers, by the arithmetic of PyTorch's kernels for x86; ReLU and max pooling without any; attention whose products are integers.
- `prepare`, run it on data, `convert`: for chains, for networks with sums and norms, for models trained with rounding; each layer with its own configuration, or none.
- You know what it keeps (accuracy at 8 bits), what it saves (bytes) and what it doesn't save in NumPy (time).
"""

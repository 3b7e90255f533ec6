# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.dynamic

# %% [markdown]
r"""
# Dynamic quantisation, and files

> Grids that are chosen while the network runs, and quantised networks in files.

Time: 4 hours. Static quantisation chooses every grid beforehand, on data that you must have. Here a grid is chosen at each call, for the numbers that are there: no data, no clipping, and it works for an LSTM.
Then a quantised network, of this module or of those before it, goes into a file and comes back.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tinytorch.core.autograd import nondifferentiable
from tinytorch.core.layers import Identity, Linear, Module, is_module
from tinytorch.core.recurrent import LSTM, lstm_step
from tinytorch.core.spatial import Conv2d
from tinytorch.core.tensor import Tensor, op
from tinytorch.core.training import read_checkpoint, write_checkpoint
from tinytorch.optimization.compensation import OutlierSplitLinear
from tinytorch.optimization.integer import carried_matmul
from tinytorch.optimization.kernels import ACCELERATED, Int8Linear
from tinytorch.optimization.lowbit import LowBitLinear, pack_int4, unpack_int4
from tinytorch.optimization.observers import Fused, Grid, qparams
from tinytorch.optimization.qat import ChosenGrid
from tinytorch.optimization.quantization import (
    QuantizedLinear,
    finite,
    quantize_int8,
    replace_modules,
)
from tinytorch.optimization.static import (
    DeQuantize,
    Quantize,
    QuantizedAttention,
    QuantizedAvgPool2d,
    QuantizedConv2d,
    QuantizedMaxPool2d,
    QuantizedReLU,
    StaticQuantizedLinear,
    to_integers,
)
from tinytorch.profiling.profiler import FLOPS
from tinytorch.text.embeddings import Embedding, checked_ids


# %% [markdown]
r"""
## A grid that was chosen too early

A network that reads digits, calibrated and converted on its training images as in module 31. Then somebody buys another scanner: the same images, only brighter or darker by a factor.
The float network hardly minds; only its biases don't grow along. **Predict** for each factor below whether the static network keeps up, and which of the two directions is the bad one.
"""

# %%
from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Flatten, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.tensor import manual_seed
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits, TensorDataset
from tinytorch.optimization.lowbit import quantize_weights
from tinytorch.optimization.observers import PerChannelMinMaxObserver, QConfig
from tinytorch.optimization.quantization import quantization_error, quantize_model
from tinytorch.optimization.static import convert, prepare
from tinytorch.text.embeddings import TiedLinear
from tito.testing import check, check_raises

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the plots are left out

# %%
train, test = Digits(), Digits(train=False)
manual_seed(0)
digits = Sequential(Flatten(), Linear(64, 64), ReLU(), Linear(64, 10))
trainer = Trainer(digits, Adam(digits.parameters(), lr=3e-3), CrossEntropyLoss())
trainer.fit(DataLoader(train, batch_size=50, shuffle=True, seed=0), epochs=8)

prepared = prepare(digits)
prepared(train.images)
static = convert(prepared)


def accuracy(model, factor=1.0) -> float:
    """The share of test digits that the model reads right, if all are brighter by a factor."""
    with no_grad():
        guesses = model(test.images * factor).data.argmax(axis=1)
    return float((guesses == test.labels.data).mean())


FACTORS = (0.1, 0.3, 1, 3, 10, 30)
print("brightness" + "".join(f"{factor:8}" for factor in FACTORS))
for name, model in {"float32": digits, "static": static}.items():
    print(f"{name:10}" + "".join(f"{accuracy(model, factor):8.3f}" for factor in FACTORS))

# %% [markdown]
r"""
Too dark, and the grid is too coarse, which this task forgives. Too bright, and numbers are **clipped**: all that lies beyond the calibrated range becomes its end.

You could calibrate on brighter images too. But look at a network whose numbers you can't foresee: an LSTM that guesses the next character of program text, trained on what lies beside this notebook: the source of `tinytorch` itself.
"""

# %%
import tinytorch

files = sorted(Path(tinytorch.__file__).parent.rglob("*.py"))
text = "".join(file.read_text(encoding="utf-8") for file in files)
text = "".join(letter for letter in text if letter.isascii())
letters = sorted(set(text))
ids = np.array([letters.index(letter) for letter in text[:200_000]])
cut = 180_000  # what lies behind is for testing
starts = np.random.default_rng(0).integers(0, cut - 33, 200 * 32)
windows = ids[starts[:, None] + np.arange(33)]
unseen = ids[cut : cut + 10_000].reshape(50, 200)


class Writer(Module):
    """Ids (N, T) -> scores of the next letter at each place (N, T, V)."""

    def __init__(self, count: int, size: int = 64):
        self.tokens = Embedding(count, 32)
        self.lstm = LSTM(32, size, batch_first=True)
        self.head = Linear(size, count)

    def forward(self, ids):
        return self.head(self.lstm(self.tokens(ids))[0])


def loss_of_letters(scores, targets):
    """Nats for each letter."""
    return CrossEntropyLoss()(scores.swapaxes(1, 2), targets)


manual_seed(0)
writer = Writer(len(letters))
trainer = Trainer(writer, Adam(writer.parameters(), lr=0.01), loss_of_letters, grad_clip_norm=1.0)
batches = DataLoader(TensorDataset(windows[:, :-1], windows[:, 1:]), batch_size=32)
trainer.fit(batches, epochs=1)
print(f"{len(letters)} letters, {trainer.history['train_loss'][-1]:.2f} nats on the way")

# %% [markdown]
r"""
An LSTM carries two states from step to step: the hidden state, between -1 and 1, and the **cell state**, to which each step adds. **Predict**: which of these texts drives the cell state furthest from 0?
"""

# %%
texts = ("def forward(self, x):", "The quick brown fox", "0" * 40, "(" * 20, " " * 60)
for sample in texts:
    with no_grad():
        places = [[letters.index(letter) for letter in sample]]
        output, (hidden, cell) = writer.lstm(writer.tokens(places))
    reach = np.abs(cell.data).max()
    print(
        f"{sample[:20]!r:24} hidden up to {np.abs(output.data).max():.2f}, cell up to {reach:6.1f}"
    )

# %% [markdown]
r"""
No calibration set covers every text. And there is a second obstacle: the states flow *inside* the layer, where no observer stands; `prepare` of module 31 leaves an LSTM as it is.

## The idea: choose the grid when the numbers are there

```
                 weights: int8, once and for all
                              |
   x (float) --> grid of THIS x --> int8 @ int8 --> int32 --> float --> + bias (float)
                 min, max: one pass
```

Weights don't change, so they become int8 beforehand. What meets them becomes int8 at each call, on a grid that was chosen from its own smallest and largest number, and the result is float again at once: nothing lies beyond the grid, and no data is needed.
That is **dynamic** quantisation. Everything between the products, all biases and all states, stays float.

One grid can serve the whole of x (`per="tensor"`), or each row can have its own (`per="row"`).

### Exercise 1: grid_of

For an array (N, K), `per` "tensor" or "row": the smallest and largest value of all, or of each row (`x.min(axis=..., initial=0)` counts a 0 in, and works for an empty array).
`require_finite(low, high, x, name)`, given below, refuses NaN and infinity. Module 22's `qparams(low, high, INT8)` gives scale and zero point, and the result is `ChosenGrid(INT8, scale, zero_point, axis)`: `axis` is the one along which the scales lie, None for one scale.

[[0, 51], [0, 255]] has the scale 255 / 255 = 1 per tensor, [0.2, 1] per row.

<details><summary>Hint</summary>Two axes are in play, and they differ: you take the minimum *along* axis 1, and what is left lies along axis 0.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "checks", "locked": true, "solution": false}
#| exporti
INT8 = Grid()
PER = ("tensor", "row")


def require_per(per: str, asked: str) -> None:
    """ValueError unless there is such a way to lay grids."""
    if per not in PER:
        raise ValueError(f'{asked}: per must be "tensor" or "row", got {per!r}')


def require_kind(layer: Any, kind: type, asked: str) -> None:
    """TypeError unless the layer is a `kind`."""
    if not isinstance(layer, kind):
        raise TypeError(f"{asked}: expected {kind.__name__}, got {type(layer).__name__}")


def require_finite(low: Any, high: Any, x: np.ndarray, name: str) -> None:
    """ValueError that says where x holds NaN or infinity, if a range of it shows that it does."""
    with np.errstate(all="ignore"):
        if not np.isfinite(np.float32(high) - np.float32(low)).all():
            finite(x, name)


# %% nbgrader={"grade": false, "grade_id": "grid-of", "locked": false, "solution": true}
#| exporti
def grid_of(x: np.ndarray, per: str, name: str = "x") -> ChosenGrid:
    """The affine int8 grid for numbers (N, K) that are there now: one, or one for each row.

    >>> grid_of(np.float32([[0, 51], [0, 255]]), "row").scale
    array([0.2, 1. ])
    """
    ### BEGIN SOLUTION
    within = 1 if per == "row" else None
    low, high = x.min(axis=within, initial=0), x.max(axis=within, initial=0)
    require_finite(low, high, x, name)
    return ChosenGrid(INT8, *qparams(low, high, INT8), axis=None if within is None else 0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-grid-of", "locked": true, "points": 6, "solution": false}
def test_grid_of():
    x = np.float32([[0, 51], [0, 255]])
    check(grid_of(x, "tensor").scale, 1.0, "one grid for all: 255 / 255")
    check(grid_of(x, "row").scale, [0.2, 1.0], "one for each row: 51 / 255 and 255 / 255")
    check(grid_of(x, "row").axis, 0, "the scales lie along the rows: axis 0")
    ### BEGIN HIDDEN TESTS
    check(grid_of(x, "tensor").axis, None, "one scale lies along no axis")
    shifted = grid_of(np.float32([[-1.0, 1.55], [3.0, 5.1], [-5.1, -2.0]]), "row")
    check(shifted.zero_point, np.array([-28, -128, 127]), "0 lies on every grid")
    check(shifted.scale, [0.01, 0.02, 0.02], "from the smallest to the largest, 0 counted in")
    check(grid_of(np.zeros((0, 3), np.float32), "tensor").zero_point, -128, "nothing: initial=0")
    with check_raises(ValueError, "x holds nan at [1, 0]", "call require_finite before qparams"):
        grid_of(np.float32([[1, 2], [np.nan, 0]]), "row")
    ### END HIDDEN TESTS


test_grid_of()

# %% [markdown]
r"""
Eight rows of normal numbers; then one number of row 0 becomes 100. **Predict** the SNR of rows 0 and 1 after rounding, per tensor and per row. Which rows lose, and which of them can be helped?
"""


# %%
def rounded(x: np.ndarray, per: str) -> np.ndarray:
    """Numbers (N, K) on a grid that fits them, and back."""
    chosen = grid_of(x, per)
    steps = to_integers(x, chosen, "x") - np.reshape(chosen.zero_point, (-1, 1)).astype(np.int16)
    return (steps * np.reshape(chosen.scale, (-1, 1))).astype(np.float32)


def snr(x, other) -> float:
    """The signal-to-noise ratio in dB."""
    return quantization_error(Tensor(x), Tensor(other))["snr_db"]


rows = np.random.default_rng(0).standard_normal((8, 256)).astype(np.float32)
spoiled = rows.copy()
spoiled[0, 3] = 100.0
print("SNR in dB           row 0, rest    row 1")
for name, x in {"as they are": rows, "an outlier": spoiled}.items():
    for per in PER:
        got = rounded(x, per)
        rest = np.arange(256) != 3
        first, second = snr(x[0, rest], got[0, rest]), snr(x[1], got[1])
        print(f"{name:12} {per:7}{first:11.1f} {second:10.1f}")

# %% [markdown]
r"""
One outlier takes 24 dB or so, four bits of eight, from *every* row per tensor, and only from its own row per row. The other numbers of that row are lost either way.

## The product of integers

With $x \approx s_x (q_x - z_x)$ and $w \approx s_w q_w$ (symmetric, a scale for each column $j$):

$$(x\,w)_{ij} \approx s_x[i]\; s_w[j] \sum_k (q_x[i,k] - z_x[i])\, q_w[k,j]$$

The sum is one of whole numbers, and exact. The scales stand outside of it because neither depends on $k$: a scale for each *row* of x and for each *column* of w is free; a scale for each $k$ would not be.

### Exercise 2: dynamic_matmul

`rows` (N, K) is given. Choose its grid (call x `f"{name}'s input (as rows)"` for errors), let `to_integers(rows, chosen, name)` of module 31 round, subtract the zero point, multiply by `carried_matmul(integers, q_weight)` of module 27 (exact, int32),
and scale in float32. The result has the leading axes of `x` again: `(*x.shape[:-1], q_weight.shape[1])`.

Zero point and scale are a number or one for each row: `np.reshape(..., (-1, 1))` makes a column of either. int8 minus int8 wraps around: the zero point must be int16. And what is left of float64 in the scales must become float32.

x = [0, 255] has scale 1 and integers [-128, 127], less the zero point [0, 255]; with the weight [100, 50] and its scale 0.01: (0 * 100 + 255 * 50) * 1 * 0.01 = 127.5.
"""


# %% nbgrader={"grade": false, "grade_id": "dynamic-matmul", "locked": false, "solution": true}
#| exporti
@op
def dynamic_matmul(x, q_weight, scale, per="tensor", name="dynamic_matmul"):
    """x @ (q_weight * scale), with x quantised on the way: (..., K), int8 (K, M) -> (..., M).

    `scale` (M,) is that of the weight's columns; x gets an affine int8 grid, or one for each row.
    Errors call the weight `name`.

    >>> weight, scale = Tensor([[100], [50]], dtype=np.int8), Tensor([0.01])
    >>> dynamic_matmul(Tensor([[0.0, 255.0]]), weight, scale)
    Tensor([[127.5]])
    """
    if x.shape[-1:] != q_weight.shape[:1]:
        raise ValueError(f"{name}: x of {x.shape} does not fit weight of {q_weight.shape}")
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    ### BEGIN SOLUTION
    chosen = grid_of(rows, per, f"{name}'s input (as rows)")
    q = to_integers(rows, chosen, name)
    zero_point = np.reshape(chosen.zero_point, (-1, 1)).astype(np.int16)
    sums = carried_matmul(q - zero_point, q_weight).astype(np.float32)
    sums *= np.reshape(chosen.scale, (-1, 1)).astype(np.float32) * scale
    return sums.reshape(*x.shape[:-1], q_weight.shape[1])
    ### END SOLUTION


nondifferentiable(dynamic_matmul)  # rounding has no slope
FLOPS["dynamic_matmul"] = lambda inputs, params, out: 2 * out.size * len(inputs[1])


# %% nbgrader={"grade": true, "grade_id": "test-dynamic-matmul", "locked": true, "points": 10, "solution": false}
def test_dynamic_matmul():
    weight, scale = Tensor([[100], [50]], dtype=np.int8), Tensor([0.01])
    x = Tensor([[0.0, 255.0], [0.0, 2.6]])
    check(dynamic_matmul(x[:1], weight, scale), [[127.5]], "255 steps: does int8 wrap around?")
    check(dynamic_matmul(x, weight, scale), [[127.5], [1.5]], "per tensor, 2.6 is 3 steps of 1")
    check(dynamic_matmul(x, weight, scale, per="row"), [[127.5], [1.3]], "per row it is exact")
    ### BEGIN HIDDEN TESTS
    x = Tensor([[[-100.0, 155.0, 7.2]], [[3.4, -20.0, 0.0]]])
    weight = Tensor([[1, -2], [3, 4], [5, -127]], dtype=np.int8)
    scale = Tensor([1.0, 0.5])
    y = dynamic_matmul(x, weight, scale)
    check(y, [[[400.0, -34.5]], [[-57.0, -43.0]]], "each column has its scale; axes as of x")
    check(y.dtype, np.float32, "float32 comes out")
    floats = np.float32([[0, 255]]), np.array([[1], [1]], np.int8), np.float32([1.0])
    check(dynamic_matmul(*floats).dtype, np.float32, "of arrays too: scales in float32")
    with check_raises(ValueError, "fc's input (as rows) holds inf at [0, 1]", "name the input"):
        dynamic_matmul(Tensor([[0.0, np.inf]]), weight[:2], scale, name="fc")
    ### END HIDDEN TESTS


test_dynamic_matmul()

# %% [markdown]
r"""
## A weight that arrays meet by `@`

Module 21's `lstm_step(projected, hidden, cell, weight_hh)` says `hidden @ weight_hh`, where `hidden` is an array. If an *object* stood there that answers to `@`, the step would run on int8 without a change. Python asks the right operand by `__rmatmul__` if the left one declines,
and a NumPy array declines where the other has `__array_ufunc__ = None`. So this given class is a Module for tensors, `weight(x)`, and an operand for arrays, `array @ weight`; both are `dynamic_matmul`.

Its grids are those of module 15: symmetric, one for each column.
"""


# %% nbgrader={"grade": false, "grade_id": "int8-weight", "locked": true, "solution": false}
#| export
class Int8Weight(Module):
    """A weight (K, M) in int8 that floats are multiplied by: weight(x), or array @ weight.

    Its columns have symmetric grids of their own; what it meets is quantised `per` "tensor" (the
    whole of x at once) or "row". No gradient passes.

    >>> weight = Int8Weight(Tensor([[1.0, -2.0], [0.5, 4.0]]))
    >>> weight
    Int8Weight(2, 2, per='tensor')
    >>> weight(Tensor([[1.0, 1.0]])).shape
    (1, 2)
    """

    __array_ufunc__ = None  # so that `array @ weight` asks the weight
    dtype = np.dtype(np.float32)  # of what it gives

    q: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, per: str = "tensor", name: str = "Int8Weight"):
        require_per(per, name)
        self.per, self.name = per, name
        q, scale, _ = quantize_int8(weight, symmetric=True, axis=1, name=name)
        self.register_buffer("q", q)
        self.register_buffer("scale", Tensor(scale))

    @property
    def shape(self) -> tuple[int, ...]:
        """(K, M), as of the weight in floats."""
        return self.q.shape

    def forward(self, x: Any) -> Tensor:
        return dynamic_matmul(x, self.q, self.scale, per=self.per, name=self.name)

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        return self.forward(x).data

    def _extra_repr(self) -> str:
        return f"{self.shape[0]}, {self.shape[1]}, per={self.per!r}"


# %% [markdown]
r"""
### Exercise 3: DynamicQuantizedLinear

In `__init__`: `weight` becomes an `Int8Weight` of the linear's weight, with `per`, named `f"{name}.weight"`; the bias, if there is one, a buffer with a copy of its numbers (`Tensor(...)` copies), else None.
In `forward`: the product, and the bias, if there is one.
"""


# %% nbgrader={"grade": false, "grade_id": "dynamic-linear", "locked": false, "solution": true}
#| export
class DynamicQuantizedLinear(Module):
    """A Linear with an int8 weight whose input is quantised anew at each call; the rest is float.

    >>> layer = DynamicQuantizedLinear(Linear(4, 2), per="row")
    >>> layer
    DynamicQuantizedLinear(
      (weight): Int8Weight(4, 2, per='row')
    )
    """

    weight: Int8Weight
    bias: Tensor | None

    def __init__(self, linear: Linear, per: str = "tensor", name: str = "DynamicQuantizedLinear"):
        require_kind(linear, Linear, name)
        ### BEGIN SOLUTION
        self.weight = Int8Weight(linear.weight, per, f"{name}.weight")
        self.register_buffer("bias", None if linear.bias is None else Tensor(linear.bias.data))
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        y = self.weight(x)
        return y if self.bias is None else y + self.bias
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-dynamic-linear", "locked": true, "points": 6, "solution": false}
def test_dynamic_linear():
    linear = Linear(2, 1)
    linear.weight.data[...], linear.bias.data[...] = [[1.27], [0.5]], 10.0
    layer = DynamicQuantizedLinear(linear)
    check(layer(Tensor([[0.0, 255.0]])), [[137.5]], "255 * 0.5, and the bias, in floats")
    check(len(layer.parameters()), 0, "nothing here is to be trained: register_buffer")
    ### BEGIN HIDDEN TESTS
    check(layer.weight.q, [[127], [50]], "the weight in int8, scale 0.01")
    linear.bias.data[...] = 0.0
    check(layer(Tensor([[0.0, 0.0]])), [[10.0]], "the layer keeps a copy of the bias")
    plain = DynamicQuantizedLinear(Linear(2, 3, bias=False), "row", "fc")
    check(plain.bias, None, "no bias stays none")
    check(plain(Tensor(np.zeros((2, 4, 2)))).shape, (2, 4, 3), "any leading axes")
    check((plain.weight.per, plain.weight.name), ("row", "fc.weight"), "pass per and the name on")
    ### END HIDDEN TESTS


test_dynamic_linear()

# %% [markdown]
r"""
Back to the scanner. **Predict** the third line of the table. And a second question: is what the network says about image 0 the same whether image 0 comes alone or with 31 others, the last of them very bright?
"""

# %%
layers = [DynamicQuantizedLinear(part) if type(part) is Linear else part for part in digits]
per_tensor = Sequential(*layers)
print("brightness" + "".join(f"{factor:8}" for factor in FACTORS))
for name, model in {"float32": digits, "static": static, "dynamic": per_tensor}.items():
    print(f"{name:10}" + "".join(f"{accuracy(model, factor):8.3f}" for factor in FACTORS))

batch = test.images.data[:32].copy()
batch[-1] *= 30
layers = [DynamicQuantizedLinear(part, "row") if type(part) is Linear else part for part in digits]
per_row = Sequential(*layers)
for name, model in {"float32": digits, "per tensor": per_tensor, "per row": per_row}.items():
    alone, among = model(Tensor(batch[:1])).data[0], model(Tensor(batch)).data[0]
    print(f"image 0, {name:11} alone or in the batch differs by {np.abs(alone - among).max():.4f}")

# %% [markdown]
r"""
The dynamic network follows the float one. But per tensor an image's result depends on **what else is in the batch**: one bright neighbour takes its marks away. Per row every image is on its own. (In float32 the two differ in the last digit at most: BLAS adds in another order.)
So `per="row"` is the better choice wherever a server mixes the requests of strangers, and costs only a few more scales.

## An LSTM

For all T steps at once, `weight_ih` meets the inputs: one big product. Then, step by step, `weight_hh` meets the hidden state, which gets a grid of its own at each step:

```
 x (T, B, I) --int8--> projected (T, B, 4 H), + biases
                              |
            hidden --int8--> sums --> gates i f n o (float) --> cell (float) --> hidden
               ^                                                 |  ^             |
               |                                                 +--+             |
               +------------------------------------------------------------------+
```

### Exercise 4: QuantizedLSTM.scan

Module 21's LSTM does all else (layers, directions, batches, lengths) and calls `scan` for each layer and direction, with `x` (T, B, I), the two `states` (Tensors (B, H)), the four `weights` (`weight_ih` and `weight_hh` are Int8Weights, each bias a Tensor or None) and a `mask`:
None, or booleans (T, B, 1), False where a sequence is over and **both states stay** as they are.

Return `(outputs, [hidden, cell])`: the hidden states of all steps stacked (T, B, H), and the last states, all wrapped by `Tensor._wrap`. Work on arrays: `weight_ih(x).data` are the projected inputs, and `lstm_step(z, hidden, cell, weight_hh)` of module 21 gives the new `(hidden, cell)`.

<details><summary>Hint</summary>np.where(mask[t], new, old) keeps the old state where a sequence is over; True in place of mask[t] always takes the new one.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "quantized-lstm", "locked": false, "solution": true}
#| export
class QuantizedLSTM(LSTM):
    """An LSTM whose weights are int8; what meets them is quantised at each step.

    Gates, biases and the cell state stay float. (As torch.ao.nn.quantized.dynamic.LSTM.)

    >>> output, (hidden, cell) = QuantizedLSTM(LSTM(3, 5))(Tensor(np.ones((7, 2, 3))))
    >>> output.shape, cell.shape
    ((7, 2, 5), (1, 2, 5))
    """

    def __init__(self, lstm: LSTM, per: str = "tensor", name: str = "QuantizedLSTM"):
        require_kind(lstm, LSTM, name)
        vars(self).update(vars(lstm))
        for key, value in vars(lstm).items():
            if isinstance(value, Tensor) and value.ndim == 2:
                vars(self)[key] = Int8Weight(value, per, f"{name}.{key}")
            elif isinstance(value, Tensor):
                self.register_buffer(key, Tensor(value.data))

    def scan(self, x, states, weights, mask=None, **options):
        weight_ih, weight_hh, *biases = weights
        ### BEGIN SOLUTION
        projected = weight_ih(x).data + sum(bias.data for bias in biases if bias is not None)
        (hidden, cell), outputs = (state.data for state in states), []
        for t, z in enumerate(projected):
            new_hidden, new_cell = lstm_step(z, hidden, cell, weight_hh)
            here = True if mask is None else mask[t]
            hidden, cell = np.where(here, new_hidden, hidden), np.where(here, new_cell, cell)
            outputs.append(hidden)
        return Tensor._wrap(np.stack(outputs)), [Tensor._wrap(hidden), Tensor._wrap(cell)]
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-quantized-lstm", "locked": true, "points": 12, "solution": false}
def test_quantized_lstm():
    manual_seed(0)
    lstm, x = LSTM(3, 4), Tensor(np.linspace(-1, 1, 5 * 2 * 3).reshape(5, 2, 3))
    layer = QuantizedLSTM(lstm)
    output, (hidden, cell) = layer(x)
    exact, (_, exact_cell) = lstm(x)
    check(output, exact.data, "nearly what the float LSTM gives: are both biases added?", 0.01)
    check(cell, exact_cell.data, "the last cell state", 0.01)
    check(hidden[0], output.data[-1], "the last hidden state is the last output")
    ### BEGIN HIDDEN TESTS
    states = Tensor(np.full((1, 2, 4), 0.5)), Tensor(np.full((1, 2, 4), 2.0))
    check(layer(x, states)[1][1], lstm(x, states)[1][1].data, "begin with the given states", 0.02)
    got, (hidden, cell) = layer(x, None, lengths=[5, 2])
    exact, (exact_hidden, exact_cell) = lstm(x, None, lengths=[5, 2])
    check(got, exact.data, "with lengths", 0.01)
    check(hidden, exact_hidden.data, "the hidden state stays where a sequence is over", 0.01)
    check(cell, exact_cell.data, "the cell state stays where a sequence is over", 0.01)
    plain = LSTM(3, 4, bias=False, num_layers=2, bidirectional=True)
    check(QuantizedLSTM(plain)(x)[0], plain(x)[0].data, "without biases", 0.01)
    one_step = layer.weight_ih_l0(x).data[0] + lstm.bias_ih_l0.data + lstm.bias_hh_l0.data
    first, _ = lstm_step(one_step, np.zeros((2, 4)), np.zeros((2, 4)), layer.weight_hh_l0)
    check(output[0], first.astype(np.float32), "all steps of x meet weight_ih at once")
    ### END HIDDEN TESTS


test_quantized_lstm()

# %% [markdown]
r"""
## Why the cell state stays float

The hidden state is rounded where it meets the weights, and made anew at each step: its errors are forgotten. The cell state is different: $c \leftarrow f\,c + i\,n$ with $f$ near 1 **adds up**, for hundreds of steps. Rounded at each step, it loses every addition that is smaller than half a mark.

**Predict**: 1,000 steps add 0.01 to a cell whose neighbour holds 8. Where does it end, in float32 and rounded to int8 at each step?
"""

# %%
cells = {"float32": np.float32([[0, 8]]), "int8": np.float32([[0, 8]])}
for _ in range(1000):
    cells = {name: cell + np.float32([[0.01, 0]]) for name, cell in cells.items()}
    cells["int8"] = rounded(cells["int8"], "row")
for name, cell in cells.items():
    print(f"{name:8} the cell holds {cell[0, 0]:.2f}")
print(f"half a mark is {8 / 255 / 2:.4f}")

# %% [markdown]
r"""
Now the real thing: 600 letters of unseen text through the trained LSTM. Its hidden states, with int8 weights alone, and with the cell state rounded as well, against those of the float LSTM.
**Predict** how the SNR goes on as the text gets longer, for both.
"""

# %%
long_text = ids[cut : cut + 8 * 600].reshape(8, 600)
embedded = writer.tokens(long_text).data.swapaxes(0, 1)  # (T, B, 32)
int8_lstm = QuantizedLSTM(writer.lstm)


def operand(weight):
    """What an array can be multiplied by: an Int8Weight itself, of a Tensor its array."""
    return weight if isinstance(weight, Int8Weight) else weight.data


def hidden_states(lstm, change=lambda cell: cell) -> np.ndarray:
    """All hidden states (T, B, H) of a layer whose cell state is changed after each step."""
    weight_ih, weight_hh = operand(lstm.weight_ih_l0), operand(lstm.weight_hh_l0)
    projected = embedded @ weight_ih + lstm.bias_ih_l0.data + lstm.bias_hh_l0.data
    hidden = cell = np.zeros((8, lstm.hidden_size), np.float32)
    outputs = []
    for z in projected:
        hidden, cell = lstm_step(z, hidden, cell, weight_hh)
        cell = change(cell)
        outputs.append(hidden)
    return np.stack(outputs)


exact_states = hidden_states(writer.lstm)
versions = {
    "int8 weights": hidden_states(int8_lstm),
    "and the cell, per row": hidden_states(int8_lstm, lambda cell: rounded(cell, "row")),
    "and the cell, per tensor": hidden_states(int8_lstm, lambda cell: rounded(cell, "tensor")),
}
spans = ((0, 10), (10, 50), (50, 200), (200, 600))
print(
    "SNR in dB, steps       "
    + "".join(f"{f'{a} to {b}':>12}" for a, b in spans)
    + "   nats a letter"
)
for name, states in versions.items():
    line = "".join(f"{snr(exact_states[a:b], states[a:b]):12.1f}" for a, b in spans)
    with no_grad():
        scores = writer.head(Tensor(states.swapaxes(0, 1)))
    nats = loss_of_letters(scores[:, :-1], long_text[:, 1:]).item()
    print(f"{name:24}{line} {nats:14.4f}")

if plt:
    for (name, states), line in zip(versions.items(), ("k-", "k--", "k:"), strict=True):
        error = np.sqrt(((states - exact_states) ** 2).mean(axis=(1, 2)))
        plt.semilogy(np.convolve(error, np.ones(20) / 20, "valid"), line, label=name)
    plt.title("Errors of int8 weights are forgotten, those of a rounded cell gather")
    plt.xlabel("step")
    plt.ylabel("error of the hidden states (root mean square)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
With int8 weights alone the error is as small after 600 letters as after ten. A rounded cell starts equally well and loses several dB within fifty steps. Read the last column as well: *this* model hardly suffers, as it needs little memory; one that counts, as in the example before, would fail.
And there is nothing to be gained: the cell is B x H numbers, the weights are 4 H (I + H). Float it stays, in PyTorch too.

## Embeddings: a grid for each row

An embedding multiplies nothing: it looks rows up. Its table becomes int8, and only the rows that are asked for become floats again. Rows are learned by themselves, a frequent letter's more than a rare one's, so each gets an affine grid of its own: D + 5 bytes a row, instead of 4 D.

### Exercise 5: QuantizedEmbedding

In `__init__`: the grid of the `table` (V, D) per row (errors call it `f"{name}.weight"`), and three buffers: `q_weight` (int8, by `to_integers`), `scale` (float32), and `zero_point` (int8: it lies between -128 and 127).

`rows(places)`: $(q - z)\,s$ for the rows at `places`, which may be an array of ids of any shape, or a slice: index the data of all three buffers with it, then let the last axis broadcast (`zero[..., None]`). Mind int8's wrap-around.

The row [-1, 1.55] has scale 0.01, zero point -28, integers [-128, 127].
"""


# %% nbgrader={"grade": false, "grade_id": "quantized-embedding", "locked": false, "solution": true}
#| export
class QuantizedEmbedding(Module):
    """An Embedding in int8, each row on an affine grid of its own: ids (...) -> floats (..., D).

    `weight` is the whole table in floats, made anew, for layers that share it (TiedLinear).

    >>> table = Embedding.from_pretrained(Tensor([[0.0, 255.0], [-1.0, 1.55]]))
    >>> QuantizedEmbedding(table)([1])
    Tensor([[-1.  ,  1.55]])
    """

    q_weight: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, embedding: Embedding, name: str = "QuantizedEmbedding"):
        require_kind(embedding, Embedding, name)
        ### BEGIN SOLUTION
        table = embedding.weight.data
        chosen = grid_of(table, "row", f"{name}.weight")
        q = to_integers(table, chosen, f"{name}.weight")
        self.register_buffer("q_weight", Tensor(q))
        self.register_buffer("scale", Tensor(chosen.scale))
        self.register_buffer("zero_point", Tensor(chosen.zero_point, dtype=np.int8))
        ### END SOLUTION

    def rows(self, places: Any) -> Tensor:
        """The float rows at these places."""
        ### BEGIN SOLUTION
        q, scale, zero = (t.data[places] for t in (self.q_weight, self.scale, self.zero_point))
        return Tensor._wrap((q - zero[..., None].astype(np.int16)) * scale[..., None])
        ### END SOLUTION

    def forward(self, ids: Any) -> Tensor:
        return self.rows(checked_ids(ids, len(self.q_weight)))

    @property
    def weight(self) -> Tensor:
        """The whole table (V, D) in floats."""
        return self.rows(slice(None))

    def _extra_repr(self) -> str:
        return ", ".join(map(str, self.q_weight.shape))


# %% nbgrader={"grade": true, "grade_id": "test-quantized-embedding", "locked": true, "points": 7, "solution": false}
def test_quantized_embedding():
    table = Tensor([[0.0, 255.0, 1.0], [-1.0, 1.55, 0.0], [0.0, 0.0, 0.0]])
    layer = QuantizedEmbedding(Embedding.from_pretrained(table))
    check(layer([1]), [[-1.0, 1.55, 0.0]], "(q - z) * s")
    check(layer([[0, 1], [2, 0]]), table.data[[[0, 1], [2, 0]]], "any shape of ids; int8 wraps")
    check(layer.q_weight, [[-128, 127, -127], [-128, 127, -28], [-128, -128, -128]], "per row")
    ### BEGIN HIDDEN TESTS
    check(layer.q_weight.dtype, np.int8, "the table takes a byte a number")
    check(layer.scale.dtype, np.float32, "scales in float32")
    check(layer.zero_point.dtype, np.int8, "a zero point fits in a byte")
    check(layer.weight, table.data, "all rows: places is a slice")
    check(len(layer.parameters()), 0, "buffers, no parameters")
    check(layer(1).shape, (3,), "one id gives one row")
    with check_raises(ValueError, "tokens.weight holds nan at [0, 1]", "name the table"):
        QuantizedEmbedding(Embedding.from_pretrained(Tensor([[0.0, np.nan]])), "tokens")
    ### END HIDDEN TESTS


test_quantized_embedding()

# %%
table = writer.tokens.weight.detach()
small = QuantizedEmbedding(writer.tokens)
sizes_of_rows = np.abs(table.data).max(axis=1)
print(f"largest numbers of the rows: {sizes_of_rows.min():.2f} to {sizes_of_rows.max():.2f}")
print(f"a grid for the table: {snr(table.data, rounded(table.data, 'tensor')):.1f} dB")
print(f"a grid for each row:  {snr(table.data, small.weight.data):.1f} dB")
print(f"{sum(t.nbytes for t in small.buffers()):,} bytes instead of {table.nbytes:,}")

# %% [markdown]
r"""
## A whole model

### Exercise 6: quantize_dynamic

Given are `wanted_layers`, which checks the arguments and gives a set of types and names, and `dynamic_layer(part, per, name)`, which makes the int8 layer. (`on_kernels` tells `accelerate` of module 28 what to do with a Linear of yours.)

Return a **copy** of the model (`copy.deepcopy`), in eval mode, in which each Linear, LSTM or Embedding whose type or whose name is wanted has its int8 layer in its place, in eval mode too. `model.named_modules()` gives all (name, part) pairs, each part once; `replace_modules(model, {id(part): new, ...})` of module 15 puts new ones
everywhere where the old ones stood, so a shared part stays shared. Take exactly the types in `DYNAMIC`: a subclass may compute something else. For errors the model itself, whose name is "", is called "the layer".

The model may *be* a Linear. Nothing holds it then, and the new layer is the result.
"""


# %% nbgrader={"grade": false, "grade_id": "dynamic-layers", "locked": true, "solution": false}
#| exporti
DYNAMIC = (Linear, LSTM, Embedding)


def wanted_layers(model: Any, layers: Any) -> set[type | str]:
    """What is to be quantised, as a set; an error for what isn't there or can't be."""
    if not isinstance(model, Module):
        raise TypeError(f"quantize_dynamic: expected a Module, got {type(model).__name__}")
    wanted = {layers} if isinstance(layers, (str, type)) else set(layers)
    modules = dict(model.named_modules())
    for key in wanted:
        if isinstance(key, str) and key not in modules:
            raise ValueError(f"quantize_dynamic: no layer is called {key!r}, only {list(modules)}")
        kind = type(modules[key]) if isinstance(key, str) else key
        if kind not in DYNAMIC:
            shown = getattr(kind, "__name__", repr(kind))
            raise ValueError(
                f"quantize_dynamic: {shown} can't be quantised: Linear, LSTM and Embedding can"
            )
    return wanted


def dynamic_layer(part: Any, per: str, name: str) -> Module:
    """The int8 layer that a Linear, LSTM or Embedding becomes."""
    if type(part) is Embedding:
        return QuantizedEmbedding(part, name)
    kind = DynamicQuantizedLinear if type(part) is Linear else QuantizedLSTM
    return kind(part, per, name)


def on_kernels(layer: DynamicQuantizedLinear) -> Int8Linear:
    """The layer on the kernels of module 28, where each row has its own grid."""
    weight, bias = layer.weight, None if layer.bias is None else layer.bias.data
    return Int8Linear(weight.q.data, weight.scale.data, bias=bias, name=weight.name)


ACCELERATED[DynamicQuantizedLinear] = on_kernels


# %% nbgrader={"grade": false, "grade_id": "quantize-dynamic", "locked": false, "solution": true}
#| export
def quantize_dynamic(
    model: Module, layers: Iterable[type | str] = (Linear, LSTM), per: str = "tensor"
) -> Module:
    """A copy of the model in eval mode whose `layers` have int8 weights; it needs no calibration.

    `layers` holds types (Linear, LSTM, Embedding) and names of layers. Inputs are quantised at each
    call, `per` "tensor" or "row"; embeddings only look rows up. Results are floats.

    >>> from tinytorch.nn import Sequential
    >>> quantize_dynamic(Sequential(Linear(4, 8), Linear(8, 2)), {"1"})[1]
    DynamicQuantizedLinear(
      (weight): Int8Weight(8, 2, per='tensor')
    )
    """
    wanted = wanted_layers(model, layers)
    require_per(per, "quantize_dynamic")
    ### BEGIN SOLUTION
    model = copy.deepcopy(model).eval()
    replaced = {
        id(part): dynamic_layer(part, per, name or "the layer").eval()
        for name, part in model.named_modules()
        if type(part) in DYNAMIC and (type(part) in wanted or name in wanted)
    }
    replace_modules(model, replaced)
    return replaced.get(id(model), model)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-quantize-dynamic", "locked": true, "points": 8, "solution": false}
def test_quantize_dynamic():
    model = Sequential(Linear(2, 3), ReLU(), Linear(3, 2)).train()
    small = quantize_dynamic(model)
    kinds = [type(layer).__name__ for layer in small]
    check(kinds, ["DynamicQuantizedLinear", "ReLU", "DynamicQuantizedLinear"], "by type")
    kinds = [type(layer).__name__ for layer in quantize_dynamic(model, {"2"})]
    check(kinds, ["Linear", "ReLU", "DynamicQuantizedLinear"], "by name")
    check(type(model[0]).__name__, "Linear", "the model itself stays as it is")
    ### BEGIN HIDDEN TESTS
    check(small[0].weight.name, "0.weight", "layers know their names")
    check([small.training, small[0].training, model.training], [False, False, True], "eval mode")
    bare = quantize_dynamic(Linear(2, 3), per="row")
    check(type(bare).__name__, "DynamicQuantizedLinear", "a model that is a Linear")
    check(bare.weight.name, "the layer.weight", "a model itself is called the layer")
    check(bare.weight.per, "row", "pass per on")
    words = Sequential(Embedding(5, 2), LSTM(2, 2))
    words.head = TiedLinear(words[0])
    both = quantize_dynamic(words, {LSTM, "0"})
    check(type(both[0]).__name__, "QuantizedEmbedding", "types and names together")
    check(both.head.embedding is both[0], True, "what is shared stays shared")

    class Own(Linear):
        pass

    own = quantize_dynamic(Sequential(Own(2, 2)))
    check(type(own[0]).__name__, "Own", "a subclass isn't ours to replace")
    ### END HIDDEN TESTS


test_quantize_dynamic()

# %% [markdown]
r"""
Put to work: the LSTM that guesses letters, on text that it hasn't seen. **Predict** what int8 costs in nats, what it saves in bytes, and whether per row is better than per tensor.
"""

# %%
versions = {
    "float32": writer,
    "LSTM": quantize_dynamic(writer, {LSTM}),
    "LSTM, Linear": quantize_dynamic(writer),
    "LSTM, Linear, per row": quantize_dynamic(writer, per="row"),
    "all three": quantize_dynamic(writer, {LSTM, Linear, Embedding}),
}
print("                         nats a letter   guessed right      bytes")
for name, model in versions.items():
    with no_grad():
        scores = model(unseen[:, :-1])
    nats = loss_of_letters(scores, unseen[:, 1:]).item()
    right = (scores.data.argmax(axis=-1) == unseen[:, 1:]).mean()
    held = sum(tensor.nbytes for tensor in model.state_dict().values())
    print(f"{name:24}{nats:14.4f} {right:15.3f} {held:10,}")
print(versions["all three"])

# %% [markdown]
r"""
A difference in the fourth digit of the nats, up or down, is luck. And nobody needed a calibration set.

## What is in a file

Save a quantised network by its `state_dict`, and whoever loads it must first build the same structure again: which layers were replaced, with how many bits, per tensor or per row; a static one must even be calibrated again, only to overwrite what that gave. The file should know.

A safetensors file is simple enough to read by hand:

```
 8 bytes          N bytes                                        the rest
+--------+-------------------------------------------+--------------------------+
|   N    | {"name": {"dtype": "I8", "shape": [64],   |  the numbers of all      |
| (LE)   |   "data_offsets": [0, 64]}, ...           |  arrays, one after the   |
|        |   "__metadata__": {"any": "text"}}        |  other                   |
+--------+-------------------------------------------+--------------------------+
```

### Exercise 7: file_header

Read the header of such a file, as a dict. The first 8 bytes are N, a whole number with its lowest byte first: `int.from_bytes(..., "little")`. The next N bytes are JSON: `json.loads` takes them as they are. Don't read the rest: it may be gigabytes.
"""

# %% nbgrader={"grade": false, "grade_id": "file-header", "locked": false, "solution": true}
import json


def file_header(path: str | os.PathLike) -> dict[str, Any]:
    """What a safetensors file says about its arrays, and its metadata."""
    ### BEGIN SOLUTION
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-file-header", "locked": true, "points": 5, "solution": false}
import tempfile

from safetensors.numpy import save_file


def test_file_header():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "numbers.safetensors"
        save_file({"a": np.zeros((2, 3), np.int8)}, path, {"made": "by hand"})
        header = file_header(path)
        check(header["a"]["dtype"], "I8", "the description of array a")
        check(header["a"]["shape"], [2, 3], "JSON knows lists, no tuples")
        check(header["__metadata__"], {"made": "by hand"}, "metadata is text by name")
        ### BEGIN HIDDEN TESTS
        save_file({f"{k}": np.zeros(k) for k in range(99)}, path)
        check(len(file_header(path)), 99, "a header of more than 255 bytes")
        path.write_bytes(path.read_bytes() + b"more")
        check(len(file_header(path)), 99, "read N bytes, not all that follow")
        ### END HIDDEN TESTS


test_file_header()

# %% [markdown]
r"""
Module 07's `write_checkpoint(path, facts)` takes nested dicts and lists with numbers, texts and arrays in any place, and writes one such file: the arrays as arrays, the rest as JSON in the metadata, atomically and with a checksum; `read_checkpoint(path)` gives the facts back.
So all you need is a *description* of a layer in dicts, lists, numbers and texts.

Couldn't `pickle` save the whole object? It could. **Predict** what this prints.
"""

# %%
import pickle


class Parcel:
    """What pickle shall do to make this object again is for the object to say."""

    def __reduce__(self):
        return print, ("this ran while the file was being loaded",)


pickle.loads(pickle.dumps(Parcel()))

# %% [markdown]
r"""
It could have been any function: never load a stranger's pickle. A description can only ask for what the loader knows.

### Exercise 8: described

Turn an attribute into a dict with one key that says what it is:

| value | description |
|---|---|
| Tensor | `{"tensor": [[2, 3], "int8"]}`: shape and dtype alone, its numbers are saved elsewhere |
| Grid of module 22 | `{"grid": asdict(value)}` |
| a layer whose type is in `KINDS.values()` | `{"layer": ["Int8Weight", described(attributes)]}`, `attributes` being `vars(value)` without those in `HOOKS` |
| dict or other Mapping | `{"dict": {key: described(item), ...}}` |
| list, tuple | `{"list": [described(item), ...]}` or `{"tuple": [...]}` |
| None, bool, int, float, str | `{"plain": value}` |
| any other module (`is_module(value)`) | `None`: it is in the float model as well |

All else raises TypeError, in a line that is given. Its `name` grows on the way down: `f"{name}.{key}"` within a dict, `f"{name}.{index}"` within a list. Test for exactly list and tuple (`type(value) in (list, tuple)`).
"""


# %% nbgrader={"grade": false, "grade_id": "kinds", "locked": true, "solution": false}
#| exporti
QUANTIZED = (
    *(QuantizedLinear, LowBitLinear, OutlierSplitLinear),
    *(Quantize, DeQuantize, StaticQuantizedLinear, QuantizedConv2d, QuantizedReLU),
    *(QuantizedMaxPool2d, QuantizedAvgPool2d, QuantizedAttention),
    *(Int8Weight, DynamicQuantizedLinear, QuantizedLSTM, QuantizedEmbedding),
)
# what `fuse` leaves behind may be unlike the float model too
KINDS = {kind.__name__: kind for kind in (*QUANTIZED, Identity, Fused, Linear, Conv2d)}
OTHERS = "tinytorch.optimization."  # layers from there that aren't KINDS can't be described
HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # functions


# %% nbgrader={"grade": false, "grade_id": "described", "locked": false, "solution": true}
#| exporti
def described(value: Any, name: str = "it") -> Any:
    """An attribute as JSON: of tensors shape and dtype alone, of other modules than KINDS None.

    TypeError for what a file can't hold.

    >>> described([Tensor([1.0, 2.0]), 3])
    {'list': [{'tensor': [[2], 'float32']}, {'plain': 3}]}
    """
    if isinstance(value, np.generic):
        value = value.item()
    ### BEGIN SOLUTION
    if isinstance(value, Tensor):
        return {"tensor": [list(value.shape), value.dtype.name]}
    if isinstance(value, Grid):
        return {"grid": asdict(value)}
    if type(value) in KINDS.values():
        own = {key: item for key, item in vars(value).items() if key not in HOOKS}
        return {"layer": [type(value).__name__, described(own, name)]}
    if isinstance(value, Mapping):
        return {"dict": {key: described(item, f"{name}.{key}") for key, item in value.items()}}
    if type(value) in (list, tuple):
        items = [described(item, f"{name}.{index}") for index, item in enumerate(value)]
        return {type(value).__name__: items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"plain": value}
    if is_module(value):
        return None
    ### END SOLUTION
    raise TypeError(f"save_quantized: {name} is a {type(value).__name__}: a file can't hold it")


# %% nbgrader={"grade": true, "grade_id": "test-described", "locked": true, "points": 8, "solution": false}
def test_described():
    tensor = Tensor([[1, 2, 3]], dtype=np.int8)
    check(described(tensor), {"tensor": [[1, 3], "int8"]}, "shape and dtype, no numbers")
    check(described((1, None)), {"tuple": [{"plain": 1}, {"plain": None}]}, "a tuple is no list")
    kind, attributes = described(Int8Weight(Tensor([[1.0]]), "row"))["layer"]
    check(kind, "Int8Weight", "a layer by its name")
    check(attributes["dict"]["per"], {"plain": "row"}, "its attributes as a dict")
    ### BEGIN HIDDEN TESTS
    check(described({"a": [True]}), {"dict": {"a": {"list": [{"plain": True}]}}}, "nested")
    check(described(Grid(bits=4))["grid"]["bits"], 4, "a grid by its fields")
    check(described(ReLU()), None, "another module: the float model has it")
    check(described(np.int64(3)), {"plain": 3}, "NumPy's numbers as Python's")
    layer = DynamicQuantizedLinear(Linear(1, 1))
    layer.register_forward_hook(print)
    json.dumps(described(layer))
    check("_forward_hooks" in described(layer)["layer"][1]["dict"], False, "hooks are functions")
    layer.extra = [1, {"f": print}]
    with check_raises(TypeError, "fc.extra.1.f is a builtin", "the name grows on the way down"):
        described(layer, "fc")
    ### END HIDDEN TESTS


test_described()

# %% [markdown]
r"""
### Exercise 9: rebuilt

The way back. `old` is what stands at this place in the float model (None if there is nothing): where the description is None, `old` is the answer. That, grids and layers are given; a layer is made by `rebuilt_layer`, which looks its name up in `KINDS` and sets the attributes: nothing that isn't in that table can ever be made. It also compares
the sizes before and after.

Yours are the plain ones (as they are), tensors (zeros of that shape and dtype: give `Tensor` the dtype as well, or int8 becomes float32), dicts and lists or tuples. For a dict, the `old` of an item is what `old` has under the same key, if `old` is a Mapping. For a list, it is the item at the same place, if `old` is a list or tuple, else None;
then both lengths must be equal, or it is a ValueError with `f"{len(content)} items in the file and {len(before)} here"`. A tuple becomes a tuple.
"""


# %% nbgrader={"grade": false, "grade_id": "rebuilt-layer", "locked": true, "solution": false}
#| exporti
def sizes(layer: Any) -> dict[str, Any]:
    """What quantisation leaves as it is: the shapes of weight and bias, and whole numbers."""
    own = getattr(layer, "__dict__", {})
    found = {key: value for key, value in own.items() if type(value) is int}
    tensors = {k: v for k, v in own.items() if isinstance(v, (Tensor, Int8Weight))}
    return found | {key.removeprefix("q_"): value.shape for key, value in tensors.items()}


def require_same_sizes(new: Any, old: Any) -> None:
    """ValueError where a layer of the file has other sizes than the model's own."""
    before, after = sizes(old), sizes(new)
    for key in before.keys() & after.keys():
        if before[key] != after[key]:
            raise ValueError(f"{key} is {after[key]} in the file and {before[key]} here")


def rebuilt_layer(kind: str, attributes: Any, old: Any) -> Any:
    """A layer of this kind, without a call of its __init__."""
    new: Any = object.__new__(KINDS[kind])
    found = rebuilt(attributes, getattr(old, "__dict__", {}))
    new._buffers = found.pop("_buffers", {})  # first: a Tensor that isn't among them is a parameter
    for key, value in found.items():
        setattr(new, key, value)
    require_same_sizes(new, old)
    return new


# %% nbgrader={"grade": false, "grade_id": "rebuilt", "locked": false, "solution": true}
#| exporti
def rebuilt(description: Any, old: Any = None) -> Any:
    """The opposite of `described`: tensors hold zeros, and what isn't described is `old`.

    `old` is what stands at this place in the float model. ValueError where it doesn't fit, KeyError
    for a kind of layer that doesn't exist.

    >>> rebuilt(described((1, [Grid(bits=4).bits, "a"])))
    (1, [4, 'a'])
    """
    if description is None:
        if not is_module(old):
            raise ValueError("the file counts on a module that isn't here")
        return old
    [(kind, content)] = description.items()
    if kind == "layer":
        name, attributes = content
        return rebuilt_layer(name, attributes, old)
    if kind == "grid":
        return Grid(**content)
    ### BEGIN SOLUTION
    if kind == "plain":
        return content
    if kind == "tensor":
        shape, dtype = content
        return Tensor(np.zeros(shape, dtype), dtype=dtype)
    if kind == "dict":
        held = old if isinstance(old, Mapping) else {}
        return {key: rebuilt(item, held.get(key)) for key, item in content.items()}
    if kind in ("list", "tuple"):
        before = old if isinstance(old, (list, tuple)) else [None] * len(content)
        if len(before) != len(content):
            raise ValueError(f"{len(content)} items in the file and {len(before)} here")
        items = [rebuilt(*pair) for pair in zip(content, before, strict=True)]
        return tuple(items) if kind == "tuple" else items
    ### END SOLUTION
    raise KeyError(kind)


# %% nbgrader={"grade": true, "grade_id": "test-rebuilt", "locked": true, "points": 8, "solution": false}
def test_rebuilt():
    check(rebuilt({"plain": "row"}), "row", "plain values as they are")
    tensor = rebuilt(described(Tensor([[1, 2]], dtype=np.int8)))
    check(tensor, np.array([[0, 0]]), "zeros of the same shape")
    check(tensor.dtype, np.int8, "and of the same dtype")
    value = {"a": (1, [2.5, None]), "b": Grid(bits=4).bits}
    check(rebuilt(described(value)), value, "dicts, tuples and lists, nested")
    ### BEGIN HIDDEN TESTS
    norm = ReLU()
    check(rebuilt(None, norm) is norm, True, "what isn't described is the model's own")
    deep = rebuilt(described({"x": [1, ReLU()]}), {"x": [7, norm], "y": 5})
    check(deep["x"][1] is norm, True, "old: by key within dicts, by place within lists")
    check(list(deep), ["x"], "only what is described")
    check(rebuilt(described([1, 2]), "a text"), [1, 2], "an old that is no list has no items")
    with check_raises(ValueError, "2 items in the file and 3 here", "lists of equal length"):
        rebuilt(described([1, 2]), [1, 2, 3])
    layer = DynamicQuantizedLinear(Linear(3, 2), "row")
    again = rebuilt(described(layer), Linear(3, 2))
    check(repr(again), repr(layer), "whole layers")
    check(len(again.buffers()), 3, "buffers stay buffers")
    ### END HIDDEN TESTS


test_rebuilt()

# %% [markdown]
r"""
## Four bits take half a byte

A static network of module 31 may have weights of 4 bits or fewer, held in int8 arrays because NumPy has nothing smaller. In a file they needn't waste half of each byte: module 24 has `pack_int4(array)` and `unpack_int4(bytes, count)`.

### Exercise 10: stored and restored

`stored(array)`: an int8 array that isn't empty and whose numbers all lie from -8 to 7 becomes `{"int4": packed bytes, "shape": its shape as a list}`; any other array stays what it is.
`restored(value)`: the array again. The count is the product of the shape, `math.prod`.
"""


# %% nbgrader={"grade": false, "grade_id": "stored", "locked": false, "solution": true}
#| exporti
def stored(array: np.ndarray) -> Any:
    """An array as it goes into the file: int8 that 4 bits can hold is packed, two in a byte.

    >>> stored(np.array([[3, -2, 7]], np.int8))
    {'int4': array([227,   7], dtype=uint8), 'shape': [1, 3]}
    """
    ### BEGIN SOLUTION
    if array.dtype == np.int8 and array.size and array.min() >= -8 and array.max() <= 7:
        return {"int4": pack_int4(array), "shape": list(array.shape)}
    return array
    ### END SOLUTION


def restored(value: Any) -> np.ndarray:
    """The array that was `stored`.

    >>> restored(stored(np.array([[3, -2, 7]], np.int8)))
    array([[ 3, -2,  7]], dtype=int8)
    """
    ### BEGIN SOLUTION
    if isinstance(value, np.ndarray):
        return value
    return unpack_int4(value["int4"], math.prod(value["shape"])).reshape(value["shape"])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-stored", "locked": true, "points": 5, "solution": false}
def test_stored():
    small = np.array([[3, -2, 7]], np.int8)
    check(stored(small), {"int4": np.array([227, 7], np.uint8), "shape": [1, 3]}, "two a byte")
    check(restored(stored(small)), small, "and back, in its shape")
    large = np.array([8, 0], np.int8)
    check(stored(large) is large, True, "8 needs more than 4 bits")
    ### BEGIN HIDDEN TESTS
    check(restored(large) is large, True, "what wasn't packed is an array already")
    check(stored(np.array([-8, 0], np.int8))["int4"], np.array([8]), "-8 fits")
    low = np.array([-9, 0], np.int8)
    check(stored(low) is low, True, "-9 doesn't")
    wide = np.array([1, 2], np.int32)
    check(stored(wide) is wide, True, "only int8: others must come back as what they were")
    nothing = np.zeros((0, 3), np.int8)
    check(stored(nothing) is nothing, True, "an empty array has no smallest number")
    check(restored(stored(np.array(5, np.int8))), np.array(5), "no axes: one number")
    ### END HIDDEN TESTS


test_stored()

# %% [markdown]
r"""
## Save and load

Given: `described_layers(model)` finds the layers that quantisation put in and describes each (those within another are described with it); `tensors_of(model)` gives all tensors to save by name, a shared one once.

### Exercise 11: save_quantized

Write two facts: "quantized_layers", the descriptions, and "state", the `stored` data of each tensor by name, by `write_checkpoint(Path(path), facts)`.
"""


# %% nbgrader={"grade": false, "grade_id": "tensors-of", "locked": true, "solution": false}
#| exporti
def tensors_of(model: Module) -> dict[str, Tensor]:
    """What state_dict saves, but a tensor that is shared only once."""
    state, named = model.state_dict(), [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if name in state}


def described_layers(model: Any) -> dict[str, Any]:
    """The layers that quantisation put in, by name; an error where there is none, or unknown ones.

    Those that are part of another are described with it.
    """
    if not isinstance(model, Module):
        raise TypeError(f"save_quantized: expected a Module, got {type(model).__name__}")
    layers: dict[str, Any] = {}
    for name, part in model.named_modules():
        if type(part) in KINDS.values():
            if not any(not outer or name.startswith(f"{outer}.") for outer in layers):
                layers[name] = described(part, name or "the model")
        elif isinstance(part, QUANTIZED) or type(part).__module__.startswith(OTHERS):
            raise ValueError(
                f"save_quantized: {name or 'the model'} is a {type(part).__name__}, "
                f"and files hold only {', '.join(KINDS)}"
            )
    if not any(isinstance(part, QUANTIZED) for part in model.modules()):
        raise ValueError("save_quantized: the model has no quantised layer")
    return layers


def with_layers(model: Module, layers: Mapping[str, Any], path: Any) -> Module:
    """A copy of a model, with the layers that the file describes; ValueError if they don't fit."""
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    if lost := [name for name in layers if name not in modules]:
        raise ValueError(f"{path} is of another model: this one has no {lost[0]!r}")
    replaced: dict[int, Any] = {}
    for name, description in layers.items():
        try:
            replaced[id(modules[name])] = rebuilt(description, modules[name])
        except ValueError as error:
            raise ValueError(f"{path} is of another model: {name or 'it'}: {error}") from None
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} holds what this TinyTorch doesn't know ({error}): a newer one wrote it"
            ) from None
    replace_modules(model, replaced)
    return replaced.get(id(model), model).eval()


# %% nbgrader={"grade": false, "grade_id": "save-quantized", "locked": false, "solution": true}
#| export
def save_quantized(model: Module, path: str | os.PathLike) -> None:
    """Write a quantised model into one safetensors file, atomically; see `load_quantized`.

    Integers take a byte each, those of 4 bits half a byte. The layers that quantisation put in are
    described in the metadata, so that nobody needs to quantise or calibrate again; hooks are not
    saved. Raises ValueError and TypeError for layers that a file can't describe.
    """
    layers = described_layers(model)
    ### BEGIN SOLUTION
    state = {name: stored(tensor.data) for name, tensor in tensors_of(model).items()}
    write_checkpoint(Path(path), {"quantized_layers": layers, "state": state})
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-save-quantized", "locked": true, "points": 5, "solution": false}
def test_save_quantized():
    words = Sequential(Embedding(9, 4), Linear(4, 3))
    words.head = TiedLinear(words[0])
    small = quantize_dynamic(words, {Embedding, Linear})
    small[1].weight.q.data[...] = [[1, 2, 3]] * 4
    with tempfile.TemporaryDirectory() as folder:
        save_quantized(small, f"{folder}/words.safetensors")
        facts = read_checkpoint(Path(f"{folder}/words.safetensors"))
    check(sorted(facts["quantized_layers"]), ["0", "1"], "each quantised layer is described")
    check(facts["state"]["0.q_weight"], small[0].q_weight.data, "int8 as it is")
    ### BEGIN HIDDEN TESTS
    check(facts["state"]["1.weight.q"]["int4"].nbytes, 6, "12 numbers of 4 bits in 6 bytes")
    check("head.embedding.q_weight" in facts["state"], False, "what is shared is saved once")
    check(len(facts["state"]), 6, "all buffers of both layers")
    ### END HIDDEN TESTS


test_save_quantized()

# %% [markdown]
r"""
### Exercise 12: load_quantized

The checks before your part read the file into `facts`. Given, above, is `with_layers(model, descriptions, path)`: a copy of the float model in which the described layers stand, in eval mode, with zeros for numbers.

1. Make the model, and the `restored` state by name.
2. If the names of `tensors_of(model)` and of the state differ, it is a ValueError: the file "is of another model". `a.keys() ^ b.keys()` has the names that only one of two dicts holds: show some.
3. `model.load_state_dict(state, strict=False)` writes the numbers. (Not strict: a shared tensor has names that the file doesn't repeat.) Where a shape doesn't fit it raises ValueError: say that the file "is of another model" there as well.
"""


# %% nbgrader={"grade": false, "grade_id": "load-quantized", "locked": false, "solution": true}
#| export
def load_quantized(model: Module, path: str | os.PathLike) -> Module:
    """The quantised model in a file of `save_quantized`; `model` is the float model it came from.

    The model gives the structure, its numbers don't matter, and it stays as it is. Raises
    ValueError for a file that is damaged, or of another model.

    >>> import tempfile
    >>> from tinytorch.nn import Sequential
    >>> quantized = quantize_dynamic(Sequential(Linear(4, 2)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_quantized(quantized, f"{folder}/model.safetensors")
    ...     again = load_quantized(Sequential(Linear(4, 2)), f"{folder}/model.safetensors")
    >>> x = Tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> bool((again(x) == quantized(x)).all())
    True
    """
    if not isinstance(model, Module):
        raise TypeError(f"load_quantized: expected a Module, got {type(model).__name__}")
    facts = read_checkpoint(Path(path))
    if "quantized_layers" not in facts:
        raise ValueError(f"{path} holds no quantised model: it isn't of save_quantized")
    ### BEGIN SOLUTION
    model = with_layers(model, facts["quantized_layers"], path)
    state = {name: restored(value) for name, value in facts["state"].items()}
    if different := tensors_of(model).keys() ^ state.keys():
        raise ValueError(f"{path} is of another model: only one has {sorted(different)[:4]}")
    try:
        model.load_state_dict(state, strict=False)  # a shared tensor has several names
    except ValueError as error:
        raise ValueError(f"{path} is of another model: {error}") from None
    return model
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-load-quantized", "locked": true, "points": 5, "solution": false}
def test_load_quantized():
    model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
    small, x = quantize_dynamic(model, {"2"}, per="row"), Tensor(np.eye(4))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        save_quantized(small, path)
        fresh = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        before = fresh(x).data
        again = load_quantized(fresh, path)
        check(again(x), small(x).data, "the same model, to the bit", 0)
        check(fresh(x), before, "the model that was given stays as it is", 0)
        ### BEGIN HIDDEN TESTS
        words = Sequential(Embedding(9, 4), Linear(4, 3))
        words.head = TiedLinear(words[0])
        with check_raises(ValueError, "is of another model", "the names differ"):
            load_quantized(Sequential(*fresh, Linear(2, 2)), path)
        save_quantized(quantize_dynamic(words, {Linear}), path)
        other = copy.deepcopy(words)
        other[0].weight = Tensor(np.zeros((8, 4)))
        with check_raises(ValueError, "is of another model", "a float layer of another size"):
            load_quantized(other, path)
        save_quantized(quantize_dynamic(words, {Embedding}), path)
        check(load_quantized(words, path).head(x).shape, (4, 9), "shared tensors: not strict")
        ### END HIDDEN TESTS


test_load_quantized()

# %% [markdown]
r"""
## Put together: files of every kind

The digit network in every form that you have built, now wider, so that its numbers outweigh the descriptions. **Predict** the sizes: float32, int8, and static with weights of 4 bits.
"""

# %%
manual_seed(0)
wide = Sequential(Flatten(), Linear(64, 256), ReLU(), Linear(256, 256), ReLU(), Linear(256, 10))
trainer = Trainer(wide, Adam(wide.parameters(), lr=3e-3), CrossEntropyLoss())
trainer.fit(DataLoader(train, batch_size=50, shuffle=True, seed=0), epochs=4)


def calibrated(qconfig):
    """The wide network on integers, with the layers that follow one another fused."""
    prepared = prepare(wide, qconfig, example=train.images[:1])
    prepared(train.images)
    return convert(prepared)


def four_bit_weights(axis):
    """Symmetric grids of 4 bits, one for each channel."""
    return PerChannelMinMaxObserver(axis=axis, bits=4, scheme="symmetric")


module_15, module_24 = copy.deepcopy(wide), copy.deepcopy(wide)
quantize_model(module_15, train.images)
quantize_weights(module_24)
networks = {
    "int8, module 15": module_15,
    "int4 in groups, module 24": module_24,
    "static int8, module 31": calibrated(QConfig()),
    "static, 4-bit weights": calibrated(QConfig(weight=four_bit_weights)),
    "dynamic int8": quantize_dynamic(wide, per="row"),
}
folder = tempfile.TemporaryDirectory()
floats_path = Path(folder.name) / "float32.safetensors"
save_file({name: tensor.data for name, tensor in wide.state_dict().items()}, floats_path)
print(f"{'':28}{'bytes':>10} {'header':>8} {'accuracy':>9} {'loaded':>7}")
print(f"{'float32':28}{floats_path.stat().st_size:10,} {'':8} {accuracy(wide):9.3f}")
for name, network in networks.items():
    path = Path(folder.name) / f"{name}.safetensors"
    save_quantized(network, path)
    loaded = load_quantized(wide, path)
    with no_grad():
        same = np.array_equal(loaded(test.images).data, network(test.images).data)
    size, header = path.stat().st_size, len(json.dumps(file_header(path)))
    print(
        f"{name:28}{size:10,} {header:8,} {accuracy(network):9.3f} {'equal' if same else 'NO':>7}"
    )

header = file_header(path)
for name, entry in list(header.items())[:3]:
    print(f"{name}: {str(entry)[:300]}")

# %% [markdown]
r"""
Everything comes back equal to the bit. Now let something go wrong. **Predict** for each line below whether it is noticed, and by whom: safetensors, the checksum, the comparison of sizes, or nobody.
"""

# %%
path = Path(folder.name) / "dynamic int8.safetensors"
whole = path.read_bytes()
for title, content in {
    "one bit of a weight": whole[:-999] + bytes([whole[-999] ^ 1]) + whole[-998:],
    "the last byte is missing": whole[:-1],
    "the length of the header": bytes([whole[0] ^ 1]) + whole[1:],
}.items():
    path.write_bytes(content)
    try:
        load_quantized(wide, path)
        print(f"{title}: not noticed")
    except ValueError as error:
        print(f"{title}: {str(error).removeprefix(str(path))[:90]}")
path.write_bytes(whole)
sizes_differ = copy.deepcopy(wide)
sizes_differ.layers[3:] = [Linear(256, 128), ReLU(), Linear(128, 10)]
others = {"fewer layers": digits, "other sizes": sizes_differ, "an LSTM": writer}
for title, model in others.items():
    try:
        load_quantized(model, path)
        print(f"{title}: not noticed")
    except ValueError as error:
        print(f"{title}: {str(error).removeprefix(str(path))[:90]}")
folder.cleanup()

# %% [markdown]
r"""
## What it costs

Saved bytes are certain. Time? Each call passes over x to find the grid and again to round, multiplies, and scales. And as NumPy has no fast product of integers, `carried_matmul` first turns all weights into float32, at every call.
**Predict**: 1 row and 64 rows through a layer of 1024 x 1024: dynamic int8 against float32, and which part takes most? ("to floats" is that part of the product which turns the weights into float32.)
"""

# %%
import time


def milliseconds(function, repeat=5) -> float:
    """The fastest of some runs, after one to warm up."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


random = np.random.default_rng(0)
titles = ("float32", "dynamic", "its grid", "rounding", "product", "to floats")
print("milliseconds  " + "".join(f"{title:>11}" for title in titles))
for count in (1, 64):
    for size in (256, 1024):
        linear = Linear(size, size)
        layer, x = DynamicQuantizedLinear(linear), Tensor(random.standard_normal((count, size)))
        chosen = grid_of(x.data, "tensor")
        q, weight = to_integers(x.data, chosen, "x"), layer.weight.q.data
        with no_grad():
            parts = [
                milliseconds(lambda f=f: f())
                for f in (
                    lambda m=linear, x=x: m(x),
                    lambda m=layer, x=x: m(x),
                    lambda x=x: grid_of(x.data, "tensor"),
                    lambda x=x, g=chosen: to_integers(x.data, g, "x"),
                    lambda q=q, w=weight: carried_matmul(q, w),
                    lambda w=weight: w.astype(np.float32),
                )
            ]
        print(f"{count:3} rows, {size:4}   " + "".join(f"{part:11.3f}" for part in parts))

# %% [markdown]
r"""
For one row, dynamic int8 is **slower** than float32 here, and by much: only to turn a million weights into floats takes about as long as the float32 layer does. For 64 rows that cost is shared; what rounding takes is added to a product that is no faster.
So in NumPy dynamic quantisation saves storage, and no time. Finding the grid is not to blame: it is one pass over x, and rounding another, beside a product that uses each number of x a thousand times. What is missing is a product that reads int8 *as* int8; module 28's kernels are that, and `accelerate(model)` puts your Linears on them.

PyTorch's names: `torch.ao.quantization.quantize_dynamic(model, {nn.Linear, nn.LSTM})`, with the layers in `torch.ao.nn.quantized.dynamic`; the product is `torch.ops.quantized.linear_dynamic`, the lookup `torch.ops.quantized.embedding_byte`. The kernels give what ours give, to float32's last digits.
Around them it does three things otherwise: one scale for a whole weight unless asked for channels; 7 bits instead of 8 for x (`reduce_range`), for processors without VNNI; and no scale below 6.1e-5, so that numbers around 1e-4 keep few marks.
It has no `per="row"`: a loop over rows would be it.

## Questions

Answer in a few lines, with the numbers worked out.

### 1. What is worth int8? (5 points)

An LSTM of I = 512, H = 1024, one layer, batch 8. How many bytes are its weights in float32 and in int8 (with float32 scales for columns), its biases, and one cell state? What would int8 for the cell state save, in percent of the int8 model?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-worth", "locked": false, "points": 5, "solution": true}
r"""
Weights: 4 x 1024 x (512 + 1024) = 6,291,456 numbers: 25.2 MB in float32, 6.29 MB in int8, and two rows of 4,096 scales, 32.8 kB. Biases: 2 x 4,096 x 4 = 32.8 kB. A cell state: 8 x 1024 x 4 = 32.8 kB; in int8 8.2 kB.
That saves 24.6 kB of 6.4 MB: 0.4 %. For it, each step would round what hundreds of steps have gathered.
"""

# %% [markdown]
r"""
### 2. Passes over x (5 points)

x is (64, 1024) in float32, the weight (1024, 1024). Finding the range reads x; rounding reads it and writes int8; the product reads int8; then 64 x 1024 int32 sums are read and written as floats. How many bytes is all that, how many are the int8 weights, and how many operations is the product? A machine moves 10 GB/s and does 100 GFLOP/s in float32:
what share of the time of the float32 product is the extra traffic?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-passes", "locked": false, "points": 5, "solution": true}
r"""
x has 65,536 numbers. 262 kB read, 262 kB read and 66 kB written, 66 kB read, 262 kB read and 262 kB written: 1.18 MB, at 10 GB/s 0.12 ms. The weights: 1.05 MB.
The product: 2 x 64 x 1024 x 1024 = 134 MFLOP, 1.34 ms in float32. The passes are 9 % of that: little, as long as the product itself isn't several times faster; beside one of 0.2 ms they would be more than half.
"""

# %% [markdown]
r"""
### 3. What may a file do? (5 points)

Somebody sends you two files of a model: one a pickle, one of `save_quantized`. What could each of them do to your machine when you load it? What protects you from a file that names the layer "os.system", from one that describes a tensor of a different shape, and from one whose weights were changed with care, checksum included?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-file", "locked": false, "points": 5, "solution": true}
r"""
The pickle can run any code as you: loading it calls whatever functions it names. The other file is JSON and numbers: it can make layers of the table `KINDS` and set attributes to plain values, nothing else.
"os.system" isn't in the table: a KeyError, told as a ValueError. A tensor of a different shape: the sizes are compared with those of your float model, and load_state_dict compares what is stored with what is described. Changed with care: nothing. A CRC-32 finds accidents, anybody can compute it anew; against intent only a signature, or a cryptographic hash from a source you trust, helps.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "solution": false}
def test_module():
    """Run every test of this lesson."""
    tests = [
        *(test_grid_of, test_dynamic_matmul, test_dynamic_linear, test_quantized_lstm),
        *(test_quantized_embedding, test_quantize_dynamic, test_file_header, test_described),
        *(test_rebuilt, test_stored, test_save_quantized, test_load_quantized),
    ]
    for test_function in tests:
        test_function()
    print(f"{len(tests)} tests passed: module 32 is complete")


test_module()

# %% [markdown]
r"""
## What works now

- Linear, LSTM and Embedding run on int8 weights without any calibration data, and no number lies beyond its grid.
- Grids per tensor or per row: you know whom an outlier costs, and that per row no request sees its neighbours.
- Cell states stay float, and you have measured why.
- Networks of modules 15, 24, 25, 31 and 32 go into one file each, int8 in a byte, int4 in half of one, and come back equal to the bit; damage and strangers are refused in one line.
- In NumPy it isn't faster. With kernels that multiply int8 it is.
"""

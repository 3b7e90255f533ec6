# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.mixed_precision

# %% [markdown]
r"""
# Which layer gets how many bits

> Bits where they count: sensitivity, curvature, and an integer programme under a budget.

Time: 4 to 5 hours. Module 24 rounds weights to any number of bits, but to the *same* number in every layer. Here each layer gets its own: you find out which layer needs how many, by measuring and by curvature,
and let a solver spend a budget of bytes where it helps most. At the end you make up data for a network whose data you may not have.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tinytorch.core.autograd import enable_grad, grad
from tinytorch.core.layers import Linear, Module
from tinytorch.core.optimizers import Adam
from tinytorch.core.recurrent import GRU, LSTM, RNN
from tinytorch.core.spatial import BatchNorm1d, BatchNorm2d, Conv1d, Conv2d
from tinytorch.core.tensor import Tensor
from tinytorch.core.training import evaluating
from tinytorch.optimization.lowbit import dequantize_bits, quantize_bits
from tinytorch.optimization.quantization import other_axes
from tinytorch.text.embeddings import Embedding

# %% [markdown]
r"""
## One width for all

A small convolutional network that reads 8 x 8 digits, with batch norms. The images are normalised: mean 0, deviation 1.
"""

# %%
import itertools
import tempfile
import time
from functools import partial
from pathlib import Path

from safetensors.numpy import load_file, save_file

from tinytorch.core.activations import ReLU, Tanh
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Flatten, Sequential
from tinytorch.core.losses import CrossEntropyLoss, MSELoss
from tinytorch.core.spatial import MaxPool2d
from tinytorch.core.tensor import manual_seed
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits, TensorDataset
from tinytorch.optimization.lowbit import pack_bits, unpack_bits
from tinytorch.optimization.observers import MinMaxObserver, QConfig
from tinytorch.optimization.qat import FakeQuantize, layer_grids, prepare_qat, qat_config
from tito.testing import check, check_raises

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the plots are left out

# %%
train, test = Digits(), Digits(train=False)
mean, deviation = train.images.data.mean(), train.images.data.std()
train_images = Tensor((train.images.data - mean) / deviation)
test_images = Tensor((test.images.data - mean) / deviation)
loss_fn = CrossEntropyLoss()


def accuracy(model) -> float:
    """The share of test digits that the model reads right."""
    with no_grad():
        guesses = model(test_images).data.argmax(axis=1)
    return float((guesses == test.labels.data).mean())


def trained_network(seed=0, epochs=6) -> Sequential:
    """Two convolutions with batch norms, two Linears: 6,848 weights, trained by Adam."""
    manual_seed(seed)
    model = Sequential(
        *(Conv2d(1, 8, 3, padding=1, bias=False), BatchNorm2d(8), ReLU(), MaxPool2d(2)),
        *(Conv2d(8, 32, 3, padding=1, bias=False), BatchNorm2d(32), ReLU(), MaxPool2d(2)),
        *(Flatten(), Linear(128, 32), ReLU(), Linear(32, 10)),
    )
    loader = DataLoader(
        TensorDataset(train_images, train.labels), batch_size=50, shuffle=True, seed=seed
    )
    Trainer(model, Adam(model.parameters(), lr=3e-3), loss_fn).fit(loader, epochs)
    return model.eval()


network = trained_network()
print(f"accuracy {accuracy(network):.3f}")

# %% [markdown]
r"""
Now round the weights with what module 24 gave you: symmetric grids, one for each output channel. First all four layers to the same width, then **one layer alone** to 2 bits.

**Predict**: which of the four layers suffers most from 2 bits? It has 72, 2,304, 4,096 or 320 weights. Write it down.
"""

# %%
quick_copy = copy.deepcopy(network)


def at_bits(widths: dict[int, int]) -> Sequential:
    """The network with some layers, by number, rounded to so many bits."""
    for i, layer in enumerate(network):
        if isinstance(layer, (Conv2d, Linear)):
            axis, weight = (1 if isinstance(layer, Linear) else 0), layer.weight.detach()
            if i in widths:
                weight = dequantize_bits(*quantize_bits(weight, widths[i], True, axis), axis)
            quick_copy[i].weight.data[...] = weight.data
    return quick_copy


numbers = [i for i, layer in enumerate(network) if isinstance(layer, (Conv2d, Linear))]
for bits in (8, 4, 3, 2):
    model = at_bits(dict.fromkeys(numbers, bits))
    print(f"all layers at {bits} bits: accuracy {accuracy(model):.3f}")
for i in numbers:
    size = network[i].weight.size
    print(
        f"only layer {i:2} at 2 bits ({size:5,} weights): accuracy {accuracy(at_bits({i: 2})):.3f}"
    )

# %% [markdown]
r"""
All at 2 bits is a catastrophe, but no single layer is to blame for it. And they aren't alike: the largest layer hurts least, while small ones, which would cost next to nothing to keep, hurt more. One width for all saves bits where little is to be saved.

With $L$ layers and four widths there are $4^L$ choices. To find the best under a budget of bytes you need two numbers for each layer and width: what it **takes**, and what it **costs**.

## Layers, widths, bytes

Given: which layers have weights to round, by name (shared weights once, and all weights of an LSTM together), the checks, a progress bar, and `rounded_weight`: module 24's symmetric grids for one weight. With 32 bits it is left as it is.
"""

# %% nbgrader={"grade": false, "grade_id": "layers", "locked": true, "solution": false}
#| exporti
WIDTHS = (2, 3, 4, 8)
FLOAT = 32  # bits: the weight stays as it is
OUTPUT_AXIS = {Linear: 1, Conv1d: 0, Conv2d: 0, Embedding: 0, RNN: 1, LSTM: 1, GRU: 1}


class Weights(NamedTuple):
    """The weights of one layer, and their axis of output channels (of ids, for an Embedding)."""

    tensors: list[Tensor]
    axis: int


def layer_weights(model: Module, asked: str) -> dict[str, Weights]:
    """The layers whose weights can be rounded, by name; a shared weight belongs to the first.

    >>> list(layer_weights(Linear(2, 2), "example"))
    ['']
    """
    if not isinstance(model, Module):
        raise TypeError(f"{asked}: expected a Module, got {type(model).__name__}")
    found: dict[str, Weights] = {}
    seen: set[int] = set()
    for name, layer in model.named_modules():
        axes = [axis for kind, axis in OUTPUT_AXIS.items() if isinstance(layer, kind)]
        parts = vars(layer).items() if axes else ()
        weights = [x for part, x in parts if part.startswith("weight") and isinstance(x, Tensor)]
        if own := [weight for weight in weights if id(weight) not in seen]:
            seen.update(map(id, own))
            found[name] = Weights(own, axes[0])
    if not found:
        kinds = ", ".join(kind.__name__ for kind in OUTPUT_AXIS)
        raise ValueError(f"{asked}: the model has no layer of these types: {kinds}")
    return found


def require_widths(widths: Iterable[Any], asked: str) -> None:
    """ValueError unless there are some, and each is a number of bits that a weight can have."""
    widths = list(widths)
    wrong = [b for b in widths if not isinstance(b, (int, np.integer)) or not 2 <= b <= 16]
    if not widths or any(bits != FLOAT for bits in wrong):
        raise ValueError(f"{asked}: bits must be from 2 to 16, or 32 for float, got {widths}")


def require_layers(names: Iterable[str], layers: Iterable[str], asked: str) -> None:
    """ValueError where a name is not that of a layer."""
    if unknown := [name for name in names if name not in set(layers)]:
        raise ValueError(f"{asked}: no layer is called {unknown}, there are {list(layers)}")


def with_bar(items: Sequence[Any], title: str, progress: bool) -> Iterable[Any]:
    """The items behind a progress bar; nothing is shown if not `progress`, or by TQDM_DISABLE."""
    options: dict[str, Any] = {} if progress else {"disable": True}
    return tqdm(items, desc=title, **options)


def rounded_weight(weight: Tensor, bits: int, axis: int, name: str = "weight") -> np.ndarray:
    """A weight on symmetric grids of so many bits, one for each slice along `axis`; 32: as it is.

    Zeros stay zeros, as 0 is a mark of every symmetric grid.

    >>> rounded_weight(Tensor([[3.0, 10.0], [0.0, -4.0]]), bits=2, axis=1)
    array([[ 3., 10.],
           [ 0.,  0.]], dtype=float32)
    """
    if bits == FLOAT:
        return weight.data
    grid = quantize_bits(weight.detach(), bits, symmetric=True, axis=axis, name=name)
    return dequantize_bits(*grid, axis).data


# %% [markdown]
r"""
### Exercise 1: round_weights

For a whole model: a copy, checked `layers` (name -> `Weights(tensors, axis)`) and the dict `bits` (name -> width) are given. Write `rounded_weight(weight, width, axis, f"{name}.weight")` into **all** tensors of each layer named, in place (`weight.data[...] = `), so that dtypes and shared weights stay. Return the model.

A Linear whose columns are [3, 0] and [10, -4] gets, with 2 bits, scales 3 and 10: [3, 0] and [10, 0].
"""


# %% nbgrader={"grade": false, "grade_id": "round-weights", "locked": false, "solution": true}
#| export
def round_weights(model: Module, bits: int | Mapping[str, int]) -> Module:
    """A copy of the model whose weights lie on symmetric grids, one for each output channel.

    `bits` is 2 to 16, or 32 for float: one number for all layers, or by name for some; the others
    stay float. Linear, Conv1d, Conv2d, Embedding (a grid for each row), RNN, LSTM and GRU are
    rounded; biases and norms are not. Zeros stay exact zeros. Raises ValueError for unknown names,
    other numbers of bits, NaN and infinity.

    >>> rounded = round_weights(Linear(8, 1), 2)
    >>> len(np.unique(rounded.weight.data)) <= 3
    True
    """
    model = copy.deepcopy(model)
    layers = layer_weights(model, "round_weights")
    bits = bits if isinstance(bits, Mapping) else dict.fromkeys(layers, bits)
    require_layers(bits, layers, "round_weights")
    if bits:
        require_widths(bits.values(), "round_weights")
    ### BEGIN SOLUTION
    for name, width in bits.items():
        for weight in layers[name].tensors:
            weight.data[...] = rounded_weight(weight, width, layers[name].axis, f"{name}.weight")
    return model
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-round-weights", "locked": true, "points": 8, "solution": false}
def test_round_weights():
    bare = Linear(2, 2)
    bare.weight = Tensor([[3.0, 10.0], [0.0, -4.0]])
    check(round_weights(bare, 2).weight.data, [[3, 10], [0, 0]], "marks -1, 0, 1 of each column")
    manual_seed(0)
    model = Sequential(Linear(6, 2), Conv2d(3, 2, 2))
    before = copy.deepcopy(model.state_dict())
    rounded = round_weights(model, {"1": 2})
    check(rounded[1].weight.data, rounded_weight(model[1].weight, 2, 0), "layer 1 at 2 bits")
    check(rounded[0].weight.data, model[0].weight.data, "layer 0 was not asked for")
    check(model[1].weight.data, before["1.weight"].data, "the given model stays as it is")
    ### BEGIN HIDDEN TESTS
    everything = round_weights(model, 3)
    check(everything[0].weight.data, rounded_weight(model[0].weight, 3, 1), "a number: all layers")
    check(everything[0].bias.data, before["0.bias"].data, "biases stay")
    lstm = LSTM(2, 3)
    check(
        round_weights(lstm, 2).weight_hh_l0.data,
        rounded_weight(lstm.weight_hh_l0, 2, 1),
        "an LSTM has several weights: all of them",
    )
    with check_raises(ValueError, "no layer is called ['7']", "the given checks stay"):
        round_weights(model, {"7": 2})
    ### END HIDDEN TESTS


test_round_weights()

# %% [markdown]
r"""
### Exercise 2: stored_bytes

What a weight takes on disk: its numbers packed at `bits` bits without a gap (module 24's `pack_bits`; a byte that is begun counts whole), and a float32 scale for each slice along `axis`. With 32 bits there are no scales.

64 x 10 with 3 bits and axis 1: 1,920 bits are 240 bytes, and 10 scales are 40: 280.

Below it is used on the whole network. And one property of rounding is looked at there, because networks are often thinned out, weights set to 0 and skipped. **Predict**: if the smaller half of a layer's weights are zeros and the layer is rounded to 2, 3, 4 or 8 bits, how many zeros are there afterwards: fewer, as many, more?
"""


# %% nbgrader={"grade": false, "grade_id": "stored-bytes", "locked": false, "solution": true}
#| exporti
def stored_bytes(weight: Tensor, bits: int, axis: int) -> int:
    """The bytes of a weight: packed without a gap, and a float32 scale for each slice along `axis`.

    >>> stored_bytes(Tensor(np.zeros((64, 10))), bits=3, axis=1)
    280
    """
    ### BEGIN SOLUTION
    scales = 0 if bits == FLOAT else 4 * weight.shape[axis]
    return math.ceil(weight.size * bits / 8) + scales
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-stored-bytes", "locked": true, "points": 7, "solution": false}
def test_stored_bytes():
    weight = Tensor(np.zeros((64, 10)))
    check(stored_bytes(weight, 3, 1), 280, "1920 bits, and 10 scales of 4 bytes")
    check(stored_bytes(weight, 32, 1), 2560, "float: 4 bytes each, no scales")
    ### BEGIN HIDDEN TESTS
    check(stored_bytes(weight, 3, 0), 496, "axis 0: 64 scales")
    check(stored_bytes(Tensor(np.zeros((3, 3, 1, 1))), 3, 0), 16, "27 bits begin a fourth byte")
    ### END HIDDEN TESTS


test_stored_bytes()


# %% nbgrader={"grade": false, "grade_id": "layer-bytes", "locked": true, "solution": false}
#| export
def layer_bytes(model: Module, bits: Iterable[int] = WIDTHS) -> dict[str, dict[int, int]]:
    """The bytes of each layer's weights, scales included, at each number of bits.

    Biases and norms, which stay float, are left out.

    >>> layer_bytes(Linear(64, 10), bits=(3, 8, 32))
    {'': {3: 280, 8: 680, 32: 2560}}
    """
    widths = list(bits)
    require_widths(widths, "layer_bytes")
    return {
        name: {
            width: sum(stored_bytes(weight, width, axis) for weight in weights) for width in widths
        }
        for name, (weights, axis) in layer_weights(model, "layer_bytes").items()
    }


# %%
sizes = layer_bytes(network, (2, 3, 4, 8, 32))
print("layer  weights" + "".join(f"{bits:6} bits" for bits in (2, 3, 4, 8, 32)))
for name, row in sizes.items():
    weights = network[int(name)].weight.size
    print(f"{name:>5} {weights:8,}" + "".join(f"{size:11,}" for size in row.values()))
totals = {bits: sum(row[bits] for row in sizes.values()) for bits in (2, 3, 4, 8, 32)}
print(f"{'all':>5} {6848:8,}" + "".join(f"{size:11,}" for size in totals.values()))
sizes = layer_bytes(network)  # from here on: 2, 3, 4 and 8 bits

thinned = copy.deepcopy(network)
weight = thinned[4].weight.data
weight[np.abs(weight) < np.median(np.abs(weight))] = 0
zeros = weight == 0
print(f"zeros before: {zeros.sum():,} of {weight.size:,}")
for bits in (2, 3, 4, 8):
    after = round_weights(thinned, bits)[4].weight.data
    print(f"{bits} bits: {(after == 0).sum():,}; zeros that moved: {(after[zeros] != 0).sum()}")

# %% [markdown]
r"""
Of the first layer's 50 bytes at 2 bits, 32 are scales. Eight bits there take 54 bytes more, of thousands. And zeros never get fewer: 0 is a mark of every symmetric grid, and coarse grids round small weights to it too.

## What a layer costs: measure it

The straight way: round one layer alone, and see how much the **loss** rises. Not the accuracy, which moves in steps of a whole digit and doesn't see a right answer become less sure.

$$c_{l,b} = \mathcal{L}(\ldots, Q_b(W_l), \ldots) - \mathcal{L}(W)$$

It takes one pass over some data for each layer and width, $L \cdot B$ passes, instead of $B^L$. Given is `mean_loss`, in eval mode without recording; the last batch may be smaller, so each counts with its number of samples.
"""


# %% nbgrader={"grade": false, "grade_id": "mean-loss", "locked": true, "solution": false}
#| exporti
def batches_of(data: Iterable[Any], asked: str) -> list[Any]:
    """The batches of (inputs, targets), all of them; an error where there are none."""
    batches = [data] if isinstance(data, Tensor) else list(data)
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            got = type(batch).__name__
            raise TypeError(f"{asked}: expected batches of (inputs, targets), got a {got}")
    if not batches:
        raise ValueError(f"{asked}: the data is empty: give a batch of (inputs, targets)")
    return batches


def mean_loss(model: Module, loss_fn: Callable[..., Tensor], batches: Sequence[Any]) -> float:
    """The loss of an average sample, in eval mode; batches may be of different sizes.

    >>> from tinytorch.nn import Identity, MSELoss
    >>> x, y = Tensor([[0.0], [0.0], [3.0]]), Tensor([[0.0], [0.0], [0.0]])
    >>> mean_loss(Identity(), MSELoss(), [(x[:2], y[:2]), (x[2:], y[2:])])
    3.0
    """
    with evaluating(model):
        losses = [loss_fn(model(x), y).item() * len(y) for x, y in batches]
    return sum(losses) / sum(len(y) for _, y in batches)


# %% [markdown]
r"""
### Exercise 3: sensitivity

Given are the checks, `start` (the loss of the model as it is) and `choices`, all pairs (name, width). Fill `rises`: `{name: {width: rise of the loss}}`, where each time only that one layer is rounded. Loop over `with_bar(choices, "sensitivity", progress)` to have a progress bar.
"""


# %% nbgrader={"grade": false, "grade_id": "sensitivity", "locked": false, "solution": true}
#| export
def sensitivity(
    model: Module,
    loss_fn: Callable[..., Tensor],
    data: Iterable[Any],
    bits: Iterable[int] = WIDTHS,
    progress: bool = True,
) -> dict[str, dict[int, float]]:
    """How much the loss rises when one layer alone is rounded: {layer: {bits: rise}}.

    `data` are batches of (inputs, targets), such as a loader. It is measured in eval mode with the
    weights of `round_weights`. Raises ValueError for no data, and where a loss is no number.

    >>> from tinytorch.nn import MSELoss
    >>> model = Linear(2, 1, bias=False)
    >>> model.weight = Tensor([[1.0], [0.25]])
    >>> x = Tensor([[0.0, 4.0]])
    >>> sensitivity(model, MSELoss(), [(x, Tensor([[1.0]]))], bits=[2], progress=False)
    {'': {2: 1.0}}
    """
    widths, batches = list(bits), batches_of(data, "sensitivity")
    require_widths(widths, "sensitivity")
    layers = layer_weights(model, "sensitivity")
    start = mean_loss(model, loss_fn, batches)
    if not math.isfinite(start):
        raise ValueError(f"sensitivity: the loss of the model as it is is {start}")
    choices = [(name, width) for name in layers for width in widths]
    ### BEGIN SOLUTION
    rises: dict[str, dict[int, float]] = {name: {} for name in layers}
    for name, width in with_bar(choices, "sensitivity", progress):
        rounded = round_weights(model, {name: width})
        rises[name][width] = mean_loss(rounded, loss_fn, batches) - start
    return rises
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-sensitivity", "locked": true, "points": 9, "solution": false}
def test_sensitivity():
    model = Sequential(Linear(2, 1, bias=False), Linear(1, 1, bias=False))
    model[0].weight = Tensor([[1.0], [0.25]])
    model[1].weight = Tensor([[2.0]])
    batches = [(Tensor([[0.0, 4.0]]), Tensor([[2.0]]))]
    rises = sensitivity(model, MSELoss(), batches, bits=[2, 32], progress=False)
    check(rises["0"][2], 4.0, "[1, 0.25] becomes [1, 0]: the result is 0 in place of 2")
    check(rises, {"0": {2: 4.0, 32: 0.0}, "1": {2: 0.0, 32: 0.0}}, "one layer at a time")
    ### BEGIN HIDDEN TESTS
    batches = [(Tensor([[0.0, 4.0]]), Tensor([[1.0]]))]
    rises = sensitivity(model, MSELoss(), batches, bits=[2], progress=False)
    check(rises, {"0": {2: 0.0}, "1": {2: 0.0}}, "how much it rises: less the loss before, 1")
    ### END HIDDEN TESTS


test_sensitivity()

# %% [markdown]
r"""
Measured on 500 training images. Adding these costs over layers assumes that the layers' errors **don't know of one another**. Do they? **Predict** two things: how many of the 16 numbers are negative, that is, where rounding *lowers* the loss; and with all layers rounded at once, is the rise larger or smaller than the sum?
"""

# %%
sample = train_images[:500], train.labels[:500]
measured = sensitivity(network, loss_fn, [sample])
print("layer" + "".join(f"{bits:10} bits" for bits in WIDTHS))
for name, row in measured.items():
    print(f"{name:>5}" + "".join(f"{row[bits]:15.5f}" for bits in WIDTHS))

start = mean_loss(network, loss_fn, [sample])
for bits in (8, 4, 3, 2):
    together = mean_loss(round_weights(network, bits), loss_fn, [sample]) - start
    print(
        f"{bits} bits: sum {sum(row[bits] for row in measured.values()):8.5f}, all at once {together:8.5f}"
    )

# %% [markdown]
r"""
A negative number isn't a discovery but noise: rounding moves the loss a little up or down, and at 8 bits hardly at all.

At 4 bits the sum is of the right size; at 2 bits it is far too small: errors add up in the outputs, and the loss grows faster than the errors. So a sum of costs **ranks** choices, more or less; it doesn't foretell their loss.

## What a layer costs: curvature

Measuring needs a pass for each layer and width. Could one look at the network foretell all widths at once? Expand the loss around the trained weights, with the error $\delta = Q(W) - W$:

$$\mathcal{L}(W + \delta) - \mathcal{L}(W) \approx g^\top \delta + \tfrac{1}{2}\, \delta^\top H \delta$$

After training the gradient $g$ is about 0. What remains is the **Hessian** $H$, the matrix of second derivatives: how steep the valley is in which the weights lie.

```
   loss                          loss
     |  \             /            |   \   /
     |    \         /              |    \ /    the same error
     |      `-...-'                |     V     costs more here
     +----------|---> w            +-----|-----> w
       flat: few bits will do        steep: keep bits
```

For 4,096 weights $H$ has 16.8 million entries. But three steps make it small:

1. For errors that know nothing of $H$, of random signs, what mixes two weights averages out: $E[\delta^\top H \delta] = \sum_i H_{ii}\, \delta_i^2$. Only the **diagonal** counts.
2. Replace each $H_{ii}$ by their mean, trace / n. Then the cost is $\tfrac12\, \overline{H_{ii}}\, \lVert \delta \rVert^2$: curvature of the layer times the squared error of its weights. Up to the half this is the measure of **HAWQ-V2** (Dong et al. 2020).
3. The trace needs no matrix: for a vector $v$ of random signs, $E[v^\top H v]$ **is** the trace (Hutchinson 1990), by the same argument as in 1. And $H v$ comes from differentiating twice: $H v = \nabla_W (g^\top v)$, with $v$ held fixed.

### Exercise 4: hessian_product

`gradients` were made with `create_graph=True`, so they are tensors that can be differentiated again; `direction` holds an array for each weight.

1. `slope`: the sum over all weights of `(g * v).sum()`; leave out gradients that are None. Start the sum with `Tensor(0.0)`.
2. If `slope.requires_grad` is false the gradient doesn't depend on the weights: return `zeros`.
3. `grad(slope, weights, retain_graph=True, allow_unused=True)` is $Hv$, a list; the graph is needed for the next $v$ too. Return the arrays; where an entry is None, its zeros.

For $\sum w^3$ the gradient is $3 w^2$ and the Hessian has $6 w$ on its diagonal: at w = [1, 2] along [1, -1] that is [6, -12].
"""


# %% nbgrader={"grade": false, "grade_id": "hessian-product", "locked": false, "solution": true}
#| exporti
def hessian_product(
    gradients: Sequence[Tensor | None], weights: Sequence[Tensor], direction: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """H v: the second derivatives of a loss along a direction, which has an array for each weight.

    `gradients` are those of the loss, made with create_graph (None: it doesn't depend on a weight).

    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> slope = grad((w**3).sum(), w, create_graph=True)
    >>> hessian_product([slope], [w], [np.float32([1.0, -1.0])])
    [array([  6., -12.], dtype=float32)]
    """
    zeros = [np.zeros_like(v) for v in direction]
    ### BEGIN SOLUTION
    pairs = zip(gradients, direction, strict=True)
    slope = sum(((g * v).sum() for g, v in pairs if g is not None), Tensor(0.0))
    if not slope.requires_grad:  # the gradient is the same everywhere
        return zeros
    products = grad(slope, weights, retain_graph=True, allow_unused=True)
    return [zero if p is None else p.data for p, zero in zip(products, zeros, strict=True)]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-hessian-product", "locked": true, "points": 12, "solution": false}
def test_hessian_product():
    w = Tensor([1.0, 2.0], requires_grad=True)
    slope = grad((w**3).sum(), w, create_graph=True)
    v = np.array([1.0, -1.0], np.float32)
    check(hessian_product([slope], [w], [v])[0], [6.0, -12.0], "6 w v: differentiate 3 w^2 v")
    check(hessian_product([slope], [w], [v])[0], [6.0, -12.0], "again: the graph must stay")
    ### BEGIN HIDDEN TESTS
    a, b = (Tensor(x, requires_grad=True) for x in ([1.0, 2.0], [3.0]))
    gradients = grad((a.sum() * b * b).sum(), [a, b], create_graph=True)
    product = hessian_product(gradients, [a, b], [v * 0, np.array([1.0], np.float32)])
    check(product[0], [6.0, 6.0], "weights mix: the derivative by a of (dL/db) v is 2 b")
    check(product[1], [6.0], "twice by b: 2 sum(a)")
    [unused] = grad((a * 3).sum(), [a], create_graph=True)
    check(hessian_product([unused], [a], [v])[0], [0.0, 0.0], "a straight line has no curvature")
    product = hessian_product([None, slope], [b, w], [b.data, v])
    check(product[0], [0.0], "None: the loss doesn't depend on it")
    ### END HIDDEN TESTS


test_hessian_product()

# %% [markdown]
r"""
### Exercise 5: trace_sample

One sample for all weights at once: draw a `direction` for each weight with `random.choice([-1.0, 1.0], shape)` in the weight's dtype, get the products, and return for each weight the float $\sum v \cdot (Hv)$, summed over that weight's own numbers. What different weights share, $v_i^\top H_{ij} v_j$, has random signs and averages out.

What follows the test is given: many samples, their mean for each layer divided by its number of weights, and the **standard error** of that mean, so that you know how far to trust it.
"""


# %% nbgrader={"grade": false, "grade_id": "trace-sample", "locked": false, "solution": true}
#| exporti
def trace_sample(
    gradients: Sequence[Tensor | None], weights: Sequence[Tensor], random: np.random.Generator
) -> list[float]:
    """For each weight v (H v) summed over its numbers, with all numbers of v -1 or 1 at random."""
    ### BEGIN SOLUTION
    direction = [random.choice([-1.0, 1.0], w.shape).astype(w.dtype) for w in weights]
    products = hessian_product(gradients, weights, direction)
    return [float((v * hv).sum()) for v, hv in zip(direction, products, strict=True)]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-trace-sample", "locked": true, "points": 9, "solution": false}
def test_trace_sample():
    w = Tensor([1.0, 2.0], requires_grad=True)
    slope = grad((w**3).sum(), w, create_graph=True)
    random = np.random.default_rng(0)
    samples = [trace_sample([slope], [w], random)[0] for _ in range(5)]
    check(samples, [18.0] * 5, "a diagonal H: v H v is the trace, whatever the signs")
    ### BEGIN HIDDEN TESTS
    slope = grad(w.sum() ** 2 / 2, w, create_graph=True)  # H is full of ones
    samples = {trace_sample([slope], [w], random)[0] for _ in range(50)}
    check(samples, {0.0, 4.0}, "off the diagonal signs must differ: 2 + 2 or 2 - 2")
    b = Tensor([[1.0], [1.0], [2.0]], requires_grad=True)
    gradients = grad((w**2).sum() + (b**3).sum(), [w, b], create_graph=True)
    check(trace_sample(gradients, [w, b], random), [4.0, 24.0], "a number for each weight")
    ### END HIDDEN TESTS


test_trace_sample()


# %% nbgrader={"grade": false, "grade_id": "hessian-traces", "locked": true, "solution": false}
#| export
class HessianTrace(NamedTuple):
    """The mean of a layer's second derivatives (the diagonal), and its standard error."""

    mean: float
    error: float


def hessian_traces(
    model: Module,
    loss_fn: Callable[..., Tensor],
    x: Any,
    y: Any,
    samples: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, HessianTrace]:
    """The mean second derivative of the loss by the weights of each layer, estimated.

    Hutchinson's estimator: v H v with random signs v has the trace of H as its mean. One v for all
    layers: what they share averages out. In eval mode, on one batch. (HAWQ-V2, Dong et al. 2020.)

    >>> from tinytorch.nn import MSELoss
    >>> x, y = Tensor([[3.0, 0.0]]), Tensor([[0.0]])
    >>> hessian_traces(Linear(2, 1), MSELoss(), x, y, progress=False)
    {'': HessianTrace(mean=9.0, error=0.0)}
    """
    if samples < 2:
        raise ValueError(f"hessian_traces: needs 2 samples or more, got {samples}")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    layers = layer_weights(model, "hessian_traces")
    weights = [weight for layer in layers.values() for weight in layer.tensors]
    for weight in weights:
        weight.requires_grad = True
    random = np.random.default_rng(seed)
    with enable_grad():
        loss = loss_fn(model(x), y)
        if not math.isfinite(loss.item()):
            raise ValueError(f"hessian_traces: the loss is {loss.item()}")
        gradients = grad(loss, weights, create_graph=True, allow_unused=True)
        rounds = with_bar(range(samples), "Hessian traces", progress)
        table = np.array([trace_sample(gradients, weights, random) for _ in rounds])
    traces, first = {}, 0
    for name, layer in layers.items():
        last = first + len(layer.tensors)
        means = table[:, first:last].sum(axis=1) / sum(w.size for w in layer.tensors)
        error = means.std(ddof=1) / math.sqrt(samples)
        traces[name], first = HessianTrace(float(means.mean()), float(error)), last
    return traces


# %% [markdown]
r"""
Is it right? On a network of 42 weights the whole Hessian can be had, column by column. **Predict** how the error falls from 10 to 1,000 samples.
"""

# %%
manual_seed(1)
tiny = Sequential(Linear(4, 6), Tanh(), Linear(6, 3))
random = np.random.default_rng(0)
x = Tensor(random.standard_normal((30, 4)))
y = Tensor(x.data[:, :3].argmax(axis=1), dtype=int)
weights = [tiny[0].weight, tiny[2].weight]
gradients = grad(loss_fn(tiny(x), y), weights, create_graph=True)
shapes = [w.shape for w in weights]


def column(i: int) -> np.ndarray:
    """Column i of the Hessian: the product with a unit vector."""
    unit = np.eye(42, dtype=np.float32)[i]
    parts = [part.reshape(s) for part, s in zip(np.split(unit, [24]), shapes, strict=True)]
    return np.concatenate([p.reshape(-1) for p in hessian_product(gradients, weights, parts)])


hessian = np.array([column(i) for i in range(42)])
diagonal = hessian.diagonal()
print(f"symmetric to {np.abs(hessian - hessian.T).max():.0e}")
print(f"exact means of the diagonal: {diagonal[:24].mean():.4f} and {diagonal[24:].mean():.4f}")
for samples in (10, 100, 1000):
    found = hessian_traces(tiny, loss_fn, x, y, samples=samples, progress=False)
    print(
        f"{samples:5} samples: "
        + ", ".join(f"{t.mean:.4f} +- {t.error:.4f}" for t in found.values())
    )

# %% [markdown]
r"""
A hundred times the samples for a tenth of the error. For ranking layers whose curvatures differ by factors of ten, some dozens will do.

### Exercise 6: hessian_costs

Given are checked `traces`, the loops, `weights` (a list of Tensors) and their `axis`. Set `costs[name][width]` to half of trace mean times the squared error $\lVert Q(W) - W \rVert^2$, summed over all the layer's weights, in float64. An estimate may be negative; that would *reward* errors, so take 0 then.

The weight [1, 0.25] at 2 bits becomes [1, 0]: squared error 0.0625. With a mean trace of 8 it costs 0.25.
"""


# %% nbgrader={"grade": false, "grade_id": "hessian-costs", "locked": false, "solution": true}
#| export
def hessian_costs(
    model: Module, traces: Mapping[str, HessianTrace], bits: Iterable[int] = WIDTHS
) -> dict[str, dict[int, float]]:
    """What curvature expects of rounding a layer: mean trace x |Q(W) - W|^2 / 2, by layer and bits.

    The rise of the loss at a minimum, if the errors know nothing of the curvature: half of the
    measure of HAWQ-V2 (Dong et al. 2020), so that it compares with `sensitivity`. A negative trace
    counts as 0.

    >>> model = Linear(2, 1)
    >>> model.weight = Tensor([[1.0], [0.25]])
    >>> hessian_costs(model, {"": HessianTrace(8.0, 0.1)}, bits=[2, 32])
    {'': {2: 0.25, 32: 0.0}}
    """
    widths, layers = list(bits), layer_weights(model, "hessian_costs")
    require_widths(widths, "hessian_costs")
    require_layers(traces, layers, "hessian_costs")
    costs: dict[str, dict[int, float]] = {name: {} for name in traces}
    for name, trace in traces.items():
        weights, axis = layers[name]
        for width in widths:
            ### BEGIN SOLUTION
            errors = [rounded_weight(w, width, axis) - w.data.astype(np.float64) for w in weights]
            distance = sum(float((error**2).sum()) for error in errors)
            costs[name][width] = max(trace.mean, 0.0) * distance / 2
            ### END SOLUTION
    return costs


# %% nbgrader={"grade": true, "grade_id": "test-hessian-costs", "locked": true, "points": 9, "solution": false}
def test_hessian_costs():
    model = Linear(2, 1)
    model.weight = Tensor([[1.0], [0.25]])
    costs = hessian_costs(model, {"": HessianTrace(8.0, 0.1)}, bits=[2, 32])
    check(costs, {"": {2: 0.25, 32: 0.0}}, "8 x 0.25^2 / 2")
    costs = hessian_costs(model, {"": HessianTrace(-8.0, 0.1)}, bits=[2])
    check(costs, {"": {2: 0.0}}, "a negative trace counts as 0")
    ### BEGIN HIDDEN TESTS
    lstm = LSTM(1, 1)
    lstm.weight_ih_l0 = Tensor([[1.0, 1.0, 1.0, 1.0]])
    lstm.weight_hh_l0 = Tensor([[2.0, 2.0, 2.0, 2.0]])
    check(hessian_costs(lstm, {"": HessianTrace(1.0, 0.0)}, [2])[""][2], 0.0, "no error, no cost")
    embedding = Embedding(1, 3)
    embedding.weight = Tensor([[1.0, 0.4, -0.2]])
    right = 3.0 * (0.4**2 + 0.2**2) / 2
    check(
        hessian_costs(embedding, {"": HessianTrace(3.0, 0.0)}, [2])[""][2], right, "squares add up"
    )
    deep = LSTM(2, 1)
    deep.weight_ih_l0 = Tensor([[1.0] * 4, [0.25] * 4])
    deep.weight_hh_l0 = Tensor([[1.0] * 4])
    check(hessian_costs(deep, {"": HessianTrace(1.0, 0.0)}, [2])[""][2], 0.125, "all weights count")
    ### END HIDDEN TESTS


test_hessian_costs()

# %%
traces = hessian_traces(network, loss_fn, sample[0][:256], sample[1][:256], samples=40)
curved = hessian_costs(network, traces)
for name, trace in traces.items():
    print(f"layer {name:>2}: mean second derivative {trace.mean:.4f} +- {trace.error:.4f}")
print("\nrise of the loss, measured (by curvature)")
for name in traces:
    row = [f"{measured[name][b]:9.5f} ({curved[name][b]:.5f})" for b in WIDTHS]
    print(f"{name:>5}" + "".join(row))

# %% [markdown]
r"""
The small layers are the steep ones, and nobody told the estimate so. At 3 and 4 bits it is of the right order. At 2 bits it is too small by factors, and it **ranks** the layers differently: read off which layer each of the two calls the worst.

What went wrong: is an error at 2 bits no small step any more (then the expansion fails), or is a rounding error not random (then step 1 fails)? An experiment separates the two. Keep each error's size and throw the dice for its sign: **predict** which of the two columns these errors will agree with, at 4 bits and at 2.
"""

# %%
random = np.random.default_rng(0)
print("layer  bits   measured   random signs  (+-)       by curvature")
for name, width in itertools.product(traces, (4, 2)):
    [weight] = layer_weights(network, "")[name].tensors
    moved = round_weights(network, {name: width})
    [target] = layer_weights(moved, "")[name].tensors
    error, rises = target.data - weight.data, []
    for _ in range(6):
        target.data[...] = weight.data + error * random.choice([-1.0, 1.0], error.shape)
        rises.append(mean_loss(moved, loss_fn, [sample]) - start)
    spread = np.std(rises, ddof=1) / len(rises) ** 0.5
    print(
        f"{name:>5} {width:5} {measured[name][width]:10.5f} {np.mean(rises):14.5f} ({spread:.5f}) "
        f"{curved[name][width]:14.5f}"
    )

# %% [markdown]
r"""
Both. At 4 bits random errors cost what curvature says, to within their spread; at 2 bits they cost far more: the step is too long for a parabola. And at either width the error that rounding makes is **one** error, not an average over dice: luckier or less lucky than random ones of its size. Curvature can't know; measuring does.

## Spending a budget

Now each layer has a table of sizes and one of costs. The best choice under a budget is an **integer programme**: with $x_{l,b} = 1$ if layer $l$ gets $b$ bits,

$$\min \sum_{l,b} c_{l,b}\, x_{l,b} \quad \text{where} \quad \sum_b x_{l,b} = 1 \text{ for each } l, \qquad \sum_{l,b} s_{l,b}\, x_{l,b} \le \text{budget}, \qquad x_{l,b} \in \{0, 1\}$$

Why not simply be greedy, and buy again and again what saves most cost for a byte? Let there be 100 bytes to spend, and three layers: 8 bits save a cost of 1.0 for 60 bytes in the first, 0.7 for 50 bytes in each of the others. Greed buys the first, and the 40 bytes left are worth nothing; the two others together would have saved 1.4.

SciPy's `milp` (the solver HiGHS) searches cleverly and proves that nothing is better. But it works in floating point: it calls a solution the best if its cost is within a **tolerance** of about 1e-6, absolutely. And costs of networks are small. Give it the curvature's costs of 8 to 16 bits as they are, with a budget of 10 bits each, and then in other units. **Predict**: is the answer the same?
"""

# %%
from scipy.optimize import Bounds, LinearConstraint, milp

fine = (8, 10, 12, 16)
fine_costs, fine_sizes = hessian_costs(network, traces, fine), layer_bytes(network, fine)
fine_budget = sum(row[10] for row in fine_sizes.values())
c = np.array([row[b] for row in fine_costs.values() for b in fine])
s = np.array([row[b] for row in fine_sizes.values() for b in fine])
one = np.kron(np.eye(4), np.ones(4))  # row l picks the four choices of layer l
constraints = [LinearConstraint(one, 1, 1), LinearConstraint(s, -np.inf, fine_budget)]
for factor in (1, 1e6 / c.max()):
    x = milp(c * factor, integrality=1, bounds=Bounds(0, 1), constraints=constraints).x > 0.5
    print(
        f"costs times {factor:.3g}: bits {[fine[i % 4] for i in np.flatnonzero(x)]}, cost {c[x].sum():.2e}"
    )

# %% [markdown]
r"""
The same programme, costs in other units, another answer. A solver's tolerance is absolute; your numbers must be of a size that it sees.

### Exercise 7: programme

`choices` is a flat list of `Choice(layer, bits, cost, size)`; `layers`, the names in order, is given. Return three arrays:

1. costs: less the least cost of the choice's own layer, and then scaled so that the largest is 1e6 (if all are 0, leave them);
2. sizes, scaled so that the budget is 1000;
3. the matrix with a row for each layer and a column for each choice: 1 where the choice is the layer's, else 0, as integers.

The solving, below, is given. One thing in it is worth reading: sizes have their tolerance too, and a solution that takes a few bytes more than the budget may come back. It is then forbidden, by one more row of the programme, and the solver asked again.
"""


# %% nbgrader={"grade": false, "grade_id": "choices", "locked": true, "solution": false}
#| exporti
class Choice(NamedTuple):
    """One layer at one number of bits."""

    layer: str
    bits: int
    cost: float
    size: int


Table = Mapping[str, Mapping[int, Any]]


def all_choices(costs: Table, sizes: Table, asked: str) -> list[Choice]:
    """Every layer at every number of bits; ValueError where costs and sizes make no sense."""
    if not costs:
        raise ValueError(f"{asked}: costs are empty: there is no layer to choose for")
    require_layers(costs, sizes, f"{asked}: sizes")
    require_layers(sizes, costs, f"{asked}: costs")
    for layer, row in costs.items():
        if not row or set(row) != set(sizes[layer]):
            both = f"costs have bits {list(row)}, sizes {list(sizes[layer])}"
            raise ValueError(f"{asked}: {both} of layer {layer!r}")
        for bits, cost in row.items():
            if not (math.isfinite(cost) and 0 < sizes[layer][bits] < math.inf):
                got = f"cost {cost} and size {sizes[layer][bits]}"
                raise ValueError(f"{asked}: layer {layer!r} at {bits} bits has {got}")
    return [Choice(n, b, row[b], sizes[n][b]) for n, row in costs.items() for b in row]


def choice_total(table: Table, bits: Mapping[str, int]) -> Any:
    """The sum over layers of a table of costs or sizes, at the bits chosen.

    >>> choice_total({"a": {2: 10, 4: 20}, "b": {2: 1, 4: 2}}, {"a": 4, "b": 2})
    21
    """
    return sum(table[name][width] for name, width in bits.items())


# %% nbgrader={"grade": false, "grade_id": "programme", "locked": false, "solution": true}
#| exporti
def programme(choices: Sequence[Choice], budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of the integer programme: costs c, sizes s, and which choice is of which layer.

    To minimise c x for x of 0 and 1, where s x is at most 1000 and each row of the third times x is
    1. Costs are counted from each layer's least, and the largest is a million: a solver's tolerance
    is 1e-6, and costs of networks are often smaller.

    >>> a, b = Choice("a", 2, 0.5, 10), Choice("a", 4, 0.1, 20)
    >>> c, s, one = programme([a, b, Choice("b", 2, 0.3, 30)], budget=50)
    >>> c, s, one.tolist()
    (array([1000000.,       0.,       0.]), array([200., 400., 600.]), [[1, 1, 0], [0, 0, 1]])
    """
    layers = list(dict.fromkeys(choice.layer for choice in choices))
    ### BEGIN SOLUTION
    one = np.array([[int(choice.layer == name) for choice in choices] for name in layers])
    least = {n: min(choice.cost for choice in choices if choice.layer == n) for n in layers}
    costs = np.array([choice.cost - least[choice.layer] for choice in choices])
    sizes = np.array([choice.size for choice in choices]) * (1000 / budget)
    return costs * (1e6 / (costs.max() or 1.0)), sizes, one
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-programme", "locked": true, "points": 10, "solution": false}
def test_programme():
    choices = [Choice("a", 2, 0.5, 10), Choice("a", 4, 0.1, 20), Choice("b", 2, 0.3, 30)]
    cost, size, one = programme(choices, budget=50)
    check(one, np.array([[1, 1, 0], [0, 0, 1]]), "a row for each layer, in order")
    check(size, [200.0, 400.0, 600.0], "the budget, 50, is 1000")
    check(cost, [1e6, 0.0, 0.0], "less the layer's least; the largest is a million")
    ### BEGIN HIDDEN TESTS
    cost, _, _ = programme([Choice("a", 2, -1e-9, 1), Choice("a", 4, -3e-9, 2)], 2)
    check(cost, [1e6, 0.0], "negative costs are no special case")
    cost, _, _ = programme([Choice("a", 2, 0.0, 1), Choice("b", 4, 0.25, 2)], 3)
    check(cost, [0.0, 0.0], "no layer has a choice: all are 0")
    mixed = [
        Choice("b", 2, 4.0, 1),
        Choice("a", 2, 5.0, 1),
        Choice("b", 4, 2.0, 2),
        Choice("a", 4, 4.0, 2),
    ]
    check(programme(mixed, 10)[0], [1e6, 0.0 + 5e5, 0.0, 0.0], "each layer's own least")
    ### END HIDDEN TESTS


test_programme()


# %% nbgrader={"grade": false, "grade_id": "allocate-bits", "locked": true, "solution": false}
#| export
def allocate_bits(costs: Table, sizes: Table, budget: int) -> dict[str, int]:
    """The bits of each layer that cost least in all, in `budget` bytes or fewer.

    `costs` and `sizes` are {layer: {bits: number}}, as `sensitivity`, `hessian_costs` and
    `layer_bytes` give them. An integer programme, solved by SciPy's HiGHS (the extra `search`).
    Raises ValueError where nothing fits the budget.

    >>> costs = {"a": {2: 0.9, 8: 0.0}, "b": {2: 0.5, 8: 0.0}}
    >>> sizes = {"a": {2: 100, 8: 400}, "b": {2: 10, 8: 40}}
    >>> allocate_bits(costs, sizes, budget=420), allocate_bits(costs, sizes, budget=409)
    ({'a': 8, 'b': 2}, {'a': 2, 'b': 8})
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError:
        raise ImportError("allocate_bits needs SciPy: pip install 'tinytorch[search]'") from None
    choices = all_choices(costs, sizes, "allocate_bits")
    smallest = sum(min(row.values()) for row in sizes.values())
    if not budget >= smallest:
        raise ValueError(
            f"allocate_bits: a budget of {budget} bytes, the smallest choice takes {smallest}"
        )
    cost, size, one = programme(choices, budget)
    exact = {"mip_rel_gap": 0}
    constraints = [LinearConstraint(one, 1, 1), LinearConstraint(size, -np.inf, 1000)]
    while True:
        found = milp(
            cost, integrality=1, bounds=Bounds(0, 1), constraints=constraints, options=exact
        )
        if found.x is None:
            raise RuntimeError(f"allocate_bits: no solution: {found.message}")
        taken = found.x > 0.5
        bits = {choices[i].layer: choices[i].bits for i in np.flatnonzero(taken)}
        if choice_total(sizes, bits) <= budget:
            return bits
        # a few bytes over, within the solver's tolerance: anything but this
        constraints.append(LinearConstraint(taken.astype(float), -np.inf, len(bits) - 1))


# %%
for budget in (2500, 3000):
    fits = [
        bits
        for widths in itertools.product(WIDTHS, repeat=4)
        for bits in [dict(zip(measured, widths, strict=True))]
        if choice_total(sizes, bits) <= budget
    ]
    best = min(fits, key=lambda bits: choice_total(measured, bits))
    print(
        f"{len(fits)} of 256 choices fit into {budget:,} bytes; the cheapest, as measured: {best}"
    )
    for title, costs in {"measured": measured, "by curvature": curved}.items():
        bits = allocate_bits(costs, sizes, budget)
        size, score = choice_total(sizes, bits), accuracy(round_weights(network, bits))
        print(f"  allocated, {title:12}: {bits}, {size:,} bytes, accuracy {score:.3f}")
for bits in (3, 4):
    score = accuracy(round_weights(network, bits))
    print(f"{bits} bits everywhere: {totals[bits]:,} bytes, accuracy {score:.3f}")
with check_raises(ValueError, "the smallest choice takes 2026", "a budget can be too small"):
    allocate_bits(measured, sizes, 1000)

# %% [markdown]
r"""
### Exercise 8: pareto_curve

Often there is no budget, but a question: what do I get for how many bytes? A choice is worth showing if no other is smaller *and* costs less: together these are the **Pareto curve**.

It can be built layer by layer. If half a choice, of the first layers, takes more bytes and costs more than another half, then whatever follows, so does the whole: it can be dropped at once. `curve` holds what is left of the layers so far; for the next `layer`

1. `candidates`: each point of `curve` with each of the layer's `choices`: bytes and costs added, and the layer's bits put into a new dict;
2. sort them by bytes, then cost; keep a candidate only if it costs **less** than all kept before it.
"""


# %% nbgrader={"grade": false, "grade_id": "pareto-curve", "locked": false, "solution": true}
#| export
class ParetoPoint(NamedTuple):
    """A choice of bits that no other choice beats in both bytes and cost."""

    bytes: int
    cost: float
    bits: dict[str, int]


def pareto_curve(costs: Table, sizes: Table) -> list[ParetoPoint]:
    """All choices worth having, the smallest first: each is the cheapest of its size or smaller.

    Exact: layer by layer, what is beaten among the choices so far can't be part of a winner.

    >>> costs = {"a": {2: 0.75, 8: 0.0}, "b": {2: 0.5, 8: 0.0}}
    >>> sizes = {"a": {2: 100, 8: 400}, "b": {2: 10, 8: 40}}
    >>> [(point.bytes, point.cost) for point in pareto_curve(costs, sizes)]
    [(110, 1.25), (140, 0.75), (410, 0.5), (440, 0.0)]
    """
    choices = all_choices(costs, sizes, "pareto_curve")
    curve = [ParetoPoint(0, 0.0, {})]
    for layer in costs:
        ### BEGIN SOLUTION
        row = [choice for choice in choices if choice.layer == layer]
        candidates = [
            ParetoPoint(p.bytes + c.size, p.cost + c.cost, {**p.bits, layer: c.bits})
            for p in curve
            for c in row
        ]
        curve = []
        for point in sorted(candidates, key=lambda point: point[:2]):
            if not curve or point.cost < curve[-1].cost:
                curve.append(point)
        ### END SOLUTION
    return curve


# %% nbgrader={"grade": true, "grade_id": "test-pareto-curve", "locked": true, "points": 10, "solution": false}
def test_pareto_curve():
    costs = {"a": {2: 0.75, 8: 0.0}, "b": {2: 0.5, 8: 0.0}}
    table = {"a": {2: 100, 8: 400}, "b": {2: 10, 8: 40}}
    curve = pareto_curve(costs, table)
    found = [(point.bytes, point.cost) for point in curve]
    check(
        found, [(110, 1.25), (140, 0.75), (410, 0.5), (440, 0.0)], "four choices, all worth having"
    )
    check(curve[1].bits, {"a": 2, "b": 8}, "which choice it was")
    ### BEGIN HIDDEN TESTS
    costs = {"a": {2: 1.0, 4: 0.5, 8: 0.5}, "b": {2: 0.0, 8: 0.0}}
    table = {"a": {2: 2, 4: 4, 8: 8}, "b": {2: 2, 8: 8}}
    found = [(point.bytes, point.cost) for point in pareto_curve(costs, table)]
    check(found, [(4, 1.0), (6, 0.5)], "more bytes for an equal cost aren't worth it")
    costs, table = {"a": {2: 0.1, 4: 0.3}}, {"a": {2: 10, 4: 20}}
    check(len(pareto_curve(costs, table)), 1, "nobody wants more bytes at more cost")
    costs, table = {"a": {2: 0.5, 3: 0.2}}, {"a": {2: 10, 3: 10}}
    check(pareto_curve(costs, table)[0].bits, {"a": 3}, "of equal bytes, the cheaper")
    ### END HIDDEN TESTS


test_pareto_curve()

# %% [markdown]
r"""
## Put together: the whole curve

With four layers, you can do what nobody can with forty: try **all** 256 choices on the test digits, and see how good the two curves really are. Each point of a curve was chosen without a look at the test digits.

A measure ranks choices well if its **rank correlation** with the true rises of the loss is near 1. **Predict** it for three measures: the sum of measured rises, the sum of curvature's, and the mere number of bytes (fewer bytes, more loss).
"""

# %%
curves = {"measured": pareto_curve(measured, sizes), "by curvature": pareto_curve(curved, sizes)}


def on_test_digits(model) -> tuple[float, float]:
    """The loss on the test digits, and the share read right."""
    with no_grad():
        outputs = model(test_images)
    right = float((outputs.data.argmax(axis=1) == test.labels.data).mean())
    return loss_fn(outputs, test.labels).item(), right


results, float_loss = {}, on_test_digits(network)[0]
for widths in with_bar(list(itertools.product(WIDTHS, repeat=4)), "all choices", True):
    bits = dict(zip(sizes, widths, strict=True))
    loss, score = on_test_digits(round_weights(network, bits))
    results[widths] = choice_total(sizes, bits), loss - float_loss, score

for title, curve in curves.items():
    print(f"\n{title}: bits of layers {', '.join(sizes)}")
    for point in curve[:: max(1, len(curve) // 7)]:
        widths = tuple(point.bits.values())
        _, rise, score = results[widths]
        print(
            f"  {point.bytes:5,} bytes {widths}: expected {point.cost:7.4f}, loss rose {rise:7.4f}, accuracy {score:.3f}"
        )
print("\nuniform")
for bits in WIDTHS:
    size, rise, score = results[(bits,) * 4]
    print(f"  {size:5,} bytes {(bits,) * 4}: loss rose {rise:7.4f}, accuracy {score:.3f}")


def ranks(values) -> np.ndarray:
    """The place of each value in the sorted list."""
    return np.argsort(np.argsort(values))


rises = np.array([rise for _, rise, _ in results.values()])
print()
guesses = {
    "measured": [choice_total(measured, dict(zip(sizes, w, strict=True))) for w in results],
    "by curvature": [choice_total(curved, dict(zip(sizes, w, strict=True))) for w in results],
    "fewer bytes": [-size for size, _, _ in results.values()],
}
for title, guess in guesses.items():
    print(f"{title:13} rank correlation {np.corrcoef(ranks(guess), ranks(rises))[0, 1]:.3f}")

# %%
if plt:
    figure, axes = plt.subplots(1, 2, figsize=(12, 4))
    for axis, column_number, label in ((axes[0], 2, "accuracy"), (axes[1], 1, "rise of the loss")):
        points = np.array(list(results.values()))
        axis.plot(points[:, 0], points[:, column_number], ".", color="0.8", label="all choices")
        for (title, curve), line in zip(curves.items(), ("k-", "k--"), strict=True):
            found = [results[tuple(point.bits.values())] for point in curve]
            axis.plot([f[0] for f in found], [f[column_number] for f in found], line, label=title)
        uniform = [results[(bits,) * 4] for bits in WIDTHS]
        axis.plot(
            [u[0] for u in uniform], [u[column_number] for u in uniform], "ks", label="uniform"
        )
        axis.set(xlabel="weights and scales (bytes)", ylabel=label, title=f"Bytes against {label}")
    axes[1].set_yscale("log")
    axes[0].legend()
    plt.show()

# %% [markdown]
r"""
Measuring ranks best, also on digits that it never saw. Curvature comes after it and is far better than counting bytes, although it was wrong about 2 bits: it knew of steep and flat layers, and that is most of the story. And against uniform widths: look for a point that is smaller than 4 bits everywhere and at least as good, and see how much better than 2 bits everywhere a hundred bytes more can be.

Are the bytes real? Pack one choice as module 24 does, write it to a file with the scales, and compute with what the file holds.
"""

# %%
bits = allocate_bits(measured, sizes, 3000)
stored = {}
for name, (tensors, axis) in layer_weights(network, "").items():
    q, scale, _ = quantize_bits(tensors[0].detach(), bits[name], symmetric=True, axis=axis)
    stored[f"{name}.packed"] = pack_bits(q, bits[name])
    stored[f"{name}.scale"] = scale.astype(np.float32)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "mixed.safetensors"
    save_file(stored, path)
    loaded, on_disk = load_file(path), path.stat().st_size
payload = sum(array.nbytes for array in loaded.values())
print(
    f"{bits}: {payload:,} bytes, foretold {choice_total(sizes, bits):,}; the file has {on_disk:,}"
)

restored = copy.deepcopy(network)
for name, (tensors, axis) in layer_weights(restored, "").items():
    marks = unpack_bits(loaded[f"{name}.packed"], bits[name], tensors[0].size)
    marks = Tensor._wrap(marks.reshape(tensors[0].shape))
    scale = loaded[f"{name}.scale"]
    tensors[0].data[...] = dequantize_bits(marks, scale, np.zeros(len(scale)), axis).data
print(
    f"from the file: accuracy {accuracy(restored):.3f}; float32 takes {totals[32]:,} bytes: {accuracy(network):.3f}"
)

# %% [markdown]
r"""
## Without any data

Rounding *weights* needs no data. Rounding **activations** does: their grids come from what passes while the network sees some inputs. What if the data is private and only the network was given to you?

A network with batch norms hasn't forgotten its data: `running_mean` and `running_var` say what reached each norm in training, channel by channel. **ZeroQ** (Cai et al. 2020) makes up inputs that agree with that: it starts with Gaussian noise and moves the *pixels* by gradient descent until the batch's statistics at every norm are the remembered ones.

$$\text{gap}(x) = \sum_{i} \frac{1}{C_i} \left( \lVert \mu_i(x) - \mu_i \rVert^2 + \lVert \sigma_i(x) - \sigma_i \rVert^2 \right)$$

The sum goes over the batch norms, and over the input itself, which is wanted with mean 0 and deviation 1. One term of the sum is given, `moments_gap`.
"""


# %% nbgrader={"grade": false, "grade_id": "channel-moments", "locked": true, "solution": false}
#| exporti
def channel_moments(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The mean of each channel, axis 1, and its standard deviation, sqrt(variance + eps)."""
    axes = other_axes(x.ndim, 1)
    return x.mean(axis=axes), (x.var(axis=axes, correction=1) + eps) ** 0.5


def moments_gap(x: Tensor, mean: Any, deviation: Any, eps: float = 1e-5) -> Tensor:
    """The squared distance of a batch's means and deviations from others, averaged over channels.

    >>> moments_gap(Tensor([[1.0], [3.0]]), mean=0.0, deviation=2.0**0.5, eps=0.0)
    Tensor(4.)
    """
    own_mean, own_deviation = channel_moments(x, eps)
    return ((own_mean - mean) ** 2).mean() + ((own_deviation - deviation) ** 2).mean()


# %% [markdown]
r"""
### Exercise 9: norms_gap

The whole sum. What reaches a norm is caught by a hook: `norm.register_forward_pre_hook(f)` calls `f(norm, inputs)` before each forward (`inputs` is a tuple) and returns a handle whose `remove()` must be called even if the model fails.

1. Hook all `norms`, run the model on `x`, remove the hooks.
2. Start with the gap of `x` itself from mean 0 and deviation 1, and add for each norm that was reached the gap of its input from `norm.running_mean` and `(norm.running_var + norm.eps) ** 0.5`, with `norm.eps`: `moments_gap(inputs, mean, deviation, eps)`.
"""


# %% nbgrader={"grade": false, "grade_id": "norms-gap", "locked": false, "solution": true}
#| exporti
def norms_gap(model: Module, norms: Sequence[Any], x: Tensor) -> Tensor:
    """How far x is from the training data, as the batch norms remember it.

    The gap at each batch norm's input from its running statistics, and of x from means of 0 and
    deviations of 1, added up. (ZeroQ, Cai et al. 2020, equation 3.)
    """
    ### BEGIN SOLUTION
    reached: list[tuple[Any, Tensor]] = []
    hooks = [
        norm.register_forward_pre_hook(lambda norm, inputs: reached.append((norm, inputs[0])))
        for norm in norms
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    gap = moments_gap(x, 0.0, 1.0)
    for norm, inputs in reached:
        deviation = (norm.running_var + norm.eps) ** 0.5
        gap = gap + moments_gap(inputs, norm.running_mean, deviation, norm.eps)
    return gap
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-norms-gap", "locked": true, "points": 9, "solution": false}
def test_norms_gap():
    norm = BatchNorm1d(1, eps=0.0).eval()
    x = Tensor([[-1.0], [1.0]]) * 0.5**0.5  # mean 0, deviation 1
    norm.running_mean.data[:] = 3.0
    check(norms_gap(norm, [norm], x), 9.0, "mean 0 in place of 3", 1e-4)
    check(norms_gap(norm, [norm], x + 1), 5.0, "x has mean 1: 1 for itself, 4 at the norm", 1e-4)
    ### BEGIN HIDDEN TESTS
    check(len(norm._forward_pre_hooks), 0, "hooks must be removed")
    first, second = (BatchNorm1d(1, eps=0.0).eval() for _ in range(2))
    first.running_var.data[:] = 4.0
    model = Sequential(first, second)
    check(norms_gap(model, [first, second], x), 1.25, "deviations 1 for 2, and 1/2 for 1", 1e-4)
    with check_raises(ValueError, "expected (N, 1)", "an error of the model comes through"):
        norms_gap(norm, [norm], Tensor([[1.0, 2.0]]))
    check(len(norm._forward_pre_hooks), 0, "hooks must be removed after an error too")
    wide = BatchNorm1d(1, eps=3.0).eval()
    check(norms_gap(wide, [wide], x), 0.0, "eps on both sides", 1e-4)
    ### END HIDDEN TESTS


test_norms_gap()

# %% [markdown]
r"""
### Exercise 10: distill_inputs

Given: a frozen copy of the model, the noise `x`, which requires a gradient, and an Adam whose only parameter is `x`. Write one step: forget the old gradient, `with enable_grad():` compute the gap and go backward, then let the optimizer step.

Then 64 images are made up for the network, and the gaps compared: of real images, of distilled ones, of plain noise. **Predict** the order, and what the distilled images look like.
"""


# %% nbgrader={"grade": false, "grade_id": "distill-inputs", "locked": false, "solution": true}
#| export
def distill_inputs(
    model: Module,
    shape: Sequence[int],
    steps: int = 200,
    lr: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """Inputs made up from what a model's batch norms remember: (N, C, ...), without any data.

    Starts as standard normal noise, the inputs' scale if the model was trained on normalised data,
    and is moved by Adam so that its mean and variance at each batch norm are the running ones. For
    calibration where no data may be had. (ZeroQ, Cai et al. 2020.)

    >>> model = BatchNorm1d(2).eval()
    >>> model.running_mean.data[:] = [0.6, 0.0]
    >>> x = distill_inputs(model, (64, 2), progress=False)
    >>> x.data.mean(axis=0).round(1) + 0.0  # between the noise's mean, 0, and the norm's
    array([0.3, 0. ], dtype=float32)
    """
    if not isinstance(model, Module):
        raise TypeError(f"distill_inputs: expected a Module, got {type(model).__name__}")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    norms = [m for m in model.modules() if isinstance(m, (BatchNorm1d, BatchNorm2d))]
    if not norms:
        raise ValueError("distill_inputs: the model has no BatchNorm to learn from")
    if len(shape) < 2 or shape[0] < 2:
        raise ValueError(f"distill_inputs: expected (N, C, ...) with N of 2 or more, got {shape}")
    noise = np.random.default_rng(seed).standard_normal(tuple(shape))
    x = Tensor(noise, requires_grad=True)
    optimizer = Adam([x], lr=lr)
    for _ in with_bar(range(steps), "distilling inputs", progress):
        ### BEGIN SOLUTION
        optimizer.zero_grad()
        with enable_grad():
            norms_gap(model, norms, x).backward()
        optimizer.step()
        ### END SOLUTION
    return x.detach()


# %% nbgrader={"grade": true, "grade_id": "test-distill-inputs", "locked": true, "points": 5, "solution": false}
def test_distill_inputs():
    model = BatchNorm1d(2).eval()
    model.running_mean.data[:] = [0.5, 0.0]
    x = distill_inputs(model, (64, 2), steps=100, progress=False)
    check(x.data.mean(axis=0), [0.25, 0.0], "between the input's 0 and the norm's 0.5", 0.02)
    check(x.shape, (64, 2), "the shape that was asked for")
    ### BEGIN HIDDEN TESTS
    start = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    one = distill_inputs(model, (64, 2), steps=1, lr=0.5, progress=False)
    moved = np.abs(one.data - start).max()
    check(float(moved), 0.5, "Adam's first step has the length of lr", 1e-3)
    with no_grad():
        same = distill_inputs(model, (64, 2), steps=100, progress=False)
    check(same, x.data, "works inside no_grad too, and the seed decides all")
    ### END HIDDEN TESTS


test_distill_inputs()

# %%
generator = np.random.default_rng(0)
picked = generator.permutation(len(train_images))[:64]
sources = {
    "real": train_images[picked],
    "distilled": distill_inputs(network, (64, 1, 8, 8), steps=60),
    "noise": Tensor(generator.standard_normal((64, 1, 8, 8))),
}
norms = [layer for layer in network if isinstance(layer, BatchNorm2d)]
with no_grad():
    for title, x in sources.items():
        print(f"{title:9} gap {norms_gap(network, norms, x).item():.5f}")

if plt:
    figure, axes = plt.subplots(3, 8, figsize=(9, 3.8))
    for row, (title, x) in zip(axes, sources.items(), strict=True):
        for axis, image in zip(row, x.data[:8, 0], strict=True):
            axis.imshow(image, cmap="gray", vmin=-2, vmax=2)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(title)
    figure.suptitle("64 pixels each: real, distilled, noise (grey levels from -2 to 2)")
    plt.show()

# %% [markdown]
r"""
By its own measure distilling beats even real images: statistics of 64 pictures vary, and nothing but statistics was asked for. But do better statistics make better grids? The test: weights at 8 bits, activations at 8, 4 and 3 bits with min-max grids from each of the three sources, for three networks.

**Predict** first: at 8 bits, does it matter where the grids come from? And at 3?
"""

# %%
SEEDS = 3  # networks; 20 take a few minutes


def with_rounded_activations(model, bits: int, calibration: Tensor):
    """The model with 8-bit weights, and inputs and results of its layers rounded to `bits`."""
    config = QConfig(partial(MinMaxObserver, bits=bits), qat_config(weight_bits=8).weight)
    entrance = FakeQuantize(MinMaxObserver(bits=bits))
    return prepare_qat(Sequential(entrance, *model), config, example=calibration).eval()


scores = {}
for seed in with_bar(range(SEEDS), "networks", True):
    model = network if seed == 0 else trained_network(seed)
    generator = np.random.default_rng(seed)
    picked = generator.permutation(len(train_images))[:64]
    options = dict(steps=60, seed=seed, progress=False)
    sources = {
        "real": train_images[picked],
        "distilled": distill_inputs(model, (64, 1, 8, 8), **options),
        "noise": Tensor(generator.standard_normal((64, 1, 8, 8))),
    }
    for bits, (title, x) in itertools.product((8, 4, 3), sources.items()):
        score = accuracy(with_rounded_activations(model, bits, x))
        scores.setdefault((bits, title), []).append(score)

print("accuracy, mean of the networks     distilled - noise (+- standard error)")
for bits in (8, 4, 3):
    means = [
        f"{title} {np.mean(scores[bits, title]):.3f}" for title in ("real", "distilled", "noise")
    ]
    gain = np.array(scores[bits, "distilled"]) - scores[bits, "noise"]
    error = gain.std(ddof=1) / SEEDS**0.5
    print(f"{bits} bits: {', '.join(means)}      {gain.mean():+.3f} +- {error:.3f}")

print("\nsteps of the 4-bit grids, in steps from real images: the input, then the layers")
steps = {}
for title, x in sources.items():  # of the last network
    prepared = with_rounded_activations(model, 4, x)
    chosen = [parts["activation"] for parts in layer_grids(prepared).values()]
    steps[title] = np.array([grid.scale for grid in (prepared[0].chosen, *chosen)])
    print(f"{title:9}" + "".join(f"{ratio:7.2f}" for ratio in steps[title] / steps["real"]))

# %% [markdown]
r"""
Hold each gain against its standard error before you believe in it: less than two of them is no gain. Three networks can't tell much; with `SEEDS = 20` this cell gave +0.001 +- 0.001 at 8 bits, +0.011 +- 0.003 at 4 bits and +0.016 +- 0.005 at 3. (2026-11-22; run it to see yours.)

So at 8 bits anything of the right scale will do, plain noise too, and distilling is wasted time. Below, distilled images were here as good as real ones, and noise was a point behind. The steps say why. Noise reaches three or four deviations where grey levels end at two, so the grids up to the last norm are too coarse; 256 marks don't mind, 8 do.
Distilling repairs the layers behind the norms, as it was made to. But it doesn't repair the input, whose extremes are still those of noise, and it knows nothing of the layers behind the last norm: what it feeds them is tamer than digits are, their grids come out too narrow, and large results are cut off.

It depends on the network, then. On MNIST (`benchmarks/mixed_precision_mnist.py --quick` of the same day, one network) it came out the other way: distilled against noise -0.000 at 8 bits, **-0.162** at 4 bits, -0.023 at 3. **Don't count on a gain below 8 bits.** Where you may have even a few real inputs, take those.

## What it costs: time

Two measures, two prices. Sensitivity takes $L \cdot B$ forward passes, so it grows with the number of layers **times** the time of a pass; traces take a fixed number of products $Hv$, whatever the number of layers. **Predict** for MLPs of 2 to 8 layers: which is dearer, with 4 widths and 20 samples, and what happens when the layers double?
"""

# %%
x = Tensor(np.random.default_rng(0).standard_normal((256, 64)))
y = Tensor(np.zeros(256), dtype=int)
print("layers   a forward   sensitivity   20 samples of v H v")
for count in (2, 4, 8):
    deep = Sequential(*[layer for _ in range(count) for layer in (Linear(64, 64), ReLU())])
    clocks = [time.perf_counter()]
    mean_loss(deep, loss_fn, [(x, y)])
    clocks.append(time.perf_counter())
    sensitivity(deep, loss_fn, [(x, y)], progress=False)
    clocks.append(time.perf_counter())
    hessian_traces(deep, loss_fn, x, y, samples=20, progress=False)
    clocks.append(time.perf_counter())
    row = [1000 * (b - a) for a, b in itertools.pairwise(clocks)]
    print(f"{count:6} {row[0]:8.1f} ms {row[1]:10.1f} ms {row[2]:13.1f} ms")

random = np.random.default_rng(0)
print("layers      choices    solver   Pareto curve (points)")
for count in (4, 8, 16, 20):
    weights_in = random.integers(1_000, 100_000, count)
    falling = -np.sort(-(10.0 ** random.uniform(-6, 0, (count, 4))), axis=1)
    some_costs = {
        str(i): dict(zip(WIDTHS, row.tolist(), strict=True)) for i, row in enumerate(falling)
    }
    some_sizes = {str(i): {b: int(n) * b // 8 for b in WIDTHS} for i, n in enumerate(weights_in)}
    begin = time.perf_counter()
    allocate_bits(some_costs, some_sizes, int(weights_in.sum()) // 2)
    middle = time.perf_counter()
    points = pareto_curve(some_costs, some_sizes)
    end = time.perf_counter()
    print(
        f"{count:6} {4**count:12.1e} {1000 * (middle - begin):6.0f} ms {1000 * (end - middle):9.0f} ms ({len(points)})"
    )

# %% [markdown]
r"""
Doubling the layers doubles a pass and the number of passes: four times the time for sensitivity, twice for traces. And the choice itself? All choices are $4^L$; the curve grows with the number of choices worth having; the solver's time hardly grows.
For one budget take the solver; for a picture the curve. And a programme takes more conditions, one row each: so much time, so many operations, as HAWQ-V3 (Yao et al. 2021) does.

PyTorch has the parts, not the whole: `torch.autograd.functional.hvp` is your `hessian_product`, and a QConfig for each layer takes the bits. NVIDIA's Model Optimizer has the whole: `auto_quantize` scores layers by gradients and solves a programme under a budget of effective bits.

## Questions

Answer in a few lines, with the numbers worked out.

### 1. The price of a scale (4 points)

A convolution with 8 kernels of 3 x 3 x 1, and a Linear 4096 x 4096, with a float32 scale for each output channel. How many bits does a weight really take at 2 bits, in each? By how much does the layer grow in percent if it gets 4 bits instead of 2?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-scales", "locked": false, "points": 4, "solution": true}
r"""
Convolution: 72 weights, 18 bytes packed and 32 of scales: 50 bytes, 5.6 bits a weight. At 4 bits 36 + 32 = 68 bytes: 36 % more, not 100 %. Linear: 4096 weights share a scale, 2 + 32/4096 = 2.008 bits; at 4 bits 99.6 % more.
Small layers are cheap to keep precise twice over: they are small, and their scales must be paid anyhow.
"""

# %% [markdown]
r"""
### 2. Half the bits (4 points)

By the curvature's formula, by what factor does the cost of a layer grow from 8 to 4 bits, and from 3 to 2, with symmetric grids of $2^{b-1} - 1$ positive marks? (The squared error grows with the square of the step.) Why is the second factor the one you shouldn't trust?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-half", "locked": false, "points": 4, "solution": true}
r"""
8 to 4 bits: the step grows from M/127 to M/7, by 18.1; the cost by 329. 3 to 2: from M/3 to M, by 3; the cost by 9. At 2 bits the step is as large as the largest weight: most weights become 0, errors are as large as the weights, far from small. Neither the expansion to second order nor errors spread evenly over a step hold there; measured rises grew by much more.
"""

# %% [markdown]
r"""
### 3. Forty layers (4 points)

A network has 40 layers, a forward pass over the calibration data takes 2 seconds, four widths. How long does sensitivity take, how long would all choices take, and 50 products $Hv$ at about 5 passes each? What do you do if the data may not leave the hospital?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-forty", "locked": false, "points": 4, "solution": true}
r"""
Sensitivity: 40 x 4 x 2 s = 320 s. All choices: 4^40 = 1.2e24 passes, 2.4e24 s. Traces: 50 x 5 x 2 s = 500 s, here no cheaper than measuring; from 63 layers on they are.
Data that may not leave: measure there and take out the table of 160 numbers; or distil inputs from the batch norms for the activations, and for labels take the float network's own answers.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "solution": false}
def test_module():
    """Run every test of this lesson."""
    tests = [
        *(test_round_weights, test_stored_bytes, test_sensitivity),
        *(test_hessian_product, test_trace_sample, test_hessian_costs),
        *(test_programme, test_pareto_curve, test_norms_gap),
        test_distill_inputs,
    ]
    for test_function in tests:
        test_function()
    print(f"{len(tests)} tests passed: module 26 is complete")


test_module()

# %% [markdown]
r"""
## What works now

- Any layer of a model goes to its own number of bits; zeros stay zeros, and bytes are counted with their scales.
- Two measures of what that costs: the loss, measured, and curvature, from Hessian products that never build the matrix. You know where the second one fails.
- A budget in bytes is spent exactly: by an integer programme, or on a whole Pareto curve.
- Inputs can be made up from batch norms; you know how to tell a gain from luck.
- The widths found here fit what you have: a QConfig for each layer in QAT, `quantize_weights` with `skip`, and integer kernels next.
"""

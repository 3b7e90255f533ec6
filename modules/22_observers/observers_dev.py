# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.observers

# %% [markdown]
r"""
# Observers

> Watching numbers go by, to choose the grid that they will be rounded to.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tinytorch.core.activations import ReLU, relu
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Identity, Linear, Module
from tinytorch.core.spatial import BatchNorm1d, BatchNorm2d, Conv2d
from tinytorch.core.tensor import Tensor, watching
from tinytorch.optimization.quantization import (
    as_numbers,
    evaluating,
    finite,
    other_axes,
    replace_modules,
)


# %% nbgrader={"grade": false, "grade_id": "grid", "locked": true, "solution": false}
#| export
@dataclass(frozen=True)
class Grid:
    """Which integers there are, and how they are laid over numbers.

    `bits` from 2 to 16, `signed` or not. `scheme` is "affine" (the range and 0, with a zero point),
    "symmetric" (-127 to 127, scale max|x| / 127) or "symmetric_full" (-128 to 127, max|x| / 127.5,
    as torch.ao.quantization has it). `reduce_range` leaves one bit unused: before VNNI, the 16-bit
    sums of two products of AVX2 could overflow at full range.

    >>> Grid().limits, Grid(bits=4, signed=False).limits, Grid(scheme="symmetric").limits
    ((-128, 127), (0, 15), (-127, 127))
    """

    bits: int = 8
    signed: bool = True
    scheme: str = "affine"
    reduce_range: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in ("affine", "symmetric", "symmetric_full"):
            raise ValueError(
                'scheme must be "affine", "symmetric" or "symmetric_full", got ' + repr(self.scheme)
            )
        if not 2 <= self.bits <= 16:
            raise ValueError(f"bits must be from 2 to 16, got {self.bits}")

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        levels = 2 ** (self.bits - self.reduce_range)
        lowest = -levels // 2 if self.signed else 0
        if self.scheme == "symmetric":
            lowest += 1
        return lowest, (levels // 2 if self.signed else levels) - 1

    @property
    def dtype(self) -> np.dtype:
        """The smallest NumPy type that holds the integers."""
        return np.min_scalar_type(self.limits[0]) if self.signed else np.dtype(np.uint8)


# %% nbgrader={"grade": false, "grade_id": "qparams", "locked": false, "solution": true}
#| exporti
SMALLEST_STEP = np.float32(2**-23)  # torch.ao's floor of the scale


def qparams(low: Any, high: Any, grid: Grid) -> tuple[Any, Any]:
    """(scale, zero point) of a grid over [low, high] and 0; for arrays, one of each.

    Computed in float32, as torch.ao.quantization does.

    >>> qparams(-1.0, 1.0, Grid(scheme="symmetric"))
    (0.007874015718698502, 0)
    """
    ### BEGIN SOLUTION
    lowest, highest = grid.limits
    low = np.minimum(np.float32(low), np.float32(0))
    high = np.maximum(np.float32(high), np.float32(0))
    if grid.scheme == "affine":
        scale = np.maximum((high - low) / np.float32(highest - lowest), SMALLEST_STEP)
        zero_point = np.clip(lowest - np.rint(low / scale), lowest, highest)
    else:
        half = np.float32((highest - lowest) / 2)
        scale = np.maximum(np.maximum(-low, high) / half, SMALLEST_STEP)
        zero_point = np.full_like(scale, math.ceil((lowest + highest) / 2))
    return as_numbers(scale, zero_point)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "observer", "locked": true, "solution": false}
#| export
class Observer:
    """Looks at tensors, remembers what it needs of them, and chooses a grid for them all.

    A subclass defines `see(values)`, with an array of finite numbers that is not empty, and
    `range()`, from which `calculate_qparams` gets (low, high). The options are those of Grid.
    """

    def __init__(self, **grid: Any):
        self.grid = Grid(**grid)
        self.count = 0  # of the numbers seen

    def see(self, values: np.ndarray) -> None:
        raise NotImplementedError(f"{type(self).__name__} needs a method see(values)")

    def range(self) -> tuple[Any, Any]:
        raise NotImplementedError(f"{type(self).__name__} needs a method range()")

    def observe(self, x: Any) -> None:
        """Take one more tensor into account; ValueError for NaN and infinity."""
        values = finite(x, f"{type(self).__name__}: x").astype(np.float32)
        if values.size:
            self.see(values)
            self.count += values.size

    def __call__(self, x: Tensor) -> Tensor:
        """Observe x and hand it on."""
        self.observe(x)
        return x

    def calculate_qparams(self) -> tuple[Any, Any]:
        """(scale, zero_point) of the grid chosen; RuntimeError where nothing was observed."""
        if not self.count:
            raise RuntimeError(
                f"{type(self).__name__}: nothing was observed yet: run the model on calibration data"
            )
        return qparams(*self.range(), self.grid)

    def __repr__(self) -> str:
        if not self.count:
            return f"{type(self).__name__}({self.grid})"
        scale, zero_point = self.calculate_qparams()
        return f"{type(self).__name__}(scale={scale}, zero_point={zero_point})"


# %% nbgrader={"grade": false, "grade_id": "min-max", "locked": false, "solution": true}
#| export
class MinMaxObserver(Observer):
    """From the smallest to the largest number ever seen.

    >>> observer = MinMaxObserver()
    >>> observer.observe(Tensor([0.0, 2.0]))
    >>> observer.observe(Tensor([-0.55, 1.0]))
    >>> observer.calculate_qparams()
    (0.009999999776482582, -73)
    """

    low: Any = np.inf
    high: Any = -np.inf

    def see(self, values: np.ndarray) -> None:
        ### BEGIN SOLUTION
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
        ### END SOLUTION

    def range(self) -> tuple[Any, Any]:
        return self.low, self.high


# %% nbgrader={"grade": false, "grade_id": "moving-average", "locked": false, "solution": true}
#| export
class MovingAverageMinMaxObserver(MinMaxObserver):
    """A moving average of each batch's smallest and largest number, so that one outlier fades.

    The first batch counts whole, each later one by `averaging_constant`.
    """

    def __init__(self, averaging_constant: float = 0.01, **grid: Any):
        super().__init__(**grid)
        if not 0 < averaging_constant <= 1:
            raise ValueError(
                f"averaging_constant must be above 0 and at most 1, got {averaging_constant}"
            )
        self.averaging_constant = np.float32(averaging_constant)

    def see(self, values: np.ndarray) -> None:
        ### BEGIN SOLUTION
        low, high = values.min(), values.max()
        if self.count:
            low = self.low + self.averaging_constant * (low - self.low)
            high = self.high + self.averaging_constant * (high - self.high)
        self.low, self.high = low, high
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "per-channel", "locked": false, "solution": true}
#| export
class PerChannelMinMaxObserver(Observer):
    """The smallest and largest number of each slice along `axis`: 1-D scales and zero points.

    Our Linear has its output channels along axis 1, Conv2d along axis 0.

    >>> observer = PerChannelMinMaxObserver(axis=1, scheme="symmetric")
    >>> observer.observe(Tensor([[127.0, 1.0], [-5.0, -1.27]]))
    >>> observer.calculate_qparams()[0]
    array([1.  , 0.01])
    """

    def __init__(self, axis: int = 0, **grid: Any):
        super().__init__(**grid)
        self.axis = axis
        self.low: Any = np.float32(np.inf)
        self.high: Any = np.float32(-np.inf)

    def see(self, values: np.ndarray) -> None:
        ### BEGIN SOLUTION
        if not -values.ndim <= self.axis < values.ndim:
            raise ValueError(f"axis {self.axis} of a tensor with {values.ndim} axes")
        others = other_axes(values.ndim, self.axis % values.ndim)
        low, high = values.min(axis=others), values.max(axis=others)
        if self.count and low.shape != self.low.shape:
            raise ValueError(f"{len(low)} channels after {len(self.low)}: all need as many")
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        ### END SOLUTION

    def range(self) -> tuple[Any, Any]:
        return self.low, self.high


# %% nbgrader={"grade": false, "grade_id": "histogram", "locked": false, "solution": true}
#| exporti
def spread(counts: np.ndarray, old: tuple, new: tuple, parts: int = 16) -> np.ndarray:
    """The counts of equal bins over `old` = (low, high), put into as many bins over `new`.

    Each bin is cut into `parts`, which go where their middles lie.

    >>> spread(np.array([16.0, 0.0]), (0.0, 1.0), (0.0, 2.0))
    array([16.,  0.])
    """
    ### BEGIN SOLUTION
    bins, (low, high) = len(counts), old
    if low == high:
        return np.histogram([low], bins, new)[0] * counts.sum()
    middles = low + (high - low) * (np.arange(bins * parts) + 0.5) / (bins * parts)
    return np.histogram(middles, bins, new, weights=np.repeat(counts / parts, parts))[0]
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "of-histogram", "locked": true, "solution": false}
#| exporti
class HistogramBased(Observer):
    """Counts numbers in equal bins over a range that grows, so that memory doesn't."""

    counts: np.ndarray
    ends: tuple[float, float]

    def __init__(self, bins: int = 2048, **grid: Any):
        super().__init__(**grid)
        if bins < 2**self.grid.bits:
            raise ValueError(f"bins must be at least 2 ** bits, {2**self.grid.bits}, got {bins}")
        self.bins = bins

    def see(self, values: np.ndarray) -> None:
        ends = float(values.min()), float(values.max())
        if self.count:
            ends = min(ends[0], self.ends[0]), max(ends[1], self.ends[1])
        new = np.histogram(values, self.bins, ends)[0].astype(np.float64)
        if self.count:
            new += self.counts if ends == self.ends else spread(self.counts, self.ends, ends)
        self.counts, self.ends = new, ends

    @property
    def middles(self) -> np.ndarray:
        """The number in the middle of each bin."""
        low, high = self.ends
        return low + (high - low) * (np.arange(self.bins) + 0.5) / self.bins


# %% nbgrader={"grade": false, "grade_id": "percentile", "locked": false, "solution": true}
#| export
class PercentileObserver(HistogramBased):
    """All but the outermost numbers: from the percentile 100 - p to the percentile p.

    >>> observer = PercentileObserver(99.0)
    >>> observer.observe(Tensor([*range(1000), 2000.0]))
    >>> bool(observer.range()[1] < 1000)
    True
    """

    def __init__(self, percentile: float = 99.99, bins: int = 2048, **grid: Any):
        super().__init__(bins, **grid)
        if not 50 < percentile <= 100:
            raise ValueError(f"percentile must be above 50, up to 100, got {percentile}")
        self.percentile = percentile

    def range(self) -> tuple[Any, Any]:
        ### BEGIN SOLUTION
        edges = np.linspace(*self.ends, self.bins + 1)
        heights = np.concatenate([[0], self.counts.cumsum()]) / self.counts.sum()
        share = self.percentile / 100
        return np.interp(1 - share, heights, edges), np.interp(share, heights, edges)
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "bin-errors", "locked": false, "solution": true}
#| exporti
def squared_error(counts: np.ndarray, first: int, last: int, levels: int) -> float:
    """The squared error, in bin widths, of numbers in bins, if `levels` cover bins first to last.

    Within a bin numbers are taken as spread evenly, and each becomes the middle of its level
    (the L2 criterion of torch.ao.quantization.HistogramObserver).
    """
    ### BEGIN SOLUTION
    width = (last - first + 1) / levels
    begins = np.arange(len(counts)) - first
    ends = begins + 1.0
    from_level, to_level = (np.clip(x // width, 0, levels - 1) for x in (begins, ends))
    left, right = (level * width + width / 2 for level in (from_level, to_level))
    cube = (width / 2) ** 3
    inside = (cube - (begins - left) ** 3) + ((ends - right) ** 3 + cube)
    between = (to_level - from_level - 1) * 2 * cube
    return float((counts * (inside + between)).sum() / 3)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "histogram-observer", "locked": false, "solution": true}
#| export
class HistogramObserver(HistogramBased):
    """The range whose grid has the least squared error: outliers are cut where that pays.

    From both ends in turn, steps of 0.001 % of the numbers are cut off, as long as the error falls.
    (As torch.ao.quantization.HistogramObserver.)
    """

    def range(self) -> tuple[Any, Any]:
        ### BEGIN SOLUTION
        heights = self.counts.cumsum() / self.counts.sum()
        levels, step = 2**self.grid.bits, 1e-5
        first, last, below, above = 0, self.bins - 1, 0.0, 1.0
        least = math.inf
        while below < above:
            left = min(max(first, int(np.searchsorted(heights, below + step))), last)
            right = max(min(last, int(np.searchsorted(heights, above - step, "right")) - 1), first)
            if left - first > last - right:
                below, candidate = below + step, (left, last)
            else:
                above, candidate = above - step, (first, right)
            if candidate == (first, last):
                continue
            error = squared_error(self.counts, *candidate, levels)
            if error > least:
                break
            least, (first, last) = error, candidate
        low, high = self.ends
        width = (high - low) / self.bins
        return low + width * first, low + width * (last + 1)
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "clipped", "locked": true, "solution": false}
#| exporti
class BestOf(HistogramBased):
    """Tries `candidates` ranges, each a fraction of the whole one, and takes that of least `cost`."""

    def __init__(self, bins: int = 2048, candidates: int = 100, **grid: Any):
        super().__init__(bins, **grid)
        self.candidates = candidates

    def cost(self, low: float, high: float) -> float:
        raise NotImplementedError(f"{type(self).__name__} needs a method cost(low, high)")

    def range(self) -> tuple[Any, Any]:
        fractions = np.arange(1, self.candidates + 1) / self.candidates
        ranges = [(self.ends[0] * f, self.ends[1] * f) for f in fractions[::-1]]
        return min(ranges, key=lambda ends: self.cost(*ends))


# %% nbgrader={"grade": false, "grade_id": "mse-observer", "locked": false, "solution": true}
#| export
class MSEObserver(BestOf):
    """The range whose grid gives the least mean squared error, of 100 that are tried."""

    def cost(self, low: float, high: float) -> float:
        ### BEGIN SOLUTION
        scale, zero_point = qparams(low, high, self.grid)
        marks = np.clip(np.rint(self.middles / scale) + zero_point, *self.grid.limits)
        return float((self.counts * ((marks - zero_point) * scale - self.middles) ** 2).sum())
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "entropy-observer", "locked": false, "solution": true}
#| export
class EntropyObserver(BestOf):
    """The range whose grid loses the least information: KL(numbers as they are, as rounded).

    Both are distributions over bins: what is cut off counts in the outermost bins, and a level's
    numbers are spread evenly over those of its bins that hold something. (Migacz 2017, "8-bit
    inference with TensorRT".)
    """

    def cost(self, low: float, high: float) -> float:
        ### BEGIN SOLUTION
        scale, zero_point = qparams(low, high, self.grid)
        marks = np.clip(np.rint(self.middles / scale) + zero_point, *self.grid.limits)
        kept = (low <= self.middles) & (self.middles <= high)
        if not kept.any():
            return math.inf
        first, last = np.flatnonzero(kept)[[0, -1]]
        p = self.counts[first : last + 1].copy()
        q = p.copy()
        p[0] += self.counts[:first].sum()
        p[-1] += self.counts[last + 1 :].sum()
        levels = (marks[first : last + 1] - self.grid.limits[0]).astype(int)
        holds = p > 0
        share = np.bincount(levels, q) / np.maximum(np.bincount(levels, holds), 1)
        q = np.where(holds, share[levels], 0)
        p, q = p / p.sum(), q / max(q.sum(), 1e-30)
        return float((p[holds] * np.log(p[holds] / np.maximum(q[holds], 1e-30))).sum())
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "qconfig", "locked": true, "solution": false}
#| export
SYMMETRIC_CHANNELS = partial(PerChannelMinMaxObserver, scheme="symmetric")


@dataclass(frozen=True)
class QConfig:
    """How a layer is quantised: what makes the observers of its activations and of its weight.

    >>> config = QConfig()
    >>> config.activation(), config.weight(axis=1).grid.scheme
    (HistogramObserver(Grid(bits=8, signed=True, scheme='affine', reduce_range=False)), 'symmetric')
    """

    activation: Callable[..., Observer] = HistogramObserver
    weight: Callable[..., Observer] = SYMMETRIC_CHANNELS


# %% nbgrader={"grade": false, "grade_id": "fold-batch-norm", "locked": false, "solution": true}
#| exporti
def fold_batch_norm(layer: Linear | Conv2d, norm: Any) -> None:
    """Put what a batch norm does in eval mode into the weight and bias of the layer before it.

    s = weight / sqrt(running_var + eps): each output channel's weight times s, and
    bias = (bias - running_mean) s + norm's bias. (Jacob et al. 2018, section 3.2.)
    """
    ### BEGIN SOLUTION
    scale = (norm.running_var.data.astype(np.float64) + norm.eps) ** -0.5
    bias = 0.0 if layer.bias is None else layer.bias.data
    if norm.weight is not None:
        scale = scale * norm.weight.data
    bias = (bias - norm.running_mean.data) * scale
    if norm.bias is not None:
        bias = bias + norm.bias.data
    along = (1, -1) if isinstance(layer, Linear) else (-1, 1, 1, 1)  # the output channels
    layer.weight = Tensor(layer.weight.data * scale.reshape(along))
    layer.bias = Tensor(bias)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "trace", "locked": true, "solution": false}
#| exporti
class Traced(Module):
    """Stands in the place of a leaf of the tree and writes down what it got and gave."""

    def __init__(self, leaf: Any, note: Callable[[tuple], None]):
        self.leaf, self.note = leaf, note

    def forward(self, *inputs: Any, **options: Any) -> Any:
        out = self.leaf(*inputs, **options)
        self.note((self.leaf, inputs[0], out))
        return out


def followers(model: Module, example: Any) -> dict[int, Any]:
    """Which leaf takes the result of which (by id), where nobody else takes it.

    The model runs once, in eval mode. What is called more than once is left out.
    """
    leaves = [m for m in model.modules() if not (isinstance(m, Module) and m.children())]
    calls: list[tuple] = []
    taken: Counter[int] = Counter()
    alive = []  # the id of a tensor that is gone would be given to another

    def count(op: Callable, inputs: tuple, params: dict, out: Any) -> None:
        taken.update(id(x) for x in inputs if isinstance(x, Tensor))
        alive.append(out)

    traced = {id(leaf): Traced(leaf, calls.append) for leaf in leaves if leaf is not model}
    replace_modules(model, traced)
    try:
        with evaluating(model), no_grad(), watching("followers", count):
            model(example)
    finally:
        replace_modules(model, {id(t): t.leaf for t in traced.values()})
    times = Counter(id(leaf) for leaf, _, _ in calls)
    takers = {id(given): leaf for leaf, given, _ in calls if times[id(leaf)] == 1}
    return {
        id(leaf): takers[id(out)]
        for leaf, _, out in calls
        if times[id(leaf)] == 1 and taken[id(out)] == 1 and takers.get(id(out)) is not None
    }


# %% nbgrader={"grade": false, "grade_id": "fused", "locked": true, "solution": false}
#| export
class Fused(Module):
    """A layer and the ReLU behind it, as one: a grid for the result needs no negative numbers.

    >>> Fused(Linear(2, 2))(Tensor([[1.0, 2.0]])).shape
    (1, 2)
    """

    def __init__(self, layer: Linear | Conv2d):
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.layer(x))


# %% nbgrader={"grade": false, "grade_id": "fuse", "locked": false, "solution": true}
#| export
def fuse(model: Module, example: Any) -> Module:
    """A copy of the model in eval mode, in which layers that follow one another are one.

    Conv2d and BatchNorm2d, Linear and BatchNorm1d: the norm goes into the weight. A ReLU behind:
    `Fused`. The results are the same but for rounding. `example` is an input: the model runs on it
    once, which shows who follows whom whatever its `forward` looks like.

    >>> from tinytorch.nn import Sequential
    >>> model = Sequential(Linear(4, 3), BatchNorm1d(3), ReLU(), Linear(3, 2))
    >>> fuse(model, Tensor(np.ones((2, 4))))[0]
    Fused(
      (layer): Linear(in_features=4, out_features=3, bias=True)
    )
    """
    ### BEGIN SOLUTION
    model = copy.deepcopy(model).eval()
    after = followers(model, example)
    replaced: dict[int, Any] = {}
    for layer in model.modules():
        if type(layer) not in (Linear, Conv2d):
            continue
        norm = after.get(id(layer))
        last = layer
        if isinstance(norm, (BatchNorm1d, BatchNorm2d)):
            fold_batch_norm(layer, norm)
            replaced[id(norm)], last = Identity(), norm
        bend = after.get(id(last))
        if isinstance(bend, ReLU):
            replaced[id(bend)], replaced[id(layer)] = Identity(), Fused(layer)
    replace_modules(model, replaced)
    return model
    ### END SOLUTION

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

Time: 5 hours. In module 15 you quantised a network; the grid of each layer's input reached from the smallest to the largest number that calibration ever saw. Here you write seven ways of choosing that range,
the ones that PyTorch and TensorRT use, and find out by measuring when each of them is right. Then you prepare a network for them: layers that follow one another become one.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import math
from bisect import bisect_left, bisect_right
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
from tinytorch.optimization.quantization import as_numbers, finite, other_axes, replace_modules

# %% [markdown]
r"""
## One bright pixel

The network from module 15 again: three layers that read digits of 8x8 pixels, each from 0 to 1. Somebody calibrates it on ten batches of training digits; in one of them, one pixel of one image is broken and says 10, or 1000.
**Predict**: what becomes of the accuracy in INT8, in both cases? How many of the 256 marks do the honest pixels share? Write it down.
"""

# %%
from tinytorch.core.layers import Flatten, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.tensor import manual_seed
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits
from tinytorch.optimization.quantization import along, quantization_error, quantize_model
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


def trained(model, epochs=10):
    """The model after some epochs of Adam on the training digits."""
    trainer = Trainer(model, Adam(model.parameters(), lr=3e-3), CrossEntropyLoss())
    trainer.fit(DataLoader(train, batch_size=50, shuffle=True, seed=0), epochs)
    return model.eval()


manual_seed(0)
network = trained(
    Sequential(Flatten(), Linear(64, 64), ReLU(), Linear(64, 64), ReLU(), Linear(64, 10))
)


# %%
def batches_with(pixel=None) -> list[Tensor]:
    """The training images in ten batches; one pixel of one image has another value."""
    batches = [Tensor(part) for part in np.array_split(train.images.data, 10)]
    if pixel is not None:
        batches[4].data[0, 0, 3, 3] = pixel
    return batches


DATA = {
    "clean": batches_with(),
    "one pixel of 10": batches_with(10.0),
    "one pixel of 1000": batches_with(1000.0),
}

print(f"FP32                       accuracy {accuracy(network):.3f}")
for name, batches in DATA.items():
    small = copy.deepcopy(network)
    quantize_model(small, batches, axis=1)
    scale = small[1].input_scale.item()
    marks = len(np.unique(np.rint(test.images.data / scale)))
    print(f"calibrated: {name:17} accuracy {accuracy(small):.3f}, {marks} marks for the pixels")

# %% [markdown]
r"""
One number of 92,288 takes the whole range. Module 15 has percentiles, but they keep every number until the end; and why 99.9 and not 99.99?

What we want is an object that looks at each tensor as it passes, keeps little, and says at the end which grid is best: an **observer**.

```
   batch 1 --> observe --.
   batch 2 --> observe ---+--> calculate_qparams() --> scale, zero point
   batch 3 --> observe --'
```

## Which grid?

Before the range comes the ruler. Four things are to be chosen: how many bits, with a sign or without, which scheme, and (for old hardware; we come to it) whether to leave one bit unused.

| scheme | int8 | uint8 | scale | zero point |
|---|---|---|---|---|
| `"affine"` | -128 ... 127 | 0 ... 255 | (high - low) / 255 | where 0.0 lies |
| `"symmetric"` | -127 ... 127 | 1 ... 255 | max / 127 | 0, unsigned 128 |
| `"symmetric_full"` | -128 ... 127 | 0 ... 255 | max / 127.5 | 0, unsigned 128 |

where max is $\max(|low|, |high|)$. PyTorch's symmetric scheme is the last; it gains half a step, and the largest number is off by half a step.

### Exercise 1: the integers

`grid_limits(bits, signed, scheme, reduce_range)` gives the smallest and the largest integer. There are $2^b$ levels, half as many with `reduce_range`; signed ones go from $-2^{b-1}$, unsigned ones from 0. `"symmetric"` leaves out the lowest.

4 bits unsigned: (0, 15). 8 bits signed, symmetric: (-127, 127), with `reduce_range` (-63, 63).
"""


# %% nbgrader={"grade": false, "grade_id": "grid-limits", "locked": false, "solution": true}
#| exporti
def grid_limits(bits: int, signed: bool, scheme: str, reduce_range: bool) -> tuple[int, int]:
    """The smallest and the largest integer of a grid.

    >>> grid_limits(8, True, "symmetric", False), grid_limits(8, False, "affine", True)
    ((-127, 127), (0, 127))
    """
    ### BEGIN SOLUTION
    levels = 2 ** (bits - reduce_range)
    lowest = -levels // 2 if signed else 0
    return lowest + (scheme == "symmetric"), lowest + levels - 1
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-grid-limits", "locked": true, "points": 3, "solution": false}
def test_grid_limits():
    check(grid_limits(8, True, "affine", False), (-128, 127), "2^8 levels, half of them below 0")
    check(grid_limits(4, False, "affine", False), (0, 15), "unsigned starts at 0")
    check(grid_limits(8, True, "symmetric", False), (-127, 127), "symmetric leaves -128 out")
    ### BEGIN HIDDEN TESTS
    check(grid_limits(8, True, "symmetric_full", False), (-128, 127), "symmetric_full keeps -128")
    check(grid_limits(8, False, "affine", True), (0, 127), "reduce_range: half as many levels")
    check(grid_limits(8, True, "symmetric", True), (-63, 63), "reduce_range: half as many levels")
    check(grid_limits(8, False, "symmetric", False), (1, 255), "127 on both sides of 128")
    ### END HIDDEN TESTS


test_grid_limits()


# %% nbgrader={"grade": false, "grade_id": "grid", "locked": true, "solution": false}
#| export
@dataclass(frozen=True)
class Grid:
    """Which integers there are, and how they are laid over numbers.

    `bits` from 2 to 16, `signed` or not. `scheme` is "affine" (the range and 0, with a zero point),
    "symmetric" (-127 to 127, scale max|x| / 127) or "symmetric_full" (-128 to 127, max|x| / 127.5,
    as torch.ao.quantization has it); unsigned symmetric grids have their zero point in the middle.
    `reduce_range` leaves one bit unused, so that instructions which add pairs of products in 16
    bits (AVX2, before VNNI) can't overflow.

    >>> Grid().limits, Grid(bits=4, signed=False).limits, Grid(bits=12).dtype
    ((-128, 127), (0, 15), dtype('int16'))
    """

    bits: int = 8
    signed: bool = True
    scheme: str = "affine"
    reduce_range: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in ("affine", "symmetric", "symmetric_full"):
            names = '"affine", "symmetric" or "symmetric_full"'
            raise ValueError(f"scheme must be {names}, got {self.scheme!r}")
        fewest = 3 if self.reduce_range else 2
        if not isinstance(self.bits, int) or not fewest <= self.bits <= 16:
            raise ValueError(f"bits must be a whole number, {fewest} to 16, got {self.bits}")

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        return grid_limits(self.bits, self.signed, self.scheme, self.reduce_range)

    @property
    def dtype(self) -> np.dtype:
        """The smallest NumPy type that holds the integers."""
        return np.min_scalar_type(self.limits[0 if self.signed else 1])


# %% [markdown]
r"""
### Exercise 2: scale and zero point, in float32

You know the formulas from module 15. `qparams(low, high, grid)` computes them once more, with three differences, which make it agree with PyTorch's observers to the last digit:

- everything in **float32**: `np.float32(low)` converts numbers and arrays;
- no scale is below `SMALLEST_STEP`, $2^{-23}$: tiny numbers are not worth a grid of their own;
- the zero point is clipped to the limits, $z = \mathrm{clip}(q_{min} - \mathrm{round}(low / s))$; for symmetric schemes it is $\lceil (q_{min} + q_{max}) / 2 \rceil$, and the scale $\max(-low, high)$ over half of $q_{max} - q_{min}$.

As before the range is first extended to 0, and `as_numbers` makes plain numbers at the end. For [-1, 3]: 4/255 and -64.
"""

# %% nbgrader={"grade": false, "grade_id": "qparams", "locked": false, "solution": true}
#| exporti
SMALLEST_STEP = np.float32(2**-23)  # torch.ao's floor of the scale


def qparams(low: Any, high: Any, grid: Grid) -> tuple[Any, Any]:
    """(scale, zero point) of a grid over [low, high] and 0; for arrays, one of each.

    Computed in float32, as torch.ao.quantization does.

    >>> qparams(-1.0, 1.0, Grid(scheme="symmetric"))
    (0.007874015718698502, 0)
    """
    lowest, highest = grid.limits
    ### BEGIN SOLUTION
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


# %% nbgrader={"grade": true, "grade_id": "test-qparams", "locked": true, "points": 7, "solution": false}
def test_qparams():
    full, unsigned = Grid(scheme="symmetric_full"), Grid(signed=False, scheme="symmetric_full")
    third = float(np.float32(1) / np.float32(3))
    check(qparams(-1.0, 3.0, Grid())[1], -64, "-128 - round(-1 / scale)")
    check(qparams(10.0, 85.0, Grid())[0], third, "the range is [0, 85], in float32", 1e-9)
    check(qparams(-127.0, 5.0, Grid(scheme="symmetric")), (1.0, 0), "max / 127, zero point 0")
    check(qparams(-127.5, 5.0, full), (1.0, 0), "symmetric_full: max / 127.5")
    ### BEGIN HIDDEN TESTS
    check(qparams(-1.0, 127.5, unsigned), (1.0, 128), "unsigned: 128 is the middle")
    check(qparams(-85.0, -10.0, Grid()), (third, 127), "the range is [-85, 0]", 1e-9)
    check(qparams(0.0, 0.0, Grid()), (2.0**-23, -128), "no scale below 2^-23", 1e-12)
    check(qparams(-1e-9, 0.0, full)[0], 2.0**-23, "symmetric: no scale below 2^-23", 1e-12)
    scale, zero_point = qparams(np.array([0.0, -2.0]), np.array([15.0, 1.0]), Grid(bits=4))
    check(scale, np.array([1.0, 0.2]), "arrays: one scale for each channel", 1e-7)
    check(zero_point, np.array([-8, 2]), "arrays: one zero point for each channel")
    check(qparams(0.0, 0.1, Grid())[0], float(np.float32(0.1) / np.float32(255)), "float32", 1e-13)
    ### END HIDDEN TESTS


test_qparams()

# %% [markdown]
r"""
## What all observers share

`Observer` is given. `observe` refuses NaN and infinity, ignores what is empty, and hands a float32 array to `see`; `calculate_qparams` makes a grid of what `range()` says. An observer is these two methods.
(Calling it, `observer(x)`, observes and returns x: it can stand between two layers.)
"""


# %% nbgrader={"grade": false, "grade_id": "observer", "locked": true, "solution": false}
#| export
class Observer:
    """Looks at tensors, remembers what it needs of them, and chooses a grid for them all.

    A subclass defines `see(values)`, with a float32 array of finite numbers that is not empty, and
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
        """(scale, zero point) of the grid chosen; RuntimeError where nothing was observed."""
        if not self.count:
            name = type(self).__name__
            raise RuntimeError(f"{name}: nothing was observed: run the model on calibration data")
        return qparams(*self.range(), self.grid)

    def __repr__(self) -> str:
        if not self.count:
            return f"{type(self).__name__}({self.grid})"
        scale, zero_point = self.calculate_qparams()
        return f"{type(self).__name__}(scale={scale}, zero_point={zero_point})"


# %% [markdown]
r"""
### Exercise 3: MinMaxObserver

`see(values)` widens `self.low` and `self.high`, which start at inf and -inf. After [0, 2] and [-0.55, 1]: from -0.55 to 2.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-min-max", "locked": true, "points": 4, "solution": false}
def observed(observer, *batches):
    """The observer after it has seen some batches."""
    for batch in batches:
        observer.observe(Tensor(batch))
    return observer


def ends(observer) -> list[float]:
    """The range that an observer chooses, as plain floats."""
    return [float(end) for end in observer.range()]


def test_min_max():
    check(ends(observed(MinMaxObserver(), [0.0, 2.0], [-0.5, 1.0])), [-0.5, 2.0], "of all batches")
    check(
        observed(MinMaxObserver(), [5.0, 85.0]).calculate_qparams()[1],
        -128,
        "the grid begins at 0, the range at 5",
    )
    ### BEGIN HIDDEN TESTS
    check(ends(observed(MinMaxObserver(), [-4.0, -2.0])), [-4.0, -2.0], "no number above 0")
    check(ends(observed(MinMaxObserver(), [9.0], [1.0], [3.0])), [1.0, 9.0], "in any order")
    first, second = observed(MinMaxObserver(), [9.0]), observed(MinMaxObserver(), [1.0])
    check(ends(first) + ends(second), [9.0, 9.0, 1.0, 1.0], "each observer has its own range")
    ### END HIDDEN TESTS


test_min_max()

# %% [markdown]
r"""
## Letting the outlier fade

If the outlier is in one batch of many, an average over batches gives it little weight. A **moving average** needs no list of batches; each batch moves the range a little towards its own:

$$low \leftarrow low + c\,(low_{batch} - low) \qquad high \leftarrow high + c\,(high_{batch} - high)$$

$c$ is the averaging constant, 0.01 in PyTorch. The first batch counts whole.

### Exercise 4: MovingAverageMinMaxObserver

Write `see`. (`self.count` is 0 while the first batch is seen.) With $c$ = 0.5: after [0, 8] and [-2, 4] the range is [-1, 6].
"""


# %% nbgrader={"grade": false, "grade_id": "moving-average", "locked": false, "solution": true}
#| export
class MovingAverageMinMaxObserver(MinMaxObserver):
    """A moving average of each batch's smallest and largest number, so that one outlier fades.

    The first batch counts whole, each later one by `averaging_constant`.

    >>> observer = MovingAverageMinMaxObserver(averaging_constant=0.5)
    >>> observer.observe(Tensor([0.0, 8.0]))
    >>> observer.observe(Tensor([-2.0, 4.0]))
    >>> float(observer.low), float(observer.high)
    (-1.0, 6.0)
    """

    def __init__(self, averaging_constant: float = 0.01, **grid: Any):
        super().__init__(**grid)
        if not 0 < averaging_constant <= 1:
            got = averaging_constant
            raise ValueError(f"averaging_constant must be above 0, up to 1, got {got}")
        self.averaging_constant = np.float32(averaging_constant)

    def see(self, values: np.ndarray) -> None:
        ### BEGIN SOLUTION
        low, high = values.min(), values.max()
        if self.count:
            low = self.low + self.averaging_constant * (low - self.low)
            high = self.high + self.averaging_constant * (high - self.high)
        self.low, self.high = low, high
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-moving-average", "locked": true, "points": 6, "solution": false}
def test_moving_average():
    half = observed(MovingAverageMinMaxObserver(0.5), [0.0, 8.0], [-2.0, 4.0])
    check(ends(half), [-1.0, 6.0], "halfway from [0, 8] to [-2, 4]")
    check(ends(observed(MovingAverageMinMaxObserver(), [-3.0, 9.0])), [-3.0, 9.0], "the first")
    ### BEGIN HIDDEN TESTS
    quarter = MovingAverageMinMaxObserver(0.25)
    observed(quarter, [0.0, 0.0], [-4.0, 4.0], [-4.0, 8.0])
    check(ends(quarter), [-1.75, 2.75], "0, 1 and then 1 + 0.25 (8 - 1); the old weighs 0.75")
    ### END HIDDEN TESTS


test_moving_average()

# %% [markdown]
r"""
A hundred batches of a thousand normal numbers; in the fifth there is a 1000. **Predict** the `high` of both observers after 5, 20 and 100 batches. (An average moves 1 % of the way at each step.)
"""

# %%
random = np.random.default_rng(0)
largest, average = MinMaxObserver(), MovingAverageMinMaxObserver()
for batch in range(1, 101):
    x = random.standard_normal(1000)
    if batch == 5:
        x[0] = 1000.0
    for observer in (largest, average):
        observer.observe(x)
    if batch in (4, 5, 20, 100):
        print(f"after {batch:3}: min-max {largest.high:7.2f}, moving average {average.high:6.2f}")

# %% [markdown]
r"""
It fades, by half every 70 batches: calibrate with many batches, and not with the outlier in the first one, which counts whole. And it clips: half of all batches go beyond the average.

## A grid for each channel

Weights don't pass in batches, they lie still. There the range differs from one output channel to the next, and each can have its own.

### Exercise 5: PerChannelMinMaxObserver

`see` keeps in `self.low` and `self.high` one number for each slice along `self.axis`, over all batches. `other_axes(ndim, axis)` of module 15 gives the axes to reduce; `axis` may be negative (`self.axis % values.ndim`).
Two ValueErrors: an axis that `values` hasn't got, and, from the second batch on (`self.count`), another number of channels than before.

[[127, 1], [-5, -1.27]] with `axis=1`: low [-5, -1.27], high [127, 1].
"""


# %% nbgrader={"grade": false, "grade_id": "per-channel", "locked": false, "solution": true}
#| export
class PerChannelMinMaxObserver(Observer):
    """The smallest and largest number of each slice along `axis`: 1-D scales and zero points.

    Our Linear has its output channels along axis 1, Conv2d along axis 0.

    >>> observer = PerChannelMinMaxObserver(axis=1, scheme="symmetric")
    >>> observer.observe(Tensor([[127.0, 1.0], [-5.0, -1.27]]))
    >>> observer.calculate_qparams()[0].round(6)
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


# %% nbgrader={"grade": true, "grade_id": "test-per-channel", "locked": true, "points": 6, "solution": false}
def test_per_channel():
    x = [[127.0, 1.0], [-5.0, -1.25]]
    columns = observed(PerChannelMinMaxObserver(axis=1), x)
    check(columns.range()[0], [-5.0, -1.25], "axis=1: the smallest of each column")
    check(columns.range()[1], [127.0, 1.0], "axis=1: the largest of each column")
    ### BEGIN HIDDEN TESTS
    check(observed(PerChannelMinMaxObserver(), x).range()[0], [1.0, -5.0], "axis=0: of each row")
    last = observed(PerChannelMinMaxObserver(-1), np.arange(24.0).reshape(2, 3, 4), [[50.0] * 4])
    check(last.range()[0], [0.0, 1.0, 2.0, 3.0], "axis=-1 is the last; every batch counts")
    check(last.range()[1], [50.0] * 4, "the last axis, every batch")
    with check_raises(ValueError, "", "3 channels after 4 is an error, not a broadcast"):
        last.observe(Tensor([[1.0, 2.0, 3.0]]))
    with check_raises(ValueError, "", "1 channel after 4 is an error, not a broadcast"):
        last.observe(Tensor([1.0]))
    with check_raises(ValueError, "", "axis 2 of a matrix is an error"):
        observed(PerChannelMinMaxObserver(axis=2), x)
    ### END HIDDEN TESTS


test_per_channel()

# %% [markdown]
r"""
## Everything, in 16 kilobytes

To know which numbers are outliers you must know how the rest is spread. Keeping everything is out of the question; but **how many** numbers lie in each of 2048 bins is enough, and that takes 16 kB however much passes by.

```
   counts   .  1  6 19 34 30 17  5  2  .  .  .  .  .  .  1
           low                                         high
```

The range isn't known beforehand. When a batch goes beyond it, the old counts are put into new, wider bins:

```
   old  |  4  |  8  |  2  |                   over [0, 3]
   new  |   4 + 4    |   4 + 2   |     0    | over [0, 4.5]
```

An old bin may straddle a new edge. Where its numbers lie within it is forgotten; take them as spread evenly: cut each bin into 16 parts of a sixteenth of its count, and put each part where its middle lies.

### Exercise 6: spread

`spread(counts, old, new, parts)` does it: `old` and `new` are pairs (low, high), there are as many new bins as old. `np.histogram(middles, bins, new, weights=...)[0]` counts with weights, `np.repeat` repeats each count.
Where all numbers so far were equal (low == high), all middles are that number, and all go into its bin: nothing special to do.

[16, 0] from (0, 1) to (0, 2): [16, 0]. [0, 16, 0] from (0, 3) to (0, 4.5): [8, 8, 0].
"""


# %% nbgrader={"grade": false, "grade_id": "spread", "locked": false, "solution": true}
#| exporti
def spread(counts: np.ndarray, old: tuple, new: tuple, parts: int = 16) -> np.ndarray:
    """The counts of equal bins over `old` = (low, high), put into as many bins over `new`.

    Each bin is cut into `parts`, which go where their middles lie.

    >>> spread(np.array([0.0, 16.0, 0.0]), (0.0, 3.0), (0.0, 4.5))
    array([8., 8., 0.])
    """
    bins, (low, high) = len(counts), old
    ### BEGIN SOLUTION
    middles = low + (high - low) * (np.arange(bins * parts) + 0.5) / (bins * parts)
    return np.histogram(middles, bins, new, weights=np.repeat(counts / parts, parts))[0]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-spread", "locked": true, "points": 7, "solution": false}
def test_spread():
    check(spread(np.array([16.0, 0.0]), (0.0, 1.0), (0.0, 2.0)), [16.0, 0.0], "both in the first")
    straddling = spread(np.array([0.0, 16.0, 0.0]), (0.0, 3.0), (0.0, 4.5))
    check(straddling, [8.0, 8.0, 0.0], "half of the bin from 1 to 2 lies beyond 1.5")
    ### BEGIN HIDDEN TESTS
    left = spread(np.array([8.0, 4.0]), (0.0, 1.0), (-3.0, 1.0))
    check(left, [0.0, 12.0], "the range may grow to the left")
    constant = spread(np.array([0.0, 5.0, 0.0, 0.0]), (3.0, 3.0), (0.0, 4.0))
    check(constant, [0.0, 0.0, 0.0, 5.0], "all five are the number 3")
    thirds = spread(np.array([9.0, 0.0, 0.0]), (0.0, 3.0), (-1.0, 3.5), parts=4)
    check(thirds, [4.5, 4.5, 0.0], "cut into `parts`, each where its middle lies")
    ### END HIDDEN TESTS


test_spread()


# %% nbgrader={"grade": false, "grade_id": "of-histogram", "locked": true, "solution": false}
#| exporti
class HistogramBased(Observer):
    """Counts numbers in equal bins over a range that grows, so that memory doesn't.

    There are at least as many `bins` as the grid has integers.
    """

    counts: np.ndarray = np.zeros(0)
    ends: tuple[float, float] = (0.0, 0.0)

    def __init__(self, bins: int = 2048, **grid: Any):
        super().__init__(**grid)
        self.bins = max(bins, 2**self.grid.bits)

    def see(self, values: np.ndarray) -> None:
        ends = float(values.min()), float(values.max())
        if self.counts.size:
            ends = min(ends[0], self.ends[0]), max(ends[1], self.ends[1])
        wide = values.astype(np.float64)  # float32 can't tell 2048 bins apart in a narrow range
        new = np.histogram(wide, self.bins, ends)[0].astype(np.float64)
        if self.counts.size:
            new += self.counts if ends == self.ends else spread(self.counts, self.ends, ends)
        self.counts, self.ends = new, ends

    @property
    def middles(self) -> np.ndarray:
        """The number in the middle of each bin."""
        low, high = self.ends
        return low + (high - low) * (np.arange(self.bins) + 0.5) / self.bins

    def edges(self, first: int, last: int) -> tuple[float, float]:
        """Where the bins `first` to `last` begin and end."""
        low, high = self.ends
        width = (high - low) / self.bins
        return low + width * first, low + width * (last + 1)


# %% [markdown]
r"""
`HistogramBased` is given: it counts, and calls your `spread` when the range grows. **Predict**: ten batches of normal numbers, the first of size 1, each later one a little larger. How far is this histogram from that of all numbers at once?
"""

# %%
random = np.random.default_rng(0)
batches = [random.standard_normal(10_000) * size for size in np.linspace(1, 3, 10)]
growing = observed(HistogramBased(bins=256), *batches)
at_once = np.histogram(np.concatenate(batches), growing.bins, growing.ends)[0]
print(f"{growing.counts.sum():,.0f} numbers counted, {len(growing.counts)} bins")
print(f"in another bin than at once: {np.abs(growing.counts - at_once).sum() / 2:,.0f}")

if plt:
    plt.step(growing.middles, at_once, "k-", where="mid", label="all at once")
    plt.step(growing.middles, growing.counts, "k:", where="mid", label="batch by batch")
    plt.title("A histogram whose range grows")
    plt.xlabel("number")
    plt.ylabel("how many, of 100,000")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
### Exercise 7: PercentileObserver

From the percentile $100 - p$ to the percentile $p$, read off the histogram: add the counts up, divide by their sum, and find where this curve passes $1 - p/100$ and $p/100$.

```
   1.0 |                 .-------   p
       |              ./'
       |           ./'
   0.0 |.........-'                 100 - p
       low                   high
```

The curve is known at the edges of the bins: `edges` are `bins + 1` numbers, and before the first bin the curve is 0. `np.interp(share, heights, edges)` reads it off, between the edges too. Return two plain floats.

A histogram of [10, 80, 10] over [0, 3], $p$ = 95: from 0.5 to 2.5.
"""


# %% nbgrader={"grade": false, "grade_id": "percentile", "locked": false, "solution": true}
#| export
class PercentileObserver(HistogramBased):
    """All but the outermost numbers: from the percentile 100 - p to the percentile p.

    >>> observer = PercentileObserver(99.0)
    >>> observer.observe(Tensor([*range(1000), 2000.0]))
    >>> observer.range()[1] < 1000
    True
    """

    def __init__(self, percentile: float = 99.99, bins: int = 2048, **grid: Any):
        super().__init__(bins, **grid)
        if not 50 < percentile <= 100:
            raise ValueError(f"percentile must be above 50, up to 100, got {percentile}")
        self.percentile = percentile

    def range(self) -> tuple[Any, Any]:
        edges = np.linspace(*self.ends, self.bins + 1)
        ### BEGIN SOLUTION
        heights = np.concatenate([[0.0], self.counts.cumsum()])
        shares = np.array([100 - self.percentile, self.percentile]) / 100
        low, high = np.interp(shares * heights[-1], heights, edges)
        return float(low), float(high)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-percentile", "locked": true, "points": 6, "solution": false}
def with_counts(observer, counts, low, high):
    """The observer as if it had seen so many numbers in equal bins from low to high."""
    observer.counts, observer.ends = np.array(counts, float), (low, high)
    observer.bins = len(counts)
    observer.count = int(observer.counts.sum())
    return observer


def test_percentile():
    observer = with_counts(PercentileObserver(95.0), [10, 80, 10], 0.0, 3.0)
    check(observer.range(), (0.5, 2.5), "a twentieth of 100 is half of the outer bins")
    check(ends(with_counts(PercentileObserver(100), [1, 2], -2.0, 2.0)), [-2.0, 2.0], "100: all")
    ### BEGIN HIDDEN TESTS
    far = with_counts(PercentileObserver(90.0), [50, 49, 0, 0, 0, 1], 0.0, 6.0)
    check(far.range()[1], 1 + 40 / 49, "the empty bins before the outlier are cut off with it")
    check(far.range()[0], 0.2, "a tenth of 100 is a fifth of the first bin")
    numbers = np.random.default_rng(0).standard_normal(20_000)
    low, high = observed(PercentileObserver(99.0), numbers).range()
    check([low, high], np.percentile(numbers, [1, 99]).tolist(), "as np.percentile", 0.01)
    ### END HIDDEN TESTS


test_percentile()

# %% [markdown]
r"""
## The grid with the least error

A percentile is a guess: why should one number of 10,000 be too many? Two errors pull in opposite directions. A wide range has a coarse grid, and every number pays for it; a narrow one clips, and few numbers pay much. **Predict** where, in the next picture, the sum is least: for 8 bits and for 3. (The numbers are normal, of size 1; the largest is about 4.4.)
"""


# %%
def rounded(x: Tensor, grid: Grid, scale: float, zero_point: int) -> Tensor:
    """What comes back of x from a grid."""
    marks = np.clip(np.rint(x.data / scale) + zero_point, *grid.limits)
    return Tensor((marks - zero_point) * scale)


normal = Tensor(np.random.default_rng(0).standard_normal(100_000))
reach = np.linspace(0.5, 4.5, 33)
curves = {}
for bits in (8, 6, 4, 3):
    grid = Grid(bits=bits, scheme="symmetric")
    curves[bits] = [
        quantization_error(normal, rounded(normal, grid, *qparams(-r, r, grid)))["snr_db"]
        for r in reach
    ]
    best, widest = max(curves[bits]), curves[bits][-1]
    where = reach[curves[bits].index(best)]
    print(f"{bits} bits: best to {where:.2f}, {best:5.1f} dB; to 4.50, {widest:5.1f} dB")

if plt:
    for (bits, curve), line in zip(curves.items(), ("k-", "k--", "k-.", "k:"), strict=True):
        plt.plot(reach, curve, line, label=f"{bits} bits")
    plt.title("Clipped on the left, coarse on the right")
    plt.xlabel("range: from -r to r")
    plt.ylabel("signal-to-noise ratio (dB)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
The fewer bits, the more it pays to clip. So let the observer try ranges, and compute the error of each **from the histogram alone**.

PyTorch's way is exact for numbers spread evenly within their bin. The range from bin `first` to bin `last` is divided into levels of equal width $w$; every number becomes the middle $m$ of its level. A number at $x$ has the error $(x - m)^2$, so a piece of a bin from $a$ to $b$ in one level costs

$$\int_a^b (x - m)^2\,dx = \tfrac{1}{3}\big((b - m)^3 - (a - m)^3\big)$$

A bin begins in one level, ends in another, and may contain whole levels in between, each of which costs $\tfrac{1}{3} \cdot 2\,(w/2)^3$:

```
   level    |     m1     |     m2     |     m3     |        each w wide
   bin              a=======================b
```

Beyond the range every number belongs to the first or the last level, however far away: clipping costs what the same formula says.

### Exercise 8: squared_error

`squared_error(counts, first, last, levels)`: the sum over all bins of count times cost, in units of bins (each is 1 wide; bin `first` begins at 0, so bin $i$ goes from $i - first$ to $i - first + 1$). For each bin:

1. The level in which it begins, $a // w$, and ends, $b // w$, both clipped to 0 ... levels - 1.
2. Three costs: from $a$ to the end of its level; from the begin of the last level to $b$; and of the (last - first - 1) levels between, which is **-1** where both are the same level: then one level was counted too many, and the formula takes it back.

<details><summary>Hint</summary>With h = w/2 and m the middle of its level, the first cost is (h^3 - (a - m)^3) / 3, the second ((b - m)^3 + h^3) / 3, the third 2 h^3 / 3 for each level.</details>

Counts [1, 1], first 0, last 1, one level: w = 2, its middle is 1, each bin costs 1/3: together 2/3.
"""


# %% nbgrader={"grade": false, "grade_id": "squared-error", "locked": false, "solution": true}
#| exporti
def squared_error(counts: np.ndarray, first: int, last: int, levels: int) -> float:
    """The squared error, in bin widths, of numbers in bins, if `levels` cover bins first to last.

    Within a bin numbers are taken as spread evenly, and each becomes the middle of its level
    (the L2 criterion of torch.ao.quantization.HistogramObserver).

    >>> round(squared_error(np.array([1.0, 1.0]), 0, 1, levels=1), 6)
    0.666667
    """
    width = (last - first + 1) / levels
    begins = np.arange(len(counts)) - first
    ends = begins + 1.0
    ### BEGIN SOLUTION
    from_level, to_level = (np.clip(x // width, 0, levels - 1) for x in (begins, ends))
    left, right = (level * width + width / 2 for level in (from_level, to_level))
    cube = (width / 2) ** 3
    outer = (cube - (begins - left) ** 3) + ((ends - right) ** 3 + cube)
    between = (to_level - from_level - 1) * 2 * cube
    return float((counts * (outer + between)).sum() / 3)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-squared-error", "locked": true, "points": 8, "solution": false}
def test_squared_error():
    ones = np.ones(4)
    check(squared_error(ones[:2], 0, 1, 1), 2 / 3, "a level of two bins: each costs 1/3")
    check(squared_error(ones, 0, 3, 4), 4 / 12, "a level each: 1/12 each")
    clipped = 2 / 12 + (1.5**3 - 0.5**3 + 2.5**3 - 1.5**3) / 3
    check(squared_error(ones, 0, 1, 2), clipped, "two bins are cut off, and become 1.5")
    ### BEGIN HIDDEN TESTS
    check(squared_error(ones, 2, 3, 2), clipped, "the same on the other side")
    check(squared_error(np.array([5.0, 0, 0, 1]), 0, 3, 2), 2.0, "count times cost: 6 of 1/3")
    check(squared_error(ones, 0, 3, 16), 4 / 12 / 16, "four levels within each bin")
    x = (np.arange(3000) + 0.5) / 1000  # a thousand numbers in each bin
    error = (x - (x // 0.6 * 0.6 + 0.3)) ** 2
    right = error.reshape(3, -1).mean(axis=1) @ [1.0, 2.0, 3.0]
    check(squared_error(np.array([1.0, 2.0, 3.0]), 0, 2, 5), right, "levels of 0.6 bins", 1e-5)
    ### END HIDDEN TESTS


test_squared_error()

# %% [markdown]
r"""
### Given: HistogramObserver

PyTorch's default observer for static quantisation cuts from both ends in turn. It takes off a step of 0.001 % of the numbers, at the end where this removes more bins; as long as the error falls, it goes on. Read `range`: `first`, `last` are the bins kept so far, `heights` is the share of numbers up to each bin.
"""


# %% nbgrader={"grade": false, "grade_id": "histogram-observer", "locked": true, "solution": false}
#| export
class HistogramObserver(HistogramBased):
    """The range whose grid has the least squared error: outliers are cut off where that pays.

    From both ends in turn, steps of 0.001 % of the numbers are cut off, as long as the error falls.
    (As torch.ao.quantization.HistogramObserver.)

    >>> observer = HistogramObserver(bits=4)
    >>> observer.observe(np.append(np.linspace(-1, 1, 10_000), 30.0))
    >>> observer.range()[1] < 2
    True
    """

    def range(self) -> tuple[Any, Any]:
        heights = (self.counts.cumsum() / self.counts.sum()).tolist()
        levels, step = 2**self.grid.bits, 1e-5
        first, last, below, above = 0, self.bins - 1, 0.0, 1.0
        least = math.inf
        while below < above:
            left = min(bisect_left(heights, below + step, first), last)
            right = max(min(last, bisect_right(heights, above - step) - 1), first)
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
        return self.edges(first, last)


# %%
random = np.random.default_rng(0)
heavy = random.standard_t(3, 100_000)  # few numbers, but very large ones
for bits in (8, 4):
    observer = observed(HistogramObserver(bits=bits), heavy)
    low, high = observer.range()
    print(
        f"numbers from {heavy.min():.1f} to {heavy.max():.1f}, {bits} bits: {low:.1f} to {high:.1f}"
    )

# %% [markdown]
r"""
### Exercise 9: MSEObserver

That search is greedy: it stops at the first step that doesn't pay, even if later ones would. The plain alternative is to try a hundred ranges. `BestOf` is given: it cuts off what is larger than 100 %, 99 %, ... 1 % of the largest magnitude, shrinks each range to the bins that hold something, and takes the one of least `cost(first, last)`.

`cost` of `MSEObserver` is the squared error of a grid over the bins `first` to `last`, **for all numbers, also those outside**: the sum over all bins of count times $(x' - x)^2$, where $x$ is the middle of the bin. `self.rounded(first, last)` gives `(levels, restored)`: the level of each middle (counted from 0), and $x'$.
"""


# %% nbgrader={"grade": false, "grade_id": "best-of", "locked": true, "solution": false}
#| exporti
class BestOf(HistogramBased):
    """Tries to cut off large magnitudes, at a hundred places, and takes that of least `cost`."""

    def cost(self, first: int, last: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} needs a method cost(first, last)")

    def rounded(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Each bin's level (from 0) and restored middle, on a grid over the bins first to last."""
        scale, zero_point = qparams(*self.edges(first, last), self.grid)
        lowest, highest = self.grid.limits
        marks = np.clip(np.rint(self.middles / scale) + zero_point, lowest, highest)
        return (marks - lowest).astype(int), (marks - zero_point) * scale

    def range(self) -> tuple[Any, Any]:
        low, high = self.ends
        if low == high:
            return self.ends
        sizes, largest = np.abs(self.middles), max(-low, high)
        candidates: dict[
            tuple[int, int], None
        ] = {}  # a dict, for order: where costs are equal, the widest range is taken
        for limit in largest * np.linspace(1, 0.01, 100):
            kept = np.flatnonzero((self.counts > 0) & (sizes <= limit))
            if kept.size:
                candidates[int(kept[0]), int(kept[-1])] = None
        return self.edges(*min(candidates, key=lambda bins: self.cost(*bins)))


# %% nbgrader={"grade": false, "grade_id": "mse-observer", "locked": false, "solution": true}
#| export
class MSEObserver(BestOf):
    """The range whose grid gives the least mean squared error, of 100 that are tried.

    >>> observer = MSEObserver(bits=4)
    >>> observer.observe(np.append(np.linspace(-1, 1, 100_000), 30.0))
    >>> observer.range()[1] < 2
    True
    """

    def cost(self, first: int, last: int) -> float:
        ### BEGIN SOLUTION
        _, restored = self.rounded(first, last)
        return float((self.counts * (restored - self.middles) ** 2).sum())
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-mse-observer", "locked": true, "points": 4, "solution": false}
def test_mse_observer():
    observer = with_counts(MSEObserver(bits=3, scheme="symmetric"), [0, 0, 7, 1], -3.0, 3.0)
    check(observer.cost(2, 3), 7 / 16 + 1 / 16, "a step of 1: 0.75 becomes 1, 2.25 becomes 2")
    ### BEGIN HIDDEN TESTS
    check(observer.cost(2, 2), 7 / 16 + 9 / 16, "a step of 0.5: 2.25 is clipped to 1.5, and counts")
    numbers = np.random.default_rng(0).standard_normal(50_000)
    low, high = observed(MSEObserver(bits=4), numbers).range()
    check([low, high], [-2.55, 2.55], "4 bits, normal numbers: about 2.5", 0.15)
    ### END HIDDEN TESTS


test_mse_observer()

# %% [markdown]
r"""
## The grid that keeps most information

The squared error is dominated by large numbers. TensorRT asks something else: how much does the **distribution** change? The Kullback-Leibler divergence counts the information lost, in nats, if numbers that are spread like the counts $p$ are taken to be spread like $q$:

$$D(p \,\|\, q) = \frac{1}{N} \sum_i p_i \ln \frac{p_i}{q_i} \qquad N = \sum_i p_i$$

It is 0 where both are equal, and infinite where $q$ calls impossible what happens.

### Exercise 10: divergence

`divergence(p, q)` takes two arrays of counts of the same $N$ numbers, of which $q$ may lack some. Terms with $p_i = 0$ are 0. If anywhere $q_i = 0$ and $p_i > 0$, the answer is `math.inf`, without a warning of NumPy.

[2, 2] and [1, 3]: (2 ln 2 + 2 ln(2/3)) / 4 = 0.143841.
"""


# %% nbgrader={"grade": false, "grade_id": "divergence", "locked": false, "solution": true}
#| exporti
def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """The Kullback-Leibler divergence of counts q from counts p, in nats.

    Both count the same numbers; what q lacks of them makes the divergence larger.

    >>> round(divergence(np.array([2.0, 2.0]), np.array([1.0, 3.0])), 6)
    0.143841
    """
    ### BEGIN SOLUTION
    p, q = p[p > 0], q[p > 0]
    if (q == 0).any():
        return math.inf
    return float((p * np.log(p / q)).sum() / p.sum())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-divergence", "locked": true, "points": 6, "solution": false}
def test_divergence():
    p, q = np.array([2.0, 2.0]), np.array([1.0, 3.0])
    check(divergence(p, q), 0.5 * math.log(4 / 3), "(2 ln 2 + 2 ln(2/3)) / 4")
    check(divergence(q, q), 0.0, "the same distribution")
    ### BEGIN HIDDEN TESTS
    check(divergence(q, p), (math.log(0.5) + 3 * math.log(1.5)) / 4, "p and q differ in role")
    check(divergence(p, p / 2), math.log(2), "half of the numbers are missing: ln 2")
    check(divergence(np.array([0.0, 4.0]), p), math.log(2), "0 ln 0 is 0")
    check(divergence(p, np.array([0.0, 4.0])), math.inf, "q says impossible, p says it happens")
    check(divergence(np.array([0.0, 1.0]), np.array([0.0, 1.0])), 0.0, "both say impossible")
    ### END HIDDEN TESTS


test_divergence()

# %% [markdown]
r"""
What are $p$ and $q$? (Migacz 2017.) For a range from bin `first` to bin `last`:

- $p$ is the histogram of these bins, and **what is cut off is added to the outermost bins**: that is where clipping puts it.
- $q$ is what the grid can tell apart. Several bins fall on one level; their counts become equal. It is made of the bins as they are, **without** what is cut off, so that clipping shows.
  (TensorRT divides $q$ by its own sum. Then a range that holds a single full bin costs nothing, and wins. Here what is cut off stays missing.)

```
   bins      5  1  0  6 | 2  0  2  0        levels  0 0 0 0 | 1 1 1 1
   evened    4  4  0  4 | 2  0  2  0        (5 + 1 + 6) / 3 where something was
```

### Exercise 11: evened

`evened(counts, levels)`: the counts of each level, divided equally among **those of its bins that hold something**. `np.bincount(levels, weights)` adds up by level.
"""


# %% nbgrader={"grade": false, "grade_id": "evened", "locked": false, "solution": true}
#| exporti
def evened(counts: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The counts of bins with those of one level made equal; empty bins stay empty.

    >>> evened(np.array([5.0, 1.0, 0.0, 6.0, 2.0]), np.array([0, 0, 0, 0, 1]))
    array([4., 4., 0., 4., 2.])
    """
    ### BEGIN SOLUTION
    holds = counts > 0
    full = np.maximum(np.bincount(levels, holds), 1)  # how many bins; 1 where there is no count
    return np.where(holds, (np.bincount(levels, counts) / full)[levels], 0.0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-evened", "locked": true, "points": 7, "solution": false}
def test_evened():
    counts = np.array([5.0, 1, 0, 6, 2, 0, 2, 0])
    levels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    check(evened(counts, levels), [4.0, 4, 0, 4, 2, 0, 2, 0], "equal where something was")
    ### BEGIN HIDDEN TESTS
    check(evened(counts, levels + 3), [4.0, 4, 0, 4, 2, 0, 2, 0], "levels without a bin")
    empty = np.array([0.0, 0.0, 3.0])
    check(evened(empty, np.array([0, 0, 1])), [0.0, 0.0, 3.0], "a level of empty bins: no 0 / 0")
    check(evened(counts, np.arange(8)), counts.tolist(), "a level each: nothing changes")
    check(counts[0], 5.0, "the counts given are left alone")
    ### END HIDDEN TESTS


test_evened()

# %% [markdown]
r"""
### Exercise 12: EntropyObserver

`cost(first, last)`: make $p$ and $q$ as above and return their divergence. (Copy before you add: `self.counts` must stay as it is.)

`see` is given, and holds one more idea. After a ReLU half of all numbers are exactly 0. They make a spike in one bin; any level wider than a bin would spread that spike out and seem to lose much. But 0 is a mark of every grid, nothing is lost: zeros are left out.
"""


# %% nbgrader={"grade": false, "grade_id": "entropy-observer", "locked": false, "solution": true}
#| export
class EntropyObserver(BestOf):
    """The range whose grid loses the least information: D(numbers as they are, as rounded).

    Both are distributions over bins: what is cut off counts in the outermost bins, and a level's
    numbers are spread evenly over those of its bins that hold something. Zeros, which every grid
    keeps, don't count. (Migacz 2017, "8-bit inference with TensorRT"; but there what is rounded is
    divided by its own sum, and where few bins hold anything, the narrowest range costs nothing.)

    >>> observer = EntropyObserver()
    >>> observer.observe(np.append(np.linspace(-1, 1, 100_000), 30.0))
    >>> observer.range()[1] < 2
    True
    """

    def see(self, values: np.ndarray) -> None:
        nonzero = values[values != 0]
        if nonzero.size:
            super().see(nonzero)

    def cost(self, first: int, last: int) -> float:
        ### BEGIN SOLUTION
        levels, _ = self.rounded(first, last)
        inside = self.counts[first : last + 1]
        p = inside.copy()
        p[0] += self.counts[:first].sum()
        p[-1] += self.counts[last + 1 :].sum()
        return divergence(p, evened(inside, levels[first : last + 1]))
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-entropy-observer", "locked": true, "points": 6, "solution": false}
def test_entropy_observer():
    observer = with_counts(EntropyObserver(bits=2, signed=False), [1, 5, 2, 2], 0.0, 4.0)
    levels, _ = observer.rounded(0, 3)
    check(levels.tolist(), [0, 1, 2, 3], "four bins, four levels")
    check(observer.cost(0, 3), 0.0, "a level for each bin: nothing is lost")
    p, q = np.array([1.0, 9.0]), np.array([1.0, 5.0])
    check(observer.cost(0, 1), divergence(p, q), "2 + 2 are cut off: in p they count as the last")
    ### BEGIN HIDDEN TESTS
    p, q = np.array([8.0, 2.0]), np.array([2.0, 2.0])
    check(observer.cost(2, 3), divergence(p, q), "what is cut off on the left counts as the first")
    check(observer.counts.tolist(), [1.0, 5.0, 2.0, 2.0], "the counts stay as they are")
    coarse = with_counts(EntropyObserver(bits=2, signed=False), [4, 0, 2, 2, 1, 1, 1, 9], 0.0, 8.0)
    levels, _ = coarse.rounded(0, 7)
    check(coarse.cost(0, 7), divergence(coarse.counts, evened(coarse.counts, levels)), "evened")
    ### END HIDDEN TESTS


test_entropy_observer()

# %% [markdown]
r"""
Each on numbers of different kinds, in 8 and 4 bits. **Predict** which observer reaches farthest on the heavy tails, and which least.
"""

# %%
KINDS = {
    "min-max": MinMaxObserver,
    "moving average": MovingAverageMinMaxObserver,
    "percentile 99.99": PercentileObserver,
    "histogram": HistogramObserver,
    "MSE": MSEObserver,
    "entropy": EntropyObserver,
}
random = np.random.default_rng(0)
normal = random.standard_normal(50_000)
numbers = {
    "normal": normal,
    "after ReLU": np.maximum(normal, 0),
    "heavy tails": random.standard_t(3, 50_000),
    "and one 20": np.append(normal, 20.0),
}
print(f"high, and SNR in dB   {''.join(f'{name:>16}' for name in numbers)}")
for bits in (8, 4):
    for name, kind in KINDS.items():
        cells = []
        for values in numbers.values():
            observer = observed(kind(bits=bits), values)
            x = Tensor(values)
            back = rounded(x, observer.grid, *observer.calculate_qparams())
            cells.append(f"{ends(observer)[1]:9.2f}{quantization_error(x, back)['snr_db']:7.1f}")
        print(f"{bits} bits {name:16}{''.join(cells)}")

# %% [markdown]
r"""
Measured by squared error, the observer that minimises it wins, nearly everywhere. That is no surprise, and no proof: what counts is what the network does with the numbers.
But in 8 bits min-max is good wherever there is no outlier, and that clipping hurts on heavy tails: those large numbers are most of the power.

## Put together: which observer for the digits?

First look at what reaches the three layers, and at the ranges chosen for 4 bits. `reaching` notes it, batch by batch.
"""


# %%
def linears(model) -> list[Linear]:
    """The Linear layers of a model, in order."""
    return [module for module in model.modules() if isinstance(module, Linear)]


def reaching(model, batches) -> list[list[Tensor]]:
    """For each Linear, what reaches it, batch by batch."""
    seen = [[] for _ in linears(model)]
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, notes=notes: notes.append(inputs[0]))
        for layer, notes in zip(linears(model), seen, strict=True)
    ]
    with no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    return seen


reached = {name: reaching(network, batches) for name, batches in DATA.items()}

if plt:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8))
    for layer, (axis, batches) in enumerate(zip(axes, reached["clean"], strict=True)):
        values = np.concatenate([batch.data.reshape(-1) for batch in batches])
        axis.hist(values, bins=100, log=True, color="0.75")
        for row, (name, kind) in enumerate(KINDS.items()):
            low, high = ends(observed(kind(bits=4), *(batch.data for batch in batches)))
            height = 10.0 ** (4.6 - 0.6 * row)
            axis.plot([low, high], [height] * 2, "k|-")
            axis.text(high, height, f" {name}", va="center", fontsize=8)
        axis.set(
            title=f"input of layer {layer + 1}", xlabel="number", xlim=(None, values.max() * 1.5)
        )
    axes[0].set_ylabel("how many")
    plt.tight_layout()
    plt.show()

# %% [markdown]
r"""
Now quantise the network with each observer: weights on a symmetric grid for each output channel, inputs on the grid of the observer, all in the same number of bits. `on_grids` makes a copy whose layers see only numbers that come back from their grids; it computes in floats what the integers would.

**Predict** the accuracy of min-max with the pixel of 10, in 8 and in 4 bits, and which observer is best there. In which cells will a clever observer be *worse* than min-max?
"""


# %%
def on_grids(model, kind, bits, reached):
    """A copy with weights and inputs rounded to grids; inputs by the observer `kind`."""
    model = copy.deepcopy(model)
    for layer, batches in zip(linears(model), reached, strict=True):
        weight = PerChannelMinMaxObserver(axis=1, bits=bits, scheme="symmetric")
        weight.observe(layer.weight)
        scale, zero_point = (along(part, 2, 1) for part in weight.calculate_qparams())
        layer.weight = rounded(layer.weight, weight.grid, scale, zero_point)
        inputs = observed(kind(bits=bits), *(batch.data for batch in batches))
        grid = inputs.grid, *inputs.calculate_qparams()
        layer.register_forward_pre_hook(lambda _, x, grid=grid: rounded(x[0], *grid))
    return model


with no_grad():
    expected = network(test.images)
    print(f"FP32: accuracy {accuracy(network):.3f}{'8 bits':>25}{'6 bits':>19}{'4 bits':>19}")
    for data, batches in reached.items():
        print(f"calibrated, {data}: SNR of the outputs in dB, accuracy")
        for name, kind in KINDS.items():
            cells = []
            for bits in (8, 6, 4):
                small = on_grids(network, kind, bits, batches)
                snr = quantization_error(expected, small(test.images))["snr_db"]
                cells.append(f"{snr:6.1f} dB {accuracy(small):6.3f}   ")
            print(f"    {name:30}{''.join(cells)}")

# %% [markdown]
r"""
Read the table for what it does *not* say in favour of clever observers, too (and don't read much into a digit more or less: one of 355 is 0.003).

- With clean data min-max is as good as any in 8 bits, and not far behind in 4.
- With a pixel of 10, in 4 bits, all that clip or average are better than min-max; in 8 bits there are marks enough for the pixel too.
- A pixel of 1000 has more squared error to lose than all digits together. The observers that minimise it keep it, and the network is ruined: right by their measure, and wrong.
- A percentile knows only *how many* are too large. One bad image sends a large number to most of 64 hidden units, and that is more than one in 10,000.
- The divergence counts numbers, whatever their size: here it copes with all three. In the table before it clipped heavy tails that mattered.
- The moving average was lucky that the pixel came in the fifth batch, not in the first.

So: look at your data before you calibrate, measure the accuracy after, and don't believe in one observer.

### A recipe for a layer

A network needs two observers a layer: one for what the layer gives, one for its weight. `QConfig` holds what makes them, not the observers themselves: each layer gets its own. `functools.partial(MSEObserver, bits=4)` is such a maker.
"""


# %% nbgrader={"grade": false, "grade_id": "qconfig", "locked": true, "solution": false}
#| export
_symmetric_channels = partial(PerChannelMinMaxObserver, scheme="symmetric")


@dataclass(frozen=True)
class QConfig:
    """How a layer is quantised: what makes the observers of its activations and of its weight.

    `weight` is called with the `axis` of the output channels.

    >>> config = QConfig(activation=partial(MSEObserver, bits=4))
    >>> config.activation()
    MSEObserver(Grid(bits=4, signed=True, scheme='affine', reduce_range=False))
    >>> config.weight(axis=1).grid.scheme
    'symmetric'
    """

    activation: Callable[..., Observer] = HistogramObserver
    weight: Callable[..., Observer] = _symmetric_channels


# %% [markdown]
r"""
## Layers that are one

Where do observers go? Behind each layer, it seems. But take a convolution, its batch norm and its ReLU. The norm has a range of its own, which in the end nobody sees; and before the ReLU half of the numbers are negative, and gone a moment later. **Predict** what observing in the wrong place costs, in dB.
"""

# %%
before = Tensor(np.random.default_rng(0).standard_normal(50_000))  # what a norm gives
after = Tensor(np.maximum(before.data, 0))  # what its ReLU leaves of that
for place, seen in (("before", before), ("behind", after)):
    observer = observed(MinMaxObserver(), seen.data)
    back = rounded(seen, observer.grid, *observer.calculate_qparams())
    positive = Tensor(np.maximum(back.data, 0))
    print(f"observed {place} the ReLU: {quantization_error(after, positive)['snr_db']:.1f} dB")

# %% [markdown]
r"""
A whole bit. And each grid more is an operation more when the network runs on integers. So first **fuse**: make one of the layers that follow one another.

A batch norm in eval mode multiplies each channel and adds something, with numbers that don't change any more:

$$y = \gamma\,\frac{(x * w + b) - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta \;=\; x * (w s) + (b - \mu)\,s + \beta \qquad s = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}$$

That is a convolution again, with other weights. The norm costs nothing any more.

### Exercise 13: fold_batch_norm

`fold_batch_norm(layer, norm)` changes `layer.weight` and `layer.bias` (assign new Tensors) so that the layer alone does what both did. $\mu$, $\sigma^2$, $\epsilon$, $\gamma$, $\beta$ are `norm.running_mean`, `running_var`, `eps`, `weight`, `bias`; `layer.bias` may be None, and so may the norm's weight and bias (both, with `affine=False`).
Output channels are along axis 1 of a Linear's weight, axis 0 of a Conv2d's. Compute in float64.

Weight 0.5, bias 1; mean 3, variance 4 (eps 0), gamma 6, beta -1: $s$ = 3, weight 1.5, bias (1 - 3) 3 - 1 = -7.
"""


# %% nbgrader={"grade": false, "grade_id": "fold-batch-norm", "locked": false, "solution": true}
#| exporti
def fold_batch_norm(layer: Linear | Conv2d, norm: BatchNorm1d | BatchNorm2d) -> None:
    """Put what a batch norm does in eval mode into the weight and bias of the layer before it.

    s = weight / sqrt(running_var + eps): each output channel's weight times s, and
    bias = (bias - running_mean) s + norm's bias. (Jacob et al. 2018, section 3.2.)
    """
    ### BEGIN SOLUTION
    scale = (norm.running_var.data.astype(np.float64) + norm.eps) ** -0.5
    if norm.weight is not None:
        scale = scale * norm.weight.data
    bias = 0.0 if layer.bias is None else layer.bias.data
    bias = (bias - norm.running_mean.data) * scale
    if norm.bias is not None:
        bias = bias + norm.bias.data
    along = (1, -1) if isinstance(layer, Linear) else (-1, 1, 1, 1)  # the output channels
    layer.weight = Tensor(layer.weight.data * scale.reshape(along))
    layer.bias = Tensor(bias)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-fold-batch-norm", "locked": true, "points": 7, "solution": false}
def settled(norm, seed=0):
    """A batch norm in eval mode that has seen something, with weights of its own."""
    random = np.random.default_rng(seed)
    for tensor in (*norm.parameters(), *norm.buffers()):
        tensor.data[...] = random.uniform(0.5, 2.0, tensor.shape)
    return norm.eval()


def test_fold_batch_norm():
    layer, norm = Linear(1, 1), BatchNorm1d(1, eps=0.0).eval()
    for tensor, value in zip(
        (layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias),
        (0.5, 1.0, 3.0, 4.0, 6.0, -1.0),
        strict=True,
    ):
        tensor.data[...] = value
    fold_batch_norm(layer, norm)
    check([layer.weight.item(), layer.bias.item()], [1.5, -7.0], "s = 6 / sqrt(4)")
    ### BEGIN HIDDEN TESTS
    x = Tensor(np.random.default_rng(1).standard_normal((2, 3, 5, 5)))
    conv, norm = Conv2d(3, 4, 3, bias=False), settled(BatchNorm2d(4, eps=0.1))
    expected = norm(conv(x)).data
    fold_batch_norm(conv, norm)
    check(conv(x), expected, "Conv2d: output channels along axis 0; no bias before", 1e-5)
    square, norm = Linear(4, 4), settled(BatchNorm1d(4))
    expected = norm(square(x[:, 0, :4, :4][0])).data
    fold_batch_norm(square, norm)
    check(square(x[:, 0, :4, :4][0]), expected, "Linear: output channels along axis 1", 1e-5)
    plain, norm = Linear(5, 3), settled(BatchNorm1d(3, affine=False))
    expected = norm(plain(x[0, 0])).data
    fold_batch_norm(plain, norm)
    check(plain(x[0, 0]), expected, "affine=False: neither weight nor bias", 1e-5)
    ### END HIDDEN TESTS


test_fold_batch_norm()

# %% [markdown]
r"""
### Given: who follows whom

In a Sequential the next in the list follows. In a model with a `forward` of its own, only running it tells: `followers(model, example)` puts a `Traced` in the place of every leaf of the tree, runs the model once, and puts the leaves back.
It lists a pair only where **nobody else** takes the first one's result: not a residual connection around it, not the caller of the model; and where both are called once.

```
   conv --> norm --> relu -->          conv, norm, relu can be one
   conv --> norm --(+)--> relu -->     conv, norm can; relu follows the sum
   conv --.-> relu -->                 nothing can: a second taker wants
          '------------(+)-->          what is there before the relu
```
"""


# %% nbgrader={"grade": false, "grade_id": "followers", "locked": true, "solution": false}
#| exporti
FOLDABLE = {(Linear, BatchNorm1d, 2), (Conv2d, BatchNorm2d, 4)}  # layer, norm, axes between them
NOBODY = (None, 0)


class Traced(Module):
    """Stands in the place of a leaf of the tree and writes down what it got and gave."""

    def __init__(self, leaf: Any, calls: list[tuple[Any, Any, Any]]):
        self.leaf, self.calls = leaf, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self.leaf, name)  # somebody may want the leaf's weight

    def forward(self, *inputs: Any, **options: Any) -> Any:
        out = self.leaf(*inputs, **options)
        self.calls.append((self.leaf, inputs[0] if inputs else None, out))
        return out


def tensors_in(value: Any) -> list[Tensor]:
    """A Tensor, or those in nested lists, tuples and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return [value] if isinstance(value, Tensor) else []


def traced_run(model: Module, example: Any) -> tuple[list[tuple[Any, Any, Any]], Counter[int]]:
    """The calls of leaves in one run, and how often each tensor was taken (by id)."""
    calls: list[tuple[Any, Any, Any]] = []
    taken: Counter[int] = Counter()
    alive = []  # the id of a tensor that is gone would be given to another

    def count(op: Callable, inputs: tuple, params: dict, out: Any) -> None:
        taken.update(id(x) for x in tensors_in(inputs))
        alive.append(out)

    leaves = [m for m in model.modules() if not (isinstance(m, Module) and m.children())]
    traced = {id(leaf): Traced(leaf, calls) for leaf in leaves if leaf is not model}
    replace_modules(model, traced)
    try:
        with no_grad(), watching("followers", count):
            taken.update(id(x) for x in tensors_in(model(example)))
    finally:
        replace_modules(model, {id(stand_in): stand_in.leaf for stand_in in traced.values()})
    return calls, taken


def followers(model: Module, example: Any) -> dict[int, tuple[Any, int]]:
    """Who alone takes a leaf's result, and how many axes that has, by the id of the leaf.

    Leaves that are called more than once, or whose weight is used elsewhere too, are left out.
    """
    calls, taken = traced_run(model, example)
    times = Counter(id(leaf) for leaf, _, _ in calls)
    takers: dict[int, list[Any]] = {id(out): [] for _, _, out in calls}
    for leaf, given, out in calls:
        if out is not given:  # as Dropout does in eval mode
            takers.setdefault(id(given), []).append(leaf)
    found = {}
    for leaf, _, out in calls:
        if len(takers[id(out)]) == taken[id(out)] == times[id(leaf)] == 1:
            [taker] = takers[id(out)]
            if times[id(taker)] == 1 and taken[id(getattr(leaf, "weight", None))] <= 1:
                found[id(leaf)] = taker, out.ndim
    return found


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


# %% [markdown]
r"""
### Exercise 14: fuse

`after` is given: `after.get(id(leaf), NOBODY)` is the pair (follower, number of axes of what passes between them). For each Linear or Conv2d (these very types) in `model.modules()`:

1. If (type of the layer, type of the follower, axes) is in `FOLDABLE`: fold the norm into the layer, and let `replaced[id(norm)]` be an `Identity()`. The next follower to look at is then that of the norm.
2. If that follower's type is ReLU: `replaced[id(layer)]` is `Fused(layer)`, and the ReLU becomes an `Identity()`.

At the end `replace_modules(model, replaced)`, of module 15. (Why the axes? A BatchNorm1d behind a Linear on (N, T, features) has its channels along T, and can't be folded.)
"""


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
    if not isinstance(model, Module):
        raise TypeError(f"fuse: expected a Module, got {type(model).__name__}")
    model = copy.deepcopy(model).eval()
    after = followers(model, example)
    replaced: dict[int, Any] = {}
    ### BEGIN SOLUTION
    for layer in model.modules():
        if type(layer) not in (Linear, Conv2d):
            continue
        last = layer
        norm, ndim = after.get(id(layer), NOBODY)
        if (type(layer), type(norm), ndim) in FOLDABLE:
            fold_batch_norm(layer, norm)
            replaced[id(norm)], last = Identity(), norm
        bend, _ = after.get(id(last), NOBODY)
        if type(bend) is ReLU:
            replaced[id(bend)], replaced[id(layer)] = Identity(), Fused(layer)
    replace_modules(model, replaced)
    ### END SOLUTION
    return model


# %% nbgrader={"grade": true, "grade_id": "test-fuse", "locked": true, "points": 7, "solution": false}
class Residual(Module):
    """relu(x + norm(conv(relu(conv(x))))): its second ReLU follows the sum, not the norm."""

    def __init__(self):
        self.bend = [ReLU(), ReLU()]
        self.first, self.second = Conv2d(3, 3, 3, padding=1), Conv2d(3, 3, 3, padding=1)
        self.norm = settled(BatchNorm2d(3))

    def forward(self, x):
        inner = self.norm(self.second(self.bend[0](self.first(x))))
        return self.bend[1](x + inner)


def kinds(model) -> list[str]:
    """The types of all modules of a model."""
    return [type(module).__name__ for module in model.modules()]


def test_fuse():
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 6, 6)))
    norms = settled(BatchNorm2d(2)), settled(BatchNorm1d(5))
    model = Sequential(Conv2d(3, 2, 3), norms[0], ReLU(), Flatten(), Linear(32, 5), norms[1])
    expected = model.eval()(x).data
    fused = fuse(model, x)
    check(fused(x), expected, "fusing changes the result only by rounding", 1e-5)
    check([type(fused[0]) is Fused, type(fused[4]) is Linear], [True, True], "ReLU or none behind")
    check("BatchNorm2d" in kinds(fused) or "BatchNorm1d" in kinds(fused), False, "no norm is left")
    ### BEGIN HIDDEN TESTS
    check(model(x), expected, "the model itself stays as it is")
    check(kinds(fused).count("Identity"), 3, "two norms and a ReLU became Identity")
    block = Residual().eval()
    expected = block(x).data
    fused = fuse(block, x)
    check(fused(x), expected, "a residual block", 1e-5)
    check([type(fused.first) is Fused, type(fused.second) is Conv2d], [True, True], "the norm only")
    check([type(bend).__name__ for bend in fused.bend], ["Identity", "ReLU"], "of the sum: stays")
    shared = ReLU()
    twice = Sequential(Linear(6, 6), shared, Linear(6, 6), shared)
    check(kinds(fuse(twice, x)).count("Fused"), 0, "a ReLU that is called twice can't be fused")
    bare = fuse(Sequential(Conv2d(3, 2, 3), ReLU()), x)
    check(kinds(bare).count("Fused"), 1, "a ReLU right behind, without a norm")
    sequence = Sequential(Linear(6, 6), settled(BatchNorm1d(6))).eval()
    check(fuse(sequence, x[:, 0, :, :])(x[:, 0, :, :]), sequence(x[:, 0, :, :]).data, "axes", 1e-5)
    ### END HIDDEN TESTS


test_fuse()

# %% [markdown]
r"""
On a network that has learned something: two convolutions with batch norms. **Predict** the largest difference between the outputs before and after fusing (float32 has about seven digits), and how many ranges there are left to choose.
"""

# %%
manual_seed(0)
cnn = trained(
    Sequential(
        *(Conv2d(1, 8, 3, padding=1, bias=False), BatchNorm2d(8), ReLU()),
        *(Conv2d(8, 16, 3, stride=2, padding=1, bias=False), BatchNorm2d(16), ReLU()),
        *(Flatten(), Linear(16 * 4 * 4, 10)),
    ),
    epochs=3,
)
fused = fuse(cnn, test.images[:2])
print(fused)
with no_grad():
    difference = np.abs(cnn(test.images).data - fused(test.images).data).max()
print(
    f"accuracy {accuracy(cnn):.3f} and {accuracy(fused):.3f}, largest difference {difference:.1e}"
)

weights = {"before": cnn[3].weight.data, "fused": fused[3].layer.weight.data}
for name, weight in weights.items():
    largest = np.abs(weight).max(axis=(1, 2, 3))
    print(f"largest weight of each channel, {name}: {largest.min():.2f} to {largest.max():.2f}")

# %% [markdown]
r"""
The last two lines are the price: folding scales each channel by its own $s$, so the ranges of the channels differ more than before. That is why weights get a grid for each output channel.
(PyTorch: `torch.ao.quantization.fuse_modules(model, [["conv", "norm", "relu"]])`, where you name the layers yourself.)

## What it costs

An observer runs with the network, on every tensor. **Predict**: what does each kind keep of a million numbers, and how long does it look at them? Beside it, keeping everything and sorting it out at the end.
"""

# %%
import time


class KeepEverything(Observer):
    """The percentiles of all numbers, kept until the end."""

    def see(self, values):
        self.kept = [*getattr(self, "kept", []), values]

    def range(self):
        return np.percentile(np.concatenate([x.reshape(-1) for x in self.kept]), [0.01, 99.99])


def held(observer) -> int:
    """The bytes of all arrays that an observer keeps."""
    values = list(vars(observer).values())
    values += getattr(observer, "kept", [])
    return sum(x.nbytes for x in values if isinstance(x, (np.ndarray, np.floating)))


sizes = (10_000, 100_000, 1_000_000)
kinds_of_cost = {"keep everything": KeepEverything, **KINDS}
del kinds_of_cost["moving average"]  # as min-max
batches = np.random.default_rng(0).standard_normal((10, 100_000)).astype(np.float32)
for size in sizes:
    print(f"{size:>9,} numbers        bytes kept   observing, ms   choosing, ms")
    for name, kind in kinds_of_cost.items():
        observer, start = kind(), time.perf_counter()
        for batch in batches:
            observer.observe(batch[: size // 10])
        middle = time.perf_counter()
        observer.calculate_qparams()
        end = time.perf_counter()
        times = f"{1000 * (middle - start):15.2f}{1000 * (end - middle):15.2f}"
        print(f"    {name:18}{held(observer):15,}{times}")

# %% [markdown]
r"""
Min-max reads each number once. A histogram computes a bin for each: more time, and always the same memory. Choosing happens once; MSE and entropy compute a hundred costs of 2048 bins each. With the data at hand, calibration on a few hundred images is cheap in any of these ways; keeping everything is not.

### Why reduce_range exists

Processors before VNNI multiply eight bits by an instruction (`vpmaddubsw`) that takes 32 pairs, unsigned times signed, and **adds each two products in 16 bits**. What doesn't fit stays at 32,767. **Predict** the largest sum of two products, 255 x 127 each, and the same with 7 bits for the unsigned numbers.
"""

# %%
random = np.random.default_rng(0)
for reduce_range in (False, True):
    inputs = Grid(signed=False, reduce_range=reduce_range).limits
    weights = Grid(scheme="symmetric").limits
    a = random.integers(inputs[0], inputs[1] + 1, (2, 100_000))
    b = random.integers(weights[0], weights[1] + 1, (2, 100_000))
    sums = (a * b).sum(axis=0)
    wrong = (np.abs(sums) > 32_767).mean()
    print(f"inputs {inputs}: largest {2 * inputs[1] * weights[1]:,}, too large {wrong:.1%}")

# %% [markdown]
r"""
With all 8 bits some sums are simply wrong, and nothing says so. `reduce_range=True` gives one bit away, 6 dB, and is safe. Processors with VNNI or a dot product of bytes (`vpdpbusd`, ARM's `sdot`) add four products in 32 bits and need no such thing; that is why it is off by default here.
PyTorch turns it on in `get_default_qconfig("fbgemm")`, and leaves it off for `"qnnpack"` (ARM).

## Questions

Answer in a few lines, with the numbers worked out.

### 1. To clip or not to clip (4 points)

9,999 numbers are spread evenly over [0, 6], one is 30. Estimate the total squared error of 8 and of 4 unsigned bits, with the range [0, 30] and with [0, 6] (the error of a step $s$ is $s^2 / 12$ for each number that isn't clipped). From how many bits on is it better to keep the outlier?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-clip", "locked": false, "points": 4, "solution": true}
r"""
8 bits: s = 30/255 = 0.118, 10,000 x 0.00115 = 11.5; clipped: s = 0.0235, 10,000 x 0.0000461 = 0.46, and 24^2 = 576 for the outlier. Keeping it is 50 times better.
4 bits: s = 2, 10,000 / 3 = 3,333; clipped: s = 0.4, 133 + 576 = 709. Clipping is nearly 5 times better.
5 bits: 780 against 31 + 576 = 607, clip; 6 bits: 189 against 8 + 576 = 584, keep. So from 6 bits on.
"""

# %% [markdown]
r"""
### 2. How long an outlier is remembered (4 points)

Every batch has the high 4; one has 1000. With an averaging constant of 0.01: how high does the average get, and after how many more batches is it below 5? And if the outlier is in the very first batch?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-memory", "locked": false, "points": 4, "solution": true}
r"""
It rises to 4 + 0.01 x 996 = 13.96. The excess 9.96 shrinks by 0.99 a batch: below 1 after ln 9.96 / -ln 0.99 = 2.30 / 0.01005 = 229 batches.
In the first batch the excess is 996: ln 996 / 0.01005 = 687 batches. Many calibrations have fewer.
"""

# %% [markdown]
r"""
### 3. Bins (4 points)

A network has 50 observed places of 100,000 numbers an image; you calibrate on 1,000 images. How many bytes do 50 histograms of 2048 float64 counts take, and how many would all numbers as float32? One place has numbers in [-4, 4] and one outlier of 1000: how many bins are left for the bulk, and how precisely can any observer based on that histogram choose its range?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-bins", "locked": false, "points": 4, "solution": true}
r"""
50 x 2048 x 8 = 819,200 bytes, against 50 x 100,000 x 1,000 x 4 = 20 GB.
A bin is 1004 / 2048 = 0.49 wide, so the bulk has 8 / 0.49 = 16 or 17 bins. The range can be chosen to within a bin, half a unit in 4: good enough to get rid of the outlier, too coarse to tell 3.5 from 4. With an outlier of 100,000 the whole bulk would be in one bin.
"""

# %% [markdown]
r"""
### 4. Two channels after folding (4 points)

A convolution has two output channels with weights up to 0.5 each. Their batch norms have gamma 1 and variances 0.01 and 100. How large are the weights after folding? With one symmetric int8 grid for both, how many levels above 0 has the smaller channel, and how many with a grid for each?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-fold", "locked": false, "points": 4, "solution": true}
r"""
s = 1 / sqrt(0.01) = 10 and 1 / sqrt(100) = 0.1: weights up to 5 and up to 0.05. One grid: s = 5 / 127 = 0.039, so 0.05 is 1.27 steps: one level above 0, the channel is nearly gone.
A grid for each: 127 levels. The ratio of scales is 100, about 6.6 bits.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "solution": false}
def test_module():
    """Run every test of this lesson."""
    tests = [
        *(test_grid_limits, test_qparams, test_min_max, test_moving_average, test_per_channel),
        *(test_spread, test_percentile, test_squared_error, test_mse_observer, test_divergence),
        *(test_evened, test_entropy_observer, test_fold_batch_norm, test_fuse),
    ]
    for test_function in tests:
        test_function()
    print(f"{len(tests)} tests passed: module 22 is complete")


test_module()

# %% [markdown]
r"""
## What works now

- Seven observers choose a grid from what passes by, in any number of bits, with the memory of one histogram at most.
- You know what each of them minimises, and that none is best everywhere: in 8 bits on clean data the simplest will do.
- Any model is fused by running it once: batch norms cost nothing any more, a ReLU belongs to the layer before it.
- With observers, a recipe (`QConfig`) and a fused model, all is ready for layers that take and give integers.
"""

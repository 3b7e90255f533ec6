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

Time: 5 hours. You have quantised networks, chosen their grids and trained them for it. But look closely at what they compute: the weights are int8, and almost everything else is still a float.
Here you take the last float out. What is left runs on a chip that has no floating-point unit at all, bit for bit the same everywhere.
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

# %% [markdown]
r"""
## How much floating point is left?

The network that reads digits, quantised by module 15, calibrated, one grid for each channel. **Predict**: of the arrays that pass from layer to layer, how many are int8? Write it down.
"""

# %%
import copy
import time

from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.spatial import BatchNorm2d
from tinytorch.core.tensor import manual_seed
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits
from tinytorch.optimization.observers import Grid
from tinytorch.optimization.quantization import quantize_model
from tito.testing import check

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the plots are left out

# %%
train, test = Digits(), Digits(train=False)


def share_right(outputs) -> float:
    """The share of test digits whose largest output is the right one."""
    return float((outputs.data.argmax(axis=1) == test.labels.data).mean())


def trained(model, epochs) -> Sequential:
    """The model after some epochs of Adam on the training digits, in eval mode."""
    trainer = Trainer(model, Adam(model.parameters(), lr=3e-3), CrossEntropyLoss())
    trainer.fit(DataLoader(train, batch_size=50, shuffle=True, seed=0), epochs)
    return model.eval()


manual_seed(0)
hidden = Linear(64, 64), ReLU(), Linear(64, 64), ReLU()
network = trained(Sequential(Flatten(), *hidden, Linear(64, 10)), epochs=10)

# %%
int8_network = copy.deepcopy(network)
quantize_model(int8_network, train.images, axis=1)
with no_grad():
    x = test.images
    for layer in int8_network:
        x = layer(x)
        print(f"{type(layer).__name__:16} gives {x.dtype}")
print(f"accuracy {share_right(x):.3f}")

# %% [markdown]
r"""
None. Each layer quantises its input, multiplies integers, and turns the sums back into floats with a float scale and a float bias; the next layer quantises again. That saves memory. It does not free you from floats: a microcontroller without a floating-point unit needs dozens of instructions for each of them.

What would a layer be that takes int8 and gives int8? Let $x = s_x (q_x - z_x)$, $w = s_w q_w$ (symmetric, no zero point) and $y = s_y (q_y - z_y)$. Put them into $y = \sum x w + b$ and solve for $q_y$:

$$q_y = z_y + \underbrace{\frac{s_x s_w}{s_y}}_{M} \Big( \underbrace{\sum (q_x - z_x)\, q_w + q_b}_{\text{integers}} \Big), \qquad q_b = \mathrm{round}\Big(\frac{b}{s_x s_w}\Big)$$

Everything in it is an integer, except **one number**: $M$. It is known before the first image comes, and it is always positive. (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".)

```
 int8 q_x --(- z_x)--> int16 --(* q_w, add up)--> int32 --(+ q_b)--> int32 --(* M, round)--> (+ z_y, clip) --> int8 q_y
                                                                             ^ the only float
```

So this lesson is about three things: multiplying by $M$ without floats; sums of products in NumPy, exact and not too slow; and the layers around them.

## A real number without a point

Every positive number is a mantissa times a power of two. Take 31 bits of mantissa:

$$M \approx \frac{m}{2^{31}} \cdot 2^{e}, \qquad 2^{30} \le m < 2^{31}$$

Then $x M$ is: multiply by the integer $m$, drop 31 bits, shift by $e$. The computer sees integers only; where the point stands is written in our heads, and it stays there. Hence the name: **fixed-point** arithmetic.

**Predict**: float32 has 24 bits of mantissa. Which of the two is nearer to $M$ = 1/3, the float32 or the pair $(m, e)$?

### Exercise 1: fixed_point

`np.frexp(M)` gives a fraction, $0.5 \le$ fraction $< 1$, and the exponent. The mantissa is the fraction times $2^{31}$, rounded to the nearest, halves up: `np.floor(... + 0.5)`. Two cases need care:

- The fraction may round up to 1, so the mantissa to $2^{31}$, which is no int32: then it is $2^{30}$, and the exponent one more.
- Where the exponent is below -31, nothing would be left after shifting: mantissa 0, exponent 0.

`multiplier` may be an array (one $M$ for each channel), so use `np.where`. Mantissas of $2^{31}$ must fit on the way: int64. 0.75 gives $(0.75 \cdot 2^{31}, 0)$; 3 is $0.75 \cdot 2^2$.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-fixed-point", "locked": true, "points": 10, "solution": false}
def test_fixed_point():
    check(fixed_point(0.75), (3 * 2**29, 0), "0.75 is 0.75 * 2^0")
    check(fixed_point(3.0), (3 * 2**29, 2), "3 is 0.75 * 2^2: the exponent may be above 0")
    check(fixed_point(0.01)[1], -6, "0.01 is 0.64 * 2^-6")
    ### BEGIN HIDDEN TESTS
    check(fixed_point(0.5 + 2.0**-32), (2**30 + 1, 0), "halves of the mantissa round up")
    check(fixed_point(0.5 + 1.5 * 2.0**-31), (2**30 + 2, 0), "halves up, not to even or down")
    check(fixed_point(1 - 2.0**-40), (2**30, 1), "what rounds up to 1 is 0.5 * 2^1")
    check(fixed_point(2.0**-40), (0, 0), "below 2^-32 nothing is left")
    check(fixed_point(2.0**-32), (2**30, -31), "an exponent of -31 can still be shifted")
    mantissa, exponent = fixed_point(np.array([[0.75], [3.0], [1e-20]]))
    check(mantissa, np.array([[3 * 2**29], [3 * 2**29], [0]]), "element by element")
    check(exponent, np.array([[0], [2], [0]]), "element by element")
    ### END HIDDEN TESTS


test_fixed_point()

# %%
for number in (1 / 3, 0.001, 0.0123):
    mantissa, exponent = fixed_point(number)
    written = mantissa * 2.0 ** (exponent - 31)
    print(
        f"{number:.4f} = {mantissa} / 2^31 * 2^{exponent}: wrong by {abs(written / number - 1):.1e}",
        end="",
    )
    print(f", as float32 by {abs(float(np.float32(number)) / number - 1):.1e}")

# %% [markdown]
r"""
No precision is lost here: with the same 32 bits, fixed point is the more exact of the two. A float32 spends eight of them on a range that we don't need.

### Exercise 2: the upper half of a product

Now $x m / 2^{31}$, for an int32 $x$. The product of two int32 has up to 63 bits. Processors have an instruction that gives the upper 32 bits of it, doubled (because of 31, not 32), and rounded: ARM calls it SQRDMULH. The software library gemmlowp calls it **SaturatingRoundingDoublingHighMul**; TensorFlow Lite's integer layers compute with it.

$$\mathrm{round}\Big(\frac{a\,b}{2^{31}}\Big), \quad \text{halves up}, \quad \text{at most } 2^{31} - 1$$

Halves go **up**, towards plus infinity, as adding a constant and cutting off does: $\lfloor (ab + 2^{30}) / 2^{31} \rfloor$. In NumPy `>> 31` is that floor, for negative numbers too. One product alone is too large: $(-2^{31})(-2^{31})$ would give $2^{31}$, and gives the highest int32 instead.

Return an int32 array; `a` and `b` are int32 arrays, checked for you (`np.multiply(a, b, dtype=np.int64)` multiplies in 64 bits). With $b = 2^{30}$ it halves: 3 becomes 1.5, so 2; -3 becomes -1.5, so **-1**.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-high-multiply", "locked": true, "points": 10, "solution": false}
def test_rounding_doubling_high_multiply():
    half, a = 2**30, np.array([3, -3, 4, -5, 1000])
    got = rounding_doubling_high_multiply(a, half)
    check(got, np.array([2, -1, 2, -2, 500]), "halves of the product go up: -1.5 becomes -1")
    check(got.dtype, np.int32, "the result is int32")
    ### BEGIN HIDDEN TESTS
    low, high = -(2**31), 2**31 - 1
    got = rounding_doubling_high_multiply(
        np.array([low, low, high, high]), np.array([low, high, low, high])
    )
    check(
        got, np.array([high, -high, -high, high - 1]), "the largest products; low * low saturates"
    )
    got = rounding_doubling_high_multiply(np.array([1, -1, 5, -5]), half)
    check(got, np.array([1, 0, 3, -2]), "halves go up")
    got = rounding_doubling_high_multiply(np.array([[7], [9]]), np.array([2**29, -(2**29)]))
    check(got, np.array([[2, -2], [2, -2]]), "a and b broadcast")
    ### END HIDDEN TESTS


test_rounding_doubling_high_multiply()

# %% [markdown]
r"""
### Exercise 3: shifting right, rounded

The exponent is next. Most $M$ are far below 1, so $e$ is negative and means $x / 2^{-e}$. A plain `>>` cuts off, always downwards: an error of half a step on average, in the same direction for every number, in every layer. So round to the nearest; here (gemmlowp's **RoundingDivideByPOT**) halves go **away from zero**:

$$\mathrm{sign}(x) \left\lfloor \frac{|x| + 2^{n-1}}{2^n} \right\rfloor$$

$n = 0$ changes nothing: write $2^{n-1}$ as `(np.int64(1) << exponent) >> 1`. `x` and `exponent` are int64 arrays by then (so that $|{-2^{31}}|$ exists); return int32. 6 / 4 = 1.5 becomes 2, and -6 / 4 becomes **-2**.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-right-shift", "locked": true, "points": 8, "solution": false}
def test_rounding_right_shift():
    got = rounding_right_shift(np.array([5, 6, 7, -5, -6, -7]), 2)
    check(got, np.array([1, 2, 2, -1, -2, -2]), "to the nearest, halves away from zero")
    check(got.dtype, np.int32, "the result is int32")
    check(rounding_right_shift(np.array([7, -7]), 0), np.array([7, -7]), "no shift, no change")
    ### BEGIN HIDDEN TESTS
    low, high = -(2**31), 2**31 - 1
    got = rounding_right_shift(np.array([low, high, low, 2**30]), np.array([31, 31, 0, 31]))
    check(got, np.array([-1, 1, low, 1]), "shifts of 31 and the lowest int32")
    check(rounding_right_shift(np.array([1, -1, 2]), 1), np.array([1, -1, 1]), "halves away from 0")
    ### END HIDDEN TESTS


test_rounding_right_shift()

# %% [markdown]
r"""
Three ways to round a half, and you have now met them all. **Predict** the three columns before you run the cell: `np.rint` (what quantising floats uses), the high multiplication, and the shift.
"""

# %%
halves = np.array([-7, -5, -3, -1, 1, 3, 5, 7])
columns = (
    np.rint(halves / 2).astype(int),
    rounding_doubling_high_multiply(halves, 2**30),
    rounding_right_shift(halves, 1),
)
print("number   to even       up   away from 0")
for number, *rounded in zip(halves / 2, *columns, strict=True):
    print("{:6} {:9} {:8} {:13}".format(number, *rounded))

# %% [markdown]
r"""
Which one is "right"? To the nearest they are all the same. But **bit for bit** they differ, and if your network shall give the same results on the phone as in your test, you need the phone's rule, not a better one.

### Exercise 4: fixed_point_multiply

Put the three together: $x M$ for an int32 `x`.

1. Where the exponent is above 0, first shift `x` **left** by it, in int64, and clip to int32 (`INT32.min`, `INT32.max`). Before, not after: bits that are cut off don't come back.
2. The high multiplication with the mantissa.
3. Where the exponent is below 0, the rounding shift by minus the exponent.

The exponents of channels may have different signs, so compute both shifts as arrays: `np.maximum(exponent, 0)` and `np.maximum(-exponent, 0)`.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-fixed-point-multiply", "locked": true, "points": 6, "solution": false}
def test_fixed_point_multiply():
    x = np.array([100, -100, 1_000_000])
    check(fixed_point_multiply(x, *fixed_point(0.0375)), np.array([4, -4, 37500]), "x * 0.0375")
    check(fixed_point_multiply(x, *fixed_point(2.5)), np.array([250, -250, 2_500_000]), "x * 2.5")
    ### BEGIN HIDDEN TESTS
    odd = np.array([1, 3, -3])
    check(fixed_point_multiply(odd, *fixed_point(2.5)), np.array([3, 8, -7]), "left shift first")
    each = fixed_point(np.array([0.01, 1.0, 100.0]))
    got = fixed_point_multiply(np.array([1000, 1000, 1000]), *each)
    check(got, np.array([10, 1000, 100_000]), "each element with its own shift")
    got = fixed_point_multiply(np.array([2**30, -(2**30)]), *fixed_point(256.0))
    check(got, np.array([2**30, -(2**30)]), "a left shift that overflows saturates")
    ### END HIDDEN TESTS


test_fixed_point_multiply()

# %% [markdown]
r"""
### Exercise 5: requantize

The last line of the formula: $\mathrm{clip}(\mathrm{round}(x M) + z, lowest, highest)$ as int8. Mind the order: `fixed_point_multiply` may give nearly $2^{31}$, and in int32 adding a zero point to that **wraps around**, without a word. So clip first, to `lowest - zero_point` and `highest - zero_point`, then add.

The limits are arguments for a reason. A ReLU is $\max(y, 0)$, and the real 0 is the integer $z$: with `lowest = zero_point` the ReLU costs nothing at all.
"""


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
    At most one step from the same in floats, and that near a half only.

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


# %% nbgrader={"grade": true, "grade_id": "test-requantize", "locked": true, "points": 8, "solution": false}
def test_requantize():
    sums = np.array([100, -100, 9000, -9000])
    got = requantize(sums, *fixed_point(0.0375), zero_point=5)
    check(got, np.array([9, 1, 127, -128]), "round(sum * 0.0375) + 5, clipped to int8")
    check(got.dtype, np.int8, "the result is int8")
    got = requantize(sums, *fixed_point(0.0375), zero_point=5, lowest=5)
    check(got, np.array([9, 5, 127, 5]), "lowest = zero_point is a ReLU")
    ### BEGIN HIDDEN TESTS
    extremes = np.array([2**31 - 1, -(2**31)])
    nearly_one = fixed_point(1 - 2.0**-31)
    got = requantize(extremes, *nearly_one, zero_point=100)
    check(got, np.array([127, -128]), "2^31 - 2 + 100 is no int32: clip before you add")
    got = requantize(extremes, *nearly_one, zero_point=-100)
    check(got, np.array([127, -128]), "nor is -2^31 - 100")
    got = requantize(np.array([-50, 50]), *fixed_point(1.0), 3, lowest=-8, highest=7)
    check(got, np.array([-8, 7]), "the limits hold for the result, zero point included")
    each = fixed_point(np.array([[0.5], [2.0]]))
    check(
        requantize(np.array([[10, 20], [10, 20]]), *each), np.array([[5, 10], [20, 40]]), "channels"
    )
    ### END HIDDEN TESTS


test_requantize()

# %% [markdown]
r"""
How far is that from floats? Take 300,000 sums for each of eleven multipliers, and compare with `rint(sum * M)` in float64. Two things can differ: exact halves, and **rounding twice**. If the high multiplication has rounded 7.498 up to 7.5 (it keeps as many bits behind the point as the shift will drop), the shift makes 8 of it.
**Predict**: how large is the largest difference? And does it happen more often with large or with small $M$?
"""

# %%
random = np.random.default_rng(0)
factors = [np.sqrt(2) * 2.0**-n for n in range(2, 13)]
shares, once = [], []
for factor in factors:
    sums = random.integers(-int(120 / factor), int(120 / factor), 300_000).astype(np.int32)
    mantissa, exponent = fixed_point(factor)
    difference = requantize(sums, mantissa, exponent) - np.rint(sums * factor)
    single = (sums.astype(np.int64) * mantissa + (1 << (30 - exponent))) >> (31 - exponent)
    shares.append(np.abs(difference).mean())
    once.append((single != np.rint(sums * factor)).mean())
    print(
        f"M = {factor:.5f}, shift {-exponent:2}: at most {np.abs(difference).max():.0f} step, in {shares[-1]:.4%} of cases; rounded once {once[-1]:.4%}"
    )

if plt:
    plt.semilogy(factors, np.maximum(shares, 1e-6), "ko-", label="rounded twice")
    plt.semilogy(
        factors, [2.0 ** (fixed_point(f)[1] - 1) for f in factors], "k:", label="$2^{e - 1}$"
    )
    plt.title("How often fixed point is one step from floats")
    plt.xlabel("multiplier M")
    plt.ylabel("share of results")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
One step at most, and the smaller $M$ the rarer: with $n$ bits to drop, two roundings meet a half about once in $2^{n+1}$ cases. Rounding once, in 64 bits, would never be off here. TensorFlow Lite and gemmlowp round twice because 32-bit hardware does; we do because they do.

## Sums of products

$\sum (q_x - z_x) q_w$ is a matrix product of integers. Hardware multiplies int8 and adds in int32: that is what the INT32 **accumulator** is. And NumPy? **Predict** two things: what `a @ b` gives for int8, where the sum is 100 * 100 + 100 * 100; and, for 128 rows and a weight of 512 x 512, in which of these types the product is fastest, and by what factor it beats the slowest.
"""


# %%
def milliseconds(function, repeat=3) -> float:
    """The fastest of some runs, after one to warm up."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * min(times[1:])


def as_type(dtype):
    """The product in a type, conversion included."""
    return lambda: q_rows.astype(dtype) @ q_columns.astype(dtype)


q_rows = random.integers(-128, 128, (128, 512)).astype(np.int8)
q_columns = random.integers(-127, 128, (512, 512)).astype(np.int8)
hundreds = np.array([[100, 100]], np.int8)
print(
    "int8 @ int8:", hundreds @ hundreds.T, " int32 @ int32:", hundreds.astype(np.int32) @ hundreds.T
)
ways = {
    "int8 @ (wraps)": lambda: q_rows @ q_columns,
    "int32 @": as_type(np.int32),
    "int64 @": as_type(np.int64),
    "int32 einsum": lambda: np.einsum(
        "nk,km->nm", q_rows.astype(np.int32), q_columns.astype(np.int32)
    ),
    "float32 @": as_type(np.float32),
    "float64 @": as_type(np.float64),
}
timed = {name: milliseconds(way) for name, way in ways.items()}
for name, spent in timed.items():
    print(f"{name:15} {spent:8.2f} ms, {spent / timed['float32 @']:6.1f} times float32")

# %% [markdown]
r"""
NumPy adds in the type that it multiplies in, and wraps around without a word: int8 must be widened first. And then it is slow. For floats NumPy calls BLAS: blocks that stay in the cache, several rows and columns kept in registers, vector instructions. For integers there is no BLAS. `@` is a plain triple loop that walks down the columns of `b`, one number at a time, in whatever type. `einsum` at least runs along rows, which the compiler can vectorise; it is the best that pure integers get here:
"""


# %% nbgrader={"grade": false, "grade_id": "integer-matmul", "locked": true, "solution": false}
#| export
def _largest_magnitude(x: np.ndarray) -> int:
    """max |x| as a Python int: np.abs would leave an int8 of -128 at -128."""
    return max(-int(x.min(initial=0)), int(x.max(initial=0)))


def _require_factors(a: np.ndarray, b: np.ndarray, asked: str) -> int:
    """The largest |product| of two elements of integer matrices, or stacks of them.

    Raises TypeError for floats, ValueError for other shapes, or if sums might not fit into int32.
    """
    for name, factor in (("a", a), ("b", b)):
        if factor.dtype.kind not in "iu":
            raise TypeError(f"{asked}: {name}: expected integers, got {factor.dtype}")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"{asked}: expected (..., N, K) @ (..., K, M), got {a.shape} @ {b.shape}")
    largest_a, largest_b = _largest_magnitude(a), _largest_magnitude(b)
    largest = largest_a * largest_b
    if a.shape[-1] * largest > INT32.max:  # look closer: weights are rarely all large
        by_row = largest_b * np.abs(a.astype(np.int64)).sum(axis=-1).max(initial=0)
        by_column = largest_a * np.abs(b.astype(np.int64)).sum(axis=-2).max(initial=0)
        if min(by_row, by_column) > INT32.max:
            count = a.shape[-1]
            raise ValueError(f"{asked}: {count} products of up to {largest} may not fit in int32")
    return largest


def integer_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b with integers alone: (..., N, K), (..., K, M) -> int32 (..., N, M).

    By einsum: NumPy has no BLAS for integers, and its `@` loops without vector instructions.
    Raises ValueError where sums might not fit into int32, which for int8 takes K above 131,000.

    >>> integer_matmul(np.array([[100, 100]], np.int8), np.array([[100], [-3]], np.int8))
    array([[9700]], dtype=int32)
    """
    _require_factors(a, b, "integer_matmul")
    return np.einsum("...nk,...km->...nm", a.astype(np.int32), b.astype(np.int32))


# %% [markdown]
r"""
### Integers in a float's clothes

The fast way is there, but for floats. So: can a float32 do integer arithmetic, **exactly**? It has 24 bits of mantissa: every whole number up to $2^{24}$ is exact, and above that only every second. Products of int8 are at most $2^{14}$, and so far nothing is rounded. Only the *sum* may grow too large.

```
     ... 16777214  16777215  16777216            16777218            16777220 ...
          every whole number  |  2^24  |   only even ones: 16777217 does not exist
```

If no partial sum can exceed $2^{24}$, no addition is ever rounded, whatever the order in which BLAS adds. **Predict**: how many products of int8 is that, for -128 to 127 on both sides? And if both have magnitudes up to 127?

### Exercise 6: exact_terms

Return $\lfloor 2^p / (largest_a \cdot largest_b) \rfloor$, an int; $p$ is one more than `np.finfo(carrier).nmant` (the leading 1 isn't stored): 24 for float32, 53 for float64. Where a factor is 0, divide by 1.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-exact-terms", "locked": true, "points": 6, "solution": false}
def test_exact_terms():
    check(exact_terms(127, 127), 1040, "2^24 // (127 * 127)")
    check(exact_terms(128, 128), 1024, "2^24 // 2^14: equal to 2^24 is still exact")
    ### BEGIN HIDDEN TESTS
    check(exact_terms(255, 127), 518, "2^24 // (255 * 127)")
    check(exact_terms(127, 127, np.float64), 2**53 // 16129, "float64 has 53 bits")
    check(exact_terms(127, 127, np.float16), 0, "float16 has 11 bits: not one product")
    check(exact_terms(0, 127), 2**24, "zeros: no division by zero")
    ### END HIDDEN TESTS


test_exact_terms()

# %% [markdown]
r"""
These numbers are the limits. Is the bound sharp, or just careful? Fill a row and a column with extremes, make the last product odd, and let float32 add: at the limit, and with one product more.
"""

# %%
kinds = {
    "both in -127 ... 127": (np.int8(127), np.int8(127)),
    "-128 ... 127 times -127 ... 127": (np.int8(-128), np.int8(127)),
    "int8 times int8": (np.int8(-128), np.int8(-128)),
    "uint8 times -127 ... 127": (np.uint8(255), np.int8(-127)),
    "uint8 times int8": (np.uint8(255), np.int8(-128)),
}


def in_a_row(value, count) -> np.ndarray:
    """So many times the value, but the last one odd."""
    row = np.full((1, count), value)
    row[0, -1] = value if value % 2 else -127
    return row


for name, (largest_a, largest_b) in kinds.items():
    limit = exact_terms(abs(int(largest_a)), abs(int(largest_b)))
    errors = []
    for count in (limit, limit + 1):
        row, column = in_a_row(largest_a, count), in_a_row(largest_b, count).T
        exact = (row.astype(np.int64) @ column.astype(np.int64)).item()
        errors.append(int((row.astype(np.float32) @ column.astype(np.float32)).item()) - exact)
    print(f"{name:33} K = {limit}: wrong by {errors[0]}, K = {limit + 1}: wrong by {errors[1]:2}")
print(f"int8 times int8, in float64       K = {exact_terms(128, 128, np.float64):,}")

# %% [markdown]
r"""
Exact at the limit; wrong by one with one product more. Module 15's `int8_matmul` cut K into blocks of 1024; now you know where that came from, and when it may be more.

### Exercise 7: carried_matmul

The same for any integers that fit, as int32. `largest`, the largest |product|, and `block`, how many of them fit, are given. For each stretch of `block` along K (the last axis of `a`, the last but one of `b`): convert both parts to `carrier`, multiply, and add the result, **as int32**, to a total that starts as zeros of `shape`. Then the sum of blocks is exact, too.
Assert in the loop that `left.shape[-1] * largest` is at most $2^p$: whoever changes the block one day shall hear of it.

<details><summary>Hint</summary>`a[..., start : start + block]` and `b[..., start : start + block, :]`, for `start` in `range(0, K, block)`.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "carried-matmul", "locked": false, "solution": true}
#| export
def carried_matmul(a: np.ndarray, b: np.ndarray, carrier: Any = np.float32) -> np.ndarray:
    """`integer_matmul` by the fast matmul of floats: the same numbers, exactly, as int32.

    Integers are carried in `carrier`, in blocks of K so short that no sum is ever rounded:
    `exact_terms` of the largest values that `a` and `b` hold (float32 and int8: 1024 or more).

    >>> carried_matmul(np.array([[100, 100]], np.int8), np.array([[100], [-3]], np.int8))
    array([[9700]], dtype=int32)
    """
    largest = _require_factors(a, b, "carried_matmul")
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


# %% nbgrader={"grade": true, "grade_id": "test-carried-matmul", "locked": true, "points": 8, "solution": false}
def test_carried_matmul():
    got = carried_matmul(np.array([[100, 100]], np.int8), np.array([[100], [-3]], np.int8))
    check(got, np.array([[9700]]), "100 * 100 - 100 * 3")
    check(got.dtype, np.int32, "the sums are int32")
    row = np.full((1, 3000), -127, np.int8)
    check(carried_matmul(row, row.T), np.array([[3000 * 127**2]]), "3000 products: three blocks")
    ### BEGIN HIDDEN TESTS
    odd = np.full((1, 1041), 127, np.int8)
    check(carried_matmul(odd, odd.T), np.array([[1041 * 127**2]]), "1041 of 127^2: two blocks")
    wide = np.full((1, 1500), 255, np.uint8)
    wide[0, -1] = 1
    check(carried_matmul(wide, wide.T), np.array([[1499 * 255**2 + 1]]), "uint8: shorter blocks")
    numbers = np.random.default_rng(1).integers(-128, 128, (2, 1, 3, 2050)).astype(np.int8)
    right = numbers.astype(np.int64) @ numbers.astype(np.int64).swapaxes(-1, -2)
    check(carried_matmul(numbers, numbers.swapaxes(-1, -2)), right, "stacks of matrices")
    check(carried_matmul(numbers, numbers.swapaxes(-1, -2), np.float64), right, "in float64")
    ### END HIDDEN TESTS


test_carried_matmul()

# %%
for name, matmul in {"pure": integer_matmul, "carried": carried_matmul}.items():
    print(f"{name:10} {milliseconds(lambda m=matmul: m(q_rows, q_columns)):6.2f} ms")
float_rows, float_columns = q_rows.astype(np.float32), q_columns.astype(np.float32)
print(f"{'float32':10} {milliseconds(lambda: float_rows @ float_columns):6.2f} ms")
same = integer_matmul(q_rows, q_columns) == carried_matmul(q_rows, q_columns)
print("all equal:", bool(same.all()))

# %% [markdown]
r"""
So there are two products with the same results, bit for bit: one that is pure, and one that is fast in NumPy. Layers will take either; the pure one by default, because it is what a chip without floats does. Nothing here makes int8 *faster than float32*: for that, NumPy would need a loop over the bytes themselves.

## Layers

`ChosenGrid(grid, scale, zero_point)` is module 23's: a grid, and where it lies. A layer needs three: that of its input, of its weight, of its result. Given are the way from observers to a `ChosenGrid`, and from floats to marks.
"""


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


# %% [markdown]
r"""
### Exercise 8: integer_parameters

What a layer keeps, for each output channel $j$; the product of a weight and an input is on a grid of scale $s_x s_{w,j}$:

| | | |
|---|---|---|
| `q_weight` | int8 | `marks_on(weight, ...)` with a `ChosenGrid` of the weight's grid, the scales, zero points 0, and the axis |
| `q_bias` | int32 | $\mathrm{round}(b_j / (s_x s_{w,j}))$, `np.rint` |
| `mantissa`, `exponent` | int32 | `fixed_point` of $s_x s_{w,j} / s_y$ |

`scale` is given, already wide enough for the bias. Why is that needed? A channel whose weights are all 0, and that gives just its bias, has a tiny scale; its `q_bias` would be huge, and no int32.

With $s_x = s_w = s_y$ = 0.5: weight 1.5 is mark 3, bias 2 is 2 / 0.25 = 8, and $M$ = 0.5.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-integer-parameters", "locked": true, "points": 8, "solution": false}
def on(scale, zero_point=0, axis=None) -> ChosenGrid:
    """An int8 grid at a place."""
    return ChosenGrid(Grid(), scale, zero_point, axis)


def test_integer_parameters():
    weight, bias = np.array([[1.5, -1.0]]), np.array([2.0, -1.0])
    parts = integer_parameters(weight, bias, 1, (on(0.5), on(0.5), on(0.5)))
    check(parts["q_weight"], np.array([[3, -2]]), "weight / 0.5")
    check(parts["q_bias"], np.array([8, -4]), "the bias is on the grid of the products, 0.5 * 0.5")
    check(parts["mantissa"], np.array([2**30, 2**30]), "one M for each channel: 0.5 * 0.5 / 0.5")
    check(parts["exponent"], np.array([0, 0]), "one M for each channel: 0.5 * 0.5 / 0.5")
    ### BEGIN HIDDEN TESTS
    parts = integer_parameters(weight, np.array([0.45, -0.45]), 1, (on(0.5), on(0.5), on(0.5)))
    check(parts["q_bias"], np.array([2, -2]), "0.45 / 0.25 = 1.8 is rounded to the nearest")
    grids = on(0.1, 7), on(np.array([0.01, 0.02]), np.zeros(2, np.int32), 1), on(0.3, -4)
    parts = integer_parameters(np.array([[0.5, 1.0], [-1.27, 0.3]]), bias, 1, grids)
    check(parts["q_weight"], np.array([[50, 50], [-127, 15]]), "each column by its scale")
    check(parts["q_bias"], np.array([2000, -500]), "bias / (0.1 * scale of the channel)")
    check(parts["exponent"], np.array([-8, -7]), "M = 0.1 * scale / 0.3")
    check(
        [parts["q_weight"].dtype, parts["q_bias"].dtype],
        [np.dtype(np.int8), np.dtype(np.int32)],
        "types",
    )
    kernels = np.array([[[[1.0]]], [[[-2.0]]]])
    grids = on(0.1), on(np.array([0.01, 0.02]), np.zeros(2, np.int32), 0), on(0.3)
    check(
        integer_parameters(kernels, bias, 0, grids)["q_weight"].reshape(2),
        np.array([100, -100]),
        "axis 0",
    )
    grids = on(0.01), on(np.array([1e-7, 0.1]), np.zeros(2, np.int32), 1), on(1.0)
    parts = integer_parameters(np.zeros((1, 2)), np.array([300.0, 1.0]), 1, grids)
    check(
        parts["q_bias"], np.array([2**30, 1000]), "use `scale`, which is wide enough for the bias"
    )
    ### END HIDDEN TESTS


test_integer_parameters()

# %% [markdown]
r"""
Why does the bias get 32 bits, when all else has 8? Its error is the same for every image, in the same direction: it moves the whole channel. **Predict**: by what factor is the bias of the network's first layer more exact in int32 than as int8 (module 15)?
"""

# %%
layer, x_scale = network[1], 1 / 255
weight_scale = np.abs(layer.weight.data).max(axis=0) / 127
product_scale = x_scale * weight_scale
as_int32_bias = np.rint(layer.bias.data / product_scale) * product_scale
as_int8_bias = int8_network[1].q_bias.data * int8_network[1].bias_scale.item()
as_int8_bias = (
    as_int8_bias - int8_network[1].bias_zero_point.item() * int8_network[1].bias_scale.item()
)
for name, restored in (("int8", as_int8_bias), ("int32", as_int32_bias)):
    print(f"bias as {name:5}: largest error {np.abs(restored - layer.bias.data).max():.2e}")

# %% [markdown]
r"""
Given is the class of what all layers with a weight keep. Read `centred` and `requantized`: you will use both. `require_room` makes sure, once, that no input can overflow the accumulator. `windows_of` lays windows over an image, for later.
"""


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


def pair(value: Any) -> tuple[int, int]:
    """A number for rows and columns, or the two of them."""
    rows, columns = np.broadcast_to(value, 2).tolist()
    return rows, columns


def windows_of(q: np.ndarray, layer: Any, zero_point: int) -> np.ndarray:
    """Every window of int8 images, a view: (N, C, H, W) -> (N, C, KH, KW, OH, OW).

    `layer` says how; its padding, which stands for 0.0, is the zero point.
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


# %% [markdown]
r"""
### Exercise 9: IntegerLinear

`linear_forward`: `rows` is an int8 array (N, K) on the input's grid. Subtract the zero point (`layer.centred`), multiply with the weight by `layer.matmul`, and requantise the sums (`layer.requantized(sums, axis=1)` adds the bias and gives an int8 Tensor). Call the result `y`.

One input, weight mark 3, bias mark 8, $M$ = 0.5, input mark 10 with zero point 4, result's zero point 0: (10 - 4) * 3 + 8 = 26, half of it 13.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-linear-forward", "locked": true, "points": 6, "solution": false}
def small_linear(weight, bias, *grids, **options) -> IntegerLinear:
    """An IntegerLinear with this weight and bias."""
    layer = Linear(*np.shape(weight))
    layer.weight, layer.bias = Tensor(weight), Tensor(bias)
    return IntegerLinear(layer, grids, **options)


def int8(values) -> Tensor:
    """An int8 Tensor."""
    return Tensor(values, dtype=np.int8)


def test_linear_forward():
    layer = small_linear([[1.5]], [2.0], on(0.5, 4), on(0.5), on(0.5))
    check(layer(int8([[10]])), np.array([[13]]), "((10 - 4) * 3 + 8) / 2")
    ### BEGIN HIDDEN TESTS
    layer = small_linear([[1.5]], [2.0], on(0.5, -128), on(0.5), on(4.0, -100), relu=True)
    check(layer(int8([[127], [-128]])), np.array([[-52], [-99]]), "127 + 128 is 255, no int8")
    weight, x = np.arange(-6, 6).reshape(4, 3) / 2, np.arange(-12, 12).reshape(2, 3, 4) * 5
    layer = small_linear(weight, [1.0, 2.0, 3.0], on(1.0, 5), on(0.5), on(2.0, 6))
    right = np.clip(((x - 5) @ weight + [1, 2, 3]) / 2 + 6, -128, 127)
    check(bool((np.abs(layer(int8(x)).data - right) <= 0.5).all()), True, "rows of any shape")
    taken = []
    layer.matmul = lambda a, b: taken.append((a.dtype.kind, b.dtype)) or integer_matmul(a, b)
    layer(int8(x))
    check(taken, [("i", np.dtype(np.int8))], "multiply integers, once, by layer.matmul")
    ### END HIDDEN TESTS


test_linear_forward()

# %% [markdown]
r"""
### What is padding?

A Conv2d pads with 0.0. In integers, which number stands for 0.0? Not 0: the **zero point**. Behind a ReLU it is usually -128. **Predict** what a wrong padding does to a convolution of 8 x 8 pixels: which share of its results is affected by a 3 x 3 kernel with padding 1?

### Exercise 10: IntegerConv2d

`conv2d_forward` multiplies every window with every kernel. `x` is the int8 array (N, C, H, W); `windows_of`, above, pads it.

1. `windows = windows_of(x, layer, zero point of the input)`: (N, C, KH, KW, OH, OW). `layer.x_zero_point.item()` is that zero point.
2. `kernels`: the weight as (G, O/G, K), with G = `groups` and K the rest.
3. `columns`: a copy of the windows as (N, G, K, OH OW), less the zero point (`layer.centred`).
4. `layer.matmul(kernels, columns)` gives (N, G, O/G, OH OW): reshape it to (N, O, OH, OW) and requantise with the channels along axis 1. Call that `y`.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-conv2d-forward", "locked": true, "points": 8, "solution": false}
def small_conv(weight, *grids, **options) -> IntegerConv2d:
    """An IntegerConv2d with this weight and no bias."""
    outputs, channels, *kernel = np.shape(weight)
    layer = Conv2d(channels * options.get("groups", 1), outputs, kernel, bias=False, **options)
    layer.weight = Tensor(weight)
    return IntegerConv2d(layer, grids)


def test_conv2d_forward():
    layer = small_conv([[[[1, 2]]]], on(1.0, 3), on(1.0), on(1.0, 10))
    check(
        layer(int8([[[[4, 5, 7]]]])),
        np.array([[[[15, 20]]]]),
        "(4-3) + 2 (5-3) + 10, then the next",
    )
    layer = small_conv([[[[1, 1, 1]]]], on(1.0, 3), on(1.0), on(1.0), padding=(0, 1))
    check(layer(int8([[[[4, 5, 7]]]])), np.array([[[[3, 7, 6]]]]), "padding is 0.0: the zero point")
    ### BEGIN HIDDEN TESTS
    weight = np.arange(16).reshape(4, 2, 1, 2)
    x = np.arange(2 * 4 * 2 * 3).reshape(2, 4, 2, 3) - 20
    layer = small_conv(weight, on(1.0, -20), on(1.0), on(16.0), groups=2)
    centred = x + 20
    right = np.zeros((2, 4, 2, 2))
    for o, i, j in np.ndindex(4, 2, 2):
        part = centred[:, 2 * (o // 2) :][:, :2, i, j : j + 2]
        right[:, o, i, j] = (part * weight[o, :, 0]).sum(axis=(1, 2)) / 16
    got = layer(int8(x))
    check(bool((np.abs(got.data - np.clip(right, -128, 127)) <= 0.5).all()), True, "groups")
    layer = small_conv([[[[1.0]]]], on(1.0, -128), on(1.0), on(2.0, -128))
    check(layer(int8([[[[127]]]])), np.array([[[[0]]]]), "127 + 128 is 255, no int8")
    ### END HIDDEN TESTS


test_conv2d_forward()

# %%
manual_seed(3)
ends = on(1 / 255, -128), on(0.01), on(0.02)
filter_3x3 = IntegerConv2d(Conv2d(1, 1, 3), ends)
q = marks_on(test.images.data[:1], ends[0])
framed = {}
for frame in (-128, 0):  # the zero point, and the integer 0
    padded = np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=frame)
    framed[frame] = filter_3x3(Tensor._wrap(padded)).data[0, 0].astype(int)
steps = np.abs(framed[0] - framed[-128])
print(f"{(steps > 0).mean():.0%} of the results are wrong, by up to {steps.max()} steps")
print(f"wrong inside the frame: {(steps > 0)[1:-1, 1:-1].sum()}")

# %% [markdown]
r"""
28 of 64 results touch the frame, where the integer 0 means 128/255, grey; rounding saves a few of them.

### Layers without a weight

Max pooling needs nothing new: the order of integers is the order of the numbers, and module 09's `max_pool2d` takes int8 as it is. A ReLU that no layer could take in is `max(q, zero_point)`. Averages, though, are divided, and divisions are rounded.

### Exercise 11: rounding_divide

total / count to the nearest integer, halves away from zero; count is an int above 0, even or odd. That is what TensorFlow Lite's integer average pooling does: add half of the count, away from zero, and cut off. The mean of numbers on a grid is on the same grid: there is no $M$, and the zero point takes part like any number.

5 / 4 gives 1, 6 / 4 gives 2, -6 / 4 gives -2, 7 / 3 gives 2.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-rounding-divide", "locked": true, "points": 4, "solution": false}
def test_rounding_divide():
    got = rounding_divide(np.array([5, 6, -5, -6, 10]), 4)
    check(got, np.array([1, 2, -1, -2, 3]), "to the nearest, halves away from zero")
    check(rounding_divide(np.array([7, 8, -7, -8]), 3), np.array([2, 3, -2, -3]), "odd counts too")
    ### BEGIN HIDDEN TESTS
    check(rounding_divide(np.array([2, -2, 0]), 4), np.array([1, -1, 0]), "0.5 goes to 1")
    check(rounding_divide(np.array([9, -9]), 1), np.array([9, -9]), "a count of one")
    check(rounding_divide(np.array([4]), 4).dtype.kind, "i", "integers stay integers")
    ### END HIDDEN TESTS


test_rounding_divide()


# %% nbgrader={"grade": false, "grade_id": "small-layers", "locked": true, "solution": false}
#| export
class _KeepsGrid(Module):
    """A layer whose result is on the grid of its input, of which it knows the zero point."""

    zero_point: Tensor

    def __init__(self, zero_point: int):
        self.register_buffer("zero_point", Tensor(zero_point, dtype=np.int32))

    def _extra_repr(self) -> str:
        return f"zero_point={self.zero_point.item()}"


class IntegerReLU(_KeepsGrid):
    """max(q, zero_point): a ReLU that no layer took into its requantisation.

    >>> IntegerReLU(zero_point=-5)(Tensor([-9, 3], dtype=np.int8))
    Tensor([-5,  3], dtype=int8)
    """

    def forward(self, q: Tensor) -> Tensor:
        x = int8_of(q, "IntegerReLU")
        return Tensor._wrap(np.maximum(x, np.int8(self.zero_point.item())))


def _means(x: np.ndarray) -> Tensor:
    """The means of int8 numbers over axes 2 and 3, as int8."""
    total = x.sum(axis=(2, 3), dtype=np.int32)
    return Tensor._wrap(rounding_divide(total, math.prod(x.shape[2:4])).astype(np.int8))


class IntegerAvgPool2d(_KeepsGrid):
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
        return _means(windows_of(x, self, self.zero_point.item()))

    def _extra_repr(self) -> str:
        how = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{how}, {super()._extra_repr()}"


class IntegerGlobalAvgPool2d(Module):
    """The mean of each channel, (N, C, H, W) -> (N, C), rounded by `rounding_divide`.

    >>> IntegerGlobalAvgPool2d()(Tensor([[[[1, 2], [3, 4]]]], dtype=np.int8))
    Tensor([[3]], dtype=int8)
    """

    def forward(self, q: Tensor) -> Tensor:
        return _means(int8_images(q, "IntegerGlobalAvgPool2d"))


# %% [markdown]
r"""
## A chain of layers

Now the model. It is a chain: Sequentials, nested as you like, without branches. `integer_model` fuses it (module 22), lists its layers with `chain`, and refuses those for which there are no integers; `observed` runs the calibration data through, layer by layer, and lets an observer watch each result. (A network from module 23 goes in as `finish_qat(prepared)`.) All that is given: read it from the bottom up. What it leaves to you is `in_integers`.
"""


# %% nbgrader={"grade": false, "grade_id": "supported", "locked": true, "solution": false}
#| exporti
def chain(name: str, module: Any) -> Iterator[tuple[str, Any]]:
    """The layers of nested Sequentials in order, by dotted name; without what does nothing.

    >>> [name for name, _ in chain("", Sequential(ReLU(), Dropout(), Sequential(Flatten())))]
    ['0', '2.0']
    """
    if type(module) is Sequential:
        for i, layer in enumerate(module.layers):
            yield from chain(f"{name}.{i}" if name else str(i), layer)
    elif not isinstance(module, (Dropout, Identity)):
        yield name, module


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


def observed(
    layers: list[tuple[str, Any]], batches: list[Tensor], config: QConfig
) -> dict[str, Observer]:
    """Observers that have seen all batches: of the "input", and of results, by names of layers."""
    observers = {"input": config.activation()}
    observers |= {name: config.activation() for name, layer in layers if multiplies(layer)}
    for x in batches:
        observers["input"].observe(x)
        for name, layer in layers:
            x = layer(x)
            if name in observers:
                observers[name].observe(x)
    return observers


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


# %% nbgrader={"grade": false, "grade_id": "integer-model", "locked": true, "solution": false}
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
        self.grid = x_grid.grid
        for end, grid in (("x_", x_grid), ("", y_grid)):
            self.register_buffer(f"{end}scale", Tensor(grid.scale, dtype=np.float64))
            self.register_buffer(f"{end}zero_point", Tensor(grid.zero_point, dtype=np.int32))

    def quantize(self, x: Tensor) -> Tensor:
        """The input as int8, the last that is computed in floats; ValueError for NaN, infinity."""
        numbers = finite(x, "IntegerModel: input").astype(np.float32)
        grid = ChosenGrid(self.grid, self.x_scale.item(), self.x_zero_point.item())
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


# %% [markdown]
r"""
### Exercise 12: in_integers

Walk along the chain. `grid` is the grid of what arrives: at first that of the "input".

- A layer that doesn't multiply (`multiplies(layer)` is False): append `KEEP_GRIDS[type(layer)](layer, grid.zero_point)`. The grid stays.
- One that does: let `plain = without_relu(layer)`. Append `MULTIPLIES[type(plain)](plain, (grid of the input, weights[name], grids[name]), relu=..., matmul=matmul, name=name)`; `relu` is True where the layer's type is `Fused`. From here on numbers are on the grid `grids[name]`.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-in-integers", "locked": true, "points": 6, "solution": false}
def test_in_integers():
    manual_seed(5)
    model = Sequential(Linear(4, 6), ReLU(), Sequential(Linear(6, 5), ReLU()), Linear(5, 3))
    x = Tensor(np.random.default_rng(2).standard_normal((40, 4)))
    integers = integer_model(model, x)
    kinds = [(type(layer).__name__, layer.relu) for layer in integers.layers]
    check(kinds, [("IntegerLinear", True)] * 2 + [("IntegerLinear", False)], "a Fused has a ReLU")
    error = np.abs(integers.dequantize(integers(x)).data - model(x).data).max()
    check(
        bool(error < 6 * integers.scale.item()), True, "each layer takes the grid of the one before"
    )
    ### BEGIN HIDDEN TESTS
    zero_points = [layer.zero_point.item() for layer in integers.layers]
    taken = [layer.x_zero_point.item() for layer in integers.layers]
    check(taken, [integers.x_zero_point.item(), *zero_points[:-1]], "the grids link the layers")
    pooled = Sequential(Conv2d(1, 2, 3), ReLU(), AvgPool2d(2), ReLU(), Flatten(), Linear(8, 2))
    images = Tensor(np.random.default_rng(2).standard_normal((20, 1, 6, 6)))
    integers = integer_model(pooled, images, matmul=carried_matmul)
    check(integers.layers[1].zero_point.item(), -128, "a pooling keeps the grid that arrives")
    check(integers.layers[4].x_zero_point.item(), -128, "and so does what follows")
    check([integers.layers[i].matmul is carried_matmul for i in (0, 4)], [True, True], "matmul=")
    ### END HIDDEN TESTS


test_in_integers()

# %% [markdown]
r"""
## Put together: digits without a float

Two networks: the one from the beginning, and one with convolutions, batch norms and both kinds of pooling. **Predict**: what do integers cost in accuracy (one digit is 0.003)? And how many of the results equal those of float multipliers, `rint(sum * M) + z`?
"""

# %%
manual_seed(1)
first = Conv2d(1, 8, 3, padding=1), BatchNorm2d(8), ReLU(), MaxPool2d(2)
second = Conv2d(8, 16, 3, padding="same"), BatchNorm2d(16), ReLU(), AvgPool2d(2)
convolutional = trained(
    Sequential(*first, Sequential(*second), Flatten(), Linear(64, 10)), epochs=4
)
networks = {"MLP": network, "CNN": convolutional}
integer_networks = {name: integer_model(model, train.images) for name, model in networks.items()}
print(integer_networks["CNN"])

q = integer_networks["CNN"].quantize(test.images)
for layer in integer_networks["CNN"].layers:
    q = layer(q)
    print(f"{type(layer).__name__:24} gives {q.dtype}")
print("the answer for the first image:", q.data[0].argmax(), "from", q.data[0].tolist())

# %% [markdown]
r"""
The result is int8, and its largest element is the answer: scales are positive, so the order is right as it is. Who wants real numbers calls `dequantize`.

To compare with float multipliers, take the same integer network, and swap just its multiplication for a float one.
"""


# %%
def float_multiply(x, mantissa, exponent) -> np.ndarray:
    """What fixed_point_multiply stands for: rint(x * M), in float64."""
    return np.rint(x * (mantissa * 2.0 ** (exponent - 31.0))).astype(np.int32)


_fixed, outputs = fixed_point_multiply, {}
for name, model in networks.items():
    integers = integer_networks[name](test.images)
    fixed_point_multiply = float_multiply
    in_floats = integer_networks[name](test.images)
    fixed_point_multiply = _fixed
    with no_grad():
        floats = model(test.images)
    outputs[name] = floats.data, integer_networks[name].dequantize(integers).data
    steps = np.abs(integers.data.astype(int) - in_floats.data)
    noise = ((outputs[name][1] - floats.data) ** 2).sum()
    snr = 10 * np.log10((floats.data**2).sum() / noise)
    print(
        f"{name}: accuracy {share_right(floats):.3f} in floats, {share_right(integers):.3f} in integers; outputs {snr:.1f} dB"
    )
    print(
        f"     against float multipliers: at most {steps.max()} step, {(steps == 0).mean():.1%} equal"
    )

if plt:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, (name, (floats, restored)) in zip(axes, outputs.items(), strict=True):
        axis.plot(floats.ravel(), restored.ravel(), "k.", markersize=2)
        axis.set(
            title=f"{name}: 3550 outputs", xlabel="in floats", ylabel="in integers, times the scale"
        )
    plt.show()

# %% [markdown]
r"""
Each layer is within one step of its float multiplier, and here so is the end. But a step in an early layer travels on, and in a long chain two may meet: for deep networks "one step" is a promise for each layer, not for the end. Compared with what quantising itself costs (the decibels), it is nothing.

A layer without an integer form is refused by name. A curve such as GELU would need a table of its 256 values, which is possible, and branches would need two grids to be made one before they are added. Both are a few dozen lines, and the ideas are those that you have.

## What it costs

**Predict**: the MLP has 35,880 bytes of float32. How many are its integers, with all that comes with them? And how long do 256 rows take through a Linear of growing size, in float32, in integers, and with carried products?
"""

# %%
for name, model in networks.items():
    held = integer_networks[name].buffers()
    float_bytes = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    kinds = {
        kind: sum(t.nbytes for t in held if t.dtype == kind)
        for kind in ("int8", "int32", "float64")
    }
    print(f"{name}: float32 {float_bytes:,} bytes, integers {sum(kinds.values()):,}: {kinds}")

print("milliseconds for 256 rows      float32   integers    carried   requantise alone")
for size in (64, 128, 256, 512):
    layer, rows = Linear(size, size), Tensor(random.standard_normal((256, size)))
    ends = on(0.03), on(1 / 127 / size**0.5), on(0.03)
    pure, carried = (IntegerLinear(layer, ends, matmul=m) for m in (integer_matmul, carried_matmul))
    q = Tensor._wrap(marks_on(rows.data, ends[0]))
    sums = carried_matmul(q.data, pure.q_weight.data)
    factors_of = pure.mantissa.data, pure.exponent.data
    with no_grad():
        row = [
            milliseconds(lambda f=f: f())
            for f in (
                lambda m=layer, x=rows: m(x),
                lambda m=pure, x=q: m(x),
                lambda m=carried, x=q: m(x),
                lambda s=sums, p=factors_of: requantize(s, *p),
            )
        ]
    print(f"{size:4} x {size:<4} {row[0]:27.3f} {row[1]:10.3f} {row[2]:10.3f} {row[3]:18.3f}")

# %% [markdown]
r"""
A quarter of the bytes, and a bit: each channel costs 12 bytes of bias, mantissa and exponent, and the float64 numbers are scales, for the reader.

Now be honest about the time: **in NumPy, integers are slower**, pure ones by far, and carried ones too, since they do all that float32 does and the conversions on top. The requantisation is a dozen passes over int64 arrays; its share falls as layers grow, since it is done once for each result, and the product K times.
On a chip it is the other way round: a 32-bit register holds four int8, one instruction multiplies and adds them, and the requantisation is three instructions on numbers that are in registers already. What you have written is the *reference* that such a kernel must equal, bit for bit. (TensorFlow Lite: `MultiplyByQuantizedMultiplier`; PyTorch's qnnpack multiplies by a float instead, and comes out within one step of yours.)

## Questions

Answer in a few lines, with the numbers worked out.

### 1. Room in the accumulator (4 points)

Inputs less their zero point are -255 to 255, weights -127 to 127, the bias up to $2^{30}$. How large may K be, so that no int32 sum can overflow? How large would it be with an accumulator of 16 bits, without a bias? Which layer of a large network comes near the first number?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-room", "locked": false, "points": 4, "solution": true}
r"""
(2^31 - 1 - 2^30) / (255 x 127) = 1,073,741,823 / 32,385 = 33,155. With 16 bits: 32,767 / 32,385 = 1 product, and the second may overflow: useless, which is why all hardware adds int8 products in 32 bits.
A Linear behind a flattened image comes near: 512 channels of 7 x 7 are 25,088. (`require_room` computes with the real weights instead of 127, and refuses nearly nothing.)
"""

# %% [markdown]
r"""
### 2. The zero point, taken out beforehand (4 points)

$\sum_k (q_x - z) q_w = \sum_k q_x q_w - z \sum_k q_w$. The second sum doesn't depend on the image, so a kernel adds $-z \sum_k q_w$ to the bias once, and multiplies the int8 numbers as they are. How many subtractions does that save for 256 rows through a Linear of 512 x 512, and what share of all additions and multiplications is that? What becomes of the longest exact block in float32? And why must padding still be the zero point?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-fold", "locked": false, "points": 4, "solution": true}
r"""
256 x 512 = 131,072 subtractions, of 2 x 256 x 512 x 512 = 134 million operations: 0.1 %. So it is not about counting: it is that the numbers stay int8, and the hardware multiplies int8. In float32 the longest block grows from 2^24 / (255 x 127) = 518 to 2^24 / (128 x 127) = 1032.
The correction subtracts z times the sum of *all* weights of a kernel, those over the padding too; so there q_x must be z, and z - z = 0 comes out.
"""

# %% [markdown]
r"""
### 3. What a chip saves (4 points)

Horowitz (ISSCC 2014, 45 nm) gives the energy of one operation: 8-bit multiplication 0.2 pJ, 32-bit integer multiplication 3.1 pJ, 32-bit integer addition 0.1 pJ, float32 multiplication 3.7 pJ, float32 addition 0.9 pJ. How much does a Linear of 512 x 512 take for one row in float32, and in integers, if a requantisation is two multiplications and five additions of 32 bits? What share of it is the requantisation? And from which K on is it below 10 %?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-energy", "locked": false, "points": 4, "solution": true}
r"""
float32: 262,144 x (3.7 + 0.9) = 1.21 uJ. Integers: 262,144 x (0.2 + 0.1) = 78.6 nJ for the products, and 512 x (6.2 + 0.5) = 3.4 nJ for the requantisation: 82 nJ together, 14.7 times less, and the requantisation is 4.2 %.
For each result it takes 6.7 pJ, the products 0.3 K pJ: 6.7 < 0.1 (0.3 K + 6.7) from K = 202 on.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "solution": false}
def test_module():
    """Run every test of this lesson."""
    tests = [
        *(test_fixed_point, test_rounding_doubling_high_multiply, test_rounding_right_shift),
        *(test_fixed_point_multiply, test_requantize, test_exact_terms, test_carried_matmul),
        *(test_integer_parameters, test_linear_forward, test_conv2d_forward),
        *(test_rounding_divide, test_in_integers),
    ]
    for test_function in tests:
        test_function()
    print(f"{len(tests)} tests passed: module 27 is complete")


test_module()

# %% [markdown]
r"""
## What works now

- A chain of Linear, Conv2d, ReLU and poolings runs on integers alone, from its entrance to its int8 results.
- A real multiplier is a mantissa, a high multiplication and a shift, rounded as gemmlowp and TensorFlow Lite round, bit for bit.
- You know how many products int32 and float32 add exactly, and why; and that your code asserts it.
- Padding is the zero point, a ReLU is a limit, an average is a rounded division, a bias has 32 bits.
- You have measured that NumPy gains no time by integers. A kernel that does, with this as its reference, is another lesson.
"""

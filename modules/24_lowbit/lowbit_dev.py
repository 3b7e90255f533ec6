# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.lowbit

# %% [markdown]
r"""
# Below eight bits

> Weights in four bits or fewer: small groups, packed bytes, and levels where they are needed.

Time: 4 to 5 hours. In module 15 a network went from four bytes a weight to one, and hardly noticed. Here you go on: to 4 bits, to 3, to 2. The same method breaks on the way;
you find out why, repair it, pack two weights into one byte for real, and count what the repair costs.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import NormalDist
from typing import Any

import numpy as np

from tinytorch.core.layers import Linear, Module, linear
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.quantization import (
    QuantizationReport,
    along,
    checked_axis,
    finite,
    integer_range,
    linear_layers,
    model_bytes,
    quantization_error,
    quantization_parameters,
    replace_modules,
    require_floats,
    value_range,
)

# %% [markdown]
r"""
## Where eight bits stop being enough

A network that reads digits, trained as in module 15, a little wider.
"""

# %%
import copy

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Flatten, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.tensor import manual_seed
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits
from tinytorch.optimization.quantization import dequantize_int8, to_int8
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
    """64 - 128 - 128 - 10 with ReLU, trained by Adam."""
    manual_seed(0)
    layers = [Linear(64, 128), ReLU(), Linear(128, 128), ReLU(), Linear(128, 10)]
    model = Sequential(Flatten(), *layers)
    trainer = Trainer(model, Adam(model.parameters(), lr=3e-3), CrossEntropyLoss())
    trainer.fit(DataLoader(train, batch_size=50, shuffle=True, seed=0), epochs)
    return model


def with_weights(model, change) -> Sequential:
    """A copy of the model in which `change` was applied to the weight of each Linear."""
    model = copy.deepcopy(model)
    for layer in model:
        if isinstance(layer, Linear):
            layer.weight.data[...] = change(layer.weight).data
    return model


network = trained_network()
print(f"accuracy {accuracy(network):.3f}")

# %% [markdown]
r"""
Module 15's `quantization_parameters` takes any number of `bits`. So take fewer: one grid for each weight matrix, of 8, 6, 4, 3 and 2 bits.
**Predict** the five accuracies, and how many bytes the first weight matrix, 64 x 128, takes at 4 bits. Write them down.
"""


# %%
def rounded(weight: Tensor, bits: int) -> Tensor:
    """The weight on one symmetric grid of so many bits, and back."""
    scale, zero_point = quantization_parameters(*value_range(weight.data), True, bits)
    q = to_int8(weight.data, scale, zero_point, *integer_range(bits, True))
    return dequantize_int8(Tensor._wrap(q), scale, zero_point)


for bits in (8, 6, 4, 3, 2):
    model = with_weights(network, lambda weight, b=bits: rounded(weight, b))
    snr = quantization_error(network[3].weight, model[3].weight)["snr_db"]
    marks = len(np.unique(model[3].weight.data))
    print(f"{bits} bits: accuracy {accuracy(model):.3f}, {marks:3} marks used, {snr:5.1f} dB")

print(
    "bytes of an int8 array that holds numbers of 4 bits:",
    to_int8(np.zeros((64, 128)), 1, 0).nbytes,
)

# %% [markdown]
r"""
Down to 4 bits this easy task forgives; then it breaks. Two bits, symmetric, are three marks: -1, 0, 1, and the outer two lie on the largest weight of the whole matrix, far from where most weights are.
And look at the bytes: nothing was gained at all. NumPy's smallest integer has eight bits; a number of four bits wastes half of it.

Two problems, then: **better grids** for the same bits, and **real bytes**. First a tool to see what to expect.

## Any number of bits

Given are the checks, and `to_marks`, which is `to_int8` for any width: int8 holds up to 8 bits, above that int16.
"""


# %% nbgrader={"grade": false, "grade_id": "marks", "locked": true, "solution": false}
#| exporti
def require_bits(bits: Any, asked: str, most: int = 16) -> None:
    """ValueError unless bits is a whole number from 2 to `most`."""
    if not isinstance(bits, (int, np.integer)) or not 2 <= bits <= most:
        raise ValueError(f"{asked}: bits must be a whole number from 2 to {most}, got {bits}")


def to_marks(x: np.ndarray, scale: Any, zero_point: Any, bits: int, symmetric: bool) -> np.ndarray:
    """clip(round(x / scale) + zero_point) as int8, or above 8 bits int16; halves to even.

    >>> to_marks(np.array([-9.0, 0.5, 1.5]), 1.0, 0, bits=4, symmetric=True)
    array([-7,  0,  2], dtype=int8)
    """
    marks = np.clip(np.rint(x / scale) + zero_point, *integer_range(bits, symmetric))
    return marks.astype(np.int8 if bits <= 8 else np.int16)


# %% [markdown]
r"""
### Exercise 1: quantize_bits

The affine or symmetric grid of module 15 with any number of bits from 2 to 16. `axis` and `x` (finite, float64) are given. You have `value_range(x, axis)`, `quantization_parameters(low, high, symmetric, bits)`,
`along(values, ndim, axis)` and `to_marks`. Return `(Tensor._wrap(marks), scale, zero_point)`.

With 4 bits, [-7.5, 0, 7.5] has scale 1 and zero point 0 (affine: 15 steps for 15), and its marks are [-8, 0, 7]. Symmetric the scale is 7.5 / 7.

<details><summary>Hint</summary>Only the marks need the scale in a shape that broadcasts; return it as `quantization_parameters` gave it.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "quantize-bits", "locked": false, "solution": true}
#| export
def quantize_bits(
    tensor: Tensor,
    bits: int = 8,
    symmetric: bool = False,
    axis: int | None = None,
    name: str = "quantize_bits: tensor",
) -> tuple[Tensor, Any, Any]:
    """A tensor as integers of `bits` bits, 2 to 16: (q, scale, zero_point).

    The grid covers the values and 0: 2^bits marks, or one less where symmetric. `q` is int8, above
    8 bits int16; with an `axis` each slice along it has its own grid (scale and zero point 1-D).
    Raises ValueError for NaN and infinity; errors call the tensor `name`.

    >>> q, scale, zero_point = quantize_bits(Tensor([-7.5, 0.0, 7.5]), bits=4)
    >>> q.tolist(), scale, zero_point
    ([-8, 0, 7], 1.0, 0)
    """
    require_bits(bits, "quantize_bits")
    require_floats(tensor, name)
    axis, x = checked_axis(axis, tensor.ndim, name), finite(tensor, name)
    ### BEGIN SOLUTION
    scale, zero_point = quantization_parameters(*value_range(x, axis), symmetric, bits)
    grid = along(scale, x.ndim, axis), along(zero_point, x.ndim, axis)
    return Tensor._wrap(to_marks(x, *grid, bits, symmetric)), scale, zero_point
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-quantize-bits", "locked": true, "points": 6, "solution": false}
def test_quantize_bits():
    q, scale, zero_point = quantize_bits(Tensor([-7.5, 0.0, 7.5]), bits=4)
    check((scale, zero_point), (1.0, 0), "4 bits: 16 marks, 15 steps from -7.5 to 7.5")
    check(q, np.array([-8, 0, 7]), "round halves to even, then clip to [-8, 7]")
    q, scale, zero_point = quantize_bits(Tensor([-7.5, 0.0, 7.5]), bits=4, symmetric=True)
    check((scale, zero_point), (7.5 / 7, 0), "symmetric: the largest value is mark 7")
    check(q, np.array([-7, 0, 7]), "symmetric: -8 is not used")
    ### BEGIN HIDDEN TESTS
    x = Tensor([[1.0, -30.0], [-1.0, 10.0]])
    q, scale, zero_point = quantize_bits(x, bits=2, symmetric=True, axis=1)
    check(q, [[1, -1], [-1, 0]], "axis=1: each column on its own grid")
    check(scale, [1.0, 30.0], "axis=1: one scale for each column, 1-D")
    check(quantize_bits(x, bits=8, axis=0)[1].shape, (2,), "scales are 1-D along any axis")
    check(quantize_bits(x, bits=16)[0].dtype, np.int16, "above 8 bits: int16")
    check(quantize_bits(x, bits=3)[0].dtype, np.int8, "up to 8 bits: int8")
    with check_raises(ValueError, "from 2 to 16, got 17", "the given checks stay"):
        quantize_bits(x, bits=17)
    ### END HIDDEN TESTS


test_quantize_bits()

# %% [markdown]
r"""
The way back is module 15's, so it is given.
"""


# %% nbgrader={"grade": false, "grade_id": "dequantize-bits", "locked": true, "solution": false}
#| export
def dequantize_bits(q: Tensor, scale: Any, zero_point: Any, axis: int | None = None) -> Tensor:
    """(q - zero_point) * scale as float32: what `quantize_bits` stored, to within scale / 2.

    Raises ValueError where the number of scales doesn't fit.

    >>> dequantize_bits(Tensor([-8, 7], dtype=np.int8), 0.5, -8)
    Tensor([0. , 7.5])
    """
    axis = checked_axis(axis, q.ndim, "dequantize_bits")
    grid = np.asarray(scale, np.float64), np.asarray(zero_point, np.float64)
    expected = () if axis is None else (q.shape[axis],)
    for part, values in zip(("scale", "zero_point"), grid, strict=True):
        if values.shape != expected:
            raise ValueError(
                f"dequantize_bits: {part} has shape {values.shape}, expected {expected} "
                f"for axis={axis} of {q.shape}"
            )
    scale, zero_point = (along(values, q.ndim, axis) for values in grid)
    return Tensor._wrap(((q.data.astype(np.float64) - zero_point) * scale).astype(np.float32))


# %% [markdown]
r"""
## What a bit is worth

Let $s$ be the step. If errors are spread evenly over $[-s/2, s/2]$, their mean square is $s^2 / 12$. So the signal-to-noise ratio can be computed *without quantising anything*:

$$\mathrm{SNR} = 10 \log_{10} \frac{\overline{x^2}}{s^2 / 12}\ \mathrm{dB}, \qquad s = \frac{\max|x|}{2^{b-1} - 1} \text{ (symmetric)} \quad \text{or} \quad \frac{high - low}{2^b - 1}$$

One bit more halves $s$: $20 \log_{10} 2 = 6.02$ dB. How *high* the line lies depends on the numbers. With $M = \max|x|$ and $\sigma^2 = \overline{x^2}$, and $s \approx 2M / 2^b$:

$$\mathrm{SNR} \approx 6.02\, b + 4.77 - 20 \log_{10} (M / \sigma)$$

$M / \sigma$ is the **crest factor**: how far the largest number stands out. Numbers spread evenly over [-1, 1] have $\sqrt 3$, and 4.77 - 4.77 = 0: the famous 6.02 dB a bit.
**Predict**: of 100,000 normal numbers the largest is about 4.5 $\sigma$. How far below the famous line do they lie?

### Exercise 2: expected_snr

Return the first formula as a float. `scale` ($s$) comes from `quantization_parameters(*value_range(x), symmetric, bits)`. All zeros have no error: `math.inf`.

[3, -4] symmetric with 2 bits: $s$ = 4, mean square 12.5: 10 log10(12.5 / (16 / 12)) = 9.72 dB.
"""


# %% nbgrader={"grade": false, "grade_id": "expected-snr", "locked": false, "solution": true}
#| export
def expected_snr(tensor: Tensor, bits: int, symmetric: bool = False) -> float:
    """The SNR in dB that a grid of `bits` bits over a tensor has, if errors are spread evenly.

    10 log10(mean(x^2) / (scale^2 / 12)), which is 6.02 bits + 4.77 - 20 log10(max|x| / rms) for
    many bits (Bennett 1948). Infinite for zeros.

    >>> round(expected_snr(Tensor([3, -4]), bits=2, symmetric=True), 2)
    9.72
    """
    require_bits(bits, "expected_snr")
    require_floats(tensor, "expected_snr: tensor")
    x = finite(tensor, "expected_snr: tensor")
    ### BEGIN SOLUTION
    scale, _ = quantization_parameters(*value_range(x), symmetric, bits)
    power = float((x**2).mean()) if x.any() else 0.0
    return 10 * math.log10(power / (scale**2 / 12)) if power else math.inf
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-expected-snr", "locked": true, "points": 6, "solution": false}
def test_expected_snr():
    x = Tensor([3.0, -4.0])
    right = 10 * math.log10(12.5 / (16 / 12))
    check(expected_snr(x, bits=2, symmetric=True), right, "signal 12.5, noise 4^2 / 12")
    affine = 10 * math.log10(12.5 / ((7 / 15) ** 2 / 12))
    check(expected_snr(x, bits=4), affine, "affine: a step of (3 + 4) / 15")
    ### BEGIN HIDDEN TESTS
    even = Tensor(np.linspace(-1, 1, 10_001))
    check(abs(expected_snr(even, 8) - 6.02 * 8) < 0.05, True, "spread evenly: 6.02 dB a bit")
    check(expected_snr(Tensor([0.0, 0.0]), 4), math.inf, "zeros are stored exactly")
    ### END HIDDEN TESTS


test_expected_snr()

# %% [markdown]
r"""
Now compare the prediction with what is measured, on four tensors: evenly spread, normal, the weights of the trained network's second layer, and its **activations**: what reaches that layer behind a ReLU.
**Predict** the order of the four lines, and which of them gains most by an affine grid.
"""

# %%
random = np.random.default_rng(0)
with no_grad():
    activations = network[2](network[1](network[0](train.images)))
samples = {
    "evenly spread": Tensor(random.uniform(-1, 1, 100_000)),
    "normal": Tensor(random.standard_normal(100_000)),
    "weights": network[3].weight.detach(),
    "activations": activations,
}


def measured_snr(x: Tensor, bits: int, symmetric: bool = True) -> float:
    """The SNR in dB after `quantize_bits` and back."""
    return quantization_error(x, dequantize_bits(*quantize_bits(x, bits, symmetric)))["snr_db"]


widths = (2, 3, 4, 6, 8, 12)
print("measured (expected) dB:  " + "".join(f"{bits:8} bits  " for bits in widths))
for symmetric in (True, False):
    for name, x in samples.items():
        row = [(measured_snr(x, b, symmetric), expected_snr(x, b, symmetric)) for b in widths]
        title = f"{name}, {'symmetric' if symmetric else 'affine'}"
        print(f"{title:25}" + "".join(f"{got:6.1f} ({said:5.1f})" for got, said in row))

# %%
if plt:
    for (name, x), line in zip(samples.items(), ("k-", "k--", "k-.", "k:"), strict=True):
        plt.plot(widths, [measured_snr(x, b) for b in widths], line, marker="o", label=name)
    plt.plot(widths, [6.02 * b for b in widths], color="0.7", label="6.02 dB a bit")
    plt.title("Every bit is worth 6 dB; where the line starts depends on the numbers")
    plt.xlabel("bits")
    plt.ylabel("signal-to-noise ratio (dB)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
From 3 bits up the formula is right to a fraction of a decibel, for trained weights as for random numbers. At 2 bits errors are not spread evenly any more: most numbers are nearest to 0, and become 0.
The activations lie *above* their expectation, by the same amount at each width: many are exactly 0 behind a ReLU, and 0 has no error. They have no negative numbers either: a symmetric grid wastes half its marks
on them, and the affine grid wins more than a whole bit back.

## Groups: a grid for every 32 weights

The crest factor tells you what to do. Many numbers have a larger largest number than few: the largest of 100,000 normal numbers is about 4.5 $\sigma$, of 32 about 2.3. So cut each column of the weight into **groups**
of 32, 64 or 128 consecutive numbers along its input axis, and give each group its own scale.

```
        weight (in_features = K, out_features = N)            scale (K / 32, N)
        column 0   column 1  ...
row 0   +-------+  +-------+
  ...   | group |  | group |                                  s[0, 0]  s[0, 1] ...
row 31  +-------+  +-------+
row 32  +-------+  +-------+
  ...   | group |  | group |                                  s[1, 0]  s[1, 1] ...
row 63  +-------+  +-------+
```

But now scales are no small change: at 4 bits, a float32 for each 32 weights is another whole bit a weight. So scales are stored in 16 bits, as float16. It counts to 65,504, and below 0.00006 it gets coarse: 6e-8 is its smallest number.

**Predict** what `np.float16` makes of the scales 0.1, 1e-9 and 1e6.
"""

# %%
with np.errstate(over="ignore"):
    for value in (0.1, 1e-9, 1e6):
        print(f"{value:g} becomes {float(np.float16(value)):.9g}")

# %% [markdown]
r"""
A scale that is rounded *down* makes the grid too short for its largest number; one that becomes 0 divides by zero; infinity is the end of everything. So: **round up**, always, and refuse what doesn't fit.

### Exercise 3: stored_scale

`stored_scale(scale, dtype, name)` returns the scales (a float64 array) as `dtype`: each the **smallest** number of that dtype that is not smaller. `scale.astype(dtype)` takes the nearest;
`np.nextafter(a, np.inf, dtype=dtype)` gives for each number of `a` the next larger one. The check for scales that are too large is given.

0.1 becomes 0.10003662 (its nearest float16, 0.09997559, is smaller); 0.25 stays 0.25; 1e-9 becomes 5.96e-8.
"""


# %% nbgrader={"grade": false, "grade_id": "stored-scale", "locked": false, "solution": true}
#| exporti
def stored_scale(scale: np.ndarray, dtype: Any, name: str = "scale") -> np.ndarray:
    """Scales as float16 or float32, rounded up: the grid still reaches its largest number.

    >>> stored_scale(np.array([0.25, 0.1, 1e-9]), np.float16).astype(np.float64)
    array([2.50000000e-01, 1.00036621e-01, 5.96046448e-08])
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float16, np.float32):
        raise TypeError(f"{name}: scale_dtype must be float16 or float32, got {dtype}")
    largest = scale.max(initial=0)
    if largest > np.finfo(dtype).max:
        raise ValueError(
            f"{name}: a scale of {largest:.3g} is too large for {dtype}: use scale_dtype=np.float32"
        )
    ### BEGIN SOLUTION
    stored = scale.astype(dtype)
    smaller = stored < scale
    stored[smaller] = np.nextafter(stored[smaller], np.inf, dtype=dtype)
    return stored
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-stored-scale", "locked": true, "points": 5, "solution": false}
def test_stored_scale():
    stored = stored_scale(np.array([0.25, 0.1]), np.float16)
    check(stored.dtype, np.float16, "two bytes each")
    check(stored.astype(float), [0.25, 0.10003662109375], "round up; what fits stays", 1e-12)
    ### BEGIN HIDDEN TESTS
    tiny = float(stored_scale(np.array([1e-9]), np.float16)[0])
    check(tiny > 0, True, "never 0: numbers will be divided by it")
    check(stored_scale(np.array([[0.1]]), np.float32).dtype, np.float32, "four bytes if asked")
    scales = np.geomspace(1e-6, 1e3, 999)
    stored = stored_scale(scales, np.float16).astype(float)
    check(bool((stored >= scales).all()), True, "no scale may become smaller")
    below = np.nextafter(stored.astype(np.float16), np.float16(0)).astype(float)
    check(bool((below < scales).all()), True, "the smallest number that is not smaller")
    ### END HIDDEN TESTS


test_stored_scale()

# %% [markdown]
r"""
### Exercise 4: quantize_groups

Given is `split_groups`: it reshapes (..., K, ...) to (..., K / g, g, ...), so that the axis *behind* `axis` counts within a group, and says which size would fit where g doesn't divide K.

Now: low and high of each group (`x.min(axis=axis + 1)`), the scale of `quantization_parameters`, rounded up by `stored_scale(scale, scale_dtype, name)`. **Everything after uses the stored scale**: it is the one that will come back.
The zero point is $\mathrm{round}(q_{min} - \min(low, 0) / s)$ as int32, or zeros of that type where symmetric. `to_marks` wants scale and zero point with `np.expand_dims(..., axis + 1)`; its marks get the tensor's shape again.

For a column [7, -1, 14, 2] with 4 bits and groups of 2: scales 1 and 2, marks [7, -1, 7, 1].
"""


# %% nbgrader={"grade": false, "grade_id": "split-groups", "locked": true, "solution": false}
#| exporti
def group_axis(axis: int, ndim: int, asked: str) -> int:
    """The axis counted from the left; ValueError where there is none."""
    return checked_axis(axis, ndim, asked) or 0


def split_groups(x: np.ndarray, group_size: int | None, axis: int, name: str) -> np.ndarray:
    """(..., K, ...) -> (..., K / group_size, group_size, ...); None makes one group of all K.

    >>> split_groups(np.zeros((64, 10)), 32, 0, "weight").shape
    (2, 32, 10)
    """
    length = x.shape[axis]
    size = length if group_size is None else group_size
    if size < 1 or length % size:
        fits = max(n for n in range(1, max(min(size, length), 1) + 1) if length % n == 0)
        raise ValueError(
            f"{name}: group_size {size} does not divide the {length} along axis {axis}: {fits} does"
        )
    return x.reshape(*x.shape[:axis], length // size, size, *x.shape[axis + 1 :])


def require_groups(q: tuple, scale: tuple, zero_point: tuple, axis: int) -> None:
    """ValueError unless there is one scale and one zero point for each group of q."""
    rest = q[:axis] + q[axis + 1 :]
    groups = scale[axis] if len(scale) == len(q) else 0
    if not groups or q[axis] % groups or scale[:axis] + scale[axis + 1 :] != rest:
        raise ValueError(f"dequantize_groups: scale of {scale} doesn't fit q of {q}, axis={axis}")
    if zero_point != scale:
        raise ValueError(f"dequantize_groups: zero_point of {zero_point}, expected {scale}")


# %% nbgrader={"grade": false, "grade_id": "quantize-groups", "locked": false, "solution": true}
#| export
def quantize_groups(
    tensor: Tensor,
    bits: int = 4,
    group_size: int | None = 32,
    symmetric: bool = True,
    axis: int = 0,
    scale_dtype: Any = np.float16,
    name: str = "quantize_groups: tensor",
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """A tensor as integers, each group along `axis` on its own grid: (q, scale, zero_point).

    `scale` (float16 or float32, rounded up) and `zero_point` (int32) have the tensor's shape with
    K / group_size in place of K. Axis 0 is the input axis of a Linear's weight; `group_size` None
    makes one group of all K. Raises ValueError for NaN, infinity, and groups that don't divide K.

    >>> q, scale, _ = quantize_groups(Tensor([7, -1, 14, 2]), group_size=2)
    >>> q.tolist(), scale.tolist()
    ([7, -1, 7, 1], [1.0, 2.0])
    """
    require_bits(bits, "quantize_groups")
    require_floats(tensor, name)
    axis = group_axis(axis, tensor.ndim, name)
    x = split_groups(finite(tensor, name), group_size, axis, name)
    ### BEGIN SOLUTION
    low, high = x.min(axis=axis + 1), x.max(axis=axis + 1)
    scale, _ = quantization_parameters(low, high, symmetric, bits)
    scale = stored_scale(scale, scale_dtype, name)
    zero_point = np.zeros(scale.shape, np.int32)
    if not symmetric:
        lowest, _ = integer_range(bits)
        zero_point = np.rint(lowest - np.minimum(low, 0) / scale).astype(np.int32)
    grid = np.expand_dims(scale, axis + 1), np.expand_dims(zero_point, axis + 1)
    marks = to_marks(x, *grid, bits, symmetric)
    return Tensor._wrap(marks.reshape(tensor.shape)), scale, zero_point
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-quantize-groups", "locked": true, "points": 7, "solution": false}
def test_quantize_groups():
    q, scale, zero_point = quantize_groups(Tensor([7.0, -1.0, 14.0, 2.0]), group_size=2)
    check(q, np.array([7, -1, 7, 1]), "two groups, each with its own scale")
    check(scale.astype(float), [1.0, 2.0], "largest of each group / 7")
    check(zero_point, np.array([0, 0]), "symmetric: zero points are 0")
    weight = Tensor([[7.0, 70.0], [-1.0, -10.0], [14.0, 0.0], [2.0, 0.0]])
    q, scale, _ = quantize_groups(weight, group_size=2)
    check(scale.astype(float), [[1.0, 10.0], [2.0, 1.0]], "(K / 2, N): groups lie within columns")
    check(q, [[7, 7], [-1, -1], [7, 0], [1, 0]], "the marks have the shape of the weight")
    ### BEGIN HIDDEN TESTS
    q, scale, zero_point = quantize_groups(Tensor([-1.0, 14.0, 1.0, 16.0]), 4, 2, symmetric=False)
    check(
        scale.astype(float),
        [1.0, stored_scale(np.array([16 / 15]), np.float16)[0].item()],
        "(high - low) / 15",
    )
    check(zero_point, np.array([-7, -8]), "affine: a zero point for each group, 0 on the grid")
    check(q, np.array([-8, 7, -7, 7]), "marks from -8 to 7")
    sideways = quantize_groups(Tensor(weight.data.T), group_size=2, axis=-1)
    check(sideways[1].astype(float), [[1.0, 2.0], [10.0, 1.0]], "axis=-1 is the last axis")
    check(sideways[0], [[7, -1, 7, 1], [7, -1, 0, 0]], "along the last axis")
    small = Tensor([3e-7, -1e-7])
    q, scale, _ = quantize_groups(small, group_size=None)
    check(q, np.array([5, -2]), "divide by the scale as it is stored: 5.96e-8")
    with check_raises(ValueError, "group_size 3 does not divide the 4", "3 doesn't divide 4"):
        quantize_groups(weight, group_size=3)
    ### END HIDDEN TESTS


test_quantize_groups()

# %% [markdown]
r"""
### Exercise 5: dequantize_groups

$(q - z)\,s$ as float32, each group with its own $s$ and $z$. The group size follows from the shapes: `q.shape[axis] // scale.shape[axis]`. `split_groups` helps again.
Convert `q`, zero points and scales to float32 first, then work in place (`groups -= ...`, `groups *= ...`): $q - z$ is a whole number that float32 holds exactly, so only the product is rounded, once. (Few processors
multiply float16: left as they are, the scales make this several times slower.)

The marks [7, -1, 7, 1] with scales [1, 2] and zero points 0 give [7, -1, 14, 2].
"""


# %% nbgrader={"grade": false, "grade_id": "dequantize-groups", "locked": false, "solution": true}
#| export
def dequantize_groups(
    q: Tensor, scale: np.ndarray, zero_point: np.ndarray | None = None, axis: int = 0
) -> Tensor:
    """(q - zero_point) * scale as float32, where each group along `axis` has its own grid.

    Raises ValueError where the shape of `scale` or `zero_point` doesn't belong to that of `q`.

    >>> dequantize_groups(Tensor([7, -1, 7, 1], dtype=np.int8), np.array([1.0, 2.0]))
    Tensor([ 7., -1., 14.,  2.])
    """
    axis = group_axis(axis, q.ndim, "dequantize_groups")
    zero_point = np.zeros(scale.shape, np.int32) if zero_point is None else zero_point
    require_groups(q.shape, scale.shape, zero_point.shape, axis)
    ### BEGIN SOLUTION
    size = q.shape[axis] // scale.shape[axis]
    groups = split_groups(q.data.astype(np.float32), size, axis, "dequantize_groups")
    groups -= np.expand_dims(zero_point.astype(np.float32), axis + 1)
    groups *= np.expand_dims(scale.astype(np.float32), axis + 1)
    return Tensor._wrap(groups.reshape(q.shape))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-dequantize-groups", "locked": true, "points": 5, "solution": false}
def test_dequantize_groups():
    q = Tensor([[7, 7], [-1, -1], [7, 0], [1, 0]], dtype=np.int8)
    scale = np.array([[1.0, 10.0], [2.0, 1.0]], np.float16)
    x = dequantize_groups(q, scale)
    check(x, [[7.0, 70.0], [-1.0, -10.0], [14.0, 0.0], [2.0, 0.0]], "rows 0, 1 are a group")
    check(x.dtype, np.float32, "float32 comes out")
    ### BEGIN HIDDEN TESTS
    zero_point = np.array([[1, 2], [3, 4]], np.int32)
    x = dequantize_groups(q, scale, zero_point)
    check(x, [[6.0, 50.0], [-2.0, -30.0], [8.0, -4.0], [-4.0, -4.0]], "subtract the zero point")
    x = dequantize_groups(Tensor(q.data.T, dtype=np.int8), scale.T, zero_point.T, axis=1)
    check(x, [[6.0, -2.0, 8.0, -4.0], [50.0, -30.0, -4.0, -4.0]], "along axis 1")
    wide = dequantize_groups(Tensor([-128, 127], dtype=np.int8), np.ones(1), np.array([127]))
    check(wide, [-255.0, 0.0], "widen before you subtract")
    ### END HIDDEN TESTS


test_dequantize_groups()

# %% [markdown]
r"""
What do groups buy? The SNR of the second layer's weight at 4 bits, and the bits a weight takes with its share of the scale. **Predict**: is a group of 32 worth more or less than the half bit that it costs, if a bit is worth 6 dB?
"""


# %%
def group_snr(weight: Tensor, bits: int, group_size: int | None) -> float:
    """The SNR in dB of groups with float16 scales."""
    restored = dequantize_groups(*quantize_groups(weight, bits, group_size))
    return quantization_error(weight, restored)["snr_db"]


weight = network[3].weight.detach()
spiky = Tensor(weight.data.copy())
spiky.data[::37, ::11] *= 8  # a few weights that stand out, as in large language models
print("group size    bits a weight    trained weight    with outliers")
print(
    f"{'tensor':>10} {4:16.3f} {measured_snr(weight, 4):14.1f} dB {measured_snr(spiky, 4):13.1f} dB"
)
for size in (128, 64, 32, 16, 8):
    print(
        f"{size:10} {4 + 16 / size:16.3f} {group_snr(weight, 4, size):14.1f} dB {group_snr(spiky, 4, size):13.1f} dB"
    )

# %% [markdown]
r"""
Half a bit is 3 dB; compare that with what groups of 32 gain over one grid for all. And where a few weights stand out, only their own groups suffer. Most of the gain comes with the first groups; halving them
again costs more and more for about one decibel each. 32 to 128 is what is used in practice.

## Two weights in one byte

Half a byte is a **nibble**. The first weight goes into the low nibble, the second into the high one:

```
   q = [ 3, -2, 7 ]                 -2 is 1110 in two's complement: 16 - 2 = 14
   byte 0:  1110 0011   = 14 * 16 + 3 = 227
   byte 1:  0000 0111   = 7             an odd count: the last high nibble is 0
```

Low nibble first is also how ONNX stores INT4. A signed number of four bits is its lowest four bits: `q & 15`. Given is `fields`, which takes them from any integers (also of other widths) and refuses numbers that don't fit.
"""


# %% nbgrader={"grade": false, "grade_id": "fields", "locked": true, "solution": false}
#| exporti
def fields(q: Any, bits: int, asked: str) -> np.ndarray:
    """The lowest `bits` bits of integers, flat, as uint8: two's complement for negative ones.

    >>> fields(np.array([[3, -2]]), 4, "pack_int4")
    array([ 3, 14], dtype=uint8)
    """
    require_bits(bits, asked, most=8)
    q = np.asarray(q)
    if q.dtype.kind not in "iu":
        raise TypeError(f"{asked}: expected integers, got {q.dtype}")
    low, high = int(q.min(initial=0)), int(q.max(initial=0))
    half = 2 ** (bits - 1)
    if low < -half or high >= (half if low < 0 else 2 * half):
        raise ValueError(
            f"{asked}: {bits} bits hold {-half} to {half - 1}, or 0 to {2 * half - 1}, "
            f"got {low} to {high}"
        )
    return q.reshape(-1).astype(np.uint8) & (2 * half - 1)


def from_fields(codes: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """What `fields` took apart: uint8 as it is, or where signed its two's complement as int8.

    >>> from_fields(np.array([3, 14], np.uint8), 4, signed=True)
    array([ 3, -2], dtype=int8)
    """
    half = 2 ** (bits - 1)
    return ((codes ^ half) - half).view(np.int8) if signed else codes  # uint8 wraps around


def require_bytes(packed: np.ndarray, bits: int, count: int, asked: str) -> None:
    """An error unless these are the bytes of `count` integers."""
    require_bits(bits, asked, most=8)
    needed = (count * bits + 7) // 8
    if packed.dtype != np.uint8 or packed.shape != (needed,):
        raise ValueError(
            f"{asked}: {count} integers of {bits} bits take {needed} bytes of uint8 in one row, "
            f"got {packed.dtype} of shape {packed.shape}"
        )


# %% [markdown]
r"""
### Exercise 6: pack_int4

`codes` (uint8, each from 0 to 15, flat) is given. Append a 0 if their number is odd. Then every second one, from the first on, is a low nibble, and every second one from the second on a high one: shift it by 4 to the left and put both together with `|`.

[3, -2, 7] gives the bytes [227, 7].
"""


# %% nbgrader={"grade": false, "grade_id": "pack-int4", "locked": false, "solution": true}
#| export
def pack_int4(q: Any) -> np.ndarray:
    """Integers of 4 bits, two in a byte: uint8, flat, of half the length, rounded up.

    The first of two goes into the low nibble, as in ONNX's INT4; an odd count leaves the last high
    nibble 0. `q` holds -8 to 7 (two's complement), or 0 to 15. Raises ValueError for others.

    >>> pack_int4([3, -2, 7])
    array([227,   7], dtype=uint8)
    """
    codes = fields(q, 4, "pack_int4")
    ### BEGIN SOLUTION
    codes = np.append(codes, np.zeros(codes.size % 2, np.uint8))
    return codes[::2] | (codes[1::2] << 4)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-pack-int4", "locked": true, "points": 6, "solution": false}
def test_pack_int4():
    packed = pack_int4(np.array([3, -2], np.int8))
    check(packed, np.array([227]), "low nibble first: 14 * 16 + 3")
    check(packed.dtype, np.uint8, "bytes")
    check(pack_int4([3, -2, 7]), np.array([227, 7]), "an odd count: the last high nibble is 0")
    ### BEGIN HIDDEN TESTS
    check(pack_int4(np.array([[1, 2], [3, 4]])), np.array([0x21, 0x43]), "row by row")
    check(pack_int4([15, 0]), np.array([15]), "unsigned numbers too")
    check(pack_int4(np.zeros(0, np.int8)).shape, (0,), "nothing packs into nothing")
    with check_raises(ValueError, "got -9 to 0", "the given check stays"):
        pack_int4([-9, 0])
    ### END HIDDEN TESTS


test_pack_int4()

# %% [markdown]
r"""
### Exercise 7: unpack_int4

Back again: make an array of shape (bytes, 2) and put `packed & 15` into its first column, `packed >> 4` into its second; flattened and cut to `count`, these are the codes. `from_fields(codes, 4, signed)`, given above, makes 14 to -2 again.

The bytes [227, 7] with count 3: [3, -2, 7], unsigned [3, 14, 7].
"""


# %% nbgrader={"grade": false, "grade_id": "unpack-int4", "locked": false, "solution": true}
#| export
def unpack_int4(packed: np.ndarray, count: int, signed: bool = True) -> np.ndarray:
    """The `count` integers that `pack_int4` packed: int8 from -8 to 7, or uint8 from 0 to 15.

    Raises ValueError where there are more or fewer bytes than `count` integers take.

    >>> unpack_int4(np.array([227, 7], np.uint8), 3)
    array([ 3, -2,  7], dtype=int8)
    """
    require_bytes(packed, 4, count, "unpack_int4")
    ### BEGIN SOLUTION
    codes = np.empty((packed.size, 2), np.uint8)
    codes[:, 0], codes[:, 1] = packed & 15, packed >> 4
    return from_fields(codes.reshape(-1)[:count], 4, signed)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-unpack-int4", "locked": true, "points": 6, "solution": false}
def test_unpack_int4():
    packed = np.array([227, 7], np.uint8)
    check(unpack_int4(packed, 4), np.array([3, -2, 7, 0]), "low nibble first, 14 means -2")
    check(
        unpack_int4(packed, 3), np.array([3, -2, 7]), "the last nibble is padding if count is odd"
    )
    ### BEGIN HIDDEN TESTS
    check(unpack_int4(packed, 3, signed=False), np.array([3, 14, 7]), "unsigned: as they are")
    check(unpack_int4(packed, 3).dtype, np.int8, "signed: int8")
    every = np.arange(-8, 8, dtype=np.int8)
    check(unpack_int4(pack_int4(every), 16), every, "exactly what was packed")
    with check_raises(ValueError, "5 integers of 4 bits take 3 bytes", "the given check stays"):
        unpack_int4(packed, 5)
    ### END HIDDEN TESTS


test_unpack_int4()

# %% [markdown]
r"""
### Any width

Three bits don't fit a byte evenly. But **eight numbers of $b$ bits are exactly $b$ bytes**. So take eight at a time, shift number $i$ by $i b$ bits to the left, and put them together in one 64-bit integer: its lowest $b$ bytes are the result.

```
   b = 3:   number   7   6   5   4   3   2   1   0
            bits    hhh ggg fff eee ddd ccc bbb aaa    24 bits = 3 bytes, the lowest first
```

### Exercise 8: pack_bits

1. `words`: the codes as `'<u8'` (64-bit, lowest byte first), filled up with zeros to a multiple of 8, in rows of 8: shape (n, 8).
2. Shift the columns: `words << (bits * np.arange(8, dtype="<u8"))`, and join each row by `np.bitwise_or.reduce(..., axis=1)`.
3. `.view(np.uint8).reshape(-1, 8)[:, :bits]` are the lowest bytes of each. Flatten, and cut to `(count * bits + 7) // 8`.

With 4 bits this is the very layout of `pack_int4`, which is quicker: leave that to it. [1, 2, 3] in 3 bits: 1 + 2 * 8 + 3 * 64 = 209, so [209, 0]; in 2 bits: 1 + 2 * 4 + 3 * 16 = 57.
"""


# %% nbgrader={"grade": false, "grade_id": "pack-bits", "locked": false, "solution": true}
#| export
def pack_bits(q: Any, bits: int) -> np.ndarray:
    """Integers of 2 to 8 bits without a gap between them: uint8, flat; the lowest bits come first.

    Negative ones are packed as two's complement. With 4 bits it is `pack_int4`.

    >>> pack_bits([1, 2, 3], bits=2), pack_bits([1, 2, 3], bits=3)
    (array([57], dtype=uint8), array([209,   0], dtype=uint8))
    """
    codes = fields(q, bits, "pack_bits")
    if bits == 4:
        return pack_int4(codes)
    ### BEGIN SOLUTION
    words = np.append(codes, np.zeros(-codes.size % 8, np.uint8)).astype("<u8").reshape(-1, 8)
    joined = np.bitwise_or.reduce(words << (bits * np.arange(8, dtype="<u8")), axis=1)
    packed = joined.view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)
    return packed[: (codes.size * bits + 7) // 8]
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "unpack-bits", "locked": true, "solution": false}
#| export
def unpack_bits(packed: np.ndarray, bits: int, count: int, signed: bool = True) -> np.ndarray:
    """The `count` integers that `pack_bits` packed, as int8, or uint8 where not signed.

    >>> unpack_bits(np.array([209, 0], np.uint8), bits=3, count=3)
    array([1, 2, 3], dtype=int8)
    """
    if bits == 4:
        return unpack_int4(packed, count, signed)
    require_bytes(packed, bits, count, "unpack_bits")
    groups = (count + 7) // 8
    words = np.zeros((groups, 8), np.uint8)
    words[:, :bits] = np.append(packed, np.zeros(-packed.size % bits, np.uint8)).reshape(-1, bits)
    shifted = words.view("<u8") >> (bits * np.arange(8, dtype="<u8"))
    codes = (shifted & np.uint64(2**bits - 1)).astype(np.uint8).reshape(-1)[:count]
    return from_fields(codes, bits, signed)


# %% nbgrader={"grade": true, "grade_id": "test-pack-bits", "locked": true, "points": 6, "solution": false}
def test_pack_bits():
    check(pack_bits([1, 2, 3], bits=2), np.array([57]), "1 + 2 * 4 + 3 * 16")
    check(pack_bits([1, 2, 3], bits=3), np.array([209, 0]), "9 bits take two bytes")
    numbers = np.arange(-4, 4, dtype=np.int8)
    check(unpack_bits(pack_bits(numbers, 3), 3, 8), numbers, "unpacked, the same numbers")
    check(pack_bits(numbers, 3).nbytes, 3, "eight numbers of three bits: three bytes")
    ### BEGIN HIDDEN TESTS
    check(pack_bits([3, -2, 7], bits=4), np.array([227, 7]), "4 bits: as pack_int4")
    check(pack_bits([1, -1], bits=8), np.array([1, 255]), "8 bits: a byte each")
    random = np.random.default_rng(0)
    for bits in range(2, 9):
        for count in (0, 1, 7, 8, 9, 100):
            numbers = random.integers(0, 2**bits, count).astype(np.uint8)
            packed = pack_bits(numbers, bits)
            check(packed.shape, ((count * bits + 7) // 8,), f"{count} numbers of {bits} bits")
            check(unpack_bits(packed, bits, count, signed=False), numbers, "the same numbers")
    ### END HIDDEN TESTS


test_pack_bits()

# %% [markdown]
r"""
## Levels that are not evenly spaced

Evenly spaced marks suit evenly spread numbers. Weights are not: most lie near 0, few far out. So why not put the marks where the numbers are? A **codebook** is a sorted list of $2^b$ levels between -1 and 1.
A weight is stored as the *number* of its nearest level, and each group's largest size as its scale:

$$code = \arg\min_i \left| \frac{x}{s} - level_i \right| \qquad x' = s \cdot level_{code} \qquad s = \max|x| \text{ of the group}$$

```
uniform    |--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|
for weights|-----|---|--|--|-|-|-|-|-|-|--|--|---|------|     close where weights are many
           -1                    0                      1
```

### Exercise 9: nearest_code

Levels are sorted, so no distances are needed: the border between two neighbours lies in their middle. `np.searchsorted(borders, x)` counts, for each x, how many borders lie below it: that is the code. Return it as uint8.

With levels [-1, 0, 0.5, 1], 0.3 lies above the borders -0.5 and 0.25: code 2. On a border, the lower level wins.
"""


# %% nbgrader={"grade": false, "grade_id": "nearest-code", "locked": false, "solution": true}
#| exporti
def nearest_code(x: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The index of the nearest of up to 256 sorted levels; on a border the lower one.

    >>> nearest_code(np.array([-9.0, 0.3]), np.array([-1.0, 0.0, 0.5, 1.0]))
    array([0, 2], dtype=uint8)
    """
    levels = np.asarray(levels, np.float64)
    ### BEGIN SOLUTION
    return np.searchsorted((levels[:-1] + levels[1:]) / 2, x).astype(np.uint8)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-nearest-code", "locked": true, "points": 5, "solution": false}
def test_nearest_code():
    levels = np.array([-1.0, 0.0, 0.5, 1.0])
    codes = nearest_code(np.array([[0.3, -9.0], [0.8, 0.7]]), levels)
    check(codes, np.array([[2, 0], [3, 2]]), "the level that is nearest, not the next lower one")
    check(codes.dtype, np.uint8, "one byte")
    ### BEGIN HIDDEN TESTS
    check(nearest_code(np.array([0.25, 0.75]), levels), np.array([1, 2]), "a border: the lower")
    many = np.linspace(-1, 1, 256)
    check(nearest_code(many, many), np.arange(256), "256 levels have codes from 0 to 255")
    ### END HIDDEN TESTS


test_nearest_code()

# %% [markdown]
r"""
### Exercise 10: steps that multiply

On a logarithmic scale each level is a fixed factor from the next. From a `ladder` of sizes, $2^{b-1}$ of them, from 1 downward, `mirrored` (in the cell below) makes a codebook: all sizes positive, 0, and all but the smallest negative. So **all $2^b$ levels are used**, none twice. You write the two ladders.

- `log_levels(bits)`: sizes from 1 to $2^{-b}$, evenly spaced in the logarithm: `np.geomspace`.
- `power_of_two_levels(bits)`: 1, 1/2, 1/4, ... Multiplying by these is a shift: hardware loves it.

With 3 bits: log sizes 1, 1/2, 1/4, 1/8, and powers of two the same: [-1, -0.5, -0.25, 0, 0.125, 0.25, 0.5, 1]. With 4 bits they differ.
"""


# %% nbgrader={"grade": false, "grade_id": "mirrored", "locked": true, "solution": false}
#| exporti
def mirrored(ladder: np.ndarray) -> np.ndarray:
    """Falling sizes as levels: all but the smallest negative, 0, all positive."""
    return np.concatenate([-ladder[:-1], [0.0], ladder[::-1]])


# %% nbgrader={"grade": false, "grade_id": "log-levels", "locked": false, "solution": true}
#| export
def log_levels(bits: int) -> np.ndarray:
    """2^bits levels from -1 to 1, each a fixed factor from the next, and 0; sizes 1 to 2^-bits.

    >>> log_levels(2)
    array([-1.  ,  0.  ,  0.25,  1.  ])
    """
    require_bits(bits, "log_levels", most=8)
    ### BEGIN SOLUTION
    return mirrored(np.geomspace(1, 2.0**-bits, 2 ** (bits - 1)))
    ### END SOLUTION


def power_of_two_levels(bits: int) -> np.ndarray:
    """2^bits levels from -1 to 1: 0 and powers of two, so that multiplying is a shift.

    >>> power_of_two_levels(2)
    array([-1. ,  0. ,  0.5,  1. ])
    """
    require_bits(bits, "power_of_two_levels", most=8)
    ### BEGIN SOLUTION
    return mirrored(2.0 ** -np.arange(2 ** (bits - 1)))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-log-levels", "locked": true, "points": 6, "solution": false}
def test_log_levels():
    right = [-1.0, -0.5, -0.25, 0.0, 0.125, 0.25, 0.5, 1.0]
    check(power_of_two_levels(3), right, "0 and powers of two, from 1 downward")
    check(log_levels(3), right, "with 3 bits: the same")
    sizes = log_levels(4)[8:]
    check(sizes[0], np.array(1 / 16), "4 bits: the smallest size is 2^-4")
    check(sizes[1:] / sizes[:-1], np.full(7, 2 ** (4 / 7)), "always the same factor")
    ### BEGIN HIDDEN TESTS
    for levels in (log_levels, power_of_two_levels):
        for bits in range(2, 9):
            check(np.unique(levels(bits)).size, 2**bits, "every level once")
            check(bool((np.diff(levels(bits)) > 0).all()), True, "sorted")
    check(power_of_two_levels(4)[8], np.array(2.0**-7), "eight sizes: 1 to 2^-7")
    ### END HIDDEN TESTS


test_log_levels()

# %% [markdown]
r"""
### NF4: levels for normal numbers

Trained weights are nearly normal. If every level is to be used equally often, put the levels at **quantiles** of the normal distribution: with 16 of them, at the points that cut off 1/32, 3/32, ... of its area. Dettmers et al. (2023, QLoRA) make
their NF4 ("normal float") so, with two changes: 0 must be a level, and the outermost levels must be finite. So each side gets its own quantiles, from an outermost probability $p$ to one half, where the quantile is 0:

$$p = 1 - \tfrac12 \left( \frac{1}{2 \cdot 2^b} + \frac{1}{2\,(2^b - 1)} \right) \qquad level = \Phi^{-1}(\text{evenly from } p \text{ to } \tfrac12)\ /\ \Phi^{-1}(p)$$

$\Phi^{-1}$ is the inverse of the normal distribution function: `NormalDist().inv_cdf` of Python's `statistics`. The positive side has $2^{b-1}$ levels, the negative one less, and 0 is counted once: the last point of both sides, so drop it from both.

### Exercise 11: normal_levels

1. $p$ for the given bits (4 bits: 0.96770833).
2. For each side its sizes: inverses of `np.linspace(p, 0.5, n + 1)[:-1]`, $n$ being the number of levels of that side. They fall.
3. Negative sizes with a minus, 0, positive sizes turned round; divide all by the largest.

With 2 bits, $p$ = 0.854: [-1, 0, 0.436, 1].

The published table of NF4, with 4 bits, is given below: yours should agree with it to seven digits.
"""


# %% nbgrader={"grade": false, "grade_id": "nf4", "locked": true, "solution": false}
#| export
# the table of Dettmers et al. 2023 (https://arxiv.org/abs/2305.14314), appendix E
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ]
)


# %% nbgrader={"grade": false, "grade_id": "normal-levels", "locked": false, "solution": true}
#| export
def normal_levels(bits: int) -> np.ndarray:
    """2^bits levels from -1 to 1 at quantiles of the normal distribution, 0 among them.

    With 4 bits it is `NF4` to 2e-7 (Dettmers et al. 2023, section 3).

    >>> normal_levels(2).round(3)
    array([-1.   ,  0.   ,  0.436,  1.   ])
    """
    require_bits(bits, "normal_levels", most=8)
    ### BEGIN SOLUTION
    outermost = 1 - (1 / (2 * 2**bits) + 1 / (2 * (2**bits - 1))) / 2
    half = 2 ** (bits - 1)
    negative, positive = (
        np.array([NormalDist().inv_cdf(p) for p in np.linspace(outermost, 0.5, n + 1)[:-1]])
        for n in (half - 1, half)
    )
    return np.concatenate([-negative, [0.0], positive[::-1]]) / positive[0]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-normal-levels", "locked": true, "points": 6, "solution": false}
def test_normal_levels():
    check(normal_levels(4).shape, (16,), "2^4 levels")
    check(normal_levels(4)[[0, 7, 15]], [-1.0, 0.0, 1.0], "7 negative ones, 0, 8 positive ones")
    check(normal_levels(4), NF4, "the published table of NF4")
    ### BEGIN HIDDEN TESTS
    check(normal_levels(3).shape, (8,), "2^3 levels")
    first = NormalDist().inv_cdf(1 - (1 / 8 + 1 / 6) / 2)
    middle = NormalDist().inv_cdf((1 - (1 / 8 + 1 / 6) / 2 + 0.5) / 2) / first
    check(normal_levels(2), [-1.0, 0.0, middle, 1.0], "p depends on the bits")
    ### END HIDDEN TESTS


test_normal_levels()

# %% [markdown]
r"""
### K-means: let the weights choose

Why assume a distribution at all? **Lloyd's algorithm** finds levels for the numbers themselves. Repeat:

1. give each number to its nearest level;
2. move each level to the **mean** of its numbers: no other place has a smaller squared error.

Neither step can make the error larger, so it ends. It ends in a *local* minimum, so the start matters: evenly spaced from the smallest to the largest number, always, for a result that can be repeated.

### Exercise 12: kmeans_levels

`values` is given, flat and **sorted**, and so is the start. Sorted, each level's numbers are one stretch: it starts where the border to the level below lies. In each round:

1. `starts`: 0, and for each border the number of values up to it: `np.searchsorted(values, borders, side="right")`.
2. `counts`: how long each stretch is (`np.diff(starts, append=values.size)`). A level without numbers stays where it is.
3. Each level that has some moves to their mean. Stop when no level moved.

The sums of stretches that are not empty: `np.add.reduceat(values, starts[counts > 0])`. (A loop over `values[start:end].mean()` is right too.)

[0, 1, 4, 6, 9, 10] with 2 bits: the start [0, 3.33, 6.67, 10] has the borders 1.67, 5, 8.33, and the means are [0.5, 4, 6, 9.5].
"""


# %% nbgrader={"grade": false, "grade_id": "kmeans-levels", "locked": false, "solution": true}
#| export
def kmeans_levels(x: Any, bits: int, iterations: int = 300) -> np.ndarray:
    """2^bits sorted levels for the numbers of x: the start is even, each round lowers the error.

    Lloyd's algorithm (1957, published 1982) in one dimension. Levels without numbers stay.

    >>> kmeans_levels(np.array([0.0, 1.0, 4.0, 6.0, 9.0, 10.0]), bits=2)
    array([0.5, 4. , 6. , 9.5])
    """
    require_bits(bits, "kmeans_levels", most=8)
    values = np.sort(finite(x, "kmeans_levels: x"), axis=None)
    if not values.size:
        raise ValueError("kmeans_levels: x is empty: there is nothing to find levels for")
    levels = np.linspace(values[0], values[-1], 2**bits)
    ### BEGIN SOLUTION
    for _ in range(iterations):
        borders = (levels[:-1] + levels[1:]) / 2
        starts = np.append(0, np.searchsorted(values, borders, side="right"))
        counts = np.diff(starts, append=values.size)
        used, before = counts > 0, levels.copy()
        levels[used] = np.add.reduceat(values, starts[used]) / counts[used]
        if np.array_equal(levels, before):
            break
    ### END SOLUTION
    return levels


# %% nbgrader={"grade": true, "grade_id": "test-kmeans-levels", "locked": true, "points": 7, "solution": false}
def test_kmeans_levels():
    x = np.array([0.0, 1.0, 4.0, 6.0, 9.0, 10.0])
    check(kmeans_levels(x, bits=2), [0.5, 4.0, 6.0, 9.5], "each level in the middle of its numbers")
    x = np.array([0.0, 0.1, 0.2, 3.0])
    check(kmeans_levels(x, bits=2), [0.1, 1.0, 2.0, 3.0], "levels without numbers stay")
    ### BEGIN HIDDEN TESTS
    x = np.random.default_rng(0).standard_normal(2000)

    def error(levels):
        return float(((levels[nearest_code(x, levels)] - x) ** 2).mean())

    start = np.linspace(x.min(), x.max(), 8)
    once, often = kmeans_levels(x, 3, iterations=1), kmeans_levels(x, 3)
    check(error(once) < error(start), True, "one round lowers the error")
    check(error(often) < 0.9 * error(once), True, "more rounds lower it further")
    check(kmeans_levels(x.reshape(2, -1)[::-1], 3), often, "the order of the numbers is nothing")
    check(error(often) < 0.037, True, "8 levels for normal numbers: the optimum is 0.0345")
    ### END HIDDEN TESTS


test_kmeans_levels()

# %% [markdown]
r"""
Given: the two functions that use a codebook, group by group. A codebook is an array of $2^b$ levels, or a function (numbers, bits) -> levels, such as `kmeans_levels`, which then sees the numbers with each group divided by its scale.
"""

# %% nbgrader={"grade": false, "grade_id": "quantize-codebook", "locked": true, "solution": false}
#| exporti
Codebook = np.ndarray | Callable[[np.ndarray, int], np.ndarray]


def as_levels(codebook: Codebook, x: np.ndarray, bits: int, name: str) -> np.ndarray:
    """The levels of a codebook as float32; ValueError unless they are 2^bits and sorted."""
    found = codebook(x, bits) if callable(codebook) else codebook
    levels = np.asarray(found, np.float32)
    if levels.shape != (2**bits,) or not np.isfinite(levels).all() or (np.diff(levels) < 0).any():
        raise ValueError(
            f"{name}: a codebook for {bits} bits is {2**bits} finite numbers in rising order, "
            f"got an array of shape {levels.shape}"
        )
    return levels


# %% nbgrader={"grade": false, "grade_id": "codebooks", "locked": true, "solution": false}
#| export
def quantize_codebook(
    tensor: Tensor,
    codebook: Codebook = NF4,
    bits: int = 4,
    group_size: int | None = 32,
    axis: int = 0,
    scale_dtype: Any = np.float16,
    name: str = "quantize_codebook: tensor",
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Each number as the code of its nearest level, in groups along `axis`: (codes, levels, scale).

    `codebook` is an array of 2^bits sorted levels from -1 to 1, or a function (numbers, bits) that
    finds them, such as `kmeans_levels`. `scale` is each group's max|x|, rounded up (1 for zeros).

    >>> codes, levels, scale = quantize_codebook(Tensor([3, 0, -1, 8]), NF4, group_size=2)
    >>> codes.tolist(), scale.tolist()
    ([15, 7, 6, 15], [3.0, 8.0])
    """
    require_bits(bits, "quantize_codebook", most=8)
    require_floats(tensor, name)
    axis = group_axis(axis, tensor.ndim, name)
    x = split_groups(finite(tensor, name), group_size, axis, name)
    largest = np.abs(x).max(axis=axis + 1)
    scale = stored_scale(np.where(largest > 0, largest, 1.0), scale_dtype, name)
    x = x / np.expand_dims(scale, axis + 1)
    levels = as_levels(codebook, x, bits, name)
    return Tensor._wrap(nearest_code(x, levels).reshape(tensor.shape)), levels, scale


def dequantize_codebook(
    codes: Tensor, levels: np.ndarray, scale: np.ndarray, axis: int = 0
) -> Tensor:
    """scale * levels[codes] as float32.

    >>> dequantize_codebook(Tensor([15, 0], dtype=np.uint8), NF4, np.array([2.0]))
    Tensor([ 2., -2.])
    """
    return dequantize_groups(Tensor._wrap(levels[codes.data]), scale, axis=axis)


# %% [markdown]
r"""
Which codebook is best? First, see them; then the SNR on 100,000 normal numbers in groups of 32, at 2 to 8 bits. **Predict**: which gets the most dB at 4 bits, and which at 8? Which stops getting better?
"""

# %%
books = {
    "log": log_levels(4),
    "power of two": power_of_two_levels(4),
    "NF4": NF4,
    "k-means": kmeans_levels(samples["normal"].data / 4.5, 4),
}
if plt:
    for row, (name, levels) in enumerate({"uniform": np.arange(-7, 8) / 7, **books}.items()):
        plt.plot(levels, np.full(levels.size, -row), "k|", markersize=18)
        plt.text(-1.75, -row, name, verticalalignment="center")
    plt.title("The levels of five codebooks of 4 bits")
    plt.xlabel("weight / scale")
    plt.yticks([])
    plt.xlim(-1.8, 1.1)
    plt.show()


# %%
def codebook_snr(x: Tensor, codebook, bits: int, group_size=32) -> float:
    """The SNR in dB of a codebook, in groups."""
    restored = dequantize_codebook(*quantize_codebook(x, codebook, bits, group_size))
    return quantization_error(x, restored)["snr_db"]


normal = samples["normal"].reshape(3125 * 32, 1)[: 512 * 32]
functions = {"log": log_levels, "power of two": power_of_two_levels, "normal": normal_levels}
curves = {"uniform": [group_snr(normal, b, 32) for b in range(2, 9)]}
for name, levels in functions.items():
    curves[name] = [codebook_snr(normal, levels(b), b) for b in range(2, 9)]
curves["k-means"] = [codebook_snr(normal, kmeans_levels, b) for b in range(2, 9)]

print(f"{'dB at bits':15}" + "".join(f"{bits:7}" for bits in range(2, 9)))
for name, curve in curves.items():
    print(f"{name:15}" + "".join(f"{snr:7.1f}" for snr in curve))

if plt:
    for (name, curve), line in zip(curves.items(), ("k-", "k:", "k-.", "k--", "k-o"), strict=True):
        plt.plot(range(2, 9), curve, line, label=name)
    plt.title("Normal numbers in groups of 32")
    plt.xlabel("bits")
    plt.ylabel("signal-to-noise ratio (dB)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
Powers of two stop: another bit only adds levels near 0, while the gap between 1/2 and 1 stays what it is. Logarithmic levels are even in *relative* error, and the SNR counts absolute error: they pay only where bits are few
(and part of that is no merit of theirs: at 2 bits the symmetric grid has three marks, a codebook four).
Normal levels gain up to 4 bits, where levels are few and their places matter. Above, they *lose* to even steps: levels that are used equally often are not those of least error, as the rare large numbers get too few.
K-means, which minimises just this error, is ahead of all; by little where there are many levels. It needs the data, time, and $2^b$ more numbers to store.

## The layer

`LowBitLinear` is given but for one function. It keeps packed bytes, scales, packed zero points where there are any, the levels of a codebook, and the bias as it was. Not the weight: that is made anew in each call, used, and forgotten. Inputs stay float: this is
**weight-only** quantisation, what most language models on small machines use.

### Exercise 13: restored_weight

From the layer's buffers back to a float32 Tensor of shape (K, N):

1. Unpack the K * N codes of `layer.packed.data` (`layer.bits` bits; `signed` unless there are `layer.levels`), in shape (K, N).
2. With levels: `dequantize_codebook`. Otherwise `dequantize_groups`, with zero points if `layer.packed_zero_point` isn't None: as many as scales, in the shape of the scales, signed.

`dequantize_...` take codes as a Tensor (`Tensor._wrap(array)`), and the `.data` of scales and levels.
"""


# %% nbgrader={"grade": false, "grade_id": "restored-weight", "locked": false, "solution": true}
#| exporti
def restored_weight(layer: LowBitLinear) -> Tensor:
    """The weight (in_features, out_features) that the bytes of a layer stand for.

    >>> restored_weight(LowBitLinear(Linear(32, 3))).shape
    (32, 3)
    """
    ### BEGIN SOLUTION
    shape, scale = (layer.in_features, layer.out_features), layer.scale.data
    signed = layer.levels is None
    codes = unpack_bits(layer.packed.data, layer.bits, math.prod(shape), signed).reshape(shape)
    if layer.levels is not None:
        return dequantize_codebook(Tensor._wrap(codes), layer.levels.data, scale)
    zero_point = None
    if layer.packed_zero_point is not None:
        zero_point = unpack_bits(layer.packed_zero_point.data, layer.bits, scale.size)
        zero_point = zero_point.reshape(scale.shape)
    return dequantize_groups(Tensor._wrap(codes), scale, zero_point)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "low-bit-linear", "locked": true, "solution": false}
#| export
class LowBitLinear(Module):
    """A Linear whose weight is packed in 2 to 8 bits, in groups along its inputs; x stays float.

    y = x @ (dequantised weight) + bias. `group_size` None gives each output channel one grid.
    Not `symmetric`, each group has a zero point as well, of `bits` bits. With a `codebook` (2^bits
    sorted levels from -1 to 1, or a function such as `kmeans_levels`) codes stand for its levels,
    and `symmetric` means nothing. Buffers: `packed` (uint8, low bits first, row by row), `scale`
    (in_features / group_size, out_features), `packed_zero_point`, `levels`, `bias`.

    >>> layer = LowBitLinear(Linear(64, 10), group_size=32)
    >>> layer
    LowBitLinear(in_features=64, out_features=10, bias=True, bits=4, group_size=32)
    >>> layer.packed.nbytes, layer.scale.nbytes, layer.memory_usage()["bits_per_weight"]
    (320, 40, 4.5)
    """

    packed: Tensor
    scale: Tensor
    packed_zero_point: Tensor | None
    levels: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        linear: Linear,
        bits: int = 4,
        group_size: int | None = 32,
        symmetric: bool = True,
        codebook: Codebook | None = None,
        scale_dtype: Any = np.float16,
        name: str = "LowBitLinear",
    ):
        if not isinstance(linear, Linear):
            raise TypeError(f"{name}: expected a Linear, got {type(linear).__name__}")
        require_bits(bits, name, most=8)
        weight, label = linear.weight.detach(), f"{name}.weight"
        levels = zero_point = None
        if codebook is None:
            q, scale, zero_point = quantize_groups(
                weight, bits, group_size, symmetric, 0, scale_dtype, label
            )
            zero_point = None if symmetric else zero_point  # or they are all 0
        else:
            q, levels, scale = quantize_codebook(
                weight, codebook, bits, group_size, 0, scale_dtype, label
            )
        self._keep(q, scale, zero_point, levels, linear.bias, bits, name)
        self.original_bytes = sum(tensor.nbytes for tensor in linear.parameters())

    @classmethod
    def from_integers(
        cls,
        q: Tensor,
        scale: np.ndarray,
        zero_point: np.ndarray | None = None,
        bits: int = 4,
        bias: Tensor | None = None,
        name: str = "LowBitLinear",
    ) -> LowBitLinear:
        """A layer of given integers (in_features, out_features) and grids, as of `quantize_groups`.

        Zero points that are all 0 are not kept.

        >>> q, scale, zero_point = quantize_groups(Tensor([[1.0], [7.0]]), group_size=None)
        >>> LowBitLinear.from_integers(q, scale, zero_point).weight()
        Tensor([[1.],
                [7.]])
        """
        require_bits(bits, name, most=8)
        zero_point = None if zero_point is None or not zero_point.any() else zero_point
        zeros = scale if zero_point is None else zero_point
        require_groups(q.shape, scale.shape, zeros.shape, 0)
        layer = cls.__new__(cls)
        layer._keep(q, scale, zero_point, None, bias, bits, name)
        layer.original_bytes = 4 * (q.size + (0 if bias is None else bias.size))  # as float32
        return layer

    def _keep(
        self,
        q: Tensor,
        scale: np.ndarray,
        zero_point: np.ndarray | None,
        levels: np.ndarray | None,
        bias: Tensor | None,
        bits: int,
        name: str,
    ) -> None:
        """Pack the integers, and register all that the layer holds."""
        self.in_features, self.out_features = q.shape
        self.bits, self.name, self.group_size = bits, name, self.in_features // len(scale)
        self.register_buffer("packed", _held(pack_bits(q, bits)))
        self.register_buffer("scale", _held(scale))
        packed = None if zero_point is None else pack_bits(zero_point, bits)
        self.register_buffer("packed_zero_point", _held(packed))
        self.register_buffer("levels", _held(levels))
        self.register_buffer("bias", _held(None if bias is None else bias.data))

    def weight(self) -> Tensor:
        """The dequantised weight (in_features, out_features), made anew from the bytes."""
        return restored_weight(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"{self.name}: expected (..., {self.in_features}), got {x.shape}")
        return linear(x, self.weight(), self.bias)

    def memory_usage(self) -> dict[str, float]:
        """The bytes that the layer took and takes.

        `original_bytes`; `quantized_bytes`, packed weights and the bias; `overhead_bytes`: scales,
        zero points, levels. `compression_ratio` compares without the overhead, `total_ratio` with
        it, `bits_per_weight` counts all but the bias.
        """
        payload = self.packed.nbytes + (0 if self.bias is None else self.bias.nbytes)
        held = sum(tensor.nbytes for tensor in self.buffers())
        overhead = held - payload
        weights = self.in_features * self.out_features
        return {
            "original_bytes": self.original_bytes,
            "quantized_bytes": payload,
            "overhead_bytes": overhead,
            "compression_ratio": self.original_bytes / payload,
            "total_ratio": self.original_bytes / held,
            "bits_per_weight": 8 * (self.packed.nbytes + overhead) / weights,
        }

    def _extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        kind = ", symmetric=False" if self.packed_zero_point is not None else ""
        kind = ", codebook" if self.levels is not None else kind
        grid = f"bits={self.bits}, group_size={self.group_size}{kind}"
        return f"{sizes}, bias={self.bias is not None}, {grid}"


def _held(array: np.ndarray | None) -> Tensor | None:
    """An array as a buffer of its own dtype."""
    return None if array is None else Tensor(array, dtype=array.dtype)


# %% nbgrader={"grade": true, "grade_id": "test-restored-weight", "locked": true, "points": 4, "solution": false}
def test_restored_weight():
    manual_seed(0)
    some = Linear(64, 3)
    weight = some.weight.detach()
    expected = dequantize_groups(*quantize_groups(weight))
    check(restored_weight(LowBitLinear(some)), expected.data, "unpack, shape, dequantise", 1e-9)
    expected = dequantize_codebook(*quantize_codebook(weight, NF4))
    got = restored_weight(LowBitLinear(some, codebook=NF4))
    check(got, expected.data, "codes of a codebook are unsigned", 1e-9)
    ### BEGIN HIDDEN TESTS
    expected = dequantize_groups(*quantize_groups(weight, 3, 16, symmetric=False))
    got = restored_weight(LowBitLinear(some, 3, 16, symmetric=False))
    check(got, expected.data, "zero points have the scales' shape", 1e-9)
    ### END HIDDEN TESTS


test_restored_weight()

# %% [markdown]
r"""
### Exercise 14: quantize_weights

All Linears of a model, in place. Given: `layers` by name. Make a `LowBitLinear(layer, bits, group_size, symmetric, codebook, scale_dtype, name)` for each (with the layer's `training`) in the dict `quantized`, and **only when all are made** `replace_modules(model, {id(layer): its replacement})`: a group size
that doesn't fit the last layer must not leave a model half done.
"""


# %% nbgrader={"grade": false, "grade_id": "quantize-weights", "locked": false, "solution": true}
#| export
def quantize_weights(
    model: Module,
    bits: int = 4,
    group_size: int | None = 32,
    symmetric: bool = True,
    codebook: Codebook | None = None,
    skip: str | Iterable[str] = (),
    scale_dtype: Any = np.float16,
) -> QuantizationReport:
    """Replace every Linear of a model by a LowBitLinear, in place, and report what it saves.

    `skip` names layers, or parents of layers, that stay; the rest is as in LowBitLinear. The report
    has, for each layer, its memory_usage() and the `snr_db` of its weight. Raises ValueError
    for a bare Linear, NaN, infinity, an unknown name, a group size that doesn't divide a layer's
    inputs; the model is unchanged then.

    >>> from tinytorch.nn import Sequential
    >>> quantize_weights(Sequential(Linear(64, 100, bias=False)), skip=())
    Linear layers quantised: 1
    parameters: 25.6 kB -> 3.2 kB (8.00x) and 0.4 kB of scales and zero points
    """
    layers = linear_layers(model, skip, "quantize_weights", "LowBitLinear")
    before = packed_bytes(model)
    originals = {name: layer.weight.detach() for name, layer in layers.items()}
    quantized: dict[str, LowBitLinear] = {}
    ### BEGIN SOLUTION
    grid = bits, group_size, symmetric, codebook, scale_dtype
    for name, layer in layers.items():
        quantized[name] = LowBitLinear(layer, *grid, name)
        quantized[name].training = layer.training
    replace_modules(model, {id(layer): quantized[name] for name, layer in layers.items()})
    ### END SOLUTION
    return weights_report(quantized, originals, before, packed_bytes(model))


# %% nbgrader={"grade": false, "grade_id": "weights-report", "locked": true, "solution": false}
#| exporti
def packed_bytes(model: Module) -> tuple[int, int]:
    """(bytes of weights and other buffers, bytes of scales, zero points and levels)."""
    _, payload, overhead = model_bytes(model)
    layers = [module for module in model.modules() if isinstance(module, LowBitLinear)]
    ours = int(sum(layer.memory_usage()["overhead_bytes"] for layer in layers))
    return payload - ours, overhead + ours


def weights_report(
    quantized: dict[str, LowBitLinear],
    originals: dict[str, Tensor],
    before: tuple[int, int],
    after: tuple[int, int],
) -> QuantizationReport:
    """The report on a model that had and has so many bytes."""
    layers = {}
    for name, layer in quantized.items():
        error = quantization_error(originals[name], layer.weight())
        layers[name] = {**layer.memory_usage(), "snr_db": error["snr_db"]}
    return QuantizationReport(
        quantized_layers=len(quantized),
        original_size_mb=sum(before) / 1e6,
        quantized_size_mb=after[0] / 1e6,
        overhead_mb=after[1] / 1e6,
        compression_ratio=sum(before) / after[0] if after[0] else 1.0,
        layers=layers,
        uncalibrated=[],
    )


# %% nbgrader={"grade": true, "grade_id": "test-quantize-weights", "locked": true, "points": 5, "solution": false}
def test_quantize_weights():
    model = Sequential(Linear(64, 32), ReLU(), Linear(32, 10)).eval()
    x = Tensor(np.linspace(-1, 1, 64 * 5).reshape(5, 64))
    before = model(x).detach()
    report = quantize_weights(model, bits=8)
    kinds = [type(layer) for layer in model]
    check(kinds, [LowBitLinear, ReLU, LowBitLinear], "every Linear replaced, nothing else")
    check(report["quantized_layers"], 2, "two Linears")
    check(
        quantization_error(before, model(x).detach())["snr_db"] > 30, True, "8 bits: little error"
    )
    check(model[0].training, False, "the new layers are in the old layers' mode")
    ### BEGIN HIDDEN TESTS
    check(report["layers"]["0"]["bits_per_weight"], 8.5, "8 + 16 / 32")
    model = Sequential(Linear(64, 32), Linear(32, 10))
    quantize_weights(model, 3, 16, symmetric=False, scale_dtype=np.float32)
    settings = [model[0].bits, model[0].group_size, model[0].packed_zero_point is None]
    check(settings, [3, 16, False], "hand on what was asked for")
    check(model[0].scale.dtype, np.float32, "hand on the scales' dtype")
    model = Sequential(Linear(64, 48), Linear(48, 10))
    with check_raises(ValueError, "1.weight: group_size 32 does not divide the 48", "name it"):
        quantize_weights(model)
    check(type(model[0]), Linear, "where one layer fails, none is replaced")
    quantize_weights(model, skip="1", codebook=kmeans_levels)
    check([model[0].levels is None, type(model[1])], [False, Linear], "codebook and skip")
    ### END HIDDEN TESTS


test_quantize_weights()

# %% [markdown]
r"""
## Put together: digits in two to eight bits

Everything on the network of the beginning: 2 to 8 bits; one grid for each matrix, one for each channel, groups of 32 symmetric and affine, normal levels (with 4 bits: NF4) and k-means in groups of 32. For each the accuracy on 355 test digits (one digit is 0.003),
the SNR of the ten outputs, which is finer, and the bytes of all weights, scales and levels.

**Predict**: at how many bits does each method first lose more than a few digits? Which is best at 2 bits? And is the best at 2 bits the best at 8?
"""

# %%
with no_grad():
    float_outputs = network(test.images)


def whole_tensor(bits: int) -> tuple[Sequential, int]:
    """One symmetric grid for each weight matrix: (model, bytes)."""
    packed = [
        pack_bits(quantize_bits(layer.weight.detach(), bits, True)[0], bits)
        for layer in network
        if isinstance(layer, Linear)
    ]
    model = with_weights(network, lambda weight: rounded(weight, bits))
    return model, sum(row.nbytes + 8 for row in packed)  # 8: the scale, a float64


def low_bit(**options) -> tuple[Sequential, int]:
    """All Linears as LowBitLinear: (model, bytes without the biases)."""
    model = copy.deepcopy(network)
    quantize_weights(model, **options)
    layers = [layer for layer in model if isinstance(layer, LowBitLinear)]
    sizes = [layer.packed.nbytes + layer.memory_usage()["overhead_bytes"] for layer in layers]
    return model, sum(sizes)


methods = {
    "per tensor": whole_tensor,
    "per channel": lambda bits: low_bit(bits=bits, group_size=None),
    "groups of 32": lambda bits: low_bit(bits=bits),
    "groups, affine": lambda bits: low_bit(bits=bits, symmetric=False),
    "groups, normal": lambda bits: low_bit(
        bits=bits, codebook=NF4 if bits == 4 else normal_levels(bits)
    ),
    "groups, k-means": lambda bits: low_bit(bits=bits, codebook=kmeans_levels),
}
results = {}
for name, make in methods.items():
    results[name] = []
    for bits in range(2, 9):
        model, size = make(bits)
        with no_grad():
            snr = quantization_error(float_outputs, model(test.images))["snr_db"]
        results[name].append((accuracy(model), snr, size))

original_size = sum(layer.weight.nbytes for layer in network if isinstance(layer, Linear))
print(f"float32: accuracy {accuracy(network):.3f}, {original_size:,} bytes of weights")
for column, (title, form) in enumerate(
    {"accuracy": "8.3f", "dB of the outputs": "8.1f", "bytes": "8,"}.items()
):
    print(f"\n{title:18}" + "".join(f"{bits:3} bits" for bits in range(2, 9)))
    for name, rows in results.items():
        print(f"{name:17}" + "".join(f"{row[column]:{form}}" for row in rows))

# %%
if plt:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    lines = ("k:", "k-.", "k-", "k--", "k-x", "k-o")
    for (name, rows), line in zip(results.items(), lines, strict=True):
        scores, snrs, sizes = zip(*rows, strict=True)
        axes[0].plot(np.array(sizes) / 1000, scores, line, label=name)
        axes[1].plot(np.array(sizes) / 1000, snrs, line, label=name)
    axes[0].axhline(accuracy(network), color="0.7", label="float32")
    axes[0].set(
        title="Accuracy on 355 digits", ylabel="accuracy", xlabel="weights (kB)", ylim=(0.3, 1)
    )
    axes[1].set(title="How exact the outputs are", ylabel="SNR (dB)", xlabel="weights (kB)")
    axes[0].legend()
    plt.show()

# %% [markdown]
r"""
Read the table honestly:

- **From 4 bits up, no method loses more than a few digits.** All the care for groups and levels shows in decibels, not in accuracy. One grid for each channel, nearly free, does most of what is to be done; a network with more to lose would tell you more.
- At 2 bits one grid for a matrix is lost, and groups save most of it. Zero points pay there: affine groups have four marks, symmetric ones three.
- A few decibels up or down in the outputs are luck of this one network; ten more are not. Look at the normal levels at 8 bits.
- At equal **bytes**, on the right, the curves lie closer together than at equal bits: groups pay for what they gain.

And normal levels disappoint even at 2 bits, where they had more decibels than even steps when you measured *numbers*. **Predict** why; then look at the second layer's weight, and its errors' mean.
"""

# %%
print("2 bits, groups of 32    SNR of the weight    mean error / its deviation")
for name, options in {
    "symmetric": {},
    "normal": {"codebook": normal_levels(2)},
    "k-means": {"codebook": kmeans_levels},
}.items():
    error = LowBitLinear(network[3], bits=2, **options).weight().data - weight.data
    snr = quantization_error(weight, weight + Tensor(error))["snr_db"]
    print(f"{name:20} {snr:17.1f} dB {error.mean() / error.std():20.3f}")

# %% [markdown]
r"""
With two bits the normal levels are -1, 0, 0.44 and 1: lopsided, so the errors lean to one side. What reaches this layer has passed a ReLU and is never negative, so leaning errors don't cancel in the sum over 128 inputs: they add up. **An SNR of weights knows nothing of that.** Measure at the output,
always; how to round so that the *output* is right is a story of its own.

On disk it is real. The same `state_dict`, the same safetensors as ever: packed bytes are uint8 tensors.
"""

# %%
import tempfile
from pathlib import Path

from safetensors.numpy import load_file, save_file

small = copy.deepcopy(network)
print(quantize_weights(small, codebook=NF4))
print(small)
with tempfile.TemporaryDirectory() as folder:
    for name, model in {"float32": network, "nf4": small}.items():
        path = Path(folder) / f"{name}.safetensors"
        save_file({key: tensor.data for key, tensor in model.state_dict().items()}, path)
        print(f"{path.name:20} {path.stat().st_size:8,} bytes")
    fresh = copy.deepcopy(network)
    quantize_weights(fresh, codebook=NF4)  # the same structure; the numbers come from the file
    fresh.load_state_dict(load_file(Path(folder) / "nf4.safetensors"))
print(f"loaded again: accuracy {accuracy(fresh):.3f}")

# %% [markdown]
r"""
## What it costs: bits and time

What does a "4-bit" weight really take? Its code, and its share of scale and zero point:

$$b + \frac{\text{bits of a scale} + \text{bits of a zero point}}{\text{group size}}$$

**Predict** the numbers for 4 bits in groups of 32: float16 scales, float32 scales, and float16 scales with packed zero points.
"""

# %%
layer = Linear(1024, 1024, bias=False)
kinds = {
    "float16 scales": {},
    "float32 scales": {"scale_dtype": np.float32},
    "float16 scales, affine": {"symmetric": False},
    "NF4, float16 scales": {"codebook": NF4},
}
print(
    f"{'bits per weight, in groups of':30}"
    + "".join(f"{size:>8}" for size in (16, 32, 64, 128, "column"))
)
for name, options in kinds.items():
    sizes = [
        LowBitLinear(layer, 4, size, **options).memory_usage()["bits_per_weight"]
        for size in (16, 32, 64, 128, None)
    ]
    print(f"{name:30}" + "".join(f"{bits:8.3f}" for bits in sizes))

# %% [markdown]
r"""
A float32 weight takes 32 bits: at 4.5 the layer is 7.1 times smaller, not 8. Now the time. Each call unpacks and dequantises the whole weight before it multiplies. **Predict**: one row through a layer of 1024 x 1024, is 4 bits faster or slower than float32, and by what factor?
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


print("milliseconds             float32      4 bits   of these: unpack   dequantise    3 bits")
table = []
for size in (128, 256, 512, 1024):
    layer = Linear(size, size)
    four, three = LowBitLinear(layer), LowBitLinear(layer, bits=3)
    packed, scale = four.packed.data, four.scale.data
    codes = Tensor._wrap(unpack_int4(packed, size * size).reshape(size, size))
    x = Tensor(np.ones((1, size)))
    with no_grad():
        row = [
            milliseconds(lambda f=f: f())
            for f in (
                lambda m=layer, x=x: m(x),
                lambda m=four, x=x: m(x),
                lambda p=packed, n=size * size: unpack_int4(p, n),
                lambda q=codes, s=scale: dequantize_groups(q, s),
                lambda m=three, x=x: m(x),
            )
        ]
    table.append(row)
    print(
        f"1 row, {size:4} x {size:<4}   {row[0]:12.3f} {row[1]:11.3f} {row[2]:18.3f} {row[3]:12.3f} {row[4]:9.3f}"
    )
print(f"4 bits / float32 at 1024: {table[-1][1] / table[-1][0]:.0f}x the time")

# %%
import tracemalloc

tracemalloc.start()
four(x)
borrowed = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
held = sum(tensor.nbytes for tensor in four.buffers())
print(f"holds {held:,} bytes, borrows {borrowed:,} for one call; float32 holds {4 * 1024**2:,}")

# %% [markdown]
r"""
**Here, 4 bits are much slower than float32**, and for a moment they even need more memory: the codes as bytes, then the whole float32 weight, are written out and read again, for a single multiplication. Widths that aren't 4 are slower still. In NumPy low-bit weights save storage, and only storage.

It need not be so. For one row, a layer's time is the time to read its weights from memory, and 4.5 bits are read 7 times as fast as 32. The dequantising must then happen within the processor's registers, between reading and multiplying, so that no weight is ever written anywhere.
That is what kernels such as PyTorch's `torch.ops.aten._weight_int4pack_mm` do. Which instructions they use has nothing to do with this lesson; *what bytes they read* has: groups along the input axis, scales in 16 bits, two nibbles a byte.

## Questions

Answer in a few lines, with the numbers worked out.

### 1. Does it fit? (5 points)

A language model has 7 billion weights. How many GB (1e9 bytes) are they as float16, in 4 bits with groups of 32 and float16 scales, the same with groups of 128, and in 3 bits with groups of 128? Which of them fit a card of 4 GB if everything else needs 0.5 GB?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-fit", "locked": false, "points": 5, "solution": true}
r"""
float16: 7 x 2 = 14 GB. 4 bits, groups of 32: 4.5 bits a weight, 7 x 4.5 / 8 = 3.94 GB. Groups of 128: 4 + 16/128 = 4.125 bits, 3.61 GB. 3 bits, groups of 128: 3.125 bits, 2.73 GB.
With 3.5 GB free only the last fits: the groups of 128 are 0.11 GB too large. Here three bits are no luxury, and half a bit of scales is 0.44 GB.
"""

# %% [markdown]
r"""
### 2. Is the half bit well spent? (5 points)

The largest of 16,384 normal numbers is about 4.1 $\sigma$; of 128, 64, 32, 16, 8 numbers it is about 2.8, 2.6, 2.4, 2.1, 1.9 (in the mean of squares). How many dB does each group size gain over one scale for all, what does it cost in bits with float16 scales, and what would those bits have gained as a wider code?
Which group sizes are worth it, and is halving 32 to 16 worth it?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-groups", "locked": false, "points": 5, "solution": true}
r"""
Gain 20 log10(4.1 / crest): 3.3, 4.0, 4.7, 5.8, 6.7 dB. Cost 16 / size: 0.125, 0.25, 0.5, 1, 2 bits, which as a wider code are worth 0.75, 1.5, 3.0, 6.0, 12 dB.
128, 64 and 32 gain more than they cost (2.5 dB, 2.5 dB, 1.7 dB net); 16 is about even, 8 loses. Halving 32 to 16 gains 1.2 dB for half a bit, 3 dB: not worth it for normal numbers. With outliers the groups gain far more, and the sum comes out differently.
"""

# %% [markdown]
r"""
### 3. Where is weight number 10? (5 points)

Weights are packed in 3 bits, in 4 bits, and in 5 bits, without gaps, low bits first. In which byte and at which bit does weight number 10 (counted from 0) begin, and in which byte does it end? How many of eight weights straddle two bytes, for each width? Why do hardware kernels prefer 4?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-straddle", "locked": false, "points": 5, "solution": true}
r"""
It begins at bit 10 b. 3 bits: bit 30 = byte 3, bit 6, and it ends with bit 32, in byte 4. 4 bits: bit 40 = byte 5, bits 0 to 3. 5 bits: bit 50 = byte 6, bit 2, and ends with bit 54, in byte 6.
Of eight numbers of 3 bits (24 bits) those that begin at bits 6 and 15 straddle: two. With 4 bits none. With 5 bits those at 5, 15, 20 (bits 20 to 24) and 30: four (0-4, 10-14, 25-29, 35-39 fit). With 4 bits every weight needs the same two operations, a mask or a shift; with 3 or 5 the positions differ, and bytes must be joined first.
"""

# %% [markdown]
r"""
### 4. How fast could it be? (5 points)

A layer of 4096 x 4096, one row, memory delivers 20 GB/s. How long does reading the weights take at least: float32, int8, 4 bits in groups of 32? Our layer writes and reads again, for each weight: one byte (its code), then 4 bytes three times over (as float32, less the zero point, times the scale). About how long does that traffic take?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-speed", "locked": false, "points": 5, "solution": true}
r"""
16.8 million weights. float32: 67.1 MB, 3.4 ms. int8: 16.8 MB, 0.84 ms. 4.5 bits: 9.4 MB, 0.47 ms: 7.1 times faster than float32, if nothing else counts.
Ours: 1 + 3 x 4 = 13 bytes for each weight, written and read again: 26 bytes of traffic, 436 MB, 22 ms: 6.5 times slower than float32, 46 times slower than the bytes themselves allow.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "solution": false}
def test_module():
    """Run every test of this lesson."""
    tests = [
        *(test_quantize_bits, test_expected_snr, test_stored_scale, test_quantize_groups),
        *(test_dequantize_groups, test_pack_int4, test_unpack_int4, test_pack_bits),
        *(test_nearest_code, test_log_levels, test_normal_levels, test_kmeans_levels),
        *(test_restored_weight, test_quantize_weights),
    ]
    for test_function in tests:
        test_function()
    print(f"{len(tests)} tests passed: module 24 is complete")


test_module()

# %% [markdown]
r"""
## What works now

- Any tensor goes to 2 to 16 bits; you know beforehand how many decibels that leaves: 6.02 a bit, less its crest factor.
- Groups, with scales in 16 bits, keep outliers from hurting the rest, at half a bit a weight.
- Weights of 2 to 8 bits are packed without a gap, low nibble first, in a layer that holds nothing else, and in files.
- Levels can stand where numbers are: NF4 for normal ones, k-means for any; you know where that gains and where it loses.
- Rounding is still to nearest, each weight for itself. Rounding them *together*, and kernels that read these bytes, come next.
"""

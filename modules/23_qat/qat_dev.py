# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.qat

# %% [markdown]
r"""
# Quantization-aware training

> Training a network while its numbers are rounded, so that it learns to live with it.

Time: 4 to 5 hours. In module 15 you rounded a network that was trained already, in module 22 you chose its grids with care. At 8 bits nothing was lost.
Here you go down to 2 bits, where a weight can be only -1, 0 or 1 times a scale. Choosing the grid no longer helps; the weights themselves have to change.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tinytorch.core.activations import ReLU, relu
from tinytorch.core.autograd import no_grad, vjp
from tinytorch.core.layers import Identity, Linear, Module, linear
from tinytorch.core.spatial import BatchNorm1d, BatchNorm2d, Conv2d, conv2d
from tinytorch.core.tensor import Tensor, op, where, writes
from tinytorch.optimization.observers import (
    FOLDABLE,
    NOBODY,
    SMALLEST_STEP,
    Fused,
    Grid,
    MovingAverageMinMaxObserver,
    Observer,
    PerChannelMinMaxObserver,
    QConfig,
    fold_batch_norm,
    followers,
)
from tinytorch.optimization.quantization import (
    as_numbers,
    checked_axis,
    evaluating,
    finite,
    other_axes,
    replace_modules,
)
from tinytorch.profiling.profiler import FLOPS

# %%
from tinytorch.core.autograd import grad
from tinytorch.core.layers import Dropout, Flatten, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import SGD, Adam
from tinytorch.core.tensor import manual_seed, randn
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits
from tinytorch.optimization.observers import MinMaxObserver
from tito.testing import check, check_raises

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the plots are left out

# %% [markdown]
r"""
## Two bits

The network from module 15 again: three layers that read digits of 8x8 pixels.
"""

# %%
train, test = Digits(), Digits(train=False)


def accuracy(model) -> float:
    """The share of test digits that the model reads right."""
    with no_grad():
        guesses = model.eval()(test.images).data.argmax(axis=1)
    return float((guesses == test.labels.data).mean())


def trained(model, epochs, lr=3e-3, seed=0):
    """The model after some epochs of Adam on the training digits."""
    trainer = Trainer(model.train(), Adam(model.parameters(), lr=lr), CrossEntropyLoss())
    trainer.fit(DataLoader(train, batch_size=50, shuffle=True, seed=seed), epochs)
    return model.eval()


manual_seed(0)
layers = [Linear(64, 64), ReLU(), Linear(64, 64), ReLU(), Linear(64, 10)]
network = trained(Sequential(Flatten(), *layers), epochs=10)
print(f"accuracy {accuracy(network):.3f}")

# %% [markdown]
r"""
A symmetric grid of $b$ bits has the marks $-Q, ..., Q$ with $Q = 2^{b-1} - 1$. Each column of a weight (each output channel) gets its own scale $\max|w| / Q$.
**Predict** the accuracy with weights of 8, 4, 3 and 2 bits, and how many different numbers a column holds at 2 bits. Write it down.
"""


# %%
def with_rounded_weights(model, bits) -> Sequential:
    """A copy whose weights lie on grids, one for each output channel."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, Linear):
            weight = layer.weight.data
            scale = np.abs(weight).max(axis=0) / (2 ** (bits - 1) - 1)
            weight[...] = np.rint(weight / scale) * scale
    return model


for bits in (8, 4, 3, 2):
    coarse = with_rounded_weights(network, bits)
    print(f"{bits} bits: accuracy {accuracy(coarse):.3f}")
weight = coarse[1].weight.data
print(f"2 bits: a column holds {np.unique(weight[:, 0])}, {(weight == 0).mean():.0%} are zeros")

# %% [markdown]
r"""
Down to 3 bits nothing happens, at 2 bits the network breaks. Nearly everything is zero: the largest weight decides the scale, and what is smaller than half of it is gone.

Perhaps the network wasn't trained enough? **Predict** what becomes of the 2-bit accuracy if you train 10 epochs more first, and round then.
"""

# %%
EPOCHS = 10

longer = trained(copy.deepcopy(network), EPOCHS, lr=1e-3, seed=1)
for name, model in (("10 epochs", network), ("20 epochs", longer)):
    coarse = with_rounded_weights(model, 2)
    print(f"{name:9}: accuracy {accuracy(model):.3f}, at 2 bits {accuracy(coarse):.3f}")

# %% [markdown]
r"""
More training is not the answer, whichever way the number went: nothing in it knew of rounding. Among the many networks that read digits equally well, some survive rounding and some don't, and only a loss that **sees** the rounding can tell them apart.

So: round inside the training step. Keep the precise weights, round a copy at every step, compute with the copy.

```
   weight (float32) --> round --> rounded weight --> layer --> loss
        ^                                                       |
        '-------------------- gradient? <-----------------------'
```

## Fake quantisation

Nothing has to become an integer for that. Go to the grid and come back at once: the result is a float32 that lies on a mark. It is called **fake** quantisation: the rounding is real, the integers aren't.

$$\tilde x = \big(\mathrm{clip}(\mathrm{round}(x / s) + z,\ q_{min},\ q_{max}) - z\big)\, s$$

Given are two helpers: `by_channel` shapes numbers of channels to broadcast, `in_float32` makes float32 arrays of a scale or zero point and refuses what doesn't fit.
"""


# %% nbgrader={"grade": false, "grade_id": "by-channel", "locked": true, "solution": false}
#| exporti
def by_channel(values: Any, ndim: int, axis: int | None) -> Any:
    """Numbers of channels, shaped to broadcast along `axis` of `ndim` axes; a Tensor stays one."""
    if axis is None:
        return values
    return values.reshape(tuple(-1 if i == axis % ndim else 1 for i in range(ndim)))


def channels_left(x: Any, axis: int | None) -> tuple[int, ...]:
    """The axes to sum over, so that one number for each channel is left."""
    return other_axes(x.ndim, None if axis is None else axis % x.ndim)


def in_float32(name: str, value: Any, x: Any, axis: int | None) -> np.ndarray:
    """A scale or zero point as a float32 array that broadcasts with x; ValueError if it doesn't."""
    values = np.asarray(value.data if isinstance(value, Tensor) else value, np.float32)
    axis = checked_axis(axis, x.ndim, "fake_quantize")
    expected = () if axis is None else (x.shape[axis],)
    if values.shape != expected:
        raise ValueError(
            f"fake_quantize: {name} has shape {values.shape}, expected {expected} "
            f"for axis={axis} of {x.shape}"
        )
    return by_channel(values, x.ndim, axis)


# %% [markdown]
r"""
### Exercise 1: marks, before clipping

`marks_of` gives for each number the mark it would have if the grid had no ends: $\mathrm{round}(x \cdot \frac{1}{s}) + z$. Whether that lies on the grid will matter for the gradient.

PyTorch multiplies by the inverse of the scale, in float32: `np.float32(1) / scale`. Do the same and you agree with it to the last bit; `x / scale` falls on the other side of a tie now and then.
`scale` and `zero_point` are ready (float32, broadcasting), `numbers` is the array of x. Return `(marks, scale, zero_point)`, with marks a float array (`np.asarray` around a product keeps a 0-d array an array).

With scale 0.5 and zero point 10, 0.9 has the mark 2 + 10 = 12; 60 has 130, beyond the end of int8.
"""


# %% nbgrader={"grade": false, "grade_id": "marks", "locked": false, "solution": true}
#| exporti
def marks_of(
    x: Any, scale: Any, zero_point: Any, lowest: int, highest: int, axis: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the mark of each number before clipping, scale, zero point), as arrays of floats.

    rint(x * (1 / scale)) + zero_point in float32, with the zero point rounded to a mark.

    >>> marks_of(np.float32([0.9, 60.0]), 0.5, 10, -128, 127, None)[0]
    array([ 12., 130.], dtype=float32)
    """
    scale = in_float32("scale", scale, x, axis)
    if not (scale > 0).all():
        raise ValueError(f"fake_quantize: a scale must be above 0, got {scale.min()}")
    zero_point = np.clip(np.rint(in_float32("zero_point", zero_point, x, axis)), lowest, highest)
    numbers = x.data if isinstance(x, Tensor) else x
    ### BEGIN SOLUTION
    marks = np.asarray(numbers * (np.float32(1) / scale))
    np.rint(marks, out=marks)
    marks += zero_point
    return marks, scale, zero_point
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-marks", "locked": true, "points": 6, "solution": false}
def test_marks():
    x = np.float32([0.9, 60.0, -0.25])
    marks, scale, zero_point = marks_of(x, 0.5, 10, -128, 127, None)
    check(marks, [12.0, 130.0, 10.0], "round(x / scale) + zero_point; halves go to the even side")
    check([float(scale), float(zero_point)], [0.5, 10.0], "scale and zero point as they were used")
    ### BEGIN HIDDEN TESTS
    check(marks.dtype, np.float32, "all in float32")
    rows = np.float32([[1.0, 10.0], [3.0, 30.0]])
    got = marks_of(rows, np.array([1.0, 10.0]), np.array([0, 5]), -8, 7, 1)[0]
    check(got, [[1.0, 6.0], [3.0, 8.0]], "axis=1: each column has its own scale and zero point")
    check(rows, [[1.0, 10.0], [3.0, 30.0]], "x itself must stay")
    check(marks_of(np.float32(3.0).reshape(()), 0.5, 0, -8, 7, None)[0].shape, (), "0-d arrays")
    step = np.float32(0.7)
    ties = np.arange(-2000.5, 2000, dtype=np.float32) * step
    expected = np.rint(ties * (np.float32(1) / step))
    check(marks_of(ties, 0.7, 0, -9, 9, None)[0], expected, "x times float32(1 / scale)", 0)
    check(marks_of(x, 0.5, 1.4, -8, 7, None)[2].item(), 1.0, "the zero point is a whole mark")
    ### END HIDDEN TESTS


test_marks()

# %% [markdown]
r"""
### Exercise 2: fake_quantize

Clip the marks to `lowest` and `highest`, and go back: minus the zero point, times the scale. All with `out=`, or `-=` and `*=`: the marks are a new array, and a second one would only cost time.

With scale 0.5, zero point 0 and the marks -8 to 7: -9 becomes -4, 0.3 becomes 0.5 and 0.8 becomes 1.

(`grad_factor` plays a part in gradients alone. The line below the function tells module 14's profiler what it costs: seven operations an element.)
"""


# %% nbgrader={"grade": false, "grade_id": "fake-quantize", "locked": false, "solution": true}
#| export
@op
def fake_quantize(x, scale, zero_point, *, lowest, highest, axis=None, grad_factor=1.0):
    """x rounded to a grid and back: (clip(rint(x / scale) + z, lowest, highest) - z) * scale.

    `scale` and `zero_point` are numbers, or 1-D with one for each slice of x along `axis`. It is
    computed in float32 by float32(1 / scale), bit for bit as torch.fake_quantize_per_tensor_affine
    and torch.fake_quantize_per_channel_affine do. Its gradient is no derivative, but useful: that
    of a straight line inside the range (the straight-through estimator, Bengio et al. 2013), and
    for scale and zero point that of LSQ (Esser et al. 2020) times `grad_factor`.

    >>> x = Tensor([-9.0, 0.3, 0.8], requires_grad=True)
    >>> y = fake_quantize(x, 0.5, 0, lowest=-8, highest=7)
    >>> y.detach()
    Tensor([-4. ,  0.5,  1. ])
    >>> y.sum().backward()
    >>> x.grad
    Tensor([0., 1., 1.])
    """
    ### BEGIN SOLUTION
    marks, scale, zero_point = marks_of(x, scale, zero_point, lowest, highest, axis)
    np.clip(marks, lowest, highest, out=marks)
    marks -= zero_point
    marks *= scale
    return marks
    ### END SOLUTION


FLOPS["fake_quantize"] = lambda inputs, params, out: 7 * out.size


# %% nbgrader={"grade": true, "grade_id": "test-fake-quantize", "locked": true, "points": 6, "solution": false}
def test_fake_quantize():
    x = Tensor([-9.0, 0.3, 0.8, 9.0])
    check(fake_quantize(x, 0.5, 0, lowest=-8, highest=7), [-4.0, 0.5, 1.0, 3.5], "clipped at -8, 7")
    y = fake_quantize(x, 0.5, 2, lowest=-8, highest=7)
    check(y, [-5.0, 0.5, 1.0, 2.5], "clip the marks after adding the zero point; subtract it again")
    ### BEGIN HIDDEN TESTS
    again = fake_quantize(y, 0.5, 2, lowest=-8, highest=7)
    check(again, y.data, "what lies on the grid stays", 0)
    check(y.dtype, np.float32, "float32 in, float32 out")
    pair = Tensor([[0.3, 0.3], [5.0, 5.0]])
    got = fake_quantize(pair, np.array([0.5, 2.0]), np.array([0, 1]), lowest=0, highest=3, axis=1)
    check(got, [[0.5, 0.0], [1.5, 4.0]], "a grid for each column")
    check(pair, [[0.3, 0.3], [5.0, 5.0]], "x itself must stay")
    check(fake_quantize(Tensor([-0.1]), 1.0, 0, lowest=0, highest=3).tolist(), [0.0], "0 is exact")
    with check_raises(ValueError, "scale has shape (2,)", "a scale for each of how many channels?"):
        fake_quantize(pair, np.ones(2), 0, lowest=0, highest=3)
    ### END HIDDEN TESTS


test_fake_quantize()

# %% [markdown]
r"""
## The derivative of a staircase

Forward works. Backward? Here is the function, for a grid of four marks. **Predict** its derivative at 10,000 random places: how often is it 1, how often 0, and what else comes up?
"""


# %%
def staircase(x):
    return fake_quantize(x, 1.0, 0, lowest=-2, highest=1)


places, eps = np.random.default_rng(0).uniform(-3, 3, 10_000), 1e-3
differences = (staircase(places + eps) - staircase(places - eps)) / (2 * eps)
for value, count in zip(*np.unique(np.round(differences), return_counts=True), strict=True):
    print(f"slope {value:5.0f}: {count} times")

if plt:
    x = np.linspace(-3, 3, 1201)
    plt.plot(x, staircase(x), "k-", label="fake quantisation")
    plt.plot(x, np.clip(x, -2, 1), "k:", label="what its gradient will pretend")
    plt.title("A staircase of four marks, scale 1")
    plt.xlabel("x")
    plt.ylabel("x rounded")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
The derivative is 0, except at a jump, where it is infinite. It is right, and useless: backpropagation would multiply every gradient by 0, and no weight would ever move.

But look at the picture from farther away. The staircase runs along a straight line, and the line has a slope: 1 between the ends, 0 beyond them, where clipping really makes the result constant. Pretend that the gradient is the line's. This is the **straight-through estimator** (Hinton 2012; Bengio et al. 2013):

$$\frac{\partial \tilde x}{\partial x} := \begin{cases} 1 & q_{min} \le \mathrm{round}(x / s) + z \le q_{max} \\ 0 & \text{otherwise} \end{cases}$$

It is no derivative of anything, so `gradcheck` would refuse it. It is a direction that works; we will measure how well.

### Exercise 3: straight_through

A rule in the sense of module 05: it gets `g`, the gradient of the loss for the result, and gives that for x. `marks_of` has all you need. The border counts as inside. `g` may be an array or a Tensor; the mask is an array in both cases.

For x = [-9, 0.3, 3.7, 3.8] on the grid of exercise 2: the marks are -18, 1, 7, 8, and g = [1, 2, 3, 4] becomes [0, 2, 3, 0].
"""


# %% nbgrader={"grade": false, "grade_id": "straight-through", "locked": false, "solution": true}
#| exporti
def straight_through(g, out, x, scale, zero_point, *, lowest, highest, axis=None, grad_factor=1.0):
    """The gradient for x: g where the number lies on the grid's range, 0 where it was clipped."""
    ### BEGIN SOLUTION
    marks, _, _ = marks_of(x, scale, zero_point, lowest, highest, axis)
    return g * ((lowest <= marks) & (marks <= highest))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-straight-through", "locked": true, "points": 7, "solution": false}
def test_straight_through():
    x, g = np.float32([-9.0, 0.3, 3.7, 3.8]), np.float32([1.0, 2.0, 3.0, 4.0])
    got = straight_through(g, None, x, 0.5, 0, lowest=-8, highest=7)
    check(
        got, [0.0, 2.0, 3.0, 0.0], "g inside the range, the border included; 0 where x is clipped"
    )
    ### BEGIN HIDDEN TESTS
    got = straight_through(g, None, x, 0.5, 3, lowest=-8, highest=7)
    check(got, [0.0, 2.0, 0.0, 0.0], "the mark is the one with the zero point added")
    got = straight_through(
        g, None, np.float32([-4.2, -4.3, 0.0, -0.0]), 0.5, 0, lowest=-8, highest=7
    )
    check(got, [1.0, 0.0, 3.0, 4.0], "the mark decides: -4.2 becomes -8, -4.3 would become -9")
    rows = np.float32([[1.0, 1.0], [5.0, 5.0]])
    scale, zero = np.array([1.0, 2.0]), np.array([0, 0])
    got = straight_through(rows, None, rows, scale, zero, lowest=-4, highest=3, axis=1)
    check(got, [[1.0, 1.0], [0.0, 5.0]], "each column on its own grid")
    check(
        isinstance(
            straight_through(Tensor(g), None, Tensor(x), 0.5, 0, lowest=-8, highest=7), Tensor
        ),
        True,
        "tensors in, a tensor out",
    )
    ### END HIDDEN TESTS


test_straight_through()

# %% [markdown]
r"""
Register it for the time being, and watch one number learn. The marks are 0 and 1, the target is 0.3, the loss is $(\tilde w - 0.3)^2$; no mark is right. **Predict**: where does w end up? Which mark does it show, and how often?
"""

# %%
vjp(fake_quantize, straight_through)

w = Tensor([0.05], requires_grad=True)
optimizer = SGD([w], lr=0.01)
path, shown = [], []
for _ in range(400):
    rounded = fake_quantize(w, 1.0, 0, lowest=0, highest=1)
    optimizer.zero_grad()
    ((rounded - 0.3) ** 2).sum().backward()
    optimizer.step()
    path.append(w.item())
    shown.append(rounded.item())
print(f"w at the end {path[-1]:.2f}, between {min(path[200:]):.2f} and {max(path[200:]):.2f}")
print(f"share of ones among the last 300: {np.mean(shown[100:]):.2f}")

if plt:
    plt.plot(path, "k-", label="w")
    plt.plot(shown, color="0.6", linewidth=0.8, label="w rounded")
    plt.title("A weight that wants to be 0.3 and can be 0 or 1")
    plt.xlabel("step")
    plt.ylabel("value")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
The precise weight is a memory: it adds up many small gradients until they justify a jump. Where no mark is right it hovers at the border and flips, and on average it shows 0.3. In a network, other weights settle what one alone can't.
At the end of training such weights stop somewhere: a little noise, which a small learning rate makes rare.

## Learning the step

Where do scales come from? So far from the largest weight. But the scale is a number in the formula like any other: it could have a gradient. **LSQ**, learned step size quantisation (Esser et al. 2020), takes the derivative of $\tilde x = (\mathrm{clip}(\mathrm{round}(x/s) + z) - z)\,s$ for $s$, with the same pretence for round, slope 1:

$$\frac{\partial \tilde x}{\partial s} = \begin{cases} \mathrm{round}(x/s) - x/s & \text{inside} \\ q_{min} - z & \text{below} \\ q_{max} - z & \text{above} \end{cases}$$

What does it do? Take the rounding error itself as the loss, $(\tilde x - x)^2$, so $g = 2(\tilde x - x)$. Inside, g times the slope is $2 s\,(\mathrm{round}(x/s) - x/s)^2$, never negative: every number inside wants a smaller step. Beyond an end it is negative: every clipped number wants a larger one. The best step is where the two are even.

```
   x / s       -2.6   -2.2   -1.6   -1.1   -0.4    0.3    0.7    1.8      (marks -2 to 1)
   slope       -2     +0.2   -0.4   +0.1   +0.4   -0.3   +0.3    1
```

### Exercise 4: scale_rule

Give the gradient for the scale: g times this slope times `grad_factor`, **summed** over all numbers that share a scale. The given `channels_left(x, axis)` are the axes to sum over; `.reshape(scale.shape)` at the end makes an array of a sum over everything.
`steps = clip(marks) - zero point` covers all three cases, if x / s is subtracted inside only. x and scale may be Tensors: keep `x / by_channel(scale, x.ndim, axis)` to operators, and use arrays for what is constant.

For x = [0.4, 9] with scale 1 and marks -2 to 1: slopes -0.4 and 1; with g = [1, 10] that is 9.6.
"""


# %% nbgrader={"grade": false, "grade_id": "scale-rule", "locked": false, "solution": true}
#| exporti
def scale_rule(g, out, x, scale, zero_point, *, lowest, highest, axis=None, grad_factor=1.0):
    """The gradient for the scale (LSQ): rint(x / s) - x / s inside, the end's distance outside."""
    ### BEGIN SOLUTION
    marks, _, zero = marks_of(x, scale, zero_point, lowest, highest, axis)
    inside = (lowest <= marks) & (marks <= highest)
    steps = np.clip(marks, lowest, highest) - zero
    slope = steps - inside * x / by_channel(scale, x.ndim, axis)
    return (g * slope * grad_factor).sum(axis=channels_left(x, axis)).reshape(scale.shape)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-scale-rule", "locked": true, "points": 8, "solution": false}
def test_scale_rule():
    x, g = np.float32([0.4, 9.0]), np.float32([1.0, 10.0])
    got = scale_rule(g, None, x, np.float32(1.0), 0, lowest=-2, highest=1)
    check(np.asarray(got), 9.6, "round(x / s) - x / s inside, the end's mark outside; summed")
    ### BEGIN HIDDEN TESTS
    line = np.float32([-2.6, -2.2, -1.6, -1.1, -0.4, 0.3, 0.7, 1.8])
    expected = [-2.0, 0.2, -0.4, 0.1, 0.4, -0.3, 0.3, 1.0]
    got = [
        float(scale_rule(np.float32([1.0]), None, x, np.float32(1.0), 0, lowest=-2, highest=1))
        for x in line.reshape(-1, 1)
    ]
    check(got, expected, "the drawing, number by number")
    got = scale_rule(g, None, x, np.float32(1.0), 1, lowest=-2, highest=1, grad_factor=0.5)
    check(np.asarray(got), -0.2, "the zero point counts: the upper end is 1 - 1 steps away")
    rows = np.float32([[0.4, 9.0], [1.2, -9.0]])
    scale = np.float32([1.0, 2.0])
    got = scale_rule(rows * 0 + 1, None, rows, scale, np.zeros(2), lowest=-2, highest=1, axis=1)
    check(got, [-0.6, -1.0], "axis=1: one sum for each column")
    got = scale_rule(rows * 0 + 1, None, rows, scale, np.zeros(2), lowest=-2, highest=1, axis=0)
    check(got, [0.6, -1.6], "axis=0: one sum for each row")
    ### END HIDDEN TESTS


test_scale_rule()

# %% [markdown]
r"""
### Exercise 5: zero_point_rule

A zero point can be learned as well. Inside, x' doesn't depend on it: what is added is subtracted again. A clipped number becomes $(q_{end} - z)\,s$, with the slope $-s$. Sum as before, times `grad_factor`.

For the same x: 0.4 gives 0 and 9 gives -1; with g = [1, 10] that is -10.
"""


# %% nbgrader={"grade": false, "grade_id": "zero-point-rule", "locked": false, "solution": true}
#| exporti
def zero_point_rule(g, out, x, scale, zero_point, *, lowest, highest, axis=None, grad_factor=1.0):
    """The gradient for the zero point: -scale where the number was clipped, 0 inside."""
    ### BEGIN SOLUTION
    marks, _, _ = marks_of(x, scale, zero_point, lowest, highest, axis)
    outside = (marks < lowest) | (marks > highest)
    slope = -by_channel(scale, x.ndim, axis) * outside
    return (g * slope * grad_factor).sum(axis=channels_left(x, axis)).reshape(zero_point.shape)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "rules", "locked": true, "solution": false}
#| export
vjp(fake_quantize, straight_through, scale_rule, zero_point_rule)


# %% nbgrader={"grade": true, "grade_id": "test-zero-point-rule", "locked": true, "points": 5, "solution": false}
def test_zero_point_rule():
    x, g = np.float32([0.4, 9.0]), np.float32([1.0, 10.0])
    got = zero_point_rule(g, None, x, 1.0, np.float32(0.0), lowest=-2, highest=1)
    check(np.asarray(got), -10.0, "-scale for what is clipped, nothing inside")
    ### BEGIN HIDDEN TESTS
    got = zero_point_rule(g, None, x, 0.1, np.float32(0), lowest=-2, highest=1, grad_factor=0.5)
    check(np.asarray(got), -0.55, "times the scale and grad_factor; 0.4 is mark 4: clipped")
    rows, zero = np.float32([[0.4, 9.0], [1.2, -9.0]]), np.float32([0.0, 0.0])
    got = zero_point_rule(
        rows, None, rows, np.float32([1.0, 2.0]), zero, lowest=-2, highest=1, axis=1
    )
    check(got, [0.0, 0.0], "both ends: 9 and -9 cancel in the second column")
    point, scale, zero = (Tensor(v, requires_grad=True) for v in ([0.3, 0.8, 5.0], 0.5, 0.0))
    out = fake_quantize(point, scale, zero, lowest=-4, highest=3).sum()
    by_point, by_scale, by_zero = grad(out, [point, scale, zero], create_graph=True)
    check(by_point, [1.0, 1.0, 0.0], "the three rules together: x")
    check(by_scale, 3.8, "the three rules together: scale")
    check(by_zero, -0.5, "the three rules together: zero point")
    check(grad(by_scale, point), [-2.0, -2.0, 0.0], "rules are differentiable: -1 / scale inside")
    ### END HIDDEN TESTS


test_zero_point_rule()

# %% [markdown]
r"""
### Exercise 6: the first step

Learning has to begin somewhere. The paper takes $s = 2\,\overline{|x|} / \sqrt{Q}$, $Q$ being the number of marks above zero. The zero point is the middle of the marks. Only where an **affine** grid meets numbers that are never negative (after a ReLU) is it the lowest mark, so that none is wasted.

`first_step(x, grid, axis)` returns (scale, zero point) through `as_numbers`: with an `axis`, the mean is taken for each channel (the axes are `channels_left(x, axis)`), and the one zero point, for all of x, is repeated for each. `grid.limits` are `lowest` and `highest`.

- Zero point: `math.ceil((lowest + highest) / 2)`, or `lowest` if `grid.scheme` is `"affine"` and no number of x is negative.
- $Q$ = highest - zero point. No scale is below `SMALLEST_STEP`.

For [-1, 3] and signed 8 bits: 2 x 2 / sqrt(127), and 0. For [1, 3] and signed 4 bits: 2 x 2 / sqrt(15), and -8.
"""


# %% nbgrader={"grade": false, "grade_id": "first-step", "locked": false, "solution": true}
#| exporti
def first_step(x: np.ndarray, grid: Grid, axis: int | None) -> tuple[Any, Any]:
    """(scale, zero point) from which learning starts: 2 mean|x| / sqrt(levels above zero).

    The zero point is the middle mark; on an affine grid, where no number is negative, the lowest.
    (Esser et al. 2020, 2.1.)

    >>> first_step(np.array([-1.0, 1.0]), Grid(bits=3, scheme="symmetric"), None)
    (1.1547005383792517, 0)
    """
    lowest, highest = grid.limits
    ### BEGIN SOLUTION
    zero_point = math.ceil((lowest + highest) / 2)
    if grid.scheme == "affine" and x.min() >= 0:
        zero_point = lowest
    mean = np.abs(x).mean(axis=channels_left(x, axis))
    scale = np.maximum(2 * mean / math.sqrt(highest - zero_point), SMALLEST_STEP)
    return as_numbers(scale, np.full(np.shape(scale), zero_point))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-first-step", "locked": true, "points": 6, "solution": false}
def test_first_step():
    scale, zero_point = first_step(np.array([-1.0, 3.0]), Grid(), None)
    check(scale, 4 / math.sqrt(127), "2 mean|x| / sqrt(127): 127 marks above zero")
    check(zero_point, 0, "both signs: zero point 0")
    scale, zero_point = first_step(np.array([1.0, 3.0]), Grid(bits=4), None)
    check(
        [scale, float(zero_point)], [4 / math.sqrt(15), -8.0], "nothing negative: 15 marks above -8"
    )
    ### BEGIN HIDDEN TESTS
    x = np.array([[1.0, -10.0], [3.0, 30.0]])
    scale, zero_point = first_step(x, Grid(bits=2, scheme="symmetric"), 1)
    check(scale, np.array([4.0, 40.0]), "axis=1: the mean of each column")
    check(zero_point, np.array([0, 0]), "one negative number: 0 for all channels")
    check(first_step(np.abs(x), Grid(bits=2), 0)[1], np.array([-2, -2]), "the lowest, for each")
    positive = first_step(np.abs(x), Grid(bits=2, scheme="symmetric"), None)[1]
    check(positive, 0, "a symmetric grid keeps its zero point")
    scale, zero_point = first_step(x, Grid(bits=4, signed=False), None)
    check(zero_point, 8, "unsigned, both signs: the middle of 0 to 15")
    check(scale, 22 / math.sqrt(7), "7 marks above the middle")
    check(first_step(np.zeros(3), Grid(), None)[0], 2.0**-23, "zeros: the smallest step", 1e-12)
    ### END HIDDEN TESTS


test_first_step()

# %% [markdown]
r"""
### Exercise 7: how fast a step learns

The gradient of a scale is a sum over all the numbers that share it. A weight's gradient isn't. For their updates to be in proportion to their sizes alike, the paper divides by $\sqrt{N Q}$: $N$ numbers, $Q$ marks. (With Adam it hardly matters, with SGD very much.)

`step_factor(count, levels)` is $1 / \sqrt{\text{count} \cdot \text{levels}}$; no numbers count as one. 25 numbers, 4 levels: 0.1.
"""


# %% nbgrader={"grade": false, "grade_id": "step-factor", "locked": false, "solution": true}
#| exporti
def step_factor(count: int, levels: int) -> float:
    """What a step's gradient is multiplied by, so that it moves as slowly as `count` weights.

    1 / sqrt(count * levels). (Esser et al. 2020, 2.2.)

    >>> step_factor(25, 4)
    0.1
    """
    ### BEGIN SOLUTION
    return 1 / math.sqrt(max(count, 1) * levels)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-step-factor", "locked": true, "points": 3, "solution": false}
def test_step_factor():
    check(step_factor(25, 4), 0.1, "1 / sqrt(25 x 4)")
    check(step_factor(0, 4), 0.5, "an empty batch must not divide by zero")
    ### BEGIN HIDDEN TESTS
    check(step_factor(1, 1), 1.0, "one number, one level")
    check(step_factor(784, 7), 1 / math.sqrt(784 * 7), "not the sum, not without the root")
    ### END HIDDEN TESTS


test_step_factor()

# %% [markdown]
r"""
Does the gradient find a good step? Normal numbers, 3 bits: the marks -3 to 3. **Predict** which is larger, the step that min-max takes or the best one, and by what factor.
"""


# %%
def mean_error(x, step) -> float:
    """The mean squared error of fake quantisation with 3 bits."""
    return float(((fake_quantize(x, step, 0, lowest=-3, highest=3) - x) ** 2).mean())


manual_seed(0)
x = randn(10_000)
start = first_step(x.data, Grid(bits=3, scheme="symmetric"), None)[0]
step = Tensor(start, requires_grad=True)
optimizer = Adam([step], lr=0.01)
for _ in range(150):
    optimizer.zero_grad()
    ((fake_quantize(x, step, 0, lowest=-3, highest=3) - x) ** 2).mean().backward()
    optimizer.step()
tried = np.linspace(0.2, 1.5, 131)
best = tried[np.argmin([mean_error(x.data, s) for s in tried])]
steps = {"min-max": np.abs(x.data).max() / 3, "LSQ's first": start, "learned": step.item()}
for name, s in {**steps, "best of 131": best}.items():
    print(f"{name:12} step {s:.3f}, mean squared error {mean_error(x.data, s):.4f}")

# %% [markdown]
r"""
Gradient descent through a staircase found what a search finds. And a network doesn't even want the least error of its weights, it wants the least loss: the same gradient leads there, and a search doesn't.

## A module that does both

`FakeQuantize` is given: an observer of module 22 that chooses the grid, or a scale that is a parameter. Read it. `place` lays the grid, `chosen` tells it, and `forward` asks your `look` first.

Two switches: while `observing` is off the grid stays, while `rounding` is off x passes untouched. The scale 0 stands for "no grid yet".
"""


# %% nbgrader={"grade": false, "grade_id": "chosen-grid", "locked": true, "solution": false}
#| export
@dataclass(frozen=True)
class ChosenGrid:
    """A grid and where it was laid: all that integer arithmetic needs to know of a tensor.

    `scale` and `zero_point` are a float and an int, or 1-D arrays with one for each slice along
    `axis`.
    """

    grid: Grid
    scale: Any
    zero_point: Any
    axis: int | None = None


# %% nbgrader={"grade": false, "grade_id": "fake-quantize-module", "locked": true, "solution": false}
#| export
class FakeQuantize(Module):
    """Rounds what passes to a grid that it chooses itself; gradients go straight through.

    The `observer` chooses the grid from what passes in training, until `observing` is switched off;
    with `forget`, from each tensor anew (for weights, which are there as a whole). With `learn`,
    the observer only names the grid: the scale becomes a parameter, started by the first tensor in
    training, and its gradient is divided by sqrt(numbers * levels) (LSQ, Esser et al. 2020). While
    `rounding` is off, x passes as it is. Raises RuntimeError where no grid was chosen yet.

    >>> rounded = FakeQuantize(MovingAverageMinMaxObserver(bits=4))
    >>> rounded(Tensor([-8.0, 0.4, 7.0]))
    Tensor([-8.,  0.,  7.])
    >>> rounded
    FakeQuantize(bits=4, scheme='affine', scale=1, zero_point=0)
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, observer: Observer, learn: bool = False, forget: bool = False):
        self.observer, self.learn, self.forget = observer, learn, forget
        self.grid, self.axis = observer.grid, getattr(observer, "axis", None)
        self.observing = self.rounding = True
        no_grid = Tensor(0.0, dtype=np.float32 if learn else np.float64)
        if learn:
            self.scale = no_grid
        else:
            self.register_buffer("scale", no_grid)
        self.register_buffer("zero_point", Tensor(0, dtype=np.int32))

    @property
    def known(self) -> bool:
        """Was a grid chosen?"""
        return bool(self.scale.data.all())

    @property
    def chosen(self) -> ChosenGrid:
        """The grid as it lies now; RuntimeError where none was chosen yet."""
        if not self.known:
            raise RuntimeError("FakeQuantize: no grid yet: let a batch pass in training mode")
        scale = np.maximum(self.scale.data, SMALLEST_STEP)
        return ChosenGrid(self.grid, *as_numbers(scale, self.zero_point.data), self.axis)

    def place(self, scale: Any, zero_point: Any) -> None:
        """Choose a grid by hand."""
        if self.learn and self.scale.shape == np.shape(scale):
            self.scale.data[...] = scale  # in place: an optimizer may hold it already
            writes.add(self.scale.data)
        else:
            self.scale = Tensor(scale, dtype=self.scale.dtype)
        self.zero_point = Tensor(zero_point, dtype=np.int32)

    def forward(self, x: Tensor) -> Tensor:
        look(self, x)
        if not self.rounding:
            return x
        chosen = self.chosen
        lowest, highest = self.grid.limits
        options: dict[str, Any] = dict(lowest=lowest, highest=highest, axis=self.axis)
        if not self.learn:
            return fake_quantize(x, chosen.scale, chosen.zero_point, **options)
        if (self.scale.data < SMALLEST_STEP).any():  # an optimizer's step went too far
            self.place(np.maximum(self.scale.data, SMALLEST_STEP), self.zero_point.data)
        levels = highest - int(self.zero_point.data.max())
        factor = step_factor(x.size // self.scale.size, levels)
        return fake_quantize(x, self.scale, self.zero_point, grad_factor=factor, **options)

    def _extra_repr(self) -> str:
        grid = f"bits={self.grid.bits}, scheme={self.grid.scheme!r}"
        if not self.known:
            return grid
        scale, zero_point = self.scale.data, self.zero_point.data
        if self.axis is None:
            return f"{grid}, scale={float(scale):.4g}, zero_point={int(zero_point)}"
        low, high = scale.min(), scale.max()
        return f"{grid}, axis={self.axis}, {scale.size} scales from {low:.4g} to {high:.4g}"


# %% [markdown]
r"""
### Exercise 8: when to look

`look(rounder, x)` lets x choose the grid, or does nothing:

1. Only in training mode; test data must not move the grid. One exception: a rounder with `forget` looks always (a weight is the same in both modes).
2. With `learn`: if no grid is known yet (`rounder.known`), `rounder.place(...)` the first step, with `rounder.grid` and `rounder.axis`. Its numbers are `finite(x, "FakeQuantize: x")`, which is module 15's: it refuses NaN. Afterwards the optimizer moves the scale.
3. Otherwise, while `rounder.observing`: `observe(x)`, and place what `calculate_qparams()` says. With `forget`, a **copy** of the observer looks (`copy.copy`), so that the next tensor is met by an observer that knows nothing: weights move, and a range from many steps ago is no range of theirs.
"""


# %% nbgrader={"grade": false, "grade_id": "look", "locked": false, "solution": true}
#| exporti
def look(rounder: FakeQuantize, x: Tensor) -> None:
    """Let x choose the grid of a FakeQuantize, if it is the time for that."""
    ### BEGIN SOLUTION
    if not (rounder.training or rounder.forget):
        return
    if rounder.learn:
        if not rounder.known:
            numbers = finite(x, "FakeQuantize: x")
            rounder.place(*first_step(numbers, rounder.grid, rounder.axis))
    elif rounder.observing:
        observer = copy.copy(rounder.observer) if rounder.forget else rounder.observer
        observer.observe(x)
        rounder.place(*observer.calculate_qparams())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-look", "locked": true, "points": 7, "solution": false}
def test_look():
    rounder = FakeQuantize(MinMaxObserver(bits=4))
    check(rounder(Tensor([-8.0, 0.4, 7.0])), [-8.0, 0.0, 7.0], "in training, x chooses the grid")
    check(rounder.eval()(Tensor([100.0])), [7.0], "in eval mode the grid stays")
    rounder.train().observing = False
    check(rounder(Tensor([100.0])), [7.0], "frozen: the grid stays")
    weight = FakeQuantize(MinMaxObserver(bits=4, scheme="symmetric"), forget=True)
    weight(Tensor([70.0]))
    check(weight(Tensor([7.0, 3.4])), [7.0, 3.0], "forget: 70 is forgotten, the scale is 1")
    ### BEGIN HIDDEN TESTS
    check(weight.eval()(Tensor([14.0, 3.4])), [14.0, 4.0], "a weight is looked at in eval mode too")
    rounder.observing = True
    check(rounder(Tensor([-16.0, 14.0])), [-16.0, 14.0], "a wider batch widens the grid")
    check(rounder(Tensor([1.2])), [2.0], "without forget the grid remembers: its step is 2")
    learned = FakeQuantize(MinMaxObserver(bits=4, scheme="symmetric"), learn=True)
    with check_raises(RuntimeError, "no grid yet", "eval mode: no step is chosen"):
        learned.eval()(Tensor([1.0]))
    learned.train()(Tensor([-1.0, 3.0]))
    check(learned.chosen.scale, 4 / math.sqrt(7), "learn: the first tensor gives the first step")
    held = learned.scale
    learned(Tensor([100.0, -100.0]))
    check(learned.chosen.scale, 4 / math.sqrt(7), "learn: the second does not")
    check(learned.scale is held, True, "the parameter is the one that the optimizer holds")
    with check_raises(ValueError, "holds nan", "a step can't start from NaN"):
        FakeQuantize(MinMaxObserver(), learn=True)(Tensor([math.nan]))
    ### END HIDDEN TESTS


test_look()

# %% [markdown]
r"""
## A layer, and the batch norm behind it

A layer is simple: `rounded_weight`, then the layer's own arithmetic, then the result rounded. The bias stays float; it will be an integer of 32 bits, which is as good.

A batch norm makes it interesting. When the network runs on integers, the norm will be folded into the weight (module 22): what is rounded then is $w\,s$, with $s = \gamma / \sqrt{\sigma^2_{run} + \epsilon}$. Training has to round the same thing, or it prepares for a network that nobody will run. But training also wants the norm to see each **batch**, which makes it train so well. There are three ways:

1. Fold once, then train without a norm. Simple, but the norm's help is gone, just when rounding shakes the activations.
2. Fold by the batch's own statistics. Then the weight that is rounded jumps with each batch, and its rounding with it; and the convolution must run twice, first to get the statistics.
3. Round $w\,s$ with the **running** scale, which moves slowly, compute, divide the result by $s$ again, and give that to the norm as usual.

```
   x --> layer(round(w s)) --> / s --> + bias --> norm (batch statistics) --> relu --> round
```

The third is what we build (so does PyTorch, in `torch.ao.nn.intrinsic.qat.ConvBn2d`; Jacob et al. 2018, 3.2 began it). In training the norm does all it did; in eval mode the norm multiplies by $s$, which cancels the division, and what is left is exactly the folded layer.

### Exercise 9: norm_scale

`norm_scale(norm)` is the Tensor $s$, for each channel. `running_var` is constant (`.detach()`), `norm.weight` ($\gamma$) is a parameter and its gradient must pass; it may be None, which counts as 1.
One divides by $s$, so a $\gamma$ of exactly 0 counts as 1 too: `where(norm.weight.data == 0, 1.0, norm.weight)`. (The norm itself multiplies by its real $\gamma$, so the channel stays off.)

For variances 4 and 1, eps 0, gamma 6 and 0: [3, 1].
"""


# %% nbgrader={"grade": false, "grade_id": "norm-scale", "locked": false, "solution": true}
#| exporti
def norm_scale(norm: Any) -> Tensor:
    """What a batch norm multiplies each channel by in eval mode: weight / sqrt(running_var + eps).

    A weight of 0 counts as 1: one divides by this scale.

    >>> norm_scale(BatchNorm1d(2, eps=0.0)).detach()
    Tensor([1., 1.])
    """
    ### BEGIN SOLUTION
    steady = (norm.running_var.detach() + norm.eps) ** -0.5
    if norm.weight is None:
        return steady
    return where(norm.weight.data == 0, 1.0, norm.weight) * steady
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-norm-scale", "locked": true, "points": 5, "solution": false}
def norm_with(variance, gamma, eps=0.0):
    """A BatchNorm1d of given variances and weights."""
    norm = BatchNorm1d(len(variance), eps=eps, affine=gamma is not None)
    norm.running_var.data[...] = variance
    if gamma is not None:
        norm.weight.data[...] = gamma
    return norm


def test_norm_scale():
    check(
        norm_scale(norm_with([4.0, 1.0], [6.0, 0.0])).detach(),
        [3.0, 1.0],
        "6 / sqrt(4); 0 counts as 1",
    )
    check(norm_scale(norm_with([4.0], None)).detach(), [0.5], "without a weight: 1 / sqrt(4)")
    ### BEGIN HIDDEN TESTS
    check(norm_scale(norm_with([3.0], [-2.0], eps=1.0)).detach(), [-1.0], "eps goes under the root")
    norm = norm_with([4.0, 1.0], [6.0, 0.0])
    got = grad(norm_scale(norm), norm.weight, np.ones(2))
    check(got, [0.5, 0.0], "the gradient passes to the norm's weight")
    ### END HIDDEN TESTS


test_norm_scale()

# %% [markdown]
r"""
The layer itself is given, with `computed`, which does a Linear's or Conv2d's arithmetic with another weight and bias. Note `grids`, which integer arithmetic will ask for one day, and `plain`, which makes an ordinary layer again.
"""


# %% nbgrader={"grade": false, "grade_id": "qat-config", "locked": true, "solution": false}
#| export
def qat_config(weight_bits: int = 8, activation_bits: int = 8) -> QConfig:
    """The usual grids of QAT: symmetric ones for each weight channel, affine ones of activations.

    >>> qat_config(weight_bits=2).weight(axis=1).grid.limits
    (-1, 1)
    """
    return QConfig(
        activation=partial(MovingAverageMinMaxObserver, bits=activation_bits),
        weight=partial(PerChannelMinMaxObserver, bits=weight_bits, scheme="symmetric"),
    )


# %% nbgrader={"grade": false, "grade_id": "computed", "locked": true, "solution": false}
#| exporti
DEFAULT_CONFIG = qat_config()


def computed(layer: Linear | Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer computes, with another weight and bias."""
    if isinstance(layer, Linear):
        return linear(x, weight, bias)
    how = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
    return conv2d(x, weight, bias, groups=layer.groups, **how)


# %% nbgrader={"grade": false, "grade_id": "fake-quantized-layer", "locked": true, "solution": false}
#| export
class FakeQuantizedLayer(Module):
    """A Linear or Conv2d, and the batch norm and ReLU behind it, with weight and result rounded.

    The layer keeps its weight as it is and computes with `rounded_weight()`. A batch norm trains on
    with the statistics of each batch; rounded is the weight times the norm's running scale, as it
    will be once the norm is folded in, and the result is divided by that scale again. In eval mode
    that is exactly the folded layer. (Jacob et al. 2018, 3.2; torch.ao.nn.intrinsic.qat.ConvBn2d.)

    >>> layer = FakeQuantizedLayer(Linear(2, 2), qat_config(weight_bits=2))
    >>> layer(Tensor([[1.0, 2.0]])).shape
    (1, 2)
    >>> layer.grids["weight"].scale.shape
    (2,)
    """

    def __init__(
        self,
        layer: Linear | Conv2d,
        config: QConfig,
        norm: BatchNorm1d | BatchNorm2d | None = None,
        relu: bool = False,
        learn: bool = False,
    ):
        self.layer, self.norm, self.relu = layer, norm, relu
        self.axis = 1 if isinstance(layer, Linear) else 0  # of the weight's output channels
        self.weight_rounder = FakeQuantize(config.weight(axis=self.axis), learn, forget=True)
        self.output_rounder = FakeQuantize(config.activation(), learn)
        with no_grad():
            self.rounded_weight()  # its grid is known from now on

    def rounded_weight(self) -> Tensor:
        """The weight that the layer computes with: rounded, the norm's scale included."""
        weight = self.layer.weight
        if self.norm is not None:
            weight = weight * by_channel(norm_scale(self.norm), weight.ndim, self.axis)
        return self.weight_rounder(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_rounder(rounded_forward(self, x))

    @property
    def grids(self) -> dict[str, ChosenGrid]:
        """The grids of the `weight` and of the `activation`, the layer's result."""
        with no_grad():
            self.rounded_weight()  # the weight may have moved since its grid was chosen
        return {"weight": self.weight_rounder.chosen, "activation": self.output_rounder.chosen}

    def plain(self) -> Module:
        """The same in floats, with the norm folded in, and a weight that lies on its grid."""
        layer, rounded = copy.deepcopy(self.layer), self.rounded_weight().data
        if self.norm is not None:
            fold_batch_norm(layer, self.norm)
            rounded = np.where(layer.weight.data == 0, 0, rounded)  # where the norm's weight is 0
        layer.weight = Tensor(rounded)
        return (Fused(layer) if self.relu else layer).train(self.training)

    def _extra_repr(self) -> str:
        return "relu=True" if self.relu else ""


# %% [markdown]
r"""
### Exercise 10: rounded_forward

The picture above, without the last step (rounding the result):

- Without a norm: `computed(layer, x, weight, layer.bias)`.
- With one: computed **without** bias, divided by `norm_scale`, plus the bias if there is one, then `norm`. Channels of the result are along axis 1: `by_channel(values, y.ndim, 1)`.
- At the end `relu`, if `part.relu`.
"""


# %% nbgrader={"grade": false, "grade_id": "rounded-forward", "locked": false, "solution": true}
#| exporti
def rounded_forward(part: FakeQuantizedLayer, x: Tensor) -> Tensor:
    """The result of a FakeQuantizedLayer, before it is rounded itself."""
    layer, norm, weight = part.layer, part.norm, part.rounded_weight()
    ### BEGIN SOLUTION
    if norm is None:
        y = computed(layer, x, weight, layer.bias)
    else:
        y = computed(layer, x, weight, None)
        y = y / by_channel(norm_scale(norm), y.ndim, 1)
        if layer.bias is not None:
            y = y + by_channel(layer.bias, y.ndim, 1)
        y = norm(y)
    return relu(y) if part.relu else y
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-rounded-forward", "locked": true, "points": 7, "solution": false}
def test_rounded_forward():
    layer = Linear(2, 2)
    layer.weight.data[...], layer.bias.data[...] = [[1.0, -4.0], [0.4, 4.0]], [10.0, -30.0]
    part = FakeQuantizedLayer(layer, qat_config(weight_bits=2))
    x = Tensor([[1.0, 1.0], [2.0, 5.0]])
    check(
        rounded_forward(part, x).detach(),
        [[11.0, -30.0], [12.0, -18.0]],
        "weights [[1, -4], [0, 4]]",
    )
    part.relu = True
    check(rounded_forward(part, x).detach(), [[11.0, 0.0], [12.0, 0.0]], "the ReLU comes last")
    ### BEGIN HIDDEN TESTS
    norm = norm_with([4.0, 1.0], [6.0, -2.0])
    norm.running_mean.data[...], norm.bias.data[...] = [1.0, 2.0], [5.0, -5.0]
    part = FakeQuantizedLayer(layer, qat_config(weight_bits=2), norm).eval()
    folded = part.plain()
    check(
        rounded_forward(part, x).detach(),
        folded(x).data,
        "eval mode: exactly the folded layer",
        1e-5,
    )
    twin = copy.deepcopy(norm).train()
    expected = twin(Tensor([[11.0, -30.0], [12.0, -18.0]])).detach().data
    check(
        rounded_forward(part.train(), x).detach(),
        expected,
        "training: the batch's statistics",
        1e-5,
    )
    check(norm.running_var, twin.running_var.data, "the norm's running statistics move", 1e-5)
    conv = FakeQuantizedLayer(Conv2d(2, 3, 3, bias=False), qat_config(), BatchNorm2d(3)).eval()
    image = Tensor(np.random.default_rng(0).standard_normal((2, 2, 5, 5)))
    check(
        rounded_forward(conv, image).detach(),
        conv.plain()(image).data,
        "channels along axis 1",
        1e-4,
    )
    ### END HIDDEN TESTS


test_rounded_forward()

# %% [markdown]
r"""
## The whole model

Which layer gets which grids? A `QConfig` of module 22 for all, or a dict: from names, types and `""` (all others) to QConfigs, or to None for layers that stay as they are. First and last layers are often given more bits than the rest.

### Exercise 11: config_of

`config_of(name, layer, qconfig)` looks in the dict for the name itself (`"blocks.0.up"`), then for its parents (`"blocks.0"`, then `"blocks"`), then for `type(layer)`, then for `""`. What stands nowhere gets `DEFAULT_CONFIG`. A None that was found is an answer, and not a reason to go on looking.

<details><summary>Hint</summary>

`name.rpartition(".")[0]` is the parent's name, and "" when there is none left.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "config-of", "locked": false, "solution": true}
#| exporti
def config_of(name: str, layer: Module, qconfig: Any) -> QConfig | None:
    """The layer's own QConfig: by its name, else its nearest parent's, else its type, else "".

    >>> config_of("blocks.0.up", Linear(1, 1), {"blocks": None, Linear: QConfig()}) is None
    True
    """
    if not isinstance(qconfig, Mapping):
        return qconfig
    ### BEGIN SOLUTION
    while name:
        if name in qconfig:
            return qconfig[name]
        name = name.rpartition(".")[0]
    return qconfig.get(type(layer), qconfig.get("", DEFAULT_CONFIG))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-config-of", "locked": true, "points": 5, "solution": false}
def test_config_of():
    coarse, layer = qat_config(weight_bits=2), Linear(1, 1)
    check(
        config_of("blocks.0.up", layer, {"blocks": None, Linear: coarse}) is None,
        True,
        "a parent's",
    )
    check(config_of("head", layer, {"blocks": None, Linear: coarse}) is coarse, True, "by its type")
    check(config_of("head", layer, {"": coarse}) is coarse, True, '"" is for all others')
    ### BEGIN HIDDEN TESTS
    both = {"blocks": None, "blocks.0": coarse}
    check(config_of("blocks.0.up", layer, both) is coarse, True, "the nearest parent's")
    check(config_of("blocks.1", layer, both) is None, True, "the name before the parent's parent")
    check(config_of("blocks2", layer, both) is DEFAULT_CONFIG, True, "blocks2 is no part of blocks")
    check(config_of("a", layer, {Conv2d: None}) is DEFAULT_CONFIG, True, "nowhere: the default")
    check(
        config_of("a", layer, {"a": coarse, "": None, Linear: None}) is coarse, True, "names first"
    )
    check(config_of("a", layer, {Linear: None, "": coarse}) is None, True, "None is an answer")
    check(config_of("a", layer, coarse) is coarse, True, "a QConfig is for all layers")
    ### END HIDDEN TESTS


test_config_of()


# %% nbgrader={"grade": false, "grade_id": "preparing", "locked": true, "solution": false}
#| exporti
def checked_model(model: Any, qconfig: Any) -> None:
    """An error for what can't be prepared: no Module, one prepared before, names of no module."""
    if not isinstance(model, Module):
        raise TypeError(f"prepare_qat: expected a Module, got {type(model).__name__}")
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, FakeQuantizedLayer):
            raise ValueError(f"prepare_qat: {name or 'the model'} was prepared before")
    if isinstance(qconfig, Mapping):
        names = [key for key in qconfig if isinstance(key, str) and key]
        if unknown := [n for n in names if not any(f"{m}.".startswith(f"{n}.") for m in modules)]:
            raise ValueError(f"prepare_qat: qconfig names {unknown}, the model has {list(modules)}")


def layers_to_round(model: Module) -> dict[str, tuple[Any, Linear | Conv2d]]:
    """By name: each Linear and Conv2d, with what holds it if that is a Fused (else itself)."""
    found: dict[str, tuple[Any, Linear | Conv2d]] = {}
    seen: set[int] = set()
    for name, part in model.named_modules():
        layer = part.layer if type(part) is Fused else part
        if type(layer) in (Linear, Conv2d) and id(layer) not in seen:
            seen.add(id(layer))
            found[name] = part, layer
    if not found:
        raise ValueError("prepare_qat: the model has no Linear and no Conv2d")
    return found


@contextmanager
def choosing(model: Module) -> Iterator[None]:
    """Eval mode and no gradients for the length of a `with`, but FakeQuantizes choose grids."""
    with evaluating(model), no_grad():
        for module in model.modules():
            if isinstance(module, FakeQuantize):
                module.training = True
        yield


def followers_of(model: Module, example: Any) -> dict[int, tuple[Any, int]]:
    """Who follows each leaf, and how many axes are between; nothing is known without an example."""
    if example is None:
        return {}
    with choosing(model):
        return followers(model, example)


# %% [markdown]
r"""
### Exercise 12: prepare_qat

Given: the checks, the copy, `layers_to_round(model)` (name -> (what stands in the tree, the layer in it): the two differ for a `Fused`), and `after`: as in module 22, `after.get(id(leaf), NOBODY)` is (the follower, number of axes between).

For each of them, fill `replaced`, from ids to new modules:

1. Its config; None: leave everything as it is.
2. If (type of the layer, type of the follower, axes) is in `FOLDABLE`, the follower is the layer's `norm`, and an `Identity()` takes its place. Otherwise there is none.
3. If the next follower (the norm's or the layer's) is of type ReLU, an `Identity()` takes its place.
4. In the place of what stands in the tree: `FakeQuantizedLayer(layer, config, norm, relu?, learn)`, with ReLU if there was one or if it is a `Fused`. It goes into the layer's mode: `.train(layer.training)`.
"""


# %% nbgrader={"grade": false, "grade_id": "prepare-qat", "locked": false, "solution": true}
#| export
def prepare_qat(
    model: Module,
    qconfig: QConfig | Mapping[Any, QConfig | None] = DEFAULT_CONFIG,
    example: Any = None,
    learn: bool = False,
) -> Module:
    """A copy of the model that computes with rounded weights and results, ready to be trained.

    Every Linear, Conv2d and Fused becomes a FakeQuantizedLayer. With `example`, an input on which
    the model runs once, the batch norm and the ReLU that follow a layer become part of it, and the
    grids of results are chosen for the example; without, the first batch in training chooses them.
    `qconfig` may go from names of layers (or of parents), types and "" (all others) to QConfigs,
    and to None for what stays as it is. `learn` makes all scales parameters: give the optimizer the
    parameters of the copy. What enters the model is rounded by a FakeQuantize of yours in front.

    >>> from tinytorch.nn import Sequential
    >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
    >>> prepared = prepare_qat(model, qat_config(weight_bits=4), example=Tensor(np.ones((1, 4))))
    >>> [type(layer).__name__ for layer in prepared]
    ['FakeQuantizedLayer', 'Identity', 'FakeQuantizedLayer']
    """
    checked_model(model, qconfig)
    model = copy.deepcopy(model)
    after = followers_of(model, example)
    replaced: dict[int, Any] = {}
    ### BEGIN SOLUTION
    for name, (part, layer) in layers_to_round(model).items():
        config = config_of(name, layer, qconfig)
        if config is None:
            continue
        norm, ndim = after.get(id(layer), NOBODY)
        if (type(layer), type(norm), ndim) in FOLDABLE:
            replaced[id(norm)] = Identity()
        else:
            norm = None
        bend, _ = after.get(id(layer if norm is None else norm), NOBODY)
        if type(bend) is ReLU:
            replaced[id(bend)] = Identity()
        rectified = type(bend) is ReLU or type(part) is Fused
        rounded = FakeQuantizedLayer(layer, config, norm, rectified, learn)
        replaced[id(part)] = rounded.train(layer.training)
    ### END SOLUTION
    replace_modules(model, replaced)
    model = replaced.get(id(model), model)
    if example is not None:
        with choosing(model):
            model(example)
    return model


# %% nbgrader={"grade": true, "grade_id": "test-prepare-qat", "locked": true, "points": 8, "solution": false}
def kinds(model) -> list[str]:
    """The types of a Sequential's layers."""
    return [type(layer).__name__ for layer in model]


def test_prepare_qat():
    manual_seed(0)
    x = randn(20, 6)
    model = Sequential(Linear(6, 8), BatchNorm1d(8), ReLU(), Dropout(0.5), Linear(8, 3))
    prepared = prepare_qat(model, example=x)
    expected = ["FakeQuantizedLayer", "Identity", "Identity", "Dropout", "FakeQuantizedLayer"]
    check(kinds(prepared), expected, "norm and ReLU became part of the first layer")
    check(
        [prepared[0].norm is not None, prepared[0].relu, prepared[4].relu],
        [True, True, False],
        "norm and ReLU",
    )
    check(kinds(model)[0], "Linear", "the model itself stays as it is")
    check(prepared.eval()(x).detach(), model.eval()(x).data, "at 8 bits, nearly the same", 0.1)
    ### BEGIN HIDDEN TESTS
    check(kinds(prepare_qat(model))[1:3], ["BatchNorm1d", "ReLU"], "without an example")
    skipped = kinds(prepare_qat(model, {"0": None}, example=x))
    check(skipped[:3], ["Linear", "BatchNorm1d", "ReLU"], "None: it keeps its norm and ReLU")
    check(prepare_qat(model, example=x)[0].training, False, "a model in eval mode stays in it")
    fused = prepare_qat(Sequential(Fused(Linear(6, 2)), Linear(2, 2)), example=x)
    parts = [type(fused[0].layer) is Linear, fused[0].relu, fused[1].relu]
    check(parts, [True, True, False], "a Fused has a ReLU")
    bits = prepare_qat(model, {"": qat_config(2), "4": qat_config(4)})
    bits = [bits[i].weight_rounder.grid.bits for i in (0, 4)]
    check(bits, [2, 4], "each layer's own config")
    learned = prepare_qat(model, learn=True)
    check(len(learned.parameters()), len(model.parameters()) + 4, "learn: four scales more")
    model = Sequential(Linear(6, 6), ReLU(), Linear(6, 6), BatchNorm1d(6))
    alone = prepare_qat(model, example=x)
    parts = [(alone[i].relu, alone[i].norm is None) for i in (0, 2)]
    check(parts, [(True, True), (False, False)], "a ReLU without a norm, a norm without a ReLU")
    ### END HIDDEN TESTS


test_prepare_qat()

# %% [markdown]
r"""
### Exercise 13: freeze_observers

While grids move with every batch, the weights chase them. So towards the end one freezes them. `freeze_observers(model, frozen)` sets `observing` of every `FakeQuantize` in the tree.
"""


# %% nbgrader={"grade": false, "grade_id": "freeze-observers", "locked": false, "solution": true}
#| export
def freeze_observers(model: Module, frozen: bool = True) -> None:
    """Keep all grids that observers chose (or, with frozen=False, let them choose on).

    Learned scales are parameters: to freeze those, set requires_grad=False.

    >>> model = prepare_qat(Linear(2, 2), example=Tensor([[1.0, 2.0]]))
    >>> freeze_observers(model)
    >>> before = model.grids["activation"].scale
    >>> y = model(Tensor([[100.0, 200.0]]))
    >>> model.grids["activation"].scale == before
    True
    """
    ### BEGIN SOLUTION
    for module in model.modules():
        if isinstance(module, FakeQuantize):
            module.observing = not frozen
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-freeze-observers", "locked": true, "points": 4, "solution": false}
def test_freeze_observers():
    x = Tensor(np.random.default_rng(0).standard_normal((20, 6)))
    model = prepare_qat(Sequential(Linear(6, 8), ReLU(), Linear(8, 3)), example=x).train()
    freeze_observers(model)
    before = model[2].output_rounder.chosen
    model(100 * x)
    check(model[2].output_rounder.chosen == before, True, "frozen: a larger batch changes nothing")
    ### BEGIN HIDDEN TESTS
    rounders = [m for m in model.modules() if isinstance(m, FakeQuantize)]
    check([r.observing for r in rounders], [False] * 4, "all of them, weights too")
    check([r.rounding for r in rounders], [True] * 4, "they round on")
    freeze_observers(model, False)
    check([r.observing for r in rounders], [True] * 4, "frozen=False lets them look again")
    ### END HIDDEN TESTS


test_freeze_observers()


# %% nbgrader={"grade": false, "grade_id": "layer-grids", "locked": true, "solution": false}
#| export
def layer_grids(model: Module) -> dict[str, dict[str, ChosenGrid]]:
    """The grids of every prepared layer, by its name: of its `weight` and its `activation`.

    >>> model = prepare_qat(Linear(2, 2), example=Tensor([[1.0, 2.0]]))
    >>> layer_grids(model)[""]["weight"].grid.limits
    (-127, 127)
    """
    return {
        name: module.grids
        for name, module in model.named_modules()
        if isinstance(module, FakeQuantizedLayer)
    }


# %% [markdown]
r"""
### Exercise 14: finish_qat

At the end you want an ordinary network again, whose weights lie on their grids. In a copy of the model, replace every `FakeQuantizedLayer` by its `plain()` and every other `FakeQuantize` by an `Identity()`: collect them by id, then `replace_modules`. The model may itself be a FakeQuantizedLayer: then its replacement is the result.
"""


# %% nbgrader={"grade": false, "grade_id": "finish-qat", "locked": false, "solution": true}
#| export
def finish_qat(model: Module) -> Module:
    """A plain float copy of a prepared model, whose weights lie on their grids.

    Layers become Linear, Conv2d or (with their ReLU) Fused, batch norms are folded in, and results
    are no longer rounded. `layer_grids` of the prepared model has the grids, by the same names.

    >>> from tinytorch.nn import Sequential
    >>> prepared = prepare_qat(Sequential(Linear(4, 2)), qat_config(weight_bits=2))
    >>> len(np.unique(finish_qat(prepared)[0].weight.data[:, 0])) <= 3
    True
    """
    ### BEGIN SOLUTION
    model = copy.deepcopy(model)
    plain: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, FakeQuantizedLayer):
            plain[id(module)] = module.plain()
        elif isinstance(module, FakeQuantize):
            plain[id(module)] = Identity()
    replace_modules(model, plain)
    return plain.get(id(model), model)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-finish-qat", "locked": true, "points": 7, "solution": false}
def test_finish_qat():
    x = Tensor(np.random.default_rng(0).standard_normal((20, 6)))
    model = Sequential(Linear(6, 8), BatchNorm1d(8), ReLU(), Linear(8, 3))
    prepared = prepare_qat(model, qat_config(weight_bits=2), example=x).eval()
    finished = finish_qat(prepared)
    check(kinds(finished), ["Fused", "Identity", "Identity", "Linear"], "plain layers again")
    marks = finished[3].weight.data / layer_grids(prepared)["3"]["weight"].scale
    check(marks, np.rint(marks), "weights lie on their grids", 1e-5)
    check(kinds(prepared)[0], "FakeQuantizedLayer", "the prepared model stays as it is")
    ### BEGIN HIDDEN TESTS
    for part in (prepared[0], prepared[3]):
        part.output_rounder.rounding = False
    check(finished(x).detach(), prepared(x).data, "the same results, but for their rounding", 1e-5)
    alone = finish_qat(prepare_qat(Linear(6, 2), example=x))
    check(type(alone) is Linear, True, "a bare layer is finished too")
    front = prepare_qat(Sequential(FakeQuantize(MinMaxObserver()), Linear(6, 2)), example=x)
    check(kinds(finish_qat(front)), ["Identity", "Linear"], "a FakeQuantize of one's own goes too")
    ### END HIDDEN TESTS


test_finish_qat()

# %% [markdown]
r"""
## Put together: where it pays

The network from the beginning, at 8, 3 and 2 bits for weights, 8 for activations. Three columns: rounded as it is; trained 10 epochs more, **then** rounded; trained 10 epochs **while** it is rounded. The middle one is the control: same epochs, same learning rate, same order of the data. Without it, a gain might be just the training.

**Predict** the three numbers for 8 bits, and for 2.
"""


# %%
def aware(config, learn=False):
    """The network prepared, and trained for EPOCHS."""
    prepared = prepare_qat(network, config, example=train.images, learn=learn)
    return trained(prepared, EPOCHS, lr=1e-3, seed=1)


models = {}
print(f"float: {accuracy(network):.3f}, after {EPOCHS} epochs more {accuracy(longer):.3f}\n")
print("weight bits   rounded   trained, then rounded   trained rounded")
for bits in (8, 3, 2):
    config = qat_config(weight_bits=bits)
    plain = [accuracy(prepare_qat(m, config, example=train.images)) for m in (network, longer)]
    models[bits] = aware(config)
    print(f"{bits:11}{plain[0]:10.3f}{plain[1]:24.3f}{accuracy(models[bits]):18.3f}")

# %% [markdown]
r"""
At 8 bits the columns differ by a few of 355 digits, which is noise: QAT gains **nothing** there, and costs several times the training. At 3 bits there is little to gain. At 2 bits it turns a broken network into one that reads nearly as well as the original.

The same on MNIST, with a network 784-100-100-10 (`benchmarks/qat_mnist.py` of 2026-11-22: means of 3 seeds, 5 epochs and 5 more; run it to see yours):

| weight bits | rounded | trained, then rounded | trained rounded |
|---|---|---|---|
| 8 | 0.9748 | 0.9775 | 0.9777 |
| 3 | 0.9547 | 0.9628 | 0.9723 |
| 2 | 0.315 | 0.276 | 0.9598, with LSQ 0.9754 |

The float network has 0.9750, after 5 epochs more 0.9774. Look at the first row: without the control, QAT at 8 bits would seem to gain 0.003.

What has it learned? **Predict** for the first layer's weights at 2 bits: is their rounding error smaller after QAT than before? Which share of them lies on another mark?
"""

# %%
from tinytorch.optimization.quantization import quantization_error

models["2, LSQ"] = aware(qat_config(weight_bits=2), learn=True)
models["2, not trained"] = prepare_qat(network, qat_config(weight_bits=2), example=train.images)
start = np.sign(models["2, not trained"][1].rounded_weight().data)
print("weight bits      accuracy   SNR of weights   zeros   other marks")
for name in ("2, not trained", 2, "2, LSQ"):
    part = models[name][1]
    weight, rounded = part.layer.weight.detach(), part.rounded_weight().detach()
    snr, marks = quantization_error(weight, rounded)["snr_db"], np.sign(rounded.data)
    moved = (marks != start).mean()
    print(
        f"{name!s:15}{accuracy(models[name]):10.3f}{snr:14.1f} dB{(marks == 0).mean():8.0%}{moved:14.0%}"
    )

if plt:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), sharey=True)
    for place, name in zip(axes, ("2, not trained", 2, "2, LSQ"), strict=True):
        part = models[name][1]
        values = part.layer.weight.data / part.weight_rounder.chosen.scale
        place.hist(values.reshape(-1), bins=np.linspace(-3, 3, 81), color="0.4")
        for border in (-0.5, 0.5):
            place.axvline(border, color="black", linestyle=":")
        place.set(title=f"First layer, {name}", xlabel="weight / scale")
    axes[0].set_ylabel("how many weights")
    plt.show()

# %% [markdown]
r"""
With min-max steps the error did **not** become smaller. A few weights in a hundred went over to another mark, and that was enough: training doesn't make rounding more exact, it makes the errors harmless. They lie where the loss is flat.
LSQ does both: its steps are much shorter, so that half of the weights count instead of a quarter, and the largest ones are clipped.

The finished network is plain, and its grids are known:
"""

# %%
finished = finish_qat(models[2])
print(finished)
print(f"accuracy {accuracy(finished):.3f} (results no longer rounded)")
for name, grids in layer_grids(models[2]).items():
    weight, activation = grids["weight"], grids["activation"]
    print(
        f"layer {name}: {weight.grid.limits}, {len(weight.scale)} scales; result: scale {activation.scale:.3f}, zero point {activation.zero_point}"
    )

# %% [markdown]
r"""
### Activations too, and the learned step

Now activations at as few bits as weights. One trap: at 2 bits the network's **result** has four values, and which of ten classes is largest is mostly a tie. So the last layer keeps 8 bits for its result: a dict of configs.

**Predict** whether learned steps beat min-max, at 4, 3 and 2 bits.
"""

# %%
print("bits for both   rounded   min-max, trained   LSQ, trained")
scores = {"rounded": [], "min-max, trained": [], "LSQ, trained": []}
for bits in (4, 3, 2):
    config = {"": qat_config(bits, bits), "5": qat_config(bits, 8)}
    plain = accuracy(prepare_qat(network, config, example=train.images))
    row = [plain, accuracy(aware(config)), accuracy(aware(config, learn=True))]
    print(f"{bits:13}{row[0]:10.3f}{row[1]:19.3f}{row[2]:15.3f}")
    for name, score in zip(scores, row, strict=True):
        scores[name].append(score)

tied = qat_config(2, 2)
print(f"\nat 2 bits with a 2-bit result: {accuracy(aware(tied)):.3f}")

if plt:
    for (name, values), line in zip(scores.items(), ("k:", "k--", "k-"), strict=True):
        plt.plot((4, 3, 2), values, line, marker="o", label=name)
    plt.title("Weights and activations at few bits")
    plt.xlabel("bits")
    plt.ylabel("test accuracy")
    plt.xticks((4, 3, 2))
    plt.legend()
    plt.show()

# %% [markdown]
r"""
At 4 and 3 bits neither is better than the other by more than noise, and hardly better than no training. At 2 bits the step matters, and there learning it helps (how much differs with the seed). This is a small network with well-behaved weights. The paper trained large ones on ImageNet, where extremes are worse guides, and reports gains from 4 bits down.

### With batch norms

A network with norms, trained shortly, then prepared at 2 bits. **Predict**: how far are the prepared network in eval mode (norms in place) and the finished one (norms folded) apart, if results aren't rounded?
"""

# %%
manual_seed(0)
normed = Sequential(Flatten(), Linear(64, 32), BatchNorm1d(32), ReLU(), Linear(32, 10))
normed = trained(normed, 4)
prepared = prepare_qat(normed, qat_config(weight_bits=2), example=train.images)
print(f"float {accuracy(normed):.3f}, rounded {accuracy(prepared):.3f}", end=", ")
prepared = trained(prepared, EPOCHS, lr=1e-3)
print(f"trained rounded {accuracy(prepared):.3f}")
finished = finish_qat(prepared)
for part in (prepared[1], prepared[4]):
    part.output_rounder.rounding = False
with no_grad():
    apart = np.abs(prepared(test.images).data - finished(test.images).data).max()
print(f"folding changes results by at most {apart:.1e}")

# %% [markdown]
r"""
## What it costs

A step with rounding does more. The arithmetic is easily counted: for one weight and a batch of 64, the forward product takes 2 x 64 = 128 operations and the two backward ones 256; fake quantisation takes 7, its rule about as many. **Predict** how much slower a QAT step is. Then run.
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


def step_time(model, size) -> float:
    """Milliseconds of forward, backward and update on 64 rows."""
    optimizer, x, g = SGD(model.parameters(), lr=1e-6), randn(64, size), np.ones((64, size))

    def step():
        optimizer.zero_grad()
        model(x).backward(g)
        optimizer.step()

    return milliseconds(step)


sizes = (64, 128, 256, 512)
table = []
for size in sizes:
    model = Sequential(Linear(size, size), ReLU(), Linear(size, size))
    example = randn(64, size)
    variants = [model] + [
        prepare_qat(model, example=example, learn=learn) for learn in (False, True)
    ]
    table.append([step_time(variant.train(), size) for variant in variants])

print("milliseconds a step   plain     QAT     LSQ   QAT / plain")
for size, row in zip(sizes, table, strict=True):
    print(
        f"{size:4} x {size:<4}       {row[0]:9.2f}{row[1]:8.2f}{row[2]:8.2f}{row[1] / row[0]:14.1f}x"
    )

if plt:
    for name, times, line in zip(
        ("plain", "QAT", "LSQ"), zip(*table, strict=True), ("k-", "k--", "k:"), strict=True
    ):
        plt.loglog(sizes, times, line, marker="o", label=name)
    plt.title("A training step of two layers, 64 rows")
    plt.xlabel("size of a layer")
    plt.ylabel("time (ms)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
Far more than the count says. Small layers pay for dozens of calls of NumPy, whatever their size. Large ones pay for memory: the product reads a weight once and uses it 64 times from the cache, while each of the passes (multiply, round, add, clip, subtract, multiply; the observer's two; the mask's) reads and writes every weight, for one operation each.
PyTorch has `torch.fake_quantize_per_channel_affine`, one pass for all of it, and one more (`fused_moving_avg_obs_fake_quant`) with the observer in it; the count of operations is the same, the number of passes isn't.

Memory is the other price: backward needs the number before rounding and the layer needs the rounded one. **Predict** the factor.
"""

# %%
import tracemalloc

model = Sequential(Linear(512, 512), ReLU(), Linear(512, 512))
example = randn(64, 512)
for name, network_like in (("plain", model), ("QAT", prepare_qat(model, example=example))):
    tracemalloc.start()
    out = network_like.train()(example)
    print(f"{name:5}: {tracemalloc.get_traced_memory()[0]:9,} bytes wait for backward")
    tracemalloc.stop()

# %% [markdown]
r"""
A rounded copy of every weight and of every result: 2 x 512 x 512 x 4 bytes of weights alone. It is all gone after backward; the finished network is as small as its grids allow.

## Questions

Answer in a few lines, with the numbers worked out.

### 1. By hand (4 points)

A grid has the marks -2 to 1, zero point 0, scale 0.5. For x = [-1.4, -0.6, 0.2, 0.9] and g = [1, 1, 1, 1]: what are the rounded numbers, the gradient for x, and the gradient for the scale? Which way will the scale move?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-by-hand", "locked": false, "points": 4, "solution": true}
r"""
x / s = [-2.8, -1.2, 0.4, 1.8], marks before clipping [-3, -1, 0, 2]. Rounded: [-1, -0.5, 0, 0.5]. Gradient for x: [0, 1, 1, 0].
For the scale: below: -2; inside -1 + 1.2 = 0.2 and 0 - 0.4 = -0.4; above: 1. The sum is -1.2: the loss falls if the scale grows, so gradient descent makes it larger.
"""

# %% [markdown]
r"""
### 2. Why two bits break (4 points)

The weights of a column are normal with deviation $\sigma$; the largest of 784 is about $3.2\,\sigma$. At 2 bits: which share of the weights becomes 0 with the min-max scale? Which with LSQ's first step? (The mean of |w| is $0.8\,\sigma$; a normal number is within $0.8\,\sigma$ with probability 0.58, within $1.6\,\sigma$ with 0.89.)
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-two-bits", "locked": false, "points": 4, "solution": true}
r"""
Marks -1, 0, 1: Q = 1. Min-max: s = 3.2 sigma, everything below s / 2 = 1.6 sigma becomes 0: 89 %. The other 11 % become plus or minus 3.2 sigma, far more than most of them were.
LSQ starts with s = 2 x 0.8 sigma / sqrt(1) = 1.6 sigma; zero is everything below 0.8 sigma: 58 %. The others become 1.6 sigma, near their own size.
"""

# %% [markdown]
r"""
### 3. Bytes (4 points)

A network 784-100-100-10 with biases, weights packed at 2 bits, a float32 scale for each output channel, biases as float32. How many bytes is that, beside float32 throughout? What share is not weights? And at 8 bits?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-bytes", "locked": false, "points": 4, "solution": true}
r"""
Weights: 78,400 + 10,000 + 1,000 = 89,400, biases 210. Float32: 4 x 89,610 = 358,440 bytes.
2 bits: 89,400 / 4 = 22,350, and 210 x 4 = 840 for biases and as much for scales: 24,030 bytes, 14.9 times smaller; 7 % is not weights. 8 bits: 89,400 + 1,680 = 91,080, 3.9 times smaller.
"""

# %% [markdown]
r"""
### 4. Is it worth it? (4 points)

A model takes 100 hours to train and a QAT epoch takes twice as long as a plain one. Fine-tuning needs a tenth of the epochs. How many hours does QAT add? At 8 bits, rounding after training loses 0.1 points and QAT 0.05; at 2 bits 44 points and 2. What would you do in each case, and which experiment would you want to see first?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-worth", "locked": false, "points": 4, "solution": true}
r"""
A tenth of 100 hours, twice as slow: 20 hours. At 8 bits that buys 0.05 points, less than the noise between seeds: don't. At 2 bits it buys 42 points: without it there is no 2-bit model.
First the control: the same 10 hours of plain training, then rounding. If that gains as much, the gain was training, not awareness. And several seeds, to know what a difference means.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "solution": false}
def test_module():
    """Run every test of this lesson."""
    tests = [
        *(test_marks, test_fake_quantize, test_straight_through, test_scale_rule),
        *(test_zero_point_rule, test_first_step, test_step_factor, test_look, test_norm_scale),
        *(test_rounded_forward, test_config_of, test_prepare_qat, test_freeze_observers),
        test_finish_qat,
    ]
    for test_function in tests:
        test_function()
    print(f"{len(tests)} tests passed: module 23 is complete")


test_module()

# %% [markdown]
r"""
## What works now

- Rounding is an operation like any other: it has a value to the last bit of PyTorch's, and a gradient that is a lie and works.
- Steps are chosen by observers or learned by gradient descent, for weights by channel, for activations, with a batch norm folded in.
- Any model is prepared by one call, trained as always, and finished as plain layers whose weights lie on their grids.
- You know where QAT pays (2 bits), where it doesn't (8 bits), and that only a control tells.
- The grids of every layer are known: all that integer arithmetic asks for.
"""

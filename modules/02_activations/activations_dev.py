# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.activations

# %% [markdown]
r"""
# Activations

> Functions that bend: without them, any number of layers is one layer.

**Built before:** `Tensor`, with arithmetic, `exp`, `tanh`, sums and matrix products.
**Built here:** `relu`, `leaky_relu`, `sigmoid`, `silu`, `gelu`, `softmax`, `log_softmax`, and a layer class for each.
**Time:** 3 hours. **Points:** 80 for code, 20 for the questions at the end.
"""

# %%
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
import functools
import math
from collections.abc import Callable

import numpy as np

from tinytorch.core.tensor import Tensor, op, pick, tanh

# %%
import time
import warnings
from pathlib import Path

import tinytorch
from tinytorch.core.tensor import manual_seed, randn

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the lesson works without pictures

# %% [markdown]
r"""
## A stack that isn't one

A layer of a network multiplies its input by a matrix. A deep network has many layers. Here are three of them, 4 -> 8 -> 8 -> 2, and beside them a single matrix, 4 -> 2.

**Predict:** what does three times the work buy? How far apart will the two answers be? Write it down, then run the cell.
"""

# %%
manual_seed(0)
x = randn(5, 4)
first, second, third = randn(4, 8), randn(8, 8), randn(8, 2)
deep = ((x @ first) @ second) @ third
single = first @ second @ third  # one 4 x 2 matrix, worked out once
print("largest difference:", abs(deep - x @ single).max().item())

# %% [markdown]
r"""
Nothing but rounding. $((xA)B)C = x(ABC)$, so three layers are one layer that costs more. Whatever a single matrix can't do, a hundred can't do either. Here is something it can't:

```
 second input
   1 |  A      B
   0 |  B      A        A where both inputs are equal, B where they differ
     +----------
        0      1   first input
```

No straight line has the As on one side and the Bs on the other. The cell lets a solver find the best matrix (and a constant) for it.
"""

# %%
corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
differ = np.array([0, 1, 1, 0], float)
with_constant = np.column_stack([corners, np.ones(4)])
best = np.linalg.lstsq(with_constant, differ, rcond=None)[0]
print("best straight answer:", with_constant @ best, " wanted:", differ)

# %% [markdown]
r"""
One half everywhere: the best straight answer is not to know. What is missing between the layers is something that *bends*, element by element. It is called an **activation**, and this lesson builds the eight that nearly every network uses.

## ReLU: the simplest bend

$$\mathrm{relu}(x) = \max(x, 0)$$

```
   y |       /
     |      /
     |     /
 ____|____/______ x      flat, then straight: one kink
```

**Exercise 1 (6 points).** Write `relu`. Like all operations it is a NumPy function under `@op`: `x` arrives as an array of any shape, and you return an array of the same shape and dtype. Worked numbers: `[-0.5, 0, 3]` gives `[0, 0, 3]`.
"""


# %% nbgrader={"grade": false, "grade_id": "relu", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def relu(x):
    """max(x, 0), element by element.

    >>> relu(Tensor([-0.5, 0.0, 3.0]))
    Tensor([0., 0., 3.])
    """
    ### BEGIN SOLUTION
    return np.maximum(x, 0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-relu", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_relu():
    x = Tensor([[-0.5, 0.0, 3.0]])
    check(relu(x), [[0.0, 0.0, 3.0]], "negative inputs must become zero, others stay")
    check(x, [[-0.5, 0.0, 3.0]], "the input itself must not change: return a new array")
    ### BEGIN HIDDEN TESTS
    check(relu(Tensor([np.nan])), [np.nan], "NaN must stay NaN: a bug upstream must not hide")
    check(relu(Tensor([-3.0, 2.0], dtype=np.float64)).dtype, np.float64, "float64 must be kept")
    check(relu(Tensor([-3, 2], dtype=np.int8)).dtype, np.int8, "integers must stay integers")
    ### END HIDDEN TESTS


test_relu()

# %% [markdown]
r"""
Does one kink solve the puzzle of the corners? Two hidden numbers for each corner: $h_1 = \mathrm{relu}(a + b)$ and $h_2 = \mathrm{relu}(a + b - 1)$. **Predict** $h_1 - 2 h_2$ for the four corners on paper, then run.
"""

# %%
weight, shift = Tensor([[1, 1], [1, 1]]), Tensor([0, -1])
hidden = relu(Tensor(corners) @ weight + shift)
print("hidden:", hidden.tolist())
print("h1 - 2 h2:", (hidden @ Tensor([1, -2])).tolist(), " wanted:", differ.tolist())

# %% [markdown]
r"""
## Slopes

A network learns by asking of each number in it: *if you were a little larger, would the answer be better?* The question travels through the activations, and each passes on as much of it as its **slope** there. Where the slope is zero, nothing gets through. So look at every activation twice: at the curve and at its slope.

You can measure a slope without any calculus: step a little to both sides.

$$f'(x) \approx \frac{f(x + h) - f(x - h)}{2h}$$

**Exercise 2 (6 points).** Write `slope(f, x, h)`. `x` is a Tensor of any shape, `f` works element by element. Worked number: for $f(x) = x^2$ at $x = 3$ it gives 6. It is a tool of this notebook, so it isn't exported.
"""


# %% nbgrader={"grade": false, "grade_id": "slope", "locked": false, "schema_version": 3, "solution": true, "task": false}
def slope(f: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-6) -> Tensor:
    """The slope of f at every element of x, measured between x - h and x + h."""
    ### BEGIN SOLUTION
    return (f(x + h) - f(x - h)) / (2 * h)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-slope", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_slope():
    x = Tensor([3.0, -1.0], dtype=np.float64)
    check(slope(lambda x: x * x, x), [6.0, -2.0], "the slope of x^2 is 2x", tolerance=1e-4)
    check(
        slope(lambda x: x * x * x, x, h=0.1),
        [27.01, 3.01],
        "step to both sides, and divide by the distance between the two points, 2h",
    )


test_slope()

# %% [markdown]
r"""
The step is tiny, and float32 has about seven digits: measure slopes in float64. **Predict** relu's slope at -2, 0 and 2. The middle one is the interesting one.
"""

# %%
for point in (-2.0, 0.0, 2.0):
    print(f"slope of relu at {point:4}: {slope(relu, Tensor(point, dtype=np.float64)).item():.3f}")

# %% [markdown]
r"""
At the kink the measurement gives the average of both sides; frameworks agree to use 0 there, as PyTorch does. The more serious news is the 0 on the left: a unit whose input is negative for *every* image passes nothing on and never changes again. It is called a dead unit. How many are there if the shift is unlucky?
"""

# %%
manual_seed(1)
for shift in (0.0, -1.0, -3.0):
    before = randn(1000, 16) @ (randn(16, 200) * 0.25) + shift
    dead = (relu(before) == 0).all(axis=0).astype(float).mean().item()
    print(f"shift {shift:4}: {100 * dead:5.1f} % of 200 units are silent for all 1000 inputs")

# %% [markdown]
r"""
## Leaky ReLU: a slope for the left side

$$\mathrm{leaky\_relu}(x) = \max(x, 0) + s \min(x, 0), \qquad s = 0.01$$

**Exercise 3 (6 points).** Write `leaky_relu`. `negative_slope` may be any number, also above 1 or below 0. Worked numbers: with $s = 0.1$, `[-2, 3]` gives `[-0.2, 3]`.

<details><summary>Hint</summary>The formula above is one line of NumPy. `max(x, s x)` is shorter, but is it right for s = 2?</details>
"""


# %% nbgrader={"grade": false, "grade_id": "leaky-relu", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def leaky_relu(x, negative_slope=0.01):
    """x where it is positive, negative_slope x elsewhere.

    >>> leaky_relu(Tensor([-2.0, 3.0]), negative_slope=0.1)
    Tensor([-0.2,  3. ])
    """
    ### BEGIN SOLUTION
    return np.maximum(x, 0) + negative_slope * np.minimum(x, 0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-leaky-relu", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_leaky_relu():
    x = Tensor([-2.0, 0.0, 3.0])
    check(leaky_relu(x), [-0.02, 0.0, 3.0], "the slope is 0.01 unless something else is asked")
    check(leaky_relu(x, negative_slope=0.1), [-0.2, 0.0, 3.0], "negative inputs times the slope")
    ### BEGIN HIDDEN TESTS
    check(leaky_relu(x, negative_slope=2.0), [-4.0, 0.0, 3.0], "max(x, s x) is wrong for s > 1")
    check(leaky_relu(x, negative_slope=-1.0), [2.0, 0.0, 3.0], "a slope of -1 gives |x|")
    check(leaky_relu(x).dtype, np.float32, "float32 in, float32 out")
    ### END HIDDEN TESTS


test_leaky_relu()

# %% [markdown]
r"""
## Sigmoid: any number into a probability

$$\sigma(x) = \frac{1}{1 + e^{-x}}$$

```
 1   |            ________
     |         /
 1/2 |       /
     |  ___/
 0   |_________|__________ x
               0
```

Written like this it is one line of code. The same function can be written in two other ways, which are equal on paper:

$$\sigma(x) = \frac{e^x}{1 + e^x} \qquad\qquad \sigma(x) = \frac{1 + \tanh(x/2)}{2}$$

A float32 ends at about $3.4 \cdot 10^{38}$; beyond it lies `inf`. **Predict** which of the three survive $x = 1000$, which $x = -1000$, and which still know that $\sigma(-20)$ is $2 \cdot 10^{-9}$ and not 0.
"""

# %%
points = np.array([-1000, -20, 1000], np.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print("1 / (1 + e^-x)      ", 1 / (1 + np.exp(-points)))
    print("e^x / (1 + e^x)     ", np.exp(points) / (1 + np.exp(points)))
    print("(1 + tanh(x/2)) / 2 ", (1 + np.tanh(points / 2)) / 2)
print("warnings:", sorted({str(warning.message) for warning in caught}))

# %% [markdown]
r"""
Equal on paper, three different functions in a computer. The second one says `nan` at 1000, because $\infty / \infty$ is not a number. The third never overflows, but at -20 it computes $1 - 1$ and loses everything. The first is right everywhere: at -1000 it divides 1 by `inf`, and that *is* 0. It only complains on the way.

**Exercise 4 (12 points).** Write `sigmoid`: right everywhere, without a warning, float64 kept. The given first line turns integers into floats. Worked number: $\sigma(\ln 3) = 3/4$.

<details><summary>Hint</summary>`with np.errstate(over="ignore"):` tells NumPy that an overflow inside is expected.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "floats", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _floats(x):
    """x as an array of floats: what is meant for e^x must not wrap around as an int8 does."""
    x = np.asarray(x)
    return x if x.dtype.kind == "f" else x.astype(np.float32)


# %% nbgrader={"grade": false, "grade_id": "sigmoid", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def sigmoid(x):
    """1 / (1 + e^-x), element by element: any number into (0, 1).

    >>> sigmoid(Tensor([-1000.0, 0.0, 1000.0]))
    Tensor([0. , 0.5, 1. ])
    """
    x = _floats(x)
    ### BEGIN SOLUTION
    with np.errstate(over="ignore"):  # e^1000 is inf, and 1 / inf the right 0
        return 1 / (1 + np.exp(-x))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-sigmoid", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
def test_sigmoid():
    check(sigmoid(Tensor([0.0, math.log(3)])), [0.5, 0.75], "1 / (1 + e^-x)")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        extremes = sigmoid(Tensor([-1000.0, 1000.0]))
    check(extremes, [0.0, 1.0], "e^x / (1 + e^x) is inf / inf for a large x")
    check(len(caught), 0, "sigmoid must be silent: use np.errstate(over='ignore')")
    ### BEGIN HIDDEN TESTS
    tail = sigmoid(Tensor([-20.0])).item() * 1e9
    check(tail, 2.0611536, "the far left must not be rounded to 0: don't subtract from 1")
    check(sigmoid(Tensor([0.0], dtype=np.float64)).dtype, np.float64, "float64 must be kept")
    check(sigmoid(Tensor([2], dtype=np.uint8)), [0.8807971], "use the floats of the given line")
    ### END HIDDEN TESTS


test_sigmoid()

# %% [markdown]
r"""
Its slope is $\sigma(x)(1 - \sigma(x))$. **Predict** the largest slope that a sigmoid has anywhere, and what is left of a question that goes through ten of them, at their best.
"""

# %%
grid = Tensor(np.linspace(-6, 6, 13), dtype=np.float64)
steepest = slope(sigmoid, grid).max().item()
print(f"steepest slope of sigmoid: {steepest:.4f}, through ten of them: {steepest**10:.1e}")
print(f"steepest slope of tanh:    {slope(tanh, grid).max().item():.4f}")

# %% [markdown]
r"""
This is why sigmoid has left the inside of networks and stays at the end, where a probability is wanted. `tanh`, which came with the tensor, has the same shape between -1 and 1, and four times the slope.

## SiLU and GELU: smooth bends

Instead of switching $x$ on or off, as relu does, *weigh* it by something between 0 and 1.

$$\mathrm{silu}(x) = x\,\sigma(x) \qquad\qquad \mathrm{gelu}(x) = x\,\Phi(x)$$

$\Phi(x)$ is the share of a normal distribution that lies left of $x$. NumPy has no $\Phi$ (that takes the error function, erf), so this framework, like GPT-2, uses the well-known close form

$$\mathrm{gelu}(x) = \frac{x}{2} \left(1 + \tanh\!\left(\sqrt{2/\pi}\,(x + 0.044715\,x^3)\right)\right)$$

which is PyTorch's `gelu(x, approximate="tanh")`. How close? Python's `math.erf` knows the exact value, slowly:
"""

# %%
grid = np.linspace(-5, 5, 2001)
exact = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in grid])
inner = math.sqrt(2 / math.pi) * (grid + 0.044715 * grid**3)
print(f"largest error of the tanh form: {abs(exact - grid / 2 * (1 + np.tanh(inner))).max():.1e}")

# %% [markdown]
r"""
**Exercise 5 (4 points).** Write `silu`. Worked number: $\mathrm{silu}(\ln 3) = 0.75 \ln 3 = 0.824$.
"""


# %% nbgrader={"grade": false, "grade_id": "silu", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def silu(x):
    """x sigmoid(x), element by element; also called swish.

    >>> silu(Tensor([-1.0, 0.0, 1.0]))
    Tensor([-0.2689,  0.    ,  0.7311])
    """
    ### BEGIN SOLUTION
    return x * sigmoid(x)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-silu", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
def test_silu():
    check(silu(Tensor([0.0, math.log(3)])), [0.0, 0.823959], "x times sigmoid(x)")
    check(silu(Tensor([-1000.0, 1000.0])), [0.0, 1000.0], "use your sigmoid, it is safe")


test_silu()

# %% [markdown]
r"""
**Exercise 6 (10 points).** Write `gelu` by the tanh form. Worked numbers: `gelu(1)` is 0.8412, `gelu(-1)` is -0.1588.

The formula has eight operations, and each one makes a new array. Every new array of a million numbers is 4 MB that the system has to hand out. Get it right first, in one line if you like. Then write it once more so that it computes in place (`u *= x`, `np.tanh(u, out=u)`) in one array of its own; the section on systems measures what that is worth. Never write into `x`: it isn't yours.

One thing is given: `in_pieces` hands your function a large `x` a few thousand rows at a time. A piece of 128 kB stays in the processor's own cache for all eight operations; 4 MB would travel to memory and back eight times.

<details><summary>Hint</summary>x + 0.044715 x³ = x (1 + 0.044715 x²): start from u = x * x.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "in-pieces", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
PIECE = 1 << 15  # numbers: 128 kB of float32, of which a core's own cache holds several


def in_pieces(function: Callable) -> Callable:
    """A function of arrays that treats rows (..., D) one by one, run on some rows at a time.

    It is the same function; on large arrays it is faster, for each piece stays in the cache. What
    has another shape than the first array is passed whole, and tensors are not cut at all.

    >>> @in_pieces
    ... def double(x):
    ...     return 2 * x
    >>> double(np.ones((1000, 1000))).shape
    (1000, 1000)
    """

    @functools.wraps(function)
    def by_pieces(x, *others, **params):
        if not isinstance(x, np.ndarray) or x.size <= PIECE:
            return function(x, *others, **params)
        size = x.shape[-1]
        step = max(1, PIECE // size)
        cut = [getattr(y, "shape", None) == x.shape for y in (x, *others)]
        given = [y.reshape(-1, size) if c else y for y, c in zip((x, *others), cut, strict=True)]
        out = None
        for start in range(0, len(given[0]), step):
            rows = slice(start, start + step)
            parts = [y[rows] if c else y for y, c in zip(given, cut, strict=True)]
            piece = function(*parts, **params)
            if out is None:
                out = np.empty(given[0].shape, piece.dtype)
            out[rows] = piece
        return out.reshape(x.shape)  # type: ignore[union-attr]

    return by_pieces


# %% nbgrader={"grade": false, "grade_id": "gelu", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
@in_pieces
def gelu(x):
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, element by element.

    Hendrycks and Gimpel's close form of x times the normal distribution up to x, off by less than
    0.001: PyTorch's `approximate="tanh"`.

    >>> gelu(Tensor([-1.0, 0.0, 1.0]))
    Tensor([-0.1588,  0.    ,  0.8412])
    """
    x = _floats(x)
    ### BEGIN SOLUTION
    with np.errstate(over="ignore"):  # x^3 may reach inf: tanh makes it 1
        u = x * x
        u *= 0.044715
        u += 1
        u *= x
        u *= math.sqrt(2 / math.pi)
    u = np.tanh(u)
    u += 1
    u *= x
    u *= 0.5
    return u
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-gelu", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
def test_gelu():
    x = Tensor([-1.0, 0.0, 1.0])
    check(gelu(x), [-0.158808, 0.0, 0.841192], "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))")
    check(x, [-1.0, 0.0, 1.0], "the input must not change: work in an array of your own")
    check(gelu(Tensor([-50.0, 50.0])), [0.0, 50.0], "far left 0, far right x")
    ### BEGIN HIDDEN TESTS
    check(gelu(Tensor([2.5])), [2.484916], "this is the tanh form, not x sigmoid(1.702 x)")
    check(gelu(Tensor([1.0])).dtype, np.float32, "float32 in, float32 out")
    check(gelu(Tensor([1.0], dtype=np.float64)).dtype, np.float64, "float64 must be kept")
    check(gelu(Tensor([100], dtype=np.int8)), [100.0], "100 * 100 doesn't fit into an int8")
    ### END HIDDEN TESTS


test_gelu()

# %% [markdown]
r"""
All of them, and their slopes. **Before you run it:** which of these curves go below zero, and which have a slope above 1 somewhere?
"""

# %%
curves = {"relu": relu, "leaky_relu": leaky_relu, "sigmoid": sigmoid, "tanh": tanh}
curves |= {"silu": silu, "gelu": gelu}
grid = Tensor(np.linspace(-4, 4, 401), dtype=np.float64)
print(f"{'':12}{'lowest':>8}{'steepest':>10}")
for name, curve in curves.items():
    lowest, steepest = curve(grid).min().item(), slope(curve, grid).max().item()
    print(f"{name:12}{lowest:8.3f}{steepest:10.3f}")

# %%
if plt:
    figure, both = plt.subplots(1, 2, figsize=(11, 4))
    styles = ["-", ":", "--", "-.", (0, (5, 1)), (0, (1, 1))]
    for (name, curve), style in zip(curves.items(), styles, strict=True):
        both[0].plot(grid, curve(grid), linestyle=style, label=name)
        both[1].plot(grid, slope(curve, grid), linestyle=style, label=name)
    for axes, title in zip(both, ("activation", "its slope"), strict=True):
        axes.set(title=title, xlabel="x (no unit)", ylabel="value", ylim=(-1.1, 2.5))
        axes.legend()
    plt.show()

# %% [markdown]
r"""
## Softmax: many numbers into probabilities

A classifier of digits gives ten scores for an image, any numbers. You want ten probabilities: positive, adding up to 1, in the same order of size.

$$p_i = \frac{e^{x_i}}{\sum_j e^{x_j}}$$

Unlike the bends above, it ties elements together: if one rises, the others fall. Here is the formula as it stands, on scores that grow. **Predict** the last line.
"""

# %%
with np.errstate(over="ignore", invalid="ignore"):
    for scale in (1, 10, 100, 1000):
        scores = np.array([1.0, 2.0, 3.0], np.float32) * scale
        print(scores, "->", np.exp(scores) / np.exp(scores).sum())

# %% [markdown]
r"""
`nan`, and from a network that was only a little too sure of itself. One `nan` in a batch, and after the next step every weight of the network is `nan`.

The cure costs one subtraction. Multiply top and bottom by $e^{-m}$:

$$\frac{e^{x_i}}{\sum_j e^{x_j}} = \frac{e^{x_i - m}}{\sum_j e^{x_j - m}} \qquad \text{for any } m$$

With $m = \max_j x_j$ no exponent is above 0, no power above 1, and the sum at least 1. The maximum along an axis is `x.max(axis=axis, keepdims=True)`; `_largest(x, axis)`, given below, is the same number found faster where rows are many and short, as the scores of ten digits are.

"""


# %% nbgrader={"grade": false, "grade_id": "largest", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _largest(x, axis):
    """The maximum along `axis`, which stays as an axis of size 1.

    NumPy takes the maximum of many short rows row by row, and that of columns all at once.
    """
    if x.ndim == 2 and axis in (1, -1) and x.shape[1] < 64 <= len(x):
        return x.T.copy().max(axis=0)[:, None]
    return x.max(axis=axis, keepdims=True)


# %%
for rows, columns in ((8, 10), (64, 10), (4096, 10), (64, 1000)):
    x = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    times = []
    for largest in (lambda x, axis: x.max(axis=axis, keepdims=True), _largest):
        start = time.perf_counter()
        for _ in range(100):
            largest(x, 1)
        times.append((time.perf_counter() - start) * 1e4)
    print(f"{x.shape!s:12} x.max: {times[0]:6.1f} us, _largest: {times[1]:6.1f} us")

# %% [markdown]
r"""
**Exercise 7 (12 points).** Write `softmax` along `axis`: every slice along that axis adds up to 1. For `(3, 4)` and `axis=0`, each of the 4 columns does; the maximum is the column's own. Worked number: scores $[0, \ln 3]$ give $[1/4, 3/4]$.

<details><summary>Hint</summary>The sum needs `keepdims=True`, too: shapes (3, 1) and (3, 4) broadcast, (3,) and (3, 4) don't.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "softmax", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def softmax(x, axis=-1):
    """e^x / sum(e^x) along `axis`: any numbers into probabilities that add up to 1.

    >>> softmax(Tensor([[0.0, 0.0], [1000.0, 0.0]]))
    Tensor([[0.5, 0.5],
            [1. , 0. ]])
    """
    x = _floats(x)
    ### BEGIN SOLUTION
    powers = x - _largest(x, axis)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=axis, keepdims=True)
    return powers
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-softmax", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
def test_softmax():
    check(softmax(Tensor([0.0, math.log(3)])), [0.25, 0.75], "e^x over the sum of the e^x")
    check(softmax(Tensor([1000.0, 0.0])), [1.0, 0.0], "subtract the maximum before np.exp")
    table = Tensor([[1.0, 2.0, 3.0], [1.0, 5.0, 3.0]])
    check(softmax(table).sum(axis=1), [1.0, 1.0], "each row of the last axis adds up to 1")
    check(softmax(table, axis=0).sum(axis=0), [1.0, 1.0, 1.0], "axis=0: each column adds up to 1")
    ### BEGIN HIDDEN TESTS
    far = softmax(Tensor([[0.0, 0.0], [1000.0, 1000.0]]))
    check(far, [[0.5, 0.5], [0.5, 0.5]], "each row needs its own maximum, not the whole tensor's")
    check(softmax(Tensor([-1000.0, -1000.0])), [0.5, 0.5], "the sum must be at least e^0")
    x = Tensor([1.0, 2.0])
    check((softmax(x), x)[1], [1.0, 2.0], "the input must not change")
    check(softmax(Tensor([200, 0], dtype=np.uint8)), [1.0, 0.0], "use the floats of the given line")
    ### END HIDDEN TESTS


test_softmax()

# %% [markdown]
r"""
Dividing all scores by a number first, the *temperature*, decides how bold the answer is. **Predict** what happens to the three probabilities at temperature 0.1 and at 10, and what would happen if you *added* 5 to every score instead.
"""

# %%
scores = Tensor([1.0, 2.0, 3.0])
for temperature in (0.1, 1.0, 10.0):
    print(f"temperature {temperature:4}:", softmax(scores / temperature).numpy().round(3))
print("scores + 5:      ", softmax(scores + 5).numpy().round(3))

# %% [markdown]
r"""
## Log-softmax: what a rounded zero can't tell

You will soon ask for the *logarithm* of a probability: how surprised was the network by the right answer? Softmax is safe now. Is its logarithm? **Predict** the two lines for scores 0, 50 and 200.
"""

# %%
scores = Tensor([0.0, 50.0, 200.0])
with np.errstate(divide="ignore"):
    print("softmax:        ", softmax(scores).tolist())
    print("log of softmax: ", softmax(scores).log().tolist())

# %% [markdown]
r"""
The first probability is $e^{-200}$, about $10^{-87}$. A float32 has no such number, so it became 0, and its logarithm $-\infty$. But the logarithm itself is a harmless -200. Never make the probability:

$$\log p_i = (x_i - m) - \log \sum_j e^{x_j - m}$$

**Exercise 8 (10 points).** Write `log_softmax`. Worked number: scores $[0, \ln 3]$ give $[\ln 1/4, \ln 3/4] = [-1.386, -0.288]$.
"""


# %% nbgrader={"grade": false, "grade_id": "log-softmax", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def log_softmax(x, axis=-1):
    """The logarithm of softmax, without the logarithm of a probability that was rounded to 0.

    >>> log_softmax(Tensor([0.0, 200.0]))
    Tensor([-200.,    0.])
    """
    x = _floats(x)
    ### BEGIN SOLUTION
    result = x - _largest(x, axis)
    result -= np.log(np.exp(result).sum(axis=axis, keepdims=True))
    return result
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-log-softmax", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
def test_log_softmax():
    quarter = log_softmax(Tensor([0.0, math.log(3)]))
    check(quarter, [math.log(0.25), math.log(0.75)], "x - m - log(sum(e^(x - m)))")
    check(log_softmax(Tensor([0.0, 200.0])), [-200.0, 0.0], "don't take the log of softmax")
    ### BEGIN HIDDEN TESTS
    check(log_softmax(Tensor([0.0, 1000.0])), [-1000.0, 0.0], "subtract the maximum before np.exp")
    columns = log_softmax(Tensor([[0.0, 9.0], [0.0, 9.0]]), axis=0)
    check(columns, np.full((2, 2), math.log(0.5)), "sum along the axis that was asked for")
    ### END HIDDEN TESTS


test_log_softmax()

# %% [markdown]
r"""
## Layers: an activation as an object

A network is a list of layers, and each layer is called: `for layer in layers: x = layer(x)`. Matrices with their parameters will be such objects, so activations become objects too. They hold no numbers that change, only options, and every one of them does three things:

- `layer(x)` gives `layer.forward(x)`;
- `repr(layer)` says what it is: `ReLU()`, `LeakyReLU(negative_slope=0.2)`;
- `forward` does the work.

Writing the first two in every class would be eight times the same. Write them once.

**Exercise 9 (6 points).** Write `__call__` and `__repr__` of `Stateless`. The options of a layer are its attributes, in the order in which they were set.

<details><summary>Hint</summary>`vars(layer)` is the dictionary of its attributes; `type(self).__name__` the name of its class; `{value!r}` in an f-string writes a value as Python would.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "stateless", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class Stateless:
    """A layer without parameters: an object that is called, with its options as attributes.

    >>> class Double(Stateless):
    ...     def forward(self, x):
    ...         return 2 * x
    >>> Double(), Double()(21)
    (Double(), 42)
    """

    forward: Callable[..., Tensor]

    def __call__(self, *inputs):
        ### BEGIN SOLUTION
        return self.forward(*inputs)
        ### END SOLUTION

    def __repr__(self) -> str:
        ### BEGIN SOLUTION
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-stateless", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_stateless():
    class Between(Stateless):
        def __init__(self, low, high="top"):
            self.low, self.high = low, high

        def forward(self, x, y):
            return x + 10 * y

    check(repr(Between(0.5)), "Between(low=0.5, high='top')", "the class's name and its attributes")
    check(Between(0.5)(1, 2), 21, "calling the layer hands every input to forward")
    ### BEGIN HIDDEN TESTS
    check(repr(type("Nothing", (Stateless,), {})()), "Nothing()", "no attributes: empty brackets")
    ### END HIDDEN TESTS


test_stateless()

# %% [markdown]
r"""
Now each layer is two lines. Six of them are given.
"""


# %% nbgrader={"grade": false, "grade_id": "layers", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class ReLU(Stateless):
    """max(x, 0) as a layer.

    >>> ReLU()(Tensor([-1.0, 2.0]))
    Tensor([0., 2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return relu(x)


class Sigmoid(Stateless):
    """1 / (1 + e^-x) as a layer.

    >>> Sigmoid()(Tensor([0.0]))
    Tensor([0.5])
    """

    def forward(self, x: Tensor) -> Tensor:
        return sigmoid(x)


class Tanh(Stateless):
    """The hyperbolic tangent as a layer.

    >>> Tanh()(Tensor([0.0, 100.0]))
    Tensor([0., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return tanh(x)


class GELU(Stateless):
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2 as a layer.

    >>> GELU()(Tensor([1.0]))
    Tensor([0.8412])
    """

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)


class SiLU(Stateless):
    """x sigmoid(x) as a layer.

    >>> SiLU()(Tensor([1.0]))
    Tensor([0.7311])
    """

    def forward(self, x: Tensor) -> Tensor:
        return silu(x)


class LogSoftmax(Stateless):
    """The logarithm of softmax along `axis` (or `dim`), the last one by default, as a layer.

    >>> LogSoftmax()(Tensor([0.0, 200.0]))
    Tensor([-200.,    0.])
    """

    def __init__(self, axis: int | None = None, dim: int | None = None):
        self.axis = pick(axis, dim, default=-1)

    def forward(self, x: Tensor) -> Tensor:
        return log_softmax(x, axis=self.axis)


# %% [markdown]
r"""
**Exercise 10 (8 points).** Write the two that have options: `LeakyReLU(negative_slope=0.01)` and `Softmax(axis=None, dim=None)`. As in `LogSoftmax` above, `dim` is PyTorch's word for `axis`, and `pick` chooses between them. Options are parameters of the operation, so pass them by name.
"""


# %% nbgrader={"grade": false, "grade_id": "layers-with-options", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class LeakyReLU(Stateless):
    """x where it is positive, negative_slope x elsewhere, as a layer.

    >>> LeakyReLU(0.5)(Tensor([-4.0, 2.0]))
    Tensor([-2.,  2.])
    """

    def __init__(self, negative_slope: float = 0.01):
        ### BEGIN SOLUTION
        self.negative_slope = negative_slope
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        return leaky_relu(x, negative_slope=self.negative_slope)
        ### END SOLUTION


class Softmax(Stateless):
    """Probabilities along `axis` (or `dim`), the last one by default, as a layer.

    >>> Softmax()(Tensor([[0.0, 0.0], [1000.0, 0.0]]))
    Tensor([[0.5, 0.5],
            [1. , 0. ]])
    """

    def __init__(self, axis: int | None = None, dim: int | None = None):
        ### BEGIN SOLUTION
        self.axis = pick(axis, dim, default=-1)
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        return softmax(x, axis=self.axis)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-layers-with-options", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def test_layers_with_options():
    check(LeakyReLU(0.2)(Tensor([-1.0, 1.0])), [-0.2, 1.0], "forward uses the layer's own slope")
    check(repr(LeakyReLU(0.2)), "LeakyReLU(negative_slope=0.2)", "keep the option by its own name")
    table = Tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    check(Softmax(dim=0)(table), np.full((2, 3), 0.5), "dim is another word for axis")
    check(Softmax()(table), np.full((2, 3), 1 / 3), "the last axis is the default")
    ### BEGIN HIDDEN TESTS
    check(LeakyReLU()(Tensor([-1.0])), [-0.01], "the slope is 0.01 by default")
    check(Softmax(0)(table), np.full((2, 3), 0.5), "axis=0 must not be taken for none")
    with check_raises(TypeError, "axis", "both words at once: pick refuses them"):
        Softmax(axis=0, dim=1)
    ### END HIDDEN TESTS


test_layers_with_options()

# %% [markdown]
r"""
## Put together: what a bend buys on real digits

The 1,797 digits below were written by people, 8 by 8 pixels each. The network has two matrices, 64 -> width -> 10, with an activation between them. The first matrix is random and stays so. The second is found by a solver (`np.linalg.lstsq`), as the best straight answer was at the beginning. 1,400 images are for the solver, the others are asked about.

**Predict** before you run: accuracy without a bend at width 512? With relu? Does the *kind* of bend matter?
"""

# %%
digits = np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz")
pixels = Tensor(digits["images"].reshape(-1, 64) / 16)
labels = digits["labels"]
known, asked = slice(0, 1400), slice(1400, None)
print(pixels.shape, "pixels from", pixels.min().item(), "to", pixels.max().item())


# %%
def scores_of(bend, width: int) -> Tensor:
    """The ten scores of every image, from a random first layer and a solved second one."""
    manual_seed(2)
    hidden = bend(pixels @ (randn(64, width) * 0.25) + randn(width) * 0.25)
    targets = np.eye(10, dtype=np.float32)[labels[known]]
    second = np.linalg.lstsq(hidden.numpy()[known], targets, rcond=1e-4)[0]
    return hidden @ Tensor(second)


def accuracy(scores: Tensor) -> float:
    right = scores.numpy()[asked].argmax(axis=1) == labels[asked]
    return float(right.mean())


# %%
from tqdm.auto import tqdm

bends = {"no bend": lambda x: x, "relu": ReLU(), "gelu": GELU(), "tanh": Tanh()}
widths = [16, 64, 256, 512]
runs = [(name, width) for name in bends for width in widths]
found = {run: accuracy(scores_of(bends[run[0]], run[1])) for run in tqdm(runs, disable=None)}
print("width    ", *(f"{width:>7}" for width in widths))
for name in bends:
    print(f"{name:9}", *(f"{100 * found[name, width]:6.1f}%" for width in widths))

# %%
if plt:
    for (name, _), style in zip(bends.items(), ("k:", "k-", "k--", "k-."), strict=True):
        plt.plot(widths, [100 * found[name, width] for width in widths], style, label=name)
    plt.xscale("log", base=2)
    plt.title("Digits: what a bend between two matrices buys")
    plt.xlabel("width of the hidden layer (units)")
    plt.ylabel("accuracy on 397 other images (%)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
Without a bend, width buys nothing once it reaches the 64 pixels: it is still one matrix. With a bend, each unit is a new question about the image. (At width 16 the bends lose. What does relu do to half of what the first matrix found out?)

The scores become probabilities by softmax. Here is the image that the relu network is least sure of. Would you have been?
"""

# %%
probabilities = softmax(scores_of(relu, 512) * 8)
sure = probabilities.numpy()[asked].max(axis=1)
doubtful = 1400 + int(sure.argmin())
print("label:", labels[doubtful], " probabilities:", probabilities.numpy()[doubtful].round(2))
for row in digits["images"][doubtful]:
    print("".join(" .:oO@"[int(value) * 5 // 16] * 2 for value in row))

# %% [markdown]
r"""
## Systems: an activation is traffic

An activation does a handful of operations with each number and touches every number of the layer. So ask what dominates: arithmetic, or moving numbers between memory and processor? A plain copy is the limit, since it does nothing else. **Predict** how many copies' time relu takes, and gelu.
"""


# %%
def seconds(run: Callable[[], object], rounds: int = 7) -> float:
    """The shortest of several runs: what else the machine does only ever adds time."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


million = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
copy_time = seconds(million.copy)
print(f"{'':12}{'ms':>8}{'copies':>8}   for {million.nbytes:,} bytes")
for name, curve in {"copy": np.copy, **curves, "softmax": softmax}.items():
    measured = seconds(lambda curve=curve: curve(million))
    print(f"{name:12}{1000 * measured:8.2f}{measured / copy_time:8.1f}")


# %% [markdown]
r"""
relu is one operation, gelu a chain of them, and NumPy walks over the whole array once for every operation. The next cell compares your `gelu` with the formula as it is written on paper, at several sizes.
"""


# %%
def gelu_on_paper(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


print(f"{'elements':>10}{'bytes':>12}{'paper, ns each':>16}{'yours, ns each':>16}")
for size in (1_000, 10_000, 100_000, 1_000_000):
    part = million[:size].copy()
    paper = 1e9 / size * seconds(lambda part=part: gelu_on_paper(part))
    yours = 1e9 / size * seconds(lambda part=part: gelu(part))
    print(f"{size:10,}{part.nbytes:12,}{paper:16.2f}{yours:16.2f}")

# %% [markdown]
r"""
For small arrays what counts is the number of calls: each NumPy operation costs a microsecond or so, whatever the size. In the middle everything fits into the processor's cache. In the last line each intermediate result travels to memory and back, and every new array is work for the system that hands out the memory; how much working in place spares depends on that system, so compare the two columns. PyTorch's `torch.nn.functional.gelu` goes further: it is one compiled loop that reads each number once, does all eight operations in registers and writes once. `torch.compile` makes such loops out of whole chains of operations.

## Questions

**1 (5 points).** A network 64 -> 256 -> 10 has no activation between its two matrices. How many multiplications does it do for an image, and how many does the single matrix do that gives the same answers? What is the ratio?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-collapse", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
64 · 256 + 256 · 10 = 16,384 + 2,560 = 18,944 multiplications for an image. The product of the two matrices is one 64 x 10 matrix: 640 multiplications, 29.6 times fewer, and the same answers up to rounding.
"""

# %% [markdown]
r"""
**2 (5 points).** The steepest slope of sigmoid is 1/4, that of tanh 1. What is left, at best, of a question that passes 20 sigmoids? A float32 carries about 7 digits: through how many sigmoids can it pass until less than $10^{-7}$ of it is left? Why does a relu not have this trouble, and which does it have instead?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-slopes", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
$0.25^{20} \approx 9 \cdot 10^{-13}$. $0.25^n < 10^{-7}$ from $n = 7 / \log_{10} 4 = 11.6$ on: twelve sigmoids. An active relu has the slope 1, and $1^n = 1$. An inactive one has the slope 0: a unit that is inactive for all inputs is dead and stays so.
"""

# %% [markdown]
r"""
**3 (5 points).** A block of a language model applies gelu to 8 texts of 1,024 tokens with 3,072 numbers each, float32. How many bytes is that? Count gelu as 9 passes over the array, each reading and writing it once. How long does the traffic take at 20 GB/s? How long for a fused loop that reads and writes once?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-traffic", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
8 · 1,024 · 3,072 · 4 = 100,663,296 bytes (96 MiB). Nine passes move 9 · 2 · 100.7 MB = 1.81 GB: 91 ms at 20 GB/s. The fused loop moves 0.2 GB: 10 ms, a ninth. The arithmetic is the same; the traffic is what differs.
"""

# %% [markdown]
r"""
**4 (5 points).** In float32, $e^x$ overflows above $x = 88.7$ and becomes 0 below about $-104$. For which differences between two scores does plain softmax give `nan`, and for which does `log(softmax(x))` give $-\infty$ after the maximum was subtracted? What does `log_softmax` give there?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-range", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
Plain softmax fails by the size of a score, not by a difference: any score above 88.7 gives inf / inf = nan, and so do scores that are all below -104 (0 / 0). With the maximum subtracted only differences count: a score that lies more than about 104 below the largest has probability 0 and the logarithm $-\infty$. `log_softmax` gives minus the difference there, -104, -200 or -1000, which is right to the last digit.
"""

# %% [markdown]
r"""
## All tests once more
"""


# %%
def test_module():
    for test in (test_relu, test_slope, test_leaky_relu, test_sigmoid, test_silu, test_gelu):
        test()
    for test in (test_softmax, test_log_softmax, test_stateless, test_layers_with_options):
        test()
    print("All tests of module 02 pass.")


test_module()

# %% [markdown]
r"""
**What works now:** eight activations as operations and as layers, safe at any input.
You saw that layers without a bend collapse into one, and measured what a bend buys on digits.
You met `inf` and `nan`, and two cures: choose the form that can't overflow, and don't round what you take the logarithm of.
You know that an activation costs traffic, not arithmetic.
**Next:** layers with parameters, `tito module start 03`.
"""

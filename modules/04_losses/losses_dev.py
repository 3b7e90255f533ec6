# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.losses

# %% [markdown]
r"""
# Losses

> One number that says how wrong a network is, smooth enough to learn from.

**Built before:** `Tensor`, activations (`log_softmax` above all), layers.
**Built here:** the losses for numbers, for classes, for yes-or-no and for whole distributions, each as a function and as a layer.
**Time:** 3 to 4 hours. **Points:** 80 for code, 20 for the questions at the end.
"""

# %%
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinytorch.core.activations import Stateless, log_softmax
from tinytorch.core.tensor import Tensor, abs_, exp, log, maximum, minimum, op, where

# %%
import time
from collections.abc import Callable
from pathlib import Path

import tinytorch
from tinytorch.core.activations import sigmoid, softmax
from tinytorch.core.tensor import manual_seed, randn, zeros

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the lesson works without pictures

# %% [markdown]
r"""
## A number that doesn't help

Here is a classifier of real digits, made without any learning: for each of the ten digits, the average image of its 1,400 examples. An image's score for a digit is its product with that average. Accuracy, the share of right answers, is the number everybody asks for.

**Exercise 1 (4 points).** Write `accuracy(scores, labels)` for scores (N, C) and an array of N labels: the share of rows whose largest score stands at the label. A Python float; worked number: two of three right give 0.667. It is a tool of this notebook, so it isn't exported.
"""


# %% nbgrader={"grade": false, "grade_id": "accuracy", "locked": false, "schema_version": 3, "solution": true, "task": false}
def accuracy(scores: Tensor, labels: np.ndarray) -> float:
    """The share of rows whose largest score stands at the label."""
    ### BEGIN SOLUTION
    return float((scores.numpy().argmax(axis=1) == labels).mean())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-accuracy", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
def test_accuracy():
    scores = Tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    got = accuracy(scores, np.array([1, 0, 0]))
    check(got, 2 / 3, "the largest score of each row (axis=1) against the label")
    check(accuracy(scores, np.array([1, 0, 1])), 1.0, "all right: 1.0, a Python float")


test_accuracy()

# %%
digits = np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz")
images = Tensor(digits["images"].reshape(-1, 64) / 16)
labels = digits["labels"]
known, asked = slice(0, 1400), slice(1400, None)
averages = [images.numpy()[known][labels[known] == k].mean(axis=0) for k in range(10)]
weights = Tensor(np.stack(averages, axis=1))
print("weights", weights.shape, f" accuracy {accuracy(images[asked] @ weights, labels[asked]):.3f}")

# %% [markdown]
r"""
Now improve it. The obvious way: change one of the 640 weights a little, see whether accuracy rises, keep the change if it does. **Predict:** of 640 changes by 0.001, how many move the accuracy on the 1,400 images?
"""

# %%
before = accuracy(images[known] @ weights, labels[known])
moved = 0
for index in np.ndindex(weights.shape):
    nudged = Tensor(weights)
    nudged[index] += 0.001
    moved += accuracy(images[known] @ nudged, labels[known]) != before
print(f"{moved} of {weights.size} nudges change the accuracy of {before:.3f}")

# %% [markdown]
r"""
None, or hardly any. Accuracy is a staircase: flat almost everywhere, then a jump of one image. Standing on a flat step you can't tell which way is down.

A **loss** is built to be the opposite. It takes a prediction and the truth and gives one number: 0 (or small) when they agree, larger the worse they disagree, and it moves when *any* weight moves. Networks are trained on losses and judged by accuracy.

## Losses for numbers

Predict a temperature, a price, a pixel. The error is $e = p - t$, prediction minus target. Three ways to make it a loss:

```
 squared  e^2        absolute |e|       Huber
   \       /           \     /           \     /
    \     /             \   /             \   /
     \___/               \ /               \_/      round at the bottom, straight outside
```

First, many losses must become one number. All losses share three ways, under PyTorch's names: `"none"` leaves them as they are, `"sum"` adds them up, `"mean"` divides the sum by a count, which is their number unless somebody says otherwise.

**Exercise 2 (6 points).** Write `_reduced(losses, reduction, count)`. `losses` is a Tensor *or* an array: use only what both have, `.sum()` and `.shape`. The mean of nothing is `nan`, as in PyTorch. An unknown `reduction` raises ValueError and names it.

<details><summary>Hint</summary>Dividing 0 by 0 makes NumPy complain; dividing 0 by `math.nan` doesn't. `count or math.nan` is `count` unless that is 0.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "reduced", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def _reduced(losses: Any, reduction: str, count: float | None = None) -> Any:
    """The losses themselves, their sum, or their sum over `count` (by default their number)."""
    ### BEGIN SOLUTION
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        count = math.prod(losses.shape) if count is None else count
        return losses.sum() / (count or math.nan)  # the mean of nothing is NaN
    raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-reduced", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_reduced():
    losses = Tensor([[1.0, 2.0], [3.0, 6.0]])
    check(_reduced(losses, "none"), [[1.0, 2.0], [3.0, 6.0]], "'none' changes nothing")
    check(_reduced(losses, "sum"), 12.0, "'sum' adds all of them")
    check(_reduced(losses, "mean"), 3.0, "'mean' divides by how many there are: 4, not 2 rows")
    check(_reduced(losses, "mean", count=6.0), 2.0, "a given count is what the sum is divided by")
    with check_raises(ValueError, "'average'", "an unknown reduction must be named"):
        _reduced(losses, "average")
    ### BEGIN HIDDEN TESTS
    check(_reduced(zeros(0), "mean"), math.nan, "the mean of nothing is NaN")
    check(_reduced(losses, "mean", count=0), math.nan, "a count of 0 is a count, too: NaN")
    check(_reduced(losses.numpy(), "mean"), 3.0, "arrays are reduced just as tensors are")
    ### END HIDDEN TESTS


test_reduced()

# %% [markdown]
r"""
Second, a trap. Here are four predictions, as a layer with one output gives them, and four targets. The predictions are perfect. **Predict** the mean squared error that NumPy finds.
"""

# %%
perfect = np.array([[1.0], [2.0], [3.0], [4.0]])
truth = np.array([1.0, 2.0, 3.0, 4.0])
print("mean of the squares:", ((perfect - truth) ** 2).mean(), " shape:", (perfect - truth).shape)

# %% [markdown]
r"""
(4, 1) minus (4,) is (4, 4): every prediction was compared with every target. Nothing failed, and a network trained on this would learn to predict the average. So losses refuse shapes that differ. The given function below checks that; every loss for numbers starts with it.
"""


# %% nbgrader={"grade": false, "grade_id": "matched", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _matched(name: str, prediction: Any, target: Any) -> Any:
    """The target as floats; ValueError unless it has the prediction's shape.

    Broadcasting (N, 1) against (N,) would quietly compare every row with every other.
    """
    if prediction.dtype.kind != "f":
        raise TypeError(f"{name}: predictions must be floats, got {prediction.dtype}")
    if not isinstance(target, Tensor):
        target = np.asarray(target)
    if target.shape != prediction.shape:
        raise ValueError(
            f"{name}: prediction {prediction.shape} and target {target.shape} differ in shape: "
            "reshape one of them"
        )
    return target if target.dtype.kind == "f" else target.astype(prediction.dtype)


# %% [markdown]
r"""
**Exercise 3 (5 points).** Write `mse_loss`, the mean squared error: $e^2$ for each element, then reduced. Build it from operations on tensors (`-`, `*`). Worked number: predictions `[1, 4]` for targets `[1, 2]` give squares `[0, 4]`, mean 2.
"""


# %% nbgrader={"grade": false, "grade_id": "mse-loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def mse_loss(prediction: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """The squared error (prediction - target)^2, reduced by 'mean', 'sum' or 'none'.

    >>> mse_loss(Tensor([1.0, 4.0]), [1.0, 2.0])
    Tensor(2.)
    """
    target = _matched("mse_loss", prediction, target)
    ### BEGIN SOLUTION
    error = prediction - target
    return _reduced(error * error, reduction)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-mse-loss", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_mse_loss():
    prediction, target = Tensor([1.0, 4.0]), Tensor([1.0, 2.0])
    check(mse_loss(prediction, target), 2.0, "square each error, then take the mean")
    check(mse_loss(prediction, target, reduction="none"), [0.0, 4.0], "hand reduction on")
    with check_raises(ValueError, "differ in shape", "keep the given first line"):
        mse_loss(prediction.reshape(2, 1), target)


test_mse_loss()

# %% [markdown]
r"""
`l1_loss`, the absolute error $|e|$, differs in one word, so it is given.
"""


# %% nbgrader={"grade": false, "grade_id": "l1-loss", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def l1_loss(prediction: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """The absolute error |prediction - target|, reduced by 'mean', 'sum' or 'none'.

    >>> l1_loss(Tensor([1.0, 4.0]), [1.0, 2.0])
    Tensor(1.)
    """
    target = _matched("l1_loss", prediction, target)
    return _reduced(abs_(prediction - target), reduction)


# %% [markdown]
r"""
What does the choice of a loss do? Seven people measured the same table, and one forgot the comma: 1.50, 1.52, 1.49, 1.51, 1.50, 1.48 and 151 metres. Predict one number for all. **Write down** which one has the smallest squared error, and which the smallest absolute error; then the cell tries them all.
"""

# %%
measured = Tensor([1.50, 1.52, 1.49, 1.51, 1.50, 1.48, 151.0])
guesses = np.arange(0, 40, 0.02)
for loss in (mse_loss, l1_loss):
    found = [loss(Tensor(np.full(7, guess)), measured).item() for guess in guesses]
    print(f"{loss.__name__}: best guess {guesses[int(np.argmin(found))]:.2f} m")
print(f"mean {measured.mean().item():.2f} m, median {np.median(measured):.2f} m")

# %% [markdown]
r"""
Squares chase the mean, and one wild value drags it away; absolute errors settle on the median. But $|e|$ has a corner at 0: its slope is 1 however small the error, so learning never calms down. **Huber** takes the best of both, with a border $\delta$ between them:

$$\mathrm{huber}(e) = \begin{cases} \frac{1}{2} e^2 & |e| \le \delta \\ \delta\,(|e| - \frac{1}{2}\delta) & |e| > \delta \end{cases}$$

Both lines are one formula, if $q = \min(|e|, \delta)$: it is $q\,(|e| - \frac{1}{2} q)$. Check it for both cases on paper.

**Exercise 4 (6 points).** Write `huber_loss` with operations on tensors (`abs_` and `minimum` are imported). Worked numbers for $\delta = 1$: error 0.5 gives 0.125, error 3 gives 2.5.
"""


# %% nbgrader={"grade": false, "grade_id": "huber-loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def huber_loss(
    prediction: Tensor, target: Any, reduction: str = "mean", delta: float = 1.0
) -> Tensor:
    """Half the squared error up to `delta`, a straight line of slope `delta` beyond.

    >>> huber_loss(Tensor([0.5, 3.0]), [0.0, 0.0], reduction="none")
    Tensor([0.125, 2.5  ])
    """
    target = _matched("huber_loss", prediction, target)
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be positive, got {delta}")
    ### BEGIN SOLUTION
    distance = abs_(prediction - target)
    quadratic = minimum(distance, delta)
    return _reduced(quadratic * (distance - 0.5 * quadratic), reduction)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-huber-loss", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_huber_loss():
    prediction, target = Tensor([0.5, -3.0]), Tensor([0.0, 0.0])
    got = huber_loss(prediction, target, reduction="none")
    check(got, [0.125, 2.5], "half a square inside delta, a line outside")
    check(huber_loss(prediction, target), 1.3125, "the mean, unless something else is asked")
    ### BEGIN HIDDEN TESTS
    wide = huber_loss(prediction, target, reduction="none", delta=2.0)
    check(wide, [0.125, 4.0], "the line has the slope delta: delta (|e| - delta / 2)")
    ### END HIDDEN TESTS


test_huber_loss()

# %%
errors = Tensor(np.linspace(-3, 3, 121))
if plt:
    for loss, style in ((mse_loss, "k--"), (l1_loss, "k:"), (huber_loss, "k-")):
        plt.plot(errors, loss(errors, errors * 0, reduction="none"), style, label=loss.__name__)
    plt.title("Three prices for an error")
    plt.xlabel("error (units of the target)")
    plt.ylabel("loss")
    plt.ylim(0, 5)
    plt.legend()
    plt.show()

# %% [markdown]
r"""
## Losses for classes: surprise

A classifier gives a probability to every class. How wrong is "90 % a three, 10 % an eight", when it is an eight? Measure the *surprise* at the truth: $-\log p_{\text{true}}$. Certain and right costs 0, and every factor of ten that the truth was thought less likely adds 2.3. **Predict** the last line before you run.
"""

# %%
for probability in (1.0, 0.9, 0.5, 0.1, 0.01, 1e-6):
    print(f"the truth had probability {probability:8}: surprise {-math.log(probability) + 0:6.3f}")

# %% [markdown]
r"""
Two things belong in every loss for classes, since real data asks for them:

- **class weights.** If 99 of 100 mails are harmless, "harmless" is 99 % accurate. `weight[c]` says how much a row of class `c` counts. A mean then divides by the *weights' sum*, not by the number of rows: it is a weighted average.
- **ignore_index.** Padding and unknown labels are marked by one index (-100 by default). Such rows count nothing and aren't counted.

The targets arrive as whole numbers, in a float or an integer dtype. The two given functions check them and look them up: `_class_indices` gives integers, and how much each row counts (None if all count the same); `_places` gives what picks one class of every row. Both work for predictions of shape (C,), (N, C), or (N, C, H, W) with a class for every pixel: the class axis is axis 1, as in PyTorch.
"""


# %% nbgrader={"grade": false, "grade_id": "class-indices", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _class_indices(
    targets: np.ndarray, shape: tuple[int, ...], dtype: Any, weight: Any, ignore_index: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Class indices as integers, and how much each row counts; None if all count the same.

    An index that is ignored counts 0 and becomes 0, so that it can be looked up.
    """
    expected = (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    if targets.shape != expected:
        raise ValueError(
            f"scores of shape {shape} need class indices of shape {expected} "
            f"(or, in cross_entropy, probabilities of shape {shape}), got {targets.shape}"
        )
    if targets.dtype.kind in "iu":
        indices = targets.astype(np.int64, copy=False)
    else:
        with np.errstate(invalid="ignore"):  # NaN is told below
            indices = targets.astype(np.int64)
        if (indices != targets).any():
            wrong = targets[indices != targets][0]
            raise ValueError(f"a class index must be a whole number, got {wrong}")
    classes = shape[_class_axis(shape)]
    counts = None if weight is None else _class_weight(weight, classes, dtype)
    # one pass for both ends: a negative index is a huge one if it is read without its sign
    inside = not indices.size or indices.view(np.uint64).max() < classes
    if inside and not 0 <= ignore_index < classes:
        return indices, counts if counts is None else counts[indices]
    counted = indices != ignore_index
    outside = counted & ((indices < 0) | (indices >= classes))
    if outside.any():
        wrong = indices[outside][0]
        raise IndexError(f"target {wrong} is no class: there are {classes}, 0 to {classes - 1}")
    indices = np.where(counted, indices, 0)
    return indices, counted * (dtype.type(1) if counts is None else counts[indices])


def _places(indices: np.ndarray) -> tuple[np.ndarray, ...]:
    """The index that picks, out of (N, C, ...), the class indices[n, ...] of every row."""
    if indices.ndim == 1:  # the usual case, without the slow np.indices
        return np.arange(indices.size), indices
    rows = np.indices(indices.shape, sparse=True)
    return (*rows[:1], indices, *rows[1:])


def _class_axis(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) > 1 else 0


def _class_weight(weight: Any, classes: int, dtype: Any) -> np.ndarray:
    """The weights of the classes as an array; ValueError unless there is one for each."""
    array = np.asarray(weight, dtype)
    if array.shape != (classes,):
        raise ValueError(f"weight: expected one for each of {classes} classes, got {array.shape}")
    return array


# %%
table = np.array([[10, 11, 12], [20, 21, 22]])
indices, counts = _class_indices(np.array([2.0, 0.0]), table.shape, np.dtype("f4"), None, -100)
print(indices, counts, table[_places(indices)])
indices, counts = _class_indices(np.array([2, -100]), table.shape, np.dtype("f4"), [1, 1, 5], -100)
print(indices, counts, table[_places(indices)])

# %% [markdown]
r"""
**Exercise 5 (10 points).** Write `nll_loss`, the negative log-likelihood: for row $n$ with target $y_n$, $-w_{y_n} \log p_{n, y_n}$, and a mean that divides by $\sum_n w_{y_n}$.

The first line is given. When `counts` is None, reduce the picked losses. Otherwise multiply by `counts` and give `_reduced` the sum of the counts. A row that doesn't count must give 0 even where its log-probability is $-\infty$: 0 times infinity is `nan`, so put a 0 there first, by `where`. As before, use what arrays and tensors share (`where` takes both).

Worked number: log-probabilities $[-1, -2]$ and $[-3, -4]$, targets 0 and 1, weights $[1, 3]$: $(1 \cdot 1 + 3 \cdot 4) / (1 + 3) = 3.25$.
"""


# %% nbgrader={"grade": false, "grade_id": "nll-loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def nll_loss(
    log_probabilities: Any,
    targets: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """Minus the log-probability of each row's class: (N, C, ...), (N, ...) -> ().

    `weight` has a number for each class, and a mean divides by those of the targets; rows of class
    `ignore_index` don't count.

    >>> nll_loss(Tensor([[-1.0, -2.0], [-3.0, -4.0]]), [0, 1], weight=[1, 3])
    Tensor(3.25)
    """
    indices, counts = _class_indices(
        np.asarray(targets), log_probabilities.shape, log_probabilities.dtype, weight, ignore_index
    )
    ### BEGIN SOLUTION
    losses = -log_probabilities[_places(indices)]
    if counts is None:
        return _reduced(losses, reduction)
    losses = where(counts == 0, 0, losses) * counts
    return _reduced(losses, reduction, float(counts.sum()))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-nll-loss", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
def test_nll_loss():
    table = Tensor([[-1.0, -2.0], [-3.0, -4.0], [-np.inf, 0.0]])
    first = table[:2]
    check(nll_loss(first, [0, 1]), 2.5, "minus the log-probability at the target: (1 + 4) / 2")
    check(nll_loss(first, [0, 1], weight=[1, 3]), 3.25, "a weighted mean divides by 1 + 3")
    rows = nll_loss(table, [0, 1, -100], reduction="none")
    check(rows, [1.0, 4.0, 0.0], "an ignored row costs nothing, not nan")
    ### BEGIN HIDDEN TESTS
    check(nll_loss(table, [0, 1, -100]), 2.5, "an ignored row is not counted by the mean")
    check(nll_loss(first, [0, 1], weight=[1, 3], reduction="sum"), 13.0, "1 * 1 + 3 * 4")
    check(nll_loss(first, [-100, -100]), math.nan, "the mean of no rows is NaN")
    check(nll_loss(first.numpy(), [0, 1]), 2.5, "arrays are taken just as tensors are")
    pixels = Tensor(-np.arange(8.0).reshape(1, 2, 2, 2))
    got = nll_loss(pixels, [[[0, 1], [1, 0]]], reduction="none")
    check(got, [[[0.0, 5.0], [6.0, 3.0]]], "a class for every pixel: pick with _places(indices)")
    ### END HIDDEN TESTS


test_nll_loss()

# %% [markdown]
r"""
## Cross-entropy: from scores to surprise

A network's last layer gives scores, not probabilities. So: softmax, logarithm, pick. **Predict** what the direct way says of a network that is sure, and wrong.
"""

# %%
scores = Tensor([[0.0, 200.0]])
with np.errstate(divide="ignore"):
    print("log of softmax:", nll_loss(softmax(scores).log(), [0]).item())
print("log_softmax:   ", nll_loss(log_softmax(scores), [0]).item())

# %% [markdown]
r"""
An infinite loss teaches nothing but `nan`; 200 is right. That is why losses take scores (**logits**) and do softmax and logarithm themselves, in one.

Before you write it, one generalisation. Sometimes the truth isn't one class:

- **label smoothing**: labels are never quite certain, so 1 is lowered to $1 - \varepsilon + \varepsilon / C$ and each 0 raised to $\varepsilon / C$. It keeps a network from growing its scores for ever;
- **probabilities as targets**: three of four people said "three", one said "eight".

All of it is one table $t$ of the logits' shape, *how much each class of each row counts*:

$$\mathrm{loss}_n = -\sum_c t_{nc} \log p_{nc}$$

```
 target 2 of 4 classes       0     0     1     0
 label smoothing 0.2         0.05  0.05  0.85  0.05
 times the class weights     w0 *  w1 *  w2 *  w3 *
 ignored                     0     0     0     0
```

**Exercise 6 (12 points).** Finish `target_weights`. The given part finds $t$ before smoothing, the counts of the rows, and what a mean divides by. Do the rest, in the order of the picture: smooth, multiply by `weight` (checked by `_class_weight`; reshape it so that it lies along `axis`), and put the rows that don't count to 0. Where nothing counts at all, a `count` of 1 keeps whoever divides by it from dividing 0 by 0.

Worked number: scores of shape (1, 2), target 1, weights `[1, 3]`, smoothing 0.2 give `t = [[0.1, 2.7]]`, and the mean divides by 3.
"""


# %% nbgrader={"grade": false, "grade_id": "target-weights", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def target_weights(
    targets: np.ndarray,
    shape: tuple[int, ...],
    dtype: Any,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[np.ndarray, float]:
    """t, how much each class of each row counts, and what a mean over the rows divides by.

    The cross-entropy of logits of `shape` is -(t * log_softmax(logits)).sum() / count. Targets of
    that very shape are the probabilities of the classes, others are indices of classes.

    >>> target_weights(np.array([1]), (1, 2), np.float64, weight=[1, 3], label_smoothing=0.2)
    (array([[0.1, 2.7]]), 3.0)
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    axis, dtype, counts = _class_axis(shape), np.dtype(dtype), None
    if targets.shape == shape:
        t = targets.astype(dtype)
        count: float = t.size // max(shape[axis], 1)
    else:
        indices, counts = _class_indices(targets, shape, dtype, weight, ignore_index)
        t = np.zeros(shape, dtype)
        t[_places(indices)] = 1
        count = indices.size if counts is None else float(counts.sum())
    ### BEGIN SOLUTION
    if label_smoothing:
        t *= 1 - label_smoothing
        t += label_smoothing / shape[axis]
    if weight is not None:
        along = [-1 if i == axis else 1 for i in range(len(shape))]
        t *= _class_weight(weight, shape[axis], dtype).reshape(along)
    if counts is not None:
        t *= np.expand_dims(counts != 0, axis)
    return t, count or 1
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-target-weights", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
def test_target_weights():
    def weights_of(targets, shape, **options):
        return target_weights(np.array(targets), shape, np.float32, **options)

    t, count = weights_of([1], (1, 2), weight=[1, 3], label_smoothing=0.2)
    check(t, [[0.1, 2.7]], "smooth first: [0.1, 0.9]; then times the weights [1, 3]")
    check(count, 3.0, "the mean divides by the weight of the target's class")
    t, count = weights_of([0, -100], (2, 2), label_smoothing=0.2)
    check(t, [[0.9, 0.1], [0.0, 0.0]], "an ignored row is all 0, after the smoothing too")
    check(float(count), 1.0, "one row counts")
    ### BEGIN HIDDEN TESTS
    t, count = weights_of([[0.5, 0.5], [1.0, 0.0]], (2, 2), weight=[1, 3], label_smoothing=0.2)
    check(t, [[0.5, 1.5], [0.9, 0.3]], "probabilities are smoothed and weighted, too")
    check(float(count), 2.0, "probabilities: the mean divides by the rows")
    t, count = weights_of([[1, 1]], (1, 2, 2), weight=[1, 3])
    check(t, [[[0.0, 0.0], [3.0, 3.0]]], "the weights lie along axis 1, not along the last")
    check(float(weights_of([-100], (1, 2))[1]), 1.0, "nothing counts: a count of 1")
    ### END HIDDEN TESTS


test_target_weights()

# %% [markdown]
r"""
**Exercise 7 (9 points).** Write `cross_entropy`. It is one operation (`@op`), because it is called at every step of every training: `logits` and `targets` arrive as arrays. `log_probabilities` is given. There are two ways from there:

- plain class indices (no smoothing, not probabilities): that is your `nll_loss`, which touches one number of each row;
- everything else: $t$ from `target_weights`, then $-\sum_c t_{nc} \log p_{nc}$ along the class axis, reduced with `count`. If $t$ is 0 everywhere, nothing counted: give `_reduced` a count of 0, so that the mean is `nan`.

Worked number: two equal scores give $\ln 2 = 0.693$ whatever the target.
"""


# %% nbgrader={"grade": false, "grade_id": "cross-entropy", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def cross_entropy(
    logits, targets, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    """-log softmax(logits)[target] for each row: (N, C), (N,) -> (); or (N, C, ...), (N, ...).

    Targets are class indices (whole numbers), or probabilities of the logits' shape. `weight` has a
    number for each class, and a mean divides by those of the targets; rows of class `ignore_index`
    don't count; `label_smoothing` moves that share of each target evenly to all classes.

    >>> cross_entropy(Tensor([[0.0, 0.0], [200.0, 0.0]]), [0, 1], reduction="none")
    Tensor([  0.6931, 200.    ])
    """
    targets, axis = np.asarray(targets), _class_axis(logits.shape)
    log_probabilities = log_softmax(logits, axis=axis)
    ### BEGIN SOLUTION
    if not label_smoothing and targets.shape != logits.shape:
        return nll_loss(log_probabilities, targets, weight, ignore_index, reduction)
    t, count = target_weights(
        targets, logits.shape, log_probabilities.dtype, weight, ignore_index, label_smoothing
    )
    losses = -(t * log_probabilities).sum(axis=axis)
    return _reduced(losses, reduction, count if t.any() else 0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-cross-entropy", "locked": true, "points": 9, "schema_version": 3, "solution": false, "task": false}
def test_cross_entropy():
    scores = Tensor([[0.0, 0.0], [0.0, 200.0]])
    rows = cross_entropy(scores, [0, 0], reduction="none")
    check(rows, [math.log(2), 200.0], "minus the log-probability of the target")
    check(cross_entropy(scores, [0, 0]), (math.log(2) + 200) / 2, "the mean over the rows")
    smooth = cross_entropy(scores[1:], [1], label_smoothing=0.1)
    check(smooth, 10.0, "smoothing 0.1 of 2 classes: 0.05 on the class with -200")
    ### BEGIN HIDDEN TESTS
    check(cross_entropy(scores, [[0.5, 0.5], [0.0, 1.0]]), math.log(2) / 2, "probabilities")
    check(cross_entropy(scores, Tensor([0, 1]), weight=[1, 3]), math.log(2) / 4, "divide by 1 + 3")
    check(cross_entropy(Tensor([0.0, 0.0]), 1), math.log(2), "one row without a batch axis")
    pixels, classes = zeros(1, 4, 2, 2), np.zeros((1, 2, 2))
    rows = cross_entropy(pixels, classes, label_smoothing=0.1, reduction="none")
    check(rows, np.full((1, 2, 2), math.log(4)), "classes are on axis 1, also where pixels follow")
    check(cross_entropy(scores, [0, -100]), math.log(2), "ignored rows aren't counted")
    nothing = cross_entropy(scores, [-100, -100], label_smoothing=0.1)
    check(nothing, math.nan, "no row counts: the mean is NaN")
    ### END HIDDEN TESTS


test_cross_entropy()

# %% [markdown]
r"""
## Yes or no

One output, one question: is this mail spam? $p = \sigma(x)$, and the surprise is $-\log p$ if it is, $-\log(1 - p)$ if not:

$$\mathrm{bce}(p, y) = -\left(y \log p + (1 - y) \log(1 - p)\right)$$

If $p$ is 0 or 1 and wrong, that is infinite. PyTorch cuts the logarithm off at -100, and so do we. The given `_clamped_log` never takes a logarithm of 0.

**Exercise 8 (7 points).** Write `binary_cross_entropy`. `weight`, where given, multiplies the losses: `_weighted(losses, weight)` does that and checks shapes. Worked number: $p = 0.25$, $y = 1$: $-\ln 0.25 = 1.386$.
"""


# %% nbgrader={"grade": false, "grade_id": "clamped-log", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _clamped_log(p: Any) -> Any:
    """log p, but never below -100; p is first kept a little under e^-100, so that it isn't 0."""
    return maximum(log(maximum(p, 3e-44)), -100)


def _weighted(losses: Any, weight: Any) -> Any:
    """The losses times a weight for each; ValueError where that changes their shape."""
    if weight is None:
        return losses
    result = losses * (weight if isinstance(weight, Tensor) else np.asarray(weight))
    if result.shape != losses.shape:
        raise ValueError(f"weight of shape {np.shape(weight)} doesn't fit losses of {losses.shape}")
    return result


# %% nbgrader={"grade": false, "grade_id": "binary-cross-entropy", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def binary_cross_entropy(
    probability: Tensor, target: Any, weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """-(y log p + (1 - y) log(1 - p)), the logarithms kept above -100.

    Raises ValueError for a probability outside [0, 1], NaN included. For scores of any size use
    `binary_cross_entropy_with_logits`.

    >>> binary_cross_entropy(Tensor([0.25, 0.0]), [1.0, 1.0], reduction="none")
    Tensor([  1.3863, 100.    ])
    """
    target = _matched("binary_cross_entropy", probability, target)
    for name, values in (("probability", probability), ("target", target)):
        array = np.asarray(values)
        if not ((array >= 0) & (array <= 1)).all():
            wrong = array[~((array >= 0) & (array <= 1))][0]
            raise ValueError(f"binary_cross_entropy: {name} must lie in [0, 1], got {wrong}")
    ### BEGIN SOLUTION
    losses = -(target * _clamped_log(probability) + (1 - target) * _clamped_log(1 - probability))
    return _reduced(_weighted(losses, weight), reduction)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-binary-cross-entropy", "locked": true, "points": 7, "schema_version": 3, "solution": false, "task": false}
def test_binary_cross_entropy():
    p, y = Tensor([0.25, 0.25, 0.0]), Tensor([1.0, 0.0, 1.0])
    rows = binary_cross_entropy(p, y, reduction="none")
    check(rows, [math.log(4), math.log(4 / 3), 100.0], "-log p for a yes, -log(1 - p) for a no")
    half = binary_cross_entropy(p[:2], y[:2], weight=[2.0, 0.0])
    check(half, math.log(4), "weight multiplies the losses; the mean is over both")
    ### BEGIN HIDDEN TESTS
    soft = binary_cross_entropy(Tensor([0.5]), Tensor([0.3]))
    check(soft, math.log(2), "targets may lie between 0 and 1")
    with check_raises(ValueError, "1.5", "keep the given checks"):
        binary_cross_entropy(Tensor([1.5]), Tensor([1.0]))
    ### END HIDDEN TESTS


test_binary_cross_entropy()

# %% [markdown]
r"""
The clamp is a bandage. A network that is sure and wrong at score 50 looks the same as one at score 5,000. **Predict** both lines for the scores -50 and -5,000 when the truth is yes.
"""

# %%
sure = Tensor([-50.0, -200.0, -5000.0])
print("through sigmoid:  ", binary_cross_entropy(sigmoid(sure), [1, 1, 1], reduction="none"))
print("-log sigmoid(x) on paper is about -x:", (-sure).tolist())

# %% [markdown]
r"""
As with softmax, the cure is not to make the probability at all. With $\mathrm{softplus}(z) = \log(1 + e^z)$,

$$-\log \sigma(x) = \mathrm{softplus}(-x) \qquad -\log(1 - \sigma(x)) = \mathrm{softplus}(x) = x + \mathrm{softplus}(-x)$$

**Exercise 9 (5 points).** Write `softplus` with operations on tensors so that it survives any input: for a large $z$, take the $z$ out of the logarithm. $\log(1 + e^z) = \max(z, 0) + \log(1 + e^{-|z|})$: check both signs on paper. Use `maximum` for it, not `relu`: the slope of softplus at 0 is 1/2, and scores of exactly 0 are common (a last layer of zeros gives nothing else). `maximum` shares the slope between its two sides there; relu's is 0. Worked number: $\mathrm{softplus}(0) = \ln 2$.
"""


# %% nbgrader={"grade": false, "grade_id": "softplus", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), element by element, in a form that can't overflow.

    >>> softplus(Tensor([-1000.0, 0.0, 100.0]))
    Tensor([  0.    ,   0.6931, 100.    ])
    """
    ### BEGIN SOLUTION
    return maximum(x, 0) + log(1 + exp(-abs_(x)))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-softplus", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_softplus():
    got = softplus(Tensor([-1000.0, 0.0, math.log(3), 1000.0]))
    check(got, [0.0, math.log(2), math.log(4), 1000.0], "max(x, 0) + log(1 + e^-|x|)")


test_softplus()

# %% [markdown]
r"""
(`log(1 + tiny)` rounds to 0 once tiny is below $10^{-7}$: a loss of $10^{-9}$ reads as 0. PyTorch calls `log1p` there, a logarithm made for this.)

Put together, with $y$ the target:

$$y\,\mathrm{softplus}(-x) + (1 - y)\,(x + \mathrm{softplus}(-x)) = (1 - y)\,x + \mathrm{softplus}(-x)$$

`pos_weight` $w$ counts each *yes* $w$ times, for when they are rare. The first $y$ then becomes $w y$, and the factor of softplus $1 - y + w y = 1 + (w - 1)\,y$.

**Exercise 10 (7 points).** Write `binary_cross_entropy_with_logits`. `pos_weight` is a number, or an array, list or Tensor with one for each column of the target: `np.asarray` makes an array of any. Multiply by `_weighted`, which checks the shapes. Worked numbers: $x = 0$ costs $\ln 2$ for both answers; $x = -5000$, $y = 1$ costs 5000.
"""


# %% nbgrader={"grade": false, "grade_id": "bce-with-logits", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Tensor:
    """Binary cross-entropy of sigmoid(logits), exact for scores of any size.

    `weight` multiplies the losses, `pos_weight` the part of the positive answers.

    >>> binary_cross_entropy_with_logits(Tensor([0.0, -5000.0]), [1, 1], reduction="none")
    Tensor([6.9315e-01, 5.0000e+03])
    """
    target = _matched("binary_cross_entropy_with_logits", logits, target)
    ### BEGIN SOLUTION
    surprise = softplus(-logits)
    if pos_weight is not None:
        surprise = _weighted(surprise, 1 + (np.asarray(pos_weight) - 1) * target)
    return _reduced(_weighted((1 - target) * logits + surprise, weight), reduction)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-bce-with-logits", "locked": true, "points": 7, "schema_version": 3, "solution": false, "task": false}
def test_bce_with_logits():
    x, y = Tensor([0.0, -5000.0, 5000.0, 5000.0]), Tensor([1.0, 1.0, 1.0, 0.0])
    rows = binary_cross_entropy_with_logits(x, y, reduction="none")
    check(rows, [math.log(2), 5000.0, 0.0, 5000.0], "(1 - y) x + softplus(-x)")
    rare = binary_cross_entropy_with_logits(
        Tensor([0.0, 0.0]), Tensor([1.0, 0.0]), reduction="none", pos_weight=3.0
    )
    check(rare, [3 * math.log(2), math.log(2)], "pos_weight multiplies the yes alone")
    ### BEGIN HIDDEN TESTS
    both = binary_cross_entropy_with_logits(Tensor([0.0, 0.0]), [1, 0], weight=[2.0, 4.0])
    check(both, 3 * math.log(2), "weight multiplies each loss")
    columns = binary_cross_entropy_with_logits(zeros(1, 2), [[1, 1]], pos_weight=[1, 3])
    check(columns, 2 * math.log(2), "pos_weight may have a number for each column")
    ### END HIDDEN TESTS


test_bce_with_logits()

# %% [markdown]
r"""
## Distance between distributions

Small networks learn from large ones by imitating all their probabilities, not only the winner. How far is $q$, the imitation, from $t$, the original? The **Kullback-Leibler divergence** is the extra surprise of one who believes $q$ while $t$ is true:

$$\mathrm{KL}(t \,\|\, q) = \sum_c t_c\,(\log t_c - \log q_c)$$

As in PyTorch the prediction arrives as log-probabilities, and `"mean"` divides by the number of *elements*; the sum over classes, averaged over rows, is called `"batchmean"`. A class with $t_c = 0$ costs 0: put a 1 under the logarithm there, by `where`.

**Exercise 11 (5 points).** Finish `kl_div`: the losses, element by element. With `log_target` the target holds logarithms, too, so $t = e^{\text{target}}$. Worked number: $t = [1, 0]$, $q = [1/2, 1/2]$: losses $[\ln 2, 0]$.
"""


# %% nbgrader={"grade": false, "grade_id": "kl-div", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def kl_div(
    log_probabilities: Tensor, target: Any, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """target (log target - log_probabilities), the Kullback-Leibler divergence by elements.

    "mean" divides by the number of elements, "batchmean" by the number of rows.

    >>> kl_div(Tensor([[0.5, 0.5]]).log(), [[1.0, 0.0]], reduction="batchmean")
    Tensor(0.6931)
    """
    target = _matched("kl_div", log_probabilities, target)
    ### BEGIN SOLUTION
    if log_target:
        losses = exp(target) * (target - log_probabilities)
    else:
        losses = target * (log(where(target == 0, 1, target)) - log_probabilities)
    ### END SOLUTION
    if reduction == "batchmean":
        return _reduced(losses, "mean", count=losses.shape[0])
    return _reduced(losses, reduction)


# %% nbgrader={"grade": true, "grade_id": "test-kl-div", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_kl_div():
    q = Tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    t = Tensor([[1.0, 0.0], [0.5, 0.5]])
    rows = kl_div(q, t, reduction="none")
    check(rows, [[math.log(2), 0.0], [0.0, 0.0]], "t (log t - log q), and 0 where t is 0")
    ### BEGIN HIDDEN TESTS
    t = Tensor([[0.9, 0.1], [0.2, 0.8]])
    same = kl_div(q, t.log(), reduction="none", log_target=True)
    check(same, kl_div(q, t, reduction="none").numpy(), "log_target: e^target is the probability")
    check(kl_div(t.log(), t), 0.0, "no distance to itself")
    ### END HIDDEN TESTS


test_kl_div()

# %% [markdown]
r"""
## Losses as layers

`loss_fn = CrossEntropyLoss(label_smoothing=0.1)` once, `loss_fn(prediction, target)` at every step. `Stateless`, from your activations, brings the call and the repr; `@dataclass` writes an `__init__` from the list of options. `eq=False, repr=False` leaves the rest to `Stateless`.
"""


# %% nbgrader={"grade": false, "grade_id": "loss-layers", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@dataclass(eq=False, repr=False)
class MSELoss(Stateless):
    """The squared error (prediction - target)^2.

    >>> MSELoss()(Tensor([1.0, 4.0]), [1.0, 2.0])
    Tensor(2.)
    """

    reduction: str = "mean"

    def forward(self, prediction: Tensor, target: Any) -> Tensor:
        return mse_loss(prediction, target, self.reduction)


@dataclass(eq=False, repr=False)
class L1Loss(Stateless):
    """The absolute error |prediction - target|.

    >>> L1Loss(reduction="sum")(Tensor([1.0, 4.0]), [1.0, 2.0])
    Tensor(2.)
    """

    reduction: str = "mean"

    def forward(self, prediction: Tensor, target: Any) -> Tensor:
        return l1_loss(prediction, target, self.reduction)


@dataclass(eq=False, repr=False)
class HuberLoss(Stateless):
    """Half the squared error up to `delta`, a straight line of slope `delta` beyond.

    >>> HuberLoss(delta=2.0)(Tensor([3.0]), [0.0])
    Tensor(4.)
    """

    reduction: str = "mean"
    delta: float = 1.0

    def forward(self, prediction: Tensor, target: Any) -> Tensor:
        return huber_loss(prediction, target, self.reduction, self.delta)


@dataclass(eq=False, repr=False)
class NLLLoss(Stateless):
    """Minus the log-probability of each row's class; see `nll_loss`.

    >>> NLLLoss()(Tensor([[-1.0, -2.0]]), [1])
    Tensor(2.)
    """

    weight: Any = None
    ignore_index: int = -100
    reduction: str = "mean"

    def forward(self, log_probabilities: Tensor, targets: Any) -> Tensor:
        return nll_loss(log_probabilities, targets, self.weight, self.ignore_index, self.reduction)


@dataclass(eq=False, repr=False)
class BinaryCrossEntropyLoss(Stateless):
    """-(y log p + (1 - y) log(1 - p)) of probabilities p; PyTorch's BCELoss.

    >>> BinaryCrossEntropyLoss()(Tensor([0.25]), [1])
    Tensor(1.3863)
    """

    weight: Any = None
    reduction: str = "mean"

    def forward(self, probability: Tensor, target: Any) -> Tensor:
        return binary_cross_entropy(probability, target, self.weight, self.reduction)


@dataclass(eq=False, repr=False)
class BCEWithLogitsLoss(Stateless):
    """Binary cross-entropy of sigmoid(logits), exact for scores of any size.

    >>> BCEWithLogitsLoss()(Tensor([-5000.0]), [1])
    Tensor(5000.)
    """

    weight: Any = None
    reduction: str = "mean"
    pos_weight: Any = None

    def forward(self, logits: Tensor, target: Any) -> Tensor:
        return binary_cross_entropy_with_logits(
            logits, target, self.weight, self.reduction, self.pos_weight
        )


@dataclass(eq=False, repr=False)
class KLDivLoss(Stateless):
    """The Kullback-Leibler divergence of log-probabilities from a target; see `kl_div`.

    >>> KLDivLoss("batchmean")(Tensor([[0.5, 0.5]]).log(), [[1.0, 0.0]])
    Tensor(0.6931)
    """

    reduction: str = "mean"
    log_target: bool = False

    def forward(self, log_probabilities: Tensor, target: Any) -> Tensor:
        return kl_div(log_probabilities, target, self.reduction, self.log_target)


# %% [markdown]
r"""
**Exercise 12 (4 points).** Write `forward` of `CrossEntropyLoss`. `cross_entropy` is an `@op`: its options go by name.
"""


# %% nbgrader={"grade": false, "grade_id": "cross-entropy-loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@dataclass(eq=False, repr=False)
class CrossEntropyLoss(Stateless):
    """-log softmax(logits)[target], with class weights and label smoothing; see `cross_entropy`.

    >>> CrossEntropyLoss()(Tensor([[0.0, 0.0]]), [1])
    Tensor(0.6931)
    """

    weight: Any = None
    ignore_index: int = -100
    reduction: str = "mean"
    label_smoothing: float = 0.0

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        ### BEGIN SOLUTION
        return cross_entropy(
            logits,
            targets,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-cross-entropy-loss", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
def test_cross_entropy_loss():
    scores = Tensor([[0.0, 0.0], [0.0, 200.0]])
    rows = CrossEntropyLoss(reduction="none")(scores, [0, 0])
    check(rows, [math.log(2), 200.0], "reduction must reach cross_entropy")
    check(CrossEntropyLoss([1, 3])(scores, [0, 1]), math.log(2) / 4, "so must weight")
    ### BEGIN HIDDEN TESTS
    check(CrossEntropyLoss(label_smoothing=0.1)(scores[1:], [1]), 10.0, "so must label_smoothing")
    check(CrossEntropyLoss(ignore_index=1)(scores, [0, 1]), math.log(2), "so must ignore_index")
    ### END HIDDEN TESTS


test_cross_entropy_loss()

# %% [markdown]
r"""
## Put together: digits, and a landscape

Back to the average digits of the beginning. **Predict** the cross-entropy of weights that are all 0: ten equal probabilities. And of the averages themselves: are they better than that? And what if all scores are doubled, which changes no answer?
"""

# %%
loss_fn = CrossEntropyLoss()
manual_seed(0)
candidates = {"all zero": zeros(64, 10), "random": randn(64, 10), "averages": weights}
candidates |= {f"averages x {scale}": weights * scale for scale in (2, 4, 8)}
print(f"{'':14}{'loss':>8}{'accuracy':>10}      log(10) = {math.log(10):.4f}")
for name, candidate in candidates.items():
    scores = images[asked] @ candidate
    loss = loss_fn(scores, labels[asked]).item()
    print(f"{name:14}{loss:8.3f}{accuracy(scores, labels[asked]):10.3f}")

# %% [markdown]
r"""
A loss of $\log C$ is the mark of a network that knows nothing: remember it, it is the first number that a healthy training prints. Below it lies knowledge, above it false certainty. The averages have one accuracy at every scale, but the loss tells the modest from the boastful.

Now the landscape. Two random directions in the space of 640 weights span a plane around the averages; at each point of it stand a loss and an accuracy.
"""

# %%
from tqdm.auto import tqdm

manual_seed(3)
east, north = randn(64, 10), randn(64, 10)
steps = np.linspace(-0.5, 0.5, 21)
landscape = np.zeros((2, 21, 21))
for i, up in enumerate(tqdm(steps, disable=None)):
    for j, right in enumerate(steps):
        scores = images[asked] @ (weights + right * east + up * north)
        landscape[:, i, j] = loss_fn(scores, labels[asked]).item(), accuracy(scores, labels[asked])

# %%
if plt:
    figure, both = plt.subplots(1, 2, figsize=(11, 4.5))
    titles = ("cross-entropy (nats): a bowl", "accuracy (share of right answers): terraces")
    for axes, heights, title in zip(both, landscape, titles, strict=True):
        lines = axes.contour(steps, steps, heights, levels=12, colors="black")
        axes.clabel(lines, fontsize=7)
        axes.set(title=title, xlabel="step along one direction", ylabel="step along another")
    plt.show()

# %% [markdown]
r"""
The left picture looks smooth, and the right one isn't. Look closer: a walk of a thousandth of that picture's width, from its centre to the east. **Predict** how many different values each of the two takes on 200 steps.
"""

# %%
walk = [images[asked] @ (weights + distance * east) for distance in np.linspace(0, 0.001, 200)]
walked_loss = [loss_fn(Tensor(s, dtype=np.float64), labels[asked]).item() for s in walk]
walked_accuracy = [accuracy(s, labels[asked]) for s in walk]
print("different losses:    ", len(set(walked_loss)))
print("different accuracies:", len(set(walked_accuracy)))

# %% [markdown]
r"""
The loss knows at every step whether the walk goes up or down. And the nudges of the beginning? Each weight has a say now:
"""

# %%
exact = images[known].astype(np.float64)  # a change may be smaller than float32 can show
before = loss_fn(exact @ weights, labels[known]).item()
moved = 0
for index in np.ndindex(weights.shape):
    nudged = Tensor(weights, dtype=np.float64)
    nudged[index] += 0.001
    moved += loss_fn(exact @ nudged, labels[known]).item() != before
unused = int((images.numpy()[known].max(axis=0) == 0).sum())
print(f"{moved} of {weights.size} nudges change the loss ({unused} pixels are empty in all images)")

# %% [markdown]
r"""
## Systems: what a loss costs

A loss is the smallest part of a network, unless there are many classes. **Predict** what dominates in `cross_entropy` on (64, 10) logits: the 640 exponentials, or something else?
"""


# %%
def seconds(run: Callable[[], object], rounds: int = 5, calls: int = 1) -> float:
    """The shortest time of a call: what else the machine does only ever adds time."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def composed(logits: Tensor, targets: np.ndarray) -> Tensor:
    """Cross-entropy from tensor operations, one after the other, each watched and wrapped."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normaliser = shifted.exp().sum(axis=1).log()
    return (normaliser - shifted[np.arange(len(targets)), targets]).mean()


print(f"{'logits':>14}{'bytes':>12}{'one op, us':>12}{'composed, us':>14}{'exp alone, us':>15}")
for rows, classes in ((1, 10), (64, 10), (4096, 10), (64, 1000), (64, 10_000)):
    logits, targets = randn(rows, classes), np.arange(rows) % classes
    calls = max(1, 20_000 // logits.size)
    times = [
        1e6 * seconds(run, calls=calls)
        for run in (
            lambda x=logits, t=targets: cross_entropy(x, t),
            lambda x=logits, t=targets: composed(x, t),
            lambda x=logits: np.exp(x.numpy()),
        )
    ]
    print(f"{logits.shape!s:>14}{logits.nbytes:12,}" + "".join(f"{t:12.1f}" for t in times))

# %% [markdown]
r"""
For a small batch nearly all of it is the calls themselves, a microsecond or more for each; the exponentials hardly show. For many classes it is passes over the table of logits: a maximum, a subtraction, an exponential, a sum. And memory: the log-probabilities are a second table as large as the first.

`torch.nn.functional.cross_entropy` also makes that second table (`log_softmax`, then `nll_loss`). Libraries for language models fuse loss and last layer and work through the rows in chunks, so that no full table of logits ever exists.

## Questions

**1 (5 points).** A language model has a vocabulary of 50,000 words and is trained on batches of 16 texts with 1,024 tokens. How many bytes are its logits in float32? With the log-probabilities and the gradient of the logits beside them? What if the rows are worked through in 64 chunks?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-vocabulary", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
16 · 1,024 · 50,000 · 4 = 3,276,800,000 bytes, 3.28 GB, for the logits alone. Three such tables: 9.83 GB. In 64 chunks only a 64th of the three exists at a time: 154 MB. The arithmetic stays the same.
"""

# %% [markdown]
r"""
**2 (5 points).** A training on 1,000 classes prints a first loss of 6.9, another one 31. Which network is in order? What does the other's loss tell about its scores, and which probability does it give the truth, on (geometric) average?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-first-loss", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
log 1000 = 6.91: the first one knows nothing yet and says so, which is right for a fresh network. A loss of 31 is an average probability of e^-31, about 3e-14, for the truth: the network is certain and wrong, so its scores are far too large (about 31 above the score of the truth). Its last layer starts with weights that are too large.
"""

# %% [markdown]
r"""
**3 (5 points).** Of 1,000 mails 10 are spam. A model says $p = 0.01$ for every mail. Its accuracy (with a limit of 1/2)? Its mean binary cross-entropy? With `pos_weight=99`, which constant $p$ is best instead?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-rare", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
Accuracy 0.99: it never says spam. Loss: (10 · (-ln 0.01) + 990 · (-ln 0.99)) / 1,000 = (46.05 + 9.95) / 1,000 = 0.056. With pos_weight 99 the 10 yeses weigh 990, as much as the noes, and the best constant is the weighted share of yeses, 990 / 1,980 = 1/2.
"""

# %% [markdown]
r"""
**4 (5 points).** With label smoothing $\varepsilon = 0.1$ and $C = 10$, which probabilities would make the loss smallest? How far above the other scores does the score of the truth lie then? What happens to that distance without smoothing?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-smoothing", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
The loss is smallest where the probabilities equal the smoothed targets: 0.91 for the truth and 0.01 for each other class. Scores differ by the logarithm of the ratio, ln 91 = 4.51. Without smoothing the target is 1 against 0, the ratio infinite: training pushes the scores apart for ever.
"""

# %% [markdown]
r"""
## All tests once more
"""


# %%
def test_module():
    for test in (test_accuracy, test_reduced, test_mse_loss, test_huber_loss, test_nll_loss):
        test()
    for test in (test_target_weights, test_cross_entropy, test_binary_cross_entropy):
        test()
    for test in (test_softplus, test_bce_with_logits, test_kl_div, test_cross_entropy_loss):
        test()
    print("All tests of module 04 pass.")


test_module()

# %% [markdown]
r"""
**What works now:** eight losses, with class weights, ignored rows and label smoothing, stable for any score.
You saw why accuracy can't be trained on, and what a loss has that accuracy hasn't: a direction at every point.
You know the loss of knowing nothing, $\log C$, and can read a training's first number.
You took shapes seriously: (N, 1) against (N,) is an error here, not a surprise.
**Next:** the direction itself, for every weight at once: `tito module start 05`.
"""

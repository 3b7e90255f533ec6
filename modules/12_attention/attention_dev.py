# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.attention

# %% [markdown]
r"""
# Attention

> Every position asks all others, and takes a mixture of their answers.

**Built before:** embeddings, which say what a token is and where it stands. So far each token is on its own.
**Built here:** tokens that look at one another: attention and its masks, with gradients; the same attention without its big table; heads; and pictures of who looks at whom.
**Time:** 5 to 6 hours; two evenings, with a natural pause before "The big table". **Points:** 88 for code, 12 for the questions at the end.
"""

# %%
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinytorch.core.activations import in_pieces
from tinytorch.core.autograd import joint_vjp
from tinytorch.core.layers import Dropout, Linear, Module
from tinytorch.core.tensor import Tensor, concatenate, exp, matmul, op, watching

# %%
import time
import tracemalloc
from functools import partial
from pydoc_data.topics import topics

from tinytorch.core.activations import ReLU, softmax
from tinytorch.core.autograd import grad, gradcheck, no_grad
from tinytorch.core.layers import Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.tensor import concat, manual_seed, randn
from tinytorch.text.embeddings import Embedding, RotaryPositions
from tinytorch.text.tokenization import CharTokenizer

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the lesson works without pictures

# %% [markdown]
r"""
## A note, and a question

A note holds six letters, each with a digit: `f7 k1 c9 a7 x0 q3`. Then somebody asks: `c`? You answer 9 without having to think. Every note is new, so there is nothing to learn by heart but one thing: how to look something up.

**Predict:** a network gets the six pairs' vectors and the question's, side by side, and trains on 32,000 notes. How often is it right on new ones? (Guessing gives 10 %.) And what does it do with a note of seven pairs?
"""

# %%
PAIRS = 6


def notes(rng, count, pairs=PAIRS):
    """Letters and digits (count, pairs), the letters asked for and the right digits (count,)"""
    letters = rng.permuted(np.tile(np.arange(26), (count, 1)), axis=1)[:, :pairs]
    digits = rng.integers(0, 10, (count, pairs))
    asked = np.arange(count), rng.integers(0, pairs, count)
    return letters, digits, letters[asked], digits[asked]


def train_on_notes(model, steps):
    rng, loss_of = np.random.default_rng(0), CrossEntropyLoss()
    optimizer = Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        *note, answers = notes(rng, 128)
        loss = loss_of(model(*note), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def share_of_right_answers(model, pairs=PAIRS):
    *note, answers = notes(np.random.default_rng(1), 1000, pairs)
    return (model(*note).numpy().argmax(axis=1) == answers).mean()


# %%
class SideBySide(Module):
    def __init__(self):
        self.letter, self.digit = Embedding(26, 16), Embedding(10, 16)
        self.layers = Sequential(Linear(16 * (PAIRS + 1), 256), ReLU(), Linear(256, 10))

    def forward(self, letters, digits, asked):
        pairs = self.letter(letters) + self.digit(digits)  # (N, 6, 16)
        everything = concat([pairs, self.letter(asked)[:, None]], axis=1)
        return self.layers(everything.reshape(len(asked), -1))


manual_seed(0)
side_by_side = SideBySide()
train_on_notes(side_by_side, steps=250)
print(f"right on new notes: {share_of_right_answers(side_by_side):.1%}")

_, digits, _, answers = notes(np.random.default_rng(1), 1000)
most_frequent = [np.bincount(row).argmax() for row in digits]
print(f"always the digit that the note has most often: {(most_frequent == answers).mean():.1%}")

# %% [markdown]
r"""
It has found out which digits the note holds, and hardly looks at the question. It would have to learn "compare the question with the letter at place 1" for every place and every letter anew, and a seventh pair doesn't even fit its weight. What it lacks is an operation that **compares**.

## A soft dictionary

Python has that operation: `{"f": 7, "k": 1, "c": 9}["c"]` compares the question with each key and gives the value of the equal one. But a network can't be trained on "equal or not": there is no slope to follow. So make it soft:

- question and keys are vectors: the **query** $q$ and the **keys** $k_s$. The more alike they are, the larger their product $q \cdot k_s$, the **score**;
- softmax makes shares of the scores, which sum to 1: the **weights** $w_s$;
- the answer is a mixture of the **values** $v_s$ by these weights.

$$w_s = \frac{e^{q \cdot k_s}}{\sum_r e^{q \cdot k_r}} \qquad y = \sum_s w_s v_s$$

```
  query q  ----+-----------+-----------+
               |           |           |
  keys        k_0         k_1         k_2      scores    0.20   3.10   0.40
                                               weights   0.05   0.89   0.06
  values      v_0         v_1         v_2      answer    0.05 v_0 + 0.89 v_1 + 0.06 v_2
```

**Predict** the mixture for values 7, 1 and 9, if the query is 0, 1, 3 and 10 times as long as the key `[0, 1, 0]`.
"""

# %%
keys, values = np.eye(3), np.array([7.0, 1.0, 9.0])
for length in (0, 1, 3, 10):
    powers = np.exp(length * keys[1] @ keys.T)
    print(f"length {length:2}: weights {(powers / powers.sum()).round(3)}", end=", ")
    print(f"answer {powers / powers.sum() @ values:.3f}")

# %% [markdown]
r"""
From the mean of everything to a dictionary, without a break: every step between has a slope.

Sometimes a query *mustn't* look at a key: because the key lies in the future, or only fills up a short text. Then its score is $-\infty$, and $e^{-\infty} = 0$. **Predict** what the softmax that you know gives for a row in which everything is forbidden.
"""

# %%
with np.errstate(invalid="ignore"):
    print(softmax(np.array([[0.0, 0.0, -np.inf], [-np.inf, -np.inf, -np.inf]])))

# %% [markdown]
r"""
$-\infty - (-\infty)$ is not a number, and one such row turns every weight of a network into NaN at the next step. A query that may look nowhere should get nothing: weights 0.

**Exercise 1 (6 points).** Write `softmax_of_scores`: softmax along the last axis (subtract the largest score of a row first, so that no power overflows), where a row of $-\infty$ alone gives zeros, and so does a row of no scores at all. The argument stays as it is. For `[0, 0, -inf]` it gives `[0.5, 0.5, 0]`. (`@in_pieces`, from module 02, hands your function a few rows at a time.)

<details><summary>Hint</summary>

`scores.max(axis=-1, keepdims=True, initial=-np.inf)` works for empty rows, too. Where it is `-inf`, subtract 0 instead: all powers are 0 then. Where their sum is 0, divide by 1.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "softmax-of-scores", "locked": false, "solution": true}
#| exporti
@in_pieces
def softmax_of_scores(scores: np.ndarray) -> np.ndarray:
    """Softmax along the last axis; a row of -inf alone becomes zeros, not NaN.

    >>> softmax_of_scores(np.array([[0.0, 0.0, -np.inf], [-np.inf, -np.inf, -np.inf]]))
    array([[0.5, 0.5, 0. ],
           [0. , 0. , 0. ]])
    """
    ### BEGIN SOLUTION
    peak = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    peak[peak == -np.inf] = 0
    powers = scores - peak
    np.exp(powers, out=powers)
    total = powers.sum(axis=-1, keepdims=True)
    total[total == 0] = 1
    powers /= total
    return powers
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-softmax-of-scores", "locked": true, "points": 6, "solution": false}
def test_softmax_of_scores():
    inf = np.inf
    check(softmax_of_scores(np.array([[0.0, 0.0, -inf]])), [[0.5, 0.5, 0.0]], "-inf gets nothing")
    check(softmax_of_scores(np.log([[1.0, 3.0]])), [[0.25, 0.75]], "e^score, divided by their sum")
    scores = np.array([[-inf, -inf], [0.0, 0.0]])
    check(softmax_of_scores(scores), [[0.0, 0.0], [0.5, 0.5]], "nowhere to look: zeros, not NaN")
    check(softmax_of_scores(np.array([[1e4, 0.0]])), [[1.0, 0.0]], "subtract the largest first")
    ### BEGIN HIDDEN TESTS
    check(scores, [[-inf, -inf], [0.0, 0.0]], "the scores stay as they are")
    check(softmax_of_scores(np.array([[-1e4, -1e4]])), [[0.5, 0.5]], "small is not forbidden")
    check(softmax_of_scores(np.zeros((2, 0))).shape, (2, 0), "no keys at all")
    check(softmax_of_scores(np.zeros((2, 3, 4))).sum(axis=-1), np.ones((2, 3)), "the last axis")
    check(softmax_of_scores(np.zeros((1, 2), np.float32)).dtype, np.float32, "the dtype stays")
    ### END HIDDEN TESTS


test_softmax_of_scores()

# %% [markdown]
r"""
## How large is a product?

**Predict:** query and keys hold $D$ standard normal numbers. By how much do the products spread: does it depend on $D$? The table also says what the largest of 50 weights is, on average.
"""

# %%
manual_seed(0)
print(f"{'D':>5} {'spread of q k':>14} {'largest weight':>15} {'the same, with q k / sqrt(D)':>29}")
for size in (4, 64, 1024):
    scores = randn(200, size).numpy() @ randn(size, 50).numpy()
    largest = [softmax_of_scores(x).max(axis=1).mean() for x in (scores, scores / size**0.5)]
    print(f"{size:5} {scores.std():14.2f} {largest[0]:15.3f} {largest[1]:29.3f}")

# %% [markdown]
r"""
A sum of $D$ products of variance 1 has the variance $D$, so it spreads by $\sqrt D$. With large $D$ the softmax of a network that has learned nothing yet would put everything on one key by chance; and where a weight is 1 or 0, its slope $w(1 - w)$ is 0, and nothing is learned from then on. So the scores are divided by $\sqrt D$. With all queries as rows of $Q$ `(T, D)`, all keys and values as rows of $K$ `(S, D)` and $V$ `(S, Dv)`, that is the whole of it (Vaswani et al. 2017):

$$Y = \mathrm{softmax}\Big(\frac{Q K^\top}{\sqrt D} + M\Big) V$$

## Masks

$M$ is the **mask**. Ours come in two kinds, as those of PyTorch's `F.scaled_dot_product_attention`: **booleans**, True where a query may look, and **floats**, which are added to the scores. (Beware: PyTorch's `nn.MultiheadAttention` hides where a mask is True.) A mask of ones and zeros could mean either, so it is refused. The most common mask has a name of its own: `is_causal`, for texts that are written from left to right. Query $t$ may look at keys $0$ to $t$ and never at what comes later, or it would learn to copy the answer.

```
                  key   0    1    2    3
        query 0         .   -inf -inf -inf
        query 1         .    .   -inf -inf
        query 2         .    .    .   -inf
```

Given are `checked_mask`, which makes an array of a mask and stretches its last two axes to `(T, S)`, and `checked_scale`: the factor of the scores, $1/\sqrt D$ unless another one is asked for.
"""


# %% nbgrader={"grade": false, "grade_id": "checked-mask", "locked": true, "solution": false}
#| exporti
def checked_mask(mask: Any, shape: tuple[int, ...], kinds: str = "bf") -> np.ndarray:
    """The mask as an array whose last two axes are those of scores (..., T, S).

    TypeError for another kind of dtype, ValueError where it does not broadcast to `shape`.

    >>> checked_mask([True, False, True], (4, 2, 3)).shape
    (2, 3)
    """
    mask = np.asarray(mask)
    if mask.dtype.kind not in kinds:
        also = "or floats (added to the scores)" if "f" in kinds else "alone with block_size="
        raise TypeError(f"expected a mask of booleans (True: may look) {also}, got {mask.dtype}")
    sizes = zip(mask.shape[::-1], shape[::-1], strict=False)
    if mask.ndim > len(shape) or any(n not in (1, size) for n, size in sizes):
        raise ValueError(f"mask of {mask.shape} does not fit scores of {shape}")
    return np.broadcast_to(mask, (*mask.shape[:-2], *shape[-2:]))


def checked_scale(q: Any, k: Any, scale: float | None) -> float:
    """The factor of the scores, 1 / sqrt(D) by default; ValueError where q and k do not fit."""
    if q.ndim < 2 or k.ndim < 2 or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"queries (..., T, D) and keys (..., S, D) have one D; got {q.shape} and {k.shape}"
        )
    return 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else scale


# %% [markdown]
r"""
**Exercise 2 (8 points).** Write `added_to_scores`: what is added to the scores of *some* queries and keys. `rows` and `columns` are slices with a start and a stop, and the answer has the shape `(..., rows, columns)`; you'll need it for parts of the table soon. `mask` is None or comes from `checked_mask`.

- A boolean mask gives 0 (may look) and `-inf`, in `dtype`; a floating one is added as it is.
- `is_causal` gives `-inf` where the key comes after the query. The numbers of queries and keys are their places in the whole text: for `slice(1, 3)` and `slice(0, 3)` it is `[[0, 0, -inf], [0, 0, 0]]`.
- Both together add up. If nothing is to be added (no mask, and no key comes after any of the queries), the answer is None.
"""


# %% nbgrader={"grade": false, "grade_id": "added-to-scores", "locked": false, "solution": true}
#| exporti
def added_to_scores(mask, is_causal, rows: slice, columns: slice, dtype) -> np.ndarray | None:
    """What is added to the scores of these queries (rows) and keys (columns): -inf hides a key.

    `mask` comes from `checked_mask` or is None. The answer is None where nothing is to be added.

    >>> added_to_scores(None, True, slice(0, 2), slice(0, 3), np.float32)
    array([[  0., -inf, -inf],
           [  0.,   0., -inf]], dtype=float32)
    """
    ### BEGIN SOLUTION
    added, zero, hidden = None, np.array(0, dtype), np.array(-np.inf, dtype)
    if mask is not None:
        added = mask[..., rows, columns]
        if added.dtype == bool:
            added = np.where(added, zero, hidden)
    if is_causal and columns.stop - 1 > rows.start:
        queries, keys = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
        later = keys > queries[:, None]
        causal = np.where(later, hidden, zero)
        added = causal if added is None else added + causal
    return added
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-added-to-scores", "locked": true, "points": 8, "solution": false}
def added(mask, is_causal, rows, columns):
    return added_to_scores(mask, is_causal, slice(*rows), slice(*columns), np.float32)


def test_added_to_scores():
    inf, may = np.inf, np.array([[True, False, True], [False, True, True]])
    check(added(None, True, (1, 3), (0, 3)), [[0.0, 0.0, -inf], [0.0, 0.0, 0.0]], "later is hidden")
    check(added(may, False, (0, 2), (1, 3)), [[-inf, 0.0], [0.0, 0.0]], "True: may look")
    check(added(np.array([[1.5, -2.0]]), False, (0, 1), (0, 2)), [[1.5, -2.0]], "floats stay")
    check(added(may, True, (0, 2), (0, 3))[0], [0.0, -inf, -inf], "hidden by the mask, or later")
    check(added(None, False, (0, 2), (0, 3)), None, "nothing to add")
    ### BEGIN HIDDEN TESTS
    check(added(None, True, (4, 6), (0, 5)), None, "all keys lie in the past: nothing to add")
    check(added(None, True, (4, 6), (3, 6))[0], [0.0, 0.0, -inf], "places in the whole text")
    check(added(may, True, (0, 2), (0, 3)).dtype, np.float32, "the dtype that was asked for")
    check(added(np.array([[1.5, -2.0]]), True, (0, 1), (0, 2)), [[1.5, -inf]], "floats and later")
    check(added(may[None], False, (1, 2), (0, 3)), [[[-inf, 0.0, 0.0]]], "leading axes stay")
    ### END HIDDEN TESTS


test_added_to_scores()

# %% [markdown]
r"""
**Exercise 3 (8 points).** Write `attention_weights`, the softmax of the formula: `(..., T, S)` for queries `(..., T, D)` and keys `(..., S, D)`. Its parts are there: `checked_scale`, `checked_mask(mask, scores.shape)` if there is a mask, `added_to_scores` for all rows, `slice(0, T)`, and all columns, `softmax_of_scores`. Here `q` and `k` are arrays: `@op` unwraps tensors.

For queries `[[0], [1]]` and keys `[[0], [0], [9]]`, causal, the weights are `[[1, 0, 0], [0.5, 0.5, 0]]`.
"""


# %% nbgrader={"grade": false, "grade_id": "attention-weights", "locked": false, "solution": true}
#| export
@op
def attention_weights(q, k, mask=None, is_causal=False, scale=None):
    """softmax(q k^T scale + mask): how much each query looks at each key, (..., T, S).

    Queries (..., T, D), keys (..., S, D); `scale` is 1 / sqrt(D) unless given. A mask that
    broadcasts to (..., T, S) is boolean (True: may look) or floating (added to the scores);
    `is_causal` lets query t look at keys 0 to t only. A query that may look nowhere has weights 0.
    (Vaswani et al. 2017, section 3.2.1.)

    >>> attention_weights(Tensor([[0], [1]]), Tensor([[0], [0], [9]]), is_causal=True)
    Tensor([[1. , 0. , 0. ],
            [0.5, 0.5, 0. ]])
    """
    ### BEGIN SOLUTION
    scores = (q * checked_scale(q, k, scale)) @ k.swapaxes(-1, -2)
    if mask is not None:
        mask = checked_mask(mask, scores.shape)
    everywhere = slice(0, scores.shape[-2]), slice(0, scores.shape[-1])
    added = added_to_scores(mask, is_causal, *everywhere, scores.dtype)
    if added is not None:
        scores += added
    return softmax_of_scores(scores)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-attention-weights", "locked": true, "points": 8, "solution": false}
def test_attention_weights():
    q, k = Tensor([[0], [1]]), Tensor([[0], [0], [9]])
    check(attention_weights(q, k, is_causal=True), [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], "the past")
    root = np.log(3) * 2  # scores 0 and ln 3, after the division by sqrt(4)
    one, two = Tensor([[1, 0, 0, 0]]), Tensor([[0, 0, 0, 0], [root, 0, 0, 0]])
    check(attention_weights(one, two), [[0.25, 0.75]], "the scores are divided by the root of D")
    mask = [[True, True, False], [False, False, False]]
    expected = [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    check(attention_weights(q, k, mask), expected, "True: may look; nowhere to look: zeros")
    with check_raises(ValueError, "(4,)", "four booleans don't fit three keys"):
        attention_weights(q, k, [True] * 4)
    ### BEGIN HIDDEN TESTS
    check(
        attention_weights(q, k, np.log([1.0, 2.0, 1.0]))[0], [0.25, 0.5, 0.25], "floats are added"
    )
    check(attention_weights(q, k, scale=0.0)[1], [1 / 3] * 3, "another scale")
    manual_seed(0)
    q, k = randn(2, 5, 1, 4), randn(5, 3, 4)
    check(attention_weights(q, k)[1, 2], attention_weights(q[1, 2], k[2]).numpy(), "leading axes")
    check(attention_weights(q, k).dtype, np.float32, "float32 stays float32")
    with check_raises(TypeError, "int64", "ones and zeros could mean either"):
        attention_weights(q, k, np.ones((1, 3), np.int64))
    ### END HIDDEN TESTS


test_attention_weights()

# %% [markdown]
r"""
## The way back

The gradient has to get through the softmax and through the product. You know the first part from module 05: with $g$ the gradient of the weights, that of the scores (a bar means: gradient of) is $\bar s_i = w_i (g_i - \sum_j w_j g_j)$, in every row for itself. It is given: `softmax_gradient(g, out)`. Where a weight is 0, so is the gradient: nothing is learned about keys that are hidden.

**Exercise 4 (8 points).** Write `attention_weights_rule`. It is a *joint* rule: the three inputs `q`, `k` and `mask` share $\bar s$, so one function returns all three gradients, in this order. What are they, for $s = c\,q k^\top + m$ with the factor $c$? (Sums over broadcast axes are done by the walk.) Keep to operators and `swapaxes`: under `create_graph` these are tensors.

One number: with one query `[[1]]`, keys `[[2], [2]]`, $c = 1$ and $g$ = `[[1, 0]]`, the weights are 1/2 each, $\bar s$ = `[[0.25, -0.25]]`, the gradient of `q` is `[[0]]` and that of `k` is `[[0.25], [-0.25]]`.
"""


# %% nbgrader={"grade": false, "grade_id": "softmax-gradient", "locked": true, "solution": false}
#| exporti
@in_pieces
def softmax_gradient(g, weights):
    """What the scores get, where the weights (..., S) get g."""
    g_scores = g * weights
    g_scores -= weights * g_scores.sum(axis=-1, keepdims=True)
    return g_scores


# %% nbgrader={"grade": false, "grade_id": "attention-weights-rule", "locked": false, "solution": true}
#| exporti
def attention_weights_rule(g, out, q, k, mask=None, is_causal=False, scale=None):
    """Back through the softmax, then through the product; an added mask gets what scores get."""
    ### BEGIN SOLUTION
    scale = checked_scale(q, k, scale)
    g_scores = softmax_gradient(g, out)
    return (g_scores @ k) * scale, g_scores.swapaxes(-1, -2) @ (q * scale), g_scores
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "rules", "locked": true, "solution": false}
#| exporti
joint_vjp(attention_weights, attention_weights_rule)


# %% nbgrader={"grade": true, "grade_id": "test-attention-weights-rule", "locked": true, "points": 8, "solution": false}
def test_attention_weights_rule():
    q, k = Tensor([[1]], requires_grad=True), Tensor([[2], [2]], requires_grad=True)
    of_q, of_k = grad(attention_weights(q, k), [q, k], [[1.0, 0.0]])
    check(of_q, [[0.0]], "0.25 * 2 - 0.25 * 2")
    check(of_k, [[0.25], [-0.25]], "the scores' gradients times the query")
    manual_seed(0)
    q, k, mask = randn(2, 3, 4), randn(2, 5, 4), randn(3, 5)
    right = gradcheck(lambda q, k: attention_weights(q, k, is_causal=True), q, k)
    check(right, True, "the slopes of q and k, with the scale")
    check(gradcheck(attention_weights, q, k, mask), True, "an added mask learns, too")
    ### BEGIN HIDDEN TESTS
    check(gradcheck(lambda q: attention_weights(q, k, scale=0.3), q), True, "another scale")
    check(gradcheck(lambda k: attention_weights(q, k, scale=3.0), k), True, "another scale")
    check(gradcheck(attention_weights, q[0], k[0], order=2, tolerance=1e-4), True, "second order")
    ### END HIDDEN TESTS


test_attention_weights_rule()

# %% [markdown]
r"""
Back to the notes. The network below makes a key and a value of each pair and a query of the letter that is asked for, each with a `Linear`: it can learn *what to look for*, *what to be found by* and *what to tell*. It has a twentieth of the other network's weights and trains for fewer steps.

**Predict:** how often is it right? And on notes with 24 pairs, which it has never seen?
"""


# %%
class LookUp(Module):
    def __init__(self):
        self.letter, self.digit = Embedding(26, 16), Embedding(10, 16)
        self.query, self.key, self.value = (Linear(16, 16) for _ in range(3))
        self.last = Linear(16, 10)

    def forward(self, letters, digits, asked):
        pairs = self.letter(letters) + self.digit(digits)  # (N, 6, 16)
        weights = attention_weights(self.query(self.letter(asked)[:, None]), self.key(pairs))
        self.seen = weights.numpy()  # to look at it
        return self.last((weights @ self.value(pairs))[:, 0])


manual_seed(0)
look_up = LookUp()
train_on_notes(look_up, steps=150)
for pairs in (PAIRS, 12, 24):
    print(f"right on new notes of {pairs:2} pairs: {share_of_right_answers(look_up, pairs):.1%}")

# %%
letters, digits, asked, answers = notes(np.random.default_rng(2), 3)
look_up(letters, digits, asked)
for note in range(3):
    pairs = (f"{chr(97 + a)}{b}" for a, b in zip(letters[note], digits[note], strict=True))
    print("pairs  ", *(f"{pair:>5}" for pair in pairs), f"   {chr(97 + asked[note])}?")
    print("weights", *(f"{w:5.2f}" for w in look_up.seen[note, 0]))

# %% [markdown]
r"""
Nobody told it where to look. That is attention, and you can see what it does.

## The big table

A good place for a pause. What follows is about size. **Predict:** the weights of a text of 2,048 tokens, in 8 heads and a batch of 8 (heads come later; they multiply), take how many bytes in float32? And by which factor does the memory grow if the text gets twice as long?
"""


# %% nbgrader={"grade": false, "grade_id": "peak-bytes", "locked": true, "solution": false}
def peak_bytes(run):
    """The most bytes that `run()` holds at any time."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


# %%
print(f"2,048 tokens, 8 heads, 8 texts: {8 * 8 * 2048**2 * 4:,} bytes\n")
print(f"{'T':>5} {'q, k and v, bytes':>18} {'peak of the weights, bytes':>27}")
for length in (256, 512, 1024, 2048):
    q, k = randn(length, 64), randn(length, 64)
    print(f"{length:5} {3 * q.nbytes:18,} {peak_bytes(partial(attention_weights, q, k)):27,}")

# %% [markdown]
r"""
What goes in and what comes out grows with $T$; what lies between grows with $T^2$, and the way back needs it again. Yet each row of the table is used for one thing: a mixture of $D$ numbers. If only softmax didn't have to see a whole row before it can give the first share: it needs the largest score, and the sum of all powers.

## Softmax in pieces

Does it? Take the keys block by block, and carry three things along for each query: the largest score so far $m$ (`peak`), the sum of powers so far $\ell$ (`total`) and the sum of powers times values so far $a$ (`mixture`), both relative to $m$. A new block with scores $s$ and values $v$ changes them to

$$m' = \max(m, \max_j s_j) \qquad \ell' = \ell\, e^{m - m'} + \sum_j e^{s_j - m'} \qquad a' = a\, e^{m - m'} + \sum_j e^{s_j - m'} v_j$$

If a larger score turns up, what was collected so far shrinks by $e^{m - m'}$: $e^{s - m} e^{m - m'} = e^{s - m'}$. In the end $y = a / \ell$. Nothing in that is an approximation.

**Predict** the three numbers after each of two blocks: scores $\ln 1, \ln 3$ with values 10, 20; then score $\ln 6$ with value 40. And $y$?

**Exercise 5 (10 points).** Write `online_softmax_step`. `state` is `(peak, total, mixture)` of shapes `(..., R, 1)`, `(..., R, 1)`, `(..., R, Dv)`; `scores` `(..., R, C)` is yours and may be overwritten; `values` `(..., C, Dv)`. The peak starts at $-\infty$, and stays there while a query has seen hidden keys alone: no NaN may come of it. (Blocks may be empty.)

<details><summary>Hint</summary>

Subtract `shift`, which is the new peak, or 0 where that is `-inf`. Then all powers of hidden keys are 0, and `np.exp(peak - shift)` is right from the first block on, when `peak` is still `-inf`.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "online-softmax", "locked": false, "solution": true}
#| exporti
def online_softmax_step(state: tuple, scores: np.ndarray, values: np.ndarray) -> tuple:
    """Take one more block of keys into (peak, total, mixture), without having seen the others.

    `peak` is the largest score so far, `total` the sum of e^(score - peak), `mixture` the sum of
    e^(score - peak) value. (Milakov and Gimelshein 2018; Dao et al. 2022, algorithm 1.)
    """
    ### BEGIN SOLUTION
    peak, total, mixture = state
    new_peak = np.maximum(peak, scores.max(axis=-1, keepdims=True, initial=-np.inf))
    shift = np.where(new_peak == -np.inf, 0, new_peak)  # -inf - -inf would be NaN
    scores -= shift
    powers = np.exp(scores, out=scores)
    shrink = np.exp(peak - shift)
    total = total * shrink + powers.sum(axis=-1, keepdims=True)
    return new_peak, total, mixture * shrink + powers @ values
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-online-softmax", "locked": true, "points": 10, "solution": false}
def test_online_softmax_step():
    state = np.full((1, 1), -np.inf), np.zeros((1, 1)), np.zeros((1, 1))
    state = online_softmax_step(state, np.log([[1.0, 3.0]]), np.array([[10.0], [20.0]]))
    check(state[0], [[np.log(3)]], "the largest so far")
    check(state[1], [[4 / 3]], "1/3 + 3/3: powers relative to the peak")
    check(state[2], [[70 / 3]], "10/3 + 20")
    peak, total, mixture = online_softmax_step(state, np.log([[6.0]]), np.array([[40.0]]))
    check(total, [[5 / 3]], "a new peak: what was there is halved")
    check(mixture / total, [[31.0]], "(1 * 10 + 3 * 20 + 6 * 40) / 10")
    ### BEGIN HIDDEN TESTS
    again = online_softmax_step((peak, total, mixture), np.log([[2.0]]), np.array([[43.0]]))
    check(again[0], [[np.log(6)]], "the peak never falls")
    check(again[2] / again[1], [[33.0]], "(310 + 2 * 43) / 12")
    nothing = np.full((1, 1), -np.inf), np.zeros((1, 1)), np.zeros((1, 1))
    hidden = online_softmax_step(nothing, np.array([[-np.inf, -np.inf]]), np.ones((2, 1)))
    check(hidden[1:], ([[0.0]], [[0.0]]), "hidden keys alone: nothing yet, and no NaN")
    seen = online_softmax_step(hidden, np.array([[-5.0]]), np.array([[7.0]]))
    check((seen[0], seen[2] / seen[1]), ([[-5.0]], [[7.0]]), "the first key that may be seen")
    empty = online_softmax_step(seen, np.zeros((1, 0)), np.zeros((0, 1)))
    check(empty[2], seen[2], "an empty block changes nothing")
    large = online_softmax_step(seen, np.array([[1000.0]]), np.array([[8.0]]))
    check(large[1:], ([[1.0]], [[8.0]]), "no overflow")
    ### END HIDDEN TESTS


test_online_softmax_step()

# %%
state = np.full((1, 1), -np.inf), np.zeros((1, 1)), np.zeros((1, 1))
for powers, block in (([1, 3], [10, 20]), ([6], [40])):
    state = online_softmax_step(state, np.log([powers]), np.array(block)[:, None])
    peak, total, mixture = (x.item() for x in state)
    print(f"e^peak {np.exp(peak):.3f}, total {total:.3f}, mixture {mixture:.3f}")
print(f"y = {mixture / total:.3f}")

# %% [markdown]
r"""
## Tile by tile

So the table can be made in **tiles**, some queries times some keys, and each tile is forgotten as soon as it has been used:

```
                    keys 0-127   keys 128-255   keys 256-383
  queries   0-127     tile           -              -           - lies in the future of
  queries 128-255     tile          tile            -             all its queries: causal
  queries 256-383     tile          tile           tile           attention never makes it
```

Memory then grows with $T$, for any text. This is FlashAttention's idea (Dao et al. 2022). Two small functions are given: `blocks` cuts positions into slices, and `tiles` makes the scores of one row of tiles, masked, one after another.
"""


# %% nbgrader={"grade": false, "grade_id": "blocks", "locked": true, "solution": false}
#| exporti
def blocks(length: int, size: int) -> list[slice]:
    """Positions 0 to length - 1 in blocks of `size`; the last may be shorter, one may be empty.

    >>> blocks(5, 3)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    if size < 1:
        raise ValueError(f"block_size must be at least 1, got {size}")
    starts = range(0, max(length, 1), size)
    return [slice(start, min(start + size, length)) for start in starts]


def tiles(q, k, mask, is_causal: bool, rows: slice, block_size: int) -> Iterator[tuple]:
    """Block after block of the keys that the queries `rows` may look at: (columns, scores)."""
    for columns in blocks(k.shape[-2], block_size):
        if is_causal and columns.start >= rows.stop:
            return
        scores = q[..., rows, :] @ k[..., columns, :].swapaxes(-1, -2)
        added = added_to_scores(mask, is_causal, rows, columns, scores.dtype)
        if added is not None:
            scores += added
        yield columns, scores


# %% [markdown]
r"""
The way back needs the weights again, and they were never kept. But they can be made again, tile by tile, from two things: the scores, and one number for each query, the logarithm of the sum of all its powers:

$$L = \ln \sum_s e^{s} = m + \ln \ell \qquad w_s = e^{s - L}$$

So `blocked_attention` gives $D_v + 1$ numbers for each query: the mixture, and in the last column $L$.

**Exercise 6 (10 points).** Fill `out`. For each slice `rows` of `blocks(T, block_size)`: begin a state (peak $-\infty$, total and mixture zeros, of the shapes above and the dtype of `out`), take in every tile of `tiles(...)` with the values of its columns, then write $a / \ell$ and $L$ into the rows of `out`. A query that has seen nothing ($\ell = 0$) gets zeros, and 0 for $L$.
"""


# %% nbgrader={"grade": false, "grade_id": "blocked-attention", "locked": false, "solution": true}
#| exporti
@op
def blocked_attention(q, k, v, mask=None, is_causal=False, scale=None, block_size=128):
    """Attention by tiles: (..., T, Dv + 1), the mixtures and, last, the log of each softmax's sum.

    No array of T x S numbers exists at any time. The last column is what the way back needs to make
    each tile of weights again; it is 0 for a query that may look nowhere.

    >>> blocked_attention(Tensor([[0]]), Tensor([[0], [0]]), Tensor([[1], [3]]), block_size=1)
    Tensor([[2.    , 0.6931]])
    """
    q = q * checked_scale(q, k, scale)
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    if mask is not None:
        mask = checked_mask(mask, (*lead, q.shape[-2], k.shape[-2]), kinds="b")
    out = np.empty((*lead, q.shape[-2], v.shape[-1] + 1), np.result_type(q, k, v))
    ### BEGIN SOLUTION
    for rows in blocks(q.shape[-2], block_size):
        peak = np.full((*lead, rows.stop - rows.start, 1), -np.inf, out.dtype)
        state = peak, np.zeros_like(peak), np.zeros_like(out[..., rows, :-1])
        for columns, scores in tiles(q, k, mask, is_causal, rows, block_size):
            state = online_softmax_step(state, scores, v[..., columns, :])
        peak, total, mixture = state
        nowhere = total == 0
        peak[nowhere], total[nowhere] = 0, 1
        out[..., rows, :-1] = mixture / total
        out[..., rows, -1:] = peak + np.log(total)
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-blocked-attention", "locked": true, "points": 10, "solution": false}
def test_blocked_attention():
    q, k, v = Tensor([[0]]), Tensor([[0], [0]]), Tensor([[1], [3]])
    expected = [[2.0, np.log(2)]]
    check(blocked_attention(q, k, v, block_size=1), expected, "the mean, and ln(e^0 + e^0)")
    manual_seed(0)
    q, k, v = randn(2, 5, 4), randn(2, 7, 4), randn(2, 7, 3)
    plain = (attention_weights(q, k, is_causal=True) @ v).numpy()
    for size in (1, 3, 100):
        out = blocked_attention(q, k, v, is_causal=True, block_size=size)
        check(out[..., :-1], plain, f"plain attention's numbers, in blocks of {size}")
    long = randn(512, 8)
    peak = peak_bytes(lambda: blocked_attention(long, long, long, block_size=32))
    check(peak < 500_000, True, "the whole table of 512 x 512 would be 1,048,576 bytes")
    ### BEGIN HIDDEN TESTS
    mask = np.array([[True] * 7, [False] * 7, [False] * 6 + [True], [True] * 7, [True] * 7])
    got = blocked_attention(q, k, v, mask, block_size=2)
    check(got[..., :-1], (attention_weights(q, k, mask) @ v).numpy(), "a mask, and hidden tiles")
    check(got[:, 1], np.zeros((2, 4)), "nowhere to look: zeros")
    check(blocked_attention(q[0], k, v[1], block_size=4).shape, (2, 5, 4), "leading axes broadcast")
    check(blocked_attention(q, k[:, :0], v[:, :0]), np.zeros((2, 5, 4)), "no keys")
    check(blocked_attention(q * 1e4, k, v, block_size=2).sum() * 0, 0.0, "no overflow")
    low = blocked_attention(Tensor([[90]]), Tensor([[-90], [-90]]), Tensor([[1], [3]]))
    check(low, [[2.0, np.log(2) - 8100]], "very low scores aren't hidden ones")
    ### END HIDDEN TESTS


test_blocked_attention()

# %% [markdown]
r"""
## Back, tile by tile

With $g$ the gradient of the mixtures $Y = W V$, and $w$ a tile of weights, the product gives $\bar v = w^\top g$ and $\bar w = g v^\top$. The softmax then wants $\bar s = w\,(\bar w - \sum_j w_j \bar w_j)$, and this sum goes over the *whole* row, of which we have one tile. **Predict** whether it can be had without the other tiles, before you run the cell. (What is $\sum_j w_j (g \cdot v_j)$?)
"""

# %%
manual_seed(0)
w, v, g = attention_weights(randn(4, 8), randn(6, 8)).numpy(), randn(6, 3).numpy(), np.ones((4, 3))
print((w * (g @ v.T)).sum(axis=1).round(5))
print((g * (w @ v)).sum(axis=1).round(5))

# %% [markdown]
r"""
It is $g \cdot y$: the gradient times the answer, one number for each query, known from the start. The last column $L$ has a gradient as well (when the way back is itself walked back), and $\partial L / \partial s = w$. Together, with $o = g_L - g \cdot y$ for `offset`:

$$w = e^{s - L} \qquad \bar v = w^\top g \qquad \bar s = w\,(g v^\top + o) \qquad \bar q = \bar s\, k \qquad \bar k = \bar s^\top q$$

**Exercise 7 (8 points).** Write `tile_gradients`: `(of q, of k, of v)` for one tile. `g` `(..., R, Dv)`, `offset` and `log_sum` `(..., R, 1)`, `scores` `(..., R, C)`, `q` `(..., R, D)`, `k` `(..., C, D)`, `v` `(..., C, Dv)`. Keep to operators, `swapaxes` and the op `exp`, for tensors' sake. With one query `[[1]]` and one key `[[2]]`, score 2, log of the sum $2 + \ln 2$, value `[[3]]`, $g$ = `[[1]]` and offset -1: the weight is 1/2, $\bar s = 1/2 \cdot (3 - 1) = 1$, so the gradients are 2, 1 and 1/2.
"""


# %% nbgrader={"grade": false, "grade_id": "tile-gradients", "locked": false, "solution": true}
#| exporti
def tile_gradients(g, offset, log_sum, scores, q, k, v) -> tuple:
    """What one tile adds to the gradients of its queries, keys and values.

    `g` (..., R, Dv), `offset` and `log_sum` (..., R, 1) belong to the rows of the tile `scores`
    (..., R, C); `q` is scaled. (Dao et al. 2022, appendix B.2.)
    """
    ### BEGIN SOLUTION
    weights = exp(scores - log_sum)
    g_scores = weights * (g @ v.swapaxes(-1, -2) + offset)
    return g_scores @ k, g_scores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ g
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-tile-gradients", "locked": true, "points": 8, "solution": false}
def test_tile_gradients():
    g, offset, log_sum = np.array([[1.0]]), np.array([[-1.0]]), np.array([[2 + np.log(2)]])
    q, k, v = np.array([[1.0]]), np.array([[2.0]]), np.array([[3.0]])
    of_q, of_k, of_v = tile_gradients(g, offset, log_sum, q @ k.T, q, k, v)
    check(of_q, [[2.0]], "the score's gradient 1, times the key 2")
    check(of_k, [[1.0]], "the score's gradient 1, times the query 1")
    check(of_v, [[0.5]], "the weight 1/2, times g")
    ### BEGIN HIDDEN TESTS
    rng = np.random.default_rng(0)
    q, k, v, g = (rng.standard_normal(s) for s in [(2, 3, 4), (2, 5, 4), (2, 5, 2), (2, 3, 2)])
    scores = q @ k.swapaxes(-1, -2)
    log_sum = np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    y = np.exp(scores - log_sum) @ v
    offset = -(g * y).sum(axis=-1, keepdims=True)
    leaves = [Tensor(x, dtype=np.float64, requires_grad=True) for x in (q, k, v)]
    expected = grad(attention_weights(*leaves[:2], scale=1.0) @ leaves[2], leaves, g)
    got = tile_gradients(g, offset, log_sum, scores, q, k, v)
    for a, b in zip(got, expected, strict=True):
        check(a, b.numpy(), "where one tile is the whole table: plain attention's gradients")
    hidden = np.full((2, 3, 5), -np.inf)
    check(tile_gradients(g, offset, log_sum, hidden, q, k, v)[2], np.zeros((2, 5, 2)), "hidden: 0")
    check(type(tile_gradients(*map(Tensor, (g, offset, log_sum, scores, q, k, v)))[0]), Tensor, "")
    ### END HIDDEN TESTS


test_tile_gradients()

# %% [markdown]
r"""
What remains is to walk over the tiles once more and to add up. That is given. Read it: it is the same walk as yours.
"""


# %% nbgrader={"grade": false, "grade_id": "blocked-attention-rule", "locked": true, "solution": false}
#| exporti
def zeros_by_block(lead: tuple[int, ...], x: Any, block_size: int) -> list[np.ndarray]:
    """Zeros for a gradient of x (..., L, D), block by block, to which tiles are added."""
    sizes = [block.stop - block.start for block in blocks(x.shape[-2], block_size)]
    return [np.zeros((*lead, size, x.shape[-1]), x.dtype) for size in sizes]


def blocked_attention_rule(g, out, q, k, v, mask=None, is_causal=False, scale=None, block_size=128):
    """Each tile of weights is made again, used, and forgotten."""
    scale, lead = checked_scale(q, k, scale), out.shape[:-2]
    q = q * scale
    if mask is not None:
        mask = checked_mask(mask, (*lead, q.shape[-2], k.shape[-2]), kinds="b")
    offset = g[..., -1:] - (g[..., :-1] * out[..., :-1]).sum(axis=-1, keepdims=True)
    g_q, g_k, g_v = (zeros_by_block(lead, x, block_size) for x in (q, k, v))
    for i, rows in enumerate(blocks(q.shape[-2], block_size)):
        of_rows = g[..., rows, :-1], offset[..., rows, :], out[..., rows, -1:]
        for j, (columns, scores) in enumerate(tiles(q, k, mask, is_causal, rows, block_size)):
            factors = q[..., rows, :], k[..., columns, :], v[..., columns, :]
            of_q, of_k, of_v = tile_gradients(*of_rows, scores, *factors)
            g_q[i] = g_q[i] + of_q
            g_k[j] = g_k[j] + of_k
            g_v[j] = g_v[j] + of_v
    return [concatenate(*parts, axis=-2) for parts in ([scale * x for x in g_q], g_k, g_v)]


joint_vjp(blocked_attention, blocked_attention_rule)


# %% [markdown]
r"""
**Exercise 8 (5 points).** Write `scaled_dot_product_attention`, the function that everybody calls. Without a `block_size`: the plain way, `dropout` (if there is one) applied to the weights, then times the values. With one: by blocks, without the last column. There are no weights then that a dropout could be applied to: raise a `ValueError` that says so.
"""


# %% nbgrader={"grade": false, "grade_id": "scaled-dot-product-attention", "locked": false, "solution": true}
#| export
def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout: Callable[[Tensor], Tensor] | None = None,
    block_size: int | None = None,
) -> Tensor:
    """A mixture of the values for each query: softmax(q k^T scale + mask) v, (..., T, Dv).

    Queries (..., T, D), keys (..., S, D), values (..., S, Dv); masks as in `attention_weights`. A
    query that may look nowhere gets zeros. `dropout` is applied to the weights. With a `block_size`
    the softmax is taken tile by tile and no (T, S) array is kept (Dao et al. 2022): the same
    numbers but for rounding, in far less memory; masks are boolean then, and there is no dropout.

    >>> q, k, v = Tensor([[0, 9]]), Tensor([[0, 0], [0, 9]]), Tensor([[1, 2], [3, 4]])
    >>> scaled_dot_product_attention(q, k, v)
    Tensor([[3., 4.]])
    """
    if min(q.ndim, k.ndim, v.ndim) < 2 or k.shape[-2] != v.shape[-2]:
        raise ValueError(
            "attention: expected queries (..., T, D), keys (..., S, D) and values (..., S, Dv), "
            f"got {q.shape}, {k.shape} and {v.shape}"
        )
    ### BEGIN SOLUTION
    if block_size is None:
        weights = attention_weights(q, k, mask, is_causal=is_causal, scale=scale)
        return matmul(weights if dropout is None else dropout(weights), v)
    if dropout is not None:
        raise ValueError("attention: with block_size= there are no weights for dropout")
    options = {"is_causal": is_causal, "scale": scale, "block_size": block_size}
    return blocked_attention(q, k, v, mask, **options)[..., :-1]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-scaled-dot-product-attention", "locked": true, "points": 5, "solution": false}
def test_scaled_dot_product_attention():
    q, k, v = Tensor([[0, 9]]), Tensor([[0, 0], [0, 9]]), Tensor([[1, 2], [3, 4]])
    hint = "the second key is much like the query: the second value"
    check(scaled_dot_product_attention(q, k, v), [[3.0, 4.0]], hint)
    check(scaled_dot_product_attention(q, k, v, block_size=1), [[3.0, 4.0]], hint)
    dropped = scaled_dot_product_attention(q, k, v, dropout=lambda x: x * Tensor([1, 0]))
    check(dropped, [[0.0, 0.0]], "dropout changes the weights, not the answer")
    with check_raises(ValueError, "dropout", "no weights, no dropout"):
        scaled_dot_product_attention(q, k, v, dropout=lambda x: x, block_size=1)
    ### BEGIN HIDDEN TESTS
    manual_seed(0)
    q, k, v = randn(2, 3, 4), randn(2, 3, 4), randn(2, 3, 2)
    mask = np.array([True, False, True])
    plain = scaled_dot_product_attention(q, k, v, mask, is_causal=True, scale=0.7).numpy()
    expected = (attention_weights(q, k, mask, is_causal=True, scale=0.7) @ v).numpy()
    check(plain, expected, "mask, is_causal and scale are handed on")
    got = scaled_dot_product_attention(q, k, v, mask, is_causal=True, scale=0.7, block_size=2)
    check(got, plain, "by blocks, too")
    for size in (None, 2):
        attend = partial(scaled_dot_product_attention, block_size=size)
        check(gradcheck(attend, q, k, v), True, f"gradients with block_size={size}")
    ### END HIDDEN TESTS


test_scaled_dot_product_attention()

# %% [markdown]
r"""
**Predict:** by how much do the two ways differ for 1,024 tokens, in the values and in the bytes, forward and backward together?
"""

# %%
manual_seed(0)
q, k, v = (randn(1024, 64, requires_grad=True) for _ in range(3))


def forward_and_backward(block_size):
    out = scaled_dot_product_attention(q, k, v, block_size=block_size)
    out.backward(np.ones(out.shape, np.float32))
    return out.numpy()


print("largest difference:", np.abs(forward_and_backward(None) - forward_and_backward(128)).max())
print(f"plain:     {peak_bytes(lambda: forward_and_backward(None)):12,} bytes")
print(f"by blocks: {peak_bytes(lambda: forward_and_backward(128)):12,} bytes")

# %% [markdown]
r"""
## Heads

In "the keys to the cabinet *are* missing", the verb asks two things: who is missing, and how many of them? One softmax gives one mixture. **Predict** what the query below gets, which wants to see keys 0 and 1, for the values 3, 7, 0 and then 2, 8, 0. Can it tell the two apart?
"""

# %%
keys, query = 10 * Tensor(np.eye(3)), Tensor([[1, 1, 0]])
for values in ([3, 7, 0], [2, 8, 0]):
    mixture = scaled_dot_product_attention(query, keys, Tensor(values)[:, None])
    print(values, "->", mixture.numpy().round(2))

# %% [markdown]
r"""
To look at two places is to see their mean. So let several **heads** look at once, each with its own queries, keys and values, and hand all their answers on. To keep the cost, each head gets a part of the vectors: $H$ heads of $D / H$ numbers.

```
   x (T, D)
      |  a Linear each
   q, k, v (T, D)
      |  cut into H heads
   q, k, v (H, T, D / H)
      |  attention in each head
   (H, T, D / H)
      |  side by side, and one more Linear
   (T, D)
```

Heads are one more leading axis, and attention takes any number of these.

**Exercise 9 (6 points).** Write `split_heads`, `(..., T, D)` to `(..., H, T, D / H)`, and `merge_heads`, the way back. Head 0 gets the first `D / H` numbers of each vector. (A reshape alone would mix positions up. Which axis has to be cut, and which two have to be swapped?)
"""


# %% nbgrader={"grade": false, "grade_id": "heads", "locked": false, "solution": true}
#| exporti
def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(..., T, D) -> (..., H, T, D / H): each head gets its own part of every vector.

    >>> split_heads(Tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), 2)
    Tensor([[[1., 2.],
             [5., 6.]],
    <BLANKLINE>
            [[3., 4.],
             [7., 8.]]])
    """
    if x.ndim < 2:
        raise ValueError(f"MultiHeadAttention: expected vectors (..., T, D), got {x.shape}")
    ### BEGIN SOLUTION
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).swapaxes(-2, -3)
    ### END SOLUTION


def merge_heads(x: Tensor) -> Tensor:
    """(..., H, T, D / H) -> (..., T, D): what `split_heads` took apart."""
    ### BEGIN SOLUTION
    x = x.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-heads", "locked": true, "points": 6, "solution": false}
def test_heads():
    heads = split_heads(Tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), 2)
    check(heads, [[[1.0, 2.0], [5.0, 6.0]], [[3.0, 4.0], [7.0, 8.0]]], "halves of each vector")
    check(merge_heads(heads), [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], "and back")
    ### BEGIN HIDDEN TESTS
    x = Tensor(np.arange(2 * 5 * 6.0).reshape(2, 5, 6))
    check(split_heads(x, 3).shape, (2, 3, 5, 2), "a batch")
    check(split_heads(x, 3)[1, 2], x[1, :, 4:].numpy(), "the last head: the last numbers")
    check(merge_heads(split_heads(x, 3)), x.numpy(), "and back")
    check(merge_heads(split_heads(x[:, :0], 3)).shape, (2, 0, 6), "empty texts")
    ### END HIDDEN TESTS


test_heads()

# %% [markdown]
r"""
A model that writes a text token by token keeps the keys and values of all tokens before. Queries it needs only once. So it pays to have fewer keys and values: in **grouped-query attention** (Ainslie et al. 2023), neighbouring heads share them. With 4 heads and 2 shared ones, heads 0 and 1 use the first, heads 2 and 3 the second.

**Exercise 10 (4 points).** Write `repeat_heads`: `(..., H, S, d)` to `(..., H * times, S, d)`, every head `times` in a row. For `times=1` it is `x` itself. (`unsqueeze` makes room for an axis, `expand` repeats along it, `reshape` merges two.)
"""


# %% nbgrader={"grade": false, "grade_id": "repeat-heads", "locked": false, "solution": true}
#| exporti
def repeat_heads(x: Tensor, times: int) -> Tensor:
    """(..., H, S, d) -> (..., H times, S, d): each head `times` in a row, for heads that share.

    >>> repeat_heads(Tensor([[[1.0]], [[2.0]]]), 2).flatten().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    ### BEGIN SOLUTION
    if times == 1:
        return x
    *lead, heads, length, size = x.shape
    return (
        x.unsqueeze(-3)
        .expand(*lead, heads, times, length, size)
        .reshape(*lead, heads * times, length, size)
    )
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-repeat-heads", "locked": true, "points": 4, "solution": false}
def test_repeat_heads():
    x = Tensor([[[1.0, 2.0]], [[3.0, 4.0]]])  # two heads, one position
    expected = [[[1.0, 2.0]], [[1.0, 2.0]], [[3.0, 4.0]], [[3.0, 4.0]]]
    check(repeat_heads(x, 2), expected, "0, 0, 1, 1: each in a row")
    ### BEGIN HIDDEN TESTS
    batch = Tensor(np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5))
    check(repeat_heads(batch, 3), np.repeat(batch.numpy(), 3, axis=1), "a batch")
    check(repeat_heads(batch, 1) is batch, True, "nothing to repeat, nothing to copy")
    check(gradcheck(lambda x: repeat_heads(x, 2), x), True, "gradients of all copies add up")
    ### END HIDDEN TESTS


test_repeat_heads()

# %% [markdown]
r"""
**Exercise 11 (10 points).** Two parts, and the layer is there.

`attention_of_heads` gets queries of $H$ heads and keys and values of as many or fewer. Repeat these for the heads that share them, then call `attention` with the arguments and options of `scaled_dot_product_attention`, which it is unless somebody brings another. A mask of three axes is one for each text, `(N, T, S)`, and needs an axis for the heads: `[:, None]` (an array and a tensor can do that, a list can't).

`MultiHeadAttention.forward`: queries come from `query`, keys from `key` (if there is none, from `query`: *self*-attention; otherwise it is *cross*-attention), values from `value` (or from what the keys come from). Project each, split into heads (`num_kv_heads` for keys and values), let `self.positions`, if there are any, turn queries and keys from `start` on, `self.attend` (that is `attention_of_heads`), merge, and project once more. Pass `self.dropout` on only in training and if its `p` is more than 0: a layer with a `block_size` can't have any.
"""


# %% nbgrader={"grade": false, "grade_id": "check-heads", "locked": true, "solution": false}
#| exporti
def checked_heads(embed_dim: int, num_heads: int, num_kv_heads: int | None) -> int:
    """How many heads keys and values have, all unless given; ValueError for uneven parts."""
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if min(embed_dim, num_heads) < 1 or embed_dim % num_heads:
        raise ValueError(
            f"MultiHeadAttention: embed_dim={embed_dim} can't be divided by num_heads={num_heads}"
        )
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(
            f"MultiHeadAttention: num_heads={num_heads} can't be divided by "
            f"num_kv_heads={num_kv_heads}"
        )
    return num_kv_heads


# %% nbgrader={"grade": false, "grade_id": "attention-of-heads", "locked": false, "solution": true}
#| exporti
def attention_of_heads(
    q, k, v, mask, is_causal, dropout, block_size, attention=scaled_dot_product_attention
) -> Tensor:
    """`attention` in each head: (..., H, T, d), keys and values of H heads or fewer, shared."""
    ### BEGIN SOLUTION
    groups = q.shape[-3] // k.shape[-3]
    k, v = repeat_heads(k, groups), repeat_heads(v, groups)
    if np.ndim(mask) == 3:  # (N, T, S): the same for all heads
        mask = (mask if isinstance(mask, Tensor) else np.asarray(mask))[:, None]
    options = {"dropout": dropout, "block_size": block_size}
    return attention(q, k, v, mask, is_causal, **options)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "multi-head-attention", "locked": false, "solution": true}
#| export
class MultiHeadAttention(Module):
    """Attention in `num_heads` parts of the vectors at once: (..., T, D) -> (..., T, D).

    Keys and values come from the queries' own sequence, or from another one (cross-attention).
    `num_kv_heads` < `num_heads` lets groups of heads share keys and values (Ainslie et al. 2023).
    `positions`, such as `RotaryPositions`, is applied to queries and keys. Masks are boolean (True:
    may look) or floating, and broadcast to (T, S), (N, T, S) or (N, H, T, S). The four projections
    start as `Linear` does. A subclass may `attend` in another way.

    >>> layer = MultiHeadAttention(8, num_heads=2)
    >>> x, memory = Tensor(np.ones((1, 3, 8))), Tensor(np.ones((1, 5, 8)))
    >>> layer(x, is_causal=True).shape, layer(x, memory).shape
    ((1, 3, 8), (1, 3, 8))
    """

    attend: Callable[..., Tensor] = staticmethod(attention_of_heads)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        positions: Module | None = None,
        block_size: int | None = None,
    ):
        num_kv_heads = checked_heads(embed_dim, num_heads, num_kv_heads)
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, num_kv_heads
        kv = embed_dim // num_heads * num_kv_heads
        self.q_proj, self.k_proj = Linear(embed_dim, embed_dim, bias), Linear(embed_dim, kv, bias)
        self.v_proj, self.out_proj = Linear(embed_dim, kv, bias), Linear(embed_dim, embed_dim, bias)
        self.dropout, self.positions, self.block_size = Dropout(dropout), positions, block_size

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Any = None,
        is_causal: bool = False,
        start: int = 0,
    ) -> Tensor:
        ### BEGIN SOLUTION
        key = query if key is None else key
        q = split_heads(self.q_proj(query), self.num_heads)
        k = split_heads(self.k_proj(key), self.num_kv_heads)
        v = split_heads(self.v_proj(key if value is None else value), self.num_kv_heads)
        if self.positions is not None:
            q, k = self.positions(q, start), self.positions(k, start)
        dropout = self.dropout if self.training and self.dropout.p > 0 else None
        mixed = self.attend(q, k, v, mask, is_causal, dropout, self.block_size)
        return self.out_proj(merge_heads(mixed))
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-multi-head-attention", "locked": true, "points": 10, "solution": false}
def plain_layer(num_heads, num_kv_heads=None, **options):
    """A layer of size 4 whose projections take the first numbers of a vector as they are."""
    layer = MultiHeadAttention(4, num_heads, num_kv_heads, bias=False, **options)
    for linear in (layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj):
        linear.weight = Tensor(np.eye(*linear.weight.shape))
    return layer


def test_multi_head_attention():
    manual_seed(0)
    x, memory = randn(2, 5, 4), randn(2, 3, 4)
    expected = scaled_dot_product_attention(x, x, x, is_causal=True).numpy()
    check(plain_layer(1)(x, is_causal=True), expected, "one head")
    for half in (slice(0, 2), slice(2, 4)):
        parts = x[..., half], memory[..., half], memory[..., half]
        expected = scaled_dot_product_attention(*parts).numpy()
        check(plain_layer(2)(x, memory)[..., half], expected, "each half by itself")
    expected = scaled_dot_product_attention(x[..., 2:], x[..., :2], x[..., :2]).numpy()
    check(plain_layer(2, num_kv_heads=1)(x)[..., 2:], expected, "both share keys and values")
    check(plain_layer(4, num_kv_heads=2)(x).shape, (2, 5, 4), "two heads share, and two others")
    mask = np.array([[[True, False, False]], [[True, True, False]]])
    expected = np.tile(memory[0, 0].numpy(), (5, 1))
    check(plain_layer(2)(x, memory, mask=mask)[0], expected, "a mask for each text: one key left")
    ### BEGIN HIDDEN TESTS
    check(plain_layer(2)(x, memory, -memory), (-plain_layer(2)(x, memory)).numpy(), "other values")
    check(plain_layer(2)(x[0]), plain_layer(2)(x)[0].numpy(), "without a batch")
    check(plain_layer(2, block_size=2)(x), plain_layer(2)(x).numpy(), "by blocks")
    turning = plain_layer(2, positions=RotaryPositions(2, 9))
    check(turning(x, start=3), turning(x).numpy(), "distances alone count", 1e-4)
    q, k, v = (split_heads(x, 2) for _ in range(3))
    expected = scaled_dot_product_attention(turning.positions(q), turning.positions(k), v)
    with check_raises(ValueError, "max_seq_len", "positions 7 to 11 of 9"):
        turning(x, start=7)
    check(turning(x), merge_heads(expected).numpy(), "queries and keys are turned, values are not")
    thrown = plain_layer(2, dropout=0.5)
    check((thrown(x) == thrown(x)).numpy().all().item(), False, "in training, weights are thrown")
    check(thrown.eval()(x), plain_layer(2)(x).numpy(), "else none")
    layer = MultiHeadAttention(4, 2)
    layer(x, is_causal=True).sum().backward()
    check([p.grad is None for p in layer.parameters()], [False] * 8, "all parameters learn")
    ### END HIDDEN TESTS


test_multi_head_attention()

# %% [markdown]
r"""
## Who looks at whom

You want to *see* the weights of a layer, in the middle of a model, without changing the model. Module 01's `@op` shows every call to whoever watches, so all that it takes is a watcher.

**Exercise 12 (5 points).** Complete `attention_maps`: inside `with attention_maps() as maps:` the list `maps` gets the weights, as an array, of every call of `attention_weights`. A watcher is called as `watcher(op, inputs, params, out)`, and `with watching(name, watcher):` sets it to work. A watcher replaces another one of the same name; `id(maps)` makes a name that nobody else has, so that one `with` inside another works as well.
"""


# %% nbgrader={"grade": false, "grade_id": "attention-maps", "locked": false, "solution": true}
#| export
@contextmanager
def attention_maps() -> Iterator[list[np.ndarray]]:
    """Collect the weights of every attention that runs inside a `with`, in order: (..., T, S).

    Attention by blocks has no such weights and adds nothing.

    >>> layer = MultiHeadAttention(8, num_heads=2)
    >>> with attention_maps() as maps:
    ...     y = layer(Tensor(np.ones((1, 3, 8))))
    >>> len(maps), maps[0].shape
    (1, (1, 2, 3, 3))
    """
    ### BEGIN SOLUTION
    maps: list[np.ndarray] = []

    def collect(op, inputs, params, out):
        if op is attention_weights:
            maps.append(out.data)

    with watching(f"attention maps {id(maps)}", collect):  # one within another: both collect
        yield maps
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-attention-maps", "locked": true, "points": 5, "solution": false}
def test_attention_maps():
    manual_seed(0)
    x, first, second = randn(3, 5, 4), plain_layer(2), plain_layer(1)
    with attention_maps() as maps:
        second(first(x), is_causal=True)
    check([weights.shape for weights in maps], [(3, 2, 5, 5), (3, 1, 5, 5)], "one for each call")
    expected = attention_weights(split_heads(x, 2), split_heads(x, 2)).numpy()
    check(maps[0], expected, "the weights, as an array")
    ### BEGIN HIDDEN TESTS
    first(x)
    check(len(maps), 2, "the `with` has ended")
    with attention_maps() as outer:
        with attention_maps() as inner:
            first(x)
        first(x)
    check((len(outer), len(inner)), (2, 1), "one within another: both collect")
    check(type(outer[0]), np.ndarray, "arrays, which hold on to no graph")
    ### END HIDDEN TESTS


test_attention_maps()

# %% [markdown]
r"""
## Put together: reading a handbook

A network reads Python's handbook, character by character, and guesses the next one after each: the characters' vectors, one causal attention of four heads with rotary positions, one small network for each character by itself. The same network is trained without the attention; then every character has to be guessed from the one before alone.

**Predict:** how much is it worth to look back? And how far back will the heads look? (`STEPS = 250` takes seconds; 2,000 take some minutes and bring the loss down much further.)
"""

# %%
from tqdm import tqdm

STEPS, LENGTH, SIZE = 250, 48, 64
handbook = "\n".join(topics.values())[:200_000]
tokenizer = CharTokenizer(handbook)
text = np.array(tokenizer.encode(handbook))


class Reader(Module):
    def __init__(self, looks_back):
        self.tokens = Embedding.from_pretrained(0.1 * randn(len(tokenizer), SIZE), freeze=False)
        positions = RotaryPositions(SIZE // 4, LENGTH)
        self.attention = MultiHeadAttention(SIZE, 4, positions=positions) if looks_back else None
        self.middle = Sequential(Linear(SIZE, 4 * SIZE), ReLU(), Linear(4 * SIZE, SIZE))
        self.last = Linear(SIZE, len(tokenizer))

    def forward(self, ids):
        x = self.tokens(ids)
        if self.attention is not None:
            x = x + self.attention(x, is_causal=True)
        return self.last(x + self.middle(x))


def train(looks_back):
    manual_seed(0)
    model, loss_of, losses = Reader(looks_back), CrossEntropyLoss(), []
    optimizer, draws = Adam(model.parameters(), lr=1e-2), np.random.default_rng(0)
    for _ in tqdm(range(STEPS), desc=f"looks back: {looks_back}", disable=None):
        places = draws.integers(0, len(text) - LENGTH, 16)[:, None] + np.arange(LENGTH + 1)
        scores = model(text[places[:, :-1]]).reshape(-1, len(tokenizer))
        loss = loss_of(scores, text[places[:, 1:]].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


found = {}
for looks_back in (False, True):
    found[looks_back] = train(looks_back)
    print(
        f"looks back: {looks_back!s:5} {np.mean(found[looks_back][1][-30:]):.2f} nats a character"
    )

# %%
if plt:
    for looks_back, style in ((False, "k:"), (True, "k-")):
        smooth = np.convolve(found[looks_back][1], np.ones(10) / 10, "valid")
        plt.plot(np.arange(len(smooth)) + 10, smooth, style, label=f"looks back: {looks_back}")
    plt.title("Guessing the next character of the handbook")
    plt.xlabel("training step")
    plt.ylabel("loss (nats a character)")
    plt.legend()
    plt.show()

# %%
model = found[True][0]
sentence = "The class of an object is called the type of it."
with no_grad(), attention_maps() as maps:
    model(tokenizer.encode(sentence))
weights = maps[0]  # (heads, T, T)
print("mean weight of the character so many places back:")
print("       ", *(f"{back:5}" for back in range(8)))
for head in range(4):
    shares = (np.diagonal(weights[head], -back).mean() for back in range(8))
    print(f"head {head}:", *(f"{share:5.2f}" for share in shares))

# %%
if plt:
    figure, axes = plt.subplots(1, 4, figsize=(16, 5), sharey=True)
    shown = [character.replace("\n", " ") for character in sentence[:24]]
    for head, axis in enumerate(axes):
        axis.imshow(weights[head, :24, :24], cmap="gray_r", vmin=0, vmax=1)
        axis.set(title=f"Head {head} (black: 1)", xlabel="looks at (character)")
        axis.set(xticks=range(24), xticklabels=shown, yticks=range(24), yticklabels=shown)
    axes[0].set_ylabel("asked by (character)")
    plt.show()

# %% [markdown]
r"""
Nobody told the heads that the last few characters matter most. And no two rows of a map are alike: what is looked at depends on what is read. Do you find rows that look for the beginning of the word? Try another sentence.

## Systems: time and bytes

**Predict:** plain attention against blocks of 256, for one head of 64 numbers. The blocks need far less memory: do they pay for it with time? Remember that their way back makes all weights a second time.
"""


# %%
def milliseconds(run, rounds=2):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


print(f"{'':>14} {'forward':>9} {'and backward':>13} {'peak, forward':>15} {'and backward':>14}")
for length in (256, 512, 1024, 2048):
    q, k, v = (randn(length, 64, requires_grad=True) for _ in range(3))
    for name, size in (("plain", None), ("blocks", 256)):
        forward = partial(scaled_dot_product_attention, q, k, v, block_size=size)
        both = partial(forward_and_backward, size)
        times = milliseconds(forward), milliseconds(both)
        peaks = peak_bytes(forward), peak_bytes(both)
        print(f"{length:5} {name:>8} {times[0]:6.1f} ms {times[1]:10.1f} ms", end=" ")
        print(f"{peaks[0]:9,} bytes {peaks[1]:8,} bytes")

# %% [markdown]
r"""
For long texts, the plain way nears a factor of four for each doubling, in time and in bytes. The time of the blocks grows like that as well, because every query is still compared with every key; but their bytes grow with $T$ alone. They compute more, and make up for a part of it: a tile of 256 x 256 numbers, 262,144 bytes, stays in the processor's own cache while it is masked, raised to powers and multiplied. The plain table goes out to memory and back at each of these steps. Which way is faster at 2,048 tokens on your machine?

How large should a block be? **Predict** which end of the list is slowest, and why, and what the other end is.
"""

# %%
q, k, v = (randn(1024, 64, requires_grad=True) for _ in range(3))
for size in (16, 64, 256, 1024):
    for is_causal in (False, True):
        options = {"is_causal": is_causal, "block_size": size}
        run = partial(scaled_dot_product_attention, q, k, v, **options)
        print(f"{size:5} causal={is_causal!s:5} {milliseconds(run):6.1f} ms", end="   ")
    print(f"{peak_bytes(run):10,} bytes")

# %% [markdown]
r"""
Small blocks spend their time in Python and NumPy between the products, not in them; one large block is the plain way. Causal attention by blocks skips nearly half of the tiles.

PyTorch's `F.scaled_dot_product_attention` chooses between both ways. FlashAttention is its kernel for graphics processors, where the reason is even stronger: their arithmetic is so fast that the plain way mostly waits for memory. It fuses a tile's product, mask, softmax and second product into one program that keeps the tile on the chip. NumPy has no such fused step: each of ours passes over the tile once.

## Questions

**1 (4 points).** A model with 32 layers of 32 heads reads a text of 8,192 tokens (one text, 2 bytes a number). How many bytes are the weights of one layer? Of all layers, if the way back needs them? And the log of the sums that blocks keep instead, for one layer, at 4 bytes each?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-table", "points": 4, "solution": true}
r"""
One layer: 32 · 8,192² · 2 = 4,294,967,296 bytes, 4.3 GB. All 32: 137.4 GB. The log of the sums: 32 · 8,192 · 4 = 1,048,576 bytes, a 4,096th of it.
"""

# %% [markdown]
r"""
**2 (4 points).** Count multiplications and additions for one layer with $T$ tokens of $D$ numbers (all heads together; softmax not counted): the four projections, the scores and the mixtures. At which $T$ do scores and mixtures take as much as the projections? For $D$ = 768, which share of the work are they at $T$ = 8,192? Does the number of heads matter?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-operations", "points": 4, "solution": true}
r"""
Projections: 4 · 2TD² = 8TD². Scores: 2T²D (each of the H heads takes 2T² · D/H), mixtures as much: 4T²D. Equal where 4T²D = 8TD², at T = 2D: 1,536 tokens for D = 768. At T = 8,192 the share is T / (T + 2D) = 8,192 / 9,728 = 84.2 %. H cancels out of the operations (not out of the bytes of the weights).
"""

# %% [markdown]
r"""
**3 (4 points).** Llama 2 with 70 billion parameters has 80 layers of 64 heads, 128 numbers for each head, and 8 heads of keys and values (Touvron et al. 2023). How many bytes of keys and values does it keep for one token of a text that it writes, at 2 bytes a number? For a text of 4,096 tokens? And without sharing?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-shared-heads", "points": 4, "solution": true}
r"""
One token: 2 (keys and values) · 80 · 8 · 128 · 2 = 327,680 bytes. 4,096 tokens: 1,342,177,280 bytes, 1.34 GB. Without sharing eight times as much: 10.7 GB, for one text.
"""

# %% [markdown]
r"""
## All tests once more
"""


# %%
def test_module():
    for test in (test_softmax_of_scores, test_added_to_scores, test_attention_weights):
        test()
    for test in (test_attention_weights_rule, test_online_softmax_step, test_blocked_attention):
        test()
    for test in (test_tile_gradients, test_scaled_dot_product_attention, test_heads):
        test()
    for test in (test_repeat_heads, test_multi_head_attention, test_attention_maps):
        test()
    print("All tests of module 12 pass.")


test_module()

# %% [markdown]
r"""
**What works now:** tokens look at one another, under any mask, and you can see where they look.
You built a lookup that learns what to ask, what to be found by and what to tell.
You know why scores are divided by the root of $D$, and why a query that may look nowhere needs care.
You took an exact softmax in pieces, forward and backward, and measured what the big table costs.
**Next:** blocks of attention, stacked: `tito module start 13`.
"""

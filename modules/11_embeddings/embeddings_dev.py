# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp text.embeddings

# %% [markdown]
r"""
# Embeddings

> What a token means, and where it stands, as vectors that a network learns.

**Built before:** layers that take vectors, and tokenizers that give ids.
**Built here:** the bridge: a table with a vector for every id, three ways to say where in a text it stands, and a last layer that uses the same table again.
**Time:** 3 hours. **Points:** 88 for code, 12 for the questions at the end.
"""

# %%
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

from typing import Any

import numpy as np

from tinytorch.core.autograd import vjp
from tinytorch.core.layers import Dropout, Module, linear
from tinytorch.core.tensor import Tensor, as_index, op, permute, randn

# %%
import time
from pydoc_data.topics import topics

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import grad, gradcheck
from tinytorch.core.layers import Linear, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.tensor import manual_seed
from tinytorch.text.tokenization import CharTokenizer

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the lesson works without pictures

# %% [markdown]
r"""
## An id is not a number

A tokenizer gives 42 for one word and 43 for the next. A layer that gets these *numbers* must believe that 43 is a little more than 42. So an id becomes a **one-hot** vector first: as many zeros as there are tokens, and a single 1. A linear layer multiplies it by its weight.

**Predict:** the batch below has 16 texts of 64 tokens out of 20,000. How many bytes are its one-hot vectors? And which part of the product's work is multiplying by zero?
"""

# %%
manual_seed(0)
ids = np.random.default_rng(0).integers(0, 20_000, (16, 64))
weight = randn(20_000, 32).numpy()
start = time.perf_counter()
one_hot = np.zeros((16 * 64, 20_000), np.float32)
one_hot[np.arange(16 * 64), ids.reshape(-1)] = 1
product = one_hot @ weight
middle = time.perf_counter()
rows = weight[ids.reshape(-1)]
end = time.perf_counter()
print(f"one-hot: {one_hot.nbytes:,} bytes, {1e3 * (middle - start):.1f} ms")
print(f"rows:    {rows.nbytes:,} bytes, {1e3 * (end - middle):.3f} ms")
print("equal:", np.array_equal(product, rows))
del one_hot, product

# %% [markdown]
r"""
A one-hot vector times a matrix **is** one row of the matrix:

$$e_i W = W_i \qquad W \in \mathbb{R}^{V \times D}$$

with $V$ tokens and $D$ numbers for each. So take the row, and leave the zeros. The row is the token's **embedding**: the vector that it is for the rest of the network. The rows are parameters. They start at random, and training moves them.

```
   ids (N, T)              weight (V, D)               out (N, T, D)
                       0 |  0.1   0.7 |
   [[ 2  0  2 ]]  -->  1 | -0.3   0.2 |  -->  [[[ 0.5 -0.9 ] [ 0.1 0.7 ] [ 0.5 -0.9 ]]]
                       2 |  0.5  -0.9 |
```

NumPy would take id -1 for the last row, without a word. An id that doesn't exist is a bug somewhere else, and it should be heard of here.

**Exercise 1 (6 points).** Write `checked_ids`: the ids as an array of `int64`, if they are all from 0 to `count - 1` (smaller integers would overflow as soon as somebody multiplies them). Otherwise raise an `IndexError` that names the first wrong id. Whole floats will do (`as_index` turns an array of them into integers, and refuses others); booleans raise a `TypeError`.
"""


# %% nbgrader={"grade": false, "grade_id": "checked-ids", "locked": false, "solution": true}
#| exporti
def checked_ids(ids: Any, count: int) -> np.ndarray:
    """The ids as int64; IndexError unless all are from 0 to count - 1.

    >>> checked_ids([[2.0, 0.0]], 3)
    array([[2, 0]])
    """
    ### BEGIN SOLUTION
    found = np.asarray(as_index(np.asarray(ids)))
    if found.dtype.kind not in "iu":
        raise TypeError(f"embedding: expected whole numbers as ids, got {found.dtype}")
    if found.size and not (found.min() >= 0 and found.max() < count):
        wrong = found[(found < 0) | (found >= count)]
        raise IndexError(f"embedding: id {wrong[0]} is not among 0 to {count - 1}")
    return found.astype(np.int64, copy=False)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-checked-ids", "locked": true, "points": 6, "solution": false}
def test_checked_ids():
    check(checked_ids([[2.0, 0.0]], 3), np.array([[2, 0]]), "whole floats become integers")
    with check_raises(IndexError, "3", "with 3 tokens, the last id is 2"):
        checked_ids([0, 3], 3)
    with check_raises(IndexError, "-1", "-1 is no id, though NumPy has a row for it"):
        checked_ids(np.array([[0], [-1]]), 3)
    with check_raises(TypeError, "bool", "a mask is no list of ids"):
        checked_ids([True, False], 3)
    ### BEGIN HIDDEN TESTS
    check(checked_ids(Tensor([1, 2]), 3), np.array([1, 2]), "a tensor's numbers")
    check(checked_ids(np.array([200], np.uint8), 256).dtype, np.int64, "2 * 200 must be 400")
    check(checked_ids(Tensor(np.zeros((0, 4), np.int64)), 3).shape, (0, 4), "no ids are right ids")
    with check_raises(IndexError, "whole", "there is no token between two others"):
        checked_ids([0.5], 3)
    ### END HIDDEN TESTS


test_checked_ids()

# %% [markdown]
r"""
Going forward, a row is taken. Going back, the gradient of each output row has to reach the row that it came from, and a token that comes three times gets three gradients, **added**. So there is a second operation, the other one's mirror: `scatter_rows` adds rows to a table of zeros.

**Predict** what the cell prints for row 2, which comes twice. Then run.
"""

# %%
table, g = np.zeros((3, 2)), np.array([[1.0, 1.0], [10.0, 10.0], [100.0, 100.0]])
table[np.array([2, 0, 2])] += g
print(table)

# %% [markdown]
r"""
The 1 is lost: NumPy computes `table[ids] + g` first and writes after that, so the last one wins. A network would learn from one occurrence of each word, and never complain.

`np.add.at(table, ids, g)` adds each of them. It has a fast path for tables with **one** axis: number $j$ of row $i$ is number $iD + j$ of the flat table.

**Exercise 2 (10 points).** Write `scatter_rows`: zeros of shape `(count, D)`, in the dtype of `rows`, to which each of the rows `(..., D)` is added at its id. For the rows above and the ids `[2, 0, 2]`, it gives `[[10, 10], [0, 0], [101, 101]]`.

<details><summary>Hint</summary>

`ids.reshape(-1, 1) * size + np.arange(size)` is the place of every number in the flat table; it has the shape (rows, D). `out.reshape(-1)` is a view of a new array.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "scatter-rows", "locked": false, "solution": true}
#| exporti
@op
def scatter_rows(rows, ids, count):
    """Zeros (count, D) to which each row of (..., D) is added at its id: `embedding` backwards.

    >>> scatter_rows(Tensor([[1, 2], [10, 20], [100, 200]]), [2, 0, 2], count=3)
    Tensor([[ 10.,  20.],
            [  0.,   0.],
            [101., 202.]])
    """
    ### BEGIN SOLUTION
    ids, size = checked_ids(ids, count), rows.shape[-1]
    out = np.zeros((count, size), rows.dtype)
    places = ids.reshape(-1, 1) * size + np.arange(size)
    np.add.at(out.reshape(-1), places.reshape(-1), rows.reshape(-1))
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-scatter-rows", "locked": true, "points": 10, "solution": false}
def test_scatter_rows():
    rows = Tensor([[1, 2], [10, 20], [100, 200]])
    out = scatter_rows(rows, np.array([2, 0, 2]), count=3)
    check(out, [[10.0, 20.0], [0.0, 0.0], [101.0, 202.0]], "an id that comes twice gets both rows")
    check(scatter_rows(rows, [1, 1, 1], count=2)[1], [111.0, 222.0], "three times, three rows")
    ### BEGIN HIDDEN TESTS
    batch = scatter_rows(rows[None], np.array([[1, 0, 1]]), count=2)
    check(batch, [[10.0, 20.0], [101.0, 202.0]], "texts in a batch: (N, T, D) rows, (N, T) ids")
    check(scatter_rows(rows[:0], np.zeros(0, np.int64), count=2), [[0.0, 0.0]] * 2, "no rows")
    check(scatter_rows(rows[:, :1], [0, 2, 0], count=3), [[101.0], [0.0], [10.0]], "one column")
    check(scatter_rows(rows.astype(np.float64), [0, 1, 1], count=2).dtype, np.float64, "the dtype")
    ### END HIDDEN TESTS


test_scatter_rows()

# %% [markdown]
r"""
**Exercise 3 (6 points).** Now `embedding` itself: the row of `weight` for every id, shape `(*ids.shape, D)`. (`padding_idx` plays a part in the gradient alone: next exercise.)
"""


# %% nbgrader={"grade": false, "grade_id": "embedding", "locked": false, "solution": true}
#| export
@op
def embedding(ids, weight, padding_idx=None):
    """The row of `weight` (V, D) for each id: (...) -> (..., D).

    The row `padding_idx` gets no gradient. IndexError for an id that is not among 0 to V - 1.

    >>> embedding(Tensor([2, 0]), Tensor([[0.1, 0.7], [-0.3, 0.2], [0.5, -0.9]]))
    Tensor([[ 0.5, -0.9],
            [ 0.1,  0.7]])
    """
    if weight.ndim != 2:
        raise ValueError(f"embedding: expected a weight of (V, D), got {weight.shape}")
    if padding_idx is not None and not 0 <= padding_idx < len(weight):
        raise ValueError(f"embedding: padding_idx={padding_idx} with {len(weight)} ids")
    ### BEGIN SOLUTION
    return weight[checked_ids(ids, len(weight))]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-embedding", "locked": true, "points": 6, "solution": false}
def test_embedding():
    weight = Tensor([[0.1, 0.7], [-0.3, 0.2], [0.5, -0.9]])
    out = embedding(np.array([[2, 0, 2]]), weight)
    check(out, [[[0.5, -0.9], [0.1, 0.7], [0.5, -0.9]]], "the numbers of the picture")
    with check_raises(IndexError, "-1", "an id that doesn't exist must be heard of"):
        embedding([-1], weight)
    ### BEGIN HIDDEN TESTS
    check(embedding(Tensor([[1, 2], [0, 1]]), weight).shape, (2, 2, 2), "ids (N, T): (N, T, D)")
    check(embedding(np.array(1), weight), [-0.3, 0.2], "a single id gives a single row")
    check(embedding(np.zeros((2, 0), int), weight).shape, (2, 0, 2), "empty texts")
    ### END HIDDEN TESTS


test_embedding()

# %% [markdown]
r"""
Each is the other's gradient rule. That is no accident: both are linear, and one matrix of zeros and ones (the one-hot vectors, which we never build) stands behind both, once as it is and once transposed.

One token is special: **padding**, which fills up short texts in a batch. Its vector means nothing, and must not learn: the row `padding_idx` gets no gradient, wherever it comes.

**Exercise 4 (8 points).** Write `embedding_rule`, the gradient for `weight`. `g` has the shape `(*ids.shape, D)`; the rows of `g` whose id is `padding_idx` count as zeros. `g` may be an array or a tensor, so keep to operators and ops. (`np.asarray(ids)` is always an array.)
"""


# %% nbgrader={"grade": false, "grade_id": "embedding-rule", "locked": false, "solution": true}
#| exporti
def embedding_rule(g, out, ids, weight, padding_idx=None):
    """Each row of g is added to the row of weight that it came from."""
    ### BEGIN SOLUTION
    if padding_idx is not None:
        g = g * (np.asarray(ids) != padding_idx)[..., None]
    return scatter_rows(g, ids, count=weight.shape[0])
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "rules", "locked": true, "solution": false}
#| export
vjp(embedding, None, embedding_rule)
vjp(scatter_rows, lambda g, out, rows, ids, count: embedding(ids, g), None)


# %% nbgrader={"grade": true, "grade_id": "test-embedding-rule", "locked": true, "points": 8, "solution": false}
def test_embedding_rule():
    weight = Tensor([[1, 2], [3, 4], [5, 6]], requires_grad=True)
    out = embedding(np.array([2, 0, 2]), weight)
    got = grad(out, weight, [[1.0, 1.0], [10.0, 10.0], [100.0, 100.0]])
    check(got, [[10.0, 10.0], [0.0, 0.0], [101.0, 101.0]], "the gradients of all its places, added")
    out = embedding(np.array([2, 0, 2]), weight, padding_idx=2)
    got = grad(out, weight, [[1.0, 1.0], [10.0, 10.0], [100.0, 100.0]])
    check(got, [[10.0, 10.0], [0.0, 0.0], [0.0, 0.0]], "padding learns nothing")
    ### BEGIN HIDDEN TESTS
    out = embedding(np.array([[2, 0], [0, 0]]), weight, padding_idx=0)
    check(grad(out, weight, np.ones((2, 2, 2))), [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]], "id 0, too")
    gradcheck(lambda w: embedding([[1, 0, 1]], w * w), weight, order=2)
    gradcheck(lambda w: embedding([[0, 0]], w * w, padding_idx=1), weight, order=2)
    ### END HIDDEN TESTS


test_embedding_rule()

# %% [markdown]
r"""
**Exercise 5 (8 points).** The layer. Complete `Embedding.__init__`: keep the sizes and `padding_idx` (a negative one counts from the end, as -1 does in a list; keep the one from 0 on), and make `weight`, normal random numbers of shape `(num_embeddings, embedding_dim)`, with zeros in the row `padding_idx`. `self.weight = tensor` makes it a parameter, so put the zeros in before that.
"""


# %% nbgrader={"grade": false, "grade_id": "embedding-layer", "locked": false, "solution": true}
#| export
class Embedding(Module):
    """A vector for each of `num_embeddings` ids: (...) of ids -> (..., embedding_dim).

    The weight (num_embeddings, embedding_dim) starts standard normal, the distribution of PyTorch's
    default. The row `padding_idx` starts as zeros and gets no gradient.

    >>> layer = Embedding(10, 3, padding_idx=0)
    >>> layer
    Embedding(10, 3, padding_idx=0)
    >>> layer(Tensor([[4, 0]])).shape, layer(Tensor([0])).tolist()
    ((1, 2, 3), [[0.0, 0.0, 0.0]])
    """

    weight: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None):
        _check_sizes("Embedding", num_embeddings, embedding_dim)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"Embedding: padding_idx={padding_idx} with {num_embeddings} ids")
        ### BEGIN SOLUTION
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        weight = randn(num_embeddings, embedding_dim)
        if padding_idx is not None:
            weight[padding_idx] = 0
        self.weight = weight
        ### END SOLUTION

    @classmethod
    def from_pretrained(
        cls, weight: Any, freeze: bool = True, padding_idx: int | None = None
    ) -> Embedding:
        """The layer of a given weight (V, D), which is copied and, if `freeze`, not trained."""
        weight = Tensor(weight)
        if weight.ndim != 2 or weight.dtype.kind != "f":
            raise ValueError(
                f"Embedding: expected floats of shape (V, D), got {weight.dtype} {weight.shape}"
            )
        count, size = weight.shape
        layer = cls(count, size, padding_idx)
        layer.weight = weight
        layer.weight.requires_grad = not freeze
        return layer

    def forward(self, ids: Any) -> Tensor:
        return embedding(ids, self.weight, padding_idx=self.padding_idx)

    def _extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


def _check_sizes(name: str, *sizes: int) -> None:
    """ValueError unless all sizes are at least 1."""
    if min(sizes) < 1:
        raise ValueError(f"{name}: sizes must be at least 1, got {', '.join(map(str, sizes))}")


# %% nbgrader={"grade": true, "grade_id": "test-embedding-layer", "locked": true, "points": 8, "solution": false}
def test_embedding_layer():
    manual_seed(0)
    layer = Embedding(500, 40, padding_idx=3)
    check(layer.weight.shape, (500, 40), "a row for each id")
    check(layer.weight.std(), 1.0, "standard normal", 0.02)
    check(layer(Tensor([3])), [[0.0] * 40], "the row of the padding is zeros")
    layer(np.array([3, 4])).sum().backward()
    check(layer.weight.grad[np.array([3, 4]), 0], [0.0, 1.0], "padding gets no gradient")
    ### BEGIN HIDDEN TESTS
    check(Embedding(5, 2, padding_idx=-1).padding_idx, 4, "-1 is the last id")
    check(len(layer.parameters()), 1, "the weight is a parameter")
    check(Embedding(5, 2).padding_idx, None, "no padding unless you say so")
    check(bool((Embedding(50, 2).weight == 0).any()), False, "then no row is zeros")
    check(Embedding(5, 2, padding_idx=0)(Tensor([0])), [[0.0, 0.0]], "id 0 may be padding, too")
    ### END HIDDEN TESTS


test_embedding_layer()

# %% [markdown]
r"""
## Where does it stand?

"dog bites man" and "man bites dog" hold the same three vectors. **Predict** what happens if a network adds up what it computes for each token: by how much do the two sentences differ?
"""

# %%
manual_seed(0)
words = {"dog": 0, "bites": 1, "man": 2}
meaning = Sequential(Embedding(3, 8), Linear(8, 8), ReLU())
for sentence in ("dog bites man", "man bites dog"):
    ids = [words[word] for word in sentence.split()]
    print(f"{sentence}: {meaning(ids).sum(axis=0).numpy().round(3)}")

# %% [markdown]
r"""
Not at all. A sum has no order, and many layers for texts are sums at heart. So every token has to carry its **position** with it. There are three usual ways.

### Learned positions

The simplest: a second table, with a vector for each position, added to the tokens' vectors. It is learned like the first one, and like the first one it ends somewhere: a network with 64 positions has no 65th.

When a network writes a text, it gets one token at a time, and the next one stands at position `start`, not at 0. So all our layers take a `start`.

**Exercise 6 (6 points).** Write `rows_at`: the rows of `table` `(max_seq_len, D)` for the positions of `x` `(..., T, D)`, which begin at `start`: shape `(T, D)`. Raise a `ValueError` if the text goes beyond the table, or if `start` is negative, and say which positions were asked for: `3 to 4`, say. That `x` has the right last axis is checked already. `LearnedPositions`, beneath it, is given.
"""


# %% nbgrader={"grade": false, "grade_id": "rows-at", "locked": false, "solution": true}
#| exporti
def rows_at(table: Tensor, x: Tensor, start: int, size: int) -> Tensor:
    """The rows of a table (max_seq_len, ...) for the T positions of x (..., T, size).

    Raises ValueError where the table has no such rows, or x another last axis than `size`.

    >>> rows_at(Tensor([[0, 0], [1, 1], [2, 2], [3, 3]]), Tensor([[5, 5], [6, 6]]), start=1, size=2)
    Tensor([[1., 1.],
            [2., 2.]])
    """
    if x.ndim < 2 or x.shape[-1] != size:
        raise ValueError(f"positions: expected a shape of (..., T, {size}), got {x.shape}")
    ### BEGIN SOLUTION
    end = start + x.shape[-2]
    if start < 0 or end > len(table):
        raise ValueError(
            f"positions: {start} to {end - 1} were asked for, but max_seq_len is {len(table)}: "
            "shorten the text, or build the model with a larger max_seq_len"
        )
    return table[start:end]
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "learned-positions", "locked": true, "solution": false}
#| export
class LearnedPositions(Module):
    """x (..., T, embed_dim) + a learned vector for each position, as in GPT-2.

    The weight (max_seq_len, embed_dim) starts normal with standard deviation 0.02. ValueError for a
    text that goes beyond `max_seq_len`.

    >>> LearnedPositions(8, 4)(Tensor([[1, 1, 1, 1]]), start=7).shape
    (1, 4)
    """

    weight: Tensor

    def __init__(self, max_seq_len: int, embed_dim: int):
        _check_sizes("LearnedPositions", max_seq_len, embed_dim)
        self.weight = 0.02 * randn(max_seq_len, embed_dim)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        return x + rows_at(self.weight, x, start, self.weight.shape[1])

    def _extra_repr(self) -> str:
        return f"max_seq_len={self.weight.shape[0]}, embed_dim={self.weight.shape[1]}"


# %% nbgrader={"grade": true, "grade_id": "test-rows-at", "locked": true, "points": 6, "solution": false}
def test_rows_at():
    table = Tensor([[0, 0], [1, 1], [2, 2], [3, 3]])
    x = Tensor([[5, 5], [6, 6]])
    check(rows_at(table, x, start=0, size=2), [[0.0, 0.0], [1.0, 1.0]], "two tokens: two rows")
    check(rows_at(table, x, start=2, size=2), [[2.0, 2.0], [3.0, 3.0]], "from start on")
    with check_raises(ValueError, "3 to 4", "position 4 would be the fifth of four"):
        rows_at(table, x, start=3, size=2)
    ### BEGIN HIDDEN TESTS
    with check_raises(ValueError, "-1", "there is no position before the first"):
        rows_at(table, x, start=-1, size=2)
    check(rows_at(table, x[None, None], 1, 2).shape, (2, 2), "T is the last axis but one")
    layer = LearnedPositions(4, 2)
    layer(x, start=1).sum().backward()
    check(layer.weight.grad[:, 0], [0.0, 1.0, 1.0, 0.0], "the rows that were used learn")
    ### END HIDDEN TESTS


test_rows_at()

# %% [markdown]
r"""
### Sinusoidal positions

The second way learns nothing (Vaswani et al. 2017). Think of a clock: the second hand tells near moments apart, the hour hand far ones. Each pair of columns is a hand, and each one turns more slowly than the one before:

$$\omega_j = b^{-2j/D} \qquad P_{t,\,2j} = \sin(t\,\omega_j) \qquad P_{t,\,2j+1} = \cos(t\,\omega_j)$$

with position $t$, pair $j = 0, 1, \dots$ and the base $b = 10000$. The hands' angles $t\,\omega_j$ are of use twice in this lesson.

**Exercise 7 (12 points).** Write `position_angles`: $t\,\omega_j$ for `length` positions and `count` pairs, $\omega_j = b^{-j/\texttt{count}}$, as a float64 array `(length, count)`. Then `sinusoidal_positions`: the table `(length, dim)`, sines in the even columns and cosines in the odd ones. For example, `position_angles(3, 2, 100.0)` is `[[0, 0], [1, 0.1], [2, 0.2]]`. If `dim` is odd, the last column is a sine that has no cosine.
"""


# %% nbgrader={"grade": false, "grade_id": "sinusoidal-positions", "locked": false, "solution": true}
#| export
def position_angles(length: int, count: int, base: float = 10_000.0) -> np.ndarray:
    """The angle t * base ** (-j / count) of hand j at position t: (length, count).

    >>> position_angles(3, 2, base=100.0)
    array([[0. , 0. ],
           [1. , 0.1],
           [2. , 0.2]])
    """
    ### BEGIN SOLUTION
    speeds = base ** (-np.arange(count) / count)
    return np.arange(length)[:, None] * speeds
    ### END SOLUTION


def sinusoidal_positions(length: int, dim: int, base: float = 10_000.0) -> Tensor:
    """A row for each position (length, dim): sin and cos of angles, in turns (Vaswani et al. 2017).

    >>> sinusoidal_positions(2, 4)
    Tensor([[0.    , 1.    , 0.    , 1.    ],
            [0.8415, 0.5403, 0.01  , 0.9999]])
    """
    _check_sizes("sinusoidal_positions", dim)
    ### BEGIN SOLUTION
    pairs = (dim + 1) // 2
    angles = position_angles(length, pairs, base ** (2 * pairs / dim))
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1)  # (T, D / 2, 2)
    return Tensor(table.reshape(length, 2 * pairs)[:, :dim])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-sinusoidal-positions", "locked": true, "points": 12, "solution": false}
def test_sinusoidal_positions():
    check(position_angles(3, 2, 100.0), [[0.0, 0.0], [1.0, 0.1], [2.0, 0.2]], "t * speed")
    table = sinusoidal_positions(50, 6)
    check(table.shape, (50, 6), "a row for each position")
    check(table[0], [0.0, 1.0, 0.0, 1.0, 0.0, 1.0], "sin 0 and cos 0, in turns")
    check(table[3, :2], [np.sin(3.0), np.cos(3.0)], "the first hand turns by 1 each position")
    angle = 7 * 10_000 ** (-4 / 6)
    check(table[7, 4:], [np.sin(angle), np.cos(angle)], "the third pair is j = 2, with 2j / D")
    ### BEGIN HIDDEN TESTS
    check(table.dtype, np.float32, "a tensor of float32")
    check(sinusoidal_positions(9, 6, base=10.0)[5, 2], np.sin(5 * 10 ** (-2 / 6)), "another base")
    check(sinusoidal_positions(4, 3).shape, (4, 3), "an odd number of columns")
    check(sinusoidal_positions(4, 3)[2, 2], np.sin(2 * 10_000 ** (-2 / 3)), "the lonely sine")
    ### END HIDDEN TESTS


test_sinusoidal_positions()


# %% nbgrader={"grade": false, "grade_id": "sinusoidal-layer", "locked": true, "solution": false}
#| export
class SinusoidalPositions(Module):
    """x (..., T, embed_dim) + sines and cosines of the position; nothing is learned.

    >>> SinusoidalPositions(8, 4)(Tensor([[1, 1, 1, 1]]))
    Tensor([[1., 2., 1., 2.]])
    """

    table: Tensor

    def __init__(self, max_seq_len: int, embed_dim: int, base: float = 10_000.0):
        _check_sizes("SinusoidalPositions", max_seq_len, embed_dim)
        table = sinusoidal_positions(max_seq_len, embed_dim, base)
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        return x + rows_at(self.table, x, start, self.table.shape[1])

    def _extra_repr(self) -> str:
        return f"max_seq_len={self.table.shape[0]}, embed_dim={self.table.shape[1]}"


# %% [markdown]
r"""
**Predict**: below is the product of position 32's row with every other row, that is, how similar they are. Where is it largest? Does it depend on the direction?
"""

# %%
table = sinusoidal_positions(64, 64).numpy()
similar = table @ table[32]
print("offset    ", *(f"{offset:6d}" for offset in (-16, -4, -1, 0, 1, 4, 16)))
print("similarity", *(f"{similar[32 + offset]:6.2f}" for offset in (-16, -4, -1, 0, 1, 4, 16)))
if plt:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.imshow(table, cmap="gray", aspect="auto")
    left.set(title="Sinusoidal positions", xlabel="column", ylabel="position (tokens)")
    right.plot(np.arange(64) - 32, similar, "k-")
    right.set(title="Similarity to position 32", xlabel="offset (tokens)", ylabel="product of rows")
    plt.show()

# %% [markdown]
r"""
Near positions are similar, and what counts is the distance: $\sin a \sin b + \cos a \cos b = \cos(a - b)$.

### Rotary positions

The third way takes that seriously (Su et al. 2021). What two tokens have to do with each other is often measured by the product of two vectors. So don't add anything: **turn** each vector by an angle that grows with its position. The product of two vectors that are turned by $m\,\omega$ and $n\,\omega$ depends on $m - n$ alone.

In a plane, turning by $\theta$ is

$$\begin{pmatrix} a' \\ b' \end{pmatrix} = \begin{pmatrix} a\cos\theta - b\sin\theta \\ b\cos\theta + a\sin\theta \end{pmatrix}$$

A vector of $D$ numbers is $D/2$ planes, each with a hand of the clock. Number $j$ of its first half and number $j$ of its second half are a pair (as in LLaMA; neighbours would do as well).

**Exercise 8 (12 points).** Write `rotate_pairs`: `x` `(..., D)` with `cos` and `sin`, which broadcast against `(..., D / 2)`. An odd `D` raises a `ValueError`. For example, `[1, 0]` turned by 90 degrees (cos 0, sin 1) is `[0, 1]`.

**Then its rule for `x`**, `rotate_rule`. Turning is undone by turning back, and for a turn the transposed matrix *is* the turn back. Which angle is that, in terms of `cos` and `sin`? One line.
"""


# %% nbgrader={"grade": false, "grade_id": "rotate-pairs", "locked": false, "solution": true}
#| exporti
@op
def rotate_pairs(x, cos, sin):
    """Turn the pairs (x[..., j], x[..., j + D / 2]) by the angles that have this cos and sin.

    Raises ValueError where the last axis of x is odd.

    >>> rotate_pairs(Tensor([1, 2, 0, 0]), Tensor([0, 1]), Tensor([1, 0]))
    Tensor([0., 2., 1., 0.])
    """
    ### BEGIN SOLUTION
    if x.shape[-1] % 2:
        raise ValueError(f"rotate_pairs: an odd number of values has no pairs, got {x.shape}")
    first, second = halves(x)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    ### END SOLUTION


def halves(x):
    """(..., D) -> two times (..., D / 2)"""
    middle = x.shape[-1] // 2
    return x[..., :middle], x[..., middle:]


def rotate_rule(g, out, x, cos, sin):
    """The gradient of x is turned back."""
    ### BEGIN SOLUTION
    return rotate_pairs(g, cos, -sin)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "rotate-rules", "locked": true, "solution": false}
#| exporti
def rotate_cos_rule(g, out, x, cos, sin):
    """d/dcos: each half of g by the half of x that stood beside cos."""
    (g_first, g_second), (first, second) = halves(g), halves(x)
    return g_first * first + g_second * second


def rotate_sin_rule(g, out, x, cos, sin):
    """d/dsin: the same, crosswise."""
    (g_first, g_second), (first, second) = halves(g), halves(x)
    return g_second * first - g_first * second


vjp(rotate_pairs, rotate_rule, rotate_cos_rule, rotate_sin_rule)


# %% nbgrader={"grade": true, "grade_id": "test-rotate-pairs", "locked": true, "points": 12, "solution": false}
def test_rotate_pairs():
    quarter = np.array([0.0], np.float32), np.array([1.0], np.float32)
    check(rotate_pairs(Tensor([1, 0]), *quarter), [0.0, 1.0], "a quarter turn")
    check(rotate_pairs(Tensor([0, 1]), *quarter), [-1.0, 0.0], "and on: the minus stands at b")
    x = Tensor([1, 2, 3, 4])
    turned = rotate_pairs(x, np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    check(turned, [-3.0, 2.0, 1.0, 4.0], "the pairs are (1, 3) and (2, 4)")
    manual_seed(0)
    angles = position_angles(3, 2)
    gradcheck(lambda x: rotate_pairs(x, np.cos(angles), np.sin(angles)), randn(2, 3, 4))
    ### BEGIN HIDDEN TESTS
    long = randn(5, 8)
    turned = rotate_pairs(long, *(f(position_angles(5, 4)) for f in (np.cos, np.sin)))
    check((turned * turned).sum(axis=1), (long * long).sum(axis=1).numpy(), "lengths stay", 1e-5)
    with check_raises(ValueError, "(3,)", "three numbers have no pairs"):
        rotate_pairs(Tensor([1, 2, 3]), *quarter)
    check(turned.dtype, np.float32, "float32 stays float32")
    ### END HIDDEN TESTS


test_rotate_pairs()

# %% [markdown]
r"""
**Exercise 9 (8 points).** Complete `RotaryPositions`: two buffers `cos` and `sin`, tensors of shape `(max_seq_len, head_dim / 2)` of the `position_angles`, which aren't saved (`self.register_buffer(name, tensor, persistent=False)`), and `forward`, which turns `x` `(..., T, head_dim)` by the angles of its positions, from `start` on.
"""


# %% nbgrader={"grade": false, "grade_id": "rotary-positions", "locked": false, "solution": true}
#| export
class RotaryPositions(Module):
    """Turn x (..., T, head_dim) by its position, so that products depend on distances alone.

    Values j and j + head_dim / 2 are a pair, as in LLaMA (Su et al. 2021). It is applied to queries
    and keys, not to embeddings.

    >>> layer = RotaryPositions(2, 8)
    >>> layer(Tensor([[1, 0], [1, 0]]))
    Tensor([[1.    , 0.    ],
            [0.5403, 0.8415]])
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, max_seq_len: int, base: float = 10_000.0):
        _check_sizes("RotaryPositions", head_dim, max_seq_len)
        if head_dim % 2:
            raise ValueError(f"RotaryPositions: head_dim must be even, got {head_dim}")
        self.head_dim = head_dim
        ### BEGIN SOLUTION
        angles = position_angles(max_seq_len, head_dim // 2, base)
        self.register_buffer("cos", Tensor(np.cos(angles)), persistent=False)
        self.register_buffer("sin", Tensor(np.sin(angles)), persistent=False)
        ### END SOLUTION

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        ### BEGIN SOLUTION
        cos, sin = (rows_at(table, x, start, self.head_dim) for table in (self.cos, self.sin))
        return rotate_pairs(x, cos, sin)
        ### END SOLUTION

    def _extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, max_seq_len={len(self.cos)}"


# %% nbgrader={"grade": true, "grade_id": "test-rotary-positions", "locked": true, "points": 8, "solution": false}
def test_rotary_positions():
    manual_seed(0)
    rotary = RotaryPositions(8, 50)
    query, key = randn(1, 8), randn(1, 8)
    near = (rotary(query, start=7) * rotary(key, start=3)).sum()
    far = (rotary(query, start=44) * rotary(key, start=40)).sum()
    check(near, far.item(), "4 apart is 4 apart, wherever it is", 1e-5)
    check(rotary(query), query.numpy(), "position 0 turns nothing")
    x = randn(2, 3, 5, 8)
    check(rotary(x)[1, 2, 4:], rotary(x[1, 2, 4:], start=4).numpy(), "T is the last axis but one")
    ### BEGIN HIDDEN TESTS
    check(rotary.state_dict(), {}, "the tables are not saved")
    check(rotary.parameters(), [], "nothing is learned")
    check(rotary(query, start=1)[0, 3], query[0, 3].item(), "the last hand hardly moves", 2e-2)
    with check_raises(ValueError, "max_seq_len", "the text goes beyond the tables"):
        rotary(x, start=46)
    ### END HIDDEN TESTS


test_rotary_positions()

# %% [markdown]
r"""
## The first layer of a language model, and the last

**Exercise 10 (6 points).** Write `EmbeddingLayer.forward`: the tokens' embeddings, then their positions (if there are any), then dropout. `(N, T)` ids become `(N, T, embed_dim)`.
"""


# %% nbgrader={"grade": false, "grade_id": "first-layer", "locked": false, "solution": true}
#| export
class EmbeddingLayer(Module):
    """Ids (..., T) to vectors (..., T, embed_dim): what a token is, and where it stands.

    `positions` is "learned", "sinusoidal" or None (for models that turn queries and keys instead).
    IndexError for ids that don't exist, ValueError for positions beyond `max_seq_len`.

    >>> EmbeddingLayer(vocab_size=100, embed_dim=16, max_seq_len=32)(Tensor([[5, 6, 7]])).shape
    (1, 3, 16)
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        max_seq_len: int,
        positions: str | None = "learned",
        dropout: float = 0.0,
        padding_idx: int | None = None,
    ):
        kinds: dict[str, Any] = {"learned": LearnedPositions, "sinusoidal": SinusoidalPositions}
        if positions not in (None, *kinds):
            raise ValueError(f"positions: expected one of {[None, *kinds]}, got {positions!r}")
        self.tokens = Embedding(vocab_size, embed_dim, padding_idx)
        self.positions = kinds[positions](max_seq_len, embed_dim) if positions else None
        self.dropout = Dropout(dropout)

    def forward(self, ids: Any, start: int = 0) -> Tensor:
        ### BEGIN SOLUTION
        x = self.tokens(ids)
        if self.positions is not None:
            x = self.positions(x, start)
        return self.dropout(x)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-first-layer", "locked": true, "points": 6, "solution": false}
def test_first_layer():
    manual_seed(0)
    ids = np.array([[4, 1, 4]])
    plain = EmbeddingLayer(5, 6, 8, positions=None)
    check(plain(ids), plain.tokens(ids).numpy(), "no positions: the embeddings alone")
    for kind in ("learned", "sinusoidal"):
        layer = EmbeddingLayer(5, 6, 8, positions=kind)
        expected = layer.positions(layer.tokens(ids), 0).numpy()
        check(layer(ids), expected, "the token and its position")
        last = layer(ids[:, 2:], start=2)[0, 0]
        check(last, layer(ids)[0, 2].numpy(), "the third token alone, at its own position")
    ### BEGIN HIDDEN TESTS
    thrown = EmbeddingLayer(5, 100, 8, dropout=0.5)
    check((thrown(ids) == 0).numpy().mean(), 0.5, "half is thrown away", 0.1)
    check(bool((thrown.eval()(ids) == 0).any()), False, "in eval mode nothing is")
    ### END HIDDEN TESTS


test_first_layer()

# %% [markdown]
r"""
At the other end, a language model has to say which token comes next: it gives a score to each of the $V$ tokens, and the usual last layer is a `Linear(D, V)`, with a column for each token. That is the same table once more: $D$ numbers that say what a token means. **Weight tying** uses one for both (Press & Wolf 2017): the score of a token is the product of the network's answer with the token's embedding.

**Exercise 11 (6 points).** Write `TiedLinear.forward`: `(..., D)` to scores `(..., V)`. It must not copy the weight: the gradients of both ends must add up in one tensor. `permute(weight)` is the transposed weight, and `linear` multiplies.
"""


# %% nbgrader={"grade": false, "grade_id": "tied-linear", "locked": false, "solution": true}
#| export
class TiedLinear(Module):
    """Scores of all tokens, x @ embedding.weight^T: (..., D) -> (..., V), without an own weight.

    The embedding's weight is one parameter with two uses; its gradients add up (Press, Wolf 2017).

    >>> tokens = Embedding(100, 16)
    >>> head = TiedLinear(tokens)
    >>> head(tokens(Tensor([5, 6]))).shape, head.parameters()[0] is tokens.weight
    ((2, 100), True)
    """

    def __init__(self, embedding: Embedding):
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        return linear(x, permute(self.embedding.weight))
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-tied-linear", "locked": true, "points": 6, "solution": false}
def test_tied_linear():
    tokens = Embedding.from_pretrained(Tensor([[1, 0], [0, 1], [1, 1]]), freeze=False)
    head = TiedLinear(tokens)
    check(head(Tensor([[2, 3]])), [[2.0, 3.0, 5.0]], "a product with each token's row")
    head(tokens([0])).sum().backward()
    check(tokens.weight.grad, [[3.0, 2.0], [1.0, 0.0], [1.0, 0.0]], "both ends' gradients, added")
    ### BEGIN HIDDEN TESTS
    check(len(head.parameters()), 1, "no weight of its own")
    tokens.weight = Tensor([[3, 0]])
    check(head(Tensor([[1, 1]])), [[3.0]], "a new weight is used at both ends")
    ### END HIDDEN TESTS


test_tied_linear()

# %% [markdown]
r"""
## Put together: the next character

A small network reads 8 characters of Python's handbook and guesses the next: embeddings, a layer for each character, the mean over all eight, scores for each character. It is trained three times: without positions, with learned ones and with sinusoidal ones. Everything else is equal. The tokens' vectors start ten times smaller than usual, so that what they are in the end is learned and not drawn.

**Predict** the order of the three, and whether positions matter much. A guess at random costs $\ln V$ nats for each character.
"""

# %%
from tqdm import tqdm

handbook = "\n".join(topics.values())[:200_000]
tokenizer = CharTokenizer(handbook)
text = np.array(tokenizer.encode(handbook))
CONTEXT, STEPS = 8, 600


class NextCharacter(Module):
    def __init__(self, positions):
        self.first = EmbeddingLayer(len(tokenizer), 16, CONTEXT, positions)
        self.first.tokens.weight = 0.1 * randn(len(tokenizer), 16)
        self.middle = Sequential(Linear(16, 256), ReLU())
        self.back = Linear(256, 16)
        self.last = TiedLinear(self.first.tokens)

    def forward(self, ids):
        return self.last(self.back(self.middle(self.first(ids)).mean(axis=1)))


def train(positions):
    manual_seed(0)
    model, loss_of, losses = NextCharacter(positions), CrossEntropyLoss(), []
    optimizer = Adam(model.parameters(), lr=1e-2)
    draws = np.random.default_rng(0)
    for _ in tqdm(range(STEPS), desc=str(positions), disable=None):
        places = draws.integers(0, len(text) - CONTEXT, 128)[:, None] + np.arange(CONTEXT + 1)
        loss = loss_of(model(text[places[:, :-1]]), text[places[:, -1]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


print(f"{len(tokenizer)} characters, ln V = {np.log(len(tokenizer)):.2f} nats")
found = {}
for positions in (None, "learned", "sinusoidal"):
    found[positions] = train(positions)
    print(f"positions={positions!s:11} {np.mean(found[positions][1][-100:]):.2f} nats a character")

# %%
if plt:
    for (positions, (_, losses)), style in zip(found.items(), ("k:", "k--", "k-"), strict=True):
        smooth = np.convolve(losses, np.ones(25) / 25, "valid")
        plt.plot(np.arange(len(smooth)) + 25, smooth, style, label=f"positions={positions}")
    plt.title("Guessing the next character of the handbook")
    plt.xlabel("training step")
    plt.ylabel("loss (nats a character)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
Without positions the network knows which eight characters there are, and not which of them is the last.

What has it learned about characters? Nobody told it what a digit is, or a capital. **Predict** which characters are nearest to `e`, to `3` and to `T`.
"""

# %%
model = found["learned"][0]
vectors = model.first.tokens.weight.numpy()
vectors = vectors - vectors.mean(axis=0)
vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
for character in "e3T(":
    similar = vectors @ vectors[tokenizer.encode(character)[0]]
    nearest = np.argsort(-similar)[1:6]
    print(
        repr(character), *(f"{tokenizer.decode(i)!r} {similar[i]:.2f}" for i in nearest), sep="   "
    )

# %%
if plt:
    common = [i for i in range(len(tokenizer)) if (text == i).sum() > 300]
    centred = vectors[common] - vectors[common].mean(axis=0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    plt.figure(figsize=(7, 6))
    plt.plot(*plane.T, ".", color="lightgray")
    for (x, y), number in zip(plane, common, strict=True):
        plt.text(x, y, repr(tokenizer.decode(number))[1:-1].replace("$", r"\$"))
    plt.title("The characters' embeddings, seen from where they differ most")
    plt.xlabel("first principal direction")
    plt.ylabel("second principal direction")
    plt.show()

# %% [markdown]
r"""
## Systems: a table that is mostly not read

One training step reads the rows of the tokens in the batch, a few thousand. **Predict:** which of the three times below grows with the number of tokens $V$, which doesn't, and why?
"""


# %%
def milliseconds(run, rounds=7):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


print(f"{'V':>7} {'weight bytes':>13} {'forward ms':>11} {'backward ms':>12} {'Adam ms':>8}")
ids = np.random.default_rng(0).integers(0, 1000, 2048)
for count in (1_000, 10_000, 50_000):
    layer = Embedding(count, 64)
    optimizer = Adam(layer.parameters())
    out = layer(ids)
    g = np.ones(out.shape, np.float32)
    forward = milliseconds(lambda layer=layer: layer(ids))
    layer.zero_grad()
    back = milliseconds(lambda out=out, g=g: out.backward(g, retain_graph=True))
    step = milliseconds(optimizer.step, rounds=3)
    print(f"{count:7,} {layer.weight.nbytes:13,} {forward:11.2f} {back:12.2f} {step:8.2f}")

# %% [markdown]
r"""
Forward reads 2,048 rows, however many there are. Backward writes a gradient for the *whole* table, nearly all of it zeros, and Adam moves every number of it, those with a gradient of zero as well. PyTorch has `torch.nn.Embedding(..., sparse=True)` and `torch.optim.SparseAdam` for that: they touch only the rows that were read. Language models don't use them: their vocabularies are read nearly completely in each step of millions of tokens, and with a tied last layer every row has a gradient anyway.

And what does adding rows cost in different ways?
"""

# %%
rows = np.random.default_rng(0).standard_normal((2048, 64)).astype(np.float32)


def with_a_loop():
    table = np.zeros((1000, 64), np.float32)
    for number, row in zip(ids, rows, strict=True):
        table[number] += row


def with_rows():
    np.add.at(np.zeros((1000, 64), np.float32), ids, rows)


for name, run in (("a Python loop", with_a_loop), ("np.add.at, by rows", with_rows)):
    print(f"{name:26} {milliseconds(run):6.2f} ms")
print(
    f"{'scatter_rows, flat':26} {milliseconds(lambda: scatter_rows(rows, ids, count=1000)):6.2f} ms"
)

# %% [markdown]
r"""
## Questions

**1 (4 points).** GPT-2 small has 50,257 tokens, 768 numbers for each, and 1,024 learned positions. How many parameters and how many bytes (float32) are the two tables? The whole model has 124.4 million parameters, with a tied last layer: which share are the tables? How many would it have without tying?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-gpt2", "points": 4, "solution": true}
r"""
50,257 · 768 = 38,597,376 and 1,024 · 768 = 786,432: together 39,383,808 parameters, 157,535,232 bytes (158 MB), 31.7 % of the model. Without tying there would be another 38.6 million for the last layer: 163.0 million.
"""

# %% [markdown]
r"""
**2 (4 points).** A batch has 32 texts of 256 tokens, $V$ = 30,000, $D$ = 512, float32. How many bytes are the one-hot vectors, and how many the rows that are picked? How many multiplications and additions would the product with one-hot vectors take, and how many the picking?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-one-hot", "points": 4, "solution": true}
r"""
8,192 tokens. One-hot: 8,192 · 30,000 · 4 = 983,040,000 bytes. Rows: 8,192 · 512 · 4 = 16,777,216 bytes, a 59th. The product: 2 · 8,192 · 30,000 · 512 = 252 billion operations, all but one in 30,000 of them with a zero. Picking: none, it only copies.
"""

# %% [markdown]
r"""
**3 (4 points).** In a sinusoidal table with $D$ = 128 and base 10,000, after how many tokens has the fastest hand turned once? And the slowest one, $j = 63$? A rotary layer has learned from texts of 2,048 tokens: which angle has the slowest of its 64 hands reached by then? Why might a text of 8,192 tokens surprise the network?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-hands", "points": 4, "solution": true}
r"""
The fastest turns once in $2\pi$ = 6.28 tokens. The slowest has $\omega = 10000^{-63/64}$ = 0.0001155, once in 54,410 tokens. After 2,048 tokens it stands at 0.2365 radians, 13.6 degrees. In a text of 8,192 tokens the slow hands come to angles that the network has never seen (here 54 degrees), so what it makes of them is anybody's guess; a larger base turns the hands more slowly.
"""

# %% [markdown]
r"""
## All tests once more
"""


# %%
def test_module():
    for test in (test_checked_ids, test_scatter_rows, test_embedding, test_embedding_rule):
        test()
    for test in (test_embedding_layer, test_rows_at, test_sinusoidal_positions):
        test()
    for test in (test_rotate_pairs, test_rotary_positions, test_first_layer, test_tied_linear):
        test()
    print("All tests of module 11 pass.")


test_module()

# %% [markdown]
r"""
**What works now:** ids become vectors that learn, and every vector knows where it stands.
You saw that a repeated token must get all of its gradients, and how easily NumPy loses one.
You know three kinds of positions, and why turning makes distances count.
You tied the first layer to the last, and measured what a large vocabulary costs in each step.
**Next:** tokens that look at one another, `tito module start 12`.
"""

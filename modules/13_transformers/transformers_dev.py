# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp models.transformer

# %% [markdown]
r"""
# Transformers

> Blocks of attention and small networks, stacked: a model that writes, and one that reads.

**Built before:** tokens as vectors with a position, and attention, by which every position asks all others.
**Built here:** what it takes to stack them by the dozen: norms, sums that run through, a careful start. Then the GPT, which writes, and the encoder, which reads.
**Time:** 5 hours; two evenings, with a natural pause before "Writing". **Points:** 88 for code, 12 for the questions at the end.
"""

# %%
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinytorch.core.activations import GELU, in_pieces
from tinytorch.core.attention import MultiHeadAttention
from tinytorch.core.autograd import joint_vjp, rows
from tinytorch.core.layers import Dropout, Linear, Module
from tinytorch.core.tensor import (
    Tensor,
    as_index,
    einsum,
    generator,
    ones,
    op,
    randn,
    sqrt,
    where,
    zeros,
)
from tinytorch.core.training import evaluating
from tinytorch.text.embeddings import Embedding, EmbeddingLayer, RotaryPositions, TiedLinear

# %%
import time
import tracemalloc
from pydoc_data.topics import topics

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import grad, gradcheck, no_grad
from tinytorch.core.layers import Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam, CosineSchedule, WarmupSchedule
from tinytorch.core.tensor import manual_seed
from tinytorch.text.tokenization import CharTokenizer

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the lesson works without pictures

# %% [markdown]
r"""
## Deeper should be better

One layer of attention looks at a text once. To look at what it has seen, stack another, and another: GPT-2 has 12 of them, its larger sisters up to 48. So, stack.

Below, 256 random vectors go through 24 steps; each step is a linear layer, a ReLU and a linear layer. We measure by how much the 256 vectors still **differ from one another**, and how large the gradient is that arrives at the first of them. The weights are taken once as `Linear` makes them, once 4 times as large.

**Predict** both, after 24 steps. Do they grow, shrink or stay? Write it down, then run.
"""


# %%
def by_depth(step, factor, depth=24, size=64):
    """How much 256 vectors differ after each step, and the size of the gradient at the start."""
    manual_seed(0)
    x = first = randn(256, size, requires_grad=True)
    spread = [1.0]
    for _ in range(depth):
        network = Sequential(Linear(size, size), ReLU(), Linear(size, size))
        for parameter in network.parameters():
            parameter.data *= factor
        x = step(x, network)
        spread.append(float(x.data.std(axis=0).mean()))
    return spread, float(grad(x, first, randn(256, size).data).data.std())


def show_depth(steps):
    for factor in (1, 4):
        print(
            f"weights times {factor}:  differences after 1, 8 and 24 steps; gradient at the first"
        )
        for name, step in steps.items():
            spread, gradient = by_depth(step, factor)
            values = (*(spread[depth] for depth in (1, 8, 24)), gradient)
            print(f"{name:>18}", *(f"{value:9.1e}" for value in values))


show_depth({"f(x)": lambda x, f: f(x)})

# %% [markdown]
r"""
With small weights all vectors become one: whatever you put in, the same comes out, and no gradient comes back. With large ones everything grows without limit. Between the two lies a value that is right for one depth, at the start of training only. Nobody can hold it.

Two ideas cure this, and every transformer has both: **norms** and **sums that run through**.

## Norms: every vector back to size

A **layer norm** (Ba, Kiros and Hinton 2016) takes each vector $x$ of $D$ numbers by itself, shifts it to mean 0 and stretches it to standard deviation 1. Then a weight $w$ and a bias $b$, with $D$ numbers each, say what is to become of it:

$$n = \frac{x - \mu}{\sigma} \qquad y = w\,n + b \qquad \mu = \operatorname{mean}(x) \qquad \sigma = \sqrt{\operatorname{mean}\big((x - \mu)^2\big) + \epsilon}$$

Unlike a batch norm, it asks nobody else: not the rest of the batch, not the other positions. So it does the same in training and in use, and for a text of any length.

**Predict** the three rows that the exercise's function must give for `[1, 3]`, `[10, 30]` and `[5, 5]`, without weight and bias.

The means are needed so often, and on arrays so large, that they are given: as products, which NumPy gives to the fastest code there is.
"""


# %% nbgrader={"grade": false, "grade_id": "rows", "locked": true, "solution": false}
#| exporti
def mean_of_rows(x: Any) -> Any:
    """The mean along the last axis, which stays: a product with 1 / D, the fastest way to add."""
    size = x.shape[-1]
    dtype = x.dtype if x.dtype.kind == "f" else np.float32
    return (x @ np.full(size, 1 / max(size, 1), dtype))[..., None]


def mean_of_products(a: Any, b: Any) -> Any:
    """The mean of a b along the last axis, which stays; no array is made for a b."""
    return einsum("...i,...i->...", a, b)[..., None] / max(a.shape[-1], 1)


# %%
x = np.array([[1.0, 3.0], [10.0, 30.0]])
print("means:", mean_of_rows(x).tolist())
print("means of squares:", mean_of_products(x, x).tolist())

# %% [markdown]
r"""
**Exercise 1 (7 points).** Write `layer_norm`: `x` `(..., D)`, `weight` and `bias` `(D,)` or None. `[1, 3]` has $\mu = 2$, $\sigma = 1$ and becomes `[-1, 1]`. Leave `x` as it is: work on a new array. (`@in_pieces` runs your function on some rows at a time, so that they stay in the cache. `np.sqrt` is right here: inside an op, `x` is an array.)
"""


# %% nbgrader={"grade": false, "grade_id": "layer-norm", "locked": false, "solution": true}
#| export
@op
@in_pieces
def layer_norm(x, weight=None, bias=None, eps=1e-5):
    """weight (x - mean) / sqrt(variance + eps) + bias, each vector (..., D) by itself.

    (Ba, Kiros and Hinton 2016.)

    >>> layer_norm(Tensor([[1, 3], [10, 30]]), eps=0)
    Tensor([[-1.,  1.],
            [-1.,  1.]])
    """
    ### BEGIN SOLUTION
    out = x - mean_of_rows(x)
    out *= 1 / np.sqrt(mean_of_products(out, out) + eps)
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-layer-norm", "locked": true, "points": 7, "solution": false}
def test_layer_norm():
    x = Tensor([[1, 3], [10, 30], [5, 5]])
    expected = [[-1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]
    check(layer_norm(x), expected, "each row by itself: mean 0, standard deviation 1", 1e-4)
    out = layer_norm(x, Tensor([2, 3]), Tensor([10, 0]))
    check(out[0], [8.0, 3.0], "weight times it, plus bias", 1e-4)
    check(x, [[1.0, 3.0], [10.0, 30.0], [5.0, 5.0]], "x itself must stay as it is")
    ### BEGIN HIDDEN TESTS
    check(layer_norm(Tensor([[0, 2]]), eps=3.0), [[-0.5, 0.5]], "eps stands under the root")
    check(layer_norm(x[:2], Tensor([2, 3]))[0], [-2.0, 3.0], "a weight without a bias", 1e-4)
    check(layer_norm(x[:2], None, Tensor([1, 0]))[1], [0.0, 1.0], "a bias without a weight", 1e-4)
    long = layer_norm(Tensor(np.arange(24.0).reshape(2, 3, 4)))
    check((long * long).mean(axis=-1), [[1.0] * 3] * 2, "the variance divides by D", 1e-4)
    check(layer_norm(x.astype(np.float64)).dtype, np.float64, "the dtype stays")
    ### END HIDDEN TESTS


test_layer_norm()

# %% [markdown]
r"""
### Its gradient, without pages of algebra

Shift a vector, or stretch it, and $n$ stays the same. So no gradient can point in those two directions: whatever comes in is **cleaned** of them. Let $g$ be the gradient of $y$, and $g_n = w\,g$ that of $n$. Take out what is alike in all numbers, and take out what points along $n$:

$$g_x = \frac{1}{\sigma}\Big(g_n - \operatorname{mean}(g_n) - n\,\operatorname{mean}(g_n\,n)\Big)$$

$$g_w = \sum_{\text{rows}} g\,n \qquad g_b = \sum_{\text{rows}} g$$

**Exercise 2 (9 points).** Write `layer_norm_rule`; it returns $(g_x, g_w, g_b)$. `weight` may be None; then $g_n = g$, and what you return for it is ignored. It may get tensors instead of arrays (for second derivatives), so take `sqrt`, `einsum`, operators and the helpers, which treat both alike. `rows(g)` is `(rows, D)`, whatever the batch looks like.

<details><summary>Hint</summary>

$n$ isn't given: compute it from `x` as before, and keep $1/\sigma$, which you need twice. `einsum("ni,ni->i", a, b)` adds up products over the rows.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "layer-norm-rule", "locked": false, "solution": true}
#| exporti
def layer_norm_rule(g, out, x, weight=None, bias=None, eps=1e-5):
    """What shifts or stretches a whole vector changes nothing, so it is taken out of g."""
    ### BEGIN SOLUTION
    normal = x - mean_of_rows(x)
    scale = 1 / sqrt(mean_of_products(normal, normal) + eps)
    normal *= scale
    g_normal = g if weight is None else g * weight
    g_x = g_normal - mean_of_rows(g_normal)
    g_x -= normal * mean_of_products(g_normal, normal)
    g_x *= scale
    g_weight = einsum("ni,ni->i", rows(g), rows(normal))
    return g_x, g_weight, rows(g).sum(axis=0)
    ### END SOLUTION


joint_vjp(layer_norm, layer_norm_rule)


# %% nbgrader={"grade": true, "grade_id": "test-layer-norm-rule", "locked": true, "points": 9, "solution": false}
def test_layer_norm_rule():
    x = Tensor([[1, 3, 8], [0, -1, 5]], requires_grad=True)
    weight, bias = Tensor([1, 2, -1]), Tensor([0.5, 0, 1])
    gradcheck(layer_norm, x)
    gradcheck(layer_norm, x, weight, bias)
    g = Tensor([[1, 2, 4], [3, -1, 0]]).data
    found = grad(layer_norm(x), x, g)
    check(found.sum(axis=-1), [0.0, 0.0], "no gradient shifts a whole vector", 1e-4)
    check((found * x).sum(axis=-1), [0.0, 0.0], "none stretches it", 1e-4)
    ### BEGIN HIDDEN TESTS
    gradcheck(lambda x, w: layer_norm(x, w, eps=2.0), x, weight)
    gradcheck(layer_norm, randn(2, 2, 3), weight, bias, order=2, tolerance=1e-4)
    bias.requires_grad = True
    out = layer_norm(randn(4, 5, 3), weight, bias)
    check(grad(out, bias, np.ones(out.shape)), [20.0] * 3, "the bias gets the sum over all rows")
    ### END HIDDEN TESTS


test_layer_norm_rule()

# %% [markdown]
r"""
### Do we need the mean?

Zhang and Sennrich (2019) left it out: divide by the root of the mean square and be done. LLaMA and many models since do so.

$$y = w\,\frac{x}{\sqrt{\operatorname{mean}(x^2) + \epsilon}}$$

**Exercise 3 (8 points).** Write `rms_norm`, and beneath it `rms_norm_rule`, which returns $(g_x, g_w)$. It is the rule above without what took care of the shift: a vector may be shifted now, and only stretching changes nothing. `[1, 7]` has the mean square 25 and becomes `[0.2, 1.4]`.
"""


# %% nbgrader={"grade": false, "grade_id": "rms-norm", "locked": false, "solution": true}
#| export
@op
@in_pieces
def rms_norm(x, weight=None, eps=1e-6):
    """weight x / sqrt(mean of squares + eps), each vector (..., D) by itself.

    (Zhang and Sennrich 2019.)

    >>> rms_norm(Tensor([[1, 7], [10, 70]]), eps=0)
    Tensor([[0.2, 1.4],
            [0.2, 1.4]])
    """
    ### BEGIN SOLUTION
    out = x * (1 / np.sqrt(mean_of_products(x, x) + eps))
    if weight is not None:
        out *= weight
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-rms-norm", "locked": true, "points": 4, "solution": false}
def test_rms_norm():
    out = rms_norm(Tensor([[1, 7], [10, 70], [-2, 2]]))
    check(
        out, [[0.2, 1.4], [0.2, 1.4], [-1.0, 1.0]], "divided by the root of the mean square", 1e-4
    )
    check(rms_norm(Tensor([[1, 7]]), Tensor([10, 100])), [[2.0, 140.0]], "times the weight", 1e-4)
    ### BEGIN HIDDEN TESTS
    check(rms_norm(Tensor([[1, 1]]), eps=3.0), [[0.5, 0.5]], "eps stands under the root")
    check(rms_norm(Tensor(np.zeros((2, 3)))), [[0.0] * 3] * 2, "zeros stay zeros")
    x = Tensor([[3, 4]])
    rms_norm(x, Tensor([2, 2]))
    check(x, [[3.0, 4.0]], "x itself must stay as it is")
    ### END HIDDEN TESTS


test_rms_norm()


# %% nbgrader={"grade": false, "grade_id": "rms-norm-rule", "locked": false, "solution": true}
#| exporti
def rms_norm_rule(g, out, x, weight=None, eps=1e-6):
    """What stretches a whole vector changes nothing, so it is taken out of g."""
    ### BEGIN SOLUTION
    scale = 1 / sqrt(mean_of_products(x, x) + eps)
    normal = x * scale
    g_normal = g if weight is None else g * weight
    g_x = g_normal - normal * mean_of_products(g_normal, normal)
    g_x *= scale
    return g_x, einsum("ni,ni->i", rows(g), rows(normal))
    ### END SOLUTION


joint_vjp(rms_norm, rms_norm_rule)


# %% nbgrader={"grade": true, "grade_id": "test-rms-norm-rule", "locked": true, "points": 4, "solution": false}
def test_rms_norm_rule():
    x, weight = Tensor([[1, 3, 8], [0, -1, 5]], requires_grad=True), Tensor([1, 2, -1])
    gradcheck(rms_norm, x)
    gradcheck(rms_norm, x, weight)
    found = grad(rms_norm(x), x, Tensor([[1, 2, 4], [3, -1, 0]]).data)
    check((found * x).sum(axis=-1), [0.0, 0.0], "no gradient stretches a vector", 1e-4)
    ### BEGIN HIDDEN TESTS
    gradcheck(lambda x, w: rms_norm(x, w, eps=2.0), x, weight)
    gradcheck(rms_norm, randn(2, 2, 3), weight, order=2, tolerance=1e-4)
    ### END HIDDEN TESTS


test_rms_norm_rule()

# %% [markdown]
r"""
The layers only hold the weight and the bias, which start at 1 and 0. They are given.
"""


# %% nbgrader={"grade": false, "grade_id": "norm-sizes", "locked": true, "solution": false}
#| exporti
def size_of_vectors(name: str, normalized_shape: int | tuple[int, ...]) -> int:
    """D, given as D or (D,); ValueError for several axes."""
    if np.size(normalized_shape) != 1 or np.min(normalized_shape) < 1:
        raise ValueError(
            f"{name}: expected the size of the last axis alone, got {normalized_shape}"
        )
    return int(np.max(normalized_shape))


def check_last_axis(name: str, x: Tensor, size: int) -> None:
    """ValueError unless x is (..., size)."""
    if x.shape[-1:] != (size,):
        raise ValueError(f"{name}: expected a shape of (..., {size}), got {x.shape}")


# %% nbgrader={"grade": false, "grade_id": "norm-layers", "locked": true, "solution": false}
#| export
class LayerNorm(Module):
    """layer_norm with a weight and a bias for each of the last axis's D numbers.

    The weight starts at 1, the bias at 0. ValueError where x ends in another size.

    >>> LayerNorm(2)(Tensor([[1, 3], [10, 30]])).detach()
    Tensor([[-1.,  1.],
            [-1.,  1.]])
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5, bias: bool = True
    ):
        size = size_of_vectors("LayerNorm", normalized_shape)
        self.eps, self.weight = eps, ones(size)
        self.bias = zeros(size) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        check_last_axis("LayerNorm", x, len(self.weight))
        return layer_norm(x, self.weight, self.bias, eps=self.eps)

    def _extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class RMSNorm(Module):
    """rms_norm with a weight for each of the last axis's D numbers, which starts at 1.

    >>> RMSNorm(2)(Tensor([1, 7])).detach()
    Tensor([0.2, 1.4])
    """

    weight: Tensor

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-6):
        self.eps, self.weight = eps, ones(size_of_vectors("RMSNorm", normalized_shape))

    def forward(self, x: Tensor) -> Tensor:
        check_last_axis("RMSNorm", x, len(self.weight))
        return rms_norm(x, self.weight, eps=self.eps)

    def _extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


# %% [markdown]
r"""
## Sums that run through

The second idea is older (He et al. 2015): don't replace $x$, **add to it**. A step computes what is to change, $x + f(x)$, and the derivative of that is $1 + f'$. However small $f'$ is, the 1 carries the gradient through all steps untouched.

```
 x ----+----------------------(+)----+---------------(+)--->
       |                       ^     |                ^
       +--> norm --> attention-+     +--> norm --> mlp+
```

Where does the norm stand? In 2017 it stood on the road itself, after each sum: $\operatorname{norm}(x + f(x))$. Since GPT-2 it stands at the entrance of the side road: $x + f(\operatorname{norm}(x))$. Then nothing at all stands between the last layer and the first.

**Predict** which lines of the table will be fit for 24 steps, with small weights and with large ones.
"""

# %%
show_depth(
    {
        "f(x)": lambda x, f: f(x),
        "f(norm(x))": lambda x, f: f(layer_norm(x)),
        "x + f(x)": lambda x, f: x + f(x),
        "norm(x + f(x))": lambda x, f: layer_norm(x + f(x)),
        "x + f(norm(x))": lambda x, f: x + f(layer_norm(x)),
    }
)

# %%
if plt:
    lines = (("f(x)", "k:"), ("x + f(x)", "k--"), ("x + f(norm(x))", "k-"))
    steps = (lambda x, f: f(x), lambda x, f: x + f(x), lambda x, f: x + f(layer_norm(x)))
    for (name, style), step in zip(lines, steps, strict=True):
        plt.semilogy(by_depth(step, 4)[0], style, label=name)
    plt.title("24 steps with weights 4 times as large")
    plt.xlabel("depth (steps)")
    plt.ylabel("how much the vectors differ (standard deviation)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
A norm alone stops the worst, but what made the vectors differ still fades. A sum alone is fine as long as the weights are small. The last two lines are fit in both tables. With the norm on the road, differences from early steps fade, for every norm shrinks them a little; with the norm on the side road nothing is ever shrunk, and the sum grows slowly. That is the one that we build.

## One block

Attention lets positions talk to each other. What they heard, each has to digest on its own: a small network of two linear layers, the same at every position. It goes up to 4 times as many numbers, bends, and comes back (Vaswani et al. 2017, section 3.3):

$$\operatorname{mlp}(x) = \operatorname{gelu}(x W_1 + b_1)\,W_2 + b_2$$

**Predict:** attention has four matrices of $D \times D$. Which part of a block has more parameters?

**Exercise 4 (4 points).** Complete `MLP`: the layers `up` (from `embed_dim` to `hidden_dim`, which is `4 * embed_dim` if it is None), `activation` (what is given, or else `GELU()`), `down` and `dropout`; and `forward`, which runs through them in this order.
"""


# %% nbgrader={"grade": false, "grade_id": "mlp", "locked": false, "solution": true}
#| export
class MLP(Module):
    """Two linear layers with a bend between, at each position alone: (..., D) -> (..., D).

    `hidden_dim` is 4 D unless given (Vaswani et al. 2017, section 3.3).

    >>> MLP(8)(Tensor(np.ones((2, 3, 8)))).shape
    (2, 3, 8)
    """

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        activation: Callable[[Tensor], Tensor] | None = None,
    ):
        ### BEGIN SOLUTION
        hidden_dim = 4 * embed_dim if hidden_dim is None else hidden_dim
        self.up = Linear(embed_dim, hidden_dim)
        self.activation = GELU() if activation is None else activation
        self.down = Linear(hidden_dim, embed_dim)
        self.dropout = Dropout(dropout)
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        return self.dropout(self.down(self.activation(self.up(x))))
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-mlp", "locked": true, "points": 4, "solution": false}
def test_mlp():
    manual_seed(0)
    mlp = MLP(3, activation=lambda x: x * x)
    check(mlp.up.weight.shape, (3, 12), "4 times as many, unless told otherwise")
    x = randn(2, 5, 3)
    expected = mlp.down(mlp.up(x) * mlp.up(x)).numpy()
    check(mlp(x), expected, "up, activation, down", 1e-5)
    check(type(MLP(3).activation), GELU, "GELU, unless told otherwise")
    ### BEGIN HIDDEN TESTS
    check(MLP(3, hidden_dim=5).down.weight.shape, (5, 3), "hidden_dim as it is given")
    with check_raises(ValueError, "at least 1", "0 is no size, and it is not None"):
        MLP(3, hidden_dim=0)
    thrown = MLP(8, dropout=0.5)(randn(200, 8))
    check((thrown == 0).numpy().mean(), 0.5, "dropout comes last", 0.1)
    ### END HIDDEN TESTS


test_mlp()

# %% [markdown]
r"""
**Exercise 5 (8 points).** Write `TransformerBlock.forward`, the picture above: first the sum with attention, then the sum with the MLP, each behind its own norm. `mask`, `is_causal` and `start` go to `self.attention`; what attention says passes through `self.dropout` before it is added. (The MLP has a dropout of its own.)
"""


# %% nbgrader={"grade": false, "grade_id": "transformer-block", "locked": false, "solution": true}
#| export
class TransformerBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): (..., T, D) -> (..., T, D).

    The norms stand before what they feed, as in GPT-2 (Radford et al. 2019): the sums run through
    all blocks untouched. `norm` makes one of a size; `attention` are options of MultiHeadAttention.

    >>> block = TransformerBlock(8, num_heads=2, norm=RMSNorm, num_kv_heads=1)
    >>> block(Tensor(np.ones((2, 3, 8))), is_causal=True).shape
    (2, 3, 8)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_dim: int | None = None,
        dropout: float = 0.0,
        norm: Callable[[int], Module] = LayerNorm,
        **attention: Any,
    ):
        self.norm1, self.norm2 = norm(embed_dim), norm(embed_dim)
        self.attention = MultiHeadAttention(embed_dim, num_heads, dropout=dropout, **attention)
        self.dropout = Dropout(dropout)
        self.mlp = MLP(embed_dim, mlp_dim, dropout)

    def forward(
        self, x: Tensor, mask: Any = None, is_causal: bool = False, start: int = 0
    ) -> Tensor:
        ### BEGIN SOLUTION
        attended = self.attention(self.norm1(x), mask=mask, is_causal=is_causal, start=start)
        x = x + self.dropout(attended)
        return x + self.mlp(self.norm2(x))
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-transformer-block", "locked": true, "points": 8, "solution": false}
def test_transformer_block():
    manual_seed(0)
    block, x = TransformerBlock(8, num_heads=2), randn(2, 5, 8)
    for norm in (block.norm1, block.norm2):  # two norms that can be told apart
        norm.weight = 1 + randn(8)
    middle = x + block.attention(block.norm1(x))
    expected = (middle + block.mlp(block.norm2(middle))).numpy()
    check(block(x), expected, "x + attention(norm1(x)), then + mlp(norm2(that))", 1e-5)
    block.attention.out_proj.weight = Tensor(np.zeros((8, 8)))
    block.mlp.down.weight = Tensor(np.zeros((32, 8)))
    for bias in (block.attention.out_proj.bias, block.mlp.down.bias):
        bias.data[:] = 0
    check(block(x), x.numpy(), "with nothing to add, x runs through untouched")
    ### BEGIN HIDDEN TESTS
    block = TransformerBlock(8, num_heads=2, positions=RotaryPositions(4, 9)).eval()
    causal = block(x, is_causal=True)
    check(causal[:, :2], block(x[:, :2], is_causal=True).numpy(), "is_causal must arrive", 1e-5)
    check(block(x, mask=np.tri(5, dtype=bool)), causal.numpy(), "so must the mask", 1e-5)
    with check_raises(ValueError, "7 to 11", "so must start: positions 7 to 11 of 9"):
        block(x, start=7)
    noisy = TransformerBlock(8, num_heads=2, dropout=0.5)
    noisy.attention.dropout.eval()
    noisy.mlp.eval()
    noisy.mlp.down.weight, noisy.mlp.down.bias = Tensor(np.zeros((32, 8))), Tensor(np.zeros(8))
    added = noisy(x) - x
    check((added == 0).numpy().mean(), 0.5, "what attention says is dropped, half of it", 0.2)
    ### END HIDDEN TESTS


test_transformer_block()

# %% [markdown]
r"""
### Who may look at whom

`is_causal=True` forbids every position to look at later ones: a model that is to guess the next token must not see it. Where you need that as a mask of its own, to join it with another one or to draw it, or for queries that are only the last few of many positions:

```
 3 positions             the last 2 of 4
   0  1  2                 0  1  2  3
 0 x  .  .               2 x  x  x  .
 1 x  x  .               3 x  x  x  x
 2 x  x  x
```

**Exercise 6 (4 points).** Write `create_causal_mask`: a boolean tensor `(length, total)`, True where query may look at key. `total` is `length` unless given. Fewer than 0 queries, or more than `total`, raise a `ValueError` that names both numbers. (`np.tri` may help.)
"""


# %% nbgrader={"grade": false, "grade_id": "create-causal-mask", "locked": false, "solution": true}
#| export
def create_causal_mask(length: int, total: int | None = None) -> Tensor:
    """Which of `total` positions the last `length` may look at: (length, total), True where so.

    Each may look at itself and at what is before it. `total` is `length` unless given.

    >>> create_causal_mask(2)
    Tensor([[ True, False],
            [ True,  True]])
    >>> create_causal_mask(1, 3)
    Tensor([[ True,  True,  True]])
    """
    ### BEGIN SOLUTION
    total = length if total is None else total
    if not 0 <= length <= total:
        raise ValueError(f"create_causal_mask: {length} queries among {total} positions")
    return Tensor(np.tri(length, total, total - length, dtype=bool))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-create-causal-mask", "locked": true, "points": 4, "solution": false}
def test_create_causal_mask():
    mask = create_causal_mask(3)
    check(mask.dtype, np.bool_, "True and False")
    expected = [[True, False, False], [True, True, False], [True, True, True]]
    check(mask, expected, "itself and what is before it")
    last = create_causal_mask(2, 4)
    check(last, [[True, True, True, False], [True] * 4], "the last two of four")
    with check_raises(ValueError, "3", "three queries don't fit in two positions"):
        create_causal_mask(3, 2)
    ### BEGIN HIDDEN TESTS
    check(create_causal_mask(1, 3), [[True] * 3], "the last one sees all")
    check(create_causal_mask(0, 2).shape, (0, 2), "no queries at all")
    with check_raises(ValueError, "-1", "nor fewer than none"):
        create_causal_mask(-1, 2)
    ### END HIDDEN TESTS


test_create_causal_mask()

# %% [markdown]
r"""
## A start that knows nothing

Before the first step, a model of $V$ tokens knows nothing about which one comes next. If it also *believes* that it knows nothing, it gives each the probability $1/V$, and the loss is $\ln V$. **Predict:** below, the last layer is the embedding used again, and its numbers are drawn as `Embedding` draws them, with standard deviation 1. The vectors that meet it have been through a norm. Is the loss near $\ln V$?
"""

# %%
manual_seed(0)
hidden, targets = layer_norm(randn(512, 64)), np.random.default_rng(0).integers(0, 1000, 512)
print(f"ln V = {np.log(1000):.2f}")
for std in (1.0, 0.1, 0.02):
    logits = hidden @ (std * randn(1000, 64)).T
    loss = CrossEntropyLoss()(logits, targets).item()
    print(f"standard deviation {std:4}: logits of {logits.data.std():.2f}, loss {loss:.2f}")

# %% [markdown]
r"""
With 1 the model is sure of itself, and wrong, and spends its first hundreds of steps on forgetting. A logit is a sum of $D$ products, so its standard deviation is $\sqrt{D}$ times that of the weights. GPT-2 starts all its weights with 0.02.

One more thing grows: the sum that runs through. $L$ blocks add $2L$ terms to it. If their sizes are alike, the sum's grows with $\sqrt{2L}$. So the two layers that speak into the sum, attention's `out_proj` and the MLP's `down`, start smaller by just that factor.

**Exercise 7 (7 points).** Write `start_small`, which gives a model with `blocks` new weights in place of those that it has:
- every `Linear` and `Embedding` a normal `weight` with standard deviation `std`, with zeros in the row `padding_idx` of an embedding that has one,
- every `Linear` that has a bias (it may be None) zeros,
- then the weights of `block.attention.out_proj` and `block.mlp.down` divided by $\sqrt{2L}$, $L$ = `len(model.blocks)`.

A weight is replaced by assigning a tensor: `module.weight = std * randn(...)`. To divide one that is there, divide `weight.detach()`: what has been recorded can't become a parameter.
"""


# %% nbgrader={"grade": false, "grade_id": "start-small", "locked": false, "solution": true}
#| exporti
def start_small(model: Any, std: float = 0.02) -> None:
    """Give a Transformer the weights that GPT-2 starts with.

    Weights of linear and embedding layers are normal with standard deviation `std`, biases and the
    padding's vector 0. What a block adds to the sums comes from `out_proj` and `down`: their
    weights are smaller by sqrt(2 L), for there are 2 L such sums in L blocks.
    """
    ### BEGIN SOLUTION
    for module in model.modules():
        if isinstance(module, (Linear, Embedding)):
            weight = std * randn(*module.weight.shape)
            if isinstance(module, Embedding) and module.padding_idx is not None:
                weight[module.padding_idx] = 0
            module.weight = weight
        if isinstance(module, Linear) and module.bias is not None:
            module.bias = zeros(module.out_features)
    for block in model.blocks:
        for layer in (block.attention.out_proj, block.mlp.down):
            layer.weight = layer.weight.detach() / math.sqrt(2 * len(model.blocks))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-start-small", "locked": true, "points": 7, "solution": false}
class Skeleton(Module):
    """What `start_small` needs of a model: layers, and blocks."""

    def __init__(self, layers, **options):
        self.tokens = Embedding(60, 48, padding_idx=2)
        self.blocks = [TransformerBlock(48, 4, **options) for _ in range(layers)]


def test_start_small():
    manual_seed(0)
    model = Skeleton(layers=2)
    start_small(model)
    block = model.blocks[1]
    check(model.tokens.weight.std(), 0.02, "embeddings: standard deviation 0.02", 2e-3)
    check(block.mlp.up.weight.std(), 0.02, "linear layers, too", 2e-3)
    check(block.mlp.down.weight.std(), 0.01, "4 sums in 2 blocks: 0.02 / sqrt(4)", 1e-3)
    check(block.attention.out_proj.weight.std(), 0.01, "attention speaks into the sum, too", 1e-3)
    check(model.tokens.weight[2], [0.0] * 48, "the padding's vector is zeros")
    check(block.attention.q_proj.bias, [0.0] * 48, "no bias at the start")
    ### BEGIN HIDDEN TESTS
    check(abs(block.mlp.up.weight.mean().item()) < 1e-3, True, "as many below 0 as above")
    check(bool((model.tokens.weight[np.array([0, 59])] == 0).any()), False, "no other row is zeros")
    check(block.norm1.weight, [1.0] * 48, "norms are no linear layers")
    check(all(p.requires_grad for p in model.parameters()), True, "all of it is to learn")
    start_small(plain := Skeleton(layers=8, bias=False), std=0.4)
    down = plain.blocks[7].mlp.down.weight
    check(down.std(), 0.1, "0.4 / sqrt(16) in each of 8 blocks", 1e-2)
    check(plain.blocks[0].attention.q_proj.bias is None, True, "None stays None")
    start_small(Skeleton(layers=0))
    ### END HIDDEN TESTS


test_start_small()

# %% [markdown]
r"""
## The whole tower

```
 ids (N, T) --> embeddings, positions --> block --> block --> ... --> norm --> (N, T, D)
```

What a GPT and an encoder have in common is here. A last norm stands at the end, since nobody has normed the sum yet. Positions are learned or sinusoidal vectors, added at the bottom, or rotary, which `MultiHeadAttention` applies in each block.

**Exercise 8 (4 points).** Write `Transformer.hidden`: a vector for each id, `(N, T)` to `(N, T, D)`. `start` is needed twice: where embeddings are made, and in the blocks.
"""


# %% nbgrader={"grade": false, "grade_id": "transformer", "locked": false, "solution": true}
#| exporti
class Transformer(Module):
    """What GPT and TransformerEncoder share: ids (N, T) -> embeddings, blocks, norm -> (N, T, D).

    `positions` is "learned", "sinusoidal", "rotary" or None, `norm` LayerNorm or RMSNorm; `block`
    are further options of TransformerBlock: mlp_dim, num_kv_heads, bias, block_size.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        max_seq_len: int,
        dropout: float = 0.0,
        positions: str | None = "learned",
        padding_idx: int | None = None,
        norm: Callable[[int], Module] = LayerNorm,
        **block: Any,
    ):
        check_shape(num_layers, positions)
        self.vocab_size, self.max_seq_len = vocab_size, max_seq_len
        if positions == "rotary":
            block["positions"] = RotaryPositions(embed_dim // max(num_heads, 1), max_seq_len)
            positions = None
        sizes = vocab_size, embed_dim, max_seq_len
        self.embed = EmbeddingLayer(*sizes, positions, dropout, padding_idx)
        self.padding_idx = self.embed.tokens.padding_idx
        block |= {"dropout": dropout, "norm": norm}
        self.blocks = [TransformerBlock(embed_dim, num_heads, **block) for _ in range(num_layers)]
        self.norm = norm(embed_dim)
        start_small(self)

    def hidden(self, ids: Any, mask: Any = None, is_causal: bool = False, start: int = 0) -> Tensor:
        """A vector for each of the ids, (N, T) -> (N, T, D); the first stands at `start`."""
        ### BEGIN SOLUTION
        x = self.embed(ids, start)
        for block in self.blocks:
            x = block(x, mask=mask, is_causal=is_causal, start=start)
        return self.norm(x)
        ### END SOLUTION


def check_shape(num_layers: int, positions: str | None) -> None:
    """ValueError for fewer than no layers, or for positions that don't exist."""
    kinds = ("learned", "sinusoidal", "rotary", None)
    if positions not in kinds:
        raise ValueError(f"positions: expected one of {kinds}, got {positions!r}")
    if num_layers < 0:
        raise ValueError(f"num_layers must be at least 0, got {num_layers}")


# %% nbgrader={"grade": true, "grade_id": "test-hidden", "locked": true, "points": 4, "solution": false}
def test_hidden():
    manual_seed(0)
    model = Transformer(11, 8, num_layers=2, num_heads=2, max_seq_len=6)
    model.norm.weight = 2 + randn(8)
    ids = np.array([[3, 1, 4], [1, 5, 9]])
    x = model.embed(ids)
    x = model.blocks[1](model.blocks[0](x, is_causal=True), is_causal=True)
    expected = model.norm(x).numpy()
    check(model.hidden(ids, is_causal=True), expected, "embeddings, all blocks, the norm", 1e-5)
    check(model.hidden(ids).shape, (2, 3, 8), "a vector for each id")
    ### BEGIN HIDDEN TESTS
    start_small(model, std=0.5)
    both = model.hidden(ids).numpy()
    masked = model.hidden(ids, mask=np.tri(3, dtype=bool)).numpy()
    check(bool(np.allclose(both, masked, atol=1e-3)), False, "the mask must arrive")
    check(masked, model.hidden(ids, is_causal=True).numpy(), "as is_causal does", 1e-4)
    check(model.hidden(ids[:, :1], start=0), masked[:, :1], "the first sees itself alone", 1e-4)
    for positions in ("learned", "rotary"):
        model = Transformer(11, 8, 1, 2, max_seq_len=6, positions=positions)
        with check_raises(ValueError, "4 to 6", "start must reach embeddings and blocks"):
            model.hidden(ids, start=4)
    ### END HIDDEN TESTS


test_hidden()

# %% [markdown]
r"""
### One that reads

An **encoder** reads a text that is there as a whole, so every position may look in both directions. BERT (Devlin et al. 2019) is one: you put a small layer on top, and it tells spam from mail, or names from verbs.

Texts in a batch are filled up with padding to one length. What stands there means nothing, and nobody may look at it. **Predict** what happens to the answer for "short" if three tokens of padding follow, and nobody hides them.
"""

# %%
manual_seed(0)
reader = Transformer(11, 8, num_layers=2, num_heads=2, max_seq_len=6, padding_idx=0)
start_small(reader, std=0.5)  # large enough for you to see what changes
with no_grad():
    short, padded = reader.hidden([[5, 6]]), reader.hidden([[5, 6, 0, 0, 0]])
print("alone: ", short[0, 0].numpy().round(2))
print("padded:", padded[0, 0].numpy().round(2))

# %% [markdown]
r"""
Zero vectors, and yet they have positions, biases, keys and a share in every softmax.

**Exercise 9 (6 points).** Write `hide_padding`, the mask that hides them. For ids `(N, T)` it is a boolean tensor `(N, 1, T)`: the same keys for each query of a text. If a `mask` is given, nobody may look where either forbids it. That mask, an array or a tensor, is boolean, or floating (it is added to the scores, so $-\infty$ hides), and has the shape `(T, T)`, `(N, T, T)` or, with a part for each of $H$ heads, `(N, H, T, T)`. For example, with `padding_idx=0`, `[[5, 6, 0]]` gives `[[[True, True, False]]]`.

<details><summary>Hint</summary>

`where(real, mask, other)` takes the mask where `real` is True, and broadcasts as always. What is `other` for each kind of mask? And which shape must `real` have to meet `(N, H, T, T)`?

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "hide-padding", "locked": false, "solution": true}
#| exporti
def hide_padding(ids: Any, padding_idx: int, mask: Any = None) -> Tensor:
    """The mask that hides the tokens `padding_idx` from all others, and what `mask` hides.

    For ids (N, T) it is (N, 1, T), True where a token may be looked at. A mask (T, T), (N, T, T) or
    (N, H, T, T) is boolean or floating, as in `scaled_dot_product_attention`.

    >>> hide_padding([[5, 6, 0]], padding_idx=0)
    Tensor([[[ True,  True, False]]])
    """
    ### BEGIN SOLUTION
    real = np.asarray(ids)[..., None, :] != padding_idx  # (N, 1, T)
    if mask is None:
        return Tensor(real)
    mask = mask if isinstance(mask, Tensor) else Tensor(np.asarray(mask))
    if mask.ndim == 4:
        real = real[:, None]  # (N, 1, 1, T)
    return where(real, mask, -np.inf if mask.dtype.kind == "f" else False)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-hide-padding", "locked": true, "points": 6, "solution": false}
def test_hide_padding():
    ids = np.array([[5, 6, 0], [0, 7, 8]])
    real = [[[True, True, False]], [[False, True, True]]]
    check(hide_padding(ids, 0), real, "True where a token may be looked at")
    both = hide_padding(ids, 0, np.tri(3, dtype=bool))
    check(both.shape, (2, 3, 3), "a mask (T, T) holds for every text")
    check(both[1], [[False] * 3, [False, True, False], [False, True, True]], "neither may forbid")
    added = hide_padding(ids, 0, Tensor(np.full((3, 3), 0.5)))
    check(added[0, 2], [0.5, 0.5, -np.inf], "in a mask of floats, -inf hides")
    ### BEGIN HIDDEN TESTS
    heads = np.ones((2, 4, 3, 3), bool)
    heads[:, 1, :, 1] = False
    found = hide_padding(ids, 0, heads)
    check(found.shape, (2, 4, 3, 3), "a mask for each head")
    check(found[0, 1, 2], [True, False, False], "text 0 has its padding last")
    check(found[1, 0, 2], [False, True, True], "text 1 has it first, for head 0 as well")
    each = hide_padding(ids, 0, np.ones((2, 3, 3), bool))
    check(each[1, 0], [False, True, True], "a mask for each text")
    check(hide_padding(ids, 8)[1, 0], [True, True, False], "another padding")
    check(hide_padding([[5, 0]], 0), [[[True, False]]], "lists of ids will do")
    ### END HIDDEN TESTS


test_hide_padding()


# %% nbgrader={"grade": false, "grade_id": "encoder", "locked": true, "solution": false}
#| export
class TransformerEncoder(Transformer):
    """Reads a text in both directions: ids (N, T) -> a vector for each, (N, T, D), as in BERT.

    Tokens `padding_idx` are hidden from all others. (Devlin et al. 2019; the norms stand before, as
    in GPT-2.) Arguments and options are those of GPT.

    >>> encoder = TransformerEncoder(100, 16, 2, num_heads=4, max_seq_len=32, padding_idx=0)
    >>> encoder([[5, 6, 7, 0]]).shape
    (1, 4, 16)
    """

    def forward(self, ids: Any, mask: Any = None) -> Tensor:
        if self.padding_idx is not None:
            mask = hide_padding(ids, self.padding_idx, mask)
        return self.hidden(ids, mask)


# %%
manual_seed(0)
encoder = TransformerEncoder(11, 8, 2, num_heads=2, max_seq_len=6, padding_idx=0)
start_small(encoder, std=0.5)
with no_grad():
    print("alone: ", encoder([[5, 6]])[0, 0].numpy().round(2))
    print("padded:", encoder([[5, 6, 0, 0, 0]])[0, 0].numpy().round(2))

# %% [markdown]
r"""
### One that writes

A **GPT** is the same tower with two differences: no position looks ahead, and at the end each vector is compared with the embedding of every token, which gives $V$ logits for the token that comes *next*. A text of $T$ tokens so gives $T$ tasks at once: guess the second from the first, the third from the first two, and so on.

```
 ids     T   h   e   _   c   a
         |   |   |   |   |   |       one tower, no look ahead
 guess   h   e   _   c   a   t
```

**Exercise 10 (4 points).** Complete `GPT`: the last layer `head`, a `TiedLinear` on the embedding of the tower's tokens (`self.embed.tokens`), and `forward`, from ids `(N, T)` to logits `(N, T, V)`. (`generate` is your last exercise.)
"""


# %% nbgrader={"grade": false, "grade_id": "gpt", "locked": false, "solution": true}
#| export
class GPT(Transformer):
    """Says what comes next: ids (N, T) -> logits of the next token at each position, (N, T, V).

    The last layer is the embedding used again. T is at most `max_seq_len`. Options: dropout, norm
    (LayerNorm or RMSNorm), positions ("learned", "sinusoidal", "rotary" or None), mlp_dim,
    num_kv_heads, bias, block_size, padding_idx. Weights start small, as in GPT-2 (Radford et al.
    2019): normal with standard deviation 0.02, what is added to the sums smaller by sqrt(2 L).

    >>> model = GPT(vocab_size=100, embed_dim=16, num_layers=2, num_heads=4, max_seq_len=32)
    >>> model([[5, 6, 7]]).shape
    (1, 3, 100)
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        max_seq_len: int,
        **options: Any,
    ):
        super().__init__(vocab_size, embed_dim, num_layers, num_heads, max_seq_len, **options)
        ### BEGIN SOLUTION
        self.head = TiedLinear(self.embed.tokens)
        ### END SOLUTION

    def forward(self, ids: Any, start: int = 0) -> Tensor:
        ### BEGIN SOLUTION
        return self.head(self.hidden(ids, is_causal=True, start=start))
        ### END SOLUTION

    def generate(self, ids: Any, max_new_tokens: int, **options: Any) -> Tensor:
        """ids with up to `max_new_tokens` more; the options are those of `generate`."""
        return generate(self, ids, max_new_tokens, **options)


# %% nbgrader={"grade": true, "grade_id": "test-gpt", "locked": true, "points": 4, "solution": false}
def test_gpt():
    manual_seed(0)
    model = GPT(11, 8, num_layers=2, num_heads=2, max_seq_len=6)
    ids = np.array([[3, 1, 4, 1, 5, 9]])
    logits = model(ids)
    check(logits.shape, (1, 6, 11), "a logit for each token, at each position")
    loss = CrossEntropyLoss()(logits[0, :-1], ids[0, 1:])
    check(loss, float(np.log(11)), "at the start it knows nothing", 0.1)
    start_small(model, std=0.5)
    before = model(ids).numpy()
    later = np.array([[3, 1, 4, 7, 7, 7]])
    check(model(later)[:, :3], before[:, :3], "no position may see what comes later")
    ### BEGIN HIDDEN TESTS
    check(len([name for name, _ in model.named_parameters() if "head" in name]), 0, "tied weights")
    weight = model.embed.tokens.weight.numpy().T
    expected = model.hidden(ids, is_causal=True).numpy() @ weight
    check(before, expected, "the embedding of each token, times the vector", 1e-4)
    with check_raises(ValueError, "5 to 10", "start must arrive"):
        model(ids, start=5)
    earlier = model(np.array([[7, 1, 4, 1, 5, 9]])).numpy()
    check(bool(np.allclose(earlier[0, 5], before[0, 5], atol=1e-3)), False, "the past must count")
    ### END HIDDEN TESTS


test_gpt()

# %% [markdown]
r"""
## Writing

A GPT gives $V$ logits for the next token. Which token do we write? Always the best one is called **greedy**, and it soon goes round in circles. So we draw. A **temperature** $\tau$ says how daring:

$$p_i = \frac{e^{z_i / \tau}}{\sum_j e^{z_j / \tau}}$$

**Predict** what $\tau \to 0$ and $\tau \to \infty$ do.
"""

# %%
words = ["mat", "floor", "sofa", "table", "moon", "theorem"]
scores = np.array([4.0, 3.0, 2.5, 1.0, -1.0, -3.0])
print("The cat sat on the ...", *(f"{word:>8}" for word in words))
for temperature in (0.1, 0.5, 1.0, 2.0, 100.0):
    powers = np.exp((scores - scores.max()) / temperature)
    print(f"temperature {temperature:10}", *(f"{p:8.3f}" for p in powers / powers.sum()))

# %%
if plt:
    for place, (temperature, color) in enumerate(
        ((0.5, "black"), (1.0, "gray"), (2.0, "lightgray"))
    ):
        powers = np.exp((scores - scores.max()) / temperature)
        bars = np.arange(len(words)) + 0.25 * (place - 1)
        plt.bar(bars, powers / powers.sum(), 0.25, color=color, label=f"temperature {temperature}")
    plt.xticks(range(len(words)), words)
    plt.title("The cat sat on the ...")
    plt.xlabel("next word")
    plt.ylabel("probability")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
Now take a real vocabulary. Ten tokens are good, each with the logit 10; the other 50,247 are nonsense, each with the logit 0. A single nonsense token has the probability 0.0000037. **Predict** how often something nonsensical is drawn, and how probable a line of 20 good tokens is.
"""

# %%
good, bad = 10 * np.exp(10.0), 50_247 * np.exp(0.0)
print(f"nonsense: {bad / (good + bad):.1%} of the draws")
print(f"20 good tokens in a row: {(good / (good + bad)) ** 20:.1%}")

# %% [markdown]
r"""
The tail is long, and together it weighs. So it is cut off. The first way: only the **$k$ best** stay.

**Exercise 11 (4 points).** Write `keep_top_k`: an array like `logits` `(..., V)` in which all but the `k` largest of each row are $-\infty$ (and so have the probability 0). Exactly `k` stay even if several are equal: then the first of them. If `k` is larger than $V$, all stay.

<details><summary>Hint</summary>

`np.argsort(-logits, axis=-1, kind="stable")` gives the places of the largest first. `np.take_along_axis` reads at places of each row, `np.put_along_axis` writes there.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "top-k", "locked": false, "solution": true}
#| exporti
def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each row (..., V); the others become -inf. Of equals, the first stay.

    >>> keep_top_k(np.array([[1.0, 3.0, 2.0]]), 2)
    array([[-inf,   3.,   2.]])
    """
    ### BEGIN SOLUTION
    places = np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    kept = np.full_like(logits, -np.inf)
    np.put_along_axis(kept, places, np.take_along_axis(logits, places, axis=-1), axis=-1)
    return kept
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-top-k", "locked": true, "points": 4, "solution": false}
def test_top_k():
    logits = np.array([[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]])
    no = -np.inf
    check(keep_top_k(logits, 2), [[no, 3.0, 2.0], [5.0, no, 6.0]], "two stay in each row")
    check(keep_top_k(logits, 1), [[no, 3.0, no], [no, no, 6.0]], "the best alone")
    check(
        keep_top_k(np.zeros((1, 4)), 2), [[0.0, 0.0, no, no]], "exactly two, though four are equal"
    )
    ### BEGIN HIDDEN TESTS
    check(keep_top_k(logits, 9), [[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]], "there are no nine: all stay")
    check(logits, [[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]], "the logits themselves stay as they are")
    check(keep_top_k(np.array([-1.0, -2.0, -3.0]), 2), [-1.0, -2.0, no], "a single row")
    ### END HIDDEN TESTS


test_top_k()

# %% [markdown]
r"""
But which $k$? After "The capital of France is" one token will do, after "Once upon a" nearly one, after "I like" hundreds. The second way asks for a share instead (Holtzman et al. 2020): the **fewest** tokens that together hold at least $p$ of the probability, however many that are. It is called top-p, or nucleus sampling.

```
 sorted     0.5    0.25   0.125  0.125        p = 0.75
 before     0      0.5    0.75   0.875        what the better ones hold
 stays      yes    yes    no     no           as long as that is below p
```

**Exercise 12 (6 points).** Write `keep_top_p`: of each row of `probabilities` `(..., V)` the fewest that hold at least `p`, divided by their sum, so that it is 1 again. The others are 0.
"""


# %% nbgrader={"grade": false, "grade_id": "top-p", "locked": false, "solution": true}
#| exporti
def keep_top_p(probabilities: np.ndarray, p: float) -> np.ndarray:
    """The fewest of each row (..., V) that hold at least p, scaled to add up to 1; the others 0.

    >>> keep_top_p(np.array([[0.25, 0.5, 0.125, 0.125]]), 0.75).round(3)
    array([[0.333, 0.667, 0.   , 0.   ]])
    """
    ### BEGIN SOLUTION
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=-1)
    before = ranked.cumsum(axis=-1) - ranked  # what the more probable ones hold
    ranked[before >= p] = 0
    kept = np.empty_like(ranked)
    np.put_along_axis(kept, order, ranked, axis=-1)
    return kept / kept.sum(axis=-1, keepdims=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-top-p", "locked": true, "points": 6, "solution": false}
def test_top_p():
    row = np.array([[0.25, 0.5, 0.125, 0.125]])
    third = 1 / 3
    check(keep_top_p(row, 0.75), [[third, 2 * third, 0.0, 0.0]], "0.5 and 0.25 hold 0.75")
    check(keep_top_p(row, 0.6), [[third, 2 * third, 0.0, 0.0]], "at least p: 0.5 is not enough")
    check(keep_top_p(row, 0.1), [[0.0, 1.0, 0.0, 0.0]], "the best always stays")
    ### BEGIN HIDDEN TESTS
    check(keep_top_p(row, 0.8)[0, 2:], [1 / 7, 0.0], "of equals, the first")
    check(row, [[0.25, 0.5, 0.125, 0.125]], "the probabilities themselves stay as they are")
    two = keep_top_p(np.array([[0.9, 0.05, 0.05], [0.3, 0.3, 0.4]]), 0.65)
    check(two, [[1.0, 0.0, 0.0], [3 / 7, 0.0, 4 / 7]], "each row by itself")
    check(keep_top_p(row[0], 1.0).sum(), np.float64(1.0), "a single row")
    ### END HIDDEN TESTS


test_top_p()

# %% [markdown]
r"""
**Predict:** with $p = 0.8$, how many of the 50,257 tokens stay in the example with ten good ones, how many if one token alone has the logit 20, and how many if 300 have the logit 10? And what would top-k with $k = 10$ keep?
"""

# %%
for good_ones, logit in ((10, 10.0), (1, 20.0), (300, 10.0)):
    logits = np.zeros((1, 50_257))
    logits[0, :good_ones] = logit
    powers = np.exp(logits - logits.max())
    kept = np.count_nonzero(keep_top_p(powers / powers.sum(), 0.8))
    print(f"{good_ones:3} good tokens: top-p 0.8 keeps {kept:3}, top-k 10 keeps 10")

# %% [markdown]
r"""
**Exercise 13 (4 points).** Now all of it, `next_token_probabilities`, in this order: `top_k` if it is given, the temperature, `top_p` if it is given and below 1 (1 means all, even those that are too small for any sum to notice). Subtract each row's largest logit *before* you divide by the temperature: then the largest exponent is 0, however cold it is. What is allowed has been checked for you, by `check_sampling`.
"""


# %% nbgrader={"grade": false, "grade_id": "check-sampling", "locked": true, "solution": false}
#| exporti
def check_sampling(
    logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    """ValueError unless the logits are usable and the options in range."""
    if not np.isfinite(logits.max(axis=-1, initial=-np.inf)).all():
        raise ValueError(
            "generate: the logits hold NaN or infinity: look for a loss that became NaN in "
            "training (a lower learning rate or gradient clipping help)"
        )
    if not temperature > 0:
        raise ValueError(f"generate: temperature must be positive, got {temperature}; use greedy=")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"generate: top_p must be above 0 and at most 1, got {top_p}")


# %% nbgrader={"grade": false, "grade_id": "next-probabilities", "locked": false, "solution": true}
#| export
def next_token_probabilities(
    logits: Any, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> np.ndarray:
    """Probabilities (N, V) of the next token, in float64, from logits (N, V).

    Only the `top_k` largest logits stay; they are divided by `temperature`; and of the
    probabilities only the fewest that hold at least `top_p` stay (Holtzman et al. 2020, section
    3.1). The rest is 0. ValueError for logits with NaN or inf, and for options out of range.

    >>> next_token_probabilities([[0.0, 0.0, -1.0]], top_k=2)
    array([[0.5, 0.5, 0. ]])
    """
    logits = np.array(logits, np.float64)
    check_sampling(logits, temperature, top_k, top_p)
    ### BEGIN SOLUTION
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    below = logits - logits.max(axis=-1, keepdims=True)
    probabilities = np.exp(below / temperature)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    if top_p is not None and top_p < 1:
        probabilities = keep_top_p(probabilities, top_p)
    return probabilities
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-next-probabilities", "locked": true, "points": 4, "solution": false}
def test_next_probabilities():
    logits = np.log([[0.4, 0.3, 0.2, 0.1]])
    check(next_token_probabilities(logits), [[0.4, 0.3, 0.2, 0.1]], "e^logit, scaled to sum 1")
    cold = np.array([[16.0, 9.0, 4.0, 1.0]]) / 30
    check(next_token_probabilities(logits, temperature=0.5), cold, "p^(1 / 0.5) = p^2, scaled")
    found = next_token_probabilities(logits, top_k=2, top_p=0.5)
    check(found, [[1.0, 0.0, 0.0, 0.0]], "of the two best, the first holds 0.57")
    with check_raises(ValueError, "NaN", "a model whose loss became NaN"):
        next_token_probabilities([[0.0, np.nan]])
    ### BEGIN HIDDEN TESTS
    coldest = next_token_probabilities([[1e3, 2e3, 0.0]], temperature=1e-9)
    check(coldest, [[0.0, 1.0, 0.0]], "no overflow, however cold")
    hot = next_token_probabilities([[8.0, 4.0, 0.0]], temperature=4.0, top_p=0.7)
    first = 1 / (1 + np.exp(-1.0))
    check(hot, [[first, 1 - first, 0.0]], "top_p counts what the temperature has made")
    all_of_it = next_token_probabilities([[0.0, -60.0]], top_p=1.0)
    check(bool((all_of_it > 0).all()), True, "top_p = 1 takes nothing away")
    check(next_token_probabilities(logits, top_k=1), [[1.0, 0.0, 0.0, 0.0]], "k = 1 is greedy")
    ### END HIDDEN TESTS


test_next_probabilities()

# %% [markdown]
r"""
To draw from probabilities, put them side by side: they fill a ruler from 0 to 1. A random height falls into one of them, and into a wide one more often.

```
 p      0.2      0.5               0.3
     |-------|--------------|-----------|
     0      0.2            0.7          1        0.65 --> token 1
```

**Exercise 14 (5 points).** Write `pick_tokens`: for each row of `probabilities` `(N, V)` a height from `random.random` (numbers from 0 up to, but without, 1), times the row's sum (which rounding may have left a little off 1), and the first token whose cumulative sum is **above** it. All rows at once: no loop. A token of probability 0 must never come, not even at height 0.
"""


# %% nbgrader={"grade": false, "grade_id": "pick-tokens", "locked": false, "solution": true}
#| exporti
def pick_tokens(probabilities: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One token for each row of probabilities (N, V): where a random height meets their sum.

    >>> pick_tokens(np.array([[0.0, 1.0, 0.0]]), np.random.default_rng(0))
    array([1])
    """
    ### BEGIN SOLUTION
    heights = probabilities.cumsum(axis=-1)
    drawn = random.random((len(heights), 1)) * heights[:, -1:]
    return (heights > drawn).argmax(axis=-1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-pick-tokens", "locked": true, "points": 5, "solution": false}
class Fixed:
    """A source of random numbers that gives the same height to everyone."""

    def __init__(self, height):
        self.height = height

    def random(self, shape):
        return np.full(shape, self.height)


def test_pick_tokens():
    row = np.array([[0.2, 0.5, 0.3]])
    for height, token in ((0.1, 0), (0.65, 1), (0.71, 2), (0.9999, 2)):
        check(pick_tokens(row, Fixed(height)), [token], "the part of the ruler that it falls into")
    drawn = pick_tokens(np.repeat(row, 20_000, axis=0), np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=3) / 20_000
    check(shares, [0.2, 0.5, 0.3], "each token as often as it should", 0.02)
    ### BEGIN HIDDEN TESTS
    gaps = np.array([[0.0, 0.25, 0.0, 0.75, 0.0]])
    check(pick_tokens(gaps, Fixed(0.0)), [1], "the first has probability 0")
    check(pick_tokens(gaps, Fixed(0.25)), [3], "the third, too")
    short = np.array([[0.5, 0.25, 0.0]])
    check(pick_tokens(short, Fixed(0.99)), [1], "a sum below 1: the ruler ends there")
    check(pick_tokens(np.eye(3)[[2, 0]], np.random.default_rng(0)), [2, 0], "row by row")
    ### END HIDDEN TESTS


test_pick_tokens()

# %% [markdown]
r"""
And now the loop that writes: ask the model, draw a token, append it, ask again. The model can see `max_seq_len` tokens at most. When the text is longer, it sees the last ones: the window slides.

```
 step 1   [ T  h  e ]                   max_seq_len = 4
 step 2   [ T  h  e  _ ]
 step 3     T [ h  e  _  c ]
 step 4     T  h [ e  _  c  a ]
```

**Exercise 15 (8 points).** Write the loop of `generate`. Everything before it and after it is given: `text` is an array `(N, T)`, `stopped` says which rows have ended. `with evaluating(model):` puts the model into eval mode without recording, and back again. Up to `max_new_tokens` times:
- the model's logits for the last `model.max_seq_len` tokens; those at the last position count (`.data` is the array),
- `next_token_probabilities`, which also notices NaN, in greedy mode as well,
- the token of each row: the largest *logit* if `greedy`, else by `pick_tokens(probabilities, random)`,
- a row that has stopped repeats its last token instead,
- append; rows whose token is among `stop_tokens` have stopped now (`np.isin` tells); when all have, end the loop.
"""


# %% nbgrader={"grade": false, "grade_id": "checked-prompt", "locked": true, "solution": false}
#| exporti
def checked_prompt(ids: Any, max_new_tokens: int) -> np.ndarray:
    """The prompt (T,) or (N, T) as rows of integers; ValueError where there is nothing to go on."""
    try:
        prompt = np.asarray(as_index(np.asarray(ids)))
    except ValueError:
        raise ValueError("generate: the prompts of a batch must have one length") from None
    if prompt.ndim not in (1, 2) or prompt.shape[-1] == 0:
        raise ValueError(
            f"generate: expected ids (T,) or (N, T), at least one token, got shape {prompt.shape}"
        )
    if max_new_tokens < 0:
        raise ValueError(f"generate: max_new_tokens must be at least 0, got {max_new_tokens}")
    return np.atleast_2d(prompt)


# %% nbgrader={"grade": false, "grade_id": "generate", "locked": false, "solution": true}
#| export
def generate(
    model: Any,
    ids: Any,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    seed: int | None = None,
    stop_tokens: int | Iterable[int] = (),
) -> Tensor:
    """The prompt `ids`, (T,) or (N, T), with up to `max_new_tokens` more, drawn one after another.

    `greedy` takes the most probable token instead of drawing; `temperature`, `top_k` and `top_p`
    are those of `next_token_probabilities`. The same `seed` gives the same text. A row that has
    written one of `stop_tokens` repeats it; when all have, it ends. The model sees the last
    `model.max_seq_len` tokens, and is in eval mode meanwhile.

    >>> model = GPT(100, 16, 2, num_heads=4, max_seq_len=8)
    >>> model.generate([5, 6, 7], 20, seed=0).shape
    (23,)
    """
    text = checked_prompt(ids, max_new_tokens)
    random = generator if seed is None else np.random.default_rng(seed)
    stop_tokens = [stop_tokens] if isinstance(stop_tokens, int) else list(stop_tokens)
    stopped = np.zeros(len(text), bool)
    ### BEGIN SOLUTION
    with evaluating(model):
        for _ in range(max_new_tokens):
            logits = model(text[:, -model.max_seq_len :]).data[:, -1]
            probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
            token = logits.argmax(axis=-1) if greedy else pick_tokens(probabilities, random)
            token = np.where(stopped, text[:, -1], token)
            text = np.concatenate([text, token[:, None]], axis=1)
            stopped |= np.isin(token, stop_tokens)
            if stopped.all():
                break
    ### END SOLUTION
    return Tensor(text if np.ndim(ids) == 2 else text[0], dtype=np.int64)


# %% nbgrader={"grade": true, "grade_id": "test-generate", "locked": true, "points": 8, "solution": false}
class Successor(Module):
    """After n comes n + 1, it is sure. It writes down what it was asked."""

    def __init__(self, max_seq_len=4):
        self.max_seq_len, self.asked = max_seq_len, []

    def forward(self, ids):
        self.asked.append((ids.tolist(), self.training))
        return Tensor(50 * np.eye(10)[(ids + 1) % 10])


def test_generate():
    check(
        generate(Successor(), [3], 4).tolist(), [3, 4, 5, 6, 7], "each token is asked for the next"
    )
    check(
        generate(Successor(), [[3], [8]], 2).tolist(), [[3, 4, 5], [8, 9, 0]], "two texts at once"
    )
    model = Successor(max_seq_len=4)
    generate(model, [1, 2, 3], 3)
    seen = [ids[0] for ids, _ in model.asked]
    check(seen, [[1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]], "the last max_seq_len tokens")
    rows = generate(Successor(), [[3], [1]], 9, stop_tokens=[5]).tolist()
    check(rows, [[3, 4, 5, 5, 5], [1, 2, 3, 4, 5]], "who has stopped waits for the others")
    ### BEGIN HIDDEN TESTS
    check(any(training for _, training in model.asked), False, "eval mode meanwhile")
    check(model.training, True, "and back again")
    check(
        generate(Successor(), [5], 2, stop_tokens=[5]).tolist(),
        [5, 6, 7],
        "the prompt stops nobody",
    )
    check(generate(Successor(), [5], 0).tolist(), [5], "nothing to write")
    manual_seed(0)
    gpt = GPT(11, 8, num_layers=1, num_heads=2, max_seq_len=6, dropout=0.5)
    first = gpt.generate([1, 2], 9, seed=1).tolist()
    check(gpt.generate([1, 2], 9, seed=1).tolist(), first, "the same seed, the same text")
    hot = gpt.generate([1, 2], 9, greedy=True, temperature=1e20).tolist()
    check(hot, gpt.generate([1, 2], 9, greedy=True).tolist(), "greedy takes the largest logit")
    many = gpt.generate([[1, 2]] * 300, 1, seed=0, temperature=50.0, top_k=3).numpy()[:, 2]
    check(len(set(many.tolist())), 3, "drawn from three, not always the best")
    check(gpt.generate([1], 2).requires_grad, False, "nothing is recorded")
    gpt.norm.weight.data[:] = np.nan
    with check_raises(ValueError, "NaN", "in greedy mode as well"):
        gpt.generate([1], 2, greedy=True)
    ### END HIDDEN TESTS


test_generate()

# %% [markdown]
r"""
## Put together: a GPT that learns to write

The text is Python's own handbook, in small letters: it is on your disk already. Nine tenths are for training, the last tenth is kept to see what the model says about text that it hasn't learned.

What should it beat? A table that counts which character follows which. Here is its loss, beside that of always guessing the letters' frequencies.
"""

# %%
from tqdm import tqdm

handbook = " ".join(" ".join(topics.values()).lower().split())[:300_000]
tokenizer = CharTokenizer(handbook)
text = np.array(tokenizer.encode(handbook))
VOCABULARY, CONTEXT, STEPS = len(tokenizer), 32, 350
training, held_out = np.split(text, [9 * len(text) // 10])

counts = np.full((VOCABULARY, VOCABULARY), 0.1)  # a little for pairs that never came
np.add.at(counts, (training[:-1], training[1:]), 1)
singles, pairs = counts.sum(axis=0), counts / counts.sum(axis=1, keepdims=True)
print(f"guessing at random:   {np.log(VOCABULARY):.2f} nats a character (ln {VOCABULARY})")
print(f"counting characters:  {-np.log(singles / singles.sum())[held_out].mean():.2f}")
print(f"counting pairs:       {-np.log(pairs[held_out[:-1], held_out[1:]]).mean():.2f}")

# %% [markdown]
r"""
**Predict:** our model has 2 blocks and vectors of 32 numbers, so some 28,000 parameters. It takes 350 steps of 16 pieces of 32 characters, fewer than the text has. Will it beat the pairs?

One thing is changed. GPT-2's vectors have 768 numbers, ours 32: with weights of 0.02 a layer would hardly say anything. So we start with 0.1, about $\sqrt{2 / (5 D)}$ (Nguyen and Salazar 2019); for $D = 768$ that formula gives 0.023.
"""


# %%
def loss_of(model, ids):
    """Mean loss in nats a character, for pieces of text (N, T + 1)."""
    logits = model(ids[:, :-1])
    return CrossEntropyLoss()(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))


def held_out_loss(model, count=100):
    pieces = held_out[: count * (CONTEXT + 1)].reshape(count, CONTEXT + 1)
    with evaluating(model):
        return loss_of(model, pieces).item()


manual_seed(0)
model = GPT(VOCABULARY, 32, num_layers=2, num_heads=4, max_seq_len=CONTEXT, positions="rotary")
start_small(model, std=0.1)
optimizer = Adam(model.parameters())
schedule = WarmupSchedule(CosineSchedule(1e-2, 1e-3, STEPS - 20), 20)
draws, losses = np.random.default_rng(0), []
print(f"{sum(p.size for p in model.parameters()):,} parameters")
print(f"before: {held_out_loss(model):.2f} nats a character")
for step in tqdm(range(STEPS), desc="training", disable=None):
    places = draws.integers(0, len(training) - CONTEXT, 16)[:, None] + np.arange(CONTEXT + 1)
    loss = loss_of(model, training[places])
    optimizer.zero_grad()
    loss.backward()
    optimizer.lr = schedule(step)
    optimizer.step()
    losses.append(loss.item())
print(f"after:  {held_out_loss(model):.2f} nats a character")

# %%
if plt:
    plt.plot(losses, "-", color="lightgray", label="loss of each step")
    smooth = np.convolve(losses, np.ones(20) / 20, "valid")
    plt.plot(np.arange(len(smooth)) + 19, smooth, "k-", label="mean of 20 steps")
    plt.axhline(
        -np.log(pairs[held_out[:-1], held_out[1:]]).mean(), color="k", ls=":", label="pairs"
    )
    plt.title("A GPT of 28,000 parameters learns to write")
    plt.xlabel("training step")
    plt.ylabel("loss (nats a character)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
The table of pairs sees one character. The model has learned to look further back, and where. **Predict** how it writes at temperature 0.3, 0.8 and 1.5, and greedily. Which would you rather read?
"""

# %%
prompt = tokenizer.encode("the class ")
for name, options in {
    "greedy": {"greedy": True},
    "temperature 0.3": {"temperature": 0.3},
    "temperature 0.8": {"temperature": 0.8},
    "temperature 0.8, top-p 0.9": {"temperature": 0.8, "top_p": 0.9},
    "temperature 1.5": {"temperature": 1.5},
}.items():
    written = model.generate(prompt, 120, seed=0, **options)
    print(f"{name}:\n    {tokenizer.decode(written.tolist())}\n")

# %% [markdown]
r"""
Too cold, it says the same few words again; too hot, it forgets how to spell. It knows no Python, and it has never seen a whole sentence: 32 characters are its world. Set `STEPS = 3000` if you have a minute or two: it then comes to about 1.3 nats a character, and to words. What large models have over this one is more of the same: more vectors, blocks, text, steps.

## Systems: what a GPT costs

Multiplying a vector by a matrix of $P$ numbers takes $P$ multiplications and $P$ additions. A block has $4D^2$ numbers in attention's matrices and $8D^2$ in its MLP. Attention itself has no parameters and yet it works: each query meets $T$ keys and mixes $T$ values of $D$ numbers, another $4TD$ operations. **Predict** which part is the largest in GPT-2 small, and what happens if its context grows from 1,024 to 16,384.
"""


# %%
def forward_flops(vocabulary, size, layers, length):
    """Multiplications and additions for each token, by part; every query meets all keys."""
    return {
        "attention's matrices": layers * 8 * size**2,
        "attention itself": layers * 4 * length * size,
        "mlp": layers * 16 * size**2,
        "last layer": 2 * vocabulary * size,
    }


for name, sizes in {
    "the model above": (VOCABULARY, 32, 2, CONTEXT),
    "GPT-2 small": (50_257, 768, 12, 1024),
    "GPT-2 small, T = 16,384": (50_257, 768, 12, 16_384),
    "GPT-3": (50_257, 12_288, 96, 2048),
}.items():
    parts = forward_flops(*sizes)
    total = sum(parts.values())
    shares = ", ".join(f"{part} {flops / total:.0%}" for part, flops in parts.items())
    print(f"{name}: {total:.2e} FLOPs a token\n    {shares}")

# %% [markdown]
r"""
As long as $T$ is small beside $6D$, parameters decide: 2 FLOPs for each parameter and token forward. Backward needs twice that, for the gradients of the inputs and those of the weights. So training on one token takes about **$6N$ FLOPs**, with $N$ parameters (Kaplan et al. 2020). With that you know what a training costs before you start it.

Does our machine do as calculated? **Predict**, for each line, what doubles: parameters, FLOPs, bytes that are kept for the way back, time? All lines have 1,024 tokens in a batch.
"""


# %%
def fastest(run, rounds=3):
    """The seconds of the fastest of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(size, layers, length, tokens=1024):
    """(parameters, FLOPs of a step, bytes kept for the way back, seconds of a step)."""
    manual_seed(0)
    model = GPT(100, size, layers, num_heads=4, max_seq_len=length)
    ids = np.random.default_rng(0).integers(0, 100, (tokens // length, length))

    def forward():
        return CrossEntropyLoss()(model(ids).reshape(-1, 100), ids.reshape(-1))

    seconds = fastest(lambda: forward().backward(), rounds=2)
    tracemalloc.start()
    loss = forward()
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del loss
    flops = 3 * tokens * sum(forward_flops(100, size, layers, length).values())
    return sum(p.size for p in model.parameters()), flops, kept, seconds


a = np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float32)
b = a[:512].copy()
speed = 2 * 1024 * 512 * 512 / fastest(lambda: a @ b)
print(f"one product of 1024 x 512 and 512 x 512: {speed:.1e} FLOP/s")
print("  D  L    T  parameters    FLOPs  kept MB      ms   FLOP/s")
for size, layers, length in (
    *((64, 2, 64), (128, 2, 64), (64, 4, 64)),
    *((64, 2, 128), (64, 2, 256), (64, 2, 512)),
):
    parameters, flops, kept, seconds = measure(size, layers, length)
    print(
        f"{size:3} {layers:2} {length:4} {parameters:11,} {flops:8.1e} {kept / 1e6:8.1f}"
        f" {1e3 * seconds:7.1f} {flops / seconds:8.1e}"
    )

# %% [markdown]
r"""
Doubling $D$ makes the matrices 4 times as large, doubling $L$ makes twice as many. Doubling $T$ leaves the parameters nearly alone, and yet bytes and time grow: each head keeps its $T \times T$ weights for the way back. The last column stays below the speed of one large product: norms, GELU, softmax and sums move many bytes and count as few FLOPs.

A parameter itself takes 4 bytes, its gradient 4, Adam's two averages 8: 16 bytes. Beside that stand the activations above, which grow with the tokens in a batch. In PyTorch, `torch.utils.checkpoint.checkpoint` trades them for time: it forgets them and computes them again on the way back. `torch.nn.functional.scaled_dot_product_attention` never keeps the $T \times T$ weights; here `block_size=` does the same.

And writing? **Predict** the time for one more token after 32, 128 and 512 tokens.
"""

# %%
manual_seed(0)
writer = GPT(100, 64, 2, num_heads=4, max_seq_len=512)
print("tokens before   ms for one more")
for length in (32, 128, 512):
    prompt = np.random.default_rng(0).integers(0, 100, length)
    seconds = fastest(lambda prompt=prompt: writer.generate(prompt, 1, greedy=True))
    print(f"{length:13} {1e3 * seconds:17.2f}")

# %% [markdown]
r"""
For one new token, `generate` computes everything about all tokens before it again, though nothing about them has changed: they never look ahead. A text of $T$ tokens so costs $1 + 2 + \dots + T$ positions instead of $T$. Libraries keep each layer's keys and values instead; in Hugging Face's `transformers` they travel as `past_key_values`.
"""

# %% [markdown]
r"""
## Questions

**1 (3 points).** GPT-2 small: $V$ = 50,257 tokens, 1,024 learned positions, $D$ = 768, $L$ = 12, MLPs of $4D$, biases everywhere but in the tied last layer. Count the parameters of the embeddings, of one block (attention, MLP, norms) and of the whole. How many bytes are they in float32, and how many does training with Adam take for weights, gradients and averages?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-gpt2-small", "points": 3, "solution": true}
r"""
Embeddings: (50,257 + 1,024) · 768 = 39,383,808. A block: attention 4 (768² + 768) = 2,362,368; MLP 8 · 768² + 4 · 768 + 768 = 4,722,432; norms 4 · 768 = 3,072; together 7,087,872. Twelve of them: 85,054,464. The last norm: 1,536. In all 124,439,808: "124 M". In float32 497,759,232 bytes; training takes 16 bytes each, 1,991,036,928 (2 GB), before any activation.
"""


# %%
def count_parameters(vocabulary, size, layers, length):
    attention, mlp = 4 * (size**2 + size), 8 * size**2 + 5 * size
    block = attention + mlp + 4 * size
    return (vocabulary + length) * size + layers * block + 2 * size


small = GPT(VOCABULARY, 32, 2, num_heads=4, max_seq_len=CONTEXT)
print("formula: ", count_parameters(VOCABULARY, 32, 2, CONTEXT))
print("counted: ", sum(p.size for p in small.parameters()))
print(f"GPT-2 small: {count_parameters(50_257, 768, 12, 1024):,}")

# %% [markdown]
r"""
**2 (3 points).** Chinchilla (Hoffmann et al. 2022) advises about 20 tokens of text for each parameter. For GPT-2 small (124 M), how many tokens are that, and how many FLOPs by the rule $6N$? How long does it take at $5 \cdot 10^{10}$ FLOP/s (a core of a laptop), and at $1.2 \cdot 10^{14}$ (a large graphics card)? And for a model 10 times as large?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-training-cost", "points": 3, "solution": true}
r"""
20 · 124.4 M = 2.49 billion tokens; 6 · 1.244e8 · 2.49e9 = 1.86e18 FLOPs. At 5e10 FLOP/s: 3.7e7 s, 430 days. At 1.2e14: 15,500 s, 4.3 hours. A model 10 times as large wants 10 times the text, so it takes 100 times the work: 118 years, or 18 days.
"""

# %% [markdown]
r"""
**3 (3 points).** A model writes 1,000 tokens after a prompt of one. At how many positions is the tower computed if everything is computed anew for each token? And if keys and values are kept? For GPT-2 small, how many bytes are the keys and values of one token in all layers (float32), and those of 1,024 tokens?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-writing-cost", "points": 3, "solution": true}
r"""
Anew: 1 + 2 + ... + 1,000 = 500,500 positions. Kept: 1,000, that is 500 times fewer. A key and a value of 768 numbers in each of 12 layers: 2 · 12 · 768 · 4 = 73,728 bytes a token; for 1,024 tokens 75,497,472 bytes (75 MB), for each text that is being written. Attention itself still meets all keys: anew $1^2 + 2^2 + \dots + 1000^2$ = 333,833,500 pairs of query and key for each head, kept 500,500.
"""

# %% [markdown]
r"""
**4 (3 points).** Three tokens have the logits 2, 1 and 0. Work out their probabilities at temperature 1 and at 0.5. How many does top-p keep at $p$ = 0.85, in both cases? You ask for $p$ = 0.6 at temperature 1: what is drawn?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-sampling", "points": 3, "solution": true}
r"""
Temperature 1: $e^0, e^{-1}, e^{-2}$ = 1, 0.368, 0.135; divided by their sum 1.503: 0.665, 0.245, 0.090. Temperature 0.5: 1, 0.135, 0.018, divided by 1.154: 0.867, 0.117, 0.016. At $p$ = 0.85 two stay at temperature 1 (0.665 isn't enough, 0.910 is), and one at 0.5 (0.867 is). At $p$ = 0.6 and temperature 1 the first holds enough alone, so it is always drawn: greedy.
"""

# %% [markdown]
r"""
## All tests once more
"""


# %%
def test_module():
    for test in (test_layer_norm, test_layer_norm_rule, test_rms_norm, test_rms_norm_rule):
        test()
    for test in (test_mlp, test_transformer_block, test_create_causal_mask, test_start_small):
        test()
    for test in (test_hidden, test_hide_padding, test_gpt, test_top_k, test_top_p):
        test()
    for test in (test_next_probabilities, test_pick_tokens, test_generate):
        test()
    print("All tests of module 13 pass.")


test_module()

# %% [markdown]
r"""
**What works now:** a GPT that learns a text and goes on writing, and an encoder that reads.
You saw a deep stack die and explode, and what holds it: norms, sums that run through, a small start.
You can say what a model costs before you build it: $6N$ FLOPs a token, 16 bytes a parameter, and $T \times T$.
You know what temperature, top-k and top-p do to a long tail, and why writing gets slower as the text grows.
**Next:** where all that time goes, `tito module start 14`. Or run the transformer of 2017, `tito milestone run 05`.
"""

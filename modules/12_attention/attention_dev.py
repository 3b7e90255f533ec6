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
"""

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
    added = None
    if mask is not None:
        added = mask[..., rows, columns]
        if added.dtype == bool:
            added = np.where(added, 0, -np.inf).astype(dtype)
    if is_causal and columns.stop - 1 > rows.start:
        queries, keys = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
        later = keys > queries[:, None]
        causal = np.where(later, -np.inf, 0).astype(dtype)
        added = causal if added is None else added + causal
    return added
    ### END SOLUTION


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


# %% nbgrader={"grade": false, "grade_id": "default-scale", "locked": true, "solution": false}
#| exporti
def checked_scale(q: Any, k: Any, scale: float | None) -> float:
    """The factor of the scores, 1 / sqrt(D) by default; ValueError where q and k do not fit."""
    if q.ndim < 2 or k.ndim < 2 or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"queries (..., T, D) and keys (..., S, D) have one D; got {q.shape} and {k.shape}"
        )
    return 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else scale


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


# %% nbgrader={"grade": false, "grade_id": "zeros-by-block", "locked": true, "solution": false}
#| exporti
def zeros_by_block(lead: tuple[int, ...], x: Any, block_size: int) -> list[np.ndarray]:
    """Zeros for a gradient of x (..., L, D), block by block, to which tiles are added."""
    sizes = [block.stop - block.start for block in blocks(x.shape[-2], block_size)]
    return [np.zeros((*lead, size, x.shape[-1]), x.dtype) for size in sizes]


# %% nbgrader={"grade": false, "grade_id": "tiles", "locked": true, "solution": false}
#| exporti
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
    ### BEGIN SOLUTION
    q = q * checked_scale(q, k, scale)
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    if mask is not None:
        mask = checked_mask(mask, (*lead, q.shape[-2], k.shape[-2]), kinds="b")
    out = np.empty((*lead, q.shape[-2], v.shape[-1] + 1), np.result_type(q, k, v))
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


# %% nbgrader={"grade": false, "grade_id": "blocked-attention-rule", "locked": false, "solution": true}
#| exporti
def blocked_attention_rule(g, out, q, k, v, mask=None, is_causal=False, scale=None, block_size=128):
    """Each tile of weights is made again, used, and forgotten."""
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "blocked-rule-table", "locked": true, "solution": false}
#| exporti
joint_vjp(blocked_attention, blocked_attention_rule)


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


# %% nbgrader={"grade": false, "grade_id": "check-heads", "locked": true, "solution": false}
#| exporti
def check_heads(embed_dim: int, num_heads: int, num_kv_heads: int) -> None:
    """ValueError unless the heads divide the vectors evenly, and share keys and values evenly."""
    if min(embed_dim, num_heads) < 1 or embed_dim % num_heads:
        raise ValueError(
            f"MultiHeadAttention: embed_dim={embed_dim} can't be divided by num_heads={num_heads}"
        )
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(
            f"MultiHeadAttention: num_heads={num_heads} can't be divided by "
            f"num_kv_heads={num_kv_heads}"
        )


# %% nbgrader={"grade": false, "grade_id": "multi-head-attention", "locked": false, "solution": true}
#| export
class MultiHeadAttention(Module):
    """Attention in `num_heads` parts of the vectors at once: (..., T, D) -> (..., T, D).

    Keys and values come from the queries' own sequence, or from another one (cross-attention).
    `num_kv_heads` < `num_heads` lets groups of heads share keys and values (Ainslie et al. 2023).
    `positions`, such as `RotaryPositions`, is applied to queries and keys. Masks are boolean (True:
    may look) or floating, and broadcast to (T, S), (N, T, S) or (N, H, T, S). The four projections
    start as `Linear` does.

    >>> layer = MultiHeadAttention(8, num_heads=2)
    >>> x, memory = Tensor(np.ones((1, 3, 8))), Tensor(np.ones((1, 5, 8)))
    >>> layer(x, is_causal=True).shape, layer(x, memory).shape
    ((1, 3, 8), (1, 3, 8))
    """

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
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_heads(embed_dim, num_heads, num_kv_heads)
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, num_kv_heads
        kv_dim = embed_dim // num_heads * num_kv_heads
        self.q_proj = Linear(embed_dim, embed_dim, bias)
        self.k_proj, self.v_proj = Linear(embed_dim, kv_dim, bias), Linear(embed_dim, kv_dim, bias)
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        self.dropout = Dropout(dropout)
        self.positions, self.block_size = positions, block_size

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
        return self.out_proj(merge_heads(self.attend(q, k, v, mask, is_causal)))
        ### END SOLUTION

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Any, is_causal: bool) -> Tensor:
        """Attention of the heads: (..., H, T, d), twice (..., H_kv, S, d) -> (..., H, T, d)."""
        ### BEGIN SOLUTION
        groups = self.num_heads // self.num_kv_heads
        k, v = repeat_heads(k, groups), repeat_heads(v, groups)
        if np.ndim(mask) == 3:
            mask = (mask if isinstance(mask, Tensor) else np.asarray(mask))[:, None]
        dropout = self.dropout if self.training and self.dropout.p > 0 else None
        return scaled_dot_product_attention(
            q, k, v, mask, is_causal, dropout=dropout, block_size=self.block_size
        )
        ### END SOLUTION


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

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
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinytorch.core.activations import GELU, in_pieces
from tinytorch.core.attention import MultiHeadAttention
from tinytorch.core.autograd import joint_vjp
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


# %% nbgrader={"grade": false, "grade_id": "rows", "locked": true, "solution": false}
#| exporti
def rows_of(x: Any) -> Any:
    """(..., D) -> (N, D)"""
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def mean_of_rows(x: Any) -> Any:
    """The mean along the last axis, which stays: a product with 1 / D, the fastest way to add."""
    size = x.shape[-1]
    dtype = x.dtype if x.dtype.kind == "f" else np.float32
    return (x @ np.full(size, 1 / max(size, 1), dtype))[..., None]


def mean_of_products(a: Any, b: Any) -> Any:
    """The mean of a b along the last axis, which stays; no array is made for a b."""
    return einsum("...i,...i->...", a, b)[..., None] / max(a.shape[-1], 1)


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
    g_weight = einsum("ni,ni->i", rows_of(g), rows_of(normal))
    return g_x, g_weight, rows_of(g).sum(axis=0)
    ### END SOLUTION


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
    return g_x, einsum("ni,ni->i", rows_of(g), rows_of(normal))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "norm-rules", "locked": true, "solution": false}
#| exporti
joint_vjp(layer_norm, layer_norm_rule)
joint_vjp(rms_norm, rms_norm_rule)


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
        hidden_dim = 4 * embed_dim if hidden_dim is None else hidden_dim
        self.up = Linear(embed_dim, hidden_dim)
        self.activation = GELU() if activation is None else activation
        self.down = Linear(hidden_dim, embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        return self.dropout(self.down(self.activation(self.up(x))))
        ### END SOLUTION


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


# %% nbgrader={"grade": false, "grade_id": "start-small", "locked": false, "solution": true}
#| exporti
def start_small(model: Any) -> None:
    """Give a Transformer the weights that GPT-2 starts with.

    Weights of linear and embedding layers are normal with standard deviation 0.02, biases and the
    padding's vector 0. What a block adds to the sums comes from `out_proj` and `down`: their
    weights are smaller by sqrt(2 L), for there are 2 L such sums in L blocks.
    """
    ### BEGIN SOLUTION
    for module in model.modules():
        if isinstance(module, (Linear, Embedding)):
            weight = 0.02 * randn(*module.weight.shape)
            if isinstance(module, Embedding) and module.padding_idx is not None:
                weight[module.padding_idx] = 0
            module.weight = weight
        if isinstance(module, Linear) and module.bias is not None:
            module.bias = zeros(module.out_features)
    for block in model.blocks:
        for layer in (block.attention.out_proj, block.mlp.down):
            layer.weight = layer.weight.detach() / math.sqrt(2 * len(model.blocks))
    ### END SOLUTION


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
        self.head = TiedLinear(self.embed.tokens)

    def forward(self, ids: Any, start: int = 0) -> Tensor:
        ### BEGIN SOLUTION
        return self.head(self.hidden(ids, is_causal=True, start=start))
        ### END SOLUTION

    def generate(self, ids: Any, max_new_tokens: int, **options: Any) -> Tensor:
        """ids with up to `max_new_tokens` more; the options are those of `generate`."""
        return generate(self, ids, max_new_tokens, **options)


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

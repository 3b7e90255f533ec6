"""Attention against PyTorch: values and gradients, with every kind of mask, plain and by blocks."""

import numpy as np
import pytest

from tinytorch import nn
from tinytorch.core.attention import (
    attention_maps,
    attention_weights,
    repeat_heads,
    scaled_dot_product_attention,
)
from tinytorch.core.tensor import Tensor

torch = pytest.importorskip("torch", reason="compares with PyTorch")
functional = torch.nn.functional

random = np.random.default_rng(0)


def normal(*shape):
    return random.standard_normal(shape).astype(np.float32)


def both(*arrays):
    """The same leaves for us and for PyTorch."""
    ours = [Tensor(x, requires_grad=True) for x in arrays]
    return ours, [torch.tensor(x, requires_grad=True) for x in arrays]


def assert_same(got, expected, ours, theirs):
    """Equal values, and equal gradients of the same scalar."""
    np.testing.assert_allclose(got.data, expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    g = normal(*got.shape)
    got.backward(g)
    expected.backward(torch.tensor(g))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-5, atol=1e-5)


def some_hidden(*shape):
    """Booleans; in the last two axes, the first row hides everything."""
    mask = random.random(shape) < 0.7
    mask[..., 0, :] = False
    return mask


MASKS = {
    "none": None,
    "boolean": some_hidden(10, 12),
    "for each of the batch": some_hidden(2, 1, 10, 12),
    "for each head": some_hidden(2, 3, 10, 12),
    "padding": np.arange(12) < np.array([5, 9])[:, None, None, None],
    "added": normal(10, 12),
    "added, with -inf": np.where(some_hidden(2, 3, 10, 12), normal(10, 12), -np.inf),
}
CASES = [
    pytest.param(mask, block_size, id=f"{name}, block_size={block_size}")
    for name, mask in MASKS.items()
    for block_size in (None, 1, 5, 64)
    if block_size is None or np.asarray(mask).dtype.kind != "f"
]


@pytest.mark.parametrize(("mask", "block_size"), CASES)
@pytest.mark.parametrize("scale", [None, 0.2])
def test_masks(mask, block_size, scale):
    """True means "may look" to both, and a query that may look nowhere gets zeros from both."""
    ours, theirs = both(normal(2, 3, 10, 8), normal(2, 3, 12, 8), normal(2, 3, 12, 4))
    got = scaled_dot_product_attention(*ours, mask, scale=scale, block_size=block_size)
    mask = None if mask is None else torch.tensor(mask if mask.dtype == bool else np.float32(mask))
    expected = functional.scaled_dot_product_attention(*theirs, mask, scale=scale)
    assert_same(got, expected, ours, theirs)


@pytest.mark.parametrize("block_size", [None, 1, 5, 64])
@pytest.mark.parametrize("lengths", [(10, 10), (10, 12), (12, 10), (1, 7), (7, 1)])
def test_causal_where_the_lengths_differ(lengths, block_size):
    """Query t sees keys 0 to t: counted from the first ones, as in PyTorch."""
    length, keys = lengths
    ours, theirs = both(normal(2, 3, length, 8), normal(2, 3, keys, 8), normal(2, 3, keys, 4))
    got = scaled_dot_product_attention(*ours, is_causal=True, block_size=block_size)
    expected = functional.scaled_dot_product_attention(*theirs, is_causal=True)
    assert_same(got, expected, ours, theirs)


@pytest.mark.parametrize("block_size", [None, 64])
@pytest.mark.parametrize("is_causal", [False, True])
def test_long_texts(is_causal, block_size):
    ours, theirs = both(normal(1, 2, 500, 32), normal(1, 2, 500, 32), normal(1, 2, 500, 32))
    got = scaled_dot_product_attention(*ours, is_causal=is_causal, block_size=block_size)
    expected = functional.scaled_dot_product_attention(*theirs, is_causal=is_causal)
    assert_same(got, expected, ours, theirs)


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_heads_that_share_keys_and_values(kv_heads, block_size):
    ours, theirs = both(normal(2, 6, 9, 4), *(normal(2, kv_heads, 7, 4) for _ in range(2)))
    q, *kv = ours
    repeated = (repeat_heads(x, 6 // kv_heads) for x in kv)
    got = scaled_dot_product_attention(q, *repeated, block_size=block_size)
    expected = functional.scaled_dot_product_attention(*theirs, enable_gqa=True)
    assert_same(got, expected, ours, theirs)


def test_an_added_mask_learns():
    ours, theirs = both(normal(2, 3, 10, 8), normal(2, 3, 12, 8), normal(3, 10, 12))
    q, k, mask = theirs
    expected = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5 + mask, dim=-1)
    assert_same(attention_weights(*ours), expected, ours, theirs)


@pytest.mark.parametrize("block_size", [None, 2, 64])
def test_nan_is_where_pytorch_has_it(block_size):
    q, k, v = normal(6, 4), normal(6, 4), normal(6, 3)
    q[1, 0], v[4, 2] = np.nan, np.nan
    got = scaled_dot_product_attention(*map(Tensor, (q, k, v)), block_size=block_size)
    expected = functional.scaled_dot_product_attention(*map(torch.tensor, (q, k, v))).numpy()
    np.testing.assert_array_equal(np.isnan(got.data), np.isnan(expected))
    assert np.isnan(expected).sum() == 8


# --- nn.MultiheadAttention ---
def layers(size, heads, bias=True, **options):
    """Our layer and PyTorch's, with our weights in both."""
    ours = nn.MultiHeadAttention(size, heads, bias=bias, **options)
    theirs = torch.nn.MultiheadAttention(size, heads, bias=bias, batch_first=True)
    projections = [ours.q_proj, ours.k_proj, ours.v_proj]
    with torch.no_grad():
        stacked = np.concatenate([p.weight.data.T for p in projections])
        theirs.in_proj_weight.copy_(torch.tensor(stacked))
        theirs.out_proj.weight.copy_(torch.tensor(ours.out_proj.weight.data.T))
        if bias:
            theirs.in_proj_bias.copy_(
                torch.tensor(np.concatenate([p.bias.data for p in projections]))
            )
            theirs.out_proj.bias.copy_(torch.tensor(ours.out_proj.bias.data))
    return ours, theirs


def assert_same_layers(ours, theirs, got, expected):
    assert_same(got, expected, [], [])
    stacked = np.concatenate(
        [p.weight.grad.data.T for p in (ours.q_proj, ours.k_proj, ours.v_proj)]
    )
    pairs = [
        (stacked, theirs.in_proj_weight),
        (ours.out_proj.weight.grad.data.T, theirs.out_proj.weight),
    ]
    if theirs.in_proj_bias is not None:
        stacked = [p.bias.grad.data for p in (ours.q_proj, ours.k_proj, ours.v_proj)]
        pairs += [
            (np.concatenate(stacked), theirs.in_proj_bias),
            (ours.out_proj.bias.grad.data, theirs.out_proj.bias),
        ]
    for gradient, parameter in pairs:
        np.testing.assert_allclose(gradient, parameter.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("heads", [1, 2, 8])
def test_self_attention(heads, bias, block_size):
    ours, theirs = layers(16, heads, bias, block_size=block_size)
    (x,), (y,) = both(normal(2, 7, 16))
    assert_same_layers(ours, theirs, ours(x), theirs(y, y, y, need_weights=False)[0])
    np.testing.assert_allclose(x.grad.data, y.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block_size", [None, 3])
def test_cross_attention(block_size):
    ours, theirs = layers(16, 4, block_size=block_size)
    inputs, peers = both(normal(2, 7, 16), normal(2, 5, 16), normal(2, 5, 16))
    assert_same_layers(ours, theirs, ours(*inputs), theirs(*peers, need_weights=False)[0])
    for a, b in zip(inputs, peers, strict=True):
        np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block_size", [None, 3])
def test_masks_of_the_layer_mean_the_opposite(block_size):
    """nn.MultiheadAttention hides where its masks are True; we, as its function, show there."""
    ours, theirs = layers(16, 4, block_size=block_size)
    x = normal(2, 7, 16)
    may = random.random((7, 7)) < 0.6
    may[:, 0] = True
    padded = np.arange(7) < np.array([4, 7])[:, None]
    y = torch.tensor(x)
    hidden, padding = torch.tensor(~may), torch.tensor(~padded)
    got = ours(Tensor(x), mask=may & padded[:, None])
    expected = theirs(y, y, y, key_padding_mask=padding, attn_mask=hidden, need_weights=False)[0]
    assert_same_layers(ours, theirs, got, expected)


def test_an_added_mask_and_the_maps_of_the_layer():
    ours, theirs = layers(16, 4)
    x, added = normal(2, 7, 16), normal(7, 7)
    y = torch.tensor(x)
    options = {"attn_mask": torch.tensor(added), "average_attn_weights": False}
    expected, weights = theirs(y, y, y, **options)
    with attention_maps() as maps:
        got = ours(Tensor(x), mask=added)
    np.testing.assert_allclose(maps[0], weights.detach().numpy(), atol=1e-6)
    assert_same_layers(ours, theirs, got, expected)

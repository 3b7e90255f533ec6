"""Module 12: attention against loops, its masks, by blocks, in heads, and its maps."""

import gc
import threading
import tracemalloc

import numpy as np
import pytest

from tinytorch.core.attention import (
    MultiHeadAttention,
    added_to_scores,
    attention_maps,
    attention_of_heads,
    attention_weights,
    blocked_attention,
    blocks,
    checked_mask,
    merge_heads,
    online_softmax_step,
    repeat_heads,
    scaled_dot_product_attention,
    softmax_of_scores,
    split_heads,
)
from tinytorch.core.autograd import grad, gradcheck, no_grad
from tinytorch.core.layers import Dropout
from tinytorch.core.optimizers import SGD
from tinytorch.core.tensor import Tensor, manual_seed, randn
from tinytorch.text.embeddings import RotaryPositions

random = np.random.default_rng(0)
START = random.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order():
    random.bit_generator.state = START
    manual_seed(0)


def normal(*shape):
    return Tensor(random.standard_normal(shape), dtype=np.float64)


def by_loops(q, k, v, mask=None, is_causal=False, scale=None):
    """Attention as one would tell it: one query after another, one key after another."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    (length, size), keys = q.shape[-2:], k.shape[-2]
    q, k, v = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (q, k, v))
    if mask is not None:
        mask = np.broadcast_to(np.asarray(mask), (*lead, length, keys))
    scale = 1 / np.sqrt(max(size, 1)) if scale is None else scale
    out = np.zeros((*lead, length, v.shape[-1]))
    for place in np.ndindex(*lead):
        for t in range(length):
            powers = np.zeros(keys)
            for s in range(keys):
                added = 0.0 if mask is None else mask[place][t, s]
                hidden = is_causal and s > t
                if mask is not None and mask.dtype == bool:
                    hidden, added = hidden or not added, 0.0
                if not hidden:
                    powers[s] = np.exp(scale * (q[place][t] @ k[place][s]) + added)
            if powers.any():
                out[place][t] = powers / powers.sum() @ v[place]
    return out


HIDDEN = np.array([[True, False, True, True], [False] * 4, [True] * 4])
MASKS = {
    "none": None,
    "boolean": HIDDEN,
    "added": np.where(HIDDEN, random.standard_normal(HIDDEN.shape), -np.inf),
    "one for all queries": np.array([True, True, False, True]),
    "one for all keys": np.array([[True], [False], [True]]),
    "for each of the batch": random.random((2, 1, 3, 4)) < 0.6,
    "for each head": random.random((2, 3, 4)) < 0.6,
    "added to each": random.standard_normal((2, 2, 3, 4)),
    "a single number": np.array(0.5),
    "a list": [True, False, False, True],
    "a tensor": Tensor(HIDDEN),
}


# --- plain, and by blocks ---
CASES = [
    pytest.param(mask, block_size, id=f"{name}, block_size={block_size}")
    for name, mask in MASKS.items()
    for block_size in (None, 1, 2, 3, 100)
    if block_size is None or np.asarray(mask).dtype.kind != "f"  # blocks take booleans alone
]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("mask", "block_size"), CASES)
def test_attention_is_the_loop(mask, block_size, is_causal):
    q, k, v = normal(2, 2, 3, 5), normal(2, 2, 4, 5), normal(2, 2, 4, 2)
    got = scaled_dot_product_attention(q, k, v, mask, is_causal, block_size=block_size)
    np.testing.assert_allclose(got.data, by_loops(q, k, v, mask, is_causal), atol=1e-12)
    assert got.dtype == np.float64


@pytest.mark.parametrize("block_size", [None, 1, 2, 100])
@pytest.mark.parametrize(
    "shapes",
    [
        *([(3, 4)] * 3, [(1, 4), (6, 4), (6, 4)], [(7, 4), (2, 4), (2, 1)]),
        *([(2, 1, 3, 4), (5, 4), (1, 5, 2)], [(3, 4), (2, 5, 4), (5, 2)], [(1, 1)] * 3),
    ],
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_lengths_and_leading_axes_may_differ(shapes, is_causal, block_size):
    q, k, v = (normal(*shape) for shape in shapes)
    got = scaled_dot_product_attention(q, k, v, is_causal=is_causal, block_size=block_size)
    np.testing.assert_allclose(got.data, by_loops(q, k, v, is_causal=is_causal), atol=1e-12)


@pytest.mark.parametrize("block_size", [None, 1, 2])
@pytest.mark.parametrize(
    "shapes",
    [
        *([(0, 4), (3, 4), (3, 2)], [(3, 4), (0, 4), (0, 2)], [(0, 4), (0, 4), (0, 2)]),
        *([(3, 0), (2, 0), (2, 5)], [(3, 4), (2, 4), (2, 0)], [(0, 3, 4), (0, 2, 4), (0, 2, 1)]),
    ],
)
def test_of_nothing(shapes, block_size):
    """No keys: zeros. No numbers in a key: all are equally similar."""
    inputs = [normal(*shape) for shape in shapes]
    for x in inputs:
        x.requires_grad = True
    got = scaled_dot_product_attention(*inputs, block_size=block_size)
    np.testing.assert_allclose(got.data, by_loops(*(x.data for x in inputs)), atol=1e-12)
    for x, gradient in zip(inputs, grad(got.sum(), inputs), strict=True):
        assert gradient.shape == x.shape and np.isfinite(gradient.data).all()


@pytest.mark.parametrize("block_size", [None, 2])
def test_the_scale(block_size):
    q, k, v = normal(3, 5), normal(4, 5), normal(4, 2)
    for scale in (0.0, 0.3, -1.0):
        got = scaled_dot_product_attention(q, k, v, scale=scale, block_size=block_size)
        np.testing.assert_allclose(got.data, by_loops(q, k, v, scale=scale), atol=1e-12)
    alike = scaled_dot_product_attention(q, k, v, scale=0.0, block_size=block_size)
    np.testing.assert_allclose(alike.data, np.tile(v.data.mean(axis=0), (3, 1)))


@pytest.mark.parametrize("block_size", [None, 2])
def test_dtypes(block_size):
    x = random.standard_normal((3, 4))
    for dtypes, expected in [
        (["float32"] * 3, "float32"),
        (["float64"] * 3, "float64"),
        (["float32", "float32", "float64"], "float64"),
        (["float16"] * 3, "float16"),
        (["int64", "int64", "float32"], "float32"),
    ]:
        inputs = [Tensor(4 * x, dtype=dtype) for dtype in dtypes]
        mask = np.zeros((3, 3)) if block_size is None else None  # float64, and changes nothing
        got = scaled_dot_product_attention(*inputs, mask, block_size=block_size)
        assert got.dtype == expected
        tolerance = 1e-2 if expected == "float16" else 1e-5
        np.testing.assert_allclose(got.data, by_loops(*inputs), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("block_size", [None, 16])
def test_large_scores_do_not_overflow(block_size):
    draw = np.random.default_rng(0).standard_normal  # its own: no two keys nearly equally near
    q, k, v = (Tensor(draw((40, 4)), dtype=np.float32) for _ in range(3))
    with np.errstate(over="raise", invalid="raise"):
        got = scaled_dot_product_attention(q * 1e4, k, v, block_size=block_size)
    nearest = np.argmax(q.data @ k.data.T, axis=1)
    np.testing.assert_allclose(got.data, v.data[nearest], atol=1e-4)
    low = Tensor(np.full((3, 4), -1e4)), Tensor(np.full((40, 4), 1e4)), v
    got = scaled_dot_product_attention(*low, block_size=block_size)
    np.testing.assert_allclose(got.data, np.tile(v.data.mean(axis=0), (3, 1)), atol=1e-5)


@pytest.mark.parametrize("block_size", [None, 1, 3])
def test_nan_spreads_to_those_who_look(block_size):
    q, k, v = normal(4, 3), normal(4, 3), normal(4, 2)
    q.data[1, 0] = np.nan
    got = scaled_dot_product_attention(q, k, v, block_size=block_size).data
    assert np.isnan(got).any(axis=1).tolist() == [False, True, False, False]
    q, k = normal(4, 3), normal(4, 3)
    k.data[2, 0] = np.nan
    got = scaled_dot_product_attention(q, k, v, is_causal=True, block_size=1).data
    assert np.isnan(got).any(axis=1).tolist() == [False, False, True, True]


def test_arrays_give_arrays():
    q, k, v = (random.standard_normal((3, 4)) for _ in range(3))
    assert type(attention_weights(q, k)) is np.ndarray
    for block_size in (None, 2):
        got = scaled_dot_product_attention(q, k, v, block_size=block_size)
        assert type(got) is np.ndarray
        np.testing.assert_allclose(got, by_loops(q, k, v))


def test_inputs_stay_what_they_were():
    arrays = [random.standard_normal((5, 4)) for _ in range(3)]
    mask = random.standard_normal((5, 5))
    before = [x.copy() for x in (*arrays, mask)]
    inputs = [Tensor._wrap(x) for x in arrays]
    for x in inputs:
        x.requires_grad = True
    for options in ({"mask": mask}, {"block_size": 2}, {"mask": mask > 0, "block_size": 2}):
        scaled_dot_product_attention(*inputs, is_causal=True, **options).sum().backward()
    for x, y in zip((*arrays, mask), before, strict=True):
        np.testing.assert_array_equal(x, y)
    scores = np.array([[1.0, 2.0]])
    softmax_of_scores(scores)
    assert scores.tolist() == [[1, 2]]


def test_weights_sum_to_one_or_to_zero():
    q, k = normal(2, 3, 5), normal(2, 4, 5)
    for mask in MASKS.values():
        if np.ndim(mask) < 4:
            total = attention_weights(q, k, mask).sum(axis=-1).data
            assert np.all(np.isclose(total, 1) | (total == 0))
    assert not attention_weights(q, k, HIDDEN).data[:, 1].any()
    assert not attention_weights(q, k, HIDDEN).data[:, 0, 1].any()


def test_softmax_of_scores():
    np.testing.assert_allclose(softmax_of_scores(np.log([[1.0, 3.0]])), [[0.25, 0.75]])
    many = random.standard_normal((300, 500)).astype(np.float32)
    many[7] = -np.inf
    many[8, 3:] = -np.inf
    got = softmax_of_scores(many)
    powers = np.exp(many.astype(np.float64))
    expected = powers / np.maximum(powers.sum(axis=1, keepdims=True), 1e-30)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert got.dtype == np.float32 and not got[7].any()
    assert softmax_of_scores(np.full((1, 2), -1e30)).tolist() == [[0.5, 0.5]]  # low, not hidden
    assert softmax_of_scores(np.zeros((2, 0))).shape == (2, 0)


# --- masks ---
def test_what_is_added():
    def added(mask, is_causal, rows, columns):
        return added_to_scores(mask, is_causal, slice(*rows), slice(*columns), np.float32)

    infinity = np.inf
    assert added(None, False, (0, 9), (0, 9)) is None
    assert added(None, True, (4, 6), (0, 5)) is None  # all of it in the past
    assert added(None, True, (4, 6), (3, 6)).tolist() == [[0, 0, -infinity], [0, 0, 0]]
    mask = checked_mask(HIDDEN, (3, 4))
    assert added(mask, False, (0, 2), (1, 3)).tolist() == [[-infinity, 0], [-infinity, -infinity]]
    assert added(mask, True, (2, 3), (2, 4)).tolist() == [[0, -infinity]]
    assert added(mask, True, (0, 3), (0, 4)).dtype == np.float32
    floats = checked_mask(np.arange(4.0), (3, 4))
    assert added(floats, False, (0, 1), (1, 4)).tolist() == [[1, 2, 3]]
    assert added(floats, True, (0, 1), (0, 2)).tolist() == [[0, -infinity]]


@pytest.mark.parametrize("shape", [(5,), (4, 4), (3, 5), (2, 2, 3, 4), (3, 3, 4), (0, 4)])
@pytest.mark.parametrize("block_size", [None, 2])
def test_masks_of_wrong_shapes(shape, block_size):
    q, k, v = normal(2, 3, 5), normal(2, 4, 5), normal(2, 4, 1)
    with pytest.raises(ValueError) as caught:
        scaled_dot_product_attention(q, k, v, np.ones(shape, bool), block_size=block_size)
    assert f"mask of {shape} does not fit scores of (2, 3, 4)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mask", [[[1, 0, 1, 0]], np.zeros((3, 4), int), [["a"] * 4], 1j, [None]])
@pytest.mark.parametrize("block_size", [None, 2])
def test_masks_of_wrong_kinds(mask, block_size):
    """Ones and zeros may mean either: better ask than guess."""
    q, k, v = normal(3, 5), normal(4, 5), normal(4, 1)
    with pytest.raises(TypeError, match=r"expected a mask of booleans \(True: may look\)"):
        scaled_dot_product_attention(q, k, v, mask, block_size=block_size)
    with pytest.raises(TypeError, match="expected a mask of booleans"):
        MultiHeadAttention(4, 2, block_size=block_size)(randn(4, 4), mask=mask)


def test_blocks_refuse_added_masks():
    with pytest.raises(TypeError, match="alone with block_size=, got float64"):
        scaled_dot_product_attention(*[normal(3, 4)] * 3, np.zeros((3, 3)), block_size=2)


@pytest.mark.parametrize("block_size", [None, 2])
def test_shapes_that_do_not_fit(block_size):
    fit = {"q": (2, 3, 4), "k": (2, 5, 4), "v": (2, 5, 6)}
    for name, shape, message in [
        ("q", (2, 3, 5), "one D; got (2, 3, 5) and (2, 5, 4)"),
        ("k", (2, 4, 4), "got (2, 3, 4), (2, 4, 4) and (2, 5, 6)"),
        ("v", (2, 3, 6), "got (2, 3, 4), (2, 5, 4) and (2, 3, 6)"),
        ("q", (4,), "got (4,), (2, 5, 4)"),
        ("k", (4,), "got (2, 3, 4), (4,)"),
        ("v", (), "(2, 5, 4) and ()"),
        ("k", (3, 5, 4), "(3, 5, 4)"),
        ("v", (3, 5, 6), "(3, 5, 6)"),
    ]:
        shapes = {**fit, name: shape}
        with pytest.raises(ValueError) as caught:
            inputs = [normal(*shapes[each]) for each in "qkv"]
            scaled_dot_product_attention(*inputs, block_size=block_size)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="one D"):
        attention_weights(normal(4), normal(5, 4))


# --- gradients ---
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("block_size", [None, 1, 2, 5])
@pytest.mark.parametrize("mask", [None, HIDDEN], ids=["all", "masked"])
def test_gradients_to_second_order(mask, is_causal, block_size):
    shapes = [(2, 3, 2), (2, 4, 2), (4, 1)]

    def attend(q, k, v):
        options = {"is_causal": is_causal, "block_size": block_size}
        return scaled_dot_product_attention(q, k, v, mask, **options)

    gradcheck(attend, *(random.standard_normal(s) for s in shapes), order=2, tolerance=1e-4)


@pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 1, 1, 4), (1, 2, 3, 1), ()])
def test_an_added_mask_learns(shape):
    q, k = random.standard_normal((2, 2, 3, 2)), random.standard_normal((2, 2, 4, 2))
    gradcheck(attention_weights, q, k, random.standard_normal(shape), order=2, tolerance=1e-4)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("block_size", [1, 3, 7, 16, 64])
def test_blocks_give_the_plain_gradients(block_size, is_causal):
    arrays = [random.standard_normal(s) for s in [(2, 16, 5), (2, 20, 5), (2, 20, 3)]]
    mask = random.random((2, 16, 20)) < 0.7
    mask[0, 3] = False
    g = random.standard_normal((2, 16, 3))

    def gradients(block_size):
        inputs = [Tensor(x, dtype=np.float64, requires_grad=True) for x in arrays]
        options = {"is_causal": is_causal, "block_size": block_size}
        scaled_dot_product_attention(*inputs, mask, **options).backward(g)
        return [x.grad.data for x in inputs]

    for plain, blocked in zip(gradients(None), gradients(block_size), strict=True):
        np.testing.assert_allclose(blocked, plain, atol=1e-12)


@pytest.mark.parametrize("block_size", [None, 2])
def test_no_gradient_flows_where_nobody_looks(block_size):
    q, k, v = (Tensor(random.standard_normal((4, 3)), requires_grad=True) for _ in range(3))
    mask = np.array([[True, True, False, False]] * 3 + [[False] * 4])
    scaled_dot_product_attention(q, k, v, mask, block_size=block_size).sum().backward()
    for x in (k, v):
        assert x.grad.data[:2].any(axis=1).all() and not x.grad.data[2:].any()
    assert q.grad.data[:3].any(axis=1).all() and not q.grad.data[3].any()
    assert all(np.isfinite(x.grad.data).all() for x in (q, k, v))
    assert all(x.grad.dtype == np.float32 for x in (q, k, v))


# --- the softmax in pieces ---
def test_online_softmax_in_any_pieces():
    scores, values = random.standard_normal((3, 12)) * 5, random.standard_normal((12, 2))
    scores[0, :4] = -np.inf
    scores[1] = -np.inf
    for cuts in ([12], [1] * 12, [5, 4, 3], [2, 10], [0, 7, 0, 5]):
        state, start = (np.full((3, 1), -np.inf), np.zeros((3, 1)), np.zeros((3, 2))), 0
        for size in cuts:
            piece = slice(start, start + size)
            state = online_softmax_step(state, scores[:, piece].copy(), values[piece])
            start += size
        peak, total, mixture = state
        powers = np.exp(scores - np.where(np.isinf(scores.max(1)), 0, scores.max(1))[:, None])
        assert peak.ravel().tolist() == scores.max(axis=1).tolist()
        np.testing.assert_allclose(total.ravel(), powers.sum(axis=1))
        np.testing.assert_allclose(mixture, powers @ values, atol=1e-12)


def test_blocks():
    for length, size in [(5, 3), (6, 3), (1, 3), (4, 1), (0, 2), (3, 100)]:
        parts = blocks(length, size)
        assert [i for part in parts for i in range(length)[part]] == list(range(length))
        assert all(part.stop - part.start <= size for part in parts) and parts
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"block_size must be at least 1, got {wrong}"):
            scaled_dot_product_attention(*[normal(3, 4)] * 3, block_size=wrong)


def test_last_column_is_the_log_of_the_sum():
    q, k, v = normal(2, 3, 4), normal(2, 5, 4), normal(2, 5, 2)
    mask = np.array([[True] * 5, [False] * 5, [True, False, True, False, True]])
    scores = np.where(mask, q.data @ k.data.swapaxes(-1, -2) / 2, -np.inf)
    with np.errstate(divide="ignore"):
        expected = np.log(np.exp(scores).sum(axis=-1))
    expected[np.isinf(expected)] = 0
    got = blocked_attention(q, k, v, mask, block_size=2)
    np.testing.assert_allclose(got.data[..., -1], expected)
    assert got.shape == (2, 3, 3)


def peak_bytes(run):
    gc.collect()
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("is_causal", [False, True])
def test_blocks_need_far_less_memory(is_causal):
    inputs = [Tensor(random.standard_normal((1024, 16)), requires_grad=True) for _ in range(3)]

    def run(block_size, backward):
        options = {"is_causal": is_causal, "block_size": block_size}
        out = scaled_dot_product_attention(*inputs, **options)
        if backward:
            out.backward(np.ones(out.shape, np.float32))

    table = 4 * 1024 * 1024
    for backward, least, most in ((False, 1.9, 0.25), (True, 2.9, 0.3)):
        run(64, backward)  # what only the first run allocates
        assert peak_bytes(lambda backward=backward: run(None, backward)) > least * table
        assert peak_bytes(lambda backward=backward: run(64, backward)) < most * table


def test_memory_of_blocks_grows_with_the_length_not_with_its_square():
    def peak(length):
        q = Tensor(random.standard_normal((length, 8)))
        return peak_bytes(lambda: scaled_dot_product_attention(q, q, q, block_size=32))

    peak(64)
    assert peak(1024) < 4.5 * peak(256)
    plain = 4 * 1024 * 1024
    assert peak(1024) < plain / 10


def test_graphs_of_attention_die_by_reference_counting():
    q, k, v = (randn(64, 8, requires_grad=True) for _ in range(3))

    def held(block_size):
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(3):
                scaled_dot_product_attention(q, k, v, block_size=block_size).sum()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
            gc.enable()

    for block_size in (None, 16):
        held(block_size)
        assert held(block_size) < 64 * 64 * 4


# --- dropout ---
def test_dropout_is_applied_to_the_weights():
    q, k, v = randn(200, 4), randn(50, 4), Tensor(np.eye(50))
    dropped = scaled_dot_product_attention(q, k, v, dropout=Dropout(0.4)).data  # v = 1: the weights
    weights = attention_weights(q, k).data
    kept = dropped != 0
    assert kept.mean() == pytest.approx(0.6, abs=0.02)
    np.testing.assert_allclose(dropped[kept], weights[kept] / 0.6, rtol=1e-5)
    squared = scaled_dot_product_attention(q, k, 3 * v, dropout=lambda weights: weights**2)
    np.testing.assert_allclose(squared.data, 3 * weights**2, rtol=1e-5)
    with pytest.raises(ValueError, match="no weights for dropout"):
        scaled_dot_product_attention(q, k, v, dropout=Dropout(0.4), block_size=8)


@pytest.mark.parametrize("block_size", [None, 3])
def test_a_layer_drops_in_training_alone(block_size):
    layer = MultiHeadAttention(8, 2, dropout=0.5, block_size=block_size)
    x = randn(2, 6, 8)
    if block_size:
        with pytest.raises(ValueError, match="no weights for dropout"):
            layer(x)
    else:
        assert np.abs(layer(x).data - layer(x).data).max() > 1e-3
    layer.eval()
    np.testing.assert_array_equal(layer(x).data, layer(x).data)
    twin = MultiHeadAttention(8, 2)
    twin.load_state_dict(layer.state_dict())
    np.testing.assert_allclose(twin(x).data, layer(x).data, atol=1e-6)


# --- heads ---
def test_heads_apart_and_together():
    x = normal(2, 5, 12)
    for count in (1, 3, 12):
        heads = split_heads(x, count)
        assert heads.shape == (2, count, 5, 12 // count)
        for h in range(count):
            part = x.data[..., h * 12 // count : (h + 1) * 12 // count]
            np.testing.assert_array_equal(heads.data[:, h], part)
        np.testing.assert_array_equal(merge_heads(heads).data, x.data)
    assert split_heads(normal(5, 12), 3).shape == (3, 5, 4)
    assert merge_heads(split_heads(normal(0, 12), 3)).shape == (0, 12)


def test_repeated_heads():
    x = normal(2, 3, 5, 4)
    np.testing.assert_array_equal(repeat_heads(x, 2).data, np.repeat(x.data, 2, axis=1))
    assert repeat_heads(x, 1) is x
    x.requires_grad = True
    answer = grad(repeat_heads(x, 4).sum(), x)
    np.testing.assert_array_equal(answer.data, np.full(x.shape, 4.0))


def layer_by_loops(layer, query, key, value, mask=None, is_causal=False):
    """What a layer means: project, attend in each head, stand the heads side by side, project."""

    def through(linear, x):
        bias = 0 if linear.bias is None else linear.bias.data
        return x @ linear.weight.data + bias

    q, k, v = (
        through(projection, x)
        for projection, x in (
            (layer.q_proj, query),
            (layer.k_proj, key),
            (layer.v_proj, value),
        )
    )
    size, group = layer.embed_dim // layer.num_heads, layer.num_heads // layer.num_kv_heads
    mixed = []
    for h in range(layer.num_heads):
        own = slice(h * size, (h + 1) * size)
        shared = slice(h // group * size, (h // group + 1) * size)
        of_head = mask if np.ndim(mask) < 4 else mask[:, h % mask.shape[1]]
        parts = q[..., own], k[..., shared], v[..., shared]
        mixed.append(by_loops(*parts, of_head, is_causal))
    return through(layer.out_proj, np.concatenate(mixed, axis=-1))


def double(layer):
    """The layer with weights of float64, all of them random."""
    for name, value in layer.state_dict().items():
        owner, _, last = name.rpartition(".")
        setattr(dict(layer.named_modules())[owner], last, normal(*value.shape))
    return layer


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_is_the_loop(kv_heads, bias, block_size):
    layer = double(MultiHeadAttention(8, 4, kv_heads, bias, block_size=block_size))
    x, memory, other = normal(2, 5, 8), normal(2, 3, 8), normal(2, 3, 8)
    for key, value in ((x, x), (memory, memory), (memory, other)):
        got = layer(x, *([key] if value is key else [key, value]))
        expected = layer_by_loops(layer, x.data, key.data, value.data)
        np.testing.assert_allclose(got.data, expected, atol=1e-10)
    np.testing.assert_allclose(layer(x).data, layer(x, x, x).data, atol=1e-12)
    got = layer(x, is_causal=True)
    expected = layer_by_loops(layer, x.data, x.data, x.data, is_causal=True)
    np.testing.assert_allclose(got.data, expected, atol=1e-10)


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("shape", [(5,), (5, 5), (2, 5, 5), (2, 1, 5), (2, 1, 1, 5), (2, 4, 5, 5)])
def test_masks_of_a_layer(shape, block_size):
    layer = double(MultiHeadAttention(8, 4, block_size=block_size))
    x, mask = normal(2, 5, 8), random.random(shape) < 0.7
    for given in (mask, Tensor(mask), mask.tolist()):
        got = layer(x, mask=given)
        expected = layer_by_loops(layer, x.data, x.data, x.data, mask)
        np.testing.assert_allclose(got.data, expected, atol=1e-10)
    if block_size is None:
        added = np.where(mask, 0.5, -1.5)
        expected = layer_by_loops(layer, x.data, x.data, x.data, added)
        np.testing.assert_allclose(layer(x, mask=added).data, expected, atol=1e-10)


def test_a_sequence_without_a_batch():
    layer = MultiHeadAttention(8, 2)
    x, memory = randn(5, 8), randn(3, 8)
    for options in ({}, {"is_causal": True}, {"mask": np.tri(5, dtype=bool)}):
        batched = layer(x[None], **options).data[0]
        np.testing.assert_allclose(layer(x, **options).data, batched, atol=1e-6)
    np.testing.assert_allclose(layer(x, memory).data, layer(x[None], memory[None]).data[0], 1e-5)
    assert layer(randn(0, 8)).shape == (0, 8)


def test_without_positions_order_does_not_matter():
    layer = double(MultiHeadAttention(8, 2))
    x, order = normal(1, 6, 8), random.permutation(6)
    np.testing.assert_allclose(layer(x[:, order]).data, layer(x).data[:, order], atol=1e-12)


def test_the_future_does_not_change_the_past():
    layer = MultiHeadAttention(8, 2, num_kv_heads=1)
    x = randn(1, 6, 8)
    changed = Tensor(x.data.copy())
    changed.data[0, 4:] += 1
    got, expected = layer(changed, is_causal=True).data, layer(x, is_causal=True).data
    np.testing.assert_array_equal(got[0, :4], expected[0, :4])
    assert np.abs(got[0, 4:] - expected[0, 4:]).min(axis=-1).all()


def test_rotary_positions_are_applied_to_queries_and_keys():
    layer = double(MultiHeadAttention(8, 2, positions=RotaryPositions(4, 20)))
    x = normal(1, 6, 8)
    here, later = layer(x).data, layer(x, start=9).data
    np.testing.assert_allclose(later, here, rtol=1e-4, atol=1e-4)  # distances alone count
    plain = MultiHeadAttention(8, 2)
    plain.load_state_dict(layer.state_dict())
    q, k, v = (split_heads(p(x), 2) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    turned = by_loops(layer.positions(q), layer.positions(k), v)
    expected = layer.out_proj(merge_heads(Tensor(turned, dtype=np.float64))).data
    np.testing.assert_allclose(here, expected, atol=1e-10)
    with pytest.raises(ValueError, match="max_seq_len is 20"):
        layer(x, start=15)


def test_parameters_of_a_layer_and_their_gradients():
    layer = MultiHeadAttention(8, 4, num_kv_heads=2)
    sizes = {name: p.shape for name, p in layer.named_parameters() if name.endswith("weight")}
    assert sizes == {
        "q_proj.weight": (8, 8),
        "k_proj.weight": (8, 4),
        "v_proj.weight": (8, 4),
        "out_proj.weight": (8, 8),
    }
    assert len(layer.parameters()) == 8
    assert len(MultiHeadAttention(8, 4, bias=False).parameters()) == 4
    layer(randn(2, 5, 8), is_causal=True).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == np.float32 for p in layer.parameters())
    moved = [name for name, p in layer.named_parameters() if np.abs(p.grad.data).max() > 1e-5]
    assert len(moved) == 7  # a bias of the keys adds the same to all scores of a query


def test_a_subclass_attends_in_its_own_way():
    """Quantised attention replaces what happens between the projections, and nothing else."""
    seen = []

    class Averaging(MultiHeadAttention):
        def attend(self, q, k, v, *options):
            def average(q, k, v, mask, is_causal, dropout=None, block_size=None):
                seen.append((q.shape, k.shape, np.ndim(mask)))
                return v.mean(axis=-2, keepdims=True).expand(*q.shape)

            return attention_of_heads(q, k, v, *options, average)

    layer, x = Averaging(8, 4, num_kv_heads=2), randn(3, 5, 8)
    got = layer(x, mask=np.ones((3, 5, 5), bool))
    assert seen == [((3, 4, 5, 2), (3, 4, 5, 2), 4)]
    assert np.ptp(got.data, axis=1).max() < 1e-6  # all queries got the same average
    assert np.ptp(got.data, axis=0).max() > 1e-3


def test_a_layer_learns_to_look_back():
    """To answer with the vector before one's own takes a map: the layer has to find it."""
    layer, answers = MultiHeadAttention(16, 2), randn(64, 6, 8)
    places = np.broadcast_to(np.eye(6, 8, dtype=np.float32), (64, 6, 8))
    x = Tensor(np.concatenate([answers.data, 4 * places], axis=-1))
    optimizer = SGD(layer.parameters(), lr=0.5, momentum=0.9)
    for _ in range(150):
        difference = layer(x, is_causal=True)[:, 1:, :8] - answers[:, :-1]
        loss = (difference * difference).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    with no_grad(), attention_maps() as maps:
        layer(x, is_causal=True)
    assert maps[0][:, :, range(1, 6), range(5)].mean() > 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 3), "embed_dim=8 can't be divided by num_heads=3"),
        ((8, 0), "embed_dim=8 can't be divided by num_heads=0"),
        ((0, 1), "embed_dim=0 can't be divided"),
        ((8, -2), "num_heads=-2"),
        ((8, 4, 3), "num_heads=4 can't be divided by num_kv_heads=3"),
        ((8, 2, 4), "num_heads=2 can't be divided by num_kv_heads=4"),
        ((8, 4, 0), "num_kv_heads=0"),
    ],
)
def test_layers_that_can_not_be(arguments, message):
    with pytest.raises(ValueError) as caught:
        MultiHeadAttention(*arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_layer_refuses_what_does_not_fit():
    layer = MultiHeadAttention(8, 2)
    with pytest.raises(ValueError, match=r"\(\.\.\., T, D\), got \(8,\)"):
        layer(randn(8))
    with pytest.raises(ValueError, match=r"\(2, 3, 7\) does not fit weight of \(8, 8\)"):
        layer(randn(2, 3, 7))
    with pytest.raises(ValueError, match=r"got \(2, 2, 3, 4\), \(2, 2, 4, 4\) and \(2, 2, 5, 4\)"):
        layer(randn(2, 3, 8), randn(2, 4, 8), randn(2, 5, 8))
    with pytest.raises(ValueError, match=r"mask of \(4,\) does not fit"):
        layer(randn(2, 3, 8), mask=[True] * 4)


def test_a_layer_shows_what_it_is():
    shown = repr(MultiHeadAttention(8, 2, num_kv_heads=1))
    assert "k_proj" in shown and "out_features=4" in shown


# --- maps ---
def test_maps_are_the_weights_in_order():
    layers = [MultiHeadAttention(8, 2), MultiHeadAttention(8, 4)]
    x = randn(3, 5, 8)
    with attention_maps() as maps:
        for layer in layers:
            layer(x, is_causal=True)
        layers[0](x, randn(3, 2, 8))
    layers[0](x)
    assert [weights.shape for weights in maps] == [(3, 2, 5, 5), (3, 4, 5, 5), (3, 2, 5, 2)]
    assert all(type(weights) is np.ndarray for weights in maps)
    q, k = split_heads(layers[0].q_proj(x), 2), split_heads(layers[0].k_proj(x), 2)
    np.testing.assert_array_equal(maps[0], attention_weights(q, k, is_causal=True).data)


def test_maps_show_weights_before_dropout():
    layer, x = MultiHeadAttention(8, 2, dropout=0.9), randn(1, 5, 8)
    with attention_maps() as maps:
        layer(x)
    np.testing.assert_allclose(maps[0].sum(axis=-1), 1, rtol=1e-5)


def test_maps_within_maps():
    layer, x = MultiHeadAttention(8, 2), randn(1, 5, 8)
    with attention_maps() as outer:
        layer(x)
        with attention_maps() as inner:
            layer(x)
        layer(x)
    assert (len(outer), len(inner)) == (3, 1)
    assert inner[0] is outer[1]


def test_maps_end_with_an_error():
    layer, x = MultiHeadAttention(8, 2), randn(1, 5, 8)
    with pytest.raises(KeyError), attention_maps() as maps:
        layer(x)
        raise KeyError
    layer(x)
    assert len(maps) == 1


def test_maps_are_of_this_thread_and_need_no_gradient():
    layer, x = MultiHeadAttention(8, 2), randn(1, 5, 8)
    with attention_maps() as maps:
        thread = threading.Thread(target=lambda: layer(x))
        thread.start()
        thread.join()
        assert maps == []
        with no_grad():
            layer(x)
    assert len(maps) == 1


def test_blocks_have_no_maps():
    with attention_maps() as maps:
        MultiHeadAttention(8, 2, block_size=2)(randn(1, 5, 8)).sum().backward()
    assert maps == []


def test_collecting_maps_changes_nothing():
    layer, x = MultiHeadAttention(8, 2), randn(1, 5, 8)

    def gradients():
        layer.zero_grad()
        layer(x).sum().backward()
        return [p.grad.data for p in layer.parameters()]

    expected = gradients()
    with attention_maps():
        got = gradients()
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)

"""Module 13: norms, blocks, an encoder, a GPT, and the text that it writes."""

import copy
import math

import numpy as np
import pytest

from tinytorch.core.autograd import grad, gradcheck
from tinytorch.core.layers import Dropout, Linear, Module
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.tensor import Tensor, manual_seed, randn
from tinytorch.models.transformer import (
    GPT,
    MLP,
    LayerNorm,
    RMSNorm,
    TransformerBlock,
    TransformerEncoder,
    create_causal_mask,
    generate,
    hide_padding,
    keep_top_k,
    keep_top_p,
    layer_norm,
    next_token_probabilities,
    pick_tokens,
    rms_norm,
)
from tinytorch.text.embeddings import Embedding

KINDS = [
    {},
    {"positions": "sinusoidal"},
    {"positions": "rotary"},
    {"positions": None},
    {"norm": RMSNorm, "num_kv_heads": 1},
    {"block_size": 2, "bias": False},
    {"mlp_dim": 5, "padding_idx": 3},
]
every_kind = pytest.mark.parametrize("options", KINDS, ids=str)


@pytest.fixture(autouse=True)
def seed():
    manual_seed(0)


def gpt(vocab_size=11, embed_dim=8, num_layers=2, num_heads=2, max_seq_len=6, **options):
    return GPT(vocab_size, embed_dim, num_layers, num_heads, max_seq_len, **options)


def encoder(vocab_size=11, embed_dim=8, num_layers=2, num_heads=2, max_seq_len=6, **options):
    return TransformerEncoder(vocab_size, embed_dim, num_layers, num_heads, max_seq_len, **options)


def normal(*shape, seed=13):
    return np.random.default_rng(seed).standard_normal(shape)


def token_ids(*shape, seed=13, below=11):
    return np.random.default_rng(seed).integers(0, below, shape)


def grow(model, factor=20.0):
    """Weights at which a model's answers differ from one text to the next."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= factor
    return model


# --- norms ---
def layer_norm_by_hand(x, weight=1.0, bias=0.0, eps=1e-5):
    centred = x - x.mean(axis=-1, keepdims=True)
    return weight * centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) + bias


def rms_norm_by_hand(x, weight=1.0, eps=1e-6):
    return weight * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 5), (2, 3, 1), (0, 4), (70, 999)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_are_their_formulas(shape, dtype):
    x, weight, bias = (10 + 3 * normal(*shape)).astype(dtype), normal(shape[-1]), normal(shape[-1])
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"atol": 1e-12}
    given = [Tensor(array, dtype=dtype) for array in (x, weight, bias)]
    expected = x.astype(np.float64), weight, bias
    for count in (1, 2, 3):
        out = layer_norm(*given[:count])
        np.testing.assert_allclose(out.data, layer_norm_by_hand(*expected[:count]), **tolerance)
        assert out.dtype == dtype
    for count in (1, 2):
        out = rms_norm(*given[:count])
        np.testing.assert_allclose(out.data, rms_norm_by_hand(*expected[:count]), **tolerance)
        assert out.dtype == dtype
    out = layer_norm(given[0], None, given[2])
    np.testing.assert_allclose(out.data, layer_norm_by_hand(expected[0], 1, bias), **tolerance)
    np.testing.assert_array_equal(given[0].data, x)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_norms_use_eps_and_take_any_strides(norm):
    by_hand = layer_norm_by_hand if norm is layer_norm else rms_norm_by_hand
    x = 0.01 * normal(6, 5)
    for eps in (1e-5, 1.0):
        for part in (x.T, x[::2], x[:, ::-1]):
            tensor = Tensor._wrap(part)
            np.testing.assert_allclose(norm(tensor, eps=eps).data, by_hand(part, eps=eps))
    zeros = norm(Tensor(np.zeros((2, 3)))).data
    np.testing.assert_array_equal(zeros, np.zeros((2, 3)))
    assert np.isnan(norm(Tensor([[np.nan, 1], [2, 3]])).data).tolist() == [[True] * 2, [False] * 2]


def test_norms_of_whole_numbers():
    x = Tensor(np.array([[1, 3], [10, 30]]))
    np.testing.assert_allclose(layer_norm(x, eps=0).data, [[-1, 1], [-1, 1]], atol=1e-6)
    assert rms_norm(x).dtype.kind == "f"


def test_norms_have_gradients_of_two_orders():
    x, weight, bias = normal(2, 3, 4), normal(4), normal(4)
    for inputs in ((x,), (x, weight), (x, weight, bias)):
        gradcheck(layer_norm, *inputs, order=2, tolerance=1e-4)
        gradcheck(rms_norm, *inputs[:2], order=2, tolerance=1e-4)
    # a small eps would hide a gradient that forgets it
    gradcheck(lambda x: layer_norm(x, eps=2.0), x)
    gradcheck(lambda x: rms_norm(x, eps=2.0), x)


def test_gradients_are_free_of_what_norms_take_out():
    x = Tensor(normal(5, 8), requires_grad=True, dtype=np.float64)
    g = grad(layer_norm(x, eps=0), x, normal(5, 8, seed=1)).data
    np.testing.assert_allclose(g.sum(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(
        (g * (x.data - x.data.mean(-1, keepdims=True))).sum(-1), 0, atol=1e-12
    )
    g = grad(rms_norm(x, eps=0), x, normal(5, 8, seed=1)).data
    np.testing.assert_allclose((g * x.data).sum(axis=-1), 0, atol=1e-12)


@pytest.mark.parametrize("layer", [LayerNorm, RMSNorm])
def test_norm_layers(layer):
    norm = layer(4)
    assert repr(norm) == f"{layer.__name__}(4, eps={norm.eps})"
    assert norm.weight.tolist() == [1] * 4
    names = [name for name, _ in norm.named_parameters()]
    assert names == (["weight", "bias"] if layer is LayerNorm else ["weight"])
    norm.weight = Tensor([1, 2, 3, 4])
    by_hand = layer_norm_by_hand if layer is LayerNorm else rms_norm_by_hand
    x = normal(2, 3, 4)
    np.testing.assert_allclose(norm(Tensor(x)).data, by_hand(x, [1, 2, 3, 4]), rtol=1e-4, atol=1e-5)
    norm(Tensor(x)).sum().backward()
    assert all(parameter.grad.shape == (4,) for parameter in norm.parameters())
    assert layer((4,)).weight.shape == (4,)
    assert layer(4, eps=0.5).eps == 0.5
    for wrong in ((2, 3), 0, (), -1):
        with pytest.raises(ValueError, match=f"{layer.__name__}: expected the size of the last"):
            layer(wrong)
    for shape in [(2, 3), (2, 1), ()]:
        with pytest.raises(ValueError, match=rf"{layer.__name__}: .*\(\.\.\., 4\)"):
            norm(Tensor(normal(*shape)))


def test_layer_norm_without_bias():
    norm = LayerNorm(4, bias=False)
    assert norm.bias is None and len(norm.parameters()) == 1
    np.testing.assert_allclose(norm(Tensor(normal(4))).data.mean(), 0, atol=1e-6)


# --- blocks ---
def test_mlp():
    mlp = MLP(3, activation=lambda x: x * x)
    assert mlp.up.weight.shape == (3, 12) and mlp.down.weight.shape == (12, 3)
    x = normal(2, 5, 3)
    up = x @ mlp.up.weight.data + mlp.up.bias.data
    expected = up**2 @ mlp.down.weight.data + mlp.down.bias.data
    np.testing.assert_allclose(mlp(Tensor(x)).data, expected, rtol=1e-4, atol=1e-5)
    assert MLP(3, hidden_dim=7).up.weight.shape == (3, 7)
    assert "GELU" in repr(MLP(3))
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            MLP(3, hidden_dim=wrong)


def test_mlp_drops_in_training_alone():
    mlp = MLP(4, dropout=0.5)
    x = Tensor(normal(100, 4))
    assert (mlp(x).data == 0).mean() == pytest.approx(0.5, abs=0.1)
    assert mlp.eval()(x).data.all()


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_block_is_its_two_sums(norm):
    block = TransformerBlock(8, num_heads=2, norm=norm)
    for parameter in block.parameters():
        parameter.data[...] = normal(*parameter.shape, seed=parameter.size) / 3
    x = randn(2, 5, 8)
    mask = create_causal_mask(5)
    middle = x + block.attention(block.norm1(x), mask=mask)
    expected = middle + block.mlp(block.norm2(middle))
    np.testing.assert_allclose(block(x, mask=mask).data, expected.data, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(block(x, is_causal=True).data, expected.data, rtol=1e-5, atol=1e-5)
    assert not np.allclose(block(x).data, expected.data, atol=1e-3)
    assert isinstance(block.norm1, norm) and isinstance(block.norm2, norm)


def test_block_passes_everything_by():
    """With nothing added to the sums, a block changes nothing: neither x nor its gradient."""
    block = TransformerBlock(8, num_heads=2)
    for layer in (block.attention.out_proj, block.mlp.down):
        layer.weight.data[...], layer.bias.data[...] = 0, 0
    x = randn(2, 5, 8, requires_grad=True)
    out = block(x, is_causal=True)
    np.testing.assert_array_equal(out.data, x.data)
    np.testing.assert_array_equal(grad(out, x, np.ones(x.shape)).data, np.ones(x.shape))


def test_block_drops_what_attention_says():
    block = TransformerBlock(8, num_heads=2, dropout=0.5)
    assert sum(isinstance(part, Dropout) for part in block.modules()) == 3
    assert {part.p for part in block.modules() if isinstance(part, Dropout)} == {0.5}
    block.attention.dropout.eval()
    block.mlp.down.weight.data[...], block.mlp.down.bias.data[...] = 0, 0
    x = Tensor(normal(50, 4, 8))
    unchanged = (block(x).data == x.data).mean()
    assert unchanged == pytest.approx(0.5, abs=0.1)
    block.eval()
    np.testing.assert_array_equal(block(x).data, block(x).data)


@pytest.mark.parametrize("length", [0, 1, 2, 5])
@pytest.mark.parametrize("earlier", [0, 1, 3])
def test_create_causal_mask(length, earlier):
    mask = create_causal_mask(length, length + earlier)
    assert mask.dtype == bool and mask.shape == (length, length + earlier)
    for query in range(length):
        for key in range(length + earlier):
            assert mask.data[query, key] == (key <= query + earlier)
    if earlier == 0:
        np.testing.assert_array_equal(mask.data, create_causal_mask(length).data)


@pytest.mark.parametrize("arguments", [(-1,), (3, 2), (-1, 2)])
def test_create_causal_mask_refuses(arguments):
    with pytest.raises(ValueError, match="queries among"):
        create_causal_mask(*arguments)


# --- what a model starts with ---
@pytest.mark.parametrize("layers", [1, 8])
def test_weights_start_small(layers):
    model = gpt(200, 64, layers, 4, 50)
    for name, parameter in model.named_parameters():
        last = name.split(".")[-1]
        if last == "bias":
            assert not parameter.data.any(), name
        elif "norm" in name:
            assert (parameter.data == 1).all(), name
        else:
            shrunk = "out_proj" in name or "down" in name
            expected = 0.02 / math.sqrt(2 * layers) if shrunk else 0.02
            assert parameter.data.std() == pytest.approx(expected, rel=0.07), name
            assert abs(parameter.data.mean()) < expected / 10, name
        assert parameter.is_leaf and parameter.requires_grad and parameter.dtype == np.float32


@every_kind
def test_a_new_model_knows_nothing(options):
    model = gpt(100, 32, 2, 2, 16, **options)
    ids = token_ids(8, 16, below=100)
    loss = CrossEntropyLoss()(model(ids).reshape(-1, 100), ids[:, ::-1].reshape(-1))
    assert loss.item() == pytest.approx(math.log(100), abs=0.1)


def test_same_seed_same_model():
    states = []
    for _ in range(2):
        manual_seed(7)
        states.append({name: tensor.data for name, tensor in gpt().state_dict().items()})
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


def test_padding_starts_as_zeros():
    for padding_idx in (3, -1):
        tokens = encoder(padding_idx=padding_idx).embed.tokens
        assert not tokens.weight.data[padding_idx].any()
        assert np.delete(tokens.weight.data, padding_idx, axis=0).all()


# --- the GPT ---
@every_kind
def test_later_tokens_change_no_earlier_logits(options):
    model = grow(gpt(**options))
    ids = token_ids(3, 6)
    before = model(ids).data
    for place in range(6):
        changed = ids.copy()
        changed[:, place] = (changed[:, place] + 1) % 11
        after = model(changed).data
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert not np.allclose(after[:, place], before[:, place], atol=1e-4)


def test_earlier_tokens_change_later_logits():
    model = grow(gpt())
    ids = token_ids(1, 6)
    changed = ids.copy()
    changed[0, 0] = (changed[0, 0] + 1) % 11
    assert not np.allclose(model(ids).data[0, 5], model(changed).data[0, 5], atol=1e-4)


@every_kind
def test_a_text_begun_is_the_text(options):
    """The logits of the first tokens don't depend on how many come after; texts don't mix."""
    model = grow(gpt(**options))
    ids = token_ids(3, 6)
    whole = model(ids).data
    assert whole.shape == (3, 6, 11) and whole.dtype == np.float32
    for length in (1, 4):
        np.testing.assert_allclose(model(ids[:, :length]).data, whole[:, :length], atol=2e-4)
    np.testing.assert_allclose(model(ids[1:2]).data[0], whole[1], atol=2e-4)
    np.testing.assert_allclose(model(ids[1]).data, whole[1], atol=2e-4)
    assert model(ids[:, :0]).shape == (3, 0, 11)


def test_gpt_is_embedding_blocks_norm_and_the_embedding_again():
    model = grow(gpt())
    ids = token_ids(2, 5)
    x = model.embed.tokens.weight.data[ids] + model.embed.positions.weight.data[:5]
    x = Tensor(x)
    for block in model.blocks:
        x = block(x, mask=create_causal_mask(5))
    expected = model.norm(x).data @ model.embed.tokens.weight.data.T
    np.testing.assert_allclose(model(ids).data, expected, rtol=1e-3, atol=1e-3)


def test_gpt_starts_anywhere():
    model = grow(gpt())
    ids = token_ids(2, 3)
    later = model(ids, start=2).data
    weight = model.embed.positions.weight
    weight.data[:4] = weight.data[2:].copy()
    np.testing.assert_allclose(model(ids).data, later, atol=1e-5)
    rotary = grow(gpt(positions="rotary"))
    np.testing.assert_allclose(rotary(ids, start=3).data, rotary(ids).data, atol=1e-2)


def test_options_reach_their_layers():
    model = gpt(num_kv_heads=1, mlp_dim=5, bias=False, norm=RMSNorm, block_size=3, dropout=0.1)
    block = model.blocks[1]
    assert block.attention.k_proj.weight.shape == (8, 4)
    assert block.mlp.up.weight.shape == (8, 5)
    assert block.attention.q_proj.bias is None and block.attention.block_size == 3
    assert isinstance(model.norm, RMSNorm) and isinstance(block.norm2, RMSNorm)
    assert {part.p for part in model.modules() if isinstance(part, Dropout)} == {0.1}
    assert len(model.blocks) == 2 and (model.vocab_size, model.max_seq_len) == (11, 6)


def test_dropout_only_while_training():
    model = gpt(dropout=0.5)
    ids = token_ids(2, 5)
    assert not np.allclose(model(ids).data, model(ids).data)
    model.eval()
    np.testing.assert_array_equal(model(ids).data, model(ids).data)


def test_weights_are_tied():
    model = gpt()
    names = [name for name, _ in model.named_parameters()]
    assert "embed.tokens.weight" in names and not [name for name in names if "head" in name]
    assert model.head.embedding is model.embed.tokens
    model.embed.tokens.weight.data[:] = 0
    np.testing.assert_array_equal(model(token_ids(2, 5)).data, 0)
    twin = copy.deepcopy(model)
    assert twin.head.embedding is twin.embed.tokens


def test_number_of_parameters():
    vocabulary, size, layers, length = 50, 16, 3, 20
    model = gpt(vocabulary, size, layers, 4, length)
    block = 4 * (size * size + size) + 2 * 4 * size * size + 5 * size + 2 * 2 * size
    expected = (vocabulary + length) * size + layers * block + 2 * size
    assert sum(parameter.size for parameter in model.parameters()) == expected


def test_no_layers_is_a_table_of_pairs():
    model = gpt(num_layers=0, positions=None)
    assert model.blocks == []
    logits = model([[1, 2, 1]]).data
    np.testing.assert_allclose(logits[0, 0], logits[0, 2], atol=1e-6)


@every_kind
def test_gradients_reach_every_parameter(options):
    model = gpt(**options)
    ids = token_ids(4, 6)
    CrossEntropyLoss()(model(ids[:, :-1]).reshape(-1, 11), ids[:, 1:].reshape(-1)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("k_proj.bias"):  # it shifts all scores of a query alike
            assert np.abs(parameter.grad.data).max() > 1e-9, name


def test_gradients_of_the_whole_model_are_right():
    model = gpt(num_layers=1, max_seq_len=4)
    for parameter in model.parameters():
        parameter.data[...] = normal(*parameter.shape, seed=parameter.size) / 2
    ids = token_ids(2, 5)

    def loss():
        return CrossEntropyLoss()(model(ids[:, :-1]).reshape(-1, 11), ids[:, 1:].reshape(-1))

    loss().backward()
    for name, parameter in model.named_parameters():
        direction = normal(*parameter.shape, seed=1).astype(np.float32)
        expected, step = (parameter.grad.data * direction).sum(), 1e-2
        start, values = parameter.data.copy(), []
        for sign in (1, -1):
            parameter.data[...] = start + sign * step * direction
            values.append(float(loss().data))
        parameter.data[...] = start
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(expected, rel=3e-2, abs=3e-3), name


@pytest.mark.parametrize("options", [{}, {"positions": "rotary", "norm": RMSNorm}], ids=str)
def test_learns_a_text_by_heart(options):
    text = np.array([[1, 7, 3, 7, 3, 1, 9, 7, 0, 3, 9, 9, 2]])
    model = gpt(11, 32, 2, 4, 12, **options)
    optimizer, loss_of = Adam(model.parameters(), lr=1e-2), CrossEntropyLoss()
    for _ in range(80):
        loss = loss_of(model(text[:, :-1]).reshape(-1, 11), text[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    written = model.generate(text[0, :3], 10, greedy=True)
    assert written.tolist() == text[0].tolist()


def test_state_dict_round_trip():
    model = grow(gpt())
    manual_seed(1)
    other = gpt()
    ids = token_ids(2, 5)
    assert not np.allclose(other(ids).data, model(ids).data)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    np.testing.assert_array_equal(other(ids).data, model(ids).data)
    assert other.head.embedding.weight is other.embed.tokens.weight


def test_names_in_the_state_dict():
    names = list(gpt(num_layers=1).state_dict())
    block = [f"attention.{part}_proj.{kind}" for part in ("q", "k", "v", "out") for kind in "wb"]
    parts = ["norm1.w", "norm1.b", "norm2.w", "norm2.b", *block]
    parts += ["mlp.up.w", "mlp.up.b", "mlp.down.w", "mlp.down.b"]
    whole = {"w": "weight", "b": "bias"}
    expected = {"embed.tokens.weight", "embed.positions.weight", "head.embedding.weight"}
    expected |= {"norm.weight", "norm.bias"}
    expected |= {f"blocks.0.{part[:-1]}{whole[part[-1]]}" for part in parts}
    assert set(names) == expected
    extra = set(gpt(num_layers=1, positions="rotary").state_dict())
    assert extra == expected - {"embed.positions.weight"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "embed_dim=8 can't be divided by num_heads=3"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"num_heads": 0, "positions": "rotary"}, "num_heads=0"),
        ({"num_heads": 8, "positions": "rotary"}, "head_dim must be even, got 1"),
        ({"num_kv_heads": 3}, "num_kv_heads=3"),
        ({"num_layers": -1}, "num_layers must be at least 0, got -1"),
        ({"positions": "rotation"}, "'learned', 'sinusoidal', 'rotary', None.*got 'rotation'"),
        ({"vocab_size": 0}, "at least 1"),
        ({"max_seq_len": 0}, "at least 1"),
        ({"padding_idx": 11}, "padding_idx=11 with 11 ids"),
        ({"dropout": 1.5}, "1.5"),
    ],
)
def test_models_refuse(change, message):
    for build in (gpt, encoder):
        with pytest.raises(ValueError, match=message):
            build(**change)


def test_unknown_options_are_named():
    with pytest.raises(TypeError, match="num_kv_head'"):
        gpt(num_kv_head=1)


@every_kind
def test_too_long_and_unknown_ids(options):
    model = gpt(**options)
    if options.get("positions", "learned") is not None:
        with pytest.raises(ValueError, match="0 to 6 were asked for, but max_seq_len is 6"):
            model(token_ids(2, 7))
        with pytest.raises(ValueError, match="4 to 6 were asked for"):
            model(token_ids(2, 3), start=4)
    for wrong in (11, -1):
        with pytest.raises(IndexError, match=f"id {wrong} is not among 0 to 10"):
            model([[1, wrong]])
    with pytest.raises(IndexError, match="whole numbers"):
        model([[0.5]])


# --- the encoder ---
def test_encoder_reads_in_both_directions():
    model = grow(encoder())
    ids = token_ids(2, 6)
    before = model(ids).data
    assert before.shape == (2, 6, 8)
    for place in (0, 5):
        changed = ids.copy()
        changed[:, place] = (changed[:, place] + 1) % 11
        assert (np.abs(model(changed).data - before).max(axis=(0, 2)) > 1e-4).all()
    np.testing.assert_allclose(before.mean(axis=-1), 0, atol=1e-5)  # the last norm


@pytest.mark.parametrize("padding_idx", [0, 10, -1])
@pytest.mark.parametrize("block_size", [None, 2])
def test_padding_changes_nothing(padding_idx, block_size):
    model = grow(encoder(padding_idx=padding_idx, block_size=block_size))
    ids = 1 + token_ids(3, 4, below=9)
    alone = model(ids).data
    padded = np.concatenate([ids, np.full((3, 2), padding_idx % 11)], axis=1)
    out = model(padded).data
    np.testing.assert_allclose(out[:, :4], alone, atol=1e-4)
    np.testing.assert_allclose(model(padded[0]).data[:4], alone[0], atol=1e-4)
    assert np.isfinite(model(np.full((2, 3), padding_idx % 11)).data).all()
    plain = grow(encoder())
    padded_plain = plain(padded).data[:, :4]
    assert not np.allclose(padded_plain, plain(ids).data, atol=1e-3)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("axes", [2, 3, 4])
def test_padding_and_masks_together(added, axes):
    ids = np.array([[1, 2, 0, 3], [4, 0, 0, 5], [6, 7, 8, 9]])
    shape = {2: (4, 4), 3: (3, 4, 4), 4: (3, 2, 4, 4)}[axes]
    allowed = normal(*shape) > -0.5
    mask = np.where(allowed, 0.25, -np.inf).astype(np.float32) if added else allowed
    found = hide_padding(ids, 0, mask)
    assert found.dtype == mask.dtype
    for n in range(3):
        own = allowed if axes == 2 else allowed[n]
        expected = own & (ids[n] != 0)
        got = np.broadcast_to(found.data, (3, *found.shape[1:]))[n]
        got = got > -np.inf if added else got
        np.testing.assert_array_equal(np.broadcast_to(got, expected.shape), expected)
    if added:
        assert set(np.unique(found.data)) == {-np.inf, 0.25}
    model = grow(encoder(padding_idx=0))
    answer = model(ids, mask).data
    np.testing.assert_array_equal(model(ids, Tensor(mask)).data, answer)
    model.padding_idx = None
    np.testing.assert_array_equal(model(ids, found).data, answer)


def test_hide_padding_of_one_text():
    assert hide_padding([5, 0], 0).tolist() == [[True, False]]
    assert hide_padding(Tensor([[5, 0]]), 0).tolist() == [[[True, False]]]
    both = hide_padding([5, 0], 0, create_causal_mask(2))
    assert both.tolist() == [[True, False], [True, False]]


def test_encoder_takes_masks_without_padding():
    model = grow(encoder())
    ids = token_ids(2, 5)
    causal = model(ids, create_causal_mask(5)).data
    changed = ids.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    after = model(changed, create_causal_mask(5)).data
    np.testing.assert_array_equal(after[:, :4], causal[:, :4])


@pytest.mark.parametrize("padding_idx", [None, 0])
def test_encoder_refuses_masks(padding_idx):
    model = encoder(padding_idx=padding_idx)
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        model(token_ids(2, 5), np.ones((4, 4), bool))
    with pytest.raises(TypeError, match="expected a mask of booleans"):
        model(token_ids(2, 5), np.ones((5, 5), np.int64))


def test_gradients_reach_every_parameter_of_the_encoder():
    model = encoder(padding_idx=0)
    (model([[1, 2, 0, 0], [3, 4, 5, 6], [7, 8, 9, 10]]) * Tensor(normal(8))).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    assert not model.embed.tokens.weight.grad.data[0].any()
    assert model.embed.tokens.weight.grad.data[1:].any(axis=1).all()


# --- probabilities ---
def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.1, 1, 2.5, np.inf])
def test_temperature(temperature):
    logits = normal(4, 7)
    found = next_token_probabilities(logits, temperature)
    np.testing.assert_allclose(found, softmax(logits / temperature), atol=1e-12)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(logits, normal(4, 7))


def test_as_cold_as_you_like():
    found = next_token_probabilities([[1.0, 3.0, 2.0], [1e30, 0.0, -1e30]], temperature=1e-30)
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 0, 0]])
    found = next_token_probabilities([[2.0, -np.inf, 2.0]], temperature=0.5)
    np.testing.assert_array_equal(found, [[0.5, 0, 0.5]])


@pytest.mark.parametrize("k", [1, 2, 5, 7, 100])
def test_top_k(k):
    logits = normal(4, 7)
    found = next_token_probabilities(logits, temperature=0.7, top_k=k)
    for row, got in zip(logits, found, strict=True):
        kept = sorted(range(7), key=lambda i, row=row: -row[i])[:k]
        expected = np.zeros(7)
        expected[kept] = softmax(row[kept] / 0.7)
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_top_k_of_equals_keeps_exactly_k():
    assert np.count_nonzero(next_token_probabilities(np.zeros((1, 9)), top_k=4)) == 4
    assert keep_top_k(np.zeros((1, 4)), 2).tolist() == [[0, 0, -np.inf, -np.inf]]


@pytest.mark.parametrize("p", [1e-9, 0.2, 0.5, 0.9, 0.999])
def test_top_p(p):
    logits = 2 * normal(5, 9)
    found = next_token_probabilities(logits, top_p=p)
    for row, got in zip(softmax(logits), found, strict=True):
        kept, held = [], 0.0
        for i in sorted(range(9), key=lambda i, row=row: -row[i]):
            if held >= p:
                break
            kept.append(i)
            held += row[i]
        expected = np.zeros(9)
        expected[kept] = row[kept] / held
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_top_p_at_its_edges():
    quarters = np.array([[0.25, 0.5, 0.125, 0.125]])
    assert keep_top_p(quarters, 0.5).tolist() == [[0, 1, 0, 0]]
    np.testing.assert_allclose(keep_top_p(quarters, 0.51), [[1 / 3, 2 / 3, 0, 0]])
    np.testing.assert_allclose(keep_top_p(quarters, 0.8), [[2 / 7, 4 / 7, 1 / 7, 0]])
    certain = next_token_probabilities([[100.0, 0.0, 0.0]], top_p=0.1)
    assert certain.tolist() == [[1, 0, 0]]
    all_of_it = next_token_probabilities([[0.0, -60.0, -700.0]], top_p=1)
    assert (all_of_it > 0).all()  # even those that no sum in float64 notices
    np.testing.assert_array_equal(quarters, [[0.25, 0.5, 0.125, 0.125]])


def test_top_k_comes_before_top_p():
    logits = np.log([[0.4, 0.3, 0.2, 0.1]])
    np.testing.assert_allclose(
        next_token_probabilities(logits, top_k=2, top_p=0.7), [[4 / 7, 3 / 7, 0, 0]]
    )
    np.testing.assert_allclose(next_token_probabilities(logits, top_k=2, top_p=0.5), [[1, 0, 0, 0]])


def test_top_p_counts_what_the_temperature_has_made():
    first = 1 / (1 + np.exp(-1))
    found = next_token_probabilities([[8.0, 4.0, 0.0]], temperature=4.0, top_p=0.7)
    np.testing.assert_allclose(found, [[first, 1 - first, 0]])


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 3, 5)])
def test_probabilities_of_other_shapes(shape):
    found = next_token_probabilities(Tensor(normal(*shape)), 0.5, 3, 0.8)
    assert found.shape == shape
    np.testing.assert_allclose(found.sum(axis=-1), 1)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_unusable_logits(wrong):
    for logits in ([[1.0, wrong]], [[0.0, 0.0], [wrong, wrong]]):
        with pytest.raises(ValueError, match="the logits hold NaN or infinity"):
            next_token_probabilities(logits)
    with pytest.raises(ValueError, match="NaN or infinity"):
        next_token_probabilities([[-np.inf, -np.inf]])


BAD_OPTIONS = [
    ({"temperature": 0}, "temperature must be positive, got 0; use greedy="),
    ({"temperature": -1.0}, "temperature must be positive"),
    ({"temperature": np.nan}, "temperature must be positive"),
    ({"top_k": 0}, "top_k must be at least 1, got 0"),
    ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
    ({"top_p": 1.1}, "top_p must be"),
    ({"top_p": np.nan}, "top_p must be"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_options_out_of_range(options, message):
    for ask in (
        lambda: next_token_probabilities([[0.0, 1.0]], **options),
        lambda: gpt().generate([1], 2, **options),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


# --- drawing ---
def test_tokens_come_as_often_as_they_should():
    probabilities = np.array([0.1, 0.0, 0.6, 0.3, 0.0])
    drawn = pick_tokens(np.tile(probabilities, (20_000, 1)), np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=5) / 20_000
    assert shares[1] == shares[4] == 0
    assert drawn.shape == (20_000,)
    error = np.sqrt(probabilities * (1 - probabilities) / 20_000)
    assert (np.abs(shares - probabilities) <= 5 * error).all()


class Height:
    """A generator that always draws the same."""

    def __init__(self, height):
        self.height = height

    def random(self, shape):
        return np.full(shape, self.height)


@pytest.mark.parametrize(
    ("height", "expected"), [(0.0, 1), (0.249, 1), (0.25, 3), (0.999, 3), (1 - 2**-53, 3)]
)
def test_no_token_of_probability_0(height, expected):
    probabilities = np.array([[0.0, 0.25, 0.0, 0.75, 0.0]])
    assert pick_tokens(probabilities, Height(height)).tolist() == [expected]
    thirds = np.array([[0.1] * 10 + [0.0]])
    thirds /= thirds.sum()
    assert pick_tokens(thirds, Height(height))[0] < 10


def test_heights_end_where_the_sum_ends():
    assert pick_tokens(np.array([[0.5, 0.25, 0.0]]), Height(0.99)).tolist() == [1]


def test_rows_are_drawn_by_themselves():
    certain = np.eye(5)[[3, 0, 4]]
    assert pick_tokens(certain, np.random.default_rng(0)).tolist() == [3, 0, 4]
    even = np.full((1000, 2), 0.5)
    drawn = pick_tokens(even, np.random.default_rng(0))
    assert 400 < drawn.sum() < 600


# --- generate ---
class Counter(Module):
    """Says that after n comes n + 1, surely; counts what it is asked."""

    def __init__(self, vocab_size=10, max_seq_len=4):
        self.vocab_size, self.max_seq_len, self.asked = vocab_size, max_seq_len, []

    def forward(self, ids):
        self.asked.append((np.array(ids), self.training))
        return Tensor(100 * np.eye(self.vocab_size)[(np.asarray(ids) + 1) % self.vocab_size])


def test_generate_goes_on():
    assert generate(Counter(), [3], 4).tolist() == [3, 4, 5, 6, 7]
    assert generate(Counter(), [[3], [8]], 3).tolist() == [[3, 4, 5, 6], [8, 9, 0, 1]]
    out = generate(Counter(), Tensor([1.0, 2.0]), 0)
    assert out.tolist() == [1, 2] and out.dtype == np.int64
    assert generate(Counter(), np.zeros((0, 2), int), 3).shape[0] == 0


def test_the_model_sees_the_last_tokens():
    model = Counter(max_seq_len=4)
    generate(model, [1, 2, 3], 4)
    seen = [ids[0].tolist() for ids, _ in model.asked]
    assert seen == [[1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]
    generate(model, [0] * 9, 1)
    assert model.asked[-1][0].tolist() == [[0] * 4]


def test_stop_tokens():
    for stop in ([5], {5}, (5, 9), np.array([5]), 5):
        assert generate(Counter(), [3], 9, stop_tokens=stop).tolist() == [3, 4, 5]
    rows = generate(Counter(), [[3], [1], [5]], 4, stop_tokens=[5]).tolist()
    assert rows == [[3, 4, 5, 5, 5], [1, 2, 3, 4, 5], [5, 6, 7, 8, 9]]
    model = Counter()
    generate(model, [[3], [2]], 100, stop_tokens=[5])
    assert len(model.asked) == 3
    with pytest.raises(TypeError):
        generate(Counter(), [3], 2, stop_tokens=None)


def test_modes_come_back():
    model = Counter()
    model.part = Dropout(0.5)
    for mode in (True, False):
        model.train(mode)
        model.part.training = not mode
        generate(model, [1], 2)
        assert model.training is mode and model.part.training is not mode
        assert not any(training for _, training in model.asked)
    model.train()
    model.forward = lambda ids: 1 / 0
    with pytest.raises(ZeroDivisionError):
        generate(model, [1], 2)
    assert model.training


def test_modes_come_back_after_nan():
    model = gpt().train()
    model.norm.weight.data[:] = np.nan
    for greedy in (True, False):
        with pytest.raises(ValueError, match="the logits hold NaN"):
            model.generate([1], 2, greedy=greedy)
    assert all(part.training for part in model.modules() if isinstance(part, Module))


@every_kind
def test_greedy_is_a_loop_of_argmax(options):
    model = grow(gpt(**options)).eval()
    text = [1, 2]
    for _ in range(12):
        text.append(int(model([text[-6:]]).data[0, -1].argmax()))
    for ignored in ({}, {"temperature": 9.0}, {"top_p": 0.1, "seed": 1}, {"temperature": 1e20}):
        assert model.generate([1, 2], 12, greedy=True, **ignored).tolist() == text


def test_generate_draws_from_the_probabilities():
    model = grow(gpt()).eval()
    options = {"temperature": 0.8, "top_k": 6, "top_p": 0.9}
    expected = next_token_probabilities(model([[1, 2]]).data[:, -1], **options)[0]
    assert 1 < np.count_nonzero(expected) < 6
    drawn = model.generate(np.tile([1, 2], (4000, 1)), 1, seed=0, **options).data[:, 2]
    shares = np.bincount(drawn, minlength=11) / 4000
    assert (shares[expected == 0] == 0).all()
    assert (np.abs(shares - expected) <= 5 * np.sqrt(expected / 4000)).all()


def test_seeds():
    model = gpt()
    first = model.generate([1], 30, seed=5).tolist()
    assert model.generate([1], 30, seed=5).tolist() == first
    assert model.generate([1], 30, seed=6).tolist() != first
    manual_seed(3)
    unseeded = model.generate([1], 30).tolist()
    assert model.generate([1], 30).tolist() != unseeded
    manual_seed(3)
    model.generate([1], 30, seed=5)  # leaves the framework's own numbers alone
    assert model.generate([1], 30).tolist() == unseeded


def test_generate_records_nothing_and_changes_nothing():
    model = gpt(dropout=0.5)
    before = copy.deepcopy(model.state_dict())
    prompt = np.array([[1, 2], [3, 4]])
    out = model.generate(prompt, 3, seed=0)
    assert not out.requires_grad and out.shape == (2, 5)
    np.testing.assert_array_equal(prompt, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(out.data[:, :2], prompt)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, before[name].data)
    assert model(prompt).requires_grad
    np.testing.assert_array_equal(model.generate(prompt, 3, seed=0).data, out.data)


@pytest.mark.parametrize("options", [{}, {"positions": "rotary"}], ids=str)
def test_prompts_longer_than_the_context(options):
    model = grow(gpt(**options))
    prompt = token_ids(15)
    out = model.generate(prompt, 8, greedy=True)
    assert out.tolist()[:15] == prompt.tolist() and out.shape == (23,)
    assert out.data[15] == model([prompt[-6:]]).data[0, -1].argmax()


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([], ValueError, r"at least one token, got shape \(0,\)"),
        ([[], []], ValueError, "at least one token"),
        (3, ValueError, r"got shape \(\)"),
        ("hello", ValueError, r"got shape \(\)"),
        ([[[1]]], ValueError, r"got shape \(1, 1, 1\)"),
        ([[1], [2, 3]], ValueError, "must have one length"),
        ([11], IndexError, "id 11 is not among 0 to 10"),
        ([-1], IndexError, "id -1"),
        ([0.5], IndexError, "whole numbers"),
        ([True], TypeError, "whole numbers"),
        (["a"], TypeError, "whole numbers"),
    ],
)
def test_prompts_that_are_none(ids, error, message):
    with pytest.raises(error, match=message):
        gpt().generate(ids, 2)


def test_a_negative_number_of_tokens():
    with pytest.raises(ValueError, match="max_new_tokens must be at least 0, got -1"):
        gpt().generate([1], -1)


def test_parts_are_found_by_type():
    model = gpt(num_layers=3)
    kinds = [type(part) for part in model.modules()]
    assert kinds.count(TransformerBlock) == 3 and kinds.count(Embedding) == 1
    assert kinds.count(Linear) == 3 * 6 and kinds.count(LayerNorm) == 7

"""Transformers against PyTorch with the same weights: logits, losses, gradients, steps of Adam."""

import math

import numpy as np
import pytest

from tinytorch import nn
from tinytorch.core.optimizers import Adam
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.models.transformer import (
    create_causal_mask,
    layer_norm,
    next_token_probabilities,
    rms_norm,
)

torch = pytest.importorskip("torch", reason="compares with PyTorch")
functional = torch.nn.functional

random = np.random.default_rng(0)
VOCABULARY, SIZE, LAYERS, HEADS, LENGTH = 29, 32, 3, 4, 24
OPTIONS = [
    {},
    {"norm": nn.RMSNorm, "bias": False, "num_kv_heads": 2, "positions": "rotary", "mlp_dim": 48},
    {"positions": "sinusoidal", "block_size": 8, "num_kv_heads": 1},
]
every_model = pytest.mark.parametrize("options", OPTIONS, ids=["gpt-2", "llama-like", "blocked"])


# --- norms ---
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 64), (300, 200), (0, 5)])
@pytest.mark.parametrize("given", ["nothing", "weight", "weight and bias"])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_norms_and_their_gradients(shape, given, eps):
    size = shape[-1]
    arrays = [2 + random.standard_normal(shape), *random.standard_normal((2, size))]
    arrays = arrays[: {"nothing": 1, "weight": 2, "weight and bias": 3}[given]]
    pairs = [(layer_norm, functional.layer_norm)]
    if len(arrays) < 3:
        pairs.append((rms_norm, functional.rms_norm))
    for ours_of, theirs_of in pairs:
        ours = [Tensor(array, requires_grad=True) for array in arrays]
        theirs = [torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in arrays]
        out = ours_of(*ours, eps=eps)
        expected = theirs_of(theirs[0], (size,), *theirs[1:], eps=eps)
        np.testing.assert_allclose(out.data, expected.detach().numpy(), rtol=1e-5, atol=1e-5)
        g = random.standard_normal(shape).astype(np.float32)
        out.backward(g)
        expected.backward(torch.tensor(g))
        for a, b in zip(ours, theirs, strict=True):
            scale = max(1.0, float(np.abs(b.grad.numpy()).max(initial=0)))
            np.testing.assert_allclose(a.grad.data, b.grad.numpy(), atol=2e-6 * scale, rtol=1e-5)


def test_norms_far_from_zero():
    """Numbers around 1,000 that differ by about 1: what float32 leaves of them, PyTorch leaves."""
    x = (1000 + random.standard_normal((50, 64))).astype(np.float32)
    for ours_of, theirs_of in [
        (layer_norm, functional.layer_norm),
        (rms_norm, functional.rms_norm),
    ]:
        exact = theirs_of(torch.tensor(x, dtype=torch.float64), (64,), eps=1e-5).numpy()
        np.testing.assert_allclose(ours_of(Tensor(x), eps=1e-5).data, exact, atol=3e-4)


def test_norm_layers_look_like_pytorchs():
    for arguments in ((7,), (7, 1e-3)):
        ours, theirs = nn.LayerNorm(*arguments), torch.nn.LayerNorm(*arguments)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert ours.eps == theirs.eps
        for name, tensor in theirs.state_dict().items():
            np.testing.assert_array_equal(ours.state_dict()[name].data, tensor.numpy())
    assert list(nn.RMSNorm(7).state_dict()) == list(torch.nn.RMSNorm(7).state_dict())


# --- a GPT, written in PyTorch's words, over a dict of weights named as ours are ---
def torch_norm(x, weights, name, options):
    if options.get("norm") is nn.RMSNorm:
        return functional.rms_norm(x, x.shape[-1:], weights[f"{name}.weight"], 1e-6)
    return functional.layer_norm(
        x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"]
    )


def torch_linear(x, weights, name):
    y = x @ weights[f"{name}.weight"]
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def torch_rotate(x):
    half = x.shape[-1] // 2
    speeds = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64), speeds)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def torch_attention(x, weights, name, options):
    def heads(part):
        y = torch_linear(x, weights, f"{name}.{part}_proj")
        return y.unflatten(-1, (-1, SIZE // HEADS)).transpose(1, 2)

    q, k, v = heads("q"), heads("k"), heads("v")
    if options.get("positions") == "rotary":
        q, k = torch_rotate(q), torch_rotate(k)
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return torch_linear(mixed.transpose(1, 2).flatten(2), weights, f"{name}.out_proj")


def torch_positions(length, options):
    if options.get("positions") != "sinusoidal":
        return 0
    speeds = 10_000.0 ** (-torch.arange(0, SIZE, 2, dtype=torch.float64) / SIZE)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), speeds)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


def torch_gpt(ids, weights, options):
    x = functional.embedding(ids, weights["embed.tokens.weight"])
    x = x + torch_positions(ids.shape[1], options)
    if "embed.positions.weight" in weights:
        x = x + weights["embed.positions.weight"][: ids.shape[1]]
    for i in range(LAYERS):
        block = f"blocks.{i}"
        normal = torch_norm(x, weights, f"{block}.norm1", options)
        x = x + torch_attention(normal, weights, f"{block}.attention", options)
        up = torch_linear(
            torch_norm(x, weights, f"{block}.norm2", options), weights, f"{block}.mlp.up"
        )
        x = x + torch_linear(functional.gelu(up, approximate="tanh"), weights, f"{block}.mlp.down")
    return torch_norm(x, weights, "norm", options) @ weights["embed.tokens.weight"].T


def pair_of_gpts(options, scale=1.0):
    """Our GPT, and the same weights for PyTorch's."""
    manual_seed(0)
    model = nn.GPT(VOCABULARY, SIZE, LAYERS, HEADS, LENGTH, **options)
    for name, parameter in model.named_parameters():  # no weight is 0 or 1 by luck
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        noise = random.standard_normal(parameter.shape)
        parameter.data[...] = centre + scale * noise / math.sqrt(SIZE)
    weights = {
        name: torch.tensor(parameter.data.copy(), requires_grad=True)
        for name, parameter in model.named_parameters()
    }
    return model, weights


def losses(model, weights, ids, options):
    """Logits and mean cross-entropy of the next token, ours and PyTorch's."""
    logits = model(ids[:, :-1])
    loss = nn.CrossEntropyLoss()(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))
    text = torch.tensor(ids)
    expected = torch_gpt(text[:, :-1], weights, options)
    peer = functional.cross_entropy(expected.reshape(-1, VOCABULARY), text[:, 1:].reshape(-1))
    return logits, loss, expected, peer


@every_model
def test_logits_loss_and_every_gradient(options):
    model, weights = pair_of_gpts(options)
    ids = random.integers(0, VOCABULARY, (4, LENGTH + 1))
    logits, loss, expected, peer = losses(model, weights, ids, options)
    scale = float(expected.detach().abs().max())
    np.testing.assert_allclose(logits.data, expected.detach().numpy(), atol=1e-5 * max(1, scale))
    assert loss.item() == pytest.approx(peer.item(), abs=1e-5)
    loss.backward()
    peer.backward()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(
            parameter.grad.data, weights[name].grad.numpy(), atol=1e-5, rtol=1e-4, err_msg=name
        )


def test_logits_of_a_new_model_to_the_digit():
    """With the weights that a GPT starts with: 1e-5 in the logits."""
    manual_seed(0)
    model = nn.GPT(VOCABULARY, SIZE, LAYERS, HEADS, LENGTH)
    weights = {name: torch.tensor(p.data) for name, p in model.named_parameters()}
    ids = random.integers(0, VOCABULARY, (4, LENGTH))
    expected = torch_gpt(torch.tensor(ids), weights, {}).numpy()
    np.testing.assert_allclose(model(ids).data, expected, atol=1e-5)


@every_model
def test_steps_of_adam_side_by_side(options):
    model, weights = pair_of_gpts(options, scale=0.5)
    optimizer = Adam(model.parameters(), lr=1e-3, eps=1e-6)
    peer_optimizer = torch.optim.Adam(weights.values(), lr=1e-3, eps=1e-6)
    ids = random.integers(0, VOCABULARY, (4, LENGTH + 1))
    seen = []
    for _ in range(12):
        _, loss, _, peer = losses(model, weights, ids, options)
        optimizer.zero_grad()
        peer_optimizer.zero_grad()
        loss.backward()
        peer.backward()
        optimizer.step()
        peer_optimizer.step()
        seen.append((loss.item(), peer.item()))
    ours, theirs = np.transpose(seen)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert ours[-1] < ours[0] - 0.2
    for name, parameter in model.named_parameters():
        if name.endswith("k_proj.bias"):  # its gradient is rounding alone, which Adam enlarges
            continue
        difference = parameter.data - weights[name].detach().numpy()
        assert np.abs(difference).max() < 1e-3, name  # a twelfth of the way that Adam can go


# --- the encoder ---
def torch_encoder(model):
    """torch.nn.TransformerEncoder with our weights, for embedded tokens."""
    layer = torch.nn.TransformerEncoderLayer(
        SIZE,
        HEADS,
        dim_feedforward=4 * SIZE,
        dropout=0.0,
        activation=lambda x: functional.gelu(x, approximate="tanh"),
        batch_first=True,
        norm_first=True,
    )
    theirs = torch.nn.TransformerEncoder(
        layer, LAYERS, norm=torch.nn.LayerNorm(SIZE), enable_nested_tensor=False
    )
    for block, peer in zip(model.blocks, theirs.layers, strict=True):
        attention = block.attention
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        values = {
            "self_attn.in_proj_weight": np.concatenate([part.weight.data.T for part in parts]),
            "self_attn.in_proj_bias": np.concatenate([part.bias.data for part in parts]),
        }
        pairs = [("self_attn.out_proj", attention.out_proj), ("linear1", block.mlp.up)]
        for name, linear in [*pairs, ("linear2", block.mlp.down)]:
            values |= {f"{name}.weight": linear.weight.data.T, f"{name}.bias": linear.bias.data}
        for name, norm in [("norm1", block.norm1), ("norm2", block.norm2)]:
            values |= {f"{name}.weight": norm.weight.data, f"{name}.bias": norm.bias.data}
        peer.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return theirs


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_encoder(causal, padded):
    manual_seed(0)
    padding_idx = 0 if padded else None
    model = nn.TransformerEncoder(VOCABULARY, SIZE, LAYERS, HEADS, LENGTH, padding_idx=padding_idx)
    for name, parameter in model.named_parameters():
        if name.startswith("blocks"):
            parameter.data[...] += random.standard_normal(parameter.shape) / math.sqrt(SIZE)
    ids = random.integers(1, VOCABULARY, (3, LENGTH))
    if padded:
        ids[0, 10:], ids[1, 3:] = 0, 0
    theirs = torch_encoder(model)
    embedded = torch.tensor(model.embed(ids).data, requires_grad=True)
    mask = create_causal_mask(LENGTH) if causal else None
    hidden = torch.tensor(~mask.data) if causal else None
    expected = theirs(
        embedded, mask=hidden, src_key_padding_mask=torch.tensor(ids == 0) if padded else None
    )
    out = model(ids, mask)
    real = ids != 0
    np.testing.assert_allclose(out.data[real], expected.detach().numpy()[real], atol=2e-5)
    g = random.standard_normal(out.shape).astype(np.float32) * real[..., None]
    out.backward(g)
    expected.backward(torch.tensor(g))
    pairs = [
        (model.norm.weight, theirs.norm.weight),
        (model.blocks[0].mlp.up.bias, theirs.layers[0].linear1.bias),
        (model.blocks[0].norm1.weight, theirs.layers[0].norm1.weight),
        (model.blocks[2].attention.out_proj.bias, theirs.layers[2].self_attn.out_proj.bias),
    ]
    for ours, peer in pairs:
        np.testing.assert_allclose(ours.grad.data, peer.grad.numpy(), rtol=1e-3, atol=2e-4)
    positions = embedded.grad.numpy().sum(axis=0)
    np.testing.assert_allclose(
        model.embed.positions.weight.grad.data, positions, rtol=1e-3, atol=2e-4
    )


# --- sampling ---
def hugging_face_top_p(logits, p):
    """TopPLogitsWarper: ascending order, and what lies in the lowest 1 - p of the sum goes."""
    ascending, order = torch.sort(logits, descending=False)
    low = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    low[..., -1:] = False
    return logits.masked_fill(low.scatter(1, order, low), -torch.inf)


def hugging_face_top_k(logits, k):
    """TopKLogitsWarper."""
    least = torch.topk(logits, k)[0][..., -1, None]
    return logits.masked_fill(logits < least, -torch.inf)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 1, 20])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.6, 0.95])
def test_probabilities_as_in_hugging_face(temperature, top_k, top_p):
    logits = 3 * random.standard_normal((64, 50))
    expected = torch.tensor(logits) / temperature
    if top_k is not None:
        expected = hugging_face_top_k(expected, top_k)
    if top_p is not None:
        expected = hugging_face_top_p(expected, top_p)
    found = next_token_probabilities(logits, temperature, top_k, top_p)
    np.testing.assert_allclose(found, expected.softmax(dim=-1).numpy(), atol=1e-12)

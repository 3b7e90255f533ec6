"""Embeddings and positions against PyTorch: values, gradients, the start, the representation."""

import numpy as np
import pytest

from tinytorch import nn
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.text.embeddings import embedding, rotate_pairs, sinusoidal_positions

torch = pytest.importorskip("torch", reason="compares with PyTorch")

random = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(), (6,), (4, 5), (0, 3), (2, 3, 4)])
@pytest.mark.parametrize("padding_idx", [None, 0, 9])
def test_embedding_and_its_gradients(shape, padding_idx):
    ids = random.integers(0, 10, shape)
    weight = random.standard_normal((10, 7)).astype(np.float32)
    ours = Tensor(weight, requires_grad=True)
    theirs = torch.tensor(weight, requires_grad=True)
    out = embedding(ids, ours, padding_idx=padding_idx)
    expected = torch.nn.functional.embedding(torch.tensor(ids), theirs, padding_idx)
    np.testing.assert_array_equal(out.data, expected.detach().numpy())
    (out * out).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(ours.grad.data, theirs.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_many_ids_in_a_few_rows():
    ids = random.integers(0, 3, 5000)
    g = random.standard_normal((5000, 8)).astype(np.float32)
    ours = Tensor(np.zeros((3, 8)), requires_grad=True)
    theirs = torch.zeros(3, 8, requires_grad=True)
    embedding(ids, ours).backward(g)
    torch.nn.functional.embedding(torch.tensor(ids), theirs).backward(torch.tensor(g))
    np.testing.assert_allclose(ours.grad.data, theirs.grad.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arguments", [(10, 3), (10, 3, 2), (10, 3, -1)])
def test_the_layer_looks_and_starts_like_pytorchs(arguments):
    ours, theirs = nn.Embedding(*arguments), torch.nn.Embedding(*arguments)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.padding_idx == theirs.padding_idx
    zeros = (theirs.weight == 0).all(dim=1).numpy()
    np.testing.assert_array_equal((ours.weight.data == 0).all(axis=1), zeros)


def test_the_start_has_pytorchs_distribution():
    manual_seed(0)
    torch.manual_seed(0)
    ours = nn.Embedding(500, 200).weight.data.ravel()
    theirs = torch.nn.Embedding(500, 200).weight.detach().numpy().ravel()
    grid = np.linspace(0.01, 0.99, 21)
    np.testing.assert_allclose(np.quantile(ours, grid), np.quantile(theirs, grid), atol=0.03)


@pytest.mark.parametrize("freeze", [True, False])
def test_from_pretrained(freeze):
    weight = random.standard_normal((5, 3)).astype(np.float32)
    ours = nn.Embedding.from_pretrained(weight, freeze=freeze)
    theirs = torch.nn.Embedding.from_pretrained(torch.tensor(weight), freeze=freeze)
    assert ours.weight.requires_grad == theirs.weight.requires_grad
    ids = [[4, 0]]
    np.testing.assert_array_equal(ours(ids).data, theirs(torch.tensor(ids)).detach().numpy())


@pytest.mark.parametrize("dim", [2, 16, 128])
def test_sinusoidal_positions(dim):
    """The code of PyTorch's own tutorial on transformers, in float64."""
    position = torch.arange(200, dtype=torch.float64).unsqueeze(1)
    steps = torch.arange(0, dim, 2, dtype=torch.float64)
    speeds = torch.exp(steps * (-np.log(10_000.0) / dim))
    expected = torch.zeros(200, dim, dtype=torch.float64)
    expected[:, 0::2], expected[:, 1::2] = (
        torch.sin(position * speeds),
        torch.cos(position * speeds),
    )
    np.testing.assert_allclose(sinusoidal_positions(200, dim).data, expected.numpy(), atol=1e-6)


def test_rotation_and_its_gradient_as_complex_numbers():
    rotary = nn.RotaryPositions(16, 40)
    x = random.standard_normal((2, 3, 10, 16)).astype(np.float32)
    ours = Tensor(x, requires_grad=True)
    theirs = torch.tensor(x, requires_grad=True)
    out = rotary(ours, start=25)
    times = torch.arange(25, 35, dtype=torch.float64)
    angles = torch.outer(times, 10_000.0 ** (-torch.arange(8, dtype=torch.float64) / 8))
    turns = torch.polar(torch.ones_like(angles), angles)
    turned = torch.complex(theirs[..., :8], theirs[..., 8:]) * turns
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    np.testing.assert_allclose(out.data, expected.detach().numpy(), atol=1e-5)
    (out * out * out).sum().backward()
    (expected**3).sum().backward()
    np.testing.assert_allclose(ours.grad.data, theirs.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_rotation_learns_its_angles_as_pytorch_would():
    arrays = [random.standard_normal(shape) for shape in [(2, 5, 6), (5, 3), (5, 3)]]
    ours = [Tensor(a, requires_grad=True, dtype=np.float64) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = rotate_pairs(*ours)
    x, cos, sin = theirs
    first, second = x.chunk(2, dim=-1)
    expected = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    (out * out * out).sum().backward()
    (expected**3).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-10, atol=1e-10)


def test_tied_weights_learn_like_pytorchs():
    weight = random.standard_normal((11, 4)).astype(np.float32)
    ids, targets = random.integers(0, 11, (3, 5)), random.integers(0, 11, (3, 5))
    tokens = nn.Embedding.from_pretrained(weight, freeze=False)
    scores = nn.TiedLinear(tokens)(tokens(ids))
    loss = nn.CrossEntropyLoss()(scores.reshape(-1, 11), targets.reshape(-1))
    loss.backward()
    theirs = torch.tensor(weight, requires_grad=True)
    x = torch.nn.functional.embedding(torch.tensor(ids), theirs)
    expected = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(x, theirs).reshape(-1, 11), torch.tensor(targets.reshape(-1))
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(tokens.weight.grad.data, theirs.grad.numpy(), rtol=1e-4, atol=1e-5)

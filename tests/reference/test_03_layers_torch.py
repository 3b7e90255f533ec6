"""Layers against PyTorch: values, names, the tree as text, the start of the weights."""

import numpy as np
import pytest

from tinytorch import nn
from tinytorch.core.layers import linear
from tinytorch.core.tensor import Tensor, manual_seed

torch = pytest.importorskip("torch", reason="compares with PyTorch")

random = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_linear_and_its_gradients(shape):
    arrays = [random.standard_normal(s).astype(np.float32) for s in (shape, (3, 4), (4,))]
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = linear(*ours)
    z = torch.nn.functional.linear(theirs[0], theirs[1].T, theirs[2])
    np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=1e-5, atol=1e-6)
    (y * y).sum().backward()
    (z * z).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-4, atol=1e-5)


def build(module):
    inner = module.Sequential(module.Dropout(0.25), module.Flatten(), module.Identity())
    return module.Sequential(module.Linear(6, 5), inner, module.Linear(5, 2, bias=False))


def test_names_and_tree_are_pytorchs():
    ours, theirs = build(nn), build(torch.nn)
    assert repr(ours) == repr(theirs).replace(", inplace=False", "")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name in ("named_parameters", "named_modules", "named_children", "named_buffers"):
        assert [key for key, _ in getattr(ours, name)()] == [
            key for key, _ in getattr(theirs, name)()
        ]


def test_pytorchs_weights_fit_once_transposed():
    ours, theirs = build(nn).eval(), build(torch.nn).eval()
    ours.load_state_dict({name: t.numpy().T for name, t in theirs.state_dict().items()})
    x = random.standard_normal((7, 6)).astype(np.float32)
    expected = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(Tensor(x)).data, expected, rtol=1e-5, atol=1e-6)


def test_linear_starts_like_pytorchs():
    manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = nn.Linear(50, 4000), torch.nn.Linear(50, 4000)
    grid = np.linspace(0, 1, 21)
    for name in ("weight", "bias"):
        a = getattr(ours, name).data.ravel()
        b = getattr(theirs, name).detach().numpy().ravel()
        np.testing.assert_allclose(np.quantile(a, grid), np.quantile(b, grid), atol=0.01)
        assert np.abs(a).max() <= np.float32(1 / np.sqrt(50))


def test_dropout_has_pytorchs_statistics():
    manual_seed(0)
    torch.manual_seed(0)
    ours = nn.Dropout(0.3)(Tensor(np.ones(100_000))).data
    theirs = torch.nn.Dropout(0.3)(torch.ones(100_000)).numpy()
    np.testing.assert_allclose(np.unique(ours), np.unique(theirs), rtol=1e-6)
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.01)

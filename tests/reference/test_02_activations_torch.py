"""Activations against PyTorch: values and gradients, float32 and float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference tests compare with PyTorch")

from tinytorch.core import activations, autograd  # noqa: E402
from tinytorch.core.tensor import Tensor  # noqa: E402

F = torch.nn.functional
CASES = {
    "relu": (activations.relu, F.relu),
    "leaky_relu": (activations.leaky_relu, F.leaky_relu),
    "leaky_relu, slope 2": (
        lambda x: activations.leaky_relu(x, negative_slope=2.0),
        lambda x: F.leaky_relu(x, 2.0),
    ),
    "sigmoid": (activations.sigmoid, F.sigmoid),
    "silu": (activations.silu, F.silu),
    "gelu": (activations.gelu, lambda x: F.gelu(x, approximate="tanh")),
    "softmax": (activations.softmax, lambda x: F.softmax(x, -1)),
    "softmax, axis 0": (lambda x: activations.softmax(x, axis=0), lambda x: F.softmax(x, 0)),
    "log_softmax": (activations.log_softmax, lambda x: F.log_softmax(x, -1)),
    "log_softmax, axis 1": (
        lambda x: activations.log_softmax(x, axis=1),
        lambda x: F.log_softmax(x, 1),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_value_and_gradient(name, dtype, scale):
    ours, theirs = CASES[name]
    random = np.random.default_rng(0)
    x = (scale * random.standard_normal((4, 5, 6))).astype(dtype)
    x[0, 0, :2] = 0
    weights = random.standard_normal(x.shape).astype(dtype)
    mine, reference = (
        Tensor(x, requires_grad=True, dtype=dtype),
        torch.tensor(x, requires_grad=True),
    )
    out, expected = ours(mine), theirs(reference)
    autograd.backward((out * Tensor(weights, dtype=dtype)).sum())
    (expected * torch.tensor(weights)).sum().backward()
    tolerance = 1e-12 if dtype == np.float64 else 3e-6
    np.testing.assert_allclose(
        out.data, expected.detach().numpy(), rtol=tolerance, atol=tolerance * scale
    )
    np.testing.assert_allclose(
        mine.grad.data, reference.grad.numpy(), rtol=tolerance, atol=tolerance * scale
    )


@pytest.mark.parametrize("name", CASES)
def test_extremes(name):
    ours, theirs = CASES[name]
    x = np.array([[-1e4, -90.0, -1e-30], [0.0, 90.0, 1e4]], np.float32)
    np.testing.assert_allclose(ours(Tensor(x)).data, theirs(torch.tensor(x)).numpy(), atol=1e-37)


LAYERS = [
    (activations.ReLU(), torch.nn.ReLU()),
    (activations.LeakyReLU(0.3), torch.nn.LeakyReLU(0.3)),
    (activations.Sigmoid(), torch.nn.Sigmoid()),
    (activations.Tanh(), torch.nn.Tanh()),
    (activations.SiLU(), torch.nn.SiLU()),
    (activations.GELU(), torch.nn.GELU(approximate="tanh")),
    (activations.Softmax(dim=1), torch.nn.Softmax(dim=1)),
    (activations.LogSoftmax(dim=0), torch.nn.LogSoftmax(dim=0)),
]


@pytest.mark.parametrize(("ours", "theirs"), LAYERS, ids=lambda layer: type(layer).__name__)
def test_layers(ours, theirs):
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    expected = theirs(torch.tensor(x)).numpy()
    np.testing.assert_allclose(ours(Tensor(x)).data, expected, rtol=1e-6, atol=1e-6)

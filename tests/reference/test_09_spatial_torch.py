"""Convolutions, poolings and normalisations of module 09 against PyTorch: values and gradients."""

import itertools

import numpy as np
import pytest

from tinytorch import nn
from tinytorch.core.tensor import Tensor, manual_seed

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

IMAGES, SEQUENCES, ROWS = (3, 4, 9, 8), (3, 4, 11), (6, 4)
MANY = (33, 4, 24, 24)  # more than one block of columns


def settings(**choices):
    """Every combination of the choices, as keywords."""
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


CONVOLUTIONS = [
    *settings(kernel_size=[1, 3, (2, 4)], stride=[1, 2], padding=[0, 2], groups=[1, 2]),
    *settings(kernel_size=[3], stride=[1, (3, 1)], dilation=[2, (1, 2)], padding=[(0, 3)]),
    *settings(kernel_size=[3, 4, (2, 5)], padding=["same"], dilation=[1, 2]),
    *settings(kernel_size=[3], padding=["valid"]),
]
TRANSPOSED = [
    *settings(kernel_size=[2, (3, 4)], stride=[1, 2], padding=[0, 1], groups=[1, 2]),
    *settings(kernel_size=[3], stride=[(2, 3)], output_padding=[1, (0, 2)], dilation=[1, 2]),
    *settings(kernel_size=[1], padding=[0, 1], bias=[False]),
]
POOLS = settings(kernel_size=[2, 3, (2, 3)], stride=[None, 1, (2, 1)], padding=[0, 1])
CASES = [
    *[("Conv2d", (4, 6), how, IMAGES) for how in CONVOLUTIONS],
    *[("Conv2d", (4, 8), dict(kernel_size=3, groups=4, bias=b), IMAGES) for b in (True, False)],
    ("Conv2d", (4, 6), dict(kernel_size=3, padding=1), MANY),
    ("Conv2d", (4, 6), dict(kernel_size=3, stride=2, groups=2), MANY),
    *[
        ("Conv1d", (4, 6), how, SEQUENCES)
        for how in (
            dict(kernel_size=3),
            dict(kernel_size=4, stride=2, padding=1, groups=2),
            dict(kernel_size=3, dilation=2, padding="same", bias=False),
        )
    ],
    *[("ConvTranspose2d", (4, 6), how, (2, 4, 5, 6)) for how in TRANSPOSED],
    ("ConvTranspose2d", (4, 6), dict(kernel_size=3, stride=2), MANY),
    *[(name, (), how, IMAGES) for how in POOLS for name in ("MaxPool2d", "AvgPool2d")],
    *[("AdaptiveAvgPool2d", (size,), {}, IMAGES) for size in (1, 3, (2, 5), (9, 8), (11, 3))],
    *[
        ("BatchNorm2d", (4,), how, IMAGES)
        for how in settings(eps=[1e-5, 0.1], affine=[True, False])
    ],
    *[("BatchNorm1d", (4,), dict(momentum=0.3), shape) for shape in (ROWS, SEQUENCES)],
    *[("GroupNorm", (groups, 4), {}, IMAGES) for groups in (1, 2, 4)],
    ("GroupNorm", (2, 4), dict(affine=False), ROWS),
    *[
        ("Upsample", (), dict(mode=mode, **how), IMAGES)
        for mode in ("nearest", "bilinear")
        for how in (dict(scale_factor=2), dict(size=(13, 5)), dict(size=4))
    ],
]


def pair(name, given, how):
    """Our layer, and PyTorch's with the same parameters."""
    manual_seed(0)
    ours, theirs = getattr(nn, name)(*given, **how), getattr(torch.nn, name)(*given, **how)
    theirs = theirs.double()
    for parameter, theirs_too in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert parameter.shape == tuple(theirs_too.shape)
        random = np.random.default_rng(parameter.size).standard_normal(parameter.shape)
        parameter.data = random
        theirs_too.data = torch.tensor(random)
    return ours, theirs


@pytest.mark.parametrize(("name", "given", "how", "shape"), CASES)
def test_values_and_every_gradient_equal_pytorch(name, given, how, shape):
    ours, theirs = pair(name, given, how)
    random = np.random.default_rng(0)
    points = random.standard_normal(shape)
    points.flat[::7] = points.flat[0]  # ties, which pooling must break as PyTorch does
    x, z = Tensor(points, True, np.float64), torch.tensor(points, requires_grad=True)
    for _ in range(2):  # twice: running statistics move, gradients add up
        y, expected = ours(x), theirs(z)
        np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-9)
        g = random.standard_normal(y.shape)
        y.backward(g)
        expected.backward(torch.tensor(g))
    np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=1e-9, atol=1e-9)
    for parameter, theirs_too in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(
            parameter.grad.numpy(), theirs_too.grad.numpy(), rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize(("name", "shape"), [("BatchNorm2d", IMAGES), ("BatchNorm1d", ROWS)])
def test_running_statistics_and_eval_mode_equal_pytorch(name, shape):
    ours, theirs = pair(name, (4,), {})
    random = np.random.default_rng(0)
    for _ in range(3):
        x = random.standard_normal(shape) * 3 + 1
        ours(Tensor(x, dtype=np.float64))
        theirs(torch.tensor(x))
    np.testing.assert_allclose(
        ours.running_mean.numpy(), theirs.running_mean.numpy(), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        ours.running_var.numpy(), theirs.running_var.numpy(), rtol=1e-5, atol=1e-5
    )
    ours.eval()
    theirs.eval()
    x, z = Tensor(x, True, np.float64), torch.tensor(x, requires_grad=True)
    y, expected = ours(x), theirs(z)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    y.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=1e-5, atol=1e-5)
    for parameter, theirs_too in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(
            parameter.grad.numpy(), theirs_too.grad.numpy(), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    ("how", "size"), [({}, (9, 8)), (dict(stride=2, padding=1, dilation=(1, 2)), (9, 8))]
)
def test_unfold_and_fold_equal_pytorch(how, size):
    from tinytorch.core.spatial import fold, unfold

    x = np.random.default_rng(0).standard_normal(IMAGES)
    columns = unfold(x, kernel_size=(3, 2), **how)
    library = torch.nn.functional
    expected = library.unfold(torch.tensor(x), kernel_size=(3, 2), **how)
    np.testing.assert_array_equal(columns, expected.numpy())
    back = library.fold(expected, size, kernel_size=(3, 2), **how)
    np.testing.assert_allclose(fold(columns, size=size, kernel_size=(3, 2), **how), back.numpy())


def test_a_loss_through_every_layer_reaches_each_parameter_as_in_pytorch():
    """One network of all layers: no gradient is cut anywhere."""

    def build(library):
        return library.Sequential(
            library.Conv2d(1, 4, 3, padding="same", bias=False),
            library.BatchNorm2d(4),
            library.ReLU(),
            library.MaxPool2d(2),
            library.Conv2d(4, 8, 3, stride=2, padding=1, groups=2),
            library.GroupNorm(2, 8),
            library.AvgPool2d(2),
            library.ConvTranspose2d(8, 4, 2, stride=2),
            library.Upsample(scale_factor=2, mode="bilinear"),
            library.Conv2d(4, 4, 3, dilation=2, padding=2),
            library.AdaptiveAvgPool2d((2, 3)),
            library.Flatten(2),
            library.Conv1d(4, 5, 3, padding=1),
            library.BatchNorm1d(5),
            library.Flatten(),
            library.Linear(30, 3),
        )

    ours, theirs = build(nn), build(torch.nn).double()
    random = np.random.default_rng(0)
    for (name, p), (other, q) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other
        value = random.standard_normal(p.shape)
        p.data, q.data = value, torch.tensor(value.T if value.ndim == 2 else value)
    x, labels = random.standard_normal((6, 1, 16, 16)), np.array([0, 2, 1, 1, 0, 2])
    loss = nn.CrossEntropyLoss()(ours(Tensor(x, dtype=np.float64)), labels)
    expected = torch.nn.CrossEntropyLoss()(theirs(torch.tensor(x)), torch.tensor(labels))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    loss.backward()
    expected.backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        gradient = q.grad.numpy()
        gradient = gradient.T if gradient.ndim == 2 else gradient
        np.testing.assert_allclose(p.grad.numpy(), gradient, rtol=1e-6, atol=1e-8, err_msg=name)
        if name not in ("4.bias", "9.bias", "12.bias"):  # what a normalisation takes away again
            assert np.abs(gradient).max() > 1e-6, name

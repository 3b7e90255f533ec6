"""Fake quantisation and QAT against PyTorch: values bit for bit, gradients, a folded batch norm.

Learned zero points are compared where they aren't negative: PyTorch rounds them by cutting off
z + 0.5, which makes -2 of -3 (2.13; only without an axis).
"""

import numpy as np
import pytest

from tinytorch.core.autograd import grad
from tinytorch.core.layers import Linear
from tinytorch.core.optimizers import SGD
from tinytorch.core.spatial import BatchNorm2d, Conv2d
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.observers import MovingAverageMinMaxObserver
from tinytorch.optimization.qat import FakeQuantize, FakeQuantizedLayer, fake_quantize, qat_config

torch = pytest.importorskip("torch", reason="compares with PyTorch")
quantization = pytest.importorskip("torch.ao.quantization", reason="compares with PyTorch's QAT")
qat = pytest.importorskip("torch.ao.nn.intrinsic.qat", reason="compares with PyTorch's QAT")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

random = np.random.default_rng(0)
GRIDS = [(-128, 127), (-127, 127), (0, 255), (-8, 7), (0, 3), (-1, 1), (-32768, 32767)]


def numbers(*shape, scale=1.0):
    x = random.normal(0, scale, shape).astype(np.float32)
    x.reshape(-1)[:3] = 0.0, -0.0, 1e-9
    return x


def with_ties(scale, count=400):
    """Numbers on marks, between two marks, and next to both."""
    middles = (np.arange(-count, count) * np.float32(0.5) * np.float32(scale)).astype(np.float32)
    return np.concatenate([middles, np.nextafter(middles, 9), np.nextafter(middles, -9)])


def gradients_of(ours, theirs, points, g):
    """Both results, and both lists of gradients for the points."""
    a = [Tensor(x, requires_grad=True) for x in points]
    b = [torch.tensor(x, requires_grad=True) for x in points]
    out, expected = ours(*a), theirs(*b)
    answers = torch.autograd.grad(expected, b, torch.tensor(g), allow_unused=True)
    return out, expected, grad(out, a, g, allow_unused=True), answers


@pytest.mark.parametrize("limits", GRIDS)
@pytest.mark.parametrize("scale", [0.1, 0.0625, 0.7123, 3e-4])
def test_per_tensor_bit_for_bit(limits, scale):
    lowest, highest = limits
    for zero_point in {lowest, (lowest + highest) // 2, min(highest, max(lowest, 3))}:
        for x in (with_ties(scale), numbers(50, 30, scale=scale * (highest - lowest))):
            out, expected, [gx], [answer] = gradients_of(
                lambda x, z=zero_point: fake_quantize(x, scale, z, lowest=lowest, highest=highest),
                lambda x, z=zero_point: torch.fake_quantize_per_tensor_affine(
                    x, scale, z, lowest, highest
                ),
                [x],
                random.normal(size=x.shape).astype(np.float32),
            )
            assert out.data.tobytes() == expected.detach().numpy().tobytes()
            np.testing.assert_array_equal(gx.data, answer.numpy())


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("limits", GRIDS)
def test_per_channel_bit_for_bit(axis, limits):
    lowest, highest = limits
    x = numbers(5, 5, 5, scale=highest / 20)
    scale = np.geomspace(0.003, 0.3, 5)
    zero_point = random.integers(lowest, highest + 1, 5).astype(np.int32)
    out, expected, [gx], [answer] = gradients_of(
        lambda x: fake_quantize(x, scale, zero_point, lowest=lowest, highest=highest, axis=axis),
        lambda x: torch.fake_quantize_per_channel_affine(
            x,
            torch.tensor(scale, dtype=torch.float32),
            torch.tensor(zero_point),
            axis % 3,
            *limits,
        ),
        [x],
        random.normal(size=x.shape).astype(np.float32),
    )
    assert out.data.tobytes() == expected.detach().numpy().tobytes()
    np.testing.assert_array_equal(gx.data, answer.numpy())


@pytest.mark.parametrize("limits", GRIDS[2:5])
@pytest.mark.parametrize("zero_point", [0.0, 2.0, 2.6])
@pytest.mark.parametrize("grad_factor", [1.0, 0.037])
def test_learned_step_per_tensor(limits, zero_point, grad_factor):
    x = numbers(40, 30, scale=0.1 * limits[1])
    points = [x, np.float32([0.11]), np.float32([zero_point])]
    out, expected, ours, theirs = gradients_of(
        lambda x, s, z: fake_quantize(
            x, s[0], z[0], lowest=limits[0], highest=limits[1], grad_factor=grad_factor
        ),
        lambda x, s, z: torch._fake_quantize_learnable_per_tensor_affine(
            x, s, z, *limits, grad_factor
        ),
        points,
        random.normal(size=x.shape).astype(np.float32),
    )
    assert out.data.tobytes() == expected.detach().numpy().tobytes()
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.data, other.numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("limits", GRIDS[:6])
def test_learned_step_per_channel(axis, limits):
    x = numbers(6, 6, 6, scale=0.1 * limits[1])
    low, high = limits
    points = [x, np.geomspace(0.05, 0.3, 6, dtype=np.float32)]
    points.append(random.integers(max(low, -5), min(high, 5) + 1, 6).astype(np.float32))
    out, expected, ours, theirs = gradients_of(
        lambda x, s, z: fake_quantize(
            x, s, z, lowest=low, highest=high, axis=axis, grad_factor=0.2
        ),
        lambda x, s, z: torch._fake_quantize_learnable_per_channel_affine(
            x, s, z, axis % 3, low, high, 0.2
        ),
        points,
        random.normal(size=x.shape).astype(np.float32),
    )
    assert out.data.tobytes() == expected.detach().numpy().tobytes()
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.data, other.numpy(), rtol=2e-5, atol=2e-5)


def test_the_module_follows_a_moving_average_as_pytorchs_does():
    theirs = quantization.FakeQuantize(
        quantization.MovingAverageMinMaxObserver,
        quant_min=-128,
        quant_max=127,
        dtype=torch.qint8,
        averaging_constant=0.1,
    )
    ours = FakeQuantize(MovingAverageMinMaxObserver(0.1))
    for step in range(12):
        if step == 8:
            ours.observing = False
            theirs.disable_observer()
        x = numbers(30, 4, scale=1 + step % 5)
        assert ours(Tensor(x)).data.tobytes() == theirs(torch.tensor(x)).numpy().tobytes()
    assert ours.chosen.scale == theirs.scale.item()
    assert ours.chosen.zero_point == theirs.zero_point.item()


def pytorchs_pair(relu):
    """A convolution and its batch norm as PyTorch trains them, on grids like ours."""
    weight = quantization.FakeQuantize.with_args(
        observer=quantization.PerChannelMinMaxObserver.with_args(
            quant_min=-7, quant_max=7, eps=2**-23
        ),
        quant_min=-7,
        quant_max=7,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )
    config = quantization.QConfig(activation=torch.nn.Identity, weight=weight)
    kind = qat.ConvBnReLU2d if relu else qat.ConvBn2d
    return kind(3, 4, 3, padding=1, bias=True, momentum=0.3, qconfig=config)


@pytest.mark.parametrize("relu", [False, True])
def test_a_folded_batch_norm_trains_as_pytorchs_does(relu):
    theirs = pytorchs_pair(relu)
    conv, norm = Conv2d(3, 4, 3, padding=1), BatchNorm2d(4, momentum=0.3)
    theirs.weight.data[:] = torch.tensor(conv.weight.data)
    theirs.bias.data[:] = torch.tensor(conv.bias.data)
    norm.weight.data[:] = theirs.bn.weight.detach().numpy()
    ours = FakeQuantizedLayer(conv, qat_config(weight_bits=4), norm, relu)
    ours.output_rounder.rounding = False
    mine = [conv.weight, conv.bias, norm.weight, norm.bias]
    other = [theirs.weight, theirs.bias, theirs.bn.weight, theirs.bn.bias]
    optimizer, their_optimizer = SGD(mine, lr=0.05), torch.optim.SGD(other, lr=0.05)
    for step in range(4):
        x, g = numbers(5, 3, 6, 6), numbers(5, 4, 6, 6)
        if step:  # PyTorch's observer adds up all it saw, ours begins anew
            theirs.weight_fake_quant.activation_post_process.reset_min_max_vals()
        y, expected = ours(Tensor(x)), theirs(torch.tensor(x))
        np.testing.assert_allclose(y.data, expected.detach().numpy(), atol=2e-5)
        optimizer.zero_grad()
        their_optimizer.zero_grad()
        y.backward(g)
        expected.backward(torch.tensor(g))
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-4, atol=2e-4)
        np.testing.assert_allclose(norm.running_var.data, theirs.bn.running_var, rtol=1e-5)
        np.testing.assert_allclose(norm.running_mean.data, theirs.bn.running_mean, atol=1e-6)
        optimizer.step()
        their_optimizer.step()
    theirs.weight_fake_quant.activation_post_process.reset_min_max_vals()
    x = numbers(2, 3, 6, 6)
    np.testing.assert_allclose(
        ours.eval()(Tensor(x)).data, theirs.eval()(torch.tensor(x)).detach().numpy(), atol=2e-5
    )


def test_a_linear_layer_trains_as_pytorchs_does():
    """Ten steps with 2-bit weights by channel and 8-bit results."""
    layer, x, g = Linear(12, 5), numbers(20, 12), numbers(20, 5)
    ours = FakeQuantizedLayer(layer, qat_config(weight_bits=2))
    weight = torch.tensor(layer.weight.data.T.copy(), requires_grad=True)
    bias = torch.tensor(layer.bias.data, requires_grad=True)
    output = quantization.FakeQuantize(
        quantization.MovingAverageMinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8
    )
    optimizer, other = SGD(ours.parameters(), lr=0.02), torch.optim.SGD([weight, bias], lr=0.02)
    for _ in range(10):
        scale = weight.detach().abs().amax(dim=1).clamp(min=2**-23)
        zeros = torch.zeros(5, dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -1, 1)
        expected = output(torch.nn.functional.linear(torch.tensor(x), rounded, bias))
        y = ours(Tensor(x))
        assert np.abs(y.data - expected.detach().numpy()).max() <= output.scale.item() * 1.01
        optimizer.zero_grad()
        other.zero_grad()
        y.backward(g)
        expected.backward(torch.tensor(g))
        np.testing.assert_allclose(layer.weight.grad.data.T, weight.grad.numpy(), atol=1e-4)
        optimizer.step()
        other.step()

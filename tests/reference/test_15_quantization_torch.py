"""INT8 against PyTorch, where the two mean the same.

Ours divides by the scale in float64, PyTorch multiplies by float32(1 / scale): a number that lies
almost on the middle of two marks may go to either. On the very middle, ours takes the even multiple
of the scale; quantize_per_tensor adds the zero point first and takes the even mark, which is the
same where the zero point is even. PyTorch's symmetric int8 divides by 127.5 and uses -128, ours
divides by 127: those are not compared.
"""

import numpy as np
import pytest

from tinytorch.core.layers import Linear
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.quantization import (
    QuantizedLinear,
    dequantize_int8,
    quantization_parameters,
    quantize_int8,
    to_int8,
)

torch = pytest.importorskip("torch", reason="compares with PyTorch")
observers = pytest.importorskip("torch.ao.quantization", reason="compares with PyTorch's observers")
pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")

random = np.random.default_rng(0)


def marks_of_pytorch(x, scale, zero_point, axis=None):
    """Its integers and its restored floats."""
    x = torch.tensor(x)
    if axis is None:
        q = torch.quantize_per_tensor(x, scale, zero_point, torch.qint8)
    else:
        grid = torch.tensor(scale), torch.tensor(zero_point)
        q = torch.quantize_per_channel(x, *grid, axis, torch.qint8)
    return q.int_repr().numpy(), q.dequantize().numpy()


def assert_same_but_for_ties(ours, theirs, quotient):
    different = ours != theirs
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    np.testing.assert_allclose(np.abs(quotient[different] % 1), 0.5, atol=1e-4)
    assert different.mean() < 1e-3


@pytest.mark.parametrize("scale", [2.0**-5, 0.25, 1.0])
@pytest.mark.parametrize("zero_point", [-128, 0, 76])
def test_marks_are_equal_where_the_scale_is_a_power_of_two(scale, zero_point):
    x = np.arange(-300, 300, 0.125, dtype=np.float32)  # many on the middle of two marks
    q = to_int8(x, scale, zero_point)
    theirs, restored = marks_of_pytorch(x, scale, zero_point)
    np.testing.assert_array_equal(q, theirs)
    ours = dequantize_int8(Tensor(q), scale, zero_point)
    np.testing.assert_array_equal(ours.data, restored)


def test_marks_of_a_tensor():
    x = random.normal(0.3, 2.0, (200, 100)).astype(np.float32)
    q, scale, zero_point = quantize_int8(Tensor(x))
    theirs, restored = marks_of_pytorch(x, scale, zero_point)
    assert_same_but_for_ties(q.data, theirs, x.astype(np.float64) / scale)
    same = q.data == theirs
    ours = dequantize_int8(q, scale, zero_point).data
    np.testing.assert_allclose(ours[same], restored[same], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_marks_of_channels(axis):
    x = (random.normal(0, 1, (60, 80)) * np.geomspace(0.01, 10, 80)).astype(np.float32)
    q, scale, zero_point = quantize_int8(Tensor(x), axis=axis)
    theirs, restored = marks_of_pytorch(x, scale, zero_point, axis)
    quotient = x / np.expand_dims(scale, 1 - axis)
    assert_same_but_for_ties(q.data, theirs, quotient)
    same = q.data == theirs
    ours = dequantize_int8(q, scale, zero_point, axis).data
    np.testing.assert_allclose(ours[same], restored[same], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("low, high", [(-1.0, 3.0), (0.5, 6.0), (-6.0, -1.0), (-0.3, 0.1)])
def test_scale_and_zero_point_are_those_of_the_min_max_observer(low, high):
    observer = observers.MinMaxObserver(dtype=torch.qint8, qscheme=torch.per_tensor_affine)
    observer(torch.tensor([low, high]))
    scale, zero_point = observer.calculate_qparams()
    ours = quantization_parameters(low, high)
    assert ours[0] == pytest.approx(scale.item(), rel=1e-6)
    assert ours[1] == zero_point.item()


@pytest.mark.parametrize("axis", [None, 1])
def test_the_layer_multiplies_the_same_integers(axis):
    linear, x = Linear(300, 20), random.normal(0.2, 1.0, (50, 300)).astype(np.float32)
    layer = QuantizedLinear(linear, axis=axis)
    layer.calibrate(Tensor(x))
    weight = torch.tensor(layer.q_weight.data).int() - torch.tensor(layer.weight_zero_point.data)
    scale, zero_point = layer.input_scale.item(), layer.input_zero_point.item()
    marks = torch.tensor(to_int8(x.astype(np.float64), scale, zero_point)).int() - zero_point
    accumulator = (marks.long() @ weight.long()).double()
    bias = dequantize_int8(layer.q_bias, layer.bias_scale, layer.bias_zero_point).data
    right = accumulator * (scale * torch.tensor(layer.weight_scale.data)) + torch.tensor(bias)
    np.testing.assert_allclose(layer(Tensor(x)).data, right.numpy(), rtol=1e-6, atol=1e-6)

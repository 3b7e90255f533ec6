"""Low-bit grids against PyTorch, NF4 against its published table, packing against ONNX's words.

Ours divides by the scale in float64, PyTorch multiplies by float32(1 / scale): a number that lies
almost on the middle of two marks may go to either. Those few are looked for and left out.
"""

import math
from statistics import NormalDist

import numpy as np
import pytest

from tinytorch.core.layers import Linear
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.lowbit import (
    NF4,
    LowBitLinear,
    dequantize_bits,
    dequantize_groups,
    expected_snr,
    normal_levels,
    pack_int4,
    quantize_bits,
    quantize_codebook,
    quantize_groups,
    unpack_int4,
)
from tinytorch.optimization.quantization import quantization_error

torch = pytest.importorskip("torch", reason="compares with PyTorch")

random = np.random.default_rng(24)

# Dettmers et al. 2023, QLoRA, appendix E
PUBLISHED = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def assert_same_but_for_ties(ours, theirs, quotient, step):
    """Equal to float32's rounding, but for one step where the quotient is a middle of two marks."""
    tie = np.abs(np.abs(quotient % 1) - 0.5) < 1e-6 * np.abs(quotient) + 1e-6
    assert tie.mean() < 0.04
    tolerance = 1e-6 * np.abs(theirs) + np.where(tie, step * 1.001, 1e-6 * step)
    assert (np.abs(ours - theirs) <= tolerance).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8, 12, 16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_tensor(bits, symmetric):
    x = random.normal(0.3, 2.0, (200, 50)).astype(np.float32)
    q, scale, zero_point = quantize_bits(Tensor(x), bits, symmetric)
    lowest, highest = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    theirs = torch.fake_quantize_per_tensor_affine(
        torch.tensor(x), scale, zero_point, lowest, highest
    )
    ours = dequantize_bits(q, scale, zero_point)
    assert_same_but_for_ties(ours.data, theirs.numpy(), x / scale, scale)


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_channels(bits, symmetric, axis):
    x = (random.normal(0, 1, (60, 80)) * np.geomspace(0.01, 10, 80)).astype(np.float32)
    q, scale, zero_point = quantize_bits(Tensor(x), bits, symmetric, axis)
    lowest, highest = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    theirs = torch.fake_quantize_per_channel_affine(
        *(torch.tensor(x), torch.tensor(scale, dtype=torch.float32), torch.tensor(zero_point)),
        *(axis, lowest, highest),
    )
    ours = dequantize_bits(q, scale, zero_point, axis)
    step = np.expand_dims(scale, 1 - axis)
    assert_same_but_for_ties(ours.data, theirs.numpy(), x / step, step)


@pytest.mark.parametrize("bits", [2, 4, 6])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("scale_dtype", [np.float16, np.float32])
def test_groups_are_channels_of_the_reshaped_weight(bits, symmetric, scale_dtype):
    x = random.normal(0, 0.1, (128, 24)).astype(np.float32)
    q, scale, zero_point = quantize_groups(Tensor(x), bits, 32, symmetric, 0, scale_dtype)
    lowest, highest = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    rows = x.reshape(4, 32, 24).swapaxes(1, 2).reshape(96, 32)
    theirs = torch.fake_quantize_per_channel_affine(
        *(torch.tensor(rows), torch.tensor(scale.reshape(-1).astype(np.float32))),
        *(torch.tensor(zero_point.reshape(-1)), 0, lowest, highest),
    )
    ours = dequantize_groups(q, scale, zero_point).data
    ours = ours.reshape(4, 32, 24).swapaxes(1, 2).reshape(96, 32)
    step = scale.reshape(-1, 1).astype(np.float64)
    assert_same_but_for_ties(ours, theirs.numpy(), rows / step, step)


def test_the_layer_is_a_linear_with_the_fake_quantised_weight():
    linear, x = Linear(64, 8), random.normal(0, 1, (5, 64)).astype(np.float32)
    layer = LowBitLinear(linear, bits=3, group_size=None, scale_dtype=np.float32)
    weight = torch.tensor(linear.weight.data.T.copy())
    fake = torch.fake_quantize_per_channel_affine(
        *(weight, torch.tensor(layer.scale.data[0]), torch.zeros(8, dtype=torch.int32), 0, -3, 3)
    )
    right = torch.nn.functional.linear(torch.tensor(x), fake, torch.tensor(linear.bias.data))
    np.testing.assert_allclose(layer(Tensor(x)).data, right.numpy(), rtol=1e-5, atol=1e-5)


def test_nf4_is_the_published_table():
    np.testing.assert_array_equal(NF4, PUBLISHED)
    offset = 0.9677083  # as bitsandbytes has it: about 1 - (1 / 32 + 1 / 30) / 2
    inverse = NormalDist().inv_cdf
    positive = [inverse(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    negative = [-inverse(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    derived = np.array(sorted([*negative, 0.0, *positive])) / max(positive)
    np.testing.assert_allclose(derived, PUBLISHED, atol=1.2e-7, rtol=0)
    np.testing.assert_allclose(normal_levels(4), PUBLISHED, atol=2e-7, rtol=0)


def test_quantiles_are_those_of_pytorch():
    p = torch.linspace(0.97, 0.5, 9, dtype=torch.float64)
    theirs = torch.special.ndtri(p)
    np.testing.assert_allclose([NormalDist().inv_cdf(v) for v in p.tolist()], theirs, atol=1e-9)


def test_nf4_codes_are_nearest_in_the_published_table():
    x = random.normal(0, 1, (64, 6)).astype(np.float32)
    codes, _, scale = quantize_codebook(Tensor(x), NF4, group_size=64, scale_dtype=np.float32)
    share = torch.tensor(x) / torch.tensor(scale)
    nearest = (share[..., None] - torch.tensor(PUBLISHED)).abs().argmin(dim=-1)
    np.testing.assert_array_equal(codes.data, nearest.numpy())


def test_nibbles_lie_as_onnx_defines_them():
    # onnx.proto, INT4: "Each 4-bit value is packed two to a byte, the first in the 4 least
    # significant bits"; an odd count is filled up with 0
    q = random.integers(-8, 8, 21).astype(np.int8)
    packed = pack_int4(q)
    for i, value in enumerate(q.tolist()):
        nibble = (int(packed[i // 2]) >> (4 * (i % 2))) & 0xF
        assert nibble == value % 16
    assert packed[-1] >> 4 == 0
    np.testing.assert_array_equal(unpack_int4(packed, 21), q)


def test_nibbles_are_those_of_the_onnx_package():
    onnx = pytest.importorskip("onnx", reason="compares with ONNX's own packing")
    q = random.integers(-8, 8, 21).astype(np.int8)
    int4, raw = onnx.TensorProto.INT4, pack_int4(q).tobytes()
    tensor = onnx.TensorProto(data_type=int4, dims=[21], raw_data=raw)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), q)


@pytest.mark.parametrize("bits", range(4, 13))
def test_six_decibels_a_bit(bits):
    even = Tensor(random.uniform(-1, 1, 100_000))
    measured = quantization_error(even, dequantize_bits(*quantize_bits(even, bits)))["snr_db"]
    assert measured == pytest.approx(20 * math.log10(2**bits - 1), abs=0.05)  # 2^b - 1 steps
    normal = Tensor(random.standard_normal(100_000))
    crest = np.abs(normal.data).max() / normal.data.std()
    closed = 20 * math.log10(2 ** (bits - 1) - 1) + 10 * math.log10(12) - 20 * math.log10(crest)
    q = quantize_bits(normal, bits, symmetric=True)
    measured = quantization_error(normal, dequantize_bits(*q))["snr_db"]
    assert measured == pytest.approx(closed, abs=0.1)
    assert expected_snr(normal, bits, symmetric=True) == pytest.approx(closed, abs=0.01)

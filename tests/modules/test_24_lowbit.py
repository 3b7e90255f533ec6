"""Module 24: any number of bits, groups, packed bytes, codebooks, whole models."""

import copy
import json
import math

import numpy as np
import pytest

from tinytorch.core.activations import ReLU
from tinytorch.core.layers import Linear, Module, Sequential
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.lowbit import (
    NF4,
    LowBitLinear,
    dequantize_bits,
    dequantize_codebook,
    dequantize_groups,
    expected_snr,
    kmeans_levels,
    log_levels,
    normal_levels,
    pack_bits,
    pack_int4,
    power_of_two_levels,
    quantize_bits,
    quantize_codebook,
    quantize_groups,
    quantize_weights,
    stored_scale,
    unpack_bits,
    unpack_int4,
)
from tinytorch.optimization.quantization import (
    QuantizedLinear,
    dequantize_int8,
    quantization_error,
    quantize_int8,
    quantize_model,
)

random = np.random.default_rng(24)


def normal(*shape, scale=1.0):
    return Tensor(scale * random.standard_normal(shape))


def snr(x, restored):
    return quantization_error(x, restored)["snr_db"]


# --- any number of bits ---
@pytest.mark.parametrize(
    "values, bits, symmetric, scale, zero_point, q",
    [
        ([-7.5, 0, 7.5], 4, False, 1.0, 0, [-8, 0, 7]),
        ([-7.5, 0, 7.5], 4, True, 7.5 / 7, 0, [-7, 0, 7]),
        ([1, 2, 3], 2, False, 1.0, -2, [-1, 0, 1]),
        ([-3, 0.4, 1], 2, True, 3.0, 0, [-1, 0, 0]),
        ([-4, -1], 3, False, 4 / 7, 3, [-4, 1]),
        ([65535.0], 16, False, 1.0, -32768, [32767]),
        ([32767.0, -1], 16, True, 1.0, 0, [32767, -1]),
        ([0, 0], 5, False, 1.0, -16, [-16, -16]),
        ([], 3, False, 1.0, -4, []),
    ],
)
def test_quantize_bits(values, bits, symmetric, scale, zero_point, q):
    got = quantize_bits(Tensor(values), bits, symmetric)
    assert got[0].tolist() == q
    assert got[0].dtype == (np.int8 if bits <= 8 else np.int16)
    assert (type(got[1]), type(got[2])) == (float, int)
    assert got[1:] == (pytest.approx(scale, rel=1e-12), zero_point)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_the_round_trip_stays_within_half_a_step(bits, symmetric, axis):
    x = normal(6, 5, 4)[::2, :, ::-1] * Tensor([[1.0], [10.0], [0.1], [5.0], [1e-6]])
    q, scale, zero_point = quantize_bits(x, bits, symmetric, axis)
    restored = dequantize_bits(q, scale, zero_point, axis)
    assert (restored.dtype, restored.shape) == (np.float32, x.shape)
    others = () if axis is None else tuple(i for i in range(3) if i != axis % 3)
    step = np.expand_dims(scale, others)
    assert (np.abs(restored.data - x.data) <= step / 2 * (1 + 1e-5) + 1e-7).all()
    highest = 2 ** (bits - 1) - 1
    assert -highest - (not symmetric) <= q.data.min() <= q.data.max() <= highest


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_eight_bits_are_those_of_module_15(symmetric, axis):
    x = normal(7, 9)
    ours, theirs = quantize_bits(x, 8, symmetric, axis), quantize_int8(x, symmetric, axis)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    restored = dequantize_bits(*ours, axis)
    np.testing.assert_array_equal(restored.data, dequantize_int8(*theirs, axis).data)


def test_zero_is_always_a_mark():
    x = Tensor([3.0, 0.0, 5.0, 7.0])
    for bits in (2, 3, 4, 16):
        assert dequantize_bits(*quantize_bits(x, bits)).data[1] == 0
        for symmetric in (True, False):
            assert dequantize_groups(*quantize_groups(x, bits, 2, symmetric)).data[1] == 0


# --- what a bit is worth ---
@pytest.mark.parametrize("bits", [4, 6, 8, 12])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_expected_snr_is_the_measured_one(bits, symmetric):
    for x in (normal(100_000), Tensor(random.uniform(-1, 1, 100_000))):
        measured = snr(x, dequantize_bits(*quantize_bits(x, bits, symmetric)))
        assert expected_snr(x, bits, symmetric) == pytest.approx(measured, abs=0.1)


def test_the_expected_snr_in_closed_form():
    x = normal(1000)
    crest = np.abs(x.data).max() / np.sqrt((x.data.astype(float) ** 2).mean())
    closed = 20 * math.log10(2) * 14 + 10 * math.log10(3) - 20 * math.log10(crest)
    assert expected_snr(x, 14, symmetric=True) == pytest.approx(closed, abs=2e-3)
    offset = Tensor([3.0, 5.0])  # the mean square counts, not the variance
    assert expected_snr(offset, 4) == pytest.approx(10 * math.log10(17 / ((5 / 15) ** 2 / 12)))
    assert expected_snr(Tensor([0.0]), 4) == math.inf
    with pytest.raises(ValueError, match="expected_snr: bits must be"):
        expected_snr(x, 1)


# --- groups ---
@pytest.mark.parametrize("bits, group_size", [(2, 8), (4, 32), (5, None), (8, 1), (12, 64)])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("scale_dtype", [np.float16, np.float32])
def test_each_group_is_quantised_by_itself(bits, group_size, symmetric, scale_dtype):
    x = normal(64, 3) * Tensor([[1.0, 100.0, 0.01]])
    q, scale, zero_point = quantize_groups(x, bits, group_size, symmetric, 0, scale_dtype)
    size = group_size or 64
    assert (scale.dtype, zero_point.dtype) == (scale_dtype, np.int32)
    assert scale.shape == zero_point.shape == (64 // size, 3)
    restored = dequantize_groups(q, scale, zero_point)
    for row in range(64 // size):
        for column in range(3):
            part = x.data[row * size : (row + 1) * size, column].astype(np.float64)
            low, high = min(part.min(), 0), max(part.max(), 0)
            highest = 2 ** (bits - 1) - 1
            lowest = -highest if symmetric else -highest - 1
            exact = max(-low, high) / highest if symmetric else (high - low) / (highest - lowest)
            s = float(scale[row, column])
            assert (
                exact <= s <= exact * (1 + 2 ** (-9 if scale_dtype == np.float16 else -22)) + 6e-8
            )
            z = 0 if symmetric else np.rint(lowest - low / s)
            assert zero_point[row, column] == z
            marks = np.clip(np.rint(part / s) + z, lowest, highest)
            got = q.data[row * size : (row + 1) * size, column]
            np.testing.assert_array_equal(got, marks)
            back = restored.data[row * size : (row + 1) * size, column]
            np.testing.assert_array_equal(back, ((marks - z) * s).astype(np.float32))


@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_groups_lie_along_any_axis(axis):
    x = normal(4, 6, 8)
    moved = Tensor(np.moveaxis(x.data, axis, 0))
    q, scale, zero_point = quantize_groups(x, 4, 2, False, axis)
    first = quantize_groups(moved, 4, 2, False)
    for a, b in zip((q.data, scale, zero_point), (first[0].data, *first[1:]), strict=True):
        np.testing.assert_array_equal(np.moveaxis(a, axis, 0), b)
    restored = dequantize_groups(q, scale, zero_point, axis)
    np.testing.assert_array_equal(
        np.moveaxis(restored.data, axis, 0), dequantize_groups(*first).data
    )


def test_one_group_of_all_is_one_grid_for_each_channel():
    x = normal(40, 5)
    q, scale, _ = quantize_groups(x, 4, None, scale_dtype=np.float32)
    channels = quantize_bits(x, 4, symmetric=True, axis=1)
    np.testing.assert_array_equal(q.data, channels[0].data)
    np.testing.assert_allclose(scale[0], channels[1], rtol=1e-6)


def test_an_outlier_hurts_its_own_group_only():
    x = normal(128, 4)
    x.data[5, 2] = 1000.0
    clean = normal(128, 4)
    restored = dequantize_groups(*quantize_groups(x))
    rest = np.ones((128, 4), bool)
    rest[:32, 2] = False
    error = np.abs(restored.data - x.data)
    assert error[rest].max() < 0.5
    assert snr(clean, dequantize_groups(*quantize_groups(clean))) > 19


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-12, 3e-8, -6e-8, 1.0, 3e5])
@pytest.mark.parametrize("symmetric", [False, True])
def test_numbers_of_any_size_have_a_float16_scale(value, symmetric):
    x = Tensor([value, value / 2, 0.0, -value / 3])
    q, scale, zero_point = quantize_groups(x, 4, 4, symmetric)
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    error = np.abs(dequantize_groups(q, scale, zero_point).data.astype(float) - x.data)
    assert (error <= scale.astype(float) / 2 * (1 + 1e-6)).all()


def test_stored_scales_are_the_next_number_up():
    scale = np.concatenate([np.geomspace(1e-9, 6e4, 5000), [0.25, 65504.0]])
    for dtype in (np.float16, np.float32):
        stored = stored_scale(scale, dtype)
        assert stored.dtype == dtype
        assert (stored.astype(float) >= scale).all()
        before = np.nextafter(stored, dtype(0)).astype(float)
        assert (before < scale).all()
    with pytest.raises(ValueError, match=r"scale of 6\.6e\+04 is too large for float16: use scale"):
        stored_scale(np.array([66000.0]), np.float16)
    with pytest.raises(TypeError, match="scale_dtype must be float16 or float32, got float64"):
        stored_scale(scale, np.float64)


@pytest.mark.parametrize(
    "size, says",
    [
        (48, "group_size 48 does not divide the 64 along axis 0: 32 does"),
        (128, "group_size 128 does not divide the 64 along axis 0: 64 does"),
        (0, "group_size 0 does not divide the 64 along axis 0: 1 does"),
        (-2, "group_size -2 does not"),
    ],
)
def test_groups_that_do_not_divide_are_refused(size, says):
    with pytest.raises(ValueError, match=says):
        quantize_groups(normal(64, 2), group_size=size)
    with pytest.raises(ValueError, match=says):
        quantize_codebook(normal(64, 2), group_size=size)


@pytest.mark.parametrize("function", [quantize_bits, quantize_groups, quantize_codebook])
def test_wrong_arguments_say_what_is_wrong(function):
    x = normal(32, 2)
    for bits in (1, 17, 0, -4, 4.0, "4"):
        with pytest.raises(ValueError, match=f"{function.__name__}: bits must be a whole number"):
            function(x, bits=bits)
    for value in (math.nan, math.inf, -math.inf):
        broken = Tensor(x.data.copy())
        broken.data[3, 1] = value
        with pytest.raises(ValueError, match=rf"tensor holds {value} at \[.*1\]: only finite"):
            function(broken)
    with pytest.raises(TypeError, match="expected a Tensor, got ndarray"):
        function(x.data)
    with pytest.raises(TypeError, match="floating-point numbers, got a tensor of int64"):
        function(Tensor(np.ones((32, 2)), dtype=np.int64))


def test_axes_and_scales_of_another_tensor_are_refused():
    x = normal(64, 3)
    q, scale, zero_point = quantize_groups(x)
    for function in (quantize_bits, quantize_groups, quantize_codebook):
        with pytest.raises(ValueError, match="axis 2 of a tensor with 2 axes"):
            function(x, axis=2)
    with pytest.raises(ValueError, match="dequantize_groups: axis -3 of a tensor with 2 axes"):
        dequantize_groups(q, scale, axis=-3)
    for wrong in (scale[:, :2], scale[0], np.ones((3, 3)), np.ones((0, 3))):
        with pytest.raises(ValueError, match=r"scale of \(.*\) doesn't fit q of \(64, 3\), axis=0"):
            dequantize_groups(q, wrong)
    with pytest.raises(ValueError, match=r"zero_point of \(1, 3\), expected \(2, 3\)"):
        dequantize_groups(q, scale, zero_point[:1])
    with pytest.raises(ValueError, match=r"scale has shape \(3,\), expected \(64,\) for axis=0"):
        dequantize_bits(q, np.ones(3), np.zeros(3), axis=0)
    with pytest.raises(ValueError, match=r"zero_point has shape \(1,\), expected \(\)"):
        dequantize_bits(q, 1.0, np.zeros(1))


# --- packing ---
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 64, 1001])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [False, True])
def test_packing_loses_nothing_and_wastes_less_than_a_byte(count, bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    q = random.integers(low, low + 2**bits, count).astype(np.int8 if signed else np.uint8)
    packed = pack_bits(q, bits)
    assert (packed.dtype, packed.shape) == (np.uint8, (math.ceil(count * bits / 8),))
    unpacked = unpack_bits(packed, bits, count, signed)
    assert unpacked.dtype == (np.int8 if signed else np.uint8)
    np.testing.assert_array_equal(unpacked, q)
    stream = "".join(f"{value % 2**bits:0{bits}b}"[::-1] for value in q.tolist())
    stream += "0" * (-len(stream) % 8)
    right = [int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8)]
    assert packed.tolist() == right


def test_nibbles():
    assert pack_int4([3, -2, 7]).tolist() == [0xE3, 0x07]
    assert pack_int4(np.array([[1, 2], [3, 4]], np.int64)).tolist() == [0x21, 0x43]
    strided = np.arange(-8, 8, dtype=np.int8)[::-2]
    np.testing.assert_array_equal(unpack_int4(pack_int4(strided), 8), strided)
    assert pack_int4(Tensor([1, 2], dtype=np.int8)).tolist() == [0x21]
    assert unpack_int4(np.array([0xE3], np.uint8), 1).tolist() == [3]


def test_packing_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="4 bits hold -8 to 7, or 0 to 15, got -1 to 8"):
        pack_int4([-1, 8])
    with pytest.raises(ValueError, match="got 0 to 16"):
        pack_int4([16])
    with pytest.raises(ValueError, match="2 bits hold -2 to 1, or 0 to 3, got -3 to 0"):
        pack_bits([-3], 2)
    with pytest.raises(TypeError, match="expected integers, got float64"):
        pack_int4([1.0])
    with pytest.raises(ValueError, match="from 2 to 8, got 9"):
        pack_bits([1], 9)
    packed = pack_int4([1, 2, 3])
    for count in (2, 5):
        with pytest.raises(ValueError, match=f"unpack_int4: {count} integers of 4 bits take"):
            unpack_int4(packed, count)
    with pytest.raises(ValueError, match="take 2 bytes of uint8 in one row, got int8"):
        unpack_bits(packed.astype(np.int8), 3, 5)


# --- codebooks ---
@pytest.mark.parametrize("levels", [log_levels, power_of_two_levels, normal_levels])
@pytest.mark.parametrize("bits", range(2, 9))
def test_codebooks_use_every_level_once(levels, bits):
    table = levels(bits)
    assert table.shape == (2**bits,)
    assert (np.diff(table.astype(np.float32)) > 0).all()
    assert (table[0], table[-1], table[2 ** (bits - 1) - 1]) == (-1, 1, 0)
    x = Tensor(np.concatenate([table, -table])[:, None])
    codes, _, scale = quantize_codebook(x, levels(bits), bits, None)
    assert np.unique(codes.data).size == 2**bits
    assert scale.tolist() == [[1.0]]


def test_log_and_power_of_two():
    sizes = log_levels(5)[16:]
    np.testing.assert_allclose(sizes[1:] / sizes[:-1], 2 ** (5 / 15))
    np.testing.assert_array_equal(power_of_two_levels(4)[8:], 2.0 ** np.arange(-7, 1))
    np.testing.assert_array_equal(power_of_two_levels(4)[:7], -(2.0 ** -np.arange(7)))


def test_a_number_gets_its_nearest_level():
    x = normal(64, 10)
    for levels in (NF4, log_levels(4), np.linspace(-1, 1, 16)):
        codes, kept, scale = quantize_codebook(x, levels, 4, 16)
        assert (codes.dtype, kept.dtype, scale.shape) == (np.uint8, np.float32, (4, 10))
        share = x.data.reshape(4, 16, 10) / scale[:, None].astype(float)
        assert np.abs(share).max() <= 1
        nearest = np.abs(share[..., None] - levels).argmin(axis=-1)
        np.testing.assert_array_equal(codes.data, nearest.reshape(64, 10))
        restored = dequantize_codebook(codes, kept, scale)
        right = kept[nearest] * scale[:, None].astype(float)
        np.testing.assert_array_equal(restored.data, right.reshape(64, 10).astype(np.float32))


def test_the_lower_level_wins_on_a_border_and_nf4_is_the_formula():
    levels = np.array([-1.0, 0.0, 0.5, 1.0])
    codes, _, _ = quantize_codebook(Tensor([1.0, 0.75, 0.25, -0.5]), levels, 2, 4)
    assert codes.tolist() == [3, 2, 1, 0]
    np.testing.assert_allclose(normal_levels(4), NF4, atol=2e-7, rtol=0)


def test_nf4_beats_even_steps_on_normal_numbers_at_4_bits_and_loses_at_8():
    x = normal(64 * 500, 1)

    def gain(bits):
        book = dequantize_codebook(*quantize_codebook(x, normal_levels(bits), bits, 64))
        return snr(x, book) - snr(x, dequantize_groups(*quantize_groups(x, bits, 64)))

    assert gain(4) > 0.5
    assert gain(8) < -3


def test_kmeans_is_at_least_as_good_as_any_other_codebook():
    x = normal(20_000)
    learned = kmeans_levels(x, 4)
    once = kmeans_levels(x, 4, iterations=1)
    best, later, start, other = (
        ((x.data - levels[np.abs(x.data[:, None] - levels).argmin(axis=1)]) ** 2).mean()
        for levels in (learned, once, np.linspace(x.data.min(), x.data.max(), 16), NF4 * 3)
    )
    assert best < later < start
    assert best < other
    assert best == pytest.approx(0.0095, rel=0.04)  # Max 1960: 0.009497 for 16 levels


def test_kmeans_is_deterministic_and_copes_with_little():
    x = random.standard_normal((20, 30))
    np.testing.assert_array_equal(kmeans_levels(x, 3), kmeans_levels(x.T[::-1], 3))
    np.testing.assert_array_equal(kmeans_levels(np.array([2.5, 2.5]), 2), [2.5] * 4)
    np.testing.assert_array_equal(kmeans_levels(np.array([0.0, 3.0]), 2), [0, 1, 2, 3])
    assert kmeans_levels(Tensor([1.0, 2.0]), 2, iterations=0).tolist() == pytest.approx(
        [1, 4 / 3, 5 / 3, 2]
    )
    with pytest.raises(ValueError, match="x is empty"):
        kmeans_levels(np.zeros(0), 2)
    with pytest.raises(ValueError, match=r"kmeans_levels: x holds nan at \[1\]"):
        kmeans_levels(np.array([1.0, math.nan]), 2)


def test_codebooks_that_do_not_fit_are_refused():
    x = normal(32, 2)
    shuffled = NF4[::-1]
    for wrong in (NF4[:8], shuffled, np.where(NF4 == 0, math.nan, NF4), NF4.reshape(2, 8)):
        with pytest.raises(ValueError, match="codebook for 4 bits is 16 finite numbers in rising"):
            quantize_codebook(x, wrong)
    with pytest.raises(ValueError, match="codebook for 3 bits is 8 finite"):
        quantize_codebook(x, NF4, bits=3)
    for levels in (log_levels, power_of_two_levels, normal_levels):
        with pytest.raises(ValueError, match="bits must be a whole number from 2 to 8, got 9"):
            levels(9)


# --- the layer ---
OPTIONS = [
    {},
    {"bits": 2, "group_size": 16},
    {"bits": 3, "group_size": 64, "symmetric": False},
    {"bits": 4, "group_size": 32, "symmetric": False, "scale_dtype": np.float32},
    {"bits": 5, "group_size": None},
    {"bits": 8, "group_size": 32},
    {"codebook": NF4},
    {"codebook": kmeans_levels, "bits": 3, "group_size": 64},
]


def expected_weight(linear, bits=4, group_size=32, symmetric=True, codebook=None, **dtype):
    weight = linear.weight.detach()
    if codebook is None:
        return dequantize_groups(*quantize_groups(weight, bits, group_size, symmetric, **dtype))
    return dequantize_codebook(*quantize_codebook(weight, codebook, bits, group_size, **dtype))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64,), (0, 64), (2, 3, 64)])
def test_the_layer_computes_with_its_dequantised_weight(options, bias, shape):
    linear, x = Linear(64, 7, bias=bias), normal(*shape)
    linear.bias = normal(7) if bias else None
    layer = LowBitLinear(linear, **options)
    weight = expected_weight(linear, **options)
    np.testing.assert_array_equal(layer.weight().data, weight.data)
    right = x.data @ weight.data + (linear.bias.data if bias else 0)
    got = layer(x)
    assert (got.dtype, got.shape) == (np.float32, (*shape[:-1], 7))
    np.testing.assert_allclose(got.data, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options, packed, overhead, bits_per_weight",
    [
        ({}, 64 * 10 // 2, 2 * 20, 4.5),
        ({"scale_dtype": np.float32}, 320, 4 * 20, 5.0),
        ({"symmetric": False}, 320, 2 * 20 + 10, 4.625),
        ({"group_size": 64}, 320, 2 * 10, 4.25),
        ({"bits": 3}, 240, 2 * 20, 3.5),
        ({"codebook": NF4}, 320, 2 * 20 + 64, 8 * 424 / 640),
    ],
)
def test_the_layer_reports_the_bytes_that_it_holds(options, packed, overhead, bits_per_weight):
    layer = LowBitLinear(Linear(64, 10), **options)
    memory = layer.memory_usage()
    held = [value for value in vars(layer).values() if isinstance(value, (Tensor, np.ndarray))]
    assert sum(t.nbytes for t in held) == packed + 40 + overhead
    assert memory == {
        "original_bytes": 2600,
        "quantized_bytes": packed + 40,
        "overhead_bytes": overhead,
        "compression_ratio": 2600 / (packed + 40),
        "total_ratio": 2600 / (packed + 40 + overhead),
        "bits_per_weight": bits_per_weight,
    }
    assert layer.parameters() == []


def test_gradients_pass_through_to_the_inputs():
    layer = LowBitLinear(Linear(32, 5))
    x = Tensor(random.standard_normal((3, 32)), requires_grad=True)
    layer(x).sum().backward()
    np.testing.assert_allclose(x.grad.data[1], layer.weight().data.sum(axis=1), rtol=1e-5)


def test_the_layer_prints_itself():
    assert repr(LowBitLinear(Linear(64, 10), 3, None, symmetric=False)) == (
        "LowBitLinear(in_features=64, out_features=10, bias=True, bits=3, group_size=64, "
        "symmetric=False)"
    )
    assert repr(LowBitLinear(Linear(32, 1, bias=False), codebook=NF4)).endswith(
        "bias=False, bits=4, group_size=32, codebook)"
    )


def test_the_layer_refuses_what_it_can_not_do():
    linear = Linear(64, 3)
    with pytest.raises(TypeError, match="fc: expected a Linear, got Sequential"):
        LowBitLinear(Sequential(linear), name="fc")
    for bits in (1, 9):
        with pytest.raises(ValueError, match=f"fc: bits must be .* 2 to 8, got {bits}"):
            LowBitLinear(linear, bits, name="fc")
    with pytest.raises(ValueError, match=r"fc\.weight: group_size 48 does not divide the 64"):
        LowBitLinear(linear, group_size=48, name="fc")
    with pytest.raises(ValueError, match=r"LowBitLinear: expected \(\.\.\., 64\), got \(7, 3\)"):
        LowBitLinear(linear)(normal(7, 3))
    linear.weight.data[5, 2] = math.nan
    with pytest.raises(ValueError, match=r"fc\.weight holds nan at"):
        LowBitLinear(linear, name="fc")
    linear.weight.data[5, 2] = 1e7
    with pytest.raises(ValueError, match=r"fc\.weight: a scale of .* use scale_dtype=np\.float32"):
        LowBitLinear(linear, name="fc")
    assert LowBitLinear(linear, scale_dtype=np.float32).weight().data[5, 2] == 1e7


def test_the_layer_keeps_its_own_copy():
    linear = Linear(32, 2)
    layer = LowBitLinear(linear)
    before = layer.weight().data.copy(), layer.bias.data.copy()
    linear.weight.data[:], linear.bias.data[:] = 0, 7
    np.testing.assert_array_equal(layer.weight().data, before[0])
    np.testing.assert_array_equal(layer.bias.data, before[1])


# --- models ---
class Net(Module):
    """Linears wherever a Module may hold one; `fc` and `again` are the same."""

    def __init__(self):
        self.fc = Linear(32, 32)
        self.blocks = [Sequential(Linear(32, 64), ReLU()), {"inner": [Linear(64, 32)]}]
        self.again = self.fc
        self.head = Linear(32, 3)

    def forward(self, x):
        x = self.again(self.fc(x))
        return self.head(self.blocks[1]["inner"][0](self.blocks[0](x)))


NAMES = ["fc", "blocks.0.0", "blocks.1.inner.0", "head"]


def test_quantize_weights_reaches_every_linear_of_any_tree():
    model, x = Net().eval(), normal(50, 32)
    expected = model(x).detach()
    report = quantize_weights(model, bits=6)
    assert list(report["layers"]) == NAMES
    assert report["quantized_layers"] == 4
    assert not [m for m in model.modules() if isinstance(m, Linear)]
    assert model.again is model.fc
    assert not model.fc.training
    assert snr(expected, model(x).detach()) > 20
    for name, layer in report["layers"].items():
        assert layer["snr_db"] > 25
        assert layer["bits_per_weight"] == 6.5, name


def test_the_report_counts_what_the_model_holds():
    model = Net()
    model.extra = Tensor(np.zeros(10))
    before = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    report = quantize_weights(model, skip="head")
    held = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    overhead = (32 * 32 + 32 * 64 + 64 * 32) // 32 * 2
    assert report["original_size_mb"] == before / 1e6
    assert report["overhead_mb"] == overhead / 1e6
    assert report["quantized_size_mb"] == (held - overhead) / 1e6
    assert report["compression_ratio"] == before / (held - overhead)
    assert isinstance(model.head, Linear)
    assert json.loads(json.dumps(report))["quantized_layers"] == 3
    again = quantize_weights(model)
    assert again["original_size_mb"] == held / 1e6
    assert again["overhead_mb"] == (overhead + 3 * 2) / 1e6
    assert repr(report).splitlines()[0] == "Linear layers quantised: 3"


def test_it_lives_beside_the_layers_of_module_15():
    model = Sequential(Linear(32, 32), Linear(32, 3))
    quantize_model(model, skip="0")
    assert quantize_weights(model)["quantized_layers"] == 1
    assert [type(layer) for layer in model] == [LowBitLinear, QuantizedLinear]
    assert model(normal(2, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    "error, says, options",
    [
        (ValueError, r"blocks\.1\.inner\.0\.weight: group_size 48 does not", {"group_size": 48}),
        (ValueError, "fc: bits must be a whole number from 2 to 8, got 16", {"bits": 16}),
        (ValueError, r"quantize_weights: skip names \['haed'\]", {"skip": "haed"}),
        (ValueError, r"fc\.weight: a codebook for 3 bits", {"bits": 3, "codebook": NF4}),
        (TypeError, "scale_dtype must be", {"scale_dtype": np.int8}),
    ],
)
def test_failures_are_clear_and_change_nothing(error, says, options):
    model = Net()
    model.fc, model.blocks[0].layers[0] = Linear(96, 32), Linear(96, 64)
    model.again = model.fc
    layers, state = model.modules(), copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=says):
        quantize_weights(model, **options)
    assert all(a is b for a, b in zip(layers, model.modules(), strict=True))
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, state[name].data)


def test_only_models_with_layers_inside():
    with pytest.raises(ValueError, match=r"bare Linear .* use LowBitLinear"):
        quantize_weights(Linear(32, 2))
    with pytest.raises(TypeError, match="expected a Module, got list"):
        quantize_weights([Linear(32, 2)])
    report = quantize_weights(Sequential(ReLU()))
    assert (report["quantized_layers"], report["compression_ratio"]) == (0, 1.0)


@pytest.mark.parametrize("options", OPTIONS)
def test_state_round_trips_through_a_file_of_packed_bytes(options, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    original = Sequential(Linear(64, 256), ReLU(), Linear(256, 64))
    model, fresh = copy.deepcopy(original), Sequential(Linear(64, 256), ReLU(), Linear(256, 64))
    report = quantize_weights(model, **options)
    quantize_weights(fresh, **options)
    path = tmp_path / "model.safetensors"
    safetensors.save_file({k: v.data for k, v in model.state_dict().items()}, path)
    held = 1e6 * (report["quantized_size_mb"] + report["overhead_mb"])
    assert held <= path.stat().st_size < held + 1500
    fresh.load_state_dict(safetensors.load_file(path))
    x = normal(5, 64)
    np.testing.assert_array_equal(fresh(x).data, model(x).data)
    assert [t.dtype for t in fresh.buffers()] == [t.dtype for t in model.buffers()]


def test_models_copy():
    model, x = Net().eval(), normal(5, 32)
    quantize_weights(model)
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(twin(x).data, model(x).data)
    assert twin.fc is twin.again


@pytest.mark.parametrize("bits, group_size", [(4, 8), (3, None), (8, 4)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_layer_of_given_integers(bits, group_size, symmetric):
    linear = Linear(24, 5)
    right = LowBitLinear(linear, bits, group_size, symmetric)
    parts = quantize_groups(linear.weight.detach(), bits, group_size, symmetric)
    layer = LowBitLinear.from_integers(*parts, bits, linear.bias)
    assert repr(layer) == repr(right)
    assert layer.memory_usage() == right.memory_usage()
    assert list(layer.state_dict()) == list(right.state_dict())
    for name, value in right.state_dict().items():
        np.testing.assert_array_equal(layer.state_dict()[name].data, value.data)
    x = normal(3, 24)
    np.testing.assert_array_equal(layer(x).data, right(x).data)


def test_integers_that_do_not_fit_are_refused():
    q, scale, zero_point = quantize_groups(normal(24, 5), 4, 8, False)
    with pytest.raises(ValueError, match=r"scale of \(1, 4\) doesn't fit q of \(24, 5\)"):
        LowBitLinear.from_integers(q, np.ones((1, 4)))
    with pytest.raises(ValueError, match=r"zero_point of \(1, 5\), expected \(3, 5\)"):
        LowBitLinear.from_integers(q, scale, zero_point[:1])
    with pytest.raises(ValueError, match="2 bits hold"):
        LowBitLinear.from_integers(q, scale, bits=2)
    with pytest.raises(TypeError, match="expected integers, got float64"):
        LowBitLinear.from_integers(q, scale, zero_point + 0.5)
    with pytest.raises(ValueError, match="fc: bits must be a whole number from 2 to 8, got 9"):
        LowBitLinear.from_integers(q, scale, bits=9, name="fc")

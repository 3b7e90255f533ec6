"""What holds for every tensor in few bits."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tinytorch.core.layers import Linear
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.lowbit import (
    NF4,
    LowBitLinear,
    dequantize_bits,
    dequantize_codebook,
    dequantize_groups,
    kmeans_levels,
    nearest_code,
    pack_bits,
    pack_int4,
    quantize_bits,
    quantize_codebook,
    quantize_groups,
    unpack_bits,
    unpack_int4,
)

patiently = settings(deadline=None, max_examples=60)
LARGEST = float(np.float32(1.5e38))
anything = st.floats(-LARGEST, LARGEST, width=32)
ordinary = st.floats(-1000, 1000, width=32)  # float16 holds their scales
symmetric = st.booleans()
widths = st.integers(2, 16)


def wide(x):
    return np.asarray(x, np.float64)


@st.composite
def tensors(draw, elements=anything, min_side=0):
    """Any shape with up to three axes, also strided and reversed views."""
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=3, min_side=min_side, max_side=6))
    array = draw(arrays.arrays(np.float32, shape, elements=elements))
    return Tensor._wrap(array.T[:: draw(st.sampled_from([1, 2, -1]))])


@st.composite
def grouped(draw, elements=ordinary):
    """(tensor, group size, axis)"""
    x = draw(tensors(elements, min_side=1))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    sizes = [n for n in range(1, x.shape[axis] + 1) if x.shape[axis] % n == 0]
    return x, draw(st.sampled_from([None, *sizes])), axis


def of_groups(values, x, axis):
    """Each group's number at each element of x."""
    axis %= x.ndim
    return np.repeat(wide(values), x.shape[axis] // values.shape[axis], axis)


@patiently
@given(st.data(), tensors(), widths, symmetric)
def test_the_round_trip_is_within_half_a_step(data, x, bits, symmetric):
    axis = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1))
    q, scale, zero_point = quantize_bits(x, bits, symmetric, axis)
    restored = dequantize_bits(q, scale, zero_point, axis)
    if axis is not None:
        scale = np.expand_dims(scale, tuple(i for i in range(x.ndim) if i != axis % x.ndim))
    error = np.abs(wide(restored) - x.data)
    assert (error <= scale / 2 * (1 + 1e-9) + np.abs(wide(x)) * 1e-6).all()
    assert (restored.data[x.data == 0] == 0).all()


@patiently
@given(grouped(), widths, symmetric, st.sampled_from([np.float16, np.float32]))
def test_groups_are_within_half_a_step(case, bits, symmetric, scale_dtype):
    x, group_size, axis = case
    q, scale, zero_point = quantize_groups(x, bits, group_size, symmetric, axis, scale_dtype)
    restored = dequantize_groups(q, scale, zero_point, axis)
    error = np.abs(wide(restored) - x.data)
    assert (error <= of_groups(scale, x, axis) / 2 * (1 + 1e-9) + np.abs(wide(x)) * 1e-6).all()
    assert (restored.data[x.data == 0] == 0).all()
    assert scale.dtype == scale_dtype


@patiently
@given(grouped(anything), st.integers(2, 8), symmetric)
def test_groups_of_any_size_of_number_fit_float32_scales(case, bits, symmetric):
    x, group_size, axis = case
    q, scale, zero_point = quantize_groups(x, bits, group_size, symmetric, axis, np.float32)
    lowest, highest = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    for marks in (q.data, zero_point):
        assert lowest <= marks.min() <= marks.max() <= highest
    assert np.isfinite(dequantize_groups(q, scale, zero_point, axis).data).all()


@patiently
@given(grouped(st.floats(-0.5, 0.5, width=32)), st.sampled_from([2.0**k for k in (-3, 2, 9)]))
def test_powers_of_two_scale_the_grid_alone(case, factor):
    x, group_size, axis = case
    x = Tensor._wrap(np.where(np.abs(x.data) < 1e-2, np.float32(0), x.data))  # no subnormal scales
    scaled = Tensor._wrap(x.data * np.float32(factor))
    q, scale, _ = quantize_groups(x, 4, group_size, axis=axis)
    q_scaled, scale_scaled, _ = quantize_groups(scaled, 4, group_size, axis=axis)
    np.testing.assert_array_equal(q_scaled.data, q.data)
    filled = of_groups(scale, x, axis)[x.data != 0]
    np.testing.assert_array_equal(of_groups(scale_scaled, x, axis)[x.data != 0], filled * factor)


@patiently
@given(st.lists(st.integers(-8, 7)), st.lists(st.integers(0, 15)))
def test_nibbles_come_back(signed, unsigned):
    packed = pack_int4(np.array(signed, np.int8))
    assert unpack_int4(packed, len(signed)).tolist() == signed
    packed = pack_int4(np.array(unsigned, np.uint8))
    assert packed.nbytes == (len(unsigned) + 1) // 2
    assert unpack_int4(packed, len(unsigned), signed=False).tolist() == unsigned


@patiently
@given(st.data(), st.integers(2, 8), st.booleans())
def test_bits_come_back_and_bytes_too(data, bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    q = data.draw(st.lists(st.integers(low, low + 2**bits - 1), max_size=40))
    packed = pack_bits(np.array(q, np.int64), bits)
    unpacked = unpack_bits(packed, bits, len(q), signed)
    assert unpacked.tolist() == q
    np.testing.assert_array_equal(pack_bits(unpacked, bits), packed)


@patiently
@given(arrays.arrays(np.uint8, st.integers(0, 20)), st.booleans())
def test_every_byte_is_two_nibbles(packed, signed):
    unpacked = unpack_int4(packed, 2 * packed.size, signed)
    np.testing.assert_array_equal(pack_int4(unpacked), packed)


@patiently
@given(arrays.arrays(np.float64, st.integers(1, 50), elements=anything), st.integers(2, 6))
def test_kmeans_is_never_worse_than_its_even_start(x, bits):
    start = np.linspace(x.min(), x.max(), 2**bits)
    errors = []
    for iterations in (0, 1, 2, 300):
        levels = kmeans_levels(x, bits, iterations)
        assert levels.shape == start.shape
        assert (np.diff(levels) >= 0).all()
        assert x.min() <= levels[0] <= levels[-1] <= x.max()
        errors.append(((levels[nearest_code(x, levels)] - x) ** 2).sum())
    np.testing.assert_array_equal(kmeans_levels(x, bits, 0), start)
    slack = 1e-14 * (np.abs(x).max() ** 2) * x.size
    assert all(later <= earlier + slack for earlier, later in pairwise(errors))


@patiently
@given(st.data(), arrays.arrays(np.float64, st.integers(0, 40), elements=ordinary))
def test_codes_are_nearest(data, x):
    levels = sorted(data.draw(st.lists(ordinary, min_size=1, max_size=20)))
    levels = np.array(levels)
    distance = np.abs(x[:, None] - levels)
    code = nearest_code(x, levels)
    chosen = np.take_along_axis(distance, code[:, None].astype(int), axis=1)[:, 0]
    assert (chosen <= distance.min(axis=1) + 1e-9).all()


@patiently
@given(grouped())
def test_codebooks_keep_zero_and_each_groups_largest(case):
    x, group_size, axis = case
    codes, levels, scale = quantize_codebook(x, NF4, 4, group_size, axis)
    restored = dequantize_codebook(codes, levels, scale, axis)
    assert (restored.data[x.data == 0] == 0).all()
    steps = of_groups(scale, x, axis)
    widest = np.diff(NF4).max() / 2
    assert (np.abs(wide(restored) - x.data) <= steps * widest * (1 + 1e-6)).all()


@patiently
@given(st.data(), st.integers(2, 8), symmetric, st.booleans())
def test_the_layer_multiplies_by_what_its_bytes_say(data, bits, symmetric, learned):
    features, outputs = 2 * data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    linear = Linear(features, outputs)
    shape = features, outputs
    linear.weight.data[:] = data.draw(arrays.arrays(np.float32, shape, elements=ordinary))
    codebook = kmeans_levels if learned else None
    layer = LowBitLinear(linear, bits, features // 2, symmetric, codebook)
    x = data.draw(arrays.arrays(np.float32, (3, features), elements=ordinary))
    weight = layer.weight().data
    right = wide(x) @ wide(weight) + wide(linear.bias)
    bound = np.abs(wide(x)) @ np.abs(wide(weight)) * 1e-5 + 1e-4
    assert (np.abs(layer(Tensor(x)).data - right) <= bound).all()
    assert layer.packed.nbytes == (features * outputs * bits + 7) // 8

"""What holds for every tensor that is quantised."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tinytorch.core.layers import Linear
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.quantization import (
    QuantizedLinear,
    dequantize_int8,
    int8_matmul,
    quantization_parameters,
    quantize_int8,
    to_int8,
)

patiently = settings(deadline=None, max_examples=60)
LARGEST = float(np.float32(1.5e38))
floats = st.floats(-LARGEST, LARGEST, width=32)
moderate = (
    st.just(0.0)
    | st.floats(2.0**-90, 2.0**90, width=32)
    | st.floats(-(2.0**90), -(2.0**-90), width=32)
)
symmetric = st.booleans()


@st.composite
def tensors(draw, elements=floats, dtype=np.float32):
    """Any shape with up to three axes, also strided and reversed views."""
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=6))
    array = draw(arrays.arrays(dtype, shape, elements=elements))
    step = draw(st.sampled_from([1, 2, -1]))
    return Tensor._wrap(array.T[::step])


@st.composite
def tensors_and_axes(draw):
    x = draw(tensors())
    return x, draw(st.none() | st.integers(-x.ndim, x.ndim - 1))


def half_step(x, scale, axis):
    """Half of each element's scale, and what rounding to float32 adds."""
    if axis is not None:
        scale = np.expand_dims(scale, tuple(i for i in range(x.ndim) if i != axis % x.ndim))
    return scale / 2 * (1 + 1e-9) + np.abs(x.data.astype(np.float64)) * 1e-6


@patiently
@given(tensors_and_axes(), symmetric)
def test_the_round_trip_is_within_half_a_step(x_and_axis, symmetric):
    x, axis = x_and_axis
    q, scale, zero_point = quantize_int8(x, symmetric, axis)
    restored = dequantize_int8(q, scale, zero_point, axis)
    assert (q.shape, q.dtype, restored.dtype) == (x.shape, np.int8, np.float32)
    error = np.abs(restored.data.astype(np.float64) - x.data)
    assert (error <= half_step(x, scale, axis)).all()
    if symmetric:
        assert (np.asarray(zero_point) == 0).all()
        assert (q.data >= -127).all()


@patiently
@given(tensors_and_axes(), symmetric)
def test_zero_stays_exactly_zero(x_and_axis, symmetric):
    x, axis = x_and_axis
    x = Tensor._wrap(np.where(np.arange(x.size).reshape(x.shape) % 2, x.data, np.float32(0)))
    restored = dequantize_int8(*quantize_int8(x, symmetric, axis), axis)
    assert (restored.data[x.data == 0] == 0).all()


@patiently
@given(floats, arrays.array_shapes(max_dims=2, max_side=4), symmetric)
def test_constants_come_back_exactly(value, shape, symmetric):
    x = Tensor(np.full(shape, value, np.float32))
    for axis in (None, 0):
        restored = dequantize_int8(*quantize_int8(x, symmetric, axis), axis)
        np.testing.assert_array_equal(restored.data, x.data)


@patiently
@given(tensors(), symmetric)
def test_order_is_kept(x, symmetric):
    q, scale, zero_point = quantize_int8(x, symmetric)
    restored = dequantize_int8(q, scale, zero_point).data.reshape(-1)
    order = np.argsort(x.data, axis=None)
    assert (np.diff(q.data.reshape(-1)[order].astype(int)) >= 0).all()
    assert (np.diff(restored[order].astype(np.float64)) >= 0).all()


@patiently
@given(tensors(), symmetric)
def test_quantising_what_was_restored_gives_the_same_marks(x, symmetric):
    q, scale, zero_point = quantize_int8(x, symmetric)
    restored = dequantize_int8(q, scale, zero_point).data.astype(np.float64)
    lowest = -127 if symmetric else -128
    np.testing.assert_array_equal(to_int8(restored, scale, zero_point, lowest), q.data)


@patiently
@given(floats, floats, st.integers(2, 8), symmetric)
def test_the_zero_point_is_on_the_grid(a, b, bits, symmetric):
    scale, zero_point = quantization_parameters(min(a, b), max(a, b), symmetric, bits)
    lowest, highest = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    assert scale > 0
    assert lowest <= zero_point <= highest
    slack = scale / 2 * (1 + 1e-9)  # the ends are within half a step of the outer marks
    assert (lowest - zero_point) * scale <= min(a, b, 0) + slack
    assert (highest - zero_point) * scale >= max(a, b, 0) - slack


@patiently
@given(tensors(moderate), st.sampled_from([2.0**k for k in (-8, -1, 3)]))
def test_powers_of_two_scale_the_grid_alone(x, factor):
    if x.data.min() == x.data.max():
        return  # constants have grids of their own
    scaled = Tensor._wrap(x.data.astype(np.float64) * factor)
    q, scale, zero_point = quantize_int8(x)
    q_scaled, scale_scaled, zero_point_scaled = quantize_int8(scaled)
    np.testing.assert_array_equal(q_scaled.data, q.data)
    assert (scale_scaled, zero_point_scaled) == (scale * factor, zero_point)


@patiently
@given(st.data(), st.integers(0, 40), st.integers(1, 4), st.integers(1, 4))
def test_products_of_integers_are_exact(data, k, n, m):
    marks = st.integers(-128, 127)
    a = data.draw(arrays.arrays(np.int8, (n, k), elements=marks))
    b = data.draw(arrays.arrays(np.int8, (k, m), elements=marks))
    zero_a = data.draw(marks)
    zero_b = data.draw(marks | arrays.arrays(np.int32, m, elements=marks))
    right = (a.astype(np.int64) - zero_a) @ (b.astype(np.int64) - zero_b)
    np.testing.assert_array_equal(int8_matmul(a, b, zero_a, zero_b), right)


@patiently
@given(st.data(), st.sampled_from([None, 1]), symmetric, st.integers(1, 8))
def test_the_layer_is_within_the_error_of_its_grids(data, axis, symmetric, features):
    numbers = st.floats(-100, 100, width=32)
    linear = Linear(features, 3)
    linear.weight.data[:] = data.draw(arrays.arrays(np.float32, (features, 3), elements=numbers))
    x = data.draw(arrays.arrays(np.float32, (4, features), elements=numbers))
    layer = QuantizedLinear(linear, symmetric, axis)
    layer.calibrate(Tensor(x))
    x_error = layer.input_scale.item() / 2
    w_error = layer.weight_scale.data / 2
    b_error = layer.bias_scale.item() / 2
    # |xw - x'w'| <= |x| |w - w'| + |x - x'| |w| + |x - x'| |w - w'|, summed over the features
    bound = np.abs(x).sum(axis=1, keepdims=True) * w_error + features * x_error * w_error
    bound = bound + x_error * np.abs(linear.weight.data).sum(axis=0) + b_error
    error = np.abs(layer(Tensor(x)).data - linear(Tensor(x)).data)
    assert (error <= bound * (1 + 1e-5) + 1e-2).all()

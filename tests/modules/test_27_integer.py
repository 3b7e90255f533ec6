"""Module 27: integer arithmetic against exact fractions, integer models against their formula."""

import ast
import copy
import functools
import importlib
import math
import pickle
import sys
from collections import Counter
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tinytorch.core.activations import GELU, ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Dropout, Flatten, Identity, Linear, Module, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.spatial import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    GlobalAvgPool2d,
    MaxPool2d,
    conv2d,
)
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits
from tinytorch.optimization.integer import (
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerGlobalAvgPool2d,
    IntegerLinear,
    IntegerReLU,
    carried_matmul,
    exact_terms,
    fixed_point,
    fixed_point_multiply,
    integer_matmul,
    integer_model,
    requantize,
    rounding_divide,
    rounding_doubling_high_multiply,
    rounding_right_shift,
)
from tinytorch.optimization.observers import (
    Grid,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
    fuse,
)
from tinytorch.optimization.qat import ChosenGrid, finish_qat, prepare_qat

LOW, HIGH = -(2**31), 2**31 - 1
EDGES = [LOW, LOW + 1, -(2**30), -3, -2, -1, 0, 1, 2, 3, 2**30 - 1, 2**30, HIGH - 1, HIGH]
int32s = st.one_of(st.sampled_from(EDGES), st.integers(LOW, HIGH))
random = np.random.default_rng()


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    random.bit_generator.state = np.random.default_rng(27).bit_generator.state


def halves_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def halves_away(x: Fraction) -> int:
    return halves_up(abs(x)) * (1 if x >= 0 else -1)


def saturated(x: int) -> int:
    return min(max(x, LOW), HIGH)


def gemmlowp_high_multiply(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul as gemmlowp's fixedpoint.h has it."""
    if a == b == LOW:
        return HIGH
    nudge = 2**30 if a * b >= 0 else 1 - 2**30
    quotient = abs(a * b + nudge) // 2**31  # C divides towards zero
    return quotient if a * b + nudge >= 0 else -quotient


def gemmlowp_right_shift(x: int, exponent: int) -> int:
    """RoundingDivideByPOT as gemmlowp's fixedpoint.h has it."""
    mask = (1 << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


# --- the arithmetic ---
@settings(deadline=None)
@given(int32s, int32s)
def test_the_high_multiplication_is_the_exact_product_rounded_halves_up(a, b):
    got = rounding_doubling_high_multiply(np.int32(a), np.int32(b))
    assert got.dtype == np.int32
    assert int(got) == saturated(halves_up(Fraction(a * b, 2**31)))
    assert int(got) == gemmlowp_high_multiply(a, b)


def test_the_high_multiplication_of_all_extremes():
    a = np.array(EDGES, np.int32)
    got = rounding_doubling_high_multiply(a[:, None], a)
    right = [[saturated(halves_up(Fraction(x * y, 2**31))) for y in EDGES] for x in EDGES]
    assert got.tolist() == right
    assert got[0, 0] == HIGH  # saturates
    ties = np.array([1, -1, 3, -3], np.int32)
    assert rounding_doubling_high_multiply(ties, 2**30).tolist() == [1, 0, 2, -1]


@settings(deadline=None)
@given(int32s, st.integers(0, 31))
def test_the_shift_is_the_exact_quotient_rounded_halves_away_from_zero(x, exponent):
    got = rounding_right_shift(np.int32(x), exponent)
    assert got.dtype == np.int32
    assert int(got) == halves_away(Fraction(x, 2**exponent))
    assert int(got) == gemmlowp_right_shift(x, exponent)


def test_the_shift_of_all_extremes():
    exponents = np.arange(32)
    got = rounding_right_shift(np.array(EDGES)[:, None], exponents)
    assert got.tolist() == [[halves_away(Fraction(x, 2**e)) for e in range(32)] for x in EDGES]


@settings(deadline=None)
@given(st.floats(2.0**-31, 2.0**30, exclude_max=True))
def test_a_fixed_point_number_is_the_nearest_with_31_bits(multiplier):
    mantissa, exponent = fixed_point(multiplier)
    assert 2**30 <= mantissa < 2**31
    got = Fraction(mantissa) * Fraction(2) ** (exponent - 31)
    assert abs(got - Fraction(multiplier)) <= Fraction(2) ** (exponent - 32)
    arrays_of_them = fixed_point(np.array([multiplier]))
    assert [a.dtype for a in arrays_of_them] == [np.int32, np.int32]
    assert [a.tolist() for a in arrays_of_them] == [[mantissa], [exponent]]


def test_fixed_point_at_the_ends():
    assert fixed_point(0.5) == (2**30, 0)
    assert fixed_point(1.0) == (2**30, 1)
    assert fixed_point(1 - 2.0**-40) == (2**30, 1)  # rounds up to one
    assert fixed_point(0.5 + 2.0**-32) == (2**30 + 1, 0)  # a half goes away from zero
    assert fixed_point(2.0**-32) == (2**30, -31)
    assert fixed_point(2.0**-33) == (0, 0)
    assert fixed_point(1e-300) == (0, 0)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf, 2.0**30, [0.5, -0.5]])
def test_multipliers_without_a_fixed_point(wrong):
    with pytest.raises(ValueError, match="fixed_point: expected numbers above 0, below 2\\^30"):
        fixed_point(wrong)


@settings(deadline=None)
@given(int32s, st.floats(2.0**-40, 2.0**30, exclude_max=True))
def test_the_product_is_rounded_twice_and_saturates(x, multiplier):
    mantissa, exponent = fixed_point(multiplier)
    shifted = saturated(x * 2 ** max(exponent, 0))
    high = saturated(halves_up(Fraction(shifted * mantissa, 2**31)))
    right = halves_away(Fraction(high, 2 ** max(-exponent, 0)))
    got = fixed_point_multiply(np.int32(x), mantissa, exponent)
    assert int(got) == right
    if shifted == x * 2 ** max(exponent, 0):
        assert abs(right - x * Fraction(mantissa) * Fraction(2) ** (exponent - 31)) <= 1


@settings(deadline=None)
@given(
    arrays.arrays(np.int32, (3, 4), elements=int32s),
    arrays.arrays(np.float64, (4,), elements=st.floats(2.0**-25, 2.0**3)),
    st.integers(-128, 127),
    st.booleans(),
)
def test_requantising_channels(accumulator, multipliers, zero_point, clamped):
    lowest = zero_point if clamped else -128
    mantissa, exponent = fixed_point(multipliers)
    got = requantize(accumulator, mantissa, exponent, zero_point, lowest)
    assert (got.dtype, got.shape) == (np.int8, (3, 4))
    scaled = fixed_point_multiply(accumulator, mantissa, exponent).astype(np.int64)
    np.testing.assert_array_equal(got, np.clip(scaled + zero_point, lowest, 127))
    in_floats = np.rint(accumulator * multipliers) + zero_point
    assert np.abs(got - np.clip(in_floats, lowest, 127)).max() <= 1
    for column in range(4):
        one = fixed_point(multipliers[column])
        column_alone = requantize(accumulator[:, column], *one, zero_point, lowest)
        np.testing.assert_array_equal(got[:, column], column_alone)


def test_requantising_at_the_ends():
    one = fixed_point(1.0)
    nearly_one = fixed_point(1 - 2.0**-31)  # sums near 2^31 stay there, and + would wrap around
    for zero_point in (-128, 127):
        got = requantize(np.array([HIGH, LOW]), *nearly_one, zero_point)
        assert got.tolist() == [127, -128]
    assert requantize(np.array([-300, 10]), *one, np.int8(-128), -128).tolist() == [-128, -118]
    assert requantize(np.array([-9, 9]), *one, lowest=-8, highest=7).tolist() == [-8, 7]
    assert requantize(np.array([HIGH]), *fixed_point(2.0**29)).tolist() == [127]
    assert requantize(np.array([HIGH, LOW]), *fixed_point(1e-12), 3).tolist() == [3, 3]
    assert requantize(np.zeros((0, 3), np.int32), *one).shape == (0, 3)


def test_arithmetic_refuses_what_it_can_not_do():
    with pytest.raises(TypeError, match="high_multiply: a: expected integers, got float64"):
        rounding_doubling_high_multiply(np.array([1.0]), 3)
    with pytest.raises(ValueError, match="high_multiply: b: expected integers of 32 bits, got 0"):
        rounding_doubling_high_multiply(1, 2**31)
    for exponent in (-1, 32):
        with pytest.raises(ValueError, match="right_shift: exponent must be 0 to 31, got"):
            rounding_right_shift(1, exponent)
    with pytest.raises(TypeError, match="fixed_point_multiply: x: expected integers, got float32"):
        requantize(np.float32([1.5]), *fixed_point(1.0))
    for limits in ((0, 255), (-129, 0), (5, 4)):
        with pytest.raises(ValueError, match=f"expected a range within int8, got {limits[0]} to"):
            requantize(np.array([1]), *fixed_point(1.0), 0, *limits)


# --- integer products ---
LIMITS = [  # two extreme values, and how many of their products float32 sums exactly
    (np.int8(127), np.int8(-127), 1040),
    (np.int8(-128), np.int8(127), 1032),
    (np.int8(-128), np.int8(-128), 1024),
    (np.uint8(255), np.int8(-127), 518),
    (np.uint8(255), np.int8(-128), 514),
    (np.uint8(255), np.uint8(255), 258),
]


def odd(extreme):
    """The odd number nearest to it, within its type."""
    return extreme if extreme % 2 else np.int8(-127)


def extremes(a, b, count):
    """A row and a column of extremes, except for an odd product at the end."""
    row, column = np.full((1, count), a), np.full((count, 1), b)
    row[0, -1], column[-1, 0] = odd(a), odd(b)
    return row, column


@pytest.mark.parametrize("a, b, terms", LIMITS)
def test_float32_sums_so_many_products_exactly_and_no_more(a, b, terms):
    assert exact_terms(abs(int(a)), abs(int(b))) == terms
    assert exact_terms(abs(int(a)), abs(int(b)), np.float64) == 2**53 // abs(int(a) * int(b))
    for count in (terms, terms + 1):
        row, column = extremes(a, b, count)
        right = sum(int(x) * int(y) for x, y in zip(row[0], column[:, 0], strict=True))
        in_order = np.add.accumulate(row[0].astype(np.float32) * column[:, 0].astype(np.float32))
        by_blas = row.astype(np.float32) @ column.astype(np.float32)
        assert (int(in_order[-1]) == int(by_blas[0, 0]) == right) == (count == terms)
        assert (abs(right) <= 2**24) == (count == terms)
        assert carried_matmul(row, column).tolist() == [[right]]  # in two blocks
        assert carried_matmul(row, column, np.float64).tolist() == [[right]]
        assert integer_matmul(row, column).tolist() == [[right]]


@pytest.mark.parametrize("carrier", [np.float32, np.float64])
@pytest.mark.parametrize("k", [0, 1, 513, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("dtypes", [("int8", "int8"), ("uint8", "int8"), ("int16", "uint8")])
def test_products_are_exact(k, dtypes, carrier):
    a, b = (
        random.integers(max(np.iinfo(d).min, -300), min(np.iinfo(d).max, 300), shape, d, True)
        for d, shape in zip(dtypes, ((3, k), (k, 4)), strict=True)
    )
    right = a.astype(np.int64) @ b.astype(np.int64)
    for got in (integer_matmul(a, b), carried_matmul(a, b, carrier)):
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("shapes", [((2, 1, 3, 40), (5, 40, 4)), ((3, 40), (6, 40, 4))])
def test_products_of_stacks_and_of_strided_arrays(shapes):
    a, b = (random.integers(-128, 128, shape, np.int8) for shape in shapes)
    for x, y in ((a, b), (a[..., ::-2], b[..., ::-2, :]), (a[:0], b)):
        right = x.astype(np.int64) @ y.astype(np.int64)
        for matmul in (integer_matmul, carried_matmul):
            np.testing.assert_array_equal(matmul(x, y), right)


@pytest.mark.parametrize("matmul", [integer_matmul, carried_matmul])
def test_products_refuse_what_they_can_not_do(matmul):
    name, ones = matmul.__name__, np.ones((2, 3), np.int8)
    with pytest.raises(ValueError, match=rf"{name}: expected .* got \(2, 3\) @ \(2, 3\)"):
        matmul(ones, ones)
    with pytest.raises(ValueError, match=rf"{name}: expected .* got \(3,\) @ \(3, 2\)"):
        matmul(ones[0], ones.T)
    with pytest.raises(TypeError, match=f"{name}: b: expected integers, got float64"):
        matmul(ones, np.ones((3, 2)))
    long = np.full((1, 131_072), -128, np.int8)
    with pytest.raises(ValueError, match=f"{name}: 131072 products of up to 16384 may not fit"):
        matmul(long, long.T)
    assert matmul(long[:, 1:], long[:, 1:].T).tolist() == [[131_071 * 16384]]
    few = np.zeros((131_072, 1), np.int8)
    few[:3] = -128  # the sums fit, though not all possible ones
    assert matmul(long, few).tolist() == matmul(few.T, long.T).tolist() == [[3 * 16384]]


def test_large_integers_need_a_large_carrier():
    a = np.array([[5001]], np.int16)
    with pytest.raises(ValueError, match=r"products of up to 25010001 need carrier=np\.float64"):
        carried_matmul(a, a)
    assert carried_matmul(a, a, np.float64).tolist() == [[5001**2]]


# --- layers ---
def grid(scale, zero_point=0, bits=8, axis=None, scheme="affine"):
    return ChosenGrid(Grid(bits=bits, scheme=scheme), scale, zero_point, axis)


def int8(*shape, low=-128, high=128):
    return Tensor(random.integers(low, high, shape, np.int8), dtype=np.int8)


def exact_layer(layer, q, grids, relu, weight_scale):
    """clip(rint((acc + round(b / (sx sw))) sx sw / sy) + zy), in float64, and where it is a half.

    The sums are whole numbers below 2^53, so float64 has them exactly.
    """
    x, _, y = grids
    channels = (-1, 1, 1) if isinstance(layer, Conv2d) else (-1,)
    scale = np.broadcast_to(weight_scale, layer.weight.shape[0 if channels[1:] else 1])
    wide = scale.reshape(-1, 1, 1, 1) if channels[1:] else scale
    weight = np.clip(np.rint(layer.weight.data * (np.float32(1) / np.float32(wide))), -127, 127)
    bias = 0 if layer.bias is None else np.rint(layer.bias.data / (x.scale * scale))
    centred = q.data.astype(np.float64) - x.zero_point
    if channels[1:]:
        how = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
        sums = conv2d(centred, weight.astype(np.float64), groups=layer.groups, **how)
    else:
        sums = centred @ weight
    sums = sums + np.reshape(bias, channels if np.ndim(bias) else ())
    lowest = max(-128, y.zero_point) if relu else -128
    real = sums * (x.scale * scale / y.scale).reshape(channels)
    return np.clip(np.rint(real) + y.zero_point, lowest, 127)


def symmetric_scale(weight, axis):
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return (np.abs(weight.data).max(axis=others) / np.float32(127)).astype(np.float64)


CONVOLUTIONS = [
    dict(kernel_size=3),
    dict(kernel_size=3, padding="same"),
    dict(kernel_size=(4, 2), padding="same"),
    dict(kernel_size=(2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    dict(kernel_size=3, padding=1, groups=2),
    dict(kernel_size=1, groups=4, bias=False),
]


@pytest.mark.parametrize("matmul", [integer_matmul, carried_matmul])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("zero_points", [(0, 0), (-128, -128), (37, -90), (127, 60)])
@pytest.mark.parametrize("how", [{}, *CONVOLUTIONS])
def test_a_layer_is_its_formula_within_one_step(how, zero_points, relu, matmul):
    manual_seed(1)
    layer = Conv2d(4, 8, **how) if how else Linear(60, 20)
    q = int8(3, 4, 7, 6) if how else int8(50, 60)
    axis = 0 if how else 1
    scale = symmetric_scale(layer.weight, axis)
    ends = grid(0.02, zero_points[0]), grid(0.02, zero_points[1])
    grids = ends[0], grid(scale, 0 * scale, axis=axis, scheme="symmetric"), ends[1]
    made = (IntegerConv2d if how else IntegerLinear)(layer, grids, relu=relu, matmul=matmul)
    got = made(q)
    right = exact_layer(layer, q, grids, relu, scale)
    assert (got.dtype, got.shape) == (np.int8, right.shape)
    steps = np.abs(got.data - right)
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.99
    assert len(np.unique(right)) > 15
    assert {t.dtype for name, t in made.state_dict().items() if name != "scale"} == {
        np.dtype(np.int8),
        np.dtype(np.int32),
    }


def test_one_scale_for_the_whole_weight_and_shapes_of_rows():
    layer, q = Linear(6, 3), int8(2, 5, 6)
    scale = float(np.abs(layer.weight.data).max() / 127)
    made = IntegerLinear(layer, (grid(0.1, 5), grid(scale, scheme="symmetric"), grid(0.05, -7)))
    right = exact_layer(layer, q, (grid(0.1, 5), None, grid(0.05, -7)), False, scale)
    assert np.abs(made(q).data - right).max() <= 1
    np.testing.assert_array_equal(made(q[0]).data, made(q).data[0])
    np.testing.assert_array_equal(made(q[0, 0]).data, made(q).data[0, 0])
    assert made(q[:0]).shape == (0, 5, 3)
    assert repr(made) == (
        "IntegerLinear(in_features=6, out_features=3, relu=False, scale=0.05, zero_point=-7)"
    )
    images = IntegerConv2d(Conv2d(1, 2, 3), (grid(0.1), grid(0.1), grid(1.0)))
    assert images(int8(0, 1, 5, 5)).shape == (0, 2, 3, 3)


def test_the_bias_is_int32_on_the_grid_of_the_products():
    layer = Linear(2, 2)
    layer.weight, layer.bias = Tensor([[1.0, 0.5], [-1.27, 0.0]]), Tensor([0.2507, -3.00038])
    scales = np.array([0.01, 0.005])
    made = IntegerLinear(layer, (grid(0.1, 3), grid(scales, axis=1), grid(0.2, 4)))
    assert made.q_bias.dtype == np.int32
    np.testing.assert_array_equal(made.q_bias.data, [251, -6001])
    np.testing.assert_array_equal(made.q_weight.data, [[100, 100], [-127, 0]])
    factor = made.mantissa.data * 2.0 ** (made.exponent.data - 31.0)
    np.testing.assert_allclose(factor, 0.1 * scales / 0.2, rtol=2.0**-31)


def test_a_channel_of_nothing_but_bias_keeps_it():
    layer = Linear(3, 2)
    layer.weight = Tensor([[0.0, 1.0], [0.0, 0.5], [1e-9, 1.0]])
    layer.bias = Tensor([904.0, 1.0])
    scales = np.array([2.0**-23, 1 / 127])
    made = IntegerLinear(layer, (grid(0.004, -128), grid(scales, axis=1), grid(8.0, 0)))
    assert abs(made.q_bias.data[0]) <= 2**30
    y = made(Tensor([[-128, -128, -128]], dtype=np.int8))
    assert y.tolist() == [[904 // 8, 0]]


def test_sums_that_could_overflow_are_refused():
    layer = Linear(33_200, 1)
    layer.weight.data[:] = 1.0
    layer.bias = Tensor([2**30 / 127])
    grids = grid(1.0), grid(1 / 127), grid(1.0)
    with pytest.raises(ValueError, match=r"fc: sums could reach \d+, which is no int32"):
        IntegerLinear(layer, grids, name="fc")
    layer.bias = None
    assert IntegerLinear(layer, grids)(int8(1, 33_200)).shape == (1, 1)


def test_layers_refuse_what_they_can_not_do():
    layer, image = Linear(4, 2), Conv2d(2, 2, 3)
    grids = grid(0.1), grid(0.1), grid(0.1)
    with pytest.raises(ValueError, match="fc: expected a symmetric grid for the weight"):
        IntegerLinear(layer, (grids[0], grid(0.1, 3), grids[2]), name="fc")
    made, conv = IntegerLinear(layer, grids, name="fc"), IntegerConv2d(image, grids, name="conv")
    with pytest.raises(TypeError, match="fc: expected a Tensor of int8, got float32: quantise"):
        made(Tensor([[1.0, 2.0, 3.0, 4.0]]))
    with pytest.raises(TypeError, match="conv: expected a Tensor of int8, got ndarray"):
        conv(np.zeros((1, 2, 5, 5), np.int8))
    with pytest.raises(ValueError, match=r"fc: expected \(\.\.\., 4\), got \(3, 5\)"):
        made(int8(3, 5))
    with pytest.raises(ValueError, match=r"conv: expected images .* got \(2, 5, 5\)"):
        conv(int8(2, 5, 5))
    with pytest.raises(ValueError, match=r"conv: expected 2 channels, got \(1, 3, 5, 5\)"):
        conv(int8(1, 3, 5, 5))
    layer.weight.data[1, 1] = math.nan
    with pytest.raises(ValueError, match=r"fc\.weight holds nan at \[1, 1\]"):
        IntegerLinear(layer, grids, name="fc")
    layer.weight.data[1, 1], layer.bias.data[0] = 0, math.inf
    with pytest.raises(ValueError, match=r"fc\.bias holds inf at \[0\]"):
        IntegerLinear(layer, grids, name="fc")


# --- layers that keep their grid ---
@settings(deadline=None)
@given(st.integers(-(2**20), 2**20), st.integers(1, 300))
def test_division_rounds_halves_away_from_zero(total, count):
    got = rounding_divide(np.array([total]), count)
    assert got.tolist() == [halves_away(Fraction(total, count))]
    tflite = (total + count // 2 if total > 0 else total - count // 2) / count
    assert got.tolist() == [math.trunc(tflite)]


@pytest.mark.parametrize("zero_point", [-128, 0, 55])
@pytest.mark.parametrize("how", [dict(kernel_size=2), dict(kernel_size=3, stride=2, padding=1)])
def test_average_pooling_is_the_exact_mean_of_the_integers(how, zero_point):
    q, pool = int8(2, 3, 7, 6), AvgPool2d(**how)
    got = IntegerAvgPool2d(pool, zero_point)(q)
    count = how["kernel_size"] ** 2
    centred = q.data.astype(np.float64) - zero_point
    totals = np.rint(pool(Tensor(centred, dtype=np.float64)).data * count).astype(int)
    right = [halves_away(Fraction(int(t) + count * zero_point, count)) for t in totals.ravel()]
    assert (got.dtype, got.shape) == (np.int8, totals.shape)
    assert got.data.ravel().tolist() == right


def test_global_pooling_max_pooling_and_relu():
    q = int8(4, 3, 6, 5)
    means = IntegerGlobalAvgPool2d()(q)
    right = [halves_away(Fraction(int(t), 30)) for t in q.data.sum(axis=(2, 3), dtype=int).ravel()]
    assert (means.dtype, means.data.ravel().tolist()) == (np.int8, right)
    np.testing.assert_array_equal(IntegerReLU(-7)(q).data, np.maximum(q.data, -7))
    assert IntegerReLU(-7)(q).dtype == np.int8
    extremes = Tensor(np.full((1, 1, 20, 20), -128, np.int8), dtype=np.int8)
    assert IntegerGlobalAvgPool2d()(extremes).tolist() == [[-128]]
    with pytest.raises(ValueError, match=r"IntegerAvgPool2d: expected images .* got \(6, 5\)"):
        IntegerAvgPool2d(AvgPool2d(2), 0)(q[0, 0])
    with pytest.raises(TypeError, match="IntegerReLU: expected a Tensor of int8, got float32"):
        IntegerReLU(0)(Tensor([1.0]))


# --- whole models ---
def mlp():
    return Sequential(Flatten(), Linear(64, 48), ReLU(), Linear(48, 32), ReLU(), Linear(32, 10))


def cnn():
    return Sequential(
        *(Conv2d(1, 8, 3, padding=1), BatchNorm2d(8), ReLU(), MaxPool2d(2)),
        *(Conv2d(8, 16, 3, padding=1), BatchNorm2d(16), ReLU(), MaxPool2d(2)),
        *(Flatten(), Linear(64, 10)),
    )


def all_sorts():
    return Sequential(
        *(Conv2d(1, 8, 3, padding=1), BatchNorm2d(8), ReLU(), MaxPool2d(2)),
        Sequential(Conv2d(8, 16, 3, padding="same", bias=False), BatchNorm2d(16)),
        *(AvgPool2d(3, stride=2, padding=1), ReLU(), Dropout(0.1)),
        *(Conv2d(16, 16, 2, groups=4), GlobalAvgPool2d(), Identity(), Linear(16, 10)),
    )


@functools.cache
def trained(make, epochs=6):
    """A model that reads digits, in eval mode."""
    manual_seed(0)
    model = make()
    trainer = Trainer(model, Adam(model.parameters(), lr=1e-2), CrossEntropyLoss())
    trainer.fit(DataLoader(Digits(), batch_size=64, shuffle=True, seed=0), epochs, progress=False)
    return model.eval()


def results(layers, q):
    """What each layer gives."""
    for layer in layers:
        q = layer(q)
        yield q


def float_multipliers(model, integers, q):
    """The integer model with `exact_layer` in the place of each layer that multiplies."""
    plain = [m for m in fuse(model, Digits().images).modules() if type(m) in (Linear, Conv2d)]
    scale, zero_point = integers.x_scale.item(), integers.x_zero_point.item()
    layers = []
    for layer in integers.layers:
        if isinstance(layer, (IntegerLinear, IntegerConv2d)):
            floats, axis = plain.pop(0), layer.axis
            ends = grid(scale, zero_point), grid(layer.scale.item(), layer.zero_point.item())
            weight_scale = symmetric_scale(floats.weight, axis)
            how = floats, (ends[0], None, ends[1]), layer.relu, weight_scale
            layers.append(partial(in_floats, *how))
            scale, zero_point = ends[1].scale, ends[1].zero_point
        else:
            layers.append(layer)
    assert not plain
    return layers


def in_floats(floats, grids, relu, weight_scale, q):
    y = exact_layer(floats, q, grids, relu, weight_scale)
    return Tensor(y.astype(np.int8), dtype=np.int8)


@pytest.mark.parametrize("make, most", [(mlp, 1), (cnn, 1), (all_sorts, 2)])
def test_models_equal_their_float_multipliers_within_one_step(make, most):
    """Each layer on the same input; and at the end of the chain, where a deep one may add two."""
    model, test = trained(make), Digits(train=False)
    integers = integer_model(model, Digits().images)
    q = integers.quantize(test.images)
    layers = float_multipliers(model, integers, q)
    chain = q
    for layer, in_float, got in zip(
        integers.layers, layers, results(integers.layers, q), strict=True
    ):
        steps = np.abs(layer(q).data.astype(int) - in_float(q).data)
        assert steps.max() <= 1
        assert (steps == 0).mean() > 0.99
        q, chain = got, in_float(chain)
    steps = np.abs(q.data.astype(int) - chain.data)
    assert steps.max() <= most
    assert (steps <= 1).mean() > 0.995
    assert (steps == 0).mean() > 0.9
    np.testing.assert_array_equal(integers(test.images).data, q.data)


@pytest.mark.parametrize("make, at_least", [(mlp, 0.94), (cnn, 0.94), (all_sorts, 0.8)])
def test_digits_are_read_as_well_as_in_floats(make, at_least):
    model, test = trained(make), Digits(train=False)
    integers = integer_model(model, DataLoader(Digits(), batch_size=500))
    with no_grad():
        floats = model(test.images).data
    q = integers(test.images)
    assert (q.dtype, q.shape) == (np.int8, floats.shape)

    def accuracy(outputs):
        return float((outputs.argmax(axis=1) == test.labels.data).mean())

    assert accuracy(floats) > at_least
    assert abs(accuracy(q.data) - accuracy(floats)) <= 0.02  # 355 images: 7 of them
    real = integers.dequantize(q).data
    assert 10 * math.log10((floats**2).sum() / ((real - floats) ** 2).sum()) > 30


@pytest.mark.parametrize("make", [mlp, cnn, all_sorts])
def test_carried_products_change_nothing(make):
    model, images = trained(make), Digits(train=False).images
    pure = integer_model(model, images)
    carried = integer_model(model, images, matmul=carried_matmul)
    np.testing.assert_array_equal(carried(images).data, pure(images).data)


CONFIGS = [
    QConfig(activation=MinMaxObserver),
    QConfig(activation=partial(MinMaxObserver, scheme="symmetric")),
    QConfig(weight=lambda axis: MinMaxObserver(scheme="symmetric")),
    QConfig(weight=partial(PerChannelMinMaxObserver, scheme="symmetric_full")),
    QConfig(partial(MinMaxObserver, bits=7), partial(PerChannelMinMaxObserver, scheme="symmetric")),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_configs(config):
    model, images = trained(mlp), Digits(train=False).images
    q = integer_model(model, images, config)(images)
    with no_grad():
        floats = model(images).data
    assert (q.data.argmax(axis=1) == floats.argmax(axis=1)).mean() > 0.97
    lowest, highest = config.activation().grid.limits
    assert lowest <= q.data.min() <= q.data.max() <= highest


def test_a_relu_clamps_on_a_symmetric_grid_too():
    layers = Sequential(Linear(4, 4), ReLU())
    symmetric = QConfig(partial(MinMaxObserver, scheme="symmetric"))
    integers = integer_model(layers, Tensor(random.standard_normal((50, 4))), symmetric)
    q = integers(Tensor(random.standard_normal((50, 4))))
    assert (q.data.min(), integers.zero_point.item()) == (0, 0)


def test_a_network_trained_for_its_grids_runs_on_integers():
    prepared = prepare_qat(trained(mlp), example=Digits().images)
    finished = finish_qat(prepared.eval())
    integers = integer_model(finished, Digits().images)
    images = Digits(train=False).images
    with no_grad():
        agree = integers(images).data.argmax(axis=1) == finished(images).data.argmax(axis=1)
    assert agree.mean() > 0.98


def test_models_are_copies_and_can_be_copied_saved_and_loaded(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    model, images = trained(cnn), Digits(train=False).images
    before = copy.deepcopy(model.state_dict())
    integers = integer_model(model, images)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, before[name].data)
    q = integers(images).data
    np.testing.assert_array_equal(copy.deepcopy(integers)(images).data, q)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(integers))(images).data, q)
    assert integers.parameters() == []
    assert integer_model(trained(all_sorts), images).parameters() == []

    other = integer_model(model, Tensor(images.data[:7] / 3))
    assert (other(images).data != q).any()
    path = tmp_path / "model.safetensors"
    safetensors.save_file({k: v.data for k, v in integers.state_dict().items()}, path)
    other.load_state_dict(safetensors.load_file(path))
    np.testing.assert_array_equal(other(images).data, q)
    floats = [name for name, t in integers.state_dict().items() if t.dtype.kind == "f"]
    assert floats == ["x_scale", "scale", "0.scale", "2.scale", "5.scale"]


def test_a_model_prints_itself():
    text = repr(integer_model(trained(cnn), Digits().images))
    first, *_, last = text.splitlines()
    assert first.startswith("IntegerModel(x_scale=0.0039")
    assert "(1): MaxPool2d(kernel_size=2" in text
    assert "(2): IntegerConv2d(8, 16, kernel_size=(3, 3), stride=1, padding=1, relu=True, " in text
    assert last == ")"


def test_what_can_be_a_model_and_an_input():
    bare = integer_model(Linear(4, 2), Tensor(random.standard_normal((9, 4))))
    assert bare(Tensor([1.0, 2.0, 3.0, 4.0])).shape == (2,)
    empty = bare(Tensor(np.zeros((0, 4))))
    assert (empty.shape, empty.dtype) == ((0, 2), np.int8)
    assert bare(Tensor([[1e38, -1e38, 1e38, 0.0]])).dtype == np.int8  # clipped, no warning
    dead = Linear(4, 2)  # every result is the bias
    dead.weight, dead.bias = Tensor(np.zeros((4, 2))), Tensor([3.0, -2.0])
    constant = integer_model(dead, Tensor(np.zeros((3, 4))))
    y = constant.dequantize(constant(Tensor(np.zeros((1, 4)))))
    np.testing.assert_allclose(y.data, [[3.0, -2.0]], atol=5 / 255)


class Half(Module):
    def forward(self, x):
        return x * 0.5


@pytest.mark.parametrize(
    "layer, says",
    [
        (GELU(), r"layer 2\.1 is GELU, which has no integer form: .* Linear, Conv2d, ReLU"),
        (BatchNorm1d(4), r"layer 2\.1 is BatchNorm1d"),  # no layer to fold it into
        (Half(), r"layer 2\.1 is Half"),
        (lambda x: x, r"layer 2\.1 is function"),
    ],
)
def test_an_unsupported_layer_is_named(layer, says):
    model = Sequential(Linear(4, 4), ReLU(), Sequential(Flatten(), layer), Linear(4, 2)).eval()
    with pytest.raises(TypeError, match=f"integer_model: {says}"):
        integer_model(model, Tensor(np.ones((3, 4))))
    with pytest.raises(TypeError, match="integer_model: the model is Half, which has no"):
        integer_model(Half(), Tensor(np.ones((3, 4))))


def test_bad_data_and_configs_are_refused():
    model, x = Sequential(Linear(4, 2)), Tensor(np.ones((3, 4)))
    for empty in ([], Tensor(np.zeros((0, 4)))):
        with pytest.raises(ValueError, match="calibration: the data is empty"):
            integer_model(model, empty)
    for bad in (math.nan, math.inf):
        data = Tensor([[1.0, bad, 0.0, 0.0]])
        with pytest.raises(ValueError, match=r"calibration data holds (nan|inf) at \[0, 1\]"):
            integer_model(model, [x, data])
        with pytest.raises(ValueError, match=r"IntegerModel: input holds (nan|inf) at \[0, 1\]"):
            integer_model(model, x)(data)
    with pytest.raises(TypeError, match="integer_model: expected a Module, got list"):
        integer_model([Linear(4, 2)], x)
    with pytest.raises(ValueError, match="input: expected a signed grid of up to 8 bits, got Grid"):
        integer_model(model, x, QConfig(partial(MinMaxObserver, signed=False)))
    with pytest.raises(ValueError, match=r"0\.weight: expected a signed grid of up to 8 bits"):
        integer_model(model, x, QConfig(weight=partial(PerChannelMinMaxObserver, bits=12)))
    with pytest.raises(ValueError, match="0: expected a symmetric grid for the weight"):
        integer_model(model, x, QConfig(weight=PerChannelMinMaxObserver))
    model[0].weight.data[1, 1] = math.nan
    with pytest.raises(ValueError, match=r"0\.weight holds nan at \[1, 1\]"):
        integer_model(model, x)


# --- no float array ---
class Wrapped(ast.NodeTransformer):
    """Every expression `x` of a program becomes `_see(x)`, so that every value is seen."""

    def visit(self, node):
        node = self.generic_visit(node)
        value = isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", None), ast.Load)
        value |= isinstance(node, (ast.Call, ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp))
        if not value or isinstance(node, ast.Starred):
            return node
        if any(isinstance(part, ast.Slice) for part in ast.walk(node)) and not isinstance(
            node, (ast.Call, ast.BinOp, ast.Subscript)
        ):
            return node  # slices may stand in an index only
        return ast.copy_location(ast.Call(ast.Name("_see", ast.Load()), [node], []), node)


class Watcher:
    """The package, imported anew with every expression wrapped; counts the values by dtype.

    It is a finder in sys.meta_path and a loader. Arrays within NumPy's own functions aren't seen.
    """

    def __init__(self):
        self.on, self.seen, self.modules = False, Counter(), {}

    def see(self, value):
        if self.on:
            for x in value if isinstance(value, (tuple, list)) else [value]:
                if isinstance(x, (np.ndarray, np.generic)):
                    self.seen[str(x.dtype)] += 1
                elif isinstance(x, float):
                    self.seen["Python float"] += 1
        return value

    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path)
        if not name.startswith("tinytorch") or spec is None or not spec.origin.endswith(".py"):
            return None
        spec.loader = self
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module, change=("", "")):
        origin = Path(module.__spec__.origin)
        source = origin.read_text()
        assert not change[0] or source.count(change[0]) == 1
        tree = ast.parse(source.replace(*change) if change[0] else source)
        vars(module)["_see"] = self.see
        tree = ast.fix_missing_locations(Wrapped().visit(tree))
        exec(compile(tree, origin, "exec"), vars(module))

    @contextmanager
    def importing(self):
        """For the length of a `with`, tinytorch is the wrapped package."""
        plain = {n: sys.modules[n] for n in list(sys.modules) if n.split(".")[0] == "tinytorch"}
        for name in plain:
            del sys.modules[name]
        sys.modules.update(self.modules)
        sys.meta_path.insert(0, self)
        try:
            yield importlib.import_module("tinytorch")
        finally:
            sys.meta_path.remove(self)
            wrapped = [n for n in sys.modules if n.split(".")[0] == "tinytorch"]
            self.modules |= {name: sys.modules.pop(name) for name in wrapped}
            sys.modules.update(plain)

    def run(self, make, change=("", "")):
        """The dtypes of all values in the forward of an integer model, after its entrance."""
        with self.importing() as tinytorch:
            module = importlib.import_module("tinytorch.optimization.integer")
            self.exec_module(module, change)
            images = tinytorch.Tensor(Digits().images.data[:50])
            integers = module.integer_model(make(tinytorch), images)
            entrance = integers.quantize

            def quantize(x):
                q = entrance(x)
                self.on = True
                return q

            integers.quantize = quantize
            self.seen.clear()
            q = integers(images)
            self.on = False
            assert q.dtype == np.int8
        return set(self.seen)


@pytest.fixture(scope="module")
def watcher():
    return Watcher()


def every_layer(t):
    return t.Sequential(
        *(t.Conv2d(1, 4, 3, padding=1), t.BatchNorm2d(4), t.ReLU(), t.MaxPool2d(2, padding=1)),
        *(t.AvgPool2d(2, 1), t.ReLU(), t.Conv2d(4, 4, 1, groups=2), t.Dropout()),
        t.Sequential(t.Conv2d(4, 3, 2), t.Flatten(), t.Linear(27, 16), t.ReLU()),
        t.Linear(16, 10),
    )


def global_pool(t):
    return t.Sequential(t.Conv2d(1, 4, 3), t.GlobalAvgPool2d(), t.Linear(4, 3))


ALLOWED = {"int8", "int16", "int32", "int64", "bool"}


@pytest.mark.parametrize("make", [every_layer, global_pool])
def test_behind_the_entrance_there_is_no_float(watcher, make):
    assert watcher.run(make) <= {"int8", "int16", "int32", "int64", "bool"}
    assert {"int8", "int16", "int32", "int64"} <= set(watcher.seen)  # it did look
    assert sum(watcher.seen.values()) > 400


FLOATS = {  # one place each where somebody might take floats, for an instant
    "requantise": (
        "    scaled = fixed_point_multiply(accumulator, mantissa, exponent)\n",
        "    scaled = np.rint(accumulator * np.ldexp(mantissa, exponent - 31)).astype(np.int32)\n",
    ),
    "high multiplication": (
        "np.minimum((product + 2**30) >> 31, INT32.max)",
        "np.minimum(np.floor(product / 2**31 + 0.5), INT32.max)",
    ),
    "shift": (
        "(np.sign(x) * ((np.abs(x) + half) >> exponent))",
        "(np.sign(x) * ((np.abs(x) + half) // 2.0**exponent))",
    ),
    "product": (
        'np.einsum("...nk,...km->...nm", a.astype(np.int32), b.astype(np.int32))',
        "(a.astype(np.float64) @ b).astype(np.int32)",
    ),
    "mean": (
        "rounding_divide(total, math.prod(x.shape[2:4])).astype(np.int8)",
        "np.rint(x.mean(axis=(2, 3))).astype(np.int8)",
    ),
    "zero point": (
        "q.astype(np.int16) - np.int16(self.x_zero_point.item())",
        "(q - float(self.x_zero_point.item())).astype(np.int16)",
    ),
    "relu": (
        "np.maximum(x, np.int8(self.zero_point.item()))",
        "np.maximum(x, np.float16(self.zero_point.item())).astype(np.int8)",
    ),
    "a single number": (
        "lowest = max(self.lowest, zero_point) if self.relu else self.lowest",
        "lowest = int(max(self.lowest / 1, zero_point)) if self.relu else self.lowest",
    ),
}


@pytest.mark.parametrize("change", FLOATS.values(), ids=FLOATS)
def test_the_watcher_sees_a_float_anywhere(watcher, change):
    """The proof that the test above can fail."""
    seen = watcher.run(every_layer, change)
    assert {"float16", "float32", "float64", "Python float"} & seen

"""Module 27: integer arithmetic against exact fractions, integer models against their formula."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tinytorch.optimization.integer import (
    carried_matmul,
    exact_terms,
    fixed_point,
    fixed_point_multiply,
    integer_matmul,
    requantize,
    rounding_doubling_high_multiply,
    rounding_right_shift,
)

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


# --- the arithmetic ---
@given(int32s, int32s)
def test_the_high_multiplication_is_the_exact_product_rounded_halves_up(a, b):
    got = rounding_doubling_high_multiply(np.int32(a), np.int32(b))
    assert got.dtype == np.int32
    assert int(got) == saturated(halves_up(Fraction(a * b, 2**31)))


def test_the_high_multiplication_of_all_extremes():
    a = np.array(EDGES, np.int32)
    got = rounding_doubling_high_multiply(a[:, None], a)
    right = [[saturated(halves_up(Fraction(x * y, 2**31))) for y in EDGES] for x in EDGES]
    assert got.tolist() == right
    assert got[0, 0] == HIGH  # saturates
    ties = np.array([1, -1, 3, -3], np.int32)
    assert rounding_doubling_high_multiply(ties, 2**30).tolist() == [1, 0, 2, -1]


@given(int32s, st.integers(0, 31))
def test_the_shift_is_the_exact_quotient_rounded_halves_away_from_zero(x, exponent):
    got = rounding_right_shift(np.int32(x), exponent)
    assert got.dtype == np.int32
    assert int(got) == halves_away(Fraction(x, 2**exponent))


def test_the_shift_of_all_extremes():
    exponents = np.arange(32)
    got = rounding_right_shift(np.array(EDGES)[:, None], exponents)
    assert got.tolist() == [[halves_away(Fraction(x, 2**e)) for e in range(32)] for x in EDGES]


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
    assert requantize(np.array([HIGH, LOW]), *one, -128).tolist() == [127, -128]
    assert requantize(np.array([HIGH, LOW]), *one, 127).tolist() == [127, -128]
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


def test_large_integers_need_a_large_carrier():
    a = np.array([[5001]], np.int16)
    with pytest.raises(ValueError, match=r"products of up to 25010001 need carrier=np\.float64"):
        carried_matmul(a, a)
    assert carried_matmul(a, a, np.float64).tolist() == [[5001**2]]

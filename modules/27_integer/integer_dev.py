# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.integer

# %% [markdown]
r"""
# Integers only

> A whole network without floating point: int8, int32 sums, one multiplication, a shift, int8.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

from typing import Any

import numpy as np

# %% nbgrader={"grade": false, "grade_id": "int32", "locked": true, "solution": false}
#| exporti
INT32 = np.iinfo(np.int32)


def as_int32(x: Any, asked: str) -> np.ndarray:
    """The integers as int32; an error where there are floats, or integers too large for it."""
    array = np.asarray(x)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{asked}: expected integers, got {array.dtype}")
    if not np.can_cast(array.dtype, np.int32):
        low, high = int(array.min(initial=0)), int(array.max(initial=0))
        if low < INT32.min or high > INT32.max:
            raise ValueError(f"{asked}: expected integers of 32 bits, got {low} to {high}")
    return array.astype(np.int32, copy=False)


# %% nbgrader={"grade": false, "grade_id": "high-multiply", "locked": false, "solution": true}
#| export
def rounding_doubling_high_multiply(a: Any, b: Any) -> np.ndarray:
    """a b / 2^31, rounded to the nearest int32, halves up: the upper half of the product, doubled.

    The one product that doesn't fit, of the lowest int32 with itself, gives the highest int32.
    (SaturatingRoundingDoublingHighMul of gemmlowp, bit for bit.)

    >>> rounding_doubling_high_multiply(np.array([3, -3]), 2**30).tolist()
    [2, -1]
    """
    a = as_int32(a, "rounding_doubling_high_multiply: a")
    b = as_int32(b, "rounding_doubling_high_multiply: b")
    ### BEGIN SOLUTION
    product = np.multiply(a, b, dtype=np.int64)
    return np.minimum((product + 2**30) >> 31, INT32.max).astype(np.int32)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "right-shift", "locked": false, "solution": true}
#| export
def rounding_right_shift(x: Any, exponent: Any) -> np.ndarray:
    """x / 2^exponent, rounded to the nearest int32, halves away from zero; exponent 0 to 31.

    (RoundingDivideByPOT of gemmlowp, bit for bit.)

    >>> rounding_right_shift(np.array([5, 6, -6, -7]), 2).tolist()
    [1, 2, -2, -2]
    """
    x = as_int32(x, "rounding_right_shift: x").astype(np.int64)
    exponent = as_int32(exponent, "rounding_right_shift: exponent").astype(np.int64)
    if ((exponent < 0) | (exponent > 31)).any():
        raise ValueError(f"rounding_right_shift: exponent must be 0 to 31, got {exponent}")
    ### BEGIN SOLUTION
    half = (np.int64(1) << exponent) >> 1
    return (np.sign(x) * ((np.abs(x) + half) >> exponent)).astype(np.int32)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "fixed-point", "locked": false, "solution": true}
#| export
def fixed_point(multiplier: Any) -> tuple[Any, Any]:
    """(mantissa, exponent) of a positive number: mantissa / 2^31 * 2^exponent, mantissa >= 2^30.

    Ints for a number, int32 arrays for an array; the relative error is at most 2^-31. What is too
    small to shift, below 2^-32, becomes (0, 0). Raises ValueError unless 0 < multiplier < 2^30.
    (QuantizeMultiplier of TensorFlow Lite.)

    >>> fixed_point(0.75), fixed_point(3.0)
    ((1610612736, 0), (1610612736, 2))
    """
    multiplier = np.asarray(multiplier, np.float64)
    if not ((multiplier > 0) & (multiplier < 2**30)).all():
        raise ValueError(f"fixed_point: expected numbers above 0, below 2^30, got {multiplier}")
    ### BEGIN SOLUTION
    fraction, exponent = np.frexp(multiplier)  # 0.5 <= fraction < 1
    mantissa = np.floor(fraction * 2**31 + 0.5).astype(np.int64)
    grown = mantissa == 2**31  # rounded up to 1.0
    mantissa, exponent = np.where(grown, 2**30, mantissa), exponent + grown
    small = exponent < -31
    mantissa, exponent = np.where(small, 0, mantissa), np.where(small, 0, exponent)
    ### END SOLUTION
    if multiplier.ndim == 0:
        return int(mantissa), int(exponent)
    return mantissa.astype(np.int32), exponent.astype(np.int32)


# %% nbgrader={"grade": false, "grade_id": "fixed-point-multiply", "locked": false, "solution": true}
#| export
def fixed_point_multiply(x: Any, mantissa: Any, exponent: Any) -> np.ndarray:
    """x times the number that `fixed_point` wrote as (mantissa, exponent), as int32.

    A left shift for exponents above 0 (which saturates), the high multiplication, a right shift for
    exponents below 0: it is rounded twice. (MultiplyByQuantizedMultiplier of TensorFlow Lite.)

    >>> fixed_point_multiply(np.array([100, -100]), *fixed_point(0.0375)).tolist()
    [4, -4]
    """
    x = as_int32(x, "fixed_point_multiply: x")
    exponent = as_int32(exponent, "fixed_point_multiply: exponent")
    ### BEGIN SOLUTION
    left, right = np.maximum(exponent, 0), np.maximum(-exponent, 0)
    shifted = np.clip(x.astype(np.int64) << left, INT32.min, INT32.max)
    return rounding_right_shift(rounding_doubling_high_multiply(shifted, mantissa), right)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "requantize", "locked": false, "solution": true}
#| export
def requantize(
    accumulator: Any,
    mantissa: Any,
    exponent: Any,
    zero_point: int = 0,
    lowest: int = -128,
    highest: int = 127,
) -> np.ndarray:
    """Sums of products as int8 on the grid of the result, by integers alone.

    clip(round(accumulator * multiplier) + zero_point, lowest, highest), with the multiplier
    scale_x scale_weight / scale_y as (mantissa, exponent) of `fixed_point`: numbers, or arrays that
    broadcast with the accumulator, one for each channel. A ReLU is lowest = zero_point.
    At most one step from the same in floats: where the product lies within a rounding of a half.

    >>> requantize(np.array([100, -100, 9000]), *fixed_point(0.0375), zero_point=5).tolist()
    [9, 1, 127]
    """
    lowest, highest, zero_point = int(lowest), int(highest), int(zero_point)
    if not -128 <= lowest <= highest <= 127:
        raise ValueError(f"requantize: expected a range within int8, got {lowest} to {highest}")
    ### BEGIN SOLUTION
    scaled = fixed_point_multiply(accumulator, mantissa, exponent)
    inside = np.clip(scaled, lowest - zero_point, highest - zero_point)  # first, or + overflows
    return (inside + zero_point).astype(np.int8)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "exact-terms", "locked": false, "solution": true}
#| export
def exact_terms(largest_a: int, largest_b: int, carrier: Any = np.float32) -> int:
    """How many products of integers a floating-point type sums exactly, whatever their order.

    Whole numbers up to 2^p are exact in a float with p bits of mantissa (24 for float32, 53 for
    float64), and no partial sum of n products exceeds n largest_a largest_b.

    >>> exact_terms(127, 127), exact_terms(255, 128), exact_terms(128, 128, np.float64) > 10**11
    (1040, 514, True)
    """
    ### BEGIN SOLUTION
    bits = np.finfo(carrier).nmant + 1
    return 2**bits // max(largest_a * largest_b, 1)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "factors", "locked": true, "solution": false}
#| exporti
def largest_magnitude(x: np.ndarray) -> int:
    """max |x| as a Python int: np.abs would leave an int8 of -128 at -128."""
    return max(-int(x.min(initial=0)), int(x.max(initial=0)))


def require_factors(a: np.ndarray, b: np.ndarray, asked: str) -> int:
    """The largest |product| of two elements of integer matrices, or stacks of them.

    Raises TypeError for floats, ValueError for other shapes, or if sums might not fit into int32.
    """
    for name, factor in (("a", a), ("b", b)):
        if factor.dtype.kind not in "iu":
            raise TypeError(f"{asked}: {name}: expected integers, got {factor.dtype}")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"{asked}: expected (..., N, K) @ (..., K, M), got {a.shape} @ {b.shape}")
    largest = largest_magnitude(a) * largest_magnitude(b)
    if a.shape[-1] * largest > INT32.max:
        raise ValueError(f"{asked}: {a.shape[-1]} products of up to {largest} may not fit in int32")
    return largest


# %% nbgrader={"grade": false, "grade_id": "integer-matmul", "locked": true, "solution": false}
#| export
def integer_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b with integers alone: (..., N, K), (..., K, M) -> int32 (..., N, M).

    By einsum: NumPy has no BLAS for integers, and its `@` loops without vector instructions.
    Raises ValueError where sums might not fit into int32, which for int8 takes K above 131,000.

    >>> integer_matmul(np.array([[100, 100]], np.int8), np.array([[100], [-3]], np.int8))
    array([[9700]], dtype=int32)
    """
    require_factors(a, b, "integer_matmul")
    return np.einsum("...nk,...km->...nm", a.astype(np.int32), b.astype(np.int32))


# %% nbgrader={"grade": false, "grade_id": "carried-matmul", "locked": false, "solution": true}
#| export
def carried_matmul(a: np.ndarray, b: np.ndarray, carrier: Any = np.float32) -> np.ndarray:
    """`integer_matmul` by the fast matmul of floats: the same numbers, exactly, as int32.

    Integers are carried in `carrier`, in blocks of K so short that no sum is ever rounded:
    `exact_terms` of the largest values that `a` and `b` hold (float32 and int8: 1024 or more).

    >>> carried_matmul(np.array([[100, 100]], np.int8), np.array([[100], [-3]], np.int8))
    array([[9700]], dtype=int32)
    """
    largest = require_factors(a, b, "carried_matmul")
    block = exact_terms(largest, 1, carrier)
    if not block:
        raise ValueError(f"carried_matmul: products of up to {largest} need carrier=np.float64")
    ### BEGIN SOLUTION
    shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = np.zeros((*shape, a.shape[-2], b.shape[-1]), np.int32)
    for start in range(0, a.shape[-1], block):
        left = a[..., start : start + block].astype(carrier)
        right = b[..., start : start + block, :].astype(carrier)
        assert left.shape[-1] * largest <= 2 ** (np.finfo(carrier).nmant + 1)
        total += (left @ right).astype(np.int32)
    return total
    ### END SOLUTION

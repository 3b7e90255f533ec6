"""Tensors: dtypes, every operation against NumPy, views, errors in one line, watchers."""

import copy
import itertools
import math
import pickle
import threading

import numpy as np
import pytest

from tinytorch.core import tensor as core
from tinytorch.core.tensor import (
    Tensor,
    arange,
    broadcast_shape,
    concat,
    einsum,
    eye,
    full,
    full_like,
    install_watcher,
    manual_seed,
    maximum,
    minimum,
    ones,
    ones_like,
    op,
    paused,
    put,
    rand,
    rand_like,
    randn,
    randn_like,
    scatter_add,
    split,
    stack,
    watchers,
    watching,
    where,
    writes,
    zeros,
    zeros_like,
)


def random(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def same(got, expected, dtype=None):
    """The tensor holds these numbers, in this dtype, and in this shape."""
    assert type(got) is Tensor
    assert type(got.data) is np.ndarray
    assert got.shape == np.shape(expected)
    assert got.dtype == (dtype or np.asarray(expected).dtype)
    np.testing.assert_allclose(got.data, expected, rtol=1e-6, atol=1e-6)


# --- what a tensor is made of ---

MADE = {
    "number": (3, None, np.float32),
    "whole numbers": ([1, 2], None, np.float32),
    "nested": ([[1, 2], [3, 4]], None, np.float32),
    "range": (range(3), None, np.float32),
    "boolean": (True, None, np.bool_),
    "booleans": ([True, False], None, np.bool_),
    "boolean beside a number": ([True, 2], None, np.float32),
    "NumPy scalar": (np.float64(0.5), None, np.float32),
    "whole NumPy scalar": (np.int64(3), None, np.float32),
    "list of arrays": ([np.arange(2), np.arange(2)], None, np.float32),
    "float64 array": (np.ones(2), None, np.float32),
    "0-d float64 array": (np.array(0.5), None, np.float32),
    "float16 array": (np.ones(2, np.float16), None, np.float16),
    "int8 array": (np.ones(2, np.int8), None, np.int8),
    "int64 array": (np.arange(2), None, np.int64),
    "bool array": (np.array([True]), None, np.bool_),
    "asked for": ([1, 2], np.int8, np.int8),
    "asked for float64": (np.ones(2), np.float64, np.float64),
    "asked for by Python's name": ([1, 2], int, np.int64),
    "empty": ([], None, np.float32),
}


@pytest.mark.parametrize("name", MADE)
def test_constructor(name):
    data, dtype, expected = MADE[name]
    same(Tensor(data, dtype=dtype), np.array(data), expected)


def test_constructor_copies_and_takes_tensors():
    array = np.zeros(2, np.float32)
    x = Tensor(array)
    y = Tensor(x)
    array[0] = 1
    x[1] = 2
    assert x.tolist() == [0, 2]
    assert y.tolist() == [0, 0]
    same(Tensor([Tensor([1, 2]), Tensor([3, 4])]), [[1, 2], [3, 4]], np.float32)
    same(Tensor([Tensor(1), 2]), [1, 2], np.float32)
    assert Tensor(Tensor([1], dtype=np.int8)).dtype == np.int8
    assert Tensor(Tensor([1], dtype=np.float64)).dtype == np.float32
    assert Tensor(0.1, dtype=np.float64).item() == 0.1


@pytest.mark.parametrize(
    ("data", "dtype", "error", "message"),
    [
        ([[1, 2], [3]], None, ValueError, "differ in length"),
        ([np.ones(1), np.ones(2)], None, ValueError, "differ in length"),
        ("text", None, TypeError, "expected numbers or booleans, got 'text'"),
        (["1", "2"], None, TypeError, "expected numbers"),
        (None, None, TypeError, "got None"),
        ({1, 2}, None, TypeError, "expected numbers"),
        (1j, None, TypeError, "expected numbers"),
        (2**70, None, TypeError, "expected numbers"),
        ([1], "U3", TypeError, "expected floats, integers or booleans"),
        ([1], complex, TypeError, "complex128"),
        ([300], np.int8, OverflowError, "300 to 300 don't fit into int8, which holds -128 to 127"),
        ([-1], np.uint8, OverflowError, "don't fit"),
        ([math.nan], int, OverflowError, "nan"),
    ],
)
def test_constructor_refuses(data, dtype, error, message):
    with pytest.raises(error, match=message) as caught:
        Tensor(data, dtype=dtype)
    assert "\n" not in str(caught.value)


def test_a_gradient_needs_floats():
    assert Tensor([1.0], requires_grad=True).requires_grad
    with pytest.raises(TypeError, match="only floating-point tensors, got bool"):
        Tensor([True], requires_grad=True)
    with pytest.raises(TypeError, match="only floating-point"):
        zeros(2, dtype=int, requires_grad=True)


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        (3, {}, "Tensor(3.)"),
        ([1, 2.5], {}, "Tensor([1. , 2.5])"),
        ([[1, 2], [3, 4]], {}, "Tensor([[1., 2.],\n        [3., 4.]])"),
        ([True], {}, "Tensor([ True])"),
        ([1], {"dtype": int}, "Tensor([1])"),
        ([1], {"dtype": np.float64}, "Tensor([1.], dtype=float64)"),
        ([0.123456], {}, "Tensor([0.1235])"),
        ([], {}, "Tensor([])"),
        (np.zeros((2, 0)), {}, "Tensor([], shape=(2, 0))"),
        ([1], {"requires_grad": True}, "Tensor([1.], requires_grad=True)"),
    ],
)
def test_repr(data, options, text):
    assert repr(Tensor(data, **options)) == text


def test_properties():
    x = zeros(2, 3, dtype=np.int8)
    assert (x.shape, x.ndim, x.size, x.dtype, x.nbytes) == ((2, 3), 2, 6, np.int8, 6)
    assert x.is_leaf
    assert len(x) == 2
    assert x.numpy() is x.data
    assert [row.shape for row in x] == [(3,), (3,)]


# --- operations against NumPy ---

BINARY = {
    "add": (lambda a, b: a + b, np.add),
    "sub": (lambda a, b: a - b, np.subtract),
    "mul": (lambda a, b: a * b, np.multiply),
    "div": (lambda a, b: a / b, np.true_divide),
    "pow": (lambda a, b: abs(a) ** b, lambda a, b: np.abs(a) ** b),
    "equal": (lambda a, b: a == b, np.equal),
    "not_equal": (lambda a, b: a != b, np.not_equal),
    "less": (lambda a, b: a < b, np.less),
    "less_equal": (lambda a, b: a <= b, np.less_equal),
    "greater": (lambda a, b: a > b, np.greater),
    "greater_equal": (lambda a, b: a >= b, np.greater_equal),
    "maximum": (maximum, np.maximum),
    "minimum": (minimum, np.minimum),
    "and": (lambda a, b: (a > 0) & (b > 0), lambda a, b: (a > 0) & (b > 0)),
    "or": (lambda a, b: (a > 0) | (b > 0), lambda a, b: (a > 0) | (b > 0)),
}
SHAPES = [((), ()), ((3,), (3,)), ((2, 3), (3,)), ((4, 1), (1, 5)), ((0, 3), (1, 3)), ((), (2,))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary_operations_broadcast(name, shapes):
    ours, theirs = BINARY[name]
    a, b = random(*shapes[0]), random(*shapes[1]) + 0.5
    same(ours(Tensor(a), Tensor(b)), theirs(a, b))
    same(ours(Tensor(a), b), theirs(a, b))
    if name not in ("and", "or"):
        same(ours(a, Tensor(b)), theirs(a, b))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "less", "greater_equal"])
@pytest.mark.parametrize(
    "number", [2, 0.5, np.float64(0.5), np.int64(2), [1.0, 2.0, 3.0]], ids=repr
)
def test_numbers_and_lists_on_both_sides(name, number):
    ours, theirs = BINARY[name]
    a = np.array([0.5, 1, 2], np.float32)
    weak = np.asarray(number, np.float32)
    same(ours(Tensor(a), number), theirs(a, weak))
    if not isinstance(number, list):
        same(ours(number, Tensor(a)), theirs(weak, a))


UNARY = {
    "neg": (lambda a: -a, np.negative),
    "abs": (abs, np.abs),
    "exp": (lambda a: a.exp(), np.exp),
    "log": (lambda a: (a * a).log(), lambda a: np.log(a * a)),
    "sqrt": (lambda a: a.abs().sqrt(), lambda a: np.sqrt(np.abs(a))),
    "sign": (lambda a: a.sign(), np.sign),
    "sin": (lambda a: a.sin(), np.sin),
    "cos": (lambda a: a.cos(), np.cos),
    "tanh": (lambda a: a.tanh(), np.tanh),
    "invert": (lambda a: ~(a > 0), lambda a: a <= 0),
    "clone": (lambda a: a.clone(), np.copy),
    "clip": (lambda a: a.clip(-0.5, 0.5), lambda a: np.clip(a, -0.5, 0.5)),
    "clip low": (lambda a: a.clip(0), lambda a: np.maximum(a, 0)),
    "clip high": (lambda a: a.clip(high=0), lambda a: np.minimum(a, 0)),
    "where": (lambda a: where(a > 0, a, 0), lambda a: np.where(a > 0, a, np.float32(0))),
}
ARRAYS = {
    "0-d": random(),
    "1-d": random(7),
    "3-d": random(2, 3, 4),
    "empty": random(0, 3),
    "transposed": random(3, 4).T,
    "strided": random(6, 6)[::2, ::-3],
    "float64": random(3, dtype=np.float64),
    "float16": random(3, dtype=np.float16),
}


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("name", UNARY)
def test_unary_operations(name, array):
    ours, theirs = UNARY[name]
    a = ARRAYS[array]
    expected = theirs(a)
    if expected.dtype.kind == "f":
        expected = np.asarray(expected, a.dtype)
    x = Tensor(a, dtype=a.dtype)
    same(ours(x), expected)
    assert np.array_equal(x.data, a)


REDUCTIONS = {
    "sum": np.sum,
    "mean": np.mean,
    "var": np.var,
    "std": np.std,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "any": np.any,
    "all": np.all,
}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (1,), ()], ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, axis, keepdims):
    for a in (random(2, 3, 4), random(4, 3, 2).T, (random(2, 3, 4) > 0)):
        theirs = REDUCTIONS[name](a, axis=axis, keepdims=keepdims)
        if a.dtype == np.bool_ and name in ("mean", "var", "std"):
            theirs = theirs.astype(np.float32)
        same(getattr(Tensor(a), name)(axis=axis, keepdims=keepdims), theirs)
        same(getattr(Tensor(a), name)(dim=axis, keepdims=keepdims), theirs)


@pytest.mark.parametrize("name", ["argmax", "argmin", "cumsum"])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_reductions_along_one_axis(name, axis):
    a = random(3, 4)
    same(getattr(Tensor(a), name)(axis=axis), getattr(np, name)(a, axis=axis))
    same(getattr(Tensor(a), name)(dim=axis), getattr(np, name)(a, axis=axis))


def test_argmax_takes_the_first_of_equals_and_keeps_axes():
    x = Tensor([[1, 5, 5], [3, 3, 0]])
    assert x.argmax(axis=1).tolist() == [1, 0]
    assert x.argmin(axis=0, keepdims=True).shape == (1, 3)


def test_var_and_std_with_correction():
    a = random(5, 6)
    same(Tensor(a).var(axis=0, correction=1), np.var(a, axis=0, ddof=1))
    same(Tensor(a).std(correction=1), np.std(a, ddof=1))
    with pytest.warns(RuntimeWarning):
        assert math.isnan(Tensor([1.0]).var(correction=1).item())
    with pytest.warns(RuntimeWarning):
        assert math.isnan(Tensor([1.0]).var(correction=2).item())


def test_var_far_from_zero():
    same(Tensor([10001, 10002, 10003, 10004]).var(), 1.25, np.float32)


def test_reductions_of_nothing():
    empty = zeros(0, 3)
    same(empty.sum(axis=0), np.zeros(3, np.float32))
    same(empty.prod(), 1, np.float32)
    assert empty.mean(axis=1).shape == (0,)
    with pytest.warns(RuntimeWarning):
        assert math.isnan(empty.mean().item())
    with pytest.raises(ValueError, match="max: zero-size"):
        empty.max()
    with pytest.raises(ValueError, match="argmax: "):
        empty.argmax()


def test_nan_is_never_hidden():
    x = Tensor([1.0, math.nan, 2.0])
    for name in ("sum", "mean", "var", "max", "min", "prod"):
        assert math.isnan(getattr(x, name)().item()), name
    assert math.isnan(x.clip(0, 1)[1].item())
    assert math.isnan(maximum(x, 0)[1].item())


# --- dtypes ---


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.float16, np.float64])
def test_numbers_bend_to_the_tensor(dtype):
    x = Tensor([1, 2], dtype=dtype)
    for y in (x + 1, 1 + x, x * np.int64(2), x + np.int8(1), -x, x[0], x.T, x.max(), x.clone()):
        assert y.dtype == dtype
    if np.dtype(dtype).kind == "f":
        assert (x * 0.5).dtype == (x * np.float64(0.5)).dtype == x.exp().dtype == dtype


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("name", ["exp", "sqrt", "sin", "cos", "tanh", "mean", "var", "std"])
def test_functions_of_integers_are_float32(name, dtype):
    x = Tensor([0, 1, 10], dtype=int).astype(dtype)
    got = getattr(x, name)()
    widened = x.data.astype(np.float64)
    theirs = getattr(np, name)(widened)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.data, theirs, rtol=1e-6)


def test_float64_only_where_a_tensor_holds_it():
    single, double = Tensor([1, 2]), Tensor([1, 2], dtype=np.float64)
    whole = Tensor([1, 2], dtype=int)
    assert (single + np.ones(2)).dtype == np.float32
    assert (single + np.array(1.0)).dtype == np.float32
    assert (whole * 0.5).dtype == (whole / whole).dtype == np.float32
    assert (single + double).dtype == (double * 2).dtype == double.mean().dtype == np.float64
    assert single.astype(np.float64).dtype == np.float64
    assert concat([single, whole]).dtype == np.float32


def test_int8_is_int8():
    x = Tensor([100, -100], dtype=np.int8)
    assert x.nbytes == 2
    assert (x + x).tolist() == [-56, 56]
    assert x.sum().dtype == np.int64
    with pytest.raises(OverflowError, match=r"add: .*300"):
        x + 300


def test_half_precision_averages_many():
    same(ones(100_000, dtype=np.float16).mean(), 1, np.float16)


def test_astype():
    same(Tensor([1.7, -1.7]).astype(int), [1, -1], np.int64)
    same(Tensor([0, 2]).astype(bool), [False, True], np.bool_)
    with pytest.raises(TypeError, match="expected floats, integers or booleans"):
        Tensor([1]).astype(str)


# --- matmul, einsum ---


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 3), (3, 4)),
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (6, 3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 2, 3), (3,)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
    ],
    ids=str,
)
def test_matmul(a, b):
    a, b = random(*a), random(*b)
    for got in (Tensor(a) @ Tensor(b), Tensor(a) @ b, a @ Tensor(b), Tensor(a).matmul(Tensor(b))):
        same(got, a @ b)


def test_matmul_of_views_and_lists():
    a = random(3, 4)
    same(Tensor(a).T @ Tensor(a), a.T @ a)
    same(Tensor(a)[::2] @ Tensor(a)[::2].T, a[::2] @ a[::2].T)
    same(Tensor([[1, 2]]) @ [[1], [2]], [[5]], np.float32)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((2, 3), (4, 5), r"matmul: \(2, 3\) @ \(4, 5\): inner sizes 3 and 4 differ"),
        ((3,), (2,), "inner sizes 3 and 2 differ"),
        ((2, 3), (2,), "inner sizes 3 and 2 differ"),
        ((5, 2, 3), (5, 2, 3), "inner sizes 3 and 2 differ"),
        ((), (3,), "a scalar is no matrix; use"),
        ((2, 3), (), "a scalar is no matrix; use"),
        ((2, 1, 3), (5, 3, 1), r"matmul: .*\(2, 1, 3\) and \(5, 3, 1\).* axis -3 has \[2, 5\]"),
    ],
)
def test_matmul_refuses(a, b, message):
    with pytest.raises(ValueError, match=message) as caught:
        Tensor(random(*a)) @ Tensor(random(*b))
    assert "\n" not in str(caught.value)


def test_einsum():
    a, b, c = random(2, 3), random(3, 4), random(4, 2)
    same(einsum("ij,jk->ik", Tensor(a), Tensor(b)), a @ b)
    same(einsum("ij,jk,ki->", Tensor(a), b, Tensor(c)), np.trace(a @ b @ c))
    same(einsum("ij->ji", Tensor(a)), a.T)
    with pytest.raises(ValueError, match="einsum: "):
        einsum("ij,jk->ik", Tensor(a), Tensor(c))


# --- shapes ---


def test_broadcast_shape_agrees_with_numpy():
    sizes = [(), (1,), (2,), (0,), (1, 1), (2, 1), (1, 3), (2, 3), (4, 1, 3), (0, 1)]
    for shapes in itertools.product(sizes, repeat=3):
        try:
            expected = np.broadcast_shapes(*shapes)
        except ValueError:
            with pytest.raises(ValueError, match="don't broadcast"):
                broadcast_shape(*shapes)
        else:
            assert broadcast_shape(*shapes) == expected
    assert broadcast_shape() == ()


def test_shapes():
    a = random(2, 1, 3)
    x = Tensor(a)
    same(x.reshape(3, 2), a.reshape(3, 2))
    same(x.reshape((3, -1)), a.reshape(3, -1))
    same(x.view([6]), a.reshape(6))
    same(x.permute(2, 0, 1), a.transpose(2, 0, 1))
    same(x.permute((2, 0, 1)), a.transpose(2, 0, 1))
    same(x.permute(), a.T)
    same(x.T, a.T)
    same(x.transpose(), a.swapaxes(-1, -2))
    same(x.transpose(0, 2), a.swapaxes(0, 2))
    same(x.swapaxes(0, -1), a.swapaxes(0, -1))
    same(x.flatten(), a.reshape(6))
    same(x.flatten(1), a.reshape(2, 3))
    same(x.flatten(0, 1), a.reshape(2, 3))
    same(x.squeeze(), a.reshape(2, 3))
    same(x.squeeze(1), a.reshape(2, 3))
    same(x.squeeze(dim=0), a)
    same(x.unsqueeze(0), a[None])
    same(x.unsqueeze(dim=-1), a[..., None])
    same(x.expand(4, 2, 5, 3), np.broadcast_to(a, (4, 2, 5, 3)))
    same(x.expand(-1, 5, -1), np.broadcast_to(a, (2, 5, 3)))
    same(Tensor(2).flatten(), [2], np.float32)
    same(Tensor(2).unsqueeze(0), [2], np.float32)
    same(Tensor(2).expand(2, 2), np.full((2, 2), 2), np.float32)
    same(zeros(0, 3).reshape(3, 0), np.zeros((3, 0), np.float32))


def test_views_share_memory_and_copies_do_not():
    x = Tensor(random(4, 6))
    for view in (x.T, x.reshape(6, 4), x[1:, ::2], x[0], x.unsqueeze(0), x.flatten(), x.detach()):
        assert np.shares_memory(view.data, x.data)
    assert np.shares_memory(x.expand(3, 4, 6).data, x.data)
    assert all(np.shares_memory(piece.data, x.data) for piece in x.split(3, axis=1))
    for other in (x.clone(), x[[0, 1]], x.T.reshape(-1), x + 0, Tensor(x), x.astype(np.float32)):
        assert not np.shares_memory(other.data, x.data)


ONE_LINE_ERRORS = {
    "broadcast": (
        lambda x: x + Tensor([1, 2]),
        ValueError,
        r"add: shapes \(2, 3\) and \(2,\) don't broadcast: axis -1 has \[2, 3\]",
    ),
    "where": (lambda x: where(x > 0, x, Tensor([1, 2])), ValueError, "where: shapes"),
    "text": (lambda x: x + "a", TypeError, "add: expected tensors, arrays or numbers, got 'a'"),
    "text left": (lambda x: "a" * x, TypeError, "mul: expected tensors, arrays or numbers"),
    "None": (lambda x: x * None, TypeError, "mul: expected tensors.* got None"),
    "compared with text": (lambda x: x < "a", TypeError, "less: expected tensors"),
    "equal to text": (lambda x: x == "a", TypeError, "equal: expected tensors"),
    "axis and dim": (lambda x: x.sum(axis=0, dim=0), TypeError, "axis=0 and dim=0"),
    "axis and dim of concat": (lambda x: concat([x], axis=0, dim=1), TypeError, "axis=0 and dim=1"),
    "axis of sum": (lambda x: x.sum(axis=2), IndexError, "sum: axis 2"),
    "axis of mean": (lambda x: x.mean(dim=-3), IndexError, "mean: axis -3"),
    "axis twice": (lambda x: x.sum(axis=(0, 0)), ValueError, "sum: duplicate"),
    "axis of text": (lambda x: x.sum(axis="a"), TypeError, "sum: "),
    "axis of argmax": (lambda x: x.argmax(axis=5), IndexError, "argmax: axis 5"),
    "axis of squeeze": (lambda x: x.squeeze(2), IndexError, "squeeze: axis 2"),
    "axis of unsqueeze": (lambda x: x.unsqueeze(4), IndexError, "unsqueeze: axis 4"),
    "axis of split": (lambda x: x.split(1, axis=2), IndexError, "split: axis 2"),
    "axis of concat": (lambda x: concat([x, x], axis=2), IndexError, "concat: axis 2"),
    "axis of stack": (lambda x: stack([x, x], axis=3), IndexError, "axis 3"),
    "axis of flatten": (lambda x: x.flatten(2), IndexError, "flatten: axis 2"),
    "axis of transpose": (lambda x: x.transpose(0, 2), IndexError, "swapaxes: .*axis 2"),
    "flatten backwards": (lambda x: x.flatten(1, 0), ValueError, "comes after"),
    "reshape": (lambda x: x.reshape(4), ValueError, r"reshape: 6 elements of \(2, 3\) don't fill"),
    "reshape by halves": (lambda x: x.reshape(1.5, 4), TypeError, "reshape: "),
    "permute": (lambda x: x.permute(0, 0), ValueError, r"permute: \(0, 0\) is no order"),
    "permute too few": (lambda x: x.permute(0), ValueError, "permute: .* is no order"),
    "expand": (lambda x: x.expand(4, 3), ValueError, r"\(2, 3\) can't become \(4, 3\)"),
    "expand to fewer": (lambda x: x.expand(3), ValueError, "can't become"),
    "expand by -1": (lambda x: x.expand(-1, 2, 3), ValueError, "can't become"),
    "index": (lambda x: x[2], IndexError, "getitem: index 2 is out of bounds for axis 0"),
    "index of column": (lambda x: x[:, 3], IndexError, "getitem: index 3"),
    "too many indices": (lambda x: x[0, 0, 0], IndexError, "getitem: too many indices"),
    "index not whole": (lambda x: x[Tensor([0.5])], IndexError, "expected whole numbers"),
    "index nan": (lambda x: x[Tensor(math.nan)], IndexError, "expected whole numbers"),
    "index infinite": (lambda x: x[Tensor(math.inf)], IndexError, "expected whole numbers"),
    "index by text": (lambda x: x["a"], IndexError, "getitem: "),
    "mask of another shape": (
        lambda x: x[Tensor([True] * 3)],
        IndexError,
        "getitem: boolean index",
    ),
    "bool": (bool, ValueError, r"bool: a tensor of shape \(2, 3\) holds 6 values, not one: .*any"),
    "bool of none": (lambda x: bool(x[:0]), ValueError, "holds 0 values"),
    "item": (lambda x: x.item(), ValueError, "item: .* holds 6 values"),
    "float": (float, ValueError, "item: "),
    "len": (lambda x: len(x[0, 0]), TypeError, "len: a tensor without axes"),
    "iteration": (lambda x: list(x[0, 0]), TypeError, "len: a tensor without axes"),
    "concat of none": (lambda x: concat([]), ValueError, "concat: expected at least one"),
    "concat": (lambda x: concat([x, x[:, :2]]), ValueError, "concat: .* differ outside axis 0"),
    "concat of axes": (lambda x: concat([x, x[0]]), ValueError, "concat: .* differ outside"),
    "stack": (lambda x: stack([x, x[:1]]), ValueError, "stack: expected tensors of one shape"),
    "split by 0": (lambda x: x.split(0), ValueError, "at least 1"),
    "split by a sum": (lambda x: x.split([1, 2]), ValueError, "don't add up to the 2 of axis 0"),
    "split by less than nothing": (lambda x: x.split([3, -1]), ValueError, "don't add up"),
    "power": (lambda x: x.astype(int) ** -1, ValueError, "pow: "),
    "subtracted booleans": (lambda x: (x > 0) - (x > 1), TypeError, "sub: "),
    "ufunc": (np.exp, TypeError, "does not support ufuncs"),
    "NumPy's dot": (lambda x: np.add(x, x.numpy()), TypeError, "does not support ufuncs"),
}


@pytest.mark.parametrize("name", ONE_LINE_ERRORS)
def test_errors_are_one_clear_line(name):
    action, error, message = ONE_LINE_ERRORS[name]
    with pytest.raises(error, match=message) as caught:
        action(Tensor([[1, 2, 3], [4, 5, 6]]))
    assert "\n" not in str(caught.value)


# --- parts ---

KEYS = [
    1,
    -1,
    slice(1, None),
    slice(None, None, -2),
    (slice(None), 1),
    (..., 0),
    None,
    (None, 1, ..., None),
    [0, 2, 0],
    np.array([[0, 1], [2, 2]]),
    ([0, 1], [1, 3]),
    (slice(None), [0, 0, 1]),
    np.array([True, False, True]),
    [],
    (),
    np.int64(2),
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_getitem_setitem_and_scatter_add(key):
    a = random(3, 4)
    x = Tensor(a)
    same(x[key], a[key])
    expected = a.copy()
    expected[key] = 7
    x[key] = 7
    same(x, expected)
    same(put(Tensor(a), 7, key=key), expected)
    part = random(*a[key].shape)
    added = np.zeros_like(a)
    np.add.at(added, key, part)
    same(scatter_add(Tensor(part), key=key, shape=a.shape), added)


def test_tensors_as_indices():
    x = Tensor([[1, 2], [3, 4], [5, 6]])
    same(x[Tensor([2, 0])], [[5, 6], [1, 2]], np.float32)
    same(x[Tensor([2, 0], dtype=int), Tensor([1, 0])], [6, 1], np.float32)
    same(x[x > 3], [4, 5, 6], np.float32)
    same(x[Tensor(1)], [3, 4], np.float32)
    same(x[Tensor([])], np.zeros((0, 2)), np.float32)
    assert ["a", "b", "c"][x[:, 0].argmax()] == "c"
    assert list(range(5))[: Tensor(2, dtype=int)] == [0, 1]
    x[Tensor([0, 2])] = Tensor([9, 9])
    assert x.tolist() == [[9, 9], [3, 4], [9, 9]]


def test_scatter_add_counts_every_mention():
    for key in ([0, 0, 2], np.array([0, 0, 2]), ((0, 0, 2),)):
        same(scatter_add(ones(3), key=key, shape=(3,)), [2, 0, 1], np.float32)


def test_concat_stack_split():
    a, b = random(2, 3), random(4, 3)
    same(concat([Tensor(a), Tensor(b)]), np.concatenate([a, b]))
    same(concat([Tensor(a), a], axis=-1), np.concatenate([a, a], axis=-1))
    same(concat((Tensor(a), Tensor(a)), dim=1), np.concatenate([a, a], axis=1))
    same(concat(Tensor(a).unsqueeze(1)), a)
    same(stack([Tensor(a), Tensor(2 * a)]), np.stack([a, 2 * a]))
    same(stack([Tensor(a), Tensor(2 * a)], dim=-1), np.stack([a, 2 * a], axis=-1))
    same(stack([Tensor(1), Tensor(2)]), [1, 2], np.float32)
    for size in (1, 2, 3, 5, [1, 3], [0, 4], np.int64(3)):
        pieces = split(Tensor(b), size)
        same(concat(pieces), b)
    assert [piece.shape for piece in Tensor(a).split(2, dim=-1)] == [(2, 2), (2, 1)]


# --- constructors and dice ---


def test_constructors():
    same(zeros(2, 3), np.zeros((2, 3)), np.float32)
    same(zeros((2, 3), dtype=int), np.zeros((2, 3)), np.int64)
    same(ones(2), [1, 1], np.float32)
    same(ones(), 1, np.float32)
    same(full((2,), 7), [7, 7], np.float32)
    same(arange(3), [0, 1, 2], np.float32)
    same(arange(1, 2, 0.5), [1, 1.5], np.float32)
    same(eye(2, 3), np.eye(2, 3), np.float32)
    like = Tensor([[1], [2]], dtype=np.float64)
    for made in (zeros_like(like), ones_like(like), randn_like(like), rand_like(like)):
        assert (made.shape, made.dtype) == ((2, 1), np.float64)
    same(full_like(like, 3), [[3], [3]], np.float64)
    assert all(f(2, requires_grad=True).requires_grad for f in (zeros, ones, randn, rand))
    with pytest.raises(ValueError, match="negative"):
        zeros(-1)


def test_one_seed_for_all_dice():
    manual_seed(3)
    first = (randn(4), rand(4), randn(2, dtype=np.float64))
    manual_seed(3)
    again = (randn(4), rand(4), randn(2, dtype=np.float64))
    assert all(bool((a == b).all()) for a, b in zip(first, again, strict=True))
    assert not bool((randn(4) == first[0]).any())


def test_random_numbers_have_their_distribution():
    manual_seed(0)
    normal, uniform = randn(100_000), rand(100_000)
    assert abs(normal.mean().item()) < 0.02
    assert abs(normal.std().item() - 1) < 0.02
    assert uniform.min().item() >= 0
    assert uniform.max().item() < 1
    assert abs(uniform.mean().item() - 0.5) < 0.01
    assert normal.dtype == uniform.dtype == np.float32


# --- in place ---


@pytest.mark.parametrize(
    "other", [lambda: 2, lambda: Tensor([1, 2, 4]), lambda: np.array([1, 2, 4])]
)
def test_in_place_arithmetic_writes_into_the_same_memory(other):
    for sign in ("__iadd__", "__isub__", "__imul__", "__itruediv__"):
        x = Tensor([4, 6, 8])
        view, memory = x[:2], x.data
        expected = getattr(x, sign.replace("i", "", 1))(other())
        y = getattr(x, sign)(other())
        assert y is x
        assert x.data is memory
        same(x, expected.data)
        same(view, expected.data[:2])


def test_setitem_broadcasts_and_overlaps():
    x = Tensor([[1, 2, 3], [4, 5, 6]])
    x[:, 1:] = x[:, :-1]
    assert x.tolist() == [[1, 1, 2], [4, 4, 5]]
    x[...] = [7, 8, 9]
    assert x.tolist() == [[7, 8, 9]] * 2
    x[x > 8] = 0
    assert x[:, 2].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("dtype", "value", "error", "message"),
    [
        (int, 0.5, TypeError, "in-place write of float64 into a tensor of int64"),
        (int, np.float32([0.5]), TypeError, "in-place write of float32 into a tensor of int64"),
        (bool, 0.5, TypeError, "into a tensor of bool"),
        (float, "3", TypeError, "in-place write of <U1"),
        (float, None, TypeError, "in-place write of object"),
        (float, 1j, TypeError, "in-place write of complex128"),
        (np.int8, 300, OverflowError, "300 to 300 don't fit into int8"),
        (np.uint8, -1, OverflowError, "don't fit into uint8"),
        (float, [1, 2, 3, 4], ValueError, r"in-place write into \(3,\)"),
    ],
)
def test_in_place_writes_refuse(dtype, value, error, message):
    x = Tensor([1, 0, 1], dtype=dtype)
    with pytest.raises(error, match=message) as caught:
        x[:] = value
    assert "\n" not in str(caught.value)
    assert x.tolist() == [1, 0, 1]


def test_in_place_arithmetic_refuses():
    whole = Tensor([1, 2], dtype=int)
    with pytest.raises(TypeError, match="in-place write of float32 into a tensor of int64"):
        whole += 0.5
    with pytest.raises(TypeError, match="in-place write of float32"):
        whole /= 2
    with pytest.raises(ValueError, match=r"in-place write into \(2,\)"):
        whole += zeros(3, 2, dtype=int)
    with pytest.raises(IndexError, match="in-place write into"):
        whole[5] = 1
    with pytest.raises(ValueError, match="read-only"):
        ones(1).expand(3)[:] = 2
    assert whole.tolist() == [1, 2]


def test_the_log_of_writes():
    x = zeros(4)
    view, other = x[1:3], zeros(4)
    moment = writes.clock
    assert not writes.since(x.data, moment)
    view += 1
    assert writes.since(x.data, moment)
    assert writes.since(view.data, moment)
    assert not writes.since(other.data, moment)
    assert not writes.since(x.data, writes.clock)
    entries = len(writes._last)
    del x, view
    assert len(writes._last) == entries - 1


# --- Python around it ---


def test_one_number():
    x = Tensor(2.5)
    assert (x.item(), float(x), int(x), bool(x)) == (2.5, 2.5, 2, True)
    assert Tensor([[3]]).item() == 3
    assert f"{x:.2f} {x} {Tensor([1])}" == "2.50 2.5 Tensor([1.])"
    assert not Tensor(0)
    with pytest.raises(TypeError, match="integer"):
        ["a"][Tensor(0.0)]


def test_membership():
    a, b = Tensor([1, 2]), Tensor([3, 4])
    assert 2 in a
    assert 3 not in a
    assert 4 in Tensor([[1, 2], [3, 4]])
    assert a in [a, b]  # found by identity, before == is asked
    with pytest.raises(ValueError, match=r"\.any\(\)"):
        assert b in [a, b]
    assert {a: 1, b: 2}[b] == 2


def test_iteration():
    x = Tensor([[1, 2], [3, 4]])
    assert [row.tolist() for row in x] == [[1, 2], [3, 4]]
    assert sum(x).tolist() == [4, 6]
    assert max(Tensor([1, 3, 2])).item() == 3


def test_numpy_takes_tensors_and_gives_them_back():
    x = Tensor([1, 2])
    assert np.asarray(x) is x.data
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(x), x.data)
    assert isinstance(np.ones(2) * x, Tensor)
    assert isinstance(np.float64(2) * x, Tensor)
    assert isinstance(np.ones((1, 2)) @ x, Tensor)
    assert np.arange(10)[Tensor([2, 1], dtype=int)].tolist() == [2, 1]
    with pytest.raises(TypeError, match="ufunc"):
        np.tanh(x)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_tensors_and_operations_travel(again):
    for x in (Tensor([1, 2], requires_grad=True), Tensor([[1]], dtype=np.int8), randn(4, 4).T):
        y = again(x)
        same(y, x.data)
        assert y.requires_grad == x.requires_grad
        assert not np.shares_memory(x.data, y.data)
    x.grad = Tensor([5])
    assert again(x).grad.tolist() == [5]
    assert again(core.add) is core.add
    shared, twin = again([x, x])
    assert shared is twin


# --- watchers ---


def names_seen(action):
    seen = []
    with watching("test", lambda op, inputs, params, out: seen.append(op.__name__)):
        action()
    return seen


def test_every_operation_passes_the_gate():
    x = Tensor([[1, 2], [3, 4]])
    assert names_seen(lambda: (2 * x - 1) ** 2 / 3) == ["mul", "sub", "pow_", "div"]
    assert names_seen(lambda: x.flatten().sum()) == ["reshape", "sum_"]
    assert names_seen(lambda: x.std()) == ["var", "sqrt"]
    assert names_seen(lambda: stack([x, x])) == ["reshape", "reshape", "concatenate"]
    assert names_seen(lambda: core.add(np.ones(2), 1)) == []


def test_what_a_watcher_is_shown():
    shown = []
    x = Tensor([[1, 2], [3, 4]])
    with watching("test", lambda *call: shown.append(call)):
        y = x.sum(axis=0, keepdims=True)
        z = 1 + y
    (first, inputs, params, out), (second, others, none, last) = shown
    assert first is core.sum_
    assert inputs[0] is x
    assert params == {"axis": 0, "keepdims": True}
    assert out is y
    assert second is core.add
    assert others[0] == 1
    assert others[1] is y
    assert none == {}
    assert last is z


def test_installed_watchers_are_replaced_and_paused():
    seen = []
    try:
        install_watcher("test", lambda *call: seen.append("first"))
        install_watcher("test", lambda *call: seen.append("second"))
        Tensor(1) + 1
        with paused("test"):
            Tensor(1) + 1
            with watching("test", lambda *call: seen.append("inner")):
                Tensor(1) + 1
        thread = threading.Thread(target=lambda: Tensor(1) + 1)
        with paused("test"):
            thread.start()
            thread.join()
    finally:
        watchers.pop("test")
    assert seen == ["second", "inner", "second"]


def test_a_watcher_may_look_before():
    class Before:
        def __init__(self):
            self.calls = []

        def before(self, op, inputs, params):
            self.calls.append(("before", op.__name__))

        def __call__(self, op, inputs, params, out):
            self.calls.append(("after", op.__name__))

    watcher = Before()
    with watching("test", watcher):
        Tensor(1) * 2
    assert watcher.calls == [("before", "mul"), ("after", "mul")]


def test_a_watcher_stops_when_its_with_fails():
    seen = []
    with pytest.raises(ZeroDivisionError), watching("test", lambda *call: seen.append(call)):
        raise ZeroDivisionError
    Tensor(1) + 1
    assert not seen


def test_op_takes_arrays_and_another_forward():
    @op
    def double(x):
        """Twice x."""
        return 2 * x

    assert double.__doc__ == "Twice x."
    assert type(double(np.ones(2))) is np.ndarray
    assert double(3) == 6
    same(double(Tensor([1])), [2], np.float32)
    double.forward = lambda x: 3 * x
    same(double(Tensor([1])), [3], np.float32)


def test_an_error_shows_the_line_of_the_operation_that_made_it():
    @op
    def broken(x):
        return x + None

    with pytest.raises(TypeError, match="broken: ") as caught:
        broken(Tensor([1]))
    assert caught.traceback[-1].name == "broken"

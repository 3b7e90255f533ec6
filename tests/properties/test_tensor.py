"""Properties of tensors on any shape, stride and dtype that hypothesis thinks of."""

import copy
import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tinytorch.core.tensor import (
    Tensor,
    broadcast_shape,
    concat,
    maximum,
    minimum,
    scatter_add,
    split,
    stack,
    where,
)

patiently = settings(deadline=None, max_examples=50)

DTYPES = [
    np.dtype(name) for name in ("bool", "int8", "uint8", "int64", "float16", "float32", "float64")
]
dtypes = st.sampled_from(DTYPES)
shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def elements(dtype):
    """Small whole numbers: exact in every dtype, and so are their sums and products."""
    low = 0 if dtype.kind in "bu" else -3
    high = 1 if dtype.kind == "b" else 3
    return st.integers(low, high)


@st.composite
def strided(draw, shape=shapes, dtype=dtypes):
    """An array whose axes are permuted, stepped over or reversed views of another's."""
    size, kind = draw(shape), draw(dtype)
    steps = [draw(st.sampled_from([1, 2, -1, -2])) for _ in size]
    order = draw(st.permutations(range(len(size))))
    base_shape = tuple(size[i] * abs(steps[i]) for i in order)
    base = draw(arrays.arrays(kind, base_shape, elements=elements(kind)))
    back = base.transpose(np.argsort(order)) if order else base
    view = back[tuple(slice(None, None, step) for step in steps)] if size else back
    return view.reshape(size) if view.shape != tuple(size) else view


def tensor(array):
    """A tensor around the very array, strides and all."""
    return Tensor._wrap(array)


def same(got, expected):
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got.data, expected)


@patiently
@given(strided())
def test_constructor_keeps_numbers_and_shape(array):
    x = Tensor(array)
    same(x, array)
    assert x.dtype == (np.float32 if array.dtype == np.float64 else array.dtype)
    assert not np.shares_memory(x.data, array)
    assert Tensor(array, dtype=np.float64).dtype == np.float64


@patiently
@given(strided())
def test_travelling_changes_nothing(array):
    for again in (copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))):
        back = again(tensor(array))
        same(back, array)
        assert back.dtype == array.dtype


@patiently
@given(arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4), st.data())
def test_arithmetic_broadcasts_as_numpy_does(drawn, data):
    left, right = (data.draw(strided(st.just(shape))) for shape in drawn.input_shapes)
    assert broadcast_shape(left.shape, right.shape) == drawn.result_shape
    for ours, theirs in [
        (lambda a, b: a + b, np.add),
        (lambda a, b: a * b, np.multiply),
        (lambda a, b: a <= b, np.less_equal),
        (maximum, np.maximum),
        (minimum, np.minimum),
    ]:
        expected = theirs(left, right)
        got = ours(tensor(left), tensor(right))
        same(got, expected)
        holds_double = np.float64 in (left.dtype, right.dtype)
        widened = expected.dtype == np.float64 and not holds_double
        assert got.dtype == (np.float32 if widened else expected.dtype)
    same(where(tensor(left) > 0, tensor(left), tensor(right)), np.where(left > 0, left, right))


@patiently
@given(st.lists(shapes, max_size=3))
def test_broadcast_shape_is_numpys(drawn):
    try:
        expected = np.broadcast_shapes(*drawn)
    except ValueError:
        expected = None
    try:
        got = broadcast_shape(*drawn)
    except ValueError:
        got = None
    assert got == expected


@patiently
@given(strided(), st.data(), st.booleans())
def test_reductions_are_numpys(array, data, keepdims):
    axes = data.draw(st.one_of(st.none(), st.sets(st.integers(0, max(array.ndim - 1, 0)))))
    axis = None if axes is None or array.ndim == 0 else tuple(axes)
    x = tensor(array)
    for name in ("sum", "any", "all"):
        expected = getattr(np, name)(array, axis=axis, keepdims=keepdims)
        same(getattr(x, name)(axis, keepdims), expected)
    if array.size:
        same(x.max(axis, keepdims), np.max(array, axis=axis, keepdims=keepdims))
        wide = array.astype(np.float64)
        for name in ("mean", "var"):
            got = getattr(x, name)(axis, keepdims)
            expected = getattr(np, name)(wide, axis=axis, keepdims=keepdims)
            tolerance = 1e-2 if array.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(got.data, expected, rtol=tolerance, atol=tolerance)
            assert got.dtype == (array.dtype if array.dtype.kind == "f" else np.float32)


@patiently
@given(strided(), st.data())
def test_shapes_lose_no_element(array, data):
    x = tensor(array)
    order = data.draw(st.permutations(range(array.ndim)))
    same(x.permute(order).permute(np.argsort(order).tolist()), array)
    same(x.flatten().reshape(array.shape), array)
    same(x.T, array.T)
    axis = data.draw(st.integers(-array.ndim - 1, array.ndim))
    same(x.unsqueeze(axis), np.expand_dims(array, axis))
    same(x.unsqueeze(axis).squeeze(axis), array)
    same(x.squeeze(), array.squeeze())
    if array.ndim:
        start = data.draw(st.integers(0, array.ndim - 1))
        end = data.draw(st.integers(start, array.ndim - 1))
        flat = (
            *array.shape[:start],
            int(np.prod(array.shape[start : end + 1])),
            *array.shape[end + 1 :],
        )
        same(x.flatten(start, end), array.reshape(flat))


@patiently
@given(strided(arrays.array_shapes(min_dims=1, max_dims=3, max_side=6)), st.data())
def test_split_and_concat_undo_each_other(array, data):
    axis = data.draw(st.integers(-array.ndim, array.ndim - 1))
    size = data.draw(st.integers(1, array.shape[axis] + 1))
    pieces = split(tensor(array), size, axis)
    assert all(piece.shape[axis] == size for piece in pieces[:-1])
    assert all(np.shares_memory(piece.data, array) for piece in pieces)
    same(concat(pieces, axis), array)
    slices = [tensor(array).swapaxes(0, axis)[i] for i in range(array.shape[axis])]
    same(stack(slices).swapaxes(0, axis), array)


@patiently
@given(strided(arrays.array_shapes(min_dims=1, max_dims=3, max_side=4)), st.data())
def test_indexing_reads_writes_and_scatters_as_numpy_does(array, data):
    key = data.draw(
        st.one_of(
            arrays.basic_indices(array.shape, allow_newaxis=True),
            arrays.integer_array_indices(array.shape),
            arrays.arrays(np.bool_, array.shape),
        )
    )
    same(tensor(array)[key], np.asarray(array[key]))
    written, x = array.copy(), tensor(array.copy())
    written[key] = 1
    x[key] = 1
    same(x, written)
    if array.dtype.kind != "b":
        added = np.zeros_like(array)
        np.add.at(added, key, array[key])
        same(scatter_add(tensor(np.asarray(array[key])), key=key, shape=array.shape), added)


@patiently
@given(st.data(), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_matmul_is_numpys(data, n, k, m):
    batch = data.draw(arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3))
    numeric = st.sampled_from(DTYPES[1:])
    left = data.draw(strided(st.just((*batch.input_shapes[0], n, k)), numeric))
    right = data.draw(strided(st.just((*batch.input_shapes[1], k, m)), numeric))
    same(tensor(left) @ tensor(right), left @ right)


@patiently
@given(arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4), st.data())
def test_in_place_is_the_operation_written_back(drawn, data):
    target = data.draw(strided(st.just(drawn.result_shape), st.just(np.dtype(np.float32))))
    other = data.draw(strided(st.just(drawn.input_shapes[0])))
    x = Tensor(target)
    memory = x.data
    x += tensor(other)
    assert x.data is memory
    same(x, (target + other).astype(np.float32))

"""Every op of the package, on the samples of tests/ops.py: values, gradients, dtypes, layouts.

And the proof that the table would notice a wrong rule: each rule is spoiled in several ways, and
each spoiled rule must turn a check red.
"""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ops import SAMPLES, STRAIGHT_THROUGH, package_ops

from tinytorch.core import autograd, tensor
from tinytorch.core.autograd import grad, gradcheck, rules, unbroadcast, without_rule
from tinytorch.core.tensor import Tensor

every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=str)
differentiable = [sample for sample in SAMPLES if sample.differentiable]
every_gradient = pytest.mark.parametrize("sample", differentiable, ids=str)
derivatives = [sample for sample in differentiable if sample.op not in STRAIGHT_THROUGH]
every_derivative = pytest.mark.parametrize("sample", derivatives, ids=str)


def walk(sample, leaves):
    """The result on these leaves, and its gradients under weights that differ everywhere."""
    out = sample.call(*leaves)
    weights = np.linspace(0.5, 1.5, out.size).reshape(out.shape)
    return out, grad(out, leaves, weights, allow_unused=True)


def test_every_op_has_a_sample():
    have = {sample.op for sample in SAMPLES}
    missing = sorted(name for name, op in package_ops().items() if op not in have)
    assert not missing, "give them an entry in tests/ops.py"


def test_every_op_has_a_rule_or_is_declared():
    missing = [name for name, op in package_ops().items() if op not in rules.keys() | without_rule]
    assert not missing
    assert not rules.keys() & without_rule
    for sample in SAMPLES:
        assert sample.differentiable == (sample.op in rules), sample


@every_sample
def test_forward_is_numpy(sample):
    inputs = [Tensor(x, dtype=x.dtype) if isinstance(x, np.ndarray) else x for x in sample.inputs]
    out = sample.op(*inputs, **sample.params)
    expected = np.asarray(sample.numpy(*sample.inputs, **sample.params))
    assert out.shape == expected.shape
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12, atol=1e-12)


@every_derivative
def test_gradcheck(sample):
    gradcheck(sample.call, *sample.points)


@every_derivative
def test_gradcheck_to_second_order(sample):
    """Of the result's sine, so that the incoming gradient depends on the inputs too."""
    gradcheck(lambda *x: tensor.sin(sample.call(*x)), *sample.points, order=2, tolerance=1e-4)


def test_a_straight_through_rule_is_no_derivative():
    """Otherwise it must not be excused."""
    for op in STRAIGHT_THROUGH:
        with pytest.raises(AssertionError):
            for sample in (sample for sample in differentiable if sample.op is op):
                gradcheck(sample.call, *sample.points)


@every_gradient
def test_values_and_gradients_keep_the_dtype(sample):
    for dtype in (np.float32, np.float64):
        leaves = sample.leaves(dtype)
        out, answers = walk(sample, leaves)
        if sample.op is not tensor.astype:
            assert out.dtype == dtype
        for leaf, answer in zip(leaves, answers, strict=True):
            assert (answer.dtype, answer.shape) == (dtype, leaf.shape)


@every_gradient
def test_memory_layout_does_not_matter(sample):
    out, answers = walk(sample, sample.leaves())
    for spread in (column_major, every_other, reversed_twice):
        points = [spread(point) if point.ndim else point for point in sample.points]
        leaves = [Tensor._wrap(point).requires_grad_() for point in points]
        other_out, other_answers = walk(sample, leaves)
        np.testing.assert_allclose(other_out.numpy(), out.numpy(), rtol=1e-12, atol=1e-14)
        for answer, other in zip(answers, other_answers, strict=True):
            np.testing.assert_allclose(other.numpy(), answer.numpy(), rtol=1e-12, atol=1e-14)


def column_major(x):
    return np.asfortranarray(x)


def every_other(x):
    return np.repeat(x, 2, axis=-1)[..., ::2]


def reversed_twice(x):
    return np.flip(np.flip(x).copy())


@every_gradient
def test_a_walk_writes_into_nothing_that_it_was_given(sample):
    leaves = sample.leaves()
    before = [leaf.numpy().copy() for leaf in leaves]
    out = sample.call(*leaves)
    result, seed = out.numpy().copy(), np.full(out.shape, 2.0)
    kept = seed.copy()
    for _ in range(2):
        out.backward(seed, retain_graph=True)
    np.testing.assert_array_equal(seed, kept)
    np.testing.assert_array_equal(out.numpy(), result)
    held = [leaf.grad.numpy() for leaf in leaves] + [seed, out.numpy()]
    held += [leaf.numpy() for leaf in leaves]
    for leaf, unchanged in zip(leaves, before, strict=True):
        np.testing.assert_array_equal(leaf.numpy(), unchanged)
        sharing = [array for array in held if np.shares_memory(array, leaf.grad.numpy())]
        assert len(sharing) == (leaf.size > 0), "a gradient has an array of its own"


@every_gradient
def test_the_same_tensor_as_every_input(sample):
    """d f(x, x) is the sum of what f(x, y) gives for x and for y."""
    if len({point.shape for point in sample.points}) != 1:
        return
    shared = Tensor(sample.points[0], requires_grad=True, dtype=np.float64)
    apart = [Tensor(shared, requires_grad=True, dtype=np.float64) for _ in sample.points]
    with np.errstate(all="ignore"):
        _, [together] = walk_through(sample, [shared] * len(apart), [shared])
        _, answers = walk_through(sample, apart, apart)
    expected = sum(answer.numpy() for answer in answers)
    np.testing.assert_allclose(together.numpy(), expected, rtol=1e-12)


def walk_through(sample, points, leaves):
    out = sample.call(*points)
    return out, grad(out, leaves, np.ones(out.shape))


# --- spoiled rules ---
def times_minus_one(gx):
    return -gx


def doubled(gx):
    return gx * 2


def dropped(gx):
    return gx * 0


def slightly_off(gx):
    return gx * 1.001


def one_element_missing(gx):
    """Without the largest."""
    size = np.abs(np.asarray(gx))
    return gx * (size != size.max(initial=0))


def forgotten_past(gx):
    return gx.detach() if isinstance(gx, Tensor) else gx


def spoil(rule, which, change):
    """The rule with `change` made to its answer (for joint rules: to answer `which`)."""

    def spoiled(*given, **params):
        answer = rule(*given, **params)
        if which is None:
            return answer if answer is None else change(answer)
        return [change(a) if i == which and a is not None else a for i, a in enumerate(answer)]

    return spoiled


def spoiled_rules(change):
    for op, rule in rules.items():
        if op in STRAIGHT_THROUGH:
            continue
        if callable(rule):
            for which in range(max(len(sample.inputs) for sample in SAMPLES if sample.op is op)):
                yield op, f"{op.__name__} input {which}", spoil(rule, which, change)
        else:
            for i, one in enumerate(rule):
                if one is not None:
                    wrong = (*rule[:i], spoil(one, None, change), *rule[i + 1 :])
                    yield op, f"{op.__name__} input {i}", wrong


FIRST = [times_minus_one, doubled, dropped, slightly_off, one_element_missing]


def notices(op, order):
    for sample in SAMPLES:
        if sample.op is op:
            try:
                if order == 1:
                    test_gradcheck(sample)
                else:
                    test_gradcheck_to_second_order(sample)
            except (AssertionError, RuntimeError):
                return True
    return False


@pytest.mark.parametrize("change", [*FIRST, forgotten_past], ids=lambda change: change.__name__)
def test_every_spoiled_rule_is_noticed(change, monkeypatch):
    unnoticed = []
    for op, name, wrong in list(spoiled_rules(change)):
        if name in ("einsum input 0", "concatenate input 2", "blocked_attention input 3"):
            continue  # the subscripts; a piece of size 0; the mask
        with monkeypatch.context() as patch:
            patch.setitem(autograd.rules, op, wrong)
            if not notices(op, order=2 if change is forgotten_past else 1):
                unnoticed.append(name)
    assert not unnoticed


# --- hypothesis draws shapes ---
shapes_that_broadcast = arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3)


@settings(deadline=None)
@given(shapes_that_broadcast, st.sampled_from([tensor.add, tensor.mul, tensor.sub, tensor.div]))
def test_broadcasting_is_undone(shapes, op):
    random = np.random.default_rng(0)
    a, b = (Tensor(random.uniform(1, 2, shape), True, np.float64) for shape in shapes.input_shapes)
    out = op(a, b)
    assert out.shape == shapes.result_shape
    weights = random.standard_normal(out.shape)
    by_a, by_b = grad(out, [a, b], weights, retain_graph=True)
    wide_a, wide_b = (Tensor(x.expand(out.shape), True, np.float64) for x in (a, b))
    wide_by_a, wide_by_b = grad(op(wide_a, wide_b), [wide_a, wide_b], weights)
    for x, narrow, wide in ((a, by_a, wide_by_a), (b, by_b, wide_by_b)):
        assert narrow.shape == x.shape
        lead = wide.ndim - x.ndim
        stretched = [lead + i for i, n in enumerate(x.shape) if n == 1]
        expected = wide.numpy().sum(axis=(*range(lead), *stretched)).reshape(x.shape)
        np.testing.assert_allclose(narrow.numpy(), expected, rtol=1e-10, atol=1e-12)


@settings(deadline=None)
@given(shapes_that_broadcast)
def test_unbroadcast_is_the_transpose_of_broadcasting(shapes):
    """<g, broadcast(x)> = <unbroadcast(g), x> for every x."""
    random = np.random.default_rng(1)
    x = random.standard_normal(shapes.input_shapes[0])
    g = random.standard_normal(shapes.result_shape)
    left = (g * np.broadcast_to(x, g.shape)).sum()
    np.testing.assert_allclose((unbroadcast(g, x.shape) * x).sum(), left, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4), st.data())
def test_reductions_of_any_shape(shape, data):
    axes = data.draw(st.sets(st.integers(-len(shape), len(shape) - 1), max_size=len(shape)))
    axes = tuple({axis % len(shape) for axis in axes})
    keepdims = data.draw(st.booleans())
    x = Tensor(np.ones(shape), requires_grad=True, dtype=np.float64)
    out = x.sum(axis=axes or None, keepdims=keepdims)
    answer = grad(out, x, np.full(out.shape, 3.0))
    np.testing.assert_array_equal(answer.numpy(), np.full(shape, 3.0))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["+", "*", "skip", "again"]), max_size=12))
def test_graphs_of_any_form_agree_with_differences(steps):
    def function(x, y):
        values = [x, y]
        for step in steps:
            left, right = values[-1], values[len(values) // 2]
            if step == "+":
                values.append(left + right * 0.5)
            elif step == "*":
                values.append(tensor.tanh(left * right))
            elif step == "skip":
                values.append(left + values[0])
            else:
                values.append(tensor.sin(left) * left)
        return values[-1]

    gradcheck(function, [0.3, -0.7], [0.9, 0.2], tolerance=1e-4)


# --- ops as objects ---
@pytest.mark.parametrize("name", sorted(package_ops()))
def test_ops_survive_pickle_and_deepcopy(name):
    op = package_ops()[name]
    assert pickle.loads(pickle.dumps(op)) is op
    assert copy.deepcopy(op) is op

"""Module 06: optimizers, schedules and clipping, against plain float64 transcriptions."""

import copy
import math

import numpy as np
import pytest

from tinytorch.core.optimizers import (
    SGD,
    Adam,
    AdamW,
    CosineSchedule,
    Lion,
    Muon,
    OneCycleSchedule,
    Optimizer,
    RMSprop,
    StepSchedule,
    WarmupSchedule,
    clip_grad_norm,
    orthogonalize,
)
from tinytorch.core.tensor import Tensor

SHAPES = [(7, 5), (5,), (5, 3), (3,)]


def leaves(seed=0, dtype=np.float64, shapes=SHAPES):
    random = np.random.default_rng(seed)
    return [Tensor(random.standard_normal(s), requires_grad=True, dtype=dtype) for s in shapes]


def walk(optimizer, parameters, steps, seed=1, skip=lambda step, k: False):
    """Take steps with random gradients; the gradients that were used, by step."""
    random = np.random.default_rng(seed)
    used = []
    for step in range(steps):
        gradients = [random.standard_normal(p.shape) for p in parameters]
        for k, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            p.grad = None if skip(step, k) else Tensor(g, dtype=p.dtype)
        used.append(gradients)
        optimizer.step()
    return used


# --- the published rules, one parameter at a time, in float64 ---


def sgd_rule(w, gradients, lr, momentum, nesterov, weight_decay):
    v = 0.0
    for g in gradients:
        g = g + weight_decay * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v if nesterov else v)
    return w


def rmsprop_rule(w, gradients, lr, alpha, eps, weight_decay, momentum):
    s = v = 0.0
    for g in gradients:
        g = g + weight_decay * w
        s = alpha * s + (1 - alpha) * g**2
        v = momentum * v + g / (np.sqrt(s) + eps)
        w = w - lr * v
    return w


def adam_rule(w, gradients, lr, betas, eps, weight_decay, decoupled=False):
    m = s = 0.0
    for t, g in enumerate(gradients, 1):
        if decoupled:
            w = w - lr * weight_decay * w
        else:
            g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        s = betas[1] * s + (1 - betas[1]) * g**2
        w = w - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(s / (1 - betas[1] ** t)) + eps)
    return w


def lion_rule(w, gradients, lr, betas, weight_decay):
    m = 0.0
    for g in gradients:
        update = np.sign(betas[0] * m + (1 - betas[0]) * g)
        w = w - lr * (update + weight_decay * w)
        m = betas[1] * m + (1 - betas[1]) * g
    return w


def newton_schulz(x):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (np.sqrt((x**2).sum()) + 1e-7)
    for _ in range(5):
        x = a * x + b * (x @ x.T @ x) + c * (x @ x.T @ x @ x.T @ x)
    return x


def muon_rule(w, gradients, lr, momentum, nesterov, weight_decay):
    m = np.zeros_like(w)
    for g in gradients:
        m = momentum * m + (1 - momentum) * g
        d = (1 - momentum) * g + momentum * m if nesterov else m
        scale = max(1.0, w.shape[1] / w.shape[0]) ** 0.5
        w = w - lr * weight_decay * w - lr * scale * newton_schulz(d)
    return w


def adamw_rule(w, gradients, **settings):
    return adam_rule(w, gradients, decoupled=True, **settings)


RULES = {
    "sgd": (SGD, sgd_rule, dict(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0)),
    "momentum": (SGD, sgd_rule, dict(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.01)),
    "nesterov": (SGD, sgd_rule, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
    "rmsprop": (
        RMSprop,
        rmsprop_rule,
        dict(lr=0.01, alpha=0.9, eps=1e-6, weight_decay=0.1, momentum=0.5),
    ),
    "adam": (Adam, adam_rule, dict(lr=0.01, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1)),
    "adamw": (AdamW, adamw_rule, dict(lr=0.01, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1)),
    "lion": (Lion, lion_rule, dict(lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)),
    "muon": (Muon, muon_rule, dict(lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1)),
}
MATRICES = [(7, 5), (5, 9), (4, 4)]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_fifty_steps_equal_the_published_rule(name, dtype, tolerance):
    make, rule, settings = RULES[name]
    parameters = leaves(dtype=dtype, shapes=MATRICES if make is Muon else SHAPES)
    start = [p.numpy().astype(np.float64) for p in parameters]
    gradients = walk(make(parameters, **settings), parameters, 50)
    if dtype == np.float32:
        gradients = [[g.astype(np.float32).astype(np.float64) for g in step] for step in gradients]
    for k, p in enumerate(parameters):
        assert p.dtype == dtype
        expected = rule(start[k], [step[k] for step in gradients], **settings)
        # the sign of Lion and the chaos of the singular values magnify float32's rounding
        loose = 100 if make in (Lion, Muon) and dtype == np.float32 else 1
        np.testing.assert_allclose(
            p.numpy(), expected, rtol=loose * tolerance, atol=loose * tolerance
        )


def test_a_parameter_without_gradient_stays_and_keeps_its_own_step_count():
    parameters = leaves()
    still = parameters[1].numpy().copy()
    settings = RULES["adam"][2]
    optimizer = Adam(parameters, **settings)
    start = [p.numpy().copy() for p in parameters]
    used = walk(optimizer, parameters, 3, skip=lambda step, k: k == 1)
    np.testing.assert_array_equal(parameters[1].numpy(), still)
    later = walk(optimizer, parameters, 2, seed=2)
    expected = adam_rule(start[1], [step[1] for step in later], **settings)
    np.testing.assert_allclose(parameters[1].numpy(), expected, atol=1e-12)
    expected = adam_rule(start[0], [step[0] for step in used + later], **settings)
    np.testing.assert_allclose(parameters[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_state_dict_continues_where_it_stopped(name):
    make, _, settings = RULES[name]
    shapes = MATRICES if make is Muon else SHAPES
    whole, parts = leaves(shapes=shapes), leaves(shapes=shapes)
    skip = lambda step, k: step == 2 and k == 0  # noqa: E731
    reference = make(whole, **settings)
    walk(reference, whole, 5, skip=skip)
    walk(reference, whole, 5, seed=2)
    first = make(parts, **settings)
    walk(first, parts, 5, skip=skip)
    saved = copy.deepcopy(first.state_dict())
    second = make(parts)
    second.load_state_dict(saved)
    walk(second, parts, 5, seed=2)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_state_dict_holds_an_array_in_the_shape_of_each_parameter():
    parameters = leaves()
    optimizer = Adam(parameters)
    walk(optimizer, parameters, 2)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["params"] == [0, 1, 2, 3]
    assert list(saved["state"]) == [0, 1, 2, 3]
    assert saved["state"][2]["gradient_sum"].shape == (5, 3)
    assert saved["state"][2]["step"] == 2
    assert set(saved["state"][2]) == {"step", "gradient_sum", "square_sum"}, "no scratch is saved"


def test_groups_differ_and_lr_sets_them_all():
    a, b = leaves(shapes=[(2,), (2,)])
    optimizer = SGD([{"params": [a]}, {"params": [b], "lr": 0.0}], lr=1.0)
    before = b.numpy().copy()
    walk(optimizer, [a, b], 1)
    np.testing.assert_array_equal(b.numpy(), before)
    optimizer.lr = 0.5
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert optimizer.lr == 0.5


def test_mixed_dtypes_and_replaced_data():
    a = Tensor([1.0, 2.0], requires_grad=True)
    b = Tensor([1.0, 2.0], requires_grad=True, dtype=np.float64)
    c = Tensor([5.0], requires_grad=True)
    optimizer = SGD([a, b, c], lr=1.0)
    for p in (a, b, c):
        p.grad = Tensor(np.ones(p.shape), dtype=p.dtype)
    a.data = np.array([10.0, 20.0], np.float32)  # somebody put another array in place
    optimizer.step()
    assert (a.tolist(), b.tolist(), c.tolist()) == ([9.0, 19.0], [0.0, 1.0], [4.0])
    assert (a.dtype, b.dtype) == (np.float32, np.float64)


@pytest.mark.parametrize("size", [1, Optimizer.chunk - 1, Optimizer.chunk, 3 * Optimizer.chunk + 7])
def test_chunks_change_nothing(size):
    w = Tensor(np.linspace(-1, 1, size), requires_grad=True, dtype=np.float64)
    start = w.numpy().copy()
    optimizer = Adam([w])
    gradients = []
    for seed in range(2):
        gradients.append(np.random.default_rng(seed).standard_normal(size))
        w.grad = Tensor(gradients[-1], dtype=np.float64)
        optimizer.step()
    settings = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    np.testing.assert_allclose(w.numpy(), adam_rule(start, gradients, **settings), atol=1e-12)


def test_scratch_of_a_large_parameter_is_one_chunk_long():
    w = Tensor(np.zeros(3 * Optimizer.chunk), requires_grad=True)
    w.grad = Tensor(np.ones(3 * Optimizer.chunk))
    optimizer = Adam([w])
    optimizer.step()
    ((block,),) = optimizer._blocks
    assert block.state["_work"].size == Optimizer.chunk


def test_a_non_contiguous_parameter_is_moved_in_place():
    w = Tensor(np.zeros((3, 2)), requires_grad=True)
    w.data = np.zeros((2, 3), np.float32).T
    array = w.data
    w.grad = Tensor(np.arange(6).reshape(3, 2))
    SGD([w], lr=1.0).step()
    assert w.data is array
    np.testing.assert_array_equal(array, -np.arange(6).reshape(3, 2))


def test_gradients_are_not_changed_by_a_step():
    for make, _, settings in RULES.values():
        (w,) = leaves(shapes=[(4, 4)])
        w.grad = Tensor(np.ones((4, 4)), dtype=np.float64)
        make([w], **settings).step()
        np.testing.assert_array_equal(w.grad.numpy(), np.ones((4, 4)), err_msg=make.__name__)


def test_zero_grad_and_repr():
    parameters = leaves()
    optimizer = Adam(parameters, lr=0.5)
    walk(optimizer, parameters, 1)
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters)
    assert repr(optimizer).startswith("Adam(lr=0.5, betas=(0.9, 0.999)")


def vector():
    return Tensor([1.0], requires_grad=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD([]), "SGD: expected parameters to optimize, got none"),
        (lambda: SGD([vector()], lr=-1.0), "SGD: lr must not be negative, got -1.0"),
        (lambda: Adam([vector()], betas=(0.9, 1.0)), "in [0, 1), got 1.0"),
        (lambda: SGD([vector()], nesterov=True), "nesterov needs a momentum above 0"),
        (lambda: SGD([{"params": [vector()], "learning_rate": 1}]), "unknown settings"),
        (lambda: SGD([vector()] * 2), "a tensor of shape (1,) was given twice"),
        (lambda: SGD([1.0]), "expected floating-point leaf tensors, got 1.0"),
        (lambda: SGD([Tensor([1], dtype=int)]), "expected floating-point leaf tensors"),
        (lambda: Muon([vector()]), "Muon: expected matrices, got shape (1,): give it to AdamW"),
    ],
)
def test_bad_settings_say_what_is_wrong(make, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_state_of_other_parameters_is_refused_and_nothing_changes():
    parameters = leaves()
    optimizer = Adam(parameters, lr=0.5)
    walk(optimizer, parameters, 1)
    before = copy.deepcopy(optimizer.state_dict())
    other = Adam(leaves(shapes=[(2,)]))
    with pytest.raises(ValueError, match=r"groups of \[1\] parameters, expected \[4\]"):
        optimizer.load_state_dict(other.state_dict())
    wrong = copy.deepcopy(before)
    wrong["state"][0]["gradient_sum"] = np.zeros((2, 2))
    with pytest.raises(ValueError, match="gradient_sum of parameter 0 has shape"):
        optimizer.load_state_dict(wrong)
    after = optimizer.state_dict()
    for number, arrays in before["state"].items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(after["state"][number][name], array)


def test_orthogonalize_keeps_the_singular_vectors():
    random = np.random.default_rng(0)
    for shape in [(4, 9), (9, 4), (5, 5)]:
        matrix = random.standard_normal(shape)
        u, _, vt = np.linalg.svd(matrix, full_matrices=False)
        inner = u.T @ orthogonalize(matrix) @ vt.T
        diagonal = np.diag(inner)
        np.testing.assert_allclose(inner, np.diag(diagonal), atol=1e-8)
        assert (diagonal > 0.6).all()
        assert (diagonal < 1.3).all()
    assert orthogonalize(np.zeros((2, 3))).tolist() == [[0.0] * 3] * 2


def test_clip_grad_norm():
    a, b, idle = leaves(shapes=[(2,), (1,), (3,)])
    a.grad, b.grad = Tensor([3.0, 0.0], dtype=np.float64), Tensor([4.0], dtype=np.float64)
    assert clip_grad_norm(iter([a, b, idle]), 10.0) == 5.0
    assert b.grad.tolist() == [4.0]
    assert clip_grad_norm([a, b, idle], 1.0) == 5.0
    np.testing.assert_allclose([*a.grad.tolist(), *b.grad.tolist()], [0.6, 0.0, 0.8], rtol=1e-6)
    assert clip_grad_norm([idle], 1.0) == 0.0
    a.grad = Tensor([np.inf, 0.0])
    with pytest.raises(FloatingPointError, match="norm is inf"):
        clip_grad_norm([a, b], 1.0)
    np.testing.assert_allclose(b.grad.tolist(), [0.8], rtol=1e-6)


def test_schedules():
    cosine = CosineSchedule(max_lr=0.3, min_lr=0.1, total_steps=100)
    for step in (0, 25, 50, 99, 100, 250):
        share = min(step / 100, 1)
        assert cosine(step) == pytest.approx(0.2 + 0.1 * math.cos(math.pi * share))
    decay = StepSchedule(1.0, step_size=10, gamma=0.5)
    assert [decay(step) for step in (0, 9, 10, 35)] == [1.0, 1.0, 0.5, 0.125]
    warm = WarmupSchedule(cosine, warmup_steps=10)
    assert warm(0) == pytest.approx(0.03)
    assert warm(9) == pytest.approx(0.3)
    assert warm(10) == cosine(0)
    assert warm(60) == cosine(50)
    cycle = OneCycleSchedule(max_lr=1.0, total_steps=101, warmup=31 / 101)
    assert cycle(0) == pytest.approx(1 / 25)
    assert cycle(30) == pytest.approx(1.0)
    assert cycle(100) == pytest.approx(1 / 25 / 1e4)
    rates = [cycle(step) for step in range(101)]
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)

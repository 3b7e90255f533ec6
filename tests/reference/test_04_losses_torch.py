"""Losses against PyTorch: values and gradients, with every option."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference tests compare with PyTorch")

from tinytorch.core import autograd, losses  # noqa: E402
from tinytorch.core.activations import log_softmax, sigmoid  # noqa: E402
from tinytorch.core.tensor import Tensor  # noqa: E402

F = torch.nn.functional
random = np.random.default_rng(0)
REDUCTIONS = ["none", "mean", "sum"]
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def compare(ours, theirs, *arrays, gradients=1, tolerance=None):
    """Values, and gradients by the first `gradients` arrays; `ours` gets tensors, `theirs` too."""
    dtype = arrays[0].dtype
    tolerance = tolerance or (1e-12 if dtype == np.float64 else 3e-6)
    mine = [Tensor(x, dtype=x.dtype, requires_grad=i < gradients) for i, x in enumerate(arrays)]
    reference = [torch.tensor(x, requires_grad=i < gradients) for i, x in enumerate(arrays)]
    out, expected = ours(*mine), theirs(*reference)
    assert out.dtype == dtype
    np.testing.assert_allclose(out.data, expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    assert out.shape == tuple(expected.shape)
    seed = np.random.default_rng(1).standard_normal(out.shape).astype(dtype)
    autograd.backward(out, Tensor(seed, dtype=dtype))
    expected.backward(torch.tensor(seed))
    for x, y in zip(mine[:gradients], reference, strict=False):
        np.testing.assert_allclose(x.grad.data, y.grad.numpy(), rtol=tolerance, atol=tolerance)


SHAPES = [(6, 5), (3, 4, 2), (2, 4, 3, 2), (5,), (1, 1), (0, 4)]
OPTIONS = [
    {},
    {"weight": True},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0, "weight": True},
    {"ignore_index": 0},
    {"ignore_index": 0, "weight": True, "label_smoothing": 0.3},
]


@every_dtype
@every_reduction
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "plain")
@pytest.mark.parametrize("kind", ["indices", "ignored", "probabilities"])
def test_cross_entropy(shape, options, reduction, kind, dtype):
    classes = shape[1] if len(shape) > 1 else shape[0]
    options = options | {"reduction": reduction}
    theirs = dict(options)
    if "weight" in options:
        options["weight"] = random.uniform(0.5, 2, classes).astype(dtype)
        theirs["weight"] = torch.tensor(options["weight"])
    logits = (3 * random.standard_normal(shape)).astype(dtype)
    rows = (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    if kind == "probabilities":
        options.pop("ignore_index", None)  # PyTorch's message for these, too: indices only
        theirs.pop("ignore_index", None)
        targets = random.dirichlet(np.ones(classes), rows).astype(dtype)
        targets = np.moveaxis(targets, -1, min(1, len(rows)))
    else:
        lowest = 0 if rows else 1  # ignoring the only row is another test
        targets = np.asarray(random.integers(lowest, classes, rows))
        if kind == "ignored" and targets.size > 1:
            targets.flat[0] = options.get("ignore_index", -100)
    compare(
        lambda x, t: losses.cross_entropy(x, t, **options),
        lambda x, t: F.cross_entropy(x, t, **theirs),
        logits,
        targets,
    )


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["plain", "smoothed"])
@every_reduction
def test_cross_entropy_where_no_row_counts(options, reduction):
    logits = random.standard_normal((3, 4)).astype(np.float32)
    compare(
        lambda x: losses.cross_entropy(x, [-100] * 3, reduction=reduction, **options),
        lambda x: F.cross_entropy(x, torch.full((3,), -100), reduction=reduction, **options),
        logits,
    )


def test_cross_entropy_of_impossible_classes():
    logits = np.array([[0.0, 1.0, -np.inf], [-np.inf, 0.0, 2.0]])
    compare(
        lambda x: losses.cross_entropy(x, [1, 2]),
        lambda x: F.cross_entropy(x, torch.tensor([1, 2])),
        logits,
    )


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "plain")
def test_cross_entropy_gradients_of_gradients(options):
    options = dict(options)
    if "weight" in options:
        options["weight"] = np.array([0.5, 1.0, 2.0])
    logits, targets = random.standard_normal((4, 3)), np.array([0, 2, 1, 2])
    assert autograd.gradcheck(
        lambda x: losses.cross_entropy(x, targets, **options), logits, order=2
    )


@every_dtype
@every_reduction
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 2), (5,)], ids=str)
def test_nll_loss(shape, weighted, reduction, dtype):
    classes = shape[1] if len(shape) > 1 else shape[0]
    weight = random.uniform(0.5, 2, classes).astype(dtype) if weighted else None
    targets = np.asarray(random.integers(0, classes, (*shape[:1], *shape[2:])[: len(shape) - 1]))
    axis = 1 if len(shape) > 1 else 0
    if targets.size > 1:
        targets.flat[1] = -100
    compare(
        lambda x, t: losses.nll_loss(log_softmax(x, axis=axis), t, weight, reduction=reduction),
        lambda x, t: F.nll_loss(
            F.log_softmax(x, axis),
            t,
            None if weight is None else torch.tensor(weight),
            reduction=reduction,
        ),
        random.standard_normal(shape).astype(dtype),
        targets,
    )


ELEMENTWISE = {
    "mse": (losses.mse_loss, F.mse_loss),
    "l1": (losses.l1_loss, F.l1_loss),
    "huber": (losses.huber_loss, F.huber_loss),
    "huber, delta 0.3": (
        lambda x, t, reduction: losses.huber_loss(x, t, reduction, delta=0.3),
        lambda x, t, reduction: F.huber_loss(x, t, reduction=reduction, delta=0.3),
    ),
}


@every_dtype
@every_reduction
@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(4, 3), (), (0, 3)], ids=str)
def test_losses_for_numbers(name, shape, reduction, dtype):
    ours, theirs = ELEMENTWISE[name]
    x, t = random.standard_normal((2, *shape)).astype(dtype)
    compare(
        lambda x, t: ours(x, t, reduction=reduction),
        lambda x, t: theirs(x, t, reduction=reduction),
        np.asarray(x),
        np.asarray(t),
        gradients=2,
    )


@every_dtype
@every_reduction
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy(weighted, reduction, dtype):
    p, t = random.uniform(0.01, 0.99, (2, 4, 3)).astype(dtype)
    weight = random.uniform(0, 2, 3).astype(dtype) if weighted else None
    compare(
        lambda p, t: losses.binary_cross_entropy(p, t, weight, reduction),
        lambda p, t: F.binary_cross_entropy(
            p, t, None if weight is None else torch.tensor(weight), reduction=reduction
        ),
        p,
        t,
        tolerance=1e-4 if dtype == np.float32 else 1e-11,
    )


@every_dtype
def test_binary_cross_entropy_at_the_ends(dtype):
    p, t = np.array(list(itertools.product([0, 1], [0, 0.5, 1])), dtype).T
    expected = F.binary_cross_entropy(torch.tensor(p), torch.tensor(t), reduction="none")
    x = Tensor(p, dtype=dtype, requires_grad=True)
    out = losses.binary_cross_entropy(x, t, reduction="none")
    np.testing.assert_allclose(out.data, expected.numpy(), rtol=1e-12)
    autograd.backward(out.sum())
    assert np.isfinite(x.grad.data).all()


@every_dtype
@every_reduction
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("positive", [None, 3.0, [0.5, 1.0, 4.0]], ids=str)
def test_binary_cross_entropy_with_logits(positive, weighted, reduction, dtype):
    x = (20 * random.standard_normal((4, 3))).astype(dtype)
    x[0] = 0  # where a maximum and an absolute value have their corners
    x[1] = [1000, -1000, 50]
    t = random.uniform(0, 1, (4, 3)).round(1).astype(dtype)
    weight = random.uniform(0, 2, (4, 3)).astype(dtype) if weighted else None
    compare(
        lambda x, t: losses.binary_cross_entropy_with_logits(x, t, weight, reduction, positive),
        lambda x, t: F.binary_cross_entropy_with_logits(
            x,
            t,
            None if weight is None else torch.tensor(weight),
            reduction=reduction,
            pos_weight=None if positive is None else torch.tensor(positive, dtype=x.dtype),
        ),
        x,
        t,
        tolerance=2e-6 if dtype == np.float32 else 1e-12,
    )


@pytest.mark.filterwarnings("ignore:reduction. .mean.:UserWarning")
@every_dtype
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div(reduction, log_target, dtype):
    q, t = random.standard_normal((2, 4, 3)).astype(dtype)
    t = np.asarray(torch.softmax(torch.tensor(t), 1))
    t[0] = [0, 1, 0] if not log_target else t[0]
    compare(
        lambda q, t: losses.kl_div(log_softmax(q), t, reduction, log_target),
        lambda q, t: F.kl_div(F.log_softmax(q, -1), t, reduction=reduction, log_target=log_target),
        q,
        np.log(t) if log_target else t,
    )


@every_dtype
def test_softplus(dtype):
    x = np.array([-1000, -30, -1, 0, 1, 30, 1000], dtype)
    compare(losses.softplus, F.softplus, x, tolerance=1e-6 if dtype == np.float32 else 3e-9)


LAYERS = [
    (losses.MSELoss, torch.nn.MSELoss, {}),
    (losses.L1Loss, torch.nn.L1Loss, {"reduction": "sum"}),
    (losses.HuberLoss, torch.nn.HuberLoss, {"delta": 0.5}),
    (losses.BCEWithLogitsLoss, torch.nn.BCEWithLogitsLoss, {"reduction": "none"}),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "options"), LAYERS, ids=lambda x: getattr(x, "__name__", "")
)
def test_layers(ours, theirs, options):
    x, t = random.uniform(0, 1, (2, 4, 3)).astype(np.float32)
    compare(ours(**options), theirs(**options), x, t)


def test_class_layers():
    x, t = random.standard_normal((4, 3)), np.array([0, 2, 1, -100])
    weight = np.array([1.0, 2.0, 3.0])
    compare(
        losses.CrossEntropyLoss(weight, label_smoothing=0.1),
        torch.nn.CrossEntropyLoss(torch.tensor(weight), label_smoothing=0.1),
        x,
        t,
    )
    compare(
        lambda x, t: losses.NLLLoss(weight)(log_softmax(x), t),
        lambda x, t: torch.nn.NLLLoss(torch.tensor(weight))(F.log_softmax(x, 1), t),
        x,
        t,
    )
    compare(
        lambda x: losses.BinaryCrossEntropyLoss()(sigmoid(x), np.ones((4, 3))),
        lambda x: torch.nn.BCELoss()(torch.sigmoid(x), torch.ones(4, 3, dtype=torch.float64)),
        x,
    )

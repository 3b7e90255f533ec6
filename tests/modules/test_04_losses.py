"""Losses, held against their formulas in float64, at the edges, and on bad input."""

import math
import pickle
import warnings

import numpy as np
import pytest

from tinytorch.core.losses import (
    BCEWithLogitsLoss,
    BinaryCrossEntropyLoss,
    CrossEntropyLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    softplus,
    target_weights,
)
from tinytorch.core.tensor import Tensor, watching


def random(*shape, low=-3.0, high=3.0):
    return np.random.default_rng(0).uniform(low, high, shape)


def log_probabilities(logits):
    """Of (N, C) logits, in float64."""
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


# name -> (the function, its formula for arrays of float64, predictions from, to)
ELEMENTWISE = {
    "mse": (mse_loss, lambda p, t: (p - t) ** 2, -3, 3),
    "l1": (l1_loss, lambda p, t: abs(p - t), -3, 3),
    "huber": (
        huber_loss,
        lambda p, t: np.where(abs(p - t) < 1, (p - t) ** 2 / 2, abs(p - t) - 0.5),
        -3,
        3,
    ),
    "bce": (
        binary_cross_entropy,
        lambda p, t: -(t * np.log(p) + (1 - t) * np.log(1 - p)),
        0.05,
        0.95,
    ),
    "bce with logits": (
        binary_cross_entropy_with_logits,
        lambda x, t: np.log(1 + np.exp(-x)) + (1 - t) * x,
        -3,
        3,
    ),
    "kl": (kl_div, lambda q, t: t * (np.log(t) - q), -3, 0),
}
every_elementwise = pytest.mark.parametrize("name", ELEMENTWISE)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@every_elementwise
@every_dtype
@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 2), ()], ids=str)
def test_elementwise_losses(name, shape, dtype):
    loss, formula, low, high = ELEMENTWISE[name]
    p = random(*shape, low=low, high=high).astype(dtype)
    t = (random(*shape, low=0.1, high=0.9) ** 2).astype(dtype)
    expected = formula(p.astype(np.float64), t.astype(np.float64))
    tolerance = 1e-12 if dtype == np.float64 else 3e-5
    wanted = {"none": expected, "sum": expected.sum(), "mean": expected.mean()}
    for reduction, value in wanted.items():
        out = loss(Tensor(p, dtype=dtype), Tensor(t, dtype=dtype), reduction=reduction)
        assert type(out) is Tensor
        assert out.dtype == dtype
        assert out.shape == np.shape(value)
        np.testing.assert_allclose(out.data, value, rtol=tolerance, atol=tolerance)


@every_elementwise
def test_lists_arrays_and_integers_as_targets(name):
    loss, formula, low, high = ELEMENTWISE[name]
    p = Tensor(random(3, low=low, high=high))
    bits = [1, 1, 1] if name == "kl" else [1, 0, 1]
    expected = formula(p.data.astype(np.float64), np.array(bits)).mean()
    for target in (bits, np.array(bits), Tensor(bits, dtype=np.uint8), np.array(bits, bool)):
        out = loss(p, target)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out.item(), expected, rtol=1e-5)


@every_elementwise
@pytest.mark.parametrize("target", [(4,), (1, 4), (4, 2), ()], ids=str)
def test_shapes_that_differ_are_refused(name, target):
    loss = ELEMENTWISE[name][0]
    with pytest.raises(ValueError, match=r"prediction \(4, 1\) and target .* differ in shape") as e:
        loss(Tensor(np.full((4, 1), 0.5)), Tensor(np.full(target, 0.5)))
    assert "\n" not in str(e.value)


@every_elementwise
def test_predictions_that_are_no_floats_are_refused(name):
    with pytest.raises(TypeError, match="predictions must be floats, got uint8"):
        ELEMENTWISE[name][0](Tensor([1, 0], dtype=np.uint8), [1, 0])


@every_elementwise
def test_unknown_reduction_is_named(name):
    with pytest.raises(ValueError, match=r"reduction must be .* got 'median'"):
        ELEMENTWISE[name][0](Tensor([0.5]), [0.5], reduction="median")


@every_elementwise
def test_mean_of_nothing_is_nan(name):
    nothing = Tensor(np.zeros((0, 2)))
    assert math.isnan(ELEMENTWISE[name][0](nothing, nothing).item())
    assert ELEMENTWISE[name][0](nothing, nothing, reduction="sum").item() == 0


def test_huber_with_a_border_of_its_own():
    out = huber_loss(Tensor([0.5, -3.0]), [0, 0], reduction="none", delta=2.0)
    assert out.tolist() == [0.125, 4.0]
    with pytest.raises(ValueError, match="delta must be positive, got 0"):
        huber_loss(Tensor([0.5]), [0], delta=0)


def test_binary_cross_entropy_is_cut_off_at_100():
    out = binary_cross_entropy(Tensor([0.0, 1.0, 0.0, 1.0]), [1, 0, 0, 1], reduction="none")
    np.testing.assert_array_equal(out.data, np.array([100, 100, 0, 0], np.float32))


@pytest.mark.parametrize("wrong", [1.5, -0.1, math.nan])
def test_binary_cross_entropy_wants_probabilities(wrong):
    with pytest.raises(ValueError, match=r"probability must lie in \[0, 1\], got"):
        binary_cross_entropy(Tensor([0.5, wrong]), [1, 1])
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\], got"):
        binary_cross_entropy(Tensor([0.5, 0.5]), [1, wrong])


def test_weights_of_binary_losses():
    p, t, weight = random(4, 3, low=0.1, high=0.9), random(4, 3) > 0, random(3, low=0, high=2)
    plain = -np.where(t, np.log(p), np.log(1 - p))
    for given in (weight, Tensor(weight), weight.tolist()):
        out = binary_cross_entropy(Tensor(p), t, weight=given)
        np.testing.assert_allclose(out.item(), (weight * plain).mean(), rtol=1e-5)
    for loss in (binary_cross_entropy, binary_cross_entropy_with_logits):
        with pytest.raises(ValueError, match=r"weight of shape \(4, 1\) doesn't fit"):
            loss(Tensor(p[:, 0]), t[:, 0], weight=np.ones((4, 1)))
    logits, positive = np.log(p / (1 - p)), [1.0, 2.0, 5.0]
    out = binary_cross_entropy_with_logits(Tensor(logits), t, pos_weight=positive, reduction="none")
    np.testing.assert_allclose(out.data, np.where(t, positive, 1) * plain, rtol=1e-5)


def test_scores_of_any_size_are_right_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = Tensor([-1e30, -1000, 1000, 1e30])
        assert softplus(x).tolist() == [0.0, 0.0, 1000.0, x.data[3]]
        out = binary_cross_entropy_with_logits(x, [0, 1, 0, 1], reduction="none")
        assert out.tolist() == [0.0, 1000.0, 1000.0, 0.0]
        out = cross_entropy(Tensor([[0.0, 1e4], [1e4, 0.0]]), [0, 0], reduction="none")
        assert out.tolist() == [1e4, 0.0]
        assert cross_entropy(Tensor([[0.0, -np.inf]]), [0]).item() == 0


def test_kl_of_impossible_and_of_logarithms():
    q, t = np.log([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    assert kl_div(Tensor(q), t, reduction="none").data[0, 1] == 0
    assert kl_div(Tensor(q), t, reduction="batchmean").item() == pytest.approx(math.log(2))
    assert kl_div(Tensor(q), t).item() == pytest.approx(math.log(2) / 2)
    t = np.array([[0.3, 0.7]])
    same = kl_div(Tensor(q), np.log(t), log_target=True)
    np.testing.assert_allclose(same.item(), kl_div(Tensor(q), t).item(), rtol=1e-6)


# --- classes ---

LOGITS = random(5, 4)
TARGETS = np.array([0, 3, 1, 3, 2])
WEIGHT = np.array([1.0, 2.0, 0.5, 3.0])
SURPRISE = -log_probabilities(LOGITS)[np.arange(5), TARGETS]


def both_losses(targets, **options):
    """cross_entropy, and nll_loss of the logarithms: they must agree."""
    one = cross_entropy(Tensor(LOGITS, dtype=np.float64), targets, **options)
    two = nll_loss(Tensor(log_probabilities(LOGITS), dtype=np.float64), targets, **options)
    assert one.dtype == two.dtype == np.float64
    np.testing.assert_allclose(one.data, two.data, rtol=1e-12)
    return one.data


@pytest.mark.parametrize(
    "targets",
    [
        TARGETS,
        TARGETS.tolist(),
        TARGETS.astype(np.uint8),
        TARGETS.astype(np.float32),
        Tensor(TARGETS),
        Tensor(TARGETS.tolist()),
        np.repeat(TARGETS, 2)[::2],
    ],
    ids=["int64", "list", "uint8", "float32", "tensor", "float tensor", "not contiguous"],
)
def test_class_indices_in_any_form(targets):
    np.testing.assert_allclose(both_losses(targets, reduction="none"), SURPRISE, rtol=1e-12)
    np.testing.assert_allclose(both_losses(targets), SURPRISE.mean(), rtol=1e-12)
    np.testing.assert_allclose(both_losses(targets, reduction="sum"), SURPRISE.sum(), rtol=1e-12)


@pytest.mark.parametrize("weight", [WEIGHT, WEIGHT.tolist(), Tensor(WEIGHT)])
def test_class_weights(weight):
    weighted = WEIGHT[TARGETS] * SURPRISE
    np.testing.assert_allclose(both_losses(TARGETS, weight=weight, reduction="none"), weighted)
    mean = weighted.sum() / WEIGHT[TARGETS].sum()
    np.testing.assert_allclose(both_losses(TARGETS, weight=weight), mean, rtol=1e-12)


@pytest.mark.parametrize("ignored", [-100, 3, 255])
def test_ignored_rows(ignored):
    targets = np.where(TARGETS == 3, ignored, TARGETS)
    counted = TARGETS != 3
    rows = both_losses(targets, ignore_index=ignored, reduction="none")
    np.testing.assert_allclose(rows, SURPRISE * counted, rtol=1e-12)
    mean = both_losses(targets, ignore_index=ignored)
    np.testing.assert_allclose(mean, SURPRISE[counted].mean(), rtol=1e-12)
    mean = both_losses(targets, ignore_index=ignored, weight=WEIGHT)
    wanted = np.average(SURPRISE[counted], weights=WEIGHT[TARGETS][counted])
    np.testing.assert_allclose(mean, wanted, rtol=1e-12)


def test_ignored_rows_may_be_impossible():
    rows = nll_loss(Tensor([[-np.inf, 0.0], [-1.0, -2.0]]), [-100, 0], reduction="none")
    assert rows.tolist() == [0.0, 1.0]


def test_label_smoothing_and_probabilities():
    logs = log_probabilities(LOGITS)
    smoothed = 0.9 * np.eye(4)[TARGETS] + 0.1 / 4
    for t, targets, options in (
        (smoothed, TARGETS, {"label_smoothing": 0.1}),
        (smoothed, smoothed, {}),
        (smoothed, np.eye(4)[TARGETS], {"label_smoothing": 0.1}),
        (smoothed * WEIGHT, smoothed, {"weight": WEIGHT}),
    ):
        x = Tensor(LOGITS, dtype=np.float64)
        rows = cross_entropy(x, targets, reduction="none", **options)
        np.testing.assert_allclose(rows.data, -(t * logs).sum(axis=1), rtol=1e-12)
        mean = cross_entropy(x, targets, **options)
        np.testing.assert_allclose(mean.data, rows.data.mean(), rtol=1e-12)
    weighted = cross_entropy(x, TARGETS, weight=WEIGHT, label_smoothing=0.1)
    wanted = -(smoothed * WEIGHT * logs).sum() / WEIGHT[TARGETS].sum()
    np.testing.assert_allclose(weighted.data, wanted, rtol=1e-12)


def test_where_no_row_counts():
    for options in ({}, {"weight": WEIGHT}, {"label_smoothing": 0.1}):
        ignored = [-100] * 5
        assert math.isnan(cross_entropy(Tensor(LOGITS), ignored, **options).item())
        assert cross_entropy(Tensor(LOGITS), ignored, reduction="sum", **options).item() == 0
    assert math.isnan(cross_entropy(Tensor(np.zeros((0, 3))), np.zeros(0, int)).item())
    t, count = target_weights(np.array([-100]), (1, 2), np.float32)
    assert t.tolist() == [[0, 0]]
    assert count == 1


def test_pixels_and_single_rows():
    logits, targets = random(2, 3, 4, 5), np.random.default_rng(1).integers(0, 3, (2, 4, 5))
    rows = np.moveaxis(logits, 1, -1).reshape(-1, 3)
    both = {"label_smoothing": 0.2, "weight": [1, 2, 3]}
    for options in ({}, {"label_smoothing": 0.2}, {"weight": [1, 2, 3]}, {"ignore_index": 1}, both):
        x = Tensor(logits, dtype=np.float64)
        flat = cross_entropy(Tensor(rows, dtype=np.float64), targets.reshape(-1), **options)
        np.testing.assert_allclose(cross_entropy(x, targets, **options).data, flat.data)
        shape = cross_entropy(x, targets, reduction="none", **options).shape
        assert shape == (2, 4, 5)
    one = cross_entropy(Tensor(LOGITS[0]), TARGETS[0])
    np.testing.assert_allclose(one.item(), SURPRISE[0], rtol=1e-6)


def test_target_weights_are_what_cross_entropy_sums():
    options = {"weight": WEIGHT, "label_smoothing": 0.3, "ignore_index": 2}
    t, count = target_weights(TARGETS, LOGITS.shape, np.float64, **options)
    assert t.dtype == np.float64
    value = -(t * log_probabilities(LOGITS)).sum() / count
    x = Tensor(LOGITS, dtype=np.float64)
    np.testing.assert_allclose(cross_entropy(x, TARGETS, **options).data, value, rtol=1e-12)


@pytest.mark.parametrize("loss", [cross_entropy, nll_loss])
@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([0, 1, 2, 3, 4], IndexError, "target 4 is no class: there are 4, 0 to 3"),
        ([0, -1, 2, 3, 1], IndexError, "target -1 is no class"),
        ([0, 1.5, 2, 3, 1], ValueError, "whole number, got 1.5"),
        ([0, math.nan, 2, 3, 1], ValueError, "whole number, got nan"),
        ([0, 1], ValueError, r"\(5, 4\) need class indices of shape \(5,\).*got \(2,\)"),
        ([[0], [1], [2], [3], [1]], ValueError, r"got \(5, 1\)"),
    ],
)
def test_bad_targets_are_named(loss, targets, error, message):
    with pytest.raises(error, match=message) as raised:
        loss(Tensor(LOGITS), targets)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": [1, 2]}, r"weight: expected one for each of 4 classes, got \(2,\)"),
        ({"label_smoothing": 1.5}, r"label_smoothing must lie in \[0, 1\], got 1.5"),
        ({"reduction": "average"}, r"reduction must be .* got 'average'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=f"cross_entropy: {message}"):
        cross_entropy(Tensor(LOGITS), TARGETS, **options)


def test_cross_entropy_is_one_operation_and_changes_nothing():
    seen, x, t = [], Tensor(LOGITS), Tensor(TARGETS)
    before = x.data.copy(), t.data.copy()
    with watching("test", lambda op, inputs, params, out: seen.append(op)):
        cross_entropy(x, t, label_smoothing=0.1)
    assert seen == [cross_entropy]
    np.testing.assert_array_equal(x.data, before[0])
    np.testing.assert_array_equal(t.data, before[1])


# --- layers ---

HALF = Tensor([[0.5, 0.25]])


@pytest.mark.parametrize(
    ("layer", "inputs", "expected", "text"),
    [
        (MSELoss(), (HALF, [[0, 0]]), 0.15625, "MSELoss(reduction='mean')"),
        (L1Loss("sum"), (HALF, [[0, 0]]), 0.75, "L1Loss(reduction='sum')"),
        (
            HuberLoss(delta=0.25),
            (HALF, [[0, 0]]),
            0.0625,
            "HuberLoss(reduction='mean', delta=0.25)",
        ),
        (
            BinaryCrossEntropyLoss([2.0, 4.0], "sum"),
            (HALF, [[1, 1]]),
            10 * math.log(2),
            "BinaryCrossEntropyLoss(weight=[2.0, 4.0], reduction='sum')",
        ),
        (
            BCEWithLogitsLoss(weight=2.0, pos_weight=3.0),
            (Tensor([0.0, 0.0]), [1, 0]),
            4 * math.log(2),
            "BCEWithLogitsLoss(weight=2.0, reduction='mean', pos_weight=3.0)",
        ),
        (
            NLLLoss(weight=[1, 3], ignore_index=2),
            (Tensor([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]]), [0, 1, 2]),
            3.25,
            "NLLLoss(weight=[1, 3], ignore_index=2, reduction='mean')",
        ),
        (
            KLDivLoss("batchmean", log_target=True),
            (HALF.log(), HALF.log()),
            0.0,
            "KLDivLoss(reduction='batchmean', log_target=True)",
        ),
        (
            CrossEntropyLoss([1, 3], ignore_index=5, reduction="sum", label_smoothing=0.2),
            (Tensor([[0.0, 0.0], [0.0, 0.0]]), [1, 5]),
            2.8 * math.log(2),
            "CrossEntropyLoss(weight=[1, 3], ignore_index=5, reduction='sum', label_smoothing=0.2)",
        ),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "forward") else "",
)
def test_layers(layer, inputs, expected, text):
    for same in (layer, pickle.loads(pickle.dumps(layer))):
        assert repr(same) == text
        assert same(*inputs).item() == pytest.approx(expected, abs=1e-6)
        assert same.forward(*inputs).item() == same(*inputs).item()
    assert len({layer, type(layer)()}) == 2  # hashed by identity, as every layer

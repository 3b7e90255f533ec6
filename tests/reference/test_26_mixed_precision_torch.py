"""Rounded weights, Hessians and made-up data against PyTorch, traces against the exact Hessian."""

import math

import numpy as np
import pytest

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import grad
from tinytorch.core.layers import Flatten, Linear, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.spatial import BatchNorm2d, Conv2d, MaxPool2d
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.optimization.mixed_precision import (
    distill_inputs,
    hessian_costs,
    hessian_product,
    hessian_traces,
    layer_weights,
    norms_gap,
    round_weights,
)

torch = pytest.importorskip("torch", reason="compares with PyTorch")


@pytest.fixture(autouse=True)
def same_numbers():
    """Each test draws the same numbers in any order."""
    global random
    random = np.random.default_rng(26)
    manual_seed(26)


def networks():
    """The same small CNN in eval mode with known statistics: ours and PyTorch's, in float64."""
    ours = Sequential(
        *(Conv2d(1, 3, 3, padding=1, bias=False), BatchNorm2d(3), ReLU(), MaxPool2d(2)),
        *(Conv2d(3, 4, 3), BatchNorm2d(4), ReLU(), Flatten(), Linear(4, 3)),
    )
    theirs = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 3, 3, padding=1, bias=False), torch.nn.BatchNorm2d(3)),
        *(torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(3, 4, 3)),
        *(torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4, 3)),
    ).double()
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            for name in ("weight", "bias", "running_mean", "running_var"):
                value = getattr(mine, name, None)
                if isinstance(value, Tensor):
                    if name.startswith("running"):
                        low, high = (0.1, 0.5) if name == "running_var" else (-0.2, 0.2)
                        value = Tensor(random.uniform(low, high, value.shape))
                    setattr(mine, name, Tensor(value.data, dtype=np.float64))
                    array = value.data.T if isinstance(mine, Linear) else value.data
                    getattr(other, name).copy_(torch.tensor(array))
    return ours.eval(), theirs.eval()


def data(count=12):
    x = random.standard_normal((count, 1, 6, 6))
    return x, random.integers(0, 3, count)


def their_weights(theirs):
    return [m.weight for m in theirs if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]


def test_rounded_weights():
    ours, theirs = networks()
    for bits in (2, 3, 4, 8):
        rounded, highest = round_weights(ours, bits), 2 ** (bits - 1) - 1
        for name, weight in zip(("0", "4", "8"), their_weights(theirs), strict=True):
            weight = weight.detach().float()  # all have their output channels along axis 0
            scale = weight.flatten(1).abs().amax(1) / highest
            zero = torch.zeros(len(scale), dtype=torch.int32)
            expected = torch.fake_quantize_per_channel_affine(
                weight, scale, zero, 0, -highest, highest
            ).numpy()
            got = rounded[int(name)].weight.data
            got = got.T if name == "8" else got
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_the_hessian_product_is_pytorchs_double_backward():
    ours, theirs = networks()
    x, y = data()
    weights = [w for layer in layer_weights(ours, "test").values() for w in layer.tensors]
    loss = CrossEntropyLoss()(ours(Tensor(x, dtype=np.float64)), Tensor(y, dtype=int))
    gradients = grad(loss, weights, create_graph=True)
    direction = [random.standard_normal(w.shape) for w in weights]
    products = hessian_product(gradients, weights, direction)

    w = their_weights(theirs)
    loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
    slopes = torch.autograd.grad(loss, w, create_graph=True)
    v = [torch.tensor(d.T if d.ndim == 2 else d) for d in direction]
    expected = torch.autograd.grad(sum((g * d).sum() for g, d in zip(slopes, v, strict=True)), w)
    for got, e in zip(products, expected, strict=True):
        e = e.numpy()
        assert np.abs(e).max() > 1e-3
        np.testing.assert_allclose(got, e.T if e.ndim == 2 else e, rtol=1e-8, atol=1e-12)


def exact_traces(theirs, x, y):
    """The mean of the diagonal of each weight's block of the whole Hessian, by PyTorch."""
    weights = their_weights(theirs)
    loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
    means = []
    for weight in weights:
        [slope] = torch.autograd.grad(loss, weight, create_graph=True)
        rows = [torch.autograd.grad(s, weight, retain_graph=True)[0] for s in slope.flatten()]
        diagonal = [row.flatten()[i].item() for i, row in enumerate(rows)]
        means.append(np.mean(diagonal))
    return means


def test_traces_are_pytorchs():
    ours, theirs = networks()
    x, _ = data(40)
    y = theirs(torch.tensor(x)).argmax(1).numpy()
    inputs = Tensor(x, dtype=np.float64), Tensor(y, dtype=int)
    traces = hessian_traces(ours, CrossEntropyLoss(), *inputs, samples=800, progress=False)
    for trace, exact in zip(traces.values(), exact_traces(theirs, x, y), strict=True):
        assert abs(trace.mean - exact) < 4 * trace.error
        assert trace.error < 0.15 * abs(exact)


def test_the_standard_error_is_the_spread_over_seeds():
    ours, _ = networks()
    x, y = data(20)
    inputs = Tensor(x, dtype=np.float64), Tensor(y, dtype=int)
    options = dict(samples=20, progress=False)
    runs = [hessian_traces(ours, CrossEntropyLoss(), *inputs, seed=s, **options) for s in range(60)]
    for name in runs[0]:
        spread = np.std([run[name].mean for run in runs])
        assert np.mean([run[name].error for run in runs]) == pytest.approx(spread, rel=0.35)


def test_costs_by_pytorchs_numbers():
    ours, theirs = networks()
    x, y = data(20)
    inputs = Tensor(x, dtype=np.float64), Tensor(y, dtype=int)
    traces = hessian_traces(ours, CrossEntropyLoss(), *inputs, samples=20, progress=False)
    costs = hessian_costs(ours, traces, (2, 4))
    for (name, trace), weight in zip(traces.items(), their_weights(theirs), strict=True):
        weight = weight.detach()
        for bits, highest in ((2, 1), (4, 7)):
            scale = weight.flatten(1).abs().amax(1).reshape(-1, *[1] * (weight.ndim - 1)) / highest
            error = (torch.round(weight / scale) * scale - weight).square().sum().item()
            expected = max(trace.mean, 0) * error / 2
            assert costs[name][bits] == pytest.approx(expected, rel=1e-5, abs=1e-12)


def zeroq_loss(theirs, x):
    """ZeroQ's distance (Cai et al. 2020, equation 3), with the input's channels as one batch."""
    reached, hooks = [], []
    norms = [m for m in theirs if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        hooks.append(norm.register_forward_pre_hook(lambda norm, i: reached.append((norm, i[0]))))
    theirs(x)
    for hook in hooks:
        hook.remove()

    def distance(batch, mean, deviation, eps):
        own = (batch.var((0, 2, 3)) + eps).sqrt()
        gaps = (batch.mean((0, 2, 3)) - mean).norm() ** 2, (own - deviation).norm() ** 2
        return sum(gaps) / batch.shape[1]

    loss = distance(x, torch.zeros(1), torch.ones(1), 1e-5)
    for norm, batch in reached:
        deviation = (norm.running_var + norm.eps).sqrt()
        loss = loss + distance(batch, norm.running_mean, deviation, norm.eps)
    return loss


def test_the_gap_at_batch_norms_and_its_gradient():
    ours, theirs = networks()
    x, _ = data(8)
    norms = [m for m in ours.modules() if isinstance(m, BatchNorm2d)]
    mine = Tensor(x, dtype=np.float64, requires_grad=True)
    gap = norms_gap(ours, norms, mine)
    other = torch.tensor(x, requires_grad=True)
    expected = zeroq_loss(theirs, other)
    assert gap.item() == pytest.approx(expected.item(), rel=1e-10)
    gap.backward()
    expected.backward()
    np.testing.assert_allclose(mine.grad.data, other.grad.numpy(), rtol=1e-8, atol=1e-12)


def test_distilled_inputs_are_those_of_pytorchs_adam():
    ours, theirs = networks()
    theirs.requires_grad_(False)
    x = distill_inputs(ours, (8, 1, 6, 6), steps=25, lr=0.1, seed=3, progress=False)
    noise = np.random.default_rng(3).standard_normal((8, 1, 6, 6)).astype(np.float32)
    other = torch.tensor(noise, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([other], lr=0.1)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = zeroq_loss(theirs, other)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert math.isfinite(losses[-1])
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(x.data, other.detach().numpy(), atol=1e-3)

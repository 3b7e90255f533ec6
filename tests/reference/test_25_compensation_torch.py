"""Compensation against the authors' algorithms in PyTorch, and against least squares."""

import numpy as np
import pytest
from scipy.linalg import lstsq

from tinytorch.core.layers import Linear, Module, Sequential
from tinytorch.core.spatial import Conv2d
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.models.transformer import LayerNorm
from tinytorch.optimization.compensation import (
    InputStatistics,
    OutlierSplitLinear,
    awq,
    compensate,
    feed_back,
    gptq,
    hqq,
    inverse_root,
    round_to_nearest,
    smooth_quant,
)

torch = pytest.importorskip("torch", reason="compares with PyTorch")

random = np.random.default_rng(25)


@pytest.fixture(autouse=True)
def same_numbers():
    random.bit_generator.state = np.random.default_rng(25).bit_generator.state
    manual_seed(25)


def correlated(rows, features):
    half = features // 2
    causes = random.standard_normal((rows, half)) @ random.standard_normal((half, features))
    return (causes + 0.3 * random.standard_normal((rows, features))).astype(np.float32)


# --- GPTQ ---
def fasterquant(weight, x, scale, zero, limits, percdamp, blocksize, actorder):
    """GPTQ.fasterquant of the authors' gptq.py, with given grids; weight is (out, in)."""
    weight, hessian = weight.clone(), 2 * x.T @ x
    dead = torch.diag(hessian) == 0
    hessian[dead, dead] = 1
    order = torch.arange(len(hessian))
    if actorder:
        order = torch.argsort(torch.diag(hessian), descending=True)
    inverse_order = torch.argsort(order)
    weight, scale, zero = weight[:, order], scale[:, order], zero[:, order]
    hessian = hessian[order][:, order]
    diagonal = torch.arange(len(hessian))
    hessian[diagonal, diagonal] += percdamp * torch.mean(torch.diag(hessian))
    hessian = torch.linalg.cholesky(hessian)
    hessian = torch.cholesky_inverse(hessian)
    inverse = torch.linalg.cholesky(hessian, upper=True)
    marks = torch.zeros_like(weight)
    for first in range(0, weight.shape[1], blocksize):
        last = min(first + blocksize, weight.shape[1])
        block, errors = weight[:, first:last].clone(), torch.zeros(len(weight), last - first)
        errors = errors.double()
        within = inverse[first:last, first:last]
        for i in range(last - first):
            k = first + i
            q = torch.clamp(torch.round(block[:, i] / scale[:, k]) + zero[:, k], *limits)
            marks[:, k] = q
            error = (block[:, i] - (q - zero[:, k]) * scale[:, k]) / within[i, i]
            block[:, i:] -= error.unsqueeze(1).matmul(within[i, i:].unsqueeze(0))
            errors[:, i] = error
        weight[:, last:] -= errors.matmul(inverse[first:last, last:])
    return marks[:, inverse_order]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("actorder", [False, True])
def test_gptq_is_the_authors_algorithm(bits, group_size, symmetric, actorder):
    x, weight = correlated(500, 192), random.standard_normal((192, 20)).astype(np.float32)
    nearest = round_to_nearest(weight, bits, group_size, symmetric)
    size = 192 // len(nearest.scale)
    grid = [
        torch.tensor(np.repeat(values.astype(np.float64), size, axis=0).T)
        for values in (nearest.scale, nearest.zero_point)
    ]
    limits = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    wide = torch.tensor(weight.T.astype(np.float64)), torch.tensor(x.astype(np.float64))
    theirs = fasterquant(*wide, *grid, limits, 0.01, 64, actorder).numpy().T
    order = "activation" if actorder else "natural"
    ours = gptq(weight, x, bits, group_size, symmetric, 0.01, 128, order).q.data
    np.testing.assert_array_equal(ours, theirs)


def test_errors_are_made_up_for_as_least_squares_would():
    """Fix the first rows: what becomes of the others is the best that the floats can do."""
    x, weight = correlated(300, 12).astype(np.float64), random.standard_normal((12, 4))
    fixed, seen = 5, []

    def to_grid(k, row):
        restored = np.rint(row) if k < fixed else row
        seen.append(restored.copy())
        return np.rint(row), restored

    feed_back(weight, inverse_root(x.T @ x, 0.0), to_grid, block_size=4)
    restored = np.array(seen)
    missing = x @ weight - x[:, :fixed] @ restored[:fixed]
    best, *_ = lstsq(x[:, fixed:], missing)
    np.testing.assert_allclose(restored[fixed:], best, atol=1e-9)
    assert np.abs(restored[fixed:] - weight[fixed:]).max() > 0.05


# --- HQQ ---
def optimize_weights_proximal(steps, zero, limits, lp_norm, beta, kappa, iters):
    """The authors' solver for one group in a column, on weights in steps of the grid."""
    best = None
    for _ in range(iters):
        q = torch.round(steps + zero).clamp(*limits)
        error = steps - (q - zero)
        cost = (error.abs() ** lp_norm).sum()
        if best is None or cost < best[0]:
            best = cost, q, zero
        kept = torch.nn.functional.relu(error.abs() - (1.0 / beta) * error.abs() ** (lp_norm - 1))
        zero = torch.mean(q - (steps - torch.sign(error) * kept), axis=0).float().double()
        beta *= kappa
    return best


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("p, beta, growth", [(0.7, 10.0, 1.01), (0.5, 3.0, 1.1)])
def test_hqq_is_the_authors_algorithm(bits, p, beta, growth):
    weight = (random.standard_normal((48, 6)) + 0.2).astype(np.float32)
    nearest = round_to_nearest(weight, bits, 24, symmetric=False)
    ours = hqq(weight, bits, 24, p, beta, growth)
    limits = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for group in range(2):
        for column in range(6):
            rows = slice(24 * group, 24 * group + 24)
            scale = float(nearest.scale[group, column])
            steps = torch.tensor(weight[rows, column].astype(np.float64) / scale)
            zero = torch.tensor(float(nearest.zero_point[group, column]), dtype=torch.float64)
            _, q, zero = optimize_weights_proximal(steps, zero, limits, p, beta, growth, 20)
            np.testing.assert_array_equal(ours.q.data[rows, column], q.numpy())
            assert ours.zero_point[group, column] == pytest.approx(zero.item(), abs=1e-5)


# --- AWQ ---
@pytest.mark.parametrize("group_size", [None, 16])
def test_awq_finds_what_measuring_every_output_finds(group_size):
    x, weight = correlated(400, 32), random.standard_normal((32, 12)).astype(np.float32)
    x *= np.geomspace(0.3, 8, 32, dtype=np.float32)
    rows, right = torch.tensor(x), torch.tensor(x) @ torch.tensor(weight)
    losses, scales = [], []
    for ratio in range(20):
        scale = rows.abs().mean(dim=0).double().pow(ratio / 20)
        scale = scale / scale.log().mean().exp()
        rounded = round_to_nearest(weight * scale.numpy()[:, None], 3, group_size)
        out = (rows / scale).float() @ torch.tensor(rounded.restored().data)
        losses.append((out - right).pow(2).mean().item())
        scales.append(scale.numpy())
    best = int(np.argmin(losses))
    assert best
    np.testing.assert_allclose(awq(weight, x, 3, group_size).factors, scales[best], rtol=1e-5)


# --- convolutions ---
@pytest.mark.parametrize("how", [{"padding": 1}, {"stride": 2}, {"dilation": 2, "padding": 2}])
def test_a_convolution_is_rounded_for_its_windows(how):
    images = np.cumsum(random.standard_normal((8, 3, 9, 9)), axis=3).astype(np.float32)
    layer = Conv2d(3, 5, 3, **how)
    done, report = compensate(Sequential(layer), Tensor(images), bits=3)
    windows = torch.nn.functional.unfold(torch.tensor(images), 3, **how)
    rows = windows.transpose(1, 2).reshape(-1, 27)
    inputs = InputStatistics(27)
    inputs.observe(rows.numpy())
    q = gptq(layer.weight.data.reshape(5, 27).T, inputs, bits=3).q.data
    np.testing.assert_array_equal(report["0"].weight.q.data, q)
    weight = torch.tensor(done[0].weight.data)
    out = torch.nn.functional.conv2d(
        torch.tensor(images), weight, torch.tensor(layer.bias.data), **how
    )
    np.testing.assert_allclose(done(Tensor(images)).data, out.numpy(), atol=1e-4)


# --- outliers ---
class Normed(Module):
    def __init__(self):
        self.norm, self.first, self.second = LayerNorm(16), Linear(16, 24), Linear(16, 8)

    def forward(self, x):
        x = self.norm(x)
        return self.first(x).sum(axis=-1, keepdims=True) + self.second(x)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.75])
def test_smoothing_is_the_authors_smooth_ln_fcs(alpha):
    model, x = Normed(), random.standard_normal((50, 16)).astype(np.float32)
    model.norm.weight.data[...] = np.geomspace(0.1, 60, 16)
    model.norm.bias.data[...] = random.standard_normal(16)
    norm = torch.nn.LayerNorm(16)
    norm.weight.data, norm.bias.data = (
        torch.tensor(t.data) for t in (model.norm.weight, model.norm.bias)
    )
    act_scales = norm(torch.tensor(x)).abs().max(dim=0)[0].detach()
    weights = [torch.tensor(layer.weight.data.T) for layer in (model.first, model.second)]
    weight_scales = torch.cat([w.abs().max(dim=0, keepdim=True)[0] for w in weights]).max(dim=0)[0]
    scales = (act_scales.pow(alpha) / weight_scales.pow(1 - alpha)).numpy()
    smoothed, factors = smooth_quant(model, Tensor(x), alpha)
    for name in ("first", "second"):
        np.testing.assert_allclose(factors[name], scales, rtol=1e-4)
    np.testing.assert_allclose(
        smoothed.norm.bias.data, norm.bias.detach().numpy() / scales, rtol=1e-4
    )
    right = model(Tensor(x)).data
    tolerance = 1e-5 * np.abs(right).max()
    np.testing.assert_allclose(smoothed(Tensor(x)).data, right, atol=tolerance)


def test_the_split_is_the_papers_decomposition():
    linear, x = Linear(64, 32), random.standard_normal((20, 64)).astype(np.float32)
    x[3, 7], x[11, 50] = 40.0, -6.5
    rows, weight = torch.tensor(x), torch.tensor(linear.weight.data)
    large = (rows.abs() > 6).any(dim=0)
    regular = torch.where(large, 0.0, rows)
    row_scale = regular.abs().amax(dim=1, keepdim=True) / 127
    column_scale = weight.abs().amax(dim=0, keepdim=True) / 127
    q_x, q_w = torch.round(regular / row_scale), torch.round(weight / column_scale)
    integers = q_x.to(torch.int32) @ q_w.to(torch.int32)
    out = integers * row_scale * column_scale + rows[:, large] @ (q_w * column_scale)[large]
    out = (out + torch.tensor(linear.bias.data)).numpy()
    got = OutlierSplitLinear(linear)(Tensor(x)).data
    np.testing.assert_allclose(got, out, atol=1e-4)
    exact = linear(Tensor(x)).data
    assert 0 < np.abs(got - exact).max() < 0.05

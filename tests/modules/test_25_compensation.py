"""Module 25: rounding for the sake of the output, whole models, outliers."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest

from tinytorch.core.activations import GELU, ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Dropout, Flatten, Identity, Linear, Module, Sequential
from tinytorch.core.spatial import Conv2d
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.models.transformer import GPT, LayerNorm, RMSNorm, TransformerBlock
from tinytorch.optimization.compensation import (
    CompensationReport,
    InputStatistics,
    OutlierSplitLinear,
    QuantizedWeight,
    awq,
    bias_correction,
    clip_search,
    compensate,
    foldable,
    gptq,
    hqq,
    inverse_root,
    output_error,
    output_snr,
    packed_model,
    quantize_rows,
    round_to_nearest,
    smooth_quant,
    smoothing_factors,
    split_outliers,
)
from tinytorch.optimization.lowbit import LowBitLinear, dequantize_groups, quantize_groups
from tinytorch.optimization.quantization import quantization_error, quantize_int8, quantize_model

random = np.random.default_rng(25)


@pytest.fixture(autouse=True)
def same_numbers():
    random.bit_generator.state = np.random.default_rng(25).bit_generator.state
    manual_seed(25)


def normal(*shape):
    return random.standard_normal(shape)


def correlated(rows, features, rank=None):
    """Inputs of which each is a mixture of a few causes, as in a network."""
    causes = normal(rows, rank or features // 2) @ normal(rank or features // 2, features)
    return causes + 0.3 * normal(rows, features)


def statistics(x):
    inputs = InputStatistics(x.shape[-1])
    inputs.observe(x)
    return inputs


def snr(x, restored):
    return quantization_error(x, restored)["snr_db"]


def run(model, x):
    with no_grad():
        return model(x)


def mlp(*sizes):
    layers = [part for size in pairwise(sizes) for part in (Linear(*size), ReLU())]
    model = Sequential(layers[:-1])
    for layer in model:
        if isinstance(layer, Linear):
            layer.weight = Tensor(normal(*layer.weight.shape) / math.sqrt(layer.in_features))
            layer.bias = Tensor(0.1 * normal(layer.out_features))
    return model


def on_grid(weight, bits):
    """Does each column hold at most 2^bits equally spaced numbers?"""
    for column in np.asarray(weight, np.float64).T:
        values = np.unique(column)
        gaps = np.diff(values) / np.abs(np.diff(values)).min() if len(values) > 1 else np.zeros(1)
        if len(values) > 2**bits or np.abs(gaps - np.rint(gaps)).max() > 1e-3:
            return False
    return True


# --- statistics ---
@pytest.mark.parametrize("shape", [(50, 6), (5, 10, 6), (6,)])
def test_statistics_are_those_of_all_rows(shape):
    x = normal(2, *shape)
    inputs = InputStatistics(6)
    for part in x:
        inputs.observe(Tensor(part))
    rows = x.astype(np.float32).astype(float).reshape(-1, 6)
    assert inputs.count == len(rows)
    np.testing.assert_allclose(inputs.gram, rows.T @ rows, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(inputs.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(inputs.mean_abs, np.abs(rows).mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(inputs.largest, np.abs(rows).max(axis=0))


def test_statistics_refuse_other_rows():
    inputs = InputStatistics(3, "fc1.input")
    with pytest.raises(ValueError, match=r"fc1.input: expected \(..., 3\), got \(2, 4\)"):
        inputs.observe(normal(2, 4))
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"fc1.input holds {value} at \[0, 1\]: only finite"):
            inputs.observe(np.array([[0.0, value, 0.0]]))
    inputs.observe(np.zeros((0, 3)))
    assert inputs.count == 0


def test_the_output_error_is_measured_without_the_inputs():
    x, weight, other = normal(40, 7), normal(7, 3), normal(7, 3)
    right = ((x @ weight - x @ other) ** 2).sum() / 40
    assert output_error(weight, other, statistics(x)) == pytest.approx(right)
    signal, noise = ((x @ weight) ** 2).sum(), ((x @ (weight - other)) ** 2).sum()
    right = 10 * math.log10(signal / noise)
    assert output_snr(weight, other, statistics(x)) == pytest.approx(right)
    assert output_snr(weight, weight, statistics(x)) == math.inf
    assert output_snr(np.zeros_like(weight), other, statistics(x)) == -math.inf
    assert output_snr(weight, other, None) is None


# --- rounding to nearest ---
@pytest.mark.parametrize("group_size", [None, 4, 12])
@pytest.mark.parametrize("symmetric", [False, True])
def test_rounding_to_nearest_is_that_of_module_24(group_size, symmetric):
    weight = Tensor(normal(12, 5))
    ours = round_to_nearest(weight, 3, group_size, symmetric)
    theirs = quantize_groups(weight, 3, group_size, symmetric)
    for a, b in zip((ours.q, ours.scale, ours.zero_point), theirs, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    np.testing.assert_array_equal(ours.restored().data, dequantize_groups(*theirs).data)


def test_factors_are_divided_out():
    weight, factors = normal(6, 4).astype(np.float32), np.geomspace(0.1, 10, 6)
    rounded = round_to_nearest(weight * factors[:, None], bits=12)
    scaled = QuantizedWeight(rounded.q, rounded.scale, rounded.zero_point, 12, factors)
    np.testing.assert_allclose(scaled.restored().data, weight, rtol=0, atol=0.05)
    right = rounded.restored().data / factors[:, None]
    np.testing.assert_allclose(scaled.restored().data, right, rtol=1e-6)


# --- GPTQ ---
def optimal_brain_quantizer(weight, x, bits, group_size, symmetric, damping, turn):
    """Each input in turn; the inverse of what is left is updated explicitly. In float64, slowly."""
    rounded = round_to_nearest(weight, bits, group_size, symmetric)
    size = len(weight) // len(rounded.scale)
    hessian = 2 * x.T @ x
    dead = np.diag(hessian) == 0
    hessian = hessian + np.diag(np.where(dead, 1.0, damping * np.diag(hessian).mean()))
    inverse, weight = np.linalg.inv(hessian), np.array(weight, np.float64)
    lowest, highest = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    q, left = np.zeros(weight.shape, int), list(turn)
    for k in turn:
        scale, zero = rounded.scale[k // size].astype(float), rounded.zero_point[k // size]
        q[k] = np.clip(np.rint(weight[k] / scale) + zero, lowest, highest)
        error = (weight[k] - (q[k] - zero) * scale) / inverse[k, k]
        for j in left:
            weight[j] -= inverse[j, k] * error
        left.remove(k)
        inverse -= np.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    return q


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [None, 6])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("order", ["natural", "activation"])
@pytest.mark.parametrize("block_size", [1, 7, 128])
def test_gptq_is_the_optimal_brain_quantizer(bits, group_size, symmetric, order, block_size):
    x, weight = correlated(100, 24), normal(24, 9).astype(np.float32)
    x[:, 5] = 0
    got = gptq(weight, x, bits, group_size, symmetric, 0.02, block_size, order)
    x = x.astype(np.float64)
    turn = np.arange(24)
    if order == "activation":
        turn = np.argsort(-(x**2).sum(axis=0), kind="stable")
    right = optimal_brain_quantizer(weight, x, bits, group_size, symmetric, 0.02, turn)
    np.testing.assert_array_equal(got.q.data, right)
    assert got.q.dtype == np.int8
    nearest = round_to_nearest(weight, bits, group_size, symmetric)
    np.testing.assert_array_equal(got.scale, nearest.scale)
    np.testing.assert_array_equal(got.zero_point, nearest.zero_point)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("group_size", [None, 16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("order", ["natural", "activation"])
def test_gptq_beats_rounding_to_nearest(bits, group_size, symmetric, order):
    for _ in range(5):
        x, weight = statistics(correlated(200, 32)), normal(32, 8)
        grid = bits, group_size, symmetric
        nearest = output_error(weight, round_to_nearest(weight, *grid).restored(), x)
        got = gptq(weight, x, *grid, order=order)
        assert output_error(weight, got.restored(), x) < nearest


def test_gptq_without_correlation_is_rounding_to_nearest():
    weight = normal(8, 4)
    got = gptq(weight, 3 * np.eye(8), bits=3)
    np.testing.assert_array_equal(got.q.data, round_to_nearest(weight, 3).q.data)


def test_two_equal_inputs_share_their_error():
    x = np.repeat(normal(50, 1), 2, axis=1)
    weight = np.array([[0.4, 7.0], [0.4, 7.0]])
    whole = gptq(weight, x, bits=4)  # a scale of 1 for the second column, 0.4 / 7 for the first
    np.testing.assert_array_equal(whole.q.data, [[7, 7], [7, 7]])
    grid = round_to_nearest(np.array([[7.0], [7.0]]), bits=4)
    shared = gptq(weight[:, :1], x, bits=4, grid=lambda *_, **__: grid)
    np.testing.assert_array_equal(shared.q.data, [[0], [1]])  # 0.4 + 0.4 is nearest to 1


def test_dead_inputs_are_rounded_to_nearest():
    x, weight = correlated(60, 10), normal(10, 3)
    x[:, [0, 7]] = 0
    for damping in (0.0, 0.01):
        got = gptq(weight, x, 4, damping=damping)
        nearest = round_to_nearest(weight, 4)
        np.testing.assert_array_equal(got.q.data[[0, 7]], nearest.q.data[[0, 7]])
        alive = gptq(weight, x, 4, damping=damping, order="activation")
        np.testing.assert_array_equal(alive.q.data[[0, 7]], nearest.q.data[[0, 7]])
    all_dead = gptq(weight, np.zeros((5, 10)), 4)
    np.testing.assert_array_equal(all_dead.q.data, nearest.q.data)


def test_gptq_takes_what_it_is_given():
    x, weight = correlated(60, 10), normal(10, 3)
    before = weight.copy()
    results = [
        gptq(weight, x),
        gptq(Tensor(weight), Tensor(x)),
        gptq(weight, x.reshape(3, 20, 10)),
        gptq(weight, statistics(x)),
        gptq(weight, 1000 * x),
        gptq(weight, x, grid=round_to_nearest),
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result.q.data, results[0].q.data)
    np.testing.assert_array_equal(weight, before)
    clipped = gptq(weight, x, 3, grid=clip_search)
    np.testing.assert_array_equal(clipped.scale, clip_search(weight, 3).scale)


def test_few_rows_need_damping():
    x, weight = normal(5, 10), normal(10, 3)
    gptq(weight, x)
    with pytest.raises(ValueError, match=r"don't determine a weight: give more rows .* above 0"):
        gptq(weight, np.ones((5, 10)), damping=0)


def test_the_inverse_root():
    x = correlated(50, 12)
    hessian = x.T @ x
    root = inverse_root(hessian, 0.1)
    assert (np.tril(root, -1) == 0).all()
    damped = hessian + 0.1 * np.diag(hessian).mean() * np.eye(12)
    np.testing.assert_allclose(root.T @ root @ damped, np.eye(12), atol=1e-9)


# --- clipping ---
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group_size", [None, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_clipping_lowers_the_error_of_every_group(bits, group_size, symmetric):
    weight = normal(64, 6)
    size = group_size or 64

    def errors(quantized):
        squares = (quantized.restored().data - weight) ** 2
        return squares.reshape(64 // size, size, 6).sum(axis=1)

    nearest, clipped = (
        f(weight, bits, group_size, symmetric) for f in (round_to_nearest, clip_search)
    )
    assert (errors(clipped) <= errors(nearest)).all()
    assert errors(clipped).sum() < (0.95 if bits < 4 else 0.99) * errors(nearest).sum()
    assert (clipped.scale <= nearest.scale).all()


def test_clipping_finds_the_best_range_of_those_tried():
    weight = np.concatenate([normal(63, 1), [[9.0]]])
    best = clip_search(weight, 3, steps=9)
    shares = np.linspace(1, 0.2, 9)
    errors = []
    for share in shares:
        scale = np.abs(weight).max() * share / 3
        errors.append(((np.clip(np.rint(weight / scale), -3, 3) * scale - weight) ** 2).sum())
    expected = np.abs(weight).max() * shares[int(np.argmin(errors))] / 3
    assert best.scale.item() == pytest.approx(expected, rel=1e-3)
    assert np.argmin(errors) not in (0, 8)


# --- HQQ ---
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group_size", [None, 16])
def test_hqq_lowers_the_norm_of_every_group(bits, group_size):
    weight = normal(64, 6) + 0.3
    size = group_size or 64

    def norms(quantized):
        error = np.abs(quantized.restored().data - weight) / np.repeat(quantized.scale, size, 0)
        return (error**0.7).reshape(64 // size, size, 6).sum(axis=1)

    nearest, shifted = (
        round_to_nearest(weight, bits, group_size, False),
        hqq(weight, bits, group_size),
    )
    assert (norms(shifted) <= norms(nearest) * (1 + 1e-5)).all()
    assert norms(shifted).sum() < 0.99 * norms(nearest).sum()
    np.testing.assert_array_equal(shifted.scale, nearest.scale)
    assert shifted.zero_point.dtype == np.float32
    assert (np.abs(shifted.zero_point - nearest.zero_point) < 1).all()


def test_hqq_without_steps_is_rounding_to_nearest():
    weight = normal(32, 4)
    nearest, same = round_to_nearest(weight, 3, None, False), hqq(weight, 3, iterations=1)
    np.testing.assert_array_equal(same.q.data, nearest.q.data)
    np.testing.assert_array_equal(same.zero_point, nearest.zero_point)
    for p in (0, 1, -1):
        with pytest.raises(ValueError, match=f"hqq: p must be between 0 and 1, got {p}"):
            hqq(weight, p=p)


# --- AWQ ---
def test_awq_protects_rows_that_meet_large_inputs():
    x, weight = normal(200, 32), normal(32, 16)
    x[:, 3] *= 30
    inputs = statistics(x)
    scaled = awq(weight, inputs, 3)
    error = output_error(weight, scaled.restored(), inputs)
    assert error < 0.2 * output_error(weight, round_to_nearest(weight, 3).restored(), inputs)
    assert scaled.factors.argmax() == 3
    others = np.delete(scaled.factors, 3)
    assert scaled.factors[3] > 3 * others.max()
    assert np.log(scaled.factors).mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("group_size", [None, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_awq_takes_the_best_of_its_alphas(group_size, symmetric):
    x, weight = normal(50, 16) * np.geomspace(0.2, 5, 16), normal(16, 8)
    inputs = statistics(x)
    errors, candidates = [], []
    for alpha in np.arange(20) / 20:
        factors = np.abs(x).mean(axis=0) ** alpha
        factors /= math.exp(np.log(factors).mean())
        rounded = round_to_nearest(weight * factors[:, None], 3, group_size, symmetric)
        candidates.append(factors)
        restored = rounded.restored().data / factors[:, None]
        errors.append(output_error(weight, restored, inputs))
    best = awq(weight, inputs, 3, group_size, symmetric)
    np.testing.assert_allclose(best.factors, candidates[int(np.argmin(errors))], rtol=1e-6)
    assert output_error(weight, best.restored(), inputs) == pytest.approx(min(errors), rel=1e-5)
    assert min(errors) < errors[0]


def test_awq_with_dead_inputs():
    x, weight = normal(50, 6), normal(6, 4)
    x[:, 2] = 0
    assert np.isfinite(awq(weight, x).restored().data).all()
    nothing = awq(weight, np.zeros((5, 6)))
    np.testing.assert_array_equal(nothing.restored().data, round_to_nearest(weight).restored().data)


# --- wrong arguments ---
@pytest.mark.parametrize("function", [round_to_nearest, clip_search, hqq, gptq, awq])
def test_wrong_arguments_say_what_is_wrong(function):
    weight = normal(12, 3)
    inputs = (normal(20, 12),) if function in (gptq, awq) else ()
    for shape in ((12,), (2, 6, 3)):
        with pytest.raises(
            ValueError, match=r"weight: expected a weight of shape \(K, N\), got \("
        ):
            function(np.ones(shape), *inputs)
    for bits in (1, 17, 4.0):
        with pytest.raises(ValueError, match="bits must be a whole number from 2 to 16"):
            function(weight, *inputs, bits=bits)
    with pytest.raises(
        ValueError, match="group_size 5 does not divide the 12 along axis 0: 4 does"
    ):
        function(weight, *inputs, group_size=5)
    for value in (math.nan, -math.inf):
        broken = weight.copy()
        broken[3, 1] = value
        with pytest.raises(ValueError, match=rf"fc.weight holds {value} at \[3, 1\]: only finite"):
            function(broken, *inputs, name="fc.weight")


@pytest.mark.parametrize("function", [gptq, awq])
def test_wrong_inputs_say_what_is_wrong(function):
    weight, name = normal(12, 3), function.__name__
    with pytest.raises(ValueError, match=rf"{name}: inputs: expected \(..., 12\), got \(5, 4\)"):
        function(weight, normal(5, 4))
    with pytest.raises(ValueError, match=f"{name}: inputs of 4 features, a weight of 12"):
        function(weight, statistics(normal(5, 4)))
    for empty in (np.zeros((0, 12)), InputStatistics(12)):
        with pytest.raises(
            ValueError, match=f"{name}: the inputs are empty: give at least one row"
        ):
            function(weight, empty)
    with pytest.raises(ValueError, match=f"{name}: inputs holds nan"):
        function(weight, np.full((2, 12), math.nan))


def test_wrong_options_of_gptq():
    weight, x = normal(4, 3), normal(9, 4)
    with pytest.raises(ValueError, match='order must be "natural" or "activation", got \'random\''):
        gptq(weight, x, order="random")
    for wrong in ({"damping": -0.1}, {"block_size": 0}):
        with pytest.raises(ValueError, match="damping must be at least 0, block_size at least 1"):
            gptq(weight, x, **wrong)


# --- bias correction ---
def test_the_mean_output_is_right_again():
    x, weight = normal(50, 8) + 1, normal(8, 3)
    restored = round_to_nearest(weight, 2).restored().data
    shift = bias_correction(weight, restored, statistics(x))
    np.testing.assert_allclose((x @ restored + shift).mean(axis=0), (x @ weight).mean(axis=0))
    other = x + 0.2 * normal(50, 8)
    shift = bias_correction(weight, restored, statistics(other), statistics(x))
    np.testing.assert_allclose((other @ restored + shift).mean(axis=0), (x @ weight).mean(axis=0))


# --- whole models ---
METHODS = ["round", "clip", "hqq", "gptq", "awq"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group_size", [None, 8])
def test_a_copy_on_its_grids(method, group_size):
    model, x = mlp(16, 24, 8), Tensor(correlated(100, 16))
    before = copy.deepcopy(model.state_dict())
    done, report = compensate(model, x, method, 3, group_size)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.data, before[name].data)
    assert list(report) == ["0", "2"]
    for name, layer in report.items():
        own = dict(done.named_modules())[name]
        np.testing.assert_array_equal(own.weight.data, layer.weight.restored().data)
        assert (own.weight.dtype, own.weight.requires_grad) == (np.float32, True)
        assert layer.weight.scale.shape == (
            own.in_features // (group_size or own.in_features),
            own.out_features,
        )
        if group_size is None:
            assert on_grid(own.weight.data, 3)
    assert 3 < snr(run(model, x), run(done, x)) < 40
    assert repr(report).count("\n") == 2
    assert "dB" in repr(report)


def test_gptq_goes_through_the_layers_in_order():
    model, x = mlp(12, 16, 6), correlated(200, 12)
    done, report = compensate(model, Tensor(x), "gptq", 3)
    first = gptq(model[0].weight, x, 3)
    np.testing.assert_array_equal(report["0"].weight.q.data, first.q.data)
    half = copy.deepcopy(model)
    half[0].weight = first.restored()
    hidden = run(half[:2], Tensor(x))
    second = gptq(model[2].weight, hidden, 3)
    np.testing.assert_array_equal(report["2"].weight.q.data, second.q.data)
    np.testing.assert_array_equal(done[2].weight.data, second.restored().data)
    inputs = statistics(hidden)
    got = report["2"]
    assert got.output_snr_db == pytest.approx(
        output_snr(model[2].weight, second.restored(), inputs)
    )
    nearest = round_to_nearest(model[2].weight, 3)
    assert got.rounded_snr_db == pytest.approx(
        output_snr(model[2].weight, nearest.restored(), inputs)
    )
    assert got.weight_snr_db == pytest.approx(snr(model[2].weight.detach(), second.restored()))
    assert got.output_snr_db > got.rounded_snr_db


def test_gptq_is_better_than_rounding_a_model():
    model, rows = mlp(32, 48, 48, 8), correlated(1400, 32)
    x, fresh = Tensor(rows[:1000]), Tensor(rows[1000:])
    for bits in (2, 3, 4):
        nearest, better = (compensate(model, x, m, bits)[0] for m in ("round", "gptq"))
        for data in (x, fresh):
            right = run(model, data)
            assert snr(right, run(better, data)) > snr(right, run(nearest, data)) + 3


def test_batches_and_loaders_are_one_data_set():
    model, x = mlp(12, 16, 6), correlated(60, 12)
    whole = compensate(model, Tensor(x), bits=3)[1]
    parts = [Tensor(part) for part in np.split(x, 4)]
    pairs = [(part, Tensor(np.zeros(15))) for part in parts]
    for data in (parts, iter(parts), pairs, iter(pairs)):
        other = compensate(model, data, bits=3)[1]
        for name, layer in whole.items():
            np.testing.assert_array_equal(other[name].weight.q.data, layer.weight.q.data)


def test_awq_keeps_the_network_in_floats():
    model, x = mlp(16, 24, 24, 8), Tensor(correlated(100, 16))
    model[0].weight.data[:, 5] *= 40
    model[2].weight.data[5] /= 2
    done, report = compensate(model, x, "awq", 16)  # so many bits that only factors could matter
    assert snr(run(model, x), run(done, x)) > 70
    assert [layer.method for layer in report.values()] == ["round", "awq", "awq"]
    assert all(layer.weight.factors is None for layer in report.values())
    assert np.abs(done[0].weight.data[:, 5]).max() < np.abs(model[0].weight.data[:, 5]).max() / 2
    _, report = compensate(model, x, "awq", 3)
    assert report["2"].output_snr_db > report["2"].rounded_snr_db + 3


@pytest.mark.parametrize("method", METHODS)
def test_corrected_biases_keep_the_mean(method):
    model, x = mlp(16, 24, 8), Tensor(correlated(100, 16))
    done, _ = compensate(model, x, method, 3, correct_bias=True)
    plain, _ = compensate(model, x, method, 3)
    right = run(model, x).data.mean(axis=0)
    np.testing.assert_allclose(run(done, x).data.mean(axis=0), right, atol=1e-5)
    assert np.abs(run(plain, x).data.mean(axis=0) - right).max() > 1e-3


def test_a_layer_without_a_bias_gets_one_to_correct():
    model = Sequential(Linear(6, 4, bias=False))
    x = Tensor(normal(20, 6) + 1)
    done, _ = compensate(model, x, "round", 2, correct_bias=True)
    assert done[0].bias.shape == (4,)
    assert compensate(model, x, "round", 2)[0][0].bias is None


@pytest.mark.parametrize("method", ["round", "clip", "hqq"])
def test_some_methods_need_no_data(method):
    model = mlp(16, 24, 8)
    done, report = compensate(model, method=method, bits=3)
    seen, _ = compensate(model, Tensor(normal(50, 16)), method, 3)
    for name, value in done.state_dict().items():
        np.testing.assert_array_equal(value.data, seen.state_dict()[name].data)
    assert report["0"].output_snr_db is None
    assert repr(report).endswith("-")


def test_options_and_skipped_layers():
    model, x = mlp(16, 24, 8), Tensor(correlated(100, 16))
    done, report = compensate(model, x, "gptq", 3, skip="2", order="activation", symmetric=False)
    assert list(report) == ["0"]
    np.testing.assert_array_equal(done[2].weight.data, model[2].weight.data)
    right = gptq(model[0].weight, x, 3, order="activation", symmetric=False)
    np.testing.assert_array_equal(report["0"].weight.q.data, right.q.data)
    with pytest.raises(TypeError, match="unexpected keyword argument 'ordre'"):
        compensate(model, x, "gptq", ordre="activation")


def test_a_bare_linear():
    layer, x = Linear(8, 3), Tensor(correlated(40, 8))
    done, report = compensate(layer, x, bits=3)
    assert list(report) == [""]
    np.testing.assert_array_equal(done.weight.data, gptq(layer.weight, x, 3).restored().data)
    assert repr(CompensationReport(report)).startswith("layer")


class Convolutional(Module):
    def __init__(self, **how):
        self.conv, self.relu, self.flatten = Conv2d(3, 4, 3, **how), ReLU(), Flatten()
        self.drop = Dropout(0.5)

    def forward(self, x):
        return self.flatten(self.drop(self.relu(self.conv(x))))


@pytest.mark.parametrize(
    "how",
    [{}, {"padding": 1, "stride": 2}, {"padding": "same"}, {"dilation": 2, "padding": (1, 0)}],
)
@pytest.mark.parametrize("method", ["gptq", "clip"])
def test_convolutions_are_matrices_too(how, method):
    model, images = Convolutional(**how), normal(6, 3, 7, 7)
    images = np.cumsum(np.cumsum(images, axis=2), axis=3)  # neighbours are alike
    done, report = compensate(model, Tensor(images), method, 3)
    assert done.conv.weight.shape == (4, 3, 3, 3)
    layer = report["conv"]
    restored = layer.weight.restored().data.T.reshape(4, 3, 3, 3)
    np.testing.assert_array_equal(done.conv.weight.data, restored)
    with no_grad():
        out, right = (m.conv(Tensor(images)).data for m in (done, model))
    bias = model.conv.bias.data.reshape(4, 1, 1)
    signal, noise = ((right - bias) ** 2).sum(), ((out - right) ** 2).sum()
    assert layer.output_snr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-3)
    if method == "gptq":
        assert layer.output_snr_db > layer.rounded_snr_db + 1


class TwiceAndNever(Module):
    def __init__(self):
        self.twice, self.never = Linear(6, 6), Linear(6, 6)

    def forward(self, x):
        return self.twice(self.twice(x))


def test_models_that_cannot_be_compensated_say_why():
    x = Tensor(normal(20, 6))
    with pytest.raises(ValueError, match=r"never reaches \['never'\]: skip these layers"):
        compensate(TwiceAndNever(), x)
    _, report = compensate(TwiceAndNever(), x, skip="never")
    assert list(report) == ["twice"]
    model = mlp(6, 4, 2)
    with pytest.raises(ValueError, match=r"method must be one of .*'gptq', 'awq'.*, got 'GPTQ'"):
        compensate(model, x, "GPTQ")
    for options in (
        {"method": "gptq"},
        {"method": "awq"},
        {"method": "round", "correct_bias": True},
    ):
        with pytest.raises(ValueError, match="compensate: give data"):
            compensate(model, **options)
    for empty in ([], Tensor(np.zeros((0, 6)))):
        with pytest.raises(ValueError, match="the data is empty: give at least one batch"):
            compensate(model, empty)
    with pytest.raises(ValueError, match=r"skip names \['9'\], which the model doesn't have"):
        compensate(model, x, skip="9")
    for nothing in ({"model": Sequential(ReLU())}, {"model": model, "skip": ("0", "2")}):
        with pytest.raises(ValueError, match="there is no Linear or Conv2d in this model, or all"):
            compensate(**nothing, data=x)
    with pytest.raises(TypeError, match="compensate: expected a Module, got ReLU"):
        compensate(ReLU(), x)
    grouped = Sequential(Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="0 is a Conv2d of 2 groups, no single matrix: skip='0'"):
        compensate(grouped, Tensor(normal(1, 4, 5, 5)))
    with pytest.raises(
        ValueError, match="compensate: bits must be a whole number from 2 to 16, got 1"
    ):
        compensate(model, x, bits=1)
    with pytest.raises(ValueError, match=r"2.weight: group_size 6 does not divide the 4 along"):
        compensate(model, x, group_size=6)
    with pytest.raises(ValueError, match=r"2.weight: group_size 6 does not divide the 4 along"):
        compensate(model, x, "awq", group_size=6)
    with pytest.raises(ValueError, match=r"0.input holds nan at \[0, 0\]"):
        compensate(model, Tensor(np.full((2, 6), math.nan)))
    model[2].weight.data[1, 1] = math.inf
    with pytest.raises(ValueError, match=r"2.weight holds inf at \[1, 1\]"):
        compensate(model, x, "clip")


def test_modes_and_hooks_are_left_alone():
    model, x = Sequential(Linear(6, 6), Dropout(0.5), ReLU(), Linear(6, 2)), Tensor(normal(30, 6))
    model[1].eval()
    done, _ = compensate(model, x, bits=3)
    again, _ = compensate(model, x, bits=3)
    for m in (model, done):
        assert [part.training for part in m if isinstance(part, Module)] == [True, False, True]
        assert not any(part._forward_pre_hooks for part in m.modules() if isinstance(part, Module))
    np.testing.assert_array_equal(done[3].weight.data, again[3].weight.data)


def test_a_transformer():
    model = GPT(11, 16, 2, 2, 12)
    ids = Tensor(random.integers(0, 11, (8, 12)), dtype=np.int64)
    done, report = compensate(model, ids, "gptq", 4, skip="head" if hasattr(model, "head") else ())
    assert all(f"blocks.{i}.attention.q_proj" in report for i in range(2))
    assert list(report)[:3] == [f"blocks.0.attention.{p}_proj" for p in "qkv"]
    assert snr(run(model, ids), run(done, ids)) > 10
    _, report = compensate(model, ids, "awq", 4)
    methods = {name: layer.method for name, layer in report.items()}
    assert methods["blocks.1.attention.k_proj"] == methods["blocks.1.mlp.up"] == "awq"
    assert methods["blocks.1.mlp.down"] == methods["blocks.1.attention.out_proj"] == "round"


# --- storage ---
@pytest.mark.parametrize("method", ["round", "clip", "gptq", "awq"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits, group_size", [(4, 8), (3, None), (2, 8)])
def test_integers_are_stored_and_nothing_changes(method, symmetric, bits, group_size):
    model, x = mlp(16, 24, 8), Tensor(correlated(100, 16))
    done, report = compensate(model, x, method, bits, group_size, symmetric=symmetric)
    packed = packed_model(done, report)
    np.testing.assert_array_equal(run(packed, x).data, run(done, x).data)
    assert type(packed[0]) is LowBitLinear
    assert packed[0].packed.nbytes == 16 * 24 * bits // 8
    assert type(done[0]) is Linear
    assert packed[0].memory_usage()["original_bytes"] == 4 * (16 * 24 + 24)


def test_a_bare_linear_is_stored():
    done, report = compensate(Linear(8, 3), Tensor(correlated(40, 8)), bits=3)
    packed = packed_model(done, report)
    assert type(packed) is LowBitLinear
    np.testing.assert_array_equal(packed.weight().data, done.weight.data)
    with pytest.raises(ValueError, match="the report tells of 2, the model hasn't got it"):
        packed_model(Sequential(Linear(8, 3)), {"2": report[""]})


def test_what_cannot_be_stored():
    model, x = mlp(16, 24, 8), Tensor(correlated(100, 16))
    with pytest.raises(TypeError, match="pack_bits: expected integers, got float32"):
        packed_model(*compensate(model, x, "hqq", 4))
    with pytest.raises(ValueError, match="0: bits must be a whole number from 2 to 8, got 9"):
        packed_model(*compensate(model, x, "round", 9))


# --- SmoothQuant ---
class Block(Module):
    def __init__(self, norm):
        self.block = TransformerBlock(8, 2, norm=norm)

    def forward(self, x):
        return self.block(x, is_causal=True)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_smoothing_a_block_changes_nothing(norm, alpha):
    model, x = Block(norm), Tensor(normal(4, 6, 8))
    for part in (model.block.norm1, model.block.norm2):
        part.weight.data[...] = np.exp(normal(8))
        part.weight.data[3] = 50.0
        if norm is LayerNorm:
            part.bias.data[...] = normal(8)
    right = run(model, x).data
    smoothed, factors = smooth_quant(model, x, alpha)
    np.testing.assert_allclose(
        run(smoothed, x).data, right, rtol=1e-5, atol=1e-5 * np.abs(right).max()
    )
    np.testing.assert_array_equal(run(model, x).data, right)
    folded = {name for name, value in factors.items() if value is not None}
    attention = "block.attention"
    assert folded == {*(f"{attention}.{p}_proj" for p in "qkv"), "block.mlp.up"}
    assert set(factors) - folded == {f"{attention}.out_proj", "block.mlp.down"}
    q, k = factors[f"{attention}.q_proj"], factors[f"{attention}.k_proj"]
    np.testing.assert_array_equal(q, k)
    original = model.block.attention
    wide = np.concatenate([getattr(original, f"{p}_proj").weight.data for p in "qkv"], axis=1)
    largest = np.abs(run(model.block.norm1, x).data).max(axis=(0, 1))
    np.testing.assert_allclose(
        q, largest**alpha / np.abs(wide).max(axis=1) ** (1 - alpha), rtol=1e-5
    )
    got = smoothed.block.attention.v_proj.weight.data
    np.testing.assert_allclose(got, original.v_proj.weight.data * q[:, None], rtol=1e-6)
    np.testing.assert_allclose(
        smoothed.block.norm1.weight.data, model.block.norm1.weight.data / q, rtol=1e-6
    )


def test_smoothing_behind_a_relu():
    model, x = mlp(8, 12, 12, 4), Tensor(normal(50, 8))
    model[0].weight.data[:, 2] *= 100
    smoothed, factors = smooth_quant(model, x)
    assert {name: value is None for name, value in factors.items()} == {
        "0": True,
        "2": False,
        "4": False,
    }
    right = run(model, x).data
    np.testing.assert_allclose(run(smoothed, x).data, right, atol=1e-5 * np.abs(right).max())
    largest = np.abs(run(smoothed[:2], x).data).max(axis=0)
    rows = np.abs(smoothed[2].weight.data).max(axis=1)
    alive = largest > 0
    np.testing.assert_allclose(largest[alive], rows[alive], rtol=1e-4)  # alpha 0.5 evens them out


def test_smoothing_factors_of_nothing_are_one():
    weight, largest = np.array([[1.0, -4.0], [0.0, 0.0], [2.0, 1.0]]), np.array([16.0, 5.0, 0.0])
    assert smoothing_factors(weight, largest, 0.5).tolist() == [2.0, 1.0, 1.0]
    assert smoothing_factors(weight, largest, 1.0).tolist() == [16.0, 1.0, 1.0]
    assert smoothing_factors(weight, largest, 0.0).tolist() == [0.25, 1.0, 1.0]


class Residual(Module):
    """The norm's result is used by a Linear and added to its result: no factor can be moved."""

    def __init__(self):
        self.norm, self.linear = LayerNorm(6), Linear(6, 6)

    def forward(self, x):
        x = self.norm(x)
        return x + self.linear(x)


class Tied(Module):
    """One layer called twice: what is before its second call is itself."""

    def __init__(self):
        self.first, self.again = Linear(6, 6), Linear(6, 6)

    def forward(self, x):
        return self.again(self.again(self.first(x)))


class SharedWeight(Module):
    def __init__(self):
        self.first, self.second = Linear(6, 6), Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize(
    "make",
    [
        Residual,
        Tied,
        SharedWeight,
        lambda: Sequential(Linear(6, 6), GELU(), Linear(6, 6)),
        lambda: Sequential(LayerNorm(6), ReLU()),
        lambda: Linear(6, 6),
    ],
)
def test_what_cannot_be_folded_stays(make):
    model, x = make(), Tensor(normal(20, 6))
    assert foldable(model, x) == []
    if not isinstance(model, Sequential) or isinstance(model[-1], Linear):
        smoothed, factors = smooth_quant(model, x)
        assert all(value is None for value in factors.values())
        np.testing.assert_array_equal(run(smoothed, x).data, run(model, x).data)


def test_what_lies_between_layers():
    for between in ([], [ReLU()], [Dropout(0.3)], [ReLU(), Dropout(0.3)], [Identity()]):
        model = Sequential(Linear(6, 5), *between, Linear(5, 2))
        [(source, layers)] = foldable(model, Tensor(normal(3, 6)))
        assert source is model[0]
        assert layers == [model[len(between) + 1]]


def test_wrong_arguments_of_smooth_quant():
    model, x = mlp(6, 4, 2), Tensor(normal(5, 6))
    for alpha in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="alpha must be from 0 to 1"):
            smooth_quant(model, x, alpha)
    with pytest.raises(ValueError, match="the data is empty"):
        smooth_quant(model, [])
    with pytest.raises(ValueError, match="smooth_quant: there is no Linear in this model"):
        smooth_quant(Sequential(ReLU()), x)
    _, factors = smooth_quant(model, x, skip="2")
    assert factors == {"0": None}


# --- rows and outliers ---
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_each_row_has_its_own_scale(bits):
    x = normal(3, 5, 8) * np.geomspace(1e-3, 1e3, 5)[:, None]
    x[0, 0] = 0
    q, scale = quantize_rows(Tensor(x), bits)
    assert (q.shape, scale.shape, scale.dtype) == ((3, 5, 8), (3, 5, 1), np.float32)
    highest = 2 ** (bits - 1) - 1
    largest = np.abs(x).max(axis=-1, keepdims=True)
    np.testing.assert_allclose(scale, np.where(largest > 0, largest / highest, 1), rtol=1e-6)
    assert (np.abs(q.data * scale - x) <= scale / 2 * (1 + 1e-5)).all()
    assert np.abs(q.data).max() == highest


def test_the_split_layer_by_hand():
    linear, x = Linear(8, 5), 2 * normal(3, 4, 8)
    x[1, 2, 6] = 90.0
    layer = OutlierSplitLinear(linear)
    x = x.astype(np.float32)
    q_weight, weight_scale, _ = quantize_int8(linear.weight.detach(), True, 1)
    large = (np.abs(x) > 6).any(axis=(0, 1))
    assert large[6]
    assert not large.all()
    q, scale = quantize_rows(Tensor(np.where(large, 0, x)))
    integers = q.data.astype(int) @ q_weight.data.astype(int)
    right = integers * scale * weight_scale
    right = right + x[..., large] @ (q_weight.data[large] * weight_scale) + linear.bias.data
    np.testing.assert_allclose(layer(Tensor(x)).data, right, rtol=1e-5, atol=1e-5)
    assert layer(Tensor(x)).shape == (3, 4, 5)
    assert layer(Tensor(x)).dtype == np.float32
    assert not layer.parameters()


def test_known_outliers_keep_their_rows():
    linear, x = Linear(32, 16), normal(40, 32)
    x[:, [3, 9]] *= 50
    linear.weight.data[[3, 9]] /= 50
    right = run(linear, Tensor(x))
    by_row = run(OutlierSplitLinear(linear, math.inf), Tensor(x))
    split = run(OutlierSplitLinear(linear), Tensor(x))
    known = OutlierSplitLinear(linear, outliers=[3, 9])
    assert snr(right, by_row) + 5 < snr(right, split)
    assert snr(right, split) + 5 < snr(right, run(known, Tensor(x)))
    np.testing.assert_array_equal(known.float_rows.data, linear.weight.data[[3, 9]])
    assert (known.q_weight.data[[3, 9]] == 0).all()
    assert sum(t.nbytes for t in known.buffers()) < 32 * 16 + 2 * 16 * 4 + 16 * 12 + 17


def test_a_model_of_split_layers():
    model, x = mlp(8, 12, 4), Tensor(normal(50, 8))
    model[0].weight.data[:, 2] *= 100
    model[0].bias.data[2] = 50.0
    model[2].weight.data[2] /= 100
    split = split_outliers(model, x, threshold=20.0)
    assert [type(layer) for layer in split] == [OutlierSplitLinear, ReLU, OutlierSplitLinear]
    assert (split[0].outliers.tolist(), split[2].outliers.tolist()) == ([], [2])
    assert type(model[0]) is Linear
    assert split_outliers(model)[2].outliers.tolist() == []
    assert type(split_outliers(model, skip="0")[0]) is Linear
    state = split.state_dict()
    other = split_outliers(model, x, threshold=20.0)
    other.load_state_dict({name: np.asarray(value) for name, value in state.items()})
    np.testing.assert_array_equal(run(other, x).data, run(split, x).data)


def planted(model, channels, factor):
    """The same function, but some hidden numbers are `factor` times as large."""
    model = copy.deepcopy(model)
    for before, after in ((0, 2), (2, 4)):
        scale = np.ones(model[before].out_features)
        scale[channels] = factor
        model[before].weight = Tensor(model[before].weight.data * scale)
        model[before].bias = Tensor(model[before].bias.data * scale)
        model[after].weight = Tensor(model[after].weight.data / scale[:, None])
    return model


def test_the_error_falls_from_naive_to_rows_to_smooth_to_split():
    model, x = mlp(32, 64, 64, 10), Tensor(correlated(300, 32) / 4)
    hard = planted(model, [5, 17, 40], 60)
    right = run(hard, x)
    np.testing.assert_allclose(right.data, run(model, x).data, rtol=1e-3, atol=1e-3)
    naive = copy.deepcopy(hard)
    quantize_model(naive, x, symmetric=True, axis=1)
    smooth, _ = smooth_quant(hard, x)
    quantize_model(smooth, x, symmetric=True, axis=1)
    order = [
        snr(right, run(m, x))
        for m in (
            naive,
            split_outliers(hard, threshold=math.inf),
            smooth,
            split_outliers(hard, x, 20.0),
        )
    ]
    assert order == sorted(order)
    assert order[0] + 10 < order[2]


def test_wrong_arguments_of_the_split():
    with pytest.raises(TypeError, match="fc: expected a Linear, got ReLU"):
        OutlierSplitLinear(ReLU(), name="fc")
    for threshold in (0, -1, math.nan):
        with pytest.raises(ValueError, match="threshold must be above 0"):
            OutlierSplitLinear(Linear(2, 2), threshold)
    layer = OutlierSplitLinear(Linear(4, 2), name="fc")
    with pytest.raises(ValueError, match=r"fc: expected \(..., 4\), got \(3, 5\)"):
        layer(Tensor(normal(3, 5)))
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"fc.input holds {value}"):
            layer(Tensor([[0.0, value, 0.0, 0.0]]))
    assert layer(Tensor(np.zeros((0, 4)))).shape == (0, 2)
    mask = [False, True, False, True]
    for same in (mask, np.array(mask), [3, 1], [1, 3, -1, 1]):
        assert OutlierSplitLinear(Linear(4, 2), outliers=same).outliers.tolist() == [1, 3]
    with pytest.raises(IndexError, match="out of bounds"):
        OutlierSplitLinear(Linear(4, 2), outliers=[4])
    with pytest.raises(ValueError, match="a bare Linear is inside of nothing"):
        split_outliers(Linear(4, 2))

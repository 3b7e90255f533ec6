"""Module 26: weights of several widths, sensitivity, curvature, bit allocation, made-up data."""

import copy
import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinytorch.core.activations import ReLU, Tanh
from tinytorch.core.attention import MultiHeadAttention
from tinytorch.core.autograd import grad, no_grad
from tinytorch.core.layers import Dropout, Flatten, Linear, Module, Sequential
from tinytorch.core.losses import CrossEntropyLoss, L1Loss, MSELoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.recurrent import GRU, LSTM
from tinytorch.core.spatial import BatchNorm1d, BatchNorm2d, Conv1d, Conv2d, MaxPool2d
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, TensorDataset
from tinytorch.models.transformer import GPT
from tinytorch.optimization.lowbit import (
    LowBitLinear,
    dequantize_bits,
    pack_bits,
    quantize_bits,
    quantize_weights,
)
from tinytorch.optimization.mixed_precision import (
    HessianTrace,
    allocate_bits,
    choice_total,
    distill_inputs,
    hessian_costs,
    hessian_product,
    hessian_traces,
    layer_bytes,
    layer_weights,
    mean_loss,
    norms_gap,
    pareto_curve,
    round_weights,
    sensitivity,
)
from tinytorch.optimization.qat import finish_qat, prepare_qat, qat_config
from tinytorch.text.embeddings import Embedding


@pytest.fixture(autouse=True)
def same_numbers():
    """Each test draws the same numbers in any order."""
    global random
    random = np.random.default_rng(26)
    manual_seed(26)


def normal(*shape, **options):
    return Tensor(random.standard_normal(shape), **options)


def mlp():
    return Sequential(Linear(6, 16), ReLU(), Linear(16, 12), ReLU(), Linear(12, 3))


def cnn():
    first = Conv2d(1, 4, 3, padding=1, bias=False), BatchNorm2d(4), ReLU(), MaxPool2d(2)
    second = Conv2d(4, 8, 3, padding=1), BatchNorm2d(8), ReLU(), Flatten(), Linear(72, 3)
    return Sequential(*first, *second)


def labels(count, classes=3):
    return Tensor(random.integers(0, classes, count), dtype=int)


class Tagger(Module):
    """Ids to tags: an embedding, a recurrent layer in both directions, a Linear."""

    def __init__(self, kind=LSTM):
        self.embed = Embedding(9, 4)
        self.recurrent = kind(4, 5, batch_first=True, bidirectional=True)
        self.head = Linear(10, 3)

    def forward(self, ids):
        return self.head(self.recurrent(self.embed(ids))[0]).reshape(-1, 3)


# --- rounding a model ---
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12, 16])
def test_weights_lie_on_the_grids_of_their_channels(bits):
    model = Sequential(Conv2d(2, 3, 3), Conv1d(3, 4, 3), Linear(5, 6), Embedding(7, 8))
    rounded = round_weights(model, bits)
    for layer, copied, axis in zip(model, rounded, (0, 0, 1, 0), strict=True):
        expected = dequantize_bits(*quantize_bits(layer.weight.detach(), bits, True, axis), axis)
        np.testing.assert_array_equal(copied.weight.data, expected.data)
        slices = np.moveaxis(copied.weight.data, axis, 0)
        assert max(len(np.unique(part)) for part in slices) <= 2**bits - 1
    for before, after in zip(model, rounded, strict=True):
        if getattr(before, "bias", None) is not None:
            np.testing.assert_array_equal(before.bias.data, after.bias.data)


def test_names_choose_layers_and_the_rest_stays_float():
    model = mlp()
    state = copy.deepcopy(model.state_dict())
    rounded = round_weights(model, {"2": 3, "4": 32})
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, state[name].data)
        same = np.array_equal(rounded.state_dict()[name].data, tensor.data)
        assert same == (name != "2.weight")
    for bits in ({}, 32):
        untouched = round_weights(model, bits)
        assert untouched is not model
        np.testing.assert_array_equal(untouched[0].weight.data, model[0].weight.data)
    bare = round_weights(Linear(4, 2), {"": 2})
    assert len(np.unique(bare.weight.data[:, 0])) <= 3


def test_every_layer_of_recurrent_and_attention_models_is_found():
    assert list(layer_weights(Tagger(), "test")) == ["embed", "recurrent", "head"]
    weights, axis = layer_weights(Tagger(GRU), "test")["recurrent"]
    assert [w.shape for w in weights] == [(4, 15), (5, 15), (4, 15), (5, 15)]
    assert axis == 1
    rounded = round_weights(Tagger(), {"recurrent": 2})
    for part in ("weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse"):
        columns = vars(rounded.recurrent)[part].data.T
        assert max(len(np.unique(column)) for column in columns) <= 3
    assert len(np.unique(rounded.recurrent.bias_ih_l0.data)) == 20
    attention = layer_weights(MultiHeadAttention(8, 2), "test")
    assert list(attention) == ["q_proj", "k_proj", "v_proj", "out_proj"]


def test_a_shared_weight_is_rounded_once_and_stays_shared():
    gpt = GPT(vocab_size=11, embed_dim=8, num_layers=1, num_heads=2, max_seq_len=6)
    names = list(layer_weights(gpt, "test"))
    assert "embed.tokens" in names
    assert "head" not in names
    ids = Tensor(random.integers(0, 11, (2, 6)), dtype=int)
    assert not np.array_equal(round_weights(gpt, 3)(ids).data, gpt(ids).data)
    layer = Linear(4, 4)
    twice = Linear(4, 4)
    twice.weight = layer.weight
    model = Sequential(layer, twice)
    assert list(layer_weights(model, "test")) == ["0"]
    rounded = round_weights(model, 2)
    assert rounded[0].weight is rounded[1].weight


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float32, (7, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    arrays(bool, (7, 5)),
    st.sampled_from([2, 3, 4, 8, 16, 32]),
)
def test_zeros_stay_exact_zeros(weight, kept, bits):
    layer = Linear(7, 5, bias=False)
    layer.weight = Tensor(np.where(kept, weight, 0))
    rounded = round_weights(layer, bits).weight.data
    assert not rounded[layer.weight.data == 0].any()
    assert np.isfinite(rounded).all()


def test_types_modes_and_gradients_are_kept():
    model = mlp().eval()
    model[0].weight = Tensor(model[0].weight.data, dtype=np.float64)
    model[2].weight.requires_grad = False
    rounded = round_weights(model, 4)
    assert rounded[0].weight.dtype == np.float64
    assert [p.requires_grad for p in rounded.parameters()] == [True, True, False, True, True, True]
    assert not rounded.training


@pytest.mark.parametrize(
    "bits, says",
    [
        (1, r"round_weights: bits must be from 2 to 16, or 32 for float, got \[1, 1, 1\]"),
        ({"0": 17}, r"bits must be from 2 to 16, or 32 for float, got \[17\]"),
        ({"0": 4.0}, r"got \[4.0\]"),
        ({"0": "4"}, r"got \['4'\]"),
        ({"0": 4, "9": 4}, r"no layer is called \['9'\], there are \['0', '2', '4'\]"),
        ({"1": 4}, r"round_weights: no layer is called \['1'\]"),
    ],
)
def test_choices_that_cannot_be_are_refused(bits, says):
    with pytest.raises(ValueError, match=says):
        round_weights(mlp(), bits)


def test_models_that_cannot_be_rounded_are_refused():
    with pytest.raises(TypeError, match="round_weights: expected a Module, got list"):
        round_weights([Linear(2, 2)], 4)
    with pytest.raises(ValueError, match="layer_bytes: the model has no layer of these types: Lin"):
        layer_bytes(Sequential(ReLU(), BatchNorm1d(2)))
    for value in (math.nan, math.inf):
        model = mlp()
        model[2].weight.data[3, 1] = value
        with pytest.raises(ValueError, match=rf"2\.weight holds {value} at \[3, 1\]: only finite"):
            round_weights(model, 4)


# --- bytes ---
def test_bytes_are_those_of_packed_weights_and_scales():
    model = Sequential(Conv2d(3, 5, 3), Linear(7, 11), Embedding(13, 3))
    sizes = layer_bytes(model, (2, 3, 5, 8, 32))
    assert list(sizes) == ["0", "1", "2"]
    for (name, row), axis in zip(sizes.items(), (0, 1, 0), strict=True):
        weight = model[int(name)].weight.detach()
        for bits in (2, 3, 5, 8):
            q, scale, _ = quantize_bits(weight, bits, True, axis)
            assert row[bits] == pack_bits(q, bits).nbytes + scale.astype(np.float32).nbytes
        assert row[32] == weight.nbytes
    lstm = layer_bytes(LSTM(4, 6, num_layers=2), [4])[""][4]
    assert lstm == (4 * 24 + 3 * 6 * 24) // 2 + 4 * 4 * 24
    with pytest.raises(ValueError, match=r"layer_bytes: bits must be .* got \[\]"):
        layer_bytes(model, [])


def test_a_choice_can_be_packed_for_real():
    """As LowBitLinears, layers of several widths hold the bytes and give the results promised."""
    model, bits = mlp(), {"0": 3, "2": 8, "4": 2}
    packed = copy.deepcopy(model)
    for name, width in bits.items():
        others = [other for other in bits if other != name]
        quantize_weights(packed, width, group_size=None, skip=others, scale_dtype=np.float32)
    layers = [layer for layer in packed if isinstance(layer, LowBitLinear)]
    assert len(layers) == 3
    held = sum(layer.packed.nbytes + layer.scale.nbytes for layer in layers)
    assert held == choice_total(layer_bytes(model), bits)
    x = normal(20, 6)
    np.testing.assert_allclose(packed(x).data, round_weights(model, bits)(x).data, atol=1e-6)


def test_a_choice_can_be_trained_on():
    """Names and widths are those of prepare_qat, which begins with the same weights."""
    model, bits = mlp(), {"0": 3, "2": 8, "4": 2}
    configs = {name: qat_config(weight_bits=width) for name, width in bits.items()}
    trained = finish_qat(prepare_qat(model, configs))
    for name in bits:
        rounded = round_weights(model, bits)[int(name)].weight.data
        np.testing.assert_allclose(trained[int(name)].weight.data, rounded, atol=1e-6)


# --- measured sensitivity ---
def test_sensitivity_is_the_rise_when_one_layer_is_rounded():
    model, loss_fn = mlp(), CrossEntropyLoss()
    x, y = normal(50, 6), labels(50)
    rises = sensitivity(model, loss_fn, [(x, y)], bits=(2, 5, 32), progress=False)
    assert list(rises) == ["0", "2", "4"]
    start = loss_fn(model(x), y).item()
    for name, row in rises.items():
        assert list(row) == [2, 5, 32]
        assert row[32] == 0
        for bits in (2, 5):
            expected = loss_fn(round_weights(model, {name: bits})(x), y).item() - start
            assert row[bits] == pytest.approx(expected, abs=1e-7)
    assert rises["0"][2] != rises["2"][2]


def test_sensitivity_takes_every_sample_alike():
    model, x, y = mlp(), normal(23, 6), labels(23)
    whole = sensitivity(model, CrossEntropyLoss(), [(x, y)], [2], progress=False)
    loader = DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True, seed=1)
    once_only = ((inputs, targets) for inputs, targets in loader)
    for data in (loader, once_only):
        parts = sensitivity(model, CrossEntropyLoss(), data, [2], progress=False)
        for name, row in whole.items():
            assert parts[name][2] == pytest.approx(row[2], abs=1e-6)


def test_sensitivity_is_measured_in_eval_mode_and_changes_nothing():
    model = Sequential(Linear(6, 8), BatchNorm1d(8), Dropout(0.5), Linear(8, 3)).train()
    x, y = normal(40, 6), labels(40)
    state = copy.deepcopy(model.state_dict())
    first = sensitivity(model, CrossEntropyLoss(), [(x, y)], progress=False)
    assert first == sensitivity(model, CrossEntropyLoss(), [(x, y)], progress=False)
    assert model.training
    assert model[1].training
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, state[name].data)
    assert all(p.grad is None for p in model.parameters())


def test_sensitivity_shows_its_progress(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    sensitivity(mlp(), CrossEntropyLoss(), [(normal(4, 6), labels(4))])
    assert "sensitivity: 100%" in capsys.readouterr().err


def test_data_that_cannot_be_measured_are_refused():
    x, y = normal(4, 6), labels(4)
    loss_fn = CrossEntropyLoss()
    with pytest.raises(ValueError, match="sensitivity: the data is empty: give a batch"):
        sensitivity(mlp(), loss_fn, [])
    for data in (x, [x], (x, y), [(x, y, y)]):
        with pytest.raises(TypeError, match=r"expected batches of \(inputs, targets\), got a"):
            sensitivity(mlp(), loss_fn, data)
    broken = Tensor(x.data.copy())
    broken.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="sensitivity: the loss of the model as it is is nan"):
        sensitivity(mlp(), loss_fn, [(broken, y)])
    with pytest.raises(ValueError, match=r"sensitivity: bits must be .* got \[1\]"):
        sensitivity(mlp(), loss_fn, [(x, y)], bits=[1])


# --- curvature ---
def in_float64(model):
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, Tensor(value.data, dtype=np.float64))
    return model


def gradients_of(model, weights, x, y, **options):
    return grad(CrossEntropyLoss()(model(x), y), weights, **options)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "lstm", "gru", "gpt"])
def test_the_hessian_product_is_the_difference_of_gradients(kind):
    ids = Tensor(random.integers(0, 9, (3, 6)), dtype=int)
    if kind == "mlp":
        model = Sequential(Linear(6, 5), Tanh(), Linear(5, 3))
        x, y = normal(8, 6, dtype=np.float64), labels(8)
    elif kind == "cnn":
        model, x, y = cnn(), normal(5, 1, 6, 6, dtype=np.float64), labels(5)
    elif kind == "gpt":
        model = GPT(vocab_size=9, embed_dim=8, num_layers=1, num_heads=2, max_seq_len=6)
        x, y = ids, Tensor(random.integers(0, 9, (3, 6)), dtype=int)
    else:
        model, x, y = Tagger(LSTM if kind == "lstm" else GRU), ids, labels(18)

    def run(inputs):
        out = model(inputs)
        return out.reshape(-1, 9) if kind == "gpt" else out

    y = y.reshape(-1)
    in_float64(model).eval()
    weights = [w for layer in layer_weights(model, "test").values() for w in layer.tensors]
    direction = [random.standard_normal(w.shape) for w in weights]
    gradients = gradients_of(run, weights, x, y, create_graph=True)
    products = hessian_product(gradients, weights, direction)
    slopes = []
    for step in (1e-5, -1e-5):
        for weight, v in zip(weights, direction, strict=True):
            weight.data += step * v
        slopes.append([g.data for g in gradients_of(run, weights, x, y)])
        for weight, v in zip(weights, direction, strict=True):
            weight.data -= step * v
    for product, after, before in zip(products, *slopes, strict=True):
        np.testing.assert_allclose(product, (after - before) / 2e-5, 1e-5, 1e-6)


def exact_diagonals(model, loss_fn, x, y):
    """The diagonal of the Hessian, weight by weight, by differences of gradients in float64."""
    diagonals = {}
    for name, layer in layer_weights(model, "test").items():
        parts = []
        for weight in layer.tensors:
            flat = weight.data.reshape(-1)
            for i in range(flat.size):
                slopes = []
                for step in (1e-5, -1e-5):
                    flat[i] += step
                    slopes.append(grad(loss_fn(model(x), y), weight).data.reshape(-1)[i])
                    flat[i] -= step
                parts.append((slopes[0] - slopes[1]) / 2e-5)
        diagonals[name] = np.array(parts)
    return diagonals


def test_traces_are_those_of_the_exact_hessian():
    model = in_float64(Sequential(Linear(4, 6), Tanh(), Linear(6, 3)))
    x = normal(16, 4, dtype=np.float64)
    y = Tensor(model(3.0 * x).data.argmax(axis=1), dtype=int)  # labels that can be learned
    exact = exact_diagonals(model, CrossEntropyLoss(), x, y)
    traces = hessian_traces(model, CrossEntropyLoss(), x, y, samples=600, progress=False)
    for name, trace in traces.items():
        mean = exact[name].mean()
        assert abs(trace.mean - mean) < 4 * trace.error
        assert trace.error < 0.1 * abs(mean)
    quarter = hessian_traces(model, CrossEntropyLoss(), x, y, samples=150, progress=False)
    for name, trace in traces.items():
        assert quarter[name].error / trace.error == pytest.approx(2, rel=0.3)


def test_a_layer_of_several_weights_has_one_mean():
    model = in_float64(Tagger())
    ids, y = Tensor(random.integers(0, 9, (2, 4)), dtype=int), labels(8)
    exact = exact_diagonals(model, CrossEntropyLoss(), ids, y)
    traces = hessian_traces(model, CrossEntropyLoss(), ids, y, samples=150, progress=False)
    assert list(traces) == ["embed", "recurrent", "head"]
    for name, trace in traces.items():
        assert abs(trace.mean - exact[name].mean()) < 4 * trace.error


def test_a_diagonal_hessian_is_exact_after_any_number_of_samples():
    layer = Linear(3, 2)
    x, y = Tensor([[2.0, 0.0, 0.0]]), Tensor([[0.0, 0.0]])
    [trace] = hessian_traces(layer, MSELoss(), x, y, samples=2, progress=False).values()
    assert trace == HessianTrace(pytest.approx(8 / 6), pytest.approx(0, abs=1e-9))


def test_traces_follow_the_seed_and_leave_the_model_alone():
    model = Sequential(Linear(6, 5), BatchNorm1d(5), Dropout(0.5), Linear(5, 3)).train()
    model[0].weight.requires_grad = False  # frozen weights are rounded too
    x, y = normal(12, 6), labels(12)

    def traces(seed):
        options = dict(samples=5, seed=seed, progress=False)
        return hessian_traces(model, CrossEntropyLoss(), x, y, **options)

    with no_grad():
        first = traces(0)
    assert first == traces(0) != traces(1)
    assert first["0"].mean != 0
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * 5]
    assert all(p.grad is None for p in model.parameters())


def test_without_curvature_the_trace_is_zero():
    x, y = normal(5, 3), normal(5, 2)
    [trace] = hessian_traces(Linear(3, 2), L1Loss(), x, y, samples=3, progress=False).values()
    assert trace == HessianTrace(0.0, 0.0)

    class Unused(Module):
        def __init__(self):
            self.used, self.unused = Linear(3, 2), Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    traces = hessian_traces(Unused(), MSELoss(), x, y, samples=3, progress=False)
    assert traces["unused"] == HessianTrace(0.0, 0.0)
    assert traces["used"].mean > 0


def test_bad_input_of_traces_is_refused():
    x, y = normal(4, 6), labels(4)
    with pytest.raises(ValueError, match="hessian_traces: needs 2 samples or more, got 1"):
        hessian_traces(mlp(), CrossEntropyLoss(), x, y, samples=1)
    x.data[0, 0] = math.inf
    with (
        pytest.raises(ValueError, match="hessian_traces: the loss is nan"),
        np.errstate(all="ignore"),
    ):
        hessian_traces(mlp(), CrossEntropyLoss(), x, y)


def test_hessian_costs_are_half_of_hawqs_measure():
    model = Tagger()
    traces = {"recurrent": HessianTrace(3.0, 0.1), "head": HessianTrace(-1.0, 0.1)}
    costs = hessian_costs(model, traces, (2, 4, 32))
    rounded = {bits: round_weights(model, bits) for bits in (2, 4)}
    for bits in (2, 4):
        pairs = zip(model.recurrent.parameters(), rounded[bits].recurrent.parameters(), strict=True)
        squares = sum(((a.data.astype(float) - b.data) ** 2).sum() for a, b in pairs)
        assert costs["recurrent"][bits] == pytest.approx(3.0 * squares / 2)
    assert costs["recurrent"][32] == 0
    assert set(costs["head"].values()) == {0.0}
    with pytest.raises(ValueError, match=r"hessian_costs: no layer is called \['x'\]"):
        hessian_costs(model, {"x": HessianTrace(1.0, 0.0)})


def test_costs_at_a_minimum_are_the_rise_of_the_loss():
    """Of a quadratic loss at its minimum, whose curvature is the same in all directions."""
    layer = Linear(4, 3, bias=False)
    x = Tensor(np.eye(4))
    y = Tensor(layer.weight.data.copy())
    traces = hessian_traces(layer, MSELoss(), x, y, samples=2, progress=False)
    costs = hessian_costs(layer, traces)[""]
    rises = sensitivity(layer, MSELoss(), [(x, y)], progress=False)[""]
    for bits, cost in costs.items():
        assert cost == pytest.approx(rises[bits], rel=1e-4)


# --- allocation ---
def random_tables(layers, widths=(2, 3, 4, 8), decades=6, largest=10_000):
    costs, sizes = {}, {}
    for layer in range(layers):
        count = int(random.integers(10, largest))
        falling = np.sort(10.0 ** -random.uniform(0, decades, len(widths)))[::-1]
        costs[f"layer {layer}"] = dict(zip(widths, falling.tolist(), strict=True))
        sizes[f"layer {layer}"] = {bits: count * bits // 8 for bits in widths}
    return costs, sizes


def every_choice(costs, sizes):
    """(bytes, cost, bits) of all choices that there are."""
    for widths in itertools.product(*costs.values()):
        bits = dict(zip(costs, widths, strict=True))
        yield choice_total(sizes, bits), choice_total(costs, bits), bits


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("largest", [50, 10_000, 10**9])
def test_allocation_finds_the_best_of_all_choices(seed, largest):
    global random
    random = np.random.default_rng(seed)
    costs, sizes = random_tables(4, decades=9, largest=largest)
    everything = list(every_choice(costs, sizes))
    low, high = (int(f(size for size, _, _ in everything)) for f in (min, max))
    for budget in [low, *random.integers(low, high, 8).tolist(), high, 10 * high]:
        bits = allocate_bits(costs, sizes, budget)
        assert choice_total(sizes, bits) <= budget
        best = min(cost for size, cost, _ in everything if size <= budget)
        assert choice_total(costs, bits) == pytest.approx(best, rel=1e-9)


def test_not_one_byte_above_the_budget():
    """The solver's own tolerance of a millionth would be hundreds of bytes here."""
    costs, sizes = random_tables(4, decades=3, largest=10**9)
    curve = pareto_curve(costs, sizes)
    for before, point in itertools.pairwise(curve):
        assert allocate_bits(costs, sizes, point.bytes) == point.bits
        assert allocate_bits(costs, sizes, point.bytes - 1) == before.bits


def test_allocation_takes_costs_of_any_size_and_sign():
    costs = {"a": {2: -3e-9, 8: -1e-9}, "b": {2: 4e-9, 8: 1e-9}}
    sizes = {"a": {2: 1, 8: 4}, "b": {2: 1, 8: 4}}
    assert allocate_bits(costs, sizes, 5) == {"a": 2, "b": 8}
    high = {"a": {2: 4e-8, 8: 1e-8}, "b": {2: 1e6 + 1e-8, 8: 1e6}}  # a million in any case
    assert allocate_bits(high, sizes, 5) == {"a": 8, "b": 2}
    assert allocate_bits({"a": {2: 0.0, 8: 0.0}}, {"a": {2: 1, 8: 4}}, 4)["a"] in (2, 8)
    assert allocate_bits({"a": {2: 1e30, 8: 0.0}}, {"a": {2: 1, 8: 4}}, 4.5) == {"a": 8}


def test_layers_may_have_widths_of_their_own():
    costs = {"first": {8: 0.1}, "second": {2: 1.0, 3: 0.4, 32: 0.0}}
    sizes = {"first": {8: 10}, "second": {2: 20, 3: 30, 32: 320}}
    assert allocate_bits(costs, sizes, 45) == {"first": 8, "second": 3}
    assert [point.bytes for point in pareto_curve(costs, sizes)] == [30, 40, 330]


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_the_pareto_curve_is_that_of_all_choices(layers):
    costs, sizes = random_tables(layers, largest=200)
    curve = pareto_curve(costs, sizes)
    everything = sorted(every_choice(costs, sizes), key=lambda choice: choice[:2])
    best, expected = math.inf, []
    for size, cost, _ in everything:
        if cost < best * (1 - 1e-12):
            best = cost
            expected.append((size, cost))
    assert [point.bytes for point in curve] == [size for size, _ in expected]
    np.testing.assert_allclose([point.cost for point in curve], [cost for _, cost in expected])
    for point in curve:
        assert choice_total(sizes, point.bits) == point.bytes
        assert choice_total(costs, point.bits) == pytest.approx(point.cost)


def test_equal_costs_leave_the_smaller_choice():
    costs = {"a": {2: 1.0, 4: 0.5, 8: 0.5}, "b": {2: 0.0, 8: 0.0}}
    sizes = {"a": {2: 2, 4: 4, 8: 8}, "b": {2: 2, 8: 8}}
    curve = pareto_curve(costs, sizes)
    assert curve == [(4, 1.0, {"a": 2, "b": 2}), (6, 0.5, {"a": 4, "b": 2})]


@pytest.mark.parametrize("function", [lambda c, s: allocate_bits(c, s, 100), pareto_curve])
@pytest.mark.parametrize(
    "costs, sizes, says",
    [
        ({}, {}, "costs are empty: there is no layer to choose for"),
        ({"a": {2: 0.1}}, {"b": {2: 1}}, r"no layer is called \['a'\], there are \['b'\]"),
        ({"a": {2: 0.1}}, {"a": {2: 1}, "b": {2: 1}}, r"no layer is called \['b'\]"),
        ({"a": {2: 0.1}}, {"a": {3: 1}}, r"costs have bits \[2\], sizes \[3\] of layer 'a'"),
        ({"a": {}}, {"a": {}}, r"costs have bits \[\]"),
        ({"a": {2: math.nan}}, {"a": {2: 1}}, "layer 'a' at 2 bits has cost nan and size 1"),
        ({"a": {2: -math.inf}}, {"a": {2: 1}}, "has cost -inf"),
        ({"a": {2: 1.0}}, {"a": {2: 0}}, "has cost 1.0 and size 0"),
        ({"a": {2: 1.0}}, {"a": {2: math.nan}}, "size nan"),
    ],
)
def test_tables_that_make_no_sense_are_refused(function, costs, sizes, says):
    with pytest.raises(ValueError, match=rf"(allocate_bits|pareto_curve): .*{says}"):
        function(costs, sizes)


@pytest.mark.parametrize("budget", [29, 0, -1, math.nan])
def test_a_budget_that_nothing_fits_is_refused(budget):
    costs, sizes = {"a": {2: 1.0, 4: 0.5}}, {"a": {2: 30, 4: 60}}
    says = f"allocate_bits: a budget of {budget} bytes, the smallest choice takes 30"
    with pytest.raises(ValueError, match=says):
        allocate_bits(costs, sizes, budget)


def test_without_scipy_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"pip install 'tinytorch\[search\]'"):
        allocate_bits({"a": {2: 1.0}}, {"a": {2: 1}}, 1)
    assert pareto_curve({"a": {2: 1.0}}, {"a": {2: 1}})[0].bits == {"a": 2}


# --- made-up data ---
def trained_cnn():
    """A CNN that tells three kinds of noisy stripes apart, and its data."""
    y = random.integers(0, 3, 300)
    x = 0.5 * random.standard_normal((300, 1, 6, 6))
    x[np.arange(300), 0, 2 * y] += 2
    x = Tensor((x - x.mean()) / x.std())
    model, data = cnn(), TensorDataset(x, Tensor(y, dtype=int))
    trainer = Trainer(model, Adam(model.parameters(), lr=3e-3), CrossEntropyLoss())
    trainer.fit(DataLoader(data, batch_size=30, shuffle=True, seed=0), 4, progress=False)
    return model, x


def test_the_gap_is_small_for_the_training_data_and_distilled_data():
    model, x = trained_cnn()
    model.train()
    distilled = distill_inputs(model, (100, 1, 6, 6), steps=150, progress=False)
    assert model.training
    assert (distilled.shape, distilled.requires_grad) == ((100, 1, 6, 6), False)
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, BatchNorm2d)]
    gaps = [norms_gap(model, norms, data).item() for data in (x, distilled, normal(100, 1, 6, 6))]
    assert gaps[0] < 0.1 * gaps[2]
    assert gaps[1] < 0.1 * gaps[2]


def test_distilling_changes_nothing_of_the_model():
    model = trained_cnn()[0]
    state = copy.deepcopy(model.state_dict())
    gradients = [p.grad for p in model.parameters()]
    with no_grad():
        first = distill_inputs(model, (4, 1, 6, 6), steps=3, progress=False)
    again = distill_inputs(model, (4, 1, 6, 6), steps=3, progress=False)
    np.testing.assert_array_equal(first.data, again.data)
    other = distill_inputs(model, (4, 1, 6, 6), steps=3, seed=1, progress=False)
    assert not np.array_equal(first.data, other.data)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, state[name].data)
    for p, g in zip(model.parameters(), gradients, strict=True):
        assert p.requires_grad
        assert p.grad is g
    assert not any(m._forward_pre_hooks for m in model.modules() if isinstance(m, Module))


def test_no_steps_leave_the_noise_as_it_is():
    x = distill_inputs(BatchNorm1d(3), (500, 3), steps=0, seed=4, progress=False)
    expected = np.random.default_rng(4).standard_normal((500, 3)).astype(np.float32)
    np.testing.assert_array_equal(x.data, expected)


def test_distilling_reaches_the_statistics_asked_for():
    model = Sequential(Linear(3, 4, bias=False), BatchNorm1d(4))
    source = normal(4000, 3) * Tensor([0.5, 1.0, 1.2])
    reached = model[0](source).data
    model[1].running_mean.data[:] = reached.mean(axis=0)
    model[1].running_var.data[:] = reached.var(axis=0)
    x = distill_inputs(model, (400, 3), steps=400, lr=0.05, progress=False)
    deviations = model[0](x).data.std(axis=0)
    start = model[0](normal(400, 3)).data.std(axis=0)
    wanted = reached.std(axis=0)
    assert np.abs(deviations - wanted).sum() < 0.5 * np.abs(start - wanted).sum()


def test_what_cannot_be_distilled_is_refused():
    with pytest.raises(ValueError, match="distill_inputs: the model has no BatchNorm to learn"):
        distill_inputs(mlp(), (8, 6))
    with pytest.raises(TypeError, match="distill_inputs: expected a Module, got function"):
        distill_inputs(lambda x: x, (8, 6))
    for shape in ((8,), (1, 6), ()):
        with pytest.raises(ValueError, match=r"distill_inputs: expected .* with N of 2 or more"):
            distill_inputs(Sequential(BatchNorm1d(6)), shape)


# --- all together ---
def test_mixed_bits_beat_uniform_ones_at_equal_bytes():
    model, x = trained_cnn()
    model.eval()
    loss_fn = CrossEntropyLoss()
    with no_grad():
        y = Tensor(model(x).data.argmax(axis=1), dtype=int)  # what the float model says
    data, sizes = [(x, y)], layer_bytes(model)
    costs = sensitivity(model, loss_fn, data, progress=False)
    uniform = dict.fromkeys(sizes, 3)
    mixed = allocate_bits(costs, sizes, choice_total(sizes, uniform))
    losses = [mean_loss(round_weights(model, bits), loss_fn, data) for bits in (mixed, uniform)]
    assert mixed != uniform
    assert losses[0] < losses[1]

"""Module 32: grids that are chosen at each call, layers of int8 weights, files of such models."""

import copy
import json
import pickle

import numpy as np
import pytest

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Flatten, Linear, Module, Sequential
from tinytorch.core.recurrent import GRU, LSTM
from tinytorch.core.spatial import AvgPool2d, BatchNorm2d, Conv2d, MaxPool2d
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.core.training import read_checkpoint, write_checkpoint
from tinytorch.models.transformer import GPT
from tinytorch.optimization.compensation import split_outliers
from tinytorch.optimization.dynamic import (
    DynamicQuantizedLinear,
    Int8Weight,
    QuantizedEmbedding,
    QuantizedLSTM,
    dynamic_matmul,
    grid_of,
    load_quantized,
    quantize_dynamic,
    restored,
    save_quantized,
    stored,
)
from tinytorch.optimization.integer import integer_model
from tinytorch.optimization.kernels import Int8Linear, accelerate
from tinytorch.optimization.lowbit import NF4, quantize_weights
from tinytorch.optimization.observers import (
    Grid,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
    fuse,
)
from tinytorch.optimization.qat import FakeQuantize, prepare_qat, qat_config
from tinytorch.optimization.quantization import QuantizedLinear, dequantize_int8, quantize_model
from tinytorch.optimization.static import StaticQuantizedLinear, convert, prepare
from tinytorch.profiling.profiler import profile
from tinytorch.text.embeddings import Embedding

random = np.random.default_rng(32)
START = random.bit_generator.state
PER = pytest.mark.parametrize("per", ["tensor", "row"])


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order():
    random.bit_generator.state = START
    manual_seed(32)


def normal(*shape, scale=1.0):
    return Tensor(scale * random.standard_normal(shape))


def floats(weight):
    """An Int8Weight in floats."""
    return weight.q.data.astype(np.float64) * weight.scale.data


class Reader(Module):
    """Ids (N, T) -> scores (N, 3): an embedding, an LSTM, a Linear."""

    def __init__(self, **options):
        self.tokens = Embedding(20, 8, padding_idx=0)
        self.lstm = LSTM(8, 16, batch_first=True, **options)
        self.head = Linear(16 * len(self.lstm.directions), 3)

    def forward(self, ids, lengths=None):
        output, _ = self.lstm(self.tokens(ids), lengths=lengths)
        return self.head(output.mean(axis=1))


def gpt():
    return GPT(vocab_size=20, embed_dim=16, num_layers=2, num_heads=2, max_seq_len=12)


IDS = np.arange(24).reshape(3, 8) * 7 % 20


# --- grids ---
def test_a_grid_for_what_is_there():
    x = np.float32([[0, 51], [0, 255]])
    whole, rows = grid_of(x, "tensor"), grid_of(x, "row")
    assert (whole.scale, whole.zero_point, whole.axis) == (1.0, -128, None)
    np.testing.assert_allclose(rows.scale, [0.2, 1.0])
    assert (rows.zero_point.tolist(), rows.axis) == ([-128, -128], 0)


@pytest.mark.parametrize(
    "row, scale, zero_point",
    [
        ([1.0, 3.0], 3 / 255, -128),
        ([-5.1, -1.0], 0.02, 127),
        ([-1.0, 1.55], 0.01, -28),
        ([0.0, 0.0], 2.0**-23, -128),
        ([1e-9, -1e-9], 2.0**-23, -128),
        ([7.0], 7 / 255, -128),
        ([], 2.0**-23, -128),
    ],
)
@PER
def test_a_grid_reaches_to_zero(row, scale, zero_point, per):
    chosen = grid_of(np.float32([row]), per)
    np.testing.assert_allclose(chosen.scale, [scale] if per == "row" else scale, rtol=1e-6)
    np.testing.assert_array_equal(chosen.zero_point, [zero_point] if per == "row" else zero_point)


# --- the product ---
@PER
@pytest.mark.parametrize("shape", [(5, 40), (40,), (2, 3, 40), (0, 40), (2, 0, 40), (1, 1, 40)])
def test_the_product_is_that_of_rounded_numbers(shape, per):
    weight, x = Int8Weight(normal(40, 7), per), normal(*shape)
    rows = x.data.reshape(-1, 40)
    axis = 1 if per == "row" else None
    low, high = (np.asarray(f(rows, axis=axis, initial=0)) for f in (np.min, np.max))
    step = (np.maximum((high - low) / np.float32(255), np.float32(2**-23))).reshape(-1, 1)
    zero = -128 - np.rint(low.reshape(-1, 1) / step)
    q = np.clip(np.rint(rows * (np.float32(1) / step)) + zero, -128, 127)
    expected = ((q - zero).astype(np.float64) * step) @ floats(weight)
    y = weight(x)
    assert (y.shape, y.dtype) == ((*shape[:-1], 7), np.float32)
    np.testing.assert_allclose(y.data, expected.reshape(y.shape), rtol=1e-5, atol=1e-5)


@PER
def test_the_error_is_that_of_half_steps(per):
    """|x' - x| <= s / 2 meets every weight, |w' - w| <= scale / 2 every input."""
    w, x = normal(300, 40), normal(64, 300)
    weight = Int8Weight(w, per)
    step = np.reshape(grid_of(x.data, per).scale, (-1, 1))
    bound = step / 2 * np.abs(floats(weight)).sum(axis=0)
    bound = bound + np.abs(x.data).sum(axis=1, keepdims=True) * weight.scale.data / 2
    error = np.abs(weight(x).data - x.data.astype(float) @ w.data)
    assert (error <= bound * 1.001 + 1e-6).all()
    assert error.max() < 0.3 * bound.max()  # errors of both signs cancel, mostly


def test_rows_have_nothing_to_do_with_one_another():
    """Per tensor, one row's outlier costs all others; per row it costs none."""
    x, spoiled = normal(8, 64), normal(8, 64)
    spoiled.data[1:] = x.data[1:]
    spoiled.data[0, 3] = 1000.0
    linear = Linear(64, 10)
    for per, same in (("row", True), ("tensor", False)):
        layer = DynamicQuantizedLinear(linear, per)
        assert np.array_equal(layer(x).data[1:], layer(spoiled).data[1:]) == same
    errors = {
        per: np.abs((DynamicQuantizedLinear(linear, per)(spoiled) - linear(spoiled)).data[1:]).max()
        for per in ("tensor", "row")
    }
    assert errors["tensor"] > 50 * errors["row"]


def test_long_sums_stay_exact():
    """K of 5,000 needs several blocks: integers come out as integers."""
    x = Tensor(random.integers(-100, 156, (3, 5000)).astype(np.float32))
    x.data[:, :2] = -100, 155  # a step of 1
    w = random.integers(-127, 128, (5000, 4)).astype(np.float32)
    w[0] = 127
    expected = x.data.astype(np.int64) @ w.astype(np.int64)
    np.testing.assert_array_equal(Int8Weight(Tensor(w))(x).data, expected.astype(np.float32))


@PER
def test_arrays_meet_a_weight_by_matmul(per):
    weight, x = Int8Weight(normal(6, 4), per), normal(5, 6)
    y = x.data @ weight
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, weight(x).data)
    assert (weight.shape, weight.dtype, weight.q.dtype) == ((6, 4), np.float32, np.int8)


@pytest.mark.parametrize("spread", [np.asfortranarray, lambda x: np.repeat(x, 2, 1)[:, ::2]])
def test_memory_layout_does_not_matter(spread):
    weight, x = Int8Weight(normal(6, 4), "row"), normal(5, 6)
    np.testing.assert_array_equal(weight(Tensor._wrap(spread(x.data))).data, weight(x).data)


def test_other_dtypes_become_float32():
    weight = Int8Weight(normal(6, 4))
    x = random.integers(-50, 50, (3, 6))
    for dtype in (np.float64, np.int64, np.int8):
        y = weight(Tensor(x, dtype=dtype))
        assert y.dtype == np.float32
        np.testing.assert_allclose(y.data, weight(Tensor(x)).data, rtol=1e-6)


@PER
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_no_grid_holds_are_named(value, per):
    x = normal(3, 6)
    x.data[2, 4] = value
    model = quantize_dynamic(Sequential(Linear(6, 4)), per=per)
    with pytest.raises(ValueError, match=rf"0\.weight's input .* holds {value} at \[2, 4\]"):
        model(x)
    linear = Linear(3, 2)
    linear.weight.data[1, 1] = value
    with pytest.raises(ValueError, match=rf"^0\.weight holds {value} at \[1, 1\]"):
        quantize_dynamic(Sequential(linear))


@pytest.mark.parametrize("bias", [True, False])
def test_accelerate_takes_dynamic_layers(bias):
    """The kernels have a grid for each row; a tie may be rounded the other way there."""
    model, x = Sequential(Linear(64, 20, bias)), normal(30, 64)
    small = quantize_dynamic(model, per="row")
    fast = accelerate(small)
    assert type(fast[0]) is Int8Linear
    step = grid_of(x.data, "row").scale[:, None] * np.abs(floats(small[0].weight)).max()
    assert (np.abs(fast(x).data - small(x).data) <= 2 * step + 1e-5).all()
    assert np.abs(fast(x).data - model(x).data).max() < 0.03


def test_what_does_not_fit_is_said():
    layer = quantize_dynamic(Sequential(Linear(6, 4)))
    with pytest.raises(ValueError, match=r"0\.weight: x of \(3, 5\) does not fit weight of \(6, 4"):
        layer(normal(3, 5))
    with pytest.raises(ValueError, match=r"x of \(3, 5\) does not fit"):
        normal(3, 5).data @ Int8Weight(normal(6, 4))
    with pytest.raises(ValueError, match='Int8Weight: per must be "tensor" or "row", got None'):
        Int8Weight(normal(6, 4), per=None)


# --- layers ---
@PER
@pytest.mark.parametrize("bias", [True, False])
def test_linear(per, bias):
    linear = Linear(64, 10, bias)
    layer, x = DynamicQuantizedLinear(linear, per), normal(5, 64)
    error = np.abs(layer(x).data - linear(x).data).max()
    assert 0 < error < 0.02
    assert layer.parameters() == []
    held = sum(buffer.nbytes for buffer in layer.buffers())
    assert held == 640 + 40 + 40 * bias
    linear.weight.data[...] = 0  # the layer keeps its own numbers
    if bias:
        linear.bias.data[...] = 7
    assert np.abs(layer(x).data).max() > 0.1 and np.abs(layer(x).data).max() < 6


OPTIONS = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"bias": False, "num_layers": 2, "bidirectional": True},
]


def lstm_by_hand(layer, x, weights, mask=None):
    """One layer from left to right, with the rounded weights and inputs rounded by hand."""
    ih, hh, b_ih, b_hh = weights
    h = c = np.zeros((x.shape[1], layer.hidden_size), np.float32)
    projected = np.stack(list(ih(Tensor(x)).data))
    for bias in (b_ih, b_hh):
        projected = projected if bias is None else projected + bias.data
    outputs = []
    for t, z in enumerate(projected):
        z = z + hh(Tensor(h)).data
        i, f, n, o = np.split(z, 4, axis=-1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        new = f * c + i * np.tanh(n)
        live = True if mask is None else mask[t][:, None]
        h, c = np.where(live, o * np.tanh(new), h), np.where(live, new, c)
        outputs.append(h)
    return np.stack(outputs), h, c


@PER
def test_an_lstm_step_by_step(per):
    layer, x = QuantizedLSTM(LSTM(5, 12), per), normal(9, 3, 5)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [getattr(layer, f"{name}_l0") for name in names]
    output, (hidden, cell) = layer(x)
    expected, h, c = lstm_by_hand(layer, x.data, weights)
    for got, right in ((output, expected), (hidden[0], h), (cell[0], c)):
        np.testing.assert_allclose(got.data, right, rtol=1e-5, atol=1e-6)
    lengths = [9, 2, 5]
    mask = np.arange(9)[:, None] < np.array(lengths)
    masked = np.where(mask[:, :, None], x.data, 0)
    expected, h, c = lstm_by_hand(layer, masked, weights, mask)
    output, (hidden, cell) = layer(x, lengths=lengths)
    np.testing.assert_allclose(output.data, expected * mask[:, :, None], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cell[0].data, c, rtol=1e-5, atol=1e-6)


@PER
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_lstms_of_every_kind(per, options):
    lstm = LSTM(6, 24, **options)
    layer, x = QuantizedLSTM(lstm, per), normal(15, 4, 6)
    states = tuple(normal(*lstm(x)[1][0].shape, scale=0.5) for _ in range(2))
    for given in ((x,), (x, states), (x[:, 0],), (x, None, [15, 1, 7, 3])):
        ours, theirs = layer(*given), lstm(*given)
        for got, right in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
            assert (got.shape, got.dtype) == (right.shape, np.float32)
            assert np.abs(got.data - right.data).max() < 0.02
    assert layer.parameters() == []
    assert np.abs(layer(x)[0].data - lstm(x)[0].data).max() > 0


def test_padding_changes_nothing():
    layer, x = QuantizedLSTM(LSTM(6, 8), "row"), normal(5, 2, 6)
    output, _ = layer(x, lengths=[5, 3])
    x.data[3:, 1] = 1e30
    again, _ = layer(x, lengths=[5, 3])
    np.testing.assert_array_equal(again.data, output.data)
    alone, _ = layer(x[:3, 1:])
    np.testing.assert_array_equal(alone.data[:, 0], output.data[:3, 1])


def test_the_cell_state_is_no_int8():
    layer = QuantizedLSTM(LSTM(3, 50))
    _, (_, cell) = layer(normal(30, 4, 3))
    assert np.unique(cell.data).size > 150  # of 200


def test_the_profiler_sees_both_products():
    lstm = LSTM(3, 8)
    with profile() as trace:
        QuantizedLSTM(lstm)(normal(5, 2, 3))
    flops = [call.flops for call in trace.calls if call.name == "dynamic_matmul"]
    assert flops == [2 * 5 * 2 * 3 * 32, *5 * [2 * 2 * 8 * 32]]


def test_an_embedding_has_a_grid_for_each_row():
    table = normal(30, 16) * Tensor(np.geomspace(1e-3, 1e3, 30)[:, None])
    table.data[4], table.data[5] = 0, 3.0
    float_layer = Embedding.from_pretrained(table)
    layer = QuantizedEmbedding(float_layer)
    low, high = table.data.min(axis=1, initial=0), table.data.max(axis=1, initial=0)
    step = np.maximum((high - low) / 255, 2**-23)[:, None]
    error = np.abs(layer.weight.data - table.data)
    assert (error <= step / 2 * 1.001).all()
    assert not layer.weight.data[4].any()
    ids = [[3, 5], [29, 3]]
    np.testing.assert_array_equal(layer(ids).data, layer.weight.data[np.array(ids)])
    for same in (Tensor(ids), Tensor(ids, dtype=np.int64)):
        np.testing.assert_array_equal(layer(same).data, layer(ids).data)
    assert layer(7).shape == (16,) and layer(np.zeros((2, 0), int)).shape == (2, 0, 16)
    assert sum(buffer.nbytes for buffer in layer.buffers()) == 30 * 16 + 30 * 5
    with pytest.raises(IndexError, match="id 30 is not among 0 to 29"):
        layer([30])
    with pytest.raises(IndexError, match="id -1"):
        layer([-1])
    table.data[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"QuantizedEmbedding.weight holds nan at \[7, 3\]"):
        QuantizedEmbedding(Embedding.from_pretrained(table))


@pytest.mark.parametrize("kind", [DynamicQuantizedLinear, QuantizedLSTM, QuantizedEmbedding])
def test_layers_are_made_of_their_float_twins(kind):
    for wrong in (ReLU(), 3, Conv2d(1, 1, 1)):
        got = type(wrong).__name__
        with pytest.raises(TypeError, match=f"{kind.__name__}: expected .*, got {got}"):
            kind(wrong)


# --- gradients end at the integers ---
@PER
def test_no_gradient_passes(per):
    model = quantize_dynamic(Sequential(Linear(6, 6), Linear(6, 4)), {"1"}, per)
    x = normal(3, 6).requires_grad_()
    y = model(x)
    assert not y.requires_grad
    lstm = QuantizedLSTM(LSTM(6, 4), per)
    output, (hidden, cell) = lstm(x.unsqueeze(1), lengths=[2])
    assert not (output.requires_grad or hidden.requires_grad or cell.requires_grad)
    assert x.grad is None


# --- whole models ---
def test_by_types_and_by_names():
    model = Reader()
    kinds = {
        name: {type(part).__name__ for part in quantize_dynamic(model, layers).children()}
        for name, layers in {
            "default": (Linear, LSTM),
            "types": {Embedding, LSTM},
            "one type": Linear,
            "one name": "lstm",
            "names": ["tokens", "head"],
            "nothing": (),
        }.items()
    }
    assert kinds == {
        "default": {"Embedding", "QuantizedLSTM", "DynamicQuantizedLinear"},
        "types": {"QuantizedEmbedding", "QuantizedLSTM", "Linear"},
        "one type": {"Embedding", "LSTM", "DynamicQuantizedLinear"},
        "one name": {"Embedding", "QuantizedLSTM", "Linear"},
        "names": {"QuantizedEmbedding", "LSTM", "DynamicQuantizedLinear"},
        "nothing": {"Embedding", "LSTM", "Linear"},
    }


@PER
@pytest.mark.parametrize("make", [Reader, gpt])
def test_models_are_nearly_as_exact(make, per):
    model = make().eval()
    before = {name: tensor.data.copy() for name, tensor in model.state_dict().items()}
    small = quantize_dynamic(model, {Linear, LSTM, Embedding}, per)
    with no_grad():
        exact, got = model(IDS).data, small(IDS).data
    assert 0 < np.abs(got - exact).max() < 0.03 * np.abs(exact).max()
    assert set(map(type, model.modules())).isdisjoint({DynamicQuantizedLinear, QuantizedLSTM})
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, before[name])


def test_a_shared_embedding_is_quantised_once():
    small = quantize_dynamic(gpt(), {Embedding})
    assert small.embed.tokens is small.head.embedding
    assert type(small.embed.tokens) is QuantizedEmbedding


def test_bare_layers():
    x = normal(4, 2, 6)
    for layer, kind in ((Linear(6, 3), DynamicQuantizedLinear), (LSTM(6, 3), QuantizedLSTM)):
        small = quantize_dynamic(layer)
        assert type(small) is kind
        small(x)
    assert type(quantize_dynamic(Linear(6, 3), {""})) is DynamicQuantizedLinear


def test_modes_fusion_and_lists():
    model = Sequential(Linear(6, 8), ReLU(), Linear(8, 2)).train()
    model.more = {"deep": [Linear(6, 6)], "same": model.layers[0]}
    small = quantize_dynamic(model)
    assert not any(part.training for part in small.modules() if isinstance(part, Module))
    assert model.training
    assert small.more["same"] is small[0]
    assert type(small.more["deep"][0]) is DynamicQuantizedLinear
    fused, x = fuse(Sequential(Linear(6, 8), ReLU()), normal(2, 6)), normal(5, 6)
    assert np.abs(quantize_dynamic(fused)(x).data - fused(x).data).max() < 0.05


class OwnLinear(Linear):
    pass


@pytest.mark.parametrize(
    "layers, says",
    [
        ({Conv2d}, "Conv2d can't be quantised: Linear, LSTM and Embedding can"),
        ({GRU, Linear}, "GRU can't be quantised"),
        ({"1"}, "ReLU can't be quantised"),
        ({"2"}, "OwnLinear can't be quantised"),
        ({""}, "Sequential can't be quantised"),
        ("fc", r"no layer is called 'fc', only \['', '0', '1', '2'\]"),
        ([3], "3 can't be quantised"),
    ],
)
def test_what_cannot_be_quantised(layers, says):
    model = Sequential(Linear(4, 4), ReLU(), OwnLinear(4, 4))
    with pytest.raises(ValueError, match=f"quantize_dynamic: {says}"):
        quantize_dynamic(model, layers)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="quantize_dynamic: expected a Module, got list"):
        quantize_dynamic([Linear(2, 2)])
    with pytest.raises(ValueError, match=r"per must be .*, got 'column'"):
        quantize_dynamic(Reader(), {Embedding}, per="column")
    assert type(quantize_dynamic(Sequential(OwnLinear(4, 4)))[0]) is OwnLinear


def test_models_copy_and_pickle():
    small = quantize_dynamic(Reader(num_layers=2), {Linear, LSTM, Embedding}, "row")
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        np.testing.assert_array_equal(twin(IDS).data, small(IDS).data)
        assert repr(twin) == repr(small)
    assert "(weight_hh_l0): Int8Weight(16, 64, per='row')" in repr(small)


# --- files ---
def mlp():
    return Sequential(Linear(16, 32), ReLU(), Linear(32, 16), ReLU(), Linear(16, 4))


def cnn():
    layers = [Conv2d(1, 4, 3, padding=1, bias=False), BatchNorm2d(4), ReLU(), MaxPool2d(2)]
    layers += [Conv2d(4, 4, 1), AvgPool2d(2), Flatten(), Linear(16, 3)]
    return Sequential(*layers).eval()


def calibrated(model, x, qconfig=None, example=None):
    prepared = prepare(model, qconfig or QConfig(), example)
    prepared(x)
    return convert(prepared)


def in_place(change, **options):
    def make(model, x):
        change(model := copy.deepcopy(model), **options)
        return model

    return make


def with_entrance():
    return Sequential(FakeQuantize(MinMaxObserver()), *mlp())


def fine_tuned(model, x):
    return convert(prepare_qat(model.train(), qat_config(weight_bits=4), x).eval())


FOUR_BITS = QConfig(
    weight=lambda axis: PerChannelMinMaxObserver(axis=axis, bits=4, scheme="symmetric")
)
ALL = {Linear, LSTM, Embedding}
FILES = {
    "dynamic": (mlp, lambda model, x: quantize_dynamic(model)),
    "dynamic, one layer, per row": (mlp, lambda model, x: quantize_dynamic(model, {"2"}, "row")),
    "a bare Linear": (lambda: Linear(16, 4), lambda model, x: quantize_dynamic(model)),
    "LSTM, embedding, Linear": (Reader, lambda model, x: quantize_dynamic(model, ALL)),
    "LSTM of two layers": (
        lambda: Reader(num_layers=2, bidirectional=True, bias=False),
        lambda model, x: quantize_dynamic(model, {LSTM}, "row"),
    ),
    "dynamic GPT": (gpt, lambda model, x: quantize_dynamic(model, ALL)),
    "module 15": (mlp, in_place(quantize_model, calibration_data=Tensor(np.eye(16)))),
    "module 15, uncalibrated": (mlp, in_place(quantize_model, axis=1, skip="0")),
    "module 24": (mlp, in_place(quantize_weights, group_size=16)),
    "module 24, 3 bits, affine": (
        mlp,
        in_place(quantize_weights, bits=3, symmetric=False, group_size=None),
    ),
    "module 24, NF4": (mlp, in_place(quantize_weights, codebook=NF4, group_size=8)),
    "module 25": (mlp, lambda model, x: split_outliers(model, x, threshold=1.5)),
    "static": (mlp, calibrated),
    "static, fused": (mlp, lambda model, x: calibrated(model, x, example=x)),
    "static, one layer float": (
        mlp,
        lambda model, x: calibrated(model, x, {"2": None}, example=x),
    ),
    "static, 4 bits": (mlp, lambda model, x: calibrated(model, x, FOUR_BITS)),
    "static CNN": (cnn, lambda model, x: calibrated(model, x, example=x)),
    "static CNN, convolutions float": (
        cnn,
        lambda model, x: calibrated(model, x, {Conv2d: None}, example=x),
    ),
    "static and dynamic GPT": (
        gpt,
        lambda model, x: quantize_dynamic(calibrated(model, x), {Embedding}),
    ),
    "static GPT, one projection float": (
        gpt,
        lambda model, x: calibrated(model, x, {"blocks.0.attention.k_proj": None}),
    ),
    "fine-tuned": (with_entrance, fine_tuned),
}


def input_of(make):
    if isinstance(make(), (GPT, Reader)):
        return IDS
    return normal(3, 1, 8, 8) if make is cnn else normal(5, 16)


@pytest.mark.parametrize("name", FILES)
def test_files_give_the_same_model_back(name, tmp_path):
    make, quantise = FILES[name]
    x, path = input_of(make), tmp_path / "model.safetensors"
    small = quantise(make(), x).eval()
    save_quantized(small, path)
    manual_seed(1)
    fresh = make()
    before = {key: tensor.data.copy() for key, tensor in fresh.state_dict().items()}
    again = load_quantized(fresh, path)
    with no_grad():
        got, expected = again(x), small(x)
    assert type(got) is type(expected)
    np.testing.assert_array_equal(got.data, expected.data)
    assert repr(again) == repr(small)
    assert not any(part.training for part in again.modules() if isinstance(part, Module))
    ours, theirs = again.state_dict(), small.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert tensor.dtype == theirs[key].dtype
        np.testing.assert_array_equal(tensor.data, theirs[key].data)
    assert len(again.buffers()) == len(small.buffers())
    assert not any(buffer.requires_grad for buffer in again.buffers())
    assert all(parameter.requires_grad for parameter in again.parameters())
    for key, tensor in fresh.state_dict().items():
        np.testing.assert_array_equal(tensor.data, before[key])


def test_a_file_takes_a_byte_for_each_weight(tmp_path):
    model = Sequential(Linear(512, 512), ReLU(), Linear(512, 512))
    path = tmp_path / "model.safetensors"
    floats = 4 * 2 * 512 * 2  # scales and biases
    save_quantized(quantize_dynamic(model), path)
    assert 0 < path.stat().st_size - (2 * 512 * 512 + floats) < 3000
    save_quantized(calibrated(model, normal(8, 512), FOUR_BITS), path)
    assert 0 < path.stat().st_size - (512 * 512 + floats) < 5000


def test_what_is_shared_is_saved_once(tmp_path):
    model = GPT(vocab_size=500, embed_dim=64, num_layers=1, num_heads=2, max_seq_len=8)
    path = tmp_path / "model.safetensors"
    save_quantized(quantize_dynamic(model, {Embedding}), path)
    held = 500 * (64 + 5) + sum(t.nbytes for t in model.parameters()) - 500 * 64 * 4
    assert 0 < path.stat().st_size - held < 6000
    again = load_quantized(model, path)
    assert again.embed.tokens is again.head.embedding


@pytest.mark.parametrize(
    "array, packed",
    [
        ([[3, -2, 7]], 2),
        ([-8, 7, 0, 1], 2),
        ([-9, 7], None),
        ([8], None),
        ([], None),
        (5, 1),
    ],
)
def test_four_bits_take_half_a_byte(array, packed):
    array = np.array(array, np.int8)
    kept = stored(array)
    if packed is None:
        assert kept is array
    else:
        assert kept["int4"].nbytes == packed
    back = restored(kept)
    assert (back.dtype, back.shape) == (np.int8, array.shape)
    np.testing.assert_array_equal(back, array)


def test_only_int8_is_packed():
    for dtype in (np.uint8, np.int32, np.float32):
        array = np.array([1, 2], dtype)
        assert stored(array) is array


def test_an_old_file_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_quantized(quantize_dynamic(mlp()), path)
    old = path.read_bytes()

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save_quantized(quantize_dynamic(mlp(), per="row"), path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_damage_is_noticed(tmp_path):
    path = tmp_path / "model.safetensors"
    save_quantized(quantize_dynamic(mlp()), path)
    whole = path.read_bytes()
    for place in (3, 20, len(whole) // 3, len(whole) - 5):
        spoiled = bytearray(whole)
        spoiled[place] ^= 4
        path.write_bytes(spoiled)
        with pytest.raises(ValueError, match=r"damaged|no checkpoint"):
            load_quantized(mlp(), path)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="damaged"):
        load_quantized(mlp(), path)


class Other(Module):
    def __init__(self):
        self.fc = Linear(16, 32)


@pytest.mark.parametrize(
    "other, says",
    [
        (Other, r"this one has no '0'"),
        (lambda: mlp()[:3], r"this one has no '4'"),
        (lambda: Sequential(*mlp(), Linear(4, 4)), r"only one has \['5.bias', '5.weight'\]"),
        (
            lambda: Sequential(Linear(16, 31), ReLU(), Linear(31, 16), ReLU(), Linear(16, 4)),
            r"0: (bias is \(32,\)|weight is \(16, 32\)) in the file and .*31.* here",
        ),
        (lambda: Linear(16, 4), r"this one has no '0'"),
    ],
)
def test_files_of_other_models(other, says, tmp_path):
    path = tmp_path / "model.safetensors"
    save_quantized(quantize_dynamic(mlp()), path)
    model = other()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"model.safetensors is of another model: {says}"):
        load_quantized(model, path)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, before[name].data)


def test_sizes_of_every_kind_are_compared(tmp_path):
    path = tmp_path / "model.safetensors"
    cases = [
        (Embedding(20, 8), Embedding(20, 9), ALL),
        (LSTM(8, 16), LSTM(8, 15), ALL),
        (LSTM(8, 16), LSTM(8, 16, num_layers=2), ALL),
        (Linear(8, 16, bias=False), Linear(16, 8, bias=False), ALL),
    ]
    for right, wrong, layers in cases:
        save_quantized(quantize_dynamic(Sequential(right), layers), path)
        with pytest.raises(ValueError, match=r"is of another model: 0: .* in the file and"):
            load_quantized(Sequential(wrong), path)
    save_quantized(calibrated(cnn(), normal(2, 1, 8, 8)), path)
    wrong = cnn()
    wrong.layers[4] = Conv2d(4, 4, 3, padding=1)
    with pytest.raises(ValueError, match=r"of another model: 4: weight is \(4, 4, 1, 1\) in the"):
        load_quantized(wrong, path)


def rewritten(path, change):
    """The file with other facts in it, and a checksum that fits."""
    facts = read_checkpoint(path)
    change(facts["quantized_layers"])
    write_checkpoint(path, facts)


def attributes_of(layers, name):
    return layers[name]["layer"][1]["dict"]


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda layers: layers["0"]["layer"].__setitem__(0, "Newer"), "doesn't know .'Newer'.: a"),
        (lambda layers: layers["0"]["layer"].__setitem__(0, "Sequential"), "doesn't know"),
        (lambda layers: layers["0"]["layer"].__setitem__(0, "os.system"), "doesn't know"),
        (lambda layers: layers.__setitem__("0", {"call": "print"}), "doesn't know .'call'.: a"),
        (lambda layers: layers.__setitem__("0", "print"), "doesn't know"),
        (
            lambda layers: attributes_of(layers, "0")["grid"]["grid"].__setitem__("shape", 3),
            "doesn't know .*'shape'",
        ),
        (
            lambda layers: attributes_of(layers, "0").__setitem__("positions", None),
            "of another model: 0: the file counts on a module",
        ),
    ],
)
def test_a_newer_file_says_so_and_runs_nothing(change, says, tmp_path):
    path = tmp_path / "model.safetensors"
    save_quantized(calibrated(mlp(), normal(5, 16)), path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=f"model.safetensors .*{says}"):
        load_quantized(mlp(), path)


def test_lists_of_another_length(tmp_path):
    small, path = quantize_dynamic(Sequential(Linear(4, 4))), tmp_path / "model.safetensors"
    small[0].extra = [1, 2]
    save_quantized(small, path)
    model = Sequential(Linear(4, 4))
    assert load_quantized(model, path)[0].extra == [1, 2]
    model[0].extra = [1, 2, 3]
    with pytest.raises(ValueError, match="of another model: 0: 2 items in the file and 3 here"):
        load_quantized(model, path)


def test_attributes_of_every_plain_kind(tmp_path):
    small, path = quantize_dynamic(Sequential(Linear(4, 4))), tmp_path / "model.safetensors"
    layer = small[0]
    layer.count, layer.share, layer.flag = np.int64(3), np.float32(0.5), np.bool_(True)
    layer.pair, layer.table, layer.nothing = (1, "a"), {"x": [Grid(bits=4)]}, None
    save_quantized(small, path)
    again = load_quantized(Sequential(Linear(4, 4)), path)[0]
    assert (again.count, again.share, again.flag, again.pair) == (3, 0.5, True, (1, "a"))
    assert (again.table, again.nothing) == ({"x": [Grid(bits=4)]}, None)
    layer.function = print
    with pytest.raises(TypeError, match=r"0\.function is a builtin_function.*: a file can't"):
        save_quantized(small, path)


def test_hooks_are_not_saved(tmp_path):
    small, path = quantize_dynamic(Reader(), ALL), tmp_path / "model.safetensors"
    seen = []
    for part in small.modules():
        part.register_forward_hook(lambda *given: seen.append(given))
        part.register_forward_pre_hook(lambda *given: seen.append(given))
    save_quantized(small, path)
    again = load_quantized(Reader(), path)
    again(IDS)
    assert not seen
    small(IDS)
    assert len(seen) > 6


class OwnQuantizedLinear(QuantizedLinear):
    pass


class OwnLSTM(QuantizedLSTM):
    pass


def test_layers_that_a_file_cannot_describe(tmp_path):
    path, x = tmp_path / "model.safetensors", normal(5, 16)
    for own in (OwnQuantizedLinear(Linear(4, 4)), OwnLSTM(LSTM(4, 4))):
        with pytest.raises(ValueError, match=rf"1 is a {type(own).__name__}, and files hold only"):
            save_quantized(Sequential(DynamicQuantizedLinear(Linear(4, 4)), own), path)
    nested = quantize_dynamic(Sequential(Linear(4, 4)))
    nested[0].extra = OwnQuantizedLinear(Linear(4, 4))
    with pytest.raises(ValueError, match=r"0\.extra is a OwnQuantizedLinear, and files hold only"):
        save_quantized(nested, path)
    for other in (prepare(mlp()), prepare_qat(mlp()), integer_model(mlp(), x)):
        with pytest.raises(ValueError, match=r"save_quantized: .* is a .*, and files hold only"):
            save_quantized(other, path)
    with pytest.raises(ValueError, match="save_quantized: the model has no quantised layer"):
        save_quantized(mlp(), path)
    with pytest.raises(TypeError, match="save_quantized: expected a Module, got dict"):
        save_quantized({}, path)
    assert not path.exists()


def test_other_files(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="model"):
        load_quantized(mlp(), path)
    write_checkpoint(path, {"model": mlp().state_dict()})
    with pytest.raises(ValueError, match="holds no quantised model: it isn't of save_quantized"):
        load_quantized(mlp(), path)
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(ValueError, match="is damaged, or no checkpoint"):
        load_quantized(mlp(), path)
    save_quantized(quantize_dynamic(mlp()), str(path))
    with pytest.raises(TypeError, match="load_quantized: expected a Module, got dict"):
        load_quantized(mlp().state_dict(), path)


def test_the_file_is_one_of_safetensors(tmp_path):
    """Other tools can read it: int8 as int8, names as in state_dict."""
    safetensors = pytest.importorskip("safetensors.numpy")
    path, small = tmp_path / "model.safetensors", quantize_dynamic(mlp())
    save_quantized(small, path)
    arrays = safetensors.load_file(path)
    np.testing.assert_array_equal(arrays["state.0.weight.q"], small[0].weight.q.data)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["state.0.weight.q"]["dtype"] == "I8"


def test_quantised_models_meet_module_15(tmp_path):
    """One model may hold layers of several modules."""
    model = mlp()
    quantize_model(model, skip=["0", "4"])
    mixed = quantize_dynamic(calibrated(model, normal(5, 16), {"": None, "0": QConfig()}), {"4"})
    kinds = [StaticQuantizedLinear, QuantizedLinear, DynamicQuantizedLinear]
    assert [type(layer) for layer in mixed[::2]] == kinds
    path, x = tmp_path / "model.safetensors", normal(3, 16)
    save_quantized(mixed, path)
    np.testing.assert_array_equal(load_quantized(mlp(), path)(x).data, mixed(x).data)


def test_int8_weights_have_the_numbers_of_module_15():
    linear = Linear(30, 4)
    weight = Int8Weight(linear.weight)
    layer = QuantizedLinear(linear, symmetric=True, axis=1)
    np.testing.assert_array_equal(weight.q.data, layer.q_weight.data)
    again = dequantize_int8(weight.q, weight.scale.data, np.zeros(4), axis=1)
    np.testing.assert_allclose(again.data, floats(weight), rtol=1e-6)
    one = dynamic_matmul(Tensor([[255.0]]), Tensor([[100]], dtype=np.int8), Tensor([0.01]))
    assert one.item() == 255.0

"""Module 31: tensors of integers, layers that take and give them; prepare, calibrate, convert."""

import copy
import operator
import pickle
from functools import partial

import numpy as np
import pytest

from tinytorch.core.activations import ReLU, relu
from tinytorch.core.attention import MultiHeadAttention
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Dropout, Flatten, Identity, Linear, Module, Sequential
from tinytorch.core.spatial import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    GlobalAvgPool2d,
    MaxPool2d,
)
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.models.transformer import GPT, TransformerBlock
from tinytorch.optimization.kernels import accelerate
from tinytorch.optimization.observers import (
    Fused,
    Grid,
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
)
from tinytorch.optimization.qat import (
    ChosenGrid,
    FakeQuantize,
    finish_qat,
    prepare_qat,
    qat_config,
)
from tinytorch.optimization.static import (
    DeQuantize,
    Observed,
    ObservedAttention,
    Quantize,
    QuantizedAttention,
    QuantizedAvgPool2d,
    QuantizedConv2d,
    QuantizedMaxPool2d,
    QuantizedReLU,
    QuantizedTensor,
    StaticQuantizedLinear,
    conv2d_sums,
    convert,
    integer_attention,
    linear_sums,
    prepare,
    products,
    requantized,
    shifted,
    to_integers,
)

random = np.random.default_rng(31)
START = random.bit_generator.state

SYMMETRIC = Grid(scheme="symmetric")
MINMAX = QConfig(activation=MinMaxObserver)


@pytest.fixture(autouse=True)
def same_numbers():
    """Tests don't depend on the order that they run in."""
    random.bit_generator.state = START
    manual_seed(31)


def normal(*shape, scale=1.0):
    return Tensor(scale * random.standard_normal(shape))


def integers(*shape, low=-128, high=127, dtype=np.int8):
    return random.integers(low, high, shape, dtype=dtype, endpoint=True)


def on_grid(scale=0.1, zero_point=0, grid=None):
    return ChosenGrid(grid or Grid(), scale, zero_point)


def quantized(*shape, scale=0.1, zero_point=0):
    return QuantizedTensor(integers(*shape), on_grid(scale, zero_point))


def calibrated(model, *inputs, config=MINMAX, example=None, **options):
    """The model prepared, run on the inputs and converted."""
    prepared = prepare(model, config, example)
    for x in inputs:
        prepared(x, **options)
    return convert(prepared)


def kinds(model):
    return [type(layer).__name__ for layer in model]


def relative_error(got, expected):
    return np.abs(got.data - expected.data).max() / np.abs(expected.data).max()


# --- tensors of integers ---
@pytest.mark.parametrize("scale, zero_point", [(0.5, 0), (0.1, -128), (3e-5, 127), (7.0, 10)])
@pytest.mark.parametrize(
    "grid", [Grid(), Grid(signed=False), Grid(bits=4), SYMMETRIC, Grid(bits=12)]
)
def test_to_integers_is_the_formula(grid, scale, zero_point):
    low, high = grid.limits
    zero_point = min(max(zero_point, low), high)
    x = np.float32(scale) * random.uniform(low - 30, high + 30, 500).astype(np.float32)
    got = to_integers(x, ChosenGrid(grid, scale, zero_point), "x")
    marks = np.rint(x * (np.float32(1) / np.float32(scale))).astype(np.int64) + zero_point
    np.testing.assert_array_equal(got, np.clip(marks, low, high))
    assert got.dtype == grid.dtype


def test_to_integers_by_channel_and_of_what_is_large():
    x = np.float32([[1, -30], [2, 40]])
    chosen = ChosenGrid(SYMMETRIC, np.array([0.5, 10.0]), np.zeros(2, np.int32), 1)
    assert to_integers(x, chosen, "x").tolist() == [[2, -3], [4, 4]]
    assert to_integers(np.float32([1e38, -1e38]), on_grid(1e-6), "x").tolist() == [127, -128]
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match=r"the layer holds -?(nan|inf) at \[1\]: only finite"):
            to_integers(np.float32([0, bad]), on_grid(), "the layer")


def test_shifted_does_not_wrap():
    for dtype, zero_point in ((np.int8, 127), (np.int8, -128), (np.uint8, 255), (np.uint8, 0)):
        info = np.iinfo(dtype)
        q = np.arange(info.min, info.max + 1).astype(dtype)
        got = shifted(q, zero_point)
        np.testing.assert_array_equal(got, q.astype(int) - zero_point)
        assert got.dtype == np.int16


def test_a_quantized_tensor_is_a_tensor():
    q = integers(2, 3)
    x = QuantizedTensor(q, on_grid(0.1, 5))
    expected = (q.astype(np.float32) - 5) * np.float32(0.1)
    assert isinstance(x, Tensor)
    np.testing.assert_array_equal(x.data, expected)
    np.testing.assert_array_equal(np.asarray(x), expected)
    np.testing.assert_array_equal((x + x).data, 2 * expected)
    np.testing.assert_array_equal(relu(x).data, np.maximum(expected, 0))
    assert (x.shape, x.ndim, x.size, x.nbytes, len(x)) == ((2, 3), 2, 6, 6, 2)
    assert x.dtype == x.data.dtype == np.float32
    assert (x.scale, x.zero_point) == (0.1, 5)
    assert type(x + 1) is type(x.dequantize()) is type(x.detach()) is Tensor
    assert x.argmax().item() == expected.argmax()
    assert x[1, 2].item() == expected[1, 2]
    assert x.tolist() == expected.tolist()
    assert not x.requires_grad
    assert x.grad is None


MOVES = {
    "reshape": lambda x: x.reshape(3, -1),
    "view": lambda x: x.view(-1),
    "flatten": lambda x: x.flatten(1),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "expand": lambda x: x[:1].expand(5, 3, 4),
    "permute": lambda x: x.permute(2, 0, 1),
    "T": lambda x: x.T,
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "transpose": lambda x: x.transpose(),
    "index": lambda x: x[1, ::-1],
    "booleans": lambda x: x[np.array([True, False])],
    "iteration": lambda x: list(x)[1],
}


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_numbers_moves_integers(name):
    x = quantized(2, 3, 4, zero_point=-7)
    moved = MOVES[name](x)
    assert type(moved) is QuantizedTensor
    np.testing.assert_array_equal(moved.q, MOVES[name](Tensor._wrap(x.q)).data)
    np.testing.assert_array_equal(moved.data, MOVES[name](x.dequantize()).data)
    assert moved.chosen == x.chosen


@pytest.mark.parametrize("operation", [operator.iadd, operator.isub, operator.imul])
def test_nothing_is_written_into_a_quantized_tensor(operation):
    x = quantized(2, 3)
    before, expected = x.q.copy(), operation(x.dequantize(), 2.0)
    y = operation(x, 2.0)
    assert type(y) is Tensor
    np.testing.assert_array_equal(y.data, expected.data)
    np.testing.assert_array_equal(x.q, before)
    with pytest.raises(TypeError, match="can't be written into: take its dequantize"):
        x[0] = 1.0


def test_quantized_tensors_are_copied_pickled_and_shown():
    x = QuantizedTensor(np.int8([0, 10, 127]), on_grid(0.5, 10))
    shown = "QuantizedTensor([-5. ,  0. , 58.5], dtype=int8, scale=0.5, zero_point=10)"
    assert repr(x) == shown
    for again in (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), copy.copy(x)):
        assert type(again) is QuantizedTensor
        assert repr(again) == shown
    copied = copy.deepcopy(x)
    copied.q[:] = 0
    assert x.q.tolist() == [0, 10, 127]


# --- quantise, dequantise ---
def test_quantize_and_dequantize():
    x = normal(50, 7)
    chosen = on_grid(0.02, -3)
    y = Quantize(chosen)(x)
    np.testing.assert_array_equal(y.q, to_integers(x.data, chosen, ""))
    assert y.chosen == chosen
    again = quantized(3)
    assert Quantize(chosen)(again) is again  # on its own grid
    z = DeQuantize()(y)
    assert type(z) is Tensor
    np.testing.assert_array_equal(z.data, y.data)
    assert DeQuantize()(z) is z
    assert repr(Quantize(chosen)) == "Quantize(scale=0.02, zero_point=-3)"
    four = Quantize(ChosenGrid(Grid(bits=4), 0.02, -3))
    assert repr(four) == "Quantize(bits=4, scale=0.02, zero_point=-3)"


def test_quantize_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"Quantize: expected at most 8 bits, got Grid.bits=9"):
        Quantize(ChosenGrid(Grid(bits=9), 0.1, 0))
    by_channel = ChosenGrid(Grid(), np.ones(3), np.zeros(3, np.int32), 1)
    with pytest.raises(ValueError, match="Quantize: expected one scale for all channels, got 3"):
        Quantize(by_channel)
    with pytest.raises(ValueError, match=r"first: the input holds nan at \[0, 1\]"):
        Quantize(on_grid(), "first")(Tensor([[0.0, np.nan]]))


# --- sums of products ---
@pytest.mark.parametrize("terms", [1, 2, 513, 514, 515, 1028, 1100])
@pytest.mark.parametrize("dtype, zero_point", [(np.int8, -128), (np.int8, 127), (np.uint8, 255)])
def test_linear_sums_are_exact(terms, dtype, zero_point):
    info = np.iinfo(dtype)
    extreme = info.max if zero_point < 0 else info.min
    x = np.full((2, terms), extreme, dtype)  # as far from the zero point as can be
    weight = integers(terms, 3)
    weight[:, 0] = -128
    got = linear_sums(x, weight, x_zero_point=zero_point)
    expected = (x.astype(np.int64) - zero_point) @ weight.astype(np.int64)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.int32


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 3, 5), (1, 1)])
def test_linear_sums_of_any_shape(shape):
    x, weight = integers(*shape), integers(shape[-1], 4)
    expected = (x.astype(int) - 3) @ weight.astype(int)
    np.testing.assert_array_equal(linear_sums(x, weight, x_zero_point=3), expected)
    wide = integers(shape[-1], 8)
    got = linear_sums(x[..., ::-1], wide[:, ::2])  # views that are not contiguous
    np.testing.assert_array_equal(got, x[..., ::-1].astype(int) @ wide[:, ::2].astype(int))


def direct_conv2d(x, weight, stride=1, padding=0, dilation=1, groups=1):
    """The definition, in int64: x is padded with 0."""
    outputs, inside, kh, kw = weight.shape
    if padding == "same":
        whole = [dilation * (k - 1) for k in (kh, kw)]
        margins = [(w // 2, w - w // 2) for w in whole]
    else:
        margins = [(padding, padding)] * 2
    x = np.pad(x, ((0, 0), (0, 0), *margins))
    rows = (x.shape[2] - dilation * (kh - 1) - 1) // stride + 1
    columns = (x.shape[3] - dilation * (kw - 1) - 1) // stride + 1
    y = np.zeros((len(x), outputs, rows, columns), np.int64)
    for o in range(outputs):
        first = o // (outputs // groups) * inside
        for i in range(rows):
            for j in range(columns):
                top, left = i * stride, j * stride
                part = x[
                    :,
                    first : first + inside,
                    top : top + dilation * (kh - 1) + 1 : dilation,
                    left : left + dilation * (kw - 1) + 1 : dilation,
                ]
                y[:, o, i, j] = (part * weight[o]).sum(axis=(1, 2, 3))
    return y


HOWS = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": 2},
    {"dilation": 2, "padding": 1},
    {"groups": 2, "padding": 1},
    {"groups": 4},
    {"padding": "same"},
    {"padding": "same", "dilation": 2, "groups": 2},
]


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize("zero_point", [0, -128, 37])
def test_conv2d_sums_are_the_definition(how, zero_point):
    x, weight = integers(2, 4, 7, 6), integers(8, 4 // how.get("groups", 1), 3, 3)
    got = conv2d_sums(x, weight, x_zero_point=zero_point, **how)
    expected = direct_conv2d(x.astype(np.int64) - zero_point, weight.astype(np.int64), **how)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.int32


@pytest.mark.parametrize("channels", [56, 57, 58, 128])  # 9 * 57 = 513 terms are exact in float32
def test_conv2d_sums_are_exact_however_many_terms(channels):
    x = np.full((1, channels, 3, 3), 127, np.int8)
    weight = integers(4, channels, 3, 3)
    weight[0], weight[1] = -128, 127
    weight[1, 0, 0, 0] = 126  # an odd sum
    got = conv2d_sums(x, weight, x_zero_point=-128)
    expected = 255 * weight.astype(np.int64).sum(axis=(1, 2, 3))
    np.testing.assert_array_equal(got[0, :, 0, 0], expected)


# --- back to eight bits ---
def fbgemm(sums, x_scale, weight_scale, bias, out_scale, zero_point, low=-128, high=127):
    """The formula, one number after another, in float32."""
    scale = np.float32(x_scale) * np.float32(weight_scale)
    numbers = np.float32(sums) + np.float32(bias) / scale
    marks = np.rint(numbers * (scale / np.float32(out_scale)))
    return np.clip(marks + np.float32(zero_point), low, high).astype(int)


def test_requantized():
    sums = integers(40, 5, low=-(2**30), high=2**30, dtype=np.int32)
    scale, bias = np.float32([1e-9, 3e-8, 1e-7, 5e-8, 2e-8]), normal(5).data
    for lowest in (-128, -20):
        out = on_grid(0.25, -20)
        got = requantized(sums, scale, bias, out, lowest)
        expected = fbgemm(sums, scale, 1.0, bias, 0.25, -20, lowest)
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.int8
    before = sums.copy()
    requantized(sums, scale, None, out, -128)
    np.testing.assert_array_equal(sums, before)
    halves = requantized(np.int32([1, 3, 5, -1]), np.float32(1.0), None, on_grid(2.0), -128)
    assert halves.tolist() == [0, 2, 2, 0]  # to even
    unsigned = requantized(
        np.int32([300, -5]), np.float32(1.0), None, on_grid(1.0, 9, Grid(signed=False)), 0
    )
    assert (unsigned.tolist(), unsigned.dtype) == ([255, 4], np.uint8)


def grids_for(weight, axis, x_scale=0.05, x_zero=-3, scale=0.07, zero=11, per_channel=True):
    largest = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis))
    w_scale = largest / 127 if per_channel else largest.max() / 127
    w_zero = np.zeros_like(w_scale, np.int32) if per_channel else 0
    return {
        "input": on_grid(x_scale, x_zero),
        "weight": ChosenGrid(SYMMETRIC, w_scale, w_zero, axis if per_channel else None),
        "activation": on_grid(scale, zero),
    }


@pytest.mark.parametrize("with_relu", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(30, 20), (20,), (2, 3, 20), (0, 20)])
def test_a_linear_on_integers(with_relu, per_channel, bias, shape):
    layer = Linear(20, 6, bias=bias)
    grids = grids_for(layer.weight.data, 1, per_channel=per_channel)
    on_integers = StaticQuantizedLinear(layer, grids, with_relu)
    x = normal(*shape)
    y = on_integers(x)
    assert (type(y), y.shape, y.q.dtype) == (QuantizedTensor, (*shape[:-1], 6), np.int8)
    assert y.chosen == grids["activation"]

    q_x = to_integers(x.data, grids["input"], "").astype(np.int64)
    q_weight = on_integers.q_weight.data.astype(np.int64)
    numbers = layer.bias.data if bias else np.zeros(6)
    sums = (q_x + 3) @ q_weight
    w_scale = grids["weight"].scale
    expected = fbgemm(sums, 0.05, w_scale, numbers, 0.07, 11, 11 if with_relu else -128)
    np.testing.assert_array_equal(y.q, expected)

    exact = layer(x)
    exact = relu(exact) if with_relu else exact
    inside = np.clip(exact.data, (-128 - 11) * 0.07, (127 - 11) * 0.07)
    assert np.abs(y.data - inside).max(initial=0) < 0.3


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize("with_relu", [False, True])
def test_a_conv2d_on_integers(how, with_relu):
    layer = Conv2d(4, 8, 3, **how)
    grids = grids_for(layer.weight.data, 0, x_zero=40)
    on_integers = QuantizedConv2d(layer, grids, with_relu)
    x = normal(2, 4, 7, 6)
    q_x = to_integers(x.data, grids["input"], "").astype(np.int64)
    sums = direct_conv2d(q_x - 40, on_integers.q_weight.data.astype(np.int64), **how)
    scale, bias = (
        v.reshape(1, 8, 1, 1) for v in (np.asarray(grids["weight"].scale), layer.bias.data)
    )
    expected = fbgemm(sums, 0.05, scale, bias, 0.07, 11, 11 if with_relu else -128)
    y = on_integers(x)
    np.testing.assert_array_equal(y.q, expected)
    exact = layer(x)
    assert np.abs(y.data - (relu(exact) if with_relu else exact).data).max() < 0.3


def test_padding_is_the_zero_point():
    layer = Conv2d(1, 1, 3, padding=1, bias=False)
    layer.weight.data[...] = 1.0
    grids = grids_for(layer.weight.data, 0, x_scale=1 / 255, x_zero=-128, scale=9 / 255, zero=-128)
    black, white = np.zeros((1, 1, 3, 3)), np.ones((1, 1, 3, 3))
    on_integers = QuantizedConv2d(layer, grids)
    assert not on_integers(Tensor(black)).data.any()
    expected = [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    np.testing.assert_allclose(on_integers(Tensor(white)).data[0, 0], expected, atol=0.02)


EDGES = {
    "all zeros": np.zeros(60),
    "constant": np.full(60, 3.7),
    "one outlier": np.append(np.linspace(-1, 1, 59), 1000.0),
    "tiny": 1e-9 * np.linspace(-1, 1, 60),
    "negative only": -np.linspace(0.5, 2, 60),
    "positive only": np.linspace(0.5, 2, 60),
}


@pytest.mark.parametrize("observer", [MinMaxObserver, HistogramObserver])
@pytest.mark.parametrize("name", EDGES)
def test_edge_inputs_give_what_the_formula_gives(name, observer):
    x = Tensor(EDGES[name].reshape(12, 5))
    layer = Linear(5, 3)
    got = calibrated(layer, x, config=QConfig(activation=observer))
    grid, out = got.quantize.chosen, got.chosen
    q_x = np.rint(x.data * (np.float32(1) / np.float32(grid.scale))) + grid.zero_point
    q_x = np.clip(q_x, -128, 127).astype(np.int64) - grid.zero_point
    scale = np.float32(np.abs(layer.weight.data).max(axis=0) / np.float32(127))
    q_weight = np.rint(layer.weight.data * (np.float32(1) / scale)).astype(np.int64)
    np.testing.assert_array_equal(got.q_weight.data, q_weight)
    expected = fbgemm(q_x @ q_weight, grid.scale, scale, layer.bias.data, out.scale, out.zero_point)
    y = got(x)
    np.testing.assert_array_equal(y.q, expected)
    if observer is MinMaxObserver:
        ends = grid.scale * np.abs(layer.weight.data).sum(axis=0) + 2 * out.scale
        assert (np.abs(y.data - layer(x).data) < ends + np.abs(x.data).max() * 5 * scale).all()


def test_edges_of_shape():
    single = calibrated(Linear(1, 1), Tensor([[2.0]]))
    assert single(Tensor([[2.0]])).shape == (1, 1)
    layer = calibrated(Linear(5, 3), normal(10, 5))
    assert layer(Tensor(np.zeros((0, 5)))).shape == (0, 3)
    conv = calibrated(Conv2d(2, 3, 3, padding=1), normal(4, 2, 5, 5))
    assert conv(Tensor(np.zeros((0, 2, 5, 5)))).shape == (0, 3, 5, 5)
    wide = normal(10, 10)
    np.testing.assert_array_equal(layer(wide[::2, ::2]).q, layer(wide[::2, ::2].clone()).q)
    with pytest.raises(ValueError, match=r"the model: expected \(..., 5\), got \(10, 4\)"):
        layer(normal(10, 4))
    with pytest.raises(ValueError, match="the input has 3 channels"):
        conv(normal(1, 3, 5, 5))


def test_layers_refuse_what_they_cannot_hold():
    layer = Linear(3, 2)
    grids = grids_for(layer.weight.data, 1)
    affine = {**grids, "weight": ChosenGrid(Grid(), 0.1, 5)}
    with pytest.raises(ValueError, match=r"fc\.weight needs a symmetric grid of at most 8 bits"):
        StaticQuantizedLinear(layer, affine, name="fc")
    unsigned = ChosenGrid(Grid(signed=False, scheme="symmetric"), 0.1, 128)
    with pytest.raises(ValueError, match=r"fc\.weight needs a symmetric grid"):
        StaticQuantizedLinear(layer, {**grids, "weight": unsigned}, name="fc")
    nine = ChosenGrid(Grid(bits=9, scheme="symmetric"), 0.1, 0)
    with pytest.raises(ValueError, match=r"fc\.weight needs .* at most 8 bits, got Grid.bits=9"):
        StaticQuantizedLinear(layer, {**grids, "weight": nine}, name="fc")
    with pytest.raises(ValueError, match=r"fc: expected at most 8 bits, got Grid.bits=9"):
        StaticQuantizedLinear(
            layer, {**grids, "activation": ChosenGrid(Grid(bits=9), 0.1, 0)}, name="fc"
        )
    with pytest.raises(TypeError, match="fc: expected a Conv2d, got Linear"):
        QuantizedConv2d(layer, grids, name="fc")
    for part in ("weight", "bias"):
        broken = copy.deepcopy(layer)
        getattr(broken, part).data[..., 1] = np.nan
        with pytest.raises(ValueError, match=rf"fc\.{part} holds nan at \["):
            StaticQuantizedLinear(broken, grids, name="fc")
    huge = Linear(70_000, 1)
    huge.weight.data[...] = 1.0
    with pytest.raises(ValueError, match="fc: sums could reach 2266950000, which is no int32"):
        StaticQuantizedLinear(huge, grids_for(huge.weight.data, 1), name="fc")


def test_repr_shows_grids():
    layer = Linear(4, 2)
    grids = grids_for(layer.weight.data, 1)
    expected = (
        "StaticQuantizedLinear(4, 2, scale=0.07, zero_point=11, 2 scales of the weight, relu=True\n"
        "  (quantize): Quantize(scale=0.05, zero_point=-3)\n)"
    )
    assert repr(StaticQuantizedLinear(layer, grids, relu=True)) == expected
    del grids["input"]
    conv = Conv2d(4, 8, 3, padding="same", groups=2)
    grids["weight"] = ChosenGrid(SYMMETRIC, 0.1, 0)
    assert repr(QuantizedConv2d(conv, grids)) == (
        "QuantizedConv2d(4, 8, kernel_size=(3, 3), stride=1, padding='same', dilation=1, groups=2, "
        "scale=0.07, zero_point=11, one scale of the weight, relu=False)"
    )


def test_integers_pass_from_layer_to_layer_without_the_grid_of_the_input():
    layer = Linear(6, 4)
    grids = grids_for(layer.weight.data, 1)
    del grids["input"]
    on_integers = StaticQuantizedLinear(layer, grids, name="fc")
    x = quantized(5, 6, scale=0.02, zero_point=90)
    q_weight = on_integers.q_weight.data.astype(np.int64)
    sums = (x.q.astype(np.int64) - 90) @ q_weight
    expected = fbgemm(sums, 0.02, grids["weight"].scale, layer.bias.data, 0.07, 11)
    np.testing.assert_array_equal(on_integers(x).q, expected)
    with pytest.raises(RuntimeError, match="fc: the input is float and its grid isn't known"):
        on_integers(normal(5, 6))


# --- what needs no multiplication ---
@pytest.mark.parametrize("zero_point", [-128, -7, 0, 127])
def test_relu_and_poolings_stay_on_the_grid(zero_point):
    x = quantized(2, 3, 6, 8, scale=0.3, zero_point=zero_point)
    shift = x.q.astype(np.int64) - zero_point
    y = QuantizedReLU()(x)
    np.testing.assert_array_equal(y.q.astype(int) - zero_point, np.maximum(shift, 0))
    np.testing.assert_array_equal(y.data, relu(x.dequantize()).data)
    for how in ((2,), (3, 2, 1), ((2, 4),), (2, 1)):
        y = QuantizedMaxPool2d(*how)(x)
        np.testing.assert_array_equal(y.data, MaxPool2d(*how)(x.dequantize()).data)
        assert (y.q.dtype, y.chosen) == (np.int8, x.chosen)
        y = QuantizedAvgPool2d(*how)(x)
        exact = AvgPool2d(*how)(Tensor(shift, dtype=np.float64)).data
        np.testing.assert_array_equal(y.q.astype(int) - zero_point, np.rint(exact))
        assert (y.q.dtype, y.chosen) == (np.int8, x.chosen)


def test_relu_and_poolings_of_floats_and_of_unsigned_integers():
    x = normal(2, 3, 6, 8)
    for layer, plain in (
        (QuantizedReLU(), ReLU()),
        (QuantizedMaxPool2d(2), MaxPool2d(2)),
        (QuantizedAvgPool2d(3, 2, 1), AvgPool2d(3, 2, 1)),
    ):
        np.testing.assert_array_equal(layer(x).data, plain(x).data)
        unsigned = QuantizedTensor(
            integers(1, 2, 6, 6, low=0, high=255, dtype=np.uint8),
            on_grid(1.0, 200, Grid(signed=False)),
        )
        y = layer(unsigned)
        assert y.q.dtype == np.uint8
        assert np.abs(y.data - plain(unsigned.dequantize()).data).max() <= 0.5


# --- attention ---
def test_products_of_integers():
    a, b = quantized(2, 5, 70, scale=0.02, zero_point=-128), quantized(2, 70, 3, zero_point=100)
    exact = (a.q.astype(np.int64) + 128) @ (b.q.astype(np.int64) - 100)
    np.testing.assert_array_equal(products(a, b), exact.astype(np.float32) * np.float32(0.02 * 0.1))


def attention_in_numpy(q, k, v, mask=None, is_causal=False):
    """The definition on the numbers that integers stand for, in float64."""
    q, k, v = (x.data.astype(np.float64) for x in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        mask = np.asarray(mask)
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = powers / powers.sum(axis=-1, keepdims=True)
    return np.rint(weights * 255) / 255 @ v


MASKS = {
    "none": None,
    "2 axes": np.tri(4, 6, 2, dtype=bool),
    "4 axes": np.append(random.random((2, 3, 4, 5)) < 0.5, np.ones((2, 3, 4, 1), bool), axis=-1),
    "floats": random.standard_normal((4, 6)),
}


@pytest.mark.parametrize("name", MASKS)
def test_integer_attention_is_the_definition(name):
    q, k, v = (quantized(2, 3, n, 8, scale=0.01, zero_point=z) for n, z in ((4, 3), (6, 9), (6, 0)))
    got = integer_attention(q, k, v, MASKS[name])
    expected = attention_in_numpy(q, k, v, MASKS[name])
    assert got.dtype == np.float32
    error = np.abs(got.data - expected)
    assert error.max() < 0.0105  # a share that lies on a half went the other way: 1/255 of 2.56
    assert np.median(error) < 1e-5


def test_integer_attention_looks_back_only_and_nowhere():
    q, k, v = (quantized(1, 5, 4, scale=0.02) for _ in range(3))
    got = integer_attention(q, k, v, is_causal=True)
    expected = attention_in_numpy(q, k, v, is_causal=True)
    np.testing.assert_allclose(got.data, expected, atol=0.022)
    np.testing.assert_allclose(got.data[:, 0], v.data[:, 0], rtol=1e-6)  # itself alone
    nowhere = integer_attention(q, k, v, np.zeros((5, 5), bool))
    assert not nowhere.data.any()


@pytest.mark.parametrize("num_kv_heads", [None, 2, 1])
@pytest.mark.parametrize("axes", [0, 2, 3, 4])
def test_quantized_attention(num_kv_heads, axes):
    layer = MultiHeadAttention(16, 4, num_kv_heads)
    x = normal(3, 7, 16)
    mask = random.random((3, 4, 7, 7)) < 0.7
    mask |= np.eye(7, dtype=bool)
    mask = {0: None, 2: mask[0, 0], 3: mask[:, 0], 4: mask}[axes]
    got = calibrated(layer, x, mask=mask)
    assert type(got) is QuantizedAttention
    assert type(got.q_proj) is type(got.out_proj) is StaticQuantizedLinear
    y = got(x, mask=mask)
    assert type(y) is QuantizedTensor
    assert relative_error(y, layer(x, mask=mask)) < 0.03
    before = [id(child) for child in layer.children()]
    assert [id(child) for child in layer.children()] == before
    assert not hasattr(got, "observers")


def test_quantized_cross_attention():
    layer, x, memory = MultiHeadAttention(8, 2), normal(2, 3, 8), normal(2, 5, 8)
    prepared = prepare(layer, MINMAX)
    np.testing.assert_array_equal(prepared(x, memory).data, layer(x, memory).data)
    assert relative_error(convert(prepared)(x, memory), layer(x, memory)) < 0.03


def test_attention_in_blocks_stays_float():
    layer = MultiHeadAttention(8, 2, block_size=2)
    x = normal(2, 5, 8)
    got = calibrated(layer, x)
    assert type(got) is MultiHeadAttention
    assert type(got.q_proj) is StaticQuantizedLinear
    assert relative_error(got(x), layer(x)) < 0.03


# --- prepare ---
def small_cnn():
    return Sequential(
        Conv2d(1, 4, 3, padding=1),
        BatchNorm2d(4),
        ReLU(),
        MaxPool2d(2),
        Conv2d(4, 8, 3, padding=1, bias=False),
        ReLU(),
        AvgPool2d(2),
        Dropout(0.5),
        Flatten(),
        Linear(32, 5),
    )


def trained_statistics(model, x):
    """Running means and variances that aren't those of the start."""
    model.train()
    for _ in range(5):
        model(x)
    return model.eval()


def test_a_prepared_model_computes_as_before():
    x = normal(20, 1, 8, 8)
    model = trained_statistics(small_cnn(), x)
    for example in (None, x[:2]):
        prepared = prepare(model.train(), example=example)
        assert not prepared.training
        assert model.training
        np.testing.assert_allclose(prepared(x).data, model.eval()(x).data, rtol=1e-5, atol=1e-5)
    assert kinds(prepared)[:5] == ["Observed", "Identity", "Identity", "MaxPool2d", "Observed"]
    assert type(prepared[0].layer) is Fused
    assert kinds(model) == kinds(small_cnn())


def test_prepare_and_convert_leave_their_models_alone():
    x = normal(20, 1, 8, 8)
    model = trained_statistics(small_cnn(), x)
    before = copy.deepcopy(model.state_dict())
    prepared = prepare(model, MINMAX, x)
    prepared(x)
    seen = repr(prepared)
    converted = convert(prepared)
    assert repr(prepared) == seen
    assert kinds(model) == kinds(small_cnn())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, before[name].data)
    y = converted(x)
    prepared(10 * x)  # calibration that comes later
    np.testing.assert_array_equal(converted(x).q, y.q)
    assert relative_error(convert(prepared)(x), model(x)) > relative_error(y, model(x))


class Block(Module):
    """Two layers, a sum, and a ReLU that is a function."""

    def __init__(self):
        self.up, self.down = Linear(6, 12), Linear(12, 6)

    def forward(self, x):
        return x + self.down(relu(self.up(x)))


NOT_THE_FIRST = [
    ({"0": None}, ["Linear", "Observed", "Observed"]),
    ({Linear: None, "0": MINMAX}, ["Observed", "Linear", "Linear"]),
    ({"": None, "1": MINMAX}, ["Linear", "Observed", "Linear"]),
    ({Linear: None, "": MINMAX, "2": MINMAX}, ["Linear", "Linear", "Observed"]),
    ({}, ["Observed", "Observed", "Observed"]),
    (MINMAX, ["Observed", "Observed", "Observed"]),
]


@pytest.mark.parametrize("qconfig, expected", NOT_THE_FIRST, ids=range(len(NOT_THE_FIRST)))
def test_qconfig_by_name_and_type(qconfig, expected):
    model = Sequential(Linear(4, 4), Linear(4, 4), Linear(4, 4))
    prepared = prepare(model, qconfig)
    assert kinds(prepared) == expected
    x = normal(5, 4)
    prepared(x)
    after = ["StaticQuantizedLinear" if kind == "Observed" else kind for kind in expected]
    converted = convert(prepared)
    assert kinds(converted) == after
    assert relative_error(converted(x), model(x)) < 0.05


def test_qconfig_of_a_parent_and_of_a_fused_layer():
    model = Sequential(Block(), Linear(6, 3), ReLU())
    prepared = prepare(model, {"0": None, "0.up": MINMAX})
    assert type(prepared[0].up) is Observed
    assert type(prepared[0].down) is Linear
    x = normal(5, 6)
    assert type(prepare(model, {"1": None}, x)[1]) is Fused
    assert type(prepare(model, {Linear: None, "1": MINMAX}, x)[1]) is Observed
    others = prepare(model, {"1": None})[0].up
    assert type(others.output_observer) is HistogramObserver  # QConfig's own default
    four = QConfig(activation=partial(MinMaxObserver, bits=4))
    assert prepare(model, {"": MINMAX, "1": four}, x)[1].output_observer.grid.bits == 4


def test_the_products_of_attention_may_stay_float():
    x, layer = normal(2, 5, 8), MultiHeadAttention(8, 2)
    got = calibrated(layer, x, config={MultiHeadAttention: None})
    assert (type(got), type(got.q_proj)) == (MultiHeadAttention, StaticQuantizedLinear)
    alone = calibrated(layer, x, config={"": None, MultiHeadAttention: MINMAX})
    assert (type(alone), type(alone.q_proj)) == (QuantizedAttention, Linear)
    for model in (got, alone):
        assert relative_error(model(x), layer(x)) < 0.03


def test_prepare_refuses_what_it_does_not_know():
    model = Sequential(Linear(4, 3), ReLU())
    with pytest.raises(TypeError, match="prepare: expected a Module, got list"):
        prepare([model])
    with pytest.raises(TypeError, match="prepare: expected a QConfig or None, got 'fbgemm' for ''"):
        prepare(model, "fbgemm")
    with pytest.raises(TypeError, match="prepare: expected a QConfig or None, got 8 for '0'"):
        prepare(model, {"0": 8})
    with pytest.raises(
        ValueError, match=r"prepare: qconfig has 'first': .* names, which are \['',"
    ):
        prepare(model, {"first": None})
    with pytest.raises(ValueError, match=r"prepare: qconfig has <class .*BatchNorm1d'>: it takes"):
        prepare(model, {BatchNorm1d: MINMAX})
    for nothing in (Sequential(ReLU()), BatchNorm1d(3)):
        with pytest.raises(ValueError, match="prepare: nothing to quantise: there is no Linear"):
            prepare(nothing)
    with pytest.raises(ValueError, match="prepare: nothing to quantise"):
        prepare(model, {"": None})
    prepared = prepare(model)
    prepared(normal(2, 4))
    again = {
        prepared: "0 was",
        convert(prepared): "0 was",
        prepare(Linear(2, 2)): "the model was",
        prepare_qat(model): "0 was",
    }
    for old, said in again.items():
        with pytest.raises(ValueError, match=f"prepare: {said} prepared before"):
            prepare(old)


def test_calibration_names_the_layer_that_met_nan():
    prepared = prepare(Sequential(Identity(), Linear(2, 2)))
    with pytest.raises(ValueError, match=r"1\.input: HistogramObserver: x holds nan at \[0, 1\]"):
        prepared(Tensor([[0.0, np.nan]]))
    attention = prepare(Sequential(MultiHeadAttention(4, 2)), {Linear: None})
    with pytest.raises(ValueError, match="0's attention: HistogramObserver: x holds nan"):
        attention(Tensor(np.full((1, 2, 4), np.nan)))


# --- convert ---
def test_convert_refuses_what_is_not_ready():
    with pytest.raises(TypeError, match="convert: expected a Module, got function"):
        convert(relu)
    with pytest.raises(ValueError, match="convert: no layer is prepared: call prepare"):
        convert(Sequential(Linear(2, 2)))
    prepared = prepare(Sequential(Linear(4, 3), Linear(3, 2)))
    with pytest.raises(
        RuntimeError, match=r"convert: 0\.input is not calibrated: run the prepared"
    ):
        convert(prepared)
    prepared(Tensor(np.zeros((0, 4))))  # an empty batch shows nothing
    with pytest.raises(RuntimeError, match=r"convert: 0\.input is not calibrated"):
        convert(prepared)
    with pytest.raises(RuntimeError, match=r"convert: the model\.input is not calibrated"):
        convert(prepare(Linear(2, 2)))
    attention = prepare(Sequential(MultiHeadAttention(4, 2)), {Linear: None})
    with pytest.raises(RuntimeError, match="convert: 0's attention is not calibrated"):
        convert(attention)
    with pytest.raises(RuntimeError, match="convert: 0 is not calibrated"):
        convert(prepare_qat(Sequential(Linear(2, 2))))


@pytest.mark.parametrize(
    "config, said",
    [
        (QConfig(partial(MinMaxObserver, bits=9)), "0: expected at most 8 bits"),
        (QConfig(PerChannelMinMaxObserver), "0: expected one scale for all channels, got 6"),
        (QConfig(weight=PerChannelMinMaxObserver), "0.weight needs a symmetric grid"),
        (QConfig(weight=lambda axis: MinMaxObserver(bits=16)), "0.weight needs a symmetric grid"),
    ],
)
def test_convert_refuses_grids_that_integers_cannot_use(config, said):
    model = Sequential(Linear(4, 3))
    with pytest.raises(ValueError, match=said):
        calibrated(model, normal(6, 4), config=config)


def test_convert_names_a_weight_that_is_nan():
    model = Sequential(Linear(2, 2))
    model[0].weight.data[1, 0] = np.inf
    prepared = prepare(model)
    prepared[0].input_observer.observe(normal(3))
    with pytest.raises(ValueError, match=r"0\.weight holds inf at \[1, 0\]"):
        convert(prepared)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("config", [MINMAX, QConfig()])
def test_a_whole_network_on_integers(fused, config):
    x = normal(40, 1, 8, 8)
    model = trained_statistics(small_cnn(), x)
    got = calibrated(model, x, config=config, example=x[:4] if fused else None)
    expected = kinds(small_cnn())
    expected[0] = expected[4] = "QuantizedConv2d"
    expected[2] = expected[5] = "QuantizedReLU"
    expected[3], expected[6] = "QuantizedMaxPool2d", "QuantizedAvgPool2d"
    expected[9] = "StaticQuantizedLinear"
    if fused:
        expected[1] = expected[2] = expected[5] = "Identity"
    assert kinds(got) == expected
    y = got(x)
    assert (type(y), y.q.dtype) == (QuantizedTensor, np.int8)
    assert relative_error(y, model(x)) < 0.1
    first = got[0](x)
    assert (first.q >= first.zero_point).all() == fused
    assert [got[0].relu, got[4].relu, got[9].relu] == [fused, fused, False]


def test_between_integer_layers_no_float_passes():
    x = normal(20, 1, 8, 8)
    got = calibrated(small_cnn().eval(), x, example=x)
    seen = []
    for layer in got:
        if isinstance(layer, Module):
            layer.register_forward_pre_hook(lambda module, inputs: seen.append(type(inputs[0])))
    got(x)
    assert seen == [Tensor, *[QuantizedTensor] * 9]


def test_what_stays_float_sees_floats():
    class Counting(Module):
        def forward(self, x):
            self.saw = type(x.data), x.dtype
            return x * 2

    x = normal(30, 6)
    model = Sequential(Block(), Counting(), Linear(6, 2))
    got = calibrated(model, x)
    y = got(x)
    assert got[1].saw == (np.ndarray, np.float32)
    assert relative_error(y, model(x)) < 0.05
    images = normal(10, 1, 6, 6)
    model = Sequential(Conv2d(1, 3, 3), GlobalAvgPool2d(), Linear(3, 2))
    assert relative_error(calibrated(model, images)(images), model(images)) < 0.1


def test_a_bare_layer_is_a_model():
    x = normal(50, 8)
    layer = Linear(8, 4)
    got = calibrated(layer, x)
    assert type(got) is StaticQuantizedLinear
    assert relative_error(got(x), layer(x)) < 0.02
    assert type(calibrated(Fused(layer), x)) is StaticQuantizedLinear


def test_a_layer_in_two_places_is_converted_once():
    layer = Linear(4, 4)
    model = Sequential(layer, ReLU(), layer)
    x = normal(30, 4)
    got = calibrated(model, x)
    assert got[0] is got[2]
    assert relative_error(got(x), model(x)) < 0.05


def test_more_bits_mean_less_error():
    x = normal(200, 20)
    model = Sequential(Linear(20, 30), ReLU(), Linear(30, 5))
    errors = []
    for bits in (2, 4, 6, 8):
        config = QConfig(
            partial(MinMaxObserver, bits=bits),
            partial(PerChannelMinMaxObserver, bits=bits, scheme="symmetric"),
        )
        got = calibrated(model, x, config=config)
        errors.append(np.abs(got(x).data - model(x).data).mean())
        assert np.abs(got[0].q_weight.data).max() == 2 ** (bits - 1) - 1
        assert len(np.unique(got(x).q)) <= 2**bits
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 30 * errors[3]


@pytest.mark.parametrize("activation", [Grid(signed=False), SYMMETRIC, Grid(reduce_range=True)])
def test_activations_on_other_grids(activation):
    options = dict(
        signed=activation.signed, scheme=activation.scheme, reduce_range=activation.reduce_range
    )
    x = normal(100, 1, 8, 8)
    model = small_cnn().eval()
    config = QConfig(partial(MinMaxObserver, **options))
    got = calibrated(model, x, config=config, example=x)
    assert got[0](x).data.min() == 0  # the ReLU, also where the grid has negative numbers
    y = got(x)
    assert y.q.dtype == activation.dtype
    assert relative_error(y, model(x)) < 0.15


def test_converted_models_are_copied_pickled_saved_and_loaded():
    x = normal(20, 1, 8, 8)
    model = trained_statistics(small_cnn(), x)
    got = calibrated(model, x, example=x)
    y = got(x)
    for again in (copy.deepcopy(got), pickle.loads(pickle.dumps(got))):
        np.testing.assert_array_equal(again(x).q, y.q)
        assert repr(again) == repr(got)
    other = calibrated(small_cnn(), 3 * x, example=x)
    assert not np.array_equal(other(x).q, y.q)
    state = {name: tensor.data for name, tensor in got.state_dict().items()}
    other.load_state_dict(state)
    np.testing.assert_array_equal(other(x).q, y.q)
    assert got.parameters() == []
    weights = sum(p.size for p in model.parameters() if p.ndim > 1)
    assert sum(t.nbytes for t in got.buffers() if t.dtype == np.int8) == weights


def test_no_gradient_passes_integers():
    x = normal(5, 4)
    got = calibrated(Linear(4, 2), x)
    x.requires_grad = True
    assert not got(x).requires_grad


@pytest.mark.parametrize("activation", [Grid(), Grid(signed=False), Grid(bits=4)])
def test_accelerate_takes_static_layers(activation):
    options = dict(bits=activation.bits, signed=activation.signed)
    x, model = normal(40, 12), Sequential(Linear(12, 20), ReLU(), Linear(20, 3, bias=False))
    config = QConfig(partial(MinMaxObserver, **options))
    got = calibrated(model, x, config=config, example=x)
    fast = accelerate(got)
    assert kinds(fast) == ["Int8Linear", "Identity", "Int8Linear"]
    first = got[0](x)
    by_kernel = fast[0](x).data
    assert by_kernel.min() >= 0
    top = (activation.limits[1] - first.zero_point) * first.scale
    assert np.abs(np.minimum(by_kernel, top) - first.data).max() <= first.scale * 0.501
    assert relative_error(fast(x), model(x)) < (0.4 if activation.bits == 4 else 0.03)
    grids = grids_for(model[0].weight.data, 1)
    del grids["input"]
    alone = StaticQuantizedLinear(model[0], grids)
    with pytest.raises(ValueError, match="accelerate: the model has none of"):
        accelerate(alone)


# --- models of module 23 ---
@pytest.mark.parametrize("entrance", [False, True])
@pytest.mark.parametrize("learn", [False, True])
def test_models_of_quantisation_aware_training(entrance, learn):
    x = normal(100, 1, 8, 8)
    model = trained_statistics(small_cnn(), x)
    model = Sequential(FakeQuantize(MinMaxObserver()), *model) if entrance else model
    prepared = prepare_qat(model, qat_config(weight_bits=4), x, learn=learn)
    prepared.train()
    prepared(x)
    prepared.eval()
    got = convert(prepared)
    layers = [layer for layer in got if isinstance(layer, (StaticQuantizedLinear, QuantizedConv2d))]
    assert [np.abs(layer.q_weight.data).max() <= 7 for layer in layers] == [True] * 3
    if entrance:
        assert type(got[0]) is Quantize
        with no_grad():
            simulated = prepared(x)
        step = layers[-1].scale.item()
        assert np.abs(got(x).data - simulated.data).max() < 3 * step
        assert np.abs(got(x).data - simulated.data).mean() < 0.3 * step
    else:
        with pytest.raises(RuntimeError, match=r"0: the input is float .* FakeQuantize in front"):
            got(x)
        again = calibrated(finish_qat(prepared), x)
        with no_grad():
            assert relative_error(again(x), prepared(x)) < 0.15


def test_a_bare_layer_of_qat():
    prepared = prepare_qat(Linear(4, 2), example=normal(10, 4))
    assert type(convert(prepared)) is StaticQuantizedLinear
    with pytest.raises(RuntimeError, match="the model: the input is float"):
        convert(prepared)(normal(10, 4))


# --- transformers ---
@pytest.mark.parametrize("positions", ["learned", "rotary", None])
@pytest.mark.parametrize("num_kv_heads", [None, 1])
def test_gpt(positions, num_kv_heads):
    model = GPT(30, 16, 2, 4, 12, positions=positions, num_kv_heads=num_kv_heads)
    for parameter in model.parameters():  # as if trained: larger than at the start
        if parameter.ndim == 2:
            parameter.data[...] *= 5
    ids = random.integers(0, 30, (6, 12))
    prepared = prepare(model)
    assert type(prepared.blocks[1].attention) is ObservedAttention
    np.testing.assert_array_equal(prepared(ids).data, model.eval()(ids).data)
    got = convert(prepared)
    assert type(got.blocks[0].attention) is QuantizedAttention
    assert type(got.blocks[1].mlp.down) is StaticQuantizedLinear
    assert relative_error(got(ids), model(ids)) < 0.1
    assert got.generate(ids[:1, :4], 5, greedy=True).shape == (1, 9)


def test_a_block_keeps_norms_and_sums_in_floats():
    x = normal(2, 5, 16)
    block = TransformerBlock(16, 2)
    got = calibrated(block, x, is_causal=True)
    y = got(x, is_causal=True)
    assert type(y) is Tensor
    assert type(got.norm1) is type(block.norm1)
    assert relative_error(y, block(x, is_causal=True)) < 0.03

"""Quantised layers and models against PyTorch and ONNX Runtime: the same integers.

Both get our integers: torch.quantize_per_tensor adds the zero point before it rounds, so that a few
numbers that lie almost between two marks go to the other one. Observers, fake quantisation and low
bits have files of their own (22 to 24); here are the inputs that those leave out.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from quantized_peers import (
    as_qint8,
    as_quint8,
    by_onnx_runtime,
    by_pytorch,
    engine,
    fbgemm_saturates,
    integers_of,
    pytorch,
)

import tinytorch
from tinytorch.core.autograd import grad
from tinytorch.core.layers import Identity, Linear
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.recurrent import LSTM
from tinytorch.core.spatial import Conv2d
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.optimization.dynamic import (
    DynamicQuantizedLinear,
    QuantizedEmbedding,
    QuantizedLSTM,
    grid_of,
)
from tinytorch.optimization.integer import IntegerConv2d, IntegerLinear, integer_model
from tinytorch.optimization.observers import (
    Grid,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
)
from tinytorch.optimization.qat import ChosenGrid, fake_quantize
from tinytorch.optimization.static import (
    Quantize,
    QuantizedAvgPool2d,
    QuantizedConv2d,
    QuantizedMaxPool2d,
    QuantizedReLU,
    QuantizedTensor,
    StaticLayer,
    StaticQuantizedLinear,
    convert,
    linear_sums,
    prepare,
    to_integers,
)
from tinytorch.text.embeddings import Embedding

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

random = np.random.default_rng()


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    random.bit_generator.state = np.random.default_rng(4).bit_generator.state
    manual_seed(4)


@pytest.fixture
def torch():
    return pytorch()


# --- inputs ---
INPUTS = {
    "random": lambda x: x,
    "zeros": lambda x: 0 * x,
    "constant": lambda x: np.full_like(x, 0.3),
    "one outlier": lambda x: np.where(x == x.max(), 1000, x),
    "tiny": lambda x: 1e-9 * x,
    "negative only": lambda x: -np.abs(x) - 1,
    "positive only": lambda x: np.abs(x) + 1,
    "single element": lambda x: x.flat[0].reshape([1] * x.ndim),
}
every_input = pytest.mark.parametrize("kind", INPUTS)


def numbers(kind, *shape):
    return INPUTS[kind](random.standard_normal(shape)).astype(np.float32)


def chosen_for(x, observer=None):
    """The grid that an observer, MinMaxObserver by default, chooses for x."""
    observer = observer or MinMaxObserver()
    observer.observe(x)
    axis = getattr(observer, "axis", None)
    return ChosenGrid(observer.grid, *observer.calculate_qparams(), axis)


class Case:
    """A layer with random numbers, the grids of what it gets and gives, and integers for it."""

    def __init__(self, layer, x, relu=False, per_channel=True, reduce_range=False):
        self.layer, self.relu = layer, relu
        if layer.bias is not None:
            layer.bias.data[...] = random.standard_normal(layer.bias.shape)
        self.axis = 1 if isinstance(layer, Linear) else 0  # of the weight's output channels
        kind = partial(PerChannelMinMaxObserver, self.axis) if per_channel else MinMaxObserver
        observer = kind(scheme="symmetric", reduce_range=reduce_range)
        self.weight = chosen_for(layer.weight, observer)
        # with room below 0 also where the ReLU has something to cut off
        self.x, self.y = chosen_for(x), chosen_for(layer(Tensor(x)))
        self.q = to_integers(x, self.x, "x")

    def static(self):
        """The layer of module 31."""
        grids = dict(input=self.x, weight=self.weight, activation=self.y)
        kind = StaticQuantizedLinear if self.axis else QuantizedConv2d
        return kind(self.layer, grids, self.relu)

    def integer(self):
        """The layer of module 27."""
        kind = IntegerLinear if self.axis else IntegerConv2d
        return kind(self.layer, (self.x, self.weight, self.y), relu=self.relu)

    def scale_of(self, integer):
        """The weight's scales with which an integer layer computes.

        It widens that of a channel whose bias, on the grid of the products, is no int32: there
        QNNPACK overflows.
        """
        mantissa, exponent = integer.mantissa.data, integer.exponent.data
        return np.ldexp(mantissa / 2**31, exponent) * self.y.scale / self.x.scale

    def by_pytorch(self, kernels, q_weight, scale):
        """What these kernels of PyTorch give, with a weight on a grid."""
        with engine(kernels):
            return by_pytorch(
                *(self.layer, self.q, self.x, q_weight.data, scale, self.y, self.relu)
            )


def assert_within_a_step(ours, theirs, share):
    """Whole numbers that differ by 1 at most, and no more than one and this share of them."""
    steps = np.abs(ours.astype(int) - theirs)
    assert steps.max() <= 1
    assert steps.sum() <= 1 + share * steps.size


# --- grids and fake quantisation on the inputs that 22 and 23 leave out ---
EDGES = [kind for kind in INPUTS if kind != "single element"]


@pytest.mark.parametrize("scheme", ["affine", "symmetric_full"])
@pytest.mark.parametrize("signed", [True, False])
def test_channels_of_edges_get_pytorchs_grids(torch, signed, scheme):
    x = np.stack([numbers(kind, 500) for kind in EDGES])
    kind = "affine" if scheme == "affine" else "symmetric"
    theirs = torch.ao.quantization.PerChannelMinMaxObserver(
        dtype=torch.qint8 if signed else torch.quint8, qscheme=getattr(torch, f"per_channel_{kind}")
    )
    for data in (x, x[:, :1]):  # the last: single elements
        theirs.reset_min_max_vals()
        theirs(torch.tensor(data))
        scale, zero_point = theirs.calculate_qparams()
        ours = chosen_for(data, PerChannelMinMaxObserver(0, signed=signed, scheme=scheme))
        np.testing.assert_allclose(ours.scale, scale.numpy(), rtol=1e-6)
        np.testing.assert_array_equal(ours.zero_point, zero_point.numpy())


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@every_input
def test_fake_quantise_bit_for_bit(torch, kind, scheme, bits):
    x = numbers(kind, 40, 25)
    grid = chosen_for(x, MinMaxObserver(bits=bits, scheme=scheme))
    x *= np.float32(1.3)  # some are clipped
    g, limits = random.standard_normal(x.shape).astype(np.float32), grid.grid.limits
    ours, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    how = dict(lowest=limits[0], highest=limits[1])
    out = fake_quantize(ours, grid.scale, grid.zero_point, **how)
    expected = torch.fake_quantize_per_tensor_affine(theirs, grid.scale, grid.zero_point, *limits)
    expected.backward(torch.tensor(g))
    assert out.data.tobytes() == expected.detach().numpy().tobytes()
    np.testing.assert_array_equal(grad(out, [ours], g)[0].data, theirs.grad.numpy())


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("columns", [200, 1])
def test_fake_quantise_channels_of_edges_bit_for_bit(torch, columns, scheme, bits):
    x = np.stack([numbers(kind, 200) for kind in EDGES])[:, :columns]
    grid = chosen_for(x, PerChannelMinMaxObserver(0, bits=bits, scheme=scheme))
    x = x * np.float32(1.3)
    g, limits = random.standard_normal(x.shape).astype(np.float32), grid.grid.limits
    ours, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    how = dict(lowest=limits[0], highest=limits[1], axis=0)
    out = fake_quantize(ours, grid.scale, grid.zero_point, **how)
    of_channels = torch.tensor(grid.scale, dtype=torch.float32), torch.tensor(grid.zero_point)
    expected = torch.fake_quantize_per_channel_affine(theirs, *of_channels, 0, *limits)
    expected.backward(torch.tensor(g))
    assert out.data.tobytes() == expected.detach().numpy().tobytes()
    np.testing.assert_array_equal(grad(out, [ours], g)[0].data, theirs.grad.numpy())


@every_input
def test_quantise_and_back(torch, kind):
    x = numbers(kind, 40, 25)
    grid = chosen_for(x)
    ours = Quantize(grid)(Tensor(x))
    fake = torch.fake_quantize_per_tensor_affine(
        torch.tensor(x), grid.scale, grid.zero_point, -128, 127
    )
    np.testing.assert_array_equal(ours.data, fake.numpy())
    theirs = torch.quantize_per_tensor(torch.tensor(x), grid.scale, grid.zero_point, torch.qint8)
    steps = np.abs(ours.q - theirs.int_repr().numpy().astype(int))
    between = np.abs(x / np.float64(grid.scale) % 1 - 0.5) < 1e-4
    assert steps[~between].max(initial=0) == 0
    assert steps.max() <= 1


# --- Linear and Conv2d ---
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@every_input
def test_a_static_linear_is_fbgemms(kind, bias, relu, per_channel):
    x = numbers(kind, 40, 96)
    case = Case(Linear(x.shape[1], 24, bias), x, relu, per_channel, fbgemm_saturates())
    ours = case.static()
    theirs = case.by_pytorch("fbgemm", ours.q_weight, case.weight.scale)
    np.testing.assert_array_equal(ours(Tensor(x)).q, theirs)


@pytest.mark.parametrize("kernels", ["fbgemm", "qnnpack"])
def test_halves_become_even(kernels):
    """One result in four lies on the middle of two marks."""
    layer, q = Linear(1, 24, bias=False), np.arange(-128, 128).astype(np.int8)[:, None]
    layer.weight.data[...] = np.arange(-12, 12) / 128
    x, y = ChosenGrid(Grid(), 1.0, 3), ChosenGrid(Grid(), 2.0**-5, -5)
    weight = ChosenGrid(Grid(scheme="symmetric"), 2.0**-7, 0)
    ours = StaticQuantizedLinear(layer, dict(input=x, weight=weight, activation=y))
    with engine(kernels):
        theirs = by_pytorch(layer, q, x, ours.q_weight.data, weight.scale, y)
    np.testing.assert_array_equal(ours(QuantizedTensor(q, x)).q, theirs)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@every_input
def test_an_integer_linear_is_qnnpacks_but_for_its_multiplier(kind, bias, relu):
    x = numbers(kind, 40, 96)
    case = Case(Linear(x.shape[1], 24, bias), x, relu)
    ours = case.integer()
    scale = case.scale_of(ours)
    theirs = case.by_pytorch("qnnpack", ours.q_weight, scale)
    sums = linear_sums(case.q, ours.q_weight.data, x_zero_point=case.x.zero_point)
    sums += ours.q_bias.data
    products = np.float32(case.x.scale) * scale.astype(np.float32)
    steps = np.rint(sums.astype(np.float32) * (products / np.float32(case.y.scale)))
    lowest = case.y.zero_point if relu else -128
    formula = np.clip(steps + case.y.zero_point, lowest, 127)
    np.testing.assert_array_equal(formula, theirs)
    assert_within_a_step(ours(Tensor(case.q, dtype=np.int8)).data, theirs, share=0.005)


CONVOLUTIONS = [
    dict(),
    dict(padding=1),
    dict(padding=2, stride=2),
    dict(padding=2, dilation=2),
    dict(padding=1, groups=2),
]


def convolution(kind, how, **options):
    x = numbers(kind, 3, 4, 9, 8)
    if x.size == 1:
        how = how | dict(padding=2, groups=1)
    return x, Case(Conv2d(x.shape[1], 8, 3, **how), x, **options)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("how", CONVOLUTIONS)
@every_input
def test_a_static_convolution_is_fbgemms_within_a_step(kind, how, relu):
    x, case = convolution(kind, how, relu=relu, reduce_range=fbgemm_saturates())
    ours = case.static()
    theirs = case.by_pytorch("fbgemm", ours.q_weight, case.weight.scale)
    assert_within_a_step(ours(Tensor(x)).q, theirs, share=1e-3)


@pytest.mark.parametrize("how", CONVOLUTIONS)
@every_input
def test_an_integer_convolution_is_qnnpacks_within_a_step(kind, how):
    _, case = convolution(kind, how)
    ours = case.integer()
    theirs = case.by_pytorch("qnnpack", ours.q_weight, case.scale_of(ours))
    assert_within_a_step(ours(Tensor(case.q, dtype=np.int8)).data, theirs, share=0.005)


# --- layers without weights ---
@pytest.mark.parametrize("zero_point", [-128, -17, 40, 127])
@pytest.mark.parametrize("how", [(2, 2, 0), (3, 1, 1), (3, 2, 1), (5, 3, 2)])
def test_pools_and_relu(torch, how, zero_point):
    grid = ChosenGrid(Grid(), 0.03125, zero_point)
    x = QuantizedTensor(random.integers(-128, 128, (4, 3, 13, 11)).astype(np.int8), grid)
    theirs = as_quint8(x.q, grid)
    largest = torch.nn.functional.max_pool2d(theirs, *how)
    np.testing.assert_array_equal(QuantizedMaxPool2d(*how)(x).q, integers_of(largest))
    np.testing.assert_array_equal(QuantizedReLU()(x).q, integers_of(torch.relu(theirs)))
    with engine("qnnpack"):
        mean = torch.nn.functional.avg_pool2d(theirs, *how)
    np.testing.assert_array_equal(QuantizedAvgPool2d(*how)(x).q, integers_of(mean))


# --- models ---
def mlp(nn):
    layers = [nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 10))


def cnn(nn):
    first = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64, 10))


FUSED = {mlp: [["1", "2"], ["3", "4"]], cnn: [["0", "1", "2"], ["4", "5", "6"]]}
every_model = pytest.mark.parametrize("make", FUSED)


def trained(make):
    """A model after a few steps on Digits, and the images."""
    with np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz") as file:
        images, labels = file["images"][:, None].astype(np.float32) / 16, file["labels"]
    model = make(tinytorch.nn)
    optimizer, loss = Adam(model.parameters(), lr=0.02), CrossEntropyLoss()
    for start in range(0, 1024, 64):
        part = slice(start, start + 64)
        optimizer.zero_grad()
        loss(model(Tensor(images[part])), Tensor(labels[part], dtype=int)).backward()
        optimizer.step()
    return model.eval(), images


def recipe():
    kind = partial(PerChannelMinMaxObserver, scheme="symmetric", reduce_range=fbgemm_saturates())
    return QConfig(MinMaxObserver, kind)


def converted(model, images):
    """Our model on integers, calibrated on the images, without the places of fused layers."""
    prepared = prepare(model, recipe(), example=Tensor(images[:2]))
    prepared(Tensor(images))
    return [layer for layer in convert(prepared) if not isinstance(layer, Identity)]


def converted_by_pytorch(make, model, images):
    """The same by PyTorch, from the same weights; its first layer quantises."""
    torch = pytorch()
    ao, other = torch.ao.quantization, make(torch.nn).eval()
    state = {
        name: torch.tensor(tensor.data.T.copy() if tensor.ndim == 2 else tensor.data)
        for name, tensor in model.state_dict().items()
    }
    other.load_state_dict(state, strict=False)  # ours counts no batches
    other = torch.nn.Sequential(ao.QuantStub(), *ao.fuse_modules(other, FUSED[make]))
    lowest, highest = recipe().weight(axis=0).grid.limits
    weight = ao.PerChannelMinMaxObserver.with_args(
        **dict(dtype=torch.qint8, qscheme=torch.per_channel_symmetric),
        **dict(quant_min=lowest, quant_max=highest),
    )
    other.qconfig = ao.QConfig(ao.MinMaxObserver.with_args(dtype=torch.quint8), weight)
    prepared = ao.prepare(other)
    with torch.no_grad():
        prepared(torch.tensor(images))
    return [layer for layer in ao.convert(prepared) if type(layer).__name__ != "Identity"]


def give_grids(ours, theirs):
    """PyTorch chose our grids and integers, but for floats' rounding; now it has the very same."""
    assert theirs.scale == pytest.approx(ours.scale.item(), rel=1e-5)
    assert theirs.zero_point == ours.zero_point.item() + 128
    scale = ours.weight_scale.data.astype(np.float64)
    weight, before = as_qint8(ours.q_weight.data, scale), theirs.weight()
    np.testing.assert_allclose(before.q_per_channel_scales(), scale, rtol=1e-5)
    assert_within_a_step(before.int_repr().numpy(), weight.int_repr().numpy(), share=0.005)
    theirs.scale = ours.scale.item()
    theirs.set_weight_bias(weight, pytorch().tensor(ours.bias.data))


def both_converted(make, model, images):
    """(our layer, PyTorch's layer on the same grids) in order, and the grid of the input."""
    ours = converted(model, images)
    quantize, *theirs = converted_by_pytorch(make, model, images)
    layers = [layer for layer in ours if isinstance(layer, StaticLayer)]
    first = layers[0].quantize
    assert quantize.scale.item() == pytest.approx(first.scale.item(), rel=1e-6)
    assert quantize.zero_point.item() == first.zero_point.item() + 128
    for layer, other in zip(layers, (t for t in theirs if hasattr(t, "scale")), strict=True):
        give_grids(layer, other)
    return list(zip(ours, theirs, strict=True)), first


@every_model
def test_a_converted_model_is_pytorchs_layer_by_layer(make):
    model, images = trained(make)
    with engine("fbgemm"):
        pairs, quantize = both_converted(make, model, images)
        x = quantize(Tensor(images))
        for ours, theirs in pairs:
            y = ours(x)
            np.testing.assert_array_equal(y.q, integers_of(theirs(as_quint8(x.q, x.chosen))))
            x = y
    assert x.shape == (len(images), 10)


@every_model
def test_an_integer_model_is_qnnpacks_layer_by_layer_within_a_step(make):
    model, images = trained(make)
    integers = integer_model(model, Tensor(images), recipe())
    with engine("qnnpack"):
        pairs, quantize = both_converted(make, model, images)
        q, chosen = integers.quantize(Tensor(images)), quantize.chosen
        for ours, (static, theirs) in zip(integers.layers, pairs, strict=True):
            y = ours(q)
            expected = integers_of(theirs(as_quint8(q.data, chosen)))
            assert_within_a_step(y.data, expected, share=0.005)
            q, chosen = y, getattr(static, "chosen", chosen)
    assert q.shape == (len(images), 10)


# --- grids chosen while the network runs ---
def test_rows_of_an_embedding_are_rounded_as_pytorch_rounds(torch):
    table = np.concatenate([numbers(kind, 5, 16) for kind in INPUTS if kind != "single element"])
    ours, chosen = (
        QuantizedEmbedding(Embedding.from_pretrained(Tensor(table))),
        grid_of(table, "row"),
    )
    grids = torch.tensor(chosen.scale, dtype=torch.float32), torch.tensor(chosen.zero_point)
    theirs = torch.fake_quantize_per_channel_affine(torch.tensor(table), *grids, 0, -128, 127)
    ids = random.permutation(len(table))
    np.testing.assert_array_equal(ours(ids).data, theirs.numpy()[ids])


# --- ONNX Runtime ---
def uint8(q):
    """Integers and zero points, moved up by 128.

    So are weights: sums of uint8 times int8 overflow 16 bits where the CPU has no VNNI.
    """
    return (np.asarray(q, np.int16) + 128).astype(np.uint8)


@every_input
def test_dynamic_quantize_linear(kind):
    x = numbers(kind, 40, 25)
    chosen = grid_of(x, "tensor")
    ours = to_integers(x, chosen, "x")
    q, scale, zero_point = by_onnx_runtime("DynamicQuantizeLinear", x, outputs=3)
    if kind in ("zeros", "tiny"):  # where ours has the smallest scale that PyTorch has
        assert chosen.scale == 2.0**-23
        restored = (q - zero_point.astype(int)) * scale
        assert np.abs((ours - chosen.zero_point) * chosen.scale - restored).max() <= 2.0**-24
    else:
        assert chosen.scale == pytest.approx(scale, rel=1e-6)
        assert uint8(chosen.zero_point) == zero_point
        np.testing.assert_array_equal(uint8(ours), q)


@every_input
def test_a_dynamic_linear_is_dynamic_quantize_linear_and_matmul_integer(kind):
    x = numbers(kind, 40, 2000)  # more terms than float32 can carry at once
    ours = DynamicQuantizedLinear(Linear(x.shape[1], 24, bias=False))
    weight, chosen = ours.weight, grid_of(x, "tensor")
    q = to_integers(x, chosen, "x")
    zero_points = uint8(chosen.zero_point), uint8(0)
    [sums] = by_onnx_runtime("MatMulInteger", uint8(q), uint8(weight.q.data), *zero_points)
    tensor = Tensor(q, dtype=np.int8)
    mine = linear_sums(tensor, weight.q, x_zero_point=chosen.zero_point)
    np.testing.assert_array_equal(mine.data, sums)
    scales = np.float32(chosen.scale) * weight.scale.data
    np.testing.assert_array_equal(ours(Tensor(x)).data, sums.astype(np.float32) * scales)


@pytest.mark.parametrize("per_channel", [True, False])
@every_input
def test_qlinear_matmul(kind, per_channel):
    x = numbers(kind, 40, 96)
    case = Case(Linear(x.shape[1], 24, bias=False), x, per_channel=per_channel)
    static, integer = case.static(), case.integer()
    scale = np.float32(case.weight.scale)
    grids = (
        (np.float32(case.x.scale), uint8(case.x.zero_point)),
        (scale, np.broadcast_to(uint8(0), scale.shape)),
        (np.float32(case.y.scale), uint8(case.y.zero_point)),
    )
    weight = uint8(static.q_weight.data)
    [theirs] = by_onnx_runtime(
        *("QLinearMatMul", uint8(case.q), *grids[0], weight, *grids[1], *grids[2])
    )
    theirs = theirs.astype(int) - 128
    np.testing.assert_array_equal(static(Tensor(x)).q, theirs)
    ours = integer(Tensor(case.q, dtype=np.int8)).data
    assert_within_a_step(ours, theirs, share=0.005)


@pytest.mark.parametrize("how", CONVOLUTIONS)
@every_input
def test_qlinear_conv_within_a_step(kind, how):
    x, case = convolution(kind, how)
    layer, ours = case.layer, case.integer()
    grids = (
        (np.float32(case.x.scale), uint8(case.x.zero_point)),
        (np.float32(case.scale_of(ours)), np.full(8, uint8(0))),
        (np.float32(case.y.scale), uint8(case.y.zero_point)),
    )
    [theirs] = by_onnx_runtime(
        *("QLinearConv", uint8(case.q), *grids[0], uint8(ours.q_weight.data), *grids[1]),
        *(*grids[2], ours.q_bias.data),
        strides=[layer.stride] * 2,
        pads=[layer.padding] * 4,
        dilations=[layer.dilation] * 2,
        group=layer.groups,
    )
    theirs = theirs.astype(int) - 128
    assert_within_a_step(ours(Tensor(case.q, dtype=np.int8)).data, theirs, share=0.005)
    assert_within_a_step(case.static()(Tensor(x)).q, theirs, share=0.005)


def test_a_dynamic_lstm_is_dynamic_quantize_lstm():
    """Of one sequence: in a batch ONNX Runtime chooses other grids for the hidden state."""
    lstm, x = LSTM(10, 8), numbers("random", 12, 1, 10)

    def gates(t):  # ours are i, f, g, o; ONNX's are i, o, f, g
        i, f, g, o = np.split(t.data, 4, axis=-1)
        return np.concatenate([i, o, f, g], axis=-1)[None]

    for bias in (lstm.bias_ih_l0, lstm.bias_hh_l0):
        bias.data[...] = random.standard_normal(bias.shape)
    ours = QuantizedLSTM(lstm)
    weights = ours.weight_ih_l0, ours.weight_hh_l0
    biases = np.concatenate([gates(ours.bias_ih_l0), gates(ours.bias_hh_l0)], axis=-1)
    grids = [
        part for weight in weights for part in (gates(weight.scale), np.zeros((1, 32), np.int8))
    ]
    theirs, *_ = by_onnx_runtime(
        *("DynamicQuantizeLSTM", x, *(gates(weight.q) for weight in weights), biases),
        *(None, None, None, None, *grids),
        domain="com.microsoft",
        hidden_size=8,
    )
    np.testing.assert_allclose(ours(Tensor(x))[0].data, theirs[:, 0], rtol=0, atol=1e-6)

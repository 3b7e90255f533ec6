"""Quantised layers and models against PyTorch and ONNX Runtime: the same integers.

Both get our integers: torch.quantize_per_tensor adds the zero point before it rounds, so that a few
numbers that lie almost between two marks go to the other one. Observers, fake quantisation and low
bits have files of their own (22 to 24); here are the inputs that those leave out.
"""

from functools import partial

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

from tinytorch.core.autograd import grad
from tinytorch.core.layers import Linear
from tinytorch.core.recurrent import LSTM
from tinytorch.core.spatial import AvgPool2d, Conv2d, MaxPool2d
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.optimization.dynamic import (
    DynamicQuantizedLinear,
    QuantizedEmbedding,
    QuantizedLSTM,
    grid_of,
)
from tinytorch.optimization.integer import IntegerConv2d, IntegerLinear, requantize
from tinytorch.optimization.observers import (
    Grid,
    MinMaxObserver,
    PerChannelMinMaxObserver,
)
from tinytorch.optimization.qat import ChosenGrid, fake_quantize
from tinytorch.optimization.static import (
    Quantize,
    QuantizedAvgPool2d,
    QuantizedConv2d,
    QuantizedMaxPool2d,
    QuantizedReLU,
    QuantizedTensor,
    StaticQuantizedLinear,
    linear_sums,
    requantized,
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
        self.x, y = chosen_for(x), layer(Tensor(x)).data
        self.y = chosen_for(np.maximum(y, 0) if relu else y)
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


def assert_within_a_step(ours, theirs, share):
    """Whole numbers that differ by 1 at most, and no more than this share of them."""
    steps = np.abs(ours.astype(int) - theirs)
    assert steps.max() <= 1
    assert steps.mean() <= share


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
    with engine("fbgemm"):
        case = Case(Linear(x.shape[1], 24, bias), x, relu, per_channel, fbgemm_saturates())
        ours = case.static()
        theirs = by_pytorch(
            *(case.layer, case.q, case.x, ours.q_weight.data, case.weight.scale, case.y, relu)
        )
    np.testing.assert_array_equal(ours(Tensor(x)).q, theirs)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@every_input
def test_an_integer_linear_is_qnnpacks_but_for_its_multiplier(kind, bias, relu):
    x = numbers(kind, 40, 96)
    case = Case(Linear(x.shape[1], 24, bias), x, relu)
    ours = case.integer()
    weight, scale = ours.q_weight.data, case.scale_of(ours)
    with engine("qnnpack"):
        theirs = by_pytorch(case.layer, case.q, case.x, weight, scale, case.y, relu)
    sums = ours.matmul(ours.centred(case.q), weight) + ours.q_bias.data
    products = np.float32(case.x.scale) * scale.astype(np.float32)
    steps = np.rint(sums.astype(np.float32) * (products / np.float32(case.y.scale)))
    lowest = case.y.zero_point if relu else -128
    formula = np.clip(steps + case.y.zero_point, lowest, 127)
    np.testing.assert_array_equal(formula, theirs)
    assert_within_a_step(ours(Tensor(case.q, dtype=np.int8)).data, theirs, share=0.02)


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
    with engine("fbgemm"):
        x, case = convolution(kind, how, relu=relu, reduce_range=fbgemm_saturates())
        ours = case.static()
        theirs = by_pytorch(
            *(case.layer, case.q, case.x, ours.q_weight.data, case.weight.scale, case.y, relu)
        )
    assert_within_a_step(ours(Tensor(x)).q, theirs, share=1e-3)


@pytest.mark.parametrize("how", CONVOLUTIONS)
@every_input
def test_an_integer_convolution_is_qnnpacks_within_a_step(kind, how):
    _, case = convolution(kind, how)
    ours = case.integer()
    with engine("qnnpack"):
        theirs = by_pytorch(
            *(case.layer, case.q, case.x, ours.q_weight.data, case.scale_of(ours), case.y)
        )
    assert_within_a_step(ours(Tensor(case.q, dtype=np.int8)).data, theirs, share=0.02)


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

"""Integer layers against PyTorch's qnnpack and ONNX Runtime, whose multipliers are floats.

qnnpack requantises `by_formula`, bit for bit; ours, whose multiplier is a fixed-point number and
whose product is rounded twice, is within one step of it.
"""

import numpy as np
import pytest

from tinytorch.core.layers import Linear
from tinytorch.core.spatial import Conv2d
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.optimization.integer import (
    IntegerConv2d,
    IntegerLinear,
    carried_matmul,
    integer_matmul,
)
from tinytorch.optimization.observers import Grid
from tinytorch.optimization.qat import ChosenGrid

torch = pytest.importorskip("torch", reason="compares with PyTorch")
random = np.random.default_rng()


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    random.bit_generator.state = np.random.default_rng(27).bit_generator.state
    manual_seed(27)


@pytest.fixture
def qnnpack():
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("this build of PyTorch has no qnnpack")
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, "qnnpack"
    yield
    torch.backends.quantized.engine = before


def grid(scale, zero_point=0, axis=None):
    return ChosenGrid(Grid(), scale, zero_point, axis)


INPUTS = {
    "random": lambda shape: random.integers(-128, 128, shape),
    "all zeros": lambda shape: np.zeros(shape, int),
    "constant": lambda shape: np.full(shape, 77),
    "one outlier": lambda shape: np.where(np.arange(np.prod(shape)).reshape(shape) == 5, 127, -3),
    "negative only": lambda shape: random.integers(-128, 0, shape),
    "positive only": lambda shape: random.integers(1, 128, shape),
}
ZERO_POINTS = [(0, 0), (-128, -128), (37, -90), (127, 64)]


def by_formula(sums, bias, product_scale, y, relu=False):
    """clip(round((acc + round(b / (sx sw))) (sx sw / sy)) + zy), the last product in float32."""
    sums = (sums + np.rint(bias / product_scale)).astype(np.float32)
    steps = np.rint(sums * (product_scale / y.scale).astype(np.float32))
    return np.clip(steps + y.zero_point, y.zero_point if relu else -128, 127)


def quint8(q, place):
    """int8 as qnnpack takes it: numbers and zero point moved up by 128."""
    raw = torch.tensor(q.data.astype(int) + 128).to(torch.uint8)
    return torch._make_per_tensor_quantized_tensor(raw, place.scale, place.zero_point + 128)


def qint8_weight(raw, scales, axis):
    """A symmetric weight, with a scale for each channel."""
    zeros = torch.zeros(len(scales), dtype=torch.long)
    return torch._make_per_channel_quantized_tensor(
        torch.tensor(raw), torch.tensor(scales), zeros, axis
    )


def scales_of(weight, axis, per_channel):
    """The scales of the output channels, as float32 numbers."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight.data).max(axis=others)
    if not per_channel:
        largest = np.full_like(largest, largest.max())
    return (largest / np.float32(127)).astype(np.float64)


def compared(layer, q, x, y, relu, per_channel):
    """Results of the formula, of qnnpack, and ours."""
    axis = 1 if isinstance(layer, Linear) else 0
    scales = scales_of(layer.weight, axis, per_channel)
    kind = IntegerLinear if axis else IntegerConv2d
    made = kind(layer, (x, grid(scales, 0 * scales, axis), y), relu=relu)
    centred, raw = q.data.astype(np.int64) - x.zero_point, made.q_weight.data
    bias = torch.tensor(layer.bias.data)
    if axis:
        sums, channels = centred @ raw.astype(np.int64), (-1,)
        packed = torch.ops.quantized.linear_prepack(qint8_weight(raw.T.copy(), scales, 0), bias)
        run = torch.ops.quantized.linear_relu if relu else torch.ops.quantized.linear
    else:
        how = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
        how = {key: [value] * 2 for key, value in how.items()} | {"groups": layer.groups}
        whole = torch.tensor(centred).double(), torch.tensor(raw).double()
        sums, channels = torch.nn.functional.conv2d(*whole, **how).numpy(), (-1, 1, 1)
        packed = torch.ops.quantized.conv2d_prepack(
            qint8_weight(raw, scales, 0), bias, *how.values()
        )
        run = torch.ops.quantized.conv2d_relu if relu else torch.ops.quantized.conv2d
    theirs = run(quint8(q, x), packed, y.scale, y.zero_point + 128).int_repr().numpy() - 128.0
    product_scale = (x.scale * scales).reshape(channels)
    formula = by_formula(sums, layer.bias.data.reshape(channels), product_scale, y, relu)
    return formula, theirs, made(q).data


def assert_equal_and_within_a_step(formula, theirs, ours):
    np.testing.assert_array_equal(formula, theirs)
    steps = np.abs(ours - theirs)
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.95


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("zero_points", ZERO_POINTS)
@pytest.mark.parametrize("kind", INPUTS)
def test_linear_is_qnnpacks(qnnpack, kind, zero_points, relu, per_channel):
    layer = Linear(60, 24)
    layer.bias = Tensor(random.normal(0, 0.3, 24))
    x, y = grid(2.0**-7, zero_points[0]), grid(0.0125, zero_points[1])
    q = Tensor(INPUTS[kind]((40, 60)), dtype=np.int8)
    assert_equal_and_within_a_step(*compared(layer, q, x, y, relu, per_channel))


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
@pytest.mark.parametrize("scale", [1e-9, 1e-3, 10.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (20, 7)])
def test_tiny_scales_and_single_elements(qnnpack, shape, scale):
    layer = Linear(shape[1], 5)
    layer.bias = Tensor(random.normal(0, scale, 5))
    q = Tensor(random.integers(-128, 128, shape), dtype=np.int8)
    y = grid(float(np.float32(scale * 2)), 11)
    x = grid(float(np.float32(scale)), -3)
    assert_equal_and_within_a_step(*compared(layer, q, x, y, False, True))


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
@pytest.mark.parametrize("how", [{}, {"padding": 2, "stride": 2}, {"dilation": 2, "groups": 2}])
@pytest.mark.parametrize("zero_points", ZERO_POINTS)
@pytest.mark.parametrize("relu", [False, True])
def test_conv2d_is_qnnpacks(qnnpack, zero_points, how, relu):
    layer = Conv2d(4, 8, 3, **how)
    x, y = grid(2.0**-7, zero_points[0]), grid(0.01, zero_points[1])
    q = Tensor(random.integers(-128, 128, (3, 4, 9, 8)), dtype=np.int8)
    assert_equal_and_within_a_step(*compared(layer, q, x, y, relu, True))


# --- ONNX Runtime ---
def onnx_run(kind, feeds, **types):
    """One node of ONNX by ONNX Runtime."""
    onnx = pytest.importorskip("onnx", reason="makes a graph for ONNX Runtime")
    runtime = pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in feeds.items()
    ]
    node = onnx.helper.make_node(kind, list(feeds), ["out"])
    out = onnx.helper.make_tensor_value_info("out", types["out"], None)
    graph = onnx.helper.make_graph([node], kind, inputs, [out])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10
    )
    return runtime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]


@pytest.mark.parametrize("dtypes", [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8")])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 30, 5), (3, 2000, 4)])
def test_products_are_matmul_integers(dtypes, shape):
    pytest.importorskip("onnx", reason="makes a graph for ONNX Runtime")
    from onnx import TensorProto

    n, k, m = shape
    a, b = (
        random.integers(np.iinfo(d).min, np.iinfo(d).max + 1, size, d)
        for d, size in zip(dtypes, ((n, k), (k, m)), strict=True)
    )
    theirs = onnx_run("MatMulInteger", {"a": a, "b": b}, out=TensorProto.INT32)
    for matmul in (integer_matmul, carried_matmul):
        np.testing.assert_array_equal(matmul(a, b), theirs)


@pytest.mark.parametrize("zero_points", ZERO_POINTS)
@pytest.mark.parametrize("kind", INPUTS)
def test_linear_is_qlinear_matmul_within_one_step(kind, zero_points):
    pytest.importorskip("onnx", reason="makes a graph for ONNX Runtime")
    from onnx import TensorProto

    layer = Linear(60, 24, bias=False)
    x, y = grid(2.0**-7, zero_points[0]), grid(0.0125, zero_points[1])
    scale = scales_of(layer.weight, 1, False)[:1]
    made = IntegerLinear(layer, (x, grid(float(scale[0])), y))
    q = INPUTS[kind]((40, 60)).astype(np.int8)
    feeds = {"a": q, "a_scale": np.float32(x.scale), "a_zero": np.int8(x.zero_point)}
    feeds |= {"b": made.q_weight.data, "b_scale": np.float32(scale[0]), "b_zero": np.int8(0)}
    feeds |= {"y_scale": np.float32(y.scale), "y_zero": np.int8(y.zero_point)}
    feeds = {name: np.asarray(value) for name, value in feeds.items()}
    theirs = onnx_run("QLinearMatMul", feeds, out=TensorProto.INT8)
    steps = np.abs(made(Tensor(q, dtype=np.int8)).data - theirs.astype(int))
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.95

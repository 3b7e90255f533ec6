"""Integer kernels against PyTorch's integer product and rounding, and ONNX Runtime's layers."""

import numpy as np
import pytest

from tinytorch.core.layers import Linear
from tinytorch.core.tensor import Tensor
from tinytorch.optimization import kernels
from tinytorch.optimization.kernels import (
    DYNAMIC,
    Int8Linear,
    accelerate,
    int8_kernel,
    offered_kernels,
    rounded_rows,
    target_features,
)
from tinytorch.optimization.lowbit import LowBitLinear
from tinytorch.optimization.quantization import QuantizedLinear

torch = pytest.importorskip("torch", reason="compares with PyTorch")
onnx = pytest.importorskip("onnx", reason="builds ONNX models")
onnxruntime = pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")

random = np.random.default_rng(28)


@pytest.fixture(autouse=True)
def same_numbers():
    """Each test draws the same numbers in any order."""
    random.bit_generator.state = np.random.default_rng(28).bit_generator.state


@pytest.fixture(params=offered_kernels(target_features()))
def kernel(request, monkeypatch):
    monkeypatch.setenv("TINYTORCH_KERNEL", request.param)
    int8_kernel.cache_clear()
    yield request.param
    int8_kernel.cache_clear()


def session(nodes, inputs, outputs, constants):
    """An ONNX model of these nodes, ready to run."""
    from onnx import helper, numpy_helper

    kinds = {"x": onnx.TensorProto.FLOAT, "u": onnx.TensorProto.UINT8, "y": onnx.TensorProto.FLOAT}
    kinds["sums"] = onnx.TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(kind, *ends, **options) for kind, *ends, options in nodes],
        "reference",
        [helper.make_tensor_value_info(name, kinds[name], None) for name in inputs],
        [helper.make_tensor_value_info(name, kinds[name], None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    where = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=where)


SHAPES = [(1, 4, 64), (1, 300, 70), (3, 17, 5), (6, 1024, 128), (40, 130, 65), (100, 64, 200)]


@pytest.mark.parametrize("rows, k, n", SHAPES)
@pytest.mark.parametrize("extreme", [False, True])
def test_sums_are_those_of_matmul_integer(kernel, rows, k, n, extreme):
    u = random.integers(0, 256, (rows, k)).astype(np.uint8)
    weight = random.integers(-128, 128, (k, n)).astype(np.int8)
    if extreme:
        u[:], weight[:] = 255, -128
    zero_point = np.array(131, np.uint8)
    nodes = [("MatMulInteger", ["u", "weight", "zero_point"], ["sums"], {})]
    constants = {"weight": weight, "zero_point": zero_point}
    [sums] = session(nodes, ["u"], ["sums"], constants).run(None, {"u": u})
    layer = Int8Linear(weight, 1.0, input_grid=(1.0, 131, 0, 255))
    got = layer(Tensor(u.astype(np.float32) - 131)).data
    np.testing.assert_allclose(got, sums, rtol=3e-7)
    if rows > 16:  # PyTorch's product of two int8 matrices
        centred = np.clip(u.astype(int) - 131, -128, 127).astype(np.int8)
        exact = torch._int_mm(torch.tensor(centred), torch.tensor(weight)).numpy()
        got = layer(Tensor(centred.astype(np.float32))).data
        np.testing.assert_allclose(got, exact, rtol=3e-7)


EDGES = {
    "normal": random.standard_normal((1, 60)),
    "positive": random.random((1, 60)),
    "negative": -random.random((1, 60)),
    "outlier": np.eye(1, 60, 7) * 1000 + 0.01,
    "tiny": random.standard_normal((1, 60)) * 1e-9,
    "constant": np.full((1, 60), 3.5),
}


@pytest.mark.parametrize("name", EDGES)
def test_one_row_is_what_onnx_runtime_makes_of_it(kernel, name):
    """For one row, a grid for each row and one for the tensor are the same."""
    x = EDGES[name].astype(np.float32)
    layer = QuantizedLinear(Linear(60, 50), symmetric=True, axis=1)
    nodes = [
        ("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero_point"], {}),
        ("MatMulInteger", ["q", "weight", "zero_point"], ["sums"], {}),
        ("Cast", ["sums"], ["whole"], {"to": onnx.TensorProto.FLOAT}),
        ("Mul", ["scale", "weight_scale"], ["scales"], {}),
        ("Mul", ["whole", "scales"], ["y"], {}),
    ]
    constants = {
        "weight": layer.q_weight.data,
        "weight_scale": layer.weight_scale.data.astype(np.float32),
    }
    [y] = session(nodes, ["x"], ["y"], constants).run(None, {"x": x})
    fast = accelerate(layer)
    fast.scales.data[1] = 0  # that model has no bias
    got = fast(Tensor(x)).data
    step = (np.maximum(x.max(), 0) - np.minimum(x.min(), 0)) / 255
    most = step * layer.weight_scale.data * 127 * 2  # two numbers between two marks, rounded apart
    assert (np.abs(got - y) <= most + 1e-6 * np.abs(y).max()).all()
    assert np.median(np.abs(got - y)) <= 1e-5 * np.abs(y).max() + most.max() / 4


@pytest.mark.parametrize("rows", [1, 9])
def test_rows_are_rounded_as_pytorch_rounds_channels(rows):
    x = random.standard_normal((rows, 200)).astype(np.float32)
    low, high = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
    scale = (high.astype(float) - low) / 255
    zero_point = np.rint(-low / scale)
    theirs = torch.fake_quantize_per_channel_affine(
        torch.tensor(x),
        torch.tensor(scale, dtype=torch.float32),
        torch.tensor(zero_point, dtype=torch.int32),
        0,
        0,
        255,
    )
    np.testing.assert_allclose(rounded_rows(x, DYNAMIC), theirs.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_dynamic_layers_are_closer_than_pytorch_ones(kernel, rows):
    """PyTorch keeps 7 bits of x on x86 and one grid for all rows; both stay near the floats."""
    linear = Linear(300, 80)
    theirs = torch.nn.Linear(300, 80)
    with torch.no_grad():
        theirs.weight[...] = torch.tensor(linear.weight.data.T)
        theirs.bias[...] = torch.tensor(linear.bias.data)
    dynamic = torch.ao.quantization.quantize_dynamic(
        torch.nn.Sequential(theirs), {torch.nn.Linear}, dtype=torch.qint8
    )
    x = random.standard_normal((rows, 300)).astype(np.float32)
    exact = linear(Tensor(x)).data
    ours = accelerate(QuantizedLinear(linear, symmetric=True, axis=1))(Tensor(x)).data
    with torch.no_grad():
        peer = dynamic(torch.tensor(x)).numpy()
    errors = [np.linalg.norm(y - exact) / np.linalg.norm(exact) for y in (ours, peer)]
    assert errors[0] < errors[1] < 0.05


@pytest.mark.parametrize("bits", [4, 8])
def test_weight_only_against_float64(kernel, bits):
    layer = LowBitLinear(Linear(256, 100), bits, 32)
    for rows in (1, 6):
        x = random.standard_normal((rows, 256)).astype(np.float32)
        weight = torch.tensor(layer.weight().data, dtype=torch.float64)
        exact = (torch.tensor(x, dtype=torch.float64) @ weight).numpy() + layer.bias.data
        got = accelerate(layer)(Tensor(x)).data
        assert np.linalg.norm(got - exact) < 5e-5 * np.linalg.norm(exact)
    assert kernels.WeightOnlyLinear is type(accelerate(layer))

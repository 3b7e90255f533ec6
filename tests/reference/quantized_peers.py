"""What quantised layers are compared with: kernels of PyTorch and ONNX Runtime, on our grids.

Activations are int8 here and uint8 in PyTorch: integers and zero points move up by 128.
"""

from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest


def pytorch():
    """PyTorch; the test is skipped where there is none."""
    return pytest.importorskip("torch", reason="compares with PyTorch")


@contextmanager
def engine(name):
    """PyTorch computes with the kernels of this name: "fbgemm" or "qnnpack"."""
    quantized = pytorch().backends.quantized
    if name not in quantized.supported_engines:
        pytest.skip(f"this PyTorch has no {name}")
    before, quantized.engine = quantized.engine, name
    try:
        yield
    finally:
        quantized.engine = before


def as_quint8(q, chosen):
    """Integers on a ChosenGrid as PyTorch takes them."""
    torch = pytorch()
    raw = torch.tensor((q.astype(np.int16) + 128).astype(np.uint8))
    return torch._make_per_tensor_quantized_tensor(raw, chosen.scale, chosen.zero_point + 128)


def integers_of(quint8):
    """The way back, as wide integers."""
    return quint8.int_repr().numpy().astype(int) - 128


def as_qint8(q_weight, scale):
    """A symmetric weight, ours of Linear (K, M) turned, with one scale or those of its channels."""
    torch = pytorch()
    raw = torch.tensor(np.ascontiguousarray(q_weight.T if q_weight.ndim == 2 else q_weight))
    if np.ndim(scale) == 0:
        return torch._make_per_tensor_quantized_tensor(raw, scale, 0)
    zeros = torch.zeros(len(scale), dtype=torch.long)
    return torch._make_per_channel_quantized_tensor(raw, torch.tensor(scale), zeros, 0)


def by_pytorch(layer, q, x, q_weight, weight_scale, y, relu=False):
    """What PyTorch's kernel gives on the grid y for integers q on the grid x.

    `layer` is our float Linear or Conv2d: it has the bias, and says how to convolve.
    """
    torch = pytorch()
    weight = as_qint8(q_weight, weight_scale)
    bias = None if layer.bias is None else torch.tensor(layer.bias.data)
    if q_weight.ndim == 2:
        kind, packed = "linear", torch.ops.quantized.linear_prepack(weight, bias)
    else:
        how = [[number] * 2 for number in (layer.stride, layer.padding, layer.dilation)]
        packed = torch.ops.quantized.conv2d_prepack(weight, bias, *how, layer.groups)
        kind = "conv2d"
    kernel = getattr(torch.ops.quantized, kind + "_relu" * relu)
    return integers_of(kernel(as_quint8(q, x), packed, y.scale, y.zero_point + 128))


@cache
def fbgemm_saturates():
    """Do its sums of two products overflow 16 bits, as on an x86 CPU without VNNI?"""
    torch = pytorch()
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    with engine("fbgemm"):
        weight = as_qint8(np.full((64, 16), 127, np.int8), 1.0)
        packed = torch.ops.quantized.linear_prepack(weight, None)
        x = torch.quantize_per_tensor(torch.full((1, 64), 255.0), 1.0, 0, torch.quint8)
        y = torch.ops.quantized.linear(x, packed, 2.0**14, 0)
    return y.int_repr().max().item() != round(64 * 255 * 127 / 2**14)


def by_onnx_runtime(kind, *inputs, outputs=1, domain="", **attributes):
    """The results of one ONNX operator; an input may be None."""
    onnx = pytest.importorskip("onnx", reason="writes operators for ONNX Runtime")
    runtime = pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")
    helper = onnx.helper
    feeds = {f"x{i}": np.asarray(x) for i, x in enumerate(inputs) if x is not None}
    # constants, as some operators demand of their weights
    constants = [onnx.numpy_helper.from_array(x, name) for name, x in feeds.items()][1:]
    dtype = helper.np_dtype_to_tensor_dtype(feeds["x0"].dtype)
    given = helper.make_tensor_value_info("x0", dtype, feeds["x0"].shape)
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(kind, names, results, domain=domain, **attributes)
    made = [helper.make_empty_tensor_value_info(name) for name in results]
    graph = helper.make_graph([node], kind, [given], made, initializer=constants)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=10)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x0": feeds["x0"]})

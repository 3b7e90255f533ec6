"""INT8 layers beside FP32 ones, PyTorch's and ONNX Runtime's: time, and error against FP32.

python benchmarks/int8_linear.py [--quick] [--json PATH] [--check]

Layers of 1024 and 4096 square, batches of 1, 32 and 256, with one thread and with two; weights of
8 and 4 bits, batch 1, on 8 layers in turn that no cache holds; and a child process for a CPU
without VNNI. INT8 is `accelerate` on an uncalibrated QuantizedLinear, one scale a column: each row
is quantised as it comes, as PyTorch and ONNX Runtime do with the whole batch.
"""

from common import THREADS, Row, arguments, interleave, report  # isort: skip (pins the threads)

import copy
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["NUMBA_NUM_THREADS"] = THREADS
os.environ["OMP_WAIT_POLICY"] = "passive"  # nobody's idle threads spin where others work

import numpy as np

from tinytorch import (
    LowBitLinear,
    QuantizedLinear,
    Tensor,
    accelerate,
    int8_kernel,
    manual_seed,
    nn,
    no_grad,
)

PART = "TINYTORCH_BENCH_PART"  # what a child process measures
NO_VNNI = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}
CELLS = [(size, batch) for size in (1024, 4096) for batch in (1, 32, 256)]
FASTER = {(1024, 1): 3.0, (1024, 32): 6.0, (1024, 256): 3.5}  # than our own FP32 Linear
PEER = 1 / 0.95  # of ONNX Runtime's time
NOISE = 1.05  # what two measurements of the same may differ by


def error(y, exact) -> float:
    """The root of the mean square of the error, relative to that of the exact result."""
    return float(np.linalg.norm(np.asarray(y) - exact) / np.linalg.norm(exact))


def onnx_session(layer: QuantizedLinear):
    """DynamicQuantizeLinear, MatMulInteger and the way back, in ONNX Runtime."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    size_in, size_out = layer.q_weight.shape
    constants = {
        "weight": layer.q_weight.data,
        "weight_scale": layer.weight_scale.data.astype(np.float32),
        "bias": np.zeros(size_out, np.float32),
    }
    nodes = [
        ("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero_point"], {}),
        ("MatMulInteger", ["q", "weight", "zero_point"], ["sums"], {}),
        ("Cast", ["sums"], ["whole"], {"to": TensorProto.FLOAT}),
        ("Mul", ["scale", "weight_scale"], ["scales"], {}),
        ("Mul", ["whole", "scales"], ["product"], {}),
        ("Add", ["product", "bias"], ["y"], {}),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, *ends, **options) for kind, *ends, options in nodes],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", size_in])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", size_out])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(THREADS), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    where = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=where)


def contenders(size: int, batch: int, peers: bool) -> tuple[dict, np.ndarray]:
    """Functions by name that compute the same layer on the same rows, and the exact result."""
    manual_seed(0)
    layer = nn.Linear(size, size, bias=True).requires_grad_(False)
    layer.bias.data[...] = 0
    x = np.random.default_rng(0).standard_normal((batch, size), np.float32)
    quantized = QuantizedLinear(layer, symmetric=True, axis=1)
    fast, rows, weight = accelerate(quantized), Tensor(x), layer.weight.data
    runs = {"INT8": lambda: fast(rows), "FP32": lambda: layer(rows), "NumPy": lambda: x @ weight}
    if peers:
        import torch

        torch.set_num_threads(int(THREADS))
        theirs = torch.nn.Linear(size, size).requires_grad_(False)
        theirs.weight[...], theirs.bias[...] = torch.tensor(weight.T.copy()), 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the functions are deprecated, and still there
            dynamic = torch.ao.quantization.quantize_dynamic(
                torch.nn.Sequential(theirs), {torch.nn.Linear}
            )
        session, tensor = onnx_session(quantized), torch.tensor(x)
        runs["PyTorch"] = lambda: theirs(tensor)
        runs["PyTorch INT8"] = lambda: dynamic(tensor)
        runs["ONNX RT INT8"] = lambda: session.run(None, {"x": x})[0]
    return runs, x.astype(np.float64) @ weight


def compare(cells: list[tuple[int, int]], seconds: float, peers: bool) -> list[Row]:
    """Our INT8 beside our FP32, and the rest."""
    rows = []
    for size, batch in cells:
        runs, exact = contenders(size, batch, peers)
        one = 5e-5 + batch * size**2 * 1e-11  # seconds, roughly: turns of some milliseconds
        repeat, rounds = max(1, round(4e-3 / one)), round(seconds / (6 * max(4e-3, one)))
        medians = interleave(f"{batch} x {size}", runs, max(rounds, 11), repeat)
        gains = {"faster": f"{medians['FP32'] / medians['INT8']:.1f}x"}
        notes = {
            f"error {who}": f"{error(runs[who](), exact):.4f}" for who in runs if "INT8" in who
        }
        limit = 1 / FASTER[size, batch] if (size, batch) in FASTER and THREADS == "1" else None
        rows.append(Row(f"batch {batch}, {size} square", medians, limit, notes=gains | notes))
    return rows


def beside_onnx(rows: list[Row]) -> list[Row]:
    """The same medians, with the limit for ONNX Runtime."""
    who, limit = ("INT8", "ONNX RT INT8"), PEER if THREADS == "1" else None
    return [Row(row.name, {name: row.medians[name] for name in who}, limit) for row in rows]


def weight_only(rounds: int, size: int = 4096, count: int = 8) -> list[Row]:
    """One row through layers that no cache holds, in turn: bytes decide."""
    manual_seed(0)
    layer = nn.Linear(size, size, bias=False).requires_grad_(False)
    x = Tensor(np.random.default_rng(0).standard_normal((1, size), np.float32))
    exact = x.data.astype(np.float64) @ layer.weight.data
    weights = [layer.weight.data.copy() for _ in range(count)]
    runs = {"FP32": lambda: [x.data @ weight for weight in weights]}
    errors = {}
    for bits in (8, 4):
        fast = accelerate(LowBitLinear(layer, bits, group_size=128))
        layers = [copy.deepcopy(fast) for _ in range(count)]
        runs[f"INT{bits}"] = lambda layers=layers: [fast(x) for fast in layers]
        errors[bits] = f"{error(fast(x).data, exact):.4f}"
    medians = interleave("weight-only", runs, rounds)
    sgemv, int8, int4 = (medians[who] / count for who in ("FP32", "INT8", "INT4"))
    most = (1 / 2.3, 1 / 1.3) if THREADS == "1" else (None, None)
    return [
        Row("8 bits, sgemv", {"low": int8, "high": sgemv}, most[0], notes={"error": errors[8]}),
        Row("4 bits, 8 bits", {"low": int4, "high": int8}, most[1], notes={"error": errors[4]}),
    ]


def without_vnni(seconds: float) -> list[Row]:
    """Where integers lose: never slower than FP32, on a CPU of 2013."""
    cells = [cell for cell in CELLS if cell[0] == 1024]
    rows = compare(cells, seconds, peers=False)
    return [Row(row.name, row.medians, NOISE, notes=row.notes) for row in rows]


def measure(part: str, quick: bool) -> dict[str, list[Row]]:
    """The tables of one process."""
    seconds = 2.0 if quick else 15.0
    with no_grad():
        if part == "no VNNI":
            return {f"no VNNI, kernel {int8_kernel()}": without_vnni(seconds)}
        title = f"threads {THREADS}, kernel {int8_kernel()}"
        rows = compare(CELLS, seconds, peers=True)
        return {
            title: rows,
            f"{title}, beside ONNX Runtime": beside_onnx(rows),
            f"{title}, weight-only, 8 layers of 4096 square": weight_only(7 if quick else 41),
        }


def child(part: str, quick: bool, **environment: str) -> dict[str, list[Row]]:
    """The tables of another process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tables.json"
        command = [sys.executable, __file__, "--json", str(path), *["--quick"] * quick]
        subprocess.run(command, env={**os.environ, PART: part, **environment}, check=True)
        tables = json.loads(path.read_text())
    return {title: [Row(**row) for row in rows] for title, rows in tables.items()}


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    part = os.environ.get(PART, "")
    tables = measure(part, options.quick)
    if part:
        plain = {title: [vars(row) for row in rows] for title, rows in tables.items()}
        options.json.write_text(json.dumps(plain))
    else:
        tables |= child("threads", options.quick, TINYTORCH_BENCH_THREADS="2")
        tables |= child("no VNNI", options.quick, **NO_VNNI)
        report(tables, options)

# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp profiling.profiler

# %% [markdown]
r"""
# Profiling

> Count, time and weigh every operation of a network.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
from __future__ import annotations

import functools
import html
import json
import math
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinytorch.core.autograd import explicit_subscripts, no_grad, producers_first
from tinytorch.core.layers import Module
from tinytorch.core.tensor import Tensor, watching

# %% [markdown]
r"""
## Counting
"""


# %% nbgrader={"grade": false, "grade_id": "count-parameters", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def count_parameters(model: Module) -> int:
    """The number of numbers that training changes; a shared tensor counts once.

    >>> from tinytorch.core.layers import Linear
    >>> count_parameters(Linear(3, 2))
    8
    """
    ### BEGIN SOLUTION
    if not hasattr(model, "parameters"):  # an activation has none
        return 0
    return sum(p.size for p in model.parameters())
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "flops-matmul", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def matmul_flops(inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """One multiplication and one addition for each inner element of each result: 2 out.size K.

    >>> matmul_flops((np.ones((2, 3)), np.ones((3, 4))), {}, np.ones((2, 4)))
    48
    """
    ### BEGIN SOLUTION
    return 2 * out.size * inputs[0].shape[-1]
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "flops-linear", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def linear_flops(inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """The product x @ weight, and one addition for each result where there is a bias.

    >>> linear_flops((np.ones((2, 3)), np.ones((3, 4)), np.ones(4)), {}, np.ones((2, 4)))
    56
    """
    ### BEGIN SOLUTION
    bias = len(inputs) > 2 and inputs[2] is not None
    return matmul_flops(inputs, params, out) + (out.size if bias else 0)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "flops-einsum", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def einsum_flops(inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """A multiplication for each factor but the first, and an addition, for each choice of letters.

    >>> einsum_flops(("ij,jk->ik", np.ones((2, 3)), np.ones((3, 4))), {}, np.ones((2, 4)))
    48
    """
    ### BEGIN SOLUTION
    subscripts, *arrays = inputs
    terms, _ = explicit_subscripts(subscripts, [a.ndim for a in arrays])
    sizes: dict[str, int] = {}
    for term, array in zip(terms, arrays, strict=True):
        for letter, size in zip(term, array.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return len(arrays) * math.prod(sizes.values())
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "flops-table", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _each_input(inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """A reduction reads every element of its input once."""
    return inputs[0].size


def _nothing(inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """Moving numbers about is no arithmetic."""
    return 0


def _five_each(inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """Maximum, subtraction, exponential, sum and division, for each element of a softmax."""
    return 5 * inputs[0].size


# op's name -> flops(inputs, params, out); an op that is not here counts one for each result
FLOPS: dict[str, Callable[[tuple, Mapping[str, Any], Any], int]] = {
    "matmul": matmul_flops,
    "linear": linear_flops,
    "einsum": einsum_flops,
    "softmax": _five_each,
    "log_softmax": _five_each,
    "cross_entropy": _five_each,
    **dict.fromkeys(
        ("sum_", "mean", "max_", "min_", "prod", "cumsum", "any_", "all_"), _each_input
    ),
    **dict.fromkeys(("argmax", "argmin", "scatter_add"), _each_input),
    "var": lambda inputs, params, out: 3 * inputs[0].size,
    **dict.fromkeys(("reshape", "permute", "swapaxes", "broadcast_to", "getitem"), _nothing),
    **dict.fromkeys(("concatenate", "put", "copy", "astype"), _nothing),
}


def flops_of(op: Callable, inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """Floating-point operations of one call, by the table."""
    count = FLOPS.get(op.__name__)
    return out.size if count is None else count(inputs, params, out)


# %% [markdown]
r"""
## Watching
"""


# %% nbgrader={"grade": false, "grade_id": "op-call", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@dataclass(frozen=True)
class OpCall:
    """One operation that ran: what, when (ns), how long (ns), and how much."""

    name: str
    shapes: tuple[tuple[int, ...], ...]  # of the inputs that are arrays
    out_shape: tuple[int, ...]
    start_ns: int
    duration_ns: int
    flops: int
    bytes_moved: int  # every input read once, the result written once
    thread: int


class Trace:
    """A watcher that writes down every operation of a `with profile()`."""

    def __init__(self):
        self.calls: list[OpCall] = []
        self._start = 0

    def before(self, op: Callable, inputs: tuple, params: Mapping[str, Any]) -> None:
        self._start = time.perf_counter_ns()

    def __call__(self, op: Callable, inputs: tuple, params: Mapping[str, Any], out: Tensor) -> None:
        end = time.perf_counter_ns()
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        numbers = [x for x in arrays if isinstance(x, np.ndarray)]
        self.calls.append(
            OpCall(
                name=op.__name__.strip("_"),
                shapes=tuple(x.shape for x in numbers),
                out_shape=out.shape,
                start_ns=self._start,
                duration_ns=end - self._start,
                flops=flops_of(op, tuple(arrays), params, out.data),
                bytes_moved=bytes_moved(numbers, out.data),
                thread=threading.get_ident(),
            )
        )

    @property
    def flops(self) -> int:
        """The floating-point operations of all calls."""
        return sum(call.flops for call in self.calls)

    def table(self) -> list[dict[str, Any]]:
        """One row for each op: name, calls, total milliseconds, share of the time, flops, bytes."""
        return by_op(self.calls)

    def __str__(self) -> str:
        lines = [f"{'op':14}{'calls':>7}{'ms':>10}{'share':>8}{'MFLOP':>10}{'GFLOP/s':>9}{'MB':>9}"]
        for row in self.table():
            lines.append(
                f"{row['op']:14}{row['calls']:7}{row['latency_ms']:10.3f}{row['share']:8.1%}"
                f"{row['flops'] / 1e6:10.2f}{row['gflops_per_second']:9.2f}"
                f"{row['bytes_moved'] / 1e6:9.2f}"
            )
        return "\n".join(lines)

    def save_chrome(self, path: str | os.PathLike) -> None:
        """Write a file for chrome://tracing and ui.perfetto.dev: one bar for each call."""
        text = json.dumps({"traceEvents": chrome_events(self.calls), "displayTimeUnit": "ms"})
        _write_text(Path(path), text)


@contextmanager
def profile() -> Iterator[Trace]:
    """Write down every operation of a `with`, in this thread.

    >>> with profile() as trace:
    ...     y = Tensor([[1, 2]]) @ Tensor([[3], [4]]) + 1
    >>> [(call.name, call.flops) for call in trace.calls]
    [('matmul', 4), ('add', 1)]
    """
    trace = Trace()
    with watching("profiler", trace):
        yield trace


# %% nbgrader={"grade": false, "grade_id": "bytes-moved", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def bytes_moved(inputs: Iterable[np.ndarray], out: np.ndarray) -> int:
    """The bytes that an operation must move at least: inputs read once, the result written once.

    A result that shows an input's memory (a view) moves _nothing.
    """
    ### BEGIN SOLUTION
    inputs = list(inputs)
    if any(np.may_share_memory(x, out) for x in inputs):
        return 0
    return sum(x.nbytes for x in inputs) + out.nbytes
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "by-op", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def by_op(calls: Iterable[OpCall]) -> list[dict[str, Any]]:
    """The calls added up by op's name, the slowest first.

    Keys: op, calls, latency_ms, share (of all the time), flops, bytes_moved, gflops_per_second.
    """
    ### BEGIN SOLUTION
    rows: dict[str, dict[str, Any]] = {}
    for call in calls:
        row = rows.setdefault(
            call.name, {"op": call.name, "calls": 0, "ns": 0, "flops": 0, "bytes_moved": 0}
        )
        row["calls"] += 1
        row["ns"] += call.duration_ns
        row["flops"] += call.flops
        row["bytes_moved"] += call.bytes_moved
    total = sum(row["ns"] for row in rows.values())
    for row in rows.values():
        ns = row.pop("ns")
        row["latency_ms"], row["share"] = ns / 1e6, ns / max(total, 1)
        row["gflops_per_second"] = row["flops"] / max(ns, 1)
    return sorted(rows.values(), key=lambda row: -row["latency_ms"])
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "chrome-events", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def chrome_events(calls: Iterable[OpCall]) -> list[dict[str, Any]]:
    """The calls as complete events ("ph": "X") of Chrome's trace format: times in microseconds,
    counted from the first call.

    Source: Trace Event Format, Google, 2016, section "Complete Events".
    """
    ### BEGIN SOLUTION
    calls = list(calls)
    origin = min((call.start_ns for call in calls), default=0)
    return [
        {
            "name": call.name,
            "cat": "op",
            "ph": "X",
            "ts": (call.start_ns - origin) / 1000,
            "dur": call.duration_ns / 1000,
            "pid": os.getpid(),
            "tid": call.thread,
            "args": {"in": str(call.shapes), "out": str(call.out_shape), "flops": call.flops},
        }
        for call in calls
    ]
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "write-text", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _write_text(path: Path, text: str) -> None:
    """Write a file in one step: a reader finds the old one or the new one, never half of it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


# %% [markdown]
r"""
## Time
"""


# %% nbgrader={"grade": false, "grade_id": "latency", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def latency(action: Callable[[], Any], warmup: int = 3, iterations: int = 30) -> dict[str, float]:
    """Time an action: the median, and the interval that holds the middle 80 % of the runs, in ms.

    The first runs fill caches and are not counted. Keys: median_ms, low_ms, high_ms.
    """
    ### BEGIN SOLUTION
    if iterations < 1:
        raise ValueError(f"latency: iterations must be at least 1, got {iterations}")
    for _ in range(warmup):
        action()
    times = []
    for _ in range(iterations):
        start = time.perf_counter_ns()
        action()
        times.append((time.perf_counter_ns() - start) / 1e6)
    low, median, high = np.percentile(times, [10, 50, 90]).tolist()
    return {"median_ms": median, "low_ms": low, "high_ms": high}
    ### END SOLUTION


# %% [markdown]
r"""
## Memory
"""


# %% nbgrader={"grade": false, "grade_id": "activation-bytes", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def activation_bytes(output: Tensor) -> int:
    """The bytes that the graph behind `output` keeps alive for backward, parameters left out.

    Every array that an operation made or read counts once, whatever number of views show it; what
    a leaf that requires a gradient holds is a parameter.
    """
    ### BEGIN SOLUTION
    kept: dict[int, int] = {}
    parameters: set[int] = set()
    for made in producers_first(output):
        if made.node is None:
            parameters.add(id(_owner_of(made.data)))
            continue
        for x in (made, *made.node.inputs):
            if isinstance(x, Tensor):
                array = _owner_of(x.data)
                kept[id(array)] = array.nbytes
    return sum(size for array, size in kept.items() if array not in parameters)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "owner-of", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _owner_of(array: np.ndarray) -> np.ndarray:
    """The array whose memory a view shows; an array that is no view is its own owner."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def peak_bytes(action: Callable[[], Any]) -> int:
    """The most memory that an action holds at a time, beyond what was held before."""
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not was_tracing:
            tracemalloc.stop()


# %% [markdown]
r"""
## The machine's limits
"""


# %% nbgrader={"grade": false, "grade_id": "machine", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@dataclass(frozen=True)
class Machine:
    """What this machine can do at best: arithmetic by a large matrix product, memory by a copy."""

    gflops_per_second: float
    gigabytes_per_second: float
    call_us: float  # of the smallest NumPy call: what an operation costs before it computes

    @property
    def ridge(self) -> float:
        """FLOP per byte above which arithmetic, not memory, is the limit."""
        return self.gflops_per_second / self.gigabytes_per_second


@functools.cache
def this_machine(size: int = 1024, copied_mb: int = 64) -> Machine:
    """Measure the limits, once a process: the best of several runs, in float32."""
    a = np.ones((size, size), np.float32)
    out = np.empty_like(a)
    product = min(_seconds(lambda: np.matmul(a, a, out=out)) for _ in range(5))
    source = np.ones(copied_mb * 1024 * 256, np.float32)
    target = np.empty_like(source)
    copying = min(_seconds(lambda: np.copyto(target, source)) for _ in range(5))
    one = np.ones(1, np.float32)
    call = min(_seconds(lambda: np.multiply(one, one, out=one)) for _ in range(200))
    return Machine(2 * size**3 / product / 1e9, 2 * source.nbytes / copying / 1e9, call * 1e6)


def _seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


# %% nbgrader={"grade": false, "grade_id": "roofline", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def roofline(flops: float, moved: float, machine: Machine) -> float:
    """The GFLOP/s that work of this intensity can reach at best: min(peak, bandwidth * intensity).

    Williams, Waterman, Patterson 2009, section 3. Work that moves _nothing is bounded by the peak.

    >>> roofline(100, 50, Machine(gflops_per_second=80, gigabytes_per_second=10, call_us=1))
    20.0
    """
    ### BEGIN SOLUTION
    if moved == 0:
        return float(machine.gflops_per_second)
    return float(min(machine.gflops_per_second, machine.gigabytes_per_second * flops / moved))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "bottleneck", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def bottleneck(flops: float, moved: float, latency_ms: float, machine: Machine) -> str:
    """What holds work back: "compute", "memory" or, where it takes over ten times as long as
    arithmetic and memory together explain, "overhead" (Python and the calls themselves).

    >>> machine = Machine(gflops_per_second=100, gigabytes_per_second=10, call_us=1)
    >>> bottleneck(1e9, 1e6, 11.0, machine), bottleneck(1e6, 1e8, 11.0, machine)
    ('compute', 'memory')
    """
    ### BEGIN SOLUTION
    compute_ms = flops / machine.gflops_per_second / 1e6
    memory_ms = moved / machine.gigabytes_per_second / 1e6
    if latency_ms > 10 * (compute_ms + memory_ms):
        return "overhead"
    return "compute" if compute_ms >= memory_ms else "memory"
    ### END SOLUTION


# %% [markdown]
r"""
## The profiler
"""

# %% nbgrader={"grade": false, "grade_id": "profiler", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
_MB = 1e6  # bytes


class Profiler:
    """Measurements of a model or layer on an input: counted, timed, weighed.

    Latencies are medians, in milliseconds; megabytes are 10^6 bytes.

    >>> from tinytorch.core.layers import Linear
    >>> from tinytorch.core.tensor import ones
    >>> Profiler().count_flops(Linear(10, 5), ones(32, 10))
    3360
    """

    def __init__(self, warmup: int = 3, iterations: int = 30):
        self.warmup, self.iterations = warmup, iterations

    def count_parameters(self, model: Any) -> int:
        """The number of numbers that training changes."""
        return count_parameters(model)

    def count_flops(self, model: Callable, x: Tensor) -> int:
        """Floating-point operations of model(x): of the ops that really ran, batch included."""
        return self._forward(model, x).flops

    def measure_latency(self, model: Callable, x: Tensor) -> dict[str, float]:
        """Time of model(x), without a graph: median_ms, low_ms, high_ms."""
        with no_grad():
            return latency(lambda: model(x), self.warmup, self.iterations)

    def measure_memory(self, model: Any, x: Tensor) -> dict[str, float]:
        """Of the parameters, of what backward needs, and the peak of a forward and a backward pass.

        Keys: parameter_memory_mb, activation_memory_mb, peak_memory_mb.
        """
        parameters = list(model.parameters()) if hasattr(model, "parameters") else []
        output = model(x)
        kept = activation_bytes(output) if output.requires_grad else 0
        del output
        before = [p.grad for p in parameters]
        try:
            peak = peak_bytes(lambda: _forward_backward(model, x))
        finally:
            _restore(parameters, before)
        held = sum(p.nbytes for p in parameters)
        return {
            "parameter_memory_mb": held / _MB,
            "activation_memory_mb": kept / _MB,
            "peak_memory_mb": (held + peak) / _MB,
        }

    def profile_layer(self, layer: Any, x: Tensor) -> dict[str, Any]:
        """Everything about layer(x): the keys of profile_forward_pass and of measure_memory."""
        return {
            "layer": type(layer).__name__,
            **self.profile_forward_pass(layer, x),
            **self.measure_memory(layer, x),
        }

    def profile_forward_pass(self, model: Any, x: Tensor) -> dict[str, Any]:
        """parameters, flops, bytes_moved, latency_ms, gflops_per_second, bottleneck, the GFLOP/s that
        the machine allows at this intensity (roofline_gflops_per_second), and ops: a row for each.
        """
        took = self.measure_latency(model, x)
        return self._summary(model, self._forward(model, x), took)

    def profile_backward_pass(self, model: Any, x: Tensor) -> dict[str, Any]:
        """The same keys for the backward pass of model(x).sum().

        Its operations are those that really run: the walk is recorded by `create_graph`, once, and
        timed without.
        """
        parameters = list(model.parameters()) if hasattr(model, "parameters") else []
        before = [p.grad for p in parameters]
        runs = []
        try:
            for _ in range(self.warmup + self.iterations):
                loss = model(x).sum()
                start = time.perf_counter_ns()
                loss.backward()
                runs.append((time.perf_counter_ns() - start) / 1e6)
            loss = model(x).sum()
            with profile() as trace:
                loss.backward(create_graph=True)
        finally:
            _restore(parameters, before)
        low, median, high = np.percentile(runs[self.warmup :], [10, 50, 90]).tolist()
        return self._summary(model, trace, {"median_ms": median, "low_ms": low, "high_ms": high})

    def _forward(self, model: Callable, x: Tensor) -> Trace:
        with no_grad(), profile() as trace:
            model(x)
        return trace

    def _summary(self, model: Any, trace: Trace, took: dict[str, float]) -> dict[str, Any]:
        flops, moved = trace.flops, sum(call.bytes_moved for call in trace.calls)
        machine = this_machine()
        return {
            "parameters": count_parameters(model),
            "flops": flops,
            "bytes_moved": moved,
            "latency_ms": took["median_ms"],
            "latency_low_ms": took["low_ms"],
            "latency_high_ms": took["high_ms"],
            "gflops_per_second": flops / took["median_ms"] / 1e6,
            "roofline_gflops_per_second": roofline(flops, moved, machine),
            "bottleneck": bottleneck(flops, moved, took["median_ms"], machine),
            "ops": trace.table(),
        }


def _forward_backward(model: Callable, x: Tensor) -> None:
    loss = model(x).sum()
    if loss.requires_grad:
        loss.backward()


def _restore(parameters: list[Tensor], gradients: list[Any]) -> None:
    """Give parameters back the gradients that they had before a measurement."""
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g


# %% [markdown]
r"""
## The graph as a picture
"""


# %% nbgrader={"grade": false, "grade_id": "graph-depths", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def graph_depths(tensors: list[Tensor]) -> dict[int, int]:
    """How deep each tensor lies, by id: a leaf 0, a result one more than its deepest input.

    `tensors` has producers before consumers, as `producers_first` gives them.
    """
    ### BEGIN SOLUTION
    depths: dict[int, int] = {}
    for tensor in tensors:
        inputs = tensor.node.inputs if tensor.node else ()
        known = [depths[id(x)] for x in inputs if id(x) in depths]
        depths[id(tensor)] = 1 + max(known) if known else 0
    return depths
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "draw-graph", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@dataclass
class GraphDrawing:
    """A drawing of what a tensor was computed from, as SVG; Jupyter shows it."""

    svg: str
    path: Path | None = field(default=None)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | os.PathLike) -> None:
        """Write the drawing to a .svg file."""
        _write_text(Path(path), self.svg)


def draw_graph(
    output: Tensor, names: Mapping[str, Tensor] | None = None, most: int = 200
) -> GraphDrawing:
    """Draw the recorded operations behind `output`: leaves on top, each row one step deeper.

    `names` label leaves (`dict(model.named_parameters())`). Raises ValueError above `most` tensors.

    >>> x = Tensor([1.0], requires_grad=True)
    >>> "mul" in draw_graph(x * 2).svg
    True
    """
    tensors = producers_first(output)
    if len(tensors) > most:
        raise ValueError(
            f"draw_graph: {len(tensors)} tensors make no readable picture (most={most}): "
            "draw a smaller model, or a part of it"
        )
    known = {id(tensor): name for name, tensor in (names or {}).items()}
    depths = graph_depths(tensors)
    rows: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        rows.setdefault(depths[id(tensor)], []).append(tensor)
    wide, high, box = 130, 70, 34
    width = wide * max(map(len, rows.values()))
    place = {
        id(tensor): ((i + 0.5) * width / len(row), (depth + 0.5) * high)
        for depth, row in rows.items()
        for i, tensor in enumerate(row)
    }
    lines, boxes = [], []
    for tensor in tensors:
        x, y = place[id(tensor)]
        for source in tensor.node.inputs if tensor.node else ():
            if id(source) in place:
                sx, sy = place[id(source)]
                lines.append(
                    f'<line x1="{sx:.0f}" y1="{sy + box / 2:.0f}" x2="{x:.0f}" '
                    f'y2="{y - box / 2:.0f}"'
                    ' stroke="black" marker-end="url(#arrow)"/>'
                )
        label = tensor.node.op.__name__.strip("_") if tensor.node else known.get(id(tensor), "leaf")
        fill = "white" if tensor.node else "#dddddd"
        boxes.append(
            f'<rect x="{x - 56:.0f}" y="{y - box / 2:.0f}" width="112" height="{box}" rx="6" '
            f'fill="{fill}" stroke="black"/><text x="{x:.0f}" y="{y - 2:.0f}">{html.escape(label)}'
            f'</text><text x="{x:.0f}" y="{y + 12:.0f}" font-size="10">{tensor.shape}</text>'
        )
    return GraphDrawing(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{high * len(rows)}" '
        'font-family="sans-serif" font-size="12" text-anchor="middle"><defs><marker id="arrow" '
        'viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z"/></marker></defs>{"".join(lines + boxes)}</svg>'
    )

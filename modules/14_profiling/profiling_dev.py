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

Time: 3 hours. You can train a network by now. Before you make one faster or smaller (that is what the next modules do), you need to know
where its time and its bytes go. Guesses about that are wrong so often that it pays to write one down before each measurement below.
"""

# %%
from tito.whose import whose_tinytorch

whose_tinytorch()

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
from tinytorch.core.training import write_atomically

# %%
import tempfile

import tinytorch
from tinytorch.core.activations import GELU, ReLU, softmax
from tinytorch.core.layers import Linear, Sequential
from tinytorch.core.tensor import manual_seed, ones, randn
from tito.testing import check, check_raises

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # pictures are left out; everything else works

# %% [markdown]
r"""
## The problem: which of the two is slow?

A `Linear(512, 512)` on 512 rows does $2 \cdot 512^3 \approx 268$ million operations. A `GELU` on an array of the same size does a few for each of its 262,144
elements. **Predict**: how many times longer does the linear layer take? Write it down.
"""

# %%
manual_seed(0)
x, dense, bend = randn(512, 512), Linear(512, 512), GELU()
for name, layer in (("Linear", dense), ("GELU", bend)):
    times = []
    for _ in range(9):
        start = time.perf_counter()
        layer(x)
        times.append(time.perf_counter() - start)
    print(f"{name:7} {sorted(times)[4] * 1e3:6.2f} ms")

# %% [markdown]
r"""
Far from the ratio of the work. Operations are not all equally dear: some wait for memory, some for Python, and only a few for arithmetic. To see
which, we need three numbers for every operation that runs: how much it **computes**, how much it **moves**, and how long it **takes**.

## How much does it compute?

First the size of a model.

### Exercise: count_parameters

Add up `p.size` over `model.parameters()`. A model lists a shared tensor once. An activation has no `parameters` at all: it counts 0. One worked number: `Linear(3, 2)` has $3 \cdot 2 + 2 = 8$.
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


# %% nbgrader={"grade": true, "grade_id": "test-count-parameters", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_count_parameters():
    check(count_parameters(Linear(3, 2)), 8, "3 * 2 weights and 2 biases")
    check(count_parameters(ReLU()), 0, "an activation has no parameters")
    ### BEGIN HIDDEN TESTS
    tied = Sequential(Linear(4, 4, bias=False), Linear(4, 4, bias=False))
    tied.layers[1].weight = tied.layers[0].weight
    check(count_parameters(tied), 16, "a shared tensor counts once")
    check(count_parameters(Sequential(Linear(5, 7), ReLU(), Linear(7, 2))), 58, "the whole tree")
    ### END HIDDEN TESTS


test_count_parameters()

# %% [markdown]
r"""
Now the arithmetic. A FLOP is one floating-point operation: one addition or one multiplication. A rule for an op takes what the op took and gave,
`(inputs, params, out)`, as arrays, and says how many.

### Exercise: matmul_flops

Each element of $A B$ is a sum of $K$ products: $K$ multiplications and $K$ additions (one of them to zero; the field counts it). $K$ is the last size of `inputs[0]`.
One worked number: $(2, 3) @ (3, 4)$ has 8 elements, each of $2 \cdot 3$ operations: 48.
"""


# %% nbgrader={"grade": false, "grade_id": "flops-matmul", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def matmul_flops(inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """One multiplication and one addition for each inner element of each result: 2 out.size K.

    >>> matmul_flops((np.ones((2, 3)), np.ones((3, 4))), {}, np.ones((2, 4)))
    48
    """
    ### BEGIN SOLUTION
    return 2 * out.size * inputs[0].shape[-1]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-matmul-flops", "locked": true, "points": 7, "schema_version": 3, "solution": false, "task": false}
def test_matmul_flops():
    a, b = np.ones((2, 3)), np.ones((3, 4))
    check(matmul_flops((a, b), {}, a @ b), 48, "2 * K for each of the 2 * 4 results")
    ### BEGIN HIDDEN TESTS
    stack = np.ones((5, 2, 3))
    check(matmul_flops((stack, b), {}, stack @ b), 240, "every matrix of a stack counts")
    row = np.ones(3)
    check(matmul_flops((row, b), {}, row @ b), 24, "a 1-D row: 4 results of 2 * 3")
    ### END HIDDEN TESTS


test_matmul_flops()

# %% [markdown]
r"""
### Exercise: linear_flops

The same, and one addition for each result where there is a bias (`inputs` is `(x, weight)` or `(x, weight, bias)`; the bias may be None).
"""


# %% nbgrader={"grade": false, "grade_id": "flops-linear", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def linear_flops(inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """The product x @ weight, and one addition for each result where there is a bias.

    >>> linear_flops((np.ones((2, 3)), np.ones((3, 4)), np.ones(4)), {}, np.ones((2, 4)))
    56
    """
    ### BEGIN SOLUTION
    bias = len(inputs) > 2 and inputs[2] is not None
    return matmul_flops(inputs, params, out) + (out.size if bias else 0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-linear-flops", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_linear_flops():
    x, weight, bias = np.ones((2, 3)), np.ones((3, 4)), np.ones(4)
    check(linear_flops((x, weight, bias), {}, x @ weight), 56, "48 and 8 additions of the bias")
    check(linear_flops((x, weight), {}, x @ weight), 48, "no bias, no additions")
    ### BEGIN HIDDEN TESTS
    check(linear_flops((x, weight, None), {}, x @ weight), 48, "a bias of None is no bias")
    ### END HIDDEN TESTS


test_linear_flops()

# %% [markdown]
r"""
### Exercise: einsum_flops

`einsum` runs over every choice of values for all its letters. For each choice it multiplies its $n$ factors ($n - 1$ multiplications) and adds the product to a result (1
addition). So it counts $n$ times the product of all letters' sizes. `explicit_subscripts(subscripts, ndims)` gives each factor's letters with `...` written out. A letter that has size 1 in one
factor and 5 in another runs over 5.

<details><summary>Hint</summary>

Collect `sizes[letter]` over all factors with two nested loops, keeping the larger size; then `math.prod(sizes.values())`.
</details>
"""


# %% nbgrader={"grade": false, "grade_id": "flops-einsum", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
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


# %% nbgrader={"grade": true, "grade_id": "test-einsum-flops", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def test_einsum_flops():
    a, b = np.ones((2, 3)), np.ones((3, 4))
    check(einsum_flops(("ij,jk->ik", a, b), {}, a @ b), 48, "a product: 2 for each i, j, k")
    check(einsum_flops(("ij->i", a), {}, a.sum(1)), 6, "one factor: only additions")
    ### BEGIN HIDDEN TESTS
    three = einsum_flops(("ij,jk,kl->il", a, b, np.ones((4, 5))), {}, np.ones((2, 5)))
    check(three, 3 * 2 * 3 * 4 * 5, "three factors: two multiplications and an addition")
    batch = einsum_flops(("...ij,...jk", np.ones((7, 2, 3)), np.ones((1, 3, 4))), {}, None)
    check(batch, 2 * 7 * 2 * 3 * 4, "the axes of ... count too, in their larger size")
    ### END HIDDEN TESTS


test_einsum_flops()

# %% [markdown]
r"""
All other operations are cheap to count, so their table is given. What stands in no table counts one FLOP for each element of the result; modules that bring
new contractions add their rows.
"""


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
def _blocked_attention_flops(inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """Both products and the softmax, for each query and key; hidden tiles are counted too."""
    q, k, v = inputs[:3]
    return out.size // out.shape[-1] * k.shape[-2] * (2 * q.shape[-1] + 2 * v.shape[-1] + 5)


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
    "conv2d": lambda inputs, params, out: 2 * out.size * inputs[1][0].size,
    "conv_transpose2d": lambda inputs, params, out: 2 * inputs[0].size * inputs[1][0].size,
    "conv2d_weight": lambda inputs, params, out: 2 * inputs[1].size * out[0].size,
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "fold"), _each_input),
    "unfold": _nothing,
    "batch_norm": lambda inputs, params, out: 3 * out.size,
    "embedding": _nothing,
    "scatter_rows": _each_input,
    "rotate_pairs": lambda inputs, params, out: 3 * out.size,
    "attention_weights": lambda inputs, params, out: out.size * (2 * inputs[0].shape[-1] + 5),
    "blocked_attention": _blocked_attention_flops,
    "layer_norm": lambda inputs, params, out: 7 * out.size,
    "rms_norm": lambda inputs, params, out: 4 * out.size,
}


def flops_of(op: Callable, inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """Floating-point operations of one call, by the table."""
    count = FLOPS.get(op.__name__)
    return out.size if count is None else count(inputs, params, out)


# %% [markdown]
r"""
## How much does it move, and how long does it take?

Remember the watchers of module 01: a callable that is shown every operation. Autograd is one. A profiler is another, and it needs nothing else.

Two of its parts are yours. First, bytes.

### Exercise: bytes_moved

An operation reads each input and writes its result: their `nbytes`, added up. But the result of `reshape` or `x.T` is a **view**: it shows the input's memory and moves nothing.
`np.may_share_memory(x, out)` tells. One worked number: adding two float32 arrays of 100 moves $3 \cdot 400$ bytes.
"""


# %% nbgrader={"grade": false, "grade_id": "bytes-moved", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def bytes_moved(inputs: Iterable[np.ndarray], out: np.ndarray) -> int:
    """The bytes that an operation must move at least: inputs read once, the result written once.

    A result that shows an input's memory (a view) moves nothing.
    """
    ### BEGIN SOLUTION
    inputs = list(inputs)
    if any(np.may_share_memory(x, out) for x in inputs):
        return 0
    return sum(x.nbytes for x in inputs) + out.nbytes
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-bytes-moved", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def test_bytes_moved():
    a, b = np.ones(100, np.float32), np.ones(100, np.float32)
    check(bytes_moved([a, b], a + b), 1200, "two arrays read, one written, 400 bytes each")
    check(bytes_moved([a], a.reshape(10, 10)), 0, "a view moves nothing")
    ### BEGIN HIDDEN TESTS
    check(bytes_moved([a], a.astype(np.int8)), 500, "an int8 result is written in 100 bytes")
    check(bytes_moved(iter([b, a]), a[::2]), 0, "a view of any of the inputs; any iterable will do")
    ### END HIDDEN TESTS


test_bytes_moved()

# %% [markdown]
r"""
### Exercise: by_op

From a list of calls to a table: one row for each op's name with the number of `calls`, the sums of `flops` and `bytes_moved`, `latency_ms` (from nanoseconds), its `share` of all the time, and
`gflops_per_second`. The slowest first. A handy fact: FLOP per nanosecond **is** GFLOP per second. Nothing may divide by zero.
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
        write_atomically(Path(path), text.encode())


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


# %% nbgrader={"grade": false, "grade_id": "by-op", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
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


# %% nbgrader={"grade": false, "grade_id": "some-call", "locked": true, "schema_version": 3, "solution": false, "task": false}
def some_call(name="add", start_ns=0, duration_ns=1000, flops=0, moved=0):
    """A call for the tests."""
    return OpCall(name, ((2,),), (2,), start_ns, duration_ns, flops, moved, thread=1)


# %% nbgrader={"grade": true, "grade_id": "test-by-op", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
def test_by_op():
    calls = [
        some_call("add", duration_ns=1_000_000, flops=10, moved=5),
        some_call("matmul", duration_ns=3_000_000, flops=6_000_000),
        some_call("add", duration_ns=1_000_000, flops=20, moved=7),
    ]
    first, second = by_op(calls)
    check([first["op"], second["op"]], ["matmul", "add"], "the slowest op comes first")
    check([second["calls"], second["flops"], second["bytes_moved"]], [2, 30, 12], "sums over calls")
    check(second["latency_ms"], 2.0, "nanoseconds / 1e6")
    check(first["gflops_per_second"], 2.0, "6e6 FLOP in 3e6 ns")
    ### BEGIN HIDDEN TESTS
    check(first["share"], 0.6, "3 ms of 5 ms")
    check(by_op([]), [], "no calls, no rows")
    check(by_op([some_call(duration_ns=0)])[0]["share"], 0.0, "a clock may show no time at all")
    ### END HIDDEN TESTS


test_by_op()

# %% [markdown]
r"""
Now look at a real network.
"""

# %%
model = Sequential(Linear(64, 256), ReLU(), Linear(256, 256), GELU(), Linear(256, 10))
with profile() as trace:
    softmax(model(randn(128, 64)))
print(trace)

# %% [markdown]
r"""
### Exercise: chrome_events

A table has no time axis. Browsers have a viewer for that (chrome://tracing, or ui.perfetto.dev), and it takes a list of events, each a dict:

- `name`; `cat`: "op"; `ph`: "X", which means a bar with a beginning and a length;
- `ts`, `dur`: beginning and length in **microseconds**, `ts` counted from the earliest call;
- `pid`: `os.getpid()`, `tid`: the call's `thread`;
- `args`: a dict of whatever one wants to read when one clicks: `in` and `out` (the shapes as strings), `flops`.
"""


# %% nbgrader={"grade": false, "grade_id": "chrome-events", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
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


# %% nbgrader={"grade": true, "grade_id": "test-chrome-events", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def test_chrome_events():
    calls = [
        some_call(start_ns=5_000, duration_ns=2_500),
        some_call("mul", start_ns=9_000, flops=7),
    ]
    first, second = chrome_events(calls)
    check([first["ph"], first["name"], first["cat"]], ["X", "add", "op"], "a complete event")
    check([first["ts"], first["dur"]], [0.0, 2.5], "microseconds from the first call")
    check([second["ts"], second["args"]["flops"]], [4.0, 7], "the second begins 4 us later")
    ### BEGIN HIDDEN TESTS
    check([first["pid"], first["tid"]], [os.getpid(), 1], "the process and the thread")
    check(chrome_events([]), [], "nothing ran, nothing to show")
    later_first = chrome_events(reversed(calls))
    check(later_first[0]["ts"], 4.0, "the origin is the earliest call, not the first in the list")
    json.dumps(chrome_events(calls))
    ### END HIDDEN TESTS


test_chrome_events()


# %%
with tempfile.TemporaryDirectory() as folder:
    trace.save_chrome(Path(folder) / "trace.json")
    events = json.loads((Path(folder) / "trace.json").read_text())["traceEvents"]
    for event in events:
        bar = "#" * max(1, round(event["dur"] / 40))
        print(f"{event['ts']:9.1f} us  {event['name']:8} {bar}")

# %% [markdown]
r"""
## How to time something

A single measurement is worth little: the first run fills caches, and on a shared machine any run may be interrupted. Take many, drop the first, report the **median** (one slow run
can't move it) and an interval that tells how far to trust it.

### Exercise: latency

Call `action` `warmup` times without counting, then `iterations` times with `time.perf_counter_ns()` around each. Return the 10th, 50th and 90th percentile in milliseconds as `low_ms`, `median_ms`, `high_ms`. Fewer than one
iteration raises ValueError. Exactly `warmup + iterations` calls: an action may cost money.
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


# %% nbgrader={"grade": true, "grade_id": "test-latency", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
def test_latency():
    calls = []
    result = latency(lambda: calls.append(1), warmup=2, iterations=5)
    check(len(calls), 7, "2 runs to warm up, 5 that count")
    check(sorted(result), ["high_ms", "low_ms", "median_ms"], "these three keys")
    with check_raises(ValueError, "at least 1", "no iterations, no median"):
        latency(lambda: None, iterations=0)
    ### BEGIN HIDDEN TESTS
    pauses = iter([0.05] + [0.002] * 5 + [0.03] * 3 + [0.002] * 2)
    slow = latency(lambda: time.sleep(next(pauses)), warmup=1, iterations=10)
    check(2 <= slow["median_ms"] < 20, True, "the median, in ms: a few slow runs don't move it")
    check(slow["high_ms"] > slow["median_ms"], True, "they show in the interval")
    check(slow["low_ms"] <= slow["median_ms"], True, "low is the 10th percentile")
    ### END HIDDEN TESTS


test_latency()

# %% [markdown]
r"""
## Memory

Parameters are easy to weigh. What surprises people is the rest: until backward has passed, the graph keeps what its rules will need.

**Predict**: a model with 101,770 parameters (`784-128-10`) takes 0.41 MB. How much does its graph keep for a batch of 64? For 1,024?

### Exercise: activation_bytes

`producers_first(output)` lists every tensor of the graph, as the backward walk sees it. A tensor with a `node` was made by an operation: it is kept, and so are the node's `inputs` that are tensors. Count each **memory** once: many
tensors may be views of one array, so add up `owner_of(x.data).nbytes`, keyed by `id` of the owner. A tensor of the list without a node is a leaf that wants a gradient, a parameter: leave its memory out.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-activation-bytes", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
def test_activation_bytes():
    w = ones(10, requires_grad=True)
    check(activation_bytes(w * 2), 40, "the product's 10 float32; w itself is a parameter")
    x = ones(10)
    check(activation_bytes(w * x), 80, "the product and x: the rule of w needs x")
    ### BEGIN HIDDEN TESTS
    check(activation_bytes((w * 2).reshape(2, 5)), 40, "a view shows the same memory: once")
    y = w * 2
    check(activation_bytes(y * y + y), 120, "w * 2, its square, their sum; each once")
    check(activation_bytes(w.reshape(5, 2)), 0, "a view of a parameter is the parameter")
    ### END HIDDEN TESTS


test_activation_bytes()

# %% [markdown]
r"""
## What the machine can do

A number such as "5 GFLOP/s" says nothing by itself. Beside what? So we measure this machine first: the fastest arithmetic that we know (a large matrix product), the fastest
copying, and what the smallest call costs.
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


# %%
machine = this_machine()
print(
    f"arithmetic {machine.gflops_per_second:.0f} GFLOP/s, memory {machine.gigabytes_per_second:.0f} GB/s"
)
print(f"ridge: {machine.ridge:.1f} FLOP for each byte; the smallest call: {machine.call_us:.2f} us")

# %% [markdown]
r"""
Below the ridge, a byte brings so little work that memory can't deliver fast enough; above, arithmetic is the limit. That is the roofline:

$$\text{attainable GFLOP/s} = \min\Big(\text{peak},\; \text{bandwidth} \cdot \frac{\text{FLOP}}{\text{bytes}}\Big)$$

**Predict** on which side an addition of two large float32 arrays lies: 1 FLOP for 12 bytes.

### Exercise: roofline

Return it as a float. What moves no bytes at all is bounded by the peak alone.
"""


# %% nbgrader={"grade": false, "grade_id": "roofline", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def roofline(flops: float, moved: float, machine: Machine) -> float:
    """The GFLOP/s that work of this intensity can reach at best: min(peak, bandwidth * intensity).

    Williams, Waterman, Patterson 2009, section 3. Work that moves nothing is bounded by the peak.

    >>> roofline(100, 50, Machine(gflops_per_second=80, gigabytes_per_second=10, call_us=1))
    20.0
    """
    ### BEGIN SOLUTION
    if moved == 0:
        return float(machine.gflops_per_second)
    return float(min(machine.gflops_per_second, machine.gigabytes_per_second * flops / moved))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-roofline", "locked": true, "points": 7, "schema_version": 3, "solution": false, "task": false}
def test_roofline():
    some = Machine(gflops_per_second=80, gigabytes_per_second=10, call_us=1)
    check(roofline(100, 50, some), 20.0, "2 FLOP a byte, 10 GB/s: memory allows 20 GFLOP/s")
    check(roofline(1000, 50, some), 80.0, "20 FLOP a byte: the peak is the limit")
    ### BEGIN HIDDEN TESTS
    check(roofline(100, 0, some), 80.0, "nothing moved: only the peak bounds it")
    check(roofline(0, 100, some), 0.0, "no work, no GFLOP/s")
    ### END HIDDEN TESTS


test_roofline()

# %% [markdown]
r"""
### Exercise: bottleneck

Arithmetic alone would take `flops / gflops_per_second / 1e6` milliseconds, memory alone `moved / gigabytes_per_second / 1e6`. Whichever is longer is the bottleneck, "compute" or "memory", unless the work took more than ten
times their sum: then neither explains it, and the answer is "overhead".
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-bottleneck", "locked": true, "points": 7, "schema_version": 3, "solution": false, "task": false}
def test_bottleneck():
    some = Machine(gflops_per_second=100, gigabytes_per_second=10, call_us=1)
    check(bottleneck(1e9, 1e6, 11.0, some), "compute", "10 ms of arithmetic, 0.1 ms of memory")
    check(bottleneck(1e6, 1e8, 11.0, some), "memory", "0.01 ms of arithmetic, 10 ms of memory")
    check(bottleneck(1e3, 1e3, 1.0, some), "overhead", "microseconds of work in a millisecond")
    ### BEGIN HIDDEN TESTS
    check(bottleneck(1e8, 2e7, 25.0, some), "memory", "1 ms and 2 ms: 25 is under ten times 3")
    check(bottleneck(1e8, 2e7, 31.0, some), "overhead", "1 ms and 2 ms: 31 is over ten times 3")
    ### END HIDDEN TESTS


test_bottleneck()

# %% [markdown]
r"""
The rest puts these pieces together, under the names that a framework's user looks for.
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
        output = model(x)
        kept = activation_bytes(output) if output.requires_grad else 0
        del output
        with _without_gradients(model) as parameters:
            peak = peak_bytes(lambda: _forward_backward(model, x))
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
        """What a forward pass costs, without a graph.

        Keys: parameters, flops, bytes_moved, latency_ms, latency_low_ms, latency_high_ms,
        gflops_per_second, roofline_gflops_per_second (what the machine allows at this intensity),
        bottleneck, ops (the table).
        """
        took = self.measure_latency(model, x)
        return self._summary(model, self._forward(model, x), took)

    def profile_backward_pass(self, model: Any, x: Tensor) -> dict[str, Any]:
        """The same keys for the backward pass of model(x).sum().

        Its operations are those that really run: the walk is recorded by `create_graph`, once, and
        timed without.
        """
        runs = []
        with _without_gradients(model):
            for _ in range(self.warmup + self.iterations):
                loss = model(x).sum()
                start = time.perf_counter_ns()
                loss.backward()
                runs.append((time.perf_counter_ns() - start) / 1e6)
            loss = model(x).sum()
            with profile() as trace:
                loss.backward(create_graph=True)
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


@contextmanager
def _without_gradients(model: Any) -> Iterator[list[Tensor]]:
    """The parameters, without gradients within the block; afterwards with those from before."""
    parameters = list(model.parameters()) if hasattr(model, "parameters") else []
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield parameters
    finally:
        for p, g in zip(parameters, before, strict=True):
            p.grad = g


# %%
profiler = Profiler(iterations=15)
mnist_model = Sequential(Linear(784, 128), ReLU(), Linear(128, 10))
for batch in (64, 1024):
    print(f"batch {batch}:")
    for key, megabytes in profiler.measure_memory(mnist_model, randn(batch, 784)).items():
        print(f"  {key:22} {megabytes:8.3f}")

# %% [markdown]
r"""
## The graph as a picture

One exercise is left: to draw a graph, each tensor needs a row.

### Exercise: graph_depths

A leaf lies at depth 0, a result one deeper than the deepest of its inputs. `tensors` comes with producers before consumers, so one pass is enough; inputs that are not in the list (plain numbers, tensors without gradient)
don't count. Key by `id(tensor)`.
"""


# %% nbgrader={"grade": false, "grade_id": "graph-depths", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
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


# %% nbgrader={"grade": true, "grade_id": "test-graph-depths", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_graph_depths():
    x = ones(1, requires_grad=True)
    y = x * 2
    z = y + x
    depths = graph_depths(producers_first(z))
    check([depths[id(t)] for t in (x, y, z)], [0, 1, 2], "one more than the deepest input")
    ### BEGIN HIDDEN TESTS
    late = ones(1, requires_grad=True)
    w = z * late
    depths = graph_depths(producers_first(w))
    check([depths[id(t)] for t in (late, w)], [0, 3], "the longest way counts, not the last input")
    check(len(depths), 5, "only tensors of the list have a depth")
    ### END HIDDEN TESTS


test_graph_depths()


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
        write_atomically(Path(path), self.svg.encode())


def _layout(tensors: list[Tensor]) -> tuple[dict[int, tuple[float, float]], int, int]:
    """The middle of each tensor's box, by id: a row for each depth; and the picture's size."""
    depths = graph_depths(tensors)
    rows: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        rows.setdefault(depths[id(tensor)], []).append(tensor)
    wide, high = 130, 70  # of a box with the space around it
    width = wide * max(map(len, rows.values()))
    place = {
        id(tensor): ((i + 0.5) * width / len(row), (depth + 0.5) * high)
        for depth, row in rows.items()
        for i, tensor in enumerate(row)
    }
    return place, width, high * len(rows)


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
    place, width, height = _layout(tensors)
    box = 34  # the height of one
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
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" text-anchor="middle"><defs><marker id="arrow" '
        'viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z"/></marker></defs>{"".join(lines + boxes)}</svg>'
    )


# %%
small = Sequential(Linear(3, 4), ReLU(), Linear(4, 2))
draw_graph(softmax(small(ones(5, 3))).sum(), dict(small.named_parameters()))

# %% [markdown]
r"""
## Put together: where does the time of a digit go?

A network for the 8x8 digits, at three batch sizes. **Predict** for each: does arithmetic, memory or overhead hold it back?
"""

# %%
digits = np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz")
pixels = (digits["images"].reshape(-1, 64) / 16).astype(np.float32)
network = Sequential(Linear(64, 256), ReLU(), Linear(256, 256), ReLU(), Linear(256, 10))
print(f"{'batch':>6} {'pass':9}{'ms':>8}{'MFLOP':>8}{'GFLOP/s':>9}{'allowed':>9}  bottleneck")
points = []
for batch in (1, 64, 1024):
    x = Tensor(pixels[:batch])
    for name, run in (
        ("forward", profiler.profile_forward_pass),
        ("backward", profiler.profile_backward_pass),
    ):
        row = run(network, x)
        points.append((f"{name} {batch}", row))
        print(
            f"{batch:6} {name:9}{row['latency_ms']:8.3f}{row['flops'] / 1e6:8.2f}"
            f"{row['gflops_per_second']:9.2f}{row['roofline_gflops_per_second']:9.1f}  {row['bottleneck']}"
        )

# %%
if plt:
    intensity = np.logspace(-1, 2.5, 50)
    roof = [roofline(i, 1.0, machine) for i in intensity]
    plt.figure(figsize=(7, 4))
    plt.loglog(intensity, roof, "k-", label="what this machine allows")
    for (name, row), marker in zip(points, "osD^v*", strict=True):
        at = row["flops"] / row["bytes_moved"]
        plt.loglog(
            at, row["gflops_per_second"], marker, color="gray", markeredgecolor="k", label=name
        )
    plt.title("Roofline of a small network")
    plt.xlabel("intensity (FLOP per byte)")
    plt.ylabel("GFLOP/s")
    plt.legend(fontsize=8)
    plt.show()

# %% [markdown]
r"""
## Systems: what does measuring cost?

A profiler that slows down what it measures reports itself. How much time does each watched operation cost beside an unwatched one?
"""

# %%
tiny = ones(10)


def many_additions():
    for _ in range(500):
        _ = tiny + tiny


plain = latency(many_additions, iterations=20)["median_ms"]
with profile():
    watched = latency(many_additions, iterations=20)["median_ms"]
print(f"an addition: {plain * 2:.2f} us; while it is profiled: {watched * 2:.2f} us")

# %% [markdown]
r"""
So trust the table's order for large operations, and not its microseconds for tiny ones; that is why `profile_forward_pass` takes its latency without a watcher. PyTorch's `torch.profiler.profile` records from C++ and exports the same trace
format; `torch.utils.flop_counter.FlopCounterMode` counts as your table does.

And the count itself: does it grow as it should?
"""

# %%
for size in (64, 128, 256, 512):
    square, x = Linear(size, size), randn(size, size)
    took = profiler.measure_latency(square, x)
    flops = profiler.count_flops(square, x)
    print(
        f"{size:4}: {flops / 1e6:8.2f} MFLOP {took['median_ms']:8.3f} ms {flops / took['median_ms'] / 1e6:8.1f} GFLOP/s"
    )

# %% [markdown]
r"""
## Questions

**1.** One token of a GPT with $P$ parameters in its matrices costs about $2P$ FLOP to generate. At batch 1 in float32, every parameter is read once for it. On a machine with 100 GFLOP/s and 20 GB/s, how many tokens a second can
a model of $P = 10^8$ give at best, and what limits it?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-token", "locked": false, "points": 3, "schema_version": 3, "solution": true, "task": false}
r"""
Arithmetic: $2 \cdot 10^8 / 10^{11} = 2$ ms a token. Memory: $4 \cdot 10^8 / (2 \cdot 10^{10}) = 20$ ms. Memory limits it, to 50 tokens a second. With weights of one byte it would be 200.
"""

# %% [markdown]
r"""
**2.** For which batch size does `Linear(n, n)` in float32 reach the ridge of 5 FLOP a byte? (Count $2 B n^2$ FLOP and $4 (n^2 + 2 B n)$ bytes; let $n$ be much larger than $B$.)
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-ridge", "locked": false, "points": 3, "schema_version": 3, "solution": true, "task": false}
r"""
With $n \gg B$ the intensity is about $2 B n^2 / (4 n^2) = B / 2$ FLOP a byte, so a batch of 10 reaches 5.
"""

# %% [markdown]
r"""
**3.** The graph of the model 784-128-10 kept 0.27 MB for a batch of 64. Derive that number.
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-graph", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
r"""
In float32: the input $64 \cdot 784 \cdot 4 = 200{,}704$ bytes, the first layer's result and its ReLU $2 \cdot 64 \cdot 128 \cdot 4 = 65{,}536$, the output $64 \cdot 10 \cdot 4 = 2{,}560$: together 268,800.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "schema_version": 3, "solution": false, "task": false}
def test_module():
    """Everything that this module built, once more."""
    test_count_parameters()
    test_matmul_flops()
    test_linear_flops()
    test_einsum_flops()
    test_bytes_moved()
    test_by_op()
    test_chrome_events()
    test_latency()
    test_activation_bytes()
    test_roofline()
    test_bottleneck()
    test_graph_depths()
    row = Profiler(iterations=3).profile_layer(Linear(10, 5), ones(32, 10))
    check([row["parameters"], row["flops"]], [55, 3360], "the profiler puts the pieces together")
    print("module 14: all checks pass")


test_module()

# %% [markdown]
r"""
## What works now

- Every operation that runs is counted, weighed and timed, by a watcher: the network itself knows nothing of it.
- Backward too: its operations are recorded as it walks.
- Traces for a browser, a picture of the graph, and a roofline of the machine you sit at.
- You can tell compute from memory from overhead, with numbers.
- It unlocks module 15: once you know that bytes are what you wait for, you make them fewer.
"""

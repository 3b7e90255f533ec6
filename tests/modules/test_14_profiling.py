"""Module 14: counts by formula, memory by arrays, the formats of the files."""

import json
import threading
import xml.etree.ElementTree

import numpy as np
import pytest

from tinytorch.core import autograd, layers, losses, tensor
from tinytorch.core.activations import ReLU, softmax
from tinytorch.core.layers import Linear, Module, Sequential
from tinytorch.core.tensor import Tensor, einsum, ones, randn
from tinytorch.profiling import profiler
from tinytorch.profiling.profiler import (
    Machine,
    OpCall,
    Profiler,
    activation_bytes,
    bottleneck,
    by_op,
    bytes_moved,
    chrome_events,
    count_parameters,
    draw_graph,
    flops_of,
    graph_depths,
    latency,
    peak_bytes,
    profile,
    roofline,
    this_machine,
)

MODEL_SIZES = (784, 128, 10)


def model():
    a, b, c = MODEL_SIZES
    return Sequential(Linear(a, b), ReLU(), Linear(b, c))


def watched(action):
    with profile() as trace:
        action()
    return trace


# --- counting ---


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (lambda: randn(2, 3) @ randn(3, 4), 48),
        (lambda: randn(5, 2, 3) @ randn(3, 4), 240),
        (lambda: randn(3) @ randn(3), 6),
        (lambda: layers.linear(randn(2, 3), randn(3, 4), randn(4)), 56),
        (lambda: layers.linear(randn(7, 2, 3), randn(3, 4)), 336),
        (lambda: einsum("bij,bjk->bik", randn(5, 2, 3), randn(5, 3, 4)), 240),
        (lambda: einsum("ii", randn(3, 3)), 3),
        (lambda: randn(4, 5) + randn(5), 20),
        (lambda: randn(4, 5).exp(), 20),
        (lambda: randn(4, 5).sum(axis=1), 20),
        (lambda: softmax(randn(4, 5)), 100),
        (lambda: randn(4, 5).reshape(20), 0),
        (lambda: randn(4, 5)[1:], 0),
        (lambda: tensor.concat([randn(2, 2), randn(3, 2)]), 0),
    ],
)
def test_flops_of_the_ops_that_ran(action, expected):
    assert watched(action).flops == expected


def test_flops_of_a_model_include_the_batch():
    a, b, c = MODEL_SIZES
    for batch in (1, 64):
        expected = batch * (2 * a * b + b + b + 2 * b * c + c)
        assert Profiler().count_flops(model(), randn(batch, a)) == expected


def test_contracting_ops_have_a_row():
    """An op whose work is more than one FLOP for each result must stand in the table."""
    contracting = {tensor.matmul, tensor.einsum, layers.linear, losses.cross_entropy}
    assert {op.__name__ for op in contracting} <= set(profiler.FLOPS)


def test_an_op_without_a_row_counts_its_results():
    @tensor.op
    def unheard_of(x):
        return np.repeat(x, 3)

    assert flops_of(unheard_of, (np.ones(2),), {}, np.ones(6)) == 6


def test_count_parameters():
    assert count_parameters(model()) == 101_770
    assert count_parameters(ReLU()) == 0
    frozen = Linear(2, 2)
    frozen.weight.requires_grad = False
    assert count_parameters(frozen) == 6


# --- watching ---


def test_a_trace_sees_calls_in_order_with_shapes_and_times():
    trace = watched(lambda: (randn(2, 3) @ randn(3, 4)).sum())
    first, second = trace.calls
    assert (first.name, first.shapes, first.out_shape) == ("matmul", ((2, 3), (3, 4)), (2, 4))
    assert second.name == "sum"
    assert first.duration_ns > 0
    assert first.start_ns + first.duration_ns <= second.start_ns
    assert "matmul" in str(trace)


def test_a_trace_ends_with_its_block_and_stays_in_its_thread():
    with profile() as trace:
        other = threading.Thread(target=lambda: ones(2) + 1)
        other.start()
        other.join()
    ones(2) + 1
    assert trace.calls == []


def test_profiling_changes_no_result_and_no_gradient():
    x, w = randn(4, 3), randn(3, 2, requires_grad=True)
    (x @ w).sum().backward()
    alone, w.grad = w.grad.numpy(), None
    with profile():
        (x @ w).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), alone)


def test_traces_nest():
    with profile() as outer:
        ones(2) + 1
        with profile() as inner:
            ones(2) * 2
    assert [call.name for call in inner.calls] == ["mul"]
    assert [call.name for call in outer.calls] == ["add"], "the inner takes the outer's place"


def call(name, start, duration, flops=0, moved=0):
    return OpCall(name, ((1,),), (1,), start, duration, flops, moved, 1)


def test_by_op_adds_up():
    rows = by_op([call("a", 0, 1000, 10, 1), call("b", 0, 4000, 8, 2), call("a", 0, 1000, 30, 3)])
    assert [row["op"] for row in rows] == ["b", "a"]
    assert rows[1] == {
        "op": "a",
        "calls": 2,
        "flops": 40,
        "bytes_moved": 4,
        "latency_ms": pytest.approx(0.002),
        "share": pytest.approx(1 / 3),
        "gflops_per_second": pytest.approx(0.02),
    }
    assert by_op([]) == []


def test_chrome_trace_file(tmp_path):
    trace = watched(lambda: ones(3) * 2 + 1)
    path = tmp_path / "trace.json"
    path.write_text("old")
    trace.save_chrome(path)
    events = json.loads(path.read_text())["traceEvents"]
    assert [event["name"] for event in events] == ["mul", "add"]
    assert events[0]["ts"] == 0
    assert all(event["ph"] == "X" and event["dur"] > 0 for event in events)
    assert list(tmp_path.iterdir()) == [path], "no draft is left"
    assert chrome_events([]) == []


def test_a_trace_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "file").write_text("")
    trace = watched(lambda: ones(3) * 2)
    with pytest.raises(OSError, match="file"):
        trace.save_chrome(tmp_path / "file" / "trace.json")


def test_bytes_moved():
    a = np.ones(10, np.float32)
    assert bytes_moved([a, a], a + a) == 120
    assert bytes_moved([a], a[::2]) == 0
    assert bytes_moved([], np.ones(3)) == 24


# --- time and memory ---


def test_latency_runs_as_often_as_asked():
    runs = []
    result = latency(lambda: runs.append(1), warmup=2, iterations=7)
    assert len(runs) == 9
    assert 0 < result["low_ms"] <= result["median_ms"] <= result["high_ms"]
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        latency(lambda: None, iterations=0)


def test_memory_of_a_model():
    a, b, c = MODEL_SIZES
    batch = 64
    memory = Profiler().measure_memory(model(), randn(batch, a))
    assert set(memory) == {"parameter_memory_mb", "activation_memory_mb", "peak_memory_mb"}
    assert memory["parameter_memory_mb"] == pytest.approx(4 * 101_770 / 1e6)
    kept = 4 * batch * (a + b + b + c)  # the input, a layer's result, its ReLU, the output
    assert memory["activation_memory_mb"] == pytest.approx(kept / 1e6)
    # at the peak: parameters, the results (the input was there before) and a gradient of each
    least = 4 * 101_770 + 4 * batch * (b + b + c)
    assert memory["peak_memory_mb"] > least / 1e6
    larger = Profiler().measure_memory(model(), randn(4 * batch, a))
    assert larger["activation_memory_mb"] == pytest.approx(4 * kept / 1e6)


def test_memory_of_a_layer_without_parameters_or_graph():
    memory = Profiler().measure_memory(ReLU(), randn(10, 10))
    assert memory["parameter_memory_mb"] == memory["activation_memory_mb"] == 0
    assert memory["peak_memory_mb"] >= 400 / 1e6


def test_activation_bytes_count_each_memory_once():
    w = ones(10, requires_grad=True)
    y = w * 2
    assert activation_bytes(y) == 40
    assert activation_bytes(y.reshape(5, 2)) == 40
    assert activation_bytes(y * y) == 80


def test_peak_bytes_sees_what_is_gone_at_the_end():
    peak = peak_bytes(lambda: np.ones(1_000_000, np.float32).sum())
    assert 4_000_000 <= peak < 4_200_000


# --- limits ---


def test_roofline_and_bottleneck():
    machine = Machine(gflops_per_second=100, gigabytes_per_second=10, call_us=1)
    assert machine.ridge == 10
    assert roofline(1, 1, machine) == 10
    assert roofline(50, 1, machine) == 100
    assert roofline(50, 0, machine) == 100
    assert bottleneck(1e9, 1e6, 11, machine) == "compute"
    assert bottleneck(1e6, 1e8, 11, machine) == "memory"
    assert bottleneck(1e3, 1e3, 1, machine) == "overhead"


def test_this_machine_is_measured_once():
    machine = this_machine()
    assert machine is this_machine()
    assert min(machine.gflops_per_second, machine.gigabytes_per_second, machine.call_us) > 0


# --- the profiler ---

KEYS = {
    *("parameters", "flops", "bytes_moved", "latency_ms", "latency_low_ms", "latency_high_ms"),
    *("gflops_per_second", "roofline_gflops_per_second", "bottleneck", "ops"),
}


def test_forward_layer_and_backward_pass():
    fast = Profiler(warmup=1, iterations=3)
    net, x = model(), randn(16, 784)
    forward = fast.profile_forward_pass(net, x)
    assert set(forward) == KEYS
    assert forward["gflops_per_second"] == pytest.approx(
        forward["flops"] / forward["latency_ms"] / 1e6
    )
    assert {row["op"] for row in forward["ops"]} == {"linear", "relu"}
    layer = fast.profile_layer(net.layers[0], x)
    assert layer["layer"] == "Linear"
    assert set(layer) > KEYS
    backward = fast.profile_backward_pass(net, x)
    assert set(backward) == KEYS
    a, b, c = MODEL_SIZES
    products = 2 * 16 * (a * b + 2 * b * c)  # no gradient flows into the input
    assert products <= backward["flops"] < 1.2 * products


def test_measuring_leaves_gradients_and_mode_as_they_were():
    net, x = model(), randn(4, 784)
    net.eval()
    weight = net.layers[0].weight
    weight.grad = ones(784, 128)
    fast = Profiler(warmup=0, iterations=1)
    fast.measure_memory(net, x)
    fast.profile_backward_pass(net, x)
    np.testing.assert_array_equal(weight.grad.numpy(), np.ones((784, 128), np.float32))
    assert net.layers[2].weight.grad is None
    assert not net.training


def test_a_failing_model_leaves_gradients_as_they_were():
    class Failing(Module):
        def __init__(self):
            super().__init__()
            self.inner = Linear(2, 2)

        def forward(self, x):
            return self.inner(x) @ ones(3, 3)

    net = Failing()
    net.inner.weight.grad = ones(2, 2)
    with pytest.raises(ValueError, match="inner sizes 2 and 3 differ"):
        Profiler().profile_backward_pass(net, ones(1, 2))
    assert net.inner.weight.grad.tolist() == [[1, 1], [1, 1]]


# --- the picture ---


def test_graph_depths():
    x = ones(1, requires_grad=True)
    y = x * 2
    z = y + x
    depths = graph_depths(autograd.producers_first(z))
    assert [depths[id(t)] for t in (x, y, z)] == [0, 1, 2]


def test_drawing_is_svg_with_a_box_for_each_tensor(tmp_path):
    net = model()
    out = net(randn(2, 784)).sum()
    drawing = draw_graph(out, {"<first>": net.layers[0].weight})
    root = xml.etree.ElementTree.fromstring(drawing.svg)
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}rect")) == len(autograd.producers_first(out)) == 8
    assert len(root.findall(f"{space}line")) == 7
    labels = [text.text for text in root.findall(f"{space}text")]
    assert "<first>" in labels
    assert "relu" in labels
    assert drawing._repr_svg_() == drawing.svg
    drawing.save(tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_text() == drawing.svg


def test_too_large_a_graph_is_refused():
    y = Tensor([1.0], requires_grad=True)
    for _ in range(10):
        y = y * 2
    with pytest.raises(ValueError, match="11 tensors make no readable picture"):
        draw_graph(y, most=10)

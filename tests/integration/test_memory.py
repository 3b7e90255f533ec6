"""Graphs die by reference counting, a walk lets go of what it has passed, and memory stays flat."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

from tinytorch.core import activations, layers, losses, tensor
from tinytorch.core.autograd import grad, no_grad
from tinytorch.core.tensor import Tensor, writes

MEGABYTE = 250_000  # elements of float32


@pytest.fixture
def without_collector():
    """Reference counting alone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def traced():
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


def network():
    random = np.random.default_rng(0)
    shapes = [(64, 32), (32,), (32, 10), (10,)]
    parameters = [Tensor(random.normal(0, 0.2, shape), requires_grad=True) for shape in shapes]
    x, y = Tensor(random.normal(size=(16, 64))), random.integers(0, 10, 16)

    def step():
        w1, b1, w2, b2 = parameters
        hidden = activations.relu(layers.linear(x, w1, b1))
        loss = losses.cross_entropy(layers.linear(hidden, w2, b2), y)
        for p in parameters:
            p.grad = None
        loss.backward()
        with no_grad():
            for p in parameters:
                p -= 0.1 * p.grad
        return loss.item()

    return step


def test_memory_is_flat_over_a_thousand_steps(without_collector, traced):
    step = network()
    for _ in range(10):
        step()
    after_ten = tracemalloc.get_traced_memory()[0]
    for _ in range(990):
        step()
    assert tracemalloc.get_traced_memory()[0] - after_ten < 10_000


def test_a_graph_that_is_not_walked_dies_by_reference_counting(without_collector):
    x = Tensor([1.0], requires_grad=True)
    y = tensor.exp(x) * x
    node, between = weakref.ref(y), weakref.ref(y.node.inputs[0])
    del y
    assert node() is None
    assert between() is None


def test_a_graph_that_was_walked_dies_by_reference_counting(without_collector):
    x = Tensor([1.0], requires_grad=True)
    for options in ({}, {"retain_graph": True}):
        y = tensor.exp(x) * x
        gone = [weakref.ref(y), weakref.ref(y.node.inputs[0])]
        y.backward(**options)
        del y
        assert [reference() for reference in gone] == [None, None]
    y = x * x
    slope = grad(y, x, create_graph=True)
    gone = [weakref.ref(y), weakref.ref(slope)]
    del y, slope
    assert [reference() for reference in gone] == [None, None]


def test_a_walk_leaves_no_garbage(without_collector):
    step = network()
    step()
    gc.collect()
    for _ in range(5):
        step()
    assert gc.collect() == 0


def test_a_refused_walk_leaves_no_garbage(without_collector):
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    gone = weakref.ref(y)
    with pytest.raises(RuntimeError):
        y.backward()
    del y
    assert gone() is None


def test_a_deep_graph_dies_without_a_walk():
    y = Tensor([1.0], requires_grad=True)
    for _ in range(100_000):
        y = y * 1.0
    gone = weakref.ref(y)
    del y
    assert gone() is None


def peak_of(run):
    gc.collect()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    run()
    return (tracemalloc.get_traced_memory()[1] - before) / 1e6


def test_the_peak_is_lower_where_nodes_are_dropped(traced):
    """20 factors of 1 MB: 20 MB of results, 20 MB of gradients; dropping, never both at once."""
    factors = [tensor.ones(MEGABYTE, requires_grad=True) for _ in range(20)]
    start, seed = tensor.ones(MEGABYTE), np.ones(MEGABYTE, np.float32)

    def forward_and_backward(retain_graph):
        y = start
        for factor in factors:
            factor.grad = None
            y = y * factor
        y.backward(seed, retain_graph=retain_graph)

    dropped = peak_of(lambda: forward_and_backward(retain_graph=False))
    for factor in factors:
        factor.grad = None
    retained = peak_of(lambda: forward_and_backward(retain_graph=True))
    assert dropped < 27
    assert retained > 38


def test_nothing_is_kept_without_recording(traced):
    x = tensor.ones(MEGABYTE, requires_grad=True)

    def forward():
        y = x
        for _ in range(20):
            y = tensor.exp(-y)
        return y

    assert peak_of(forward) > 19
    assert peak_of(no_grad()(forward)) < 5


def test_gradients_of_weights_are_not_copied(traced):
    """A rule's new array becomes `.grad` itself: 1 MB for the product, 2 MB for two gradients."""
    x, w = (tensor.ones(MEGABYTE, requires_grad=True) for _ in range(2))
    seed = np.ones(MEGABYTE, np.float32)

    def run():
        (x * w).backward(seed)

    assert peak_of(run) < 3.5


def test_the_log_of_writes_forgets_arrays_that_are_gone():
    step = network()
    step()
    before = len(writes._last)
    for _ in range(20):
        network()()
    gc.collect()
    assert len(writes._last) <= before + 4

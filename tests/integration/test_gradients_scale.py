"""Big and deep graphs: work grows in proportion to their size, never faster.

Calls are counted, or two sizes are compared with generous room: no absolute times.
"""

import gc
import sys
import time

import numpy as np
import pytest

from tinytorch.core import tensor
from tinytorch.core.autograd import grad, rules
from tinytorch.core.tensor import Tensor


def chain(x, links):
    for _ in range(links):
        x = x * 1.0
    return x


def diamonds(x, links):
    for _ in range(links):
        x = (x + x) * 0.5
    return x


def ladder(x, links):
    """Each value is used by the next two: the paths grow as Fibonacci's numbers."""
    before = x * 0.5
    for _ in range(links):
        before, x = x, x * 0.5 + before * 0.5
    return x


def star(x, links):
    """One tensor, used by very many."""
    total = x * 0.0
    for _ in range(links):
        total = total + x
    return total * (1 / links)


def count_rules(monkeypatch, *ops):
    """Count how often the rules of `ops` are asked."""
    calls = []

    def counted(rule):
        def call(*given, **params):
            calls.append(1)
            return rule(*given, **params)

        return call

    for op in ops:
        monkeypatch.setitem(rules, op, tuple(counted(rule) for rule in rules[op]))
    return calls


def gradient(build, links):
    x = Tensor(1.0, requires_grad=True)
    return grad(build(x, links), x).item()


@pytest.mark.parametrize("links, build", [(100_000, chain), (10_000, diamonds)])
def test_deep_graphs_pass_python_s_recursion_limit(links, build):
    assert links > 5 * sys.getrecursionlimit()
    assert gradient(build, links) == 1.0


@pytest.mark.parametrize("build, asked", [(chain, 1), (diamonds, 3), (ladder, 4), (star, 2)])
def test_each_rule_is_asked_once(build, asked, monkeypatch):
    calls = count_rules(monkeypatch, tensor.add, tensor.mul)
    for links in (10, 1_000):
        calls.clear()
        gradient(build, links)
        assert asked * links <= len(calls) <= asked * links + 2


@pytest.mark.parametrize("build", [chain, diamonds, ladder, star])
def test_the_time_is_linear(build):
    def seconds(links):
        best = np.inf
        for _ in range(3):
            y = build(Tensor(1.0, requires_grad=True), links)
            start = time.process_time()
            y.backward()
            best = min(best, time.process_time() - start)
        return best

    gc.collect()
    gc.disable()
    try:
        small, large = seconds(1_000), seconds(8_000)
    finally:
        gc.enable()
    assert large < 4 * 8 * small  # a quadratic walk would take 64 times as long


def test_a_wide_graph_of_many_leaves():
    leaves = [Tensor([float(i)], requires_grad=True) for i in range(2_000)]
    total = tensor.concat(leaves).sum()
    answers = grad(total, leaves)
    assert all(answer.item() == 1.0 for answer in answers)


def test_second_derivatives_of_a_deep_graph():
    x = Tensor(0.5, requires_grad=True)
    y = x
    for _ in range(3_000):
        y = y * 0.999 + x * x * 0.001
    slope = grad(y, x, create_graph=True)
    expected = 0.002 * sum(0.999**k for k in range(3_000))
    assert grad(slope, x).item() == pytest.approx(expected, rel=1e-3)

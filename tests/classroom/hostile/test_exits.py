"""Ending Python, in ways that it doesn't expect."""

import pytest
from attack import Attack, in_test

pytestmark = pytest.mark.slow

CALLS = {
    "sys.exit": "import sys; sys.exit(0)",
    "os._exit": "import os; os._exit(0)",
    "os.abort": "import os; os.abort()",
    "a signal to oneself": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "a fault": "import signal; signal.raise_signal(signal.SIGSEGV)",
    "no more room on the stack": """
import itertools
deep = iter(())
for _ in range(1_000_000):
    deep = itertools.chain(deep)
next(deep, None)
""",
    "closing every file": "import os; os.closerange(0, 256)",
    "ending at exit": "import atexit, os; atexit.register(os._exit, 0); raise SystemExit",
}
IN_TEST = [Attack(name, in_test(code), flag=None) for name, code in CALLS.items()]
IN_TEST += [
    Attack("a signal to the first process", in_test("import os; os.kill(1, 9)"), flag=None),
    Attack("a signal to all", in_test("import os; os.kill(-1, 9)"), flag=None),
]


@pytest.mark.parametrize("attack", IN_TEST, ids=lambda attack: attack.name)
def test_an_ending_costs_its_own_test(bench, attack):
    """A function that ends Python when a test calls it costs that test alone."""
    bench.assert_holds(attack)


def test_an_ending_in_a_cell_costs_what_comes_after(bench):
    """A cell that ends Python before any test leaves nothing to grade."""
    attack = Attack("", {"relu": CALLS["os._exit"]}, spares=False, flag="relu ended Python")
    assert bench.assert_holds(attack).points == 0


@pytest.mark.parametrize("name", ["a signal to oneself", "a fault"])
def test_a_signal_in_a_cell(bench, name):
    """The first process of a namespace gets no signal from within, or ends: relu is missing."""
    bench.assert_holds(Attack(name, {"relu": CALLS[name]}, spares=False, flag=None))


@pytest.mark.parametrize("name", ["sys.exit", "os._exit"])
def test_an_ending_without_a_sandbox(bench, name):
    """Limits alone hold the rest of the class together as well."""
    bench.assert_holds(Attack(name, in_test(CALLS[name]), flag=None), isolated=False)

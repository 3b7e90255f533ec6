"""Taking more than a submission may: time, memory, processes, disk, output."""

import pytest
from attack import Attack, in_cell, in_test

pytestmark = pytest.mark.slow

TOOK_LONG = "longer than"
ATTACKS = [
    Attack("a loop in a function", in_test("while True: pass"), says="OverTime|longer"),
    Attack("a loop in a solution cell", {"relu": "while True: pass"}, says="OverTime|longer"),
    Attack("a huge print", in_cell("for _ in range(200): print('x' * 1_000_000)"),
           says=r"found \[\]"),
    Attack("a huge error", {"relu": "def relu(x): raise ValueError('x' * 10_000_000)"},
           says="ValueError: x{100,500}"),
    Attack("a huge int", {"relu": "def relu(x): return 1 << 10_000_000"}, says="an array|gave"),
    Attack("an endless value", {"relu": """
def relu(x):
    value = []
    value.append(value)
    return value
"""}, says="gave"),
    Attack("a deep value", {"relu": """
def relu(x):
    value = []
    for _ in range(900):
        value = [value]
    return value
"""}, says="gave"),
    Attack("memory", in_test("x = [bytearray(100 << 20) for _ in range(100)]"),
           says="MemoryError|ended Python|longer", flag=None),
    Attack("disk", in_cell("""
for place in ("big", "/dev/shm/big"):
    try:
        with open(place, "wb") as file:
            for _ in range(100):
                file.write(bytes(1 << 20))
    except OSError as error:
        found.append(error.errno)
"""), says=r"found \[\d+, \d+\]"),
    Attack("many files", in_cell("""
import os
try:
    for number in range(1000):
        with open(f"f{number}", "wb") as file:
            file.write(bytes(1 << 16))
except OSError as error:
    found.append(error.errno)
"""), says=r"found \[28\]"),
]  # fmt: skip
SLOW = [
    Attack("a huge value", {"relu": "def relu(x): return 'x' * (70 << 20)"}, spares=False,
           flag=None),
    Attack("a loop that blocks the alarm", in_test("""
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: pass
"""), flag=TOOK_LONG),
    Attack("a loop that catches everything", {"relu": """
def relu(x):
    while True:
        try:
            while True: sum(range(100))
        except BaseException:
            pass
"""}, flag=TOOK_LONG),
    Attack("a fork bomb", in_cell("""
import os
for _ in range(12):
    try:
        os.fork()
    except OSError:
        pass
"""), flag=None),
    Attack("a fork bomb in a test", {"relu": """
@op
def relu(x):
    import os
    for _ in range(12):
        try:
            os.fork()
        except OSError:
            pass
    return np.maximum(x, 0)
"""}, loses=(), flag=None),
    Attack("survivors", in_cell("""
import os, time
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        if os.fork():
            os._exit(0)
        time.sleep(1000)
        os._exit(0)
"""), says=r"found \[\]"),
    Attack("memory of many processes", in_test("""
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = bytearray(b"x") * (200 << 20)
        time.sleep(1000)
time.sleep(1000)
"""), spares=False, flag=None),
    Attack("memory that no process holds", in_cell("""
import os, mmap
try:
    os.memfd_create("hidden")
except OSError as error:
    found.append(error.errno)
"""), says=r"found \[1\]"),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_limits_hold(bench, attack):
    """What takes too much ends, and costs the test that ran into it."""
    bench.assert_holds(attack)


@pytest.mark.parametrize("attack", SLOW, ids=lambda attack: attack.name)
def test_limits_hold_against_those_who_resist(bench, attack):
    """So does what the process itself can't end: the keeper and the grader do."""
    bench.assert_holds(attack)


@pytest.mark.parametrize("name", ["a loop in a function", "a loop in a solution cell"])
def test_time_is_limited_without_a_sandbox(bench, name):
    """Limits alone end a loop as well."""
    [attack] = (attack for attack in ATTACKS if attack.name == name)
    bench.assert_holds(attack, isolated=False)

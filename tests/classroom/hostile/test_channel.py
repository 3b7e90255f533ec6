"""Talking to the grader in the sandbox's stead."""

import pytest
from attack import Attack, in_cell, in_test

pytestmark = pytest.mark.slow

GARBAGE = """
import os
for descriptor in range(256):
    try:
        os.write(descriptor, b"\\0\\0\\0\\5hello")
    except OSError:
        pass
"""
FORGED = """
import json, os, struct
def frame(message):
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body
ended = {"ended": True, "values": [], "error": "", "flags": [], "token": "0" * 32}
for message in (ended, {"done": True, "ran": [], "secret": "0" * 32}, {"left": "test-relu"}):
    for descriptor in range(256):
        try:
            os.write(descriptor, frame(message))
        except OSError:
            pass
"""
BOMB = """
import os
for descriptor in range(3, 256):
    try:
        os.write(descriptor, b"\\0\\0\\x10\\0" + b"[" * 4096)
    except OSError:
        pass
"""
FROM_A_THREAD = """
import threading
def work():
    while True:
        {body}
threading.Thread(target=work, daemon=True).start()
"""
SAID = "sent what no cell sends|token"


@pytest.mark.parametrize("code", [GARBAGE, FORGED, BOMB], ids=["garbage", "forged", "nested"])
def test_a_cell_that_writes_to_every_descriptor(bench, code, isolated):
    """Frames that don't know the secret end the conversation: no points, and a flag."""
    bench.assert_holds(Attack("", in_cell(code), spares=False, flag=SAID), isolated)


@pytest.mark.parametrize("code", [GARBAGE, FORGED, BOMB], ids=["garbage", "forged", "nested"])
def test_a_function_that_writes_to_every_descriptor(bench, code, isolated):
    """The same when a test calls it."""
    bench.assert_holds(Attack("", in_test(code), spares=False, flag=SAID), isolated)


def test_a_thread_that_writes_to_every_descriptor(bench, isolated):
    """The same from a thread, at any time."""
    code = FROM_A_THREAD.format(body=FORGED.strip().replace("\n", "\n        "))
    bench.assert_holds(Attack("", in_cell(code), spares=False, flag="."), isolated)


def test_printing_a_score(bench, isolated):
    """Nobody reads what is printed."""
    code = """
import sys
for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
    print('{"points": 100, "passed": true}', "OK", file=stream, flush=True)
"""
    bench.assert_holds(Attack("", in_cell(code), says=r"found \[\]"), isolated)


def test_a_thief_of_the_next_test(bench, isolated):
    """A thread that takes a test's message off the socket gets no points for it."""
    code = """
import json, os, struct, threading
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(3, size - len(data))
    return data
def work():
    while True:
        try:
            [size] = struct.unpack(">I", read(4))
            test = json.loads(read(size))
            body = json.dumps({"ended": True, "token": test["token"], "error": "", "flags": [],
                               "values": []}).encode()
            os.write(3, struct.pack(">I", len(body)) + body)
        except Exception:
            pass
threading.Thread(target=work, daemon=True).start()
"""
    bench.assert_holds(Attack("", in_cell(code), spares=False, flag=None), isolated)

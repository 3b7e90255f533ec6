"""Frames and values between the grader and the sandbox; what hostile bytes can do to the grader."""

import json
import math
import socket
import struct
import threading

import numpy as np
import pytest

from tinytorch import Tensor
from tito.classroom import wire
from tito.classroom.wire import WireError, decode, encode, receive, send
from tito.testing import difference


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    yield ours, theirs
    ours.close()
    theirs.close()


VALUES = [
    None, True, False, 0, -7, 2**53, -(2**200), 0.1, -0.0, math.inf, 1 + 2j, "",
    "é\ud800\0", b"\0\xff",
    [], [1, [2.0, "three"]], (), (1,), {1, 2}, frozenset({"a"}), {}, {"a": [1], 2: None},
    np.arange(6).reshape(2, 3), np.zeros((0, 3), np.float16), np.array(3.5, np.float32),
    np.array([True]), np.array(["ab", "c"]), np.arange(12, dtype=np.int8).reshape(3, 4)[:, ::2],
    np.array([1 + 1j], np.complex64), np.dtype(np.int16), np.float32, float, ValueError,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_arrive_as_they_were(value):
    """JSON in between, and every type, shape, dtype and bit is the same."""
    came = decode(json.loads(json.dumps(encode(value))))
    assert type(came) is type(value)
    if isinstance(value, np.ndarray):
        assert came.dtype == value.dtype
        np.testing.assert_array_equal(came, value)
    else:
        assert came == value


def test_nan_tensors_and_scalars():
    """A Tensor arrives as its array, and NumPy's scalars as arrays without axes."""
    assert math.isnan(decode(encode(math.nan)))
    assert decode(encode(Tensor([1.0, 2.0]))).tolist() == [1.0, 2.0]
    assert decode(encode(np.float32(0.5))).shape == ()


def test_what_is_no_plain_value_arrives_as_its_name():
    """Subclasses, objects, endless and huge values are nothing that a check expects."""

    class Array(np.ndarray):
        pass

    class Number(float):
        __eq__ = lambda self, other: True  # noqa: E731
        __hash__ = float.__hash__

    endless = []
    endless.append(endless)
    for value in (
        object(),
        np.zeros(3).view(Array),
        Number(1),
        np.array([None]),
        endless,
        1 << 9999,
    ):
        assert difference(decode(encode(value)), 1.0, 1e-6)
        assert difference(decode(encode(value)), [0.0, 0.0, 0.0], 1e-6)


HOSTILE = [
    {}, {"a": 1, "b": 2}, [], [1], {"int": "zz"}, {"int": 5}, {"int": "f" * 5000}, 10**4000,
    {"complex": ["a", "b"]}, {"bytes": "é"}, {"bytes": 1},
    {"array": ["O", [1], "AAAA"]}, {"array": ["i4,i4", [1], "AAAAAAAAAAA="]}, {"array": []},
    {"array": ["<f4", [1 << 40], "AAAAAA=="]}, {"array": ["<f4", "x", "AAAAAA=="]},
    {"array": ["<U1", [1], "/////w=="]}, {"array": ["V9999999999", [1], ""]},
    {"array": [{"names": ["a"]}, [1], ""]}, {"array": ["((", [1], ""]}, {"array": ["f4,", [1], ""]},
    {"dtype": "f8,,"}, {"dtype": []}, {"dtype": "x" * 99}, {"real": 1},
    {"set": [{"list": []}]}, {"dict": [[{"list": []}, 1]]}, {"dict": [1]}, {"dict": [[1]]},
    {"set": [k * (2**61 - 1) for k in range(20_000)]},
    {"eval": "1"}, {"list": 5}, {"tuple": None},
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data)[:50])
def test_what_no_encoder_wrote_is_refused(data):
    """Nothing but WireError comes of it; never another error, never a value that can't be shown."""
    with pytest.raises(WireError):
        decode(data)


def test_types_are_found_by_name_but_nothing_is_imported():
    """A type of another module is a stand-in, equal to itself alone."""
    assert decode({"type": "builtins.int"}) is int
    assert decode({"type": "numpy.float32"}) is np.float32
    stand_in = decode({"type": "os.system"})
    assert isinstance(stand_in, type)
    assert stand_in is decode({"type": "os.system"})
    assert decode({"type": "builtins.eval"}) is not eval


def test_names_of_types_can_be_shown():
    """A stranger's names hold nothing that a terminal, a page or a file would stumble over."""
    for name in ("\0", "\ud800", "\x1b[31m", "\u202e", ["x"]):
        for data in ({"other": name}, {"type": name}):
            assert difference(decode(data), 1.0, 1e-6).isprintable()


def test_frames(pair):
    """What is sent is received, in order."""
    ours, theirs = pair
    for message in ({"a": [1, None]}, {}, {"text": "\0é"}):
        send(theirs, message)
        assert receive(ours) == message


def nested(depth):
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0",
        struct.pack(">I", wire.LARGEST + 1),
        struct.pack(">I", 100) + b"short",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 3) + b"\xff\xfe\xfd",
        *(struct.pack(">I", len(nested(d))) + nested(d) for d in (200, 900, 950, 990, 100_000)),
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_what_is_no_frame_is_refused(pair, raw):
    """Bytes that end early, are too many, or no object of JSON raise WireError alone."""
    ours, theirs = pair
    threading.Thread(target=lambda: (theirs.sendall(raw), theirs.close())).start()
    with pytest.raises(WireError):
        receive(ours)


def test_a_frame_too_large_is_not_sent(pair):
    """The sender notices first."""
    with pytest.raises(WireError, match="at most"):
        send(pair[0], {"a": "x" * wire.LARGEST})


def test_waiting_ends(pair):
    """A silent other side is a TimeoutError."""
    ours, _ = pair
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        receive(ours)

"""What passes between the grader and the sandbox: frames of JSON, and plain values within them.

The grader reads what a stranger's code may have written: nothing here is evaluated or unpickled,
sizes are bounded, and an object of an unknown type arrives as its type's name alone.
"""

from __future__ import annotations

import base64
import builtins
import json
import re
import socket
import struct
from typing import Any

import numpy as np

from tito.testing import unwrap

LARGEST = 1 << 26  # bytes of a frame
DEEPEST = 40  # levels of a value
LEVELS = 4 * DEEPEST  # of JSON: a dict takes three levels for one of its own
MOST_KEYS = 10_000  # of a set or dict: numbers can be chosen so that all their hashes are equal
LONGEST_NUMBER = 4096  # bits of an int: Python takes very long to print longer ones, or refuses
_HEADER = struct.Struct(">I")
_NUMERIC = "biufcSU"  # kinds of dtype whose bytes are the value
_DTYPE = re.compile(r"[<>|]?\w{1,12}(\[\w{1,9}\])?")  # NumPy itself parses much more


class WireError(Exception):
    """What came is no frame of ours, or the other side has gone."""


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Write one frame."""
    body = json.dumps(message).encode()
    if len(body) > LARGEST:
        raise WireError(f"a frame of {len(body)} bytes: at most {LARGEST} pass")
    channel.sendall(_HEADER.pack(len(body)) + body)


def receive(channel: socket.socket) -> dict[str, Any]:
    """Read one frame; WireError where none comes, TimeoutError by the channel's own limit."""
    [size] = _HEADER.unpack(_read(channel, _HEADER.size))
    if size > LARGEST:
        raise WireError(f"a frame of {size} bytes: at most {LARGEST} pass")
    try:
        message = json.loads(_read(channel, size))
    except (ValueError, RecursionError) as error:
        raise WireError(f"no JSON: {error}") from None
    if type(message) is not dict:
        raise WireError("a frame holds an object")
    if _is_deeper(message, LEVELS):
        raise WireError(f"a frame of more than {LEVELS} levels")
    return message


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and dicts of JSON are nested deeper, so that even printing them may fail."""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for item in level
            for child in (item.values() if type(item) is dict else item)
            if type(child) in (dict, list)
        ]
        if not level:
            return False
    return True


def _read(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = channel.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise WireError("the other side has gone")
        data += piece
    return bytes(data)


def shown(text: Any, longest: int) -> str:
    """What a stranger says, as it can stand in a line of a terminal, a page or a file."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:longest])


def encode(value: Any, depth: int = 0) -> Any:
    """`value` as JSON can hold it: exact plain types, arrays and Tensors; of the rest the type."""
    value = unwrap(value)
    kind = type(value)
    if depth > DEEPEST:
        return {"other": "a value too deep to compare"}
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        if value.bit_length() > LONGEST_NUMBER:
            return {"other": f"an int of {value.bit_length()} bits"}
        return value if abs(value) < 2**53 else {"int": hex(value)}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if kind is np.ndarray and value.dtype.kind in _NUMERIC:
        array = np.ascontiguousarray(value)
        payload = base64.b64encode(array.tobytes()).decode()
        return {"array": [array.dtype.str, list(value.shape), payload]}
    if isinstance(value, np.dtype):
        return {"dtype": value.str}
    if isinstance(value, type):
        return {"type": f"{value.__module__}.{value.__qualname__}"}
    if kind in (list, tuple):
        return {kind.__name__: [encode(item, depth + 1) for item in value]}
    if kind in (set, frozenset):
        return {kind.__name__: [encode(item, depth + 1) for item in value]}
    if kind is dict:
        pairs = [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in value.items()]
        return {"dict": pairs}
    return {"other": kind.__name__}


def decode(data: Any) -> Any:
    """The value that `encode` took; WireError if `data` is no work of its."""
    try:
        return _decode(data)
    except (
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        MemoryError,
        SystemError,
    ) as error:
        raise WireError(f"no value: {error}") from None


def _decode(data: Any) -> Any:
    if type(data) is int and data.bit_length() > LONGEST_NUMBER:
        raise ValueError(f"an int of {data.bit_length()} bits")
    if data is None or type(data) in (bool, int, float, str):
        return data
    [(tag, content)] = data.items()
    match tag:
        case "int":
            return _decode(int(content, 16))
        case "complex":
            return complex(*content)
        case "bytes":
            return base64.b64decode(content)
        case "array":
            return _array(*content)
        case "dtype":
            return _dtype(content)
        case "type":
            return _type(shown(content, 200))
        case "list" | "tuple":
            return getattr(builtins, tag)(_decode(item) for item in content)
        case "set" | "frozenset" if len(content) <= MOST_KEYS:
            return getattr(builtins, tag)(_decode(item) for item in content)
        case "dict" if len(content) <= MOST_KEYS:
            return {_decode(key): _decode(item) for key, item in content}
        case "other":
            return type(shown(content, 200), (), {})()
    raise ValueError(f"tag {tag!r}")


def _dtype(text: str) -> np.dtype:
    if not _DTYPE.fullmatch(text):
        raise ValueError(f"dtype {text[:20]!r}")
    return np.dtype(text)


def _array(dtype: str, shape: list[int], payload: str) -> np.ndarray:
    kind = _dtype(dtype)
    if kind.kind not in _NUMERIC:
        raise ValueError(f"dtype {kind}")
    array = np.frombuffer(base64.b64decode(payload), kind).reshape(shape)
    if kind.kind == "U":
        array.tolist()  # fails where a number in it is no character
    return array


_types: dict[str, type] = {}  # one stand-in a name, so that equal names are the same type


def _type(name: str) -> type:
    """The type of that name where it is Python's or NumPy's; else one that stands for it."""
    module, _, short = name.rpartition(".")
    if module == "builtins" and isinstance(found := getattr(builtins, short, None), type):
        return found
    if module == "numpy" and isinstance(found := np.sctypeDict.get(short), type):
        return found
    return _types.setdefault(name, type(short, (), {}))

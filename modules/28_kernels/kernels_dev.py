# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.kernels

# %% [markdown]
r"""
# INT8 that is really faster

> Integer kernels in Python: the processor's own dot product of bytes, from packed weights to whole models.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import ctypes
import functools
import inspect
import itertools
import math
import os
import sys
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from tinytorch.core.autograd import nondifferentiable
from tinytorch.core.layers import Module
from tinytorch.core.tensor import Tensor, op
from tinytorch.optimization.lowbit import LowBitLinear, unpack_bits
from tinytorch.optimization.observers import Fused
from tinytorch.optimization.quantization import (
    QuantizedLinear,
    dequantize_int8,
    finite,
    integer_range,
    replace_modules,
)
from tinytorch.profiling.profiler import FLOPS


# %% nbgrader={"grade": false, "grade_id": "tell", "locked": true, "solution": false}
#| exporti
@functools.cache
def tell(message: str) -> None:
    """Say something on stderr, once in a process; nothing where progress bars are switched off."""
    if os.environ.get("TQDM_DISABLE", "0") in ("", "0"):
        print(f"tinytorch: {message}", file=sys.stderr)


# %% nbgrader={"grade": false, "grade_id": "kernel-choice", "locked": true, "solution": false}
#| export
KERNELS = ("amx", "vnni", "generic", "numpy")  # from fast to slow


@functools.cache
def int8_kernel() -> str:
    """The kernel that INT8 layers run on: the first of these that this process offers.

    "amx" multiplies tiles of bytes, "vnni" has a dot product of four bytes (AVX512-VNNI), "generic"
    is integer code for any CPU that Numba knows, and "numpy" carries the integers in float32.
    The environment's `TINYTORCH_KERNEL` chooses another: it is read once. Raises ValueError for one
    that isn't there.
    """
    asked = os.environ.get("TINYTORCH_KERNEL", "auto")
    if asked not in ("auto", *KERNELS):
        raise ValueError(f"TINYTORCH_KERNEL: expected auto or one of {KERNELS}, got {asked!r}")
    if asked == "numpy":
        return asked
    offered = offered_kernels(target_features())
    if asked != "auto" and asked not in offered:
        raise ValueError(f"TINYTORCH_KERNEL={asked}: this process offers {', '.join(offered)}")
    if offered == ["numpy"]:
        tell("INT8 is no faster than FP32 on NumPy: pip install 'tinytorch[fast]' for kernels")
    elif asked == "auto" and offered[0] == "generic":
        tell(f"no AVX512-VNNI: above {FEW_ROWS} rows, INT8 values are carried in float32")
    return offered[0] if asked == "auto" else asked


# %% nbgrader={"grade": false, "grade_id": "features", "locked": true, "solution": false}
#| exporti
def target_features() -> set[str] | None:
    """What the CPU that Numba compiles for can do; None without Numba.

    It need not be this machine's: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES choose another.
    """
    try:
        from numba.core.registry import cpu_target
    except ImportError:
        return None
    *_, features = cpu_target.target_context.codegen().magic_tuple()
    return {word[1:] for word in features.split(",") if word.startswith("+")}


def offered_kernels(features: set[str] | None) -> list[str]:
    """The kernels that run on a CPU with these features.

    >>> offered_kernels({"avx512f", "avx512bw", "avx512vnni"}), offered_kernels(None)
    (['vnni', 'generic', 'numpy'], ['numpy'])
    """
    if features is None:
        return ["numpy"]
    vnni = {"avx512bw", "avx512vnni"} <= features
    amx = vnni and {"amx-tile", "amx-int8"} <= features and amx_permitted()
    return ["amx"] * amx + ["vnni"] * vnni + ["generic", "numpy"]


@functools.cache
def amx_permitted() -> bool:
    """Ask Linux for AMX's tile registers: a process has them only after it has asked."""
    if sys.platform != "linux":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


# %% nbgrader={"grade": false, "grade_id": "pack-panels", "locked": false, "solution": true}
#| export
PANEL = 64  # columns that a tile has


def pack_panels(weight: np.ndarray, multiple: int = 64) -> np.ndarray:
    """int8 (K, N) -> (N / 64, K / 4, 64, 4): four numbers of a column side by side.

    Zeros fill up K to the `multiple`, N to 64.

    >>> pack_panels(np.arange(8, dtype=np.int8).reshape(4, 2), multiple=4)[0, 0, :2].tolist()
    [[0, 2, 4, 6], [1, 3, 5, 7]]
    """
    ### BEGIN SOLUTION
    k, n = weight.shape
    padded = np.zeros((k + -k % multiple, n + -n % PANEL), np.int8)
    padded[:k, :n] = weight
    blocks = padded.reshape(len(padded) // 4, 4, -1, PANEL)  # quad, place in it, panel, column
    return np.ascontiguousarray(blocks.transpose(2, 0, 3, 1))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "pack-nibbles", "locked": false, "solution": true}
#| export
def pack_nibbles(panels: np.ndarray) -> np.ndarray:
    """Panels of 4-bit numbers in half the bytes: uint8 (N / 64, K / 8, 64, 4), even quads low.

    >>> pack_nibbles(pack_panels(np.arange(8, dtype=np.int8)[:, None], 8))[0, 0, 0].tolist()
    [64, 81, 98, 115]
    """
    ### BEGIN SOLUTION
    low, high = panels[:, ::2].view(np.uint8), panels[:, 1::2].view(np.uint8)
    return low & 15 | high << 4
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "sixteenfold", "locked": false, "solution": true}
#| export
def sixteenfold(packed: np.ndarray) -> np.ndarray:
    """What `pack_nibbles` packed, each number times 16, as int8 panels (N / 64, K / 4, 64, 4).

    A nibble in the upper half of its byte, with zeros below, is 16 times its value, sign included.

    >>> sixteenfold(np.array([[[[0x7F, 0x80, 0, 1]]]], np.uint8)).tolist()
    [[[[-16, 0, 0, 16]], [[112, -128, 0, 0]]]]
    """
    ### BEGIN SOLUTION
    panels, octets, *rest = packed.shape
    quads = np.stack([packed << 4, packed & 0xF0], axis=2)  # even quads, odd quads
    return quads.reshape(panels, 2 * octets, *rest).view(np.int8)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "add-tile", "locked": false, "solution": true}
#| export
def add_tile(
    sums: np.ndarray,
    top: int,
    rows: np.ndarray,
    row: int,
    count: int,
    panels: np.ndarray,
    panel: int,
    first: int,
    last: int,
    fresh: bool,
    ahead: bool,
) -> None:
    """`count` rows times one panel, over the quads `first` to `last`: the meaning of a micro-kernel.

    rows uint8 (M, 4 Q) from `row` on; panels int8 (P, Q, 64, 4), or uint8 nibbles (P, Q / 2, 64, 4)
    that count 16-fold; sums int32 (., 64) from `top` on: written where `fresh`, otherwise added to.
    In compiled loops machine code stands in its place; `ahead` then fetches the weights behind.
    """
    ### BEGIN SOLUTION
    if panels.dtype == np.uint8:
        panels = sixteenfold(panels[panel : panel + 1, first // 2 : last // 2])
        panel, quads = 0, slice(None)
    else:
        quads = slice(first, last)
    bytes_ = rows[row : row + count, 4 * first : 4 * last].reshape(count, -1, 4)
    weights = panels[panel, quads].astype(np.int32)
    product = np.einsum("rqi,qni->rn", bytes_.astype(np.int32), weights)
    if fresh:
        sums[top : top + count] = product
    else:
        sums[top : top + count] += product
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "finish-tile", "locked": false, "solution": true}
#| export
def finish_tile(
    y: np.ndarray,
    row: int,
    column: int,
    sums: np.ndarray,
    top: int,
    count: int,
    grids: np.ndarray,
    columns: np.ndarray,
    scales: np.ndarray,
    floor: np.float32,
) -> None:
    """The floats that `count` rows of sums stand for, into y from (row, column) on.

    (sums - zero_point * columns[0] - total * columns[1]) * scale * scales[0] + scales[1], at least
    `floor`. grids[row] = (scale, zero_point, total of the row's bytes). columns int32 and scales
    float32 (2, N): of each column the sum of weights less zero points, and the weights' zero point;
    scale and bias. In compiled loops machine code stands in its place.
    """
    ### BEGIN SOLUTION
    rows, width = slice(row, row + count), slice(column, min(column + PANEL, y.shape[1]))
    scale, zero_point, total = grids[rows].T[:, :, None]
    exact = sums[top : top + count, : width.stop - column]
    exact = exact - zero_point.astype(np.int32) * columns[0, width]
    exact -= total.astype(np.int32) * columns[1, width]
    value = exact.astype(np.float32) * (scale * scales[0, width]) + scales[1, width]
    y[rows, width] = np.maximum(value, floor)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "add-group", "locked": false, "solution": true}
#| export
def add_group(
    totals: np.ndarray,
    sums: np.ndarray,
    top: int,
    count: int,
    scales: np.ndarray,
    group: int,
    column: int,
) -> None:
    """totals += scales * (256 * high + low), for `count` pairs of rows of sums, (high, low).

    totals float32 (., 64); sums int32 (., 64) from `top` on; scales[group] from `column` on. In compiled loops machine code stands in
    its place.
    """
    ### BEGIN SOLUTION
    pairs = sums[top : top + 2 * count].reshape(count, 2, PANEL)
    high, low = pairs.astype(np.float32).swapaxes(0, 1)
    totals[:count] += (high * np.float32(256) + low) * scales[group, column : column + PANEL]
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "emitter", "locked": true, "solution": false}
#| exporti
class Emitter:
    """What micro-kernels share: LLVM's types, and addresses within the arrays of their meaning."""

    meaning: Callable = staticmethod(add_tile)
    emit: Callable[[], None]

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any):
        from llvmlite import ir
        from numba.core import cgutils

        self.context, self.builder, self.ir, self.cgutils = context, builder, ir, cgutils
        names = inspect.signature(self.meaning).parameters
        self.types = dict(zip(names, signature.args, strict=True))
        self.values = dict(zip(names, arguments, strict=True))
        for name, kind in self.types.items():
            if hasattr(kind, "ndim"):
                array = context.make_array(kind)
                self.values[name] = array(context, builder, self.values[name])
        self.byte, self.int32, self.int64 = (ir.IntType(bits) for bits in (8, 32, 64))
        self.lanes, self.bytes64 = ir.VectorType(self.int32, 16), ir.VectorType(self.byte, 64)
        self.floats = ir.VectorType(ir.FloatType(), 16)

    def number(self, value: int) -> Any:
        return self.ir.Constant(self.int64, value)

    def each(self, value: int) -> Any:
        """The same int32 in 16 lanes."""
        return self.ir.Constant(self.lanes, [value] * 16)

    def spread(self, value: Any) -> Any:
        """One number in all 16 lanes."""
        nothing = self.ir.Constant(self.ir.VectorType(value.type, 16), self.ir.Undefined)
        one = self.builder.insert_element(nothing, value, self.ir.Constant(self.int32, 0))
        return self.builder.shuffle_vector(one, nothing, self.each(0))

    def place(self, name: str, *index: Any, kind: Any = None) -> Any:
        """A pointer to one element of an array, for reading a `kind` from there on."""
        index = tuple(self.number(i) if isinstance(i, int) else i for i in index)
        array = self.types[name], self.values[name]
        pointer = self.cgutils.get_item_pointer(self.context, self.builder, *array, index)
        return self.builder.bitcast(pointer, (kind or self.byte).as_pointer())

    def load(self, *place: Any, kind: Any) -> Any:
        value = self.builder.load(self.place(*place, kind=kind))
        value.align = 1
        return value

    def store(self, value: Any, *place: Any) -> None:
        self.builder.store(value, self.place(*place, kind=value.type)).align = 1

    def call(self, instruction: str, result: Any, *arguments: Any) -> Any:
        """One of LLVM's intrinsic instructions."""
        kind = self.ir.FunctionType(result, [argument.type for argument in arguments])
        name = f"llvm.{instruction}"
        function = self.cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, arguments)

    def prefetch(self, place: Any, write: int = 0) -> None:
        """Ask for the cache line of a place that is used soon; it may lie beyond the array's end."""
        options = (self.ir.Constant(self.int32, n) for n in (write, 3, 1))
        self.call("prefetch.p0", self.ir.VoidType(), place, *options)


# %% nbgrader={"grade": false, "grade_id": "register-tile", "locked": true, "solution": false}
#| exporti
class RegisterTile(Emitter):
    """1 to 6 rows x 64 columns of sums in 4 to 24 registers, while all quads pass by.

    Each step loads 4 registers of weights (16 columns x 4 numbers of a quad), and for each row
    spreads the 4 bytes of its quad over a register: 4 dot products for 1 small load.
    """

    def emit(self) -> None:
        builder = self.builder
        done = builder.append_basic_block("done")
        switch = builder.switch(self.values["count"], done)
        for count in range(1, 7):
            block = builder.append_basic_block(f"rows{count}")
            switch.add_case(self.number(count), block)
            builder.position_at_end(block)
            self.emit_rows(count)
            builder.branch(done)
        builder.position_at_end(done)

    def emit_rows(self, count: int) -> None:
        builder, value = self.builder, self.values
        places, sums = {}, {}
        for row, register in itertools.product(range(count), range(4)):
            top = builder.add(value["top"], self.number(row))
            places[row, register] = "sums", top, self.number(16 * register)
            before = self.load(*places[row, register], kind=self.lanes)
            before = builder.select(value["fresh"], self.each(0), before)
            sums[row, register] = self.cgutils.alloca_once_value(builder, before)
        nibbles = not self.types["panels"].dtype.signed
        step = self.number(2 if nibbles else 1)
        limits = value["first"], value["last"], step
        with self.cgutils.for_range_slice(builder, *limits, inc=True) as (quad, _):
            index = builder.lshr(quad, self.number(1)) if nibbles else quad
            with builder.if_then(value["ahead"]):
                for register in range(4):
                    later = builder.add(index, self.number(8))
                    place = "panels", value["panel"], later, 16 * register, 0
                    self.prefetch(self.place(*place))
            weights = [self.weights(index, register, nibbles) for register in range(4)]
            for row in range(count):
                for later in range(1 + nibbles):
                    spread = self.row_quad(row, builder.add(quad, self.number(later)))
                    for register in range(4):
                        slot = sums[row, register]
                        total = self.dot4(builder.load(slot), spread, weights[register][later])
                        builder.store(total, slot)
        for key, slot in sums.items():
            self.store(builder.load(slot), *places[key])

    def weights(self, index: Any, register: int, nibbles: bool) -> list[Any]:
        """16 columns of a quad; of packed nibbles two quads, each number times 16."""
        place = "panels", self.values["panel"], index, 16 * register, 0
        packed = self.load(*place, kind=self.lanes)
        if not nibbles:
            return [packed]
        upper = self.each(-0x0F0F0F10)  # 0xF0 in each byte
        low = self.builder.shl(packed, self.each(4))
        return [self.builder.and_(half, upper) for half in (low, packed)]

    def row_quad(self, row: int, quad: Any) -> Any:
        """The quad of a row in all 16 lanes."""
        row = self.builder.add(self.values["row"], self.number(row))
        column = self.builder.shl(quad, self.number(2))
        return self.spread(self.load("rows", row, column, kind=self.int32))

    def dot4(self, sums: Any, unsigned: Any, signed: Any) -> Any:
        """Each int32 lane of sums, plus the products of its 4 bytes: uint8 times int8."""
        builder = self.builder
        for place in range(4):
            left = builder.and_(builder.lshr(unsigned, self.each(8 * place)), self.each(255))
            right = builder.ashr(builder.shl(signed, self.each(24 - 8 * place)), self.each(24))
            sums = builder.add(sums, builder.mul(left, right))
        return sums


class VnniTile(RegisterTile):
    """The same with AVX512-VNNI."""

    def dot4(self, sums: Any, unsigned: Any, signed: Any) -> Any:
        """`vpdpbusd`: 64 products and 64 additions in one instruction, without saturation."""
        both = [self.builder.bitcast(x, self.bytes64) for x in (unsigned, signed)]
        return self.call("x86.avx512.vpdpbusd.512", self.lanes, sums, *both)


# %% nbgrader={"grade": false, "grade_id": "amx-tile", "locked": true, "solution": false}
#| exporti
class AmxTile(Emitter):
    """1 to 32 rows x 64 columns by AMX: eight tile registers of up to 16 rows x 64 bytes.

    `tdpbusd` adds (16 rows x 64 bytes) @ (16 quads x 16 columns) to 16 x 16 sums of int32: 16,384
    products. Tiles 0 to 3 hold the sums of two times 16 rows and two times 16 columns, 4 and 5 the
    rows, 6 and 7 the weights: four loads for four products. A panel takes two passes.
    """

    def emit(self) -> None:
        builder, count = self.builder, self.values["count"]
        few = builder.icmp_signed("<=", count, self.number(16))
        self.configure(few)
        with builder.if_else(few) as (one, two):
            for blocks, case in ((1, one), (2, two)):
                with case:
                    for half in (0, 1):
                        self.emit_half(blocks, half)
        self.call("x86.tilerelease", self.ir.VoidType())

    def configure(self, few: Any) -> None:
        """Tell the processor the tiles' shapes: bytes 16 + 2 t for a width, 48 + t for a height."""
        builder, count, full = self.builder, self.values["count"], self.number(16)
        shapes = [1] + [0] * 15 + [64, 0] * 8 + [0] * 16 + [16] * 8 + [0] * 8  # 1: the format
        table: Any = self.ir.Constant(self.bytes64, shapes)
        upper = builder.select(few, count, full)
        lower = builder.select(few, full, builder.sub(count, full))
        heights = {0: upper, 1: upper, 2: lower, 3: lower, 4: upper, 5: lower}
        for tile, height in heights.items():
            place = self.ir.Constant(self.int32, 48 + tile)
            table = builder.insert_element(table, builder.trunc(height, self.byte), place)
        slot = self.cgutils.alloca_once_value(builder, table)
        pointer = builder.bitcast(slot, self.byte.as_pointer())
        self.call("x86.ldtilecfg", self.ir.VoidType(), pointer)

    def emit_half(self, blocks: int, half: int) -> None:
        """32 of the panel's columns, for one or two blocks of up to 16 rows."""
        builder, value = self.builder, self.values
        tiles = [
            (2 * block + i, block, 32 * half + 16 * i) for block in range(blocks) for i in (0, 1)
        ]
        sums = [(number, "sums", self.row("top", block), at) for number, block, at in tiles]
        with builder.if_else(value["fresh"]) as (fresh, further):
            with fresh:
                for number, *_ in sums:
                    self.call("x86.tilezero", self.ir.VoidType(), self.tile(number))
            with further:
                for tile in sums:
                    self.move("tileloadd64", *tile)
        limits = value["first"], value["last"], self.number(16)
        with self.cgutils.for_range_slice(builder, *limits, inc=True) as (quad, _):
            for i in (0, 1):
                place = "panels", value["panel"], quad, 32 * half + 16 * i, 0
                self.move("tileloadd64", 6 + i, *place)
            with builder.if_then(value["ahead"]):
                for i, line in itertools.product(range(16), range(2)):
                    later = builder.add(quad, self.number(32 + i))
                    place = "panels", value["panel"], later, 32 * half + 16 * line, 0
                    self.prefetch(self.place(*place))
            for block in range(blocks):
                column = builder.shl(quad, self.number(2))
                self.move("tileloadd64", 4 + block, "rows", self.row("row", block), column)
                for i in (0, 1):
                    three = (self.tile(t) for t in (2 * block + i, 4 + block, 6 + i))
                    self.call("x86.tdpbusd", self.ir.VoidType(), *three)
        for tile in sums:
            self.move("tilestored64", *tile)

    def row(self, name: str, block: int) -> Any:
        return self.builder.add(self.values[name], self.number(16 * block))

    def tile(self, number: int) -> Any:
        return self.ir.Constant(self.byte, number)

    def move(self, instruction: str, tile: int, name: str, *index: Any) -> None:
        """Load or store a tile: 256 bytes lie from row to row of sums, from quad to quad of panels."""
        stride = self.number(256)
        if name == "rows":
            stride = self.builder.extract_value(self.values["rows"].strides, 0)
        place = self.place(name, *index)
        self.call(f"x86.{instruction}", self.ir.VoidType(), self.tile(tile), place, stride)


# %% nbgrader={"grade": false, "grade_id": "finishers", "locked": true, "solution": false}
#| exporti
class Finisher(Emitter):
    """`finish_tile`, 16 columns at a time."""

    meaning = staticmethod(finish_tile)

    def emit(self) -> None:
        builder, value = self.builder, self.values
        width = builder.extract_value(value["y"].shape, 1)
        places = [builder.add(value["column"], self.number(16 * i)) for i in range(4)]
        tables = [self.tables(column) for column in places]
        floor = self.spread(value["floor"])
        with self.cgutils.for_range(builder, value["count"]) as loop:
            row, top = (builder.add(value[name], loop.index) for name in ("row", "top"))
            grid = [self.load("grids", row, i, kind=self.floats.element) for i in range(3)]
            step = self.spread(grid[0])
            zero_point, total = (self.spread(builder.fptosi(x, self.int32)) for x in grid[1:])
            for i, (sums, zeros, scale, bias) in enumerate(tables):
                exact = self.load("sums", top, self.number(16 * i), kind=self.lanes)
                exact = builder.sub(exact, builder.mul(sums, zero_point))
                exact = builder.sub(exact, builder.mul(zeros, total))
                result = builder.fmul(builder.sitofp(exact, self.floats), builder.fmul(scale, step))
                result = builder.fadd(result, bias)
                result = builder.select(builder.fcmp_ordered(">", result, floor), result, floor)
                self.store_part(result, builder.sub(width, places[i]), "y", row, places[i])
                later = builder.add(places[i], self.number(PANEL))
                self.prefetch(self.place("y", row, later), write=1)

    def tables(self, column: Any) -> list[Any]:
        """16 columns of both tables' rows."""
        kinds = {"columns": self.lanes, "scales": self.floats}
        return [self.load(name, i, column, kind=kinds[name]) for name in kinds for i in (0, 1)]

    def store_part(self, vector: Any, left: Any, *place: Any) -> None:
        """Store as many lanes as there are columns left."""
        numbers = self.ir.Constant(self.lanes, list(range(16)))
        left = self.spread(self.builder.trunc(left, self.int32))
        mask = self.builder.icmp_signed("<", numbers, left)
        pointer = self.place(*place, kind=vector.type)
        align = self.ir.Constant(self.int32, 4)
        name, nothing = "masked.store.v16f32.p0", self.ir.VoidType()
        self.call(name, nothing, vector, pointer, align, mask)


class GroupAdder(Emitter):
    """`add_group`, 16 columns at a time."""

    meaning = staticmethod(add_group)

    def emit(self) -> None:
        builder, value = self.builder, self.values
        with self.cgutils.for_range(builder, value["count"]) as loop:
            high = builder.add(value["top"], builder.shl(loop.index, self.number(1)))
            rows = high, builder.add(high, self.number(1))
            for register in range(4):
                place = self.number(16 * register)
                digits = [self.load("sums", row, place, kind=self.lanes) for row in rows]
                digits = [builder.sitofp(digit, self.floats) for digit in digits]
                both = builder.fmul(digits[0], self.ir.Constant(self.floats, [256.0] * 16))
                both = builder.fadd(both, digits[1])
                column = builder.add(value["column"], place)
                scale = self.load("scales", value["group"], column, kind=self.floats)
                total = self.load("totals", loop.index, place, kind=self.floats)
                total = builder.fadd(total, builder.fmul(both, scale))
                self.store(total, "totals", loop.index, place)


# %% nbgrader={"grade": false, "grade_id": "compiled", "locked": true, "solution": false}
#| exporti
TILES = {"amx": AmxTile, "vnni": VnniTile, "generic": RegisterTile}
TILE_ROWS, BLOCK = 6, 128  # rows of a tile; quads after which the next rows have their turn
SIZES = {"amx": (32, 512), "vnni": (TILE_ROWS, BLOCK), "generic": (TILE_ROWS, BLOCK)}
THREAD_WORK = 2**22  # products below which starting threads costs more than they gain
LOCK = threading.Lock()  # Numba's simplest pool of threads may serve one caller at a time
prange = range


@functools.cache
def compiled(loop: Callable, kernel: str, parallel: bool) -> Callable:
    """A loop as machine code: the same source, in which a few names mean something faster.

    `add_tile`, `finish_tile` and `add_group` become micro-kernels, TILE_ROWS and BLOCK their sizes,
    and where `parallel`, `prange` is Numba's. What was compiled is kept on disk: beside the file, or where that
    can't be written, in NUMBA_CACHE_DIR or the user's cache folder.
    """
    import numba
    from numba.core import event

    rows, block = SIZES[kernel]
    names: dict[str, Any] = {"TILE_ROWS": rows, "BLOCK": block}
    for emitter in (TILES[kernel], Finisher, GroupAdder):
        names[emitter.meaning.__name__] = as_intrinsic(emitter)
    if parallel:
        names["prange"] = numba.prange
    name = f"{loop.__name__}_{kernel}" + "_parallel" * parallel  # each has a file in the cache
    renamed = FunctionType(loop.__code__, {**loop.__globals__, **names}, name)
    renamed.__qualname__ = name
    event.register("numba:compile", announcer())
    flags = {"fastmath": {"nnan", "nsz"}, "error_model": "numpy"}  # what comes here is finite
    options: Any = {"nogil": True, "parallel": parallel, **flags}
    try:
        return numba.njit(renamed, cache=True, **options)
    except RuntimeError:  # a cell of a notebook has no file that a cache could lie beside
        return numba.njit(renamed, **options)


@functools.cache
def as_intrinsic(emitter: type[Emitter]) -> Any:
    """What Numba puts where a loop calls the emitter's meaning: its instructions."""
    from numba.core import types
    from numba.extending import intrinsic

    def emit(context, builder, signature, arguments):
        emitter(context, builder, signature, arguments).emit()
        return context.get_dummy_value()

    def typed(typing, *arguments):
        """Arrays and single floats as they come, numbers of rows and the like as int64."""
        kinds = [types.intp if isinstance(kind, types.Integer) else kind for kind in arguments]
        return types.void(*kinds), emit

    names = ", ".join(inspect.signature(emitter.meaning).parameters)
    return intrinsic(eval(f"lambda typing, {names}: typed(typing, {names})", {"typed": typed}))


@functools.cache
def announcer() -> Any:
    """Says once that kernels are being compiled, when they are: not when the disk has them."""
    from numba.core.event import Listener

    class Announcer(Listener):
        def on_start(self, event):
            if event.data["dispatcher"].py_func.__globals__.get("add_tile") is not None:
                tell("compiling INT8 kernels for this CPU; they are kept on disk")

        def on_end(self, event):
            pass

    return Announcer()


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that begins with a cache line: a register's load from it touches one only."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    return np.ndarray(shape, dtype, raw, -raw.__array_interface__["data"][0] % 64)


def run(loop: Callable, kernel: str, work: int, *arguments: Any) -> Any:
    """Call a loop as machine code, in as many parts as Numba has threads if the work is worth it.

    `numba.set_num_threads` or NUMBA_NUM_THREADS say how many.
    """
    import numba

    threads = numba.get_num_threads() if work >= THREAD_WORK else 1
    if threads == 1:
        return compiled(loop, kernel, False)(*arguments, 1)
    with LOCK:
        return compiled(loop, kernel, True)(*arguments, threads)


# %% nbgrader={"grade": false, "grade_id": "quantize-rows", "locked": true, "solution": false}
#| exporti
INFINITE = 0x7F800000  # float32's exponent all ones: infinity, or above it NaN
SMALLEST = 2.0**-120  # of a scale: one over it is a float32


def quantize_rows(x, q, grids, grid, back, parts):
    """Rows of x as bytes q = clip(rint(x / scale) + zero_point, lowest, highest).

    grid = (scale, zero_point, lowest, highest); a scale of 0 gives each row the grid that covers
    its own values and 0. grids[row] = (scale, zero_point, sum of its bytes). With `back`, q is what
    the bytes stand for, in floats. Returns how many rows hold NaN or infinity: they are left out.

    If the bits of negative numbers are flipped, integers order as floats do, with infinity and NaN
    outermost: one pass over the bits finds the range, and whether it is finite.
    """
    bits, broken = x.view(np.int32), 0
    lowest, highest = np.float32(grid[2]), np.float32(grid[3])
    for part in prange(parts):
        edge_bits = np.empty(2, np.int32)
        edges = edge_bits.view(np.float32)
        for row in range(part * len(x) // parts, (part + 1) * len(x) // parts):
            low, high = np.int32(0), np.int32(0)
            for k in range(x.shape[1]):
                key = np.int32(bits[row, k] ^ (bits[row, k] >> 31 & 0x7FFFFFFF))
                low, high = min(low, key), max(high, key)
            if high >= INFINITE or low < -INFINITE:
                broken += 1
                continue
            scale, zero_point = grid[0], np.float32(grid[1])
            if scale == 0:
                edge_bits[0], edge_bits[1] = low ^ (low >> 31 & 0x7FFFFFFF), high
                smallest, largest = np.float64(edges[0]), np.float64(edges[1])
                scale = (largest - smallest) / (highest - lowest)
                scale = scale if scale > SMALLEST else 1.0
                zero_point = np.float32(np.rint(lowest - smallest / scale))
            inverse, total = np.float32(1 / scale), np.int32(0)
            for k in range(x.shape[1]):
                mark = np.rint(x[row, k] * inverse) + zero_point
                mark = min(max(mark, lowest), highest)
                q[row, k] = mark
                total = np.int32(total + np.int32(mark))
            grids[row, 0], grids[row, 1], grids[row, 2] = scale, zero_point, total
            if back:
                for k in range(x.shape[1]):
                    q[row, k] = (q[row, k] - zero_point) * np.float32(scale)
    return broken


# %% nbgrader={"grade": false, "grade_id": "multiply-rows", "locked": true, "solution": false}
#| exporti
def multiply_rows(q, grids, panels, columns, scales, relu, y, parts):
    """y = scales * ((q - zero_point) @ (weight - its zero points)) + bias, and ReLU: `finish_tile`.

    A task is a panel and up to 256 rows: blocks of K that stay in the cache, tiles of about equal
    height, each finished with its last block.
    """
    floor = np.float32(0.0 if relu else -np.inf)
    blocks = (len(y) + 255) // 256
    tasks = len(panels) * blocks
    for part in prange(parts):
        raw = np.empty(257 * 64, np.int32)
        start = -raw.ctypes.data % 64 // 4  # sums begin with a cache line
        sums = raw[start : start + 256 * 64].reshape(256, 64)
        for task in range(part * tasks // parts, (part + 1) * tasks // parts):
            panel, block = task // blocks, task % blocks
            row = block * len(y) // blocks
            count = (block + 1) * len(y) // blocks - row
            tiles = (count + TILE_ROWS - 1) // TILE_ROWS
            for first in range(0, panels.shape[1], BLOCK):
                last = min(first + BLOCK, panels.shape[1])
                for tile in range(tiles):
                    top, end = tile * count // tiles, (tile + 1) * count // tiles
                    place = row + top, end - top, panels, panel, first, last
                    add_tile(sums, top, q, *place, first == 0, tile == 0)
                    if last == panels.shape[1]:
                        part_of_sums, n = (sums, top, end - top), 64 * panel
                        finish_tile(y, row + top, n, *part_of_sums, grids, columns, scales, floor)


# %% nbgrader={"grade": false, "grade_id": "split-rows", "locked": true, "solution": false}
#| exporti
def split_rows(x, digits, scales, group, parts):
    """Rows of x as 16-bit numbers u = rint(x / scale) + 32768, in two rows of bytes each.

    digits[2 row] holds u // 256, digits[2 row + 1] the rest; groups of K begin at multiples of 8.
    scales float32 (rows, 1). Returns how many rows hold NaN or infinity: they are left out.
    """
    bits, broken = x.view(np.int32), 0
    width = (group + 7) // 8 * 8
    for part in prange(parts):
        edge_bits = np.empty(1, np.int32)
        edge = edge_bits.view(np.float32)
        for row in range(part * len(x) // parts, (part + 1) * len(x) // parts):
            high = np.int32(0)
            for k in range(x.shape[1]):
                high = max(high, np.int32(bits[row, k] & 0x7FFFFFFF))
            if high >= INFINITE:
                broken += 1
                continue
            edge_bits[0] = high
            scale = np.float64(edge[0]) / 32767
            scale = scale if scale > SMALLEST else np.float64(1)
            inverse = np.float32(1 / scale)
            for g in range(x.shape[1] // group):
                for k in range(group):
                    u = np.int32(np.rint(x[row, np.uintp(g * group + k)] * inverse)) + 32768
                    place = np.uintp(g * width + k)
                    digits[2 * row, place] = u >> 8
                    digits[2 * row + 1, place] = u & 255
            scales[row, 0] = scale
    return broken


# %% nbgrader={"grade": false, "grade_id": "multiply-groups", "locked": true, "solution": false}
#| exporti
def multiply_groups(digits, row_scales, panels, scales, columns, quads, y, parts):
    """y = row_scale * (u - 32768) @ (scales * weight) + bias, where each group has its scales.

    `quads` of K make a group; columns float32 (2, N): sums of scales * weight, and the bias. Three
    rows, six with their two digits, are one tile.
    """
    blocks = (len(y) + 2) // 3
    tasks = len(panels) * blocks
    for part in prange(parts):
        sums, totals = np.empty((6, 64), np.int32), np.empty((3, 64), np.float32)
        for task in range(part * tasks // parts, (part + 1) * tasks // parts):
            panel, block = task // blocks, task % blocks
            start, row = 64 * panel, block * len(y) // blocks
            count = (block + 1) * len(y) // blocks - row
            totals[:] = 0
            for g in range(len(scales)):
                first, last = g * quads, (g + 1) * quads
                place = 2 * row, 2 * count, panels, panel, first, last
                add_tile(sums, 0, digits, *place, True, block == 0)
                add_group(totals, sums, 0, count, scales, g, start)
            for i in range(count):
                scale = row_scales[row + i, 0]
                for j in range(min(64, y.shape[1] - start)):
                    n = np.uintp(start + j)
                    value = totals[i, j] - np.float32(32768) * columns[0, n]
                    y[row + i, n] = value * scale + columns[1, n]


# %% nbgrader={"grade": false, "grade_id": "rounded-rows", "locked": false, "solution": true}
#| exporti
DYNAMIC = (0.0, 0, 0, 255)  # the grid that stands for: each row its own, as uint8


def rounded_rows(x: np.ndarray, grid: Any) -> np.ndarray:
    """Rows of float32, each number on the mark of its row's grid that is nearest: what bytes keep.

    grid = (scale, zero_point, lowest, highest); a scale of 0 gives each row a grid of its own, that
    covers its values and 0.
    """
    ### BEGIN SOLUTION
    scale, zero_point, lowest, highest = grid
    if not scale:
        low, high = (f(x, axis=1, initial=0)[:, None].astype(float) for f in (np.min, np.max))
        scale = (high - low) / (highest - lowest)
        scale = np.where(scale > SMALLEST, scale, 1.0)
        zero_point = np.rint(lowest - low / scale).astype(np.float32)
    with np.errstate(over="ignore"):  # far outside the grid is outside
        marks = x * np.float32(1 / scale)
    np.rint(marks, out=marks)
    np.clip(marks, lowest - zero_point, highest - zero_point, out=marks)
    marks *= np.float32(scale)
    return marks
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "layers", "locked": true, "solution": false}
#| export
FEW_ROWS = 4  # up to which generic integer code beats sgemm: it reads a quarter of the bytes
AMX_ROWS = 3  # from which tiles of 16 rows pay
MOST_PRODUCTS = 33_025  # each at most 255 * 255: their sum fits an int32


def held(array: np.ndarray) -> Tensor:
    """An array as a buffer: its own dtype, aligned."""
    copied = aligned(array.shape, array.dtype)
    copied[...] = array
    return Tensor._wrap(copied)


class OnKernels(Module):
    """What layers on kernels share. Their buffers are rows of tables, as wide as all panels.

    For inference: no gradient passes. There is no state to save: save the model they were made of.
    """

    in_features: int
    out_features: int
    panels: Tensor
    columns: Tensor
    scales: Tensor

    def hold(self, panels: np.ndarray, **tables: np.ndarray) -> None:
        """Keep arrays as buffers."""
        self.register_buffer("panels", held(panels), persistent=False)
        for name, table in tables.items():
            whole = np.pad(table, ((0, 0), (0, -self.out_features % PANEL)))
            self.register_buffer(name, held(whole), persistent=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy begins with a cache line, too."""
        vars(self).update(state)
        self.panels = held(self.panels.data)

    def forward(self, x: Tensor) -> Tensor:
        return accelerated_linear(x, layer=self)

    def kernel(self, rows: int, products: int) -> str:
        """The kernel for so many rows and products in a sum, or "float32": carried in floats."""
        kernel = int8_kernel()
        if kernel == "amx":
            kernel = "amx" if rows >= AMX_ROWS else "vnni"
        carried = kernel == "numpy" or (kernel == "generic" and rows > FEW_ROWS)
        return "float32" if carried or products > MOST_PRODUCTS else kernel


class Int8Linear(OnKernels):
    """A Linear that multiplies integers: float rows in, float rows out.

    `weight` is int8 (in_features, out_features) with one scale and zero point, or one a column.
    `input_grid` is (scale, zero_point, lowest, highest) of the input's bytes, 0 to 255; without one,
    each row of each call gets the grid that covers its values and 0.
    """

    def __init__(
        self,
        weight: np.ndarray,
        scale: Any,
        zero_point: Any = 0,
        bias: np.ndarray | None = None,
        input_grid: tuple = DYNAMIC,
        relu: bool = False,
        name: str = "Int8Linear",
    ):
        self.in_features, self.out_features = weight.shape
        self.input_grid, self.relu, self.name = np.array(input_grid, np.float64), relu, name
        sums = weight.sum(axis=0, dtype=np.int32)
        zero_point = np.broadcast_to(zero_point, sums.shape).astype(np.int32)
        columns = np.stack([sums - np.int32(self.in_features) * zero_point, zero_point])
        parts = [np.broadcast_to(part, sums.shape) for part in (scale, 0 if bias is None else bias)]
        scales = np.stack(parts).astype(np.float32)
        self.hold(panels=pack_panels(weight), columns=columns, scales=scales)

    def multiply(self, x: np.ndarray) -> np.ndarray:
        """The layer on rows of float32, by the kernel that there is."""
        kernel = self.kernel(len(x), self.in_features)
        if kernel == "float32":
            return self.multiply_carried(x)
        panels, work = self.panels.data, len(x) * self.panels.size
        q = aligned((len(x), 4 * panels.shape[1] + 64), np.uint8)  # 64: not all in one cache set
        grids, y = (
            np.empty((len(x), 3), np.float32),
            np.empty((len(x), self.out_features), np.float32),
        )
        self.quantize(kernel, work, x, q, grids)
        tables = self.columns.data, self.scales.data
        run(multiply_rows, kernel, work, q, grids, panels, *tables, self.relu, y)
        return y

    def quantize(self, kernel: str, work: int, x: np.ndarray, q: np.ndarray, grids: np.ndarray):
        """Rows as bytes, or as the floats that these stand for; ValueError for NaN and infinity."""
        if run(quantize_rows, kernel, work, x, q, grids, self.input_grid, q.dtype == np.float32):
            finite(x, f"{self.name}.input")

    def multiply_carried(self, x: np.ndarray) -> np.ndarray:
        """The same by sgemm: the floats that the integers stand for, kept for the weight."""
        if int8_kernel() == "numpy":
            if not np.isfinite([x.min(initial=0), x.max(initial=0)]).all():
                finite(x, f"{self.name}.input")
            rounded = rounded_rows(x, self.input_grid)
        else:
            rounded, grids = np.empty_like(x), np.empty((len(x), 3), np.float32)
            self.quantize(int8_kernel(), x.size, x, rounded, grids)
        y = rounded @ self.carried_weight
        y += self.scales.data[1, : self.out_features]
        return np.maximum(y, 0, out=y) if self.relu else y

    @functools.cached_property
    def carried_weight(self) -> np.ndarray:
        """The weight in float32, made on first use."""
        weight = unpack_panels(self.panels.data, self.in_features, self.out_features)
        zero_point, scale = self.columns.data[1].astype(np.float32), self.scales.data[0]
        return (weight - zero_point[: self.out_features]) * scale[: self.out_features]

    def _extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        grid = "each row its own" if self.input_grid[0] == 0 else f"scale {self.input_grid[0]:.4g}"
        return f"{sizes}, relu={self.relu}, input grid: {grid}"


def unpack_panels(panels: np.ndarray, in_features: int, out_features: int) -> np.ndarray:
    """What `pack_panels` packed, as float32 (K, N)."""
    count, quads = panels.shape[:2]
    weight = panels.transpose(1, 3, 0, 2).reshape(4 * quads, count * PANEL)
    return weight[:in_features, :out_features].astype(np.float32)


# %% nbgrader={"grade": false, "grade_id": "op", "locked": true, "solution": false}
#| exporti
@op
def accelerated_linear(x, layer):
    """A layer of this module on (..., in_features)."""
    if x.shape[-1:] != (layer.in_features,):
        raise ValueError(f"{layer.name} expected (..., {layer.in_features}), got {x.shape}")
    rows = np.ascontiguousarray(x, np.float32).reshape(-1, layer.in_features)
    y = layer.multiply(rows if rows.flags.writeable else rows.copy())  # machine code for one type
    return y.reshape(*x.shape[:-1], layer.out_features)


nondifferentiable(accelerated_linear)
FLOPS["accelerated_linear"] = lambda inputs, params, out: 2 * out.size * params["layer"].in_features


# %% nbgrader={"grade": false, "grade_id": "weight-only", "locked": true, "solution": false}
#| export
class WeightOnlyLinear(OnKernels):
    """A Linear with weights of 4 or 8 bits in groups: x keeps 16 bits, as two bytes a number.

    `codes` are int8 (in_features, out_features), `scales` (groups, out_features). Numbers of up to
    `bits` 4 are packed two in a byte, and unpacked in the processor's registers.
    """

    def __init__(
        self,
        codes: np.ndarray,
        scales: np.ndarray,
        bits: int = 8,
        bias: np.ndarray | None = None,
        name: str = "WeightOnlyLinear",
    ):
        (self.in_features, self.out_features), self.bits, self.name = codes.shape, bits, name
        self.group_size = self.in_features // len(scales)
        groups = codes.reshape(len(scales), self.group_size, self.out_features)
        scales = scales.astype(np.float32)
        columns = np.einsum("gkn,gn->n", groups, scales, dtype=np.float64)
        padded = np.pad(groups, ((0, 0), (0, -self.group_size % 8), (0, 0)))
        panels = pack_panels(padded.reshape(-1, self.out_features), 8)
        if bits <= 4:
            panels, scales = pack_nibbles(panels), scales / 16
        tables = np.stack([columns, np.zeros(len(columns)) if bias is None else bias])
        self.hold(panels=panels, columns=tables.astype(np.float32), scales=scales)

    def multiply(self, x: np.ndarray) -> np.ndarray:
        """The layer on rows of float32, by the kernel that there is."""
        kernel = self.kernel(len(x), self.group_size)
        if kernel == "float32":
            y = x @ self.carried_weight
            return np.add(y, self.columns.data[1, : self.out_features], out=y)
        kernel = "vnni" if kernel == "amx" else kernel  # tiles of 16 rows can't unpack nibbles
        width = self.group_size + -self.group_size % 8
        digits = aligned((2 * len(x), width * len(self.scales.data) + 64), np.uint8)
        row_scales = np.empty((len(x), 1), np.float32)
        work = len(x) * self.in_features * self.out_features
        if run(split_rows, kernel, work, x, digits, row_scales, self.group_size):
            finite(x, f"{self.name}.input")
        y = np.empty((len(x), self.out_features), np.float32)
        tables = self.panels.data, self.scales.data, self.columns.data
        run(multiply_groups, kernel, work, digits, row_scales, *tables, width // 4, y)
        return y

    @functools.cached_property
    def carried_weight(self) -> np.ndarray:
        """The weight in float32, made on first use."""
        panels = self.panels.data
        panels = sixteenfold(panels) if self.bits <= 4 else panels
        width = self.group_size + -self.group_size % 8
        scales, groups = self.scales.data[:, : self.out_features], len(self.scales.data)
        weight = unpack_panels(panels, groups * width, self.out_features)
        weight = weight.reshape(groups, width, -1)[:, : self.group_size] * scales[:, None]
        return weight.reshape(self.in_features, self.out_features)

    def _extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bits={self.bits}, group_size={self.group_size}"


# %% nbgrader={"grade": false, "grade_id": "accelerate", "locked": true, "solution": false}
#| export
def from_quantized(layer: QuantizedLinear) -> Int8Linear:
    """A QuantizedLinear on integers; uncalibrated, its rows are quantised as they come."""
    grid = DYNAMIC
    if layer.calibrated:
        limits = (limit + 128 for limit in integer_range(8, layer.symmetric))
        grid = layer.input_scale.item(), layer.input_zero_point.item() + 128, *limits
    bias = None
    if layer.q_bias is not None:
        bias = dequantize_int8(layer.q_bias, layer.bias_scale, layer.bias_zero_point).data
    weight = layer.q_weight.data, layer.weight_scale.data, layer.weight_zero_point.data
    return Int8Linear(*weight, bias, grid, name=layer.name)


def from_low_bit(layer: LowBitLinear) -> WeightOnlyLinear | None:
    """A LowBitLinear that unpacks in registers; None where it has zero points or levels."""
    if layer.levels is not None or layer.packed_zero_point is not None:
        return None
    shape = layer.in_features, layer.out_features
    codes = unpack_bits(layer.packed.data, layer.bits, math.prod(shape)).reshape(shape)
    bias = None if layer.bias is None else layer.bias.data
    return WeightOnlyLinear(codes, layer.scale.data, layer.bits, bias, layer.name)


def from_fused(fused: Fused) -> Module | None:
    """A layer with its ReLU."""
    make = ACCELERATED.get(type(fused.layer))
    layer = make(fused.layer) if make else None
    if not isinstance(layer, Int8Linear):
        return None
    layer.relu = True
    return layer


# what stands for a layer of each type; None where this one has to stay
ACCELERATED: dict[type, Callable[[Any], Module | None]] = {
    QuantizedLinear: from_quantized,
    LowBitLinear: from_low_bit,
    Fused: from_fused,
}


def accelerate(model: Module) -> Module:
    """A copy of a quantised model whose layers run on integer kernels where there is one.

    QuantizedLinear becomes Int8Linear: calibrated, on its grid; uncalibrated, where its own rows
    stay float, each row is quantised as it comes. LowBitLinear with symmetric groups becomes
    WeightOnlyLinear. Later modules add to `ACCELERATED`. Raises ValueError where there is nothing
    to accelerate.

    >>> from tinytorch.nn import Linear, Sequential
    >>> accelerate(Sequential(QuantizedLinear(Linear(8, 4))))[0]
    Int8Linear(in_features=8, out_features=4, relu=False, input grid: each row its own)
    """
    if not isinstance(model, Module):
        raise TypeError(f"accelerate: expected a Module, got {type(model).__name__}")
    model = copy.deepcopy(model)
    replacements = {}
    for layer in model.modules():
        make = ACCELERATED.get(type(layer))
        fast = make(layer) if make else None
        if fast is not None:
            fast.training = layer.training
            replacements[id(layer)] = fast
    if not replacements:
        kinds = ", ".join(kind.__name__ for kind in ACCELERATED)
        raise ValueError(f"accelerate: the model has none of {kinds}: quantise it first")
    replace_modules(model, replacements)
    return replacements.get(id(model), model)

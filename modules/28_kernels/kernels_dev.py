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

> Integer kernels in Python: the processor's own dot product of bytes, up to whole models.

Time: 5 to 6 hours. In module 15 a network took a quarter of the memory and became *slower*. Here you find out what the processor can do with bytes, and hand it the bytes in the order that it wants. In the end a layer of integers is several times faster than the same layer in float32, in Python.

With Numba (`pip install 'tinytorch[fast]'`) the cells below compile machine code. Without it everything still runs, on NumPy; cells that need it say so.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident
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
    int8_matmul,
    integer_range,
    replace_modules,
)
from tinytorch.profiling.profiler import FLOPS

# %% [markdown]
r"""
## The pain: integers are slower

A layer of 1024 inputs and 1024 outputs, 32 rows. **Predict**: how much faster is NumPy's product of int8 matrices than that of float32? The bytes are a quarter.
"""

# %%
import time

from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Linear, Sequential
from tinytorch.core.tensor import manual_seed
from tito.testing import check, check_raises

try:
    import numba
    from threadpoolctl import threadpool_limits

    numba.set_num_threads(1)  # one thread for all, so that times can be compared
    threadpool_limits(1)
except ImportError:
    numba = None
    print("no Numba: pip install 'tinytorch[fast]' compiles what you write here")
try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the plots are left out

random = np.random.default_rng(28)


def microseconds(function, repeat=7) -> float:
    """The fastest of some runs, after one to warm up."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e6 * min(times)


# %%
K = N = 1024
rows = random.standard_normal((32, K)).astype(np.float32)
weight = random.standard_normal((K, N)).astype(np.float32)
int8_rows = random.integers(-127, 128, (32, K)).astype(np.int8)
int8_weight = random.integers(-127, 128, (K, N)).astype(np.int8)
GOPS = 2 * 32 * K * N / 1e3  # operations, in thousands: divided by microseconds, 1e9 a second


def show(name: str, function) -> float:
    taken = microseconds(function, repeat=3)
    print(f"{name:42} {taken:10,.0f} us {GOPS / taken:8.1f} GOPS")
    return taken


sgemm = show("float32, BLAS", lambda: rows @ weight)
show("int8 @ int8, which wraps around", lambda: int8_rows @ int8_weight)
show("int8 to int32, then a product", lambda: int8_rows.astype(np.int32) @ int8_weight)
show("int8 to float32, then BLAS", lambda: int8_rows.astype(np.float32) @ int8_weight)

# %% [markdown]
r"""
For integers NumPy has a plain loop; for floats it calls BLAS, decades of care for one function. Module 15 therefore carried the integers in float32, and paid for the conversion.

Perhaps a compiler does better? Here is the same plain loop for **Numba**, which translates Python to machine code (by LLVM, the compiler behind clang). The third index runs along memory in both arrays. **Predict** how close it comes to BLAS, and look at the instructions that LLVM chose.
"""


# %%
def plain_product(a, b, y):
    """y = a @ b.T for int8 (M, K), (N, K): each sum in int32."""
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            total = np.int32(0)
            for k in range(a.shape[1]):
                total = np.int32(total + np.int32(a[i, k]) * np.int32(b[j, k]))
            y[i, j] = total


if numba:
    import re
    from collections import Counter

    plain = numba.njit(plain_product)
    transposed, sums = int8_weight.T.copy(), np.empty((32, N), np.int32)
    show("a plain loop, by Numba", lambda: plain(int8_rows, transposed, sums))
    exact = int8_rows.astype(np.int64) @ int8_weight.astype(np.int64)
    print("right:", np.array_equal(sums, exact))
    assembly = plain.inspect_asm(plain.signatures[0])
    words = re.findall(r"\b(v?pmov[sz]xb\w+|v?pmadd\w+|vpdp\w+|smull\w*|sdot|udot)\b", assembly)
    print(dict(Counter(words)))

# %% [markdown]
r"""
Far better than NumPy's product of integers, right, and still behind BLAS. The instructions say why. On x86, `vpmovsxbw` widens bytes to 16 bits, for every single use; `vpmaddwd` then multiplies 16 or 32 of them and adds neighbours. And each number that is loaded is used once: the loop waits for memory.

Three things are missing, and this lesson adds them one by one:

1. an **instruction** that multiplies bytes as they are,
2. an **order of the weights** in memory in which that instruction finds what it needs,
3. **tiles**: each number that was loaded is used many times before it is dropped.

## How fast could it be?

Two limits hold for any layer. It must *read its weights*, at so many GB/s; and *multiply*, at so many operations a second. Whichever takes longer decides (the *roofline* model of module 14).

### Exercise 1: least_seconds

The larger of the two times, for `rows` rows through a layer of `k` inputs and `n` outputs: `k * n * weight_bytes` bytes at `gigabytes` (1e9 bytes) a second, and `2 * rows * k * n` operations at `gops` (1e9 operations) a second.

One row, 1024 x 1024, 1 byte a weight, 20 GB/s, 500 GOPS: 52.4 us of reading, 4.2 us of arithmetic: 52.4 us.
"""


# %% nbgrader={"grade": false, "grade_id": "least-seconds", "locked": false, "solution": true}
def least_seconds(
    rows: int, k: int, n: int, weight_bytes: float, gigabytes: float, gops: float
) -> float:
    """The time that a layer needs at least: to read its weights, or to multiply."""
    ### BEGIN SOLUTION
    reading = k * n * weight_bytes / (1e9 * gigabytes)
    multiplying = 2 * rows * k * n / (1e9 * gops)
    return max(reading, multiplying)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-least-seconds", "locked": true, "points": 6, "solution": false}
def test_least_seconds():
    one = least_seconds(1, 1024, 1024, 1, 20, 500)
    check(one * 1e6, 52.4288, "1,048,576 bytes at 20 GB/s; the products take less", tolerance=1e-9)
    ### BEGIN HIDDEN TESTS
    many = least_seconds(256, 1024, 1024, 4, 20, 100) * 1e3
    check(many, 2 * 256 * 1024**2 / 1e8, "256 rows: the products decide, two operations each")
    check(least_seconds(1, 100, 10, 0.5, 1, 1e9) * 1e9, 500.0, "half a byte a weight")
    ### END HIDDEN TESTS


test_least_seconds()

# %%
print("microseconds at least, 1024 x 1024, 20 GB/s")
kinds = {"float32, 150 GOPS": (4, 150), "int8, 600 GOPS": (1, 600), "4 bits, 600 GOPS": (0.5, 600)}
print(f"{'rows':20}" + "".join(f"{rows:>9}" for rows in (1, 4, 16, 32, 64, 256)))
for name, (size, speed) in kinds.items():
    least = [least_seconds(m, K, N, size, 20, speed) * 1e6 for m in (1, 4, 16, 32, 64, 256)]
    print(f"{name:20}" + "".join(f"{us:9.1f}" for us in least))

# %% [markdown]
r"""
For one row the bytes decide: int8 is four times faster than float32, and 4 bits twice as fast again, *if* nothing else takes time. For many rows the arithmetic decides.

## The instruction

Since 2019 many x86 processors have **VNNI**, and one instruction of it is all we want. `vpdpbusd` works on registers of 512 bits. In each of 16 lanes of 32 bits it takes **four bytes** of the one and four of the other, multiplies them in pairs, and adds all four products to an int32:

```
register a, uint8   | a0 a1 a2 a3 | a4 a5 a6 a7 | ...  16 lanes x 4 bytes
register b, int8    | b0 b1 b2 b3 | b4 b5 b6 b7 | ...
register c, int32   |     c0      |     c1      | ...

c0 += a0 b0 + a1 b1 + a2 b2 + a3 b3       c1 += a4 b4 + ...       64 products, 64 additions
```

Note the types: **unsigned times signed**. No widening, no intermediate overflow; the sum of four products of at most 255 x 128 is added to an int32 exactly.

### Exercise 2: offered_kernels

Not every processor has it. Given the names of the features that the CPU has (`None` without Numba), list the kernels that run on it, from fast to slow:

- without Numba only `"numpy"`; with it always `"generic"` and `"numpy"`, in this order, at the end;
- `"vnni"` before them if `avx512bw` and `avx512vnni` are both there;
- `"amx"` first of all if, *besides*, `amx-tile` and `amx-int8` are there and `amx_permitted()`. That is a unit for whole tiles of bytes, in servers since 2023. Ask the system's permission last.
"""


# %% nbgrader={"grade": false, "grade_id": "tell", "locked": true, "solution": false}
#| exporti
@functools.cache
def tell(message: str) -> None:
    """Say something on stderr, once in a process; nothing where progress bars are switched off."""
    if os.environ.get("TQDM_DISABLE", "0") in ("", "0"):
        print(f"tinytorch: {message}", file=sys.stderr)


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


@functools.cache
def amx_permitted() -> bool:
    """Ask Linux for AMX's tile registers: a process has them only after it has asked."""
    if sys.platform != "linux":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


# %% nbgrader={"grade": false, "grade_id": "offered-kernels", "locked": false, "solution": true}
#| exporti
def offered_kernels(features: set[str] | None) -> list[str]:
    """The kernels that run on a CPU with these features.

    >>> offered_kernels({"avx512f", "avx512bw", "avx512vnni"}), offered_kernels(None)
    (['vnni', 'generic', 'numpy'], ['numpy'])
    """
    ### BEGIN SOLUTION
    if features is None:
        return ["numpy"]
    vnni = {"avx512bw", "avx512vnni"} <= features
    amx = vnni and {"amx-tile", "amx-int8"} <= features and amx_permitted()
    return ["amx"] * amx + ["vnni"] * vnni + ["generic", "numpy"]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-offered-kernels", "locked": true, "points": 6, "solution": false}
def test_offered_kernels():
    vnni = {"avx512f", "avx512bw", "avx512vnni"}
    check(offered_kernels(None), ["numpy"], "without Numba there is NumPy")
    check(offered_kernels({"avx2", "fma"}), ["generic", "numpy"], "Numba runs on any CPU")
    check(offered_kernels(vnni), ["vnni", "generic", "numpy"], "from fast to slow")
    ### BEGIN HIDDEN TESTS
    check(offered_kernels({"avx512vnni"}), ["generic", "numpy"], "both features are needed")
    check(
        offered_kernels({"amx-tile", "amx-int8"}), ["generic", "numpy"], "AMX comes on top of VNNI"
    )
    everything = vnni | {"amx-tile", "amx-int8"}
    expected = ["amx"] * amx_permitted() + ["vnni", "generic", "numpy"]
    check(offered_kernels(everything), expected, "AMX needs the system's permission, too")
    ### END HIDDEN TESTS


test_offered_kernels()

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


# %%
features = target_features()
wanted = ("avx2", "avx512bw", "avx512vnni", "avx_vnni", "amx-int8", "dotprod", "i8mm")
print("this CPU has", [name for name in wanted if name in (features or ())])
print("kernels here:", offered_kernels(features), "- layers will run on:", int8_kernel())

# %% [markdown]
r"""
The features are those of the CPU that *Numba compiles for*, not simply of this machine: whoever sets `NUMBA_CPU_NAME` to build for another one must not get instructions that this other one lacks.

## The order of the weights

How does a product of matrices use that instruction? Take **one row** of the input and **16 columns** of the weight. Register c holds the 16 sums. Put the *same* four inputs, x0 to x3, into all lanes of a; and let lane j of b hold the four weights of column j that meet them. One instruction, 64 products, 16 sums nearer to the end. Then come x4 to x7, and so on: a **quad** of K after the other.

So weights must lie in memory quad by quad: for quad 0 four numbers of column 0, four of column 1, ..., then quad 1. Four such registers side by side make a **panel** of 64 columns, and a panel is read from its first byte to its last, exactly once:

```
weight (K, N)                       panels (N / 64, K / 4, 64, 4)

      col 0  1  2 ...               panel 0, quad 0:  w00 w10 w20 w30 | w01 w11 w21 w31 | ...
k=0   w00 w01 w02                             quad 1: w40 w50 w60 w70 | w41 ...
k=1   w10 w11 w12
k=2   w20 w21 w22                             a column's four numbers lie side by side
k=3   w30 w31 w32
```

### Exercise 3: pack_panels

int8 (K, N) to int8 (N / 64, K / 4, 64, 4), contiguous. K is filled up with zeros to a `multiple` (64 by default), N to 64: a product with 0 changes no sum.

Element [p, q, c, i] is weight[4 q + i, 64 p + c].

<details><summary>Hint</summary>Pad; reshape to (quads, 4, panels, 64), which moves nothing; transpose. `np.ascontiguousarray` writes it out.</details>
"""

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


# %% nbgrader={"grade": true, "grade_id": "test-pack-panels", "locked": true, "points": 10, "solution": false}
def test_pack_panels():
    numbers = np.arange(8, dtype=np.int8).reshape(4, 2)
    panels = pack_panels(numbers, multiple=4)
    check(panels.shape, (1, 1, 64, 4), "4 x 2 numbers: one panel, one quad, 64 columns")
    check(panels[0, 0, :2], np.array([[0, 2, 4, 6], [1, 3, 5, 7]]), "a column's quad side by side")
    check(int(np.abs(panels[0, 0, 2:]).sum()), 0, "columns that aren't there are zeros")
    ### BEGIN HIDDEN TESTS
    numbers = np.random.default_rng(0).integers(-128, 128, (70, 130)).astype(np.int8)
    panels = pack_panels(numbers)
    check(panels.shape, (3, 32, 64, 4), "70 rows are filled up to 128, 130 columns to 192")
    check(panels.dtype, np.int8, "bytes stay bytes")
    check(
        panels[1, 5, 7, 2], np.array(numbers[22, 71]), "[p, q, c, i] is weight[4 q + i, 64 p + c]"
    )
    check(
        panels[2, 17, 1], np.array([numbers[68, 129], numbers[69, 129], 0, 0]), "the last numbers"
    )
    check(panels.flags.c_contiguous, True, "written out in this order, not only seen in it")
    check(pack_panels(numbers, 8).shape, (3, 18, 64, 4), "70 rows are filled up to 72")
    ### END HIDDEN TESTS


test_pack_panels()

# %% [markdown]
r"""
## Two weights in a byte

Module 24 packed weights of 4 bits two in a byte, and lost time on unpacking: every weight was written out before it was multiplied. In panels, unpacking can happen *in the register*. Put the numbers of an even quad into the low nibbles, those of the odd quad behind it into the high nibbles. One load then brings two quads.

### Exercise 4: pack_nibbles

int8 panels (N / 64, K / 4, 64, 4) of numbers from -8 to 7 become uint8 (N / 64, K / 8, 64, 4). Byte [p, o, c, i] has the number [p, 2 o, c, i] in its low four bits and [p, 2 o + 1, c, i] in its high four, as two's complement (-1 is 15).

Low 3, high -2: 3 + 16 * 14 = 227. `array.view(np.uint8)` takes the same bytes as unsigned.
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-pack-nibbles", "locked": true, "points": 6, "solution": false}
def test_pack_nibbles():
    panels = np.zeros((1, 2, 64, 4), np.int8)
    panels[0, 0, 0], panels[0, 1, 0] = [3, -1, -8, 7], [-2, 0, 7, -8]
    packed = pack_nibbles(panels)
    check(packed.shape, (1, 1, 64, 4), "half the quads")
    check(packed.dtype, np.uint8, "nibbles have no sign of their own")
    check(packed[0, 0, 0], np.array([227, 15, 120, 135]), "even quads low, odd quads high")
    ### BEGIN HIDDEN TESTS
    panels = np.random.default_rng(0).integers(-8, 8, (2, 6, 64, 4)).astype(np.int8)
    packed = pack_nibbles(panels).astype(int)
    check(packed & 15, panels[:, ::2].astype(int) % 16, "low nibbles: quads 0, 2, 4")
    check(packed >> 4, panels[:, 1::2].astype(int) % 16, "high nibbles: quads 1, 3, 5")
    ### END HIDDEN TESTS


test_pack_nibbles()

# %% [markdown]
r"""
Unpacking must be cheap: a few instructions for 128 numbers. To turn a nibble into an int8 you would move it down and then extend its sign. But look at a nibble that stays in the **upper half** of its byte, with zeros below:

$$\mathtt{1110\,0000}_2 = -32 = 16 \cdot (-2) \qquad \mathtt{0011\,0000}_2 = 48 = 16 \cdot 3$$

It is 16 times the number, sign included, and the sign costs nothing. The 16 goes into the scale. So the high nibbles need one instruction (mask the low half away), the low nibbles one more (move up by 4).

### Exercise 5: sixteenfold

uint8 (P, O, 64, 4) to int8 (P, 2 O, 64, 4): each number times 16, the quads in their old order (even, odd, even, ...).

<details><summary>Hint</summary>NumPy's uint8 drops what is moved beyond its 8 bits. `np.stack([even, odd], axis=2)` puts them in turn; reshape, then view as int8.</details>
"""


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


# %% nbgrader={"grade": true, "grade_id": "test-sixteenfold", "locked": true, "points": 8, "solution": false}
def test_sixteenfold():
    packed = np.zeros((1, 1, 64, 4), np.uint8)
    packed[0, 0, 0] = [0x7F, 0x80, 0xE3, 0x01]
    quads = sixteenfold(packed)
    check(quads.shape, (1, 2, 64, 4), "two quads from each byte")
    check(quads[0, 0, 0], np.array([-16, 0, 48, 16]), "low nibbles -1, 0, 3, 1, times 16")
    check(quads[0, 1, 0], np.array([112, -128, -32, 0]), "high nibbles 7, -8, -2, 0, times 16")
    check(quads.dtype, np.int8, "signed: the instruction takes them as weights")
    ### BEGIN HIDDEN TESTS
    numbers = np.random.default_rng(0).integers(-8, 8, (3, 10, 64, 4)).astype(np.int8)
    back = sixteenfold(pack_nibbles(numbers))
    check(back.astype(int), 16 * numbers.astype(int), "what was packed, in its old order")
    ### END HIDDEN TESTS


test_sixteenfold()

# %% [markdown]
r"""
## The tile

Now reuse. A register of weights costs a load; used for one row, it does 64 products. Used for **six rows**, 384. The processor has 32 registers: 6 rows x 4 registers of sums are 24, four hold weights, one the quad of a row.

```
            64 columns of a panel: 4 registers of weights
          +-----------+-----------+-----------+-----------+
 row 0    |  16 sums  |  16 sums  |  16 sums  |  16 sums  |     each quad of K:
 row 1    |  16 sums  |    ...                            |     4 loads of weights
  ...     |                                               |     6 quads of rows, spread
 row 5    |  16 sums  |                                   |     24 instructions, 1,536 products
          +-----------+-----------+-----------+-----------+
```

The sums stay in registers while all of K passes by. That inner loop is the **micro-kernel**; everything else only calls it. You write what it *means*, in NumPy; its meaning is also what the tests hold the machine code against.

### Exercise 6: add_tile

`count` rows times one panel, over the quads from `first` to `last`:

- rows: uint8 (M, at least 4 `last`); take `rows[row : row + count]`, and of K the numbers `4 * first` to `4 * last`;
- weights: int8 `panels[panel, first:last]`, (quads, 64, 4). Panels of nibbles (uint8) have been taken apart for you;
- result: int32 (count, 64) into `sums[top : top + count]`: *written* there if `fresh`, otherwise *added* to what is there.

Multiply in int32. `ahead` is a wish to the machine code, and means nothing here.

<details><summary>Hint</summary>Reshape the rows to (count, quads, 4), and sum over both: `np.einsum("rqi,qni->rn", ...)`.</details>
"""


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
    """`count` rows times one panel, over the quads `first` to `last`: what a micro-kernel means.

    rows uint8 (M, 4 Q) from `row` on; panels int8 (P, Q, 64, 4), or uint8 nibbles (P, Q / 2, 64, 4)
    that count 16-fold; sums int32 (., 64) from `top` on: written where `fresh`, otherwise added to.
    In compiled loops machine code stands in its place; `ahead` then fetches the weights behind.
    """
    weights = panels[panel, first:last]
    if panels.dtype == np.uint8:
        weights = sixteenfold(panels[panel : panel + 1, first // 2 : last // 2])[0]
    ### BEGIN SOLUTION
    part = rows[row : row + count, 4 * first : 4 * last].reshape(count, -1, 4)
    product = np.einsum("rqi,qni->rn", part.astype(np.int32), weights.astype(np.int32))
    if fresh:
        sums[top : top + count] = product
    else:
        sums[top : top + count] += product
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-add-tile", "locked": true, "points": 12, "solution": false}
def test_add_tile():
    rows = np.array([[1, 2, 3, 4], [255, 0, 0, 1]], np.uint8)
    panels = pack_panels(np.array([[1, -1], [10, 0], [100, 0], [0, -128]], np.int8), multiple=4)
    sums = np.full((4, 64), 1000, np.int32)
    add_tile(sums, 1, rows, 0, 2, panels, 0, 0, 1, True, False)
    check(sums[1:3, :2], np.array([[321, -513], [255, -383]]), "1 + 20 + 300; -1 - 512; ...")
    check(sums[[0, 3]], np.full((2, 64), 1000), "other rows of sums stay")
    add_tile(sums, 2, rows, 0, 1, panels, 0, 0, 1, False, False)
    check(sums[2, :2], np.array([255 + 321, -383 - 513]), "not fresh: add to what is there")
    ### BEGIN HIDDEN TESTS
    random = np.random.default_rng(0)
    rows = random.integers(0, 256, (9, 200)).astype(np.uint8)
    numbers = random.integers(-128, 128, (192, 130)).astype(np.int8)
    right = rows[3:7, 16:128].astype(np.int64) @ numbers[16:128, 64:128].astype(np.int64)
    sums = np.zeros((6, 64), np.int32)
    add_tile(sums, 0, rows, 3, 4, pack_panels(numbers), 1, 4, 32, True, True)
    check(sums[:4], right, "rows 3 to 6, panel 1, quads 4 to 31")
    four = random.integers(-8, 8, (64, 64)).astype(np.int8)
    right = 16 * (rows[:2, 8:32].astype(np.int64) @ four[8:32].astype(np.int64))
    add_tile(sums, 0, rows, 0, 2, pack_nibbles(pack_panels(four)), 0, 2, 8, True, True)
    check(sums[:2], right, "nibbles count 16-fold")
    rows[:], numbers[:] = 255, -128
    add_tile(sums, 0, rows, 0, 1, pack_panels(numbers), 0, 0, 48, True, True)
    check(sums[0], np.full(64, 192 * 255 * -128), "no product or sum may overflow")
    ### END HIDDEN TESTS


test_add_tile()

# %% [markdown]
r"""
## From floats to bytes

The instruction wants unsigned bytes, so each row of x gets a grid of 0 to 255: scale $s$ and zero point $z$, as in module 15, but for **each row by itself**. A row with large numbers then costs the others nothing.

$$u = \mathrm{clip}(\mathrm{round}(x / s) + z,\ 0,\ 255), \qquad x' = (u - z)\, s$$

A layer that was calibrated has one fixed grid instead: `grid = (scale, zero_point, lowest, highest)`. Its int8 marks -128 to 127 are moved up by 128, zero point included; nothing else changes. A scale of 0 stands for "each row its own".

### Exercise 7: rounded_rows

Return float32 x', every number on the mark of its row that is nearest. For a row's own grid (`if not scale`): low = min(row, 0), high = max(row, 0), scale = (high - low) / (highest - lowest), computed in float64; 1 where it is not above `SMALLEST` (a row of zeros); zero point = round(lowest - low / scale).

Follow PyTorch in the last bit: multiply by `np.float32(1 / scale)` instead of dividing. Work in place where you can (`out=`): a new array at each step costs more than the arithmetic. Clip $\mathrm{round}(x/s)$ to [lowest - z, highest - z], and z itself is never added.

[3, -1, 0] has s = 4 / 255, z = round(1 / s) = 64, and 3 is mark 255: (255 - 64) s = 2.996.
"""

# %% nbgrader={"grade": false, "grade_id": "grids", "locked": true, "solution": false}
#| exporti
DYNAMIC = (0.0, 0, 0, 255)  # the grid that stands for: each row its own, as uint8
INFINITE = 0x7F800000  # float32's exponent all ones: infinity, or above it NaN
SMALLEST = 2.0**-120  # of a scale: one over it is a float32


# %% nbgrader={"grade": false, "grade_id": "rounded-rows", "locked": false, "solution": true}
#| exporti
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


# %% nbgrader={"grade": true, "grade_id": "test-rounded-rows", "locked": true, "points": 12, "solution": false}
def test_rounded_rows():
    x = np.array([[3, -1, 0], [300, -100, 0]], np.float32)
    step = 4 / 255
    right = np.array([[191 * step, -64 * step, 0]] * 2) * [[1], [100]]
    check(rounded_rows(x, DYNAMIC), right.astype(np.float32), "each row on its own grid", 1e-5)
    fixed = rounded_rows(x, (0.5, 100, 0, 255))
    check(fixed, np.array([[3, -1, 0], [77.5, -50, 0]], np.float32), "fixed: clipped to its ends")
    ### BEGIN HIDDEN TESTS
    check(rounded_rows(x, DYNAMIC).dtype, np.float32, "float32 in, float32 out")
    positive = np.array([[10, 20, 30, 255]], np.float32)
    check(rounded_rows(positive, DYNAMIC), positive, "the range is extended to 0: a step of 1 here")
    check(rounded_rows(-positive, DYNAMIC), -positive, "negative rows too")
    zeros = np.zeros((2, 3), np.float32)
    check(rounded_rows(zeros, DYNAMIC), zeros, "a row of zeros has no range; its scale is 1")
    check(
        rounded_rows(np.array([[0.25, 0.75]], np.float32), (0.5, 0, 0, 255)),
        [[0.0, 1.0]],
        "halves go to even",
    )
    check(x[0], [3.0, -1.0, 0.0], "the input stays as it is")
    check(rounded_rows(x, (1.0, 128, 1, 255))[1], [127.0, -100.0, 0.0], "lowest and highest count")
    ### END HIDDEN TESTS


test_rounded_rows()

# %% [markdown]
r"""
## Back to floats, with corrections

The tile multiplies the bytes $u$ as they are, and the weight's bytes $w$ as they are. But $u$ has the zero point $z$ of its row, and $w$ may have one for each column, $z_n$. What we want is

$$\sum_k (u_k - z)(w_{kn} - z_n) = \underbrace{\sum_k u_k w_{kn}}_{\text{tile}} - z \underbrace{\Big(\sum_k w_{kn} - K z_n\Big)}_{\text{columns[0]}} - z_n \underbrace{\sum_k u_k}_{\text{total}}$$

The middle bracket belongs to the weight alone: it is computed **once, when it is packed**. The total belongs to the row: it is added up while the row is quantised. The correction costs two products for each *result*, not for each product, and it is exact, in int32.

**Work it out** before you go on: u = [2, 3], z = 1, w = [5, 7], z_n = 2. Tile: 31. columns[0] = 12 - 4 = 8, total = 5. 31 - 8 - 10 = 13 = 1 * 3 + 2 * 5.

### Exercise 8: finish_tile

From sums to results, for `count` rows and up to 64 columns:

- row i of the tile is `sums[top + i]`, has `grids[row + i]` = (scale, zero_point, total), all float32, and goes to `y[row + i]`;
- column j is column `column + j` of `columns` (int32: the bracket, and z_n), of `scales` (float32: scale of the weight, and bias), and of `y`. The tables are as wide as whole panels, **y may be narrower**: leave out what it doesn't have;
- value = exact * (scale of the row * scale of the column) + bias, at least `floor` (0 for a ReLU, otherwise minus infinity).

Correct in int32; only then go to float32. And if y itself is int32, it gets the corrected sums as they are: layers that hand each other integers scale them in their own way.
"""


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
    scale and bias. A `y` of int32 gets the exact sums, unscaled. In compiled loops machine code
    stands in its place.
    """
    ### BEGIN SOLUTION
    rows, width = slice(row, row + count), slice(column, min(column + PANEL, y.shape[1]))
    scale, zero_point, total = grids[rows].T[:, :, None]
    exact = sums[top : top + count, : width.stop - column]
    exact = exact - zero_point.astype(np.int32) * columns[0, width]
    exact -= total.astype(np.int32) * columns[1, width]
    value = exact.astype(np.float32) * (scale * scales[0, width]) + scales[1, width]
    y[rows, width] = exact if y.dtype == np.int32 else np.maximum(value, floor)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-finish-tile", "locked": true, "points": 12, "solution": false}
def test_finish_tile():
    y = np.full((3, 2), 9, np.float32)
    sums = np.zeros((4, 64), np.int32)
    sums[1:3, :2] = [[31, 40], [100, -100]]
    grids = np.array([[0, 0, 0], [0.5, 1, 5], [2, 0, 0]], np.float32)
    columns, scales = np.zeros((2, 64), np.int32), np.zeros((2, 64), np.float32)
    columns[:, :2], scales[:, :2] = [[8, 10], [2, 0]], [[1, 0.25], [100, 0]]
    finish_tile(y, 1, 0, sums, 1, 2, grids, columns, scales, np.float32(-np.inf))
    check(y[1], [13 * 0.5 + 100, 30 * 0.5 * 0.25], "(31 - 1 * 8 - 5 * 2) * 0.5 * 1 + 100, ...")
    check(y[2], [300.0, -50.0], "100 * 2 * 1 + 100; -100 * 2 * 0.25")
    check(y[0], [9.0, 9.0], "other rows of y stay")
    finish_tile(y, 1, 0, sums, 1, 2, grids, columns, scales, np.float32(0))
    check(y[2], [300.0, 0.0], "floor 0: a ReLU")
    ### BEGIN HIDDEN TESTS
    random = np.random.default_rng(0)
    u, z = random.integers(0, 256, (5, 40)), random.integers(0, 256, 5)
    w, zero = random.integers(-128, 128, (40, 100)), random.integers(-9, 9, 100)
    columns, scales = np.zeros((2, 128), np.int32), np.ones((2, 128), np.float32)
    columns[:, :100] = w.sum(axis=0) - 40 * zero, zero
    scales[1] = 0
    grids = np.stack([np.ones(5), z, u.sum(axis=1)], axis=1).astype(np.float32)
    y = np.zeros((5, 100), np.float32)
    for panel in (0, 1):
        sums = np.zeros((5, 64), np.int32)
        sums[:, : min(64, 100 - 64 * panel)] = u @ w[:, 64 * panel : 64 * panel + 64]
        finish_tile(y, 0, 64 * panel, sums, 0, 5, grids, columns, scales, np.float32(-np.inf))
    check(
        y,
        ((u - z[:, None]) @ (w - zero)).astype(np.float32),
        "100 columns: the second panel has 36",
    )
    whole = np.zeros((5, 100), np.int32)
    finish_tile(whole, 0, 64, sums, 0, 5, grids, columns, scales * 7, np.float32(0))
    check(whole[:, 64:], ((u - z[:, None]) @ (w - zero))[:, 64:], "y of int32: exact and unscaled")
    large = np.full((1, 64), 2**30 + 1, np.int32)
    columns, grids = np.full((2, 64), 2**22, np.int32), np.array([[1, 255, 1]], np.float32)
    y = np.zeros((1, 64), np.float32)
    finish_tile(
        y, 0, 0, large, 0, 1, grids, columns, np.ones((2, 64), np.float32), np.float32(-np.inf)
    )
    check(float(y[0, 0]), 2.0, "subtract as integers: float32 rounds sums above 2^24", 1e-9)
    ### END HIDDEN TESTS


test_finish_tile()

# %% [markdown]
r"""
All pieces of a layer are there. Put them together in plain NumPy, and see that it is right.
"""


# %%
def integer_layer(x: np.ndarray, q_weight: np.ndarray, scale: float) -> np.ndarray:
    """x @ (scale * q_weight), multiplied in bytes, on one fixed grid for x."""
    step, zero_point = 8 / 255, 128
    u = np.clip(np.rint(x / step) + zero_point, 0, 255).astype(np.uint8)
    panels, (k, n) = pack_panels(q_weight), q_weight.shape
    u = np.pad(u, ((0, 0), (0, -k % 64)))
    columns, scales = np.zeros((2, n + -n % 64), np.int32), np.zeros((2, n + -n % 64), np.float32)
    columns[0, :n], scales[0, :n] = q_weight.sum(axis=0, dtype=np.int32), scale
    grids = np.tile(np.array([step, zero_point, 0], np.float32), (len(x), 1))
    y, sums = np.empty((len(x), n), np.float32), np.empty((len(x), 64), np.int32)
    for panel in range(len(panels)):
        add_tile(sums, 0, u, 0, len(x), panels, panel, 0, panels.shape[1], True, False)
        finish_tile(y, 0, 64 * panel, sums, 0, len(x), grids, columns, scales, np.float32(-np.inf))
    return y


got, exact = integer_layer(rows, int8_weight, 0.01), rows @ (int8_weight * 0.01)
print(f"relative error {np.linalg.norm(got - exact) / np.linalg.norm(exact):.4f}")

# %% [markdown]
r"""
Under one percent, from rounding x to 256 marks. Right, and as slow as NumPy's integers are. Now the machine code.

## Writing instructions

LLVM never chose `vpdpbusd` by itself, so we write it. Numba lets a function stand for instructions that *you* build (`numba.extending.intrinsic`), with `llvmlite`, LLVM's interface for Python. Read the next cells with the pictures above beside you; none of it is an exercise.

`Emitter` knows the types and computes addresses. `RegisterTile` is the picture of the tile: `emit_rows` is the loop over quads. Its `dot4` says in five lines of ordinary integer arithmetic what the instruction means, and runs on any CPU; `VnniTile` replaces that by the instruction.
"""


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
        """Ask for the cache line of a place used soon; it may lie beyond the array's end."""
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


# %% [markdown]
r"""
**AMX** goes one step further: its registers are whole tiles of 16 rows x 64 bytes, and one instruction multiplies two of them: 16 rows, 16 quads, 16 columns, 16,384 products. It takes the same panels.
"""


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
                later = builder.add(quad, self.number(32))
                with self.cgutils.for_range(builder, self.number(16)) as loop:
                    row = builder.add(later, loop.index)
                    for i in (0, 1):
                        place = "panels", value["panel"], row, 32 * half + 16 * i, 0
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
        """Load or store a tile: 256 bytes from row to row of sums, from quad to quad of panels."""
        stride = self.number(256)
        if name == "rows":
            stride = self.builder.extract_value(self.values["rows"].strides, 0)
        place = self.place(name, *index)
        self.call(f"x86.{instruction}", self.ir.VoidType(), self.tile(tile), place, stride)


# %% [markdown]
r"""
Two more, for what happens around the tile: `finish_tile`, which you wrote, and `add_group`, which you write further below. Here is its meaning, as an exercise a little ahead of its use:

### Exercise 9: add_group

Weights of 4 bits have a scale for each group of, say, 32 inputs. And x shall *not* be rounded to 8 bits here: it is a 16-bit number $u = 256\, h + l$, whose two bytes are two rows of the tile. So for `count` rows of x there are 2 `count` rows of sums, in turn: row 0's high, row 0's low, row 1's high, ... from `top` on. Add to `totals` (float32):

$$\mathrm{totals}[i] \mathrel{+}= (256 \cdot \mathrm{high}_i + \mathrm{low}_i) \cdot \mathrm{scales}[\mathrm{group},\ \mathrm{column} \ldots \mathrm{column} + 63]$$

Convert to float32 before you multiply by 256: a large sum times 256 leaves int32.
"""


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

    totals float32 (., 64); sums int32 (., 64) from `top` on; scales[group] from `column` on.
    In compiled loops machine code stands in its place.
    """
    ### BEGIN SOLUTION
    pairs = sums[top : top + 2 * count].reshape(count, 2, PANEL)
    high, low = pairs.astype(np.float32).swapaxes(0, 1)
    totals[:count] += (high * np.float32(256) + low) * scales[group, column : column + PANEL]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-add-group", "locked": true, "points": 8, "solution": false}
def test_add_group():
    totals, sums = np.ones((2, 64), np.float32), np.zeros((5, 64), np.int32)
    sums[1:5, 0] = [2, 3, -1, 100]
    scales = np.full((3, 128), 0.5, np.float32)
    scales[2, 64] = 10
    add_group(totals, sums, 1, 2, scales, 2, 64)
    check(totals[:, 0], [1 + 5150.0, 1 - 1560.0], "1 + (2 * 256 + 3) * 10; 1 + (-256 + 100) * 10")
    ### BEGIN HIDDEN TESTS
    sums[1:3, 5] = [2**23, 2**20]
    totals[:] = 0
    add_group(totals, sums, 1, 1, scales, 0, 0)
    check(float(totals[0, 5]), 0.5 * (256 * 2**23 + 2**20), "256 * 2^23 doesn't fit an int32")
    check(totals[1], np.zeros(64, np.float32), "only `count` rows")
    add_group(totals, sums, 1, 1, scales, 0, 0)
    check(float(totals[0, 5]), 256.0 * 2**23 + 2**20, "add to what is there")
    ### END HIDDEN TESTS


test_add_group()


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
                result = builder.sub(exact, builder.mul(zeros, total))
                if not self.exact:
                    result = builder.sitofp(result, self.floats)
                    result = builder.fadd(builder.fmul(result, builder.fmul(scale, step)), bias)
                    above = builder.fcmp_ordered(">", result, floor)
                    result = builder.select(above, result, floor)
                self.store_part(result, builder.sub(width, places[i]), "y", row, places[i])
                later = builder.add(places[i], self.number(PANEL))
                self.prefetch(self.place("y", row, later), write=1)

    @property
    def exact(self) -> bool:
        """Shall the sums stay integers?"""
        return self.types["y"].dtype.bitwidth == 32 and hasattr(self.types["y"].dtype, "signed")

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
        name = f"masked.store.v16{'i32' if self.exact else 'f32'}.p0"
        self.call(name, self.ir.VoidType(), vector, pointer, align, mask)


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


# %% [markdown]
r"""
## Loops around the tile

What is left is ordinary loops: Numba compiles them, and the calls of `add_tile` and `finish_tile` in them become the instructions above. The *same source* runs in Python, with your NumPy functions: that is how the tests know that it is right.

`compiled` does the exchange. Compiling takes a second or two; for loops in the package the result is kept on disk, for loops in a notebook it isn't.
"""

# %% nbgrader={"grade": false, "grade_id": "compiled", "locked": true, "solution": false}
#| exporti
TILES = {"amx": AmxTile, "vnni": VnniTile, "generic": RegisterTile}
TILE_ROWS, BLOCK = 6, 128  # rows of a tile; quads after which the next rows have their turn
SIZES = {"amx": (32, 512), "vnni": (TILE_ROWS, BLOCK), "generic": (TILE_ROWS, BLOCK)}
THREAD_WORK = 2**26  # products below which a second thread costs more than it gains
READING = 16  # products that take as long as reading a weight


@functools.cache
def compiled(loop: Callable, kernel: str) -> Callable:
    """A loop as machine code: the same source, in which a few names mean something faster.

    `add_tile`, `finish_tile` and `add_group` become micro-kernels, TILE_ROWS and BLOCK their sizes.
    Machine code is kept on disk: beside the file, or where that can't be written, in
    NUMBA_CACHE_DIR or the user's cache folder.
    """
    import numba

    rows, block = SIZES[kernel]
    names: dict[str, Any] = {"TILE_ROWS": rows, "BLOCK": block}
    for emitter in (TILES[kernel], Finisher, GroupAdder):
        names[emitter.meaning.__name__] = as_intrinsic(emitter)
    name = f"{loop.__name__}_{kernel}"  # each has a file in the cache
    renamed = FunctionType(loop.__code__, {**loop.__globals__, **names}, name)
    renamed.__qualname__ = name
    announce_compiling()
    flags = {"fastmath": {"nnan", "nsz"}, "error_model": "numpy"}  # what comes here is finite
    options: Any = {"nogil": True, **flags}
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

    meant = inspect.signature(emitter.meaning)
    first = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named: Any = typed
    named.__signature__ = meant.replace(parameters=[first, *meant.parameters.values()])
    return intrinsic(named)


@functools.cache
def announce_compiling() -> None:
    """From now on, say when a kernel is compiled (once), not when the disk has it."""
    from numba.core import event

    class Announcer(event.Listener):
        def on_start(self, event):
            if "TILE_ROWS" in event.data["dispatcher"].py_func.__globals__:  # one of these loops
                tell("compiling INT8 kernels for this CPU, once: a few seconds")

        def on_end(self, event):
            pass

    event.register("numba:compile", Announcer())


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that begins with a cache line: a register's load from it touches one only."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    return np.ndarray(shape, dtype, raw, -raw.__array_interface__["data"][0] % 64)


@functools.cache
def scratch(thread: int) -> np.ndarray:
    """The sums that the calls of one thread work on: 256 rows for each thread that helps it."""
    import numba

    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return aligned((256 * most, PANEL), np.int32)


def run(loop: Callable, kernel: str, work: int, *arguments: Any) -> bool:
    """Call a loop as machine code; all at once, or in parts by as many threads as Numba has.

    `numba.set_num_threads` or NUMBA_NUM_THREADS say how many; `work` is counted in products.
    Returns whether any part returned something.
    """
    import numba

    code = compiled(loop, kernel)
    threads = numba.get_num_threads() if work >= THREAD_WORK else 1
    if threads == 1:
        return bool(code(*arguments, 0, 1))
    submit = pool(os.getpid(), threads).submit
    others = [submit(code, *arguments, part, threads) for part in range(1, threads)]
    return any([code(*arguments, 0, threads), *(other.result() for other in others)])


@functools.cache
def pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process: machine code runs in them without Python's lock."""
    return ThreadPoolExecutor(threads - 1, "tinytorch-kernels")


# %% [markdown]
r"""
`quantize_rows` makes bytes of rows. `multiply_rows` goes through panels and rows: `BLOCK` quads of a panel, which stay in a cache, meet all rows before the next quads come. It finishes each tile while its sums are still at hand: floats in, floats out, each touched once.

Each call does one `part` of several: `run` gives every part to a thread. Machine code needs no lock of Python's, so threads really run side by side.
"""


# %% nbgrader={"grade": false, "grade_id": "quantize-rows", "locked": true, "solution": false}
#| exporti
def quantize_rows(x, bits, q, grids, grid_bits, grid, back, part, parts):
    """Rows of x as bytes q = clip(rint(x / scale) + zero_point, lowest, highest).

    grid = (scale, zero_point, lowest, highest); a scale of 0 gives each row the grid that covers
    its own values and 0. grids[row] = (scale, zero_point, sum of its bytes). With `back`, q is what
    the bytes stand for, in floats. Returns how many rows hold NaN or infinity: they are left out.

    `bits` and `grid_bits` are x and grids as int32. If the bits of negative numbers are flipped,
    integers order as floats do, with infinity and NaN outermost: one pass over the bits finds the
    range, and whether it is finite.
    """
    lowest, highest, broken = np.float32(grid[2]), np.float32(grid[3]), 0
    for row in range(part * len(x) // parts, (part + 1) * len(x) // parts):
        low, high = np.int32(0), np.int32(0)
        for k in range(x.shape[1]):
            key = np.int32(bits[row, k] ^ (bits[row, k] >> 31 & 0x7FFFFFFF))
            low = key if key < low else low
            high = key if key > high else high
        if high >= INFINITE or low < -INFINITE:
            broken += 1
            continue
        scale, zero_point = grid[0], np.float32(grid[1])
        if scale == 0:
            grid_bits[row, 0], grid_bits[row, 1] = low ^ (low >> 31 & 0x7FFFFFFF), high
            smallest, largest = np.float64(grids[row, 0]), np.float64(grids[row, 1])
            scale = (largest - smallest) / (highest - lowest)
            scale = scale if scale > SMALLEST else 1.0
            zero_point = np.float32(np.rint(lowest - smallest / scale))
        inverse, total = np.float32(1 / scale), np.int32(0)
        for k in range(x.shape[1]):
            mark = np.rint(x[row, k] * inverse) + zero_point
            mark = mark if mark > lowest else lowest
            mark = mark if mark < highest else highest
            q[row, k] = (mark - zero_point) * np.float32(scale) if back else mark
            total = np.int32(total + np.int32(mark))
        grids[row, 0], grids[row, 1], grids[row, 2] = scale, zero_point, total
    return broken


# %% nbgrader={"grade": false, "grade_id": "multiply-rows", "locked": true, "solution": false}
#| exporti
def multiply_rows(q, grids, panels, columns, scales, relu, sums, y, part, parts):
    """y = scales * ((q - zero_point) @ (weight - its zero points)) + bias, and ReLU: `finish_tile`.

    A task is a panel and up to 256 rows: blocks of K that stay in the cache, tiles of about equal
    height, each finished with its last block. Each part has 256 rows of `sums` for itself.
    """
    base, floor = 256 * part, np.float32(0.0 if relu else -np.inf)
    blocks = (len(y) + 255) // 256
    tasks = len(panels) * blocks
    for task in range(part * tasks // parts, (part + 1) * tasks // parts):
        panel, block = task // blocks, task % blocks
        row = block * len(y) // blocks
        count = (block + 1) * len(y) // blocks - row
        tiles = (count + TILE_ROWS - 1) // TILE_ROWS
        for first in range(0, panels.shape[1], BLOCK):
            last = first + BLOCK if first + BLOCK < panels.shape[1] else panels.shape[1]
            for tile in range(tiles):
                top, end = tile * count // tiles, (tile + 1) * count // tiles
                place = row + top, end - top, panels, panel, first, last
                add_tile(sums, base + top, q, *place, first == 0, tile == 0)
                if last == panels.shape[1]:
                    part_of_sums, n = (sums, base + top, end - top), 64 * panel
                    finish_tile(y, row + top, n, *part_of_sums, grids, columns, scales, floor)


# %%
def product(kernel: str, x: np.ndarray, panels: np.ndarray, n: int) -> np.ndarray:
    """x @ weight on bytes, by one kernel; the parts that `Int8Linear` puts together further below."""
    q = aligned((len(x), 4 * panels.shape[1] + 64), np.uint8)
    grids, y = np.empty((len(x), 3), np.float32), np.empty((len(x), n), np.float32)
    bits = x.view(np.int32), q, grids, grids.view(np.int32)
    compiled(quantize_rows, "generic")(x, *bits, np.array(DYNAMIC, float), False, 0, 1)
    tables = grids, panels, *weight_tables
    compiled(multiply_rows, kernel)(q, *tables, False, aligned((256, 64), np.int32), y, 0, 1)
    return y


panels = aligned((N // 64, K // 4, 64, 4), np.int8)
panels[...] = pack_panels(int8_weight)
sums_of_columns = np.stack([int8_weight.sum(axis=0, dtype=np.int32), np.zeros(N, np.int32)])
weight_tables = sums_of_columns, np.stack([np.full(N, 0.01), np.zeros(N)]).astype(np.float32)
show("float32, BLAS", lambda: rows @ weight)
best = int8_kernel()
if best != "numpy":
    got = product(best, rows, panels, N)
    print(f"relative error {np.linalg.norm(got - exact) / np.linalg.norm(exact):.4f}")
    taken = show(f"bytes, kernel {best}", lambda: product(best, rows, panels, N))
    print(f"{sgemm / taken:.1f} times as fast as float32")

# %% [markdown]
r"""
Compare the GOPS with those of the plain loop: instruction, order, and tiles. (Without VNNI the last line is below 1 for 32 rows: there integers lose, and the layers below know that.)

For **weights alone** in few bits, x keeps 16 bits: `split_rows` makes two rows of bytes of each row, `multiply_groups` goes through the groups. Why two bytes and not float32? Because then the same instruction serves: 128 products cost three instructions of unpacking and four of multiplying. In floats each number would have to be widened and converted first.
"""


# %% nbgrader={"grade": false, "grade_id": "split-rows", "locked": true, "solution": false}
#| exporti
def split_rows(x, bits, digits, scales, scale_bits, group, part, parts):
    """Rows of x as 16-bit numbers u = rint(x / scale) + 32768, in two rows of bytes each.

    digits[2 row] holds u // 256, digits[2 row + 1] the rest; groups of K begin at multiples of 8.
    scales float32 (rows, 1); `bits` and `scale_bits` are x and scales as int32. Returns how many
    rows hold NaN or infinity: they are left out.
    """
    width, broken = (group + 7) // 8 * 8, 0
    for row in range(part * len(x) // parts, (part + 1) * len(x) // parts):
        high = np.int32(0)
        for k in range(x.shape[1]):
            size = np.int32(bits[row, k] & 0x7FFFFFFF)
            high = size if size > high else high
        if high >= INFINITE:
            broken += 1
            continue
        scale_bits[row, 0] = high
        scale = np.float64(scales[row, 0]) / 32767
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
def multiply_groups(digits, row_scales, panels, scales, columns, quads, sums, y, part, parts):
    """y = row_scale * (u - 32768) @ (scales * weight) + bias, where each group has its scales.

    `quads` of K make a group; columns float32 (2, N): sums of scales * weight, and the bias. Three
    rows, six with their two digits, are one tile.
    """
    blocks = (len(y) + 2) // 3
    tasks = len(panels) * blocks
    base, totals = 256 * part, np.empty((3, 64), np.float32)
    for task in range(part * tasks // parts, (part + 1) * tasks // parts):
        panel, block = task // blocks, task % blocks
        start, row = 64 * panel, block * len(y) // blocks
        count = (block + 1) * len(y) // blocks - row
        totals[:] = 0
        for g in range(len(scales)):
            first, last = g * quads, (g + 1) * quads
            place = 2 * row, 2 * count, panels, panel, first, last
            add_tile(sums, base, digits, *place, True, block == 0)
            add_group(totals, sums, base, count, scales, g, start)
        for i in range(count):
            scale = row_scales[row + i, 0]
            for j in range(min(64, y.shape[1] - start)):
                n = np.uintp(start + j)
                value = totals[i, j] - np.float32(32768) * columns[0, n]
                y[row + i, n] = value * scale + columns[1, n]


# %% [markdown]
r"""
## Layers

Two layers put it together, and share the decision which kernel serves so many rows:

- "amx" needs three rows or more; below, "vnni" is faster;
- "generic" reads a quarter of the bytes but multiplies slowly: it serves up to `FEW_ROWS`;
- otherwise the integers are **carried in float32**: the floats that they stand for go through BLAS, never slower than a Linear.
"""


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

# %% nbgrader={"grade": false, "grade_id": "layers", "locked": true, "solution": false}
#| export
FEW_ROWS = 8  # up to which generic integer code beats sgemm: it reads a quarter of the bytes
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
    `input_grid` is (scale, zero_point, lowest, highest) of the input's bytes, 0 to 255; without
    one, each row of each call gets the grid that covers its values and 0.
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
        panels, work = self.panels.data, (len(x) + READING) * self.panels.size
        q = aligned((len(x), 4 * panels.shape[1] + 64), np.uint8)  # 64: not all in one cache set
        grids = np.empty((len(x), 3), np.float32)
        self.quantize(work, x, q, grids)
        return self.multiply_bytes(kernel, work, q, grids, np.float32)

    def multiply_bytes(
        self, kernel: str, work: int, q: np.ndarray, grids: np.ndarray, dtype: Any
    ) -> np.ndarray:
        """Rows of bytes times the weight: floats, or in int32 the exact sums."""
        y = np.empty((len(q), self.out_features), dtype)
        tables = self.panels.data, self.columns.data, self.scales.data
        run(multiply_rows, kernel, work, q, grids, *tables, self.relu, scratch(get_ident()), y)
        return y

    def sums(self, q: np.ndarray, zero_point: int = 0) -> np.ndarray:
        """(q - zero_point) @ (weight - its zero points), exactly: int8 (M, K) -> int32 (M, N).

        For layers that hand each other integers.
        """
        kernel, panels = self.kernel(len(q), self.in_features), self.panels.data
        if kernel == "float32":
            weight = unpack_panels(panels, self.in_features, self.out_features).astype(np.int8)
            zeros = self.columns.data[1, : self.out_features]
            return int8_matmul(q, weight, zero_point, zeros).astype(np.int32)
        rows = aligned((len(q), 4 * panels.shape[1] + 64), np.uint8)
        rows[:, : self.in_features] = q.view(np.uint8) ^ 128  # adds 128
        grids = np.ones((len(q), 3), np.float32)
        grids[:, 1] = zero_point + 128
        grids[:, 2] = rows[:, : self.in_features].sum(axis=1)
        work = (len(q) + READING) * panels.size
        return self.multiply_bytes(kernel, work, rows, grids, np.int32)

    def quantize(self, work: int, x: np.ndarray, q: np.ndarray, grids: np.ndarray) -> None:
        """Rows as bytes, or as the floats that these stand for; ValueError for NaN and infinity."""
        arrays = x, x.view(np.int32), q, grids, grids.view(np.int32), self.input_grid
        # no tile in it: one machine code serves all kernels
        if run(quantize_rows, "generic", work, *arrays, q.dtype == np.float32):
            finite(x, f"{self.name}.input")

    def multiply_carried(self, x: np.ndarray) -> np.ndarray:
        """The same by sgemm: the floats that the integers stand for, kept for the weight."""
        if int8_kernel() == "numpy":
            if not np.isfinite([x.min(initial=0), x.max(initial=0)]).all():
                finite(x, f"{self.name}.input")
            rounded = rounded_rows(x, self.input_grid)
        else:
            rounded, grids = np.empty_like(x), np.empty((len(x), 3), np.float32)
            self.quantize(x.size, x, rounded, grids)
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
        work = (len(x) + READING) * self.in_features * self.out_features
        arrays = x, x.view(np.int32), digits, row_scales, row_scales.view(np.int32)
        if run(split_rows, "generic", work, *arrays, self.group_size):
            finite(x, f"{self.name}.input")
        y = np.empty((len(x), self.out_features), np.float32)
        tables = self.panels.data, self.scales.data, self.columns.data
        sums = scratch(get_ident())
        run(multiply_groups, kernel, work, digits, row_scales, *tables, width // 4, sums, y)
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


# %% [markdown]
r"""
### Exercise 10: accelerate

What remains is to find the layers of a model. `ACCELERATED` says for a type how its layers are made; such a function returns None for a layer that has to stay (a LowBitLinear with a codebook, say).

The model is already a copy. Fill `replacements`: `id` of a layer -> the new one, for every layer (`model.modules()`) whose *very type* is in the table and for which the function gives something. The new layer takes over `training`.
"""


# %% nbgrader={"grade": false, "grade_id": "accelerated", "locked": true, "solution": false}
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


# %% nbgrader={"grade": false, "grade_id": "accelerate", "locked": false, "solution": true}
#| export
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
    replacements: dict[int, Module] = {}
    ### BEGIN SOLUTION
    for layer in model.modules():
        make = ACCELERATED.get(type(layer))
        fast = make(layer) if make else None
        if fast is not None:
            fast.training = layer.training
            replacements[id(layer)] = fast
    ### END SOLUTION
    if not replacements:
        kinds = ", ".join(kind.__name__ for kind in ACCELERATED)
        raise ValueError(f"accelerate: the model has none of {kinds}: quantise it first")
    replace_modules(model, replacements)
    return replacements.get(id(model), model)


# %% nbgrader={"grade": true, "grade_id": "test-accelerate", "locked": true, "points": 10, "solution": false}
def test_accelerate():
    manual_seed(0)
    codebook = LowBitLinear(Linear(32, 4), codebook=np.linspace(-1, 1, 16))
    model = Sequential(QuantizedLinear(Linear(8, 32)), LowBitLinear(Linear(32, 32)), codebook)
    fast = accelerate(model.eval())
    kinds = [type(layer).__name__ for layer in fast]
    check(
        kinds, ["Int8Linear", "WeightOnlyLinear", "LowBitLinear"], "what has a kernel, and the rest"
    )
    check(type(model[0]), QuantizedLinear, "the model itself stays")
    check([layer.training for layer in fast], [False] * 3, "new layers take over `training`")
    ### BEGIN HIDDEN TESTS
    shared = QuantizedLinear(Linear(4, 4))
    twice = accelerate(Sequential(shared, shared))
    check(twice[0] is twice[1], True, "one layer in two places stays one layer")
    pair = accelerate(Sequential(*(QuantizedLinear(Linear(4, 4)) for _ in range(2))))
    check([type(layer).__name__ for layer in pair], ["Int8Linear"] * 2, "every layer that can")
    check(type(accelerate(shared)).__name__, "Int8Linear", "a model may be a single layer")
    with check_raises(ValueError, "has none of QuantizedLinear", "nothing to accelerate: say so"):
        accelerate(Sequential(Linear(4, 4)))
    with check_raises(ValueError, "has none of", "a layer that has to stay is no success"):
        accelerate(Sequential(codebook))
    ### END HIDDEN TESTS


test_accelerate()

# %% [markdown]
r"""
## Put together

A network that reads digits, quantised in three ways, each on NumPy as module 15 and 24 left it, and accelerated. Three questions: is it as accurate, is it the same, is it faster? **Predict** which of the three gains most for one image, and which for 256.
"""

# %%
from tinytorch.core.activations import ReLU
from tinytorch.core.layers import Flatten
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits
from tinytorch.optimization.lowbit import quantize_weights
from tinytorch.optimization.quantization import quantize_model

manual_seed(0)
train, test = Digits(), Digits(train=False)
network = Sequential(
    *(Flatten(), Linear(64, 512), ReLU(), Linear(512, 512), ReLU(), Linear(512, 10))
)
trainer = Trainer(network, Adam(network.parameters(), lr=1e-3), CrossEntropyLoss())
trainer.fit(DataLoader(train, batch_size=50, shuffle=True, seed=0), epochs=4)
network.eval()


def quantised(how) -> Sequential:
    model = copy.deepcopy(network)
    how(model)
    return model


models = {
    "float32": network,
    "int8, calibrated": quantised(lambda model: quantize_model(model, train.images, axis=1)),
    "int8, rows as they come": quantised(lambda model: quantize_model(model, axis=1)),
    "4-bit weights": quantised(quantize_weights),
}

# %%
print(f"{'':26}accuracy   1 image    256 images      accelerated: accuracy   1 image    256 images")
labels, few = test.labels.data, Tensor(test.images.data[:1])
many = Tensor(np.repeat(test.images.data, 1, axis=0)[:256])
with no_grad():
    for name, model in models.items():
        versions = [model] if name == "float32" else [model, accelerate(model)]
        line = f"{name:24}"
        for version in versions:
            share = float((version(test.images).data.argmax(axis=1) == labels).mean())
            one, all_ = (microseconds(lambda v=version, x=x: v(x)) for x in (few, many))
            line += f"{share:10.3f} {one:8.0f} us {all_:10.0f} us     "
        print(line)

# %% [markdown]
r"""
Small layers, so that overhead counts: even so the accelerated models leave module 15's and 24's behind. Note the second row: an uncalibrated QuantizedLinear keeps x in float, while `accelerate` rounds each row as it comes. That is a different, slightly less exact function; a calibrated one computes the same as before.

## What it costs: rows, bytes, time

One layer of 1024 x 1024, by the number of rows, beside float32 and beside the limit of exercise 1. **Predict** where the lines bend.
"""

# %%
manual_seed(0)
layer = Linear(1024, 1024)
fast = accelerate(QuantizedLinear(layer, symmetric=True, axis=1))
fast4 = accelerate(LowBitLinear(layer))
counts = (1, 2, 4, 8, 16, 32, 64, 128)
times = {"float32": [], "int8": [], "4-bit weights": []}
with no_grad():
    for count in counts:
        x = Tensor(random.standard_normal((count, 1024)))
        for name, one in zip(times, (layer, fast, fast4), strict=True):
            times[name].append(microseconds(lambda one=one, x=x: one(x)))
print(f"{'us, rows:':16}" + "".join(f"{count:>9}" for count in counts))
for name, taken in times.items():
    print(f"{name:16}" + "".join(f"{us:9.0f}" for us in taken))
ratio = [a / b for a, b in zip(times["float32"], times["int8"], strict=True)]
print(f"{'int8 gains':16}" + "".join(f"{r:8.1f}x" for r in ratio))

# %%
if plt:
    for (name, taken), line in zip(times.items(), ("k-", "k--", "k:"), strict=True):
        plt.loglog(counts, taken, line, marker="o", label=name)
    plt.title("A layer of 1024 x 1024: bytes decide on the left, products on the right")
    plt.xlabel("rows")
    plt.ylabel("time (us)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
On the left the lines are flat: a row more costs nothing while the weights are read. On the right they rise in proportion. Part of a single row's time is Python's: calling a module costs as much for one row as for a hundred.

And what is read? Look at the bytes that each layer holds, and at the error that they cost.
"""

# %%
x = Tensor(random.standard_normal((16, 1024)))
with no_grad():
    right = layer(x).data
    for name, one in {"float32": layer, "int8": fast, "4-bit weights": fast4}.items():
        held_bytes = sum(t.nbytes for t in [*one.parameters(), *one.buffers()])
        error = np.linalg.norm(one(x).data - right) / np.linalg.norm(right)
        print(f"{name:16}{held_bytes:12,} bytes   relative error {error:.5f}")

# %% [markdown]
r"""
PyTorch's counterpart for int8 is `torch.ao.quantization.quantize_dynamic` (it keeps 7 bits of x on x86, for processors whose older instruction adds two products in 16 bits and may overflow; VNNI needs no such care), for four bits `torch.ops.aten._weight_int4pack_mm_for_cpu`. `benchmarks/int8_linear.py` runs ours beside PyTorch and ONNX Runtime.

Three things you can't see in the code decided more than one of its lines. Arrays begin with a **cache line** (`aligned`): otherwise every load of 64 bytes touches two. Rows of bytes are 64 bytes longer than K: rows that lie a power of two apart compete for the same places in the cache. And weights that come next are *asked for* (`prefetch`) before they are needed.

## Questions

Answer in a few lines, with the numbers worked out.

### 1. How many rows? (4 points)

A CPU runs at 2.5 GHz and starts two `vpdpbusd` a cycle. How many operations a second is that (a product and an addition are two)? A layer of 4096 x 4096 in int8 is read at 20 GB/s. From how many rows on does arithmetic take longer than reading?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-rows", "locked": false, "points": 4, "solution": true}
r"""
64 products and 64 additions an instruction: 2.5e9 x 2 x 128 = 640 GOPS. Reading: 16.8 MB / 20 GB/s = 0.84 ms. One row is 33.6 million operations, 0.052 ms. From 16 rows on (0.84 / 0.052) arithmetic takes longer.
"""

# %% [markdown]
r"""
### 2. Does it overflow? (3 points)

The sum in int32 holds up to 2,147,483,647. With u up to 255 and w down to -128, how many inputs may a layer have before the tile's sum can overflow? And the corrected sum, with zero points anywhere in the ranges of u and w?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-overflow", "locked": false, "points": 3, "solution": true}
r"""
255 x 128 = 32,640 a product: 2,147,483,647 / 32,640 = 65,793 inputs. |u - z| is at most 255, |w - z_n| at most 255: 65,025, so 33,025 inputs. (The tile's sum may then wrap around; subtracting wraps back, as integers do modulo 2^32, if the result fits.) Above that `kernel` chooses float32.
"""

# %% [markdown]
r"""
### 3. Why not always tiles? (3 points)

For one row the tile does 4 loads of weights and 4 instructions of 64 products for each quad. How many bytes are read a product, how many for six rows? A second row would cost how much more time if the weights come from memory at 20 GB/s and the CPU of question 1 multiplies?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-tiles", "locked": false, "points": 3, "solution": true}
r"""
256 bytes for 256 products: one byte each; six rows share them: 1/6 byte. A quad takes 256 / 20e9 = 12.8 ns to read, and 4 instructions 2 cycles = 0.8 ns. A second row adds 0.8 ns that hide behind the reading: nothing. So for few rows only the bytes count, which is why 4 bits help there.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "solution": false}
def test_module():
    """Run every test of this lesson."""
    tests = [
        *(test_least_seconds, test_offered_kernels, test_pack_panels, test_pack_nibbles),
        *(test_sixteenfold, test_add_tile, test_rounded_rows, test_finish_tile),
        *(test_add_group, test_accelerate),
    ]
    for test_function in tests:
        test_function()
    print(f"{len(tests)} tests passed: module 28 is complete")


test_module()

# %% [markdown]
r"""
## What works now

- Integers are faster than floats: the processor's dot product of bytes, on weights in the order that it wants, in tiles that use each byte many times.
- Any CPU is served: by AMX or VNNI where it has them, by integer code for few rows, by float32 where integers would lose; and it says so.
- 4-bit weights are unpacked in registers: no weight is ever written out.
- `accelerate(model)` gives a quantised model these kernels; other layers can join its table.
- What was measured beside PyTorch and ONNX Runtime is in `benchmarks/int8_linear.py`.
"""

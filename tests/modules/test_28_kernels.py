"""Module 28: packing, micro-kernels, layers on integers, whole models."""

import copy
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Linear, Module, Sequential
from tinytorch.core.tensor import Tensor
from tinytorch.optimization import kernels
from tinytorch.optimization.kernels import (
    ACCELERATED,
    Int8Linear,
    WeightOnlyLinear,
    accelerate,
    add_group,
    add_tile,
    aligned,
    compiled,
    finish_tile,
    int8_kernel,
    offered_kernels,
    pack_nibbles,
    pack_panels,
    rounded_rows,
    sixteenfold,
    target_features,
    unpack_panels,
)
from tinytorch.optimization.lowbit import LowBitLinear, normal_levels, quantize_weights
from tinytorch.optimization.observers import fuse
from tinytorch.optimization.quantization import QuantizedLinear, quantize_model
from tinytorch.profiling.profiler import FLOPS

random = np.random.default_rng(28)
OFFERED = offered_kernels(target_features())
COMPILED = [name for name in OFFERED if name != "numpy"]


@pytest.fixture(autouse=True)
def same_numbers():
    """Each test draws the same numbers in any order."""
    random.bit_generator.state = np.random.default_rng(28).bit_generator.state


@pytest.fixture(params=OFFERED)
def kernel(request, monkeypatch):
    """Each kernel that this machine offers, in turn."""
    monkeypatch.setenv("TINYTORCH_KERNEL", request.param)
    int8_kernel.cache_clear()
    yield request.param
    int8_kernel.cache_clear()


@pytest.fixture
def chosen(monkeypatch):
    """Sets TINYTORCH_KERNEL, and returns what it chooses."""

    def choose(name):
        monkeypatch.setenv("TINYTORCH_KERNEL", name)
        int8_kernel.cache_clear()
        return int8_kernel()

    yield choose
    int8_kernel.cache_clear()


def normal(*shape):
    return random.standard_normal(shape).astype(np.float32)


def int8(*shape):
    return random.integers(-128, 128, shape).astype(np.int8)


# --- the choice of a kernel ---
def test_kernels_are_chosen_by_features(monkeypatch):
    vnni = {"avx512f", "avx512bw", "avx512vnni"}
    amx = vnni | {"amx-tile", "amx-int8"}
    monkeypatch.setattr(kernels, "amx_permitted", lambda: True)
    assert offered_kernels(amx) == ["amx", "vnni", "generic", "numpy"]
    assert offered_kernels(vnni) == ["vnni", "generic", "numpy"]
    for features in (set(), {"avx2", "fma"}, {"avx512f", "avx512bw"}, {"neon"}, {"amx-int8"}):
        assert offered_kernels(features) == ["generic", "numpy"]
    assert offered_kernels(None) == ["numpy"]
    monkeypatch.setattr(kernels, "amx_permitted", lambda: False)
    assert offered_kernels(amx) == ["vnni", "generic", "numpy"]


def test_the_environment_chooses(chosen, monkeypatch):
    assert chosen("auto") == OFFERED[0]
    for name in OFFERED:
        assert chosen(name) == name
    with pytest.raises(ValueError, match=r"expected auto or one of .*, got 'cuda'"):
        chosen("cuda")
    monkeypatch.setattr(kernels, "target_features", lambda: {"avx2"})
    with pytest.raises(ValueError, match="TINYTORCH_KERNEL=vnni: this process offers generic, num"):
        chosen("vnni")


@pytest.mark.parametrize(
    "features, name, says",
    [
        (None, "numpy", "no faster than FP32 on NumPy: pip install 'tinytorch\\[fast\\]'"),
        ({"avx2"}, "generic", "no AVX512-VNNI: above 8 rows, INT8 values are carried in float32"),
    ],
)
def test_what_is_missed_is_said_once(chosen, monkeypatch, capsys, features, name, says):
    import re

    monkeypatch.setattr(kernels, "target_features", lambda: features)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    kernels.tell.cache_clear()
    for _ in range(3):
        assert chosen("auto") == name
    error = capsys.readouterr().err
    assert re.search(says, error)
    assert error.count("\n") == 1
    kernels.tell.cache_clear()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    chosen("auto")
    assert capsys.readouterr().err == ""


def test_without_numba_there_is_numpy(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "numba"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert target_features() is None


def test_importing_costs_no_numba():
    code = (
        "import sys, tinytorch; from tinytorch import accelerate; assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- packing ---
@pytest.mark.parametrize("k, n", [(1, 1), (4, 64), (5, 65), (64, 64), (130, 200), (7, 0)])
@pytest.mark.parametrize("multiple", [4, 8, 64])
def test_panels_hold_every_number_and_zeros(k, n, multiple):
    weight = int8(k, n)
    panels = pack_panels(weight, multiple)
    quads = math.ceil(k / multiple) * multiple // 4
    assert panels.shape == (math.ceil(n / 64), quads, 64, 4)
    assert (panels.dtype, panels.flags.c_contiguous) == (np.int8, True)
    for row, column in np.ndindex(k, n):
        assert panels[column // 64, row // 4, column % 64, row % 4] == weight[row, column]
    assert panels.astype(int).sum() == weight.astype(int).sum()
    assert np.count_nonzero(panels) == np.count_nonzero(weight)
    np.testing.assert_array_equal(unpack_panels(panels, k, n), weight)


def test_nibbles_in_place_count_sixteenfold():
    numbers = random.integers(-8, 8, (24, 70)).astype(np.int8)
    panels = pack_panels(numbers, 8)
    packed = pack_nibbles(panels)
    assert (packed.dtype, packed.nbytes) == (np.uint8, panels.nbytes // 2)
    for quad, column, place in np.ndindex(6, 64, 4):
        byte = int(packed[0, quad // 2, column, place])
        nibble = byte >> 4 if quad % 2 else byte & 15
        assert nibble == panels[0, quad, column, place] % 16
    np.testing.assert_array_equal(sixteenfold(packed), 16 * panels)
    np.testing.assert_array_equal(sixteenfold(np.full((1, 1, 64, 4), 0x88, np.uint8)), -128)


# --- micro-kernels against their meaning ---
def one_tile(sums, top, rows, row, count, panels, panel, first, last, fresh, part, parts):
    add_tile(sums, top, rows, row, count, panels, panel, first, last, fresh, True)


def one_finish(y, row, column, sums, top, count, grids, columns, scales, floor, part, parts):
    finish_tile(y, row, column, sums, top, count, grids, columns, scales, floor)


def one_group(totals, sums, top, count, scales, group, column, part, parts):
    add_group(totals, sums, top, count, scales, group, column)


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("nibbles", [False, True])
@pytest.mark.parametrize("name", COMPILED)
def test_tiles_are_exact(name, nibbles, extreme):
    if name == "amx" and nibbles:
        pytest.skip("AMX multiplies bytes")
    quads, tallest = 64, kernels.SIZES[name][0]
    rows = random.integers(0, 256, (50, 4 * quads + 3)).astype(np.uint8)
    weight = random.integers(-8, 8, (4 * quads, 128)).astype(np.int8) if nibbles else int8(256, 128)
    if extreme:
        rows[:], weight[:] = 255, -8 if nibbles else -128
    panels = pack_panels(weight)
    panels = pack_nibbles(panels) if nibbles else panels
    tile = compiled(one_tile, name)
    for count in sorted({1, 2, 3, 4, 5, 6, 15, 16, 17, tallest} & set(range(1, tallest + 1))):
        for first, last in ((0, quads), (16, 32), (32, 64)):
            for fresh in (True, False):
                sums = random.integers(-(2**20), 2**20, (40, 64)).astype(np.int32)
                expected = sums.copy()
                product = rows[7 : 7 + count, 4 * first : 4 * last].astype(np.int64)
                product = product @ weight[4 * first : 4 * last, 64:].astype(np.int64)
                product = 16 * product if nibbles else product
                expected[3 : 3 + count] = product + (0 if fresh else sums[3 : 3 + count])
                meant = sums.copy()
                place = 3, rows, 7, count, panels, 1, first, last, fresh
                add_tile(meant, *place, False)
                tile(sums, *place, 0, 1)
                np.testing.assert_array_equal(sums, expected)
                np.testing.assert_array_equal(meant, expected)


@pytest.mark.parametrize("name", COMPILED[:1])
@pytest.mark.parametrize("width", [64, 100, 128, 130])
def test_finishing_means_what_numpy_says(name, width):
    sums = random.integers(-(2**30), 2**30, (20, 64)).astype(np.int32)
    grids = np.stack([[0.5, 0.25, 1e-3], [0, 255, 17], [3, 0, 8000]], 1).astype(np.float32)
    columns = random.integers(-9000, 9000, (2, 192)).astype(np.int32)
    scales, y = normal(2, 192), normal(5, width)
    for floor in (np.float32(0), np.float32(-np.inf)):
        meant, got = y.copy(), y.copy()
        for column in (0, 64):
            place = 2, column, sums, 4, 3
            tables = np.pad(grids, ((2, 0), (0, 0))), columns, scales, floor
            finish_tile(meant, *place, *tables)
            compiled(one_finish, name)(got, *place, *tables, 0, 1)
        np.testing.assert_array_equal(got, meant)
        exact = sums[4:7, 9] - grids[:, 1] * columns[0, 9] - grids[:, 2] * columns[1, 9]
        exact = np.maximum(exact * grids[:, 0] * scales[0, 9] + scales[1, 9], floor)
        np.testing.assert_allclose(meant[2:, 9], exact, rtol=1e-6)


@pytest.mark.parametrize("name", COMPILED[:1])
def test_adding_groups_means_what_numpy_says(name):
    sums, scales = random.integers(-(2**24), 2**24, (9, 64)).astype(np.int32), normal(5, 192)
    totals = normal(3, 64)
    meant, got = totals.copy(), totals.copy()
    add_group(meant, sums, 2, 3, scales, 4, 128)
    compiled(one_group, name)(got, sums, 2, 3, scales, 4, 128, 0, 1)
    np.testing.assert_array_equal(got, meant)
    exact = totals[1] + (256.0 * sums[4] + sums[5]) * scales[4, 128:]
    np.testing.assert_allclose(meant[1], exact, rtol=1e-6)


def test_loops_run_in_python_too():
    x, weight = normal(5, 20), int8(20, 70)
    panels, y = pack_panels(weight), np.empty((5, 70), np.float32)
    q, grids = np.empty((5, 4 * panels.shape[1]), np.uint8), np.empty((5, 3), np.float32)
    for part in range(2):
        bits = x.view(np.int32), q, grids, grids.view(np.int32)
        kernels.quantize_rows(x, *bits, np.array(kernels.DYNAMIC, float), False, part, 2)
    columns = np.zeros((2, 128), np.int32)
    columns[0, :70] = weight.sum(axis=0, dtype=np.int32)
    scales = np.stack([np.ones(128), np.zeros(128)]).astype(np.float32)
    for part in range(2):
        tables = grids, panels, columns, scales, False, np.empty((512, 64), np.int32)
        kernels.multiply_rows(q, *tables, y, part, 2)
    np.testing.assert_allclose(
        y, rounded_rows(x, kernels.DYNAMIC) @ weight.astype(float), 1e-4, 1e-3
    )


def test_aligned_arrays_begin_with_a_cache_line():
    for shape in ((1,), (3, 5), (0, 4), (1000,)):
        array = aligned(shape, np.float32)
        assert (array.shape, array.dtype) == (shape, np.float32)
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert array.flags.writeable


# --- quantised rows ---
def row_by_row(x, grid):
    """The definition, in float64."""
    scale, zero_point, lowest, highest = grid
    y = np.empty(x.shape)
    for i, row in enumerate(x.astype(np.float64)):
        if not grid[0]:
            low, high = min(row.min(), 0), max(row.max(), 0)
            scale = (high - low) / 255 or 1.0
            zero_point = np.rint(-low / scale)
        y[i] = (np.clip(np.rint(row / scale) + zero_point, lowest, highest) - zero_point) * scale
    return y


ROWS = {
    "normal": [3.0, -1.0, 0.5, 2.2, -0.7],
    "positive": [3.0, 1.0, 5.5, 2.0, 4.0],
    "negative": [-3.0, -1.0, -5.5, -2.0, -4.0],
    "zeros": [0.0, 0.0, 0.0, -0.0, 0.0],
    "constant": [7.0] * 5,
    "outlier": [0.01, -0.02, 1000.0, 0.03, 0.0],
    "tiny": [1e-9, -2e-9, 3e-9, 0.0, 1e-10],
    "huge": [1e38, -1e38, 1e37, 0.0, 3e30],
    "subnormal": [1e-42, -1e-43, 0.0, 1e-44, 2e-42],
}


@pytest.mark.parametrize("grid", [kernels.DYNAMIC, (0.05, 100, 0, 255), (0.1, 128, 1, 255)])
def test_rows_are_rounded_as_defined(kernel, grid):
    x = np.array(list(ROWS.values()), np.float32)
    expected = row_by_row(x, grid)
    close = np.abs(expected).max(axis=1, keepdims=True) * 1e-6 + 1e-35
    assert (np.abs(rounded_rows(x, grid) - expected) <= close).all()
    layer = Int8Linear(np.eye(5, dtype=np.int8), 1.0, input_grid=grid)
    for rows in (x, *(x[i : i + 1] for i in range(len(x)))):  # by each path
        got = layer(Tensor(rows)).data
        wanted = row_by_row(rows, grid)
        close = np.abs(wanted).max(axis=1, keepdims=True) * 1e-6 + 1e-35
        assert (np.abs(got - wanted) <= close).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("calibrated", [False, True])
def test_what_is_not_finite_is_refused(kernel, value, rows, calibrated):
    layer = QuantizedLinear(Linear(6, 3), name="head")
    if calibrated:
        layer.calibrate(Tensor(normal(4, 6)))
    x = normal(rows, 6)
    x[-1, 2] = value
    for fast in (accelerate(layer), accelerate(LowBitLinear(Linear(6, 3), 4, 6, name="head"))):
        if isinstance(fast, WeightOnlyLinear) and fast.kernel(rows, 6) == "float32":
            continue  # floats stay floats there
        with pytest.raises(
            ValueError, match=rf"head\.input holds {value} at \[{rows - 1}, 2\]: on"
        ):
            fast(Tensor(x))


# --- layers on integers ---
@pytest.mark.parametrize("k, n", [(1, 1), (3, 5), (64, 64), (100, 70), (333, 130)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 33])
def test_products_are_exact(kernel, k, n, rows):
    """On a grid of whole numbers nothing is rounded but the result, to float32."""
    weight, x = int8(k, n), random.integers(-100, 101, (rows, k)).astype(np.float32)
    zero_point, bias = random.integers(-128, 128, n), random.integers(-9, 9, n)
    layer = Int8Linear(weight, 1.0, zero_point, bias, (1.0, 120, 0, 255))
    exact = x.astype(np.int64) @ (weight.astype(np.int64) - zero_point) + bias
    np.testing.assert_allclose(layer(Tensor(x)).data, exact, rtol=3e-7, atol=0.5 * (k > 1000))
    layer.relu = True
    np.testing.assert_allclose(layer(Tensor(x)).data, np.maximum(exact, 0), rtol=3e-7)
    assert layer.carried_weight.dtype == np.float32


@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("x_value", [-128.0, 127.0])
def test_extreme_values_do_not_overflow(kernel, value, x_value):
    k = 33_000
    for zero_point in (0, -128, 127):
        layer = Int8Linear(
            np.full((k, 3), value, np.int8), 1.0, zero_point, None, (1.0, 128, 0, 255)
        )
        for rows in (1, 8):
            got = layer(Tensor(np.full((rows, k), x_value))).data
            close = 1e-4 if layer.kernel(rows, k) == "float32" else 1e-6  # sgemm rounds its sums
            np.testing.assert_allclose(got, k * x_value * (value - zero_point), rtol=close)


@pytest.mark.parametrize("k, n", [(1, 1), (100, 70), (333, 130)])
@pytest.mark.parametrize("rows", [0, 1, 3, 33])
def test_sums_of_integers_are_exact(kernel, k, n, rows):
    weight, q, zeros = int8(k, n), int8(rows, k), random.integers(-128, 128, n)
    for zero_point in (-128, 0, 127):
        for weight_zeros in (0, zeros):
            layer = Int8Linear(weight, normal(n), weight_zeros, normal(n), relu=True)
            exact = (q.astype(np.int64) - zero_point) @ (weight.astype(np.int64) - weight_zeros)
            got = layer.sums(q, zero_point)
            assert got.dtype == np.int32
            np.testing.assert_array_equal(got, exact)


def test_too_many_inputs_are_carried(kernel):
    k = kernels.MOST_PRODUCTS + 1
    layer = Int8Linear(np.full((k, 2), 127, np.int8), 1.0, -128, None, (1.0, 0, 0, 255))
    assert layer.kernel(1, k) == "float32"
    np.testing.assert_allclose(layer(Tensor(np.full((1, k), 255.0))).data, k * 255 * 255, rtol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("rows", [1, 20])
def test_calibrated_layers_give_what_module_15_gives(kernel, symmetric, axis, rows):
    linear, x = Linear(90, 70), Tensor(normal(rows, 90))
    linear.bias.data[...] = normal(70)
    layer = QuantizedLinear(linear, symmetric, axis)
    layer.calibrate(Tensor(1.1 * x.data))
    fast = accelerate(layer)
    step = layer.input_scale.item() * np.max(layer.weight_scale.data) * 128
    difference = np.abs(fast(x).data - layer(x).data)  # where x / scale ends in .5, a step of x
    assert (difference <= step).all()
    assert np.median(difference) < 1e-6
    clipped = Tensor(100 * x.data)
    assert np.abs(fast(clipped).data - layer(clipped).data).max() < 1e-4


@pytest.mark.parametrize("axis", [None, 1])
def test_uncalibrated_layers_round_rows(kernel, axis):
    layer = QuantizedLinear(Linear(90, 70), axis=axis)
    fast = accelerate(layer)
    for rows in (1, 20):
        x = normal(rows, 90) * np.geomspace(1e-3, 1e3, rows, dtype=np.float32)[:, None]
        got = fast(Tensor(x)).data
        np.testing.assert_allclose(
            got,
            layer(Tensor(rounded_rows(x, kernels.DYNAMIC))).data,
            rtol=1e-4,
            atol=1e-6 * x.max(),
        )
        exact = layer(Tensor(x)).data
        error = np.linalg.norm(got - exact, axis=1) / np.linalg.norm(exact, axis=1)
        assert (error > 0).all()
        assert (
            error < 0.02
        ).all()  # each row on its own grid: small rows are as exact as large ones


def test_all_kernels_give_the_same(chosen):
    layer, low_bit = QuantizedLinear(Linear(200, 150)), LowBitLinear(Linear(200, 150), 4, 20)
    x = Tensor(normal(9, 200))
    results = []
    for name in OFFERED:
        chosen(name)
        results.append((accelerate(layer)(x).data, accelerate(low_bit)(x).data))
    for int8_result, low_bit_result in results[1:]:
        np.testing.assert_allclose(int8_result, results[0][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(low_bit_result, results[0][1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [QuantizedLinear, lambda layer: LowBitLinear(layer, 4, 6)])
def test_inputs_of_any_kind(kernel, make):
    fast = accelerate(make(Linear(12, 5)))
    x = normal(2, 3, 12)
    y = fast(Tensor(x)).data
    assert (y.shape, y.dtype) == ((2, 3, 5), np.float32)
    rows = fast(Tensor(x.reshape(6, 12))).data
    np.testing.assert_array_equal(y.reshape(6, 5), rows)
    np.testing.assert_allclose(fast(Tensor(x[0, 1])).data, rows[1], rtol=1e-4, atol=2e-4)
    strided = np.repeat(x.reshape(6, 12), 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(fast(Tensor._wrap(strided)).data, rows)
    frozen = x.reshape(6, 12).copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(fast(Tensor._wrap(frozen)).data, rows)
    double = fast(Tensor(x.reshape(6, 12), dtype=np.float64))
    np.testing.assert_array_equal(double.data, rows)
    assert fast(Tensor(np.empty((0, 12)))).shape == (0, 5)
    assert fast(Tensor(np.empty((4, 0, 12)))).shape == (4, 0, 5)
    with pytest.raises(ValueError, match=r"Linear expected \(\.\.\., 12\), got \(6, 11\)"):
        fast(Tensor(x.reshape(6, 12)[:, 1:]))
    np.testing.assert_array_equal(x, x)


# --- weights of few bits ---
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("group_size", [None, 1, 12, 20, 32])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_weight_only_layers_keep_what_x_is(kernel, bits, group_size, rows):
    k = 96 if group_size != 20 else 100
    linear = Linear(k, 70)
    linear.bias.data[...] = normal(70)
    layer = LowBitLinear(linear, bits, group_size)
    fast = accelerate(layer)
    assert isinstance(fast, WeightOnlyLinear)
    x = normal(rows, k) * np.geomspace(1e-3, 1e3, rows, dtype=np.float32)[:, None]
    y, exact = fast(Tensor(x)).data, x.astype(np.float64) @ layer.weight().data + linear.bias.data
    size = np.abs(x).max(axis=1, keepdims=True) * np.abs(layer.weight().data).sum(axis=0).max()
    assert (np.abs(y - exact) <= 2e-5 * size + 1e-6).all()
    assert fast.carried_weight.dtype == np.float32
    np.testing.assert_allclose(fast.carried_weight, layer.weight().data, rtol=1e-6, atol=1e-9)


def test_packed_weights_take_half_the_bytes():
    linear = Linear(256, 128)
    four, eight = (accelerate(LowBitLinear(linear, bits)) for bits in (4, 8))
    assert (four.panels.nbytes, eight.panels.nbytes) == (256 * 128 // 2, 256 * 128)
    assert eight.panels.data.dtype == np.int8


@pytest.mark.parametrize("name", ["zeros", "tiny", "huge", "subnormal", "outlier"])
def test_weight_only_on_edge_rows(kernel, name):
    layer = LowBitLinear(Linear(5, 3), 8, None)
    x = np.array([ROWS[name]], np.float32)
    exact = x.astype(np.float64) @ layer.weight().data + layer.bias.data
    close = 2e-5 * max(np.abs(x).max(), 1e-30) + 1e-6
    np.testing.assert_allclose(accelerate(layer)(Tensor(x)).data, exact, rtol=1e-4, atol=close)


# --- threads ---
@pytest.mark.skipif(not COMPILED, reason="NumPy's threads are BLAS's")
@pytest.mark.parametrize("rows", [1, 3, 300])
def test_threads_change_nothing(kernel, rows, monkeypatch):
    if kernel == "numpy":
        pytest.skip("NumPy's threads are BLAS's")
    numba = pytest.importorskip("numba")
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("Numba has one thread")
    monkeypatch.setattr(kernels, "THREAD_WORK", 0)
    layers = [accelerate(make(Linear(72, 200))) for make in (QuantizedLinear, LowBitLinear8)]
    x, before = Tensor(normal(rows, 72)), numba.get_num_threads()
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        results.append([layer(x).data for layer in layers])
    numba.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def LowBitLinear8(linear):
    return LowBitLinear(linear, 8, 24)


# --- whole models ---
class Small(Module):
    def __init__(self):
        self.first, self.bend, self.rest = Linear(32, 24), ReLU(), [Linear(24, 24), Linear(24, 5)]

    def forward(self, x):
        x = self.bend(self.first(x))
        for layer in self.rest:
            x = layer(x)
        return x


def test_accelerate_leaves_the_model_alone():
    model, x = Small(), Tensor(normal(6, 32))
    quantize_model(model, calibration_data=x, axis=1)
    before, state = model(x).data, {k: v.data.copy() for k, v in model.state_dict().items()}
    fast = accelerate(model)
    assert [type(layer) for layer in (fast.first, *fast.rest)] == [Int8Linear] * 3
    assert [type(layer) for layer in (model.first, *model.rest)] == [QuantizedLinear] * 3
    np.testing.assert_allclose(fast(x).data, before, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model(x).data, before)
    assert all((state[name] == t.data).all() for name, t in model.state_dict().items())
    assert fast.first.name == "first"


def test_accelerate_finds_what_it_can():
    model = Small()
    quantize_weights(model, group_size=8, skip="first")
    fast = accelerate(model)
    assert type(fast.first) is Linear
    assert [type(layer) for layer in fast.rest] == [WeightOnlyLinear] * 2
    shared = QuantizedLinear(Linear(4, 4))
    fast = accelerate(Sequential(shared, shared))
    assert fast[0] is fast[1]
    assert type(accelerate(shared)) is Int8Linear
    assert not accelerate(Sequential(shared).eval())[0].training


def test_accelerate_says_what_is_missing():
    for model in (
        Small(),
        Sequential(ReLU()),
        LowBitLinear(Linear(32, 4), symmetric=False),
        LowBitLinear(Linear(32, 4), codebook=normal_levels(4)),
    ):
        with pytest.raises(
            ValueError, match=r"the model has none of QuantizedLinear, .*: quantise it"
        ):
            accelerate(model)
    with pytest.raises(TypeError, match="accelerate: expected a Module, got ndarray"):
        accelerate(np.ones(3))


def test_a_relu_becomes_part_of_its_layer(kernel):
    model, x = Sequential(Linear(20, 30), ReLU(), Linear(30, 4)), Tensor(normal(6, 20))
    fused = fuse(model, x)
    quantize_model(fused, calibration_data=x)
    fast = accelerate(fused)
    assert (fast[0].relu, fast[2].relu) == (True, False)
    np.testing.assert_allclose(fast(x).data, fused(x).data, rtol=1e-4, atol=1e-4)
    assert (fast[0](x).data >= 0).all()


def test_later_layers_join_the_table(monkeypatch):
    class Later(Module):
        name = "later"

        def forward(self, x):
            return x

    monkeypatch.setitem(
        ACCELERATED, Later, lambda layer: Int8Linear(np.eye(3, dtype=np.int8), 2.0, name=layer.name)
    )
    fast = accelerate(Sequential(Later()))
    np.testing.assert_allclose(
        fast(Tensor([[1.0, 2.0, 0.0]])).data, [[2, 4, 0]], rtol=0.01, atol=0.01
    )


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_copies_work_and_stay_aligned(kernel, bits):
    linear = Linear(40, 70)
    layer = accelerate(LowBitLinear(linear, bits, 8) if bits else QuantizedLinear(linear))
    x = Tensor(normal(3, 40))
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(copied(x).data, layer(x).data)
        assert copied.panels.data.ctypes.data % 64 == 0
        assert not np.shares_memory(copied.panels.data, layer.panels.data)
    assert (layer.state_dict(), layer.parameters()) == ({}, [])
    assert len(layer.buffers()) == 3


def test_no_gradient_passes():
    x = Tensor(normal(2, 8), requires_grad=True)
    y = accelerate(QuantizedLinear(Linear(8, 3)))(x)
    assert not y.requires_grad
    with no_grad():
        assert accelerate(QuantizedLinear(Linear(8, 3)))(x).shape == (2, 3)


def test_the_profiler_counts_products():
    layer = accelerate(QuantizedLinear(Linear(8, 3)))
    count = FLOPS["accelerated_linear"]
    assert count((np.ones((2, 8)),), {"layer": layer}, np.ones((2, 3))) == 2 * 2 * 8 * 3


# --- other CPUs ---
CHILD = """
import numpy as np
from tinytorch import LowBitLinear, QuantizedLinear, Tensor, accelerate, int8_kernel, nn
layer, x = nn.Linear(64, 70), np.random.default_rng(0).standard_normal((9, 64))
print(int8_kernel())
for quantized in (QuantizedLinear(layer), LowBitLinear(layer)):
    fast = accelerate(quantized)
    for rows in (1, 9):
        got, exact = fast(Tensor(x[:rows])).data, quantized(Tensor(x[:rows])).data
        assert np.linalg.norm(got - exact) < 0.02 * np.linalg.norm(exact)
"""


def run_child(code=CHILD, **environment):
    environment = {k: v for k, v in {**os.environ, **environment}.items() if v is not None}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.skipif("generic" not in OFFERED, reason="needs Numba")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names an x86 CPU")
def test_the_choice_is_by_the_cpu_that_numba_compiles_for(tmp_path):
    child = run_child(
        NUMBA_CPU_NAME="haswell",
        NUMBA_CPU_FEATURES="+avx2,+fma",
        NUMBA_CACHE_DIR=str(tmp_path),
        TINYTORCH_KERNEL=None,
        TQDM_DISABLE=None,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout == "generic\n"
    lines = child.stderr.splitlines()
    assert len(lines) == 2
    assert "no AVX512-VNNI: above 8 rows" in lines[0]
    assert "compiling INT8 kernels" in lines[1]
    assert list(tmp_path.rglob("*.nbc"))  # on disk, where NUMBA_CACHE_DIR says
    again = run_child(
        NUMBA_CPU_NAME="haswell",
        NUMBA_CPU_FEATURES="+avx2,+fma",
        NUMBA_CACHE_DIR=str(tmp_path),
        TINYTORCH_KERNEL=None,
        TQDM_DISABLE=None,
    )
    assert again.stderr.splitlines() == lines[:1]  # compiled once


def test_a_process_without_numba_works():
    code = "import sys; sys.modules['numba'] = None\n" + CHILD
    child = run_child(code, TINYTORCH_KERNEL=None, TQDM_DISABLE=None)
    assert child.returncode == 0, child.stderr
    assert child.stdout == "numpy\n"
    assert child.stderr.splitlines() == [
        "tinytorch: INT8 is no faster than FP32 on NumPy: pip install 'tinytorch[fast]' for kernels"
    ]

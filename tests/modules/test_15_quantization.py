"""Module 15: grids, int8 tensors, the integer layer, whole models."""

import copy
import json
import math

import numpy as np
import pytest

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Dropout, Linear, Module, Sequential
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.quantization import (
    QuantizedLinear,
    Quantizer,
    compare_model_sizes,
    dequantize_int8,
    int8_matmul,
    quantization_error,
    quantization_parameters,
    quantize_int8,
    quantize_model,
)
from tinytorch.profiling.profiler import Profiler

random = np.random.default_rng(15)
EPSILON = 1e-6  # relative: what comes back is rounded to float32


def normal(*shape, scale=1.0):
    return Tensor(scale * random.standard_normal(shape))


def round_trip(x, **options):
    q, scale, zero_point = quantize_int8(x, **options)
    return dequantize_int8(q, scale, zero_point, axis=options.get("axis"))


# --- tensors ---
@pytest.mark.parametrize(
    "values, symmetric, scale, zero_point, q",
    [
        ([[1, 2, 3], [4, 5, 6]], False, 6 / 255, -128, [[-86, -43, 0], [42, 84, 127]]),
        ([100, 101, 102], False, 102 / 255, -128, [122, 124, 127]),
        ([-1, 0, 3], False, 4 / 255, -64, [-128, -64, 127]),
        ([-4, -1], False, 4 / 255, 127, [-128, 63]),
        ([-1, 0, 2], True, 2 / 127, 0, [-64, 0, 127]),
        ([-127, 0.5, 1.5], True, 1.0, 0, [-127, 0, 2]),  # halves to even
        ([0, 0], False, 1.0, 0, [0, 0]),
        ([5, 5], False, 1.0, 0, [5, 5]),
        ([-128], False, 1.0, 0, [-128]),
        ([-128], True, 128 / 127, 0, [-127]),
        ([300, 300], False, 300 / 127, 0, [127, 127]),
        ([-0.25], False, 0.25 / 127, 0, [-127]),
        ([], False, 1.0, -128, []),
    ],
)
def test_quantize_int8(values, symmetric, scale, zero_point, q):
    got = quantize_int8(Tensor(values), symmetric)
    assert got[0].dtype == np.int8
    assert got[0].tolist() == q
    assert (type(got[1]), type(got[2])) == (float, int)
    assert got[1:] == (pytest.approx(scale, rel=1e-12), zero_point)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("symmetric", [False, True])
def test_each_channel_is_quantised_like_a_tensor_of_its_own(axis, symmetric):
    x = normal(3, 4, 5) * Tensor([1.0, 10.0, 0.1, 5.0]).unsqueeze(1)
    x.data[0, 0, :] = 0.3
    x.data[:, 2, 1] = 7.0
    q, scale, zero_point = quantize_int8(x, symmetric, axis=axis)
    assert (scale.dtype, zero_point.dtype) == (np.float64, np.int32)
    assert scale.shape == zero_point.shape == (x.shape[axis],)
    restored = dequantize_int8(q, scale, zero_point, axis=axis)
    for i in range(x.shape[axis]):
        part = np.take(x.data, i, axis=axis)
        own, own_scale, own_zero_point = quantize_int8(Tensor(part), symmetric)
        np.testing.assert_array_equal(np.take(q.data, i, axis=axis), own.data)
        assert (scale[i], zero_point[i]) == (own_scale, own_zero_point)
        back = dequantize_int8(own, own_scale, own_zero_point)
        np.testing.assert_array_equal(np.take(restored.data, i, axis=axis), back.data)


def test_constant_channels_come_back_exactly_beside_others():
    x = Tensor([[0.1, 1.0, 3.0, -2.0], [0.1, -1.0, 3.0, 0.0]])
    q, _, zero_point = quantize_int8(x, axis=1)
    restored = round_trip(x, axis=1)
    np.testing.assert_array_equal(restored.data[:, [0, 2]], x.data[:, [0, 2]])
    assert q.data[0].tolist()[:3] == [127, 127, 3]
    assert zero_point.tolist()[:3:2] == [0, 0]


@pytest.mark.parametrize("value", [1e-45, 1e-38, -3.4e-39, 1.6e38, 0.1, -7.77])
def test_constants_of_any_size_come_back_exactly(value):
    x = Tensor([value, value])
    np.testing.assert_array_equal(round_trip(x).data, x.data)


def test_float64_too_small_for_float32_counts_as_zero():
    q, scale, _ = quantize_int8(Tensor([5e-324, 1e-310], dtype=np.float64))
    assert scale == 1.0
    assert q.tolist() == [-128, -128]
    assert round_trip(Tensor([5e-324, 5e-324], dtype=np.float64)).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_dtype_comes_back_as_float32(dtype):
    restored = round_trip(Tensor(random.standard_normal(50), dtype=dtype))
    assert restored.dtype == np.float32


def test_views_zero_dimensions_and_gradients():
    x = normal(6, 8)
    for view in (x.T, x[::2, ::-1], x[0, 0]):
        q, scale, _ = quantize_int8(view)
        assert q.shape == view.shape
        assert np.abs(round_trip(view).data - view.data).max() <= scale / 2 * (1 + EPSILON)
    weight = Tensor([1.0, 2.0], requires_grad=True)
    assert not round_trip(weight).requires_grad
    assert quantize_int8(Tensor(np.zeros((0, 3))), axis=1)[1].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "values, says",
    [
        ([1.0, math.nan], r"tensor holds nan at \[1\]: only finite"),
        ([[1.0], [-math.inf]], r"tensor holds -inf at \[1, 0\]"),
        ([3e38], r"tensor holds 3e\+38 at \[0\]"),
        (math.nan, "tensor holds nan: only"),
    ],
)
def test_numbers_that_no_grid_holds_are_named(values, says):
    with pytest.raises(ValueError, match=says):
        quantize_int8(Tensor(values))


def test_wrong_arguments_say_what_is_wrong():
    q, scale, zero_point = quantize_int8(normal(2, 3))
    for given in (q, Tensor([True]), Tensor([1], dtype=np.int64)):
        with pytest.raises(
            TypeError, match=f"floating-point numbers, got a tensor of {given.dtype}"
        ):
            quantize_int8(given)
    with pytest.raises(TypeError, match="expected a Tensor, got ndarray"):
        quantize_int8(np.zeros(3))
    with pytest.raises(ValueError, match="axis 2 of a tensor with 2 axes"):
        quantize_int8(normal(2, 3), axis=2)
    with pytest.raises(TypeError, match="expected a Tensor of int8, got float32"):
        dequantize_int8(normal(2, 3), scale, zero_point)
    with pytest.raises(ValueError, match=r"scale has shape \(3,\), expected \(\) for axis=None"):
        dequantize_int8(q, np.ones(3), 0)
    with pytest.raises(
        ValueError, match=r"zero_point has shape \(3,\), expected \(2,\) for axis=0"
    ):
        dequantize_int8(q, np.ones(2), np.zeros(3), axis=0)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_parameters_cover_the_range_for_any_number_of_bits(bits, symmetric):
    scale, zero_point = quantization_parameters(-1.3, 2.2, symmetric, bits)
    lowest = -(2 ** (bits - 1)) + symmetric
    assert lowest <= zero_point <= 2 ** (bits - 1) - 1
    assert (lowest - zero_point) * scale <= -1.3 + scale / 2 * 1.0000001
    assert (2 ** (bits - 1) - 1 - zero_point) * scale >= 2.2 - scale / 2 * 1.0000001


# --- errors ---
def test_quantization_error_against_numpy():
    x, y = normal(40, 3), normal(40, 3)
    a, b = x.data.astype(np.float64), y.data.astype(np.float64)
    assert quantization_error(x, y) == {
        "max_error": np.abs(a - b).max(),
        "mean_error": pytest.approx(np.abs(a - b).mean(), rel=1e-12),
        "mse": pytest.approx(((a - b) ** 2).mean(), rel=1e-12),
        "snr_db": pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), rel=1e-12),
    }
    assert all(type(value) is float for value in quantization_error(x, y).values())
    assert quantization_error(x, x)["snr_db"] == math.inf
    assert quantization_error(x * 0, y)["snr_db"] == -math.inf


def test_quantization_error_refuses_what_it_can_not_compare():
    with pytest.raises(ValueError, match=r"one shape .* got \(2, 3\) and \(3,\)"):
        quantization_error(normal(2, 3), normal(3))  # would broadcast
    with pytest.raises(ValueError, match=r"got \(0,\)"):
        quantization_error(normal(0), normal(0))
    with pytest.raises(TypeError, match="restored: expected floating-point"):
        quantization_error(normal(2), Tensor([1, 2], dtype=np.int8))
    with pytest.raises(ValueError, match="restored holds nan"):
        quantization_error(normal(1), Tensor([math.nan]))


def test_snr_gains_six_decibels_a_bit():
    x = Tensor(random.uniform(-1, 1, 20_000))
    assert quantization_error(x, round_trip(x))["snr_db"] == pytest.approx(6.02 * 8, abs=0.5)


# --- integers ---
@pytest.mark.parametrize("k", [0, 1, 1024, 1025, 5000])
def test_int8_matmul_is_exact(k):
    for low, high in ((-128, 128), (-128, -127), (127, 128)):
        a = random.integers(low, high, (3, k), np.int8)
        b = random.integers(low, high, (k, 4), np.int8)
        for zero_a, zero_b in ((0, 0), (-128, 127), (5, np.array([-128, 0, 9, 127], np.int32))):
            right = (a.astype(np.int64) - zero_a) @ (b.astype(np.int64) - zero_b)
            np.testing.assert_array_equal(int8_matmul(a, b, zero_a, zero_b), right)


def test_int8_matmul_is_exact_beyond_32_bits():
    a = np.full((1, 140_000), -128, np.int8)
    right = 140_000 * 255**2
    assert int8_matmul(a, a.T, 127, np.array([127], np.int32)).tolist() == [[right]]


def layer_and_input(bias=True, shape=(7, 20)):
    linear = Linear(20, 6, bias=bias)
    return linear, Tensor(random.uniform(-0.5, 2.0, shape))


def restored_weight(layer):
    grid = layer.weight_scale, layer.weight_zero_point, layer.axis
    return dequantize_int8(layer.q_weight, *grid).data.astype(np.float64)


def restored_bias(layer):
    if layer.q_bias is None:
        return 0.0
    return dequantize_int8(layer.q_bias, layer.bias_scale, layer.bias_zero_point).data


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("axis", [None, 1, -1])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_layer_computes_what_its_grids_say(bias, axis, symmetric):
    linear, x = layer_and_input(bias)
    layer = QuantizedLinear(linear, symmetric, axis)
    weight, plain = restored_weight(layer), layer(x)
    np.testing.assert_allclose(plain.data, x.data @ weight + restored_bias(layer), atol=1e-5)

    layer.calibrate(x)
    scale, zero_point = layer.input_scale.item(), layer.input_zero_point.item()
    assert (scale, zero_point) == quantization_parameters(x.data.min(), x.data.max(), symmetric)
    marks = np.clip(np.rint(x.data.astype(float) / scale) + zero_point, -128, 127)
    right = (marks - zero_point) * scale @ weight + restored_bias(layer)
    got = layer(x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.data, right, rtol=1e-6, atol=1e-6)
    assert quantization_error(linear(x).detach(), got)["snr_db"] > 30


@pytest.mark.parametrize("shape", [(20,), (0, 20), (2, 3, 20)])
def test_the_layer_takes_any_leading_axes(shape):
    linear, x = layer_and_input(shape=shape)
    layer = QuantizedLinear(linear)
    assert layer(x).shape == linear(x).shape
    layer.calibrate(normal(5, 20))
    assert layer(x).shape == linear(x).shape


def test_inputs_beyond_the_calibrated_range_are_clipped():
    layer = QuantizedLinear(layer_and_input()[0])
    layer.calibrate(Tensor(np.linspace(-1, 2, 20)))
    edge = layer(Tensor(np.full((1, 20), 2.0))).data
    np.testing.assert_array_equal(layer(Tensor(np.full((1, 20), 1e6))).data, edge)


def test_calibrate_sees_all_batches_and_cuts_percentiles():
    layer = QuantizedLinear(layer_and_input()[0])
    layer.calibrate(Tensor(np.full((2, 20), v)) for v in (-1.0, 4.0, 2.0))
    assert layer.input_scale.item() == 5 / 255
    layer.calibrate(Tensor(np.arange(1000.0).reshape(50, 20)), percentile=90)
    low, high = np.percentile(np.arange(1000.0), [10, 90])
    assert layer.input_scale.item() == pytest.approx(high / 255, rel=1e-6) != (high - low) / 255
    for wrong in (0.5, 50, 101):
        with pytest.raises(ValueError, match="percentile must be above 50"):
            layer.calibrate(normal(2, 20), percentile=wrong)


def test_the_layer_holds_int8_and_nothing_to_train():
    linear, x = layer_and_input()
    layer = QuantizedLinear(linear, axis=1)
    assert layer.parameters() == []
    assert list(layer.state_dict()) == [
        *("q_weight", "weight_scale", "weight_zero_point"),
        *("q_bias", "bias_scale", "bias_zero_point", "input_scale", "input_zero_point"),
    ]
    assert {t.dtype.name for t in layer.buffers()} == {"int8", "float64", "int32"}
    memory = layer.memory_usage()
    assert memory["original_bytes"] == 4 * (20 * 6 + 6)
    assert memory["quantized_bytes"] == 20 * 6 + 6
    assert memory["overhead_bytes"] == 6 * 12 + 12 + 12
    held = [value for value in vars(layer).values() if isinstance(value, (Tensor, np.ndarray))]
    assert sum(t.nbytes for t in held) == 20 * 6 + 6 + memory["overhead_bytes"]
    assert memory["compression_ratio"] == 4.0
    assert memory["total_ratio"] == 504 / (126 + 96)
    layer.calibrate(x)
    assert not layer(Tensor(x.data, requires_grad=True)).requires_grad
    assert repr(layer).endswith("(in_features=20, out_features=6, bias=True, calibrated=True)")


def test_the_profiler_counts_the_product_of_integers():
    linear, x = layer_and_input()
    layer = QuantizedLinear(linear)
    layer.calibrate(x)
    assert Profiler().count_flops(layer, x) == Profiler().count_flops(linear, x)


def test_the_layer_refuses_what_it_can_not_do():
    linear, x = layer_and_input()
    layer = QuantizedLinear(linear)
    with pytest.raises(TypeError, match="expected a Linear, got Sequential"):
        QuantizedLinear(Sequential(linear))
    with pytest.raises(ValueError, match="axis must be 1"):
        QuantizedLinear(linear, axis=0)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 20\), got \(7, 3\)"):
        layer(normal(7, 3))
    with pytest.raises(ValueError, match="calibration: the data is empty"):
        layer.calibrate([])
    with pytest.raises(ValueError, match=r"QuantizedLinear\.input holds nan at"):
        layer.calibrate(x * math.nan)
    assert not layer.calibrated
    layer.calibrate(x)
    with pytest.raises(ValueError, match=r"QuantizedLinear\.input holds inf"):
        layer(x + math.inf)
    linear.bias.data[1] = math.inf
    with pytest.raises(ValueError, match=r"QuantizedLinear.bias holds inf at \[1\]"):
        QuantizedLinear(linear)


# --- models ---
class Net(Module):
    """Linears wherever a Module may hold one; `fc` and `again` are the same."""

    def __init__(self):
        self.fc = Linear(6, 6)
        self.blocks = [Sequential(Linear(6, 6), ReLU()), {"inner": [Linear(6, 6)]}]
        self.pair = (Linear(6, 6), Dropout(0.9))
        self.again = self.fc
        self.head = Linear(6, 3)
        self.factor = Tensor([2.0])

    def forward(self, x):
        x = self.again(self.fc(x))
        x = self.blocks[1]["inner"][0](self.blocks[0](x))
        return self.factor * self.head(self.pair[1](self.pair[0](x)))


NAMES = ["fc", "blocks.0.0", "blocks.1.inner.0", "pair.0", "head"]


def test_quantize_model_reaches_every_linear_of_any_tree():
    model, x = Net().eval(), normal(50, 6)
    blocks, inner = model.blocks, model.blocks[1]["inner"]
    expected = model(x).detach()
    report = quantize_model(model, x, axis=1)
    assert report["quantized_layers"] == 5
    assert list(report["layers"]) == NAMES
    assert report["uncalibrated"] == []
    assert not [m for m in model.modules() if isinstance(m, Linear)]
    assert model.again is model.fc
    assert (model.blocks is blocks, blocks[1]["inner"] is inner) == (True, True)
    assert isinstance(model.pair, tuple)
    assert [name for name, _ in model.named_parameters()] == ["factor"]
    assert quantization_error(expected, model(x).detach())["snr_db"] > 20


def test_calibration_notes_what_reaches_each_layer_in_eval_mode():
    model = Net()
    model.blocks[0].eval()
    x = normal(40, 6)
    floating = copy.deepcopy(model).eval()
    with no_grad():
        h = [x, floating.fc(x)]
        h.append(floating.again(h[1]))
        h.append(floating.blocks[0](h[2]))
        h.append(floating.blocks[1]["inner"][0](h[3]))
        h.append(floating.pair[0](h[4]))
    seen = [np.concatenate([h[0].data, h[1].data]), *(t.data for t in h[2:])]
    modes = [module.training for module in model.modules() if isinstance(module, Module)]
    quantize_model(model, [(x[:25], "target"), (x[25:], "target")])
    now = dict(model.named_modules())
    for name, values in zip(NAMES, seen, strict=True):
        scale, zero_point = quantization_parameters(values.min(), values.max())
        assert now[name].input_scale.item() == pytest.approx(scale, rel=1e-5)
        assert abs(now[name].input_zero_point.item() - zero_point) <= 1
    assert [m.training for m in model.modules() if isinstance(m, Module)] == modes


def test_calibration_data_passes_once():
    model, calls = Sequential(Linear(6, 2)), []
    model.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape))
    quantize_model(model, (normal(n, 6) for n in (3, 0, 4)))
    assert calls == [(3, 6), (4, 6)]


def test_percentile_calibration_ignores_the_outlier():
    x = normal(200, 6)
    x.data[0, 0] = 1000.0
    wide, narrow = Sequential(Linear(6, 2)), Sequential(Linear(6, 2))
    quantize_model(wide, x)
    quantize_model(narrow, x, percentile=99.5)
    assert wide[0].input_scale.item() > 1000 / 256
    assert narrow[0].input_scale.item() < 10 / 256


@pytest.mark.parametrize(
    "skip, left",
    [
        ((), []),
        ("head", ["head"]),
        (["fc", "head"], ["fc", "head"]),
        (("blocks.0",), ["blocks.0.0"]),
        ({"pair.1"}, []),
        (NAMES, NAMES),
    ],
)
def test_skip_leaves_layers_by_name(skip, left):
    model = Net()
    report = quantize_model(model, skip=skip)
    assert [name for name, m in model.named_modules() if isinstance(m, Linear)] == left
    assert report["quantized_layers"] == 5 - len(left)
    assert report["uncalibrated"] == [name for name in NAMES if name not in left]


def test_a_layer_that_no_data_reaches_is_reported():
    model = Net()
    model.spare = Linear(2, 2)
    report = quantize_model(model, normal(5, 6))
    assert report["uncalibrated"] == ["spare"]
    assert "not calibrated (inputs stay float): spare" in repr(report)
    assert model.spare(normal(1, 2)).shape == (1, 2)


def test_a_linear_with_its_own_forward_stays():
    class Doubling(Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = Sequential(Doubling(2, 2), Linear(2, 2))
    assert quantize_model(model)["quantized_layers"] == 1
    assert isinstance(model[0], Doubling)


def test_a_model_without_a_linear_reports_none():
    report = quantize_model(Sequential(ReLU()))
    assert (report["quantized_layers"], report["compression_ratio"]) == (0, 1.0)
    model = Net()
    quantize_model(model)
    assert quantize_model(model)["quantized_layers"] == 0  # the second time


def fails(error, says, **options):
    """Quantising fails, and leaves the model as it was: layers, hooks and modes."""
    model = options.pop("model", None) or Net()
    layers, state = model.modules(), copy.deepcopy(model.state_dict())
    modes = [m.training for m in layers if isinstance(m, Module)]
    with pytest.raises(error, match=says):
        quantize_model(model, **options)
    assert [a is b for a, b in zip(layers, model.modules(), strict=True)] == [True] * len(layers)
    assert [m.training for m in layers if isinstance(m, Module)] == modes
    assert not [m for m in layers if isinstance(m, Module) and m._forward_pre_hooks]
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, state[name].data)


def test_failures_are_clear_and_change_nothing():
    fails(ValueError, "bare Linear .* use QuantizedLinear", model=Linear(2, 2))
    fails(ValueError, r"skip names \['haed'\], the Linears are \['fc', ", skip="haed")
    fails(ValueError, "calibration: the data is empty", calibration_data=[])
    fails(ValueError, "calibration: the data is empty", calibration_data=normal(0, 6))
    fails(TypeError, "expected batches of Tensors, got ndarray", calibration_data=np.zeros((2, 6)))
    fails(
        ValueError,
        "fc.input holds nan at",
        calibration_data=[normal(2, 6), normal(2, 6) * math.nan],
    )
    fails(ValueError, "linear: x of", calibration_data=normal(2, 5))
    fails(ValueError, "percentile must be", calibration_data=normal(2, 6), percentile=0.999)
    fails(ValueError, "percentile needs calibration_data", percentile=99.9)
    broken = Net()
    broken.blocks[1]["inner"][0].weight.data[2, 1] = math.inf
    fails(ValueError, r"blocks.1.inner.0.weight holds inf at \[2, 1\]", model=broken)
    late = Net()
    late.fc.bias.data[:] = 1e38  # finite weights whose output is not
    late.again.weight.data[:] = 1e10
    with np.errstate(all="ignore"):
        fails(ValueError, r"\.input holds", model=late, calibration_data=normal(2, 6))
    with pytest.raises(TypeError, match="expected a Module, got list"):
        quantize_model([Linear(2, 2)])


def test_the_report_prints_and_becomes_json():
    report = quantize_model(Sequential(Linear(784, 100), Linear(100, 10)), normal(3, 784))
    assert json.loads(json.dumps(report))["quantized_layers"] == 2
    assert report["original_size_mb"] == 4 * 79_510 / 1e6
    assert report["quantized_size_mb"] == 79_510 / 1e6
    assert report["compression_ratio"] == 4.0
    assert repr(report).splitlines() == [
        "Linear layers quantised: 2",
        "parameters: 318.0 kB -> 79.5 kB (4.00x) and 0.1 kB of scales and zero points",
    ]


def test_state_round_trips_into_a_freshly_quantised_model(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    original = Sequential(Linear(784, 100), ReLU(), Linear(100, 10))
    model, fresh = copy.deepcopy(original), Sequential(Linear(784, 100), ReLU(), Linear(100, 10))
    x = normal(20, 784)
    quantize_model(model, x, axis=1)
    quantize_model(fresh, axis=1)
    path = tmp_path / "model.safetensors"
    safetensors.save_file({k: v.data for k, v in model.state_dict().items()}, path)
    assert path.stat().st_size < 79_510 + 110 * 12 + 2 * 36 + 2000
    fresh.load_state_dict(safetensors.load_file(path))
    np.testing.assert_array_equal(fresh(x).data, model(x).data)
    with pytest.raises(ValueError, match=r"0\.weight_scale has shape"):
        per_tensor = copy.deepcopy(original)
        quantize_model(per_tensor)
        per_tensor.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"load_state_dict: no value for 0\.q_weight"):
        fresh.load_state_dict(original.state_dict())


def test_compare_model_sizes():
    original = Net()
    original.register_buffer("table", Tensor(np.zeros(10)))
    quantized = copy.deepcopy(original)
    report = quantize_model(quantized, normal(5, 6))
    sizes = compare_model_sizes(original, quantized)
    linear = 4 * 42 + 21
    assert sizes == {
        "original_params": linear + 1,
        "quantized_params": linear + 1,
        "original_bytes": 4 * linear + 4 + 40,
        "quantized_bytes": linear + 4 + 40,
        "overhead_bytes": 5 * 36,
        "compression_ratio": (4 * linear + 44) / (linear + 44),
        "memory_saved_mb": pytest.approx((3 * linear - 180) / 1e6, rel=1e-12),
        "memory_saved_percent": pytest.approx(100 * (3 * linear - 180) / (4 * linear + 44)),
    }
    assert report["compression_ratio"] == sizes["compression_ratio"]
    assert report["overhead_mb"] == 180 / 1e6


def test_quantizer_is_the_same_functions():
    x = normal(4, 4)
    q, scale, zero_point = Quantizer().quantize_tensor(x, axis=0)
    restored = Quantizer.dequantize_tensor(q, scale, zero_point, axis=0)
    np.testing.assert_array_equal(restored.data, round_trip(x, axis=0).data)
    model = Sequential(Linear(4, 4))
    original = copy.deepcopy(model)
    assert Quantizer.quantize_model(model, x)["quantized_layers"] == 1
    assert Quantizer.compare_models(original, model)["compression_ratio"] == 4.0


def test_quantised_models_copy():
    model, x = Net().eval(), normal(5, 6)
    quantize_model(model, x)
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(twin(x).data, model(x).data)
    assert twin.fc is twin.again
    assert twin.fc is not model.fc

"""Module 23: fake quantisation, its rules, and networks trained through it."""

import copy
import math
import pickle

import numpy as np
import pytest

from tinytorch.core.activations import ReLU, relu
from tinytorch.core.autograd import grad, no_grad
from tinytorch.core.layers import Dropout, Flatten, Identity, Linear, Module, Sequential
from tinytorch.core.losses import CrossEntropyLoss, MSELoss
from tinytorch.core.optimizers import SGD, Adam
from tinytorch.core.spatial import BatchNorm1d, BatchNorm2d, Conv2d, MaxPool2d, conv2d
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.optimization.observers import (
    Fused,
    Grid,
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
    fuse,
)
from tinytorch.optimization.qat import (
    FakeQuantize,
    FakeQuantizedLayer,
    fake_quantize,
    finish_qat,
    freeze_observers,
    layer_grids,
    prepare_qat,
    qat_config,
)

random = np.random.default_rng(23)
START = random.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order():
    random.bit_generator.state = START


def normal(*shape, scale=1.0):
    return Tensor(scale * random.standard_normal(shape))


def leaf(values):
    return Tensor(values, requires_grad=True)


# --- the op ---
@pytest.mark.parametrize(
    "scale, zero_point, lowest, highest, expected",
    [
        (1.0, 0, -8, 7, [-8.0, -2.0, 0.0, 0.0, 2.0, 2.0, 7.0]),
        (1.0, 1, -8, 7, [-9.0, -2.0, 0.0, 0.0, 2.0, 2.0, 6.0]),
        (2.0, 0, 0, 3, [0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 6.0]),
        (1.0, 7, -8, 7, [-15.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_values(scale, zero_point, lowest, highest, expected):
    x = Tensor([-20.0, -1.6, -0.5, 0.5, 1.5, 2.4, 9.0])  # halves go to the even neighbour
    out = fake_quantize(x, scale, zero_point, lowest=lowest, highest=highest)
    assert out.tolist() == expected
    assert (
        fake_quantize(out, scale, zero_point, lowest=lowest, highest=highest).tolist() == expected
    )


def test_the_product_is_taken_in_float32():
    """x * float32(1 / s), as PyTorch has it: not x / s."""
    scale = np.float32(0.7)
    x = np.arange(-2000.5, 2000, dtype=np.float32) * scale
    marks = np.rint(x * (np.float32(1) / scale))
    assert (marks != np.rint(x / scale)).any()
    out = fake_quantize(Tensor(x), 0.7, 0, lowest=-32768, highest=32767)
    np.testing.assert_array_equal(out.data, marks * scale)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_each_channel_is_rounded_like_a_tensor_of_its_own(axis):
    x, g = normal(4, 4, 4, scale=2.0), random.normal(size=(4, 4, 4))
    scale, zero_point = np.array([0.1, 0.3, 0.02, 1.0]), np.array([0, -3, 5, 7], np.int32)
    whole, s, z = leaf(x), leaf(scale), leaf(zero_point.astype(float))
    options = dict(lowest=-8, highest=7, grad_factor=0.3)
    out = fake_quantize(whole, s, z, axis=axis, **options)
    answers = grad(out, [whole, s, z], g)
    for i in range(4):
        part, own, own_zero = (leaf(v) for v in (x.data.take(i, axis), scale[i], zero_point[i]))
        piece = fake_quantize(part, own, own_zero.astype(np.float32), **options)
        np.testing.assert_array_equal(out.data.take(i, axis), piece.data)
        expected = grad(piece, [part, own], g.take(i, axis))
        np.testing.assert_array_equal(answers[0].data.take(i, axis), expected[0].data)
        np.testing.assert_allclose(answers[1].data[i], expected[1].data, rtol=1e-4, atol=1e-5)


def test_gradients_by_hand():
    x, scale, zero_point = leaf([-5.0, -0.9, 0.3, 0.8, 9.0]), leaf(0.5), leaf(1.0)
    out = fake_quantize(x, scale, zero_point, lowest=-4, highest=3)
    assert out.tolist() == [-2.5, -1.0, 0.5, 1.0, 1.0]
    gx, gs, gz = grad(out, [x, scale, zero_point], [1.0, 10.0, 100.0, 1000.0, 10000.0])
    assert gx.tolist() == [0.0, 10.0, 100.0, 1000.0, 0.0]
    slopes = [-5.0, -2 + 1.8, 1 - 0.6, 2 - 1.6, 2.0]
    expected = sum(slope * 10**i for i, slope in enumerate(slopes))
    assert gs.item() == pytest.approx(expected, rel=1e-6)
    assert gz.item() == pytest.approx(-0.5 * 10001)
    assert (gs.shape, gz.shape) == ((), ())


def test_the_border_counts_as_inside():
    x = leaf([-4.24, -4.26, 3.74, 3.76])  # marks -8, -9, 7, 8 of -8 to 7
    fake_quantize(x, 0.5, 0, lowest=-8, highest=7).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_grad_factor_touches_the_scale_alone():
    x, scale = leaf([0.3, 2.0]), leaf(0.5)
    answers = []
    for factor in (1.0, 0.25):
        out = fake_quantize(x, scale, 0, lowest=-2, highest=1, grad_factor=factor).sum()
        answers.append(grad(out, [x, scale]))
    assert answers[0][0].tolist() == answers[1][0].tolist() == [1.0, 0.0]
    assert answers[1][1].item() == pytest.approx(0.25 * answers[0][1].item())


def test_rules_can_be_differentiated():
    """Inside, the scale's gradient rint(x / s) - x / s has the derivatives -1 / s and x / s^2."""
    x, scale = leaf([0.3, 0.8, 5.0]), leaf(0.5)
    out = fake_quantize(x, scale, 0, lowest=-4, highest=3).sum()
    by_scale = grad(out, scale, create_graph=True)
    by_x, again = grad(by_scale, [x, scale])
    np.testing.assert_allclose(by_x.data, [-2.0, -2.0, 0.0], rtol=1e-6)
    assert again.item() == pytest.approx(1.1 / 0.25, rel=1e-6)


def test_shapes_dtypes_and_views():
    for shape in ((), (0,), (3, 0), (2, 3, 4)):
        x = leaf(np.full(shape, 0.7))
        scale = leaf(0.5)
        out = fake_quantize(x, scale, 0, lowest=-2, highest=1)
        assert out.shape == shape
        gx, gs = grad(out, [x, scale], np.ones(shape))
        assert (gx.shape, gs.shape) == (shape, ())
    wide = Tensor([0.3, 0.8], dtype=np.float64)
    assert fake_quantize(wide, np.array(0.5), 0, lowest=-2, highest=1).dtype == np.float64
    x = normal(6, 8)
    for view in (x.T, x[::2, ::-1]):
        fresh = Tensor(view.data.copy())
        a, b = (fake_quantize(v, 0.1, 3, lowest=-8, highest=7) for v in (view, fresh))
        np.testing.assert_array_equal(a.data, b.data)
    before = x.data.copy()
    fake_quantize(x, 0.1, 3, lowest=-8, highest=7)
    np.testing.assert_array_equal(x.data, before)


def test_zero_points_are_rounded_and_kept_on_the_grid():
    x = Tensor([0.5, -0.5])
    for zero_point, meant in ((1.4, 1), (-2.6, -3), (40.0, 7), (-40.0, -8)):
        a, b = (fake_quantize(x, 0.1, z, lowest=-8, highest=7) for z in (zero_point, meant))
        np.testing.assert_array_equal(a.data, b.data)


def test_nan_stays_and_infinity_is_clipped():
    x = leaf([math.nan, math.inf, -math.inf])
    out = fake_quantize(x, 0.5, 0, lowest=-8, highest=7)
    np.testing.assert_array_equal(out.data, [math.nan, 3.5, -4.0])
    assert grad(out, x, np.ones(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "scale, zero_point, axis, says",
    [
        (np.ones(3), 0, None, r"scale has shape \(3,\), expected \(\) for axis=None of \(2, 3\)"),
        (np.ones(2), np.zeros(3), 0, r"zero_point has shape \(3,\), expected \(2,\) for axis=0"),
        (1.0, 0, 1, r"scale has shape \(\), expected \(3,\) for axis=1 of \(2, 3\)"),
        (1.0, 0, 2, "axis 2 of a tensor with 2 axes"),
        (0.0, 0, None, "a scale must be above 0, got 0.0"),
        (np.array([1.0, -2.0]), np.zeros(2), 0, "a scale must be above 0, got -2.0"),
        (math.nan, 0, None, "a scale must be above 0, got nan"),
    ],
)
def test_wrong_grids_are_named(scale, zero_point, axis, says):
    with pytest.raises(ValueError, match=says):
        fake_quantize(normal(2, 3), scale, zero_point, lowest=-8, highest=7, axis=axis)


# --- the module ---
def test_it_observes_in_training_alone():
    rounder = FakeQuantize(MinMaxObserver(bits=4))
    with pytest.raises(RuntimeError, match="no grid yet"):
        rounder.eval()(Tensor([1.0]))
    rounder.train()(Tensor([-8.0, 7.0]))
    assert (rounder.chosen.scale, rounder.chosen.zero_point) == (1.0, 0)
    assert rounder.eval()(Tensor([100.0, 0.4])).tolist() == [7.0, 0.0]
    rounder.train().observing = False
    assert rounder(Tensor([100.0, 0.4])).tolist() == [7.0, 0.0]
    rounder.observing = True
    rounder(Tensor([-16.0, 14.0]))
    assert rounder.chosen.scale == 2.0


def test_while_rounding_is_off_it_only_observes():
    rounder = FakeQuantize(MinMaxObserver(bits=4))
    rounder.rounding = False
    x = Tensor([-8.0, 0.4, 7.0])
    assert rounder(x) is x
    rounder.rounding = True
    assert rounder.eval()(x).tolist() == [-8.0, 0.0, 7.0]


def test_a_weight_is_observed_anew():
    rounder = FakeQuantize(PerChannelMinMaxObserver(axis=1, scheme="symmetric"), forget=True)
    rounder(Tensor([[127.0, 1.0], [-3.0, -2.54]]))
    np.testing.assert_allclose(rounder.chosen.scale, [1.0, 0.02])
    rounder.eval()(Tensor([[12.7, 1.0], [-3.0, -254.0]]))
    np.testing.assert_allclose(rounder.chosen.scale, [0.1, 2.0])
    rounder.observing = False
    rounder(Tensor([[1.0, 1.0]]))
    np.testing.assert_allclose(rounder.chosen.scale, [0.1, 2.0])


def test_nan_in_what_is_observed_is_named():
    with pytest.raises(ValueError, match="holds nan"):
        FakeQuantize(MinMaxObserver())(Tensor([math.nan]))
    with pytest.raises(ValueError, match="FakeQuantize: x holds inf"):
        FakeQuantize(MinMaxObserver(), learn=True)(Tensor([math.inf]))


@pytest.mark.parametrize(
    "values, options, scale, zero_point",
    [
        ([-1.0, 1.0], {"bits": 3, "scheme": "symmetric"}, 2 / math.sqrt(3), 0),
        ([-1.0, 3.0], {"bits": 8}, 4 / math.sqrt(127), 0),
        ([1.0, 3.0], {"bits": 4}, 4 / math.sqrt(15), -8),  # nothing negative: all 16 levels
        ([1.0, 3.0], {"bits": 4, "signed": False}, 4 / math.sqrt(15), 0),
        ([-1.0, 3.0], {"bits": 4, "signed": False}, 4 / math.sqrt(7), 8),
        ([1.0, 3.0], {"bits": 4, "scheme": "symmetric"}, 4 / math.sqrt(7), 0),
    ],
)
def test_the_first_step_of_learning(values, options, scale, zero_point):
    rounder = FakeQuantize(MinMaxObserver(**options), learn=True)
    rounder(Tensor(values))
    assert rounder.chosen.scale == pytest.approx(scale, rel=1e-6)
    assert rounder.chosen.zero_point == zero_point
    rounder(Tensor([100.0, -100.0]))
    assert rounder.chosen.scale == pytest.approx(scale, rel=1e-6)


def test_a_learned_step_is_a_parameter_with_lsqs_gradient():
    rounder = FakeQuantize(MinMaxObserver(bits=4, scheme="symmetric"), learn=True)
    assert rounder.parameters() == [rounder.scale]
    held = rounder.scale  # as an optimizer does, before the first batch
    x = normal(30, 5)
    out = rounder(x)
    assert rounder.scale is held
    scale, g = leaf(held.item()), random.normal(size=x.shape)
    plain = fake_quantize(x, scale, 0, lowest=-7, highest=7)
    expected = grad(plain, scale, g).item() / math.sqrt(150 * 7)
    assert grad(out, held, g).item() == pytest.approx(expected, rel=1e-5)


def test_learning_finds_a_better_step_than_the_extremes():
    """For normal numbers on 3 bits the best step is far below max|x| / 3."""
    x = normal(4000)
    errors = {}
    for learn in (False, True):
        rounder = FakeQuantize(MinMaxObserver(bits=3, scheme="symmetric"), learn=learn)
        optimizer = Adam(rounder.parameters(), lr=0.01) if learn else None
        for _ in range(200 if learn else 1):
            loss = ((rounder(x) - x) ** 2).mean()
            if learn:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        errors[learn] = loss.item()
    scale = np.linspace(0.1, 1.5, 400)
    best = min(((np.clip(np.rint(x.data / s), -3, 3) * s - x.data) ** 2).mean() for s in scale)
    assert errors[True] < 1.02 * best < errors[False] / 2


def test_a_step_that_falls_below_zero_is_put_back():
    rounder = FakeQuantize(MinMaxObserver(bits=4), learn=True)
    rounder(Tensor([1.0, -1.0]))
    rounder.scale.data[...] = -0.5
    assert rounder.chosen.scale == 2**-23
    assert np.isfinite(rounder(Tensor([1.0, -1.0])).data).all()
    assert rounder.scale.item() == 2**-23


def test_its_state_is_saved():
    made = FakeQuantize(MinMaxObserver(bits=4))
    made(Tensor([-16.0, 14.0]))
    other = FakeQuantize(MinMaxObserver(bits=4)).eval()
    other.load_state_dict(made.state_dict())
    assert other.chosen == made.chosen
    assert other(Tensor([5.1])).tolist() == [6.0]
    assert pickle.loads(pickle.dumps(made)).chosen == made.chosen
    assert copy.deepcopy(made).chosen == made.chosen


def test_repr_shows_scale_and_zero_point():
    rounder = FakeQuantize(MinMaxObserver(bits=4))
    assert repr(rounder) == "FakeQuantize(bits=4, scheme='affine')"
    rounder(Tensor([-16.0, 14.0]))
    assert repr(rounder) == "FakeQuantize(bits=4, scheme='affine', scale=2, zero_point=0)"
    layer = FakeQuantizedLayer(Linear(2, 3), qat_config())
    assert "axis=1, 3 scales from" in repr(layer)
    assert "(output_rounder): FakeQuantize(bits=8, scheme='affine')" in repr(layer)


# --- layers ---
def grid_of(values, chosen):
    """The marks of numbers on a grid; fails where one lies beside it."""
    scale, zero_point = np.float32(chosen.scale), chosen.zero_point
    if chosen.axis is not None:
        along = [-1 if i == chosen.axis else 1 for i in range(values.ndim)]
        scale, zero_point = scale.reshape(along), zero_point.reshape(along)
    marks = np.rint(values / scale)
    np.testing.assert_array_equal(values, marks * scale)
    lowest, highest = chosen.grid.limits
    assert ((lowest <= marks + zero_point) & (marks + zero_point <= highest)).all()
    return marks


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_computes_with_its_rounded_weight(bits, bias):
    layer, x = Linear(20, 6, bias=bias), normal(30, 20)
    prepared = FakeQuantizedLayer(layer, qat_config(weight_bits=bits))
    highest = 2 ** (bits - 1) - 1
    scale = np.abs(layer.weight.data).max(axis=0) / np.float32(highest)
    weight = np.rint(layer.weight.data * (np.float32(1) / scale)) * scale
    y = x.data @ weight + (layer.bias.data if bias else 0)
    got = prepared(x)
    step = prepared.grids["activation"].scale
    assert np.abs(got.data - y).max() <= step * 0.501
    grid_of(got.data, prepared.grids["activation"])
    np.testing.assert_allclose(prepared.grids["weight"].scale, scale, rtol=1e-6)
    prepared.output_rounder.rounding = False
    np.testing.assert_allclose(prepared(x).data, y, atol=1e-5)


def test_conv_computes_with_its_rounded_weight():
    how = dict(stride=2, padding=1, groups=2)
    layer, x = Conv2d(4, 6, 3, **how), normal(2, 4, 7, 7)
    prepared = FakeQuantizedLayer(layer, qat_config(weight_bits=3), relu=True)
    prepared.output_rounder.rounding = False
    weight = prepared.rounded_weight()
    assert prepared.weight_rounder.axis == 0
    assert all(len(np.unique(channel)) <= 7 for channel in weight.data)
    expected = relu(conv2d(x, weight, layer.bias, **how))
    np.testing.assert_allclose(prepared(x).data, expected.data, atol=1e-6)


def test_gradients_reach_the_weight_below_the_grid():
    layer, x = Linear(5, 3), normal(8, 5)
    prepared = FakeQuantizedLayer(layer, qat_config(weight_bits=2))
    prepared.output_rounder.rounding = False
    g = random.normal(size=(8, 3))
    answer = grad(prepared(x), layer.weight, g)
    np.testing.assert_allclose(answer.data, x.data.T @ g, atol=1e-5)


def affine_norm(norm):
    norm.running_mean.data[:] = random.normal(size=norm.num_features)
    norm.running_var.data[:] = random.uniform(0.2, 3, norm.num_features)
    if norm.weight is not None:
        norm.weight.data[:] = random.normal(size=norm.num_features)
        norm.bias.data[:] = random.normal(size=norm.num_features)
    return norm


def normed_pairs():
    yield Linear(6, 4), affine_norm(BatchNorm1d(4)), normal(10, 6)
    yield Linear(6, 4, bias=False), affine_norm(BatchNorm1d(4, affine=False)), normal(10, 6)
    yield Conv2d(2, 4, 3), affine_norm(BatchNorm2d(4)), normal(3, 2, 5, 5)
    yield Conv2d(2, 4, 3, bias=False), affine_norm(BatchNorm2d(4)), normal(3, 2, 5, 5)


@pytest.mark.parametrize("which", range(4))
def test_in_eval_mode_a_norm_is_folded(which):
    layer, norm, x = list(normed_pairs())[which]
    prepared = FakeQuantizedLayer(layer, qat_config(weight_bits=3), norm).eval()
    prepared.output_rounder.rounding = False
    plain = prepared.plain()
    assert type(plain) is type(layer)
    np.testing.assert_allclose(prepared(x).data, plain(x).data, rtol=1e-4, atol=1e-4)
    grid_of(plain.weight.data, prepared.weight_rounder.chosen)


@pytest.mark.parametrize("which", range(4))
def test_in_training_a_norm_sees_the_batch(which):
    """The result of the rounded layer, normalised by its own statistics; running ones move."""
    layer, norm, x = list(normed_pairs())[which]
    twin, scale = copy.deepcopy(norm), 1 / np.sqrt(norm.running_var.data + norm.eps)
    prepared = FakeQuantizedLayer(layer, qat_config(weight_bits=3), norm)
    prepared.output_rounder.rounding = False
    other = copy.deepcopy(layer)
    scale = scale if norm.weight is None else scale * norm.weight.data
    along = (1, -1) if isinstance(layer, Linear) else (-1, 1, 1, 1)
    other.weight = Tensor(prepared.rounded_weight().data / scale.reshape(along))
    expected = twin(other(x))
    np.testing.assert_allclose(prepared(x).data, expected.data, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(norm.running_var.data, twin.running_var.data, rtol=1e-4)
    np.testing.assert_allclose(norm.running_mean.data, twin.running_mean.data, rtol=1e-4, atol=1e-5)


def test_a_norm_that_switches_a_channel_off():
    layer, norm, x = next(normed_pairs())
    norm.weight.data[1] = 0
    prepared = FakeQuantizedLayer(layer, qat_config(weight_bits=3), norm)
    prepared.output_rounder.rounding = False
    for mode in (True, False):
        prepared.train(mode)
        y = prepared(x)
        np.testing.assert_allclose(y.data[:, 1], norm.bias.data[1], rtol=1e-6)
        y.backward(np.ones(y.shape))
        assert all(np.isfinite(p.grad.data).all() for p in prepared.parameters())
    assert not prepared.plain().weight.data[:, 1].any()


# --- models ---
class Branched(Module):
    """Names that aren't numbers, a shared layer, an unusual forward."""

    def __init__(self):
        self.first, self.norm, self.act = Linear(6, 8, bias=False), BatchNorm1d(8), ReLU()
        self.shared = Linear(8, 8)
        self.heads = {"a": Linear(8, 3), "b": [Linear(8, 3)]}

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        x = self.shared(relu(self.shared(x)))
        return self.heads["a"](x) + self.heads["b"][0](x)


def cnn():
    return Sequential(
        *(Conv2d(1, 4, 3, padding=1), BatchNorm2d(4), ReLU(), MaxPool2d(2)),
        *(Flatten(), Linear(64, 16), ReLU(), Dropout(0.2), Linear(16, 10)),
    )


def test_prepare_takes_norms_and_bends_in():
    model, x = cnn(), normal(4, 1, 8, 8)
    prepared = prepare_qat(model, example=x)
    kinds = [type(layer) for layer in prepared]
    part = FakeQuantizedLayer
    assert kinds[:4] == [part, Identity, Identity, MaxPool2d]
    assert kinds[4:] == [Flatten, part, Identity, Dropout, part]
    assert type(prepared[0].norm) is BatchNorm2d
    assert [prepared[i].relu for i in (0, 5, 8)] == [True, True, False]
    assert type(model[0]) is Conv2d and model[0].weight is not prepared[0].layer.weight
    np.testing.assert_allclose(prepared.eval()(x).data, model.eval()(x).data, atol=0.1)


def test_prepare_without_an_example_leaves_them_outside():
    model, x = cnn(), normal(4, 1, 8, 8)
    prepared = prepare_qat(model)
    assert [type(layer) for layer in prepared][:3] == [FakeQuantizedLayer, BatchNorm2d, ReLU]
    with pytest.raises(RuntimeError, match="no grid yet"):
        prepared.eval()(x)
    prepared.train()(x)
    assert np.isfinite(prepared.eval()(x).data).all()


def test_prepare_takes_a_fused_layer():
    x = normal(4, 1, 8, 8)
    fused = fuse(cnn(), x)
    assert type(fused[0]) is Fused
    prepared = prepare_qat(fused, example=x)
    assert prepared[0].relu and prepared[0].norm is None
    np.testing.assert_allclose(prepared(x).data, fused(x).data, atol=0.1)


def test_prepare_keeps_sharing_modes_and_the_examples_traces_out():
    model, x = Branched().eval(), normal(5, 6)
    before = copy.deepcopy(model.state_dict())
    prepared = prepare_qat(model, example=x)
    assert type(prepared.first) is FakeQuantizedLayer
    assert (prepared.first.norm is not None, prepared.first.relu) == (True, True)
    assert not prepared.shared.relu, "the ReLU behind it is a function, and it runs twice"
    assert not any(m.training for m in prepared.modules() if isinstance(m, FakeQuantize))
    assert not prepared.first.norm.training
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.data, before[name].data)
    norm = prepared.first.norm
    np.testing.assert_array_equal(norm.running_mean.data, before["norm.running_mean"].data)
    names = list(layer_grids(prepared))
    assert names == ["first", "shared", "heads.a", "heads.b.0"]
    np.testing.assert_allclose(prepared(x).data, model(x).data, atol=0.1)


def test_qconfig_by_name_parent_and_type():
    fine, coarse = qat_config(weight_bits=8), qat_config(weight_bits=2)
    x = normal(5, 6)

    def bits(qconfig):
        grids = layer_grids(prepare_qat(Branched(), qconfig, example=x))
        return {name: grid["weight"].grid.bits for name, grid in grids.items()}

    assert set(bits(coarse).values()) == {2}
    assert bits({"heads": None}) == {"first": 8, "shared": 8}
    assert bits({"heads": None, "heads.b.0": coarse, "": fine})["heads.b.0"] == 2
    assert bits({Linear: coarse, "first": fine})["shared"] == 2
    assert bits({Linear: coarse, "first": fine})["first"] == 8
    assert bits({Conv2d: None, "": coarse})["first"] == 2
    assert bits({Linear: None, "shared": coarse}) == {"shared": 2}


def test_a_skipped_layer_keeps_its_norm_and_bend():
    prepared = prepare_qat(cnn(), {"0": None}, example=normal(2, 1, 8, 8))
    assert [type(layer) for layer in prepared][:3] == [Conv2d, BatchNorm2d, ReLU]


def test_any_observer_will_do():
    config = QConfig(
        activation=HistogramObserver,
        weight=lambda axis: MinMaxObserver(bits=4, scheme="symmetric_full"),
    )
    prepared = prepare_qat(cnn(), config, example=normal(2, 1, 8, 8))
    weight = layer_grids(prepared)["0"]["weight"]
    assert (weight.axis, type(weight.scale)) == (None, float)
    assert weight.grid == Grid(bits=4, scheme="symmetric_full")
    grid_of(finish_qat(prepared)[0].layer.weight.data, weight)


@pytest.mark.parametrize("learn", [False, True])
def test_finish_gives_plain_layers_on_their_grids(learn):
    manual_seed(0)
    model, x = cnn(), normal(16, 1, 8, 8)
    prepared = prepare_qat(
        Sequential(FakeQuantize(MinMaxObserver()), *model), qat_config(3), example=x, learn=learn
    )
    optimizer = SGD(prepared.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        CrossEntropyLoss()(prepared(x), np.arange(16) % 10).backward()
        optimizer.step()
    prepared.eval()
    grids = layer_grids(prepared)
    finished = finish_qat(prepared)
    kinds = [type(layer) for layer in finished]
    assert kinds[:5] == [Identity, Fused, Identity, Identity, MaxPool2d]
    assert kinds[5:] == [Flatten, Fused, Identity, Dropout, Linear]
    layers = {"1": finished[1].layer, "6": finished[6].layer, "9": finished[9]}
    assert list(layers) == list(grids)
    for name, layer in layers.items():
        grid_of(layer.weight.data, grids[name]["weight"])
    for module in prepared.modules():
        if isinstance(module, FakeQuantize) and not module.forget:
            module.rounding = False  # only the results' rounding is missing in the finished model
    np.testing.assert_allclose(finished(x).data, prepared(x).data, atol=1e-4)
    assert type(prepared[1]) is FakeQuantizedLayer, "the prepared model stays"


def test_a_bare_layer_is_prepared_and_finished_too():
    prepared = prepare_qat(Linear(3, 2), example=normal(4, 3))
    assert type(prepared) is FakeQuantizedLayer
    assert type(finish_qat(prepared)) is Linear
    assert list(layer_grids(prepared)) == [""]


def test_observers_freeze_and_thaw():
    prepared = prepare_qat(Sequential(Linear(3, 4), ReLU(), Linear(4, 2)), example=normal(9, 3))
    freeze_observers(prepared)
    before = {name: grids["activation"] for name, grids in layer_grids(prepared).items()}
    weight_scale = prepared[0].weight_rounder.chosen.scale
    prepared[0].layer.weight.data[...] *= 3
    prepared(normal(9, 3, scale=50.0))
    assert {name: grids["activation"] for name, grids in layer_grids(prepared).items()} == before
    np.testing.assert_array_equal(prepared[0].weight_rounder.chosen.scale, weight_scale)
    freeze_observers(prepared, False)
    prepared(normal(9, 3, scale=50.0))
    assert layer_grids(prepared)["0"]["activation"].scale > before["0"].scale


def test_a_prepared_models_state_is_loaded_into_another():
    x = normal(8, 1, 8, 8)
    a, b = (prepare_qat(cnn(), qat_config(4), example=x, learn=learn) for learn in (False, False))
    with no_grad():
        a(normal(8, 1, 8, 8, scale=3.0))
    b.load_state_dict(a.state_dict())
    np.testing.assert_array_equal(a.eval()(x).data, b.eval()(x).data)


def test_training_mends_what_rounding_breaks():
    """Two bits, a regression: the same steps with rounding end far below those without."""
    manual_seed(1)
    draw = np.random.default_rng(0).standard_normal  # its own: the same numbers in any order
    x = Tensor(draw((200, 10)))
    y = relu(x @ Tensor(draw((10, 30)))) @ Tensor(0.3 * draw((30, 2)))
    model = Sequential(Linear(10, 40), ReLU(), Linear(40, 2))

    def trained(model, steps):
        optimizer = Adam(model.parameters(), lr=0.003)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = MSELoss()(model(x), y)
            loss.backward()
            optimizer.step()
        return model

    def loss_of(model):
        with no_grad():
            return MSELoss()(model.eval()(x), y).item()

    model = trained(model, 300)
    config = qat_config(weight_bits=2)
    plain = loss_of(prepare_qat(trained(copy.deepcopy(model), 300), config, example=x))
    aware = loss_of(trained(prepare_qat(model, config, example=x), 300))
    assert aware < plain / 3


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: prepare_qat(3), TypeError, "expected a Module, got int"),
        (lambda: prepare_qat(Sequential(ReLU())), ValueError, "no Linear and no Conv2d"),
        (
            lambda: prepare_qat(Sequential(Linear(1, 1)), {"fc": None}),
            ValueError,
            r"qconfig names \['fc'\], the model has",
        ),
        (
            lambda: prepare_qat(prepare_qat(Sequential(Linear(1, 1)))),
            ValueError,
            "0 was prepared before",
        ),
        (lambda: qat_config(1).weight(axis=0), ValueError, "bits must be a whole number, 2 to 16"),
    ],
)
def test_errors_say_what_is_wrong(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_transformer_is_prepared():
    from tinytorch.models.transformer import GPT

    manual_seed(0)
    model = GPT(vocab_size=11, max_seq_len=8, embed_dim=8, num_layers=1, num_heads=2)
    ids = random.integers(0, 11, (3, 6))
    prepared = prepare_qat(model.eval(), example=ids)
    assert len(layer_grids(prepared)) >= 4
    np.testing.assert_allclose(prepared(ids).data, model(ids).data, atol=0.2)

# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.qat

# %% [markdown]
r"""
# Quantization-aware training

> Training a network while its numbers are rounded, so that it learns to live with it.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tinytorch.core.activations import ReLU, relu
from tinytorch.core.autograd import no_grad, vjp
from tinytorch.core.layers import Identity, Linear, Module, linear
from tinytorch.core.spatial import BatchNorm1d, BatchNorm2d, Conv2d, conv2d
from tinytorch.core.tensor import Tensor, op, where, writes
from tinytorch.optimization.observers import (
    FOLDABLE,
    NOBODY,
    SMALLEST_STEP,
    Fused,
    Grid,
    MovingAverageMinMaxObserver,
    Observer,
    PerChannelMinMaxObserver,
    QConfig,
    fold_batch_norm,
    followers,
)
from tinytorch.optimization.quantization import (
    as_numbers,
    checked_axis,
    evaluating,
    other_axes,
    replace_modules,
)
from tinytorch.profiling.profiler import FLOPS


# %% nbgrader={"grade": false, "grade_id": "by-channel", "locked": true, "solution": false}
#| exporti
def by_channel(values: Any, ndim: int, axis: int | None) -> Any:
    """Numbers of channels, shaped to broadcast along `axis` of `ndim` axes; a Tensor stays one."""
    if axis is None:
        return values
    return values.reshape(tuple(-1 if i == axis % ndim else 1 for i in range(ndim)))


def in_float32(name: str, value: Any, x: Any, axis: int | None) -> np.ndarray:
    """A scale or zero point as a float32 array that broadcasts with x; ValueError if it doesn't."""
    values = np.asarray(value.data if isinstance(value, Tensor) else value, np.float32)
    axis = checked_axis(axis, x.ndim, "fake_quantize")
    expected = () if axis is None else (x.shape[axis],)
    if values.shape != expected:
        raise ValueError(
            f"fake_quantize: {name} has shape {values.shape}, expected {expected} "
            f"for axis={axis} of {x.shape}"
        )
    return by_channel(values, x.ndim, axis)


# %% nbgrader={"grade": false, "grade_id": "marks", "locked": false, "solution": true}
#| exporti
def marks_of(
    x: Any, scale: Any, zero_point: Any, lowest: int, highest: int, axis: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the mark of each number before clipping, scale, zero point), as arrays of floats.

    rint(x * (1 / scale)) + zero_point in float32, with the zero point rounded to a mark.

    >>> marks_of(np.float32([0.9, 60.0]), 0.5, 10, -128, 127, None)[0]
    array([ 12., 130.], dtype=float32)
    """
    scale = in_float32("scale", scale, x, axis)
    zero_point = np.clip(np.rint(in_float32("zero_point", zero_point, x, axis)), lowest, highest)
    numbers = x.data if isinstance(x, Tensor) else x
    ### BEGIN SOLUTION
    marks = np.asarray(numbers * (np.float32(1) / scale))
    np.rint(marks, out=marks)
    marks += zero_point
    return marks, scale, zero_point
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "fake-quantize", "locked": false, "solution": true}
#| export
@op
def fake_quantize(x, scale, zero_point, *, lowest, highest, axis=None, grad_factor=1.0):
    """x rounded to a grid and back: (clip(rint(x / scale) + z, lowest, highest) - z) * scale.

    `scale` and `zero_point` are numbers, or 1-D with one for each slice of x along `axis`. It is
    computed in float32 by float32(1 / scale), bit for bit as torch.fake_quantize_per_tensor_affine
    and torch.fake_quantize_per_channel_affine do. Its gradient is no derivative, but useful: that
    of a straight line inside the range (the straight-through estimator, Bengio et al. 2013), and
    for scale and zero point that of LSQ (Esser et al. 2020) times `grad_factor`.

    >>> x = Tensor([-9.0, 0.3, 0.8], requires_grad=True)
    >>> y = fake_quantize(x, 0.5, 0, lowest=-8, highest=7)
    >>> y.detach()
    Tensor([-4. ,  0.5,  1. ])
    >>> y.sum().backward()
    >>> x.grad
    Tensor([0., 1., 1.])
    """
    ### BEGIN SOLUTION
    marks, scale, zero_point = marks_of(x, scale, zero_point, lowest, highest, axis)
    np.clip(marks, lowest, highest, out=marks)
    marks -= zero_point
    marks *= scale
    return marks
    ### END SOLUTION


FLOPS["fake_quantize"] = lambda inputs, params, out: 7 * out.size


# %% nbgrader={"grade": false, "grade_id": "straight-through", "locked": false, "solution": true}
#| exporti
def straight_through(g, out, x, scale, zero_point, *, lowest, highest, axis=None, grad_factor=1.0):
    """The gradient for x: g where the number lies on the grid's range, 0 where it was clipped."""
    ### BEGIN SOLUTION
    marks, _, _ = marks_of(x, scale, zero_point, lowest, highest, axis)
    return g * ((lowest <= marks) & (marks <= highest))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "scale-rule", "locked": false, "solution": true}
#| exporti
def scale_rule(g, out, x, scale, zero_point, *, lowest, highest, axis=None, grad_factor=1.0):
    """The gradient for the scale (LSQ): rint(x / s) - x / s inside, the end's distance outside."""
    ### BEGIN SOLUTION
    marks, _, zero = marks_of(x, scale, zero_point, lowest, highest, axis)
    inside = (lowest <= marks) & (marks <= highest)
    steps = np.clip(marks, lowest, highest) - zero
    slope = steps - inside * x / by_channel(scale, x.ndim, axis)
    return (g * slope * grad_factor).sum(axis=channels_left(x, axis)).reshape(scale.shape)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "zero-point-rule", "locked": false, "solution": true}
#| exporti
def zero_point_rule(g, out, x, scale, zero_point, *, lowest, highest, axis=None, grad_factor=1.0):
    """The gradient for the zero point: -scale where the number was clipped, 0 inside."""
    ### BEGIN SOLUTION
    marks, _, _ = marks_of(x, scale, zero_point, lowest, highest, axis)
    outside = (marks < lowest) | (marks > highest)
    slope = -by_channel(scale, x.ndim, axis) * outside
    return (g * slope * grad_factor).sum(axis=channels_left(x, axis)).reshape(zero_point.shape)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "rules", "locked": true, "solution": false}
#| exporti
def channels_left(x: Any, axis: int | None) -> tuple[int, ...]:
    """The axes to sum over, so that one number for each channel is left."""
    return other_axes(x.ndim, None if axis is None else axis % x.ndim)


vjp(fake_quantize, straight_through, scale_rule, zero_point_rule)


# %% nbgrader={"grade": false, "grade_id": "chosen-grid", "locked": true, "solution": false}
#| export
@dataclass(frozen=True)
class ChosenGrid:
    """A grid and where it was laid: all that integer arithmetic needs to know of a tensor.

    `scale` and `zero_point` are a float and an int, or 1-D arrays with one for each slice along
    `axis`.
    """

    grid: Grid
    scale: Any
    zero_point: Any
    axis: int | None = None


# %% nbgrader={"grade": false, "grade_id": "first-step", "locked": false, "solution": true}
#| exporti
def first_step(x: np.ndarray, grid: Grid, axis: int | None) -> tuple[Any, Any]:
    """(scale, zero point) from which learning starts: 2 mean|x| / sqrt(levels above zero).

    The zero point is 0, or, where no number is negative, the lowest mark. (Esser et al. 2020, 2.1.)

    >>> first_step(np.array([-1.0, 1.0]), Grid(bits=3, scheme="symmetric"), None)
    (1.1547005383792517, 0)
    """
    lowest, highest = grid.limits
    ### BEGIN SOLUTION
    zero_point = lowest if x.min() >= 0 else max(lowest, 0)
    mean = np.abs(x).mean(axis=channels_left(x, axis))
    scale = np.maximum(2 * mean / math.sqrt(highest - zero_point), SMALLEST_STEP)
    return as_numbers(scale, np.full(np.shape(scale), zero_point))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "fake-quantize-module", "locked": true, "solution": false}
#| export
class FakeQuantize(Module):
    """Rounds what passes to a grid that it chooses itself; gradients go straight through.

    The `observer` chooses the grid from what passes in training, until `observing` is switched off;
    with `forget`, from each tensor anew (for weights, which are there as a whole). With `learn`,
    the observer only names the grid: the scale becomes a parameter, started by the first tensor in
    training, and its gradient is divided by sqrt(numbers * levels) (LSQ, Esser et al. 2020). While
    `rounding` is off, x passes as it is. Raises RuntimeError where no grid was chosen yet.

    >>> rounded = FakeQuantize(MovingAverageMinMaxObserver(bits=4))
    >>> rounded(Tensor([-8.0, 0.4, 7.0]))
    Tensor([-8.,  0.,  7.])
    >>> rounded
    FakeQuantize(bits=4, scheme='affine', scale=1, zero_point=0)
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, observer: Observer, learn: bool = False, forget: bool = False):
        self.observer, self.learn, self.forget = observer, learn, forget
        self.grid, self.axis = observer.grid, getattr(observer, "axis", None)
        self.observing = self.rounding = True
        no_grid = Tensor(0.0, dtype=np.float32 if learn else np.float64)
        if learn:
            self.scale = no_grid
        else:
            self.register_buffer("scale", no_grid)
        self.register_buffer("zero_point", Tensor(0, dtype=np.int32))

    @property
    def known(self) -> bool:
        """Was a grid chosen?"""
        return bool(self.scale.data.all())

    @property
    def chosen(self) -> ChosenGrid:
        """The grid as it lies now; RuntimeError where none was chosen yet."""
        if not self.known:
            raise RuntimeError("FakeQuantize: no grid yet: let a batch pass in training mode")
        return ChosenGrid(self.grid, *as_numbers(self.scale.data, self.zero_point.data), self.axis)

    def place(self, scale: Any, zero_point: Any) -> None:
        """Choose a grid by hand."""
        if self.learn and self.scale.shape == np.shape(scale):
            self.scale.data[...] = scale  # in place: an optimizer may hold it already
            writes.add(self.scale.data)
        else:
            self.scale = Tensor(scale, dtype=self.scale.dtype)
        self.zero_point = Tensor(zero_point, dtype=np.int32)

    def forward(self, x: Tensor) -> Tensor:
        look(self, x)
        if not self.rounding:
            return x
        chosen = self.chosen
        lowest, highest = self.grid.limits
        options: dict[str, Any] = dict(lowest=lowest, highest=highest, axis=self.axis)
        if not self.learn:
            return fake_quantize(x, chosen.scale, chosen.zero_point, **options)
        if (self.scale.data < SMALLEST_STEP).any():  # an optimizer's step went too far
            self.place(np.maximum(self.scale.data, SMALLEST_STEP), self.zero_point.data)
        levels = highest - int(self.zero_point.data.max())
        factor = step_factor(x.size // self.scale.size, levels)
        return fake_quantize(x, self.scale, self.zero_point, grad_factor=factor, **options)

    def _extra_repr(self) -> str:
        grid = f"bits={self.grid.bits}, scheme={self.grid.scheme!r}"
        if not self.known:
            return grid
        scale, zero_point = self.scale.data, self.zero_point.data
        if self.axis is None:
            return f"{grid}, scale={float(scale):.4g}, zero_point={int(zero_point)}"
        low, high = scale.min(), scale.max()
        return f"{grid}, axis={self.axis}, {scale.size} scales from {low:.4g} to {high:.4g}"


# %% nbgrader={"grade": false, "grade_id": "step-factor", "locked": false, "solution": true}
#| exporti
def step_factor(count: int, levels: int) -> float:
    """What a step's gradient is multiplied by, so that it moves as slowly as `count` weights.

    1 / sqrt(count * levels). (Esser et al. 2020, 2.2.)

    >>> step_factor(25, 4)
    0.1
    """
    ### BEGIN SOLUTION
    return 1 / math.sqrt(max(count, 1) * levels)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "look", "locked": false, "solution": true}
#| exporti
def look(rounder: FakeQuantize, x: Tensor) -> None:
    """Let x choose the grid of a FakeQuantize, if it is the time for that."""
    ### BEGIN SOLUTION
    if not (rounder.training or rounder.forget):
        return
    if rounder.learn:
        if not rounder.known:
            rounder.place(*first_step(x.data, rounder.grid, rounder.axis))
    elif rounder.observing:
        observer = copy.copy(rounder.observer) if rounder.forget else rounder.observer
        observer.observe(x)
        rounder.place(*observer.calculate_qparams())
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "qat-config", "locked": true, "solution": false}
#| export
def qat_config(weight_bits: int = 8, activation_bits: int = 8) -> QConfig:
    """The usual grids of QAT: symmetric ones for each weight channel, affine ones of activations.

    >>> qat_config(weight_bits=2).weight(axis=1).grid.limits
    (-1, 1)
    """
    return QConfig(
        activation=partial(MovingAverageMinMaxObserver, bits=activation_bits),
        weight=partial(PerChannelMinMaxObserver, bits=weight_bits, scheme="symmetric"),
    )


# %% nbgrader={"grade": false, "grade_id": "computed", "locked": true, "solution": false}
#| exporti
DEFAULT_CONFIG = qat_config()


def computed(layer: Linear | Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer computes, with another weight and bias."""
    if isinstance(layer, Linear):
        return linear(x, weight, bias)
    how = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
    return conv2d(x, weight, bias, groups=layer.groups, **how)


# %% nbgrader={"grade": false, "grade_id": "norm-scale", "locked": false, "solution": true}
#| exporti
def norm_scale(norm: Any) -> Tensor:
    """What a batch norm multiplies each channel by in eval mode: weight / sqrt(running_var + eps).

    A weight of 0 counts as 1: one divides by this scale.

    >>> norm_scale(BatchNorm1d(2, eps=0.0)).detach()
    Tensor([1., 1.])
    """
    ### BEGIN SOLUTION
    steady = (norm.running_var.detach() + norm.eps) ** -0.5
    if norm.weight is None:
        return steady
    return where(norm.weight.data == 0, 1.0, norm.weight) * steady
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "fake-quantized-layer", "locked": true, "solution": false}
#| export
class FakeQuantizedLayer(Module):
    """A Linear or Conv2d, and the batch norm and ReLU behind it, with weight and result rounded.

    The layer keeps its weight as it is and computes with `rounded_weight()`. A batch norm trains on
    with the statistics of each batch; rounded is the weight times the norm's running scale, as it
    will be once the norm is folded in, and the result is divided by that scale again. In eval mode
    that is exactly the folded layer. (Jacob et al. 2018, 3.2; torch.ao.nn.intrinsic.qat.ConvBn2d.)

    >>> layer = FakeQuantizedLayer(Linear(2, 2), qat_config(weight_bits=2))
    >>> layer(Tensor([[1.0, 2.0]])).shape
    (1, 2)
    >>> layer.grids["weight"].scale.shape
    (2,)
    """

    def __init__(
        self,
        layer: Linear | Conv2d,
        config: QConfig,
        norm: BatchNorm1d | BatchNorm2d | None = None,
        relu: bool = False,
        learn: bool = False,
    ):
        self.layer, self.norm, self.relu = layer, norm, relu
        self.axis = 1 if isinstance(layer, Linear) else 0  # of the weight's output channels
        self.weight_rounder = FakeQuantize(config.weight(axis=self.axis), learn, forget=True)
        self.output_rounder = FakeQuantize(config.activation(), learn)
        with no_grad():
            self.rounded_weight()  # its grid is known from now on

    def rounded_weight(self) -> Tensor:
        """The weight that the layer computes with: rounded, the norm's scale included."""
        weight = self.layer.weight
        if self.norm is not None:
            weight = weight * by_channel(norm_scale(self.norm), weight.ndim, self.axis)
        return self.weight_rounder(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_rounder(rounded_forward(self, x))

    @property
    def grids(self) -> dict[str, ChosenGrid]:
        """The grids of the `weight` and of the `activation`, the layer's result."""
        with no_grad():
            self.rounded_weight()  # the weight may have moved since its grid was chosen
        return {"weight": self.weight_rounder.chosen, "activation": self.output_rounder.chosen}

    def plain(self) -> Module:
        """The same in floats, with the norm folded in, and a weight that lies on its grid."""
        layer, rounded = copy.deepcopy(self.layer), self.rounded_weight().data
        if self.norm is not None:
            fold_batch_norm(layer, self.norm)
            rounded = np.where(layer.weight.data == 0, 0, rounded)  # where the norm's weight is 0
        layer.weight = Tensor(rounded)
        return (Fused(layer) if self.relu else layer).train(self.training)

    def _extra_repr(self) -> str:
        return "relu=True" if self.relu else ""


# %% nbgrader={"grade": false, "grade_id": "rounded-forward", "locked": false, "solution": true}
#| exporti
def rounded_forward(part: FakeQuantizedLayer, x: Tensor) -> Tensor:
    """The result of a FakeQuantizedLayer, before it is rounded itself."""
    layer, norm, weight = part.layer, part.norm, part.rounded_weight()
    ### BEGIN SOLUTION
    if norm is None:
        y = computed(layer, x, weight, layer.bias)
    else:
        y = computed(layer, x, weight, None)
        y = y / by_channel(norm_scale(norm), y.ndim, 1)
        if layer.bias is not None:
            y = y + by_channel(layer.bias, y.ndim, 1)
        y = norm(y)
    return relu(y) if part.relu else y
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "config-of", "locked": false, "solution": true}
#| exporti
def config_of(name: str, layer: Module, qconfig: Any) -> QConfig | None:
    """The layer's own QConfig: by its name, else its nearest parent's, else its type, else "".

    >>> config_of("blocks.0.up", Linear(1, 1), {"blocks": None, Linear: QConfig()}) is None
    True
    """
    if not isinstance(qconfig, Mapping):
        return qconfig
    ### BEGIN SOLUTION
    while name:
        if name in qconfig:
            return qconfig[name]
        name = name.rpartition(".")[0]
    return qconfig.get(type(layer), qconfig.get("", DEFAULT_CONFIG))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "preparing", "locked": true, "solution": false}
#| exporti
def checked_model(model: Any, qconfig: Any) -> None:
    """An error for what can't be prepared: no Module, one prepared before, names of no module."""
    if not isinstance(model, Module):
        raise TypeError(f"prepare_qat: expected a Module, got {type(model).__name__}")
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, FakeQuantizedLayer):
            raise ValueError(f"prepare_qat: {name or 'the model'} was prepared before")
    if isinstance(qconfig, Mapping):
        names = [key for key in qconfig if isinstance(key, str) and key]
        if unknown := [n for n in names if not any(f"{m}.".startswith(f"{n}.") for m in modules)]:
            raise ValueError(f"prepare_qat: qconfig names {unknown}, the model has {list(modules)}")


def layers_to_round(model: Module) -> dict[str, tuple[Any, Linear | Conv2d]]:
    """By name: each Linear and Conv2d, with what holds it if that is a Fused (else itself)."""
    found: dict[str, tuple[Any, Linear | Conv2d]] = {}
    seen: set[int] = set()
    for name, part in model.named_modules():
        layer = part.layer if type(part) is Fused else part
        if type(layer) in (Linear, Conv2d) and id(layer) not in seen:
            seen.add(id(layer))
            found[name] = part, layer
    if not found:
        raise ValueError("prepare_qat: the model has no Linear and no Conv2d")
    return found


@contextmanager
def choosing(model: Module) -> Iterator[None]:
    """Eval mode and no gradients for the length of a `with`, but FakeQuantizes choose grids."""
    with evaluating(model), no_grad():
        for module in model.modules():
            if isinstance(module, FakeQuantize):
                module.training = True
        yield


def followers_of(model: Module, example: Any) -> dict[int, tuple[Any, int]]:
    """Who follows each leaf, and how many axes are between; nothing is known without an example."""
    if example is None:
        return {}
    with choosing(model):
        return followers(model, example)


# %% nbgrader={"grade": false, "grade_id": "prepare-qat", "locked": false, "solution": true}
#| export
def prepare_qat(
    model: Module,
    qconfig: QConfig | Mapping[Any, QConfig | None] = DEFAULT_CONFIG,
    example: Any = None,
    learn: bool = False,
) -> Module:
    """A copy of the model that computes with rounded weights and results, ready to be trained.

    Every Linear, Conv2d and Fused becomes a FakeQuantizedLayer. With `example`, an input on which
    the model runs once, the batch norm and the ReLU that follow a layer become part of it, and the
    grids of results are chosen for the example; without, the first batch in training chooses them.
    `qconfig` may go from names of layers (or of parents), types and "" (all others) to QConfigs,
    and to None for what stays as it is. `learn` makes all scales parameters: give the optimizer the
    parameters of the copy. What enters the model is rounded by a FakeQuantize of yours in front.

    >>> from tinytorch.nn import Sequential
    >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
    >>> prepared = prepare_qat(model, qat_config(weight_bits=4), example=Tensor(np.ones((1, 4))))
    >>> [type(layer).__name__ for layer in prepared]
    ['FakeQuantizedLayer', 'Identity', 'FakeQuantizedLayer']
    """
    checked_model(model, qconfig)
    model = copy.deepcopy(model)
    after = followers_of(model, example)
    replaced: dict[int, Any] = {}
    ### BEGIN SOLUTION
    for name, (part, layer) in layers_to_round(model).items():
        config = config_of(name, layer, qconfig)
        if config is None:
            continue
        norm, ndim = after.get(id(layer), NOBODY)
        if (type(layer), type(norm), ndim) in FOLDABLE:
            replaced[id(norm)] = Identity()
        else:
            norm = None
        bend, _ = after.get(id(layer if norm is None else norm), NOBODY)
        if type(bend) is ReLU:
            replaced[id(bend)] = Identity()
        rectified = type(bend) is ReLU or type(part) is Fused
        rounded = FakeQuantizedLayer(layer, config, norm, rectified, learn)
        replaced[id(part)] = rounded.train(layer.training)
    ### END SOLUTION
    replace_modules(model, replaced)
    model = replaced.get(id(model), model)
    if example is not None:
        with choosing(model):
            model(example)
    return model


# %% nbgrader={"grade": false, "grade_id": "freeze-observers", "locked": false, "solution": true}
#| export
def freeze_observers(model: Module, frozen: bool = True) -> None:
    """Keep all grids as they are (or, with frozen=False, let them be chosen again).

    >>> model = prepare_qat(Linear(2, 2), example=Tensor([[1.0, 2.0]]))
    >>> freeze_observers(model)
    >>> before = model.grids["activation"].scale
    >>> y = model(Tensor([[100.0, 200.0]]))
    >>> model.grids["activation"].scale == before
    True
    """
    ### BEGIN SOLUTION
    for module in model.modules():
        if isinstance(module, FakeQuantize):
            module.observing = not frozen
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "layer-grids", "locked": true, "solution": false}
#| export
def layer_grids(model: Module) -> dict[str, dict[str, ChosenGrid]]:
    """The grids of every prepared layer, by its name: of its `weight` and its `activation`.

    >>> model = prepare_qat(Linear(2, 2), example=Tensor([[1.0, 2.0]]))
    >>> layer_grids(model)[""]["weight"].grid.limits
    (-127, 127)
    """
    return {
        name: module.grids
        for name, module in model.named_modules()
        if isinstance(module, FakeQuantizedLayer)
    }


# %% nbgrader={"grade": false, "grade_id": "finish-qat", "locked": false, "solution": true}
#| export
def finish_qat(model: Module) -> Module:
    """A plain float copy of a prepared model, whose weights lie on their grids.

    Layers become Linear, Conv2d or (with their ReLU) Fused, batch norms are folded in, and results
    are no longer rounded. `layer_grids` of the prepared model has the grids, by the same names.

    >>> from tinytorch.nn import Sequential
    >>> prepared = prepare_qat(Sequential(Linear(4, 2)), qat_config(weight_bits=2))
    >>> len(np.unique(finish_qat(prepared)[0].weight.data[:, 0])) <= 3
    True
    """
    ### BEGIN SOLUTION
    model = copy.deepcopy(model)
    plain: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, FakeQuantizedLayer):
            plain[id(module)] = module.plain()
        elif isinstance(module, FakeQuantize):
            plain[id(module)] = Identity()
    replace_modules(model, plain)
    return plain.get(id(model), model)
    ### END SOLUTION

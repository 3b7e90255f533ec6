# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.mixed_precision

# %% [markdown]
r"""
# Which layer gets how many bits

> Bits where they count: sensitivity, curvature, and an integer programme under a budget.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tinytorch.core.autograd import enable_grad, grad
from tinytorch.core.layers import Linear, Module
from tinytorch.core.optimizers import Adam
from tinytorch.core.recurrent import GRU, LSTM, RNN
from tinytorch.core.spatial import BatchNorm1d, BatchNorm2d, Conv1d, Conv2d
from tinytorch.core.tensor import Tensor
from tinytorch.core.training import evaluating
from tinytorch.optimization.lowbit import dequantize_bits, quantize_bits
from tinytorch.optimization.quantization import other_axes
from tinytorch.text.embeddings import Embedding

# %% nbgrader={"grade": false, "grade_id": "layers", "locked": true, "solution": false}
#| exporti
WIDTHS = (2, 3, 4, 8)
FLOAT = 32  # bits: the weight stays as it is
OUTPUT_AXIS = {Linear: 1, Conv1d: 0, Conv2d: 0, Embedding: 0, RNN: 1, LSTM: 1, GRU: 1}


class Weights(NamedTuple):
    """The weights of one layer, and their axis of output channels (of ids, for an Embedding)."""

    tensors: list[Tensor]
    axis: int


def layer_weights(model: Module, asked: str) -> dict[str, Weights]:
    """The layers whose weights can be rounded, by name; a shared weight belongs to the first.

    >>> list(layer_weights(Linear(2, 2), "example"))
    ['']
    """
    if not isinstance(model, Module):
        raise TypeError(f"{asked}: expected a Module, got {type(model).__name__}")
    found: dict[str, Weights] = {}
    seen: set[int] = set()
    for name, layer in model.named_modules():
        axes = [axis for kind, axis in OUTPUT_AXIS.items() if isinstance(layer, kind)]
        parts = [part for part in vars(layer) if part.startswith("weight")] if axes else []
        own = [vars(layer)[part] for part in parts if id(vars(layer)[part]) not in seen]
        if own:
            seen.update(map(id, own))
            found[name] = Weights(own, axes[0])
    if not found:
        kinds = ", ".join(kind.__name__ for kind in OUTPUT_AXIS)
        raise ValueError(f"{asked}: the model has no layer of these types: {kinds}")
    return found


def require_widths(widths: Iterable[Any], asked: str) -> None:
    """ValueError unless there are some, and each is a number of bits that a weight can have."""
    widths = list(widths)
    wrong = [b for b in widths if not isinstance(b, (int, np.integer)) or not 2 <= b <= 16]
    if not widths or any(bits != FLOAT for bits in wrong):
        raise ValueError(f"{asked}: bits must be from 2 to 16, or 32 for float, got {widths}")


def require_layers(names: Iterable[str], layers: Iterable[str], asked: str) -> None:
    """ValueError where a name is not that of a layer."""
    if unknown := [name for name in names if name not in set(layers)]:
        raise ValueError(f"{asked}: no layer is called {unknown}, there are {list(layers)}")


def with_bar(items: Sequence[Any], title: str, progress: bool) -> Iterable[Any]:
    """The items behind a progress bar; nothing is shown if not `progress`, or by TQDM_DISABLE."""
    options: dict[str, Any] = {} if progress else {"disable": True}
    return tqdm(items, desc=title, **options)


# %% nbgrader={"grade": false, "grade_id": "rounded-weight", "locked": false, "solution": true}
#| exporti
def rounded_weight(weight: Tensor, bits: int, axis: int, name: str = "weight") -> np.ndarray:
    """A weight on symmetric grids of so many bits, one for each slice along `axis`; 32: as it is.

    Zeros stay zeros, as 0 is a mark of every symmetric grid.

    >>> rounded_weight(Tensor([[3.0, 10.0], [0.0, -4.0]]), bits=2, axis=1)
    array([[ 3., 10.],
           [ 0.,  0.]], dtype=float32)
    """
    ### BEGIN SOLUTION
    if bits == FLOAT:
        return weight.data
    grid = quantize_bits(weight.detach(), bits, symmetric=True, axis=axis, name=name)
    return dequantize_bits(*grid, axis).data
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "round-weights", "locked": false, "solution": true}
#| export
def round_weights(model: Module, bits: int | Mapping[str, int]) -> Module:
    """A copy of the model whose weights lie on symmetric grids, one for each output channel.

    `bits` is 2 to 16, or 32 for float: one number for all layers, or by name for some; the others
    stay float. Linear, Conv1d, Conv2d, Embedding (a grid for each row), RNN, LSTM and GRU are
    rounded; biases and norms are not. Zeros stay exact zeros. Raises ValueError for unknown names,
    other numbers of bits, NaN and infinity.

    >>> rounded = round_weights(Linear(8, 1), 2)
    >>> len(np.unique(rounded.weight.data)) <= 3
    True
    """
    model = copy.deepcopy(model)
    layers = layer_weights(model, "round_weights")
    bits = bits if isinstance(bits, Mapping) else dict.fromkeys(layers, bits)
    require_layers(bits, layers, "round_weights")
    if bits:
        require_widths(bits.values(), "round_weights")
    ### BEGIN SOLUTION
    for name, width in bits.items():
        for weight in layers[name].tensors:
            weight.data[...] = rounded_weight(weight, width, layers[name].axis, f"{name}.weight")
    return model
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "stored-bytes", "locked": false, "solution": true}
#| exporti
def stored_bytes(weight: Tensor, bits: int, axis: int) -> int:
    """The bytes of a weight: packed without a gap, and a float32 scale for each slice along `axis`.

    >>> stored_bytes(Tensor(np.zeros((64, 10))), bits=3, axis=1)
    280
    """
    ### BEGIN SOLUTION
    scales = 0 if bits == FLOAT else 4 * weight.shape[axis]
    return math.ceil(weight.size * bits / 8) + scales
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "layer-bytes", "locked": true, "solution": false}
#| export
def layer_bytes(model: Module, bits: Iterable[int] = WIDTHS) -> dict[str, dict[int, int]]:
    """The bytes of each layer's weights, scales included, at each number of bits.

    Biases and norms, which stay float, are left out.

    >>> layer_bytes(Linear(64, 10), bits=(3, 8, 32))
    {'': {3: 280, 8: 680, 32: 2560}}
    """
    widths = list(bits)
    require_widths(widths, "layer_bytes")
    return {
        name: {
            width: sum(stored_bytes(weight, width, axis) for weight in weights) for width in widths
        }
        for name, (weights, axis) in layer_weights(model, "layer_bytes").items()
    }


# %% nbgrader={"grade": false, "grade_id": "batches", "locked": true, "solution": false}
#| exporti
def batches_of(data: Iterable[Any], asked: str) -> list[Any]:
    """The batches of (inputs, targets), all of them; an error where there are none."""
    batches = [data] if isinstance(data, Tensor) else list(data)
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            got = type(batch).__name__
            raise TypeError(f"{asked}: expected batches of (inputs, targets), got a {got}")
    if not batches:
        raise ValueError(f"{asked}: the data is empty: give a batch of (inputs, targets)")
    return batches


# %% nbgrader={"grade": false, "grade_id": "mean-loss", "locked": false, "solution": true}
#| exporti
def mean_loss(model: Module, loss_fn: Callable[..., Tensor], batches: Sequence[Any]) -> float:
    """The loss of an average sample, in eval mode; batches may be of different sizes.

    >>> from tinytorch.nn import Identity, MSELoss
    >>> x, y = Tensor([[0.0], [0.0], [3.0]]), Tensor([[0.0], [0.0], [0.0]])
    >>> mean_loss(Identity(), MSELoss(), [(x[:2], y[:2]), (x[2:], y[2:])])
    3.0
    """
    ### BEGIN SOLUTION
    with evaluating(model):
        losses = [loss_fn(model(x), y).item() * len(y) for x, y in batches]
    return sum(losses) / sum(len(y) for _, y in batches)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "sensitivity", "locked": false, "solution": true}
#| export
def sensitivity(
    model: Module,
    loss_fn: Callable[..., Tensor],
    data: Iterable[Any],
    bits: Iterable[int] = WIDTHS,
    progress: bool = True,
) -> dict[str, dict[int, float]]:
    """How much the loss rises when one layer alone is rounded: {layer: {bits: rise}}.

    `data` are batches of (inputs, targets), such as a loader. It is measured in eval mode with the
    weights of `round_weights`. Raises ValueError for no data, and where a loss is no number.

    >>> from tinytorch.nn import MSELoss
    >>> model = Linear(2, 1, bias=False)
    >>> model.weight = Tensor([[1.0], [0.25]])
    >>> x = Tensor([[0.0, 4.0]])
    >>> sensitivity(model, MSELoss(), [(x, Tensor([[1.0]]))], bits=[2], progress=False)
    {'': {2: 1.0}}
    """
    widths, batches = list(bits), batches_of(data, "sensitivity")
    require_widths(widths, "sensitivity")
    layers = layer_weights(model, "sensitivity")
    start = mean_loss(model, loss_fn, batches)
    if not math.isfinite(start):
        raise ValueError(f"sensitivity: the loss of the model as it is is {start}")
    choices = [(name, width) for name in layers for width in widths]
    rises: dict[str, dict[int, float]] = {name: {} for name in layers}
    for name, width in with_bar(choices, "sensitivity", progress):
        ### BEGIN SOLUTION
        rounded = round_weights(model, {name: width})
        rises[name][width] = mean_loss(rounded, loss_fn, batches) - start
        ### END SOLUTION
    return rises


# %% nbgrader={"grade": false, "grade_id": "hessian-product", "locked": false, "solution": true}
#| exporti
def hessian_product(
    gradients: Sequence[Tensor | None], weights: Sequence[Tensor], direction: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """H v: the second derivatives of a loss along a direction, which has an array for each weight.

    `gradients` are those of the loss, made with create_graph (None: it doesn't depend on a weight).

    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> slope = grad((w**3).sum(), w, create_graph=True)
    >>> hessian_product([slope], [w], [np.float32([1.0, -1.0])])
    [array([  6., -12.], dtype=float32)]
    """
    zeros = [np.zeros_like(v) for v in direction]
    ### BEGIN SOLUTION
    pairs = zip(gradients, direction, strict=True)
    slope = sum(((g * v).sum() for g, v in pairs if g is not None), Tensor(0.0))
    if not slope.requires_grad:  # the gradient is the same everywhere
        return zeros
    products = grad(slope, weights, retain_graph=True, allow_unused=True)
    return [zero if p is None else p.data for p, zero in zip(products, zeros, strict=True)]
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "hessian-samples", "locked": false, "solution": true}
#| exporti
def trace_sample(
    gradients: Sequence[Tensor | None], weights: Sequence[Tensor], random: np.random.Generator
) -> list[float]:
    """For each weight v (H v) summed over its numbers, with all numbers of v -1 or 1 at random."""
    ### BEGIN SOLUTION
    direction = [random.choice([-1.0, 1.0], w.shape).astype(w.dtype) for w in weights]
    products = hessian_product(gradients, weights, direction)
    return [float((v * hv).sum()) for v, hv in zip(direction, products, strict=True)]
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "hessian-traces", "locked": true, "solution": false}
#| export
class HessianTrace(NamedTuple):
    """The mean of a layer's second derivatives (the diagonal), and its standard error."""

    mean: float
    error: float


def hessian_traces(
    model: Module,
    loss_fn: Callable[..., Tensor],
    x: Any,
    y: Any,
    samples: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, HessianTrace]:
    """The mean second derivative of the loss by the weights of each layer, estimated.

    Hutchinson's estimator: v H v with random signs v has the trace of H as its mean. One v for all
    layers: what they share averages out. In eval mode, on one batch. (HAWQ-V2, Dong et al. 2020.)

    >>> from tinytorch.nn import MSELoss
    >>> x, y = Tensor([[3.0, 0.0]]), Tensor([[0.0]])
    >>> hessian_traces(Linear(2, 1), MSELoss(), x, y, progress=False)
    {'': HessianTrace(mean=9.0, error=0.0)}
    """
    if samples < 2:
        raise ValueError(f"hessian_traces: needs 2 samples or more, got {samples}")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    layers = layer_weights(model, "hessian_traces")
    weights = [weight for layer in layers.values() for weight in layer.tensors]
    for weight in weights:
        weight.requires_grad = True
    random = np.random.default_rng(seed)
    with enable_grad():
        loss = loss_fn(model(x), y)
        if not math.isfinite(loss.item()):
            raise ValueError(f"hessian_traces: the loss is {loss.item()}")
        gradients = grad(loss, weights, create_graph=True, allow_unused=True)
        rounds = with_bar(range(samples), "Hessian traces", progress)
        table = np.array([trace_sample(gradients, weights, random) for _ in rounds])
    traces, first = {}, 0
    for name, layer in layers.items():
        last = first + len(layer.tensors)
        means = table[:, first:last].sum(axis=1) / sum(w.size for w in layer.tensors)
        error = means.std(ddof=1) / math.sqrt(samples)
        traces[name], first = HessianTrace(float(means.mean()), float(error)), last
    return traces


# %% nbgrader={"grade": false, "grade_id": "hessian-costs", "locked": false, "solution": true}
#| export
def hessian_costs(
    model: Module, traces: Mapping[str, HessianTrace], bits: Iterable[int] = WIDTHS
) -> dict[str, dict[int, float]]:
    """What curvature expects of rounding a layer: mean trace x |Q(W) - W|^2 / 2, by layer and bits.

    The rise of the loss at a minimum, if the errors know nothing of the curvature: half of the
    measure of HAWQ-V2 (Dong et al. 2020), so that it compares with `sensitivity`. A negative trace
    counts as 0.

    >>> model = Linear(2, 1)
    >>> model.weight = Tensor([[1.0], [0.25]])
    >>> hessian_costs(model, {"": HessianTrace(8.0, 0.1)}, bits=[2, 32])
    {'': {2: 0.25, 32: 0.0}}
    """
    widths, layers = list(bits), layer_weights(model, "hessian_costs")
    require_widths(widths, "hessian_costs")
    require_layers(traces, layers, "hessian_costs")
    costs: dict[str, dict[int, float]] = {name: {} for name in traces}
    for name, trace in traces.items():
        weights, axis = layers[name]
        for width in widths:
            ### BEGIN SOLUTION
            errors = [rounded_weight(w, width, axis) - w.data.astype(np.float64) for w in weights]
            distance = sum(float((error**2).sum()) for error in errors)
            costs[name][width] = max(trace.mean, 0.0) * distance / 2
            ### END SOLUTION
    return costs


# %% nbgrader={"grade": false, "grade_id": "choices", "locked": true, "solution": false}
#| exporti
class Choice(NamedTuple):
    """One layer at one number of bits."""

    layer: str
    bits: int
    cost: float
    size: int


Table = Mapping[str, Mapping[int, Any]]


def all_choices(costs: Table, sizes: Table, asked: str) -> list[Choice]:
    """Every layer at every number of bits; ValueError where costs and sizes make no sense."""
    if not costs:
        raise ValueError(f"{asked}: costs are empty: there is no layer to choose for")
    require_layers(costs, sizes, f"{asked}: sizes")
    require_layers(sizes, costs, f"{asked}: costs")
    for layer, row in costs.items():
        if not row or set(row) != set(sizes[layer]):
            both = f"costs have bits {list(row)}, sizes {list(sizes[layer])}"
            raise ValueError(f"{asked}: {both} of layer {layer!r}")
        for bits, cost in row.items():
            if not (math.isfinite(cost) and 0 < sizes[layer][bits] < math.inf):
                got = f"cost {cost} and size {sizes[layer][bits]}"
                raise ValueError(f"{asked}: layer {layer!r} at {bits} bits has {got}")
    return [Choice(n, b, row[b], sizes[n][b]) for n, row in costs.items() for b in row]


def choice_total(table: Table, bits: Mapping[str, int]) -> Any:
    """The sum over layers of a table of costs or sizes, at the bits chosen.

    >>> choice_total({"a": {2: 10, 4: 20}, "b": {2: 1, 4: 2}}, {"a": 4, "b": 2})
    21
    """
    return sum(table[name][width] for name, width in bits.items())


# %% nbgrader={"grade": false, "grade_id": "programme", "locked": false, "solution": true}
#| exporti
def programme(choices: Sequence[Choice], budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of the integer programme: costs c, sizes s, and which choice is of which layer.

    To minimise c x for x of 0 and 1, where s x is at most 1000 and each row of the third times x is
    1. Costs are counted from each layer's least, and the largest is a million: a solver's tolerance
    is 1e-6, and costs of networks are often smaller.

    >>> a, b = Choice("a", 2, 0.5, 10), Choice("a", 4, 0.1, 20)
    >>> c, s, one = programme([a, b, Choice("b", 2, 0.3, 30)], budget=50)
    >>> c, s, one.tolist()
    (array([1000000.,       0.,       0.]), array([200., 400., 600.]), [[1, 1, 0], [0, 0, 1]])
    """
    layers = list(dict.fromkeys(choice.layer for choice in choices))
    ### BEGIN SOLUTION
    one = np.array([[int(choice.layer == name) for choice in choices] for name in layers])
    least = {n: min(choice.cost for choice in choices if choice.layer == n) for n in layers}
    costs = np.array([choice.cost - least[choice.layer] for choice in choices])
    sizes = np.array([choice.size for choice in choices]) * (1000 / budget)
    return costs * (1e6 / (costs.max() or 1.0)), sizes, one
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "allocate-bits", "locked": true, "solution": false}
#| export
def allocate_bits(costs: Table, sizes: Table, budget: int) -> dict[str, int]:
    """The bits of each layer that cost least in all, in `budget` bytes or fewer.

    `costs` and `sizes` are {layer: {bits: number}}, as `sensitivity`, `hessian_costs` and
    `layer_bytes` give them. An integer programme, solved by SciPy's HiGHS (the extra `search`).
    Raises ValueError where nothing fits the budget.

    >>> costs = {"a": {2: 0.9, 8: 0.0}, "b": {2: 0.5, 8: 0.0}}
    >>> sizes = {"a": {2: 100, 8: 400}, "b": {2: 10, 8: 40}}
    >>> allocate_bits(costs, sizes, budget=420), allocate_bits(costs, sizes, budget=409)
    ({'a': 8, 'b': 2}, {'a': 2, 'b': 8})
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError:
        raise ImportError("allocate_bits needs SciPy: pip install 'tinytorch[search]'") from None
    choices = all_choices(costs, sizes, "allocate_bits")
    smallest = sum(min(row.values()) for row in sizes.values())
    if not budget >= smallest:
        raise ValueError(
            f"allocate_bits: a budget of {budget} bytes, the smallest choice takes {smallest}"
        )
    cost, size, one = programme(choices, budget)
    exact = {"mip_rel_gap": 0}
    constraints = [LinearConstraint(one, 1, 1), LinearConstraint(size, -np.inf, 1000)]
    while True:
        found = milp(
            cost, integrality=1, bounds=Bounds(0, 1), constraints=constraints, options=exact
        )
        if found.x is None:
            raise RuntimeError(f"allocate_bits: no solution: {found.message}")
        taken = found.x > 0.5
        bits = {choices[i].layer: choices[i].bits for i in np.flatnonzero(taken)}
        if choice_total(sizes, bits) <= budget:
            return bits
        # a few bytes over, within the solver's tolerance: anything but this
        constraints.append(LinearConstraint(taken.astype(float), -np.inf, len(bits) - 1))


# %% nbgrader={"grade": false, "grade_id": "pareto-curve", "locked": false, "solution": true}
#| export
class ParetoPoint(NamedTuple):
    """A choice of bits that no other choice beats in both bytes and cost."""

    bytes: int
    cost: float
    bits: dict[str, int]


def pareto_curve(costs: Table, sizes: Table) -> list[ParetoPoint]:
    """All choices worth having, the smallest first: each is the cheapest of its size or smaller.

    Exact: layer by layer, what is beaten among the choices so far can't be part of a winner.

    >>> costs = {"a": {2: 0.75, 8: 0.0}, "b": {2: 0.5, 8: 0.0}}
    >>> sizes = {"a": {2: 100, 8: 400}, "b": {2: 10, 8: 40}}
    >>> [(point.bytes, point.cost) for point in pareto_curve(costs, sizes)]
    [(110, 1.25), (140, 0.75), (410, 0.5), (440, 0.0)]
    """
    choices = all_choices(costs, sizes, "pareto_curve")
    curve = [ParetoPoint(0, 0.0, {})]
    for layer in costs:
        ### BEGIN SOLUTION
        row = [choice for choice in choices if choice.layer == layer]
        candidates = [
            ParetoPoint(p.bytes + c.size, p.cost + c.cost, {**p.bits, layer: c.bits})
            for p in curve
            for c in row
        ]
        curve = []
        for point in sorted(candidates, key=lambda point: point[:2]):
            if not curve or point.cost < curve[-1].cost:
                curve.append(point)
        ### END SOLUTION
    return curve


# %% nbgrader={"grade": false, "grade_id": "statistics-gap", "locked": false, "solution": true}
#| exporti
def channel_moments(x: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The mean of each channel, axis 1, and its standard deviation, sqrt(variance + eps)."""
    axes = other_axes(x.ndim, 1)
    return x.mean(axis=axes), (x.var(axis=axes, correction=1) + eps) ** 0.5


def moments_gap(x: Tensor, mean: Any, deviation: Any, eps: float = 1e-5) -> Tensor:
    """The squared distance of a batch's means and deviations from others, averaged over channels.

    >>> moments_gap(Tensor([[1.0], [3.0]]), mean=0.0, deviation=2.0**0.5, eps=0.0)
    Tensor(4.)
    """
    ### BEGIN SOLUTION
    own_mean, own_deviation = channel_moments(x, eps)
    return ((own_mean - mean) ** 2).mean() + ((own_deviation - deviation) ** 2).mean()
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "norms-gap", "locked": false, "solution": true}
#| exporti
def norms_gap(model: Module, norms: Sequence[Any], x: Tensor) -> Tensor:
    """How far x is from the training data, as the batch norms remember it.

    The gap at each batch norm's input from its running statistics, and of x from means of 0 and
    deviations of 1, added up. (ZeroQ, Cai et al. 2020, equation 3.)
    """
    ### BEGIN SOLUTION
    reached: list[tuple[Any, Tensor]] = []
    hooks = [
        norm.register_forward_pre_hook(lambda norm, inputs: reached.append((norm, inputs[0])))
        for norm in norms
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    gap = moments_gap(x, 0.0, 1.0)
    for norm, inputs in reached:
        deviation = (norm.running_var + norm.eps) ** 0.5
        gap = gap + moments_gap(inputs, norm.running_mean, deviation, norm.eps)
    return gap
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "distill-inputs", "locked": false, "solution": true}
#| export
def distill_inputs(
    model: Module,
    shape: Sequence[int],
    steps: int = 200,
    lr: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """Inputs made up from what a model's batch norms remember: (N, C, ...), without any data.

    Starts as standard normal noise, the inputs' scale if the model was trained on normalised data,
    and is moved by Adam so that its mean and variance at each batch norm are the running ones. For
    calibration where no data may be had. (ZeroQ, Cai et al. 2020.)

    >>> model = BatchNorm1d(2).eval()
    >>> model.running_mean.data[:] = [0.5, 0.0]
    >>> x = distill_inputs(model, (64, 2), progress=False)
    >>> np.abs(x.data.mean(axis=0) - [0.25, 0.0]).max() < 0.05  # between 0 and the norm's mean
    np.True_
    """
    if not isinstance(model, Module):
        raise TypeError(f"distill_inputs: expected a Module, got {type(model).__name__}")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    norms = [m for m in model.modules() if isinstance(m, (BatchNorm1d, BatchNorm2d))]
    if not norms:
        raise ValueError("distill_inputs: the model has no BatchNorm to learn from")
    if len(shape) < 2 or shape[0] < 2:
        raise ValueError(f"distill_inputs: expected (N, C, ...) with N of 2 or more, got {shape}")
    noise = np.random.default_rng(seed).standard_normal(tuple(shape))
    x = Tensor(noise, requires_grad=True)
    optimizer = Adam([x], lr=lr)
    for _ in with_bar(range(steps), "distilling inputs", progress):
        ### BEGIN SOLUTION
        optimizer.zero_grad()
        with enable_grad():
            norms_gap(model, norms, x).backward()
        optimizer.step()
        ### END SOLUTION
    return x.detach()

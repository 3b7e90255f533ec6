# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.compensation

# %% [markdown]
r"""
# Better than rounding to nearest

> Rounding so that a layer's outputs stay right, not its weights; and what to do about outliers.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinytorch.core.activations import ReLU
from tinytorch.core.layers import Linear, Module
from tinytorch.core.spatial import Conv2d, unfold
from tinytorch.core.tensor import Tensor
from tinytorch.core.training import evaluating
from tinytorch.models.transformer import LayerNorm, RMSNorm
from tinytorch.optimization.lowbit import (
    LowBitLinear,
    dequantize_groups,
    quantize_groups,
    require_bits,
    split_groups,
    to_marks,
)
from tinytorch.optimization.observers import traced_run
from tinytorch.optimization.quantization import (
    finite,
    input_batches,
    int8_linear,
    integer_range,
    linear_layers,
    quantization_error,
    quantize_int8,
    replace_modules,
)


# %% nbgrader={"grade": false, "grade_id": "input-statistics", "locked": true, "solution": false}
#| export
class InputStatistics:
    """What has to be known of a layer's inputs, rows of K numbers, gathered batch by batch.

    `count` rows, `gram` (K, K) the sum of x x^T, and of each input its `mean`, `mean_abs` (of
    magnitudes) and `largest` magnitude. ValueError for NaN, infinity and rows of another size.

    >>> inputs = InputStatistics(2)
    >>> inputs.observe(Tensor([[1.0, 0.0], [3.0, -4.0]]))
    >>> inputs.count, inputs.mean.tolist(), inputs.mean_abs.tolist(), inputs.gram.tolist()
    (2, [2.0, -2.0], [2.0, 2.0], [[10.0, -12.0], [-12.0, 16.0]])
    """

    def __init__(self, features: int, name: str = "inputs"):
        self.name, self.count = name, 0
        self.gram = np.zeros((features, features))
        self.total, self.total_abs, self.largest = np.zeros((3, features))

    def observe(self, x: Any) -> None:
        """Take (..., K) into account."""
        x = finite(x, self.name)
        if x.shape[-1:] != self.largest.shape:
            raise ValueError(f"{self.name}: expected (..., {self.largest.size}), got {x.shape}")
        gather(self, x.reshape(-1, x.shape[-1]))

    @property
    def mean(self) -> np.ndarray:
        return self.total / max(self.count, 1)

    @property
    def mean_abs(self) -> np.ndarray:
        return self.total_abs / max(self.count, 1)


# %% nbgrader={"grade": false, "grade_id": "gather", "locked": false, "solution": true}
#| exporti
def gather(inputs: InputStatistics, rows: np.ndarray) -> None:
    """Add rows (n, K) to the statistics."""
    ### BEGIN SOLUTION
    inputs.count += len(rows)
    inputs.gram += rows.T @ rows
    inputs.total += rows.sum(axis=0)
    inputs.total_abs += np.abs(rows).sum(axis=0)
    inputs.largest = np.maximum(inputs.largest, np.abs(rows).max(axis=0, initial=0))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "output-error", "locked": false, "solution": true}
#| export
def output_error(weight: Any, restored: Any, inputs: InputStatistics) -> float:
    """The mean squared error of x @ restored against x @ weight, per row: ||X (W - W')||^2 / n.

    >>> inputs = InputStatistics(2)
    >>> inputs.observe(Tensor([[1.0, 1.0], [3.0, 3.0]]))
    >>> output_error(Tensor([[1.0], [1.0]]), Tensor([[1.5], [0.5]]), inputs)  # they cancel
    0.0
    """
    ### BEGIN SOLUTION
    error = np.asarray(restored, np.float64) - np.asarray(weight, np.float64)
    return float((error * (inputs.gram @ error)).sum()) / inputs.count
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "quantized-weight", "locked": true, "solution": false}
#| export
@dataclass(frozen=True)
class QuantizedWeight:
    """A weight (K, N) as integers and their grids, one for each group of inputs of each output.

    `q` holds integers of `bits` bits; `scale` and `zero_point` have K / group_size rows. Where
    there are `factors` (K,), the integers stand for the weight times these, row by row.

    >>> weight = Tensor([[0.5, 7.0], [-3.5, 1.0]])
    >>> round_to_nearest(weight, bits=4).restored()
    Tensor([[ 0.5,  7. ],
            [-3.5,  1. ]])
    """

    q: Tensor
    scale: np.ndarray
    zero_point: np.ndarray
    bits: int
    factors: np.ndarray | None = None

    def restored(self) -> Tensor:
        """The weight (K, N) that this stands for, in float32."""
        weight = dequantize_groups(self.q, self.scale, self.zero_point)
        return weight if self.factors is None else Tensor(weight.data / self.factors[:, None])


# %% nbgrader={"grade": false, "grade_id": "round-to-nearest", "locked": true, "solution": false}
#| export
def round_to_nearest(
    weight: Any,
    bits: int = 4,
    group_size: int | None = None,
    symmetric: bool = True,
    name: str = "weight",
) -> QuantizedWeight:
    """Each weight (K, N) on the nearest mark of its group's grid: `quantize_groups`.

    `group_size` inputs of one output share a grid; None makes one grid for each output.
    """
    grid = quantize_groups(Tensor(weight), bits, group_size, symmetric, name=name)
    return QuantizedWeight(*grid, bits)


# %% nbgrader={"grade": false, "grade_id": "inputs-of", "locked": true, "solution": false}
#| exporti
def statistics_of(inputs: Any, features: int, asked: str) -> InputStatistics:
    """Statistics as they are, or those of rows (..., K); ValueError where none was seen."""
    if not isinstance(inputs, InputStatistics):
        seen = InputStatistics(features, f"{asked}: inputs")
        seen.observe(inputs)
        inputs = seen
    if inputs.largest.size != features:
        raise ValueError(
            f"{asked}: inputs of {inputs.largest.size} features, a weight of {features}"
        )
    if not inputs.count:
        raise ValueError(f"{asked}: the inputs are empty: give at least one row")
    return inputs


# %% nbgrader={"grade": false, "grade_id": "inverse-root", "locked": false, "solution": true}
#| exporti
def inverse_root(hessian: np.ndarray, damping: float) -> np.ndarray:
    """Upper triangular U, with U^T U = (H + d I)^-1; d is `damping` times the mean of H's diagonal.

    Inputs that are always 0 get a 1 there. ValueError where H + d I has no inverse.

    >>> inverse_root(np.diag([4.0, 16.0, 0.0]), damping=0).round(3).tolist()
    [[0.5, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 1.0]]
    """
    ### BEGIN SOLUTION
    diagonal = np.diag(hessian)
    added = np.where(diagonal > 0, damping * diagonal.mean(), 1.0)
    try:
        return np.linalg.cholesky(np.linalg.inv(hessian + np.diag(added))).T
    except np.linalg.LinAlgError:
        raise ValueError(
            f"gptq: these inputs don't determine a weight: give more rows than features, or a "
            f"damping above {damping}"
        ) from None
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "feed-back", "locked": false, "solution": true}
#| exporti
def feed_back(
    weight: np.ndarray, root: np.ndarray, to_grid: Callable[[int, np.ndarray], Any], block_size: int
) -> np.ndarray:
    """Round row after row of (K, N); the rows below make up for each error. All marks.

    `to_grid(k, row)` gives the marks of row k and what they stand for; `root` is `inverse_root`.
    The rows of a block are updated at once, those below it when the block is done.
    """
    weight, marks = weight.copy(), []
    ### BEGIN SOLUTION
    for start in range(0, len(weight), block_size):
        end = min(start + block_size, len(weight))
        errors = np.empty((end - start, weight.shape[1]))
        for k in range(start, end):
            mark, restored = to_grid(k, weight[k])
            marks.append(mark)
            error = errors[k - start] = (weight[k] - restored) / root[k, k]
            weight[k + 1 : end] -= np.outer(root[k, k + 1 : end], error)
        weight[end:] -= root[start:end, end:].T @ errors
    ### END SOLUTION
    return np.array(marks)


# %% nbgrader={"grade": false, "grade_id": "gptq", "locked": false, "solution": true}
#| export
def gptq(
    weight: Any,
    inputs: Any,
    bits: int = 4,
    group_size: int | None = None,
    symmetric: bool = True,
    damping: float = 0.01,
    block_size: int = 128,
    order: str = "natural",
    grid: Callable[..., QuantizedWeight] = round_to_nearest,
    name: str = "weight",
) -> QuantizedWeight:
    """A weight (K, N) rounded one input after the other; those still to come make up for errors.

    What is kept small is the error of `inputs @ weight` (Frantar et al. 2023, "GPTQ", algorithm 1).
    `inputs` are rows (..., K) or InputStatistics. `damping` times the mean of X^T X's diagonal is
    added to it. `order` "activation" begins with the largest inputs. The grids are those of `grid`,
    chosen before the first weight is rounded, so that groups and order don't depend on each other.
    """
    if order not in ("natural", "activation"):
        raise ValueError(f'gptq: order must be "natural" or "activation", got {order!r}')
    if damping < 0 or block_size < 1:
        raise ValueError(
            f"gptq: damping must be at least 0, block_size at least 1, got {damping}, {block_size}"
        )
    w, target = finite(weight, name), grid(weight, bits, group_size, symmetric, name=name)
    gram = statistics_of(inputs, len(w), "gptq").gram
    ### BEGIN SOLUTION
    turn = np.arange(len(w))
    if order == "activation":
        turn = np.argsort(-np.diag(gram), kind="stable")
    size = len(w) // len(target.scale)
    scale = target.scale.astype(np.float64)[turn // size]
    zero_point = target.zero_point[turn // size]

    def to_grid(k: int, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        marks = to_marks(row, scale[k], zero_point[k], bits, symmetric)
        return marks, (marks - zero_point[k]) * scale[k]

    root = inverse_root(gram[np.ix_(turn, turn)], damping)
    q = np.empty_like(target.q.data)
    q[turn] = feed_back(w[turn], root, to_grid, block_size)
    return replace(target, q=Tensor._wrap(q))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "best-groups", "locked": false, "solution": true}
#| exporti
def group_costs(cost: np.ndarray, groups: int) -> np.ndarray:
    """Costs of weights (K, N), added up for each group: (groups, N)."""
    return cost.reshape(groups, -1, cost.shape[1]).sum(axis=1)


def better_groups(
    best: QuantizedWeight, other: QuantizedWeight, better: np.ndarray
) -> QuantizedWeight:
    """`best`, but those groups of `other` where `better` (K / group_size, N) is True."""
    ### BEGIN SOLUTION
    rows = np.repeat(better, len(best.q) // len(better), axis=0)
    return replace(
        best,
        q=Tensor._wrap(np.where(rows, other.q.data, best.q.data)),
        scale=np.where(better, other.scale, best.scale),
        zero_point=np.where(better, other.zero_point, best.zero_point),
    )
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "clip-search", "locked": false, "solution": true}
#| export
def clip_search(
    weight: Any,
    bits: int = 4,
    group_size: int | None = None,
    symmetric: bool = True,
    steps: int = 50,
    name: str = "weight",
) -> QuantizedWeight:
    """Round to nearest on the grids of least squared error: the largest weights may be cut off.

    For each group, `steps` ranges from all of it down to a fifth are tried. (K, N) without data.
    """
    w = finite(weight, name)
    best = round_to_nearest(weight, bits, group_size, symmetric, name)
    ### BEGIN SOLUTION
    groups = len(best.scale)
    parts = w.reshape(groups, -1, w.shape[1])
    low, high = parts.min(axis=1, keepdims=True), parts.max(axis=1, keepdims=True)
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    least = group_costs((best.restored().data - w) ** 2, groups)
    for share in np.linspace(1, 0.2, steps)[1:]:
        cut = np.clip(parts, share * low, share * high).reshape(w.shape)
        other = round_to_nearest(cut, bits, group_size, symmetric, name)
        cost = group_costs((other.restored().data - w) ** 2, groups)
        best = better_groups(best, other, cost < least)
        least = np.minimum(cost, least)
    return best
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "shrink", "locked": false, "solution": true}
#| exporti
def shrink(x: np.ndarray, beta: float, p: float) -> np.ndarray:
    """sign(x) max(|x| - |x|^(p - 1) / beta, 0): small numbers become 0, large ones stay.

    >>> shrink(np.array([-2.0, 0.1, 0.0]), beta=10, p=0.5).round(3).tolist()
    [-1.929, 0.0, 0.0]
    """
    ### BEGIN SOLUTION
    size = np.maximum(np.abs(x), 1e-12)
    return np.sign(x) * np.maximum(size - size ** (p - 1) / beta, 0)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "hqq", "locked": false, "solution": true}
#| export
def hqq(
    weight: Any,
    bits: int = 4,
    group_size: int | None = None,
    p: float = 0.7,
    beta: float = 10.0,
    growth: float = 1.01,
    iterations: int = 20,
    name: str = "weight",
) -> QuantizedWeight:
    """Round to nearest on affine grids, each shifted so that sum |error|^p is small. No data.

    Half-quadratic quantization (Badri and Shaji 2023): errors e are split into a sparse part
    s = `shrink(e)` and a rest, whose mean square the best zero point, a mean, makes least; beta
    grows by `growth`. Errors are counted in steps of the grid; zero points are float32, as a whole
    one could not follow. For each group the best of all `iterations` is kept.
    """
    if not 0 < p < 1:
        raise ValueError(f"hqq: p must be between 0 and 1, got {p}")
    best = round_to_nearest(weight, bits, group_size, False, name)
    zero_point = best.zero_point.astype(np.float32)
    best = replace(best, zero_point=zero_point)
    w = split_groups(finite(weight, name), group_size, 0, name)  # (groups, group_size, N)
    steps = w / best.scale.astype(np.float64)[:, None]
    ### BEGIN SOLUTION
    least = np.full(zero_point.shape, np.inf)
    for i in range(iterations):
        marks = np.clip(np.rint(steps + zero_point[:, None]), *integer_range(bits))
        error = steps - (marks - zero_point[:, None])
        cost = (np.abs(error) ** p).sum(axis=1)
        q = Tensor._wrap(marks.reshape(best.q.shape).astype(best.q.dtype))
        best = better_groups(best, replace(best, q=q, zero_point=zero_point), cost < least)
        least = np.minimum(cost, least)
        sparse = shrink(error, beta * growth**i, p)
        zero_point = (marks - steps + sparse).mean(axis=1).astype(np.float32)
    return best
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "awq", "locked": false, "solution": true}
#| export
def awq(
    weight: Any,
    inputs: Any,
    bits: int = 4,
    group_size: int | None = None,
    symmetric: bool = True,
    steps: int = 20,
    name: str = "weight",
) -> QuantizedWeight:
    """Round to nearest where rows of (K, N) that meet large inputs are made larger before.

    Row k is multiplied by mean|x_k|^alpha, and inputs are to be divided by it: `factors`. Of
    `steps` alphas from 0 (plain rounding) to below 1 the one with the least error of the output is
    taken (Lin et al. 2023, "AWQ"). `inputs` are rows (..., K) or InputStatistics.
    """
    w = finite(weight, name)
    inputs = statistics_of(inputs, len(w), "awq")
    size = np.maximum(inputs.mean_abs, 0.01 * inputs.mean_abs.mean() or 1.0)  # none is 0

    ### BEGIN SOLUTION
    def scaled(alpha: float) -> QuantizedWeight:
        factors = size**alpha
        factors /= math.exp(np.log(factors).mean())
        rounded = round_to_nearest(w * factors[:, None], bits, group_size, symmetric, name)
        return replace(rounded, factors=factors)

    candidates = (scaled(alpha) for alpha in np.linspace(0, 1, steps, endpoint=False))
    return min(candidates, key=lambda chosen: output_error(w, chosen.restored(), inputs))
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "bias-correction", "locked": false, "solution": true}
#| export
def bias_correction(
    weight: Any, restored: Any, inputs: InputStatistics, float_inputs: InputStatistics | None = None
) -> np.ndarray:
    """What to add to a bias (N,) so that the mean output is right again after rounding.

    mean(x) @ weight - mean(x') @ restored: x' are the `inputs` that the rounded layer gets, x those
    of the original layer, `float_inputs`, where they differ (Nagel et al. 2019, section 4.2).
    """
    ### BEGIN SOLUTION
    original = (float_inputs or inputs).mean
    return original @ np.asarray(weight) - inputs.mean @ np.asarray(restored)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "matrix", "locked": false, "solution": true}
#| exporti
def as_matrix(layer: Linear | Conv2d) -> np.ndarray:
    """The weight (K, N) of a layer: of a convolution (C KH KW, O)."""
    weight = layer.weight.data
    return weight if isinstance(layer, Linear) else weight.reshape(len(weight), -1).T


def set_matrix(layer: Linear | Conv2d, matrix: np.ndarray) -> None:
    """Give a layer the weight (K, N)."""
    weight = matrix if isinstance(layer, Linear) else matrix.T.reshape(layer.weight.shape)
    layer.weight = Tensor(weight)


def input_rows(layer: Linear | Conv2d, x: Tensor) -> Tensor:
    """What a layer multiplies its matrix by: (..., K), of a convolution all its windows."""
    if isinstance(layer, Linear):
        return x
    kernel = layer.weight.shape[2:]
    windows = unfold(x, kernel, layer.stride, layer.padding, layer.dilation)  # (N, K, places)
    return windows.swapaxes(1, 2)


# %% nbgrader={"grade": false, "grade_id": "matrix-layers", "locked": true, "solution": false}
#| exporti
def matrix_layers(
    model: Module, skip: str | Iterable[str], asked: str, kinds: tuple = (Linear, Conv2d)
) -> dict[str, Any]:
    """The Linears and Conv2ds of a model by name, without those in `skip` and what is below them.

    ValueError where a name is unknown, no layer is left, or one is no matrix of finite numbers.
    """
    if not isinstance(model, Module):
        raise TypeError(f"{asked}: expected a Module, got {type(model).__name__}")
    skipped = {skip} if isinstance(skip, str) else set(skip)
    modules = dict(model.named_modules())
    if unknown := sorted(skipped - set(modules)):
        raise ValueError(f"{asked}: skip names {unknown}, which the model doesn't have")
    layers = {
        name: module
        for name, module in modules.items()
        if type(module) in kinds
        and not any(name == other or name.startswith(f"{other}.") for other in skipped)
    }
    if not layers:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{asked}: there is no {wanted} in this model, or all are skipped")
    for name, layer in layers.items():
        finite(layer.weight, f"{name}.weight")  # before the model runs, and warns
        if getattr(layer, "groups", 1) != 1:
            raise ValueError(
                f"{asked}: {name} is a Conv2d of {layer.groups} groups, no single matrix: "
                f"skip={name!r} leaves it as it is"
            )
    return layers


# %% nbgrader={"grade": false, "grade_id": "gathered-inputs", "locked": true, "solution": false}
#| exporti
def gathered_inputs(
    model: Module, layers: Mapping[str, Any], batches: Iterable[Tensor]
) -> dict[str, InputStatistics]:
    """Statistics of what reaches each layer, in the order in which they are reached.

    The model runs in eval mode, without gradients. ValueError names a layer that isn't reached.
    """
    found: dict[str, InputStatistics] = {}

    def watch(name: str, layer: Any) -> Any:
        def hook(_: Module, inputs: tuple) -> None:
            if name not in found:
                found[name] = InputStatistics(len(as_matrix(layer)), f"{name}.input")
            found[name].observe(input_rows(layer, inputs[0]))

        return layer.register_forward_pre_hook(hook)

    hooks = [watch(name, layer) for name, layer in layers.items()]
    try:
        with evaluating(model):
            for x in batches:
                model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [name for name in layers if name not in found]:
        raise ValueError(f"calibration: the data never reaches {missing}: skip these layers")
    return found


# %% nbgrader={"grade": false, "grade_id": "foldable", "locked": true, "solution": false}
#| exporti
def foldable(model: Module, example: Tensor) -> list[tuple[Any, list[Linear]]]:
    """Each layer that alone feeds some Linears, with these: there a factor can change sides.

    The layer is a Linear, LayerNorm or RMSNorm; between them is nothing, or a ReLU, which lets
    positive factors through. The model runs once on `example`, in eval mode.
    """
    with evaluating(model):
        calls, taken = traced_run(model, example)
    times = Counter(id(leaf) for leaf, _, _ in calls)
    takers: dict[int, list[tuple[Any, Any]]] = {}
    for leaf, given, out in calls:
        if out is not given:  # as Dropout does in eval mode
            takers.setdefault(id(given), []).append((leaf, out))

    def users(out: Any) -> list[tuple[Any, Any]]:
        found = takers.get(id(out), [])
        return found if len(found) == taken[id(out)] else []  # or an operation takes it as well

    def own(leaf: Any, kinds: tuple) -> bool:
        return type(leaf) in kinds and times[id(leaf)] == taken[id(leaf.weight)] == 1

    pairs = []
    for leaf, _, out in calls:
        after = users(out)
        if len(after) == 1 and type(after[0][0]) is ReLU:
            after = users(after[0][1])
        layers = [layer for layer, _ in after]
        ours = own(leaf, (Linear, LayerNorm, RMSNorm)) and all(own(x, (Linear,)) for x in layers)
        if layers and ours:
            pairs.append((leaf, layers))
    return pairs


# %% nbgrader={"grade": false, "grade_id": "move-factors", "locked": false, "solution": true}
#| exporti
def move_factors(source: Any, layers: list[Linear], factors: np.ndarray) -> None:
    """Divide what `source` gives by `factors`, multiply the rows that take it: nothing changes."""
    ### BEGIN SOLUTION
    source.weight = Tensor(source.weight.data / factors)
    if getattr(source, "bias", None) is not None:
        source.bias = Tensor(source.bias.data / factors)
    for layer in layers:
        layer.weight = Tensor(layer.weight.data * factors[:, None])
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "move-all", "locked": true, "solution": false}
#| exporti
def scale_layers(
    model: Module,
    layers: Mapping[str, Linear],
    batches: list[Tensor],
    choose: Callable[[np.ndarray, InputStatistics], Any],
) -> dict[str, np.ndarray | None]:
    """Move factors in place wherever they can be, and return them; None where they can't.

    `choose(weight, inputs)` gives the factors; Linears with the same input are one wide weight.
    """
    inputs = gathered_inputs(model, layers, batches)
    names = {id(layer): name for name, layer in layers.items()}
    factors: dict[str, np.ndarray | None] = dict.fromkeys(inputs)
    for source, takers in reversed(foldable(model, batches[0])):  # columns settle before rows
        if all(id(layer) in names for layer in takers):
            known = [names[id(layer)] for layer in takers]
            wide = np.concatenate([layer.weight.data for layer in takers], axis=1)
            chosen = choose(wide, inputs[known[0]])
            move_factors(source, takers, chosen)
            factors.update(dict.fromkeys(known, chosen))
    return factors


# %% nbgrader={"grade": false, "grade_id": "smoothing-factors", "locked": false, "solution": true}
#| exporti
def smoothing_factors(weight: np.ndarray, largest: np.ndarray, alpha: float) -> np.ndarray:
    """max|x_k|^alpha / max|w_k|^(1 - alpha) for each input k; 1 where either is 0.

    >>> smoothing_factors(np.array([[1.0, -4.0], [0.0, 0.0]]), np.array([16.0, 5.0]), 0.5)
    array([2., 1.])
    """
    ### BEGIN SOLUTION
    rows = np.abs(weight).max(axis=1).astype(np.float64)
    alive = (rows > 0) & (largest > 0)
    rows, largest = np.where(alive, rows, 1.0), np.where(alive, largest, 1.0)
    return largest**alpha / rows ** (1 - alpha)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "smooth-quant", "locked": true, "solution": false}
#| export
def smooth_quant(
    model: Module, data: Any, alpha: float = 0.5, skip: str | Iterable[str] = ()
) -> tuple[Module, dict[str, np.ndarray | None]]:
    """A copy that computes the same, but whose Linears get inputs without large channels.

    Channel k of an input is divided by max|x_k|^alpha / max|w_k|^(1 - alpha), row k of the weight
    multiplied by it; the division is done by the LayerNorm, RMSNorm or Linear (and ReLU) before
    (Xiao et al. 2023, "SmoothQuant"). `data` as for `quantize_model`. With the copy come the
    factors by layer; None where nothing before it can take them, and the layer stays as it was.

    >>> from tinytorch.nn import Sequential
    >>> model = Sequential(Linear(4, 3), ReLU(), Linear(3, 2))
    >>> smoothed, factors = smooth_quant(model, Tensor(np.ones((5, 4))))
    >>> factors["0"], factors["2"].shape
    (None, (3,))
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"smooth_quant: alpha must be from 0 to 1, got {alpha}")
    model, batches = copy.deepcopy(model), list(input_batches(data))
    factors = scale_layers(
        *(model, matrix_layers(model, skip, "smooth_quant", (Linear,)), batches),
        lambda weight, inputs: smoothing_factors(weight, inputs.largest, alpha),
    )
    return model, factors


# %% nbgrader={"grade": false, "grade_id": "report", "locked": true, "solution": false}
#| export
@dataclass(frozen=True)
class CompensatedLayer:
    """What became of one layer: its integers, and its errors in decibels.

    `output_snr_db` is that of its output on the data, for the inputs that it now gets;
    `rounded_snr_db` the same if it were rounded to nearest instead. None without data.
    """

    method: str
    weight: QuantizedWeight
    weight_snr_db: float
    output_snr_db: float | None
    rounded_snr_db: float | None


class CompensationReport(dict):
    """What `compensate` did: layer name -> CompensatedLayer; prints itself as a table."""

    def __repr__(self) -> str:
        width = max(5, *(len(name) for name in self))
        lines = [f"{'layer':{width}} method  weight SNR  output SNR  rounded to nearest"]
        for name, layer in self.items():
            figures = layer.weight_snr_db, layer.output_snr_db, layer.rounded_snr_db
            cells = ["-" if snr is None else f"{snr:.1f} dB" for snr in figures]
            lines.append(
                f"{name:{width}} {layer.method:6}{cells[0]:>12}{cells[1]:>12}{cells[2]:>20}"
            )
        return "\n".join(lines)


def output_snr(weight: Any, restored: Any, inputs: InputStatistics | None) -> float | None:
    """10 log10(||X W||^2 / ||X (W - W')||^2); None without inputs.

    >>> inputs = InputStatistics(1)
    >>> inputs.observe(Tensor([[1.0], [7.0]]))
    >>> round(output_snr(Tensor([[10.0]]), Tensor([[11.0]]), inputs), 9)
    20.0
    """
    if inputs is None:
        return None
    signal = output_error(weight, np.zeros_like(restored), inputs)
    noise = output_error(weight, restored, inputs)
    if noise <= 0 or signal <= 0:
        return math.inf if noise <= 0 else -math.inf
    return 10 * math.log10(signal / noise)


# %% nbgrader={"grade": false, "grade_id": "compensate-parts", "locked": true, "solution": false}
#| exporti
METHODS: dict[str, Callable[..., QuantizedWeight]] = {
    "round": round_to_nearest,
    "clip": clip_search,
    "hqq": hqq,
    "gptq": gptq,
    "awq": awq,
}
NEED_INPUTS = ("gptq", "awq")


def awq_factors(
    model: Module, layers: Mapping[str, Any], batches: list[Tensor], options: Mapping[str, Any]
) -> dict[str, np.ndarray | None]:
    """Move the factors of `awq` in place, where they can be moved, and return them by layer."""
    linears = {name: layer for name, layer in layers.items() if isinstance(layer, Linear)}
    return scale_layers(
        *(model, linears, batches), lambda weight, inputs: awq(weight, inputs, **options).factors
    )


# %% nbgrader={"grade": false, "grade_id": "compensate-layer", "locked": false, "solution": true}
#| exporti
def compensate_layer(
    name: str,
    layer: Linear | Conv2d,
    method: str,
    options: Mapping[str, Any],
    inputs: InputStatistics | None,
    factors: np.ndarray | None = None,
) -> CompensatedLayer:
    """Put a layer's weight on its grids, in place; its rows may have been scaled by `factors`."""
    weight = as_matrix(layer)
    options = {**options, "name": f"{name}.weight"}
    ### BEGIN SOLUTION
    needed = (inputs,) if method in NEED_INPUTS else ()
    quantized = METHODS[method](weight, *needed, **options)
    restored = quantized.restored()
    set_matrix(layer, restored.data)
    ### END SOLUTION
    symmetric = options.get("symmetric", method != "hqq")
    rows = 1.0 if factors is None else factors[:, None]
    rounded = round_to_nearest(weight / rows, options["bits"], options["group_size"], symmetric)
    return CompensatedLayer(
        method if factors is None else "awq",
        quantized,
        quantization_error(Tensor(weight), restored)["snr_db"],
        output_snr(weight, restored, inputs),
        output_snr(weight, rounded.restored().data * rows, inputs),
    )


# %% nbgrader={"grade": false, "grade_id": "compensate", "locked": true, "solution": false}
#| export
def compensate(
    model: Module,
    data: Any = None,
    method: str = "gptq",
    bits: int = 4,
    group_size: int | None = None,
    skip: str | Iterable[str] = (),
    correct_bias: bool = False,
    **options: Any,
) -> tuple[Module, CompensationReport]:
    """A copy whose Linears and Conv2ds hold weights on grids of `bits` bits, and what was done.

    `method` is "round", "clip", "hqq", "gptq" or "awq"; `options` are those of its function.
    Layers are rounded in the order in which the data reaches them, each for the inputs that it
    gets from the rounded ones before. `correct_bias` adds `bias_correction` to each bias. "awq"
    rounds to nearest where no layer before can take its factors. `data` as for `quantize_model`;
    without it ("round", "clip", "hqq") only the weights' errors are known. `skip` names layers that
    stay. Raises ValueError for NaN, infinity, empty data, groups that don't fit, layers that the
    data never reaches.

    >>> from tinytorch.nn import Sequential
    >>> model, report = compensate(Sequential(Linear(8, 2)), Tensor(np.eye(8)), bits=3)
    >>> report["0"].weight.q.shape, bool((model[0].weight == report["0"].weight.restored()).all())
    ((8, 2), True)
    """
    if method not in METHODS:
        raise ValueError(f"compensate: method must be one of {list(METHODS)}, got {method!r}")
    require_bits(bits, "compensate")
    if data is None and (correct_bias or method in NEED_INPUTS):
        raise ValueError("compensate: give data: GPTQ, AWQ and corrected biases need inputs")
    model = copy.deepcopy(model)
    layers = matrix_layers(model, skip, "compensate")
    batches = [] if data is None else list(input_batches(data))
    options |= {"bits": bits, "group_size": group_size}
    factors: dict[str, np.ndarray | None] = dict.fromkeys(layers)
    if method == "awq":
        factors |= awq_factors(model, layers, batches, options)
        options.pop("steps", None)
        method = "round"
    originals = gathered_inputs(model, layers, batches) if batches else dict.fromkeys(layers)
    report = CompensationReport()
    for name, original in originals.items():
        layer, weight = layers[name], as_matrix(layers[name])
        inputs = gathered_inputs(model, {name: layer}, batches)[name] if batches else None
        report[name] = compensate_layer(name, layer, method, options, inputs, factors[name])
        if correct_bias and inputs is not None:
            shift = bias_correction(weight, as_matrix(layer), inputs, original)
            layer.bias = Tensor(shift if layer.bias is None else layer.bias.data + shift)
    return model, report


# %% nbgrader={"grade": false, "grade_id": "packed-model", "locked": true, "solution": false}
#| export
def packed_model(model: Module, report: CompensationReport) -> Module:
    """A copy in which LowBitLinears hold the integers of a report, for the Linears it tells of.

    It computes what the model computes. TypeError for `hqq`: its zero points are no integers.

    >>> from tinytorch.nn import Sequential
    >>> packed_model(*compensate(Sequential(Linear(8, 2)), Tensor(np.eye(8)), bits=3))
    Sequential(
      (0): LowBitLinear(in_features=8, out_features=2, bias=True, bits=3, group_size=8)
    )
    """
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    packed = {}
    for name, done in report.items():
        layer, weight = modules[name], done.weight
        if isinstance(layer, Linear):
            parts = weight.q, weight.scale, weight.zero_point, weight.bits
            packed[id(layer)] = LowBitLinear.from_integers(*parts, layer.bias, name)
    replace_modules(model, packed)
    return model


# %% nbgrader={"grade": false, "grade_id": "quantize-rows", "locked": false, "solution": true}
#| export
def quantize_rows(x: Tensor, bits: int = 8, name: str = "x") -> tuple[Tensor, np.ndarray]:
    """Each row (..., K) on a symmetric grid of its own: (q, scale (..., 1) in float32).

    >>> q, scale = quantize_rows(Tensor([[127.0, -1.0], [5.0, 2.51]]))
    >>> q.tolist(), (127 * scale).round(4).tolist()
    ([[127, -1], [127, 64]], [[127.0], [5.0]])
    """
    ### BEGIN SOLUTION
    q, scale, _ = quantize_groups(x, bits, None, True, -1, np.float32, name)
    return q, scale
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "split-matmul", "locked": false, "solution": true}
#| exporti
def split_product(
    x: np.ndarray, q_weight: np.ndarray, scale: np.ndarray, threshold: float
) -> np.ndarray:
    """x (n, K) @ weight (K, N): columns of x with a magnitude above `threshold` in floats.

    The others go row by row to int8, and meet the weight's integers.
    """
    ### BEGIN SOLUTION
    outliers = (np.abs(x) > threshold).any(axis=0)
    q, row_scale = quantize_rows(Tensor._wrap(np.where(outliers, 0, x)))
    y = int8_linear(q.data, q_weight, scale=scale) * row_scale
    return y + x[:, outliers] @ (q_weight[outliers] * scale)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "outlier-split-linear", "locked": true, "solution": false}
#| export
class OutlierSplitLinear(Module):
    """A Linear with int8 weights per channel and int8 inputs per row, large inputs excepted.

    Columns of x that hold a magnitude above `threshold` are multiplied in floats, the others in
    integers (Dettmers et al. 2022, "LLM.int8()"); infinity leaves none in floats. `outliers` are
    columns known to be large: they are always floats, and their rows of the weight too. No gradient
    passes.

    >>> layer = OutlierSplitLinear(Linear(4, 2), outliers=[3])
    >>> layer
    OutlierSplitLinear(in_features=4, out_features=2, bias=True, threshold=6.0, outliers=1)
    >>> layer.q_weight.dtype, layer.float_rows.shape
    (dtype('int8'), (1, 2))
    """

    q_weight: Tensor
    weight_scale: Tensor
    outliers: Tensor
    float_rows: Tensor
    bias: Tensor | None

    def __init__(
        self,
        linear: Linear,
        threshold: float = 6.0,
        outliers: Any = (),
        name: str = "OutlierSplitLinear",
    ):
        if not isinstance(linear, Linear):
            raise TypeError(f"{name}: expected a Linear, got {type(linear).__name__}")
        if not threshold > 0:
            raise ValueError(f"{name}: threshold must be above 0, got {threshold}")
        self.in_features, self.out_features = linear.weight.shape
        self.threshold, self.name = threshold, name
        columns = np.asarray(outliers, np.int64)
        weight = linear.weight.data.copy()
        self.register_buffer("outliers", Tensor(columns, dtype=np.int64))
        self.register_buffer("float_rows", Tensor(weight[columns]))
        weight[columns] = 0
        q, scale, _ = quantize_int8(Tensor(weight), True, 1, f"{name}.weight")
        self.register_buffer("q_weight", q)
        self.register_buffer("weight_scale", Tensor(scale, dtype=np.float64))
        self.register_buffer("bias", None if linear.bias is None else Tensor(linear.bias.data))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"{self.name}: expected (..., {self.in_features}), got {x.shape}")
        rows = finite(x, f"{self.name}.input").reshape(-1, self.in_features)
        y = rows[:, self.outliers.data] @ self.float_rows.data
        rows[:, self.outliers.data] = 0
        y += split_product(rows, self.q_weight.data, self.weight_scale.data, self.threshold)
        if self.bias is not None:
            y += self.bias.data
        return Tensor(y.reshape(*x.shape[:-1], self.out_features))

    def _extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        split = f"threshold={self.threshold}, outliers={len(self.outliers)}"
        return f"{sizes}, bias={self.bias is not None}, {split}"


# %% nbgrader={"grade": false, "grade_id": "split-outliers", "locked": true, "solution": false}
#| export
def split_outliers(
    model: Module, data: Any = None, threshold: float = 6.0, skip: str | Iterable[str] = ()
) -> Module:
    """A copy whose Linears are OutlierSplitLinears; `skip` names layers that stay.

    With `data`, as for `quantize_model`, inputs that are above `threshold` there are its outliers.
    """
    model = copy.deepcopy(model)
    layers = linear_layers(model, skip, "split_outliers", "OutlierSplitLinear")
    known: dict[str, Any] = dict.fromkeys(layers, ())
    if data is not None:
        found = gathered_inputs(model, layers, input_batches(data))
        known |= {name: np.flatnonzero(x.largest > threshold) for name, x in found.items()}
    split = {
        id(layer): OutlierSplitLinear(layer, threshold, known[name], name)
        for name, layer in layers.items()
    }
    replace_modules(model, split)
    return model

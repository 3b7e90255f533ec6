# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp optimization.dynamic

# %% [markdown]
r"""
# Dynamic quantisation, and files

> Grids that are chosen while the network runs, and quantised networks in files.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tinytorch.core.autograd import nondifferentiable
from tinytorch.core.layers import Identity, Linear, Module, is_module
from tinytorch.core.recurrent import LSTM, lstm_step
from tinytorch.core.spatial import Conv2d
from tinytorch.core.tensor import Tensor, op
from tinytorch.core.training import read_checkpoint, write_checkpoint
from tinytorch.optimization.compensation import OutlierSplitLinear
from tinytorch.optimization.integer import carried_matmul
from tinytorch.optimization.lowbit import LowBitLinear, pack_int4, unpack_int4
from tinytorch.optimization.observers import Fused, Grid, qparams
from tinytorch.optimization.qat import ChosenGrid
from tinytorch.optimization.quantization import (
    QuantizedLinear,
    finite,
    quantize_int8,
    replace_modules,
)
from tinytorch.optimization.static import (
    DeQuantize,
    Quantize,
    QuantizedAttention,
    QuantizedAvgPool2d,
    QuantizedConv2d,
    QuantizedMaxPool2d,
    QuantizedReLU,
    StaticQuantizedLinear,
    to_integers,
)
from tinytorch.profiling.profiler import FLOPS
from tinytorch.text.embeddings import Embedding, checked_ids


# %% nbgrader={"grade": false, "grade_id": "checks", "locked": true, "solution": false}
#| exporti
INT8 = Grid()
PER = ("tensor", "row")


def require_per(per: str, asked: str) -> None:
    """ValueError unless there is such a way to lay grids."""
    if per not in PER:
        raise ValueError(f'{asked}: per must be "tensor" or "row", got {per!r}')


def require_kind(layer: Any, kind: type, asked: str) -> None:
    """TypeError unless the layer is a `kind`."""
    if not isinstance(layer, kind):
        raise TypeError(f"{asked}: expected {kind.__name__}, got {type(layer).__name__}")


def require_finite(low: Any, high: Any, x: np.ndarray, name: str) -> None:
    """ValueError that says where x holds NaN or infinity, if a range of it shows that it does."""
    with np.errstate(all="ignore"):
        if not np.isfinite(np.float32(high) - np.float32(low)).all():
            finite(x, name)


# %% nbgrader={"grade": false, "grade_id": "grid-of", "locked": false, "solution": true}
#| exporti
def grid_of(x: np.ndarray, per: str, name: str = "x") -> ChosenGrid:
    """The affine int8 grid for numbers (N, K) that are there now: one, or one for each row.

    >>> grid_of(np.float32([[0, 51], [0, 255]]), "row").scale
    array([0.2, 1. ])
    """
    ### BEGIN SOLUTION
    within = 1 if per == "row" else None
    low, high = x.min(axis=within, initial=0), x.max(axis=within, initial=0)
    require_finite(low, high, x, name)
    return ChosenGrid(INT8, *qparams(low, high, INT8), axis=None if within is None else 0)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "dynamic-matmul", "locked": false, "solution": true}
#| exporti
@op
def dynamic_matmul(x, q_weight, scale, per="tensor", name="dynamic_matmul"):
    """x @ (q_weight * scale), with x quantised on the way: (..., K), int8 (K, M) -> (..., M).

    `scale` (M,) is that of the weight's columns; x gets an affine int8 grid, or one for each row.
    Errors call the weight `name`.

    >>> weight, scale = Tensor([[100], [50]], dtype=np.int8), Tensor([0.01])
    >>> dynamic_matmul(Tensor([[0.0, 255.0]]), weight, scale)
    Tensor([[127.5]])
    """
    if x.shape[-1:] != q_weight.shape[:1]:
        raise ValueError(f"{name}: x of {x.shape} does not fit weight of {q_weight.shape}")
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    ### BEGIN SOLUTION
    chosen = grid_of(rows, per, f"{name}'s input (as rows)")
    q = to_integers(rows, chosen, name)
    zero_point = np.reshape(chosen.zero_point, (-1, 1)).astype(np.int16)
    sums = carried_matmul(q - zero_point, q_weight).astype(np.float32)
    sums *= np.reshape(chosen.scale, (-1, 1)).astype(np.float32) * scale
    return sums.reshape(*x.shape[:-1], q_weight.shape[1])
    ### END SOLUTION


nondifferentiable(dynamic_matmul)  # rounding has no slope
FLOPS["dynamic_matmul"] = lambda inputs, params, out: 2 * out.size * len(inputs[1])


# %% nbgrader={"grade": false, "grade_id": "int8-weight", "locked": true, "solution": false}
#| export
class Int8Weight(Module):
    """A weight (K, M) in int8 that floats are multiplied by: weight(x), or array @ weight.

    Its columns have symmetric grids of their own; what it meets is quantised `per` "tensor" (the
    whole of x at once) or "row". No gradient passes.

    >>> weight = Int8Weight(Tensor([[1.0, -2.0], [0.5, 4.0]]))
    >>> weight
    Int8Weight(2, 2, per='tensor')
    >>> weight(Tensor([[1.0, 1.0]])).shape
    (1, 2)
    """

    __array_ufunc__ = None  # so that `array @ weight` asks the weight
    dtype = np.dtype(np.float32)  # of what it gives

    q: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, per: str = "tensor", name: str = "Int8Weight"):
        require_per(per, name)
        self.per, self.name = per, name
        q, scale, _ = quantize_int8(weight, symmetric=True, axis=1, name=name)
        self.register_buffer("q", q)
        self.register_buffer("scale", Tensor(scale))

    @property
    def shape(self) -> tuple[int, ...]:
        """(K, M), as of the weight in floats."""
        return self.q.shape

    def forward(self, x: Any) -> Tensor:
        return dynamic_matmul(x, self.q, self.scale, per=self.per, name=self.name)

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        return self.forward(x).data

    def _extra_repr(self) -> str:
        return f"{self.shape[0]}, {self.shape[1]}, per={self.per!r}"


# %% nbgrader={"grade": false, "grade_id": "dynamic-linear", "locked": false, "solution": true}
#| export
class DynamicQuantizedLinear(Module):
    """A Linear with an int8 weight whose input is quantised anew at each call; the rest is float.

    >>> layer = DynamicQuantizedLinear(Linear(4, 2), per="row")
    >>> layer
    DynamicQuantizedLinear(
      (weight): Int8Weight(4, 2, per='row')
    )
    """

    weight: Int8Weight
    bias: Tensor | None

    def __init__(self, linear: Linear, per: str = "tensor", name: str = "DynamicQuantizedLinear"):
        require_kind(linear, Linear, name)
        ### BEGIN SOLUTION
        self.weight = Int8Weight(linear.weight, per, f"{name}.weight")
        self.register_buffer("bias", None if linear.bias is None else Tensor(linear.bias.data))
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        y = self.weight(x)
        return y if self.bias is None else y + self.bias
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "quantized-lstm", "locked": false, "solution": true}
#| export
class QuantizedLSTM(LSTM):
    """An LSTM whose weights are int8; what meets them is quantised at each step.

    Gates, biases and the cell state stay float. (As torch.ao.nn.quantized.dynamic.LSTM.)

    >>> output, (hidden, cell) = QuantizedLSTM(LSTM(3, 5))(Tensor(np.ones((7, 2, 3))))
    >>> output.shape, cell.shape
    ((7, 2, 5), (1, 2, 5))
    """

    def __init__(self, lstm: LSTM, per: str = "tensor", name: str = "QuantizedLSTM"):
        require_kind(lstm, LSTM, name)
        vars(self).update(vars(lstm))
        for key, value in vars(lstm).items():
            if isinstance(value, Tensor) and value.ndim == 2:
                vars(self)[key] = Int8Weight(value, per, f"{name}.{key}")
            elif isinstance(value, Tensor):
                self.register_buffer(key, Tensor(value.data))

    def scan(self, x, states, weights, mask=None, **options):
        weight_ih, weight_hh, *biases = weights
        ### BEGIN SOLUTION
        projected = weight_ih(x).data + sum(bias.data for bias in biases if bias is not None)
        (hidden, cell), outputs = (state.data for state in states), []
        for t, z in enumerate(projected):
            new_hidden, new_cell = lstm_step(z, hidden, cell, weight_hh)
            here = True if mask is None else mask[t]
            hidden, cell = np.where(here, new_hidden, hidden), np.where(here, new_cell, cell)
            outputs.append(hidden)
        return Tensor._wrap(np.stack(outputs)), [Tensor._wrap(hidden), Tensor._wrap(cell)]
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "quantized-embedding", "locked": false, "solution": true}
#| export
class QuantizedEmbedding(Module):
    """An Embedding in int8, each row on an affine grid of its own: ids (...) -> floats (..., D).

    `weight` is the whole table in floats, made anew, for layers that share it (TiedLinear).

    >>> table = Embedding.from_pretrained(Tensor([[0.0, 255.0], [-1.0, 1.55]]))
    >>> QuantizedEmbedding(table)([1])
    Tensor([[-1.  ,  1.55]])
    """

    q_weight: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, embedding: Embedding, name: str = "QuantizedEmbedding"):
        require_kind(embedding, Embedding, name)
        ### BEGIN SOLUTION
        table = embedding.weight.data
        chosen = grid_of(table, "row", f"{name}.weight")
        q = to_integers(table, chosen, f"{name}.weight")
        self.register_buffer("q_weight", Tensor(q, dtype=np.int8))
        self.register_buffer("scale", Tensor(chosen.scale))
        self.register_buffer("zero_point", Tensor(chosen.zero_point, dtype=np.int8))
        ### END SOLUTION

    def rows(self, places: Any) -> Tensor:
        """The float rows at these places."""
        ### BEGIN SOLUTION
        q, scale, zero = (t.data[places] for t in (self.q_weight, self.scale, self.zero_point))
        return Tensor._wrap((q - zero[..., None].astype(np.int16)) * scale[..., None])
        ### END SOLUTION

    def forward(self, ids: Any) -> Tensor:
        return self.rows(checked_ids(ids, len(self.q_weight)))

    @property
    def weight(self) -> Tensor:
        """The whole table (V, D) in floats."""
        return self.rows(slice(None))

    def _extra_repr(self) -> str:
        return ", ".join(map(str, self.q_weight.shape))


# %% nbgrader={"grade": false, "grade_id": "dynamic-layers", "locked": true, "solution": false}
#| exporti
DYNAMIC = (Linear, LSTM, Embedding)


def wanted_layers(model: Any, layers: Any) -> set[type | str]:
    """What is to be quantised, as a set; an error for what isn't there or can't be."""
    if not isinstance(model, Module):
        raise TypeError(f"quantize_dynamic: expected a Module, got {type(model).__name__}")
    wanted = {layers} if isinstance(layers, (str, type)) else set(layers)
    modules = dict(model.named_modules())
    for key in wanted:
        if isinstance(key, str) and key not in modules:
            raise ValueError(f"quantize_dynamic: no layer is called {key!r}, only {list(modules)}")
        kind = type(modules[key]) if isinstance(key, str) else key
        if kind not in DYNAMIC:
            shown = getattr(kind, "__name__", repr(kind))
            raise ValueError(
                f"quantize_dynamic: {shown} can't be quantised: Linear, LSTM and Embedding can"
            )
    return wanted


def dynamic_layer(part: Any, per: str, name: str) -> Module:
    """The int8 layer that a Linear, LSTM or Embedding becomes."""
    if type(part) is Embedding:
        return QuantizedEmbedding(part, name)
    kind = DynamicQuantizedLinear if type(part) is Linear else QuantizedLSTM
    return kind(part, per, name)


# %% nbgrader={"grade": false, "grade_id": "quantize-dynamic", "locked": false, "solution": true}
#| export
def quantize_dynamic(
    model: Module, layers: Iterable[type | str] = (Linear, LSTM), per: str = "tensor"
) -> Module:
    """A copy of the model in eval mode whose `layers` have int8 weights; it needs no calibration.

    `layers` holds types (Linear, LSTM, Embedding) and names of layers. Inputs are quantised at each
    call, `per` "tensor" or "row"; embeddings only look rows up. Results are floats.

    >>> from tinytorch.nn import Sequential
    >>> quantize_dynamic(Sequential(Linear(4, 8), Linear(8, 2)), {"1"})[1]
    DynamicQuantizedLinear(
      (weight): Int8Weight(8, 2, per='tensor')
    )
    """
    wanted = wanted_layers(model, layers)
    require_per(per, "quantize_dynamic")
    ### BEGIN SOLUTION
    model = copy.deepcopy(model).eval()
    replaced = {
        id(part): dynamic_layer(part, per, name or "the layer").eval()
        for name, part in model.named_modules()
        if type(part) in DYNAMIC and (type(part) in wanted or name in wanted)
    }
    replace_modules(model, replaced)
    return replaced.get(id(model), model)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "kinds", "locked": true, "solution": false}
#| exporti
QUANTIZED = (
    *(QuantizedLinear, LowBitLinear, OutlierSplitLinear),
    *(Quantize, DeQuantize, StaticQuantizedLinear, QuantizedConv2d, QuantizedReLU),
    *(QuantizedMaxPool2d, QuantizedAvgPool2d, QuantizedAttention),
    *(Int8Weight, DynamicQuantizedLinear, QuantizedLSTM, QuantizedEmbedding),
)
# what `fuse` leaves behind may be unlike the float model too
KINDS = {kind.__name__: kind for kind in (*QUANTIZED, Identity, Fused, Linear, Conv2d)}
OTHERS = "tinytorch.optimization."  # layers from there that aren't KINDS can't be described
HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # functions


# %% nbgrader={"grade": false, "grade_id": "described", "locked": false, "solution": true}
#| exporti
def described(value: Any, name: str = "it") -> Any:
    """An attribute as JSON: of tensors shape and dtype alone, of other modules than KINDS None.

    TypeError for what a file can't hold.

    >>> described([Tensor([1.0, 2.0]), 3])
    {'list': [{'tensor': [[2], 'float32']}, {'plain': 3}]}
    """
    if isinstance(value, np.generic):
        value = value.item()
    ### BEGIN SOLUTION
    if isinstance(value, Tensor):
        return {"tensor": [list(value.shape), value.dtype.name]}
    if isinstance(value, Grid):
        return {"grid": asdict(value)}
    if type(value) in KINDS.values():
        own = {key: item for key, item in vars(value).items() if key not in HOOKS}
        return {"layer": [type(value).__name__, described(own, name)]}
    if isinstance(value, Mapping):
        return {"dict": {key: described(item, f"{name}.{key}") for key, item in value.items()}}
    if type(value) in (list, tuple):
        items = [described(item, f"{name}.{index}") for index, item in enumerate(value)]
        return {type(value).__name__: items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"plain": value}
    if is_module(value):
        return None
    raise TypeError(f"save_quantized: {name} is a {type(value).__name__}: a file can't hold it")
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "sizes", "locked": true, "solution": false}
#| exporti
def sizes(layer: Any) -> dict[str, Any]:
    """What quantisation leaves as it is: the shapes of weight and bias, and whole numbers."""
    own = getattr(layer, "__dict__", {})
    found = {key: value for key, value in own.items() if type(value) is int}
    tensors = {k: v for k, v in own.items() if isinstance(v, (Tensor, Int8Weight))}
    return found | {key.removeprefix("q_"): value.shape for key, value in tensors.items()}


def require_same_sizes(new: Any, old: Any) -> None:
    """ValueError where a layer of the file has other sizes than the model's own."""
    before, after = sizes(old), sizes(new)
    for key in before.keys() & after.keys():
        if before[key] != after[key]:
            raise ValueError(f"{key} is {after[key]} in the file and {before[key]} here")


# %% nbgrader={"grade": false, "grade_id": "rebuilt", "locked": false, "solution": true}
#| exporti
def rebuilt(description: Any, old: Any = None) -> Any:
    """The opposite of `described`: tensors hold zeros, and what isn't described is `old`.

    `old` is what stands at this place in the float model. ValueError where it doesn't fit, KeyError
    for a kind of layer that doesn't exist.

    >>> rebuilt(described((1, [Grid(bits=4).bits, "a"])))
    (1, [4, 'a'])
    """
    ### BEGIN SOLUTION
    if description is None:
        if not is_module(old):
            raise ValueError("the file counts on a module that isn't here")
        return old
    [(kind, content)] = description.items()
    if kind == "plain":
        return content
    if kind == "tensor":
        shape, dtype = content
        return Tensor(np.zeros(shape, dtype), dtype=dtype)
    if kind == "grid":
        return Grid(**content)
    if kind == "dict":
        held = old if isinstance(old, Mapping) else {}
        return {key: rebuilt(item, held.get(key)) for key, item in content.items()}
    if kind in ("list", "tuple"):
        before = old if isinstance(old, (list, tuple)) else [None] * len(content)
        if len(before) != len(content):
            raise ValueError(f"{len(content)} items in the file and {len(before)} here")
        items = [rebuilt(*pair) for pair in zip(content, before, strict=True)]
        return tuple(items) if kind == "tuple" else items
    if kind != "layer":
        raise KeyError(kind)
    name, attributes = content
    return rebuilt_layer(name, attributes, old)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "rebuilt-layer", "locked": true, "solution": false}
#| exporti
def rebuilt_layer(kind: str, attributes: Any, old: Any) -> Any:
    """A layer of this kind, without a call of its __init__."""
    new: Any = object.__new__(KINDS[kind])
    found = rebuilt(attributes, getattr(old, "__dict__", {}))
    new._buffers = found.pop("_buffers", {})  # first: a Tensor that isn't among them is a parameter
    for key, value in found.items():
        setattr(new, key, value)
    require_same_sizes(new, old)
    return new


# %% nbgrader={"grade": false, "grade_id": "stored", "locked": false, "solution": true}
#| exporti
def stored(array: np.ndarray) -> Any:
    """An array as it goes into the file: int8 that 4 bits can hold is packed, two in a byte.

    >>> stored(np.array([[3, -2, 7]], np.int8))
    {'int4': array([227,   7], dtype=uint8), 'shape': [1, 3]}
    """
    ### BEGIN SOLUTION
    if array.dtype == np.int8 and array.size and array.min() >= -8 and array.max() <= 7:
        return {"int4": pack_int4(array), "shape": list(array.shape)}
    return array
    ### END SOLUTION


def restored(value: Any) -> np.ndarray:
    """The array that was `stored`.

    >>> restored(stored(np.array([[3, -2, 7]], np.int8)))
    array([[ 3, -2,  7]], dtype=int8)
    """
    ### BEGIN SOLUTION
    if isinstance(value, np.ndarray):
        return value
    return unpack_int4(value["int4"], math.prod(value["shape"])).reshape(value["shape"])
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "tensors-of", "locked": true, "solution": false}
#| exporti
def tensors_of(model: Module) -> dict[str, Tensor]:
    """What state_dict saves, but a tensor that is shared only once."""
    state, named = model.state_dict(), [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if name in state}


def described_layers(model: Any) -> dict[str, Any]:
    """The layers that quantisation put in, by name; an error where there is none, or unknown ones.

    Those that are part of another are described with it.
    """
    if not isinstance(model, Module):
        raise TypeError(f"save_quantized: expected a Module, got {type(model).__name__}")
    layers: dict[str, Any] = {}
    for name, part in model.named_modules():
        if any(not outer or name.startswith(f"{outer}.") for outer in layers):
            continue
        if type(part) in KINDS.values():
            layers[name] = described(part, name or "the model")
        elif isinstance(part, QUANTIZED) or type(part).__module__.startswith(OTHERS):
            raise ValueError(
                f"save_quantized: {name or 'the model'} is a {type(part).__name__}, "
                f"and files hold only {', '.join(KINDS)}"
            )
    if not any(isinstance(part, QUANTIZED) for part in model.modules()):
        raise ValueError("save_quantized: the model has no quantised layer")
    return layers


# %% nbgrader={"grade": false, "grade_id": "save-quantized", "locked": false, "solution": true}
#| export
def save_quantized(model: Module, path: str | os.PathLike) -> None:
    """Write a quantised model into one safetensors file, atomically; see `load_quantized`.

    Integers take a byte each, those of 4 bits half a byte. The layers that quantisation put in are
    described in the metadata, so that nobody needs to quantise or calibrate again; hooks are not
    saved. Raises ValueError and TypeError for layers that a file can't describe.
    """
    layers = described_layers(model)
    ### BEGIN SOLUTION
    state = {name: stored(tensor.data) for name, tensor in tensors_of(model).items()}
    write_checkpoint(Path(path), {"quantized_layers": layers, "state": state})
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "with-layers", "locked": true, "solution": false}
#| exporti
def with_layers(model: Module, layers: Mapping[str, Any], path: Any) -> Module:
    """A copy of a model, with the layers that the file describes; ValueError if they don't fit."""
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    if lost := [name for name in layers if name not in modules]:
        raise ValueError(f"{path} is of another model: this one has no {lost[0]!r}")
    replaced: dict[int, Any] = {}
    for name, description in layers.items():
        try:
            replaced[id(modules[name])] = rebuilt(description, modules[name])
        except ValueError as error:
            raise ValueError(f"{path} is of another model: {name or 'it'}: {error}") from None
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} holds what this TinyTorch doesn't know ({error}): a newer one wrote it"
            ) from None
    replace_modules(model, replaced)
    return replaced.get(id(model), model).eval()


# %% nbgrader={"grade": false, "grade_id": "load-quantized", "locked": false, "solution": true}
#| export
def load_quantized(model: Module, path: str | os.PathLike) -> Module:
    """The quantised model in a file of `save_quantized`; `model` is the float model it came from.

    The model gives the structure, its numbers don't matter, and it stays as it is. Raises
    ValueError for a file that is damaged, or of another model.

    >>> import tempfile
    >>> from tinytorch.nn import Sequential
    >>> quantized = quantize_dynamic(Sequential(Linear(4, 2)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_quantized(quantized, f"{folder}/model.safetensors")
    ...     again = load_quantized(Sequential(Linear(4, 2)), f"{folder}/model.safetensors")
    >>> x = Tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> bool((again(x) == quantized(x)).all())
    True
    """
    if not isinstance(model, Module):
        raise TypeError(f"load_quantized: expected a Module, got {type(model).__name__}")
    facts = read_checkpoint(Path(path))
    if "quantized_layers" not in facts:
        raise ValueError(f"{path} holds no quantised model: it isn't of save_quantized")
    ### BEGIN SOLUTION
    model = with_layers(model, facts["quantized_layers"], path)
    state = {name: restored(value) for name, value in facts["state"].items()}
    if different := tensors_of(model).keys() ^ state.keys():
        raise ValueError(f"{path} is of another model: only one has {sorted(different)[:4]}")
    try:
        model.load_state_dict(state, strict=False)  # a shared tensor has several names
    except ValueError as error:
        raise ValueError(f"{path} is of another model: {error}") from None
    return model
    ### END SOLUTION

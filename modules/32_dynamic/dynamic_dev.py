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
from tinytorch.core.layers import Identity, Linear, Module
from tinytorch.core.recurrent import LSTM, lstm_step
from tinytorch.core.tensor import Tensor, op
from tinytorch.core.training import read_checkpoint, write_checkpoint
from tinytorch.optimization.integer import carried_matmul
from tinytorch.optimization.lowbit import LowBitLinear, pack_int4, unpack_int4
from tinytorch.optimization.observers import Grid, qparams
from tinytorch.optimization.qat import ChosenGrid
from tinytorch.optimization.quantization import (
    QuantizedLinear,
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


# %% nbgrader={"grade": false, "grade_id": "grid-of", "locked": false, "solution": true}
#| exporti
INT8 = Grid()
PER = ("tensor", "row")


def grid_of(x: np.ndarray, per: str) -> ChosenGrid:
    """The affine int8 grid for numbers (N, K) that are there now: one, or one for each row.

    >>> grid_of(np.float32([[0, 51], [0, 255]]), "row").scale
    array([0.2, 1. ])
    """
    ### BEGIN SOLUTION
    axis = 1 if per == "row" else None
    low, high = x.min(axis=axis, initial=0), x.max(axis=axis, initial=0)
    return ChosenGrid(INT8, *qparams(low, high, INT8), None if axis is None else 0)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "dynamic-matmul", "locked": false, "solution": true}
#| exporti
@op
def dynamic_matmul(x, q_weight, scale, per="tensor"):
    """x @ (q_weight * scale), x quantised on the way: float32 (..., K), int8 (K, M) -> (..., M).

    `scale` (M,) is that of the weight's columns; x gets an affine int8 grid, or one for each row.

    >>> weight, scale = Tensor([[100], [50]], dtype=np.int8), Tensor([0.01])
    >>> dynamic_matmul(Tensor([[0.0, 255.0]]), weight, scale)
    Tensor([[127.5]])
    """
    ### BEGIN SOLUTION
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    chosen = grid_of(rows, per)
    q = to_integers(rows, chosen, "dynamic_matmul: x")
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
    whole of x at once) or "row".

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
        if per not in PER:
            raise ValueError(f'{name}: per must be "tensor" or "row", got {per!r}')
        self.per = per
        q, scale, _ = quantize_int8(weight, symmetric=True, axis=1, name=name)
        self.register_buffer("q", q)
        self.register_buffer("scale", Tensor(scale))

    shape = property(lambda self: self.q.shape)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != self.shape[:1]:
            raise ValueError(f"Int8Weight: expected (..., {self.shape[0]}), got {x.shape}")
        return dynamic_matmul(x, self.q, self.scale, per=self.per)

    def __rmatmul__(self, x: np.ndarray) -> Any:
        return dynamic_matmul(x, self.q.data, self.scale.data, per=self.per)

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

    bias: Tensor | None

    def __init__(self, linear: Linear, per: str = "tensor", name: str = "DynamicQuantizedLinear"):
        self.weight = Int8Weight(linear.weight, per, f"{name}.weight")
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight(x)
        return y if self.bias is None else y + self.bias


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
        vars(self).update(vars(lstm))
        for key, parameter in lstm.named_parameters():
            if parameter.ndim == 2:
                vars(self)[key] = Int8Weight(parameter, per, f"{name}.{key}")
            else:
                self.register_buffer(key, parameter.detach())

    def scan(self, x, states, weights, mask=None, **options):
        weight_ih, weight_hh, *biases = weights
        projected = weight_ih(x).data
        for bias in biases:
            if bias is not None:
                projected = projected + bias.data
        state, outputs = tuple(given.data for given in states), []
        for t, z in enumerate(projected):
            hidden, cell = state
            new = lstm_step(z, hidden, cell, weight_hh)
            if mask is not None:
                new = tuple(np.where(mask[t], n, old) for n, old in zip(new, state, strict=True))
            state = new
            outputs.append(state[0])
        return Tensor._wrap(np.stack(outputs)), [Tensor._wrap(last) for last in state]


# %% nbgrader={"grade": false, "grade_id": "quantized-embedding", "locked": false, "solution": true}
#| export
class QuantizedEmbedding(Module):
    """An Embedding in int8: ids (...) -> float vectors (..., D).

    Each row has an affine grid of its own. `weight` is the table in floats, made anew, for layers that share it (TiedLinear).

    >>> table = Embedding.from_pretrained(Tensor([[0.0, 255.0], [-1.0, 1.55]]))
    >>> QuantizedEmbedding(table)([1])
    Tensor([[-1.  ,  1.55]])
    """

    q: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, embedding: Embedding, name: str = "QuantizedEmbedding"):
        table = embedding.weight.data
        chosen = grid_of(table, "row")
        self.register_buffer("q", Tensor(to_integers(table, chosen, name), dtype=np.int8))
        self.register_buffer("scale", Tensor(chosen.scale))
        self.register_buffer("zero_point", Tensor(chosen.zero_point, dtype=np.int8))

    def rows(self, places: Any) -> Tensor:
        """The float rows at these places."""
        q, scale, zero_point = (t.data[places] for t in (self.q, self.scale, self.zero_point))
        return Tensor._wrap((q - zero_point[..., None].astype(np.int16)) * scale[..., None])

    def forward(self, ids: Any) -> Tensor:
        return self.rows(checked_ids(ids, len(self.q)))

    @property
    def weight(self) -> Tensor:
        """The whole table (V, D) in floats."""
        return self.rows(slice(None))

    def _extra_repr(self) -> str:
        return ", ".join(map(str, self.q.shape))


# %% nbgrader={"grade": false, "grade_id": "quantize-dynamic", "locked": false, "solution": true}
#| export
DYNAMIC = (Linear, LSTM, Embedding)


def dynamic_layer(part: Any, per: str, name: str) -> Module:
    """The int8 layer that a Linear, LSTM or Embedding becomes."""
    if type(part) is Embedding:
        return QuantizedEmbedding(part, name)
    kind = DynamicQuantizedLinear if type(part) is Linear else QuantizedLSTM
    return kind(part, per, name)


def quantize_dynamic(
    model: Module, layers: Iterable[type | str] = (Linear, LSTM), per: str = "tensor"
) -> Module:
    """A copy of the model whose `layers` have int8 weights; no calibration is needed.

    `layers` holds types (Linear, LSTM, Embedding) and names of layers. Inputs are quantised at each
    call, `per` "tensor" or "row"; embeddings only look rows up. Results are floats.

    >>> from tinytorch.nn import Sequential
    >>> quantize_dynamic(Sequential(Linear(4, 8), Linear(8, 2)), {"1"})[1]
    DynamicQuantizedLinear(
      (weight): Int8Weight(8, 2, per='tensor')
    )
    """
    ### BEGIN SOLUTION
    if not isinstance(model, Module):
        raise TypeError(f"quantize_dynamic: expected a Module, got {type(model).__name__}")
    wanted = set(layers)
    modules = dict(model.named_modules())
    for key in wanted:
        kind = type(modules.get(key)) if isinstance(key, str) else key
        if kind not in DYNAMIC:
            what = f"{key!r} is a {kind.__name__}" if key in modules else f"{key!r}"
            raise ValueError(
                f"quantize_dynamic: {what}: it takes Linear, LSTM, Embedding, or names"
            )
    model = copy.deepcopy(model).eval()
    replaced = {
        id(part): dynamic_layer(part, per, name or "the layer")
        for name, part in model.named_modules()
        if type(part) in DYNAMIC and not wanted.isdisjoint((type(part), name))
    }
    replace_modules(model, replaced)
    return replaced.get(id(model), model)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "kinds", "locked": true, "solution": false}
#| exporti
KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Identity,
        Quantize,
        DeQuantize,
        StaticQuantizedLinear,
        QuantizedConv2d,
        QuantizedReLU,
        QuantizedMaxPool2d,
        QuantizedAvgPool2d,
        QuantizedAttention,
        Int8Weight,
        DynamicQuantizedLinear,
        QuantizedLSTM,
        QuantizedEmbedding,
        QuantizedLinear,
        LowBitLinear,
    )
}


# %% nbgrader={"grade": false, "grade_id": "described", "locked": false, "solution": true}
#| exporti
def described(value: Any) -> Any:
    """An attribute as JSON can hold it; of tensors shape and dtype; None for what a model has."""
    ### BEGIN SOLUTION
    if isinstance(value, Tensor):
        return {"tensor": [list(value.shape), value.dtype.name]}
    if isinstance(value, Grid):
        return {"grid": asdict(value)}
    if type(value) in KINDS.values():
        return {"kind": type(value).__name__, "attributes": described(vars(value))}
    if isinstance(value, Mapping):
        return {"dict": {key: described(item) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [described(item) for item in value]}
    plain = isinstance(value, (bool, int, float, str, type(None)))
    return {"plain": value} if plain else None
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "rebuilt", "locked": false, "solution": true}
#| exporti
def rebuilt(description: Any, old: Any = None) -> Any:
    """The opposite of `described`: tensors hold zeros, and what isn't described is `old`.

    >>> rebuilt(described((1, [Grid(bits=4).bits, "a"])))
    (1, [4, 'a'])
    """
    ### BEGIN SOLUTION
    if description is None:
        return old
    kind, content = next(iter(description.items()))
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
        items = [rebuilt(item, b) for item, b in zip(content, before, strict=True)]
        return tuple(items) if kind == "tuple" else items
    new: Any = object.__new__(KINDS[content])
    vars(new).update(rebuilt(description["attributes"], getattr(old, "__dict__", {})))
    return new
    ### END SOLUTION


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
    """The array that was `stored`."""
    if isinstance(value, np.ndarray):
        return value
    return unpack_int4(value["int4"], math.prod(value["shape"])).reshape(value["shape"])


# %% nbgrader={"grade": false, "grade_id": "tensors-of", "locked": true, "solution": false}
#| exporti
def tensors_of(model: Module) -> dict[str, Tensor]:
    """What state_dict saves, but a tensor that is shared only once."""
    state, named = model.state_dict(), [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if name in state}


# %% nbgrader={"grade": false, "grade_id": "save-quantized", "locked": false, "solution": true}
#| export
def save_quantized(model: Module, path: str | os.PathLike) -> None:
    """Write a quantised model into one safetensors file, atomically; see `load_quantized`.

    Integers take a byte each, those of 4 bits half a byte. The layers that quantisation put in are
    described in the metadata, so that nobody needs to prepare and calibrate again.
    """
    ### BEGIN SOLUTION
    layers: dict[str, Any] = {}
    for name, part in model.named_modules():
        within = any(not outer or name.startswith(f"{outer}.") for outer in layers)
        if type(part) in KINDS.values() and not within:
            layers[name] = described(part)
    if not layers:
        raise ValueError("save_quantized: the model has no quantised layer")
    state = {name: stored(tensor.data) for name, tensor in tensors_of(model).items()}
    write_checkpoint(Path(path), {"quantized_layers": layers, "state": state})
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "load-quantized", "locked": false, "solution": true}
#| export
def load_quantized(model: Module, path: str | os.PathLike) -> Module:
    """The quantised model in a file of `save_quantized`; `model` is the float model it came from.

    The model gives the structure, its numbers don't matter, and it stays as it is. Raises ValueError
    for a file that is damaged, or of another model.

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
    ### BEGIN SOLUTION
    facts = read_checkpoint(Path(path))
    if "quantized_layers" not in facts:
        raise ValueError(f"{path} holds no quantised model: it isn't of save_quantized")
    model = copy.deepcopy(model).eval()
    modules, layers = dict(model.named_modules()), facts["quantized_layers"]
    if lost := [name for name in layers if name not in modules]:
        raise ValueError(f"{path} is of another model: this one has no {lost[0]!r}")
    replaced = {id(modules[name]): rebuilt(layers[name], modules[name]) for name in layers}
    replace_modules(model, replaced)
    model = replaced.get(id(model), model)
    own, state = tensors_of(model), facts["state"]
    if own.keys() != state.keys():
        raise ValueError(f"{path} is of another model: {sorted(own.keys() ^ state.keys())}")
    model.load_state_dict({name: restored(value) for name, value in state.items()}, strict=False)
    return model
    ### END SOLUTION

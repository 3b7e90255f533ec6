"""Every operation of the package with sample inputs: one table that many tests run through.

A new op gets an entry here: how to call it, what NumPy gives for it, and PyTorch's word for it.
`test_every_op_has_a_sample` (tests/properties) fails until it has one.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

import tinytorch
from tinytorch.core import activations, attention, layers, losses, recurrent, spatial, tensor
from tinytorch.core.tensor import Tensor
from tinytorch.models import transformer
from tinytorch.optimization import dynamic, kernels, qat, quantization, static
from tinytorch.text import embeddings


@dataclass(frozen=True)
class Sample:
    """One call of an op.

    Float64 arrays among `inputs` are what gradients are taken by; other inputs are constants.
    `numpy` and `torch` take what the op takes: the inputs, then the parameters by keyword. `torch`
    None stands for an op that PyTorch doesn't have, or does otherwise.
    """

    op: Callable
    inputs: tuple
    numpy: Callable
    torch: Callable | None = None
    params: dict[str, Any] = field(default_factory=dict)
    differentiable: bool = True

    def __str__(self) -> str:
        shapes = [str(x.shape) if isinstance(x, np.ndarray) else repr(x) for x in self.inputs]
        shapes += [f"{key}={value!r}" for key, value in self.params.items()]
        return f"{self.op.__name__}({', '.join(shapes)})"

    @property
    def points(self) -> list[np.ndarray]:
        """The inputs that gradients are taken by."""
        return [x for x in self.inputs if is_point(x)]

    def call(self, *points: Any, op: Callable | None = None) -> Any:
        """The op on other values of its points."""
        following = iter(points)
        inputs = [next(following) if is_point(x) else x for x in self.inputs]
        return (op or self.op)(*inputs, **self.params)

    def leaves(self, dtype: Any = np.float64) -> list[Tensor]:
        """The points as tensors that require a gradient."""
        return [Tensor(x, requires_grad=self.differentiable, dtype=dtype) for x in self.points]


def is_point(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == np.float64


@cache
def package_ops() -> dict[str, Callable]:
    """Every op that the package defines, by `file.name`: functions with a `forward`."""
    found = {}
    for file in pkgutil.walk_packages(tinytorch.__path__, "tinytorch."):
        module = importlib.import_module(file.name)
        for name, value in vars(module).items():
            is_here = getattr(value, "__module__", None) == file.name
            if is_here and not isinstance(value, type) and callable(getattr(value, "forward", 0)):
                found[f"{file.name.removeprefix('tinytorch.')}.{name}"] = value
    return found


# --- points: far from kinks and ties, so that differences can be taken ---
random = np.random.default_rng(0)
A = np.array([[0.7, -1.3, 2.1], [-0.4, 1.6, -2.2]])
B = np.array([[1.9, 0.6, -0.8], [-1.1, 0.3, 1.4]])
ROW = np.array([0.9, -1.7, 0.5])
COLUMN = np.array([[1.2], [-0.6]])
POSITIVE = np.array([[0.3, 1.5, 2.4], [0.8, 3.1, 1.1]])
CUBE = random.permutation(np.linspace(-2.0, 2.0, 24)).reshape(2, 3, 4)
EMPTY = np.zeros((0, 3))


def normal(*shape: int) -> np.ndarray:
    return random.standard_normal(shape)


def samples() -> Iterator[Sample]:
    yield from arithmetic()
    yield from one_at_a_time()
    yield from constants()
    yield from reductions()
    yield from shapes()
    yield from parts()
    yield from matrices()
    yield from of_networks()
    yield from of_images()
    yield from of_sequences()
    yield from integers()
    yield from rounded()
    yield from rounded_on_the_way()
    yield from of_texts()
    yield from of_transformers()


def arithmetic() -> Iterator[Sample]:
    two = {
        tensor.add: (lambda a, b: a + b, lambda a, b: a + b),
        tensor.sub: (lambda a, b: a - b, lambda a, b: a - b),
        tensor.mul: (lambda a, b: a * b, lambda a, b: a * b),
        tensor.div: (lambda a, b: a / b, lambda a, b: a / b),
        tensor.maximum: (lambda a, b: np.where(a > b, a, b), torch_word("maximum")),
        tensor.minimum: (lambda a, b: np.where(a < b, a, b), torch_word("minimum")),
    }
    pairs = [(A, B), (A, ROW), (ROW, A), (COLUMN, ROW), (CUBE, CUBE[:, :1] * 0.5), (EMPTY, ROW)]
    for op, (formula, word) in two.items():
        for pair in pairs:
            yield Sample(op, pair, formula, word)
        if op not in (tensor.maximum, tensor.minimum):  # which PyTorch has for tensors alone
            yield Sample(op, (A, 2.5), formula, word)
            yield Sample(op, (2.5, A), formula, word)
    for a, b in [(POSITIVE, B), (POSITIVE, ROW), (A, 3), (A, 2.0), (A, 1), (A, 0), (POSITIVE, 0.5)]:
        yield Sample(tensor.pow_, (a, b), np.power, lambda a, b: a**b)
    for a, b in [(A, -2), (2.0, A), (EMPTY, 2)]:
        yield Sample(tensor.pow_, (a, b), np.power, lambda a, b: a**b)
    yield Sample(tensor.neg, (A,), lambda a: 0 - a, lambda a: -a)


def one_at_a_time() -> Iterator[Sample]:
    one = {
        tensor.exp: (A, lambda a: math.e**a),
        tensor.log: (POSITIVE, np.log),
        tensor.sqrt: (POSITIVE, lambda a: a**0.5),
        tensor.abs_: (A, lambda a: np.where(a < 0, -a, a)),
        tensor.sin: (A, np.sin),
        tensor.cos: (A, np.cos),
        tensor.tanh: (A, lambda a: 1 - 2 / (np.exp(2 * a) + 1)),
        tensor.copy: (A, lambda a: a),
    }
    for op, (points, formula) in one.items():
        word = torch_word({"copy": "clone"}.get(op.__name__, op.__name__.strip("_")))
        for x in (points, points.reshape(3, 2)[0, 0], EMPTY):
            yield Sample(op, (np.asarray(x),), formula, word)
    limits = [(-1, 1), (-1.0, None), (None, 0.5), (-0.6 * POSITIVE, ROW**2), (ROW - 1, ROW)]
    for low, high in limits:
        yield Sample(tensor.clip, (A, low, high), np.clip, torch_word("clip"))
    yield Sample(tensor.clip, (EMPTY, -1, 1), np.clip, torch_word("clip"))
    condition = np.array([[True, False, True], [False, False, True]])
    for a, b in [(A, B), (A, ROW), (COLUMN, A), (A, 0.0), (1.0, A)]:
        yield Sample(tensor.where, (condition, a, b), np.where, torch_word("where"))
    yield Sample(tensor.astype, (A,), lambda a, dtype: a, None, {"dtype": np.dtype(np.float64)})


def constants() -> Iterator[Sample]:
    """The ops that are declared to have no gradient."""
    compare = [("equal", "eq"), ("not_equal", "ne"), ("less", "lt"), ("less_equal", "le")]
    compare += [("greater", "gt"), ("greater_equal", "ge")]
    for name, word in compare:
        pair = (A.round(), B.round())
        yield constant(getattr(tensor, name), pair, getattr(np, name), torch_word(word))
    for name in ("logical_and", "logical_or"):
        yield constant(getattr(tensor, name), (A > 0, B > 0), getattr(np, name), torch_word(name))
    yield constant(tensor.logical_not, (A > 0,), lambda a: ~a, torch_word("logical_not"))
    yield constant(tensor.sign, (A,), lambda a: a / np.abs(a), torch_word("sign"))
    for params in ({}, {"axis": 1}, {"axis": 0, "keepdims": True}):
        for name in ("any", "all"):
            op = getattr(tensor, f"{name}_")
            yield constant(op, (A > 0,), getattr(np, name), reducing(name), params)
        for name in ("argmax", "argmin"):
            yield constant(getattr(tensor, name), (A,), getattr(np, name), reducing(name), params)


def reductions() -> Iterator[Sample]:
    ways: list[dict[str, Any]] = [{}, {"axis": 0}, {"axis": -1}, {"axis": 1, "keepdims": True}]
    many: list[dict[str, Any]] = [{"axis": (0, 2)}, {"axis": (-1, 0), "keepdims": True}]
    for name, word in [("sum", "sum"), ("mean", "mean"), ("max", "amax"), ("min", "amin")]:
        op = getattr(tensor, name if name == "mean" else f"{name}_")
        for params in ways + many:
            yield Sample(op, (CUBE,), getattr(np, name), reducing(word), params)
        yield Sample(op, (np.array(1.5),), getattr(np, name), reducing(word))
    for op, formula, word in [(tensor.sum_, np.sum, "sum"), (tensor.mean, np.mean, "mean")]:
        yield Sample(op, (EMPTY,), formula, reducing(word), {"axis": 1})
    yield Sample(tensor.sum_, (EMPTY,), np.sum, reducing("sum"), {"axis": 0})
    yield Sample(tensor.max_, (EMPTY,), np.max, reducing("amax"), {"axis": 1})

    def variance(a, axis=None, keepdims=False, correction=0):
        return np.var(a, axis=axis, keepdims=keepdims, ddof=correction)

    def torch_variance(a, axis=None, keepdims=False, correction=0):
        return a.var(dim=axis, keepdim=keepdims, correction=correction)

    for params in [*ways, *many, {"correction": 1}, {"axis": 1, "correction": 1}]:
        yield Sample(tensor.var, (CUBE,), variance, torch_variance, params)
    with_zeros = A * np.array([[1, 0, 1], [0, 1, 0]])
    for params in ways:
        for x in (A, with_zeros, CUBE[:1]):
            yield Sample(tensor.prod, (x,), np.prod, reducing("prod"), params)
    yield Sample(tensor.prod, (CUBE,), np.prod, None, {"axis": (0, 2)})
    yield Sample(tensor.prod, (EMPTY,), np.prod, reducing("prod"), {"axis": 1})
    for axis in (0, 1, -1):
        word = torch_word("cumsum", axis)
        yield Sample(tensor.cumsum, (CUBE,), np.cumsum, word, {"axis": axis})
    yield Sample(tensor.cumsum, (A,), np.cumsum, lambda a: a.flatten().cumsum(0))
    yield Sample(tensor.cumsum, (EMPTY,), np.cumsum, torch_word("cumsum", 0), {"axis": 0})


def shapes() -> Iterator[Sample]:
    for shape in [(4, 6), (-1,), (2, 1, 12)]:
        word = torch_word("reshape", shape)
        yield Sample(tensor.reshape, (CUBE,), np.reshape, word, {"shape": shape})
    word = torch_word("reshape", (3, 0))
    yield Sample(tensor.reshape, (EMPTY,), np.reshape, word, {"shape": (3, 0)})
    for axes in [(1, 2, 0), (2, 0, 1), (-1, 0, 1), None]:
        word = torch_word("permute", axes or (2, 1, 0))
        yield Sample(tensor.permute, (CUBE,), np.transpose, word, {"axes": axes})
    for axis0, axis1 in [(0, 1), (-1, 0), (1, 1)]:
        params, word = {"axis0": axis0, "axis1": axis1}, torch_word("swapaxes", axis0, axis1)
        formula = lambda a, axis0, axis1: np.swapaxes(a, axis0, axis1)  # noqa: E731
        yield Sample(tensor.swapaxes, (CUBE,), formula, word, params)
    for x, shape in [(ROW, (2, 3)), (COLUMN, (4, 2, 3)), (A, (2, 3)), (ROW, (0, 3))]:
        word = torch_word("broadcast_to", shape)
        yield Sample(tensor.broadcast_to, (x,), np.broadcast_to, word, {"shape": shape})


def parts() -> Iterator[Sample]:
    twice = np.array([1, 0, 1, 1])
    keys = [0, -1, slice(1, None), (slice(None), 1), (..., 2), (None, 1), twice]
    keys += [(slice(None), twice), CUBE[:, 0, 0] > 0, CUBE > 0, (twice, twice, twice)]
    keys += [slice(None, None, -1), slice(0, 0), (0, 1, 2)]
    for key in keys:
        part = {"key": key}
        backwards = isinstance(key, slice) and key.step == -1  # which PyTorch refuses
        word = None if backwards else (lambda a, key: a[key])
        yield Sample(tensor.getitem, (CUBE,), lambda a, key: a[key], word, part)
        value = np.linspace(1, 2, CUBE[key].size).reshape(CUBE[key].shape)
        yield Sample(tensor.scatter_add, (value,), added_at, None, {**part, "shape": CUBE.shape})
    writes = [(0, 5.0), (slice(1, None), CUBE[:1] * 2), ((..., 2), CUBE[0, :, 0]), (1, CUBE[:1])]
    for key, value in writes:
        yield Sample(tensor.put, (CUBE, value), written, written_by_torch, {"key": key})
    for axis in (0, 1, -1):
        arrays = tuple(np.swapaxes(normal(n, 3, 3), 0, axis) for n in (2, 1, 0, 4))
        yield Sample(tensor.concatenate, arrays, joined, joined_by_torch, {"axis": axis})


def joined(*arrays, axis):
    return np.concatenate(arrays, axis)


def joined_by_torch(*arrays, axis):
    return torch_of(*arrays).cat(arrays, axis)


def added_at(a, key, shape):
    out = np.zeros(shape)
    np.add.at(out, key, a)
    return out


def written(a, value, key):
    out = np.array(a)
    out[key] = value
    return out


def written_by_torch(a, value, key):
    out = a.clone()
    out[key] = value
    return out


def matrices() -> Iterator[Sample]:
    pairs = [((2, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,)), ((5, 2, 3), (3, 4))]
    pairs += [((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((5, 1, 2, 3), (4, 3, 2))]
    pairs += [((5, 2, 3), (3,)), ((3,), (5, 3, 4))]
    pairs += [((0, 3), (3, 4)), ((2, 0), (0, 4)), ((5, 0, 3), (3, 2))]
    for left, right in pairs:
        inputs = normal(*left), normal(*right)
        yield Sample(tensor.matmul, inputs, np.matmul, torch_word("matmul"))
    sums: list[tuple[str, tuple]] = [("ij,jk->ik", ((2, 3), (3, 4))), ("ij,jk", ((2, 3), (3, 4)))]
    sums += [("bij,bjk->bik", ((2, 3, 4), (2, 4, 2))), ("ij,jk->ik", ((0, 3), (3, 4)))]
    sums += [("bhqd,bhkd->bhqk", ((2, 2, 3, 2), (2, 2, 4, 2))), ("i,j->ij", ((2,), (3,)))]
    sums += [("ij->ji", ((2, 3),)), ("ij->", ((2, 3),)), ("ij->j", ((2, 3),)), ("ii->i", ((3, 3),))]
    sums += [("ii->", ((3, 3),)), ("iji->j", ((3, 2, 3),)), ("ij,ij->", ((2, 3), (2, 3)))]
    sums += [("...ij,...jk->...ik", ((2, 2, 3), (2, 3, 2))), ("...i,i->...", ((2, 4, 3), (3,)))]
    sums += [("i,i,i->", ((3,), (3,), (3,))), ("ij,jk,kl->il", ((2, 3), (3, 2), (2, 2)))]
    sums += [("i,j->i", ((2,), (3,))), ("ij,ij->ij", ((1, 3), (2, 3)))]
    for subscripts, all_shapes in sums:
        inputs = (subscripts, *(normal(*shape) for shape in all_shapes))
        yield Sample(tensor.einsum, inputs, np.einsum, torch_word("einsum", first_is_method=False))


def of_networks() -> Iterator[Sample]:
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    bends = {
        activations.relu: lambda x: np.where(x > 0, x, 0),
        activations.sigmoid: sigmoid,
        activations.silu: lambda x: x * sigmoid(x),
        activations.gelu: lambda x: x * sigmoid(1.5957691216057308 * (x + 0.044715 * x**3)),
        activations.leaky_relu: lambda x: np.where(x > 0, x, 0.01 * x),
    }
    for op, formula in bends.items():
        fixed = {"approximate": "tanh"} if op is activations.gelu else {}
        word = functional(op.__name__, **fixed)
        for x in (A, CUBE[:, :, 1::2], EMPTY):
            yield Sample(op, (x,), formula, word)
    yield Sample(
        activations.leaky_relu,
        (A,),
        lambda x, negative_slope: np.where(x > 0, x, 0.3 * x),
        functional("leaky_relu"),
        {"negative_slope": 0.3},
    )

    def softmax(x, axis=-1):
        return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)

    for axis in (-1, 0, 1):
        params = {} if axis == -1 else {"axis": axis}
        for x in (A, CUBE, EMPTY):
            if x.shape[axis] == 0:
                continue
            word = functional("softmax", dim=axis, without=("axis",))
            yield Sample(activations.softmax, (x,), softmax, word, params)
            word = functional("log_softmax", dim=axis, without=("axis",))
            formula = lambda x, axis=-1: np.log(softmax(x, axis))  # noqa: E731
            yield Sample(activations.log_softmax, (x,), formula, word, params)

    def linear(x, weight, bias=0):
        return x @ weight + bias

    for shape in [(4, 3), (2, 4, 3), (3,), (0, 3)]:
        for bias in [(), (normal(2),)]:
            word = lambda x, weight, *bias: x @ weight + sum(bias)  # noqa: E731
            yield Sample(layers.linear, (normal(*shape), normal(3, 2), *bias), linear, word)
    yield from cross_entropies()


def cross_entropies() -> Iterator[Sample]:
    def formula(
        logits, targets, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
    ):
        classes = logits.shape[1]
        logits = np.moveaxis(logits, 1, -1).reshape(-1, classes)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        weight = np.ones(classes) if weight is None else weight
        rows, total = [], 0.0
        for p, target in zip(probabilities, targets.reshape(-1), strict=True):
            t = np.full(classes, label_smoothing / classes)
            t[target] += 1 - label_smoothing
            counts = target != ignore_index
            rows.append(-(counts * weight * t * np.log(p)).sum())
            total += counts * weight[target]
        if reduction == "none":
            return np.reshape(rows, targets.shape)
        return sum(rows) / (total if reduction == "mean" else 1)

    targets = np.array([2, 0, 1, 2])
    weight = np.array([0.5, 2.0, 1.0], np.float32)
    ways: list[dict[str, Any]] = [{}, {"reduction": "sum"}, {"reduction": "none"}]
    ways += [
        {"weight": weight},
        {"label_smoothing": 0.2},
        {"ignore_index": 1},
        {"ignore_index": 0, "weight": weight},
    ]
    ways += [{"weight": weight, "label_smoothing": 0.1, "ignore_index": 2, "reduction": "none"}]
    for params in ways:
        inputs = normal(4, 3), targets
        yield Sample(losses.cross_entropy, inputs, formula, torch_cross_entropy, params)
    images = normal(2, 3, 4), random.integers(0, 3, (2, 4))
    for params in ({}, {"reduction": "none"}, {"weight": weight}):
        yield Sample(losses.cross_entropy, images, formula, torch_cross_entropy, params)


def of_images() -> Iterator[Sample]:
    ways: list[dict[str, Any]] = [{}, {"stride": 2}, {"padding": 1}]
    ways += [{"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}]
    for how in ways:
        x, weight, bias = normal(2, 2, 5, 4), normal(2, 2, 3, 2), normal(2)
        kernel, size = {"kernel_size": (3, 2), **how}, {"size": (5, 4), **how}
        columns = normal(*columns_of(x, **kernel).shape)
        yield Sample(spatial.unfold, (x,), columns_of, functional("unfold"), kernel)
        word = functional("fold", output_size=(5, 4), without=("size",))
        yield Sample(spatial.fold, (columns,), folded, word, {**kernel, "size": (5, 4)})
        y = normal(*correlated(x, weight, **how).shape)
        yield Sample(spatial.conv2d, (x, weight), correlated, functional("conv2d"), how)
        yield Sample(spatial.conv2d, (x, weight, bias), correlated, functional("conv2d"), how)
        yield Sample(spatial.conv_transpose2d, (y, weight, bias), spread, None, size)
        yield Sample(spatial.conv2d_weight, (x, y), weighed, None, kernel)
    x, y, weight = normal(2, 4, 3, 3), normal(2, 2, 2, 2), normal(2, 2, 2, 2)
    hands = {"groups": 2}
    yield Sample(spatial.conv2d, (x, weight), correlated, functional("conv2d"), hands)
    word = functional("conv_transpose2d", without=("size",))
    yield Sample(spatial.conv_transpose2d, (y, weight), spread, word, {"size": None, **hands})
    yield Sample(spatial.conv2d_weight, (x, y), weighed, None, {"kernel_size": 2, **hands})
    yield Sample(spatial.conv2d, (x[:0], weight), correlated, functional("conv2d"), hands)
    yield from poolings()


def poolings() -> Iterator[Sample]:
    image = random.permutation(np.linspace(-2.0, 2.0, 40)).reshape(2, 1, 5, 4)
    ways: list[dict[str, Any]] = [{"kernel_size": 2}, {"kernel_size": (3, 2), "stride": 1}]
    ways += [{"kernel_size": 3, "stride": 2, "padding": 1}]
    for how in ways:
        for op, reduce, fill in [
            (spatial.max_pool2d, np.max, -np.inf),
            (spatial.avg_pool2d, np.mean, 0),
        ]:
            formula = pooled(reduce, fill)
            yield Sample(op, (image,), formula, functional(op.__name__), how)
    for x in (normal(4, 2), normal(2, 2, 3), normal(2, 2, 2, 2)):
        yield Sample(spatial.batch_norm, (x, normal(2), normal(2)), normalised, torch_batch_norm)
        yield Sample(spatial.batch_norm, (x,), normalised, torch_batch_norm, {"eps": 0.1})


def windows_of(x, kernel_size, stride=1, padding=0, dilation=1, fill=0.0):
    """The windows of images one by one, (N, C, KH, KW, OH, OW): slowly, by the definition."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (
        n if isinstance(n, tuple) else (n, n) for n in (kernel_size, stride, padding, dilation)
    )
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=fill)
    rows = range(0, x.shape[2] - dh * (kh - 1), sh)
    columns = range(0, x.shape[3] - dw * (kw - 1), sw)
    lines = [[x[:, :, h : h + dh * kh : dh, w : w + dw * kw : dw] for w in columns] for h in rows]
    cut = [[window[:, :, :kh, :kw] for window in line] for line in lines]
    return np.stack([np.stack(line, axis=-1) for line in cut], axis=-2)


def columns_of(x, **how):
    windows = windows_of(x, **how)
    return windows.reshape(len(x), math.prod(windows.shape[1:4]), -1)


def correlated(x, weight, bias=None, groups=1, **how):
    parts = np.split(windows_of(x, kernel_size=weight.shape[2:], **how), groups, axis=1)
    hands = np.split(weight, groups)
    y = [np.einsum("ncijhw,ocij->nohw", *pair) for pair in zip(parts, hands, strict=True)]
    return np.concatenate(y, axis=1) + (0 if bias is None else bias[:, None, None])


def transposed(function, shape, y):
    """What the transpose of a linear function of an array of `shape` makes of `y`."""
    unit = np.eye(math.prod(shape)).reshape(-1, *shape)
    return np.array([(function(one) * y).sum() for one in unit]).reshape(shape)


def folded(columns, size, kernel_size, **how):
    def unfolded(x):
        return columns_of(x, kernel_size=kernel_size, **how)

    area = math.prod(kernel_size)
    return transposed(unfolded, (len(columns), columns.shape[1] // area, *size), columns)


def spread(y, weight, bias=None, size=None, groups=1, **how):
    size = size or tuple(n + k - 1 for n, k in zip(y.shape[2:], weight.shape[2:], strict=True))
    shape = (len(y), weight.shape[1] * groups, *size)
    x = transposed(lambda x: correlated(x, weight, groups=groups, **how), shape, y)
    return x + (0 if bias is None else bias[:, None, None])


def weighed(x, y, kernel_size, groups=1, **how):
    kernel = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    shape = (y.shape[1], x.shape[1] // groups, *kernel)
    return transposed(lambda weight: correlated(x, weight, groups=groups, **how), shape, y)


def pooled(reduce, fill):
    def formula(x, kernel_size, stride=None, padding=0):
        stride = kernel_size if stride is None else stride
        windows = windows_of(x, kernel_size, stride, padding, fill=fill)
        return reduce(windows, axis=(2, 3))

    return formula


def normalised(x, weight=None, bias=None, eps=1e-5):
    axes = (0, *range(2, x.ndim))
    along = (-1, *(1,) * (x.ndim - 2))
    weight = 1 if weight is None else weight.reshape(along)
    bias = 0 if bias is None else bias.reshape(along)
    distance = x - x.mean(axis=axes, keepdims=True)
    return weight * distance / np.sqrt(x.var(axis=axes, keepdims=True) + eps) + bias


def torch_batch_norm(x, weight=None, bias=None, eps=1e-5):
    function = torch_of(x).nn.functional.batch_norm
    return function(x, None, None, weight, bias, training=True, eps=eps)


def of_sequences() -> Iterator[Sample]:
    """Two sequences of three steps; a mask ends the second after one, or begins it so late."""
    mask = np.array([[True, True], [True, False], [True, False]])[:, :, None]
    for params in ({}, {"mask": mask}, {"nonlinearity": "relu"}):
        inputs = (normal(3, 2, 2), normal(2, 2), normal(2, 2))
        yield Sample(recurrent.rnn_sequence, inputs, rnn_in_numpy, None, params)
    for params in ({}, {"mask": mask[::-1]}):
        inputs = (normal(3, 2, 8), normal(2, 2), normal(2, 2), normal(2, 8))
        yield Sample(recurrent.lstm_sequence, inputs, lstm_in_numpy, None, params)
        for bias in [(), (normal(6),)]:
            inputs = (normal(3, 2, 6), normal(2, 2), normal(2, 6), *bias)
            yield Sample(recurrent.gru_sequence, inputs, gru_in_numpy, None, params)


def rnn_in_numpy(projected, h, weight, mask=None, nonlinearity="tanh"):
    bend = np.tanh if nonlinearity == "tanh" else lambda x: x * (x > 0)
    states = []
    for t, p in enumerate(projected):
        h = np.where(True if mask is None else mask[t], bend(p + h @ weight), h)
        states.append(h)
    return np.array(states)


def lstm_in_numpy(projected, h, c, weight, mask=None):
    parts = []
    for t, p in enumerate(projected):
        live = True if mask is None else mask[t]
        sums = np.split(p + h @ weight, 4, axis=-1)
        i, f, o = (1 / (1 + np.exp(-sums[k])) for k in (0, 1, 3))
        n = np.tanh(sums[2])
        after = f * c + i * n
        h, c = np.where(live, o * np.tanh(after), h), np.where(live, after, c)
        parts.append([h, c, i, f, n, o])
    return np.array(parts).swapaxes(0, 1)


def gru_in_numpy(projected, h, weight, bias=0.0, mask=None):
    parts = []
    for t, p in enumerate(projected):
        memory = np.split(h @ weight + bias, 3, axis=-1)
        p = np.split(p, 3, axis=-1)
        r, z = (1 / (1 + np.exp(-p[k] - memory[k])) for k in (0, 1))
        n = np.tanh(p[2] + r * memory[2])
        h = np.where(True if mask is None else mask[t], (1 - z) * n + z * h, h)
        parts.append([h, r, z, n, memory[2]])
    return np.array(parts).swapaxes(0, 1)


def integers() -> Iterator[Sample]:
    x, weight = (random.integers(-128, 128, shape).astype(np.int8) for shape in ((4, 3), (3, 2)))

    def formula(x, weight, scale, x_zero_point, weight_zero_point):
        return scale * ((x.astype(int) - x_zero_point) @ (weight.astype(int) - weight_zero_point))

    params = {"scale": 0.5, "x_zero_point": 3, "weight_zero_point": -2}
    yield constant(quantization.int8_linear, (x, weight), formula, None, params)

    layer = kernels.Int8Linear(weight, 1.0, input_grid=(1.0, 128, 0, 255))
    whole = random.integers(-9, 9, (5, 3)).astype(np.float32)

    def product(x, layer):
        return x @ weight

    yield constant(kernels.accelerated_linear, (whole,), product, None, {"layer": layer})
    yield from integer_sums()


def integer_sums() -> Iterator[Sample]:
    """Of int8: less the zero point, times the weight."""

    def rows(x, weight, x_zero_point):
        return (x.astype(int) - x_zero_point) @ weight.astype(int)

    def images(x, weight, x_zero_point, **how):
        return correlated(x.astype(int) - x_zero_point, weight.astype(int), **how)

    shift = {"x_zero_point": -5}
    for shape in ((4, 3), (2, 1, 3)):
        x, weight = (random.integers(-128, 128, s).astype(np.int8) for s in (shape, (3, 2)))
        yield constant(static.linear_sums, (x, weight), rows, None, shift)
    for how in ({}, {"stride": 2, "padding": 1}, {"groups": 2}):
        shapes = (2, 4, 5, 4), (2, 4 // how.get("groups", 1), 3, 2)
        x, weight = (random.integers(-128, 128, s).astype(np.int8) for s in shapes)
        yield constant(static.conv2d_sums, (x, weight), images, None, {**shift, **how})


def rounded() -> Iterator[Sample]:
    """With scales that float32 holds, as it does one over them."""

    def formula(x, scale, zero_point, lowest, highest, axis=None, grad_factor=1.0):
        if axis is not None:
            along = tuple(-1 if i == axis else 1 for i in range(x.ndim))
            scale, zero_point = np.reshape(scale, along), np.reshape(zero_point, along)
        marks = np.clip(np.rint(x / scale) + zero_point, lowest, highest)
        return (marks - zero_point) * scale

    def torch_fake_quantize(x, scale, zero_point, lowest, highest):
        return torch_of(x).fake_quantize_per_tensor_affine(x, scale, zero_point, lowest, highest)

    limits = {"lowest": -3, "highest": 4}
    for x in (A, CUBE, EMPTY):
        yield Sample(qat.fake_quantize, (x, 0.5, 2), formula, torch_fake_quantize, limits)
    scale, zero_point = np.array([0.25, 0.5, 0.125]), np.array([0.0, -1.0, 2.0])
    params = {**limits, "axis": 1, "grad_factor": 0.5}
    yield Sample(qat.fake_quantize, (A, scale, zero_point), formula, None, params)


def rounded_on_the_way() -> Iterator[Sample]:
    """Rows from -100/16 to 155/16: a step of 1/16 by any grid, so that float32 rounds nothing."""

    def formula(x, weight, scale, per="tensor"):
        step = 1 / 16
        return (np.rint(x / step) * step) @ (weight * scale)

    weight = random.integers(-127, 128, (5, 2)).astype(np.int8)
    scale = np.array([0.5, 0.25], np.float32)
    for shape in ((4, 5), (5,), (2, 3, 5), (0, 5)):
        x = (random.integers(-400, 621, shape) / 64).astype(np.float32)
        x[..., :2] = -100 / 16, 155 / 16
        for per in ("tensor", "row"):
            yield constant(dynamic.dynamic_matmul, (x, weight, scale), formula, None, {"per": per})


def of_texts() -> Iterator[Sample]:
    def rows(ids, weight, padding_idx=None):
        return np.eye(len(weight))[ids] @ weight  # one-hot vectors

    def torch_rows(ids, weight, **params):
        ids = torch_of(weight).tensor(ids)
        return torch_of(weight).nn.functional.embedding(ids, weight, **params)

    def added(rows, ids, count):
        one_hot = np.eye(count)[ids].reshape(-1, count)
        return one_hot.T @ rows.reshape(-1, rows.shape[-1])

    def turned(x, cos, sin):
        first, second = np.split(x, 2, axis=-1)
        z = (first + 1j * second) * (cos + 1j * sin)
        return np.concatenate([z.real, z.imag], axis=-1)

    weight = normal(4, 3)
    for ids in ([2, 0, 2], [[1, 1], [3, 0]], 3, np.zeros((2, 0), int)):
        ids = np.array(ids)
        yield Sample(embeddings.embedding, (ids, weight), rows, torch_rows)
        inputs = normal(*ids.shape, 3), ids
        yield Sample(embeddings.scatter_rows, inputs, added, None, {"count": 4})
    for shape, angles in [((4,), (2,)), ((2, 3, 4), (3, 2)), ((0, 2), (1,))]:
        inputs = normal(*shape), normal(*angles), normal(*angles)
        yield Sample(embeddings.rotate_pairs, inputs, turned)


def of_transformers() -> Iterator[Sample]:
    """Attention with every kind of mask, one row of which hides everything, and the norms."""
    hidden = np.array([[True, False, True], [False, False, False]])
    q, k, v = normal(2, 2, 3), normal(2, 3, 3), normal(2, 3, 2)
    for mask in (None, hidden, np.where(hidden, 0.5, -1.0)):
        inputs = (q, k) if mask is None else (q, k, mask)
        for params in ({}, {"is_causal": True}, {"scale": 0.3}):
            yield Sample(attention.attention_weights, inputs, weights_by_loop, None, params)
    blocked = attention.blocked_attention
    for mask, causal in ((None, False), (None, True), (hidden, False), (hidden, True)):
        for block_size in (1, 2, 8):
            params = {"is_causal": causal, "block_size": block_size}
            inputs = (q, k, v) if mask is None else (q, k, v, mask)
            yield Sample(blocked, inputs, mixtures_by_loop, None, params)
    shared = (normal(2, 1, 2, 2), normal(3, 2), normal(1, 3, 1))  # leading axes broadcast
    yield Sample(attention.attention_weights, shared[:2], weights_by_loop)
    yield Sample(blocked, shared, mixtures_by_loop)

    def normalised(x, weight=1.0, bias=0.0, eps=1e-5):
        variance = x.var(axis=-1, keepdims=True)
        return weight * (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + eps) + bias

    def torch_norm(x, weight=None, bias=None, eps=1e-5):
        function = torch_of(x).nn.functional.layer_norm
        return function(x, x.shape[-1:], weight, bias, eps)

    def by_root_mean_square(x, weight=1.0, eps=1e-6):
        return weight * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)

    def torch_rms_norm(x, weight=None, eps=1e-6):
        return torch_of(x).nn.functional.rms_norm(x, x.shape[-1:], weight, eps)

    x, weight, bias = normal(2, 3, 4), normal(4), normal(4)
    for inputs in ((x,), (x, weight), (x, weight, bias), (normal(4),), (normal(0, 4), weight)):
        yield Sample(transformer.layer_norm, inputs, normalised, torch_norm)
        yield Sample(transformer.rms_norm, inputs[:2], by_root_mean_square, torch_rms_norm)


def weights_by_loop(q, k, mask=None, is_causal=False, scale=None):
    """Attention weights, one query after another, by the definition."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    q, k = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (q, k))
    out = np.zeros((*lead, q.shape[-2], k.shape[-2]))
    for place in np.ndindex(*lead, q.shape[-2]):
        seen = np.ones(k.shape[-2], bool)
        scores = k[place[:-1]] @ q[place] * scale
        if mask is not None and mask.dtype == bool:
            seen = mask[place[-1]].copy()
        elif mask is not None:
            scores = scores + mask[place[-1]]
        if is_causal:
            seen[place[-1] + 1 :] = False
        powers = np.exp(scores) * seen
        out[place] = powers / (powers.sum() or 1)
    return out


def mixtures_by_loop(q, k, v, mask=None, is_causal=False, scale=None, block_size=128):
    """The mixtures of the values, and the logarithm of each softmax's sum."""
    weights = weights_by_loop(q, k, mask, is_causal, scale)
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    sums = (np.exp(scores) * (weights > 0)).sum(axis=-1, keepdims=True)
    mixtures = weights @ v
    logs = np.log(np.where(sums > 0, sums, 1))
    return np.concatenate([mixtures, np.broadcast_to(logs, (*mixtures.shape[:-1], 1))], axis=-1)


# --- PyTorch's words; torch itself is found from its tensors, so that nothing here imports it ---
def torch_of(*values: Any) -> Any:
    """The module `torch`, for somebody who holds one of its tensors."""
    return importlib.import_module(next(type(x).__module__ for x in values if hasattr(x, "detach")))


def torch_word(word: str, *fixed: Any, first_is_method: bool = True) -> Callable:
    return lambda *inputs, **_: getattr(torch_of(*inputs), word)(*inputs, *fixed)


def reducing(word: str) -> Callable:
    def call(a, axis=None, keepdims=False):
        if axis is None and word in ("any", "all", "prod"):
            return getattr(a, word)()
        if axis is None and word in ("amax", "amin"):
            axis = tuple(range(a.ndim))
        return getattr(a, word)(dim=axis, keepdim=keepdims)

    return call


def functional(word: str, without: tuple[str, ...] = (), **fixed: Any) -> Callable:
    def call(*inputs, **params):
        params = {key: value for key, value in params.items() if key not in without}
        return getattr(torch_of(*inputs).nn.functional, word)(*inputs, **params, **fixed)

    return call


def torch_cross_entropy(logits, targets, weight=None, **params):
    torch = torch_of(logits)
    weight = None if weight is None else torch.tensor(weight, dtype=logits.dtype)
    return torch.nn.functional.cross_entropy(logits, targets, weight, **params)


def constant(
    op: Callable, inputs: tuple, numpy: Callable, torch: Callable | None, params=None
) -> Sample:
    return Sample(op, inputs, numpy, torch, params or {}, differentiable=False)


SAMPLES = list(samples())

# ops whose rule is no derivative, on purpose: what differences give is no use, and not compared
STRAIGHT_THROUGH = {
    qat.fake_quantize: "a staircase is flat or jumps: its rules are a straight line's and LSQ's",
}

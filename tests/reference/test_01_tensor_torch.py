"""Tensors against PyTorch: the same names, arguments, shapes, values and defaults."""

import copy
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference tests compare with PyTorch")

from tinytorch.core import tensor as ours  # noqa: E402
from tinytorch.core.tensor import Tensor  # noqa: E402

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
Y = RANDOM.standard_normal((3, 1)).astype(np.float32)


def same(got, expected, dtypes=True):
    expected = expected.resolve_neg().numpy()
    assert got.shape == expected.shape
    if dtypes:
        assert got.dtype == expected.dtype
    np.testing.assert_allclose(got.data, expected, rtol=2e-6, atol=1e-6)


# one text, read once with our tensors and once with PyTorch's
EXPRESSIONS = """
x + y
1 - x
2 / x
x.abs() ** 1.5
2 ** x
-x
x @ x.transpose(1, 2)
x @ x[0].T
x[0] @ x[1, 0]
x < y
x == x
(x > 0) & (y > 0)
(x > 0) | (y > 0)
~(x > 0)
(x > 0).any(dim=1)
(x > 0).all(dim=-1, keepdims=True)
x.exp()
x.abs().log()
x.abs().sqrt()
x.sign()
x.sin()
x.cos()
x.tanh()
x.clip(-0.5, 0.5)
x.clip(0.25)
x.sum()
x.sum(1)
x.sum(dim=(0, 2), keepdims=True)
x.mean()
x.mean(dim=-1)
x.var(dim=1, correction=0)
x.var(dim=(0, 1), correction=1)
x.var(dim=0, correction=1, keepdims=True)
x.std(dim=2, correction=1)
x.prod()
x.prod(dim=1)
x.argmax()
x.argmax(dim=1)
x.argmin(dim=-1, keepdims=True)
x.cumsum(dim=1)
(x > 0).sum()
x.reshape(6, -1)
x.view(4, 6)
x.flatten()
x.flatten(1)
x.flatten(start_dim=-2)
x.permute(2, 0, 1)
x.transpose(0, 2)
x.swapaxes(0, 1)
x.squeeze()
x[:, :1].squeeze(1)
x.squeeze(1)
x.unsqueeze(0)
x.unsqueeze(-1)
y.expand(3, 4)
y.expand(2, -1, 5)
x[0]
x[..., -1]
x[:, 1:, ::2]
x[None, 0]
x[x > 0]
x[[1, 0]]
x[[0, 1], [2, 0]]
x.int()[0] if hasattr(x, "int") else x.astype(np.int32)[0]
""".strip().splitlines()


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_same_words_same_numbers(text):
    names = {"np": np}
    got = eval(text, names | {"x": Tensor(X), "y": Tensor(Y)})
    same(got, eval(text, names | {"x": torch.tensor(X), "y": torch.tensor(Y)}))


def test_min_and_max_give_values():
    for axis in (None, 0, 1, (0, 2)):
        same(Tensor(X).max(axis), torch.amax(torch.tensor(X), () if axis is None else axis))
        same(Tensor(X).min(axis), torch.amin(torch.tensor(X), () if axis is None else axis))


def test_functions():
    x, y = Tensor(X), Tensor(Y)
    p, q = torch.tensor(X), torch.tensor(Y)
    same(ours.where(x > 0, x, y), torch.where(p > 0, p, q))
    same(ours.maximum(x, y), torch.maximum(p, q))
    same(ours.minimum(x, y), torch.minimum(p, q))
    same(ours.concat([x, x], dim=1), torch.cat([p, p], dim=1))
    same(ours.stack([x, x], dim=-1), torch.stack([p, p], dim=-1))
    same(ours.einsum("bij,bkj->bik", x, x), torch.einsum("bij,bkj->bik", p, p))
    same(ours.scatter_add(x, key=np.array([1, 1]), shape=(3, 3, 4)),
         torch.zeros(3, 3, 4).index_add(0, torch.tensor([1, 1]), p))  # fmt: skip
    for size in (1, 2, 3, [1, 2]):
        pairs = zip(x.split(size, dim=1), p.split(size, dim=1), strict=True)
        for piece, expected in pairs:
            same(piece, expected)


@pytest.mark.parametrize("axis", range(-4, 4))
def test_axes_that_exist_and_axes_that_do_not(axis):
    for name in ("sum", "argmax", "squeeze", "unsqueeze", "flatten", "cumsum"):
        try:
            expected = getattr(torch.tensor(X), name)(axis)
        except IndexError:
            with pytest.raises(IndexError, match="axis"):
                getattr(Tensor(X), name)(axis)
        else:
            same(getattr(Tensor(X), name)(axis), expected)


def test_matmul_takes_what_pytorch_takes():
    shapes = [(), (3,), (2,), (2, 3), (3, 2), (4, 2, 3), (4, 3, 2), (5, 1, 3, 2), (0, 3), (3, 0)]
    for a, b in itertools.product(shapes, repeat=2):
        a, b = RANDOM.standard_normal(a), RANDOM.standard_normal(b)
        p, q = torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32)
        try:
            expected = p @ q
        except RuntimeError:
            with pytest.raises(ValueError, match="matmul: "):
                Tensor(a) @ Tensor(b)
        else:
            same(Tensor(a) @ Tensor(b), expected)


FLOATS = [np.float16, np.float32, np.float64]
ALL = [np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64, *FLOATS]


@pytest.mark.parametrize("dtype", ALL)
def test_dtypes_with_a_number(dtype):
    array = np.array([1, 2]).astype(dtype)
    x, p = Tensor(array, dtype=dtype), torch.tensor(array)
    for action in (lambda t: t * 2, lambda t: 2 + t, lambda t: t * 0.5, lambda t: t / 2):
        same(action(x), action(p))
    for name in ("exp", "sqrt", "tanh"):
        same(getattr(x, name)(), getattr(p, name)())


@pytest.mark.parametrize("dtype", FLOATS)
def test_reductions_keep_floats(dtype):
    x, p = Tensor(X, dtype=dtype), torch.tensor(X.astype(dtype))
    for name in ("sum", "mean", "prod", "argmax"):
        got, expected = getattr(x, name)(dim=1), getattr(p, name)(dim=1)
        assert got.dtype == expected.numpy().dtype
        np.testing.assert_allclose(got.data, expected.numpy(), rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("data", [1, 0.5, [1, 2], [[1, 2], [3, 4]], [], True, [True, False]])
def test_constructor_takes_lists_as_torch_tensor_class_does(data):
    got = Tensor(data)
    expected = torch.tensor(data)
    assert got.shape == tuple(expected.shape)
    assert got.tolist() == expected.tolist()


def test_in_place_and_copies():
    x, p = Tensor(X), torch.tensor(X)
    for t in (x, p):
        t[0] += 1
        t[:, 1] *= 2
        t[t > 1] = 0
        t[..., -1] = t[..., 0]
        t[[1, 0], 0] = t[[0, 1], 2]
        t /= 4
    same(x, p)
    same(copy.deepcopy(x), p)
    same(x.clone(), p)
    same(x.detach(), p)


def test_nan_and_infinity():
    data = [float("nan"), float("inf"), -float("inf"), 0.0]
    x, p = Tensor(data), torch.tensor(data)
    for name in ("exp", "tanh", "abs", "sum", "prod", "argmax"):
        same(getattr(x, name)(), getattr(p, name)())
    with np.errstate(invalid="ignore"):
        same(x.clip(-1, 1), p.clip(-1, 1))
        same(ours.maximum(x, 0.5), torch.maximum(p, torch.tensor(0.5)))

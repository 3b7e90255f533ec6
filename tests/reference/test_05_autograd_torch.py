"""Every op against PyTorch: values, gradients, second derivatives; and backward's manners."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference tests compare with PyTorch")

from ops import SAMPLES, is_point  # noqa: E402

from tinytorch.core import losses, tensor  # noqa: E402
from tinytorch.core.autograd import grad, gradcheck, hessian, jacobian, no_grad  # noqa: E402
from tinytorch.core.tensor import Tensor  # noqa: E402

known = [sample for sample in SAMPLES if sample.torch is not None]


def for_torch(x, dtype=torch.float64):
    """An input of a sample, in PyTorch."""
    if isinstance(x, np.ndarray):
        array = torch.tensor(np.ascontiguousarray(x).reshape(x.shape))
        return array.to(dtype).requires_grad_() if is_point(x) else array
    return x


def torch_call(sample):
    inputs = [for_torch(x) for x in sample.inputs]
    leaves = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
    return leaves, sample.torch(*inputs, **sample.params)


@pytest.mark.parametrize("sample", known, ids=str)
def test_values_and_gradients(sample):
    leaves, expected = torch_call(sample)
    ours = sample.leaves()
    inputs = iter(ours)
    out = sample.op(
        *(next(inputs) if is_point(x) else wrap(x) for x in sample.inputs), **sample.params
    )
    np.testing.assert_allclose(out.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    if not sample.differentiable:
        return
    weights = np.linspace(0.5, 1.5, out.size).reshape(out.shape)
    theirs = torch.autograd.grad(
        expected, leaves, torch.tensor(weights), create_graph=True, allow_unused=True
    )
    answers = grad(out, ours, weights, create_graph=True)
    for answer, other in zip(answers, theirs, strict=True):
        np.testing.assert_allclose(answer.numpy(), other.detach().numpy(), rtol=1e-9, atol=1e-11)
    second = sum(torch.sin(g * x).sum() for g, x in zip(theirs, leaves, strict=True))
    theirs = torch.autograd.grad(second, leaves)
    second = sum(tensor.sin(g * x).sum() for g, x in zip(answers, ours, strict=True))
    for answer, other in zip(grad(second, ours), theirs, strict=True):
        np.testing.assert_allclose(answer.numpy(), other.numpy(), rtol=1e-8, atol=1e-10)


def wrap(x):
    """Arrays that are no points go in as tensors where PyTorch has tensors."""
    return Tensor(x, dtype=x.dtype) if isinstance(x, np.ndarray) else x


# no single function of PyTorch does the same; what is built of them is compared in files of its own
NOT_COMPARED_HERE = {
    *("astype", "scatter_add", "int8_linear", "conv2d_weight", "scatter_rows", "rotate_pairs"),
    *("rnn_sequence", "lstm_sequence", "gru_sequence", "attention_weights", "blocked_attention"),
    *("linear_sums", "conv2d_sums", "dynamic_matmul", "accelerated_linear"),
}


def test_the_table_is_compared_almost_whole():
    compared = {sample.op.__name__ for sample in known}
    assert {s.op.__name__ for s in SAMPLES} - compared == NOT_COMPARED_HERE


@pytest.mark.parametrize(
    "name, x, y",
    [
        ("maximum", [1.0, 2.0], [1.0, 3.0]),
        ("minimum", [1.0, 2.0], [1.0, 3.0]),
        ("relu", [0.0, -0.0, 1.0], None),
        ("abs", [0.0, -1.0], None),
        ("amax", [2.0, 3.0, 3.0], None),
        ("amin", [2.0, 2.0, 3.0], None),
        ("clamp", [-1.0, 0.0, 1.0, 2.0], None),
        ("prod", [0.0, 2.0, 0.0], None),
        ("pow", [0.0, 2.0], [0.0, 3.0]),
    ],
)
def test_kinks_ties_and_zeros(name, x, y):
    from tinytorch.core.activations import relu

    ours = {
        "relu": relu,
        "abs": tensor.abs_,
        "amax": tensor.max_,
        "amin": tensor.min_,
        "clamp": lambda x: x.clip(-1, 1),
        "prod": tensor.prod,
        "pow": lambda x, y: x**y,
        "maximum": tensor.maximum,
        "minimum": tensor.minimum,
    }[name]
    their = (lambda x: x.clamp(-1, 1)) if name == "clamp" else getattr(torch, name)
    points = [point for point in (x, y) if point is not None]
    a = [Tensor(point, requires_grad=True) for point in points]
    b = [torch.tensor(point, requires_grad=True) for point in points]
    ours(*a).sum().backward()
    their(*b).sum().backward()
    for mine, other in zip(a, b, strict=True):
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy())


def test_jacobian_and_hessian():
    def ours(x):
        return tensor.tanh(x[:2] * x[1:]).sum() + (x**3).mean()

    def theirs(x):
        return torch.tanh(x[:2] * x[1:]).sum() + (x**3).mean()

    x = np.array([0.3, -0.8, 1.2])
    got = hessian(ours, Tensor(x, dtype=np.float64)).numpy()
    expected = torch.autograd.functional.hessian(theirs, torch.tensor(x)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)

    matrix = np.arange(6.0).reshape(2, 3)
    got = jacobian(lambda x: (x @ x.T).exp() / 1e5, Tensor(matrix, dtype=np.float64)).numpy()
    expected = torch.autograd.functional.jacobian(
        lambda x: (x @ x.T).exp() / 1e5, torch.tensor(matrix)
    )
    assert got.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-10)


def test_a_network_step_by_step():
    """Ten steps of plain gradient descent end at the same weights."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((16, 6)), random.integers(0, 3, 16)
    shapes = [(6, 8), (8,), (8, 3), (3,)]
    start = [0.5 * random.standard_normal(shape) for shape in shapes]
    ours = [Tensor(p, requires_grad=True, dtype=np.float64) for p in start]
    theirs = [torch.tensor(p, requires_grad=True) for p in start]
    for _ in range(10):
        hidden = tensor.tanh(Tensor(x, dtype=np.float64) @ ours[0] + ours[1])
        losses.cross_entropy(hidden @ ours[2] + ours[3], y).backward()
        hidden = torch.tanh(torch.tensor(x) @ theirs[0] + theirs[1])
        torch.nn.functional.cross_entropy(
            hidden @ theirs[2] + theirs[3], torch.tensor(y)
        ).backward()
        with no_grad(), torch.no_grad():
            for p, q in zip(ours, theirs, strict=True):
                p -= 0.3 * p.grad
                q -= 0.3 * q.grad
                p.grad = q.grad = None
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape, gradient", [((), None), ((3,), np.ones(3)), ((1,), None)])
def test_gradcheck_agrees_with_pytorch_s(shape, gradient):
    x = np.full(shape, 0.7)
    assert gradcheck(lambda x: x.exp() * x, x)
    assert torch.autograd.gradcheck(lambda x: x.exp() * x, torch.tensor(x, requires_grad=True))

"""Recurrent layers and cells against PyTorch's: values, states, gradients, names."""

import numpy as np
import pytest

from tinytorch import nn
from tinytorch.core.autograd import grad
from tinytorch.core.tensor import Tensor, manual_seed

torch = pytest.importorskip("torch", reason="compares with PyTorch")

KINDS = ["RNN", "LSTM", "GRU"]
random = np.random.default_rng(0)


def pair(kind, *sizes, **options):
    """Ours and PyTorch's, with PyTorch's weights, transposed."""
    ours, theirs = getattr(nn, kind)(*sizes, **options), getattr(torch.nn, kind)(*sizes, **options)
    ours.load_state_dict({name: t.detach().numpy().T for name, t in theirs.state_dict().items()})
    return ours, theirs


def states_of(last):
    return list(last) if isinstance(last, tuple) else [last]


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-4, atol=2e-6)


def assert_same_gradients(ours, theirs):
    theirs = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = theirs[name].grad.numpy().T
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-4, atol=2e-5)


def loss(output, last):
    return (output * output).sum() + sum((state * state * state).sum() for state in states_of(last))


OPTIONS = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"bidirectional": True},
    {"batch_first": True},
    {"num_layers": 3, "bidirectional": True, "batch_first": True},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("lengths", [None, [6, 2, 4], [1, 6, 1]])
@pytest.mark.parametrize("size", [5, 32])
def test_layers(kind, options, lengths, size):
    ours, theirs = pair(kind, 4, size, **options)
    first = options.get("batch_first", False)
    x = random.standard_normal((3, 6, 4) if first else (6, 3, 4)).astype(np.float32)
    a, b = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    directions = 2 if options.get("bidirectional") else 1
    shape = (options.get("num_layers", 1) * directions, 3, size)
    start = [random.standard_normal(shape).astype(np.float32) for _ in range(1 + (kind == "LSTM"))]
    starts_a = [Tensor(s, requires_grad=True) for s in start]
    starts_b = [torch.tensor(s, requires_grad=True) for s in start]
    output, last = ours(a, tuple(starts_a) if kind == "LSTM" else starts_a[0], lengths=lengths)
    given = tuple(starts_b) if kind == "LSTM" else starts_b[0]
    if lengths is None:
        expected, expected_last = theirs(b, given)
    else:
        rnn = torch.nn.utils.rnn
        packed = rnn.pack_padded_sequence(b, lengths, batch_first=first, enforce_sorted=False)
        expected, expected_last = theirs(packed, given)
        expected, _ = rnn.pad_packed_sequence(expected, batch_first=first)
    assert_close(output, expected)
    for state, wanted in zip(states_of(last), states_of(expected_last), strict=True):
        assert_close(state, wanted)
    loss(output, last).backward()
    loss(expected, expected_last).backward()
    assert_same_gradients(ours, theirs)
    for mine, wanted in zip([a, *starts_a], [b, *starts_b], strict=True):
        np.testing.assert_allclose(mine.grad.numpy(), wanted.grad.numpy(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_a_batch(kind):
    ours, theirs = pair(kind, 4, 5, num_layers=2)
    x = random.standard_normal((6, 4)).astype(np.float32)
    output, last = ours(Tensor(x))
    expected, expected_last = theirs(torch.tensor(x))
    assert_close(output, expected)
    for state, wanted in zip(states_of(last), states_of(expected_last), strict=True):
        assert_close(state, wanted)


def test_relu():
    ours, theirs = pair("RNN", 4, 5, nonlinearity="relu", num_layers=2)
    x = random.standard_normal((6, 3, 4)).astype(np.float32)
    output, last = ours(Tensor(x))
    expected, expected_last = theirs(torch.tensor(x))
    assert_close(output, expected)
    loss(output, last).backward()
    loss(expected, expected_last).backward()
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (4,)])
def test_cells(kind, bias, shape):
    ours, theirs = pair(f"{kind}Cell", 4, 5, bias=bias)
    x = random.standard_normal(shape).astype(np.float32)
    state = expected = None
    for _ in range(2):
        state, expected = ours(Tensor(x), state), theirs(torch.tensor(x), expected)
    for mine, wanted in zip(states_of(state), states_of(expected), strict=True):
        assert_close(mine, wanted)
    sum(s.sum() for s in states_of(state)).backward()
    sum(s.sum() for s in states_of(expected)).backward()
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind):
    """The gradient of the squared gradient, by the recurrent weights."""
    ours, theirs = pair(kind, 3, 4)
    x = random.standard_normal((4, 2, 3)).astype(np.float32)
    output, _ = ours(Tensor(x))
    first = grad((output * output).sum(), ours.weight_hh_l0, create_graph=True)
    second = grad((first * first).sum(), ours.weight_hh_l0)
    weight = theirs.weight_hh_l0
    with torch.backends.mkldnn.flags(enabled=False):
        expected, _ = theirs(torch.tensor(x))
        [g] = torch.autograd.grad((expected * expected).sum(), weight, create_graph=True)
        [h] = torch.autograd.grad((g * g).sum(), weight)
    np.testing.assert_allclose(second.numpy(), h.numpy().T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_start(kind):
    manual_seed(0)
    torch.manual_seed(0)
    ours = getattr(nn, kind)(40, 400, num_layers=2, bidirectional=True)
    theirs = getattr(torch.nn, kind)(40, 400, num_layers=2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    grid = np.linspace(0, 1, 11)
    for name, tensor in ours.state_dict().items():
        a, b = tensor.numpy(), theirs.state_dict()[name].numpy()
        assert a.shape == b.T.shape
        np.testing.assert_allclose(np.quantile(a, grid), np.quantile(b, grid), atol=0.01)
    assert repr(ours) == repr(theirs)

"""Observers and fusing against torch.ao.quantization.

Its symmetric scheme is our "symmetric_full". Not compared: its zero points of unsigned symmetric
grids other than uint8's, which are (qmin + qmax) // 2 for given limits (7 for 4 bits, ours is 8),
and 128 even where reduce_range ends the grid at 127; its HistogramObserver for fewer bits, which
searches with 256 levels all the same.
"""

import numpy as np
import pytest

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Flatten, Linear, Sequential
from tinytorch.core.spatial import BatchNorm1d, BatchNorm2d, Conv2d
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
    fuse,
)

torch = pytest.importorskip("torch", reason="compares with PyTorch")
ao = pytest.importorskip("torch.ao.quantization", reason="compares with PyTorch's observers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

random = np.random.default_rng(22)


def growing(kind):
    """Four batches of float32, each with a wider range than the last."""
    batches = []
    for size in range(1, 5):
        x = random.standard_normal((64, 100)) * size
        if kind == "relu":
            x = np.maximum(x, 0)
        elif kind == "heavy":
            x = x**3
        elif kind == "negative":
            x = -np.abs(x) - 1
        elif kind == "outlier" and size == 3:
            x[0, 0] = 1000.0
        elif kind == "uniform":
            x = random.uniform(-size, 2 * size, x.shape)
        elif kind == "narrow":
            x = 100 + x / 1000
        batches.append(x.astype(np.float32))
    return batches


RANDOM = ["normal", "relu", "heavy", "negative", "outlier", "uniform", "narrow"]
EDGES = {
    "zeros": [[0.0, 0.0]],
    "constant": [[0.3, 0.3], [0.3]],
    "negative constant": [[-7.5, -7.5]],
    "constants that differ": [[0.5, 0.5], [2.0], [-1.0]],
    "one outlier": [[*np.linspace(-1, 1, 500), 300.0]],
    "tiny": [[1e-9, -2e-9, 5e-10]],
    "tiny and not": [[1e-9], [1.0, 2.0]],
    "negative only": [[-3.0, -2.0, -1.0], [-5.0, -2.0]],
    "positive only": [[3.0, 2.0, 1.0], [5.0, 0.5]],
    "single element": [[2.5]],
    "single elements": [[2.5], [-1.5], [0.25], [7.0]],
    "an empty batch": [[1.0, 2.0], [], [3.0]],
    "large": [[-1e38, 1.5e38]],
    "0-d": [0.75],
}
GRIDS = [(signed, scheme) for signed in (True, False) for scheme in ("affine", "symmetric_full")]


def data(name):
    if name in EDGES:
        return [np.array(batch, np.float32) for batch in EDGES[name]]
    return growing(name)


def both(ours, theirs, batches):
    """(scale, zero point) of both after the same batches."""
    for batch in batches:
        ours.observe(Tensor(batch))
        if batch.size:
            theirs(torch.tensor(batch))
    scale, zero_point = theirs.calculate_qparams()
    return ours.calculate_qparams(), (scale.double().numpy(), zero_point.numpy())


def grid_of_pytorch(signed, scheme, per="tensor"):
    kind = "affine" if scheme == "affine" else "symmetric"
    dtype = torch.qint8 if signed else torch.quint8
    return dict(dtype=dtype, qscheme=getattr(torch, f"per_{per}_{kind}"))


def assert_same(got, expected):
    np.testing.assert_allclose(got[0], np.squeeze(expected[0]), rtol=1e-6, atol=0)
    np.testing.assert_array_equal(got[1], np.squeeze(expected[1]))


@pytest.mark.parametrize("signed, scheme", GRIDS)
@pytest.mark.parametrize("name", [*RANDOM, *EDGES])
def test_min_max_and_moving_average(name, signed, scheme):
    theirs = grid_of_pytorch(signed, scheme)
    batches = data(name)
    ours = MinMaxObserver(signed=signed, scheme=scheme)
    assert_same(*both(ours, ao.MinMaxObserver(**theirs), batches))
    for constant in (0.01, 0.3):
        ours = MovingAverageMinMaxObserver(constant, signed=signed, scheme=scheme)
        other = ao.MovingAverageMinMaxObserver(averaging_constant=constant, **theirs)
        assert_same(*both(ours, other, batches))


@pytest.mark.parametrize("signed, scheme", GRIDS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_per_channel(axis, signed, scheme):
    sizes = np.geomspace(1e-9, 100, 6)
    batches = [
        (random.standard_normal((6, 6, 6)) * sizes + offset).astype(np.float32)
        for offset in (0, 1, -3)
    ]
    batches[0][0] = 0.0
    ours = PerChannelMinMaxObserver(axis, signed=signed, scheme=scheme)
    theirs = grid_of_pytorch(signed, scheme, per="channel")
    assert_same(*both(ours, ao.PerChannelMinMaxObserver(ch_axis=axis, **theirs), batches[:1]))
    ours = PerChannelMinMaxObserver(axis, signed=signed, scheme=scheme)
    assert_same(*both(ours, ao.PerChannelMinMaxObserver(ch_axis=axis, **theirs), batches))


@pytest.mark.parametrize("bits", range(2, 17))
def test_any_number_of_bits(bits):
    limits = dict(quant_min=-(2 ** (bits - 1)), quant_max=2 ** (bits - 1) - 1)
    dtype = torch.qint8 if bits <= 8 else torch.qint32
    for scheme in ("affine", "symmetric_full"):
        theirs = grid_of_pytorch(True, scheme) | limits | dict(dtype=dtype)
        ours = MinMaxObserver(bits=bits, scheme=scheme)
        assert_same(*both(ours, ao.MinMaxObserver(**theirs), growing("normal")))
    if bits <= 8:
        theirs = grid_of_pytorch(False, "affine") | dict(quant_min=0, quant_max=2**bits - 1)
        ours = MinMaxObserver(bits=bits, signed=False)
        assert_same(*both(ours, ao.MinMaxObserver(**theirs), growing("normal")))


@pytest.mark.parametrize("signed, scheme", GRIDS[:3])
def test_reduce_range(signed, scheme):
    theirs = grid_of_pytorch(signed, scheme) | dict(reduce_range=True)
    for ours, other in (
        (MinMaxObserver, ao.MinMaxObserver),
        (MovingAverageMinMaxObserver, ao.MovingAverageMinMaxObserver),
    ):
        observer = ours(signed=signed, scheme=scheme, reduce_range=True)
        assert_same(*both(observer, other(**theirs), growing("outlier")))


def assert_near(got, expected):
    """The histogram's tolerance: 2e-3 of the scale, one step of the zero point."""
    assert got[0] == pytest.approx(expected[0].item(), rel=2e-3)
    assert abs(got[1] - expected[1].item()) <= 1


@pytest.mark.parametrize("signed, scheme", GRIDS)
@pytest.mark.parametrize("name", RANDOM)
def test_histogram(name, signed, scheme):
    theirs = ao.HistogramObserver(**grid_of_pytorch(signed, scheme))
    assert_near(*both(HistogramObserver(signed=signed, scheme=scheme), theirs, data(name)))


@pytest.mark.parametrize("name", [name for name in EDGES if name != "large"])
def test_histogram_of_few_numbers(name):
    """With a dozen numbers PyTorch's search makes 100,000 steps in Python: one grid is enough.

    The cubes of large numbers overflow in its float32.
    """
    theirs = ao.HistogramObserver(**grid_of_pytorch(True, "affine"))
    assert_near(*both(HistogramObserver(), theirs, data(name)))


def test_a_histogram_of_several_batches_has_the_same_counts():
    ours, theirs = HistogramObserver(), ao.HistogramObserver()
    both(ours, theirs, growing("normal"))
    difference = np.abs(ours.counts - theirs.histogram.numpy())
    assert difference.sum() < 1e-3 * ours.counts.sum()  # numbers that lie on an edge
    assert ours.ends == (theirs.min_val.item(), theirs.max_val.item())


def copied(ours, theirs):
    """Our weights and running statistics in PyTorch's layer."""
    for name, tensor in ours.state_dict().items():
        value = tensor.data.T if isinstance(ours, Linear) else tensor.data
        getattr(theirs, name).data = torch.tensor(np.ascontiguousarray(value))
    return theirs


@pytest.mark.parametrize("bias", [True, False])
def test_fuse(bias):
    nn = torch.nn
    layers = [
        *(Conv2d(3, 8, 3, padding=1, bias=bias), BatchNorm2d(8), ReLU()),
        *(Conv2d(8, 8, 3, stride=2, bias=bias), BatchNorm2d(8)),
        *(Flatten(), Linear(72, 10, bias=bias), BatchNorm1d(10), Linear(10, 5), ReLU()),
    ]
    for layer in layers:
        if isinstance(layer, BatchNorm1d | BatchNorm2d):
            for tensor in (*layer.parameters(), *layer.buffers()):
                tensor.data[...] = random.uniform(0.5, 2.0, tensor.shape)
    model = Sequential(layers).eval()
    theirs = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, stride=2, bias=bias), nn.BatchNorm2d(8)),
        *(nn.Flatten(), nn.Linear(72, 10, bias=bias), nn.BatchNorm1d(10)),
        *(nn.Linear(10, 5), nn.ReLU()),
    )
    for ours, other in zip(model, theirs, strict=True):
        if hasattr(ours, "state_dict"):
            copied(ours, other)
    pairs = [["0", "1", "2"], ["3", "4"], ["6", "7"], ["8", "9"]]
    theirs = ao.fuse_modules(theirs.eval(), pairs)
    x = random.standard_normal((4, 3, 8, 8)).astype(np.float32)
    fused = fuse(model, Tensor(x))
    with no_grad(), torch.no_grad():
        y = fused(Tensor(x))
        np.testing.assert_allclose(y.data, theirs(torch.tensor(x)).numpy(), atol=1e-5)
    first, second, third = fused[0].layer, fused[3], fused[6]
    for ours, other in ((first, theirs[0][0]), (second, theirs[3]), (third, theirs[6])):
        weight = other.weight.detach().numpy()
        weight = weight.T if isinstance(ours, Linear) else weight
        np.testing.assert_allclose(ours.weight.data, weight, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            ours.bias.data, other.bias.detach().numpy(), rtol=1e-5, atol=1e-5
        )
    assert type(theirs[0]).__name__ == "ConvReLU2d"

"""Dynamic quantisation against PyTorch's kernels (FBGEMM), on the same int8 weights.

Both choose the grid of x anew, multiply integers exactly and scale in float32, so that results are
equal but for the rounding of the last operations. Two things differ, and are tested: FBGEMM lets no
scale fall below 6.1e-5 (ours: 2^-23), and torch.ao's embedding needs no 0 on its grid.
"""

import numpy as np
import pytest

from tinytorch.core.layers import Linear, Sequential
from tinytorch.core.recurrent import LSTM
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.optimization.dynamic import (
    DynamicQuantizedLinear,
    QuantizedEmbedding,
    QuantizedLSTM,
    quantize_dynamic,
)
from tinytorch.text.embeddings import Embedding

torch = pytest.importorskip("torch", reason="compares with PyTorch")
if "fbgemm" not in torch.backends.quantized.supported_engines:
    pytest.skip("needs PyTorch's FBGEMM", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")  # torch.ao announces that it will move

random = np.random.default_rng(32)
START = random.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order(monkeypatch):
    random.bit_generator.state = START
    manual_seed(32)
    monkeypatch.setattr(torch.backends.quantized, "engine", "fbgemm")


def packed(weight, bias):
    """An Int8Weight as FBGEMM keeps one: rows are outputs there."""
    q = torch.tensor(weight.q.data.T.copy())
    scale = torch.tensor(weight.scale.data, dtype=torch.float64)
    zero_point = torch.zeros(len(scale), dtype=torch.long)
    q = torch._make_per_channel_quantized_tensor(q, scale, zero_point, 0)
    return torch.ops.quantized.linear_prepack(q, bias)


def normal(*shape):
    return random.standard_normal(shape).astype(np.float32)


K = 300
INPUTS = {
    "normal": lambda: normal(64, K),
    "after a ReLU": lambda: np.maximum(normal(64, K), 0),
    "three axes": lambda: normal(4, 6, K),
    "zeros": lambda: np.zeros((3, K), np.float32),
    "constant": lambda: np.full((3, K), 0.7, np.float32),
    "one outlier": lambda: np.where(np.arange(K) == 5, 1000, normal(4, K)).astype(np.float32),
    "negative only": lambda: -1 - np.abs(normal(8, K)),
    "positive only": lambda: 3 + np.abs(normal(8, K)),
    "tiny": lambda: 1e-9 * normal(8, K),
    "huge": lambda: 1e30 * normal(8, K),
    "one row": lambda: normal(1, K),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(name, bias):
    x = INPUTS[name]().astype(np.float32)
    layer = DynamicQuantizedLinear(Linear(K, 70, bias))
    theirs = torch.ops.quantized.linear_dynamic(
        torch.tensor(x),
        packed(layer.weight, torch.tensor(layer.bias.data) if bias else None),
        reduce_range=False,
    ).numpy()
    ours = layer(Tensor(x)).data
    largest = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=3e-7, atol=3e-7 * largest)


def test_a_single_element():
    for value in (-2.5, 0.0, 3.0):
        layer = DynamicQuantizedLinear(Linear(1, 1))
        weights = packed(layer.weight, torch.tensor(layer.bias.data))
        theirs = torch.ops.quantized.linear_dynamic(torch.tensor([[value]]), weights)
        ours = layer(Tensor([[value]]))
        np.testing.assert_allclose(ours.data, theirs.numpy(), rtol=3e-7)


def test_rows_are_batches_of_one():
    layer, x = DynamicQuantizedLinear(Linear(K, 70), per="row"), normal(12, K)
    weights = packed(layer.weight, torch.tensor(layer.bias.data))
    rows = [
        torch.ops.quantized.linear_dynamic(torch.tensor(x[i : i + 1]), weights) for i in range(12)
    ]
    np.testing.assert_allclose(layer(Tensor(x)).data, torch.cat(rows).numpy(), atol=1e-6)


def test_small_numbers_keep_more_here():
    """Around 1e-4, a scale of 6.1e-5 leaves three marks of 256."""
    linear, x = Linear(K, 70, bias=False), 1e-4 * normal(8, K)
    layer = DynamicQuantizedLinear(linear)
    theirs = torch.ops.quantized.linear_dynamic(torch.tensor(x), packed(layer.weight, None))
    exact = x.astype(float) @ linear.weight.data
    error = np.abs(layer(Tensor(x)).data - exact).max()
    assert np.abs(theirs.numpy() - exact).max() > 10 * error
    assert error < 0.02 * np.abs(exact).max()


def test_a_model_as_torch_ao_quantises_it():
    """Its weights are per tensor, over 127.5, and reduce_range leaves 7 bits: ours is nearer."""
    model = Sequential(Linear(64, 128), Linear(128, 10))
    twin = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Linear(128, 10))
    for layer, other in zip(model, twin, strict=True):
        other.weight.data = torch.tensor(layer.weight.data.T.copy())
        other.bias.data = torch.tensor(layer.bias.data)
    theirs = torch.ao.quantization.quantize_dynamic(twin, {torch.nn.Linear}, dtype=torch.qint8)
    x = normal(100, 64)
    exact, ours = model(Tensor(x)).data, quantize_dynamic(model)(Tensor(x)).data
    with torch.no_grad():
        their_error = np.abs(theirs(torch.tensor(x)).numpy() - exact)
    our_error = np.abs(ours - exact)
    assert our_error.mean() < their_error.mean()
    assert their_error.max() < 0.04 * np.abs(exact).max()
    assert np.abs(theirs(torch.tensor(x)).detach().numpy() - ours).max() < 0.05


def torch_twin(layer, reduce_range):
    """The cells of a QuantizedLSTM, in PyTorch's words."""
    cells = []
    for number in range(layer.num_layers):
        for direction in layer.directions:
            weights, biases = [], []
            for part in ("ih", "hh"):
                name = f"{part}_l{number}{direction}"
                biases.append(torch.tensor(getattr(layer, f"bias_{name}").data))
                weights.append(packed(getattr(layer, f"weight_{name}"), biases[-1]))
            make = torch.ops.quantized.make_quantized_cell_params_dynamic
            cells.append(make(*weights, *biases, reduce_range))
    return cells


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("steps", [1, 20])
def test_lstm(layers, bidirectional, steps):
    layer = QuantizedLSTM(LSTM(10, 32, num_layers=layers, bidirectional=bidirectional))
    x, sequences = normal(steps, 4, 10), layers * (1 + bidirectional)
    states = tuple(0.5 * normal(sequences, 4, 32) for _ in range(2))
    cells = torch_twin(layer, reduce_range=False)
    theirs = torch.quantized_lstm(
        *(torch.tensor(x), [torch.tensor(state) for state in states], cells),
        *(True, layers, 0.0, False, bidirectional, False),
        dtype=torch.qint8,
        use_dynamic=True,
    )
    output, (hidden, cell) = layer(Tensor(x), tuple(map(Tensor, states)))
    for got, right in zip((output, hidden, cell), theirs, strict=True):
        np.testing.assert_allclose(got.data, right.numpy(), atol=2e-6)


def test_lstm_as_torch_ao_quantises_it():
    """Its weights are per tensor and its inputs have 7 bits: ours is nearer to the floats."""
    lstm, x = LSTM(10, 32), normal(20, 4, 10)
    twin = torch.nn.Sequential(torch.nn.LSTM(10, 32))
    for name, parameter in lstm.named_parameters():
        getattr(twin[0], name).data = torch.tensor(parameter.data.T.copy())
    theirs = torch.ao.quantization.quantize_dynamic(twin, {torch.nn.LSTM}, dtype=torch.qint8)
    exact, got = lstm(Tensor(x))[0].data, QuantizedLSTM(lstm)(Tensor(x))[0].data
    assert type(theirs[0]) is torch.ao.nn.quantized.dynamic.LSTM
    error = np.abs(theirs(torch.tensor(x))[0].detach().numpy() - exact)
    assert np.abs(got - exact).mean() < error.mean()
    assert error.max() < 0.03


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_embedding(shift):
    """Each within half a step of the table; PyTorch's step is smaller where rows lie beside 0."""
    table = normal(50, 16) * np.geomspace(0.1, 10, 50)[:, None].astype(np.float32) + shift
    table = table.astype(np.float32)
    layer = QuantizedEmbedding(Embedding.from_pretrained(table))
    observer = torch.ao.quantization.PerChannelMinMaxObserver(
        dtype=torch.quint8, qscheme=torch.per_channel_affine_float_qparams, ch_axis=0
    )
    observer(torch.tensor(table))
    scale, zero_point = observer.calculate_qparams()
    q = torch.quantize_per_channel(torch.tensor(table), scale.double(), zero_point, 0, torch.quint8)
    ids = random.integers(0, 50, 200)
    theirs = torch.ops.quantized.embedding_byte(
        torch.ops.quantized.embedding_bag_prepack(q), torch.tensor(ids)
    ).numpy()
    ours, exact = layer(ids).data, table[ids]
    our_step, their_step = layer.scale.data[ids][:, None], scale.numpy()[ids][:, None]
    assert (np.abs(ours - exact) <= 0.501 * our_step).all()
    assert (np.abs(theirs - exact) <= 0.51 * their_step + 1e-6).all()
    assert (np.abs(ours - theirs) <= 0.52 * (our_step + their_step)).all()
    assert (our_step >= their_step * 0.999).all()

"""Module 21: steps, sequences, their rules, layers and cells."""

import copy
import pickle

import numpy as np
import pytest

from tinytorch.core.autograd import grad, gradcheck
from tinytorch.core.layers import Linear, Module
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.recurrent import (
    GRU,
    LSTM,
    RNN,
    GRUCell,
    LSTMCell,
    RNNCell,
    gru_sequence,
    gru_step,
    length_mask,
    lstm_sequence,
    lstm_step,
    rnn_sequence,
    rnn_step,
)
from tinytorch.core.tensor import Tensor, manual_seed, sin, stack, zeros
from tinytorch.profiling.profiler import flops_of

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
LAYERS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
CELLS = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell}
SEQUENCES = {"rnn": rnn_sequence, "lstm": lstm_sequence, "gru": gru_sequence}
every_kind = pytest.mark.parametrize("kind", LAYERS)


def normal(*shape, seed=21):
    return np.random.default_rng(seed).standard_normal(shape)


def inputs_of(kind, steps=3, batch=2, size=2, bias=True):
    """Random inputs of a sequence operation: projected, states, weight, and the GRU's bias."""
    width = GATES[kind] * size
    shapes = [(steps, batch, width), (batch, size), (size, width)]
    if kind == "lstm":
        shapes.insert(2, (batch, size))
    if kind == "gru" and bias:
        shapes.append((width,))
    return [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def tensors(arrays, **options):
    return [Tensor(x, dtype=np.float64, **options) for x in arrays]


def hidden_of(kind, out):
    """The hidden states in what a sequence operation returns."""
    return out if kind == "rnn" else out[0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_step(kind, projected, states, weight, bias=0.0):
    """One step in NumPy, as the papers write it."""
    h, *cell = states
    size = h.shape[-1]
    memory = h @ weight + bias
    if kind == "rnn":
        return [np.tanh(projected + memory)]
    if kind == "lstm":
        i, f, n, o = np.split(projected + memory, 4, axis=-1)
        c = sigmoid(f) * cell[0] + sigmoid(i) * np.tanh(n)
        return [sigmoid(o) * np.tanh(c), c]
    r, z = np.split(sigmoid((projected + memory)[..., : 2 * size]), 2, axis=-1)
    n = np.tanh(projected[..., 2 * size :] + r * memory[..., 2 * size :])
    return [(1 - z) * n + z * h]


def plain_sequence(kind, inputs, mask=None):
    """The states after each step, (states, T, B, H), by a loop in NumPy."""
    projected, *states = inputs[: 3 if kind == "lstm" else 2]
    weight, *bias = inputs[1 + len(states) :]
    rows = []
    for t, p in enumerate(projected):
        new = plain_step(kind, p, states, weight, *bias)
        live = True if mask is None else mask[t]
        states = [np.where(live, n, s) for n, s in zip(new, states, strict=True)]
        rows.append(states)
    return np.array(rows).swapaxes(0, 1)


MASKS = {
    "whole": None,
    "ends early": length_mask([3, 1], 3)[:, :, None],
    "starts late": length_mask([3, 1], 3)[::-1, :, None],
}
every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


# --- steps and sequences ---
@every_kind
def test_steps(kind):
    projected, *rest = inputs_of(kind)
    step = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}[kind]
    got = step(*tensors([projected[0], *rest]))
    states, after = (rest[:2], rest[2:]) if kind == "lstm" else (rest[:1], rest[1:])
    expected = plain_step(kind, projected[0], states, *after)
    for tensor, array in zip(got if kind == "lstm" else [got], expected, strict=True):
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-12)


def test_relu():
    step = rnn_step(Tensor([[-2.0, 1.0]]), zeros(1, 2), zeros(2, 2), "relu")
    assert step.tolist() == [[0.0, 1.0]]
    states = rnn_sequence(
        Tensor([[[-2.0]], [[3.0]]]), zeros(1, 1), zeros(1, 1), nonlinearity="relu"
    )
    assert states.tolist() == [[[0.0]], [[3.0]]]


@every_kind
@every_mask
@pytest.mark.parametrize("size", [2, 32, 33, 64])  # whole slabs of columns, and others
def test_sequences(kind, mask, size):
    inputs = inputs_of(kind, size=size)
    out = SEQUENCES[kind](*tensors(inputs), mask=mask).numpy()
    expected = plain_sequence(kind, inputs, mask)
    got = out[None] if kind == "rnn" else out[: len(expected)]
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


@every_kind
@every_mask
def test_rules_to_second_order(kind, mask):
    gradcheck(
        lambda *x: sin(SEQUENCES[kind](*x, mask=mask)), *inputs_of(kind), order=2, tolerance=1e-4
    )


def test_relu_rule():
    run = lambda *x: rnn_sequence(*x, nonlinearity="relu")  # noqa: E731
    gradcheck(run, *inputs_of("rnn"), order=2, tolerance=1e-4)


@every_kind
def test_rules_in_slabs(kind):
    """Sizes that are cut into slabs have the gradients of the unrolled loop."""
    inputs = inputs_of(kind, size=32)
    whole, steps = tensors(inputs, requires_grad=True), tensors(inputs, requires_grad=True)
    step = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}[kind]
    states, rest = (steps[1:3], steps[3:]) if kind == "lstm" else (steps[1:2], steps[2:])
    hidden = []
    for t in range(3):
        new = step(steps[0][t], *states, *rest)
        states = list(new) if kind == "lstm" else [new]
        hidden.append(states[0])
    weights = normal(3, 2, 32)
    stack(hidden).backward(weights)
    hidden_of(kind, SEQUENCES[kind](*whole)).backward(weights)
    for a, b in zip(whole, steps, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-12)


@every_kind
def test_an_empty_batch(kind):
    inputs = tensors(inputs_of(kind, batch=0), requires_grad=True)
    out = SEQUENCES[kind](*inputs)
    out.sum().backward()
    assert 0 in out.shape and not inputs[-1].grad.numpy().any()


@every_kind
def test_grad_clip_limits_every_state(kind):
    """A large gradient at the end goes back no larger than the limit; a small one is untouched."""
    inputs = inputs_of(kind, steps=6)

    def by_input(scale, **options):
        leaves = tensors(inputs, requires_grad=True)
        out = hidden_of(kind, SEQUENCES[kind](*leaves, **options))
        return grad(scale * out[-1].sum(), leaves[:2], allow_unused=True)[1].numpy()

    reach = 4 * np.abs(inputs[3 if kind == "lstm" else 2]).sum(axis=1).max() + 1  # of one step
    assert np.abs(by_input(1e12)).max() > 10 * reach
    assert np.abs(by_input(1e12, grad_clip=1.0)).max() < reach
    np.testing.assert_array_equal(by_input(1e-3), by_input(1e-3, grad_clip=1.0))


def test_grad_clip_in_numbers():
    leaf = Tensor(np.zeros((2, 1, 1)), requires_grad=True)
    out = rnn_sequence(leaf, zeros(1, 1), Tensor([[10.0]]), grad_clip=2.0)
    out.backward(np.array([[[0.5]], [[-7.0]]]))
    assert leaf.grad.tolist() == [[[-2.0]], [[-2.0]]]  # 0.5 - 20, limited


def test_flops():
    p, h, w = zeros(5, 2, 3), zeros(2, 3), zeros(3, 3)
    assert flops_of(rnn_sequence, (p, h, w), {}, zeros(5, 2, 3)) == 30 * (2 * 3 + 1) + 30


# --- lengths ---
def test_length_mask():
    assert length_mask([1, 3], 3).tolist() == [[True, True], [False, True], [False, True]]
    assert length_mask(np.array([2.0]), 2).all()


@pytest.mark.parametrize("lengths", [[0, 1], [1, 4], [1.5, 1], [[1, 2]], 2, [np.nan, 1]])
def test_impossible_lengths(lengths):
    with pytest.raises(ValueError, match="lengths: expected whole numbers from 1 to 3"):
        length_mask(lengths, 3)


# --- layers ---
def states_of(last):
    return list(last) if isinstance(last, tuple) else [last]


def expected_layers(kind, layer, x, lengths):
    """Outputs and final states of a layer, sequence by sequence, direction by direction."""
    outputs = np.zeros((*x.shape[:2], layer.hidden_size * len(layer.directions)))
    finals = []
    for b in range(x.shape[1]):
        rows, last = x[: lengths[b], b : b + 1], []
        for k in range(layer.num_layers):
            parts = []
            for name in layer.directions:
                ends = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                w_ih, w_hh, b_ih, b_hh = (
                    getattr(layer, f"{end}_l{k}{name}").numpy().astype(float) for end in ends
                )
                order = slice(None, None, -1 if name else None)
                start = [np.zeros((1, layer.hidden_size))] * (2 if kind == "lstm" else 1)
                states = plain_sequence(kind, [rows[order] @ w_ih + b_ih, *start, w_hh, b_hh])
                parts.append(states[0][order])
                last.append(states[:, -1, 0])
            rows = np.concatenate(parts, axis=-1)
        outputs[: lengths[b], b] = rows[:, 0]
        finals.append(last)
    return outputs, np.array(finals).transpose(2, 1, 0, 3)


@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_layers(kind, num_layers, bidirectional):
    manual_seed(0)
    layer = LAYERS[kind](3, 4, num_layers=num_layers, bidirectional=bidirectional)
    x = normal(5, 3, 3)
    for lengths in ([5, 5, 5], [2, 5, 1]):
        given = None if lengths == [5, 5, 5] else lengths
        output, last = layer(Tensor(x), lengths=given)
        expected, finals = expected_layers(kind, layer, x, lengths)
        np.testing.assert_allclose(output.numpy(), expected, atol=1e-5)
        for got, state in zip(states_of(last), finals, strict=True):
            np.testing.assert_allclose(got.numpy(), state, atol=1e-5)


@every_kind
def test_orders_of_axes(kind):
    layer = LAYERS[kind](3, 4, bidirectional=True)
    first = copy.deepcopy(layer)
    first.batch_first = True
    x = Tensor(normal(5, 2, 3))
    output, last = layer(x)
    other, other_last = first(x.swapaxes(0, 1))
    np.testing.assert_allclose(other.numpy().swapaxes(0, 1), output.numpy(), atol=1e-6)
    alone, alone_last = layer(x[:, 0])
    np.testing.assert_allclose(alone.numpy(), output.numpy()[:, 0], atol=1e-6)
    for a, b, c in zip(states_of(last), states_of(other_last), states_of(alone_last), strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), atol=1e-6)  # states keep their order
        np.testing.assert_allclose(c.numpy(), a.numpy()[:, 0], atol=1e-6)


@every_kind
def test_going_on_from_a_state(kind):
    layer = LAYERS[kind](3, 4, num_layers=2)
    x = Tensor(normal(6, 2, 3))
    whole, last = layer(x)
    first, state = layer(x[:2])
    second, end = layer(x[2:], state)
    np.testing.assert_allclose(first.numpy(), whole.numpy()[:2], atol=1e-6)
    np.testing.assert_allclose(second.numpy(), whole.numpy()[2:], atol=1e-6)
    for a, b in zip(states_of(end), states_of(last), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


@every_kind
def test_padding_is_never_looked_at(kind):
    """Not even NaN there reaches an output or a gradient."""
    layer = LAYERS[kind](3, 4, num_layers=2, bidirectional=True)
    clean = normal(5, 2, 3)
    clean[3:, 1] = 0
    dirty = clean.copy()
    dirty[3:, 1] = np.nan
    results = []
    for x in (clean, dirty):
        layer.zero_grad()
        x = Tensor(x, requires_grad=True)
        output, last = layer(x, lengths=[5, 3])
        (output.sum() + sum(state.sum() for state in states_of(last))).backward()
        results.append([output, *states_of(last), x.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert not results[0][0].numpy()[3:, 1].any()


@every_kind
def test_gradients_reach_every_parameter(kind):
    layer = LAYERS[kind](3, 4, num_layers=2, bidirectional=True)
    output, _ = layer(Tensor(normal(5, 2, 3)))
    (output * output).sum().backward()
    assert len(layer.parameters()) == 16
    for name, parameter in layer.named_parameters():
        assert np.abs(parameter.grad.numpy()).max() > 0, name


@every_kind
def test_without_biases(kind):
    layer = LAYERS[kind](3, 4, bias=False)
    assert list(layer.state_dict()) == ["weight_ih_l0", "weight_hh_l0"]
    output, last = layer(zeros(5, 2, 3))
    assert not output.numpy().any() and not states_of(last)[0].numpy().any()


@every_kind
def test_dropout_between_layers_in_training_only(kind):
    manual_seed(0)
    layer = LAYERS[kind](3, 4, num_layers=2, dropout=0.5)
    x = Tensor(normal(5, 2, 3))
    assert (layer(x)[0] != layer(x)[0]).any()
    layer.eval()
    assert (layer(x)[0] == layer(x)[0]).all()
    single = LAYERS[kind](3, 4, dropout=0.5)  # one layer has nothing between
    assert (single(x)[0] == single(x)[0]).all()


@every_kind
def test_start_and_shapes_of_the_parameters(kind):
    manual_seed(0)
    layer, gates = LAYERS[kind](50, 100, num_layers=2, bidirectional=True), GATES[kind]
    shapes = {name: tensor.shape for name, tensor in layer.named_parameters()}
    assert shapes["weight_ih_l0"] == (50, gates * 100)
    assert shapes["weight_ih_l1_reverse"] == (200, gates * 100)
    assert shapes["weight_hh_l1"] == (100, gates * 100)
    assert shapes["bias_hh_l0_reverse"] == (gates * 100,)
    every = np.concatenate([p.numpy().ravel() for p in layer.parameters()])
    assert np.abs(every).max() <= 0.1 and every.std() == pytest.approx(0.2 / np.sqrt(12), rel=0.02)


@every_kind
def test_layers_pickle_and_keep_float64(kind):
    layer = LAYERS[kind](3, 4)
    for parameter in layer.parameters():
        parameter.data = parameter.data.astype(np.float64)
    output, last = layer(Tensor(normal(5, 2, 3), dtype=np.float64))
    assert output.dtype == np.float64 and states_of(last)[0].dtype == np.float64
    again = pickle.loads(pickle.dumps(layer))(Tensor(normal(5, 2, 3), dtype=np.float64))[0]
    np.testing.assert_array_equal(again.numpy(), output.numpy())


def test_repr():
    assert repr(LSTM(3, 4)) == "LSTM(3, 4)"
    text = repr(RNN(3, 4, 2, nonlinearity="relu", batch_first=True, dropout=0.5))
    assert text == "RNN(3, 4, num_layers=2, batch_first=True, dropout=0.5, nonlinearity=relu)"
    assert repr(GRU(3, 4, bias=False, bidirectional=True, grad_clip=1.0)) == (
        "GRU(3, 4, bias=False, bidirectional=True, grad_clip=1.0)"
    )
    assert repr(GRUCell(3, 4, bias=False)) == "GRUCell(3, 4, bias=False)"


# --- bad input ---
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LSTM(0, 4), "LSTM: sizes and num_layers must be at least 1, got 0, 4, 1"),
        (lambda: GRU(3, 4, num_layers=0), "got 3, 4, 0"),
        (
            lambda: RNN(3, 4, nonlinearity="sin"),
            "RNN: nonlinearity must be tanh or relu, got 'sin'",
        ),
        (lambda: LSTM(3, 4, dropout=1.0), "p must be at least 0 and less than 1"),
        (lambda: LSTM(3, 4, grad_clip=0), "LSTM: grad_clip must be above 0, got 0"),
        (lambda: LSTMCell(3, 0), "LSTMCell: expected sizes of at least 1"),
        (lambda: RNNCell(3, 4, nonlinearity="sin"), "tanh or relu"),
        (lambda: LSTM(3, 4)(zeros(5, 2, 4)), r"expected x of shape \(T, B, 3\) or \(T, 3\), got"),
        (lambda: LSTM(3, 4, batch_first=True)(zeros(3)), r"expected x of shape \(B, T, 3\)"),
        (lambda: LSTM(3, 4)(zeros(0, 2, 3)), "LSTM: a sequence needs at least one step"),
        (lambda: GRU(3, 4, batch_first=True)(zeros(2, 0, 3)), "at least one step"),
        (lambda: GRU(3, 4)(zeros(5, 2, 3), zeros(1, 3, 4)), r"expected h_0 of \(1, 2, 4\), got"),
        (
            lambda: LSTM(3, 4)(zeros(5, 2, 3), (zeros(1, 2, 4), zeros(2, 2, 4))),
            r"LSTM: expected c_0 of \(1, 2, 4\), got \(2, 2, 4\)",
        ),
        (
            lambda: LSTM(3, 4)(zeros(5, 2, 3), zeros(1, 2, 4)),
            "LSTM: expected 2 states, h_0 and c_0",
        ),
        (lambda: RNN(3, 4)(zeros(5, 2, 3), lengths=[6, 1]), "whole numbers from 1 to 5"),
        (lambda: RNN(3, 4)(zeros(5, 2, 3), lengths=[5]), "one for each of 2 sequences"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- cells ---
@every_kind
def test_cells_are_layers_of_one_step(kind):
    manual_seed(0)
    cell, layer = CELLS[kind](3, 4), LAYERS[kind](3, 4)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x = Tensor(normal(5, 2, 3))
    state = None
    for t in range(5):
        state = cell(x[t], state)
    expected = states_of(layer(x)[1])
    for got, wanted in zip(states_of(state), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), wanted.numpy()[0], atol=1e-6)
    alone = states_of(cell(x[0, 0]))[0]
    np.testing.assert_allclose(alone.numpy(), states_of(cell(x[0]))[0].numpy()[0], atol=1e-6)


@every_kind
def test_cells_train(kind):
    cell = CELLS[kind](3, 4, bias=False)
    states_of(cell(Tensor(normal(2, 3))))[0].sum().backward()
    assert np.abs(cell.weight_ih.grad.numpy()).max() > 0


# --- learning ---
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_learns_to_remember_the_first_step(kind):
    """Which of 3 signs came first, 6 steps of noise ago."""

    class Model(Module):
        def __init__(self):
            self.reader, self.head = LAYERS[kind](4, 16), Linear(16, 3)

        def forward(self, x):
            return self.head(self.reader(x)[0][-1])

    manual_seed(0)
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 60)
    x = 0.1 * random.standard_normal((7, 60, 4))
    x[0, np.arange(60), labels] += 1
    model = Model()
    optimizer = Adam(model.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        CrossEntropyLoss()(model(Tensor(x)), Tensor(labels)).backward()
        optimizer.step()
    assert (model(Tensor(x)).numpy().argmax(axis=1) == labels).mean() > 0.95

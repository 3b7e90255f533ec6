"""Module 11: rows for ids and back, positions added and turned, tied weights."""

import copy

import numpy as np
import pytest

from tinytorch.core.autograd import grad, gradcheck
from tinytorch.core.layers import Linear, Sequential
from tinytorch.core.optimizers import SGD
from tinytorch.core.tensor import Tensor, manual_seed, randn
from tinytorch.text.embeddings import (
    Embedding,
    EmbeddingLayer,
    LearnedPositions,
    RotaryPositions,
    SinusoidalPositions,
    TiedLinear,
    checked_ids,
    embedding,
    position_angles,
    rotate_pairs,
    rows_at,
    scatter_rows,
    sinusoidal_positions,
)

random = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seed():
    manual_seed(0)


# --- ids ---
@pytest.mark.parametrize(
    "ids",
    [
        *([2, 0], [[2.0], [0.0]], 1, np.array(1), np.array([2, 0], np.uint8)),
        *(Tensor([2, 0]), Tensor(np.array([[2, 0]])), [Tensor([1]).item()], []),
    ],
)
def test_whole_numbers_are_ids(ids):
    found = checked_ids(ids, 3)
    assert found.dtype.kind in "iu" or found.size == 0
    np.testing.assert_array_equal(found, np.asarray(ids))
    assert embedding(ids, Tensor(np.eye(3))).shape == (*np.shape(ids), 3)


@pytest.mark.parametrize("ids", [[3], [0, -1], [[1], [7]], Tensor([5]), np.array(-3), [2**40]])
def test_ids_out_of_range(ids):
    wrong = next(int(i) for i in np.asarray(ids).reshape(-1) if not 0 <= i < 3)
    for ask in (lambda: embedding(ids, Tensor(np.eye(3))), lambda: Embedding(3, 2)(ids)):
        with pytest.raises(IndexError, match=f"id {wrong} is not among 0 to 2"):
            ask()


def test_small_integers_do_not_overflow():
    ids = np.array([200, 255, 200], np.uint8)
    assert checked_ids(ids, 256).dtype == np.int64
    table = scatter_rows(Tensor(np.ones((3, 3))), ids, count=256)
    assert table.data.sum(axis=1).nonzero()[0].tolist() == [200, 255]
    assert table.data[200].tolist() == [2, 2, 2]


def test_what_is_no_id():
    for wrong in ([0.5], [np.nan], [np.inf]):
        with pytest.raises(IndexError, match="whole"):
            checked_ids(wrong, 3)
    for wrong in ([True], ["a"], [1j]):
        with pytest.raises(TypeError, match="whole numbers"):
            checked_ids(wrong, 3)


# --- rows and back ---
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 0), (0,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_embedding_and_its_gradient_are_the_one_hot_product(shape, dtype):
    ids = random.integers(0, 4, shape)
    weight = Tensor(random.standard_normal((4, 3)), requires_grad=True, dtype=dtype)
    one_hot = np.eye(4)[ids]
    out = embedding(ids, weight)
    np.testing.assert_array_equal(out.data, (one_hot @ weight.data).astype(dtype))
    g = random.standard_normal(out.shape)
    answer = grad(out, weight, g)
    expected = one_hot.reshape(-1, 4).T @ g.reshape(-1, 3)
    np.testing.assert_allclose(answer.data, expected, rtol=1e-5, atol=1e-5)
    assert out.dtype == answer.dtype == dtype


def test_scatter_rows_adds_every_row():
    rows = Tensor([[1, 2], [10, 20], [100, 200]])
    assert scatter_rows(rows, [2, 0, 2], count=3).tolist() == [[10, 20], [0, 0], [101, 202]]
    assert scatter_rows(rows[:0], np.zeros(0, int), count=2).tolist() == [[0, 0], [0, 0]]
    turned = Tensor._wrap(np.asfortranarray(rows.data))
    assert scatter_rows(turned, [1, 1, 1], count=2).tolist() == [[0, 0], [111, 222]]
    with pytest.raises(IndexError, match="id 3"):
        scatter_rows(rows, [0, 1, 3], count=3)


@pytest.mark.parametrize("padding_idx", [None, 0, 2])
def test_second_order(padding_idx):
    weight = random.standard_normal((3, 2))
    ids = np.array([[2, 1], [2, 2]]) if padding_idx != 2 else np.array([[0, 1], [0, 0]])
    gradcheck(lambda w: embedding(ids, w * w, padding_idx=padding_idx), weight, order=2)


def test_padding_gets_no_gradient():
    weight = randn(3, 2, requires_grad=True)
    for padding_idx, expected in [(0, [0, 1, 1]), (1, [2, 0, 1]), (2, [2, 1, 0])]:
        out = embedding([[0, 1], [2, 0]], weight, padding_idx=padding_idx)
        assert grad(out, weight, np.ones(out.shape)).data[:, 0].tolist() == expected
        np.testing.assert_array_equal(out.data[1, 0], weight.data[2])


def test_embedding_refuses_other_weights():
    with pytest.raises(ValueError, match=r"\(V, D\), got \(3,\)"):
        embedding([0], Tensor([1, 2, 3]))
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f"padding_idx={wrong} with 3 ids"):
            embedding([0], Tensor(np.eye(3)), padding_idx=wrong)


# --- the layer ---
def test_layer_starts_standard_normal_with_zeros_for_padding():
    layer = Embedding(1000, 50, padding_idx=-1)
    assert layer.padding_idx == 999
    assert not layer.weight.data[999].any() and layer.weight.data[:999].all()
    assert abs(layer.weight.data.mean()) < 0.01 and abs(layer.weight.data.std() - 1) < 0.01
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert layer.weight.is_leaf and layer.weight.dtype == np.float32
    assert repr(layer) == "Embedding(1000, 50, padding_idx=999)"
    assert repr(Embedding(3, 2)) == "Embedding(3, 2)"


def test_layer_learns_what_was_read_and_nothing_else():
    layer = Embedding(4, 2, padding_idx=0)
    before = layer.weight.data.copy()
    optimizer = SGD(layer.parameters(), lr=1.0)
    layer([[0, 2, 2, 3]]).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(before - layer.weight.data, [[0] * 2, [0] * 2, [2] * 2, [1] * 2])


@pytest.mark.parametrize("arguments", [(0, 2), (3, 0), (-1, 2), (3, 2, 3), (3, 2, -4)])
def test_layer_refuses_sizes(arguments):
    with pytest.raises(ValueError, match="Embedding"):
        Embedding(*arguments)


def test_from_pretrained():
    weight = np.arange(6.0).reshape(3, 2)
    for freeze in (True, False):
        layer = Embedding.from_pretrained(weight, freeze=freeze, padding_idx=1)
        assert layer.weight.requires_grad is not freeze
        np.testing.assert_array_equal(layer.weight.data, weight)
        assert (layer.num_embeddings, layer.embedding_dim, layer.padding_idx) == (3, 2, 1)
    layer.weight.data[0] = 9
    assert weight[0, 0] == 0
    for wrong in (np.zeros(3), np.zeros((3, 2), int)):
        with pytest.raises(ValueError, match="expected floats"):
            Embedding.from_pretrained(wrong)


# --- positions ---
def test_rows_at():
    table = Tensor(np.arange(8.0).reshape(4, 2))
    for start in (0, 1, 2):
        for shape in [(2, 2), (3, 2, 2), (1, 3, 2, 2)]:
            rows = rows_at(table, randn(*shape), start, 2)
            np.testing.assert_array_equal(rows.data, table.data[start : start + 2])
    assert rows_at(table, randn(0, 2), 4, 2).shape == (0, 2)


@pytest.mark.parametrize(
    "layer",
    [LearnedPositions(4, 6), SinusoidalPositions(4, 6), RotaryPositions(6, 4)],
    ids=lambda layer: type(layer).__name__,
)
def test_positions_refuse_what_does_not_fit(layer):
    with pytest.raises(ValueError, match=r"0 to 4 were asked for, but max_seq_len is 4"):
        layer(randn(2, 5, 6))
    with pytest.raises(ValueError, match=r"3 to 4 were asked for"):
        layer(randn(2, 2, 6), start=3)
    with pytest.raises(ValueError, match="-1 to 0"):
        layer(randn(2, 2, 6), start=-1)
    for shape in [(6,), (2, 4, 5), (2, 4, 1)]:
        with pytest.raises(ValueError, match=r"\(\.\.\., T, 6\)"):
            layer(randn(*shape))
    assert layer(randn(2, 0, 6)).shape == (2, 0, 6)


@pytest.mark.parametrize(
    "layer",
    [LearnedPositions(9, 6), SinusoidalPositions(9, 6), RotaryPositions(6, 9)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_text_in_parts_is_the_text(layer):
    x = randn(2, 3, 9, 6)
    whole = layer(x).data
    for cut in (0, 1, 5, 9):
        parts = [layer(x[:, :, :cut]).data, layer(x[:, :, cut:], start=cut).data]
        np.testing.assert_array_equal(np.concatenate(parts, axis=2), whole)
    assert whole.dtype == np.float32
    assert "max_seq_len=9" in repr(layer)


def test_learned_positions_learn():
    layer = LearnedPositions(500, 40)
    assert abs(layer.weight.data.std() - 0.02) < 0.001
    x = randn(2, 3, 40, requires_grad=True)
    layer(x, start=7).sum().backward()
    expected = np.zeros((500, 40))
    expected[7:10] = 2
    np.testing.assert_array_equal(layer.weight.grad.data, expected)
    np.testing.assert_array_equal(x.grad.data, np.ones((2, 3, 40)))


@pytest.mark.parametrize("dim", [1, 2, 5, 8, 64])
@pytest.mark.parametrize("base", [10.0, 10_000.0])
def test_sinusoidal_positions_are_the_formula(dim, base):
    table = sinusoidal_positions(30, dim, base)
    for t in (0, 1, 7, 29):
        for column in range(dim):
            angle = t / base ** (2 * (column // 2) / dim)
            expected = np.cos(angle) if column % 2 else np.sin(angle)
            assert table.data[t, column] == pytest.approx(expected, abs=1e-6)
    assert table.dtype == np.float32
    with pytest.raises(ValueError, match="at least 1"):
        sinusoidal_positions(30, 0)


def test_position_angles():
    np.testing.assert_allclose(position_angles(3, 2, 100.0), [[0, 0], [1, 0.1], [2, 0.2]])
    assert position_angles(5, 3).dtype == np.float64


def test_tables_are_neither_learned_nor_saved():
    for layer in (SinusoidalPositions(9, 6), RotaryPositions(6, 9)):
        assert layer.parameters() == [] and layer.state_dict() == {}
        assert layer.buffers()


# --- turning ---
def test_rotation_is_multiplication_of_complex_numbers():
    x, angles = random.standard_normal((2, 5, 8)), position_angles(5, 4)
    out = rotate_pairs(Tensor(x, dtype=np.float64), np.cos(angles), np.sin(angles))
    z = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    np.testing.assert_allclose(out.data, np.concatenate([z.real, z.imag], axis=-1), atol=1e-12)


def test_rotation_has_gradients_for_all_its_inputs():
    inputs = [random.standard_normal(shape) for shape in [(2, 3, 4), (3, 2), (3, 2)]]
    gradcheck(rotate_pairs, *inputs, order=2, tolerance=1e-4)


def test_products_of_turned_vectors_depend_on_the_distance():
    rotary = RotaryPositions(16, 200)
    query, key = randn(1, 16), randn(1, 16)

    def product(m, n):
        return (rotary(query, start=m) * rotary(key, start=n)).sum().item()

    for distance in (0, 1, 17):
        values = [product(m + distance, m) for m in (0, 5, 60, 180)]
        np.testing.assert_allclose(values, values[0], rtol=1e-4, atol=1e-4)
    assert abs(product(17, 0) - product(0, 17)) > 1e-3
    length = np.linalg.norm(rotary(query, start=50).data)
    assert length == pytest.approx(np.linalg.norm(query.data), rel=1e-5)


def test_rotation_refuses_odd_sizes():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        rotate_pairs(randn(2, 3), np.ones(1), np.zeros(1))
    with pytest.raises(ValueError, match="even"):
        RotaryPositions(5, 9)
    for wrong in ((0, 9), (4, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            RotaryPositions(*wrong)


# --- the first layer and the last ---
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", None])
def test_first_layer(positions):
    layer = EmbeddingLayer(5, 6, 8, positions)
    ids = np.array([[4, 1, 4], [0, 0, 2]])
    expected = layer.tokens.weight.data[ids]
    if positions:
        table = layer.positions.weight if positions == "learned" else layer.positions.table
        expected = expected + table.data[2:5]
    np.testing.assert_allclose(layer(ids, start=2).data, expected, rtol=1e-6)
    np.testing.assert_array_equal(layer(ids[0]).data, layer(ids).data[0])
    layer(ids).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert len(layer.parameters()) == (2 if positions == "learned" else 1)


def test_first_layer_refuses():
    layer = EmbeddingLayer(5, 6, 8)
    with pytest.raises(ValueError, match="max_seq_len is 8"):
        layer(np.zeros((2, 9), int))
    with pytest.raises(IndexError, match="id 5 is not among 0 to 4"):
        layer([[5]])
    with pytest.raises(ValueError, match="expected one of"):
        EmbeddingLayer(5, 6, 8, positions="rotary")


def test_first_layer_drops_in_training_alone():
    layer = EmbeddingLayer(5, 200, 8, dropout=0.25, padding_idx=0)
    share = (layer([[1, 2, 3]]).data == 0).mean()
    assert share == pytest.approx(0.25, abs=0.06)
    layer.eval()
    np.testing.assert_array_equal(layer([[1, 2]]).data, layer([[1, 2]]).data)
    assert layer([[1, 2]]).data.all()
    assert layer.tokens.padding_idx == 0


def test_tied_weights_are_one_parameter():
    tokens = Embedding(7, 3)
    model = Sequential(tokens, Linear(3, 3), TiedLinear(tokens))
    assert len(model.parameters()) == 3
    assert model([[1, 2]]).shape == (1, 2, 7)
    ids, x = np.array([1, 1, 4]), tokens.weight.data
    head = TiedLinear(tokens)
    np.testing.assert_allclose(head(tokens(ids)).data, x[ids] @ x.T, rtol=1e-5)
    gradcheck(tied, random.standard_normal((5, 3)), order=2, tolerance=1e-4)


def tied(weight):
    """Scores of all tokens for three tokens, with one weight at both ends."""
    tokens = Embedding(5, 3)
    tokens.register_buffer("weight", None, persistent=False)  # a result may stand in for it
    tokens.weight = weight
    return TiedLinear(tokens)(tokens(np.array([1, 1, 4])))


def test_tied_weights_stay_tied():
    tokens = Embedding(7, 3)
    model = Sequential(tokens, TiedLinear(tokens))
    twin = copy.deepcopy(model)
    assert len(twin.parameters()) == 1 and twin[0].weight is twin[1].embedding.weight
    state = {name: 0 * value.data for name, value in model.state_dict().items()}
    twin.load_state_dict(state)
    assert not twin[0].weight.data.any() and tokens.weight.data.any()
    frozen = Embedding.from_pretrained(np.eye(3))
    TiedLinear(frozen)
    assert not frozen.weight.requires_grad

"""Module 03: linear, Module and its tree, and the layers."""

import copy
import math
import pickle

import numpy as np
import pytest

from tinytorch.core.layers import (
    Dropout,
    Flatten,
    Identity,
    Linear,
    Module,
    Sequential,
    linear,
)
from tinytorch.core.tensor import Tensor, manual_seed, writes

random = np.random.default_rng(3)


def normal(*shape, dtype=np.float32):
    return Tensor(random.standard_normal(shape), dtype=dtype)


class Square:
    """A layer like those of module 02: it has a forward and no parameters."""

    def forward(self, x):
        return x * x

    __call__ = forward

    def __repr__(self):
        return "Square()"


class Net(Module):
    """Every way to hold a module: as an attribute, in a list, in a dict in a list."""

    def __init__(self):  # like many users', without super().__init__()
        self.blocks = [Linear(3, 4), {"skip": Linear(4, 4, bias=False)}, "no module"]
        self.head = Sequential(Square(), Dropout(0.5), Linear(4, 2))
        self.scale = Tensor([2.0])
        self.register_buffer("mean", Tensor([1.0, 1.0]))
        self.register_buffer("cache", None, persistent=False)
        self.pair = (Identity(), Identity())
        self.layer_class = Linear

    def forward(self, x):
        return self.head(self.blocks[1]["skip"](self.blocks[0](x))) * self.scale - self.mean


PARAMETERS = [
    *("scale", "blocks.0.weight", "blocks.0.bias"),
    *("blocks.1.skip.weight", "head.2.weight", "head.2.bias"),
]


# --- linear ---


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape", [(3,), (5, 3), (1, 3), (2, 5, 3), (2, 4, 5, 3), (0, 3), (2, 0, 3)]
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_is_a_product_and_a_sum(shape, dtype, with_bias):
    x, weight, bias = normal(*shape, dtype=dtype), normal(3, 4, dtype=dtype), normal(4, dtype=dtype)
    y = linear(x, weight, bias) if with_bias else linear(x, weight)
    expected = x.data @ weight.data + (bias.data if with_bias else 0)
    assert y.shape == (*shape[:-1], 4)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.data, expected, rtol=1e-5, atol=1e-6)


def test_linear_takes_strided_views_and_leaves_its_inputs_alone():
    weight, bias = normal(4, 3).T, normal(8)[::2]
    x = normal(3, 5, 2).swapaxes(0, 2)
    before = [t.data.copy() for t in (x, weight, bias)]
    y = linear(x, weight, bias)
    np.testing.assert_allclose(y.data, before[0] @ before[1] + before[2], rtol=1e-5, atol=1e-6)
    for tensor, array in zip((x, weight, bias), before, strict=True):
        np.testing.assert_array_equal(tensor.data, array)


def test_linear_of_arrays_is_numpy_alone():
    y = linear(np.ones((2, 3)), np.ones((3, 4)), np.ones(4))
    assert type(y) is np.ndarray
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, np.full((2, 4), 4.0))


def test_linear_of_mixed_dtypes_takes_the_wider():
    y = linear(Tensor(np.ones((2, 3), int)), Tensor(np.ones((3, 4), int)), Tensor(np.full(4, 0.5)))
    np.testing.assert_array_equal(y.data, np.full((2, 4), 3.5))


def test_nan_stays_in_its_row():
    x = normal(3, 4)
    x[1, 2] = math.nan
    y = linear(x, normal(4, 2))
    assert np.isnan(y.data).tolist() == [[False, False], [True, True], [False, False]]


@pytest.mark.parametrize(
    ("x", "weight", "bias", "words"),
    [
        ((2, 3), (4, 5), None, ["(2, 3)", "(4, 5)"]),
        ((), (4, 5), None, ["()", "(4, 5)"]),
        ((2, 3), (3,), None, ["(3,)"]),
        ((2, 3), (3, 5), (4,), ["bias", "(4,)", "(3, 5)"]),
        ((2, 3), (3, 5), (1,), ["bias", "(1,)", "(3, 5)"]),
    ],
)
def test_linear_names_the_shapes_that_do_not_fit(x, weight, bias, words):
    with pytest.raises(ValueError, match=r"^linear: ") as error:
        linear(normal(*x), normal(*weight), None if bias is None else normal(*bias))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


# --- what is a parameter ---


def test_a_tensor_attribute_is_a_trainable_parameter():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == PARAMETERS
    assert all(p.requires_grad for p in net.parameters())
    assert net.parameters()[0] is net.scale


def test_frozen_parameters_still_count_and_hand_on_their_state():
    layer = Linear(2, 2)
    layer.weight.requires_grad_(False)
    layer.weight = normal(2, 2)
    assert not layer.weight.requires_grad
    layer.weight.requires_grad_(True)
    layer.weight = normal(2, 2)
    assert layer.weight.requires_grad
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


def test_a_whole_model_can_be_frozen():
    net = Net()
    net.index = Tensor([1], dtype=np.int64)
    assert net.requires_grad_(False) is net
    assert not any(p.requires_grad for p in net.parameters())
    net.requires_grad_()
    assert [p.requires_grad for p in net.parameters()] == [
        p.dtype.kind == "f" for p in net.parameters()
    ]


def test_a_tensor_that_comes_late_or_in_place_of_none_is_trainable():
    layer = Linear(2, 2, bias=False)
    assert layer.bias is None
    assert len(layer.parameters()) == 1
    layer.bias = Tensor([0.0, 0.0])
    assert layer.bias.requires_grad
    assert len(layer.parameters()) == 2


def test_integers_are_parameters_without_gradient():
    layer = Identity()
    layer.index = Tensor([1, 2], dtype=np.int64)
    assert layer.parameters()[0] is layer.index
    assert not layer.index.requires_grad


def test_the_result_of_a_recorded_operation_is_no_parameter():
    layer, made = Linear(2, 2), normal(2, 2)
    old = layer.weight
    made.node = object()  # as autograd marks what an operation made
    with pytest.raises(ValueError, match=r"Linear\.weight: .*register_buffer"):
        layer.weight = made
    assert layer.weight is old
    layer.register_buffer("seen", None, persistent=False)
    layer.seen = made
    assert len(layer.parameters()) == 2


def test_buffers_are_saved_and_not_trained():
    net = Net()
    assert [name for name, _ in net.named_buffers()] == ["mean"]
    assert not net.mean.requires_grad
    net.mean = Tensor([5.0, 5.0])
    assert not net.mean.requires_grad
    assert net.buffers()[0] is net.mean
    assert "mean" in net.state_dict()
    net.cache = Tensor([1.0])
    assert len(net.buffers()) == 2
    assert "cache" not in net.state_dict()
    with pytest.raises(TypeError, match=r"register_buffer: array is a ndarray"):
        net.register_buffer("array", np.zeros(2))


def test_buffers_of_one_module_are_not_those_of_another():
    first, second = Identity(), Identity()
    first.register_buffer("x", Tensor([1.0]))
    second.x = Tensor([1.0])
    assert (len(first.parameters()), len(second.parameters())) == (0, 1)


def test_shared_tensors_are_listed_once_and_saved_under_each_name():
    net = Sequential(Linear(2, 2), Linear(2, 2))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_shared_module_is_visited_once():
    layer = Linear(2, 2)
    net = Sequential(layer, Square(), layer)
    assert [name for name, _ in net.named_modules()] == ["", "0", "1"]
    assert len(net.parameters()) == 2
    seen = []
    net.apply(seen.append)
    assert len(seen) == 3


# --- the tree ---


def test_named_modules_are_parents_first():
    assert [name for name, _ in Net().named_modules()] == [
        *("", "blocks.0", "blocks.1.skip", "head", "head.0", "head.1", "head.2"),
        *("pair.0", "pair.1"),
    ]


def test_children_are_the_next_level_only():
    net = Net()
    names = ["blocks.0", "blocks.1.skip", "head", "pair.0", "pair.1"]
    assert [name for name, _ in net.named_children()] == names
    assert net.children()[2] is net.head
    assert net.modules()[0] is net


def test_apply_reaches_children_first():
    order = []
    net = Sequential(Sequential(Square()), Identity())
    assert net.apply(lambda module: order.append(type(module).__name__)) is net
    assert order.index("Square") < order.index("Sequential")
    assert order[-1] == "Sequential"
    assert len(order) == 4


@pytest.mark.parametrize("name", ["blocks.0", "blocks.1.skip", "head.0", "head", "head.2"])
def test_set_submodule_replaces_what_named_modules_finds(name):
    net, new = Net(), Identity()
    net.set_submodule(name, new)
    assert dict(net.named_modules())[name] is new


@pytest.mark.parametrize(
    "name", ["", "nothing", "blocks.7", "blocks.x", "head.0.x", "scale", "pair.0"]
)
def test_set_submodule_refuses_what_is_no_place_for_a_module(name):
    with pytest.raises(KeyError, match="set_submodule: "):
        Net().set_submodule(name, Identity())


def test_the_repr_is_a_tree():
    net = Sequential(Linear(3, 4), Sequential(Square(), Dropout(0.2)), Flatten())
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Linear(in_features=3, out_features=4, bias=True)\n"
        "  (1): Sequential(\n"
        "    (0): Square()\n"
        "    (1): Dropout(p=0.2)\n"
        "  )\n"
        "  (2): Flatten(start_dim=1, end_dim=-1)\n"
        ")"
    )
    assert repr(Identity()) == "Identity()"
    assert repr(Linear(1, 1, bias=False)) == "Linear(in_features=1, out_features=1, bias=False)"


def test_a_module_without_forward_says_so():
    class Empty(Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty needs a method forward"):
        Empty()(Tensor([1.0]))


# --- modes, gradients, hooks ---


def test_train_and_eval_reach_the_whole_tree():
    net = Net()
    assert net.training
    assert net.head[1].training
    assert net.eval() is net
    assert not any(m.training for m in net.modules() if isinstance(m, Module))
    assert net.train() is net
    assert net.head[1].training


def test_a_module_may_keep_its_mode():
    class Frozen(Linear):
        def train(self, mode=True):
            return super().train(False)

    net = Sequential(Sequential(Frozen(2, 2)), Linear(2, 2)).train()
    assert (net[0][0].training, net[1].training) == (False, True)


def test_zero_grad_forgets():
    net = Net()
    for p in net.parameters():
        p.grad = Tensor(np.ones(p.shape))
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_hooks_see_and_replace():
    layer, calls = Linear(2, 2), []
    x = Tensor([[1.0, 2.0]])
    plain = layer(x)
    handle = layer.register_forward_hook(lambda *seen: calls.append(seen))
    y = layer(x)
    [(module, inputs, output)] = calls
    assert module is layer
    assert type(inputs) is tuple
    assert inputs[0] is x
    assert output is y
    doubled = layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    np.testing.assert_allclose(layer(x).data, 2 * plain.data, rtol=1e-6)
    handle.remove()
    handle.remove()
    np.testing.assert_allclose(layer(x).data, 2 * plain.data, rtol=1e-6)
    doubled.remove()
    np.testing.assert_allclose(layer(x).data, plain.data, rtol=1e-6)
    assert len(calls) == 2


def test_pre_hooks_replace_the_inputs():
    layer = Identity()
    one = layer.register_forward_pre_hook(lambda module, inputs: inputs[0] + 1)
    layer.register_forward_pre_hook(lambda module, inputs: (10 * inputs[0],))
    assert layer(1) == 20
    one.remove()
    assert layer(1) == 10


def test_a_hook_may_remove_itself_and_hooks_run_in_order():
    layer, order = Identity(), []

    def once(number):
        def hook(module, inputs, output):
            order.append(number)
            handles[number].remove()

        return hook

    handles = [layer.register_forward_hook(once(number)) for number in range(3)]
    layer(0)
    layer(0)
    assert order == [0, 1, 2]


# --- saving and loading ---


def test_state_dict_shares_memory_and_needs_no_gradient():
    net = Net()
    state = net.state_dict()
    assert list(state) == ["scale", "mean", *PARAMETERS[1:]]
    assert not any(tensor.requires_grad for tensor in state.values())
    assert all(np.shares_memory(state[name].data, p.data) for name, p in net.named_parameters())


@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_load_state_dict_writes_in_place(kind):
    source, target = Net(), Net()
    kept = target.parameters()
    arrays = [p.data for p in kept]
    state = source.state_dict()
    if kind == "arrays":
        state = {name: tensor.numpy() for name, tensor in state.items()}
    before = writes.clock
    assert target.load_state_dict(state) == ([], [])
    for p, q, array in zip(kept, source.parameters(), arrays, strict=True):
        assert p.data is array
        assert p.requires_grad
        np.testing.assert_array_equal(p.data, q.data)
        assert writes.since(p.data, before)


def test_load_state_dict_names_what_does_not_fit_and_writes_nothing():
    net = Sequential(Linear(2, 3), Linear(3, 1))
    before = copy.deepcopy(net.state_dict())
    good = {name: np.zeros(tensor.shape, np.float32) for name, tensor in before.items()}
    cases = [
        ({**good, "2.weight": np.zeros(1)}, ["2.weight"]),
        ({name: good[name] for name in list(good)[:-1]}, ["1.bias"]),
        ({**good, "1.weight": np.zeros((1, 3))}, ["1.weight", "(1, 3)", "(3, 1)"]),
        ({**good, "1.bias": np.zeros(1, complex)}, ["1.bias", "complex"]),
    ]
    for state, words in cases:
        with pytest.raises(ValueError, match=r"^load_state_dict: ") as error:
            net.load_state_dict(state)
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)
        for name, tensor in net.state_dict().items():
            np.testing.assert_array_equal(tensor.data, before[name].data)


def test_load_state_dict_that_is_not_strict_says_what_was_left():
    net = Sequential(Linear(2, 3), Linear(3, 1))
    state = {"0.bias": np.array([1.0, 2, 3]), "other": np.zeros(2)}
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert missing == ["0.weight", "1.weight", "1.bias"]
    assert unexpected == ["other"]
    assert net[0].bias.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="shape"):
        net.load_state_dict({"0.bias": np.zeros(4)}, strict=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_models_can_be_copied(copied):
    net = Net()
    net.tied = net.blocks[0].weight
    net.scale.requires_grad_(False)
    net.eval()
    twin = copied(net)
    x = normal(2, 3)
    np.testing.assert_array_equal(twin(x).data, net(x).data)
    assert twin.tied is twin.blocks[0].weight
    assert not twin.training
    assert [p.requires_grad for p in twin.parameters()] == [
        p.requires_grad for p in net.parameters()
    ]
    twin.scale.data[:] = 100
    assert net.scale.item() == 2.0
    assert list(twin.state_dict()) == list(net.state_dict())


# --- the layers ---


def test_linear_starts_uniform_within_its_bound():
    manual_seed(0)
    layer = Linear(400, 300)
    for values in (layer.weight.data, Linear(400, 30_000).bias.data):
        assert values.dtype == np.float32
        assert np.abs(values).max() <= 1 / 20
        assert abs(values.mean()) < 0.001
        assert values.std() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.02)
    assert layer.weight.shape == (400, 300)
    assert layer.bias.shape == (300,)


def test_the_seed_decides_the_weights():
    manual_seed(1)
    first = Linear(3, 2)
    second = Linear(3, 2)
    manual_seed(1)
    again = Linear(3, 2)
    assert first.weight.tolist() == again.weight.tolist() != second.weight.tolist()
    assert first.bias.tolist() == again.bias.tolist()


@pytest.mark.parametrize("sizes", [(0, 2), (2, 0), (-1, 2)])
def test_linear_needs_sizes(sizes):
    with pytest.raises(ValueError, match="Linear: sizes must be at least 1"):
        Linear(*sizes)


def test_linear_layer_is_linear_with_its_own_numbers():
    layer, x = Linear(3, 2), normal(4, 3)
    expected = x.data @ layer.weight.data + layer.bias.data
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-5, atol=1e-6)
    plain = Linear(3, 2, bias=False)
    np.testing.assert_allclose(plain(x).data, x.data @ plain.weight.data, rtol=1e-5, atol=1e-6)


def test_linear_layer_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"linear: x of \(2, 4\) .* \(3, 2\)"):
        Linear(3, 2)(normal(2, 4))


def test_sequential_is_a_list_of_layers():
    a, b, c = Linear(2, 3), Square(), Linear(3, 1)
    net = Sequential(a, b, c)
    x = normal(5, 2)
    np.testing.assert_array_equal(net(x).data, c(b(a(x))).data)
    assert len(net) == 3
    assert list(net) == net.layers == Sequential([a, b, c]).layers == [a, b, c]
    assert net[-1] is c
    assert type(net[:2]) is Sequential
    assert net[:2].layers == [a, b]
    assert net.append(Identity()) is net
    assert len(net) == 4
    net.layers[1] = Identity()
    assert [type(m).__name__ for m in net] == ["Linear", "Identity", "Linear", "Identity"]
    assert Sequential()(x) is x


def test_sequential_takes_functions_and_refuses_the_rest():
    assert Sequential(Identity(), lambda x: x + 1)(1) == 2
    with pytest.raises(TypeError, match=r"Sequential: .*int"):
        Sequential(Linear(2, 2), 3)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(p):
    manual_seed(0)
    x = Tensor(np.full((200, 500), 3.0))
    y = Dropout(p)(x)
    assert y.dtype == np.float32
    assert np.mean(y.data == 0) == pytest.approx(p, abs=0.01)
    np.testing.assert_allclose(np.unique(y.data[y.data != 0]), [3 / (1 - p)], rtol=1e-6)
    assert y.data.mean() == pytest.approx(3.0, rel=0.02)


def test_dropout_rests_in_eval_and_at_zero():
    x = normal(10, 10)
    layer = Dropout(0.5)
    assert layer.eval()(x) is x
    assert Dropout(0)(x) is x
    drawn = {tuple(layer.train()(x).data.ravel()) for _ in range(3)}
    assert len(drawn) == 3
    assert layer.training


def test_dropout_follows_the_seed_and_keeps_the_dtype():
    x = Tensor(np.ones(50), dtype=np.float64)
    manual_seed(5)
    first = Dropout(0.5)(x)
    manual_seed(5)
    second = Dropout(0.5)(x)
    assert first.dtype == np.float64
    assert first.tolist() == second.tolist()
    assert set(first.tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("p", [-0.1, 1.0, 2, math.nan])
def test_dropout_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="Dropout: p must be"):
        Dropout(p)


def test_flatten_and_identity():
    x = normal(2, 3, 4, 5)
    assert Flatten()(x).shape == (2, 60)
    assert Flatten(start_dim=2)(x).shape == (2, 3, 20)
    assert Flatten(0, 1)(x).shape == (6, 4, 5)
    assert Identity()(x) is x

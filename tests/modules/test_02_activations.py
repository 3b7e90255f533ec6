"""Activations, held against their formulas in float64 and at the edges of floating point."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest

from tinytorch.core import activations
from tinytorch.core.activations import (
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Stateless,
    Tanh,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
)
from tinytorch.core.tensor import Tensor, tanh, watching


def formula_softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


FORMULAS = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "softmax": formula_softmax,
    "log_softmax": lambda x: np.log(formula_softmax(x)),
}
LAYERS = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "sigmoid": Sigmoid(),
    "silu": SiLU(),
    "gelu": GELU(),
    "softmax": Softmax(),
    "log_softmax": LogSoftmax(),
}
every_function = pytest.mark.parametrize("name", FORMULAS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def random(*shape, dtype=np.float64, scale=3.0):
    return (scale * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


def tolerance(dtype):
    return 1e-13 if dtype == np.float64 else 2e-6


@every_function
@every_dtype
@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 5), (1, 1)])
def test_value_and_dtype(name, dtype, shape):
    x = random(*shape, dtype=dtype)
    out = getattr(activations, name)(Tensor(x, dtype=dtype))
    assert type(out) is Tensor
    assert out.dtype == dtype
    assert out.shape == shape
    expected = FORMULAS[name](x.astype(np.float64))
    np.testing.assert_allclose(out.data, expected, rtol=tolerance(dtype), atol=tolerance(dtype))


@every_function
def test_arrays_alone_give_arrays(name):
    x = random(3, 4, dtype=np.float32)
    out = getattr(activations, name)(x)
    assert type(out) is np.ndarray
    assert out.dtype == np.float32


@every_function
def test_layer_does_what_its_function_does(name):
    x = Tensor(random(3, 4))
    layer = LAYERS[name]
    np.testing.assert_array_equal(layer(x).data, getattr(activations, name)(x).data)
    np.testing.assert_array_equal(layer.forward(x).data, layer(x).data)


@every_function
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 4)])
def test_empty(name, shape):
    assert getattr(activations, name)(Tensor(np.zeros(shape))).shape == shape


@every_function
def test_not_contiguous_and_input_unchanged(name):
    x = random(6, 8, dtype=np.float32)[::2, ::-1]
    before = x.copy()
    out = getattr(activations, name)(Tensor._wrap(x))
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(out.data, FORMULAS[name](before), rtol=1e-5, atol=1e-6)


@every_function
def test_nan_stays_nan(name):
    assert np.isnan(getattr(activations, name)(Tensor([1.0, np.nan])).data[-1])


@every_function
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_integers_do_not_wrap(name, dtype):
    x = np.array([0, 3, 100], dtype)
    out = getattr(activations, name)(Tensor(x))
    np.testing.assert_allclose(out.data, FORMULAS[name](x.astype(np.float64)), rtol=1e-5, atol=1e-6)
    assert out.dtype == (dtype if name == "relu" else np.float32)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "silu", "gelu"])
def test_zero_dimensions_and_python_numbers(name):
    function = getattr(activations, name)
    assert function(Tensor(0.5)).shape == ()
    np.testing.assert_allclose(function(0.5), FORMULAS[name](0.5))


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("sigmoid", [-1e30, -1000, 1000, 1e30], [0, 0, 1, 1]),
        ("silu", [-1000, 1000, 1e30], [0, 1000, 1e30]),
        ("gelu", [-1000, 1000, 1e20, -1e30], [0, 1000, 1e20, 0]),
        ("softmax", [1000, 1000, -1000], [0.5, 0.5, 0]),
        ("softmax", [0, -np.inf], [1, 0]),
        ("log_softmax", [0, 1000, 400], [-1000, 0, -600]),
        ("log_softmax", [3e38, -3e37], [0, -3.3e38]),
        ("leaky_relu", [-np.inf, np.inf], [-np.inf, np.inf]),
    ],
)
def test_extremes_are_right_and_silent(name, x, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = getattr(activations, name)(Tensor(x))
    np.testing.assert_allclose(out.data, np.array(expected, np.float32), rtol=1e-6)


@every_dtype
def test_sigmoid_keeps_its_digits_far_to_the_left(dtype):
    x = np.array([-5.0, -20.0, -40.0, -80.0], dtype)
    exact = [1 / (1 + math.exp(-value)) for value in x]
    np.testing.assert_allclose(sigmoid(Tensor(x, dtype=dtype)).data, exact, rtol=1e-6)


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.2, 1.0, 3.0])
def test_leaky_relu_with_any_slope(slope):
    x = random(50)
    out = leaky_relu(Tensor(x, dtype=np.float64), negative_slope=slope)
    np.testing.assert_allclose(out.data, np.where(x > 0, x, slope * x), atol=1e-15)


@pytest.mark.parametrize("function", [softmax, log_softmax])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_along_any_axis(function, axis):
    x = Tensor(random(3, 4, 5), dtype=np.float64)
    last = np.moveaxis(FORMULAS[function.__name__](np.moveaxis(x.data, axis, -1)), -1, axis)
    np.testing.assert_allclose(function(x, axis=axis).data, last, rtol=1e-12)
    np.testing.assert_array_equal(function(x, dim=axis).data, function(x, axis=axis).data)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(64, 1), (64, 63), (200, 10), (64, 64), (63, 10)], ids=str)
def test_many_short_rows(name, shape):
    x = random(*shape)
    x[3, 0] = np.nan
    for array in (x, np.asfortranarray(x)):
        out = getattr(activations, name)(Tensor._wrap(array), axis=1)
        np.testing.assert_allclose(out.data, FORMULAS[name](x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_axis_that_is_not_there_is_named(function):
    with pytest.raises((ValueError, IndexError), match=f"{function.__name__}: axis 2 .* 2"):
        function(Tensor([[1.0]]), axis=2)


def test_integers_through_relu_stay_integers():
    assert relu(Tensor([-1, 2], dtype=np.int64)).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (ReLU(), "ReLU()"),
        (Sigmoid(), "Sigmoid()"),
        (Tanh(), "Tanh()"),
        (GELU(), "GELU()"),
        (SiLU(), "SiLU()"),
        (LeakyReLU(0.2), "LeakyReLU(negative_slope=0.2)"),
        (Softmax(), "Softmax(axis=-1)"),
        (Softmax(0), "Softmax(axis=0)"),
        (LogSoftmax(dim=1), "LogSoftmax(axis=1)"),
    ],
)
def test_repr_pickle_and_copy(layer, text):
    assert isinstance(layer, Stateless)
    x = Tensor(random(3, 4))
    for same in (layer, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert repr(same) == text
        np.testing.assert_array_equal(same(x).data, layer(x).data)


def test_stateless_takes_any_inputs_and_options():
    class Power(Stateless):
        def __init__(self):
            self.mode, self.scale = "plain", 2.0

        def forward(self, base, exponent):
            return base**exponent

    assert Power()(2, 5) == 32
    assert repr(Power()) == "Power(mode='plain', scale=2.0)"


def test_tanh_layer():
    x = Tensor(random(3, 4))
    np.testing.assert_array_equal(Tanh()(x).data, tanh(x).data)


def test_layers_use_their_options():
    assert LeakyReLU(0.5)(Tensor([-4.0])).tolist() == [-2.0]
    table = Tensor(np.zeros((2, 4)))
    assert Softmax(dim=0)(table).tolist() == [[0.5] * 4] * 2
    np.testing.assert_allclose(LogSoftmax(0)(table).data, math.log(0.5), rtol=1e-6)
    with pytest.raises(TypeError, match="axis=0 and dim=1"):
        Softmax(axis=0, dim=1)


@pytest.mark.parametrize("function", [relu, leaky_relu, sigmoid, silu, gelu, softmax, log_softmax])
def test_each_is_one_operation(function):
    seen = []
    with watching("test", lambda op, inputs, params, out: seen.append(op)):
        function(Tensor([1.0, -2.0]))
    assert seen == [function]


@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_no_probabilities_of_nothing(function):
    with pytest.raises(ValueError, match=f"{function.__name__}: zero-size"):
        function(Tensor(np.zeros((3, 0))))

"""Plausible wrong solutions of module 02, and the tests that notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong("relu", "returns x unchanged", "return x", loses=["test-relu"]),
    Wrong("relu", "keeps the distance from zero", "return np.abs(x)", loses=["test-relu"]),
    Wrong("relu", "writes into the input", "x[x < 0] = 0\nreturn x", loses=["test-relu"]),
    Wrong("relu", "turns NaN into 0", "return np.fmax(x, 0)", loses=["test-relu"]),
    Wrong(
        "relu",
        "makes everything float32",
        "return np.maximum(x, 0).astype(np.float32)",
        loses=["test-relu"],
    ),
    Wrong("slope", "steps to one side", "return (f(x + h) - f(x)) / h", loses=["test-slope"]),
    Wrong("slope", "divides by one step", "return (f(x + h) - f(x - h)) / h", loses=["test-slope"]),
    Wrong(
        "leaky-relu",
        "takes the larger of x and s x",
        "return np.maximum(x, negative_slope * x)",
        loses=["test-leaky-relu"],
    ),
    Wrong(
        "leaky-relu",
        "ignores the slope that was asked for",
        "return np.where(x > 0, x, 0.01 * x)",
        loses=["test-leaky-relu"],
    ),
    Wrong(
        "leaky-relu",
        "scales positive inputs too",
        "return negative_slope * x",
        loses=["test-leaky-relu"],
    ),
    Wrong(
        "sigmoid",
        "inf / inf for large x",
        "with np.errstate(all='ignore'):\n    return np.exp(x) / (1 + np.exp(x))",
        loses=["test-sigmoid"],
    ),
    Wrong("sigmoid", "warns at -1000", "return 1 / (1 + np.exp(-x))", loses=["test-sigmoid"]),
    Wrong(
        "sigmoid",
        "loses the far left by a subtraction",
        "return 0.5 * (np.tanh(0.5 * x) + 1)",
        loses=["test-sigmoid"],
    ),
    Wrong(
        "sigmoid",
        "turns the sign around",
        change=("np.exp(-x)", "np.exp(x)"),
        loses=["test-sigmoid"],
    ),
    Wrong("silu", "sigmoid alone", "return sigmoid(x)", loses=["test-silu"]),
    Wrong("silu", "relu's shape by a hard switch", "return x * (x > 0)", loses=["test-silu"]),
    Wrong(
        "gelu",
        "the coarse form by a sigmoid",
        "return x * sigmoid(1.702 * x)",
        loses=["test-gelu"],
    ),
    Wrong(
        "gelu", "forgets the cubic term", change=("u *= 0.044715", "u *= 0"), loses=["test-gelu"]
    ),
    Wrong(
        "gelu",
        "forgets the square root",
        change=("math.sqrt(2 / math.pi)", "2 / math.pi"),
        loses=["test-gelu"],
    ),
    Wrong(
        "gelu",
        "gelu: computes within its input",
        change=("u = x * x", "u = x; u *= x"),
        loses=["test-gelu"],
    ),
    Wrong("gelu", "forgets the half", change=("u *= 0.5", "u *= 1"), loses=["test-gelu"]),
    Wrong(
        "softmax",
        "softmax: forgets to subtract the maximum",
        "with np.errstate(all='ignore'):\n"
        "    return np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True)",
        loses=["test-softmax"],
    ),
    Wrong(
        "softmax",
        "one maximum for the whole tensor",
        "powers = np.exp(x - np.max(x))\n"
        "with np.errstate(invalid='ignore'):\n"
        "    return powers / np.sum(powers, axis=axis, keepdims=True)",
        loses=["test-softmax"],
    ),
    Wrong(
        "softmax",
        "softmax: always along the last axis",
        "powers = np.exp(x - np.max(x, axis=-1, keepdims=True))\n"
        "return powers / np.sum(powers, axis=-1, keepdims=True)",
        loses=["test-softmax"],
    ),
    Wrong(
        "softmax",
        "softmax: computes within its input",
        change=("powers = x - _l", "powers = x; powers -= _l"),
        loses=["test-softmax"],
    ),
    Wrong(
        "log-softmax",
        "takes the logarithm of softmax",
        "with np.errstate(divide='ignore'):\n    return np.log(softmax(x, axis=axis))",
        loses=["test-log-softmax"],
    ),
    Wrong(
        "log-softmax",
        "log-softmax: forgets to subtract the maximum",
        "with np.errstate(over='ignore'):\n"
        "    return x - np.log(np.sum(np.exp(x), axis=axis, keepdims=True))",
        loses=["test-log-softmax"],
    ),
    Wrong(
        "log-softmax",
        "log-softmax: always along the last axis",
        "result = x - np.max(x, axis=-1, keepdims=True)\n"
        "return result - np.log(np.sum(np.exp(result), axis=-1, keepdims=True))",
        loses=["test-log-softmax"],
    ),
    Wrong(
        "stateless",
        "hands on only the first input",
        change=("self.forward(*inputs)", "self.forward(inputs[0])"),
        loses=["test-stateless"],
    ),
    Wrong(
        "stateless",
        "writes strings without quotes",
        change=("{name}={value!r}", "{name}={value}"),
        loses=["test-stateless"],
    ),
    Wrong(
        "stateless",
        "leaves the options out",
        change=('"{type(self).__name__}({options})"', '"{type(self).__name__}()"'),
        loses=["test-stateless"],
    ),
    Wrong(
        "layers-with-options",
        "forgets its slope",
        change=("leaky_relu(x, negative_slope=self.negative_slope)", "leaky_relu(x)"),
        loses=["test-layers-with-options"],
    ),
    Wrong(
        "layers-with-options",
        "forgets its axis",
        change=("softmax(x, axis=self.axis)", "softmax(x)"),
        loses=["test-layers-with-options"],
    ),
    Wrong(
        "layers-with-options",
        "takes axis 0 for none",
        change=("pick(axis, dim, default=-1)", "axis or dim or -1"),
        loses=["test-layers-with-options"],
    ),
]

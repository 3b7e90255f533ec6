# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.layers

# %% [markdown]
r"""
# Layers

> Functions with parameters, in a tree.

**Built before:** tensors and the functions that bend them.
**Built here:** `linear`, the class `Module` that knows its parameters, and `Linear`, `Sequential` and `Dropout` on top of it.
**Time:** 4 hours. **Points:** 88 for code, 12 for the questions at the end.
"""

# %%
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tinytorch.core.tensor import Tensor, generator, op, rand, writes

# %%
import tempfile
import time
from pathlib import Path

import tinytorch
from tinytorch.core.activations import ReLU, relu
from tinytorch.core.tensor import manual_seed, randn

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the lesson works without pictures

# %% [markdown]
r"""
## A network in loose parts

You have all that a network needs: matrix products, sums, a bend. So here is one, 64 -> 32 -> 16 -> 10, without any help. Somebody also wrote a function that counts its numbers, for a table in a report.

**Predict:** 64 · 32 + 32 + 32 · 16 + 16 + 16 · 10 + 10 is 2,778. Will the function say so? Write down your answer, then run.
"""

# %%
manual_seed(0)
w1, b1 = randn(64, 32), randn(32)
w2, b2 = randn(32, 16), randn(16)
w3, b3 = randn(16, 10), randn(10)


def network(x):
    return relu(relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3


def count():
    return sum(tensor.size for tensor in [w1, b1, w2, w3, b3])


print(network(randn(5, 64)).shape, "outputs from", count(), "numbers")

# %% [markdown]
r"""
The list forgot `b2`, and nothing complained. The same list is needed to save the network, to load it, to change its numbers when it learns, and each of them can forget another one. With 6 tensors that is a nuisance. A language model has thousands.

So the numbers have to live with the function that uses them, and a network has to find its own numbers. That is what this lesson builds, from the smallest part up.

## The smallest part: a linear layer

$$y = x W + b \qquad y_j = \sum_i x_i W_{ij} + b_j$$

$x$ has `in_features` numbers, $W$ has the shape `(in_features, out_features)`, $b$ and $y$ have `out_features`. Column $j$ of $W$ is what output $j$ looks for.

```
 x  (1, 3)          W  (3, 2)           b  (2,)        y  (1, 2)
                    | 1   0 |
 [ 1  2  3 ]   @    | 0   1 |    +    [ 10  20 ]   =   [ 14  25 ]
                    | 1   1 |
```

A batch is many rows: `(N, in)` becomes `(N, out)`. Texts have a further axis, `(N, T, in)`, and every one of the $N \cdot T$ rows passes through the same matrix. A single row `(in,)` gives `(out,)`.

**Exercise 1 (8 points).** Write `linear`. It is one operation and not two, because then the sum can be written into the product's own memory. Return an array of shape `(*x.shape[:-1], out_features)`, and leave `x`, `weight` and `bias` as they are. Raise `ValueError` where the last axis of `x` is not the first of `weight`, and where the bias is not one number for each output: a bias of shape `(1,)` would fit by broadcasting, and be wrong.

<details><summary>Hint</summary>

`np.matmul` multiplies a stack of matrices one by one. For `x` with 3 or more axes it is faster to lay all rows under one another: `x.reshape(rows, in_features)`, one product, and back. `math.prod(x.shape[:-1])` counts the rows.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "linear", "locked": false, "solution": true}
#| export
@op
def linear(x, weight, bias=None):
    """x @ weight + bias: (..., in_features) -> (..., out_features).

    Raises ValueError where the last axis of `x` is not the first of `weight`.

    >>> linear(Tensor([1, 2]), Tensor([[1, 0, 5], [0, 1, 5]]), Tensor([0, 0, 100]))
    Tensor([  1.,   2., 115.])
    """
    ### BEGIN SOLUTION
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[:1]:
        raise ValueError(f"linear: x of {x.shape} does not fit weight of {weight.shape}")
    if bias is not None and bias.shape != weight.shape[1:]:
        raise ValueError(f"linear: bias of {bias.shape} does not fit weight of {weight.shape}")
    if x.ndim <= 2:
        y = x @ weight
    else:  # one product of all rows is faster than one for each matrix of a stack
        y = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ weight
        y = y.reshape(*x.shape[:-1], weight.shape[1])
    if bias is None:
        return y
    return np.add(y, bias, out=y) if y.dtype == bias.dtype else y + bias
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-linear", "locked": true, "points": 8, "solution": false}
def test_linear():
    x, weight = Tensor([[1, 2, 3]]), Tensor([[1, 0], [0, 1], [1, 1]])
    bias = Tensor([10, 20])
    check(linear(x, weight, bias), [[14.0, 25.0]], "the numbers of the picture above")
    check(linear(x, weight), [[4.0, 5.0]], "without a bias it is the product alone")
    check(linear(x[0], weight, bias), [14.0, 25.0], "one row without a batch stays one row")
    with check_raises(ValueError, "(1, 2)", "name the shapes: 2 inputs meet a matrix for 3"):
        linear(x[:, :2], weight)
    ### BEGIN HIDDEN TESTS
    text = randn(2, 5, 3)
    expected = text.numpy() @ weight.numpy() + bias.numpy()
    check(linear(text, weight, bias), expected, "every row of (N, T, in) is multiplied", 1e-5)
    check(linear(text[:0], weight, bias).shape, (0, 5, 2), "no texts give no rows, not an error")
    with check_raises(ValueError, "bias", "a bias of one number would be spread over all outputs"):
        linear(x, weight, bias[:1])
    check(x, [[1.0, 2.0, 3.0]], "x must not change")
    check(bias, [10.0, 20.0], "the bias must not change")
    ### END HIDDEN TESTS


test_linear()

# %% [markdown]
r"""
## Who knows the numbers?

Now a home for $W$ and $b$. A **module** is an object with a method `forward`, called like a function, whose attributes hold its parameters. Modules contain modules, so a network is a **tree**:

```
Net
 |- encoder: Linear       weight (64, 32)   bias (32,)
 |- blocks: [ Linear,     weight (32, 32)   bias (32,)
 |            Linear ]    weight (32, 32)   bias (32,)
 '- scale                 (1,)
```

Nobody writes a list: whoever asks walks the tree. The class below is given, and it is a table of contents, as `Tensor` was: its one-line methods call functions that you write next, one after another. Read it from top to bottom once. Two methods matter now:

- `__call__` runs when you write `layer(x)`. It calls `forward`.
- `__setattr__` runs when you write `self.weight = tensor`. That is the moment at which a module can notice that it got a parameter, so nobody has to say so.
"""


# %% nbgrader={"grade": false, "grade_id": "module-class", "locked": true, "solution": false}
#| export
class Module:
    """A function with parameters, and the tree of the modules that it is made of.

    A subclass defines `forward`. Every Tensor attribute is a parameter: it requires a gradient,
    unless it is no floating-point tensor; a Tensor assigned over a parameter takes over its
    `requires_grad`. `register_buffer` declares Tensors that aren't parameters. Attributes that are
    modules, or lists, tuples and dicts of them, are the children; an object that has a `forward`
    method without being a Module (an activation) is a leaf of the tree.

    >>> class Scale(Module):
    ...     def __init__(self):
    ...         self.factor = Tensor([2.0])
    ...     def forward(self, x):
    ...         return self.factor * x
    >>> Scale()(Tensor([3.0])).item(), Scale().named_parameters()
    (6.0, [('factor', Tensor([2.], requires_grad=True))])
    """

    training: bool = True
    _buffers: Mapping[str, bool] = MappingProxyType({})  # name -> is it saved in state_dict
    _forward_hooks: Mapping[object, Callable] = MappingProxyType({})
    _forward_pre_hooks: Mapping[object, Callable] = MappingProxyType({})

    def forward(self, *inputs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} needs a method forward(self, x)")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if self._forward_hooks or self._forward_pre_hooks:
            return call_with_hooks(self, inputs, options)
        return self.forward(*inputs, **options)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and name not in self._buffers:
            adopt_parameter(self, name, value)
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return module_repr(self)

    def _extra_repr(self) -> str:
        """What stands between the parentheses of the repr, before the children."""
        return ""

    # --- the tree ---
    def named_children(self) -> list[tuple[str, Any]]:
        """The modules among the attributes, by name: `("blocks.0", Linear(...))` in a list."""
        return [pair for name, value in vars(self).items() for pair in modules_in(name, value)]

    def children(self) -> list[Any]:
        """The modules among the attributes."""
        return [child for _, child in self.named_children()]

    def named_modules(self) -> list[tuple[str, Any]]:
        """This module, named "", and all below it, each once, parents first."""
        return named_modules(self)

    def modules(self) -> list[Any]:
        """This module and all below it, each once."""
        return [module for _, module in self.named_modules()]

    def apply(self, function: Callable[[Any], None]) -> Module:
        """Call `function` on every module of the tree, children before their parents."""
        for module in reversed(self.modules()):
            function(module)
        return self

    def set_submodule(self, name: str, module: Any) -> None:
        """Put `module` in the place that `named_modules` calls `name`, such as "blocks.0"."""
        set_submodule(self, name, module)

    # --- parameters and buffers ---
    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """The parameters of the whole tree, frozen ones too; one that is shared comes once."""
        return named_tensors(self, buffers=False)

    def parameters(self) -> list[Tensor]:
        """The parameters of the whole tree, as an optimizer takes them."""
        return [tensor for _, tensor in self.named_parameters()]

    def named_buffers(self) -> list[tuple[str, Tensor]]:
        """The registered buffers of the whole tree."""
        return named_tensors(self, buffers=True)

    def buffers(self) -> list[Tensor]:
        """The registered buffers of the whole tree."""
        return [tensor for _, tensor in self.named_buffers()]

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Keep a Tensor that isn't a parameter; unless `persistent=False`, it is saved too."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: {name} is a {type(tensor).__name__}, not a Tensor")
        self._buffers = {**self._buffers, name: persistent}
        setattr(self, name, tensor)

    def zero_grad(self) -> None:
        """Forget every parameter's gradient."""
        for parameter in self.parameters():
            parameter.grad = None

    def requires_grad_(self, flag: bool = True) -> Module:
        """Freeze all parameters (flag False), or train them again."""
        for parameter in self.parameters():
            parameter.requires_grad = flag and parameter.dtype.kind == "f"
        return self

    # --- saving and loading ---
    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name, as they are (to keep them, copy.deepcopy)."""
        return state_dict(self)

    def load_state_dict(
        self, state: Mapping[str, Any], strict: bool = True
    ) -> tuple[list[str], list[str]]:
        """Write the values of `state` (Tensors or arrays) into the parameters and buffers.

        Returns the names that `state` lacks and those that it has too many, which `strict` refuses.
        ValueError names what doesn't fit, and nothing has been written then.
        """
        return load_state_dict(self, state, strict)

    # --- modes and hooks ---
    def train(self, mode: bool = True) -> Module:
        """Set `training` in the whole tree: Dropout and its like behave differently."""
        self.training = mode
        for child in self.children():
            if isinstance(child, Module):
                child.train(mode)
        return self

    def eval(self) -> Module:
        """Turn `training` off in the whole tree."""
        return self.train(False)

    def register_forward_hook(self, hook: Callable[[Any, tuple, Any], Any]) -> HookHandle:
        """Call hook(module, inputs, output) after each forward; what it returns replaces output."""
        return HookHandle(self, "_forward_hooks", hook)

    def register_forward_pre_hook(self, hook: Callable[[Any, tuple], Any]) -> HookHandle:
        """Call hook(module, inputs) before each forward; what it returns replaces the inputs."""
        return HookHandle(self, "_forward_pre_hooks", hook)


# %% [markdown]
r"""
Which tensors should be trained? Every Tensor attribute, with three exceptions:

| assigned | becomes |
|---|---|
| a floating-point Tensor | a parameter: `requires_grad` turns True |
| a Tensor of integers | kept, but `requires_grad` stays False: there is no small step from 3 to 4 |
| a Tensor over another Tensor | it takes over the other's `requires_grad`: what was frozen stays frozen |
| a Tensor under a name given to `register_buffer` | a buffer: kept, saved, not trained |

**Exercise 2 (8 points).** The last row is done in `__setattr__`. Write the others, in `adopt_parameter`: it gets the module, the attribute's name and the Tensor, just before the assignment, and sets `tensor.requires_grad`. `vars(module)` is the dict of the attributes as they are so far. For example, with `layer.scale` frozen, `layer.scale = Tensor([2.0])` must give a Tensor with `requires_grad` False.
"""


# %% nbgrader={"grade": false, "grade_id": "adopt-parameter", "locked": false, "solution": true}
#| exporti
def adopt_parameter(module: Module, name: str, tensor: Tensor) -> None:
    """Make a Tensor that becomes an attribute trainable, like the parameter that it replaces.

    Raises ValueError for the result of a recorded operation, which no optimizer could update.
    """
    if not tensor.is_leaf:
        raise ValueError(
            f"{type(module).__name__}.{name}: a parameter can't be the result of an operation: "
            f"assign a new Tensor, or call register_buffer({name!r}, None, persistent=False) first"
        )
    ### BEGIN SOLUTION
    replaced = vars(module).get(name)
    wanted = replaced.requires_grad if isinstance(replaced, Tensor) else True
    tensor.requires_grad = wanted and tensor.dtype.kind == "f"
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-adopt-parameter", "locked": true, "points": 8, "solution": false}
def test_adopt_parameter():
    layer = Module()
    layer.scale = Tensor([1.0])
    check(layer.scale.requires_grad, True, "a floating-point Tensor becomes a parameter")
    layer.scale.requires_grad = False
    layer.scale = Tensor([2.0])
    check(layer.scale.requires_grad, False, "it replaces a frozen parameter, so it is frozen")
    layer.index = Tensor([1, 2], dtype=np.int64)
    check(layer.index.requires_grad, False, "integers have no gradient")
    ### BEGIN HIDDEN TESTS
    layer.scale.requires_grad = True
    layer.scale = Tensor([3.0])
    check(layer.scale.requires_grad, True, "the trainable one hands that on, too")
    layer.late = None
    layer.late = Tensor([1.0])
    check(layer.late.requires_grad, True, "what replaces None is a new parameter")
    layer.register_buffer("mean", Tensor([1.0]))
    check(layer.mean.requires_grad, False, "a buffer is no parameter")
    ### END HIDDEN TESTS


test_adopt_parameter()


# %% [markdown]
r"""
## Where do the numbers start?

A new layer needs numbers. All zeros won't do: every output would be the same, and stay the same. So they are random, but how large? The cell sends random numbers through 20 layers of width 256, each a `linear` and a `relu`, and prints the spread of what comes out. The weights are drawn from $[-k, k]$, with four different $k$.

**Predict** what happens to the spread for each: stays, grows, dies?
"""

# %%
width, depth = 256, 20
rules = {"1": 1.0, "0.01": 0.01, "1 / sqrt(n)": width**-0.5, "sqrt(6 / n)": (6 / width) ** 0.5}
spread = {}
for name, bound in rules.items():
    manual_seed(0)
    x = randn(64, width)
    spread[name] = []
    for _ in range(depth):
        x = relu(linear(x, bound * (2 * rand(width, width) - 1)))
        spread[name].append(x.std().item())
    print(f"k = {name:12}", *(f"{spread[name][layer]:9.2g}" for layer in (0, 1, 4, 9, 19)))

# %%
if plt:
    for name, style in zip(spread, ("k-", "k--", "k-.", "k:"), strict=True):
        plt.semilogy(range(1, depth + 1), spread[name], style, label=f"k = {name}")
    plt.title("What 20 layers do to the spread of their input")
    plt.xlabel("layer")
    plt.xticks(range(0, depth + 1, 5))
    plt.ylabel("standard deviation of the outputs")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
Every layer multiplies the spread by a constant, and 20 equal factors are a power of 20. Each output is a sum of $n$ products: if the inputs have the mean square $m$, the sum has the mean square $n \cdot \mathrm{var}(W) \cdot m$, and numbers drawn evenly from $[-k, k]$ have the variance $k^2 / 3$. With $k = \sqrt{6/n}$ that is $2m$, of which `relu` throws away one half: the spread stays (He et al. 2015).

PyTorch's default is $k = 1 / \sqrt{n}$, for weight and bias alike: a little too small, which does no harm in networks of a few layers, and never too large. We take the same, so that our networks start as theirs do.

**Exercise 3 (10 points).** Complete `Linear`. `__init__` stores the sizes, then `weight` with the shape `(in_features, out_features)` and, if there is to be one, `bias` with `(out_features,)`, both drawn evenly from $[-k, k)$ with $k = 1 / \sqrt{\texttt{in\_features}}$. Without a bias, `self.bias = None`. Sizes below 1 raise a `ValueError`. For example, `Linear(100, 5)` has a weight of shape (100, 5) with all numbers between -0.1 and 0.1.

<details><summary>Hint</summary>

`rand(a, b)` draws from [0, 1). Which line turns [0, 1) into [-1, 1), and which that into [-k, k)?

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "linear-layer", "locked": false, "solution": true}
#| export
class Linear(Module):
    """x @ weight + bias, with weight (in_features, out_features) and bias (out_features,).

    Both start uniform in [-k, k] with k = 1 / sqrt(in_features), the distribution of PyTorch's
    default (whose weight is stored transposed).

    >>> layer = Linear(3, 2)
    >>> layer
    Linear(in_features=3, out_features=2, bias=True)
    >>> layer(Tensor([[1, 2, 3]])).shape
    (1, 2)
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        ### BEGIN SOLUTION
        if in_features < 1 or out_features < 1:
            raise ValueError(f"Linear: sizes must be at least 1, got {in_features}, {out_features}")
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        self.weight = bound * (2 * rand(in_features, out_features) - 1)
        self.bias = bound * (2 * rand(out_features) - 1) if bias else None
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        return linear(x, self.weight, self.bias)
        ### END SOLUTION

    def _extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bias={self.bias is not None}"


# %% nbgrader={"grade": true, "grade_id": "test-linear-layer", "locked": true, "points": 10, "solution": false}
def test_linear_layer():
    manual_seed(0)
    layer = Linear(100, 50)
    check(layer.weight.shape, (100, 50), "the weight is (in_features, out_features)")
    check(layer.bias.shape, (50,), "one bias for each output")
    check(layer.weight.abs().max(), 0.1, "numbers reach to the ends of [-0.1, 0.1]", 1e-4)
    check(layer.weight.mean(), 0.0, "as many are negative as positive", 0.005)
    check(layer.weight.std(), 0.1 / math.sqrt(3), "drawn evenly, not from a bell", 0.001)
    x = randn(4, 100)
    check(layer(x), linear(x, layer.weight, layer.bias), "forward is linear with its own numbers")
    check(Linear(3, 2, bias=False).bias, None, "bias=False leaves the bias out")
    ### BEGIN HIDDEN TESTS
    check(Linear(1, 1000).bias.min(), -1.0, "the bias is drawn from [-k, k] too", 0.02)
    check(layer.bias.requires_grad, True, "the bias is a parameter")
    check(layer.weight.dtype, np.float32, "parameters are float32")
    check(Linear(3, 2, bias=False)(Tensor([[0, 0, 0]])), [[0.0, 0.0]], "no bias, nothing added")
    with check_raises(ValueError, "at least 1", "a layer without inputs has no k"):
        Linear(0, 2)
    ### END HIDDEN TESTS


test_linear_layer()


# %% [markdown]
r"""
Most networks are a chain: what one layer gives, the next one takes. `Sequential` is that chain.

**Exercise 4 (5 points).** Write its `forward`. `self.layers` is the list. With the layers $f, g, h$, `forward(x)` is $h(g(f(x)))$; without any it is $x$. A layer is *called*, like a function, since any function will do.
"""


# %% nbgrader={"grade": false, "grade_id": "sequential", "locked": false, "solution": true}
#| export
class Sequential(Module):
    """One module after the other: Sequential(a, b, ...), or a list of them.

    `layers` is the list. An index gives a layer, a slice another Sequential of the same layers.

    >>> model = Sequential(Linear(4, 8), Linear(8, 3))
    >>> model(Tensor([[1, 2, 3, 4]])).shape, len(model), model[-1]
    ((1, 3), 2, Linear(in_features=8, out_features=3, bias=True))
    """

    layers: list[Any]

    def __init__(self, *layers: Any):
        if len(layers) == 1 and isinstance(layers[0], (list, tuple)):
            layers = tuple(layers[0])
        for layer in layers:
            if not callable(layer):
                raise TypeError(f"Sequential: a layer must be callable, got {type(layer).__name__}")
        self.layers = list(layers)

    def forward(self, x: Any) -> Any:
        ### BEGIN SOLUTION
        for layer in self.layers:
            x = layer(x)
        return x
        ### END SOLUTION

    def named_children(self) -> list[tuple[str, Any]]:
        return [(name.removeprefix("layers."), child) for name, child in super().named_children()]

    def append(self, layer: Any) -> Sequential:
        """Add a layer at the end."""
        self.layers.append(layer)
        return self

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.layers)

    def __getitem__(self, index: int | slice) -> Any:
        return Sequential(self.layers[index]) if isinstance(index, slice) else self.layers[index]


# %% nbgrader={"grade": true, "grade_id": "test-sequential", "locked": true, "points": 5, "solution": false}
def test_sequential():
    steps = [lambda x: x + 1, lambda x: 10 * x, lambda x: x - 3]
    check(Sequential(*steps)(1), 17, "(1 + 1) * 10 - 3: each layer gets what the last one gave")
    check(Sequential(steps)(1), 17, "a list of layers means the same")
    ### BEGIN HIDDEN TESTS
    check(Sequential()(5), 5, "no layers change nothing")
    check(Sequential(*steps)[:2](1), 20, "a slice is a Sequential of those layers")
    ### END HIDDEN TESTS


test_sequential()


# %% [markdown]
r"""
## Walking the tree

A module must find the modules in its attributes. People keep them in three ways:

```python
self.first = Linear(64, 32)                    # found as "first"
self.blocks = [Linear(32, 32), ReLU()]         # found as "blocks.0" and "blocks.1"
self.heads = {"digit": Linear(32, 10)}         # found as "heads.digit"
```

**Exercise 5 (8 points).** Write `modules_in(name, value)`, which yields the pairs (name, module) of one attribute: the value itself, if `is_module` says that it is one; else what its items hold, for a dict, a list or a tuple, to any depth; else nothing. For example, `modules_in("a", [f, {"b": g}])` yields `("a.0", f)` and `("a.1.b", g)`.

<details><summary>Hint</summary>

The items of a list are values, too. `yield from` passes on all that another call of `modules_in` yields.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "modules-in", "locked": false, "solution": true}
#| exporti
def is_module(value: Any) -> bool:
    """Is it a Module, or something that is called like one: an object with a `forward` method?"""
    return isinstance(value, Module) or (hasattr(type(value), "forward") and callable(value))


def modules_in(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The modules that an attribute holds: itself, or those in its lists, tuples and dicts.

    >>> list(modules_in("blocks", [Identity(), {"skip": Identity()}]))
    [('blocks.0', Identity()), ('blocks.1.skip', Identity())]
    """
    ### BEGIN SOLUTION
    if is_module(value):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from modules_in(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from modules_in(f"{name}.{index}", item)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-modules-in", "locked": true, "points": 8, "solution": false}
def test_modules_in():
    f, g, h = Linear(1, 1), ReLU(), Linear(1, 1)
    names = [name for name, _ in modules_in("a", [f, {"b": g}, (h, 3)])]
    check(names, ["a.0", "a.1.b", "a.2.0"], "join the names by dots, index by index, key by key")
    check([name for name, _ in modules_in("a", f)], ["a"], "a module is found under its own name")
    check(list(modules_in("a", "text")), [], "what is no module and holds none gives nothing")
    ### BEGIN HIDDEN TESTS
    found = [module for _, module in modules_in("a", {"x": [[f], [g]]})]
    check([found[0] is f, found[1] is g], [True, True], "yield the modules themselves, in order")
    check(list(modules_in("a", Linear)), [], "the class Linear is no layer, only its objects are")
    check(len(Sequential(f, Sequential(g)).children()), 2, "children are the next level only")
    ### END HIDDEN TESTS


test_modules_in()


# %% [markdown]
r"""
With that, a module can print itself. The function is given: each child is one line, or several that are pushed to the right.
"""


# %% nbgrader={"grade": false, "grade_id": "module-repr", "locked": true, "solution": false}
#| exporti
def module_repr(module: Module) -> str:
    """The tree as text, one line for each child, as PyTorch prints it."""
    name, extra = type(module).__name__, module._extra_repr()
    children = [f"({part}): {child!r}" for part, child in module.named_children()]
    lines = [text.replace("\n", "\n  ") for text in children]
    if not lines:
        return f"{name}({extra})"
    return "\n  ".join([f"{name}({extra}", *lines]) + "\n)"


# %%
model = Sequential(Linear(64, 32), ReLU(), Sequential(Linear(32, 16), ReLU()), Linear(16, 10))
print(model)

# %% [markdown]
r"""
**Exercise 6 (9 points).** Now the whole tree. Write `named_modules(root)`: the root, named `""`, then everything below it, parents before their children, with names joined by dots: `"2.0"` is child 0 of child 2. A module that hangs in two places (that is how layers share their weights) is listed once, where it comes first. An activation like `ReLU` has no children, and no method `named_children`: only ask a `Module`.

<details><summary>Hint</summary>

Write an inner function `visit(name, module)` that calls itself, and keep the `id` of every module that you have seen in a set.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "named-modules", "locked": false, "solution": true}
#| exporti
def named_modules(root: Module) -> list[tuple[str, Any]]:
    """A module, named "", and all below it with dotted names, each once, parents first.

    >>> [name for name, _ in named_modules(Sequential(Identity(), Sequential(Identity())))]
    ['', '0', '1', '1.0']
    """
    ### BEGIN SOLUTION
    found: list[tuple[str, Any]] = []
    seen: set[int] = set()

    def visit(name: str, module: Any) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        found.append((name, module))
        if isinstance(module, Module):
            for part, child in module.named_children():
                visit(f"{name}.{part}" if name else part, child)

    visit("", root)
    return found
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-named-modules", "locked": true, "points": 9, "solution": false}
def test_named_modules():
    model = Sequential(Linear(4, 3), Sequential(ReLU(), Linear(3, 3)), Linear(3, 2))
    names = [name for name, _ in named_modules(model)]
    check(names, ["", "0", "1", "1.0", "1.1", "2"], "parents first, names joined by dots")
    shared = Linear(3, 3)
    names = [name for name, _ in named_modules(Sequential(shared, ReLU(), shared))]
    check(names, ["", "0", "1"], "a shared module comes once")
    ### BEGIN HIDDEN TESTS
    twice = Sequential(Sequential(shared), Sequential(Sequential(shared)))
    names = [name for name, _ in named_modules(twice)]
    check(names, ["", "0", "0.0", "1", "1.0"], "shared at different depths, it still comes once")
    check(named_modules(model)[3][1] is model[1][0], True, "pairs of name and module")
    check(model.eval()[1].training, False, "eval reaches every level")
    ### END HIDDEN TESTS


test_named_modules()


# %% [markdown]
r"""
**Exercise 7 (9 points).** The parameters of the whole tree. Write `named_tensors(root, buffers)`: for every `Module` of the tree, in order, the Tensors among its attributes: the parameters, or with `buffers=True` the buffers (`name in module._buffers` tells). The names are the module's path, a dot and the attribute: `"0.weight"`, or just `"scale"` for an attribute of the root. A Tensor that two modules share comes once. Frozen parameters count: whoever saves a model wants them, and an optimizer passes them over.
"""


# %% nbgrader={"grade": false, "grade_id": "named-tensors", "locked": false, "solution": true}
#| exporti
def named_tensors(root: Module, buffers: bool) -> list[tuple[str, Tensor]]:
    """The parameters, or the buffers, of a tree by dotted name; a shared tensor comes once.

    >>> [name for name, _ in named_tensors(Sequential(Linear(3, 2)), buffers=False)]
    ['0.weight', '0.bias']
    """
    ### BEGIN SOLUTION
    found: list[tuple[str, Tensor]] = []
    seen: set[int] = set()
    for path, module in root.named_modules():
        if not isinstance(module, Module):
            continue
        for name, value in vars(module).items():
            wanted = isinstance(value, Tensor) and (name in module._buffers) == buffers
            if wanted and id(value) not in seen:
                seen.add(id(value))
                found.append((f"{path}.{name}" if path else name, value))
    return found
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-named-tensors", "locked": true, "points": 9, "solution": false}
def test_named_tensors():
    model = Sequential(Linear(4, 3), ReLU(), Linear(3, 2))
    model.scale = Tensor([1.0])
    model[2].register_buffer("seen", Tensor([0.0]))
    names = [name for name, _ in named_tensors(model, buffers=False)]
    check(names, ["scale", "0.weight", "0.bias", "2.weight", "2.bias"], "path, dot, attribute")
    names = [name for name, _ in named_tensors(model, buffers=True)]
    check(names, ["2.seen"], "buffers apart from parameters")
    ### BEGIN HIDDEN TESTS
    model[0].weight.requires_grad = False
    check(len(named_tensors(model, buffers=False)), 5, "a frozen parameter counts")
    model.tied = model[0].weight
    check(len(named_tensors(model, buffers=False)), 5, "a shared tensor comes once")
    check(model.parameters()[0] is model.scale, True, "the tensors themselves, not copies")
    deep = Sequential(Sequential(Linear(1, 1, bias=False)))
    names = [name for name, _ in named_tensors(deep, buffers=False)]
    check(names, ["0.0.weight"], "the whole path stands before the attribute")
    ### END HIDDEN TESTS


test_named_tensors()


# %% [markdown]
r"""
Back to the report. **Predict** how many numbers the network below has, for MNIST's images of 28 x 28 pixels, and how many bytes. In which layer are most of them?
"""

# %%
mlp = Sequential(Linear(784, 100), ReLU(), Linear(100, 100), ReLU(), Linear(100, 10))
for name, tensor in mlp.named_parameters():
    print(f"{name:10} {tensor.shape!s:12} {tensor.size:7,}")
print(f"together {sum(tensor.size for tensor in mlp.parameters()):,} numbers,", end=" ")
print(f"{sum(tensor.nbytes for tensor in mlp.parameters()):,} bytes")

# %% [markdown]
r"""
## Saving and loading

A model is its code and its numbers. The code is in your files; the numbers are a dict from name to Tensor, the **state dict**.

**Exercise 8 (6 points).** Write `state_dict(module)`: the Tensors of the module itself, then those of its children with the child's name and a dot in front. Two differences from `named_tensors`: buffers belong to it, unless they were registered with `persistent=False` (`module._buffers` maps each buffer's name to that flag), and a shared Tensor stands under *each* of its names, so that the dict also fits a model that doesn't share. Give `value.detach()`: a Tensor on the same memory, outside of any training.
"""


# %% nbgrader={"grade": false, "grade_id": "state-dict", "locked": false, "solution": true}
#| exporti
def state_dict(module: Module) -> dict[str, Tensor]:
    """All that a model has learned, by name: tensors that share the model's memory.

    A shared tensor stands under each of its names; buffers that aren't persistent stay out.

    >>> list(state_dict(Sequential(Linear(3, 2))))
    ['0.weight', '0.bias']
    """
    ### BEGIN SOLUTION
    state = {
        name: value.detach()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and module._buffers.get(name, True)
    }
    for path, child in module.named_children():
        if isinstance(child, Module):
            state.update({f"{path}.{name}": tensor for name, tensor in child.state_dict().items()})
    return state
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-state-dict", "locked": true, "points": 6, "solution": false}
def test_state_dict():
    model = Sequential(Linear(2, 3), ReLU(), Linear(3, 3))
    model.register_buffer("seen", Tensor([0.0]))
    names = ["seen", "0.weight", "0.bias", "2.weight", "2.bias"]
    check(list(state_dict(model)), names, "own tensors first, then those of the children")
    same = state_dict(model)["0.weight"].data is model[0].weight.data
    check(same, True, "the same memory: no copies")
    ### BEGIN HIDDEN TESTS
    model.register_buffer("cache", Tensor([0.0]), persistent=False)
    check("cache" in state_dict(model), False, "a buffer that isn't persistent stays out")
    model[2].weight = model[0].weight
    check("2.weight" in state_dict(model), True, "a shared tensor stands under each name")
    check(state_dict(model)["0.bias"].requires_grad, False, "detached")
    ### END HIDDEN TESTS


test_state_dict()


# %% [markdown]
r"""
Loading is the dangerous direction. A file may come from another version of the model: a name is missing, a shape differs. A loader that stops in the middle leaves half of the old model and half of the new one, which is worse than either. So: **look at everything first, then write everything.**

Two helpers are given: `unfit` yields a line for every array that can't be written into its tensor, and `summary` makes one line of many.
"""


# %% nbgrader={"grade": false, "grade_id": "load-state-dict-parts", "locked": true, "solution": false}
#| exporti
def unfit(own: Mapping[str, Tensor], given: Mapping[str, np.ndarray]) -> Iterator[str]:
    """What is wrong with the arrays that are to be written into tensors of the same names."""
    for name, array in given.items():
        tensor = own[name]
        if array.shape != tensor.shape:
            yield f"{name} has shape {array.shape}, the model {tensor.shape}"
        elif not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
            yield f"{name} is {array.dtype}, the model {tensor.dtype}"


def summary(faults: list[str], limit: int = 4) -> str:
    """The first few faults, and how many more there are."""
    more = f"; and {len(faults) - limit} more" if len(faults) > limit else ""
    return "; ".join(faults[:limit]) + more


# %% [markdown]
r"""
**Exercise 9 (9 points).** Write `load_state_dict`. Collect the faults as lines of text: with `strict`, one for each name of the model that has no value, and one for each value that has no place; always those of `unfit`. If there are any, raise `ValueError(f"load_state_dict: {summary(faults)}")`. Else write, *in place*: `tensor.data[...] = array` keeps the array that everybody else may hold, too, where `tensor.data = array` would put another one beside it. Tell `writes.add(tensor.data)` after each. Return the two lists of names.

The model's own tensors are `module.state_dict()`. The values may be Tensors or arrays; `np.asarray` takes both. For example, `load_state_dict(Linear(1, 1), {"weight": [[2.0]]}, strict=False)` writes the weight and returns `(["bias"], [])`.
"""


# %% nbgrader={"grade": false, "grade_id": "load-state-dict", "locked": false, "solution": true}
#| exporti
def load_state_dict(
    module: Module, state: Mapping[str, Any], strict: bool = True
) -> tuple[list[str], list[str]]:
    """Write values into a model in place: all of them, or, where something doesn't fit, none.

    Returns the missing and the unexpected names.

    >>> model = Linear(1, 1, bias=False)
    >>> model.load_state_dict({"weight": np.array([[7.0]])})
    ([], [])
    >>> model(Tensor([2.0])).item()
    14.0
    """
    ### BEGIN SOLUTION
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    given = {name: np.asarray(state[name]) for name in own if name in state}
    faults = [f"no value for {name}" for name in missing] if strict else []
    faults += [f"no place for {name}" for name in unexpected] if strict else []
    faults += unfit(own, given)
    if faults:
        raise ValueError(f"load_state_dict: {summary(faults)}")
    for name, array in given.items():
        own[name].data[...] = array
        writes.add(own[name].data)
    return missing, unexpected
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-load-state-dict", "locked": true, "points": 9, "solution": false}
def test_load_state_dict():
    model, other = Linear(2, 1), Linear(2, 1)
    array = model.weight.data
    check(load_state_dict(model, other.state_dict()), ([], []), "nothing missing, nothing left")
    check(model.weight, other.weight.numpy(), "the values were written")
    check(model.weight.data is array, True, "in place: into the array that was there")
    with check_raises(ValueError, "bias", "say which name has no value"):
        load_state_dict(model, {"weight": np.zeros((2, 1))})
    check(model.weight, other.weight.numpy(), "where something is missing, nothing is written")
    ### BEGIN HIDDEN TESTS
    with check_raises(ValueError, "(1, 2)", "a transposed weight doesn't fit"):
        load_state_dict(model, {"bias": np.zeros(1), "weight": np.zeros((1, 2))})
    check(model.bias, other.bias.numpy(), "all or nothing: the bias would have fitted")
    with check_raises(ValueError, "extra", "say which value has no place"):
        load_state_dict(model, {**other.state_dict(), "extra": np.zeros(1)})
    state, moment = {"bias": [7.0], "extra": [1.0]}, writes.clock
    check(load_state_dict(model, state, strict=False), (["weight"], ["extra"]), "what was left")
    check(model.bias, [7.0], "without strict, what fits is written")
    check(writes.since(model.bias.data, moment), True, "tell the write log")
    ### END HIDDEN TESTS


test_load_state_dict()


# %% [markdown]
r"""
## A layer with two lives

Some layers behave differently while a network learns. `Dropout` is the simplest. In training it throws away each number with probability $p$: the layers after it can't rely on any single one, and learn sturdier questions. When the network is used, nothing is thrown away.

```
 x         1    2    3    4    5    6
 kept?     no   yes  yes  no   yes  no         p = 0.5
 out       0    4    6    0    10   0          kept numbers / (1 - p)
```

**Predict:** why are the kept ones doubled? What would the next layer notice if they weren't?

$$\mathrm{out}_i = \begin{cases} x_i / (1 - p) & \text{with probability } 1 - p \\ 0 & \text{else} \end{cases} \qquad E[\mathrm{out}_i] = (1 - p) \frac{x_i}{1 - p} + p \cdot 0 = x_i$$

The next layer sums many of these numbers, and its sums must not change by a factor on the day when the dropout ends.

**Exercise 10 (10 points).** Write `Dropout.forward`. In eval mode (`self.training` is False) and for $p = 0$, return `x` itself. Else draw one random number for *each element* by `generator.random(x.shape, np.float32)`, decide which are kept, and return x times an array of 0 and $1 / (1 - p)$, in the dtype of `x`.
"""


# %% nbgrader={"grade": false, "grade_id": "dropout", "locked": false, "solution": true}
#| export
class Dropout(Module):
    """In training, zero each element with probability p and divide the others by 1 - p.

    The expected value stays what it was, so that nothing is to be done in eval mode.
    (Srivastava et al. 2014, in the "inverted" form.) Raises ValueError unless 0 <= p < 1.

    >>> Dropout(0.5).eval()(Tensor([1, 2, 3]))
    Tensor([1., 2., 3.])
    """

    def __init__(self, p: float = 0.5):
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p must be at least 0 and less than 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        if not self.training or self.p == 0:
            return x
        kept = generator.random(x.shape, np.float32) >= self.p
        return x * np.multiply(kept, 1 / (1 - self.p), dtype=x.dtype)
        ### END SOLUTION

    def _extra_repr(self) -> str:
        return f"p={self.p}"


# %% nbgrader={"grade": true, "grade_id": "test-dropout", "locked": true, "points": 10, "solution": false}
def test_dropout():
    manual_seed(0)
    x = Tensor(np.full((100, 100), 3.0))
    out = Dropout(0.25)(x)
    check(sorted(set(out.numpy().ravel().tolist())), [0.0, 4.0], "3 is dropped, or 3 / 0.75 = 4")
    check((out == 0).astype(float).mean(), 0.25, "a quarter is dropped", 0.03)
    check(out.mean(), 3.0, "the mean stays", 0.03)
    check(Dropout(0.25).eval()(x), x.numpy(), "in eval mode nothing is dropped")
    ### BEGIN HIDDEN TESTS
    rows = {tuple(row) for row in out.numpy().tolist()}
    columns = {tuple(column) for column in out.numpy().T.tolist()}
    check((len(rows), len(columns)), (100, 100), "each element is drawn for itself")
    again = Dropout(0.25)(x)
    check(bool((again == out).all()), False, "each call draws anew")
    wide = Tensor(np.ones(9), dtype=np.float64)
    check(Dropout(0.5)(wide).dtype, np.float64, "float64 must be kept")
    check(x.min(), 3.0, "x itself must not change")
    model = Sequential(Linear(2, 2), Dropout(0.5))
    model.eval()
    check(model[1].training, False, "eval reaches the dropout inside a model")
    ### END HIDDEN TESTS


test_dropout()


# %% [markdown]
r"""
Two small layers are given: `Flatten` makes rows of images, and `Identity` does nothing, which is useful where a layer is to be taken out.
"""


# %% nbgrader={"grade": false, "grade_id": "shapes", "locked": true, "solution": false}
#| export
class Flatten(Module):
    """Axes start_dim to end_dim become one: images (N, H, W) become rows (N, H * W).

    >>> Flatten()(Tensor([[[1, 2], [3, 4]]]))
    Tensor([[1., 2., 3., 4.]])
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)

    def _extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """What comes in goes out: it takes the place of a layer that isn't wanted."""

    def forward(self, x: Any) -> Any:
        return x


# %% [markdown]
r"""
## Looking inside

You have a model of 50 layers and the output is `nan`. Where did it start? You don't want to edit 50 `forward` methods to print. A **hook** is a function that a module calls when it runs, and it can be taken away again:

```python
handle = layer.register_forward_hook(lambda module, inputs, output: print(output.std()))
...
handle.remove()
```

**Exercise 11 (6 points).** `Module.__call__` calls `call_with_hooks` if there are hooks. Write it. First the pre-hooks, `hook(module, inputs)`, with `inputs` the tuple of arguments: what one returns takes the inputs' place, as a tuple, or as one value that you put into a tuple. Then `module.forward(*inputs, **options)`. Then the hooks, `hook(module, inputs, output)`: what one returns takes the output's place, and the next hook sees it. A hook that returns `None` changes nothing. (0 and empty lists are not `None`.)
"""


# %% nbgrader={"grade": false, "grade_id": "call-with-hooks", "locked": false, "solution": true}
#| exporti
class HookHandle:
    """What registering a hook returns: `remove()` takes the hook away again."""

    def __init__(self, module: Module, table: str, hook: Callable):
        self.module, self.table, self.key = module, table, object()
        setattr(module, table, {**getattr(module, table), self.key: hook})

    def remove(self) -> None:
        """Take the hook away; nothing happens where it is gone already."""
        hooks = getattr(self.module, self.table)
        rest = {key: hook for key, hook in hooks.items() if key is not self.key}
        setattr(self.module, self.table, rest)


def call_with_hooks(module: Module, inputs: tuple, options: dict[str, Any]) -> Any:
    """Run the pre-hooks, forward and the hooks; what a hook returns replaces what it was shown.

    >>> layer = Identity()
    >>> handle = layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    >>> layer(21)
    42
    >>> handle.remove()
    >>> layer(21)
    21
    """
    ### BEGIN SOLUTION
    for hook in module._forward_pre_hooks.values():
        replaced = hook(module, inputs)
        if replaced is not None:
            inputs = replaced if isinstance(replaced, tuple) else (replaced,)
    output = module.forward(*inputs, **options)
    for hook in module._forward_hooks.values():
        replaced = hook(module, inputs, output)
        if replaced is not None:
            output = replaced
    return output
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-call-with-hooks", "locked": true, "points": 6, "solution": false}
def test_call_with_hooks():
    layer, seen = Identity(), []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    check(layer(3), 3, "a hook that returns None changes nothing")
    check(seen, [(3,)], "the hook was called once, with the tuple of inputs")
    layer.register_forward_hook(lambda module, inputs, output: output * 10)
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    check(layer(3), 31, "each hook gets what the last one returned")
    handle.remove()
    layer(3)
    check(len(seen), 2, "a removed hook is not called any more")
    doubling = Sequential(lambda x: 2 * x)
    doubling.register_forward_hook(lambda module, inputs, output: (inputs[0], output))
    check(doubling(3), (3, 6), "a hook sees what went in and what came out")
    ### BEGIN HIDDEN TESTS
    layer.register_forward_pre_hook(lambda module, inputs: inputs[0] + 4)
    check(layer(3), 71, "a pre-hook replaces the inputs: (3 + 4) * 10 + 1")
    other = Identity()
    other.register_forward_hook(lambda module, inputs, output: 0)
    check(other(3), 0, "0 is an answer, None is not")
    other.register_forward_pre_hook(lambda module, inputs: (inputs[0],))
    check(other(3), 0, "a tuple of inputs is taken as it is")
    ### END HIDDEN TESTS


test_call_with_hooks()


# %% [markdown]
r"""
Here hooks answer a question from above without touching a single `forward`: what does each layer of a *real* `Linear` network do to the spread of its input?
"""

# %%
manual_seed(0)
deep = Sequential([layer for _ in range(6) for layer in (Linear(256, 256), ReLU())])
spreads = []
handles = [
    layer.register_forward_hook(lambda module, inputs, output: spreads.append(output.std().item()))
    for layer in deep
    if isinstance(layer, Module)
]
deep(randn(64, 256))
for handle in handles:
    handle.remove()
print("spread after each Linear:", [round(value, 3) for value in spreads])

# %% [markdown]
r"""
It shrinks as the third row of the table said, until the biases hold it up.

The last given piece replaces a module by another one, wherever it hangs: `model.set_submodule("1.0", Identity())`. It is the key to changing a network that somebody else built.
"""


# %% nbgrader={"grade": false, "grade_id": "set-submodule", "locked": true, "solution": false}
#| exporti
def set_submodule(root: Module, name: str, module: Any) -> None:
    """Put `module` in the place that `named_modules(root)` calls `name`."""
    place: Any = root
    container: Any = None
    key: Any = None
    for part in name.split("."):
        try:
            container, key = slot(place, part)
            place = container[key]
        except (LookupError, TypeError, ValueError):
            raise KeyError(f"set_submodule: {type(root).__name__} has no {name!r}") from None
    if not is_module(place) or isinstance(container, tuple):
        raise KeyError(f"set_submodule: {name!r} of {type(root).__name__} can't be replaced")
    container[key] = module


def slot(holder: Any, part: str) -> tuple[Any, Any]:
    """The container and the key under which a module, list, tuple or dict has a part."""
    if isinstance(holder, Sequential) and part.isdigit():
        holder = holder.layers
    container = vars(holder) if isinstance(holder, Module) else holder
    if isinstance(container, dict):
        return container, next((key for key in container if str(key) == part), part)
    return container, int(part)


# %% [markdown]
r"""
## Put together: a network for real digits

The 1,797 images of digits have 8 by 8 pixels. The network is 64 -> 512 -> 10. Its first layer stays as it starts: 512 random questions about an image. The best second layer for 1,400 of the images is found by a solver, and `load_state_dict` puts it in.
"""

# %%
digits = np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz")
images, labels = Tensor(digits["images"] / 16), digits["labels"]


def new_model(p: float = 0.0) -> Sequential:
    return Sequential(Flatten(), Linear(64, 512), ReLU(), Dropout(p), Linear(512, 10))


def accuracy(model: Sequential) -> float:
    """The share of the 397 images that the solver has not seen."""
    return float((model(images[1400:]).numpy().argmax(axis=1) == labels[1400:]).mean())


def solve(model: Sequential, passes: int = 1) -> None:
    """Put the best last layer in, for what the other layers gave in some passes in train mode."""
    model.train()
    answers = np.concatenate([model[:-1](images[:1400]).numpy() for _ in range(passes)])
    answers = np.column_stack([answers, np.ones(len(answers), np.float32)])
    wanted = np.tile(np.eye(10, dtype=np.float32)[labels[:1400]], (passes, 1))
    best = np.linalg.lstsq(answers, wanted, rcond=1e-4)[0]
    model[-1].load_state_dict({"weight": best[:-1], "bias": best[-1]})
    model.eval()


# %%
manual_seed(0)
model = new_model().eval()
print(f"before: {accuracy(model):.1%}")
solve(model)
print(f"after:  {accuracy(model):.1%}")

# %% [markdown]
r"""
Now the numbers go into a file and come back into a new model, which started with other random numbers. **Predict:** how large is the file, to the nearest 10 kB? (64 · 512 + 512 + 512 · 10 + 10 numbers of 4 bytes.)
"""

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "digits_model.npz"
    np.savez(path, **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
    print(f"{path.stat().st_size:,} bytes on disk,", end=" ")
    print(f"{sum(tensor.nbytes for tensor in model.parameters()):,} in memory")
    copied = new_model().eval()
    with np.load(path) as saved:
        copied.load_state_dict(saved)
print(
    f"the copy: {accuracy(copied):.1%}, first answers", copied(images[:5]).argmax(axis=1).tolist()
)

# %% [markdown]
r"""
And dropout? Here is a second network, whose solver saw the images twice with half of the questions thrown away at random. Both are then used as one uses a network after forgetting `eval()`: with some of the questions still thrown away.

**Predict:** which network suffers more when a tenth of its 512 questions is missing? How much, roughly? And which one is better in eval mode?
"""

# %%
from tqdm import tqdm

sturdy = new_model(p=0.5)
solve(sturdy, passes=2)
chances = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9]
found = {"solved without dropout": (model, []), "solved with dropout": (sturdy, [])}
for network, results in tqdm(found.values(), disable=None):
    for p in chances:
        network[3].p = p
        results.append(np.mean([accuracy(network.train()) for _ in range(5)]))
    print(f"{accuracy(network.eval()):6.1%} in eval mode; missing:", end="")
    print(*(f"{p:6} {result:6.1%}" for p, result in zip(chances, results, strict=True)))

# %%
if plt:
    for (name, (_, results)), style in zip(found.items(), ("ko-", "ks--"), strict=True):
        plt.plot(
            [100 * p for p in chances], [100 * result for result in results], style, label=name
        )
    plt.title("Digits: a network whose hidden units go missing")
    plt.xlabel("hidden units thrown away (%)")
    plt.ylabel("accuracy on 397 other images (%)")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
The first network has balanced 512 questions against one another so finely that it falls over when a tenth is missing. The second can't rely on any one of them, and bends instead of breaking. Compare the two in eval mode, too: sturdiness has its price. And compare the second network with and without `eval()` at 50 %. That difference is what forgetting it costs, and on no two runs on the same images.

## Systems: a linear layer is a matrix, and the matrix must be read

One row through `Linear(n, n)` takes $2 n^2$ operations (a product and a sum for each weight) and reads $4 n^2$ bytes of weights. A batch uses each weight that was read for all of its rows. **Predict:** how much longer do 64 rows take than one?
"""


# %%
def seconds(run, rounds: int = 7, repeats: int = 1) -> float:
    """The shortest of several measurements: what else the machine does only ever adds time."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        times.append((time.perf_counter() - start) / repeats)
    return min(times)


print(
    f"{'n':>5} {'weight bytes':>13} {'rows':>5} {'us':>9} {'us a row':>9} {'GFLOP/s':>8} {'GB/s':>6}"
)
for n in (64, 512, 2048):
    layer = Linear(n, n)
    for rows in (1, 8, 64, 512):
        x = randn(rows, n)
        time_of_one = seconds(lambda layer=layer, x=x: layer(x))
        flops, size = 2 * rows * n * n, layer.weight.nbytes
        print(
            f"{n:5} {size:13,} {rows:5} {1e6 * time_of_one:9.1f} {1e6 * time_of_one / rows:9.2f} "
            f"{flops / time_of_one / 1e9:8.1f} {size / time_of_one / 1e9:6.1f}"
        )

# %% [markdown]
r"""
With one row the last column is near the speed of the machine's memory (or of its cache, for small $n$), and the arithmetic waits. With hundreds of rows GFLOP/s reach their limit, and the memory waits. That is why networks are trained in batches, and why a chatbot that writes for one person wastes most of its processor.

What do your classes add to NumPy's product? The next cell takes the layer apart.
"""

# %%
layer, x = Linear(64, 64), randn(1, 64)
weight, bias, row = layer.weight.numpy(), layer.bias.numpy(), x.numpy()
parts = {
    "row @ weight + bias, NumPy alone": lambda: row @ weight + bias,
    "linear(arrays), with its checks": lambda: linear(row, weight, bias),
    "linear(tensors), an operation": lambda: linear(x, layer.weight, layer.bias),
    "layer(x), a module": lambda: layer(x),
}
for name, run in parts.items():
    print(f"{name:34} {1e6 * seconds(run, repeats=2000):6.2f} us")

# %% [markdown]
r"""
For a matrix as small as this one, what is around the product costs more than the product; the table above shows how soon that stops to matter. PyTorch pays the same kind of price, in C++: `torch.nn.functional.linear`. Its weight has the shape (out, in), and it computes $x W^T$: in its early days each output's weights lay side by side in memory that way. A matrix library reads both orders equally fast.

## Questions

**1 (3 points).** A network 784 -> 100 -> 100 -> 10 with biases, in float32: how many parameters has each layer, how many bytes are they together, and which share of them is in the first layer?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-parameters", "points": 3, "solution": true}
r"""
784 · 100 + 100 = 78,500; 100 · 100 + 100 = 10,100; 100 · 10 + 10 = 1,010. Together 89,610 parameters, 358,440 bytes. The first layer has 78,500 / 89,610 = 87.6 % of them: the input is wide.
"""

# %% [markdown]
r"""
**2 (3 points).** `Linear(4096, 4096)` on a machine that reads 20 GB/s from memory and computes 100 GFLOP/s. How long does it take to read the weights? How long to compute one row? From how many rows on is the arithmetic what counts?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-batch", "points": 3, "solution": true}
r"""
4,096² · 4 = 67,108,864 bytes take 3.36 ms to read. One row is 2 · 4,096² = 33.6 million operations: 0.336 ms. Both are equal at 10 rows; below that the time is the reading, whatever the number of rows, and nine tenths of the processor's time are wasted on a single row.
"""

# %% [markdown]
r"""
**3 (3 points).** Weights from $[-k, k]$ with $k = 1 / \sqrt{n}$ have the variance $1 / (3n)$. By which factor does a layer without bias and without a bend change the mean square of its input? By which factor do ten of them change the standard deviation? Which $k$ would keep it?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-start", "points": 3, "solution": true}
r"""
A sum of $n$ products has the mean square $n \cdot \frac{1}{3n} \cdot m = m / 3$. Ten layers: $3^{-10}$ of the mean square, $3^{-5} = 0.0041$ of the standard deviation. The mean square stays if $n k^2 / 3 = 1$, that is $k = \sqrt{3 / n}$ (and $\sqrt{6/n}$ where `relu` takes half of it away).
"""

# %% [markdown]
r"""
**4 (3 points).** A number 1 passes `Dropout(p)`. What is the variance of what comes out, for $p = 0.5$ and for $p = 0.9$? And after two `Dropout(0.5)`, one behind the other: with which probability does it survive, and what is it then?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-dropout", "points": 3, "solution": true}
r"""
It is $1/(1-p)$ with probability $1-p$, so its mean square is $1/(1-p)$ and its variance $1/(1-p) - 1 = p/(1-p)$: 1 for $p = 0.5$, 9 for $p = 0.9$. After two it survives with probability 0.25 and is then 4; the mean is still 1, the variance 3.
"""

# %% [markdown]
r"""
## All tests once more
"""


# %%
def test_module():
    for test in (test_linear, test_adopt_parameter, test_linear_layer, test_sequential):
        test()
    for test in (test_modules_in, test_named_modules, test_named_tensors, test_state_dict):
        test()
    for test in (test_load_state_dict, test_dropout, test_call_with_hooks):
        test()
    print("All tests of module 03 pass.")


test_module()


# %% [markdown]
r"""
**What works now:** layers that own their numbers, and trees of layers that find, print, save and load them.
You saw how the start of the weights decides whether a signal lives through 20 layers.
You met training and eval mode, and what it costs to forget one of them.
You know when a linear layer waits for memory, and when for arithmetic.
**Next:** one number that says how wrong a network is, `tito module start 04`.
"""

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
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tinytorch.core.tensor import Tensor, generator, op, rand, writes


# %% nbgrader={"grade": false, "grade_id": "linear", "locked": false, "schema_version": 3, "solution": true, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "module-class", "locked": true, "schema_version": 3, "solution": false, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "adopt-parameter", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def adopt_parameter(module: Module, name: str, tensor: Tensor) -> None:
    """Make a Tensor that becomes an attribute trainable, like the parameter that it replaces.

    Raises ValueError for the result of a recorded operation, which no optimizer could update.
    """
    ### BEGIN SOLUTION
    if not tensor.is_leaf:
        raise ValueError(
            f"{type(module).__name__}.{name}: a parameter can't be the result of an operation: "
            f"assign a new Tensor, or call register_buffer({name!r}, None, persistent=False) first"
        )
    replaced = vars(module).get(name)
    wanted = replaced.requires_grad if isinstance(replaced, Tensor) else True
    tensor.requires_grad = wanted and tensor.dtype.kind == "f"
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "modules-in", "locked": false, "schema_version": 3, "solution": true, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "named-modules", "locked": false, "schema_version": 3, "solution": true, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "set-submodule", "locked": true, "schema_version": 3, "solution": false, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "named-tensors", "locked": false, "schema_version": 3, "solution": true, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "state-dict", "locked": false, "schema_version": 3, "solution": true, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "load-state-dict", "locked": false, "schema_version": 3, "solution": true, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "load-state-dict-parts", "locked": true, "schema_version": 3, "solution": false, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "call-with-hooks", "locked": false, "schema_version": 3, "solution": true, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "module-repr", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
def module_repr(module: Module) -> str:
    """The tree as text, one line for each child, as PyTorch prints it."""
    name, extra = type(module).__name__, module._extra_repr()
    children = [f"({part}): {child!r}" for part, child in module.named_children()]
    lines = [text.replace("\n", "\n  ") for text in children]
    if not lines:
        return f"{name}({extra})"
    return "\n  ".join([f"{name}({extra}", *lines]) + "\n)"


# %% nbgrader={"grade": false, "grade_id": "linear-layer", "locked": false, "schema_version": 3, "solution": true, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "sequential", "locked": false, "schema_version": 3, "solution": true, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "dropout", "locked": false, "schema_version": 3, "solution": true, "task": false}
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


# %% nbgrader={"grade": false, "grade_id": "shapes", "locked": true, "schema_version": 3, "solution": false, "task": false}
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

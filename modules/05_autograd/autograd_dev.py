# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.autograd

# %% [markdown]
r"""
# Autograd

> Remember every operation, then walk back: reverse-mode automatic differentiation.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tinytorch.core import activations, layers, losses, tensor
from tinytorch.core.tensor import Tensor, active_watchers, install_watcher, paused, watching, writes

# %% [markdown]
r"""
## Recording
"""

# %% nbgrader={"grade": false, "grade_id": "node", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class Node:
    """One recorded operation: what ran, on what, and when.

    It hangs on the tensor that the operation made and holds the tensors that it read, never the
    other way round: a graph has no cycles and goes when its last tensor goes.
    """

    __slots__ = ("born", "inputs", "op", "params")

    def __init__(self, op: Callable, inputs: tuple | None, params: dict):
        self.op = op
        self.inputs = inputs  # None once a backward has passed and dropped them
        self.params = params
        self.born = writes.clock


# op -> one rule for each input, or one joint rule for all of them
rules: dict[Callable, tuple[Callable | None, ...] | Callable] = {}
without_rule: set[Callable] = set()  # ops that are known to have no gradient


def wants_gradient(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


# %% nbgrader={"grade": false, "grade_id": "record", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def record(op: Callable, inputs: tuple, params: dict, out: Tensor) -> None:
    """The watcher that remembers: hang a Node on `out` where an input wants a gradient."""
    ### BEGIN SOLUTION
    for x in inputs:
        if isinstance(x, Tensor) and x.requires_grad:
            break
    else:
        return
    if op in without_rule:
        return
    if op not in rules:
        name = op.__name__
        raise RuntimeError(f"{name}: no gradient rule: add vjp({name}, ...) or nondifferentiable({name})")
    if out.data.dtype.kind == "f":
        out.requires_grad = True
        out.node = Node(op, inputs, params)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "switches", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
install_watcher("autograd", record)


def no_grad():
    """Record nothing inside a `with` (or a function decorated with `@no_grad()`), in this thread.

    >>> w = Tensor([1.0], requires_grad=True)
    >>> with no_grad():
    ...     (2 * w).requires_grad
    False
    """
    return paused("autograd")


def enable_grad():
    """Record again, inside a `no_grad`."""
    return watching("autograd", record)


def is_grad_enabled() -> bool:
    """Would an operation be recorded here and now?"""
    return active_watchers().get("autograd") is not None


# %% [markdown]
r"""
## Rules
"""

# %% nbgrader={"grade": false, "grade_id": "vjp", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def vjp(op: Callable, *input_rules: Callable | None) -> None:
    """Say how `op` sends a gradient back: one rule for each input, None where there is none.

    A rule `(g, out, *inputs, **params)` takes the gradient of the loss with respect to the result
    and gives that with respect to its input (a vector-Jacobian product). It is written in what
    arrays and tensors share, and may leave broadcast axes in: the walk sums them away.
    """

    rules[op] = input_rules


def joint_vjp(op: Callable, rule: Callable) -> None:
    """One rule `(g, out, *inputs, **params)` for all inputs: a sequence of gradients, in order."""
    rules[op] = rule


def nondifferentiable(*ops: Callable) -> None:
    """Declare operations through which no gradient goes: comparisons, argmax and their like."""
    without_rule.update(ops)


# %% nbgrader={"grade": false, "grade_id": "unbroadcast", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def unbroadcast(g, shape: tuple[int, ...]):
    """Sum away the axes that broadcasting added to an input of this shape, or stretched from 1.

    >>> unbroadcast(np.ones((4, 3)), (3,)), unbroadcast(np.ones((4, 3)), (4, 1)).shape
    (array([4., 4., 4.]), (4, 1))
    """
    ### BEGIN SOLUTION
    if g.shape == shape:
        return g
    added = g.ndim - len(shape)
    stretched = [added + i for i, n in enumerate(shape) if n == 1 and g.shape[added + i] != 1]
    return g.sum(axis=(*range(added), *stretched)).reshape(shape)
    ### END SOLUTION


# %% [markdown]
r"""
## The walk
"""

# %% nbgrader={"grade": false, "grade_id": "producers-first", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def producers_first(root: Tensor) -> list[Tensor]:
    """Every tensor that `root` was computed from and that wants a gradient, each once, root last.

    Iterative: the depth of a graph is bounded by memory, not by Python's stack.
    """
    ### BEGIN SOLUTION
    order: list[Tensor] = []
    seen: set[int] = set()
    stack = [(root, False)]
    while stack:
        tensor, inputs_done = stack.pop()
        if inputs_done:
            order.append(tensor)
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            stack.append((tensor, True))
            if tensor.node is not None:
                check_usable(tensor)
                stack.extend((x, False) for x in tensor.node.inputs if wants_gradient(x))
    return order
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "check-usable", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def check_usable(made: Tensor) -> None:
    """Raise where the operation that made this tensor can't be walked back any more."""
    node = made.node
    name = node.op.__name__.strip("_")
    if node.inputs is None:
        raise RuntimeError(
            f"backward: an earlier backward dropped the graph of {name}: run the forward again, "
            "or pass retain_graph=True the first time"
        )
    if node.born != writes.clock:  # something was written since: was it one of ours?
        arrays = [made.data, *(x.data for x in node.inputs if isinstance(x, Tensor))]
        if any(writes.since(array, node.born) for array in arrays):
            raise RuntimeError(
                f"backward: an input or the result of {name} was written in place after it ran: "
                "write x = x + y instead of x += y, or work on x.clone()"
            )


# %% nbgrader={"grade": false, "grade_id": "gradients", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def gradients(
    root: Tensor, seed: Any, retain_graph: bool, create_graph: bool
) -> Iterator[tuple[Tensor, Any, bool]]:
    """Walk back from `root`: yield (tensor, its gradient, is that gradient nobody else's array).

    Consumers come before producers, so a gradient is complete when its tensor's turn comes.
    Gradients are arrays; under `create_graph` they are tensors, so that they are recorded too.
    """
    ### BEGIN SOLUTION
    order = producers_first(root)
    pending = {id(root): seed}
    own: set[int] = set()  # whose pending gradient is an array that nobody else holds
    while order:
        out = order.pop()
        g = pending.pop(id(out), None)
        if g is None:
            continue
        yield out, g, id(out) in own
        if out.node is None:
            continue
        for x, gx in contributions(out, g, create_graph):
            key = id(x)
            if key not in pending:
                pending[key] = gx
                if gx is not g and not create_graph and gx.base is None:
                    own.add(key)
            elif key in own:
                pending[key] += gx
            else:
                pending[key] = pending[key] + gx
        if not retain_graph:
            out.node.inputs = out.node.params = None
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "contributions", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def contributions(out: Tensor, g: Any, create_graph: bool) -> Iterator[tuple[Tensor, Any]]:
    """What the operation behind `out` passes on: (input, gradient), in the input's shape and dtype."""
    node = out.node
    inputs, params, rule = node.inputs, node.params, rules[node.op]
    if create_graph:
        result, values = out, inputs
    else:
        result, values = out.data, [x.data if isinstance(x, Tensor) else x for x in inputs]
    shared = rule(g, result, *values, **params) if callable(rule) else None
    for i, x in enumerate(inputs):
        if not (isinstance(x, Tensor) and x.requires_grad):
            continue
        if shared is not None:
            gx = shared[i]
        else:
            gx = rule[i] and rule[i](g, result, *values, **params)
        if gx is None:
            continue
        if type(gx) is not np.ndarray and not create_graph:
            gx = np.asarray(gx)
        if gx.shape != x.data.shape:
            gx = unbroadcast(gx, x.data.shape)
        yield x, gx if gx.dtype is x.data.dtype else gx.astype(x.data.dtype)


# %% nbgrader={"grade": false, "grade_id": "seed", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def seed_gradient(root: Tensor, gradient: Any, create_graph: bool) -> Any:
    """The gradient that a walk starts from: 1 for a scalar, else what the caller gives."""
    ### BEGIN SOLUTION
    if not root.requires_grad:
        raise RuntimeError("backward: nothing to do: no input of this tensor requires a gradient")
    if gradient is None:
        if root.size != 1:
            raise RuntimeError(
                f"backward: shape {root.shape} is not a scalar: reduce it by .sum() or .mean(), "
                "or pass backward(gradient)"
            )
        gradient = np.ones(root.shape, root.dtype)
    array = gradient.data if isinstance(gradient, Tensor) else np.asarray(gradient)
    if array.shape != root.shape:
        raise ValueError(f"backward: gradient has shape {array.shape}, the tensor {root.shape}")
    if not create_graph:
        return array.astype(root.dtype, copy=False)
    return gradient if isinstance(gradient, Tensor) else Tensor(array, dtype=root.dtype)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "backward", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def backward(
    self: Tensor, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Add the gradient of this tensor to `.grad` of every leaf that it was computed from.

    `gradient` (default 1, for a scalar) has the tensor's shape. The graph is dropped as the walk
    passes, unless `retain_graph` or `create_graph` (which also records the walk itself) keep it.

    >>> x = Tensor([3.0], requires_grad=True)
    >>> (x * x).backward()
    >>> x.grad
    Tensor([6.])
    """
    ### BEGIN SOLUTION
    seed = seed_gradient(self, gradient, create_graph)
    for tensor, g, own in gradients(self, seed, retain_graph or create_graph, create_graph):
        if not tensor.is_leaf:
            continue
        if create_graph:
            tensor.grad = g if tensor.grad is None else tensor.grad + g
        elif tensor.grad is None:
            tensor.grad = Tensor._wrap(g if own else g.copy())
        else:
            tensor.grad = Tensor._wrap(tensor.grad.data + g)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "grad", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def grad(
    output: Tensor,
    inputs: Tensor | Sequence[Tensor],
    gradient: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> Tensor | list[Tensor | None]:
    """The gradient of `output` with respect to each of `inputs`; nothing is added to any `.grad`.

    One tensor in, one out; a sequence in, a list out. With `create_graph` the answers can be
    differentiated again. An input that `output` doesn't depend on raises, or gives None where
    `allow_unused`.

    >>> x = Tensor(2.0, requires_grad=True)
    >>> first = grad(x**3, x, create_graph=True)
    >>> first.item(), grad(first, x).item()
    (12.0, 12.0)
    """
    ### BEGIN SOLUTION
    several = not isinstance(inputs, Tensor)
    wanted = list(inputs) if several else [inputs]
    found: dict[int, Tensor] = {}
    seed = seed_gradient(output, gradient, create_graph)
    ids = {id(x) for x in wanted}
    for tensor, g, own in gradients(output, seed, retain_graph or create_graph, create_graph):
        if id(tensor) in ids:
            found[id(tensor)] = g if create_graph else Tensor._wrap(g if own else g.copy())
    answers = [found.get(id(x)) for x in wanted]
    if any(answer is None for answer in answers) and not allow_unused:
        raise RuntimeError("grad: the output doesn't depend on an input (allow_unused=True gives None)")
    return answers if several else answers[0]
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "attach", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
Tensor.backward = backward

# %% [markdown]
r"""
## The rules of modules 01 to 04
"""

# %% nbgrader={"grade": false, "grade_id": "rules-arithmetic", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
### BEGIN SOLUTION
vjp(tensor.add, lambda g, out, a, b: g, lambda g, out, a, b: g)
vjp(tensor.sub, lambda g, out, a, b: g, lambda g, out, a, b: -g)
vjp(tensor.mul, lambda g, out, a, b: g * b, lambda g, out, a, b: g * a)
vjp(tensor.div, lambda g, out, a, b: g / b, lambda g, out, a, b: -g * out / b)
vjp(tensor.neg, lambda g, out, a: -g)
### END SOLUTION

# %% nbgrader={"grade": false, "grade_id": "rules-power", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def power_base(g, out, a, b):
    """d(a^b)/da = b a^(b-1), which is 0 wherever b is 0, also at a = 0."""
    if isinstance(b, (int, float)):
        return g * (b * a ** (b - 1)) if b != 0 else g * 0
    zero = b == 0
    return g * tensor.where(zero, 0, b * a ** tensor.where(zero, 1, b - 1))


def power_exponent(g, out, a, b):
    """d(a^b)/db = a^b log a, which is 0 where a is 0."""
    return g * out * tensor.log(tensor.where(a == 0, 1, a))


vjp(tensor.pow_, power_base, power_exponent)

# %% nbgrader={"grade": false, "grade_id": "rules-elementwise", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
### BEGIN SOLUTION
vjp(tensor.exp, lambda g, out, a: g * out)
vjp(tensor.log, lambda g, out, a: g / a)
vjp(tensor.sqrt, lambda g, out, a: 0.5 * g / out)
vjp(tensor.abs_, lambda g, out, a: g * tensor.sign(a))
vjp(tensor.sin, lambda g, out, a: g * tensor.cos(a))
vjp(tensor.cos, lambda g, out, a: -g * tensor.sin(a))
vjp(tensor.tanh, lambda g, out, a: g * (1 - out * out))
### END SOLUTION

# %% nbgrader={"grade": false, "grade_id": "rules-choice", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def chosen(g, mine, other, mine_wins):
    """The gradient of max(a, b) or min(a, b) goes to the winner; a tie shares it."""
    return tensor.where(mine == other, 0.5 * g, g * mine_wins)


vjp(
    tensor.maximum,
    lambda g, out, a, b: chosen(g, a, b, a > b),
    lambda g, out, a, b: chosen(g, b, a, b > a),
)
vjp(
    tensor.minimum,
    lambda g, out, a, b: chosen(g, a, b, a < b),
    lambda g, out, a, b: chosen(g, b, a, b < a),
)
vjp(
    tensor.where,
    None,
    lambda g, out, condition, a, b: tensor.where(condition, g, 0),
    lambda g, out, condition, a, b: tensor.where(condition, 0, g),
)
vjp(tensor.clip, lambda g, out, a, low=None, high=None: g * (a == out))
vjp(tensor.astype, lambda g, out, a, dtype: tensor.astype(g, dtype=a.dtype))
vjp(tensor.copy, lambda g, out, a: g)
nondifferentiable(
    *(tensor.equal, tensor.not_equal, tensor.less, tensor.less_equal, tensor.greater),
    *(tensor.greater_equal, tensor.logical_not, tensor.logical_and, tensor.logical_or),
    *(tensor.any_, tensor.all_, tensor.argmax, tensor.argmin, tensor.sign),
)

# %% nbgrader={"grade": false, "grade_id": "rules-matmul", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def matmul_operands(g, a, b):
    """g, a and b with the axes that matmul dropped from 1-D operands put back."""
    ### BEGIN SOLUTION
    lead = g.shape[: g.ndim - (a.ndim > 1) - (b.ndim > 1)]
    a = a.reshape((1, *a.shape)) if a.ndim == 1 else a
    b = b.reshape((*b.shape, 1)) if b.ndim == 1 else b
    return g.reshape((*lead, a.shape[-2], b.shape[-1])), a, b
    ### END SOLUTION


def matmul_left(g, out, a, b):
    """g b^T"""
    ### BEGIN SOLUTION
    g, a, b = matmul_operands(g, a, b)
    return g @ b.swapaxes(-1, -2)
    ### END SOLUTION


def matmul_right(g, out, a, b):
    """a^T g; one product where a stack of matrices met a single one."""
    ### BEGIN SOLUTION
    g, a, matrix = matmul_operands(g, a, b)
    if matrix.ndim == 2:
        a, g = a.reshape((-1, a.shape[-1])), g.reshape((-1, g.shape[-1]))
    result = a.swapaxes(-1, -2) @ g
    return result if b.ndim > 1 else result.reshape(result.shape[:-1])
    ### END SOLUTION


vjp(tensor.matmul, matmul_left, matmul_right)

# %% nbgrader={"grade": false, "grade_id": "rules-reductions", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def keep_axes(g, a, axis, keepdims):
    """A reduction's g (or result) with the reduced axes put back as axes of size 1."""
    ### BEGIN SOLUTION
    if keepdims:
        return g
    axes = range(a.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    reduced = {x % a.ndim for x in axes}
    return g.reshape(tuple(1 if i in reduced else n for i, n in enumerate(a.shape)))
    ### END SOLUTION


def sum_rule(g, out, a, axis=None, keepdims=False):
    """Every summand gets the whole gradient."""
    ### BEGIN SOLUTION
    return tensor.broadcast_to(keep_axes(g, a, axis, keepdims), shape=a.shape)
    ### END SOLUTION


def mean_rule(g, out, a, axis=None, keepdims=False):
    """Every element gets an equal share."""
    ### BEGIN SOLUTION
    return sum_rule(g, out, a, axis, keepdims) * (math.prod(out.shape) / math.prod(a.shape))
    ### END SOLUTION


def extreme_rule(g, out, a, axis=None, keepdims=False):
    """The gradient of max or min goes to the elements that attain it, in equal shares."""
    ### BEGIN SOLUTION
    attained = (a == keep_axes(out, a, axis, keepdims)).astype(g.dtype)
    return keep_axes(g, a, axis, keepdims) * attained / attained.sum(axis=axis, keepdims=True)
    ### END SOLUTION


vjp(tensor.sum_, sum_rule)
vjp(tensor.mean, mean_rule)
vjp(tensor.max_, extreme_rule)
vjp(tensor.min_, extreme_rule)

# %% nbgrader={"grade": false, "grade_id": "rules-var", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def var_rule(g, out, a, axis=None, keepdims=False, correction=0):
    """2 (a - mean) / (n - correction); the mean's own gradient sums to zero."""
    count = math.prod(a.shape) / max(math.prod(out.shape), 1)
    distance = a - tensor.mean(a, axis=axis, keepdims=True)
    return keep_axes(g, a, axis, keepdims) * distance * (2 / (count - correction))


def prod_rule(g, out, a, axis=None, keepdims=False):
    """Each element gets the product of the others: without a division, so zeros are no problem."""
    axes = tuple(range(a.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = tuple(x % a.ndim for x in axes)
    kept = tuple(i for i in range(a.ndim) if i not in axes)
    order = kept + axes
    moved = tensor.permute(a, axes=order)
    rows = moved.reshape((*(a.shape[i] for i in kept), math.prod(a.shape[i] for i in axes)))
    count = rows.shape[-1]
    copies = tensor.broadcast_to(rows.reshape((*rows.shape[:-1], 1, count)), shape=(*rows.shape, count))
    others = tensor.prod(tensor.where(np.eye(count, dtype=bool), 1, copies), axis=-1)
    back = tensor.permute(others.reshape(moved.shape), axes=tuple(int(i) for i in np.argsort(order)))
    return keep_axes(g, a, axis, keepdims) * back


def cumsum_rule(g, out, a, axis=None):
    """An element counts in every later sum: running sums of g, from the end."""
    backwards = (slice(None),) * (0 if axis is None else axis % a.ndim) + (slice(None, None, -1),)
    sums = tensor.cumsum(g[backwards], axis=0 if axis is None else axis)[backwards]
    return sums.reshape(a.shape)


vjp(tensor.var, var_rule)
vjp(tensor.prod, prod_rule)
vjp(tensor.cumsum, cumsum_rule)

# %% nbgrader={"grade": false, "grade_id": "rules-shape", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def permute_rule(g, out, a, axes=None):
    """The axes go back where they came from."""
    ### BEGIN SOLUTION
    return tensor.permute(g, axes=None if axes is None else tuple(int(i) for i in np.argsort(axes)))
    ### END SOLUTION


### BEGIN SOLUTION
vjp(tensor.reshape, lambda g, out, a, shape: g.reshape(a.shape))
vjp(tensor.permute, permute_rule)
vjp(tensor.swapaxes, lambda g, out, a, axis0, axis1: g.swapaxes(axis0, axis1))
vjp(tensor.broadcast_to, lambda g, out, a, shape: g)
### END SOLUTION

# %% nbgrader={"grade": false, "grade_id": "rules-parts", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def concatenate_rule(g, out, *arrays, axis=0):
    """Each piece gets the part of g that lies where the piece lies."""
    before = (slice(None),) * (axis % g.ndim)
    ends = np.cumsum([x.shape[axis] for x in arrays]).tolist()
    return [g[(*before, slice(end - x.shape[axis], end))] for x, end in zip(arrays, ends, strict=True)]


def einsum_rule(g, out, subscripts, *arrays):
    """Each factor gets the einsum of g with the other factors."""
    terms, result = explicit_subscripts(subscripts, [x.ndim for x in arrays])
    answers = [None]
    for i, (own, array) in enumerate(zip(terms, arrays, strict=True)):
        free = iter(letter for letter in LETTERS if letter not in "".join((*terms, result)))
        target, extra = "", []
        for letter in own:  # a letter that comes twice reads a diagonal: write to it by an identity
            fresh = next(free) if letter in target else letter
            extra += [] if fresh == letter else [(letter + fresh, array.shape[len(target)])]
            target += fresh
        others = [*terms[:i], *terms[i + 1 :]]
        known = "".join((result, *others, *(pair for pair, _ in extra)))
        lonely = [(letter, array.shape[k]) for k, letter in enumerate(target) if letter not in known]
        inputs = ",".join((result, *others, *(p for p, _ in extra), *(p for p, _ in lonely)))
        eyes = [np.eye(n, dtype=g.dtype) for _, n in extra] + [np.ones(n, g.dtype) for _, n in lonely]
        rest = [*arrays[:i], *arrays[i + 1 :]]
        answers.append(tensor.einsum(f"{inputs}->{target}", g, *rest, *eyes))
    return answers


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def explicit_subscripts(subscripts: str, ndims: Sequence[int]) -> tuple[list[str], str]:
    """The letters of every factor and of the result, with `...` and a missing arrow written out."""
    left, arrow, result = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        once = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
        result = ("..." if "..." in left else "") + "".join(once)
    hidden = [n - len(t.replace("...", "")) if "..." in t else 0 for t, n in zip(terms, ndims, strict=True)]
    spare = [letter for letter in LETTERS if letter not in subscripts][: max(hidden)]
    dots = ["".join(spare[len(spare) - n :]) for n in hidden]
    terms = [t.replace("...", d) for t, d in zip(terms, dots, strict=True)]
    return terms, result.replace("...", "".join(spare))


vjp(tensor.getitem, lambda g, out, a, key: tensor.scatter_add(g, key=key, shape=a.shape))
vjp(tensor.scatter_add, lambda g, out, a, key, shape: tensor.getitem(g, key=key))
vjp(
    tensor.put,
    lambda g, out, a, value, key: tensor.put(g, 0, key=key),
    lambda g, out, a, value, key: tensor.getitem(g, key=key),
)
joint_vjp(tensor.concatenate, concatenate_rule)
joint_vjp(tensor.einsum, einsum_rule)

# %% nbgrader={"grade": false, "grade_id": "rules-activations", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def softmax_rule(g, out, x, axis=-1):
    """out (g - sum(g out)): what one probability wins, the others lose."""
    ### BEGIN SOLUTION
    return out * (g - (g * out).sum(axis=axis, keepdims=True))
    ### END SOLUTION


def log_softmax_rule(g, out, x, axis=-1):
    """g - softmax(x) sum(g)"""
    ### BEGIN SOLUTION
    return g - tensor.exp(out) * g.sum(axis=axis, keepdims=True)
    ### END SOLUTION


### BEGIN SOLUTION
vjp(activations.relu, lambda g, out, x: g * (out > 0))
vjp(activations.sigmoid, lambda g, out, x: g * out * (1 - out))
vjp(activations.softmax, softmax_rule)
vjp(activations.log_softmax, log_softmax_rule)
### END SOLUTION

# %% nbgrader={"grade": false, "grade_id": "rules-more-activations", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def gelu_rule(g, out, x):
    """The derivative of x (1 + tanh(u)) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3)."""
    slope = math.sqrt(2 / math.pi)
    square = x * x
    t = tensor.tanh(slope * x * (1 + 0.044715 * square))
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope * (1 + 3 * 0.044715 * square))


def silu_rule(g, out, x):
    """The derivative of x s(x) is s + x s (1 - s), s being the sigmoid."""
    s = activations.sigmoid(x)
    return g * (s + out * (1 - s))


vjp(activations.gelu, gelu_rule)
vjp(activations.silu, silu_rule)
vjp(
    activations.leaky_relu,
    lambda g, out, x, negative_slope=0.01: tensor.where(x > 0, g, negative_slope * g),
)

# %% nbgrader={"grade": false, "grade_id": "rules-linear", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def rows(x):
    """(..., N) -> (rows, N)"""
    return x.reshape((-1, x.shape[-1]))


### BEGIN SOLUTION
vjp(
    layers.linear,
    lambda g, out, x, weight, bias=None: g @ weight.swapaxes(0, 1),
    lambda g, out, x, weight, bias=None: rows(x).swapaxes(0, 1) @ rows(g),
    lambda g, out, x, weight, bias=None: rows(g).sum(axis=0),
)
### END SOLUTION

# %% nbgrader={"grade": false, "grade_id": "rules-cross-entropy", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def cross_entropy_rule(g, out, logits, targets, weight=None, reduction="mean", **options):
    """(softmax(logits) sum(t) - t) g / count, t being the weight of each class in each row."""
    ### BEGIN SOLUTION
    axis = 1 if logits.ndim > 1 else 0
    t, count = losses.target_weights(np.asarray(targets), logits.shape, logits.dtype, weight, **options)
    if reduction == "mean":
        g = g / count
    elif reduction == "none" and logits.ndim > 1:
        g = g.reshape((g.shape[0], 1, *g.shape[1:]))
    return (activations.softmax(logits, axis=axis) * t.sum(axis=axis, keepdims=True) - t) * g
    ### END SOLUTION


vjp(losses.cross_entropy, cross_entropy_rule)

# %% [markdown]
r"""
## Gradients of gradients, and a check of them all
"""

# %% nbgrader={"grade": false, "grade_id": "jacobian", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def jacobian(function: Callable[[Tensor], Tensor], x: Tensor, create_graph: bool = False) -> Tensor:
    """Every derivative of function(x): shape (*function(x).shape, *x.shape).

    One walk back for each element of the result.

    >>> jacobian(lambda x: x * x, Tensor([1.0, 2.0]))
    Tensor([[2., 0.],
            [0., 4.]])
    """
    ### BEGIN SOLUTION
    if not (create_graph and x.requires_grad):
        x = Tensor(x, requires_grad=True, dtype=x.dtype)
    y = function(x)
    flat = y.reshape(-1)
    rows = []
    for i in range(flat.size):
        row = None
        if flat.requires_grad:
            row = grad(flat[i], x, retain_graph=True, create_graph=create_graph, allow_unused=True)
        rows.append(tensor.zeros_like(x) if row is None else row)
    return tensor.stack(rows).reshape((*y.shape, *x.shape))
    ### END SOLUTION


def hessian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The second derivatives of a scalar function: shape (*x.shape, *x.shape).

    >>> hessian(lambda x: (x**3).sum(), Tensor([1.0, 2.0]))
    Tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    ### BEGIN SOLUTION
    return jacobian(lambda x: jacobian(function, x, create_graph=True), x)
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "gradcheck", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def gradcheck(
    function: Callable[..., Tensor], *inputs: Any, order: int = 1, eps: float = 1e-6, tolerance: float = 1e-5
) -> bool:
    """Compare the gradients of `function` with central differences, in float64.

    A random weighting of the outputs turns them into one number, whose derivative by every element of
    every input is compared: |analytic - numeric| <= tolerance (1 + |numeric|). `order=2` checks the
    gradient of the gradient too. Returns True, or raises AssertionError that names the element.

    >>> gradcheck(lambda x: x * x, [1.0, 2.0], order=2)
    True
    """
    ### BEGIN SOLUTION
    random = np.random.default_rng(0)
    points = [np.array(x.data if isinstance(x, Tensor) else x, np.float64) for x in inputs]

    def weighted(*tensors):
        out = function(*tensors)
        weights = np.random.default_rng(1).standard_normal(out.shape)
        return (out * Tensor(weights, dtype=np.float64)).sum()

    tensors = [Tensor(x, requires_grad=True, dtype=np.float64) for x in points]
    scalar = weighted(*tensors)
    answers: Any = [None] * len(points)
    if scalar.requires_grad:
        answers = grad(scalar, tensors, allow_unused=True)
    for k, (point, answer) in enumerate(zip(points, answers, strict=True)):
        analytic = np.zeros_like(point) if answer is None else answer.data
        compare_with_differences(weighted, points, k, analytic, eps, tolerance)
    if order > 1:
        directions = [Tensor(random.standard_normal(x.shape), dtype=np.float64) for x in points]
        gradcheck(along(weighted, directions), *points, order=order - 1, eps=eps, tolerance=tolerance)
    return True
    ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "gradcheck-parts", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def compare_with_differences(function, points, k, analytic, eps, tolerance) -> None:
    """Raise AssertionError where d function / d points[k] differs from (f(x + eps) - f(x - eps)) / 2 eps."""
    for index in np.ndindex(points[k].shape):
        values = []
        for step in (eps, -eps):
            moved = [x.copy() for x in points]
            moved[k][index] += step
            with no_grad():
                values.append(function(*(Tensor(x, dtype=np.float64) for x in moved)).item())
        numeric = (values[0] - values[1]) / (2 * eps)
        if not abs(analytic[index] - numeric) <= tolerance * (1 + abs(numeric)):
            raise AssertionError(
                f"gradcheck: input {k} at {index}: the rule gives {analytic[index]:.8g}, "
                f"differences give {numeric:.8g}"
            )


def along(function: Callable[..., Tensor], directions: Sequence[Tensor]) -> Callable[..., Tensor]:
    """The derivative of a scalar function along directions: itself a function to differentiate."""

    def slope(*tensors):
        with enable_grad():
            leaves = [x if x.requires_grad else Tensor(x, requires_grad=True, dtype=x.dtype) for x in tensors]
            answers = grad(function(*leaves), leaves, create_graph=True, allow_unused=True)
            parts = [(g * d).sum() for g, d in zip(answers, directions, strict=True) if g is not None]
            return sum(parts[1:], parts[0])

    return slope

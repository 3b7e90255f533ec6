# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.optimizers

# %% [markdown]
r"""
# Optimizers

> Rules that turn gradients into steps.

Time: 3 to 4 hours. Module 05 gave every parameter its gradient: the direction in which the loss grows. This module decides how far
to go against it, and finds that "the same step for everybody" is a poor answer. You write seven rules that people train real
networks with, and the schedules that change the step as training goes on.
"""

# %%
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tinytorch.core.tensor import Tensor, writes

# %%
import time
from pathlib import Path

import tinytorch
from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Linear, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.tensor import manual_seed
from tito.testing import check, check_raises

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # pictures are left out; everything else works

# %% [markdown]
r"""
## The problem: a narrow valley

Here is the loss of a network with two weights, as simple as it can be: $f(x, y) = \frac{1}{2}(x^2 + 100\,y^2)$. It is a hundred
times steeper along $y$ than along $x$. Gradient descent is one line: `w -= lr * gradient`.

**Predict**: with `lr = 0.021`, what happens to $y$, whose gradient is $100\,y$? And to $x$, with `lr = 0.0199`, in fifty steps? Write it down.
"""


# %%
def valley_gradient(w):
    return np.array([1.0, 100.0]) * w


for lr in (0.021, 0.0199):
    w = np.array([1.0, 1.0])
    for _ in range(50):
        w = w - lr * valley_gradient(w)
    print(f"lr {lr}: x = {w[0]:.3f}, y = {w[1]:.3f}")

# %% [markdown]
r"""
Each step multiplies $y$ by $1 - 100\,\mathrm{lr}$. Below $-1$ that explodes, so the steep direction dictates a step that is far too
small for the flat one. A network has millions of directions, and their steepness differs by more than a hundred.

Two cures follow from this, and every rule below is a mixture of them: **remember** where you were going (momentum), and **divide** by how
large the gradients in that direction usually are.

## What all optimizers share

An optimizer walks over its parameters, keeps some numbers for each, and is saved and loaded. That part is given, and longer than any
rule; read it once, from `step` downwards. Two ideas matter to you:

1. A rule is one method, `update(p, g, state, group, step)`, on **arrays**. `p` is to be changed in place: `p -= ...`, since `p = p - ...`
   would only give the name `p` to a new array, and the network would never hear of it.
2. `state("name")` is an array like `p` that survives from step to step, zeros at first. A name that begins with `_` is scratch paper: it isn't saved.

And one idea about speed. A network has many small parameters, and each NumPy call costs about a microsecond before it computes
anything. What if all of them were one long array?
"""

# %%
pieces = [np.ones(100, np.float32) for _ in range(100)]
flat = np.ones(10_000, np.float32)


def microseconds(action, repeat=200):
    """The median time of an action."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeat // 2] * 1e6


def scale_pieces():
    for piece in pieces:
        np.multiply(piece, 1.0, out=piece)


many = microseconds(scale_pieces)
once = microseconds(lambda: np.multiply(flat, 1.0, out=flat))
print(f"100 arrays of 100: {many:.1f} us; one array of 10,000: {once:.1f} us; {many / once:.0f}x")

# %% [markdown]
r"""
A `ParameterBlock` does just that: it copies its parameters into one flat array and makes every `parameter.data` a view of it.
"""


# %% nbgrader={"grade": false, "grade_id": "block", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
class ParameterBlock:
    """Parameters of one dtype that step together, laid out in one flat array.

    A hundred small parameters cost one call of NumPy for each arithmetic operation, not a hundred:
    every `parameter.data` becomes a view of `data`. A single parameter keeps its array and shape.
    """

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters
        self.step = 0
        self.state: dict[str, np.ndarray] = {}
        if len(parameters) > 1:
            self.data = np.concatenate([p.data.reshape(-1) for p in parameters])
            self.grad = np.empty_like(self.data)
            self.gather()

    def slots(self, flat: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Each parameter with its part of a flat array, in the parameter's shape."""
        start = 0
        for p in self.parameters:
            yield p, flat[start : start + p.size].reshape(p.shape)
            start += p.size

    def gather(self) -> None:
        """Take the values of every parameter whose `.data` was replaced, and make it a view."""
        for p, part in self.slots(self.data):
            part[...] = p.data
            p.data = part
        self.grad_parts = [part for _, part in self.slots(self.grad)]

    def load(self) -> None:
        """Bring `data` and `grad` up to date with the parameters and their gradients."""
        if len(self.parameters) == 1:
            self.data, self.grad = self.parameters[0].data, self.parameters[0].grad.data
            return
        if any(p.data.base is not self.data for p in self.parameters):
            self.gather()
        for p, part in zip(self.parameters, self.grad_parts, strict=True):
            part[...] = p.grad.data

    def state_of(self, name: str) -> np.ndarray:
        """The array `name` of the state; zeros at first."""
        if name not in self.state:
            self.state[name] = np.zeros_like(self.data)
        return self.state[name]

    def part_of(self, name: str, part: slice) -> np.ndarray:
        """A part of the flat array `name`; a name with a leading _ is scratch, one part long."""
        if not name.startswith("_"):
            return self.state_of(name).reshape(-1)[part]
        length = min(part.stop, self.data.size) - part.start
        if name not in self.state or self.state[name].size < length:
            self.state[name] = np.empty(length, self.data.dtype)
        return self.state[name][:length]

    def state_by_parameter(self) -> list[dict[str, np.ndarray]]:
        """The state arrays of each parameter, by name: views, without the scratch arrays."""
        states: list[dict[str, np.ndarray]] = [{} for _ in self.parameters]
        for name, flat in self.state.items():
            if name.startswith("_"):
                continue
            for state, (_, part) in zip(states, self.slots(flat.reshape(-1)), strict=True):
                state[name] = part
        return states

    @classmethod
    def restored(
        cls, parameters: list[Tensor], step: int, states: list[dict[str, Any]]
    ) -> ParameterBlock:
        """A block that continues from the step count and the state arrays of its parameters."""
        block = cls(parameters)
        block.step = step
        for name in states[0].keys() - {"step"}:
            parts = [np.asarray(state[name]) for state in states]
            flat = np.concatenate([part.reshape(-1) for part in parts]).astype(parameters[0].dtype)
            block.state[name] = flat if len(parameters) > 1 else flat.reshape(parameters[0].shape)
        return block

    def without(self, missing: set[int]) -> list[ParameterBlock]:
        """This block in two: the parameters whose ids are not in `missing`, and those that are."""
        pairs = list(zip(self.parameters, self.state_by_parameter(), strict=True))
        halves = [
            [(p, s) for p, s in pairs if (id(p) in missing) == idle] for idle in (False, True)
        ]
        return [
            ParameterBlock.restored([p for p, _ in half], self.step, [s for _, s in half])
            for half in halves
        ]


# %% nbgrader={"grade": false, "grade_id": "optimizer", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class Optimizer:
    """What all optimizers share: parameter groups, one step for all of them, and their state.

    `parameters` are tensors, or dicts {"params": tensors, "lr": ..., ...} that differ from the
    defaults. A subclass gives `update(p, g, state, group, step)`, which changes the array `p` in
    place; `state(name)` is an array like `p`, zeros at first; `step` counts from 1. A parameter
    without a gradient stays as it is.
    """

    elementwise = True  # may parameters be flattened and cut up? Not where a matrix matters
    chunk = 1 << 17  # elements at a time: what an update reads and writes stays in the cache

    def __init__(self, parameters: Iterable[Any], **defaults: Any):
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._blocks: list[list[ParameterBlock]] = []
        given: list[Any] = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if not given:
            raise ValueError(f"{type(self).__name__}: expected parameters to optimize, got none")
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Optimize more tensors, with settings of their own."""
        name = type(self).__name__
        unknown = set(group) - {"params"} - set(self.defaults)
        if unknown:
            raise ValueError(f"{name}: unknown settings {sorted(unknown)} in a group")
        tensors = (
            [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        )
        known = {id(p) for other in self.param_groups for p in other["params"]}
        for p in tensors:
            if not isinstance(p, Tensor) or p.dtype.kind != "f" or not p.is_leaf:
                raise TypeError(f"{name}: expected floating-point leaf tensors, got {p!r:.60}")
            if id(p) in known:
                raise ValueError(f"{name}: a tensor of shape {p.shape} was given twice")
            known.add(id(p))
        group = {**self.defaults, **group, "params": tensors}
        self.check(group)
        self.param_groups.append(group)
        by_dtype: dict[Any, list[Tensor]] = {}
        for i, p in enumerate(tensors):
            by_dtype.setdefault(p.dtype if self.elementwise else i, []).append(p)
        self._blocks.append([ParameterBlock(members) for members in by_dtype.values()])

    def check(self, group: dict[str, Any]) -> None:
        """Raise ValueError for a setting out of its range."""
        name = type(self).__name__
        for setting in ("lr", "eps", "weight_decay"):
            if group.get(setting, 0) < 0:
                raise ValueError(f"{name}: {setting} must not be negative, got {group[setting]}")
        for beta in (*group.get("betas", ()), group.get("momentum", 0), group.get("alpha", 0)):
            if not 0 <= beta < 1:
                raise ValueError(f"{name}: an averaging constant must be in [0, 1), got {beta}")

    @property
    def lr(self) -> float:
        """The learning rate (of the first group); setting it sets every group's."""
        return self.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.param_groups:
            group["lr"] = value

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group, blocks in zip(self.param_groups, self._blocks, strict=True):
            for block in list(blocks):
                missing = {id(p) for p in block.parameters if p.grad is None}
                if len(missing) == len(block.parameters):
                    continue
                if missing:
                    blocks.remove(block)
                    block, idle = block.without(missing)
                    blocks += [block, idle]
                self._step_block(block, group)

    def _step_block(self, block: ParameterBlock, group: dict[str, Any]) -> None:
        block.load()
        block.step += 1
        if (
            not self.elementwise
            or block.data.size <= self.chunk
            or not block.data.flags.c_contiguous
        ):
            self.update(block.data, block.grad, block.state_of, group, block.step)
        else:
            flat, grad = block.data.reshape(-1), block.grad.reshape(-1)
            for start in range(0, flat.size, self.chunk):
                part = slice(start, start + self.chunk)
                state = lambda name, part=part: block.part_of(name, part)  # noqa: E731
                self.update(flat[part], grad[part], state, group, block.step)
        writes.add(block.data)

    def update(self, p, g, state: Callable[[str], np.ndarray], group: dict, step: int) -> None:
        """Change the array `p` in place, given its gradient `g`."""
        raise NotImplementedError(
            f"{type(self).__name__} gives no update(p, g, state, group, step)"
        )

    def state_dict(self) -> dict[str, Any]:
        """The settings, and for each parameter (numbered in order) its step count and arrays."""
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                numbers[id(p)] = len(numbers)
            groups.append({**group, "params": [numbers[id(p)] for p in group["params"]]})
        state: dict[int, dict[str, Any]] = {}
        for block in (block for blocks in self._blocks for block in blocks):
            for p, arrays in zip(block.parameters, block.state_by_parameter(), strict=True):
                if block.step:
                    copies = {name: part.copy() for name, part in arrays.items()}
                    state[numbers[id(p)]] = {"step": block.step, **copies}
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over the settings and the state of an optimizer of the same parameters."""
        sizes = [len(group["params"]) for group in self.param_groups]
        given = [len(group["params"]) for group in saved["param_groups"]]
        if sizes != given:
            raise ValueError(f"load_state_dict: groups of {given} parameters, expected {sizes}")
        tensors = [p for group in self.param_groups for p in group["params"]]
        for number, entry in saved["state"].items():
            for name, array in entry.items():
                if name != "step" and np.shape(array) != tensors[int(number)].shape:
                    raise ValueError(
                        f"load_state_dict: {name} of parameter {number} has shape "
                        f"{np.shape(array)}, expected {tensors[int(number)].shape}"
                    )
        entries = {int(number): entry for number, entry in saved["state"].items()}
        state_of = {id(p): entries.get(number, {}) for number, p in enumerate(tensors)}
        for i, new in enumerate(saved["param_groups"]):
            group = self.param_groups[i]
            group.update({name: value for name, value in new.items() if name != "params"})
            together: dict[Any, list[Tensor]] = {}  # what steps together: one dtype, one step count
            for p in group["params"]:
                alone = None if self.elementwise else id(p)
                together.setdefault((p.dtype, state_of[id(p)].get("step", 0), alone), []).append(p)
            self._blocks[i] = [
                ParameterBlock.restored(members, step, [state_of[id(p)] for p in members])
                for (_, step, _), members in together.items()
            ]

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={self.param_groups[0][name]}" for name in self.defaults)
        return f"{type(self).__name__}({settings})"


# %% [markdown]
r"""
For the tests below: a parameter with a gradient, and an optimizer that takes a few steps with it.
"""


# %% nbgrader={"grade": false, "grade_id": "walk", "locked": true, "schema_version": 3, "solution": false, "task": false}
def walk(make, start, gradients, **settings):
    """The values of a parameter after steps with these gradients, one after the other."""
    w = Tensor(start, requires_grad=True, dtype=np.float64)
    optimizer = make([w], **settings)
    for g in gradients:
        w.grad = Tensor(g, dtype=np.float64)
        optimizer.step()
    return w.numpy()


# %% [markdown]
r"""
## Momentum

A ball that rolls down a valley gains speed along it, while its swings across cancel out. Let $v$ be the velocity, $\mu$ the momentum
(say 0.9) and $g$ the gradient:

$$v \leftarrow \mu v + g, \qquad w \leftarrow w - \mathrm{lr}\; v$$

With a constant gradient, $v$ tends to $g + \mu g + \mu^2 g + \dots$ **Predict** what that is for $g = 1$ and $\mu = 0.9$.

Nesterov's variant looks ahead by one more step of momentum: it moves by $g + \mu v$, with the new $v$, in place of $v$.

### Exercise: SGD

Write `update`, with $v$ in `state("momentum_buffer")`. Weight decay comes first: add `weight_decay * p` to the gradient (the gradient of
$\frac{\lambda}{2}\lVert w\rVert^2$), without changing the array `g`, which belongs to `w.grad`. Then momentum, if it isn't 0. One worked number:
from 1.0 with gradients 1 and 1, lr 0.1 and momentum 0.5: $v = 1$, then $1.5$, so $w = 0.9$, then $0.75$.

<details><summary>Hint</summary>

`velocity = state("momentum_buffer")` gives the array itself. Change it in place: `velocity *= ...`, `velocity += ...`.
</details>
"""


# %% nbgrader={"grade": false, "grade_id": "sgd", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever 2013).

    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> w.grad = Tensor([10.0, 10.0])
    >>> SGD([w], lr=0.1).step()
    >>> w
    Tensor([0., 1.], requires_grad=True)
    """

    def __init__(self, parameters, lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0):
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0")
        super().__init__(
            parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )

    def update(self, p, g, state, group, step):
        ### BEGIN SOLUTION
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        if group["momentum"]:
            velocity = state("momentum_buffer")
            velocity *= group["momentum"]
            velocity += g
            g = g + group["momentum"] * velocity if group["nesterov"] else velocity
        p -= group["lr"] * g
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-sgd", "locked": true, "points": 14, "schema_version": 3, "solution": false, "task": false}
def test_sgd():
    check(
        walk(SGD, [1.0, 2.0], [[10.0, -10.0]], lr=0.1),
        [0.0, 3.0],
        "w - lr * g: against the gradient",
    )
    check(
        walk(SGD, [1.0], [[1.0], [1.0]], lr=0.1, momentum=0.5),
        [0.75],
        "v = 1, then 0.5 * 1 + 1 = 1.5",
    )
    check(
        walk(SGD, [1.0], [[0.0]], lr=0.1, weight_decay=0.5),
        [0.95],
        "the gradient grows by 0.5 * 1.0",
    )
    ### BEGIN HIDDEN TESTS
    twice = [[1.0], [3.0]]
    nesterov = walk(SGD, [0.0], twice, lr=1.0, momentum=0.5, nesterov=True)
    check(nesterov, [-(1 + 0.5) - (3 + 0.5 * 3.5)], "Nesterov moves by g + momentum * v")
    w = Tensor([1.0], requires_grad=True)
    w.grad = Tensor([2.0])
    SGD([w], lr=0.1, weight_decay=1.0).step()
    check(w.grad.numpy(), [2.0], "w.grad is not yours to change: g = g + ..., not g += ...")
    ### END HIDDEN TESTS


test_sgd()

# %% [markdown]
r"""
Does it roll? Both balls below start at the same place with the same learning rate.
"""


# %%
def path(make, steps=50, **settings):
    """Where an optimizer goes on the valley's floor."""
    w = Tensor([1.0, 0.2], requires_grad=True)
    optimizer = make([w], **settings)
    places = [w.numpy().copy()]
    for _ in range(steps):
        w.grad = Tensor(valley_gradient(w.numpy()))
        optimizer.step()
        places.append(w.numpy().copy())
    return np.array(places)


def show_paths(paths):
    """Draw paths on the contours of the valley, and print where they end."""
    for name, places in paths.items():
        print(f"{name:24} ends at x = {places[-1, 0]:7.4f}, y = {places[-1, 1]:7.4f}")
    if plt is None:
        return
    x, y = np.meshgrid(np.linspace(-0.6, 1.1, 80), np.linspace(-0.3, 0.3, 80))
    plt.figure(figsize=(7, 3))
    plt.contour(x, y, 0.5 * (x**2 + 100 * y**2), levels=12, colors="lightgray")
    for (name, places), style in zip(paths.items(), ["k.-", "k+:", "kx--"], strict=False):
        plt.plot(*places.T, style, markersize=4, linewidth=0.8, label=name)
    plt.title("Fifty steps in a narrow valley")
    plt.xlabel("x (flat direction)")
    plt.ylabel("y (steep direction)")
    plt.legend()
    plt.show()


show_paths(
    {
        "SGD, lr 0.01": path(SGD, lr=0.01),
        "momentum 0.9, lr 0.01": path(SGD, lr=0.01, momentum=0.9),
    }
)

# %% [markdown]
r"""
## Dividing by the usual size

The other cure: keep a running average of each squared gradient, and divide by its root. A direction that is always steep is then slowed
down, a flat one sped up.

$$s \leftarrow \alpha s + (1 - \alpha)\, g^2, \qquad w \leftarrow w - \mathrm{lr}\; \frac{g}{\sqrt{s} + \epsilon}$$

**Predict** the very first step of RMSprop with `alpha = 0.99` and `lr = 0.01`, for a gradient of 5 and for one of 0.0005.

### Exercise: RMSprop

Write `update` with $s$ in `state("square_avg")`. Weight decay as in SGD. With momentum, the velocity (in `state("momentum_buffer")`) collects
$g / (\sqrt{s} + \epsilon)$ in place of $g$. One worked number: with `alpha = 0.75` and a first gradient of 2, $s = 0.25 \cdot 4 = 1$, so the step is $\mathrm{lr} \cdot 2 / 1$.
"""


# %% nbgrader={"grade": false, "grade_id": "rmsprop", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class RMSprop(Optimizer):
    """Steps divided by a running root mean square of the gradients (Tieleman and Hinton 2012)."""

    def __init__(self, parameters, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0):
        super().__init__(
            parameters, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum
        )

    def update(self, p, g, state, group, step):
        ### BEGIN SOLUTION
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        square = state("square_avg")
        square *= group["alpha"]
        square += (1 - group["alpha"]) * g * g
        direction = g / (np.sqrt(square) + group["eps"])
        if group["momentum"]:
            velocity = state("momentum_buffer")
            velocity *= group["momentum"]
            velocity += direction
            direction = velocity
        p -= group["lr"] * direction
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-rmsprop", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
def test_rmsprop():
    one = walk(RMSprop, [0.0], [[2.0]], lr=0.1, alpha=0.75)
    check(one, [-0.2], "s = 0.25 * 2^2 = 1, so the step is lr * 2 / 1")
    two = walk(RMSprop, [0.0], [[2.0], [4.0]], lr=0.1, alpha=0.75)
    check(two, [-0.2 - 0.4 / np.sqrt(0.75 + 4)], "s remembers: 0.75 * 1 + 0.25 * 16")
    ### BEGIN HIDDEN TESTS
    rolling = walk(RMSprop, [0.0], [[2.0], [4.0]], lr=0.1, alpha=0.75, momentum=0.5)
    check(rolling, [-0.2 - 0.1 * (0.5 * 2 + 4 / np.sqrt(4.75))], "v = 0.5 * 2 + 4 / sqrt(s)", 1e-6)
    decayed = walk(RMSprop, [1.0], [[1.0]], lr=0.1, alpha=0.75, weight_decay=1.0)
    check(decayed, [0.8], "weight decay goes through the division too: g = 1 + 1")
    ### END HIDDEN TESTS


test_rmsprop()

# %%
for gradient in (5.0, 0.0005):
    moved = walk(RMSprop, [0.0], [[gradient]], lr=0.01)
    print(f"first gradient {gradient}: first step {moved[0]:.4f}")

# %% [markdown]
r"""
The size of the gradient is gone: only its sign is left. But that first step is ten times the learning rate, because $s$ began at zero
and still believes that gradients are small. Adam mends it.

## Adam

Adam takes both cures, and begins right. An average is a **sum divided by the weights in it**. Keep two sums that fade, of gradients and of their squares:

$$m \leftarrow \beta_1 m + g \qquad s \leftarrow \beta_2 s + g^2$$

After $t$ steps the weights in them are $1 + \beta + \dots + \beta^{t-1} = \frac{1 - \beta^t}{1 - \beta}$; call these $w_1$ and $w_2$. Divide by them, and both averages are right from the first step on:

$$w \leftarrow w - \mathrm{lr}\; \frac{m / w_1}{\sqrt{s / w_2} + \epsilon}$$

(The paper multiplies each new $g$ by $1 - \beta$, divides by $1 - \beta^t$ and calls the latter bias correction. It is the same number, for two more passes over memory.)

**Predict** the size of Adam's first step, for any gradient.

### Exercise: adam_step

Change the sums `m` and `s` and the parameter `p` in place; `group` has `"betas"`, `"lr"` and `"eps"`, `step` is $t$, from 1. One worked number: betas (0.5, 0.5),
first gradient 4: $m = 4$, $s = 16$, both weights are 1; the step is $\mathrm{lr} \cdot 4 / 4$. Get it right first. Then look at your temporaries: every
`a * b` makes a new array; `np.multiply(a, b, out=work)` re-uses one, and `work` is given for that.
"""


# %% nbgrader={"grade": false, "grade_id": "adam-step", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def adam_step(p, g, m, s, work, group, step) -> None:
    """p -= lr (m / w1) / (sqrt(s / w2) + eps), in place: m and s are fading sums, w their weights.

    `work` is an array like `p` for every intermediate result: a new one at each step would cost
    the system as much time as the arithmetic.
    """
    ### BEGIN SOLUTION
    beta1, beta2 = group["betas"]
    weight1 = (1 - beta1**step) / (1 - beta1)
    root2 = math.sqrt((1 - beta2**step) / (1 - beta2))
    m *= beta1
    m += g
    np.multiply(g, g, out=work)
    s *= beta2
    s += work
    np.sqrt(s, out=work)
    work += group["eps"] * root2
    np.divide(m, work, out=work)
    work *= group["lr"] * root2 / weight1
    p -= work
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-adam-step", "locked": true, "points": 16, "schema_version": 3, "solution": false, "task": false}
def test_adam_step():
    group = {"betas": (0.5, 0.5), "lr": 0.1, "eps": 0.0}
    p, m, s, work = np.zeros((4, 1))
    adam_step(p, np.array([4.0]), m, s, work, group, 1)
    check(m, [4.0], "m = 0.5 * 0 + 4, in place")
    check(s, [16.0], "s = 0.5 * 0 + 4^2, in place")
    check(p, [-0.1], "both weights are 1: the first step is lr, whatever the gradient")
    ### BEGIN HIDDEN TESTS
    g = np.array([2.0])
    adam_step(p, g, m, s, work, group, 2)
    check(m, [4.0], "m = 0.5 * 4 + 2")
    expected = -0.1 - 0.1 * (4 / 1.5) / np.sqrt(12 / 1.5)
    check(p, [expected], "in the second step both weights are 1 + 0.5")
    check(g, [2.0], "the gradient itself stays as it is")
    p, m, s, work = np.zeros((4, 1))
    adam_step(p, np.ones(1), m, s, work, group | {"eps": 1.0}, 1)
    check(p, [-0.05], "eps is added to the root of the average: 1 / (1 + 1)")
    slow = {"betas": (0.5, 0.9), "lr": 0.1, "eps": 0.5}
    p, m, s, work = np.zeros((4, 1))
    for step, gradient in enumerate((1.0, 3.0), 1):
        adam_step(p, np.array([gradient]), m, s, work, slow, step)
    second = (3.5 / 1.5) / (np.sqrt(9.9 / 1.9) + 0.5)
    check(p, [-0.1 / 1.5 - 0.1 * second], "each sum has weights of its own")
    ### END HIDDEN TESTS


test_adam_step()


# %% nbgrader={"grade": false, "grade_id": "adam", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class Adam(Optimizer):
    """Momentum divided by a running root mean square, both averages right from the first step on.

    Kingma and Ba 2015, algorithm 1; `weight_decay` is added to the gradient, as an L2 penalty.
    """

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, p, g, state, group, step):
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        adam_step(p, g, state("gradient_sum"), state("square_sum"), state("_work"), group, step)


# %% [markdown]
r"""
### Exercise: AdamW

With L2 weight decay, Adam divides the decay by the gradients' usual size too, so weights with large gradients hardly decay. AdamW
shrinks the weights directly: first $w \leftarrow (1 - \mathrm{lr}\,\lambda)\, w$, then Adam's step with the pure gradient.
"""


# %% nbgrader={"grade": false, "grade_id": "adamw", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class AdamW(Adam):
    """Adam whose weight decay shrinks the weights directly (Loshchilov and Hutter 2019)."""

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def update(self, p, g, state, group, step):
        ### BEGIN SOLUTION
        p *= 1 - group["lr"] * group["weight_decay"]
        adam_step(p, g, state("gradient_sum"), state("square_sum"), state("_work"), group, step)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-adamw", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def test_adamw():
    still = walk(AdamW, [2.0], [[0.0]], lr=0.1, weight_decay=0.5)
    check(still, [1.9], "without a gradient only the decay is left: 2 * (1 - 0.1 * 0.5)")
    large, small = (walk(AdamW, [2.0], [[g]], lr=0.1, weight_decay=0.5) for g in (100.0, 0.01))
    check(large, [1.8], "the decay, then a step of lr")
    ### BEGIN HIDDEN TESTS
    check(abs(large - small).max() < 1e-6, True, "the decay doesn't depend on the gradient's size")
    ### END HIDDEN TESTS


test_adamw()

# %%
show_paths(
    {
        "momentum 0.9, lr 0.01": path(SGD, lr=0.01, momentum=0.9),
        "RMSprop, lr 0.05": path(RMSprop, lr=0.05),
        "Adam, lr 0.05": path(Adam, lr=0.05),
    }
)

# %% [markdown]
r"""
## Only the sign

If Adam's steps are nearly signs, why not take the sign? Lion was found by a search over programs. It keeps one average where Adam keeps
two, and uses it twice, with two different constants:

$$w \leftarrow (1 - \mathrm{lr}\,\lambda)\, w - \mathrm{lr}\; \mathrm{sign}(\beta_1 m + (1-\beta_1) g), \qquad m \leftarrow \beta_2 m + (1-\beta_2) g$$

### Exercise: Lion

The direction uses the **old** $m$ ($m$ is `state("exp_avg")`). Every weight moves by exactly `lr`, so Lion wants a learning rate 3 to 10 times smaller than Adam's.
"""


# %% nbgrader={"grade": false, "grade_id": "lion", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class Lion(Optimizer):
    """Only the sign of a momentum moves a weight (Chen et al. 2023, algorithm 2)."""

    def __init__(self, parameters, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay)

    def update(self, p, g, state, group, step):
        ### BEGIN SOLUTION
        beta1, beta2 = group["betas"]
        mean = state("exp_avg")
        direction = np.sign(beta1 * mean + (1 - beta1) * g)
        p *= 1 - group["lr"] * group["weight_decay"]
        p -= group["lr"] * direction
        mean *= beta2
        mean += (1 - beta2) * g
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-lion", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def test_lion():
    check(walk(Lion, [0.0, 0.0], [[5.0, -0.1]], lr=0.1), [-0.1, 0.1], "every weight moves by lr")
    turned = walk(Lion, [0.0], [[1.0], [-1.0]], lr=0.1, betas=(0.9, 0.5))
    check(turned, [-0.2], "the old average still points the old way: 0.9 * 0.5 - 0.1 * 1 > 0")
    ### BEGIN HIDDEN TESTS
    back = walk(Lion, [0.0], [[1.0], [-6.0]], lr=0.1, betas=(0.9, 0.5))
    check(back, [0.0], "0.9 * 0.5 - 0.1 * 6 < 0: the second step goes back")
    decayed = walk(Lion, [1.0], [[0.0]], lr=0.1, weight_decay=0.5)
    check(decayed, [0.95], "weight decay shrinks the weight itself")
    ### END HIDDEN TESTS


test_lion()

# %% [markdown]
r"""
## A matrix is more than its elements

All rules so far would do the same if a weight matrix were cut into a long row. Muon uses that it is a matrix. A momentum matrix has a few
strong directions and many weak ones; its singular values say how strong. Muon makes them all (nearly) equal, so that rare directions
are learned as fast as common ones: it replaces $U S V^\top$ by $U V^\top$.

A singular value decomposition is slow. But a polynomial in $X$ that is odd, such as $aX + bXX^\top X + c\,(XX^\top)^2X$, acts on each singular value alone and
leaves $U$ and $V$ as they are. So choose $a, b, c$ such that $\varphi(\sigma) = a\sigma + b\sigma^3 + c\sigma^5$ pushes everything in $(0, 1]$ towards 1.
"""

# %%
a, b, c = 3.4445, -4.7750, 2.0315
sigma = np.array([0.01, 0.1, 0.5, 1.0])
for round_number in range(6):
    print(f"after {round_number} rounds: " + "  ".join(f"{s:.3f}" for s in sigma))
    sigma = a * sigma + b * sigma**3 + c * sigma**5

# %% [markdown]
r"""
### Exercise: orthogonalize

Five rounds bring everything to between about 0.7 and 1.2, and nobody has found that more exactness helps. Divide by the Frobenius
norm first (`np.linalg.norm(x) + eps`), which bounds every singular value by 1. For speed let $XX^\top$ be the smaller of the two products: transpose a tall matrix, and the result back.

$$A = XX^\top, \qquad X \leftarrow aX + (bA + cA^2)\,X$$
"""


# %% nbgrader={"grade": false, "grade_id": "orthogonalize", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def orthogonalize(matrix: np.ndarray, steps: int = 5, eps: float = 1e-7) -> np.ndarray:
    """U V^T of the singular value decomposition U S V^T, nearly: singular values in 0.7 to 1.2.

    The quintic Newton-Schulz iteration of Jordan et al. 2024: x <- a x + (b x x^T + c (x x^T)^2) x.
    """
    ### BEGIN SOLUTION
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (np.linalg.norm(x) + eps)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-orthogonalize", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def test_orthogonalize():
    random = np.random.default_rng(0)
    for shape in ((6, 4), (4, 6)):
        flat = orthogonalize(random.standard_normal(shape))
        check(flat.shape, shape, "the shape stays")
        singular = np.linalg.svd(flat, compute_uv=False)
        inside = bool((singular > 0.6).all() and (singular < 1.3).all())
        check(inside, True, "all singular values end near 1: five rounds, from norm 1")
    ### BEGIN HIDDEN TESTS
    wide = random.standard_normal((3, 5))
    u, _, vt = np.linalg.svd(wide, full_matrices=False)
    aligned = u.T @ orthogonalize(wide) @ vt.T
    off_diagonal = np.abs(aligned - np.diag(np.diag(aligned))).max()
    check(off_diagonal < 1e-8, True, "U and V stay: only the singular values change")
    check(orthogonalize(1000 * wide), orthogonalize(wide), "the matrix's size doesn't matter", 1e-4)
    kept = wide.copy()
    orthogonalize(kept)
    check(kept, wide, "the argument stays as it is")
    ### END HIDDEN TESTS


test_orthogonalize()

# %% [markdown]
r"""
### Exercise: Muon

`mean` is a running average of the gradient, `mean += (1 - momentum) * (g - mean)`. With `nesterov` the direction is $g + \mu (m - g)$ with the new $m$, else $m$. Shrink
the weights as AdamW does, then subtract `lr` times $\sqrt{\max(1, \text{out}/\text{in})}$ times the orthogonalized direction. Our weights have shape (in, out).
"""


# %% nbgrader={"grade": false, "grade_id": "muon", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class Muon(Optimizer):
    """Momentum whose singular values are all pushed to about 1 (Jordan et al. 2024), for matrices.

    Biases, embeddings and the last layer are better given to AdamW. A weight of shape
    (in_features, out_features) is scaled by sqrt(max(1, out_features / in_features)).
    """

    elementwise = False

    def __init__(
        self, parameters, lr=2e-2, momentum=0.95, nesterov=True, weight_decay=0.0, steps=5
    ):
        super().__init__(
            parameters,
            **{"lr": lr, "momentum": momentum, "nesterov": nesterov},
            **{"weight_decay": weight_decay, "steps": steps},
        )

    def check(self, group):
        super().check(group)
        for p in group["params"]:
            if p.ndim != 2:
                raise ValueError(f"Muon: expected matrices, got shape {p.shape}: give it to AdamW")

    def update(self, p, g, state, group, step):
        ### BEGIN SOLUTION
        momentum = group["momentum"]
        mean = state("momentum_buffer")
        mean += (1 - momentum) * (g - mean)
        direction = g + momentum * (mean - g) if group["nesterov"] else mean
        fan_in, fan_out = p.shape
        p *= 1 - group["lr"] * group["weight_decay"]
        scale = group["lr"] * math.sqrt(max(1, fan_out / fan_in))
        p -= scale * orthogonalize(direction, group["steps"])
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-muon", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_muon():
    g = np.random.default_rng(0).standard_normal((4, 16))
    moved = walk(Muon, np.zeros((4, 16)), [g], lr=0.1, momentum=0.5)
    check(moved, -0.2 * orthogonalize(g), "0.1 * sqrt(16 / 4) times the direction", 1e-6)
    with check_raises(ValueError, "matrices", "a bias has no singular values"):
        Muon([Tensor([1.0], requires_grad=True)])
    ### BEGIN HIDDEN TESTS
    h = np.random.default_rng(1).standard_normal((4, 4))
    g = g[:, :4]
    two = walk(Muon, np.zeros((4, 4)), [g, h], lr=0.1, momentum=0.5, nesterov=False)
    expected = -0.1 * (orthogonalize(0.5 * g) + orthogonalize(0.25 * g + 0.5 * h))
    check(two, expected, "without Nesterov the direction is the running average", 1e-6)
    ahead = walk(Muon, np.zeros((4, 4)), [g, h], lr=0.1, momentum=0.5)
    expected = -0.1 * (orthogonalize(0.75 * g) + orthogonalize(h + 0.5 * (0.25 * g - 0.5 * h)))
    check(ahead, expected, "with Nesterov it is g + momentum * (m - g)", 1e-6)
    decayed = walk(Muon, np.ones((4, 4)), [g], lr=0.1, momentum=0.5, weight_decay=0.5)
    check(decayed, 0.95 - 0.1 * orthogonalize(g), "first shrink, then step", 1e-6)
    ### END HIDDEN TESTS


test_muon()

# %% [markdown]
r"""
## When gradients explode

One unlucky batch can throw a network across the valley. Clipping keeps the direction and bounds the length: all gradients together,
seen as one long vector, are scaled to `max_norm` if they are longer.

### Exercise: clip_grad_norm

Return the length before clipping. Skip parameters without a gradient. Scale `g.data` in place by `max_norm / (norm + 1e-6)`, as PyTorch does, and tell
`writes.add(g.data)`. A length that is NaN or infinite raises `FloatingPointError` before anything changes. One worked number: gradients [3] and [4] have length 5.
"""


# %% nbgrader={"grade": false, "grade_id": "clip-grad-norm", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients so that together, as one vector, they are no longer than `max_norm`.

    Returns the length before (Pascanu et al. 2013, algorithm 1). Raises FloatingPointError where it
    is NaN or infinite, and changes nothing.

    >>> w = Tensor([0.0, 0.0], requires_grad=True)
    >>> w.grad = Tensor([3.0, 4.0])
    >>> clip_grad_norm([w], max_norm=1.0)
    5.0
    >>> w.grad
    Tensor([0.6, 0.8])
    """
    ### BEGIN SOLUTION
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(float(np.vdot(g.data, g.data)) for g in gradients))
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"clip_grad_norm: the gradients' norm is {norm}: the loss diverged"
        )
    if norm > max_norm:
        for g in gradients:
            g.data *= max_norm / (norm + 1e-6)
            writes.add(g.data)
    return norm
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-clip-grad-norm", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def with_gradients(*gradients):
    """A leaf for each gradient; None leaves it without."""
    leaves = []
    for g in gradients:
        leaf = Tensor([0.0], requires_grad=True)
        leaf.grad = None if g is None else Tensor([g])
        leaves.append(leaf)
    return leaves


def test_clip_grad_norm():
    a, b, idle = with_gradients(3.0, 4.0, None)
    check(clip_grad_norm([a, b, idle], 1.0), 5.0, "the length of [3, 4], before clipping")
    check(a.grad.numpy(), [0.6], "scaled by 1 / 5: together they have length 1", 1e-5)
    short = with_gradients(3.0)
    clip_grad_norm(short, 10.0)
    check(short[0].grad.numpy(), [3.0], "what is short enough stays as it is")
    ### BEGIN HIDDEN TESTS
    check(b.grad.numpy(), [0.8], "every gradient is scaled by the same number", 1e-5)
    bad = with_gradients(1.0, float("nan"))
    with check_raises(FloatingPointError, "nan", "a NaN must be told, not spread"):
        clip_grad_norm(bad, 0.1)
    check(bad[0].grad.numpy(), [1.0], "nothing changes when the norm is not finite")
    ### END HIDDEN TESTS


test_clip_grad_norm()

# %% [markdown]
r"""
## Schedules

Large steps at first, small ones when it matters. A schedule is a callable from the step's number to a learning rate: before each step
somebody says `optimizer.lr = schedule(step)`.

### Exercises: cosine, step, warm-up

- `CosineSchedule`: with progress $p$ from 0 to 1 (and 1 afterwards), $\mathrm{min} + (\mathrm{max} - \mathrm{min}) (1 + \cos \pi p) / 2$. Half way it is the middle.
- `StepSchedule`: `lr` times `gamma` to the power of how many whole `step_size` have passed.
- `WarmupSchedule`: at first $(\mathrm{step} + 1) / \mathrm{warmup\_steps}$ of the other schedule's first value; then the other schedule, from its own beginning. (Step 0 must not have a rate of 0: it would be wasted.)
"""


# %% nbgrader={"grade": false, "grade_id": "cosine-schedule", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class CosineSchedule:
    """From max_lr to min_lr in half a cosine wave (Loshchilov and Hutter 2017), then min_lr.

    >>> schedule = CosineSchedule(max_lr=1.0, min_lr=0.0, total_steps=4)
    >>> [round(schedule(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    def __init__(self, max_lr: float, min_lr: float = 0.0, total_steps: float = 100):
        self.max_lr, self.min_lr, self.total_steps = max_lr, min_lr, total_steps

    def __call__(self, step: float) -> float:
        ### BEGIN SOLUTION
        progress = min(step / self.total_steps, 1.0)
        wave = (1 + math.cos(math.pi * progress)) / 2
        return self.min_lr + (self.max_lr - self.min_lr) * wave
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-cosine-schedule", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_cosine_schedule():
    schedule = CosineSchedule(max_lr=1.0, min_lr=0.2, total_steps=10)
    check(schedule(0), 1.0, "it begins at max_lr")
    check(schedule(5), 0.6, "half way it is in the middle")
    ### BEGIN HIDDEN TESTS
    check(schedule(10), 0.2, "it ends at min_lr")
    check(schedule(25), 0.2, "and stays there: a cosine would rise again")
    ### END HIDDEN TESTS


test_cosine_schedule()


# %% nbgrader={"grade": false, "grade_id": "step-schedule", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class StepSchedule:
    """lr, times gamma after every `step_size` steps.

    >>> [StepSchedule(1.0, step_size=2, gamma=0.1)(step) for step in range(4)]
    [1.0, 1.0, 0.1, 0.1]
    """

    def __init__(self, lr: float, step_size: int, gamma: float = 0.1):
        self.lr, self.step_size, self.gamma = lr, step_size, gamma

    def __call__(self, step: int) -> float:
        ### BEGIN SOLUTION
        return self.lr * self.gamma ** (step // self.step_size)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-step-schedule", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
def test_step_schedule():
    rates = [StepSchedule(1.0, step_size=3, gamma=0.5)(step) for step in (0, 2, 3, 6)]
    check(rates, [1.0, 1.0, 0.5, 0.25], "halved after every 3 steps")


test_step_schedule()


# %% nbgrader={"grade": false, "grade_id": "warmup-schedule", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class WarmupSchedule:
    """A straight line up to another schedule's start, then that schedule.

    >>> schedule = WarmupSchedule(StepSchedule(1.0, step_size=100), warmup_steps=4)
    >>> [schedule(step) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    def __init__(self, schedule: Callable[[int], float], warmup_steps: int):
        self.schedule, self.warmup_steps = schedule, warmup_steps

    def __call__(self, step: int) -> float:
        ### BEGIN SOLUTION
        if step < self.warmup_steps:
            return self.schedule(0) * (step + 1) / self.warmup_steps
        return self.schedule(step - self.warmup_steps)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-warmup-schedule", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
def test_warmup_schedule():
    schedule = WarmupSchedule(StepSchedule(1.0, step_size=2, gamma=0.1), warmup_steps=2)
    check([schedule(step) for step in (0, 1)], [0.5, 1.0], "a straight line up to the first value")
    ### BEGIN HIDDEN TESTS
    later = [round(schedule(step), 6) for step in (2, 3, 4)]
    check(later, [1.0, 1.0, 0.1], "then the other schedule, from its own step 0")
    ### END HIDDEN TESTS


test_warmup_schedule()


# %% nbgrader={"grade": false, "grade_id": "one-cycle-schedule", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class OneCycleSchedule:
    """Up to max_lr in a cosine, then down to almost nothing in another (Smith 2018).

    Starts at max_lr / start_divisor, ends at that / end_divisor, as PyTorch's OneCycleLR.
    """

    def __init__(
        self,
        max_lr: float,
        total_steps: int,
        warmup: float = 0.3,
        start_divisor: float = 25.0,
        end_divisor: float = 1e4,
    ):
        self.max_lr, self.total_steps, self.warmup = max_lr, total_steps, warmup
        self.start_lr = max_lr / start_divisor
        self.end_lr = self.start_lr / end_divisor

    def __call__(self, step: int) -> float:
        top = self.warmup * self.total_steps - 1
        if step <= top:
            return CosineSchedule(self.start_lr, self.max_lr, top)(step)
        down = CosineSchedule(self.max_lr, self.end_lr, self.total_steps - 1 - top)
        return down(step - top)


# %%
schedules = {
    "cosine": CosineSchedule(0.1, 0.0, 100),
    "steps": StepSchedule(0.1, 30, 0.3),
    "warm-up, then cosine": WarmupSchedule(CosineSchedule(0.1, 0.0, 80), 20),
    "one cycle": OneCycleSchedule(0.1, 100),
}
for name, schedule in schedules.items():
    print(f"{name:22}" + "".join(f"{schedule(step):8.4f}" for step in (0, 10, 30, 60, 99)))
if plt:
    for (name, schedule), style in zip(schedules.items(), ["-", "--", ":", "-."], strict=True):
        plt.plot([schedule(step) for step in range(100)], "k" + style, label=name)
    plt.title("Four schedules")
    plt.xlabel("step")
    plt.ylabel("learning rate")
    plt.legend()
    plt.show()

# %% [markdown]
r"""
## Put together: digits

The same network, the same start, the same batches of real handwritten digits: seven rules. Each has a learning rate that suits it;
finding that is half of what people call training. **Predict** the order at the end of the first epoch.
"""

# %%
digits = np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz")
pixels = (digits["images"].reshape(-1, 64) / 16).astype(np.float32)
labels = digits["labels"]
order = np.random.default_rng(0).permutation(len(pixels))
train, held_out = order[:1437], order[1437:]


def network():
    manual_seed(0)
    return Sequential(Linear(64, 32), ReLU(), Linear(32, 10))


def accuracy(model, rows):
    with no_grad():
        return float((model(Tensor(pixels[rows])).numpy().argmax(1) == labels[rows]).mean())


# %%
def losses_of(make_optimizer, epochs=8, batch=32):
    """Train a fresh network; the mean loss of each epoch, and the accuracy on unseen digits."""
    model, loss_fn = network(), CrossEntropyLoss()
    optimizers = make_optimizer(model)
    history = []
    for epoch in range(epochs):
        shuffled = np.random.default_rng(epoch).permutation(train)
        total = 0.0
        for start in range(0, len(train), batch):
            rows = shuffled[start : start + batch]
            loss = loss_fn(model(Tensor(pixels[rows])), Tensor(labels[rows]))
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            total += loss.item() * len(rows)
        history.append(total / len(train))
    return history, accuracy(model, held_out)


# %%
def muon_for_matrices(model):
    """What people do: Muon for the hidden weights, AdamW for the rest."""
    hidden = model.layers[0].weight
    rest = [p for p in model.parameters() if p is not hidden]
    return [Muon([hidden], lr=0.02), AdamW(rest, lr=0.01)]


rules = {
    "SGD 0.1": lambda model: [SGD(model.parameters(), lr=0.1)],
    "momentum 0.05": lambda model: [SGD(model.parameters(), lr=0.05, momentum=0.9)],
    "RMSprop 0.003": lambda model: [RMSprop(model.parameters(), lr=0.003)],
    "Adam 0.01": lambda model: [Adam(model.parameters(), lr=0.01)],
    "AdamW 0.01": lambda model: [AdamW(model.parameters(), lr=0.01)],
    "Lion 0.001": lambda model: [Lion(model.parameters(), lr=0.001)],
    "Muon 0.02 + AdamW": muon_for_matrices,
}
curves = {}
for name, rule in rules.items():
    curves[name], score = losses_of(rule)
    print(
        f"{name:18} loss after epoch 1 {curves[name][0]:.3f}, 8 {curves[name][-1]:.4f}, unseen {score:.3f}"
    )

# %%
if plt:
    styles = ["k-", "k--", "k:", "k-.", "ko-", "k+-", "kx--"]
    for (name, curve), style in zip(curves.items(), styles, strict=True):
        plt.semilogy(range(1, 9), curve, style, markersize=4, label=name)
    plt.title("Seven rules on the digits")
    plt.xlabel("epoch")
    plt.ylabel("training loss (nats)")
    plt.legend(fontsize=8)
    plt.show()

# %% [markdown]
r"""
Look twice before you crown a winner: this is one network, one seed, one learning rate each.

## Systems: what a step costs

An optimizer computes next to nothing for each number it touches, so memory decides. **Predict**: how many bytes of state does each
rule keep for a float32 parameter of 4 bytes? And if copying an array reads and writes it once, how many copies' time does a step of Adam cost?
"""


# %%
def step_cost(make, size=1_000_000):
    """Microseconds of a step on one large parameter, and bytes of state for each element."""
    side = int(size**0.5)
    w = Tensor(np.ones((side, side), np.float32), requires_grad=True)
    w.grad = Tensor(np.ones((side, side), np.float32))
    optimizer = make([w])
    took = microseconds(optimizer.step, repeat=15)
    arrays = optimizer.state_dict()["state"].get(0, {})
    return took, sum(np.asarray(a).nbytes for n, a in arrays.items() if n != "step") / w.size


source = np.ones((1000, 1000), np.float32)
copying = microseconds(lambda: np.copyto(np.empty_like(source), source), repeat=15)
print(f"copying a million floats: {copying:.0f} us")
for make in (SGD, RMSprop, Adam, Lion):
    took, held = step_cost(make)
    print(
        f"{make.__name__:8} {took:7.0f} us = {took / copying:4.1f} copies, {held:.0f} bytes a parameter"
    )

# %% [markdown]
r"""
The large array is cut into chunks of 131,072 elements, and all of a rule's arithmetic is done on one chunk before the next is fetched. Does that matter?
"""

# %%
for chunk in (1 << 10, 1 << 14, 1 << 17, 1 << 20):
    Optimizer.chunk = chunk
    took, _ = step_cost(Adam)
    print(f"chunks of {chunk:9,}: {took:7.0f} us")
Optimizer.chunk = 1 << 17

# %% [markdown]
r"""
Small chunks pay for Python, large ones for memory. PyTorch goes further where it can: `torch.optim.Adam(..., foreach=True)` hands all parameters to
one call, as our `ParameterBlock` does, and `fused=True` does the whole rule in one pass over memory, which NumPy, one operation at a time, can't.

## Questions

Write your answers with numbers.

**1.** A model of 7 billion float32 parameters is trained with Adam. How many gigabytes ($10^9$ bytes) do the parameters, the gradients and the state take? How many with Lion?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-memory", "locked": false, "points": 4, "schema_version": 3, "solution": true, "task": false}
r"""
Parameters 28 GB, gradients 28 GB, Adam's two averages 56 GB: 112 GB. Lion keeps one average: 84 GB.
"""

# %% [markdown]
r"""
**2.** With `betas = (0.9, 0.999)`, suppose Adam divided by the weights that its sums have after infinitely many steps, $1 / (1 - \beta)$, from the start. By which factor would its first step differ from `lr`? (Let `eps` be 0.)
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-bias", "locked": false, "points": 4, "schema_version": 3, "solution": true, "task": false}
r"""
The weights would be 10 and 1,000 in place of 1 and 1. So the averages are $0.1\,g$ and $0.001\,g^2$, and the step is $0.1 / \sqrt{0.001} = 3.16$ times `lr`: too large, not too small,
because the slower average lags behind more.
"""

# %% [markdown]
r"""
**3.** In the valley $f = \frac{1}{2}(x^2 + 100 y^2)$, what is the largest learning rate for which plain SGD does not diverge? How many steps does it then need to halve $x$?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-valley", "locked": false, "points": 3, "schema_version": 3, "solution": true, "task": false}
r"""
$|1 - 100\,\mathrm{lr}| \le 1$ gives lr at most 0.02. There $x$ shrinks by 0.98 a step: $\ln 0.5 / \ln 0.98 = 34.3$, so 35 steps (while $y$ jumps from side to side without shrinking).
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "schema_version": 3, "solution": false, "task": false}
def test_module():
    """Everything that this module built, once more."""
    test_sgd()
    test_rmsprop()
    test_adam_step()
    test_adamw()
    test_lion()
    test_orthogonalize()
    test_muon()
    test_clip_grad_norm()
    test_cosine_schedule()
    test_step_schedule()
    test_warmup_schedule()
    check(min(curve[-1] for curve in curves.values()) < 0.1, True, "some rule learns the digits")
    print("module 06: all checks pass")


test_module()

# %% [markdown]
r"""
## What works now

- Seven rules from plain descent to Muon, each a few lines on arrays, equal to the published ones.
- Any number of parameters steps as one array; settings per group; state that can be saved.
- Clipping, and schedules that are plain functions of the step.
- You know what each rule costs in bytes and in passes over memory.
- It unlocks module 07: a training loop that puts data, network, loss and optimizer together.
"""

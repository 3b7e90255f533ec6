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
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tinytorch.core.tensor import Tensor, writes

# %% [markdown]
r"""
## Parameters that step together
"""

# %% nbgrader={"grade": false, "grade_id": "block", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class Block:
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

    def without(self, missing: set[int]) -> list[Block]:
        """This block in two: the parameters whose ids are `missing`, and the others."""
        blocks = []
        for wanted in (False, True):
            kept = [p for p in self.parameters if (id(p) in missing) == wanted]
            block = Block(kept)
            block.step = self.step
            for name, flat in self.state.items():
                parts = [part for p, part in self.slots(flat) if (id(p) in missing) == wanted]
                joined = np.concatenate([part.reshape(-1) for part in parts])
                block.state[name] = joined if len(kept) > 1 else joined.reshape(kept[0].shape)
            blocks.append(block)
        return blocks


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
    chunk = 1 << 15  # elements at a time: what an update reads and writes stays in the cache

    def __init__(self, parameters: Iterable[Any], **defaults: Any):
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._blocks: list[list[Block]] = []
        given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
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
        tensors = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
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
        self._blocks.append([Block(members) for members in by_dtype.values()])

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

    def _step_block(self, block: Block, group: dict[str, Any]) -> None:
        block.load()
        block.step += 1
        if not self.elementwise or block.data.size <= self.chunk or not block.data.flags.c_contiguous:
            self.update(block.data, block.grad, block.state_of, group, block.step)
        else:
            flat, grad = block.data.reshape(-1), block.grad.reshape(-1)
            for start in range(0, flat.size, self.chunk):
                part = slice(start, start + self.chunk)
                state = lambda name, part=part: block.state_of(name).reshape(-1)[part]  # noqa: E731
                self.update(flat[part], grad[part], state, group, block.step)
        writes.add(block.data)

    def update(self, p, g, state: Callable[[str], np.ndarray], group: dict, step: int) -> None:
        """Change the array `p` in place, given its gradient `g`."""
        raise NotImplementedError(f"{type(self).__name__} gives no update(p, g, state, group, step)")

    def state_dict(self) -> dict[str, Any]:
        """The settings, and for each parameter (numbered in order) its step count and arrays."""
        numbers = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                numbers[id(p)] = len(numbers)
            groups.append({**group, "params": [numbers[id(p)] for p in group["params"]]})
        state: dict[int, dict[str, Any]] = {}
        for block in (block for blocks in self._blocks for block in blocks):
            for p in block.parameters if block.step else ():
                state[numbers[id(p)]] = {"step": block.step}
            for name, flat in block.state.items():
                for p, part in block.slots(flat.reshape(-1)):
                    state[numbers[id(p)]][name] = part.copy()
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
        numbers = {id(p): number for number, p in enumerate(tensors)}
        entries = {int(number): entry for number, entry in saved["state"].items()}
        for i, (group, new) in enumerate(zip(self.param_groups, saved["param_groups"], strict=True)):
            group.update({name: value for name, value in new.items() if name != "params"})
            together: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                alone = None if self.elementwise else id(p)
                step = entries.get(numbers[id(p)], {}).get("step", 0)
                together.setdefault((p.dtype, step, alone), []).append(p)
            self._blocks[i] = []
            for (_, step, _), members in together.items():
                block = Block(members)
                block.step = step
                names = entries.get(numbers[id(members[0])], {}).keys() - {"step"}
                for name in sorted(names):
                    parts = [np.asarray(entries[numbers[id(p)]][name], p.dtype) for p in members]
                    joined = np.concatenate([part.reshape(-1) for part in parts])
                    block.state[name] = joined if len(members) > 1 else joined.reshape(members[0].shape)
                self._blocks[i].append(block)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={self.param_groups[0][name]}" for name in self.defaults)
        return f"{type(self).__name__}({settings})"


# %% [markdown]
r"""
## Descent
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


# %% nbgrader={"grade": false, "grade_id": "adam", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class Adam(Optimizer):
    """Momentum divided by a running root mean square, both corrected for their start at zero.

    Kingma and Ba 2015, algorithm 1; `weight_decay` is added to the gradient, as an L2 penalty.
    """

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, p, g, state, group, step):
        ### BEGIN SOLUTION
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        adam_step(p, g, state("exp_avg"), state("exp_avg_sq"), group, step)
        ### END SOLUTION


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights directly (Loshchilov and Hutter 2019)."""

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def update(self, p, g, state, group, step):
        ### BEGIN SOLUTION
        p *= 1 - group["lr"] * group["weight_decay"]
        adam_step(p, g, state("exp_avg"), state("exp_avg_sq"), group, step)
        ### END SOLUTION


def adam_step(p, g, mean, square, group, step) -> None:
    """p -= lr * mean / (sqrt(square) + eps), in place, both averages corrected by 1 - beta^step."""
    ### BEGIN SOLUTION
    beta1, beta2 = group["betas"]
    mean += (1 - beta1) * (g - mean)
    square *= beta2
    square += (1 - beta2) * (g * g)
    root = np.sqrt(square)
    root /= math.sqrt(1 - beta2**step)
    root += group["eps"]
    np.divide(mean, root, out=root)
    root *= group["lr"] / (1 - beta1**step)
    p -= root
    ### END SOLUTION


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


# %% nbgrader={"grade": false, "grade_id": "muon", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class Muon(Optimizer):
    """Momentum whose singular values are all pushed to about 1 (Jordan et al. 2024), for matrices.

    Biases, embeddings and the last layer are better given to AdamW. A weight of shape
    (in_features, out_features) is scaled by sqrt(max(1, out_features / in_features)).
    """

    elementwise = False

    def __init__(self, parameters, lr=2e-2, momentum=0.95, nesterov=True, weight_decay=0.0, steps=5):
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


# %% [markdown]
r"""
## Gradients that explode
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
        raise FloatingPointError(f"clip_grad_norm: the gradients' norm is {norm}: the loss diverged")
    if norm > max_norm:
        for g in gradients:
            g.data *= max_norm / (norm + 1e-6)
            writes.add(g.data)
    return norm
    ### END SOLUTION


# %% [markdown]
r"""
## Schedules
"""

# %% nbgrader={"grade": false, "grade_id": "schedules", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
class CosineSchedule:
    """From max_lr to min_lr in half a cosine wave (Loshchilov and Hutter 2017), then min_lr.

    >>> schedule = CosineSchedule(max_lr=1.0, min_lr=0.0, total_steps=4)
    >>> [round(schedule(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    def __init__(self, max_lr: float, min_lr: float = 0.0, total_steps: int = 100):
        self.max_lr, self.min_lr, self.total_steps = max_lr, min_lr, total_steps

    def __call__(self, step: int) -> float:
        ### BEGIN SOLUTION
        progress = min(step / self.total_steps, 1.0)
        wave = (1 + math.cos(math.pi * progress)) / 2
        return self.min_lr + (self.max_lr - self.min_lr) * wave
        ### END SOLUTION


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
        ### BEGIN SOLUTION
        top = self.warmup * self.total_steps - 1
        if step <= top:
            return CosineSchedule(self.start_lr, self.max_lr, top)(step)
        down = CosineSchedule(self.max_lr, self.end_lr, self.total_steps - 1 - top)
        return down(step - top)
        ### END SOLUTION

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

> Gradients of anything that tensors compute: remember every operation, then walk back.

**Built before:** tensors whose operations can be watched, activations, layers and losses. A network can say how wrong it is.
**Built here:** `backward`, `grad`, `no_grad`, the rules of every operation of modules 01 to 04, `gradcheck`, `jacobian`, `hessian`. A network can say which way is better.
**Time:** 5 hours. **Points:** 80 for code, 20 for the questions at the end.
"""

# %%
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from tinytorch.core import activations, layers, losses, tensor
from tinytorch.core.tensor import Tensor, active_watchers, install_watcher, paused, watching, writes

# %%
import gc
import time
import tracemalloc
from pathlib import Path

import tinytorch
from tqdm import tqdm

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the lesson works without pictures

# %% [markdown]
r"""
## Which way is better?

Here are real digits and a network of two layers with random weights. Its loss is a number; training means making it smaller. For each of its 2,410 weights you would like to know: if this weight grows a little, by how much does the loss grow? That number is the **derivative** of the loss by the weight, and all of them together are the **gradient**.
"""

# %%
with np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz") as digits:
    images = Tensor(digits["images"].reshape(-1, 64) / 16.0)
    labels = digits["labels"].astype(int)


def new_parameters(seed=0):
    random = np.random.default_rng(seed)
    shapes = [(64, 32), (32,), (32, 10), (10,)]
    return [Tensor(random.normal(0, 0.2, shape)) for shape in shapes]


def loss_of(parameters, x=images, y=labels):
    w1, b1, w2, b2 = parameters
    hidden = activations.relu(layers.linear(x, w1, b1))
    return losses.cross_entropy(layers.linear(hidden, w2, b2), y)


print("images", images.shape, " loss", loss_of(new_parameters()).item())
print("parameters", sum(p.size for p in new_parameters()))

# %% [markdown]
r"""
The definition of a derivative suggests a way: move one weight by a small $\varepsilon$ each way and see what the loss does.

$$\frac{\partial L}{\partial w} \approx \frac{L(w + \varepsilon) - L(w - \varepsilon)}{2 \varepsilon}$$

**Predict:** one loss takes a few milliseconds. How long does one gradient take, for all weights? And for a million weights? Write it down.
"""

# %%
start = time.perf_counter()
for _ in range(10):
    loss_of(new_parameters())
one_loss = (time.perf_counter() - start) / 10
print(f"one loss {one_loss * 1e3:.2f} ms")
print(f"one gradient of 2,410 weights {2 * 2410 * one_loss:.1f} s")
print(f"one gradient of a million weights {2e6 * one_loss / 60:.0f} min")

# %% [markdown]
r"""
And that is one step of thousands. It isn't even exact. The next cell takes a derivative that is known, that of $e^x$ at 1, in float32, with smaller and smaller $\varepsilon$.

**Predict:** does the error become smaller all the way?
"""

# %%
steps = 10.0 ** -np.arange(1, 8)
errors = {}
for dtype in (np.float32, np.float64):
    x, wide = dtype(1), steps.astype(dtype)
    slope = (np.exp(x + wide) - np.exp(x - wide)) / (2 * wide)
    errors[dtype.__name__] = abs(slope - np.exp(1.0)) / np.exp(1.0)
print("epsilon ", " ".join(f"{e:8.0e}" for e in steps))
for name, error in errors.items():
    print(f"{name:8}", " ".join(f"{e:8.1e}" for e in error))

# %%
if plt:
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for (name, error), style in zip(errors.items(), ("o-", "s--"), strict=True):
        axes.loglog(steps, error, style, label=name)
    axes.set(title="Difference quotients: too big a step, or too small", xlabel="epsilon")
    axes.set(ylabel="relative error")
    axes.legend()
    plt.show()

# %% [markdown]
r"""
A large $\varepsilon$ sees the curve's bend; with a small one, two nearly equal numbers are subtracted and only rounding is left. In float32 you never get more than a few digits. Differences are good for *checking* a gradient (you will use them for that, in float64), not for training.

This lesson computes the gradient of any number of weights exactly, in the time of a few more losses.

## One operation, asked backwards

A loss is a long chain of small operations. Look at one link, $out = a \cdot b$, and suppose that somebody already told you how the loss reacts to the result:

$$g = \frac{\partial L}{\partial out}$$

What does the loss do if $a$ grows by 1? The result grows by $b$, so the loss grows by $g \cdot b$. That is the chain rule, for one link:

$$\frac{\partial L}{\partial a} = g \cdot \frac{\partial out}{\partial a} = g \cdot b \qquad\qquad \frac{\partial L}{\partial b} = g \cdot a$$

```
   a = 3 ----\                        a   <-- g * b = 40 ---\
              (mul)--> out = 12                              (mul) <-- g = 10
   b = 4 ----/                        b   <-- g * a = 30 ---/
      forward: numbers                    backward: how much each one matters
```

A **rule** is that answer as a function: `rule(g, out, *inputs, **params)` gives the gradient of one input. It may use the result `out`, because that is already computed. The table `rules` holds one rule for each input of each operation.
"""

# %% nbgrader={"grade": false, "grade_id": "vjp", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
# op -> one rule for each input, or one joint rule for all of them
rules: dict[Callable, Any] = {}
without_rule: set[Callable] = set()  # ops that are known to have no gradient


def vjp(op: Callable, *input_rules: Callable | None) -> None:
    """Say how `op` sends a gradient back: one rule for each input, None where there is none.

    A rule `(g, out, *inputs, **params)` takes the gradient of the loss with respect to the result
    and gives that with respect to its input (a vector-Jacobian product): `g` itself, a view of it
    or a new array. It writes into none of its arguments. It is written in what arrays and tensors
    share, and may leave broadcast axes in: the walk sums them away.
    """
    rules[op] = input_rules


def joint_vjp(op: Callable, rule: Callable) -> None:
    """One rule `(g, out, *inputs, **params)` for all inputs: a sequence of gradients, in order."""
    rules[op] = rule


def nondifferentiable(*ops: Callable) -> None:
    """Declare operations through which no gradient goes: comparisons, argmax and their like."""
    without_rule.update(ops)


# %% [markdown]
r"""
**Exercise 1 (5 points).** Add the rules of `sub`, `mul`, `div` and `neg` to the table; those of `copy` and `add` are given. `tensor` is module 01's file, so the operations are `tensor.sub` and so on. The cell is a table, not a function: put your `vjp(...)` lines in place of the `raise`. Use operators only (`+ - * /`), so that a rule works for arrays and for tensors. Worked numbers: for $out = a / b$ with $a = 6, b = 2, g = 10$ the rules give 5 and -15.

<details><summary>Hint</summary>The derivative of a / b by b is -a / b², and a / b is `out`: nothing has to be divided twice.</details>
"""

# %% nbgrader={"grade": false, "grade_id": "rules-arithmetic", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
vjp(tensor.copy, lambda g, out, a: g)
vjp(tensor.add, lambda g, out, a, b: g, lambda g, out, a, b: g)
### BEGIN SOLUTION
vjp(tensor.sub, lambda g, out, a, b: g, lambda g, out, a, b: -g)
vjp(tensor.mul, lambda g, out, a, b: g * b, lambda g, out, a, b: g * a)
vjp(tensor.div, lambda g, out, a, b: g / b, lambda g, out, a, b: -g * out / b)
vjp(tensor.neg, lambda g, out, a: -g)
### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-rules-arithmetic", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def answers(op, g, *inputs):
    """What the rules of `op` answer, one for each input."""
    arrays = [np.asarray(x, np.float64) for x in inputs]
    return [float(rule(np.float64(g), op(*arrays), *arrays)) for rule in rules[op]]


def test_arithmetic_rules():
    check(answers(tensor.mul, 10, 3, 4), [40.0, 30.0], "g times the OTHER input")
    check(answers(tensor.sub, 10, 3, 4), [10.0, -10.0], "a - b falls when b grows")
    check(answers(tensor.div, 10, 6, 2), [5.0, -15.0], "g / b, and -g a / b^2")
    check(answers(tensor.neg, 10, 3), [-10.0], "-g")
    ### BEGIN HIDDEN TESTS
    for op in (tensor.add, tensor.sub, tensor.mul, tensor.div):
        for k in range(2):
            plus, minus = [1.7, -0.6], [1.7, -0.6]
            plus[k], minus[k] = plus[k] + 1e-6, minus[k] - 1e-6
            numeric = -3 * float(op(*map(np.float64, plus)) - op(*map(np.float64, minus))) / 2e-6
            check(answers(op, -3, 1.7, -0.6)[k], numeric, f"{op.__name__}, input {k}", 1e-6)
    ### END HIDDEN TESTS


test_arithmetic_rules()

# %% [markdown]
r"""
Some operations have no useful derivative: a comparison jumps from False to True and is flat everywhere else. They are declared, so that a rule that somebody *forgot* is not mistaken for one that isn't there.
"""

# %% nbgrader={"grade": false, "grade_id": "nondifferentiable", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
nondifferentiable(
    *(tensor.equal, tensor.not_equal, tensor.less, tensor.less_equal, tensor.greater),
    *(tensor.greater_equal, tensor.logical_not, tensor.logical_and, tensor.logical_or),
    *(tensor.any_, tensor.all_, tensor.argmax, tensor.argmin, tensor.sign),
)

# %% [markdown]
r"""
## Remembering

To walk back through a computation, somebody must have written down what happened. Module 01 left a door open for that: every operation on tensors is shown to all watchers, `watcher(op, inputs, params, out)`. **Predict** what this watcher prints, in which order.
"""

# %%
a, b = Tensor(3.0), Tensor(4.0)
with watching("print", lambda op, inputs, params, out: print(op.__name__, "->", out.item())):
    loss = (a * b - a) / 2

# %% [markdown]
r"""
So nothing in modules 01 to 04 has to change. The watcher of this lesson hangs a `Node` on the result: which operation ran, on which inputs.

```
  loss --node--> div (·, 2)
                  |
                  (tensor) --node--> sub (·, ·) ------> a
                                      |                 ^
                                      (tensor) --node--> mul (a, b) ---> b
```

Results point to what they were computed from, never the other way. When the last result goes out of use, Python frees the whole graph at once, because nothing points in a circle.
"""


# %% nbgrader={"grade": false, "grade_id": "node", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
class Node:
    """One recorded operation: what ran, on what, and when.

    It hangs on the tensor that the operation made and holds the tensors that it read, never the
    other way round: a graph has no cycles and goes when its last tensor goes.
    """

    __slots__ = ("born", "inputs", "op", "params")

    def __init__(self, op: Callable, inputs: tuple, params: dict):
        self.op = op
        self.inputs: Any = inputs  # None once a backward has passed and dropped them
        self.params: Any = params
        self.born = writes.clock


# %% [markdown]
r"""
**Exercise 2 (5 points).** Write the watcher `record`.

- Where no input is a `Tensor` with `requires_grad`, or where the op is in `without_rule`, nothing is to be done. Inputs may also be plain numbers.
- An op that is not in `rules` raises a RuntimeError that begins with its name: `exp: no gradient rule: add vjp(exp, ...) or nondifferentiable(exp)`. A gradient must never be lost without a word.
- Else, if the result holds floating-point numbers (`out.dtype.kind` is `"f"`), set `out.requires_grad` and `out.node`.
"""


# %% nbgrader={"grade": false, "grade_id": "record", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
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
        raise RuntimeError(
            f"{name}: no gradient rule: add vjp({name}, ...) or nondifferentiable({name})"
        )
    if out.data.dtype.kind == "f":
        out.requires_grad = True
        out.node = Node(op, inputs, params)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-record", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
@tensor.op
def unheard_of(x):
    return x + 1


def test_record():
    a, b = Tensor([3.0], requires_grad=True), Tensor([4.0])
    with watching("autograd", record):
        product, constant, larger = a * b, b * 2, a > b
        check(product.requires_grad, True, "an input wants a gradient, so the result must too")
        check(product.node.op.__name__, "mul", "the node remembers the operation")
        check(product.node.inputs[0] is a, True, "the node holds the very tensors that were read")
        check(constant.node, None, "no input wants a gradient: nothing to remember")
        check(larger.node, None, "a comparison has no gradient")
        with check_raises(RuntimeError, "unheard_of: no gradient rule", "name the operation"):
            unheard_of(a)
    ### BEGIN HIDDEN TESTS
    with watching("autograd", record):
        check((2 * a).requires_grad, True, "an input may also be a plain number")
        check((b * a).requires_grad, True, "the second input may be the one that wants it")
        check(unheard_of(b).node, None, "an op without a rule is fine while nobody needs it")
        vjp(unheard_of, lambda g, out, x: g)
        whole = Tensor._wrap(np.array([1, 2]))
        record(unheard_of, (a,), {}, whole)
        check(whole.requires_grad, False, "integers have no gradient")
        del rules[unheard_of]
    ### END HIDDEN TESTS


test_record()

# %% [markdown]
r"""
From now on `record` watches the whole process. `no_grad` pauses it inside a `with`, in the present thread: when you evaluate a network, or change its weights, there is nothing to remember. `x.detach()` gives a tensor with the same numbers and no past.
"""

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
    """Record again, inside a `no_grad`.

    >>> w = Tensor([1.0], requires_grad=True)
    >>> with no_grad(), enable_grad():
    ...     (2 * w).requires_grad
    True
    """
    return watching("autograd", record)


def is_grad_enabled() -> bool:
    """Would an operation be recorded here and now?

    >>> is_grad_enabled()
    True
    """
    return active_watchers().get("autograd") is not None


# %%
w = Tensor([3.0], requires_grad=True)
print("recorded:", w * w)
with no_grad():
    print("paused:  ", w * w)
print("detached:", w.detach() * w.detach())

# %% [markdown]
r"""
## Walking back, the obvious way

Start at the loss with $g = 1$, because $\partial L / \partial L = 1$. Ask the rules of its node what its inputs get, then do the same at each input, down to the leaves. Where a tensor is reached on several paths, their contributions add up: if $a$ moves, it moves the loss along every path at once.
"""


# %%
def naive(out, g):
    """Walk back by recursion; count the calls."""
    naive.calls += 1
    node = out.node
    if node is None:
        out.grad = g if out.grad is None else out.grad + g
        return
    arrays = [x.data if isinstance(x, Tensor) else x for x in node.inputs]
    for x, rule in zip(node.inputs, rules[node.op], strict=False):
        if isinstance(x, Tensor) and x.requires_grad:
            naive(x, rule(g, out.data, *arrays))


naive.calls = 0
a, b = Tensor(3.0, requires_grad=True), Tensor(4.0, requires_grad=True)
naive((a * b - a) / 2, np.float32(1))
print("by a:", a.grad, "= (b - 1) / 2     by b:", b.grad, "= a / 2")

# %% [markdown]
r"""
It works: a few lines, and gradients of anything. Now two shapes of graph that real networks are full of. A **diamond**: a value is used twice and the results meet again, as in every skip connection.

```
         +-----+        +-----+        +-----+
   x ----|     |--- y --|     |--- z --|     |---- ...     y = x + x, z = y + y, ...
     \___|  +  |   \____|  +  |   \____|  +  |
         +-----+        +-----+        +-----+
```

**Predict** the number of calls for 5, 10, 15 diamonds in a row. A network of 100 skip connections would take how many?
"""

# %%
for depth in (1, 2, 3, 5, 10, 15):
    x = y = Tensor(1.0, requires_grad=True)
    for _ in range(depth):
        y = y + y
    naive.calls = 0
    naive(y, np.float32(1))
    print(f"{depth:3} diamonds: {naive.calls:6} calls, gradient {x.grad}")

# %% [markdown]
r"""
Every diamond doubles the work: naive recursion walks every *path*, and there are $2^n$ of them. And a **deep chain**, as a recurrent network makes one, breaks it in another way:
"""

# %%
y = Tensor(1.0, requires_grad=True)
for _ in range(10_000):
    y = y * 1.0
try:
    naive(y, np.float32(1))
except RecursionError as error:
    print("RecursionError:", error)

# %% [markdown]
r"""
## Each tensor once, in the right order

Both troubles have one cure. A tensor's gradient is complete when *all* its consumers have sent their parts; only then should it be passed on, once. So the walk needs an order in which every tensor comes after all that it was computed from (**producers first**; read from the end, consumers come first). It is called a topological order.

```
   graph:   x --> y --> loss        producers first:  x, y, loss
             \________/             backward:         loss, y, x     (x last: two parts arrive)
```

A depth-first walk finds it: put a tensor down *after* everything that it was computed from. To be independent of Python's stack, keep a list as your own.

Two things can have happened to a node since it was recorded: an earlier backward dropped it to free memory, or somebody overwrote an array that a rule would read. `check_usable` finds out.
"""


# %% nbgrader={"grade": false, "grade_id": "check-usable", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
def check_usable(made: Tensor) -> None:
    """Raise where the operation that made this tensor can't be walked back any more."""
    node = made.node
    name = node.op.__name__.strip("_")
    if node.inputs is None:
        raise RuntimeError(
            f"backward: an earlier backward dropped the graph of {name}: run the forward again, "
            "or pass retain_graph=True the first time"
        )
    arrays = [made.data, *(x.data for x in node.inputs if isinstance(x, Tensor))]
    if any(writes.since(array, node.born) for array in arrays):
        raise RuntimeError(
            f"backward: an input or the result of {name} was written in place after it ran: "
            "write x = x + y instead of x += y, or work on x.clone()"
        )


# %% [markdown]
r"""
**Exercise 3 (9 points).** Write `producers_first(root)`: the list of every tensor that `root` was computed from and that requires a gradient, each once, inputs always before results, `root` last.

- No recursion: a stack of your own. A tensor is met twice: first to look at its inputs, then, when they are all in the list, to be put there itself.
- `id(x)` tells tensors apart (`==` compares their elements). A leaf has `node` None.
- For a tensor with a node whose `node.inputs` is None, or whose `node.born` differs from `writes.clock`, call `check_usable(tensor)`.

For $loss = (a \cdot b) + a$ one right answer is `[a, b, a*b, loss]`, another `[b, a, a*b, loss]`.

<details><summary>Hint</summary>Take a tensor from the stack. New? Mark it as seen, push it again with a marker behind it (`stack += (made, None)`), then push its inputs. When None comes off the stack, the tensor below it is done.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "producers-first", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def producers_first(root: Tensor) -> list[Tensor]:
    """Every tensor that `root` was computed from and that wants a gradient, each once, root last.

    Iterative: the depth of a graph is bounded by memory, not by Python's stack.
    """
    ### BEGIN SOLUTION
    order: list[Tensor] = []
    seen: set[int] = set()
    stack: list[Any] = [root]
    while stack:
        made = stack.pop()
        if made is None:  # all that the tensor below was computed from is in order
            order.append(stack.pop())
        elif id(made) not in seen:
            seen.add(id(made))
            node = made.node
            if node is None:
                order.append(made)
                continue
            if node.inputs is None or node.born != writes.clock:
                check_usable(made)
            stack += (made, None)
            for x in node.inputs:
                if isinstance(x, Tensor) and x.requires_grad:
                    stack.append(x)
    return order
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-producers-first", "locked": true, "points": 9, "schema_version": 3, "solution": false, "task": false}
def places(root):
    """Where each tensor stands in the order, by id."""
    order = producers_first(root)
    check(len({id(x) for x in order}), len(order), "each tensor once")
    check(order[-1] is root, True, "the root comes last")
    return {id(x): place for place, x in enumerate(order)}


def test_producers_first():
    a, b, c = (Tensor([x], requires_grad=x < 3) for x in (1.0, 2.0, 3.0))
    product = a * b
    total = product + a * c
    place = places(total)
    check(len(place), 5, "a, b, a * b, a * c and the sum; c wants no gradient")
    check(place[id(a)] < place[id(product)] < place[id(total)], True, "inputs before results")
    y = x = Tensor(0.0, requires_grad=True)
    for _ in range(2000):
        y = y + y
    check(len(places(y)), 2001, "2,000 diamonds, each met once")
    ### BEGIN HIDDEN TESTS
    for size in range(3, 12):  # a late shortcut: x must stand before every power of it
        powers = [x]
        for _ in range(size):
            powers.append(powers[-1] * x)
        place = places(powers[-1] + powers[size // 2] * powers[1])
        standing = [place[id(power)] for power in powers]
        check(standing, sorted(standing), "every result after all of its inputs")
    check(len(producers_first(a)), 1, "a leaf alone is an order of one")
    kept = a.detach() * b
    kept.node.inputs = None
    with check_raises(RuntimeError, "dropped", "call check_usable for a node without inputs"):
        producers_first(kept * b)
    ### END HIDDEN TESTS


test_producers_first()

# %% [markdown]
r"""
## Undoing broadcasting

One more thing before the walk. A bias of shape `(3,)` is added to a batch of shape `(2, 3)`, so module 01 repeats it for each row. The rule of `add` answers with `g`, of shape `(2, 3)`, but the bias has three numbers:
"""

# %%
g = np.array([[1.0, 2, 3], [10, 20, 30]])
print("the rule's answer has shape", rules[tensor.add][1](g, None, None, None).shape)

# %% [markdown]
r"""
Each number of the bias was used twice, once in each row. Contributions of several paths add up, so its gradient is the sum over the rows, `[11, 22, 33]`. In general: **axes that broadcasting added or stretched are summed over.**

```
  forward:   (3,)   -> (2, 3)   repeated down        backward:  sum over axis 0, drop it
  forward:   (2, 1) -> (2, 3)   repeated across      backward:  sum over axis 1, keep it as 1
```

**Exercise 4 (5 points).** Write `unbroadcast(g, shape)`: the gradient `g` of a broadcast result, summed to `shape`. Shapes are compared from the right, as in module 01. `g` may be an array or a tensor: use `g.shape`, `g.ndim`, `g.sum(axis=...)`, `g.reshape(...)`. Where the shapes are equal return `g` itself.
"""


# %% nbgrader={"grade": false, "grade_id": "unbroadcast", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def unbroadcast(g, shape: tuple[int, ...]):
    """Sum away the axes that broadcasting added to an input of this shape, or stretched from 1.

    >>> unbroadcast(np.ones((4, 3)), (3,)), unbroadcast(np.ones((4, 3)), (4, 1)).shape
    (array([4., 4., 4.]), (4, 1))
    """
    ### BEGIN SOLUTION
    if g.shape == shape:
        return g
    axes = range(-g.ndim, 0)
    spread = tuple(i for i in axes if -i > len(shape) or (shape[i] == 1 and g.shape[i] != 1))
    return g.sum(axis=spread).reshape(shape)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-unbroadcast", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_unbroadcast():
    g = np.array([[1.0, 2, 3], [10, 20, 30]])
    check(unbroadcast(g, (3,)), [11.0, 22.0, 33.0], "sum over the axis that was added")
    check(unbroadcast(g, (2, 1)), [[6.0], [60.0]], "sum over the axis of size 1, and keep it")
    check(unbroadcast(g, ()), 66.0, "a scalar was repeated everywhere")
    check(unbroadcast(g, (2, 3)) is g, True, "nothing to do: give g back")
    ### BEGIN HIDDEN TESTS
    big = np.random.default_rng(0).normal(size=(4, 2, 3))
    for shape in [(1,), (3,), (1, 1), (1, 3), (2, 1), (1, 2, 1), (4, 1, 3), (1, 1, 3)]:
        numeric = np.zeros(shape)
        for index in np.ndindex(shape):
            one = np.zeros(shape)
            one[index] = 1
            numeric[index] = (big * one).sum()
        check(unbroadcast(big, shape), numeric, f"from (4, 2, 3) back to {shape}")
    check(unbroadcast(np.zeros((0, 3)), (3,)), [0.0, 0.0, 0.0], "an empty batch adds nothing")
    check(unbroadcast(np.zeros((4, 0)), (4, 1)).shape, (4, 1), "an axis stretched from 1 to 0")
    ### END HIDDEN TESTS


test_unbroadcast()

# %% [markdown]
r"""
## The walk

Two given helpers do the bookkeeping. `contributions` asks the rules of one node: for every input that wants a gradient it gives `(input, gradient, is that a new array)`, in the input's shape and dtype. `add_up` adds a contribution to what an input has received so far; where the sum is an array that nobody else holds it adds in place, which saves memory. Both also work with tensors instead of arrays: what that is good for comes near the end.
"""


# %% nbgrader={"grade": false, "grade_id": "contributions", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
def check_shape(op: Callable, i: int, gx: Any, shape: tuple[int, ...]) -> None:
    """Raise unless an input of this shape broadcasts to the shape of its gradient."""
    sizes = (1,) * (len(shape) - gx.ndim) + gx.shape
    if any(n not in (1, m) for n, m in zip(shape[::-1], sizes[::-1], strict=False)):
        raise ValueError(
            f"{op.__name__}: the rule for input {i} gave shape {gx.shape}, the input has {shape}"
        )


def contributions(out: Tensor, g: Any, create_graph: bool) -> Iterator[tuple[Tensor, Any, bool]]:
    """What the operation behind `out` passes on: (input, its gradient, is that a new array).

    The gradient has the input's shape and dtype. Under `create_graph` rules are given tensors.
    """
    node = out.node
    inputs, params, rule = node.inputs, node.params, rules[node.op]
    if create_graph:
        given = [g, out, *inputs]
    else:
        given = [g, out.data, *[x.data if isinstance(x, Tensor) else x for x in inputs]]
    joint = callable(rule)
    answers = rule(*given, **params) if joint else rule
    for i, x in enumerate(inputs):
        if not (isinstance(x, Tensor) and x.requires_grad):
            continue
        if i >= len(answers):
            raise RuntimeError(f"{node.op.__name__}: no gradient rule for input {i}")
        gx = answers[i]
        if gx is not None and not joint:
            gx = gx(*given, **params)
        if gx is None:
            continue
        if not isinstance(gx, Tensor if create_graph else np.ndarray):
            gx = Tensor._wrap(np.asarray(gx)) if create_graph else np.asarray(gx)
        data = x.data
        if gx.shape != data.shape:
            check_shape(node.op, i, gx, data.shape)
            gx = unbroadcast(gx, data.shape)
        if gx.dtype is not data.dtype:
            gx = gx.astype(data.dtype)
        if joint or create_graph or gx.base is not None:
            yield x, gx, False
        else:
            yield x, gx, id(gx) not in map(id, given)


def add_up(pending: dict[int, Any], own: set[int], x: Tensor, gx: Any, is_new: bool) -> None:
    """Add `gx` to the pending gradient of `x`: in place where it is in an array of its own."""
    key = id(x)
    if key not in pending:
        pending[key] = gx
        if is_new:
            own.add(key)
    elif key in own:
        pending[key] += gx
    else:
        pending[key] = pending[key] + gx


# %% [markdown]
r"""
**Exercise 5 (8 points).** Write `gradients`, the walk itself. It is a generator: it yields `(tensor, its gradient, id(tensor) in own)` for every tensor that receives one, consumers before producers.

- `pending` maps `id(tensor)` to what has arrived so far. It begins with `{id(root): seed}`; `own`, a set, begins empty.
- Take tensors from the end of `producers_first(root)` with `pop`, so that the list lets go of them. Take the gradient out of `pending`; a tensor that received none is skipped.
- Yield. Then, if the tensor has a node, `add_up` all `contributions` of it.
- Unless `retain_graph`, forget the node's `inputs` and `params` (set them to None) as soon as it has passed them on.
"""


# %% nbgrader={"grade": false, "grade_id": "gradients", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
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
    own: set[int] = set()
    while order:
        out = order.pop()
        key = id(out)
        if key not in pending:
            continue
        g = pending.pop(key)
        yield out, g, key in own
        if out.node is None:
            continue
        for x, gx, is_new in contributions(out, g, create_graph):
            add_up(pending, own, x, gx, is_new)
        if not retain_graph:
            out.node.inputs = out.node.params = None
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-gradients", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def walk(root, **options):
    """The gradient of `root` by every tensor behind it, by id."""
    options = {"retain_graph": False, "create_graph": False} | options
    seed = np.ones(root.shape, root.dtype)
    return {id(x): g for x, g, _ in gradients(root, seed, **options)}


def test_gradients():
    a, b = Tensor([3.0], requires_grad=True), Tensor([4.0], requires_grad=True)
    product = a * b
    found = walk((product - a) / 2, retain_graph=True)
    check(found[id(b)], [1.5], "a / 2")
    check(found[id(a)], [1.5], "two paths lead to a: (b - 1) / 2")
    check(found[id(product)], [0.5], "tensors in between are yielded too")
    check(product.node.inputs is not None, True, "retain_graph keeps the inputs")
    walk(product)
    check(product.node.inputs, None, "without retain_graph a node is dropped once it has passed")
    y = x = Tensor([1.0], requires_grad=True)
    for _ in range(100):
        y = y + y
    check(walk(y)[id(x)], [2.0**100], "100 diamonds: the gradient doubles at each", 1e-5)
    ### BEGIN HIDDEN TESTS
    cube = a * a * a
    check(walk(cube)[id(a)], [27.0], "one tensor, used three times: 3 a^2")
    bias = Tensor([1.0, 2.0], requires_grad=True)
    check(walk(Tensor([[1.0, 2.0]] * 3) * bias)[id(bias)], [3.0, 6.0], "undo broadcasting")
    check(bias.data, [1.0, 2.0], "a walk changes no tensor's numbers")
    vjp(unheard_of, None)
    check(id(a) in walk(unheard_of(a)), False, "a tensor without a gradient is not yielded")
    del rules[unheard_of]
    ### END HIDDEN TESTS


test_gradients()

# %% [markdown]
r"""
## backward and grad

A walk starts with the gradient of the result by itself: 1 for a scalar. For a result of many numbers there is no single "the loss", so the caller has to say how much each one counts.
"""


# %% nbgrader={"grade": false, "grade_id": "seed", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
def seed_gradient(root: Tensor, gradient: Any, create_graph: bool) -> Any:
    """The gradient that a walk starts from: 1 for a scalar, else what the caller gives."""
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
    is_tensor = isinstance(gradient, Tensor)
    return gradient.astype(root.dtype) if is_tensor else Tensor(array, dtype=root.dtype)


# %% [markdown]
r"""
**Exercise 6 (5 points).** Write `backward`: walk with `gradients(...)` and add what arrives at each **leaf** (`node` is None) to its `.grad`, a Tensor, or None at first. Several backwards add up; that is why training sets gradients to None before each step.

- The graph is kept if `retain_graph` or `create_graph` say so.
- `Tensor._wrap(array)` makes a tensor without a copy. Copy first (`np.array(g)`) unless the array is nobody else's, the third item: else the two leaves of `a + b` would share one gradient.
- What is there already is added to in place, `x.grad.data += g`, and the log of writes is told: `writes.add(x.grad.data)`.
- Under `create_graph` gradients are tensors: use `g.clone()` and `+`. The `with` around the walk is given: it makes sure that the rules' own operations are then recorded.
"""


# %% nbgrader={"grade": false, "grade_id": "backward", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def backward(
    self: Tensor, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Add the gradient of this tensor to `.grad` of every leaf that it was computed from.

    `gradient` (default 1, for a scalar) has the tensor's shape. The graph is dropped as the walk
    passes, unless `retain_graph` or `create_graph` keep it. `create_graph` records the walk too, so
    that gradients can be differentiated; a leaf and its `.grad` then hold one another until `.grad`
    is set to None, which is why `grad` is the better choice there.

    >>> x = Tensor([3.0], requires_grad=True)
    >>> (x * x).backward()
    >>> x.grad
    Tensor([6.])
    """
    seed = seed_gradient(self, gradient, create_graph)
    with enable_grad() if create_graph else nullcontext():
        ### BEGIN SOLUTION
        for x, g, own in gradients(self, seed, retain_graph or create_graph, create_graph):
            if x.node is not None:
                continue
            if create_graph:
                x.grad = g.clone() if x.grad is None else x.grad + g
            elif x.grad is None:
                x.grad = Tensor._wrap(g if own else np.array(g))
            else:
                x.grad.data += g
                writes.add(x.grad.data)
        ### END SOLUTION


Tensor.backward = backward


# %% nbgrader={"grade": true, "grade_id": "test-backward", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_backward():
    a, b = Tensor([3.0], requires_grad=True), Tensor([4.0], requires_grad=True)
    ((a * b - a) / 2).backward()
    check(a.grad, [1.5], "(b - 1) / 2")
    check(b.grad, [1.5], "a / 2")
    (a * b).backward()
    check(a.grad, [5.5], "a second backward adds to what is there: 1.5 + 4")
    product = a * b
    (product * 2).backward(retain_graph=True)
    check(product.grad, None, "only leaves keep a gradient")
    (a + b).backward()
    check(a.grad.data is b.grad.data, False, "two leaves must not share an array")
    ### BEGIN HIDDEN TESTS
    x, y = Tensor([1.0, 2.0], requires_grad=True), Tensor([5.0, 5.0], requires_grad=True)
    seed = np.array([1.0, 10.0], np.float32)
    (x + y).backward(seed)
    x.grad.data[:] = 0
    check(y.grad, [1.0, 10.0], "each leaf has a copy of its own")
    check(seed, [1.0, 10.0], "and the caller's gradient is not touched")
    z = x * y
    z.backward(seed)
    with check_raises(RuntimeError, "retain_graph=True", "the graph was dropped"):
        z.backward(seed)
    kept = x * y
    kept.backward(seed, retain_graph=True)
    kept.backward(seed, retain_graph=True)
    check(y.grad, [1 + 3 * 1.0, 10 + 3 * 20.0], "retain_graph allows another walk")
    x.grad = None
    (x * x).backward(seed, create_graph=True)
    check(x.grad.requires_grad, True, "under create_graph the gradient can be differentiated")
    x.grad = y.grad = None  # else each holds the other
    ### END HIDDEN TESTS


test_backward()

# %% [markdown]
r"""
Both shapes of graph that broke the naive walk, again. **Predict** how the time grows when the graph becomes ten times as large.
"""


# %%
def milliseconds(build, size):
    x = Tensor(1.0, requires_grad=True)
    y = build(x, size)
    start = time.perf_counter()
    y.backward()
    return 1e3 * (time.perf_counter() - start)


def chain(x, size):
    for _ in range(size):
        x = x * 1.0
    return x


def diamonds(x, size):
    for _ in range(size):
        x = (x + x) * 0.5
    return x


for size in (100, 1_000, 10_000):
    times = milliseconds(chain, size), milliseconds(diamonds, size)
    print(f"{size:7} links: chain {times[0]:7.1f} ms   diamonds {times[1]:7.1f} ms")

# %% [markdown]
r"""
**Exercise 7 (5 points).** `grad(output, inputs)` answers a question without touching any `.grad`: the gradients by just these tensors, which need not be leaves. One tensor in, one out; a sequence in, a list out.

- Collect from `gradients(...)` what arrives at the wanted tensors, as tensors, with copies as in `backward`.
- An input on which the output doesn't depend gives None if `allow_unused`, else a RuntimeError that says `doesn't depend on input 1` (its place in the list, from 0).
"""


# %% nbgrader={"grade": false, "grade_id": "grad", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def grad(
    output: Tensor,
    inputs: Tensor | Sequence[Tensor],
    gradient: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> Any:
    """The gradient of `output` with respect to each of `inputs`; nothing is added to any `.grad`.

    One tensor in, one out; a sequence in, a list out. With `create_graph` the answers can be
    differentiated again. An input that `output` doesn't depend on raises RuntimeError, or gives
    None where `allow_unused`.

    >>> x = Tensor(2.0, requires_grad=True)
    >>> first = grad(x**3, x, create_graph=True)
    >>> first.item(), grad(first, x).item()
    (12.0, 12.0)
    """
    seed = seed_gradient(output, gradient, create_graph)
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    with enable_grad() if create_graph else nullcontext():
        ### BEGIN SOLUTION
        found = dict.fromkeys(map(id, wanted))
        for x, g, own in gradients(output, seed, retain_graph or create_graph, create_graph):
            if id(x) in found:
                found[id(x)] = (
                    g.clone() if create_graph else Tensor._wrap(g if own else np.array(g))
                )
        answers = [found[id(x)] for x in wanted]
        for i, answer in enumerate(answers):
            if answer is None and not allow_unused:
                raise RuntimeError(
                    f"grad: the output doesn't depend on input {i}, or that requires no gradient: "
                    "allow_unused=True gives None"
                )
        ### END SOLUTION
    return answers[0] if isinstance(inputs, Tensor) else answers


# %% nbgrader={"grade": true, "grade_id": "test-grad", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_grad():
    a, b = Tensor([3.0], requires_grad=True), Tensor([4.0], requires_grad=True)
    product = a * b
    loss = product * a
    by_a, by_product = grad(loss, [a, product], retain_graph=True)
    check(by_a, [24.0], "the derivative of a^2 b by a is 2 a b")
    check(by_product, [3.0], "a tensor in between may be asked for too")
    check(a.grad, None, "grad adds to no .grad")
    check(grad(loss, b), [9.0], "one tensor in, one tensor out")
    check(grad(a * 2, [b, a], allow_unused=True), [None, Tensor([2.0])], "unused: None")
    with check_raises(RuntimeError, "doesn't depend on input 1", "say which input"):
        grad(a * 2, [a, b])
    ### BEGIN HIDDEN TESTS
    x = Tensor(2.0, requires_grad=True)
    first = grad(x * x * x, x, create_graph=True)
    check(grad(first, x), 12.0, "the second derivative of x^3 is 6 x")
    by_a, by_b = grad(a + b, [a, b])
    check(by_a.data is by_b.data, False, "each answer has an array of its own")
    check(grad(a * b, [a, a]), [Tensor([4.0]), Tensor([4.0])], "a tensor may be asked for twice")
    ### END HIDDEN TESTS


test_grad()

# %% [markdown]
r"""
## Trust, but check

More than forty rules remain to be written, and a wrong sign in one of them doesn't crash: the network just learns badly. So before you write them, build what catches a wrong one: compare with differences, in float64 where those are good.

A function of many results is turned into one number by fixed random weights, so that no two errors cancel. Given: `numeric_derivative`, the difference quotient of that number by one element, and `gradients_or_zeros`, `grad` with zeros where the result doesn't depend on an input.
"""


# %% nbgrader={"grade": false, "grade_id": "gradcheck-parts", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
def numeric_derivative(
    function: Callable, points: Sequence[np.ndarray], which: int, index: tuple, weights, eps: float
) -> float:
    """(L(x + eps) - L(x - eps)) / 2 eps, x = points[which][index], L = sum(weights * function)."""
    sums = []
    for step in (eps, -eps):
        moved = [point.copy() for point in points]
        moved[which][index] += step
        with no_grad():
            out = function(*(Tensor(point, dtype=np.float64) for point in moved))
        sums.append(float((weights * out.data).sum()))
    return (sums[0] - sums[1]) / (2 * eps)


def gradients_or_zeros(
    out: Tensor, inputs: Sequence[Tensor], gradient: Any, create_graph: bool = False
) -> list[Tensor]:
    """The gradient by each input, zeros where `out` doesn't depend on it; the graph is kept."""
    answers: list = [None] * len(inputs)
    if out.requires_grad:
        answers = grad(out, inputs, gradient, True, create_graph, allow_unused=True)
    return [tensor.zeros_like(x) if g is None else g for x, g in zip(inputs, answers, strict=True)]


def gradient_as_function(function: Callable, weights) -> Callable[..., Tensor]:
    """A function that gives the gradient of sum(weights * function), by all inputs, as one row."""

    def gradient(*inputs):
        with enable_grad():
            leaves = [x if x.requires_grad else Tensor(x, True, x.dtype) for x in inputs]
            slopes = gradients_or_zeros(function(*leaves), leaves, weights, create_graph=True)
            return tensor.concat([g.reshape(-1) for g in slopes])

    return gradient


# %% [markdown]
r"""
**Exercise 8 (6 points).** Fill in the comparison in `gradcheck`: for every element of every input, get `analytic` from `slopes` and `numeric` from `numeric_derivative(...)`; unless $|analytic - numeric| \le tolerance \cdot (1 + |numeric|)$, raise an AssertionError like

`gradcheck: input 0 at (1,): the rule gives 12, differences give 3`

`np.ndindex(shape)` runs through all indices. Mind NaN: every comparison with NaN is False, and NaN must not pass.
"""


# %% nbgrader={"grade": false, "grade_id": "gradcheck", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def gradcheck(
    function: Callable[..., Tensor],
    *inputs: Any,
    order: int = 1,
    eps: float = 1e-6,
    tolerance: float = 1e-5,
) -> bool:
    """Compare the gradients of `function` with central differences, in float64.

    A random weighting of the results turns them into one number, whose derivative by every element
    of every input is compared: |analytic - numeric| <= tolerance (1 + |numeric|). `order=2` checks
    the gradient of the gradient too. Returns True, or raises AssertionError that names the element.

    >>> gradcheck(lambda x: x * x, [1.0, 2.0], order=2)
    True
    """
    points = [np.array(x.data if isinstance(x, Tensor) else x, np.float64) for x in inputs]
    leaves = [Tensor(point, requires_grad=True, dtype=np.float64) for point in points]
    with enable_grad():
        out = function(*leaves)
    weights = np.random.default_rng(0).standard_normal(out.shape)
    slopes = gradients_or_zeros(out, leaves, weights)
    ### BEGIN SOLUTION
    for which, slope in enumerate(slopes):
        for index in np.ndindex(slope.shape):
            analytic = slope.data[index]
            numeric = numeric_derivative(function, points, which, index, weights, eps)
            if not abs(analytic - numeric) <= tolerance * (1 + abs(numeric)):
                raise AssertionError(
                    f"gradcheck: input {which} at {index}: the rule gives {analytic:.8g}, "
                    f"differences give {numeric:.8g}"
                )
    ### END SOLUTION
    if order > 1:
        gradient = gradient_as_function(function, weights)
        gradcheck(gradient, *points, order=order - 1, eps=eps, tolerance=tolerance)
    return True


# %% nbgrader={"grade": true, "grade_id": "test-gradcheck", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
@tensor.op
def cube(x):
    return x * x * x


def test_gradcheck():
    vjp(cube, lambda g, out, x: 3 * g * x * x)
    check(gradcheck(lambda a, b: a * b - a / b, [1.0, 2.0], [3.0, -4.0]), True, "these are right")
    check(gradcheck(cube, [[1.0, -2.0]]), True, "3 x^2 is right")
    vjp(cube, lambda g, out, x: 3 * g * x * abs(x.data if isinstance(x, Tensor) else x))
    with check_raises(AssertionError, "input 0 at (0, 1)", "wrong for -2 only: name the element"):
        gradcheck(cube, [[1.0, -2.0]])
    ### BEGIN HIDDEN TESTS
    for wrong in (
        lambda g, out, x: 2 * g * x * x,
        lambda g, out, x: -3 * g * x * x,
        lambda g, out, x: g * np.nan,
        lambda g, out, x: 3.001 * g * x * x,
        None,
    ):
        vjp(cube, wrong)
        with check_raises(AssertionError, "gradcheck", "every wrong rule must be noticed"):
            gradcheck(lambda a, b: a + cube(b), [3.0], [2.0])
    vjp(cube, lambda g, out, x: 3 * g * x * x)
    check(gradcheck(cube, [100.0], tolerance=1e-7), True, "the tolerance grows with the slope")
    ### END HIDDEN TESTS


test_gradcheck()

# %% [markdown]
r"""
## The rules, module by module

### One element at a time

**Exercise 9 (4 points).** Add the rules of `exp`, `log`, `sqrt`, `abs_`, `sin`, `cos`, `tanh`, all in `tensor`. Where the derivative can be written with `out`, do so: nothing has to be computed twice. Functions that you need (`sign`, `sin`, `cos`) must be the operations of `tensor`, not NumPy's, so that a rule works on tensors too. Worked numbers: `exp` at 0 with g = 2 gives 2; `tanh` at 0 gives g.

<details><summary>Hint</summary>d tanh(x)/dx = 1 - tanh(x)², and d sqrt(x)/dx = 1 / (2 sqrt(x)).</details>
"""

# %% nbgrader={"grade": false, "grade_id": "rules-elementwise", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
### BEGIN SOLUTION
vjp(tensor.exp, lambda g, out, a: g * out)
vjp(tensor.log, lambda g, out, a: g / a)
vjp(tensor.sqrt, lambda g, out, a: 0.5 * g / out)
vjp(tensor.abs_, lambda g, out, a: g * tensor.sign(a))
vjp(tensor.sin, lambda g, out, a: g * tensor.cos(a))
vjp(tensor.cos, lambda g, out, a: -g * tensor.sin(a))
vjp(tensor.tanh, lambda g, out, a: g * (1 - out * out))
### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-rules-elementwise", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
def test_elementwise_rules():
    positive, mixed = [0.5, 1.0, 2.0], [-2.0, -0.3, 0.7]
    for name in ("exp", "abs_", "sin", "cos", "tanh"):
        check(gradcheck(getattr(tensor, name), mixed), True, name)
    check(gradcheck(tensor.log, positive), True, "1 / x")
    check(gradcheck(tensor.sqrt, positive), True, "1 / (2 sqrt(x))")
    ### BEGIN HIDDEN TESTS
    for name in ("exp", "log", "sqrt", "abs_", "sin", "cos", "tanh"):
        x = Tensor(positive, requires_grad=True)
        first = grad(getattr(tensor, name)(x), x, np.ones(3), create_graph=True)
        check(isinstance(first, Tensor), True, f"{name}: rules must work on tensors too")
        if name not in ("log", "abs_"):
            wanted = {"exp": np.exp(positive), "sin": -np.sin(positive), "cos": -np.cos(positive)}
            wanted["sqrt"] = -0.25 * np.array(positive) ** -1.5
            wanted["tanh"] = -2 * np.tanh(positive) * (1 - np.tanh(positive) ** 2)
            check(grad(first, x, np.ones(3)), wanted[name], f"{name}, second derivative", 1e-5)
    ### END HIDDEN TESTS


test_elementwise_rules()

# %% [markdown]
r"""
The next ones are given, because each hides a corner: `0 ** 0`, ties, open limits. Read them; `chosen` says to whom the gradient of a maximum belongs, and that a tie shares it.
"""


# %% nbgrader={"grade": false, "grade_id": "rules-power", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
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


# %% nbgrader={"grade": false, "grade_id": "rules-choice", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
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
vjp(
    tensor.clip,
    lambda g, out, a, low=None, high=None: g * (a == out),
    lambda g, out, a, low=None, high=None: g * ((a != out) & (out == low)),
    lambda g, out, a, low=None, high=None: g * ((a != out) & (out == high)),
)
vjp(tensor.astype, lambda g, out, a, dtype: tensor.astype(g, dtype=a.dtype))

# %% [markdown]
r"""
### Matrices

In $out = a\,b$ with $a$ of shape (N, K) and $b$ of shape (K, M), the element $a_{nk}$ meets row $k$ of $b$ and goes into row $n$ of the result:

$$\frac{\partial L}{\partial a_{nk}} = \sum_m g_{nm} b_{km} \quad\Longrightarrow\quad \frac{\partial L}{\partial a} = g\,b^T, \qquad \frac{\partial L}{\partial b} = a^T g$$

You needn't remember it: only one order of factors has the right shape. **Write it down**: with N, K, M = 2, 3, 4, what shapes have $g$, $b^T$, $a^T$?

**Exercise 10 (6 points).** Write the two rules. `matmul_operands` (given) puts back the axes that `matmul` dropped from 1-D operands, so that you always see matrices, or stacks of them: swap the *last two* axes, `x.swapaxes(-1, -2)`. In `matmul_right`, call the product `result`; the given lines before it have laid a stack that met a single matrix out as one tall matrix. Leave the shapes as they come: the given last line and the walk see to the rest.
"""


# %% nbgrader={"grade": false, "grade_id": "rules-matmul", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def rows(x):
    """(..., N) -> (rows, N)"""
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def matmul_operands(g, a, b):
    """g, a and b with the axes that matmul dropped from 1-D operands put back."""
    lead = g.shape[: g.ndim - (a.ndim > 1) - (b.ndim > 1)]
    a = a.reshape((1, *a.shape)) if a.ndim == 1 else a
    b = b.reshape((*b.shape, 1)) if b.ndim == 1 else b
    return g.reshape((*lead, a.shape[-2], b.shape[-1])), a, b


def matmul_left(g, out, a, b):
    """g b^T"""
    g, a, b = matmul_operands(g, a, b)
    ### BEGIN SOLUTION
    return g @ b.swapaxes(-1, -2)
    ### END SOLUTION


def matmul_right(g, out, a, b):
    """a^T g; one product of tall matrices where a stack met a single matrix."""
    is_column = b.ndim == 1
    g, a, b = matmul_operands(g, a, b)
    if b.ndim == 2:
        g, a = rows(g), rows(a)
    ### BEGIN SOLUTION
    result = a.swapaxes(-1, -2) @ g
    ### END SOLUTION
    return result.reshape(result.shape[:-1]) if is_column else result


vjp(tensor.matmul, matmul_left, matmul_right)


# %% nbgrader={"grade": true, "grade_id": "test-rules-matmul", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_matmul_rules():
    a, b = Tensor([[1.0, 2.0], [3.0, 4.0]], True), Tensor([[5.0, 6.0], [7.0, 8.0]], True)
    (a @ b).backward(np.array([[1.0, 0.0], [0.0, 0.0]]))
    check(a.grad, [[5.0, 7.0], [0.0, 0.0]], "out[0, 0] = row 0 of a times column 0 of b")
    check(b.grad, [[1.0, 0.0], [2.0, 0.0]], "a^T g")
    random = np.random.default_rng(0)
    for left, right in [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3,))]:
        x, y = random.normal(size=left), random.normal(size=right)
        check(gradcheck(tensor.matmul, x, y), True, f"{left} @ {right}")
    ### BEGIN HIDDEN TESTS
    for left, right in [
        ((3,), (3,)),
        ((2, 2, 3), (2, 3, 2)),
        ((3, 3), (2, 3, 3)),
        ((3,), (2, 3, 3)),
    ]:
        x, y = random.normal(size=left), random.normal(size=right)
        check(gradcheck(tensor.matmul, x, y), True, f"{left} @ {right}")
    ### END HIDDEN TESTS


test_matmul_rules()

# %% [markdown]
r"""
### Many into one

$out = \sum_i a_i$: every summand moves the sum by exactly as much as itself. A sum *repeats* its gradient backwards, as broadcasting *sums* it: the two are each other's mirror. `keep_axes` (given) puts the reduced axes back as axes of size 1, so that the gradient broadcasts against the input again.

**Exercise 11 (5 points).**

- `sum_rule`: the gradient, repeated to the shape of `a` (`tensor.broadcast_to(x, shape=...)`).
- `mean_rule`: every element gets an equal share. The number of averaged elements is the size of `a` divided by that of `out`. An empty batch has size 0: no division by zero, please.
- `extreme_rule`, for max and min alike: the gradient goes to the elements that equal the result, in equal shares. For `[3, 7, 7]` and g = 1 that is `[0, 0.5, 0.5]`.
"""


# %% nbgrader={"grade": false, "grade_id": "rules-reductions", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def keep_axes(g, a, axis, keepdims):
    """A reduction's g (or result) with the reduced axes put back as axes of size 1."""
    if keepdims:
        return g
    axes = range(a.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    reduced = {i % a.ndim for i in axes}
    return g.reshape(tuple(1 if i in reduced else n for i, n in enumerate(a.shape)))


def sum_rule(g, out, a, axis=None, keepdims=False):
    """Every summand gets the whole gradient."""
    ### BEGIN SOLUTION
    return tensor.broadcast_to(keep_axes(g, a, axis, keepdims), shape=a.shape)
    ### END SOLUTION


def mean_rule(g, out, a, axis=None, keepdims=False):
    """Every element gets an equal share."""
    ### BEGIN SOLUTION
    share = math.prod(out.shape) / max(math.prod(a.shape), 1)
    return sum_rule(g * share, out, a, axis, keepdims)
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


# %% nbgrader={"grade": true, "grade_id": "test-rules-reductions", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_reduction_rules():
    x = Tensor([3.0, 7.0, 7.0], requires_grad=True)
    check(grad(x.sum(), x), [1.0, 1.0, 1.0], "each summand counts fully")
    check(grad(x.mean(), x), [1 / 3] * 3, "equal shares")
    check(grad(x.max(), x), [0.0, 0.5, 0.5], "to those that attain the maximum, shared")
    matrix = [[1.0, 5.0, 2.0], [4.0, 0.5, 3.0]]
    for axis in (None, 0, 1, -1, (0, 1)):
        for reduce in (tensor.sum_, tensor.mean, tensor.max_, tensor.min_):
            right = gradcheck(lambda x, f=reduce, i=axis: f(x, axis=i), matrix)
            check(right, True, f"{reduce.__name__} along {axis}")
    ### BEGIN HIDDEN TESTS
    for reduce in (tensor.sum_, tensor.mean, tensor.max_, tensor.min_):
        right = gradcheck(lambda x, f=reduce: f(x, axis=1, keepdims=True) * x, matrix)
        check(right, True, f"{reduce.__name__} with keepdims")
    empty = Tensor(np.zeros((0, 3)), requires_grad=True)
    check(grad(empty.sum(axis=0), empty, np.ones(3)).shape, (0, 3), "an empty batch")
    check(mean_rule(np.ones(3), np.zeros(3), np.zeros((0, 3)), axis=0).shape, (0, 3), "here too")
    ### END HIDDEN TESTS


test_reduction_rules()

# %% [markdown]
r"""
Variance, product and running sums follow the same idea and are given.
"""


# %% nbgrader={"grade": false, "grade_id": "rules-var", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
def var_rule(g, out, a, axis=None, keepdims=False, correction=0):
    """2 (a - mean) / (n - correction); the mean's own gradient sums to zero."""
    count = math.prod(a.shape) / max(math.prod(out.shape), 1)
    distance = a - tensor.mean(a, axis=axis, keepdims=True)
    return keep_axes(g, a, axis, keepdims) * 2 / (count - correction) * distance


def prod_rule(g, out, a, axis=None, keepdims=False):
    """Each element gets the product of the others, without a division, so zeros are no problem.

    For n factors this writes n copies of them: products are short in practice.
    """
    axes = tuple(range(a.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = tuple(i % a.ndim for i in axes)
    order = tuple(i for i in range(a.ndim) if i not in axes) + axes
    moved = tensor.permute(a, axes=order)
    kept, count = moved.shape[: a.ndim - len(axes)], math.prod(a.shape[i] for i in axes)
    copies = tensor.broadcast_to(moved.reshape((*kept, 1, count)), shape=(*kept, count, count))
    others = tensor.prod(tensor.where(np.eye(count, dtype=bool), 1, copies), axis=-1)
    back = tuple(order.index(i) for i in range(a.ndim))
    return keep_axes(g, a, axis, keepdims) * tensor.permute(others.reshape(moved.shape), axes=back)


def cumsum_rule(g, out, a, axis=None):
    """An element counts in every later sum: running sums of g, from the end."""
    axis = 0 if axis is None else axis % a.ndim  # without an axis, g and out are flat
    backwards = (slice(None),) * axis + (slice(None, None, -1),)
    return tensor.cumsum(g[backwards], axis=axis)[backwards].reshape(a.shape)


vjp(tensor.var, var_rule)
vjp(tensor.prod, prod_rule)
vjp(tensor.cumsum, cumsum_rule)

# %% [markdown]
r"""
### Other shapes

These move numbers without changing them, so the gradient is moved back.

**Exercise 12 (3 points).** Write `permute_rule`: result axis $i$ is input axis `axes[i]`, so backwards, input axis `axes[i]` is found at $i$; None reverses all axes. Then add the rules of `reshape(a, shape)`, `swapaxes(a, axis0, axis1)` and `broadcast_to(a, shape)` to the table; parameters come to a rule by keyword. One of them needs nothing but `g`, because the walk does the rest.

<details><summary>Hint</summary>`np.argsort(axes).tolist()` is the permutation that undoes `axes`, once -1 has been turned into the last axis (`axis % a.ndim`).</details>
"""


# %% nbgrader={"grade": false, "grade_id": "rules-shape", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def permute_rule(g, out, a, axes=None):
    """The axes go back where they came from."""
    ### BEGIN SOLUTION
    if axes is not None:
        axes = tuple(np.argsort([axis % a.ndim for axis in axes]).tolist())
    return tensor.permute(g, axes=axes)
    ### END SOLUTION


vjp(tensor.permute, permute_rule)

# %% nbgrader={"grade": false, "grade_id": "rules-shape-table", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
### BEGIN SOLUTION
vjp(tensor.reshape, lambda g, out, a, shape: g.reshape(a.shape))
vjp(tensor.swapaxes, lambda g, out, a, axis0, axis1: g.swapaxes(axis0, axis1))
vjp(tensor.broadcast_to, lambda g, out, a, shape: g)
### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-rules-shape", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def test_shape_rules():
    x = np.arange(24.0).reshape(2, 3, 4)
    check(gradcheck(lambda x: x.reshape(6, 4), x), True, "reshape")
    check(gradcheck(lambda x: x.swapaxes(0, 2), x), True, "swapaxes")
    check(gradcheck(lambda x: x.permute(1, 2, 0), x), True, "permute by (1, 2, 0)")
    check(gradcheck(lambda x: x.expand(3, 2), [1.0, 2.0]), True, "expand")
    ### BEGIN HIDDEN TESTS
    check(gradcheck(lambda x: x.permute(2, 0, 1), x), True, "permute by (2, 0, 1)")
    check(gradcheck(lambda x: x.permute(), x), True, "permute reverses without axes")
    check(gradcheck(lambda x: x.permute(-1, 0, 1), x), True, "negative axes")
    ### END HIDDEN TESTS


test_shape_rules()

# %% [markdown]
r"""
Indexing, joining and `einsum` are given. An index reads some places; backwards, the gradient is written to those places of an array of zeros, and adds up where a place was read twice. A joint rule answers for all inputs at once, because `concatenate` takes any number of them.
"""


# %% nbgrader={"grade": false, "grade_id": "rules-parts", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
def concatenate_rule(g, out, *arrays, axis=0):
    """Each piece gets the part of g that lies where the piece lies."""
    before = (slice(None),) * (axis % g.ndim)
    ends = np.cumsum([x.shape[axis] for x in arrays]).tolist()
    return [
        g[(*before, slice(end - x.shape[axis], end))] for x, end in zip(arrays, ends, strict=True)
    ]


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def explicit_subscripts(subscripts: str, ndims: Sequence[int]) -> tuple[list[str], str]:
    """The letters of every factor and of the result, with `...` and a missing arrow written out."""
    left, arrow, result = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        once = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
        result = ("..." if "..." in left else "") + "".join(once)
    hidden = [
        ndim - len(term.replace("...", "")) if "..." in term else 0
        for term, ndim in zip(terms, ndims, strict=True)
    ]
    spare = [letter for letter in LETTERS if letter not in subscripts][: max(hidden)]
    dots = ["".join(spare[len(spare) - n :]) for n in hidden]
    terms = [term.replace("...", dot) for term, dot in zip(terms, dots, strict=True)]
    return terms, result.replace("...", "".join(spare))


def einsum_rule(g, out, subscripts, *arrays):
    """Each factor gets the einsum of g with the other factors."""
    terms, result = explicit_subscripts(subscripts, [x.ndim for x in arrays])
    answers: list[Any] = [None]
    for i, (own, array) in enumerate(zip(terms, arrays, strict=True)):
        free = iter(letter for letter in LETTERS if letter not in "".join((*terms, result)))
        target, factors = "", [(result, g)]
        factors += [(terms[k], arrays[k]) for k in range(len(arrays)) if k != i]
        for letter, size in zip(own, array.shape, strict=True):
            if letter in target:  # it comes twice, as in "ii": only the diagonal was read
                twin = next(free)
                factors.append((letter + twin, np.eye(size, dtype=g.dtype)))
                letter = twin
            target += letter
        for letter, size in zip(target, array.shape, strict=True):
            if all(letter not in term for term, _ in factors):  # summed over, and only in `own`
                factors.append((letter, np.ones(size, g.dtype)))
        inputs = ",".join(term for term, _ in factors)
        answers.append(tensor.einsum(f"{inputs}->{target}", *(factor for _, factor in factors)))
    return answers


vjp(tensor.getitem, lambda g, out, a, key: tensor.scatter_add(g, key=key, shape=a.shape))
vjp(tensor.scatter_add, lambda g, out, a, key, shape: tensor.getitem(g, key=key))
vjp(
    tensor.put,
    lambda g, out, a, value, key: tensor.put(g, 0, key=key),
    lambda g, out, a, value, key: tensor.getitem(g, key=key),
)
joint_vjp(tensor.concatenate, concatenate_rule)
joint_vjp(tensor.einsum, einsum_rule)

# %% [markdown]
r"""
### Activations

Rules may be written for big steps, not only for atoms. Through `exp`, a sum and a division, softmax's gradient would take five small steps, each a pass over memory. Worked out on paper, it is one. With $p = \mathrm{softmax}(x)$,

$$\frac{\partial p_i}{\partial x_j} = p_i (\delta_{ij} - p_j) \quad\Longrightarrow\quad \frac{\partial L}{\partial x_j} = p_j \Big( g_j - \sum_i g_i p_i \Big)$$

where $\delta_{ij}$ is 1 for $i = j$ and else 0. What one probability wins, the others lose: the gradient adds up to zero.

**Exercise 13 (4 points).** Write `softmax_rule` by this formula, and `log_softmax_rule`: $g_j - p_j \sum_i g_i$, where $p = e^{out}$. Sums go along `axis`. Then add the rules of `activations.relu` (1 where the result is positive, else 0) and `activations.sigmoid` ($s' = s (1 - s)$, and $s$ is `out`).
"""


# %% nbgrader={"grade": false, "grade_id": "rules-softmax", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
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


vjp(activations.softmax, softmax_rule)
vjp(activations.log_softmax, log_softmax_rule)

# %% nbgrader={"grade": false, "grade_id": "rules-bends", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
### BEGIN SOLUTION
vjp(activations.relu, lambda g, out, x: g * (out > 0))
vjp(activations.sigmoid, lambda g, out, x: g * out * (1 - out))
### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-rules-activations", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
def test_activation_rules():
    x = Tensor([[1.0, 2.0, 4.0]], requires_grad=True)
    check(grad(activations.softmax(x).sum(), x), [[0.0, 0.0, 0.0]], "the sum is 1, whatever x is")
    scores = [[1.0, -2.0, 0.5], [0.1, 3.0, -0.7]]
    for function in (activations.softmax, activations.log_softmax):
        for axis in (0, 1, -1):
            right = gradcheck(lambda x, f=function, i=axis: f(x, axis=i), scores)
            check(right, True, f"{function.__name__} along {axis}")
    check(gradcheck(activations.relu, scores), True, "relu")
    check(gradcheck(activations.sigmoid, scores), True, "sigmoid")
    ### BEGIN HIDDEN TESTS
    for function in (activations.softmax, activations.log_softmax, activations.sigmoid):
        check(gradcheck(function, scores, order=2), True, f"{function.__name__}, second order")
    zero = Tensor([0.0, -0.0], requires_grad=True)
    check(grad(activations.relu(zero).sum(), zero), [0.0, 0.0], "at the kink: 0, as PyTorch does")
    check(rules[activations.relu][0](np.float32([2]), np.float32([1]), None).dtype, np.float32, "")
    ### END HIDDEN TESTS


test_activation_rules()


# %% nbgrader={"grade": false, "grade_id": "rules-more-activations", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
@activations.in_pieces
def gelu_rule(g, out, x):
    """The derivative of x (1 + tanh(u)) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3)."""
    slope, bend = math.sqrt(2 / math.pi), 0.044715 * math.sqrt(2 / math.pi)
    square = x * x
    t = square * bend
    t += slope
    t *= x
    t = tensor.tanh(t)
    square *= 3 * bend
    square += slope
    square *= x  # x u'
    twice = square * (1 - t * t)
    twice += t
    twice += 1
    twice *= g
    return twice * 0.5


@activations.in_pieces
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

# %% [markdown]
r"""
### A layer and a loss

**Exercise 14 (3 points).** `layers.linear(x, weight, bias)` is $out = x W + b$ with `x` (..., in), `weight` (in, out), `bias` (out,). Add its three rules. `x` may have any number of leading axes; `rows` from exercise 10 lays them out as one tall matrix, and the walk can't guess which rows share the weight. The gradient of `x` has the shape of `x`; compute it as one product of two matrices, which is much faster than a stack of small ones.
"""

# %% nbgrader={"grade": false, "grade_id": "rules-linear", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
### BEGIN SOLUTION
vjp(
    layers.linear,
    lambda g, out, x, weight, bias=None: (rows(g) @ weight.swapaxes(0, 1)).reshape(x.shape),
    lambda g, out, x, weight, bias=None: rows(x).swapaxes(0, 1) @ rows(g),
    lambda g, out, x, weight, bias=None: rows(g).sum(axis=0),
)
### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-rules-linear", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def test_linear_rules():
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(3, 2)), random.normal(size=2)
    for shape in [(4, 3), (5, 4, 3)]:
        x = random.normal(size=shape)
        check(gradcheck(layers.linear, x, weight, bias), True, f"x of shape {shape}")
    ### BEGIN HIDDEN TESTS
    check(gradcheck(layers.linear, random.normal(size=3), weight, bias), True, "a single row")
    check(gradcheck(layers.linear, random.normal(size=(4, 3)), weight), True, "without a bias")
    ### END HIDDEN TESTS


test_linear_rules()

# %% [markdown]
r"""
Cross entropy of one row is $L = -\log p_t$ with $p = \mathrm{softmax}(x)$ and $t$ the right class. Worked through, everything cancels but

$$\frac{\partial L}{\partial x_j} = p_j - \delta_{jt}$$

prediction minus truth, which is as simple as gradients get. **Predict** the gradient for the scores [0, 0] and the right class 0.

With class weights, label smoothing and ignored rows, the truth is an array `t` of the shape of the logits that says how much each class counts in each row, and $L = -\sum_j t_j \log p_j$ has the gradient $p_j \sum_i t_i - t_j$. Module 04's `target_weights` gives `t`, and `count`, by which a mean divides.

**Exercise 15 (3 points).** Finish `cross_entropy_rule`. The given lines make `g` fit: it comes divided by `count`, in a shape that broadcasts.
"""


# %% nbgrader={"grade": false, "grade_id": "rules-cross-entropy", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def cross_entropy_rule(
    g, out, logits, targets, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    """(softmax(logits) sum(t) - t) g / count, t being the weight of each class in each row."""
    axis = 1 if logits.ndim > 1 else 0
    targets, options = np.asarray(targets), (weight, ignore_index, label_smoothing)
    t, count = losses.target_weights(targets, logits.shape, logits.dtype, *options)
    if reduction == "mean":
        g = g / count
    elif reduction == "none" and logits.ndim > 1:
        g = g.reshape((g.shape[0], 1, *g.shape[1:]))
    ### BEGIN SOLUTION
    return (activations.softmax(logits, axis=axis) * t.sum(axis=axis, keepdims=True) - t) * g
    ### END SOLUTION


vjp(losses.cross_entropy, cross_entropy_rule)


# %% nbgrader={"grade": true, "grade_id": "test-rules-cross-entropy", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def test_cross_entropy_rule():
    scores = Tensor([[0.0, 0.0]], requires_grad=True)
    check(grad(losses.cross_entropy(scores, np.array([0])), scores), [[-0.5, 0.5]], "p - truth")
    logits, truth = [[1.0, -2.0, 0.5], [0.1, 3.0, -0.7]], np.array([2, 0])
    check(gradcheck(lambda x: losses.cross_entropy(x, truth), logits), True, "the mean")
    ### BEGIN HIDDEN TESTS
    for reduction in ("sum", "none"):
        right = gradcheck(
            lambda x, r=reduction: losses.cross_entropy(x, truth, reduction=r), logits
        )
        check(right, True, f"reduction={reduction!r}")
    right = gradcheck(lambda x: losses.cross_entropy(x, truth, label_smoothing=0.1), logits)
    check(right, True, "label smoothing")
    check(gradcheck(lambda x: losses.cross_entropy(x, truth), logits, order=2), True, "order 2")
    ### END HIDDEN TESTS


test_cross_entropy_rule()

# %% [markdown]
r"""
## Gradients of gradients

A rule that is given tensors computes its answer with operations that are recorded in their turn. So the answer has a past of its own and can be differentiated again: that is all `create_graph=True` does, and why rules are written in what arrays and tensors share. **Predict** the four lines.
"""

# %%
x = Tensor(2.0, requires_grad=True)
y = x**4
for n in range(1, 5):
    y = grad(y, x, create_graph=True)
    print(f"derivative {n} of x^4 at 2: {y.item():g}")

# %% [markdown]
r"""
A function from n numbers to m numbers has m · n derivatives, its **Jacobian**: row i is the gradient of result i, one walk for each row. The **Hessian** of a scalar function is the Jacobian of its gradient: how the slope itself changes as you move.

**Exercise 16 (4 points).**

- `jacobian`: for each row of the identity matrix, in the shape of `y`, take `gradients_or_zeros(y, [x], one, create_graph)`; `tensor.stack` the rows and reshape them to `(*y.shape, *x.shape)`.
- `hessian`: the Jacobian of the function that gives the gradient (`jacobian(function, x, create_graph=True)`, reshaped like `x`). Where the function is not scalar, raise a ValueError that begins `hessian: expected a scalar function`.
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
    with enable_grad():
        if not (create_graph and x.requires_grad):
            x = Tensor(x, requires_grad=True, dtype=x.dtype)
        y = function(x)
        ### BEGIN SOLUTION
        ones = np.eye(y.size, dtype=y.dtype).reshape(y.size, *y.shape)
        slopes = [gradients_or_zeros(y, [x], one, create_graph)[0] for one in ones]
        return tensor.stack(slopes).reshape(*y.shape, *x.shape)
        ### END SOLUTION


def hessian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The second derivatives of a scalar function: shape (*x.shape, *x.shape).

    Raises ValueError where the function gives more than one number.

    >>> hessian(lambda x: (x**3).sum(), Tensor([1.0, 2.0]))
    Tensor([[ 6.,  0.],
            [ 0., 12.]])
    """

    ### BEGIN SOLUTION
    def gradient(x):
        slopes = jacobian(function, x, create_graph=True)
        if slopes.size != x.size:
            shape = slopes.shape[: slopes.ndim - x.ndim]
            raise ValueError(f"hessian: expected a scalar function, got a result of shape {shape}")
        return slopes.reshape(x.shape)

    return jacobian(gradient, x)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-jacobian", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
def test_jacobian_and_hessian():
    x = Tensor([1.0, 2.0, 3.0])
    check(jacobian(lambda x: x[:2] * x[2], x), [[3.0, 0.0, 1.0], [0.0, 3.0, 2.0]], "(2, 3)")
    check(jacobian(lambda x: Tensor([5.0]), x), [[0.0, 0.0, 0.0]], "a constant has zeros")
    wanted = [[0.0, 3.0, 2.0], [3.0, 0.0, 1.0], [2.0, 1.0, 0.0]]
    check(hessian(lambda x: x[0] * x[1] * x[2], x), wanted, "each pair leaves the third")
    with check_raises(ValueError, "hessian: expected a scalar function", "say what is wrong"):
        hessian(lambda x: x * x, x)
    ### BEGIN HIDDEN TESTS
    check(jacobian(lambda x: x.reshape(3, 1) * x, x).shape, (3, 3, 3), "(*y.shape, *x.shape)")
    check(jacobian(lambda x: x.sum(), x), [1.0, 1.0, 1.0], "a scalar result")
    check(x.requires_grad, False, "x is not changed")
    check(gradcheck(lambda x: (x.exp() * x).sum(), [0.3, -1.0], order=2), True, "second order")
    with no_grad():
        check(jacobian(lambda x: x * x, Tensor([3.0])), [[6.0]], "inside no_grad too")
    ### END HIDDEN TESTS


test_jacobian_and_hessian()

# %% [markdown]
r"""
A Hessian says how far to go. Gradient descent takes small steps downhill, blind to the bend of the valley. **Newton's method** takes the bend into account and jumps to where the slope would be zero: $x \leftarrow x - H^{-1} \nabla f$. Rosenbrock's function is a long curved valley with its lowest point at (1, 1). **Predict** how many steps each of them needs from (-1, 1).
"""


# %%
def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def descend(step, most=20_000):
    """The points on the way until within 0.001 of (1, 1)."""
    path = [np.array([-1.0, 1.0])]
    while abs(path[-1] - 1).max() > 1e-3 and len(path) <= most:
        path.append(path[-1] - step(Tensor(path[-1], dtype=np.float64)))
    return np.array(path)


def slope_at(x):
    return jacobian(rosenbrock, x).numpy()


newton = descend(lambda x: np.linalg.solve(hessian(rosenbrock, x).numpy(), slope_at(x)))
downhill = descend(lambda x: 0.001 * slope_at(x), most=3_000)
print(f"Newton: {len(newton) - 1} steps, at {newton[-1]}")
print(f"gradient descent: {len(downhill) - 1} steps, still at {downhill[-1]}")

# %%
if plt:
    across, up = np.meshgrid(np.linspace(-1.6, 1.6, 120), np.linspace(-3.2, 1.6, 120))
    height = (1 - across) ** 2 + 100 * (up - across**2) ** 2
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.contour(across, up, height, levels=10.0 ** np.arange(-1, 4), colors="0.7")
    axes.plot(*downhill.T, "k-", linewidth=3, label="gradient descent")
    axes.plot(*newton.T, "ks--", markerfacecolor="white", label="Newton")
    axes.set(title="Two ways down Rosenbrock's valley", xlabel="x[0] (no unit)")
    axes.set(ylabel="x[1] (no unit)")
    axes.legend()
    plt.show()

# %% [markdown]
r"""
So why not train networks like this? For n weights the Hessian has n² numbers. For the small network of the opening that is 2,410² = 5.8 million, one walk for each row; for a million weights, 4 TB in float32. Networks walk downhill.

## Put together: digits

The network of the opening, trained with what you built. First the question that it began with: the gradient by differences, 2,410 times two losses, against one backward.
"""

# %%
parameters = new_parameters()
for p in parameters:
    p.requires_grad_()
loss = loss_of(parameters)
start = time.perf_counter()
loss.backward()
print(f"loss {one_loss * 1e3:.2f} ms, backward {(time.perf_counter() - start) * 1e3:.2f} ms")
print(f"by differences {2 * 2410 * one_loss * 1e3:.0f} ms")

# %% [markdown]
r"""
And is it right? All 2,410 of them, on twenty images, in float64:
"""


# %%
def loss_on_twenty(*parameters):
    return loss_of(parameters, images[:20], labels[:20])


print(gradcheck(loss_on_twenty, *parameters))

# %% [markdown]
r"""
Training by hand: take some images, compute the loss, go back, move each weight a little against its gradient. Two lines are easily forgotten: gradients add up, so they are set to None before the next backward; and the update itself must not be recorded, so it stands under `no_grad`.
"""


# %%
def train(parameters, epochs=30, batch=50, rate=0.5):
    """Losses of all steps, and the share of right answers on images 1,500 and up after each epoch."""
    random, losses_seen, right = np.random.default_rng(0), [], []
    for _ in tqdm(range(epochs), desc="epochs"):
        for rows_used in random.permutation(1500).reshape(-1, batch):
            loss = loss_of(parameters, images[rows_used], labels[rows_used])
            for p in parameters:
                p.grad = None
            loss.backward()
            with no_grad():
                for p in parameters:
                    p -= rate * p.grad
            losses_seen.append(loss.item())
        right.append(accuracy(parameters, slice(1500, None)))
    return losses_seen, right


@no_grad()
def accuracy(parameters, which):
    w1, b1, w2, b2 = parameters
    hidden = activations.relu(layers.linear(images[which], w1, b1))
    answer = layers.linear(hidden, w2, b2).argmax(axis=1)
    return float((answer.numpy() == labels[which]).mean())


print(f"before: {accuracy(parameters, slice(1500, None)):.3f} of the new images right")
step_losses, right = train(parameters)
print(f"after:  {right[-1]:.3f}, last loss {step_losses[-1]:.4f}")

# %%
if plt:
    figure, (left, other) = plt.subplots(1, 2, figsize=(10, 3.5))
    left.semilogy(step_losses, "k-", linewidth=0.7)
    left.set(title="Training by hand-written gradient descent", xlabel="step", ylabel="loss")
    other.plot(range(1, len(right) + 1), right, "ko-", markersize=3)
    other.set(title="Images it never saw", xlabel="epoch", ylabel="share of right answers")
    plt.show()

# %% [markdown]
r"""
## What it costs

**Time.** A linear layer does one matrix product forward and two backward: one for its weights, one for what came in. **Predict** the ratio of backward to forward as the layers grow, and which part of it you pay even for tiny ones.
"""


# %%
def best_time(run, rounds=7):
    """The shortest of several runs, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_width(width):
    x = tensor.randn(128, width, requires_grad=True)
    weights = [tensor.randn(width, width, requires_grad=True) for _ in range(3)]

    def forward():
        y = x
        for weight in weights:
            y = activations.relu(layers.linear(y, weight))
        return y.sum()

    return best_time(forward), best_time(lambda: forward().backward())


print(f"{'width':>6}{'forward':>12}{'backward':>12}{'ratio':>8}")
for width in (8, 64, 256, 512):
    ahead, both = measure_width(width)
    back = both - ahead
    print(f"{width:6}{ahead * 1e3:9.3f} ms{back * 1e3:9.3f} ms{back / ahead:8.2f}")

# %% [markdown]
r"""
**Overhead.** Every operation costs Python time, whatever its size: the wrapper, the node, later the rule. Beside NumPy, that is what you see for small arrays; for large ones the arithmetic hides it.
"""


# %%
def measure_size(size):
    x, seed = tensor.randn(size, requires_grad=True), np.ones(size, np.float32)
    array = x.numpy()
    runs = (lambda: array * array, lambda: x * x, lambda: (x * x).backward(seed))
    times = 20 if size < 100_000 else 1
    return [best_time(lambda run=run: [run() for _ in range(times)]) / times for run in runs]


print(f"{'elements':>10}{'NumPy':>12}{'recorded':>12}{'with backward':>16}")
for size in (1, 100, 10_000, 1_000_000):
    plain, recorded, walked = measure_size(size)
    print(f"{size:10}{plain * 1e6:9.1f} us{recorded * 1e6:9.1f} us{walked * 1e6:13.1f} us")

# %% [markdown]
r"""
**Memory.** Rules need what the forward computed, so a recorded forward keeps every result until backward has passed. Without recording, each result can go as soon as the next one is there. Dropping nodes during the walk lets the results go one by one while gradients come. Here 40 factors of 1 MB each are multiplied, and each gets a gradient of 1 MB. **Predict** four peaks: the forward, not recorded and recorded; forward and backward, with dropping and with `retain_graph`.
"""


# %%
def peak_megabytes(run, *arguments):
    """The most memory that Python and NumPy held at once during a run."""
    gc.collect()
    tracemalloc.start()
    run(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


start_value, seed = tensor.ones(250_000), np.ones(250_000, np.float32)
factors = [tensor.ones(250_000, requires_grad=True) for _ in range(40)]


def product():
    x = start_value
    for factor in factors:
        x = x * factor
    return x


def forward_and_backward(retain_graph):
    product().backward(seed, retain_graph=retain_graph)


print(f"forward, not recorded     {peak_megabytes(no_grad()(product)):6.1f} MB")
print(f"forward, recorded         {peak_megabytes(product):6.1f} MB")
for retain_graph in (False, True):
    for factor in factors:
        factor.grad = None
    peak = peak_megabytes(forward_and_backward, retain_graph)
    print(f"backward, retain {retain_graph!s:5}    {peak:6.1f} MB")

# %% [markdown]
r"""
Dropping pays as soon as gradients stay, as those of weights do: while gradients come, results go. PyTorch drops as it passes too, in C++ and on several threads (`torch.autograd.backward`; `retain_graph=True` keeps). Where the results of the forward don't fit at all, `torch.utils.checkpoint` forgets most of them and computes them a second time during backward. Rules of your own are `torch.autograd.Function`; your `gradcheck`, `jacobian` and `hessian` are `torch.autograd.gradcheck`, `torch.func.jacrev` and `torch.func.hessian`; one row of the Jacobian, as a walk gives it, is `torch.func.vjp`.

## Questions

Answer in a few sentences, with the numbers worked out.

**1 (5 points).** A model has 10 million weights, its loss takes 20 ms, backward twice as long. How long does one gradient take by central differences, in days? And by forward and backward? By which factor?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-differences", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
20,000,000 losses · 0.02 s = 400,000 s, which is 4.6 days. Forward and backward take 20 + 40 = 60 ms. The factor is 400,000 / 0.06 = 6.7 million. It grows with the number of weights, because one walk answers for all of them; only the cost of a single loss grows too.
"""

# %% [markdown]
r"""
**2 (5 points).** A network 784-128-10 (linear, relu, linear, cross entropy) sees a batch of 64 images in float32. Which arrays does the graph hold between forward and backward, beside parameters and labels, and how many bytes are they? Which of them grow with the batch, and what would the same network hold under `no_grad` at most?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-memory", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
The images 64 · 784 · 4 = 200,704 bytes, the first layer's result and relu's result 64 · 128 · 4 = 32,768 each, the scores 64 · 10 · 4 = 2,560, the loss 4: 268,804 bytes in all, and all but the loss grow with the batch. Under `no_grad` the images stay with their owner, and of the results only two are needed at once, the input and the output of the running operation: at most 2 · 32,768 = 65,536 bytes. (The labels add 512 bytes as int64; relu's rule reads only its result, so a cleverer graph could do without its input.)
"""

# %% [markdown]
r"""
**3 (5 points).** A network of 50 residual blocks computes `x = x + f(x)` 50 times, where `f` is a single operation. How many calls would the naive walk make to the leaf? How long would that take at 1 µs a call, in years? How many tensors does `producers_first` list?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-diamonds", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
Each block offers two ways back, so there are 2^50 = 1.13 · 10^15 paths, each ending with a call at the leaf: 1.13 · 10^9 s or about 36 years, not counting the calls in between. The list has the leaf and two results for each block, f(x) and the sum: 101 tensors.
"""

# %% [markdown]
r"""
**4 (5 points).** A function takes 1,000 numbers to 10. How many walks back give its whole Jacobian, and how many runs by differences? For a function from 10 numbers to 1,000, a *forward* mode, which carries the derivative by one input along with the computation, would be better: why, and by which factor in passes? Why do we train networks with the reverse mode all the same?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-modes", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
r"""
One walk gives one row: 10 walks (central differences: 2 · 1,000 runs). From 10 numbers to 1,000, the reverse mode needs 1,000 walks, the forward mode 10 passes, one for each column: 100 times fewer. A loss is a single number that depends on millions of weights: one row, so one walk back, against millions of forward passes.
"""

# %% [markdown]
r"""
## All tests once more
"""


# %%
def test_module():
    for test in (test_arithmetic_rules, test_record, test_producers_first, test_unbroadcast):
        test()
    for test in (test_gradients, test_backward, test_grad, test_gradcheck):
        test()
    for test in (test_elementwise_rules, test_matmul_rules, test_reduction_rules, test_shape_rules):
        test()
    for test in (test_activation_rules, test_linear_rules, test_cross_entropy_rule):
        test()
    test_jacobian_and_hessian()
    print("All tests of module 05 pass.")


test_module()

# %% [markdown]
r"""
**What works now:** gradients of anything that modules 01 to 04 compute, of any order, in the time of a few more forward passes.
You saw the obvious walk fail on diamonds and deep chains, and an order of the graph cure both.
You wrote the rules of a framework, and the check that would have caught each wrong sign.
You know what a gradient costs: time for the products, memory for what the forward has to keep.
**Next:** better ways downhill, `tito module start 06`.
"""

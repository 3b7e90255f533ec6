# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.recurrent

# %% [markdown]
r"""
# Recurrent networks

> Networks that read a sequence step by step, and remember.

Time: 5 hours. So far every input had a fixed size, and all of it came at once. Text, sound and measurements come one piece after another, as many as there are. Here
you build the networks that ruled such data until 2017: a plain recurrent network, the LSTM and the GRU. You will see why the plain one forgets, and by which trick the other two don't.
"""

# %% nbgrader={"grade": false, "grade_id": "whose", "locked": true, "solution": false}
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinytorch.core.activations import relu, sigmoid
from tinytorch.core.autograd import joint_vjp, rows
from tinytorch.core.layers import Dropout, Module, linear
from tinytorch.core.tensor import (
    Tensor,
    clip,
    concat,
    concatenate,
    copy,
    op,
    rand,
    stack,
    tanh,
    where,
    zeros,
)
from tinytorch.profiling.profiler import FLOPS

# %%
import time
from functools import partial

from tinytorch.core.autograd import grad, gradcheck, no_grad
from tinytorch.core.layers import Linear
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.tensor import manual_seed, randn
from tinytorch.core.training import Trainer
from tinytorch.data.loader import DataLoader, Digits
from tito.testing import check

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # pictures are left out; everything else works

# %% [markdown]
r"""
## The problem: order, and length

A sequence is a tensor (T, D): T steps of D numbers. What do the tools that you have make of it? A `Linear` over all T D numbers fits one T only. Averaging the steps fits any T.
**Predict** what the averaging network says about a sequence read forwards and backwards:
"""

# %%
manual_seed(0)
digit = Digits().images[0, 0]  # (8, 8): eight steps, each a row of eight pixels
layer = Linear(8, 3)
print("forwards ", layer(digit).tanh().mean(axis=0))
print("backwards", layer(digit[::-1]).tanh().mean(axis=0))

# %% [markdown]
r"""
A digit upside down is the same to it: "dog bites man" and "man bites dog" would be, too.

## A state

The cure is to read in order and to carry along a **state** $h$, a vector of H numbers that says what has been read so far:

```
x[0]       x[1]       x[2]
  |          |          |
  v          v          v
 step  ---> step  ---> step  ---> h[2]
       h[0]       h[1]
```

$$h_t = \tanh(x_t W_{ih} + b + h_{t-1} W_{hh})$$

The same weights serve at every step. The part $x_t W_{ih} + b$ doesn't depend on the state, so we compute it for all steps in one large product and call it `projected`. What is left is small.

### Exercise: one step

`rnn_step(projected, hidden, weight_hh)`: `projected` and `hidden` have shape (B, H), B sequences being read side by side. `_BENDS[nonlinearity]` is the function that bends, `tanh` or `relu`.
With projected 1, hidden 2 and weight -0.5: $\tanh(1 - 1) = 0$. Write it with operators only, so that it works on tensors and gets its gradient for free.
"""

# %% nbgrader={"grade": false, "grade_id": "rnn-step", "solution": true}
#| export
_BENDS = {"tanh": tanh, "relu": relu}


def rnn_step(projected, hidden, weight_hh, nonlinearity="tanh"):
    """One step of a plain recurrent network (Elman 1990): tanh(projected + hidden @ weight_hh).

    projected (B, H) is the input times its weights, with the biases; hidden (B, H) the state so
    far. Returns the new state (B, H).

    >>> rnn_step(Tensor([[1.0]]), Tensor([[2.0]]), Tensor([[-0.5]]))
    Tensor([[0.]])
    """
    ### BEGIN SOLUTION
    return _BENDS[nonlinearity](projected + hidden @ weight_hh)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-rnn-step", "locked": true, "points": 5, "solution": false}
def test_rnn_step():
    weight = Tensor([[1.0, 0.0], [3.0, 1.0]])
    got = rnn_step(Tensor([[0.5, -0.5]]), Tensor([[0.1, 0.2]]), weight)
    check(got, np.tanh([[1.2, -0.3]]), "tanh(projected + hidden @ weight_hh)")
    ### BEGIN HIDDEN TESTS
    got = rnn_step(Tensor([[0.5, -0.5]]), Tensor([[0.1, 0.2]]), weight, "relu")
    check(got, [[1.2, 0.0]], "the bend that was asked for")
    ### END HIDDEN TESTS


test_rnn_step()

# %% [markdown]
r"""
### Exercise: all steps

`unroll(projected, hidden, weight_hh)`: call `rnn_step` for each of the T steps of `projected` (T, B, H), and return all T states, stacked: (T, B, H). Python's loop, nothing else.
"""


# %% nbgrader={"grade": false, "grade_id": "unroll", "solution": true}
def unroll(projected, hidden, weight_hh):
    """The states after each step: (T, B, H)."""
    ### BEGIN SOLUTION
    states = []
    for t in range(len(projected)):
        hidden = rnn_step(projected[t], hidden, weight_hh)
        states.append(hidden)
    return stack(states)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-unroll", "locked": true, "points": 5, "solution": false}
def test_unroll():
    states = unroll(Tensor([[[1.0]], [[1.0]]]), Tensor([[0.0]]), Tensor([[-1.0]]))
    first = np.tanh(1.0)
    check(states, [[[first]], [[np.tanh(1 - first)]]], "each step starts from the state before it")
    ### BEGIN HIDDEN TESTS
    states = unroll(zeros(3, 2, 4), Tensor(np.full((2, 4), 0.5)), Tensor(np.eye(4)))
    check(states[0], np.full((2, 4), np.tanh(0.5)), "the first step starts from `hidden`")
    ### END HIDDEN TESTS


test_unroll()

# %% [markdown]
r"""
## What reaches the beginning?

Training must tell the first step what it did wrong at the last one. Going back one step multiplies the gradient by $W_{hh}^\top$ and by the slope of tanh, which is at most 1. Over 40 steps that is 40 factors.
Let $W_{hh}$ be a rotation times a number. **Predict**: for 0.7, 1.0 and 1.4, how large is the gradient of the last state by the first input, compared with that by the last input?
"""


# %%
def rotation(size, scale):
    """A random orthogonal matrix times `scale`: it changes no vector's length but by `scale`."""
    return scale * np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0]


def gradient_by_step(run, width, steps=40):
    """How much the last state changes with the input of each step (length of the gradient)."""
    noise = 0.1 * np.random.default_rng(1).standard_normal((steps, 1, width))
    projected = Tensor(noise, requires_grad=True)
    slopes = grad(run(projected)[-1].sum(), projected).numpy()
    return np.sqrt((slopes**2).sum(axis=(1, 2)))


size, curves = 16, {}
for scale in (0.7, 1.0, 1.4):
    weight = Tensor(rotation(size, scale))
    curves[f"tanh, scale {scale}"] = gradient_by_step(
        lambda p, weight=weight: unroll(p, zeros(1, size), weight), size
    )
for name, curve in curves.items():
    print(f"{name}: first step {curve[0]:.1e}, middle {curve[20]:.1e}, last {curve[-1]:.1e}")

# %% [markdown]
r"""
Below 1 the gradient **vanishes**: what happened 40 steps ago can't be learned, whatever the learning rate. At 1 tanh still takes its share, whenever a state is away from 0. Above 1 the gradient grows, and where tanh doesn't hold it back it **explodes**, as you will see.

## Backpropagation through time, as one operation

The unrolled loop is right, but what does it cost? **Predict**: if 100 steps take a certain time, forward and back, how much do 400 take?
"""


# %%
def seconds(action, repeat=3):
    """The shortest time of a few."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def forward_and_back(sequence, steps, size=64):
    """A run of unroll or its like, with its gradient."""
    weight = Tensor(rotation(size, 0.9), requires_grad=True)
    projected = Tensor(np.zeros((steps, 16, size)), requires_grad=True)
    return lambda: sequence(projected, zeros(16, size), weight).sum().backward()


for steps in (100, 200, 400):
    print(f"{steps} steps unrolled: {1e3 * seconds(forward_and_back(unroll, steps)):.1f} ms")

# %% [markdown]
r"""
More than four times. Each `projected[t]` has a gradient in the shape of **all** of `projected`, zeros but for one step, and all of these are added up: T times T steps of zeros. One operation with a rule of its own does better: its rule walks back once.

A detail on the way: the product of a thin matrix, (16, 256), with (256, 1024). A BLAS first rearranges the large matrix for its own use, every time. If its columns already lie in narrow slabs, it needn't:
"""

# %% nbgrader={"grade": false, "grade_id": "slabs", "locked": true, "solution": false}
#| exporti
_WIDTH = 32  # of a slab: BLAS multiplies a thin matrix faster by what it needn't rearrange first


def _column_slabs(weight):
    """The columns of a weight (K, N) in slabs (N / 32, K, 32), or in one."""
    inner, columns = weight.shape
    width = columns if columns % _WIDTH else _WIDTH
    return copy(weight.reshape((inner, columns // width, width)).swapaxes(0, 1))


def _row_slabs(weight):
    """The columns of the transposed weight (K, N) in slabs (K / 32, N, 32), or in one."""
    inner, columns = weight.shape
    width = inner if inner % _WIDTH else _WIDTH
    return copy(weight.reshape((inner // width, width, columns)).swapaxes(1, 2))


def _times(x, slabs):
    """x (B, K) times a matrix in slabs (S, K, width): (B, S width)."""
    product = (x @ slabs).swapaxes(0, 1)
    return product.reshape((x.shape[0], slabs.shape[0] * slabs.shape[2]))


# %%
thin, wide = np.ones((16, 256), np.float32), np.ones((256, 1024), np.float32)
slabs = _column_slabs(wide)
check(_times(thin, slabs), thin @ wide, "the same product")
print(f"in one piece {1e6 * seconds(lambda: thin @ wide, 20):.0f} us")
print(f"in slabs     {1e6 * seconds(lambda: _times(thin, slabs), 20):.0f} us")

# %% [markdown]
r"""
### Exercise: the sequence as one operation

`rnn_sequence` does what `unroll` does, on NumPy arrays (`@op` wraps it): fill `states[t]` for each t. `_times(hidden, slabs)` is `hidden @ weight_hh`.
One thing is new. `mask[t]` (B, 1), if there is a mask, says which of the B sequences still run at step t. Where it is False, the state stays as it was: `np.copyto(target, source, where=...)` writes only where its condition holds.
"""


# %% nbgrader={"grade": false, "grade_id": "rnn-sequence", "solution": true}
#| export
@op
def rnn_sequence(projected, hidden, weight_hh, mask=None, nonlinearity="tanh", grad_clip=None):
    """`rnn_step` for every step of a sequence: projected (T, B, H), hidden (B, H) -> (T, B, H).

    Where `mask` (T, B, 1) is False, a sequence is over and its state stays. `grad_clip` limits
    every number of the gradient that reaches a state to [-grad_clip, grad_clip], on its way back.

    >>> rnn_sequence(Tensor([[[1.0]], [[1.0]]]), Tensor([[0.0]]), Tensor([[-1.0]])).flatten()
    Tensor([0.7616, 0.234 ])
    """
    states = np.empty_like(projected)
    slabs, bend = _column_slabs(weight_hh), _BENDS[nonlinearity]
    ### BEGIN SOLUTION
    for t in range(len(projected)):
        states[t] = bend(projected[t] + _times(hidden, slabs))
        if mask is not None:
            np.copyto(states[t], hidden, where=~mask[t])
        hidden = states[t]
    ### END SOLUTION
    return states


# %% nbgrader={"grade": true, "grade_id": "test-rnn-sequence", "locked": true, "points": 10, "solution": false}
def test_rnn_sequence():
    random = np.random.default_rng(0)
    projected, hidden = random.standard_normal((5, 2, 3)), random.standard_normal((2, 3))
    weight = random.standard_normal((3, 3))
    expected = unroll(Tensor(projected), Tensor(hidden), Tensor(weight)).numpy()
    got = rnn_sequence(Tensor(projected), Tensor(hidden), Tensor(weight))
    check(got, expected, "the same states as unroll gives", 1e-5)
    mask = np.array([[[True], [True]], [[True], [False]], [[True], [False]]])
    got = rnn_sequence(Tensor(projected[:3]), Tensor(hidden), Tensor(weight), mask=mask)
    check(got[2, 1], got[0, 1].numpy(), "a sequence of one step keeps the state of that step")
    check(got[2, 0], expected[2, 0], "the other one goes on", 1e-5)
    ### BEGIN HIDDEN TESTS
    relus = rnn_sequence(Tensor(-np.ones((2, 1, 1))), zeros(1, 1), zeros(1, 1), nonlinearity="relu")
    check(relus, [[[0.0]], [[0.0]]], "the bend that was asked for")
    late = rnn_sequence(Tensor(projected[:3]), Tensor(hidden), Tensor(weight), mask=mask[::-1])
    check(
        late[1, 1],
        hidden[1].astype(np.float32),
        "before its first step a sequence has the first state",
    )
    ### END HIDDEN TESTS


test_rnn_sequence()

# %% [markdown]
r"""
### The way back

Let $g_t$ be the gradient that arrives at state t from outside (the loss looks at that state). From later steps comes more. Start at the last step with `later = 0`, and for each t, backwards:

1. $\bar h_t = g_t + \mathrm{later}$: all that state t is responsible for.
2. $\bar p_t = \bar h_t \cdot \mathrm{slope}_t$: through the bend. The slope of tanh is $1 - h_t^2$: the result is all that it takes.
3. $\mathrm{later} = \bar p_t W_{hh}^\top$: what the state before is responsible for.

And at the end, for all steps in one product: $\bar W_{hh} = \sum_t h_{t-1}^\top \bar p_t$.

Two helpers bring in what is special. `_parted` splits $\bar h_t$ where a mask kept an old state: that part jumps over the step and joins `later`. And `_limited` is for explosions.

### Exercise: clipping through time

`_limited(gradient, grad_clip)`: every number pulled into [-grad_clip, grad_clip]; None leaves all as it is. Use `clip` of module 01: a rule must work on tensors, too.
"""


# %% nbgrader={"grade": false, "grade_id": "limited", "solution": true}
#| exporti
def _limited(gradient, grad_clip):
    """Every number of a gradient within [-grad_clip, grad_clip]."""
    ### BEGIN SOLUTION
    return gradient if grad_clip is None else clip(gradient, -grad_clip, grad_clip)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-limited", "locked": true, "points": 4, "solution": false}
def test_limited():
    check(_limited(Tensor([-3.0, 0.5, 2.0]), 1.0), [-1.0, 0.5, 1.0], "each number by itself")
    ### BEGIN HIDDEN TESTS
    check(_limited(np.array([5.0]), None), [5.0], "None means no limit")
    check(
        _limited(Tensor([-3.0, 2.0]), 2.5),
        [-2.5, 2.0],
        "the limit that was asked for, on both sides",
    )
    ### END HIDDEN TESTS


test_limited()


# %% nbgrader={"grade": false, "grade_id": "rule-parts", "locked": true, "solution": false}
#| exporti
def _parted(gradient, mask, t):
    """The gradient of state t in two: for its own step, and for the earlier state that was kept."""
    if mask is None:
        return gradient, 0
    return where(mask[t], gradient, 0), where(mask[t], 0, gradient)


def _by_weight(first, states, by_sums):
    """The gradient of the recurrent weights: every state times that of the sums after it."""
    later = rows(states[:-1]).swapaxes(0, 1) @ rows(by_sums[1:])
    return later + first.swapaxes(0, 1) @ by_sums[0]


def _along(parts):
    """Parts of one shape, side by side along a new first axis."""
    return concatenate(*(part.reshape((1, *part.shape)) for part in parts), axis=0)


# %% [markdown]
r"""
### Exercise: the rule

Write the walk. `g` and `out` have shape (T, B, H); `here, kept = _parted(_limited(..., grad_clip), mask, t)` gives step 1, in two parts: `here` goes on to steps 2 and 3, `kept` is added to `later` after step 3. `back` holds $W_{hh}^\top$ in slabs.
Return one gradient for each input, `projected`, `hidden` (that is the last `later`) and `weight_hh`. `_along(list)` stacks a list along a new first axis (yours is the wrong way round: mind the order), and `_by_weight(hidden, out, by_projected)` is the sum at the end.
Worked number: one step, H = 1, hidden 2, weight 3, `out` = 0, `g` = 1: the slope is 1, so the gradients are 1 by `projected`, 3 by `hidden` and 2 by `weight_hh`.

Use operators, `.reshape`, `.swapaxes` and operations only. Then the rule works on tensors as on arrays, and second derivatives need no line of code.
"""


# %% nbgrader={"grade": false, "grade_id": "rnn-rule", "solution": true}
#| export
def rnn_rule(g, out, projected, hidden, weight_hh, mask=None, nonlinearity="tanh", grad_clip=None):
    """Backpropagation through time (Werbos 1990): each state's gradient, the last one first."""
    slopes = 1 - out * out if nonlinearity == "tanh" else out > 0
    back = _row_slabs(weight_hh)
    later, found = 0, []
    ### BEGIN SOLUTION
    for t in reversed(range(len(out))):
        here, kept = _parted(_limited(g[t] + later, grad_clip), mask, t)
        found.append(here * slopes[t])
        later = _times(found[-1], back) + kept
    by_projected = _along(found[::-1])
    return by_projected, later, _by_weight(hidden, out, by_projected)
    ### END SOLUTION


joint_vjp(rnn_sequence, rnn_rule)


# %% nbgrader={"grade": true, "grade_id": "test-rnn-rule", "locked": true, "points": 12, "solution": false}
def random_inputs(*shapes):
    """Arrays of random numbers, always the same."""
    random = np.random.default_rng(3)
    return [random.standard_normal(shape) for shape in shapes]


def passes(function, *inputs, order=1):
    """Does `gradcheck` agree? Its complaint if not."""
    try:
        return gradcheck(function, *inputs, order=order)
    except AssertionError as error:
        return str(error)


HALF_MASK = np.array([[[True], [True]], [[True], [False]], [[True], [False]]])


def test_rnn_rule():
    one = [np.full((1, 1, 1), x) for x in (1.0, 0.0)]
    got = rnn_rule(*one, None, np.array([[2.0]]), np.array([[3.0]]))
    check([float(x.item()) for x in got], [1.0, 3.0, 2.0], "the worked number above")
    inputs = random_inputs((3, 2, 2), (2, 2), (2, 2))
    check(passes(rnn_sequence, *inputs), True, "differences must agree with your rule")
    ### BEGIN HIDDEN TESTS
    masked = partial(rnn_sequence, mask=HALF_MASK)
    check(passes(masked, *inputs), True, "a kept state passes its gradient on: did you add `kept`?")
    bent = partial(rnn_sequence, nonlinearity="relu")
    check(passes(bent, *inputs), True, "the slopes are those of the bend")
    check(passes(rnn_sequence, *inputs, order=2), True, "only operators and operations: order 2")
    leaf = Tensor(np.zeros((1, 1, 1)), requires_grad=True)
    rnn_sequence(leaf, zeros(1, 1), zeros(1, 1), grad_clip=0.5).sum().backward()
    check(leaf.grad, [[[0.5]]], "grad_clip limits what reaches a state")
    ### END HIDDEN TESTS


test_rnn_rule()

# %% [markdown]
r"""
Was it worth it?
"""

# %%
for steps in (100, 200, 400):
    slow = seconds(forward_and_back(unroll, steps))
    fast = seconds(forward_and_back(rnn_sequence, steps))
    print(
        f"{steps} steps: unrolled {1e3 * slow:6.1f} ms, as one operation {1e3 * fast:5.1f} ms: {slow / fast:.0f}x"
    )

# %% [markdown]
r"""
Now the explosion. With `relu`, whose slope is 1, and a matrix that stretches: **predict** the gradient of the first step for scale 1.4 and 40 steps, and with every state's gradient limited to [-1, 1].
"""

# %%
weight = Tensor(np.abs(rotation(size, 1.0)) * 0.6)
for limit in (None, 1.0):
    relus = partial(rnn_sequence, nonlinearity="relu", grad_clip=limit)
    curve = gradient_by_step(lambda p, relus=relus: relus(p + 1, zeros(1, size), weight), size)
    print(f"grad_clip {limit}: first step {curve[0]:.1e}, last {curve[-1]:.1e}")

# %% [markdown]
r"""
A single such batch throws all weights out of the room. `clip_grad_norm` of module 06 shortens the finished gradient, but an infinity can't be shortened; a limit at each step keeps it from arising. It changes the direction, too, so it is the second choice.

## A memory with gates

Against vanishing helps another idea (Hochreiter and Schmidhuber, 1997): a second state, the **cell** $c$, on which nothing is multiplied but a gate between 0 and 1:

$$c_t = f_t \, c_{t-1} + i_t \, n_t \qquad h_t = o_t \tanh(c_t)$$

```
c[t-1] ----( x f )----( + )-------> c[t]        f: how much of the old is kept (forget gate)
                        |     |                 i: how much of the new is written (input gate)
                     ( i x n ) tanh             n: what is new
                              |                 o: how much is shown (output gate)
                            ( x o )--> h[t]
```

With $f_t = 1$ the gradient goes from $c_t$ to $c_{t-1}$ **unchanged**, over any number of steps. The four parts come from one product: $p_t + h_{t-1} W_{hh}$ has shape (B, 4 H), with the columns of i, f, n, o in this order. Three go through a sigmoid, $n$ through tanh.

### Exercise: one step of an LSTM

`lstm_step(projected, hidden, cell, weight_hh)` returns `(hidden, cell)`. With all of `projected` and `weight_hh` 0, the gates are 0.5 and n is 0: a cell of 2 becomes 1, and shows $0.5 \tanh(1) = 0.3808$.
"""


# %% nbgrader={"grade": false, "grade_id": "lstm-step", "solution": true}
#| export
def lstm_step(projected, hidden, cell, weight_hh):
    """One step of a long short-term memory (Hochreiter and Schmidhuber 1997, Gers et al. 2000).

    projected (B, 4 H) holds the input, forget, new and output parts side by side, in this order;
    hidden and cell are (B, H). Returns the new hidden and cell state.

    >>> hidden, cell = lstm_step(zeros(1, 4), zeros(1, 1), Tensor([[2.0]]), zeros(1, 4))
    >>> cell, hidden
    (Tensor([[1.]]), Tensor([[0.3808]]))
    """
    ### BEGIN SOLUTION
    size = hidden.shape[-1]
    z = projected + hidden @ weight_hh
    i, f, n, o = (z[..., k * size : (k + 1) * size] for k in range(4))
    cell = sigmoid(f) * cell + sigmoid(i) * tanh(n)
    return sigmoid(o) * tanh(cell), cell
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-lstm-step", "locked": true, "points": 8, "solution": false}
def logit(p):
    """What the sigmoid turns into p."""
    return float(np.log(p / (1 - p)))


def test_lstm_step():
    z = [[logit(0.3), logit(0.9), float(np.arctanh(0.5)), logit(0.6)]]
    hidden, cell = lstm_step(Tensor(z), zeros(1, 1), Tensor([[2.0]]), zeros(1, 4))
    check(cell, [[0.9 * 2 + 0.3 * 0.5]], "f cell + i n: gates in the order i, f, n, o", 1e-5)
    check(hidden, [[0.6 * np.tanh(1.95)]], "o tanh(cell), with the new cell", 1e-5)
    ### BEGIN HIDDEN TESTS
    got, _ = lstm_step(
        zeros(1, 4), Tensor([[1.0]]), Tensor([[0.0]]), Tensor([[0.0, 0.0, 1.0, 0.0]])
    )
    check(
        got, [[0.5 * np.tanh(0.5 * np.tanh(1.0))]], "the old hidden state enters by weight_hh", 1e-5
    )
    wide = lstm_step(zeros(3, 8), zeros(3, 2), zeros(3, 2), zeros(2, 8))
    check([x.shape for x in wide], [(3, 2), (3, 2)], "each part has H columns")
    ### END HIDDEN TESTS


test_lstm_step()

# %% [markdown]
r"""
### Exercise: the whole sequence

`lstm_sequence` returns one array `out` (6, T, B, H): `out[0]` the hidden states, `out[1]` the cells, `out[2:]` the gates i, f, n, o. The caller wants the first two; the way back needs all of them.

Fill it, step by step, on NumPy arrays. One trick is worth its line: $\mathrm{sigmoid}(x) = \tanh(x/2)/2 + 1/2$, so with `half` = 0.5 (and 1 for n) a single call of tanh serves all four gates: $\tanh(z \cdot \mathrm{half}) \cdot \mathrm{half} + (1 - \mathrm{half})$.
`half` has shape (4, 1, 1), and `z.reshape(batch, 4, size).swapaxes(0, 1)` brings z (B, 4 H) into the order of `gates = out[2:, t]` (4, B, H), a view into which you can write. The mask works as before, on both states.
"""


# %% nbgrader={"grade": false, "grade_id": "lstm-sequence", "solution": true}
#| export
@op
def lstm_sequence(projected, hidden, cell, weight_hh, mask=None, grad_clip=None):
    """`lstm_step` for every step of a sequence: projected (T, B, 4 H) -> (6, T, B, H).

    The result holds the hidden states, the cell states, and the gates i, f, n, o that the way back
    needs. `mask` and `grad_clip` as in `rnn_sequence`.

    >>> out = lstm_sequence(zeros(5, 2, 12), zeros(2, 3), zeros(2, 3), zeros(3, 12))
    >>> out.shape
    (6, 5, 2, 3)
    """
    (batch, size), steps = hidden.shape, len(projected)
    out = np.empty((6, steps, batch, size), projected.dtype)
    slabs = _column_slabs(weight_hh)
    half = np.array([0.5, 0.5, 1, 0.5], out.dtype).reshape(4, 1, 1)
    ### BEGIN SOLUTION
    for t in range(steps):
        z = _times(hidden, slabs)
        z += projected[t]
        gates = out[2:, t]
        np.multiply(z.reshape(batch, 4, size).swapaxes(0, 1), half, out=gates)
        np.tanh(gates, out=gates)  # sigmoid(x) = tanh(x / 2) / 2 + 1 / 2: one call for all four
        gates *= half
        gates += 1 - half
        i, f, n, o = gates
        out[1, t] = f * cell + i * n
        out[0, t] = o * np.tanh(out[1, t])
        if mask is not None:
            np.copyto(out[0, t], hidden, where=~mask[t])
            np.copyto(out[1, t], cell, where=~mask[t])
        hidden, cell = out[:2, t]
    ### END SOLUTION
    return out


# %% nbgrader={"grade": true, "grade_id": "test-lstm-sequence", "locked": true, "points": 10, "solution": false}
def lstm_unrolled(projected, hidden, cell, weight):
    """All hidden states and all cells, by lstm_step."""
    states = []
    for t in range(len(projected)):
        hidden, cell = lstm_step(projected[t], hidden, cell, weight)
        states.append(stack([hidden, cell]))
    return stack(states, axis=1).numpy()


def test_lstm_sequence():
    inputs = [Tensor(x) for x in random_inputs((3, 2, 12), (2, 3), (2, 3), (3, 12))]
    out = lstm_sequence(*inputs)
    check(out[:2], lstm_unrolled(*inputs), "hidden states and cells as lstm_step gives them", 1e-5)
    sums = inputs[0][0] + inputs[1] @ inputs[3]
    gates = [sigmoid(sums[:, :3]), sigmoid(sums[:, 3:6]), tanh(sums[:, 6:9]), sigmoid(sums[:, 9:])]
    check(out[2:, 0], stack(gates).numpy(), "the gates i, f, n, o of the first step", 1e-5)
    ### BEGIN HIDDEN TESTS
    masked = lstm_sequence(*inputs, mask=HALF_MASK)
    check(masked[:2, 2, 1], masked[:2, 0, 1].numpy(), "a finished sequence keeps both states")
    check(masked[:2, 2, 0], out[:2, 2, 0].numpy(), "the other one goes on")
    check(
        lstm_sequence(*(x.data.astype(np.float64) for x in inputs)).dtype, np.float64, "dtype kept"
    )
    ### END HIDDEN TESTS


test_lstm_sequence()

# %% [markdown]
r"""
### Exercise: the way back through an LSTM

The same walk with two states, `by_h` and `by_c` being the gradients of $h_t$ and $c_t$:

1. `by_c` gets what goes through $h_t = o_t \tanh c_t$: add `by_h * o * (1 - bent**2)`, with `bent` $= \tanh c_t$.
2. The gates: n is $i$'s factor in $c_t$, so i gets `by_c * n`; likewise f gets `by_c` times the cell **before**, n gets `by_c * i`, and o gets `by_h * bent`. Stack the four with `_along`: (4, B, H). Add `g[2:, t]`: somebody may look at the gates, too.
3. Through the bends: a sigmoid $s$ has slope $(1 - s)\,s$, and $n$ has $1 - n^2 = (1 - n)(n + 1)$. So multiply by `1 - gates` and by `gates + is_new`.
4. Back to columns, (B, 4 H): swap, reshape, append to `found`. Then `later_h` as in the plain network, and `later_c` is `by_c * f`: here is the open road.

Given are the beginning and the end; write what happens in the loop after `bent`.
"""


# %% nbgrader={"grade": false, "grade_id": "lstm-rule", "solution": true}
#| export
def lstm_rule(g, out, projected, hidden, cell, weight_hh, mask=None, grad_clip=None):
    """Backpropagation through time: each step's gates, then the state and cell before it."""
    steps, batch, width = projected.shape
    is_new = np.array([0, 0, 1, 0], g.dtype).reshape(4, 1, 1)
    back = _row_slabs(weight_hh)
    later_h, later_c, found = 0, 0, []
    for t in reversed(range(steps)):
        i, f, n, o = (out[k, t] for k in range(2, 6))
        by_h, kept_h = _parted(_limited(g[0, t] + later_h, grad_clip), mask, t)
        by_c, kept_c = _parted(_limited(g[1, t] + later_c, grad_clip), mask, t)
        bent = tanh(out[1, t])
        ### BEGIN SOLUTION
        by_c = by_c + by_h * o * (1 - bent * bent)
        before = out[1, t - 1] if t else cell
        by_gates = _along([by_c * n, by_c * before, by_c * i, by_h * bent])
        gates = out[2:, t]
        by_gates += g[2:, t]
        by_gates *= 1 - gates  # the slope of a sigmoid s is (1 - s) s, that of n (1 - n) (n + 1)
        by_gates *= gates + is_new
        found.append(by_gates.swapaxes(0, 1).reshape((batch, width)))
        later_h = _times(found[-1], back) + kept_h
        later_c = by_c * f + kept_c
        ### END SOLUTION
    by_projected = _along(found[::-1])
    return by_projected, later_h, later_c, _by_weight(hidden, out[0], by_projected)


joint_vjp(lstm_sequence, lstm_rule)


# %% nbgrader={"grade": true, "grade_id": "test-lstm-rule", "locked": true, "points": 12, "solution": false}
def test_lstm_rule():
    inputs = random_inputs((3, 2, 8), (2, 2), (2, 2), (2, 8))
    check(
        passes(lambda *x: lstm_sequence(*x)[0], *inputs),
        True,
        "differences must agree, for the hidden states",
    )
    check(passes(lstm_sequence, *inputs), True, "and for cells and gates: did you add g[2:, t]?")
    ### BEGIN HIDDEN TESTS
    check(
        passes(lambda *x: lstm_sequence(*x, mask=HALF_MASK)[:2], *inputs),
        True,
        "a kept state passes its gradient on: did you add `kept`?",
    )
    check(passes(lstm_sequence, *inputs, order=2), True, "only operators and operations: order 2")
    ### END HIDDEN TESTS


test_lstm_rule()

# %% [markdown]
r"""
Now repeat the measurement from the beginning. The forget gate's bias decides how open the road is: a bias of 0 gives $f = 0.5$, one of 4 gives 0.98. **Predict** both first-step gradients after 40 steps.
"""


# %%
def lstm_states(projected, forget_bias):
    """The hidden states of an LSTM whose gates see nothing but this bias and the input."""
    bias = Tensor(np.repeat([0.0, forget_bias, 0.0, 0.0], size))
    start = zeros(1, size)
    return lstm_sequence(projected + bias, start, start, zeros(size, 4 * size))[0]


for forget_bias in (0.0, 4.0):
    states_of = partial(lstm_states, forget_bias=forget_bias)
    curves[f"LSTM, forget bias {forget_bias:.0f}"] = gradient_by_step(states_of, 4 * size)
for name, curve in curves.items():
    print(f"{name:22} first step / last step = {curve[0] / curve[-1]:.1e}")

# %%
if plt:
    for (name, curve), style in zip(curves.items(), ["-", "--", ":", "-.", "x-"], strict=True):
        plt.semilogy(curve, "k" + style, markersize=4, label=name)
    plt.title("What the last state still knows of each input")
    plt.xlabel("step of the input")
    plt.ylabel("length of the gradient")
    plt.legend(fontsize=8)
    plt.show()

# %% [markdown]
r"""
A new LSTM forgets as a plain network does; that its gates **can** learn to stay open makes the difference. People therefore often start the forget bias at 1 or more.

## The GRU: two gates, one state

Cho and others (2014) do with less: $z$ says how much of the old state stays, $r$ how much of it the new part may see.

$$r, z = \mathrm{sigmoid}(\dots) \qquad n = \tanh(p_n + r \, (h_{t-1} W_n + b_n)) \qquad h_t = n + z \, (h_{t-1} - n)$$

### Exercise: one step of a GRU

The columns of `projected` (B, 3 H) belong to r, z and n. `memory = linear(hidden, weight_hh, bias_hh)` has the same columns. r and z are sigmoids of the **sum** of both; in n the reset gate multiplies the memory's part alone (that is why this bias has to be kept apart). With all zeros, z is 0.5 and n is 0: a state of 2 becomes 1.
"""


# %% nbgrader={"grade": false, "grade_id": "gru-step", "solution": true}
#| export
def gru_step(projected, hidden, weight_hh, bias_hh=None):
    """One step of a gated recurrent unit (Cho et al. 2014, as cuDNN and PyTorch compute it).

    projected (B, 3 H) holds the reset, update and new parts side by side; `bias_hh` (3 H,) is
    added to hidden @ weight_hh, before the reset gate acts. Returns the new state (B, H).

    >>> gru_step(zeros(1, 3), Tensor([[2.0]]), zeros(1, 3))
    Tensor([[1.]])
    """
    ### BEGIN SOLUTION
    size = hidden.shape[-1]
    memory = linear(hidden, weight_hh, bias_hh)
    gates = sigmoid(projected[..., : 2 * size] + memory[..., : 2 * size])
    r, z = gates[..., :size], gates[..., size:]
    n = tanh(projected[..., 2 * size :] + r * memory[..., 2 * size :])
    return n + z * (hidden - n)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-gru-step", "locked": true, "points": 8, "solution": false}
def test_gru_step():
    z = Tensor([[logit(0.25), logit(0.9), 0.3]])
    got = gru_step(z, Tensor([[2.0]]), Tensor([[0.0, 0.0, 1.0]]))
    n = np.tanh(0.3 + 0.25 * 2.0)
    check(got, [[n + 0.9 * (2.0 - n)]], "n + z (hidden - n), with r inside n", 1e-5)
    ### BEGIN HIDDEN TESTS
    got = gru_step(zeros(1, 3), Tensor([[0.0]]), zeros(1, 3), Tensor([0.0, 0.0, 1.0]))
    check(got, [[0.5 * np.tanh(0.5)]], "the reset gate multiplies bias_hh, too", 1e-5)
    wide = gru_step(zeros(3, 6), zeros(3, 2), zeros(2, 6))
    check(wide.shape, (3, 2), "each part has H columns")
    ### END HIDDEN TESTS


test_gru_step()

# %% [markdown]
r"""
The sequence and its rule follow the same pattern once more; they are given. Compare the rule with yours: what does `by_memory` have that `by_projected` doesn't? (The last lines tell the profiler of module 14 how much a sequence computes.)
"""


# %% nbgrader={"grade": false, "grade_id": "gru-sequence", "locked": true, "solution": false}
#| export
@op
def gru_sequence(projected, hidden, weight_hh, bias_hh=None, mask=None, grad_clip=None):
    """`gru_step` for every step of a sequence: projected (T, B, 3 H) -> (5, T, B, H).

    The result holds the states, then r, z, n and what the reset gate multiplies, for the way back.

    >>> gru_sequence(zeros(5, 2, 9), zeros(2, 3), zeros(3, 9)).shape
    (5, 5, 2, 3)
    """
    (batch, size), steps = hidden.shape, len(projected)
    out = np.empty((5, steps, batch, size), projected.dtype)
    slabs = _column_slabs(weight_hh)
    bias = 0 if bias_hh is None else bias_hh
    for t in range(steps):
        memory = _times(hidden, slabs) + bias
        gates = sigmoid(projected[t, :, : 2 * size] + memory[:, : 2 * size])
        out[1:3, t] = gates.reshape(batch, 2, size).swapaxes(0, 1)
        out[4, t] = memory[:, 2 * size :]
        r, z, n, m = out[1:, t]
        np.tanh(projected[t, :, 2 * size :] + r * m, out=n)
        out[0, t] = n + z * (hidden - n)
        if mask is not None:
            np.copyto(out[0, t], hidden, where=~mask[t])
        hidden = out[0, t]
    return out


def gru_rule(g, out, projected, hidden, weight_hh, bias_hh=None, mask=None, grad_clip=None):
    """Backpropagation through time; the reset gate stands between `n` and the old state."""
    h, r, z, n, m = (out[k] for k in range(5))
    to_r, to_z, to_n = r * (1 - r), z * (1 - z), 1 - n * n
    back = _row_slabs(weight_hh)
    later, by_projected, by_memory = 0, [], []
    for t in reversed(range(len(h))):
        here, kept = _parted(_limited(g[0][t] + later, grad_clip), mask, t)
        by_n = (g[3][t] + here * (1 - z[t])) * to_n[t]
        by_r = (g[1][t] + by_n * m[t]) * to_r[t]
        before = h[t - 1] if t else hidden
        by_z = (g[2][t] + here * (before - n[t])) * to_z[t]
        by_projected.append(concatenate(by_r, by_z, by_n, axis=-1))
        by_memory.append(concatenate(by_r, by_z, g[4][t] + by_n * r[t], axis=-1))
        later = here * z[t] + _times(by_memory[-1], back) + kept
    by_memory = _along(by_memory[::-1])
    by_weight = _by_weight(hidden, h, by_memory)
    return _along(by_projected[::-1]), later, by_weight, rows(by_memory).sum(axis=0)


joint_vjp(gru_sequence, gru_rule)


def _sequence_flops(inputs: tuple, params: Mapping[str, Any], out: Any) -> int:
    """hidden @ weight_hh and an addition for each projected number, and one for each result."""
    projected, hidden = inputs[:2]
    return (2 * hidden.shape[-1] + 1) * projected.size + out.size


FLOPS.update(dict.fromkeys(("rnn_sequence", "lstm_sequence", "gru_sequence"), _sequence_flops))

# %%
inputs = random_inputs((3, 2, 6), (2, 2), (2, 6), (6,))
print("gradcheck:", passes(gru_sequence, *inputs))

# %% [markdown]
r"""
## Sequences of different lengths

A batch is one array, but its sequences end at different steps. So the short ones are filled up, and a mask says what is real.

### Exercise: the mask

`length_mask(lengths, steps)`: an array of bool, (steps, B), True where step t comes before `lengths[b]`. Compare a column of step numbers with a row of lengths. The check of the input is given.
"""


# %% nbgrader={"grade": false, "grade_id": "length-mask", "solution": true}
#| export
def length_mask(lengths: Sequence[int], steps: int) -> np.ndarray:
    """Which steps of each sequence are real: True in (steps, B) where t < lengths[b].

    Raises ValueError where a length is not a whole number from 1 to `steps`.

    >>> length_mask([1, 3], steps=3).astype(int)
    array([[1, 1],
           [0, 1],
           [0, 1]])
    """
    array = np.asarray(lengths)
    if array.ndim != 1 or not ((array >= 1) & (array <= steps) & (array == array // 1)).all():
        raise ValueError(f"lengths: expected whole numbers from 1 to {steps}, got {lengths}")
    ### BEGIN SOLUTION
    return np.arange(steps)[:, None] < array
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-length-mask", "locked": true, "points": 6, "solution": false}
def test_length_mask():
    got = length_mask([1, 3], steps=3)
    check(
        got, np.array([[True, True], [False, True], [False, True]]), "steps down, sequences across"
    )
    ### BEGIN HIDDEN TESTS
    check(length_mask([2, 2], 2).all().item(), True, "a full sequence has no False")
    check(length_mask([1, 1, 1], 4).sum(axis=0).tolist(), [1, 1, 1], "as many as the length says")
    ### END HIDDEN TESTS


test_length_mask()

# %% [markdown]
r"""
## Layers

What is left is housekeeping, and given: parameters (named as in PyTorch, so that its weights can be loaded), several layers on top of each other, a second direction that reads from the end, batches first or steps first. Read `_layers`: reading backwards is reading the flipped sequence.
"""

# %% nbgrader={"grade": false, "grade_id": "weights", "locked": true, "solution": false}
#| exporti
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _add_weights(module: Any, gates: int, suffix: str, input_size: int) -> None:
    """Give a module the parameters of one layer and direction, uniform in 1 / sqrt(H) around 0."""
    size = module.hidden_size
    bound = 1 / math.sqrt(size)
    shapes = [(input_size, gates * size), (size, gates * size), (gates * size,), (gates * size,)]
    for name, shape in zip(_WEIGHTS, shapes, strict=True):
        is_there = module.bias or len(shape) == 2
        setattr(module, name + suffix, bound * (2 * rand(*shape) - 1) if is_there else None)


def _project(x: Tensor, weight_ih: Tensor, *biases: Any) -> Tensor:
    """x @ weight_ih plus the biases, for all steps at once."""
    return linear(x, weight_ih, None if biases[0] is None else sum(biases[1:], biases[0]))


def _turned(x: Any, direction: str) -> Any:
    """The steps in the order in which a direction reads them."""
    return x[::-1] if direction and x is not None else x


# %% nbgrader={"grade": false, "grade_id": "recurrent", "locked": true, "solution": false}
#| exporti
class Recurrent(Module):
    """What RNN, GRU and LSTM share: layers, directions, shapes, lengths."""

    gates: int
    weight_hh_l0: Tensor
    state_names: tuple[str, ...] = ("h_0",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        grad_clip: float | None = None,
    ):
        name = type(self).__name__
        if min(input_size, hidden_size, num_layers) < 1:
            sizes = f"{input_size}, {hidden_size}, {num_layers}"
            raise ValueError(f"{name}: sizes and num_layers must be at least 1, got {sizes}")
        if grad_clip is not None and not grad_clip > 0:
            raise ValueError(f"{name}: grad_clip must be above 0, got {grad_clip}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout, self.grad_clip = Dropout(dropout).p, grad_clip
        self.directions = ("", "_reverse") if bidirectional else ("",)
        for layer in range(num_layers):
            for direction in self.directions:
                _add_weights(self, self.gates, f"_l{layer}{direction}", input_size)
            input_size = hidden_size * len(self.directions)

    def scan(
        self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Any], **options: Any
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """One layer in one direction: the hidden states of all steps, and the final states."""
        raise NotImplementedError(f"{type(self).__name__} needs a method scan")

    def _run(self, x: Tensor, given: Sequence[Tensor] | None, lengths: Sequence[int] | None) -> Any:
        """Outputs and final states, in the shapes of `x`: batched or not, batch first or not."""
        self._check(x, given)
        batched = x.ndim == 3
        if not batched:
            x = x.unsqueeze(1)
            given = None if given is None else [state.unsqueeze(1) for state in given]
        elif self.batch_first:
            x = x.swapaxes(0, 1)
        states = self._states(x, given)
        mask = None if lengths is None else self._mask(lengths, x)
        output, finals = self._layers(x, states, mask)
        if not batched:
            return output.squeeze(1), [state.squeeze(1) for state in finals]
        return output.swapaxes(0, 1) if self.batch_first else output, finals

    def _layers(self, x: Tensor, states: Sequence[Tensor], mask: np.ndarray | None) -> Any:
        """Every layer in every direction; `x` is (T, B, input_size)."""
        finals: list[Sequence[Tensor]] = []
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                x = Dropout(self.dropout)(x)
            outputs = []
            x = x if mask is None else where(mask, x, 0)  # nobody sees what stands in the padding
            for direction in self.directions:
                weights = [getattr(self, f"{name}_l{layer}{direction}") for name in _WEIGHTS]
                start = [state[len(finals)] for state in states]
                options = {"mask": _turned(mask, direction), "grad_clip": self.grad_clip}
                hidden, last = self.scan(_turned(x, direction), start, weights, **options)
                outputs.append(_turned(hidden, direction))
                finals.append(last)
            x = outputs[0] if len(outputs) == 1 else concat(outputs, axis=-1)
        x = x if mask is None else where(mask, x, 0)
        return x, [stack([last[k] for last in finals]) for k in range(len(states))]

    def _check(self, x: Tensor, given: Sequence[Tensor] | None) -> None:
        names = self.state_names
        if given is not None and (isinstance(given, Tensor) or len(given) != len(names)):
            wanted = f"{len(names)} states, {' and '.join(names)}"
            raise ValueError(f"{type(self).__name__}: expected {wanted}, got {given!r:.60}")
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            order = "(B, T, " if self.batch_first else "(T, B, "
            raise ValueError(
                f"{type(self).__name__}: expected x of shape {order}{self.input_size}) or "
                f"(T, {self.input_size}), got {x.shape}"
            )
        if x.shape[1 if self.batch_first and x.ndim == 3 else 0] == 0:
            raise ValueError(f"{type(self).__name__}: a sequence needs at least one step")

    def _states(self, x: Tensor, given: Sequence[Tensor] | None) -> Sequence[Tensor]:
        """The states to start from: zeros, or what the user gives, checked."""
        shape = (self.num_layers * len(self.directions), x.shape[1], self.hidden_size)
        if given is None:
            dtype = self.weight_hh_l0.dtype
            return [zeros(shape, dtype=dtype) for _ in self.state_names]
        for name, state in zip(self.state_names, given, strict=True):
            if state.shape != shape:
                raise ValueError(
                    f"{type(self).__name__}: expected {name} of {shape}, got {state.shape}"
                )
        return given

    def _mask(self, lengths: Sequence[int], x: Tensor) -> np.ndarray:
        steps, batch = x.shape[:2]
        mask = length_mask(lengths, steps)
        if mask.shape[1] != batch:
            raise ValueError(f"lengths: expected one for each of {batch} sequences, got {lengths}")
        return mask[:, :, None]

    def _extra_repr(self) -> str:
        shown: dict[str, Any] = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
        }
        shown |= {"bidirectional": False, "nonlinearity": "tanh", "grad_clip": None}
        options = [
            f"{name}={getattr(self, name)}"
            for name, default in shown.items()
            if getattr(self, name, default) != default
        ]
        return ", ".join([str(self.input_size), str(self.hidden_size), *options])


# %% nbgrader={"grade": false, "grade_id": "rnn", "locked": true, "solution": false}
#| export
class RNN(Recurrent):
    """Layers of h = tanh(x @ weight_ih + bias_ih + h @ weight_hh + bias_hh) (Elman 1990).

    forward(x, state=None, lengths=None): x (T, B, input_size), or (B, T, input_size) with
    `batch_first`, or (T, input_size) -> output (T, B, D H) of the last layer, final state
    (num_layers D, B, H), D being 2 if `bidirectional`. Beyond `lengths[b]` outputs are 0, and the
    final state is that of the last real step. `dropout` acts between layers, `grad_clip` on each
    state's gradient. Parameters have PyTorch's names and start, the weights are transposed:
    weight_ih_l0 (input_size, H), weight_hh_l0 (H, H), bias_ih_l0, bias_hh_l0 (H,), ...

    >>> output, state = RNN(3, 5, num_layers=2)(zeros(7, 4, 3))
    >>> output.shape, state.shape
    ((7, 4, 5), (2, 4, 5))
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        **options: Any,
    ):
        if nonlinearity not in _BENDS:
            raise ValueError(f"RNN: nonlinearity must be tanh or relu, got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, num_layers, **options)

    def scan(self, x, states, weights, **options):
        weight_ih, weight_hh, *biases = weights
        projected = _project(x, weight_ih, *biases)
        hidden = rnn_sequence(
            projected, *states, weight_hh, nonlinearity=self.nonlinearity, **options
        )
        return hidden, [hidden[-1]]

    def forward(
        self, x: Tensor, state: Tensor | None = None, lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        output, (last,) = self._run(x, None if state is None else [state], lengths)
        return output, last


# %% [markdown]
r"""
### Exercise: the LSTM as a layer

`scan` runs one layer in one direction. `RNN.scan` above shows how: project the input, run the sequence, return the hidden states of all steps and a list of final states. An LSTM has two states to start from (`*states`) and two final ones; `out[0]` and `out[1]` are all that anybody outside is shown.
<details><summary>Hint</summary>The final state is that of the last step, also where a sequence ended before: its state was kept.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "lstm", "solution": true}
#| export
class LSTM(Recurrent):
    """Layers of long short-term memory; options and shapes as of RNN.

    forward(x, states=None, lengths=None) -> output, (final hidden, final cell). The columns of
    the weights are the input, forget, new and output part: weight_ih_l0 (input_size, 4 H).

    >>> output, (hidden, cell) = LSTM(3, 5, bidirectional=True)(zeros(7, 4, 3))
    >>> output.shape, hidden.shape, cell.shape
    ((7, 4, 10), (2, 4, 5), (2, 4, 5))
    """

    gates = 4
    state_names = ("h_0", "c_0")

    def scan(self, x, states, weights, **options):
        ### BEGIN SOLUTION
        weight_ih, weight_hh, *biases = weights
        out = lstm_sequence(_project(x, weight_ih, *biases), *states, weight_hh, **options)
        hidden = out[0]
        return hidden, [hidden[-1], out[1, -1]]
        ### END SOLUTION

    def forward(
        self,
        x: Tensor,
        states: tuple[Tensor, Tensor] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, (hidden, cell) = self._run(x, states, lengths)
        return output, (hidden, cell)


# %% nbgrader={"grade": true, "grade_id": "test-lstm", "locked": true, "points": 10, "solution": false}
def test_lstm():
    manual_seed(0)
    layer = LSTM(3, 4)
    x = randn(5, 2, 3)
    output, (hidden, cell) = layer(x)
    projected = linear(x, layer.weight_ih_l0, layer.bias_ih_l0 + layer.bias_hh_l0)
    expected = lstm_unrolled(projected, zeros(2, 4), zeros(2, 4), layer.weight_hh_l0)
    check(output, expected[0], "the hidden states of all steps", 1e-5)
    check(hidden[0], expected[0, -1], "the final hidden state", 1e-5)
    check(cell[0], expected[1, -1], "the final cell", 1e-5)
    ### BEGIN HIDDEN TESTS
    again, _ = layer(x[2:], (output[1:2], Tensor(expected[1, 1:2])))
    check(again, output[2:].numpy(), "it goes on from the states that it is given", 1e-5)
    output, (hidden, cell) = LSTM(3, 4, num_layers=2, bidirectional=True)(x, lengths=[5, 2])
    check([t.shape for t in (output, hidden, cell)], [(5, 2, 8), (4, 2, 4), (4, 2, 4)], "shapes")
    check(output[1, 1, :4], hidden[2, 1].numpy(), "forwards, the last real step is the final state")
    check(output[0, 1, 4:], hidden[3, 1].numpy(), "backwards, it is the first step")
    output, (hidden, cell) = LSTM(3, 4, bias=False)(x)
    check(output.shape, (5, 2, 4), "without biases, too")
    ### END HIDDEN TESTS


test_lstm()


# %% nbgrader={"grade": false, "grade_id": "gru", "locked": true, "solution": false}
#| export
class GRU(Recurrent):
    """Layers of gated recurrent units; options and shapes as of RNN.

    The columns of the weights are the reset, update and new part: weight_ih_l0 (input_size, 3 H).

    >>> output, state = GRU(3, 5, batch_first=True)(zeros(4, 7, 3), lengths=[7, 2, 1, 7])
    >>> output.shape, state.shape
    ((4, 7, 5), (1, 4, 5))
    """

    gates = 3

    def scan(self, x, states, weights, **options):
        weight_ih, weight_hh, bias_ih, bias_hh = weights
        projected = _project(x, weight_ih, bias_ih)
        hidden = gru_sequence(projected, *states, weight_hh, bias_hh, **options)[0]
        return hidden, [hidden[-1]]

    def forward(
        self, x: Tensor, state: Tensor | None = None, lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        output, (last,) = self._run(x, None if state is None else [state], lengths)
        return output, last


# %% nbgrader={"grade": false, "grade_id": "cells", "locked": true, "solution": false}
#| export
class RNNCell(Module):
    """One step: forward(x, h=None), x (B, input_size) or (input_size,) -> the new state.

    Parameters weight_ih (input_size, H), weight_hh (H, H), bias_ih, bias_hh (H,).

    >>> RNNCell(3, 5)(zeros(2, 3)).shape
    (2, 5)
    """

    gates = 1
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh"
    ):
        if min(input_size, hidden_size) < 1 or nonlinearity not in _BENDS:
            asked = f"{input_size}, {hidden_size}, {nonlinearity!r}"
            raise ValueError(
                f"{type(self).__name__}: expected sizes of at least 1 and tanh or relu, got {asked}"
            )
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self.nonlinearity = nonlinearity
        _add_weights(self, self.gates, "", input_size)

    def start(self, x: Tensor, state: Tensor | None) -> Tensor:
        """The state to start from: zeros (..., H) where none is given."""
        shape = (*x.shape[:-1], self.hidden_size)
        return zeros(shape, dtype=self.weight_hh.dtype) if state is None else state

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        projected = _project(x, self.weight_ih, self.bias_ih, self.bias_hh)
        return rnn_step(projected, self.start(x, h), self.weight_hh, self.nonlinearity)

    def _extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class GRUCell(RNNCell):
    """One step of a GRU: forward(x, h=None) -> the new state. weight_ih (input_size, 3 H), ...

    >>> GRUCell(3, 5)(zeros(2, 3)).shape
    (2, 5)
    """

    gates = 3

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True):
        super().__init__(input_size, hidden_size, bias)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        projected = _project(x, self.weight_ih, self.bias_ih)
        return gru_step(projected, self.start(x, h), self.weight_hh, self.bias_hh)


class LSTMCell(RNNCell):
    """One step of an LSTM: forward(x, (h, c)=None) -> (h, c). weight_ih (input_size, 4 H), ...

    >>> h, c = LSTMCell(3, 5)(zeros(2, 3))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    gates = 4

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True):
        super().__init__(input_size, hidden_size, bias)

    def forward(  # type: ignore[override]
        self, x: Tensor, states: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        h, c = (None, None) if states is None else states
        projected = _project(x, self.weight_ih, self.bias_ih, self.bias_hh)
        return lstm_step(projected, self.start(x, h), self.start(x, c), self.weight_hh)


# %% [markdown]
r"""
## Put together: reading digits row by row

A digit of 8x8 pixels as a sequence of eight rows: each network sees one row at a time, and after the last it says which digit it was. Averaging the rows is the network without order from the beginning. **Predict** its accuracy, and that of the others.
"""

# %%
train, test = Digits(), Digits(train=False)


class RowReader(Module):
    """Reads (N, 1, 8, 8) row by row; a Linear looks at the final state."""

    def __init__(self, kind, size=32):
        manual_seed(0)
        self.reader, self.head = kind(8, size, batch_first=True), Linear(size, 10)

    def forward(self, x, lengths=None):
        _, last = self.reader(x.reshape(-1, 8, 8), lengths=lengths)
        return self.head((last[0] if isinstance(last, tuple) else last)[0])


class Averager(Module):
    """The same without order: rows, bent one by one, averaged."""

    def __init__(self, size=32):
        manual_seed(0)
        self.reader, self.head = Linear(8, size), Linear(size, 10)

    def forward(self, x):
        return self.head(self.reader(x.reshape(-1, 8, 8)).tanh().mean(axis=1))


# %%
def trained(model, epochs=12):
    """The model, after some epochs of Adam with clipping; its accuracy on unseen digits."""
    trainer = Trainer(
        model, Adam(model.parameters(), lr=0.01), CrossEntropyLoss(), grad_clip_norm=1.0
    )
    trainer.fit(DataLoader(train, batch_size=50, shuffle=True, seed=0), epochs)
    return model, accuracy(model)


def accuracy(model, **options):
    with no_grad():
        guesses = model(test.images, **options).numpy().argmax(axis=1)
    return float((guesses == test.labels.numpy()).mean())


_, blind = trained(Averager())
print(f"rows averaged: {blind:.3f}")
readers = {}
for kind in (RNN, GRU, LSTM):
    readers[kind.__name__], score = trained(RowReader(kind))
    print(f"{kind.__name__:13}: {score:.3f}")

# %% [markdown]
r"""
A recurrent network can be asked at any time what it thinks. After how many rows does it know? `lengths` lets it stop early. (It was never trained to answer early, so don't expect much of its first guesses.)
"""

# %%
share = [accuracy(readers["LSTM"], lengths=[rows_seen] * len(test)) for rows_seen in range(1, 9)]
print("accuracy after 1 to 8 rows:", " ".join(f"{x:.2f}" for x in share))
if plt:
    plt.plot(range(1, 9), share, "ko-")
    plt.title("An LSTM asked before it has seen all")
    plt.xlabel("rows seen")
    plt.ylabel("accuracy on unseen digits")
    plt.show()

# %% [markdown]
r"""
## Systems: what a sequence costs

Step t can't begin before step t - 1 has ended: that is the price of a state. **Predict**: one large product of (T B) rows against T small ones of B rows; how much of the machine's speed is lost? And how many bytes does an LSTM remember for the way back?
"""

# %%
steps, batch, size = 50, 16, 256
weight = np.ones((size, 4 * size), np.float32)
together, apart = np.ones((steps * batch, size), np.float32), np.ones((batch, size), np.float32)
flops = 2 * steps * batch * size * 4 * size
one = seconds(lambda: together @ weight, 10)
many = seconds(lambda: [apart @ weight for _ in range(steps)], 10)
slabs = _column_slabs(weight)
thin = seconds(lambda: [_times(apart, slabs) for _ in range(steps)], 10)
for name, took in (("one product", one), (f"{steps} products", many), (f"{steps}, in slabs", thin)):
    print(f"{name:17} {1e3 * took:5.1f} ms, {flops / took / 1e9:4.0f} GFLOP/s")

# %%
for steps in (50, 100, 200):
    projected = zeros(steps, 16, 1024)
    start = zeros(16, 256)
    run = partial(lstm_sequence, projected, start, start, zeros(256, 1024))
    print(f"T = {steps:3}: {1e3 * seconds(run):5.1f} ms forward, {run().nbytes / 1e6:.1f} MB kept")

# %% [markdown]
r"""
Time and memory grow with T, no faster. PyTorch's `torch.nn.LSTM` hands the whole sequence to one kernel of oneDNN or cuDNN, for the same reason as ours is one operation. For very long sequences nobody walks all the way back: the sequence is cut into pieces, and the state goes from piece to piece as `state.detach()` (truncated backpropagation).

## Questions

Write your answers with numbers.

**1.** How many parameters has `LSTM(128, 256)`, with both biases? How many has `GRU(128, 256)`?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-parameters", "points": 4, "solution": true}
r"""
LSTM: $4 \cdot 256$ columns times $128 + 256 + 2$ rows is 395,264. The GRU has three parts in place of four: 296,448.
"""

# %% [markdown]
r"""
**2.** A forget gate stays at 0.9. After how many steps is less than 1 % of a cell's gradient left? And at 0.99?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-forget", "points": 3, "solution": true}
r"""
$0.9^k < 0.01$ from $k = \ln 0.01 / \ln 0.9 = 43.7$, so after 44 steps; with 0.99 after $458.2$, so 459.
"""

# %% [markdown]
r"""
**3.** How many bytes does `lstm_sequence` return for T = 50, B = 16, H = 256 in float32? What would it be if the way back computed the gates again?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-bytes", "points": 3, "solution": true}
r"""
Six parts of $50 \cdot 16 \cdot 256$ numbers of 4 bytes are 4,915,200 bytes. Hidden states and cells alone are a third of that, 1,638,400, for one more product and one more round of bends on the way back.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "solution": false}
def test_module():
    """Everything that this module built, once more."""
    test_rnn_step()
    test_unroll()
    test_rnn_sequence()
    test_limited()
    test_rnn_rule()
    test_lstm_step()
    test_lstm_sequence()
    test_lstm_rule()
    test_gru_step()
    test_length_mask()
    test_lstm()
    check(accuracy(readers["LSTM"]) > max(0.9, blind), True, "an LSTM reads digits row by row")
    print("module 21: all checks pass")


test_module()

# %% [markdown]
r"""
## What works now

- `RNN`, `GRU` and `LSTM`: layers, both directions, batches first or last, sequences of different lengths; and their cells for a single step.
- The whole walk through time is one operation with a rule of any order.
- You measured why a plain network forgets, and what gates do about it.
- Explosions are stopped: for the whole gradient, or at each step.
- It unlocks text and time series, and explains what attention was invented for: a path from any step to any other that isn't T steps long.
"""

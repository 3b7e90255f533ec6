# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.training

# %% [markdown]
r"""
# Training

> The loop that turns batches into a trained model, and can be stopped and taken up again.

**Built before:** layers, losses, gradients, and optimizers that turn gradients into steps.
**Built here:** `Trainer`, which runs the loop, measures, stops early, and saves a checkpoint from which a run goes on as if it had never been interrupted.
**Time:** 4 hours. **Points:** 91 for code, 9 for the questions at the end.
"""

# %%
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import json
import math
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Module
from tinytorch.core.optimizers import Optimizer, clip_grad_norm
from tinytorch.core.tensor import Tensor, generator

# %%
import tempfile
import time
from unittest import mock

import tinytorch
from tinytorch.core import tensor
from tinytorch.core.activations import ReLU
from tinytorch.core.layers import Dropout, Linear, Sequential
from tinytorch.core.losses import CrossEntropyLoss, MSELoss
from tinytorch.core.optimizers import SGD, Adam, CosineSchedule, WarmupSchedule
from tinytorch.core.tensor import manual_seed

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the lesson works without pictures

# %% [markdown]
r"""
## Five lines that everybody gets wrong once

The data are 1,797 digits of 8 by 8 pixels: 1,437 to learn from, 360 to be asked about.
"""

# %%
digits = np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz")
order = np.random.default_rng(0).permutation(1797)
images = Tensor(digits["images"].reshape(-1, 64)[order] / 16)
labels = Tensor(digits["labels"][order], dtype=np.int64)
known, asked = slice(0, 1437), slice(1437, None)


def new_model(p: float = 0.0) -> Sequential:
    return Sequential(Linear(64, 64), ReLU(), Dropout(p), Linear(64, 10))


# %% [markdown]
r"""
A training loop is five lines: forward, loss, backward, step, and one more. Here it is, once with that one and once without. **Predict:** will the loop without `zero_grad` crash? Will it learn nothing? Write it down, then run.
"""


# %%
def loop_by_hand(forget: bool) -> list[float]:
    manual_seed(0)
    model, loss_fn, losses = new_model(), CrossEntropyLoss(), []
    optimizer = SGD(model.parameters(), lr=0.3)
    for _ in range(4):
        for start in range(0, 1437, 64):
            rows = slice(start, min(start + 64, 1437))
            if not forget:
                optimizer.zero_grad()
            loss = loss_fn(model(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    return losses


for forget in (False, True):
    losses = loop_by_hand(forget)
    print("without zero_grad:" if forget else "with zero_grad:   ", np.round(losses, 3))

# %% [markdown]
r"""
No error, and numbers that look like a bad learning rate. Every gradient was added to all those before it. There are more mistakes of this kind: to average over batches of different size, to evaluate with dropout on, to keep the graph of every loss for a report, to schedule by epoch where steps are meant. None of them raises anything.

So the loop is written once, carefully, and tested. You write it in pieces, from the inside out.

## Two numbers worth watching

The loss is what the optimizer sees. You would rather know how many answers are right: the **accuracy**, a *metric*. It has no useful gradient (it stays the same under small steps), so it is only measured.

**Exercise 1 (5 points).** Write `accuracy(output, target)`: the share of rows in which the largest output stands at the number of the right class, as a Python float. Outputs are `(N, C)` with targets `(N,)`, or `(N, C, ...)` with `(N, ...)`: the classes are axis 1, as the losses have it. Shapes that don't fit raise a `ValueError` (NumPy would broadcast, and give a number). For example, outputs `[[0.1, 0.9], [0.8, 0.2]]` with targets `[1, 1]` give 0.5.
"""


# %% nbgrader={"grade": false, "grade_id": "accuracy", "locked": false, "solution": true}
#| export
def accuracy(output: Tensor, target: Tensor) -> float:
    """The share of rows whose largest output is that of the right class.

    output (N, C) or (N, C, ...), target (N) or (N, ...): numbers of classes. Raises ValueError for
    other shapes.

    >>> accuracy(Tensor([[0.1, 0.9], [0.8, 0.2]]), Tensor([1, 1]))
    0.5
    """
    ### BEGIN SOLUTION
    scores, labels = np.asarray(output), np.asarray(target)
    if scores.ndim < 2 or labels.shape != (scores.shape[0], *scores.shape[2:]):
        raise ValueError(f"accuracy: outputs {scores.shape} don't fit class numbers {labels.shape}")
    return float(np.mean(scores.argmax(axis=1) == labels))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-accuracy", "locked": true, "points": 5, "solution": false}
def test_accuracy():
    check(accuracy(Tensor([[0.1, 0.9], [0.8, 0.2]]), Tensor([1, 1])), 0.5, "one of two is right")
    with check_raises(ValueError, "accuracy", "(2, 2) == (2, 1) would broadcast to four answers"):
        accuracy(Tensor([[0.1, 0.9], [0.8, 0.2]]), Tensor([[1], [1]]))
    ### BEGIN HIDDEN TESTS
    text = Tensor([[[9, 0], [0, 5], [1, 0]]])  # one text, 3 classes, 2 places
    check(accuracy(text, Tensor([[0, 2]])), 0.5, "classes are axis 1, also of three axes")
    check(accuracy(Tensor([[3.0, 1.0, 2.0]]), Tensor([0])), 1.0, "the place of the largest")
    ### END HIDDEN TESTS


test_accuracy()


# %% [markdown]
r"""
An epoch has many batches, and the last one is smaller. **Predict:** 30 samples with the mean loss 1, then 10 with the mean loss 4. What is the mean over all 40? It is not 2.5.

**Exercise 2 (6 points).** Complete `Means`: `add` takes the averages of a batch by name, and how many samples it had; `result` gives the averages over all samples so far, a dict. Names may come at any time.
"""


# %% nbgrader={"grade": false, "grade_id": "means", "locked": false, "solution": true}
#| exporti
class Means:
    """Averages over samples, of values that are averages over batches.

    >>> means = Means()
    >>> means.add({"loss": 1.0}, samples=30)
    >>> means.add({"loss": 4.0}, samples=10)
    >>> means.result()
    {'loss': 1.75}
    """

    def __init__(self, sums: Mapping[str, float] | None = None, samples: int = 0):
        self.sums = dict(sums or {})
        self.samples = samples

    def add(self, values: Mapping[str, float], samples: int) -> None:
        ### BEGIN SOLUTION
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples
        self.samples += samples
        ### END SOLUTION

    def result(self) -> dict[str, float]:
        ### BEGIN SOLUTION
        return {name: total / self.samples for name, total in self.sums.items()}
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-means", "locked": true, "points": 6, "solution": false}
def test_means():
    means = Means()
    means.add({"loss": 1.0, "accuracy": 0.5}, samples=30)
    means.add({"loss": 4.0, "accuracy": 1.0}, samples=10)
    check(means.result(), {"loss": 1.75, "accuracy": 0.625}, "(30 * 1 + 10 * 4) / 40")
    ### BEGIN HIDDEN TESTS
    check(means.samples, 40, "count the samples, not the batches")
    check(Means({"loss": 6.0}, 3).result(), {"loss": 2.0}, "it may begin with sums")
    check(Means().sums, {}, "a new one begins with nothing")
    ### END HIDDEN TESTS


test_means()


# %% [markdown]
r"""
## The trainer

The class is given, and it is a table of contents again: what a trainer holds, and which functions do the work. Three counters say where it is: `epoch` (complete ones), `batch` (complete ones of the epoch that runs) and `step` (all updates).
"""


# %% nbgrader={"grade": false, "grade_id": "trainer", "locked": true, "solution": false}
#| export
class Trainer:
    """A model, the optimizer of its parameters and a loss, and the loop over them.

    A loader is anything that gives pairs (inputs, targets) again and again. `scheduler(step)` is
    the learning rate of update `step`; `grad_clip_norm` limits the length of the gradient.
    `history` holds lists with one value for each epoch: "train_loss", "lr", "validation_loss" and
    "train_..." and "validation_..." of every metric. `epoch` counts complete epochs, `batch` the
    complete batches of the next one, `step` all updates.

    >>> from tinytorch.core.layers import Linear
    >>> from tinytorch.core.losses import MSELoss
    >>> from tinytorch.core.optimizers import SGD
    >>> model = Linear(1, 1)
    >>> trainer = Trainer(model, SGD(model.parameters(), lr=0.1), MSELoss())
    >>> x = Tensor([[0.0], [1.0], [2.0]])
    >>> history = trainer.fit([(x, 2 * x)], epochs=5, progress=False)
    >>> len(history["train_loss"]), trainer.step
    (5, 5)
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        scheduler: Callable[[int], float] | None = None,
        grad_clip_norm: float | None = None,
    ):
        if grad_clip_norm is not None and not grad_clip_norm > 0:
            raise ValueError(f"Trainer: grad_clip_norm must be above 0, got {grad_clip_norm}")
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self.scheduler, self.grad_clip_norm = scheduler, grad_clip_norm
        self.history: dict[str, list[float]] = {}
        self.epoch = self.batch = self.step = 0
        self.stop = False  # a callback sets it to end `fit` after this epoch
        self._means = Means()  # of the batches of this epoch
        self._loader: Any = None  # the one that was trained on last
        self._epoch_start = generator.bit_generator.state
        self._resume: dict[str, Any] | None = None  # where to go on after an interruption

    def train_epoch(
        self,
        loader: Iterable[Any],
        metrics: Iterable[Metric] | Mapping[str, Metric] = (),
        callbacks: Sequence[Callable | Callback] = (),
        accumulate: int = 1,
        progress: bool = True,
    ) -> dict[str, float]:
        """One pass over the loader (the rest of one that was interrupted): the averages.

        `accumulate` batches make one update, as if they were one large batch.
        """
        with progress_bar(self, loader, self.epoch + 1, progress) as bar:
            return train_epoch(self, loader, named(metrics), callbacks, accumulate, bar)

    def evaluate(
        self, loader: Iterable[Any], metrics: Iterable[Metric] | Mapping[str, Metric] = ()
    ) -> dict[str, float]:
        """The averages of the loss and the metrics, in eval mode, without gradients."""
        return evaluate(self, loader, named(metrics))

    def fit(
        self,
        loader: Iterable[Any],
        epochs: int,
        validation: Iterable[Any] | None = None,
        callbacks: Sequence[Callable | Callback] = (),
        metrics: Iterable[Metric] | Mapping[str, Metric] = (),
        patience: int | None = None,
        accumulate: int = 1,
        progress: bool = True,
    ) -> dict[str, list[float]]:
        """Train until `epochs` epochs are complete, counted from the very first; the history.

        With `patience`, stop after so many epochs without a better validation loss (training loss
        where there is no validation).
        """
        options = (callbacks, named(metrics), patience, accumulate, progress)
        return fit(self, loader, epochs, validation, *options)

    def save_checkpoint(self, path: str | os.PathLike) -> None:
        """Write all that is needed to go on, into one file, in one step."""
        save_checkpoint(self, Path(path))

    def load_checkpoint(self, path: str | os.PathLike) -> None:
        """Go back to a checkpoint; the next `fit` goes on as if nothing had happened.

        Raises ValueError for a file that is damaged, no checkpoint or one of another model, and
        leaves everything as it was.
        """
        load_checkpoint(self, Path(path))


# %% [markdown]
r"""
What else should happen while a model trains is nobody's business but yours: save it, draw a plot, write a line to a file. A **callback** is called at the right moments. Two are given: the empty one, to override, and one that saves.
"""


# %% nbgrader={"grade": false, "grade_id": "callback", "locked": true, "solution": false}
#| export
class Callback:
    """What is to happen beside the training. (A plain function serves as `on_epoch`.)"""

    def on_step(self, trainer: Trainer) -> None:
        """After each update of the parameters."""

    def on_epoch(self, trainer: Trainer) -> None:
        """After each epoch and its validation."""


class Checkpoint(Callback):
    """Save a checkpoint to `path` after each epoch, and after every `every` steps."""

    def __init__(self, path: str | os.PathLike, every: int | None = None):
        self.path, self.every = path, every

    def on_step(self, trainer: Trainer) -> None:
        if self.every and trainer.step % self.every == 0:
            trainer.save_checkpoint(self.path)

    def on_epoch(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)


# %% nbgrader={"grade": false, "grade_id": "named", "locked": true, "solution": false}
#| exporti
Metric = Callable[[Tensor, Tensor], float]  # metric(output, target), an average over the batch


def named(metrics: Iterable[Metric] | Mapping[str, Metric]) -> dict[str, Metric]:
    """Metrics by name; a function's own name, where it was given without one."""
    if isinstance(metrics, Mapping):
        return dict(metrics)
    metrics = [metrics] if callable(metrics) else metrics
    return {getattr(m, "__name__", type(m).__name__): m for m in metrics}


@contextmanager
def progress_bar(trainer: Trainer, loader: Any, epochs: int, progress: bool) -> Iterator[tqdm]:
    """A bar for the epoch that begins; nothing is shown if not `progress`, or by TQDM_DISABLE."""
    options: dict[str, Any] = {} if progress else {"disable": True}
    total = len(loader) if hasattr(loader, "__len__") else None
    title = f"epoch {trainer.epoch + 1}/{epochs}"
    with tqdm(desc=title, total=total, initial=trainer.batch, unit="batch", **options) as bar:
        yield bar


def show(bar: tqdm, values: Mapping[str, float]) -> None:
    """Put values behind the bar; it shows them when it is drawn next."""
    text = ", ".join(f"{name}={value:.4g}" for name, value in values.items())
    bar.set_postfix_str(text, refresh=False)


# %% [markdown]
r"""
For the tests, the smallest possible model: $y = w x$ with $w = 0$ at first, and the squared error. Every number can be worked out by hand. For $x = 2$ and the target 6, the loss is $(2w - 6)^2 = 36$ and its slope $4 (2w - 6) = -24$. With the learning rate 1/8, one step leads to $w = 3$: solved.
"""


# %% nbgrader={"grade": false, "grade_id": "slope-trainer", "locked": true, "solution": false}
def slope_trainer(**options) -> Trainer:
    """A trainer of y = w x, from w = 0, with the learning rate 1/8."""
    model = Linear(1, 1, bias=False)
    model.load_state_dict({"weight": [[0.0]]})
    return Trainer(model, SGD(model.parameters(), lr=0.125), MSELoss(), **options)


def column(*numbers: float) -> Tensor:
    return Tensor([[number] for number in numbers])


# %% [markdown]
r"""
**Exercise 3 (8 points).** Write `backward_batch`. A batch is a pair (inputs, targets). Call the model, then the loss; put `loss.item()` under "loss" into a dict. If it isn't finite, raise a `FloatingPointError` that says at which `step`, `epoch` and `batch`, and what to try: a NaN that gets into the weights is never seen again as a number. Then go backward from `share` times the loss (you will need shares soon). Metrics are called with (output, targets), under `no_grad()`, and join the dict.

With the trainer above and the batch `(column(2), column(6))`, it returns `{"loss": 36.0}` and leaves the gradient -24 in the weight; with `share=0.5`, the gradient -12.
"""


# %% nbgrader={"grade": false, "grade_id": "backward-batch", "locked": false, "solution": true}
#| exporti
def backward_batch(
    trainer: Trainer, batch: Any, metrics: Mapping[str, Metric], share: float
) -> dict[str, float]:
    """Forward and backward of one batch: add `share` times its gradient, give loss and metrics.

    Raises FloatingPointError where the loss is NaN or infinite, before any gradient is computed.
    """
    ### BEGIN SOLUTION
    inputs, targets = batch
    output = trainer.model(inputs)
    loss = trainer.loss_fn(output, targets)
    values = {"loss": loss.item()}
    if not math.isfinite(values["loss"]):
        raise FloatingPointError(
            f"step {trainer.step} (epoch {trainer.epoch}, batch {trainer.batch}): the loss is "
            f"{values['loss']}: lower the learning rate, set grad_clip_norm, or look at the data"
        )
    (loss if share == 1 else loss * share).backward()
    if metrics:
        with no_grad():
            values |= {name: float(metric(output, targets)) for name, metric in metrics.items()}
    return values
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-backward-batch", "locked": true, "points": 8, "solution": false}
def test_backward_batch():
    trainer, batch = slope_trainer(), (column(2), column(6))
    weight = trainer.model.weight
    check(backward_batch(trainer, batch, {}, 1.0), {"loss": 36.0}, "(0 * 2 - 6)^2")
    check(weight.grad, [[-24.0]], "the slope of the loss")
    backward_batch(trainer, batch, {}, 0.5)
    check(weight.grad, [[-36.0]], "half of the gradient was added to what was there")
    bad = (column(math.nan), column(6))
    with check_raises(FloatingPointError, "step 0", "a NaN must stop the training and say where"):
        backward_batch(trainer, bad, {}, 1.0)
    check(weight.grad, [[-36.0]], "and no gradient is computed from it")
    ### BEGIN HIDDEN TESTS
    metrics = {"mean": lambda output, target: target.mean() - output.mean()}
    values = backward_batch(trainer, batch, metrics, 0.5)
    check(values, {"loss": 36.0, "mean": 6.0}, "the loss isn't scaled; metrics become floats")
    recorded = []
    backward_batch(trainer, batch, {"x": lambda o, t: recorded.append((o + 1).is_leaf) or 0}, 1.0)
    check(recorded, [True], "metrics record nothing")
    with np.errstate(over="ignore"), check_raises(FloatingPointError, "inf", "infinity, too"):
        backward_batch(trainer, (column(1), column(1e30)), {}, 1.0)
    ### END HIDDEN TESTS


test_backward_batch()


# %% [markdown]
r"""
**Exercise 4 (8 points).** Write `update`: what happens once all gradients are there. In this order: clip them, if `grad_clip_norm` isn't None (`clip_grad_norm` takes all parameters of all `optimizer.param_groups`, each a dict with "params"); set `optimizer.lr` to what the scheduler gives for the present `trainer.step`, if there is a scheduler; let the optimizer step; count the step.
"""


# %% nbgrader={"grade": false, "grade_id": "update", "locked": false, "solution": true}
#| exporti
def update(trainer: Trainer) -> None:
    """One step of the optimizer, with the gradient clipped and the learning rate of this step."""
    ### BEGIN SOLUTION
    optimizer = trainer.optimizer
    if trainer.grad_clip_norm is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        clip_grad_norm(parameters, trainer.grad_clip_norm)
    if trainer.scheduler is not None:
        optimizer.lr = trainer.scheduler(trainer.step)
    optimizer.step()
    trainer.step += 1
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-update", "locked": true, "points": 8, "solution": false}
def test_update():
    trainer = slope_trainer(scheduler=lambda step: [0.5, 0.25][step], grad_clip_norm=3.0)
    weight = trainer.model.weight
    weight.grad = Tensor([[30.0]])
    update(trainer)
    check(weight, [[-1.5]], "the gradient 30 is clipped to 3, and the first rate is 0.5", 1e-5)
    weight.grad = Tensor([[1.0]])
    update(trainer)
    check(weight, [[-1.75]], "the second rate is 0.25, and 1 needs no clipping", 1e-5)
    check(trainer.step, 2, "each update is counted")
    ### BEGIN HIDDEN TESTS
    plain = slope_trainer()
    plain.model.weight.grad = Tensor([[30.0]])
    update(plain)
    check(plain.model.weight, [[-3.75]], "without schedule and clipping: 30 / 8")
    ### END HIDDEN TESTS


test_update()


# %% [markdown]
r"""
## One update from several batches

A batch of 256 may not fit into memory where four of 64 do. Gradients add up by themselves, so four backward passes and one step should do the same. Should: the loss of a batch is a *mean* over its samples, and the sum of four means is four times too large. And the last batch may be smaller.

$$\frac{1}{N} \sum_{i=1}^{N} \ell_i = \sum_{\text{batches } b} \frac{n_b}{N} \cdot \Big( \frac{1}{n_b} \sum_{i \in b} \ell_i \Big) \qquad N = \sum_b n_b$$

Each batch counts by its **share** $n_b / N$.

**Exercise 5 (8 points).** Write `train_step(trainer, batches, metrics)`. Forget the old gradients; call `backward_batch` for each batch with its share (`len(targets)` is $n_b$); `update`. After that, and not before, so that an interrupted step leaves no trace: add each batch's values to `trainer._means`, with its number of samples, and count the batches in `trainer.batch`.

Three samples (1, target 0) and one sample (1, target 4): the losses are 0 and 16, the mean over four is 4, the slope of that is $\frac14 \cdot 2 \cdot (0 - 4) = -2$, and $w$ becomes 0.25.
"""


# %% nbgrader={"grade": false, "grade_id": "train-step", "locked": false, "solution": true}
#| exporti
def train_step(trainer: Trainer, batches: list[Any], metrics: Mapping[str, Metric]) -> None:
    """One update from the batches together: the gradient of the mean over all their samples."""
    ### BEGIN SOLUTION
    trainer.optimizer.zero_grad()
    sizes = [len(targets) for _, targets in batches]
    values = [
        backward_batch(trainer, batch, metrics, size / sum(sizes))
        for batch, size in zip(batches, sizes, strict=True)
    ]
    update(trainer)
    for value, size in zip(values, sizes, strict=True):
        trainer._means.add(value, size)
    trainer.batch += len(batches)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-train-step", "locked": true, "points": 8, "solution": false}
def test_train_step():
    trainer = slope_trainer()
    trainer.model.weight.grad = Tensor([[100.0]])  # left over from something else
    train_step(trainer, [(column(1, 1, 1), column(0, 0, 0)), (column(1), column(4))], {})
    check(trainer.model.weight, [[0.25]], "w = 0 + 2 / 8: shares 3/4 and 1/4, nothing left over")
    check(trainer._means.result(), {"loss": 4.0}, "(3 * 0 + 1 * 16) / 4")
    check((trainer.step, trainer.batch), (1, 2), "one step, two batches")
    ### BEGIN HIDDEN TESTS
    with check_raises(FloatingPointError, "nan", "the second batch is no number"):
        train_step(trainer, [(column(1), column(0)), (column(math.nan), column(0))], {})
    check((trainer.step, trainer.batch), (1, 2), "a step that failed is not counted")
    check(trainer._means.samples, 4, "nor are its batches")
    check(trainer.model.weight, [[0.25]], "and the model is as it was")
    ### END HIDDEN TESTS


test_train_step()


# %% [markdown]
r"""
## An epoch

Two functions are given here. `batches_to_come(trainer, loader)` is `iter(loader)` with a bookmark: it can begin in the middle of an epoch. `here(trainer)` writes the bookmark. Run the cell for now; you will need to understand it when the power fails, further down.
"""


# %% nbgrader={"grade": false, "grade_id": "place", "locked": true, "solution": false}
#| exporti
def here(trainer: Trainer) -> dict[str, Any]:
    """All that decides how the epoch goes on: the random numbers, and how far the loader is."""
    loader = trainer._loader
    return {
        "epoch_start": trainer._epoch_start,
        "generator": generator.bit_generator.state,
        "loader": loader.state_dict() if hasattr(loader, "state_dict") else None,
    }


def batches_to_come(trainer: Trainer, loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of this epoch that are still to come.

    A loader that can say how far it has come (state_dict, load_state_dict) goes on from there. In
    another, which may draw its order from our generator, the batches that are done are skipped.
    """
    resume, trainer._loader = trainer._resume, loader
    seeks = hasattr(loader, "load_state_dict")
    if resume:
        if seeks and resume["loader"] is not None:
            loader.load_state_dict(resume["loader"])  # type: ignore[attr-defined]
        state = resume["epoch_start"] if trainer.batch else resume["generator"]
        generator.bit_generator.state = state
    if trainer.batch == 0:
        trainer._epoch_start = generator.bit_generator.state
    batches = iter(loader)
    if not seeks and len(list(islice(batches, trainer.batch))) < trainer.batch:
        raise ValueError(f"train_epoch: batch {trainer.batch} was next, but the loader has fewer")
    if resume:
        generator.bit_generator.state = resume["generator"]
    trainer._resume = None
    return batches


# %% nbgrader={"grade": false, "grade_id": "end-epoch", "locked": true, "solution": false}
#| exporti
def end_epoch(trainer: Trainer) -> dict[str, float]:
    """Count the epoch and write its averages down."""
    if trainer.batch == 0:
        raise ValueError("train_epoch: the loader gave no batches")
    values = trainer._means.result()
    trainer.epoch, trainer.batch, trainer._means = trainer.epoch + 1, 0, Means()
    write_down(trainer, "train", values)
    trainer.history.setdefault("lr", []).append(trainer.optimizer.lr)
    return values


def write_down(trainer: Trainer, part: str, values: Mapping[str, float]) -> None:
    """Add an epoch's values to the history: "train_loss", "validation_accuracy", ..."""
    for name, value in values.items():
        trainer.history.setdefault(f"{part}_{name}", []).append(value)


# %% [markdown]
r"""
**Exercise 6 (8 points).** Write the loop in `train_epoch`. As long as there are batches, take `accumulate` of them (the last group may be smaller) and make a step. After each step set `place = here(trainer)`, tell the bar (`bar.update(number of batches)`, `show(bar, trainer._means.result())`) and call `on_step(trainer)` of those callbacks that are a `Callback`; plain functions are called at the end of an epoch, and not by you.

<details><summary>Hint</summary>

`list(islice(batches, accumulate))` takes the next few, and is empty, thus false, when there are no more.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "train-epoch", "locked": false, "solution": true}
#| exporti
def train_epoch(
    trainer: Trainer,
    loader: Iterable[Any],
    metrics: Mapping[str, Metric],
    callbacks: Sequence[Callable | Callback],
    accumulate: int,
    bar: tqdm,
) -> dict[str, float]:
    """The batches that are still to come, `accumulate` to a step; what is interrupted can go on."""
    if accumulate < 1:
        raise ValueError(f"train_epoch: accumulate must be at least 1, got {accumulate}")
    trainer.model.train()
    batches = batches_to_come(trainer, loader)
    place = here(trainer)
    try:
        ### BEGIN SOLUTION
        while group := list(islice(batches, accumulate)):
            train_step(trainer, group, metrics)
            place = here(trainer)
            bar.update(len(group))
            show(bar, trainer._means.result())
            for callback in callbacks:
                if isinstance(callback, Callback):
                    callback.on_step(trainer)
        ### END SOLUTION
    except BaseException:
        trainer._resume = place
        raise
    finally:
        if hasattr(batches, "close"):  # the loader's processes end now, not with the traceback
            batches.close()
    return end_epoch(trainer)


# %% nbgrader={"grade": true, "grade_id": "test-train-epoch", "locked": true, "points": 8, "solution": false}
def test_train_epoch():
    trainer, seen = slope_trainer(), []

    class Look(Callback):
        def on_step(self, trainer):
            seen.append((trainer.step, trainer.batch))

    data = [(column(1), column(0))] * 5
    values = trainer.train_epoch(
        data, callbacks=[Look(), seen.append], accumulate=2, progress=False
    )
    check(seen, [(1, 2), (2, 4), (3, 5)], "steps of 2, 2 and 1 batches, on_step after each")
    check(values, {"loss": 0.0}, "the averages of the epoch come back")
    check((trainer.epoch, trainer.batch), (1, 0), "the epoch is counted, the next one begins at 0")
    ### BEGIN HIDDEN TESTS
    check(trainer.model.training, True, "it trains in train mode")
    trainer.train_epoch([(column(2), column(6))], progress=False)
    check(trainer.history["train_loss"], [0.0, 36.0], "the history has a value for each epoch")
    trainer.train_epoch([(column(2), column(6))], progress=False)
    check(trainer.history["train_loss"][-1], 0.0, "and the model has learned")
    with check_raises(ValueError, "no batches", "an empty loader is a mistake"):
        trainer.train_epoch([], progress=False)
    ### END HIDDEN TESTS


test_train_epoch()


# %% [markdown]
r"""
## Is it any good?

To ask a model about samples that it hasn't learned from, three things must be different: eval mode, no recording, no step. The context manager `evaluating` is given: it sets the modes back afterwards, module by module, because somebody may have put one of them into eval mode on purpose.

**Exercise 7 (8 points).** Write `evaluate`: the averages over all *samples* of the loss and the metrics, a dict. A loader without batches raises a `ValueError`. The trainer itself must be as before: no history, no counter changes.
"""


# %% nbgrader={"grade": false, "grade_id": "evaluate", "locked": false, "solution": true}
#| exporti
@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Eval mode and no recording; afterwards each module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules() if isinstance(module, Module)]
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    trainer: Trainer, loader: Iterable[Any], metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """The averages of the loss and the metrics over all samples of the loader."""
    ### BEGIN SOLUTION
    means = Means()
    with evaluating(trainer.model):
        for inputs, targets in loader:
            output = trainer.model(inputs)
            values = {"loss": trainer.loss_fn(output, targets).item()}
            values |= {name: float(metric(output, targets)) for name, metric in metrics.items()}
            means.add(values, len(targets))
    if means.samples == 0:
        raise ValueError("evaluate: the loader gave no batches")
    return means.result()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-evaluate", "locked": true, "points": 8, "solution": false}
def test_evaluate():
    trainer = slope_trainer()
    data = [(column(1, 1, 1), column(0, 0, 0)), (column(1), column(4))]
    check(trainer.evaluate(data), {"loss": 4.0}, "(3 * 0 + 1 * 16) / 4: over samples, not batches")
    check((trainer.step, trainer.history), (0, {}), "the trainer is as before")
    with check_raises(ValueError, "no batches", "an average over nothing is a mistake"):
        trainer.evaluate([])
    ### BEGIN HIDDEN TESTS
    check(trainer.model.weight, [[0.0]], "the model is as before")
    outputs = []
    model = Sequential(trainer.model, Dropout(0.9))
    model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    trainer.model = model
    trainer.model[0].load_state_dict({"weight": [[1.0]]})
    check(trainer.evaluate([(column(*[1] * 50), column(*[1] * 50))]), {"loss": 0.0}, "no dropout")
    check(outputs[0].is_leaf, True, "nothing is recorded")
    check(model[1].training, True, "afterwards the model is in train mode again")
    found = trainer.evaluate(data, metrics={"size": lambda output, target: len(target)})
    check(found["size"], 2.5, "metrics are weighted by samples, too: (3 * 3 + 1 * 1) / 4")
    ### END HIDDEN TESTS


test_evaluate()


# %% [markdown]
r"""
## When to stop

The validation loss falls, then it wobbles, then it rises: the model begins to learn its samples by heart. **Patience** is the number of epochs without a new best loss after which one stops.

```
loss   3.0   1.0   2.0   1.0           best so far:  3   1   1   1
epoch   1     2     3     4            since then:   0   0   1   2    patience 2: stop
```

**Exercise 8 (6 points).** Write `out_of_patience(losses, patience)`. A loss that equals the best is no new best. NaN never is one.
"""


# %% nbgrader={"grade": false, "grade_id": "patience", "locked": false, "solution": true}
#| exporti
def out_of_patience(losses: Sequence[float], patience: int) -> bool:
    """Has there been no new best (lower, not equal) loss for `patience` epochs?

    >>> out_of_patience([3.0, 1.0, 2.0], patience=2), out_of_patience([3.0, 1.0, 2.0, 1.0], 2)
    (False, True)
    """
    ### BEGIN SOLUTION
    best, since = math.inf, 0
    for loss in losses:
        if loss < best:
            best, since = loss, 0
        else:
            since += 1
    return since >= patience
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-patience", "locked": true, "points": 6, "solution": false}
def test_patience():
    check(out_of_patience([3.0, 1.0, 2.0], 2), False, "one epoch since the best")
    check(out_of_patience([3.0, 1.0, 2.0, 1.0], 2), True, "two epochs: 1.0 again is no new best")
    check(out_of_patience([3.0, 1.0, 2.0, 0.5], 2), False, "a new best begins the count again")
    ### BEGIN HIDDEN TESTS
    check(out_of_patience([], 1), False, "nothing has been measured")
    check(out_of_patience([1.0], 1), False, "the first one is the best so far")
    check(out_of_patience([1.0, math.nan, math.nan], 2), True, "NaN is never better")
    check(out_of_patience([5.0, 4.0, 3.0, 2.0], 1), False, "better every time")
    ### END HIDDEN TESTS


test_patience()


# %% [markdown]
r"""
**Exercise 9 (8 points).** Write the loop of `fit`. While fewer than `epochs` epochs are complete (counted from the very first, so that the same call goes on after a break) and `trainer.stop` isn't set:

1. If there is a patience, and `trainer.history[monitored]` has run out of it, end the loop.
2. Open a `progress_bar(trainer, loader, epochs, progress)`. Within it run `train_epoch` with that bar and, where there is validation data, `evaluate`; `write_down(trainer, "validation", ...)` puts the result into the history, `show` behind the bar.
3. Call the callbacks: `on_epoch(trainer)` of a `Callback`, and plain functions themselves.
"""


# %% nbgrader={"grade": false, "grade_id": "fit", "locked": false, "solution": true}
#| exporti
def fit(
    trainer: Trainer,
    loader: Iterable[Any],
    epochs: int,
    validation: Iterable[Any] | None,
    callbacks: Sequence[Callable | Callback],
    metrics: Mapping[str, Metric],
    patience: int | None,
    accumulate: int,
    progress: bool,
) -> dict[str, list[float]]:
    """Epochs until there are enough, until patience ends or until a callback sets `stop`."""
    if trainer.epoch >= epochs:
        warnings.warn(f"fit: {trainer.epoch} of {epochs} epochs are complete", stacklevel=3)
    trainer.stop = False
    monitored = "train_loss" if validation is None else "validation_loss"
    ### BEGIN SOLUTION
    while trainer.epoch < epochs and not trainer.stop:
        losses = trainer.history.get(monitored, [])
        if patience is not None and losses and out_of_patience(losses, patience):
            break
        with progress_bar(trainer, loader, epochs, progress) as bar:
            values = train_epoch(trainer, loader, metrics, callbacks, accumulate, bar)
            if validation is not None:
                measured = evaluate(trainer, validation, metrics)
                write_down(trainer, "validation", measured)
                show(bar, values | {f"validation_{name}": v for name, v in measured.items()})
        for callback in callbacks:
            (callback.on_epoch if isinstance(callback, Callback) else callback)(trainer)
    ### END SOLUTION
    return trainer.history


# %% nbgrader={"grade": true, "grade_id": "test-fit", "locked": true, "points": 8, "solution": false}
def test_fit():
    trainer, seen = slope_trainer(), []

    class Look(Callback):
        def on_epoch(self, trainer):
            seen.append(trainer.epoch)

    data, other = [(column(2), column(6))], [(column(1), column(4))]
    history = trainer.fit(data, 2, other, [Look(), lambda t: seen.append("f")], progress=False)
    check(seen, [1, "f", 2, "f"], "every callback, after every epoch")
    check(history["train_loss"], [36.0, 0.0], "w = 0, then w = 3")
    check(history["validation_loss"], [1.0, 1.0], "measured after the epoch: (3 - 4)^2")
    trainer.fit(data, epochs=3, progress=False)
    check(trainer.epoch, 3, "epochs count from the very first: one more, not three")
    ### BEGIN HIDDEN TESTS
    trainer = slope_trainer()
    trainer.fit(data, epochs=50, patience=2, progress=False)
    check(trainer.history["train_loss"], [36.0, 0.0, 0.0, 0.0], "two epochs without a better one")
    trainer = slope_trainer()
    trainer.fit(data, epochs=50, validation=[(column(1), column(0))], patience=1, progress=False)
    check(trainer.history["validation_loss"], [9.0, 9.0], "patience watches the validation loss")

    def stop(trainer):
        trainer.stop = True

    trainer = slope_trainer()
    trainer.fit(data, epochs=50, callbacks=[stop], progress=False)
    check(trainer.epoch, 1, "a callback can end it")
    ### END HIDDEN TESTS


test_fit()


# %% [markdown]
r"""
## When the power fails

A large model trains for weeks, on machines that fail every few days. What is needed to go on? The weights, of course. **Predict** what else: which numbers would you have to write down so that the run, continued in a new process, gives *the same numbers to the last bit* as if nothing had happened? List at least four before you read on.

| what | or else |
|---|---|
| the weights and buffers | |
| the optimizer's averages and step counts | the first steps are wrong in size and direction |
| `step` and `epoch` | the schedule begins again |
| the random numbers' state | other dropout, another order |
| how far the epoch is | some samples come twice, others never |
| the history | early stopping forgets the best |

All of it goes into *one* file. Two files can disagree.

### A file that is never half there

The power may fail while the file is being written, and then the old checkpoint is gone and the new one is half there. The cure: write into *another* file beside it, make sure that it is on the disk, and rename it. Renaming within a folder happens at once or not at all.

**Exercise 10 (8 points).** Write `write_atomically(path, content)`. Make the folder if it isn't there. Write the bytes into a file beside `path` whose name nobody else uses (put the process id `os.getpid()` into it), `flush`, `os.fsync(file.fileno())`, close it, `os.replace` it. Whatever goes wrong, the other file must not stay, and the error must get out.
"""


# %% nbgrader={"grade": false, "grade_id": "write-atomically", "locked": false, "solution": true}
#| exporti
def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment there is the old one or the new one, never a part.

    The bytes go into another file beside it and to the disk (fsync), then that takes the name.
    """
    ### BEGIN SOLUTION
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-write-atomically", "locked": true, "points": 8, "solution": false}
def test_write_atomically():
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "new" / "file"
        write_atomically(path, b"old")
        write_atomically(path, b"newer")
        check(path.read_bytes(), b"newer", "the new content")
        full = mock.patch("os.fsync", side_effect=OSError("disk full"))
        with full, check_raises(OSError, "disk full", "the error must get out"):
            write_atomically(path, b"newest")
        check(path.read_bytes(), b"newer", "where writing failed, the old file is still there")
        check(os.listdir(path.parent), ["file"], "and nothing else")
        ### BEGIN HIDDEN TESTS
        calls = mock.Mock()
        with mock.patch("os.fsync", calls.fsync), mock.patch("os.replace", calls.replace):
            write_atomically(path, b"x")
        order = [call[0] for call in calls.mock_calls]
        check(order, ["fsync", "replace"], "first to the disk, then the name")
        check(path.read_bytes(), b"newer", "without the renaming nothing changes")
        ### END HIDDEN TESTS


test_write_atomically()


# %% [markdown]
r"""
### Arrays and everything else

A checkpoint mixes large arrays with small facts: counts, names, lists of losses. The safetensors format holds named arrays, and a little text beside them. So the facts become text (JSON), and the arrays are taken out:

```
{"step": 3, "mean": array([0., 0.])}      under the name "adam"

text    {"step": 3, "mean": {"array": "adam.mean"}}
arrays  {"adam.mean": array([0., 0.])}
```

Python's own `pickle` would take the mixture as it is. But to read a pickle is to run the program that is in it, and checkpoints travel.

**Exercise 11 (8 points).** Write `pack` and its opposite. `pack(value, name, arrays)` returns what JSON can hold: a mapping becomes a dict with keys that are strings, a list or tuple a list, each part packed under the name of the whole, a dot and its key or index; an array or Tensor goes into `arrays` under its name, and `{"array": name}` takes its place; a NumPy number becomes Python's (`.item()`); all else stays. `unpack(value, arrays)` puts the arrays back.
"""


# %% nbgrader={"grade": false, "grade_id": "pack", "locked": false, "solution": true}
#| exporti
def pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON can hold it: its arrays go into `arrays`, their names stay in their places.

    >>> arrays = {}
    >>> pack({"state": {0: {"step": 3, "mean": np.zeros(2)}}}, "optimizer", arrays)
    {'state': {'0': {'step': 3, 'mean': {'array': 'optimizer.state.0.mean'}}}}
    >>> list(arrays)
    ['optimizer.state.0.mean']
    """
    ### BEGIN SOLUTION
    if isinstance(value, Mapping):
        return {str(key): pack(item, f"{name}.{key}", arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item, f"{name}.{index}", arrays) for index, item in enumerate(value)]
    if isinstance(value, (np.ndarray, Tensor)):
        arrays[name] = np.asarray(value)
        return {"array": name}
    return value.item() if isinstance(value, np.generic) else value
    ### END SOLUTION


def unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The opposite of `pack`: the arrays come back to their places."""
    ### BEGIN SOLUTION
    if isinstance(value, list):
        return [unpack(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"array"}:
        return arrays[value["array"]]
    return {key: unpack(item, arrays) for key, item in value.items()}
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-pack", "locked": true, "points": 8, "solution": false}
def test_pack():
    arrays: dict = {}
    facts = {"step": 3, "mean": np.zeros(2), "inner": [1, Tensor([5.0])]}
    packed = pack(facts, "adam", arrays)
    check(packed["mean"], {"array": "adam.mean"}, "the array's name stands in its place")
    check(packed["inner"], [1, {"array": "adam.inner.1"}], "lists are named by index")
    check(sorted(arrays), ["adam.inner.1", "adam.mean"], "the arrays are in the dict")
    back = unpack(json.loads(json.dumps(packed)), arrays)
    check(back["mean"], np.zeros(2), "and they come back")
    ### BEGIN HIDDEN TESTS
    check(back["inner"][1], np.array([5.0], np.float32), "from inside a list, too")
    check(back["step"], 3, "other facts stay")
    text = json.dumps(pack({7: (np.float32(0.5), None)}, "x", {}))
    check(text, '{"7": [0.5, null]}', "keys become strings, tuples lists, numbers Python's")
    check(type(arrays["adam.inner.1"]), np.ndarray, "a Tensor's array, not the Tensor")
    ### END HIDDEN TESTS


test_pack()


# %% [markdown]
r"""
The file itself is given. Besides the arrays and the text it holds a checksum over both: disks do flip bits, and a model with one wrong weight trains on without a word.
"""


# %% nbgrader={"grade": false, "grade_id": "checkpoint-file", "locked": true, "solution": false}
#| exporti
KEY = "tinytorch_checkpoint"


def write_checkpoint(path: Path, facts: Mapping[str, Any]) -> None:
    """One safetensors file of all arrays in `facts`; the rest is JSON in its metadata."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps({key: pack(value, key, arrays) for key, value in facts.items()})
    write_atomically(path, save(arrays, {KEY: f"{checksum(text, arrays):08x} {text}"}))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote; ValueError for a damaged file or one of another kind."""
    try:
        with safe_open(path, framework="numpy") as file:
            entry = (file.metadata() or {}).get(KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no checkpoint: {error}") from None
    if entry is None:
        raise ValueError(f"{path} holds tensors, but is no checkpoint of ours")
    expected, _, text = entry.partition(" ")
    if expected != f"{checksum(text, arrays):08x}":
        raise ValueError(f"{path} is damaged: its checksum is not the one that was written")
    return unpack(json.loads(text), arrays)


def checksum(text: str, arrays: Mapping[str, np.ndarray]) -> int:
    """A CRC-32 of the text and of all arrays, in the order of their names."""
    value = zlib.crc32(text.encode())
    for name in sorted(arrays):
        value = zlib.crc32(arrays[name].tobytes(), value)
    return value


# %% [markdown]
r"""
Now go back to `here` and `batches_to_come`, above. The bookmark has three parts: the state of our random numbers when the epoch began, their state now, and what the loader says about itself, if it can. A loader that draws its order when an epoch begins is started with the first state, so that it draws the same order, and the batches that are done are skipped; then the second state is set, and everything else goes on drawing where it stopped.

**Exercise 12 (5 points).** Write `save_checkpoint`: call `write_checkpoint(path, facts)` with a dict of

| key | value |
|---|---|
| "model", "optimizer" | the two state dicts |
| "optimizer_class" | the name of the optimizer's class |
| "history" | the history |
| "counts" | the list of `epoch`, `batch` and `step` |
| "means" | the list of the `sums` and `samples` of `trainer._means` |
| "place" | the bookmark: `trainer._resume` where there is one (the run was interrupted, or loaded and not yet continued), else `here(trainer)` |
"""


# %% nbgrader={"grade": false, "grade_id": "save-checkpoint", "locked": false, "solution": true}
#| exporti
def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """The model, the optimizer, the history, and the place in the epoch with its random numbers."""
    ### BEGIN SOLUTION
    facts = {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "optimizer_class": type(trainer.optimizer).__name__,
        "history": trainer.history,
        "counts": [trainer.epoch, trainer.batch, trainer.step],
        "means": [trainer._means.sums, trainer._means.samples],
        "place": trainer._resume or here(trainer),
    }
    write_checkpoint(path, facts)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-save-checkpoint", "locked": true, "points": 5, "solution": false}
def test_save_checkpoint():
    with tempfile.TemporaryDirectory() as name:
        trainer = slope_trainer()
        trainer.fit([(column(2), column(6))], epochs=2, progress=False)
        trainer.save_checkpoint(Path(name) / "run")
        facts = read_checkpoint(Path(name) / "run")
    check(facts["model"], {"weight": np.array([[3.0]], np.float32)}, "the model's numbers")
    check(facts["counts"], [2, 0, 2], "epoch, batch, step")
    check(facts["history"], {"train_loss": [36.0, 0.0], "lr": [0.125, 0.125]}, "the history")
    check(facts["optimizer_class"], "SGD", "the name of the optimizer's class")
    ### BEGIN HIDDEN TESTS
    check(facts["means"], [{}, 0], "the sums of an epoch that hasn't begun")
    check(facts["place"]["generator"], generator.bit_generator.state, "the random numbers")
    trainer._resume = {"waiting": 1}
    with tempfile.TemporaryDirectory() as name:
        trainer.save_checkpoint(Path(name) / "run")
        place = read_checkpoint(Path(name) / "run")["place"]
    check(place, {"waiting": 1}, "a bookmark that hasn't been used yet is passed on")
    ### END HIDDEN TESTS


test_save_checkpoint()


# %% [markdown]
r"""
**Exercise 13 (5 points).** Write `load_checkpoint`. Read the facts (`read_checkpoint` raises a `ValueError` for a bad file). Refuse the state of an optimizer of another class. Then give the model and the optimizer their states; where one of them raises a `ValueError`, because the checkpoint belongs to another model, put the model's old numbers back and raise a `ValueError` that names the file. Only then set `epoch`, `batch`, `step`, `history`, `_means` (`Means(*facts["means"])`), `_resume` (the place) and `_epoch_start` (which the place holds).

The last lines are given by what you saved; the order is the exercise. After any error the trainer must be what it was.
"""


# %% nbgrader={"grade": false, "grade_id": "load-checkpoint", "locked": false, "solution": true}
#| exporti
def load_checkpoint(trainer: Trainer, path: Path) -> None:
    """Bring a trainer to where it was when it was saved, or raise and change nothing."""
    ### BEGIN SOLUTION
    facts = read_checkpoint(path)
    name = type(trainer.optimizer).__name__
    if facts["optimizer_class"] != name:
        raise ValueError(f"{path} was saved with {facts['optimizer_class']}, this has {name}")
    before = {key: tensor.data.copy() for key, tensor in trainer.model.state_dict().items()}
    try:
        trainer.model.load_state_dict(facts["model"])
        trainer.optimizer.load_state_dict(facts["optimizer"])
    except ValueError as error:
        trainer.model.load_state_dict(before)
        raise ValueError(f"{path} is of another model: {error}") from None
    trainer.epoch, trainer.batch, trainer.step = facts["counts"]
    trainer.history, trainer._resume = facts["history"], facts["place"]
    trainer._means = Means(*facts["means"])
    trainer._epoch_start = facts["place"]["epoch_start"]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-load-checkpoint", "locked": true, "points": 5, "solution": false}
def learner(seed: int) -> Trainer:
    manual_seed(seed)
    model = Sequential(Linear(64, 8), Dropout(0.5), Linear(8, 10))
    return Trainer(model, SGD(model.parameters(), lr=0.1, momentum=0.9), CrossEntropyLoss())


def test_load_checkpoint():
    data = [(images[start : start + 50], labels[start : start + 50]) for start in range(0, 200, 50)]

    def power_fails(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as name:
        path, whole = Path(name) / "run", learner(seed=1)
        expected = dict(whole.fit(data, epochs=4, progress=False))
        try:
            learner(seed=1).fit(data, 4, None, [Checkpoint(path), power_fails], progress=False)
        except KeyboardInterrupt:
            resumed = learner(seed=99)
        resumed.load_checkpoint(path)
        check(resumed.epoch, 2, "two epochs were complete")
        check(resumed.fit(data, 4, progress=False), expected, "to the last bit", tolerance=0.0)
        ### BEGIN HIDDEN TESTS
        state = {key: value.data.copy() for key, value in resumed.model.state_dict().items()}
        for other in (SGD(resumed.model.parameters()[:1]), Adam(resumed.model.parameters())):
            resumed.optimizer = other
            with check_raises(ValueError, "run", "another optimizer: name the file and refuse"):
                resumed.load_checkpoint(path)
            check(resumed.model[0].weight, state["0.weight"], "the model is as before", 0.0)
            check(resumed.epoch, 4, "so are the counters")
        path.write_bytes(path.read_bytes()[:-1])
        with check_raises(ValueError, "damaged", "a truncated file is told"):
            learner(seed=1).load_checkpoint(path)
        ### END HIDDEN TESTS


test_load_checkpoint()


# %% [markdown]
r"""
## Put together: digits, interrupted

A small loader first: batches in a new order every epoch, drawn from our random numbers.
"""


# %%
class Batches:
    """Pairs (inputs, targets) of `size` samples, shuffled anew in every epoch."""

    def __init__(self, inputs: Tensor, targets: Tensor, size: int):
        self.inputs, self.targets, self.size = inputs, targets, size

    def __len__(self) -> int:
        return math.ceil(len(self.inputs) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = tensor.generator.permutation(len(self.inputs))
        for start in range(0, len(order), self.size):
            rows = order[start : start + self.size]
            yield self.inputs[rows], self.targets[rows]


EPOCHS = 20
training_set, test_set = Batches(images[known], labels[known], 64), [(images[asked], labels[asked])]


# %%
def digits_trainer(seed: int) -> Trainer:
    manual_seed(seed)
    model = new_model(p=0.2)
    steps = EPOCHS * len(training_set)
    schedule = WarmupSchedule(CosineSchedule(max_lr=5e-3, total_steps=steps - 23), warmup_steps=23)
    optimizer = Adam(model.parameters())
    return Trainer(model, optimizer, CrossEntropyLoss(), schedule, grad_clip_norm=1.0)


trainer = digits_trainer(seed=0)
history = trainer.fit(training_set, EPOCHS, test_set, metrics=[accuracy])
print(f"test accuracy after {trainer.epoch} epochs: {history['validation_accuracy'][-1]:.1%}")

# %%
if plt:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
    epochs = range(1, EPOCHS + 1)
    left.semilogy(epochs, history["train_loss"], "k-", label="training, with dropout")
    left.semilogy(epochs, history["validation_loss"], "k--", label="test")
    left.set(title="Digits: loss", xlabel="epoch", ylabel="cross-entropy (nats)")
    right.plot(epochs, [100 * a for a in history["train_accuracy"]], "k-", label="training")
    right.plot(epochs, [100 * a for a in history["validation_accuracy"]], "k--", label="test")
    right.set(title="Digits: accuracy", xlabel="epoch", ylabel="right answers (%)")
    for axes in (left, right):
        axes.set_xticks(range(0, EPOCHS + 1, 5))
        axes.legend()
    figure.tight_layout()
    plt.show()

# %% [markdown]
r"""
Why is the training curve below the test curve at first? (In which mode was each of them measured, and when in the epoch?)

Now the same run again, but in step 200, in the middle of an epoch, the power fails. A new trainer, which began with other random numbers, takes over from the file. **Predict:** in which digit will the final losses differ?
"""


# %%
class PowerCut(Callback):
    def on_step(self, trainer: Trainer) -> None:
        if trainer.step == 200:
            raise KeyboardInterrupt("the lights go out")


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "digits.safetensors"
    options = {"validation": test_set, "metrics": [accuracy]}
    try:
        callbacks = [Checkpoint(path, every=50), PowerCut()]
        digits_trainer(seed=0).fit(training_set, EPOCHS, callbacks=callbacks, **options)
    except KeyboardInterrupt as error:
        print(error)
    resumed = digits_trainer(seed=12345)
    resumed.load_checkpoint(path)
    print(f"resumed in epoch {resumed.epoch + 1}, after {resumed.batch} of its batches")
    resumed.fit(training_set, EPOCHS, **options)

for name in ("train_loss", "validation_loss"):
    print(f"{name:16} {history[name][-1]!r:22} {resumed.history[name][-1]!r:22}")
print("every number of both histories is equal:", history == resumed.history)

# %% [markdown]
r"""
## Systems: what the comfort costs

First, time. The trainer counts, averages, draws a bar and keeps a bookmark. **Predict** its share of a step of this small network, then of one that is ten times as wide.
"""


# %%
def by_hand(model, optimizer, loss_fn) -> None:
    for inputs, targets in training_set:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()


def seconds(run: Callable[[], object], rounds: int = 3) -> float:
    """The shortest of several runs: what else the machine does only ever adds time."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


for width in (64, 640):
    model = Sequential(Linear(64, width), ReLU(), Linear(width, 10))
    measured = Trainer(model, Adam(model.parameters()), CrossEntropyLoss())
    alone = seconds(lambda t=measured: by_hand(t.model, t.optimizer, t.loss_fn)) / len(training_set)
    full = seconds(lambda t=measured: t.train_epoch(training_set, progress=False)) / len(
        training_set
    )
    print(
        f"width {width}: by hand {1e6 * alone:6.0f} us a step, with the trainer {1e6 * full:6.0f}"
    )

# %% [markdown]
r"""
Second, bytes. A checkpoint holds the weights and whatever the optimizer keeps for each of them. **Predict** the three ratios.
"""

# %%
optimizers = {
    "SGD": lambda parameters: SGD(parameters, lr=0.1),
    "SGD, momentum": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": Adam,
}
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "run.safetensors"
    for name, make in optimizers.items():
        model = Sequential(Linear(64, 640), ReLU(), Linear(640, 10))
        measured = Trainer(model, make(model.parameters()), CrossEntropyLoss())
        measured.train_epoch(training_set, progress=False)
        weights = sum(parameter.nbytes for parameter in model.parameters())
        time_of_save = seconds(lambda t=measured: t.save_checkpoint(path))
        size = path.stat().st_size
        print(f"{name:14} {weights:,} bytes of weights, {size:,} in the file", end="")
        print(f" ({size / weights:.2f}x), saved in {1e3 * time_of_save:.1f} ms")

# %% [markdown]
r"""
Much of the time of a small save is `fsync`: waiting until the disk says that it has the bytes. It is the price of being sure.

PyTorch's `torch.save` writes a pickle, not atomically; `torch.load` has `weights_only=True` because reading one runs code. The position in the epoch isn't in it: that is what `torchdata`'s `StatefulDataLoader` was added for, years later, and our loaders use the same two names, `state_dict` and `load_state_dict`.

## Questions

**1 (3 points).** 1,000 samples in batches of 64. The fifteen full batches have the mean loss 0.2, the last one has the mean loss 1.0. How many samples has the last one? What is the mean over the batches, what over the samples?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-means", "points": 3, "solution": true}
r"""
1,000 - 15 · 64 = 40 samples. Over the batches: (15 · 0.2 + 1.0) / 16 = 0.25. Over the samples: (960 · 0.2 + 40 · 1.0) / 1,000 = 0.232. The small batch counts 1/16 = 6.25 % in the first, 4 % in the second.
"""

# %% [markdown]
r"""
**2 (3 points).** 50,000 samples, batches of 32, `accumulate=8`. How many batches has an epoch, how many updates? How many samples make the last update, and which share has its last batch?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-accumulate", "points": 3, "solution": true}
r"""
50,000 / 32 = 1,562.5: 1,563 batches, the last one of 16 samples. 1,563 / 8 = 195.4: 196 updates. The last update has 1,563 - 195 · 8 = 3 batches with 32 + 32 + 16 = 80 samples; its last batch has the share 16 / 80 = 0.2.
"""

# %% [markdown]
r"""
**3 (3 points).** A model of 124 million float32 parameters trains with Adam, 0.4 s a step. The disk writes 500 MB/s. How large is a checkpoint, and how long does it take to write? After how many steps may you save if saving is to cost at most 1 % of the time? The machine fails once a day: how much work is lost then, on average?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-checkpoint", "points": 3, "solution": true}
r"""
Weights and Adam's two averages: 3 · 4 · 124 million = 1.488 GB, 2.98 s. At 1 % that may happen every 298 s, or every 744 steps. A failure loses half an interval on average: 149 s, that is 0.17 % of a day. (So saving every 2 or 3 minutes would cost more than it saves.)
"""

# %% [markdown]
r"""
## All tests once more
"""


# %%
def test_module():
    for test in (test_accuracy, test_means, test_backward_batch, test_update, test_train_step):
        test()
    for test in (test_train_epoch, test_evaluate, test_patience, test_fit):
        test()
    for test in (test_write_atomically, test_pack, test_save_checkpoint, test_load_checkpoint):
        test()
    print("All tests of module 07 pass.")


test_module()


# %% [markdown]
r"""
**What works now:** a trainer that runs, measures, stops in time, and survives a power cut to the last bit.
You saw mistakes in a loop that raise no error, and tests that notice them.
You know what has to be written down to go on: weights, averages, counters, random numbers, a place.
You can write a file that is never half there.
**Next:** data that doesn't fit into one line, `tito module start 08`.
"""

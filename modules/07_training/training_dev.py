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
"""

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


# %% nbgrader={"grade": false, "grade_id": "trainer", "locked": true, "solution": false}
#| export
Metric = Callable[[Tensor, Tensor], float]  # metric(output, target), an average over the batch


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
def named(metrics: Iterable[Metric] | Mapping[str, Metric]) -> dict[str, Metric]:
    """Metrics by name; a function's own name, where it was given without one."""
    if isinstance(metrics, Mapping):
        return dict(metrics)
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


# %% nbgrader={"grade": false, "grade_id": "place", "locked": true, "solution": false}
#| exporti
def here(trainer: Trainer) -> dict[str, Any]:
    """All that decides how the epoch goes on: the random numbers, and how far the loader has come."""
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
        raise ValueError(f"{path} holds tensors, but is no checkpoint of a Trainer")
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


# %% nbgrader={"grade": false, "grade_id": "load-checkpoint", "locked": false, "solution": true}
#| exporti
def load_checkpoint(trainer: Trainer, path: Path) -> None:
    """Bring a trainer to where it was when the checkpoint was saved, or raise and change nothing."""
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

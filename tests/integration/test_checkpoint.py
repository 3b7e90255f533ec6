"""An interrupted and resumed training equals an uninterrupted one, bit for bit."""

import numpy as np
import pytest

from tinytorch.core import tensor
from tinytorch.core.layers import Dropout, Linear, Module, Sequential
from tinytorch.core.losses import cross_entropy
from tinytorch.core.optimizers import SGD, Adam, CosineSchedule, Lion, Muon, RMSprop
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.core.training import Callback, Checkpoint, Trainer, accuracy
from tinytorch.data.loader import DataLoader, TensorDataset

EPOCHS, BATCHES = 4, 7

OPTIMIZERS = {
    "sgd with momentum": lambda ps: SGD(ps, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda ps: Adam(ps, lr=0.01),
    "rmsprop": lambda ps: RMSprop(ps, lr=0.01, momentum=0.5),
    "lion": lambda ps: Lion(ps, lr=0.001, weight_decay=0.01),
    "muon": lambda ps: Muon([p for p in ps if p.ndim == 2]),
}


class ShufflesByOurGenerator:
    """A loader that a user may write: no state of its own, its order comes from manual_seed."""

    def __init__(self, x, y, size):
        self.x, self.y, self.size = x, y, size

    def __iter__(self):
        order = tensor.generator.permutation(len(self.x))
        for start in range(0, len(order), self.size):
            rows = order[start : start + self.size]
            yield Tensor(self.x[rows]), Tensor(self.y[rows])


class Interruption(Exception):
    pass


class Interrupt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.step == self.step:
            raise Interruption


class Counter(Module):
    """A model with a buffer that changes while it learns."""

    def __init__(self):
        self.net = Sequential(Linear(4, 16), Dropout(0.5), Linear(16, 3))
        self.register_buffer("seen", Tensor([0.0]))

    def forward(self, x):
        if self.training:
            self.seen += len(x)
        return self.net(x)


def noisy(x, generator):
    return x + generator.standard_normal(x.shape).astype(np.float32)


def loader(kind):
    x = np.random.default_rng(0).standard_normal((BATCHES * 8 - 3, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0)
    if kind == "plain":
        return ShufflesByOurGenerator(x, y, 8)
    data = TensorDataset(Tensor(x), Tensor(y))
    return DataLoader(data, batch_size=8, shuffle=True, transform=noisy)


def new_trainer(optimizer, seed):
    manual_seed(seed)
    model = Counter()
    made = OPTIMIZERS[optimizer](model.parameters())
    return Trainer(model, made, cross_entropy, CosineSchedule(0.05, 0.001, 25), grad_clip_norm=0.5)


def fit(trainer, data, *callbacks, accumulate=1):
    return trainer.fit(
        data,
        EPOCHS,
        validation=VALIDATION,
        callbacks=callbacks,
        metrics=[accuracy],
        accumulate=accumulate,
        progress=False,
    )


VALIDATION = [(Tensor(np.eye(4)), Tensor(np.zeros(4, int)))]


def everything(trainer):
    """All that a run has become, as bytes."""
    state = {name: t.data.tobytes() for name, t in trainer.model.state_dict().items()}
    moments = {
        (number, name): np.asarray(value).tobytes()
        for number, entry in trainer.optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    counts = (trainer.epoch, trainer.batch, trainer.step, trainer.optimizer.lr)
    return state, moments, counts, trainer.history, tensor.generator.bit_generator.state


@pytest.mark.parametrize("kind", ["DataLoader", "plain"])
@pytest.mark.parametrize("stop", [1, 5, BATCHES - 1, BATCHES, BATCHES + 1, 2 * BATCHES + 3])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, kind, stop):
    whole = new_trainer("sgd with momentum", seed=1)
    data = loader(kind)
    fit(whole, data)
    expected = everything(whole)

    interrupted = new_trainer("sgd with momentum", seed=1)
    data = loader(kind)
    with pytest.raises(Interruption):
        fit(
            interrupted, data, Checkpoint(tmp_path / "run.safetensors", every=stop), Interrupt(stop)
        )

    resumed = new_trainer("sgd with momentum", seed=99)  # as a new process would begin
    resumed.load_checkpoint(tmp_path / "run.safetensors")
    data = loader(kind)
    fit(resumed, data)
    assert everything(resumed) == expected


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_resumes(tmp_path, optimizer):
    whole = new_trainer(optimizer, seed=2)
    fit(whole, loader("DataLoader"))
    expected = everything(whole)
    interrupted = new_trainer(optimizer, seed=2)
    with pytest.raises(Interruption):
        fit(interrupted, loader("DataLoader"), Interrupt(10))
    interrupted.save_checkpoint(tmp_path / "run.safetensors")  # saved after the interruption
    resumed = new_trainer(optimizer, seed=3)
    resumed.load_checkpoint(tmp_path / "run.safetensors")
    fit(resumed, loader("DataLoader"))
    assert everything(resumed) == expected


@pytest.mark.parametrize("kind", ["DataLoader", "plain"])
def test_an_interrupted_run_goes_on_in_the_same_process(kind):
    whole = new_trainer("adam", seed=4)
    fit(whole, loader(kind))
    expected = everything(whole)
    trainer = new_trainer("adam", seed=4)
    data = loader(kind)
    for step in (3, 12):
        with pytest.raises(Interruption):
            fit(trainer, data, Interrupt(step))
        tensor.generator.random(5)  # what a person does in between changes nothing
    fit(trainer, data)
    assert everything(trainer) == expected


def test_an_interruption_within_a_step_takes_that_step_back():
    whole = new_trainer("adam", seed=5)
    fit(whole, loader("DataLoader"))
    expected = everything(whole)
    trainer = new_trainer("adam", seed=5)
    data, right = loader("DataLoader"), trainer.loss_fn

    def stumbling(output, target):
        if trainer.step == 9:
            raise KeyboardInterrupt
        return right(output, target)

    trainer.loss_fn = stumbling
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, data)
    trainer.loss_fn = right
    trainer.model.seen -= 8  # a forward that ran has counted; nothing else is left of it
    fit(trainer, data)
    assert everything(trainer) == expected


def test_accumulation_resumes_too(tmp_path):
    whole = new_trainer("adam", seed=6)
    fit(whole, loader("DataLoader"), accumulate=3)
    expected = everything(whole)
    interrupted = new_trainer("adam", seed=6)
    with pytest.raises(Interruption):
        fit(interrupted, loader("DataLoader"), Interrupt(5), accumulate=3)
    interrupted.save_checkpoint(tmp_path / "run.safetensors")
    resumed = new_trainer("adam", seed=7)
    resumed.load_checkpoint(tmp_path / "run.safetensors")
    fit(resumed, loader("DataLoader"), accumulate=3)
    assert everything(resumed) == expected
    assert resumed.step == EPOCHS * 3


def test_a_checkpoint_of_a_loaded_checkpoint_is_as_good(tmp_path):
    whole = new_trainer("adam", seed=8)
    fit(whole, loader("DataLoader"))
    expected = everything(whole)
    trainer = new_trainer("adam", seed=8)
    with pytest.raises(Interruption):
        fit(trainer, loader("DataLoader"), Interrupt(4))
    for name in ("first", "second"):
        trainer.save_checkpoint(tmp_path / name)
        trainer = new_trainer("adam", seed=9)
        trainer.load_checkpoint(tmp_path / name)
    fit(trainer, loader("DataLoader"))
    assert everything(trainer) == expected

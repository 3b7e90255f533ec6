"""Four networks with their data and their training, for benchmarks that quantise them.

All take one Tensor and give scores (..., classes), so that every method treats them alike. Trained
weights are kept in a folder, as safetensors, and found again while the recipe is what it was.
"""

from __future__ import annotations

import inspect
import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from tinytorch import (
    MNIST,
    CharTokenizer,
    DataLoader,
    MovieReviews,
    OneCycleSchedule,
    Tensor,
    TensorDataset,
    TinyShakespeare,
    Trainer,
    manual_seed,
    nn,
    no_grad,
    optim,
    randn,
    where,
)

WORDS, LENGTH = 8192, 40  # how many words are told apart, how many of a sentence are read
WINDOW = 64  # characters that the GPT sees at a time


class Data(NamedTuple):
    """Inputs and targets to learn from and to be tested on."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


class Examples(NamedTuple):
    """A few of the inputs, and their targets."""

    inputs: Tensor
    targets: Tensor


def mnist() -> Data:
    train, test = MNIST(), MNIST(train=False)
    return Data(train.images, train.labels, test.images, test.labels)


def reviews() -> Data:
    """Sentences as rows of LENGTH ids: 0 where they are shorter, 1 for words outside of WORDS.

    Every fifth sentence is for testing.
    """
    found = MovieReviews()
    sentences = [re.findall(r"[^\W\d_]+|[!?]", text.lower())[:LENGTH] for text in found.texts]
    labels, test = found.labels.numpy(), np.arange(len(sentences)) % 5 == 4
    counts = Counter(w for words, no in zip(sentences, test, strict=True) if not no for w in words)
    number = {word: i for i, (word, _) in enumerate(counts.most_common(WORDS - 2), 2)}
    ids = np.zeros((len(sentences), LENGTH), np.int64)
    for row, words in zip(ids, sentences, strict=True):
        row[: len(words)] = [number.get(word, 1) for word in words]
    parts = ids[~test], labels[~test], ids[test], labels[test]
    return Data(*(Tensor(part, dtype=int) for part in parts))


def shakespeare() -> Data:
    """Windows side by side and the characters that follow theirs; the last tenth is for testing."""
    text = TinyShakespeare().text
    ids = np.array(CharTokenizer(text).encode(text))

    def windows(ids: np.ndarray) -> tuple[Tensor, Tensor]:
        last = (len(ids) - 1) // WINDOW * WINDOW
        inputs, targets = ids[:last], ids[1 : last + 1]
        return Tensor(inputs.reshape(-1, WINDOW)), Tensor(targets.reshape(-1, WINDOW))

    learn, test = np.split(ids, [len(ids) * 9 // 10])
    return Data(*windows(learn), *windows(test))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def cnn() -> nn.Module:
    """Two convolutions with batch norms, two linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


class ReviewLSTM(nn.Module):
    """Word vectors, an LSTM in both directions, the largest value of each number, scores."""

    def __init__(self, size: int = 64):
        self.embedding = nn.Embedding.from_pretrained(0.1 * randn(WORDS, size), freeze=False)
        self.dropout = nn.Dropout(0.5)
        self.recurrent = nn.LSTM(size, size, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * size, 2)

    def forward(self, ids: Tensor) -> Tensor:
        real = ids.data != 0
        lengths = np.maximum(real.sum(axis=1), 1)
        states, _ = self.recurrent(self.dropout(self.embedding(ids)), lengths=lengths)
        largest = where(real[:, :, None], states, -1.0).max(axis=1)
        return self.head(self.dropout(largest))


def gpt() -> nn.Module:
    return nn.GPT(65, 128, 4, 4, WINDOW, positions="rotary")


def loss_fn(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, the mean over all examples, or over all positions of all examples."""
    return nn.CrossEntropyLoss()(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1))


@dataclass
class Network:
    """One of the networks: how it is made, taught and timed."""

    name: str
    build: Callable[[], nn.Module]
    load: Callable[[], Data]
    epochs: float
    batch_size: int
    rate: float  # the highest learning rate of the cycle
    seeds: int  # how many times it is trained
    few: int  # examples to calibrate on
    timed: int  # examples in the batch whose time is taken

    @cached_property
    def data(self) -> Data:
        return self.load()

    @property
    def writes(self) -> bool:
        """Is there a target at each place of an input?"""
        return self.data.targets.ndim > 1

    def examples(self, count: int) -> Examples:
        """Training examples from all over the set."""
        step = len(self.data.inputs) // count
        return Examples(*(part[::step][:count] for part in self.data[:2]))

    def fit(self, model: nn.Module, epochs: float, rate: float, seed: int) -> nn.Module:
        """Train by AdamW in one cycle of rates; 0.2 epochs are one pass over every 5th example."""
        inputs, targets = (part[:: max(1, round(1 / epochs))] for part in self.data[:2])
        epochs = max(1, round(epochs))
        loader = DataLoader(
            TensorDataset(inputs, targets), self.batch_size, shuffle=True, seed=seed
        )
        schedule = OneCycleSchedule(rate, epochs * len(loader))
        optimizer = optim.AdamW(model.parameters())
        Trainer(model, optimizer, loss_fn, schedule, grad_clip_norm=1.0).fit(loader, epochs)
        return model.eval()

    def recipe(self, effort: float) -> str:
        """A name for how the weights come about; another one once that has changed."""
        sources = [inspect.getsource(part) for part in (self.build, self.load, Network.fit)]
        numbers = float(effort * self.epochs), self.batch_size, self.rate
        return f"{self.build.__name__}-{zlib.crc32(repr((sources, numbers)).encode()):08x}"

    def trained(self, folder: Path, seed: int, effort: float) -> nn.Module:
        """The model after `effort` times its epochs: from the folder, or trained and put there."""
        path = folder / f"{self.recipe(effort)}-{seed}.safetensors"
        manual_seed(seed)
        model = self.build()
        if path.is_file():
            model.load_state_dict(load_file(path))
            return model.eval()
        self.fit(model, effort * self.epochs, self.rate, seed)
        folder.mkdir(parents=True, exist_ok=True)
        state = {key: tensor.data for key, tensor in model.state_dict().items()}
        save_file(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)  # nobody finds half a file
        return model

    def evaluate(self, model: nn.Module, step: int = 1) -> tuple[float, float]:
        """(share of right answers, mean loss) on every `step`-th example for testing."""
        inputs, targets = (part[::step] for part in self.data[2:])
        right = loss = 0.0
        with no_grad():
            for x, wanted in DataLoader(TensorDataset(inputs, targets), 250):
                scores = model(x)
                right += (scores.data.argmax(axis=-1) == wanted.data).sum()
                loss += loss_fn(scores, wanted).item() * wanted.size
        return right / targets.size, loss / targets.size


NETWORKS = {
    "mlp": Network("MLP, MNIST", mlp, mnist, 5, 64, 2e-3, seeds=3, few=2048, timed=64),
    "cnn": Network("CNN, MNIST", cnn, mnist, 1, 64, 4e-3, seeds=1, few=2048, timed=32),
    "lstm": Network("LSTM, reviews", ReviewLSTM, reviews, 3, 32, 4e-3, seeds=3, few=2048, timed=16),
    "gpt": Network("GPT, Shakespeare", gpt, shakespeare, 1, 16, 3e-3, seeds=1, few=128, timed=4),
}

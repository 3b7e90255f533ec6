"""Judging a sentence: for or against a film, or without --data, prose or code."""

import copy
from collections import Counter

import numpy as np
from sources import source_lines, words

from tinytorch import Tensor, Trainer, accuracy, manual_seed, nn, optim, pad_sequences, randn, where
from tinytorch.data import DataLoader, MovieReviews
from tito.milestone import Result, Stopwatch, picture

UNKNOWN = 1  # the id of all words that are too rare; 0 is the padding


class Judge(nn.Module):
    """Word vectors, a GRU in both directions, the largest value of each of its numbers, scores."""

    def __init__(self, vocabulary, size=64):
        self.embedding = nn.Embedding.from_pretrained(0.1 * randn(vocabulary, size), freeze=False)
        self.dropout = nn.Dropout(0.5)
        self.recurrent = nn.GRU(size, size, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * size, 2)

    def forward(self, batch):
        ids, mask = batch  # (B, T)
        x = self.dropout(self.embedding(ids))
        states, _ = self.recurrent(x, lengths=np.asarray(mask).sum(axis=1))
        largest = where(mask.unsqueeze(-1), states, -1.0).max(axis=1)  # (B, 2 size)
        return self.head(self.dropout(largest))


def in_one(examples):
    """A batch: ids filled up to the longest row, what is real of them, and labels."""
    rows, labels = zip(*examples, strict=True)
    return pad_sequences(rows), Tensor(labels, dtype=int)


def loaders_of(texts, labels, seed):
    """Of every ten sentences number 9 is for testing, number 8 for validation; and the words."""
    parts = {"train": range(8), "validation": [8], "test": [9]}
    members = {part: [n for n in range(len(texts)) if n % 10 in parts[part]] for part in parts}
    counts = Counter(word for n in members["train"] for word in words(texts[n]))
    known = [word for word, count in counts.items() if count > 1]
    ids = {word: number for number, word in enumerate(known, UNKNOWN + 1)}
    loaders = {}
    for part, numbers in members.items():
        rows = [([ids.get(word, UNKNOWN) for word in words(texts[n])], labels[n]) for n in numbers]
        options = {"shuffle": part == "train", "seed": seed, "collate_fn": in_one}
        loaders[part] = DataLoader(rows, batch_size=32, **options)
    return loaders, known


def learn(loaders, vocabulary, epochs=20):
    """Train until the validation loss has not fallen for two epochs; the model at its lowest."""
    model = Judge(vocabulary)
    optimizer = optim.AdamW(model.parameters(), lr=2e-3)
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), grad_clip_norm=1.0)
    best = {}

    def keep_best(trainer):
        losses = trainer.history["validation_loss"]
        if losses[-1] == min(losses):
            best.update(copy.deepcopy(model.state_dict()))

    options = {"metrics": [accuracy], "patience": 2, "callbacks": [keep_best]}
    trainer.fit(loaders["train"], epochs, validation=loaders["validation"], **options)
    model.load_state_dict(best)
    return trainer


def draw(pyplot, history, name):
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    epochs = range(1, len(history["lr"]) + 1)
    for part, style in (("train", "k.--"), ("validation", "k.-")):
        axes.plot(epochs, history[f"{part}_accuracy"], style, label=part)
    axes.set(title=f"{name}: a recurrent judge", xlabel="epoch", ylabel="share judged rightly")
    axes.set_xticks(epochs)
    axes.legend()
    return figure


def sentiment(chosen):
    """The test accuracy of the model that was best on the validation part."""
    if chosen.data:
        reviews, wanted, name = MovieReviews(), 0.75, "film reviews"
        texts, labels = reviews.texts, reviews.labels.tolist()
    else:
        (texts, labels), wanted, name = source_lines(), 0.95, "lines of tinytorch"
    loaders, known = loaders_of(texts, labels, chosen.seed)
    print(f"{len(texts):,} {name}, {len(known):,} words that come at least twice for training")
    manual_seed(chosen.seed)
    watch = Stopwatch()
    trainer = learn(loaders, UNKNOWN + 1 + len(known))
    reached, seconds = trainer.evaluate(loaders["test"], [accuracy])["accuracy"], watch.seconds
    picture("sentiment", lambda pyplot: draw(pyplot, trainer.history, name), chosen)
    return [Result(f"test accuracy on {name}", reached, wanted, seconds, 120)]

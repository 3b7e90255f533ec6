"""Judging a sentence: for or against a film, or without --data, prose or code."""

import copy
import re
from collections import Counter
from pathlib import Path

import numpy as np

import tinytorch
from tinytorch import Tensor, Trainer, accuracy, manual_seed, nn, optim, pad_sequences, randn, where
from tinytorch.data import DataLoader, MovieReviews
from tito.milestone import Result, Stopwatch, picture

UNKNOWN = 1  # the id of all words that are too rare; 0 is the padding


def words(text):
    """A sentence as words in lower case; of the marks, only ! and ? say something."""
    return re.findall(r"[^\W\d_]+|[!?]", text.lower())


def source_lines():
    """Lines of the package's own files: as many of code (0) as of docstrings and comments (1)."""
    code, prose = [], []
    for path in sorted(Path(tinytorch.__file__).parent.rglob("[!_]*.py")):
        parts = path.read_text(encoding="utf-8").split('"""')
        for docstring in parts[1::2]:
            prose += re.sub(r">>>.*?(\n\n|$)", "", docstring, flags=re.DOTALL).splitlines()
        for line in "".join(parts[::2]).splitlines():
            before, _, comment = line.partition("# ")
            code.append(before)
            prose.append("" if comment.startswith("%%") else comment)
    code, prose = (
        list({tuple(words(line)): line.strip() for line in lines if len(words(line)) > 2}.values())
        for lines in (code, prose)
    )
    code = code[:: len(code) // len(prose)][: len(prose)]
    return code + prose, [0] * len(code) + [1] * len(prose)


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
    rows, labels = zip(*examples, strict=True)
    return pad_sequences(rows), Tensor(labels, dtype=int)


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
    """Ten parts in turn: number 9 of each ten sentences is for testing, number 8 for validation."""
    if chosen.data:
        reviews, wanted, name = MovieReviews(), 0.75, "film reviews"
        texts, labels = reviews.texts, reviews.labels.tolist()
    else:
        (texts, labels), wanted, name = source_lines(), 0.95, "lines of tinytorch"
    parts = {"train": range(8), "validation": [8], "test": [9]}
    numbers = {part: [n for n in range(len(texts)) if n % 10 in parts[part]] for part in parts}
    counts = Counter(word for n in numbers["train"] for word in words(texts[n]))
    known = [word for word, count in counts.items() if count > 1]
    ids = {word: number for number, word in enumerate(known, UNKNOWN + 1)}
    print(f"{len(texts):,} {name}, {len(known):,} words that come at least twice for training")
    manual_seed(chosen.seed)
    loaders = {}
    for part, members in numbers.items():
        rows = [([ids.get(word, UNKNOWN) for word in words(texts[n])], labels[n]) for n in members]
        options = {"shuffle": part == "train", "seed": chosen.seed, "collate_fn": in_one}
        loaders[part] = DataLoader(rows, batch_size=32, **options)
    watch = Stopwatch()
    trainer = learn(loaders, UNKNOWN + 1 + len(known))
    reached, seconds = trainer.evaluate(loaders["test"], [accuracy])["accuracy"], watch.seconds
    picture("sentiment", lambda pyplot: draw(pyplot, trainer.history, name), chosen)
    return [Result(f"test accuracy on {name}", reached, wanted, seconds, 120)]

"""A text in numbers: random windows to learn from, and all of it side by side to be tested."""

from collections import Counter
from itertools import pairwise

import numpy as np
from sources import sources

from tinytorch import CharTokenizer, Tensor, TinyShakespeare


class Text:
    """Characters as numbers: nine tenths to learn from, the last tenth for validation."""

    def __init__(self, real):
        if real:
            self.name, text = "TinyShakespeare", TinyShakespeare().text
        else:
            self.name, text = "tinytorch's own files", "".join(sources())
        self.tokenizer = CharTokenizer(text)
        ids = np.array(self.tokenizer.encode(text))
        self.train, self.validation = np.split(ids, [len(ids) * 9 // 10])
        print(f"{self.name}: {len(ids):,} characters, {self.tokenizer.vocab_size} different ones")

    def loss_of_counts(self, before=3, extra=0.03):
        """The validation loss of a table: how often each character followed the `before` last ones.

        Each count is `extra` larger than it is, so that nothing is impossible.
        """

        def rows(ids):
            return zip(*(ids[start:].tolist() for start in range(before + 1)), strict=False)

        counts = Counter(rows(self.train))
        totals = Counter(row[:-1] for row in rows(self.train))
        size = self.tokenizer.vocab_size
        shares = [
            (counts[row] + extra) / (totals[row[:-1]] + extra * size)
            for row in rows(self.validation)
        ]
        return -np.log(shares).mean().item()


class Windows:
    """`steps` batches of random windows; the targets are the characters that follow theirs."""

    def __init__(self, ids, length, batch_size, steps, seed):
        self.ids, self.length, self.batch_size, self.steps = ids, length, batch_size, steps
        self.random = np.random.default_rng(seed)

    def __len__(self):
        return self.steps

    def __iter__(self):
        for _ in range(self.steps):
            starts = self.random.integers(len(self.ids) - self.length, size=(self.batch_size, 1))
            windows = self.ids[starts + np.arange(self.length + 1)]
            yield Tensor(windows[:, :-1]), Tensor(windows[:, 1:].reshape(-1))


def pages(ids, length, batch_size=16):
    """The whole text in windows side by side, the last one shorter: each target comes once."""
    last = len(ids) - 1
    rest = last // length * length
    for start, end in pairwise([*range(0, rest, length * batch_size), rest, last]):
        if start < end:
            inputs, targets = ids[start:end], ids[start + 1 : end + 1]
            yield Tensor(inputs.reshape(-1, min(length, end - start))), Tensor(targets)

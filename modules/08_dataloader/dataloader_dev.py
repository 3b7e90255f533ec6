# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp data.loader

# %% [markdown]
r"""
# Data

> From files to batches: the same ones in the same order, however they are loaded.

**Built before:** tensors, layers, losses, autograd, optimizers and a trainer that takes "anything that gives batches".
**Built here:** that thing. Data sets, the `DataLoader` with worker processes, transforms that draw random numbers, and readers of the file formats of MNIST and CIFAR-10.
**Time:** 4 hours. **Points:** 84 for code, 16 for the questions at the end.
"""

# %%
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import gzip
import hashlib
import io
import math
import multiprocessing
import os
import pickle
import signal
import sys
import tarfile
import tempfile
import threading
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

import numpy as np

import tinytorch
from tinytorch.core import tensor
from tinytorch.core.tensor import Tensor

# %%
import time
from types import SimpleNamespace

from tinytorch.core.layers import Flatten, Linear, Sequential
from tinytorch.core.activations import ReLU
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import SGD, Adam
from tinytorch.core.tensor import manual_seed
from tinytorch.core.training import Trainer, accuracy

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the lesson works without pictures

# %% [markdown]
r"""
## The order matters

Below, a linear model sees each of the 1,797 digits once, in batches of 32. The first time they come sorted by label, all zeros first and all nines last, as they may lie on a disk. The second time they come in random order. Model, step size and images are the same.

**Predict:** how many of the digits does each of the two get right afterwards? Write two numbers down.
"""

# %%
with np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz") as file:
    pixels, labels = file["images"], file["labels"]
inputs, targets = Tensor(pixels.reshape(-1, 64) / 16), Tensor(labels, dtype=int)


def share_right_after_one_pass(order):
    manual_seed(0)
    model, loss_fn = Linear(64, 10), CrossEntropyLoss()
    optimizer = SGD(model.parameters(), lr=0.5)
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        optimizer.zero_grad()
        loss_fn(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return accuracy(model(inputs), targets)


print("sorted:  ", share_right_after_one_pass(np.argsort(labels, kind="stable")))
print("shuffled:", share_right_after_one_pass(np.random.default_rng(0).permutation(len(labels))))

# %% [markdown]
r"""
The sorted model has just seen nothing but nines, and has forgotten the rest. So somebody must shuffle, and shuffle anew in every epoch. The same somebody must cut the order into batches, stack examples of any kind, change them at random so that the model doesn't learn them by heart, load ahead while the model works, and know where it stopped yesterday. All of it must give the *same* batches again when you ask for the same seed, or no experiment can be repeated.

```
 files --> Dataset --> order --> examples --> transform --> collate --> batch --> Trainer
           "number i"  seed,     one by one   seed, epoch,  stack
                       epoch     or at once   index
```

## A data set counts and answers

Whatever the files look like, two questions are enough: *how many examples?* and *which is number i?* In Python these are `len(dataset)` and `dataset[i]`.
"""


# %% nbgrader={"grade": false, "grade_id": "dataset", "locked": true, "solution": false}
#| export
class Dataset(ABC):
    """Examples that can be counted and asked for by number; subclasses say how."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """Example `index`: a tensor, an array or a number, or a tuple or dict of these."""

    def batch(self, indices: np.ndarray) -> Any:
        """The examples `indices` in one; subclasses that can do it without a loop override it."""
        return collate([self[int(index)] for index in indices])


# %% [markdown]
r"""
The decorator `@abstractmethod` says: who derives from `Dataset` must write this. `batch` is given, in words that need something you will write in a minute.

**Exercise 1 (6 points).** `TensorDataset(a, b, ...)`: example i is the tuple `(a[i], b[i], ...)`.

- `__init__` keeps `self.tensors`, a tuple of Tensors; what isn't a Tensor becomes one. All must have an axis 0 of one length: `ValueError` for none, for shape `()`, for lengths 3 and 4.
- `__getitem__(index)`: a tuple of Tensors, also where `index` is an array of numbers.
- `batch(indices)`: all of them at once, by one indexing of each tensor.

Worked: with `a` of shape (3, 2) and labels `[0, 1, 0]`, example 1 is `(a[1], Tensor(1))`, and `batch(np.array([2, 0]))` has shapes (2, 2) and (2,). Batches are data, without history: index `t.data` and wrap the result by `Tensor._wrap(np.asarray(...))`, which copies nothing more.
"""


# %% nbgrader={"grade": false, "grade_id": "tensor-dataset", "locked": false, "solution": true}
#| export
class TensorDataset(Dataset):
    """Example i is (a[i], b[i], ...) of tensors or arrays of one length.

    >>> pairs = TensorDataset(Tensor([[1, 2], [3, 4], [5, 6]]), np.array([0, 1, 0]))
    >>> len(pairs), pairs[1]
    (3, (Tensor([3., 4.]), Tensor(1)))
    """

    def __init__(self, *tensors: Any):
        ### BEGIN SOLUTION
        self.tensors = tuple(t if isinstance(t, Tensor) else Tensor(t) for t in tensors)
        shapes = [t.shape for t in self.tensors]
        if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(f"TensorDataset: expected tensors of one length, got shapes {shapes}")
        ### END SOLUTION

    def __len__(self) -> int:
        ### BEGIN SOLUTION
        return self.tensors[0].shape[0]
        ### END SOLUTION

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        ### BEGIN SOLUTION
        return tuple(Tensor._wrap(np.asarray(t.data[index])) for t in self.tensors)
        ### END SOLUTION

    def batch(self, indices: np.ndarray) -> tuple[Tensor, ...]:
        """The examples `indices`, by one indexing of each tensor."""
        ### BEGIN SOLUTION
        return self[indices]
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-tensor-dataset", "locked": true, "points": 6, "solution": false}
def test_tensor_dataset():
    a = Tensor([[1, 2], [3, 4], [5, 6]])
    pairs = TensorDataset(a, np.array([0, 1, 0]))
    check(len(pairs), 3, "the length of axis 0")
    check(pairs[1], (Tensor([3.0, 4.0]), Tensor(np.array(1))), "example 1 is row 1 of each")
    images, targets = pairs.batch(np.array([2, 0]))
    check(images, [[5.0, 6.0], [1.0, 2.0]], "the rows asked for, in the order asked for")
    check(targets, np.array([0, 0]), "labels stay whole numbers")
    with check_raises(ValueError, "", "lengths 3 and 4 don't go together"):
        TensorDataset(np.zeros(3), np.zeros(4))
    ### BEGIN HIDDEN TESTS
    check(pairs[-1][0], [5.0, 6.0], "negative numbers count from the end")
    with check_raises(ValueError, "", "no tensors, no examples"):
        TensorDataset()
    with check_raises(ValueError, "", "a single number has no axis 0"):
        TensorDataset(np.float32(1))
    with check_raises(IndexError, "", "there is no example 3"):
        pairs[3]
    (x,) = TensorDataset(Tensor([1.0, 2.0], requires_grad=True)).batch(np.array([1]))
    check(x.requires_grad, False, "a batch has no history")
    ### END HIDDEN TESTS


test_tensor_dataset()

# %% [markdown]
r"""
## Many examples, one tensor

A model wants one tensor (32, 64), not 32 tensors (64,). Stacking is easy as long as every example is a tensor; but examples are also tuples of an image and a label, dicts from a JSON file, or names. So `collate` looks at the first example and follows its structure down.

```
 [(image0, 3, "a.png"),          (Tensor of images (2, 1, 8, 8),
  (image1, 5, "b.png")]   -->     Tensor([3, 5]),
                                  ["a.png", "b.png"])
```

**Exercise 2 (6 points).** Write `collate(examples)`:

- tuples: a tuple, position by position collated; dicts: a dict, key by key collated; strings: a list;
- everything else (Tensor, array, number, list of numbers): one Tensor with a new axis 0. It keeps a Tensor's dtype; otherwise `Tensor(...)` chooses it, so that Python floats become float32;
- different shapes in one place: `ValueError` that names the shapes.

<details><summary>Hint</summary>`zip(*examples)` turns a list of pairs into a pair of lists.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "collate", "locked": false, "solution": true}
#| export
def collate(examples: Sequence[Any]) -> Any:
    """Examples in one batch, along a new first axis.

    Tensors, arrays, lists and numbers become one Tensor; tuples and dicts are collated part by
    part; strings stay a list.

    >>> collate([(Tensor([1, 2]), 0), (Tensor([3, 4]), 1)])
    (Tensor([[1., 2.],
            [3., 4.]]), Tensor([0, 1]))
    """
    ### BEGIN SOLUTION
    first = examples[0]
    if isinstance(first, tuple):
        return tuple(collate(parts) for parts in zip(*examples, strict=True))
    if isinstance(first, dict):
        return {key: collate([example[key] for example in examples]) for key in first}
    if isinstance(first, str):
        return list(examples)
    arrays = [x.data if isinstance(x, Tensor) else np.asarray(x) for x in examples]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(
            f"collate: shapes {shapes} in one batch: make them equal or give collate_fn"
        )
    stacked = np.stack(arrays)
    return Tensor._wrap(stacked) if isinstance(first, Tensor) else Tensor(stacked)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-collate", "locked": true, "points": 6, "solution": false}
def test_collate():
    rows = [(Tensor([1, 2]), 0), (Tensor([3, 4]), 1)]
    check(
        collate(rows), (Tensor([[1, 2], [3, 4]]), Tensor(np.array([0, 1]))), "position by position"
    )
    batch = collate([{"x": 1.5, "name": "a"}, {"x": 2.5, "name": "b"}])
    check(batch["name"], ["a", "b"], "strings can't be stacked: keep them in a list")
    check(batch["x"].dtype, np.float32, "Python floats become float32")
    with check_raises(ValueError, "(3,)", "say which shapes don't fit"):
        collate([np.zeros(2), np.zeros(3)])
    ### BEGIN HIDDEN TESTS
    double = Tensor(1.0, dtype=np.float64)
    check(collate([double, double]).dtype, np.float64, "a Tensor's dtype is kept")
    check(collate([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]]), "a list of numbers is data")
    check(
        collate([((1, 2), 3)]),
        ((Tensor(np.array([1])), Tensor(np.array([2]))), Tensor(np.array([3]))),
        "tuples may hold tuples",
    )
    ### END HIDDEN TESTS


test_collate()

# %% [markdown]
r"""
Why does `Dataset` have a method `batch` at all, if `collate([self[i] for i in indices])` always works? **Predict** how much faster one indexing is than a loop over 64 examples and a stack: 2 times, 10 times, 100 times?
"""


# %%
def milliseconds(function, repeats=30):
    """The median of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


pairs = TensorDataset(inputs, targets)
print("batch size     loop     at once   ratio")
for size in (1, 16, 64, 256):
    rows = np.arange(size)
    loop = milliseconds(lambda rows=rows: Dataset.batch(pairs, rows))
    at_once = milliseconds(lambda rows=rows: pairs.batch(rows))
    print(f"{size:10} {loop:7.3f} ms {at_once:7.3f} ms {loop / at_once:7.1f}")

# %% [markdown]
r"""
The loop pays Python for every example, the indexing once for a batch.

## A part of a data set

**Exercise 3 (4 points).** `Subset(dataset, indices)` is a data set whose example i is example `indices[i]` of another. An index outside of 0 ... len(dataset) - 1 raises `IndexError` at once, not in the middle of the night. `batch` must hand on to `dataset.batch`, so that what is fast stays fast.
"""


# %% nbgrader={"grade": false, "grade_id": "subset", "locked": false, "solution": true}
#| export
class Subset(Dataset):
    """The examples of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: Dataset, indices: Sequence[int] | np.ndarray):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        ### BEGIN SOLUTION
        outside = self.indices[(self.indices < 0) | (self.indices >= len(dataset))]
        if outside.size:
            raise IndexError(f"Subset: index {outside[0]} of a dataset of {len(dataset)} examples")
        ### END SOLUTION

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        ### BEGIN SOLUTION
        return self.dataset[int(self.indices[index])]
        ### END SOLUTION

    def batch(self, indices: np.ndarray) -> Any:
        ### BEGIN SOLUTION
        return self.dataset.batch(self.indices[indices])
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-subset", "locked": true, "points": 4, "solution": false}
def test_subset():
    tens = TensorDataset(np.arange(10) * 10)
    odd = Subset(tens, [1, 3, 5])
    check(odd[2][0].item(), 50, "example 2 of the subset is example indices[2] of the whole")
    check(odd.batch(np.array([2, 0]))[0], np.array([50, 10]), "batches are renumbered too")
    with check_raises(IndexError, "10", "there are 10 examples: the last is number 9"):
        Subset(tens, [0, 10])
    ### BEGIN HIDDEN TESTS
    check(Subset(odd, [2, 1])[0][0].item(), 50, "a subset of a subset")
    with check_raises(IndexError, "-1", "negative numbers are outside"):
        Subset(tens, [-1])
    check(type(Subset(tens, [3]).batch(np.array([0]))), tuple, "what dataset.batch gives")
    part = Subset(tens, [4, 2])
    part.dataset = SimpleNamespace(batch=lambda rows: rows.tolist())
    check(
        part.batch(np.array([1])),
        [2],
        "ask the data set for the whole batch, not for one example after the other",
    )
    ### END HIDDEN TESTS


test_subset()

# %% [markdown]
r"""
## Random numbers with an address

A generator of random numbers is a long tape: what you read depends on how much was read before. If three workers share the work, who reads first? If a run stops in epoch 7 and goes on tomorrow, where was the tape? The way out is not one tape but one for every purpose, found by its *address*: the order of epoch 7 comes from tape (seed, 7), and what happens to image 42 in epoch 7 from tape (seed, 7, 42).

NumPy mixes several whole numbers into a start of a tape. **Predict:** do the following four addresses lead to four different tapes?
"""

# %%
for address in ([5, 7], [5, 7, 0], [5, 7, 0, 0], [5 + 7 * 2**32]):
    print(f"{address!s:14}", np.random.default_rng(address).random())

# %% [markdown]
r"""
All the same tape. NumPy fills a short list up with zeros and cuts large numbers into pieces of 32 bits. Image 0 would draw the numbers that shuffled its epoch. `np.random.SeedSequence(seed, spawn_key=(7, 0))` keeps the two apart: the seed fills its places first, then come the parts of the key, and their number counts.

**Exercise 4 (5 points).** `keyed_generator(seed, *key)` returns an `np.random.Generator` for this address. The same address gives the same numbers; `(0, 7)`, `(0, 7, 0)`, `(7, 0)` and `(0,)` give four different ones.
"""


# %% nbgrader={"grade": false, "grade_id": "keyed-generator", "locked": false, "solution": true}
#| exporti
def keyed_generator(seed: int, *key: int) -> np.random.Generator:
    """Random numbers that depend on (seed, key) and nothing else: not on what was drawn before.

    >>> keyed_generator(0, 3).random() == keyed_generator(0, 3).random()
    True
    >>> keyed_generator(0, 3).random() == keyed_generator(0, 3, 0).random()
    False
    """
    ### BEGIN SOLUTION
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-keyed-generator", "locked": true, "points": 5, "solution": false}
def test_keyed_generator():
    check(keyed_generator(3, 7).random(), keyed_generator(3, 7).random(), "one address, one tape")
    addresses = [(0,), (0, 7), (0, 7, 0), (7, 0), (0, 0, 7), (7,)]
    draws = {keyed_generator(*address).random() for address in addresses}
    check(len(draws), len(addresses), "every part of the address counts, zeros too: spawn_key=key")
    ### BEGIN HIDDEN TESTS
    np.random.default_rng(0).random()
    check(
        len({keyed_generator(0, 1, i).random() for i in range(1000)}),
        1000,
        "every index has a tape",
    )
    check(
        keyed_generator(5, 7).random() == keyed_generator(5 + 7 * 2**32).random(),
        False,
        "a large seed is not a key",
    )
    ### END HIDDEN TESTS


test_keyed_generator()


# %% nbgrader={"grade": false, "grade_id": "new-seed", "locked": true, "solution": false}
#| exporti
def _given_or_new(seed: int | None) -> int:
    """`seed`, or where there is none a number that `manual_seed` decides."""
    return int(tensor.generator.integers(2**63)) if seed is None else seed


# %% [markdown]
r"""
`_given_or_new` serves those who give no seed: the framework's own generator makes one up, so that `manual_seed` still decides.

**Exercise 5 (6 points).** `random_split(dataset, lengths, seed=None)` deals all examples out at random: a list of Subsets, none of which shares an example with another.

- `lengths` are counts that add up to `len(dataset)`, or fractions (floats) that add up to 1.
- Fractions are rounded down, and what is left over goes to the first parts, one each: 10 examples in thirds are 4, 3, 3.
- Anything else: `ValueError`. The order comes from `keyed_generator(_given_or_new(seed))`.
"""


# %% nbgrader={"grade": false, "grade_id": "random-split", "locked": false, "solution": true}
#| export
def random_split(
    dataset: Dataset, lengths: Sequence[int | float], seed: int | None = None
) -> list[Subset]:
    """Subsets of random examples that share none: `lengths` are counts, or fractions that sum to 1.

    >>> [len(part) for part in random_split(TensorDataset(np.zeros(10)), [0.75, 0.25], seed=0)]
    [8, 2]
    """
    ### BEGIN SOLUTION
    total, counts = len(dataset), [int(length) for length in lengths]
    if any(isinstance(length, float) for length in lengths) and math.isclose(sum(lengths), 1):
        counts = [math.floor(total * fraction) for fraction in lengths]
        for part in range(total - sum(counts)):
            counts[part] += 1  # what rounding down left over, one each from the front
    if sum(counts) != total or min(counts) < 0:
        raise ValueError(f"random_split: lengths {lengths}: expected a sum of {total}, or of 1.0")
    order = keyed_generator(_given_or_new(seed)).permutation(total)
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(counts)[:-1])]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-random-split", "locked": true, "points": 6, "solution": false}
def test_random_split():
    ten = TensorDataset(np.arange(10))
    parts = random_split(ten, [1 / 3, 1 / 3, 1 / 3], seed=0)
    check([len(part) for part in parts], [4, 3, 3], "round down, then one more for the first parts")
    dealt = np.sort(np.concatenate([part.indices for part in parts]))
    check(dealt, np.arange(10), "every example in exactly one part")
    check([len(part) for part in random_split(ten, [7, 3], seed=0)], [7, 3], "counts are counts")
    with check_raises(ValueError, "", "7 + 4 is not 10"):
        random_split(ten, [7, 4])
    ### BEGIN HIDDEN TESTS
    hundred = TensorDataset(np.arange(100))
    first, again, other = (
        random_split(hundred, [100], seed=s)[0].indices.tolist() for s in (0, 0, 1)
    )
    check(first == again and first != other, True, "the seed decides")
    check(first == list(range(100)), False, "at random, not in order")
    for lengths in ([0.5, 0.4], [11, -1]):
        with check_raises(ValueError, "", f"{lengths} don't deal out 10 examples"):
            random_split(ten, lengths)
    ### END HIDDEN TESTS


test_random_split()

# %% [markdown]
r"""
## An epoch is a list of index arrays

For N examples and batches of B, an epoch has $\lceil N / B \rceil$ batches, of which the last may be smaller: 7 examples in threes are 3, 3 and 1. A batch of one can be noisy, or break a layer that needs several; `drop_last` leaves it out.

**Exercise 6 (6 points).** `epoch_batches(examples, batch_size, shuffle, drop_last, seed, epoch)` returns the list of index arrays. Shuffled, the order is a permutation from `keyed_generator(seed, epoch)`.
"""


# %% nbgrader={"grade": false, "grade_id": "epoch-batches", "locked": false, "solution": true}
#| exporti
def epoch_batches(
    examples: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int, epoch: int
) -> list[np.ndarray]:
    """Which examples make up each batch of an epoch: arrays of indices.

    The last one may be smaller, unless it is dropped.

    >>> epoch_batches(5, 2, shuffle=False, drop_last=False, seed=0, epoch=0)
    [array([0, 1]), array([2, 3]), array([4])]
    """
    ### BEGIN SOLUTION
    order = np.arange(examples)
    if shuffle:
        order = keyed_generator(seed, epoch).permutation(examples)
    end = examples - examples % batch_size if drop_last else examples
    return [order[start : start + batch_size] for start in range(0, end, batch_size)]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-epoch-batches", "locked": true, "points": 6, "solution": false}
def test_epoch_batches():
    batches = epoch_batches(7, 3, shuffle=False, drop_last=False, seed=0, epoch=0)
    check([b.tolist() for b in batches], [[0, 1, 2], [3, 4, 5], [6]], "the last one may be smaller")
    batches = epoch_batches(7, 3, shuffle=True, drop_last=True, seed=0, epoch=0)
    check([len(b) for b in batches], [3, 3], "drop_last leaves out what isn't a whole batch")
    orders = [np.concatenate(epoch_batches(50, 8, True, False, 3, e)).tolist() for e in (0, 1, 0)]
    check(sorted(orders[0]), list(range(50)), "every example once in an epoch")
    check(orders[0] == orders[2], True, "(seed, epoch) decide, and nothing else")
    check(orders[0] == orders[1], False, "every epoch has an order of its own")
    ### BEGIN HIDDEN TESTS
    check(
        len(epoch_batches(6, 3, False, True, 0, 0)),
        2,
        "nothing to drop where the batches are whole",
    )
    check(epoch_batches(2, 5, False, True, 0, 0), [], "not one whole batch")
    other = np.concatenate(epoch_batches(50, 8, True, False, 4, 0)).tolist()
    check(orders[0] == other, False, "every seed has orders of its own")
    ### END HIDDEN TESTS


test_epoch_batches()

# %% [markdown]
r"""
## One batch

A *transform* changes an example on its way into a batch: it shifts an image by a pixel, mirrors or turns it, so that the model never sees quite the same image twice. It is called `transform(x, generator)` and draws from the generator that it is given, the one with the address (seed, epoch, index).

**Exercise 7 (6 points).** `load_batch(loader, epoch, indices)` returns the batch. `loader` has `.dataset`, `.transform` (or None), `.collate_fn` and `.seed`.

- Without a transform and with our own `collate`, a `Dataset` does it alone: `dataset.batch(indices)`.
- Otherwise example by example: `dataset[index]` with a Python int, then the transform, on the first part if the example is a tuple (the image, not its label), on the example itself if not; in the end `loader.collate_fn(examples)`.

Anything with `[i]` may be a data set here, a list too: lists have no `batch`.
"""


# %% nbgrader={"grade": false, "grade_id": "load-batch", "locked": false, "solution": true}
#| exporti
def load_batch(loader: DataLoader, epoch: int, indices: np.ndarray) -> Any:
    """The examples `indices` as one batch, transformed and collated as the loader says.

    A transform changes an example, or the first part of one that is a tuple, with random numbers
    of its own for each (seed, epoch, index).
    """
    ### BEGIN SOLUTION
    dataset, transform = loader.dataset, loader.transform
    if transform is None and loader.collate_fn is collate and isinstance(dataset, Dataset):
        return dataset.batch(indices)
    examples = []
    for index in indices.tolist():
        example = dataset[index]
        if transform is not None:
            generator = keyed_generator(loader.seed, epoch, index)
            if isinstance(example, tuple):
                example = (transform(example[0], generator), *example[1:])
            else:
                example = transform(example, generator)
        examples.append(example)
    return loader.collate_fn(examples)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-load-batch", "locked": true, "points": 6, "solution": false}
def plain_loader(dataset, transform=None, collate_fn=collate):
    return SimpleNamespace(dataset=dataset, transform=transform, collate_fn=collate_fn, seed=5)


def add_noise(x, generator):
    return x + generator.random()


class NamesKinds(Dataset):
    """Example i is the name of the type of i."""

    def __len__(self):
        return 9

    def __getitem__(self, index):
        return type(index).__name__


def test_load_batch():
    squares = [(Tensor([i]), i * i) for i in range(10)]
    xs, ys = load_batch(plain_loader(squares), 0, np.array([3, 1]))
    check((xs, ys), (Tensor([[3], [1]]), Tensor(np.array([9, 1]))), "examples 3 and 1, collated")
    xs, ys = load_batch(plain_loader(squares, add_noise), 2, np.array([3, 1]))
    expected = [[3 + keyed_generator(5, 2, 3).random()], [1 + keyed_generator(5, 2, 1).random()]]
    check(xs, expected, "the generator of example i is keyed_generator(seed, epoch, i)")
    check(ys, np.array([9, 1]), "a transform changes the first part of a tuple only")
    ### BEGIN HIDDEN TESTS
    only = [Tensor([i]) for i in range(10)]
    x = load_batch(plain_loader(only, add_noise), 0, np.array([4]))
    check(
        x,
        [[4 + keyed_generator(5, 0, 4).random()]],
        "an example that is no tuple is changed itself",
    )
    check(load_batch(plain_loader(only, None, len), 0, np.arange(6)), 6, "collate_fn gets the list")
    quick = TensorDataset(np.arange(10))
    quick.batch = lambda rows: "at once"
    check(
        load_batch(plain_loader(quick), 0, np.arange(3)),
        "at once",
        "dataset.batch where it can be used",
    )
    check(
        load_batch(plain_loader(NamesKinds(), lambda x, generator: x), 0, np.array([1])),
        ["int"],
        "ask by Python ints: indices.tolist()",
    )
    ### END HIDDEN TESTS


test_load_batch()

# %% [markdown]
r"""
## The loader

The class below is given. It holds no idea that you haven't written, but it must know where it is: `epoch` is the epoch that runs, `batch` the number of its batches that are out, and `start` the place where the next `for` begins. Read `__iter__` and `_run` slowly.
"""


# %% nbgrader={"grade": false, "grade_id": "dataloader", "locked": true, "solution": false}
#| export
class DataLoader:
    """Batches of a dataset; each `for` over it is the next epoch.

    The order is a function of (`seed`, `epoch`), and what `transform(x, generator)` draws one of
    (`seed`, `epoch`, index), whatever `num_workers`, the number of processes that load batches
    ahead. Without a `seed`, `manual_seed` decides. `state_dict` says how far the loader has come.

    >>> loader = DataLoader(TensorDataset(Tensor([1, 2, 3])), batch_size=2)
    >>> [x for x, in loader]
    [Tensor([1., 2.]), Tensor([3.])]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        num_workers: int = 0,
        drop_last: bool = False,
        seed: int | None = None,
        transform: Callable[[Any, np.random.Generator], Any] | None = None,
        collate_fn: Callable[[list], Any] = collate,
        multiprocessing_context: str | None = None,
    ):
        numbers = {"batch_size": (batch_size, 1), "num_workers": (num_workers, 0)}
        numbers |= {"seed": (seed, 0)} if seed is not None else {}
        for name, (value, least) in numbers.items():
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"DataLoader: {name} must be an int >= {least}, got {value!r}")
        if len(dataset) < (batch_size if drop_last else 1):
            what = f"with drop_last and batch_size {batch_size}" if len(dataset) else "to load"
            raise ValueError(f"DataLoader: nothing {what}: the dataset has {len(dataset)} examples")
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.seed = int(_given_or_new(seed))
        self.transform = transform
        self.collate_fn = collate_fn
        self.multiprocessing_context = multiprocessing_context
        self.epoch = self.batch = 0  # the epoch that runs, and how many of its batches are out
        self.start = (0, 0)  # the (epoch, batch) at which the next `for` begins

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        self.epoch, self.batch = self.start
        self.start = (self.epoch + 1, 0)
        return self._run(self.epoch, self.batch)

    def _run(self, epoch: int, first: int) -> Iterator[Any]:
        """The batches of an epoch, from number `first` on; what is skipped isn't loaded."""
        options = (self.batch_size, self.shuffle, self.drop_last, self.seed)
        batches = epoch_batches(len(self.dataset), *options, epoch)[first:]
        if self.num_workers:
            loaded = load_in_workers(self, epoch, batches)
        else:
            loaded = (load_batch(self, epoch, indices) for indices in batches)
        for number, batch in enumerate(loaded, first + 1):
            self.epoch, self.batch = epoch, number
            yield batch
        self.epoch, self.batch = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """How far the loader has come, and what the order depends on: plain numbers, for JSON."""
        order = {key: getattr(self, key) for key in ("batch_size", "shuffle", "drop_last")}
        place = {"seed": self.seed, "epoch": self.epoch, "batch": self.batch}
        return {**place, **order, "examples": len(self.dataset)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`: the next `for` begins with the batch that was next then."""
        own = self.state_dict()
        for key in own.keys() - {"seed", "epoch", "batch"}:
            if state.get(key) != own[key]:
                was = state.get(key)
                raise ValueError(f"DataLoader: the state has {key} {was}, this loader {own[key]}")
        self.seed = state["seed"]
        self.epoch, self.batch = self.start = (state["epoch"], state["batch"])


# %% [markdown]
r"""
A loop that was interrupted after two batches of epoch 1, saved (`state_dict` is plain numbers, ready for JSON) and continued by *another* loader: **predict** which line it prints first, and whether it has to load what was already seen.
"""


# %%
class Spoken(Dataset):
    """Ten letters, and a note of each one that is loaded."""

    def __init__(self):
        self.loaded = ""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.loaded += "abcdefghij"[index]
        return "abcdefghij"[index]


loader = DataLoader(Spoken(), batch_size=3, shuffle=True, seed=1)
print("epoch 0:", ["".join(batch) for batch in loader])
for batch in loader:
    print("epoch 1:", "".join(batch))
    if loader.batch == 2:
        break
saved = loader.state_dict()
print(saved)

other = DataLoader(Spoken(), batch_size=3, shuffle=True)
other.load_state_dict(saved)
print("the rest of epoch 1:", ["".join(batch) for batch in other])
print("loaded for it:", other.dataset.loaded)

# %% [markdown]
r"""
## Workers

If an example takes 5 ms to read and decode, a batch of 32 takes 160 ms, in which the model waits. Python runs one thread at a time, so help comes from other *processes*: each has a copy of the data set, loads whole batches, and sends them back.

```
 without:   load 0 | train 0 | load 1 | train 1 | load 2 | train 2 | ...
 worker A:  load 0 | load 2  | load 4  | ...
 worker B:  load 1 | load 3  | ...
 model:     ...... | train 0 | train 1 | train 2 | ...
```

Workers finish in any order, but batches must come in theirs. And workers may not run ahead without limit, or the whole data set piles up in memory. `submit(item)` starts a job somewhere and returns at once with a *future*, whose `.result()` waits until the job is done and gives its result (or raises its exception). That is all that is needed:

**Exercise 8 (8 points).** `run_ahead(submit, items, limit)` yields the result for each item, in order, while at most `limit` jobs are submitted whose results weren't taken. With `limit` 2 and items 1, 2, 3: submit 1, submit 2, take 1, submit 3, take 2, take 3.

<details><summary>Hint</summary>A `deque` is a queue: `append` at one end, `popleft` at the other. `islice(waiting, n)` takes up to n more from an iterator `waiting = iter(items)`.</details>
"""


# %% nbgrader={"grade": false, "grade_id": "run-ahead", "locked": false, "solution": true}
#| exporti
def run_ahead(submit: Callable[[Any], Future], items: Iterable[Any], limit: int) -> Iterator[Any]:
    """submit(item).result() for each item, in order, with at most `limit` not yet taken."""
    ### BEGIN SOLUTION
    waiting = iter(items)
    running = deque(submit(item) for item in islice(waiting, limit))
    while running:
        result = running.popleft().result()
        running.extend(submit(item) for item in islice(waiting, 1))
        yield result
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-run-ahead", "locked": true, "points": 8, "solution": false}
class Job:
    """A future whose job is done when its result is asked for; `log` tells what happened when."""

    def __init__(self, item, log):
        self.item, self.log = item, log
        log.append(f"submit {item}")

    def result(self):
        self.log.append(f"take {self.item}")
        return 10 * self.item


def test_run_ahead():
    log = []
    check(list(run_ahead(lambda item: Job(item, log), [1, 2, 3], 2)), [10, 20, 30], "in order")
    expected = ["submit 1", "submit 2", "take 1", "submit 3", "take 2", "take 3"]
    check(log, expected, "fill up to the limit, take the oldest, submit one more")
    ### BEGIN HIDDEN TESTS
    log.clear()
    results = run_ahead(lambda item: Job(item, log), iter(range(100)), 4)
    check([next(results), next(results)], [0, 10], "one result at a time: yield")
    check(sum(entry.startswith("submit") for entry in log) <= 6, True, "don't run further ahead")
    check(list(run_ahead(lambda item: Job(item, log), [], 3)), [], "nothing to do")
    check(list(run_ahead(lambda item: Job(item, log), [1], 3)), [10], "fewer items than the limit")
    check(list(run_ahead(lambda item: Job(item, log), [1, 2], 1)), [10, 20], "a limit of one")
    ### END HIDDEN TESTS


test_run_ahead()

# %% [markdown]
r"""
The processes come from Python's `ProcessPoolExecutor`. What is given below is about how processes end:

- `workers.shutdown` stands in a `finally`: leave the loop by `break` or by an error, and no process stays;
- should the parent be killed, a thread in each worker notices and ends it;
- an exception travels back by pickle, together with its traceback; one that can't be pickled is sent as text.
"""

# %% nbgrader={"grade": false, "grade_id": "worker", "locked": true, "solution": false}
#| exporti
_in_worker: dict[str, DataLoader] = {}  # a worker process keeps its loader here


def _start_worker(loader: DataLoader) -> None:
    """Prepare a worker process."""
    _in_worker["loader"] = loader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)  # the parent was killed: nobody else would end this process

    threading.Thread(target=end_with_parent, daemon=True).start()


def _load_in_worker(epoch: int, indices: np.ndarray) -> Any:
    """load_batch, in a worker process."""
    try:
        return load_batch(_in_worker["loader"], epoch, indices)
    except Exception as error:
        failure = error
    try:
        pickle.loads(pickle.dumps(failure))
    except Exception:  # it can't travel: send its text
        failure = RuntimeError("".join(traceback.format_exception(failure)))
    raise failure  # here, so that it brings no other along as its context


# %% [markdown]
r"""
How does a new process come by the data set? By `fork` (Linux) it is a copy of this one, memory and all. By `spawn` (macOS, Windows) it is a fresh Python that must *import* the class of the data set, and nothing can be imported from a notebook. Instead of a page of errors from a process that dies, you get one line:
"""


# %% nbgrader={"grade": false, "grade_id": "importable", "locked": true, "solution": false}
#| exporti
class _ImportCheck(pickle.Pickler):
    """Refuses what a new process can't import: whatever a notebook defines."""

    def persistent_id(self, thing: Any) -> None:
        if isinstance(thing, type | FunctionType) and thing.__module__ == "__main__":
            raise pickle.PicklingError(f"{thing.__qualname__} is defined in a notebook")


def _check_importable(loader: DataLoader) -> None:
    """Raise where a process that starts from scratch (spawn) could not load what `loader` needs."""
    try:
        with open(os.devnull, "wb") as nowhere:
            is_notebook = not hasattr(sys.modules["__main__"], "__file__")
            (_ImportCheck if is_notebook else pickle.Pickler)(nowhere).dump(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise RuntimeError(
            f"DataLoader: worker processes can't import it: {error}: move it into a .py file and "
            "import it from there, or use num_workers=0"
        ) from None


# %% nbgrader={"grade": false, "grade_id": "load-in-workers", "locked": true, "solution": false}
#| exporti
def load_in_workers(loader: DataLoader, epoch: int, batches: list[np.ndarray]) -> Iterator[Any]:
    """The batches in order, loaded ahead by processes: at most two for each of them at a time.

    What a worker raises is raised here, with its traceback. Leaving early ends the workers.
    """
    context = multiprocessing.get_context(loader.multiprocessing_context)
    if context.get_start_method() != "fork":
        _check_importable(loader)
    processes = min(loader.num_workers, len(batches))
    workers = ProcessPoolExecutor(max(processes, 1), context, _start_worker, (loader,))
    try:
        yield from run_ahead(
            lambda indices: workers.submit(_load_in_worker, epoch, indices), batches, 2 * processes
        )
    except BrokenProcessPool:
        raise RuntimeError(
            "DataLoader: a worker process died: out of memory, or killed, or (where processes are "
            'spawned) started by a script without `if __name__ == "__main__":`'
        ) from None
    finally:
        workers.shutdown(cancel_futures=True)


# %%
method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
print("in this notebook, workers start by:", method)
try:
    list(DataLoader(Spoken(), batch_size=5, num_workers=2, multiprocessing_context="spawn"))
except RuntimeError as error:
    print(error)

# %% [markdown]
r"""
Now a famous trap. This data set makes its own random numbers, with the generator that NumPy keeps for the whole process. Two workers load a batch each. **Predict:** four different numbers, or not?
"""


# %%
class Dice(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        time.sleep(0.05)  # long enough that each worker gets a batch
        return Tensor([float(np.random.randint(1, 1000))])  # noqa: NPY002


def add_dice(x, generator):
    return x + float(generator.integers(1, 1000))


if method == "fork":
    options = {"batch_size": 2, "num_workers": 2, "multiprocessing_context": method}
    print("global:", [batch.numpy().ravel().tolist() for batch in DataLoader(Dice(), **options)])
    zeros = TensorDataset(np.zeros((4, 1)))
    loader = DataLoader(zeros, transform=add_dice, seed=0, **options)
    print("keyed: ", [batch[0].numpy().ravel().tolist() for batch in loader])

# %% [markdown]
r"""
A forked process inherits the generator with its state, so every worker throws the same dice. Many published models were trained with that. Tapes with addresses don't have the problem: index 2 draws the same number in every worker, and another one than index 0.

### When do workers pay?

**Predict** for each of three data sets whether two workers are faster than none: (a) tensors in memory; (b) images that are turned by your processor, for as long as it takes; (c) examples that wait 5 ms for a disk.
"""


# %%
class SlowDisk(Dataset):
    def __len__(self):
        return 200

    def __getitem__(self, index):
        time.sleep(0.005)
        return Tensor([index])


def turn(x, generator):
    """Something to compute, about as much as decoding a small image."""
    for _ in range(50):
        x = Tensor(np.rot90(np.sort(x.data, axis=-1), axes=(-2, -1)))
    return x


def epoch_seconds(dataset, workers, transform=None):
    loader = DataLoader(
        dataset, 20, num_workers=workers, transform=transform, multiprocessing_context=method
    )
    return milliseconds(lambda: list(loader), repeats=1) / 1000


in_memory = TensorDataset(inputs, targets)
to_turn = TensorDataset(np.random.default_rng(0).random((200, 64, 64)))
if method == "fork":
    print(f"{'seconds for an epoch':22} {'0 workers':>10} {'1 worker':>10} {'2 workers':>10}")
    for name, dataset, transform in (
        ("(a) memory", in_memory, None),
        ("(b) computing", to_turn, turn),
        ("(c) waiting", SlowDisk(), None),
    ):
        times = [epoch_seconds(dataset, workers, transform) for workers in (0, 1, 2)]
        print(f"{name:22} " + " ".join(f"{seconds:10.3f}" for seconds in times))
    print("processor cores:", os.cpu_count())

# %% [markdown]
r"""
Where a batch costs microseconds, starting processes and sending every byte through a pipe costs more than it saves. Computing gains at most the number of free cores; waiting gains the number of workers. PyTorch's `DataLoader` has the same arguments and the same rule; it hands tensors over in shared memory instead of a pipe, which matters from megabytes per batch on, and keeps workers from epoch to epoch by `persistent_workers=True`.

## Transforms

A transform takes an array (C, H, W) and a generator. The given base class turns Tensors into arrays and back, and takes the framework's generator where none is given.
"""


# %% nbgrader={"grade": false, "grade_id": "transform", "locked": true, "solution": false}
#| export
class Transform(ABC):
    """A change to an image (C, H, W), or to many (N, C, H, W) at once: Tensor or array to Tensor.

    Subclasses say what happens to the array. Without a `generator`, `manual_seed` decides.
    """

    @abstractmethod
    def apply(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The changed image; the given one stays as it is."""

    def __call__(self, image: Any, generator: np.random.Generator | None = None) -> Tensor:
        array = image.data if isinstance(image, Tensor) else np.asarray(image)
        return Tensor._wrap(self.apply(array, generator or tensor.generator))


class Compose:
    """One transform after the other, with one generator."""

    def __init__(self, transforms: Sequence[Callable[[Any, Any], Any]]):
        self.transforms = list(transforms)

    def __call__(self, image: Any, generator: np.random.Generator | None = None) -> Any:
        for transform in self.transforms:
            image = transform(image, generator)
        return image


# %% [markdown]
r"""
**Exercise 9 (3 points).** `ToTensor`: files hold images as bytes (H, W) or (H, W, C); layers want float32 (C, H, W) from 0 to 1. Worked: the gray image `[[0, 255]]` becomes `[[[0.0, 1.0]]]`, shape (1, 1, 2).

**Exercise 10 (3 points).** `Normalize(mean, std)`: $(x - \text{mean}) / \text{std}$. In `apply`, `self.mean` and `self.std` have the shape (C, 1, 1) or (1, 1, 1): think about what broadcasting does with (C, H, W), and with (N, C, H, W).

**Exercise 11 (3 points).** `RandomHorizontalFlip(p)`: with probability p the mirror image, columns in reverse. `generator.random()` is uniform in [0, 1).
"""


# %% nbgrader={"grade": false, "grade_id": "to-tensor", "locked": false, "solution": true}
#| export
class ToTensor(Transform):
    """An image of bytes (H, W) or (H, W, C), as files hold it: float32 in [0, 1], (C, H, W)."""

    def apply(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise ValueError(
                f"ToTensor: expected uint8 (H, W) or (H, W, C), got {image.dtype} {image.shape}"
            )
        ### BEGIN SOLUTION
        if image.ndim == 2:
            image = image[:, :, None]
        return np.divide(image.transpose(2, 0, 1), np.float32(255))
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-to-tensor", "locked": true, "points": 3, "solution": false}
def test_to_tensor():
    check(
        ToTensor()(np.array([[0, 255]], np.uint8)), [[[0.0, 1.0]]], "one channel, values over 255"
    )
    colour = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)  # H W C
    check(ToTensor()(colour).shape, (3, 2, 4), "channels first")
    ### BEGIN HIDDEN TESTS
    check(
        ToTensor()(colour)[1],
        colour[:, :, 1] / 255,
        "channel 1 is colour[:, :, 1]: transpose, don't reshape",
    )
    check(ToTensor()(colour).dtype, np.float32, "float32")
    ### END HIDDEN TESTS


test_to_tensor()


# %% nbgrader={"grade": false, "grade_id": "normalize", "locked": false, "solution": true}
#| export
class Normalize(Transform):
    """(image - mean) / std: one number for all channels, or one for each.

    >>> Normalize([0.5, 0.0], 0.5)(np.ones((2, 1, 1), np.float32)).tolist()
    [[[1.0]], [[2.0]]]
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]):
        self.mean, self.std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (mean, std))
        if not (self.std > 0).all():
            raise ValueError(f"Normalize: std must be positive, got {std}")

    def apply(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        ### BEGIN SOLUTION
        return (image - self.mean) / self.std
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-normalize", "locked": true, "points": 3, "solution": false}
def test_normalize():
    x = np.ones((2, 1, 1), np.float32)
    check(Normalize([0.5, 0.0], 0.5)(x), [[[1.0]], [[2.0]]], "each channel has its own mean")
    ### BEGIN HIDDEN TESTS
    check(
        Normalize([0.0, 1.0], [1.0, 4.0])(np.full((1, 2, 1, 1), 3.0)),
        [[[[3.0]], [[0.5]]]],
        "images (N, C, H, W) too",
    )
    check(x, np.ones((2, 1, 1), np.float32), "the given image stays as it is")
    ### END HIDDEN TESTS


test_normalize()


# %% nbgrader={"grade": false, "grade_id": "flip", "locked": false, "solution": true}
#| export
class RandomHorizontalFlip(Transform):
    """The mirror image, with probability `p`."""

    def __init__(self, p: float = 0.5):
        self.p = p

    def apply(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        ### BEGIN SOLUTION
        return image[..., ::-1] if generator.random() < self.p else image
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-flip", "locked": true, "points": 3, "solution": false}
def test_flip():
    x = np.arange(6.0).reshape(1, 2, 3)
    check(RandomHorizontalFlip(p=1)(x), [[[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]], "columns in reverse")
    check(RandomHorizontalFlip(p=0)(x), x, "p = 0: never")
    ### BEGIN HIDDEN TESTS
    generator = np.random.default_rng(0)
    flips = [RandomHorizontalFlip(p=0.2)(x, generator).data[0, 0, 0] == 2 for _ in range(2000)]
    check(abs(float(np.mean(flips)) - 0.2) < 0.04, True, "p is the probability of a flip")
    twins = [
        [RandomHorizontalFlip()(x, np.random.default_rng(s)).tolist() for s in range(20)]
        for _ in "ab"
    ]
    check(twins[0], twins[1], "draw from the generator that is given")
    ### END HIDDEN TESTS


test_flip()

# %% [markdown]
r"""
A digit that sits one pixel further left is the same digit. To shift an image, frame it with zeros and cut a window of the old size at a random place:

```
 framed by 1        window at (top 0, left 2)
 . . . . .              . . .
 . a b . .    -->       b . .
 . c d . .              d . .
 . . . . .
```

**Exercise 12 (3 points).** `framed(image, width)`: the image (..., H, W) in a frame of zeros, (..., H + 2 width, W + 2 width), same dtype.

**Exercise 13 (4 points).** `RandomCrop(size, padding)`: frame, then a window of `self.size` (height, width). Each place that fits is equally likely: a window of 3 rows in 5 has 5 - 3 + 1 places. Draw first the top, then the left, by `generator.integers`. A window larger than the framed image: `ValueError`.
"""


# %% nbgrader={"grade": false, "grade_id": "framed", "locked": false, "solution": true}
#| exporti
def framed(image: np.ndarray, width: int) -> np.ndarray:
    """The image (..., H, W) with `width` zeros on each of its four sides.

    >>> framed(np.ones((1, 2)), 1).tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    ### BEGIN SOLUTION
    *front, rows, columns = image.shape
    framed = np.zeros((*front, rows + 2 * width, columns + 2 * width), image.dtype)
    framed[..., width : width + rows, width : width + columns] = image
    return framed
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-framed", "locked": true, "points": 3, "solution": false}
def test_framed():
    check(
        framed(np.array([[1, 2]]), 1),
        np.array([[0, 0, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]]),
        "zeros on all sides",
    )
    check(framed(np.ones((2, 3, 4)), 2).shape, (2, 7, 8), "only the last two axes grow")
    ### BEGIN HIDDEN TESTS
    check(framed(np.ones((2, 2), np.uint8), 1).dtype, np.uint8, "the dtype is kept")
    check(framed(np.ones((1, 2, 2)), 0), np.ones((1, 2, 2)), "no frame")
    ### END HIDDEN TESTS


test_framed()


# %% nbgrader={"grade": false, "grade_id": "crop", "locked": false, "solution": true}
#| export
class RandomCrop(Transform):
    """A window of `size` at a random place of the image, framed by `padding` zeros on each side."""

    def __init__(self, size: int | tuple[int, int], padding: int = 0):
        self.size = (size, size) if isinstance(size, int) else size
        self.padding = padding

    def apply(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        ### BEGIN SOLUTION
        image = framed(image, self.padding)
        room = np.subtract(image.shape[-2:], self.size)
        if (room < 0).any():
            raise ValueError(f"RandomCrop: {self.size} of {image.shape[-2:]}, padding included")
        top, left = (int(generator.integers(places + 1)) for places in room)
        return image[..., top : top + self.size[0], left : left + self.size[1]]
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-crop", "locked": true, "points": 4, "solution": false}
def test_crop():
    x = np.arange(1.0, 13.0).reshape(1, 3, 4)
    crop, generator = RandomCrop((2, 3), padding=1), np.random.default_rng(0)
    check(crop(x, generator).shape, (1, 2, 3), "the size that was asked for")
    windows = {crop(x, generator).data.tobytes() for _ in range(600)}
    check(len(windows), 4 * 4, "5 - 2 + 1 rows, 6 - 3 + 1 columns: all places, the last ones too")
    with check_raises(ValueError, "", "there is no window of 9 in 5 rows"):
        RandomCrop(9, padding=1)(x)
    ### BEGIN HIDDEN TESTS
    check(RandomCrop((3, 4))(x), x, "one place only: the image itself")
    generator, twin = np.random.default_rng(7), np.random.default_rng(7)
    top, left = int(twin.integers(4)), int(twin.integers(4))
    expected = np.pad(x, [(0, 0), (1, 1), (1, 1)])[:, top : top + 2, left : left + 3]
    check(crop(x, generator), expected, "first the top, then the left")
    ### END HIDDEN TESTS


test_crop()

# %% [markdown]
r"""
### Turning

Where does each old pixel go, when an image turns by the angle $\alpha$? Between the new ones, mostly; some new pixels get two, some none. So ask the other way round: where does each *new* pixel come from? With $x, y$ counted from the middle of the image, $y$ downwards, a new pixel $(x, y)$ of an image that turned counter-clockwise by $\alpha$ was at

$$x' = x \cos\alpha - y \sin\alpha, \qquad y' = x \sin\alpha + y \cos\alpha.$$

That place lies between four pixels. Mix them by how near they are (*bilinear interpolation*): with $d$ and $r$ the parts of $y'$ and $x'$ behind the decimal point,

$$(1-d)\,[(1-r)\, p_{\text{top left}} + r\, p_{\text{top right}}] + d\,[(1-r)\, p_{\text{bottom left}} + r\, p_{\text{bottom right}}].$$

**Exercise 14 (5 points).** Write `rotate(image, degrees)`. The coordinates are given: `from_y`, `from_x` are already rows and columns of the image *with a frame of 2*, held within it. Get the whole parts `top`, `left` (as int), the rests, and mix. Keep float32 float32: `from_y % 1` does, `from_y - top` doesn't.
"""


# %% nbgrader={"grade": false, "grade_id": "rotation", "locked": false, "solution": true}
#| exporti
def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """The image (..., H, W) turned counter-clockwise about its centre, zeros where it ends.

    Each new pixel looks up where it comes from and mixes the four pixels around that place
    (bilinear interpolation).
    """
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y = np.arange(height, dtype=np.float32)[:, None] - middle_y
    x = np.arange(width, dtype=np.float32) - middle_x
    image = framed(image, 2)  # so that a place beyond the edge finds zeros to read
    from_y = np.clip(cos * y + sin * x + middle_y + 2, 0, height + 2)
    from_x = np.clip(cos * x - sin * y + middle_x + 2, 0, width + 2)
    ### BEGIN SOLUTION
    top, left = from_y.astype(int), from_x.astype(int)
    down, right = from_y % 1, from_x % 1
    upper = image[..., top, left] * (1 - right) + image[..., top, left + 1] * right
    lower = image[..., top + 1, left] * (1 - right) + image[..., top + 1, left + 1] * right
    return upper * (1 - down) + lower * down
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-rotate", "locked": true, "points": 5, "solution": false}
def test_rotate():
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3)
    check(
        rotate(x, 90),
        np.rot90(x, 1, axes=(1, 2)).copy(),
        "90 degrees counter-clockwise",
        tolerance=1e-5,
    )
    check(rotate(x, 0), x, "no turn, no change")
    corner = rotate(np.eye(3, dtype=np.float32), 45)
    check(corner[1, 1], np.float32(1), "the middle stays")
    expected = np.float32(2 - np.sqrt(2))  # d = r = 1 - sqrt(1/2) between two ones on the diagonal
    check(corner[1, 0], expected, "(1 - d) (1 - r) of the one, d r of the other", tolerance=1e-5)
    ### BEGIN HIDDEN TESTS
    ramp = np.arange(81, dtype=np.float32).reshape(9, 9)
    turned = rotate(ramp, 30)
    y, x = 1, -2  # from the middle
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    expected = 40 + 9 * (cos * y + sin * x) + (cos * x - sin * y)
    check(turned[4 + y, 4 + x], np.float32(expected), "a ramp is mixed exactly", tolerance=1e-5)
    check(turned.dtype, np.float32, "float32 in, float32 out")
    check(float(rotate(np.ones((7, 7), np.float32), 45)[0, 0]), 0.0, "what lies outside is zero")
    ### END HIDDEN TESTS


test_rotate()


# %% nbgrader={"grade": false, "grade_id": "random-rotation", "locked": true, "solution": false}
#| export
class RandomRotation(Transform):
    """The image turned about its centre by up to `degrees` in either direction."""

    def __init__(self, degrees: float):
        self.degrees = degrees

    def apply(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return rotate(image, generator.uniform(-self.degrees, self.degrees))


# %%
if plt:
    digit = Tensor(pixels[10] / 16).reshape(1, 8, 8)
    jitter = Compose([RandomRotation(20), RandomCrop(8, padding=1)])
    figure, axes = plt.subplots(1, 8, figsize=(10, 1.8))
    axes[0].imshow(digit[0].data, cmap="gray_r")
    axes[0].set_title("as it is")
    for index, ax in enumerate(axes[1:]):
        ax.imshow(jitter(digit, keyed_generator(0, index))[0].data, cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(f"epoch {index}")
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    figure.suptitle("One digit, turned and shifted anew in every epoch")
    plt.show()

# %% [markdown]
r"""
## Files

### IDX: numbers in a row

MNIST comes in a format as simple as can be. After gunzip:

```
 00 00 08 03   00 00 EA 60   00 00 00 1C   00 00 00 1C   00 00 12 7F ...
 ^^^^^ ^^ ^^   ^^^^^^^^^^^   ^^^^^^^^^^^   ^^^^^^^^^^^   data, one byte a pixel
 zeros |  3    60,000        28            28
       bytes   axes' sizes, each int32, most significant byte first (big-endian)
```

**Exercise 15 (5 points).** `read_idx(content)` returns the uint8 array, or raises `ValueError` that says what was expected and what was found: a start other than `00 00 08`, more or fewer bytes of data than the shape says. `np.frombuffer(content, ">i4", count, offset=4)` reads big-endian int32.
"""


# %% nbgrader={"grade": false, "grade_id": "read-idx", "locked": false, "solution": true}
#| exporti
def read_idx(content: bytes) -> np.ndarray:
    """The array of bytes in an IDX file, MNIST's format.

    Two zero bytes, the type (8: bytes), the number of axes, their sizes as big-endian int32, data.

    >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    array([7, 8, 9], dtype=uint8)
    """
    ### BEGIN SOLUTION
    if content[:3] != b"\0\0\x08":
        raise ValueError(
            f"expected an IDX file, which begins 00 00 08, found {content[:3].hex(' ')}"
        )
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, offset=4).tolist()
    start = 4 + 4 * axes
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"expected {math.prod(shape):,} bytes of data for shape {tuple(shape)}, "
            f"found {len(content) - start:,}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-read-idx", "locked": true, "points": 5, "solution": false}
def test_read_idx():
    content = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6])
    check(read_idx(content), np.array([[1, 2, 3], [4, 5, 6]], np.uint8), "two axes, 2 and 3")
    with check_raises(ValueError, "5", "expected 6 bytes of data, found 5"):
        read_idx(content[:-1])
    with check_raises(ValueError, "", "this is no IDX file"):
        read_idx(b"<html>404 not found</html>")
    ### BEGIN HIDDEN TESTS
    check(read_idx(content).dtype, np.uint8, "bytes")
    check(
        read_idx(bytes([0, 0, 8, 1, 0, 0, 1, 4]) + bytes(260)).shape,
        (260,),
        "big-endian: 1 * 256 + 4",
    )
    with check_raises(ValueError, "7", "expected 6 bytes of data, found 7"):
        read_idx(content + b"x")
    with check_raises(ValueError, "", "floats (type 0D) are not bytes"):
        read_idx(bytes([0, 0, 13, 1, 0, 0, 0, 0]))
    ### END HIDDEN TESTS


test_read_idx()

# %% [markdown]
r"""
### Pickle: a format that runs programs

CIFAR-10 comes as Python pickles. A pickle is a small program that may call any function it names. **Predict** what *loading* these few bytes does (it is harmless; that it happens at all is the point):
"""

# %%
program = b"cbuiltins\nprint\n(S'whoever wrote this file is running code on your machine'\ntR."
pickle.loads(program)

# %% [markdown]
r"""
`print` could have been `os.system`. Every function and class that a pickle uses goes through one method of the reader, `find_class(module, name)`. A reader that allows only what arrays are made of is safe.

**Exercise 16 (3 points).** `ArrayUnpickler.find_class`: if `(module, name)` is in `self.allowed`, what `super()` answers; else `pickle.UnpicklingError` that names the offender.

**Exercise 17 (2 points).** `read_cifar(content)`: the dict has `b"data"`, uint8 (N, 3072), and `b"labels"`, a list of N numbers. A row is an image: 1,024 reds, 1,024 greens, 1,024 blues, row by row. Return images (N, 3, 32, 32) and labels as uint8 (N,).
"""


# %% nbgrader={"grade": false, "grade_id": "unpickler", "locked": false, "solution": true}
#| exporti
class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain values and NumPy arrays; nothing else is imported or called."""

    allowed = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),  # how Python 3 writes bytes in the old protocol
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        ### BEGIN SOLUTION
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"expected only arrays, found a call of {module}.{name}")
        return super().find_class(module, name)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-unpickler", "locked": true, "points": 3, "solution": false}
def test_unpickler():
    array = np.arange(6, dtype=np.uint8)
    content = pickle.dumps({b"data": array, b"n": [1, 2]}, protocol=2)
    loaded = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    check(loaded[b"data"], array, "arrays are allowed")
    with check_raises(pickle.UnpicklingError, "print", "name what was refused"):
        ArrayUnpickler(io.BytesIO(program)).load()
    ### BEGIN HIDDEN TESTS
    for name in (b"numpy\nload", b"numpy.core.multiarray\nfromfile", b"builtins\neval"):
        with check_raises(pickle.UnpicklingError, "", "both the module and the name count"):
            ArrayUnpickler(io.BytesIO(b"c" + name + b"\n(S'1'\ntR.")).load()
    ### END HIDDEN TESTS


test_unpickler()


# %% nbgrader={"grade": false, "grade_id": "read-cifar", "locked": false, "solution": true}
#| exporti
def read_cifar(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N,) of a CIFAR-10 batch file, a pickled dict."""
    ### BEGIN SOLUTION
    batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    pixels, labels = batch[b"data"], np.asarray(batch[b"labels"], np.uint8)
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
        raise ValueError(
            f"expected uint8 ({len(labels)}, 3072) for {len(labels)} labels, "
            f"found {pixels.dtype} {pixels.shape}"
        )
    return pixels.reshape(-1, 3, 32, 32), labels
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-read-cifar", "locked": true, "points": 2, "solution": false}
def test_read_cifar():
    data = np.zeros((2, 3072), np.uint8)
    data[1, 1024 + 32 * 5 + 7] = 200  # image 1: green, row 5, column 7
    images, labels = read_cifar(pickle.dumps({b"data": data, b"labels": [3, 9]}, protocol=2))
    check(images.shape, (2, 3, 32, 32), "N C H W")
    check(int(images[1, 1, 5, 7]), 200, "reds, then greens, then blues; row by row")
    check(labels, np.array([3, 9], np.uint8), "one label for each image")
    ### BEGIN HIDDEN TESTS
    with check_raises(ValueError, "", "3 images but 2 labels"):
        read_cifar(
            pickle.dumps({b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1]}, protocol=2)
        )
    with check_raises(pickle.UnpicklingError, "", "read it by the safe reader"):
        read_cifar(program)
    ### END HIDDEN TESTS


test_read_cifar()

# %% [markdown]
r"""
### Whole or not at all

The net breaks when 80 % of the file is here. If the 80 % lie under the file's name, every later run reads a broken file. So a download goes elsewhere first, is *read completely*, and only then takes its name, by `os.replace`, which happens in one step or not at all.
"""


# %% nbgrader={"grade": false, "grade_id": "files", "locked": true, "solution": false}
#| export
def data_folder(root: str | Path | None = None) -> Path:
    """Where data sets are kept: `root`, else $TINYTORCH_DATA, else the user's cache."""
    given = root or os.environ.get("TINYTORCH_DATA")
    return Path(given).expanduser() if given else Path(_pooch().os_cache("tinytorch"))


def _pooch() -> Any:
    try:
        import pooch
    except ImportError:
        raise ImportError(
            "data sets are downloaded with pooch: pip install 'tinytorch[data]', "
            "or say by TINYTORCH_DATA where they are"
        ) from None
    return pooch


def _download(url: str, path: Path) -> None:
    """Fetch `url` into a new file, with a progress bar."""
    try:
        _pooch().HTTPDownloader(progressbar=True)(url, str(path), None)
    except OSError as error:  # what requests raises
        raise ConnectionError(
            f"{path.name}: no download from {url} ({type(error).__name__}): put the file into "
            "the data folder by hand, or set TINYTORCH_DATA to a folder that has it"
        ) from error


def _parse(path: Path, parse: Callable[[bytes], Any]) -> Any:
    """What `parse` makes of the file; whatever a damaged one does to it becomes one clear line."""
    content = path.read_bytes()
    try:
        return parse(content)
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged: {reason}: delete it and load it again") from error


# %% [markdown]
r"""
**Exercise 18 (3 points).** `read_published(path, url, parse, download=True)`: a file that is there is parsed: `_parse(path, parse)`. A missing one raises `FileNotFoundError` unless `download`. Otherwise: make the folder `path.parent`, in it a temporary one (`tempfile.TemporaryDirectory(dir=path.parent)`), let `_download(url, temporary_path)` write, `_parse` it, then `os.replace`. Return what was parsed.
"""


# %% nbgrader={"grade": false, "grade_id": "read-published", "locked": false, "solution": true}
#| exporti
def read_published(
    path: Path, url: str, parse: Callable[[bytes], Any], download: bool = True
) -> Any:
    """What `parse` makes of a data set's file, which is downloaded first where it is missing.

    A download gets its name once it has been parsed without complaint: whatever happens half-way,
    `path` is the whole file or isn't there.
    """
    ### BEGIN SOLUTION
    if path.is_file():
        return _parse(path, parse)
    if not download:
        raise FileNotFoundError(f"{path} is missing: get it from {url}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        _download(url, temporary)
        parsed = _parse(temporary, parse)
        os.replace(temporary, path)
    return parsed
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-read-published", "locked": true, "points": 3, "solution": false}
def test_read_published():
    global _download
    real = _download
    served = {"good": b"12", "bad": b"twelve"}

    def _download(url, path):
        path.write_bytes(served[url])

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "numbers" / "n.txt"
            with check_raises(ValueError, "damaged", "a download that can't be parsed is an error"):
                read_published(path, "bad", int)
            check(path.exists(), False, "and leaves no file behind")
            check(read_published(path, "good", int), 12, "what parse makes of it")
            check(path.exists(), True, "the file is kept")
            check(read_published(path, "bad", int), 12, "what is there isn't downloaded again")
            ### BEGIN HIDDEN TESTS
            check([p.name for p in path.parent.iterdir()], ["n.txt"], "no temporary files stay")
            with check_raises(FileNotFoundError, "", "download=False"):
                read_published(path.with_name("m.txt"), "good", int, download=False)
            ### END HIDDEN TESTS
    finally:
        _download = real


test_read_published()

# %% [markdown]
r"""
### Some are for testing

What a model is tested on, it must not have seen. A random split may by chance put most of the eights on one side; a *stratified* one keeps the shares. For digits, a fixed rule is enough:

**Exercise 19 (3 points).** `every_fifth(labels)`: an array of bool, True for the 5th, 10th, ... example *of each class*. Worked: labels 0 0 0 0 0 1 1 1 1 1 give True at 4 and 9.
"""


# %% nbgrader={"grade": false, "grade_id": "every-fifth", "locked": false, "solution": true}
#| exporti
def every_fifth(labels: np.ndarray) -> np.ndarray:
    """True for every fifth example of each class: a test set with the classes in the same shares.

    >>> every_fifth(np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])).nonzero()[0]
    array([4, 9])
    """
    ### BEGIN SOLUTION
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[4::5]] = True
    return chosen
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-every-fifth", "locked": true, "points": 3, "solution": false}
def test_every_fifth():
    labels = np.array([0, 1] * 5)
    check(np.flatnonzero(every_fifth(labels)), np.array([8, 9]), "the fifth 0 and the fifth 1")
    ### BEGIN HIDDEN TESTS
    check(
        every_fifth(np.array([7] * 12 + [3] * 4)).nonzero()[0], np.array([4, 9]), "four are too few"
    )
    check(every_fifth(labels).dtype, np.bool_, "True or False for each example")
    ### END HIDDEN TESTS


test_every_fifth()


# %% nbgrader={"grade": false, "grade_id": "image-dataset", "locked": true, "solution": false}
#| export
class ImageDataset(Dataset):
    """Images and their labels: example i is a float32 Tensor (C, H, W) in [0, 1] and a number.

    Pixels are kept as the bytes they came in, a quarter of float32, and converted as they are asked
    for. `images` is all of them as one Tensor (N, C, H, W), `labels` one of int64.
    """

    classes: tuple[str, ...] = tuple("0123456789")

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, largest: int = 255):
        if pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
            raise ValueError(
                f"{type(self).__name__}: expected pixels (N, C, H, W) and labels (N,), "
                f"got {pixels.shape} and {labels.shape}"
            )
        if labels.max(initial=0) >= len(self.classes):
            raise ValueError(
                f"{type(self).__name__}: label {labels.max()}, but only {len(self.classes)} classes"
            )
        self.pixels = pixels
        self.labels = Tensor(labels.astype(np.int64))
        self.largest = np.float32(largest)  # the pixel value that becomes 1.0

    @cached_property
    def images(self) -> Tensor:
        """All images, float32 (N, C, H, W) in [0, 1]; made when first asked for, and kept."""
        return self.batch(slice(None))[0]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.batch(index)
        return image, label.item()

    def batch(self, indices: Any) -> tuple[Tensor, Tensor]:
        images = np.divide(self.pixels[indices], self.largest)
        return Tensor._wrap(images), Tensor._wrap(np.asarray(self.labels.data[indices]))


# %% nbgrader={"grade": false, "grade_id": "sets", "locked": true, "solution": false}
#| export
class Digits(ImageDataset):
    """1,442 training and 355 test images (1, 8, 8) of handwritten digits, part of the package.

    E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0). Every
    fifth image of each digit is for testing.

    >>> digits = Digits()
    >>> digits.images.shape, digits.labels.shape, len(Digits(train=False))
    ((1442, 1, 8, 8), (1442,), 355)
    """

    def __init__(self, train: bool = True):
        with np.load(Path(tinytorch.__file__).parent / "data" / "digits.npz") as file:
            pixels, labels = file["images"], file["labels"]
        chosen = every_fifth(labels) != train
        super().__init__(pixels[chosen, None], labels[chosen], largest=16)


class MNIST(ImageDataset):
    """60,000 training and 10,000 test images (1, 28, 28) of handwritten digits.

    Y. LeCun, C. Cortes, C. Burges, 1998. The four IDX files are looked for in the folder mnist of
    `data_folder(root)`.
    """

    url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    sha256: ClassVar[dict[str, str]] = {  # of what is in the .gz
        "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }

    def __init__(self, train: bool = True, root: str | Path | None = None, download: bool = True):
        folder = data_folder(root) / type(self).__name__.lower()
        part = "train" if train else "t10k"

        def read(kind: str, axes: int) -> np.ndarray:
            def parse(content: bytes) -> np.ndarray:
                content = gzip.decompress(content)
                array = read_idx(content)
                # a set may be cut down, but one of the published size must be the published one
                if len(array) == (60_000 if train else 10_000) and self.sha256:
                    _check_digest("sha256", content, self.sha256[f"{part}-{kind}"])
                return array

            name = f"{part}-{kind}-idx{axes}-ubyte.gz"
            return read_published(folder / name, self.url + name, parse, download)

        super().__init__(read("images", 3)[:, None], read("labels", 1))


class FashionMNIST(MNIST):
    """60,000 training and 10,000 test images (1, 28, 28) of clothes, in MNIST's format.

    H. Xiao, K. Rasul, R. Vollgraf, 2017 (MIT). The folder is fashionmnist. What is checked is the
    structure and gzip's own checksum.
    """

    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    sha256: ClassVar[dict[str, str]] = {}
    # fmt: off
    classes = ("T-shirt", "trouser", "pullover", "dress", "coat",
               "sandal", "shirt", "sneaker", "bag", "ankle boot")
    # fmt: on


class CIFAR10(ImageDataset):
    """50,000 training and 10,000 test images (3, 32, 32) of ten kinds of things.

    A. Krizhevsky, 2009. Looked for in the folder cifar10 of `data_folder(root)`: the published
    archive, or what was extracted from it.
    """

    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    md5 = "c58f30108f718f92721af3b95e74349a"  # of the archive, as published beside it
    # fmt: off
    classes = ("airplane", "automobile", "bird", "cat", "deer",
               "dog", "frog", "horse", "ship", "truck")
    # fmt: on

    def __init__(self, train: bool = True, root: str | Path | None = None, download: bool = True):
        folder = data_folder(root) / "cifar10"
        inner = "cifar-10-batches-py"
        names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]

        def parse(content: bytes) -> list[tuple[np.ndarray, np.ndarray]]:
            _check_digest("md5", content, self.md5)
            return [read_cifar(member) for member in _members(content, inner, names)]

        if (folder / inner).is_dir():
            paths = [folder / inner / name for name in names]
            parts = [read_published(path, self.url, read_cifar, download=False) for path in paths]
        else:
            parts = read_published(folder / Path(self.url).name, self.url, parse, download)
        pixels, labels = zip(*parts, strict=True)
        super().__init__(np.concatenate(pixels), np.concatenate(labels))


class TinyShakespeare:
    """The 1,115,394 characters of Shakespeare that A. Karpathy's char-rnn (2015) learnt to write.

    `text` is all of it, from the file input.txt in the folder tinyshakespeare.
    """

    url = (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    )
    sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

    def __init__(self, root: str | Path | None = None, download: bool = True):
        def parse(content: bytes) -> str:
            _check_digest("sha256", content, self.sha256)
            return content.decode()

        path = data_folder(root) / "tinyshakespeare" / "input.txt"
        self.text: str = read_published(path, self.url, parse, download)


class MovieReviews(Dataset):
    """10,662 sentences of film reviews: half of them from negative (0), half from positive ones.

    B. Pang, L. Lee: Seeing Stars, ACL 2005. Looked for in the folder rt-polarity of
    `data_folder(root)`: the published archive, or its two files rt-polarity.neg and .pos. Example i
    is a text and a number; `texts` lists all texts, `labels` is one Tensor of int64. The set has no
    part for testing.
    """

    url = "https://www.cs.cornell.edu/people/pabo/movie-review-data/rt-polaritydata.tar.gz"
    classes = ("negative", "positive")

    def __init__(self, root: str | Path | None = None, download: bool = True):
        folder = data_folder(root) / "rt-polarity"
        names = ["rt-polarity.neg", "rt-polarity.pos"]

        def parse(content: bytes) -> list[list[str]]:
            return [_sentences(member) for member in _members(content, "rt-polaritydata", names)]

        if any((folder / name).is_file() for name in names):
            paths = [folder / name for name in names]
            parts = [read_published(path, self.url, _sentences, download=False) for path in paths]
        else:
            parts = read_published(folder / Path(self.url).name, self.url, parse, download)
        self.texts: list[str] = [text for part in parts for text in part]
        self.labels = Tensor(np.repeat([0, 1], [len(part) for part in parts]), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.texts[index], self.labels.data[index].item()


def _members(content: bytes, inner: str, names: Sequence[str]) -> list[bytes]:
    """What the files `names` in the folder `inner` of a .tar.gz hold."""
    unpacked = io.BytesIO(gzip.decompress(content))  # all of it, so that its checksum is compared
    with tarfile.open(fileobj=unpacked, mode="r:") as archive:
        members = [archive.extractfile(f"{inner}/{name}") for name in names]
        return [member.read() for member in members if member]


def _sentences(content: bytes) -> list[str]:
    """The lines of a text in Windows-1252, as published, or in UTF-8, as it is often passed on."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("cp1252")
    lines = text.removesuffix("\n").split("\n")  # splitlines would cut at other characters, too
    blank = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if blank:
        raise ValueError(f"expected a sentence in every line, line {blank[0]} is blank")
    return [line.strip() for line in lines]


def _check_digest(algorithm: str, content: bytes, expected: str) -> None:
    """Raise unless `content` is, bit for bit, what was published."""
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(f"expected {algorithm} {expected}, found {found}")


# %% [markdown]
r"""
## Put together

The digits of this set were centred in their 8 x 8 frames by those who made it. What if, in the world, they aren't? The network below is trained twice: on the images as they are, and shifted by up to a pixel, anew in every epoch. Both are tested on the 355 images that they never saw, as they are and shifted. **Predict** the four accuracies.
"""

# %%
train, test = Digits(), Digits(train=False)
shift = RandomCrop(8, padding=1)
tests = {
    "as they are": DataLoader(test, batch_size=len(test)),
    "shifted": DataLoader(test, batch_size=len(test), transform=shift, seed=1),
}


def trained(transform, epochs=10):
    manual_seed(0)
    model = Sequential(Flatten(), Linear(64, 128), ReLU(), Linear(128, 10))
    trainer = Trainer(model, Adam(model.parameters(), lr=3e-3), CrossEntropyLoss())
    loader = DataLoader(train, batch_size=50, shuffle=True, seed=0, transform=transform)
    trainer.fit(loader, epochs, validation=tests["shifted"], metrics=[accuracy])
    return trainer


trainers = {"as they are": trained(None), "shifted": trained(shift)}
for name, trainer in trainers.items():
    results = {kind: trainer.evaluate(loader, [accuracy]) for kind, loader in tests.items()}
    print(f"trained on digits {name}:")
    for kind, result in results.items():
        print(f"    tested on digits {kind:12} {result['accuracy']:.3f}")

# %%
if plt:
    figure, ax = plt.subplots(figsize=(7, 3.5))
    for (name, trainer), style in zip(trainers.items(), ("--", "-"), strict=True):
        ax.plot(
            trainer.history["validation_accuracy"], style, color="black", label=f"trained {name}"
        )
    ax.set(xlabel="epoch", ylabel="share right", title="Tested on shifted digits", ylim=(0, 1))
    ax.legend()
    plt.show()

# %% [markdown]
r"""
A network of two matrices knows nothing of "one pixel to the left": it must be shown. Being shown costs a little accuracy where the world is as tidy as the data, because the same network now has more to learn. (A layer that knows about shifts by its construction comes in the next module.) And "shifted" is no longer one test set but one of many: note the `seed=1`.

## Systems: bytes and time

Pixels are kept as the bytes of the file, and become float32 a batch at a time. **Predict** the last column before you run: how many GB would the 1.28 million images of ImageNet, 3 x 224 x 224 each, take as float32?
"""

# %%
print(f"{'':10} {'images':>10} {'as bytes':>12} {'as float32':>12}")
for name, count, shape in (
    ("Digits", 1_797, (1, 8, 8)),
    ("MNIST", 70_000, (1, 28, 28)),
    ("CIFAR-10", 60_000, (3, 32, 32)),
    ("ImageNet", 1_281_167, (3, 224, 224)),
):
    bytes_ = count * math.prod(shape)
    print(f"{name:10} {count:10,} {bytes_ / 1e6:9,.1f} MB {4 * bytes_ / 1e6:9,.1f} MB")

# %% [markdown]
r"""
The conversion costs time in every epoch. Is it much, beside the memory's own speed? The cell takes batches of growing size from 20,000 random images of MNIST's size, in random order, as bytes to be converted and as ready floats, and beside them a plain copy of as many float32 bytes.
"""

# %%
random_pixels = np.random.default_rng(0).integers(256, size=(20_000, 1, 28, 28), dtype=np.uint8)
as_bytes = ImageDataset(random_pixels, np.zeros(20_000, np.uint8))
as_floats = TensorDataset(as_bytes.images, as_bytes.labels)
order = np.random.default_rng(1).permutation(20_000)
print("batch size   bytes, then convert   ready floats   plain copy   (million images per second)")
for size in (1, 8, 64, 512, 4096):
    rows, ready = order[:size], as_bytes.images.data[:size]
    rates = [
        size / milliseconds(function) / 1000
        for function in (
            lambda rows=rows: as_bytes.batch(rows),
            lambda rows=rows: as_floats.batch(rows),
            ready.copy,
        )
    ]
    print(f"{size:10} {rates[0]:21.2f} {rates[1]:14.2f} {rates[2]:12.2f}")

# %% [markdown]
r"""
Small batches pay for the call, large ones for the memory, which random rows read worse than a copy does. Converting costs time at every size, and saves three quarters of the memory for as long as the training lasts.

And per example, what do the random numbers cost beside the work they steer?
"""

# %%
image, generator = train.images.data[0], np.random.default_rng(0)
for name, function in (
    ("a keyed generator", lambda: keyed_generator(0, 1, 2)),
    ("flip", lambda: RandomHorizontalFlip()(image, generator)),
    ("shift", lambda: RandomCrop(8, padding=1)(image, generator)),
    ("turn", lambda: RandomRotation(12)(image, generator)),
):
    print(f"{name:18} {1000 * milliseconds(function, repeats=300):6.1f} us")

# %% [markdown]
r"""
The address on the tape costs something for every example: NumPy mixes the key thoroughly, whether one number is drawn or a million. PyTorch gives each *worker* a tape instead, which is cheaper and makes the numbers depend on `num_workers`: `torch.utils.data.get_worker_info().seed` is where to look for it.

## Questions

**1 (4 points).** 50,000 examples, batches of 128, 30 epochs. How many batches are there with and without `drop_last`? How many examples does `drop_last` leave out in an epoch, and does the model never see them if the loader shuffles?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-batches", "locked": false, "points": 4, "solution": true}
r"""
50,000 = 390 · 128 + 80. With `drop_last` 390 batches an epoch, 11,700 in all; without it 391 and 11,730. 80 examples are left out in each epoch, 0.16 %. The order is new in every epoch, so each time it is another 80: an example is left out of all 30 epochs with probability $0.0016^{30}$, that is never.
"""

# %% [markdown]
r"""
**2 (4 points).** To load an example takes 8 ms, of which 6 ms are waiting for the network and 2 ms computing on one core. A training step for a batch of 32 takes 40 ms and uses one core. The machine has four cores. How long does an epoch of 1,000 batches take with no workers? With how many workers does the model never wait? At which number of workers do the cores become the limit?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-workers", "locked": false, "points": 4, "solution": true}
r"""
A batch takes 32 · 8 = 256 ms to load. Without workers: 1,000 · (256 + 40) ms = 296 s. W workers deliver a batch every 256 / W ms; 256 / W ≤ 40 from W = 6.4, so 7 workers, and the epoch takes 40 s. The computing of a batch is 32 · 2 = 64 ms of a core. Three cores are left for it, so at best a batch every 64 / 3 = 21.3 ms, reached with 256 / 21.3 = 12 workers. The step of 40 ms is slower than that: the model is the limit, not the cores.
"""

# %% [markdown]
r"""
**3 (4 points).** A batch has 256 images 3 x 224 x 224. How many bytes go through the pipe from a worker as float32, and how many as uint8? The pipe carries 2 GB/s. How many batches per second can it deliver at best in both cases, and what does it mean for where you convert and normalise?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-pipe", "locked": false, "points": 4, "solution": true}
r"""
256 · 3 · 224 · 224 = 38,535,168 pixels: 38.5 MB as bytes, 154.1 MB as float32. At 2 GB/s that is 52 batches per second against 13. If the model is faster than 13 batches per second, convert and normalise after the pipe: on the side of the model, a batch at once, which is also one NumPy call instead of 256. (PyTorch avoids the pipe by shared memory.)
"""

# %% [markdown]
r"""
**4 (4 points).** A colleague seeds the transform of example i in epoch e by `default_rng(seed + e + i)`. There are 50,000 examples and 30 epochs. How many different tapes are there, instead of how many? Name two examples in epochs 0 and 1 that are transformed alike. What about two seeds, 0 and 1?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-seeds", "locked": false, "points": 4, "solution": true}
r"""
The sum e + i runs from 0 to 29 + 49,999 = 50,028: 50,029 tapes instead of 30 · 50,000 = 1,500,000. Example 7 in epoch 0 and example 6 in epoch 1 both use seed + 7. Seed 1 in epoch e is seed 0 in epoch e + 1: the "independent" second run repeats 29 of 30 epochs of the first. Sums mix addresses up; `spawn_key` keeps the parts apart.
"""

# %% [markdown]
r"""
## All tests once more
"""


# %%
def test_module():
    for test in (test_tensor_dataset, test_collate, test_subset, test_keyed_generator):
        test()
    for test in (test_random_split, test_epoch_batches, test_load_batch, test_run_ahead):
        test()
    for test in (test_to_tensor, test_normalize, test_flip, test_framed, test_crop, test_rotate):
        test()
    for test in (test_read_idx, test_unpickler, test_read_cifar, test_read_published):
        test()
    test_every_fifth()
    print("All tests of module 08 pass.")


test_module()

# %% [markdown]
r"""
**What works now:** `DataLoader(Digits(), batch_size=64, shuffle=True, seed=0)`, and the same for MNIST, FashionMNIST and CIFAR10 where their files are.
You saw that order decides what a model remembers, and gave every random number an address.
You loaded ahead with processes, and measured when that pays.
You read two file formats, one of which runs programs unless somebody says no.
**Next:** images need layers that look at them in two dimensions: `tito module start 09`.
"""

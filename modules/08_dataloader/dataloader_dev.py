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
"""

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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

import numpy as np

import tinytorch
from tinytorch.core import tensor
from tinytorch.core.tensor import Tensor


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


# %% nbgrader={"grade": false, "grade_id": "keyed-generator", "locked": false, "solution": true}
#| export
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


# %% nbgrader={"grade": false, "grade_id": "new-seed", "locked": true, "solution": false}
#| export
def _given_or_new(seed: int | None) -> int:
    """`seed`, or where there is none a number that `manual_seed` decides."""
    return int(tensor.generator.integers(2**63)) if seed is None else seed


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


# %% nbgrader={"grade": false, "grade_id": "epoch-batches", "locked": false, "solution": true}
#| export
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


# %% nbgrader={"grade": false, "grade_id": "load-batch", "locked": false, "solution": true}
#| export
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


# %% nbgrader={"grade": false, "grade_id": "worker", "locked": true, "solution": false}
#| export
_in_worker: dict[str, DataLoader] = {}  # a worker process keeps its loader here


def _start_worker(loader: DataLoader) -> None:
    """Prepare a worker process."""
    _in_worker["loader"] = loader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends its workers
    with suppress(ImportError):  # the processes are the parallelism: one BLAS thread in each
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)
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
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # it can't travel: send its text
            raise RuntimeError("".join(traceback.format_exception(error))) from None
        raise


# %% nbgrader={"grade": false, "grade_id": "importable", "locked": true, "solution": false}
#| export
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


# %% nbgrader={"grade": false, "grade_id": "load-in-workers", "locked": false, "solution": true}
#| export
def load_in_workers(loader: DataLoader, epoch: int, batches: list[np.ndarray]) -> Iterator[Any]:
    """The batches in order, loaded ahead by processes: at most two for each wait or are made.

    What a worker raises is raised here, with its traceback. Leaving early ends the workers.
    """
    context = multiprocessing.get_context(loader.multiprocessing_context)
    if context.get_start_method() != "fork":
        _check_importable(loader)
    workers = ProcessPoolExecutor(loader.num_workers, context, _start_worker, (loader,))
    try:
        ### BEGIN SOLUTION
        waiting = iter(batches)
        running: deque = deque()
        while True:
            for indices in islice(waiting, 2 * loader.num_workers - len(running)):
                running.append(workers.submit(_load_in_worker, epoch, indices))
            if not running:
                break
            yield running.popleft().result()
        ### END SOLUTION
    except BrokenProcessPool:
        raise RuntimeError(
            "DataLoader: a worker process died: out of memory, or killed, or (where processes are "
            'spawned) started by a script without `if __name__ == "__main__":`'
        ) from None
    finally:
        workers.shutdown(cancel_futures=True)


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


# %% nbgrader={"grade": false, "grade_id": "framed", "locked": false, "solution": true}
#| export
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


# %% nbgrader={"grade": false, "grade_id": "rotation", "locked": false, "solution": true}
#| export
def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """The image (..., H, W) turned counter-clockwise about its centre, zeros where it ends.

    Each new pixel looks up where it comes from and mixes the four pixels around that place
    (bilinear interpolation).
    """
    ### BEGIN SOLUTION
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - middle_y, x - middle_x
    # framed, so that a place beyond the edge finds zeros to read
    from_y = np.clip(cos * y + sin * x + middle_y + 2, 0, height + 2)
    from_x = np.clip(cos * x - sin * y + middle_x + 2, 0, width + 2)
    image = framed(image, 2)
    top, left = from_y.astype(int), from_x.astype(int)
    down, right = from_y % 1, from_x % 1
    upper = image[..., top, left] * (1 - right) + image[..., top, left + 1] * right
    lower = image[..., top + 1, left] * (1 - right) + image[..., top + 1, left + 1] * right
    return upper * (1 - down) + lower * down
    ### END SOLUTION


class RandomRotation(Transform):
    """The image turned about its centre by up to `degrees` in either direction."""

    def __init__(self, degrees: float):
        self.degrees = degrees

    def apply(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        ### BEGIN SOLUTION
        return rotate(image, generator.uniform(-self.degrees, self.degrees))
        ### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "read-idx", "locked": false, "solution": true}
#| export
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


# %% nbgrader={"grade": false, "grade_id": "unpickler", "locked": false, "solution": true}
#| export
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


# %% nbgrader={"grade": false, "grade_id": "read-cifar", "locked": false, "solution": true}
#| export
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


# %% nbgrader={"grade": false, "grade_id": "read-published", "locked": false, "solution": true}
#| export
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


# %% nbgrader={"grade": false, "grade_id": "every-fifth", "locked": false, "solution": true}
#| export
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
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                members = [archive.extractfile(f"{inner}/{name}") for name in names]
                return [read_cifar(member.read()) for member in members if member]

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


def _check_digest(algorithm: str, content: bytes, expected: str) -> None:
    """Raise unless `content` is, bit for bit, what was published."""
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(f"expected {algorithm} {expected}, found {found}")

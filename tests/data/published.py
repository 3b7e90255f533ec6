"""Writes small data sets in the published file formats, for TINYTORCH_DATA."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in MNIST's format: magic number, big-endian sizes, data."""
    sizes = np.array(array.shape, ">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_mnist(folder: Path, train: int = 50, test: int = 20) -> None:
    """The four .gz files of MNIST or FashionMNIST, with random pixels; labels count up."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        pixels = random.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


def cifar_batches(count: int = 10) -> dict[str, bytes]:
    """The batch files of CIFAR-10 by name: dicts with keys of bytes, as Python 2 wrote them."""
    random = np.random.default_rng(0)
    files = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = random.integers(256, size=(count, 3072), dtype=np.uint8)
        batch = {b"data": pixels, b"labels": [i % 10 for i in range(count)]}
        files[name] = pickle.dumps(batch, protocol=2)
    return files


def write_cifar10(folder: Path, count: int = 10) -> None:
    """The folder that CIFAR-10's archive holds."""
    inner = folder / "cifar-10-batches-py"
    inner.mkdir(parents=True, exist_ok=True)
    for name, content in cifar_batches(count).items():
        (inner / name).write_bytes(content)


def cifar10_archive(count: int = 10) -> bytes:
    """CIFAR-10's archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in cifar_batches(count).items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()

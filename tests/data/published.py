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
    files = cifar_batches(count)
    return tar_of({f"cifar-10-batches-py/{name}": content for name, content in files.items()})


def tar_of(files: dict[str, bytes]) -> bytes:
    """A .tar.gz that holds these files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


SENTENCES = {  # a few lines as they stand in rt-polarity: lower case, spaces around marks
    "rt-polarity.neg": ["a café . . . and no plot \x97 at all . ", "dull , \x85 and long"],
    "rt-polarity.pos": ["it's a treat . ", "warm and funny ", "naïve , in the best sense . "],
}


def review_files(encoding: str = "latin-1") -> dict[str, bytes]:
    """The two files of rt-polarity; bytes 0x80 to 0x9f are dashes and the like, as published."""
    texts = {name: "".join(f"{line}\n" for line in lines) for name, lines in SENTENCES.items()}
    published = {name: text.encode("latin-1") for name, text in texts.items()}
    if encoding == "latin-1":
        return published
    return {name: content.decode("cp1252").encode(encoding) for name, content in published.items()}


def reviews_archive() -> bytes:
    """The archive of rt-polarity, which holds a README, too."""
    files = {"rt-polaritydata.README.1.0.txt": b"=== Introduction\n"}
    return tar_of(files | {f"rt-polaritydata/{n}": c for n, c in review_files().items()})

"""The data sets' files: read as published, downloaded whole or not at all, refused when damaged."""

import functools
import gzip
import hashlib
import http.server
import io
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from published import (
    cifar10_archive,
    cifar_batches,
    idx,
    review_files,
    reviews_archive,
    write_cifar10,
    write_mnist,
)

from tinytorch.data.loader import (
    CIFAR10,
    MNIST,
    DataLoader,
    FashionMNIST,
    MovieReviews,
    TinyShakespeare,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty TINYTORCH_DATA."""
    monkeypatch.setenv("TINYTORCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return tmp_path / "data"


@pytest.fixture
def site(tmp_path):
    """A folder, and the address at which it is served."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def files_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- reading ---


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
def test_mnist_and_its_cousin(data, dataset):
    write_mnist(data / dataset.__name__.lower())
    train, test = dataset(), dataset(train=False)
    assert (len(train), len(test)) == (50, 20)
    assert train.images.shape == (50, 1, 28, 28) and train.images.dtype == np.float32
    with gzip.open(data / dataset.__name__.lower() / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16)
    assert np.array_equal(test.images.numpy().ravel(), pixels.astype(np.float32) / np.float32(255))
    assert test.labels.tolist() == [i % 10 for i in range(20)]
    assert len(dataset.classes) == 10


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_cifar10(data, monkeypatch, form):
    if form == "folder":
        write_cifar10(data / "cifar10")
    else:
        (data / "cifar10").mkdir(parents=True)
        (data / "cifar10" / "cifar-10-python.tar.gz").write_bytes(cifar10_archive())
        content = (data / "cifar10" / "cifar-10-python.tar.gz").read_bytes()
        monkeypatch.setattr(CIFAR10, "md5", hashlib.md5(content).hexdigest())
    train, test = CIFAR10(), CIFAR10(train=False)
    assert (len(train), len(test)) == (50, 10)
    batch = pickle.loads(cifar_batches()["data_batch_2"])
    assert np.array_equal(train.pixels[10:20].reshape(10, -1), batch[b"data"])
    assert train[13][1] == 3 and CIFAR10.classes[3] == "cat"


def test_root_goes_before_the_environment(data, tmp_path):
    write_mnist(tmp_path / "elsewhere" / "mnist", train=7)
    assert len(MNIST(root=tmp_path / "elsewhere")) == 7


def write_reviews(folder, form):
    """rt-polarity as the published archive, as what it holds, or that in UTF-8."""
    folder.mkdir(parents=True)
    if form == "archive":
        (folder / "rt-polaritydata.tar.gz").write_bytes(reviews_archive())
        return
    for name, content in review_files(form).items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("form", ["archive", "latin-1", "utf-8"])
def test_movie_reviews(data, form):
    write_reviews(data / "rt-polarity", form)
    reviews = MovieReviews()
    assert reviews.texts == [
        "a café . . . and no plot — at all .",
        "dull , … and long",
        "it's a treat .",
        "warm and funny",
        "naïve , in the best sense .",
    ]
    assert reviews.labels.tolist() == [0, 0, 1, 1, 1] and reviews.labels.dtype == np.int64
    assert len(reviews) == 5 and reviews[3] == ("warm and funny", 1)
    assert type(reviews[3][1]) is int and MovieReviews.classes[1] == "positive"
    texts, labels = next(iter(DataLoader(reviews, batch_size=3)))
    assert texts == reviews.texts[:3] and labels.tolist() == [0, 0, 1]


# --- damage ---


DAMAGED = [
    ("train-images-idx3-ubyte.gz", lambda c: c[:-50], "ended before the end-of-stream marker"),
    ("train-images-idx3-ubyte.gz", lambda c: b"<html>404</html>", "Not a gzipped file"),
    ("train-images-idx3-ubyte.gz", lambda c: c[:-8] + b"\0" * 8, "CRC check failed"),
    ("train-images-idx3-ubyte.gz", lambda c: b"", "found"),
    ("train-labels-idx1-ubyte.gz", lambda c: gzip.compress(b"GIF89a"), "expected an IDX file"),
    (
        "train-labels-idx1-ubyte.gz",
        lambda c: gzip.compress(gzip.decompress(c)[:-3]),
        r"expected 50 bytes of data for shape \(50,\), found 47",
    ),
]


@pytest.mark.parametrize(("name", "spoil", "message"), DAMAGED)
def test_a_damaged_mnist_file(data, name, spoil, message):
    write_mnist(data / "mnist")
    path = data / "mnist" / name
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{name} is damaged: .*{message}.*: delete it") as caught:
        MNIST()
    assert "\n" not in str(caught.value)


def test_files_that_do_not_belong_together(data):
    write_mnist(data / "mnist", train=50, test=20)
    folder = data / "mnist"
    labels = (folder / "t10k-labels-idx1-ubyte.gz").read_bytes()
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(ValueError, match=r"MNIST: .* got \(50, 1, 28, 28\) and \(20,\)"):
        MNIST()


def test_a_set_of_the_published_size_must_be_the_published_one(data):
    write_mnist(data / "mnist", test=10_000)
    write_mnist(data / "fashionmnist", test=10_000)
    with pytest.raises(ValueError, match=r"t10k-images.* expected sha256 0fa7898d.*, found"):
        MNIST(train=False)
    assert len(FashionMNIST(train=False)) == 10_000


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c[:-100], "pickle"),
        (lambda c: b"", "EOF|Ran out of input"),
        (
            lambda c: pickle.dumps({b"data": np.zeros((9, 3072), np.uint8), b"labels": [0] * 10}),
            "9",
        ),
        (lambda c: pickle.dumps({b"labels": []}), "data"),
        (lambda c: pickle.dumps(subprocess.Popen), "expected only arrays, found a call of"),
    ],
)
def test_a_damaged_cifar_file(data, spoil, message):
    write_cifar10(data / "cifar10")
    path = data / "cifar10" / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"data_batch_3 is damaged: .*({message})") as caught:
        CIFAR10()
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3 is missing: get it from https://"):
        CIFAR10()


def test_another_archive_or_text_is_refused(data):
    (data / "cifar10").mkdir(parents=True)
    (data / "cifar10" / "cifar-10-python.tar.gz").write_bytes(cifar10_archive())
    with pytest.raises(ValueError, match="expected md5 c58f30108f718f92721af3b95e74349a, found"):
        CIFAR10()
    (data / "tinyshakespeare").mkdir()
    (data / "tinyshakespeare" / "input.txt").write_text("First Citizen:\n")
    with pytest.raises(ValueError, match="expected sha256 86c4e6aa"):
        TinyShakespeare()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good .\n\nbad .\n", "expected a sentence in every line, line 2 is blank"),
        (b"", "line 1 is blank"),
        (b"good \x81 .\n", "can't decode byte 0x81"),
    ],
)
def test_a_damaged_file_of_reviews(data, content, message):
    write_reviews(data / "rt-polarity", "latin-1")
    path = data / "rt-polarity" / "rt-polarity.pos"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"\.pos is damaged: .*{message}.*: delete it") as caught:
        MovieReviews()
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"\.pos is missing: get it from https://"):
        MovieReviews()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: b"",
        lambda c: b"<html>404</html>",
        lambda c: c[:-50],
        lambda c: c[:-8] + b"\0" * 8,
    ],
    ids=["empty", "a page", "cut off", "another checksum"],
)
def test_a_damaged_archive_of_reviews(data, spoil):
    write_reviews(data / "rt-polarity", "archive")
    path = data / "rt-polarity" / "rt-polaritydata.tar.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"\.tar\.gz is damaged: .+: delete it") as caught:
        MovieReviews()
    assert "\n" not in str(caught.value)


def test_an_archive_without_the_reviews(data):
    (data / "rt-polarity").mkdir(parents=True)
    (data / "rt-polarity" / "rt-polaritydata.tar.gz").write_bytes(cifar10_archive())
    with pytest.raises(
        ValueError, match=r"damaged: .*rt-polaritydata/rt-polarity\.neg.* not found"
    ):
        MovieReviews()


# --- downloads ---


def test_what_is_missing_is_downloaded_once(data, site, monkeypatch):
    folder, address = site
    write_mnist(folder)
    monkeypatch.setattr(MNIST, "url", address)
    assert len(MNIST(train=False)) == 20
    names = ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    assert files_in(data) == [f"mnist/{name}" for name in names]
    for name in names:
        (folder / name).unlink()  # from now on the site has nothing
    assert len(MNIST(train=False)) == 20


def test_a_text_is_downloaded_and_checked(data, site, monkeypatch):
    folder, address = site
    (folder / "input.txt").write_text("First Citizen:\n")
    monkeypatch.setattr(TinyShakespeare, "url", address + "input.txt")
    with pytest.raises(ValueError, match="expected sha256"):
        TinyShakespeare()
    assert files_in(data) == []
    digest = hashlib.sha256(b"First Citizen:\n").hexdigest()
    monkeypatch.setattr(TinyShakespeare, "sha256", digest)
    assert TinyShakespeare().text == "First Citizen:\n"
    assert files_in(data) == ["tinyshakespeare/input.txt"]


def test_reviews_are_downloaded_as_an_archive(data, site, monkeypatch):
    folder, address = site
    monkeypatch.setattr(MovieReviews, "url", address + "rt-polaritydata.tar.gz")
    (folder / "rt-polaritydata.tar.gz").write_bytes(reviews_archive()[:-50])
    with pytest.raises(ValueError, match="is damaged"):
        MovieReviews()
    assert files_in(data) == []
    (folder / "rt-polaritydata.tar.gz").write_bytes(reviews_archive())
    assert len(MovieReviews()) == 5
    assert files_in(data) == ["rt-polarity/rt-polaritydata.tar.gz"]


def test_a_bad_download_leaves_nothing(data, site, monkeypatch):
    folder, address = site
    monkeypatch.setattr(MNIST, "url", address)
    with pytest.raises(ConnectionError, match=r"train-images.*no download from http.*HTTPError"):
        MNIST()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.ones(9)))[:-9])
    with pytest.raises(ValueError, match="is damaged"):
        MNIST()
    assert files_in(data) == []


def test_nobody_answers(data, monkeypatch):
    monkeypatch.setattr(MNIST, "url", "http://127.0.0.1:9/")
    with pytest.raises(
        ConnectionError, match=r"put the file into .* by hand, or set TINYTORCH_DATA"
    ):
        MNIST()
    with pytest.raises(FileNotFoundError, match="is missing: get it from"):
        MNIST(download=False)
    assert files_in(data) == []


def test_without_pooch_the_error_names_the_extra(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install 'tinytorch\[data\]'"):
        MNIST()
    monkeypatch.delenv("TINYTORCH_DATA")
    with pytest.raises(ImportError, match=r"pip install 'tinytorch\[data\]'.* TINYTORCH_DATA"):
        MNIST()
    write_mnist(data / "mnist")
    assert len(MNIST(root=data)) == 50  # what is there needs no pooch


# --- the digits that come with the package ---


def test_the_digits_file_is_what_its_script_writes():
    pytest.importorskip("sklearn", reason="the script reads scikit-learn's digits")
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from make_digits import PATH, digits_file
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    fresh, committed = np.load(io.BytesIO(digits_file())), np.load(PATH)
    assert fresh.files == committed.files == ["images", "labels"]
    assert all(np.array_equal(fresh[key], committed[key]) for key in fresh.files)
    assert all(committed[key].dtype == np.uint8 for key in fresh.files)
    assert PATH.stat().st_size < 60_000

"""`tito quickstart` from the command line to the INT8 network."""

import json
import os
import subprocess
import sys

import pytest

from tito.errors import TitoError
from tito.quickstart import datasets


def run(*arguments, environment=None, timeout=300):
    return subprocess.run(
        [sys.executable, "-m", "tito.main", "quickstart", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **(environment or {})},
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    picture = tmp_path_factory.mktemp("plot") / "quickstart.png"
    done = run("--json", "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), picture, done


def test_the_network_learns_and_int8_keeps_it(result):
    data, _, _ = result
    assert data["train_loss"][-1] < 0.1 * data["train_loss"][0]
    assert data["fp32"]["accuracy"] > 0.95
    assert abs(data["int8"]["accuracy"] - data["fp32"]["accuracy"]) <= 0.01


def test_bytes_are_those_of_the_arrays(result):
    data, _, _ = result
    parameters = sum(a * b + b for a, b in zip(data["network"], data["network"][1:], strict=False))
    assert data["fp32"]["bytes_in_memory"] == 4 * parameters
    assert parameters <= data["int8"]["bytes_in_memory"] < 1.1 * parameters
    for which in ("fp32", "int8"):
        assert 0 < data[which]["bytes_on_disk"] - data[which]["bytes_in_memory"] < 5000
        assert all(time > 0 for time in data[which]["latency_ms"].values())


def test_int8_differs_from_fp32_a_little(result):
    data, _, _ = result
    assert 0 < data["max_output_error"] < 0.05 * data["output_range"]


def test_the_plot_is_a_picture_and_the_bar_goes_to_stderr(result):
    _, picture, done = result
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "training: 100%" in done.stderr


def test_the_table_says_where_numbers_come_from():
    from rich.console import Console

    from tito import output

    row = {"accuracy": 0.97, "bytes_on_disk": 7, "bytes_in_memory": 6, "latency_ms": {"1": 0.1}}
    data = {
        "network": [64, 100, 100, 10],
        "train_images": 1442,
        "test_images": 355,
        "epochs": 30,
        "train_loss": [2.0, 0.1],
        "fp32": row,
        "int8": row,
        "max_output_error": 0.1,
        "output_range": 30.0,
    }
    console = Console(width=120)
    with console.capture() as captured:
        output.quickstart(console, data)
    text = captured.get()
    for words in ("355 test images", "safetensors file", "nbytes", "median", "64-100-100-10"):
        assert words in text


def test_damaged_mnist_is_told_in_one_line(tmp_path, monkeypatch):
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    monkeypatch.setenv("TINYTORCH_DATA", str(tmp_path))
    with pytest.raises(TitoError, match=r"train-images-idx3-ubyte\.gz") as caught:
        datasets("mnist")
    assert "\n" not in str(caught.value)


def test_a_plot_that_cannot_be_written_is_told_before_training():
    done = run("--plot", "no-such-folder/plot.png")
    assert done.returncode != 0
    assert "no-such-folder" in done.stderr
    assert "training" not in done.stderr

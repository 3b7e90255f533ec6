"""Worker processes: the same batches in the same order, errors that arrive, nobody left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from tinytorch.core.tensor import Tensor
from tinytorch.data.loader import DataLoader, Dataset, Digits, RandomCrop, TensorDataset

METHODS = multiprocessing.get_all_start_methods()  # fork, forkserver, spawn; spawn alone on Windows
every_method = pytest.mark.parametrize("method", METHODS)


class Squares(Dataset):
    """i and its square; later examples take less time, so that workers overtake one another."""

    def __init__(self, count=24):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(0.002 * (self.count - index) / self.count)
        return Tensor([index]), index * index


class BadExample(Squares):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def __getitem__(self, index):
        if index == 13:
            raise self.error
        return super().__getitem__(index)


class NeedsTwo(Exception):
    """Arrives broken where it is pickled: its arguments aren't those it was made with."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Dies(Squares):
    def __getitem__(self, index):
        os._exit(3)


class Counted(Squares):
    """Counts the examples that workers load."""

    def __init__(self, count, counter):
        super().__init__(count)
        self.counter = counter

    def __getitem__(self, index):
        with self.counter.get_lock():
            self.counter.value += 1
        return Tensor([index]), index


class Product(Squares):
    """Needs BLAS."""

    def __getitem__(self, index):
        return Tensor(np.ones((200, 200), np.float32) @ np.ones((200, 200), np.float32))


def batches(loader):
    return [tuple(part.numpy().tolist() for part in batch) for batch in loader]


@pytest.fixture(autouse=True)
def no_process_is_left():
    before = {child.pid for child in multiprocessing.active_children()}
    yield
    assert {child.pid for child in multiprocessing.active_children()} <= before


@every_method
def test_batches_are_the_same_whatever_the_number_of_workers(method):
    def epochs(workers):
        loader = DataLoader(
            Digits(train=False),
            batch_size=50,
            shuffle=True,
            num_workers=workers,
            seed=5,
            transform=RandomCrop(8, padding=1),
            multiprocessing_context=method,
        )
        return [batches(loader) for _ in range(2 if method == "fork" else 1)]

    assert epochs(2) == epochs(0)


@pytest.mark.parametrize("workers", [1, 3, 30])
def test_batches_come_in_order(workers):
    loader = DataLoader(Squares(), batch_size=2, num_workers=workers)
    assert batches(loader) == batches(DataLoader(Squares(), batch_size=2))


def test_a_loader_with_workers_goes_on_from_its_state():
    loader = DataLoader(Squares(), 4, shuffle=True, num_workers=2, seed=1)
    iterator = iter(loader)
    next(iterator), next(iterator)
    state = loader.state_dict()
    rest = batches(iterator)
    other = DataLoader(Squares(), 4, shuffle=True, num_workers=1)
    other.load_state_dict(state)
    assert state["batch"] == 2 and batches(other) == rest and len(rest) == 4


def test_two_loaders_at_once():
    one, two = (DataLoader(Squares(), 4, num_workers=2, shuffle=True, seed=s) for s in (1, 2))
    pairs = list(zip(one, two, strict=True))
    assert len(pairs) == 6
    assert [a[1].tolist() for a, _ in pairs] != [b[1].tolist() for _, b in pairs]


@every_method
def test_an_exception_arrives_with_its_traceback(method):
    loader = DataLoader(
        BadExample(KeyError("no such file")), 4, num_workers=2, multiprocessing_context=method
    )
    received = []
    with pytest.raises(KeyError, match="no such file") as caught:
        received.extend(loader)
    assert len(received) == 3
    text = str(caught.value.__cause__)
    assert "Traceback" in text and "__getitem__" in text and "test_loader_processes.py" in text


def test_an_exception_that_can_not_travel_arrives_as_text():
    loader = DataLoader(BadExample(NeedsTwo("this", "that")), 4, num_workers=1)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*__getitem__.*NeedsTwo: this and that"):
        list(loader)


def test_it_does_so_beside_a_library_that_sends_an_exception_with_its_context():
    """Dask, once imported, has every exception pickled with those that it came from."""
    code = (
        "from tblib import pickling_support; pickling_support.install()\n"
        f"from {__name__} import test_an_exception_that_can_not_travel_arrives_as_text as test\n"
        "test()"
    )
    folder = str(Path(__file__).parent)
    paths = [folder, *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_worker_that_dies_is_noticed():
    with pytest.raises(RuntimeError, match="a worker process died"):
        list(DataLoader(Dies(), 4, num_workers=2))


def test_workers_run_ahead_by_two_batches_each():
    counter = multiprocessing.Value("i", 0)
    loader = DataLoader(Counted(400, counter), 4, num_workers=2)
    iterator = iter(loader)
    next(iterator)
    time.sleep(0.5)
    assert counter.value <= 4 * (1 + 2 * 2)
    iterator.close()


def test_leaving_early_ends_the_workers():
    for _ in DataLoader(Squares(400), 4, num_workers=2):
        break
    assert not multiprocessing.active_children()
    with pytest.raises(ZeroDivisionError):
        for _ in DataLoader(Squares(400), 4, num_workers=2):
            1 / 0  # noqa: B018
    assert not multiprocessing.active_children()


def test_workers_can_multiply_after_the_parent_did():
    np.ones((500, 500)) @ np.ones((500, 500))  # starts BLAS threads here, before the fork
    for batch in DataLoader(Product(8), 4, num_workers=2):
        assert batch.shape == (4, 200, 200) and batch.numpy().max() == 200


@pytest.mark.skipif("fork" not in METHODS, reason="Windows ends processes in another way")
def test_a_killed_parent_leaves_no_workers(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent("""
            import multiprocessing, os, signal, sys, time
            from tinytorch.data.loader import DataLoader, Dataset

            class Endless(Dataset):
                def __len__(self): return 1000
                def __getitem__(self, index):
                    time.sleep(0.05)
                    return index

            for _ in DataLoader(Endless(), 2, num_workers=2, multiprocessing_context="fork"):
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    done = run(script)
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_running(pid)]


def run(*command):
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def is_running(pid):
    """Whether the process is there, and more than an entry that nobody has read yet."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc").is_dir()


NOTEBOOK = """
from tinytorch.data.loader import DataLoader, Dataset
class Mine(Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): return index
try:
    print(len(list(DataLoader(Mine(), num_workers=1, multiprocessing_context={method!r}))))
except RuntimeError as error:
    print(error)
"""


@every_method
def test_a_dataset_of_a_notebook(method):
    """`python -c` is like a notebook: there is no file that a new process could import."""
    done = run("-c", NOTEBOOK.format(method=method))
    expected = (
        "4"
        if method == "fork"
        else "DataLoader: worker processes can't import it: Mine is defined in a notebook: move it "
        "into a .py file and import it from there, or use num_workers=0"
    )
    assert done.stdout.strip() == expected and not done.stderr


def test_a_lambda_can_not_be_spawned():
    loader = DataLoader(
        TensorDataset(np.zeros(3)),
        num_workers=1,
        collate_fn=lambda examples: examples,
        multiprocessing_context="spawn",
    )
    with pytest.raises(
        RuntimeError, match=r"DataLoader: worker processes can't import it: .*lambda"
    ):
        list(loader)


def test_a_script_spawns_its_own_classes(tmp_path):
    script = tmp_path / "script.py"
    body = textwrap.indent(NOTEBOOK[NOTEBOOK.index("try:") :].format(method="spawn"), "    ")
    script.write_text(NOTEBOOK[: NOTEBOOK.index("try:")] + 'if __name__ == "__main__":\n' + body)
    done = run(script)
    assert done.stdout.strip() == "4", done.stderr

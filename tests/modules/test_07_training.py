"""Module 07: the loop, its metrics and history, and the checkpoint file."""

import math
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinytorch.core import training
from tinytorch.core.layers import Dropout, Linear, Sequential
from tinytorch.core.losses import cross_entropy
from tinytorch.core.optimizers import SGD, Adam, StepSchedule
from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.core.training import Callback, Checkpoint, Trainer, accuracy

random = np.random.default_rng(7)
X = random.standard_normal((20, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def batches(size=8, x=X, y=Y):
    return [
        (Tensor(x[i : i + size]), Tensor(y[i : i + size], dtype=np.int64))
        for i in range(0, len(x), size)
    ]


def squared(output, target):
    difference = output - target
    return (difference * difference).mean()


def new_trainer(lr=0.1, seed=0, **options):
    manual_seed(seed)
    model = Sequential(Linear(3, 5), Dropout(0.2), Linear(5, 2))
    optimizer = SGD(model.parameters(), lr=lr, momentum=0.9)
    return Trainer(model, optimizer, cross_entropy, **options)


def slope_trainer(x, y, lr=0.5, **options):
    """y = w x with w = 0 at first, so that every number can be worked out by hand."""
    model = Linear(1, 1, bias=False)
    model.load_state_dict({"weight": [[0.0]]})
    trainer = Trainer(model, SGD(model.parameters(), lr=lr), squared, **options)
    return trainer, [(Tensor([[x]]), Tensor([[y]]))]


def values(model):
    return {name: tensor.data.copy() for name, tensor in model.state_dict().items()}


def assert_same(model, before):
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, before[name])


# --- metrics ---


@pytest.mark.parametrize(
    ("output", "target", "expected"),
    [
        ([[0.1, 0.9], [0.8, 0.2]], [1, 1], 0.5),
        ([[3.0, 1.0, 2.0]], [0], 1.0),
        ([[[0.1, 5.0], [0.9, 4.0]]], [[1, 0]], 1.0),  # (1, 2 classes, 2 places)
        ([[1.0, 1.0]], [0], 1.0),  # the first of equals
    ],
)
def test_accuracy(output, target, expected):
    assert accuracy(Tensor(output), Tensor(target)) == expected
    assert type(accuracy(Tensor(output), Tensor(target))) is float


@pytest.mark.parametrize(("output", "target"), [((4,), (4,)), ((4, 2), (4, 1)), ((4, 2), (3,))])
def test_accuracy_names_shapes_that_do_not_fit(output, target):
    with pytest.raises(ValueError, match="accuracy: outputs"):
        accuracy(Tensor(np.zeros(output)), Tensor(np.zeros(target)))


# --- the loop ---


def test_one_step_by_hand():
    trainer, data = slope_trainer(x=2.0, y=6.0, lr=0.125)
    assert trainer.train_epoch(data, progress=False) == {"loss": 36.0}
    # d/dw (2 w - 6)^2 = 2 (2 w - 6) 2 = -24 at w = 0
    assert trainer.model.weight.item() == 3.0
    assert trainer.history == {"train_loss": [36.0], "lr": [0.125]}
    assert (trainer.epoch, trainer.batch, trainer.step) == (1, 0, 1)


def test_means_are_over_samples_not_batches():
    model = Linear(1, 1, bias=False)
    model.load_state_dict({"weight": [[1.0]]})
    trainer = Trainer(model, SGD(model.parameters(), lr=1e-3), squared)
    x = Tensor(np.ones((3, 1)))
    data = [(x, x), (Tensor([[1.0]]), Tensor([[3.0]]))]
    assert trainer.evaluate(data) == {"loss": 1.0}  # (3 * 0 + 1 * 4) / 4
    assert trainer.evaluate(data[::-1]) == {"loss": 1.0}
    assert trainer.evaluate(data[:1]) == {"loss": 0.0}


def test_gradients_do_not_leak_from_step_to_step():
    trainer, data = slope_trainer(x=1.0, y=1.0, lr=0.5)
    trainer.fit(data, epochs=2, progress=False)
    assert trainer.history["train_loss"] == [1.0, 0.0]
    assert trainer.model.weight.item() == 1.0


def test_accumulated_batches_are_one_large_batch():
    results, losses = [], []
    for size, accumulate in ((20, 1), (8, 3), (8, 5)):  # the last one stays incomplete
        trainer = new_trainer()
        trainer.model.layers[1].p = 0
        places = []

        class Look(Callback):
            def on_step(self, trainer, places=places):
                places.append(trainer.batch)

        options = {"accumulate": accumulate, "callbacks": [Look()], "progress": False}
        losses.append(trainer.train_epoch(batches(size), **options)["loss"])
        assert places == [len(batches(size))]
        assert trainer.step == 1
        results.append(values(trainer.model))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    for other in results[1:]:
        for name, array in results[0].items():
            np.testing.assert_allclose(other[name], array, rtol=1e-5, atol=1e-7)


def test_the_schedule_sets_the_rate_of_each_step():
    trainer, data = slope_trainer(1.0, 1.0, scheduler=StepSchedule(0.4, step_size=2, gamma=0.5))
    seen = []

    class Look(Callback):
        def on_step(self, trainer):
            seen.append(trainer.optimizer.lr)

    trainer.fit(3 * data, epochs=2, callbacks=[Look()], progress=False)
    assert seen == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    assert trainer.history["lr"] == [0.2, 0.1]


def test_the_gradient_is_clipped_before_the_step():
    trainer, data = slope_trainer(1.0, 100.0, lr=1.0, grad_clip_norm=0.5)
    trainer.train_epoch(data, progress=False)
    assert trainer.model.weight.item() == pytest.approx(0.5, rel=1e-5)
    with pytest.raises(ValueError, match="grad_clip_norm must be above 0"):
        slope_trainer(1.0, 1.0, grad_clip_norm=0.0)


def test_training_is_in_train_mode_and_evaluation_in_eval_mode():
    trainer, modes = new_trainer(), []
    trainer.model.register_forward_hook(lambda model, *_: modes.append(model[1].training))
    trainer.model[0].eval()
    trainer.evaluate(batches(20))
    assert not trainer.model[0].training  # each module keeps its mode
    assert trainer.model[1].training
    trainer.train_epoch(batches(20), progress=False)
    assert modes == [False, True]


def test_evaluation_changes_nothing_and_records_nothing():
    trainer = new_trainer()
    before = values(trainer.model)
    seen = []
    trainer.model.register_forward_hook(lambda model, x, output: seen.append(output))
    first = trainer.evaluate(batches(), metrics=[accuracy])
    assert first == trainer.evaluate(batches(), metrics={"accuracy": accuracy})
    assert set(first) == {"loss", "accuracy"}
    assert all(output.is_leaf for output in seen)
    assert_same(trainer.model, before)
    assert trainer.history == {}


def test_fit_learns_and_writes_its_history():
    trainer = new_trainer()
    history = trainer.fit(
        batches(), epochs=30, validation=batches(20), metrics=[accuracy], progress=False
    )
    assert history is trainer.history
    names = {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "lr"}
    assert set(history) == names
    assert all(len(column) == 30 for column in history.values())
    assert history["train_loss"][-1] < 0.5 * history["train_loss"][0]
    assert history["validation_accuracy"][-1] > 0.9


def test_epochs_count_from_the_very_first():
    trainer = new_trainer()
    trainer.fit(batches(), epochs=2, progress=False)
    trainer.fit(batches(), epochs=3, progress=False)
    assert trainer.epoch == len(trainer.history["lr"]) == 3
    with pytest.warns(UserWarning, match="3 of 3 epochs are complete"):
        trainer.fit(batches(), epochs=3, progress=False)


def test_patience_ends_a_training_that_got_no_better():
    trainer, data = slope_trainer(1.0, 1.0, lr=0.5)
    trainer.fit(data, epochs=50, patience=3, progress=False)
    assert trainer.history["train_loss"] == [1.0, 0.0, 0.0, 0.0, 0.0]
    trainer, data = slope_trainer(1.0, 1.0, lr=0.5)
    trainer.fit(data, epochs=50, validation=[(Tensor([[1.0]]), Tensor([[0.0]]))], patience=2)
    assert trainer.history["validation_loss"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([], 1, False),
        ([1.0], 1, False),
        ([1.0, 1.0], 1, True),
        ([3.0, 1.0, 2.0], 2, False),
        ([3.0, 1.0, 2.0, 1.0], 2, True),
        ([3.0, 1.0, 2.0, 0.5], 2, False),
        ([math.nan, 1.0, math.nan], 2, False),
    ],
)
def test_out_of_patience(losses, patience, expected):
    assert training.out_of_patience(losses, patience) is expected


def test_a_callback_may_stop_and_a_function_is_one():
    seen = []

    def stop_at_two(trainer):
        seen.append(trainer.epoch)
        trainer.stop = trainer.epoch == 2

    trainer = new_trainer()
    trainer.fit(batches(), epochs=9, callbacks=[stop_at_two], progress=False)
    assert seen == [1, 2]
    trainer.fit(batches(), epochs=3, progress=False)
    assert trainer.epoch == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_it_spoils_the_model(bad):
    trainer = new_trainer()
    data = batches()
    trainer.fit(data, epochs=1, progress=False)
    data[1][0].data[0, 0] = bad
    seen = []

    class Keep(Callback):
        def on_step(self, trainer):
            seen.append(values(trainer.model))

    with np.errstate(all="ignore"), pytest.raises(FloatingPointError) as error:
        trainer.fit(data, epochs=2, callbacks=[Keep()], progress=False)
    assert "step 4 (epoch 1, batch 1): the loss is" in str(error.value)
    assert "\n" not in str(error.value)
    assert_same(trainer.model, seen[-1])


def test_an_infinite_loss_stops_too():
    trainer, data = slope_trainer(1.0, 1e30)
    with np.errstate(over="ignore"), pytest.raises(FloatingPointError, match="the loss is inf"):
        trainer.train_epoch(data, progress=False)
    assert trainer.model.weight.item() == 0.0


def test_metrics_record_nothing():
    leaves = []

    def metric(output, target):
        leaves.append((output * 2).is_leaf)
        return 0.0

    new_trainer().train_epoch(batches(), metrics=[metric], progress=False)
    assert leaves == [True] * 3


def test_metrics_come_as_one_function_a_list_or_a_dict():
    trainer = new_trainer()
    found = [trainer.evaluate(batches(), m) for m in (accuracy, [accuracy], {"right": accuracy})]
    assert found[0] == found[1]
    assert found[2]["right"] == found[0]["accuracy"]


def test_a_step_needs_a_batch():
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
        new_trainer().fit(batches(), epochs=1, accumulate=0, progress=False)


@pytest.mark.parametrize("method", ["train_epoch", "evaluate"])
def test_an_empty_loader_is_refused(method):
    with pytest.raises(ValueError, match=f"{method}: the loader gave no batches"):
        getattr(new_trainer(), method)([])


def test_the_bar_is_silent_on_request(capfd, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    new_trainer().fit(batches(), epochs=1, progress=False)
    assert capfd.readouterr().err == ""
    new_trainer().fit(batches(), epochs=1)
    shown = capfd.readouterr().err
    assert "epoch 1/1" in shown
    assert "loss=" in shown


# --- the checkpoint ---


def test_checkpoint_brings_everything_back(tmp_path):
    path = tmp_path / "new folder" / "run.safetensors"
    trainer = new_trainer()
    trainer.fit(batches(), epochs=2, validation=batches(20), progress=False)
    trainer.save_checkpoint(path)
    assert [p.name for p in path.parent.iterdir()] == ["run.safetensors"]
    saved, losses = values(trainer.model), list(trainer.history["train_loss"])
    trainer.fit(batches(), epochs=4, validation=batches(20), progress=False)
    other = new_trainer(seed=5)
    other.load_checkpoint(str(path))
    assert_same(other.model, saved)
    assert other.history["train_loss"] == losses
    assert (other.epoch, other.batch, other.step) == (2, 0, 6)
    other.fit(batches(), epochs=4, validation=batches(20), progress=False)
    assert other.history == trainer.history


def test_an_interrupted_run_is_saved_and_goes_on(tmp_path):
    class Interrupt(Callback):
        def on_step(self, trainer):
            if trainer.step == 4:
                raise KeyboardInterrupt

    expected = new_trainer().fit(batches(), epochs=3, progress=False)
    interrupted = new_trainer()
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(batches(), epochs=3, callbacks=[Interrupt()], progress=False)
    interrupted.evaluate(batches(), lambda *_: training.generator.random())  # draws in between
    interrupted.save_checkpoint(tmp_path / "run")
    resumed = new_trainer(seed=9)
    resumed.load_checkpoint(tmp_path / "run")
    assert (resumed.epoch, resumed.batch, resumed.step) == (1, 1, 4)
    assert resumed.fit(batches(), epochs=3, progress=False) == expected


def test_checkpoint_is_a_safetensors_file_that_anybody_reads(tmp_path):
    trainer = new_trainer()
    trainer.fit(batches(), epochs=1, callbacks=[Checkpoint(tmp_path / "run")], progress=False)
    arrays = load_file(tmp_path / "run")
    np.testing.assert_array_equal(arrays["model.0.weight"], trainer.model[0].weight.data)
    assert "optimizer.state.0.momentum_buffer" in arrays


def damaged(content):
    """Ways in which a file goes bad, by name."""
    middle = len(content) - 20
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {
        "empty": b"",
        "half": content[: len(content) // 2],
        "truncated": content[:-1],
        "a bit flipped": flipped,
        "a number changed": content.replace(b'\\"counts\\": [1', b'\\"counts\\": [2'),
        "text": b"this is no checkpoint",
        "zeros": bytes(1000),
    }


@pytest.mark.parametrize("kind", damaged(bytes(30)))
def test_a_damaged_file_is_told_in_one_line_and_changes_nothing(tmp_path, kind):
    path = tmp_path / "run.safetensors"
    trainer = new_trainer()
    trainer.fit(batches(), epochs=1, progress=False)
    trainer.save_checkpoint(path)
    content = damaged(path.read_bytes())[kind]
    assert content != path.read_bytes()
    path.write_bytes(content)
    before = values(trainer.model)
    with pytest.raises(ValueError, match=r"run\.safetensors is damaged") as error:
        trainer.load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert_same(trainer.model, before)
    assert trainer.epoch == 1


def test_foreign_files_are_refused(tmp_path):
    trainer = new_trainer()
    before = values(trainer.model)
    save_file({"model.0.weight": np.zeros((3, 5), np.float32)}, tmp_path / "tensors")
    with pytest.raises(ValueError, match="no checkpoint of ours"):
        trainer.load_checkpoint(tmp_path / "tensors")

    model = Sequential(Linear(3, 5), Linear(5, 3))
    wide = Trainer(model, SGD(model.parameters(), lr=0.1, momentum=0.9), cross_entropy)
    wide.save_checkpoint(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"wide is of another model: .*1\.weight"):
        trainer.load_checkpoint(tmp_path / "wide")

    adam = new_trainer()
    adam.optimizer = Adam(adam.model.parameters())
    adam.save_checkpoint(tmp_path / "adam")
    with pytest.raises(ValueError, match="saved with Adam, this has SGD"):
        trainer.load_checkpoint(tmp_path / "adam")

    half = new_trainer(seed=5)
    half.optimizer = SGD(half.model.parameters()[:2], lr=0.1, momentum=0.9)
    half.save_checkpoint(tmp_path / "half")
    with pytest.raises(ValueError, match="half is of another model"):
        trainer.load_checkpoint(tmp_path / "half")

    with pytest.raises(FileNotFoundError, match="nothing"):
        trainer.load_checkpoint(tmp_path / "nothing")
    assert_same(trainer.model, before)
    assert trainer.epoch == 0


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run"
    path.write_bytes(b"old")

    def no_space(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        new_trainer().save_checkpoint(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["run"]


def test_checkpoint_every_few_steps(tmp_path, monkeypatch):
    saved = []
    trainer = new_trainer()
    monkeypatch.setattr(trainer, "save_checkpoint", lambda path: saved.append(trainer.step))
    callback = Checkpoint(tmp_path / "run", every=2)
    trainer.fit(batches(), epochs=2, callbacks=[callback], progress=False)
    assert saved == [2, 3, 4, 6, 6]


def test_pack_and_unpack():
    arrays = {}
    facts = {"a": [np.arange(3), {"b": np.float32(0.5), 7: Tensor([1.0])}], "c": (1, "x", None)}
    packed = training.pack(facts, "top", arrays)
    assert sorted(arrays) == ["top.a.0", "top.a.1.7"]
    assert packed["c"] == [1, "x", None]
    back = training.unpack(packed, arrays)
    assert back["a"][0].tolist() == [0, 1, 2]
    assert type(back["a"][1]["b"]) is float
    assert back["a"][1]["7"].tolist() == [1.0]

"""`tito quickstart`: the project's main job on real data, from lesson to INT8 network.

Everything that is printed is measured here: accuracy on images that training never saw, bytes of
real files and arrays, time of real calls.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tito.course import find_course
from tito.errors import TitoError

if TYPE_CHECKING:
    from tinytorch.core.layers import Module

EPOCHS = {"digits": 30, "mnist": 5}
HIDDEN = 100
BATCH = 64
SEED = 0


def quickstart(data: str = "digits", plot: Path | None = None) -> dict[str, Any]:
    """Export, train, quantise and measure; returns all figures."""
    if plot:  # what is missing is told before the work, not after it
        pyplot()
        if not plot.absolute().parent.is_dir():
            raise TitoError(f"--plot {plot}: there is no folder {plot.parent}")
    exported = export()
    import tinytorch
    from tinytorch import Tensor, manual_seed, quantize_model

    train, test = datasets(data)
    manual_seed(SEED)
    model = network(train)
    losses = fit(model, train, EPOCHS[data])
    images, labels = test.images, np.asarray(test.labels)
    fp32 = measure(model, images, labels)
    outputs = {"FP32": logits(model, images)}
    weights = {"FP32": first_weight(model)}

    quantize_model(model, calibration_data=Tensor(train.images.numpy()[:1000]))
    int8 = measure(model, images, labels)
    outputs["INT8"] = logits(model, images)
    weights["INT8"] = first_weight(model)
    error = outputs["INT8"] - outputs["FP32"]
    if plot:
        draw(plot, losses, weights, error)
    return {
        "data": data,
        "train_images": len(train),
        "test_images": len(test),
        "network": [train.images[0].size, HIDDEN, HIDDEN, 10],
        "epochs": EPOCHS[data],
        "package": str(Path(tinytorch.__file__).parent),
        "exported": exported,
        "train_loss": losses,
        "fp32": fp32,
        "int8": int8,
        "max_output_error": float(np.abs(error).max()),
        "output_range": float(np.ptp(outputs["FP32"])),
        "plot": str(plot) if plot else None,
    }


def export() -> int | None:
    """Export every module in a checkout, so that the package is what the lessons say.

    Returns how many there are; None in an installed wheel, whose package was exported already.
    """
    course = find_course()
    if not (course.root / "pyproject.toml").is_file():
        return None
    from tito import export as exporter

    exporter.export(course)
    return len(course.modules)


def datasets(name: str) -> tuple[Any, Any]:
    """Training and test images."""
    from tinytorch import MNIST, Digits

    dataset = {"digits": Digits, "mnist": MNIST}[name]
    try:
        return dataset(train=True), dataset(train=False)
    except (ImportError, OSError, ValueError) as error:
        raise TitoError(f"{name}: {error}") from None


def network(train: Any) -> Module:
    """pixels -> 100 -> 100 -> 10, with ReLU."""
    from tinytorch import nn

    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(train.images[0].size, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, 10),
    )


def fit(model: Module, train: Any, epochs: int) -> list[float]:
    """Train with Adam, under one progress bar; the mean loss of each epoch."""
    from tqdm import tqdm

    from tinytorch import Callback, DataLoader, Trainer, nn, optim

    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss())
    loader = DataLoader(train, batch_size=BATCH, shuffle=True, seed=SEED)

    class Progress(Callback):
        def on_step(self, trainer: Trainer) -> None:
            bar.update()

        def on_epoch(self, trainer: Trainer) -> None:
            loss = trainer.history["train_loss"][-1]
            bar.set_postfix_str(f"epoch {trainer.epoch}/{epochs}, loss {loss:.3f}")

    with tqdm(desc="training", total=epochs * len(loader), unit="step") as bar:
        return trainer.fit(loader, epochs, callbacks=[Progress()], progress=False)["train_loss"]


def measure(model: Module, images: Any, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy, bytes on disk and in memory, and latency of a model."""
    state = {name: np.ascontiguousarray(array) for name, array in arrays(model).items()}
    return {
        "accuracy": float((logits(model, images).argmax(axis=1) == labels).mean()),
        "bytes_on_disk": file_size(state),
        "bytes_in_memory": sum(array.nbytes for array in state.values()),
        "latency_ms": {
            "1": latency(model, images[:1], 300),
            str(BATCH): latency(model, images[:BATCH], 100),
        },
    }


def arrays(model: Module) -> dict[str, np.ndarray]:
    """Everything that the model keeps: parameters and buffers."""
    return {name: np.asarray(tensor) for name, tensor in model.state_dict().items()}


def file_size(state: dict[str, np.ndarray]) -> int:
    """The size of a safetensors file of these arrays."""
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(state, path)
        return path.stat().st_size


def logits(model: Module, images: Any) -> np.ndarray:
    with evaluating(model):
        return model(images).numpy()


def latency(model: Module, images: Any, rounds: int) -> float:
    """The median time of a call, in milliseconds."""
    with evaluating(model):
        return 1000 * median_seconds(lambda: model(images), rounds)


def median_seconds(action: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Eval mode, and no graph."""
    from tinytorch import no_grad

    model.eval()
    with no_grad():
        yield


def first_weight(model: Module) -> np.ndarray:
    """The weight of the first linear layer; dequantised, if it is a quantised one."""
    from tinytorch import dequantize_int8

    layer: Any = model[1]  # type: ignore[index]
    if hasattr(layer, "q_weight"):
        weight = dequantize_int8(layer.q_weight, layer.weight_scale, layer.weight_zero_point)
        return weight.numpy()
    return layer.weight.numpy().copy()


def pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise TitoError("--plot needs matplotlib: pip install 'tinytorch[plots]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def draw(
    path: Path, losses: list[float], weights: dict[str, np.ndarray], error: np.ndarray
) -> None:
    """Three pictures: the loss, the weights before and after, what INT8 changes in the outputs."""
    plt = pyplot()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    left.semilogy(range(1, len(losses) + 1), losses, "k.-")
    left.set(title="Training loss", xlabel="epoch", ylabel="mean cross-entropy (nats)")
    bins = np.linspace(weights["FP32"].min(), weights["FP32"].max(), 65)
    middle.hist(weights["FP32"].ravel(), bins, color="lightgray", label="FP32")
    middle.hist(weights["INT8"].ravel(), bins, histtype="step", color="black", label="INT8")
    middle.set(title="Weights of the first layer", xlabel="value", ylabel="count")
    middle.legend()
    right.hist(error.ravel(), 60, color="gray")
    right.set(title="INT8 output minus FP32 output", xlabel="difference of a logit", ylabel="count")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as problem:
        raise TitoError(f"--plot {path}: {problem}") from None
    finally:
        plt.close(figure)
    print(f"wrote {path}", file=sys.stderr)

"""An MLP on MNIST in FP32 and in INT8: accuracy, bytes of the files, latency.

python benchmarks/quantize_mnist.py [--quick] [--json PATH] [--check]

784-100-100-10 with ReLU, Adam 1e-3, batches of 64, 5 epochs, 3 seeds (--quick: one); calibrated on
the first 1,000 training images. MNIST is looked for in $TINYTORCH_DATA, else downloaded.
"""

from common import arguments, interleave, report_seeds  # isort: skip (pins the threads first)

import copy
import tempfile
from pathlib import Path

from safetensors.numpy import save_file

from tinytorch import (
    MNIST,
    DataLoader,
    Tensor,
    Trainer,
    compare_model_sizes,
    manual_seed,
    nn,
    no_grad,
    optim,
    quantize_model,
)

# what the mean over the seeds must keep
LIMITS = {
    "FP32 accuracy": ("at least", 0.970),
    "accuracy lost": ("at most", 0.002),
    "FP32 file, bytes": ("at most", 360_000),
    "INT8 file, bytes": ("at most", 93_000),
}


def trained(train: MNIST, seed: int) -> nn.Module:
    manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(train, batch_size=64, shuffle=True, seed=seed)
    Trainer(model, optimizer, nn.CrossEntropyLoss()).fit(loader, epochs=5)
    return model.eval()


def accuracy(model: nn.Module, test: MNIST) -> float:
    with no_grad():
        guesses = model(test.images).data.argmax(axis=1)
    return float((guesses == test.labels.data).mean())


def file_bytes(model: nn.Module) -> int:
    """The size of the model's state on disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({name: tensor.data for name, tensor in model.state_dict().items()}, path)
        return path.stat().st_size


def measure(train: MNIST, test: MNIST, seed: int, rounds: int) -> dict[str, float]:
    """All figures of one seed."""
    model = trained(train, seed)
    small = copy.deepcopy(model)
    quantize_model(small, calibration_data=Tensor(train.images.data[:1000]))
    small_by_channel = copy.deepcopy(model)
    quantize_model(small_by_channel, calibration_data=Tensor(train.images.data[:1000]), axis=1)
    sizes = compare_model_sizes(model, small)
    row = {
        "FP32 accuracy": accuracy(model, test),
        "INT8 accuracy": accuracy(small, test),
        "INT8 accuracy, per channel": accuracy(small_by_channel, test),
        "FP32 file, bytes": file_bytes(model),
        "INT8 file, bytes": file_bytes(small),
        "INT8 file, bytes, per channel": file_bytes(small_by_channel),
        "FP32 memory, bytes": sizes["original_bytes"],
        "INT8 memory, bytes": sizes["quantized_bytes"] + sizes["overhead_bytes"],
    }
    row["accuracy lost"] = row["FP32 accuracy"] - row["INT8 accuracy"]
    for batch in (1, 64, 1000):
        x = test.images[:batch]
        with no_grad():
            calls = {"FP32": lambda x=x: model(x), "INT8": lambda x=x: small(x)}
            medians = interleave(f"latency, batch {batch}", calls, rounds)
        for name, seconds in medians.items():
            row[f"{name} latency, us, batch {batch}"] = 1e6 * seconds
        row[f"INT8 / FP32 latency, batch {batch}"] = medians["INT8"] / medians["FP32"]
    return row


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    train, test = MNIST(), MNIST(train=False)
    seeds = [0] if options.quick else [0, 1, 2]
    rows = [measure(train, test, seed, rounds=20 if options.quick else 100) for seed in seeds]
    report_seeds(__doc__.splitlines()[0], rows, LIMITS, options)

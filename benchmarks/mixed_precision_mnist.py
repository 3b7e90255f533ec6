"""Bits by layer and calibration without data, on MNIST: accuracy at equal bytes.

python benchmarks/mixed_precision_mnist.py [--quick] [--json PATH] [--check]

784-100-100-10 with ReLU (5 epochs) and a CNN with batch norms (2 epochs), Adam 1e-3, batches of 64,
images normalised, 3 seeds (--quick: one). Weights on symmetric grids, one for each output channel:
the same width everywhere, and widths by layer from 2, 3, 4, 6 and 8 bits that take no more bytes
than 3 bits everywhere, or than halfway between 2 and 3. They are chosen by the loss on 2,000
training images, or by Hessian traces on 256. Then, for the CNN, weights of 8 bits and results of 8,
4 and 3 bits on min-max grids from 64 inputs: real ones, distilled ones (ZeroQ), Gaussian noise.
MNIST is looked for in $TINYTORCH_DATA, else downloaded.
"""

from common import arguments, report_seeds  # isort: skip (pins the threads first)

import sys
from functools import partial

import numpy as np
from tqdm import tqdm

from tinytorch import (
    MNIST,
    DataLoader,
    FakeQuantize,
    MinMaxObserver,
    QConfig,
    Tensor,
    TensorDataset,
    Trainer,
    allocate_bits,
    distill_inputs,
    hessian_costs,
    hessian_traces,
    layer_bytes,
    manual_seed,
    nn,
    no_grad,
    optim,
    prepare_qat,
    qat_config,
    round_weights,
    sensitivity,
)

# what the mean over the seeds must keep
LIMITS = {
    "MLP: float": ("at least", 0.970),
    "CNN: float": ("at least", 0.980),
    "MLP: bytes of 3 bits, by loss, gained over 3 bits": ("at least", 0.0),
    "CNN: bytes of 3 bits, by loss, gained over 3 bits": ("at least", 0.0),
}
WIDTHS = (2, 3, 4, 6, 8)
loss_fn = nn.CrossEntropyLoss()


def mlp() -> nn.Sequential:
    layers = [nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def cnn() -> nn.Sequential:
    first = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    second = [nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)]
    return nn.Sequential(*first, nn.MaxPool2d(2), *second, nn.MaxPool2d(2), *head)


def normalised(data: MNIST) -> tuple[Tensor, Tensor]:
    """All images, with mean 0 and deviation 1 as in the training set, and their labels."""
    return Tensor((data.images.data - 0.1307) / 0.3081), data.labels


def accuracy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    images, labels = batch
    right = 0
    with no_grad():
        for i in range(0, len(images), 1000):
            guesses = model(images[i : i + 1000]).data.argmax(axis=1)
            right += int((guesses == labels.data[i : i + 1000]).sum())
    return right / len(images)


def trained(
    model: nn.Sequential, train: tuple[Tensor, Tensor], epochs: int, seed: int
) -> nn.Sequential:
    loader = DataLoader(TensorDataset(*train), batch_size=64, shuffle=True, seed=seed)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    Trainer(model, optimizer, loss_fn).fit(loader, epochs, progress=False)
    model.eval()
    return model


def by_layer(model: nn.Sequential, train: tuple, test: tuple, name: str) -> dict[str, float]:
    """Accuracy and bytes of uniform widths and of widths by layer."""
    images, labels = train
    sizes = layer_bytes(model, WIDTHS)
    row = {f"{name}: float": accuracy(model, test)}
    totals = {}
    for bits in WIDTHS:
        totals[bits] = sum(size[bits] for size in sizes.values())
        row[f"{name}: {bits} bits"] = accuracy(round_weights(model, bits), test)
    sample = [(images[:2000], labels[:2000])]
    traces = hessian_traces(model, loss_fn, images[:256], labels[:256], 50, progress=False)
    costs = {
        "by loss": sensitivity(model, loss_fn, sample, WIDTHS, progress=False),
        "by curvature": hessian_costs(model, traces, WIDTHS),
    }
    budgets = {"3 bits": totals[3], "2.5 bits": (totals[2] + totals[3]) // 2}
    for title, budget in budgets.items():
        for measure, table in costs.items():
            chosen = allocate_bits(table, sizes, budget)
            figure = f"{name}: bytes of {title}, {measure}"
            row[figure] = accuracy(round_weights(model, chosen), test)
    uniform = row[f"{name}: 3 bits"]
    for measure in costs:
        figure = f"{name}: bytes of 3 bits, {measure}"
        row[f"{figure}, gained over 3 bits"] = row[figure] - uniform
    row[f"{name}: bytes of 3 bits"] = totals[3]
    return row


def without_data(model: nn.Sequential, train: tuple, test: tuple, seed: int) -> dict[str, float]:
    """Accuracy with rounded results, by what their grids were calibrated on."""
    random = np.random.default_rng(seed)
    shape = (64, 1, 28, 28)
    sources = {
        "real": train[0][random.permutation(len(train[0]))[:64]],
        "distilled": distill_inputs(model, shape, steps=200, seed=seed, progress=False),
        "noise": Tensor(random.standard_normal(shape)),
    }
    row = {}
    for bits in (8, 4, 3):
        config = QConfig(partial(MinMaxObserver, bits=bits), qat_config(weight_bits=8).weight)
        for title, x in sources.items():
            entrance = FakeQuantize(MinMaxObserver(bits=bits))
            prepared = prepare_qat(nn.Sequential(entrance, *model), config, example=x).eval()
            row[f"results of {bits} bits, {title}"] = accuracy(prepared, test)
        row[f"results of {bits} bits, distilled - noise"] = (
            row[f"results of {bits} bits, distilled"] - row[f"results of {bits} bits, noise"]
        )
    return row


def measure(train: tuple, test: tuple, seed: int, progress: tqdm) -> dict[str, float]:
    """All figures of one seed."""
    row: dict[str, float] = {}
    for name, make, epochs in (("MLP", mlp, 5), ("CNN", cnn, 2)):
        manual_seed(seed)
        model = trained(make(), train, epochs, seed)
        progress.update()
        row |= by_layer(model, train, test, name)
        progress.update()
    row |= without_data(model, train, test, seed)
    progress.update()
    return row


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    train, test = normalised(MNIST()), normalised(MNIST(train=False))
    seeds = [0] if options.quick else [0, 1, 2]
    with tqdm(total=5 * len(seeds), desc="trainings and measures", file=sys.stderr) as progress:
        rows = [measure(train, test, seed, progress) for seed in seeds]
    report_seeds(__doc__.splitlines()[0], rows, LIMITS, options)

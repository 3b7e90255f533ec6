"""Quantisation-aware training of an MLP on MNIST, beside a control that trains as long without it.

python benchmarks/qat_mnist.py [--quick] [--json PATH] [--check]

784-100-100-10 with ReLU, Adam 1e-3, batches of 64, 5 epochs, 3 seeds (--quick: one). Then, for
weights of 8, 3 and 2 bits (symmetric, a grid for each output channel) and results of 8 bits:
rounded as it is; trained 5 epochs more and rounded after that (the control); trained 5 epochs
while it is rounded, with min-max steps or learned ones (LSQ, at 2 bits). Same data in the same
order. MNIST is looked for in $TINYTORCH_DATA, else downloaded.
"""

from common import arguments, report_seeds  # isort: skip (pins the threads first)

import copy
import sys
import time

from tqdm import tqdm

from tinytorch import (
    MNIST,
    DataLoader,
    Tensor,
    Trainer,
    manual_seed,
    nn,
    no_grad,
    optim,
    prepare_qat,
    qat_config,
)

# what the mean over the seeds must keep
LIMITS = {
    "float": ("at least", 0.970),
    "2 bits, rounded": ("at most", 0.750),
    "2 bits, trained, then rounded": ("at most", 0.850),
    "2 bits, trained rounded": ("at least", 0.950),
    "8 bits, gained over the control": ("at most", 0.003),
}
BITS = (8, 3, 2)
FITS = 2 + len(BITS) + 1  # trainings of a seed


def trained(model: nn.Module, train: MNIST, seed: int) -> nn.Module:
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(train, batch_size=64, shuffle=True, seed=seed)
    Trainer(model.train(), optimizer, nn.CrossEntropyLoss()).fit(loader, epochs=5)
    return model.eval()


def accuracy(model: nn.Module, test: MNIST) -> float:
    with no_grad():
        guesses = model(test.images).data.argmax(axis=1)
    return float((guesses == test.labels.data).mean())


def measure(train: MNIST, test: MNIST, seed: int, progress: tqdm) -> dict[str, float]:
    """All figures of one seed."""
    example = Tensor(train.images.data[:1000])

    def fit(model: nn.Module, order: int) -> tuple[nn.Module, float]:
        start = time.process_time()
        model = trained(model, train, order)
        progress.update()
        return model, time.process_time() - start

    manual_seed(seed)
    layers = [nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)]
    model, _ = fit(nn.Sequential(nn.Flatten(), *layers), seed)
    longer, plain_seconds = fit(copy.deepcopy(model), seed + 100)
    row = {"float": accuracy(model, test), "float, 5 epochs more": accuracy(longer, test)}
    for bits in BITS:
        config = qat_config(weight_bits=bits)
        row[f"{bits} bits, rounded"] = accuracy(prepare_qat(model, config, example).eval(), test)
        control = accuracy(prepare_qat(longer, config, example).eval(), test)
        row[f"{bits} bits, trained, then rounded"] = control
        aware, seconds = fit(prepare_qat(model, config, example), seed + 100)
        row[f"{bits} bits, trained rounded"] = accuracy(aware, test)
    row["8 bits, gained over the control"] = (
        row["8 bits, trained rounded"] - row["8 bits, trained, then rounded"]
    )
    learned, _ = fit(prepare_qat(model, qat_config(weight_bits=2), example, learn=True), seed + 100)
    row["2 bits, trained rounded, LSQ"] = accuracy(learned, test)
    row["CPU time of an epoch, rounded / plain"] = seconds / plain_seconds
    return row


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    train, test = MNIST(), MNIST(train=False)
    seeds = [0] if options.quick else [0, 1, 2]
    with tqdm(total=FITS * len(seeds), desc="trainings", file=sys.stderr) as progress:
        rows = [measure(train, test, seed, progress) for seed in seeds]
    report_seeds(__doc__.splitlines()[0], rows, LIMITS, options)

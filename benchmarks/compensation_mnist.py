"""Better than rounding to nearest: every method on the same MLPs, trained on MNIST.

python benchmarks/compensation_mnist.py [--quick] [--json PATH] [--check]

784-100-100-10 with ReLU, Adam 1e-3, batches of 64, 5 epochs, 3 seeds (--quick: one). Then, with
2,000 training images to calibrate: the test accuracy with weights of 2, 3 and 4 bits by each method
of `compensate`, on symmetric grids (at 2 bits three marks), one for each output, unless said
otherwise; and, with weights and inputs of 8 bits, the SNR in dB of the outputs, where three numbers
of each hidden layer were made 50 times as large, and the weights behind them as much smaller. MNIST
is looked for in $TINYTORCH_DATA, else downloaded.
"""

from common import arguments, report_seeds  # isort: skip (pins the threads first)

import copy
import math
import sys
from itertools import pairwise
from typing import Any

import numpy as np
from tqdm import tqdm

from tinytorch import (
    MNIST,
    DataLoader,
    Tensor,
    Trainer,
    clip_search,
    compensate,
    dequantize_bits,
    manual_seed,
    nn,
    no_grad,
    optim,
    quantization_error,
    quantize_bits,
    quantize_model,
    smooth_quant,
    split_outliers,
)

# what the mean over the seeds must keep
LIMITS = {
    "float": ("at least", 0.970),
    "2 bits, to nearest": ("at most", 0.600),
    "2 bits, GPTQ": ("at least", 0.930),
    "3 bits, to nearest, one grid a layer": ("at most", 0.930),
    "3 bits, to nearest": ("at least", 0.950),
    "3 bits, GPTQ": ("at least", 0.968),
    "3 bits, AWQ, affine, gained over to nearest": ("at most", 0.003),
    "4 bits, AWQ, gained over to nearest": ("at most", 0.003),
    "outliers, dB from naive to rows": ("at least", 3.0),
    "outliers, dB from rows to SmoothQuant": ("at least", 3.0),
    "outliers, dB from SmoothQuant to the split": ("at least", 1.0),
}
METHODS: dict[str, dict[str, Any]] = {
    "to nearest": {"method": "round"},
    "to nearest, affine": {"method": "round", "symmetric": False},
    "to nearest, corrected biases": {"method": "round", "correct_bias": True},
    "clipped": {"method": "clip"},
    "HQQ (affine)": {"method": "hqq"},
    "AWQ": {"method": "awq"},
    "AWQ, affine": {"method": "awq", "symmetric": False},
    "GPTQ": {"method": "gptq"},
    "GPTQ, affine": {"method": "gptq", "symmetric": False},
    "GPTQ, activation order": {"method": "gptq", "order": "activation"},
    "GPTQ, clipped grids": {"method": "gptq", "grid": clip_search},
}
BITS = (2, 3, 4)
HIDDEN = ((1, 3), (3, 5))  # layers whose result goes to the other through a ReLU


def trained(train: MNIST, seed: int) -> nn.Sequential:
    manual_seed(seed)
    layers = [nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)]
    model = nn.Sequential(nn.Flatten(), *layers)
    loader = DataLoader(train, batch_size=64, shuffle=True, seed=seed)
    trainer = Trainer(model, optim.Adam(model.parameters(), lr=1e-3), nn.CrossEntropyLoss())
    trainer.fit(loader, epochs=5)
    model.eval()
    return model


def outputs(model: nn.Module, test: MNIST) -> Tensor:
    with no_grad():
        return model(test.images)


def accuracy(model: nn.Module, test: MNIST) -> float:
    return float((outputs(model, test).data.argmax(axis=1) == test.labels.data).mean())


def one_grid_a_layer(model: nn.Sequential, bits: int, symmetric: bool) -> nn.Sequential:
    model = copy.deepcopy(model)
    for layer in model:
        if isinstance(layer, nn.Linear):
            grid = quantize_bits(layer.weight.detach(), bits, symmetric)
            layer.weight = dequantize_bits(*grid)
    return model


def with_outliers(model: nn.Sequential, seed: int, factor: float = 50.0) -> nn.Sequential:
    """The same function, but three numbers of each hidden layer are `factor` times as large."""
    model, random = copy.deepcopy(model), np.random.default_rng(seed)
    for before, after in HIDDEN:
        scale = np.ones(100)
        scale[random.choice(100, 3, replace=False)] = factor
        model[before].weight = Tensor(model[before].weight.data * scale)
        model[before].bias = Tensor(model[before].bias.data * scale)
        model[after].weight = Tensor(model[after].weight.data / scale[:, None])
    return model


def int8(model: nn.Module, data: Tensor) -> nn.Module:
    """Static int8: a scale for each channel of a weight, one for all of an input."""
    model = copy.deepcopy(model)
    quantize_model(model, data, symmetric=True, axis=1)
    return model


def outlier_rows(model: nn.Sequential, test: MNIST, data: Tensor, seed: int) -> dict[str, float]:
    """The SNR of the outputs by each way around planted outliers."""
    hard = with_outliers(model, seed)
    smooth, _ = smooth_quant(hard, data)
    ways = {
        "without outliers, naive": int8(model, data),
        "naive": int8(hard, data),
        "rows": split_outliers(hard, threshold=math.inf),
        "SmoothQuant": int8(smooth, data),
        "SmoothQuant and rows": split_outliers(smooth, threshold=math.inf),
        "split, all weights int8": split_outliers(hard, threshold=20.0),
        "the split": split_outliers(hard, data, threshold=20.0),
    }
    right = outputs(hard, test)
    snr = {
        name: quantization_error(right, outputs(way, test))["snr_db"] for name, way in ways.items()
    }
    row = {f"outliers, {name} (dB)": value for name, value in snr.items()}
    falls = ["naive", "rows", "SmoothQuant", "the split"]
    for worse, better in pairwise(falls):
        row[f"outliers, dB from {worse} to {better}"] = snr[better] - snr[worse]
    return row


def measure(train: MNIST, test: MNIST, seed: int, progress: tqdm) -> dict[str, float]:
    """All figures of one seed."""
    model, data = trained(train, seed), Tensor(train.images.data[:2000])
    progress.update()
    row = {"float": accuracy(model, test)}
    for bits in BITS:
        for kind in ("", ", affine"):
            whole = one_grid_a_layer(model, bits, symmetric=not kind)
            row[f"{bits} bits, to nearest{kind}, one grid a layer"] = accuracy(whole, test)
        for name, options in METHODS.items():
            done, _ = compensate(model, data, bits=bits, **options)
            row[f"{bits} bits, {name}"] = accuracy(done, test)
            progress.update()
        for kind in ("", ", affine"):
            gained = row[f"{bits} bits, AWQ{kind}"] - row[f"{bits} bits, to nearest{kind}"]
            row[f"{bits} bits, AWQ{kind}, gained over to nearest"] = gained
    return row | outlier_rows(model, test, data, seed)


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    train, test = MNIST(), MNIST(train=False)
    seeds = [0] if options.quick else [0, 1, 2]
    steps = 1 + len(BITS) * len(METHODS)
    with tqdm(total=steps * len(seeds), desc="models", file=sys.stderr) as progress:
        rows = [measure(train, test, seed, progress) for seed in seeds]
    report_seeds(__doc__.splitlines()[0], rows, LIMITS, options)

"""One training step (forward, loss, backward, Adam) of ours beside PyTorch eager on the CPU.

python benchmarks/training_step.py [--quick] [--json PATH] [--check]
"""

from common import Row, arguments, interleave, report  # isort: skip (pins the threads first)

import itertools

import numpy as np
import torch

from tinytorch import Tensor, nn, optim

torch.set_num_threads(1)


def mlp(sizes, batch):
    """(our step, PyTorch's step) for the same multilayer perceptron on the same random batch."""
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, sizes[0])).astype(np.float32)
    y = random.integers(0, sizes[-1], batch)

    def stack(linear, relu, sequential):
        layers = []
        for before, after in itertools.pairwise(sizes):
            layers += [linear(before, after), relu()]
        return sequential(*layers[:-1])

    model = stack(nn.Linear, nn.ReLU, nn.Sequential)
    theirs = stack(torch.nn.Linear, torch.nn.ReLU, torch.nn.Sequential)
    ours = step(model, optim.Adam(model.parameters()), nn.CrossEntropyLoss(), Tensor(x), Tensor(y))
    peer = step(
        theirs,
        torch.optim.Adam(theirs.parameters()),
        torch.nn.CrossEntropyLoss(),
        torch.tensor(x),
        torch.tensor(y),
    )
    return ours, peer


def step(model, optimizer, loss_fn, x, y):
    """The same five lines for both frameworks."""

    def run():
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()

    return run


# what is compared, and the ratio that ours must keep
CASES = {
    "MLP 784-128-10, batch 64": (lambda: mlp([784, 128, 10], 64), 0.65),
    "MLP 784-100-100-10, batch 8": (lambda: mlp([784, 100, 100, 10], 8), 0.65),
}

if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    rows = []
    for name, (build, limit) in CASES.items():
        ours, peer = build()
        rounds = 30 if options.quick else 200
        medians = interleave(name, {"TinyTorch": ours, "PyTorch": peer}, rounds, repeat=5)
        rows.append(Row(name, medians, limit))
    report({f"Training step, PyTorch {torch.__version__}": rows}, options)

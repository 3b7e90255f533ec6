"""One training step (forward, loss, backward, Adam) of ours beside PyTorch eager on the CPU.

python benchmarks/training_step.py [--quick] [--json PATH] [--check]
"""

from common import Row, arguments, interleave, report  # isort: skip (pins the threads first)

import itertools

import numpy as np
import torch

from tinytorch import GPT, Tensor, nn, optim

torch.set_num_threads(1)
functional = torch.nn.functional


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
    return steps(model, theirs, x, y)


def lstm(inputs, hidden, length, batch, classes=64):
    """(our step, PyTorch's step) for an LSTM that says a class at every step of a sequence."""
    random = np.random.default_rng(0)
    x = random.standard_normal((length, batch, inputs)).astype(np.float32)
    y = random.integers(0, classes, length * batch)

    def reader(module, linear, recurrent):
        class Reader(module):
            def __init__(self):
                super().__init__()
                self.recurrent, self.head = recurrent(inputs, hidden), linear(hidden, classes)

            def forward(self, x):
                return self.head(self.recurrent(x)[0])

        return Reader()

    model = reader(nn.Module, nn.Linear, nn.LSTM)
    theirs = reader(torch.nn.Module, torch.nn.Linear, torch.nn.LSTM)
    return steps(model, theirs, x, y)


class TorchBlock(torch.nn.Module):
    """TransformerBlock as one writes it in PyTorch, with its fused attention."""

    def __init__(self, size, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(size), torch.nn.LayerNorm(size)
        self.qkv, self.out = torch.nn.Linear(size, 3 * size), torch.nn.Linear(size, size)
        self.up, self.down = torch.nn.Linear(size, 4 * size), torch.nn.Linear(4 * size, size)

    def forward(self, x):
        n, t, size = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, size // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, size))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class TorchGPT(torch.nn.Module):
    """GPT with learned positions; the last layer is the embedding used again."""

    def __init__(self, vocabulary, size, layers, heads, length):
        super().__init__()
        self.tokens = torch.nn.Embedding(vocabulary, size)
        self.positions = torch.nn.Parameter(0.02 * torch.randn(length, size))
        self.blocks = torch.nn.Sequential(*(TorchBlock(size, heads) for _ in range(layers)))
        self.norm = torch.nn.LayerNorm(size)

    def forward(self, ids):
        x = self.blocks(self.tokens(ids) + self.positions)
        return functional.linear(self.norm(x), self.tokens.weight)


def gpt(layers, size, heads, length, batch, vocabulary=65):
    """(our step, PyTorch's step) for a GPT on random characters."""
    random = np.random.default_rng(0)
    x = random.integers(0, vocabulary, (batch, length))
    y = random.integers(0, vocabulary, batch * length)
    model = GPT(vocabulary, size, layers, heads, length)
    theirs = TorchGPT(vocabulary, size, layers, heads, length)
    return steps(model, theirs, x, y)


def images(build, channels, size, batch):
    """The same network of images, `build(library)`, on the same random batch of ten classes."""
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, channels, size, size)).astype(np.float32)
    y = random.integers(0, 10, batch)
    model, theirs = build(nn), build(torch.nn)
    return steps(model, theirs, x, y)


def lenet(library):
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, for images of 28 x 28."""
    return library.Sequential(
        library.Conv2d(1, 6, 5, padding=2),
        library.ReLU(),
        library.MaxPool2d(2),
        library.Conv2d(6, 16, 5),
        library.ReLU(),
        library.MaxPool2d(2),
        library.Flatten(),
        library.Linear(400, 120),
        library.ReLU(),
        library.Linear(120, 84),
        library.ReLU(),
        library.Linear(84, 10),
    )


def resnet(library):
    """A stem and two residual blocks (He et al. 2016, for CIFAR), 16 and then 32 channels."""

    class Block(library.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.relu = library.ReLU()
            self.conv1 = library.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            self.norm1 = library.BatchNorm2d(outputs)
            self.conv2 = library.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.norm2 = library.BatchNorm2d(outputs)
            self.short = library.Identity()
            if inputs != outputs:
                conv = library.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.short = library.Sequential(conv, library.BatchNorm2d(outputs))

        def forward(self, x):
            inner = self.relu(self.norm1(self.conv1(x)))
            return self.relu(self.norm2(self.conv2(inner)) + self.short(x))

    return library.Sequential(
        library.Conv2d(3, 16, 3, padding=1, bias=False),
        library.BatchNorm2d(16),
        library.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        library.AdaptiveAvgPool2d(1),
        library.Flatten(),
        library.Linear(32, 10),
    )


def steps(model, theirs, x, y):
    """(our step, PyTorch's step) of two models that say classes, with Adam, on the same arrays."""
    ours = step(model, optim.Adam(model.parameters()), nn.CrossEntropyLoss(), Tensor(x), Tensor(y))
    optimizer, loss_fn = torch.optim.Adam(theirs.parameters()), torch.nn.CrossEntropyLoss()
    return ours, step(theirs, optimizer, loss_fn, torch.tensor(x), torch.tensor(y))


def step(model, optimizer, loss_fn, x, y):
    """The same lines for both frameworks."""

    def run():
        optimizer.zero_grad()
        logits = model(x)
        if logits.ndim > 2:  # of every step of a sequence
            logits = logits.reshape(-1, logits.shape[-1])
        loss = loss_fn(logits, y)
        loss.backward()
        optimizer.step()

    return run


# what is compared, and the ratio that ours must keep
CASES = {
    "MLP 784-128-10, batch 64": (lambda: mlp([784, 128, 10], 64), 0.65),
    "MLP 784-100-100-10, batch 8": (lambda: mlp([784, 100, 100, 10], 8), 0.65),
    "LeNet 28x28, batch 64": (lambda: images(lenet, 1, 28, 64), 1.8),
    "ResNet, 2 blocks, 3x32x32, batch 32": (lambda: images(resnet, 3, 32, 32), 2.2),
    "GPT, 4 layers, d 128, T 128, batch 16": (lambda: gpt(4, 128, 4, 128, 16), 0.9),
    "LSTM 128-256, T 50, batch 16": (lambda: lstm(128, 256, 50, 16), 1.5),
}

if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    rows = []
    for name, (build, limit) in CASES.items():
        ours, peer = build()
        once = sum(interleave(name, {"TinyTorch": ours, "PyTorch": peer}, rounds=1).values())
        repeat = 5 if once < 0.05 else 1
        rounds = min(200, max(15, int((5 if options.quick else 40) / once / repeat)))
        medians = interleave(name, {"TinyTorch": ours, "PyTorch": peer}, rounds, repeat)
        rows.append(Row(name, medians, limit))
    report({f"Training step, PyTorch {torch.__version__}": rows}, options)

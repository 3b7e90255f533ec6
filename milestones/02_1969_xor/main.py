"""1969 to 1986: a hidden layer learns XOR, which no single layer can.

A hundred networks of each size begin with weights of their own and learn by gradient descent, as
Rumelhart, Hinton and Williams did. Then a real question of the same kind: is a digit odd or even?
"""

import numpy as np
from parity import odd_or_even
from tqdm import tqdm

from tinytorch import MNIST, Digits, Tensor, manual_seed, nn, no_grad, optim, rand, sigmoid
from tito.milestone import Result, Stopwatch, conclude, options, picture

BITS = Tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
XOR = Tensor([[0], [1], [1], [0]])
COUNT = 100
SWEEPS = 1000


class SideBySide(nn.Module):
    """A layer of sigmoid units for each of COUNT networks: (..., inputs) -> (COUNT, N, units)."""

    def __init__(self, inputs, units):
        self.weight = 2 * rand(COUNT, inputs, units) - 1
        self.bias = 2 * rand(COUNT, 1, units) - 1

    def forward(self, x):
        return sigmoid(x @ self.weight + self.bias)


def learn_xor(hidden):
    """COUNT networks with so many hidden units, and after each sweep, which of them know XOR."""
    sizes = [2, hidden, 1] if hidden else [2, 1]
    networks = nn.Sequential(*map(SideBySide, sizes[:-1], sizes[1:]))
    optimizer = optim.SGD(networks.parameters(), lr=0.5, momentum=0.9)
    solved = []
    for _ in tqdm(range(SWEEPS), desc=f"XOR, {hidden} hidden units", unit="sweep"):
        optimizer.zero_grad()
        errors = networks(BITS) - XOR
        (errors**2).sum().backward()  # each network's gradient is its own: no weight is shared
        optimizer.step()
        solved.append((abs(errors) < 0.1).all(axis=(1, 2)).numpy())
    return networks, np.array(solved)


def draw(pyplot, networks, first, solved):
    """What one network of two hidden units says, what these two say, and how fast sizes learn."""
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    ticks = np.linspace(-0.5, 1.5, 101)
    grid = Tensor(np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2))
    with no_grad():
        surface = networks(grid).numpy()[first].reshape(101, 101)
        units = networks[0](BITS).numpy()[first]
    shades = left.contourf(ticks, ticks, surface, np.linspace(0, 1, 11), cmap="gray")
    left.contour(ticks, ticks, surface, [0.5], colors="k", linestyles="--")
    figure.colorbar(shades, ax=left, label="output")
    left.set(title="Its output (dashed: 0.5)", xlabel="first bit", ylabel="second bit")
    out = networks[1]
    for (x, y), (h1, h2), true in zip(BITS.tolist(), units, XOR.numpy().ravel(), strict=True):
        color = "white" if true else "black"
        left.plot(x, y, "o", markersize=11, color=color, markeredgecolor="gray")
        middle.plot(h1, h2, "o", markersize=11, color=color, markeredgecolor="gray")
        middle.annotate(f"  ({x:.0f}, {y:.0f})", (h1, h2))
    (w1, w2), bias = out.weight.numpy()[first, :, 0], out.bias.numpy()[first, 0, 0]
    middle.plot(ticks, -(bias + w1 * ticks) / w2, "k--")
    middle.set(title="Its hidden layer: now a line does it", xlim=(-0.1, 1.2), ylim=(-0.1, 1.2))
    middle.set(xlabel="first hidden unit", ylabel="second hidden unit")
    for (hidden, known), style in zip(solved.items(), (":", "--", "-.", "-"), strict=True):
        right.plot(known.sum(axis=1), "k" + style, label=f"{hidden} hidden units")
    right.set(title=f"Networks of {COUNT} that know XOR", xlabel="sweep", ylabel="networks")
    right.legend()
    return figure


def main() -> None:
    chosen = options(__doc__)
    manual_seed(chosen.seed)
    watch = Stopwatch()
    trained = {hidden: learn_xor(hidden) for hidden in (0, 2, 4, 8)}
    solved = {hidden: known for hidden, (_, known) in trained.items()}
    print(f"\nXOR after {SWEEPS} sweeps, all four answers within 0.1 of the right one:")
    for hidden, known in solved.items():
        print(f"  {hidden} hidden units: {known[-1].sum():3} of {COUNT} networks", end="")
        first = known.argmax(axis=0)[known[-1]]
        print(f", half of these by sweep {np.median(first):.0f}" if first.size else "")
    known = {hidden: int(each[-1].sum()) for hidden, each in solved.items()}
    results = [
        Result(f"XOR without a hidden layer, of {COUNT}", known[0], 0, watch.seconds, 60, True),
        Result(f"XOR with 2 hidden units, of {COUNT}", known[2], 60, watch.seconds, 60),
        Result(f"XOR with 8 hidden units, of {COUNT}", known[8], 95, watch.seconds, 60),
    ]
    first = solved[2][-1].argmax()
    picture("xor", lambda pyplot: draw(pyplot, trained[2][0], first, solved), chosen)

    dataset, epochs, rate = (MNIST, 5, 0.003) if chosen.data else (Digits, 30, 0.01)
    watch = Stopwatch()
    straight, bent = (odd_or_even(dataset, hidden, epochs, rate, chosen.seed) for hidden in (0, 64))
    print(f"\nOdd or even, {dataset.__name__}: {straight:.4f} of the test images without a hidden")
    print(f"layer, {bent:.4f} with 64 hidden units")
    name = f"odd or even on {dataset.__name__}"
    results += [
        Result(f"test accuracy, {name}", bent, 0.97, watch.seconds, 60),
        Result(f"gain by the hidden layer, {name}", bent - straight, 0.05, watch.seconds, 60),
    ]
    conclude(results, chosen)


if __name__ == "__main__":
    main()

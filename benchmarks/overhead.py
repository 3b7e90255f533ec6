"""What the framework adds to NumPy: one operation, the import, and a walk back through deep graphs.

python benchmarks/overhead.py [--quick] [--json PATH] [--check]
"""

from common import Row, arguments, interleave, report  # isort: skip (pins the threads first)

import subprocess
import sys

import numpy as np

from tinytorch import Tensor


def addition(rounds):
    """An addition of two small tensors, recorded and not, beside NumPy's."""
    x, y = np.ones(8, np.float32), np.ones(8, np.float32)
    a, b, leaf = Tensor(x), Tensor(y), Tensor(x, requires_grad=True)
    for name, left in (("addition", a), ("addition, recorded", leaf)):
        contenders = {"TinyTorch": lambda left=left: left + b, "NumPy": lambda: np.add(x, y)}
        yield Row(name, interleave(name, contenders, rounds, repeat=2000), most=4e-6)


def importing(rounds):
    """`import tinytorch` beside `import numpy`, each less the start of the interpreter."""

    def start(code):
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    contenders = {
        "TinyTorch": start("import tinytorch; tinytorch.Tensor"),
        "NumPy": start("import numpy"),
        "nothing": start("pass"),
    }
    medians = interleave("import", contenders, max(5, rounds // 4))
    nothing = medians.pop("nothing")
    medians = {who: time - nothing for who, time in medians.items()}
    yield Row("import, with Tensor", medians, most=0.2)


def chain(depth):
    """Forward and backward through y = y * 1.0, `depth` times."""
    y = leaf = Tensor([1.0], requires_grad=True)
    for _ in range(depth):
        y = y * 1.0
    y.backward()
    return leaf.grad


def diamonds(depth):
    """Forward and backward through y = 0.5 (y + y), `depth` times: 2 ** depth paths."""
    y = leaf = Tensor([1.0], requires_grad=True)
    for _ in range(depth):
        y = (y + y) * 0.5
    y.backward()
    return leaf.grad


def deep_graphs(rounds):
    """Time for each op of a deep graph and of one a tenth as deep: linear, if they are the same."""
    for name, build, depth in (("chain", chain, 100_000), ("diamonds", diamonds, 10_000)):
        contenders = {
            "deep": lambda build=build, depth=depth: build(depth),
            "a tenth": lambda build=build, depth=depth: [build(depth // 10) for _ in range(10)],
        }
        medians = interleave(name, contenders, max(3, rounds // 10))
        per_op = {who: time / depth for who, time in medians.items()}
        yield Row(f"{name}, {depth:,} deep", per_op, limit=2.0)


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    rounds = 10 if options.quick else 50
    tables = {
        "Overhead beside NumPy": [*addition(rounds), *importing(rounds)],
        "Forward and backward, each op of a deep graph": list(deep_graphs(rounds)),
    }
    report(tables, options)

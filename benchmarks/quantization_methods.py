"""Ways to quantise a network, on four networks: what they keep, what they take, how long they run.

python benchmarks/quantization_methods.py [--quick] [--check] [--json PATH] [--plot PATH]
    [--cache DIR] [--models NAME ...] [--methods NAME ...]

An MLP and a CNN on MNIST, an LSTM on film reviews, a GPT on Shakespeare (quantization_models.py);
MLP and LSTM with 3 seeds, figures are means. --quick: one seed, and a third of the training and of
the test. Bytes are those of all parameters and buffers, scales included. Times are medians for one
batch, all methods in turn, first on NumPy, then with `accelerate` where it finds a layer for its
integer kernels. --check: INT8 loses at most 0.3 points of accuracy (of the GPT: of the next
characters guessed right). The data is looked for in $TINYTORCH_DATA, else downloaded; trained
weights are kept in --cache, by default beside the data.
"""

from common import THREADS, interleave, machine  # isort: skip (pins the threads first)

import argparse
import copy
import json
import math
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from quantization_models import NETWORKS, Examples, Network, loss_fn
from tqdm import tqdm

from tinytorch import (
    LowBitLinear,
    MinMaxObserver,
    QConfig,
    QuantizedEmbedding,
    QuantizedLSTM,
    accelerate,
    allocate_bits,
    convert,
    data_folder,
    finish_qat,
    layer_bytes,
    nn,
    no_grad,
    prepare,
    prepare_qat,
    qat_config,
    quantize_dynamic,
    quantize_weights,
    sensitivity,
)

os.environ["NUMBA_NUM_THREADS"] = THREADS  # read once, when the first kernel is compiled
LIMIT = 0.003  # of accuracy, for methods in INT8
INT8 = ("dynamic INT8", "static INT8 per tensor", "static INT8 per channel")
# layers without a static version, and what that means in the rows of some methods
ALWAYS_DYNAMIC = (QuantizedLSTM, QuantizedEmbedding)
LATE = {
    "static INT8 per tensor": "dynamic",
    "static INT8 per channel": "dynamic",
    "QAT INT8": "dynamic, rounded after training alone",
}

Train = Callable[[nn.Module], nn.Module]


def unchanged(model: nn.Module, examples: Examples, train: Train) -> nn.Module:
    return model


def dynamic(model: nn.Module, examples: Examples, train: Train) -> nn.Module:
    return quantize_dynamic(model, {nn.Linear, nn.LSTM, nn.Embedding})


def whole(axis: int) -> MinMaxObserver:
    """Makes observers that see a weight as a whole, whatever its axis of channels is."""
    return MinMaxObserver(scheme="symmetric")


PER_CHANNEL, PER_TENSOR = QConfig(), QConfig(weight=whole)


def static(
    model: nn.Module, examples: Examples, train: Train, config: QConfig = PER_CHANNEL
) -> nn.Module:
    """Linear, Conv2d and attention; what has no static version becomes dynamic."""
    prepared = prepare(model, config, examples.inputs)
    with no_grad():
        prepared(examples.inputs)
    return quantize_dynamic(convert(prepared), {nn.LSTM, nn.Embedding})


def quantization_aware(model: nn.Module, examples: Examples, train: Train) -> nn.Module:
    """Trained on for a fifth of the time at a tenth of the rate, rounded to INT8 all the while."""
    aware = finish_qat(train(prepare_qat(model, qat_config(), examples.inputs)))
    return static(aware, examples, train)


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}


def groups_of_four_bits(model: nn.Module, examples: Examples, train: Train) -> nn.Module:
    """Groups of 32, or of the next smaller number that divides a layer's inputs."""
    groups = {
        name: next(size for size in range(32, 0, -1) if layer.in_features % size == 0)
        for name, layer in linears(model).items()
    }
    for size in set(groups.values()):
        others = [name for name, group in groups.items() if group != size]
        quantize_weights(model, bits=4, group_size=size, skip=others)
    return model


def mixed(model: nn.Module, examples: Examples, train: Train) -> nn.Module:
    """Each Linear has 2, 3, 4 or 8 bits, 3.5 on average, as the loss wants it; the rest is INT8."""
    names = linears(model)
    rises, sizes = sensitivity(model, loss_fn, [examples], progress=False), layer_bytes(model)
    costs, sizes = {name: rises[name] for name in names}, {name: sizes[name] for name in names}
    budget = sum(row[3] + row[4] for row in sizes.values()) // 2
    chosen = allocate_bits(costs, sizes, budget)
    for bits in set(chosen.values()):
        others = [name for name in names if chosen[name] != bits]
        quantize_weights(model, bits=bits, group_size=None, skip=others)
    if any(type(layer) is nn.Conv2d for layer in model.modules()):
        return static(model, examples, train)
    return quantize_dynamic(model, {nn.LSTM, nn.Embedding})


METHODS: dict[str, Callable[[nn.Module, Examples, Train], nn.Module]] = {
    "FP32": unchanged,
    "dynamic INT8": dynamic,
    "static INT8 per tensor": partial(static, config=PER_TENSOR),
    "static INT8 per channel": static,
    "QAT INT8": quantization_aware,
    "INT4-g32": groups_of_four_bits,
    "mixed": mixed,
}


@dataclass
class Row:
    """What one method made of one network."""

    network: str
    method: str
    accuracies: list[float] = field(default_factory=list)  # one for each seed
    losses: list[float] = field(default_factory=list)
    bytes: int = 0
    seconds: float = math.nan
    accelerated_seconds: float = math.nan
    note: str = ""

    @property
    def accuracy(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def perplexity(self) -> float:
        return math.exp(statistics.mean(self.losses))


def held_bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def notes(model: nn.Module, method: str) -> str:
    """What the table can't show: bits of packed Linears, layers in floats, or quantised late."""
    modules = dict(model.named_modules())
    bits = {layer.bits for layer in modules.values() if isinstance(layer, LowBitLinear)}
    sizes: Counter[str] = Counter()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            sizes[type(modules[name.rpartition(".")[0]]).__name__] += weight.nbytes
    late = [kind.__name__ for kind in map(type, modules.values()) if kind in ALWAYS_DYNAMIC]
    words = [f"Linear of {', '.join(map(str, sorted(bits)))} bits"] if bits else []
    words += [f"{kind} FP32 ({size / 1000:,.0f} kB)" for kind, size in sizes.items()]
    words += [f"{', '.join(late)}: {LATE[method]}"] if late and method in LATE else []
    return "; ".join(words)


def measure(network: Network, chosen: argparse.Namespace, progress: tqdm) -> list[Row]:
    """All methods on one network."""
    effort, step = (1 / 3, 3) if chosen.quick else (1.0, 1)
    examples, batch = network.examples(network.few), network.examples(network.timed).inputs
    rows = {method: Row(network.name, method) for method in chosen.methods}
    timed: dict[str, nn.Module] = {}  # of the first seed
    for seed in range(1 if chosen.quick else network.seeds):
        progress.set_description(f"{network.name}, seed {seed}: training")
        trained = network.trained(chosen.cache, seed, effort)
        progress.update()

        def train(model: nn.Module, seed: int = seed) -> nn.Module:
            return network.fit(model, effort * network.epochs / 5, network.rate / 10, seed + 100)

        for method, row in rows.items():
            progress.set_description(f"{network.name}, seed {seed}: {method}")
            try:
                model = METHODS[method](copy.deepcopy(trained), examples, train).eval()
                accuracy, loss = network.evaluate(model, step)
            except ValueError as error:  # the network has what the method can't quantise
                row.note = str(error)
            else:
                row.accuracies.append(accuracy)
                row.losses.append(loss)
                row.bytes, row.note = held_bytes(model), notes(model, method)
                timed.setdefault(method, model)
            progress.update()
    calls: dict[str, Callable] = {name: partial(model, batch) for name, model in timed.items()}
    for name, model in timed.items():
        with suppress(ValueError):  # where there is nothing to accelerate
            calls[f"{name}, accelerated"] = partial(accelerate(model), batch)
    with no_grad():
        medians = interleave(f"{network.name}: times", calls, rounds=5 if chosen.quick else 50)
    for name in timed:
        rows[name].seconds = medians[name]
        rows[name].accelerated_seconds = medians.get(f"{name}, accelerated", math.nan)
    return list(rows.values())


def missed(rows: list[Row]) -> list[str]:
    """What INT8 lost more than it may, in words."""
    words = []
    floats = {row.network: row for row in rows if row.method == "FP32"}
    for row in rows:
        if row.method in INT8:
            name = f"{row.network}, {row.method}"
            if not row.accuracies:
                words.append(f"{name}: {row.note}")
            elif (lost := floats[row.network].accuracy - row.accuracy) > LIMIT:
                words.append(f"{name}: {100 * lost:.2f} points lost, limit {100 * LIMIT:.1f}")
    return words


def markdown(network: Network, rows: list[Row]) -> str:
    """A table of one network's rows."""
    start = rows[0]
    lines = [
        f"**{network.name}** ({start.bytes:,} bytes in FP32; accuracy: share of right "
        f"{'next characters' if network.writes else 'answers'}; seeds: {len(start.accuracies)})\n",
        f"| | accuracy | lost, points | {'perplexity | ' * network.writes}bytes | of FP32 "
        f"| ms, batch {network.timed} | times FP32 | accelerated, times FP32 | notes |",
        "|---" * (9 + network.writes) + "|",
    ]
    for row in rows:
        if not row.accuracies:
            lines.append(f"| {row.method} " + "| - " * (7 + network.writes) + f"| {row.note} |")
            continue
        lost = round(100 * (start.accuracy - row.accuracy), 2) + 0.0  # never -0.00
        cells = [row.method, f"{row.accuracy:.4f}", f"{lost:.2f}"]
        cells += [f"{row.perplexity:.3f}"] * network.writes
        cells += [f"{row.bytes:,}", f"{row.bytes / start.bytes:.3f}"]
        ratios = row.seconds / start.seconds, row.accelerated_seconds / start.seconds
        cells += [f"{1000 * row.seconds:.2f}", *(f"{x:.2f}" for x in ratios), row.note]
        cells = ["-" if cell == "nan" else cell for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Accuracy against bytes, a panel for each network.

    The line joins what nothing else beats; dotted is the least accuracy that INT8 may have.
    """
    from matplotlib import pyplot

    networks = list(dict.fromkeys(row.network for row in rows))
    markers = dict(zip(METHODS, "osD^vPX", strict=False))
    figure, panels = pyplot.subplots(
        1, len(networks), figsize=(1 + 3 * len(networks), 4), layout="constrained", squeeze=False
    )
    for axes, network in zip(panels[0], networks, strict=True):
        points = [row for row in rows if row.network == network and row.accuracies]
        start = points[0]
        for row in points:
            style = dict(marker=markers[row.method], color="k", fillstyle="none", linestyle="")
            at = row.bytes / start.bytes, row.accuracy
            axes.plot(*at, markersize=9, label=row.method, **style)
        best = [
            row
            for row in sorted(points, key=lambda row: row.bytes)
            if all(row.accuracy >= other.accuracy for other in points if other.bytes <= row.bytes)
        ]
        line = [(row.bytes / start.bytes, row.accuracy) for row in best]
        line.append((1.1, best[-1].accuracy))
        axes.step(*zip(*line, strict=True), "k-", where="post", linewidth=0.7)
        axes.axhline(start.accuracy - LIMIT, color="k", linestyle=":", linewidth=0.7)
        lowest, highest = (pick(row.accuracy for row in points) for pick in (min, max))
        axes.set(title=network, xlabel=f"share of {start.bytes:,} bytes", xlim=(0, 1.1))
        axes.set_ylim(min(lowest - LIMIT, start.accuracy - 2 * LIMIT), highest + LIMIT)
    panels[0][0].set_ylabel("test accuracy")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one seed, a third of the training and of the test"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where INT8 misses its limit")
    parser.add_argument("--json", metavar="PATH", type=Path, help="write the rows as JSON")
    parser.add_argument("--plot", metavar="PATH", type=Path, help="draw accuracy against bytes")
    parser.add_argument("--cache", metavar="DIR", type=Path, help="where trained weights are kept")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    chosen = parser.parse_args()
    chosen.methods = [name for name in METHODS if name in {"FP32", *chosen.methods}]
    chosen.cache = chosen.cache or data_folder() / "trained"
    return chosen


def main() -> None:
    chosen, facts = arguments(), machine()
    networks = [NETWORKS[name] for name in chosen.models]
    seeds = len(networks) if chosen.quick else sum(network.seeds for network in networks)
    rows = []
    with tqdm(total=seeds * (1 + len(chosen.methods)), file=sys.stderr) as progress:
        for network in networks:
            rows += measure(network, chosen, progress)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    for network in networks:
        print("\n" + markdown(network, [row for row in rows if row.network == network.name]))
    words = missed(rows)
    print("".join(f"\nmissed: {line}" for line in words))
    if chosen.json:
        written = {"machine": facts, "rows": [asdict(row) for row in rows], "missed": words}
        chosen.json.write_text(json.dumps(written, indent=2) + "\n")
    if chosen.plot:
        plot(rows, chosen.plot)
    if chosen.check and words:
        sys.exit(1)


if __name__ == "__main__":
    main()

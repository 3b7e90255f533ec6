"""What every milestone shares: its options, its pictures, and how it says what it reached."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tito.errors import TitoError
from tito.files import atomic_write


def options(description: str, parts: tuple[str, ...] = ()) -> argparse.Namespace:
    """The command line of a milestone: `description` is its docstring, `parts` what it has.

    Prints whose tinytorch it runs on, as lessons do. From here on, Ctrl-C and data that can't be
    read end the milestone with one line.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if parts:
        parser.add_argument(
            "part", nargs="?", choices=parts, default=parts[0], help=f"default: {parts[0]}"
        )
    parser.add_argument(
        "--data",
        action="store_true",
        help="the real set, from $TINYTORCH_DATA or downloaded; default: what the package holds",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--figures", type=Path, default=Path("figures"), metavar="FOLDER", help="default: figures"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    chosen = parser.parse_args()
    if chosen.figures.exists() and not chosen.figures.is_dir():
        parser.error(f"--figures {chosen.figures} is no folder")
    sys.excepthook = _in_one_line
    from tito.whose import whose_tinytorch

    whose_tinytorch()
    print()
    return chosen


def _in_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Tell what a user can mend without a traceback; all else is a mistake in the code."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nstopped", file=sys.stderr)
    elif issubclass(kind, OSError | ImportError | TitoError):
        print(" ".join(str(error).split()), file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


@dataclass
class Result:
    """One figure that a milestone reached, and what it had to be."""

    name: str  # "test accuracy on MNIST"
    value: float
    wanted: float
    seconds: float
    allowed_seconds: float  # on 2 cores; told beside the time, not asserted: machines differ
    at_most: bool = False  # `wanted` is the largest value allowed, as for a loss

    @property
    def reached(self) -> bool:
        # bool: a comparison of NumPy's numbers is none that JSON knows
        return bool(self.value <= self.wanted if self.at_most else self.value >= self.wanted)

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        value = f"{self.value:g}" if float(self.value).is_integer() else f"{self.value:.4f}"
        return (
            f"{'reached' if self.reached else 'MISSED'}: {self.name} {value} "
            f"(wanted {sign} {self.wanted:g}) in {self.seconds:.1f} s "
            f"(wanted < {self.allowed_seconds:g} s on 2 cores)"
        )


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start


def picture(name: str, draw: Callable[[Any], Any], chosen: argparse.Namespace) -> None:
    """Save the figure that `draw(pyplot)` returns as FOLDER/name.png; say so where it can't be."""
    try:
        import matplotlib
    except ImportError:
        print(f"no {name}.png: pictures need matplotlib: pip install 'tinytorch[plots]'")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure = draw(pyplot)
    chosen.figures.mkdir(parents=True, exist_ok=True)
    path = chosen.figures / f"{name}.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"wrote {path}")


def conclude(results: list[Result], chosen: argparse.Namespace) -> None:
    """Print what was reached, write it as JSON, and exit with status 1 if something was missed."""
    print()
    for result in results:
        print(result)
    if chosen.json:
        rows = [{**vars(result), "reached": result.reached} for result in results]
        atomic_write(chosen.json, json.dumps(rows, indent=2, default=float) + "\n")
    if not all(result.reached for result in results):
        sys.exit(1)

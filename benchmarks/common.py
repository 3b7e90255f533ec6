"""What every benchmark shares: pinned threads, interleaved timing, a table, JSON and a check.

Import this before NumPy: threads are pinned by environment variables that BLAS reads once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

os.environ.pop("OPENBLAS_CORETYPE", None)  # a pinned architecture can halve NumPy's sgemm
THREADS = os.environ.get("TINYTORCH_BENCH_THREADS", "1")
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = THREADS

from tqdm import tqdm


def machine() -> dict[str, Any]:
    """What a figure depends on: date, CPU, versions, threads, BLAS and its architecture."""
    import numpy as np
    from threadpoolctl import threadpool_info

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), cpu)
    blas = [x for x in threadpool_info() if x["user_api"] == "blas"]
    return {
        "date": date.today().isoformat(),
        "cpu": cpu,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "threads": int(THREADS),
        "blas": ", ".join(f"{x['internal_api']} {x.get('architecture', '')}".strip() for x in blas),
    }


def arguments(description: str) -> argparse.Namespace:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: noisier figures")
    parser.add_argument("--json", metavar="PATH", type=Path, help="write the rows as JSON")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 where a stated limit is missed"
    )
    return parser.parse_args()


@dataclass
class Row:
    """One comparison: the medians of each contender, and the limit that the first must keep."""

    name: str
    medians: dict[str, float]
    limit: float | None = None  # at most this, for the ratio of the first contender to the second
    most: float | None = None  # at most so many seconds, for the first contender
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        times = list(self.medians.values())
        return times[0] / times[1] if len(times) > 1 else None

    @property
    def missed(self) -> str:
        """What limit is missed, in words; empty where none is."""
        time = next(iter(self.medians.values()))
        if self.limit is not None and self.ratio is not None and self.ratio > self.limit:
            return f"{self.name}: ratio {self.ratio:.2f}, limit {self.limit:.2f}"
        if self.most is not None and time > self.most:
            return f"{self.name}: {_time(time)}, limit {_time(self.most)}"
        return ""


def interleave(
    name: str, contenders: dict[str, Callable[[], Any]], rounds: int, repeat: int = 1
) -> dict[str, float]:
    """Median seconds of each contender; they run in turn, so that a slow moment hits all."""
    times: dict[str, list[float]] = {who: [] for who in contenders}
    for run in contenders.values():  # warm up
        run()
    for i in tqdm(range(rounds), desc=name, leave=False, file=sys.stderr):
        order = list(contenders.items())
        for who, run in order if i % 2 else reversed(order):
            start = time.perf_counter()
            for _ in range(repeat):
                run()
            times[who].append((time.perf_counter() - start) / repeat)
    return {who: statistics.median(values) for who, values in times.items()}


def report(tables: dict[str, list[Row]], options: argparse.Namespace) -> None:
    """Print the tables, write the JSON, and exit 1 where `--check` finds a missed limit."""
    facts = machine()
    print("\n" + ", ".join(f"{key} {value}" for key, value in facts.items()))
    for title, rows in tables.items():
        print_table(title, rows)
    every = [row for rows in tables.values() for row in rows]
    if options.json:
        written = {
            title: [{**vars(row), "ratio": row.ratio} for row in rows]
            for title, rows in tables.items()
        }
        options.json.write_text(json.dumps({"machine": facts, "tables": written}, indent=2) + "\n")
    missed = [row.missed for row in every if row.missed]
    for words in missed:
        print(f"missed: {words}")
    if options.check and missed:
        sys.exit(1)


def print_table(title: str, rows: list[Row]) -> None:
    """Medians of each contender, the ratio of the first to the second, and the limit."""
    who = list(rows[0].medians)
    width = max(len(title), *(len(row.name) for row in rows))
    print(f"\n{title:{width}}  " + "  ".join(f"{w:>14}" for w in who) + "   ratio      limit")
    for row in rows:
        cells = "  ".join(f"{_time(row.medians[w]):>14}" for w in who)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        limit = "" if row.limit is None else f"{row.limit:.2f}"
        if row.most is not None:
            limit = _time(row.most)
        extra = "".join(f"  {key} {value}" for key, value in row.notes.items())
        print(f"{row.name:{width}}  {cells}  {ratio:>6}  {limit:>9}{extra}")


def report_seeds(
    title: str,
    rows: list[dict[str, float]],
    limits: dict[str, tuple[str, float]],
    options: argparse.Namespace,
) -> None:
    """Print each figure by seed and its mean, write the JSON, and exit 1 as `report` does.

    `limits` says of a mean that it is ("at least" or "at most", a number).
    """
    mean = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
    facts = machine()
    print(f"\n{title}\n" + ", ".join(f"{key} {value}" for key, value in facts.items()))
    width = max(len(name) for name in mean)
    titles = [*(f"seed {seed}" for seed in range(len(rows))), "mean"]
    print(f"\n{'':{width}}" + "".join(f"{heading:>12}" for heading in titles) + "   limit")
    missed = []
    for name, average in mean.items():
        bound, limit = limits.get(name, ("", 0.0))
        if bound and (average < limit if bound == "at least" else average > limit):
            missed.append(f"{name}: {_figure(average)}, limit {bound} {_figure(limit)}")
        cells = "".join(f"{_figure(value):>12}" for value in [*(r[name] for r in rows), average])
        print(f"{name:{width}}{cells}" + (f"   {bound} {_figure(limit)}" if bound else ""))
    if options.json:
        data = {"title": title, "machine": facts, "seeds": rows, "mean": mean, "missed": missed}
        options.json.write_text(json.dumps(data, indent=2) + "\n")
    for words in missed:
        print(f"missed: {words}")
    if options.check and missed:
        sys.exit(1)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e6:,.1f} us"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"

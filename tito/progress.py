"""What a workspace remembers: `.tito/progress.json`.

It is a record, not the truth. The files that a student completed are kept beside it, so that a lost
or damaged record is made anew from them (tito/workspace.py does it).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tito.files import atomic_write

FORMAT = 1


@dataclass
class Completion:
    """A module that the student completed."""

    date: str
    export: str  # hash of the file that it gave the package
    code: str = ""  # hash of the notebook's code then; empty if nobody knows


@dataclass
class LastTest:
    """What came of the last test of a module."""

    date: str
    passed: int
    failed: int
    points: float
    possible: float


@dataclass
class Progress:
    """Where the student stands."""

    reach: str = "00"  # number of the last module that tinytorch/ holds
    completed: dict[str, Completion] = field(default_factory=dict)  # by folder: "01_tensor"
    tested: dict[str, LastTest] = field(default_factory=dict)
    placed: dict[str, str] = field(default_factory=dict)  # hash of each file put into tinytorch/
    # of milestones: {"03_1986_mlp": {"test accuracy on Digits": date}}
    reached: dict[str, dict[str, str]] = field(default_factory=dict)


def read(path: Path) -> Progress:
    """The progress at `path`; ValueError if it is damaged."""
    record = json.loads(path.read_text(encoding="utf-8"))
    try:
        if record["format"] != FORMAT or not str(record["reach"]).isdigit():
            raise ValueError(f"format {record['format']}")
        return Progress(
            record["reach"],
            {folder: Completion(**entry) for folder, entry in record["completed"].items()},
            {folder: LastTest(**entry) for folder, entry in record["tested"].items()},
            dict(record["placed"]),
            {name: dict(dates) for name, dates in record.get("reached", {}).items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record of progress: {error}") from error


def write(path: Path, progress: Progress) -> None:
    """Replace the file at `path` in one step."""
    text = json.dumps({"format": FORMAT, **asdict(progress)}, indent=2)
    atomic_write(path, text + "\n")

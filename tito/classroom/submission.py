"""What a student handed in, as it lies in the course folder."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tito.classroom.folder import Classroom
from tito.classroom.overlay import own_file
from tito.course import Module

LARGEST = 20 << 20  # bytes of a file
MOST = 5000  # cells of a notebook
_HALF = re.compile(rb"\\ud[89a-f]", re.IGNORECASE)  # of a character: alone it is no text


@dataclass(frozen=True)
class Submission:
    """What a student handed in, as it was found."""

    student: str
    notebook: bytes
    problem: str = ""  # why it can't be graded
    own: Mapping[str, bytes] = field(default_factory=dict)  # exports, by file: "core/tensor.py"


def take(classroom: Classroom, student: str, module: Module, policy: str) -> Submission:
    """A student's submission as it lies in the course folder; links are not followed."""
    path = classroom.submission(student, module)
    own: dict[str, Path] = {}
    if policy != "reference":
        for other in classroom.course.before(module):
            if found := own_file(classroom, student, module, other):
                own[other.file] = found
    try:
        if any(place.is_symlink() for place in (path, path.parent, path.parent.parent)):
            return Submission(student, b"", f"{path.name} is a link: only real files are graded")
        for file in (path, *own.values()):
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                return Submission(student, b"", f"{file.name} is no file")
            if status.st_size > LARGEST:
                size = f"{status.st_size >> 20} MiB: at most {LARGEST >> 20} are graded"
                return Submission(student, b"", f"{file.name} has {size}; clear its outputs")
        contents = {name: file.read_bytes() for name, file in own.items()}
        return Submission(student, path.read_bytes(), "", contents)
    except FileNotFoundError:
        return Submission(student, b"", f"there is no {path.name}")
    except OSError as error:
        return Submission(student, b"", f"{path.name}: {error.strerror}")


def read(raw: bytes) -> tuple[dict[str, Any], str]:
    """A submitted notebook, or why it is none."""
    try:
        notebook = json.loads(raw)
        if _HALF.search(raw):
            notebook = json.loads(json.dumps(notebook, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError) as error:
        return {}, f"it is no notebook: {str(error)[:100] or 'not text'}"
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        return {}, "it is no notebook of format 4: it has no list of cells"
    if len(notebook["cells"]) > MOST:
        return {}, f"it has {len(notebook['cells'])} cells: at most {MOST} are graded"
    return notebook, ""

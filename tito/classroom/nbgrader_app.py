"""nbgrader from within: its settings, gradebook and converters; errors are one line."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tito.classroom.folder import MARKER, Classroom
from tito.course import Module
from tito.errors import TitoError

if TYPE_CHECKING:
    from nbgrader.api import Gradebook
    from traitlets.config import Config


def load_config(classroom: Classroom) -> Config:
    """What the folder's nbgrader_config.py sets."""
    from traitlets.config.loader import PyFileConfigLoader

    try:
        return PyFileConfigLoader(MARKER, path=str(classroom.root)).load_config()
    except Exception as error:
        raise TitoError(
            f"{classroom.root / MARKER} can't be read ({_one_line(error)}): correct it, or move it "
            "away and run tito grade init again"
        ) from None


@contextmanager
def open_gradebook(classroom: Classroom) -> Iterator[Gradebook]:
    """The classroom's gradebook, which is made if it isn't there; closed when the block ends."""
    from nbgrader.api import Gradebook

    course = load_config(classroom).CourseDirectory
    with _tools_on_path():
        gradebook = Gradebook(course.get("db_url", classroom.gradebook), course.course_id)
    with gradebook:
        yield gradebook


def convert(classroom: Classroom, converter: str, module: Module, student: str = ".") -> None:
    """Run one of nbgrader's converters ("GenerateAssignment", "Autograde") and replace its output.

    TitoError with nbgrader's reason, in one line.
    """
    from nbgrader import converters
    from nbgrader.coursedir import CourseDirectory

    config = load_config(classroom)
    course = CourseDirectory(config=config)
    course.assignment_id, course.student_id = module.folder, student
    app = getattr(converters, converter)(coursedir=course, config=config)
    app.force = True
    with _tools_on_path(), _quiet() as said:
        try:
            app.start()
        except (Exception, SystemExit) as error:
            reason = next(filter(None, map(_reason, said)), _one_line(error))
            where = f" of {student}" if student != "." else ""
            raise TitoError(f"nbgrader, {module.folder}{where}: {reason}") from None


@contextmanager
def _tools_on_path() -> Iterator[None]:
    """Within the block, programs beside this Python are found: nbgrader calls alembic."""
    old = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), old])
    try:
        yield
    finally:
        os.environ["PATH"] = old


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Within the block nbgrader logs into the list that the block gets, and warns of nothing."""
    from traitlets import log

    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger: Any = log.get_logger()
    before = {name: getattr(logger, name) for name in ("handlers", "propagate", "level")}
    vars(logger).update(handlers=[handler], propagate=False)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        vars(logger).update(before)
        logger.setLevel(before["level"])


def _reason(text: str) -> str:
    """The error in the last line of a traceback that nbgrader logged; "" if it logged none."""
    found = re.search(r"Traceback .*\n(\w[\w.]*: .*)\Z", text.strip(), re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _one_line(error: Any) -> str:
    return " ".join(str(error).split()) or type(error).__name__

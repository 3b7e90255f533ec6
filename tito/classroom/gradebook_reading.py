"""What nbgrader's gradebook says: who is in the class, and what people gave for answers.

Reading neither writes nor waits for who does: gradebook.py writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tito.classroom.folder import Classroom
from tito.course import Module
from tito.errors import TitoError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Student:
    """One line of the roster; all but the id may be empty."""

    id: str
    first_name: str = ""
    last_name: str = ""
    lms_id: str = ""

    @property
    def name(self) -> str:
        """Surname and first name, or the id where the gradebook has neither."""
        return ", ".join(filter(None, (self.last_name, self.first_name))) or self.id


@dataclass
class Entry:
    """What the gradebook holds of one submission, by grade_id."""

    grades: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    penalty: float = 0.0


def read_roster(classroom: Classroom) -> dict[str, Student]:
    """The students in the gradebook by id; none where there is no gradebook yet."""
    from nbgrader.api import Student as Row

    with _reading(classroom) as session:
        if session is None:
            return {}
        rows = session.query(Row.id, Row.first_name, Row.last_name, Row.lms_user_id).all()
    return {row[0]: Student(*(value or "" for value in row)) for row in rows}


def read_entries(classroom: Classroom, module: Module) -> dict[str, Entry]:
    """The gradebook's part of every submission of `module`, by student."""
    from nbgrader.api import (
        Assignment,
        BaseCell,
        Comment,
        Grade,
        SubmittedAssignment,
        SubmittedNotebook,
    )

    entries: dict[str, Entry] = {}
    with _reading(classroom) as session:
        if session is None:
            return {}
        mine = (
            session.query(SubmittedAssignment)
            .join(Assignment, SubmittedAssignment.assignment_id == Assignment.id)
            .filter(Assignment.name == module.folder)
        )
        who, penalty = SubmittedAssignment.student_id, SubmittedAssignment.late_submission_penalty
        for student, points in mine.with_entities(who, penalty):
            entries[student] = Entry(penalty=points or 0.0)

        def rows(kind: Any, *columns: Any) -> Any:
            return (
                mine.join(
                    SubmittedNotebook, SubmittedNotebook.assignment_id == SubmittedAssignment.id
                )
                .join(kind, kind.notebook_id == SubmittedNotebook.id)
                .join(BaseCell, BaseCell.id == kind.cell_id)
                .with_entities(who, BaseCell.name.label("cell"), *columns)
            )

        columns = ("auto_score", "manual_score", "extra_credit", "needs_manual_grade")
        more = (Grade.max_score.label("max_score"), Grade.cell_type.label("cell_type"))
        for row in rows(Grade, *(getattr(Grade, column) for column in columns), *more):
            entries[row.student_id].grades[row.cell] = row
        for row in rows(Comment, Comment.comment.label("comment")):
            if row.comment:
                entries[row.student_id].comments[row.cell] = row.comment
    return entries


@contextmanager
def _reading(classroom: Classroom) -> Iterator[Session | None]:
    """The gradebook, to read nbgrader's tables without writing; None if there is none yet.

    nbgrader's `Gradebook` writes as soon as it is opened, and so may have to wait for a grader.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.orm import Session

    from tito.classroom.nbgrader_app import load_config

    address = load_config(classroom).CourseDirectory.get("db_url", classroom.gradebook)
    file = Path(address.removeprefix("sqlite:///"))
    if address.startswith("sqlite:///"):
        if not file.is_file():
            yield None
            return
        address = f"sqlite:///file:{quote(str(file))}?mode=ro&uri=true"
    engine = create_engine(address)
    try:
        with Session(engine) as session:
            yield session
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise TitoError(f"the gradebook, {file.name}, can't be read: {reason}") from error
    finally:
        engine.dispose()

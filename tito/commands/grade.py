"""`tito grade`: the classroom, from the first release to the last mark."""

from __future__ import annotations

import click

from tito.commands import LazyGroup


@click.group(
    cls=LazyGroup,
    places={
        "init": "grade_folder:init_",
        "release": "grade_folder:release_",
        "collect": "grade_folder:collect_",
        "autograde": "grade_marks:autograde_",
        "compare": "grade_marks:compare_",
        "feedback": "grade_reports:feedback_",
        "report": "grade_reports:report_",
        "doctor": "grade_reports:doctor_",
        "export": "grade_reports:export_",
    },
)
def grade() -> None:
    """Release modules to a class, collect and grade them safely.

    Works in a course folder, which nbgrader works in too. NN is a module's number or name.

    \b
    A module's life:  tito grade init my-classroom && cd my-classroom
                      tito grade release 01
                      tito grade collect --from exchange/
                      tito grade autograde 01
                      tito grade feedback 01
                      tito grade report 01
    """

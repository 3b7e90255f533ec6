"""`tito export`: from the lessons to the reference package."""

from __future__ import annotations

import click

from tito import output
from tito.commands import Data, command
from tito.errors import TitoError


@command(output.export)
@click.argument("modules", nargs=-1, metavar="[NN ...]")
@click.option("--check", "only_check", is_flag=True, help="Compare and write nothing.")
def export(modules: tuple[str, ...], only_check: bool) -> Data:
    """Write tinytorch/ from modules/, all of it or modules NN.

    This is for people who write the course, in its checkout. As a student you run tito module
    complete NN in your workspace.

    \b
    Example:  tito export 02
              tito export --check
    """
    if only_check and modules:
        raise click.UsageError("--check looks at the whole package: leave the modules out")

    from tito.course import find_course

    course = find_course()
    if not (course.root / "pyproject.toml").is_file():
        raise TitoError(
            "tito export works in a checkout of the project; "
            "in your workspace run tito module complete NN"
        )
    chosen = [course.module(which) for which in modules] or None

    from tito import export as exporter

    if only_check:
        differences = exporter.check_export(course)
        return {"ok": not differences, "differences": differences}
    return {"ok": True, "changed": exporter.export(course, chosen)}

"""`tito setup`: a workspace of your own."""

from __future__ import annotations

from pathlib import Path

import click

from tito import output
from tito.commands import Data, command


@command(output.setup)
@click.argument("folder", default=".", metavar="[DIR]", type=click.Path(path_type=Path))
def setup(folder: Path) -> Data:
    """Make the folder DIR your workspace (without DIR: this folder).

    It gets modules/ (your notebooks), tinytorch/ (the package that you write, empty at first) and
    tito.toml; Jupyter gets the kernel TinyTorch. Run it again to complete a workspace: nothing is
    overwritten.

    \b
    Example:  tito setup my-course && cd my-course
              tito module start 01
    """
    from tito import kernel
    from tito.course import find_course
    from tito.workspace import set_up

    folder = folder.resolve()
    with output.busy("Making the workspace ..."):
        workspace, made = set_up(folder, find_course())
        place, notes = "", workspace.notes
        try:
            place = str(kernel.install())
        except OSError as error:
            notes.append(f"the kernel was not installed: {error}; tito doctor tells more")
    change = "" if folder == Path.cwd() else f"cd {_nearest_name(folder)} && "
    return {
        "workspace": str(folder),
        "made": made,
        "kernel": place,
        "next": f"{change}tito module start 01",
        "notes": notes,
    }


def _nearest_name(folder: Path) -> str:
    """How to say `folder` from here."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)

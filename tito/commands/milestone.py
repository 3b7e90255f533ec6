"""`tito milestone`: results that made history, reproduced with the package that you write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tito import output
from tito.commands import Data, LazyGroup, command
from tito.errors import TitoError

if TYPE_CHECKING:
    from tito.course import Course
    from tito.milestones import Milestone
    from tito.workspace import Workspace


@click.group(cls=LazyGroup, places={name: f"milestone:{name}_" for name in ("list", "info", "run")})
def milestone() -> None:
    """Reproduce what made history, with your own package.

    NN is a milestone's number or name: 03 or mlp.

    \b
    What there is:  tito milestone list
    Its story:      tito milestone info 01
    The thing:      tito milestone run 01
    """


which_argument = click.argument("which", metavar="NN")


@command(output.milestone_list)
def list_() -> Data:
    """List the milestones, what each needs, and what you have reached.

    In a workspace it tells whose files of the needed modules your package holds.

    \b
    Example:  tito milestone list
    """
    from tito.milestones import find_milestones

    course, workspace = _here()
    rows = [_about(milestone, workspace) for milestone in find_milestones(course)]
    return {"milestones": rows, "notes": workspace.notes if workspace else []}


@command(output.milestone_info)
@which_argument
def info_(which: str) -> Data:
    """Tell the history of milestone NN: who, when, why it mattered, and what the code shows.

    \b
    Example:  tito milestone info 01
    """
    from tito.milestones import find_milestone

    course, workspace = _here()
    milestone = find_milestone(course, which)
    notes = workspace.notes if workspace else []
    return _about(milestone, workspace) | {"readme": milestone.readme, "notes": notes}


@command(output.milestone_run, ignore_unknown_options=True)
@which_argument
@click.argument("arguments", nargs=-1, metavar="[PART] [OPTIONS]", type=click.UNPROCESSED)
def run_(which: str, arguments: tuple[str, ...]) -> Data:
    """Run milestone NN: train, draw, and see whether it reaches what it must.

    In a workspace it runs on your package, elsewhere on the course's. The exit status is 0 if all
    was reached. Ctrl-C stops it.

    \b
    What follows NN goes to the milestone:
      PART              one of its parts, where it has several
      --data            the real set in place of the small one that the package holds
      --seed N          begin with other random numbers
      --figures FOLDER  where pictures go
      -- --help         all that it understands

    \b
    Example:  tito milestone run 03
              tito milestone run 03 --data --seed 1
    """
    from tito.milestones import find_milestone, run

    course, workspace = _here()
    milestone = find_milestone(course, which)
    if workspace:
        _refuse_missing(milestone, workspace)
    status, results = run(
        milestone, arguments, workspace.root if workspace else None, output.is_json()
    )
    reached = [row["name"] for row in results if row["reached"]]
    if workspace and reached:
        try:
            workspace.record_milestone(milestone.folder, reached)
        except TitoError as error:
            workspace.notes.append(f"the result was not recorded: {error}")
    return {
        "ok": status == 0,
        "status": status,
        "milestone": milestone.folder,
        "results": results,
        "notes": workspace.notes if workspace else [],
    }


def _here() -> tuple[Course, Workspace | None]:
    """The course, and the workspace around the current folder, None outside of one."""
    from pathlib import Path

    from tito.course import find_course
    from tito.workspace import Workspace, find_root

    course = find_course()
    root = find_root(Path.cwd())
    return course, Workspace(root, course) if root else None


def _about(milestone: Milestone, workspace: Workspace | None) -> Data:
    """What is known of a milestone; without a workspace, the modules are the reference's."""
    reached = workspace.progress().reached if workspace else {}
    return {
        "milestone": milestone.folder,
        "number": milestone.number,
        "year": milestone.year,
        "title": milestone.title,
        "needs": [
            {
                "module": module.folder,
                "state": (workspace.origin(module) or "to do") if workspace else "reference",
            }
            for module in milestone.needs
        ],
        "reached": reached.get(milestone.folder, {}),
    }


def _refuse_missing(milestone: Milestone, workspace: Workspace) -> None:
    missing = [module for module in milestone.needs if not workspace.origin(module)]
    if missing:
        raise TitoError(
            f"{milestone.folder} needs {', '.join(module.folder for module in missing)}: "
            f"tito module start {missing[0].number}"
        )

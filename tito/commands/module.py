"""`tito module`: the lessons, from the first look to the completed file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from tito import output
from tito.commands import Data, LazyGroup, command
from tito.errors import TitoError

if TYPE_CHECKING:
    from tito.course import Module
    from tito.progress import Progress
    from tito.trial import Trial
    from tito.workspace import Workspace

TIERS = (
    ("Foundation", 7),
    ("Architecture", 13),
    ("Optimization", 19),
    ("Olympics", 20),
    ("Specialisation", 99),
)


@click.group(
    cls=LazyGroup,
    places={
        name: f"module:{name}_"
        for name in (
            *("list", "status"),
            *("start", "view", "test", "complete", "submit"),
            *("reset", "update"),
        )
    },
)
def module() -> None:
    """Start, open, test and complete the modules of the course.

    NN is a module's number or name: 02 or activations.

    \b
    A module's life:  tito module start 02
                      tito module view 02
                      tito module test 02
                      tito module complete 02
                      tito module submit 02 --to DIR   (if you take a course)
    """


which_argument = click.argument("which", metavar="NN")


def _here(which: str) -> tuple[Workspace, Module]:
    """The workspace around the current folder and the module called `which`."""
    from tito.course import find_course
    from tito.workspace import find_workspace

    course = find_course()
    return find_workspace(course), course.module(which)


@command(output.module_list)
def list_() -> Data:
    """List the modules, with what each gives and the time it takes.

    \b
    Example:  tito module list
    """
    from tito.course import find_course

    modules = find_course().modules
    tiers, begin = [], 0
    for name, end in TIERS:
        rows = [_listed(module) for module in modules if begin < int(module.number) <= end]
        if rows:
            tiers.append({"name": name, "modules": rows})
        begin = end
    return {"tiers": tiers}


def _listed(module: Module) -> Data:
    opening = module.source.read_text(encoding="utf-8")[:4000]
    time = re.search(r"\d+(?:\s?(?:-|to)\s?\d+)? hours", opening)
    return {
        "module": module.folder,
        "title": module.title,
        "export": f"tinytorch.{module.export}",
        "time": time[0] if time else "",
    }


@command(output.module_status)
def status_() -> Data:
    """Show how far you are, module by module.

    Whose file tinytorch/ holds of each (yours or the reference's), points, and tests passed.

    \b
    Example:  tito module status
    """
    from tito.course import find_course
    from tito.workspace import find_workspace

    workspace = find_workspace(find_course())
    progress = workspace.progress()
    rows = [_row(workspace, progress, module) for module in workspace.course.modules]
    ahead = [each for each in workspace.course.modules if each.number > progress.reach]
    return {
        "workspace": str(workspace.root),
        "modules": rows,
        "next": _next(workspace, ahead[0]) if ahead else None,
        "notes": workspace.notes,
    }


def _row(workspace: Workspace, progress: Progress, module: Module) -> Data:
    from tito.workspace import code_hash

    notebook = workspace.notebook(module)
    completed = progress.completed.get(module.folder)
    tested = progress.tested.get(module.folder)
    remark = ""
    if completed and notebook.is_file() and completed.code not in ("", code_hash(notebook)):
        remark = f"changed since: tito module complete {module.number}"
    elif completed and module.number > progress.reach:
        remark = "set aside while you are at an earlier one"
    elif notebook.is_file() and not completed:
        remark = "started"
    return {
        "module": module.folder,
        "title": module.title,
        "state": "yours" if completed else workspace.origin(module) or "to do",
        "points": tested.points if tested else None,
        "possible": tested.possible if tested else None,
        "tests": f"{tested.passed} of {tested.passed + tested.failed}" if tested else "",
        "completed": completed.date if completed else None,
        "notebook": workspace.relative(notebook) if notebook.is_file() else None,
        "remark": remark,
    }


def _next(workspace: Workspace, module: Module) -> str:
    """What to type to go on with `module`."""
    action = "view" if workspace.notebook(module).is_file() else "start"
    return f"tito module {action} {module.number}   ({module.title})"


@command(output.module_start)
@which_argument
def start_(which: str) -> Data:
    """Begin module NN: get its notebook.

    tinytorch/ is filled with the modules before it: your own file of each that you completed, the
    reference's of the others. A notebook that is there already is left as it is.

    \b
    Example:  tito module start 02
    """
    workspace, module = _here(which)
    with output.busy("Preparing the notebook ..."):
        made = workspace.start(module)
    return {
        "module": module.folder,
        "number": module.number,
        "notebook": workspace.relative(workspace.notebook(module)),
        "made": made,
        "package": [
            {"module": each.folder, "state": workspace.origin(each)}
            for each in workspace.course.before(module)
        ],
        "notes": workspace.notes,
    }


@command(output.module_view)
@which_argument
@click.argument("options", nargs=-1, metavar="[-- OPTIONS OF JUPYTERLAB]")
def view_(which: str, options: tuple[str, ...]) -> Data:
    """Open the notebook of module NN in JupyterLab.

    tinytorch/ is filled as by `tito module start NN`. Ctrl-C here stops JupyterLab.

    \b
    Example:  tito module view 02
              tito module view 02 -- --no-browser --port 8899
    """
    import importlib.util
    import subprocess
    import sys

    workspace, module = _here(which)
    notebook = workspace.existing_notebook(module)
    if not importlib.util.find_spec("jupyterlab"):
        raise TitoError("JupyterLab is not installed: pip install 'tinytorch[course]'")
    workspace.start(module)
    output.say(f"Opening {workspace.relative(notebook)} in JupyterLab; Ctrl-C here stops it.")
    lab = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={workspace.root}"]
    with subprocess.Popen([*lab, str(notebook), *options], cwd=workspace.root) as process:
        while process.poll() is None:
            try:
                process.wait()
            except KeyboardInterrupt:  # JupyterLab gets it too, and asks
                continue
    if process.returncode:
        raise TitoError(f"JupyterLab ended with status {process.returncode}; it says why above")
    return {
        "module": module.folder,
        "number": module.number,
        "notebook": workspace.relative(notebook),
        "notes": workspace.notes,
    }


@command(output.module_test)
@which_argument
def test_(which: str) -> Data:
    """Run the tests of module NN on your notebook.

    First the lesson's tests between your solutions, as when they are graded: what you changed in a
    test doesn't count. Then the module's pytest suite on the file that your notebook would give.
    Save the notebook before. Nothing of yours is changed.

    \b
    Example:  tito module test 02
    """
    workspace, module = _here(which)
    trial = _test(workspace, module)
    return trial.data() | {"notes": trial.notes + workspace.notes}


@command(output.module_complete)
@which_argument
def complete_(which: str) -> Data:
    """Test module NN and add your file of it to your package.

    If a test fails, the package stays as it was, and you are told which test fails and why.

    \b
    Example:  tito module complete 02
    """
    workspace, module = _here(which)
    trial = _test(workspace, module)
    data = trial.data() | {"file": f"tinytorch/{module.file}"}
    if trial.ok:
        workspace.complete(module, trial.text, trial.code)
        later = [each for each in workspace.course.modules if each.number > module.number]
        data["example"] = f"from tinytorch import {', '.join(_public_names(trial.text)[:4])}"
        data["next"] = _next(workspace, later[0]) if later else None
    return data | {"notes": trial.notes + workspace.notes}


def _test(workspace: Workspace, module: Module) -> Trial:
    from tito.trial import try_module

    with output.busy(f"Testing {module.folder} ..."):
        trial = try_module(workspace, module)
    try:
        workspace.record_test(module, trial.result)
    except TitoError as error:
        workspace.notes.append(f"the result was not recorded: {error}")
    return trial


def _public_names(text: str) -> list[str]:
    """The `__all__` of a package file."""
    import ast

    found = re.search(r"^__all__ = (\[.*?\])", text, re.MULTILINE | re.DOTALL)
    return ast.literal_eval(found[1]) if found else []


@command(output.module_submit)
@which_argument
@click.option(
    "--to", "folder", required=True, metavar="DIR", help="The folder that your instructor named."
)
@click.option(
    "--student", metavar="ID", help="Who you are in the course; remembered. [default: login name]"
)
@click.option("--zip/--folder", "as_zip", default=True, help="One zip (default), or a folder.")
@click.option("--no-test", is_flag=True, help="Hand in without trying the tests first.")
def submit_(which: str, folder: str, student: str | None, as_zip: bool, no_test: bool) -> Data:
    """Hand in module NN: your notebook, and your own files of the modules before it.

    Says first what would cost points, and tries the tests as `tito module test` does; whatever they
    say, the notebook is handed in as it was saved last, and you get a receipt. Hand in as often as
    you like: nothing that you handed in before is replaced.

    DIR is where your instructor collects (a shared folder, or the inbound folder of nbgrader's
    exchange), or a folder of yours, from which you upload the file.

    \b
    Example:  tito module submit 02 --to ~/exchange --student ada
    """
    from pathlib import Path

    from tito.classroom.submit import hand_in, make_submission, problems, student_of

    workspace, module = _here(which)
    target = Path(folder).expanduser()
    if not target.is_dir():
        raise TitoError(f"there is no folder {folder}: make it, or ask where to hand in")
    student = student_of(workspace, student)
    found = problems(module, workspace.existing_notebook(module))
    trial = None
    if not no_test:
        try:
            trial = _test(workspace, module)
        except TitoError as error:
            found.append(f"the tests could not be tried: {error}")
    submission = make_submission(workspace, module, student)
    path, there = hand_in(submission, target, as_zip)
    return {
        "receipt": there.receipt,
        "file": str(path),
        "new": there is submission,
        "own": [name.removeprefix("tinytorch/") for name in there.exports],
        "problems": found,
        "test": trial.data() if trial else None,
        "notes": workspace.notes,
    }


@command(output.module_reset)
@which_argument
def reset_(which: str) -> Data:
    """Begin the notebook of module NN anew.

    The one that you have is kept as a dated backup.

    \b
    Example:  tito module reset 02
    """
    workspace, module = _here(which)
    with output.busy("Preparing the notebook ..."):
        backup = workspace.reset(module)
    return {
        "module": module.folder,
        "notebook": workspace.relative(workspace.notebook(module)),
        "backup": workspace.relative(backup),
        "completed": workspace.completed(module).is_file(),
        "notes": workspace.notes,
    }


@command(output.module_update)
@which_argument
def update_(which: str) -> Data:
    """Bring the notebook of module NN to today's lesson.

    Texts and tests become the newer ones; your solutions and your own cells stay. The notebook as
    it was is kept as a dated backup.

    \b
    Example:  pip install --upgrade tinytorch && tito module update 02
    """
    workspace, module = _here(which)
    with output.busy("Merging ..."):
        merged, backup = workspace.update(module)
    return {
        "module": module.folder,
        "notebook": workspace.relative(workspace.notebook(module)),
        "backup": workspace.relative(backup) if backup else None,
        "kept": merged.kept,
        "replaced": merged.replaced,
        "notes": workspace.notes,
    }

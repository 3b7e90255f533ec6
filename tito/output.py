"""Everything that tito prints: results, progress and errors.

Results go to stdout, as people read them or as JSON; the rest goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

Data = dict[str, Any]

_as_json: ContextVar[bool] = ContextVar("as_json", default=False)
_STATES = {"yours": "green", "reference": "cyan", "to do": "dim"}


@contextmanager
def speaking(as_json: bool) -> Iterator[None]:
    """Within the block, results are printed as JSON if `as_json`."""
    token = _as_json.set(as_json)
    try:
        yield
    finally:
        _as_json.reset(token)


def is_json() -> bool:
    """Whether the result is printed as JSON, so that stdout has to stay free for it."""
    return _as_json.get()


def show(view: Callable[[Console, Data], None], data: Data) -> None:
    """Print a command's data, by its view or as JSON."""
    if is_json():
        print(json.dumps(data, indent=2))
        return
    console = _console()
    view(console, data)
    for note in data.get("notes", []):
        console.print(f"[yellow]Note[/]: {plain(note)}", soft_wrap=True)


def fail(error: Exception) -> None:
    """Print what went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or 'tito'}: {error.strerror}"
    else:
        text = " ".join(str(error).split())
    if is_json():
        print(json.dumps({"ok": False, "error": text}, indent=2))
    print(text, file=sys.stderr)


def busy(text: str) -> AbstractContextManager[Any]:
    """Show on a terminal that something takes its time."""
    if is_json() or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def say(text: str) -> None:
    """Tell how a long command gets on."""
    print(text, file=sys.stderr, flush=True)


def _console() -> Console:
    from rich.console import Console

    # a pipe has no width of its own
    return Console(highlight=False, width=None if sys.stdout.isatty() else 100)


def plain(text: Any) -> str:
    """Text in which square brackets mean themselves, and no character moves the cursor."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(text)))


# --- one view a command ---


def setup(console: Console, data: Data) -> None:
    if data["made"]:
        line = f"[green]Your workspace is ready[/]: {plain(data['workspace'])}"
    else:
        line = f"Nothing was missing in {plain(data['workspace'])}."
    console.print(line, soft_wrap=True)
    if data["kernel"]:
        console.print("Notebooks there open with the kernel TinyTorch, which imports your package.")
    console.print(f"\nNext: {plain(data['next'])}")


def doctor(console: Console, data: Data) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for heading in ("", "what", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for row in data["checks"]:
        mark = "[green]ok[/]" if row["ok"] else "[yellow]warn[/]"
        table.add_row(mark, row["name"], plain(row["found"]), plain(row["advice"]))
    console.print(table)


def module_list(console: Console, data: Data) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for heading in ("module", "title", "gives", "time"):
        table.add_column(heading)
    for tier in data["tiers"]:
        table.add_row(f"[bold]{tier['name']}[/]")
        for row in tier["modules"]:
            table.add_row(f"  {row['module']}", row["title"], row["export"], row["time"])
    console.print(table)


def module_status(console: Console, data: Data) -> None:
    from rich.table import Table

    console.print(f"{plain(data['workspace'])}\n", soft_wrap=True)
    table = Table(box=None, header_style="bold")
    for heading in ("module", "whose", "points", "tests", ""):
        table.add_column(heading)
    for row in data["modules"]:
        state = f"[{_STATES[row['state']]}]{row['state']}[/]"
        points = "" if row["points"] is None else f"{row['points']:g}/{row['possible']:g}"
        table.add_row(row["module"], state, points, row["tests"], row["remark"])
    console.print(table)
    _print_next(console, data["next"])


def module_start(console: Console, data: Data) -> None:
    if data["made"]:
        console.print(f"[green]Your notebook[/]: {plain(data['notebook'])}", soft_wrap=True)
    else:
        console.print(
            f"{plain(data['notebook'])} is there already: it was left as it is.", soft_wrap=True
        )
    for owner, words in (("yours", "your own"), ("reference", "the reference's")):
        folders = [each["module"] for each in data["package"] if each["state"] == owner]
        if folders:
            console.print(f"tinytorch/ holds {words} {', '.join(folders)}", soft_wrap=True)
    console.print(f"\nNext: tito module view {data['number']}   (open it)")
    console.print(f"      tito module test {data['number']}   (see which tests pass)")
    if not data["made"]:
        console.print(f"      tito module reset {data['number']}  (begin anew, with a backup)")


def module_view(console: Console, data: Data) -> None:
    console.print(f"Closed {plain(data['notebook'])}. Next: tito module test {data['number']}")


def module_test(console: Console, data: Data) -> None:
    width = max((len(test["name"]) for test in data["tests"]), default=0)
    for test in data["tests"]:
        console.print(
            f"{_mark(test)} {plain(test['name'].ljust(width))} {test['points']:3g} points  "
            f"{plain(test['message'])}".rstrip(),
            soft_wrap=True,
        )
    failed = [test for test in data["suite"] if test["message"]]
    if data["suite"]:
        passed = len(data["suite"]) - len(failed)
        mark = "[red]fails [/]" if failed else "[green]passes[/]"
        console.print(f"{mark} the module's suite: {passed} of {len(data['suite'])} tests")
    # while the notebook's own tests fail, the suite and the other cells mostly say it again
    messages = {test["message"] for test in data["tests"]}
    own_pass = messages <= {""}
    for test in failed if own_pass else []:
        console.print(f"       {plain(test['name'])}: {plain(test['message'])}", soft_wrap=True)
    if all(test["written"] for test in data["tests"]):
        errors = [error for error in data["errors"] if error["message"] not in messages]
        for error in errors if own_pass else errors[:1]:
            place = f"in the cell {plain(error['name'])}"
            console.print(f"[yellow]error [/] {place}: {plain(error['message'])}", soft_wrap=True)
    by_hand = f", and {data['by_hand']:g} for a person to give" if data["by_hand"] else ""
    console.print(f"\n{data['points']:g} of {data['possible']:g} points{by_hand}")
    if data["ok"] and "file" not in data:
        console.print(f"All tests pass. Next: tito module complete {data['module'][:2]}")


def _print_next(console: Console, action: str | None) -> None:
    end = "That was the last module so far."
    console.print(f"\nNext: {plain(action)}" if action else f"\n{end}")


def _mark(test: Data) -> str:
    if not test["message"]:
        return "[green]passes[/]"
    return "[red]fails [/]" if test["written"] else "[dim]to do [/]"


def module_complete(console: Console, data: Data) -> None:
    module_test(console, data)
    if not data["ok"]:
        console.print(
            f"[red]{data['module']} is not complete yet[/]: your package stays as it was.\n"
            f"Mend what fails, save the notebook, and run tito module complete again."
        )
        return
    console.print(f"[green]{data['module']} is complete[/]: {data['file']} is your own file now.")
    console.print(f"Try: {plain(data['example'])}")
    _print_next(console, data["next"])


def module_submit(console: Console, data: Data) -> None:
    if data["test"]:
        module_test(console, data["test"] | {"file": data["file"]})
        console.print()
    for problem in data["problems"]:
        console.print(f"[yellow]Look[/]: {plain(problem)}", soft_wrap=True)
    receipt = data["receipt"]
    before = "[green]Handed in[/]" if data["new"] else "Nothing new: this is there already"
    console.print(f"{before}: {plain(data['file'])}", soft_wrap=True)
    own = f"notebook and your own {', '.join(data['own'])}" if data["own"] else "notebook"
    rows = {"module": f"{receipt['module']}, {own}"}
    rows |= {key: receipt[key] for key in ("student", "submitted", "hash")}
    for key, value in rows.items():
        console.print(f"  {key:10}{plain(value)}", soft_wrap=True)


def module_reset(console: Console, data: Data) -> None:
    console.print(f"{plain(data['notebook'])} is as on the first day.", soft_wrap=True)
    console.print(f"What you had is kept: {plain(data['backup'])}", soft_wrap=True)
    if data["completed"]:
        console.print("The file that you completed stays in tinytorch/ until you complete anew.")


def module_update(console: Console, data: Data) -> None:
    if not data["backup"]:
        console.print(f"{plain(data['notebook'])} is up to date.", soft_wrap=True)
        return
    console.print(f"{plain(data['notebook'])} is today's lesson now.", soft_wrap=True)
    if data["kept"]:
        console.print(f"Kept what you wrote: {plain(', '.join(data['kept']))}", soft_wrap=True)
    if data["replaced"]:
        names = plain(", ".join(data["replaced"]))
        console.print(f"The lesson's again, in place of yours: {names}", soft_wrap=True)
    console.print(f"The notebook as it was: {plain(data['backup'])}", soft_wrap=True)


def milestone_list(console: Console, data: Data) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for heading in ("milestone", "title", "needs modules", "reached"):
        table.add_column(heading, overflow="fold")
    for row in data["milestones"]:
        date = max(row["reached"].values(), default="")
        table.add_row(row["milestone"], plain(row["title"]), _needs(row["needs"]), date)
    console.print(table)
    console.print("\nNext: tito milestone info 01   (the story)")
    console.print("      tito milestone run 01    (the thing itself)")


def milestone_info(console: Console, data: Data) -> None:
    from rich.markdown import Markdown

    console.print(Markdown(data["readme"]))
    console.print(f"\nNeeds modules {_needs(data['needs'])}")
    for name, date in data["reached"].items():
        console.print(f"[green]Reached[/] {plain(name)}: {date}")
    console.print(f"\nNext: tito milestone run {data['number']}")


def milestone_run(console: Console, data: Data) -> None:
    if data["ok"]:
        console.print(f"\nIts story: tito milestone info {data['milestone'][:2]}")


def _needs(modules: list[Data]) -> str:
    """Numbers of modules by whose file is there: "yours 01 02, reference 03, to do 04"."""
    by_state = {
        state: " ".join(each["module"][:2] for each in modules if each["state"] == state)
        for state in _STATES
    }
    return ", ".join(
        f"[{_STATES[state]}]{state}[/] {numbers}" for state, numbers in by_state.items() if numbers
    )


def export(console: Console, data: Data) -> None:
    for difference in data.get("differences", {}).values():
        console.print(plain(difference.rstrip("\n")), soft_wrap=True)
    for name in data.get("changed", []):
        console.print(f"wrote tinytorch/{name}")
    if not data["ok"]:
        console.print("[red]tinytorch/ is stale[/]: run tito export and commit what changes.")
    elif not data.get("changed"):
        console.print("tinytorch/ is up to date.")


def check(console: Console, data: Data) -> None:
    for step in data["steps"]:
        mark = "[green]ok  [/]" if step["ok"] else "[red]fail[/]"
        console.print(f"{mark} {step['name']:10} {step['seconds']:6.1f} s")


def docs_build(console: Console, data: Data) -> None:
    console.print(f"{data['pages']} pages: open {data['page']}", soft_wrap=True)


def docs_serve(console: Console, data: Data) -> None:
    console.print(f"The pages stay in {data['out']}.", soft_wrap=True)


def quickstart(console: Console, data: Data) -> None:
    from rich.table import Table

    fp32, int8 = data["fp32"], data["int8"]
    sizes = "-".join(map(str, data["network"]))
    console.print(
        f"A network {sizes} with ReLU, trained on {data['train_images']:,} images for "
        f"{data['epochs']} epochs (loss {data['train_loss'][0]:.3f} -> "
        f"{data['train_loss'][-1]:.3f}), then quantised to INT8:\n"
    )
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading, side in (("", "left"), ("FP32", "right"), ("INT8", "right")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for heading in ("INT8 / FP32", "where the number comes from"):
        table.add_column(heading, justify="right" if "/" in heading else "left", overflow="fold")
    table.add_row(
        "accuracy",
        f"{fp32['accuracy']:.4f}",
        f"{int8['accuracy']:.4f}",
        f"{int8['accuracy'] - fp32['accuracy']:+.4f}",
        f"{data['test_images']:,} test images, unseen in training and calibration",
    )
    for key, source in (
        ("bytes_on_disk", "size of the safetensors file"),
        ("bytes_in_memory", "nbytes of all parameters and buffers"),
    ):
        ratio = int8[key] / fp32[key]
        row = (key.replace("_", " "), f"{fp32[key]:,}", f"{int8[key]:,}", f"{ratio:.2f}x")
        table.add_row(*row, source)
    for batch, milliseconds in fp32["latency_ms"].items():
        quantised = int8["latency_ms"][batch]
        table.add_row(
            f"latency, batch {batch}",
            f"{milliseconds:.3f} ms",
            f"{quantised:.3f} ms",
            f"{quantised / milliseconds:.2f}x",
            "median of many calls on this machine",
        )
    console.print(table)
    console.print(
        f"\nLargest change of an output: {data['max_output_error']:.3f}, "
        f"in a range of {data['output_range']:.1f}. INT8 in NumPy saves bytes, not time: "
        "NumPy has no INT8 matrix product."
    )
    console.print("\nNext: read modules/15_quantization, or begin: tito setup my-course")

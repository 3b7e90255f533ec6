"""What `tito grade` prints: one view a command, as in tito/output.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from tito.output import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Data = dict[str, Any]
T = TypeVar("T")
MESSAGES = 12  # shown of a report's


def init(console: Console, data: Data) -> None:
    new = [name for name in data["made"] if name.startswith("source/")]
    others = [name for name in data["made"] if name not in new]
    if data["made"]:
        masters = [f"{len(new)} master notebooks in source/"] if new else []
        console.print(f"[green]{plain(data['classroom'])}[/]", soft_wrap=True)
        console.print(f"Made: {', '.join([*others, *masters])}", soft_wrap=True)
    else:
        console.print(f"Nothing was missing in {plain(data['classroom'])}.", soft_wrap=True)
    if data["enrolled"]:
        console.print(f"Students put into the gradebook: {data['enrolled']}")
    console.print(f"\nNext: {plain(data['next'])}", soft_wrap=True)


def release(console: Console, data: Data) -> None:
    console.print(
        f"[green]{data['release']}[/]: {data['tests']} tests and {data['by_hand']} written "
        f"answers, {data['points']:g} points",
        soft_wrap=True,
    )
    if data["master_is_new"]:
        console.print("The master was made anew.")
    console.print("\nNext: hand it out, then tito grade collect --from FOLDER")


def collect(console: Console, data: Data) -> None:
    for outcome, colour in (("new", "green"), ("updated", "green"), ("unchanged", "dim")):
        by_module: dict[str, list[str]] = {}
        for entry in data[outcome]:
            student, module = entry.split()
            by_module.setdefault(module, []).append(student)
        for module, students in by_module.items():
            shown = ", ".join(students[:12]) + (", ..." if len(students) > 12 else "")
            line = f"[{colour}]{outcome}[/] {module}: {len(students)} ({plain(shown)})"
            console.print(line, soft_wrap=True)
    for place, reason in data["refused"].items():
        console.print(f"[red]refused[/] {plain(place)}: {plain(reason)}", soft_wrap=True)


def counted(items: Iterable[T], doing: str, total: int | None = None) -> Iterable[T]:
    """The items, counted by a progress bar where stderr is a terminal; `total` if they come."""
    from tqdm import tqdm

    return tqdm(items, desc=doing, unit=" students", total=total, disable=None)


def autograde(console: Console, data: Data) -> None:
    console.print(
        f"[green]{data['module']}[/]: {_count(data['graded'], 'submission')} graded, mean "
        f"{data['mean']:.1f} of {data['possible'] - data['by_hand']:g} points; "
        f"{data['full']} without a failed test",
        soft_wrap=True,
    )
    if data["by_hand"]:
        console.print(
            f"{data['by_hand']:g} points are for a person to give: jupyter lab, menu Nbgrader"
        )
    for student, problem in data["problems"].items():
        console.print(f"[red]not graded[/] {plain(student)}: {plain(problem)}", soft_wrap=True)
    if data["flagged"]:
        shown = ", ".join(data["flagged"][:12]) + (", ..." if len(data["flagged"]) > 12 else "")
        console.print(
            f"[yellow]{len(data['flagged'])} with something to look at[/] ({plain(shown)}): "
            f"{data['next']} --flags",
            soft_wrap=True,
        )
    console.print(f"\nNext: {data['next']}")


def compare(console: Console, data: Data) -> None:
    for row in data["rows"]:
        console.print(
            f"{plain(row['student'])} {row['cell']}: fast {row['fast']:g}, nbgrader "
            f"{row['nbgrader']:g}",
            soft_wrap=True,
        )
        for engine in ("fast", "nbgrader"):
            if row[f"says_{engine}"]:
                console.print(f"   {engine}: {plain(row[f'says_{engine}'])}", soft_wrap=True)
    if data["ok"]:
        console.print(f"Both engines give {_count(data['students'], 'student')} the same marks.")
    else:
        students = {row["student"] for row in data["rows"]}
        found = _count(len(data["rows"]), "difference")
        console.print(f"\n{found}, of {_count(len(students), 'student')}.")


def feedback(console: Console, data: Data) -> None:
    console.print(
        f"{data['module']}: {_count(data['written'], 'page')} written, "
        f"{data['unchanged']} unchanged"
    )
    console.print(f"Look at one: {plain(data['example'])}", soft_wrap=True)


def report(console: Console, data: Data) -> None:
    if "modules" in data:
        _overview(console, data)
        return
    _students(console, data)
    if data["only_flagged"]:
        return
    found = data["summary"]
    if not found["graded"]:
        console.print("\nNo submission could be graded: the last column says why.")
        return
    console.print(
        f"\n[bold]Points[/] of {_count(found['graded'], 'student')}: mean {found['mean']:.1f}, "
        f"median {found['median']:.1f}, quartiles {found['lower_quartile']:.1f} and "
        f"{found['upper_quartile']:.1f}, from {found['lowest']:g} to {found['highest']:g}"
    )
    _histogram(console, found["histogram"])
    _items(console, data["items"])
    if data["plot"]:
        console.print(f"\nDrawn: {plain(data['plot'])}", soft_wrap=True)


def _students(console: Console, data: Data) -> None:
    if not data["students"]:
        console.print("Nobody is flagged.")
        return
    table = _table("student", "points:", "of:", "%:", "by hand:", "flags:", "problem")
    for row in data["students"]:
        numbers = (f"{row['points']:g}", f"{row['possible']:g}", f"{row['percent']:.0f}")
        table.add_row(
            plain(row["student"]),
            *numbers,
            str(row["by_hand"] or ""),
            f"[yellow]{len(row['flags'])}[/]" if row["flags"] else "",
            plain(row["problem"]),
        )
        for flag in row["flags"] if data["only_flagged"] else []:
            table.add_row("", "", "", "", "", "", f"[yellow]{plain(flag)}[/]")
    console.print(table)


def _histogram(console: Console, counts: list[int]) -> None:
    """A line for each share of the points, with a bar for how many students have it."""
    from rich.bar import Bar
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column(width=50)
    step = 100 // len(counts)
    for index, count in enumerate(counts):
        span = f"{index * step}-{(index + 1) * step} %"
        table.add_row(span, str(count or ""), Bar(max(counts), 0, count))
    console.print(table)


def _items(console: Console, items: list[Data]) -> None:
    """What each cell says; r is its discrimination."""
    console.print(
        "\n[bold]Graded cells[/] (r: correlation of passing with the other cells' points)"
    )
    table = _table("cell", "of:", "pass:", "r:", "fails for")
    for item in items:
        passed, r, names = item["passed"], item["discrimination"], item["fails_for"]
        more = f" and {len(names) - 5} more" if names[5:] else ""
        few = f" of {item['graded']}" if item["waiting"] else ""
        table.add_row(
            plain(item["id"]),
            f"{item['possible']:g}",
            "waits" if passed is None else f"{100 * passed:.0f} %{few}",
            "-" if r is None else f"[{'yellow' if r < 0.2 else 'green'}]{r:.2f}[/]",
            plain(", ".join(names[:5]) + more),
        )
    console.print(table)
    if any(item["discrimination"] is None for item in items):
        console.print("[dim]-: undefined, as all or none of those graded pass[/]")
    told = [(item["id"], each) for item in items for each in item["messages"]]
    told.sort(key=lambda pair: -pair[1]["count"])
    if told:
        console.print("\n[bold]Most common messages[/]")
    for name, each in told[:MESSAGES]:
        line = f"{each['count']:4} x {name}: {each['message']}"
        console.print(plain(line), soft_wrap=True)
    if told[MESSAGES:]:
        console.print(f"[dim]and {len(told) - MESSAGES} more: --json has them[/]")


def _overview(console: Console, data: Data) -> None:
    numbers = [module[:2] for module in data["modules"]]
    table = _table("student", *(f"{number}:" for number in numbers), "points:", "of:", "%:")
    for row in data["students"]:
        cells = [row["modules"].get(module) for module in data["modules"]]
        share = 100 * row["points"] / row["possible"] if row["possible"] else 0
        table.add_row(
            plain(row["student"]),
            *(_points(cell) for cell in cells),
            f"{row['points']:g}",
            f"{row['possible']:g}",
            f"{share:.0f}",
        )
    console.print(table)
    console.print(
        "[dim]-: nothing handed in or not graded yet   !: flagged or a problem, "
        "see tito grade report NN[/]"
    )


def _points(cell: Data | None) -> str:
    if cell is None or cell["problem"] in ("not graded yet", "nothing handed in"):
        return "-"
    mark = "[yellow]![/]" if cell["flags"] or cell["problem"] else ""
    return f"{mark}{cell['points']:g}"


def export(console: Console, data: Data) -> None:
    console.print(
        f"{plain(data['file'])}: {_count(data['rows'], 'row')} for {', '.join(data['modules'])}",
        soft_wrap=True,
    )


def doctor(console: Console, data: Data) -> None:
    place = ""
    for row in data["findings"]:
        here = "/".join(filter(None, (row["student"], row["module"])))
        if here != place:
            console.print(f"[bold]{plain(here)}[/]", soft_wrap=True)
            place = here
        advice = f" [dim]->[/] {plain(row['advice'])}" if row["advice"] else ""
        console.print(f"  {plain(row['found'])}{advice}", soft_wrap=True)
    looked = _count(data["submissions"], "submission")
    found = _count(len(data["findings"]), "finding") if data["findings"] else "nothing is wrong"
    console.print(f"{looked}: {found}")


def _table(*headings: str) -> Table:
    """A table without lines; a heading that ends in a colon stands over numbers."""
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for heading in headings:
        justify: Any = "right" if heading.endswith(":") else "left"
        table.add_column(heading.rstrip(":"), justify=justify, overflow="fold")
    return table


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

"""The course's site: guides, a page for each lesson and milestone, the package and `tito`.

The pages are laid out in a folder and built by Sphinx; `docs/conf.py` says how. Lessons are shown
as a student gets them, so that no solution is published.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from nbformat import NotebookNode

from tito.course import Course, Module
from tito.errors import TitoError
from tito.notebook import read_module, student_version, write_notebook


def build(course: Course, out: Path, strict: bool = False) -> Path:
    """Build the site into the folder `out` and return its first page.

    `strict` refuses what Sphinx warns of. Raises TitoError with Sphinx's own words.
    """
    if not importlib.util.find_spec("sphinx") or not importlib.util.find_spec("myst_nb"):
        raise TitoError("the site needs Sphinx: pip install 'tinytorch[docs]'")
    if not (course.root / "docs" / "conf.py").is_file():
        raise TitoError("tito docs works in a checkout of the project")
    with tempfile.TemporaryDirectory(prefix="tito-docs-") as folder:
        pages = Path(folder)
        lay_out(course, pages)
        command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-j", "auto"]
        command += ["-W", "--keep-going"] * strict
        done = subprocess.run(
            [*command, str(pages), str(out)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise TitoError(f"Sphinx: {done.stderr.strip() or done.stdout.strip()}")
    return out / "index.html"


def lay_out(course: Course, pages: Path) -> None:
    """Write all pages of the site, as Sphinx reads them, into a folder."""
    shutil.copytree(course.root / "docs", pages, dirs_exist_ok=True)
    stories = pages / "milestones"
    shutil.copytree(
        course.root / "milestones", stories, ignore=shutil.ignore_patterns("*.py", "__pycache__")
    )
    names = sorted(f"{path.parent.name}/README" for path in stories.glob("*/README.md"))
    overview = (stories / "README.md").read_text(encoding="utf-8").replace("../docs/", "../")
    write(stories / "README.md", f"{overview}\n{toctree(names)}")
    for module in course.modules:
        write_notebook(pages / "modules" / f"{module.folder}.ipynb", lesson_page(module))
        write(pages / "api" / f"{module.export}.md", api_page(module))
    lessons = [module.folder for module in course.modules]
    write(pages / "modules" / "index.md", "# Lessons\n\n" + toctree(lessons))
    files = [module.export for module in course.modules]
    write(pages / "api" / "index.md", "# The package\n\n" + toctree(files))
    write(pages / "tito.md", command_page())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def toctree(entries: list[str]) -> str:
    """A table of contents of pages in the same folder."""
    return "\n".join(["```{toctree}", ":maxdepth: 1", "", *entries, "```", ""])


def lesson_page(module: Module) -> NotebookNode:
    """The lesson as a student gets it, without what nbdev and nbgrader need."""
    notebook = student_version(read_module(module))
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE)
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    first = next(cell for cell in notebook.cells if cell.cell_type == "markdown")
    first.source = first.source.replace(module.title, f"{module.number} {module.title}", 1)
    return notebook


def api_page(module: Module) -> str:
    """Everything public of one file of the package, by autodoc."""
    name = f"tinytorch.{module.export}"
    lesson = f"Its lesson: [](../modules/{module.folder}.ipynb)"
    return f"# {name}\n\n{lesson}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"


def command_page() -> str:
    """What every command of tito says of itself with `--help`."""
    from tito.commands import tito

    parts = ["# tito\n"]

    def visit(command: click.Command, context: click.Context, depth: int) -> None:
        words = command.get_help(context)
        parts.append(f"{'#' * depth} `{context.command_path}`\n\n```text\n{words}\n```\n")
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                if child and not child.hidden:
                    visit(child, click.Context(child, info_name=name, parent=context), depth + 1)

    visit(tito, click.Context(tito, info_name="tito", max_content_width=100), 2)
    return "\n".join(parts)

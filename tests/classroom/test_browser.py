"""Jupyter in a browser: a student's first module, typed and clicked, and an instructor's points.

TITO_SCREENSHOTS=docs/_static/screenshots pytest -m slow tests/classroom/test_browser.py
takes the pictures of the student's guide on the way.
"""

import json
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import student
from browser import SECONDS, expect, open_page
from submissions import hand_in, solution

from tito.notebook import grade_id, read_notebook

pytestmark = pytest.mark.slow

TOKEN = "known-to-the-test"
WRONG = [  # forgets the correction
    "distance = a - np.mean(a, axis=axis, keepdims=True)",
    "return np.mean(distance**2, axis=axis, keepdims=keepdims)",
]
RIGHT = [
    WRONG[0],
    "total = np.sum(distance**2, axis=axis, keepdims=keepdims)",
    "count = np.size(a) / max(np.size(total), 1)",
    "return total / max(count - correction, 0)",
]
# whose machine it was is nobody's business
HIDE_PATHS = r"""() => document.querySelectorAll(".jp-OutputArea-output").forEach(output => {
  const texts = document.createTreeWalker(output, NodeFilter.SHOW_TEXT)
  while (texts.nextNode())
    texts.currentNode.data = texts.currentNode.data.replace(/\/\S+\/(?=my-course|tito)/, "~/")
})"""
JUPYTERLAB = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight exist as well
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "terminal-extension/plugin": {"screenReaderMode": True},  # what it shows is in the page as text
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """The environment of a student with a home folder of their own."""
    home = tmp_path_factory.mktemp("home")
    for name, values in JUPYTERLAB.items():
        file = home / f".jupyter/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    variables = student.environment(home)
    # a terminal is a login shell, which sets both anew
    profile = f"export PATH='{variables['PATH']}' PS1='$ '\n"
    (home / ".profile").write_text(profile, encoding="utf-8")
    return {**variables, "SHELL": "/bin/sh"}


@pytest.fixture(scope="module")
def workspace(environment) -> Path:
    """A workspace with the notebook of module 01: all is written but `var`."""
    folder = Path(environment["HOME"]) / "my-course"
    tito(environment, folder.parent, "setup", folder.name)
    tito(environment, folder, "module", "start", "01")
    student.write_solutions(folder / "modules/01_tensor/tensor.ipynb", "01", but=["var"])
    return folder


def tito(environment, folder, *words):
    done = subprocess.run(
        ["tito", *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def jupyterlab(folder, environment, *command):
    """Start JupyterLab by `command` in `folder`; yields its address."""
    options = ["--no-browser", "--port=0", f"--IdentityProvider.token={TOKEN}"]
    options += ["--allow-root"] * (hasattr(os, "geteuid") and os.geteuid() == 0)
    runtime = Path(environment["HOME"]) / f"runtime-{folder.name}"
    log = folder.parent / "jupyterlab.log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            [*command, *options],
            cwd=folder,
            env={**environment, "JUPYTER_RUNTIME_DIR": str(runtime)},
            stdout=file,
            stderr=file,
            start_new_session=True,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + SECONDS
            while not (url := server_address(runtime)):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def server_address(runtime):
    """What the server says of itself in its folder; None as long as it doesn't."""
    for file in runtime.glob("jpserver-*.json"):
        with suppress(ValueError):  # being written
            return json.loads(file.read_text(encoding="utf-8"))["url"]


class Lab:
    """JupyterLab as its user handles it, with one notebook in front."""

    def __init__(self, page, workspace, address):
        self.page, self.workspace, self.address = page, workspace, address

    def open(self, notebook):
        """Open a notebook of the workspace and wait until its kernel has started."""
        self.page.goto(f"{self.address}lab/tree/{notebook}?token={TOKEN}")
        self.sources = [cell.source for cell in read_notebook(self.workspace / notebook).cells]
        self.idle()

    def idle(self):
        """Wait until the kernel has nothing to do."""
        self.page.get_by_text("TinyTorch | Idle").wait_for()

    def command(self, name):
        """Choose a command from the palette."""
        self.page.keyboard.press("Control+Shift+C")
        palette = self.page.locator("#modal-command-palette")
        palette.locator("input").fill(name)
        palette.locator(".lm-CommandPalette-item").get_by_text(name, exact=True).first.click()

    def cell(self, part):
        """The cell whose source held `part` when the notebook was opened."""
        [index] = [i for i, source in enumerate(self.sources) if part in source]
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, part):
        """What the cell with `part` printed."""
        return self.cell(part).locator(".jp-OutputArea-output")

    def run(self, part):
        """Run the cell with `part` and wait for its end."""
        cell = self.cell(part)
        cell.locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Control+Enter")
        expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"))

    def write(self, cell, first, lines):
        """Type `lines` in place of all from the line that holds `first` to the end of the cell."""
        self.cell(cell).locator(".cm-line").filter(has_text=first).click()
        for keys in ("Home", "Control+Shift+End"):
            self.page.keyboard.press(keys)
        self.page.keyboard.type("\n".join(lines))
        self.page.keyboard.press("Escape")

    def save(self):
        """Save the notebook by the keyboard and wait until the server has it."""
        with self.page.expect_response(
            lambda response: response.request.method == "PUT" and "/contents/" in response.url
        ) as answer:
            self.page.keyboard.press("Control+S")
        assert answer.value.ok


def picture(page, name, *parts, height=None):
    """Keep what the page shows, or the rectangle from the first to the last of `parts` (at most
    `height` pixels of it), if pictures are wanted."""
    folder = os.environ.get("TITO_SCREENSHOTS")
    if not folder:
        return
    page.evaluate(HIDE_PATHS)
    clip = None
    if parts:
        parts[0].evaluate("element => element.scrollIntoView()")
        begin, end = parts[0].bounding_box(), parts[-1].bounding_box()
        clip = {**begin, "height": height or end["y"] + end["height"] - begin["y"]}
    page.screenshot(path=f"{folder}/{name}.png", clip=clip)


def test_a_module_in_the_browser(workspace, environment):
    first, exercise, test, last = (
        "whose_tinytorch()",
        "\ndef var(",
        "def test_var",
        "def test_module",
    )
    notebook = "modules/01_tensor/tensor.ipynb"
    package = workspace / "tinytorch"
    view = ("tito", "module", "view", "01", "--")
    with jupyterlab(workspace, environment, *view) as address, open_page(height=980) as page:
        lab = Lab(page, workspace, address)
        lab.open(notebook)
        lab.run(first)
        expect(lab.output(first)).to_contain_text("nothing is in it yet")
        picture(page, "opened")

        lab.write(exercise, "# YOUR CODE HERE", WRONG)
        lab.command("Run All Cells")
        error = lab.output(test)
        expect(error).to_contain_text("var(correction=1) gave 1.25, expected 1.666")
        expect(error).to_contain_text("divide by n - 1")
        picture(page, "failing", lab.cell(exercise), lab.cell(test))

        lab.write(exercise, WRONG[1], RIGHT[1:])
        lab.command("Run All Cells")
        expect(lab.output(last)).to_have_text("module 01: all checks passed")
        expect(error).to_have_count(0)
        picture(page, "passing", lab.cell(exercise), lab.cell(test))
        lab.save()
        [written] = [
            cell.source
            for cell in read_notebook(workspace / notebook).cells
            if grade_id(cell) == "var"
        ]
        assert written.endswith('"""\n' + "\n".join(f"    {line}" for line in RIGHT))
        assert not (package / "core" / "tensor.py").exists()

        lab.command("New Terminal")
        terminal = page.locator(".jp-Terminal .xterm-accessibility-tree")
        expect(terminal).to_contain_text("$")
        page.keyboard.type("tito module complete 01\n")
        expect(terminal).to_contain_text("01_tensor is complete")
        picture(page, "complete", page.locator(".jp-Terminal"), height=380)
        assert RIGHT[-1] in (package / "core" / "tensor.py").read_text(encoding="utf-8")

        lab.open(notebook)
        lab.command("Restart Kernel…")
        page.get_by_role("button", name="Confirm Kernel Restart").click()
        lab.idle()
        lab.run(first)
        expect(lab.output(first)).to_contain_text(f"tinytorch: {package}")
        expect(lab.output(first)).to_contain_text("yours: core/tensor.py")


def test_formgrader_gives_points_for_an_answer(classroom, environment):
    """What a person gives in nbgrader's formgrader counts, and stays when graded again."""
    module, place = classroom.course.module("01"), classroom.root
    hand_in(classroom, "ada", module, solution(module))
    tito(environment, place, "grade", "release", "01")
    tito(environment, place, "grade", "autograde", "01")
    with jupyterlab(place, environment, "jupyter", "lab") as address, open_page() as page:
        page.goto(f"{address}lab?token={TOKEN}")
        expect(page.get_by_text("Nbgrader", exact=True)).to_be_visible()
        page.goto(f"{address}formgrader/gradebook/01_tensor/tensor")
        page.get_by_text("Submission #1").click()
        page.wait_for_url("**/submissions/**")
        page.wait_for_load_state("networkidle")  # its script then listens to the fields
        points = page.locator("#answer-memory")
        with page.expect_response(lambda response: response.request.method == "PUT") as answer:
            points.fill("4")
            points.press("Tab")
        assert answer.value.ok
    tito(environment, place, "grade", "autograde", "01", "--fresh")
    ada, *_ = json.loads(tito(environment, place, "grade", "report", "01", "--json"))["students"]
    assert (ada["student"], ada["points"], ada["by_hand"]) == ("ada", 85 + 4, 3)

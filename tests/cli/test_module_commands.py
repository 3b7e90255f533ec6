"""`tito module`: a student's way through a lesson."""

import json

import nbformat
import pytest
from lessons import ACTIVATIONS

WRONG = "#| export\ndef relu(x: Tensor) -> Tensor:\n    return x\n"
OVERFITTED = (  # passes the notebook's own test
    "#| export\ndef relu(x: Tensor) -> Tensor:\n"
    "    return Tensor(v if 0 < v < 4 else 0.0 for v in x.data)\n"
)


def rows(ran) -> dict[str, dict]:
    """The rows of `tito module status` by number."""
    return {row["module"][:2]: row for row in ran.data["modules"]}


def test_list_shows_tiers_titles_and_times(tito, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no workspace needed
    [tier] = tito("module", "list", "--json").data["tiers"]
    assert tier["name"] == "Foundation"
    assert tier["modules"][2] == {
        "module": "03_layers",
        "title": "Layers",
        "export": "tinytorch.core.layers",
        "time": "2 to 3 hours",
    }
    out = tito("module", "list").out
    assert "Tensor: the base" in out
    assert "tinytorch.core.activations" in out


def test_list_sorts_every_number_into_its_tier(tito, course):
    for number in (8, 14, 20, 21):
        folder = course.root / "modules" / f"{number:02d}_m{number}"
        folder.mkdir()
        text = ACTIVATIONS.replace("core.activations", f"core.m{number}")
        (folder / f"m{number}_dev.py").write_text(text, encoding="utf-8")
    vars(course).pop("modules", None)  # as read before
    tiers = tito("module", "list", "--json").data["tiers"]
    found = {tier["name"]: [row["module"][:2] for row in tier["modules"]] for tier in tiers}
    assert found == {
        "Foundation": ["01", "02", "03"],
        "Architecture": ["08"],
        "Optimization": ["14"],
        "Olympics": ["20"],
        "Specialisation": ["21"],
    }


def test_start_gives_the_notebook_without_solutions(tito, workspace):
    ran = tito("module", "start", "02", "--json")
    assert ran.status == 0
    assert ran.data["made"]
    assert ran.data["package"] == [{"module": "01_tensor", "state": "reference"}]
    text = (workspace / ran.data["notebook"]).read_text(encoding="utf-8")
    assert "raise NotImplementedError()" in text
    assert "max(v, 0.0)" not in text
    assert "HIDDEN" not in text
    assert "has a corner" not in text
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "tinytorch"


def test_start_again_keeps_the_notebook(tito, workspace, write):
    tito("module", "start", "02")
    path = write("02")
    before = path.read_bytes()
    ran = tito("module", "start", "activations")
    assert "is there already: it was left as it is" in ran.out
    assert "tito module reset 02" in ran.out
    assert path.read_bytes() == before


def test_a_module_from_start_to_finish(tito, workspace, write, suite):
    """The whole way, by what is printed and by what is there afterwards."""
    tito("module", "start", "02")
    ran = tito("module", "test", "02")
    assert ran.status == 1
    assert "relu is not written yet" in ran.out
    assert "0 of 60 points, and 40 for a person to give" in ran.out

    write("02")
    ran = tito("module", "test", "02")
    assert ran.status == 0
    assert "passes the module's suite: 2 of 2 tests" in ran.out
    assert "Next: tito module complete 02" in ran.out
    assert not (workspace / "tinytorch" / "core" / "activations.py").exists()

    ran = tito("module", "complete", "02")
    assert ran.status == 0
    assert "02_activations is complete: tinytorch/core/activations.py is your own" in ran.out
    assert "from tinytorch import LIMIT, LeakyReLU, ReLU, Slope" in ran.out
    assert "Next: tito module start 03   (Layers)" in ran.out
    text = (workspace / "tinytorch" / "core" / "activations.py").read_text(encoding="utf-8")
    assert "modules/02_activations/activations.ipynb" in text
    assert "BEGIN SOLUTION" not in text

    row = rows(tito("module", "status", "--json"))["02"]
    assert (row["state"], row["points"], row["possible"]) == ("yours", 60, 60)
    assert (row["tests"], row["remark"]) == ("3 of 3", "")
    assert rows(tito("module", "status", "--json"))["01"]["state"] == "reference"

    tito("module", "start", "03")
    write("03")
    assert tito("module", "complete", "03").status == 0


def test_the_students_own_files_are_what_later_modules_are_tested_with(tito, workspace, write):
    tito("module", "start", "02")
    write("02")
    tito("module", "complete", "02")
    kept = workspace / ".tito" / "completed" / "core" / "activations.py"
    kept.write_text(kept.read_text(encoding="utf-8").replace("0.0", "1.0"), encoding="utf-8")
    tito("module", "start", "03")
    write("03")
    [test] = tito("module", "test", "03", "--json").data["tests"]
    assert "gave 3.0 at [0], expected 0.0" in test["message"]


def test_the_notebook_does_not_see_its_own_module(tito, workspace, write):
    tito("module", "start", "02")
    cheat = "#| export\nfrom tinytorch.core.activations import relu\n"
    write("02", relu=cheat)
    data = tito("module", "complete", "02", "--json").data
    assert not data["ok"]
    assert "NameError" in data["tests"][0]["message"]
    assert "comes with module 02_activations" in data["errors"][0]["message"]


def test_a_failing_test_keeps_the_old_file(tito, workspace, write):
    tito("module", "start", "02")
    write("02")
    tito("module", "complete", "02")
    file = workspace / "tinytorch" / "core" / "activations.py"
    before = file.read_bytes()
    write("02", relu=WRONG)
    ran = tito("module", "complete", "02")
    assert ran.status == 1
    assert (
        "test-relu  60 points  relu(Tensor([-0.5, 3.0])).data gave -0.5 at [0], expected 0.0: "
        "negative inputs must become zero\n"
    ) in ran.out
    assert "02_activations is not complete yet: your package stays as it was." in ran.out
    assert file.read_bytes() == before
    row = rows(tito("module", "status", "--json"))["02"]
    assert row["state"] == "yours"
    assert row["tests"] == "0 of 1"
    assert row["remark"] == "changed since: tito module complete 02"


def test_going_back_sets_the_later_ones_aside(tito, workspace, write):
    for number in ("02", "03"):
        tito("module", "start", number)
        write(number)
        assert tito("module", "complete", number).status == 0
    tito("module", "start", "02")
    later = rows(tito("module", "status", "--json"))["03"]
    assert (later["state"], later["remark"]) == (
        "yours",
        "set aside while you are at an earlier one",
    )
    tito("module", "complete", "02")
    assert rows(tito("module", "status", "--json"))["03"]["remark"] == ""
    ran = tito("module", "status")
    assert "That was the last module so far." in ran.out


def test_the_suite_counts_too(tito, workspace, write, suite):
    tito("module", "start", "02")
    write("02", relu=OVERFITTED)
    ran = tito("module", "complete", "02")
    assert ran.status == 1
    assert "fails  the module's suite: 1 of 2 tests" in ran.out
    assert "test_large_numbers_stay: relu(5) must be 5" in ran.out
    assert not (workspace / "tinytorch" / "core" / "activations.py").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os; os._exit(3)", "ended Python (status 3)"),
        ("import os; os._exit(0)", "ended Python (status 0)"),
        ("raise SystemExit(0)", "SystemExit"),
    ],
)
def test_a_suite_that_dies_does_not_pass(tito, workspace, write, suite, body, message):
    suite.write_text(f"def test_deadly():\n    {body}\n", encoding="utf-8")
    tito("module", "start", "02")
    write("02")
    data = tito("module", "test", "02", "--json").data
    assert not data["ok"]
    [test] = data["suite"]
    assert test["name"] == "test_deadly"
    assert message in test["message"]


def test_a_file_that_ends_its_suite_does_not_pass(tito, workspace, write, suite):
    """Not even if it does so with a good conscience, before the first test."""
    tito("module", "start", "02")
    trick = "#| export\nimport os, sys\nif 'pytest' in sys.modules: os._exit(0)\n"
    write("02", relu=trick + "def relu(x): return Tensor(max(v, 0.0) for v in x.data)")
    [test] = tito("module", "test", "02", "--json").data["suite"]
    assert test == {
        "name": "test_02_activations.py",
        "message": "ended Python (status 0)",
        "points": 0,
        "written": True,
    }


def test_a_suite_that_cannot_be_imported_does_not_pass(tito, workspace, write, suite):
    suite.write_text("from tinytorch import nothing\n", encoding="utf-8")
    tito("module", "start", "02")
    write("02")
    data = tito("module", "test", "02", "--json").data
    assert not data["ok"]
    assert "nothing" in data["suite"][0]["message"]


def test_a_syntax_error_is_one_line(tito, workspace, write):
    tito("module", "start", "02")
    write("02", relu="#| export\ndef relu(x):\n    return max(x, 0\n")
    for action in ("test", "complete"):
        ran = tito("module", action, "02")
        assert ran.status == 1
        assert ran.out == ""
        assert ran.err == (
            "02_activations, cell relu, line 3: '(' was never closed: return max(x, 0\n"
        )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("while True: pass", "cell test-relu did not end within 3 s\n"),
        ("import os; os._exit(3)", "cell test-relu ended Python (status 3)\n"),
    ],
    ids=["endless", "deadly"],
)
def test_a_cell_that_never_returns_is_named(tito, workspace, write, monkeypatch, body, message):
    monkeypatch.setattr("tito.trial.NOTEBOOK_SECONDS", 3)
    tito("module", "start", "02")
    write("02", relu=f"#| export\ndef relu(x):\n    {body}\n")
    ran = tito("module", "complete", "02")
    assert (ran.status, ran.err) == (1, message)


def test_a_notebook_that_is_no_notebook_is_one_line(tito, workspace):
    tito("module", "start", "02")
    path = workspace / "modules" / "02_activations" / "activations.ipynb"
    path.write_text('{"cells": [', encoding="utf-8")
    for action in ("test", "complete", "update"):
        ran = tito("module", action, "02")
        assert ran.status == 1
        assert ran.err.count("\n") == 1
        assert "is not a readable notebook" in ran.err
    assert path.read_text(encoding="utf-8") == '{"cells": ['
    assert rows(tito("module", "status", "--json"))["02"]["remark"] == "started"


@pytest.mark.parametrize("action", ["view", "test", "complete", "reset", "update"])
def test_without_the_notebook(tito, workspace, action):
    ran = tito("module", action, "02")
    assert (ran.status, ran.err) == (
        1,
        "modules/02_activations/activations.ipynb is not there: run tito module start 02\n",
    )


def test_a_deleted_notebook_names_its_backup(tito, workspace):
    tito("module", "start", "02")
    backup = tito("module", "reset", "02", "--json").data["backup"]
    (workspace / "modules" / "02_activations" / "activations.ipynb").unlink()
    assert f"(your last backup is {backup})" in tito("module", "test", "02").err


@pytest.mark.parametrize(
    ("source", "happened"), [(None, "deleted"), ("pass  # too hard", "edited")]
)
def test_the_lessons_own_tests_decide(tito, workspace, write, source, happened):
    """Whatever became of them in the notebook."""
    tito("module", "start", "02")
    path = write("02", relu=WRONG)
    notebook = nbformat.read(path, 4)
    [place] = [i for i, cell in enumerate(notebook.cells) if cell.id == "test-relu"]
    if source:
        notebook.cells[place].source = source
    else:
        del notebook.cells[place]
    nbformat.write(notebook, path)
    ran = tito("module", "test", "02")
    assert ran.status == 1
    assert "test-relu  60 points  relu(Tensor([-0.5, 3.0])).data gave -0.5" in ran.out
    assert f"Note: test-relu was {happened}: the course's own is used\n" in ran.out
    assert "Note: tito module update 02 brings the lesson's own cells back\n" in ran.out
    write("02")
    assert tito("module", "test", "02").status == 0


def test_the_students_own_cells_do_not_count(tito, workspace, write):
    """Magics and experiments that fail are the student's business."""
    tito("module", "start", "02")
    path = write("02")
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell("%timeit relu(Tensor([1.0]))"))
    notebook.cells.append(nbformat.v4.new_code_cell("# try\nrelu('abc')"))
    nbformat.write(notebook, path)
    ran = tito("module", "test", "02")
    assert ran.status == 0
    assert "in the cell `relu('abc')`: AttributeError" in ran.out
    assert "timeit" not in ran.out


def test_reset_keeps_a_backup(tito, workspace, write):
    tito("module", "start", "02")
    fresh = (workspace / "modules" / "02_activations" / "activations.ipynb").read_bytes()
    path = write("02")
    mine = path.read_bytes()
    first = tito("module", "reset", "02", "--json").data
    assert path.read_bytes() == fresh
    assert (workspace / first["backup"]).read_bytes() == mine
    second = tito("module", "reset", "02", "--json").data
    assert (workspace / first["backup"]).read_bytes() == mine
    assert (workspace / second["backup"]).read_bytes() == fresh


def test_view_opens_jupyterlab_on_the_notebook(tito, workspace, tmp_path, monkeypatch):
    """A program in JupyterLab's place writes down how it was called."""
    called = tmp_path / "called"
    (tmp_path / "jupyterlab.py").write_text(
        "import json, os, sys\n"
        f"json.dump([*sys.argv[1:], os.getcwd()], open({str(called)!r}, 'w'))\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tito("module", "start", "03")
    tito("module", "start", "02")
    ran = tito("module", "view", "03", "--", "--no-browser")
    assert ran.status == 0
    assert "Opening modules/03_layers/layers.ipynb in JupyterLab" in ran.err
    notebook = workspace / "modules" / "03_layers" / "layers.ipynb"
    assert json.loads(called.read_text(encoding="utf-8")) == [
        f"--ServerApp.root_dir={workspace}",
        str(notebook),
        "--no-browser",
        str(workspace),
    ]
    assert (workspace / "tinytorch" / "core" / "activations.py").is_file()


def test_view_when_jupyterlab_refuses(tito, workspace, tmp_path, monkeypatch):
    (tmp_path / "jupyterlab.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tito("module", "start", "02")
    ran = tito("module", "view", "02")
    assert ran.status == 1
    assert ran.err.endswith("JupyterLab ended with status 3; it says why above\n")


def test_view_without_jupyterlab(tito, workspace, monkeypatch):
    import importlib.util

    tito("module", "start", "02")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ran = tito("module", "view", "02")
    assert ran.err == "JupyterLab is not installed: pip install 'tinytorch[course]'\n"


# --- a newer lesson ---

NEWER = ACTIVATIONS.replace(
    "## Relu\n", "## Relu, explained better\n\nNegative numbers become zero.\n"
).replace(
    '[0.0, 3.0], "negative inputs must become zero")\n    ###',
    '[0.0, 3.0], "negative inputs must become 0.0")\n    ###',
)


@pytest.fixture
def newer(course):
    """Publishes another text of the lesson on activations."""

    def publish(text: str = NEWER) -> None:
        assert text != ACTIVATIONS
        course.module("02").source.write_text(text, encoding="utf-8")

    return publish


def sources(path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells]


def test_update_brings_the_newer_lesson_and_keeps_the_solutions(tito, workspace, write, newer):
    tito("module", "start", "02")
    path = write("02", answer="Because of the corner at 0.")
    notebook = nbformat.read(path, 4)
    at = next(i for i, cell in enumerate(notebook.cells) if cell.get("id") == "test-relu")
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell("relu(Tensor([7.0])).data  # my own"))
    nbformat.write(notebook, path)
    before = path.read_bytes()
    newer()
    data = tito("module", "update", "02", "--json").data
    texts = sources(path)
    everything = "\n".join(texts)
    assert "## Relu, explained better" in everything
    assert "## Relu\n" not in everything + "\n"
    assert "must become 0.0" in everything
    assert "must become zero" not in everything
    assert "max(v, 0.0)" in everything
    assert "Because of the corner at 0." in texts
    own = texts.index("relu(Tensor([7.0])).data  # my own")
    assert "def test_relu" in texts[own - 1]
    assert (workspace / data["backup"]).read_bytes() == before
    assert data["replaced"] == []
    assert {"relu", "answer"} < set(data["kept"])
    assert tito("module", "complete", "02").status == 0


def test_update_without_a_newer_lesson_changes_nothing(tito, workspace, write):
    tito("module", "start", "02")
    path = write("02")
    before = path.read_bytes()
    ran = tito("module", "update", "02")
    assert "is up to date" in ran.out
    assert path.read_bytes() == before


def test_update_keeps_a_solution_that_the_lesson_dropped(tito, workspace, write, newer):
    tito("module", "start", "02")
    path = write("02")
    newer(ACTIVATIONS.replace('"relu", "solution"', '"rectify", "solution"'))
    tito("module", "update", "02")
    kept = [text for text in sources(path) if "max(v, 0.0)" in text]
    assert len(kept) == 1
    stubs = [text for text in sources(path) if "NotImplementedError" in text]
    assert len(stubs) == 1


def test_update_keeps_changed_text_and_gives_the_new_text_beside_it(tito, workspace, write, newer):
    tito("module", "start", "02")
    path = write("02")
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("## Relu", "## Relu (I must read this again)")
    nbformat.write(notebook, path)
    newer()
    tito("module", "update", "02")
    everything = "\n".join(sources(path))
    assert "## Relu (I must read this again)" in everything
    assert "## Relu, explained better" in everything


def test_update_makes_tests_the_lessons_again(tito, workspace, write, newer):
    tito("module", "start", "02")
    path = write("02")
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.get("id") == "test-relu":
            cell.source = "pass  # too hard"
    nbformat.write(notebook, path)
    data = tito("module", "update", "02", "--json").data
    assert data["replaced"] == ["test-relu"]
    assert "pass  # too hard" not in sources(path)
    assert "pass  # too hard" in sources(workspace / data["backup"])


def test_update_takes_a_copied_solution_once(tito, workspace, write, newer):
    """JupyterLab copies a cell's name with the cell: both texts stay."""
    tito("module", "start", "02")
    path = write("02")
    notebook = nbformat.read(path, 4)
    at = next(i for i, cell in enumerate(notebook.cells) if cell.get("id") == "relu")
    copy = nbformat.from_dict(notebook.cells[at] | {"id": "copy", "source": "# second thoughts"})
    notebook.cells.insert(at + 1, copy)
    nbformat.write(notebook, path)
    newer()
    tito("module", "update", "02")
    assert "max(v, 0.0)" in "\n".join(sources(path))
    assert "# second thoughts" in sources(path)
    assert len({cell.id for cell in nbformat.read(path, 4).cells}) == len(sources(path))


def test_nothing_of_the_reference_can_shadow_the_students_file(
    tito, workspace, write, course, suite, monkeypatch
):
    """The reference stands on the path too; the suite says which of the two it sees."""
    suite.write_text(
        "import tinytorch.core.activations as a\n\n"
        "def test_where():\n"
        f"    assert not a.__file__.startswith({str(course.root)!r})\n"
        "    assert 'activations.ipynb' in open(a.__file__).read()\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(course.root))
    tito("module", "start", "02")
    write("02")
    assert tito("module", "test", "02", "--json").data["ok"]

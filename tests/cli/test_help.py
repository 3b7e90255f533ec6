"""The command line as a newcomer meets it: fast, and it explains itself."""

import json
import re
import subprocess
import sys

import pytest

GRADE = ("init", "release", "collect", "autograde", "compare", "feedback", "report", "doctor")
MODULE = ("list", "status", "start", "view", "test", "complete", "submit", "reset", "update")
COMMANDS = [
    *[(name,) for name in ("quickstart", "setup", "doctor")],
    *[("module", name) for name in MODULE],
    *[("milestone", name) for name in ("list", "info", "run")],
    *[("grade", name) for name in (*GRADE, "export")],
    *[(name,) for name in ("export", "check")],
    *[("docs", name) for name in ("build", "serve")],
]
GROUPS = [(), ("module",), ("milestone",), ("grade",), ("docs",)]
HEAVY = (
    "numpy",
    "nbdev",
    "nbgrader",
    "nbformat",
    "jupytext",
    "jupyter_client",
    "rich",
    "tinytorch",
)


def in_a_fresh_process(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_help_imports_nothing_heavy():
    """All helps together: a heavy import at the top of any command's file is caught."""
    code = f"""
import contextlib, io, json, sys
from tito.main import main
for words in {[*GROUPS, *COMMANDS]}:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    assert out.getvalue().startswith("Usage: tito")
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""
    done = in_a_fresh_process(code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_teaches(tito, words):
    ran = tito(*words, "--help")
    assert ran.status == 0
    assert ran.out.startswith(f"Usage: tito {' '.join(words)} ")
    assert f"tito {' '.join(words)}" in ran.out.split("Example:")[1]
    assert "--json" in ran.out


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_every_command_is_listed_with_a_whole_sentence(tito, group):
    listed = tito(*group, "--help").out.split("Commands:")[1]
    entries = re.findall(r"^  (\w+) +(\S.*(?:\n   .*)*)", listed, re.MULTILINE)
    names = [words[len(group)] for words in COMMANDS if words[: len(group)] == group]
    assert [name for name, _ in entries] == list(dict.fromkeys(names))
    assert all(text.endswith(".") and not text.endswith("...") for _, text in entries)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("modul",), "no command 'modul': did you mean module?"),
        (("module", "strat", "01"), "no command 'strat': did you mean start?"),
        (("frobnicate",), "there are quickstart, setup, doctor, module, milestone, grade, export"),
    ],
)
def test_a_mistyped_command_is_guessed(tito, words, hint):
    ran = tito(*words)
    assert ran.status == 2
    assert hint in ran.err


def test_wrong_usage_has_status_2(tito):
    assert tito("module", "start").status == 2
    assert tito("setup", "--colour").status == 2
    assert "--check looks at the whole package" in tito("export", "02", "--check").err


def test_an_unknown_module_is_one_line(tito, workspace):
    ran = tito("module", "start", "99")
    assert ran.status == 1
    assert ran.err == (
        "there is no module '99': the course has 01_tensor, 02_activations, 03_layers\n"
    )
    assert ran.out == ""


def test_errors_are_data_too(tito, workspace):
    ran = tito("module", "start", "99", "--json")
    assert ran.status == 1
    assert ran.data["ok"] is False
    assert ran.data["error"] in ran.err


NEEDS_THE_EXTRA = "tito needs the course extra: pip install 'tinytorch[course]'\n"


@pytest.mark.parametrize("absent", ["click", "filelock"])
def test_without_the_extra_course(absent, tmp_path, monkeypatch):
    """One line, where click isn't there, and where something is missing that a command needs."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    command = ["setup", str(tmp_path / "course")]
    code = f"""
import sys
sys.modules[{absent!r}] = None
from tito.main import main
sys.exit(main({command}))
"""
    done = in_a_fresh_process(code)
    assert (done.returncode, done.stderr) == (1, NEEDS_THE_EXTRA)


def test_a_missing_file_of_tito_itself_is_not_blamed_on_the_extra(monkeypatch):
    from tito.main import main

    monkeypatch.setitem(sys.modules, "tito.commands", None)
    with pytest.raises(ModuleNotFoundError, match=r"tito\.commands"):
        main(["--help"])

"""`tito check`: its steps in order, up to the first that fails."""

import importlib.util

import pytest

from tito.commands import check


@pytest.fixture
def steps(monkeypatch):
    """Steps of the test's own in place of the real ones."""
    own: dict = {"good": lambda course: [], "command": ["pytest", "--version"]}
    monkeypatch.setattr(check, "STEPS", own)
    return own


def test_all_steps_pass(tito, steps):
    ran = tito("check", "--json")
    assert ran.status == 0
    assert [(step["name"], step["ok"]) for step in ran.data["steps"]] == [
        ("good", True),
        ("command", True),
    ]
    assert "== good\n== command\n" in ran.err


@pytest.mark.parametrize(
    "bad", [lambda course: ["lesson_dev.py:3: no title"], ["pytest", "--no-such-option"]]
)
def test_the_first_failure_ends_it(tito, steps, bad):
    steps["bad"] = bad
    steps["never"] = lambda course: pytest.fail("a step after the failed one was run")
    ran = tito("check", "--json")
    assert ran.status == 1
    assert not ran.data["ok"]
    assert [step["name"] for step in ran.data["steps"]] == ["good", "command", "bad"]


def test_complaints_are_shown(tito, steps):
    steps["bad"] = lambda course: ["lesson_dev.py:3: no title"]
    assert "lesson_dev.py:3: no title\n" in tito("check").err


def test_long_steps_are_asked_for(tito, steps):
    steps["slow"] = lambda course: []
    assert "slow" not in tito("check").out
    assert "slow" in tito("check", "--all").out


def test_the_real_steps_exist():
    for step in check.STEPS.values():
        assert callable(step) or importlib.util.find_spec(step[0])
    assert set(check.LONG) < set(check.STEPS)


def test_only_in_a_checkout(tito, course, monkeypatch):
    monkeypatch.setattr(check, "find_course", lambda: course)
    assert tito("check").err == "tito check works in a checkout of the project\n"


def test_an_unknown_step(tito):
    ran = tito("check", "tsets")
    assert ran.status == 2
    assert "export" in ran.err

"""What an instructor reads about a class."""

import json
import math
import sys

import numpy as np
import pytest
from marked import ANSWER, CELLS, enter, give, grade_a_class, result, tito

from tito.classroom.marks import read_marks
from tito.classroom.report import discrimination, draw, item_analysis, summary
from tito.classroom.results import write_result
from tito.errors import TitoError


@pytest.fixture
def module(classroom):
    return classroom.course.module("02")


@pytest.fixture
def marks(classroom, module):
    """Four students with 90, 60, 30 and 0 points of 100, and one who couldn't be graded."""
    broken = result("eve", *(id for id, *_ in CELLS))
    broken.problem = "no notebook"
    for each in (
        result("ada"),
        result("bob", "test-softmax"),
        result("cyd", "test-softmax", "test-sigmoid"),
        result("dan", *(id for id, *_ in CELLS)),
        broken,
    ):
        write_result(classroom, module, each)
    roster = {"ada", "bob", "cyd", "dan", "eve"}
    return [mark for mark in read_marks(classroom, module) if mark.student.id in roster]


def test_the_summary_is_numpys(marks):
    found = summary(marks)
    points = [90, 60, 30, 0]
    assert found["graded"] == 4
    assert found["mean"] == np.mean(points)
    quartiles = [found[name] for name in ("lower_quartile", "median", "upper_quartile")]
    assert quartiles == list(np.quantile(points, (0.25, 0.5, 0.75)))
    assert found["histogram"] == list(np.histogram(points, bins=10, range=(0, 100))[0])


def test_full_points_are_in_the_last_bin(marks):
    marks[0].cells[-1].points = 10
    assert marks[0].percent == 100
    assert summary(marks)["histogram"][-1] == 1


@pytest.mark.parametrize("count", [0, 1])
def test_a_summary_of_few(marks, count):
    found = summary(marks[:count])
    assert found["graded"] == count
    assert found.get("upper_quartile") == (90 if count else None)


def test_an_item_says_who_passes_and_who_fails_why(marks):
    items = {item["id"]: item for item in item_analysis(marks)}
    softmax = items["test-softmax"]
    assert softmax["passed"] == 0.25
    assert softmax["fails_for"] == ["bob", "cyd", "dan"]
    assert softmax["messages"] == [
        {"message": "softmax runs over the given axis, not over all values", "count": 3}
    ]
    assert (items[ANSWER]["passed"], items[ANSWER]["waiting"]) == (None, 4)


def test_discrimination_is_the_point_biserial_correlation_with_the_rest(marks):
    """The formula of the docstring, worked by hand for softmax: rest scores 60 60 30 0."""
    item = next(item for item in item_analysis(marks) if item["id"] == "test-softmax")
    rest = np.array([60, 60, 30, 0])
    expected = (60 - 30) / rest.std() * math.sqrt(0.25 * 0.75)
    assert item["discrimination"] == pytest.approx(expected)


def test_discrimination_is_pearsons():
    random_numbers = np.random.default_rng(0)
    rest = random_numbers.normal(size=50)
    passed = rest + random_numbers.normal(size=50) > 0
    expected = np.corrcoef(passed, rest)[0, 1]
    assert discrimination(list(passed), list(rest)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "passed, rest",
    [([True] * 3, [1, 2, 3]), ([False] * 3, [1, 2, 3]), ([True, False], [5, 5]), ([True], [1])],
)
def test_discrimination_may_be_undefined(passed, rest):
    assert discrimination(passed, rest) is None


def test_an_answer_counts_once_all_are_read(classroom, module):
    results = [result("ada"), result("bob", "test-relu"), result("cyd", "test-relu")]
    for each in results:
        write_result(classroom, module, each)
    enter(classroom, module, results)

    def items():
        return {item["id"]: item for item in item_analysis(read_marks(classroom, module))}

    alone = items()["test-relu"]["discrimination"]
    assert alone is None  # the rest scores are equal
    give(classroom, module, "ada", ANSWER, 10)
    give(classroom, module, "bob", ANSWER, 4)
    assert items()["test-relu"]["discrimination"] is None
    give(classroom, module, "cyd", ANSWER, 2)
    assert items()[ANSWER]["passed"] == pytest.approx(1 / 3)
    assert items()["test-relu"]["discrimination"] > 0.9


def test_the_report_of_a_module(classroom, module, capsys):
    results = grade_a_class(classroom, module)
    ran = tito(capsys, "grade", "report", "02")
    assert ran.status == 0
    assert "Points of 29 students: mean" in ran.out
    assert "activations.ipynb is no valid JSON" in " ".join(ran.out.split())
    data = tito(capsys, "grade", "report", "02", "--json", "--sort", "points")
    report = json.loads(data.out)
    points = [row["points"] for row in report["students"]]
    assert points == sorted(points, reverse=True)
    assert sum(report["summary"]["histogram"]) == 29
    failing = sum(not cell.passed for each in results for cell in each.cells if not each.problem)
    assert sum(len(item["fails_for"]) for item in report["items"]) == failing


def test_flags_are_shown(classroom, module, capsys):
    grade_a_class(classroom, module)
    ran = tito(capsys, "grade", "report", "02", "--flags")
    assert "student-007" in ran.out and "numpy.exp was replaced" in ran.out
    assert "student-006" not in ran.out


def test_no_control_code_reaches_the_terminal(classroom, module, capsys):
    write_result(classroom, module, result("ada[red]\x1b[2J", flags=["\x1b]0;title\x07"]))
    for words in (["02"], ["02", "--flags"], []):
        ran = tito(capsys, "grade", "report", *words)
        assert r"ada[red]\x1b[2J" in ran.out
        assert "\x1b" not in ran.out and "\x07" not in ran.out


def test_the_overview_adds_the_modules_up(classroom, module, capsys):
    first = classroom.course.module("01")
    write_result(classroom, module, result("ada"))
    write_result(classroom, first, result("ada", "test-relu", module=first.folder))
    ran = tito(capsys, "grade", "report")
    row = next(line.split() for line in ran.out.splitlines() if line.split()[:1] == ["ada"])
    assert row == ["ada", "70", "90", "160", "200", "80"]
    assert next(line.split() for line in ran.out.splitlines() if "grace" in line) == [
        *("grace", "-", "-", "0", "200", "0")
    ]


def test_options_of_one_module_need_its_number(classroom, capsys):
    ran = tito(capsys, "grade", "report", "--flags")
    assert ran.status == 2
    assert "add NN" in ran.err


def test_a_result_by_another_engine(classroom, module, capsys):
    write_result(classroom, module, result("ada", "test-relu", engine="nbgrader"))
    assert tito(capsys, "grade", "report", "02").status == 1
    ran = tito(capsys, "grade", "report", "02", "--engine", "nbgrader")
    assert "mean 70.0" in ran.out


def test_the_figure_needs_no_colours(marks, module, tmp_path):
    from matplotlib.image import imread

    draw(tmp_path / "figure.png", module, marks)
    pixels = imread(tmp_path / "figure.png")[..., :3]
    assert np.ptp(pixels, axis=2).max() < 0.01  # black and white
    assert 0.5 < pixels.mean() < 0.999  # and something is drawn


def test_the_figures_bars_are_the_numbers(marks, module, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    kept = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: kept.append(self) or save(self, *a, **k)
    )
    draw(tmp_path / "figure.png", module, marks)
    [figure] = kept
    points, cells = figure.axes
    assert [bar.get_height() for bar in points.patches] == summary(marks)["histogram"]
    assert points.get_xlabel().endswith("(%)") and points.get_ylabel() == "students (count)"
    assert [bar.get_width() for bar in cells.patches] == [75, 50, 25, 75]  # the answer waits
    assert "test-relu (20)" in [label.get_text() for label in cells.get_yticklabels()]


def test_without_matplotlib(marks, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(TitoError, match=r"tinytorch\[plots\]"):
        draw(tmp_path / "figure.png", module, marks)


def test_a_figure_of_no_known_kind(marks, module, tmp_path):
    with pytest.raises(TitoError, match=r"figure\.txt: .*\.png"):
        draw(tmp_path / "figure.txt", module, marks)

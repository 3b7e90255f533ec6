"""What is graded is the master with the student's solutions, whatever else was handed in."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tito.classroom.combine import MOST_NOTES, combine
from tito.course import find_course
from tito.notebook import read_module, student_version

course = find_course()


def graded(source, name, grade=False, solution=False, **metadata):
    """A code cell that nbgrader knows."""
    grading = {"grade": grade, "grade_id": name, "solution": solution, "locked": not solution}
    return new_code_cell(source, id=name, metadata={"nbgrader": {**grading, **metadata}})


def lesson():
    """A master: an import, an exercise, its test with a hidden part, an example, an answer."""
    answer = {"grade": True, "grade_id": "why", "solution": True, "locked": False, "points": 5}
    return new_notebook(
        cells=[
            new_markdown_cell("# Relu", id="heading"),
            graded("import math", "imports"),
            graded("def relu(x): return max(x, 0)", "relu", solution=True),
            graded(
                "assert relu(-1) == 0\n### BEGIN HIDDEN TESTS\nassert relu(2) == 2\n"
                "### END HIDDEN TESTS\n",
                "test-relu",
                grade=True,
                points=10,
            ),
            new_code_cell("print(relu(3))", id="example"),
            new_markdown_cell("Because.", id="why", metadata={"nbgrader": answer}),
        ]
    )


def handed_in(**sources):
    """The notebook as the student got it, with `sources` by cell id in place (`_` for `-`)."""
    notebook = lesson()
    notebook.cells[3].source = "assert relu(-1) == 0\n"
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id == "relu":
            cell.source = "def relu(x): return 'mine'"
        cell.source = sources.get(cell.id.replace("-", "_"), cell.source)
    return notebook


def cell_of(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


def ids(combined):
    return [cell.id for cell in combined.cells]


def by_id(combined):
    return {cell.id: cell for cell in combined.cells}


def test_solutions_are_the_students_and_all_else_the_masters():
    combined = combine(lesson(), handed_in(why="It has a corner."))
    assert [(cell.id, cell.kind) for cell in combined.cells] == [
        ("imports", "given"),
        ("relu", "solution"),
        ("test-relu", "test"),
        ("example", "given"),
    ]
    assert by_id(combined)["relu"].source == "def relu(x): return 'mine'"
    assert "relu(2) == 2" in by_id(combined)["test-relu"].source
    assert combined.answers == {"why": "It has a corner."}
    assert combined.notes == []


@pytest.mark.parametrize("name", ["imports", "test-relu"])
def test_an_edited_cell_of_the_course_is_the_masters_again(name):
    combined = combine(lesson(), handed_in(**{name.replace("-", "_"): "pass"}))
    assert by_id(combined)[name].source == cell_of(lesson(), name).source
    assert combined.notes == [f"{name} was edited: the course's own is used"]


def test_spaces_at_the_ends_of_lines_are_no_edit():
    assert combine(lesson(), handed_in(test_relu="assert relu(-1) == 0  \n\n")).notes == []


def test_deleted_cells_are_told():
    submission = handed_in()
    submission.cells = submission.cells[:1]
    combined = combine(lesson(), submission)
    assert ids(combined) == ["imports", "relu", "test-relu", "example"]
    assert by_id(combined)["relu"].source == ""
    assert combined.answers == {"why": ""}
    assert combined.notes == [
        "imports was deleted: the course's own is used",
        "relu was deleted: nothing stands in its place",
        "test-relu was deleted: the course's own is used",
        "why was deleted: nothing stands in its place",
    ]


def test_a_test_that_was_never_given_out_is_not_missed():
    master = lesson()
    source = "### BEGIN HIDDEN TESTS\nassert relu(5) == 5\n### END HIDDEN TESTS"
    master.cells.append(graded(source, "test-private", grade=True, points=1))
    combined = combine(master, handed_in())
    assert by_id(combined)["test-private"].source == source
    assert combined.notes == []


def test_own_cells_run_where_they_stand():
    submission = handed_in()
    for place, source in ((6, "last = 1"), (3, "after = 1"), (2, "helper = 1"), (0, "first = 1")):
        submission.cells.insert(place, new_code_cell(source))
    submission.cells.insert(0, new_markdown_cell("my notes"))
    combined = combine(lesson(), submission)
    sources = [c.source if c.kind == "own" else c.id for c in combined.cells]
    assert sources == [
        "first = 1",
        "imports",
        "helper = 1",
        "relu",
        "after = 1",
        "test-relu",
        "example",
        "last = 1",
    ]
    assert combined.notes == []
    assert ids(combined)[0] == "own-2"  # the second cell of the submission


def test_a_changed_example_runs_before_the_masters():
    combined = combine(lesson(), handed_in(example="print(relu(4))"))
    changed, master = combined.cells[-2:]
    assert (changed.kind, changed.source) == ("own", "print(relu(4))")
    assert (master.id, master.source) == ("example", "print(relu(3))")


def test_a_copied_solution_runs_where_it_stands():
    submission = handed_in()
    submission.cells.append(graded("def relu(x): return 2", "relu", solution=True))
    combined = combine(lesson(), submission)
    assert by_id(combined)["relu"].source == "def relu(x): return 'mine'"
    assert combined.cells[-1].kind == "own"
    assert combined.notes == ["relu is there 2 times: copies run where they stand, for no points"]


def test_of_cells_with_one_name_the_first_solution_counts():
    submission = handed_in()
    text = new_markdown_cell("relu", metadata={"nbgrader": {"grade_id": "relu"}})
    fake = graded("fake = 1", "relu", grade=True, points=1000)
    submission.cells[:0] = [text, fake]
    combined = combine(lesson(), submission)
    assert by_id(combined)["relu"].source == "def relu(x): return 'mine'"
    assert (combined.cells[0].kind, combined.cells[0].source) == ("own", "fake = 1")
    assert [cell.id for cell in combined.cells if cell.kind == "test"] == ["test-relu"]


def test_a_solution_that_became_text_is_missing():
    submission = handed_in()
    submission.cells[2]["cell_type"] = "markdown"
    combined = combine(lesson(), submission)
    assert by_id(combined)["relu"].source == ""
    assert combined.notes == ["relu is no code cell any more: nothing stands in its place"]


def test_an_answer_is_read_wherever_and_whatever_it_is():
    submission = handed_in(why="mine")
    answer = submission.cells.pop()
    answer["cell_type"] = "code"
    submission.cells.insert(0, answer)
    combined = combine(lesson(), submission)
    assert combined.answers == {"why": "mine"}
    assert ids(combined) == ["imports", "relu", "test-relu", "example"]
    assert combined.notes == []
    submission.cells.append(nbformat.from_dict(answer | {"source": "second thoughts"}))
    combined = combine(lesson(), submission)
    assert combined.answers == {"why": "mine"}
    assert combined.notes == ["why is there 2 times: the first is read"]


def test_moved_cells_run_in_the_lessons_order():
    submission = handed_in()
    submission.cells.insert(0, submission.cells.pop(3))
    combined = combine(lesson(), submission)
    assert ids(combined) == ["imports", "relu", "test-relu", "example"]
    assert combined.notes == ["test-relu was moved: it runs in its place in the lesson"]


def test_cells_are_found_without_metadata_by_their_ids():
    submission = handed_in(why="mine")
    for cell in submission.cells:
        cell.metadata = {}
    combined = combine(lesson(), submission)
    assert by_id(combined)["relu"].source == "def relu(x): return 'mine'"
    assert combined.answers == {"why": "mine"}
    assert combined.notes == []


def test_cells_are_found_without_ids_by_name_and_text():
    submission = handed_in()
    for cell in submission.cells:
        del cell["id"]
    combined = combine(lesson(), submission)
    assert ids(combined) == ["imports", "relu", "test-relu", "example"]
    assert combined.notes == []


@pytest.mark.parametrize(
    ("source", "python"),
    [
        ("%matplotlib inline\nhelper = 1", "pass\nhelper = 1"),
        ("if True:\n    !ls\nrelu?", "if True:\n    pass\npass"),
        ("%%time\nhelper = 1", "pass\nhelper = 1"),
        ("%%bash\nls", ""),
    ],
)
def test_lines_for_ipython_in_own_cells_are_passed_over(source, python):
    submission = handed_in()
    submission.cells.append(new_code_cell(source))
    combined = combine(lesson(), submission)
    assert combined.cells[-1].source == python
    assert combined.notes == []


@pytest.mark.parametrize("source", ["x = (3\n % 2)", "x = (3\n != 2)", "x = '50 %'"])
def test_percent_signs_are_python_too(source):
    submission = handed_in()
    submission.cells.append(new_code_cell(source))
    assert combine(lesson(), submission).cells[-1].source == source


HOSTILE = [
    None,
    7,
    [],
    {},
    {"source": None},
    {"source": ["a", 3]},
    {"source": {"a": 1}, "metadata": None},
    {"source": "x = 1", "metadata": [], "cell_type": ["code"], "id": {}},
    {"source": "x = 1", "metadata": {"nbgrader": "relu"}, "cell_type": "code"},
    {"source": "x = 1", "metadata": {"nbgrader": {"grade_id": ["relu"]}}, "cell_type": "code"},
    {"source": ["x = ", "1"], "metadata": {"nbgrader": {"grade_id": "\x1b[31m" * 99}}},
]


def test_damaged_cells_take_nothing_from_the_others():
    submission = dict(handed_in(), cells=[*HOSTILE, *handed_in().cells, *HOSTILE])
    combined = combine(lesson(), submission)
    assert [cell.id for cell in combined.cells if cell.kind != "own"] == [
        "imports",
        "relu",
        "test-relu",
        "example",
    ]
    assert by_id(combined)["relu"].source == "def relu(x): return 'mine'"
    assert all(len(note) < 200 and note.isprintable() for note in combined.notes)
    assert "cell 1 is damaged: it is left out" in combined.notes


@pytest.mark.parametrize("submission", [None, [], {}, {"cells": None}, {"cells": {"a": 1}}])
def test_no_notebook_at_all_is_one_without_solutions(submission):
    combined = combine(lesson(), submission)
    assert ids(combined) == ["imports", "relu", "test-relu", "example"]
    assert by_id(combined)["relu"].source == ""


def test_a_flood_of_cells_hides_no_note_and_no_solution():
    flood = [graded("x = 1", f"name-{i}", grade=True) for i in range(100)] * 1000
    submission = handed_in(test_relu="pass")
    submission.cells = flood + submission.cells
    combined = combine(lesson(), submission)
    assert combined.notes[0] == "test-relu was edited: the course's own is used"
    assert len(combined.notes) == MOST_NOTES + 1
    assert by_id(combined)["relu"].source == "def relu(x): return 'mine'"
    assert len(combined.cells) == 100_004


def test_nothing_is_changed_in_what_is_given():
    master, submission = lesson(), handed_in(example="pass")
    combine(master, submission)
    assert master == lesson()
    assert submission == handed_in(example="pass")


@pytest.mark.parametrize("module", course.modules, ids=lambda module: module.folder)
def test_each_lessons_student_notebook_goes_in_without_a_note(module):
    master = read_module(module)
    combined = combine(master, nbformat.from_dict(student_version(master)))
    code = [cell for cell in master.cells if cell.cell_type == "code"]
    assert combined.notes == []
    assert ids(combined) == [cell.id for cell in code]
    assert [c.source for c in combined.cells if c.kind != "solution"] == [
        cell.source for cell in code if not cell.metadata.get("nbgrader", {}).get("solution")
    ]

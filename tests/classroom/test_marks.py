"""What counts, when the engine, a person and the roster each say something; and CSV files."""

import csv
import io
import sqlite3

import pytest
from marked import ANSWER, enter, give, result, tito

from tito.classroom.gradebook_reading import Student
from tito.classroom.marks import Mark, as_csv, lms_table, module_table, read_marks
from tito.classroom.results import write_result


@pytest.fixture
def module(classroom):
    return classroom.course.module("02")


@pytest.fixture
def graded(classroom, module):
    """Ada has all but the answer, grace fails softmax, linus handed nothing in."""
    results = [result("ada"), result("grace", "test-softmax")]
    for each in results:
        write_result(classroom, module, each)
        classroom.submission(each.student, module).parent.mkdir(parents=True)
    enter(classroom, module, results)
    return results


def marks_of(classroom, module):
    return {mark.student.id: mark for mark in read_marks(classroom, module)}


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_the_engine_gives_points_and_answers_wait(classroom, module, graded):
    marks = marks_of(classroom, module)
    assert [(mark.points, mark.waiting) for mark in marks.values()] == [(90, 1), (60, 1), (0, 0)]
    assert marks["ada"].student.name == "Lovelace, Ada"
    assert marks["linus"].problem == "nothing handed in"
    assert marks["linus"].possible == 100


def test_a_persons_points_count_in_place_of_the_engines(classroom, module, graded):
    give(classroom, module, "ada", ANSWER, 7, "right, but which slope?")
    give(classroom, module, "grace", "test-softmax", 12)
    marks = marks_of(classroom, module)
    assert (marks["ada"].points, marks["ada"].waiting) == (97, 0)
    assert marks["ada"].cells[-1].comment == "right, but which slope?"
    assert marks["grace"].points == 72


def test_comments_on_cells_without_points(classroom, module, graded):
    """A person's are kept; that nothing was written, nbgrader says of each solution cell."""
    from nbgrader.api import Comment, Gradebook

    with Gradebook(classroom.gradebook) as book:
        names = module.name, module.folder
        for cell in ("relu", "gelu"):
            added = book.update_or_create_solution_cell(cell, *names)
            for notebook in book.notebook_submissions(*names):
                notebook.comments.append(Comment(cell_id=added.id, auto_comment="No response."))
        book.db.commit()
        book.find_comment("relu", *names, "ada").manual_comment = "elegant"
        book.db.commit()
    marks = marks_of(classroom, module)
    assert marks["ada"].comments == {"relu": "elegant"}
    assert marks["grace"].comments == {}


def test_extra_credit_and_a_penalty_count(classroom, module, graded):
    from nbgrader.api import Gradebook

    with Gradebook(classroom.gradebook) as book:
        names = module.name, module.folder, "ada"
        book.find_grade("test-relu", *names).extra_credit = 3
        book.find_submission_notebook(*names).late_submission_penalty = 10
        book.db.commit()
    assert marks_of(classroom, module)["ada"].points == 90 + 3 - 10


def test_a_penalty_takes_no_more_than_there_is(classroom, module, graded):
    from nbgrader.api import Gradebook

    with Gradebook(classroom.gradebook) as book:
        notebook = book.find_submission_notebook(module.name, module.folder, "ada")
        notebook.late_submission_penalty = 1000
        book.db.commit()
    assert marks_of(classroom, module)["ada"].points == 0


def test_who_was_graded_by_nbgrader_alone_has_points_too(classroom, module, graded):
    for path in classroom.results(module).iterdir():
        path.unlink()
    marks = marks_of(classroom, module)
    assert [mark.points for mark in marks.values()] == [90, 60, 0]
    assert marks["grace"].result.engine == "gradebook"
    assert [cell.result.id for cell in marks["grace"].cells if not cell.passed] == [
        "test-softmax",
        ANSWER,
    ]


def test_one_engines_grades_are_not_anothers(classroom, module, graded):
    """The fast engine's grades are in the gradebook: nbgrader's has none all the same."""
    assert {mark.result for mark in read_marks(classroom, module, "nbgrader")} == {None}


def test_no_gradebook_is_made_by_looking(classroom, module, graded):
    gradebook = classroom.root / "gradebook.db"
    gradebook.unlink()
    assert set(marks_of(classroom, module)) == {"ada", "grace"}
    assert not gradebook.exists()


def test_csv_has_a_row_a_student_and_module(classroom, module, graded, tmp_path, capsys):
    graded[1].flags = ["relu was edited", "slow"]
    write_result(classroom, module, graded[1])
    file = tmp_path / "marks.csv"
    ran = tito(capsys, "grade", "export", "02", "--format", "csv", "--to", str(file))
    assert ran.status == 0
    ada, grace, linus = rows_of(file)
    assert grace == {
        "student": "grace",
        "module": "02_activations",
        "points": "60",
        "possible": "100",
        "percent": "60.0",
        "by hand": "1",
        "flags": "relu was edited; slow",
        "graded": "2026-11-22 14:05:09",
        "engine": "fast",
        "policy": "reference",
    }
    assert (ada["points"], ada["flags"]) == ("90", "")
    assert (linus["points"], linus["graded"]) == ("0", "nothing handed in")
    assert "2 written answers wait for a person" in ran.out


def test_lms_has_a_column_a_module(classroom, module, graded, tmp_path, capsys):
    first = classroom.course.module("01")
    write_result(classroom, first, result("ada", "test-relu", module=first.folder))
    classroom.submission("grace", first).parent.mkdir(parents=True)
    file = tmp_path / "lms.csv"
    words = ("grade", "export", "--format", "lms", "--to", str(file))
    assert tito(capsys, *words, "--unit", "points").status == 0
    ada, grace, linus = rows_of(file)
    assert list(ada) == [
        *("Student", "ID", "SIS Login ID", "Section"),
        *("01_tensor", "02_activations"),
    ]
    assert (ada["Student"], ada["SIS Login ID"]) == ("Lovelace, Ada", "ada")
    assert (ada["01_tensor"], ada["02_activations"]) == ("70", "90")
    assert grace["01_tensor"] == ""  # handed in, not graded: the LMS keeps what it has
    assert (linus["01_tensor"], linus["02_activations"]) == ("0", "0")
    assert tito(capsys, *words, "--force").status == 0
    assert rows_of(file)[0]["02_activations"] == "90.00"


def test_an_existing_file_is_kept(classroom, graded, tmp_path, capsys):
    file = tmp_path / "marks.csv"
    file.write_text("precious")
    words = ("grade", "export", "02", "--format", "csv", "--to", str(file))
    ran = tito(capsys, *words)
    assert (ran.status, file.read_text()) == (1, "precious")
    assert "--force" in ran.err
    assert tito(capsys, *words, "--force").status == 0
    assert file.read_text().startswith("student,module")


@pytest.mark.parametrize("begin", "=+-@\t\r")
def test_no_name_is_a_formula(begin):
    student = Student(f'{begin}cmd|" /C calc"!A0', "Ada", f"{begin}1+1")
    mark = Mark(student, "02_activations", result(student.id, flags=[f"{begin}HYPERLINK(1)"]))
    tables = [module_table([mark]), lms_table({"02_activations": [mark]}, "points")]
    for table in tables:
        for row in list(csv.reader(io.StringIO(as_csv(table), newline="")))[1:]:
            assert not any(text.startswith(begin) for text in row)
        assert begin in "".join(table[1])


def test_text_that_utf8_cannot_hold_is_written_in_letters():
    mark = Mark(Student("ada\udcff"), "02_activations", result("ada\udcff"))
    assert as_csv(module_table([mark])).encode().startswith(b"student,")
    assert module_table([mark])[1][0] == r"ada\udcff"


def test_nothing_graded_is_one_line(classroom, tmp_path, capsys):
    ran = tito(capsys, "grade", "export", "--format", "csv", "--to", str(tmp_path / "m.csv"))
    assert (ran.status, ran.err) == (
        1,
        "the fast engine graded nothing yet: run tito grade autograde 01\n",
    )
    ran = tito(capsys, "grade", "export", "02", "--format", "csv", "--to", str(tmp_path / "m.csv"))
    assert "02_activations: the fast engine graded nobody" in ran.err


def test_reading_waits_for_nobody_who_writes(classroom, module, graded):
    """A grader that is at work holds the gradebook's lock; the marks so far can be read."""
    writer = sqlite3.connect(classroom.root / "gradebook.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    before = (classroom.root / "gradebook.db").read_bytes()
    assert marks_of(classroom, module)["ada"].points == 90
    assert (classroom.root / "gradebook.db").read_bytes() == before
    writer.close()


def test_a_damaged_gradebook_is_one_line(classroom, module, graded, capsys):
    (classroom.root / "gradebook.db").write_text("no database")
    ran = tito(capsys, "grade", "report", "02")
    assert ran.status == 1
    assert "the gradebook, gradebook.db, can't be read: " in ran.err
    assert len(ran.err.splitlines()) == 1

"""`tito grade init`, `release` and `collect`: what goes out to students, and what comes in."""

import json
import os
import shutil
import zipfile

import pytest
from submissions import hand_in, solution, stub

from tito.classroom.collect import collect
from tito.classroom.creation import add_students, make_classroom
from tito.classroom.nbgrader_app import open_gradebook
from tito.classroom.source import master, refresh, release
from tito.course import find_course
from tito.errors import TitoError
from tito.main import main
from tito.notebook import grade_id, graded_cells, read_module, read_notebook, write_notebook

COURSE = find_course()
PRIVATE = """\
# notes of the author

# %% test-relu
check(relu(Tensor([-3.5])), [0.0], "the private hint")

# %% nbgrader={"grade": true, "grade_id": "test-own", "points": 5}
check(relu(Tensor([7.0])), [7.0], "another private hint")
"""


@pytest.fixture
def tito(capsys):
    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        return end.value.code, capsys.readouterr()

    return run


@pytest.fixture
def relu_module(classroom):
    return classroom.course.module("02")


def cell(notebook, name):
    return next(each for each in notebook.cells if grade_id(each) == name)


# --- init ---


def test_init_makes_what_nbgrader_needs(classroom):
    notebook = read_notebook(classroom.source(COURSE.module("02")))
    assert sum(cell.metadata.nbgrader.points for cell in graded_cells(notebook)) == 100
    for each in graded_cells(notebook):
        assert each.metadata.nbgrader.schema_version == 3
        assert each.metadata.nbgrader.locked is not each.metadata.nbgrader.solution
    written = [each for each in graded_cells(notebook) if each.cell_type == "markdown"]
    assert written and all(each.metadata.nbgrader.solution for each in written)
    with open_gradebook(classroom) as gradebook:
        assert {student.id for student in gradebook.students} == {"ada", "grace", "linus"}
        assert gradebook.find_student("ada").email == "ada@example.org"


def test_init_again_completes_and_overwrites_nothing(classroom):
    config = classroom.root / "nbgrader_config.py"
    config.write_text(config.read_text() + "# mine\n")
    gone = classroom.source(COURSE.module("01"))
    gone.unlink()
    _, made = make_classroom(classroom.root, COURSE, modules=COURSE.modules[:2])
    assert made == ["source/01_tensor/tensor.ipynb"]
    assert config.read_text().endswith("# mine\n")


def test_init_keeps_out_of_other_folders(tmp_path, classroom):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(TitoError, match=r"holds other things \(thesis.tex"):
        make_classroom(tmp_path / "home", COURSE)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.tex"]
    with pytest.raises(TitoError, match="letters, digits"):
        make_classroom(tmp_path / "new", COURSE, name="a course")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ada,Ada\n", "must name the columns: id,first_name"),
        ("id,email\n../../etc,x@example.org\n", "line 2: '../../etc' is no student's id"),
        (b"id\n\xff\n", "no CSV in UTF-8"),
    ],
)
def test_a_bad_list_of_students_enrols_nobody(classroom, tmp_path, text, reason):
    file = tmp_path / "students.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TitoError, match=reason):
        add_students(classroom, file)
    with open_gradebook(classroom) as gradebook:
        assert len(gradebook.students) == 3


def test_a_broken_config_is_one_line(classroom):
    (classroom.root / "nbgrader_config.py").write_text("c = get_config(\n")
    with pytest.raises(TitoError, match=r"can't be read .*: correct it"), open_gradebook(classroom):
        pass


# --- the master and private tests ---


def test_private_tests_extend_and_add(classroom, relu_module):
    classroom.private(relu_module).write_text(PRIVATE)
    lesson, notebook = read_module(relu_module), master(classroom, relu_module)
    extended = cell(notebook, "test-relu").source
    assert extended.startswith(cell(lesson, "test-relu").source)
    assert extended.endswith(
        '\n\n### BEGIN HIDDEN TESTS\ncheck(relu(Tensor([-3.5])), [0.0], "the private hint")\n'
        "### END HIDDEN TESTS"
    )
    new = notebook.cells[-1]
    assert new.metadata.nbgrader == {
        "grade": True,
        "grade_id": "test-own",
        "points": 5,
        "locked": True,
        "solution": False,
        "task": False,
        "schema_version": 3,
    }
    assert len(notebook.cells) == len(lesson.cells) + 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# %% test-rleu\ncheck(1, 1, '')\n", "no test test-rleu; it has test-relu, test-slope"),
        ("# %% test-relu\n\ncheck(1\n", "private/02.py, line 3: '\\(' was never closed"),
        ("# %%\ncheck(1, 1, '')\n", "names no test"),
        ("# %% test-relu\nx = 1\n# %% test-relu\nx = 1\n", "there is a cell test-relu already"),
        ('# %% nbgrader={"grade_id": "relu", "points": 1}\nx = 1\n', "is a cell relu already"),
        ('# %% nbgrader={"grade_id": "new"}\nx = 1\n', "new: say what it is worth"),
        ("# %% test-relu\n### END HIDDEN TESTS\nx = 1\n", "drop the HIDDEN TESTS markers"),
    ],
)
def test_a_mistake_in_private_tests_is_named(classroom, relu_module, text, reason):
    classroom.private(relu_module).write_text(text)
    before = classroom.source(relu_module).read_bytes()
    with pytest.raises(TitoError, match=reason):
        refresh(classroom, relu_module)
    assert classroom.source(relu_module).read_bytes() == before


def test_refresh_follows_changes_and_spares_edits(classroom, relu_module):
    path = classroom.source(relu_module)
    before = path.read_bytes()
    assert not refresh(classroom, relu_module).changed
    assert path.read_bytes() == before

    classroom.private(relu_module).write_text(PRIVATE)
    assert refresh(classroom, relu_module).changed
    assert "the private hint" in path.read_text()

    notebook = read_notebook(path)
    cell(notebook, "test-relu").source += "\n# mine"
    write_notebook(path, notebook)
    assert refresh(classroom, relu_module).note == ""  # nothing else changed
    classroom.private(relu_module).unlink()
    refreshed = refresh(classroom, relu_module)
    assert "edited by hand" in refreshed.note and not refreshed.changed
    assert "# mine" in path.read_text() and "the private hint" in path.read_text()


# --- release ---


def secrets(notebook):
    """Lines that students must not see: of solutions and hidden tests, nowhere else given."""
    shown, hidden = set(), set()
    for each in notebook.cells:
        solving = each.metadata.get("nbgrader", {}).get("solution")
        inside = solving and "BEGIN SOLUTION" not in each.source
        for line in map(str.strip, each.source.split("\n")):
            if "BEGIN SOLUTION" in line or "BEGIN HIDDEN TESTS" in line:
                inside = True
            elif "END SOLUTION" in line or "END HIDDEN TESTS" in line:
                inside = False
            elif len(line) > 12:
                (hidden if inside else shown).add(line)
    return hidden - shown


@pytest.mark.slow
def test_nothing_hidden_is_released(tmp_path, monkeypatch):
    """Every module, with private tests of its own."""
    classroom, _ = make_classroom(tmp_path / "class", COURSE, modules=[])
    for module in COURSE.modules:
        test = next(c for c in graded_cells(read_module(module)) if c.cell_type == "code")
        classroom.private(module).write_text(
            f"# %% {grade_id(test)}\nassert 'a private line of {module.name}'\n"
            '# %% nbgrader={"grade_id": "test-own", "points": 5}\nassert "another private line"\n'
        )
        refresh(classroom, module)
        release(classroom, module)
        hidden = secrets(read_notebook(classroom.source(module)))
        assert len(hidden) > 20 and any("another private line" in line for line in hidden)
        cells = read_notebook(classroom.release(module)).cells
        assert not hidden & {line.strip() for c in cells for line in c.source.split("\n")}
        text = classroom.release(module).read_text()
        assert "HIDDEN TESTS" not in text and "BEGIN SOLUTION" not in text
        assert "private line" not in text
        kernel = read_notebook(classroom.release(module)).metadata.kernelspec
        assert kernel.name == "tinytorch"


def test_release_tells_the_gradebook(classroom, tito):
    status, said = tito("grade", "release", "02")
    assert status == 0, said.err
    assert "10 tests and 4 written answers, 100 points" in said.out
    with open_gradebook(classroom) as gradebook:
        notebook = gradebook.find_notebook("activations", "02_activations")
        assert notebook.max_score == 100


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's own
def test_a_new_private_test_reaches_the_gradebook(classroom, relu_module):
    """Even after students handed in, when nbgrader itself refuses new cells."""
    release(classroom, relu_module)
    with open_gradebook(classroom) as gradebook:
        gradebook.add_submission("02_activations", "ada")
    classroom.private(relu_module).write_text(PRIVATE)
    refresh(classroom, relu_module)
    with open_gradebook(classroom) as gradebook:
        source = gradebook.find_source_cell("test-own", "activations", "02_activations")
        assert "another private hint" in source.source
        grade = gradebook.find_grade("test-own", "activations", "02_activations", "ada")
        assert grade.max_score == 5
    assert "private hint" not in classroom.release(relu_module).read_text()

    classroom.private(relu_module).unlink()
    with pytest.raises(TitoError, match="no cell test-own any more"):
        refresh(classroom, relu_module)


def test_an_error_of_nbgraders_is_one_line(classroom, relu_module):
    notebook = read_notebook(classroom.source(relu_module))
    cell(notebook, "relu").metadata.nbgrader.solution = False
    write_notebook(classroom.source(relu_module), notebook)
    with pytest.raises(TitoError, match=r"02_activations: RuntimeError: Solution region detected"):
        release(classroom, relu_module)


# --- collect ---


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def put(path, notebook, stamp=""):
    write_notebook(path, notebook)
    if stamp:
        (path.parent / "timestamp.txt").write_text(stamp)


def package(student, notebook, exports=None, submitted="2026-11-20T12:00:00+00:00"):
    from nbformat import writes

    from tito.classroom.submit import Submission

    content = writes(notebook).encode()
    return Submission(student, "02_activations", content, exports or {}, submitted, "0.1.0")


def test_collect_takes_packages_and_keeps_what_was_there(classroom, relu_module, inbox):
    from tito.classroom.submit import hand_in as send

    exports = {"tinytorch/core/tensor.py": b"# mine\n"}
    send(package("ada", stub(relu_module), exports), inbox)
    send(package("grace", stub(relu_module)), inbox, as_zip=False)
    collected = collect(classroom, inbox)
    assert collected.new == ["ada 02_activations", "grace 02_activations"]
    assert not collected.refused
    place = classroom.submission("ada", relu_module).parent
    assert classroom.own_package("ada", relu_module).joinpath("core/tensor.py").is_file()
    assert (place / "timestamp.txt").read_text() == "2026-11-20 12:00:00.000000 UTC\n"
    assert json.loads((place / "receipt.json").read_text())["student"] == "ada"

    collected = collect(classroom, inbox)
    assert collected.unchanged == ["ada 02_activations", "grace 02_activations"]
    assert not collected.new + collected.updated

    first = classroom.submission("ada", relu_module).read_bytes()
    later = package("ada", solution(relu_module), exports, "2026-11-21T12:00:00+00:00")
    send(later, inbox)
    collected = collect(classroom, inbox)
    assert collected.updated == ["ada 02_activations"]
    assert classroom.submission("ada", relu_module).read_bytes() == later.notebook
    [kept] = (classroom.root / "submitted_old" / "ada").glob("02_activations_*")
    assert (kept / "activations.ipynb").read_bytes() == first


def test_collect_understands_nbgraders_layouts(classroom, relu_module, inbox):
    stamp = "2026-11-19 08:30:00.123456 UTC"
    put(
        inbox / "inbound" / f"ada+02_activations+{stamp}+x7" / "activations.ipynb",
        stub(relu_module),
    )
    put(inbox / "grace" / "02_activations" / "activations.ipynb", stub(relu_module), stamp)
    collected = collect(classroom, inbox)
    assert collected.new == ["ada 02_activations", "grace 02_activations"]
    for student in ("ada", "grace"):
        place = classroom.submission(student, relu_module).parent
        assert (place / "timestamp.txt").read_text().strip() == stamp


def test_collect_takes_the_newest(classroom, relu_module, inbox):
    for day, notebook in [(18, stub(relu_module)), (20, solution(relu_module))]:
        name = f"ada+02_activations+2026-11-{day} 08:30:00 UTC"
        put(inbox / name / "activations.ipynb", notebook)
    assert collect(classroom, inbox).new == ["ada 02_activations"]
    newest = classroom.submission("ada", relu_module).read_bytes()
    assert read_notebook(classroom.submission("ada", relu_module)) == solution(relu_module)
    shutil.rmtree(inbox / "ada+02_activations+2026-11-20 08:30:00 UTC")
    assert collect(classroom, inbox).unchanged == ["ada 02_activations"]
    assert classroom.submission("ada", relu_module).read_bytes() == newest


def test_collect_reads_downloads_by_a_pattern(classroom, relu_module, inbox):
    put(inbox / "ada_4711_late_activations.ipynb", stub(relu_module))
    put(inbox / "work.ipynb", stub(relu_module))
    with zipfile.ZipFile(inbox / "grace_4712_02_activations.zip", "w") as archive:
        archive.write(inbox / "work.ipynb", "Grace's work/activations.ipynb")
    pattern = r"^(?P<student>[a-z]+)_\d+_(?:late_)?(?P<module>\w+?)\.(?:zip|ipynb)$"
    collected = collect(classroom, inbox, pattern)
    assert collected.new == ["ada 02_activations", "grace 02_activations"]
    assert not collected.refused
    with pytest.raises(TitoError, match="no regular expression"):
        collect(classroom, inbox, "(")
    with pytest.raises(TitoError, match="must have a group"):
        collect(classroom, inbox, "(?P<who>.*)")
    (inbox / "empty").mkdir()
    with pytest.raises(TitoError, match=r"nothing in .* looks like a submission"):
        collect(classroom, inbox / "empty")


def zip_with(path, name, content=b"x", mode=0o644 << 16):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode
        archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


def test_collect_refuses_tricks_and_takes_the_rest(classroom, relu_module, inbox):
    zip_with(inbox / "up.zip", "../../gradebook.db")
    zip_with(inbox / "root.zip", "/etc/passwd")
    zip_with(inbox / "link.zip", "02_activations/activations.ipynb", b"/etc/passwd", 0o120777 << 16)
    zip_with(inbox / "large.zip", "activations.ipynb", bytes(60_000_000))
    (inbox / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    put(inbox / "mallory" / "02_activations" / "activations.ipynb", stub(relu_module))
    os.symlink(classroom.root / "gradebook.db", inbox / "mallory" / "02_activations" / "db")
    put(inbox / "eve" / "99_future" / "future.ipynb", stub(relu_module))
    put(inbox / "ada" / "02_activations" / "activations.ipynb", stub(relu_module))
    before = (classroom.root / "gradebook.db").read_bytes()
    collected = collect(classroom, inbox)
    assert collected.new == ["ada 02_activations"]
    reasons = {
        "up.zip": "../../gradebook.db in it leads out",
        "root.zip": "/etc/passwd in it leads out",
        "link.zip": "activations.ipynb in it is a link",
        "large.zip": "60 MB",
        "broken.zip": "can't be read",
        "mallory/02_activations": "db in it is a link",
        "eve/99_future": "no module '99_future'",
    }
    assert set(collected.refused) == set(reasons)
    for place, reason in reasons.items():
        assert reason in collected.refused[place]
    assert (classroom.root / "gradebook.db").read_bytes() == before
    assert [path.name for path in (classroom.root / "submitted").iterdir()] == ["ada"]


def test_a_receipt_of_someone_else_is_refused(classroom, relu_module, inbox):
    """Where the place says who handed in, a receipt inside can't say otherwise."""
    from tito.classroom.submit import hand_in as send

    path, _ = send(package("ada", stub(relu_module)), inbox, as_zip=False)
    (inbox / "mallory").mkdir()
    (path / "02_activations").rename(inbox / "mallory" / "02_activations")
    path.rmdir()
    collected = collect(classroom, inbox)
    assert collected.refused == {
        "mallory/02_activations": "it comes from mallory, but its receipt names ada"
    }


def test_the_command_says_who_is_new_and_who_is_a_stranger(classroom, relu_module, inbox, tito):
    put(inbox / "ada" / "02_activations" / "activations.ipynb", stub(relu_module))
    put(inbox / "bob" / "02_activations" / "activations.ipynb", stub(relu_module))
    status, said = tito("grade", "collect", "--from", str(inbox))
    assert status == 0, said.err
    assert "new 02_activations: 2 (ada, bob)" in said.out
    assert "not enrolled, but taken: bob" in said.out


def test_students_are_found(classroom, relu_module):
    for student in ("grace", "ada"):
        hand_in(classroom, student, relu_module, stub(relu_module))
    assert classroom.students(relu_module) == ["ada", "grace"]
    assert classroom.students(relu_module, "a*") == ["ada"]

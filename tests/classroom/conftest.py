"""A course folder with modules 01 and 02, and three students: ada, grace and linus."""

import shutil
from pathlib import Path

import pytest

from tito.classroom.creation import add_students, make_classroom
from tito.classroom.folder import Classroom
from tito.course import find_course

STUDENTS = """\
id,first_name,last_name,email
ada,Ada,Lovelace,ada@example.org
grace,Grace,Hopper,grace@example.org
linus,Linus,Pauling,linus@example.org
"""


@pytest.fixture(scope="session")
def classroom_template(tmp_path_factory) -> Path:
    """The course folder that tests copy."""
    root = tmp_path_factory.mktemp("template") / "class"
    course = find_course()
    classroom, _ = make_classroom(root, course, modules=course.modules[:2])
    students = root.parent / "students.csv"
    students.write_text(STUDENTS, encoding="utf-8")
    add_students(classroom, students)
    return root


@pytest.fixture
def classroom(classroom_template, tmp_path, monkeypatch) -> Classroom:
    """A new course folder, which is the current one too; Jupyter's folders are temporary."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    root = shutil.copytree(classroom_template, tmp_path / "class")
    monkeypatch.chdir(root)
    return Classroom(root, find_course())

"""`tito export`: lessons become the package, or nothing changes."""

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from lessons import TENSOR, two_lessons, write_course

from tito.course import Course, find_course
from tito.export import (
    ExportError,
    check_export,
    export,
    export_text,
    fill_package,
)
from tito.notebook import read_module, student_version

ROOT = Path(__file__).parents[2]


@pytest.fixture
def course(tmp_path) -> Course:
    return two_lessons(tmp_path / "course")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_exported_file_is_the_lesson_without_what_only_students_need(course):
    export(course)
    text = (course.package / "core" / "activations.py").read_text()
    assert text.startswith('"""Functions that bend straight lines."""\n')
    assert "File to edit: modules/02_activations/activations_dev.py." in text
    assert "# %% modules/02_activations/activations_dev.py #relu\ndef relu(" in text
    assert '__all__ = ["LIMIT", "LeakyReLU", "ReLU", "Slope", "relu"]' in text
    assert "from tinytorch.core.tensor import (" in text
    assert not re.search(r"SOLUTION|test_relu|print|#\|", text)


def test_exported_package_is_clean_for_the_linter_and_the_formatter(course):
    export(course)
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml")]
        done = subprocess.run([*ruff, str(course.package)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_export_is_the_same_to_the_byte_in_every_place(course, tmp_path, monkeypatch):
    export(course)
    shutil.copytree(course.root / "modules", tmp_path / "elsewhere" / "modules")
    other = Course(tmp_path / "elsewhere", tmp_path / "elsewhere" / "tinytorch")
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "settings.ini").write_text("[DEFAULT]\nlib_name = other\n")
    monkeypatch.chdir(tmp_path / "cwd")  # nbdev would read, and refuse, these settings
    export(other)
    assert snapshot(other.package) == snapshot(course.package)
    assert export(course) == []


def test_exporting_one_module_leaves_the_others(course):
    export(course)
    edited = course.package / "core" / "tensor.py"
    edited.write_text(edited.read_text() + "# edited\n")
    assert export(course, [course.module("02")]) == []
    assert edited.read_text().endswith("# edited\n")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            "return Tensor(max(v, 0.0) for v in x.data)",
            "return Tensor(max(v, 0.0)",
            r"02_activations, cell relu, line 5: .*: return Tensor\(max\(v, 0\.0\)",
        ),
        ("LIMIT = 3.0", "return 3.0", "02_activations, cell relu-layer, line 17: .*return"),
        ("#| export\n", "", "02_activations: no cell .* begins with `#| export`"),
    ],
)
def test_a_broken_lesson_names_the_place_and_changes_nothing(course, right, wrong, message):
    export(course)
    before = snapshot(course.package)
    source = course.module("02").source
    source.write_text(source.read_text().replace(right, wrong))
    with pytest.raises(ExportError, match=message) as raised:
        export(course)
    assert "\n" not in str(raised.value)
    assert snapshot(course.package) == before


def test_two_modules_can_not_share_a_name(tmp_path):
    course = write_course(
        tmp_path,
        m01_tensor=TENSOR,
        m02_box=TENSOR.replace("core.tensor", "core.box"),
    )
    with pytest.raises(ExportError, match="01_tensor and 02_box both export Tensor"):
        export(course)
    assert not course.package.exists()


@pytest.mark.parametrize(
    ("name", "where"),
    [("nn", "tinytorch/nn"), ("core", "tinytorch/core"), ("tensor", "tinytorch/core/tensor")],
)
def test_a_name_can_not_hide_a_package_or_file(tmp_path, name, where):
    text = TENSOR.replace("class Tensor:", f"class {name}:")
    with pytest.raises(ExportError, match=f"01_tensor exports {name}, .* {where}: rename it"):
        export(write_course(tmp_path, m01_tensor=text))


def test_check_finds_stale_missing_and_orphan_files(course):
    export(course)
    assert check_export(course) == {}
    package = course.package
    (package / "core" / "tensor.py").write_text("edited by hand\n")
    (package / "core" / "activations.py").unlink()
    (package / "core" / "orphan.py").touch()
    (package / "data").mkdir()
    (package / "data" / "digits.npz").touch()  # data files belong to no module
    (package / "py.typed").touch()
    differences = check_export(course)
    assert set(differences) == {"core/tensor.py", "core/activations.py", "core/orphan.py"}
    assert "-edited by hand\n" in differences["core/tensor.py"]
    assert "+class Tensor:\n" in differences["core/tensor.py"]
    assert "missing" in differences["core/activations.py"]
    assert "no module" in differences["core/orphan.py"]


def test_the_committed_package_is_fresh():
    assert check_export(find_course()) == {}


def test_a_students_notebook_becomes_a_package_file(course):
    module = course.module("02")
    notebook = student_version(read_module(module))
    name = "modules/02_activations/activations.ipynb"

    def exported(source):
        student = nbformat.from_dict(notebook)
        [relu] = [cell for cell in student.cells if cell.id == "relu"]
        relu.source = relu.source.replace("raise NotImplementedError()", source)
        relu.outputs = [nbformat.v4.new_output("stream", text="kept out of the file")]
        return export_text(module, student, name)

    stub = exported("raise NotImplementedError()")
    assert "raise NotImplementedError()" in stub and "YOUR CODE HERE" not in stub
    text = exported("return x  # mine")
    assert f"# %% {name} #relu\ndef relu" in text and "    return x  # mine\n" in text
    assert text.replace("return x  # mine", "raise NotImplementedError()") == stub
    with pytest.raises(ExportError, match=r"activations, cell relu, line 5: '\(' was never closed"):
        exported("return (x")


@pytest.mark.parametrize("directive", ["#| export core.more", "#| exports", "#| exportd"])
def test_what_nbdev_would_export_elsewhere_is_refused(course, directive):
    module = course.module("02")
    notebook = read_module(module)
    [relu] = [cell for cell in notebook.cells if cell.id == "relu"]
    relu.source = relu.source.replace("#| export", directive)
    with pytest.raises(ExportError, match=r"cell relu: write `#\| export` alone, not '#\| export"):
        export_text(module, notebook)
    relu.source = relu.source.replace(directive, "#| hide\n#| export")
    assert "def relu" in export_text(module, notebook)


def test_a_partial_package_offers_in_its_stubs_what_it_holds(course, tmp_path):
    export(course)
    package = tmp_path / "tinytorch"
    fill_package(course, package, [course.module("01")])
    assert "Tensor" in (package / "__init__.pyi").read_text()
    assert "relu" not in (package / "__init__.pyi").read_text()
    assert (package / "_index.py").read_bytes() == (course.package / "_index.py").read_bytes()
    shutil.copy(course.package / "core" / "activations.py", package / "core")
    fill_package(course, package, [])
    assert "relu" in (package / "__init__.pyi").read_text()


def test_both_configurations_of_nbdev_are_equal():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["nbdev"]
    as_text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in pyproject.items()}
    settings = {
        k: {"True": "true", "False": "false"}.get(v, v) for k, v in parser.defaults().items()
    }
    assert settings == as_text

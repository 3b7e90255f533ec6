"""The first cell of a lesson says whose files are imported."""

import subprocess
import sys

from tito.course import find_course
from tito.export import fill_package

ASK = "from tito.whose import whose_tinytorch; whose_tinytorch()"


def asked_in(folder):
    """What the cell prints where `folder` holds the package."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); {ASK}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_files_are_listed_by_who_wrote_them(tmp_path):
    course = find_course()
    package = tmp_path / "tinytorch"
    fill_package(course, package, course.modules[:2])
    own = package / course.modules[0].file
    text = own.read_text().replace("tensor_dev.py", "tensor.ipynb")
    own.write_text(text)
    first, *lines = asked_in(tmp_path)
    assert first == f"tinytorch: {package}"
    assert lines == ["yours: core/tensor.py", "reference: core/activations.py"]


def test_an_empty_package_says_so(tmp_path):
    fill_package(find_course(), tmp_path / "tinytorch", [])
    assert "nothing is in it yet" in asked_in(tmp_path)[1]

"""The wheel alone is enough: a student's first hour, in a fresh environment and an empty folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tito.course import find_course
from tito.milestones import find_milestones
from tito.notebook import grade_id, read_module, read_notebook, write_notebook

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A virtual environment with the wheel in it; its dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    [wheel] = folder.glob("tinytorch-*.whl")
    root = folder / "environment"
    venv.create(root, with_pip=True)
    # a path file makes the packages visible, but not the checkout that they hold a link to
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(root)}))
    shared = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "dependencies.pth").write_text("\n".join(shared), encoding="utf-8")
    run(root, "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    return root


def run(root: Path, *words: str, folder: Path | None = None) -> str:
    """What a program of the environment prints."""
    scripts = root / ("Scripts" if os.name == "nt" else "bin")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(scripts / words[0]), *words[1:]],
        cwd=folder or root,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_students_first_hour(environment, tmp_path, monkeypatch):
    from jupyter_client.manager import start_new_kernel

    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    run(environment, "tito", "setup", "my-course", folder=tmp_path)
    place = tmp_path / "my-course"

    def tito(*words: str) -> dict:
        return json.loads(run(environment, "tito", *words, "--json", folder=place))

    checks = {check["name"]: check["found"] for check in tito("doctor")["checks"]}
    assert str(environment) in checks["course"]

    start = tito("module", "start", "01")
    path = place / start["notebook"]
    notebook = read_notebook(path)
    solutions = {
        grade_id(cell): cell.source for cell in read_module(find_course().module("01")).cells
    }
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = solutions[grade_id(cell)]
    write_notebook(path, notebook)

    trial = tito("module", "test", "01")
    assert trial["ok"]
    assert trial["points"] == trial["possible"] > 0
    assert len(trial["suite"]) > 10, "the suite travels with the wheel"
    assert tito("module", "complete", "01")["file"] == "tinytorch/core/tensor.py"
    assert tito("module", "start", "02")["package"] == [{"module": "01_tensor", "state": "yours"}]

    manager, client = start_new_kernel(
        kernel_name="tinytorch", cwd=str(place / "modules" / "02_activations")
    )
    printed: list[str] = []
    try:
        client.execute_interactive(
            "import tinytorch\n"
            "print(tinytorch.core.tensor.__file__)\n"
            "print((tinytorch.Tensor([1.0, 2.0]) * 3).numpy().tolist())\n"
            "try: tinytorch.relu\n"
            "except AttributeError as error: print(error)\n",
            timeout=120,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(printed).splitlines() == [
        str(place / "tinytorch" / "core" / "tensor.py"),
        "[3.0, 6.0]",
        "tinytorch.relu comes with module 02_activations: tito module start 02",
    ]


def test_in_a_wheel_there_is_nothing_to_export(environment):
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    done = subprocess.run([str(scripts / "tito"), "export"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "works in a checkout of the project" in done.stderr


def test_the_milestones_travel_with_it(environment, tmp_path):
    listed = json.loads(run(environment, "tito", "milestone", "list", "--json", folder=tmp_path))
    folders = [milestone.folder for milestone in find_milestones(find_course())]
    assert [row["milestone"] for row in listed["milestones"]] == folders
    printed = run(environment, "tito", "milestone", "run", "01", folder=tmp_path)
    assert str(environment) in printed.splitlines()[0]
    assert (tmp_path / "figures" / "perceptron.png").is_file()

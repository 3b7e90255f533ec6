"""Every milestone reaches what it must on the data that the package holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tito.course import find_course
from tito.milestones import find_milestones

ROOT = find_course().root
# the first three train for seconds, the others for minutes
MILESTONES = [
    pytest.param(each.folder, marks=[] if each.number <= "03" else pytest.mark.slow, id=each.folder)
    for each in find_milestones(find_course())
]


def tito(*words: str, folder: Path, status: int = 0) -> str:
    """What a command prints in `folder`; it must end with `status`."""
    done = subprocess.run(
        [sys.executable, "-m", "tito.main", *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TQDM_DISABLE": "1",
            "JUPYTER_DATA_DIR": str(folder / "jupyter"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("milestone", MILESTONES)
def test_a_milestone_reaches_its_criterion(milestone, tmp_path):
    printed = tito("milestone", "run", milestone, folder=tmp_path)
    assert f"tinytorch: {ROOT / 'tinytorch'}" in printed
    assert "reached: " in printed
    assert "MISSED" not in printed
    pictures = list((tmp_path / "figures").glob("*.png"))
    assert pictures
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.slow
def test_a_milestone_runs_on_the_package_of_a_workspace(tmp_path):
    tito("setup", "my-course", folder=tmp_path)
    place = tmp_path / "my-course"
    missing = tito("milestone", "run", "03", folder=place, status=1)
    assert missing.startswith("03_1986_mlp needs 01_tensor, ")
    assert missing.endswith(": tito module start 01\n")
    tito("module", "start", "09", folder=place)  # fills the package with the reference's 01 to 08
    printed = tito("milestone", "run", "03", folder=place)
    assert printed.startswith(f"tinytorch: {place / 'tinytorch'}\nreference: core/tensor.py, ")
    [row] = [
        row
        for row in json.loads(tito("milestone", "list", "--json", folder=place))["milestones"]
        if row["number"] == "03"
    ]
    assert list(row["reached"]) == ["test accuracy on Digits"]

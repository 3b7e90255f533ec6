"""What README says is what there is: its commands, its example, its table of modules."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tito.course import find_course

ROOT = find_course().root
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.is_file() else ""


def commands():
    """The indented commands, without their comments."""
    lines = re.findall(r"^    (\S.*)$", TEXT, re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in lines]


def test_the_first_two_commands():
    first, second = commands()[:2]
    assert first == "python -m pip install uv && python -m uv run tito quickstart"
    assert second == "python -m pip install uv && python -m uv run pytest"


@pytest.mark.parametrize("line", [c for c in commands() if "tito" in c])
def test_commands_of_tito_exist(line):
    for part in line.split("&&"):
        words = part.split()
        if "tito" not in words:
            continue
        words = [w for w in words[words.index("tito") + 1 :] if not re.fullmatch(r"\d\d|my-.*", w)]
        arguments = [sys.executable, "-m", "tito.main", *words, "--help"]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_library_example_runs(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        script = tmp_path / f"example_{number}.py"
        script.write_text(block)
        done = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=120,
            env={"TQDM_DISABLE": "1", "PATH": "", "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        assert "quantised" in done.stdout


def test_the_table_names_every_module():
    rows = re.findall(r"^\| (\d\d) \| (\w+) \|", TEXT, re.MULTILINE)
    assert rows == [(module.number, module.name) for module in find_course().modules]


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not target.startswith("http"):
            assert (Path(ROOT) / target).exists(), target

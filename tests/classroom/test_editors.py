"""What students get opens in JupyterLab 4, Notebook 7 and VS Code as it is meant."""

import json
import re

import nbformat
import pytest

from tito.course import find_course
from tito.notebook import read_module, student_version, write_notebook

course = find_course()


@pytest.mark.parametrize("module", course.modules, ids=lambda module: module.folder)
def test_a_notebook_suits_every_editor(module, tmp_path):
    write_notebook(tmp_path / "notebook.ipynb", student_version(read_module(module)))
    notebook = json.loads((tmp_path / "notebook.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    nbformat.validate(notebook)
    assert notebook["metadata"]["kernelspec"]["name"] == "tinytorch"
    assert notebook["metadata"]["kernelspec"]["language"] == "python"
    assert notebook["metadata"]["language_info"]["name"] == "python"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        assert "attachments" not in cell
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
        else:
            shown_elsewhere = r"```mermaid|<(?:script|iframe|style|video)\b|!\[[^]]*\]\((?!https:)"
            assert not re.search(shown_elsewhere, "".join(cell["source"]))
        grading = cell["metadata"].get("nbgrader", {})
        if grading.get("locked"):
            assert cell["metadata"]["editable"] is False
            assert cell["metadata"]["deletable"] is False

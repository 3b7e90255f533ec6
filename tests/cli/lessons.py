"""Small lessons, and courses made of them, for the tests of the machinery."""

from pathlib import Path

from tito.course import Course

HEADER = """\
# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

"""

TENSOR = (
    HEADER
    + '''\
# %%
#| default_exp core.tensor

# %% [markdown]
r"""
# Tensor: the base

> Numbers in a box.
"""

# %% nbgrader={"grade": false, "grade_id": "tensor", "locked": true, "solution": false}
#| export
class Tensor:
    """A box around numbers."""

    def __init__(self, data):
        self.data = list(data)
'''
)

ACTIVATIONS = (
    HEADER
    + '''\
# %%
#| default_exp core.activations

# %% [markdown]
r"""
# Activations

> Functions that bend straight lines.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from tinytorch.core.tensor import (
    Tensor,
)

# %%
from tito.testing import check

# %% [markdown]
r"""
## Relu
"""

# %% nbgrader={"grade": false, "grade_id": "relu", "solution": true}
#| export
def relu(x: Tensor) -> Tensor:
    """max(x, 0), element by element."""
    ### BEGIN SOLUTION
    return Tensor(max(v, 0.0) for v in x.data)
    ### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "test-relu", "points": 60, "solution": false}
def test_relu():
    check(relu(Tensor([-0.5, 3.0])).data, [0.0, 3.0], "negative inputs must become zero")
    ### BEGIN HIDDEN TESTS
    check(relu(Tensor([-2.0])).data, [0.0], "negative inputs must become zero")
    ### END HIDDEN TESTS

test_relu()

# %% nbgrader={"grade": false, "grade_id": "relu-layer", "locked": true, "solution": false}
#| export
class ReLU:
    """relu as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(x)


class LeakyReLU(ReLU):
    """A layer by inheritance."""


class Slope:
    """No layer: it has no forward."""


LIMIT = 3.0

# %%
print(relu(Tensor([-1.0])).data)

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer", "points": 40, "solution": true}
r"""
Because $\\max(x, 0)$ has a corner.
"""
'''
)


def write_course(root: Path, **lessons: str) -> Course:
    """A course in `root` with a lesson for each `m01_tensor=text`."""
    for name, text in lessons.items():
        number, title = name[1:].split("_", 1)
        folder = root / "modules" / f"{number}_{title}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{title}_dev.py").write_text(text, encoding="utf-8")
    return Course(root, root / "tinytorch")


def two_lessons(root: Path) -> Course:
    """The course of the lessons above."""
    return write_course(root, m01_tensor=TENSOR, m02_activations=ACTIVATIONS)

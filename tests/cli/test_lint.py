"""Each rule on lessons, broken once."""

import pytest
from lessons import ACTIVATIONS, HEADER, TENSOR, two_lessons, write_course

from tito.course import find_course
from tito.export import export
from tito.lint import lint

GIVEN = '{"grade": false, "grade_id": "given", "locked": true, "solution": false}'


def findings(tmp_path, text):
    """What the lint says about a second lesson, and the text of the lines it names."""
    course = write_course(tmp_path, m01_tensor=TENSOR, m02_activations=text)
    found = lint(course, [course.module("02")])
    lines = text.split("\n")
    return [(lines[f.line - 1], f.message) for f in found]


def given(code):
    """The lesson with one more locked, exported cell."""
    return ACTIVATIONS + f"\n# %% nbgrader={GIVEN}\n#| export\n{code}"


def test_a_lesson_that_keeps_the_rules_has_no_findings(tmp_path):
    course = two_lessons(tmp_path)
    assert lint(course, [course.module("02")]) == []


@pytest.mark.parametrize("module", find_course().modules, ids=lambda module: module.folder)
def test_the_lessons_of_the_course_keep_the_rules(module):
    assert [str(finding) for finding in lint(find_course(), [module])] == []


def test_a_finding_names_file_and_line(tmp_path):
    course = two_lessons(tmp_path)
    [finding] = lint(course, [course.module("01")])
    assert str(finding) == (
        "modules/01_tensor/tensor_dev.py:1: the points add up to 0: make it 100"
    )


TEST_CELL = '"grade_id": "test-relu", "points": 60'
RELU_CELL = '# %% nbgrader={"grade": false, "grade_id": "relu", "solution": true}'
SOLUTION = "    return Tensor(max(v, 0.0) for v in x.data)\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            '"points": 40, "solution": true}',
            '"points": 40, "solution": true} [markdown]',
            '"answer"',
            "this order makes a code cell",
        ),
        (TEST_CELL, '"grade_id": "test-relu"', "test-relu", "lacks points"),
        (TEST_CELL, '"points": 60', '"points": 60', "lacks grade_id"),
        ('"grade_id": "relu", "solution": true', '"grade_id": "relu"', "", "lacks solution"),
        (RELU_CELL, RELU_CELL.replace("{", "(").replace("}", ")"), "# %%", "must be JSON"),
        ('"relu-layer"', '"relu"', '"relu"', "is taken by line"),
        ('"points": 60', '"points": 50', "# ---", "add up to 90: make it 100"),
        (SOLUTION, SOLUTION + "    # and so on\n" * 25, "BEGIN", "26 lines: split it, 25 are"),
        ("    ### END SOLUTION\n", "", "relu", "needs an `### END SOLUTION`"),
        ("### BEGIN SOLUTION", "# BEGIN SOLUTION", "relu", "write the markers `### BEGIN"),
        (
            '"grade_id": "relu-layer", "locked": true, "solution": false',
            '"grade_id": "relu-layer", "locked": true, "solution": true',
            "relu-layer",
            "a solution cell needs `### BEGIN SOLUTION`",
        ),
        (
            '"grade_id": "relu", "solution": true',
            '"grade_id": "relu", "locked": true, "solution": false',
            '"relu"',
            'needs "solution": true',
        ),
        ("test_relu()\n", "", "def test_relu", "test_relu is never called"),
        (
            '    check(relu(Tensor([-0.5, 3.0])).data, [0.0, 3.0], "negative inputs must become '
            'zero")\n    ### BEGIN HIDDEN TESTS\n    check(relu(Tensor([-2.0])).data, [0.0], '
            '"negative inputs must become zero")\n    ### END HIDDEN TESTS\n',
            "    relu(Tensor([-0.5]))\n",
            "test-relu",
            "checks nothing",
        ),
        ("#| default_exp", "x = 1\n\n# %%\n#| default_exp", "# %%", "first cell must be"),
        ("> Functions that", "Functions that", "# %% [markdown]", "begin the text with"),
        ('r"""\nBecause', '"""\nBecause', "answer", 'write r"""'),
        ("LIMIT = 3.0", "%timeit relu", "%timeit", "no magics"),
        ("LIMIT = 3.0", "LIMIT = (3.0", "LIMIT", "does not compile: '(' was never closed"),
        ("LIMIT = 3.0", "LIMIT = 3.0  # \U0001f680", "LIMIT", "no emoji in code"),
        ("LIMIT = 3.0", "LIMIT = 3.0\nprint(LIMIT)", "print", "must not print"),
        ("LIMIT = 3.0", "if True:\n    print(LIMIT)", "    print", "must not print"),
        (
            '"""relu as a layer."""',
            '"""relu as a layer.\n\n    TODO: call relu.\n    """',
            "class ReLU",
            "ReLU: TODO in a docstring: put steps and hints into the text above",
        ),
        (
            "#| export\nclass ReLU",
            "import math\n#| export\nclass ReLU",
            "#| export",
            "must be the first line of its cell",
        ),
        ("#| export\nclass ReLU", "#| export core.more\nclass ReLU", "#| ", "one file"),
        (
            ' nbgrader={"grade": false, "grade_id": "relu-layer", "locked": true, '
            '"solution": false}',
            "",
            "# %%",
            "needs nbgrader metadata with a grade_id",
        ),
        (
            '"grade_id": "relu-layer", "locked": true',
            '"grade_id": "relu-layer", "locked": false',
            "relu-layer",
            'or "locked": true',
        ),
        ("# %%\n#| default_exp", "x = 1\n\n# %%\n#| default_exp", "# ---", "begin each cell with"),
    ],
)
def test_a_broken_rule_is_found_where_it_is_broken(tmp_path, old, new, line, message):
    assert ACTIVATIONS.count(old) >= 1
    found = findings(tmp_path, ACTIVATIONS.replace(old, new, 1))
    assert [text for text, said in found if message in said and line in text], found


def test_long_definitions(tmp_path):
    body = "    x = 1\n" * 40
    documented = '    """Words.\n' + "    words\n" * 30 + '    """\n'
    short = "def short():\n" + documented + "    x = 1\n" * 39
    assert findings(tmp_path, given(short)) == []
    assert findings(tmp_path, given("def long():\n" + documented + body)) == [
        ("def long():", "long has 41 lines: 40 are the limit")
    ]
    method = (
        "class Given:\n"
        + "    x = 1\n" * 60
        + "    def method(self):\n"
        + body.replace("    x", "        x")
    )
    assert [message for _, message in findings(tmp_path, given(method))] == [
        "method has 41 lines: 40 are the limit"
    ]
    exercise = (
        ACTIVATIONS
        + '\n# %% nbgrader={"grade": false, "grade_id": "long", "solution": true}\n#| export\n'
        + "class Long:\n"
        + "    x = 1\n" * 40
        + "    ### BEGIN SOLUTION\n    y = 1\n    ### END SOLUTION\n"
    )
    assert [text for text, _ in findings(tmp_path, exercise)] == ["class Long:"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("from tinytorch.core.layers import Linear", "comes later, with 03_layers"),
        ("from tinytorch.core import layers", "comes later, with 03_layers"),
        ("import tinytorch.core.layers", "comes later, with 03_layers"),
        ("from tinytorch import Linear", "comes later, with 03_layers"),
        ("from tinytorch.nn import Linear", "comes later, with 03_layers"),
        ("from tinytorch import nn\nnn.Linear()", "tinytorch.nn.Linear comes later, with 03"),
        ("import tinytorch as tt\ntt.Linear()", "tinytorch.Linear comes later, with 03_layers"),
        ("from tinytorch.core.activations import relu", "is this lesson's own"),
        ("from tinytorch.nn import ReLU", "is this lesson's own"),
        ("from tinytorch.core.tensor import Tensor", None),
        ("from tinytorch import Tensor, nn\nnn.forward", None),
        ("import tinytorch\ntinytorch.Tensor", None),
        ("import numpy.linalg", None),
    ],
)
def test_a_lesson_takes_only_from_lessons_before_it(tmp_path, code, message):
    layers = TENSOR.replace("core.tensor", "core.layers").replace(
        "class Tensor:", "class Linear:\n    def forward(self): ...\n"
    )
    course = write_course(
        tmp_path, m01_tensor=TENSOR, m02_activations=ACTIVATIONS, m03_layers=layers
    )
    export(course)
    course.module("02").source.write_text(f"{ACTIVATIONS}\n# %%\n{code}\n")
    found = lint(course, [course.module("02")])
    assert [message in f.message for f in found] == [True] if message else found == []


def test_a_lesson_without_cells_is_a_finding(tmp_path):
    text = HEADER + "# %%\n#| default_exp core.activations\n"
    messages = [message for _, message in findings(tmp_path, text)]
    assert any("begin the text with `# Title`" in message for message in messages)

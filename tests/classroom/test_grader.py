"""The fast grader: what each kind of submission earns, and what the student is told."""

import re
from dataclasses import asdict

import nbformat
import pytest
from graders import cell, course, grade, lost, open_grader, sources, wrongs
from nbformat.v4 import new_code_cell
from submissions import solution, stub, with_cells

from tito.errors import TitoError
from tito.grading import partial_package, run_wrongs
from tito.notebook import graded_cells, read_module

TENSOR, ACTIVATIONS, LAYERS = course.modules[:3]
HEADER = """\
# %%
#| default_exp core.activations

"""


@pytest.fixture(scope="module")
def tensor():
    with open_grader(TENSOR) as grader:
        yield grader


@pytest.fixture(scope="module")
def activations():
    with open_grader(ACTIVATIONS) as grader:
        yield grader


@pytest.fixture(scope="module")
def layers():
    with open_grader(LAYERS) as grader:
        yield grader


def solved(**given):
    """Activations as a perfect student hands it in, but for some cells (`_` for `-`)."""
    return with_cells(
        solution(ACTIVATIONS), {name.replace("_", "-"): code for name, code in given.items()}
    )


def with_own(source, after="imports", notebook=None):
    """A solved notebook with a cell of the student's own below the cell `after`."""
    notebook = notebook or solution(ACTIVATIONS)
    place = next(i for i, each in enumerate(notebook.cells) if each.id == after)
    notebook.cells.insert(place + 1, new_code_cell(source))
    return notebook


def op(body, name="relu"):
    """A solution cell that defines one operation."""
    return f"@op\ndef {name}(x):\n    {body}\n"


@pytest.fixture
def lesson(tmp_path):
    """A master made of percent text, in the place of activations: given, solutions, tests."""

    def make(text):
        path = tmp_path / "lesson_dev.py"
        path.write_text(HEADER + text, encoding="utf-8")
        return read_module(path)

    return make


def exercise(name, code):
    return f'# %% nbgrader={{"grade_id": "{name}", "solution": true}}\n{code}\n\n'


def test_cell(name, code, points=10):
    return (
        f'# %% nbgrader={{"grade": true, "grade_id": "test-{name}", "points": {points}}}\n'
        f"{code}\n\n"
    )


test_cell.__test__ = False
IMPORTS = (
    '# %% nbgrader={"grade_id": "imports", "locked": true}\n'
    "import numpy as np\nfrom tito.testing import check, check_raises\n\n"
)


class TestWhatIsEarned:
    @pytest.mark.parametrize("module", [TENSOR, ACTIVATIONS], ids=lambda m: m.folder)
    def test_a_solution_has_full_marks_and_no_flags(self, module, request):
        result = grade(request.getfixturevalue(module.name), solution(module))
        assert lost(result) == {} and result.flags == [] and result.problem == ""
        by_hand = {cell.id for cell in result.cells if cell.by_hand}
        assert by_hand == {name for name in sources(module) if name.startswith("answer-")}
        assert result.points == 100 - sum(c.possible for c in result.cells if c.by_hand)
        order = [c.metadata.nbgrader.grade_id for c in graded_cells(read_module(module))]
        assert [cell.id for cell in result.cells] == order

    @pytest.mark.parametrize("module", [TENSOR, ACTIVATIONS], ids=lambda m: m.folder)
    def test_a_stub_has_none_and_says_what_to_write(self, module, request):
        result = grade(request.getfixturevalue(module.name), stub(module))
        assert result.points == 0 and result.flags == []
        tests = {cell.id for cell in result.cells if not cell.by_hand}
        assert lost(result).keys() == tests
        written = {
            name
            for name, source in sources(module).items()
            if "### BEGIN SOLUTION" in source and not name.startswith("answer-")
        }
        for message in lost(result).values():
            name, _, rest = message.partition(" ")
            assert name in written and rest == "is not written yet"

    def test_what_is_written_counts(self, activations):
        code = sources(ACTIVATIONS)
        written = with_cells(stub(ACTIVATIONS), {n: code[n] for n in ("relu", "sigmoid")})
        result = grade(activations, written)
        assert {c.id for c in result.cells if c.points} == {"test-relu", "test-sigmoid"}
        assert result.points == 6 + 12
        assert cell(result, "test-silu").message == "silu is not written yet"
        assert cell(result, "test-stateless").message == "stateless is not written yet"

    @pytest.mark.parametrize(
        ("code", "told"),
        [
            ("def relu(x) return x", "relu ends in SyntaxError: expected ':'"),
            ("relu = 1 / 0", "relu ends in ZeroDivisionError: division by zero (cell relu"),
            ("", "NameError: name 'relu' is not defined"),
            (op("return x.datum"), "AttributeError: 'numpy.ndarray' object has no attribute"),
            ("import os; os._exit(0)", "it ended Python"),
            ("relu = exit()", "relu ends in SystemExit"),
        ],
        ids=["no Python", "an error", "nothing", "another error", "ends Python", "exit"],
    )
    def test_a_broken_cell_says_so_where_it_is_tested(self, activations, code, told):
        failed = cell(grade(activations, solved(relu=code)), "test-relu")
        assert failed.message.startswith(told) and failed.points == 0

    def test_a_right_neighbour_of_a_wrong_cell_keeps_its_points(self, activations):
        result = grade(activations, solved(relu=op("return x"), gelu=op("return 1 / 0", "gelu")))
        assert lost(result).keys() == {"test-relu", "test-gelu"}

    def test_a_cell_that_never_ends_costs_its_tests_alone(self):
        with open_grader(ACTIVATIONS, seconds=1) as grader:
            result = grade(grader, solved(gelu=op("while True: pass", "gelu")))
        assert lost(result).keys() == {"test-gelu"}
        assert "took longer than" in cell(result, "test-gelu").message


class TestWhatIsSaid:
    def test_a_visible_check_tells_all(self, activations):
        failed = cell(grade(activations, solved(relu=op("return np.abs(x)"))), "test-relu")
        assert not failed.hidden
        assert failed.message == (
            "relu(x) gave 0.5 at [0, 0], expected 0.0: negative inputs must become zero, others "
            "stay"
        )

    def test_a_hidden_check_gives_the_hint_alone(self, activations):
        code = op("return np.maximum(x, 0).astype(np.float32)")
        failed = cell(grade(activations, solved(relu=code)), "test-relu")
        assert failed.hidden and failed.message == "float64 must be kept"

    def test_an_error_in_a_hidden_test_tells_its_type_alone(self, activations):
        code = op("if x.dtype == np.int8: raise KeyError('secret')\n    return np.maximum(x, 0)")
        failed = cell(grade(activations, solved(relu=code)), "test-relu")
        assert failed.hidden and failed.message == "a hidden test ends in KeyError"

    def test_an_error_that_does_not_come_is_missed(self, tensor):
        given = sources(TENSOR)["as-index"].replace("raise", "return")
        result = grade(tensor, with_cells(solution(TENSOR), {"as-index": given}))
        assert "no error came, expected" in cell(result, "test-as-index").message

    def test_equal_submissions_get_equal_results(self, activations):
        notebook = solved(
            relu=op("return object()"),
            gelu=op("raise ValueError(repr(object()) + str(relu))", "gelu"),
            sigmoid=op("import tempfile; raise OSError(tempfile.mkdtemp())", "sigmoid"),
        )
        first, second = (asdict(grade(activations, notebook)) for _ in range(2))
        for result in (first, second):
            result.pop("graded")
            for each in result["cells"]:
                each.pop("seconds")
                assert not re.search(r"0x[0-9a-f]{6}|/tmp/|tito", each["message"])
        assert first == second


class TestTests:
    """What a student does to tests and given cells."""

    def change(self, notebook, name, what):
        place = next(i for i, each in enumerate(notebook.cells) if each.id == name)
        what(notebook.cells, place)
        return notebook

    @pytest.mark.parametrize(
        ("what", "flag"),
        [
            (lambda cells, i: cells.pop(i), "was deleted"),
            (lambda cells, i: cells[i].update(source="pass"), "was edited"),
            (lambda cells, i: cells.insert(0, cells.pop(i)), "was moved"),
            (lambda cells, i: cells.insert(i, nbformat.from_dict(cells[i])), "is there 2 times"),
        ],
        ids=["deleted", "edited", "moved", "duplicated"],
    )
    @pytest.mark.parametrize(
        "code", ["return np.maximum(x, 0)", "return x"], ids=["right", "wrong"]
    )
    def test_a_changed_test_changes_no_mark_but_is_flagged(self, activations, what, flag, code):
        result = grade(activations, self.change(solved(relu=op(code)), "test-relu", what))
        assert cell(result, "test-relu").points == (6 if "maximum" in code else 0)
        assert [f for f in result.flags if f.startswith(f"test-relu {flag}")]
        assert len(result.flags) == 1

    def test_the_master_s_given_cells_run(self, activations):
        notebook = with_cells(solution(ACTIVATIONS), {"floats": "_floats = None"})
        result = grade(activations, notebook)
        assert lost(result) == {}
        assert result.flags == ["floats was edited: the course's own is used"]


class TestOwnCells:
    def test_a_helper_in_an_own_cell_works(self, activations):
        helper = "def larger(a, b):\n    return np.where(a < b, b, a)"
        notebook = with_own(helper, notebook=solved(relu=op("return larger(x, 0 * x)")))
        assert lost(grade(activations, notebook)) == {}

    def test_it_runs_where_it_stands(self, activations):
        late = with_own("double = 2", "test-relu", solved(relu=op("return x * double / 2")))
        told = lost(grade(activations, late))
        assert told == {"test-relu": "NameError: name 'double' is not defined (cell relu)"}

    def test_plots_work(self, activations):
        plots = (
            "import matplotlib.pyplot as plt\n"
            "figure, axes = plt.subplots()\n"
            "axes.plot([1, 2, 3])\nplt.show()\n"
            "points = [int(v) for v in axes.lines[0].get_ydata()]\n"
        )
        pytest.importorskip("matplotlib")
        notebook = with_own(
            plots, notebook=solved(relu=op("assert points\n    return x * (x > 0)"))
        )
        result = grade(activations, notebook)
        assert cell(result, "test-slope").points == 6
        assert lost(result).get("test-relu", "NaN").startswith("NaN")  # inf * 0 is not the matter

    def test_magics_are_passed_over(self, activations):
        notebook = with_own("%matplotlib inline\n!ls\nnp?\nready = True")
        notebook = with_own("%%bash\nexit 1", notebook=notebook)
        result = grade(activations, with_own("assert ready", "test-relu", notebook))
        assert lost(result) == {} and result.flags == []

    def test_an_error_in_an_own_cell_costs_nothing(self, activations):
        assert lost(grade(activations, with_own("1 / 0\nraise SystemExit"))) == {}

    def test_an_example_runs_only_for_who_uses_its_names(self, lesson):
        master = lesson(
            IMPORTS
            + "# %%\nsetattr(np, 'example_ran', True)\ntable = [1, 2, 3]\n\n"
            + exercise(
                "ran", "def ran():\n    ### BEGIN SOLUTION\n    return 0\n    ### END SOLUTION"
            )
            + test_cell("ran", 'check(ran(), 0, "examples that nobody needs take time")')
        )
        asks = "def ran():\n    return int(hasattr(np, 'example_ran'))"
        with open_grader(ACTIVATIONS, master) as grader:
            for code, points in [(asks, 10), (f"{asks} + 0 * table[0]", 0)]:
                assert grade(grader, with_cells(master, {"ran": code})).points == points


class TestTheProcess:
    """A test that changes the process is no matter to the next one."""

    @pytest.mark.parametrize(
        "damage",
        [
            "np.seterr(all='raise')",
            "np.random.seed(0)",
            "import os; os.chdir('/')",
            "import os; os.environ.clear()",
            "import warnings; warnings.simplefilter('error')",
            "import sys; sys.path.clear()",
            "import sys; sys.setrecursionlimit(60)",
            "import sys; sys.stdout = sys.stderr = None",
            "import locale, decimal; decimal.getcontext().prec = 1",
            "import gc; gc.disable()",
            "global sigmoid; sigmoid = None",
            "import threading, time; threading.Thread(target=time.sleep, args=[30]).start()",
        ],
    )
    def test_damage_done_by_one_cell_stays_there(self, activations, damage):
        notebook = solved(relu=op(f"{damage}\n    return np.maximum(x, 0)"))
        told = lost(grade(activations, notebook))
        assert told.keys() <= {"test-relu", "test-stateless"}, told  # those that call relu

    def test_a_test_may_need_a_state_that_another_destroys(self, lesson):
        """The same shown from inside: each test asks for the state that the first one changes."""
        state = (
            "import os, random, sys, warnings\n"
            "def state():\n    ### BEGIN SOLUTION\n"
            "    found = [np.geterr()['over'], 'HOME' in os.environ, len(sys.path) > 1,\n"
            "        sys.getrecursionlimit(), len(warnings.filters), random.Random(1).random()]\n"
            "    np.seterr(all='raise'); os.environ.clear(); sys.path.clear()\n"
            "    sys.setrecursionlimit(500); warnings.simplefilter('error')\n"
            "    return found\n    ### END SOLUTION\n"
        )
        ask = 'check(state(), START, "each test begins anew")'
        start = (
            '# %% nbgrader={"grade_id": "start", "locked": true}\n'
            "import os, sys, warnings, random\n"
            "START = [np.geterr()['over'], True, True, sys.getrecursionlimit(),\n"
            "    len(warnings.filters), random.Random(1).random()]\n\n"
        )
        text = IMPORTS + start + exercise("state", state)
        text += test_cell("one", ask) + test_cell("two", ask) + test_cell("three", ask)
        with open_grader(ACTIVATIONS, lesson(text)) as grader:
            result = grade(grader, lesson(text))
        assert lost(result) == {}

    def test_a_generator_of_the_student_s_own_is_no_matter(self, activations):
        damage = "manual_seed(3)\n    return np.maximum(x, 0)"
        text = f"from tinytorch.core.tensor import manual_seed\n{op(damage)}"
        assert lost(grade(activations, solved(relu=text))) == {}


class TestOtherDraws:
    """Right solutions that draw their random numbers otherwise than the reference."""

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(
                [
                    ("bound = 1", "first = rand(out_features)\n        bound = 1"),
                    ("2 * rand(out_features)", "2 * first"),
                ],
                id="bias first",
            ),
            pytest.param(
                [
                    (
                        "bound * (2 * rand(in_features, out_features) - 1)",
                        "Tensor(np.random.default_rng(1).uniform(\n"
                        "            -bound, bound, (in_features, out_features)))",
                    )
                ],
                id="NumPy's generator",
            ),
        ],
    )
    def test_they_have_full_marks_and_at_most_a_flag(self, layers, change):
        code = sources(LAYERS)["linear-layer"]
        for old, new in change:
            assert code.count(old) == 1
            code = code.replace(old, new)
        result = grade(layers, with_cells(solution(LAYERS), {"linear-layer": code}))
        assert lost(result) == {}
        assert all("is what the student's process expected" in flag for flag in result.flags)


class TestMasters:
    def test_a_wrong_solution_of_the_master_is_named(self, lesson):
        text = exercise("two", "two = 3") + test_cell("two", 'check(two, 2, "count again")')
        with pytest.raises(TitoError) as caught, open_grader(ACTIVATIONS, lesson(IMPORTS + text)):
            pass
        assert str(caught.value) == (
            "the course's own solution fails test-two: two gave 3, expected 2: count again"
        )

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ('check(*[1, 2, "hint"])', "check takes (got, expected, hint, tolerance), each by"),
            ("check(1, 2)", "line 1: check takes (got, expected, hint, tolerance), each by itself"),
            ("check(1, 1, 'right", "unterminated string literal"),
        ],
    )
    def test_a_test_that_cannot_be_rewritten_is_named(self, lesson, code, reason):
        with (
            pytest.raises(TitoError) as caught,
            open_grader(ACTIVATIONS, lesson(IMPORTS + test_cell("odd", code))),
        ):
            pass
        assert "cell test-odd of the master" in str(caught.value)
        assert reason in str(caught.value)

    def test_a_test_without_check_works(self, lesson):
        text = IMPORTS + exercise("two", "### BEGIN SOLUTION\ntwo = 2\n### END SOLUTION")
        master = lesson(text + test_cell("two", "assert two == 2, 'it is two'"))
        with open_grader(ACTIVATIONS, master) as grader:
            assert grade(grader, master).points == 10
            told = lost(grade(grader, with_cells(master, {"two": "two = 3"})))
            assert told == {"test-two": "it is two (cell test-two)"}

    def test_a_loop_of_checks_must_be_walked_to_its_end(self, lesson):
        text = IMPORTS + exercise("items", "### BEGIN SOLUTION\nitems = [1, 2]\n### END SOLUTION")
        loop = 'for item in items:\n    check(item > 0, True, "all are positive")'
        master = lesson(text + test_cell("items", loop))
        with open_grader(ACTIVATIONS, master) as grader:
            assert grade(grader, master).points == 10
            for code, message in [
                ("items = [1]", "it ended before all was checked"),
                ("items = [1, 2, 3]", "more was checked than the lesson checks"),
            ]:
                assert lost(grade(grader, with_cells(master, {"items": code}))) == {
                    "test-items": message
                }


class TestKnownResults:
    def test_what_is_known_is_not_run_again(self, activations, monkeypatch):
        first = grade(activations, solved(relu=op("return x")))
        monkeypatch.setattr(activations, "_open_sandbox", None)
        again = grade(activations, solved(relu=op("return x")), first)
        assert again.cells == first.cells


@pytest.mark.parametrize("module", course.modules[:8], ids=lambda module: module.folder)
@pytest.mark.slow
def test_the_mutation_check_agrees_with_plain_runs(module, tmp_path):
    """A sample of wrong solutions loses what run_wrongs says, and the other cells keep theirs."""
    sample = wrongs(module)[::4]
    package = partial_package(course, module, tmp_path)
    _, outcomes = run_wrongs(read_module(module), sample, package)
    with open_grader(module) as grader:
        for wrong in sample:
            code = wrong.apply(sources(module)[wrong.grade_id])
            result = grade(grader, with_cells(solution(module), {wrong.grade_id: code}))
            told = lost(result)
            errors = {test for test, error in outcomes[wrong.name].items() if error}
            assert {*wrong.loses} <= told.keys(), wrong.name
            asked = outcomes[wrong.name].keys() & set(sources(module))
            assert told.keys() & asked & {c.id for c in result.cells} == errors & {
                c.id for c in result.cells
            }, wrong.name


@pytest.mark.parametrize("module", course.modules, ids=lambda module: module.folder)
@pytest.mark.slow
def test_wrong_solutions_get_less_than_full_marks(module):
    """All of modules 01-08, five of each other; cells above the wrong one keep their points."""
    chosen = wrongs(module)
    assert len(chosen) >= 5
    chosen = chosen if module in course.modules[:8] else chosen[:: max(1, len(chosen) // 5)][:5]
    order = list(sources(module))
    with open_grader(module) as grader:
        for wrong in chosen:
            code = wrong.apply(sources(module)[wrong.grade_id])
            result = grade(grader, with_cells(solution(module), {wrong.grade_id: code}))
            told = lost(result)
            assert {*wrong.loses} <= told.keys(), wrong.name
            above = order[: order.index(wrong.grade_id)]
            assert not told.keys() & set(above), (wrong.name, told)

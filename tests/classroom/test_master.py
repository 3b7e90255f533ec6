"""What of a test reaches a student's process: `got` and where it stands, and little else."""

import ast

import pytest

from tito.classroom.grader import runnable
from tito.classroom.master import compiled, read_master, rewrite
from tito.course import find_course
from tito.errors import TitoError
from tito.notebook import read_module


@pytest.fixture(scope="module")
def master():
    return read_master(read_module(find_course().module("02")))


def shown(source, keep_all=False):
    """The rewritten cell `c`, and the places in it."""
    return rewrite("c", source, keep_all)


KEPT = {
    "check(f(2), 4, 'hint')": "__check__('c:0', f(2))",
    "check(f(2), np.float32, 'hint', 1e-3)": "__check__('c:0', f(2))",
    "check(f(2), [np.exp(1.0), math.pi], 'hint')": "__check__('c:0', f(2))",
    "check(f(2), [i * i for i in range(3)], 'hint')": "__check__('c:0', f(2))",
    "check(hint='h', expected=4, got=f(2))": "__check__('c:0', f(2))",
    "check(f(2), g(2), 'hint')": "__check__('c:0', f(2), g(2))",
    "check(f(2), x, 'hint', tolerance=0.1)": "__check__('c:0', f(2), x)",
    "check(f(2), np.random.rand(3), 'hint')": "__check__('c:0', f(2), np.random.rand(3))",
    "check(check, 4, 'hint')": "__check__('c:0', check)",
    "unchecked(f(2), 4)": "unchecked(f(2), 4)",
}


@pytest.mark.parametrize("source", KEPT)
def test_expected_values_stay_behind(source):
    """Constants, NumPy and builtins are withheld; what may follow from the student's goes along."""
    text, _ = shown(source)
    assert text == KEPT[source]


def test_errors_expected_stay_behind():
    """Neither the type, nor the words, nor the hint of an expected error are shown."""
    source = "with check_raises(ValueError, 'sizes differ', 'say so'):\n    f(1)"
    text, sites = shown(source)
    assert text == "with __check_raises__('c:0'):\n    f(1)"
    assert sites["c:0"].asked == "ValueError"


def test_the_reference_keeps_all():
    """For the reference's run the same calls keep expectations, hints and tolerances."""
    text, _ = shown("check(f(2), 4, 'hint', tolerance=0.1)", keep_all=True)
    assert text == "__check__('c:0', f(2), 4, 'hint', 0.1)"
    text, _ = shown("with check_raises(ValueError, 'a', 'b'):\n    pass", keep_all=True)
    assert "ValueError, 'a', 'b'" in text


def test_hidden_places_are_known():
    """A check between the markers is hidden, the ones around them are not."""
    source = """
check(a, 1, 'h')
### BEGIN HIDDEN TESTS
check(b, 2, 'h')
### END HIDDEN TESTS
check(c, 3, 'h')
"""
    text, sites = shown(source)
    assert [(site.asked, site.hidden) for site in sites.values()] == [
        ("a", False), ("b", True), ("c", False),
    ]  # fmt: skip
    assert "HIDDEN" not in text


@pytest.mark.parametrize(
    "source",
    [
        "check(1, 2)",
        "check(*everything)",
        "check(1, 2, 'h', **options)",
        "check(1, 2, 'h', 3, 4)",
        "check(1, 2, 'h', wrong=3)",
        "with check_raises(ValueError, 'part'): pass",
    ],
)
def test_a_check_that_cant_be_rewritten_is_an_error(source):
    """It names the cell and the line; no master is graded with half of its checks."""
    with pytest.raises(TitoError, match=r"cell c of the master, line 1: check(_raises)? takes"):
        shown(source)


def test_a_master_that_is_no_python_is_an_error():
    """Cell and line again."""
    with pytest.raises(TitoError, match=r"cell c of the master: .*line 2"):
        shown("check\ncheck(")


def test_no_constant_of_an_expectation_is_in_the_code(master):
    """Neither source nor compiled code of a test holds a hint or an expected number."""
    whole = master.by_id["test-sigmoid"].source
    sent = master.for_students["test-sigmoid"], repr(compiled(master.for_students)["test-sigmoid"])
    for word in ("0.8807971", "2.0611536", "the floats of the given line", "HIDDEN"):
        assert word in whole
        assert not any(word in text for text in sent)
    assert "0.8807971" in master.for_reference["test-sigmoid"]


@pytest.mark.parametrize("module", find_course().modules, ids=lambda module: module.folder)
def test_every_module_is_a_master(module):
    """All tests can be rewritten; none calls the real check in a student's process."""
    master = read_master(read_module(module))
    assert master.tests
    for id, source in master.for_students.items():
        calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        names = {func.id for func in calls if isinstance(func, ast.Name)}
        assert not names & {"check", "check_raises"}, id
    withheld = [id for id in master.tests if master.for_students[id] != master.by_id[id].source]
    assert withheld
    assert {place.rpartition(":")[0] for place in master.sites} >= master.tests.keys()


def test_names_that_the_course_gives_are_its_own():
    """Tests see the given cells' functions (tito.classroom.cells puts them there): so no solution
    may define a function, class or module under a given name, or one of Python's."""
    import builtins

    for module in find_course().modules:
        master = read_master(read_module(module))
        trees = {cell.id: ast.parse(cell.source) for cell in master.cells}
        made: dict[str, set[str]] = {"given": set(), "solution": set(), "test": set()}
        for cell in master.cells:
            for node in trees[cell.id].body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    made[cell.kind].add(node.name)
        assert not made["solution"] & (made["given"] | set(dir(builtins))), module.folder


def test_given_cells_without_use_are_left_out(master):
    """Demonstrations that no test or export needs are not run."""
    kept = {cell.id for cell in runnable(master, master.cells)}
    assert master.tests.keys() <= kept
    assert kept < {cell.id for cell in master.cells}

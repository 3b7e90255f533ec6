"""`check` and `check_raises`: what passes, what fails, and in which words."""

import numpy as np
import pytest

from tinytorch import Tensor
from tito import testing
from tito.testing import check, check_raises


class AlwaysEqual:
    __hash__ = object.__hash__

    def __eq__(self, other):
        return True


class EqualFloat(float):
    __hash__ = float.__hash__

    def __eq__(self, other):
        return True


class EqualList(list):
    def __eq__(self, other):
        return True


class EqualArray(np.ndarray):
    def __eq__(self, other):
        return np.array(True)


class DerivedTensor(Tensor):
    pass


class FalseTensor:
    data = AlwaysEqual()


FalseTensor.__name__ = "Tensor"


def relu(values):
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (3, 3),
        (True, True),
        (None, None),
        ("text", "text"),
        (0.1 + 0.2, 0.3),
        (1 + 2j, 1 + 2j),
        (float("nan"), float("nan")),
        (float("-inf"), float("-inf")),
        ((2, 3), (2, 3)),
        ([1.0, [2.0, 3.0]], [1.0, [2.0, 3.0]]),
        ({"a": 1, "b": [2.0]}, {"b": [2.0], "a": 1}),
        ({1, 2}, {2, 1}),
        (np.float32(0.1), 0.1),
        (0.5, np.float64(0.5)),
        (np.int64(3), 3),
        (np.array(3.0), 3.0),
        (np.array([1, 2]), [1, 2]),
        (np.array([1.0, 2.0]), [1, 2]),
        (np.array([True, False]), [True, False]),
        (np.array([np.nan, np.inf]), [np.nan, np.inf]),
        (np.array([1.0], np.float32), np.array([1.0], np.float64)),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (Tensor([[1.0, 2.0]]), [[1.0, 2.0]]),
        (Tensor([1.0]), Tensor([1.0])),
        (Tensor([1.0]).dtype, np.float32),
        (np.dtype("int8"), np.dtype("int8")),
        (float, float),
        (1e9 + 1.0, 1e9),  # the tolerance grows with the number
    ],
)
def test_what_passes(got, expected):
    check(got, expected, "the hint")


@pytest.mark.parametrize(
    ("got", "expected", "words"),
    [
        (2, 3, "gave 2, expected 3"),
        (True, 1, "gave True (bool), expected 1 (int)"),
        (1, 1.0, "gave 1 (int), expected 1.0 (float)"),
        (None, 1.0, "gave None, expected 1.0 (float)"),
        ("a", "b", "gave 'a', expected 'b'"),
        (1.00001, 1.0, "gave 1.00001, expected 1.0"),
        (float("nan"), 1.0, "gave nan, expected 1.0"),
        (float("inf"), float("-inf"), "gave inf, expected -inf"),
        (np.array([1.0]), [np.inf], "gave 1.0 at [0], expected inf"),
        ([2, 3], (2, 3), "gave list, expected tuple"),
        ((2, 3), (2, 4), "gave 3 at [1], expected 4"),
        ((2, 3), (2, 3, 4), "gave 2 items, expected 3"),
        ([1.0, [2.0]], [1.0, [2.5]], "gave 2.0 at [1][0], expected 2.5"),
        ({"a": 1}, {"b": 1}, "gave keys ['a'], expected ['b']"),
        ({"a": [1]}, {"a": [2]}, "gave 1 at ['a'][0], expected 2"),
        ({1, 2}, {1, 3}, "gave {1, 2}, expected {1, 3}"),
        ({1, True and 2}, {1.0, 2}, "gave {1, 2}, expected {1.0, 2}"),
        ([0.5], np.array([0.5]), "gave list, expected an array"),
        (np.array([1.0, -1.0]), [1.0, 0.0], "gave -1.0 at [1], expected 0.0"),
        (np.zeros((2, 2)), [[0, 1], [1, 0]], "at [0, 1], expected 1 (2 of 4 values differ)"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "gave shape (2, 3), expected (3, 2)"),
        (np.zeros(1), 0.0, "gave shape (1,), expected ()"),
        (np.array([1, 2]), np.array([1.0, 2.0]), "gave dtype int64, expected float64"),
        (np.array([1, 0]), [True, False], "gave dtype int64, expected bool"),
        (np.array([None]), [0.0], "gave dtype object, expected float64"),
        (np.float64(1.0).dtype, np.float32, "gave float64, expected float32"),
        (np.array([1.0]), [1.0000011], "gave 1.0 at [0], expected 1.0000011"),
        (Tensor([1.0, 2.0]), [1.0, 3.0], "gave 2.0 at [1], expected 3.0"),
        (float, int, "gave float, expected int"),
    ],
)
def test_what_fails(got, expected, words):
    with pytest.raises(AssertionError) as raised:
        check(got, expected, "the hint")
    assert words in str(raised.value)
    assert str(raised.value).endswith(": the hint")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "impostor",
    [
        AlwaysEqual(),
        EqualFloat(1.0),
        EqualList([1.0]),
        np.array([1.0]).view(EqualArray),
        DerivedTensor([1.0]),
        FalseTensor(),
    ],
)
def test_no_object_that_claims_to_be_equal_passes(impostor):
    for got, expected in (
        (impostor, 1.0),
        (impostor, [1.0]),
        (impostor, np.array([1.0])),
        ([impostor], [1.0]),
        ({"key": impostor}, {"key": 1.0}),
    ):
        with pytest.raises(AssertionError):
            check(got, expected, "the hint")
    if isinstance(impostor, AlwaysEqual):
        for got, expected in (
            ({impostor}, {1.0}),
            ({impostor: 1}, {1.0: 1}),
            ({(impostor,)}, {(1,)}),
        ):
            with pytest.raises(AssertionError):
                check(got, expected, "the hint")


def test_the_message_quotes_what_was_asked():
    with pytest.raises(AssertionError) as raised:
        check(relu([-0.5, 0.0, 3.0]), [0.0, 0.0, 3.0], "negative inputs must become zero")
    assert str(raised.value) == (
        "relu([-0.5, 0.0, 3.0]) gave -0.5 at [0], expected 0.0: negative inputs must become zero"
    )
    with pytest.raises(AssertionError, match=r"^relu\(\[1\.0, 2\.0\]\) gave shape"):
        check(
            relu(
                [1.0, 2.0],
            ),
            1.0,
            "the hint",
        )
    long = [float(number) for number in range(100)]
    with pytest.raises(AssertionError, match=r"^relu\(long \+ long.*\.\.\. gave shape"):
        check(relu(long + long + long + long + long + long + long + long + long + long), 1.0, "")
    with pytest.raises(AssertionError, match=r"^größe\(\) gave 1, expected 2"):
        größe = (1).__int__
        check(größe(), 2, "columns count bytes")


def test_without_source_the_message_names_the_test():
    names = {"check": check}
    exec("def test_relu(): check(1, 2, 'the hint')\n", names)
    with pytest.raises(AssertionError, match=r"^relu gave 1, expected 2: the hint$"):
        names["test_relu"]()


def test_tolerance_zero_compares_bits():
    check(np.float32(0.1), np.float32(0.1), "the hint", tolerance=0)
    with pytest.raises(AssertionError, match=r"0\.1000000014\d+, expected 0\.1:"):
        check(np.float32(0.1), 0.1, "the hint", tolerance=0)


def test_an_expectation_that_can_not_be_compared_is_the_authors_error():
    with pytest.raises(TypeError, match="can't compare with a AlwaysEqual"):
        check(AlwaysEqual(), AlwaysEqual(), "the hint")


def test_check_raises_wants_the_type_and_the_words():
    with check_raises(ValueError, "inner sizes", "the hint"):
        raise ValueError("matmul: inner sizes 3 and 4 differ")
    for error, words in (
        (ValueError("outer"), r"^raised ValueError saying 'outer', expected ValueError saying"),
        (TypeError("inner"), r"^raised TypeError saying 'inner', expected ValueError saying"),
        (NotImplementedError(), r"^raised NotImplementedError saying '', expected ValueError"),
    ):
        with (
            pytest.raises(AssertionError, match=words + ".*: the hint$"),
            check_raises(ValueError, "inner sizes", "the hint"),
        ):
            raise error
    with (
        pytest.raises(AssertionError, match=r"^no error came, expected ValueError saying 'x': h$"),
        check_raises(ValueError, "x", "h"),
    ):
        pass


def test_observers_see_every_outcome(monkeypatch):
    seen = []
    monkeypatch.setattr(testing, "observers", [seen.append])
    check(1, 1, "the hint")
    with pytest.raises(AssertionError):
        check(relu([1.0]), [2.0], "the hint")
    with check_raises(ValueError, "", "the hint"):
        raise ValueError
    assert [outcome.passed for outcome in seen] == [True, False, True]
    assert seen[1].message == "relu([1.0]) gave 1.0 at [0], expected 2.0: the hint"

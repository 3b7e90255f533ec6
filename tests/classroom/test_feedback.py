"""The page that a student reads about a submission."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from marked import ANSWER, enter, give, grade_a_class, result, tito

from tito.classroom.feedback import feedback_page
from tito.classroom.gradebook_reading import Student
from tito.classroom.marks import Mark, read_marks
from tito.classroom.results import CellResult, write_result

VOID = {"meta", "br", "hr", "img", "link", "input"}
SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """A page's text in order, its tags, and a complaint if they don't nest."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]


@pytest.fixture
def module(classroom):
    return classroom.course.module("02")


@pytest.fixture
def read(classroom, module):
    """The page of somebody with this result."""

    def make(result) -> Page:
        write_result(classroom, module, result)
        marks = {mark.student.id: mark for mark in read_marks(classroom, module)}
        return Page(feedback_page(module, marks[result.student]))

    return make


def test_points_of_each_cell_and_in_all(read):
    page = read(result("ada", "test-relu"))
    assert "Lovelace, Ada" in page.text
    assert page.text.index("70") < page.text.index("of 100 points")
    rows = re.findall(r"^(test-\w+)\n(\D+)\n(\d+)\n(\d+)$", page.text, re.MULTILINE)
    assert rows == [
        ("test-relu", "no points", "0", "20"),
        ("test-sigmoid", "full points", "30", "30"),
        ("test-softmax", "full points", "30", "30"),
        ("test-gelu", "full points", "10", "10"),
    ]
    assert "in all\n70\n100" in page.text


def test_a_failing_check_says_what_was_asked_came_and_was_expected(read):
    page = read(result("ada", "test-relu"))
    assert (
        "asked\nrelu(Tensor([-0.5])).numpy()\ncame\n-0.5 at [0]\nexpected\n0.0\n"
        "hint\nnegative inputs must become zero"
    ) in page.text


@pytest.mark.parametrize(
    "message, expected, hint",
    [
        ("f() gave {'a': 1}, expected {'a: b': 2}: keys: texts", "{'a: b': 2}", "keys: texts"),
        ("f() gave 'A()', expected \"A(b=': ')\": the name", "\"A(b=': ')\"", "the name"),
        (
            "f(1, 2, ... gave 1 at [0], expected 2 (2 of 3 values differ): count",
            "2 (2 of 3 values differ)",
            "count",
        ),
    ],
)
def test_colons_are_no_matter(read, message, expected, hint):
    one = result("ada")
    one.cells[0] = CellResult("test-relu", 0, 20, message)
    assert f"expected\n{expected}\nhint\n{hint}" in read(one).text


@pytest.mark.parametrize(
    "message",
    [
        "f(' gave 1') gave 2, expected 3: the text is not a result",
        "f() gave 1, expected an array: see f(x): it gives one",
        "f(, ) gave 1, expected 2: that is no Python",
        "raised ValueError saying 'x gave up', expected TypeError saying 'y': check first",
        "NameError: name 'erf' is not defined",
    ],
)
def test_what_cannot_be_told_apart_stays_whole(read, message):
    one = result("ada")
    one.cells[0] = CellResult("test-relu", 0, 20, message)
    page = read(one)
    assert message in page.text
    assert "dl" not in page.names()


def test_a_hidden_check_gives_its_hint_alone(read):
    one = result("ada", "test-softmax")
    hint = "f() gave 1, expected 2: as the author wrote it"
    one.cells[2].message = hint
    page = read(one)
    assert f"A test that is not in your notebook fails. Its hint:\n{hint}" in page.text
    assert "dl" not in page.names()


def test_flags_are_for_the_instructor(read):
    page = read(result("ada", flags=["numpy.exp was replaced while cells ran"]))
    assert "replaced" not in page.text


@pytest.mark.parametrize("policy, words", [("own", "handed them in"), ("best", "ran twice")])
def test_the_policy_is_said_in_words(read, policy, words):
    assert words in read(result("ada", policy=policy)).text
    assert words not in read(result("ada", policy="reference")).text


def test_the_first_module_has_none_before_it(classroom):
    first = classroom.course.module("01")
    mark = Mark(Student("ada"), first.folder, result("ada", module=first.folder))
    assert "modules before" not in feedback_page(first, mark)


def test_why_nothing_could_be_graded(read):
    one = result("ada", *(f"test-{name}" for name in ("relu", "sigmoid", "softmax", "gelu")))
    one.problem = "activations.ipynb is no valid JSON"
    page = read(one)
    assert "Nothing could be graded\nactivations.ipynb is no valid JSON" in page.text
    assert "table" not in page.names()
    assert "waits" not in page.text


def test_a_persons_points_and_words(classroom, module, read):
    enter(classroom, module, [result("ada")])
    page = read(result("ada"))
    assert "One answer waits for a person to read: up to 10 more points come later." in page.text
    assert f"{ANSWER}\nto be graded\n10\n" in page.text
    give(classroom, module, "ada", ANSWER, 7, f"Which slope?\n{SCRIPT}")
    page = read(result("ada"))
    assert "waits" not in page.text
    assert f"{ANSWER}\n7 of 10\nWhich slope? {SCRIPT}" in page.text
    assert f"{ANSWER}\nsome points\n(by a person)\n7\n10" in page.text


def test_a_page_can_do_nothing(classroom, module):
    """Whatever a student's text holds is shown; nothing is run, nothing is loaded."""
    one = result("ada", policy="own")
    texts = [f"{place}{SCRIPT}\"' onload=x {{{{ 7 * 7 }}}}" for place in "abcd"]
    one.cells = [
        CellResult(texts[0], 0, 20, texts[1]),
        CellResult("t", 0, 20, f"{texts[2]} gave {SCRIPT}, expected 1: {SCRIPT}"),
        CellResult("h", 0, 20, texts[3], hidden=True),
    ]
    one.graded = SCRIPT
    write_result(classroom, module, one)
    mark = read_marks(classroom, module)[0]
    mark.comments[SCRIPT] = SCRIPT
    page = Page(feedback_page(module, mark))
    for text in texts:
        assert text in page.text
    assert not {"script", "link", "img", "iframe", "object"} & set(page.names())
    attributes = {name for _, attributes in page.tags for name in attributes}
    assert not {"src", "href", "onload", "onclick"} & attributes


def test_a_page_can_be_read_without_seeing_it(read):
    page = read(result("ada", "test-relu", "test-softmax"))
    levels = [int(tag[1]) for tag in page.names() if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert {attributes.get("scope") for tag, attributes in page.tags if tag == "th"} == {
        "row",
        "col",
    }
    assert ("html", {"lang": "en"}) in page.tags
    assert any("percent" in attributes.get("aria-label", "") for _, attributes in page.tags)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_have_contrast(theme):
    """At least 4.5 between text and page, as WCAG 2.2 asks for (1.4.3)."""
    from importlib.resources import files

    style = (files("tito.classroom") / "feedback.html.jinja").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): #(\w{6})", light if theme == "light" else dark))
    for name in ("text", "quiet", "good", "some", "bad", "wait"):
        for ground in ("page", "soft"):
            pair = sorted(map(luminance, (colours[name], colours[ground])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, ground)


def luminance(colour: str) -> float:
    """WCAG's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_unchanged_pages_are_not_rewritten(classroom, module, capsys):
    results = grade_a_class(classroom, module, 10)
    first = tito(capsys, "grade", "feedback", "02")
    assert "10 pages written, 0 unchanged" in first.out
    page = classroom.feedback(results[3].student, module)
    before = {path: path.stat().st_ino for path in classroom.root.glob("feedback/*/*/*.html")}
    assert len(before) == 10
    write_result(classroom, module, result(results[3].student, "test-gelu", policy="best"))
    assert "1 page written, 9 unchanged" in tito(capsys, "grade", "feedback", "02").out
    after = {path: path.stat().st_ino for path in before}
    assert [path for path in before if before[path] != after[path]] == [page]


def test_only_some_students(classroom, module, capsys):
    grade_a_class(classroom, module, 12)
    tito(capsys, "grade", "feedback", "02", "--students", "student-01*")
    written = sorted(path.name for path in (classroom.root / "feedback").iterdir())
    assert written == ["student-010", "student-011"]
    ran = tito(capsys, "grade", "feedback", "02", "--students", "nobody")
    assert (ran.status, ran.err) == (
        1,
        "02_activations: nobody who was graded matches 'nobody'\n",
    )


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_shows_the_page(classroom, module, tmp_path, capsys):
    """Chromium builds the document: a bar as wide as the points, and no console errors."""
    write_result(classroom, module, result("ada", "test-sigmoid"))
    tito(capsys, "grade", "feedback", "02")
    page = classroom.feedback("ada", module)
    picture = tmp_path / "page.png"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    done = subprocess.run(
        [
            "chromium",
            *flags,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}",
            "--window-size=800,1000",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    green = (abs(pixels - [0x1A / 255, 0x7F / 255, 0x37 / 255]) < 0.02).all(axis=2)
    width = max(green.sum(axis=1))
    frame = 800 - 2 * 20 - 2  # the page without its margins and the bar's border
    assert abs(width / frame - 0.6) < 0.02

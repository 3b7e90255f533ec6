"""The site: no warning, no dead link, no solution, nothing that needs the network."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlparse

import pytest

from tito.course import find_course
from tito.errors import TitoError
from tito.site import build, command_page, lay_out, lesson_page

COURSE = find_course()
pytestmark = pytest.mark.skipif(
    not (COURSE.root / "docs" / "conf.py").is_file(), reason="the site is built from a checkout"
)


class Page(HTMLParser):
    """The places that a page links to, what it loads, and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        for name in ("src", "href"):
            if tag in ("script", "img", "link", "iframe") and values.get(name):
                self.loads.append(values[name])


def dead_links(out, pages):
    """Links within the site that lead nowhere."""
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            target, anchor = urldefrag(link)
            if urlparse(link).scheme or link.endswith("#"):
                continue
            to = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            if not to.is_file() or (anchor and to in pages and anchor not in pages[to].anchors):
                yield f"{path.relative_to(out)}: {link}"


@pytest.mark.slow
def test_the_built_site(tmp_path):
    """One strict build: all links lead somewhere, nothing is loaded, formulas need no script."""
    pytest.importorskip("sphinx", reason="the site is built by Sphinx")
    build(COURSE, tmp_path, strict=True)
    files = [path for path in tmp_path.rglob("*.html") if "_static" not in path.parts]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in files}
    assert len(pages) > 2 * len(COURSE.modules)
    assert not list(dead_links(tmp_path, pages))
    loads = {load for page in pages.values() for load in page.loads}
    assert loads
    assert not [load for load in loads if re.match(r"(https?:)?//", load)]
    lesson = (tmp_path / "modules" / "12_attention.html").read_text(encoding="utf-8")
    assert lesson.count("<math") > 20
    assert not re.search(r"<p>[^<]*\$[^<$]+\$", lesson)


@pytest.mark.parametrize("module", COURSE.modules, ids=lambda module: module.folder)
def test_a_lesson_page_shows_no_solution(module):
    text = "\n".join(cell.source for cell in lesson_page(module).cells)
    assert "raise NotImplementedError()" in text
    assert "BEGIN SOLUTION" not in text and "HIDDEN TESTS" not in text
    assert not re.search(r"^#\|", text, re.MULTILINE)
    solutions = re.findall(
        r"### BEGIN SOLUTION\n(.+?)\n *### END SOLUTION", module.source.read_text(), re.DOTALL
    )
    assert solutions
    assert not [solution for solution in solutions if solution.count("\n") and solution in text]


def test_every_command_has_its_help_on_the_page():
    page = command_page()
    for command in ("tito module start", "tito milestone run", "tito docs build"):
        assert f"`{command}`" in page
        assert f"Usage: {command}" in page


def test_every_module_and_milestone_has_a_page(tmp_path):
    lay_out(COURSE, tmp_path)
    for module in COURSE.modules:
        assert (tmp_path / "modules" / f"{module.folder}.ipynb").is_file()
        assert module.export in (tmp_path / "api" / "index.md").read_text()
    stories = (tmp_path / "milestones" / "README.md").read_text()
    folders = sorted(path.name for path in (COURSE.root / "milestones").glob("[0-9]*"))
    assert folders and all(f"{folder}/README" in stories for folder in folders)
    assert not list(tmp_path.rglob("main.py"))


def test_without_sphinx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TitoError, match=r"pip install 'tinytorch\[docs\]'"):
        build(COURSE, tmp_path)

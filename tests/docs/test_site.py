"""The site: no warning, no dead link, no solution, nothing that needs the network."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlparse

import pytest

from tito.course import find_course
from tito.site import command_page, lay_out, lesson_page

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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """All pages of a strict build, by path."""
    pytest.importorskip("sphinx", reason="the site is built by Sphinx")
    from tito.site import build

    out = tmp_path_factory.mktemp("site")
    build(COURSE, out, strict=True)
    files = [path for path in out.rglob("*.html") if "_static" not in path.parts]
    return out, {path: Page(path.read_text(encoding="utf-8")) for path in files}


@pytest.mark.slow
def test_every_link_leads_somewhere(site):
    out, pages = site
    assert len(pages) > 2 * len(COURSE.modules)
    dead = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            target, anchor = urldefrag(link)
            if urlparse(link).scheme:
                continue
            to = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            if not to.is_file() or (anchor and to in pages and anchor not in pages[to].anchors):
                dead.append(f"{path.relative_to(out)}: {link}")
    assert not [link for link in dead if not link.endswith("#")]


@pytest.mark.slow
def test_pages_load_nothing_from_the_network(site):
    _, pages = site
    loads = {load for page in pages.values() for load in page.loads}
    assert loads
    assert not [load for load in loads if re.match(r"(https?:)?//", load)]


@pytest.mark.slow
def test_formulas_are_drawn_by_the_browser(site):
    out, _ = site
    page = (out / "modules" / "12_attention.html").read_text(encoding="utf-8")
    assert page.count("<math") > 20
    assert not re.search(r"<p>[^<]*\$[^<$]+\$", page)


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
    from tito import site
    from tito.errors import TitoError

    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TitoError, match=r"pip install 'tinytorch\[docs\]'"):
        site.build(COURSE, tmp_path)

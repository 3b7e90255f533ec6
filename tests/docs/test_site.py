"""The site: no warning, no dead link, no solution, nothing that needs the network."""

import functools
import http.server
import re
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from filelock import FileLock

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


@pytest.fixture(scope="module")
def site(tmp_path_factory, worker_id):
    """The folder of the built site; the workers of pytest-xdist share one."""
    pytest.importorskip("sphinx", reason="the site is built by Sphinx")
    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "site"
    with FileLock(f"{folder}.lock"):
        if not (folder / "index.html").is_file():
            build(COURSE, folder, strict=True)
    return folder


@pytest.mark.slow
def test_the_built_site(site):
    """One strict build: all links lead somewhere, nothing is loaded, formulas need no script."""
    files = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in files}
    assert len(pages) > 2 * len(COURSE.modules)
    assert not list(dead_links(site, pages))
    loads = {load for page in pages.values() for load in page.loads}
    assert loads
    assert not [load for load in loads if re.match(r"(https?:)?//", load)]
    lesson = (site / "modules" / "12_attention.html").read_text(encoding="utf-8")
    assert lesson.count("<math") > 20
    assert not re.search(r"<p>[^<]*\$[^<$]+\$", lesson)


@pytest.fixture(scope="module")
def address(site):
    """Where a browser finds the site."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        pass


# what sticks out of the page to the right and can't be scrolled to
STICKING_OUT = """() => {
  const width = document.documentElement.clientWidth
  const scrolls = e =>
    e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement))
  return [...document.querySelectorAll("body *")]
    .filter(e => e.checkVisibility({visibilityProperty: true}))  // a closed menu waits outside
    .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement))
    .map(e => e.outerHTML.slice(0, 80))
}"""
SIZES_OF_FORMULAS = """() => [...document.querySelectorAll("article math")]
  .map(e => e.getBoundingClientRect()).map(box => Math.min(box.width, box.height))"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_in_a_browser(address, width):
    """Home, a lesson with formulas and the instructor's guide, on a screen and on a phone."""
    from browser import expect, open_page

    with open_page(width=width) as page:
        complaints = []
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.on(
            "request", lambda r: None if r.url.startswith(address) else complaints.append(r.url)
        )

        def look(title):
            expect(page.locator("article h1")).to_contain_text(title)
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert not page.evaluate(STICKING_OUT)

        page.goto(f"{address}/index.html")
        look("TinyTorch")
        page.locator(".sd-card").filter(has_text="For instructors").click()
        look("A course in 15 minutes")

        if width < 600:  # the contents are behind a button
            page.locator(".primary-toggle").filter(visible=True).click()
        navigation = page.get_by_role("navigation", name="Main")
        navigation.get_by_role("link", name="Lessons").click()
        look("Lessons")
        page.locator("article").get_by_role("link", name="12 Attention").click()
        look("12 Attention")
        sizes = page.evaluate(SIZES_OF_FORMULAS)
        assert len(sizes) > 20 and min(sizes) > 3
        assert not complaints


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

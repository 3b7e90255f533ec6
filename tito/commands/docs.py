"""`tito docs`: the course's site."""

from __future__ import annotations

import functools
import http.server
from pathlib import Path

import click

from tito import output
from tito.commands import Data, LazyGroup, command


@click.group(cls=LazyGroup, places={"build": "docs:build_", "serve": "docs:serve_"})
def docs() -> None:
    """Build the course's site, or look at it.

    \b
    Build it:    tito docs build
    Look at it:  tito docs serve
    """


out_option = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("site"),
    show_default=True,
    help="The folder for the pages.",
)


@command(output.docs_build)
@out_option
@click.option("--strict", is_flag=True, help="Refuse what Sphinx warns of.")
def build_(out: Path, strict: bool) -> Data:
    """Build guides, lessons, milestones, the package's reference and that of tito as HTML.

    Lessons are shown as a student gets them: without solutions. The pages need no network.

    \b
    Example:  tito docs build --out site
    """
    from tito.course import find_course
    from tito.site import build

    with output.busy("building the site"):
        page = build(find_course(), out, strict)
    return {"ok": True, "page": str(page), "pages": sum(1 for _ in out.rglob("*.html"))}


@command(output.docs_serve)
@out_option
@click.option("--port", default=8000, show_default=True, help="Where the browser finds it.")
def serve_(out: Path, port: int) -> Data:
    """Build the site, then show it at http://localhost:8000 until Ctrl-C.

    \b
    Example:  tito docs serve --port 8001
    """
    from tito.course import find_course
    from tito.site import build

    with output.busy("building the site"):
        build(find_course(), out)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(out))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        output.say(f"http://localhost:{server.server_port} (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            output.say("")
    return {"ok": True, "out": str(out)}

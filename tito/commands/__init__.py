"""The commands of `tito`: one file a group, loaded when it is used.

A command's function returns its data, a dict that JSON can hold; `@command` adds `--json`, has the
data shown, and turns what went wrong into one line. A falsy `data["ok"]` makes the exit status
`data["status"]`, or 1 where that is not given.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import click

from tito import output
from tito.errors import TitoError

Data = dict[str, Any]
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LazyGroup(click.Group):
    """A group that knows where its commands live and imports one when it is called."""

    def __init__(self, *arguments: Any, places: Mapping[str, str], **options: Any):
        super().__init__(*arguments, context_settings=SETTINGS, **options)
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.places:
            return None
        file, _, name = self.places[cmd_name].partition(":")
        return getattr(importlib.import_module(f"tito.commands.{file}"), name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.places and not name.startswith("-"):
            close = get_close_matches(name, self.places, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(self.places)}"
            ctx.fail(f"no command {name!r}: {hint}")
        return super().resolve_command(ctx, args)


def command(
    show: Callable[[Any, Data], None], **settings: Any
) -> Callable[[Callable[..., Data]], click.Command]:
    """Make a command of a function that returns data: `show(console, data)` prints it.

    `settings` are click's context settings, besides those of all commands.
    """

    def decorate(function: Callable[..., Data]) -> click.Command:
        @functools.wraps(function)
        def run(as_json: bool, **arguments: Any) -> None:
            with output.speaking(as_json):
                try:
                    data = function(**arguments)
                except (TitoError, OSError) as error:
                    if isinstance(error, OSError) and not error.strerror:
                        raise  # nothing that the system refused, but a mistake of ours
                    output.fail(error)
                    raise SystemExit(1) from None
                output.show(show, data)
            if not data.get("ok", True):
                raise SystemExit(data.get("status", 1))

        json_option = click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")
        sentence = (function.__doc__ or "").partition("\n")[0]
        make = click.command(context_settings=SETTINGS | settings, short_help=sentence)
        return make(json_option(run))

    return decorate


@click.group(
    cls=LazyGroup,
    places={
        "quickstart": "quickstart:quickstart",
        "setup": "setup:setup",
        "doctor": "doctor:doctor",
        "module": "module:module",
        "milestone": "milestone:milestone",
        "grade": "grade:grade",
        "export": "export:export",
        "check": "check:check",
        "docs": "docs:docs",
    },
)
@click.version_option(package_name="tinytorch", prog_name="tito")
def tito() -> None:
    """Build your own deep-learning framework, module by module.

    \b
    See it at work:       tito quickstart
    Make your workspace:  tito setup my-course && cd my-course
    Begin to write:       tito module start 01
    """

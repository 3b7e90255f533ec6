"""The `tito` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of `tito`; `arguments` defaults to the command line's."""
    try:
        from tito.commands import tito

        return tito.main(args=arguments, prog_name="tito")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("tito", "tinytorch", ""):
            raise
        print("tito needs the course extra: pip install 'tinytorch[course]'", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

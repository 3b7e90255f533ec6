"""Somebody with a home folder of their own, so that tests leave the user's alone."""

import os
import sys
from pathlib import Path


def environment(home: Path) -> dict[str, str]:
    """Environment variables of a person whose home is `home`: this Python's programs come first."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER", "XDG_", "PYTHON", "PYTEST", "TITO_", "COLUMNS"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "HOME": str(home), "PATH": path}

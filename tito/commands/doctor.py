"""`tito doctor`: is everything here that the course needs?"""

from __future__ import annotations

from tito import output
from tito.commands import Data, command


@command(output.doctor)
def doctor() -> Data:
    """Look over Python, packages, kernel, workspace and data, and say what to do.

    \b
    Example:  tito doctor
    """
    from dataclasses import asdict

    from tito.doctor import examine

    return {"checks": [asdict(check) for check in examine()]}

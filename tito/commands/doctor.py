"""`tito doctor`: is everything here that the course needs?"""

from __future__ import annotations

from tito import output
from tito.commands import Data, command


@command(output.doctor)
def doctor() -> Data:
    """Look over your installation and say what to mend.

    Python, packages, NumPy's BLAS, the kernel, the workspace, and the folder for data.

    \b
    Example:  tito doctor
    """
    from dataclasses import asdict

    from tito.doctor import examine

    return {"checks": [asdict(check) for check in examine()]}

"""What `tito grade` prints: one view a command, as in tito/output.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Data = dict[str, Any]

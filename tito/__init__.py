"""The course's machinery: from lessons to notebooks, files, tests and points."""

import sys

# nbformat's validator would build a grammar of web addresses, for 2.5 s, and never use it
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

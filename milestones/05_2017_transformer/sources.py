"""Real text that is always at hand: the source of the package that runs."""

import re
from pathlib import Path

import tinytorch


def sources():
    """The files of the package, in the order of their names."""
    files = sorted(Path(tinytorch.__file__).parent.rglob("[!_]*.py"))
    return [file.read_text(encoding="utf-8") for file in files]


def words(text):
    """A sentence as words in lower case; of the marks, only ! and ? say something."""
    return re.findall(r"[^\W\d_]+|[!?]", text.lower())


def different(lines):
    """The lines of at least three words, each of them once."""
    long = {tuple(words(line)): line.strip() for line in lines if len(words(line)) > 2}
    return list(long.values())


def source_lines():
    """Lines of the package's own files: as many of code (0) as of docstrings and comments (1)."""
    code, prose = [], []
    for source in sources():
        parts = source.split('"""')
        for docstring in parts[1::2]:
            prose += re.sub(r">>>.*?(\n\n|$)", "", docstring, flags=re.DOTALL).splitlines()
        for line in "".join(parts[::2]).splitlines():
            before, _, comment = line.partition("# ")
            code.append(before)
            prose.append("" if comment.startswith("%%") else comment)
    code, prose = different(code), different(prose)
    code = code[:: max(1, len(code) // len(prose))][: len(prose)]
    return code + prose, [0] * len(code) + [1] * len(prose)

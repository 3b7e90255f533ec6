"""Whose `tinytorch` a notebook imports: the first cell of every lesson asks."""

from __future__ import annotations

from pathlib import Path


def whose_tinytorch() -> None:
    """Print the folder of the package and, file by file, who wrote what is in it."""
    import tinytorch
    from tito.course import find_course
    from tito.workspace import Workspace

    package = Path(tinytorch.__file__).parent
    course = find_course()
    workspace = Workspace(package.parent, course)
    by_origin: dict[str, list[str]] = {}
    for module in course.modules:
        by_origin.setdefault(workspace.origin(module), []).append(module.file)
    by_origin.pop("", None)  # what isn't there yet
    print(f"tinytorch: {package}")
    if not by_origin:
        print("nothing is in it yet: you are about to write its first file")
    for origin, files in sorted(by_origin.items(), reverse=True):
        print(f"{origin}: {', '.join(files)}")

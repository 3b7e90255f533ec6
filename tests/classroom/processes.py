"""What runs below a process, by the system's own account."""

from pathlib import Path


def family(process: int) -> dict[int, str]:
    """The state of each process that `process` started, directly or not, by id."""
    parents, states = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            states[int(folder.name)], parents[int(folder.name)] = status[0], int(status[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {each: states[each] for each in found if each in states}

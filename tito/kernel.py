"""The Jupyter kernel `tinytorch`: Python with the package of the notebook's own workspace first."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tito.workspace import find_root

NAME = "tinytorch"
# -P keeps the notebook's folder off the path until IPython puts it behind the workspace's
ARGUMENTS = [sys.executable, "-P", "-m", "tito.kernel", "-f", "{connection_file}"]


def install() -> Path:
    """Register the kernel for this user, with this Python; returns the folder that describes it."""
    from ipykernel.kernelspec import write_kernel_spec
    from jupyter_client.kernelspec import KernelSpecManager

    with tempfile.TemporaryDirectory() as folder:
        overrides = {"argv": ARGUMENTS, "display_name": "TinyTorch"}
        source = write_kernel_spec(Path(folder) / NAME, overrides)
        return Path(KernelSpecManager().install_kernel_spec(source, NAME, user=True))


def installed() -> list[str] | None:
    """The command line of the registered kernel, None where there is none."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        return KernelSpecManager().get_kernel_spec(NAME).argv
    except NoSuchKernel:
        return None


def put_first(folder: Path) -> None:
    """Let `folder` be searched before all else, by this process and by those that it starts."""
    sys.path.insert(0, str(folder))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), inherited]))


def main() -> None:
    """Start the kernel; Jupyter does so in the notebook's folder."""
    root = find_root(Path.cwd())
    if root:
        put_first(root)

    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()


if __name__ == "__main__":
    main()

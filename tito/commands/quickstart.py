"""`tito quickstart`: see the main job done in a minute."""

from __future__ import annotations

from pathlib import Path

import click

from tito import output
from tito.commands import Data, command


@command(output.quickstart)
@click.option(
    "--data",
    type=click.Choice(["digits", "mnist"]),
    default="digits",
    show_default=True,
    help="digits is part of the package; mnist is read from $TINYTORCH_DATA or downloaded.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Draw the loss curve, the weights before and after, and what INT8 changes.",
)
def quickstart(data: str, plot: Path | None) -> Data:
    """Train a network on real digits, quantise it to INT8, and compare the two.

    It exports the modules, trains a multilayer perceptron with the exported package, quantises it
    with quantize_model, and prints accuracy, bytes and time of both, and where each comes from.

    \b
    Example:  tito quickstart
              tito quickstart --data mnist --plot quickstart.png
    """
    from tito.quickstart import quickstart as run

    return run(data, plot)

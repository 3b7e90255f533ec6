"""Module 14's table of FLOPs against all ops that the package defines."""

import inspect
import re

from ops import package_ops

from tinytorch.profiling.profiler import FLOPS

PRODUCT = re.compile(
    r" @ |\bmatmul\(|\beinsum\(|\bdot\(|\btensordot\(|\b_times\(|\bint8_matmul\(|\bcarried_matmul\("
)
# these multiply in functions that they call
HIDDEN = {"cross_entropy", "conv2d", "conv_transpose2d", "conv2d_weight", "conv2d_sums"}


def test_every_contracting_op_has_a_row():
    """An op that multiplies matrices does more than one FLOP for each element of its result."""
    contracting = set(HIDDEN)
    for op in package_ops().values():
        if PRODUCT.search(inspect.getsource(inspect.unwrap(op))):
            contracting.add(op.__name__)
    assert {"matmul", "linear", "einsum", "int8_linear", "linear_sums"} <= contracting
    assert contracting <= set(FLOPS), sorted(contracting - set(FLOPS))


def test_every_row_belongs_to_an_op():
    assert set(FLOPS) <= {op.__name__ for op in package_ops().values()}

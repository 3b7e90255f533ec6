"""Attention forward and backward, plain and by blocks, beside PyTorch's: time, and peak of memory.

python benchmarks/attention.py [--quick] [--json PATH] [--check]
"""

from common import Row, arguments, interleave, report  # isort: skip (pins the threads first)

import gc
import tracemalloc

import numpy as np
import torch

from tinytorch import Tensor
from tinytorch.core.attention import scaled_dot_product_attention

torch.set_num_threads(1)

HEADS, SIZE, BLOCK = 4, 64, 256
LENGTHS = (128, 256, 512, 1024, 2048)
LIMIT = 2.5  # for our blocks' time beside PyTorch's fused attention


def contenders(length, is_causal):
    """Forward and backward on the same random texts: by blocks, PyTorch's and the plain one."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((1, HEADS, length, SIZE), np.float32) for _ in range(3)]
    g = np.ones(arrays[0].shape, np.float32)
    ours = [Tensor(x, requires_grad=True) for x in arrays]
    theirs = [torch.tensor(x, requires_grad=True) for x in arrays]
    theirs_g = torch.tensor(g)

    def run(block_size):
        options = {"is_causal": is_causal, "block_size": block_size}
        scaled_dot_product_attention(*ours, **options).backward(g)

    def peer():
        function = torch.nn.functional.scaled_dot_product_attention
        function(*theirs, is_causal=is_causal).backward(theirs_g)

    return {"blocks": lambda: run(BLOCK), "PyTorch": peer, "plain": lambda: run(None)}


def megabytes(run):
    """The peak of what NumPy holds during a run, as text."""
    gc.collect()
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return f"{peak / 1e6:.1f}"


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0])
    rounds = 5 if options.quick else 25
    tables = {}
    for is_causal in (False, True):
        rows = []
        for length in LENGTHS:
            runs = contenders(length, is_causal)
            notes = {f"MB {who}": megabytes(runs[who]) for who in ("blocks", "plain")}
            medians = interleave(f"T = {length}", runs, rounds)
            rows.append(Row(f"T = {length}", medians, LIMIT, notes=notes))
        kind = "Causal attention" if is_causal else "Attention"
        tables[f"{kind}, {HEADS} heads of {SIZE}, PyTorch {torch.__version__}"] = rows
    report(tables, options)

"""The count of FLOPs against PyTorch's, which leaves out additions of biases and activations."""

import itertools

import numpy as np
import pytest

from tinytorch import Profiler, einsum, nn, ones, profile

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


def torch_flops(action):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def test_a_model_counts_as_in_pytorch():
    sizes, batch = (20, 30, 10), 7
    ours = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)))
    theirs = torch.nn.Sequential(
        *(torch.nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes))
    )
    expected = torch_flops(lambda: theirs(torch.ones(batch, 20)))
    assert Profiler().count_flops(ours, ones(batch, 20)) == expected


def test_einsum_counts_as_in_pytorch():
    a, b = np.ones((5, 2, 3), np.float32), np.ones((5, 3, 4), np.float32)
    subscripts = "bij,bjk->bik"
    expected = torch_flops(lambda: torch.einsum(subscripts, torch.tensor(a), torch.tensor(b)))
    with profile() as trace:
        einsum(subscripts, ones(5, 2, 3), ones(5, 3, 4))
    assert trace.flops == expected

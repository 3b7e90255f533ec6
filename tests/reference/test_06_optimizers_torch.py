"""Optimizers, clipping and schedules of module 06 against PyTorch's."""

import numpy as np
import pytest

from tinytorch import optim
from tinytorch.core.tensor import Tensor

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SHAPES = [(7, 5), (5,), (5, 3), (3,)]
CASES = [
    ("SGD", dict(lr=0.1)),
    ("SGD", dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
    ("SGD", dict(lr=0.1, momentum=0.9, nesterov=True)),
    ("Adam", dict(lr=0.01)),
    ("Adam", dict(lr=0.01, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1)),
    ("AdamW", dict(lr=0.01)),
    ("AdamW", dict(lr=0.01, weight_decay=0.3)),
    ("RMSprop", dict(lr=0.01)),
    ("RMSprop", dict(lr=0.01, alpha=0.9, momentum=0.9, weight_decay=0.1)),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_fifty_steps_equal_pytorch(name, settings, dtype, tolerance):
    random = np.random.default_rng(0)
    start = [random.standard_normal(s).astype(dtype) for s in SHAPES]
    mine = [Tensor(x, requires_grad=True, dtype=dtype) for x in start]
    theirs = [torch.tensor(x, requires_grad=True) for x in start]
    ours, peer = (
        getattr(optim, name)(mine, **settings),
        getattr(torch.optim, name)(theirs, **settings),
    )
    for step in range(50):
        for k, (p, q) in enumerate(zip(mine, theirs, strict=True)):
            g = random.standard_normal(p.shape).astype(dtype)
            missing = step % 3 == 1 and k == 1  # a parameter that now and then has no gradient
            p.grad = None if missing else Tensor(g, dtype=dtype)
            q.grad = None if missing else torch.tensor(g)
        ours.step()
        peer.step()
        for p, q in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(
                p.numpy(), q.detach().numpy(), rtol=tolerance, atol=tolerance
            )


def test_clip_grad_norm_equals_pytorch():
    random = np.random.default_rng(0)
    gradients = [random.standard_normal(s).astype(np.float32) for s in SHAPES]
    mine = [Tensor(np.zeros(s), requires_grad=True) for s in SHAPES]
    theirs = [torch.zeros(s, requires_grad=True) for s in SHAPES]
    for p, q, g in zip(mine, theirs, gradients, strict=True):
        p.grad, q.grad = Tensor(g), torch.tensor(g)
    norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5).item()
    assert optim.clip_grad_norm(mine, 0.5) == pytest.approx(norm, rel=1e-6)
    for p, q in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-5)


def test_schedules_equal_pytorch():
    def rates(make, steps):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        schedule = make(optimizer)
        for _ in range(steps):
            yield schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()

    library = torch.optim.lr_scheduler
    pairs = [
        (lambda o: library.CosineAnnealingLR(o, 40, 0.01), optim.CosineSchedule(0.1, 0.01, 40)),
        (lambda o: library.StepLR(o, 7, 0.3), optim.StepSchedule(0.1, 7, 0.3)),
        (lambda o: library.OneCycleLR(o, 0.2, 40), optim.OneCycleSchedule(0.2, 40)),
    ]
    for make, ours in pairs:
        np.testing.assert_allclose([ours(i) for i in range(40)], list(rates(make, 40)), rtol=1e-6)

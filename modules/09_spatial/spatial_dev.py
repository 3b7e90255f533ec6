# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.spatial

# %% [markdown]
r"""
# Spatial layers

> Layers that know where a pixel lies: convolution, pooling and normalisation of images.

Time: 6 to 7 hours; two evenings, with a natural pause before "The layers". Your networks so far take an image as a row of numbers. This
module gives them neighbourhoods: the same small kernel looks at every place of an image. You start with seven nested loops and end with a few
matrix products, and every step on the way is measured.
"""

# %%
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from tinytorch.core import tensor
from tinytorch.core.autograd import joint_vjp, vjp
from tinytorch.core.layers import Module
from tinytorch.core.tensor import Tensor, op, rand, stack, writes

# %%
import time

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import grad, gradcheck, no_grad
from tinytorch.core.layers import Flatten, Linear, Sequential
from tinytorch.core.losses import CrossEntropyLoss
from tinytorch.core.optimizers import Adam
from tinytorch.core.tensor import manual_seed
from tinytorch.core.training import Trainer, accuracy
from tinytorch.data.loader import DataLoader, Digits
from tito.testing import check, check_raises

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # pictures are left out; everything else works


def seconds(action, repeat=5):
    """The median time of an action."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeat // 2]


# %% [markdown]
r"""
## The problem: one pixel to the right

Train a network on handwritten digits, then show it the test images moved by one pixel. To you nothing has changed. **Predict** what
happens to its accuracy, and write it down.
"""


# %%
def moved(images, pixels):
    """Images shifted to the right (pixels > 0) or to the left; what leaves at an edge is lost."""
    out = np.zeros_like(images)
    if pixels >= 0:
        out[..., pixels:] = images[..., : images.shape[-1] - pixels]
    else:
        out[..., :pixels] = images[..., -pixels:]
    return out


def train_on_digits(model, epochs=12):
    """Train on the digits as they are; the trainer, and the accuracy on moved test images."""
    train, test = Digits(), Digits(train=False)
    trainer = Trainer(model, Adam(model.parameters(), lr=3e-3), CrossEntropyLoss())
    trainer.fit(DataLoader(train, batch_size=64, shuffle=True, seed=0), epochs=epochs)
    model.eval()
    with no_grad():
        scores = {
            pixels: accuracy(model(Tensor(moved(np.asarray(test.images), pixels))), test.labels)
            for pixels in (-2, -1, 0, 1, 2)
        }
    return trainer, scores


manual_seed(0)
mlp = Sequential(Flatten(), Linear(64, 64), ReLU(), Linear(64, 10))
_, mlp_scores = train_on_digits(mlp)
print({pixels: round(score, 3) for pixels, score in mlp_scores.items()})
print("weights:", sum(p.size for p in mlp.parameters()))

# %% [markdown]
r"""
Each weight belongs to one pixel. A stroke that was learned at column 3 means nothing at column 4, and an image of 224 x 224 x 3 would need
150,528 weights for each hidden unit.

The cure has two parts. A unit looks at a small **window** only, and the **same weights** are used for every window:

```
  image 4 x 4            kernel 3 x 3         result 2 x 2

  a b c d
  e f g h                 1 2 3               y00 = a1 + b2 + c3
  i j k l                 4 5 6                   + e4 + f5 + g6
  m n o p                 7 8 9                   + i7 + j8 + k9
```

With C channels in and O out, a kernel has weights for every channel, and there is one kernel for each output channel:

$$y_{n,o,h,w} = b_o + \sum_{c,i,j} x_{n,\,c,\,h s + i d - p,\;w s + j d - p}\; w_{o,c,i,j}$$

with stride $s$ (how far the window moves), dilation $d$ (how far apart the kernel's cells lie) and padding $p$ (a frame of zeros). Mathematicians call it
cross-correlation; everybody in deep learning calls it convolution.

### Exercise: conv2d_loops

Write it down as it stands: one loop for each of n, o, h, w and then c, i, j. No padding, no dilation, stride 1. `x` is (N, C, H, W), `weight` (O, C, KH, KW);
the result (N, O, H - KH + 1, W - KW + 1). One worked number: image `[[1, 2, 3]]`, kernel `[[1, 10]]` gives $1 + 20 = 21$ and $2 + 30 = 32$.
"""


# %% nbgrader={"grade": false, "grade_id": "conv2d-loops", "locked": false, "schema_version": 3, "solution": true, "task": false}
def conv2d_loops(x, weight):
    """The definition, seven loops deep."""
    (images, channels, height, width), (outputs, _, kh, kw) = x.shape, weight.shape
    y = np.zeros((images, outputs, height - kh + 1, width - kw + 1))
    ### BEGIN SOLUTION
    for n in range(images):
        for o in range(outputs):
            for h in range(height - kh + 1):
                for w in range(width - kw + 1):
                    for c in range(channels):
                        for i in range(kh):
                            for j in range(kw):
                                y[n, o, h, w] += x[n, c, h + i, w + j] * weight[o, c, i, j]
    ### END SOLUTION
    return y


# %% nbgrader={"grade": true, "grade_id": "test-conv2d-loops", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_conv2d_loops():
    row, kernel = np.array([[[[1.0, 2, 3]]]]), np.array([[[[1.0, 10]]]])
    check(conv2d_loops(row, kernel), [[[[21.0, 32.0]]]], "1 * 1 + 2 * 10, then 2 * 1 + 3 * 10")
    two = np.array([[[[1.0]], [[5.0]]]])
    check(conv2d_loops(two, np.array([[[[2.0]], [[3.0]]]])), [[[[17.0]]]], "channels are summed")
    ### BEGIN HIDDEN TESTS
    x = np.arange(2 * 2 * 4 * 5.0).reshape(2, 2, 4, 5)
    kernels = np.arange(3 * 2 * 2 * 3.0).reshape(3, 2, 2, 3) - 15
    windows = sliding_window_view(x, (2, 3), axis=(2, 3))
    expected = np.einsum("nchwij,ocij->nohw", windows, kernels)
    check(conv2d_loops(x, kernels), expected, "rows and columns, images and kernels in their order")
    ### END HIDDEN TESTS


test_conv2d_loops()

# %%
small = np.random.default_rng(0).standard_normal((1, 3, 16, 16))
kernels = np.random.default_rng(1).standard_normal((8, 3, 3, 3))
loops_time = seconds(lambda: conv2d_loops(small, kernels), repeat=1)
operations = 2 * 8 * 14 * 14 * 3 * 3 * 3
print(f"{loops_time * 1e3:.0f} ms for one image: {operations / loops_time / 1e6:.1f} MFLOP/s")

# %% [markdown]
r"""
A network does that for thousands of images, a thousand times. Everything below computes the same numbers.

## How many windows?

An axis of `size` cells gets a `margin` of padding, both ends together. A kernel of $k$ cells with dilation $d$ **spans** $d (k - 1) + 1$ cells.

```
  size 7, kernel 3, stride 2:   [0 1 2] 3 4 5 6
                                 0 1 [2 3 4] 5 6
                                 0 1 2 3 [4 5 6]      3 windows
```

### Exercise: output_size

$\lfloor (\mathrm{size} + \mathrm{margin} - \mathrm{span}) / \mathrm{stride} \rfloor + 1$. Where the kernel spans more than there is, raise ValueError: the message says `spans`, the
span and the padded size. One worked number: size 32, kernel 3, stride 2, margin 2 gives $\lfloor 31/2 \rfloor + 1 = 16$.
"""


# %% nbgrader={"grade": false, "grade_id": "output-size", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def output_size(size: int, kernel: int, stride: int = 1, margin: int = 0, dilation: int = 1) -> int:
    """How many windows fit along one axis: floor((size + margin - span) / stride) + 1.

    `margin` is the padding of both ends together; a window spans dilation * (kernel - 1) + 1 cells.
    Raises ValueError where not even one fits.

    >>> output_size(28, kernel=5), output_size(32, kernel=3, stride=2, margin=2)
    (24, 16)
    """
    ### BEGIN SOLUTION
    span = dilation * (kernel - 1) + 1
    if span > size + margin:
        raise ValueError(
            f"the kernel spans {span}, the padded input only {size + margin}: "
            "take a smaller kernel or dilation, or more padding"
        )
    return (size + margin - span) // stride + 1
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-output-size", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
def test_output_size():
    check(output_size(7, 3, stride=2), 3, "the picture above")
    check(output_size(32, 3, stride=2, margin=2), 16, "(32 + 2 - 3) // 2 + 1")
    ### BEGIN HIDDEN TESTS
    check(output_size(9, 3, dilation=4), 1, "a dilated kernel of 3 spans 9")
    check(output_size(5, 5), 1, "a kernel as large as the input fits once")
    with check_raises(ValueError, "spans", "no window fits"):
        output_size(4, 5)
    with check_raises(ValueError, "spans", "the dilated kernel is too large, the kernel isn't"):
        output_size(8, 3, dilation=4)
    ### END HIDDEN TESTS


test_output_size()

# %% [markdown]
r"""
The rest of the bookkeeping is given: numbers or pairs of them, `padding="same"`, and the errors that go with them, in one `Grid`.
"""


# %% nbgrader={"grade": false, "grade_id": "grid", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
class _Grid(NamedTuple):
    """Where windows lie on images; everything is for (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    margins: tuple[tuple[int, int], tuple[int, int]]  # padding before and after
    size: tuple[int, int]  # of an image
    out: tuple[int, int]  # how many windows fit


def _pair(name: str, value: Any, least: int = 1) -> tuple[int, int]:
    """`value` for rows and columns: an int, or two of them."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in pair)
    if len(pair) != 2 or not whole or min(pair) < least:
        raise ValueError(f"{name}: expected an int or two of them, at least {least}, got {value!r}")
    return int(pair[0]), int(pair[1])


def _margins(padding: Any, kernel: tuple, stride: tuple, dilation: tuple) -> Any:
    """The padding before and after, for rows and columns; 'same' keeps the size of an image."""
    if padding != "same":
        padding = 0 if padding == "valid" else padding
        before = _pair("padding", padding, least=0)
        return (before[0], before[0]), (before[1], before[1])
    if stride != (1, 1):
        raise ValueError(f"padding 'same' needs stride 1, got {stride}")
    rows, columns = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


def _grid(size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> _Grid:
    """The grid of windows on images of a size; ValueError where none fits."""
    size, kernel = _pair("size", size, least=0), _pair("kernel_size", kernel)
    stride, dilation = _pair("stride", stride), _pair("dilation", dilation)
    margins = _margins(padding, kernel, stride, dilation)
    rows, columns = (
        output_size(size[i], kernel[i], stride[i], sum(margins[i]), dilation[i]) for i in (0, 1)
    )
    return _Grid(kernel, stride, dilation, margins, size, (rows, columns))


def _grid_of(x: np.ndarray, *how: Any) -> _Grid:
    """The grid of windows on `x`; ValueError unless that is a batch of images."""
    if x.ndim != 4:
        raise ValueError(f"expected images of shape (N, C, H, W), got {x.shape}")
    return _grid(x.shape[2:], *how)


# %% [markdown]
r"""
## Windows without copying

An array is a block of memory and a rule: its **strides** say how many bytes to go for the next row, the next column. A view with other strides shows the same memory in another
order. So all windows of an image are a view, too: a step to the next window is a step to the next pixel, and a step within a window is the very same. Nothing forbids that two axes walk the same way.

**Predict**: how many bytes does the array of all 3 x 3 windows of a 100 x 100 image of float32 occupy, if it is a view? How many, if it is copied?
"""

# %%
image = np.zeros((100, 100), np.float32)
view = sliding_window_view(image, (3, 3))
print("shape", view.shape, "strides", view.strides, "of the image", image.strides)
print("shares the image's memory:", np.shares_memory(view, image))
print(f"the image has {image.nbytes:,} bytes, a copy of the windows {view.nbytes:,}")

# %% [markdown]
r"""
### Exercise: sliding_windows

NumPy's `sliding_window_view(x, spans, axis=(2, 3))` gives every window at stride 1, its cells in two new last axes: (N, C, H', W', span_h, span_w). Give it the **span** of the kernel, then take every
stride-th window and every dilation-th cell by slices, and bring the axes into the order (N, C, KH, KW, OH, OW). Pass `writeable=x.flags.writeable`, since `fold` will write through this view.

One worked number: on the row `[0, 1, 2, 3, 4]` with kernel (1, 2), stride 2 and dilation 2 the windows are `[0, 2]` and `[2, 4]`.

<details><summary>Hint</summary>

`view[:, :, ::down, ::right, ::rows, ::columns]`, then `.transpose(...)` with the six axes in their new order.
</details>
"""


# %% nbgrader={"grade": false, "grade_id": "sliding-windows", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def sliding_windows(
    x: np.ndarray,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Every window of images, as a view: (N, C, H, W) -> (N, C, KH, KW, OH, OW).

    Nothing is copied: what is written into a window is written into `x`.

    >>> sliding_windows(np.arange(5.0).reshape(1, 1, 1, 5), (1, 2))[0, 0, 0, :, 0]
    array([[0., 1., 2., 3.],
           [1., 2., 3., 4.]])
    """
    ### BEGIN SOLUTION
    spans = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    view = sliding_window_view(x, spans, axis=(2, 3), writeable=x.flags.writeable)
    (down, right), (rows, columns) = stride, dilation
    return view[:, :, ::down, ::right, ::rows, ::columns].transpose(0, 1, 4, 5, 2, 3)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-sliding-windows", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def test_sliding_windows():
    x = np.arange(5.0).reshape(1, 1, 1, 5)
    got = sliding_windows(x, (1, 2), (1, 2), (1, 2))[0, 0, 0]
    check(got[:, 0], [[0.0, 2.0], [2.0, 4.0]], "first cells 0 and 2, second cells 2 and 4")
    images = np.arange(2 * 3 * 6 * 7.0).reshape(2, 3, 6, 7)
    windows = sliding_windows(images, (3, 2))
    check(windows.shape, (2, 3, 3, 2, 4, 6), "(N, C, KH, KW, OH, OW)")
    check(windows[1, 2, 2, 1, 3, 4], images[1, 2, 5, 5], "[n, c, i, j, h, w] is x[n, c, h+i, w+j]")
    ### BEGIN HIDDEN TESTS
    check(np.shares_memory(windows, images), True, "a view, not a copy")
    both = sliding_windows(images, (2, 3), (2, 1), (3, 2))
    check(both.shape, (2, 3, 2, 3, 2, 3), "rows and columns each have their own")
    check(both[0, 1, 1, 2, 1, 2], images[0, 1, 5, 6], "h * stride + i * dilation")
    windows[0, 0, 1, 1, 2, 2] = -7
    check(images[0, 0, 3, 3], -7.0, "writing through the view reaches the image")
    ### END HIDDEN TESTS


test_sliding_windows()

# %% [markdown]
r"""
## One matrix product

Write each window as a **column**. A kernel, written as a row, then meets all windows of an image in one matrix product:

```
                        one column for each window
                        . . . . . . . . .
  one row for   . . . . . . . . . . . . .       . . . . . . . . .   one row for
  each kernel   . . . . . . . . . . . . .   =   . . . . . . . . .   each kernel
                        . . . . . . . . .
                C KH KW         OH OW                 OH OW
```

### Exercise: unfold

`grid` and the windows are there: copy them, and give the copy the shape (N, C KH KW, OH OW). One worked number: a 2 x 3 image has two 2 x 2 windows; the first column is 1, 2, 4, 5 for the image `[[1, 2, 3], [4, 5, 6]]`.
"""


# %% nbgrader={"grade": false, "grade_id": "unfold", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def _padded(x: np.ndarray, grid: _Grid, fill: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """x in its margins, and all windows of that as a view."""
    if any(map(any, grid.margins)):
        x = np.pad(x, ((0, 0), (0, 0), *grid.margins), constant_values=fill)
    return x, sliding_windows(x, grid.kernel, grid.stride, grid.dilation)


@op
def unfold(x, kernel_size, stride=1, padding=0, dilation=1):
    """Every window as a column, also called im2col: (N, C, H, W) -> (N, C KH KW, OH OW).

    >>> unfold(Tensor([[[[1, 2, 3], [4, 5, 6]]]]), kernel_size=2)
    Tensor([[[1., 2.],
             [2., 3.],
             [4., 5.],
             [5., 6.]]])
    """
    grid = _grid_of(x, kernel_size, stride, padding, dilation)
    windows = _padded(x, grid)[1]
    ### BEGIN SOLUTION
    rows, places = x.shape[1] * math.prod(grid.kernel), math.prod(grid.out)
    return windows.copy().reshape(len(x), rows, places)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-unfold", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
def test_unfold():
    got = unfold(Tensor([[[[1, 2, 3], [4, 5, 6]]]]), kernel_size=2)
    check(got, [[[1.0, 2], [2, 3], [4, 5], [5, 6]]], "the columns are the windows 1 2 4 5, 2 3 5 6")
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 7))
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 2))
    product = (weight.reshape(4, -1) @ unfold(x, kernel_size=(3, 2))).reshape(2, 4, 6, 6)
    check(product, conv2d_loops(x, weight), "rows of kernels times columns of pixels")
    ### BEGIN HIDDEN TESTS
    check(unfold(np.zeros((0, 2, 4, 4)), kernel_size=3).shape, (0, 18, 4), "no images, no columns")
    padded = unfold(np.ones((1, 1, 2, 2)), kernel_size=3, padding=1)
    check(padded[0, :, 0], [0.0, 0, 0, 0, 1, 1, 0, 1, 1], "the first window hangs over the corner")
    ### END HIDDEN TESTS


test_unfold()

# %% [markdown]
r"""
### Exercise: fold

The way back: columns (N, C KH KW, OH OW) into images. Windows overlap, so a pixel collects the sum of all cells that show it. Start from padded zeros and walk over the KH KW cells of the
kernel: for the cell (i, j), `windows[:, :, i, j]` is a view of one pixel for each window, **all different ones**, so that `+=` is safe.

One worked number: two windows of 1 x 2 on a row of three pixels, with values `[1, 2]` and `[10, 20]`: the middle pixel is in both, so the row is `[1, 12, 20]`.
"""


# %% nbgrader={"grade": false, "grade_id": "fold", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def fold(columns, size, kernel_size, stride=1, padding=0, dilation=1):
    """Every column added where its window lies: (N, C KH KW, OH OW) -> (N, C, *size).

    Raises ValueError where the columns are not those of images of that size.

    >>> fold(Tensor([[[1, 10], [2, 20]]]), size=(1, 3), kernel_size=(1, 2))
    Tensor([[[[ 1., 12., 20.]]]])
    """
    grid = _grid(size, kernel_size, stride, padding, dilation)
    area, places = math.prod(grid.kernel), math.prod(grid.out)
    if columns.ndim != 3 or columns.shape[1] % area or columns.shape[2] != places:
        raise ValueError(f"expected columns (N, C * {area}, {places}), got {columns.shape}")
    channels = columns.shape[1] // area
    cells = columns.reshape(len(columns), channels, *grid.kernel, *grid.out)
    zeros = np.zeros((len(columns), channels, *grid.size), columns.dtype)
    padded, windows = _padded(zeros, grid)
    ### BEGIN SOLUTION
    for i, j in np.ndindex(grid.kernel):
        windows[:, :, i, j] += cells[:, :, i, j]
    ### END SOLUTION
    return _unpadded(padded, grid)


def _unpadded(padded: Any, grid: _Grid) -> Any:
    """The images without their margins: a view."""
    (top, _), (left, _) = grid.margins
    return padded[:, :, top : top + grid.size[0], left : left + grid.size[1]]


# %% nbgrader={"grade": true, "grade_id": "test-fold", "locked": true, "points": 7, "schema_version": 3, "solution": false, "task": false}
def test_fold():
    got = fold(Tensor([[[1, 10], [2, 20]]]), size=(1, 3), kernel_size=(1, 2))
    check(got, [[[[1.0, 12, 20]]]], "the pixel in the middle is in both windows: 2 + 10")
    ones = np.ones((1, 1, 4, 4))
    counts = fold(unfold(ones, kernel_size=3), size=(4, 4), kernel_size=3)
    edge, inner = [1.0, 2, 2, 1], [2.0, 4, 4, 2]
    check(counts[0, 0], [edge, inner, inner, edge], "a pixel counts once for each of its windows")
    ### BEGIN HIDDEN TESTS
    random = np.random.default_rng(0)
    how = dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 1), dilation=(1, 2))
    x = random.standard_normal((2, 3, 7, 6))
    columns = random.standard_normal(unfold(x, **how).shape)
    there, back = (columns * unfold(x, **how)).sum(), (fold(columns, size=(7, 6), **how) * x).sum()
    check(float(back), float(there), "<columns, unfold(x)> = <fold(columns), x>", 1e-9)
    ### END HIDDEN TESTS


test_fold()

# %% [markdown]
r"""
### Exercise: the rules of unfold and fold

`unfold` copies a pixel into several columns, so its gradient is the **sum** of what comes back at these places. `fold` adds, so each summand gets the whole gradient: a copy. Do you recognise them?
Write both rules: `vjp(unfold, lambda g, out, x, **how: ...)` and `vjp(fold, lambda g, out, columns, size, **how: ...)`. `how` holds kernel_size, stride, padding and dilation, as they were given: hand them on.
"""

# %% nbgrader={"grade": false, "grade_id": "unfold-rules", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
### BEGIN SOLUTION
vjp(unfold, lambda g, out, x, **how: fold(g, size=x.shape[2:], **how))
vjp(fold, lambda g, out, columns, size, **how: unfold(g, **how))
### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-unfold-rules", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
def test_unfold_rules():
    x = Tensor(np.ones((1, 1, 3, 3)), requires_grad=True)
    by_x = grad(unfold(x, kernel_size=2).sum(), x)
    check(by_x, [[[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]]], "a pixel counts once for each window")
    ### BEGIN HIDDEN TESTS
    random = np.random.default_rng(0)
    how = dict(kernel_size=2, stride=2, padding=1, dilation=1)
    points = random.standard_normal((1, 2, 3, 4))
    columns = random.standard_normal((1, 8, 6))
    right = gradcheck(lambda x: unfold(x, **how) ** 2, points, order=2)
    check(right, True, "also to second order")
    right = gradcheck(lambda y: fold(y, size=(3, 4), **how) ** 2, columns, order=2)
    check(right, True, "also to second order")
    ### END HIDDEN TESTS


test_unfold_rules()

# %%
columns_time = seconds(lambda: kernels.reshape(8, -1) @ unfold(small, kernel_size=3))
print(f"loops {loops_time * 1e3:.1f} ms, unfold and product {columns_time * 1e3:.3f} ms")
speed = operations / columns_time / 1e9
print(f"{loops_time / columns_time:,.0f} times as fast: {speed:.1f} GFLOP/s")

# %% [markdown]
r"""
That is the classic: two operations, both with gradients. It has one weakness. The columns of a 3 x 3 kernel are **nine times** as large as the images, and autograd keeps them until backward.

## A few images at a time

The columns of all images don't fit into the processor's cache, and main memory is slow. The columns of **one** image may. So make the columns of a few images, multiply, and use the same memory again for the
next few; and keep none of them: backward can make them again from the images, which autograd holds anyway.

The room for that is given. It has one more trick. Copying rows of 30 pixels, one by one, costs more than copying one run of 900. At stride 1, and unless that is much wider, `_Room` takes each row of windows as wide as the padded image:

```
  padded row 0:  a b c d e        windows of 3 start at a, b, c;  those at d and e wrap around: junk
  padded row 1:  f g h i j        but with them, the first cells of all windows are one run: a b c d e f g h i j ...
```

The junk is multiplied too (for an image of 32 x 32 and a 3 x 3 kernel 6 % of the work), and cut off in the end.

Where images are small, as deep in a network, the columns of one would make a narrow matrix, and the product would spend its time on fetching the kernels. So images lie **side by side**: the columns of N images with L places
each are one matrix with N L columns, at least `PLACES` of them.
"""


# %% nbgrader={"grade": false, "grade_id": "room", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| exporti
BLOCK = 1 << 17  # numbers in the columns of a few images: half a megabyte of float32
PLACES = 256  # but at least so many columns, where images are small: few make a slow product


class _Room:
    """Memory for the windows of a few images, used again for the next few: it stays in the cache.

    At stride 1 a row of windows is taken as wide as the padded image (unless that is much wider):
    what wraps around the edge is junk, to be cut off later, but all rows of an image become one run
    of memory, quick to copy.
    """

    def __init__(self, images: int, channels: int, grid: _Grid, dtype: Any):
        (top, bottom), (left, right) = grid.margins
        height, width = top + grid.size[0] + bottom, left + grid.size[1] + right
        wide = grid.stride == (1, 1) and 2 * width <= 3 * grid.out[1]  # at most a third is junk
        self.grid, self.width = grid, width if wide else grid.out[1]
        cells, places = channels * math.prod(grid.kernel), grid.out[0] * self.width
        count = max(1, BLOCK // max(1, cells * places), PLACES // max(1, places))
        count = min(count, max(1, images))
        size = count * channels * height * width
        slack = grid.kernel[1] * grid.dilation[1]  # for the last row, which wraps around, too
        self.memory = np.zeros(size + slack, dtype)
        padded = self.memory[:size].reshape(count, channels, height, width)
        self.inside = _unpadded(padded, grid)
        image, channel, row, column = padded.strides
        (down, along), (rows, columns) = grid.stride, grid.dilation
        shape = (channels, *grid.kernel, count, grid.out[0], self.width)
        steps = (channel, rows * row, columns * column, image, down * row, along * column)
        self.windows = as_strided(padded, shape, steps)  # (C, KH, KW, N, OH, width)
        self.parts = [slice(i, min(i + count, images)) for i in range(0, images, count)]

    def columns(self, x: np.ndarray, groups: int) -> np.ndarray:
        """The windows of a few images, side by side: (N, C, H, W) -> (G, C/G KH KW, N OH width)."""
        self.inside[: len(x)] = x
        rows = x.shape[1] // groups * math.prod(self.grid.kernel)
        return self.windows[:, :, :, : len(x)].copy().reshape(groups, rows, -1)

    def cut(self, places: np.ndarray) -> np.ndarray:
        """Products without the junk: (G, O/G, N OH width) -> (N, O, OH, OW)."""
        groups, outputs, _ = places.shape
        wide = places.reshape(groups * outputs, -1, self.grid.out[0], self.width)
        return wide[..., : self.grid.out[1]].swapaxes(0, 1)

    def widened(self, y: np.ndarray, groups: int) -> np.ndarray:
        """The way back, zeros for junk: (N, O, OH, OW) -> (G, O/G, N OH width)."""
        count, outputs, rows, columns = y.shape
        wide = np.zeros((outputs, count, rows, self.width), y.dtype)
        wide[..., :columns] = y.swapaxes(0, 1)
        return wide.reshape(groups, outputs // groups, -1)


# %% [markdown]
r"""
**Groups**: with `groups=G` the channels are dealt into G hands. Output channels of the first hand see only input channels of the first hand, and so on. Then there are G smaller products; NumPy's `@`
does a stack of matrices at once: `(G, O/G, K) @ (G, K, N L)` is `(G, O/G, N L)`.

### Exercise: correlate

`rows` are the kernels, (G, O/G, K) with K = C/G KH KW. For each slice `images` of `room.parts`: take the columns (`room.columns(x[images], groups)`), multiply, cut off the junk (`room.cut`), write into `out[images]`.
"""


# %% nbgrader={"grade": false, "grade_id": "correlate", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def _correlate(x: np.ndarray, rows: np.ndarray, grid: _Grid) -> np.ndarray:
    """Every window times every kernel: (N, C, H, W), (G, O/G, C/G KH KW) -> (N, O, OH, OW)."""
    groups, outputs, _ = rows.shape
    room = _Room(len(x), x.shape[1], grid, x.dtype)
    out = np.empty((len(x), groups * outputs, *grid.out), np.result_type(x, rows))
    ### BEGIN SOLUTION
    for images in room.parts:
        out[images] = room.cut(rows @ room.columns(x[images], groups))
    ### END SOLUTION
    return out


# %% nbgrader={"grade": true, "grade_id": "test-correlate", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_correlate():
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((3, 2, 6, 7)), random.standard_normal((4, 2, 3, 2))
    got = _correlate(x, weight.reshape(1, 4, -1), _grid((6, 7), (3, 2), 1, 0))
    check(got, conv2d_loops(x, weight), "the same as seven loops", 1e-9)
    ### BEGIN HIDDEN TESTS
    hands = weight[:, :1].copy()
    got = _correlate(x, hands.reshape(2, 2, -1), _grid((6, 7), (3, 2), 1, 0))
    first, second = conv2d_loops(x[:, :1], hands[:2]), conv2d_loops(x[:, 1:], hands[2:])
    check(got, np.concatenate([first, second], axis=1), "each group sees its own channels", 1e-9)
    many = random.standard_normal((40, 2, 30, 31)).astype(np.float32)
    grid = _grid((30, 31), 3, (2, 1), 1)
    kernels = random.standard_normal((4, 18)).astype(np.float32)
    expected = kernels @ unfold(many, kernel_size=3, stride=(2, 1), padding=1)
    got = _correlate(many, kernels[None], grid)
    check(got, expected.reshape(got.shape), "all images, strides, padding", 1e-4)
    ### END HIDDEN TESTS


test_correlate()

# %% [markdown]
r"""
`conv2d` is that with checks and a bias.
"""


# %% nbgrader={"grade": false, "grade_id": "conv2d", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _kernel_size(weight: np.ndarray) -> tuple[int, ...]:
    """KH, KW; ValueError unless the weight holds kernels."""
    if weight.ndim != 4:
        raise ValueError(f"expected a weight of shape (O, C / groups, KH, KW), got {weight.shape}")
    return weight.shape[2:]


def _kernel_rows(weight: np.ndarray, channels: int, groups: int) -> np.ndarray:
    """Kernels as rows, (G, O/G, C/G KH KW); ValueError unless they fit an input of `channels`."""
    if groups < 1 or channels % groups or weight.shape[0] % groups:
        raise ValueError(
            f"groups {groups} must divide the channels of both sides, {channels} and {len(weight)}"
        )
    if weight.shape[1] * groups != channels:
        raise ValueError(
            f"the input has {channels} channels, weight {weight.shape} with groups {groups} "
            f"expects {weight.shape[1] * groups}"
        )
    return weight.reshape(groups, len(weight) // groups, math.prod(weight.shape[1:]))


def _with_bias(out: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """`out` with a number added to each channel, in place; ValueError unless each has one."""
    if bias is None:
        return out
    if bias.shape != out.shape[1:2]:
        raise ValueError(f"expected a bias of shape ({out.shape[1]},), got {bias.shape}")
    return np.add(out, bias.reshape(-1, 1, 1), out=out, casting="same_kind")


@op
def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Kernels slid over images: (N, C, H, W), (O, C/groups, KH, KW), (O,) -> (N, O, OH, OW).

    y[n, o, h, w] = bias[o] + sum over c, i, j of x[n, c, h s + i d - p, w s + j d - p] *
    weight[o, c, i, j]. stride, padding and dilation are numbers or (rows, columns); padding may be
    "same" or "valid" (none). Raises ValueError for shapes that don't fit one another.

    >>> image = Tensor([[[[1, 2, 3], [4, 5, 6]]]])
    >>> conv2d(image, Tensor([[[[1, 10]]]]), Tensor([0.5]))
    Tensor([[[[21.5, 32.5],
              [54.5, 65.5]]]])
    """
    grid = _grid_of(x, _kernel_size(weight), stride, padding, dilation)
    rows = _kernel_rows(weight, x.shape[1], groups)
    return _with_bias(_correlate(x, rows, grid), bias)


# %%
batch = np.random.default_rng(0).standard_normal((32, 16, 32, 32)).astype(np.float32)
sixteen = np.random.default_rng(1).standard_normal((16, 16, 3, 3)).astype(np.float32)
whole = seconds(lambda: sixteen.reshape(16, -1) @ unfold(batch, kernel_size=3, padding=1))
blocks = seconds(lambda: conv2d(batch, sixteen, padding=1))
print(f"all columns at once {whole * 1e3:.1f} ms, in blocks {blocks * 1e3:.1f} ms")
print(f"columns: {9 * batch.nbytes / 1e6:.1f} MB at once, {4 * BLOCK / 1e6:.1f} MB in blocks")

# %% [markdown]
r"""
## Backward: three products and no more

A convolution is linear in the image and linear in the kernel. For such an operation there is a beautiful closure. Take three spaces: images X, kernels W, results Y. Three products, each of two of them, give the third:

```
        conv2d            (X, W) -> Y      what you have
        conv_transpose2d  (Y, W) -> X      each result spreads over the window that it came from
        conv2d_weight     (X, Y) -> W      each result weighs the window that it came from
```

The gradient of each, by either input, is one of the other two. So three operations have gradients of any order, and nothing is left to derive.

Where windows lie side by side (stride 1), spreading is again a convolution, with the kernel **flipped** in both directions: pixel $q$ was cell $i$ of window $q - i$. Otherwise, or where results are few beside the pixels that they spread over, it is what `fold` does. Both are given.
"""


# %% nbgrader={"grade": false, "grade_id": "conv-transpose2d", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _spread(y: np.ndarray, rows: np.ndarray, grid: _Grid) -> np.ndarray:
    """Results times kernels, added where the windows lie: (N, O, OH, OW) -> (N, C, H, W)."""
    groups, _, length = rows.shape
    channels = groups * length // math.prod(grid.kernel)
    room = _Room(len(y), channels, grid, y.dtype)
    out = np.empty((len(y), channels, *grid.size), np.result_type(y, rows))
    for images in room.parts:
        count = len(y[images])
        windows = room.windows[:, :, :, :count]
        cells = rows.swapaxes(1, 2) @ room.widened(y[images], groups)
        cells = cells.reshape(windows.shape)
        room.memory[:] = 0
        for i, j in np.ndindex(grid.kernel):
            windows[:, i, j] += cells[:, i, j]
        out[images] = room.inside[:count]
    return out


def _flipped(rows: np.ndarray, grid: _Grid) -> tuple[np.ndarray, _Grid]:
    """The kernels and the grid by which a correlation at stride 1 is undone by another."""
    groups, outputs, _ = rows.shape
    kernels = rows.reshape(groups, outputs, -1, *grid.kernel)[..., ::-1, ::-1].swapaxes(1, 2)
    (top, bottom), (left, right) = grid.margins
    down, along = (d * (k - 1) for k, d in zip(grid.kernel, grid.dilation, strict=True))
    margins = (down - top, down - bottom), (along - left, along - right)
    back = grid._replace(margins=margins, size=grid.out, out=grid.size)
    return kernels.reshape(groups, kernels.shape[1], -1), back


@op
def conv_transpose2d(y, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, size=None):
    """conv2d the other way: (N, O, H, W), (O, C/groups, KH, KW), (C,) -> (N, C, *size).

    Every element of `y` adds its multiple of a kernel to the window that conv2d would have read.
    Several sizes lead to the same number of windows; None means the smallest.

    >>> conv_transpose2d(Tensor([[[[1, 2]]]]), Tensor([[[[1, 10]]]]))
    Tensor([[[[ 1., 12., 20.]]]])
    """
    if y.ndim != 4:
        raise ValueError(f"expected images of shape (N, C, H, W), got {y.shape}")
    kernel = _kernel_size(weight)
    if len(weight) != y.shape[1]:
        raise ValueError(f"y with {y.shape[1]} channels doesn't fit weight {weight.shape}")
    if size is None:
        size = _smallest_size(y.shape[2:], kernel, stride, padding, dilation)
    grid = _grid(size, kernel, stride, padding, dilation)
    if grid.out != y.shape[2:]:
        raise ValueError(f"images of size {grid.size} have {grid.out} windows, y {y.shape[2:]}")
    rows = _kernel_rows(weight, weight.shape[1] * groups, groups)
    flipped, back = _flipped(rows, grid)
    few = 2 * math.prod(grid.out) < math.prod(grid.size)  # results: gathering would read mostly 0
    if grid.stride == (1, 1) and min(map(min, back.margins)) >= 0 and not few:
        return _with_bias(_correlate(y, flipped, back), bias)
    return _with_bias(_spread(y, rows, grid), bias)


def _smallest_size(out: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """The smallest images that have so many windows."""
    stride, dilation = _pair("stride", stride), _pair("dilation", dilation)
    margins = _margins(padding, kernel, stride, dilation)
    return tuple(
        (out[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - sum(margins[i])
        for i in (0, 1)
    )


# %% [markdown]
r"""
### Exercise: conv2d_weight

For the kernel's cell $k$ and output channel $o$: $w_{o,k} = \sum_{n,l} y_{n,o,l}\; \mathrm{column}_{n,k,l}$, a product of the columns with the transposed results, summed over all images. Both come from `room`: `room.columns(x[images], groups)` is
(G, K, N L), `room.widened(y[images], groups)` is (G, O/G, N L), so the product sums over these images by itself. Add up into `total`, (G, K, O/G). (Results times transposed columns is the same sum the other way round. The order can matter to the BLAS: time both, if you like.)
"""


# %% nbgrader={"grade": false, "grade_id": "conv2d-weight", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
@op
def conv2d_weight(x, y, kernel_size, stride=1, padding=0, dilation=1, groups=1):
    """Results times the windows that they came from: a sum over all images, shaped as kernels.

    (N, C, H, W), (N, O, OH, OW) -> (O, C/groups, KH, KW). It is the gradient of conv2d by its
    weight, `y` being the gradient of the result.

    >>> conv2d_weight(Tensor([[[[1, 2, 3]]]]), Tensor([[[[1, 10]]]]), kernel_size=(1, 2))
    Tensor([[[[21., 32.]]]])
    """
    grid = _grid_of(x, kernel_size, stride, padding, dilation)
    if y.ndim != 4 or y.shape[2:] != grid.out:
        raise ValueError(f"x of {x.shape} has {grid.out} windows, y is {y.shape}")
    channels, outputs = x.shape[1] // groups, y.shape[1]
    room = _Room(len(x), x.shape[1], grid, x.dtype)
    cells = channels * math.prod(grid.kernel)
    total = np.zeros((groups, cells, outputs // groups), np.result_type(x, y))
    ### BEGIN SOLUTION
    for images in room.parts:
        columns, results = room.columns(x[images], groups), room.widened(y[images], groups)
        total += columns @ results.swapaxes(-1, -2)
    ### END SOLUTION
    return total.swapaxes(1, 2).reshape(outputs, channels, *grid.kernel)


# %% nbgrader={"grade": true, "grade_id": "test-conv2d-weight", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_conv2d_weight():
    row, results = np.array([[[[1.0, 2, 3]]]]), np.array([[[[1.0, 10]]]])
    got = conv2d_weight(row, results, kernel_size=(1, 2))
    check(got, [[[[21.0, 32.0]]]], "first cell 1 * 1 + 2 * 10, second 2 * 1 + 3 * 10")
    ### BEGIN HIDDEN TESTS
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((40, 4, 21, 22)), random.standard_normal((6, 2, 3, 2))
    how = dict(stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    y = random.standard_normal(conv2d(x, weight, **how).shape)
    one = (y * conv2d(x, weight, **how)).sum()
    two = (conv2d_weight(x, y, kernel_size=(3, 2), **how) * weight).sum()
    check(float(two), float(one), "<y, conv2d(x, w)> = <conv2d_weight(x, y), w>", 1e-9)
    ### END HIDDEN TESTS


test_conv2d_weight()

# %% [markdown]
r"""
### Exercise: the rules of the three

Write the table. Always ask: which two are at hand, and which space does the gradient live in? For `conv2d`, by `x`: at hand are $g \in Y$ and the kernels, wanted is something in X. By a bias: the sum of $g$ over all but the channels. `how` holds stride, padding, dilation and groups.

```python
vjp(
    conv2d,
    lambda g, out, x, w, b=None, **how: conv_transpose2d(g, w, size=x.shape[2:], **how),
    ...,  # by w: conv2d_weight wants kernel_size=w.shape[2:]
    ...,  # by b
)
vjp(conv_transpose2d, ...)  # three rules (g, out, y, w, b=None, size=None, **how)
vjp(conv2d_weight, ...)  # two rules (g, out, x, y, kernel_size, **how)
```
"""

# %% nbgrader={"grade": false, "grade_id": "conv-rules", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
### BEGIN SOLUTION
vjp(
    conv2d,
    lambda g, out, x, w, b=None, **how: conv_transpose2d(g, w, size=x.shape[2:], **how),
    lambda g, out, x, w, b=None, **how: conv2d_weight(x, g, kernel_size=w.shape[2:], **how),
    lambda g, out, x, w, b=None, **how: g.sum(axis=(0, 2, 3)),
)
vjp(
    conv_transpose2d,
    lambda g, out, y, w, b=None, size=None, **how: conv2d(g, w, **how),
    lambda g, out, y, w, b=None, size=None, **how: conv2d_weight(
        g, y, kernel_size=w.shape[2:], **how
    ),
    lambda g, out, y, w, b=None, size=None, **how: g.sum(axis=(0, 2, 3)),
)
vjp(
    conv2d_weight,
    lambda g, out, x, y, kernel_size, **how: conv_transpose2d(y, g, size=x.shape[2:], **how),
    lambda g, out, x, y, kernel_size, **how: conv2d(x, g, **how),
)
### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-conv-rules", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
def test_conv_rules():
    random = np.random.default_rng(0)
    x, w, b = (random.standard_normal(shape) for shape in ((1, 2, 4, 3), (2, 2, 2, 2), (2,)))
    right = gradcheck(lambda x, w, b: conv2d(x, w, b), x, w, b)
    check(right, True, "each gradient of conv2d is one of the other two products")
    right = gradcheck(lambda y, w, b: conv_transpose2d(y, w, b, stride=2), x, w, b)
    check(right, True, "each gradient of conv_transpose2d is one of the other two products")
    ### BEGIN HIDDEN TESTS
    y = random.standard_normal((1, 2, 3, 2))
    right = gradcheck(lambda x, y: conv2d_weight(x, y, kernel_size=2), x, y)
    check(right, True, "conv2d_weight(x, y) has gradients by both")
    cube = lambda x, w: conv2d(x, w, stride=2, padding=1, groups=2) ** 3  # noqa: E731
    check(gradcheck(cube, x, w[:, :1], order=2), True, "how is passed on; also to second order")
    ### END HIDDEN TESTS


test_conv_rules()

# %% [markdown]
r"""
*A good place for a pause: all that is hard about convolution is behind you.*

## The layers

A layer holds the kernels. They start uniform in $[-k, k]$ with $k = 1/\sqrt{C/G \cdot KH \cdot KW}$, one over the root of what a result sums over, just as in `Linear`. A sequence (N, C, L) is an image with one row, so `Conv1d` needs nothing new.
`ConvTranspose2d` makes images **larger**: with stride 2 each pixel paints a window, two pixels apart.
"""


# %% nbgrader={"grade": false, "grade_id": "conv-layers", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class _Convolution(Module):
    """What all convolutions keep: their settings, kernels and a bias, uniform at first."""

    weight: Tensor
    bias: Tensor | None
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: Any
    stride: Any
    padding: Any
    dilation: Any

    def _settle(self, weight_shape: tuple[int, ...], bias: bool, **settings: Any) -> None:
        """Check and keep the settings, draw the kernels."""
        vars(self).update(settings)
        name = type(self).__name__
        sizes = {key: settings[key] for key in ("in_channels", "out_channels", "groups")}
        for key, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name}: {key} must be a whole number above 0, got {size!r}")
        if any(size % self.groups for size in sizes.values()):
            raise ValueError(
                f"{name}: groups {self.groups} must divide in_channels {self.in_channels} "
                f"and out_channels {self.out_channels}"
            )
        first, second, *kernel = weight_shape
        shape = (first, second // self.groups, *kernel)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = bound * (2 * rand(*shape) - 1)
        self.bias = bound * (2 * rand(self.out_channels) - 1) if bias else None

    def _extra_repr(self) -> str:
        shown = ("kernel_size", "stride", "padding", "output_padding", "dilation", "groups")
        settings = [f"{key}={vars(self)[key]}" for key in shown if key in vars(self)]
        settings.append(f"bias={self.bias is not None}")
        return ", ".join([f"{self.in_channels}, {self.out_channels}", *settings])


class Conv2d(_Convolution):
    """conv2d with a weight (out_channels, in_channels / groups, KH, KW) and a bias of its own.

    Both start uniform in [-k, k], k = 1 / sqrt(in_channels / groups KH KW), as PyTorch's do.

    >>> layer = Conv2d(3, 16, 3, padding="same")
    >>> layer(Tensor(np.zeros((2, 3, 8, 8)))).shape, layer.weight.shape
    ((2, 16, 8, 8), (16, 3, 3, 3))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        kernel = _pair("kernel_size", kernel_size)
        how = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        sizes = dict(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel)
        self._settle((out_channels, in_channels, *kernel), bias, **sizes, **how)

    def forward(self, x: Tensor) -> Tensor:
        how = dict(stride=self.stride, padding=self.padding, dilation=self.dilation)
        return conv2d(x, self.weight, self.bias, groups=self.groups, **how)


class Conv1d(_Convolution):
    """Kernels slid along sequences: (N, C, L) -> (N, O, OL); the weight is (O, C / groups, K).

    >>> Conv1d(4, 8, 3, padding=1)(Tensor(np.zeros((2, 4, 10)))).shape
    (2, 8, 10)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        how = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        sizes = dict(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size)
        self._settle((out_channels, in_channels, kernel_size), bias, **sizes, **how)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3:
            raise ValueError(f"Conv1d: expected sequences of shape (N, C, L), got {x.shape}")
        padding = self.padding if isinstance(self.padding, str) else (0, self.padding)
        how = dict(stride=(1, self.stride), dilation=(1, self.dilation), padding=padding)
        image, kernels = x.unsqueeze(2), self.weight.unsqueeze(2)
        return conv2d(image, kernels, self.bias, groups=self.groups, **how).squeeze(2)


class ConvTranspose2d(_Convolution):
    """conv_transpose2d with a weight (in_channels, out_channels / groups, KH, KW) and a bias.

    An image of H rows becomes one of (H - 1) stride - 2 padding + dilation (KH - 1) + 1 +
    output_padding. Both start uniform in [-k, k], k = 1 / sqrt(out_channels / groups KH KW).

    >>> ConvTranspose2d(16, 3, 2, stride=2)(Tensor(np.zeros((2, 16, 8, 8)))).shape
    (2, 3, 16, 16)
    """

    output_padding: tuple[int, int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
    ):
        kernel = _pair("kernel_size", kernel_size)
        extra = _pair("output_padding", output_padding, least=0)
        largest = zip(_pair("stride", stride), _pair("dilation", dilation), strict=True)
        if any(e >= max(pair) for e, pair in zip(extra, largest, strict=True)):
            raise ValueError(
                f"ConvTranspose2d: output_padding {output_padding} must be smaller than "
                f"stride {stride} or dilation {dilation}"
            )
        how = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        sizes = dict(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel)
        self._settle(
            (in_channels, out_channels, *kernel), bias, **sizes, **how, output_padding=extra
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(
                f"ConvTranspose2d: expected images of shape (N, C, H, W), got {x.shape}"
            )
        how = dict(stride=self.stride, padding=self.padding, dilation=self.dilation)
        smallest = _smallest_size(x.shape[2:], self.kernel_size, **how)
        size = tuple(n + extra for n, extra in zip(smallest, self.output_padding, strict=True))
        return conv_transpose2d(x, self.weight, self.bias, groups=self.groups, size=size, **how)


# %% [markdown]
r"""
## Pooling

A digit moved by one pixel moves all its features by one pixel. Pooling makes the network forget a little of where: of each 2 x 2 window only the largest value goes on (or the mean).

**Predict**: what does max pooling with kernel 2 make of `[[1, 2, 5, 3], [4, 0, 1, 1]]`? Which of these eight numbers will get a gradient?

### Exercise: max_pool2d

Keep the largest of each window: begin with a copy of its first cell, then walk over the cells with `np.maximum(out, ..., out=out)`. Padding is filled with the lowest number there is, so it never wins.
"""


# %% nbgrader={"grade": false, "grade_id": "max-pool2d", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def _pool_grid(x: Any, kernel_size: Any, stride: Any, padding: Any) -> _Grid:
    """The grid of a pooling; windows that would hold padding alone are refused."""
    grid = _grid_of(x, kernel_size, kernel_size if stride is None else stride, padding)
    if any(2 * max(m) > k for m, k in zip(grid.margins, grid.kernel, strict=True)):
        raise ValueError(f"padding {padding} is more than half of the kernel {kernel_size}")
    return grid


def _lowest(dtype: np.dtype) -> float:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


@op
def max_pool2d(x, kernel_size, stride=None, padding=0):
    """The largest number of each window: (N, C, H, W) -> (N, C, OH, OW); NaN where one is in it.

    The stride is the kernel's size if none is given.

    >>> max_pool2d(Tensor([[[[1, 2, 5, 3], [4, 0, 1, 1]]]]), kernel_size=2)
    Tensor([[[[4., 5.]]]])
    """
    grid = _pool_grid(x, kernel_size, stride, padding)
    windows = _padded(x, grid, _lowest(x.dtype))[1]
    ### BEGIN SOLUTION
    out = windows[:, :, 0, 0].copy()
    for i, j in np.ndindex(grid.kernel):
        np.maximum(out, windows[:, :, i, j], out=out)
    ### END SOLUTION
    return out


# %% nbgrader={"grade": true, "grade_id": "test-max-pool2d", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_max_pool2d():
    x = Tensor([[[[1, 2, 5, 3], [4, 0, 1, 1]]]])
    check(max_pool2d(x, kernel_size=2), [[[[4.0, 5.0]]]], "the largest of 1 2 4 0, and of 5 3 1 1")
    check(x, [[[[1.0, 2, 5, 3], [4, 0, 1, 1]]]], "x itself stays as it was")
    ### BEGIN HIDDEN TESTS
    negative = -np.arange(1.0, 10).reshape(1, 1, 3, 3)
    got = max_pool2d(negative, kernel_size=3, stride=2, padding=1)
    check(got[0, 0], [[-1.0, -2.0], [-4.0, -5.0]], "padding never wins, not even against -9")
    got = max_pool2d(np.arange(9).reshape(1, 1, 3, 3), kernel_size=(2, 1), stride=1)
    check(got[0, 0], np.array([[3, 4, 5], [6, 7, 8]]), "overlapping windows; integers")
    ### END HIDDEN TESTS


test_max_pool2d()

# %% [markdown]
r"""
The gradient goes to the winner alone; among equals, to the first. The rule finds the winner's place by counting how long each window waits for it, and `scatter_add` of module 01 carries $g$ there: a rule of any order, since `scatter_add` has one.
The mean is easier: everybody gets an equal share, and `fold` puts it where it belongs.
"""


# %% nbgrader={"grade": false, "grade_id": "pool-rules", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _winners(x: np.ndarray, out: np.ndarray, grid: _Grid) -> tuple[np.ndarray, tuple[int, ...]]:
    """Where the first maximum of each window lies in the flat padded images; their shape."""
    padded, windows = _padded(x, grid, _lowest(x.dtype))
    n, c, height, width = padded.shape
    waiting, cell = np.ones(out.shape, bool), np.zeros(out.shape, np.intp)
    cells = list(np.ndindex(grid.kernel))
    for i, j in cells[:-1]:
        waiting &= windows[:, :, i, j] != out
        cell += waiting
    place = np.array([i * width + j for i, j in cells])[cell]
    place += np.arange(n * c).reshape(n, c, 1, 1) * (height * width)
    place += np.arange(out.shape[2]).reshape(-1, 1) * (grid.stride[0] * width)
    place += np.arange(out.shape[3]) * grid.stride[1]
    return place.reshape(-1), padded.shape


def _max_pool_rule(g, out, x, kernel_size, stride=None, padding=0):
    """Each g goes to the first maximum of its window."""
    grid = _pool_grid(x, kernel_size, stride, padding)
    places, shape = _winners(np.asarray(x), np.asarray(out), grid)
    flat = g.reshape((math.prod(g.shape),))
    spread = tensor.scatter_add(flat, key=places, shape=(math.prod(shape),))
    return _unpadded(spread.reshape(shape), grid)


vjp(max_pool2d, _max_pool_rule)


@op
def avg_pool2d(x, kernel_size, stride=None, padding=0):
    """The mean of each window, padding counted as zeros: (N, C, H, W) -> (N, C, OH, OW).

    >>> avg_pool2d(Tensor([[[[1, 2, 5, 3], [5, 0, 1, 1]]]]), kernel_size=2)
    Tensor([[[[2. , 2.5]]]])
    """
    grid = _pool_grid(x, kernel_size, stride, padding)
    windows = _padded(x, grid)[1]
    total = sum(windows[:, :, i, j] for i, j in np.ndindex(grid.kernel))
    return total / math.prod(grid.kernel)


def _avg_pool_rule(g, out, x, kernel_size, stride=None, padding=0):
    """Each g in equal shares to all cells of its window."""
    grid = _pool_grid(x, kernel_size, stride, padding)
    area, places = math.prod(grid.kernel), math.prod(grid.out)
    share = (g / area).reshape((*x.shape[:2], 1, places))
    columns = tensor.broadcast_to(share, shape=(*x.shape[:2], area, places))
    columns = columns.reshape((x.shape[0], x.shape[1] * area, places))
    how = dict(kernel_size=grid.kernel, stride=grid.stride, padding=padding)
    return fold(columns, size=grid.size, **how)


vjp(avg_pool2d, _avg_pool_rule)


# %% nbgrader={"grade": false, "grade_id": "pool-layers", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class _Pool2d(Module):
    """What the poolings keep."""

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0):
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride

    def _extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(_Pool2d):
    """The largest number of each window; see `max_pool2d`.

    >>> MaxPool2d(2)(Tensor([[[[1, 2], [3, 4]]]]))
    Tensor([[[[4.]]]])
    """

    def forward(self, x: Tensor) -> Tensor:
        return max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(_Pool2d):
    """The mean of each window; see `avg_pool2d`.

    >>> AvgPool2d(2)(Tensor([[[[1, 2], [3, 4]]]]))
    Tensor([[[[2.5]]]])
    """

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, self.kernel_size, self.stride, self.padding)


class AdaptiveAvgPool2d(Module):
    """The means of output_size x output_size parts of an image of any size.

    Part i of n covers the rows from floor(i H / n) up to ceil((i + 1) H / n), as in PyTorch.

    >>> AdaptiveAvgPool2d(1)(Tensor([[[[1, 2, 3], [4, 5, 6]]]]))
    Tensor([[[[3.5]]]])
    """

    def __init__(self, output_size: int | tuple[int, int]):
        self.output_size = _pair("AdaptiveAvgPool2d: output_size", output_size)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or 0 in x.shape[2:]:
            raise ValueError(f"AdaptiveAvgPool2d: expected images (N, C, H, W), got {x.shape}")
        for axis, parts in zip((2, 3), self.output_size, strict=True):
            x = _means_of_parts(x, axis, parts)
        return x

    def _extra_repr(self) -> str:
        return f"output_size={self.output_size}"


def _means_of_parts(x: Tensor, axis: int, parts: int) -> Tensor:
    """The means of `parts` equal stretches of an axis; the mean over rows and columns is theirs."""
    size, before = x.shape[axis], (slice(None),) * axis
    bounds = [(i * size // parts, -(-(i + 1) * size // parts)) for i in range(parts)]
    return stack([x[(*before, slice(*b))].mean(axis=axis) for b in bounds], axis=axis)


class GlobalAvgPool2d(Module):
    """The mean of each channel: (N, C, H, W) -> (N, C), as a Linear takes it.

    >>> GlobalAvgPool2d()(Tensor([[[[1, 2, 3], [4, 5, 6]]]]))
    Tensor([[3.5]])
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"GlobalAvgPool2d: expected images (N, C, H, W), got {x.shape}")
        return x.mean(axis=(2, 3))


# %% [markdown]
r"""
## Batch normalisation

A deep stack of layers multiplies the sizes of its numbers again and again. Normalising keeps them: for each channel, subtract the mean $\mu$ over all images and places, divide by the standard deviation, and let two learned
numbers $\gamma$, $\beta$ choose another size if the network wants one:

$$\hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad y = \gamma\, \hat x + \beta$$

### Exercise: batch_norm

`_moments(x)` gives mean and variance of each channel, shaped to broadcast; `_by_channel(weight, x.ndim)` shapes $\gamma$ so. Make **one** new array, `x - mean`, and change that in place: the passes over memory are what this costs. `weight` or `bias` may be None.

One worked number: a channel with the values 1 and 3 has $\mu = 2$, $\sigma^2 = 1$; with $\gamma = 10$, $\beta = 5$ and $\epsilon = 0$ it becomes -5 and 15.
"""


# %% nbgrader={"grade": false, "grade_id": "batch-norm", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def _by_channel(v: Any, ndim: int) -> Any:
    """(C,) -> (C, 1, 1), as it broadcasts over images (or what else has `ndim` axes)."""
    return v.reshape((-1, *(1,) * (ndim - 2)))


def _mean_of_channels(x: Any) -> Any:
    """The mean of each channel, in a shape that broadcasts over x."""
    return tensor.mean(x, axis=(0, *range(2, x.ndim)), keepdims=True)


def _mean_of_products(a: Any, b: Any) -> Any:
    """The mean of a b of each channel: products of a row and a column, with no array for a b."""
    (n, c), places = a.shape[:2], math.prod(a.shape[2:])
    products = a.reshape((n, c, 1, places)) @ b.reshape((n, c, places, 1))
    return products.sum(axis=0).reshape((1, c, *(1,) * (a.ndim - 2))) / (n * places)


def _moments(x: Any) -> tuple[Any, Any]:
    """Mean and variance of each channel, in a shape that broadcasts over x."""
    mean = _mean_of_channels(x)
    centered = x - mean
    return mean, _mean_of_products(centered, centered)


@op
def batch_norm(x, weight=None, bias=None, eps=1e-5, moments=None):
    """weight (x - mean) / sqrt(variance + eps) + bias, by channels: (N, C, ...) -> (N, C, ...).

    Mean and variance are those of each channel of `x`; who knows them gives them as `moments`.

    >>> batch_norm(Tensor([[1], [3]]), Tensor([10]), Tensor([5]), eps=0)
    Tensor([[-5.],
            [15.]])
    """
    mean, variance = moments or _moments(x)
    ### BEGIN SOLUTION
    scale = 1 / np.sqrt(variance + eps)
    if weight is not None:
        scale = scale * _by_channel(weight, x.ndim)
    out = x - mean
    out *= scale
    if bias is not None:
        out += _by_channel(bias, x.ndim)
    ### END SOLUTION
    return out


# %% nbgrader={"grade": true, "grade_id": "test-batch-norm", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
def test_batch_norm():
    got = batch_norm(Tensor([[1.0], [3.0]]), Tensor([10.0]), Tensor([5.0]), eps=0.0)
    check(got, [[-5.0], [15.0]], "(1 - 2) / 1 * 10 + 5, and (3 - 2) / 1 * 10 + 5")
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5)) * 7 + 2
    y = batch_norm(x)
    check(y.mean(axis=(0, 2, 3)), [0.0, 0.0, 0.0], "every channel has mean 0")
    check(y.std(axis=(0, 2, 3)), [1.0, 1.0, 1.0], "and standard deviation 1", 1e-4)
    ### BEGIN HIDDEN TESTS
    check(batch_norm(np.full((2, 1, 3), 4.0), eps=0.01), np.zeros((2, 1, 3)), "no division by zero")
    row = np.array([[1.0], [3.0]])
    check(batch_norm(row, eps=3.0), [[-0.5], [0.5]], "eps is added to the variance: sqrt(1 + 3)")
    check(row, [[1.0], [3.0]], "x itself stays as it was")
    ### END HIDDEN TESTS


test_batch_norm()

# %% [markdown]
r"""
### Exercise: the rule of batch_norm

A change of one $x$ moves its own $\hat x$, but also $\mu$ and $\sigma$, and so all others of its channel. With $m$ numbers in a channel, the sums over the channel written as $\sum$:

$$\frac{\partial L}{\partial \beta} = \sum g \qquad \frac{\partial L}{\partial \gamma} = \sum g\,\hat x \qquad
\frac{\partial L}{\partial x} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} \left( g - \frac{1}{m} \sum g - \frac{\hat x}{m} \sum g\, \hat x \right)$$

In words: from $g$ is taken what would only shift the channel, and what would only stretch it. Both sums are needed twice, so this is a joint rule: it returns the gradients by x, weight and bias. `normal` is $\hat x$, a new array of your own, to be changed in place; `shift` and `stretch` are the **means** of $g$ and of $g\,\hat x$,
shaped to broadcast; `count` is $m$; `scale` is $\gamma / \sqrt{\sigma^2 + \epsilon}$. Write the three gradients; those of weight and bias have shape (C,).
"""


# %% nbgrader={"grade": false, "grade_id": "batch-norm-rule", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def _batch_norm_rule(g, out, x, weight=None, bias=None, eps=1e-5, moments=None):
    """What shifts or stretches a whole channel changes nothing, so it is taken out of g."""
    known = moments is not None and isinstance(x, np.ndarray)  # of a tensor they are functions
    mean, variance = moments if known else _moments(x)
    scale = 1 / tensor.sqrt(variance + eps)
    normal = x - mean
    normal *= scale
    count = math.prod(x.shape) // x.shape[1]
    shift, stretch = _mean_of_channels(g), _mean_of_products(g, normal)
    if weight is not None:
        scale = scale * _by_channel(weight, x.ndim)
    ### BEGIN SOLUTION
    normal *= -stretch
    normal -= shift
    normal += g
    normal *= scale
    return normal, (stretch * count).reshape((-1,)), (shift * count).reshape((-1,))
    ### END SOLUTION


joint_vjp(batch_norm, _batch_norm_rule)


# %% nbgrader={"grade": true, "grade_id": "test-batch-norm-rule", "locked": true, "points": 7, "schema_version": 3, "solution": false, "task": false}
def test_batch_norm_rule():
    x = np.array([[1.0, 2.0], [3.0, -1.0], [4.5, 0.5]])
    w, b = np.array([2.0, 0.5]), np.array([0.1, 0.2])
    right = gradcheck(lambda x, w, b: batch_norm(x, w, b), x, w, b)
    check(right, True, "the three gradients, checked by differences")
    ones = grad(batch_norm(Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)).sum(), [])
    check(ones, [], "a sum of normalised numbers is always 0: nothing to learn")
    ### BEGIN HIDDEN TESTS
    images = np.random.default_rng(0).standard_normal((2, 2, 2, 2))
    square = lambda x, w: batch_norm(x, w) ** 2  # noqa: E731
    check(gradcheck(square, images, w, order=2), True, "images too, and to second order")
    check(gradcheck(lambda x: batch_norm(x) ** 3, images), True, "without a weight and a bias")
    ### END HIDDEN TESTS


test_batch_norm_rule()

# %% [markdown]
r"""
### Exercise: running statistics

When the network is used, there may be a single image, and its answer should not depend on its neighbours in a batch. So while training, the layer keeps running averages, and in eval mode it uses these. Complete `track`:

$$\mathrm{running} \leftarrow (1 - \mathrm{momentum})\; \mathrm{running} + \mathrm{momentum}\; \mathrm{batch}$$

The running variance takes the **unbiased** one, $\sigma^2\, m / (m - 1)$, since a batch's variance around its own mean is a little too small. Change the arrays in place, and tell `writes.add(array)`, so that autograd knows. One worked number: running mean 0, batch mean 10, momentum 0.1: 1.0.
"""


# %% nbgrader={"grade": false, "grade_id": "running", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def _track(running: tuple, mean: np.ndarray, variance: np.ndarray, count: int, momentum: float):
    """Move the running mean and variance (Tensors) towards those of a batch of `count` numbers."""
    running_mean, running_variance = (statistic.data for statistic in running)
    ### BEGIN SOLUTION
    running_mean += momentum * (mean.reshape(-1) - running_mean)
    unbiased = variance.reshape(-1) * (count / (count - 1))
    running_variance += momentum * (unbiased - running_variance)
    writes.add(running_mean)
    writes.add(running_variance)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-running", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_running():
    mean, variance = Tensor([0.0]), Tensor([1.0])
    _track((mean, variance), np.full((1, 1), 10.0), np.full((1, 1), 3.0), 4, 0.1)
    check(mean, [1.0], "0.9 * 0 + 0.1 * 10")
    check(variance, [1.3], "0.9 * 1 + 0.1 * (3 * 4 / 3)")
    ### BEGIN HIDDEN TESTS
    before = writes.clock
    _track((mean, variance), np.zeros((1, 1)), np.ones((1, 1)), 2, 0.5)
    check(mean, [0.5], "the same arrays, again")
    seen = [writes.since(statistic.data, before) for statistic in (mean, variance)]
    check(seen, [True, True], "autograd must hear of a write in place: writes.add")
    ### END HIDDEN TESTS


test_running()


# %% nbgrader={"grade": false, "grade_id": "norm-layers", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class _BatchNorm(Module):
    """Batch statistics in training, running ones in eval mode (Ioffe and Szegedy 2015)."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    shapes: tuple[str, ...]  # that a subclass takes: what follows (N, C

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ):
        if num_features < 1:
            name = type(self).__name__
            raise ValueError(f"{name}: num_features must be above 0, got {num_features}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = tensor.ones(num_features) if affine else None
        self.bias = tensor.zeros(num_features) if affine else None
        self.register_buffer("running_mean", tensor.zeros(num_features))
        self.register_buffer("running_var", tensor.ones(num_features))

    def _normalised(self, x: Tensor) -> Tensor:
        name = type(self).__name__
        ndims = [2 + shape.count(",") for shape in self.shapes]
        if x.ndim not in ndims or x.shape[1] != self.num_features:
            expected = " or ".join(f"(N, {self.num_features}{shape})" for shape in self.shapes)
            raise ValueError(f"{name}: expected {expected}, got {x.shape}")
        if not self.training:
            scale = (self.running_var + self.eps) ** -0.5
            scale = scale if self.weight is None else scale * self.weight
            shift = -self.running_mean * scale
            shift = shift if self.bias is None else shift + self.bias
            return x * _by_channel(scale, x.ndim) + _by_channel(shift, x.ndim)
        count = x.size // self.num_features
        if count < 2:
            raise ValueError(f"{name}: training needs two numbers in a channel, got {x.shape}")
        moments = _moments(x.data)
        _track((self.running_mean, self.running_var), *moments, count, self.momentum)
        affine = () if self.weight is None else (self.weight, self.bias)
        return batch_norm(x, *affine, eps=self.eps, moments=moments)

    def _extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of images (N, C, H, W), a mean and a variance for each channel.

    >>> BatchNorm2d(1)(Tensor([[[[1, 3]]]])).tolist()[0][0][0][0] < -0.99
    True
    """

    shapes = (", H, W",)

    def forward(self, x: Tensor) -> Tensor:
        return self._normalised(x)


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of rows (N, C) or sequences (N, C, L).

    >>> BatchNorm1d(2).eval()(Tensor([[1, 2]])).shape
    (1, 2)
    """

    shapes = ("", ", L")

    def forward(self, x: Tensor) -> Tensor:
        return self._normalised(x)


# %% [markdown]
r"""
### Exercise: group_norm

With small batches the statistics of a batch are poor. Group normalisation takes those of **one image**: its channels are dealt into groups, each with a mean and a variance of its own; then $\gamma$ and $\beta$ by channel. You have all it takes: seen as (1, N G, everything else), the groups are the channels
of a batch of one. Normalise that, go back to the shape of `x`, then weight and bias (either may be None).
"""


# %% nbgrader={"grade": false, "grade_id": "group-norm", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| export
def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Each image by itself, its channels in groups, normalised: (N, C, ...) -> (N, C, ...).

    >>> group_norm(Tensor([[1, 3, 10, 30]]), 2, eps=0)
    Tensor([[-1.,  1., -1.,  1.]])
    """
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(f"group_norm: {num_groups} groups don't divide the channels of {x.shape}")
    ### BEGIN SOLUTION
    groups = x.reshape(1, x.shape[0] * num_groups, -1)
    y = batch_norm(groups, eps=eps).reshape(x.shape)
    if weight is not None:
        y = y * _by_channel(weight, x.ndim)
    return y if bias is None else y + _by_channel(bias, x.ndim)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-group-norm", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
def test_group_norm():
    x = Tensor([[1.0, 3, 10, 30], [0, 4, 5, 5.5]])
    check(group_norm(x, 2, eps=0.0)[0], [-1.0, 1.0, -1.0, 1.0], "the groups 1, 3 and 10, 30")
    scaled = group_norm(x, 2, Tensor([1, 1, 2, 2]), Tensor([0, 0, 0, 9]), eps=0.0)
    check(scaled[1], [-1.0, 1.0, -2.0, 11.0], "weight and bias belong to channels, not to groups")
    ### BEGIN HIDDEN TESTS
    images = np.random.default_rng(0).standard_normal((3, 4, 5, 2)) * 3 + 1
    parts = group_norm(Tensor(images), 2).numpy().reshape(3, 2, -1)
    check(parts.mean(axis=-1), np.zeros((3, 2)), "each group of each image has mean 0", 1e-5)
    check(parts.std(axis=-1), np.ones((3, 2)), "and standard deviation 1", 1e-4)
    ### END HIDDEN TESTS


test_group_norm()


# %% nbgrader={"grade": false, "grade_id": "group-norm-layer", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
class GroupNorm(Module):
    """group_norm with a weight and a bias for each channel (Wu and He 2018).

    >>> GroupNorm(2, 4)(Tensor(np.zeros((1, 4, 3, 3)))).shape
    (1, 4, 3, 3)
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True):
        if num_groups < 1 or num_channels < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_groups} groups don't divide {num_channels} channels")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight = tensor.ones(num_channels) if affine else None
        self.bias = tensor.zeros(num_channels) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"GroupNorm: expected (N, {self.num_channels}, ...), got {x.shape}")
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def _extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"


# %% [markdown]
r"""
## Larger again

A network that paints (or marks every pixel) must come back to the size of the image. The simplest way takes, for each new pixel, the nearest old one; the smoother way mixes the two nearest, along the rows and then along the columns.

### Exercise: nearest

For each of `new` positions the index of the old one below it: $\lfloor i \cdot \mathrm{old} / \mathrm{new} \rfloor$, as an array of integers. One worked number: from 2 to 4: `[0, 0, 1, 1]`.
"""


# %% nbgrader={"grade": false, "grade_id": "nearest", "locked": false, "schema_version": 3, "solution": true, "task": false}
#| exporti
def _nearest(old: int, new: int) -> np.ndarray:
    """The old position that each new one shows."""
    ### BEGIN SOLUTION
    return np.arange(new) * old // new
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-nearest", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def test_nearest():
    check(_nearest(2, 4), np.array([0, 0, 1, 1]), "each old position twice")
    ### BEGIN HIDDEN TESTS
    check(_nearest(3, 5), np.array([0, 0, 1, 1, 2]), "floor(i * 3 / 5)")
    check(_nearest(4, 2), np.array([0, 2]), "smaller is possible, too")
    ### END HIDDEN TESTS


test_nearest()


# %% nbgrader={"grade": false, "grade_id": "upsample", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def _mixed(x: Tensor, axis: int, new: int) -> Tensor:
    """An axis in another size, each position between the two nearest; ends are never left."""
    old, before = x.shape[axis], (slice(None),) * axis
    at = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0)
    low = at.astype(int)
    high = np.minimum(low + 1, old - 1)
    share = (at - low).astype(x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
    return x[(*before, low)] * (1 - share) + x[(*before, high)] * share


class Upsample(Module):
    """Images in another size: (N, C, H, W) -> (N, C, *size); give a size or a factor.

    mode "nearest" repeats pixels, "bilinear" mixes neighbours (PyTorch's align_corners=False).

    >>> Upsample(scale_factor=2)(Tensor([[[[1, 2]]]]))
    Tensor([[[[1., 1., 2., 2.],
              [1., 1., 2., 2.]]]])
    """

    def __init__(self, size: Any = None, scale_factor: float | None = None, mode: str = "nearest"):
        if (size is None) == (scale_factor is None):
            raise ValueError("Upsample: give either a size or a scale_factor")
        if mode not in ("nearest", "bilinear"):
            raise ValueError(f"Upsample: mode must be 'nearest' or 'bilinear', got {mode!r}")
        if scale_factor is not None and not scale_factor > 0:
            raise ValueError(f"Upsample: scale_factor must be above 0, got {scale_factor}")
        self.size = None if size is None else _pair("Upsample: size", size)
        self.scale_factor, self.mode = scale_factor, mode

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"Upsample: expected images of shape (N, C, H, W), got {x.shape}")
        factor = self.scale_factor or 1
        height, width = self.size or (int(x.shape[2] * factor), int(x.shape[3] * factor))
        if self.mode == "bilinear":
            return _mixed(_mixed(x, 2, height), 3, width)
        rows, columns = _nearest(x.shape[2], height), _nearest(x.shape[3], width)
        return x[:, :, rows.reshape(-1, 1), columns]

    def _extra_repr(self) -> str:
        wanted = f"scale_factor={self.scale_factor}" if self.size is None else f"size={self.size}"
        return f"{wanted}, mode={self.mode!r}"


# %% [markdown]
r"""
## Put together: digits, moved

The same digits, the same optimizer, the same number of epochs as at the start; **predict** the two accuracies at a shift of one pixel, then run.
"""

# %%
manual_seed(0)
cnn = Sequential(
    Conv2d(1, 8, 3, padding="same", bias=False),
    BatchNorm2d(8),
    ReLU(),
    Conv2d(8, 16, 3, padding="same", bias=False),
    BatchNorm2d(16),
    ReLU(),
    MaxPool2d(2),
    Conv2d(16, 16, 3, padding="same"),
    ReLU(),
    GlobalAvgPool2d(),
    Linear(16, 10),
)
trainer, cnn_scores = train_on_digits(cnn)
print(
    "weights:", sum(p.size for p in mlp.parameters()), "and", sum(p.size for p in cnn.parameters())
)
for pixels in cnn_scores:
    print(f"moved by {pixels:2}: MLP {mlp_scores[pixels]:.3f}, CNN {cnn_scores[pixels]:.3f}")

# %%
if plt is not None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    left.plot(mlp_scores.keys(), mlp_scores.values(), "k--o", label="MLP")
    left.plot(cnn_scores.keys(), cnn_scores.values(), "k-s", label="CNN")
    left.set(title="Test images moved sideways", xlabel="pixels", ylabel="accuracy (share right)")
    left.legend()
    right.plot(trainer.history["train_loss"], "k.-")
    right.set(title="Training the CNN", xlabel="epoch", ylabel="loss (nats)", yscale="log")
    plt.tight_layout()
    plt.show()

# %% [markdown]
r"""
What does it look for? Each of the first layer's kernels answers where the image looks like it. Below: a digit, and what four kernels see.
"""

# %%
digit = np.asarray(Digits(train=False).images)[:1]
with no_grad():
    seen = cnn[:3](Tensor(digit)).numpy()[0]
print(
    "the layer's answers:", seen.shape, "the share that is above zero:", round((seen > 0).mean(), 2)
)
if plt is not None:
    figure, axes = plt.subplots(1, 5, figsize=(9, 2))
    pictures = [digit[0, 0], *seen[:4]]
    names = ["the digit", *(f"kernel {k}" for k in range(4))]
    for axis, picture, name in zip(axes, pictures, names, strict=True):
        axis.imshow(picture, cmap="gray_r")
        axis.set(title=name, xlabel="column (pixels)", ylabel="row (pixels)")
    plt.tight_layout()
    plt.show()

# %% [markdown]
r"""
## Systems: what a convolution costs

Four ways to the same numbers: loops (for one image, then scaled up), one matrix product with all columns, and ours in blocks; beside them a plain product of matrices of the same size, the limit that no convolution by products can beat.
"""


# %%
def ways(channels, size, images=16):
    """GFLOP/s of a 3 x 3 convolution, with equal channels in and out, in three ways."""
    random = np.random.default_rng(0)
    x = random.standard_normal((images, channels, size, size), dtype=np.float32)
    weight = random.standard_normal((channels, channels, 3, 3), dtype=np.float32)
    rows = weight.reshape(channels, -1)
    columns = unfold(x[:1], kernel_size=3, padding=1)[0]
    flops = 2 * x.size * rows.shape[1]
    yield seconds(lambda: rows @ unfold(x, kernel_size=3, padding=1)), flops
    yield seconds(lambda: conv2d(x, weight, padding=1)), flops
    yield seconds(lambda: rows @ columns), flops / images


print("channels   size    all columns         blocks   product alone   (GFLOP/s)")
for channels, size in ((4, 64), (16, 32), (64, 16)):
    speeds = [flops / time_taken / 1e9 for time_taken, flops in ways(channels, size)]
    print(f"{channels:8} {size:6} " + " ".join(f"{speed:14.1f}" for speed in speeds))

# %% [markdown]
r"""
With few channels the copying dominates: each pixel is copied nine times and then used for only a few multiplications. With many channels the product dominates, and its speed is that of your BLAS. The ratio of arithmetic to bytes moved decides; you will meet it again.

PyTorch's `torch.nn.functional.conv2d` makes no columns at all: oneDNN reads windows straight from the image into registers, with code generated for the shape at hand. That needs a compiler; what NumPy can do without one is what you have built.

How long a whole training step takes beside PyTorch is measured by `benchmarks/training_step.py`.

And the memory:
"""

# %%
for channels, size in ((3, 224), (64, 56), (512, 7)):
    image_bytes = 4 * 32 * channels * size * size
    print(
        f"32 images of {channels} x {size} x {size}: {image_bytes / 1e6:6.1f} MB, "
        f"3 x 3 columns {9 * image_bytes / 1e6:6.1f} MB, "
        f"in blocks {max(4 * BLOCK, 9 * image_bytes / 32, 36 * channels * PLACES) / 1e6:.1f} MB"
    )

# %% [markdown]
r"""
## Questions

Work them out on paper; a sentence or two each, with the numbers.

**1.** A layer `Conv2d(64, 128, 3, padding=1)` sees images of 64 x 56 x 56. How many weights does it have, and how many multiplications does it take for one image? How many weights would a `Linear` from all inputs to all outputs need?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-costs", "locked": false, "points": 4, "schema_version": 3, "solution": true, "task": false}
r"""
Weights: 128 * 64 * 9 = 73,728, and 128 biases. Each of the 128 * 56 * 56 = 401,408 results takes 64 * 9 = 576 multiplications: 231 million. A Linear would have 200,704 inputs times 401,408 outputs, 80.6 thousand million weights: 322 GB in float32.
"""

# %% [markdown]
r"""
**2.** Two 3 x 3 convolutions, one after the other, or one 5 x 5: how large is the window of the image that a result sees in each case? How many weights have they, with C channels throughout? What else do two layers have that one hasn't?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-stack", "locked": false, "points": 4, "schema_version": 3, "solution": true, "task": false}
r"""
Both see 5 x 5 pixels: the second 3 x 3 reaches one further on each side. Two layers have 2 * 9 C^2 = 18 C^2 weights, the 5 x 5 has 25 C^2. And a bend (ReLU) between them, so that two layers can compute what no single linear one can.
"""

# %% [markdown]
r"""
**3.** `Conv2d(64, 64, 3)` is replaced by a depthwise one, `Conv2d(64, 64, 3, groups=64)`, and a 1 x 1 `Conv2d(64, 64, 1)`. By which factor do weights and multiplications shrink? Why does the time shrink by less? (Look at the table above: what is the ratio of copied numbers to multiplications in the depthwise layer?)
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-depthwise", "locked": false, "points": 3, "schema_version": 3, "solution": true, "task": false}
r"""
64 * 64 * 9 = 36,864 weights become 64 * 9 + 64 * 64 = 4,672: a factor of 7.9, for multiplications too, since both are used once for each place. But the depthwise layer still copies each pixel nine times, and each copy serves one multiplication where it served 64: it is bound by memory.
"""

# %% [markdown]
r"""
**4.** Your network ends with `BatchNorm2d`. You train it with batches of two images, and it is much worse in eval mode than in training mode. What goes wrong, and which layer of this module would you try instead? What if the batches had one image of 1 x 1?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-batch-norm", "locked": false, "points": 4, "schema_version": 3, "solution": true, "task": false}
r"""
Mean and variance of two images are noisy, and in training each image is normalised by statistics that it half decides itself; the running averages of eval mode are other numbers than any batch had. GroupNorm takes the statistics of each image alone, the same way in both modes. With a single number in a channel
the variance is 0 and the result always the bias; the layer refuses that.
"""


# %% nbgrader={"grade": false, "grade_id": "test-module", "locked": true, "schema_version": 3, "solution": false, "task": false}
def test_module():
    """All checks of this module, once more."""
    for test in (
        *(test_conv2d_loops, test_output_size, test_sliding_windows, test_unfold, test_fold),
        *(test_unfold_rules, test_correlate, test_conv2d_weight, test_conv_rules),
        *(test_max_pool2d, test_batch_norm, test_batch_norm_rule, test_running),
        *(test_group_norm, test_nearest),
    ):
        test()
    print("All tests passed.")


test_module()

# %% [markdown]
r"""
## What works now

- Convolutions in one and two dimensions, with stride, padding, dilation and groups, and back up again.
- Three products that are each other's gradients, to any order; pooling; normalisation by batch or by group.
- Columns of a few images at a time: the cache decides about speed, more than the number of multiplications.
- A network that finds a digit where it lies, with fewer weights than the one that had to see it in place.
- It unlocks LeNet and ResNets on MNIST and CIFAR-10: `tito milestone list`. Next: text.
"""

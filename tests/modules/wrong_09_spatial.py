"""Wrong solutions of module 09, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "conv2d-loops",
        "flips the kernel, as mathematicians do",
        change=("weight[o, c, i, j]", "weight[o, c, -1 - i, -1 - j]"),
        loses=["test-conv2d-loops"],
    ),
    Wrong(
        "conv2d-loops",
        "keeps the last product in place of the sum",
        change=("] += x", "] = x"),
        loses=["test-conv2d-loops"],
    ),
    Wrong(
        "conv2d-loops",
        "takes rows for columns",
        change=("x[n, c, h + i, w + j]", "x[n, c, h + j % kh, w + i % kw]"),
        loses=["test-conv2d-loops"],
    ),
    Wrong(
        "output-size",
        "forgets the last window",
        change=("// stride + 1", "// stride"),
        loses=["test-output-size"],
    ),
    Wrong(
        "output-size",
        "ignores dilation",
        change=("span = dilation * (kernel - 1) + 1", "span = kernel"),
        loses=["test-output-size"],
    ),
    Wrong(
        "output-size",
        "counts the margin twice",
        change=("(size + margin - span) //", "(size + 2 * margin - span) //"),
        loses=["test-output-size"],
    ),
    Wrong(
        "output-size",
        "refuses a kernel as large as the input",
        change=("span > size + margin", "span >= size + margin"),
        loses=["test-output-size"],
    ),
    Wrong(
        "sliding-windows",
        "leaves the axes in NumPy's order",
        change=(".transpose(0, 1, 4, 5, 2, 3)", ""),
        loses=["test-sliding-windows"],
    ),
    Wrong(
        "sliding-windows",
        "strides and dilations exchanged",
        change=(
            "(down, right), (rows, columns) = stride, dilation",
            "(down, right), (rows, columns) = dilation, stride",
        ),
        loses=["test-sliding-windows"],
    ),
    Wrong(
        "sliding-windows",
        "gives a copy",
        change=(".transpose(0, 1, 4, 5, 2, 3)", ".transpose(0, 1, 4, 5, 2, 3).copy()"),
        loses=["test-sliding-windows"],
    ),
    Wrong(
        "sliding-windows",
        "a span without dilation",
        change=("d * (k - 1) + 1", "k"),
        loses=["test-sliding-windows"],
    ),
    Wrong(
        "unfold",
        "one row for each place",
        change=(
            "windows.copy().reshape(len(x), rows, places)",
            "windows.reshape(len(x), rows, places).swapaxes(1, 2)",
        ),
        loses=["test-unfold"],
    ),
    Wrong(
        "unfold",
        "the kernel's cells before the channels",
        change=("windows.copy()", "windows.transpose(0, 2, 3, 1, 4, 5).copy()"),
        loses=["test-unfold"],
    ),
    Wrong("fold", "the last window wins", change=("] += cells", "] = cells"), loses=["test-fold"]),
    Wrong(
        "fold",
        "rows and columns of the kernel exchanged",
        change=("cells[:, :, i, j]", "cells[:, :, -1 - i, -1 - j]"),
        loses=["test-fold"],
    ),
    Wrong(
        "unfold-rules",
        "each rule is its own opposite",
        """
        vjp(unfold, lambda g, out, x, **how: fold(g, size=x.shape[2:], **how))
        vjp(fold, lambda g, out, columns, size, **how: columns)
        """,
        loses=["test-unfold-rules"],
    ),
    Wrong(
        "unfold-rules",
        "forgets the stride on the way back",
        change=(
            "vjp(fold, lambda g, out, columns, size, **how: unfold(g, **how))",
            "vjp(fold, lambda g, out, columns, size, **how: unfold(g, **{**how, 'padding': 0}))",
        ),
        loses=["test-unfold-rules"],
    ),
    Wrong(
        "correlate",
        "writes everything over the first images",
        change=("out[images] = room.cut", "out[: images.stop - images.start] = room.cut"),
        loses=["test-correlate"],
    ),
    Wrong(
        "correlate",
        "takes all channels for one group",
        """
        for images in room.parts:
            columns = room.columns(x[images], 1)[:, : rows.shape[2]]
            out[images] = room.cut(rows @ np.repeat(columns, groups, axis=0))
        """,
        loses=["test-correlate"],
    ),
    Wrong(
        "conv2d-weight",
        "only the last images count",
        change=("total += ", "total[...] = "),
        loses=["test-conv2d-weight"],
    ),
    Wrong(
        "conv2d-weight",
        "the mean over the images",
        change=("results.swapaxes(-1, -2)", "results.swapaxes(-1, -2) / len(x[images])"),
        loses=["test-conv2d-weight"],
    ),
    Wrong(
        "conv-rules",
        "the gradient by x is a convolution again",
        change=(
            "lambda g, out, x, w, b=None, **how: conv_transpose2d(g, w, size=x.shape[2:], **how),",
            "lambda g, out, x, w, b=None, **how: 0 * x,",
        ),
        loses=["test-conv-rules"],
    ),
    Wrong(
        "conv-rules",
        "the two inputs of conv2d_weight exchanged",
        change=(
            "lambda g, out, x, y, kernel_size, **how: conv2d(x, g, **how),",
            "lambda g, out, x, y, kernel_size, **how: conv2d(x, -g, **how),",
        ),
        loses=["test-conv-rules"],
    ),
    Wrong(
        "conv-rules",
        "conv_transpose2d has no gradient by its weight",
        change=(
            "lambda g, out, y, w, b=None, size=None, **how: conv2d_weight(\n"
            "        g, y, kernel_size=w.shape[2:], **how\n    ),",
            "None,",
        ),
        loses=["test-conv-rules"],
    ),
    Wrong(
        "max-pool2d",
        "begins at zero",
        change=("windows[:, :, 0, 0].copy()", "np.zeros_like(windows[:, :, 0, 0])"),
        loses=["test-max-pool2d"],
    ),
    Wrong(
        "max-pool2d",
        "writes into the image",
        change=("windows[:, :, 0, 0].copy()", "windows[:, :, 0, 0]"),
        loses=["test-max-pool2d"],
    ),
    Wrong(
        "max-pool2d",
        "the mean of the window",
        "out = windows.mean(axis=(2, 3))",
        loses=["test-max-pool2d"],
    ),
    Wrong(
        "batch-norm",
        "divides by the variance",
        change=("1 / np.sqrt(variance + eps)", "1 / (variance + eps)"),
        loses=["test-batch-norm"],
    ),
    Wrong(
        "batch-norm",
        "adds eps outside the root",
        change=("1 / np.sqrt(variance + eps)", "1 / (np.sqrt(variance) + eps)"),
        loses=["test-batch-norm"],
    ),
    Wrong(
        "batch-norm",
        "scales the bias too",
        """
        out = x - mean
        if bias is not None:
            out += _by_channel(bias, x.ndim)
        out *= 1 / np.sqrt(variance + eps)
        if weight is not None:
            out *= _by_channel(weight, x.ndim)
        """,
        loses=["test-batch-norm"],
    ),
    Wrong(
        "batch-norm-rule",
        "takes mean and deviation for constants",
        "return g * scale, (stretch * count).reshape((-1,)), (shift * count).reshape((-1,))",
        loses=["test-batch-norm-rule"],
    ),
    Wrong(
        "batch-norm-rule",
        "forgets that the deviation moves",
        change=("normal *= -stretch", "normal *= 0"),
        loses=["test-batch-norm-rule"],
    ),
    Wrong(
        "batch-norm-rule",
        "weight and bias exchanged",
        change=(
            "(stretch * count).reshape((-1,)), (shift * count).reshape((-1,))",
            "(shift * count).reshape((-1,)), (stretch * count).reshape((-1,))",
        ),
        loses=["test-batch-norm-rule"],
    ),
    Wrong(
        "running",
        "momentum weighs the past",
        change=("running_mean += momentum *", "running_mean += (1 - momentum) *"),
        loses=["test-running"],
    ),
    Wrong(
        "running",
        "the biased variance",
        change=(" * (count / (count - 1))", ""),
        loses=["test-running"],
    ),
    Wrong(
        "running",
        "does not tell autograd",
        change=("writes.add(running_mean)", "pass"),
        loses=["test-running"],
    ),
    Wrong(
        "group-norm",
        "the statistics of all images together",
        change=(
            "x.reshape(1, x.shape[0] * num_groups, -1)",
            "x.reshape(x.shape[0], num_groups, -1)",
        ),
        loses=["test-group-norm"],
    ),
    Wrong(
        "group-norm",
        "one group for everything",
        change=("x.shape[0] * num_groups", "x.shape[0]"),
        loses=["test-group-norm"],
    ),
    Wrong(
        "nearest",
        "repeats the whole row",
        "return np.arange(new) % old",
        loses=["test-nearest"],
    ),
    Wrong(
        "nearest",
        "rounds to the other neighbour",
        "return np.minimum(np.rint(np.arange(new) * old / new).astype(int), old - 1)",
        loses=["test-nearest"],
    ),
]

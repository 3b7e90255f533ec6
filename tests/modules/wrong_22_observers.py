"""Wrong solutions of module 22, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "grid-limits",
        "symmetric keeps the lowest integer",
        change=('lowest + (scheme == "symmetric")', "lowest"),
        loses=["test-grid-limits", "test-qparams"],
    ),
    Wrong(
        "grid-limits",
        "unsigned counts up to 2^bits",
        change=("lowest + levels - 1", "lowest + levels"),
        loses=["test-grid-limits", "test-qparams"],
    ),
    Wrong(
        "qparams",
        "leaves 0 outside the range",
        change=("np.minimum(np.float32(low), np.float32(0))", "np.float32(low)"),
        loses=["test-qparams"],
    ),
    Wrong(
        "qparams",
        "includes 0 on one side only",
        change=("np.maximum(np.float32(high), np.float32(0))", "np.float32(high)"),
        loses=["test-qparams"],
    ),
    Wrong(
        "qparams",
        "computes in float64",
        """
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        half = (highest - lowest) / 2
        if grid.scheme == "affine":
            scale = np.maximum((high - low) / (highest - lowest), 2.0**-23)
            zero_point = np.clip(lowest - np.rint(low / scale), lowest, highest)
        else:
            scale = np.maximum(np.maximum(-low, high) / half, 2.0**-23)
            zero_point = np.full_like(scale, math.ceil((lowest + highest) / 2))
        return as_numbers(scale, zero_point)
        """,
        loses=["test-qparams"],
    ),
    Wrong(
        "qparams",
        "unsigned symmetric grids have their zero point at 0",
        change=("math.ceil((lowest + highest) / 2)", "0"),
        loses=["test-qparams"],
    ),
    Wrong(
        "min-max",
        "remembers the last batch alone",
        "self.low, self.high = values.min(), values.max()",
        loses=["test-min-max"],
    ),
    Wrong(
        "min-max",
        "starts at 0",
        "self.low = min(0.0 if self.count == 0 else self.low, values.min())\n"
        "self.high = max(0.0 if self.count == 0 else self.high, values.max())",
        loses=["test-min-max"],
    ),
    Wrong(
        "moving-average",
        "gives the old range the small weight",
        change=(
            "low = self.low + self.averaging_constant * (low - self.low)",
            "low = low + self.averaging_constant * (self.low - low)",
        ),
        loses=["test-moving-average"],
    ),
    Wrong(
        "moving-average",
        "starts from 0 instead of the first batch",
        """
        if not self.count:
            self.low = self.high = np.float32(0)
        self.low = self.low + self.averaging_constant * (values.min() - self.low)
        self.high = self.high + self.averaging_constant * (values.max() - self.high)
        """,
        loses=["test-moving-average"],
    ),
    Wrong(
        "per-channel",
        "reduces the channel's axis itself",
        change=(
            "values.min(axis=others), values.max(axis=others)",
            "values.min(axis=self.axis), values.max(axis=self.axis)",
        ),
        loses=["test-per-channel"],
    ),
    Wrong(
        "per-channel",
        "does not know negative axes",
        change=("self.axis % values.ndim", "self.axis"),
        loses=["test-per-channel"],
    ),
    Wrong(
        "per-channel",
        "channels remember the last batch alone",
        change=(
            "np.minimum(self.low, low), np.maximum(self.high, high)",
            "low, high",
        ),
        loses=["test-per-channel"],
    ),
    Wrong(
        "per-channel",
        "one channel is broadcast to all",
        change=("if self.count and low.shape", "if self.count and len(low) > 1 and low.shape"),
        loses=["test-per-channel"],
    ),
    Wrong(
        "spread",
        "puts each bin whole where its middle lies",
        """
        middles = low + (high - low) * (np.arange(bins) + 0.5) / bins
        return np.histogram(middles, bins, new, weights=counts)[0]
        """,
        loses=["test-spread"],
    ),
    Wrong(
        "spread",
        "does not share the count among the parts",
        change=("counts / parts, parts", "counts, parts"),
        loses=["test-spread"],
    ),
    Wrong(
        "percentile",
        "cuts off the upper tail alone",
        change=("[100 - self.percentile, self.percentile]", "[0.0, self.percentile]"),
        loses=["test-percentile"],
    ),
    Wrong(
        "percentile",
        "splits what is cut off between both ends",
        change=(
            "[100 - self.percentile, self.percentile]",
            "[(100 - self.percentile) / 2, (100 + self.percentile) / 2]",
        ),
        loses=["test-percentile"],
    ),
    Wrong(
        "percentile",
        "takes edges for middles: no 0 before the first bin",
        change=(
            "np.concatenate([[0.0], self.counts.cumsum()])",
            "np.append(self.counts.cumsum(), self.counts.sum())",
        ),
        loses=["test-percentile"],
    ),
    Wrong(
        "squared-error",
        "what is cut off costs nothing",
        change=(
            "(counts * (outer + between)).sum()",
            "(counts * (outer + between))[first : last + 1].sum()",
        ),
        loses=["test-squared-error"],
    ),
    Wrong(
        "squared-error",
        "counts both ends of a level that holds a whole bin",
        change=("(to_level - from_level - 1)", "np.maximum(to_level - from_level - 1, 0)"),
        loses=["test-squared-error"],
    ),
    Wrong(
        "squared-error",
        "forgets the levels between",
        change=("(outer + between)", "outer"),
        loses=["test-squared-error"],
    ),
    Wrong(
        "squared-error",
        "beyond the range there are more levels",
        change=("np.clip(x // width, 0, levels - 1)", "x // width"),
        loses=["test-squared-error"],
    ),
    Wrong(
        "mse-observer",
        "clipping is free",
        """
        _, restored = self.rounded(first, last)
        error = self.counts * (restored - self.middles) ** 2
        return float(error[first : last + 1].sum())
        """,
        loses=["test-mse-observer"],
    ),
    Wrong(
        "mse-observer",
        "each bin weighs the same",
        change=("self.counts * (restored - self.middles) ** 2", "(restored - self.middles) ** 2"),
        loses=["test-mse-observer"],
    ),
    Wrong(
        "divergence",
        "p and q exchanged",
        change=("p, q = p[p > 0], q[p > 0]", "q, p = p[p > 0], q[p > 0]"),
        loses=["test-divergence"],
    ),
    Wrong(
        "divergence",
        "q is divided by its own sum",
        change=("np.log(p / q)", "np.log(p / p.sum() * q.sum() / q)"),
        loses=["test-divergence"],
    ),
    Wrong(
        "divergence",
        "leaves out what q calls impossible",
        change=("return math.inf", "p, q = p[q > 0], q[q > 0]"),
        loses=["test-divergence"],
    ),
    Wrong(
        "evened",
        "spreads over the empty bins too",
        """
        full = np.maximum(np.bincount(levels), 1)
        return (np.bincount(levels, counts) / full)[levels]
        """,
        loses=["test-evened"],
    ),
    Wrong(
        "evened",
        "changes the counts that it was given",
        """
        for level in np.unique(levels):
            mine = (levels == level) & (counts > 0)
            if mine.any():
                counts[mine] = counts[mine].mean()
        return counts
        """,
        loses=["test-evened"],
    ),
    Wrong(
        "entropy-observer",
        "forgets what is cut off",
        change=("divergence(p, evened", "divergence(inside, evened"),
        loses=["test-entropy-observer"],
    ),
    Wrong(
        "entropy-observer",
        "q has what is cut off too",
        change=("evened(inside, levels", "evened(p, levels"),
        loses=["test-entropy-observer"],
    ),
    Wrong(
        "entropy-observer",
        "writes into the histogram",
        change=("p = inside.copy()", "p = inside"),
        loses=["test-entropy-observer"],
    ),
    Wrong(
        "fold-batch-norm",
        "forgets the running mean",
        change=("(bias - norm.running_mean.data) * scale", "bias * scale"),
        loses=["test-fold-batch-norm", "test-fuse"],
    ),
    Wrong(
        "fold-batch-norm",
        "forgets eps",
        change=(" + norm.eps)", ")"),
        loses=["test-fold-batch-norm"],
    ),
    Wrong(
        "fold-batch-norm",
        "scales the input channels of a Linear",
        change=("(1, -1) if isinstance(layer, Linear)", "(-1, 1) if isinstance(layer, Linear)"),
        loses=["test-fold-batch-norm"],
    ),
    Wrong(
        "fuse",
        "the norm is folded, and stays",
        change=("replaced[id(norm)], last = Identity(), norm", "last = norm"),
        loses=["test-fuse"],
    ),
    Wrong(
        "fuse",
        "the ReLU behind a norm is not found",
        change=("replaced[id(norm)], last = Identity(), norm", "replaced[id(norm)] = Identity()"),
        loses=["test-fuse"],
    ),
    Wrong(
        "fuse",
        "folds norms over any axis",
        change=(
            "(type(layer), type(norm), ndim) in FOLDABLE",
            "isinstance(norm, (BatchNorm1d, BatchNorm2d))",
        ),
        loses=["test-fuse"],
    ),
    Wrong(
        "fuse",
        "takes the next in the tree for the follower",
        """
        leaves = [m for m in model.modules() if not (isinstance(m, Module) and m.children())]
        for layer, norm, bend in zip(leaves, [*leaves[1:], None], [*leaves[2:], None, None]):
            if type(layer) not in (Linear, Conv2d):
                continue
            if isinstance(norm, (BatchNorm1d, BatchNorm2d)):
                fold_batch_norm(layer, norm)
                replaced[id(norm)] = Identity()
            else:
                bend = norm
            if type(bend) is ReLU:
                replaced[id(bend)], replaced[id(layer)] = Identity(), Fused(layer)
        replace_modules(model, replaced)
        """,
        loses=["test-fuse"],
    ),
]

"""Wrong solutions of module 25, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "output-error",
        "the error of the weights alone",
        """
        error = np.asarray(restored, np.float64) - np.asarray(weight, np.float64)
        return float((error * error).sum())
        """,
        loses=["test-output-error"],
    ),
    Wrong(
        "output-error",
        "the diagonal alone: errors of different inputs never cancel",
        change=("inputs.gram @ error", "np.diag(inputs.gram)[:, None] * error"),
        loses=["test-output-error"],
    ),
    Wrong(
        "output-error",
        "a sum, not a mean",
        change=(" / inputs.count", ""),
        loses=["test-output-error"],
    ),
    Wrong(
        "bias-correction",
        "the wrong sign",
        change=(
            "original @ np.asarray(weight) - inputs.mean @ np.asarray(restored)",
            "inputs.mean @ np.asarray(restored) - original @ np.asarray(weight)",
        ),
        loses=["test-bias-correction"],
    ),
    Wrong(
        "bias-correction",
        "forgets the float inputs",
        change=("(float_inputs or inputs).mean", "inputs.mean"),
        loses=["test-bias-correction"],
    ),
    Wrong(
        "bias-correction",
        "the float inputs on both sides",
        change=("inputs.mean @ np.asarray(restored)", "original @ np.asarray(restored)"),
        loses=["test-bias-correction"],
    ),
    Wrong(
        "clip-search",
        "returns the full range",
        "return best",
        loses=["test-clip-search"],
    ),
    Wrong(
        "clip-search",
        "measures against the clipped weight",
        change=(
            "cost = group_costs((other.restored().data - w) ** 2, groups)",
            "cost = group_costs((other.restored().data - cut) ** 2, groups)",
        ),
        loses=["test-clip-search"],
    ),
    Wrong(
        "clip-search",
        "forgets to lower the bar",
        change=("least = np.minimum(cost, least)", "pass"),
        loses=["test-clip-search"],
    ),
    Wrong(
        "clip-search",
        "one range for the whole weight",
        change=(
            "low, high = parts.min(axis=1, keepdims=True), parts.max(axis=1, keepdims=True)",
            "low, high = parts.min(), parts.max()",
        ),
        loses=["test-clip-search"],
    ),
    Wrong(
        "clip-search",
        "symmetric: the largest number, not the largest magnitude",
        change=("high = np.maximum(-low, high)", "pass"),
        loses=["test-clip-search"],
    ),
    Wrong(
        "clip-search",
        "symmetric ranges for affine grids",
        change=("if symmetric:", "if True:"),
        loses=["test-clip-search"],
    ),
    Wrong(
        "hqq",
        "rounds to nearest and leaves it at that",
        "return best",
        loses=["test-hqq"],
    ),
    Wrong(
        "hqq",
        "nothing is sparse: the mean of all errors",
        change=("sparse = shrink(error, beta * growth**i, p)", "sparse = 0"),
        loses=["test-hqq"],
    ),
    Wrong(
        "hqq",
        "the sparse part with the wrong sign",
        change=("marks - steps + sparse", "marks - steps - sparse"),
        loses=["test-hqq"],
    ),
    Wrong(
        "hqq",
        "takes the last zero point, better or not",
        change=("cost < least", "cost < np.inf"),
        loses=["test-hqq"],
    ),
    Wrong(
        "hqq",
        "whole zero points",
        change=(
            "(marks - steps + sparse).mean(axis=1).astype(np.float32)",
            "np.rint((marks - steps + sparse).mean(axis=1)).astype(np.float32)",
        ),
        loses=["test-hqq"],
    ),
    Wrong(
        "hqq",
        "rounds before the zero point is added",
        change=("np.rint(steps + zero_point[:, None])", "np.rint(steps) + zero_point[:, None]"),
        loses=["test-hqq"],
    ),
    Wrong(
        "inverse-root",
        "the lower factor",
        change=("np.diag(added))).T", "np.diag(added)))"),
        loses=["test-inverse-root"],
    ),
    Wrong(
        "inverse-root",
        "the factor of H, not of its inverse",
        change=(
            "np.linalg.inv(hessian + np.diag(added))",
            "(hessian + np.diag(added))",
        ),
        loses=["test-inverse-root"],
    ),
    Wrong(
        "inverse-root",
        "damping as it is, not times the mean",
        change=("damping * diagonal.mean()", "damping"),
        loses=["test-inverse-root"],
    ),
    Wrong(
        "inverse-root",
        "inputs that are always 0 are damped like others",
        change=(
            "np.where(diagonal > 0, damping * diagonal.mean(), 1.0)",
            "np.full(len(diagonal), damping * diagonal.mean())",
        ),
        loses=["test-inverse-root"],
    ),
    Wrong(
        "inverse-root",
        "NumPy's own error",
        """
        diagonal = np.diag(hessian)
        added = np.where(diagonal > 0, damping * diagonal.mean(), 1.0)
        return np.linalg.cholesky(np.linalg.inv(hessian + np.diag(added))).T
        """,
        loses=["test-inverse-root"],
    ),
    Wrong(
        "feed-back",
        "rounds to nearest, row by row",
        """
        for k in range(len(weight)):
            marks.append(to_grid(k, weight[k])[0])
        """,
        loses=["test-feed-back", "test-gptq"],
    ),
    Wrong(
        "feed-back",
        "moves the rows below the wrong way",
        """
        for k in range(len(weight)):
            mark, restored = to_grid(k, weight[k])
            marks.append(mark)
            error = (weight[k] - restored) / root[k, k]
            weight[k + 1 :] += np.outer(root[k, k + 1 :], error)
        """,
        loses=["test-feed-back", "test-gptq"],
    ),
    Wrong(
        "feed-back",
        "forgets to divide by the diagonal",
        change=("(weight[k] - restored) / root[k, k]", "weight[k] - restored"),
        loses=["test-feed-back"],
    ),
    Wrong(
        "feed-back",
        "columns of the root instead of rows",
        change=("np.outer(root[k, k + 1 : end], error)", "np.outer(root[k + 1 : end, k], error)"),
        loses=["test-feed-back"],
    ),
    Wrong(
        "feed-back",
        "never moves the rows below a block",
        change=("weight[end:] -= root[start:end, end:].T @ errors", "pass"),
        loses=["test-feed-back"],
    ),
    Wrong(
        "feed-back",
        "drops the rows of the last, shorter block",
        change=(
            "range(0, len(weight), block_size)",
            "range(0, len(weight) // block_size * block_size or len(weight), block_size)",
        ),
        loses=["test-feed-back"],
    ),
    Wrong(
        "gptq",
        "ignores the order",
        change=('if order == "activation":', "if False:"),
        loses=["test-gptq"],
    ),
    Wrong(
        "gptq",
        "the smallest inputs first",
        change=("np.argsort(-np.diag(gram)", "np.argsort(np.diag(gram)"),
        loses=["test-gptq"],
    ),
    Wrong(
        "gptq",
        "leaves the marks in the order of rounding",
        change=("q[turn] = feed_back(", "q[:] = feed_back("),
        loses=["test-gptq"],
    ),
    Wrong(
        "gptq",
        "orders the rows of gram, not its columns",
        change=("gram[np.ix_(turn, turn)]", "gram[turn]"),
        loses=["test-gptq"],
    ),
    Wrong(
        "gptq",
        "grids in their own order",
        change=(
            "target.scale.astype(np.float64)[turn // size]",
            "target.scale.astype(np.float64)[np.arange(len(w)) // size]",
        ),
        loses=["test-gptq"],
    ),
    Wrong(
        "gptq",
        "forgets the zero point",
        change=("(marks - zero_point[k]) * scale[k]", "marks * scale[k]"),
        loses=["test-gptq"],
    ),
    Wrong(
        "awq",
        "plain rounding",
        "return round_to_nearest(w, bits, group_size, symmetric, name)",
        loses=["test-awq"],
    ),
    Wrong(
        "awq",
        "makes rows with large inputs smaller",
        change=("factors = size**alpha", "factors = size**-alpha"),
        loses=["test-awq"],
    ),
    Wrong(
        "awq",
        "forgets the geometric mean",
        change=("factors /= math.exp(np.log(factors).mean())", "pass"),
        loses=["test-awq"],
    ),
    Wrong(
        "awq",
        "the arithmetic mean",
        change=("factors /= math.exp(np.log(factors).mean())", "factors /= factors.mean()"),
        loses=["test-awq"],
    ),
    Wrong(
        "awq",
        "the worst alpha",
        change=("return min(candidates", "return max(candidates"),
        loses=["test-awq"],
    ),
    Wrong(
        "awq",
        "the least error of the weights",
        change=(
            "key=lambda chosen: output_error(w, chosen.restored(), inputs)",
            "key=lambda chosen: float(((chosen.restored().data - w) ** 2).sum())",
        ),
        loses=["test-awq"],
    ),
    Wrong(
        "move-factors",
        "multiplies the source, divides what follows",
        """
        source.weight = Tensor(source.weight.data * factors)
        if getattr(source, "bias", None) is not None:
            source.bias = Tensor(source.bias.data * factors)
        for layer in layers:
            layer.weight = Tensor(layer.weight.data / factors[:, None])
        """,
        loses=["test-move-factors"],
    ),
    Wrong(
        "move-factors",
        "forgets the bias",
        """
        source.weight = Tensor(source.weight.data / factors)
        for layer in layers:
            layer.weight = Tensor(layer.weight.data * factors[:, None])
        """,
        loses=["test-move-factors"],
    ),
    Wrong(
        "move-factors",
        "the first of the layers alone",
        change=("for layer in layers:", "for layer in layers[:1]:"),
        loses=["test-move-factors"],
    ),
    Wrong(
        "smoothing-factors",
        "the exponents changed over",
        change=(
            "largest**alpha / rows ** (1 - alpha)",
            "largest ** (1 - alpha) / rows**alpha",
        ),
        loses=["test-smoothing-factors"],
    ),
    Wrong(
        "smoothing-factors",
        "the mean of a row, not its maximum",
        change=(".max(axis=1)", ".mean(axis=1)"),
        loses=["test-smoothing-factors"],
    ),
    Wrong(
        "smoothing-factors",
        "the maximum of columns",
        change=("np.abs(weight).max(axis=1)", "np.resize(np.abs(weight).max(axis=0), len(weight))"),
        loses=["test-smoothing-factors"],
    ),
    Wrong(
        "smoothing-factors",
        "inputs that are always 0 get the factor 0",
        change=("(rows > 0) & (largest > 0)", "rows > 0"),
        loses=["test-smoothing-factors"],
    ),
    Wrong(
        "split-matmul",
        "everything in floats",
        "return x @ (q_weight * scale)",
        loses=["test-split-product"],
    ),
    Wrong(
        "split-matmul",
        "no outliers at all",
        change=("(np.abs(x) > threshold).any(axis=0)", "np.zeros(x.shape[1], bool)"),
        loses=["test-split-product"],
    ),
    Wrong(
        "split-matmul",
        "positive outliers only",
        change=("np.abs(x) > threshold", "x > threshold"),
        loses=["test-split-product"],
    ),
    Wrong(
        "split-matmul",
        "outliers count twice",
        change=("np.where(outliers, 0, x)", "x"),
        loses=["test-split-product"],
    ),
    Wrong(
        "split-matmul",
        "forgets the scales of rows",
        change=(" * row_scale", ""),
        loses=["test-split-product"],
    ),
    Wrong(
        "split-matmul",
        "a column must be large in every row",
        change=(".any(axis=0)", ".all(axis=0)"),
        loses=["test-split-product"],
    ),
]

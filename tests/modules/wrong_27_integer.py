"""Wrong solutions of module 27, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "fixed-point",
        "cuts the mantissa off",
        change=("fraction * 2**31 + 0.5", "fraction * 2**31"),
        loses=["test-fixed-point"],
    ),
    Wrong(
        "fixed-point",
        "rounds the mantissa to even",
        change=("np.floor(fraction * 2**31 + 0.5)", "np.rint(fraction * 2**31)"),
        loses=["test-fixed-point"],
    ),
    Wrong(
        "fixed-point",
        "lets the mantissa grow to 2^31",
        change=("grown = mantissa == 2**31", "grown = np.zeros_like(mantissa, bool)"),
        loses=["test-fixed-point"],
    ),
    Wrong(
        "fixed-point",
        "has the sign of the exponent wrong",
        change=(", exponent + grown", ", -exponent - grown"),
        loses=["test-fixed-point"],
    ),
    Wrong(
        "fixed-point",
        "keeps exponents that nobody can shift by",
        change=("small = exponent < -31", "small = exponent < -1000"),
        loses=["test-fixed-point"],
    ),
    Wrong(
        "high-multiply",
        "cuts off instead of rounding",
        change=("(product + 2**30) >> 31", "product >> 31"),
        loses=["test-high-multiply"],
    ),
    Wrong(
        "high-multiply",
        "multiplies in 32 bits",
        change=("np.multiply(a, b, dtype=np.int64)", "np.multiply(a, b).astype(np.int64)"),
        loses=["test-high-multiply"],
    ),
    Wrong(
        "high-multiply",
        "rounds halves away from zero",
        "product = np.multiply(a, b, dtype=np.int64)\n"
        "high = np.sign(product) * ((np.abs(product) + 2**30) >> 31)\n"
        "return np.minimum(high, INT32.max).astype(np.int32)",
        loses=["test-high-multiply"],
    ),
    Wrong(
        "high-multiply",
        "lets the lowest int32 squared wrap around",
        change=("np.minimum((product + 2**30) >> 31, INT32.max)", "((product + 2**30) >> 31)"),
        loses=["test-high-multiply"],
    ),
    Wrong(
        "high-multiply",
        "forgets the doubling",
        change=("(product + 2**30) >> 31", "(product + 2**31) >> 32"),
        loses=["test-high-multiply"],
    ),
    Wrong(
        "right-shift",
        "shifts without rounding",
        "return (x >> exponent).astype(np.int32)",
        loses=["test-right-shift"],
    ),
    Wrong(
        "right-shift",
        "rounds halves up",
        change=("(np.sign(x) * ((np.abs(x) + half) >> exponent))", "((x + half) >> exponent)"),
        loses=["test-right-shift"],
    ),
    Wrong(
        "right-shift",
        "adds a whole instead of a half",
        change=("(np.int64(1) << exponent) >> 1", "(np.int64(1) << exponent) - 1"),
        loses=["test-right-shift"],
    ),
    Wrong(
        "fixed-point-multiply",
        "forgets exponents above 0",
        change=("np.maximum(exponent, 0), np", "np.zeros_like(exponent), np"),
        loses=["test-fixed-point-multiply"],
    ),
    Wrong(
        "fixed-point-multiply",
        "shifts left after multiplying",
        "left, right = np.maximum(exponent, 0), np.maximum(-exponent, 0)\n"
        "high = rounding_doubling_high_multiply(x, mantissa).astype(np.int64) << left\n"
        "return rounding_right_shift(np.clip(high, INT32.min, INT32.max), right)",
        loses=["test-fixed-point-multiply"],
    ),
    Wrong(
        "fixed-point-multiply",
        "shifts left in 32 bits",
        change=(
            "np.clip(x.astype(np.int64) << left, INT32.min, INT32.max)",
            "x << left",
        ),
        loses=["test-fixed-point-multiply"],
    ),
    Wrong(
        "fixed-point-multiply",
        "takes one shift for all",
        change=("np.maximum(-exponent, 0)", "np.max(-exponent)"),
        loses=["test-fixed-point-multiply"],
    ),
    Wrong(
        "requantize",
        "adds the zero point before clipping",
        "scaled = fixed_point_multiply(accumulator, mantissa, exponent)\n"
        "return np.clip(scaled + zero_point, lowest, highest).astype(np.int8)",
        loses=["test-requantize"],
    ),
    Wrong(
        "requantize",
        "clips to the limits, then adds the zero point",
        change=("lowest - zero_point, highest - zero_point", "lowest, highest"),
        loses=["test-requantize"],
    ),
    Wrong(
        "requantize",
        "always clips to int8",
        change=("lowest - zero_point, highest - zero_point", "-128 - zero_point, 127 - zero_point"),
        loses=["test-requantize"],
    ),
    Wrong(
        "requantize",
        "forgets the zero point",
        "scaled = fixed_point_multiply(accumulator, mantissa, exponent)\n"
        "return np.clip(scaled, lowest, highest).astype(np.int8)",
        loses=["test-requantize"],
    ),
    Wrong(
        "exact-terms",
        "counts the stored bits only",
        change=("nmant + 1", "nmant"),
        loses=["test-exact-terms"],
    ),
    Wrong(
        "exact-terms",
        "always float32",
        change=("np.finfo(carrier).nmant + 1", "24"),
        loses=["test-exact-terms"],
    ),
    Wrong(
        "exact-terms",
        "stays below 2^p",
        change=("2**bits //", "(2**bits - 1) //"),
        loses=["test-exact-terms"],
    ),
    Wrong(
        "carried-matmul",
        "multiplies in one piece",
        "return (a.astype(carrier) @ b.astype(carrier)).astype(np.int32)",
        loses=["test-carried-matmul"],
    ),
    Wrong(
        "carried-matmul",
        "adds the blocks in float32",
        change=(
            "total += (left @ right).astype(np.int32)",
            "total = (total.astype(np.float32) + left @ right).astype(np.int32)",
        ),
        loses=["test-carried-matmul"],
    ),
    Wrong(
        "carried-matmul",
        "blocks of 1040, whatever the numbers",
        change=("assert", "block = 1040  # assert"),
        loses=["test-carried-matmul"],
    ),
    Wrong(
        "carried-matmul",
        "cuts the last two axes, for matrices only",
        change=("a[..., start : start + block]", "a[:, start : start + block]"),
        loses=["test-carried-matmul"],
    ),
    Wrong(
        "integer-parameters",
        "the bias on the grid of the weight",
        change=("np.rint(bias / (x_grid.scale * scale))", "np.rint(bias / scale)"),
        loses=["test-integer-parameters"],
    ),
    Wrong(
        "integer-parameters",
        "cuts the bias off",
        change=("np.rint(bias / (x_grid.scale * scale))", "(bias / (x_grid.scale * scale))"),
        loses=["test-integer-parameters"],
    ),
    Wrong(
        "integer-parameters",
        "the multiplier upside down",
        change=("x_grid.scale * scale / y_grid.scale", "y_grid.scale / (x_grid.scale * scale)"),
        loses=["test-integer-parameters"],
    ),
    Wrong(
        "integer-parameters",
        "the weight's own scale, too small for the bias",
        change=(
            "q_bias = np.rint(bias / (x_grid.scale * scale))",
            "q_bias = np.rint(bias / (x_grid.scale * weight_grid.scale))",
        ),
        loses=["test-integer-parameters"],
    ),
    Wrong(
        "integer-parameters",
        "channels along the last axis",
        change=("0 * scale, axis)", "0 * scale, -1)"),
        loses=["test-integer-parameters"],
    ),
    Wrong(
        "linear-forward",
        "forgets the zero point of the input",
        change=("layer.centred(rows)", "rows"),
        loses=["test-linear-forward"],
    ),
    Wrong(
        "linear-forward",
        "subtracts the zero point in int8",
        change=("layer.centred(rows)", "(rows - rows.dtype.type(layer.x_zero_point.item()))"),
        loses=["test-linear-forward"],
    ),
    Wrong(
        "linear-forward",
        "multiplies floats",
        change=(
            "layer.matmul(layer.centred(rows), layer.q_weight.data)",
            "(layer.centred(rows).astype(float) @ layer.q_weight.data).astype(np.int32)",
        ),
        loses=["test-linear-forward"],
    ),
    Wrong(
        "conv2d-forward",
        "pads with the integer 0",
        change=("windows_of(x, layer, layer.x_zero_point.item())", "windows_of(x, layer, 0)"),
        loses=["test-conv2d-forward"],
    ),
    Wrong(
        "conv2d-forward",
        "forgets the zero point of the windows",
        change=("layer.centred(columns)", "columns"),
        loses=["test-conv2d-forward"],
    ),
    Wrong(
        "conv2d-forward",
        "subtracts the zero point of windows in int8",
        change=(
            "layer.centred(columns)",
            "(columns - columns.dtype.type(layer.x_zero_point.item()))",
        ),
        loses=["test-conv2d-forward"],
    ),
    Wrong(
        "conv2d-forward",
        "gives all groups the channels of the first",
        change=("layer.centred(columns))", "layer.centred(columns[:, :1].repeat(groups, 1)))"),
        loses=["test-conv2d-forward"],
    ),
    Wrong(
        "rounding-divide",
        "divides downwards",
        "return total // count",
        loses=["test-rounding-divide"],
    ),
    Wrong(
        "rounding-divide",
        "divides halves up",
        "return (total + count // 2) // count",
        loses=["test-rounding-divide"],
    ),
    Wrong(
        "rounding-divide",
        "rounds halves to even, by floats",
        "return np.rint(total / count).astype(np.int32)",
        loses=["test-rounding-divide"],
    ),
    Wrong(
        "in-integers",
        "every layer takes the grid of the model's input",
        change=("grid = grids[name]\n", "last = grids[name]\n"),
        loses=["test-in-integers"],
    ),
    Wrong(
        "in-integers",
        "forgets the ReLU of a Fused",
        change=("relu=type(layer) is Fused", "relu=False"),
        loses=["test-in-integers"],
    ),
    Wrong(
        "in-integers",
        "forgets matmul",
        change=("matmul=matmul, ", ""),
        loses=["test-in-integers"],
    ),
    Wrong(
        "in-integers",
        "gives poolings the grid of the input",
        change=("(layer, grid.zero_point)", '(layer, grids["input"].zero_point)'),
        loses=["test-in-integers"],
    ),
]

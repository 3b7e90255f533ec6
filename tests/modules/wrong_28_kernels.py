"""Wrong solutions of module 28, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "least-seconds",
        "adds the two times",
        change=("max(reading, multiplying)", "reading + multiplying"),
        loses=["test-least-seconds"],
    ),
    Wrong(
        "least-seconds",
        "counts a product and its addition as one",
        change=("2 * rows * k * n", "rows * k * n"),
        loses=["test-least-seconds"],
    ),
    Wrong(
        "least-seconds",
        "reads the weights for each row",
        change=("k * n * weight_bytes", "rows * k * n * weight_bytes"),
        loses=["test-least-seconds"],
    ),
    Wrong(
        "offered-kernels",
        "one feature of VNNI is enough",
        change=('{"avx512bw", "avx512vnni"} <= features', '"avx512vnni" in features'),
        loses=["test-offered-kernels"],
    ),
    Wrong(
        "offered-kernels",
        "AMX without VNNI",
        change=(
            'vnni and {"amx-tile", "amx-int8"} <= features and amx_permitted()',
            '{"amx-tile", "amx-int8"} <= features',
        ),
        loses=["test-offered-kernels"],
    ),
    Wrong(
        "offered-kernels",
        "from slow to fast",
        change=(
            '["amx"] * amx + ["vnni"] * vnni + ["generic", "numpy"]',
            '["numpy", "generic"] + ["vnni"] * vnni + ["amx"] * amx',
        ),
        loses=["test-offered-kernels"],
    ),
    Wrong(
        "pack-panels",
        "rows of columns instead of columns' quads",
        change=("transpose(2, 0, 3, 1)", "transpose(2, 0, 1, 3).reshape(-1, 1, 64, 4)"),
        loses=["test-pack-panels"],
    ),
    Wrong(
        "pack-panels",
        "a view, not written out",
        change=(
            "np.ascontiguousarray(blocks.transpose(2, 0, 3, 1))",
            "blocks.transpose(2, 0, 3, 1)",
        ),
        loses=["test-pack-panels"],
    ),
    Wrong(
        "pack-panels",
        "fills up to quads only, whatever multiple says",
        change=("k + -k % multiple", "k + -k % 4"),
        loses=["test-pack-panels"],
    ),
    Wrong(
        "pack-panels",
        "panels along K",
        change=("transpose(2, 0, 3, 1)", "transpose(0, 2, 3, 1)"),
        loses=["test-pack-panels"],
    ),
    Wrong(
        "pack-nibbles",
        "even quads high",
        change=("low & 15 | high << 4", "high & 15 | low << 4"),
        loses=["test-pack-nibbles"],
    ),
    Wrong(
        "pack-nibbles",
        "the sign of the low nibble spills over",
        change=("low & 15", "low"),
        loses=["test-pack-nibbles"],
    ),
    Wrong(
        "pack-nibbles",
        "halves of K together instead of neighbours",
        """
        half = panels.shape[1] // 2
        low, high = panels[:, :half].view(np.uint8), panels[:, half:].view(np.uint8)
        return low & 15 | high << 4
        """,
        loses=["test-pack-nibbles"],
    ),
    Wrong(
        "sixteenfold",
        "odd quads first",
        change=("[packed << 4, packed & 0xF0]", "[packed & 0xF0, packed << 4]"),
        loses=["test-sixteenfold"],
    ),
    Wrong(
        "sixteenfold",
        "the low nibble stays below the high one",
        change=("packed & 0xF0", "packed"),
        loses=["test-sixteenfold"],
    ),
    Wrong(
        "sixteenfold",
        "all even quads, then all odd ones",
        change=("axis=2", "axis=1"),
        loses=["test-sixteenfold"],
    ),
    Wrong(
        "sixteenfold",
        "unsigned",
        change=(".view(np.int8)", ""),
        loses=["test-sixteenfold"],
    ),
    Wrong(
        "add-tile",
        "always writes",
        change=("sums[top : top + count] += product", "sums[top : top + count] = product"),
        loses=["test-add-tile"],
    ),
    Wrong(
        "add-tile",
        "always adds",
        change=("sums[top : top + count] = product", "sums[top : top + count] += product"),
        loses=["test-add-tile"],
    ),
    Wrong(
        "add-tile",
        "multiplies bytes in 16 bits",
        """
        part = rows[row : row + count, 4 * first : 4 * last].reshape(count, -1, 4)
        product = np.einsum("rqi,qni->rn", part.astype(np.int16), weights.astype(np.int16))
        sums[top : top + count] = product if fresh else sums[top : top + count] + product
        """,
        loses=["test-add-tile"],
    ),
    Wrong(
        "add-tile",
        "takes the rows' bytes as signed",
        change=("part.astype(np.int32)", "part.view(np.int8).astype(np.int32)"),
        loses=["test-add-tile"],
    ),
    Wrong(
        "add-tile",
        "quads counted as numbers",
        change=("4 * first : 4 * last", "first : first + 4 * (last - first)"),
        loses=["test-add-tile"],
    ),
    Wrong(
        "add-tile",
        "always the first rows",
        change=("rows[row : row + count,", "rows[:count,"),
        loses=["test-add-tile"],
    ),
    Wrong(
        "rounded-rows",
        "one grid for all rows",
        change=("f(x, axis=1, initial=0)[:, None]", "np.full((len(x), 1), f(x, initial=0))"),
        loses=["test-rounded-rows"],
    ),
    Wrong(
        "rounded-rows",
        "the range without 0",
        change=("f(x, axis=1, initial=0)", "f(x, axis=1)"),
        loses=["test-rounded-rows"],
    ),
    Wrong(
        "rounded-rows",
        "a row of zeros divides by zero",
        change=("np.where(scale > SMALLEST, scale, 1.0)", "scale"),
        loses=["test-rounded-rows"],
    ),
    Wrong(
        "rounded-rows",
        "does not clip",
        change=("np.clip(marks, lowest - zero_point, highest - zero_point, out=marks)", "pass"),
        loses=["test-rounded-rows"],
    ),
    Wrong(
        "rounded-rows",
        "halves go up",
        change=("np.rint(marks, out=marks)", "marks = np.floor(marks + np.float32(0.5))"),
        loses=["test-rounded-rows"],
    ),
    Wrong(
        "rounded-rows",
        "works on the input itself",
        change=(
            "marks = x * np.float32(1 / scale)",
            "marks = np.multiply(x, np.float32(1 / scale), out=x)",
        ),
        loses=["test-rounded-rows"],
    ),
    Wrong(
        "finish-tile",
        "forgets the zero point of x",
        change=(
            "exact = exact - zero_point.astype(np.int32) * columns[0, width]",
            "exact = exact.copy()",
        ),
        loses=["test-finish-tile"],
    ),
    Wrong(
        "finish-tile",
        "forgets the zero points of the weight",
        change=("exact -= total.astype(np.int32) * columns[1, width]", "pass"),
        loses=["test-finish-tile"],
    ),
    Wrong(
        "finish-tile",
        "corrects in float32",
        change=(
            "exact = exact - zero_point.astype(np.int32) * columns[0, width]",
            "exact = exact.astype(np.float32) - zero_point * columns[0, width].astype(np.float32)",
        ),
        loses=["test-finish-tile"],
    ),
    Wrong(
        "finish-tile",
        "the bias is scaled, too",
        """
        rows, width = slice(row, row + count), slice(column, min(column + PANEL, y.shape[1]))
        scale, zero_point, total = grids[rows].T[:, :, None]
        exact = sums[top : top + count, : width.stop - column]
        exact = exact - zero_point.astype(np.int32) * columns[0, width]
        exact -= total.astype(np.int32) * columns[1, width]
        value = (exact.astype(np.float32) * scales[0, width] + scales[1, width]) * scale
        y[rows, width] = exact if y.dtype == np.int32 else np.maximum(value, floor)
        """,
        loses=["test-finish-tile"],
    ),
    Wrong(
        "finish-tile",
        "scales integers, too",
        change=(
            "exact if y.dtype == np.int32 else np.maximum(value, floor)",
            "np.maximum(value, floor)",
        ),
        loses=["test-finish-tile"],
    ),
    Wrong(
        "finish-tile",
        "no floor",
        change=("else np.maximum(value, floor)", "else value"),
        loses=["test-finish-tile"],
    ),
    Wrong(
        "finish-tile",
        "always the first panel's tables",
        change=("columns[0, width]", "columns[0, : width.stop - column]"),
        loses=["test-finish-tile"],
    ),
    Wrong(
        "add-group",
        "multiplies by 256 in int32",
        change=("(high * np.float32(256) + low)", "(pairs[:, 0] * 256 + low)"),
        loses=["test-add-group"],
    ),
    Wrong(
        "add-group",
        "writes instead of adding",
        change=("totals[:count] +=", "totals[:count] ="),
        loses=["test-add-group"],
    ),
    Wrong(
        "add-group",
        "low and high the wrong way round",
        change=("high, low =", "low, high ="),
        loses=["test-add-group"],
    ),
    Wrong(
        "add-group",
        "always the first group",
        change=("scales[group,", "scales[0,"),
        loses=["test-add-group"],
    ),
    Wrong(
        "accelerate",
        "a layer that has to stay is replaced by nothing",
        change=("if fast is not None:", "if make:"),
        loses=["test-accelerate"],
    ),
    Wrong(
        "accelerate",
        "forgets whether the layer trains",
        change=("fast.training = layer.training", "pass"),
        loses=["test-accelerate"],
    ),
    Wrong(
        "accelerate",
        "only the first layer of each type",
        change=(
            "if fast is not None:",
            "if fast is not None and type(fast) not in map(type, replacements.values()):",
        ),
        loses=["test-accelerate"],
    ),
]

"""Wrong solutions of module 24, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "quantize-bits",
        "eight bits whatever is asked",
        change=(
            "quantization_parameters(*value_range(x, axis), symmetric, bits)",
            "quantization_parameters(*value_range(x, axis), symmetric)",
        ),
        loses=["test-quantize-bits"],
    ),
    Wrong(
        "quantize-bits",
        "one grid for all channels",
        change=("value_range(x, axis)", "value_range(x)"),
        loses=["test-quantize-bits"],
    ),
    Wrong(
        "quantize-bits",
        "returns scales in the shape that broadcasts",
        change=(
            "Tensor._wrap(to_marks(x, *grid, bits, symmetric)), scale, zero_point",
            "Tensor._wrap(to_marks(x, *grid, bits, symmetric)), *grid",
        ),
        loses=["test-quantize-bits"],
    ),
    Wrong(
        "quantize-bits",
        "symmetric marks on an affine grid",
        change=("to_marks(x, *grid, bits, symmetric)", "to_marks(x, *grid, bits, True)"),
        loses=["test-quantize-bits"],
    ),
    Wrong(
        "expected-snr",
        "forgets the 12",
        change=("scale**2 / 12", "scale**2"),
        loses=["test-expected-snr"],
    ),
    Wrong(
        "expected-snr",
        "the variance instead of the mean square",
        change=("(x**2).mean()", "x.var()"),
        loses=["test-expected-snr"],
    ),
    Wrong(
        "expected-snr",
        "always the affine step",
        change=("symmetric, bits)", "False, bits)"),
        loses=["test-expected-snr"],
    ),
    Wrong(
        "stored-scale",
        "rounds to the nearest",
        "return scale.astype(dtype)",
        loses=["test-stored-scale"],
    ),
    Wrong(
        "stored-scale",
        "goes one up, always",
        "return np.nextafter(scale.astype(dtype), np.inf, dtype=dtype)",
        loses=["test-stored-scale"],
    ),
    Wrong(
        "quantize-groups",
        "groups across the channels",
        """
        low, high = x.min(axis=axis), x.max(axis=axis)
        scale, _ = quantization_parameters(low, high, symmetric, bits)
        scale = stored_scale(scale, scale_dtype, name)
        zero_point = np.zeros(scale.shape, np.int32)
        marks = to_marks(x, np.expand_dims(scale, axis), 0, bits, symmetric)
        return Tensor._wrap(marks.reshape(tensor.shape)), scale, zero_point
        """,
        loses=["test-quantize-groups"],
    ),
    Wrong(
        "quantize-groups",
        "one scale for all groups",
        change=(
            "low, high = x.min(axis=axis + 1), x.max(axis=axis + 1)",
            "low, high = x.min(axis=axis + 1), x.max(axis=axis + 1)\n"
            "    low, high = np.full_like(low, x.min()), np.full_like(high, x.max())",
        ),
        loses=["test-quantize-groups"],
    ),
    Wrong(
        "quantize-groups",
        "divides by the scale as it was before it was stored",
        change=(
            "marks = to_marks(x, *grid, bits, symmetric)",
            "exact, _ = quantization_parameters(low, high, symmetric, bits)\n"
            "    marks = to_marks(x, np.expand_dims(exact, axis + 1), grid[1], bits, symmetric)",
        ),
        loses=["test-quantize-groups"],
    ),
    Wrong(
        "quantize-groups",
        "forgets the zero point",
        change=("if not symmetric:", "if False:"),
        loses=["test-quantize-groups"],
    ),
    Wrong(
        "quantize-groups",
        "the zero point of a range without 0",
        change=("np.minimum(low, 0) / scale", "low / scale"),
        loses=["test-quantize-groups"],
    ),
    Wrong(
        "dequantize-groups",
        "subtracts in int8",
        change=(
            'groups = split_groups(q.data.astype(np.float32), size, axis, "dequantize_groups")\n'
            "    groups -= np.expand_dims(zero_point.astype(np.float32), axis + 1)",
            'groups = split_groups(q.data, size, axis, "dequantize_groups")\n'
            "    groups = groups - np.expand_dims(zero_point.astype(np.int8), axis + 1)\n"
            "    groups = groups.astype(np.float32)",
        ),
        loses=["test-dequantize-groups"],
    ),
    Wrong(
        "dequantize-groups",
        "scales take turns instead of staying for a group",
        """
        repeats = [1] * q.ndim
        repeats[axis] = q.shape[axis] // scale.shape[axis]
        widened = q.data.astype(np.float64) - np.tile(zero_point, repeats)
        return Tensor._wrap((widened * np.tile(scale, repeats)).astype(np.float32))
        """,
        loses=["test-dequantize-groups"],
    ),
    Wrong(
        "pack-int4",
        "high nibble first",
        change=("codes[::2] | (codes[1::2] << 4)", "(codes[::2] << 4) | codes[1::2]"),
        loses=["test-pack-int4"],
    ),
    Wrong(
        "pack-int4",
        "drops the last of an odd count",
        "half = codes.size // 2\nreturn codes[: 2 * half : 2] | (codes[1 : 2 * half : 2] << 4)",
        loses=["test-pack-int4"],
    ),
    Wrong(
        "unpack-int4",
        "swaps the nibbles",
        change=("packed & 15, packed >> 4", "packed >> 4, packed & 15"),
        loses=["test-unpack-int4"],
    ),
    Wrong(
        "unpack-int4",
        "forgets the sign",
        change=("4, signed)", "4, False)"),
        loses=["test-unpack-int4"],
    ),
    Wrong(
        "unpack-int4",
        "keeps the padding",
        change=("[:count]", ""),
        loses=["test-unpack-int4"],
    ),
    Wrong(
        "unpack-int4",
        "all low nibbles, then all high ones",
        "codes = np.concatenate([packed & 15, packed >> 4])\n"
        "return from_fields(codes[:count], 4, signed)",
        loses=["test-unpack-int4"],
    ),
    Wrong(
        "pack-bits",
        "highest bits first",
        change=("np.arange(8,", "np.arange(7, -1, -1,"),
        loses=["test-pack-bits"],
    ),
    Wrong(
        "pack-bits",
        "keeps all eight bytes of a word",
        change=("[:, :bits]", ""),
        loses=["test-pack-bits"],
    ),
    Wrong(
        "pack-bits",
        "keeps the bytes of the padding",
        change=("return packed[: (codes.size * bits + 7) // 8]", "return packed"),
        loses=["test-pack-bits"],
    ),
    Wrong(
        "nearest-code",
        "the next lower level",
        "return np.maximum(np.searchsorted(levels, x, side='right') - 1, 0).astype(np.uint8)",
        loses=["test-nearest-code"],
    ),
    Wrong(
        "nearest-code",
        "the upper level on a border",
        change=(", x)", ", x, side='right')"),
        loses=["test-nearest-code"],
    ),
    Wrong(
        "log-levels",
        "logarithmic sizes down to 2^-(number of sizes)",
        change=("2.0**-bits, 2 ** (bits - 1)", "2.0 ** -(2 ** (bits - 1)), 2 ** (bits - 1)"),
        loses=["test-log-levels"],
    ),
    Wrong(
        "log-levels",
        "powers of two from one half down",
        change=("2.0 ** -np.arange(2 ** (bits - 1))", "2.0 ** -np.arange(1, 2 ** (bits - 1) + 1)"),
        loses=["test-log-levels"],
    ),
    Wrong(
        "normal-levels",
        "both sides alike",
        change=("for n in (half - 1, half)", "for n in (half, half)"),
        loses=["test-normal-levels"],
    ),
    Wrong(
        "normal-levels",
        "the p of NF4 for every width",
        change=(
            "1 - (1 / (2 * 2**bits) + 1 / (2 * (2**bits - 1))) / 2",
            "1 - (1 / 32 + 1 / 30) / 2",
        ),
        loses=["test-normal-levels"],
    ),
    Wrong(
        "kmeans-levels",
        "one round is enough",
        change=("for _ in range(iterations):", "for _ in range(min(iterations, 1)):"),
        loses=["test-kmeans-levels"],
    ),
    Wrong(
        "kmeans-levels",
        "levels without numbers go to 0",
        change=("levels[used] = ", "levels[:] = 0\n        levels[used] = "),
        loses=["test-kmeans-levels"],
    ),
    Wrong(
        "kmeans-levels",
        "takes the middle of each stretch",
        change=(
            "np.add.reduceat(values, starts[used]) / counts[used]",
            "(np.maximum.reduceat(values, starts[used])"
            " + np.minimum.reduceat(values, starts[used])) / 2",
        ),
        loses=["test-kmeans-levels"],
    ),
    Wrong(
        "restored-weight",
        "takes codes of a codebook for marks",
        change=("if layer.levels is not None:", "if False:"),
        loses=["test-restored-weight"],
    ),
    Wrong(
        "restored-weight",
        "fills column by column",
        change=(", signed).reshape(shape)", ", signed).reshape(shape[::-1]).T"),
        loses=["test-restored-weight"],
    ),
    Wrong(
        "restored-weight",
        "leaves the zero points out",
        change=("Tensor._wrap(codes), scale, zero_point)", "Tensor._wrap(codes), scale)"),
        loses=["test-restored-weight"],
    ),
    Wrong(
        "quantize-weights",
        "replaces layers as it goes",
        """
        for name, layer in layers.items():
            made = LowBitLinear(
                layer, bits, group_size, symmetric, codebook, scale_dtype, name
            )
            made.training = layer.training
            quantized[name] = made
            replace_modules(model, {id(layer): made})
        """,
        loses=["test-quantize-weights"],
    ),
    Wrong(
        "quantize-weights",
        "forgets what was asked",
        change=("LowBitLinear(layer, *grid, name)", "LowBitLinear(layer, bits, name=name)"),
        loses=["test-quantize-weights"],
    ),
    Wrong(
        "quantize-weights",
        "all new layers are in training mode",
        change=("quantized[name].training = layer.training", "pass"),
        loses=["test-quantize-weights"],
    ),
]

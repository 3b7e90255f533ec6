"""Wrong solutions of module 15, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "integer-range",
        "symmetric keeps -128",
        change=("-highest if symmetric else -highest - 1", "-highest - 1"),
        loses=["test-integer-range"],
    ),
    Wrong(
        "integer-range",
        "counts bits from 0",
        "return 0, 2**bits - 1",
        loses=["test-integer-range"],
    ),
    Wrong(
        "value-range",
        "reduces over the channel's axis itself",
        "return x.min(axis=axis), x.max(axis=axis)",
        loses=["test-value-range"],
    ),
    Wrong(
        "quantization-parameters",
        "leaves 0 outside the range",
        change=("np.minimum(low, 0, dtype=np.float64)", "np.asarray(low, dtype=np.float64)"),
        loses=["test-quantization-parameters"],
    ),
    Wrong(
        "quantization-parameters",
        "includes 0 on one side only",
        change=("np.maximum(high, 0, dtype=np.float64)", "np.asarray(high, dtype=np.float64)"),
        loses=["test-quantization-parameters"],
    ),
    Wrong(
        "quantization-parameters",
        "256 steps between 256 marks",
        change=("/ (highest - lowest)", "/ (highest - lowest + 1)"),
        loses=["test-quantization-parameters", "test-quantize-int8"],
    ),
    Wrong(
        "quantization-parameters",
        "symmetric looks at high alone",
        change=("np.maximum(-low, high) / highest", "high / highest"),
        loses=["test-quantization-parameters"],
    ),
    Wrong(
        "quantization-parameters",
        "the zero point is at the other end",
        change=("lowest - low / scale", "lowest + high / scale"),
        loses=["test-quantization-parameters"],
    ),
    Wrong(
        "to-int8",
        "cuts off instead of rounding",
        "return np.clip(np.trunc(x / scale) + zero_point, lowest, highest).astype(np.int8)",
        loses=["test-to-int8"],
    ),
    Wrong(
        "to-int8",
        "halves go up",
        "return np.clip(np.floor(x / scale + 0.5) + zero_point, lowest, highest).astype(np.int8)",
        loses=["test-to-int8"],
    ),
    Wrong(
        "to-int8",
        "clips after the conversion, when it has wrapped",
        "q = (np.rint(x / scale) + zero_point).astype(np.int64).astype(np.int8)\n"
        "return np.clip(q, lowest, highest)",
        loses=["test-to-int8"],
    ),
    Wrong(
        "to-int8",
        "clips before adding the zero point",
        "return (np.clip(np.rint(x / scale), lowest, highest) + zero_point).astype(np.int64)"
        ".astype(np.int8)",
        loses=["test-to-int8"],
    ),
    Wrong(
        "to-int8",
        "adds the zero point before rounding",
        "return np.clip(np.rint(x / scale + zero_point), lowest, highest).astype(np.int8)",
        loses=["test-to-int8"],
    ),
    Wrong(
        "dequantize-int8",
        "subtracts in int8",
        "small = q.data - np.asarray(zero_point).astype(np.int8)\n"
        "return Tensor._wrap((small * scale).astype(np.float32))",
        loses=["test-dequantize-int8"],
    ),
    Wrong(
        "dequantize-int8",
        "scales go along the last axis always",
        change=(
            "scale, zero_point = along(scale, q.ndim, axis), along(zero_point, q.ndim, axis)",
            "",
        ),
        loses=["test-dequantize-int8"],
    ),
    Wrong(
        "dequantize-int8",
        "stays float64",
        change=(".astype(np.float32))", ")"),
        loses=["test-dequantize-int8"],
    ),
    Wrong(
        "constant-scale",
        "every whole number is a mark",
        change=(" & (lowest <= c) & (c <= highest)", ""),
        loses=["test-constant-scale"],
    ),
    Wrong(
        "constant-scale",
        "symmetric has -128",
        change=("integer_range(8, symmetric)", "integer_range(8, False)"),
        loses=["test-constant-scale"],
    ),
    Wrong(
        "quantize-int8",
        "forgets constants",
        change=("constant = low == high", "constant = False"),
        loses=["test-quantize-int8"],
    ),
    Wrong(
        "quantize-int8",
        "one grid for all channels",
        change=("low, high = value_range(x, axis)", "low, high = value_range(x)"),
        loses=["test-quantize-int8"],
    ),
    Wrong(
        "quantize-int8",
        "returns NumPy's scalars",
        change=("*as_numbers(scale, zero_point)", "scale, zero_point"),
        loses=["test-quantize-int8"],
    ),
    Wrong(
        "quantization-error",
        "lets errors cancel",
        change=("error = np.abs(x - y)", "error = x - y"),
        loses=["test-quantization-error"],
    ),
    Wrong(
        "quantization-error",
        "20 log10 of powers",
        change=("10 * math.log10", "20 * math.log10"),
        loses=["test-quantization-error"],
    ),
    Wrong(
        "quantization-error",
        "measures the signal of the restored tensor",
        change=("(x**2).sum()", "(y**2).sum()"),
        loses=["test-quantization-error"],
    ),
    Wrong(
        "calibration-range",
        "knows the last batch alone",
        change=(
            "values = np.concatenate([x.reshape(-1) for x in batches])",
            "values = batches[-1]",
        ),
        loses=["test-calibration-range"],
    ),
    Wrong(
        "calibration-range",
        "means of the batches' percentiles",
        change=(
            "low, high = np.percentile(values, [100 - percentile, percentile])",
            "low, high = np.mean("
            "[np.percentile(x, [100 - percentile, percentile]) for x in batches], axis=0)",
        ),
        loses=["test-calibration-range"],
    ),
    Wrong(
        "calibration-range",
        "cuts off one tail",
        change=("[100 - percentile, percentile]", "[0, percentile]"),
        loses=["test-calibration-range"],
    ),
    Wrong(
        "int8-matmul",
        "multiplies in int8",
        change=("left @ right", "left.astype(np.int8) @ right.astype(np.int8)"),
        loses=["test-int8-matmul"],
    ),
    Wrong(
        "int8-matmul",
        "one block for all of K",
        """
        left, right = a.astype(np.float32), b.astype(np.float32)
        total = (left @ right).astype(np.float64)
        total -= zero_a * right.sum(axis=0)
        total -= zero_b * left.sum(axis=1, keepdims=True)
        return total + a.shape[1] * zero_a * zero_b
        """,
        loses=["test-int8-matmul"],
    ),
    Wrong(
        "int8-matmul",
        "forgets the term without data",
        change=("total + a.shape[1] * zero_a * zero_b", "total"),
        loses=["test-int8-matmul"],
    ),
    Wrong(
        "int8-matmul",
        "mixes up the two zero points",
        change=("zero_a * right.sum", "zero_b * right.sum"),
        loses=["test-int8-matmul"],
    ),
    Wrong(
        "int8-linear",
        "scales the bias too",
        """
        rows = q_x.reshape(math.prod(q_x.shape[:-1]), q_x.shape[-1])
        y = int8_matmul(rows, q_weight, x_zero_point, weight_zero_point)
        if bias is not None:
            y += bias
        return (y * scale).reshape(*q_x.shape[:-1], q_weight.shape[1])
        """,
        loses=["test-int8-linear"],
    ),
    Wrong(
        "int8-linear",
        "gives the leading axes not back",
        change=("return y.reshape(*q_x.shape[:-1], q_weight.shape[1])", "return y"),
        loses=["test-int8-linear"],
    ),
    Wrong(
        "layer-memory",
        "the ratio counts the overhead",
        change=("layer.original_bytes / payload", "layer.original_bytes / held"),
        loses=["test-layer-memory"],
    ),
    Wrong(
        "layer-memory",
        "forgets the bias",
        change=(" + (0 if layer.q_bias is None else layer.q_bias.nbytes)", ""),
        loses=["test-layer-memory"],
    ),
    Wrong(
        "observe-inputs",
        "leaves the hooks where they are",
        change=("hook.remove()", "pass"),
        loses=["test-observe-inputs"],
    ),
    Wrong(
        "observe-inputs",
        "removes the hooks only if all goes well",
        change=("finally:", "except ZeroDivisionError:\n        pass\n    else:"),
        loses=["test-observe-inputs"],
    ),
    Wrong(
        "observe-inputs",
        "listens in training mode",
        change=("with evaluating(model):", "if True:"),
        loses=["test-observe-inputs"],
    ),
    Wrong(
        "observe-inputs",
        "one list for all layers",
        change=("{name: [] for name in layers}", "dict.fromkeys(layers, [])"),
        loses=["test-observe-inputs"],
    ),
    Wrong(
        "swapped",
        "makes a new list",
        change=(
            "value[:] = [swapped(item, replacements) for item in value]",
            "value = [swapped(item, replacements) for item in value]",
        ),
        loses=["test-swapped"],
    ),
    Wrong(
        "swapped",
        "looks one level deep",
        "if isinstance(value, list):\n"
        "    value[:] = [replacements.get(id(item), item) for item in value]\n"
        "return replacements.get(id(value), value)",
        loses=["test-swapped"],
    ),
    Wrong(
        "quantize-model",
        "forgets to calibrate",
        change=("if calibration_data is not None:", "if False:"),
        loses=["test-quantize-model"],
    ),
    Wrong(
        "quantize-model",
        "replaces layers as it goes",
        """
        ranges = {}
        if calibration_data is not None:
            ranges = observe_inputs(model, layers, calibration_data, percentile)
        for name, layer in layers.items():
            quantized[name] = QuantizedLinear(layer, symmetric, axis, name)
            quantized[name].training = layer.training
            if name in ranges:
                quantized[name].set_input_range(*ranges[name])
            replace_modules(model, {id(layer): quantized[name]})
        """,
        loses=["test-quantize-model"],
    ),
    Wrong(
        "quantize-model",
        "forgets the axis",
        change=(
            "QuantizedLinear(layer, symmetric, axis, name)",
            "QuantizedLinear(layer, name=name)",
        ),
        loses=["test-quantize-model"],
    ),
    Wrong(
        "quantize-model",
        "new layers are in training mode",
        change=("quantized[name].training = layer.training", "pass"),
        loses=["test-quantize-model"],
    ),
    Wrong(
        "compare-model-sizes",
        "saves the overhead too",
        change=("before - payload - overhead", "before - payload"),
        loses=["test-compare-model-sizes"],
    ),
    Wrong(
        "compare-model-sizes",
        "the models' ratio counts the overhead",
        change=("before / payload if payload", "before / (payload + overhead) if payload"),
        loses=["test-compare-model-sizes"],
    ),
]

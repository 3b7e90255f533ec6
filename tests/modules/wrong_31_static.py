"""Wrong solutions of module 31, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "to-integers",
        "lets int8 wrap around",
        "return marks.astype(chosen.grid.dtype)",
        loses=["test-to-integers"],
    ),
    Wrong(
        "to-integers",
        "always int8",
        change=(".astype(chosen.grid.dtype)", ".astype(np.int8)"),
        loses=["test-to-integers"],
    ),
    Wrong(
        "to-integers",
        "NaN becomes some integer",
        change=("if not np.isfinite(marks).all():", "if False:"),
        loses=["test-to-integers"],
    ),
    Wrong(
        "to-integers",
        "the limits of 8 bits, whatever the grid",
        change=("np.clip(marks, *limits, out=marks)", "np.clip(marks, -128, 127)"),
        loses=["test-to-integers"],
    ),
    Wrong(
        "linear-sums",
        "subtracts in int8",
        change=("shifted(q_x, x_zero_point)", "(q_x - np.int8(x_zero_point))"),
        loses=["test-linear-sums"],
    ),
    Wrong(
        "linear-sums",
        "forgets the input's zero point",
        change=("shifted(q_x, x_zero_point)", "q_x"),
        loses=["test-linear-sums"],
    ),
    Wrong(
        "linear-sums",
        "multiplies in int8",
        "return ((q_x - np.int8(x_zero_point)) @ q_weight).astype(np.int32)",
        loses=["test-linear-sums"],
    ),
    Wrong(
        "linear-sums",
        "gives rows back, not the shape of x",
        change=(".reshape(*q_x.shape[:-1], q_weight.shape[1])", ""),
        loses=["test-linear-sums"],
    ),
    Wrong(
        "requantized",
        "adds the bias as it is",
        change=("numbers += bias / scale", "numbers += bias"),
        loses=["test-requantized"],
    ),
    Wrong(
        "requantized",
        "forgets the bias",
        change=("if bias is not None:", "if False:"),
        loses=["test-requantized"],
    ),
    Wrong(
        "requantized",
        "cuts off instead of rounding",
        change=("np.rint(numbers, out=numbers)", "np.trunc(numbers, out=numbers)"),
        loses=["test-requantized"],
    ),
    Wrong(
        "requantized",
        "halves go up",
        change=("np.rint(numbers, out=numbers)", "numbers = np.floor(numbers + 0.5)"),
        loses=["test-requantized"],
    ),
    Wrong(
        "requantized",
        "forgets the result's zero point",
        change=("numbers += np.float32(out.zero_point)", "pass"),
        loses=["test-requantized"],
    ),
    Wrong(
        "requantized",
        "ignores lowest",
        change=("np.clip(numbers, lowest, out.grid.limits[1]", "np.clip(numbers, *out.grid.limits"),
        loses=["test-requantized"],
    ),
    Wrong(
        "requantized",
        "clips to 127 on every grid",
        change=("out.grid.limits[1]", "127"),
        loses=["test-requantized"],
    ),
    Wrong(
        "static-forward",
        "always the scale of the layer's own input grid",
        change=("np.float32(x.scale)", "np.float32(layer.quantize.scale.item())"),
        loses=["test-static-forward"],
    ),
    Wrong(
        "static-forward",
        "forgets the weight's scale",
        change=(
            "np.float32(x.scale) * np.atleast_1d(layer.weight_scale.data)",
            "np.atleast_1d(np.float32(x.scale))",
        ),
        loses=["test-static-forward"],
    ),
    Wrong(
        "static-forward",
        "ReLU at the integer 0",
        change=("lowest = out.zero_point if", "lowest = 0 if"),
        loses=["test-static-forward"],
    ),
    Wrong(
        "static-forward",
        "ReLU always",
        change=("if layer.relu else", "if True else"),
        loses=["test-static-forward"],
    ),
    Wrong(
        "static-forward",
        "gives a plain Tensor of integers",
        change=("return QuantizedTensor(q, out)", "return Tensor._wrap(q)"),
        loses=["test-static-forward"],
    ),
    Wrong(
        "static-forward",
        "puts the result on the grid of x",
        change=("return QuantizedTensor(q, out)", "return QuantizedTensor(q, x.chosen)"),
        loses=["test-static-forward"],
    ),
    Wrong(
        "conv2d-sums",
        "pads before it shifts",
        """
        few = q_weight[0].size <= exact_terms(255, 128)
        dtype = np.float32 if few else np.float64
        weight = q_weight.astype(dtype)
        padded = conv2d(q_x.astype(dtype), weight, **how)
        offset = x_zero_point * weight.sum(axis=(1, 2, 3)).reshape(-1, 1, 1)
        return (padded - offset).astype(np.int32)
        """,
        loses=["test-conv2d-sums"],
    ),
    Wrong(
        "conv2d-sums",
        "carries everything in float32",
        change=("np.float32 if few else np.float64", "np.float32"),
        loses=["test-conv2d-sums"],
    ),
    Wrong(
        "conv2d-sums",
        "carries in int8",
        change=("np.float32 if few else np.float64", "np.int8"),
        loses=["test-conv2d-sums"],
    ),
    Wrong(
        "conv2d-sums",
        "forgets how",
        change=("astype(dtype), **how", 'astype(dtype), padding=how.get("padding", 0)'),
        loses=["test-conv2d-sums"],
    ),
    Wrong(
        "conv2d-sums",
        "gives floats",
        change=(".astype(np.int32)", ""),
        loses=["test-conv2d-sums"],
    ),
    Wrong(
        "same-grid",
        "a ReLU layer at the integer 0",
        change=("x.q.dtype.type(x.zero_point)", "x.q.dtype.type(0)"),
        loses=["test-same-grid"],
    ),
    Wrong(
        "same-grid",
        "a mean without the zero point",
        change=(
            "np.rint(super().forward(numbers).data) + np.float32(x.zero_point)",
            "np.rint(super().forward(numbers).data)",
        ),
        loses=["test-same-grid"],
    ),
    Wrong(
        "same-grid",
        "means of integers that aren't shifted: padding is the integer 0",
        change=("shifted(x.q, x.zero_point).astype(np.float32)", "(x.q.astype(np.float32) - 0)"),
        loses=["test-same-grid"],
    ),
    Wrong(
        "same-grid",
        "cuts means off",
        change=("np.rint(super()", "np.trunc(super()"),
        loses=["test-same-grid"],
    ),
    Wrong(
        "same-grid",
        "pools unsigned bytes",
        change=(
            "super().forward(Tensor._wrap(x.q)).data",
            "super().forward(Tensor._wrap(x.q.view(np.uint8))).data.view(np.int8)",
        ),
        loses=["test-same-grid"],
    ),
    Wrong(
        "products",
        "shifts the first only",
        change=(
            "*(shifted(x.q, x.zero_point) for x in (a, b))",
            "shifted(a.q, a.zero_point), b.q",
        ),
        loses=["test-products"],
    ),
    Wrong(
        "products",
        "one scale only",
        change=("np.float32(a.scale * b.scale)", "np.float32(a.scale)"),
        loses=["test-products"],
    ),
    Wrong(
        "products",
        "wraps in int16",
        change=("carried_matmul(*", "np.matmul(*"),
        loses=["test-products"],
    ),
    Wrong(
        "integer-attention",
        "forgets 1 / sqrt(D)",
        change=(" * np.float32(checked_scale(q, k, None))", ""),
        loses=["test-integer-attention"],
    ),
    Wrong(
        "integer-attention",
        "forgets the mask",
        change=("scores if added is None else scores + added", "scores"),
        loses=["test-integer-attention"],
    ),
    Wrong(
        "integer-attention",
        "leaves the weights float",
        change=(
            "return Tensor._wrap(products(shares, v))",
            "return Tensor._wrap(weights @ v.data)",
        ),
        loses=["test-integer-attention"],
    ),
    Wrong(
        "to-watch",
        "watches the layer within a Fused once more",
        change=(" and id(layer) not in seen", ""),
        loses=["test-to-watch"],
    ),
    Wrong(
        "to-watch",
        "knows Fused not at all",
        change=("part.layer if type(part) is Fused else part", "part"),
        loses=["test-to-watch"],
    ),
    Wrong(
        "to-watch",
        "watches what qconfig leaves float",
        change=(" and config is not None", ""),
        loses=["test-to-watch"],
    ),
    Wrong(
        "to-watch",
        "one config for all",
        change=("config_of(name, layer, table)", 'table[""]'),
        loses=["test-to-watch"],
    ),
    Wrong(
        "to-watch",
        "attention in blocks, too",
        change=(" and not blocked", ""),
        loses=["test-to-watch"],
    ),
    Wrong(
        "to-watch",
        "looks a Fused up by its own type",
        change=("config_of(name, layer, table)", "config_of(name, part, table)"),
        loses=["test-to-watch"],
    ),
    Wrong(
        "convert",
        "changes the prepared model itself",
        change=("model = copy.deepcopy(model).eval()", "model = model.eval()"),
        loses=["test-convert"],
    ),
    Wrong(
        "convert",
        "only the layers",
        change=("(CONVERTED_FIRST, CONVERTED)", "(CONVERTED_FIRST,)"),
        loses=["test-convert"],
    ),
    Wrong(
        "convert",
        "all in one round",
        change=("(CONVERTED_FIRST, CONVERTED)", "({**CONVERTED_FIRST, **CONVERTED},)"),
        loses=["test-convert"],
    ),
    Wrong(
        "convert",
        "a bare layer stays what it was",
        change=("model = with_replaced(model, replaced)", "with_replaced(model, replaced)"),
        loses=["test-convert"],
    ),
]

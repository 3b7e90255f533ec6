"""Wrong solutions of module 01, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong("as-array", "whatever NumPy makes", "return np.array(data, dtype)", ["test-as-array"]),
    Wrong(
        "as-array",
        "shares memory with its source",
        change=("array = np.array(data)", "array = np.asarray(data)"),
        loses=["test-as-array"],
    ),
    Wrong(
        "as-array",
        "every list becomes float32, booleans too",
        change=("or array.dtype == np.bool_ else", "else"),
        loses=["test-as-array"],
    ),
    Wrong(
        "as-array",
        "everything becomes float32",
        change=("array.dtype if keeps_its_own or array.dtype == np.bool_ else ", ""),
        loses=["test-as-array"],
    ),
    Wrong(
        "as-array",
        "asks the copy whether it came as an array",
        change=("isinstance(data, np.ndarray) and", "isinstance(array, np.ndarray) and"),
        loses=["test-as-array"],
    ),
    Wrong(
        "as-array",
        "300 wraps around in an int8",
        change=('_convert(array, _number_type(dtype), "Tensor")', "array.astype(dtype)"),
        loses=["test-as-array"],
    ),
    Wrong(
        "tensor-repr",
        "names every dtype",
        change=('not in ("float32", "int64", "bool")', "!= ''"),
        loses=["test-tensor-repr"],
    ),
    Wrong(
        "tensor-repr",
        "later lines aren't indented",
        change=(', prefix="Tensor("', ""),
        loses=["test-tensor-repr"],
    ),
    Wrong(
        "tensor-repr",
        "an empty tensor shows no shape",
        change=("tensor.size == 0 and", "False and"),
        loses=["test-tensor-repr"],
    ),
    Wrong(
        "arithmetic",
        "subtracts the wrong way round",
        change=("np.subtract(a, b)", "np.subtract(b, a)"),
        loses=["test-arithmetic"],
    ),
    Wrong(
        "arithmetic",
        "drops the remainder",
        change=("np.true_divide(a, b)", "np.floor_divide(a, b)"),
        loses=["test-arithmetic"],
    ),
    Wrong("arithmetic", "power is product", change=("a**b", "a * b"), loses=["test-arithmetic"]),
    Wrong(
        "broadcast-shape",
        "lines the shapes up from the left",
        """
        sizes = [max(pair) for pair in zip(*shapes)]
        return tuple(sizes)
        """,
        ["test-broadcast-shape"],
    ),
    Wrong(
        "broadcast-shape",
        "takes the larger size whatever it is",
        change=("if len(sizes) > 1:", "if False:"),
        loses=["test-broadcast-shape"],
    ),
    Wrong(
        "broadcast-shape",
        "the maximum makes 1 of 0 and 1",
        change=(
            "result.append(sizes.pop() if sizes else 1)",
            "result.append(max(sizes | {1}))",
        ),
        loses=["test-broadcast-shape"],
    ),
    Wrong(
        "broadcast-shape",
        "axes of 1 on the left only",
        """
        left, right = shapes[0], shapes[1]
        left = (1,) * (len(right) - len(left)) + left
        return tuple(r if n == 1 else n for n, r in zip(left, right))
        """,
        ["test-broadcast-shape"],
    ),
    Wrong("matmul", "element by element", "return np.multiply(a, b)", ["test-matmul"]),
    Wrong("matmul", "leaves the errors to NumPy", "return np.matmul(a, b)", ["test-matmul"]),
    Wrong(
        "matmul",
        "compares the first axis of b",
        change=("b.shape[-2 if b.ndim > 1 else 0]", "b.shape[0]"),
        loses=["test-matmul"],
    ),
    Wrong(
        "matmul",
        "np.dot, which mixes stacks",
        change=("np.matmul(a, b)", "np.dot(a, b)"),
        loses=["test-matmul"],
    ),
    Wrong(
        "clip",
        "maximum and minimum changed places",
        """
        if low is not None:
            a = np.minimum(a, low)
        if high is not None:
            a = np.maximum(a, high)
        return a
        """,
        ["test-clip"],
    ),
    Wrong(
        "clip",
        "takes a limit of 0 for no limit",
        """
        if isinstance(low, np.ndarray) or low:
            a = np.maximum(a, low)
        if high:
            a = np.minimum(a, high)
        return a
        """,
        ["test-clip"],
    ),
    Wrong(
        "clip",
        "writes into its input",
        """
        if low is not None:
            np.maximum(a, low, out=a)
        if high is not None:
            np.minimum(a, high, out=a)
        return a
        """,
        ["test-clip"],
    ),
    Wrong(
        "var",
        "one mean for all axes",
        change=("np.mean(a, axis=axis, keepdims=True)", "np.mean(a)"),
        loses=["test-var"],
    ),
    Wrong(
        "var",
        "forgets the correction",
        change=("max(count - correction, 0)", "count"),
        loses=["test-var"],
    ),
    Wrong(
        "var",
        "mean of squares minus square of mean",
        """
        mean_square = np.mean(a * a, axis=axis, keepdims=keepdims)
        square_mean = np.mean(a, axis=axis, keepdims=keepdims) ** 2
        count = np.size(a) / max(np.size(mean_square), 1)
        return (mean_square - square_mean) * count / max(count - correction, 0)
        """,
        ["test-var"],
    ),
    Wrong(
        "var",
        "counts all elements, whatever the axis",
        change=("np.size(a) / max(np.size(total), 1)", "np.size(a)"),
        loses=["test-var"],
    ),
    Wrong(
        "var",
        "divides by a negative number",
        change=("max(count - correction, 0)", "(count - correction)"),
        loses=["test-var"],
    ),
    Wrong(
        "strides-of",
        "elements in place of bytes",
        change=("step = itemsize", "step = 1"),
        loses=["test-strides-of"],
    ),
    Wrong(
        "strides-of",
        "the first axis runs fastest",
        """
        strides, step = [], itemsize
        for size in shape:
            strides.append(step)
            step *= size
        return tuple(strides)
        """,
        ["test-strides-of"],
    ),
    Wrong(
        "flat-shape",
        "leaves end_dim out",
        change=(
            "math.prod(shape[start : end + 1]), *shape[end + 1 :]",
            "math.prod(shape[start:end])",
        ),
        loses=["test-flat-shape"],
    ),
    Wrong(
        "flat-shape",
        "takes an axis that isn't there modulo ndim",
        change=(
            'start = normalize_axis_index(start_dim, ndim, "flatten")',
            "start = start_dim % ndim",
        ),
        loses=["test-flat-shape"],
    ),
    Wrong(
        "flat-shape",
        "adds the sizes",
        change=("math.prod(", "sum("),
        loses=["test-flat-shape"],
    ),
    Wrong(
        "squeezed-shape",
        "takes axis 0 for no axis",
        change=("if axis is None:", "if not axis:"),
        loses=["test-squeezed-shape"],
    ),
    Wrong(
        "squeezed-shape",
        "drops an axis of any size",
        change=(
            "shape if shape[axis] != 1 else (*shape[:axis], *shape[axis + 1 :])",
            "(*shape[:axis], *shape[axis + 1 :])",
        ),
        loses=["test-squeezed-shape"],
    ),
    Wrong(
        "squeezed-shape",
        "counts the new axis from the old shape's end",
        change=('len(shape) + 1, "unsqueeze"', 'max(len(shape), 1), "unsqueeze"'),
        loses=["test-squeezed-shape"],
    ),
    Wrong(
        "as-index",
        "cuts the decimals off",
        change=("if not (np.isfinite(key) & (np.floor(key) == key)).all():", "if False:"),
        loses=["test-as-index"],
    ),
    Wrong(
        "as-index",
        "makes integers of booleans",
        change=('key.dtype.kind == "f"', "True"),
        loses=["test-as-index"],
    ),
    Wrong(
        "as-index",
        "doesn't look into tuples",
        change=("if isinstance(key, tuple):", "if False:"),
        loses=["test-as-index"],
    ),
    Wrong(
        "as-index",
        "lets infinity pass",
        change=("np.isfinite(key) & ", ""),
        loses=["test-as-index"],
    ),
    Wrong(
        "concat",
        "always along the first axis",
        change=("concatenate(*tensors, axis=axis)", "concatenate(*tensors)"),
        loses=["test-concat"],
    ),
    Wrong(
        "concat",
        "lets NumPy complain about shapes",
        change=("if len(others) > 1:", "if False:"),
        loses=["test-concat"],
    ),
    Wrong(
        "concat",
        "stacks along an old axis",
        change=("[tensor.unsqueeze(axis) for tensor in tensors]", "list(tensors)"),
        loses=["test-stack"],
    ),
    Wrong(
        "concat",
        "stacks what would only concatenate",
        change=("if len(shapes) > 1:", "if False:"),
        loses=["test-stack"],
    ),
    Wrong(
        "split",
        "as many pieces as size says",
        "return [Tensor(part) for part in np.array_split(tensor.data, size)]",
        ["test-split"],
    ),
    Wrong(
        "split",
        "drops the short rest",
        change=(
            "range(0, total, size)]",
            "range(0, total - size + 1, size)]\n        total = sum(size)",
        ),
        loses=["test-split"],
    ),
    Wrong(
        "split",
        "cuts the first axis only",
        change=(
            "(slice(None),) * axis + (slice(start, start + length),)",
            "start : start + length",
        ),
        loses=["test-split"],
    ),
    Wrong(
        "split",
        "forgets to move on",
        change=("start += length", "start += 1"),
        loses=["test-split"],
    ),
    Wrong(
        "split",
        "copies the pieces",
        change=("(slice(start, start + length),)]", "(slice(start, start + length),)].clone()"),
        loses=["test-split"],
    ),
    Wrong(
        "squared-distances",
        "points against centres, transposed",
        "return ((centres.unsqueeze(1) - points) ** 2).sum(axis=2)",
        ["test-squared-distances"],
    ),
    Wrong(
        "squared-distances",
        "distances of sums",
        "return (points.sum(axis=1).unsqueeze(1) - centres.sum(axis=1)) ** 2",
        ["test-squared-distances"],
    ),
    Wrong(
        "squared-distances",
        "a loop over the points",
        "return stack([((point - centres) ** 2).sum(axis=1) for point in points])",
        ["test-squared-distances"],
    ),
]

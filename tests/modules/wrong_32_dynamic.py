"""Wrong solutions of module 32, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "grid-of",
        "one grid whatever is asked",
        change=('within = 1 if per == "row" else None', "within = None"),
        loses=["test-grid-of"],
    ),
    Wrong(
        "grid-of",
        "a grid for each column",
        change=('within = 1 if per == "row"', 'within = 0 if per == "row"'),
        loses=["test-grid-of"],
    ),
    Wrong(
        "grid-of",
        "the scales lie along the axis that is gone",
        change=("axis=None if within is None else 0", "axis=within"),
        loses=["test-grid-of"],
    ),
    Wrong(
        "grid-of",
        "doesn't look for NaN",
        change=("    require_finite(low, high, x, name)\n", ""),
        loses=["test-grid-of"],
    ),
    Wrong(
        "grid-of",
        "empty arrays have no smallest number",
        change=("x.min(axis=within, initial=0)", "x.min(axis=within)"),
        loses=["test-grid-of"],
    ),
    Wrong(
        "dynamic-matmul",
        "int8 wraps around",
        change=("(-1, 1)).astype(np.int16)", "(-1, 1)).astype(np.int8)"),
        loses=["test-dynamic-matmul"],
    ),
    Wrong(
        "dynamic-matmul",
        "forgets the zero point",
        change=("carried_matmul(q - zero_point, q_weight)", "carried_matmul(q, q_weight)"),
        loses=["test-dynamic-matmul", "test-dynamic-linear"],
    ),
    Wrong(
        "dynamic-matmul",
        "one grid whatever is asked (dynamic matmul)",
        change=("grid_of(rows, per,", 'grid_of(rows, "tensor",'),
        loses=["test-dynamic-matmul"],
    ),
    Wrong(
        "dynamic-matmul",
        "the weight's scale alone",
        change=("np.reshape(chosen.scale, (-1, 1)).astype(np.float32) * scale", "scale"),
        loses=["test-dynamic-matmul"],
    ),
    Wrong(
        "dynamic-matmul",
        "float64 scales make float64 results",
        change=(
            "    sums *= np.reshape(chosen.scale, (-1, 1)).astype(np.float32) * scale\n",
            "    sums = sums * (np.reshape(chosen.scale, (-1, 1)) * scale)\n",
        ),
        loses=["test-dynamic-matmul"],
    ),
    Wrong(
        "dynamic-matmul",
        "rows stay rows",
        change=("return sums.reshape(*x.shape[:-1], q_weight.shape[1])", "return sums"),
        loses=["test-dynamic-matmul"],
    ),
    Wrong(
        "dynamic-matmul",
        "doesn't say what holds infinity",
        change=("""grid_of(rows, per, f"{name}'s input (as rows)")""", "grid_of(rows, per)"),
        loses=["test-dynamic-matmul"],
    ),
    Wrong(
        "dynamic-linear",
        "forgets the bias",
        change=("return y if self.bias is None else y + self.bias", "return y"),
        loses=["test-dynamic-linear"],
    ),
    Wrong(
        "dynamic-linear",
        "the bias stays a parameter",
        change=(
            'self.register_buffer("bias", None if linear.bias is None else ',
            "self.bias = (None if linear.bias is None else ",
        ),
        loses=["test-dynamic-linear"],
    ),
    Wrong(
        "dynamic-linear",
        "shares the bias with the float layer",
        change=("Tensor(linear.bias.data)", "linear.bias.detach()"),
        loses=["test-dynamic-linear"],
    ),
    Wrong(
        "dynamic-linear",
        "per tensor whatever is asked",
        change=("Int8Weight(linear.weight, per,", 'Int8Weight(linear.weight, "tensor",'),
        loses=["test-dynamic-linear"],
    ),
    Wrong(
        "quantized-lstm",
        "one bias of two",
        change=("for bias in biases if bias is not None", "for bias in biases[:1]"),
        loses=["test-quantized-lstm"],
    ),
    Wrong(
        "quantized-lstm",
        "counts on biases",
        change=(" if bias is not None", ""),
        loses=["test-quantized-lstm"],
    ),
    Wrong(
        "quantized-lstm",
        "goes on where a sequence is over",
        change=("True if mask is None else mask[t]", "True"),
        loses=["test-quantized-lstm"],
    ),
    Wrong(
        "quantized-lstm",
        "the cell goes on where a sequence is over",
        change=("np.where(here, new_cell, cell)", "new_cell"),
        loses=["test-quantized-lstm"],
    ),
    Wrong(
        "quantized-lstm",
        "begins with zeros",
        change=(
            "(hidden, cell), outputs = (state.data for state in states), []",
            "(hidden, cell), outputs = (0 * state.data for state in states), []",
        ),
        loses=["test-quantized-lstm"],
    ),
    Wrong(
        "quantized-lstm",
        "the states in the wrong order",
        change=(
            "[Tensor._wrap(hidden), Tensor._wrap(cell)]",
            "[Tensor._wrap(cell), Tensor._wrap(hidden)]",
        ),
        loses=["test-quantized-lstm"],
    ),
    Wrong(
        "quantized-lstm",
        "gives the cell states",
        change=("outputs.append(hidden)", "outputs.append(cell)"),
        loses=["test-quantized-lstm"],
    ),
    Wrong(
        "quantized-lstm",
        "a grid for each step's input",
        """
        weight_ih, weight_hh, *biases = weights
        (hidden, cell), outputs = (state.data for state in states), []
        for t, step in enumerate(x.data):
            z = step @ weight_ih + sum(bias.data for bias in biases if bias is not None)
            new_hidden, new_cell = lstm_step(z, hidden, cell, weight_hh)
            here = True if mask is None else mask[t]
            hidden, cell = np.where(here, new_hidden, hidden), np.where(here, new_cell, cell)
            outputs.append(hidden)
        return Tensor._wrap(np.stack(outputs)), [Tensor._wrap(hidden), Tensor._wrap(cell)]
        """,
        loses=["test-quantized-lstm"],
    ),
    Wrong(
        "quantized-embedding",
        "one grid for the table",
        change=(
            'chosen = grid_of(table, "row", f"{name}.weight")',
            'chosen = grid_of(table.reshape(1, -1), "row", f"{name}.weight")\n'
            "        chosen = ChosenGrid(INT8, *(np.repeat(v, len(table)) for v in "
            "(chosen.scale, chosen.zero_point)), 0)",
        ),
        loses=["test-quantized-embedding"],
    ),
    Wrong(
        "quantized-embedding",
        "int8 wraps around (quantized embedding)",
        change=("zero[..., None].astype(np.int16)", "zero[..., None]"),
        loses=["test-quantized-embedding"],
    ),
    Wrong(
        "quantized-embedding",
        "forgets the zero point (quantized embedding)",
        change=("(q - zero[..., None].astype(np.int16))", "q.astype(np.int16)"),
        loses=["test-quantized-embedding"],
    ),
    Wrong(
        "quantized-embedding",
        "the table stays float",
        change=("Tensor(q)", "Tensor(q, dtype=np.float32)"),
        loses=["test-quantized-embedding"],
    ),
    Wrong(
        "quantized-embedding",
        "zero points of four bytes",
        change=(
            "Tensor(chosen.zero_point, dtype=np.int8)",
            "Tensor(chosen.zero_point, dtype=np.int32)",
        ),
        loses=["test-quantized-embedding"],
    ),
    Wrong(
        "quantize-dynamic",
        "changes the model itself",
        change=("copy.deepcopy(model).eval()", "model.eval()"),
        loses=["test-quantize-dynamic"],
    ),
    Wrong(
        "quantize-dynamic",
        "types alone",
        change=("(type(part) in wanted or name in wanted)", "type(part) in wanted"),
        loses=["test-quantize-dynamic", "test-load-quantized"],
    ),
    Wrong(
        "quantize-dynamic",
        "subclasses too",
        change=(
            "type(part) in DYNAMIC and (type(part) in wanted or name in wanted)",
            "isinstance(part, DYNAMIC) and ({*type(part).mro(), name} & wanted)",
        ),
        loses=["test-quantize-dynamic"],
    ),
    Wrong(
        "quantize-dynamic",
        "a bare Linear stays",
        change=("return replaced.get(id(model), model)", "return model"),
        loses=["test-quantize-dynamic"],
    ),
    Wrong(
        "quantize-dynamic",
        "forgets per",
        change=("dynamic_layer(part, per, name", 'dynamic_layer(part, "tensor", name'),
        loses=["test-quantize-dynamic"],
    ),
    Wrong(
        "quantize-dynamic",
        "stays in training mode",
        change=("copy.deepcopy(model).eval()", "copy.deepcopy(model)"),
        loses=["test-quantize-dynamic"],
    ),
    Wrong(
        "quantize-dynamic",
        "new layers are in training mode",
        change=('"the layer").eval()', '"the layer")'),
        loses=["test-quantize-dynamic"],
    ),
    Wrong(
        "file-header",
        "the highest byte first",
        change=('"little"', '"big"'),
        loses=["test-file-header"],
    ),
    Wrong(
        "file-header",
        "one byte of the length",
        change=(
            'int.from_bytes(file.read(8), "little")',
            "file.read(8)[0]",
        ),
        loses=["test-file-header"],
    ),
    Wrong(
        "file-header",
        "reads all that follows",
        change=("file.read(length)", "file.read()"),
        loses=["test-file-header"],
    ),
    Wrong(
        "described",
        "the numbers as well",
        change=("[list(value.shape), value.dtype.name]", "[value.tolist(), value.dtype.name]"),
        loses=["test-described", "test-rebuilt"],
    ),
    Wrong(
        "described",
        "a tuple as a list",
        change=("return {type(value).__name__: items}", 'return {"list": items}'),
        loses=["test-described", "test-rebuilt"],
    ),
    Wrong(
        "described",
        "hooks too",
        change=(
            "own = {key: item for key, item in vars(value).items() if key not in HOOKS}",
            "own = vars(value)",
        ),
        loses=["test-described"],
    ),
    Wrong(
        "described",
        "the name stays behind in dicts",
        change=('described(item, f"{name}.{key}")', "described(item, name)"),
        loses=["test-described"],
    ),
    Wrong(
        "described",
        "modules by their name",
        change=("        return None\n", '        return {"plain": type(value).__name__}\n'),
        loses=["test-described", "test-rebuilt"],
    ),
    Wrong(
        "rebuilt",
        "tensors become float32",
        change=("Tensor(np.zeros(shape, dtype), dtype=dtype)", "Tensor(np.zeros(shape))"),
        loses=["test-rebuilt", "test-load-quantized"],
    ),
    Wrong(
        "rebuilt",
        "tuples become lists",
        change=('return tuple(items) if kind == "tuple" else items', "return items"),
        loses=["test-rebuilt"],
    ),
    Wrong(
        "rebuilt",
        "nothing old within dicts",
        change=("rebuilt(item, held.get(key))", "rebuilt(item)"),
        loses=["test-rebuilt"],
    ),
    Wrong(
        "rebuilt",
        "the old dict for each of its items",
        change=("rebuilt(item, held.get(key))", "rebuilt(item, held)"),
        loses=["test-rebuilt"],
    ),
    Wrong(
        "rebuilt",
        "as many items as there are",
        change=(
            "        if len(before) != len(content):\n",
            "        before = [*before, *content][: len(content)]\n        if False:\n",
        ),
        loses=["test-rebuilt"],
    ),
    Wrong(
        "stored",
        "packs everything that is small",
        change=("array.dtype == np.int8 and array.size", "array.size"),
        loses=["test-stored"],
    ),
    Wrong(
        "stored",
        "symmetric numbers only",
        change=("array.min() >= -8", "array.min() > -8"),
        loses=["test-stored"],
    ),
    Wrong(
        "stored",
        "looks at the largest alone",
        change=("array.min() >= -8 and array.max() <= 7", "array.max() <= 7"),
        loses=["test-stored"],
    ),
    Wrong(
        "stored",
        "empty arrays have no smallest number (stored)",
        change=(" and array.size", ""),
        loses=["test-stored"],
    ),
    Wrong(
        "stored",
        "forgets the shape",
        change=('math.prod(value["shape"])).reshape(value["shape"])', 'math.prod(value["shape"]))'),
        loses=["test-stored"],
    ),
    Wrong(
        "save-quantized",
        "a byte for four bits",
        change=("name: stored(tensor.data)", "name: tensor.data"),
        loses=["test-save-quantized"],
    ),
    Wrong(
        "save-quantized",
        "a shared tensor for each of its names",
        change=("tensors_of(model).items()", "model.state_dict().items()"),
        loses=["test-save-quantized"],
    ),
    Wrong(
        "save-quantized",
        "forgets what the layers are",
        change=('"quantized_layers": layers', '"quantized_layers": {}'),
        loses=["test-save-quantized", "test-load-quantized"],
    ),
    Wrong(
        "load-quantized",
        "forgets the numbers",
        change=("        model.load_state_dict(state, strict=False)  #", "        pass  #"),
        loses=["test-load-quantized"],
    ),
    Wrong(
        "load-quantized",
        "strict about shared tensors",
        change=("model.load_state_dict(state, strict=False)", "model.load_state_dict(state)"),
        loses=["test-load-quantized"],
    ),
    Wrong(
        "load-quantized",
        "takes what fits",
        change=("tensors_of(model).keys() ^ state.keys()", "state.keys() - state.keys()"),
        loses=["test-load-quantized"],
    ),
    Wrong(
        "load-quantized",
        "leaves sizes to load_state_dict",
        """
        model = with_layers(model, facts["quantized_layers"], path)
        state = {name: restored(value) for name, value in facts["state"].items()}
        if different := tensors_of(model).keys() ^ state.keys():
            raise ValueError(f"{path} is of another model: only one has {sorted(different)}")
        model.load_state_dict(state, strict=False)
        return model
        """,
        loses=["test-load-quantized"],
    ),
    Wrong(
        "load-quantized",
        "gives the float model",
        code="""
        again = with_layers(model, facts["quantized_layers"], path)
        state = {name: restored(value) for name, value in facts["state"].items()}
        if different := tensors_of(again).keys() ^ state.keys():
            raise ValueError(f"{path} is of another model: only one has {sorted(different)}")
        try:
            again.load_state_dict(state, strict=False)
        except ValueError as error:
            raise ValueError(f"{path} is of another model: {error}") from None
        return model
        """,
        loses=["test-load-quantized"],
    ),
]

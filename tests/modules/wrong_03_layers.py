"""Plausible wrong solutions of module 03, and the tests that notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong("linear", "forgets the bias", "return x @ weight", loses=["test-linear"]),
    Wrong(
        "linear",
        "takes the weight transposed",
        "return x @ weight.T if bias is None else x @ weight.T + bias",
        loses=["test-linear"],
    ),
    Wrong(
        "linear",
        "checks no shapes",
        "return x @ weight if bias is None else x @ weight + bias",
        loses=["test-linear"],
    ),
    Wrong(
        "linear",
        "gives one row for a text",
        change=("y = y.reshape(*x.shape[:-1], weight.shape[1])", "pass"),
        loses=["test-linear"],
    ),
    Wrong(
        "linear",
        "adds x into the bias",
        "bias += x @ weight\nreturn bias",
        loses=["test-linear"],
    ),
    Wrong(
        "adopt-parameter",
        "trains every tensor",
        "tensor.requires_grad = True",
        loses=["test-adopt-parameter"],
    ),
    Wrong(
        "adopt-parameter",
        "forgets what was frozen",
        'tensor.requires_grad = tensor.dtype.kind == "f"',
        loses=["test-adopt-parameter"],
    ),
    Wrong(
        "adopt-parameter",
        "does nothing",
        "pass",
        loses=["test-adopt-parameter", "test-linear-layer"],
    ),
    Wrong(
        "adopt-parameter",
        "takes None for frozen",
        """
        replaced = vars(module).get(name, tensor)
        wanted = replaced is tensor or getattr(replaced, "requires_grad", False)
        tensor.requires_grad = wanted and tensor.dtype.kind == "f"
        """,
        loses=["test-adopt-parameter"],
    ),
    Wrong(
        "linear-layer",
        "starts from zeros",
        change=(
            "bound * (2 * rand(in_features, out_features) - 1)",
            "0 * rand(in_features, out_features)",
        ),
        loses=["test-linear-layer"],
    ),
    Wrong(
        "linear-layer",
        "divides by n, not by its root",
        change=("1 / math.sqrt(in_features)", "1 / in_features"),
        loses=["test-linear-layer"],
    ),
    Wrong(
        "linear-layer",
        "draws positive numbers only",
        change=(
            "bound * (2 * rand(in_features, out_features) - 1)",
            "bound * rand(in_features, out_features)",
        ),
        loses=["test-linear-layer"],
    ),
    Wrong(
        "linear-layer",
        "keeps the weight transposed",
        change=("2 * rand(in_features, out_features)", "2 * rand(out_features, in_features)"),
        loses=["test-linear-layer"],
    ),
    Wrong(
        "linear-layer",
        "starts the bias at zero",
        change=("bound * (2 * rand(out_features) - 1)", "0 * rand(out_features)"),
        loses=["test-linear-layer"],
    ),
    Wrong(
        "linear-layer",
        "always has a bias",
        change=(" if bias else None", ""),
        loses=["test-linear-layer"],
    ),
    Wrong(
        "linear-layer",
        "forward forgets the bias",
        change=("linear(x, self.weight, self.bias)", "linear(x, self.weight)"),
        loses=["test-linear-layer"],
    ),
    Wrong(
        "sequential",
        "gives every layer the first input",
        "y = x\nfor layer in self.layers:\n    y = layer(x)\nreturn y",
        loses=["test-sequential"],
    ),
    Wrong(
        "sequential",
        "returns after the first layer",
        "for layer in self.layers:\n    return layer(x)",
        loses=["test-sequential"],
    ),
    Wrong(
        "sequential",
        "goes from the last layer to the first",
        "for layer in reversed(self.layers):\n    x = layer(x)\nreturn x",
        loses=["test-sequential"],
    ),
    Wrong(
        "modules-in",
        "finds attributes only",
        "if is_module(value):\n    yield name, value",
        loses=["test-modules-in", "test-named-modules"],
    ),
    Wrong(
        "modules-in",
        "looks into lists one level deep",
        """
        if is_module(value):
            yield name, value
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                if is_module(item):
                    yield f"{name}.{index}", item
        """,
        loses=["test-modules-in"],
    ),
    Wrong(
        "modules-in",
        "forgets tuples",
        change=("isinstance(value, (list, tuple))", "isinstance(value, list)"),
        loses=["test-modules-in"],
    ),
    Wrong(
        "modules-in",
        "takes a class for a layer",
        change=("if is_module(value):", 'if hasattr(value, "forward"):'),
        loses=["test-modules-in"],
    ),
    Wrong(
        "named-modules",
        "lists a shared module twice",
        change=("seen.add(id(module))", "pass"),
        loses=["test-named-modules"],
    ),
    Wrong(
        "named-modules",
        "forgets the path",
        change=('f"{name}.{part}" if name else part', "part"),
        loses=["test-named-modules", "test-named-tensors"],
    ),
    Wrong(
        "named-modules",
        "begins every name with a dot",
        change=('f"{name}.{part}" if name else part', 'f"{name}.{part}"'),
        loses=["test-named-modules"],
    ),
    Wrong(
        "named-modules",
        "lists the root and its children only",
        'return [("", root), *root.named_children()]',
        loses=["test-named-modules"],
    ),
    Wrong(
        "named-tensors",
        "counts buffers as parameters",
        change=("(name in module._buffers) == buffers", "True"),
        loses=["test-named-tensors"],
    ),
    Wrong(
        "named-tensors",
        "leaves frozen parameters out",
        change=("(name in module._buffers) == buffers", "value.requires_grad != buffers"),
        loses=["test-named-tensors"],
    ),
    Wrong(
        "named-tensors",
        "lists a shared tensor twice",
        change=("seen.add(id(value))", "pass"),
        loses=["test-named-tensors"],
    ),
    Wrong(
        "named-tensors",
        "sees the root's own tensors only",
        change=("in root.named_modules()", 'in [("", root)]'),
        loses=["test-named-tensors"],
    ),
    Wrong(
        "state-dict",
        "is the parameters alone",
        "return dict(module.named_parameters())",
        loses=["test-state-dict"],
    ),
    Wrong(
        "state-dict",
        "saves every buffer",
        change=("and module._buffers.get(name, True)", ""),
        loses=["test-state-dict"],
    ),
    Wrong(
        "state-dict",
        "copies",
        change=("value.detach()", "Tensor(value)"),
        loses=["test-state-dict"],
    ),
    Wrong(
        "load-state-dict",
        "puts a new array in the old one's place",
        change=(
            "own[name].data[...] = array",
            "dict(module.named_parameters())[name].data = array",
        ),
        loses=["test-load-state-dict"],
    ),
    Wrong(
        "load-state-dict",
        "writes until something doesn't fit",
        """
        own = module.state_dict()
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        for name in state:
            if name in own:
                faults = list(unfit(own, {name: np.asarray(state[name])}))
                if faults:
                    raise ValueError(f"load_state_dict: {summary(faults)}")
                own[name].data[...] = np.asarray(state[name])
                writes.add(own[name].data)
        if strict and (missing or unexpected):
            raise ValueError(f"load_state_dict: {missing} and {unexpected}")
        return missing, unexpected
        """,
        loses=["test-load-state-dict"],
    ),
    Wrong(
        "load-state-dict",
        "tells nobody that it wrote",
        change=("writes.add(own[name].data)", "pass"),
        loses=["test-load-state-dict"],
    ),
    Wrong(
        "load-state-dict",
        "is never strict",
        change=('[f"no value for {name}" for name in missing] if strict else []', "[]"),
        loses=["test-load-state-dict"],
    ),
    Wrong(
        "dropout",
        "doesn't make up for what is dropped",
        change=("1 / (1 - self.p)", "1"),
        loses=["test-dropout"],
    ),
    Wrong(
        "dropout",
        "divides by p",
        change=("1 / (1 - self.p)", "1 / self.p"),
        loses=["test-dropout"],
    ),
    Wrong(
        "dropout",
        "keeps with probability p",
        change=(">= self.p", "< self.p"),
        loses=["test-dropout"],
    ),
    Wrong(
        "dropout",
        "drops in eval mode, too",
        change=("not self.training or self.p == 0", "self.p == 0"),
        loses=["test-dropout"],
    ),
    Wrong(
        "dropout",
        "drops whole columns",
        change=(
            "generator.random(x.shape, np.float32)",
            "generator.random(x.shape[-1:], np.float32)",
        ),
        loses=["test-dropout"],
    ),
    Wrong(
        "dropout",
        "makes everything float32",
        change=("x * np.multiply(kept", "x.astype(np.float32) * np.multiply(kept"),
        loses=["test-dropout"],
    ),
    Wrong(
        "call-with-hooks",
        "ignores what hooks return",
        "for hook in module._forward_pre_hooks.values():\n"
        "    hook(module, inputs)\n"
        "output = module.forward(*inputs, **options)\n"
        "for hook in module._forward_hooks.values():\n"
        "    hook(module, inputs, output)\n"
        "return output",
        loses=["test-call-with-hooks"],
    ),
    Wrong(
        "call-with-hooks",
        "takes 0 for nothing",
        change=(
            "if replaced is not None:\n            output = replaced",
            "if replaced:\n            output = replaced",
        ),
        loses=["test-call-with-hooks"],
    ),
    Wrong(
        "call-with-hooks",
        "forgets that one input may come without a tuple",
        change=("replaced if isinstance(replaced, tuple) else (replaced,)", "replaced"),
        loses=["test-call-with-hooks"],
    ),
    Wrong(
        "call-with-hooks",
        "runs the hooks before forward",
        change=("output = module.forward(*inputs, **options)", "output = inputs[0]"),
        loses=["test-call-with-hooks"],
    ),
]

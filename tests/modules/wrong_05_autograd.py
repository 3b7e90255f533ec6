"""Wrong solutions of module 05, each with the tests that must notice it."""

from tito.grading import Wrong

WRONG = [
    # --- rules of arithmetic ---
    Wrong(
        "rules-arithmetic",
        "mul gives each input its own value",
        change=("g * b, lambda g, out, a, b: g * a", "g * a, lambda g, out, a, b: g * b"),
        loses=["test-rules-arithmetic"],
    ),
    Wrong(
        "rules-arithmetic",
        "forgets that b is subtracted",
        change=(
            "vjp(tensor.sub, lambda g, out, a, b: g, lambda g, out, a, b: -g)",
            "vjp(tensor.sub, lambda g, out, a, b: g, lambda g, out, a, b: g)",
        ),
        loses=["test-rules-arithmetic"],
    ),
    Wrong(
        "rules-arithmetic",
        "divides by b once too few",
        change=("-g * out / b", "-g * out"),
        loses=["test-rules-arithmetic"],
    ),
    Wrong(
        "rules-arithmetic",
        "neg keeps the sign",
        change=("lambda g, out, a: -g", "lambda g, out, a: g + 0"),
        loses=["test-rules-arithmetic"],
    ),
    # --- record ---
    Wrong(
        "record",
        "records everything, wanted or not",
        """
        if op in without_rule:
            return
        if op not in rules:
            raise RuntimeError(f"{op.__name__}: no gradient rule")
        out.requires_grad = True
        out.node = Node(op, inputs, params)
        """,
        loses=["test-record"],
    ),
    Wrong(
        "record",
        "looks at the first input only",
        change=("for x in inputs:", "for x in inputs[:1]:"),
        loses=["test-record"],
    ),
    Wrong(
        "record",
        "loses the gradient of an unknown op without a word",
        change=("if op in without_rule:", "if op in without_rule or op not in rules:"),
        loses=["test-record"],
    ),
    Wrong(
        "record",
        "forgets to pass requires_grad on",
        change=("        out.requires_grad = True\n", ""),
        loses=["test-record", "test-producers-first"],
    ),
    Wrong(
        "record",
        "gives integers a gradient",
        change=('if out.data.dtype.kind == "f":', "if True:"),
        loses=["test-record"],
    ),
    # --- the order ---
    Wrong(
        "producers-first",
        "a breadth-first walk, reversed: a shortcut puts x after its results",
        """
        order, seen = [root], {id(root)}
        for made in order:
            if made.node is not None:
                if made.node.inputs is None:
                    check_usable(made)
                for x in made.node.inputs:
                    if isinstance(x, Tensor) and x.requires_grad and id(x) not in seen:
                        seen.add(id(x))
                        order.append(x)
        return order[::-1]
        """,
        loses=["test-producers-first"],
    ),
    Wrong(
        "producers-first",
        "recursion, which a deep graph breaks",
        """
        order, seen = [], set()

        def visit(made):
            if id(made) in seen:
                return
            seen.add(id(made))
            if made.node is not None:
                if made.node.inputs is None:
                    check_usable(made)
                for x in made.node.inputs:
                    if isinstance(x, Tensor) and x.requires_grad:
                        visit(x)
            order.append(made)

        visit(root)
        return order
        """,
        loses=["test-producers-first"],
    ),
    Wrong(
        "producers-first",
        "puts a tensor down before its inputs",
        change=("            stack += (made, None)\n", "            order.append(made)\n"),
        loses=["test-producers-first"],
    ),
    Wrong(
        "producers-first",
        "lists tensors that want no gradient too",
        change=("isinstance(x, Tensor) and x.requires_grad", "isinstance(x, Tensor)"),
        loses=["test-producers-first"],
    ),
    Wrong(
        "producers-first",
        "walks into a dropped graph without checking",
        change=(
            "            if node.inputs is None or node.born != writes.clock:\n"
            "                check_usable(made)\n",
            "            if node.inputs is None:\n                continue\n",
        ),
        loses=["test-producers-first"],
    ),
    # --- unbroadcast ---
    Wrong(
        "unbroadcast",
        "drops added axes, forgets stretched ones",
        "return g.sum(axis=tuple(range(g.ndim - len(shape)))) if g.shape != shape else g",
        loses=["test-unbroadcast"],
    ),
    Wrong(
        "unbroadcast",
        "takes the mean of the repetitions",
        change=("g.sum(axis=spread)", "g.mean(axis=spread)"),
        loses=["test-unbroadcast"],
    ),
    Wrong(
        "unbroadcast",
        "compares shapes from the left",
        """
        if g.shape == shape:
            return g
        padded = shape + (1,) * (g.ndim - len(shape))
        spread = tuple(i for i, n in enumerate(padded) if n == 1)
        return g.sum(axis=spread).reshape(shape)
        """,
        loses=["test-unbroadcast"],
    ),
    # --- the walk ---
    Wrong(
        "gradients",
        "walks from the leaves to the root",
        change=("out = order.pop()", "out = order.pop(0)"),
        loses=["test-gradients"],
    ),
    Wrong(
        "gradients",
        "keeps the last contribution instead of the sum",
        change=("add_up(pending, own, x, gx, is_new)", "pending[id(x)] = gx"),
        loses=["test-gradients"],
    ),
    Wrong(
        "gradients",
        "never drops a node",
        change=("if not retain_graph:", "if False:"),
        loses=["test-gradients", "test-backward"],
    ),
    Wrong(
        "gradients",
        "drops nodes that were to be kept",
        change=("if not retain_graph:", "if True:"),
        loses=["test-gradients"],
    ),
    Wrong(
        "gradients",
        "says that every array is free to be taken",
        change=("yield out, g, key in own", "yield out, g, True"),
        loses=["test-backward"],
    ),
    # --- backward and grad ---
    Wrong(
        "backward",
        "overwrites the gradient of an earlier backward",
        change=("x.grad.data += g", "x.grad.data[:] = g"),
        loses=["test-backward"],
    ),
    Wrong(
        "backward",
        "gives tensors in between a gradient too",
        change=("if x.node is not None:", "if False:"),
        loses=["test-backward"],
    ),
    Wrong(
        "backward",
        "never copies, so that two leaves share an array",
        change=("g if own else np.array(g)", "g"),
        loses=["test-backward"],
    ),
    Wrong(
        "backward",
        "ignores retain_graph",
        change=("retain_graph or create_graph, create_graph", "create_graph, create_graph"),
        loses=["test-backward"],
    ),
    Wrong(
        "grad",
        "adds to .grad as backward does",
        """
        self = output
        self.backward(gradient, retain_graph=True)
        answers = [x.grad for x in wanted]
        """,
        loses=["test-grad"],
    ),
    Wrong(
        "grad",
        "gives None for an unused input without a word",
        change=("if answer is None and not allow_unused:", "if False:"),
        loses=["test-grad"],
    ),
    Wrong(
        "grad",
        "answers in the order of the walk",
        change=("answers = [found[id(x)] for x in wanted]", "answers = list(found.values())[::-1]"),
        loses=["test-grad"],
    ),
    Wrong(
        "grad",
        "cuts the answers from their past",
        change=("g.clone() if create_graph else", "g.detach() if create_graph else"),
        loses=["test-grad"],
    ),
    # --- gradcheck ---
    Wrong(
        "gradcheck",
        "lets NaN pass",
        change=(
            "if not abs(analytic - numeric) <= tolerance * (1 + abs(numeric)):",
            "if abs(analytic - numeric) > tolerance * (1 + abs(numeric)):",
        ),
        loses=["test-gradcheck"],
    ),
    Wrong(
        "gradcheck",
        "sees only answers that are too large",
        change=("if not abs(analytic - numeric)", "if not (analytic - numeric)"),
        loses=["test-gradcheck"],
    ),
    Wrong(
        "gradcheck",
        "checks the first input only",
        change=("enumerate(slopes)", "enumerate(slopes[:1])"),
        loses=["test-gradcheck"],
    ),
    Wrong(
        "gradcheck",
        "an absolute tolerance, however large the slope",
        change=("tolerance * (1 + abs(numeric))", "tolerance"),
        loses=["test-gradcheck"],
    ),
    # --- rules, module by module ---
    Wrong(
        "rules-elementwise",
        "NumPy's sine and cosine, which tensors refuse",
        change=("g * tensor.cos(a)", "g * np.cos(a)"),
        loses=["test-rules-elementwise"],
    ),
    Wrong(
        "rules-elementwise",
        "the derivative of cos without its sign",
        change=("-g * tensor.sin(a)", "g * tensor.sin(a)"),
        loses=["test-rules-elementwise"],
    ),
    Wrong(
        "rules-elementwise",
        "sqrt without its half",
        change=("0.5 * g / out", "g / out"),
        loses=["test-rules-elementwise"],
    ),
    Wrong(
        "rules-matmul",
        "b instead of its transpose",
        change=("return g @ b.swapaxes(-1, -2)", "return g @ b"),
        loses=["test-rules-matmul"],
    ),
    Wrong(
        "rules-reductions",
        "the mean counts every element fully",
        change=("sum_rule(g * share,", "sum_rule(g,"),
        loses=["test-rules-reductions"],
    ),
    Wrong(
        "rules-reductions",
        "every tied maximum gets the whole gradient",
        change=(" / attained.sum(axis=axis, keepdims=True)", ""),
        loses=["test-rules-reductions"],
    ),
    Wrong(
        "rules-reductions",
        "divides by the size of an empty batch",
        change=("max(math.prod(a.shape), 1)", "math.prod(a.shape)"),
        loses=["test-rules-reductions"],
    ),
    Wrong(
        "rules-shape",
        "permutes forward once more",
        "return tensor.permute(g, axes=axes)",
        loses=["test-rules-shape"],
    ),
    Wrong(
        "rules-shape",
        "sorts negative axes as they are",
        change=("[axis % a.ndim for axis in axes]", "axes"),
        loses=["test-rules-shape"],
    ),
    Wrong(
        "rules-softmax",
        "as if every probability stood alone",
        change=("out * (g - (g * out).sum(axis=axis, keepdims=True))", "g * out * (1 - out)"),
        loses=["test-rules-activations"],
    ),
    Wrong(
        "rules-softmax",
        "always along the last axis",
        change=("(g * out).sum(axis=axis,", "(g * out).sum(axis=-1,"),
        loses=["test-rules-activations"],
    ),
    Wrong(
        "rules-bends",
        "relu lets the gradient pass at zero",
        change=("(out > 0)", "(out >= 0)"),
        loses=["test-rules-activations"],
    ),
    Wrong(
        "rules-bends",
        "the sigmoid of a sigmoid",
        change=(
            "g * out * (1 - out)",
            "g * activations.sigmoid(out) * (1 - activations.sigmoid(out))",
        ),
        loses=["test-rules-activations"],
    ),
    Wrong(
        "rules-linear",
        "the bias gets the gradient of one row",
        change=("rows(g).sum(axis=0)", "rows(g)[0]"),
        loses=["test-rules-linear"],
    ),
    Wrong(
        "rules-linear",
        "only right for one leading axis",
        change=("rows(x).swapaxes(0, 1) @ rows(g)", "x.swapaxes(-1, -2) @ g"),
        loses=["test-rules-linear"],
    ),
    Wrong(
        "rules-cross-entropy",
        "truth minus prediction",
        "p = activations.softmax(logits, axis=axis)\n"
        "return (t - p * t.sum(axis=axis, keepdims=True)) * g",
        loses=["test-rules-cross-entropy"],
    ),
    Wrong(
        "rules-cross-entropy",
        "forgets the incoming gradient",
        change=("keepdims=True) - t) * g", "keepdims=True) - t)"),
        loses=["test-rules-cross-entropy"],
    ),
    Wrong(
        "jacobian",
        "a scalar's Jacobian keeps an axis of one",
        change=(".reshape(*y.shape, *x.shape)", ".reshape(y.size, *x.shape)"),
        loses=["test-jacobian"],
    ),
    Wrong(
        "jacobian",
        "the Hessian of gradients without a past",
        change=("jacobian(function, x, create_graph=True)", "jacobian(function, x)"),
        loses=["test-jacobian"],
    ),
    Wrong(
        "jacobian",
        "a Hessian of anything",
        change=("if slopes.size != x.size:", "if False:"),
        loses=["test-jacobian"],
    ),
]

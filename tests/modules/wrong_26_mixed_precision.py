"""Wrong solutions of module 26, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "round-weights",
        "rounds every layer, whatever is asked",
        """
        for name, (tensors, axis) in layers.items():
            width = bits.get(name, 4)
            for weight in tensors:
                weight.data[...] = rounded_weight(weight, width, axis, f"{name}.weight")
        return model
        """,
        loses=["test-round-weights"],
    ),
    Wrong(
        "round-weights",
        "rounds only the first weight of a layer",
        change=("in layers[name].tensors:", "in layers[name].tensors[:1]:"),
        loses=["test-round-weights"],
    ),
    Wrong(
        "round-weights",
        "grids along the input axis",
        change=("width, layers[name].axis,", "width, 1 - layers[name].axis,"),
        loses=["test-round-weights"],
    ),
    Wrong(
        "round-weights",
        "computes the rounded weight and drops it",
        change=("weight.data[...] = rounded_weight", "weight = rounded_weight"),
        loses=["test-round-weights"],
    ),
    Wrong(
        "stored-bytes",
        "forgets the scales",
        change=(" + scales", ""),
        loses=["test-stored-bytes"],
    ),
    Wrong(
        "stored-bytes",
        "scales for float weights too",
        change=("0 if bits == FLOAT else 4", "4"),
        loses=["test-stored-bytes"],
    ),
    Wrong(
        "stored-bytes",
        "rounds the bytes down",
        change=("math.ceil(weight.size * bits / 8)", "weight.size * bits // 8"),
        loses=["test-stored-bytes"],
    ),
    Wrong(
        "stored-bytes",
        "one scale for the whole weight",
        change=("4 * weight.shape[axis]", "4"),
        loses=["test-stored-bytes"],
    ),
    Wrong(
        "sensitivity",
        "the loss in place of its rise",
        change=(" - start", ""),
        loses=["test-sensitivity"],
    ),
    Wrong(
        "sensitivity",
        "rounds one layer after the other, all in one model",
        """
        rises = {name: {} for name in layers}
        rounded = model
        for name, width in choices:
            rounded = round_weights(rounded, {name: width})
            rises[name][width] = mean_loss(rounded, loss_fn, batches) - start
        return rises
        """,
        loses=["test-sensitivity"],
    ),
    Wrong(
        "sensitivity",
        "rounds the whole model each time",
        change=("{name: width}", "width"),
        loses=["test-sensitivity"],
    ),
    Wrong(
        "hessian-product",
        "the gradient times v: no second derivative",
        "return [g.data * v for g, v in zip(gradients, direction) if g is not None]",
        loses=["test-hessian-product"],
    ),
    Wrong(
        "hessian-product",
        "the graph is gone after the first product",
        change=("retain_graph=True, ", ""),
        loses=["test-hessian-product"],
    ),
    Wrong(
        "hessian-product",
        "each weight by itself: what they share is lost",
        """
        products = []
        for g, w, v in zip(gradients, weights, direction):
            if g is None or not g.requires_grad:
                products.append(np.zeros_like(v))
            else:
                p = grad((g * v).sum(), w, retain_graph=True, allow_unused=True)
                products.append(np.zeros_like(v) if p is None else p.data)
        return products
        """,
        loses=["test-hessian-product"],
    ),
    Wrong(
        "hessian-product",
        "fails where there is no curvature",
        change=("if not slope.requires_grad:", "if False:"),
        loses=["test-hessian-product"],
    ),
    Wrong(
        "trace-sample",
        "normal numbers in place of signs",
        change=("random.choice([-1.0, 1.0], w.shape)", "random.standard_normal(w.shape)"),
        loses=["test-trace-sample"],
    ),
    Wrong(
        "trace-sample",
        "all signs are plus: the sum of the matrix, not its trace",
        change=("random.choice([-1.0, 1.0], w.shape)", "np.ones(w.shape)"),
        loses=["test-trace-sample"],
    ),
    Wrong(
        "trace-sample",
        "forgets to multiply by v again",
        change=("(v * hv).sum()", "hv.sum()"),
        loses=["test-trace-sample"],
    ),
    Wrong(
        "hessian-costs",
        "the error's length, not its square",
        change=("(error**2).sum()", "np.sqrt((error**2).sum())"),
        loses=["test-hessian-costs"],
    ),
    Wrong(
        "hessian-costs",
        "forgets the half",
        change=(" * distance / 2", " * distance"),
        loses=["test-hessian-costs"],
    ),
    Wrong(
        "hessian-costs",
        "negative traces reward errors",
        change=("max(trace.mean, 0.0)", "trace.mean"),
        loses=["test-hessian-costs"],
    ),
    Wrong(
        "hessian-costs",
        "only the last weight of a layer counts",
        change=("for w in weights]", "for w in weights[-1:]]"),
        loses=["test-hessian-costs"],
    ),
    Wrong(
        "programme",
        "costs as they are",
        change=("costs * (1e6 / (costs.max() or 1.0))", "costs"),
        loses=["test-programme"],
    ),
    Wrong(
        "programme",
        "one least cost for all layers",
        change=(
            "costs = np.array([choice.cost - least[choice.layer] for choice in choices])",
            "costs = np.array([choice.cost - min(least.values()) for choice in choices])",
        ),
        loses=["test-programme"],
    ),
    Wrong(
        "programme",
        "sizes as they are",
        change=(" * (1000 / budget)", ""),
        loses=["test-programme"],
    ),
    Wrong(
        "programme",
        "a row for each choice",
        change=("for name in layers])", "for name in [choice.layer for choice in choices]])"),
        loses=["test-programme"],
    ),
    Wrong(
        "programme",
        "divides by zero where nothing is to be chosen",
        change=("(costs.max() or 1.0)", "costs.max()"),
        loses=["test-programme"],
    ),
    Wrong(
        "pareto-curve",
        "keeps choices that cost as much",
        change=("point.cost < curve[-1].cost", "point.cost <= curve[-1].cost"),
        loses=["test-pareto-curve"],
    ),
    Wrong(
        "pareto-curve",
        "keeps all choices",
        change=("if not curve or point.cost < curve[-1].cost:", "if True:"),
        loses=["test-pareto-curve"],
    ),
    Wrong(
        "pareto-curve",
        "sorts by bytes alone",
        change=("key=lambda point: point[:2]", "key=lambda point: point.bytes"),
        loses=["test-pareto-curve"],
    ),
    Wrong(
        "pareto-curve",
        "forgets what was chosen before",
        change=("{**p.bits, layer: c.bits}", "{layer: c.bits}"),
        loses=["test-pareto-curve"],
    ),
    Wrong(
        "norms-gap",
        "forgets the input's own gap",
        change=("gap = moments_gap(x, 0.0, 1.0)", "gap = Tensor(0.0)"),
        loses=["test-norms-gap"],
    ),
    Wrong(
        "norms-gap",
        "leaves the hooks behind",
        change=("hook.remove()", "pass"),
        loses=["test-norms-gap"],
    ),
    Wrong(
        "norms-gap",
        "compares the variance with the deviation",
        change=("(norm.running_var + norm.eps) ** 0.5", "norm.running_var + norm.eps"),
        loses=["test-norms-gap"],
    ),
    Wrong(
        "norms-gap",
        "forgets eps on one side",
        change=("norm.running_mean, deviation, norm.eps)", "norm.running_mean, deviation)"),
        loses=["test-norms-gap"],
    ),
    Wrong(
        "distill-inputs",
        "old gradients add up",
        change=("optimizer.zero_grad()", "pass"),
        loses=["test-distill-inputs"],
    ),
    Wrong(
        "distill-inputs",
        "never takes a step",
        change=("optimizer.step()", "pass"),
        loses=["test-distill-inputs"],
    ),
    Wrong(
        "distill-inputs",
        "records nothing inside no_grad",
        change=("with enable_grad():", "if True:"),
        loses=["test-distill-inputs"],
    ),
]

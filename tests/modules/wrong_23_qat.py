"""Wrong solutions of module 23, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "marks",
        "divides by the scale",
        change=("numbers * (np.float32(1) / scale)", "numbers / scale"),
        loses=["test-marks"],
    ),
    Wrong(
        "marks",
        "forgets the zero point",
        change=("marks += zero_point", "pass"),
        loses=["test-marks", "test-fake-quantize"],
    ),
    Wrong(
        "marks",
        "adds the zero point before rounding",
        "marks = np.asarray(numbers * (np.float32(1) / scale) + zero_point)\n"
        "return np.floor(marks + np.float32(0.5)), scale, zero_point",
        loses=["test-marks"],
    ),
    Wrong(
        "fake-quantize",
        "does not clip",
        change=("np.clip(marks, lowest, highest, out=marks)", "pass"),
        loses=["test-fake-quantize"],
    ),
    Wrong(
        "fake-quantize",
        "clips after subtracting the zero point",
        "marks, scale, zero_point = marks_of(x, scale, zero_point, lowest, highest, axis)\n"
        "return np.clip(marks - zero_point, lowest, highest) * scale",
        loses=["test-fake-quantize"],
    ),
    Wrong(
        "straight-through",
        "lets everything through",
        "return g * 1",
        loses=["test-straight-through"],
    ),
    Wrong(
        "straight-through",
        "the true derivative: nothing passes",
        "return g * 0",
        loses=["test-straight-through", "test-zero-point-rule"],
    ),
    Wrong(
        "straight-through",
        "the border counts as outside",
        change=("(lowest <= marks) & (marks <= highest)", "(lowest < marks) & (marks < highest)"),
        loses=["test-straight-through"],
    ),
    Wrong(
        "straight-through",
        "masks by the number, not by its mark",
        "s = by_channel(np.asarray(scale), x.ndim, axis)\n"
        "z = by_channel(np.asarray(zero_point), x.ndim, axis)\n"
        "return g * (((lowest - z) * s <= x) & (x <= (highest - z) * s))",
        loses=["test-straight-through"],
    ),
    Wrong(
        "scale-rule",
        "subtracts x / s outside too",
        change=("inside * x", "x"),
        loses=["test-scale-rule"],
    ),
    Wrong(
        "scale-rule",
        "forgets that steps count from the zero point",
        change=("np.clip(marks, lowest, highest) - zero", "np.clip(marks, lowest, highest)"),
        loses=["test-scale-rule"],
    ),
    Wrong(
        "scale-rule",
        "forgets grad_factor",
        change=("g * slope * grad_factor", "g * slope"),
        loses=["test-scale-rule"],
    ),
    Wrong(
        "scale-rule",
        "the mean instead of the sum",
        change=(".sum(axis=channels_left(x, axis))", ".mean(axis=channels_left(x, axis))"),
        loses=["test-scale-rule"],
    ),
    Wrong(
        "zero-point-rule",
        "the wrong sign",
        change=("slope = -by_channel", "slope = by_channel"),
        loses=["test-zero-point-rule"],
    ),
    Wrong(
        "first-step",
        "takes the mean of x, not of its size",
        change=("np.abs(x).mean", "x.mean"),
        loses=["test-first-step"],
    ),
    Wrong(
        "first-step",
        "a zero point of 0 always",
        change=("zero_point = lowest", "zero_point = 0"),
        loses=["test-first-step"],
    ),
    Wrong(
        "first-step",
        "forgets the root",
        change=("math.sqrt(highest - zero_point)", "(highest - zero_point)"),
        loses=["test-first-step"],
    ),
    Wrong(
        "first-step",
        "one mean for all channels",
        change=("axis=channels_left(x, axis)", "axis=None"),
        loses=["test-first-step"],
    ),
    Wrong(
        "step-factor",
        "without the root",
        change=("1 / math.sqrt(max(count, 1) * levels)", "1 / (max(count, 1) * levels)"),
        loses=["test-step-factor"],
    ),
    Wrong(
        "look",
        "observes in eval mode too",
        change=("if not (rounder.training or rounder.forget):", "if False:"),
        loses=["test-look"],
    ),
    Wrong(
        "look",
        "weights are looked at in training only",
        change=("(rounder.training or rounder.forget)", "rounder.training"),
        loses=["test-look"],
    ),
    Wrong(
        "look",
        "forgets everything",
        change=(
            "copy.copy(rounder.observer) if rounder.forget else rounder.observer",
            "copy.copy(rounder.observer)",
        ),
        loses=["test-look"],
    ),
    Wrong(
        "look",
        "ignores the switch",
        change=("elif rounder.observing:", "else:"),
        loses=["test-look", "test-freeze-observers"],
    ),
    Wrong(
        "norm-scale",
        "forgets the root of the variance",
        change=("** -0.5", "** -1.0"),
        loses=["test-norm-scale"],
    ),
    Wrong(
        "norm-scale",
        "cuts the gradient off",
        change=("norm.weight) * steady", "norm.weight.detach()) * steady"),
        loses=["test-norm-scale"],
    ),
    Wrong(
        "rounded-forward",
        "computes with the precise weight",
        change=("y = computed(layer, x, weight, layer.bias)", "y = layer(x)"),
        loses=["test-rounded-forward"],
    ),
    Wrong(
        "rounded-forward",
        "does not divide by the norm's scale",
        change=("y = y / by_channel(norm_scale(norm), y.ndim, 1)", "pass"),
        loses=["test-rounded-forward"],
    ),
    Wrong(
        "rounded-forward",
        "adds the bias before dividing",
        change=(
            "y = computed(layer, x, weight, None)",
            "y = computed(layer, x, weight, layer.bias)",
        ),
        loses=["test-rounded-forward"],
    ),
    Wrong(
        "config-of",
        "looks for the full name only",
        change=('name = name.rpartition(".")[0]', 'name = ""'),
        loses=["test-config-of"],
    ),
    Wrong(
        "config-of",
        "goes on looking after None",
        change=("if name in qconfig:", "if qconfig.get(name) is not None:"),
        loses=["test-config-of"],
    ),
    Wrong(
        "prepare-qat",
        "leaves the norm in its place as well",
        change=("replaced[id(norm)] = Identity()", "pass"),
        loses=["test-prepare-qat"],
    ),
    Wrong(
        "prepare-qat",
        "looks for the ReLU behind the layer only",
        change=("id(layer if norm is None else norm)", "id(layer)"),
        loses=["test-prepare-qat"],
    ),
    Wrong(
        "prepare-qat",
        "quantises what should stay",
        change=("if config is None:\n            continue", "config = config or DEFAULT_CONFIG"),
        loses=["test-prepare-qat"],
    ),
    Wrong(
        "prepare-qat",
        "a Fused loses its ReLU",
        change=(" or type(part) is Fused", ""),
        loses=["test-prepare-qat"],
    ),
    Wrong(
        "prepare-qat",
        "forgets learn",
        change=("norm, rectified, learn)", "norm, rectified)"),
        loses=["test-prepare-qat"],
    ),
    Wrong(
        "freeze-observers",
        "switches rounding off",
        change=("module.observing = not frozen", "module.rounding = not frozen"),
        loses=["test-freeze-observers"],
    ),
    Wrong(
        "freeze-observers",
        "looks at the top of the tree only",
        change=("model.modules()", "model.children()"),
        loses=["test-freeze-observers"],
    ),
    Wrong(
        "finish-qat",
        "works on the model itself",
        change=("model = copy.deepcopy(model)", ""),
        loses=["test-finish-qat"],
    ),
    Wrong(
        "finish-qat",
        "gives back the precise layer",
        change=("module.plain()", "module.layer"),
        loses=["test-finish-qat"],
    ),
    Wrong(
        "finish-qat",
        "forgets that the model may be a layer",
        change=("return plain.get(id(model), model)", "return model"),
        loses=["test-finish-qat"],
    ),
]

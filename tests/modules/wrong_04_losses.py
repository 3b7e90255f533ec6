"""Plausible wrong solutions of module 04, and the tests that notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "accuracy",
        "the largest of each column",
        change=("argmax(axis=1)", "argmax(axis=0)[:1]"),
        loses=["test-accuracy"],
    ),
    Wrong(
        "accuracy",
        "counts instead of the share",
        change=("== labels).mean()", "== labels).sum()"),
        loses=["test-accuracy"],
    ),
    Wrong(
        "reduced", "always the mean", "return losses.sum() / losses.size", loses=["test-reduced"]
    ),
    Wrong(
        "reduced",
        "divides by the rows, not by all losses",
        change=("math.prod(losses.shape)", "losses.shape[0]"),
        loses=["test-reduced"],
    ),
    Wrong(
        "reduced",
        "takes a count of 0 for none given",
        change=("if count is None else count", "if not count else count"),
        loses=["test-reduced"],
    ),
    Wrong(
        "reduced",
        "takes any other word for the mean",
        change=('if reduction == "mean":', "if True:"),
        loses=["test-reduced"],
    ),
    Wrong(
        "mse-loss", "forgets the square", change=("error * error", "error"), loses=["test-mse-loss"]
    ),
    Wrong(
        "mse-loss",
        "takes the root of the squares",
        change=("error * error", "abs_(error)"),
        loses=["test-mse-loss"],
    ),
    Wrong(
        "mse-loss",
        "ignores the reduction",
        change=("error * error, reduction", 'error * error, "mean"'),
        loses=["test-mse-loss"],
    ),
    Wrong(
        "mse-loss",
        "drops the check of the shapes",
        change=('target = _matched("mse_loss", prediction, target)', "pass"),
        loses=["test-mse-loss"],
    ),
    Wrong(
        "huber-loss",
        "a line without delta's slope",
        "distance = abs_(prediction - target)\n"
        "inside = 0.5 * distance * distance\n"
        "return _reduced(where(distance < delta, inside, distance - 0.5 * delta), reduction)",
        loses=["test-huber-loss"],
    ),
    Wrong(
        "huber-loss",
        "the square without its half",
        change=("distance - 0.5 * quadratic", "distance"),
        loses=["test-huber-loss"],
    ),
    Wrong(
        "huber-loss",
        "forgets the absolute value",
        change=("abs_(prediction - target)", "prediction - target"),
        loses=["test-huber-loss"],
    ),
    Wrong(
        "nll-loss",
        "forgets the minus",
        change=("-log_probabilities[", "log_probabilities["),
        loses=["test-nll-loss"],
    ),
    Wrong(
        "nll-loss",
        "divides a weighted mean by the rows",
        change=("reduction, float(counts.sum())", "reduction"),
        loses=["test-nll-loss"],
    ),
    Wrong(
        "nll-loss",
        "zero times infinity where a row is ignored",
        change=("where(counts == 0, 0, losses) * counts", "losses * counts"),
        loses=["test-nll-loss"],
    ),
    Wrong(
        "nll-loss",
        "only for a table of two axes",
        change=("_places(indices)", "np.arange(len(indices)), indices"),
        loses=["test-nll-loss"],
    ),
    Wrong(
        "target-weights",
        "smooths away the share of the target's own class",
        change=(
            "t += label_smoothing / shape[axis]",
            "t += (t == 0) * label_smoothing / shape[axis]",
        ),
        loses=["test-target-weights"],
    ),
    Wrong(
        "target-weights",
        "lets ignored rows be smoothed",
        change=("t *= np.expand_dims(counts != 0, axis)", "pass"),
        loses=["test-target-weights"],
    ),
    Wrong(
        "target-weights",
        "weighs before it smooths",
        "if weight is not None:\n"
        "    along = [-1 if i == axis else 1 for i in range(len(shape))]\n"
        "    t *= _class_weight(weight, shape[axis], dtype).reshape(along)\n"
        "if label_smoothing:\n"
        "    t = (1 - label_smoothing) * t + label_smoothing / shape[axis]\n"
        "if counts is not None:\n"
        "    t *= np.expand_dims(counts != 0, axis)\n"
        "return t, count or 1",
        loses=["test-target-weights"],
    ),
    Wrong(
        "target-weights",
        "lays the weights along the last axis",
        change=(".reshape(along)", ""),
        loses=["test-target-weights"],
    ),
    Wrong(
        "target-weights",
        "multiplies by the row's weight once more",
        change=("np.expand_dims(counts != 0, axis)", "np.expand_dims(counts, axis)"),
        loses=["test-target-weights"],
    ),
    Wrong(
        "target-weights",
        "leaves a count of 0",
        change=("count or 1", "count"),
        loses=["test-target-weights"],
    ),
    Wrong(
        "cross-entropy",
        "forgets the reduction",
        "return nll_loss(log_probabilities, targets, weight, ignore_index)",
        loses=["test-cross-entropy"],
    ),
    Wrong(
        "cross-entropy",
        "ignores label smoothing",
        change=("if not label_smoothing and targets.shape", "if targets.shape"),
        loses=["test-cross-entropy"],
    ),
    Wrong(
        "cross-entropy",
        "sums along the last axis",
        change=(".sum(axis=axis)", ".sum(axis=-1)"),
        loses=["test-cross-entropy"],
    ),
    Wrong(
        "cross-entropy",
        "softmax twice",
        change=(
            "nll_loss(log_probabilities, targets",
            "nll_loss(log_softmax(np.exp(log_probabilities)), targets",
        ),
        loses=["test-cross-entropy"],
    ),
    Wrong(
        "cross-entropy",
        "a mean of nothing that looks perfect",
        change=("count if t.any() else 0", "count"),
        loses=["test-cross-entropy"],
    ),
    Wrong(
        "binary-cross-entropy",
        "forgets the noes",
        change=(" + (1 - target) * _clamped_log(1 - probability)", ""),
        loses=["test-binary-cross-entropy"],
    ),
    Wrong(
        "binary-cross-entropy",
        "an infinite loss",
        change=("target * _clamped_log(probability)", "target * log(maximum(probability, 0))"),
        loses=["test-binary-cross-entropy"],
    ),
    Wrong(
        "binary-cross-entropy",
        "leaves out the weight",
        change=("_weighted(losses, weight)", "losses"),
        loses=["test-binary-cross-entropy"],
    ),
    Wrong("softplus", "overflows", "return log(1 + exp(x))", loses=["test-softplus"]),
    Wrong("softplus", "relu alone", "return maximum(x, 0)", loses=["test-softplus"]),
    Wrong(
        "bce-with-logits",
        "goes through a rounded probability",
        "p = 1 / (1 + exp(-maximum(logits, -80)))\n"
        "return binary_cross_entropy(p, target, weight, reduction)",
        loses=["test-bce-with-logits"],
    ),
    Wrong(
        "bce-with-logits",
        "weighs the noes too",
        change=("1 + (np.asarray(pos_weight) - 1) * target", "pos_weight"),
        loses=["test-bce-with-logits"],
    ),
    Wrong(
        "bce-with-logits",
        "forgets the noes' own part",
        change=("(1 - target) * logits + surprise", "surprise"),
        loses=["test-bce-with-logits"],
    ),
    Wrong(
        "bce-with-logits",
        "drops the weight of the losses",
        change=(
            "_weighted((1 - target) * logits + surprise, weight)",
            "(1 - target) * logits + surprise",
        ),
        loses=["test-bce-with-logits"],
    ),
    Wrong(
        "kl-div",
        "zero times the logarithm of zero",
        change=("log(where(target == 0, 1, target))", "log(target)"),
        loses=["test-kl-div"],
    ),
    Wrong(
        "kl-div",
        "the other way round",
        change=("target * (log(", "exp(log_probabilities) * (log("),
        loses=["test-kl-div"],
    ),
    Wrong(
        "kl-div",
        "forgets the target's own entropy",
        change=("(log(where(target == 0, 1, target)) - log_probabilities)", "-log_probabilities"),
        loses=["test-kl-div"],
    ),
    Wrong(
        "kl-div",
        "takes logarithms for probabilities",
        change=("exp(target) * (target", "target * (target"),
        loses=["test-kl-div"],
    ),
    Wrong(
        "cross-entropy-loss",
        "forgets all options",
        "return cross_entropy(logits, targets)",
        loses=["test-cross-entropy-loss"],
    ),
    Wrong(
        "cross-entropy-loss",
        "forgets the ignored index",
        change=("ignore_index=self.ignore_index,", ""),
        loses=["test-cross-entropy-loss"],
    ),
    Wrong(
        "cross-entropy-loss",
        "forgets the smoothing",
        change=("label_smoothing=self.label_smoothing,", ""),
        loses=["test-cross-entropy-loss"],
    ),
]

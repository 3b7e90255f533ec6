"""Wrong solutions of module 06, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "sgd",
        "climbs instead of descending",
        change=("p -= group", "p += group"),
        loses=["test-sgd"],
    ),
    Wrong(
        "sgd",
        "binds a new array to the name p",
        change=('p -= group["lr"] * g', 'p = p - group["lr"] * g'),
        loses=["test-sgd"],
    ),
    Wrong(
        "sgd",
        "weight decay changes the caller's gradient",
        change=('g = g + group["weight_decay"] * p', 'g += group["weight_decay"] * p'),
        loses=["test-sgd"],
    ),
    Wrong(
        "sgd",
        "an average of gradients in place of their sum",
        change=("velocity += g", 'velocity += (1 - group["momentum"]) * g'),
        loses=["test-sgd"],
    ),
    Wrong(
        "sgd",
        "Nesterov ignored",
        change=('g + group["momentum"] * velocity if group["nesterov"] else velocity', "velocity"),
        loses=["test-sgd"],
    ),
    Wrong(
        "rmsprop",
        "divides by the mean square, not by its root",
        change=("np.sqrt(square)", "square"),
        loses=["test-rmsprop"],
    ),
    Wrong(
        "rmsprop",
        "sums the squares without averaging",
        change=('square += (1 - group["alpha"]) * g * g', "square += g * g"),
        loses=["test-rmsprop"],
    ),
    Wrong(
        "rmsprop",
        "the velocity collects raw gradients",
        change=("velocity += direction", "velocity += g"),
        loses=["test-rmsprop"],
    ),
    Wrong(
        "adam-step",
        "the sum of gradients stands for their average",
        change=("root2 / weight1", "root2"),
        loses=["test-adam-step"],
    ),
    Wrong(
        "adam-step",
        "the sum of squares stands for their average",
        change=("math.sqrt((1 - beta2**step) / (1 - beta2))", "1.0"),
        loses=["test-adam-step"],
    ),
    Wrong(
        "adam-step",
        "one weight for both sums",
        change=("(1 - beta2**step) / (1 - beta2)", "(1 - beta1**step) / (1 - beta1)"),
        loses=["test-adam-step"],
    ),
    Wrong(
        "adam-step",
        "eps is added to the root of the sum",
        change=('group["eps"] * root2', 'group["eps"]'),
        loses=["test-adam-step"],
    ),
    Wrong(
        "adamw",
        "an L2 penalty, as in Adam",
        'g = g + group["weight_decay"] * p\n'
        'adam_step(p, g, state("gradient_sum"), state("square_sum"), state("_work"), group, step)',
        loses=["test-adamw"],
    ),
    Wrong(
        "adamw",
        "the decay is not scaled by lr",
        change=('1 - group["lr"] * group["weight_decay"]', '1 - group["weight_decay"]'),
        loses=["test-adamw"],
    ),
    Wrong("lion", "no sign", change=("np.sign(", "("), loses=["test-lion"]),
    Wrong(
        "lion",
        "one constant for both uses of the average",
        change=("beta1 * mean + (1 - beta1) * g", "beta2 * mean + (1 - beta2) * g"),
        loses=["test-lion"],
    ),
    Wrong(
        "orthogonalize",
        "forgets to normalise",
        change=("x = x / (np.linalg.norm(x) + eps)", "x = x.copy()"),
        loses=["test-orthogonalize"],
    ),
    Wrong(
        "orthogonalize",
        "returns a tall matrix lying down",
        change=("return x.T if tall else x", "return x"),
        loses=["test-orthogonalize"],
    ),
    Wrong(
        "orthogonalize",
        "a single round",
        change=("for _ in range(steps)", "for _ in range(1)"),
        loses=["test-orthogonalize"],
    ),
    Wrong(
        "muon",
        "scales by in / out",
        change=("fan_out / fan_in", "fan_in / fan_out"),
        loses=["test-muon"],
    ),
    Wrong(
        "muon",
        "takes the gradient without its history",
        change=(
            'direction = g + momentum * (mean - g) if group["nesterov"] else mean',
            "direction = g",
        ),
        loses=["test-muon"],
    ),
    Wrong(
        "clip-grad-norm",
        "clips each gradient by itself",
        """
        total = 0.0
        for p in parameters:
            if p.grad is not None:
                norm = float(np.sqrt((p.grad.data**2).sum()))
                total += norm**2
                p.grad.data *= min(1.0, max_norm / (norm + 1e-6))
        return math.sqrt(total)
        """,
        loses=["test-clip-grad-norm"],
    ),
    Wrong(
        "clip-grad-norm",
        "stretches short gradients",
        change=("if norm > max_norm:", "if True:"),
        loses=["test-clip-grad-norm"],
    ),
    Wrong(
        "cosine-schedule",
        "rises again after the end",
        change=("min(step / self.total_steps, 1.0)", "step / self.total_steps"),
        loses=["test-cosine-schedule"],
    ),
    Wrong(
        "cosine-schedule",
        "a whole wave in place of half of one",
        change=("math.cos(math.pi * progress)", "math.cos(2 * math.pi * progress)"),
        loses=["test-cosine-schedule"],
    ),
    Wrong(
        "step-schedule",
        "decays smoothly",
        change=("step // self.step_size", "step / self.step_size"),
        loses=["test-step-schedule"],
    ),
    Wrong(
        "warmup-schedule",
        "begins at a rate of zero",
        change=("(step + 1) / self.warmup_steps", "step / self.warmup_steps"),
        loses=["test-warmup-schedule"],
    ),
    Wrong(
        "warmup-schedule",
        "skips the beginning of the other schedule",
        change=("self.schedule(step - self.warmup_steps)", "self.schedule(step)"),
        loses=["test-warmup-schedule"],
    ),
]

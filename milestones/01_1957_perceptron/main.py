"""1957: Rosenblatt's perceptron learns all that a straight cut can separate, and nothing else.

Two digits to 100 %, the mistakes counted beside Novikoff's bound on them; then the 16 functions
of two bits, of which it learns 14. That XOR and its opposite can't be learned is proved.
"""

from itertools import product

import numpy as np
from perceptron import XOR, contradiction, epochs, inequalities, study, widest_margin
from tqdm import tqdm

from tinytorch import MNIST, Digits, Tensor
from tito.milestone import Result, Stopwatch, conclude, options, picture


def two_digits(dataset, digits):
    """The images of two digits as rows with a 1 behind the pixels, and targets -1 and +1."""
    labels = np.asarray(dataset.labels)
    chosen = np.isin(labels, digits)
    pixels = dataset.images.numpy()[chosen].reshape(chosen.sum(), -1)
    rows = np.hstack([pixels, np.ones((len(pixels), 1), pixels.dtype)])
    return Tensor(rows), Tensor(np.where(labels[chosen] == digits[1], 1.0, -1.0))


def learn(rows, targets):
    """The weights that make no mistake, and the mistakes of each epoch on the way to them."""
    mistakes = []
    with tqdm(desc="learning", unit="epoch") as bar:
        for weights, wrong in epochs(rows, targets):
            mistakes.append(wrong)
            bar.set_postfix(mistakes=wrong)
            bar.update()
            if wrong == 0:
                return weights, mistakes


def accuracy(weights, rows, targets):
    return np.mean((rows @ weights * targets).numpy() > 0)


def draw(pyplot, digits, weights, mistakes, heights):
    """The mistakes of each epoch, the weights as an image, and how the two digits fall apart."""
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    left.plot(range(1, len(mistakes) + 1), mistakes, "k.-")
    left.set(title="Mistakes, until there is none", xlabel="epoch", ylabel="mistakes")
    left.xaxis.get_major_locator().set_params(integer=True)
    side, limit = int(np.sqrt(weights.size)), np.abs(weights[:-1]).max()
    image = middle.imshow(weights[:-1].reshape(side, side), "gray", vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=middle, label="weight")
    middle.set(title=f"White votes for {digits[1]}, black for {digits[0]}")
    middle.set(xlabel="column (pixels)", ylabel="row (pixels)")
    bins = np.linspace(heights.min(), heights.max(), 60)
    right.hist(heights[heights < 0], bins, color="lightgray", label=f"images of {digits[0]}")
    right.hist(heights[heights > 0], bins, histtype="step", color="k", label=f"of {digits[1]}")
    right.axvline(0, color="k", linestyle=":")
    right.set(title="Where the training images lie", xlabel="pixels @ weights", ylabel="images")
    right.legend()
    return figure


def main() -> None:
    chosen = options(__doc__)
    dataset, digits = (MNIST, (0, 1)) if chosen.data else (Digits, (1, 8))
    rows, targets = two_digits(dataset(train=True), digits)
    order = np.random.default_rng(chosen.seed).permutation(len(rows))
    rows, targets = rows[order], targets[order]

    watch = Stopwatch()
    weights, mistakes = learn(rows, targets)
    learning = watch.seconds
    right = accuracy(weights, rows, targets)
    unseen = accuracy(weights, *two_digits(dataset(train=False), digits))
    print(f"{digits[0]} or {digits[1]}? {len(rows):,} images, {len(mistakes)} epochs: {right:.2%}")
    print(f"right, and {unseen:.2%} of the test images, which it has never seen.\n")

    signed = rows * targets.reshape(-1, 1)
    margin, limit = widest_margin(signed)
    bound = (signed * signed).sum(axis=1).max().item() / margin**2
    print(f"Some cut has margin {margin:.4f}, none more than {limit:.4f}. So, says Novikoff,")
    print(f"at most {bound:,.0f} mistakes, in whatever order. It made {sum(mistakes):,}.\n")

    watch = Stopwatch()
    studied = {truth: study(truth) for truth in product((False, True), repeat=4)}
    learned = [truth for truth, (outcome, _) in studied.items() if outcome == "learned"]
    refuted = [truth for truth in studied if truth not in learned and contradiction(truth)]
    proving = watch.seconds
    print(f"Of the 16 functions of two bits it learns {len(learned)}. For XOR its weights are")
    print(f"back where they were after {studied[XOR][1]} epoch, for ever. No weights can do it:\n")
    print(*inequalities(XOR), sep="\n")
    print("\nThe first and the last say w1 + w2 + 2b <= 0, the two between w1 + w2 + 2b > 0.")
    picture(
        "perceptron",
        lambda p: draw(p, digits, weights.numpy(), mistakes, (rows @ weights).numpy()),
        chosen,
    )
    name = f"{dataset.__name__} {digits[0]} or {digits[1]}"
    results = [
        Result(f"training accuracy on {name}", right, 1.0, learning, 60),
        Result("mistakes / Novikoff's bound", sum(mistakes) / bound, 1.0, learning, 60, True),
        Result("functions of two bits learned", len(learned), 14, proving, 5),
        Result("the others refuted", len(refuted), 2, proving, 5),
    ]
    conclude(results, chosen)


if __name__ == "__main__":
    main()

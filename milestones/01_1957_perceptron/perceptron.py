"""Rosenblatt's rule, how many mistakes it can make, and what it can't learn, with the proofs."""

from itertools import product

from tqdm import tqdm

from tinytorch import Tensor, zeros

BITS = [(0, 0), (0, 1), (1, 0), (1, 1)]
XOR = (False, True, True, False)  # of each of BITS


def epochs(rows, targets):
    """Learn for ever: after each pass over the examples, the weights and the mistakes made.

    rows (N, D) end in a constant 1, whose weight is the bias; targets (N,) are -1 and +1.
    """
    weights = zeros(rows.shape[1])
    examples = list(zip(rows, targets, strict=True))
    while True:
        mistakes = 0
        for row, target in examples:
            if (row @ weights * target).item() <= 0:
                weights = weights + target * row
                mistakes += 1
        yield weights, mistakes


def widest_margin(signed, rounds=20_000):
    """The margin of a cut that is at least 0.8 of the best one's, and a limit for any cut's.

    `signed` holds target * row. The best cut belongs to that point of the rows' convex hull which
    is nearest to the origin; Gilbert's method walks there, each time towards the row that has the
    least margin now.
    """
    point = signed.mean(axis=0)
    for _ in tqdm(range(rounds), desc="margin", unit="round"):
        heights = signed @ point
        limit = (point @ point).sqrt().item()
        margin = heights.min().item() / limit
        if margin > 0.8 * limit:
            break
        towards = signed[heights.argmin().item()] - point
        step = -(point @ towards) / (towards @ towards)
        point = point + step.clip(0, 1) * towards
    return margin, limit


def study(truth):
    """Learn a function of two bits: ("learned" or "cycles", the epochs that this took).

    From equal weights follow equal weights, and these are whole numbers: once they have come back,
    they will do so for ever. A function that can be learned allows only so many mistakes, so that
    the cycle proves that this one can't.
    """
    seen = [zeros(3).tolist()]
    for weights, mistakes in epochs(*examples(truth)):
        if mistakes == 0:
            return "learned", len(seen)
        if weights.tolist() in seen:
            return "cycles", len(seen)
        seen.append(weights.tolist())


def contradiction(truth):
    """Which of the four inequalities target * (row @ weights) > 0 add up to 0 > 0; None if none do.

    By Gordan's theorem there are weights, or else there is such a sum, and never both.
    """
    rows, targets = examples(truth)
    signed = rows * targets.reshape(4, 1)
    for chosen in product((0, 1), repeat=4):
        if any(chosen) and not (Tensor(chosen) @ signed).any():
            return chosen
    return None


def examples(truth):
    rows = Tensor([[first, second, 1] for first, second in BITS])
    return rows, Tensor([1 if true else -1 for true in truth])


def inequalities(truth):
    """What weights w1, w2 and a bias b would have to fulfil, a line for each pair of bits."""
    for (first, second), true in zip(BITS, truth, strict=True):
        terms = [name for name, bit in (("w1", first), ("w2", second), ("b", 1)) if bit]
        text = f"{' + '.join(terms):>12} {'> ' if true else '<='} 0"
        yield f"  ({first}, {second}) is {'true: ' if true else 'false:'} {text}"

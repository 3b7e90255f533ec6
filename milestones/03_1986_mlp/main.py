"""1986: backpropagation trains a multilayer perceptron to read handwritten digits.

Nobody tells the hidden units what to look for. Pixels, 128 hidden units, 10 digits; by default the
small images that the package holds, with --data those of MNIST.
"""

import numpy as np
from tqdm import tqdm

from tinytorch import Callback, Trainer, accuracy, manual_seed, nn, no_grad
from tinytorch.data import MNIST, DataLoader, Digits
from tinytorch.optim import Adam, CosineSchedule
from tito.milestone import Result, Stopwatch, conclude, options, picture

HIDDEN = 128


class Bar(Callback):
    """One progress bar for the whole training."""

    def __init__(self, steps):
        self.bar = tqdm(desc="training", total=steps, unit="step")

    def on_step(self, trainer):
        self.bar.update()

    def on_epoch(self, trainer):
        self.bar.set_postfix(accuracy=f"{trainer.history['validation_accuracy'][-1]:.4f}")


def train(training, test, epochs, seed):
    """A trained model, and the loss and accuracy of each epoch on both sets."""
    manual_seed(seed)
    pixels = training.images[0].size
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    loader = DataLoader(training, batch_size=64, shuffle=True, seed=seed)
    steps = epochs * len(loader)
    schedule = CosineSchedule(max_lr=0.003, total_steps=steps)
    trainer = Trainer(model, Adam(model.parameters()), nn.CrossEntropyLoss(), schedule)
    return model, trainer.fit(
        loader,
        epochs,
        validation=DataLoader(test, batch_size=1000),
        metrics=[accuracy],
        callbacks=[Bar(steps)],
        progress=False,
    )


def draw_curves(pyplot, history):
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs = range(1, len(history["train_loss"]) + 1)
    for part, style, label in (("train", "k--", "training"), ("validation", "k-", "test")):
        left.semilogy(epochs, history[f"{part}_loss"], style, label=f"{label} images")
        right.plot(epochs, history[f"{part}_accuracy"], style, label=f"{label} images")
    left.set(title="Loss", xlabel="epoch", ylabel="mean cross-entropy (nats)")
    right.set(title="Accuracy", xlabel="epoch", ylabel="share read rightly")
    left.legend()
    right.legend()
    return figure


def draw_mistakes(pyplot, images, read, labels):
    """The wrongly read images, the first 40 of them: what they are, and what was read."""
    wrong = np.flatnonzero(read != labels)[:40]
    figure, axes = pyplot.subplots(4, 10, figsize=(10, 5), layout="constrained")
    figure.suptitle("Read wrongly: what it is -> what was read")
    for axis in axes.flat:
        axis.axis("off")
    for axis, index in zip(axes.flat, wrong, strict=False):
        axis.imshow(images[index, 0], "gray_r")
        axis.set_title(f"{labels[index]} -> {read[index]}")
    return figure


def draw_weights(pyplot, weights, side):
    """What the first 40 hidden units look for; weights are (pixels, HIDDEN)."""
    figure, axes = pyplot.subplots(4, 10, figsize=(10, 4.4), layout="constrained")
    figure.suptitle("What hidden units look for: ink where it is white, none where it is black")
    for axis, weight in zip(axes.flat, weights.T, strict=False):
        limit = np.abs(weight).max()
        axis.imshow(weight.reshape(side, side), "gray", vmin=-limit, vmax=limit)
        axis.axis("off")
    return figure


def main() -> None:
    chosen = options(__doc__)
    dataset, epochs, wanted = (MNIST, 6, 0.975) if chosen.data else (Digits, 30, 0.96)
    training, test = dataset(train=True), dataset(train=False)
    watch = Stopwatch()
    model, history = train(training, test, epochs, chosen.seed)
    seconds = watch.seconds

    model.eval()
    with no_grad():
        read = model(test.images).numpy().argmax(axis=1)
    labels = test.labels.numpy()
    reached = (read == labels).mean()
    name = dataset.__name__
    print(f"\n{name}: {len(training):,} images to learn from, {epochs} epochs, and of the")
    print(
        f"{len(test):,} test images it reads {np.sum(read == labels):,}, all but {1 - reached:.2%}"
    )
    weights, side = model[1].weight.numpy(), test.images.shape[-1]
    figures = {
        "mlp_curves": lambda pyplot: draw_curves(pyplot, history),
        "mlp_mistakes": lambda pyplot: draw_mistakes(pyplot, test.images.numpy(), read, labels),
        "mlp_weights": lambda pyplot: draw_weights(pyplot, weights, side),
    }
    for figure, draw in figures.items():
        picture(figure, draw, chosen)
    conclude([Result(f"test accuracy on {name}", reached, wanted, seconds, 60)], chosen)


if __name__ == "__main__":
    main()

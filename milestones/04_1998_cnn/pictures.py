"""The pictures: what was learned, and what is still misread."""

import numpy as np

from tinytorch import no_grad


def draw_lenet(pyplot, model, images, labels, reached):
    """The accuracy of each epoch, what C1 makes of a digit, and digits that are misread."""
    with no_grad():
        guesses = np.asarray(model(images).argmax(axis=1))
        maps = model.layers[0](images[:1]).numpy()[0]
    wrong = np.flatnonzero(guesses != np.asarray(labels))
    kernels, pixels = model.layers[0].weight.numpy()[:, 0], images.numpy()[:, 0]
    figure = pyplot.figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2))
    axis = left.subplots()
    axis.plot(range(1, len(reached) + 1), reached, "k.-")
    axis.set(title="LeNet-5 on images it has never seen", xlabel="epoch", ylabel="accuracy")
    rows = right.subplots(3, 7)
    first = [("a digit", pixels[0]), *((f"C1 map {i}", image) for i, image in enumerate(maps, 1))]
    second = [("its kernels", None), *((f"5 x 5, no. {i}", k) for i, k in enumerate(kernels, 1))]
    third = [(f"{np.asarray(labels)[i]} read as {guesses[i]}", pixels[i]) for i in wrong[:7]]
    for row, pairs in zip(rows, (first, second, third), strict=True):
        for axis in row:
            axis.set_axis_off()
        for axis, (title, image) in zip(row, pairs, strict=False):
            axis.set_title(title, fontsize=9)
            if image is not None:
                axis.imshow(image, "gray_r")
    return figure


def draw_resnet(pyplot, curve, reached, images, labels, outputs, classes):
    """The accuracy after each epoch, and images that are misread with the most confidence."""
    labels, outputs = np.asarray(labels), outputs.numpy()
    guesses, rows = outputs.argmax(axis=1), np.arange(len(labels))
    doubt = outputs[rows, labels] - outputs[rows, guesses]  # 0 where the guess is right
    figure = pyplot.figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.4))
    axis = left.subplots()
    axis.plot(*zip(*curve, strict=True), "k.-", label="during training, 2,000 test images at most")
    axis.axhline(reached, color="k", linestyle=":", label=f"in the end, all: {reached:.2%}")
    axis.set(title="Accuracy on images it has never seen", xlabel="epochs", ylabel="accuracy")
    axis.legend(loc="lower right")
    for axis, i in zip(right.subplots(3, 5).flat, doubt.argsort(), strict=False):
        axis.set_axis_off()
        if doubt[i] < 0:
            axis.imshow(images.numpy()[i].transpose(1, 2, 0), "gray_r")
            axis.set_title(f"{classes[labels[i]]}\nread as {classes[guesses[i]]}", fontsize=9)
    return figure

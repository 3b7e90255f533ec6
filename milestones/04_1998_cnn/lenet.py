"""LeNet-5, as drawn in figure 2 of LeCun, Bottou, Bengio and Haffner (1998)."""

import math

from tinytorch import Upsample, nn


def lenet():
    """Two convolutions, each with averages of 2 x 2 behind it, then three layers of neurons.

    Three things are simpler than in the paper: each map of C3 sees all maps of S2, averages have no
    weights of their own, and softmax stands for the radial basis functions.
    """
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),  # C1: 28 x 28, the padding brings the paper's 32 x 32
        nn.Tanh(),
        nn.AvgPool2d(2),  # S2: 14 x 14
        nn.Conv2d(6, 16, 5),  # C3: 10 x 10
        nn.Tanh(),
        nn.AvgPool2d(2),  # S4: 5 x 5
        nn.Conv2d(16, 120, 5),  # C5: 1 x 1
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(120, 84),  # F6
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def enlarged(images):
    """Images of any size as LeNet-5 takes them, 28 x 28, ink between -0.1 and 1.175 as in 1998."""
    if images.shape[2:] != (28, 28):
        images = Upsample(size=28, mode="bilinear")(images)
    return images * 1.275 - 0.1


def costs(model, image):
    """For each layer with weights: its name, result, weights, multiplications for one image."""
    rows, x = [], image
    for layer in model.layers:
        x = layer(x)
        if hasattr(layer, "weight"):
            count = sum(p.size for p in layer.parameters())
            places = math.prod(x.shape[2:])  # where the same weights are used again
            rows.append((type(layer).__name__, x.shape[1:], count, layer.weight.size * places))
    return rows

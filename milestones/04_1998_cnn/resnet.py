"""A small residual network, as good as it gets in a given time on two cores."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from tqdm import tqdm

from tinytorch import Tensor, concat, conv2d, grad, nn, no_grad, optim, relu
from tito.milestone import Stopwatch


class Whitening(nn.Module):
    """Fixed kernels that make patches of 2 x 2 pixels uncorrelated, and the same times -1.

    They are the principal axes of patches of the images, each divided by its standard deviation.
    """

    def __init__(self, images):
        windows = np.moveaxis(sliding_window_view(images, (2, 2), axis=(2, 3)), 1, 3)
        patches = windows.reshape(-1, 4 * images.shape[1])  # (N H W, C 2 2)
        variances, axes = np.linalg.eigh(np.cov(patches.T))
        kernels = (axes / np.sqrt(variances + 1e-4 * variances.sum())).T
        kernels = np.concatenate([kernels, -kernels])
        self.register_buffer("kernels", Tensor(kernels.reshape(len(kernels), -1, 2, 2)))
        self.bias = Tensor(-kernels @ patches.mean(axis=0))

    def forward(self, x):
        return relu(conv2d(x, self.kernels, self.bias))


class Convolution(nn.Module):
    """3 x 3 kernels, kept as the matrix (C 9, O) that Muon takes; batch norm; ReLU."""

    def __init__(self, inputs, outputs, stride=1):
        self.stride, self.norm = stride, nn.BatchNorm2d(outputs)
        self.weight = nn.Linear(inputs * 9, outputs).weight

    def forward(self, x):
        kernels = self.weight.T.reshape(-1, x.shape[1], 3, 3)
        return relu(self.norm(conv2d(x, kernels, stride=self.stride, padding=1)))


class Residual(nn.Module):
    """What is inside has only to learn the difference from its input: y = x + inner(x)."""

    def __init__(self, inner):
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def network(images, widths, classes=10):
    """Images whitened, then half the size for each width (channels), and a residual block there."""
    layers, channels = [Whitening(images)], 8 * images.shape[1]
    for width in widths:
        layers += [Convolution(channels, width, stride=2), Residual(Convolution(width, width))]
        channels = width
    return nn.Sequential(*layers, nn.GlobalAvgPool2d(), nn.Linear(channels, classes))


def optimizers(model):
    """Muon for the kernels, AdamW for the rest, each with its highest learning rate."""
    kernels = [m.weight for m in model.modules() if isinstance(m, Convolution)]
    rest = [p for p in model.parameters() if all(p is not kernel for kernel in kernels)]
    muon = optim.Muon(kernels, momentum=0.6, weight_decay=0.1)
    return [(muon, 0.24), (optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0), 0.01)]


def train(model, loader, seconds, evaluate):
    """Epochs until the time is over; (epochs, `evaluate(model)`) after each.

    Each of two threads takes half of a batch (NumPy lets them run side by side), and the mean of
    both gradients makes the step. Learning rates fall to 0 in a straight line, by the clock.
    """
    watch, curve, steps = Stopwatch(), [], 0
    parameters, chosen = model.parameters(), optimizers(model)
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.2)

    def gradients(images, labels):
        loss = loss_fn(model(images), labels)
        return loss.item(), grad(loss, parameters)

    with ThreadPoolExecutor(2) as threads, tqdm(total=round(seconds), unit="s") as bar:
        while watch.seconds < seconds:
            for images, labels in loader:
                half = len(images) // 2
                parts = (images[:half], images[half:]), (labels[:half], labels[half:])
                (first, ours), (second, theirs) = threads.map(gradients, *parts)
                for p, one, other in zip(parameters, ours, theirs, strict=True):
                    p.grad = (one + other) / 2
                for optimizer, highest in chosen:
                    optimizer.lr = highest * max(0.0, 1 - watch.seconds / seconds)
                    optimizer.step()
                steps += 1
                bar.set_postfix(epoch=steps / len(loader), loss=(first + second) / 2)
                bar.update(int(min(watch.seconds, seconds)) - bar.n)
                if watch.seconds >= seconds:
                    break
            curve.append((steps / len(loader), evaluate(model)))
            bar.write(f"after {curve[-1][0]:.1f} epochs: {curve[-1][1]:.2%}")
    return curve


def scores(model, images):
    """The outputs for all images, in eval mode."""

    @no_grad()
    def outputs(start):
        return model(images[start : start + 250])

    model.eval()
    with ThreadPoolExecutor(2) as threads:
        parts = list(threads.map(outputs, range(0, len(images), 250)))
    model.train()
    return concat(parts)

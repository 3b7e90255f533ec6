"""1998 to 2016: networks that look through the same small window at every place of an image.

lenet: LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998) reads handwritten digits, Digits or MNIST.
resnet: a small residual network (He, Zhang, Ren, Sun 2016) for Digits or CIFAR-10, trained by the
clock: what two cores reach in half a minute, or with --data in 27.
"""

import one_thread  # isort: skip  # noqa: F401

from lenet import costs, enlarged, lenet
from pictures import draw_lenet, draw_resnet
from resnet import network, scores, train

from tinytorch import (
    CIFAR10,
    MNIST,
    Compose,
    DataLoader,
    Digits,
    OneCycleSchedule,
    RandomCrop,
    RandomHorizontalFlip,
    TensorDataset,
    Trainer,
    Upsample,
    accuracy,
    manual_seed,
    nn,
    optim,
)
from tito.milestone import Result, Stopwatch, conclude, options, picture


def read_digits(chosen) -> list[Result]:
    """LeNet-5, its costs, its training, what it sees and what it gets wrong."""
    dataset = MNIST if chosen.data else Digits
    epochs, batch_size, wanted, allowed = (
        (7, 64, 0.988, 240) if chosen.data else (12, 32, 0.965, 60)
    )
    training, test = dataset(train=True), dataset(train=False)
    images, unseen = enlarged(training.images), enlarged(test.images)
    loader = DataLoader(
        TensorDataset(images, training.labels), batch_size, shuffle=True, seed=chosen.seed
    )
    validation = DataLoader(TensorDataset(unseen, test.labels), 500)

    model = lenet()
    print(f"{'layer':8}{'result':>14}{'weights':>10}{'multiplications':>18}")
    for name, shape, weights, products in costs(model, images[:1]):
        print(f"{name:8}{shape!s:>14}{weights:>10,}{products:>18,}")
    print()
    watch = Stopwatch()
    schedule = OneCycleSchedule(0.003, epochs * len(loader))
    trainer = Trainer(model, optim.Adam(model.parameters()), nn.CrossEntropyLoss(), schedule)
    history = trainer.fit(loader, epochs, validation, metrics=accuracy)
    seconds, reached = watch.seconds, history["validation_accuracy"]
    picture("lenet", lambda p: draw_lenet(p, model, unseen, test.labels, reached), chosen)
    name = f"test accuracy of LeNet-5 on {dataset.__name__}"
    return [Result(name, reached[-1], wanted, seconds, allowed)]


def see_things(chosen) -> list[Result]:
    """The residual network, trained until the time is over."""
    watch = Stopwatch()
    if chosen.data:
        training, test = CIFAR10(train=True), CIFAR10(train=False)
        transform = Compose([RandomCrop(32, padding=2), RandomHorizontalFlip()])
        widths, batch_size, minutes, wanted, allowed = (48, 96, 192), 256, 27, 0.75, 1800
    else:
        double = Upsample(scale_factor=2, mode="bilinear")
        training, test = (
            TensorDataset(double(digits.images), digits.labels)
            for digits in (Digits(train=True), Digits(train=False))
        )
        transform = RandomCrop(16, padding=1)
        widths, batch_size, minutes, wanted, allowed = (16, 32, 64), 64, 0.5, 0.97, 60
    images, labels = test.batch(slice(None))
    model = network(training.batch(slice(2000))[0].numpy(), widths)
    print(f"{sum(p.size for p in model.parameters()):,} weights\n")
    loader = DataLoader(
        training, batch_size, shuffle=True, drop_last=True, seed=chosen.seed, transform=transform
    )

    def evaluate(model):
        """On at most 2,000 test images: the curve is to see, and nothing is chosen by it."""
        return accuracy(scores(model, images[:2000]), labels[:2000])

    curve = train(model, loader, 60 * minutes, evaluate)
    outputs = scores(model, images)
    if chosen.data:  # a mirrored digit is another digit, a mirrored horse is a horse
        print(f"from the images alone: {accuracy(outputs, labels):.2%}; mirror images vote, too")
        outputs = outputs + scores(model, images[..., ::-1])
    reached = accuracy(outputs, labels)
    name = "CIFAR10" if chosen.data else "Digits"
    classes = (CIFAR10 if chosen.data else Digits).classes
    picture(
        "resnet", lambda p: draw_resnet(p, curve, reached, images, labels, outputs, classes), chosen
    )
    result = f"test accuracy of a residual network on {name}"
    return [Result(result, reached, wanted, watch.seconds, allowed)]


def main() -> None:
    chosen = options(__doc__, ("lenet", "resnet"))
    manual_seed(chosen.seed)
    conclude({"lenet": read_digits, "resnet": see_things}[chosen.part](chosen), chosen)


if __name__ == "__main__":
    main()

"""A question that XOR stands for: is a digit odd or even? No single pixel tells."""

import numpy as np
from tqdm import tqdm

from tinytorch import DataLoader, TensorDataset, Trainer, accuracy, manual_seed, nn, optim


def odd_or_even(dataset, hidden, epochs, rate, seed):
    """The share of right answers on test images, of a network with so many hidden units."""
    manual_seed(seed)
    train, test = (
        TensorDataset(part.images.flatten(1), np.asarray(part.labels) % 2)
        for part in (dataset(train=True), dataset(train=False))
    )
    pixels = train.tensors[0].shape[1]
    if hidden:
        model = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    else:
        model = nn.Linear(pixels, 2)
    trainer = Trainer(model, optim.Adam(model.parameters(), lr=rate), nn.CrossEntropyLoss())
    loader = DataLoader(train, batch_size=64, shuffle=True, seed=seed)
    with tqdm(desc=f"odd or even, {hidden} hidden units", total=epochs, unit="epoch") as bar:
        trainer.fit(loader, epochs, callbacks=[lambda _: bar.update()], progress=False)
    return trainer.evaluate(DataLoader(test, batch_size=500), [accuracy])["accuracy"]

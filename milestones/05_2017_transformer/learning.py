"""How both networks learn the text: the same windows, the same steps, the same test."""

from text import Windows, pages

from tinytorch import Trainer, nn, optim


class Together:
    """Several optimizers as one; `lr` is the factor of the rates that they began with."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers
        self.param_groups = [group for each in optimizers for group in each.param_groups]
        self.rates = [each.lr for each in optimizers]

    @property
    def lr(self):
        return self.optimizers[0].lr / self.rates[0]

    @lr.setter
    def lr(self, factor):
        for each, rate in zip(self.optimizers, self.rates, strict=True):
            each.lr = factor * rate

    def zero_grad(self):
        for each in self.optimizers:
            each.zero_grad()

    def step(self):
        for each in self.optimizers:
            each.step()


def loss_fn(scores, targets):
    """The mean over all characters of -ln(the probability that was given to the right one)."""
    return nn.CrossEntropyLoss()(scores.reshape(len(targets), -1), targets)


def learn(model, inner, text, length, batch_size, steps, seed):
    """Train on random windows; every fifth of the way, measure on the whole validation part.

    Muon moves the matrices of the `inner` layers, AdamW all other parameters.
    """
    matrices = [p for layer in inner for p in layer.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    adam = optim.AdamW(others, lr=2e-3, betas=(0.9, 0.99))
    optimizer = Together(optim.Muon(matrices, lr=0.02), adam)
    schedule = optim.WarmupSchedule(optim.CosineSchedule(1.0, 0.01, steps - 100), warmup_steps=100)
    trainer = Trainer(model, optimizer, loss_fn, schedule, grad_clip_norm=1.0)
    windows = Windows(text.train, length, batch_size, steps // 5, seed)
    return trainer.fit(windows, 5, validation=list(pages(text.validation, length)))

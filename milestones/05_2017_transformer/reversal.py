"""Turning lines around: one block with one head of attention, and what it looks at."""

import string

import numpy as np
from tqdm import tqdm

from tinytorch import CharTokenizer, Tensor, attention_maps, manual_seed, nn, no_grad, optim
from tito.milestone import Result, Stopwatch, picture

LENGTH, SIZE, STEPS = 24, 64, 300
TOKENIZER = CharTokenizer(string.ascii_lowercase + " ")


def lines(random, count, held_out):
    """Random letters, 1 to LENGTH of them, and spaces up to LENGTH; the same from back to front.

    One line in five, those whose ids add up to a multiple of 5, is held out from training.
    """
    letters = random.integers(1, 27, (10 * count, LENGTH))  # 0 is the space
    letters[np.arange(LENGTH) >= random.integers(1, LENGTH + 1, (10 * count, 1))] = 0
    letters = letters[(letters.sum(axis=1) % 5 == 0) == held_out][:count]
    return Tensor(letters), Tensor(letters[:, ::-1])


def learn(seed, positions):
    """A trained model; it sees 64 new lines at every step."""
    manual_seed(seed)
    random = np.random.default_rng(seed)
    vocabulary = TOKENIZER.vocab_size
    encoder = nn.TransformerEncoder(vocabulary, SIZE, 1, 1, LENGTH, positions=positions)
    model = nn.Sequential(encoder, nn.Linear(SIZE, vocabulary))
    optimizer = optim.AdamW(model.parameters())
    schedule = optim.WarmupSchedule(optim.CosineSchedule(3e-3, 3e-5, STEPS - 50), 50)
    bar = tqdm(range(STEPS), desc=f"positions: {positions}", unit="step")
    for step in bar:
        inputs, targets = lines(random, 64, held_out=False)
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(model(inputs).reshape(-1, vocabulary), targets.reshape(-1))
        loss.backward()
        optimizer.lr = schedule(step)
        optimizer.step()
        bar.set_postfix_str(f"loss={loss.item():.4f}", refresh=False)
    return model


@no_grad()
def answers(model, inputs):
    return model(inputs).numpy().argmax(axis=-1)


def draw(pyplot, model, text):
    with attention_maps() as maps:
        answers(model, Tensor([TOKENIZER.encode(text.ljust(LENGTH))], dtype=int))
    figure, axes = pyplot.subplots(figsize=(6.4, 5.6), layout="constrained")
    image = axes.imshow(maps[0][0, 0], "gray_r", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="attention")
    places = range(LENGTH)
    shown = text.ljust(LENGTH).replace(" ", "_")
    axes.set_xticks(places, shown)
    axes.set_yticks(places, shown[::-1])
    axes.set(title="Where each letter of the answer comes from")
    axes.set(xlabel="what is read (_: space)", ylabel="what is written")
    return figure


def reversal(chosen):
    """All of 5,000 lines that were held out must come out right, to the last letter."""
    watch = Stopwatch()
    model = learn(chosen.seed, "learned")
    inputs, targets = lines(np.random.default_rng(chosen.seed), 5000, held_out=True)
    reached = (answers(model, inputs) == targets.numpy()).all(axis=1).mean().item()
    seconds = watch.seconds
    for text in ("attention", "is all you need"):
        ids = Tensor([TOKENIZER.encode(text.ljust(LENGTH))], dtype=int)
        print(f"{text!r} becomes {TOKENIZER.decode(answers(model, ids)[0]).strip()!r}")
    picture("reversal", lambda pyplot: draw(pyplot, model, "is all you need"), chosen)

    blind = learn(chosen.seed, None)
    share = (answers(blind, inputs) == targets.numpy()).all(axis=1).mean()
    print(f"\nWithout positions a line is a bag of letters: {share:.2%} come out right.")
    return [Result("held-out lines turned around", reached, 1.0, seconds, 60)]

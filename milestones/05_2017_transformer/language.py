"""Learning to write, character by character: a GPT, and an LSTM beside it."""

from learning import learn
from text import Text

from tinytorch import generate, manual_seed, nn
from tito.milestone import Result, Stopwatch, picture

LENGTH = 128  # characters that a network sees at a time


class CharacterLSTM(nn.Module):
    """Character vectors, a long short-term memory, a score for each character that may follow."""

    max_seq_len = LENGTH

    def __init__(self, vocabulary, size):
        self.embedding = nn.Embedding(vocabulary, size)
        self.lstm = nn.LSTM(size, size, batch_first=True)
        self.head = nn.Linear(size, vocabulary)

    def forward(self, ids):
        states, _ = self.lstm(self.embedding(ids))
        return self.head(states)


def draw(pyplot, history, steps, name):
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    at = [steps * fifth // 5 for fifth in range(1, 6)]
    axes.plot(at, history["train_loss"], "k.--", label="training, mean since the last point")
    axes.plot(at, history["validation_loss"], "k.-", label="validation")
    axes.set(title=name, xlabel="step", ylabel="loss (nats per character)")
    axes.legend()
    return figure


def write(kind, build, chosen):
    """Train, show what the model writes, and tell what it reached."""
    batch_size, steps, wanted, seconds = (4, 2400, 1.75, 900) if chosen.data else (4, 500, 1.8, 90)
    text = Text(chosen.data)
    print(f"what a table of counts reaches, given three characters: {text.loss_of_counts():.4f}")
    manual_seed(chosen.seed)
    model, inner = build(text.tokenizer.vocab_size)
    print(f"{kind} of {sum(p.size for p in model.parameters()):,} parameters")
    watch = Stopwatch()
    history = learn(model, inner, text, LENGTH, batch_size, steps, chosen.seed)
    spent = watch.seconds
    prompt = text.validation[:32]
    ids = generate(model, prompt, 500, temperature=0.8, seed=chosen.seed)
    print(f"\nIt goes on from {text.tokenizer.decode(prompt)!r}:\n")
    print(text.tokenizer.decode(ids[len(prompt) :]))
    name = f"{kind} on {text.name}"
    picture(kind.lower(), lambda pyplot: draw(pyplot, history, steps, name), chosen)
    loss = history["validation_loss"][-1]
    return [Result(f"validation loss of {name}", loss, wanted, spent, seconds, at_most=True)]


def gpt(chosen):
    """Four blocks of four heads, with rotary positions."""

    def build(vocabulary):
        model = nn.GPT(vocabulary, 128, 4, 4, LENGTH, positions="rotary")
        return model, model.blocks

    return write("GPT", build, chosen)


def lstm(chosen):
    """One layer of 256 cells: fewer parameters, the same text."""

    def build(vocabulary):
        model = CharacterLSTM(vocabulary, 256)
        return model, [model.lstm]

    return write("LSTM", build, chosen)

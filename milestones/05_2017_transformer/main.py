"""2017: attention is all you need.

A transformer turns lines around and shows where it looks; then one learns to write, character by
character, and an LSTM of 1997 beside it; and a recurrent network judges sentences.

parts: reversal, gpt, lstm, sentiment
"""

from language import gpt, lstm
from reversal import reversal
from sentiment import sentiment

from tito.milestone import conclude, options

PARTS = {"reversal": reversal, "gpt": gpt, "lstm": lstm, "sentiment": sentiment}

if __name__ == "__main__":
    chosen = options(__doc__, tuple(PARTS))
    conclude(PARTS[chosen.part](chosen), chosen)

"""Byte pair encoding against the library `tokenizers`: the same merges give the same ids."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinytorch.text.tokenization import BPETokenizer, split_pieces

tokenizers = pytest.importorskip("tokenizers", reason="compares with the library tokenizers")

TEXT = """It was the best of times, it was the worst of times, it was the age of wisdom, it was
the age of foolishness; 12 cats weren't there, and 'll never be:   the naïve café.
我喜欢猫 \U0001f642\U0001f642
\tdef main(arguments):\n        return [x**2 for x in range(10)]\n\n\n"""


def byte_letters():
    """The letter that stands for each byte in the library, as in GPT-2: itself if printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [number for number in range(256) if number not in printable]
    letters = {number: chr(number) for number in printable}
    return letters | {number: chr(256 + k) for k, number in enumerate(others)}


LETTERS = byte_letters()


def written(token):
    return "".join(LETTERS[number] for number in token)


def library(ours, use_regex):
    """The library's tokenizer with our merges; by its own pattern, or for pieces cut before."""
    vocabulary = {written(token): k for k, token in enumerate(ours.tokens)}
    merges = [(written(ours.tokens[a]), written(ours.tokens[b])) for a, b in ours.merges]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=use_regex
    )
    theirs.decoder = tokenizers.decoders.ByteLevel()
    return theirs


def different_tokens(tokenizer):
    """Whether no two merges make the same bytes, which the library can't tell apart by name."""
    return len(set(tokenizer.tokens)) == len(tokenizer.tokens)


@pytest.fixture(scope="module")
def ours():
    tokenizer = BPETokenizer.train(TEXT, 600, min_frequency=1)
    assert len(tokenizer) > 360
    return tokenizer


def test_ids_and_text_by_the_librarys_own_pattern(ours):
    theirs = library(ours, use_regex=True)
    texts = [TEXT, TEXT[::-1], TEXT.upper(), TEXT.replace(" ", "  "), "", " ", "a  b   c \n d"]
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids
        assert ours.decode(ids) == theirs.decode(ids) == text


@settings(deadline=None)
@given(st.text("ab c'stve12.,_-\n\té我\U0001f642", max_size=80))
def test_ids_of_random_texts_by_the_librarys_own_pattern(text):
    tokenizer = BPETokenizer.train(TEXT, 400)
    assert tokenizer.encode(text) == library(tokenizer, use_regex=True).encode(text).ids


@settings(deadline=None)
@given(st.text(max_size=80), st.text("aab ", max_size=200))
def test_ids_of_any_text_in_the_same_pieces(text, learned_from):
    tokenizer = BPETokenizer.train([learned_from, TEXT], 330)
    if different_tokens(tokenizer):
        theirs = library(tokenizer, use_regex=False)
        found = [number for piece in split_pieces(text) for number in theirs.encode(piece).ids]
        assert tokenizer.encode(text) == found


def counts_after(words, merges):
    """How often each pair comes in the words once the merges are done, by the plain definition."""
    words = {tuple(word): times for word, times in words.items()}
    for new, pair in enumerate(merges, 256):
        joined = Counter()
        for word, times in words.items():
            row, place = [], 0
            while place < len(word):
                found = word[place : place + 2] == pair
                row.append(new if found else word[place])
                place += 1 + found
            joined[tuple(row)] += times
        words = joined
    counts = Counter()
    for word, times in words.items():
        for pair in pairwise(word):
            counts[pair] += times
    return counts


@pytest.mark.parametrize("text", [TEXT, TEXT * 2 + TEXT[100:300] * 5, "aab aaab aaaab baab " * 9])
def test_training_agrees_until_two_pairs_are_equally_frequent(text):
    """The library breaks ties by its own order of bytes; everything before a tie must be equal."""
    ours = BPETokenizer.train(text, 500).merges
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + len(ours),
        min_frequency=2,
        show_progress=False,
        initial_alphabet=list(LETTERS.values()),
    )
    theirs.train_from_iterator([text], trainer)
    words = Counter(piece.encode() for piece in split_pieces(text))
    tokens = [bytes([number]) for number in range(256)]
    names = {written(token): k for k, token in enumerate(tokens)}
    for done, names_of_pair in enumerate(json.loads(theirs.to_str())["model"]["merges"]):
        pair = tuple(names[name] for name in names_of_pair)
        if pair != ours[done]:
            counts = counts_after(words, ours[:done])
            assert counts[pair] == counts[ours[done]] == max(counts.values())
            return
        names["".join(names_of_pair)] = 256 + done
    assert done == len(ours) - 1

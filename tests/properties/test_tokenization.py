"""Tokenizers on any Unicode text: what is encoded comes back, whatever was learned from."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tinytorch.text.tokenization import (
    BPETokenizer,
    CharTokenizer,
    encode_piece,
    pad_sequences,
    split_pieces,
    split_special,
)

any_text = st.text(st.characters(exclude_categories=()), max_size=60)  # surrogates, too
few_letters = st.text("ab ", max_size=60)
texts = any_text | few_letters | st.text(st.sampled_from("aé \U0001f642\n'"), max_size=40)


@settings(deadline=None)
@given(texts, st.lists(texts, max_size=3))
def test_bpe_gives_back_every_text(text, learned_from):
    tokenizer = BPETokenizer.train(learned_from, 290, min_frequency=1)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.tokens[number] for number in ids) == text.encode(
        "utf-8", "surrogatepass"
    )
    assert len(ids) <= len(text.encode("utf-8", "surrogatepass"))


@settings(deadline=None)
@given(texts)
def test_characters_give_back_their_own_text(text):
    tokenizer = CharTokenizer(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(texts)
def test_pieces_are_the_text(text):
    pieces = split_pieces(text)
    assert "".join(pieces) == text
    assert all(pieces)


@settings(deadline=None)
@given(texts, st.lists(st.text("ab<>\U0001f642", min_size=1, max_size=4), max_size=4, unique=True))
def test_special_tokens_do_not_change_the_text(text, special_tokens):
    parts = split_special(text, special_tokens)
    assert "".join(parts) == text
    for part in parts:
        assert part in special_tokens or not any(token in part for token in special_tokens)
    tokenizer = BPETokenizer.train(text, 300, special_tokens, min_frequency=1)
    for parse_special in (False, True):
        assert tokenizer.decode(tokenizer.encode(text, parse_special)) == text
    plain = tokenizer.encode(text)
    assert all(number < tokenizer.first_special for number in plain)


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_every_id_decodes_to_some_text(data):
    tokenizer = BPETokenizer()
    text = tokenizer.decode(list(data))
    try:
        assert text == data.decode()
    except UnicodeDecodeError:
        assert "\ufffd" in text or text.encode("utf-8", "surrogatepass") == data


@settings(deadline=None)
@given(st.data(), st.binary(max_size=30))
def test_merges_are_applied_in_their_order(data, piece):
    piece = bytes(97 + number % 3 for number in piece)
    merges = []
    for new in range(256, 256 + data.draw(st.integers(0, 12))):
        ids = st.sampled_from([97, 98, 99, *range(256, new)])
        pair = data.draw(st.tuples(ids, ids).filter(lambda pair: pair not in merges))
        merges.append(pair)
    ids_of = {pair: new for new, pair in enumerate(merges, 256)}
    expected = list(piece)
    for pair, new in ids_of.items():
        place = 0
        while place < len(expected) - 1:
            if (expected[place], expected[place + 1]) == pair:
                expected[place : place + 2] = [new]
            place += 1
    assert encode_piece(piece, ids_of) == expected


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**40), max_size=9), max_size=5), st.integers(-9, 9))
def test_padding_keeps_every_row(rows, padding):
    ids, mask = pad_sequences(rows, padding)
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows), default=0))
    for row, padded, real in zip(rows, ids.data, mask.data, strict=True):
        assert padded[real].tolist() == row
        assert np.all(padded[~real] == padding)
        assert real.sum() == len(row)

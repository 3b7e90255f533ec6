"""Module 10: characters, bytes, merges, special tokens, files, batches."""

import copy
import json
import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from tinytorch.core.tensor import Tensor
from tinytorch.text.tokenization import (
    GAP,
    BPETokenizer,
    Chain,
    CharTokenizer,
    PairTable,
    Tokenizer,
    encode_piece,
    join_tokens,
    pad_sequences,
    split_pieces,
    split_special,
    train_merges,
)

TEXT = """The time has come, the Walrus said, to talk of many things:
of shoes - and ships - and sealing-wax, of cabbages - and kings;
and why the sea is boiling hot, and whether pigs have wings. """

HARD_TEXTS = [
    "",
    " ",
    "\n",
    "\0",
    "\r\n\t  \x1c\x85\u2028",
    "naïve café",
    "e\u0301 is not \u00e9",  # a letter and its accent apart, and in one
    "我喜欢猫。",
    "مرحبا",
    "\U0001f642\U0001f469\u200d\U0001f469\u200d\U0001f467\U0001f3f3\ufe0f\u200d\U0001f308",
    "\ud83d",  # half of a surrogate pair
    "\ude42\ud83d",
    "\ud83d\ude42",  # both halves, apart: not the same string as the smile itself
    "\ufffd",
    "\U0010ffff",
    "x" * 3000,
    "²³½ⅷ_١٢٣",
    "<|end|>",
]


@pytest.fixture(scope="module")
def bpe():
    special_tokens = ["<|end|>", "<|pad|>"]
    return BPETokenizer.train(TEXT, 320, special_tokens, min_frequency=1)


# --- characters ---
def test_characters_are_sorted_and_once():
    tokenizer = CharTokenizer("hello")
    assert tokenizer.characters == "ehlo"
    assert tokenizer.encode("hole") == [1, 3, 2, 0]
    assert tokenizer.decode([1, 3, 2, 0]) == "hole"
    assert CharTokenizer(["on", "no"]).characters == "no"


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_characters_of_any_text_come_back(text):
    assert CharTokenizer(text).decode(CharTokenizer(text).encode(text)) == text


def test_unknown_character():
    with pytest.raises(ValueError, match="'!' is none of its 4 characters"):
        CharTokenizer("hello").encode("hello!")
    tokenizer = CharTokenizer("hello", special_tokens=["<end>", "<?>"], unknown="<?>")
    assert tokenizer.encode("hey!") == [1, 0, 5, 5]
    assert tokenizer.decode([1, 5, 4]) == "h<?><end>"
    with pytest.raises(ValueError, match="none of the special tokens"):
        CharTokenizer("a", unknown="<?>")


# --- tokens to text ---
def test_join_tokens_joins_bytes_before_it_reads_them():
    halves = [b"\xf0\x9f", b"\x99\x82", b"!"]
    assert join_tokens(halves, [0, 1, 2]) == "\U0001f642!"
    assert join_tokens(halves, [0, 2]) == "\ufffd!"
    assert join_tokens(halves, [1]) == "\ufffd\ufffd"
    assert join_tokens(halves, []) == ""
    assert join_tokens([b"\xed\xa0\xbd"], [0]) == "\ud83d"


def test_every_single_byte_decodes(bpe):
    for number in range(256):
        assert bpe.decode([number]) == (chr(number) if number < 128 else "\ufffd")


@pytest.mark.parametrize(
    "ids", [[104, 105], (104, 105), np.array([104, 105]), np.array([104, 105], np.uint8)]
)
def test_decode_takes_lists_arrays_and_tensors(bpe, ids):
    assert bpe.decode(ids) == "hi"
    assert bpe.decode(Tensor(ids)) == "hi"  # a Tensor of a list is float32, with whole numbers
    assert bpe.decode(Tensor(np.array(104))) == "h"
    assert bpe.decode([]) == ""


@pytest.mark.parametrize("wrong", [-1, 320, 10**6])
def test_decode_refuses_ids_that_do_not_exist(bpe, wrong):
    with pytest.raises(ValueError, match=f"id {wrong} is not among 0 to 319"):
        bpe.decode([104, wrong])


def test_decode_refuses_what_is_no_row_of_ids(bpe):
    with pytest.raises(ValueError, match="decode_batch"):
        bpe.decode([[104], [105]])
    with pytest.raises(IndexError, match="whole"):
        bpe.decode([0.5])
    with pytest.raises(TypeError, match="bool"):
        bpe.decode([True])
    with pytest.raises(TypeError, match="whole numbers"):
        bpe.decode("hi")


# --- pieces ---
@pytest.mark.parametrize(
    "text, pieces",
    [
        ("", []),
        ("a dog, 2 dogs!", ["a", " dog", ",", " 2", " dogs", "!"]),
        ("I'll we've it's don't", ["I", "'ll", " we", "'ve", " it", "'s", " don", "'t"]),
        ("x   y", ["x", "  ", " y"]),
        ("x  \n y", ["x", "  \n", " y"]),
        ("a\tb", ["a", "\t", "b"]),
        ("a ", ["a", " "]),
        ("snake_case2", ["snake", "_", "case", "2"]),
        (" (é漢) ...", [" (", "é漢", ")", " ..."]),
        ("3.14", ["3", ".", "14"]),
    ],
)
def test_split_pieces(text, pieces):
    assert split_pieces(text) == pieces


def test_no_character_gets_lost():
    every = "".join(map(chr, range(0x110000)))
    assert "".join(split_pieces(every)) == every
    spread = " ".join(every[::37])
    assert "".join(split_pieces(spread)) == spread


# --- the chain and the table ---
def test_chain_joins():
    chain = Chain([10, 11, 12, 13])
    chain.join(1, 256)
    assert chain.ids == [10, 256, GAP, 13, GAP]
    assert (chain.pair(0), chain.pair(1), chain.pair(3)) == ((10, 256), (256, 13), (13, GAP))
    assert (chain.before[1], chain.before[3], chain.before[4]) == (0, 1, 3)
    chain.join(0, 257)
    chain.join(0, 258)
    assert chain.tokens() == [258]
    assert chain.pair(0) == (258, GAP) and chain.pair(-1) == (GAP, 258)
    assert Chain([]).tokens() == []


def test_table_stays_true_while_pairs_are_joined():
    random = np.random.default_rng(0)
    words = Counter(bytes(random.choice([97, 98, 99], 9).tolist()) for _ in range(40))
    table = PairTable(words)
    for new in range(256, 280):
        before = +table.counts
        best = max(before, key=before.__getitem__)
        changed = table.join_everywhere(best, new)
        truth = PairTable.__new__(PairTable)
        truth.chain, truth.times = table.chain, table.times
        truth.counts, truth.places = Counter(), type(table.places)(set)
        for place in range(len(table.times)):
            truth.note(place)
        assert +table.counts == truth.counts
        assert {pair: at for pair, at in table.places.items() if at} == truth.places
        pairs = before.keys() | truth.counts.keys()
        assert {pair for pair in pairs if before[pair] != truth.counts[pair]} <= changed


def test_only_the_neighbourhood_has_changed():
    table = PairTable({b"cabd": 1, b"xyz": 2})
    changed = {pair for pair in table.join_everywhere((97, 98), 256) if GAP not in pair}
    assert changed == {(99, 97), (97, 98), (98, 100), (99, 256), (256, 100)}


def trained_by_counting(words, count, min_frequency=2):
    """The definition: count all pairs, join the most frequent, once again."""
    words = {tuple(word): times for word, times in words.items()}
    merges = []
    for new in range(256, 256 + count):
        counts = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                counts[pair] += times
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < min_frequency:
            break
        merges.append(best)
        joined = Counter()
        for word, times in words.items():
            row, place = [], 0
            while place < len(word):
                found = word[place : place + 2] == best
                row.append(new if found else word[place])
                place += 1 + found
            joined[tuple(row)] += times
        words = joined
    return merges


@pytest.mark.parametrize("seed", range(20))
def test_merges_are_those_of_the_definition(seed):
    random = np.random.default_rng(seed)
    letters, length = [(2, 12), (3, 30), (6, 8), (26, 5)][seed % 4]
    words = Counter(
        bytes(random.integers(97, 97 + letters, random.integers(1, length)).tolist())
        for _ in range(60)
    )
    for min_frequency in (1, 2, 5):
        expected = trained_by_counting(words, 50, min_frequency)
        assert train_merges(words, 50, min_frequency) == expected


def test_merges_of_a_text_are_those_of_the_definition():
    words = Counter(piece.encode() for piece in split_pieces(TEXT * 3))
    assert train_merges(words, 200) == trained_by_counting(words, 200)


def test_training_stops_where_nothing_is_frequent():
    assert train_merges({b"ab": 1}, 9) == []
    assert train_merges({b"ab": 1}, 9, min_frequency=1) == [(97, 98)]
    assert train_merges({b"aaaaaaaa": 2}, 9) == [(97, 97), (256, 256), (257, 257)]
    assert train_merges({}, 9) == train_merges({b"ab": 9}, 0) == train_merges({b"": 9}, 3) == []


# --- encoding ---
def encoded_by_order(piece, merges):
    """The definition: every merge in the order of learning, wherever it fits."""
    ids = list(piece)
    for new, pair in enumerate(merges, 256):
        row, place = [], 0
        while place < len(ids):
            found = tuple(ids[place : place + 2]) == pair
            row.append(new if found else ids[place])
            place += 1 + found
        ids = row
    return ids


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_encoded_in_the_order_of_the_merges(seed):
    random = np.random.default_rng(seed)
    merges = []
    while len(merges) < 40:
        low = 97 if random.random() < 0.4 else 0
        options = [*range(97, 100), *range(256, 256 + len(merges))]
        pair = tuple(int(x) for x in random.choice(options, 2))
        if pair not in merges and low < 98:
            merges.append(pair)
    ids_of = {pair: new for new, pair in enumerate(merges, 256)}
    for _ in range(50):
        piece = bytes(random.integers(97, 100, random.integers(0, 40)).tolist())
        assert encode_piece(piece, ids_of) == encoded_by_order(piece, merges)


def test_the_pair_learned_first_wins_over_the_longest_token():
    tokenizer = BPETokenizer([(98, 99), (97, 98)])
    assert tokenizer.encode("abc") == [97, 256]


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_every_text_comes_back(bpe, text):
    for parse_special in (False, True):
        assert bpe.decode(bpe.encode(text, parse_special)) == text
    assert BPETokenizer().decode(BPETokenizer().encode(text)) == text


def test_training_makes_its_own_text_shorter(bpe):
    assert len(bpe) == 320
    assert len(bpe.encode(TEXT)) < 0.6 * len(TEXT)
    assert bpe.encode(TEXT) == [
        number
        for piece in split_pieces(TEXT)
        for number in encoded_by_order(piece.encode(), bpe.merges)
    ]


def test_what_is_remembered_does_not_change_what_is_encoded(monkeypatch, bpe):
    expected = BPETokenizer(bpe.merges).encode(TEXT)
    monkeypatch.setattr(BPETokenizer, "_REMEMBERED", 3)
    forgetful = BPETokenizer(bpe.merges)
    assert forgetful.encode(TEXT) == forgetful.encode(TEXT) == expected
    ids = bpe.encode("the sea")
    ids.append(0)  # the caller's list is the caller's
    assert bpe.encode("the sea") == ids[:-1]
    one = bpe.encode("the")
    one.append(0)
    assert bpe.encode("the") == one[:-1]


def test_encode_refuses_what_is_no_string(bpe):
    for wrong in (b"bytes", 5, None, ["list"]):
        with pytest.raises(TypeError, match="expected a string"):
            bpe.encode(wrong)
    with pytest.raises(TypeError, match="use encode"):
        bpe.encode_batch("one string")


# --- training on texts ---
def test_training_takes_a_text_or_texts():
    halves = TEXT.partition(" to talk")
    assert BPETokenizer.train(TEXT, 300).merges == BPETokenizer.train([TEXT], 300).merges
    one_by_one = BPETokenizer.train(iter([halves[0], halves[1] + halves[2]]), 300)
    assert one_by_one.merges == BPETokenizer.train(TEXT, 300).merges


def test_special_tokens_are_not_learned():
    marked = BPETokenizer.train("<|end|>".join(["xy xy"] * 50), 300, special_tokens=["<|end|>"])
    assert all(b"|" not in token and b"nd" not in token for token in marked.tokens[256:-1])
    assert marked.tokens[-1] == b"<|end|>"


@pytest.mark.parametrize("arguments", [(255,), (256, ["<end>"]), (300, [], 0), (-5,)])
def test_training_refuses_too_small_sizes(arguments):
    with pytest.raises(ValueError, match="train: expected vocab_size of at least"):
        BPETokenizer.train("text", *arguments)


# --- special tokens ---
def test_special_tokens_count_only_where_asked_for(bpe):
    end = bpe.special_ids["<|end|>"]
    assert end == len(bpe) - 2
    assert end not in bpe.encode("a<|end|>")
    assert bpe.encode("a<|end|>b", parse_special=True) == [97, end, 98]
    assert bpe.decode([97, end, 98]) == "a<|end|>b"
    assert bpe.decode([97, end, 98], skip_special_tokens=True) == "ab"


def test_split_special():
    assert split_special("<a><ab", ["<a", "<ab"]) == ["<a", ">", "<ab"]
    assert split_special("a.b", ["."]) == ["a", ".", "b"]  # no pattern of `re`
    assert split_special("axb", ["."]) == ["axb"]
    assert split_special("", []) == split_special("", ["x"]) == []
    assert split_special("whole", []) == ["whole"]


@pytest.mark.parametrize("wrong", [[""], ["a", "a"], [5], [None]])
def test_special_tokens_are_checked(wrong):
    with pytest.raises(ValueError, match="special_tokens"):
        CharTokenizer("abc", special_tokens=wrong)
    with pytest.raises(TypeError, match="list of strings"):
        BPETokenizer(special_tokens="<end>")


@pytest.mark.parametrize(
    "merges, message",
    [
        ([(256, 0)], "below 256"),
        ([(97, -1)], "below 256"),
        ([(97, 98), (257, 0)], "below 257"),
        ([(97, 98), (97, 98)], "twice"),
    ],
)
def test_merges_are_checked(merges, message):
    with pytest.raises(ValueError, match=message):
        BPETokenizer(merges)


# --- files ---
def same(a, b):
    return type(a) is type(b) and a.tokens == b.tokens and a.special_ids == b.special_ids


@pytest.mark.parametrize("make", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(bpe, make):
    assert same(make(bpe), bpe)
    assert make(bpe).encode(TEXT) == bpe.encode(TEXT)


def test_save_and_load(bpe, tmp_path):
    characters = CharTokenizer("a\ud83d\ude42é", ["<?>"], unknown="<?>")
    for tokenizer in (bpe, characters, BPETokenizer()):
        path = tmp_path / "folder" / "tokenizer.json"
        tokenizer.save(path)
        loaded = type(tokenizer).load(str(path))
        assert same(loaded, tokenizer)
        assert loaded.settings() == tokenizer.settings()
        assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
    assert characters.encode("?é\ud83d") == [4, 1, 2]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"{}", b"null", b'"text"', b"\xff", b'{"tokenizer": 5}'),
        b'{"tokenizer": "BPETokenizer", "more": 1}',
        b'{"tokenizer": "BPETokenizer", "merges": 1}',
        b'{"tokenizer": "BPETokenizer", "merges": [["a", "b"]]}',
    ],
)
def test_load_refuses_other_files(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="load"):
        BPETokenizer.load(path)


def test_load_says_which_class_the_file_is_for(bpe, tmp_path):
    bpe.save(tmp_path / "bpe.json")
    assert json.loads((tmp_path / "bpe.json").read_bytes())["tokenizer"] == "BPETokenizer"
    with pytest.raises(ValueError, match=r"call BPETokenizer\.load"):
        CharTokenizer.load(tmp_path / "bpe.json")
    with pytest.raises(FileNotFoundError):
        BPETokenizer.load(tmp_path / "none.json")


# --- batches ---
def test_batches(bpe):
    texts = ["the sea", "", "kings<|end|>"]
    rows = bpe.encode_batch(texts, parse_special=True)
    assert rows == [bpe.encode(text, parse_special=True) for text in texts]
    assert bpe.decode_batch(rows) == texts
    assert bpe.decode_batch(rows, skip_special_tokens=True) == ["the sea", "", "kings"]
    ids, mask = pad_sequences(rows, bpe.special_ids["<|pad|>"])
    assert bpe.decode_batch(ids, skip_special_tokens=True) == ["the sea", "", "kings"]
    assert mask.data.sum(axis=1).tolist() == [len(row) for row in rows]


def test_pad_sequences():
    ids, mask = pad_sequences([[5, 6], [7], []], padding=-1, length=3)
    assert ids.tolist() == [[5, 6, -1], [7, -1, -1], [-1, -1, -1]]
    assert mask.tolist() == [[True, True, False], [True, False, False], [False] * 3]
    assert (ids.dtype, mask.dtype) == (np.int64, np.bool_)
    assert pad_sequences([[3], [3, 0]], padding=3)[1].tolist() == [[True, False], [True, True]]
    assert pad_sequences([])[0].shape == pad_sequences([])[1].shape == (0, 0)
    with pytest.raises(ValueError, match="row 1 has 3 ids, more than 2"):
        pad_sequences([[1], [1, 2, 3]], length=2)


def test_repr_and_what_a_subclass_must_bring(bpe):
    assert repr(CharTokenizer("abc")) == "CharTokenizer(vocab_size=3)"
    assert repr(bpe) == "BPETokenizer(vocab_size=320, special_tokens=['<|end|>', '<|pad|>'])"
    assert bpe.vocab_size == len(bpe) == len(bpe.tokens)
    with pytest.raises(NotImplementedError, match="encode_plain"):
        Tokenizer([b"a"]).encode("a")
    with pytest.raises(NotImplementedError, match="settings"):
        Tokenizer([b"a"]).settings()

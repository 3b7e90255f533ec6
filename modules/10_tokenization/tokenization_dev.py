# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp text.tokenization

# %% [markdown]
r"""
# Tokenization

> Text to numbers and back, without losing a character.

**Built before:** everything that turns numbers into better numbers.
**Built here:** the way from text to numbers: a tokenizer of characters, and one of bytes that learns which of them belong together (byte pair encoding, the tokenizer of GPT).
**Time:** 3 hours. **Points:** 88 for code, 12 for the questions at the end.
"""

# %%
from tito.testing import check, check_raises
from tito.whose import whose_tinytorch

whose_tinytorch()

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "solution": false}
#| export
from __future__ import annotations

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tinytorch.core.tensor import Tensor, as_index
from tinytorch.core.training import write_atomically

# %%
import tempfile
import time
from pydoc_data.topics import topics

try:
    import matplotlib.pyplot as plt
except ImportError:
    plt = None  # the lesson works without pictures

# %% [markdown]
r"""
## A network takes numbers

So a text needs a number for every character, and nothing is easier: collect the characters of some text, sort them, count. Python carries its own handbook with it, and this is the text of the lesson.

**Predict:** the handbook has hundreds of thousands of characters. How many *different* ones: 30, 100, 1,000? And what happens with a text that isn't in it? Write it down, then run.
"""

# %%
handbook = "\n".join(topics.values())
numbers = {character: number for number, character in enumerate(sorted(set(handbook)))}
print(f"{len(handbook):,} characters, {len(numbers)} different ones")
for text in ("a list", "smörgåsbord"):
    try:
        print(text, [numbers[character] for character in text])
    except KeyError as error:
        print(f"{text}: KeyError: {error}")

# %% [markdown]
r"""
One letter that nobody thought of, and the program ends. That is the first thing to cure. The second one is quieter: "a list" became 6 numbers, and each of them is one step of the network. Fewer steps would do.

## What a tokenizer is

A **token** is a piece of text that has a number, its **id**. A tokenizer has a list of tokens, and two functions:

```
  "a list"  -- encode -->  [1, 0, 4, 3, 6, 7]  -- decode -->  "a list"
```

The class below is given. It is the table of contents: what all tokenizers share is here, and calls functions that you write. A subclass brings its list of tokens and a method `encode_plain`. Two things are worth a look:

- `tokens` holds **bytes**, not strings. You will see why.
- A **special token** is a mark for the network, such as `<|end|>`. It has an id, but a text in which a reader happened to type `<|end|>` must not end there. So marks are only looked for if `encode` is asked to.
"""


# %% nbgrader={"grade": false, "grade_id": "tokenizer-class", "locked": true, "solution": false}
#| export
class Tokenizer:
    """Text to token ids and back: what every tokenizer offers.

    A subclass gives its constructor's arguments by `settings` and encodes by `encode_plain`.
    `tokens[id]` is the bytes that an id stands for; special tokens come last.
    """

    def __init__(self, tokens: Iterable[bytes], special_tokens: Iterable[str] = ()):
        self.tokens = list(tokens)
        self.special_tokens = _checked_special_tokens(special_tokens)
        self.first_special = len(self.tokens)
        self.special_ids = {
            token: self.first_special + k for k, token in enumerate(self.special_tokens)
        }
        self.tokens += [token.encode() for token in self.special_tokens]

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        raise NotImplementedError(f"{type(self).__name__} needs a method settings(self)")

    def encode_plain(self, text: str) -> list[int]:
        """The ids of a text in which nothing is special."""
        raise NotImplementedError(f"{type(self).__name__} needs a method encode_plain(self, text)")

    def encode(self, text: str, parse_special: bool = False) -> list[int]:
        """The ids of a text; special tokens in it count as such if `parse_special`."""
        if not isinstance(text, str):
            raise TypeError(f"encode: expected a string, got {type(text).__name__}")
        if not parse_special:
            return self.encode_plain(text)
        ids: list[int] = []
        for part in split_special(text, self.special_tokens):
            special = self.special_ids.get(part)
            ids += self.encode_plain(part) if special is None else [special]
        return ids

    def encode_batch(self, texts: Iterable[str], parse_special: bool = False) -> list[list[int]]:
        """The ids of every text; `pad_sequences` makes a tensor of them."""
        if isinstance(texts, str):
            raise TypeError("encode_batch: expected several strings, got one: use encode")
        return [self.encode(text, parse_special) for text in texts]

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of a list, array or tensor of ids.

        Raises ValueError for an id that doesn't exist. Bytes that are no text become U+FFFD.
        """
        numbers = _checked_ids(ids, len(self.tokens))
        if skip_special_tokens:
            numbers = [number for number in numbers if number < self.first_special]
        return join_tokens(self.tokens, numbers)

    def decode_batch(self, rows: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """The text of every row of ids."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    @property
    def vocab_size(self) -> int:
        """The number of ids, special ones too."""
        return len(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        special = f", special_tokens={list(self.special_tokens)}" if self.special_tokens else ""
        return f"{type(self).__name__}(vocab_size={self.vocab_size}{special})"

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as a JSON file; an older file stays whole until the new one is."""
        content = {"tokenizer": type(self).__name__, **self.settings()}
        write_atomically(Path(path), (json.dumps(content) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> Any:
        """The tokenizer that `save` wrote; ValueError if the file is anything else."""
        settings = _read_settings(Path(path), cls.__name__)
        try:
            return cls(**settings)
        except TypeError as error:
            raise ValueError(f"load: {path} is damaged: {error}") from None


# %% nbgrader={"grade": false, "grade_id": "tokenizer-checks", "locked": true, "solution": false}
#| exporti
def _checked_special_tokens(special_tokens: Iterable[str]) -> tuple[str, ...]:
    """The special tokens as a tuple of different strings, none of them empty."""
    if isinstance(special_tokens, str):
        raise TypeError(f"special_tokens: expected a list of strings, got {special_tokens!r}")
    found = tuple(special_tokens)
    for token in found:
        if not isinstance(token, str) or not token:
            raise ValueError(f"special_tokens: expected strings that aren't empty, got {token!r}")
    if len(set(found)) < len(found):
        raise ValueError(f"special_tokens: each may come once, got {list(found)}")
    return found


def _checked_ids(ids: Any, vocab_size: int) -> list[int]:
    """Ids as Python integers; ValueError unless they are one row of ids that exist."""
    array = np.asarray(as_index(ids if isinstance(ids, Tensor) else np.asarray(ids)))
    if array.ndim > 1:
        raise ValueError(f"decode: expected one row of ids, got {array.shape}: use decode_batch")
    if array.dtype.kind not in "iu":
        raise TypeError(f"decode: expected whole numbers, got {array.dtype}")
    wrong = array[(array < 0) | (array >= vocab_size)]
    if wrong.size:
        raise ValueError(f"decode: id {wrong.flat[0]} is not among 0 to {vocab_size - 1}")
    return array.reshape(-1).tolist()


def _read_settings(path: Path, name: str) -> dict[str, Any]:
    """The constructor's arguments that a file holds for the class of that name."""
    try:
        content = json.loads(path.read_bytes())
        kind = content.pop("tokenizer")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"load: {path} was not written by a tokenizer's save") from None
    if kind != name:
        raise ValueError(f"load: {path} holds a {kind}, not a {name}: call {kind}.load")
    return content


# %% [markdown]
r"""
## One token, one character

**Exercise 1 (8 points).** Complete `CharTokenizer`, whose tokens are the characters of the string that it is given, sorted.

- `__init__` keeps `self.characters`, a string of the different characters in sorted order, and `self.ids`, a dict from character to id.
- `encode_plain` gives the ids. For a character without an id it gives the id of the special token `self.unknown`; without such a token it raises a `ValueError` that shows the character.

For example, `CharTokenizer("hello").characters` is `"ehlo"`, and `encode("hole")` is `[1, 3, 2, 0]`.
"""


# %% nbgrader={"grade": false, "grade_id": "char-tokenizer", "locked": false, "solution": true}
#| export
class CharTokenizer(Tokenizer):
    """A token for each character that comes in `characters` (any text), in sorted order.

    Others become the special token `unknown`, or raise ValueError if there is none.

    >>> tokenizer = CharTokenizer("hello", special_tokens=["<?>"], unknown="<?>")
    >>> tokenizer.encode("hole!"), tokenizer.decode([1, 3, 2, 0, 4])
    ([1, 3, 2, 0, 4], 'hole<?>')
    """

    def __init__(
        self, characters: Iterable[str], special_tokens: Iterable[str] = (), unknown: str = ""
    ):
        ### BEGIN SOLUTION
        self.characters = "".join(sorted(set("".join(characters))))
        self.ids = {character: number for number, character in enumerate(self.characters)}
        ### END SOLUTION
        super().__init__(map(_bytes_of, self.characters), special_tokens)
        if unknown and unknown not in self.special_tokens:
            raise ValueError(f"CharTokenizer: unknown={unknown!r} is none of the special tokens")
        self.unknown = unknown

    def settings(self) -> dict[str, Any]:
        special = {"special_tokens": list(self.special_tokens), "unknown": self.unknown}
        return {"characters": list(self.characters), **special}

    def encode_plain(self, text: str) -> list[int]:
        ### BEGIN SOLUTION
        try:
            return [self.ids[character] for character in text]
        except KeyError as error:
            if not self.unknown:
                raise ValueError(
                    f"CharTokenizer: {error.args[0]!r} is none of its {len(self.ids)} characters: "
                    "give it a special token as unknown=, or use BPETokenizer"
                ) from None
        unknown = self.special_ids[self.unknown]
        return [self.ids.get(character, unknown) for character in text]
        ### END SOLUTION


def _bytes_of(text: str) -> bytes:
    """A text as UTF-8, halves of surrogate pairs too."""
    return text.encode("utf-8", "surrogatepass")


# %% nbgrader={"grade": true, "grade_id": "test-char-tokenizer", "locked": true, "points": 8, "solution": false}
def test_char_tokenizer():
    tokenizer = CharTokenizer("hello")
    check(tokenizer.characters, "ehlo", "each character once, sorted")
    check(tokenizer.encode("hole"), [1, 3, 2, 0], "a character's id is its place in the list")
    with check_raises(ValueError, "'!'", "show the character that has no id"):
        tokenizer.encode("hello!")
    marked = CharTokenizer("hello", special_tokens=["<end>", "<?>"], unknown="<?>")
    check(marked.encode("hey!"), [1, 0, 5, 5], "an unknown character becomes the special token")
    ### BEGIN HIDDEN TESTS
    check(tokenizer.encode(""), [], "no text, no ids")
    check(CharTokenizer(["no", "on"]).characters, "no", "several texts, too")
    check(marked.vocab_size, 6, "4 characters and 2 special tokens")
    ### END HIDDEN TESTS


test_char_tokenizer()

# %% [markdown]
r"""
## Nothing is unknown to a byte

A computer has had to store every text in the world already, as **bytes**: numbers from 0 to 255. The usual way is UTF-8, in which a character takes one to four of them.

**Predict** how many bytes each of these takes, and how many all four together. Then run.
"""

# %%
for character in "aé漢𝄞":
    data = character.encode()
    print(f"{character}  code point {ord(character):7,}  bytes {list(data)}")
print("aé漢𝄞".encode())

# %% [markdown]
r"""
With 256 tokens, one for each byte, *every* text can be encoded, those in languages that the tokenizer's author never heard of too. There is a price: not every list of bytes is a text. `[240, 157]` is the first half of a clef. A network that writes one token after the other does produce such halves, and a program must not end because of it.

**Exercise 2 (7 points).** Write `join_tokens`: the bytes of all ids, joined, *then* read as UTF-8. Bytes that are no text become U+FFFD, the character that means "something was here": that is what `errors="replace"` does. With `tokens = [b"\xf0\x9d", b"\x84\x9e", b"!"]`, the ids `[0, 1, 2]` give a clef and an exclamation mark, and `[0, 2]` gives `"\ufffd!"`.

One case is left. A Python string may hold a *half of a surrogate pair*, which is no character at all: broken file names do. `errors="surrogatepass"` reads them back. So try that first, and `"replace"` if it raises `UnicodeDecodeError`.
"""


# %% nbgrader={"grade": false, "grade_id": "join-tokens", "locked": false, "solution": true}
#| exporti
def join_tokens(tokens: Sequence[bytes], ids: Iterable[int]) -> str:
    """The text that the bytes of these tokens are together; U+FFFD where they are none.

    >>> join_tokens([b"caf", bytes([195]), bytes([169])], [0, 1, 2])
    'café'
    """
    ### BEGIN SOLUTION
    data = b"".join([tokens[number] for number in ids])
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-join-tokens", "locked": true, "points": 7, "solution": false}
def test_join_tokens():
    halves = [b"\xf0\x9d", b"\x84\x9e", b"!"]
    check(join_tokens(halves, [0, 1, 2]), "𝄞!", "join the bytes first: a token may be half a clef")
    check(join_tokens(halves, [0, 2]), "\ufffd!", "half a clef is no text, and no error")
    tokenizer = CharTokenizer("hello")
    check(tokenizer.decode(tokenizer.encode("hole")), "hole", "decode undoes encode")
    ### BEGIN HIDDEN TESTS
    check(join_tokens(halves, []), "", "no ids, no text")
    check(join_tokens(["\ud83d".encode("utf-8", "surrogatepass")], [0]), "\ud83d", "a lone half")
    with check_raises(ValueError, "-1", "an id below 0 is no id, though Python could index it"):
        tokenizer.decode([-1])
    ### END HIDDEN TESTS


test_join_tokens()

# %% [markdown]
r"""
## Bytes that belong together

Bytes cure the first pain and make the second one worse: now even "漢" is three steps. The cure for that is an old one, from data compression (Gage 1994; for networks, Sennrich et al. 2016). Look for the pair of neighbours that comes most often, and give it an id of its own. Then again, and again; the pairs may be made of pairs.

```
  a a b d a a a b a c       the pair (a, a) comes most often, count it: it gets a new id, Z
  Z   b d Z   a b a c       now (a, b) and (Z, b) ... let us say (a, b) becomes Y
  Z   b d Z   Y   a c
```

Each step is a **merge**, and the list of merges *is* the tokenizer: ids 0 to 255 are the bytes, id 256 + k is the k-th merge. That is byte pair encoding, BPE.

**Exercise 3 (6 points).** Write `count_pairs`. It gets `words`, a dict from a tuple of ids to the number of times that this word comes in the text, and gives a `Counter` of pairs of neighbours. A word that comes 5 times counts all its pairs 5 times. For example, `{(1, 2, 2): 5, (1, 2): 1}` gives `{(1, 2): 6, (2, 2): 5}`.
"""


# %% nbgrader={"grade": false, "grade_id": "count-pairs", "locked": false, "solution": true}
def count_pairs(words: Mapping[tuple[int, ...], int]) -> Counter:
    """How often each pair of neighbours comes."""
    ### BEGIN SOLUTION
    counts: Counter = Counter()
    for word, times in words.items():
        for pair in pairwise(word):
            counts[pair] += times
    return counts
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-count-pairs", "locked": true, "points": 6, "solution": false}
def test_count_pairs():
    check(dict(count_pairs({(1, 2, 2): 5, (1, 2): 1})), {(1, 2): 6, (2, 2): 5}, "5 and 1, 5")
    check(dict(count_pairs({(7, 7, 7): 2})), {(7, 7): 4}, "three in a row are two pairs")
    ### BEGIN HIDDEN TESTS
    check(dict(count_pairs({(3,): 9, (): 1})), {}, "a word of one token has no pair")
    ### END HIDDEN TESTS


test_count_pairs()

# %% [markdown]
r"""
**Exercise 4 (8 points).** Write `merge_pair`: the word with `new` in the place of every `pair`, from left to right; no id is used twice. For example, `merge_pair((1, 1, 1, 2), (1, 1), 256)` is `(256, 1, 2)`.
"""


# %% nbgrader={"grade": false, "grade_id": "merge-pair", "locked": false, "solution": true}
def merge_pair(word: tuple[int, ...], pair: tuple[int, int], new: int) -> tuple[int, ...]:
    """The word with `new` wherever the pair stood."""
    ### BEGIN SOLUTION
    merged, place = [], 0
    while place < len(word):
        if word[place : place + 2] == pair:
            merged.append(new)
            place += 2
        else:
            merged.append(word[place])
            place += 1
    return tuple(merged)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-merge-pair", "locked": true, "points": 8, "solution": false}
def test_merge_pair():
    check(merge_pair((1, 1, 1, 2), (1, 1), 256), (256, 1, 2), "from the left, no id twice")
    check(merge_pair((1, 2, 3, 1, 2), (1, 2), 300), (300, 3, 300), "every place, the last one too")
    ### BEGIN HIDDEN TESTS
    check(merge_pair((2, 1, 1), (1, 2), 256), (2, 1, 1), "(2, 1) is another pair")
    check(merge_pair((1, 1, 1, 1), (1, 1), 256), (256, 256), "two pairs in a row")
    check(merge_pair((), (1, 1), 256), (), "an empty word stays empty")
    ### END HIDDEN TESTS


test_merge_pair()

# %% [markdown]
r"""
## What is a word?

If the whole text were one word, "dog." and "dog!" and "dog of the" would all become tokens of their own: the same dog, over and over. So a text is cut into **pieces** before, and no merge goes across a cut. GPT-2 cuts by a regular expression. A space belongs to the word *after* it, so that " dog" is one piece and nothing is lost:

```
  "I'll buy 12 dogs,  please."
   I |'ll| buy| 12| dogs|,| | please|.
```

| what | in words | in Python's `re` |
|---|---|---|
| endings | `'s 't 'd 'm 'll 've 're` | `'(?:[stdm]\|ll\|ve\|re)` |
| a word | maybe a space, then letters | a letter is `[^\W\d_]` |
| a number | maybe a space, then digits | |
| marks | maybe a space, then neither space, letter nor digit | `_` is a mark, though `\w` takes it for a letter |
| space | white space, without the last one if a word comes after it | `\s+(?!\S)` |
| the rest | white space | |

**Exercise 5 (9 points).** Write `split_pieces`: `re.findall` with the six lines of the table, joined by `|`, where an earlier one wins over a later one. Whatever you write, `"".join(split_pieces(text))` must be the text.

<details><summary>Hint</summary>

The flag `re.VERBOSE` lets a pattern have comments, and ignores spaces; a real space is written `[ ]`, and "maybe" is `?`. The pattern for marks has two parts: `(?:[^\s\w]|_)+`.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "split-pieces", "locked": false, "solution": true}
#| exporti
def split_pieces(text: str) -> list[str]:
    """A text in the pieces that merges don't cross: joined, they are the text.

    By GPT-2's pattern in the words of `re`, for which digits are decimal and "²" is a letter.

    >>> split_pieces("It's 12 dogs,  too.")
    ['It', "'s", ' 12', ' dogs', ',', ' ', ' too', '.']
    """
    ### BEGIN SOLUTION
    pattern = r"""
        '(?:[stdm]|ll|ve|re)  # the endings of I'm, don't, we've, ...
        | [ ]?[^\W\d_]+       # a word
        | [ ]?\d+             # a number
        | [ ]?(?:[^\s\w]|_)+  # marks
        | \s+(?!\S)           # white space; its last one may belong to what comes after
        | \s+                 # that last one, where it doesn't
    """
    return re.findall(pattern, text, re.VERBOSE)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-split-pieces", "locked": true, "points": 9, "solution": false}
def test_split_pieces():
    check(split_pieces("a dog, 2 dogs!"), ["a", " dog", ",", " 2", " dogs", "!"], "word by word")
    check(split_pieces("I'll"), ["I", "'ll"], "endings are pieces")
    check(split_pieces("x   y"), ["x", "  ", " y"], "the last space goes with the word")
    check(split_pieces("snake_case2"), ["snake", "_", "case", "2"], "_ is a mark, 2 a number")
    ### BEGIN HIDDEN TESTS
    check(split_pieces("a\n\n b\n"), ["a", "\n\n", " b", "\n"], "lines, and space at the end")
    check(split_pieces("a\tb"), ["a", "\t", "b"], "a tab is no space that goes with a word")
    check(split_pieces("don't they've"), ["don", "'t", " they", "'ve"], "short and long endings")
    check(split_pieces(" (é漢) ..."), [" (", "é漢", ")", " ..."], "letters of any language; marks")
    check(split_pieces(""), [], "nothing has no pieces")
    every = "".join(map(chr, range(0x3000)))
    check("".join(split_pieces(every)), every, "no character may get lost")
    ### END HIDDEN TESTS


test_split_pieces()

# %% [markdown]
r"""
Now you can train. The next cell does it as the idea says: count all pairs, merge the best one in all words, and again. Of pairs that come equally often it takes the smallest.

**Predict:** which pair of bytes in a handbook about Python comes first? Write down two letters.
"""


# %%
def train_slowly(words, count):
    merges = []
    for new in range(256, 256 + count):
        counts = count_pairs(words)
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        words = {merge_pair(word, best, new): times for word, times in words.items()}
        merges.append(best)
    return merges


def words_of(text):
    return Counter(piece.encode() for piece in split_pieces(text))


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


words = words_of(handbook[:20_000])
slow_words = {tuple(word): times for word, times in words.items()}
slow_merges = train_slowly(slow_words, 40)
tokens = [bytes([i]) for i in range(256)]
for left, right in slow_merges:
    tokens.append(tokens[left] + tokens[right])
print([token.decode() for token in tokens[256:]])

# %%
print(f"{'characters':>10} {'merges':>6} {'seconds':>8}")
for size, count in ((20_000, 20), (20_000, 40), (80_000, 20), (80_000, 40)):
    some = {tuple(word): times for word, times in words_of(handbook[:size]).items()}
    taken = seconds(lambda some=some, count=count: train_slowly(some, count))
    print(f"{size:10,} {count:6} {taken:8.2f}")

# %% [markdown]
r"""
Twice as many merges take twice as long, and more text takes longer, too. **Work out** from your own last row how long 50,000 merges on 100 MB would take. GPT-2's tokenizer has 50,000 merges, and it was learned from more than 100 MB.

What is all this time spent on? Each merge changes a few places, but every pair of every word is counted and every word rewritten. That is what to avoid: **touch only what changes.**

## A chain

First, two neighbours have to be joined without moving all that stands behind them. So every place knows its neighbours, and joining means to change what they know:

```
 place     0   1   2   3   4            join(1, 256)          0    1    2   3   4
 ids       a   b   c   d  GAP           -------------->       a   256  GAP  d  GAP
 after     1   2   3   4   0                                  1    3    .   4   0
 before   -1   0   1   2   3                                 -1    0    .   1   3
```

The id `GAP` stands where no token is. There is one behind the last token, and since Python's place -1 is the last one, the same gap is in front of the first token.

**Exercise 6 (8 points).** Write `join`: the token at `place` becomes `new`, its right neighbour's id becomes `GAP`, and the two that are neighbours now know each other.
"""


# %% nbgrader={"grade": false, "grade_id": "chain", "locked": false, "solution": true}
#| exporti
GAP = -1  # the id of no token


class Chain:
    """Token ids in a row; joining two neighbours takes the same time in a row of any length.

    >>> chain = Chain([7, 8, 9])
    >>> chain.join(0, 256)
    >>> chain.ids, chain.pair(0)
    ([256, -1, 9, -1], (256, 9))
    """

    def __init__(self, ids: Iterable[int]):
        self.ids = [*ids, GAP]  # this gap is in front of the first id, too: at place -1
        self.before = list(range(-1, len(self.ids) - 1))
        self.after = [*range(1, len(self.ids)), 0]

    def pair(self, place: int) -> tuple[int, int]:
        """The id at a place and the one after it."""
        return self.ids[place], self.ids[self.after[place]]

    def join(self, place: int, new: int) -> None:
        """Make one token, `new`, of the token at a place and the one after it."""
        ### BEGIN SOLUTION
        taken = self.after[place]
        following = self.after[taken]
        self.ids[place], self.ids[taken] = new, GAP
        self.after[place], self.before[following] = following, place
        ### END SOLUTION

    def tokens(self) -> list[int]:
        """The ids that are left."""
        return [number for number in self.ids if number != GAP]


# %% nbgrader={"grade": true, "grade_id": "test-chain", "locked": true, "points": 8, "solution": false}
def test_chain():
    chain = Chain([10, 11, 12, 13])
    chain.join(1, 256)
    check(chain.ids, [10, 256, GAP, 13, GAP], "the right one of the two leaves a gap")
    check(chain.pair(1), (256, 13), "the neighbour of place 1 is place 3 now")
    check(chain.before[3], 1, "and place 3 knows that, too")
    chain.join(0, 257)
    check(chain.tokens(), [257, 13], "a pair of a token and a pair")
    chain.join(0, 258)
    check(chain.pair(0), (258, GAP), "the end of the chain")
    ### BEGIN HIDDEN TESTS
    check(chain.before[4], 0, "the gap at the end knows its neighbour")
    check(chain.pair(-1), (GAP, 258), "the gap in front of the first")
    ### END HIDDEN TESTS


test_chain()

# %% [markdown]
r"""
Second, the counts. `PairTable` lays all words into one chain, with a gap after each, and keeps two dicts up to date: how often each pair comes, and at which places. `note` writes the pair at a place into both, `forget` strikes it out. Pairs with a gap don't count.

Here is what one merge changes. The pair is (b, c), the new id is Z:

```
   a   b   c   d                forget (a, b)  (b, c)  (c, d)
   a   Z       d                note   (a, Z)  (Z, d)
```

**Exercise 7 (12 points).** Write `join_everywhere(pair, new)`. For every place of the pair, from left to right: forget three pairs, join, note two. Give the set of all pairs that were noted or forgotten on the way; `note` and `forget` give the pair that they met.

- Take the places with `self.places.pop(pair)`, and sort them.
- In `a a a` the pair (a, a) has two places, and the second one is gone when you come to it. Look whether the pair is still there.
"""


# %% nbgrader={"grade": false, "grade_id": "pair-table", "locked": false, "solution": true}
#| exporti
class PairTable:
    """How often each pair of neighbours comes in some words, and where, while pairs are joined.

    `words` gives the number of times that each word comes.

    >>> table = PairTable({b"abc": 2, b"ab": 1})
    >>> table.counts[97, 98], table.places[97, 98]
    (3, {0, 4})
    """

    def __init__(self, words: Mapping[bytes, int]):
        self.chain = Chain(number for word in words for number in (*word, GAP))
        self.times = [times for word, times in words.items() for _ in range(len(word) + 1)]
        self.counts: Counter[tuple[int, int]] = Counter()
        self.places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for place in range(len(self.times)):
            self.note(place)

    def note(self, place: int) -> tuple[int, int]:
        """Count the pair at a place."""
        pair = self.chain.pair(place)
        if GAP not in pair:
            self.counts[pair] += self.times[place]
            self.places[pair].add(place)
        return pair

    def forget(self, place: int) -> tuple[int, int]:
        """Count the pair at a place no more."""
        pair = self.chain.pair(place)
        if GAP not in pair:
            self.counts[pair] -= self.times[place]
            self.places[pair].discard(place)
        return pair

    def join_everywhere(self, pair: tuple[int, int], new: int) -> set[tuple[int, int]]:
        """Make `new` of the pair wherever it is, and give the pairs whose counts have changed."""
        ### BEGIN SOLUTION
        changed = set()
        chain = self.chain
        for place in sorted(self.places.pop(pair)):
            if chain.pair(place) == pair:  # in "aaa", the second "aa" is gone by now
                for near in (chain.before[place], place, chain.after[place]):
                    changed.add(self.forget(near))
                chain.join(place, new)
                for near in (chain.before[place], place):
                    changed.add(self.note(near))
        return changed
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-pair-table", "locked": true, "points": 12, "solution": false}
def test_pair_table():
    a, b, c = b"abc"
    table = PairTable({b"abc": 2, b"ab": 1})
    changed = table.join_everywhere((a, b), 256)
    check(table.chain.tokens(), [256, c, 256], "both places are joined")
    check(table.counts[256, c], 2, "the new pair comes in the word that comes twice")
    check([table.counts[a, b], table.counts[b, c]], [0, 0], "the old pairs are gone")
    check({(b, c), (256, c)} <= changed, True, "both have changed")
    check(table.places[256, c], {0}, "the new pair's place")
    table = PairTable({b"aaaaa": 3})
    table.join_everywhere((a, a), 256)
    check(table.chain.tokens(), [256, 256, a], "from the left, no byte twice")
    check({pair: n for pair, n in table.counts.items() if n}, {(256, 256): 3, (256, a): 3}, "left")
    ### BEGIN HIDDEN TESTS
    table = PairTable({b"cabcab": 1})
    table.join_everywhere((a, b), 256)
    check(dict(+table.counts), {(256, c): 1, (c, 256): 2}, "left and right neighbours")
    check((c, a) in table.join_everywhere((c, 256), 257), False, "only what has changed")
    check(table.chain.tokens(), [257, 257], "merges of merges")
    ### END HIDDEN TESTS


test_pair_table()

# %% [markdown]
r"""
Third, the best pair has to be found without looking at all of them. A **heap** (`heapq`) gives its smallest element quickly, so put `(-count, pair)` in: the largest count first, and of equal counts the smallest pair. An element can't be changed while it is inside. So you leave the old one where it is, push a new one, and, when one comes out, look whether it is still true.

**Exercise 8 (8 points).** Write `train_merges`. Start with all pairs in the heap. Then, until there are `count` merges or the heap is empty: pop; skip it if the count is not `table.counts[pair]` any more; stop if it is below `min_frequency`; otherwise join the pair everywhere (the new id is 256 plus the number of merges so far), keep it, and push each changed pair with its new count.
"""


# %% nbgrader={"grade": false, "grade_id": "train-merges", "locked": false, "solution": true}
#| exporti
def train_merges(
    words: Mapping[bytes, int], count: int, min_frequency: int = 2
) -> list[tuple[int, int]]:
    """The first `count` merges of byte pair encoding: each time, the pair that comes most often.

    Of equally frequent pairs, the one with the smallest ids is taken. There are fewer merges where
    no pair comes `min_frequency` times any more.

    >>> train_merges({b"aab": 3, b"ab": 1}, count=2)
    [(97, 98), (97, 256)]
    """
    ### BEGIN SOLUTION
    table = PairTable(words)
    queue = [(-times, pair) for pair, times in table.counts.items()]
    heapq.heapify(queue)
    merges: list[tuple[int, int]] = []
    while queue and len(merges) < count:
        negative, pair = heapq.heappop(queue)
        if -negative != table.counts[pair]:
            continue  # this count is out of date; the true one is in the queue, too
        if -negative < min_frequency:
            break
        for changed in table.join_everywhere(pair, 256 + len(merges)):
            heapq.heappush(queue, (-table.counts[changed], changed))
        merges.append(pair)
    return merges
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-train-merges", "locked": true, "points": 8, "solution": false}
def test_train_merges():
    a, b = b"ab"
    check(
        train_merges({b"aab": 3, b"ab": 1}, 2), [(a, b), (a, 256)], "ab comes 4 times, aab 3 times"
    )
    check(train_merges({b"ab": 5, b"ba": 5}, 1), [(a, b)], "of equal counts, the smallest pair")
    check(train_merges({b"ab": 1}, 9), [], "once is not often")
    some = words_of(handbook[:1000])
    slow = train_slowly({tuple(word): times for word, times in some.items()}, 30)
    check(train_merges(some, 30), slow, "the same merges as the slow way gives")
    ### BEGIN HIDDEN TESTS
    check(train_merges({b"ab": 1}, 9, min_frequency=1), [(a, b)], "once is enough if you say so")
    check(
        train_merges({b"aaaaaaaa": 2}, 9), [(a, a), (256, 256), (257, 257)], "then nothing is left"
    )
    check(train_merges({}, 5), [], "no words, no merges")
    ### END HIDDEN TESTS


test_train_merges()

# %% [markdown]
r"""
**Predict:** how much faster is that, with 40 merges on 80,000 characters? And how long do 1,000 merges on the whole handbook take?
"""

# %%
words = words_of(handbook[:80_000])
slow_words = {tuple(word): times for word, times in words.items()}
slow = seconds(lambda: train_slowly(slow_words, 40))
fast = seconds(lambda: train_merges(words, 40))
print(f"40 merges on 80,000 characters: {slow:.2f} s slowly, {fast:.3f} s now: {slow / fast:.0f} x")
whole = seconds(lambda: train_merges(words_of(handbook), 1000))
print(f"1,000 merges on {len(handbook):,} characters: {whole:.2f} s")

# %% [markdown]
r"""
## Encoding

A new text has to be cut as the training would have cut it: into pieces, each piece into bytes, and then the merges **in the order in which they were learned**. Taking the longest token that fits would be simpler, and another tokenizer: with the merges `bc` and then `ab`, the piece `abc` is `a|bc`, since `bc` came first.

`ids_of` is a dict from a pair to the id that it becomes. Smaller ids were learned earlier. So: of all pairs in the chain that have an id, join the one with the smallest, and of equal ones the leftmost.

A piece is short as a rule; but somebody will paste a megabyte without a space, and looking at all pairs again after each join would be a million times a million looks. The heap helps once more: `(new id, place)`, and what comes out is only true if the pair at that place still becomes this id.

**Exercise 9 (12 points).** Write `encode_piece`. After a join two pairs are new: the one that ends at the place and the one that begins there. Push those that have an id.
"""


# %% nbgrader={"grade": false, "grade_id": "encode-piece", "locked": false, "solution": true}
#| exporti
def encode_piece(piece: bytes, ids_of: Mapping[tuple[int, int], int]) -> list[int]:
    """The ids of a piece: of the pairs that `ids_of` joins, the smallest new id comes first.

    >>> encode_piece(b"abcab", {(98, 99): 256, (97, 98): 257, (97, 256): 258})
    [258, 257]
    """
    ### BEGIN SOLUTION
    chain = Chain(piece)
    pairs = enumerate(pairwise(piece))
    queue = [(ids_of[pair], place) for place, pair in pairs if pair in ids_of]
    heapq.heapify(queue)
    while queue:
        new, place = heapq.heappop(queue)
        if ids_of.get(chain.pair(place)) != new:
            continue  # one of the two has been joined with its other neighbour
        chain.join(place, new)
        for near in (chain.before[place], place):
            following = ids_of.get(chain.pair(near))
            if following is not None:
                heapq.heappush(queue, (following, near))
    return chain.tokens()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-encode-piece", "locked": true, "points": 12, "solution": false}
def test_encode_piece():
    a, b, c = b"abc"
    ids_of = {(b, c): 256, (a, b): 257, (a, 256): 258}
    check(encode_piece(b"ab", ids_of), [257], "one pair")
    check(encode_piece(b"abc", {(b, c): 256, (a, b): 257}), [a, 256], "bc was learned first")
    check(encode_piece(b"abcab", ids_of), [258, 257], "a pair of a byte and a pair")
    check(encode_piece(b"aaa", {(a, a): 256}), [256, a], "of equal ones the leftmost")
    ### BEGIN HIDDEN TESTS
    check(encode_piece(b"cba", ids_of), [c, b, a], "nothing to join")
    check(encode_piece(b"", ids_of), [], "an empty piece")
    check(
        encode_piece(b"aaaaaaa", {(a, a): 256, (256, 256): 257}), [257, 256, a], "again and again"
    )
    check(encode_piece(b"abbc", {(a, b): 256, (256, b): 257, (b, c): 258}), [257, c], "in order")
    check(len(encode_piece(b"ab" * 5_000, ids_of)), 5_000, "a long piece takes a moment, no hours")
    ### END HIDDEN TESTS


test_encode_piece()

# %% [markdown]
r"""
Marks come last. **Exercise 10 (5 points).** Write `split_special`: a text cut at its special tokens, which are parts themselves; empty parts are left out. `split_special("a<|end|>b", ["<|end|>"])` gives `["a", "<|end|>", "b"]`. Where two could begin at the same place, the longer one wins.

<details><summary>Hint</summary>

`re.split` keeps what it splits at if the pattern is a group: `(one|two)`. Which function makes `<|end|>` harmless as a part of a pattern? Alternatives are tried from left to right.

</details>
"""


# %% nbgrader={"grade": false, "grade_id": "split-special", "locked": false, "solution": true}
#| exporti
def split_special(text: str, special_tokens: Iterable[str]) -> list[str]:
    """A text in parts that are either a special token or hold none.

    >>> split_special("one<|end|>two", ["<|end|>"])
    ['one', '<|end|>', 'two']
    """
    ### BEGIN SOLUTION
    longest_first = sorted(special_tokens, key=len, reverse=True)
    if not longest_first:
        return [text] if text else []
    pattern = "|".join(map(re.escape, longest_first))
    return [part for part in re.split(f"({pattern})", text) if part]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-split-special", "locked": true, "points": 5, "solution": false}
def test_split_special():
    check(split_special("a<|end|>b", ["<|end|>"]), ["a", "<|end|>", "b"], "the mark is a part")
    check(split_special("<|end|>", ["<|end|>"]), ["<|end|>"], "no empty parts")
    check(split_special("a|b", []), ["a|b"], "without marks the text stays whole")
    ### BEGIN HIDDEN TESTS
    check(split_special("<a><ab", ["<a", "<ab"]), ["<a", ">", "<ab"], "the longer one wins")
    check(split_special("", ["x"]), [], "nothing has no parts")
    ### END HIDDEN TESTS


test_split_special()

# %% [markdown]
r"""
The class itself is given: it puts your functions together, and refuses merges that can't be. It also remembers the pieces that it has seen. Think of " the": how often does it come in a book?
"""


# %% nbgrader={"grade": false, "grade_id": "bpe-tokenizer", "locked": true, "solution": false}
#| export
class BPETokenizer(Tokenizer):
    """Byte pair encoding on UTF-8, as in GPT-2: it encodes every string, and decodes it again.

    Ids 0 to 255 are the bytes, id 256 + k is the k-th of `merges` (pairs of ids), special tokens
    come last. ValueError for a merge of ids that aren't there yet, or one that comes twice.

    >>> tokenizer = BPETokenizer.train("the theme", vocab_size=259, special_tokens=["<end>"])
    >>> tokenizer.encode(" the hat<end>", parse_special=True), tokenizer.tokens[257]
    ([32, 257, 32, 104, 97, 116, 258], b'the')
    >>> tokenizer.decode(tokenizer.encode("naïve 𝄞"))
    'naïve 𝄞'
    """

    _REMEMBERED = 65_536  # pieces; beyond that, new ones are worked out each time

    def __init__(self, merges: Iterable[Sequence[int]] = (), special_tokens: Iterable[str] = ()):
        tokens = [bytes([number]) for number in range(256)]
        self.ids_of: dict[tuple[int, int], int] = {}
        for left, right in merges:
            if not (0 <= left < len(tokens) and 0 <= right < len(tokens)):
                raise ValueError(f"merge {left} {right}: only ids below {len(tokens)} exist there")
            if (left, right) in self.ids_of:
                raise ValueError(f"merge {left} {right}: it comes twice")
            self.ids_of[left, right] = len(tokens)
            tokens.append(tokens[left] + tokens[right])
        super().__init__(tokens, special_tokens)
        self._ids_of_piece: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str],
        vocab_size: int,
        special_tokens: Iterable[str] = (),
        min_frequency: int = 2,
    ) -> BPETokenizer:
        """Learn merges from a text, or from several, until there are `vocab_size` tokens.

        There are fewer where no pair comes `min_frequency` times. Special tokens in the texts
        separate them.
        """
        special_tokens = _checked_special_tokens(special_tokens)
        count = vocab_size - 256 - len(special_tokens)
        if count < 0 or min_frequency < 1:
            raise ValueError(
                f"train: expected vocab_size of at least {256 + len(special_tokens)} (the bytes, "
                f"the special tokens) and min_frequency of at least 1, got {vocab_size} and "
                f"{min_frequency}"
            )
        pieces: Counter[str] = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            for part in split_special(text, special_tokens):
                pieces.update(split_pieces(part) if part not in special_tokens else [])
        words = {_bytes_of(piece): times for piece, times in pieces.items()}
        return cls(train_merges(words, count, min_frequency), special_tokens)

    @property
    def merges(self) -> list[tuple[int, int]]:
        """The pairs of ids that were joined, in the order in which they were learned."""
        return list(self.ids_of)

    def settings(self) -> dict[str, Any]:
        return {"merges": self.merges, "special_tokens": list(self.special_tokens)}

    def encode_plain(self, text: str) -> list[int]:
        known, ids = self._ids_of_piece, []
        for piece in split_pieces(text):
            found = known.get(piece)
            if found is None:
                found = encode_piece(_bytes_of(piece), self.ids_of)
                if len(known) < self._REMEMBERED and len(piece) < 64:
                    known[piece] = found
            ids += found
        return ids


# %% [markdown]
r"""
**Predict** into how many tokens each of these is cut by a tokenizer that has read the handbook: about Python, in English, with 1,000 merges. Which of them costs most for what it says?
"""

# %%
bpe = BPETokenizer.train(handbook, vocab_size=1257, special_tokens=["<|end|>"])
for text in (
    "the function returns a list",
    "colourless green ideas",
    "for i in range(10):",
    "smörgåsbord",
    "我喜欢猫",
    "𝄞",
):
    ids = bpe.encode(text)
    pieces = "|".join(bpe.tokens[number].decode(errors="replace") for number in ids)
    print(f"{len(text):3} characters, {len(ids):2} tokens  {pieces}")
    assert bpe.decode(ids) == text

# %% [markdown]
r"""
What the training text didn't hold is cut into crumbs, and still comes back whole. People who write in a language that a tokenizer's author forgot pay for that with every request.

## A batch of texts

Texts differ in length, a tensor's rows don't. So short rows are filled up, and a **mask** says what is real.

**Exercise 11 (5 points).** Write `pad_sequences`: rows of ids to `(N, T)` of `int64`, filled with `padding` behind the text, and a `(N, T)` mask of bool, True where a real id is. `T` is the longest row's length, or `length`; a row that is longer than that raises a `ValueError`. For example, `[[5, 6], [7]]` with padding 0 gives `[[5, 6], [7, 0]]` and `[[True, True], [True, False]]`.
"""


# %% nbgrader={"grade": false, "grade_id": "pad-sequences", "locked": false, "solution": true}
#| export
def pad_sequences(
    rows: Sequence[Sequence[int]], padding: int = 0, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Ids (N, T) of int64, filled up with `padding`, and the mask (N, T) of what is real.

    T is `length`, or the longest row's; ValueError names a row that is longer than `length`.

    >>> ids, mask = pad_sequences([[5, 6], [7]])
    >>> ids.tolist(), mask.tolist()
    ([[5, 6], [7, 0]], [[True, True], [True, False]])
    """
    ### BEGIN SOLUTION
    lengths = [len(row) for row in rows]
    if length is None:
        length = max(lengths, default=0)
    ids = np.full((len(rows), length), padding, np.int64)
    for n, row in enumerate(rows):
        if lengths[n] > length:
            raise ValueError(f"pad_sequences: row {n} has {lengths[n]} ids, more than {length}")
        ids[n, : lengths[n]] = row
    mask = np.arange(length) < np.array(lengths, np.int64).reshape(-1, 1)
    return Tensor(ids), Tensor(mask)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "test-pad-sequences", "locked": true, "points": 5, "solution": false}
def test_pad_sequences():
    ids, mask = pad_sequences([[5, 6], [7]])
    check(ids, np.array([[5, 6], [7, 0]]), "filled up behind the text, whole numbers")
    check(mask, [[True, True], [True, False]], "True where a real id is")
    ids, mask = pad_sequences([[0], []], padding=9, length=2)
    check(ids, [[0, 9], [9, 9]], "up to the length that was asked for")
    check(mask, [[True, False], [False, False]], "an id that is 0 is real nevertheless")
    with check_raises(ValueError, "row 1", "nothing is cut off in silence"):
        pad_sequences([[1], [1, 2, 3]], length=2)
    ### BEGIN HIDDEN TESTS
    check(pad_sequences([])[0].shape, (0, 0), "no rows")
    check(pad_sequences([[3]], padding=3)[1], [[True]], "the mask doesn't look at the padding")
    ### END HIDDEN TESTS


test_pad_sequences()

# %% [markdown]
r"""
## Put together: from a book to a batch

A tokenizer is learned once, saved, and used for as long as the network lives: with another one, the network's numbers mean nothing. Here the handbook's topics become a batch, by a tokenizer that comes from a file.
"""

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "tokenizer.json"
    bpe.save(path)
    print(f"{path.stat().st_size:,} bytes on disk")
    copied = BPETokenizer.load(path)
some_topics = [text.strip()[:200] + "<|end|>" for text in list(topics.values())[:4]]
ids, mask = pad_sequences(copied.encode_batch(some_topics, parse_special=True))
print(copied, "gives a batch of", ids.shape, f"{mask.numpy().mean():.0%} of it real")
print(copied.decode(ids[0][mask[0]])[-60:])

# %% [markdown]
r"""
How many merges are enough? Each one makes texts shorter, and the network's table of tokens longer. **Predict** the shape of the curve: characters for each token against the number of merges, on a part of the handbook that wasn't used for training. Straight, bending down, bending up?
"""

# %%
from tqdm import tqdm

training, other = handbook[:300_000], handbook[300_000:]
all_merges = BPETokenizer.train(training, vocab_size=256 + 4000).merges
sizes, characters = [0, 30, 100, 300, 1000, 2000, 4000], []
for size in tqdm(sizes, disable=None):
    characters.append(len(other) / len(BPETokenizer(all_merges[:size]).encode(other)))
for size, value in zip(sizes, characters, strict=True):
    print(f"{size:5} merges: {value:.2f} characters a token")

# %%
if plt:
    plt.plot(sizes, characters, "ko-")
    plt.title("What merges are worth, on text that they were not learned from")
    plt.xlabel("merges")
    plt.ylabel("characters a token")
    plt.show()

# %% [markdown]
r"""
The first merges are worth most, and the curve flattens: by then the tokens are whole words, and rarer and rarer ones.

## Systems: what encoding costs

Two questions. Does encoding take longer for each character when the text is longer? And what if it is all one piece?
"""

# %%
fresh = BPETokenizer(bpe.merges)
print(f"{'text':>12} {'characters':>10} {'tokens':>8} {'us a character':>15} {'pieces known':>13}")
for size in (1_000, 10_000, 100_000, 460_000):
    fresh._ids_of_piece.clear()
    taken = seconds(lambda size=size: fresh.encode(handbook[:size]))
    count = len(fresh.encode(handbook[:size]))
    known = len(fresh._ids_of_piece)
    print(f"{'handbook':>12} {size:10,} {count:8,} {1e6 * taken / size:15.2f} {known:13,}")
letters = "".join(filter(str.isalpha, handbook))
for size in (1_000, 10_000, 100_000):
    taken = seconds(lambda size=size: fresh.encode(letters[:size]))
    count = len(fresh.encode(letters[:size]))
    print(f"{'one piece':>12} {size:10,} {count:8,} {1e6 * taken / size:15.2f} {'none':>13}")

# %% [markdown]
r"""
Longer books are *cheaper* for each character: most pieces have been seen before. Without spaces nothing can be remembered, and yet the time for a character hardly grows: that is what the chain and the heap are for.

The tokenizers of real language models do the same in Rust, on many cores: the library `tokenizers` with `models.BPE`, and `tiktoken`. PyTorch itself has none. Theirs has the same merges, so it gives the same ids as yours.

## Questions

**1 (4 points).** A network's table holds 768 numbers of 4 bytes for each token. How many bytes are that for 256, 1,256 and 50,257 tokens? A text of 1,000,000 characters has 1,000,000 tokens in the first case, 400,000 in the second and 230,000 in the third. If the time for a token were the same in all of them, what would the table's growth from the second to the third buy?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-table", "points": 4, "solution": true}
r"""
3,072 bytes a token: 786,432 bytes, 3,858,432 bytes (3.9 MB), 154,389,504 bytes (154 MB). From the second to the third the table grows by 150.5 MB, 40 times as large, and the text shrinks from 400,000 to 230,000 steps: 42.5 % of the time, or 1.74 times as fast.
"""

# %% [markdown]
r"""
**2 (4 points).** The merges are, in this order: `t h`, `th e`, `i n`, `in g`. Into which tokens are "thing", "then" and "tint" cut? Which tokens would "thing" have, if `h i` had been learned before all of them?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-merges", "points": 4, "solution": true}
r"""
"thing": `th|i|n|g`, then `th|in|g`, then `th|ing`. "then": `the|n`. "tint": `t|in|t`. With `h i` first: `t|hi|n|g`, and nothing else fits, since `t h` and `i n` have lost their letters: 4 tokens instead of 2.
"""

# %% [markdown]
r"""
**3 (4 points).** A text has 1,000,000 bytes in 200,000 pieces, 25,000 of them different, with 8 bytes each on average. Counting all pairs takes 0.1 microseconds for each. How long do 1,000 merges take (a) if every merge counts the whole text, (b) if it counts each different piece once? (c) The first 1,000 merges join 120,000 places in the different pieces, at 3 microseconds a place: how long is that?
"""

# %% [markdown] nbgrader={"grade": true, "grade_id": "answer-time", "points": 4, "solution": true}
r"""
(a) The pieces have about 1,000,000 - 200,000 = 800,000 pairs: 0.08 s for a merge, 80 s for 1,000 (a little less, since texts shrink). (b) 25,000 · 7 = 175,000 pairs: 0.0175 s a merge, 17.5 s. (c) 0.36 s, and it doesn't depend on the number of merges but on what they change.
"""

# %% [markdown]
r"""
## All tests once more
"""


# %%
def test_module():
    for test in (test_char_tokenizer, test_join_tokens, test_count_pairs, test_merge_pair):
        test()
    for test in (test_split_pieces, test_chain, test_pair_table, test_train_merges):
        test()
    for test in (test_encode_piece, test_split_special, test_pad_sequences):
        test()
    print("All tests of module 10 pass.")


test_module()

# %% [markdown]
r"""
**What works now:** every text in the world becomes a list of numbers, and that list becomes the text again.
You trained a tokenizer the slow way and the fast way, and they agree on every merge.
You saw that order matters in encoding, and what a text pays that the tokenizer has never seen.
You can make a batch of texts of different lengths, with a mask that says what is real.
**Next:** numbers that mean something, instead of numbers that count: `tito module start 11`.
"""

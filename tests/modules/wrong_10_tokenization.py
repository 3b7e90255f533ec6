"""Wrong solutions of module 10, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "char-tokenizer",
        "characters in the order in which they come",
        change=('sorted(set("".join(characters)))', 'dict.fromkeys("".join(characters))'),
        loses=["test-char-tokenizer"],
    ),
    Wrong(
        "char-tokenizer",
        "unknown characters left out in silence",
        change=(
            "[self.ids.get(character, unknown) for character in text]",
            "[self.ids[character] for character in text if character in self.ids]",
        ),
        loses=["test-char-tokenizer"],
    ),
    Wrong(
        "char-tokenizer",
        "code points in place of ids",
        change=("[self.ids[character] for character in text]", "[ord(c) for c in text]"),
        loses=["test-char-tokenizer"],
    ),
    Wrong(
        "join-tokens",
        "reads every token by itself",
        'return "".join(tokens[number].decode("utf-8", "replace") for number in ids)',
        loses=["test-join-tokens"],
    ),
    Wrong(
        "join-tokens",
        "bytes that are no text raise",
        change=('return data.decode("utf-8", "replace")', "raise"),
        loses=["test-join-tokens"],
    ),
    Wrong(
        "join-tokens",
        "bytes that are no text disappear",
        change=('"utf-8", "replace"', '"utf-8", "ignore"'),
        loses=["test-join-tokens"],
    ),
    Wrong(
        "join-tokens",
        "halves of surrogate pairs get lost",
        change=('"utf-8", "surrogatepass"', '"utf-8", "strict"'),
        loses=["test-join-tokens"],
    ),
    Wrong(
        "count-pairs",
        "counts a word once however often it comes",
        change=("+= times", "+= 1"),
        loses=["test-count-pairs"],
    ),
    Wrong(
        "count-pairs",
        "forgets that pairs overlap",
        change=("pairwise(word)", "zip(word[::2], word[1::2])"),
        loses=["test-count-pairs"],
    ),
    Wrong(
        "merge-pair",
        "uses an id twice",
        change=("place += 2", "place += 1"),
        loses=["test-merge-pair"],
    ),
    Wrong(
        "merge-pair",
        "finds the pair backwards, too",
        change=("== pair", "in (pair, pair[::-1])"),
        loses=["test-merge-pair"],
    ),
    Wrong(
        "merge-pair",
        "stops in front of the last id",
        change=("while place < len(word):", "while place < len(word) - 1:"),
        loses=["test-merge-pair"],
    ),
    Wrong(
        "split-pieces",
        "cuts at white space and throws it away",
        "return text.split()",
        loses=["test-split-pieces"],
    ),
    Wrong(
        "split-pieces",
        "a space is a piece of its own",
        change=("| [ ]?[^\\W\\d_]+", "| [^\\W\\d_]+"),
        loses=["test-split-pieces"],
    ),
    Wrong(
        "split-pieces",
        "the underscore gets lost",
        change=("(?:[^\\s\\w]|_)+", "[^\\s\\w]+"),
        loses=["test-split-pieces"],
    ),
    Wrong(
        "split-pieces",
        "letters of English alone",
        change=("[^\\W\\d_]+", "[a-zA-Z]+"),
        loses=["test-split-pieces"],
    ),
    Wrong(
        "split-pieces",
        "white space takes the next word's space along",
        change=("| \\s+(?!\\S) ", "| \\s+ "),
        loses=["test-split-pieces"],
    ),
    Wrong(
        "split-pieces",
        "any white space may begin a word",
        change=("| [ ]?[^\\W\\d_]+", "| \\s?[^\\W\\d_]+"),
        loses=["test-split-pieces"],
    ),
    Wrong(
        "split-pieces",
        "forgets the long endings",
        change=("'(?:[stdm]|ll|ve|re)", "'[stdm]"),
        loses=["test-split-pieces"],
    ),
    Wrong(
        "chain",
        "forgets that the next token has to know its neighbour",
        change=(
            "self.after[place], self.before[following] = following, place",
            "self.after[place] = following",
        ),
        loses=["test-chain"],
    ),
    Wrong(
        "chain",
        "takes the next place for the next token",
        change=("taken = self.after[place]", "taken = place + 1"),
        loses=["test-chain"],
    ),
    Wrong(
        "chain",
        "leaves the right one where it was",
        change=("self.ids[place], self.ids[taken] = new, GAP", "self.ids[place] = new"),
        loses=["test-chain"],
    ),
    Wrong(
        "pair-table",
        "joins what is gone",
        change=("if chain.pair(place) == pair:", "if True:"),
        loses=["test-pair-table"],
    ),
    Wrong(
        "pair-table",
        "forgets the joined pair alone",
        change=("(chain.before[place], place, chain.after[place])", "(place,)"),
        loses=["test-pair-table"],
    ),
    Wrong(
        "pair-table",
        "notes no new neighbour on the left",
        change=("for near in (chain.before[place], place):", "for near in (place,):"),
        loses=["test-pair-table"],
    ),
    Wrong(
        "pair-table",
        "gives all pairs, changed or not",
        change=("return changed", "return set(self.counts)"),
        loses=["test-pair-table"],
    ),
    Wrong(
        "pair-table",
        "from right to left",
        change=("sorted(self.places.pop(pair))", "sorted(self.places.pop(pair), reverse=True)"),
        loses=["test-pair-table"],
    ),
    Wrong(
        "train-merges",
        "believes counts that are out of date",
        change=("-negative != table.counts[pair]", "False"),
        loses=["test-train-merges"],
    ),
    Wrong(
        "train-merges",
        "pushes no changed pairs",
        change=("heapq.heappush(queue, (-table.counts[changed], changed))", "pass"),
        loses=["test-train-merges"],
    ),
    Wrong(
        "train-merges",
        "learns pairs that come once",
        change=("if -negative < min_frequency:", "if False:"),
        loses=["test-train-merges"],
    ),
    Wrong(
        "train-merges",
        "the rarest pair first",
        change=("(-times, pair) for pair, times", "(times, pair) for pair, times"),
        loses=["test-train-merges"],
    ),
    Wrong(
        "encode-piece",
        "the longest token first",
        """tokens = {bytes([number]): number for number in range(256)}
names = {number: token for token, number in tokens.items()}
for (left, right), new in ids_of.items():
    names[new] = names[left] + names[right]
    tokens[names[new]] = new
ids = []
while piece:
    size = max(size for size in range(1, len(piece) + 1) if piece[:size] in tokens)
    ids.append(tokens[piece[:size]])
    piece = piece[size:]
return ids""",
        loses=["test-encode-piece"],
    ),
    Wrong(
        "encode-piece",
        "from left to right, whatever was learned first",
        """ids = []
for number in piece:
    ids.append(number)
    while tuple(ids[-2:]) in ids_of:
        ids[-2:] = [ids_of[tuple(ids[-2:])]]
return ids""",
        loses=["test-encode-piece"],
    ),
    Wrong(
        "encode-piece",
        "joins although a part is gone",
        change=("if ids_of.get(chain.pair(place)) != new:", "if chain.ids[place] < 0:"),
        loses=["test-encode-piece"],
    ),
    Wrong(
        "encode-piece",
        "no merges of merges",
        change=("if following is not None:", "if False:"),
        loses=["test-encode-piece"],
    ),
    Wrong(
        "encode-piece",
        "looks at the right neighbour alone",
        change=("for near in (chain.before[place], place):", "for near in (place,):"),
        loses=["test-encode-piece"],
    ),
    Wrong(
        "split-special",
        "takes a mark for a pattern",
        change=("map(re.escape, longest_first)", "longest_first"),
        loses=["test-split-special"],
    ),
    Wrong(
        "split-special",
        "throws the marks away",
        change=('f"({pattern})"', "pattern"),
        loses=["test-split-special"],
    ),
    Wrong(
        "split-special",
        "the first mark wins, not the longer one",
        change=("sorted(special_tokens, key=len, reverse=True)", "list(special_tokens)"),
        loses=["test-split-special"],
    ),
    Wrong(
        "split-special",
        "keeps empty parts",
        change=("text) if part]", "text)]"),
        loses=["test-split-special"],
    ),
    Wrong(
        "pad-sequences",
        "fills up in front",
        change=("ids[n, : lengths[n]] = row", "ids[n, length - lengths[n] :] = row"),
        loses=["test-pad-sequences"],
    ),
    Wrong(
        "pad-sequences",
        "takes every id that equals the padding for no id",
        change=("Tensor(ids), Tensor(mask)", "Tensor(ids), Tensor(ids != padding)"),
        loses=["test-pad-sequences"],
    ),
    Wrong(
        "pad-sequences",
        "cuts long rows off",
        change=(
            "for n, row in enumerate(rows):",
            "for n, row in enumerate(row[:length] for row in rows):\n"
            "        lengths[n] = min(lengths[n], length)",
        ),
        loses=["test-pad-sequences"],
    ),
    Wrong(
        "pad-sequences",
        "fills up with 0 whatever was asked",
        change=(
            "np.full((len(rows), length), padding, np.int64)",
            "np.zeros((len(rows), length), np.int64)",
        ),
        loses=["test-pad-sequences"],
    ),
]

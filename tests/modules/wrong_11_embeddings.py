"""Wrong solutions of module 11, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "checked-ids",
        "lets NumPy count from the end",
        change=("found.min() >= 0", "found.min() >= -count"),
        loses=["test-checked-ids"],
    ),
    Wrong(
        "checked-ids",
        "one id too many",
        change=("found.max() < count", "found.max() <= count"),
        loses=["test-checked-ids"],
    ),
    Wrong(
        "checked-ids",
        "cuts fractions off",
        change=("np.asarray(as_index(np.asarray(ids)))", "np.asarray(ids).astype(np.int64)"),
        loses=["test-checked-ids"],
    ),
    Wrong(
        "checked-ids",
        "the smallest of no ids",
        change=("if found.size and not", "if not"),
        loses=["test-checked-ids"],
    ),
    Wrong(
        "checked-ids",
        "keeps small integers",
        change=("found.astype(np.int64, copy=False)", "found"),
        loses=["test-checked-ids"],
    ),
    Wrong(
        "scatter-rows",
        "the last row of an id wins",
        "out = np.zeros((count, rows.shape[-1]), rows.dtype)\nout[ids] += rows\nreturn out",
        loses=["test-scatter-rows"],
    ),
    Wrong(
        "scatter-rows",
        "a table of float32, whatever the rows are",
        change=("np.zeros((count, size), rows.dtype)", "np.zeros((count, size), np.float32)"),
        loses=["test-scatter-rows"],
    ),
    Wrong(
        "scatter-rows",
        "places as if every row had two numbers",
        change=("ids.reshape(-1, 1) * size", "ids.reshape(-1, 1) * 2"),
        loses=["test-scatter-rows"],
    ),
    Wrong(
        "embedding",
        "takes ids as they are",
        "return weight[np.asarray(ids)]",
        loses=["test-embedding"],
    ),
    Wrong(
        "embedding",
        "takes columns",
        change=("weight[checked_ids(ids, len(weight))]", "weight.T[checked_ids(ids, len(weight))]"),
        loses=["test-embedding"],
    ),
    Wrong(
        "embedding-rule",
        "padding learns, too",
        change=("if padding_idx is not None:", "if False:"),
        loses=["test-embedding-rule", "test-embedding-layer"],
    ),
    Wrong(
        "embedding-rule",
        "takes padding 0 for no padding",
        change=("if padding_idx is not None:", "if padding_idx:"),
        loses=["test-embedding-rule"],
    ),
    Wrong(
        "embedding-rule",
        "everything but padding stands still",
        change=("!= padding_idx", "== padding_idx"),
        loses=["test-embedding-rule"],
    ),
    Wrong(
        "embedding-rule",
        "each row learns from its first place alone",
        """places = np.unique(ids, return_index=True)[1]
keep = np.isin(np.arange(np.size(ids)), places).reshape(np.shape(ids))
return scatter_rows(g * keep[..., None], ids, count=weight.shape[0])""",
        loses=["test-embedding-rule"],
    ),
    Wrong(
        "embedding-layer",
        "numbers that are never negative",
        change=(
            "randn(num_embeddings, embedding_dim)",
            "abs(randn(num_embeddings, embedding_dim))",
        ),
        loses=["test-embedding-layer"],
    ),
    Wrong(
        "embedding-layer",
        "the padding starts anywhere",
        change=("weight[padding_idx] = 0", "pass"),
        loses=["test-embedding-layer"],
    ),
    Wrong(
        "embedding-layer",
        "a negative padding stays negative",
        change=("padding_idx % num_embeddings", "padding_idx"),
        loses=["test-embedding-layer"],
    ),
    Wrong(
        "embedding-layer",
        "padding 0 starts anywhere",
        change=("if padding_idx is not None:", "if padding_idx:"),
        loses=["test-embedding-layer"],
    ),
    Wrong(
        "rows-at",
        "always from the first position",
        change=("return table[start:end]", "return table[: end - start]"),
        loses=["test-rows-at", "test-rotary-positions", "test-first-layer"],
    ),
    Wrong(
        "rows-at",
        "gives as many rows as there are",
        change=("end > len(table)", "False"),
        loses=["test-rows-at"],
    ),
    Wrong(
        "rows-at",
        "counts from the end",
        change=("start < 0 or", ""),
        loses=["test-rows-at"],
    ),
    Wrong(
        "rows-at",
        "takes the batch for the text",
        change=("x.shape[-2]", "x.shape[0]"),
        loses=["test-rows-at"],
    ),
    Wrong(
        "sinusoidal-positions",
        "all sines first, then all cosines",
        change=("axis=-1)  # (T, D / 2, 2)", "axis=1)"),
        loses=["test-sinusoidal-positions"],
    ),
    Wrong(
        "sinusoidal-positions",
        "cosines in the even columns",
        change=("[np.sin(angles), np.cos(angles)]", "[np.cos(angles), np.sin(angles)]"),
        loses=["test-sinusoidal-positions"],
    ),
    Wrong(
        "sinusoidal-positions",
        "every hand turns half as fast",
        change=("np.arange(length)[:, None]", "np.arange(length)[:, None] / 2"),
        loses=["test-sinusoidal-positions"],
    ),
    Wrong(
        "sinusoidal-positions",
        "hands that turn faster and faster",
        change=("(-np.arange(count) / count)", "(np.arange(count) / count)"),
        loses=["test-sinusoidal-positions"],
    ),
    Wrong(
        "sinusoidal-positions",
        "the same base for every odd size",
        change=("base ** (2 * pairs / dim)", "base"),
        loses=["test-sinusoidal-positions"],
    ),
    Wrong(
        "sinusoidal-positions",
        "ignores the base",
        change=("base ** (2 * pairs / dim)", "10_000.0 ** (2 * pairs / dim)"),
        loses=["test-sinusoidal-positions"],
    ),
    Wrong(
        "rotate-pairs",
        "turns the other way",
        change=(
            "[first * cos - second * sin, second * cos + first * sin]",
            "[first * cos + second * sin, second * cos - first * sin]",
        ),
        loses=["test-rotate-pairs"],
    ),
    Wrong(
        "rotate-pairs",
        "no minus",
        change=("first * cos - second * sin", "first * cos + second * sin"),
        loses=["test-rotate-pairs"],
    ),
    Wrong(
        "rotate-pairs",
        "neighbours are pairs",
        change=("first, second = halves(x)", "first, second = x[..., ::2], x[..., 1::2]"),
        loses=["test-rotate-pairs"],
    ),
    Wrong(
        "rotate-pairs",
        "the gradient is turned on",
        change=("rotate_pairs(g, cos, -sin)", "rotate_pairs(g, cos, sin)"),
        loses=["test-rotate-pairs"],
    ),
    Wrong(
        "rotary-positions",
        "adds the angles",
        change=("return rotate_pairs(x, cos, sin)", "return x + sin.sum()"),
        loses=["test-rotary-positions"],
    ),
    Wrong(
        "rotary-positions",
        "always from position 0",
        change=("rows_at(table, x, start, self.head_dim)", "rows_at(table, x, 0, self.head_dim)"),
        loses=["test-rotary-positions"],
    ),
    Wrong(
        "rotary-positions",
        "saves the tables",
        change=('"cos", Tensor(np.cos(angles)), persistent=False', '"cos", Tensor(np.cos(angles))'),
        loses=["test-rotary-positions"],
    ),
    Wrong(
        "rotary-positions",
        "every hand turns alike",
        change=(
            "position_angles(max_seq_len, head_dim // 2, base)",
            "np.repeat(position_angles(max_seq_len, 1, base), head_dim // 2, axis=1)",
        ),
        loses=["test-rotary-positions"],
    ),
    Wrong(
        "first-layer",
        "no dropout",
        change=("return self.dropout(x)", "return x"),
        loses=["test-first-layer"],
    ),
    Wrong(
        "first-layer",
        "every text begins at 0",
        change=("self.positions(x, start)", "self.positions(x)"),
        loses=["test-first-layer"],
    ),
    Wrong(
        "first-layer",
        "forgets the tokens",
        change=("x = self.positions(x, start)", "x = self.positions(0 * x, start)"),
        loses=["test-first-layer"],
    ),
    Wrong(
        "tied-linear",
        "copies the weight",
        change=("permute(self.embedding.weight)", "permute(self.embedding.weight).detach()"),
        loses=["test-tied-linear"],
    ),
    Wrong(
        "tied-linear",
        "divides by the number of scores",
        change=(
            "linear(x, permute(self.embedding.weight))",
            "linear(x, permute(self.embedding.weight)) / len(self.embedding.weight)",
        ),
        loses=["test-tied-linear"],
    ),
]

"""Wrong solutions of module 12, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "softmax-of-scores",
        "NaN for a query that may look nowhere",
        """
powers = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-1e30))
return powers / powers.sum(axis=-1, keepdims=True)
""",
        loses=["test-softmax-of-scores"],
    ),
    Wrong(
        "softmax-of-scores",
        "does not subtract the largest score",
        change=("powers = scores - peak", "powers = scores.copy()"),
        loses=["test-softmax-of-scores"],
    ),
    Wrong(
        "softmax-of-scores",
        "writes into its argument",
        change=("powers = scores - peak", "powers = scores\n    powers -= peak"),
        loses=["test-softmax-of-scores"],
    ),
    Wrong(
        "softmax-of-scores",
        "takes small scores for forbidden ones",
        change=("peak[peak == -np.inf] = 0", "peak[peak < -1e3] = 0"),
        loses=["test-softmax-of-scores"],
    ),
    Wrong(
        "softmax-of-scores",
        "the largest of no scores",
        change=("keepdims=True, initial=-np.inf", "keepdims=True"),
        loses=["test-softmax-of-scores"],
    ),
    Wrong(
        "added-to-scores",
        "hides where the mask is True",
        change=("np.where(added, zero, hidden)", "np.where(added, hidden, zero)"),
        loses=["test-added-to-scores", "test-attention-weights"],
    ),
    Wrong(
        "added-to-scores",
        "a query may not look at itself",
        change=("keys > queries[:, None]", "keys >= queries[:, None]"),
        loses=["test-added-to-scores", "test-attention-weights"],
    ),
    Wrong(
        "added-to-scores",
        "numbers every tile from 0",
        change=(
            "np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)",
            "np.arange(rows.stop - rows.start), np.arange(columns.stop - columns.start)",
        ),
        loses=["test-added-to-scores"],
    ),
    Wrong(
        "added-to-scores",
        "forgets the mask where attention is causal",
        change=("added = causal if added is None else added + causal", "added = causal"),
        loses=["test-added-to-scores"],
    ),
    Wrong(
        "added-to-scores",
        "uses the whole mask for every tile",
        change=("mask[..., rows, columns]", "mask"),
        loses=["test-added-to-scores"],
    ),
    Wrong(
        "added-to-scores",
        "adds zeros where nothing is to be added",
        change=("columns.stop - 1 > rows.start", "True"),
        loses=["test-added-to-scores"],
    ),
    Wrong(
        "added-to-scores",
        "takes an added mask for booleans",
        change=("if added.dtype == bool:", "if True:"),
        loses=["test-added-to-scores", "test-attention-weights"],
    ),
    Wrong(
        "attention-weights",
        "does not scale",
        change=("(q * checked_scale(q, k, scale))", "q"),
        loses=["test-attention-weights"],
    ),
    Wrong(
        "attention-weights",
        "divides by D, not by its root",
        change=("checked_scale(q, k, scale)", "(1 / q.shape[-1] if scale is None else scale)"),
        loses=["test-attention-weights"],
    ),
    Wrong(
        "attention-weights-rule",
        "forgets the scale in the gradient of q",
        change=("(g_scores @ k) * scale", "g_scores @ k"),
        loses=["test-attention-weights-rule"],
    ),
    Wrong(
        "attention-weights-rule",
        "forgets the scale in the gradient of k",
        change=("(q * scale)", "q"),
        loses=["test-attention-weights-rule"],
    ),
    Wrong(
        "attention-weights-rule",
        "leaves the softmax out",
        change=("softmax_gradient(g, out)", "g * out"),
        loses=["test-attention-weights-rule"],
    ),
    Wrong(
        "attention-weights-rule",
        "an added mask does not learn",
        change=("(q * scale), g_scores", "(q * scale), None"),
        loses=["test-attention-weights-rule"],
    ),
    Wrong(
        "online-softmax",
        "forgets to shrink the total",
        change=("total * shrink", "total"),
        loses=["test-online-softmax", "test-blocked-attention"],
    ),
    Wrong(
        "online-softmax",
        "forgets to shrink the mixture",
        change=("mixture * shrink", "mixture"),
        loses=["test-online-softmax", "test-blocked-attention"],
    ),
    Wrong(
        "online-softmax",
        "takes the peak of the block alone",
        change=(
            "np.maximum(peak, scores.max(axis=-1, keepdims=True, initial=-np.inf))",
            "scores.max(axis=-1, keepdims=True, initial=-np.inf)",
        ),
        loses=["test-online-softmax"],
    ),
    Wrong(
        "online-softmax",
        "NaN before the first key that may be seen",
        change=("np.where(new_peak == -np.inf, 0, new_peak)", "new_peak"),
        loses=["test-online-softmax"],
    ),
    Wrong(
        "blocked-attention",
        "makes the whole table",
        """
scores = q @ k.swapaxes(-1, -2)
everywhere = slice(0, scores.shape[-2]), slice(0, scores.shape[-1])
added = added_to_scores(mask, is_causal, *everywhere, scores.dtype)
scores = scores if added is None else scores + added
peak = np.maximum(scores.max(axis=-1, keepdims=True, initial=-np.inf), -1e30)
total = np.exp(scores - peak).sum(axis=-1, keepdims=True)
seen = total > 0
out[..., :-1] = softmax_of_scores(scores) @ v
out[..., -1:] = np.where(seen, peak + np.log(np.where(seen, total, 1)), 0)
return out
""",
        loses=["test-blocked-attention"],
    ),
    Wrong(
        "blocked-attention",
        "divides zeros by zero",
        change=("peak[nowhere], total[nowhere] = 0, 1", "pass"),
        loses=["test-blocked-attention"],
    ),
    Wrong(
        "blocked-attention",
        "keeps the peak, not the log of the sum",
        change=("peak + np.log(total)", "peak"),
        loses=["test-blocked-attention", "test-scaled-dot-product-attention"],
    ),
    Wrong(
        "blocked-attention",
        "does not divide by the total",
        change=("mixture / total", "mixture"),
        loses=["test-blocked-attention", "test-scaled-dot-product-attention"],
    ),
    Wrong(
        "blocked-attention",
        "lets the last tile win",
        change=(
            "online_softmax_step(state, scores",
            "online_softmax_step((peak, np.zeros_like(peak), np.zeros_like(state[2])), scores",
        ),
        loses=["test-blocked-attention"],
    ),
    Wrong(
        "blocked-attention",
        "begins with a peak of 0",
        change=("1), -np.inf, out.dtype)", "1), 0.0, out.dtype)"),
        loses=["test-blocked-attention"],
    ),
    Wrong(
        "tile-gradients",
        "leaves the offset out",
        change=(" + offset", ""),
        loses=["test-tile-gradients", "test-scaled-dot-product-attention"],
    ),
    Wrong(
        "tile-gradients",
        "scores for weights",
        change=("exp(scores - log_sum)", "exp(scores)"),
        loses=["test-tile-gradients", "test-scaled-dot-product-attention"],
    ),
    Wrong(
        "tile-gradients",
        "gives the values the scores' gradient",
        change=("weights.swapaxes(-1, -2) @ g", "g_scores.swapaxes(-1, -2) @ g"),
        loses=["test-tile-gradients"],
    ),
    Wrong(
        "scaled-dot-product-attention",
        "forgets dropout",
        change=("weights if dropout is None else dropout(weights)", "weights"),
        loses=["test-scaled-dot-product-attention", "test-multi-head-attention"],
    ),
    Wrong(
        "scaled-dot-product-attention",
        "applies dropout to the answer",
        change=(
            "return matmul(weights if dropout is None else dropout(weights), v)",
            "return matmul(weights, v) if dropout is None else dropout(matmul(weights, v))",
        ),
        loses=["test-scaled-dot-product-attention"],
    ),
    Wrong(
        "scaled-dot-product-attention",
        "keeps the last column",
        change=("**options)[..., :-1]", "**options)"),
        loses=["test-scaled-dot-product-attention"],
    ),
    Wrong(
        "scaled-dot-product-attention",
        "forgets the mask by blocks",
        change=("blocked_attention(q, k, v, mask,", "blocked_attention(q, k, v, None,"),
        loses=["test-scaled-dot-product-attention"],
    ),
    Wrong(
        "scaled-dot-product-attention",
        "ignores dropout by blocks",
        change=("if dropout is not None:", "if False:"),
        loses=["test-scaled-dot-product-attention"],
    ),
    Wrong(
        "heads",
        "a reshape alone",
        change=(
            "x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).swapaxes(-2, -3)",
            "x.reshape(*x.shape[:-2], num_heads, x.shape[-2], x.shape[-1] // num_heads)",
        ),
        loses=["test-heads"],
    ),
    Wrong(
        "heads",
        "gives each head every H-th number",
        change=(
            "num_heads, x.shape[-1] // num_heads).swapaxes(-2, -3)",
            "x.shape[-1] // num_heads, num_heads).swapaxes(-1, -2).swapaxes(-2, -3)",
        ),
        loses=["test-heads"],
    ),
    Wrong(
        "heads",
        "merges without swapping back",
        change=("    x = x.swapaxes(-2, -3)\n", "    x = x.reshape(*x.swapaxes(-2, -3).shape)\n"),
        loses=["test-heads", "test-multi-head-attention"],
    ),
    Wrong(
        "repeat-heads",
        "repeats the row of heads: 0, 1, 0, 1",
        """
return concatenate(*[x] * times, axis=-3)
""",
        loses=["test-repeat-heads"],
    ),
    Wrong(
        "repeat-heads",
        "loses the gradient",
        "return Tensor(np.repeat(x.numpy(), times, axis=-3))",
        loses=["test-repeat-heads"],
    ),
    Wrong(
        "attention-of-heads",
        "does not repeat keys",
        change=("repeat_heads(k, groups), repeat_heads(v, groups)", "k, v"),
        loses=["test-multi-head-attention"],
    ),
    Wrong(
        "attention-of-heads",
        "takes a mask for each text for one for each head",
        change=("if np.ndim(mask) == 3:", "if False:"),
        loses=["test-multi-head-attention"],
    ),
    Wrong(
        "attention-of-heads",
        "forgets that attention is causal",
        change=("mask, is_causal, **options", "mask, False, **options"),
        loses=["test-multi-head-attention"],
    ),
    Wrong(
        "multi-head-attention",
        "keys from the queries' own text, always",
        change=("self.k_proj(key)", "self.k_proj(query)"),
        loses=["test-multi-head-attention"],
    ),
    Wrong(
        "multi-head-attention",
        "ignores other values",
        change=("self.v_proj(key if value is None else value)", "self.v_proj(key)"),
        loses=["test-multi-head-attention"],
    ),
    Wrong(
        "multi-head-attention",
        "splits keys into as many heads as queries",
        change=("self.k_proj(key), self.num_kv_heads", "self.k_proj(key), self.num_heads"),
        loses=["test-multi-head-attention"],
    ),
    Wrong(
        "multi-head-attention",
        "turns queries alone",
        change=(
            "self.positions(q, start), self.positions(k, start)",
            "self.positions(q, start), k",
        ),
        loses=["test-multi-head-attention"],
    ),
    Wrong(
        "multi-head-attention",
        "ignores where the text starts",
        change=(
            "self.positions(q, start), self.positions(k, start)",
            "self.positions(q), self.positions(k)",
        ),
        loses=["test-multi-head-attention"],
    ),
    Wrong(
        "multi-head-attention",
        "passes a dropout that drops nothing",
        change=("self.dropout if self.training and self.dropout.p > 0 else None", "self.dropout"),
        loses=["test-multi-head-attention"],
    ),
    Wrong(
        "multi-head-attention",
        "leaves the last projection out",
        change=("self.out_proj(merge_heads(mixed))", "merge_heads(mixed)"),
        loses=["test-multi-head-attention"],
    ),
    Wrong(
        "attention-maps",
        "collects the results of all operations",
        change=("if op is attention_weights:", "if True:"),
        loses=["test-attention-maps"],
    ),
    Wrong(
        "attention-maps",
        "holds on to the graph",
        change=("maps.append(out.data)", "maps.append(out)"),
        loses=["test-attention-maps"],
    ),
    Wrong(
        "attention-maps",
        "one name for all",
        change=('f"attention maps {id(maps)}"', '"attention maps"'),
        loses=["test-attention-maps"],
    ),
    Wrong(
        "attention-maps",
        "never stops to watch",
        """
from tinytorch.core.tensor import install_watcher

maps = []
name = f"attention maps {id(maps)}"
install_watcher(name, lambda op, i, p, out: op is attention_weights and maps.append(out.data))
yield maps
""",
        loses=["test-attention-maps"],
    ),
]

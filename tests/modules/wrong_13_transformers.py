"""Wrong solutions of module 13, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    # --- norms ---
    Wrong(
        "layer-norm",
        "forgets to subtract the mean",
        change=("out = x - mean_of_rows(x)", "out = x * 1.0"),
        loses=["test-layer-norm"],
    ),
    Wrong(
        "layer-norm",
        "one mean for the whole batch",
        change=("x - mean_of_rows(x)", "x - x.mean()"),
        loses=["test-layer-norm"],
    ),
    Wrong(
        "layer-norm",
        "divides by the variance, not by its root",
        change=("np.sqrt(mean_of_products(out, out) + eps)", "(mean_of_products(out, out) + eps)"),
        loses=["test-layer-norm"],
    ),
    Wrong(
        "layer-norm",
        "eps outside of the root",
        change=(
            "np.sqrt(mean_of_products(out, out) + eps)",
            "(np.sqrt(mean_of_products(out, out)) + eps)",
        ),
        loses=["test-layer-norm"],
    ),
    Wrong(
        "layer-norm",
        "the variance divides by D - 1",
        change=(
            "np.sqrt(mean_of_products(out, out) + eps)",
            "np.sqrt(x.var(axis=-1, ddof=1, keepdims=True) + eps)",
        ),
        loses=["test-layer-norm"],
    ),
    Wrong(
        "layer-norm",
        "adds the bias before the weight multiplies",
        """out = x - mean_of_rows(x)
out *= 1 / np.sqrt(mean_of_products(out, out) + eps)
out = out if bias is None else out + bias
return out if weight is None else out * weight""",
        loses=["test-layer-norm"],
    ),
    Wrong(
        "layer-norm",
        "writes into x",
        change=("out = x - mean_of_rows(x)", "out = np.subtract(x, mean_of_rows(x), out=x)"),
        loses=["test-layer-norm"],
    ),
    Wrong(
        "layer-norm",
        "takes a bias only with a weight",
        change=("if bias is not None:", "if weight is not None and bias is not None:"),
        loses=["test-layer-norm"],
    ),
    Wrong(
        "layer-norm-rule",
        "forgets that the mean moves",
        change=("g_x = g_normal - mean_of_rows(g_normal)", "g_x = g_normal * 1.0"),
        loses=["test-layer-norm-rule"],
    ),
    Wrong(
        "layer-norm-rule",
        "forgets that the deviation moves",
        change=("    g_x -= normal * mean_of_products(g_normal, normal)\n", ""),
        loses=["test-layer-norm-rule"],
    ),
    Wrong(
        "layer-norm-rule",
        "forgets the weight on the way to x",
        change=("g_normal = g if weight is None else g * weight", "g_normal = g"),
        loses=["test-layer-norm-rule"],
    ),
    Wrong(
        "layer-norm-rule",
        "the weight's gradient takes x instead of n",
        change=("rows(g), rows(normal)", "rows(g), rows(x)"),
        loses=["test-layer-norm-rule"],
    ),
    Wrong(
        "layer-norm-rule",
        "averages the bias's gradient",
        change=("rows(g).sum(axis=0)", "rows(g).mean(axis=0)"),
        loses=["test-layer-norm-rule"],
    ),
    Wrong(
        "layer-norm-rule",
        "its own eps",
        change=("+ eps)", "+ 1e-5)"),
        loses=["test-layer-norm-rule"],
    ),
    Wrong(
        "rms-norm",
        "subtracts the mean, as a layer norm",
        "return layer_norm(x, weight, eps=eps)",
        loses=["test-rms-norm"],
    ),
    Wrong(
        "rms-norm",
        "the root of the sum, not of the mean",
        change=("mean_of_products(x, x)", "x.shape[-1] * mean_of_products(x, x)"),
        loses=["test-rms-norm"],
    ),
    Wrong(
        "rms-norm",
        "forgets eps",
        change=("mean_of_products(x, x) + eps", "mean_of_products(x, x) + 1e-12"),
        loses=["test-rms-norm"],
    ),
    Wrong(
        "rms-norm-rule",
        "the layer norm's rule",
        "return layer_norm_rule(g, out, x, weight, None, eps)[:2]",
        loses=["test-rms-norm-rule"],
    ),
    Wrong(
        "rms-norm-rule",
        "forgets to divide",
        change=("    g_x *= scale\n", ""),
        loses=["test-rms-norm-rule"],
    ),
    # --- blocks ---
    Wrong(
        "mlp",
        "no activation",
        change=("self.down(self.activation(self.up(x)))", "self.down(self.up(x))"),
        loses=["test-mlp"],
    ),
    Wrong(
        "mlp",
        "always four times as many",
        change=("4 * embed_dim if hidden_dim is None else hidden_dim", "4 * embed_dim"),
        loses=["test-mlp"],
    ),
    Wrong(
        "mlp",
        "takes 0 for None",
        change=(
            "4 * embed_dim if hidden_dim is None else hidden_dim",
            "hidden_dim or 4 * embed_dim",
        ),
        loses=["test-mlp"],
    ),
    Wrong(
        "mlp",
        "no dropout",
        change=(
            "self.dropout(self.down(self.activation(self.up(x))))",
            "self.down(self.activation(self.up(x)))",
        ),
        loses=["test-mlp"],
    ),
    Wrong(
        "transformer-block",
        "replaces instead of adding",
        change=("x = x + self.dropout(attended)", "x = self.dropout(attended)"),
        loses=["test-transformer-block"],
    ),
    Wrong(
        "transformer-block",
        "norms on the road",
        """attended = self.attention(x, mask=mask, is_causal=is_causal, start=start)
x = self.norm1(x + self.dropout(attended))
return self.norm2(x + self.mlp(x))""",
        loses=["test-transformer-block"],
    ),
    Wrong(
        "transformer-block",
        "the same norm twice",
        change=("self.mlp(self.norm2(x))", "self.mlp(self.norm1(x))"),
        loses=["test-transformer-block"],
    ),
    Wrong(
        "transformer-block",
        "attention and MLP beside each other",
        change=(
            "x = x + self.dropout(attended)\n        return x + self.mlp(self.norm2(x))",
            "return x + self.dropout(attended) + self.mlp(self.norm2(x))",
        ),
        loses=["test-transformer-block"],
    ),
    Wrong(
        "transformer-block",
        "forgets is_causal",
        change=("is_causal=is_causal", "is_causal=False"),
        loses=["test-transformer-block"],
    ),
    Wrong(
        "transformer-block",
        "forgets the mask",
        change=("mask=mask", "mask=None"),
        loses=["test-transformer-block"],
    ),
    Wrong(
        "transformer-block",
        "forgets start",
        change=(", start=start", ""),
        loses=["test-transformer-block"],
    ),
    Wrong(
        "transformer-block",
        "adds what attention says undropped",
        change=("self.dropout(attended)", "attended"),
        loses=["test-transformer-block"],
    ),
    Wrong(
        "create-causal-mask",
        "may not look at itself",
        change=("total - length, dtype", "total - length - 1, dtype"),
        loses=["test-create-causal-mask"],
    ),
    Wrong(
        "create-causal-mask",
        "the future instead of the past",
        "total = length if total is None else total\n"
        "if not 0 <= length <= total:\n"
        '    raise ValueError(f"{length} of {total}")\n'
        "return Tensor(np.triu(np.ones((length, total), bool), total - length))",
        loses=["test-create-causal-mask"],
    ),
    Wrong(
        "create-causal-mask",
        "the first positions instead of the last",
        change=("np.tri(length, total, total - length", "np.tri(length, total, 0"),
        loses=["test-create-causal-mask"],
    ),
    Wrong(
        "create-causal-mask",
        "floats",
        change=(", dtype=bool", ", dtype=np.float32"),
        loses=["test-create-causal-mask"],
    ),
    # --- the start, the tower ---
    Wrong(
        "start-small",
        "the embedding stays large",
        change=("isinstance(module, (Linear, Embedding))", "isinstance(module, Linear)"),
        loses=["test-start-small", "test-gpt"],
    ),
    Wrong(
        "start-small",
        "the padding starts anywhere",
        change=("weight[module.padding_idx] = 0", "pass"),
        loses=["test-start-small"],
    ),
    Wrong(
        "start-small",
        "biases stay as they are",
        change=("module.bias = zeros(module.out_features)", "pass"),
        loses=["test-start-small"],
    ),
    Wrong(
        "start-small",
        "a bias for every layer",
        change=(" and module.bias is not None", ""),
        loses=["test-start-small"],
    ),
    Wrong(
        "start-small",
        "forgets that the MLP speaks into the sum, too",
        change=("(block.attention.out_proj, block.mlp.down)", "(block.attention.out_proj,)"),
        loses=["test-start-small"],
    ),
    Wrong(
        "start-small",
        "counts one sum for each block",
        change=("math.sqrt(2 * len(model.blocks))", "math.sqrt(len(model.blocks))"),
        loses=["test-start-small"],
    ),
    Wrong(
        "transformer",
        "no norm at the end",
        change=("return self.norm(x)", "return x"),
        loses=["test-hidden"],
    ),
    Wrong(
        "transformer",
        "blocks don't hear of the mask",
        change=("block(x, mask=mask, is_causal", "block(x, is_causal"),
        loses=["test-hidden"],
    ),
    Wrong(
        "transformer",
        "blocks don't hear of is_causal",
        change=(
            "is_causal=is_causal, start=start)\n        return",
            "start=start)\n        return",
        ),
        loses=["test-hidden", "test-gpt"],
    ),
    Wrong(
        "transformer",
        "embeddings begin at 0",
        change=("self.embed(ids, start)", "self.embed(ids)"),
        loses=["test-hidden", "test-gpt"],
    ),
    Wrong(
        "transformer",
        "blocks begin at 0",
        change=(
            "is_causal=is_causal, start=start)\n        return",
            "is_causal=is_causal)\n        return",
        ),
        loses=["test-hidden"],
    ),
    Wrong(
        "hide-padding",
        "shows the padding and hides the rest",
        change=("!= padding_idx", "== padding_idx"),
        loses=["test-hide-padding"],
    ),
    Wrong(
        "hide-padding",
        "hides queries instead of keys",
        change=("np.asarray(ids)[..., None, :]", "np.asarray(ids)[..., :, None]"),
        loses=["test-hide-padding"],
    ),
    Wrong(
        "hide-padding",
        "forgets the mask that is given",
        "return Tensor(np.asarray(ids)[..., None, :] != padding_idx)",
        loses=["test-hide-padding"],
    ),
    Wrong(
        "hide-padding",
        "adds 0 where a mask of floats should hide",
        change=('-np.inf if mask.dtype.kind == "f" else False', "0"),
        loses=["test-hide-padding"],
    ),
    Wrong(
        "hide-padding",
        "mixes texts up with heads",
        change=("if mask.ndim == 4:", "if False:"),
        loses=["test-hide-padding"],
    ),
    Wrong(
        "gpt",
        "a last layer of its own",
        change=("TiedLinear(self.embed.tokens)", "Linear(embed_dim, vocab_size, bias=False)"),
        loses=["test-gpt"],
    ),
    Wrong(
        "gpt",
        "sees the future",
        change=("is_causal=True, ", ""),
        loses=["test-gpt"],
    ),
    Wrong(
        "gpt",
        "every text begins at 0",
        change=(", start=start))", "))"),
        loses=["test-gpt"],
    ),
    # --- writing ---
    Wrong(
        "top-k",
        "zeros instead of -inf",
        change=("np.full_like(logits, -np.inf)", "np.zeros_like(logits)"),
        loses=["test-top-k", "test-next-probabilities"],
    ),
    Wrong(
        "top-k",
        "keeps all that equal the k-th",
        "least = np.sort(logits, axis=-1)[..., -min(k, logits.shape[-1]), None]\n"
        "return np.where(logits >= least, logits, -np.inf)",
        loses=["test-top-k"],
    ),
    Wrong(
        "top-k",
        "fails if there are fewer than k",
        "least = np.sort(logits, axis=-1)[..., -k, None]\n"
        "return np.where(logits >= least, logits, -np.inf)",
        loses=["test-top-k"],
    ),
    Wrong(
        "top-p",
        "stops before p is reached",
        change=("before = ranked.cumsum(axis=-1) - ranked", "before = ranked.cumsum(axis=-1)"),
        loses=["test-top-p"],
    ),
    Wrong(
        "top-p",
        "one token more than needed",
        change=("ranked[before >= p] = 0", "ranked[before > p] = 0"),
        loses=["test-top-p"],
    ),
    Wrong(
        "top-p",
        "keeps what is at least as probable as p",
        "kept = np.where(probabilities >= p, probabilities, 0)\n"
        "return kept / kept.sum(axis=-1, keepdims=True)",
        loses=["test-top-p"],
    ),
    Wrong(
        "top-p",
        "forgets to scale",
        change=("return kept / kept.sum(axis=-1, keepdims=True)", "return kept"),
        loses=["test-top-p", "test-next-probabilities"],
    ),
    Wrong(
        "top-p",
        "leaves them sorted",
        change=("np.put_along_axis(kept, order, ranked, axis=-1)", "kept[...] = ranked"),
        loses=["test-top-p"],
    ),
    Wrong(
        "next-probabilities",
        "multiplies by the temperature",
        change=("below / temperature", "below * temperature"),
        loses=["test-next-probabilities"],
    ),
    Wrong(
        "next-probabilities",
        "e to the power of a large number",
        change=("below = logits - logits.max(axis=-1, keepdims=True)", "below = logits"),
        loses=["test-next-probabilities"],
    ),
    Wrong(
        "next-probabilities",
        "top_p of 1 drops what is very small",
        change=("if top_p is not None and top_p < 1:", "if top_p is not None:"),
        loses=["test-next-probabilities"],
    ),
    Wrong(
        "next-probabilities",
        "top_p before the temperature",
        """if top_k is not None:
    logits = keep_top_k(logits, top_k)
powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
probabilities = powers / powers.sum(axis=-1, keepdims=True)
if top_p is not None and top_p < 1:
    probabilities = keep_top_p(probabilities, top_p)
relative = probabilities / probabilities.max(axis=-1, keepdims=True)
powers = np.where(relative > 0, relative ** (1 / temperature), 0)
return powers / powers.sum(axis=-1, keepdims=True)""",
        loses=["test-next-probabilities"],
    ),
    Wrong(
        "pick-tokens",
        "one height for all rows",
        change=("random.random((len(heights), 1))", "random.random((1, 1))"),
        loses=["test-pick-tokens"],
    ),
    Wrong(
        "pick-tokens",
        "always the most probable",
        "return probabilities.argmax(axis=-1)",
        loses=["test-pick-tokens", "test-generate"],
    ),
    Wrong(
        "pick-tokens",
        "at least as high is not above",
        change=("(heights > drawn)", "(heights >= drawn)"),
        loses=["test-pick-tokens"],
    ),
    Wrong(
        "pick-tokens",
        "thinks that every sum is 1",
        change=("* heights[:, -1:]", ""),
        loses=["test-pick-tokens"],
    ),
    Wrong(
        "generate",
        "shows the model the first tokens",
        change=("text[:, -model.max_seq_len :]", "text[:, : model.max_seq_len]"),
        loses=["test-generate"],
    ),
    Wrong(
        "generate",
        "takes the logits at the first position",
        change=(".data[:, -1]", ".data[:, 0]"),
        loses=["test-generate"],
    ),
    Wrong(
        "generate",
        "stays in training mode",
        change=("with evaluating(model):", "with no_grad():"),
        loses=["test-generate"],
    ),
    Wrong(
        "generate",
        "always greedy",
        change=("if greedy else", "if True else"),
        loses=["test-generate"],
    ),
    Wrong(
        "generate",
        "greedy by probabilities that may all be equal",
        change=("logits.argmax(axis=-1) if greedy", "probabilities.argmax(axis=-1) if greedy"),
        loses=["test-generate"],
    ),
    Wrong(
        "generate",
        "who has stopped goes on",
        change=("token = np.where(stopped, text[:, -1], token)", "pass"),
        loses=["test-generate"],
    ),
    Wrong(
        "generate",
        "stops all when one has stopped",
        change=("if stopped.all():", "if stopped.any():"),
        loses=["test-generate"],
    ),
    Wrong(
        "generate",
        "the prompt stops, too",
        change=(
            "for _ in range(max_new_tokens):",
            "stopped |= np.isin(text[:, -1], stop_tokens)\n"
            "        for _ in range(0 if stopped.all() else max_new_tokens):",
        ),
        loses=["test-generate"],
    ),
    Wrong(
        "generate",
        "ignores the seed",
        change=("pick_tokens(probabilities, random)", "pick_tokens(probabilities, generator)"),
        loses=["test-generate"],
    ),
]

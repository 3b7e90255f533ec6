"""Wrong solutions of module 21, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "rnn-step",
        "multiplies by the transposed weights",
        change=("hidden @ weight_hh)\n", "hidden @ weight_hh.swapaxes(0, 1))\n"),
        loses=["test-rnn-step"],
    ),
    Wrong(
        "rnn-step",
        "always tanh",
        change=("_BENDS[nonlinearity]", "tanh"),
        loses=["test-rnn-step"],
    ),
    Wrong(
        "unroll",
        "every step starts from the first state",
        change=("hidden = rnn_step", "after = rnn_step"),
        loses=["test-unroll"],
    ),
    Wrong(
        "unroll",
        "ignores the state that it is given",
        change=("states = []", "states, hidden = [], 0 * hidden"),
        loses=["test-unroll"],
    ),
    Wrong(
        "rnn-sequence",
        "a mask the wrong way round",
        change=("where=~mask[t]", "where=mask[t]"),
        loses=["test-rnn-sequence"],
    ),
    Wrong(
        "rnn-sequence",
        "zeros where a sequence is over",
        change=("np.copyto(states[t], hidden, where=~mask[t])", "states[t] *= mask[t]"),
        loses=["test-rnn-sequence"],
    ),
    Wrong(
        "rnn-sequence",
        "the state never moves on",
        change=("hidden = states[t]", "pass"),
        loses=["test-rnn-sequence"],
    ),
    Wrong(
        "limited",
        "limits from above only",
        change=("clip(gradient, -grad_clip, grad_clip)", "clip(gradient, None, grad_clip)"),
        loses=["test-limited"],
    ),
    Wrong(
        "limited",
        "a limit of 1, whatever is asked",
        change=("clip(gradient, -grad_clip, grad_clip)", "clip(gradient, -1.0, 1.0)"),
        loses=["test-limited"],
    ),
    Wrong(
        "rnn-rule",
        "forgets what later steps want",
        change=("g[t] + later", "g[t]"),
        loses=["test-rnn-rule"],
    ),
    Wrong(
        "rnn-rule",
        "forgets the part that jumps over a step",
        change=(" + kept", ""),
        loses=["test-rnn-rule"],
    ),
    Wrong(
        "rnn-rule",
        "steps in the order in which they were found",
        change=("_along(found[::-1])", "_along(found)"),
        loses=["test-rnn-rule"],
    ),
    Wrong(
        "rnn-rule",
        "the gradient of the state where that of its sum belongs",
        change=("_by_weight(hidden, out, by_projected)", "_by_weight(hidden, out, g)"),
        loses=["test-rnn-rule"],
    ),
    Wrong(
        "rnn-rule",
        "skips the bend on the way to the state before",
        change=("_times(found[-1], back)", "_times(here, back)"),
        loses=["test-rnn-rule"],
    ),
    Wrong(
        "lstm-step",
        "input and forget gate exchanged",
        change=("sigmoid(f) * cell + sigmoid(i)", "sigmoid(i) * cell + sigmoid(f)"),
        loses=["test-lstm-step"],
    ),
    Wrong(
        "lstm-step",
        "shows the cell without tanh",
        change=("sigmoid(o) * tanh(cell), cell", "sigmoid(o) * cell, cell"),
        loses=["test-lstm-step"],
    ),
    Wrong(
        "lstm-step",
        "a sigmoid for the new part",
        change=("tanh(n)", "sigmoid(n)"),
        loses=["test-lstm-step"],
    ),
    Wrong(
        "lstm-sequence",
        "the old cell decides what is shown",
        change=("o * np.tanh(out[1, t])", "o * np.tanh(cell)"),
        loses=["test-lstm-sequence"],
    ),
    Wrong(
        "lstm-sequence",
        "keeps the hidden state of a finished sequence, but not its cell",
        change=("np.copyto(out[1, t], cell, where=~mask[t])", "pass"),
        loses=["test-lstm-sequence"],
    ),
    Wrong(
        "lstm-sequence",
        "forgets the 1/2 of the sigmoid",
        change=("gates += 1 - half", "pass"),
        loses=["test-lstm-sequence"],
    ),
    Wrong(
        "lstm-rule",
        "nothing flows from the hidden state into the cell",
        change=("by_c = by_c + by_h * o * (1 - bent * bent)", "pass"),
        loses=["test-lstm-rule"],
    ),
    Wrong(
        "lstm-rule",
        "the forget gate gets the cell after the step",
        change=("by_c * before,", "by_c * out[1, t],"),
        loses=["test-lstm-rule"],
    ),
    Wrong(
        "lstm-rule",
        "the open road is closed",
        change=("later_c = by_c * f + kept_c", "later_c = kept_c"),
        loses=["test-lstm-rule"],
    ),
    Wrong(
        "lstm-rule",
        "the slope of a sigmoid for the new part, too",
        change=("gates + is_new", "gates"),
        loses=["test-lstm-rule"],
    ),
    Wrong(
        "lstm-rule",
        "what somebody wants of the gates is dropped",
        change=("by_gates += g[2:, t]", "pass"),
        loses=["test-lstm-rule"],
    ),
    Wrong(
        "gru-step",
        "the update gate the wrong way round",
        change=("n + z * (hidden - n)", "hidden + z * (n - hidden)"),
        loses=["test-gru-step"],
    ),
    Wrong(
        "gru-step",
        "resets before the product, as the paper writes it",
        """
        size = hidden.shape[-1]
        bias = 0 if bias_hh is None else bias_hh[2 * size :]
        memory = linear(hidden, weight_hh, bias_hh)
        gates = sigmoid(projected[..., : 2 * size] + memory[..., : 2 * size])
        r, z = gates[..., :size], gates[..., size:]
        n = tanh(projected[..., 2 * size :] + (r * hidden) @ weight_hh[:, 2 * size :] + bias)
        return n + z * (hidden - n)
        """,
        loses=["test-gru-step"],
    ),
    Wrong(
        "gru-step",
        "no reset",
        change=("r * memory", "memory"),
        loses=["test-gru-step"],
    ),
    Wrong(
        "length-mask",
        "one step too many",
        change=("< array", "<= array"),
        loses=["test-length-mask"],
    ),
    Wrong(
        "length-mask",
        "sequences down, steps across",
        change=("np.arange(steps)[:, None] < array", "np.arange(steps) < array[:, None]"),
        loses=["test-length-mask"],
    ),
    Wrong(
        "lstm",
        "the cell as output",
        change=("hidden = out[0]", "hidden = out[1]"),
        loses=["test-lstm"],
    ),
    Wrong(
        "lstm",
        "hidden state and cell exchanged",
        change=("[hidden[-1], out[1, -1]]", "[out[1, -1], hidden[-1]]"),
        loses=["test-lstm"],
    ),
    Wrong(
        "lstm",
        "only one of the two biases",
        change=("_project(x, weight_ih, *biases)", "_project(x, weight_ih, biases[0])"),
        loses=["test-lstm"],
    ),
    Wrong(
        "lstm",
        "forgets mask and options",
        change=("*states, weight_hh, **options)", "*states, weight_hh)"),
        loses=["test-lstm"],
    ),
]

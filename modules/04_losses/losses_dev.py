# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.losses

# %% [markdown]
r"""
# Losses

> One number that says how wrong a network is.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
import numpy as np

from tinytorch.core.activations import log_softmax
from tinytorch.core.tensor import op


# %% nbgrader={"grade": false, "grade_id": "cross-entropy", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
def target_weights(targets, shape, dtype, weight=None, ignore_index=-100, label_smoothing=0.0):
    """How much each class of each row counts: an array of the logits' shape, and what a mean divides by."""
    t = np.zeros(shape, dtype)
    t[np.arange(shape[0]), targets.astype(np.int64)] = 1
    return t, shape[0]


@op
def cross_entropy(
    logits, targets, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    """-log softmax(logits)[target], averaged over the rows."""
    t, count = target_weights(
        targets, logits.shape, logits.dtype, weight, ignore_index, label_smoothing
    )
    loss = -(t * log_softmax(logits, axis=1)).sum(axis=1)
    return loss.sum() / count if reduction == "mean" else loss

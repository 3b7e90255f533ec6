# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent, format_version: '1.3'}
#   kernelspec: {display_name: TinyTorch, language: python, name: tinytorch}
# ---

# %%
#| default_exp core.activations

# %% [markdown]
r"""
# Activations

> Functions that bend straight lines.
"""

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
import math

import numpy as np

from tinytorch.core.tensor import op


# %% nbgrader={"grade": false, "grade_id": "functions", "locked": true, "schema_version": 3, "solution": false, "task": false}
#| export
@op
def relu(x):
    """max(x, 0), element by element."""
    return np.maximum(x, 0)


@op
def sigmoid(x):
    """1 / (1 + e^-x), element by element, computed by tanh so that nothing overflows."""
    return 0.5 * (np.tanh(0.5 * x) + 1)


@op
def softmax(x, axis=-1):
    """e^x / sum(e^x) along `axis`."""
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


@op
def log_softmax(x, axis=-1):
    """The logarithm of softmax, without taking the logarithm of a rounded zero."""
    shifted = x - np.max(x, axis=axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


@op
def gelu(x):
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)))


@op
def silu(x):
    """x sigmoid(x)."""
    return x * sigmoid(x)


@op
def leaky_relu(x, negative_slope=0.01):
    """x where it is positive, negative_slope x elsewhere."""
    return np.where(x > 0, x, negative_slope * x)

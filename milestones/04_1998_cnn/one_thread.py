"""One thread for each matrix product: two threads of our own share the cores better.

The BLAS behind NumPy reads this when it is loaded, so it is imported first.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

"""Its place makes tests/ importable: what suites share (ops.py, the table of ops) lies here."""

import os

# before NumPy is imported: every worker of pytest-xdist has one core
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

"""Its place makes tests/ importable: what suites share (ops.py, the table of ops) lies here."""

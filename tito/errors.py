"""Errors that a user can act on."""


class TitoError(Exception):
    """One line: what was asked, what was found, what to do, shown without traceback."""

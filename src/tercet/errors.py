"""The errors Tercet raises on purpose; every message says what is wrong, where, and the fix.

The command line prints these as one sentence; anything else that escapes is a bug.
"""


class TercetError(Exception):
    """Any failure that a user can understand and mend."""


class InputError(TercetError):
    """A text, file, option or record given by the caller cannot be used."""


class ModelError(TercetError):
    """A checkpoint is missing, corrupt, misshapen, or lacks what was asked of it."""


class StoreError(TercetError):
    """An index or collection is corrupt, locked, or belongs to another model."""


class MissingExtraError(TercetError):
    """An optional dependency is not installed; the message names the `pip install`."""

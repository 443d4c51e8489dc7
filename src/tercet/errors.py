"""The errors Tercet raises on purpose; every message says what is wrong, where, and the fix.

The command line prints these as one sentence; anything else that escapes is a bug.
"""


class TercetError(Exception):
    """Any failure that a user can understand and mend."""

    def __str__(self) -> str:
        return printable(super().__str__())  # a message may quote a server or a file


class InputError(TercetError):
    """A text, file, option or record given by the caller cannot be used."""


class RowError(InputError, IndexError):
    """A row that is not there, or no row number at all."""


class ModelError(TercetError):
    """A checkpoint is missing, corrupt, misshapen, or lacks what was asked of it."""


class StoreError(TercetError):
    """An index or collection is corrupt, locked, or belongs to another model."""


class MissingExtraError(TercetError):
    """An optional dependency is not installed; the message names the `pip install`."""


_ESCAPED = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)
}
# and what turns the direction of all that follows
_ESCAPED |= {code: f"\\u{code:x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def printable(text: str) -> str:
    """A text in which no character commands a terminal: control characters show as `\\x1b` does."""
    return text.translate(_ESCAPED)

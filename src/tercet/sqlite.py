"""SQLite files: opened, made whole or not at all, and their failures put in words.

Knows nothing of tables.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tercet.errors import StoreError
from tercet.index.files import fsync_folder


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turns what SQLite raises into a StoreError that says what is wrong and how to mend it."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            what = "the disk is full: nothing that was recorded is lost; make room and run again"
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            what = f"the file is damaged ({error}): restore it, or index the documents again"
        elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            what = f"the file cannot be opened for writing ({error})"
        elif code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            what = f"the file cannot be read or written now ({error})"
        elif "decode to UTF-8" in str(error):  # has no code
            what = f"the file is damaged ({error}): restore it, or index the documents again"
        else:
            raise  # a defect of ours, not of the file
        raise StoreError(f"{path}: {what}") from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection for any thread that opens its transactions itself."""
    with in_words(path):
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


@contextmanager
def new_database(path: Path) -> Iterator[sqlite3.Connection]:
    """A database that appears under its name, durably, when the block ends without an error."""
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    db = connect(scratch)
    try:
        with in_words(path):
            db.execute("PRAGMA synchronous = FULL")
            yield db
    finally:
        db.close()
    try:
        os.replace(scratch, path)
        fsync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be made: {error.strerror}") from error

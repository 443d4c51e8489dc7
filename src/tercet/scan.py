"""Files into a collection: which are unchanged, which are read, which are gone.

A file is known by its absolute path; size and time of change tell cheaply, its hash decides,
whether it changed. Knows nothing of formats, vectors or queries.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tercet.documents.readers import Problem, SourceFile, find_files, label_of, prepare, read_file
from tercet.ingest import Ingest
from tercet.records import Document
from tercet.store import FileRecord

# A file changed twice within the clock's grain looks unchanged, so that the time of a file that
# was changed this recently is not relied on (the same trap as git's "racy" index entries).
FRESH_NS = 2_000_000_000


def add_files(ingest: Ingest, paths: Sequence[str | Path]) -> None:
    """Brings the collection in line with files and folders as they are now.

    New files are added, changed ones replaced, those that are gone from under the folders removed.
    What cannot be read is skipped by name and loses nothing: its documents stay as they were.
    """
    found = list(find_files(paths))
    ingest.total = sum(item.size for item in found if isinstance(item, SourceFile))
    for item in found:
        if isinstance(item, Problem):
            ingest.skip(item)
        else:
            _add_file(ingest, item)
    ingest.commit()
    _remove_gone(ingest, paths, {label_of(i.path) for i in found if isinstance(i, SourceFile)})


def _add_file(ingest: Ingest, found: SourceFile) -> None:
    record = _record(ingest, found)
    now = time.time_ns()
    if record.hash is not None and (record.size, record.mtime_ns) == (found.size, found.mtime_ns):
        _unchanged(ingest, record)
        return
    try:
        with found.path.open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError as error:
        ingest.skip(Problem(found.label, f"cannot be read: {error.strerror}"))
        return
    mtime = found.mtime_ns if now - found.mtime_ns > FRESH_NS else 0
    changed = replace(record, size=found.size, mtime_ns=mtime)
    if record.hash == digest:
        if changed != record:
            ingest.touch_file(changed)
        _unchanged(ingest, record)
        return
    unread = replace(changed, hash=None)
    ingest.store.forget_sights(record.number)
    whole, size = True, 0
    for item in read_file(found.path, record.label):
        usable = prepare(item) if isinstance(item, Document) else item
        if isinstance(usable, Document):
            clash = _clash(ingest, usable, unread)
            if clash is None:
                size += len(usable.text.encode())
                ingest.put(usable, unread)
                continue
            usable = clash
        whole = whole and not usable.failed
        ingest.skip(usable)
    if whole:
        ingest.end_file(replace(changed, hash=digest))
    ingest.advance(max(0, found.size - size))


def _record(ingest: Ingest, found: SourceFile) -> FileRecord:
    """The file's record, new or as stored; under a new path where its folder was moved."""
    path = label_of(found.path)
    stored = ingest.store.file(path)
    if stored is not None:
        return stored
    label = found.label
    namesake = ingest.store.file_labelled(label)
    if namesake is not None:
        if is_gone(namesake.path):
            return replace(namesake, path=path, mtime_ns=0)
        label = path
    return FileRecord(ingest.new_file(), path, label, found.size, 0, None)


def _unchanged(ingest: Ingest, record: FileRecord) -> None:
    documents = ingest.store.documents_of_file(record.number)
    ingest.result.unchanged += documents
    ingest.advance(record.size, documents=documents)


def _clash(ingest: Ingest, document: Document, file: FileRecord) -> Problem | None:
    """Why a document cannot have the id that its file gives it; None where it can."""
    if not ingest.store.first_sight(file.number, document.id):
        reason = f"its id {document.id!r} was used before in this file; ids must be unique"
        return Problem(document.source, reason)
    owner = ingest.owner(document.id)
    if owner not in (None, file.number):
        ingest.commit()  # a file read to its end just now may have given the id up
        owner = ingest.owner(document.id)
    if owner is None or owner == file.number:
        return None
    other = ingest.store.file_path(owner)
    if other is None or is_gone(other):
        return None
    return Problem(
        document.source, f"its id {document.id!r} belongs to {other}; ids must be unique"
    )


def is_gone(path: str) -> bool:
    """Whether a file is certainly not there; one that cannot be looked at may be."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _remove_gone(ingest: Ingest, paths: Sequence[str | Path], seen: set[str]) -> None:
    roots = [label_of(os.path.abspath(path)) for path in paths if os.path.isdir(path)]
    roots = [root.rstrip("/") + "/" for root in roots]
    gone = []
    for record in ingest.store.files():
        under = record.path not in seen and any(record.path.startswith(root) for root in roots)
        if under and is_gone(record.path):
            ingest.store.forget_sights(record.number)
            gone.append(record)
    ingest.remove_files(gone)

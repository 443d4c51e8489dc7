"""Text files that are aligned line by line, as Moses and most parallel corpora come.

Knows nothing of other formats of translations.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from tercet.data.pairs.base import (
    Found,
    Has,
    Left,
    Plan,
    Problem,
    Units,
    Unreadable,
    not_decoded,
    numbered_lines,
)
from tercet.data.pairs.translations import translations


def read_aligned(
    paths: Sequence[Path], tags: Sequence[str], label: str, plan: Plan, has: Has
) -> Units:
    """Every line as a unit.

    Raises Unreadable, and what was read is void, where one file has more lines than another;
    empty ones at its end do not count.
    """
    number = 0
    for number, texts in _rows(paths, label, has):
        where = f"{label}:{number + 1}"
        if has(number):
            yield number, list(_unit(texts, tags, paths, plan, where))


def _rows(paths: Sequence[Path], label: str, has: Has) -> Iterator[tuple[int, list[bytes]]]:
    """The lines of all files side by side."""

    def every(number: int) -> bool:
        return True

    streams = [numbered_lines(path, path.name, every) for path in paths]
    ended = -1  # the first line that some file does not have
    for number, row in enumerate(zip_longest(*streams)):
        if ended < 0 and None in row:
            ended = number
        if ended < 0:
            yield number, [line for _, line in row if line is not None]
        elif any(pair is not None and pair[1].strip() for pair in row):
            short = next(path for path, pair in zip(paths, row, strict=True) if pair is None)
            long = next(path for path, pair in zip(paths, row, strict=True) if pair is not None)
            raise Unreadable(
                f"{label}:{ended + 1}",
                f"{short.name} ends after {ended} lines, {long.name} goes on: they are not aligned "
                "line by line, and nothing of them is kept",
                void=True,
            )


def _unit(
    texts: list[bytes], tags: Sequence[str], paths: Sequence[Path], plan: Plan, where: str
) -> Iterator[Found]:
    decoded: dict[str, str] = {}
    for raw, tag, path in zip(texts, tags, paths, strict=True):
        try:
            decoded[tag] = raw.decode()
        except UnicodeDecodeError as error:
            line = where.rpartition(":")[2]
            yield Problem(f"{path.name}:{line}", not_decoded(error))
            return
    if not any(text.strip() for text in decoded.values()):
        yield Left("an empty line in all files", where)
    else:
        yield from translations(decoded, plan, where)

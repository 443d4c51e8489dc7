"""The steps that look at one row at a time, each from a block of rows to objections.

Knows nothing of files, nor of other rows; what a score or a language is comes from their modules.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from tercet.data.filter.boilerplate import check_boilerplate
from tercet.data.filter.characters import Bare
from tercet.data.filter.config import FilterConfig, Step
from tercet.data.filter.items import Item, Objection, Tally
from tercet.data.filter.language import Languages, are_kin, languages_of
from tercet.data.filter.overlap import Overlap
from tercet.data.filter.quality import Wrong, check_encoding, check_length, check_letters
from tercet.errors import InputError
from tercet.scorers import Scorer, scorer_of, scores_of

Judge = Callable[[Sequence[Item]], Iterator[Objection]]
Check = Callable[[Sequence[str]], Sequence[Wrong]]


def steps_of(
    config: FilterConfig, tally: Tally, overlap: Overlap | None
) -> list[tuple[Step, Judge]]:
    """The steps that are asked for, in their order; raises MissingExtraError where one cannot run.

    overlap is the index of the evaluation sets, if there are any.
    """
    made: list[tuple[Step, Callable[[], Judge]]] = [
        ("encoding", lambda: _checking(check_encoding, queries=True)),
        ("length", lambda: _lengths(config)),
        (
            "letters",
            lambda: _checking(lambda texts: check_letters(texts, config.letters), queries=True),
        ),
        ("boilerplate", lambda: _checking(check_boilerplate, queries=False)),
        ("same", lambda: _same),
        ("language", lambda: _Language(_languages(config.sure), tally)),
        ("evaluation", lambda: _evaluation(overlap)),
        ("relevance", lambda: _relevance(config, tally)),
    ]
    return [(name, make()) for name, make in made if config.has(name)]


def _checking(check: Check, *, queries: bool) -> Judge:
    """A step that judges texts by themselves: passages, raw texts and maybe queries."""

    def judge(items: Sequence[Item]) -> Iterator[Objection]:
        asked = [
            (item, at, text)
            for item in items
            for at, text in (
                ([(0, item.texts[0])] if queries and not item.raw else []) + item.passages()
            )
        ]
        wrong = check([text for _, _, text in asked])
        for (item, at, _), reason in zip(asked, wrong, strict=True):
            if reason is not None:
                yield Objection(item, at, f"{_side(item, at)}: {reason}")

    return judge


def _side(item: Item, at: int) -> str:
    return "text" if item.raw else "positive" if at else "query"


def _lengths(config: FilterConfig) -> Judge:
    def judge(items: Sequence[Item]) -> Iterator[Objection]:
        pairs = [item for item in items if not item.raw]
        wrong = check_length([item.texts[0] for item in pairs], config.query_length)
        for item, reason in zip(pairs, wrong, strict=True):
            if reason is not None:
                yield Objection(item, 0, f"query: {reason}")
        passages = _checking(
            lambda texts: check_length(texts, config.passage_length), queries=False
        )
        yield from passages(items)

    return judge


def _same(items: Sequence[Item]) -> Iterator[Objection]:
    """Positives that say the query again, but for case and punctuation."""
    pairs = [(item, at) for item in items for at in item.left]
    texts = [item.texts[0] for item, _ in pairs] + [item.texts[at] for item, at in pairs]
    bare = Bare.of(texts, symbols=True)
    for number, (item, at) in enumerate(pairs):
        query, positive = bare.text(number), bare.text(len(pairs) + number)
        if len(query) == len(positive) and (query == positive).all() and len(query):
            yield Objection(item, at, "the positive is the query")


@lru_cache(maxsize=1)
def _languages(sure: float) -> Languages:
    """The identifier, read once in a process."""
    return Languages(sure)


class _Language:
    """Rows in another language than they say; rows that say none get one."""

    def __init__(self, languages: Languages, tally: Tally) -> None:
        self._languages, self._tally = languages, tally
        self._readings: dict[str, list[tuple[str, str]]] = {}  # of tags; none: all unknown

    def __call__(self, items: Sequence[Item]) -> Iterator[Objection]:
        for item in items:
            if item.lang.strip():
                yield from self._check(item)
            else:
                self._write(item)

    def _check(self, item: Item) -> Iterator[Objection]:
        if item.lang not in self._readings:
            readings = languages_of(item.lang)
            known = any(self._languages.name_of(tag) for pair in readings for tag in pair)
            self._readings[item.lang] = readings if known else []
        readings = [
            (left, right)
            for left, right in self._readings[item.lang]
            if not item.raw or left == right
        ]
        if not readings:
            self._tally.unknown[item.lang] += 1
            return
        objections: list[list[Objection]] = []
        for left, right in readings:
            found = list(self._against(item, left, right))
            if not any(one.at == 0 for one in found) and len(found) < max(1, len(item.left)):
                yield from found  # this reading leaves something
                return
            objections.append(found)
        first = objections[0][0]
        yield Objection(item, 0, first.reason, first.group)

    def _against(self, item: Item, left: str, right: str) -> Iterator[Objection]:
        sides = [(0, item.texts[0], left)] if not item.raw else []
        for at, text, tag in sides + [(at, text, right) for at, text in item.passages()]:
            found = self._languages.against(text, tag)
            if found is not None:
                reason = f"{_side(item, at)}: {found}, not {tag}"
                yield Objection(item, at, reason, f"{item.lang}: {found}")

    def _write(self, item: Item) -> None:
        query = self._languages.find(item.texts[0])
        passages = query if item.raw else self._languages.find(item.passages()[0][1])
        found = passages or query
        if found is None:
            return
        if query and passages and not are_kin(query, passages):
            found = f"{query}-{passages}"
        item.row = {**item.row, "lang": found}
        self._tally.written[found] += 1


def _evaluation(overlap: Overlap | None) -> Judge:
    def judge(items: Sequence[Item]) -> Iterator[Objection]:
        if overlap is None:
            return
        asked = [(item, at) for item in items for at in [0, *item.left]]
        found = overlap.find([item.texts[at] for item, at in asked])
        for (item, at), match in zip(asked, found, strict=True):
            if match is not None:
                how = "is" if match.whole else "shares"
                file = Path(match.where).name
                reason = f"{_side(item, at)} {how} {match.shared[:80]!r} ({match.name}/{file})"
                yield Objection(item, at, reason, match.name)

    return judge


def _relevance(config: FilterConfig, tally: Tally) -> Judge:
    least, name = config.min_score, config.scorer
    if least is None or name is None:
        raise InputError("relevance needs both a least score and a scorer")
    scorer: Scorer = scorer_of(name, config.scorer_options)

    def judge(items: Sequence[Item]) -> Iterator[Objection]:
        asked = [(item, at) for item in items for at in item.left]
        pairs = [(item.texts[0], item.texts[at]) for item, at in asked]
        scores = scores_of(scorer, pairs, [item.where for item, _ in asked])
        for (item, at), score in zip(asked, scores, strict=True):
            tally.scores[f"{score:.2f}"] += 1
            if score < least:
                yield Objection(item, at, f"scores {score:.3f}")

    return judge

"""The texts of one unit in several languages into pairs, in the directions asked for.

Knows nothing of files.
"""

from collections.abc import Iterator, Mapping

from tercet.data.pairs.base import Found, Left, Pair, Plan, clean, has_word
from tercet.data.pairs.languages import both, same

EXAMPLE = 100  # characters of a side that was left out


def translations(texts: Mapping[str, str], plan: Plan, where: str) -> Iterator[Found]:
    """Pairs between the texts, by language tag, the source language first.

    Without directions from the source to every other one.
    """
    tags = [tag for tag in texts if tag]
    asked = plan.directions or tuple((tag, other) for tag in tags[:1] for other in tags[1:])
    if not asked:
        yield Left("a unit in one language alone", where, f"it has {', '.join(tags) or 'none'}")
    for first, second in asked:
        one, other = _find(first, tags), _find(second, tags)
        if not one or not other:
            missing = f"no {second if one else first}, it has {', '.join(tags) or 'none'}"
            yield Left("a unit without a language asked for", where, missing)
            continue
        yield from _pair(texts, one, other, plan, where)
        if plan.both:
            yield from _pair(texts, other, one, plan, where)


def _find(wanted: str, tags: list[str]) -> str:
    """The tag itself, else the first that it covers, else ""."""
    return wanted if wanted in tags else next((tag for tag in tags if same(wanted, tag)), "")


def _pair(
    texts: Mapping[str, str], one: str, other: str, plan: Plan, where: str
) -> Iterator[Found]:
    query, positive = clean(texts[one]).strip(), clean(texts[other]).strip()
    reason = ""
    if not query or not positive:
        reason = "a translation with an empty side"
    elif query == positive:
        reason = "a translation whose sides are the same"
    elif not has_word(query) or not has_word(positive):
        reason = "a translation without a word on a side"
    elif max(len(query), len(positive)) < plan.min_translation:
        reason = "a translation shorter than asked"
    elif len(query) > plan.max_query_chars or len(positive) > plan.max_chars:
        reason = "a translation longer than asked"
    if reason:
        shown = f"{one}: {query[:EXAMPLE]} / {other}: {positive[:EXAMPLE]}"
        yield Left(reason, where, shown)
    else:
        yield Pair("translations", query, (positive,), where, both(one, other))

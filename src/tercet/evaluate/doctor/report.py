"""A diagnosis as text for people and as JSON for machines."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tercet.evaluate.doctor.compare import SAME, Fact, Level
from tercet.evaluate.doctor.examine import HeadResult
from tercet.evaluate.doctor.reference import About

NAMED = 3  # texts that are named


@dataclass(frozen=True)
class Diagnosis:
    """All that was found out about a target."""

    target: str
    about: About
    heads: tuple[HeadResult, ...]
    facts: tuple[Fact, ...] = ()

    def healthy(self, within: Level) -> bool:
        """Whether every head is the same to this rounding, and nothing else differs."""
        return (
            bool(self.heads)
            and all(head.within(within) for head in self.heads)
            and not any(fact.matters for fact in self.facts)
        )


def text(found: Diagnosis) -> str:
    """The report for people."""
    about = found.about
    lines = [
        f"{found.target}",
        f"against {about.model} ({about.fingerprint[:8]}), float32, up to {about.max_length:,} "
        "tokens",
        "",
        f"{'head':<8}{'texts':>6}{'median':>10}{'worst':>10}  verdict",
    ]
    for head in found.heads:
        middle, worst = (f(head.errors) if head.errors else float("nan") for f in (np.median, max))
        lines.append(
            f"{head.kind:<8}{len(head.texts):>6}{_share(middle):>10}{_share(worst):>10}  "
            f"{head.verdict}"
        )
        lines += [f"        {line}" for line in _details(head, about)]
    lines += [f"{'' if fact.matters else 'note: '}{fact.says}" for fact in found.facts]
    absent = [k for k in about.kinds if k != "states" and k not in {h.kind for h in found.heads}]
    if absent:
        lines.append(f"not offered or not asked for: {', '.join(absent)}")
    return "\n".join(lines)


def _details(head: HeadResult, about: About) -> list[str]:
    out = []
    if head.explained is not None:
        out.append(f"likely cause: {'; and '.join(c.says for c in head.explained.causes)}")
        if head.explained.share > 0:
            out.append(f"  explains {head.explained.share:.1%} of the difference{_rest(head)}")
        mends = dict.fromkeys(cause.mend for cause in head.explained.causes)
        out += [f"  to mend it: {mend}" for mend in mends]
    wrong = [t for t in head.texts if t.error > SAME[head.kind]]
    if not head.same and wrong:
        wrong.sort(key=lambda t: -t.error)
        named = ", ".join(f"{t.name!r} {_share(t.error)}" for t in wrong[:NAMED])
        out.append(f"texts that differ: {len(wrong)} of {len(head.texts)}, most of all {named}")
        cosines = [t.sizes.cosine for t in wrong if t.sizes.cosine is not None]
        if cosines:
            what = "cosine" if head.kind == "dense" else "cosine of a token"
            out.append(f"smallest {what}: {min(cosines):.4f}")
        missing, extra = (sum(getattr(t.sizes, n) for t in wrong) for n in ("missing", "extra"))
        if missing or extra:
            out.append(f"token ids: {missing:,} missing, {extra:,} too many")
        if (token := wrong[0].sizes.token) is not None:
            piece = about.pieces.get(token[0], f"id {token[0]}")
            out.append(
                f"furthest off in {wrong[0].name!r}: {piece!r} weighs {token[2]:.3f} instead of "
                f"{token[1]:.3f}"
            )
        counts = [t for t in wrong if t.sizes.vectors is not None]
        if counts and (both := counts[0].sizes.vectors) is not None:
            out.append(
                f"number of vectors: other in {len(counts)} texts, {both[1]:,} instead of "
                f"{both[0]:,} in {counts[0].name!r}"
            )
    if head.refused:
        first = next(iter(head.refused.items()))
        out.append(f"refused: {len(head.refused)} texts, the first {first[0]!r}: {first[1]}")
    return out


def _rest(head: HeadResult) -> str:
    rest = None if head.explained is None else head.explained.rest
    if rest is None:
        return ""
    if not rest[0]:
        return "; something else differs too"
    return "" if rest[1] is None else f"; what is left is {rest[1]} rounding"


def _share(value: float) -> str:
    if np.isnan(value):
        return "-"
    return "0" if value == 0 else f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def machine(found: Diagnosis, within: Level) -> dict[str, Any]:
    """The report for machines."""
    return {
        "target": found.target,
        "model": found.about.model,
        "fingerprint": found.about.fingerprint,
        "healthy": found.healthy(within),
        "heads": [_head(head) for head in found.heads],
        "facts": [asdict(fact) for fact in found.facts],
    }


def _head(head: HeadResult) -> dict[str, Any]:
    explained = head.explained
    return {
        "head": head.kind,
        "verdict": head.verdict,
        "same": head.same,
        "rounding": head.level,
        "texts": [{"name": t.name, "error": t.error} | _there(asdict(t.sizes)) for t in head.texts],
        "refused": head.refused,
        "median": float(np.median(head.errors)) if head.errors else None,
        "worst": max(head.errors, default=None),
        "causes": [] if explained is None else [asdict(cause) for cause in explained.causes],
        "explains": None if explained is None else explained.share,
        "rest": None if explained is None or explained.rest is None else _told(explained.rest),
    }


def _there(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _told(rest: Sequence[Any]) -> str:
    return (rest[1] or "float32") if rest[0] else "something else"

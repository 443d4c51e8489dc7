"""How many rows of each source and language a mix takes: weights, caps, temperature, a total.

Works on counts; knows nothing of rows. Shapes: S sources, L languages.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_HALVINGS = 100  # of the interval in which a factor is looked for: far below one row


@dataclass(frozen=True)
class Wanted:
    """What is asked of a mix.

    weights (S,): how often a row of the source is drawn in an epoch; or shares (S,): the source's
    part of the mix. source_caps (S,), language_caps (L,): rows at most, infinity where there is
    none. alpha: languages are drawn with p proportional to n ** alpha. rows: of the mix; or epochs.
    repeats: how often a row is drawn at most.
    """

    weights: Floats
    source_caps: Floats
    language_caps: Floats
    by_share: bool = False  # weights are shares
    alpha: float = 1.0
    rows: int | None = None
    epochs: float = 1.0
    repeats: float = np.inf


def allot(counts: Counts, wanted: Wanted) -> Counts:
    """(S, L) rows to draw of each source and language, given those there are.

    1. Caps: a source, then a language, counts as at most its cap, in proportion.
    2. Weights: these counts times weight; or, by share, each source's counts scaled to its share,
       and all so that no source is drawn more than once in an epoch.
    3. Temperature: language l with n_l of these in all is scaled by n_l ** (alpha - 1), so that
       p_l is proportional to n_l ** alpha; then all, or by share each source, to the sum before.
       Source: Conneau et al. 2020 (XLM-R), section 3.1, after Lample & Conneau 2019.
    4. Total: times epochs, or the factor that gives `rows`; caps and repeats hold in any case, and
       by them there may be fewer rows than asked for.
    5. Rounding to whole rows by largest remainders.
    """
    held = _within(counts.astype(np.float64), wanted)  # 1
    mass = held * wanted.weights[:, None]  # 2
    if wanted.by_share:
        found = held.sum(axis=1)
        if empty := np.flatnonzero((found == 0) & (wanted.weights > 0)).tolist():
            raise InputError(f"source {empty[0] + 1} has a share of the mix, but no rows")
        of_share = np.where(found > 0, found, 1.0)
        least = np.min(of_share[wanted.weights > 0] / wanted.weights[wanted.weights > 0])
        mass = mass / of_share[:, None] * least
    axis = 1 if wanted.by_share else None
    before = mass.sum(axis=axis, keepdims=True)
    languages = mass.sum(axis=0)
    factors = np.zeros_like(languages)
    factors[languages > 0] = languages[languages > 0] ** (wanted.alpha - 1)  # 3
    mass = mass * factors
    after = mass.sum(axis=axis, keepdims=True)
    mass = np.divide(mass * before, after, out=np.zeros_like(mass), where=after > 0)
    most = wanted.repeats * counts.astype(np.float64) if np.isfinite(wanted.repeats) else None
    if wanted.rows is None:  # 4
        real = _limited(mass, wanted.epochs, wanted, most)
    else:
        real = _of_total(mass, wanted.rows, wanted, most)
    return _rounded(real, wanted, most)  # 5


def _within(rows: Floats, wanted: Wanted) -> Floats:
    """Rows scaled down to the caps of sources, then of languages."""
    for axis, caps in ((1, wanted.source_caps), (0, wanted.language_caps)):
        total = rows.sum(axis=axis)
        scale = np.minimum(1.0, caps / np.where(total > 0, total, 1.0))
        rows = rows * np.expand_dims(scale, axis)
    return rows


def _limited(mass: Floats, factor: float, wanted: Wanted, most: Floats | None) -> Floats:
    rows = mass * factor
    return _within(rows if most is None else np.minimum(rows, most), wanted)


def _of_total(mass: Floats, rows: int, wanted: Wanted, most: Floats | None) -> Floats:
    """The rows of the factor that gives this total, or the most there can be."""
    if mass.sum() <= 0:
        return mass
    low, high = 0.0, rows / float(mass.sum())
    before = -1.0
    while (reached := float(_limited(mass, high, wanted, most).sum())) < rows:
        if reached <= before * (1 + 1e-12):  # limits hold everywhere
            return _limited(mass, high, wanted, most)
        low, high, before = high, 2 * high, reached
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(_limited(mass, middle, wanted, most).sum()) < rows:
            low = middle
        else:
            high = middle
    return _limited(mass, high, wanted, most)


def _rounded(real: Floats, wanted: Wanted, most: Floats | None) -> Counts:
    """Whole rows with the sum of the real ones, within the caps."""
    whole = np.floor(real + 1e-9)
    missing = round(float(real.sum())) - int(whole.sum())
    sources, languages = whole.sum(axis=1), whole.sum(axis=0)
    rest = real - whole
    for cell in np.argsort(-rest, axis=None, kind="stable").tolist():
        if missing <= 0:
            break
        source, language = divmod(cell, real.shape[1])
        if (
            rest[source, language] > 1e-9
            and sources[source] + 1 <= wanted.source_caps[source]
            and languages[language] + 1 <= wanted.language_caps[language]
            and (most is None or whole[source, language] + 1 <= most[source, language])
        ):
            whole[source, language] += 1
            sources[source] += 1
            languages[language] += 1
            missing -= 1
    return whole.astype(np.int64)

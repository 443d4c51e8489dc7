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
    repeats: how often a row is drawn at most, which holds for each source and language.
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

    1. Weights: counts times weight times epochs, within the limits: repeats, then the cap of each
       source, then that of each language, which scale what they hold down in proportion.
    2. Shares instead: counts within the limits, each source scaled to its share, all so that no
       source is drawn more than once in an epoch.
    3. Temperature: language l with n_l of these in all is scaled by n_l ** (alpha - 1), so that
       p_l is proportional to n_l ** alpha; by share, each source then to its sum before.
       Source: Conneau et al. 2020 (XLM-R), section 3.1, after Lample & Conneau 2019.
    4. Total: `rows`, or the sum before step 3. All are scaled alike until the total is reached
       within the limits; what these keep from some languages goes to the others. There may be
       fewer rows, never more.
    5. Rounding to whole rows by largest remainders.

    Raises InputError where a source has a share, but no rows.
    """
    most = wanted.repeats * counts.astype(np.float64) if np.isfinite(wanted.repeats) else None
    if wanted.by_share:
        mass = _shared(_limited(counts.astype(np.float64), wanted, most), wanted)  # 2
    else:
        scale = wanted.weights[:, None] * wanted.epochs
        mass = _limited(counts * scale, wanted, most)  # 1
    total = float(_limited(mass, wanted, most).sum()) if wanted.rows is None else wanted.rows
    languages = mass.sum(axis=0)
    factors = np.zeros_like(languages)
    factors[languages > 0] = languages[languages > 0] ** (wanted.alpha - 1)  # 3
    drawn = mass * factors
    if wanted.by_share:
        before, after = (x.sum(axis=1, keepdims=True) for x in (mass, drawn))
        drawn *= np.divide(before, after, out=np.zeros_like(after), where=after > 0)
    return _rounded(_of_total(drawn, total, wanted, most), wanted, most)  # 4, 5


def _shared(held: Floats, wanted: Wanted) -> Floats:
    """Rows scaled to the shares of their sources, as many as there are epochs."""
    found, asked = held.sum(axis=1), wanted.weights > 0
    if empty := np.flatnonzero((found == 0) & asked).tolist():
        raise InputError(f"source {empty[0] + 1} has a share of the mix, but no rows")
    whole = np.min(found[asked] / wanted.weights[asked]) * wanted.epochs
    scale = np.divide(wanted.weights * whole, found, out=np.zeros_like(found), where=found > 0)
    shared: Floats = held * scale[:, None]
    return shared


def _limited(rows: Floats, wanted: Wanted, most: Floats | None) -> Floats:
    """Rows held down to their repeats, then to the caps of sources, then of languages."""
    held = rows if most is None else np.minimum(rows, most)
    for axis, caps in ((1, wanted.source_caps), (0, wanted.language_caps)):
        total = held.sum(axis=axis)
        scale = np.minimum(1.0, caps / np.where(total > 0, total, 1.0))
        held = held * np.expand_dims(scale, axis)
    return held


def _of_total(mass: Floats, rows: float, wanted: Wanted, most: Floats | None) -> Floats:
    """The rows of the factor that gives this total, or the most there can be."""
    if mass.sum() <= 0:
        return mass
    low, high = 0.0, rows / float(mass.sum())
    before = -1.0
    while (reached := float(_limited(mass * high, wanted, most).sum())) < rows * (1 - 1e-12):
        if reached <= before * (1 + 1e-12):  # limits hold everywhere
            return _limited(mass * high, wanted, most)
        low, high, before = high, 2 * high, reached
    for _ in range(_HALVINGS if low > 0 else 0):
        middle = (low + high) / 2
        if float(_limited(mass * middle, wanted, most).sum()) < rows:
            low = middle
        else:
            high = middle
    return _limited(mass * high, wanted, most)


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

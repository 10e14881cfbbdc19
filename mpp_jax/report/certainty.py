r"""How sure the figures of a report are: an interval for each, and for leads over the primary one.

- Top-1 of ``n`` pictures: Wilson's interval of a share (E. B. Wilson, JASA 22, 1927). Of two
  methods on the same pictures only those count that one gets right and the other wrong, ``w`` and
  ``l`` of them: the difference is ``d = (w - l) / n``, its interval
  ``d ± 1.96 sqrt((w + l) / n - d^2) / sqrt(n)`` (Q. McNemar, Psychometrika 12, 1947).
- Mean average precision: bootstrap over the test pictures, paired (`mpp_jax.intervals`), as far as
  that is a matter of seconds; intervals of the figure itself are moved to be about it, see there.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mpp_jax.intervals import DRAWS, Interval, bootstrap

Z = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""
WORK = 4_000_000_000
"""Pictures times classes times methods times draws at most: about ten seconds."""
FEWEST = 200
"""Draws without which there is no interval."""


class Certainty(NamedTuple):
    """How sure one method's figure is.

    Attributes:
        interval: (low, high); None where there is none.
        lead: over the primary method; None of that one itself, and where there is none.
    """

    interval: tuple[float, float] | None = None
    lead: Interval | None = None


def wilson_interval(p: float, n: int, z: float = Z) -> tuple[float, float]:
    """Return Wilson's interval of a share ``p`` seen in ``n`` trials (default: 95 %)."""
    if n <= 0 or not 0 <= p <= 1:
        raise ValueError(f"wilson_interval needs n > 0 and 0 <= p <= 1, got n={n}, p={p}")
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def lead_of(won: int, lost: int, n: int) -> Interval:
    """Return the difference of two accuracies on the same ``n`` pictures, with its interval.

    Args:
        won: pictures that the first alone gets right.
        lost: pictures that the second alone gets right.
        n: all of them, at least one.
    """
    value = (won - lost) / n
    half = Z * math.sqrt(max((won + lost) / n - value * value, 0.0) / n)
    return Interval(value, value - half, value + half)


def certainties(
    method: str, labels: np.ndarray, scores: Mapping[str, np.ndarray]
) -> dict[str, Certainty]:
    """Return how sure each method is, by name.

    Args:
        method: the primary one, that others are compared with.
        labels: (N,) class numbers, or (N, L) targets in {-1, 0, +1}.
        scores: method -> (N, L).
    """
    if not len(labels):
        return {}
    if labels.ndim == 2:
        return _of_precision(method, labels, scores)
    right = {name: held.argmax(axis=1) == labels for name, held in scores.items()}
    found = {}
    for name, mine in right.items():
        own = wilson_interval(float(mine.mean()), len(labels))
        won, lost = (int((a & ~b).sum()) for a, b in ((mine, right[method]), (right[method], mine)))
        found[name] = Certainty(own, None if name == method else lead_of(won, lost, len(labels)))
    return found


def _of_precision(
    method: str, targets: np.ndarray, scores: Mapping[str, np.ndarray]
) -> dict[str, Certainty]:
    draws = min(DRAWS, WORK // (targets.size * len(scores)))
    if draws < FEWEST or not (targets > 0).any():
        return {}
    resampled = bootstrap(scores, targets, "map11", draws=draws)
    found = {}
    for name, own in resampled.items():
        # Copies rank together, which lifts every draw's figure by about as much.
        shift = own.value - float(np.nanmean(own.draws))
        about = own.interval
        found[name] = Certainty(
            (max(about.low + shift, 0.0), min(about.high + shift, 1.0)),
            None if name == method else own.minus(resampled[method]),
        )
    return found


def verdict(method: str, certainty: Mapping[str, Certainty]) -> str:
    """Return in a sentence or two what is above the primary method, and what is surely below it.

    Args:
        method: the primary one.
        certainty: of all of them, see `certainties`.
    """
    leads = {name: held.lead for name, held in certainty.items() if held.lead is not None}
    if not leads:
        return ""
    order = sorted(leads, key=lambda name: (-leads[name].value, name))
    higher = [name for name in order if leads[name].value > 0]
    sure, unsure = ([n for n in higher if (leads[n].low > 0) == is_so] for is_so in (True, False))
    parts = []
    if sure:
        parts.append(f"Surely above {method}: {_listed(sure, leads)}.")
    if unsure:
        parts.append(f"Above {method}, which may be chance: {_listed(unsure, leads)}.")
    if not higher:
        parts.append(f"No other representation here is above {method}.")
    if below := [name for name in order if leads[name].high < 0]:
        parts.append(f"Surely below it: {_listed(below, leads)}.")
    return " ".join(parts)


def _listed(names: Sequence[str], leads: Mapping[str, Interval]) -> str:
    return ", ".join(f"{name} by {shown_lead(leads[name])}" for name in names)


def shown_lead(lead: Interval | None) -> str:
    """Return a difference and its interval in points, "−2.1 (−4.0 to −0.3)"; a dash for None."""
    if lead is None:
        return "–"
    value, low, high = (f"{100 * part:+.1f}".replace("-", "−") for part in lead)
    return f"{value} ({low} to {high})"

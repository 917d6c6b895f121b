"""Thresholds of rules, compiled into limits (L1 to L4, L8, L11).

A limit is the value that must be strictly exceeded for a level to be met.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final, Literal

import numpy as np

from rating.columnar.key_index import Ints
from rating.errors import FieldPath, Finding, PlanError, RuleError
from rating.rules.hard_cut import NO_CUT, hard_cut_units
from rating.rules.triggers import TRIGGERS, Trigger, counted, reached
from rating.units.money import muldiv
from rating.units.quantity import MAX_UNITS, parse_quantity
from schemas.plans import Quantity
from schemas.rules import Measure, Rule

NEVER: Final = np.iinfo(np.int64).max  # a limit that no value exceeds

Size = Literal["", "quota", "home", "pool", "tier", "covered"]

_SERVICE: Final = {"bytes": "data", "messages": "sms", "seconds": "voice"}
_PERCENT: Final = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?\s*%\Z", re.ASCII)
_WHOLE: Final = re.compile(r"\d{1,18}\Z", re.ASCII)
_MOST_PERCENT: Final = 1_000_000
_MOST_LEVELS: Final = 16
_LARGEST: Final = 1 << 61  # largest size and largest share of a size; the sum of two fits into 64 bits


@dataclass(frozen=True)
class Threshold:
    """The levels of a rule, in the order in which they are met.

    `levels` are whole units (or sessions, or days), or with `percent` shares of the size; empty if nothing is compared.
    If `at` is True, reaching a level is enough; else it must be exceeded.
    """

    levels: tuple[Fraction, ...]
    percent: bool
    measure: Measure
    at: bool
    size: Size  # the size that the comparison needs besides the value
    days: bool = False  # days before the end of the term


def parse_threshold(rule: Rule, trigger: Trigger) -> Threshold:
    """Return the threshold of a rule. A limit that is off (no threshold, no actions, `nearest`) has no levels.

    Raises RuleError about the field `measure` or `threshold` if the trigger does not compare the measure, if a level
    cannot be read, if there are too few or too many levels, if they mix percent and units, or if they are not in the
    order in which they are met. That order is ascending, but descending for "remaining" and for days.
    """
    measures = [measure for measure in trigger.measures if measure != "percent"] or ["used"]
    if rule.measure not in measures:
        raise _error(rule, ("measure",), repr(rule.measure), f"{' or '.join(measures)} for {trigger.name}")
    at = reached(trigger, rule.at, rule.measure)
    if rule.measure == "hard_cut" or "threshold" not in trigger.fields:
        if rule.levels:
            said = "a hard cut" if rule.measure == "hard_cut" else trigger.name
            raise _error(rule, ("threshold",), repr(rule.threshold), f"none: {said} takes no threshold")
        if trigger.kind == "term" and counted(rule, trigger) is not None:
            return Threshold((Fraction(1),), True, "used", True, "quota")
        return Threshold((), False, rule.measure, at, "tier" if rule.measure == "hard_cut" else "")
    if not rule.levels and not rule.actions and rule.nearest is not None:
        return Threshold((), False, rule.measure, at, "")
    if not 1 <= len(rule.levels) <= _MOST_LEVELS:
        raise _error(rule, ("threshold",), f"{len(rule.levels)} levels", f"1 to {_MOST_LEVELS} levels")
    percent = _is_percent(rule.levels[0])
    for place, level in enumerate(rule.levels):
        if _is_percent(level) != percent:
            expected = f"{'percent' if percent else 'no percent'}, as in the first"
            raise _error(rule, _field(rule, place), repr(level), expected)
    levels = tuple(_level(rule, trigger, place) for place in range(len(rule.levels)))
    falls = rule.measure == "remaining" or trigger.unit == "days"
    for place, (one, following) in enumerate(pairwise(levels), 1):
        if following == one or (following > one) == falls:
            expected = f"{'less' if falls else 'more'} than the level before: levels stand as they are met"
            raise _error(rule, _field(rule, place), repr(rule.levels[place]), expected)
    return Threshold(levels, percent, rule.measure, at, _size(rule, trigger, percent), trigger.unit == "days")


class Limits:
    """The limits of rules, compiled from their thresholds. Raises RuleError as `parse_threshold` does.

    A rule is given by its index (`place`) in the sequence of rules.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._thresholds = [parse_threshold(rule, TRIGGERS[rule.trigger]) for rule in rules]
        self._pooled = [TRIGGERS[rule.trigger].kind == "pool" for rule in rules]

    def needs_size(self, place: int) -> Size:
        """Return which size the method `of` needs for a rule.

        "": none. "quota": the quota of the SIM. "covered": what was no overage of its usage. "home": its home
        allowance. "pool": the size of the pool. "tier": the allowance of the plan, which is its tier; the add-ons are a
        separate argument then (L2).
        """
        return self._thresholds[place].size

    def days(self, place: int) -> Ints:
        """int64[levels]: the days before the end of the term at which each level of a rule on terms is met."""
        levels = self._thresholds[place].levels
        return np.array([int(level) for level in levels], np.int64)

    def of(self, place: int, size: Ints | None, addons: Ints | None = None) -> Ints:
        """int64[levels, n]: the value that must be exceeded for each level; [levels, 1] if the rule needs no size.

        NEVER if the rule does not watch the subject: its quota is 0 and the threshold is in percent, on the remaining
        quota, or a hard cut; or the plan tier has no cut. A pool of size 0 is watched. `addons` are units on top of a
        hard cut. For a rule on the end of the term, the value to compare is the number of days left, negated. Raises
        ValueError if the rule needs a size and `size` is None.
        """
        threshold = self._thresholds[place]
        if threshold.size and size is None:
            raise ValueError(f"the limit of rule {place} counts from the {threshold.size}")
        if threshold.days:
            return -1 - self.days(place)[:, None]
        if threshold.size == "tier":
            assert size is not None
            return _cut(size, addons, threshold.at)[None, :]
        if size is None or not threshold.size:
            rows = [np.array([int(level) - threshold.at], np.int64) for level in threshold.levels]
            return np.stack(rows) if rows else np.zeros((0, 1), np.int64)
        rows = [_limit(threshold, level, size) for level in threshold.levels]
        limits = np.stack(rows) if rows else np.zeros((0, len(size)), np.int64)
        if not self._pooled[place] and (threshold.percent or threshold.measure == "remaining"):
            limits[:, size <= 0] = NEVER
        return limits

    def units(self, place: int, level: Ints, size: Ints | None, addons: Ints | None = None) -> Ints:
        """int64[n]: the highest level met, given the number `level` of levels met.

        It is the usage that had to be exceeded or reached, or the days before the end of the term. `level` 0 gives the
        value of the first level.
        """
        if self._thresholds[place].days:
            left: Ints = self.days(place)[np.maximum(level, 1) - 1]
            return left
        return self.reached(place, level, self.of(place, size, addons))

    def reached(self, place: int, level: Ints, limits: Ints) -> Ints:
        """int64[n]: like `units`, for a rule on usage, from the limits that `of` returned."""
        row = np.maximum(level, 1) - 1
        limit = limits[row, np.arange(len(row)) if limits.shape[1] == len(row) else 0]
        return np.where(limit < NEVER, limit + self._thresholds[place].at, NEVER)


def _limit(threshold: Threshold, level: Fraction, size: Ints) -> Ints:
    """int64[n]: the value that must be exceeded for one level, for each current size."""
    base = np.minimum(size, _LARGEST)
    if threshold.measure == "remaining":
        # The level is met if value >= size - part. The part is subtracted, so it is rounded the other way.
        part = _share(level, base, up=not threshold.at) if threshold.percent else np.full_like(base, int(level))
        return base - part - threshold.at
    part = _share(level, base, up=threshold.at) if threshold.percent else np.full_like(base, int(level))
    if threshold.measure == "over":
        return np.where(part < NEVER, base + np.minimum(part, _LARGEST) - threshold.at, NEVER)
    return np.where(part < NEVER, part - threshold.at, NEVER)


def _share(share: Fraction, size: Ints, up: bool) -> Ints:
    """int64[n]: a share of each size in whole units, rounded down or up; NEVER if it is too large to be reached."""
    top, bottom = share.numerator, share.denominator
    largest = int(size.max(initial=0))
    if largest * top < _LARGEST:
        return (size * top + (bottom - 1 if up else 0)) // np.int64(bottom)  # 64-bit arithmetic is several times faster
    fits = min(_LARGEST * bottom // top, _LARGEST)
    whole, rest = muldiv(np.minimum(size, fits), np.int64(top), np.int64(bottom))  # type: ignore[arg-type]
    return np.where(size > fits, NEVER, whole + (rest > 0 if up else 0))


def _cut(tier: Ints, addons: Ints | None, at: bool) -> Ints:
    """int64[n]: usage above which the card is cut; NEVER if the tier has no cut or is empty (L2)."""
    cut = hard_cut_units(tier)
    over = np.zeros_like(tier) if addons is None else np.minimum(addons, _LARGEST)
    return np.where((cut == NO_CUT) | (tier <= 0), NEVER, cut + over - at)


def _size(rule: Rule, trigger: Trigger, percent: bool) -> Size:
    if rule.measure == "used" and not percent:
        return ""
    if trigger.kind == "pool":
        return "pool"
    if rule.measure == "over":
        return "covered"
    return "home" if trigger.place == "home" else "quota"


def _is_percent(level: Quantity) -> bool:
    return isinstance(level, str) and level.rstrip().endswith("%")


def _level(rule: Rule, trigger: Trigger, place: int) -> Fraction:
    """Return one level as whole units or, if it is in percent, as a share of the size. Raises RuleError."""
    level = rule.levels[place]
    field = _field(rule, place)
    if _is_percent(level):
        if "percent" not in trigger.measures:
            raise _error(rule, field, repr(level), f"{_expected(trigger)}: {trigger.name} takes no percent")
        match = _PERCENT.match(str(level).strip())
        most = 100 if rule.measure == "remaining" else _MOST_PERCENT
        if match is None:
            raise _error(rule, field, repr(level), 'percent such as "80 %" or "0.5 %", with at most 9 decimals')
        decimals = match[2] or ""
        share = Fraction(int(match[1] + decimals), 100 * 10 ** len(decimals))
        if share > Fraction(most, 100):
            raise _error(rule, field, repr(level), f"at most {most} %")
        return share
    if trigger.unit in _SERVICE:
        try:
            return Fraction(parse_quantity(level, _SERVICE[trigger.unit], rule.data_base))
        except PlanError as error:
            percent = ', or percent such as "80 %"' if "percent" in trigger.measures else ""
            raise _error(rule, field, error.finding.found, error.finding.expected + percent) from None
    text = "" if isinstance(level, bool) else str(level).strip()
    if not _WHOLE.match(text) or int(text) > MAX_UNITS:
        raise _error(rule, field, repr(level), _expected(trigger))
    return Fraction(int(text))


def _expected(trigger: Trigger) -> str:
    if trigger.unit in _SERVICE:
        return f"an amount in {trigger.unit}"
    return "a whole number of sessions" if trigger.unit == "sessions" else "a whole number of days before the end"


def _field(rule: Rule, place: int) -> FieldPath:
    return ("threshold", place) if isinstance(rule.threshold, tuple) else ("threshold",)


def _error(rule: Rule, path: FieldPath, found: str, expected: str) -> RuleError:
    shown = found if len(found) <= 60 else found[:57] + "..."
    return RuleError(Finding(path, shown, expected, f"rule {rule.id}"))

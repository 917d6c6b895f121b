"""Increments: round quantities to billable quantities, for whole columns with mixed increments (P3).

Any usage is billed as at least `minimum` units. Beyond them it counts in steps of `step`. At the start of a rate group
the step changes. The step under way is finished first, so the billable quantity never falls as the quantity grows.
"30/6" is minimum 30 and step 6. "60, from second 60 on 1" is step 60 with a start at 60 of step 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from rating.errors import FieldPath, Finding, PlanError
from rating.units.money import Ints
from rating.units.quantity import units_of_field
from schemas.plans import Increment, Quantity

_NEVER = np.iinfo(np.int64).max
_UP, _DOWN, _NEAREST, _NONE = range(4)
_ROUNDS = {"up": _UP, "down": _DOWN, "nearest": _NEAREST, "none": _NONE}


@dataclass(frozen=True)
class IncrementSpec:
    """An increment of a plan, with the service and data base by which its quantities are read."""

    increment: Increment
    service: str = "data"
    data_base: int = 1024

    def units(self, quantity: Quantity, path: FieldPath, at_least: int = 0) -> int:
        """Return the quantity at `path` in whole units. Raises PlanError if it is invalid or below `at_least`."""
        return units_of_field(quantity, path, self.service, self.data_base, at_least)


@dataclass(frozen=True)
class IncrementBook:
    """Increments compiled by `compile`, each identified by its position in the list given there. Immutable."""

    specs: tuple[IncrementSpec, ...]
    _stride: int
    _edge: Ints  # [increment * stride + group]: quantity from which the steps of the group count
    _step: Ints
    _round: npt.NDArray[np.int8]
    _plain: npt.NDArray[np.bool_]  # True if the billable quantity always equals the quantity

    @classmethod
    def compile(cls, specs: Sequence[IncrementSpec]) -> IncrementBook:
        """Compile `specs`, in their order. Raises PlanError naming the field if an increment is invalid."""
        groups = [_groups(spec) for spec in specs]
        stride = max((len(own) for own in groups), default=1)
        edge, step = np.full(len(specs) * stride, _NEVER), np.ones(len(specs) * stride, np.int64)
        for number, own in enumerate(groups):
            for place, (begins, size) in enumerate(own, number * stride):
                edge[place], step[place] = begins, size
        rounds = [_ROUNDS[spec.increment.round] for spec in specs]
        plain = [
            own[0][0] == 0 and (how == _NONE or all(size == 1 for _, size in own))
            for own, how in zip(groups, rounds, strict=True)
        ]
        return cls(tuple(specs), stride, edge, step, np.array(rounds, np.int8), np.array(plain, bool))

    def __len__(self) -> int:
        return len(self.specs)

    def billable(self, increment: npt.NDArray[np.integer], quantity: Ints) -> Ints:
        """Return the billable units of each row, int64[n].

        The result is at least the minimum, plus whole steps counted from the minimum. A started step counts in full
        (`up`), not at all (`down`), or in full from its half on (`nearest`). With `none` every unit counts by itself.
        Zero stays zero, and a negative quantity (a reversal) gives exactly the opposite. Quantities are exact from
        -2**62 to 2**62.
        """
        book = increment.astype(np.int64)
        rows = np.flatnonzero(~self._plain[book] & (quantity != 0))
        if not len(rows):
            return quantity.copy()
        if len(rows) == len(quantity):
            return self._stepped(book, quantity)
        result = quantity.copy()
        result[rows] = self._stepped(book[rows], quantity[rows])
        return result

    def _stepped(self, increment: Ints, quantity: Ints) -> Ints:
        amount = np.abs(quantity)
        place = increment * self._stride
        first = self._edge[place]
        for group in range(1, self._stride):
            place += amount > self._edge[increment * self._stride + group]
        edge, step, how = self._edge[place], self._step[place], self._round[increment]
        beyond = np.maximum(amount - edge, 0)
        rest = beyond % step
        started = (rest > 0) & ((how == _UP) | ((how == _NEAREST) & (rest >= step - rest)))
        counted = edge + beyond - rest + started * step
        counted = np.where(how == _NONE, np.maximum(amount, first), counted)
        return np.where(quantity < 0, -counted, counted)


def _groups(spec: IncrementSpec) -> list[tuple[int, int]]:
    """Return (quantity from which steps count, size of a step) of each rate group, ascending."""
    increment = spec.increment
    if increment.round not in _ROUNDS:
        raise PlanError(Finding(("round",), repr(increment.round), f"one of {', '.join(_ROUNDS)}"))
    edge, step = spec.units(increment.minimum, ("minimum",)), spec.units(increment.step, ("step",), at_least=1)
    starts = [spec.units(start.start, ("starts", number, "start")) for number, start in enumerate(increment.starts)]
    for number, (one, following) in enumerate(pairwise(starts), 1):
        if following <= one:
            raise PlanError(Finding(("starts", number, "start"), str(following), f"more than {one}, the one before"))
    groups = [(edge, step)]
    for number, start in enumerate(starts):
        if start > edge:
            edge += -(-(start - edge) // step) * step
        step = spec.units(increment.starts[number].step, ("starts", number, "step"), at_least=1)
        if groups[-1][0] == edge:
            groups[-1] = (edge, step)
        else:
            groups.append((edge, step))
    return groups

"""Splits rows into parts that keep the shares of their labels: iterative stratification over groups of rows.

Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011, figure 1; ours keeps a group's
rows together, gives parts of exact size, and ends with a few exchanges that even out what the greedy pass left.
"""

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from app.errors import InvalidInput
from app.ml.codes import SEPARATOR, VALUE_CATEGORY, category_of

# Begins the label of an answer's kind. A category never holds the separator of codes, so none is taken for a kind.
KIND_MARK = SEPARATOR
_EXCHANGE_ROUNDS = 3
_MAX_CANDIDATES = 200
_EVALUATIONS_PER_ROUND = 160_000
_COUNTED_CODES = 4
_NOTHING = 1e-9


@dataclass(frozen=True)
class SplitRow:
    """A row as the split sees it: rows of an equal `group` stay together."""

    group: Hashable
    labels: tuple[str, ...]
    """Without repetition."""


@dataclass(frozen=True, kw_only=True)
class SplitPart:
    """A wanted part: its rows by number, or as a share of what it is cut from (the file, or the part `within`)."""

    name: str
    size: int | None = None
    fraction: float | None = None
    within: str | None = None
    """The part that holds this one; it comes earlier in the list."""


def labels_of_codes(codes: Sequence[str]) -> tuple[str, ...]:
    """Returns the categories of an answer and its kind: how many codes, and whether they are codes, values or both."""
    categories = dict.fromkeys(category_of(code) for code in codes)
    values = VALUE_CATEGORY in categories
    kind = "mixed" if values and len(categories) > 1 else "values" if values else "codes"
    return (*categories, f"{KIND_MARK}{kind} {min(len(codes), _COUNTED_CODES)}")


def split_rows(rows: Sequence[SplitRow], parts: Sequence[SplitPart], *, seed: int) -> dict[str, list[int]]:
    """Returns the row indices of every part, ascending; equal rows, parts and seed give an equal split.

    Parts share no row and no group, except that a part lies wholly in the one that it is `within`. Every part aims at the
    label shares of all rows. Sizes are exact as far as whole groups fit.

    Raises:
        InvalidInput: the parts need more rows than there are, are no tree, or one can hold no whole group; `param` names it.
    """
    sizes = part_sizes(parts, total=len(rows))
    groups: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.group, []).append(index)
    units = [_Unit.of(members, rows) for members in groups.values()]
    shares = _label_counts(units)
    chooser = random.Random(seed)
    chosen: dict[str | None, list[_Unit]] = {None: units}
    for parent in dict.fromkeys(part.within for part in parts):
        children = [part.name for part in parts if part.within == parent]
        cut = _distribute(chosen[parent], [sizes[name] for name in children], shares, len(rows), chooser)
        for name, units_of_part in zip(children, cut, strict=True):
            if not units_of_part:
                raise InvalidInput(
                    f"Part {name!r} stays empty: every question left fills more than its {sizes[name]} row(s).",
                    param="parts",
                )
            chosen[name] = units_of_part
    return {part.name: sorted(index for unit in chosen[part.name] for index in unit.rows) for part in parts}


def part_sizes(parts: Sequence[SplitPart], *, total: int) -> dict[str, int]:
    """Returns the rows that each part is to have; fractions that sum to 1 leave no row over.

    Raises:
        InvalidInput: see `split_rows`.
    """
    sizes: dict[str, int] = {}
    taken: dict[str | None, int] = {}
    fraction_sums: dict[str | None, Fraction] = defaultdict(Fraction)
    for number, part in enumerate(parts):
        if part.name in sizes:
            raise InvalidInput(f"Two parts have the name {part.name!r}. Give each its own.", param=f"parts.{number}.name")
        if part.within is not None and part.within not in sizes:
            raise InvalidInput(
                f"Part {part.name!r} lies within {part.within!r}, which is no part listed before it.",
                param=f"parts.{number}.within",
            )
        room = total if part.within is None else sizes[part.within]
        if (part.size is None) == (part.fraction is None):
            raise InvalidInput(f"Part {part.name!r} needs either a size or a fraction.", param=f"parts.{number}.size")
        if part.size is not None:
            size, field = part.size, "size"
        else:
            # Rounded sums, not rounded shares: the parts together are as many as the sum says.
            before = fraction_sums[part.within]
            after = fraction_sums[part.within] = before + Fraction(str(part.fraction))
            size, field = _half_up(after * room) - _half_up(before * room), "fraction"
        taken[part.within] = taken.get(part.within, 0) + size
        place = "the file" if part.within is None else f"part {part.within!r}"
        if taken[part.within] > room:
            raise InvalidInput(
                f"The parts of {place} need {taken[part.within]} rows up to {part.name!r}, but it has {room}. Ask for fewer.",
                param=f"parts.{number}.{field}",
            )
        if size < 1:
            raise InvalidInput(f"Part {part.name!r} of {place} would have no row.", param=f"parts.{number}.{field}")
        sizes[part.name] = size
    return sizes


@dataclass(frozen=True, eq=False)
class _Unit:
    """Rows that stay together, and how many of them show each label."""

    rows: tuple[int, ...]
    labels: dict[str, int]

    @classmethod
    def of(cls, members: Sequence[int], rows: Sequence[SplitRow]) -> "_Unit":
        return cls(tuple(members), dict(Counter(label for index in members for label in rows[index].labels)))


class _Bin:
    """One part while it fills: the room left, and how many rows of each label it still lacks."""

    def __init__(self, size: int, wanted: dict[str, float]) -> None:
        self.room = size
        self.lacking = wanted
        self.units: dict[_Unit, None] = {}

    @property
    def is_uneven(self) -> bool:
        """Whether some label is off by more than rounding must leave."""
        return any(abs(lack) > 0.5 for lack in self.lacking.values())

    def add(self, unit: _Unit) -> None:
        self.units[unit] = None
        self.room -= len(unit.rows)
        for label, count in unit.labels.items():
            self.lacking[label] -= count

    def remove(self, unit: _Unit) -> None:
        del self.units[unit]
        self.room += len(unit.rows)
        for label, count in unit.labels.items():
            self.lacking[label] += count


def _distribute(
    units: Sequence[_Unit], sizes: Sequence[int], shares: Counter[str], total: int, chooser: random.Random
) -> list[list[_Unit]]:
    """Fills bins of the given sizes; what is left over is in none of them."""
    here = _label_counts(units)
    bins = [_Bin(size, defaultdict(float, {label: size * count / total for label, count in shares.items()})) for size in sizes]
    # The rest is a bin too: it lacks what the parts do not take.
    rest_size = sum(len(unit.rows) for unit in units) - sum(sizes)
    rest = _Bin(
        rest_size, defaultdict(float, {label: here[label] - sum(bin_.lacking[label] for bin_ in bins) for label in shares})
    )
    # Single rows last: they fill whatever room the larger groups leave.
    _fill([*bins, rest], [unit for unit in units if len(unit.rows) > 1], chooser)
    _fill([*bins, rest], [unit for unit in units if len(unit.rows) == 1], chooser)
    _complete(bins, rest)
    # Many parts make many pairs: fewer candidates each, so that a round takes the same time.
    candidates = min(_MAX_CANDIDATES, max(8, round((_EVALUATIONS_PER_ROUND / len(bins) ** 2) ** 0.5)))
    for _ in range(_EXCHANGE_ROUNDS):
        improved = False
        for bin_ in bins:
            improved |= _exchange(bin_, [other for other in (*bins, rest) if other is not bin_], candidates, chooser)
        if not improved:
            break
    return [list(bin_.units) for bin_ in bins]


def _fill(bins: Sequence[_Bin], units: Sequence[_Unit], chooser: random.Random) -> None:
    """The greedy pass of the paper: the rarest label first, each unit to the bin that lacks its label most."""
    order = list(units)
    chooser.shuffle(order)
    # Stable: large groups first, while there is room for them.
    order.sort(key=lambda unit: -len(unit.rows))
    of_label: dict[str, list[_Unit]] = defaultdict(list)
    for unit in order:
        for label in unit.labels:
            of_label[label].append(unit)
    waiting = set(order)
    left = {label: len(members) for label, members in of_label.items()}
    heap = [(count, label) for label, count in left.items()]
    heapq.heapify(heap)
    while heap:
        count, label = heapq.heappop(heap)
        if count != left[label] or not count:
            continue  # outdated: the label has a newer entry, or none of its units waits
        for unit in of_label[label]:
            if unit not in waiting:
                continue
            waiting.remove(unit)
            _best_bin(bins, unit, label, chooser).add(unit)
            for other in unit.labels:
                left[other] -= 1
                if other != label:
                    heapq.heappush(heap, (left[other], other))


def _best_bin(bins: Sequence[_Bin], unit: _Unit, label: str, chooser: random.Random) -> _Bin:
    fitting = [bin_ for bin_ in bins if bin_.room >= len(unit.rows)]
    if not fitting:
        # Only the last bin, the rest, may grow beyond its size; where there is no rest, whichever has most room.
        return bins[-1] if bins[-1].units else max(bins, key=lambda bin_: bin_.room)
    return max(fitting, key=lambda bin_: (bin_.lacking[label], bin_.room, chooser.random()))


def _complete(bins: Sequence[_Bin], rest: _Bin) -> None:
    """Gives parts that stayed short the units of the rest that fit and help most."""
    for bin_ in bins:
        while bin_.room > 0:
            fitting = [unit for unit in rest.units if len(unit.rows) <= bin_.room]
            if not fitting:
                break
            best = min(fitting, key=lambda unit: _cost_of_coming(bin_, unit))
            rest.remove(best)
            bin_.add(best)


def _exchange(bin_: _Bin, others: Sequence[_Bin], candidates: int, chooser: random.Random) -> bool:
    """Swaps sampled units of equal size wherever that lowers the squared lack of both bins; says whether it did."""
    improved = False
    for other in others:
        if not bin_.is_uneven and not other.is_uneven:
            continue
        theirs = _sample(other, candidates, chooser)
        for mine in _sample(bin_, candidates, chooser):
            gain, place = min(
                (
                    (_cost_of_swap(bin_, mine, unit) + _cost_of_swap(other, unit, mine), place)
                    for place, unit in enumerate(theirs)
                    if len(unit.rows) == len(mine.rows)
                ),
                default=(0.0, -1),
            )
            if gain < -_NOTHING:
                _swap(bin_, mine, other, theirs[place])
                theirs[place] = mine
                improved = True
    return improved


def _sample(bin_: _Bin, count: int, chooser: random.Random) -> list[_Unit]:
    return chooser.sample(list(bin_.units), min(count, len(bin_.units)))


def _swap(one: _Bin, its: _Unit, other: _Bin, theirs: _Unit) -> None:
    one.remove(its)
    other.remove(theirs)
    one.add(theirs)
    other.add(its)


def _cost_of_coming(bin_: _Bin, unit: _Unit) -> float:
    """How much the sum of squares of what a bin lacks changes when a unit comes."""
    return sum(count * (count - 2 * bin_.lacking[label]) for label, count in unit.labels.items())


def _cost_of_swap(bin_: _Bin, going: _Unit, coming: _Unit) -> float:
    """The same when one unit comes for another. Sums in a fixed order: a split must not depend on Python's hash seed."""
    cost = 0.0
    for label in {**going.labels, **coming.labels}:
        change = coming.labels.get(label, 0) - going.labels.get(label, 0)
        cost += change * (change - 2 * bin_.lacking[label])
    return cost


def _label_counts(units: Sequence[_Unit]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for unit in units:
        counts.update(unit.labels)
    return counts


def _half_up(number: Fraction) -> int:
    return (2 * number + 1).__floor__() // 2

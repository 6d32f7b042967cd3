"""Which scene is the partner of another: the most similar one in which a thing differs in the asked attribute."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

PARTNERS = (
    "the question's description fits exactly one object of either image, with the correct value in the clean and the incorrect one in the "
    "corrupt image; nothing else is guaranteed. Of such scenes, the one is taken whose number of objects is nearest, then with the fewest "
    "other objects that only one of the two scenes has (by all their attributes), then with the nearest centre of the object"
)


@dataclass(frozen=True)
class Thing:
    """One object of a scene: its attributes (the same names in the same order for all) and its centre in pixels."""

    attributes: Mapping[str, str]
    centre: tuple[float, float]


class Partners:
    """Finds, for a thing of one scene, the most similar scene with a thing that differs in the asked attribute.

    A thing can be asked about when no other thing of its scene fits its description, which is all its attributes but the asked one. Its
    partners are the things of other scenes with the same description, which can be asked about and have another value. The nearest is
    the one whose scene is nearest in number of things, then has the smallest symmetric difference of the other things (how many things,
    by all their attributes, only one of the two scenes has), then the one with the nearest centre, then the first.

    Parameters
    ----------
    kinds : values that are kinds of others (``{"square": "rectangle"}``): "rectangle" then also fits a square, and the two are never
        offered against each other.
    """

    def __init__(self, scenes: Sequence[Sequence[Thing]], kinds: Mapping[str, str] | None = None) -> None:
        self._scenes, self._kinds = scenes, kinds or {}
        self._members: dict[tuple[str, tuple[str, ...]], list[tuple[int, int]]] = defaultdict(list)
        columns: dict[tuple[str, ...], int] = {}
        self._columns = [[columns.setdefault(tuple(t.attributes.values()), len(columns)) for t in things] for things in scenes]
        self._counts = np.zeros((len(scenes), len(columns)), np.int16)
        for number, things in enumerate(scenes):
            np.add.at(self._counts[number], self._columns[number], 1)
            for asked in things[0].attributes if things else ():
                fitting = Counter(words for thing in things for words in self._words(thing, asked))
                for index, thing in enumerate(things):
                    if fitting[description(thing, asked)] == 1:
                        self._members[asked, description(thing, asked)].append((number, index))
        self._values = {key: {scenes[s][t].attributes[key[0]] for s, t in members} for key, members in self._members.items()}

    def askable(self, asked: str) -> dict[int, list[int]]:
        """Of each scene, the things that can be asked about and have a partner."""
        found = defaultdict(list)
        for (name, words), members in self._members.items():
            if name == asked and len(values := self._values[name, words]) > 1:
                for scene, thing in members:
                    if any(self._opposed(self._scenes[scene][thing].attributes[asked], value) for value in values):
                        found[scene].append(thing)
        return {scene: sorted(things) for scene, things in found.items()}

    def nearest(self, scene: int, thing: int, asked: str) -> tuple[int, int]:
        """Scene and thing of the nearest partner; the thing must be one of `askable`."""
        this = self._scenes[scene][thing]
        members = self._members[asked, description(this, asked)]
        others = [m for m in members if self._opposed(this.attributes[asked], self._scenes[m[0]][m[1]].attributes[asked])]
        rest = self._counts[scene].copy()
        rest[self._columns[scene][thing]] -= 1
        rests = self._counts[[s for s, _ in others]]
        rests[range(len(others)), [self._columns[s][t] for s, t in others]] -= 1
        distance = [math.dist(this.centre, self._scenes[s][t].centre) for s, t in others]
        return others[int(np.lexsort((distance, np.abs(rests - rest).sum(1), np.abs(rests.sum(1) - rest.sum())))[0])]

    def _words(self, thing: Thing, asked: str) -> list[tuple[str, ...]]:
        """Every description that fits a thing."""
        values = description(thing, asked)
        return list(product(*((value, self._kinds[value]) if value in self._kinds else (value,) for value in values)))

    def _opposed(self, value: str, other: str) -> bool:
        return value != other and self._kinds.get(value) != other and self._kinds.get(other) != value


def description(thing: Thing, asked: str) -> tuple[str, ...]:
    """All attributes of a thing but the asked one."""
    return tuple(value for name, value in thing.attributes.items() if name != asked)

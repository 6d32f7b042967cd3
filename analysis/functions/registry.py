"""Head functions: an entry says all that any part of the program needs of one. To add a function, add an entry to `FUNCTIONS`.

Rule, tables, agreement with effects, figures, the report and documentation lists read the entries. Loads no library.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from analysis.store.folder import ResultsError

NONE, UNDECIDABLE = "none", "undecidable"  # what a head without a function is called
OVERALL = "overall"  # all tasks together


@dataclass(frozen=True)
class Thresholds:
    """How large and how sure a difference must be to name a function."""

    alpha: float = 0.05
    """Share of false discoveries that is allowed over all heads, tasks and functions."""
    gain: float = 0.05
    """Object detection: least share of attention on the object beyond the mean head's, and beyond that on other samples' objects."""
    auroc: float = 0.6
    """Object detection: least mean AUROC of attention against the patches of the object."""
    away: float = 0.5
    """Object suppression: most attention on the object, as a part of the mean head's, and of the head's own on other samples' objects."""
    strong: float = 1.5
    """Object suppression: at least so many times the mean head's attention is on the outlier patches off the object."""
    taken: float = 0.5
    """Outlier suppression: at most this part of the mean head's attention is on the outlier patches."""
    evenness: float = 0.9
    """Outlier suppression: least evenness of the attention on the other patches (entropy over its maximum)."""
    outlier_deviations: float = 2.0
    """Outlier patches: standard deviations of the mean head's map above its mean."""
    most: float = 0.5
    """Outlier patches: more than this share of the heads must give such a patch more than an even share; 0 for the mean head alone."""
    min_samples: int = 10
    """Fewest samples on which a function is named."""
    flips: int = 0
    """Sign flips behind each p; 0 for enough that one head alone can be named; above 100,000, Student's t, which flips tend to, is used."""
    resamples: int = 2000
    """Bootstrap resamples behind the intervals; 0 leaves these out."""
    confidence: float = 0.95
    """Coverage of the intervals."""
    permutations: int = 10
    """How often masks are exchanged among samples to see how many object heads chance gives."""
    seed: int = 0
    """Seed of flips, resamples and permutations."""

    def __post_init__(self) -> None:
        for name in ("alpha", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ResultsError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        for name in ("flips", "resamples", "permutations"):
            if getattr(self, name) < 0:
                raise ResultsError(f"{name} is {getattr(self, name)}; it cannot be negative")
        if self.min_samples < 2:
            raise ResultsError(f"min_samples is {self.min_samples}; a test needs 2 samples at least")

    def value(self, limit: float | str) -> float:
        """A number, or the option of that name.

        >>> Thresholds().value(1.0), Thresholds(gain=0.1).value("gain")
        (1.0, 0.1)
        """
        return float(getattr(self, limit)) if isinstance(limit, str) else limit


@dataclass(frozen=True)
class ScoreTest:
    """A one-sided test of the mean of a score over samples.

    Attributes
    ----------
    score : as `functions.samples.score_samples` names it, or object_gain or even_gain
    null : what the score is without the function: a number, or the name of an option of `Thresholds`
    side : 1 where the score must be above, -1 where it must be below
    """

    score: str
    null: float | str
    side: int


@dataclass(frozen=True)
class Floor:
    """What the mean of a score must reach: at least the limit (side 1), or at most (side -1).

    Attributes
    ----------
    score : as `ScoreTest.score`, or object_ratio or object_lift
    limit : a number, or the name of an option of `Thresholds`
    """

    score: str
    limit: float | str
    side: int = 1


@dataclass(frozen=True)
class HeadFunction:
    """One function that a head may have.

    Attributes
    ----------
    tests, floors : a head has the function where all tests hold beyond chance and all floors are passed
    sentence : what such a head does, for figures' captions, the report and documents
    of_object : it is judged by the mask of the object asked about, so that exchanged masks show what chance gives
    expected_sign : of the effect of restoring such a head's clean state: 1, -1, or 0 where nothing is expected
    color, marker, hatch : its look in figures
    """

    tests: tuple[ScoreTest, ...]
    floors: tuple[Floor, ...]
    sentence: str
    of_object: bool
    expected_sign: int
    color: str
    marker: str
    hatch: str = ""

    def rule(self, thresholds: Thresholds | Mapping[str, Any]) -> str:
        """Tests and floors in words.

        >>> FUNCTIONS["outlier_suppression"].rule(Thresholds())
        'outlier ratio below 1, evenness above 0.9; outlier ratio ≤ 0.5, evenness ≥ 0.9'
        """
        options = thresholds if isinstance(thresholds, Thresholds) else of_attributes(thresholds)
        tests = [f"{words(one.score)} {'above' if one.side > 0 else 'below'} {options.value(one.null):g}" for one in self.tests]
        floors = [f"{words(one.score)} {'≥' if one.side > 0 else '≤'} {options.value(one.limit):g}" for one in self.floors]
        return "; ".join([", ".join(tests), ", ".join(floors)])


FUNCTIONS: dict[str, HeadFunction] = {  # where a head has several, the first names it; colours of Okabe and Ito
    "object_detection": HeadFunction(
        tests=(ScoreTest("object_gain", 0.0, 1), ScoreTest("object_selectivity", 0.0, 1), ScoreTest("auroc", 0.5, 1)),
        floors=(Floor("object_gain", "gain"), Floor("object_selectivity", "gain"), Floor("auroc", "auroc")),
        sentence="attends to the object asked about, and less to the objects of other samples",
        of_object=True,
        expected_sign=1,
        color="#0072B2",
        marker="o",
    ),
    "object_suppression": HeadFunction(
        tests=(ScoreTest("object_gain", 0.0, -1), ScoreTest("object_selectivity", 0.0, -1), ScoreTest("outlier_ratio_off_object", 1.0, 1)),
        floors=(Floor("object_ratio", "away", -1), Floor("object_lift", "away", -1), Floor("outlier_ratio_off_object", "strong")),
        sentence="attends away from the object asked about, to the outlier patches beside it",
        of_object=True,
        expected_sign=-1,
        color="#D55E00",
        marker="s",
        hatch="//",
    ),
    "outlier_suppression": HeadFunction(
        tests=(ScoreTest("outlier_ratio", 1.0, -1), ScoreTest("evenness", "evenness", 1)),
        floors=(Floor("outlier_ratio", "taken", -1), Floor("evenness", "evenness")),
        sentence="attends away from the outlier patches, evenly to the rest of the image",
        of_object=False,
        expected_sign=0,
        color="#009E73",
        marker="D",
        hatch="xx",
    ),
}
LOOKS = {  # of heads that have no function, and of functions that a file names and that are not known here
    NONE: {"color": "0.75", "marker": ".", "hatch": ""},
    UNDECIDABLE: {"color": "0.9", "marker": "x", "hatch": ".."},
}
UNKNOWN_LOOK = {"color": "#CC79A7", "marker": "v", "hatch": "\\\\"}


def of_object() -> list[str]:
    """The functions that are judged by the mask of the object.

    >>> of_object()
    ['object_detection', 'object_suppression']
    """
    return [name for name, entry in FUNCTIONS.items() if entry.of_object]


def scores_tested() -> list[str]:
    """The scores that decide on some function.

    >>> scores_tested()
    ['object_gain', 'object_selectivity', 'auroc', 'outlier_ratio_off_object', 'outlier_ratio', 'evenness']
    """
    return list(dict.fromkeys(one.score for entry in FUNCTIONS.values() for one in entry.tests))


def labels(found: Iterable[object] = ()) -> list[str]:
    """What heads are called: the functions, those that a file names beside them, none and undecidable.

    >>> labels(["none", "reading", "object_detection"])
    ['object_detection', 'object_suppression', 'outlier_suppression', 'reading', 'none', 'undecidable']
    """
    unknown = sorted({str(name) for name in found} - {*FUNCTIONS, NONE, UNDECIDABLE})
    return [*FUNCTIONS, *unknown, NONE, UNDECIDABLE]


def look(name: str) -> dict[str, str]:
    """Colour, marker and hatch of a label in figures.

    >>> look("none")["color"], look("reading")["marker"]
    ('0.75', 'v')
    """
    if name in FUNCTIONS:
        entry = FUNCTIONS[name]
        return {"color": entry.color, "marker": entry.marker, "hatch": entry.hatch}
    return LOOKS.get(name, UNKNOWN_LOOK)


def words(name: str) -> str:
    """A name as text.

    >>> words("object_detection")
    'object detection'
    """
    return name.replace("_", " ")


def of_attributes(attributes: Mapping[str, Any]) -> Thresholds:
    """The thresholds that a file says, the defaults where it says none.

    >>> of_attributes({"gain": 0.1, "model": "blip"}).gain
    0.1
    """
    return Thresholds(**{field.name: attributes[field.name] for field in fields(Thresholds) if field.name in attributes})


def listing() -> str:
    """The functions as a list for a README.

    >>> listing().splitlines()[0]
    '- object detection: a head that attends to the object asked about, and less to the objects of other samples'
    """
    return "\n".join(f"- {words(name)}: a head that {entry.sentence}" for name, entry in FUNCTIONS.items())

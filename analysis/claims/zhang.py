"""Zhang et al., cross-modal information flow: attention knockout shows the image reach the question in two stages, then the last token."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from analysis.claims.claim import DECODER, HOLDS, LLAVA, Claim, Estimate, Finding, NotRun, Undecidable, beyond, every
from analysis.claims.largest import HOW_LESS, largest_less
from analysis.claims.place import Place, enough_layers
from analysis.stats.thirds import THIRDS, thirds
from interventions.results.effects import MEASUREMENTS

VARIABLES = (*MEASUREMENTS, *(f"clean_{name}" for name in MEASUREMENTS))
DATA = ("gqa",)


def drops(place: Place, *edges: str) -> tuple[np.ndarray, np.ndarray, Path]:
    """How much less probable the answer is where each edge is blocked around each layer: the paper's relative change of P, with its
    sign turned.

    Returns
    -------
    [sample, edge, layer], of the samples that have all these edges; resampled means [resample, edge, layer]; the file
    """
    knockout, path = place.file("attention_knockout*.nc", "attention_knockout", VARIABLES)
    missing = [edge for edge in edges if edge not in knockout["edge"].values]
    if missing:
        command = place.command("attention_knockout", f"--edges {' '.join(edges)} --overwrite")
        raise NotRun(f"{path.name} lacks {', '.join(missing)}", command)
    values = -knockout.effects.relative_change().sel(edge=list(edges)).transpose("sample", "edge", "layer").values
    values = values[np.isfinite(values).all(axis=(1, 2))]
    if len(values) < 2:
        raise Undecidable(f"{len(values)} sample(s) have {' and '.join(edges)}")
    enough_layers(values.shape[2])
    return values, place.means(values, "knockout", *edges, place.dataset), path


def by_third(means: np.ndarray) -> list[np.ndarray]:
    """The mean drop of a layer in each third: [resample, layer] -> three times [resample]."""
    third = thirds(means.shape[1])
    return [means[:, third == number].mean(axis=1) for number in range(3)]


def centre(means: np.ndarray) -> np.ndarray:
    """The mean layer, weighted by the drop where there is one: [resample, layer] -> [resample]; NaN where no layer has a drop.

    Examples
    --------
    >>> centre(np.array([[1.0, 0.0, -5.0, 3.0], [0.0, 2.0, 0.0, 0.0], [-1.0, -1.0, 0.0, 0.0]])).tolist()
    [2.25, 1.0, nan]
    """
    weight = np.maximum(means, 0)
    total = weight.sum(axis=1)
    return weight @ np.arange(means.shape[1]) / np.where(total > 0, total, np.nan)


def mostly_in(place: Place, edge: str, third: str) -> Finding:
    """Whether blocking an edge costs more in one third than in both others."""
    _, means, path = drops(place, edge)
    of_third = dict(zip(THIRDS, by_third(means[:, 0]), strict=True))
    others = [other for other in THIRDS if other != third]
    found = tuple(place.estimate(f"drop a layer, {third} less {other}", of_third[third] - of_third[other]) for other in others)
    return Finding(every(map(beyond, found)), found, "relative drop of P(answer)", (path,))


def later(place: Place, late: str, early: str) -> Finding:
    """Whether one edge's drop lies in later layers than another's.

    Raises
    ------
    Undecidable
        When an edge's mean drop over layers is not clearly above 0: the centre of noise is where it is noisiest.
    """
    _, means, path = drops(place, late, early)
    for number, edge in enumerate((late, early)):
        drop = place.estimate(f"mean drop of {edge}", means[:, number].mean(axis=1))
        if beyond(drop) != HOLDS:
            raise Undecidable(f"{drop}: not clearly above 0, so it has no centre")
    centres = centre(means[:, 0]), centre(means[:, 1])
    found = place.estimate(f"layers later, {late} than {early}", centres[0] - centres[1])
    each: list[Estimate] = [place.estimate(f"centre of {edge}", of_edge) for edge, of_edge in zip((late, early), centres, strict=True)]
    return Finding(beyond(found), (found, *each), "", (path,))


def costs_less(place: Place, edge: str, others: tuple[str, ...]) -> Finding:
    """Whether blocking an edge costs less at its worst than blocking each of the others (see `largest_less`)."""
    values, _, path = drops(place, edge, *others)
    own = values[:, 0]
    found = tuple(
        largest_less(place, f"largest drop, {other} less {edge}", values[:, number], own, "largest drop", place.dataset)
        for number, other in enumerate(others, start=1)
    )
    largest = largest_less(place, f"largest drop, {edge}", own, None, "largest drop", place.dataset)
    return Finding(every(map(beyond, found)), (*found, largest), "relative drop of P(answer)", (path,))


def _claim(name: str, says: str, test: str, judge: Callable[[Place], Finding]) -> Claim:
    return Claim(
        id=f"zhang-{name}",
        paper="Zhang et al.",
        source="abstract; attention knockout",
        says=says,
        test=test,
        kind=DECODER,
        models=LLAVA,
        data=DATA,
        judge=judge,
        each_dataset=True,
    )


BOTH = "holds when both intervals lie above 0, does not hold when one lies below"
ONE = "holds when its interval lies above 0, does not hold when below"
DROPS = "undecided unless both edges' mean drops over layers lie clearly above 0"
CLAIMS = [
    _claim(
        "lower-layers",
        "in lower layers, general information of the whole image goes to the question's tokens",
        f"mean drop of P(answer) with background:question blocked around a layer, early less middle and early less late third: {BOTH}",
        partial(mostly_in, edge="background:question", third="early"),
    ),
    _claim(
        "middle-layers",
        "in middle layers, information on the object asked about goes to the question's tokens",
        f"mean drop of P(answer) with object:question blocked around a layer, middle less early and middle less late third: {BOTH}",
        partial(mostly_in, edge="object:question", third="middle"),
    ),
    _claim(
        "two-stages",
        "the object's information goes to the question after the rest of the image's",
        f"centre of the drop over layers, object:question less background:question: {ONE}; {DROPS}",
        partial(later, late="object:question", early="background:question"),
    ),
    _claim(
        "higher-layers",
        "the question's tokens pass the answer on to the last token in higher layers than those in which they read the image",
        f"centre of the drop over layers, question:last less image:question: {ONE}; {DROPS}",
        partial(later, late="question:last", early="image:question"),
    ),
    _claim(
        "indirectly",
        "the image reaches the last token through the question, hardly directly",
        f"largest mean drop over layers, image:question and question:last, each less image:last; {HOW_LESS}: {BOTH}",
        partial(costs_less, edge="image:last", others=("image:question", "question:last")),
    ),
]

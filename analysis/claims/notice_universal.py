"""NOTICE's claims about universal heads: which they are, where they lie, whether they hold up."""

from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from analysis.claims.absence import DEVIATIONS, may_be
from analysis.claims.claim import (
    ANY,
    BLIP,
    DECODER,
    ENCODER,
    FAILS,
    HOLDS,
    LLAVA,
    UNDECIDED,
    Claim,
    Estimate,
    Finding,
    NotRun,
    Undecidable,
    beyond,
)
from analysis.claims.place import Place, enough_layers
from analysis.heads.head_effects import HeadEffects, flat
from analysis.heads.options import HeadEffectsOptions
from analysis.stats.thirds import thirds
from analysis.store.folder import ResultsError, head_name

ALPHA = 0.05
ROUNDING = 1e-9
KINDS = ("vision", "text", "multimodal")
PUBLISHED = {
    (BLIP, "vision"): ((5, 3),),
    (BLIP, "multimodal"): ((3, 0),),
    (BLIP, "text"): ((0, 11),),
    (LLAVA, "vision"): (
        *((15, 5), (16, 18), (14, 4), (15, 8), (18, 26), (17, 0)),
        *((17, 22), (14, 28), (19, 4), (15, 14), (17, 13), (20, 28)),
    ),
    (LLAVA, "multimodal"): ((28, 7), (31, 27), (16, 24), (19, 15), (18, 30), (18, 10), (21, 30)),
    (LLAVA, "text"): ((22, 16), (29, 19)),
}


def effects_of_heads(place: Place) -> HeadEffects:
    """The effects of all heads under both corruptions; raises `NotRun` where one is missing."""
    try:
        place.folder.measured  # noqa: B018 (raises where heads cannot be judged)
    except ResultsError as error:
        raise NotRun(str(error), place.whole_study()) from error
    of_model = place.folder.measured.get(place.model)
    missing = [c for c in HeadEffectsOptions().corruptions() if of_model is None or c not in of_model.corruptions]
    if missing:
        raise NotRun(f"no effects of heads under {' and '.join(missing)}", place.whole_study())
    if ("complete", place.model) not in place.folder.computed:
        place.folder.computed["complete", place.model] = place.folder.measured[place.model].complete()
    return place.folder.computed["complete", place.model]


def universal_kinds(place: Place, effects: HeadEffects) -> dict[str, np.ndarray]:
    """Which heads are universal by NOTICE's rule, by kind: bool [resample, layer, head], of the samples as they are first.

    Resamples are of the samples of each task, apart under each corruption.
    """
    if ("kinds", place.model) not in place.folder.computed:
        image, text = (_everywhere(place, effects, corruption) for corruption in effects.corruptions)
        place.folder.computed["kinds", place.model] = {"vision": image & ~text, "text": text & ~image, "multimodal": image & text}
    return place.folder.computed["kinds", place.model]


def _everywhere(place: Place, effects: HeadEffects, corruption: str) -> np.ndarray:
    """Which heads are important in every task under a corruption: bool [resample, layer, head]."""
    every_task: np.ndarray | None = None
    for task, values in effects.of(corruption).items():
        absolute = place.weights(values.sizes["sample"], corruption, task) @ np.abs(flat(values))
        threshold = absolute.mean(axis=1, keepdims=True) + DEVIATIONS * absolute.std(axis=1, keepdims=True)
        important = (absolute >= threshold) & (np.ptp(absolute, axis=1, keepdims=True) > 0)
        important = important.reshape(-1, values.sizes["layer"], values.sizes["head"])
        every_task = important if every_task is None else every_task & important
    assert every_task is not None
    return every_task


def files_of(place: Place, effects: HeadEffects) -> tuple:
    """The files of heads that `measured` read of a model."""
    return tuple(sorted((place.folder.path / place.model).glob(f"*/*/{effects.component}-heads.nc")))


def named(place: Place, kind: str, heads: tuple[tuple[int, int], ...]) -> Finding:
    """Whether at least half of the named heads are universal of a kind here."""
    effects = effects_of_heads(place)
    kinds = universal_kinds(place, effects)[kind]
    shape = kinds.shape[1:]
    if any(layer >= shape[0] or head >= shape[1] for layer, head in heads):
        raise Undecidable(f"it has {shape[0]} x {shape[1]} heads, so some of those named are not in it")
    found = kinds[:, *np.array(heads).T]
    recall = place.estimate("share of those named that is found", found.mean(axis=1))
    number = int(kinds[0].sum())
    p = stats.hypergeom.sf(found[0].sum() - 1, kinds[0].size, len(heads), number)
    again = " ".join(head_name(*head) for head, there in zip(heads, found[0], strict=True) if there) or "none"
    here = " ".join(head_name(*map(int, head)) for head in np.argwhere(kinds[0])[:20]) or "none"
    note = f"found again: {again}; {kind} heads here: {here}; p of so many in common by chance {p:.2g} (hypergeometric)"
    return Finding(beyond(recall, 0.5 - ROUNDING), (recall,), note, files_of(place, effects))


def exists(place: Place, kind: str) -> Finding:
    """Whether there is a universal head of a kind, with an effect beyond chance by the signed rule; or clearly none (see `may_be`)."""
    effects = effects_of_heads(place)
    kinds = universal_kinds(place, effects)[kind]
    q, path = _universal_q(place, effects, kind)
    number = place.estimate(f"{kind} heads", kinds.sum(axis=(1, 2)).astype(float))
    files = (*files_of(place, effects), path)
    if kinds[0].any():
        smallest = float(q[kinds[0]].min())
        note = f"{_names(effects, kinds[0])}; smallest q of the signed rule {smallest:.2g}"
        return Finding(HOLDS if number.low >= 1 and smallest <= ALPHA else UNDECIDED, (number,), note, files)
    near = may_be(place, effects)[kind]
    note = f"not clearly none: {near.sum()} of {near.size} heads may be ({_names(effects, near)})" if near.any() else "clearly no head"
    return Finding(UNDECIDED if near.any() else FAILS, (number,), note, files)


def _universal_q(place: Place, effects: HeadEffects, kind: str) -> tuple[np.ndarray, Path]:
    """The larger `universal_q` of robust_heads.nc under the corruptions that make the kind [layer, head], and the file."""
    robust, path = place.by_notices_rule(place.folder.robust, "robust_heads")
    image, text = effects.corruptions
    needed = {"vision": [image], "text": [text], "multimodal": [image, text]}[kind]
    if missing := [corruption for corruption in needed if corruption not in robust["corruption"].values]:
        raise NotRun(f"{path.name} has no {' and '.join(missing)}", f"python -m analysis.robust_heads --results {place.folder.path}")
    layers = next(iter(effects.effects.values()))["layer"].values
    q = robust["universal_q"].sel(corruption=needed, layer=layers).max("corruption")
    return q.transpose("layer", "head").values, path


def _names(effects: HeadEffects, heads: np.ndarray, most: int = 20) -> str:
    """The names of some heads [layer, head]."""
    layers = next(iter(effects.effects.values()))["layer"].values
    found = np.argwhere(heads)
    return " ".join(head_name(int(layers[layer]), int(head)) for layer, head in found[:most]) + (" ..." if len(found) > most else "")


def in_the_middle(place: Place) -> Finding:
    """Whether most vision heads lie in the middle third."""
    effects = effects_of_heads(place)
    kinds = universal_kinds(place, effects)["vision"]
    enough_layers(kinds.shape[1])
    middle = kinds[:, thirds(kinds.shape[1]) == 1].sum(axis=(1, 2))
    number = kinds.sum(axis=(1, 2))
    if not number[0]:
        raise Undecidable("no head is a vision head here")
    share = place.estimate("share of vision heads in the middle third", np.where(number > 0, middle / np.maximum(number, 1), np.nan))
    return Finding(beyond(share, 0.5), (share,), f"{number[0]} vision heads", files_of(place, effects))


def consistent(place: Place) -> Finding:
    """Whether every head that is universal by NOTICE's rule is so by the signed, corrected rule too."""
    robust, path = place.by_notices_rule(place.folder.robust, "robust_heads")
    notice, signed = robust["notice_universal"].values, robust["universal"].values
    number, kept = int(notice.sum()), int((notice & signed).sum())
    if not number:
        raise Undecidable("no head is universal by NOTICE's rule here")
    bounds = stats.binomtest(kept, number).proportion_ci(0.95, "exact")
    share = Estimate("share that holds up", kept / number, bounds.low, bounds.high)
    result = HOLDS if kept == number else FAILS if not kept else UNDECIDED
    return Finding(result, (share,), f"{kept} of {number} (head, corruption); the interval is Clopper and Pearson's", (path,))


def _of_named() -> list[Claim]:
    claims = []
    for (models, kind), heads in PUBLISHED.items():
        name = "blip" if models == BLIP else "llava"
        names = " ".join(head_name(*head) for head in heads)
        claims.append(
            Claim(
                id=f"notice-{name}-{kind}",
                paper="NOTICE",
                source="tables of universal attention heads",
                says=f"{'BLIP' if models == BLIP else 'LLaVA'}'s universal {kind} heads are {names}",
                test="share of the heads named that are universal of this kind here by NOTICE's rule (mean |LD| at least mean + 2 SD in "
                "every task): holds when its interval over resamples lies wholly at 0.5 or above, does not hold when wholly below",
                kind=ENCODER if models == BLIP else DECODER,
                models=models,
                judge=partial(named, kind=kind, heads=heads),
                papers_model_only=True,
            )
        )
    return claims


CLAIMS = [
    *_of_named(),
    *(
        Claim(
            id=f"notice-universal-{kind}",
            paper="NOTICE",
            source="abstract; tables of universal attention heads",
            says=f"some heads are {kind} heads: important in every task under {under}",
            test="the number of such heads by NOTICE's rule: holds when its interval over resamples is 1 or more and one of them has "
            "effects of one sign in every task beyond chance (robust_heads: q <= 0.05 under each corruption that makes the kind); does "
            "not hold when none is found and each head is clearly none: its interval, Bonferroni's over tasks, lies below the threshold "
            "in a task that makes the kind or, for vision and text, above it in every task under the other corruption",
            kind=ANY,
            models=(*BLIP, *LLAVA),
            judge=partial(exists, kind=kind),
        )
        for kind, under in zip(KINDS, ("image corruption only", "text corruption only", "both corruptions"), strict=True)
    ),
    Claim(
        id="notice-vision-heads-middle",
        paper="NOTICE",
        source="tables of universal attention heads (BLIP L5 of 12; LLaVA L14 to L20 of 32)",
        says="vision heads lie in the middle third of the layers",
        test="share of the vision heads that lie in the middle third: holds when its interval lies above 0.5, does not hold when below",
        kind=ANY,
        models=(*BLIP, *LLAVA),
        judge=in_the_middle,
    ),
    Claim(
        id="notice-consistent",
        paper="NOTICE",
        source="abstract",
        says="universal heads consistently contribute across tasks and modalities",
        test="heads that NOTICE's rule names, which takes |effect|, against the signed rule with corrected p-values (robust_heads): holds "
        "when all hold up, does not hold when none does",
        kind=ANY,
        models=(*BLIP, *LLAVA),
        judge=consistent,
    ),
]

"""NOTICE's claims about accuracy, about the token where modules act, and about noise, whose effect is in the last layers alone."""

from functools import partial

import numpy as np
import xarray as xr
from scipy import stats

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
from analysis.claims.largest import HOW_LESS, both_signs, largest_less
from analysis.claims.place import Place, by_role, enough_layers
from analysis.corruptions.statistics import NOISE, SEMANTIC, TEST, claim, compare

CONFINED = 0.5
MARGIN = 0.05
ACCURACY = {
    "svo_probes": ("SVO-Probes", 0.1610, 0.4089),
    "mit_states": ("MIT-States", 0.4460, 0.6781),
    "fer2013": ("faces", 0.6610, 0.7931),
}


def accurate(place: Place, published: float) -> Finding:
    """Whether the model answers as many questions correctly as in the paper."""
    of_categories = place.folder.answers.get(f"{place.model}/{place.dataset}", {})
    asked, correct = (sum(of[name] for of in of_categories.values()) for name in ("asked", "correct"))
    if not asked:
        raise NotRun(f"the manifest has no answers of {place.model} to {place.dataset}", place.whole_study())
    bounds = stats.binomtest(correct, asked).proportion_ci(place.folder.resampling.confidence, "exact")
    share = Estimate("exact match", correct / asked, bounds.low, bounds.high)
    inside = published - MARGIN <= bounds.low and bounds.high <= published + MARGIN
    outside = bounds.high < published - MARGIN or bounds.low > published + MARGIN
    result = HOLDS if inside else FAILS if outside else UNDECIDED
    return Finding(result, (share,), f"{correct} of {asked}; the interval is Clopper and Pearson's", (place.folder.path / "manifest.json",))


def acts_at_the_main_token(place: Place, component: str) -> Finding:
    """Whether the peak of a module's map under the image corruption is at the token where the paper patches heads (see `largest_less`)."""
    effects, path = place.effects("sip", component)
    wanted = str(effects.attrs["main_token"])
    values = by_role(effects, "logit_difference")
    roles = values["role"].values
    if wanted not in roles or len(roles) < 2:
        raise Undecidable(f"no token has the role {wanted!r}, or none has another")
    size = np.nan_to_num(abs(values.mean("sample")).transpose("layer", "role").values).max(axis=0)
    there, elsewhere = (
        both_signs(values.isel(role=which).transpose("sample", ...).values.reshape(values.sizes["sample"], -1))
        for which in (roles == wanted, roles != wanted)
    )
    names = ("peak", component, place.dataset)
    more = largest_less(place, f"largest |mean LD|, {wanted!r} less other tokens", there, elsewhere, *names)
    each = largest_less(place, f"at {wanted!r}", there, None, *names)
    return Finding(beyond(more), (more, each), f"the peak is at {str(roles[size.argmax()])!r}", (path,))


def confined_by_noise(place: Place, component: str) -> Finding:
    """Whether noise's effect is confined to the last third of the layers, and SIP's and STR's is not (see `compare_corruptions`)."""
    found = {corruption: place.effects(corruption, component) for corruption in (*SEMANTIC, NOISE)}
    values = {corruption: by_role(effects, "logit_difference") for corruption, (effects, _) in found.items()}
    enough_layers(min(of.sizes["layer"] for of in values.values()))
    joined = xr.concat(values.values(), xr.Variable("corruption", list(values)), join="outer")
    compared = compare(joined, place.folder.resampling.comparing)
    late = compared.sel(third="late")
    of_noise = [late.sel(corruption=corruption) for corruption in (NOISE, *SEMANTIC)]
    bounds = ("share", "share_low", "share_high")
    shares = tuple(Estimate(f"last third's share, {one['corruption'].item()}", *(float(one[name]) for name in bounds)) for one in of_noise)
    result = claim(compared, NOISE, list(SEMANTIC), CONFINED)
    return Finding(result, shares, "", tuple(path for _, path in found.values()))


def _accuracy(dataset: str, side: int) -> Claim:
    name, *figures = ACCURACY[dataset]
    model = ("BLIP", "LLaVA")[side]
    return Claim(
        id=f"notice-accuracy-{model.lower()}-{dataset}",
        paper="NOTICE",
        source="accuracy by exact match",
        says=f"{model} answers {100 * figures[side]:.2f} % of the questions on {name} correctly",
        test=f"accuracy by exact match: holds when its interval lies within {100 * MARGIN:.0f} points of that, does not hold when outside",
        kind=(ENCODER, DECODER)[side],
        models=(BLIP, LLAVA)[side],
        data=(dataset,),
        judge=partial(accurate, published=figures[side]),
        each_dataset=True,
        papers_model_only=True,
    )


def _noise(component: str, kind: str) -> Claim:
    return Claim(
        id=f"notice-noise-{component}",
        paper="NOTICE",
        source="Figure 4",
        says=f"Gaussian noise's effect ({component}) is confined to the last layers; that of SIP and STR is not",
        test=f"share of the sum of mean |LD| that the last third of the layers has; {TEST.format(CONFINED)}",
        kind=kind,
        models=BLIP if kind == ENCODER else (*BLIP, *LLAVA),
        judge=partial(confined_by_noise, component=component),
        each_dataset=True,
    )


CLAIMS = [
    *(_accuracy(dataset, side) for side in (0, 1) for dataset in ACCURACY),
    *(
        Claim(
            id=f"notice-{name}-token",
            paper="NOTICE",
            source="choice of the token for head-wise patching",
            says=f"{model}'s {component.replace('_', '-')} acts at {token}",
            test="largest mean LD in size under sip, of any layer, at this role less that at all others, paired over samples; "
            f"{HOW_LESS}: holds when above 0, does not hold when below",
            kind=kind,
            models=models,
            judge=partial(acts_at_the_main_token, component=component),
            each_dataset=True,
        )
        for name, model, component, token, kind, models in (
            ("blip", "BLIP", "cross_attention", "the correct answer's token", ENCODER, BLIP),
            ("llava", "LLaVA", "self_attention", "the last prompt token", DECODER, LLAVA),
        )
    ),
    _noise("mlp", ANY),
    _noise("self_attention", ANY),
    _noise("cross_attention", ENCODER),
    _noise("block", ANY),
]

"""Zhang and Nanda, best practices of activation patching: what corruption, direction and window change."""

from functools import partial

import xarray as xr

from analysis.claims.claim import ANY, BLIP, FAILS, HOLDS, LLAVA, UNDECIDED, Claim, Estimate, Finding, Undecidable, beyond
from analysis.claims.largest import HOW, at_largest
from analysis.claims.place import Place, by_role, enough_layers
from analysis.corruptions.statistics import compare

WINDOW = 3
ROUNDING = 1e-9
DATA: tuple[str, ...] = ()


def ranked_differently(place: Place, one: str, other: str) -> Finding:
    """Whether two ways of patching rank heads less alike than one way does with itself on other samples."""
    found = {corruption: place.heads(corruption) for corruption in (one, other)}
    values = {corruption: of_heads.dropna("sample", how="all") for corruption, ((of_heads,), _) in found.items()}
    for corruption, of_heads in values.items():
        enough_layers(of_heads.sizes["layer"])
        if of_heads.sizes["sample"] < 4:
            raise Undecidable(f"fewer than four samples have an effect under {corruption}, and halves need them")
    joined = xr.concat(values.values(), xr.Variable("corruption", list(values)), join="outer")
    compared = compare(joined, place.folder.resampling.comparing).sel(score="mean_absolute_effect")
    bounds = ("", "_low", "_high")
    pair, halves = compared.sel(corruption=one, other=other), compared.sel(corruption=one)
    alike = Estimate(f"rank correlation, {one} and {other}", *(float(pair[f"rank_correlation{b}"]) for b in bounds))
    itself = Estimate(f"halves of {one}", *(float(halves[f"halves_correlation{b}"]) for b in bounds))
    result = HOLDS if alike.high < itself.low - ROUNDING else FAILS if alike.low >= itself.value - ROUNDING else UNDECIDED
    return Finding(result, (alike, itself), "Spearman's, of mean |LD| of heads", tuple(path for _, path in found.values()))


def windows_add_up_to_more(place: Place) -> Finding:
    """Whether three layers restored together do more, at their best, than the sum of what each does alone (see `at_largest`)."""
    (single, one), (together, three) = (place.effects("sip", "mlp", window=window) for window in (1, WINDOW))
    values = [by_role(effects, "logit_difference") for effects in (single, together)]
    enough_layers(values[0].sizes["layer"])
    both = xr.concat(values, xr.Variable("window", [1, WINDOW]), join="inner").transpose("window", "sample", "layer", "role").values
    summed = (both[0][:, :-2] + both[0][:, 1:-1] + both[0][:, 2:]).reshape(both.shape[1], -1)
    windowed = both[1][:, 1:-1].reshape(both.shape[1], -1)  # windows that are not cut off at the ends
    named = ("best window less the sum of its layers", "best window")
    more, best = at_largest(place, named, windowed, windowed - summed, "windows", place.dataset)
    return Finding(beyond(more), (more, best), "logits", (one, three))


def _differs(name: str, says: str, one: str, other: str, source: str) -> Claim:
    return Claim(
        id=f"best-practices-{name}",
        paper="Zhang and Nanda",
        source=source,
        says=says,
        test=f"Spearman's rank correlation of mean |LD| of heads, {one} and {other}, beside random halves of {one}'s samples: holds when "
        "its interval lies below that of the halves, does not hold when it lies at their mean or above",
        kind=ANY,
        models=(*BLIP, *LLAVA),
        data=DATA,
        judge=partial(ranked_differently, one=one, other=other),
        each_dataset=True,
    )


CLAIMS = [
    _differs(
        "noise", "Gaussian noise and STR find different components", "str", "gaussian_noise_text", "corruption: STR over Gaussian noise"
    ),
    _differs("direction", "denoising and noising find different components", "sip", "sip-noising", "both directions are reported"),
    Claim(
        id="best-practices-window",
        paper="Zhang and Nanda",
        source="single layers before sliding windows",
        says="a sliding window of layers shows more effect than its layers do one by one",
        test="mean LD (MLP, sip) of the window of 3 with the largest effect, less the sum of its three layers' at the same role; "
        f"{HOW}: holds when above 0, does not hold when below",
        kind=ANY,
        models=(*BLIP, *LLAVA),
        data=DATA,
        judge=windows_add_up_to_more,
        each_dataset=True,
    ),
]

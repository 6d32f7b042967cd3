"""NOTICE's claims about single heads: in which layers and at which token they act, and whether they matter."""

import numpy as np

from analysis.claims.claim import (
    ANY,
    BLIP,
    DECODER,
    ENCODER,
    LLAVA,
    Claim,
    Finding,
    NotRun,
    beyond,
    every,
)
from analysis.claims.largest import HOW_LESS, largest_less
from analysis.claims.place import Place, enough_layers
from analysis.stats.thirds import thirds
from interventions.results import faithfulness


def most_in_the_middle(place: Place) -> Finding:
    """Whether a head of the middle third has more effect under the image corruption than one of the early or the late third."""
    (values,), path = place.heads("sip")
    enough_layers(values.sizes["layer"])
    size = place.means(np.abs(values.values), "middle", place.dataset)
    third = thirds(values.sizes["layer"])
    early, middle, late = (size[:, third == number].mean(axis=(1, 2)) for number in range(3))
    others = {"early": early, "late": late}
    found = tuple(place.estimate(f"mean |effect| of a head, middle less {name}", middle - other) for name, other in others.items())
    return Finding(every(map(beyond, found)), found, "logits", (path,))


def at_the_last_token(place: Place) -> Finding:
    """Whether the head with the most effect at the last prompt token has more than any at the correct answer's (see `largest_less`)."""
    found, path = place.heads("sip", "last", "correct")
    last, correct = (of_token.values.reshape(of_token.sizes["sample"], -1) for of_token in found)
    names = ("last token", place.dataset)
    more = largest_less(place, "largest mean LD, last less correct", last, correct, *names)
    each = (largest_less(place, f"at {token!r}", of, None, *names) for token, of in (("last", last), ("correct", correct)))
    return Finding(beyond(more), (more, *each), "", (path,))


def matter(place: Place) -> Finding:
    """Whether knocking out the highest-ranked heads costs more logit difference than knocking out random heads of the same layers."""
    variables = ("logit_correct", "logit_incorrect")
    ablated, path = place.file("sip/*-ablation.nc", "head_ablation", variables, "--corruption sip")
    out = ablated.isel(replacement=0).sel(operation="knock_out")
    random = [str(name) for name in out["set"].values if name != faithfulness.RANKED]
    sizes = [size for size in out["heads"].values if 0 < size < out["heads"].values.max()]
    if not random or not sizes:
        command = place.command("head_ablation", "--corruption sip --overwrite")
        raise NotRun(f"{path.name} lacks random sets, or sets of some heads", command)
    left = out.effects.logit_difference_of().sel(heads=sizes).mean("heads").transpose("sample", "set")
    cost = (left.sel(set=random).mean("set") - left.sel(set=faithfulness.RANKED)).values
    found = place.estimate("LD lost beyond random heads", place.means(cost, "ablation", place.dataset))
    note = f"logits, over sets of {', '.join(map(str, sizes))} heads, replaced by {out['replacement'].item()}"
    return Finding(beyond(found), (found,), note, (path,))


CLAIMS = [
    Claim(
        id="notice-middle-cross-attention",
        paper="NOTICE",
        source="abstract of version 1",
        says="cross-attention heads of the middle layers matter most to the image",
        test="mean |LD| of a cross-attention head under sip, middle less early and middle less late third, paired over samples: holds when "
        "both intervals lie above 0, does not hold when one lies below",
        kind=ENCODER,
        models=BLIP,
        judge=most_in_the_middle,
        each_dataset=True,
    ),
    Claim(
        id="notice-last-token",
        paper="NOTICE",
        source="head-wise patching of LLaVA",
        says="LLaVA's heads act at the last prompt token (\"Assistant:\"; mean LD up to 0.4), not at the correct answer's (at most 0.016)",
        test=f"largest mean LD of a head under sip at the last token less that at the correct answer's; {HOW_LESS}: holds when above "
        "0, does not hold when below",
        kind=DECODER,
        models=LLAVA,
        judge=at_the_last_token,
        each_dataset=True,
    ),
    Claim(
        id="notice-heads-matter",
        paper="NOTICE",
        source="abstract",
        says="the heads with the largest effects contribute to the answer",
        test="logit difference that is lost beyond random heads of the same layers, when the highest-ranked heads are knocked out of the "
        "clean run, mean over the sizes of the sets: holds when its interval lies above 0, does not hold when below",
        kind=ANY,
        models=(*BLIP, *LLAVA),
        judge=matter,
        each_dataset=True,
    ),
]

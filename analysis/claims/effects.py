"""Judges of accuracy, of what heads are worth, and of how ways of patching rank them."""

import xarray as xr

from analysis.claims.layers import with_bounds
from analysis.claims.outcome import FAILS, HOLDS, ROUNDING, UNDECIDED, Finding, NotRun, Undecidable, beyond, proportion
from analysis.claims.subject import Patching, Subject, enough_layers
from analysis.corruptions.statistics import compare
from analysis.store.folder import read_manifest
from interventions.results import faithfulness

MARGIN = 0.05


def accurate(subject: Subject, published: float) -> Finding:
    """Whether the model answers as many questions correctly as in the paper."""
    folder = subject.folder
    answers = folder.once("answers", lambda: read_manifest(folder.path).get("answers", {}))
    categories = answers.get(f"{subject.model}/{subject.dataset}", {}).values()
    asked, correct = (sum(category[name] for category in categories) for name in ("asked", "correct"))
    if not asked:
        raise NotRun(f"the manifest has no answers of {subject.model} to {subject.dataset}", subject.whole_study())
    share = proportion("exact match", correct, asked, folder.options.confidence)
    inside = published - MARGIN <= share.low and share.high <= published + MARGIN
    outside = share.high < published - MARGIN or share.low > published + MARGIN
    result = HOLDS if inside else FAILS if outside else UNDECIDED
    return Finding(result, (share,), f"{correct} of {asked}; the interval is Clopper and Pearson's", (folder.path / "manifest.json",))


def ranked_heads_cost_more(subject: Subject) -> Finding:
    """Whether knocking out the highest-ranked heads costs more logit difference than knocking out random heads of the same layers."""
    variables, options = ("logit_correct", "logit_incorrect"), {"corruption": "sip"}
    ablated, path = subject.first_file("sip/*-ablation.nc", "ablation", variables, **options)
    out = ablated.isel(replacement=0).sel(operation="knock_out")
    random = [str(name) for name in out["set"].values if name != faithfulness.RANKED]
    sizes = [size for size in out["heads"].values if 0 < size < out["heads"].values.max()]
    if not random or not sizes:
        again = subject.command("ablation", **options, overwrite=True)
        raise NotRun(f"{path.name} lacks random sets, or sets of some heads", again)
    left = out.effects.logit_difference_of().sel(heads=sizes).mean("heads").transpose("sample", "set")
    cost = (left.sel(set=random).mean("set") - left.sel(set=faithfulness.RANKED)).values
    lost = subject.estimate("LD lost beyond random heads", subject.means(cost, "ablation", subject.dataset))
    note = f"logits, over sets of {', '.join(map(str, sizes))} heads, replaced by {out['replacement'].item()}"
    return Finding(beyond(lost), (lost,), note, (path,))


def ranked_differently(subject: Subject, one: Patching, other: Patching) -> Finding:
    """Whether two ways of patching rank heads less alike than one way does with itself on other samples."""
    read = {str(patching): subject.heads(patching) for patching in (one, other)}
    values = {name: of_heads.dropna("sample", how="all") for name, ((of_heads,), _) in read.items()}
    for name, of_heads in values.items():
        enough_layers(of_heads.sizes["layer"])
        if of_heads.sizes["sample"] < 4:
            raise Undecidable(f"fewer than four samples have an effect under {name}, and halves need them")
    joined = xr.concat(values.values(), xr.Variable("corruption", list(values)), join="outer")
    compared = compare(joined, subject.folder.options).sel(score="mean_absolute_effect", corruption=str(one))
    alike = with_bounds(f"rank correlation, {one} and {other}", compared.sel(other=str(other)), "rank_correlation")
    itself = with_bounds(f"halves of {one}", compared, "halves_correlation")
    result = HOLDS if alike.high < itself.low - ROUNDING else FAILS if alike.low >= itself.value - ROUNDING else UNDECIDED
    return Finding(result, (alike, itself), "Spearman's, of mean |LD| of heads", tuple(path for _, path in read.values()))

"""Judges of universal heads by NOTICE's rule: those that a paper names, whether there are any, where they lie, whether they hold up.

A kind is looked for in resamples of the samples of each task, apart under each corruption.
"""

from pathlib import Path

import numpy as np
from scipy import stats

from analysis.claims.layers import MOST
from analysis.claims.outcome import FAILS, HOLDS, ROUNDING, UNDECIDED, Finding, NotRun, Undecidable, beyond, proportion
from analysis.claims.subject import Subject, enough_layers
from analysis.heads.head_effects import HeadEffects, flat, read_head_effects
from analysis.heads.options import HeadEffectsOptions
from analysis.heads.rules import Evidence, of_kinds, stand_out, universal
from analysis.stats.thirds import thirds
from analysis.store.folder import ResultsError, effects_files, head_name

ALPHA = 0.05
DEVIATIONS = 2.0  # of NOTICE's rule
Kinds = dict[str, np.ndarray]


def effects_of_heads(subject: Subject) -> HeadEffects:
    """The effects of all heads under both corruptions; raises `NotRun` where one is missing."""
    folder = subject.folder
    try:
        of_model = folder.once("heads", lambda: _read_heads(folder.path)).get(subject.model)
    except ResultsError as error:
        raise NotRun(str(error), subject.whole_study()) from error
    missing = [name for name in HeadEffectsOptions().corruptions() if of_model is None or name not in of_model.corruptions]
    if of_model is None or missing:
        raise NotRun(f"no effects of heads under {' and '.join(missing)}", subject.whole_study())
    return folder.once(("complete heads", subject.model), of_model.complete)


def _read_heads(results: Path) -> dict[str, HeadEffects]:
    """The effects of heads of every model that has any, as NOTICE judges them."""
    files = [file for file in effects_files(results) if file.heads and file.corruption in HeadEffectsOptions().corruptions()]
    return read_head_effects(results, HeadEffectsOptions()) if files else {}


def universal_kinds(subject: Subject, effects: HeadEffects) -> Kinds:
    """Which heads are universal by NOTICE's rule, by kind: bool [resample, layer, head], of the samples as they are first."""

    def kinds() -> Kinds:
        heads = np.stack([_in_every_task(subject, effects, corruption) for corruption in effects.corruptions])
        return of_kinds(heads, list(effects.modality.values()))

    return subject.folder.once(("kinds", subject.model), kinds)


def _in_every_task(subject: Subject, effects: HeadEffects, corruption: str) -> np.ndarray:
    """Which heads are important in every task under a corruption: bool [resample, layer, head]."""
    tasks = []
    for task, values in effects.of(corruption).items():
        absolute = subject.weights(values.sizes["sample"], corruption, task) @ np.abs(flat(values))
        tasks.append(stand_out(absolute.reshape(-1, *effects.shape), DEVIATIONS)[0])
    return universal(Evidence(np.stack(tasks)[None]), np.ones((1, len(tasks)), dtype=bool))[0]


def possible_kinds(subject: Subject, effects: HeadEffects) -> Kinds:
    """The heads that are not clearly out of a kind, by kind, so that none named is not taken for none that exists: bool [layer, head].

    A head is clearly no vision head where its mean |effect| lies below the threshold of a task under the image corruption, or above that
    of every task under the text corruption, each by an interval of its own (Bonferroni over the tasks of both corruptions); text heads
    alike; clearly not multimodal where it lies below a task's threshold under either. There is clearly none where that is so of all heads:
    since the head that truly is one would have to be among them, more heads need no further correction (an intersection-union test,
    Berger 1982).
    """
    image, text = effects.corruptions
    tests = sum(len(effects.of(corruption)) for corruption in (image, text))
    level = 1 - (1 - subject.folder.options.confidence) / 2 / tests
    (out_image, in_image), (out_text, in_text) = (_clearly(subject, effects, corruption, level) for corruption in (image, text))
    return {"vision": ~(out_image | in_text), "text": ~(out_text | in_image), "multimodal": ~(out_image | out_text)}


def _clearly(subject: Subject, effects: HeadEffects, corruption: str, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether each head lies clearly below the threshold in some task, and clearly above it in every one: bool [layer, head]."""
    below, above = [], []
    for task, values in effects.of(corruption).items():
        samples = values.sizes["sample"]
        absolute = subject.weights(samples, "absence", corruption, task) @ np.abs(flat(values))
        margin = margins(absolute, samples)
        error = margin[1:].std(axis=0) * np.sqrt(samples / (samples - 1))
        reach = stats.t.ppf(level, samples - 1) * error
        shape = values.sizes["layer"], values.sizes["head"]
        below.append((margin[0] + reach < 0).reshape(shape))
        above.append((margin[0] - reach > 0).reshape(shape))
    return np.any(below, axis=0), np.all(above, axis=0)


def margins(absolute: np.ndarray, samples: int) -> np.ndarray:
    """Mean |effect| less the threshold, mean + 2 SD over heads, without the spread that so few samples alone give.

    The variance over heads of means of n samples is too large by the variance of those means' errors, which is that of the resamples times
    n / (n - 1); the variance over heads of a resample is so twice. With few samples the threshold of NOTICE's rule is therefore too high,
    and would leave out heads that it names with many.

    Parameters
    ----------
    absolute : [resample, head], of the samples as they are first
    samples : n

    Returns
    -------
    [resample, head]

    >>> few = np.array([[0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, 4.0]])
    >>> margins(few, samples=10)[0].round(2)  # no noise: 4 lies 3 above the mean, and 2 SD are 3.46
    array([-4.46, -4.46, -4.46, -0.46])
    """
    centred = absolute - absolute.mean(axis=1, keepdims=True)
    noise = centred[1:].var(axis=0).mean() * samples / (samples - 1)
    times = np.append(1.0, np.full(len(absolute) - 1, 2.0))
    variance = (centred**2).mean(axis=1) - times * noise
    return centred - DEVIATIONS * np.sqrt(np.maximum(variance, 0))[:, None]


def named(subject: Subject, kind: str, heads: tuple[tuple[int, int], ...]) -> Finding:
    """Whether at least half of the named heads are universal of a kind."""
    effects = effects_of_heads(subject)
    kinds = universal_kinds(subject, effects)[kind]
    _, layers, width = kinds.shape
    if any(layer >= layers or head >= width for layer, head in heads):
        raise Undecidable(f"it has {layers} x {width} heads, so some of those named are not in it")
    of_named = kinds[:, *np.array(heads).T]
    share = subject.estimate("share of those named that is found", of_named.mean(axis=1))
    p = stats.hypergeom.sf(of_named[0].sum() - 1, kinds[0].size, len(heads), int(kinds[0].sum()))
    again = " ".join(head_name(*head) for head, again in zip(heads, of_named[0], strict=True) if again) or "none"
    all_of_kind = " ".join(head_name(*map(int, head)) for head in np.argwhere(kinds[0])[:20]) or "none"
    note = f"found again: {again}; {kind} heads here: {all_of_kind}; p of so many in common by chance {p:.2g} (hypergeometric)"
    return Finding(beyond(share, MOST - ROUNDING), (share,), note, _files(subject, effects))


def exist(subject: Subject, kind: str) -> Finding:
    """Whether some head is universal of a kind, with an effect beyond chance by the signed rule; or clearly none (see `possible_kinds`)."""
    effects = effects_of_heads(subject)
    kinds = universal_kinds(subject, effects)[kind]
    q, path = _universal_q(subject, effects, kind)
    number = subject.estimate(f"{kind} heads", kinds.sum(axis=(1, 2)).astype(float))
    files = (*_files(subject, effects), path)
    if kinds[0].any():
        smallest = float(q[kinds[0]].min())
        note = f"{_names(effects, kinds[0])}; smallest q of the signed rule {smallest:.2g}"
        return Finding(HOLDS if number.low >= 1 and smallest <= ALPHA else UNDECIDED, (number,), note, files)
    possible = possible_kinds(subject, effects)[kind]
    if possible.any():
        note = f"not clearly none: {possible.sum()} of {possible.size} heads may be ({_names(effects, possible)})"
        return Finding(UNDECIDED, (number,), note, files)
    return Finding(FAILS, (number,), "clearly no head", files)


def _universal_q(subject: Subject, effects: HeadEffects, kind: str) -> tuple[np.ndarray, Path]:
    """The larger `universal_q` of robust_heads.nc under the corruptions that make the kind [layer, head], and the file."""
    robust, path = subject.analysed("robust heads", notices_rule=True)
    image, text = effects.corruptions
    needed = {"vision": [image], "text": [text], "multimodal": [image, text]}[kind]
    if missing := [corruption for corruption in needed if corruption not in robust["corruption"].values]:
        raise NotRun(f"{path.name} has no {' and '.join(missing)}", subject.command("robust heads"))
    q = robust["universal_q"].sel(corruption=needed, layer=_layers(effects)).max("corruption")
    return q.transpose("layer", "head").values, path


def _names(effects: HeadEffects, heads: np.ndarray, most: int = 20) -> str:
    """The names of some heads [layer, head]."""
    layers, chosen = _layers(effects), np.argwhere(heads)
    names = " ".join(head_name(int(layers[layer]), int(head)) for layer, head in chosen[:most])
    return names + (" ..." if len(chosen) > most else "")


def _layers(effects: HeadEffects) -> np.ndarray:
    return next(iter(effects.effects.values()))["layer"].values


def _files(subject: Subject, effects: HeadEffects) -> tuple[Path, ...]:
    """The files of heads that `read_head_effects` reads of a model."""
    return tuple(sorted((subject.folder.path / subject.model).glob(f"*/*/{effects.component}-heads.nc")))


def mostly_in_the_middle(subject: Subject, kind: str) -> Finding:
    """Whether most heads of a kind lie in the middle third of the layers."""
    effects = effects_of_heads(subject)
    kinds = universal_kinds(subject, effects)[kind]
    enough_layers(kinds.shape[1])
    middle = kinds[:, thirds(kinds.shape[1]) == 1].sum(axis=(1, 2))
    number = kinds.sum(axis=(1, 2))
    if not number[0]:
        raise Undecidable(f"no head is a {kind} head here")
    shares = np.where(number > 0, middle / np.maximum(number, 1), np.nan)
    share = subject.estimate(f"share of {kind} heads in the middle third", shares)
    return Finding(beyond(share, MOST), (share,), f"{number[0]} {kind} heads", _files(subject, effects))


def hold_up(subject: Subject) -> Finding:
    """Whether every head that is universal by NOTICE's rule is so by the signed, corrected rule too."""
    robust, path = subject.analysed("robust heads", notices_rule=True)
    by_notice, by_sign = robust["notice_universal"].values, robust["universal"].values
    number, kept = int(by_notice.sum()), int((by_notice & by_sign).sum())
    if not number:
        raise Undecidable("no head is universal by NOTICE's rule here")
    share = proportion("share that holds up", kept, number, subject.folder.options.confidence)
    result = HOLDS if kept == number else FAILS if not kept else UNDECIDED
    return Finding(result, (share,), f"{kept} of {number} (head, corruption); the interval is Clopper and Pearson's", (path,))

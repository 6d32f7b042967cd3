"""What is put in the place of a head's z that is ablated: its mean over other samples, 0, another sample's, or the corrupt run's."""

import logging
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interventions.engine.capture import BASE, SOURCE, Captured, Example, capture
from interventions.engine.pairs import PreparedPair
from interventions.methods.options import Replacement
from interventions.study.study import Study

log = logging.getLogger(__name__)
REPLACEMENTS = {
    "mean": "the mean over the other samples' clean runs, at the same place",
    "zero": "0",
    "resample": "that of the clean run of another sample whose prompt is as long, drawn at random",
    "corrupt": "that of the sample's own corrupt run (of noise, of the first draw)",
}
Place = tuple[str, int] | tuple[str] | tuple[()]  # a role and which of its tokens; a role; anywhere


def usual_replacements(study: Study) -> tuple[Replacement, ...]:
    """Those that are used where none are named: the mean or, on a remote host, those that are made there."""
    if study.options.backend != "remote":
        return ("mean",)
    log.warning("z is replaced by zero, resample and corrupt: for its mean over samples it would leave the remote host")
    return ("zero", "resample", "corrupt")


class MeanZ:
    """Mean z over the clean runs of some samples.

    Samples are lined up by token role and place within the role: the second token of the first option has the mean of second tokens of
    first options, the tenth image token that of tenth image tokens. (Options go by their order: the mean over correct options, put in at
    the correct option, would tell the answer.) A place that no other sample has gets the mean of its role, or of all tokens.
    """

    def __init__(self) -> None:
        self._sums: dict[Place, Float[Tensor, "layer width"]] = {}
        self._tokens: Counter[Place] = Counter()

    def add(self, names: Sequence[str], z: Float[Tensor, "layer token width"]) -> None:
        """One sample: the role of each position, and its z."""
        z = z.float().cpu()
        for position, places in enumerate(_places(names)):
            for place in places:
                self._sums[place] = self._sums[place] + z[:, position] if place in self._sums else z[:, position].clone()
                self._tokens[place] += 1

    def without(self, names: Sequence[str], z: Float[Tensor, "layer token width"]) -> Float[Tensor, "layer token width"]:
        """The means over all samples but this one, at each of its positions.

        Raises
        ------
        ValueError
            When it is the only one.
        """
        single = MeanZ()
        single.add(names, z)
        if self._tokens[()] == single._tokens[()]:
            raise ValueError("there is no other sample to take the mean of: use more samples, or another of --replacements")
        chosen = [next(place for place in places if self._tokens[place] > single._tokens[place]) for places in _places(names)]
        means = [(self._sums[place] - single._sums[place]) / (self._tokens[place] - single._tokens[place]) for place in chosen]
        return torch.stack(means, 1)


def _places(names: Sequence[str]) -> list[tuple[Place, ...]]:
    """Where each position stands: in its role, in any place of its role, anywhere."""
    options = dict.fromkeys(name for name in names if name in ("correct", "incorrect"))
    roles = [f"option {list(options).index(name)}" if name in options else name for name in names]
    seen: Counter[str] = Counter()
    places: list[tuple[Place, ...]] = []
    for role in roles:
        places.append(((role, seen[role]), (role,), ()))
        seen[role] += 1
    return places


def partners_of(sample_ids: Sequence[str], lengths: Sequence[int], seed: int) -> dict[str, str]:
    """For each sample another one whose prompt is as long, drawn by the seed and the sample's id; those that have none are not there."""
    partners = {}
    for sample_id, length in zip(sample_ids, lengths, strict=True):
        others = [other for other, tokens in zip(sample_ids, lengths, strict=True) if tokens == length and other != sample_id]
        if others:
            rng = np.random.default_rng([seed, zlib.crc32(sample_id.encode())])
            partners[sample_id] = others[rng.integers(len(others))]
    return partners


class Sources:
    """What is put in, for each sample of a study. It holds neither: it may be pickled, and used in another process.

    Attributes
    ----------
    lonely : ids of the samples that cannot be resampled, since no other's prompt is as long
    """

    def __init__(self, study: Study, component: str, pairs: Sequence[PreparedPair], replacements: Sequence[str]) -> None:
        self._component, self._replacements = component, replacements
        names = [pair.sample_id for pair in pairs]
        lengths = [len(pair.roles) for pair in pairs]
        self._partners = partners_of(names, lengths, study.options.seed) if "resample" in replacements else {}
        self.lonely = [name for name in names if name not in self._partners] if "resample" in replacements else []
        if self.lonely:
            log.warning("%d of %d samples are not resampled: no other has as many tokens", len(self.lonely), len(pairs))
        self._means = MeanZ()
        if "mean" in replacements and study.options.backend == "remote":
            raise ValueError("z would leave the remote host for its mean over samples: choose zero, resample or corrupt (--replacements)")
        if "mean" in replacements:
            for pair in tqdm(pairs, desc=f"{study.vlm.name} mean z of {component}", unit="sample"):
                captured = capture(study.vlm, [_clean_base(study, pair)], (component,))
                self._means.add(pair.roles, captured.states[component][0, BASE])

    def of(self, study: Study, pair: PreparedPair) -> "Material":
        """What a pair's replacements are made of."""
        ours = _clean_base(study, pair)
        partner = self._partners.get(pair.sample_id)
        others = [_clean_base(study, study.pair(study.options.corruption, partner))] if partner else []
        means = self._means if "mean" in self._replacements else None
        return Material([ours, *others], means, list(pair.roles) if means else [], tuple(self._replacements))


@dataclass(frozen=True)
class Material:
    """What the replacements in one pair are made of, where the weights are.

    Attributes
    ----------
    examples : the pair with the clean run as its base, and the one, if any, whose z is drawn for it
    means, names : the mean z and the role of each position, where the mean is wanted
    """

    examples: list[Example]
    means: MeanZ | None
    names: list[str]
    wanted: tuple[str, ...]

    def put_in(self, captured: Captured, component: str) -> dict[str, Float[Tensor, "layer token width"]]:
        """What replaces z in the captured pair, by the name of the replacement."""
        states = captured.states[component]
        values = {"zero": torch.zeros_like(states[0, BASE]), "corrupt": states[0, SOURCE]}
        if len(self.examples) > 1:
            values["resample"] = states[1, BASE]
        if self.means is not None:
            values["mean"] = self.means.without(self.names, states[0, BASE]).to(states)
        return {name: values[name] for name in self.wanted if name in values}


def _clean_base(study: Study, pair: PreparedPair) -> Example:
    """A pair of which states are put into the clean run; of noise, with the first draw."""
    return study.examples(pair, study.options.corruption, base="clean")[0]

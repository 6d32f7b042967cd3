"""The runs of a pair as the model takes them: its corrupt run or, where the corruption is noise, one of each draw."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from torch import Tensor

from corruptions.base import CORRUPTIONS
from data_prep.tables import schema as sample_table
from data_prep.tables.sample import Sample
from interventions.engine.capture import Example, example
from interventions.engine.corrupt_embeddings import Noise, draw_noise, embedding_deviation, embedding_mean, replaced
from interventions.engine.pairs import PreparedPair
from interventions.models.vlm import Vlm
from interventions.results.manifest import read_manifest, update_manifest
from interventions.study.options import Options

MOST_MEASURED = 1000  # samples over which embeddings are measured


@dataclass
class CorruptRuns:
    """Makes the runs of pairs.

    Attributes
    ----------
    made_by : the model and the data that deviations in the manifest are of
    deviations, means : for each corruption that was asked for, what `embedding_deviation` and `embedding_mean` give
    """

    options: Options
    vlm: Vlm
    table: Dataset
    made_by: Mapping[str, Any]
    deviations: dict[str, float] = field(default_factory=dict)
    means: dict[str, Tensor] = field(default_factory=dict)

    @property
    def base(self) -> Literal["clean", "corrupt"]:
        """The run that states are put into, by the direction."""
        return "clean" if self.options.direction == "noising" else "corrupt"

    def draws(self, corruption: str) -> int:
        """How many corrupt runs a sample has."""
        return self.options.corruption_options.noise_draws if CORRUPTIONS[corruption].draws else 1

    def examples(self, prepared: PreparedPair, corruption: str, base: Literal["clean", "corrupt"] | None = None) -> list[Example]:
        """A pair as the model takes it, once for each draw of the noise.

        Parameters
        ----------
        base : the run that states are put into; default: as the direction says
        """
        draws = range(self.draws(corruption))
        noises = [self._noise(prepared, corruption, draw) for draw in draws] if CORRUPTIONS[corruption].embeddings else [None]
        return [example(self.vlm, prepared, noise, base or self.base) for noise in noises]

    def _noise(self, prepared: PreparedPair, corruption: str, draw: int) -> Noise:
        entry, pair = CORRUPTIONS[corruption], prepared.pair
        if entry.draws:
            return draw_noise(self.vlm, pair, entry.modality, self.sigma(corruption), self.options.seed, draw)
        mean = self.embedding_mean(corruption) if entry.measures_embeddings else None
        return replaced(self.vlm, pair, entry.modality, mean)

    def sigma(self, corruption: str) -> float:
        """The standard deviation of the noise."""
        return self.options.corruption_options.noise_multiple * self.embedding_deviation(corruption)

    def noise_attributes(self, corruption: str) -> dict[str, Any]:
        """What a file says of its noise; nothing where the corruption is none."""
        entry = CORRUPTIONS[corruption]
        return entry.run_configuration(self.options.corruption_options) | {"noise_sigma": self.sigma(corruption)} if entry.draws else {}

    def embedding_mean(self, corruption: str) -> Tensor:
        """The mean of the embeddings that are replaced, over the table's clean runs (see `measured_samples`); measured once."""
        if corruption not in self.means:
            self.means[corruption] = embedding_mean(self.vlm, self.measured_samples(), CORRUPTIONS[corruption].modality)
        return self.means[corruption]

    def embedding_deviation(self, corruption: str) -> float:
        """The standard deviation of the embeddings that get noise, over the table's clean runs (see `measured_samples`); measured once,
        and kept in the manifest."""
        if corruption not in self.deviations:
            key = f"{self.vlm.name}/{self.table[0]['dataset']}/{corruption}"
            of = {**self.made_by, "most_samples": MOST_MEASURED}
            known = read_manifest(self.options.out).get("embedding_deviations", {}).get(key, {})
            if known.get("of") != of:
                deviation = embedding_deviation(self.vlm, self.measured_samples(), CORRUPTIONS[corruption].modality)
                known = {"deviation": deviation, "of": of}
                update_manifest(self.options.out, "embedding_deviations", key, known)
            self.deviations[corruption] = known["deviation"]
        return self.deviations[corruption]

    def measured_samples(self) -> list[Sample]:
        """The rows over whose clean runs embeddings are measured: all of the table whose prompt fits, or 1,000 of them, always the same.

        Whichever samples are chosen, and however the model answers them: what a sample's corrupt run gets does not depend on the others.
        """
        rows = list(sample_table.rows(self.table))
        order = np.random.default_rng(0).permutation(len(rows)) if len(rows) > MOST_MEASURED else range(len(rows))
        fitting = (rows[i] for i in order if len(self.vlm.tokenize(rows[i]["question"]).ids) <= self.vlm.longest_prompt)
        return list(islice(fitting, MOST_MEASURED))

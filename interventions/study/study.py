"""One model on one data set: what every method works on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from corruptions.base import CORRUPTIONS, LeftOut
from data_prep.tables.sample import Sample
from interventions.engine.capture import Example
from interventions.engine.pairs import PreparedPair
from interventions.models.vlm import Vlm
from interventions.results.manifest import note_not_run
from interventions.study.choosing import Choosing, Chosen
from interventions.study.configuration import Configuration, made_by
from interventions.study.corrupt_runs import CorruptRuns
from interventions.study.options import Options


@dataclass
class Study:
    """A model, a data set, the model's answers and the options; samples are chosen when they are asked for.

    Attributes
    ----------
    name : the data set's name
    answers : the model's own answer to each sample, by id
    data_folder : where the table is
    chosen : for each corruption that was asked for, its pairs
    """

    options: Options
    vlm: Vlm
    name: str
    table: Dataset
    fingerprint: str
    answers: dict[str, str]
    data_folder: Path
    chosen: dict[str, Chosen] = field(default_factory=dict)
    corrupt_runs: CorruptRuns = field(init=False)
    _by_id: dict[str, dict[str, PreparedPair]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.corrupt_runs = CorruptRuns(self.options, self.vlm, self.table, made_by(self.options, self.vlm, self.fingerprint))

    def under(self, corruption: str) -> "Study":
        """The same study under another corruption; what was chosen and measured is shared."""
        other = replace(self, options=replace(self.options, corruption=corruption))
        other.corrupt_runs = self.corrupt_runs
        return other

    @property
    def folder(self) -> Path:
        return self.options.out / self.vlm.name / self.name

    @property
    def base(self) -> Literal["clean", "corrupt"]:
        """The run that states are put into."""
        return self.corrupt_runs.base

    def label(self, corruption: str) -> str:
        """What results under a corruption are filed under."""
        return corruption + ("-noising" if self.options.direction == "noising" else "")

    # ------------------------------------------------------------------ samples

    def sample(self, sample_id: str) -> Sample:
        """One row of the table."""
        return self.table[self._rows[sample_id]]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.table["sample_id"])}

    def pairs(self, corruption: str, files: Sequence[Path] = ()) -> Chosen:
        """The pairs that are used under a corruption (see `Choosing.choose`).

        Parameters
        ----------
        files : results files of these pairs; when none is left, the manifest says that they are not made, and why
        """
        if corruption not in self.chosen:
            try:
                self.chosen[corruption] = Choosing(self.options, self.vlm, self.table, self.answers).choose(corruption)
            except LeftOut as reason:
                for path in files:
                    note_not_run(self.options.out, path, reason)
                raise
        return self.chosen[corruption]

    def pair(self, corruption: str, sample_id: str) -> PreparedPair:
        """One of the pairs that are used under a corruption."""
        if corruption not in self._by_id:
            self._by_id[corruption] = {pair.sample_id: pair for pair in self.pairs(corruption).pairs}
        return self._by_id[corruption][sample_id]

    # ------------------------------------------------------------------ runs

    def draws(self, corruption: str) -> int:
        """How many corrupt runs a sample has."""
        return self.corrupt_runs.draws(corruption)

    def examples(self, pair: PreparedPair, corruption: str, base: Literal["clean", "corrupt"] | None = None) -> list[Example]:
        """A pair as the model takes it, once for each draw of the noise (see `CorruptRuns.examples`)."""
        return self.corrupt_runs.examples(pair, corruption, base)

    # ------------------------------------------------------------------ files

    def configuration(self, corruption: str | None = None, samples_of: str | None = None, **more: Any) -> dict[str, Any]:
        """Everything that the numbers of a file depend on (see `Configuration.of_file`)."""
        return self._configuration.of_file(corruption, samples_of, **more)

    @cached_property
    def _configuration(self) -> Configuration:
        return Configuration(self.options, self.vlm, self.name, self.fingerprint)

    def attributes(self, title: str, component: str, corruption: str | None = None, samples_of: str | None = None) -> dict[str, Any]:
        """What a file says of its making, with the corruption of its corrupt runs or, of clean runs alone, that whose samples they are."""
        corrupted = {"samples_of": samples_of} if samples_of else {}
        if corruption:
            corrupted = {"corruption": corruption, "modality": CORRUPTIONS[corruption].modality}
            corrupted |= self.corrupt_runs.noise_attributes(corruption)
        return {"title": title, "component": component, **self._configuration.attributes(), **corrupted}

    def patching_attributes(self, title: str, component: str, corruption: str) -> dict[str, Any]:
        """What a file of patched runs says of its making."""
        of = {"corruption": self.label(corruption), "direction": self.options.direction}
        return self.attributes(title, component, corruption) | of

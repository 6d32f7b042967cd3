"""What every intervention script shares: its options, the model, the samples it uses and their corrupt partners."""

import logging
import math
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from corruptions.base import CORRUPTIONS, LeftOut, Pair, PairMaker, named
from data_prep.scenes.table import make_shapes
from data_prep.tables import schema as sample_table
from data_prep.tables.sample import Sample
from interventions import __version__, backends
from interventions.engine.capture import Example, PairError, example, prompts_of
from interventions.engine.corrupt_embeddings import Noise, draw_noise, embedding_deviation, embedding_mean, replaced
from interventions.models.loading import load
from interventions.models.parts import part_of
from interventions.models.vlm import Scored, Server, Vlm
from interventions.results.store import check_writable, read_manifest, update_manifest
from interventions.study.answers import answer_all, ask_backend, is_exact_match
from interventions.study.option_words import asked, defaults
from interventions.study.options import Options

log = logging.getLogger(__name__)
SMALL_WIDTH = 256
LIBRARIES = ("nnsight", "torch", "transformers", "numpy", "xarray")
MOST_MEASURED = 1000  # samples over which embeddings are measured
AT_LEAST = {"samples": 1, "seed": 0, "threads": 0, "batch": 0, "verify": 0}


@dataclass
class Study:
    """One model on one data set, read to be patched.

    Attributes
    ----------
    name : the data set's name
    answers : the model's own answer to each sample, by id
    data_folder : where the table is
    chosen : for each corruption that was asked for, what `pairs` gives
    deviations, means : for each that was asked for, what `embedding_deviation` and `embedding_mean` give
    """

    options: Options
    vlm: Vlm
    name: str
    table: Dataset
    fingerprint: str
    answers: dict[str, str]
    data_folder: Path
    chosen: dict[str, tuple[list[Pair], list[dict[str, str]]]] = field(default_factory=dict)
    deviations: dict[str, float] = field(default_factory=dict)
    means: dict[str, Tensor] = field(default_factory=dict)
    _by_id: dict[str, dict[str, Pair]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.options.out / self.vlm.name / self.name

    def under(self, corruption: str) -> "Study":
        """The same study under another corruption; what was chosen and measured is shared."""
        return replace(self, options=replace(self.options, corruption=corruption))

    def draws(self, corruption: str) -> int:
        """How many corrupt runs a sample has."""
        return self.options.corruption_options.noise_draws if CORRUPTIONS[corruption].draws else 1

    def label(self, corruption: str) -> str:
        """What results under a corruption are filed under."""
        return corruption + ("-noising" if self.options.direction == "noising" else "")

    def pairs(self, corruption: str) -> tuple[list[Pair], list[dict[str, str]]]:
        """The pairs that are used under a corruption, and the samples left out with their reasons.

        Samples are taken in the table's order until each category has `options.samples`, half of them with the correct option
        first; what one half lacks the other may fill.
        """
        if corruption not in self.chosen:
            self.chosen[corruption] = self._choose(corruption)
        return self.chosen[corruption]

    def pair(self, corruption: str, sample_id: str) -> Pair:
        """One of the pairs that are used under a corruption."""
        if corruption not in self._by_id:
            self._by_id[corruption] = {pair.sample["sample_id"]: pair for pair in self.pairs(corruption)[0]}
        return self._by_id[corruption][sample_id]

    def sample(self, sample_id: str) -> Sample:
        """One row of the table."""
        return self.table[self._places[sample_id]]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.table["sample_id"])}

    def pairs_for(self, paths: Sequence[Path], corruption: str) -> tuple[list[Pair], list[dict[str, str]]]:
        """`pairs`, for some results files: when none is left, the manifest says that they were not run, and why."""
        try:
            return self.pairs(corruption)
        except LeftOut as reason:
            for path in paths:
                entry = {"status": f"not run: {reason}", "samples": 0}
                update_manifest(self.options.out, "runs", str(path.relative_to(self.options.out)), entry)
            raise

    def _choose(self, corruption: str) -> tuple[list[Pair], list[dict[str, str]]]:
        entry = CORRUPTIONS[corruption]
        modality = entry.modality
        if modality not in self.vlm.reads:
            raise LeftOut(f"{corruption} changes the {modality}, which {self.vlm.name} does not read: no state would differ")
        if entry.embeddings and modality in self.vlm.late_embeddings:
            raise LeftOut(
                f"{corruption} changes {modality} embeddings that come after the layers of {self.vlm.name}, where no state would differ: "
                "use a corruption of what the model reads"
            )
        maker = entry.make(sample_table.rows(self.table), self.options.seed, self.options.corruption_options, self.options.device)
        groups: dict[str, dict[bool, list[Sample]]] = {}
        for sample in sample_table.rows(self.table):
            groups.setdefault(sample["category"], {True: [], False: []})[sample["correct_first"]].append(sample)
        left_out: list[dict[str, str]] = []
        chosen: list[Pair] = []
        wanted = self.options.samples
        for group in groups.values():
            first, second = (self._usable(maker, group[order], left_out) for order in (True, False))
            taken = list(islice(first, wanted // 2))
            taken += islice(second, wanted - len(taken))
            taken += islice(first, wanted - len(taken))
            chosen += sorted(taken, key=lambda pair: pair.sample["sample_id"])
        if not chosen:
            reasons = "; ".join(f"{entry['sample']}: {entry['reason']}" for entry in left_out[:3])
            raise LeftOut(
                f"no sample of {self.name!r} is left for {self.vlm.name} under {corruption}. The first reasons: {reasons}. "
                "Samples that the model answers wrongly are used with --keep-wrong"
            )
        return chosen, left_out

    def _usable(self, maker: PairMaker, samples: Sequence[Sample], left_out: list[dict[str, str]]) -> Iterator[Pair]:
        """The pairs of some samples, made when they are asked for; those that cannot be used go into `left_out`."""
        for sample in samples:
            try:
                self._check_length(sample)
                self._check_answer(sample)
                pair = maker.corrupt(sample, self.vlm.tokenize)
                prompts_of(self.vlm, pair, self.scored(pair).forced)
            except (LeftOut, PairError) as reason:
                left_out.append({"sample": sample["sample_id"], "reason": str(reason)})
            else:
                yield pair

    def _check_answer(self, sample: Sample) -> None:
        generated = self.answers[sample["sample_id"]]
        if not self.options.keep_wrong and not is_exact_match(generated, sample["correct_answer"]):
            raise LeftOut(f"the model answers {generated!r}, not {sample['correct_answer']!r}")

    def _check_length(self, sample: Sample) -> None:
        tokens = self._length(sample)
        if tokens > self.vlm.longest_prompt:
            raise LeftOut(f"the prompt has {tokens} tokens, the model takes {self.vlm.longest_prompt}")

    def _length(self, sample: Sample) -> int:
        return len(self.vlm.tokenize(sample["question"]).ids)

    def examples(self, pair: Pair, corruption: str) -> list[Example]:
        """A pair as the model takes it, once for each draw of the noise, in the study's direction."""
        scored = self.scored(pair)
        changed = CORRUPTIONS[corruption].embeddings
        noises = [self._noise(pair, corruption, draw) for draw in range(self.draws(corruption))] if changed else [None]
        made = [example(self.vlm, pair, scored, noise) for noise in noises]
        return [one.exchanged() for one in made] if self.options.direction == "noising" else made

    def _noise(self, pair: Pair, corruption: str, draw: int) -> Noise:
        entry = CORRUPTIONS[corruption]
        if entry.draws:
            return draw_noise(self.vlm, pair, entry.modality, self.sigma(corruption), self.options.seed, draw)
        mean = self.embedding_mean(corruption) if entry.measures_embeddings else None
        return replaced(self.vlm, pair, entry.modality, mean)

    def sigma(self, corruption: str) -> float:
        """The standard deviation of the noise."""
        return self.options.corruption_options.noise_multiple * self.embedding_deviation(corruption)

    def embedding_mean(self, corruption: str) -> Tensor:
        """The mean of the embeddings that are replaced, over the table's clean runs (see `measured_samples`); measured once."""
        if corruption not in self.means:
            self.means[corruption] = embedding_mean(self.vlm, self.measured_samples(), CORRUPTIONS[corruption].modality)
        return self.means[corruption]

    def embedding_deviation(self, corruption: str) -> float:
        """The standard deviation of the embeddings that get noise, over the table's clean runs (see `measured_samples`); measured once,
        and kept in the manifest."""
        if corruption not in self.deviations:
            key = f"{self.vlm.name}/{self.name}/{corruption}"
            of = self._made_by() | {"most_samples": MOST_MEASURED}
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
        return list(islice((rows[i] for i in order if self._length(rows[i]) <= self.vlm.longest_prompt), MOST_MEASURED))

    def scored(self, pair: Pair) -> Scored:
        """By what tokens the two answers are scored; raises `LeftOut` when they cannot be told apart."""
        generated = self.answers[pair.sample["sample_id"]]
        if self.options.definition == "reference":
            answers = (pair.sample[name] for name in ("correct_answer", "incorrect_answer"))
            scored = Scored(*self.vlm.reference_answer_ids(generated, *answers))
            if scored.correct == scored.incorrect:
                raise LeftOut(f"the answers are scored by the same token, {scored.correct}")
            return scored
        texts = [self.vlm.spoken(pair.sample[name], generated) for name in ("correct_answer", "incorrect_answer")]
        try:
            scored = self.vlm.scored(pair.clean_question, *texts)
        except ValueError as error:
            raise LeftOut(str(error)) from error
        if scored.forced and self.options.shared_pieces == "leave-out":
            raise LeftOut(
                f"the answers {texts[0]!r} and {texts[1]!r} begin with the same token (--shared-pieces force scores the first that differs)"
            )
        return scored

    def configuration(self, corruption: str | None = None, samples_of: str | None = None, **more: Any) -> dict[str, Any]:
        """Everything that the numbers depend on.

        Parameters
        ----------
        corruption : of the corrupt runs
        samples_of : of clean runs alone, which have no direction: the corruption whose samples they are
        """
        return {
            **self._made_by(),
            "dataset": self.name,
            "samples": self.options.samples,
            "seed": self.options.seed,
            "definition": self.options.definition,
            "keep_wrong": self.options.keep_wrong,
            "divergence": self.options.divergence,
            "shared_pieces": self.options.shared_pieces,
            **(self._of_corrupt_runs(corruption) if corruption else {}),
            **({"samples_of": samples_of, **CORRUPTIONS[samples_of].configuration(self.options.corruption_options)} if samples_of else {}),
            **more,
        }

    def _made_by(self) -> dict[str, Any]:
        """The model, as it runs here, and the data."""
        return {
            "model": self.vlm.name,
            "model_revision": self.vlm.revision,
            "dataset_fingerprint": self.fingerprint,
            "dtype": self.vlm.number_format,
            "device": self.vlm.device_type,
            "program_version": __version__,
            **({"backend": "remote"} if self.options.backend == "remote" else {}),  # with libraries of its own
            **self.vlm.weights_there,
        }

    def _of_corrupt_runs(self, corruption: str) -> dict[str, Any]:
        entry, options = CORRUPTIONS[corruption], self.options.corruption_options
        return {
            "corruption": corruption,
            "direction": self.options.direction,
            **entry.configuration(options),
            **entry.run_configuration(options),
            **({"embeddings_over": MOST_MEASURED} if entry.measures_embeddings else {}),
        }

    def noise(self, corruption: str) -> dict[str, Any]:
        """What a file says of its noise; nothing where the corruption is none."""
        entry = CORRUPTIONS[corruption]
        return entry.run_configuration(self.options.corruption_options) | {"noise_sigma": self.sigma(corruption)} if entry.draws else {}

    def provenance(self) -> dict[str, str]:
        """What else a result should say about its making; versions are those where the model runs, of what runs there."""
        versions = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
        versions |= self.vlm.server.versions if self.vlm.server else {}
        return {
            "architecture": self.vlm.architecture.name,
            "library_versions": ", ".join(f"{name} {versions[name]}" for name in LIBRARIES),
            "python_version": versions["python"],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def prepare(options: Options, vlm: Vlm | None = None) -> Study:
    """Load (or take) the model, load or make the data set, and let the model answer it.

    Raises
    ------
    ModelError, SampleError, ResultsError, ValueError
        Each says what is wrong and what to do.
    """
    check_options(options)
    check_writable(options.out)
    name, table, fingerprint = load_data(options)
    vlm = vlm or open_model(options)
    vlm = part_of(vlm, options.part) if options.part else vlm
    torch.set_num_threads(options.threads or (1 if vlm.width < SMALL_WIDTH else os.cpu_count() or 1))
    study = Study(options, vlm, name, table, fingerprint, {}, options.data_folder)
    study.answers = answer_all(vlm, table, fingerprint, options.out, name, ask=partial(ask_backend, study))
    shared = {key: value for key, value in asked(options).items() if key in defaults(Options)}
    update_manifest(options.out, "studies", f"{vlm.name}/{name}", {"options": shared, "facts": facts(vlm)})
    return study


def facts(vlm: Vlm) -> dict[str, Any]:
    """What the analysis must know of a model to say which commands can be run on it; for the manifest."""
    architecture = vlm.architecture
    head_attention = architecture.attention.get(architecture.head_component)
    return {
        "causal": architecture.causal,
        "head_component": architecture.head_component,
        "main_token": architecture.main_token,
        "reads": sorted(vlm.reads),
        "reads_patches": head_attention is not None and head_attention.image_keys in ("after_class_token", "image_tokens"),
    }


def check_options(options: Options) -> None:
    """Raise, before any work, where an option cannot be used.

    Raises
    ------
    ValueError, BackendError
        Each says which, and what it may be.
    """
    corruption = named(options.corruption)
    wholes = {name: (getattr(options, name), least) for name, least in AT_LEAST.items()}
    wholes |= {"workers": (options.ray.workers, 0), "jobs": (options.remote.jobs, 1)}
    for name, (value, least) in wholes.items():
        if value < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if not (math.isfinite(options.remote.wait_limit) and options.remote.wait_limit > 0):
        raise ValueError(f"--wait-limit must be a finite number above 0, not {options.remote.wait_limit:g}")
    if (share := options.ray.gpus_per_worker) is not None and not (math.isfinite(share) and share >= 0):
        raise ValueError(f"--gpus-per-worker must be a finite number of at least 0, not {share:g}")
    corruption.configuration(options.corruption_options)  # raises where its diffusion model cannot be used
    backends.choose(options)  # raises where it cannot be used


def open_model(options: Options) -> Vlm:
    """The model of some options: loaded here or, for a remote host, without its weights.

    Raises
    ------
    ModelError, SiteError
        See `load`.
    BackendError
        It cannot run on the host; says why.
    """
    if not options.backend.startswith("remote"):
        return load(options.model, options.device, options.dtype, options.revision)
    from interventions.backends.remote import DryRun, Host, RemoteServer

    if options.backend == "remote":
        server = RemoteServer(Host(options.remote.host, options.remote.wait_limit), options.out)
        vlm = load(options.model, revision=options.revision, server=server)
        _say_what_is_there(options, server)
        return vlm
    vlm = load(options.model, options.device, options.dtype, options.revision)
    DryRun().meet(vlm)
    return vlm


def _say_what_is_there(options: Options, server: Server) -> None:
    """Warn where a host's model is on another device, or in another number format, than the options say."""
    wanted = {"--dtype": (options.dtype, "float32", server.number_format), "--device": (options.device, "auto", server.device_type)}
    ignored = [f"{name} {asked}" for name, (asked, usual, there) in wanted.items() if asked.split(":")[0] not in (usual, there)]
    if ignored:
        log.warning("%s: the host has the model in %s on %s", " and ".join(ignored), server.number_format, server.device_type)


def load_data(options: Options) -> tuple[str, Dataset, str]:
    """Name, table and fingerprint of the data set; makes `shapes` in `<out>/data/` with a fifth more samples than asked for."""
    folder = options.data_folder
    if options.data == "shapes" and not folder.is_dir():
        table = make_shapes(options.rendered, options.seed)
        sample_table.save(table, folder, {"name": "shapes", "seed": options.seed, "left_out": []})
    table = sample_table.load(folder)
    entry = {"samples": len(table), "folder": str(folder), "left_out": sample_table.left_out(folder)}
    update_manifest(options.out, "data", table[0]["dataset"], entry)
    return table[0]["dataset"], table, sample_table.fingerprint(table)

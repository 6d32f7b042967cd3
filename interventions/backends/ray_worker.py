"""What a worker process of Ray does: read a study again, its model by name, and measure the batches that it is given."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from datasets import Dataset

from data_prep.tables import schema as sample_table
from data_prep.tables.sample import SampleError
from interventions.backends.work import Batch, Work
from interventions.engine.pairs import PreparedPair
from interventions.models.loading import load
from interventions.models.parts import part_of
from interventions.models.vlm import Vlm
from interventions.results.store import Arrays
from interventions.study.choosing import Chosen
from interventions.study.errors import BackendError
from interventions.study.options import Options
from interventions.study.study import Study


@dataclass(frozen=True)
class Task:
    """A study without its model and its data, which a worker reads itself, and the work on it.

    Attributes
    ----------
    folder : of the sample table
    pairs : for each corruption the study's pairs, of each sample the id alone
    threads : CPU threads of torch, on which the numbers of a CPU depend by rounding
    model_revision, device, number_format : of the study's model; a worker's must be the same
    """

    options: Options
    name: str
    folder: Path
    fingerprint: str
    answers: dict[str, str]
    pairs: dict[str, list[PreparedPair]]
    deviations: dict[str, float]
    means: dict[str, torch.Tensor]
    threads: int
    model_revision: str
    device: str
    number_format: str
    work: Work

    @classmethod
    def of(cls, study: Study, work: Work) -> "Task":
        options = study.options
        for corruption, chosen in study.chosen.items():
            study.examples(chosen.pairs[0], corruption)  # measures what noise depends on, over the table, before each worker does
        corruption_options = replace(options.corruption_options, inpainted=options.corruption_options.inpainted.absolute())  # type: ignore[call-arg]
        model = str(Path(options.model).absolute()) if Path(options.model).is_dir() else options.model
        return cls(
            replace(options, model=model, out=options.out.absolute(), corruption_options=corruption_options),
            study.name,
            study.data_folder.absolute(),
            study.fingerprint,
            study.answers,
            {corruption: [pair.without_sample() for pair in chosen.pairs] for corruption, chosen in study.chosen.items()},
            study.corrupt_runs.deviations,
            {corruption: mean.cpu() for corruption, mean in study.corrupt_runs.means.items()},
            torch.get_num_threads() if study.vlm.device.type == "cpu" else 1,
            study.vlm.revision,
            study.vlm.device.type,
            study.vlm.number_format,
            work,
        )


class Worker:
    """Holds one model, and the last study. What it holds can be read again: a worker that is started anew lacks nothing."""

    def __init__(self) -> None:
        self._key = ""
        self._task: Task | None = None
        self._study: Study | None = None
        self._model: tuple[tuple[Any, ...], Vlm] | None = None
        self._table: tuple[tuple[Path, str], Dataset] | None = None

    @ray.method(max_task_retries=-1)
    def ready(self) -> str:
        """The name of the machine that the worker runs on."""
        return socket.gethostname()

    def measure(self, key: str, task: "list[ray.ObjectRef]", batch: Batch) -> list[Mapping[str, Arrays]]:
        """What a task's work measures of a batch.

        Parameters
        ----------
        key : names the task
        task : a reference to it, in a list so that it is fetched only when it is not the last one
        """
        if key != self._key or self._task is None or self._study is None:
            self._task = ray.get(task[0])
            self._study = self._read(self._task)
            self._key = key
        return self._task.work(self._study, batch)

    def _read(self, task: Task) -> Study:
        torch.set_num_threads(task.threads)
        vlm, table = self._load(task), self._samples(task)
        rows = {row["sample_id"]: row for row in sample_table.rows(table)}
        study = Study(task.options, vlm, task.name, table, task.fingerprint, task.answers, task.folder)
        for corruption, pairs in task.pairs.items():
            study.chosen[corruption] = Chosen([pair.with_sample(rows[pair.sample_id]) for pair in pairs], [])
        study.corrupt_runs.deviations |= task.deviations
        study.corrupt_runs.means |= {corruption: mean.to(vlm.device) for corruption, mean in task.means.items()}
        return study

    def _samples(self, task: Task) -> Dataset:
        wanted = task.folder, task.fingerprint
        if self._table is None or self._table[0] != wanted:
            try:
                self._table = wanted, sample_table.load(task.folder)
            except SampleError as error:
                raise BackendError(
                    f"{self._where} cannot read the data: {error}. Its folder must be at the same path on every node"
                ) from error
        return self._table[1]

    def _load(self, task: Task) -> Vlm:
        options = task.options
        wanted = (options.model, options.dtype, options.revision, options.part)
        if self._model is None or self._model[0] != wanted:
            self._model = None  # before the next one takes memory
            vlm = load(options.model, task.device, options.dtype, options.revision, check=False)  # checked where the study was read
            self._model = wanted, part_of(vlm, options.part) if options.part else vlm
        vlm = self._model[1]
        for what, loaded, expected in (
            ("model revision", vlm.revision, task.model_revision),
            ("number format", vlm.number_format, task.number_format),
        ):
            if loaded != expected:
                raise BackendError(f"{self._where} has another {what} of {options.model} than this program: {loaded}, not {expected}")
        return vlm

    @property
    def _where(self) -> str:
        return f"the Ray worker on {socket.gethostname()}"

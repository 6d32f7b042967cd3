"""The loop over samples of methods that measure one sample after the other; it can be interrupted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

from interventions.backends.running import run_batches
from interventions.backends.work import Batch
from interventions.engine.pairs import PreparedPair
from interventions.results.manifest import note_finished
from interventions.results.store import Arrays, Store
from interventions.study.study import Study

Compute = Callable[[Study, PreparedPair, bool], Arrays]


@dataclass(frozen=True)
class OneByOne:
    """The work of measuring pairs one after the other (see `interventions.backends.work.Work`).

    Attributes
    ----------
    compute : the arrays of a pair; the last argument says whether to hold them against the plain path
    """

    compute: Compute

    def __call__(self, study: Study, batch: Batch) -> list[Mapping[str, Arrays]]:
        pairs = [study.pair(study.options.corruption, name) for name in batch.samples]
        return [{batch.files[0]: self.compute(study, pair, pair.sample_id in batch.checked)} for pair in pairs]


def each_sample(
    study: Study, store: Store, compute: Compute, not_done: Sequence[dict[str, str]] = ()
) -> tuple[list[PreparedPair], list[Arrays]]:
    """Compute what the store lacks, write the manifest's entry, and return the pairs with their arrays.

    Parameters
    ----------
    compute : see `OneByOne`; it may be pickled, so it is a function of a module, or a `partial` of one
    not_done : what else the manifest should list beside the samples left out
    """
    started = perf_counter()
    pairs, left_out = study.pairs(study.options.corruption, [store.path])
    names = [pair.sample_id for pair in pairs]
    missing = [name for name in names if not store.has(name)]
    file = store.path.stem
    batches = [Batch((name,), (file,), (name,) if number < study.options.verify else ()) for number, name in enumerate(missing)]
    label = f"{study.vlm.name} {study.options.corruption} {file}"
    run_batches(study, OneByOne(compute), batches, {file: store}, label, done=len(names) - len(missing))
    parts = [store.get(name) for name in names]
    seconds = round(perf_counter() - started, 1)
    note_finished(study.options.out, store.path, {"samples": len(pairs), "seconds": seconds, "left_out": [*left_out, *not_done]})
    return pairs, parts

"""What scripts with files of their own share: a loop over samples that can be interrupted, and what such a file says of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from corruptions.base import CORRUPTIONS, Pair
from interventions.backends import Batch, measure
from interventions.engine.capture import prompts_of
from interventions.results.roles import EVERY, Cell, every_token, roles, tokens_of_roles
from interventions.results.store import Arrays, Store, update_manifest
from interventions.study.study import Study

Compute = Callable[[Study, Pair, bool], Arrays]


@dataclass(frozen=True)
class OneByOne:
    """The work of measuring pairs one after the other (see `interventions.backends.Work`).

    Attributes
    ----------
    compute : the arrays of a pair; the last argument says whether to hold them against the plain path
    """

    corruption: str
    compute: Compute

    def __call__(self, study: Study, batch: Batch) -> list[Mapping[str, Arrays]]:
        pairs = [study.pair(self.corruption, name) for name in batch.samples]
        return [{batch.files[0]: self.compute(study, pair, pair.sample["sample_id"] in batch.checked)} for pair in pairs]


def each_sample(
    study: Study,
    store: Store,
    corruption: str,
    compute: Compute,
    not_done: Sequence[dict[str, str]] = (),
) -> tuple[list[Pair], list[Arrays]]:
    """Compute what the store lacks, write the manifest's entry, and return the pairs with their arrays.

    Parameters
    ----------
    compute : see `OneByOne`; it may be pickled, so it is a function of a module, or a `partial` of one
    not_done : what else the manifest should list beside the samples left out
    """
    started = perf_counter()
    pairs, left_out = study.pairs_for([store.path], corruption)
    names = [pair.sample["sample_id"] for pair in pairs]
    missing = [name for name in names if not store.has(name)]
    file = store.path.stem
    batches = [Batch((name,), (file,), (name,) if number < study.options.verify else ()) for number, name in enumerate(missing)]
    label = f"{study.vlm.name} {corruption} {file}"
    measure(study, OneByOne(corruption, compute), batches, {file: store}, label, done=len(names) - len(missing))
    parts = [store.get(name) for name in names]
    seconds = round(perf_counter() - started, 1)
    entry = {"status": "finished", "samples": len(pairs), "seconds": seconds, "left_out": [*left_out, *not_done]}
    update_manifest(study.options.out, "runs", str(store.path.relative_to(study.options.out)), entry)
    return pairs, parts


def roles_of(study: Study, pair: Pair) -> list[str]:
    """The role of each position of a pair's prompts, the tokens of the answer that are given among them."""
    clean, _ = prompts_of(study.vlm, pair, study.scored(pair).forced)
    return roles(clean, pair, study.vlm.architecture.causal)


def cells_of(study: Study, pair: Pair, tokens: Sequence[str]) -> list[Cell]:
    """The cells of some roles, or of every token."""
    clean, _ = prompts_of(study.vlm, pair, study.scored(pair).forced)
    names = roles_of(study, pair)
    return every_token(clean, names) if list(tokens) == [EVERY] else tokens_of_roles(clean, names, tokens)


def sample_coordinates(study: Study, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The coordinates on `sample` of a file of effects (see `interventions.results.effects`)."""
    scored = [study.scored(pair) for pair in pairs]
    prompts = [prompts_of(study.vlm, pair, found.forced) for pair, found in zip(pairs, scored, strict=True)]
    columns = {
        **{name: [pair.sample[name] for pair in pairs] for name in ("category", "correct_answer", "incorrect_answer")},
        "clean_prompt": [clean.text for clean, _ in prompts],
        "corrupt_prompt": [corrupt.text for _, corrupt in prompts],
        "given_answer": [study.vlm.processor.tokenizer.decode(found.forced) for found in scored],
    }
    return {
        "sample": np.array([pair.sample["sample_id"] for pair in pairs], object),
        "correct_first": ("sample", np.array([pair.sample["correct_first"] for pair in pairs])),
        **{name: ("sample", np.array(values, object)) for name, values in columns.items()},
    }


def attributes(study: Study, title: str, component: str, corruption: str | None = None) -> dict[str, Any]:
    """What a file says about its making; without a corruption, of clean runs alone."""
    vlm = study.vlm
    corrupted = {"corruption": corruption, "modality": CORRUPTIONS[corruption].modality, **study.noise(corruption)} if corruption else {}
    return {
        "title": title,
        "model": vlm.name,
        "model_revision": vlm.revision,
        "dataset": study.name,
        "dataset_fingerprint": study.fingerprint,
        **corrupted,
        "component": component,
        "main_token": vlm.architecture.main_token,
        "definition": study.options.definition,
        "dtype": vlm.number_format,
        "device": vlm.device_type,
        "seed": study.options.seed,
        **study.provenance(),
    }


def patching_attributes(study: Study, title: str, component: str, corruption: str) -> dict[str, Any]:
    """What a file of effects of patching says about its making."""
    of = {"corruption": study.label(corruption), "direction": study.options.direction}
    return attributes(study, title, component, corruption) | of

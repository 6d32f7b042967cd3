"""Activation patching of one component over a study: capture and sweep each pair, keep it, and assemble the file of effects."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import xarray as xr
from tqdm import tqdm

from corruptions import registry
from corruptions.pair import Pair
from interventions import effects
from interventions.capture import CLEAN, CORRUPT, capture, prompts_of
from interventions.plan import patches
from interventions.results import Arrays, Store, update_manifest
from interventions.roles import Cell, every_token, roles, tokens_of_roles
from interventions.study import Study
from interventions.sweep import sweep
from interventions.verify import verify

EVERY = "every"  # instead of roles: each token of the prompt by itself


def patch_study(study: Study, component: str, *, heads: bool, tokens: Sequence[str] = (EVERY,), corruption: str | None = None) -> Path:
    """Patch one component of every pair of a study, and write its effects.

    Parameters
    ----------
    component : see the architecture's `components`
    heads : patch each head's z by itself; else the whole module
    tokens : roles whose positions are patched together ("all": every position at once), or "every" alone: each token by itself
    corruption : default: that of the study's options

    Returns
    -------
    The file, `<out>/<model>/<dataset>/<corruption>/<component>[-heads].nc`; it is left as it is when already made so.

    Raises
    ------
    ValueError
        Unknown component or role, heads of a component that has none.
    ResultsError
        The file holds results of another configuration, or cannot be written.
    VerificationError
        The first samples, measured again the plain way, differ.
    """
    vlm, corruption = study.vlm, corruption or study.options.corruption
    vlm.port(component)
    if heads and component not in vlm.architecture.attention:
        raise ValueError(f"{component!r} of {vlm.architecture.name} has no heads; choose from {', '.join(vlm.architecture.attention)}")
    path = study.folder / corruption / f"{component}{'-heads' if heads else ''}.nc"
    configuration = study.configuration(
        corruption=corruption, component=component, granularity="heads" if heads else "module", tokens=list(tokens)
    )
    store = Store(path, configuration, study.options.overwrite)
    if store.is_finished:
        return path
    started = perf_counter()
    pairs, left_out = study.pairs_for(path, corruption)
    cells = [_cells(study, pair, tokens) for pair in pairs]
    parts: list[Arrays] = []
    computed = 0
    bar = tqdm(zip(pairs, cells, strict=True), total=len(pairs), desc=f"{vlm.name} {corruption} {path.stem}", unit="sample")
    for pair, here in bar:
        part = store.get(pair.sample["sample_id"])
        if part is None:
            part = _patch_pair(study, pair, component, heads, here, check=_to_verify(study, computed, pair))
            computed += 1
            store.put(pair.sample["sample_id"], part)
        parts.append(part)
    entry = {"status": "finished", "samples": len(pairs), "seconds": round(perf_counter() - started, 1), "left_out": left_out}
    update_manifest(study.options.out, "runs", str(path.relative_to(study.options.out)), entry)
    store.finish(_assemble(study, corruption, component, heads, tokens, pairs, cells, parts), effects.write)
    return path


def _to_verify(study: Study, computed: int, pair: Pair) -> bool:
    """Whether the sweep of a pair is held against the plain path: the first ones, and one in a hundred, by its id."""
    now_and_then = zlib.crc32(pair.sample["sample_id"].encode()) % 100 == 0
    return study.options.verify > 0 and (computed < study.options.verify or now_and_then)


def _cells(study: Study, pair: Pair, tokens: Sequence[str]) -> list[Cell]:
    clean, _ = prompts_of(study.vlm, pair)
    names = roles(clean, pair, study.vlm.architecture.causal)
    return every_token(clean, names) if list(tokens) == [EVERY] else tokens_of_roles(clean, names, tokens)


def _patch_pair(study: Study, pair: Pair, component: str, heads: bool, cells: Sequence[Cell], check: bool = False) -> Arrays:
    vlm = study.vlm
    if study.options.definition == "reference" and vlm.architecture.name == "blip" and component == "mlp":
        component = "block"  # NOTICE's code patches the module called `output`: the layer's
    pixels = vlm.pixels([pair.clean_image, pair.corrupt_image])
    captured = capture(vlm, vlm.ids(prompts_of(vlm, pair)), pixels, study.answer_ids(pair), (component,))
    every = patches(component, vlm.n_layers, vlm.n_heads if heads else None, cells)
    measured = sweep(vlm, captured, every)
    if check:
        verify(vlm, captured, pixels, every, measured)
    shape = (vlm.n_layers, *([vlm.n_heads] if heads else []), len(cells), len(effects.MEASUREMENTS))
    return {"patched": measured.reshape(shape).cpu().numpy(), "runs": captured.measured.cpu().numpy()}


def _assemble(
    study: Study,
    corruption: str,
    component: str,
    heads: bool,
    tokens: Sequence[str],
    pairs: Sequence[Pair],
    cells: Sequence[Sequence[Cell]],
    parts: Sequence[Arrays],
) -> xr.Dataset:
    vlm = study.vlm
    longest = max(map(len, cells))
    dims = ("sample", "layer", *(["head"] if heads else []), "token")
    patched = np.full((len(parts), *parts[0]["patched"].shape[:-2], longest, len(effects.MEASUREMENTS)), np.nan, np.float32)
    texts = {name: np.full((len(parts), longest), "", object) for name in ("role", "text")}
    for row, (here, part) in enumerate(zip(cells, parts, strict=True)):
        patched[row, ..., : len(here), :] = part["patched"]
        texts["role"][row, : len(here)] = [cell.role for cell in here]
        texts["text"][row, : len(here)] = [cell.text for cell in here]
    runs = np.stack([part["runs"] for part in parts])
    variables = {name: (dims, patched[..., number]) for number, name in enumerate(effects.MEASUREMENTS)}
    for run, label in ((CLEAN, "clean"), (CORRUPT, "corrupt")):
        variables |= {f"{label}_{name}": (("sample",), runs[:, run, number]) for number, name in enumerate(effects.MEASUREMENTS)}
    samples = [pair.sample for pair in pairs]
    prompts = [prompts_of(vlm, pair) for pair in pairs]
    coordinates = {
        "sample": np.array([sample["sample_id"] for sample in samples], object),
        "layer": np.arange(vlm.n_layers),
        "token": np.arange(longest) if list(tokens) == [EVERY] else np.array(tokens, object),
        "category": ("sample", np.array([sample["category"] for sample in samples], object)),
        "correct_answer": ("sample", np.array([sample["correct_answer"] for sample in samples], object)),
        "incorrect_answer": ("sample", np.array([sample["incorrect_answer"] for sample in samples], object)),
        "correct_first": ("sample", np.array([sample["correct_first"] for sample in samples])),
        "clean_prompt": ("sample", np.array([clean.text for clean, _ in prompts], object)),
        "corrupt_prompt": ("sample", np.array([corrupt.text for _, corrupt in prompts], object)),
        "token_role": (("sample", "token"), texts["role"]),
        "token_text": (("sample", "token"), texts["text"]),
    }
    if heads:
        coordinates["head"] = np.arange(vlm.n_heads)
    dataset = xr.Dataset(variables, coordinates)
    for name in dataset.variables:
        if name in effects.DESCRIPTIONS:
            dataset[name].attrs["long_name"] = effects.DESCRIPTIONS[str(name)]
    dataset.attrs = {
        "title": f"Effects of patching {component}{' heads' if heads else ''}",
        "model": vlm.name,
        "model_revision": vlm.revision,
        "dataset": study.name,
        "dataset_fingerprint": study.fingerprint,
        "corruption": corruption,
        "modality": registry.MODALITIES[corruption],
        "component": component,
        "granularity": "heads" if heads else "module",
        "main_token": vlm.architecture.main_token,
        "definition": study.options.definition,
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "device": vlm.device.type,
        "seed": study.options.seed,
        **study.provenance(),
    }
    return effects.validate(dataset)

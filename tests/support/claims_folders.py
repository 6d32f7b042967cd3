"""Results folders written by numpy and xarray alone, in which a claim of a paper is planted, or its opposite."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from tests.support.synthetic_results import attention_dataset, effects, save

BLIP, LLAVA = "blip-vqa-base", "llava-1.5-7b"
COMPONENT = {BLIP: "cross_attention", LLAVA: "self_attention"}
MAIN = {BLIP: "correct", LLAVA: "last"}
ROLES = {BLIP: ["[CLS]", "noun", "correct", "or", "incorrect"], LLAVA: ["image", "noun", "correct", "incorrect", "last"]}
SAMPLES, LAYERS = 16, 6
EARLY, MIDDLE, LATE = [3, 3, 0.2, 0.2, 0.2, 0.2], [0.2, 0.2, 3, 3, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1, 3, 3]
EVEN = [1.0] * 6
BLIP_HEADS = {"vision": [(5, 3)], "multimodal": [(3, 0)], "text": [(0, 11)]}
LLAVA_HEADS = {
    "vision": [(15, 5), (16, 18), (14, 4), (15, 8), (18, 26), (17, 0), (17, 22), (14, 28), (19, 4), (15, 14), (17, 13), (20, 28)],
    "multimodal": [(28, 7), (31, 27), (16, 24), (19, 15), (18, 30), (18, 10), (21, 30)],
    "text": [(22, 16), (29, 19)],
}
SHAPE = {BLIP: (12, 12), LLAVA: (32, 32)}
Write = Callable[[Path], object]


def attrs(model: str, corruption: str, dataset: str, **more) -> dict:
    modality = "image" if corruption.startswith(("sip", "gaussian_noise")) and not corruption.endswith("text") else "text"
    return {"model": model, "dataset": dataset, "corruption": corruption, "modality": modality, "main_token": MAIN[model], **more}


def heads(folder, model, corruption, logits, dataset="svo_probes", tokens=None) -> None:
    """Effects of heads [sample, layer, head, token]."""
    tokens = tokens or [MAIN[model]]
    found = effects(logits, tokens, tokens, component=COMPONENT[model], **attrs(model, corruption, dataset))
    save(found, folder / model / dataset / corruption / f"{COMPONENT[model]}-heads.nc")


def planted_heads(folder, model, planted: dict[str, list[tuple[int, int]]], shape=None) -> None:
    """Heads of some kinds, of 1 logit in noise of 0.05, under both corruptions."""
    of = {"sip": ("vision", "multimodal"), "str": ("text", "multimodal")}
    for seed, (corruption, kinds) in enumerate(of.items()):
        logits = np.random.default_rng(seed).normal(0, 0.05, (SAMPLES, *(shape or SHAPE[model]), 1))
        for layer, head in [at for kind in kinds for at in planted.get(kind, ())]:
            logits[:, layer, head] += 1
        heads(folder, model, corruption, logits)


def module(folder, model, corruption, name, by_layer, roles=None, dataset="svo_probes", part="", seed=0, window=1, noise=0.05) -> None:
    """A whole module whose effects are `by_layer` [layer] or [layer, role] logits, with relative noise."""
    by_layer = np.array(by_layer, dtype=float)
    every = ROLES[model]
    by_layer = by_layer if by_layer.ndim == 2 else by_layer[:, None] * np.isin(every, roles or every)
    logits = by_layer * np.random.default_rng(seed).normal(1, noise, (SAMPLES, 1, 1)) * np.ones((SAMPLES, 1, 1))
    more = attrs(model, corruption, dataset) | ({"main_token": "start"} if part else {})
    found = effects(logits, range(len(every)), every, component=name.split("-window")[0], window=window, **more)
    save(found, folder / (f"{model}-{part}" if part else model) / dataset / corruption / f"{name}.nc")


def noise_of_heads(folder, model, corruption, spread: dict[str, float], seed: int) -> None:
    """Heads without any effect, in noise of so many logits at each token."""
    noise = np.random.default_rng(seed).normal(0, list(spread.values()), (SAMPLES, LAYERS, 4, len(spread)))
    heads(folder, model, corruption, noise, tokens=list(spread))


def noise_of_module(folder, model, corruption, name, spread: list[float], seed: int, dataset="svo_probes", window=1, share=False) -> None:
    """A whole module without any effect, in noise of so many logits at each role, or (`share`) of so large a share of P(answer)."""
    noise = np.random.default_rng(seed).normal(0, spread, (SAMPLES, LAYERS, len(spread)))
    noise = np.log1p(np.maximum(noise, -0.99)) if share else noise
    more = attrs(model, corruption, dataset)
    found = effects(noise, range(len(spread)), ROLES[model], component=name.split("-window")[0], window=window, **more)
    save(found, folder / model / dataset / corruption / f"{name}.nc")


def group(folder, name, model, dataset: xr.Dataset) -> None:
    """A file of an analysis with one model."""
    xr.DataTree.from_dict({model: dataset}).to_netcdf(folder / f"{name}.nc", engine="netcdf4")


def marker(folder, model, dataset="svo_probes") -> None:
    """A file by which a model is known to be in the folder."""
    module(folder, model, "sip", "mlp", EVEN, dataset=dataset)


def functions(folder, model, function, universal: dict[tuple[int, int], str], shape=None, tasks=("overall",)) -> None:
    """`head_functions.nc` and `universal_heads.nc`: `function` of a task and head is its name, "none", "undecidable" or "faint" (large, but
    beyond no test)."""
    layers, width = shape or SHAPE[model]
    rules = ["object_detection", "object_suppression", "outlier_suppression"]
    names = np.full((len(tasks), layers, width), "none", dtype=object)
    verdict, large = np.full((3, *names.shape), "no", dtype=object), np.zeros((3, *names.shape), dtype=bool)
    for number, task in enumerate(tasks):
        for head in universal:
            name = function(task, head)
            names[number, *head] = "none" if name == "faint" else name
            large[:, number, *head] = [name in (rule, "faint") for rule in rules]
            verdict[:, number, *head] = ["undecidable" if name == "undecidable" else "yes" if name == rule else "no" for rule in rules]
    dims, size = ("task", "layer", "head"), names.shape
    scores = {"object_gain": 0.1, "object_gain_z": 5.0, "outlier_ratio": 0.2, "outlier_ratio_z": -8.0}
    found = xr.Dataset({"function": (dims, names)} | {name: (dims, np.full(size, value)) for name, value in scores.items()})
    found = found.assign(verdict=(("rule", *dims), verdict), large=(("rule", *dims), large)).assign_coords(rule=rules)
    marker(folder, model)
    component = {"component": COMPONENT[model]}
    group(folder, "head_functions", model, found.assign_coords(task=list(tasks)).assign_attrs(component))
    kind = np.full((layers, width), "none", dtype=object)
    for head, of_head in universal.items():
        kind[head] = of_head
    group(folder, "universal_heads", model, xr.Dataset({"kind": (("layer", "head"), kind)}, attrs=component))


def with_universal(folder, model, planted) -> None:
    """Planted heads, with the q-values that `robust_heads.nc` would have with more samples."""
    planted_heads(folder, model, planted)
    q = np.ones((2, *SHAPE[model]))
    for kind, of_kind in planted.items():
        for head in of_kind:
            q[[kind != "text", kind != "vision"], *head] = 0.001
    dims = ("corruption", "layer", "head")
    judged = xr.Dataset({"universal_q": (dims, q)} | dict.fromkeys(("universal", "notice_universal"), (dims, q < 1)))
    judged = judged.assign_coords(corruption=["sip", "str"])
    group(folder, "robust_heads", model, judged)


def robust(folder, kept: int) -> None:
    """`robust_heads.nc` with three heads that NOTICE's rule names, of which so many hold up."""
    notice, signed = (np.zeros((2, 4, 4), dtype=bool) for _ in range(2))
    notice[0, 1, :3] = True
    signed[0, 1, :kept] = True
    dims = ("corruption", "layer", "head")
    group(folder, "robust_heads", BLIP, xr.Dataset({"notice_universal": (dims, notice), "universal": (dims, signed)}))
    marker(folder, BLIP)


def ablation(folder, lost: float) -> None:
    """An ablation file in which ranked heads cost `lost` logits more than random ones."""
    dims, sizes = ("sample", "replacement", "operation", "set", "heads"), [0, 1, 2, 4]
    sets = ["ranked", "random 1", "random 2"]
    logits = np.random.default_rng(0).normal(5, 0.1, (SAMPLES, 1, 2, len(sets), len(sizes)))
    logits[..., 0, 1:3] -= lost
    coords = {"replacement": ["mean"], "operation": ["knock_out", "keep_only"], "set": sets, "heads": sizes}
    found = xr.Dataset({"logit_correct": (dims, logits), "logit_incorrect": (dims, 0 * logits)}, coords, attrs(BLIP, "sip", "svo_probes"))
    marker(folder, BLIP)
    save(found, folder / BLIP / "svo_probes" / "sip" / "cross_attention-ablation.nc")


def knockout(folder, drops: dict[str, list[float]], seed=0) -> None:
    """An attention knockout file with relative drops of P(answer) by edge and layer."""
    edges = list(drops)
    change = np.array([drops[edge] for edge in edges]) * np.random.default_rng(seed + 1).uniform(0.8, 1.2, (SAMPLES, 1, 1))
    knockout_of(folder, edges, change, seed)


def noise_of_knockout(folder, spread: dict[str, list[float]], seed: int) -> None:
    """An attention knockout file without any drop, in noise of so much at each edge and layer."""
    knockout_of(folder, list(spread), np.random.default_rng(seed).normal(0, list(spread.values()), (SAMPLES, len(spread), LAYERS)), seed)


def knockout_of(folder, edges: list[str], change: np.ndarray, seed: int) -> None:
    """An attention knockout file with the relative drops `change` [sample, edge, layer]."""
    clean = np.random.default_rng(seed).uniform(0.5, 0.9, SAMPLES)
    dims = ("sample", "edge", "layer")
    variables = {"logit_correct": (dims, np.log(clean[:, None, None] * (1 - np.minimum(change, 0.99))))}
    variables |= {name: (dims, np.zeros(change.shape)) for name in ("logit_incorrect", "log_normalizer")}
    variables |= {"clean_logit_correct": ("sample", np.log(clean))}
    variables |= {f"clean_{name}": ("sample", np.zeros(SAMPLES)) for name in ("logit_incorrect", "log_normalizer")}
    coords = {"edge": np.array(edges, dtype=object), "layer": np.arange(change.shape[2])}
    found = xr.Dataset(variables, coords, {"main_token": "last", "direction": "noising", "window": 1})
    save(found, folder / LLAVA / "gqa" / "attention_knockout.nc")


def accuracy(folder, model, dataset, correct: int) -> None:
    """A manifest that says how many of 2,000 answers are correct."""
    marker(folder, model, dataset)
    answers = {
        f"{model}/{dataset}": {"one": {"asked": 1000, "correct": correct // 2}, "other": {"asked": 1000, "correct": correct - correct // 2}}
    }
    (folder / "manifest.json").write_text(json.dumps({"answers": answers}), encoding="utf-8")


def by_layer_heads(folder, model, corruption, weights, seed=0, tokens=None, wide=4) -> None:
    """Heads whose mean |effect| is in proportion to `weights` of each layer (or [layer, token])."""
    generator = np.random.default_rng(seed)
    weights = np.array(weights, dtype=float)
    weights = weights[:, None, None] if weights.ndim == 1 else weights[:, None]
    size = generator.uniform(0.5, 1.5, (SAMPLES, LAYERS, wide, weights.shape[-1])) * weights
    heads(folder, model, corruption, size, tokens=tokens)


def ranked_heads(folder, corruption, order_seed: int, noise_seed: int) -> None:
    """Heads whose sizes are in an order of their own, with some noise."""
    order = np.random.default_rng(order_seed).permutation(24).reshape(6, 4) + 1.0
    noise = np.random.default_rng(noise_seed).normal(0, 2, (SAMPLES, 6, 4))
    heads(folder, BLIP, corruption, (order + noise)[..., None])


def patches(folder, few: bool) -> None:
    """Attention to image patches, nearly all on the same few, or on others in each sample."""
    generator = np.random.default_rng(0)
    maps = generator.uniform(0.5, 1.5, (SAMPLES, LAYERS, 2, 64))
    for sample in range(SAMPLES):
        maps[sample, :, :, [1, 2, 3] if few else generator.choice(64, 3, replace=False)] *= 200
    found = attention_dataset(maps, np.full((SAMPLES, 64), np.nan), model=LLAVA, dataset="shapes", query="last", component="self_attention")
    save(found, folder / LLAVA / "shapes" / "attention.nc")

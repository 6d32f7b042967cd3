"""Files of the interventions beside patching, written by hand with numpy and xarray: what they show is known."""

from pathlib import Path

import numpy as np
import xarray as xr

from tests.support.synthetic_results import HEADS, LAYERS, head_effects, save
from tests.support.synthetic_results import effects as effects_of

SAMPLES = 12
SIZES = (0, 2, 4)


def ablation(random_sets: int = 3) -> xr.Dataset:
    """Two ranked heads carry all 4 logits of LD: knocked out, they take it away, and kept alone, bring it back; random sets need 4."""
    sets = ["ranked", *(f"random {i + 1}" for i in range(random_sets))]
    kept = {"ranked": np.array([0.0, 4.0, 4.0])} | {name: np.array([0.0, 1.0 + i / 10, 4.0]) for i, name in enumerate(sets[1:])}
    difference = np.array([[4 - kept[name] for name in sets], [kept[name] for name in sets]])  # operation, set, heads
    dims = ("sample", "replacement", "operation", "set", "heads")
    logits = np.broadcast_to(difference, (SAMPLES, 1, *difference.shape)).astype("float32")
    each = np.ones(SAMPLES, dtype="float32")
    variables = {"logit_correct": (dims, logits + 1), "logit_incorrect": (dims, 0 * logits + 1), "log_normalizer": (dims, 0 * logits + 6)}
    variables["top_token"] = (dims, np.zeros(logits.shape, dtype="int32"))
    variables |= {"clean_logit_correct": ("sample", 5 * each), "clean_logit_incorrect": ("sample", each)}
    variables |= {"clean_log_normalizer": ("sample", 6 * each), "correct_token": ("sample", np.zeros(SAMPLES, dtype="int32"))}
    coords = {"replacement": ["mean"], "operation": ["knock_out", "keep_only"], "set": sets, "heads": list(SIZES)}
    attrs = {"model": "m", "dataset": "d", "component": "cross_attention", "corruption": "sip", "ranked_by": "cross_attention-heads.nc"}
    return xr.Dataset(variables, coords, attrs)


def knockout() -> xr.Dataset:
    """Blocking image:last halves P in layer 1 and nowhere else; image:question is not blocked in the first sample."""
    edges, probability = ["image:question", "image:last"], 0.5
    blocked = np.full((SAMPLES, len(edges), LAYERS), probability)
    blocked[:, 1, 1] /= 2
    blocked[0, 0] = np.nan
    each = np.ones(SAMPLES, dtype="float32")
    variables = {"logit_correct": (("sample", "edge", "layer"), np.log(blocked).astype("float32"))}
    variables["log_normalizer"] = (("sample", "edge", "layer"), np.where(np.isfinite(blocked), 0, np.nan).astype("float32"))
    variables |= {"clean_logit_correct": ("sample", each * np.log(probability)), "clean_log_normalizer": ("sample", 0 * each)}
    attrs = {"model": "m", "dataset": "d", "window": 1, "direction": "noising"}
    return xr.Dataset(variables, {"edge": edges, "layer": np.arange(LAYERS)}, attrs)


def attribution() -> xr.Dataset:
    """Exact effects of half of the cells, and estimates that are 0.9 of them."""
    generator = np.random.default_rng(0)
    exact = head_effects(generator, [(1, 2)], SAMPLES)
    patched = exact.copy()
    patched[:, ::2] = np.nan
    dataset = effects_of(patched, ["correct"], ["correct"], modality="image")
    return dataset.assign(attribution=(("sample", "layer", "head", "token"), (0.9 * exact).astype("float32")))


def direct() -> xr.Dataset:
    """Every head adds 0.1 logits, every MLP 0.5, the rest nothing."""
    heads, mlps = np.full((SAMPLES, LAYERS, HEADS), 0.1), np.full((SAMPLES, LAYERS), 0.5)
    lens = np.cumsum(heads.sum(axis=2) + mlps, axis=1)
    none = np.zeros(SAMPLES)
    variables = {"head_effect": (("sample", "layer", "head"), heads), "mlp_effect": (("sample", "layer"), mlps)}
    variables |= {"embedding_effect": ("sample", none), "bias_effect": ("sample", none)}
    variables |= {"logit_correct": (("sample", "layer"), lens), "logit_incorrect": (("sample", "layer"), 0 * lens)}
    variables |= {"clean_logit_correct": ("sample", lens[:, -1]), "clean_logit_incorrect": ("sample", none)}
    return xr.Dataset(variables, {"layer": np.arange(LAYERS), "head": np.arange(HEADS)}, {"model": "m", "dataset": "d"})


def write_interventions(folder: Path) -> None:
    """Write one file of each into a folder <model>/<dataset>."""
    save(ablation(), folder / "sip" / "cross_attention-ablation.nc")
    save(attribution(), folder / "sip" / "cross_attention-attribution.nc")
    save(knockout(), folder / "attention_knockout.nc")
    save(direct(), folder / "direct_effect.nc")

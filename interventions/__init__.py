"""Pairs x sites -> effects. A file directly in this folder is a command: options, a function, and how to call it.

`models` wraps the models, `engine` runs pairs, `study` chooses samples, `methods` holds how each script works, `results` writes files,
`backends` chooses where samples are measured. `dir(interventions)` lists the public names. Each is imported on first use, so that importing
the package loads no library:

    study = interventions.prepare(interventions.Options(model="llava-shapes", samples=20))
    interventions.open_effects(interventions.patch_heads(study)).effects.logit_difference()
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_METHODS = {
    "head_patching": ("patch_heads", "HeadPatching"),
    "module_patching": ("patch_modules", "ModulePatching"),
    "attention_patterns": ("map_attention", "AttentionPatterns"),
    "attention_knockout": ("knock_out_attention", "AttentionKnockout"),
    "head_ablation": ("ablate_heads", "HeadAblation"),
    "attribution_patching": ("attribute_heads", "AttributionPatching"),
    "path_patching": ("patch_paths", "PathPatching"),
    "direct_effect": ("direct_effects", "DirectEffect"),
}
_PUBLIC = {  # a name -> the module that has it, and what it is called there
    "load": ("models.loading", "load"),
    "sites": ("models.sites", "SITES"),
    "Options": ("study.options", "Options"),
    "prepare": ("backends.opening", "prepare"),
    **{name: (module, name) for module, names in _METHODS.items() for name in names},
    "open_effects": ("results.effects", "read"),
    "open_results": ("results.effects", "read_tree"),
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'interventions' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    module, attribute = _PUBLIC[name]
    globals()[name] = found = getattr(import_module(f"interventions.{module}"), attribute)
    return found


def __dir__() -> list[str]:
    return ["__version__", *_PUBLIC]

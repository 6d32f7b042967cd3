"""Where a model is, by its name: shipped, on the Hub, or in a folder. No library is loaded to see it."""

from pathlib import Path

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
HUB = {"blip-vqa-base": "Salesforce/blip-vqa-base", "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf"}


class ModelError(ValueError):
    """A model that cannot be used: says why, and what can be done."""


def resolve(name: str) -> tuple[str, str]:
    """Where a model is, in words, and what `from_pretrained` is given.

    Raises
    ------
    ModelError
        For a name that is neither shipped, nor a folder, nor of the form of a Hub id.
    """
    if (CHECKPOINTS / name / "config.json").is_file():
        return f"the folder {CHECKPOINTS / name}", str(CHECKPOINTS / name)
    if name in HUB:
        return f"the Hugging Face Hub ({HUB[name]})", HUB[name]
    if Path(name).is_dir():
        return f"the folder {name}", str(Path(name).resolve())
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return f"the Hugging Face Hub ({name})", name
    shipped = sorted(path.parent.name for path in CHECKPOINTS.glob("*/config.json"))
    raise ModelError(f"unknown model {name!r}: not shipped ({', '.join(shipped)}), not one of {', '.join(HUB)}, no folder, and no Hub id")

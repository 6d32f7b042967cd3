"""Options of guessing masks. Loads no model library."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(kw_only=True)
class PseudoMasks:
    """Add object masks, guessed by a zero-shot model, to a sample table.

    Masks that the table has are kept. Samples without a noun, and those in whose image the model finds nothing, stay without and are
    listed.

    Example: python -m data_prep.pseudo_masks --table data/mit_states --model CIDAS/clipseg-rd64-refined --out data/mit_states-masks
    """

    table: Path
    """Folder of the sample table."""
    model: str
    """A CLIPSeg or OWL-ViT checkpoint: a folder, or a Hub id such as CIDAS/clipseg-rd64-refined or google/owlvit-base-patch32. Of
    OWL-ViT, the box with the highest score becomes a rectangular mask."""
    out: Path
    """Folder that receives the new table; an older table there is replaced."""
    threshold: float | None = None
    """Probability (of OWL-ViT: score) above which a pixel (a box) is taken; default: 0.5 for CLIPSeg, 0.1 for OWL-ViT."""
    prompt: str = "{noun}"
    """What the model is asked for; {noun} stands for the sample's noun."""
    batch_size: int = 8
    """Images at once."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<number>."""
    revision: str | None = None
    """Revision of a checkpoint on the Hub."""

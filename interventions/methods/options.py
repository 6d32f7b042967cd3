"""The options of each script beside the shared ones (`interventions.study.options`): a field is an option, its docstring the help.

Importing this module loads no library beside tyro, so that a command line can be shown at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from interventions.models.sites import SITES
from interventions.study.options import Running, bounded

Replacement = Literal["mean", "zero", "resample", "corrupt"]
Exact = Literal["none", "top", "all"]
Mlps = Literal["recomputed", "frozen"]


@dataclass(frozen=True)
class HeadPatching:
    """Patch every attention head of a model at chosen tokens, over a data set, and write the effects.

    Example: python -m interventions.head_patching --model llava-shapes --corruption str --samples 20 --out results
    """

    component: str = ""
    """Attention component: cross_attention or self_attention. Default: the paper's (BLIP cross, causal decoders self)."""
    tokens: tuple[str, ...] = ()
    """Token roles, e.g. correct, incorrect, or, noun, last; `all` for every position at once; `every` alone for each token by itself.
    Default: the paper's (BLIP correct; causal decoders last and correct)."""


@dataclass(frozen=True)
class ModulePatching:
    """Patch whole modules of a model at every token and layer, over a data set, and write the effects.

    Example: python -m interventions.module_patching --model blip-shapes --corruption sip --samples 10 --components mlp block
    """

    components: Annotated[tuple[Literal["all", "none", *SITES], ...], arg(aliases=["--modules"])] = ("all",)
    """Components whose whole modules are patched: mlp, self_attention, cross_attention (z of all heads) and block (the residual stream
    after a layer); all that the model has, or none."""
    tokens: tuple[str, ...] = ("every",)
    """`every` token by itself (a causal decoder's image tokens together), or roles, or `all`."""
    window: int = bounded(1, at_least=1)
    """Layers that are patched together around each (Palit et al. 3; Basu et al. 3 and 6)."""


@dataclass(frozen=True)
class AttentionPatterns:
    """Write each head's attention from the query token to the image's patches, with the pictures and the object masks.

    Example: python -m interventions.attention_patterns --model blip-shapes --samples 20 --out results
    """

    component: str = ""
    """Attention component. Default: the paper's (BLIP cross_attention, LLaVA self_attention)."""
    query: str = ""
    """Role of the query token; several tokens of the role are averaged. Default: the paper's (BLIP correct, LLaVA last)."""


@dataclass(frozen=True)
class AttentionKnockout:
    """Block attention between groups of tokens in windows of layers of the clean run, and write what is left of the answer.

    A side of an edge is image, object (image patches that the sample's object mask or box touches), background (the rest of the image),
    question, options, all, or a role such as noun, correct, or, last.

    Example: python -m interventions.attention_knockout --model llava-shapes --samples 20 --edges image:question image:last last:last
    """

    edges: tuple[str, ...] = ()
    """Edges to block, each source:target: the target's tokens do not see the source's. Default: for causal decoders the paper's
    (image:question object:question background:question image:last question:last last:last); for encoders, between image, question and
    options; for BLIP's answer decoder, from the question and its roles to start."""
    window: int = bounded(0, at_least=0)
    """Layers around each that are blocked together; 0: the paper's 9, but no more than about a quarter of the model's."""


@dataclass(frozen=True)
class AttributionPatching:
    """Estimate the effect of patching every head by gradients, patch the largest ones exactly, and write both.

    Example: python -m interventions.attribution_patching --model llava-shapes --samples 20 --exact all --steps 8
    """

    component: str = ""
    """Attention component. Default: the paper's (BLIP cross_attention, causal decoders self_attention)."""
    tokens: tuple[str, ...] = ()
    """Token roles, e.g. correct, incorrect, or, noun, last; `all` for every position at once; `every` alone for each token by itself.
    Default: the paper's (BLIP correct; causal decoders last and correct)."""
    steps: int = bounded(0, at_least=0)
    """Points of integrated gradients on the path from the corrupt z to the clean z of each layer; 0 leaves them out."""
    exact: Exact = "top"
    """Cells (layer, head, token) of each sample that are patched exactly too: none, those of the largest |attribution|, or all."""
    exact_samples: int | None = bounded(None, at_least=0)
    """With `--exact top`: so many first samples have all cells patched exactly, not the largest ones alone; how well estimates and exact
    effects agree is judged by these. Default: 3, and with `--tokens every`, where cells are very many, none."""
    top: int = bounded(20, at_least=1)
    """How many cells are the largest."""


@dataclass(frozen=True)
class DirectEffect:
    """Write the direct effect of each head and MLP on the logit difference, and the logit lens of each layer (causal decoders only).

    Example: python -m interventions.direct_effect --model llava-shapes --samples 20
    """


@dataclass(frozen=True)
class HeadAblation:
    """Knock out heads of the clean run, or keep them alone, in order of importance and beside random sets, and write what is left.

    Example: python -m interventions.head_ablation --model llava-shapes --samples 20 --replacements mean zero
    """

    component: str = ""
    """Attention component. Default: the paper's (BLIP cross_attention, causal decoders self_attention)."""
    ranking: Path | None = None
    """Effects of head patching (.nc), whose mean |logit difference| ranks the heads, or a table (.csv) with columns layer and head, the
    most important first. Default: <component>-heads.nc of this results folder, model, data set and corruption."""
    token: str = ""
    """Token role of the effects that rank the heads. Default: the paper's (BLIP correct, causal decoders last)."""
    sizes: tuple[int, ...] = ()
    """Sizes of the sets. Default: 0, 1, 2, 4, ... and all that are ranked."""
    random_sets: int = bounded(5, at_least=0)
    """Random sets of each size, drawn by the seed."""
    replacements: tuple[Replacement, ...] = ()
    """What replaces z: mean (over the other samples' clean runs at the same place), zero, resample (another sample's clean run of the same
    length), corrupt (the sample's own corrupt run). Default: mean; on a remote host, which z does not leave, the other three."""


@dataclass(frozen=True)
class PathPatching:
    """Patch the direct paths from chosen heads to chosen later heads and to the answer, and write the effects.

    Example: python -m interventions.path_patching --model llava-shapes --samples 20 --senders L1.H2 L3.H0 --receivers L5.H1 L5.H1.q answer
    """

    senders: tuple[str, ...] = ()
    """Heads whose z is put in, such as L3.H2 (layer 3, head 2). Default: the `--top` highest-ranked ones."""
    receivers: tuple[str, ...] = ()
    """Where direct paths end: answer, or a head, by all it reads (L5.H1), its queries (L5.H1.q), keys (.k) or values (.v). Default: the
    `--top` highest-ranked heads that some sender reaches, and the answer."""
    component: str = ""
    """Attention component of the senders. Default: the paper's (BLIP cross_attention, causal decoders self_attention)."""
    receiver_component: str = ""
    """Attention component of the receivers. Default: that of the senders."""
    token: str = "all"
    """Role of the tokens at which the sender's z is put in, such as correct or last; `all` is every position."""
    mlps: Mlps = "recomputed"
    """recomputed: a path through MLPs alone is direct, as in Wang et al.; frozen: MLPs are held as they were, and only sums and norms
    pass anything on."""
    top: int = bounded(5, at_least=1)
    """How many heads, where they are not named."""
    ranking: Path | None = None
    """Effects of head patching (.nc) that rank both senders and receivers, or a table (.csv) with columns layer and head. Default:
    <component>-heads.nc of this results folder, model, data set and corruption, for each component."""
    ranking_token: str = ""
    """Token role of the effects that rank the heads. Default: the paper's (BLIP correct, causal decoders last)."""


@dataclass(kw_only=True)
class SelectSamples(Running):
    """Take the samples of a table that a model answers correctly.

    Prints how many it answers correctly by exact match (as the paper) and by normalised match: without articles, punctuation and letter
    case, with number words as digits, and with an explanation after the answer cut off; for the paper's two checkpoints, its figures stand
    beside. An interrupted run goes on where it was.

    Example: python -m interventions.select_samples --table data/mit_states --model blip-vqa-base --out data/mit_states-blip
    """

    table: Path
    """Folder of the sample table."""
    model: str
    """blip-shapes or llava-shapes (shipped), blip-vqa-base or llava-1.5-7b (the Hub), a folder with a checkpoint, or a Hub id."""
    out: Path
    """Folder that receives the new table and accuracy.csv; an older table there is replaced."""
    per_category: int = bounded(500, at_least=1)
    """Samples of each category, half with the correct option first; what one half lacks the other fills. Too few is only warned of."""
    match: Literal["exact", "normalised"] = "exact"
    """Which match makes an answer correct. Studies use exact matches alone: with a table of normalised ones they need --keep-wrong."""
    seed: int = bounded(0, at_least=0)
    """Seed of the draw among those answered correctly."""
    name: str = ""
    """Name of the new data set; default: <old name>-<model>-selected, so that the selections of two models are told apart."""
    published: Literal["blip-vqa-base", "llava-1.5-7b"] | None = None
    """Show the paper's figures for this checkpoint, for a folder with its weights; default: --model where that is one of the two."""
    results: Path = Path("results")
    """Results folder in which the answers are kept, as a study keeps and finds them: <results>/<model>/<data set>/answers.json."""
    batch: int = bounded(16, at_least=1)
    """Questions that are answered at once."""


@dataclass(kw_only=True)
class Accuracy(Running):
    """Print how many questions of each category models answer correctly.

    With no options: the shipped models on rendered scenes that they were not trained on: `validation` (other scenes of the same
    kind) and `test` (every object a combination of colour, shape and texture, and a background, that no training scene has).

    Ray on several machines needs folders as --data: it cannot read what is rendered on the spot on this one.

    Example: python -m interventions.accuracy --models blip-shapes --data validation test --per-category 250
    """

    models: tuple[str, ...] = ("blip-shapes", "llava-shapes")
    """Models, as in the other scripts."""
    data: tuple[str, ...] = ("validation", "test")
    """Folders of prepared data sets; or validation, test: scenes rendered on the spot."""
    per_category: int = bounded(500, at_least=1)
    """Rendered questions of each category."""
    seed: int = bounded(1, at_least=0)
    """Seed of the rendered scenes."""

"""Options that the intervention scripts share. A field is an option, its docstring the help; nothing else lists an option.

Importing this module loads no library beside tyro, so that a command line can be shown at once.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, arg

from corruptions.base import default, help_text
from corruptions.options import CorruptionOptions
from interventions.models.architecture import PARTS


def bounded(default: Any, *, at_least: float | None = None, above: float | None = None) -> Any:
    """A field whose value `check_bounds` holds against its bound."""
    return field(default=default, metadata={"at_least": at_least, "above": above})


def check_bounds(options: Any) -> None:
    """Raise ValueError where a number among some options, or among those nested in them, is out of its bounds; None is never."""
    for one in fields(options):
        value = getattr(options, one.name)
        if is_dataclass(value):
            check_bounds(value)
        at_least, above = one.metadata.get("at_least"), one.metadata.get("above")
        if value is None or (at_least is None and above is None):
            continue
        if not isfinite(value) or (at_least is not None and value < at_least) or (above is not None and value <= above):
            kind = "" if isinstance(value, int) else "a finite number "
            bound = f"above {above:g}" if at_least is None else f"{'of ' if kind else ''}at least {at_least:g}"
            raise ValueError(f"--{one.name.replace('_', '-')} must be {kind}{bound}, not {value:g}")


Backend = Literal["local", "ray", "remote", "remote-dry-run"]


@dataclass(frozen=True)
class RayOptions:
    """Options of `--backend ray` (pip install -r requirements-ray.txt)."""

    address: str | None = None
    """A running Ray cluster: `auto` for the one this machine is part of, or host:port. Default: Ray is started on this machine for as long
    as the program runs."""
    workers: int = bounded(0, at_least=0)
    """Processes that each hold the model; 0 takes as many as the cluster has room for, by its GPUs or, on CPUs, its cores and --threads."""
    gpus_per_worker: float | None = bounded(None, at_least=0)
    """GPUs of each worker, which sees no others; 0.5 where two models fit on one. Default: 1 where the model is on CUDA, else 0."""


@dataclass(frozen=True)
class RemoteOptions:
    """Options of `--backend remote`. The key is read from NDIF_API_KEY or nnsight's config."""

    host: str | None = None
    """URL of the host. Default: NDIF_HOST, or what nnsight's config says (NDIF)."""
    wait_limit: float = bounded(3600.0, above=0)
    """Seconds that one job may take, its wait in the host's queue included."""
    jobs: int = bounded(4, at_least=1)
    """Jobs that are under way at once, so that the wait in the queue is not paid for each."""


@dataclass
class Subject:
    """What is studied: one model, on one data set, under one corruption."""

    model: str = "blip-shapes"
    """blip-shapes or llava-shapes (shipped), blip-vqa-base or llava-1.5-7b (the Hub), a folder with a checkpoint, or a Hub id."""
    data: str = "shapes"
    """Folder of a prepared data set (see data_prep); `shapes` makes the rendered one where it is not there yet."""
    corruption: Annotated[str, arg(help=help_text())] = default("image")


@dataclass
class Running:
    """How and where a model runs."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:<number>."""
    dtype: Literal["float32", "bfloat16", "float16", "nf4"] = "float32"
    """Number format of the weights; nf4 (4 bits) needs the packages of requirements-nf4.txt."""
    revision: str | None = None
    """Revision of a checkpoint on the Hub."""
    threads: int = bounded(0, at_least=0)
    """CPU threads; 0 takes one for a small model, whose matrices are not worth sharing out, and all cores for others."""
    backend: Backend = "local"
    """Where samples are measured: local (this process), ray (workers on this machine or a cluster; requirements-ray.txt), remote (NDIF, or
    another host with the weights, on its device and in its dtype), or remote-dry-run (here, by way of all that would be sent)."""
    ray: Annotated[RayOptions, OmitArgPrefixes] = field(default_factory=RayOptions)
    """Options of the backend ray."""
    remote: Annotated[RemoteOptions, OmitArgPrefixes] = field(default_factory=RemoteOptions)
    """Options of the backend remote."""

    def running(self) -> dict[str, Any]:
        """These options alone, by their names."""
        return {field.name: getattr(self, field.name) for field in fields(Running)}


@dataclass
class Extent:
    """How much is measured, and where the files go."""

    samples: int = bounded(100, at_least=1)
    """Samples of each category, half with the correct option first (where the data set has as many)."""
    out: Path = Path("results")
    """Results folder."""


@dataclass
class Settings(Running, Extent):
    """All options of a study but its subject: `run_all.py` takes them once for several models, data sets and corruptions."""

    part: Literal["", *PARTS] = ""  # type: ignore[valid-type]
    """Patch another part of the model than the layers that read the prompt: BLIP's answer decoder or vision tower, or the Q-Former of
    BLIP-2 and InstructBLIP (its heads that read the image)."""
    seed: int = bounded(0, at_least=0)
    """Seed of the data set `shapes` and of the draws of `str`."""
    shared_pieces: Literal["leave-out", "force"] = "leave-out"
    """Answers whose first token is the same: left out; or the model is given the tokens that both begin with, and scored on the next."""
    direction: Literal["denoising", "noising"] = "denoising"
    """denoising puts clean states into the corrupt run; noising puts corrupt states into the clean run."""
    divergence: bool = False
    """Measure the Kullback-Leibler divergence of each run from the clean one too (variable `kl_from_clean`)."""
    corruption_options: Annotated[CorruptionOptions, OmitArgPrefixes] = field(default_factory=CorruptionOptions)
    """Options of corruptions."""
    keep_wrong: bool = False
    """Use samples that the model answers wrongly too (the paper does not)."""
    definition: Literal["ours", "reference"] = "ours"
    """`reference` scores LLaVA's answers by their last sub-token and patches BLIP's `mlp` at the layer's output, as NOTICE's code does."""
    batch: int = bounded(0, at_least=0)
    """Pairs that are run in one trace; 0 chooses by the model's size and free memory. The numbers depend on it by rounding alone."""
    verify: int = bounded(1, at_least=0)
    """First samples of each run of which some cells are measured again the plain way (one patch, one whole trace), and one sample in a
    hundred after that; 0 for none."""
    overwrite: bool = False
    """Replace results of another configuration that are in the way."""

    def of(self, **subject: Any) -> "Options":
        """The options of a study of one subject with these settings."""
        return Options(**subject, **{field.name: getattr(self, field.name) for field in fields(Settings)})


@dataclass
class Options(Settings, Subject):
    """Options of every intervention script."""

    @property
    def data_folder(self) -> Path:
        """Where the data set is, or is to be rendered."""
        folder = Path(self.data)
        if self.data != "shapes" or folder.is_dir():
            return folder
        return self.out / "data" / f"shapes-{self.rendered}-seed{self.seed}"

    @property
    def rendered(self) -> int:
        """How many samples of each category are rendered, so that enough are left."""
        return -(-self.samples * 6 // 5) + 4

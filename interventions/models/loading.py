"""Load a checkpoint by name, folder or Hub id, wrap it, and check that its sites are what the architecture says."""

import hashlib
import importlib.util
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor, BitsAndBytesConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from interventions.models.architecture import ARCHITECTURES, Architecture, is_described, named_class, of_model_type
from interventions.models.checks import check_sites
from interventions.models.names import ModelError, resolve
from interventions.models.vlm import Server, Vlm

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NF4_BLOCK = 64  # weights that bitsandbytes scales together
SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "max_position_embeddings")  # what is read of a config
NF4 = "nf4"  # weights of 4 bits in the normal-float format; states are computed in bfloat16 on CUDA, in float32 on a CPU


def load(
    name: str,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    check: bool = True,
    server: Server | None = None,
) -> Vlm:
    """Load and wrap a model.

    Parameters
    ----------
    name : `blip-shapes` or `llava-shapes` (shipped in `checkpoints/`), `blip-vqa-base` or `llava-1.5-7b` (from the Hub), a folder, or a
        Hub id
    device : "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
    dtype : float32, bfloat16, float16, or nf4 (4-bit weights, with the packages of requirements-nf4.txt)
    check : verify on two random images that every site is what it claims to be
    server : what has the weights, if they are not to be loaded here; it has its own device and dtype

    Raises
    ------
    ModelError
        Unknown name, missing or unreadable files, weights that the checkpoint lacks or that are pickles, a checkpoint that wants its own
        code to be run, an architecture without description, heads that do not divide the width, a device or dtype that is not there.
    SiteError
        A site is not what its description claims.
    """
    where, source = resolve(name)
    chosen = choose_device(device)
    if dtype not in (*DTYPES, NF4):
        raise ModelError(f"unknown dtype {dtype!r}; choose from {', '.join((*DTYPES, NF4))}")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        architecture = describe(config)
        if not architecture.causal:
            check_heads_are_given(PreTrainedConfig.get_config_dict(source, revision=revision)[0])
        check_config(config, architecture)
        processor = AutoProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)
        module = None if server else _read(source, revision, architecture, _number_format(dtype, chosen, config))
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(f"the processor of {name!r} needs a package that is not installed: {' '.join(str(error).split())}") from error
    except (OSError, ValueError, KeyError, SafetensorError, StrictDataclassError) as error:
        raise ModelError(_failure(name, where, source, error)) from error
    if module is not None:
        module = (module if dtype == NF4 else module.to(chosen)).eval().requires_grad_(False)  # quantized weights are placed on loading
    opened, options = ((module,), {}) if module is not None else ((source,), {"revision": revision})
    vlm = _put_together(config, processor, Path(name).name, fingerprint(source, config, revision), *opened, **options)
    if server is not None:
        server.meet(vlm)
    if check:
        try:
            check_sites(vlm)
        except (ValueError, AttributeError) as error:  # of a site, or what its processor or its module makes of the common prompt
            if is_described(config.model_type):
                raise
            raise ModelError(
                f"{name!r} is of type {config.model_type!r}, for which there is no description, and the common layout does not fit: "
                f"{error}. Describe it in interventions/models/architecture.py: where its layers, its heads' outputs before their "
                "projection, and its MLPs are"
            ) from error
    return vlm


def _number_format(dtype: str, device: torch.device, config: Any) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a number format."""
    if dtype != NF4:
        return {"dtype": DTYPES[dtype]}
    missing = [name for name in ("bitsandbytes", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"nf4 needs {' and '.join(missing)}, which this environment lacks: pip install -r requirements-nf4.txt")
    widths = {part.hidden_size for part in (config.text_config, config.vision_config)}
    if device.type == "cpu" and any(width % NF4_BLOCK for width in widths):
        raise ModelError(f"nf4 on a CPU needs widths that {NF4_BLOCK} divides; the model has {', '.join(map(str, sorted(widths)))}")
    compute = torch.bfloat16 if device.type == "cuda" else torch.float32
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    return {"dtype": compute, "quantization_config": quantization, "device_map": {"": device}}


def wrap(module: Any, processor: Any, name: str, revision: str = "") -> Vlm:
    """Wrap a loaded Hugging Face module (for a model made in memory)."""
    return _put_together(module.config, processor, name, revision, module)


def _put_together(config: Any, processor: Any, name: str, revision: str, /, *opened: Any, **options: Any) -> Vlm:
    architecture = describe(config)
    check_config(config, architecture)
    _complete(processor, config)
    vlm_class, nnsight_model = named_class(architecture.wrapper), named_class(architecture.nnsight_model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has a submodule named")  # `Port` knows of it
        return vlm_class(nnsight_model(*opened, **options), processor, architecture, name, revision)


def _read(source: str, revision: str | None, architecture: Architecture, options: dict[str, Any]) -> Any:
    """The module, with its weights.

    Raises
    ------
    ModelError
        When the checkpoint lacks weights, or has them in another shape: transformers would make random ones.
    """
    loader = getattr(transformers, named_class(architecture.nnsight_model).AUTO_CLASS)
    options |= {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    module, found = loader.from_pretrained(source, revision=revision, **options)
    lacking = sorted(found["missing_keys"] | {key for key, *_ in found["mismatched_keys"]})
    if lacking:
        saved = ", ".join(getattr(module.config, "architectures", None) or ())
        made = type(module).__name__
        raise ModelError(
            f"the checkpoint in {source} lacks {len(lacking)} weights of a {made}: {', '.join(lacking[:3])}{', ...' * (len(lacking) > 3)}"
            + (f". Its config.json says that it is a {saved}" if saved and saved != made else "")
        )
    return module


def _failure(name: str, where: str, source: str, error: Exception) -> str:
    """Why a checkpoint cannot be loaded, and what can be done."""
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        return f"{name!r} wants code of its own to be run, from {where}, which this program never does; use a type that transformers has"
    folder = Path(source)
    if pickles := sorted(folder.glob("*.bin")) if folder.is_dir() and not list(folder.glob("*.safetensors")) else []:
        return (
            f"{name!r} has its weights as a pickle ({pickles[0].name}), which can run any code when it is read, and no *.safetensors. If "
            "you trust it, convert it once: load it with its class of transformers and call save_pretrained(<folder>), which writes them"
        )
    hint = "" if folder.is_dir() else " Where the Hub is out of reach, copy the checkpoint's folder here and give its path."
    return f"could not load {name!r} from {where}: {said}{hint}"


def describe(config: Any) -> Architecture:
    """The description for a config; that of the common layout where the type has none but the config's parts are those of such a model."""
    architecture = of_model_type(config.model_type)
    if is_described(config.model_type):
        return architecture
    if not (hasattr(config, "text_config") and hasattr(config, "vision_config")):
        known = ", ".join(name for described in ARCHITECTURES for name in described.model_types)
        raise ModelError(f"no description of model type {config.model_type!r} in interventions/models/architecture.py; there are: {known}")
    log.warning("model type %r has no description in interventions/models/architecture.py; trying the common layout", config.model_type)
    return architecture


def _complete(processor: Any, config: Any) -> None:
    """Older LLaVA checkpoints leave to the model what a processor must know to count image tokens."""
    if hasattr(processor, "patch_size") and processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1  # CLIP's class token, which the strategy "default" takes off again


def choose_device(device: str) -> torch.device:
    """The device for an option; ModelError when it is neither a CPU nor CUDA, or when CUDA is asked for and absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        known = chosen.type in ("cpu", "cuda")
    except RuntimeError:
        known = False
    if not known:
        raise ModelError(f"unknown device {device!r}; choose auto, cpu, cuda or cuda:<number>")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for, but this torch ({torch.__version__}) sees no CUDA device; use --device cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= (count := torch.cuda.device_count()):
        raise ModelError(f"device {device!r} was asked for, and this machine's last is cuda:{count - 1}")
    return chosen


def check_heads_are_given(written: dict[str, Any]) -> None:
    """Raise `ModelError` if a BLIP's config.json leaves out how many heads its text model has: transformers would take its class's default,
    and BLIP's weights fit any number."""
    if "num_attention_heads" not in (written.get("text_config") or {}):
        raise ModelError("the checkpoint's config.json lacks text_config.num_attention_heads; put in how many heads it was trained with")


def check_config(config: Any, architecture: Architecture) -> None:
    """Raise `ModelError` for a model whose layers cannot be read: its config lacks a size, its layers are not alike, it has an encoder
    before its decoder, or the number of heads does not divide the width, so that heads would be cut wrongly."""
    part = architecture.text_config
    sizes = getattr(config, part)
    if isinstance(sizes, dict):
        raise ModelError(f"transformers does not know the type {sizes.get('model_type')!r} of the {part} in the checkpoint's config.json")
    if getattr(sizes, "is_encoder_decoder", False):
        raise ModelError(f"its language model is of type {sizes.model_type!r}, an encoder and a decoder; such models are not described")
    try:
        lacking = [name for name in SIZES if getattr(sizes, name, None) is None]
        getattr(sizes, "head_dim", None)
    except RuntimeError as error:  # transformers' AmbiguousGlobalPerLayerAttributeError, which it does not export
        reason = str(error).partition(". ")[0]
        raise ModelError(f"layers of type {sizes.model_type!r} are not all of one size; such are not described: {reason}") from error
    if lacking:
        raise ModelError(f"the checkpoint's config.json does not say {', '.join(f'{part}.{name}' for name in lacking)}")
    rounded_down = getattr(sizes, "head_dim", None) in (None, sizes.hidden_size // sizes.num_attention_heads)
    if rounded_down and sizes.hidden_size % sizes.num_attention_heads:
        raise ModelError(
            f"the config says {sizes.num_attention_heads} attention heads and width {sizes.hidden_size}, which {sizes.num_attention_heads} "
            f"does not divide; correct {architecture.text_config}.num_attention_heads in the checkpoint's config.json"
        )


def fingerprint(source: str, config: Any, revision: str | None) -> str:
    """What exactly was loaded: the Hub's commit, or the first 12 hex digits of a hash over a folder's config and weights."""
    folder = Path(source)
    if not folder.is_dir():
        return str(getattr(config, "_commit_hash", None) or revision or "")
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True, default=str).encode())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]

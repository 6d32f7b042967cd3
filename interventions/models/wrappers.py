"""nnsight wrappers that never run without weights. A server that is to run BLIP needs this file at `interventions/models/wrappers.py`."""

import json
from pathlib import Path
from typing import Any

import httpx
import torch
from nnsight.modeling.huggingface import _ID_CACHE, HuggingFaceModel
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoConfig


class NoWeightsError(ValueError):
    """Something was to run here that can run only where the weights are."""


class Wrapper(HuggingFaceModel):
    """A model whose weights are here, or on a server: then a trace that is not sent there is an error, never a run here."""

    def dispatch(self) -> None:
        if not self.dispatched:
            raise NoWeightsError(
                f"{self.repo_id} was opened without its weights, which are on a host; what was asked for is not sent there yet: "
                "use --backend local"
            )

    def _remoteable_model_key(self) -> str:
        """What a server knows the checkpoint by: the Hub's id (as it was typed, where the Hub cannot be asked), or the name of a folder."""
        folder = Path(self.repo_id)
        if folder.is_dir():
            return json.dumps({"repo_id": folder.name, "revision": self.revision})
        try:
            return super()._remoteable_model_key()
        except (OSError, httpx.HTTPError):  # the Hub, which knows how the id is spelled, is out of reach
            _ID_CACHE[self.repo_id] = self.repo_id
            return super()._remoteable_model_key()


class BlipModel(Wrapper):
    """nnsight wrapper of a BLIP checkpoint (transformers has no pipeline for it any more)."""

    AUTO_CLASS = "BlipForQuestionAnswering"

    def _load_meta(self, repo_id: str, *args: Any, **kwargs: Any) -> torch.nn.Module:
        return self._auto()(AutoConfig.from_pretrained(repo_id, revision=self.revision, trust_remote_code=False))


class DecoderModel(Wrapper):
    """nnsight wrapper of a checkpoint that answers with text. A server has it as a `TransformersModel`, whose modules are the same."""

    AUTO_CLASS = "AutoModelForImageTextToText"

    def _remoteable_get_env(self) -> dict[str, Any]:
        return {"attn_implementation": self._module.config._attn_implementation}  # a server's may be as another client left it

    def _remoteable_class(self) -> type[Any]:
        return TransformersModel

    def _remoteable_model_key(self) -> str:
        return json.dumps(json.loads(super()._remoteable_model_key()) | {"task": "image-text-to-text"})

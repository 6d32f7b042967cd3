"""What the numbers of a file depend on, and what a file says of its making."""

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from corruptions.base import CORRUPTIONS
from interventions import __version__
from interventions.models.vlm import Vlm
from interventions.study.corrupt_runs import MOST_MEASURED
from interventions.study.options import Options

LIBRARIES = ("nnsight", "torch", "transformers", "numpy", "xarray")


def made_by(options: Options, vlm: Vlm, fingerprint: str) -> dict[str, Any]:
    """The model, as it runs, and the fingerprint of the data."""
    return {
        "model": vlm.name,
        "model_revision": vlm.revision,
        "dataset_fingerprint": fingerprint,
        "dtype": vlm.number_format,
        "device": vlm.device_type,
        "program_version": __version__,
        **({"backend": "remote"} if options.backend == "remote" else {}),  # its libraries may be others
        **vlm.weights_there,
    }


@dataclass(frozen=True)
class Configuration:
    """Of one model on one data set."""

    options: Options
    vlm: Vlm
    dataset: str
    fingerprint: str

    def of_file(self, corruption: str | None = None, samples_of: str | None = None, **more: Any) -> dict[str, Any]:
        """Everything that the numbers of a file depend on.

        Parameters
        ----------
        corruption : of the corrupt runs
        samples_of : of clean runs alone, which have no direction: the corruption whose samples they are
        """
        options = self.options
        return {
            **made_by(options, self.vlm, self.fingerprint),
            "dataset": self.dataset,
            **{name: getattr(options, name) for name in ("samples", "seed", "definition", "keep_wrong", "divergence", "shared_pieces")},
            **(self._of_corrupt_runs(corruption) if corruption else {}),
            **({"samples_of": samples_of, **CORRUPTIONS[samples_of].configuration(options.corruption_options)} if samples_of else {}),
            **more,
        }

    def _of_corrupt_runs(self, corruption: str) -> dict[str, Any]:
        entry, options = CORRUPTIONS[corruption], self.options.corruption_options
        return {
            "corruption": corruption,
            "direction": self.options.direction,
            **entry.configuration(options),
            **entry.run_configuration(options),
            **({"embeddings_over": MOST_MEASURED} if entry.measures_embeddings else {}),
        }

    def attributes(self) -> dict[str, Any]:
        """What every file says of its making; versions are those where the model runs, of what runs there."""
        vlm = self.vlm
        versions = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
        versions |= vlm.server.versions if vlm.server else {}
        return {
            "model": vlm.name,
            "model_revision": vlm.revision,
            "dataset": self.dataset,
            "dataset_fingerprint": self.fingerprint,
            "main_token": vlm.architecture.main_token,
            "definition": self.options.definition,
            "dtype": vlm.number_format,
            "device": vlm.device_type,
            "seed": self.options.seed,
            "architecture": vlm.architecture.name,
            "library_versions": ", ".join(f"{name} {versions[name]}" for name in LIBRARIES),
            "python_version": versions["python"],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }

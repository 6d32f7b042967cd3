"""Work for tests, in a module that workers find by its name."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interventions.backends.work import Work


@dataclass(frozen=True)
class Fatal:
    """Work that ends its process at one sample ("exit"), or raises there ("raise")."""

    sample: str
    how: str

    def __call__(self, study, batch):
        if self.sample in batch.samples:
            if self.how == "exit":
                os._exit(1)
            raise ValueError(f"{self.sample} cannot be measured")
        return [{"x": {"process": np.array(os.getpid())}} for _ in batch.samples]


@dataclass(frozen=True)
class KilledOnce:
    """Work whose process kills itself at one sample, after some seconds, the first time; the mark is left for the second."""

    sample: str
    mark: Path
    after: float = 0.0
    work: Work | None = None

    def __call__(self, study, batch):
        if self.sample in batch.samples and not self.mark.exists():
            self.mark.touch()
            time.sleep(self.after)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.work(study, batch) if self.work else [{"x": {"process": np.array(os.getpid())}} for _ in batch.samples]

"""Start and end the loopback server, and ask for faults."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[3]
KEY = "0b8f3f8e-6a1d-4f5e-9a67-2f1f5d1c7a11"
BLIP = 'interventions.models.wrappers.BlipModel:{"repo_id": "blip-shapes", "revision": null}'
LLAVA = 'nnsight.modeling.transformers.TransformersModel:{"repo_id": "llava-shapes", "revision": null, "task": "image-text-to-text"}'
START = 180  # seconds


class LoopbackServer:
    """A server in its own process, in a folder that has the checkpoints, and of the project `wrappers.py` alone."""

    def __init__(
        self, folder: Path, models: tuple[str, ...] = (BLIP, LLAVA), arguments: tuple[str, ...] = (), checkpoints: tuple[Path, ...] = ()
    ) -> None:
        self.folder, self.models, self.arguments = folder, models, arguments
        package = folder / "interventions" / "models"
        package.mkdir(parents=True)
        for parent in (package, package.parent):
            (parent / "__init__.py").touch()
        shutil.copy(ROOT / "interventions" / "models" / "wrappers.py", package)
        for checkpoint in (*(ROOT / "checkpoints").glob("*-shapes"), *checkpoints):
            (folder / checkpoint.name).symlink_to(checkpoint)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self, wait: bool = True) -> None:
        command = [sys.executable, "-P", str(ROOT / "tests" / "support" / "loopback" / "server.py"), "--port", str(self.port)]
        command += ["--models", *self.models, *self.arguments]
        environment = os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers."""
        assert self.process is not None
        for _ in range(START * 10):
            try:
                httpx.get(f"{self.url}/ping").raise_for_status()
                return
            except httpx.HTTPError:
                assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
                time.sleep(0.1)
        raise TimeoutError((self.folder / "log").read_text()[-3000:])

    def kill(self) -> None:
        """At once, as a machine that fails."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def fault(self, **faults: float | str) -> None:
        httpx.post(f"{self.url}/faults", json=faults).raise_for_status()

    def seen(self) -> list[dict]:
        return httpx.get(f"{self.url}/seen").json()


@contextmanager
def serving(folder: Path, *arguments: str, checkpoints: tuple[Path, ...] = ()) -> Iterator[LoopbackServer]:
    """A server of the shipped models, and of other checkpoints that answer with text."""
    models = (BLIP, LLAVA, *(LLAVA.replace("llava-shapes", path.name) for path in checkpoints))
    server = LoopbackServer(folder, models, arguments, checkpoints)
    server.start()
    try:
        yield server
    finally:
        server.kill()

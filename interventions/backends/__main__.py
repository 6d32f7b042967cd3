"""`python -m interventions.backends doctor` checks a set-up for `--backend remote`, line by line."""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter

import httpx
import tyro
from nnsight.schema.config import CONFIG

from interventions.backends.host import Host
from interventions.backends.remote import RemoteServer
from interventions.models.loading import load
from interventions.study.errors import BackendError

LIBRARIES = ("nnsight", "torch", "transformers")


@dataclass
class Doctor:
    """Check a host, the key, versions and what is deployed; with a model, run one tiny job on it.

    Example: python -m interventions.backends doctor --host http://localhost:8001 --model llava-shapes
    """

    host: str | None = None
    """URL of the host. Default: NDIF_HOST, or what nnsight's config says."""
    model: str | None = None
    """A model, named as for `--model`."""
    revision: str | None = None
    """Revision of a checkpoint on the Hub."""


@dataclass(frozen=True)
class Finding:
    """One line: what is as it should be, or what to do."""

    fine: bool
    what: str

    def __str__(self) -> str:
        return f"{'OK' if self.fine else 'DO':<4}{self.what}"


def examine(options: Doctor) -> Iterator[Finding]:
    """The findings, one after another; where the host does not answer, nothing more can be said."""
    try:
        host = Host(options.host)
        started = perf_counter()
        host.get("/ping")
        source = "--host" if options.host else "NDIF_HOST" if os.environ.get("NDIF_HOST") else "nnsight's config"
        yield Finding(True, f"host {host.url} ({source}) answers in {perf_counter() - started:.2f} s")
    except (BackendError, httpx.HTTPError) as error:
        yield Finding(False, str(error))
        return
    for examined in (_key, _versions, _deployed):
        try:
            yield from examined(host)
        except Exception as error:  # of a host that has no such page, or another idea of it
            yield Finding(False, f"{examined.__name__[1:]}: {host.url} does not say ({type(error).__name__}: {error})")
    if options.model is None:
        yield Finding(True, "no job was run: give --model")
        return
    try:
        yield _job(host, options.model, options.revision)
    except (BackendError, ValueError, OSError) as error:
        yield Finding(False, f"job on {options.model}: {error}")


def _key(host: Host) -> Iterator[Finding]:
    if not host.has_key:
        yield Finding(False, "no key: put yours into NDIF_API_KEY, or keep it with `nnsight login` (a host without accounts needs none)")
        return
    source = "NDIF_API_KEY" if os.environ.get("NDIF_API_KEY") else "nnsight's config"
    url = httpx.URL(host.url)
    if url.scheme == "http" and url.host not in ("localhost", "127.0.0.1"):
        yield Finding(False, f"key ({source}) travels to {host.url} for all to read: use https")
    if host.get("/whoami").get("email"):
        yield Finding(True, f"key ({source}) is known to the host")
    else:
        yield Finding(False, f"key ({source}) is not known to the host; jobs are refused if it asks for keys")


def _versions(host: Host) -> Iterator[Finding]:
    environment = host.get("/env")
    python, local = environment["python_version"].split()[0], platform.python_version()
    same = python.split(".")[:2] == local.split(".")[:2]
    advice = "" if same else f": run this program with Python {'.'.join(python.split('.')[:2])}, for some code travels compiled"
    yield Finding(same, f"Python {local} here, {python} there{advice}")
    for name in LIBRARIES:
        installed, deployed = version(name), environment["packages"].get(name, "none")
        alike = installed == deployed
        advice = "" if alike else f": pip install {name}=={deployed}" if name == "nnsight" else ": results may differ by more than rounding"
        yield Finding(alike, f"{name} {installed} here, {deployed} there{advice}")


def _deployed(host: Host) -> Iterator[Finding]:
    deployments = host.get("/status").get("deployments", {}).values()
    running = sorted({str(entry.get("repo_id")) for entry in deployments if entry.get("application_state") == "RUNNING"})
    yield Finding(bool(running), f"deployed: {', '.join(running)}" if running else "no model is deployed: a first job waits until its is")


def _job(host: Host, model: str, revision: str | None) -> Finding:
    started, server = perf_counter(), RemoteServer(host)
    vlm = load(model, revision=revision, server=server)
    seconds, traffic = perf_counter() - started, server.traffic
    return Finding(
        True,
        f"{model} runs there as {vlm.model.to_model_key()}, in {server.number_format} on {server.device_type}, and its sites hold: "
        f"{traffic.jobs} jobs in {seconds:.1f} s, {traffic.bytes_sent:,} bytes sent, {traffic.bytes_received:,} received",
    )


def main() -> None:
    options = tyro.extras.subcommand_cli_from_dict({"doctor": Doctor})
    CONFIG.APP.REMOTE_LOGGING = False
    findings = []
    for finding in examine(options):
        print(finding, flush=True)
        findings.append(finding)
    sys.exit(0 if all(finding.fine for finding in findings) else 1)


if __name__ == "__main__":
    main()

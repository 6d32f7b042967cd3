"""Measuring on a remote host: each batch is one session and one job; cached states never leave the host, and only measurements come back.

The program holds the model without weights: a trace that is not sent to the host is an error, never a run here.
"""

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc import locate
from typing import Any

import torch

from interventions.backends.description import describe
from interventions.backends.host import Exchange, Failed, Host, Lost, Overdue, Unavailable
from interventions.backends.journal import Journal, name_of
from interventions.backends.shipping import PACKAGES, Request, Simulation, ship
from interventions.backends.work import Batch, Measured, Work
from interventions.models.vlm import Vlm
from interventions.results.manifest import read_manifest, update_manifest
from interventions.results.store import Arrays
from interventions.study.errors import BackendError
from interventions.study.study import Study

log = logging.getLogger(__name__)
MOST_TRIES = 3  # submissions of one job


@dataclass
class Traffic:
    """What went over the line."""

    jobs: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class RemoteServer:
    """Runs functions on the host that has a model's weights (see `Vlm.run`).

    Parameters
    ----------
    results : a folder that remembers the jobs under way: a program that is started again takes them up

    Attributes
    ----------
    dtype, device_type, number_format, weights, versions : see `Server`
    """

    def __init__(self, host: Host, results: Path | None = None) -> None:
        self.host, self.traffic = host, Traffic()
        self.dtype, self.device_type, self.number_format = torch.float32, "", ""  # till it meets the model
        self.weights, self.versions = "", dict[str, str]()
        self.journal = Journal(results)
        self._turn, self._mine, self._counting = threading.Lock(), threading.local(), threading.Lock()

    def meet(self, vlm: Vlm) -> None:
        """Become the server of a model, and ask what it is like there.

        Raises
        ------
        BackendError
            See `run`.
        """
        vlm.server = self
        journal, self.journal = self.journal, Journal(None)  # what is there now, not what was there when an earlier program asked
        description = self.run(vlm, describe)
        self.journal = journal
        self.dtype = getattr(torch, description["dtype"])
        self.device_type, self.number_format = description["device_type"], description["number_format"]
        self.weights, self.versions = description["weights"], description["versions"]
        vlm.revision = description["revision"] or vlm.revision

    def run(self, vlm: Vlm, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function(vlm, *arguments)` gives there.

        Raises
        ------
        BackendError
            Says what is wrong at the host, and what to do.
        VerificationError, SiteError, ...
            An error of the project's own, as the function raised it there.
        """
        exchange = Exchange(vlm.model.to_model_key(), self.host.url, vlm.model._remoteable_get_env())
        request = Request(exchange.compress)
        ship(vlm, function, arguments, request)
        name = f"{self.host.url} {name_of(f'{exchange.model_key} {self.weights}', function, arguments)}"
        with self._letting_others_prepare():
            try:
                outcome = self._taken_up(name, exchange) or self._submitted(name, exchange, request.content)
            except Failed as error:
                raise _raised_there(self.host, str(error)) from None
        with self._counting:
            self.traffic.jobs += exchange.posts
            self.traffic.bytes_sent += exchange.sent
            self.traffic.bytes_received += exchange.received
        self._fetched(name)
        return outcome["result"]

    def _submitted(self, name: str, exchange: Exchange, content: bytes) -> dict[str, Any]:
        reason: Exception | None = None
        for _ in range(MOST_TRIES):
            self.host.submit(exchange, content)
            self.journal.note(name, exchange.job_id)
            try:
                return self.host.result(exchange)
            except Lost as lost:
                log.warning("job %s at %s: %s; it is submitted again", exchange.job_id, self.host.url, lost)
                reason = lost
            except (Failed, Unavailable):
                self.journal.drop(name)
                raise
            except Overdue as overdue:
                raise BackendError(f"{overdue}; --wait-limit waits longer, and the job is taken up where it is then") from None
        self.journal.drop(name)
        raise BackendError(f"{self.host.url} lost a job {MOST_TRIES} times ({reason})")

    def _taken_up(self, name: str, exchange: Exchange) -> dict[str, Any] | None:
        """The result of a job that an earlier program submitted and did not wait for, if it can still be had."""
        exchange.job_id = self.journal.under_way().get(name)
        if exchange.job_id is None:
            return None
        try:
            return self.host.result(exchange)
        except (Lost, Failed, Unavailable) as reason:
            log.warning("job %s, submitted before, cannot be taken up: %s", exchange.job_id, reason)
            exchange.job_id = None
            return None
        except Overdue as overdue:
            self.journal.drop(name)
            raise BackendError(f"{overdue}, though it was submitted before; it is given up, and submitted anew by the next run") from None

    def _fetched(self, name: str) -> None:
        """Forget a job, or leave that to who keeps what it gave (see `preparing`)."""
        if (fetched := getattr(self._mine, "fetched", None)) is None:
            self.journal.drop(name)
        else:
            fetched.append(name)

    @contextmanager
    def preparing(self) -> Iterator[list[str]]:
        """In one of several threads: prepare inputs, while no other does. Gives the names of jobs whose results are fetched meanwhile; they
        stay in the journal until they are dropped."""
        with self._turn:
            self._mine.turn, self._mine.fetched = True, []
            try:
                yield self._mine.fetched
            finally:
                self._mine.turn, self._mine.fetched = False, None

    @contextmanager
    def _letting_others_prepare(self) -> Iterator[None]:
        has_turn = getattr(self._mine, "turn", False)
        if has_turn:
            self._turn.release()
        try:
            yield
        finally:
            if has_turn:
                self._turn.acquire()


class DryRun:
    """Runs functions here, by nnsight's simulation of a server: what does not travel is found out without one."""

    def __init__(self) -> None:
        self.dtype, self.device_type, self.number_format = torch.float32, "", ""
        self.weights, self.versions = "", dict[str, str]()  # those of this program

    def meet(self, vlm: Vlm) -> None:
        """Become the server of a model that was loaded here."""
        self.dtype, self.device_type, self.number_format = vlm.dtype, vlm.device_type, vlm.number_format
        vlm.server = self

    def run(self, vlm: Vlm, function: Callable[..., Any], *arguments: Any) -> Any:
        simulation = Simulation(vlm.model)
        ship(vlm, function, arguments, simulation)
        return simulation.result


class Remote:
    """Batches on a remote host, some at a time under way: the wait in its queue is not paid for each."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def run(self, study: Study, work: Work, batches: Sequence[Batch]) -> Generator[Measured]:
        server = study.vlm.server
        if not isinstance(server, RemoteServer):
            raise BackendError(f"{study.vlm.name} was not opened for a remote host (see interventions.backends.opening.open_model)")
        before = Traffic(**asdict(server.traffic))
        for corruption, chosen in study.chosen.items():
            study.examples(chosen.pairs[0], corruption)  # measures what noise depends on, over the table, before each thread does

        def measure(batch: Batch) -> tuple[list[Mapping[str, Arrays]], list[str]]:
            with server.preparing() as jobs:
                return work(study, batch), jobs

        todo, samples = list(reversed(batches)), 0
        under_way: dict[Future, Batch] = {}
        failed: BaseException | None = None
        pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="remote")
        try:
            while under_way or (todo and not failed):
                while todo and not failed and len(under_way) < self.jobs:
                    batch = todo.pop()
                    under_way[pool.submit(measure, batch)] = batch
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    batch = under_way.pop(future)
                    if error := future.exception():
                        failed = failed or error
                    else:
                        arrays, jobs = future.result()
                        yield batch, arrays
                        samples += len(batch.samples)  # now that they are kept
                        server.journal.drop(*jobs)
            if isinstance(failed, BackendError):
                raise BackendError(f"{failed}. Every finished sample is kept: run the same command again to go on") from failed
            if failed:
                raise failed
        finally:
            if under_way:
                server.host.stopped.set()
            pool.shutdown(cancel_futures=True)
            server.host.stopped.clear()
            _report(study, batches, before, server, samples)


def _report(study: Study, batches: Sequence[Batch], before: Traffic, server: RemoteServer, samples: int) -> None:
    """Say in the manifest what went over the line for these files, in this run and those before."""
    key = ", ".join(dict.fromkeys(path for batch in batches for path in batch.paths))
    said = read_manifest(study.options.out).get("remote", {}).get(key, {})
    used = {name: count - getattr(before, name) for name, count in asdict(server.traffic).items()} | {"samples": samples}
    total = {name: said.get(name, 0) + count for name, count in used.items()}
    names = ("bytes_sent", "bytes_received") if total["samples"] else ()
    per_sample = {f"{name}_per_sample": round(total[name] / total["samples"]) for name in names}
    update_manifest(study.options.out, "remote", key, {"host": server.host.url, **total, **per_sample})


def _raised_there(host: Host, traceback: str) -> Exception:
    """What to raise for an error that code raised at a host."""
    last = traceback.strip().splitlines()[-1]
    name, separator, message = last.partition(": ")
    kind = locate(name) if separator and name.split(".")[0] in PACKAGES else None
    if isinstance(kind, type) and issubclass(kind, Exception):
        return kind(message)
    log.error("what was run at %s raised:\n%s", host.url, traceback)
    return BackendError(f"what was run at {host.url} raised an error there: {last}")

"""A remote host that speaks nnsight's protocol (NDIF, or one of your own), with the patience that nnsight's client lacks.

A job is submitted over HTTP and asked after (`GET /response/<id>`): it outlives a lost connection, and the program too.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import httpx
from nnsight.intervention.backends import remote as nnsights
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.schema.config import CONFIG
from nnsight.schema.request import RequestModel
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, stop_when_event_set, wait_random_exponential
from tenacity.nap import sleep_using_event

from interventions.study.errors import BackendError

log = logging.getLogger(__name__)
FIRST_PATIENCE, PATIENCE = 5.0, 120.0  # seconds that a host may be away: before it has ever answered, and after
UNHEARD = 30.0  # seconds in which the host says that it knows nothing of a job, after which it is lost
FASTEST_POLL, SLOWEST_POLL = 0.05, 2.0  # seconds between questions after a job: they grow by a fifth
TRANSIENT = ("evicted", "preempted", "try again later", "reconnecting")  # in what a host says of a job that another try may mend
DOCTOR = "`python -m interventions.backends doctor`"
GIVING_UP = 0.1  # seconds in which it is noticed that a request is not waited for any more
READ_TIMEOUT = 60.0  # seconds without a byte of an answer
nnsights._READ_TIMEOUT = READ_TIMEOUT  # instead of its 600


class Lost(Exception):
    """A job that the host knows nothing of any more, or gave up for no fault of the job's."""


class Failed(Exception):
    """A job in which the code that was sent raised an error; the message is the traceback."""


class Unavailable(BackendError):
    """A job that the host gave up, for it cannot have the model."""


class Overdue(BackendError):
    """A job that is not finished after the wait limit."""


class Exchange(RemoteBackend):
    """nnsight's client for one job: counts bytes, and prints nothing."""

    posts = sent = received = 0

    def __init__(self, model_key: str, host: str, env: dict[str, Any], job_id: str | None = None) -> None:
        super().__init__(model_key, host=host, env=env, blocking=False, job_id=job_id)
        self.display.enabled = False

    def post(self, content: bytes) -> None:
        """Submit a request."""
        response = self._post(RequestModel(model_key=self.model_key, compress=self.compress, env=self.env), content)
        self.job_id, self.status = response.id, response.status
        self.posts, self.sent = self.posts + 1, self.sent + len(content)

    def poll(self, tracer: Any = None) -> Any:
        self.status = None  # and stays so where the host knows nothing of the job
        return super().poll(tracer)

    def finalize(self, content: bytes) -> Any:
        self.received += len(content)
        return super().finalize(content)


class Host:
    """Where jobs are sent to. The key is read from NDIF_API_KEY or nnsight's config, and never shown.

    Parameters
    ----------
    url : default: NDIF_HOST, or what nnsight's config says
    wait_limit : seconds that one job may take, its wait in the queue included

    Attributes
    ----------
    stopped : once it is set nothing is waited for any more, in whatever thread
    """

    def __init__(self, url: str | None = None, wait_limit: float = 3600.0) -> None:
        self.url = (url or CONFIG.API.HOST).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise BackendError(f"the host {self.url!r} is no URL: it begins with http:// or https:// (--host or NDIF_HOST)")
        self.wait_limit = wait_limit
        self.stopped = threading.Event()
        self._answered = False

    @property
    def has_key(self) -> bool:
        return bool(CONFIG.API.APIKEY)

    def get(self, path: str) -> Any:
        """What a path of the host says."""

        def ask() -> Any:
            headers = {"ndif-api-key": CONFIG.API.APIKEY} if CONFIG.API.APIKEY else None
            response = httpx.get(f"{self.url}{path}", timeout=httpx.Timeout(10.0, read=READ_TIMEOUT), headers=headers)
            response.raise_for_status()
            return response.json()

        return self.patiently(ask)

    def submit(self, exchange: Exchange, content: bytes) -> None:
        """Send a request."""
        self.patiently(lambda: exchange.post(content))

    def result(self, exchange: Exchange) -> dict[str, Any]:
        """Wait for a job that was submitted.

        Raises
        ------
        Lost
            It must be submitted again.
        Failed
            It raised an error there.
        Unavailable, Overdue, BackendError
            It has no result: says why, and what to do.
        """
        started = heard = time.monotonic()
        pause = FASTEST_POLL
        while True:
            try:
                result = self.patiently(exchange.poll)
            except httpx.HTTPStatusError as error:
                raise Lost(f"its result cannot be fetched any more ({error.response.status_code})") from error
            if result is not None:
                return result
            now = time.monotonic()
            heard = now if exchange.status else heard
            if now - started > self.wait_limit:
                status = exchange.status.value if exchange.status else "unknown"
                raise Overdue(f"job {exchange.job_id} at {self.url} is not finished after {self.wait_limit:g} s (its status: {status})")
            if now - heard > UNHEARD:
                raise Lost(f"nothing was heard of it for {UNHEARD:g} s")
            if self.stopped.wait(pause):
                raise BackendError(f"job {exchange.job_id} is not waited for any more")
            pause = min(SLOWEST_POLL, 1.2 * pause)

    def patiently(self, ask: Callable[[], Any]) -> Any:
        """What a request gives, asked again where it fails for a reason that may pass.

        Raises
        ------
        BackendError, Failed, Lost
        """
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(multiplier=0.2, max=10),
            stop=stop_after_delay(PATIENCE if self._answered else FIRST_PATIENCE) | stop_when_event_set(self.stopped),
            before_sleep=self._say,
            sleep=sleep_using_event(self.stopped),
            reraise=True,
        )
        try:
            answer = retrying(self._unless_stopped, ask)
        except (RemoteError, httpx.TransportError) as error:
            raise self._explained(error) from None  # what it was raised from may hold the key
        except ValueError:  # no JSON, or another's
            raise BackendError(f"{self.url} answers, but not in nnsight's protocol. Check the host (--host or NDIF_HOST)") from None
        self._answered = True
        return answer

    def _unless_stopped(self, ask: Callable[[], Any]) -> Any:
        """What a request gives. It is left to itself, in its own thread, when it is not waited for any more: a host may never answer."""
        answer: Future = Future()

        def fill() -> None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=fill, daemon=True).start()
        while not wait([answer], GIVING_UP).done:
            if self.stopped.is_set():
                raise BackendError(f"{self.url} is not waited for any more")
        return answer.result()

    def _say(self, state: RetryCallState) -> None:
        if state.attempt_number == 3 and state.outcome is not None:
            log.warning("%s: %s; asking again", self.url, self._hidden(str(state.outcome.exception())))

    def _hidden(self, message: str) -> str:
        """A message without the key, which a host may repeat."""
        return message.replace(CONFIG.API.APIKEY, "<key>") if CONFIG.API.APIKEY else message

    def _explained(self, error: Exception) -> Exception:
        cause = (error.__cause__ or error) if isinstance(error, RemoteError) else error
        message = self._hidden(str(error)).strip().removeprefix("Failed to send request: ")
        last = message.splitlines()[-1] if message else type(error).__name__
        if isinstance(cause, httpx.TransportError):
            return BackendError(f"no answer from {self.url} ({last}). Check the host (--host or NDIF_HOST) and the network")
        if isinstance(cause, httpx.HTTPStatusError):
            code = cause.response.status_code
            if code in (401, 403) or (code == 400 and "key" in message.lower()):
                refused = "the key" if self.has_key else "a request without a key"
                return BackendError(
                    f"{self.url} refuses {refused} ({code}: {last}). Put yours into NDIF_API_KEY, or keep it with `nnsight login`"
                )
            if code == 400 and "version" in message.lower():
                return BackendError(f"{self.url} refuses this client ({last}). {DOCTOR} compares the versions")
            return BackendError(f"{self.url} refuses the request ({code}: {last})")
        if "could not deploy" in message.lower() or "provisioning model" in message.lower():
            return Unavailable(f"the model cannot be had at {self.url}: {last}. {DOCTOR} lists the models that are deployed there")
        return Lost(last) if any(words in message for words in TRANSIENT) else Failed(message)


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    cause = error.__cause__ if isinstance(error, RemoteError) else error
    if isinstance(cause, httpx.HTTPStatusError):
        return cause.response.status_code in (429, 500, 502, 503, 504)
    return isinstance(cause, httpx.TransportError)

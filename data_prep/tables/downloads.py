"""Images fetched from the web into a folder, many at once; an interrupted or repeated run fetches only what is missing.

In: addresses (http and https). Out: files named by the hash of their address, since the last part of addresses repeats and may be too long
for a file name; and `dead_links.csv` with the addresses that gave no image and why.
"""

import csv
import hashlib
import io
import ipaddress
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
from anyio.from_thread import start_blocking_portal
from tqdm import tqdm

from data_prep.tables.images import ImageError, open_image
from data_prep.tables.sample import SampleError

DEAD_LINKS = "dead_links.csv"
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be better at another time
PER_HOST = 4  # requests to one host at once
GIVE_UP = 40  # so many addresses in a row without an answer, and those under way have none either: the network is down
LONGEST_WAIT = 30.0  # seconds, whatever a server asks for
HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; vlm-notice)", "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"}


class DownloadError(SampleError):
    """Nothing can be fetched at all."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a download may cost.

    Attributes
    ----------
    workers : downloads at once
    seconds : for one attempt, from looking up the name to the last byte
    megabytes : of one file
    attempts : before an address is given up
    pause : seconds before the second attempt; doubled before each further one
    allow_private : also connect to addresses of this machine and its local network
    """

    workers: int = 16
    seconds: float = 30.0
    megabytes: float = 20.0
    attempts: int = 3
    pause: float = 1.0
    allow_private: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1 or self.attempts < 1 or self.seconds <= 0 or self.megabytes <= 0:
            raise DownloadError("workers, attempts, seconds and megabytes must be above 0")


@dataclass(frozen=True)
class Dead:
    """Why an address gave no image; `final`: another time would be no better."""

    reason: str
    final: bool


class _Failure(Exception):
    def __init__(self, reason: str, final: bool, *, wait: float = 0.0, silent: bool = False) -> None:
        super().__init__(reason)
        self.dead, self.wait, self.silent = Dead(reason, final), wait, silent


class Downloads:
    """A folder of downloaded images.

    Parameters
    ----------
    folder : made when something is fetched. Addresses that an earlier run found dead for good are not tried again; delete
        `dead_links.csv` there to try them all. Those that failed otherwise are tried last, and say nothing of the network.
    """

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder, self.limits = folder, limits or Limits()
        self._dead = self._read_dead()
        self._failed_before: set[str] = set()
        self._silent: list[str] = []  # the reasons of the latest addresses, while none has answered
        self._under_way: set[str] = set()
        self._awaited: set[str] | None = None  # of those under way when GIVE_UP was reached, the ones that have not ended

    def path(self, url: str) -> Path:
        """Where the image of an address is.

        Raises
        ------
        ImageError
            When it is not there, with the reason.
        """
        path = self._path(url)
        if path.is_file():
            return path
        dead = self._dead.get(url)
        raise ImageError(f"{_short(url)}: {dead.reason if dead else 'not fetched yet'}")

    def fetch(self, urls: Iterable[str], progress: bool = True) -> None:
        """Fetch the images that are missing.

        Raises
        ------
        DownloadError
            When many new addresses in a row fail to answer, and no other answers meanwhile; what was fetched is kept.
        """
        missing = [url for url in dict.fromkeys(urls) if not self._path(url).is_file()]
        missing = [url for url in missing if url not in self._dead or not self._dead[url].final]
        if not missing:
            return
        self._failed_before = set(missing) & set(self._dead)
        missing.sort(key=self._failed_before.__contains__)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(missing), desc="downloading", unit="image", leave=False, disable=not progress) as bar:
            try:
                with start_blocking_portal() as portal:  # a thread of its own: notebooks run an event loop in this one
                    portal.call(self._fetch_all, missing, bar.update)
            except ExceptionGroup as group:  # of the tasks, such as a full disk
                raise group.exceptions[0] from group
            finally:
                self._write_dead()
        if self._is_down():
            count, reason = len(self._silent), self._silent[-1]
            self._answered()
            raise DownloadError(f"{count} addresses in a row did not answer ({reason}); is the network up? Run it again to go on")

    async def _fetch_all(self, urls: list[str], advance: Callable[[], object]) -> None:
        workers = anyio.Semaphore(self.limits.workers)
        hosts: defaultdict[str, anyio.Semaphore] = defaultdict(lambda: anyio.Semaphore(PER_HOST))
        transport = _CheckedTransport(self.limits.allow_private)
        timeout = httpx.Timeout(None, connect=self.limits.seconds / 2)  # a host may have another address that connects
        async with (
            httpx.AsyncClient(transport=transport, headers=HEADERS, timeout=timeout, follow_redirects=True) as client,
            anyio.create_task_group() as tasks,
        ):

            async def fetch(url: str) -> None:
                async with hosts["".join(url.split("/")[2:3])], workers:
                    self._under_way.add(url)
                    try:
                        await self._fetch_one(client, url)
                    finally:
                        self._under_way.remove(url)
                advance()
                if self._awaited is not None:
                    self._awaited.discard(url)
                if self._is_down():
                    tasks.cancel_scope.cancel()

            for url in urls:
                tasks.start_soon(fetch, url)

    async def _fetch_one(self, client: httpx.AsyncClient, url: str) -> None:
        wait = self.limits.pause
        for attempt in range(self.limits.attempts):
            try:
                data = await self._attempt(client, url)
            except _Failure as failure:
                self._dead[url] = failure.dead
                if failure.dead.final or attempt + 1 == self.limits.attempts:
                    if not failure.silent:
                        self._answered()
                    elif url not in self._failed_before:
                        self._count(failure.dead.reason)
                    break
                await anyio.sleep(max(wait, min(failure.wait, LONGEST_WAIT)))
                wait *= 2
            else:
                self._keep(url, data)
                self._dead.pop(url, None)
                self._answered()
                break

    def _count(self, reason: str) -> None:
        """Count an address that gave no answer."""
        self._silent.append(reason)
        if len(self._silent) == GIVE_UP:
            self._awaited = set(self._under_way)

    def _answered(self) -> None:
        self._silent.clear()
        self._awaited = None

    def _is_down(self) -> bool:
        return self._awaited is not None and not self._awaited

    async def _attempt(self, client: httpx.AsyncClient, url: str) -> bytes:
        """The bytes of an image; raises _Failure."""
        try:
            with anyio.fail_after(self.limits.seconds):
                data = await self._get(client, url)
            await anyio.to_thread.run_sync(open_image, data, "the answer")
        except TimeoutError as error:
            raise _Failure(f"took more than {self.limits.seconds:g} seconds", final=False, silent=True) from error
        except ImageError as error:
            raise _Failure(str(error).removeprefix("the answer: "), final=True) from error
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL, UnicodeError) as error:
            raise _Failure(str(error), final=True) from error
        except (httpx.HTTPError, OSError) as error:
            raise _Failure(f"{type(error).__name__}: {error}".removesuffix(": "), final=False, silent=True) from error
        return data

    async def _get(self, client: httpx.AsyncClient, url: str) -> bytes:
        most, too_large = self.limits.megabytes * 1e6, _Failure(f"larger than {self.limits.megabytes:g} MB", final=True)
        async with client.stream("GET", url) as response:
            if response.status_code != 200:
                after = response.headers.get("Retry-After", "")
                wait = float(after) if after.isdecimal() else 0.0
                raise _Failure(f"HTTP {response.status_code} {response.reason_phrase}", response.status_code not in PASSING, wait=wait)
            if int(response.headers.get("Content-Length", "0")) > most:
                raise too_large
            data = bytearray()
            async for part in response.aiter_bytes():
                data += part
                if len(data) > most:
                    raise too_large
        return bytes(data)

    @staticmethod
    def name(url: str) -> str:
        """The name of the file of an address."""
        return hashlib.sha256(url.encode()).hexdigest()

    def _path(self, url: str) -> Path:
        return self.folder / self.name(url)

    def _keep(self, url: str, data: bytes) -> None:
        path = self._path(url)
        temporary = path.with_suffix(".part")
        temporary.write_bytes(data)
        temporary.replace(path)

    def _read_dead(self) -> dict[str, Dead]:
        try:
            text = (self.folder / DEAD_LINKS).read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        try:
            rows = csv.DictReader(io.StringIO(text, newline=""))
            return {row["url"]: Dead(row["reason"], row["final"] == "yes") for row in rows}
        except (KeyError, csv.Error) as error:
            raise DownloadError(f"{self.folder / DEAD_LINKS}: not a list of dead links; delete it") from error

    def _write_dead(self) -> None:
        path = self.folder / DEAD_LINKS
        with path.with_suffix(".part").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["url", "final", "reason"])
            table.writerows([url, "yes" if dead.final else "no", dead.reason] for url, dead in sorted(self._dead.items()))
        os.replace(path.with_suffix(".part"), path)


class _CheckedTransport(httpx.AsyncHTTPTransport):
    """Connects by http and https to public addresses alone; sees every redirect too.

    The address that was checked is the one that is connected to, whatever the name stands for a moment later. Connections are not kept,
    since one address may serve many names, each with its own certificate.
    """

    def __init__(self, allow_private: bool) -> None:
        super().__init__(limits=httpx.Limits(max_keepalive_connections=0))
        self._allow_private = allow_private
        self._found: dict[str, list[str]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise httpx.UnsupportedProtocol(f"not an http or https address: {_short(str(request.url))}")
        host = request.url.raw_host.decode("ascii")
        if host not in self._found:
            entries = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            self._found[host] = sorted(
                {str(entry[4][0]) for entry in entries}, key=lambda address: ":" in address
            )  # IPv6 often has no route
        addresses = self._found[host]
        private = [address for address in addresses if not _is_public(address)]
        if private and not self._allow_private:
            raise httpx.UnsupportedProtocol(f"{host} is {private[0]}, an address of this machine or its local network")
        extensions = {**request.extensions, "sni_hostname": host}
        for address in addresses:
            url = request.url.copy_with(host=address)
            try:
                return await super().handle_async_request(
                    httpx.Request(request.method, url, headers=request.headers, extensions=extensions)
                )
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        raise httpx.ConnectError(f"{host} has no address")


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return ip.is_global and not ip.is_multicast


def _short(url: str) -> str:
    return url if len(url) <= 100 else f"{url[:97]}..."

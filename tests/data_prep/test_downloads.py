"""Downloads against a server on this machine that does everything that servers do wrong."""

import csv
import io
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import httpx
import numpy as np
import pytest
from PIL import Image

from data_prep.tables import downloads
from data_prep.tables.downloads import DEAD_LINKS, DownloadError, Downloads, Limits
from data_prep.tables.images import ImageError


def picture(seed=0, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Answers a path by its first word; `seen` counts the requests of each path, `most` those that were under way at once."""

    daemon_threads = True

    def __init__(self):
        self.seen, self.hosts, self.now, self.most, self.lock = Counter(), Counter(), 0, 0, threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path, host="127.0.0.1"):
        return f"http://{host}:{self.server_port}/{path}"

    def handle_error(self, request, client_address):
        pass  # clients that hang up


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, path = self.server, self.path.removeprefix("/")
        with server.lock:
            server.seen[path] += 1
            server.hosts[self.headers["Host"]] += 1
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            self.answer(path.split("/")[0].split("?")[0], server.seen[path])
        finally:
            with server.lock:
                server.now -= 1

    def answer(self, word, times):
        match word:
            case "missing":
                self.send(404, b"gone")
            case "flaky":
                self.send(500, b"") if times == 1 else self.send(200, picture())
            case "broken":
                self.send(503, b"")
            case "busy":
                self.send(429, b"", {"Retry-After": "1"}) if times == 1 else self.send(200, picture())
            case "slow":
                time.sleep(1)
                self.send(200, picture())
            case "pause":
                time.sleep(0.1)
                self.send(200, picture(sum(map(ord, self.path))))
            case "drip":
                self.start(200, {})
                while True:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            case "endless":
                self.start(200, {})
                while True:
                    self.wfile.write(bytes(10_000))
            case "announced":
                self.start(200, {"Content-Length": "999999999"})
            case "page":
                self.send(200, b"<!DOCTYPE html><html>Not here</html>", {"Content-Type": "text/html"})
            case "empty":
                self.send(200, b"")
            case "half":
                self.send(200, picture(kind="JPEG")[:500], {"Content-Type": "image/jpeg"})
            case "cut":
                data = picture()
                self.start(200, {"Content-Length": str(len(data))})
                self.wfile.write(data[:100] if times == 1 else data)
            case "to-file":
                self.send(302, b"", {"Location": "file:///etc/passwd"})
            case "to-neighbour":
                self.send(302, b"", {"Location": self.server.url("secret", "127.0.0.2")})
            case "loop":
                self.send(302, b"", {"Location": "/loop"})
            case "moved":
                self.send(301, b"", {"Location": "../ok"})
            case _:
                self.send(200, picture(sum(map(ord, self.path))))

    def start(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, status, data, headers=None):
        self.start(status, {"Content-Length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def limits(**options):
    return Limits(**{"seconds": 0.4, "megabytes": 0.1, "pause": 0.01, "allow_private": True, **options})


def dead_links(folder):
    with (folder / DEAD_LINKS).open(newline="") as file:
        return {row["url"]: (row["final"], row["reason"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("path", "requests"),
    [
        ("ok.jpg", 1),
        ("flaky", 2),
        ("cut", 2),
        ("moved/here", 1),
        ("photo.jpg!d?w=1&name=%20%D0%B2", 1),
        ("x" * 792, 1),
    ],
)
def test_an_image_is_fetched_once_and_kept_as_it_came(server, tmp_path, path, requests):
    url = server.url(path)
    for _ in range(2):
        found = Downloads(tmp_path, limits())
        found.fetch([url, url], progress=False)
        assert Image.open(found.path(url)).size == (30, 20)
    assert server.seen[path] == requests
    assert dead_links(tmp_path) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([found.path(url).name, DEAD_LINKS])


def test_a_server_that_asks_for_patience_gets_it(server, tmp_path):
    start = time.monotonic()
    Downloads(tmp_path, limits()).fetch([server.url("busy")], progress=False)
    assert time.monotonic() - start >= 1
    assert dead_links(tmp_path) == {}


BAD = {  # path: whether it is final, what the reason says, requests in a first run of 3 attempts and in all after a second run
    "missing": (True, "HTTP 404", 1, 1),
    "broken": (False, "HTTP 503", 3, 6),
    "slow": (False, "took more than 0.4 seconds", 3, 6),
    "drip": (False, "took more than 0.4 seconds", 3, 6),
    "endless": (True, "larger than 0.1 MB", 1, 1),
    "announced": (True, "larger than 0.1 MB", 1, 1),
    "page": (True, "HTML page", 1, 1),
    "empty": (True, "empty", 1, 1),
    "half": (True, "damaged or truncated", 1, 1),
    "to-file": (True, "not an http or https address: file:", 1, 1),
    "loop": (True, "redirects", 21, 21),
}


def test_dead_links_are_listed_with_their_reason_and_only_those_that_may_revive_are_tried_again(server, tmp_path):
    urls = {path: server.url(path) for path in [*BAD, "ok"]}
    for total in (2, 3):
        found = Downloads(tmp_path, limits())
        found.fetch(urls.values(), progress=False)
        listed = dead_links(tmp_path)
        assert set(listed) == {urls[path] for path in BAD}
        for path, expected in BAD.items():
            final, reason, requests = expected[0], expected[1], expected[total]
            assert listed[urls[path]][0] == ("yes" if final else "no"), path
            assert reason in listed[urls[path]][1]
            assert server.seen[path] == requests, path
            with pytest.raises(ImageError, match=reason):
                found.path(urls[path])
    assert server.seen["ok"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {DEAD_LINKS, found.path(urls["ok"]).name}


def test_equal_base_names_are_different_images(server, tmp_path):
    urls = [server.url(f"{folder}/maxresdefault.jpg") for folder in "ab"]
    found = Downloads(tmp_path, limits())
    found.fetch(urls, progress=False)
    assert found.path(urls[0]).read_bytes() != found.path(urls[1]).read_bytes()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0.0.0.0", "[::ffff:127.0.0.1]"])
def test_this_machine_is_refused_by_any_name(server, tmp_path, host):
    Downloads(tmp_path, limits(allow_private=False)).fetch([server.url("ok", host)], progress=False)
    [(final, reason)] = dead_links(tmp_path).values()
    assert (final, "an address of this machine or its local network" in reason) == ("yes", True)
    assert not server.seen


PRIVATE = "10.1.2.3 192.168.0.1 169.254.169.254 100.64.0.1 224.0.0.1 0.0.0.0 ::1 fe80::1 fd00::1 ::ffff:10.0.0.1 ::"
PUBLIC = "8.8.8.8 2606:4700::1111"


def test_which_addresses_are_public():
    assert [address for address in PRIVATE.split() if downloads._is_public(address)] == []
    assert [address for address in PUBLIC.split() if not downloads._is_public(address)] == []


def test_redirects_are_checked_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_is_public", lambda address: address == "127.0.0.1")
    Downloads(tmp_path, limits(allow_private=False)).fetch([server.url("to-neighbour")], progress=False)
    [(final, reason)] = dead_links(tmp_path).values()
    assert final == "yes"
    assert "127.0.0.2 is 127.0.0.2, an address of this machine" in reason
    assert list(server.seen) == ["to-neighbour"]


def test_the_address_that_was_checked_is_connected_to_under_the_name(server, tmp_path, monkeypatch):
    asked = Counter()

    async def look_up(host, port, **_):
        asked[host] += 1
        return [(None, None, None, "", ("127.0.0.1", 0))] if asked[host] == 1 else [(None, None, None, "", ("127.0.0.2", 0))]

    sent, send = [], httpx.AsyncHTTPTransport.handle_async_request

    async def record(transport, request):
        sent.append((request.url.host, request.extensions["sni_hostname"]))
        return await send(transport, request)

    monkeypatch.setattr(anyio, "getaddrinfo", look_up)
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", record)
    Downloads(tmp_path, limits()).fetch([server.url("ok", "images.example")], progress=False)
    assert dead_links(tmp_path) == {}
    assert sent == [("127.0.0.1", "images.example")]  # certificates are those of the name
    assert server.hosts == {f"images.example:{server.server_port}": 1}


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a.jpg", "a.jpg", "", "http://", "http://[::1"])
def test_what_is_no_web_address_is_a_dead_link(tmp_path, url):
    Downloads(tmp_path, limits()).fetch([url], progress=False)
    assert dead_links(tmp_path)[url][0] == "yes"


def test_several_at_once_but_few_of_one_host(server, tmp_path):
    Downloads(tmp_path, limits(workers=8, seconds=5)).fetch([server.url(f"pause/{i}") for i in range(12)], progress=False)
    assert server.most == downloads.PER_HOST
    assert dead_links(tmp_path) == {}


def test_no_network_is_said_soon(server, tmp_path):
    closed = Server()
    closed.shutdown()
    closed.server_close()
    urls = [closed.url(str(i)) for i in range(500)]
    found = Downloads(tmp_path, limits(attempts=1))
    found.fetch(urls[:30], progress=False)  # too few to tell
    with pytest.raises(DownloadError, match=r"\d\d addresses in a row did not answer \(ConnectError.*is the network up"):
        found.fetch(urls[30:], progress=False)
    assert 40 <= len(dead_links(tmp_path)) < 100
    for part in (urls[:30], [server.url("ok")], urls[30:60]):  # never so many in a row
        found.fetch(part, progress=False)
    assert found.path(server.url("ok")).is_file()


def closed_port():
    closed = Server()
    closed.shutdown()
    closed.server_close()
    return closed


def dead_hosts(count):
    closed = closed_port()
    return [closed.url(f"{i}.jpg", f"127.0.3.{i + 1}") for i in range(count)]


def test_dead_hosts_do_not_stop_a_second_run(server, tmp_path):
    good, dead = [server.url(f"ok/{i}") for i in range(60)], dead_hosts(60)
    mixed = [url for both in zip(good, dead, strict=True) for url in both]
    Downloads(tmp_path, limits(attempts=1)).fetch(mixed, progress=False)
    new = [server.url(f"new/{i}") for i in range(3)]
    for _ in range(2):
        Downloads(tmp_path, limits(attempts=1)).fetch([*dead, *new, *good], progress=False)
    assert set(dead_links(tmp_path)) == set(dead)
    assert len(list(tmp_path.iterdir())) == 64


def test_links_that_failed_before_are_tried_last(server, tmp_path):
    broken, new = server.url("broken"), [server.url(f"ok/{i}") for i in range(3)]
    chosen = limits(attempts=1, workers=1)
    Downloads(tmp_path, chosen).fetch([broken], progress=False)
    server.seen.clear()
    Downloads(tmp_path, chosen).fetch([broken, *new], progress=False)
    assert list(server.seen) == ["ok/0", "ok/1", "ok/2", "broken"]


def test_dead_hosts_beside_a_slow_one_do_not_stop_a_run(server, tmp_path):
    slow = [server.url(f"slow/{i}") for i in range(4)]
    dead = dead_hosts(100)
    Downloads(tmp_path, limits(attempts=1, seconds=5)).fetch([*slow, *dead], progress=False)
    assert set(dead_links(tmp_path)) == set(dead)


def test_a_full_disk_is_no_dead_link(server, tmp_path, monkeypatch):
    def keep(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Downloads, "_keep", keep)
    with pytest.raises(OSError, match="No space left"):
        Downloads(tmp_path, limits()).fetch([server.url(str(i)) for i in range(9)], progress=False)
    assert dead_links(tmp_path) == {}


def test_a_file_that_is_no_list_of_dead_links_stops(tmp_path):
    (tmp_path / DEAD_LINKS).write_text("address\nhttp://a\n")
    with pytest.raises(DownloadError, match=r"dead_links\.csv: not a list"):
        Downloads(tmp_path)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"attempts": 0}, {"seconds": 0}, {"megabytes": -1}])
def test_limits_must_allow_something(wrong):
    with pytest.raises(DownloadError, match="above 0"):
        Limits(**wrong)

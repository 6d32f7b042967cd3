"""Without a server of models: hosts that are not what they should be, names of models without the Hub, and the hash of weights."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_server
from threading import Thread

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from nnsight.intervention.backends import remote as nnsights
from nnsight.modeling import huggingface

from interventions.backends import host as host_module
from interventions.backends.__main__ import Doctor, examine
from interventions.backends.description import hash_of_weights
from interventions.backends.host import Exchange, Host
from interventions.models.loading import choose_device
from interventions.models.names import ModelError
from interventions.models.wrappers import BlipModel, DecoderModel
from interventions.study.errors import BackendError


class WebServer(BaseHTTPRequestHandler):
    """Answers everything with a page."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>log in</html>")

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


@contextmanager
def web_server():
    with ThreadingHTTPServer(("127.0.0.1", 0), WebServer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_web_server_is_not_taken_for_a_host():
    with web_server() as url:
        (finding,) = examine(Doctor(url))
        assert not finding.fine
        assert f"{url} answers, but not in nnsight's protocol" in str(finding)
        host = Host(url)
        exchange = Exchange("some.Model:{}", url, {}, job_id="1")
        for ask in (lambda: host.submit(exchange, b""), lambda: host.result(exchange)):
            with pytest.raises(BackendError, match=r"not in nnsight's protocol. Check the host \(--host or NDIF_HOST\)"):
                ask()


def test_a_host_that_never_answers_is_not_waited_for_long(monkeypatch):
    assert nnsights._READ_TIMEOUT == host_module.READ_TIMEOUT <= 60
    monkeypatch.setattr(nnsights, "_READ_TIMEOUT", 0.2)
    monkeypatch.setattr(host_module, "FIRST_PATIENCE", 0.1)
    with create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        with pytest.raises(BackendError, match=f"no answer from {url} .timed out"):
            Host(url).submit(Exchange("some.Model:{}", url, {}), b"")


@pytest.mark.parametrize("error", [OfflineModeIsEnabled("offline"), httpx.ConnectError("no network")])
@pytest.mark.parametrize("wrapper", [BlipModel, DecoderModel])
def test_without_the_hub_a_model_goes_by_the_id_as_typed(monkeypatch, error, wrapper):
    asked = []

    def model_info(hub, name):
        asked.append(name)
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr(huggingface, "_ID_CACHE", cache := {})
    monkeypatch.setattr("interventions.models.wrappers._ID_CACHE", cache)
    model = object.__new__(wrapper)
    model.__dict__ |= {"repo_id": "someone/some-model", "revision": None, "kwargs": {}}
    for _ in range(2):
        assert json.loads(model._remoteable_model_key())["repo_id"] == "someone/some-model"
    assert asked == ["someone/some-model"]


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "cpuu"])
def test_a_device_of_another_kind_is_refused(device):
    with pytest.raises(ModelError, match=f"unknown device '{device}'; choose auto, cpu, cuda"):
        choose_device(device)


def test_the_hash_of_weights_tells_each_number_and_does_not_depend_on_where_they_are():
    module = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.LayerNorm(3)).to(torch.bfloat16)
    module.register_buffer("steps", torch.tensor(7))
    module.register_buffer("mask", torch.zeros(4, 0, dtype=torch.bool))
    before = hash_of_weights(module)
    strided, shifted = torch.empty(5, 3, dtype=torch.bfloat16).T, torch.empty(16, dtype=torch.bfloat16)[1:]
    module[0].weight.data = strided.copy_(module[0].weight.data)
    module[1].bias.data = shifted[:3].copy_(module[1].bias.data)
    assert hash_of_weights(module) == before
    for values in module.state_dict().values():
        for place in np.ndindex(*values.shape):
            old = values[place].clone()
            values[place] += 1
            assert hash_of_weights(module) != before
            values[place] = old
    assert hash_of_weights(module) == before
    assert hash_of_weights(module.float()) != before

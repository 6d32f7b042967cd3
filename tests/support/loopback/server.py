"""A server that speaks nnsight 0.8.1's remote protocol, for tests: one process, HTTP and websocket on the loopback interface.

What a request carries is taken apart by nnsight's own server side (`RequestModel.deserialize`, `Remotable.from_model_key`, persistent ids);
jobs run one at a time. Nothing of the project may be importable here but what a server's operator installs
(`interventions.models.wrappers`): the rest must come with the request.
"""

import argparse
import asyncio
import io
import json
import platform
import queue
import re
import threading
import time
import traceback
import uuid
from importlib.metadata import version
from typing import Any

import anyio._backends._asyncio  # noqa: F401  before nnsight, which mounts `save` on every object
import torch
import uvicorn
import zstandard
from fastapi import FastAPI, File, Form, HTTPException, Request, WebSocket
from fastapi.responses import Response
from nnsight.modeling.mixins.remotable import Remotable
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing import tracer as tracing
from packaging.version import Version

PATIENCE = 60  # seconds that a websocket is listened to


class Jobs:
    """The deployed models, what became of each job, and the faults that a test asks for."""

    def __init__(self, models: list[str], bfloat16: list[str]) -> None:
        dtypes = dict.fromkeys(models, torch.float32) | dict.fromkeys(bfloat16, torch.bfloat16)
        self.models = {key: Remotable.from_model_key(key, dispatch=True, dtype=dtype) for key, dtype in dtypes.items()}
        for model in self.models.values():
            model._module.requires_grad_(False)
        self.responses: dict[str, ResponseModel] = {}
        self.results: dict[str, bytes] = {}
        self.sessions: dict[str, asyncio.Queue] = {}
        self.faults: dict[str, Any] = {"refuse": 0, "delay": 0.0, "gather": 0, "lose": 0, "die": 0, "undeployed": 0, "least_version": ""}
        self.seen: list[dict[str, Any]] = []
        self.waiting: queue.Queue = queue.Queue()
        self.loop: asyncio.AbstractEventLoop | None = None

    def tell(self, job: str, session: str, response: ResponseModel) -> None:
        self.responses[job] = response
        if session in self.sessions and self.loop is not None:
            frame = response.pickle() if isinstance(response.data, bytes) else response.model_dump_json()
            self.loop.call_soon_threadsafe(self.sessions[session].put_nowait, frame)

    def work(self) -> None:
        """Run jobs, one after another, for ever."""
        while True:
            job, request, blob, base = self.waiting.get()
            self.seen.append({"model_key": request.model_key, "bytes": len(blob), "queued": 0, "result_bytes": 0})
            seen = self.seen[-1]
            self.tell(job, request.session_id, ResponseModel(id=job, status=Status.RUNNING, description="running"))
            time.sleep(self.faults["delay"])
            self.gather()
            seen["queued"] = self.waiting.qsize()
            if self.faults["die"] > 0:  # and is said to be running for ever
                self.faults["die"] -= 1
                continue
            try:
                result = self.run(request, blob)
                seen["result_bytes"] = len(result)
                self.results[job] = result
                data = result if request.session_id else f"{base}results/{job}"
                self.tell(job, request.session_id, ResponseModel(id=job, status=Status.COMPLETED, data=data))
            except BaseException:
                self.tell(job, request.session_id, ResponseModel(id=job, status=Status.ERROR, description=traceback.format_exc()))

    def gather(self) -> None:
        """Once, hold a job up until so many others wait behind it."""
        end = time.monotonic() + PATIENCE
        while self.waiting.qsize() < self.faults["gather"] and time.monotonic() < end:
            time.sleep(0.01)
        self.faults["gather"] = 0

    def run(self, request: RequestModel, blob: bytes) -> bytes:
        self.faults["undeployed"] -= 1
        if request.model_key not in self.models or self.faults["undeployed"] >= 0:
            raise RuntimeError(f"Could not deploy this model. No model {request.model_key} here")
        model = self.models[request.model_key]
        model._remoteable_set_env(request.env)
        tracer = RequestModel.deserialize(blob, model._remoteable_persistent_objects(), request.compress)
        tracing.inc()
        try:
            tracer.execute(tracer.info.code)
            saved = {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in tracing._saves()}
        finally:
            tracing.dec()
        with io.BytesIO() as file:
            torch.save(saved, file)
            content = file.getvalue()
        return zstandard.ZstdCompressor().compress(content) if request.compress else content


def make_app(jobs: Jobs, keys: list[str]) -> FastAPI:
    app = FastAPI()

    def check_key(key: str | None) -> None:
        if not keys:
            return
        if key is None:
            raise HTTPException(401, "Missing or invalid API key.")
        if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", key):
            raise HTTPException(400, f"Invalid API key format: '{key}'.")
        if key not in keys:
            raise HTTPException(403, "Invalid API key.")

    @app.get("/ping")
    def ping() -> str:
        return "pong"

    @app.get("/env")
    def env() -> dict[str, Any]:
        packages = {name: version(name) for name in ("nnsight", "torch", "transformers")}
        return {"python_version": platform.python_version(), "packages": packages}

    @app.get("/status")
    def status() -> dict[str, Any]:
        deployments = {}
        for key in jobs.models:
            names = json.loads(key.split(":", 1)[1])
            known = {name: names.get(name) for name in ("repo_id", "revision", "task")}
            deployments[key] = {"model_key": key, **known, "deployment_level": "HOT", "application_state": "RUNNING"}
        return {"deployments": deployments}

    @app.get("/whoami")
    def whoami(request: Request) -> dict[str, Any]:
        known = request.headers.get("ndif-api-key") in keys
        return {"email": "someone@example.com" if known else None, "tags": []}

    @app.websocket("/subscribe")
    async def subscribe(socket: WebSocket) -> None:
        await socket.accept()
        session = uuid.uuid4().hex
        jobs.loop = asyncio.get_running_loop()
        jobs.sessions[session] = asyncio.Queue()
        await socket.send_text(json.dumps({"session_id": session}))
        try:
            while True:
                frame = await asyncio.wait_for(jobs.sessions[session].get(), PATIENCE)
                await (socket.send_bytes(frame) if isinstance(frame, bytes) else socket.send_text(frame))
        except Exception:
            del jobs.sessions[session]

    @app.post("/request")
    async def submit(request: Request, data: str = Form(), blob: bytes = File()) -> dict[str, Any]:
        if jobs.faults["refuse"] > 0:
            jobs.faults["refuse"] -= 1
            raise HTTPException(503, "Service temporarily unavailable: compute backend is reconnecting.")
        check_key(request.headers.get("ndif-api-key"))
        given, least = request.headers.get("nnsight-version", ""), jobs.faults["least_version"]
        if least and Version(given) < Version(least):
            raise HTTPException(400, f"Client nnsight version {given} is below the minimum supported {least}.")
        job = str(uuid.uuid4())
        received = ResponseModel(id=job, status=Status.RECEIVED, description="received")
        jobs.responses[job] = received
        jobs.waiting.put((job, RequestModel.model_validate_json(data), blob, str(request.base_url)))
        return json.loads(received.model_dump_json())

    @app.get("/response/{job}")
    def response(job: str) -> Response:
        if job not in jobs.responses:
            raise HTTPException(404, "No response")
        return Response(jobs.responses[job].model_dump_json(), media_type="application/json")

    @app.get("/results/{job}")
    def result(job: str) -> Response:
        if jobs.faults["lose"] > 0:
            jobs.faults["lose"] -= 1
            raise HTTPException(403, "Request has expired")
        return Response(jobs.results[job], media_type="application/octet-stream")

    @app.post("/faults")  # this and the next are no part of the protocol
    async def faults(request: Request) -> dict[str, Any]:
        jobs.faults |= await request.json()
        return jobs.faults

    @app.get("/seen")
    def seen() -> list[dict[str, Any]]:
        return jobs.seen

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--keys", nargs="*", default=[])
    parser.add_argument("--bfloat16", nargs="*", default=[], help="models that are held in bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    jobs = Jobs(options.models, options.bfloat16)
    threading.Thread(target=jobs.work, daemon=True).start()
    uvicorn.run(make_app(jobs, options.keys), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()

"""The remote path against a server in its own process (`support/loopback`): the same measurements as here, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from nnsight import save
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.schema.config import CONFIG
from zstandard import ZstdDecompressor

from interventions.backends.description import hash_of_weights
from interventions.backends.host import Host
from interventions.backends.remote import DryRun, RemoteServer
from interventions.backends.shipping import Request, ship
from interventions.engine.capture import Example, example
from interventions.engine.measuring import measure_pairs
from interventions.engine.pairs import prepare_pair
from interventions.engine.plan import patches
from interventions.models.loading import load
from interventions.models.parts import part_of
from interventions.models.vlm import Scored, generated
from interventions.models.wrappers import NoWeightsError
from interventions.results.roles import Cell
from tests.support import zoo
from tests.support.loopback.client import KEY, LLAVA, serving

NAMES = {"blip": "blip-shapes", "llava": "llava-shapes"}


@pytest.fixture(scope="module")
def instructblip(tmp_path_factory):
    """The folder of a checkpoint with random weights, whose Q-Former reads the question."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-instructblip"
    for part in zoo.make("instructblip"):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, instructblip):
    arguments = ("--keys", KEY, "--bfloat16", LLAVA.replace("null", '"half"'))
    with serving(tmp_path_factory.mktemp("server") / "served", *arguments, checkpoints=(instructblip,)) as running:
        yield running


@pytest.fixture(autouse=True)
def key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CONFIG.API, "APIKEY", KEY)
        yield


@pytest.fixture(scope="module")
def remote(server):
    """A model without weights, by the name of the fixture that has them."""
    made = {}

    def open_(name):
        if name not in made:
            made[name] = load(NAMES[name], server=RemoteServer(Host(server.url)))
        return made[name]

    return open_


@pytest.fixture(params=["blip", "llava"])
def both(request, remote):
    """A model here, and the same one there."""
    return request.getfixturevalue(request.param), remote(request.param)


def asked(vlm, make_pair, corruption="sip", count=2):
    """Arguments of `measure_pairs`: heads, MLPs and blocks at two cells, the first pair held against the plain path."""
    pairs = [example(vlm, prepare_pair(vlm, make_pair(vlm, corruption, number), Scored(3, 4))) for number in range(count)]
    components = (vlm.architecture.head_component, "mlp", "block")
    every = []
    for component in components:
        heads = vlm.n_heads if component in vlm.architecture.attention else None
        lengths = [pair.ids.shape[1] for pair in pairs]
        every.append([patches(component, vlm.n_layers, heads, [Cell("", "", (n - 1,)), Cell("", "", (1, n - 2))]) for n in lengths])
    return pairs, components, every, 256, True, (0,)


def assert_same(here, there):
    np.testing.assert_array_equal(np.stack(here[0]), np.stack(there[0]))
    for ours, theirs in zip(here[1], there[1], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("corruption", ["sip", "str"])
def test_a_batch_is_measured_there_as_here_in_one_job(both, make_pair, server, corruption):
    here, there = both
    before, jobs = len(server.seen()), there.server.traffic.jobs
    found = there.run(measure_pairs, *asked(there, make_pair, corruption))
    assert_same(here.run(measure_pairs, *asked(here, make_pair, corruption)), found)
    assert len(server.seen()) == before + 1
    assert there.server.traffic.jobs == jobs + 1
    numbers = sum(array.size for of_target in found[1] for array in of_target) + np.stack(found[0]).size
    assert server.seen()[-1]["result_bytes"] < 4 * numbers + 20_000  # measurements in float32, and no state


def test_what_is_sent_takes_the_dtype_of_the_model_there(server, make_pair):
    there = load("llava-shapes", revision="half", server=RemoteServer(Host(server.url)))
    here = load("llava-shapes", device="cpu", dtype="bfloat16")
    assert (there.number_format, there.dtype) == ("bfloat16", torch.bfloat16)
    wide = [replace(pair, pixels={name: values.float() for name, values in pair.pixels.items()}) for pair in asked(there, make_pair)[0]]
    expected = here.run(measure_pairs, *asked(here, make_pair))
    assert_same(expected, there.run(measure_pairs, wide, *asked(there, make_pair)[1:]))


@pytest.mark.parametrize("part", ["", "qformer"])
def test_a_question_that_a_qformer_reads_goes_along(instructblip, server, shapes, part):
    """Of prompts of unequal length, with a token of the answers given."""
    found = []
    for whole in (load(str(instructblip), "cpu"), load(str(instructblip), server=RemoteServer(Host(server.url)))):
        vlm = part_of(whole, part) if part else whole
        prompts = [vlm.read_after(vlm.prompt(shapes[number]["question"]), (7,)) for number in (0, 4)]
        pixels = vlm.pixels([shapes[0]["clean_image"], shapes[0]["corrupt_image"]])
        pairs = [Example(vlm.ids([prompt, prompt]), pixels, (5, 6), (7,)) for prompt in prompts]
        component = vlm.architecture.head_component
        every = [[patches(component, vlm.n_layers, vlm.n_heads, [Cell("", "", (0, 2))])] * len(pairs)]
        found.append(vlm.run(measure_pairs, pairs, (component,), every, 256, True, (0, 1)))
    assert_same(*found)
    assert float(np.ptp(found[0][1][0][0][:, 0])) > 1e-3


def test_answers_are_generated_there(both, shapes):
    here, there = both
    rows = [shapes[i] for i in range(5)]
    questions, images = [row["question"] for row in rows], [row["clean_image"] for row in rows]
    jobs = there.server.traffic.jobs
    assert there.generate(questions, images) == here.generate(questions, images)
    assert there.server.traffic.jobs == jobs + 1
    prompt, pixels = here.prompt(questions[0]), here.pixels(images[:1])
    (tokens,) = generated(here, [(here.ids([prompt]), pixels)], 8)
    inputs = here.generation_inputs(here.ids([prompt]), pixels)
    assert torch.equal(tokens, here.module.generate(**inputs, max_new_tokens=8, do_sample=False))


def test_an_image_travels_once(remote, make_pair):
    there = remote("llava")
    pair = example(there, prepare_pair(there, make_pair(there, "str"), Scored(3, 4)))
    one = torch.rand(1, *pair.pixels["pixel_values"].shape[1:], generator=torch.Generator().manual_seed(0))
    incompressible = one.expand(2, *one.shape[1:]).clone()  # the same in both runs
    every = [[patches("block", there.n_layers, None, [Cell("", "", (1,))])]]
    sent = []
    for images in (torch.zeros_like(incompressible), incompressible):
        before = there.server.traffic.bytes_sent
        there.run(measure_pairs, [replace(pair, pixels={"pixel_values": images})], ["block"], every, 256, False, (0,))
        sent.append(there.server.traffic.bytes_sent - before)
    assert 0.5 * one.nbytes < sent[1] - sent[0] < 1.1 * one.nbytes


def test_a_large_image_travels_once(llava):
    one = torch.rand(2**20, generator=torch.Generator().manual_seed(0))  # 4 MiB, incompressible but for its exponents
    sent = []
    for images in ([one], [one, one.clone()]):
        request = Request(compress=True)
        ship(llava, measure_pairs, (images,), request)
        sent.append(len(request.content))
        assert len(ZstdDecompressor().decompress(request.content)) > len(images) * one.nbytes  # as nnsight's server side reads it
    assert 0.5 * one.nbytes < sent[1] < sent[0] + 10_000


def test_without_weights_nothing_runs_here(both, make_pair):
    here, there = both
    assert {weights.device.type for weights in there.module.parameters()} == {"meta"}
    assert (there.revision, there.number_format, there.device_type) == (here.revision, here.number_format, here.device_type)
    assert there.weights_there == {"weights_there": hash_of_weights(here.module)}
    assert here.weights_there == {}
    with pytest.raises(NoWeightsError, match="--backend local"):
        measure_pairs(there, *asked(there, make_pair))


def test_nnsights_own_client_is_served_over_the_websocket(remote, llava, server, make_pair):
    model = remote("llava").model
    pair = make_pair(llava, "sip")
    ids, pixels = llava.ids([llava.prompt(pair.clean_question)]), llava.pixels([pair.clean_image])
    inputs = llava.inputs(ids, pixels)
    backend = RemoteBackend(model.to_model_key(), host=server.url)
    backend.display.enabled = False
    with torch.no_grad(), model.trace(**inputs, backend=backend):
        logits = save(model.output.logits)
    with torch.no_grad():
        assert torch.equal(logits, llava.module(**inputs).logits)


def test_a_dry_run_measures_the_same(vlm, make_pair):
    try:
        expected = vlm.run(measure_pairs, *asked(vlm, make_pair))
        DryRun().meet(vlm)
        assert_same(expected, vlm.run(measure_pairs, *asked(vlm, make_pair)))
    finally:
        vlm.server = None
    assert type(vlm).run.__code__.co_filename.endswith("vlm.py")
    assert type(vlm).run.__module__ == "interventions.models.vlm"  # what was read did not take the place of what it was made of

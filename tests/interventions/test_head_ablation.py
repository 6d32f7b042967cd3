"""Head ablation against raw PyTorch hooks; what replaces z; the sets that are ablated; the file and what is read from it."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image

from analysis.plots.ablation import draw_ablation
from interventions import head_ablation
from interventions.backends.opening import prepare
from interventions.engine import ablation as ablating
from interventions.engine.ablation import run_ablated
from interventions.engine.capture import Example, capture, example
from interventions.engine.oracle.ablation import verify_ablations
from interventions.engine.oracle.verify import VerificationError
from interventions.engine.pairs import prepare_pair
from interventions.engine.plan import all_heads
from interventions.head_ablation import ablate_heads
from interventions.head_patching import patch_heads
from interventions.methods import head_ablation as method
from interventions.methods.options import HeadAblation
from interventions.methods.ranking import RankingError, growing_sizes, made_of, random_order, ranked_heads
from interventions.methods.replacements import MeanZ, partners_of
from interventions.models.loading import wrap
from interventions.results import effects
from interventions.results.faithfulness import correct, faithfulness, table
from interventions.study.options import Options
from tests.support import zoo
from tests.support.hooks import answer_logits, layers_and_modules
from tests.support.planted import HEAD, LAYER, planted_blip

TOLERANCE = 1e-5


@pytest.fixture
def study(tmp_path, data, vlm):
    return prepare(Options(model=vlm.name, data=data, samples=2, out=tmp_path / "results", device="cpu"), vlm)


@pytest.fixture
def ranking(tmp_path):
    """A table that ranks four heads of two layers."""
    path = tmp_path / "heads.csv"
    pd.DataFrame({"layer": [2, 1, 2, 2], "head": [3, 0, 1, 0]}).to_csv(path, index=False)
    return path


def hooked_z(vlm, component, ids, pixels):
    """z of every layer in one run, [layer, token, width], by raw hooks."""
    layers, modules = layers_and_modules(vlm.module)
    pick, side = modules[component]
    found = [None] * len(layers)

    def keep(number):
        def hook(_, inputs, output):
            found[number] = (inputs[0] if side == "input" else output[0])[0].clone()

        return hook

    handles = [pick(layer).register_forward_hook(keep(number)) for number, layer in enumerate(layers)]
    with torch.no_grad():
        answer_logits(vlm.module, ids, pixels)
    for handle in handles:
        handle.remove()
    return torch.stack(found)


def hooked_ablation(vlm, component, ids, pixels, heads, put_in):
    """Logits of a run in which the z of some (layer, head) is replaced at all tokens, by raw hooks."""
    layers, modules = layers_and_modules(vlm.module)
    pick, side = modules[component]

    def put(number):
        def mix(z):
            z = z.clone()
            for layer, head in heads:
                if layer == number:
                    columns = slice(head * vlm.head_dim, (head + 1) * vlm.head_dim)
                    z[0, :, columns] = put_in[number][:, columns]
            return z

        if side == "input":
            return lambda _, inputs: (mix(inputs[0]), *inputs[1:])
        return lambda _, inputs, output: (mix(output[0]), *output[1:])

    register = "register_forward_pre_hook" if side == "input" else "register_forward_hook"
    handles = [getattr(pick(layer), register)(put(number)) for number, layer in enumerate(layers)]
    try:
        with torch.no_grad():
            return answer_logits(vlm.module, ids, pixels)[0]
    finally:
        for handle in handles:
            handle.remove()


def three_numbers(logits, answers):
    return torch.stack([*logits[list(answers)], logits.logsumexp(-1)])


def as_mask(vlm, heads):
    mask = torch.zeros(vlm.n_layers, vlm.n_heads, dtype=torch.bool)
    for layer, head in heads:
        mask[layer, head] = True
    return mask


def does_not_hold(most, real):
    """`ablating._run_together` on a device whose memory holds so many runs."""

    def run(vlm, captured, component, masks, put_in):
        if len(masks) > most:
            raise torch.OutOfMemoryError("too much")
        return real(vlm, captured, component, masks, put_in)

    return run


def test_ablated_runs_agree_with_raw_hooks(vlm, make_pair, monkeypatch):
    """Sets over one and several layers, none and all, put in: any numbers; in one trace and in several."""
    pair = make_pair(vlm, "sip", 1)
    ours = example(
        vlm,
        prepare_pair(vlm, pair, vlm.scored(pair.clean_question, pair.sample["correct_answer"], pair.sample["incorrect_answer"])),
        base="clean",
    )
    torch.manual_seed(0)
    for component in vlm.architecture.attention:
        every = all_heads(vlm, component)
        sets = [(), ((1, 2),), ((0, 0), (2, 1), (2, 3), (3, 2)), every]
        put_in = torch.randn(vlm.n_layers, ours.ids.shape[1], vlm.n_heads * vlm.head_dim) / 10
        captured = capture(vlm, [ours], (component,), divergence=True)
        clean = hooked_ablation(vlm, component, ours.ids[1:], ours.pixels["pixel_values"][1], (), put_in).log_softmax(-1)
        masks = torch.stack([as_mask(vlm, heads) for heads in sets])
        measured, top = run_ablated(vlm, captured, component, masks, put_in)
        monkeypatch.setattr(ablating, "runs_in_a_trace", lambda *_: 3)
        torch.testing.assert_close(run_ablated(vlm, captured, component, masks, put_in)[0], measured, atol=TOLERANCE, rtol=0)
        monkeypatch.setattr(ablating, "_run_together", does_not_hold(2, ablating._run_together))  # in halves of what does not fit
        for again, whole in zip(run_ablated(vlm, captured, component, masks, put_in), (measured, top), strict=True):
            torch.testing.assert_close(again, whole, atol=TOLERANCE, rtol=0)
        monkeypatch.undo()
        for heads, row, token in zip(sets, measured, top, strict=True):
            logits = hooked_ablation(vlm, component, ours.ids[1:], ours.pixels["pixel_values"][1], heads, put_in)
            divergence = torch.nn.functional.kl_div(logits.log_softmax(-1), clean, reduction="sum", log_target=True)
            expected = torch.cat([three_numbers(logits, ours.answers), divergence[None]])
            torch.testing.assert_close(row, expected, atol=TOLERANCE, rtol=0)
            assert token == logits.argmax()


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "mllama"])
def test_models_of_other_kinds_and_an_odd_number_of_runs(name):
    """Image features in later layers, image tokens that read each other, layers without the component: against one run at a time."""
    vlm = wrap(*zoo.make(name), name)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (448, 448, 3), dtype=np.uint8)) for _ in range(2)]
    prompt = vlm.prompt("Is the small circle red or blue?")
    ours = Example(vlm.ids([prompt, prompt]), vlm.pixels(images), (5, 6))
    component = vlm.architecture.head_component
    captured = capture(vlm, [ours], (component,))
    heads = all_heads(vlm, component)
    masks = torch.stack([as_mask(vlm, some) for some in ((), heads[1:3], heads)])
    put_in = torch.zeros_like(captured.states[component][0, 0])
    measured, _ = run_ablated(vlm, captured, component, masks, put_in)
    torch.testing.assert_close(measured[0], captured.measured[0, 1], atol=TOLERANCE, rtol=0)
    verify_ablations(vlm, ours, component, masks, put_in, measured)
    assert (measured[1:] - measured[0]).abs().amax(1).min() > 1e-3


def test_without_the_planted_head_the_image_does_not_matter_and_it_alone_is_enough(tmp_path):
    vlm = planted_blip(tmp_path)
    question = "Is the circle red or blue?"
    prompt, answers = vlm.prompt(question), (vlm.answer_ids(question, "red")[0], vlm.answer_ids(question, "blue")[0])
    ours = Example(vlm.ids([prompt, prompt]), vlm.pixels([Image.new("RGB", (64, 64), colour) for colour in ("blue", "red")]), answers)
    head = as_mask(vlm, [(LAYER, HEAD)])
    runs = []
    for one in (ours, replace(ours, ids=ours.ids.flip(0), pixels={name: values.flip(0) for name, values in ours.pixels.items()})):
        captured = capture(vlm, [one], ("cross_attention",))
        nothing = torch.zeros_like(captured.states["cross_attention"][0, 0])
        measured, _ = run_ablated(vlm, captured, "cross_attention", torch.stack([head, ~head]), nothing)
        torch.testing.assert_close(measured[1], captured.measured[0, 1], atol=TOLERANCE, rtol=0)
        runs.append(measured)
    torch.testing.assert_close(runs[0][0], runs[1][0], atol=TOLERANCE, rtol=0)
    assert (runs[0][1] - runs[1][1]).abs().max() > 0.1


# ---------------------------------------------------------------------- what replaces z


def test_means_are_over_other_samples_at_the_same_place():
    """Options by their order, not by which is right; a place that no other has gets its role's mean, a role that none has that of all."""
    means = MeanZ()
    first, second, third = (
        ["?", "correct", "correct", "or", "incorrect"],
        ["?", "incorrect", "or", "correct"],
        ["?", "correct", "or", "noun"],
    )
    z = {1: [1, 2, 3, 4, 5], 2: [10, 20, 30, 40], 3: [100, 200, 300, 400]}
    rows = {number: torch.tensor(values, dtype=torch.float32)[None, :, None] for number, values in z.items()}
    for names, number in ((first, 1), (second, 2), (third, 3)):
        means.add(names, rows[number])
    of_first = means.without(first, rows[1])[0, :, 0].tolist()
    role_of_option = (20 + 200) / 2  # of the first options of the others, none of which has a second token
    assert of_first == pytest.approx([(10 + 100) / 2, (20 + 200) / 2, role_of_option, (30 + 300) / 2, 40])
    anywhere = (1 + 2 + 3 + 4 + 5 + 10 + 20 + 30 + 40) / 9
    assert means.without(third, rows[3])[0, :, 0].tolist() == pytest.approx([(1 + 10) / 2, (2 + 20) / 2, (4 + 30) / 2, anywhere])


def test_a_lone_sample_has_no_mean():
    means = MeanZ()
    z = torch.ones(1, 2, 1)
    means.add(["?", "or"], z)
    with pytest.raises(ValueError, match="no other sample to take the mean of"):
        means.without(["?", "or"], z)


def test_a_partner_is_another_sample_of_the_same_length_and_depends_on_the_id_alone():
    lengths = {"a": 9, "b": 10, "c": 9, "d": 9, "e": 10, "f": 11}
    partners = partners_of(list(lengths), list(lengths.values()), seed=0)
    assert set(partners) == set("abcde")
    assert all(partner != own and lengths[partner] == lengths[own] for own, partner in partners.items())
    assert partners_of(list("bef"), [10, 10, 11], seed=0) == {name: partners[name] for name in "be"}
    assert {partners_of(list(lengths), list(lengths.values()), seed)["a"] for seed in range(20)} == {"c", "d"}


def test_each_replacement_puts_in_what_it_says(study, ranking):
    """The file's numbers of one sample, by raw hooks on what is put in, worked out from all samples' clean runs."""
    vlm = study.vlm
    component = vlm.architecture.head_component
    path = ablate_heads(
        study, HeadAblation(ranking=ranking, sizes=(0, 3, 4), random_sets=1, replacements=("mean", "zero", "resample", "corrupt"))
    )
    pairs, _ = study.pairs("sip")
    examples = [example(vlm, pair) for pair in pairs]
    clean = [hooked_z(vlm, component, ours.ids[:1], ours.pixels["pixel_values"][0]) for ours in examples]
    lengths = [ours.ids.shape[1] for ours in examples]
    ids = [pair.sample["sample_id"] for pair in pairs]
    partners = partners_of(ids, lengths, seed=0)
    number = next(i for i, sample_id in enumerate(ids) if sample_id in partners)
    pair, ours, partner = pairs[number], examples[number], ids.index(partners[ids[number]])

    def place(names, position):
        options = sorted({"correct", "incorrect"}, key=lambda name: names.index(name))
        name = names[position]
        return (options.index(name) if name in options else name), names[:position].count(name)

    names = [other.roles for other in pairs]
    put_in = {"zero": torch.zeros_like(clean[number]), "resample": clean[partner]}
    put_in["corrupt"] = hooked_z(vlm, component, ours.ids[1:], ours.pixels["pixel_values"][1])
    put_in["mean"] = torch.zeros_like(clean[number])
    for position in range(lengths[number]):
        where = place(names[number], position)
        same = [
            clean[i][:, other] for i in range(len(pairs)) for other in range(lengths[i]) if i != number and place(names[i], other) == where
        ]
        if not same:  # no other sample has the place
            role = where[0]
            same = [clean[i][:, o] for i in range(len(pairs)) for o in range(lengths[i]) if i != number and place(names[i], o)[0] == role]
        put_in["mean"][:, position] = torch.stack(same).mean(0)
    with xr.open_dataset(path) as dataset:
        row = dataset.sel(sample=pair.sample["sample_id"], set="ranked").load()
    set_of_three = [(2, 3), (1, 0), (2, 1)]
    for replacement, z in put_in.items():
        others = [head for head in all_heads(vlm, component) if head not in set_of_three]
        for operation, heads in (("knock_out", set_of_three), ("keep_only", others)):
            logits = hooked_ablation(vlm, component, ours.ids[:1], ours.pixels["pixel_values"][0], heads, z)
            cell = row.sel(replacement=replacement, operation=operation, heads=3)
            found = [float(cell[name]) for name in effects.MEASUREMENTS]
            np.testing.assert_allclose(found, three_numbers(logits, ours.answers), atol=2e-5)
            assert int(cell["top_token"]) == int(logits.argmax())


# ---------------------------------------------------------------------- rankings and sets


def test_whose_ranking_it_is_is_looked_at(study, data, tmp_path, blip, llava, caplog):
    vlm = study.vlm
    component, token = vlm.architecture.head_component, vlm.architecture.main_token
    path = patch_heads(study)
    ranked_heads(path, vlm, component, token, made_of(study))
    assert not caplog.text
    other = llava if vlm is blip else blip
    with pytest.raises(RankingError, match=f"holds effects of {vlm.name}, and heads of {other.name} are to be ranked"):
        ranked_heads(path, other, component, token)
    of_part = xr.load_dataset(path).assign_attrs(model=f"{vlm.name}-decoder")
    effects.write(of_part, tmp_path / "part.nc")
    with pytest.raises(RankingError, match=f"holds effects of {vlm.name}-decoder, and heads of {vlm.name} are to be ranked"):
        ablate_heads(study, HeadAblation(ranking=tmp_path / "part.nc"))
    study.options.direction, study.fingerprint = "noising", "0123"
    ranked_heads(path, vlm, component, token, made_of(study))
    assert "ranks heads by another direction: denoising, not noising" in caplog.text
    assert "ranks heads by another dataset fingerprint" in caplog.text


def test_heads_are_ranked_by_their_mean_absolute_effect(study):
    path = patch_heads(study)
    dataset = effects.read(path)
    at = dataset.effects.logit_difference().sel(token=dataset.attrs["main_token"])
    importance = abs(at).mean("sample").transpose("layer", "head").values
    ranked = ranked_heads(path, study.vlm, study.vlm.architecture.head_component, dataset.attrs["main_token"])
    assert len(set(ranked)) == importance.size
    values = [importance[head] for head in ranked]
    assert values == sorted(values, reverse=True)
    with pytest.raises(RankingError, match=r"no effects at the token 'noun'; there are .*Choose with --token"):
        ranked_heads(path, study.vlm, study.vlm.architecture.head_component, "noun")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,heads\n1,2\n", "missing columns head; there are layer, heads"),
        ("layer,head\n1,2\n1,x\n", "row 3, column head: 'x' is not a whole number"),
        ("layer,head\n1,2\n40,0\n", "has no cross_attention head 0 in a layer 40; is it another model's"),
        ("layer,head\n1,2\n0,0\n1,2\n", "head 2 of layer 1 is there twice"),
        ("model,layer,head\nother,1,2\n", "has no rows for cross_attention of blip-shapes"),
        ("", "is not a CSV table"),
    ],
)
def test_a_table_that_is_no_ranking_says_where(tmp_path, blip, text, message):
    path = tmp_path / "heads.csv"
    path.write_text(text)
    with pytest.raises(RankingError, match=message):
        ranked_heads(path, blip, "cross_attention", "correct")


def test_a_table_of_several_models_gives_this_ones_heads_in_its_order(tmp_path, blip):
    path = tmp_path / "heads.csv"
    rows = "model,component,layer,head\nblip-shapes,cross_attention,3,1\nother,cross_attention,0,0\nblip-shapes,self_attention,0,1\n"
    path.write_text(rows + "blip-shapes,cross_attention,0,2\n")
    assert ranked_heads(path, blip, "cross_attention", "correct") == ((3, 1), (0, 2))


def test_random_sets_have_as_many_heads_in_each_layer(blip):
    heads = all_heads(blip, "cross_attention")
    ranked = ((2, 3), (1, 0), (2, 1), (2, 0), (0, 5))
    draws = [random_order(ranked, heads, seed=0, draw=draw) for draw in range(40)]
    for order in draws:
        assert len(set(order)) == len(order)
        assert set(order) <= set(heads)
        assert [layer for layer, _ in order] == [layer for layer, _ in ranked]
    assert {order[0][1] for order in draws} == set(range(blip.n_heads))  # drawn from all heads of the layer
    assert random_order(ranked, heads, seed=0, draw=7) == draws[7]
    assert random_order(heads, heads, seed=1, draw=0) != heads
    assert set(random_order(heads, heads, seed=1, draw=0)) == set(heads)


def test_sizes_grow_to_all():
    assert growing_sizes(6) == (0, 1, 2, 4, 6)
    assert growing_sizes(8) == (0, 1, 2, 4, 8)
    assert growing_sizes(1) == (0, 1)


# ---------------------------------------------------------------------- the file


def test_the_ends_of_the_curve_are_the_clean_run_and_all_heads_ablated(study):
    patch_heads(study)
    path = ablate_heads(study, HeadAblation(random_sets=2))
    with xr.open_dataset(path) as dataset:
        dataset.load()
    every = len(all_heads(study.vlm, study.vlm.architecture.head_component))
    assert dataset.sizes == {"sample": 8, "replacement": 1, "operation": 2, "set": 3, "heads": len(growing_sizes(every)), "rank": every}
    for name in effects.MEASUREMENTS:
        for end in (dataset.sel(operation="knock_out", heads=0), dataset.sel(operation="keep_only", heads=every)):
            np.testing.assert_allclose(end[name], dataset[f"clean_{name}"].broadcast_like(end[name]), atol=TOLERANCE)
        ends = (dataset[name].sel(operation="knock_out", heads=every), dataset[name].sel(operation="keep_only", heads=0))
        xr.testing.assert_equal(ends[0].drop_vars(["operation", "heads"]), ends[1].drop_vars(["operation", "heads"]))
    clean = dataset.sel(operation="knock_out", heads=0)
    assert bool((correct(clean) == 1).all())  # samples are those that the model answers correctly
    assert bool((correct(clean, "vocabulary") == 1).all())
    left = faithfulness(dataset)
    np.testing.assert_allclose(left.sel(operation="knock_out", heads=0), 1, atol=1e-5)
    np.testing.assert_allclose(left.sel(operation="keep_only", heads=0), 0, atol=1e-5)


def test_knocking_out_nothing_has_no_effect_in_any_metric(study, ranking):
    study.options.divergence = True
    with xr.open_dataset(ablate_heads(study, HeadAblation(ranking=ranking, random_sets=1, replacements=("zero",)))) as dataset:
        metrics = ("logit_difference", "restoration_probability", "log_odds", "normalized_effect", "relative_change", "divergence")
        for name in metrics:
            effect = getattr(dataset.effects, name)().sel(operation="knock_out")
            assert float(abs(effect.sel(heads=0)).max()) < 1e-4, name
            assert float(abs(effect.sel(heads=4)).max()) > 1e-2, name
        as_before = dataset.assign_attrs(direction="denoising")  # what is read of the runs themselves does not depend on it
        pd.testing.assert_frame_equal(table(dataset), table(as_before))
        drawn = [[line.get_ydata() for axes in draw_ablation(one).axes for line in axes.lines] for one in (dataset, as_before)]
        np.testing.assert_equal(*drawn)


def test_the_divergence_from_the_clean_run_is_kept_where_asked_for(study, ranking):
    study.options.divergence = True
    dataset = xr.open_dataset(ablate_heads(study, HeadAblation(ranking=ranking, replacements=("zero",)))).load()
    whole = dataset.kl_from_clean.sel(operation="knock_out", heads=0)
    assert float(abs(whole).max()) < 1e-5
    assert float(dataset.kl_from_clean.min()) > -1e-5
    assert float(dataset.kl_from_clean.max()) > 1e-3
    assert float(dataset.corrupt_kl_from_clean.min()) > 0


def test_what_is_read_from_a_file():
    """Two samples, of which one was not run under `resample`; worked out by hand."""
    dims = ("sample", "replacement", "operation", "set", "heads")
    #                 knock_out: 0, 1         keep_only: 0, 1
    of_first = {"ranked": [[4, 1], [0, 3]], "random 1": [[4, 3], [0, 1]], "random 2": [[4, 4], [0, 2]]}
    ld = np.stack([np.array(list(of_first.values()), float).transpose(1, 0, 2)] * 2)[:, None]
    ld[1] = -1  # the second sample is wrong everywhere
    ld = np.concatenate([ld, ld], 1)
    ld[1, 1] = np.nan
    top = np.where(ld > 3.5, 7, 8)
    dataset = xr.Dataset(
        {
            "logit_correct": (dims, ld),
            "logit_incorrect": (dims, ld * 0),
            "log_normalizer": (dims, ld),
            "top_token": (dims, top),
            "clean_logit_correct": ("sample", [4.0, 2.0]),
            "clean_logit_incorrect": ("sample", [0.0, 0.0]),
        },
        {
            "sample": ["a", "b"], "replacement": ["zero", "resample"], "operation": ["knock_out", "keep_only"], "set": list(of_first),
            "heads": [0, 1], "correct_token": ("sample", [7, 7]),
        },
    )  # fmt: skip
    rows = table(dataset)
    zero, resample = rows.loc[("zero", "knock_out", 1)], rows.loc[("resample", "knock_out", 1)]
    assert (zero["LD"], zero["LD_random"]) == ((1 - 1) / 2, ((3 - 1) / 2 + (4 - 1) / 2) / 2)
    assert zero["LD_sd"] == pytest.approx(np.std([1, 1.5], ddof=1))
    assert (zero["accuracy"], zero["vocabulary"], zero["vocabulary_random"]) == (0.5, 0, 0.25)
    assert (resample["LD"], resample["accuracy"], resample["vocabulary_random"]) == (1, 1, 0.5)  # of the one sample that was run
    none, whole = (0 - 1) / 2, (4 + 2) / 2
    assert rows.loc[("zero", "keep_only", 1), "faithfulness"] == pytest.approx(((3 - 1) / 2 - none) / (whole - none))
    assert rows.loc[("resample", "keep_only", 1), "faithfulness"] == pytest.approx(3 / 4)
    assert rows.loc[("resample", "knock_out", 1), "faithfulness"] == pytest.approx(1 / 4)
    assert np.isnan(faithfulness(dataset.sel(heads=[1]))).all()
    with pytest.raises(ValueError, match="not one of options, vocabulary"):
        correct(dataset, "tokens")


def test_a_sample_without_a_partner_is_in_the_manifest(tmp_path, data, blip, ranking):
    study = prepare(Options(model=blip.name, data=data, samples=1, out=tmp_path / "results", device="cpu"), blip)
    path = ablate_heads(study, HeadAblation(ranking=ranking, sizes=(1,), random_sets=0, replacements=("zero", "resample")))
    (entry,) = json.loads((tmp_path / "results/manifest.json").read_text())["runs"].values()
    lonely = {left["sample"] for left in entry["left_out"] if left["reason"].startswith("resample was not run")}
    with xr.open_dataset(path) as dataset:
        missing = dataset.logit_correct.sel(replacement="resample").isnull().all(("operation", "set", "heads"))
        assert set(dataset.sample.values[missing.values]) == lonely
        assert not bool(dataset.logit_correct.sel(replacement="zero").isnull().any())
        assert bool((dataset.top_token.where(dataset.logit_correct.isnull(), -1) == -1).all())
    lengths = {pair.sample["sample_id"]: len(pair.roles) for pair in study.pairs("sip")[0]}
    assert lonely == {name for name, length in lengths.items() if list(lengths.values()).count(length) == 1}
    assert lonely  # the fixture has one


def test_an_interrupted_run_goes_on_and_ends_with_the_same_values(study, ranking, monkeypatch, tmp_path):
    arguments = {"ranking": ranking, "sizes": (0, 2), "random_sets": 1, "replacements": ("mean", "zero")}
    real, count = method.run_ablated, iter(range(7))
    monkeypatch.setattr(method, "run_ablated", lambda *rest: real(*rest) if next(count, None) is not None else interrupt())
    with pytest.raises(KeyboardInterrupt):
        ablate_heads(study, HeadAblation(**arguments))
    redone = []
    monkeypatch.setattr(method, "run_ablated", lambda *rest: redone.append(1) or real(*rest))
    with xr.open_dataset(ablate_heads(study, HeadAblation(**arguments))) as resumed:
        resumed.load()
    assert len(redone) == 2 * (8 - 3)
    study.options.out = tmp_path / "whole"
    with xr.open_dataset(ablate_heads(study, HeadAblation(**arguments))) as whole:
        xr.testing.assert_identical(resumed.drop_attrs(), whole.load().drop_attrs())
    assert not list(tmp_path.rglob("*.partial"))


def interrupt():
    raise KeyboardInterrupt


def test_runs_that_are_wrong_together_stop_it(study, ranking, monkeypatch):
    real = ablating._run_together

    def wrong(*arguments):
        measured, top = real(*arguments)
        return measured + 0.01, top

    monkeypatch.setattr(ablating, "_run_together", wrong)
    with pytest.raises(VerificationError, match=r"without \d+ heads of .*: among others .* by itself"):
        ablate_heads(study, HeadAblation(ranking=ranking))
    assert not list(study.folder.rglob("*.npz"))


def test_wrong_options_are_refused(study, ranking):
    with pytest.raises(FileNotFoundError, match=r"no ranking of heads at .*-heads.nc: make it with .*head_patching"):
        ablate_heads(study)
    with pytest.raises(ValueError, match=r"'mlp' of .* has no heads; choose from"):
        ablate_heads(study, HeadAblation(component="mlp"))
    for sizes in ((0, 5), (2, 1), (-1, 1)):
        with pytest.raises(RankingError, match="--sizes must ascend and lie between 0 and the 4 ranked heads"):
            ablate_heads(study, HeadAblation(ranking=ranking, sizes=sizes))
    study.options.direction = "noising"
    with pytest.raises(ValueError, match="leave out --direction noising"):
        ablate_heads(study, HeadAblation(ranking=ranking))


def test_the_script_prints_the_curve_and_the_file(tmp_path, data, ranking, monkeypatch, capsys):
    arguments = ["--model", "blip-shapes", "--data", data, "--samples", "1", "--out", str(tmp_path / "results"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["head_ablation", *arguments, "--ranking", str(ranking), "--sizes", "0", "4"])
    head_ablation.main()
    lines = capsys.readouterr().out.splitlines()
    assert "LD_random" in lines[0]
    assert lines[-1].endswith("cross_attention-ablation.nc")

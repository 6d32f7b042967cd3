"""Mean and zero ablation of the embeddings, held against raw hooks."""

import pytest
import torch

from corruptions.base import CORRUPTIONS
from interventions.engine.capture import BASE, capture
from interventions.engine.plan import patches
from interventions.engine.sweep import sweep
from interventions.head_patching import patch_heads
from interventions.results import effects
from interventions.results.roles import Cell
from tests.interventions.study.test_noise_and_direction import embeddings_of, study_of
from tests.support.hooks import answer_logits, layers_and_modules, patched


class embeddings_replaced:
    """Raw hooks: the embeddings of one modality become `values` while the context lasts; what they were is kept in `seen`."""

    def __init__(self, vlm, modality, there, values):
        self.module, self.modality, self.there, self.values, self.seen = vlm.module, modality, there, values, []

    def _changed(self, states):
        self.seen.append(states[0, self.there].clone())
        states = states.clone()
        states[:, self.there] = self.values.to(states.dtype)
        return states

    def __enter__(self):
        target = embeddings_of(self.module, self.modality)
        if not hasattr(self.module, "text_encoder"):

            def before(_, args, kwargs):
                return args, kwargs | {"inputs_embeds": self._changed(kwargs["inputs_embeds"])}

            self.handle = target.register_forward_pre_hook(before, with_kwargs=True)
        elif self.modality == "image":

            def after(_, args, output):
                output.last_hidden_state = self._changed(output.last_hidden_state)
                return output

            self.handle = target.register_forward_hook(after)
        else:
            self.handle = target.register_forward_hook(lambda _, args, output: self._changed(output))
        return self

    def __exit__(self, *_):
        self.handle.remove()


def places(vlm, pair, modality):
    """The positions of the image or the question, by the kinds of tokens alone; all states of BLIP's vision tower."""
    if modality == "image" and not vlm.architecture.causal:
        return slice(None)
    return torch.tensor([kind == {"image": "image", "text": "question"}[modality] for kind in vlm.prompt(pair.sample["question"]).kinds])


@pytest.mark.parametrize("kind", ["mean_ablation", "mean_ablation_text", "zero_ablation", "zero_ablation_text"])
def test_a_study_agrees_with_raw_hooks(tmp_path, data, vlm, kind):
    becomes, modality = CORRUPTIONS[kind].embeddings, CORRUPTIONS[kind].modality
    study = study_of(vlm, data, tmp_path)
    pairs, _ = study.pairs(kind)

    def logits(pair, values):
        prompt = vlm.prompt(pair.sample["question"])
        pixels = vlm.pixels([pair.sample["clean_image"]])["pixel_values"].flatten(0, 1)
        with embeddings_replaced(vlm, modality, places(vlm, pair, modality), values) as hooked:
            return answer_logits(vlm.module, torch.tensor([prompt.ids]), pixels)[0], hooked.seen[0]

    by = torch.zeros(1)
    if becomes == "mean":
        every = [CORRUPTIONS[kind].make().corrupt(sample, vlm.prompt) for sample in study.table]  # chosen or not
        assert len(every) > len(pairs)
        seen = [logits(pair, torch.zeros(1))[1] for pair in every]
        by = torch.stack(seen).mean(0) if modality == "image" else torch.cat(seen).mean(0)
        torch.testing.assert_close(study.corrupt_runs.embedding_mean(kind).float().squeeze(0), by, atol=1e-5, rtol=0)
    dataset = effects.read(patch_heads(study.under(kind)))
    assert dataset.attrs["modality"] == modality
    for pair in pairs[:3]:
        oracle, _ = logits(pair, by)
        row = dataset.sel(sample=pair.sample["sample_id"])
        scored = pair.scored
        assert float(row.corrupt_logit_correct) == pytest.approx(float(oracle[scored.correct]), abs=5e-5)
        assert float(row.corrupt_logit_incorrect) == pytest.approx(float(oracle[scored.incorrect]), abs=5e-5)
    (ours,) = study.examples(pairs[0], kind)
    captured = capture(vlm, [ours], ("self_attention",))
    cells = [Cell("", "", (ours.ids.shape[1] - 1,))]
    every = patches("self_attention", vlm.n_layers, vlm.n_heads, cells)
    layers, modules = layers_and_modules(vlm.module)
    pick, side = modules["self_attention"]
    clean = places(vlm, pairs[0], modality)
    (rows,) = sweep(vlm, captured, [every])
    for patch, row in list(zip(every, rows, strict=True))[::7]:

        def run(number, values=by):
            pixels = ours.pixels["pixel_values"].flatten(0, 1)[number : number + 1]
            if number != BASE:
                return answer_logits(vlm.module, ours.ids[number : number + 1], pixels)[0]
            with embeddings_replaced(vlm, modality, clean, values):
                return answer_logits(vlm.module, ours.ids[number : number + 1], pixels)[0]

        columns = slice(patch.head * vlm.head_dim, (patch.head + 1) * vlm.head_dim)
        expected = patched(run, {0: pick(layers[patch.layers[0]])}, side, patch.positions, columns)
        scored = pairs[0].scored
        assert float(row[0]) == pytest.approx(float(expected[scored.correct]), abs=5e-5)

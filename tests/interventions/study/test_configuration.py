"""Options that the numbers of a script depend on: where one changes, what is there is not taken for what is asked for."""

from dataclasses import replace
from functools import partial

import pytest
import xarray as xr

from corruptions.options import CorruptionOptions
from interventions.attention_knockout import knock_out_attention
from interventions.attention_patterns import map_attention
from interventions.attribution_patching import attribute_heads
from interventions.backends.opening import prepare
from interventions.direct_effect import direct_effects
from interventions.head_ablation import ablate_heads
from interventions.head_patching import patch_heads
from interventions.methods.options import AttentionKnockout, AttributionPatching, HeadAblation, ModulePatching, PathPatching
from interventions.module_patching import patch_modules
from interventions.path_patching import patch_paths
from interventions.results.store import StoreError
from interventions.study.options import Options

RANKING = "layer,head\n1,0\n2,1\n"


def ablate(study):
    (study.options.out / "heads.csv").write_text(RANKING)
    return ablate_heads(study, HeadAblation(ranking=study.options.out / "heads.csv", sizes=(1,), random_sets=0, replacements=("zero",)))


CORRUPT_RUNS = {
    "head_patching": patch_heads,
    "module_patching": lambda study: patch_modules(study, ModulePatching(components=("mlp",), tokens=("last",)))[0],
    "attribution_patching": partial(attribute_heads, options=AttributionPatching(exact="none")),
    "head_ablation": ablate,
    "path_patching": partial(patch_paths, options=PathPatching(senders=("L1.H0",), receivers=("answer",))),
}
CLEAN_RUNS = {
    "attention_knockout": partial(knock_out_attention, options=AttentionKnockout(edges=("image:last",), window=1)),
    "direct_effect": direct_effects,
    "attention_patterns": map_attention,
}


@pytest.fixture
def study_of(tmp_path, data, llava):
    def make(**options):
        return prepare(Options(model=llava.name, data=data, samples=1, verify=0, out=tmp_path, device="cpu", **options), llava)

    return make


def is_left_alone(script, study, path):
    before = path.stat().st_mtime_ns
    return script(study) == path and path.stat().st_mtime_ns == before


@pytest.mark.parametrize("script", [*CORRUPT_RUNS.values(), *CLEAN_RUNS.values()], ids=[*CORRUPT_RUNS, *CLEAN_RUNS])
def test_other_options_of_a_corruption_make_other_results(study_of, script):
    words = CorruptionOptions(constraint_words=("circle", "square", "triangle", "star"))
    options = {"corruption": "constraint", "corruption_options": words, "keep_wrong": True}
    path = script(study_of(**options))
    assert is_left_alone(script, study_of(**options), path)
    fewer = replace(words, constraint_words=words.constraint_words[:3])
    with pytest.raises(StoreError, match=r"constraint_words: .* asked for"):
        script(study_of(**options | {"corruption_options": fewer}))


@pytest.mark.parametrize("script", CORRUPT_RUNS.values(), ids=CORRUPT_RUNS)
def test_other_noise_makes_other_results_and_is_in_the_file(study_of, script):
    """Also where there is one draw."""
    noise = CorruptionOptions(noise_draws=1, noise_multiple=2.0)
    options = {"corruption": "gaussian_noise", "corruption_options": noise}
    study = study_of(**options)
    path = script(study)
    assert is_left_alone(script, study_of(**options), path)
    for changed, said in (({"noise_multiple": 4.0}, "noise_multiple: 2.0 there, 4.0"), ({"noise_draws": 2}, "noise_draws: 1 there, 2")):
        with pytest.raises(StoreError, match=said):
            script(study_of(**options | {"corruption_options": replace(noise, **changed)}))
    with xr.open_dataset(path) as dataset:
        assert (dataset.attrs["noise_multiple"], dataset.attrs["noise_draws"]) == (2, 1)
        assert dataset.attrs["noise_sigma"] == pytest.approx(2 * study.corrupt_runs.embedding_deviation("gaussian_noise"))


@pytest.mark.parametrize("script", CLEAN_RUNS.values(), ids=CLEAN_RUNS)
def test_clean_runs_have_no_direction(study_of, script):
    path = script(study_of())
    assert is_left_alone(script, study_of(direction="noising", corruption_options=CorruptionOptions(noise_multiple=1.0)), path)

"""Sites are a registry without torch; descriptions of models name their classes, their parts, and no site that is not registered."""

import subprocess
import sys
from inspect import isabstract

import pytest

from interventions.models.architecture import ARCHITECTURES, named_class
from interventions.models.sites import SITES, label_of
from interventions.models.vlm import Vlm

DESCRIPTIONS = [*ARCHITECTURES, *(part for whole in ARCHITECTURES for part in whole.parts.values())]


@pytest.mark.parametrize("architecture", DESCRIPTIONS, ids=lambda one: one.name)
def test_a_description_names_registered_sites_in_the_order_of_a_layer_and_classes_that_are_whole(architecture):
    components = architecture.components
    assert [name for name in SITES if name in components] == list(components)
    assert {name for name in components if SITES[name].attention} == set(architecture.attention)
    assert set(architecture.reference.values()) <= set(components)
    wrapper = named_class(architecture.wrapper)
    assert issubclass(wrapper, Vlm)
    assert not isabstract(wrapper)
    assert hasattr(named_class(architecture.nnsight_model), "AUTO_CLASS")


def test_a_model_that_lacks_what_it_must_define_is_not_made():
    class Half(Vlm):
        def answer_ids(self, question, answer):
            return ()

    with pytest.raises(TypeError, match="abstract"):
        Half(None, None, None, "half", "")


def test_groups_follow_the_rule_of_the_site(vlm):
    config = vlm.module.config.text_config
    assert {name: vlm.groups(name) for name in SITES} == {
        "self_attention": config.num_attention_heads,
        "cross_attention": config.num_attention_heads,
        "mlp": 1,
        "block": 1,
    }
    assert vlm.group_counts["neurons"] == config.intermediate_size


def test_a_site_that_is_not_known_is_called_what_the_file_calls_it():
    assert label_of("mlp") == "MLP"
    assert label_of("neurons") == "neurons"


def test_the_facts_of_sites_and_descriptions_load_no_torch():
    asks = "import sys, interventions.models.sites, interventions.models.architecture; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True).stdout.strip() == "False"

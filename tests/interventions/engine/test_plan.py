"""What is patched where, and in which order: written down by hand."""

import pytest

from interventions.engine.plan import Patch, patches, window_of
from interventions.results.roles import Cell

FIRST, SECOND = Cell("correct", "red", (3,)), Cell("or", "or", (4, 5))


def test_patches_of_heads_go_by_layer_then_head_then_cell():
    found = patches("self_attention", 2, 3, [FIRST, SECOND])
    assert found == [
        Patch("self_attention", (0,), 0, (3,)),
        Patch("self_attention", (0,), 0, (4, 5)),
        Patch("self_attention", (0,), 1, (3,)),
        Patch("self_attention", (0,), 1, (4, 5)),
        Patch("self_attention", (0,), 2, (3,)),
        Patch("self_attention", (0,), 2, (4, 5)),
        Patch("self_attention", (1,), 0, (3,)),
        Patch("self_attention", (1,), 0, (4, 5)),
        Patch("self_attention", (1,), 1, (3,)),
        Patch("self_attention", (1,), 1, (4, 5)),
        Patch("self_attention", (1,), 2, (3,)),
        Patch("self_attention", (1,), 2, (4, 5)),
    ]


def test_patches_of_modules_go_by_layer_then_cell_and_windows_reach_the_layers_around():
    found = patches("mlp", 3, None, [FIRST, SECOND], window=3)
    layers = [(0, 1), (0, 1), (0, 1, 2), (0, 1, 2), (1, 2), (1, 2)]
    assert found == [Patch("mlp", window, None, at) for window, at in zip(layers, [(3,), (4, 5)] * 3, strict=True)]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (1, [(0,), (1,), (2,), (3,)]),
        (2, [(0,), (0, 1), (1, 2), (2, 3)]),  # an even one reaches one layer further down than up
        (3, [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3)]),
        (4, [(0, 1), (0, 1, 2), (0, 1, 2, 3), (1, 2, 3)]),
    ],
)
def test_a_window_is_centred_as_in_rome(window, expected):
    assert [window_of(layer, window, 4) for layer in range(4)] == expected

"""The benchmarks run, on the smallest of their cases; what they time is not tested."""

import torch

from benchmarks import corruptions, engine, gpu, growth, interventions
from benchmarks.models import llava


def test_a_case_of_the_engine(capsys):
    row = engine.run_case("llava-shapes", repeats=1, naive_cells=1, threads=1)
    assert (row.patches, row.samples) == (36, 100)
    assert row.samples_a_trace > 1
    assert 0 < row.outside_model < 1
    assert row.share_of_matmul_rate > 0


def test_a_size_of_the_growth():
    tokens, capturing, sweeping, peak = growth.measure(lambda: engine.CASES["blip-shapes"].make(), [5], 3, repeats=1, small=True)
    assert tokens == 10
    assert min(capturing, sweeping, peak) > 0


def test_every_intervention_is_timed(capsys):
    rows = interventions.run(interventions.Interventions(models=("llava-shapes",), samples=1))
    assert [row.intervention for row in rows] == list(interventions.INTERVENTIONS)
    assert [row.runs for row in rows if row.intervention in ("direct effect", "path patching")] == [36, 5 * (5 + 1) + 5]
    assert all(min(row.ours, row.one_run, row.times_over_naive, row.forward_passes) > 0 for row in rows)
    assert capsys.readouterr().out.count("llava-shapes") == len(rows)


def test_every_corruption_is_timed(capsys):
    rows = corruptions.run(corruptions.Corruptions(models=("llava-shapes",), samples=1))
    assert [row.corruption for row in rows] == list(corruptions.NAMES)
    assert all(min(row.making, row.measuring, row.times_sip) > 0 for row in rows)
    assert capsys.readouterr().out.count("llava-shapes") == len(rows)


def test_the_gpu_script_on_a_cpu(capsys):
    small = {"layers": 2, "heads": 4, "width": 64, "feed_forward": 96, "vision_layers": 1, "vision_width": 64, "image_size": 56}
    case = engine.Case(lambda: llava(**small, dtype=torch.bfloat16), [-1], samples=3)
    row = gpu.time_case("small", case.make, case)
    assert row["patches"] == 8
    assert row["tflop_a_sample"] > 0
    assert "seconds_a_sample" in capsys.readouterr().out

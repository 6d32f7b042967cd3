"""The benchmark of the analysis runs, on a small folder; what it times is not tested."""

from analysis.store.folder import read_tree
from benchmarks.analysis_size import ANALYSES, AnalysisSize, make_results, measure


def test_every_analysis_of_a_made_folder_is_measured_and_its_planted_head_found(tmp_path):
    make_results(tmp_path, AnalysisSize(layers=3, heads=3, samples=30, tokens=2, datasets=1, categories=2, patches=6))
    for name in ANALYSES:
        assert min(measure(name, tmp_path)) > 0
    for name in ("universal_heads", "robust_heads"):
        assert read_tree(tmp_path / f"{name}.nc")["made"]["universal"].sum("corruption").values[0, 0] == 2

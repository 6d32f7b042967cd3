"""Every command that is suggested runs, and makes the file that it promises: on studies with other data, models, parts and samples.

The studies are run and their suggestions carried out in this process. `.ci/long` runs all of them; the usual suite one small study.
"""

import importlib
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from analysis import products
from analysis.store.folder import effects_files
from data_prep.scenes.table import make_shapes
from data_prep.tables import schema as sample_table
from interventions.models.names import resolve
from tests.support.synthetic_results import write_results

ROOT = Path(__file__).resolve().parents[2]


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell would do with commands joined by `&&`, in this process."""
    for one in command.split(" && "):
        words = shlex.split(one)
        module, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1].removesuffix(".py"), words[2:])
        assert words[0] == "python"
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        importlib.import_module(module).main()


def suggestions(results: Path) -> dict[str, str]:
    """The command that is suggested for each product that is not there, by its name and place."""
    found = {}
    for product in sorted((*products.MEASURED, *products.JUDGED), key=lambda one: (one in products.JUDGED, not one.several_corruptions)):
        for place in products.places(results) if product.of_place else [()]:
            absent = not products.files(results, product.name, **dict(zip(("model", "dataset"), place, strict=False)))
            possible = products.applies(results, product, *place) if product.of_place else not products.impossible(results, product)
            if absent and possible:
                found[" ".join([product.name, *place])] = products.command(results, product.name, *place)
    return found


def carry_out_all(results: Path, monkeypatch: pytest.MonkeyPatch, leave_out: tuple[str, ...] = ()) -> None:
    """Run every suggestion; each must make its file, and none must stay but for those that are left out."""
    for name, command in suggestions(results).items():
        if name not in leave_out:
            product = next(one for one in products.PRODUCTS.values() if name == one.name or name.startswith(f"{one.name} "))
            before = set(products.files(results, product.name))
            run(command, monkeypatch)
            assert set(products.files(results, product.name)) - before, f"{command} did not make {name}"
    run(products.command(results, "figures"), monkeypatch)
    run(products.command(results, "report"), monkeypatch)
    left = [one for one in products.missing(results) if not one.reason]
    assert [one.what for one in left] == [f"{name} curves" for name in leave_out]
    for path in effects_files(results):
        assert products.command_for(path.path)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working folder with a blank in its name, from which commands are run as from the repository."""
    folder = tmp_path / "my studies"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def own_table(folder: Path, per_category: int, seed: int) -> Path:
    sample_table.save(make_shapes(per_category, seed, progress=False), folder, {"name": "my-scenes", "seed": seed, "left_out": []})
    return folder


def test_every_suggestion_for_other_data_and_another_checkpoint_makes_its_file(here, monkeypatch):
    table = own_table(here / "other data" / "scenes", 5, seed=5)
    checkpoint = here / "check points" / "my-blip"
    shutil.copytree(resolve("blip-shapes")[1], checkpoint)
    options = f"--model '{checkpoint}' --data '{table}' --out 'out of it' --samples 4 --seed 2 --noise-draws 2 --verify 0"
    run(f"python -m interventions.head_patching {options}", monkeypatch)
    suggested = suggestions(Path("out of it"))
    assert all(
        f"--model '{checkpoint}' --data '{table}' --out 'out of it'" in command for command in suggested.values() if "--out" in command
    )
    assert "--seed 2" in suggested["knockout my-blip shapes"]
    carry_out_all(Path("out of it"), monkeypatch, leave_out=("stability", "power"))


def test_what_is_made_again_is_made_with_its_own_options(here, monkeypatch):
    options = "--out results --samples 4 --keep-wrong --verify 0"
    run(
        f"python -m interventions.module_patching {options} --components mlp --window 3 --corruption gaussian_noise --noise-draws 2",
        monkeypatch,
    )
    (path,) = products.files(Path("results"), products.MODULES)
    command = products.command_for(path)
    for words in ("--samples 4", "--keep-wrong", "--components mlp", "--window 3", "--corruption gaussian_noise", "--noise-draws 2"):
        assert words in command
    written = path.read_bytes()
    path.unlink()
    run(command, monkeypatch)
    assert path.is_file()
    assert len(path.read_bytes()) == pytest.approx(len(written), rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize("model", ["blip-shapes", "llava-shapes"])
def test_every_suggestion_for_samples_of_unequal_number_that_are_kept_though_wrong(model, here, monkeypatch):
    run(f"python -m interventions.head_patching --model {model} --out results --samples 12 --keep-wrong", monkeypatch)
    run(f"python -m interventions.module_patching --model {model} --out results --samples 8 --keep-wrong --corruption str", monkeypatch)
    assert all("--keep-wrong" in command for command in suggestions(Path("results")).values() if "--out" in command)
    carry_out_all(Path("results"), monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("part", ["decoder", "vision"])
def test_every_suggestion_for_a_part_of_a_model(part, here, monkeypatch):
    run(f"python -m interventions.head_patching --part {part} --out results --samples 6", monkeypatch)
    run(f"python -m interventions.module_patching --part {part} --out results --samples 6", monkeypatch)
    suggested = suggestions(Path("results"))
    measuring = [command for command in suggested.values() if "--out" in command]
    assert all(f"--part {part}" in command and "--model blip-shapes --data shapes" in command for command in measuring)
    carry_out_all(Path("results"), monkeypatch)


@pytest.mark.long
def test_every_suggestion_for_other_data_with_all_options_in_the_noising_direction(here, monkeypatch):
    table = own_table(here / "scenes", 14, seed=5)
    options = f"--data '{table}' --samples 10 --direction noising --divergence --definition reference --dtype float32"
    run(f"python -m interventions.head_patching --model llava-shapes {options}", monkeypatch)
    carry_out_all(Path("results"), monkeypatch)


def test_unknown_files_are_said_to_be_unknown_and_a_run_that_left_nothing_says_why(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    shutil.copy(next(tmp_path.glob("*/*/str/mlp.nc")), tmp_path / "blip-small" / "shapes" / "str" / "mlp-reading.nc")
    (tmp_path / "manifest.json").write_text(
        '{"runs": {"blip-small/shapes/attention_knockout.nc": {"status": "not run: no sample is left", "samples": 0}}}'
    )
    found = {one.what: str(one) for one in products.missing(tmp_path)}
    assert found["blip-small/shapes/str/mlp-reading.nc"].endswith("no figure is known for such a file")
    assert found["blip-small, shapes, knockout curves"] == "blip-small, shapes, knockout curves: not run: no sample is left"


def test_a_component_that_is_not_known_is_effects_like_others(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    folder = tmp_path / "blip-small" / "shapes" / "str"
    shutil.copy(folder / "mlp.nc", folder / "neurons.nc")
    shutil.copy(folder / "mlp.nc", folder / "neurons-window3.nc")
    assert {"neurons", "neurons-window3"} <= {file.component for file in effects_files(tmp_path)}
    assert products.unknown_files(tmp_path) == []


def test_inputs_are_those_of_the_same_model_data_and_corruption(tmp_path):
    write_results(tmp_path, models=["blip-small", "llava-small"])
    path = tmp_path / "blip-small" / "shapes" / "sip" / "cross_attention-ablation.nc"
    path.touch()
    assert products.inputs(path, tmp_path) == [path.with_name("cross_attention-heads.nc")]
    assert not products.is_stale(path, tmp_path)
    os.utime(path, (0, 0))
    assert products.is_stale(path, tmp_path)
    assert len(products.inputs(tmp_path / "universal_heads.csv", tmp_path)) == 4


def test_the_readme_has_the_table_of_products():
    assert products.table() in (ROOT / "analysis" / "README.md").read_text(encoding="utf-8")


def test_every_file_that_an_analysis_says_it_writes_is_a_product():
    names = {name for one in products.PRODUCTS.values() for name in one.files}
    for path in (ROOT / "analysis").rglob("*.py"):
        for name in re.findall(r'results / f?"([\w.]+\.(?:nc|csv|md|html))"', path.read_text(encoding="utf-8")):
            assert name in names, f"{path.name} writes or reads {name}, which is no product"

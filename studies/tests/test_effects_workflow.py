"""What the studies ask of a comparison: effects at multiples and at later layers."""

import polars as pl
import pytest
from study_folder import StudyFolder

from saesteer.core.tables import read_summary
from studies.questions.experiments import MULTIPLES
from studies.questions.tables import EFFECT_LAYERS, EFFECTS_AT_LATER_LAYERS, EFFECTS_AT_MULTIPLES

pytestmark = pytest.mark.exhaustive

NAME = "micro-methods"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = StudyFolder(tmp_path_factory.mktemp("study") / "repo")
    methods = {"methods": ["unsteered", "sae_ts"]}
    effects = {"n_vectors": 12, "n_held_out": 8, "n_rollouts": 1, "n_prompts": 4, "max_new_tokens": 8}
    compared = folder.values(NAME)["methods"] | methods | {"effects": effects}
    folder.edit(NAME, layers=[3, 6], layers_per_job=1, methods=compared)
    data = f"data/{NAME}"
    at_multiples = [f"{data}/effects_at_multiples/layers_{layer}-{layer}.parquet" for layer in ("03", "06")]
    code, output = folder.run(f"{data}/tables/effect_layers.parquet", *at_multiples, experiment=NAME)
    assert code == 0, output
    return folder


def test_effects_are_read_at_later_layers_and_at_multiples(folder: StudyFolder) -> None:
    data = folder.path / f"data/{NAME}"
    effects = folder.table("effects", NAME).filter(pl.col("vector") < 12).sort("layer", "vector")
    again = pl.concat(read_summary(EFFECTS_AT_MULTIPLES, path) for path in data.glob("effects_at_multiples/*.parquet"))
    again = again.sort("layer", "vector")
    once = again.filter(multiple=1)
    assert once.height == 16  # 8 held out a layer
    assert once["effect"].list.to_array(1024).to_numpy() == pytest.approx(
        effects.filter(pl.col("vector") < 8)["effect"].list.to_array(1024).to_numpy(), abs=1e-4
    )
    later = read_summary(EFFECTS_AT_LATER_LAYERS, data / "effects_at_later_layers/layers_03-03.parquet")
    assert later.select("layer", "read_layer").unique().rows() == [(3, 6)]
    assert later["vector"].sort().to_list() == list(range(12))
    assert later["effect"].list.to_array(1024).to_numpy().any()
    fitted = read_summary(EFFECT_LAYERS, data / "tables/effect_layers.parquet")
    assert fitted.select("layer", "model", "read_layer").rows() == [
        (layer, model, reader) for layer, readers in ((3, (3, 6)), (6, (6,))) for model in ("kernel", "linear") for reader in readers
    ]
    assert set(fitted["n"]) == {4}
    assert set(again["multiple"]) == set(MULTIPLES)

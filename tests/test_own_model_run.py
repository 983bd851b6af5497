"""A user's way with files of his own, from `saesteer init` to the figures."""

import polars as pl
import pytest
import yaml
from own_files import N_LAYERS, write_model, write_saes, write_texts
from tokenizers import Tokenizer, normalizers
from workflow_folder import Folder

from saesteer.core.store import read_rows
from saesteer.steps.gen_success import GEN_SUCCESS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

pytestmark = pytest.mark.exhaustive
LAYERS = (1, 3)


def saesteer(folder: Folder, *arguments: str) -> str:
    done = folder.call("python", "-m", "saesteer", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Where an experiment that `init` wrote has run, with fewer features, factors, prefixes and draws."""
    folder = Folder(tmp_path_factory.mktemp("own") / "run")
    write_model(folder.path / "my/model")
    write_saes(folder.path / "my/saes", LAYERS)
    write_texts(folder.path / "my/texts.parquet")
    saesteer(folder, "init", "own", "--model", "my/model", "--saes", "my/saes", "--texts", "my/texts.parquet")
    own = yaml.safe_load((folder.path / "config/experiments/own.yaml").read_text())
    assert (own["layers"], own["saes"]["path"], own["input_score"]["tokens"]) == (list(LAYERS), "my/saes/layer_{layer}", "retokenised")
    assert (own["model"]["bos"], own["selection"]["late_layers_from"]) == ("tokenizer", min(round(N_LAYERS * 0.625), max(LAYERS)))
    sweep = own["sweep"] | {"factors": [0, 1, 4], "n_prefixes": 4, "max_new_tokens": 6}
    selection = own["selection"] | {"random_draws": 50, "permutations": 50}
    folder.edit("own", features={"kind": "sampled", "n_per_layer": 6, "seed": 0}, sweep=sweep, selection=selection)
    assert "100.00% of the vocabulary" in saesteer(folder, "check", "own")
    code, output = folder.run(experiment="own")
    assert code == 0, output
    return folder


def rows(folder: Folder, table: object, step: str) -> pl.DataFrame:
    return read_rows(table, sorted((folder.path / "data/own" / step).glob("layers_*.json")))


def test_input_scores_are_those_of_the_recorded_ids(folder: Folder) -> None:
    lens = {(layer, feature): ids for layer, feature, ids in rows(folder, LOGIT_LENS, "logit_lens")["layer", "feature", "token_ids"].rows()}
    scores = pl.read_parquet(folder.path / "data/own/tables/features.parquet")
    n_scored = 0
    for layer, feature, examples in rows(folder, MAX_ACTIVATING_EXAMPLES, "max_activating_examples")["layer", "feature", "examples"].rows():
        (score,) = scores.filter(layer=layer, feature=feature)["input_score"]
        hits = [example["token_id"] in lens[layer, feature] for example in examples]
        assert score == (pytest.approx(sum(hits) / len(hits)) if len(hits) >= 10 else None)
        n_scored += score is not None
    assert n_scored >= 4


def test_gen_success_counts_tokens_without_a_dummy_prefix(folder: Folder) -> None:
    """By the model's own tokenizer, made to put no space before a text."""
    plain = Tokenizer.from_file(str(folder.path / "my/model/tokenizer.json"))
    plain.normalizer = normalizers.Replace(" ", "▁")
    lens = {
        (layer, str(feature)): ids for layer, feature, ids in rows(folder, LOGIT_LENS, "logit_lens")["layer", "feature", "token_ids"].rows()
    }
    texts = rows(folder, GENERATIONS, "generations").join(rows(folder, GEN_SUCCESS, "gen_success"), on=GENERATIONS.keys)
    for row in texts.iter_rows(named=True):
        ids = plain.encode(row["text"], add_special_tokens=False).ids
        assert row["gen_success_20"] == sum(token in lens[row["layer"], row["target"]][:20] for token in ids)
    assert texts["gen_success_20"].sum() > 0


def test_every_figure_is_there_and_none_of_ratings(folder: Folder) -> None:
    made = {path.stem for path in (folder.path / "figures/own").glob("*.pdf")}
    assert {"overview", "roles", "examples", "by_factor", "pmi_by_threshold", "gen_success_by_threshold"} <= made
    assert "judge_kept_removed" not in made
    concepts = pl.read_parquet(folder.path / "data/own/tables/features.parquet")["concept"]
    assert concepts.null_count() == len(concepts) == 12

"""The steps of an experiment whose judge is a sentence-embedding model."""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from small_embedder import write_embedder
from workflow_folder import Folder

from saesteer.core.errors import SettingsError
from saesteer.core.files import write_json
from saesteer.core.texts import of_features
from saesteer.core.yaml_1_2 import to_yaml
from saesteer.engine.models import LanguageModel
from saesteer.judge.embedding import load_embedder
from saesteer.judge.nearest import vocabulary
from saesteer.judge.rate_embedding import concept_of, concept_ratings
from saesteer.judge.word_order import with_order_nats
from saesteer.recommendations.candidates import picked_features
from saesteer.recommendations.question import RecommendRequest
from saesteer.run import Run, open_run
from saesteer.settings import Comparison, EmbeddingJudge, ExampleConcepts, GivenConcept, ModelSource, Sweep, load_experiment
from saesteer.settings.load import load_workflow, read_yaml
from saesteer.sources.pins import pin
from saesteer.steps.concepts import CONCEPTS
from saesteer.steps.explanations import EXPLANATIONS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.step import steps_of
from saesteer.summaries import sweeps
from saesteer.workflow import plan
from saesteer.workflow.checks import check_contents
from saesteer.workflow.plan import complete_manifest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def _in_a_copy(finished: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.copy(tmp_path / "micro").path)


def complete(run: Run, *steps: str) -> None:
    """Make the rows of steps, one after the other."""
    for name in steps:
        for manifest, layers in zip(run.manifests(name), run.groups(name).values(), strict=True):
            complete_manifest(run, manifest, layers, partial(steps_of(run.experiment)[name].compute, run))
            assert plan.n_missing(run, name, layers) == 0


def judged_by_embeddings(further: dict[str, Any]) -> Run:
    """The experiment of the current folder with a judge of kind embedding, and further settings."""
    write_embedder(Path("embedder"), ["taxi", "pedestrian", "ship", "storm", "famous"])
    file, judge = Path("config/experiments/micro.yaml"), {"judge": {"kind": "embedding", "model": {"path": "embedder"}}}
    file.write_text(file.read_text(encoding="utf-8") + to_yaml(judge | further), encoding="utf-8")
    run = open_run("micro", load_workflow(read_yaml(Path("config/config.yaml"))))
    write_json(run.data / "pins/judge_model.json", pin(Path("embedder")))
    return run


@pytest.mark.usefixtures("_in_a_copy")
def test_the_steps_of_a_finished_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = list[int]()

    def counted(lm: LanguageModel, texts: pl.DataFrame, *more: Any) -> pl.DataFrame:
        measured.append(texts.height)
        return with_order_nats(lm, texts, *more)

    monkeypatch.setattr("saesteer.judge.word_order.with_order_nats", counted)
    run = judged_by_embeddings({"explanations": {"evidence": "lens"}})
    complete(run, "judge", "explanations")
    n_sparingly = sum(measured)
    ratings = run.rows(JUDGEMENTS)
    assert (ratings.height, run.rows(EXPLANATIONS).height) == (8 * 3 * 4, 8)
    assert ratings["judge_score"].null_count() == ratings["reason"].count() < ratings.height
    assert set(ratings["concept_rating"].drop_nulls()) <= {0, 1, 2}
    assert set(run.rows(EXPLANATIONS)["label"]) <= set(vocabulary({}))
    monkeypatch.setattr("saesteer.judge.rate_embedding.order_matters", lambda *_: True)
    rated = pl.concat(steps_of(run.experiment)["judge"].compute(run, ratings.select(JUDGEMENTS.keys)))
    assert rated.select(ratings.columns).equals(ratings)
    assert n_sparingly < sum(measured) - n_sparingly == ratings.height, "unsteered texts are measured once"


@pytest.mark.usefixtures("_in_a_copy")
def test_words_to_count_change_how_texts_are_rated_and_not_which_features_are_candidates() -> None:
    run, question = judged_by_embeddings({}), RecommendRequest("micro", "ship", 4, 1, Path("config/config.yaml"), None)
    picked = picked_features(run, question)
    assert "embedding" in picked["match"].to_list()
    assert picked_features(run, replace(question, words=("storm", "tide"))).equals(picked)


def passages_of(examples: list[dict[str, Any]]) -> list[str]:
    """What stands around the maxima of ten max-activating examples."""
    around = [one["context"][max(0, one["token_index"] - 32) : one["token_index"] + 17] for one in examples[:10]]
    return ["".join(context).replace("▁", " ").strip() for context in around]


@pytest.mark.usefixtures("_in_a_copy")
def test_a_feature_that_stands_for_its_examples_is_rated_by_their_vectors() -> None:
    run = judged_by_embeddings({"concepts": {"kind": "examples"}})
    complete(run, "concepts", "judge")
    vectors, keys = load_embedder(Path("embedder")).vectors, ["layer", "feature"]
    texts = of_features(run.rows(JUDGEMENTS).join(run.rows(GENERATIONS, columns=["text"]), on=GENERATIONS.keys))
    named = run.rows(CONCEPTS).join(run.rows(MAX_ACTIVATING_EXAMPLES, columns=["examples"]), on=keys).drop_nulls("concept")
    assert named.height >= 6
    by_word = 0
    for layer, feature, name, examples in named.select(*keys, "concept", "examples").iter_rows():
        rows = texts.filter(layer=layer, feature=feature)
        said, unsteered = rows["text"].to_list(), rows.filter(factor="0")["text"].to_list()
        expected = concept_ratings(concept_of(name, passages_of(examples), vectors), said, unsteered)
        assert rows["concept_rating"].to_list() == expected
        by_word += expected != concept_ratings(concept_of(name, (), vectors), said, unsteered)
    assert by_word
    steering = sweeps.steering_means(run, run.layers)["steering"].drop_nulls("concept_outside")
    assert set(steering.select(keys).iter_rows()) <= set(named.select(keys).iter_rows())
    assert steering.height >= 20


@pytest.mark.usefixtures("_in_a_copy")
def test_a_features_concept_is_the_name_nearest_to_most_of_its_examples() -> None:
    run = judged_by_embeddings({"concepts": {"kind": "nearest"}})
    complete(run, "concepts")
    names, vectors = vocabulary({}), load_embedder(Path("embedder")).vectors
    directions = vectors(names).astype(np.float64)
    usual = [np.mean(np.delete(directions @ one, place)) for place, one in enumerate(directions)]
    shares, rows = [], run.rows(CONCEPTS).join(run.rows(MAX_ACTIVATING_EXAMPLES, columns=["examples"]), on=["layer", "feature"])
    for concept, share, examples in rows.select("concept", "concept_share", "examples").iter_rows():
        texts = passages_of(examples)
        nearest = Counter(names[np.argmax(directions @ vector - usual)] for vector in vectors(texts).astype(np.float64))
        best = min(nearest, key=lambda name: (-nearest[name], name), default=None)
        shares.append(nearest[best] / len(texts) if best else 0.0)
        assert (concept, share or 0.0) == (best if shares[-1] >= 0.4 else None, shares[-1])
    assert min(filter(None, shares)) < 0.4 <= max(shares)
    with pytest.raises(ValidationError, match="kind nearest goes by the embeddings"):
        Sweep.model_validate(run.experiment.model_dump() | {"judge": {"kind": "none"}})


def test_a_comparison_names_its_concepts_also_where_its_features_stand_for_examples() -> None:
    by_name = load_experiment("tiny-methods", ROOT / "config/experiments")
    assert isinstance(by_name, Comparison)
    judge = EmbeddingJudge(kind="embedding", model=ModelSource(path=Path("embedder")))
    by_name = by_name.model_copy(update={"judge": judge})
    by_examples = by_name.model_copy(update={"concepts": ExampleConcepts(kind="examples")})
    same, step = steps_of(by_name)["judge"], steps_of(by_examples)["judge"]
    assert (step.inputs, step.settings, step.modules) == (same.inputs, same.settings, same.modules)


def test_what_the_judge_could_not_rate_is_refused_before_texts_are_written() -> None:
    sweep, comparison = (load_experiment(name, ROOT / "config/experiments") for name in ("smollm2", "smollm2-methods"))
    assert isinstance(sweep, Sweep)
    assert isinstance(comparison, Comparison)
    of_sweep, of_comparison = sweep.sweep.model_copy, comparison.methods.model_copy
    two_samples = {"n_prefixes": 2, "n_samples": 2}
    for fits in (sweep, comparison, sweep.model_copy(update={"sweep": of_sweep(update=two_samples)})):
        check_contents(fits)
    refused = {
        "sweep.n_prefixes: .* 3 prompts with n_samples 1 give 3": sweep.model_copy(update={"sweep": of_sweep(update={"n_prefixes": 3})}),
        "methods.n_prompts: .* give 2": comparison.model_copy(update={"methods": of_comparison(update={"n_prompts": 2})}),
        "the concept '42!' has no word": sweep.model_copy(update={"concepts": GivenConcept(kind="given", concept="42!")}),
        "the concept '2' has no word": comparison.model_copy(
            update={"methods": of_comparison(update={"concepts": comparison.methods.concepts.model_copy(update={"names": ("war", "2")})})}
        ),
    }
    for why, experiment in refused.items():
        with pytest.raises(SettingsError, match=why):
            check_contents(experiment)

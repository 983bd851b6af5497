"""Names of sources, waits, explanations and their search, whose answer git keeps, and our max-activating examples in Neuronpedia's form."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from neuronpedia_server import (
    HTML,
    KEY,
    PAGE,
    QUICK,
    SOURCE,
    Neuronpedia,
    examples_of,
    instead,
    read_batch,
    serving,
    status,
    table,
    write_batch,
)
from pydantic import ValidationError
from tokenizers import Tokenizer, models

from saesteer.analysis.max_activating_examples import max_activating_examples
from saesteer.core.tokens import TextTokens
from saesteer.exchange.neuronpedia import write_export
from saesteer.settings import ExplainedFeatures, NeuronpediaExamples, SaeSettings, Scores, SettingsError
from saesteer.sources.features import features_of
from saesteer.sources.http import FetchError
from saesteer.sources.neuronpedia.sources import Source, sources_of
from saesteer.sources.resolve_features import explanations, matching_features, nearest_features, resolve_features
from saesteer.steps.activations import ACTIVATIONS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Neuronpedia]:
    write_export(table({feature: examples_of(feature) for feature in range(1030)}), SOURCE, tmp_path / "bucket")
    with serving(tmp_path / "bucket") as server:
        yield server


def test_names_of_sources() -> None:
    assert Source.parse("gemma-2-2b/20-gemmascope-res-16k") == Source("gemma-2-2b", "20-gemmascope-res-16k")
    assert str(Source.parse("llama3.1-8b/0-llamascope-res-32k")) == "llama3.1-8b/0-llamascope-res-32k"
    for bad in ("gemma-2-2b", "a/b/c", "../b", "a/..", "a/b c", "/b", "a/"):
        with pytest.raises(SettingsError, match="Neuronpedia source"):
            Source.parse(bad)


def experiment(source: str | None, release: str | None, sae: str) -> Scores:
    """As much of an experiment as names a source."""
    examples = NeuronpediaExamples(kind="neuronpedia", source=source)
    saes = SaeSettings.model_construct(release=release, repo=None, path=None, id=sae)
    return Scores.model_construct(max_activating_examples=examples, saes=saes)


def test_the_source_is_the_one_given_or_sae_lenss() -> None:
    given = sources_of(experiment("gemma-2-2b/{layer}-gemmascope-res-16k", None, ""), [3, 20])
    assert given == {3: Source("gemma-2-2b", "3-gemmascope-res-16k"), 20: Source("gemma-2-2b", "20-gemmascope-res-16k")}
    named = sources_of(experiment(None, "gpt2-small-res-jb", "blocks.{layer}.hook_resid_pre"), [2, 3])
    assert named == {2: Source("gpt2-small", "2-res-jb"), 3: Source("gpt2-small", "3-res-jb")}
    with pytest.raises(SettingsError, match=r"sae-lens names no Neuronpedia source for layer 2 .* name one by --source"):
        sources_of(experiment(None, None, "x"), [2])


def test_explanations_of_a_whole_source(site: Neuronpedia, tmp_path: Path) -> None:
    explained = explanations(site.addresses, SOURCE, tmp_path / "down", QUICK)
    assert explained == {feature: [f"texts about {feature}"] for feature in range(1030) if feature % 5}
    assert list(explained) == sorted(explained)
    assert matching_features(explained, r"ABOUT 10\d$") == {n: f"texts about {n}" for n in (101, 102, 103, 104, 106, 107, 108, 109)}
    with pytest.raises(SettingsError, match="is no regular expression"):
        matching_features(explained, "(")
    before = site.downloads()
    assert explanations(site.addresses, SOURCE, tmp_path / "down", QUICK) == explained
    assert site.downloads() == before


def test_explanations_come_whole_or_not_at_all(site: Neuronpedia, tmp_path: Path) -> None:
    path = site.batch("explanations")
    lines = read_batch(path)
    write_batch(path, lines[:600])
    write_batch(path.with_name("batch-1.jsonl.gz"), lines[600:])
    site.forever[site.key("explanations", 1)] = status(500)
    with pytest.raises(FetchError, match="explanations batch 1: 500"):
        explanations(site.addresses, SOURCE, tmp_path / "down", QUICK)
    site.hidden = {site.key("explanations", 0)}
    with pytest.raises(FetchError, match="explanations batch 0 is missing in the listing"):
        explanations(site.addresses, SOURCE, tmp_path / "elsewhere", QUICK)
    with pytest.raises(FetchError, match="no exports of tiny-model/9-x are listed"):
        explanations(site.addresses, Source("tiny-model", "9-x"), tmp_path, QUICK)


def local_examples() -> tuple[pl.DataFrame, pl.DataFrame]:
    """(MAX_ACTIVATING_EXAMPLES rows, ACTIVATIONS rows) of a few random texts."""
    numbers = np.random.default_rng(0)
    rows, texts = [], []
    for n in range(8):
        dense = numbers.choice([0.0, 0.0, 0.5, 1.5], size=(6, 4))
        dense[0] = 0
        position, feature = np.nonzero(dense)
        rows.append((5, f"{n:016x}", 6, 5, position.tolist(), feature.tolist(), dense[position, feature].tolist()))
        texts.append((f"{n:016x}", numbers.integers(0, 9, 6).tolist()))
    activations = pl.DataFrame(rows, schema=ACTIVATIONS.schema, orient="row")
    corpus = pl.DataFrame(texts, schema={"text_id": pl.String, "token_ids": pl.List(pl.UInt16)}, orient="row")
    letters = TextTokens(Tokenizer(models.WordLevel({chr(97 + n): n for n in range(9)}, unk_token="a")))
    return max_activating_examples(activations, corpus, [0, 1, 3, 17], 5, letters), activations


def test_export_of_local_examples(tmp_path: Path) -> None:
    examples, activations = local_examples()
    write_export(examples, SOURCE, tmp_path / "with", activations)
    write_export(examples, SOURCE, tmp_path / "without")
    codes = {
        (row["text_id"], feature, at): value
        for row in activations.iter_rows(named=True)
        for at, feature, value in zip(row["token_index"], row["feature"], row["value"], strict=True)
    }
    lines = read_batch(tmp_path / f"with/v1/{SOURCE}/activations/batch-0.jsonl.gz")
    assert len(lines) == examples["n_examples"].sum() > 0
    for line, bare in zip(lines, read_batch(tmp_path / f"without/v1/{SOURCE}/activations/batch-0.jsonl.gz"), strict=True):
        values = [codes.get((line["id"], int(line["index"]), at), 0.0) for at in range(6)]
        assert line["values"] == values
        assert (line["maxValue"], line["minValue"]) == (max(values), min(values))
        assert line["maxValueTokenIndex"] == values.index(max(values))
        assert [value for value in bare["values"] if value is not None] == [line["maxValue"]]
        assert bare["values"][bare["maxValueTokenIndex"]] == bare["maxValue"]
    assert {path.name for path in (tmp_path / f"with/v1/{SOURCE}").glob("*.jsonl")} == {
        f"{name}.jsonl" for name in ("model", "release", "source", "sourceset")
    }
    (feature,) = [line for line in read_batch(tmp_path / f"with/v1/{SOURCE}/features/batch-0.jsonl.gz") if line["index"] == "17"]
    assert (feature["modelId"], feature["layer"], feature["maxActApprox"], feature["frac_nonzero"]) == (*str(SOURCE).split("/"), None, 0.0)


def test_batches_of_an_earlier_export_are_removed(tmp_path: Path) -> None:
    examples, activations = local_examples()
    far = examples.with_columns(feature=pl.col("feature") + 5_000)
    root = tmp_path / f"v1/{SOURCE}"
    for rows in (pl.concat([examples, far]), examples):
        write_export(rows, SOURCE, tmp_path, activations)
        (root / "activations/notes.txt").touch()
    assert sorted(path.name for path in (root / "activations").iterdir()) == ["batch-0.jsonl.gz", "notes.txt"]


def test_equal_examples_give_equal_bytes(tmp_path: Path) -> None:
    rows = table({feature: examples_of(feature) for feature in (3, 20, 1)})
    write_export(rows, SOURCE, tmp_path / "a")
    write_export(rows.reverse(), SOURCE, tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 7
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    body = (tmp_path / f"a/v1/{SOURCE}/features/batch-0.jsonl.gz").read_bytes()
    assert body[3:8] == bytes(5)  # gzip's header: no name, no time
    text = gzip.decompress(body)
    assert [json.loads(line)["index"] for line in text.splitlines()] == ["1", "20", "3"]


SEARCH = "/api/explanation/search"
N = 60
NEAREST = [17, *(n for n in range(1, 1030) if n % 5 and n != 17)]
"""Explained features by nearness to "texts about 17": itself, then all others alike, by number."""


def nearest(site: Neuronpedia, n: int) -> list[int]:
    return [match.feature for match in nearest_features(site.addresses, SOURCE, "texts about 17", n, QUICK)]


@pytest.mark.parametrize(("n", "pages"), [(1, 1), (PAGE, 1), (PAGE + 1, 2), (N, 3)])
def test_as_many_pages_are_read_as_are_needed(site: Neuronpedia, n: int, pages: int) -> None:
    assert nearest(site, n) == NEAREST[:n]
    assert site.requests == {SEARCH: pages}


def test_a_feature_counts_once_with_its_nearest_explanation(site: Neuronpedia) -> None:
    path = site.batch("explanations")
    extra = {"modelId": SOURCE.model, "layer": SOURCE.source, "index": "17", "description": "texts about 17 and more"}
    write_batch(path, [*read_batch(path), extra])
    first, second = nearest_features(site.addresses, SOURCE, "texts about 17", 2, QUICK)
    assert (first.feature, first.explanation, first.similarity) == (17, "texts about 17", 1.0)
    assert (second.feature, second.similarity) == (1, 0.5)  # of 4 different words 2 are in both


@pytest.mark.parametrize(
    "fault", [status(429), status(500), instead(lambda _: HTML), instead(lambda body: body.replace(b"3-tiny", b"4-tiny"))]
)
def test_a_wrong_answer_is_asked_for_again(site: Neuronpedia, monkeypatch: pytest.MonkeyPatch, fault: object) -> None:
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    site.faults[SEARCH] = [fault]  # type: ignore[list-item]
    assert nearest(site, PAGE + 1) == NEAREST[: PAGE + 1]
    assert site.requests == {SEARCH: 3}
    assert {headers["x-api-key"] for headers in site.headers} == {KEY}


def test_a_refused_search_and_pages_that_do_not_end_are_said(site: Neuronpedia) -> None:
    site.forever[SEARCH] = status(401)
    with pytest.raises(FetchError, match=f"search of {SOURCE}: 401 .*NEURONPEDIA_API_KEY"):
        nearest(site, 3)
    site.forever[SEARCH] = instead(lambda body: json.dumps(json.loads(body) | {"hasMore": True, "nextOffset": 0}).encode())
    with pytest.raises(FetchError, match="the search's pages do not end"):
        nearest(site, N)


def with_features(chosen: ExplainedFeatures) -> Scores:
    examples = NeuronpediaExamples(kind="neuronpedia", source="tiny-model/{layer}-tiny-res-1k")
    return Scores.model_construct(max_activating_examples=examples, layers=(3,), features=chosen, saes=None)


def test_the_answer_is_kept_and_the_set_stays_what_it_was(site: Neuronpedia, tmp_path: Path) -> None:
    chosen = ExplainedFeatures(kind="explained", query="texts about 17", n_per_layer=3, list=tmp_path / "list.json")
    assert resolve_features(with_features(chosen), site.addresses, tmp_path / "down", QUICK) == {3: (1, 2, 17)}
    kept = json.loads(chosen.list.read_text())
    assert kept["asked"] == {"kind": "explained", "query": "texts about 17", "n_per_layer": 3}
    assert kept["answer"] == {
        "3": {
            "1": {"explanation": "texts about 1", "similarity": 0.5},
            "2": {"explanation": "texts about 2", "similarity": 0.5},
            "17": {"explanation": "texts about 17", "similarity": 1.0},
        }
    }
    before = site.api_requests()
    assert features_of(with_features(chosen), 3) == (1, 2, 17)
    assert site.api_requests() == before  # whatever Neuronpedia would say now
    for other in ({"query": "texts about 18"}, {"n_per_layer": 4}):
        with pytest.raises(SettingsError, match="answers another question"):
            features_of(with_features(chosen.model_copy(update=other)), 3)


def test_lists_of_patterns_that_were_written_before_still_serve(site: Neuronpedia, tmp_path: Path) -> None:
    chosen = ExplainedFeatures(kind="explained", pattern="about 1$", list=tmp_path / "list.json")
    assert resolve_features(with_features(chosen), site.addresses, tmp_path / "down", QUICK) == {3: (1,)}
    kept = json.loads(chosen.list.read_text())
    assert kept.pop("answer") == {"3": {"1": "texts about 1"}}
    assert kept["asked"] == {"kind": "explained", "pattern": "about 1$"}
    older = chosen.model_copy(update={"list": tmp_path / "older.json"})
    older.list.write_text(json.dumps(kept))
    assert features_of(with_features(older), 3) == (1,)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"pattern": "a", "query": "abc", "n_per_layer": 1},
        {"query": "abc"},
        {"pattern": "a", "n_per_layer": 1},
        {"query": "ab", "n_per_layer": 1},
    ],
)
def test_a_search_has_one_form(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="either pattern, or query and n_per_layer|at least 3 characters"):
        ExplainedFeatures(kind="explained", list=Path("list.json"), **given)  # type: ignore[arg-type]

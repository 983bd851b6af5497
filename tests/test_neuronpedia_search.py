"""Features whose explanations are nearest to a query: Neuronpedia's search, its answer kept in the list that git has."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from neuronpedia_server import (
    HTML,
    KEY,
    PAGE,
    QUICK,
    SOURCE,
    Neuronpedia,
    instead,
    read_batch,
    records_of,
    serving,
    status,
    table,
    write_batch,
)
from pydantic import ValidationError

from saesteer.report.exports.neuronpedia import write_export
from saesteer.settings import ExplainedFeatures, NeuronpediaRecords, Scores, SettingsError
from saesteer.sources.features import features_of
from saesteer.sources.neuronpedia.outcomes import IncompleteDownload
from saesteer.sources.resolve_features import nearest_features, resolve_features

SEARCH = "/api/explanation/search"
N = 60
NEAREST = [17, *(n for n in range(1, N) if n % 5 and n != 17)]
"""Explained features by nearness to "texts about 17": itself, then all others alike, by number."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Neuronpedia]:
    write_export(table({feature: records_of(feature) for feature in range(N)}), SOURCE, tmp_path / "bucket")
    with serving(tmp_path / "bucket") as server:
        yield server


def nearest(site: Neuronpedia, n: int) -> list[int]:
    return [match.feature for match in nearest_features(site.addresses, SOURCE, "texts about 17", n, QUICK)]


@pytest.mark.parametrize(("n", "pages"), [(1, 1), (PAGE, 1), (PAGE + 1, 2), (N, 3)])
def test_as_many_pages_are_read_as_are_needed(site: Neuronpedia, n: int, pages: int) -> None:
    assert nearest(site, n) == NEAREST[:n]
    assert site.requests == {SEARCH: pages}


def test_a_feature_counts_once_with_its_nearest_explanation(site: Neuronpedia) -> None:
    path = site.root / site.key("explanations", 0).lstrip("/")
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


def test_a_refused_search_says_what_to_check(site: Neuronpedia) -> None:
    site.forever[SEARCH] = status(401)
    with pytest.raises(IncompleteDownload, match=f"search of {SOURCE}: 401 .*NEURONPEDIA_API_KEY"):
        nearest(site, 3)


def test_pages_that_do_not_end_are_refused(site: Neuronpedia) -> None:
    site.forever[SEARCH] = instead(lambda body: json.dumps(json.loads(body) | {"hasMore": True, "nextOffset": 0}).encode())
    with pytest.raises(IncompleteDownload, match="the search's pages do not end"):
        nearest(site, N)


def experiment(chosen: ExplainedFeatures) -> Scores:
    records = NeuronpediaRecords(kind="neuronpedia", source="tiny-model/{layer}-tiny-res-1k")
    return Scores.model_construct(records=records, layers=(3,), features=chosen, saes=None)


def test_the_answer_is_kept_and_the_set_stays_what_it_was(site: Neuronpedia, tmp_path: Path) -> None:
    chosen = ExplainedFeatures(kind="explained", query="texts about 17", n_per_layer=3, list=tmp_path / "list.json")
    assert resolve_features(experiment(chosen), site.addresses, tmp_path / "down", QUICK) == {3: (1, 2, 17)}
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
    assert features_of(experiment(chosen), 3) == (1, 2, 17)
    assert site.api_requests() == before  # whatever Neuronpedia would say now
    for other in ({"query": "texts about 18"}, {"n_per_layer": 4}):
        with pytest.raises(SettingsError, match="answers another question"):
            features_of(experiment(chosen.model_copy(update=other)), 3)


def test_lists_of_patterns_that_were_written_before_still_serve(site: Neuronpedia, tmp_path: Path) -> None:
    chosen = ExplainedFeatures(kind="explained", pattern="about 1$", list=tmp_path / "list.json")
    assert resolve_features(experiment(chosen), site.addresses, tmp_path / "down", QUICK) == {3: (1,)}
    kept = json.loads(chosen.list.read_text())
    assert kept.pop("answer") == {"3": {"1": "texts about 1"}}
    assert kept["asked"] == {"kind": "explained", "pattern": "about 1$"}
    older = chosen.model_copy(update={"list": tmp_path / "older.json"})
    older.list.write_text(json.dumps(kept))
    assert features_of(experiment(older), 3) == (1,)


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

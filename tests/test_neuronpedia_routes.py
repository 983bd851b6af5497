"""Neuronpedia's max-activating examples by each route, from the loopback server: what comes is what was exported, and both routes agree."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronpedia_server import LAYER, QUICK, SOURCE, Neuronpedia, an_example, examples_of, keys, read_batch, serving, table, write_batch
from polars.testing import assert_frame_equal

from saesteer.core.tables import validate
from saesteer.exchange.neuronpedia import write_export
from saesteer.settings import NeuronpediaExamples
from saesteer.sources.neuronpedia.fetch import max_activating_examples
from saesteer.sources.neuronpedia.sources import Source
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

N = 2300  # three batches
both = pytest.mark.parametrize("route", ["bulk", "api"])
all_routes = pytest.mark.parametrize("route", ["bulk", "api", "auto"])


@pytest.fixture(scope="module")
def all_rows() -> pl.DataFrame:
    """A source of three batches; every tenth feature is dead."""
    return table({feature: examples_of(feature) if feature % 10 else [] for feature in range(N)})


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, all_rows: pl.DataFrame) -> Path:
    """The exports of all rows."""
    folder = tmp_path_factory.mktemp("bucket")
    write_export(all_rows, SOURCE, folder)
    return folder


@pytest.fixture
def site(tmp_path: Path, bucket: Path) -> Iterator[Neuronpedia]:
    shutil.copytree(bucket, tmp_path / "bucket")
    with serving(tmp_path / "bucket") as server:
        yield server


def fetched(site: Neuronpedia, missing: pl.DataFrame, downloads: Path, **changes: object) -> pl.DataFrame:
    """All rows, by feature."""
    examples = NeuronpediaExamples.model_validate({"kind": "neuronpedia", **changes})
    sources = {LAYER: SOURCE, 4: Source("tiny-model", "4-tiny-res-1k")}
    frames = list(max_activating_examples(site.addresses, sources, missing, examples, downloads, QUICK))
    for frame in frames:
        assert frame["layer"].n_unique() == 1
        assert frame.schema == pl.Schema(MAX_ACTIVATING_EXAMPLES.schema)
    return validate(MAX_ACTIVATING_EXAMPLES, pl.concat(frames), "fetched").sort("layer", "feature")


@all_routes
def test_rows_are_those_that_were_exported(site: Neuronpedia, all_rows: pl.DataFrame, tmp_path: Path, route: str) -> None:
    wanted = [0, 1, 2, 9, 10, 99, 100, 1023, 1024, 1999, 2047, 2048, 2299]
    rows = fetched(site, keys(wanted), tmp_path / "down", route=route, bulk_above=12)
    assert_frame_equal(rows, all_rows.filter(pl.col("feature").is_in(wanted)), check_exact=True)
    assert (site.api_requests() > 0) == (route == "api")
    assert (site.downloads() > 0) == (route != "api")


def test_auto_asks_for_few_features_one_by_one(site: Neuronpedia, tmp_path: Path) -> None:
    fetched(site, keys(range(1, 6)), tmp_path / "down", route="auto", bulk_above=5)
    assert (site.api_requests(), site.downloads()) == (5, 0)
    fetched(site, keys(range(1, 7)), tmp_path / "down", route="auto", bulk_above=5)
    assert site.api_requests() == 5
    assert site.downloads() > 0


def test_features_batches_are_ordered_as_text_and_listed_in_pages(site: Neuronpedia, all_rows: pl.DataFrame, tmp_path: Path) -> None:
    first = [int(line["index"]) for line in read_batch(site.root / f"v1/{SOURCE}/features/batch-0.jsonl.gz")]
    assert first[:4] == [0, 1, 10, 100]
    assert 2 not in first  # so a feature's batch cannot be computed from its index
    site.page_size = 4
    rows = fetched(site, keys([1, 2, 2000]), tmp_path, route="bulk")
    assert_frame_equal(rows, all_rows.filter(pl.col("feature").is_in([1, 2, 2000])), check_exact=True)
    assert site.requests["/"] > 2


@all_routes
def test_two_layers_have_their_own_sources(site: Neuronpedia, tmp_path: Path, route: str) -> None:
    other = table({7: examples_of(70)}, layer=4)
    write_export(other, Source("tiny-model", "4-tiny-res-1k"), site.root)
    site.load()
    rows = fetched(site, pl.concat([keys([7], 4), keys([7])]), tmp_path / "down", route=route, bulk_above=0)
    assert_frame_equal(rows.filter(layer=4), other, check_exact=True)
    assert rows.filter(layer=LAYER)["examples"][0].struct.field("token").to_list()[0] == "▁t7"


@all_routes
def test_a_feature_that_is_not_there_has_a_row_that_says_so(site: Neuronpedia, tmp_path: Path, route: str) -> None:
    rows = fetched(site, keys([5, 2500, 99999]), tmp_path / "down", route=route, bulk_above=2)
    assert rows["reason"].to_list() == [None, "not on Neuronpedia", "not on Neuronpedia"]
    assert rows["n_examples"].to_list() == [3, 0, 0]
    assert rows["max_activation"].is_null().to_list() == [False, True, True]


@both
def test_example_order_ids_and_number_kept(site: Neuronpedia, tmp_path: Path, route: str) -> None:
    """Sorted by maximum, ties by id; an id counts once, whatever differs; equal texts with different ids both count."""
    lines: list[dict[str, Any]] = [
        {"id": "d", "values": [0, 5, 5], "maxValue": 5},  # the first of equal values
        {"id": "c", "values": [0, 0, 7.5], "maxValue": 7.5},
        {"id": "b", "values": [7.5, None, 0], "maxValue": 7.5, "maxValueTokenIndex": 2},
        {"id": "c", "values": [0, 8, 0], "maxValue": 7.5},  # an id again, before the other by position
        {"id": "a", "values": [0, 0, 1], "maxValue": 1},
        {"id": "e", "values": [0, 2, 1]},  # no maxValue: the largest
    ]
    for order in (lines, lines[::-1]):
        site.replace(1, "activations", [line | {"tokens": ["a", "b", "c"]} for line in order])
        rows = fetched(site, keys([1]), tmp_path / f"down{id(order)}", route=route, n_examples=4)
        examples = rows["examples"][0].struct.unnest()
        assert examples["text_id"].to_list() == ["b", "c", "d", "e"]
        assert examples["token_index"].to_list() == [0, 1, 1, 1]
        assert examples["token"].to_list() == ["a", "b", "b", "b"]
        assert examples["max_value"].to_list() == [7.5, 7.5, 5.0, 2.0]
        assert rows["n_examples"].to_list() == [4]


BROKEN: list[dict[str, Any]] = [
    {"tokens": None},
    {"values": None},
    {"tokens": ["a", None, "c"]},
    {"values": [1, 2]},
    {"values": [None, None, None]},
    {"values": [1, True, 3]},
    {"values": [1, "2", 3]},
    {"values": [1, 10**400, 3]},
    {"maxValue": "much"},
    {"maxValue": 1e300},
    {"tokens": [], "values": []},
]
"""Null, or lists or numbers that do not fit."""
SILENT: list[dict[str, Any]] = [
    {"values": [0, 0, 0], "maxValue": 0},
    {"values": [0, 0, 0], "maxValue": 3.5},
    {"values": [0.0, -0.0, None], "maxValue": None},
    {"values": [1e-60, 0, 0], "maxValue": 1e-60},
    {"values": [-1, -2, -3], "maxValue": -1},
    {"values": [0, 2, 0], "maxValue": 0},
]
"""All 0, or nothing as a 32-bit float, or below 0, whatever maximum is said: the feature is not active."""


@both
@pytest.mark.parametrize("unusable", [BROKEN, SILENT], ids=["broken", "silent"])
def test_what_is_no_example_is_left_out_and_counted(
    site: Neuronpedia, tmp_path: Path, route: str, unusable: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    fine = {"tokens": ["a", "b", "c"], "values": [0, 0.5, 0], "maxValue": 0.5}
    bad = [fine | {"id": f"bad-{n}"} | change for n, change in enumerate(unusable)]
    site.replace(1, "activations", [*bad, fine | {"id": "active"}])
    site.replace(2, "activations", bad)
    with caplog.at_level("INFO"):
        rows = fetched(site, keys([1, 2]), tmp_path / "down", route=route)
    assert [[example["text_id"] for example in examples] for examples in rows["examples"]] == [["active"], []]
    assert rows["reason"].to_list() == [None, f"none of its {len(bad)} max-activating examples on Neuronpedia can be used"]
    assert f"{2 * len(bad)} max-activating examples that cannot be used" in caplog.text


@both
def test_tokens_and_explanations_of_any_characters(site: Neuronpedia, tmp_path: Path, route: str) -> None:
    context = ["\x00", "\u2028\n", "🦜", "\ud83d", "\udfff\ud800", "<0x0A>", "", "▁ ", "e\u0301\x7f\x85"]
    site.replace(1, "activations", [{"id": "x\udc00", "tokens": context, "values": [0, 0, 0, 5, 0, 0, 0, 0, 0], "maxValue": 5}])
    site.replace(1, "explanations", [{"description": " 🦜\ud800 "}])
    row = fetched(site, keys([1]), tmp_path / "down", route=route).row(0, named=True)
    clean = ["\x00", "\u2028\n", "🦜", "�", "��", "<0x0A>", "", "▁ ", "e\u0301\x7f\x85"]
    (example,) = row["examples"]
    assert (example["context"], example["token"], example["text_id"]) == (clean, "�", "x�")
    assert row["explanations"] == ["🦜�"]
    pl.DataFrame(row["examples"]).write_parquet(tmp_path / "rows.parquet")
    assert pl.read_parquet(tmp_path / "rows.parquet")["context"].to_list() == [clean]


@both
def test_all_explanations_are_kept_in_an_order_of_their_own(site: Neuronpedia, tmp_path: Path, route: str) -> None:
    texts = [("a", "np_acts-logits-general", "gemini"), ("c", "oai_token-act-pair", "gpt-4o"), ("b", "oai_token-act-pair", "gpt-4o-mini")]
    texts += [("  ", "oai_token-act-pair", "a"), (None, "oai_token-act-pair", "a"), ("d", "oai_token-act-pair", "gpt-4o")]
    items = [dict(zip(("description", "typeName", "explanationModelName"), text, strict=True)) for text in texts]
    for order in (items, items[::-1]):
        site.replace(1, "explanations", order)
        lines = read_batch(site.batch("explanations"))
        write_batch(site.batch("explanations"), lines[2:])
        write_batch(site.batch("explanations", 9), lines[:2])  # a feature's explanations may lie in two batches
        for gap in range(2, 9):
            write_batch(site.batch("explanations", gap), [])
        assert fetched(site, keys([1]), tmp_path / f"down{id(order)}", route=route)["explanations"].to_list() == [["c", "d", "b", "a"]]


def fetched_with(site: Neuronpedia, names: tuple[str, str], given: dict[int, Any], folder: Path, route: str) -> pl.DataFrame:
    """The rows of some features of a site that gives these values for two fields of theirs."""
    lines = {int(line["index"]): line for line in read_batch(site.batch("features"))}
    for feature, values in given.items():
        site.replace(feature, "features", [lines[feature] | dict(zip(names, values, strict=True))])
    return fetched(site, keys(given), folder, route=route)


@both
def test_density_and_largest_activation(site: Neuronpedia, tmp_path: Path, route: str) -> None:
    given = {1: (None, None), 10: (0, 0), 11: (0.5, 12.25), 12: ("much", "much"), 100: (1.5, -1)}
    rows = fetched_with(site, ("frac_nonzero", "maxActApprox"), given, tmp_path / "down", route)
    assert rows["density"].to_list() == [None, 0.0, 0.5, None, None]
    largest = {feature: examples_of(feature)[0]["max_value"] for feature in (1, 12)}
    assert rows["max_activation"].to_list() == [largest[1], None, 12.25, largest[12], None]  # 10 and 100 have no max-activating examples


@both
def test_histograms_that_cannot_be_are_missing(site: Neuronpedia, tmp_path: Path, route: str) -> None:
    given = {1: (None, None), 10: ([], []), 11: ([1, 2], [3]), 12: ([1, "x"], [3, 4]), 100: ([2, 1], [3, 4]), 101: ([1, 2], [0.5, 1])}
    given |= {102: ([1, 2], [-1, 4]), 103: ("12", "34"), 104: ([1, 2.5], [0, 7])}
    rows = fetched_with(site, ("freq_hist_data_bar_values", "freq_hist_data_bar_heights"), given, tmp_path / "down", route)
    found = {row["feature"]: (row["histogram_activations"], row["histogram_counts"]) for row in rows.iter_rows(named=True)}
    assert found == dict.fromkeys(given, (None, None)) | {104: ([1.0, 2.5], [0, 7])}


def test_exports_in_smaller_batches_are_read(site: Neuronpedia, all_rows: pl.DataFrame, tmp_path: Path) -> None:
    """Sources exported by the converter of dashboards have as many features a batch as the dashboards had, e.g. 128."""
    folder = site.root / f"v1/{SOURCE}/activations"
    lines = [line for path in folder.glob("*.gz") for line in read_batch(path)]
    for path in folder.glob("*.gz"):
        path.unlink()
    for number in range(N // 128 + 1):
        write_batch(folder / f"batch-{number}.jsonl.gz", [line for line in lines if int(line["index"]) // 128 == number])
    wanted = [1, 127, 128, 1025, 2299]
    rows = fetched(site, keys(wanted), tmp_path / "down", route="bulk")
    assert_frame_equal(rows, all_rows.filter(pl.col("feature").is_in(wanted)), check_exact=True)
    assert site.api_requests() == 0


def test_what_exports_lack_without_saying_so_is_asked_of_the_api(site: Neuronpedia, all_rows: pl.DataFrame, tmp_path: Path) -> None:
    """A source with absent features is exported without the max-activating examples of its last ones; a last features batch may be
    missing."""
    assert site.by_feature  # the API knows all
    path = site.root / f"v1/{SOURCE}/activations/batch-2.jsonl.gz"
    write_batch(path, [line for line in read_batch(path) if int(line["index"]) < 2200])
    site.hidden = {site.key("features", 2)}
    in_last = int(read_batch(site.root / f"v1/{SOURCE}/features/batch-2.jsonl.gz")[0]["index"])
    rows = fetched(site, keys([2201, 2202, in_last]), tmp_path / "down", route="bulk")
    assert_frame_equal(rows, all_rows.filter(pl.col("feature").is_in([2201, 2202, in_last])), check_exact=True)
    assert site.api_requests() == 3


a_text = st.text(st.characters(codec="utf-8"), max_size=4)


@st.composite
def some_examples(draw: st.DrawFn) -> list[dict[str, object]]:
    """Max-activating examples of a feature, in the table's order."""
    ids = draw(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), unique=True, max_size=5))
    examples = []
    for text_id in ids:
        context = draw(st.lists(a_text, min_size=1, max_size=4))
        value = draw(st.sampled_from([0.5, 1.0, 2.0]) | st.floats(2**-20, 2.0**60, width=32))
        examples.append(an_example(text_id, value, context, draw(st.integers(0, len(context) - 1))))
    return sorted(examples, key=lambda example: (-example["max_value"], example["text_id"]))


@pytest.mark.slow
@settings(max_examples=10)
@given(st.dictionaries(st.integers(0, 5000), some_examples(), min_size=1, max_size=5))
def test_any_examples_come_back_by_both_routes(
    tmp_path_factory: pytest.TempPathFactory, features: dict[int, list[dict[str, object]]]
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    rows = table(dict(sorted(features.items())))
    write_export(rows, SOURCE, folder)
    with serving(folder) as server:
        for route in ("bulk", "api"):
            assert_frame_equal(fetched(server, keys(features), folder / "down", route=route), rows, check_exact=True)

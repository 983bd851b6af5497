"""The report's folder: pieces say what the tables say and no text breaks out of them; what is missing is named; same tables, same bytes."""

import base64
import hashlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from judge_texts import ENVIRON
from judge_texts import settings as judge_settings
from report_folders import HOSTILE, METHODS, compared, copy_of, swept
from safetensors.numpy import load_file
from workflow_folder import ROOT

from saesteer.analysis.best_factor import best_factors, outcomes
from saesteer.analysis.halves import split_halves
from saesteer.analysis.summaries import steering_table
from saesteer.analysis.tables import OUTCOMES, STEERING
from saesteer.core.machine import process_table
from saesteer.core.tables import write_summary
from saesteer.core.texts import of_features
from saesteer.exchange.fits import recommended_factor
from saesteer.judge.answers import AnswerBook, JudgeAnswer
from saesteer.judge.batch import endpoint_asker
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.site import folder as folder_module
from saesteer.site import pieces
from saesteer.site.feature_pages import N_NEIGHBOURS, _by_prompt, fluent_up_to, held_out_scores, neighbours
from saesteer.site.feature_table import labels, ranked_words, word_counts, words_each
from saesteer.site.folder import ReportError, write_report
from saesteer.site.pieces import as_json, packed, write_list
from saesteer.steps.features import FEATURES
from saesteer.steps.gen_success import GEN_SUCCESS
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.summaries.summary import counted_ratings

ASSETS = ROOT / "src/saesteer/site/assets"


def piece(folder: Path, name: str) -> Any:
    """The value that a script file hands over."""
    text = (folder / f"data/{name}.js").read_text(encoding="utf-8")
    match = re.fullmatch(r"saesteer\.piece\((\"[^\"]*\"),(.*)\);\n", text, re.DOTALL)
    assert match
    assert json.loads(match[1]) == name
    return json.loads(match[2])


def entries(folder: Path, stem: str, starts: list[int]) -> list[Any]:
    return [entry for number in range(len(starts)) for entry in piece(folder, f"{stem}/{number}")]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("swept")
    results = swept(folder)
    return results, write_report(results, folder / "figures/tiny/report").parent


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("compared")
    results = compared(folder)
    return results, write_report(results, folder / "report").parent


def test_no_text_breaks_out_of_a_script_and_every_text_comes_back() -> None:
    for text in (*HOSTILE, "".join(map(chr, range(0x300)))):
        written = as_json([text])
        assert json.loads(written) == [text]
        assert not re.search("[<>&\u2028\u2029\n]", written)


def test_a_feature_page_says_what_the_tables_say(sweep: tuple[Any, Path]) -> None:
    results, folder = sweep
    index, features = piece(folder, "index"), results.summary(FEATURES)
    pages = entries(folder, "f", index["features"]["starts"])
    assert len(pages) == features.height
    for page, row in zip(pages, features.iter_rows(named=True), strict=True):
        shown = dict(zip(index["features"]["columns"], page["row"], strict=True))
        assert all(
            value == (pytest.approx(row[name], rel=1e-5) if isinstance(value, float) else row[name]) for name, value in shown.items()
        )
        higher = features.filter(layer=row["layer"]).filter(pl.col("output_score") > row["output_score"]).height
        assert page["place"][0] == [higher + 1, features.filter(layer=row["layer"]).height]
        assert float(page["recommended"][0]) == recommended_factor(results, row["layer"], row["feature"])[0]
        assert page["lens"][0] == [20.5 - rank for rank in range(len(row["top_logit_lens_tokens"]))]
        texts = [dict(zip(index["features"]["texts"], text, strict=True)) for text in page["texts"]]
        assert {(text["factor"], text["prompt"]) for text in texts} == {
            (factor, prompt) for factor in ("0", "2", "10", "20") for prompt in range(4)
        }
        assert all(text["fluency_rating"] == 2 and text["gen_success_20"] == 4 and text["text"] for text in texts)


def test_a_page_begins_with_the_best_text_at_the_recommended_factor(sweep: tuple[Any, Path]) -> None:
    _, folder = sweep
    index = piece(folder, "index")
    for page in entries(folder, "f", index["features"]["starts"]):
        factor, answer = page["recommended"][0], page["answer"]
        texts = [dict(zip(index["features"]["texts"], text, strict=True)) for text in page["texts"]]
        of_factor = sorted(
            (-text["judge_score"], -text["gen_success_20"], text["prompt"], text["sample"]) for text in texts if text["factor"] == factor
        )
        assert answer["text"] == list(of_factor[0][2:])


@pytest.mark.parametrize(
    ("fluency", "fluent"),
    [
        ({"0": 2, "1": 2, "2": 1, "4": 0.9, "8": 1.5}, ["2", False]),
        ({"0": 0, "1": 1, "2": 1}, ["2", True]),
        ({"0": 2, "1": 0.5, "2": 2}, [None, False]),
        ({"0": 2, "1": 2, "2": None}, ["1", False]),
        ({"0": None, "1": None}, None),
    ],
)
def test_texts_are_fluent_up_to_the_last_factor_before_one_whose_are_not(
    fluency: dict[str, float | None], fluent: list[Any] | None
) -> None:
    assert fluent_up_to({factor: {"fluency_rating": rating} for factor, rating in fluency.items()}) == fluent


def test_the_intervals_are_of_the_texts_behind_score_and_gain(sweep: tuple[Any, Path], tmp_path: Path) -> None:
    """In tables that are made of the rows, the mean over prompts of what the intervals are of is the table's number."""
    run = copy_of(sweep[0], tmp_path)
    success, losses = (of_features(run.rows(table)).drop("reason") for table in (GEN_SUCCESS, PERPLEXITY))
    rated = of_features(counted_ratings(run)).drop("reason").with_columns(concept_outside=pl.lit(None, pl.Float64))
    steering = steering_table(success, losses, rated, split_halves(run.prompts_if_any()))
    chosen = best_factors(steering, run.sweep.best_factor)
    results = outcomes(chosen, run.summary(FEATURES))
    write_summary(STEERING, steering, run.summary_path(STEERING))
    write_summary(OUTCOMES, results, run.summary_path(OUTCOMES))
    scores = held_out_scores(run)
    by_prompt = _by_prompt(run, results.filter(rule=run.sweep.best_factor.rule))
    for row in scores.iter_rows(named=True):
        texts = by_prompt.filter(layer=row["layer"], feature=row["feature"])
        mean, before = (texts[f"{row['measure']}{end}"].mean() for end in ("", "_unsteered"))
        assert (row["score"], row["gain"]) == pytest.approx((mean, mean - before))
        assert row["n"] == texts.height == 4
        assert row["score_low"] <= row["score"] <= row["score_high"]
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert scores["gain"].n_unique() > 1
    factors, halves = ["2", "20"], split_halves(run.prompts_if_any())
    ratings = {
        (*key, prefix): score for *key, prefix, score in rated.select("layer", "feature", "factor", "prefix_id", "judge_score").rows()
    }
    other = _by_prompt(run, results.filter(rule=run.sweep.best_factor.rule).with_columns(factors=pl.lit(factors)))
    for layer, feature, prefix, score in other.select("layer", "feature", "prefix_id", "judge_score").rows():
        assert score == ratings[layer, feature, factors[halves[prefix]], prefix]


def test_function_words_are_marked() -> None:
    tokens = [[" The", " Every", "▁I", " that", " sea"], [" ship", " sea", " the"]]
    rows = pl.DataFrame(
        {"concept": [None, None, "of", "sea"], "explanation": pl.Series([None] * 4, dtype=pl.String), "top_logit_lens_tokens": tokens * 2}
    )
    assert labels(rows).to_list() == ["(function words)", "", "of (function word)", "sea"]


def test_a_curve_is_the_mean_over_both_halves_texts(sweep: tuple[Any, Path]) -> None:
    """One factor by hand: each half's mean counts as often as it has texts; a missing mean counts not at all."""
    results, folder = sweep
    index = piece(folder, "index")
    page = entries(folder, "f", index["features"]["starts"])[0]
    row = results.summary(FEATURES).row(0, named=True)
    halves = results.summary(STEERING).filter(layer=row["layer"], feature=row["feature"], factor="10").rows(named=True)
    (curve,) = (dict(zip(index["features"]["curve"], one, strict=True)) for one in page["curve"] if one[0] == "10")
    for name, count in (("gen_success_20", "n"), ("log_perplexity", "n_perplexity"), ("fluency_rating", "n"), ("judge_score", "n_judged")):
        known = [(half[name], half[count]) for half in halves if half[name] is not None and half[count]]
        expected = sum(value * n for value, n in known) / sum(n for _, n in known) if known else None
        assert curve[name] == (None if expected is None else pytest.approx(expected, rel=1e-5))
    assert [one[0] for one in page["curve"]] == ["0", "2", "10", "20"]


def test_a_example_has_the_activation_of_each_token(sweep: tuple[Any, Path]) -> None:
    _, folder = sweep
    pages = entries(folder, "f", piece(folder, "index")["features"]["starts"])
    for value, at, tokens, active, cut in (example for page in pages for example in page["examples"]):
        assert (value, at, len(tokens), cut) == (1.0, 4, 10, [False, False])
        assert active == [[3, 0.25], [4, 1.0]]


def test_neighbours_are_the_nearest_by_cosine(sweep: tuple[Any, Path]) -> None:
    results, _ = sweep
    features = [0, 1023, 7, *range(300, 1000, 3)]
    rows = load_file(results.sae_file(1))["W_dec"].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    made = neighbours(results.sae_file(1), features)
    assert list(made) == features
    for feature, nearest in made.items():
        others = [other for other in features if other != feature]
        cosines = dict(zip(others, rows[others] @ rows[feature], strict=True))
        assert [cosine for _, cosine in nearest] == pytest.approx(sorted(cosines.values())[: -N_NEIGHBOURS - 1 : -1], abs=6e-4)
        assert all(cosines[other] == pytest.approx(cosine, abs=6e-4) for other, cosine in nearest)
    assert neighbours(results.sae_file(1), [5]) == {}


def test_the_table_has_the_recommended_factor_and_its_first_order(sweep: tuple[Any, Path]) -> None:
    results, folder = sweep
    table, features = piece(folder, "index")["table"], results.summary(FEATURES)
    assert [name for name, _ in table["numbers"]][:3] == ["gain", "strength", "judge_score"]
    factors = np.frombuffer(base64.b64decode(piece(folder, "c/strength/0")), "<f4")
    known = [recommended_factor(results, *row)[0] for row in features.select("layer", "feature").rows()]
    assert factors.tolist() == pytest.approx(known)
    order = np.frombuffer(base64.b64decode(piece(folder, "c/order/0")), "<u4")
    judged = np.frombuffer(base64.b64decode(piece(folder, "c/gain/0")), "<f4")[order]
    assert sorted(order) == list(range(features.height))
    n_judged = np.isfinite(judged).sum()
    assert judged[:n_judged].tolist() == sorted(judged[:n_judged].tolist(), reverse=True)


def test_the_words_of_examples_are_those_that_set_a_feature_apart() -> None:
    """By hand: "the" is in every feature's examples, and what is far from the maximum is not counted."""
    text = ["<bos>", "▁the", "▁sur", "ge", "on", "▁wrote", *["▁x"] * 20, "▁far"]
    rows = {1: [text, text], 2: [["▁the", "▁surgeon", "▁the", "▁cat"]], 3: [["▁the", "▁dog", "'s", "▁12"]]}
    examples = [[{"rank": rank, "token_index": 1, "context": tokens} for rank, tokens in enumerate(of)] for of in rows.values()]
    table = pl.DataFrame({"feature": list(rows), "examples": examples})
    counts = {(feature, word): n for feature, word, n, _ in word_counts(table).rows()}
    assert counts == {
        (1, "the"): 2, (1, "surgeon"): 2, (1, "wrote"): 2, (2, "the"): 1, (2, "surgeon"): 1, (2, "cat"): 1, (3, "the"): 1, (3, "dog"): 1,
    }  # fmt: skip
    assert ranked_words(word_counts(table), 2).rows() == [(1, "wrote surgeon"), (2, "cat surgeon"), (3, "dog the")]
    rare = word_counts(table).with_columns(of=pl.col("n") * 21)
    assert ranked_words(rare, 2).is_empty()
    assert [words_each(n) for n in (0, 240, 425_984)] == [60, 60, 8]


def test_a_column_comes_back_from_its_bytes() -> None:
    values = pl.Series([0.5, None, -2.0], dtype=pl.Float32)
    assert np.frombuffer(base64.b64decode(packed(values)), "<f4").tolist()[::2] == [0.5, -2.0]
    assert np.isnan(np.frombuffer(base64.b64decode(packed(values)), "<f4")[1])
    assert np.frombuffer(base64.b64decode(packed(pl.Series([1, 2**20], dtype=pl.UInt32))), "<u4").tolist() == [1, 2**20]


def test_a_long_list_is_cut_where_its_pieces_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 20)
    starts = write_list(tmp_path, "f", ["x" * size for size in (1, 30, 5, 5, 5, 40)])
    parts = [piece(tmp_path, f"f/{number}") for number in range(len(starts))]
    assert starts == [sum(map(len, parts[:number])) for number in range(len(parts))]
    assert [text for part in parts for text in part] == ["x" * size for size in (1, 30, 5, 5, 5, 40)]
    assert len(starts) > 3


def test_a_method_page_has_every_text_and_every_difference(comparison: tuple[Any, Path]) -> None:
    results, folder = comparison
    methods = piece(folder, "index")["methods"]
    assert methods["keys"] == sorted(METHODS)
    for number, key in enumerate(methods["keys"]):
        page = piece(folder, f"m/{number}")
        others = [dict(zip(page["method_differences"]["columns"], row, strict=True)) for row in page["method_differences"]["rows"]]
        assert {row["other"] for row in others} == set(METHODS) - {key}
        scores = {row["method"]: row["score"] for row in results.summary(METHOD_SUMMARIES["methods"]).rows(named=True)}
        assert all(row["mean"] == pytest.approx(scores[key] - scores[row["other"]], abs=1e-4) for row in others if row["n"] == 3)
        ((concepts, starts),) = methods["texts"][key].values()
        told = entries(folder, f"t/{number}-5", starts)
        assert len(told) == len(concepts) == 3
        assert all(bool(one["rows"]) != bool(one["reason"]) for one in told)


def test_every_number_leads_to_a_file_that_is_there(sweep: tuple[Any, Path]) -> None:
    results, folder = sweep
    files = piece(folder, "index")["files"]
    assert {"features", "steering", "outcomes", "examples", "activations", "generations", "judge"} <= {one["table"] for one in files}
    for name, address, digest in (file for one in files for file in one["files"]):
        assert (folder / address).resolve().is_file(), name
        assert hashlib.sha256((folder / address).read_bytes()).hexdigest() == digest
    assert all(len(one["columns"]) for one in files if one["table"] != "saes")
    assert results.name in files[0]["files"][0][0]


def test_no_page_spells_a_path_of_this_machine(sweep: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of a model in a folder of its own, nor of tables that have nothing in common with the report's place but the root."""
    results, _ = sweep
    model = results.experiment.model.model_copy(update={"path": results.data / "own-model"})
    results = replace(results, experiment=results.experiment.model_copy(update={"model": model}))
    monkeypatch.setattr(folder_module.os.path, "commonpath", lambda paths: "/")
    folder = write_report(results, tmp_path / "report").parent
    index = piece(folder, "index")
    assert index["ran"][0] == ["Model", "own-model"]
    assert {address for one in index["files"] for _, address, _ in one["files"]} == {None}
    places = [str(place) for place in (results.workflow.data_dir, tmp_path, ROOT)]
    assert not [path for path in folder.rglob("*.js") if any(place in path.read_text(encoding="utf-8") for place in places)]


def test_reports_that_are_written_at_once_do_not_disturb_one_another(sweep: tuple[Any, Path], tmp_path: Path) -> None:
    """The one that is left is of the same bytes as another of the same tables."""
    results, folder = sweep
    results, here = copy_of(results, tmp_path), tmp_path / "figures/tiny/report"
    with ThreadPoolExecutor(4) as writers:
        written = [writers.submit(write_report, results, here) for _ in range(6)]
    assert [one.result() for one in written] == [here / "index.html"] * 6
    assert [path.name for path in here.parent.iterdir()] == ["report"]
    first, again = ({path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()} for top in (folder, here))
    assert first == again


def test_a_report_that_fails_leaves_the_one_before(sweep: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, here = copy_of(sweep[0], tmp_path), tmp_path / "report"
    write_report(results, here)
    abandoned = tmp_path / f".report.{process_table()}-{2**22 + 1}.x.partial"  # of a process that was killed
    abandoned.mkdir()
    monkeypatch.setattr(folder_module, "_listed_files", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(results, here)
    assert (here / "index.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "report"]


def test_what_is_not_there_is_left_out_and_named(sweep: tuple[Any, Path], tmp_path: Path) -> None:
    results = copy_of(sweep[0], tmp_path)
    assert piece(write_report(results, tmp_path / "report").parent, "index")["missing"] == ["The comparison of methods"]
    for name in ("max_activating_examples", "activations", "generations", "gen_success", "judge", "saes", "tables/steering.parquet"):
        path = results.data / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder = write_report(results, tmp_path / "report").parent
    index = piece(folder, "index")
    assert len(index["missing"]) == 7
    assert not {"examples", "curve", "texts", "neighbours"} & {
        name for page in entries(folder, "f", index["features"]["starts"]) for name in page
    }


def test_rows_of_several_versions_in_one_table_are_named(sweep: tuple[Any, Path], tmp_path: Path) -> None:
    results = copy_of(sweep[0], tmp_path)
    (path,) = results.manifests("max_activating_examples")
    manifest = json.loads(path.read_text())
    for layer, made_with in (("0", {"code": "a", "torch": "2.13.0"}), ("1", {"code": "b", "torch": "2.14.0"})):
        manifest["layers"][layer]["made_with"] = [made_with]
    path.write_text(json.dumps(manifest))
    folder = write_report(results, tmp_path / "report").parent
    assert piece(folder, "index")["mixed"] == ["max_activating_examples: torch 2.13.0 and 2.14.0"]


def test_a_judges_name_that_went_over_to_another_model_is_named(sweep: tuple[Any, Path], tmp_path: Path) -> None:
    results, judge = copy_of(sweep[0], tmp_path), judge_settings("http://h/v1")
    results = replace(results, experiment=results.experiment.model_copy(update={"judge": judge}))
    fingerprint = endpoint_asker(judge, ENVIRON, results.data).fingerprint
    for model, mixed in (("judge-2025", []), ("judge-2026", ["judge: judge-1 answered as judge-2025 and judge-2026"])):
        with AnswerBook(results.data / "judge/answers", fingerprint, 60.0) as book:
            book.add(JudgeAnswer(model, 0, "fluency", "text", "Rating: 2", "stop", 1, 1, model))
        folder = write_report(results, tmp_path / "report").parent
        assert piece(folder, "index")["mixed"] == mixed


def test_no_features_and_a_folder_of_other_things_are_refused(sweep: tuple[Any, Path], tmp_path: Path) -> None:
    results = copy_of(sweep[0], tmp_path)
    with pytest.raises(ReportError, match="holds .* not of a report"):
        write_report(results, results.data)
    pages = tmp_path / "pages"
    write_report(results, pages)
    (pages / ".DS_Store").touch()
    write_report(results, pages)
    for name in (".git", "CNAME"):
        (pages / name).touch()
        with pytest.raises(ReportError, match=f"holds {name}, which is not of a report, and would be lost"):
            write_report(results, pages)
        (pages / name).unlink()
    (pages / "data/index.js").write_text("export const rows = [];\n")  # a web project of one's own
    with pytest.raises(ReportError, match="not of a report"):
        write_report(results, pages)
    assert (results.data / "tables/features.parquet").is_file()
    (results.data / "tables/features.parquet").unlink()
    with pytest.raises(ReportError, match="run the experiment first"):
        write_report(results, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_the_documentations_example_has_what_a_report_of_today_has(sweep: tuple[Any, Path]) -> None:
    """docs/report.md says how it is made anew. It is of another folder: no link of it leads out of the site."""
    example, of_today = (piece(folder, "index") for folder in (ROOT / "docs/example", sweep[1]))
    assert example.keys() == of_today.keys()
    assert example["features"].keys() == of_today["features"].keys()
    assert all(example["features"][name] == of_today["features"][name] for name in ("answer", "curve", "outcomes", "texts"))
    assert {address for one in example["files"] for _, address, _ in one["files"]} == {None}
    assert [name for name, _ in example["figures"]] == ["overview"]


def test_the_assets_are_what_their_sources_give() -> None:
    """Digests of what was built and of what it was built from: `make report-assets` after a change in web/."""
    manifest = json.loads((ASSETS / "assets.json").read_text())
    for folder, digests in ((ASSETS, manifest["built"]), (ROOT / "web", manifest["from"])):
        for name, digest in digests.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    sources = {path.relative_to(ROOT / "web").as_posix() for path in (ROOT / "web/src").iterdir()}
    assert set(manifest["from"]) == sources | {"build.mjs", "package.json", "package-lock.json"}
    licences = (ASSETS / "LICENSES.txt").read_text()
    pinned = json.loads((ROOT / "web/package.json").read_text())["dependencies"]
    assert {one["name"]: one["version"] for one in manifest["packages"]} == pinned
    assert all(f"{one['name']} {one['version']} ({one['license']})" in licences for one in manifest["packages"])
    assert "innerHTML" not in "".join(path.read_text() for path in (ROOT / "web/src").iterdir())

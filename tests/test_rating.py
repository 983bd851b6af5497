"""The rating sheet: blind, balanced, the same each time; its answers, hostile ones too; agreement with the judge against slow formulas."""

import json
import random
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from report_folders import HOSTILE, PromptedRun, compared, swept

from saesteer.core.errors import SettingsError
from saesteer.rating import agreement
from saesteer.rating.agreement import LARGEST_FILE, read_answers
from saesteer.rating.sheet import drawn, rated_texts, sheet_html
from saesteer.run import Run
from saesteer.steps.judge import JUDGEMENTS


@pytest.fixture(scope="module", params=[partial(swept, n_features=12), compared], ids=["sweep", "comparison"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An experiment with a sweep, and a comparison of methods."""
    return request.param(tmp_path_factory.mktemp("rated"))


def held(page: str) -> dict[str, Any]:
    """What a page holds."""
    (text,) = re.findall(r'<script type="application/json" id="sheet">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def saved(path: Path, name: str, answers: dict[str, dict[str, int]], **changes: Any) -> Path:
    """A file as the page saves it."""
    path.write_text(json.dumps({"form": "saesteer ratings 1", "experiment": name, "answers": answers} | changes))
    return path


def test_a_sheet_holds_texts_and_nothing_of_where_they_come_from(run: Run) -> None:
    page, texts = sheet_html(run, 40, 0), {row["id"]: row for row in rated_texts(run).iter_rows(named=True)}
    sheet, prompts = held(page), run.prompts_if_any()
    assert set(sheet) == {"experiment", "questions", "texts"}
    assert len(sheet["texts"]) == 40
    for text_id, *shown in sheet["texts"]:
        assert re.fullmatch("[0-9a-f]{16}", text_id)
        row = texts[text_id]
        assert shown == [row["concept"], prompts[row["prefix_id"]], row["text"]]
    assert [len(question["options"]) for question in sheet["questions"]] == [3, 3]


def test_the_page_is_the_same_whatever_the_judge_calls_good(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the judge's ratings turned round, and another fluency: not a byte tells of it."""
    page, rows = sheet_html(run, 40, 0), Run.rows

    def turned(run: Run, table: Any, *rest: Any, **named: Any) -> pl.DataFrame:
        found = rows(run, table, *rest, **named)
        return found.with_columns(concept_rating=2 - pl.col("concept_rating"), fluency_rating=0) if table is JUDGEMENTS else found

    monkeypatch.setattr(PromptedRun, "rows", turned)
    assert sheet_html(run, 40, 0) == page


def test_texts_of_prompts_that_are_gone_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = dict(list(run.prompts_if_any().items())[:1])
    monkeypatch.setattr(PromptedRun, "prompts_if_any", lambda _: prompts)
    with pytest.raises(SettingsError, match=r"of the prompts of .*'s texts are no longer in .*: run it again"):
        sheet_html(run, 40, 0)


def test_no_text_breaks_out_of_the_page(run: Run) -> None:
    page = sheet_html(run, 60, 0)
    shown = json.dumps(held(page)["texts"], ensure_ascii=False)
    assert all(json.dumps(hostile, ensure_ascii=False)[1:-1] in shown for hostile in HOSTILE)
    assert Counter(re.findall(r"<!--|</?script|<img", page)) == {"<script": 2, "</script": 2}


def test_ratings_and_strengths_are_as_equal_as_can_be_and_the_order_is_the_seeds(run: Run) -> None:
    texts = rated_texts(run)
    sample = drawn(texts, 60, 0)
    available = Counter(texts["concept_rating"])
    assert all(n >= min(20, available[rating]) for rating, n in Counter(sample["concept_rating"]).items())
    for rating in (0, 1, 2):
        of_rating = Counter(sample.filter(concept_rating=rating)["strength"])
        there = Counter(drawn(texts, texts.height, 0).filter(concept_rating=rating)["strength"])
        most = max(of_rating.values())
        assert all(of_rating[strength] >= min(most - 1, n) for strength, n in there.items())
        assert of_rating[0] or not there[0]  # unsteered
    assert drawn(texts, 60, 0).equals(sample)
    assert drawn(texts, 60, 1)["id"].to_list() != sample["id"].to_list()
    triples = [set(sample["concept_rating"][at : at + 3]) for at in range(0, 30, 3)]
    assert min(map(len, triples)) < 3  # no turn-taking by which a rater could tell what comes next


def test_factors_of_each_target_of_its_own_are_the_same_strengths(run: Run) -> None:
    """As in a sweep with a pilot."""
    texts = rated_texts(run)
    scaled = pl.col("factor").cast(pl.Float64) * pl.col("target").rank("dense")
    own = texts.with_columns(factor=scaled.cast(pl.String))
    assert own["factor"].n_unique() > texts["factor"].n_unique()
    assert drawn(own, 60, 0).select("id", "strength").equals(drawn(texts, 60, 0).select("id", "strength"))


def kappa(pairs: list[tuple[int, int]]) -> float:
    """With quadratic weights: the mean squared difference over that of every first with every second rating."""
    observed = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    return 1 - observed / (sum((a - b) ** 2 for a, _ in pairs for _, b in pairs) / len(pairs) ** 2)


def test_agreement_is_that_of_a_slow_formula(run: Run, tmp_path: Path) -> None:
    rng, texts = random.Random(0), drawn(rated_texts(run), 60, 0)
    judge = {row["id"]: row for row in texts.iter_rows(named=True)}
    first = {text: {"concept": rng.choice([0, 1, 2]), "fluency": rng.choice([0, row["fluency_rating"]])} for text, row in judge.items()}
    second = {text: {"concept": rng.choice([row["concept_rating"], 1])} for text, row in list(judge.items())[:30]}
    files = [saved(tmp_path / f"{name}.json", run.name, given) for name, given in (("first", first), ("second", second))]
    tables = agreement.compared(run, files)
    assert list(tables) == [("judge", str(files[0])), ("judge", str(files[1])), (str(files[0]), str(files[1]))]
    given = {"judge": {text: {"concept": row["concept_rating"], "fluency": row["fluency_rating"]} for text, row in judge.items()}}
    given |= {str(files[0]): first, str(files[1]): second}
    for (a, b), rows in tables.items():
        for row in rows.iter_rows(named=True):
            both = [text for text in given[b] if row["aspect"] in given[b][text] and row["aspect"] in given[a].get(text, {})]
            pairs = [(given[a][text][row["aspect"]], given[b][text][row["aspect"]]) for text in both]
            counts = Counter(pairs)
            assert row["n"] == len(pairs)
            assert row["counts"] == " / ".join(" ".join(str(counts[x, y]) for y in range(3)) for x in range(3))
            if row["aspect"] == "concept" or len({b for _, b in pairs}) > 1:
                assert row["kappa"] == pytest.approx(kappa(pairs))
                if all(len({*ratings}) > 1 for ratings in zip(*pairs, strict=True)):
                    assert row["low"] <= row["kappa"] <= row["high"]
                else:
                    assert (row["kappa"], row["low"], row["high"]) == (0, None, None)


BAD = {
    "no JSON": (b"\x00\xff{", "is no file of answers"),
    "deep": (b'{"answers":' + b"[" * 100_000, "is no file of answers"),
    "large": (b" " * (LARGEST_FILE + 1), "has more than 1048576 bytes"),
    "form": ({"form": "other"}, "'form': Input should be"),
    "key": ({"more": 1}, "'more': Extra inputs"),
    "experiment": ({"experiment": "other"}, "answers to texts of experiment 'other', not of tiny"),
    "none": ({"answers": {}}, "'answers'"),
    "rating": ({"answers": {"0" * 16: {"concept": 3}}}, "less than or equal to 2"),
    "yes": ({"answers": {"0" * 16: {"concept": True}}}, "valid integer"),
    "aspect": ({"answers": {"0" * 16: {"beauty": 2}}}, "'concept' or 'fluency'"),
    "id": ({"answers": {"../" * 9: {"concept": 2}}}, "should match pattern"),
    "unknown": (
        {"answers": {"0" * 16: {"concept": 2}}},
        "1 texts that tiny does not hold, the first is 0000000000000000: .*write another one",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_none_is_refused(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = tmp_path / "answers.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        saved(path, "tiny", content.pop("answers", {"0" * 16: {"concept": 1}}), **content)
    with pytest.raises(SettingsError, match=message):
        read_answers(path, "tiny", pl.DataFrame({"id": ["f" * 16]}))

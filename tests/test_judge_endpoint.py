"""The judge behind an endpoint: what it stores, what it never asks twice, and what it does about each fault."""

import json
import logging
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from judge_server import Fault, Judge, agreeable, judge_server, label
from judge_texts import (
    CONCEPTS,
    ENVIRON,
    INSTRUCTIONS,
    KEY,
    QUICK,
    TEXTS,
    asker,
    concepts,
    expected_rating,
    generations,
    judge_generations,
    judged,
    judging_process,
    settings,
    stored,
)

from saesteer.analysis.score import harmonic_mean
from saesteer.judge.answers import ANSWERS, AnswerBook, Ask, JudgeAnswer, JudgeError
from saesteer.judge.batch import endpoint_asker
from saesteer.judge.endpoint import check_key
from saesteer.judge.parse import Rating
from saesteer.judge.rubric import questions


def test_ratings_are_those_of_the_judge(judge: Judge, tmp_path: Path):
    rows = generations(TEXTS, layers=(3, 5))
    table = judged(rows, asker(judge), tmp_path, instructed=True)
    assert len(judge.answered) == len(set(judge.answered)) == 3 + 3 + 3 * 2  # fluency, instruction; concept per concept
    assert {frozenset(body) for body in judge.requests} == {frozenset(("model", "messages", "max_tokens", "temperature"))}
    assert {body["temperature"] for body in judge.requests} == {0}
    assert table.select(rows.drop("text").columns).equals(rows.drop("text"))
    for row, text in zip(table.iter_rows(named=True), rows["text"], strict=True):
        by_aspect = questions(text, CONCEPTS[int(row["target"])], INSTRUCTIONS[row["prefix_id"]])
        want = [expected_rating(by_aspect[aspect]) for aspect in ("concept", "instruction", "fluency")]
        assert [row["concept_rating"], row["instruction_rating"], row["fluency_rating"]] == want
        assert row["judge_score"] == (0 if 0 in want else pytest.approx(3 / sum(1 / rating for rating in want)))
        assert row["reason"] is None


def test_without_instructions_two_ratings_count(tmp_path: Path):
    with judge_server(answer=lambda prompt: f"{label(prompt)}: {1 if 'concept' in prompt else 2}") as judge:
        table = judged(generations(["The waves rose."]), asker(judge), tmp_path)
    assert table["instruction_rating"].null_count() == table.height
    assert table["judge_score"].to_list() == pytest.approx([4 / 3] * 2)


def test_harmonic_mean_by_hand():
    rows = pl.DataFrame(
        {"a": [2, 2, 1, 0, None, 0], "b": [2, 1, 1, 2, 2, None], "c": [2, 1, 2, 2, 2, 1]}, schema=dict.fromkeys("abc", pl.UInt8)
    )
    # 3/(1/2+1/2+1/2) = 2; 3/(1/2+1+1) = 1.2; 3/(1+1+1/2) = 1.2
    assert rows.select(harmonic_mean("abc")).to_series().to_list() == [2.0, pytest.approx(1.2), pytest.approx(1.2), 0.0, None, None]


def test_what_does_not_apply_is_null_with_a_reason_and_not_asked(judge: Judge, tmp_path: Path):
    rows = generations(["The waves rose.", "  \n"])
    table = judged(rows, asker(judge), tmp_path, concepts=concepts(names=["storms at sea", None]))
    assert len(judge.answered) == 2
    assert table["reason"].to_list() == [None, "no content to rate", "the feature has no concept", "no content to rate"]
    assert table["fluency_rating"].is_null().to_list() == [False, True, False, True]
    assert table["judge_score"].is_null().to_list() == [False, True, True, True]


def test_raw_answers_are_stored_with_what_they_depend_on(judge: Judge, tmp_path: Path):
    judged(generations(TEXTS), asker(judge, seed=3), tmp_path)
    kept = stored(tmp_path)
    assert kept.schema == ANSWERS.schema
    assert kept.height == 9
    assert kept["raw"].str.starts_with("It is as it is.\nRating: ").all()
    assert set(kept["model"]) == {"judge-2025"}
    assert kept.select("prompt_tokens", "completion_tokens").null_count().row(0) == (0, 0)
    (path,) = tmp_path.glob("*/fingerprint.json")
    fingerprint = json.loads(path.read_text())
    assert (fingerprint["model"], fingerprint["seed"], fingerprint["max_tokens"], fingerprint["temperature"]) == ("judge-1", 3, 200, 0)
    assert "127.0.0.1" not in path.read_text()


def test_nothing_is_asked_again(judge: Judge, tmp_path: Path):
    rows = generations(TEXTS)
    first = judged(rows, asker(judge), tmp_path)
    n = len(judge.answered)
    assert judged(rows, asker(judge), tmp_path).equals(first)
    judged(generations(TEXTS, layers=(7,)), asker(judge), tmp_path)  # another layer's job with the same texts and concepts
    assert len(judge.answered) == n
    judged(generations([*TEXTS, "New."]), asker(judge), tmp_path)
    assert len(judge.answered) == n + 3  # its fluency, and its concept for two concepts
    judged(rows, asker(judge, seed=1), tmp_path)  # the same judge asked a second time, for its agreement with itself
    assert len(judge.answered) == 2 * n + 3


def test_answers_of_a_job_at_the_same_time_are_found(tmp_path: Path):
    with judge_server() as judge, AnswerBook(tmp_path, asker(judge).fingerprint, 60.0) as book:
        judged(generations(TEXTS), asker(judge), tmp_path)  # meanwhile
        book.refresh()
        assert all(book.reading(question) for question in questions(TEXTS[0], None, None).values())


def test_the_first_answer_to_a_question_stays(tmp_path: Path):
    ask = Ask(questions("A storm.", None, None)["fluency"], 0)
    about = {**ask.identity, "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1, "model": None}
    with AnswerBook(tmp_path, {"judge": 1}, 60.0) as book:
        book.add(JudgeAnswer(**about, raw="Rating: 1"))
        book.add(JudgeAnswer(**about, raw="Rating: 2"))
        assert book.reading(ask.question) == Rating(1)
    assert stored(tmp_path)["raw"].to_list() == ["Rating: 1"]
    assert AnswerBook(tmp_path, {"judge": 1}, 60.0).reading(ask.question) == Rating(1)
    assert AnswerBook(tmp_path, {"judge": 2}, 60.0).reading(ask.question) is None


def test_a_damaged_part_is_not_read(judge: Judge, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = generations(TEXTS)
    first = judged(rows, asker(judge), tmp_path)
    (part,) = tmp_path.rglob("*.parquet")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert judged(rows, asker(judge), tmp_path).equals(first)
    assert len(judge.answered) == 18
    assert f"{part}: its bytes do not match its name" in caplog.text


def test_ratings_do_not_depend_on_concurrency_nor_on_how_questions_are_put_together(tmp_path: Path):
    rows = generations([f"Text {number}." for number in range(7)], layers=(0, 1))
    with judge_server(delay=0.01) as judge:
        whole = judged(rows, asker(judge, concurrency=1), tmp_path / "whole")
        assert judge.most_at_once == 1
        assert judged(rows, asker(judge, concurrency=6), tmp_path / "at once").equals(whole)
        assert 1 < judge.most_at_once <= 6
        pieces = replace(asker(judge), questions_at_once=6)
        assert judged(rows, pieces, tmp_path / "pieces").equals(whole)
        shuffled = rows.sample(fraction=1.0, shuffle=True, seed=0).sort("layer", maintain_order=True)
        keys = rows.drop("text").columns
        assert judged(shuffled, asker(judge), tmp_path / "shuffled").sort(keys).equals(whole.sort(keys))


def test_what_cannot_be_a_key_or_an_address_is_refused_without_being_shown(tmp_path: Path):
    for environ in ({}, {"TEST_JUDGE_KEY": ""}, {"TEST_JUDGE_KEY": "  "}):
        with pytest.raises(JudgeError, match="set the environment variable TEST_JUDGE_KEY"):
            endpoint_asker(settings("http://localhost/v1"), environ, tmp_path)
    for bad in ("sk-secret\nX: y", "sk secret", "sk-sécret"):
        with pytest.raises(JudgeError, match="TEST_JUDGE_KEY") as refused:
            check_key(settings("http://localhost/v1"), {"TEST_JUDGE_KEY": bad})
        assert "secret" not in str(refused.value)
    for address in ("http://me:sk-secret@localhost/v1", "http://localhost/v1?key=sk-secret", "localhost/sk-secret"):
        with pytest.raises(JudgeError, match="base_url") as refused:
            check_key(settings(address), ENVIRON)
        assert "secret" not in str(refused.value)
    with pytest.raises(JudgeError, match=r"key_variable is no name of an environment variable") as refused:
        check_key(settings("http://localhost/v1", key_variable="sk-secret"), ENVIRON)
    assert "secret" not in str(refused.value)
    assert check_key(settings("http://localhost/v1", key_variable=None), {}) is None


@pytest.mark.parametrize(
    "address",
    [
        *("http://localhost:abc/v1", "http://localhost:99999/v1", "http://[::1/v1", "http:///v1", "ftp://h/v1", ""),
        *("http://h /v1", " http://h/v1", "http://local host/v1", "http://127.0.0.1:9/v1\n", "\thttp://127.0.0.1/v1"),
    ],
)
def test_what_is_no_address_is_named(address: str):
    with pytest.raises(JudgeError, match=r"judge\.base_url is no address"):
        check_key(settings(address), ENVIRON)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "It is.\n"}, {"type": "text", "text": "LABEL: 1"}], "It is.\nLABEL: 1"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "LABEL: 2?"}]}, {"type": "text", "text": "LABEL: 1"}], "LABEL: 1"),
        ([{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "LABEL: 1"}], "LABEL: 1"),
    ],
)
def test_content_in_parts_is_its_text(content: list[object], text: str, tmp_path: Path):
    """As Mistral's reasoning models answer."""

    def answer(prompt: str) -> object:
        return {"content": json.loads(json.dumps(content).replace("LABEL", label(prompt)))}

    with judge_server(answer=answer) as judge:
        one = asker(judge)
        table = judged(generations(TEXTS[:1]), one, tmp_path)
        assert len(judge.requests) == 3
    assert set(table["fluency_rating"]) == {1}
    assert set(stored(tmp_path)["raw"]) == {text.replace("LABEL", "Rating")}
    assert one.budget.spent.output_tokens == 3 * 12


def test_an_event_stream_is_read(judge: Judge, tmp_path: Path):
    """As gateways answer that stream whether they are asked to or not."""
    half = [
        {"choices": [{"delta": {"role": "assistant", "content": piece}, "finish_reason": None}], "model": "m"}
        for piece in ("Rating", ": 1")
    ]
    end = [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": {"prompt_tokens": 90, "completion_tokens": 7}}]
    stream = ": waiting\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in half + end) + "data: [DONE]\n\n"
    judge.faults.extend([Fault(status=200, body=stream, headers={"Content-Type": "text/event-stream"})] * 3)
    one = asker(judge)
    assert set(judged(generations(TEXTS[:1]), one, tmp_path)["fluency_rating"]) == {1}
    assert len(judge.requests) == 3
    assert one.budget.spent.tokens == 3 * 97
    assert set(stored(tmp_path)["model"]) == {"m"}


@pytest.mark.parametrize(
    ("message", "finish"),
    [
        *((None, finish) for finish in ("SAFETY", "PROHIBITED_CONTENT", "content_filter", "content_filter: PROHIBITED_CONTENT")),
        *((message, "SAFETY") for message in ({"role": "assistant"}, {"role": "assistant", "content": None})),
    ],
)
def test_an_answer_that_was_filtered_away_is_unreadable(judge: Judge, message: object, finish: str, tmp_path: Path):
    """As Gemini's compatible address says it."""
    body = {"choices": [{"index": 0, "finish_reason": finish} | ({} if message is None else {"message": message})], "model": "gemini"}
    judge.faults.extend([Fault(status=200, body=json.dumps(body))] * 9)
    table = judged(generations(TEXTS[:1]), asker(judge), tmp_path)
    assert table["reason"].to_list() == ["unreadable answer"] * 2
    assert set(stored(tmp_path)["finish_reason"]) == {finish}


def test_a_wrong_key_stops_at_once_and_names_the_variable(tmp_path: Path):
    with judge_server(key="another") as judge:
        with pytest.raises(JudgeError, match="status 401.*environment variable TEST_JUDGE_KEY") as refused:
            judged(generations(TEXTS), asker(judge, concurrency=1), tmp_path)
        assert len(judge.paths) == 1
        assert KEY not in str(refused.value)
        with pytest.raises(JudgeError, match="judge.key_variable"):
            judged(generations(TEXTS), asker(judge, key_variable=None), tmp_path)


@pytest.mark.parametrize("key", [KEY, "abc/def/ghi=="])
def test_the_key_reaches_the_endpoint_and_nothing_else(key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The endpoint shows the key wherever it can: in answers, model names and errors."""
    caplog.set_level(logging.DEBUG)
    texts = []
    with judge_server(key=key, answer=lambda prompt: f"Your key is {key}.\n{label(prompt)}: 1") as judge:
        escaped = json.dumps({"choices": [{"message": {"content": key}, "finish_reason": "stop"}]}).replace("/", "\\/")
        judge.faults.extend(
            [Fault(status=500, body=f"{key} again"), Fault(status=200, body=f"<html>{key}"), Fault(status=200, body=escaped)]
        )
        one = endpoint_asker(settings(judge.base_url), {"TEST_JUDGE_KEY": key}, tmp_path / "data", QUICK)
        texts += [repr(one), str(one), json.dumps(dict(one.fingerprint))]
        judged(generations(TEXTS), one, tmp_path)
        judge.faults.extend([Fault(status=400, body=f"bad {key}")] * 20)
        with pytest.raises(JudgeError) as refused:
            judged(generations(["More."]), one, tmp_path)
        texts += [str(refused.value), repr(refused.value), str(refused.value.__cause__), str(refused.value.__context__)]
    assert stored(tmp_path)["raw"].str.contains("[key]", literal=True).all()
    texts += [caplog.text, *(f"{row}" for row in stored(tmp_path).iter_rows())]
    for text in texts:
        assert key not in text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if key.encode() in path.read_bytes()]


def test_openai_is_imported_for_questions_only(judge: Judge, tmp_path: Path):
    """It takes a second, which a job whose answers are all stored need not wait."""
    assert judging_process(TEXTS, judge, tmp_path).communicate()[0] == "True\n"
    assert judging_process(TEXTS, judge, tmp_path).communicate()[0] == "False\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_without_asking_twice(number: int, tmp_path: Path):
    """What kill -9 can lose is under way: 4 requests, and answers younger than `part_seconds`, here 0.05 s at up to 200 a second. On
    SIGTERM, as before a job's time limit, answers are written out, and only the 4 requests are lost."""
    texts, changes = [f"Text {number}." for number in range(60)], {"key_variable": None, "concurrency": 4}
    with judge_server(delay=0.02) as judge:
        run = judging_process(texts, judge, tmp_path, 0.05, **changes)
        while len(judge.answered) < 90 and run.poll() is None:
            time.sleep(0.01)
        os.kill(run.pid, number)
        assert run.wait(10) != 0
        time.sleep(0.2)  # the server finishes what it is at
        before, n_stored = list(judge.answered), stored(tmp_path).height
        assert len(before) - (4 if number == signal.SIGTERM else 40) <= n_stored <= len(before) < 180
        judged(generations(texts), asker(judge, **changes), tmp_path)
        after = judge.answered[len(before) :]
    assert len(after) == 180 - n_stored
    assert len(set(judge.answered)) == 180
    assert len(judge.answered) - 180 == len(before) - n_stored  # so many were asked for twice
    assert not list(tmp_path.rglob("*.partial"))


def test_a_run_that_is_given_up_keeps_its_answers(judge: Judge, tmp_path: Path):
    """A consumer that stops after the first frame, as a job does on SIGTERM."""
    rows = generations(TEXTS, layers=(0, 1))
    frames = judge_generations(rows, concepts((0, 1)), None, asker(judge), tmp_path, 60.0)
    next(frames)
    assert stored(tmp_path).height == len(judge.answered)
    frames.close()


def test_an_instruction_that_is_not_given_is_an_error(tmp_path: Path):
    with judge_server() as judge, pytest.raises(JudgeError, match="no instruction with prefix_id"):
        list(judge_generations(generations(TEXTS), concepts(), {}, asker(judge), tmp_path, 60.0))


def test_progress_and_cost_are_told(judge: Judge, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]):
    caplog.set_level(logging.INFO, logger="saesteer")
    judged(generations(TEXTS), asker(judge, usd_per_million_input_tokens=2.0, usd_per_million_output_tokens=8.0), tmp_path)
    assert re.search(r"judge judge-1: 9 questions to ask; estimate: 0\.\d+ USD", caplog.text)
    assert re.search(r"this run has spent 0\.\d+ USD \([\d,]+ tokens of prompts, 108 of answers\)", caplog.text)
    captured = capsys.readouterr()
    assert "judge: 100%" in captured.err
    assert captured.out == ""


def test_a_name_that_goes_over_to_another_model_is_told(judge: Judge, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    judged(generations(TEXTS[:1]), asker(judge), tmp_path)
    assert "several models" not in caplog.text

    def replaced(prompt: str) -> str:
        judge.model = "judge-2026"
        return agreeable(prompt)

    judge.answer = replaced
    judged(generations(TEXTS), asker(judge), tmp_path)
    assert "come from several models under one name: judge-2025, judge-2026 (docs/judges.md)" in caplog.text
    assert stored(tmp_path).height == len(judge.answered) == 9

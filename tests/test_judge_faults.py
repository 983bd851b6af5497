"""The judge behind an endpoint: faults of the network and of the server, and answers that cannot be read."""

import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import polars as pl
import pytest
from judge_server import Fault, Judge, judge_server, label, rated_text
from judge_texts import TEXTS, asker, concepts, generations, judged, stored
from test_judge_rubric import HOSTILE

from saesteer.judge.answers import JudgeError

FAULTS = {
    "429": Fault(status=429),
    "429 with seconds": Fault(status=429, headers={"Retry-After": "0.02"}),
    "429 with a date": Fault(status=429, headers={"Retry-After": formatdate(time.time() - 5, usegmt=True)}),
    "429 with nonsense": Fault(status=429, headers={"Retry-After": "soon"}),
    "500": Fault(status=500),
    "503 in HTML": Fault(status=503, body="<html>busy</html>"),
    "half an answer, connection cut": Fault(cut=40),
    "nothing, connection cut": Fault(cut=0),
    "half an answer, in full": Fault(status=200, body='{"choices": [{"message": {"content": "Rating'),
    "HTML": Fault(status=200, body="<html>welcome</html>"),
    "an error with status 200": Fault(status=200, body='{"error": {"message": "overloaded"}}'),
    "nested too deep": Fault(status=200, body=f'{{"choices": {"[" * 5000}'),
    "an answer beside what is nested too deep": Fault(
        status=200, body=f'{{"choices": [{{"message": {{"content": "Rating: 1"}}}}], "x": {"[" * 5000}{"]" * 5000}}}'
    ),
    "no choice": Fault(status=200, body='{"choices": []}'),
    "content that is no text": Fault(status=200, body='{"choices": [{"message": {"content": {"a": 1}}, "finish_reason": "stop"}]}'),
    "an error with status 200 and the code of another": Fault(status=200, body='{"error": {"code": 429, "message": "overloaded"}}'),
    "an event stream of an error": Fault(status=200, body='data: {"error": {"message": "overloaded"}}\n\n'),
    "half an event stream": Fault(status=200, body='data: {"choices": [{"delta": {"content": "Rating"}}]}\n\n'),
    "message null": Fault(status=200, body='{"choices": [{"message": null, "finish_reason": "stop"}]}'),
    "a choice that is text": Fault(status=200, body='{"choices": ["Rating: 1"]}'),
    "time-out": Fault(wait=0.6),
    "byte by byte": Fault(drip=0.02),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ratings of a text without any fault, and the answers behind them."""
    folder = tmp_path_factory.mktemp("clean")
    with judge_server() as judge:
        return judged(generations(TEXTS[:1]), asker(judge), folder), stored(folder).sort("request_id")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_tried_again_and_leaves_no_trace(judge: Judge, fault: Fault, clean: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path):
    judge.faults.extend([fault, None, fault])
    ratings = judged(generations(TEXTS[:1]), asker(judge, timeout_seconds=0.3, concurrency=2), tmp_path)
    assert len(judge.requests) == 3 + 2
    assert ratings.equals(clean[0])
    assert stored(tmp_path).sort("request_id").equals(clean[1])


def test_an_answer_that_cannot_be_written_as_it_is_costs_no_other(judge: Judge, tmp_path: Path):
    half_of_a_pair = '{"choices": [{"message": {"content": "Rating: 1"}, "finish_reason": "\\ud800"}], "model": "\\ud800"}'
    judge.faults.append(Fault(status=200, body=half_of_a_pair))
    ratings = judged(generations(TEXTS[:2]), asker(judge, concurrency=1), tmp_path)
    assert ratings["judge_score"].null_count() == 0
    n_asked = len(judge.requests)
    judged(generations(TEXTS[:2]), asker(judge, concurrency=1), tmp_path)
    assert len(judge.requests) == n_asked
    assert stored(tmp_path).filter(model="?", finish_reason="?").height == 1


def test_retry_after_is_waited_for(judge: Judge, tmp_path: Path):
    judge.faults.append(Fault(status=429, headers={"Retry-After": "0.7"}))
    started = time.monotonic()
    judged(generations(TEXTS[:1]), asker(judge), tmp_path)
    assert time.monotonic() - started >= 0.7


def test_a_fault_that_lasts_ends_with_one_message_and_keeps_what_is_answered(judge: Judge, tmp_path: Path):
    rows = generations(TEXTS)
    judge.faults.extend([None] * 4 + [Fault(status=500, body="disk on fire")] * 100)
    with pytest.raises(JudgeError, match=r"status 500: 'disk on fire', also after 4 tries; all answers so far are kept"):
        judged(rows, asker(judge, concurrency=1), tmp_path)
    assert stored(tmp_path).height == 4
    judge.faults.clear()
    judged(rows, asker(judge), tmp_path)
    assert len(judge.answered) == 9


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "does not take such requests"), (404, "check judge.base_url"), (422, "the settings under judge")],
)
def test_a_refused_request_is_not_tried_again(judge: Judge, status: int, words: str, tmp_path: Path):
    judge.faults.extend([Fault(status=status, body="no max_tokens here")] * 9)
    with pytest.raises(JudgeError, match=f"status {status}: 'no max_tokens here'.*{words}"):
        judged(generations(TEXTS), asker(judge, concurrency=1), tmp_path)
    assert len(judge.paths) == 1


def test_a_longer_wait_than_two_minutes_is_left_to_the_user(judge: Judge, tmp_path: Path):
    judge.faults.append(Fault(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(JudgeError, match="status 429.* also after 1 tries; all answers so far are kept: run again later"):
        judged(generations(TEXTS[:1]), asker(judge, concurrency=1), tmp_path)
    assert len(judge.requests) == 1


UNREADABLE: dict[str, tuple[Callable[[str], object], str]] = {
    "empty": (lambda prompt: "", "stop"),
    "null": (lambda prompt: None, "stop"),
    "refusal in words": (lambda prompt: "I'm sorry, I can't.", "stop"),
    "refusal in its field": (lambda prompt: {"content": None, "refusal": f"No.\n{label(prompt)}: 2"}, "stop"),
    "filtered": (lambda prompt: f"{label(prompt)}: 2", "content_filter"),
    "out of range": (lambda prompt: f"{label(prompt)}: 7", "stop"),
    "cut off": (lambda prompt: f"{label(prompt)}: 2", "length"),
}


@pytest.mark.parametrize(("answer", "finish"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_answer_is_asked_for_twice_more_then_null(
    answer: Callable[[str], object], finish: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    rows = generations(["The waves rose."])
    with judge_server(answer=answer, finish_reason=finish) as judge:
        table = judged(rows, asker(judge), tmp_path)
        assert len(judge.answered) == 9
        again = judged(rows, asker(judge), tmp_path)
        assert len(judge.answered) == 9
    assert again.equals(table)
    assert "judge: 3 questions have no readable answer; of the first, the" in caplog.text
    assert table["reason"].to_list() == ["unreadable answer"] * 2
    assert table.select("concept_rating", "fluency_rating", "judge_score").null_count().row(0) == (2, 2, 2)
    kept = stored(tmp_path)
    assert sorted(kept["attempt"].to_list()) == [0] * 3 + [1] * 3 + [2] * 3


def test_a_later_attempt_counts(tmp_path: Path):
    seen: Counter[str] = Counter()

    def second_time_lucky(prompt: str) -> str:
        seen[rated_text(prompt)] += 1
        return f"{label(prompt)}: {9 if seen[rated_text(prompt)] < 3 else 1}"

    with judge_server(answer=second_time_lucky) as judge:
        table = judged(generations(["One.", "Two."]), asker(judge, concurrency=1), tmp_path, concepts=concepts(names=[None, None]))
    assert table["fluency_rating"].to_list() == [1] * 4
    assert stored(tmp_path)["attempt"].max() == 2


def test_a_judge_that_repeats_the_text_is_not_taken_over(tmp_path: Path):
    with judge_server(answer=lambda prompt: f"It says:\n{rated_text(prompt)}\nThat is no reason.\n{label(prompt)}: 0") as judge:
        table = judged(generations(HOSTILE), asker(judge), tmp_path / "ends well")
    assert set(table["concept_rating"]) == set(table["fluency_rating"]) == {0}
    with judge_server(answer=rated_text) as judge:
        table = judged(generations(HOSTILE), asker(judge), tmp_path / "echo")
    assert set(table["reason"]) == {"unreadable answer"}
    assert table["fluency_rating"].null_count() == table.height

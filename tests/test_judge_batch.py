"""The batch API: the same answers as one by one, paid for once, whatever interrupts the run."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import judge_texts
import pytest
from judge_server import Judge, judge_server
from judge_texts import KEY, TEXTS, generations, judged, judging_process, settings, stored

from saesteer.judge.answers import JudgeError
from saesteer.judge.batch import BatchAsker
from saesteer.judge.client import BatchUncertain
from saesteer.judge.spend import Budget, Spend, SpendLimitReached


def asker(judge: Judge, **changes: object) -> BatchAsker:
    return judge_texts.asker(judge, batch=True, **changes)


def notes(folder: Path) -> list[Path]:
    return list(folder.rglob("batches/*.json"))


def test_a_batch_gives_what_single_requests_give(tmp_path: Path):
    rows = generations(TEXTS, layers=(0, 2))
    with judge_server(key=KEY) as judge:
        single = judged(rows, judge_texts.asker(judge), tmp_path / "single", instructed=True)
        n = len(judge.answered)
        assert judged(rows, asker(judge), tmp_path / "batch", instructed=True).equals(single)
        assert len(judge.answered) == 2 * n
        assert len(judge.batches) == 1
        assert judged(rows, asker(judge), tmp_path / "batch", instructed=True).equals(single)
        assert judged(rows, asker(judge), tmp_path / "single", instructed=True).equals(single)  # either kind finds the other's answers
        assert len(judge.batches) == 1
    for line in judge.files["file-0"].splitlines():
        request = json.loads(line)
        assert set(request) == {"custom_id", "method", "url", "body"}
        assert set(request["body"]) == {"model", "messages", "max_tokens", "temperature"}
    assert stored(tmp_path / "single").sort("request_id").equals(stored(tmp_path / "batch").sort("request_id"))
    assert notes(tmp_path) == []


def test_unreadable_answers_go_into_further_batches(tmp_path: Path):
    with judge_server(answer=lambda prompt: "no") as judge:
        table = judged(generations(TEXTS[:1]), asker(judge), tmp_path)
    assert len(judge.batches) == 3
    assert set(table["reason"]) == {"unreadable answer"}


def test_no_batch_api_names_the_key_of_the_configuration_and_leaves_no_batch(tmp_path: Path):
    with judge_server(has_batches=False) as judge:
        one = asker(judge)
        with pytest.raises(JudgeError, match="no batch API here.*set judge.batch: false"):
            judged(generations(TEXTS), one, tmp_path)
        assert one.budget.spent == one.budget.total == Spend()  # nothing stays reserved for a batch that is none
        assert len(notes(tmp_path)) == 1
        judge.has_batches = True
        judged(generations(TEXTS), asker(judge), tmp_path)
        assert notes(tmp_path) == []
        assert len(judge.answered) == 9


@pytest.mark.parametrize("ending", ["failed", "expired", "cancelled", "completed"])
def test_a_batch_that_fails_is_told_and_its_answers_kept(ending: str, tmp_path: Path):
    rows = generations(TEXTS)
    told = f"the batch batch-0 has {ending}.*set judge.batch: false"
    with judge_server(batch_ends=ending, batch_leaves_out=4) as judge:
        with pytest.raises(JudgeError, match="gave no answer to 4 of 9 questions, the first: .*no luck" if ending == "completed" else told):
            judged(rows, asker(judge), tmp_path)
        kept = stored(tmp_path).height
        assert kept == (0 if ending == "failed" else 5)
        assert notes(tmp_path) == []
        judge.batch_ends, judge.batch_leaves_out = "completed", 0
        assert judged(rows, asker(judge), tmp_path)["reason"].null_count() == rows.height
        assert len(judge.answered) == 9


def test_only_what_the_limit_allows_is_sent(judge: Judge, tmp_path: Path):
    with pytest.raises(SpendLimitReached, match="max_total_tokens = 4000.*At least 9 questions"):
        judged(generations(TEXTS), asker(judge, max_total_tokens=4000), tmp_path)
    assert judge.batches == {}
    with pytest.raises(SpendLimitReached, match="max_total_tokens = 4000.*At least 3 questions"):
        judged(generations(TEXTS), replace(asker(judge, max_total_tokens=4000), fewest=2), tmp_path)
    assert [len(judge.files[batch["input_file_id"]].splitlines()) for batch in judge.batches.values()] == [2, 2, 2]
    assert stored(tmp_path).height == len(judge.answered)
    judged(generations(TEXTS), asker(judge), tmp_path)
    assert len(judge.answered) == 9


@pytest.mark.parametrize("when", ["while it is being made", "while it is waited for"])
def test_a_killed_run_finds_its_batch_again(when: str, tmp_path: Path):
    with judge_server(hold_batch_reply=1.0 if "made" in when else 0.0, batch_polls=10**9) as judge:
        run = judging_process(TEXTS, judge, tmp_path, batch=True)
        while run.poll() is None and not (judge.polls if "waited" in when else judge.batches):
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGKILL)
        run.wait(10)
        (note,) = notes(tmp_path)
        assert (json.loads(note.read_text())["batch_id"] is None) == ("made" in when)
        assert Budget(settings(judge.base_url), judge.data).open.tokens > 9 * 200
        judge.batch_polls = 0
        # The next run wants fewer texts: what the batch holds besides is kept all the same.
        judged(generations(TEXTS[:1]), asker(judge), tmp_path)
        assert stored(tmp_path).height == 9
        assert Budget(settings(judge.base_url), judge.data).total.tokens == sum(len(prompt) // 4 + 12 for prompt in judge.answered)
        judged(generations(TEXTS), asker(judge), tmp_path)
        assert len(judge.batches) == 1
        assert len(judge.answered) == 9
    assert notes(tmp_path) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_two_jobs_at_once_pay_for_a_question_once(tmp_path: Path):
    """The second waits for the batch of the first, also while that is being made."""
    with judge_server(hold_batch_reply=1.0) as judge:
        runs = [judging_process(TEXTS, judge, tmp_path, batch=True) for _ in range(2)]
        assert [run.wait(120) for run in runs] == [0, 0]
        assert (len(judge.batches), len(judge.answered)) == (1, 9)
    assert notes(tmp_path) == []


def test_making_a_batch_is_never_blindly_repeated(tmp_path: Path):
    """The reply to its making comes too late: the batch exists, and is found in the list."""
    with judge_server(hold_batch_reply=0.6) as judge:
        judged(generations(TEXTS), asker(judge, timeout_seconds=0.3), tmp_path)
        assert judge.paths.count("POST /v1/batches") == 1
        assert len(judge.answered) == 9


@pytest.mark.parametrize("n_newer", [0, 150])
def test_a_lost_batch_is_found_among_newer_ones(n_newer: int, tmp_path: Path):
    with judge_server(batch_polls=10**9, hold_batch_reply=1.0) as judge:
        run = judging_process(TEXTS, judge, tmp_path, batch=True)
        while run.poll() is None and not judge.batches:
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGKILL)
        run.wait(10)
        others = {"status": "completed", "metadata": None, "created_at": 9}
        judge.batches |= {f"other-{number}": others | {"id": f"other-{number}"} for number in range(n_newer)}
        judge.batch_polls = 0
        judged(generations(TEXTS), asker(judge), tmp_path)
        assert judge.paths.count("POST /v1/batches") == 1


def test_another_models_batch_of_the_same_questions_is_not_taken_for_one_that_was_lost(tmp_path: Path):
    with judge_server() as judge:
        judged(generations(TEXTS), asker(judge), tmp_path / "first")
        judge.hold_batch_reply, judge.loses_batches = 0.6, True
        with pytest.raises(BatchUncertain):
            judged(generations(TEXTS), asker(judge, model="another", timeout_seconds=0.3), tmp_path / "second")
        assert not list((tmp_path / "second").rglob("*.parquet"))

"""The ledger of what judges cost: no wave, job, retry or kill takes an experiment over its limit."""

import errno
import fcntl
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_server import Fault, Judge, judge_server
from judge_texts import ENVIRON, asker, generations, judged, judging_process, settings, stored

from saesteer.judge.answers import JudgeError
from saesteer.judge.batch import endpoint_asker
from saesteer.judge.endpoint import MAX_RETRIES
from saesteer.judge.spend import LEDGER, Budget, Spend, SpendLimitReached
from saesteer.settings import PromptWriter

TEXTS = [f"The waves rose {number} times." for number in range(30)]
USAGE = {"prompt_tokens": 700, "completion_tokens": 200}
"""Close to the most that a question about one of these texts can cost."""
LIMIT = {"max_total_tokens": 3600}
ONE_REQUEST = {"max_total_tokens": 2000}


def charged(judge: Judge) -> int:
    """Tokens that the endpoint counts."""
    return len(judge.answered) * 900


def lines(judge: Judge) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (judge.data / LEDGER).read_text().splitlines()]


@pytest.mark.parametrize("concurrency", [4, 16, 64])
def test_the_first_wave_keeps_the_limit(concurrency: int, tmp_path: Path) -> None:
    with judge_server(delay=0.02, usage=USAGE) as judge:
        with pytest.raises(SpendLimitReached):
            judged(generations(TEXTS), asker(judge, concurrency=concurrency, **LIMIT), tmp_path)
        assert 0 < charged(judge) <= 3600
        assert len(judge.requests) == len(judge.answered) == stored(tmp_path).height


def test_retries_spend_the_limit_once(tmp_path: Path) -> None:
    with judge_server(usage=USAGE) as judge:
        for _ in range(3):
            with pytest.raises(SpendLimitReached, match=rf"all jobs and runs .* have spent .*judge\.max_total_tokens = 3600.*{LEDGER}"):
                judged(generations(TEXTS), asker(judge, concurrency=1, **LIMIT), tmp_path)
            assert 0 < charged(judge) <= 3600
        n_answered = len(judge.answered)
        with pytest.raises(SpendLimitReached):
            judged(generations(TEXTS), asker(judge, concurrency=1, max_total_tokens=7200), tmp_path)
        assert len(judge.answered) > n_answered
        assert len(set(judge.answered)) == len(judge.answered)
        assert 3600 < charged(judge) <= 7200


def test_two_processes_keep_the_limit_together(tmp_path: Path) -> None:
    with judge_server(usage=USAGE, delay=0.02) as judge:
        jobs = [judging_process(TEXTS[half::2], judge, tmp_path, concurrency=4, **LIMIT) for half in (0, 1)]
        assert [job.wait(60) for job in jobs] == [1, 1]
        assert 0 < charged(judge) <= 3600
        assert len(judge.answered) == stored(tmp_path).height


def test_reservations_at_the_same_instant_are_made_one_after_the_other(tmp_path: Path) -> None:
    one = Spend(10, 0, 0.0)

    def reserved(_: int) -> int:
        budget, n = Budget(settings("http://h/v1", max_total_tokens=2000), tmp_path), 0
        while request := budget.reserve(one):
            budget.settle(request, one)
            n += 1
        return n

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(reserved, range(8))) == 200
    assert len((tmp_path / LEDGER).read_text().splitlines()) == 400


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_request_whose_job_is_killed_counts_at_its_worst(number: signal.Signals, tmp_path: Path) -> None:
    with judge_server(delay=20.0) as judge:
        job = judging_process(TEXTS, judge, tmp_path, concurrency=1)
        while job.poll() is None and not judge.requests:
            time.sleep(0.01)
        os.kill(job.pid, number)
        job.wait(60)
        judge.delay = 0.0
        (line,) = lines(judge)
        assert not line["settled"]
        with pytest.raises(SpendLimitReached, match=r"1 requests of unknown cost count at their worst, 0\.0000 USD \(\d"):
            judged(generations(TEXTS), asker(judge, **ONE_REQUEST), tmp_path)
        assert len(judge.requests) == 1
        (judge.data / LEDGER).write_text("")
        with pytest.raises(SpendLimitReached):
            judged(generations(TEXTS), asker(judge, **ONE_REQUEST), tmp_path)
        assert len(judge.requests) > 1


def test_a_reservation_is_on_disk_before_its_request_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, fsync = [], os.fsync

    def recorded(descriptor: int) -> None:
        fsync(descriptor)
        flushed.append(os.pread(descriptor, 10_000, 0))

    monkeypatch.setattr(os, "fsync", recorded)
    assert Budget(settings("http://h/v1"), tmp_path).reserve(Spend(500, 50, 0.5))
    assert flushed == [(tmp_path / LEDGER).read_bytes()]


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path, one = tmp_path / LEDGER, settings("http://h/v1")
    budget = Budget(one, tmp_path)
    first, second = budget.reserve(Spend(500, 50, 0.5)), budget.reserve(Spend(700, 70, 0.75))
    budget.settle(first, Spend(100, 10, 0.125))
    budget.settle(second, Spend(200, 20, 0.25))
    whole = path.read_bytes()
    *before, last = whole.splitlines(keepends=True)
    for n_bytes in range(len(last) - 1):
        path.write_bytes(b"".join(before) + last[:n_bytes])
        later = Budget(one, tmp_path)
        assert (later.total, later.open) == (Spend(800, 80, 0.875), Spend(700, 70, 0.75))
        later.settle(second, Spend(200, 20, 0.25))
        assert later.total == Spend(300, 30, 0.375)
        assert path.read_bytes() == whole
    path.write_bytes(whole.rstrip(b"\n"))  # as editors save it, after a line above was deleted
    later = Budget(one, tmp_path)
    third = later.reserve(Spend(1, 1, 0.5))
    assert (later.total, path.read_bytes()[: len(whole)]) == (Spend(301, 31, 0.875), whole)
    later.settle(third, Spend())


def line_with(**values: Any) -> str:
    cost = {"input_tokens": 5, "output_tokens": 5, "usd": 0.5}
    return json.dumps({"request": "a", "section": "judge", "settled": False} | cost | values)


LIFTING = [
    line_with(input_tokens=-(10**9)),
    line_with(output_tokens=-1),
    line_with(usd=-0.01),
    line_with(usd=float("nan")),
    line_with(usd=float("inf")),
    line_with(usd=-float("inf"), section="methods.prompt_writer"),
    line_with(input_tokens=1.5),
    line_with(input_tokens="5"),
    line_with(usd=True),
    line_with(settled="no"),
    line_with(request=None),
    "[" * 5000,
]


@pytest.mark.parametrize("line", ["nonsense", '{"request": "a", "section": "judge"}', "[]", "\0\0\0", *LIFTING])
def test_an_unreadable_line_is_refused(line: str, tmp_path: Path) -> None:
    """Before anything is asked: what asks an endpoint cannot be made without its budget."""
    (tmp_path / LEDGER).write_text(f"{line}\n{line_with()}\n")
    with pytest.raises(JudgeError, match=rf"{LEDGER}: this line is none of a request and its cost: .*mend the line"):
        endpoint_asker(settings("http://h/v1"), ENVIRON, tmp_path)


def test_a_batch_reserves_before_it_is_sent(judge: Judge, tmp_path: Path) -> None:
    batch = asker(judge, batch=True, max_total_tokens=200_000)
    assert Budget(batch.settings, judge.data).reserve(Spend(198_000, 0, 0.0))
    with pytest.raises(SpendLimitReached):
        judged(generations(TEXTS), batch, tmp_path)
    assert judge.batches == {}


def test_each_section_has_a_limit_of_its_own(tmp_path: Path) -> None:
    with judge_server(usage=USAGE) as judge:
        judged(generations(TEXTS[:3]), asker(judge), tmp_path)
        writer = Budget(PromptWriter(base_url=judge.base_url, model="writer", max_total_tokens=500), judge.data)
        assert writer.reserve(Spend(500, 0, 0.0))
        assert {line["section"] for line in lines(judge)} == {"judge", "methods.prompt_writer"}
        assert Budget(settings(judge.base_url), judge.data).total.tokens == 9 * 900


def test_what_was_spent_keeps_its_price(tmp_path: Path) -> None:
    with judge_server(usage=USAGE) as judge:
        judged(generations(TEXTS[:1]), asker(judge, usd_per_million_output_tokens=1000.0), tmp_path)
        later = Budget(settings(judge.base_url, model="cheaper"), judge.data)
        assert later.total.usd == pytest.approx(3 * 200 * 1000 / 1e6)


def test_a_file_system_without_locks_is_refused(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(JudgeError, match="cannot be locked .*No locks available.*put data_dir on a file system"):
        judged(generations(TEXTS), asker(judge), tmp_path)
    assert judge.requests == []


def test_what_a_batch_cost_is_not_counted_twice(tmp_path: Path) -> None:
    """Two jobs that find the note of one batch both collect it."""
    budget, other = (Budget(settings("http://h/v1"), tmp_path) for _ in range(2))
    request = budget.reserve(Spend(900, 90, 0.5))
    for job in (budget, other):
        job.settle(request, Spend(100, 10, 0.25))
    assert Budget(settings("http://h/v1"), tmp_path).total == Spend(100, 10, 0.25)


def test_a_refused_request_costs_nothing(judge: Judge, tmp_path: Path) -> None:
    judge.faults.append(Fault(status=400))
    with pytest.raises(JudgeError, match="status 400"):
        judged(generations(TEXTS), asker(judge, concurrency=1, **ONE_REQUEST), tmp_path)
    judge.base_url = "http://127.0.0.1:9/v1"  # where nothing listens
    gone = asker(judge, concurrency=1, **ONE_REQUEST)
    with pytest.raises(JudgeError, match="no connection"):
        judged(generations(TEXTS), gone, tmp_path)
    assert gone.budget.total == gone.budget.open == Spend()


NEVER_CHARGED = {
    "an error": '{"error": {"message": "overloaded"}}',
    "an error in words": '{"error": "model not loaded"}',
    "an error with a status of its own": '{"error": {"code": 502, "message": "provider returned error"}}',
    "a page": "<!doctype html><title>Log in to the network</title>",
    "nothing": "  ",
    "an event stream of an error": 'data: {"error": {"message": "overloaded"}}\n\ndata: [DONE]\n\n',
    "an event stream of nothing": ": waiting\n\ndata: [DONE]\n\n",
    "empty choices": '{"id": "x", "choices": [], "model": "m"}',
    "choices null": '{"choices": null, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}',
    "another API": '{"detail": "Not Found"}',
}


@pytest.mark.parametrize("body", NEVER_CHARGED.values(), ids=NEVER_CHARGED.keys())
def test_what_cannot_have_been_charged_is_not_booked_and_given_up(judge: Judge, body: str, tmp_path: Path) -> None:
    judge.faults.extend([Fault(status=200, body=body)] * 99)
    one = replace(asker(judge, concurrency=1, **ONE_REQUEST), max_retries=MAX_RETRIES if "502" not in body else 2)
    with pytest.raises(JudgeError) as ended:
        judged(generations(TEXTS), one, tmp_path)
    assert len(judge.requests) == 3
    assert not isinstance(ended.value, SpendLimitReached)
    assert (repr(body[:60])[:-1] if body.strip() else "no text") in str(ended.value)
    assert one.budget.total == one.budget.spent == Spend()


@pytest.mark.parametrize("body", ['{"choices": [{"message": {"content": "Rat', '{"choices": [{"message": null}], "usage": "many"}'])
def test_what_may_have_been_charged_counts_at_its_worst_three_times(judge: Judge, body: str, tmp_path: Path) -> None:
    judge.faults.extend([Fault(status=200, body=body)] * 99)
    one = replace(asker(judge, concurrency=1), max_retries=MAX_RETRIES)
    with pytest.raises(JudgeError, match=r"3 answers in a row cannot be read, the last: '{\"choices"):
        judged(generations(TEXTS), one, tmp_path)
    assert len(judge.requests) == 3
    assert one.budget.total.output_tokens == 3 * 200
    with pytest.raises(SpendLimitReached, match=r"in place of an answer.*\{\"choices"):  # the limit does not hide why
        judged(generations(TEXTS), asker(judge, concurrency=1, max_total_tokens=one.budget.total.tokens + 1500), tmp_path)


@pytest.mark.parametrize(
    "usage",
    [None, "many", ["many"], 5]
    + [{"prompt_tokens": prompt, "completion_tokens": completion} for prompt, completion in ((0, 0), ("many", None), (-1, True))],
)
def test_usage_that_says_nothing_is_no_free_answer(usage: Any, tmp_path: Path) -> None:
    with judge_server(usage=usage) as judge:
        with pytest.raises(SpendLimitReached):
            judged(generations(TEXTS), asker(judge, usd_per_million_input_tokens=20.0, max_usd=0.25), tmp_path)
        estimated = sum(len(prompt) / 4 for prompt in judge.answered)
        assert 0.15 < Budget(settings(judge.base_url), judge.data).total.usd == pytest.approx(estimated * 20 / 1e6, rel=0.01)
    assert stored(tmp_path)["prompt_tokens"].null_count() == len(judge.answered)


def test_a_batch_of_an_earlier_run_is_not_free(tmp_path: Path) -> None:
    """Its answers are about other texts than those of this run, and say nothing readable of what they cost."""
    with judge_server(usage="many", batch_polls=10**9) as judge:
        run = judging_process(TEXTS[:3], judge, tmp_path, batch=True)
        while run.poll() is None and not judge.polls:
            time.sleep(0.01)
        run.kill()
        run.wait(10)
        judge.batch_polls = 0
        judged(generations(TEXTS[:1]), asker(judge, batch=True), tmp_path)
        estimated = sum(len(prompt) / 4 for prompt in judge.answered)
        assert Budget(settings(judge.base_url), judge.data).total.input_tokens >= estimated - 9


def test_malformed_answers_of_a_batch_count_at_their_worst(judge: Judge, tmp_path: Path) -> None:
    judge.refuses = lambda body: Fault(200, body='{"choices": [{"message": null}], "usage": ["?"]}')
    one = asker(judge, batch=True)
    with pytest.raises(JudgeError, match="gave no answer to 9 of 9 questions"):
        judged(generations(TEXTS[:3]), one, tmp_path)
    assert one.budget.total.output_tokens == 9 * 200

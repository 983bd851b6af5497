"""The ledger of what judges cost: no wave, job, retry or kill takes an experiment over its limit."""

import errno
import fcntl
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from judge_server import Fault, Judge, judge_server
from judge_texts import asker, generations, judged, judging_process, settings, stored

from saesteer.judge.answers import JudgeError
from saesteer.judge.budget import LEDGER, Budget, SpendLimitReached
from saesteer.judge.spend import Spend
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
    for n_bytes in range(len(last)):
        path.write_bytes(b"".join(before) + last[:n_bytes])
        later = Budget(one, tmp_path)
        assert (later.total, later.open) == (Spend(800, 80, 0.875), Spend(700, 70, 0.75))
        later.settle(second, Spend(200, 20, 0.25))
        assert later.total == Spend(300, 30, 0.375)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["nonsense", '{"request": "a", "section": "judge"}', "[]", "\0\0\0"])
def test_an_unreadable_line_is_refused(line: str, tmp_path: Path) -> None:
    with judge_server() as judge:
        judged(generations(TEXTS[:1]), asker(judge), tmp_path)
        n_requests, ledger = len(judge.requests), judge.data / LEDGER
        ledger.write_text(f"{line}\n{ledger.read_text()}")
        with pytest.raises(JudgeError, match=rf"{LEDGER}: this line is none of a request and its cost: .*mend the line"):
            judged(generations(TEXTS), asker(judge), tmp_path)
        assert len(judge.requests) == n_requests


def test_a_batch_reserves_before_it_is_sent(tmp_path: Path) -> None:
    with judge_server() as judge:
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


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with judge_server() as judge:
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


def test_a_refused_request_costs_nothing(tmp_path: Path) -> None:
    with judge_server() as judge:
        judge.faults.append(Fault(status=400))
        with pytest.raises(JudgeError, match="status 400"):
            judged(generations(TEXTS), asker(judge, concurrency=1, **ONE_REQUEST), tmp_path)
        judge.base_url = "http://127.0.0.1:9/v1"  # where nothing listens
        gone = asker(judge, concurrency=1, **ONE_REQUEST)
        with pytest.raises(JudgeError, match="no connection"):
            judged(generations(TEXTS), gone, tmp_path)
    assert gone.budget.total == gone.budget.open == Spend()

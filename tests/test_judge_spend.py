"""What a judge costs: the estimate, the count, and the limits that no run passes."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from judge_server import Fault, Judge, judge_server
from judge_texts import asker, generations, judged, settings, stored
from workflow_folder import ROOT

from saesteer.judge.answers import Ask, JudgeError
from saesteer.judge.naming import estimate_labels
from saesteer.judge.rubric import questions
from saesteer.judge.spend import Budget, Spend, SpendLimitReached, estimate, estimate_texts, most, priced
from saesteer.run import open_run
from saesteer.settings import ExplanationSettings, Workflow
from saesteer.steps.judges import judge_of

TEXTS = [f"The waves rose {number} times." for number in range(10)]
PRICES = {"usd_per_million_input_tokens": 2.0, "usd_per_million_output_tokens": 10.0}


def paid(judge: Judge) -> int:
    """Tokens that the endpoint counts for what it answered in full."""
    return sum(len(prompt) // 4 + 12 for prompt in judge.answered)


def asks_about(text: str, concept: str = "storms at sea") -> list[Ask]:
    return [Ask(question, 0) for question in questions(text, concept, None).values()]


def test_prices_by_hand():
    assert priced(settings("http://h/v1", **PRICES), 1_000_000, 100_000) == Spend(1_000_000, 100_000, 3.0)


def test_the_estimate_is_near_and_the_most_is_above(judge: Judge, tmp_path: Path):
    one = asker(judge, **PRICES)
    asks = [ask for text in TEXTS for ask in asks_about(text)]
    before = estimate(asks, one.settings)
    judged(generations(TEXTS), one, tmp_path)
    spent = one.budget.spent
    assert spent.tokens == paid(judge)
    per_question = spent.input_tokens / len(judge.answered)
    assert before.typical.input_tokens / before.requests == pytest.approx(per_question, rel=0.1)
    assert before.most.usd > before.typical.usd > 0
    assert before.most.output_tokens == 200 * len(asks)


def test_the_estimate_without_texts_counts_every_text():
    judge = settings("http://h/v1", **PRICES)
    plain, answering = estimate_texts(1000, 80, False, judge), estimate_texts(1000, 80, True, judge)
    assert (plain.requests, answering.requests) == (2000, 3000)
    assert plain.typical.usd == pytest.approx(1000 * estimate(asks_about("y" * 80, "x" * 80), judge).typical.usd, rel=0.01)


@pytest.mark.parametrize(("evidence", "characters"), [("examples", 15 * 196), ("lens", 20 * 9), ("both", 15 * 196 + 20 * 9)])
def test_the_estimate_of_labels_counts_a_name_and_twenty_texts_of_each_feature(evidence: str, characters: int):
    """The longest excerpts, of 49 tokens, and 20 lens tokens, each on a line."""
    section, judge = ExplanationSettings.model_validate({"evidence": evidence}), settings("http://h/v1", **PRICES)
    cost = estimate_labels(100, 20, section, judge)
    assert cost.requests == 100 * 21
    of_one_token = estimate_labels(100, 1, ExplanationSettings(evidence="lens"), judge).typical.input_tokens
    more = cost.typical.input_tokens - of_one_token - 100 * (characters - 9) / 4
    assert 0 <= more <= 100 * 120  # the words that explain a part
    assert cost.typical.output_tokens == 100 * 21 * 60


LLAMA_3 = 10
"""Its template's tokens around one message: begin of text, (start of header, user, end of header, newlines), end of turn, and the header of
the answer again."""


@given(st.text(min_size=1), st.text(min_size=1))
@hypothesis_settings(max_examples=30)
def test_the_most_is_no_less_than_a_token_a_byte(text: str, concept: str):
    judge = settings("http://h/v1", max_tokens=7)
    for ask in asks_about(text, concept):
        worst = most(judge, ask.messages)
        assert worst.input_tokens >= len(ask.question.prompt.encode()) + LLAMA_3
        assert worst.output_tokens == 7


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("limit", [{"max_total_tokens": 8_000}, {"max_usd": 0.02}])
def test_a_limit_is_kept_and_no_money_under_it_is_left_unused(limit: dict[str, float], concurrency: int, tmp_path: Path):
    rows = generations(TEXTS)
    with judge_server(delay=0.005) as judge:
        one = asker(judge, concurrency=concurrency, **PRICES, **limit)
        with pytest.raises(SpendLimitReached, match=r"have spent 0\.0\d+ USD .*judge\.max_.*questions are left.*Raise that key") as reached:
            judged(rows, one, tmp_path)
        assert f"judge.{next(iter(limit))} = {next(iter(limit.values()))}" in str(reached.value)
        assert int(re.search(r"At least (\d+) questions", str(reached.value))[1]) == 30 - len(judge.answered)
        assert stored(tmp_path).height == len(judge.answered) == len(judge.requests) > 0
        assert one.budget.spent.tokens == paid(judge)
        worst = max((most(one.settings, ask.messages) for ask in asks_about(TEXTS[0])), key=lambda spend: spend.tokens)
        if "max_usd" in limit:
            assert limit["max_usd"] - worst.usd * 1.1 < one.budget.spent.usd <= limit["max_usd"]
        else:
            assert limit["max_total_tokens"] - worst.tokens * 1.1 < one.budget.spent.tokens <= limit["max_total_tokens"]
        with pytest.raises(SpendLimitReached):
            judged(rows, asker(judge, concurrency=concurrency, **PRICES, **limit), tmp_path)
        assert len(judge.answered) == stored(tmp_path).height
        # Raised, it goes on from there, and nothing is asked twice.
        judged(rows, asker(judge, concurrency=concurrency, **PRICES), tmp_path)
        assert sorted(judge.answered) == sorted(set(judge.answered))
        assert len(judge.answered) == 30


def test_a_limit_below_one_question_asks_nothing_and_is_said_at_the_start(judge: Judge, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with pytest.raises(SpendLimitReached, match="judge.max_total_tokens = 100"):
        judged(generations(TEXTS), asker(judge, max_total_tokens=100), tmp_path)
    assert judge.requests == []
    assert "the estimate is above the limit" in caplog.text


def test_what_is_stored_costs_nothing_of_the_limit(judge: Judge, tmp_path: Path):
    first = judged(generations(TEXTS), asker(judge), tmp_path)
    n_requests = len(judge.requests)
    again = judged(generations(TEXTS), asker(judge, max_total_tokens=1), tmp_path)
    assert len(judge.requests) == n_requests
    assert again.equals(first)


def test_tries_that_may_have_been_charged_count(tmp_path: Path):
    """A connection cut in the answer: the endpoint may have charged for it, so the limit counts it at its worst."""
    with judge_server() as judge:
        judge.faults.extend([Fault(cut=30)] * 3 + [None] * 50)
        one = asker(judge, concurrency=1, **PRICES)
        judged(generations(TEXTS[:2]), one, tmp_path)
        costs = [most(one.settings, ask.messages) for ask in asks_about(TEXTS[0])]
        lost = costs[0]
        assert one.budget.spent.tokens > paid(judge) - 3 * 600 + 2 * min(cost.tokens for cost in costs)
        assert one.budget.open == Spend() + lost + lost + lost
    with judge_server() as judge:
        judge.faults.extend([Fault(cut=30)] * 100)
        two = asker(judge, concurrency=1, max_total_tokens=5000)
        with pytest.raises(JudgeError, match="max_total_tokens = 5000"):
            judged(generations(TEXTS[:2]), two, tmp_path / "cut")
        assert len(judge.requests) <= 3
    for status in (429, 504):
        with judge_server() as judge:
            judge.faults.extend([Fault(status=status)] * 3)
            three = asker(judge, concurrency=1)
            judged(generations(TEXTS[:2]), three, tmp_path / str(status))
            # A refusal is not charged; what stands behind a gateway may have answered.
            assert (three.budget.spent.tokens == paid(judge)) == (status == 429)


@given(st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 300)), max_size=15))
@hypothesis_settings(max_examples=20)
def test_a_budget_ends_where_it_began(costs: list[tuple[int, int]]):
    """However many requests come and go, exactly the limit's amount is allowed."""
    judge = settings("http://h/v1", max_usd=1.0, **PRICES)
    with TemporaryDirectory() as data:
        budget = Budget(judge, Path(data))
        for request in [budget.reserve(priced(judge, *tokens)) for tokens in costs]:
            assert request
            budget.settle(request, Spend())
        assert budget.fits(priced(judge, 500_000, 0))
        assert Budget(judge, Path(data)).fits(priced(judge, 500_000, 0))
    assert not budget.fits(priced(judge, 500_000, 1))


def test_recommendations_share_the_limit_of_their_experiment(tmp_path: Path):
    """Otherwise each concept asked for could cost as much as the experiment may."""
    folders = {name: tmp_path / name for name in ("config", "data/derived")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    endpoint = "judge: {kind: endpoint, base_url: 'http://h/v1', model: m, key_variable: null, max_total_tokens: 1000}"
    (folders["config"] / "judged.yaml").write_text(f"extends: micro\ndescription: Its judge.\n{endpoint}\n")
    sources = {"judged-recommend-sea": "judged", "judged-recommend-sea-recommend-sea": "judged-recommend-sea"}
    for name, source in sources.items():
        (folders["data/derived"] / f"{name}.yaml").write_text(f"extends: {source}\n")
    places = (folders["config"], ROOT / "config/experiments")
    workflow = Workflow(experiments=("judged",), experiments_dirs=places, data_dir=tmp_path / "data")
    for name, fits in (("judged-recommend-sea", True), ("judged-recommend-sea-recommend-sea", False), ("judged", False)):
        run = open_run(name, workflow)
        asking = judge_of(run.experiment).asker(run)
        assert (asking.budget.reserve(Spend(600, 0, 0.0)) is not None) == fits
    assert [path.parent.name for path in (tmp_path / "data").rglob("spent.jsonl")] == ["judged"]

"""Steering prompts that a language model writes: what it is asked, once a concept and insistence, and what becomes of its answers."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_server import Judge, judge_server
from judge_texts import ENVIRON, QUICK, stored

from saesteer.core.files import text_id
from saesteer.judge.answers import JudgeError
from saesteer.judge.batch import endpoint_asker
from saesteer.judge.endpoint import check_key
from saesteer.judge.prompt_writing import INSISTENCE, prompts_fingerprint, request, written_prompts
from saesteer.judge.spend import SpendLimitReached
from saesteer.settings import Comparison, PromptWriter, Workflow, load_experiment
from saesteer.steps.step import steps_of
from saesteer.workflow import preflight

ROOT = Path(__file__).parents[1]
CONCEPTS = {text_id(concept): concept for concept in ("storms at sea", "rating: [theme] of chess games")}


def writer(base_url: str, **changes: Any) -> PromptWriter:
    return PromptWriter(**{"base_url": base_url, "model": "writer-1", "key_variable": "TEST_JUDGE_KEY", "timeout_seconds": 5.0} | changes)


def written(judge: Judge, folder: Path, concepts: dict[str, str] = CONCEPTS, **changes: Any) -> Any:
    return written_prompts(concepts, endpoint_asker(writer(judge.base_url, **changes), ENVIRON, judge.data, QUICK), folder, 60.0)


def test_one_prompt_a_concept_and_insistence_is_written_once_and_kept(tmp_path: Path) -> None:
    with judge_server(answer=lambda prompt: f"  Because.\n{label(prompt)}: Answer {len(prompt)}.\n") as judge:
        table = written(judge, tmp_path)
        assert len(judge.answered) == len(set(judge.answered)) == 2 * 3
        assert {(body["model"], body["temperature"], body["max_tokens"]) for body in judge.requests} == {("writer-1", 0, 200)}
        assert written(judge, tmp_path).equals(table)
        more = written(judge, tmp_path, CONCEPTS | {text_id("law"): "law"})
        assert len(judge.answered) == 3 * 3  # those of the third concept only
        assert more.head(6).equals(table)
        written(judge, tmp_path, model="writer-2")
        assert len(judge.answered) == 3 * 3 + 2 * 3  # another model's are its own
    assert table.select("concept_id", "number").rows() == [(concept, number) for concept in CONCEPTS for number in (1, 2, 3)]
    expected = [f"Answer {len(request(concept, insistence).prompt)}." for concept in CONCEPTS.values() for insistence in INSISTENCE]
    assert table["prompt"].to_list() == expected
    assert set(table["model"]) == {"judge-2025"}
    assert table["reason"].null_count() == 6
    assert stored(tmp_path).height == 3 * 3 + 2 * 3


def test_a_request_names_the_concept_where_nothing_in_it_can_end_it() -> None:
    (code,) = {line.split()[1] for line in request("the [theme] ends", INSISTENCE[0]).prompt.splitlines() if line.startswith("[theme ")}
    assert f"[theme {code} starts]\nthe [theme] ends\n[theme {code} ends]" in request("the [theme] ends", INSISTENCE[0]).prompt
    assert len({request("law", insistence).request_id for insistence in INSISTENCE}) == 3


def label(prompt: str) -> str:
    """What the last line has to start with, as the prompt says."""
    return re.findall(r"^(Instruction(?: [0-9a-f]+)?): INSTRUCTION$", prompt, re.MULTILINE)[-1]


@pytest.mark.parametrize(
    ("answer", "instruction"),
    [
        ("<think> The user wants ... </think> {label}: Mention the sea in every answer.", "Mention the sea in every answer."),
        ("The user wants ...\nInstruction: no\n</think>\n\n{label}: Mention the sea.", "Mention the sea."),
        ("Here is an instruction:\n\n{label}: “Mention the sea, or ‘the deep’.”", "Mention the sea, or ‘the deep’."),
        ("**{label}:** Mention the sea. Say “sea”\n```", "Mention the sea. Say “sea”"),
        ("{label}: Mention\u202e the\x1b sea [often]", "Mention the sea [often]"),
    ],
)
def test_an_instruction_is_what_stands_behind_its_label(answer: str, instruction: str, tmp_path: Path) -> None:
    with judge_server(answer=lambda prompt: answer.format(label=label(prompt))) as judge:
        assert set(written(judge, tmp_path)["prompt"]) == {instruction}
        assert len(judge.answered) == 6


@pytest.mark.parametrize(
    ("answer", "finish", "reason"),
    [
        (" \n", "stop", "methods.prompt_writer: the answer is empty"),
        ("<think> The user wants ... </think> Mention the sea in every answer.", "stop", "the last line is not `Instruction"),
        ("<think> The user wants ...\nInstruction: Mention the sea.", "stop", "nothing but thoughts"),
        ("Instruction: Mention the sea in", "max_tokens", "cut off: raise max_tokens"),
        ("I'm sorry, but I can't help with that.", "stop", "the last line is not `Instruction"),
        ("{label}: I’m sorry, but I can’t write this.", "stop", "refused"),
        ("{label}: I cannot do this.", "stop", "refused"),
        ('Here is an instruction for the assistant:\n\n"Mention the sea in every answer."', "stop", "the last line is not `Instruction"),
        ("{label}:", "stop", "no instruction"),
    ],
)
def test_what_is_no_instruction_is_asked_for_twice_more_then_missing(answer: str, finish: str, reason: str, tmp_path: Path) -> None:
    with judge_server(answer=lambda prompt: answer.format(label=label(prompt)), finish_reason=finish) as judge:
        table = written(judge, tmp_path)
    assert table["prompt"].null_count() == 6
    assert table["reason"].str.contains(reason, literal=True).all(), table["reason"][0]
    assert len(judge.answered) == 3 * 6


def test_errors_name_the_writers_keys(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"methods\.prompt_writer\.key_variable \(null"):
        check_key(writer("http://localhost:1/v1"), {})
    with judge_server() as judge, pytest.raises(SpendLimitReached, match=r"methods\.prompt_writer\.max_total_tokens = 10"):
        written(judge, tmp_path, max_total_tokens=10)


def test_the_check_says_what_they_will_cost() -> None:
    experiment = chat_experiment(prompt_writer=writer("http://a/v1", usd_per_million_output_tokens=1000.0).model_dump())
    subject = preflight._Subject("own", experiment, Workflow(experiments=("own",)), ENVIRON, {})
    assert preflight._prompts(subject).startswith("writer-1: 30 requests, about 1.8000 USD")  # of 60 tokens each
    with pytest.raises(JudgeError, match="needs a key"):
        preflight._prompts(replace(subject, environ={}))


def chat_experiment(**changes: Any) -> Comparison:
    experiment = load_experiment("gemma-2-2b-it-methods", ROOT / "config/experiments").model_dump(mode="json")
    experiment["methods"] |= changes
    return Comparison.model_validate(experiment)


def test_prompts_belong_to_what_fits_depend_on_but_not_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    given = (None, writer("http://a/v1").model_dump())
    plain, one = (steps_of(chat_experiment(prompt_writer=each))["fits"].settings for each in given)
    assert one == plain | {"prompt_writer": prompts_fingerprint(writer("http://a/v1"))}
    assert prompts_fingerprint(writer("http://b/v1", concurrency=3, max_usd=1.0)) == one["prompt_writer"]
    for changes in ({"model": "b"}, {"seed": 1}, {"max_tokens": 90}):
        assert prompts_fingerprint(writer("http://a/v1", **changes)) != one["prompt_writer"]


def test_a_writer_without_use_is_refused() -> None:
    given = writer("http://a/v1").model_dump()
    with pytest.raises(ValueError, match="method prompting, which is not among methods"):
        chat_experiment(prompt_writer=given, methods=["unsteered", "diffmean"])
    base = load_experiment("tiny-methods", ROOT / "config/experiments").model_dump(mode="json")
    base["methods"]["prompt_writer"] = given
    with pytest.raises(ValueError, match="prompt_format plain does not follow"):
        Comparison.model_validate(base)

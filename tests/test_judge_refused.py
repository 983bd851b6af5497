"""Questions that an endpoint refuses, in the true forms of servers: one such question is an unreadable answer, a refusal of all an error.
And parameters that a model does not take."""

import gc
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Fault, Judge, agreeable, judge_server
from judge_texts import KEY, asker, generations, judged, stored

from saesteer.analysis.label_evidence import Evidence
from saesteer.judge.answers import AnswerBook, JudgeError
from saesteer.judge.batch import endpoint_asker
from saesteer.judge.naming import LanguageModelNamer, naming_fingerprint
from saesteer.judge.prompt_writing import written_prompts
from saesteer.settings import PromptWriter


def openai_error(message: str, status: int = 400, **more: Any) -> Fault:
    return Fault(
        status, body=json.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None} | more})
    )


def plain_error(message: str, status: int = 400, **more: Any) -> Fault:
    return Fault(status, body=json.dumps({"object": "error", "message": message, "type": "BadRequestError", "param": None} | more))


AZURE = openai_error(
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt.",
    type=None,
    param="prompt",
    code="content_filter",
    status=400,
    innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"violence": {"filtered": True, "severity": "high"}}},
)
FLAGGED = {
    "code": 403,
    "message": 'x-ai/grok requires moderation on Provider. Your input was flagged for "violence".',
    "metadata": {"reasons": ["violence"], "flagged_input": "The waves...", "provider_name": "Provider"},
}
REFUSALS = {
    "OpenAI, flagged": openai_error(
        "Invalid prompt: your prompt was flagged as potentially violating our usage policy.", code="invalid_prompt"
    ),
    "OpenAI, policy": openai_error("Your request was rejected by the safety system.", code="content_policy_violation"),
    "OpenAI, too long": openai_error("Your input exceeds the context window of this model.", code="context_length_exceeded"),
    "Azure": AZURE,
    "vLLM": plain_error("This model's maximum context length is 512 tokens. However, you requested 900 tokens.", code=400),
    "vLLM, newer": openai_error("This model's maximum context length is 512 tokens. Please reduce it.", type="BadRequestError", code=400),
    "llama.cpp": openai_error(
        "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it",
        type="exceed_context_size_error",
        code=400,
        n_prompt_tokens=4390,
        n_ctx=4096,
    ),
    "llama.cpp, older": openai_error("Context size has been exceeded.", 500, type="server_error", code=500),
    "Mistral": plain_error("Prompt contains 40000 tokens, too large for model with 32768 maximum context length", code="3051"),
    "Anthropic": openai_error("prompt is too long: 200113 tokens > 200000 maximum", code="invalid_request_error"),
    "Gemini": Fault(400, body=json.dumps([{"error": {"code": 400, "message": "The input token count exceeds the context window."}}])),
    "OpenRouter": Fault(403, body=json.dumps({"error": FLAGGED})),
    "OpenRouter, 200": Fault(200, body=json.dumps({"error": FLAGGED, "user_id": "u"})),
    "DeepSeek": openai_error("Content Exists Risk", code="invalid_request_error"),
    "DashScope": openai_error("Input text data may contain inappropriate content.", code="data_inspection_failed"),
    "a proxy's ceiling": Fault(413, body="<html><h1>413 Request Entity Too Large</h1></html>"),
    "FastAPI": Fault(422, body='{"detail": "The text was stopped by our moderation."}'),
    "words of its own": openai_error("We would rather not."),
}


def refusing(text: str, fault: Fault) -> Callable[[dict[str, Any]], Fault | None]:
    """Refuses what is asked about a text, whichever the question."""
    return lambda body: fault if text in body["messages"][0]["content"] else None


@pytest.mark.parametrize(
    ("fault", "batch"),
    [
        *(pytest.param(fault, False, id=name) for name, fault in REFUSALS.items()),
        *(
            pytest.param(fault, True, id=f"{name}, batch", marks=() if name in ("Azure", "Gemini") else pytest.mark.exhaustive)
            for name, fault in REFUSALS.items()
            if str(fault.body).startswith(("{", "["))  # as a batch's lines hold JSON
        ),
    ],
)
def test_one_refused_text_is_an_unreadable_answer(fault: Fault, batch: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["The waves rose.", "A pawn moved", "Blood everywhere"]
    with judge_server(refuses=refusing("Blood", fault)) as judge:
        table = judged(generations(texts), asker(judge, batch=batch, concurrency=2), tmp_path)
        n_asked, n_batches = len(judge.requests), len(judge.batches)
        assert judged(generations(texts), asker(judge, batch=batch, concurrency=2), tmp_path).equals(table)
        assert (len(judge.requests), len(judge.batches)) == (n_asked, n_batches)  # what was refused is not asked again
    is_refused = table["sample"] == 2
    assert set(table.filter(is_refused)["reason"]) == {"unreadable answer"}
    assert table.filter(is_refused)["fluency_rating"].null_count() == 2
    assert table.filter(~is_refused)["reason"].null_count() == 4
    kept = stored(tmp_path).filter(finish_reason="request_refused")
    assert kept.height == 3
    assert len(kept["raw"][0]) > 10  # the endpoint's own words
    assert "judge: 3 questions have no readable answer; of the first, the endpoint refused the question: " in caplog.text


def test_many_refused_texts_in_a_row_stop_nothing(tmp_path: Path) -> None:
    """As where all texts of one concept are filtered. The endpoint may charge for reading them, and never for an answer."""
    texts = ["The waves rose.", *(f"Blood {number}" for number in range(8)), "A pawn moved"]
    with judge_server(refuses=refusing("Blood", AZURE)) as judge:
        one = asker(judge, concurrency=1)
        table = judged(generations(texts), one, tmp_path)
        assert table["reason"].null_count() == 4
        assert one.budget.spent.output_tokens == 12 * len(judge.answered)
        assert one.budget.open.tokens == 0
        judged(generations([*texts, "Blood 9"]), asker(judge, concurrency=1), tmp_path)  # nothing else is left, and the book has answers
    assert stored(tmp_path).filter(finish_reason="request_refused").height == 9 * 3


@pytest.mark.parametrize("fault", [AZURE, REFUSALS["words of its own"]])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_refusal_of_the_first_questions_alike_is_an_error(fault: Fault, concurrency: int, tmp_path: Path) -> None:
    with judge_server(refuses=refusing("", fault)) as judge:
        for _ in range(2):
            with pytest.raises(JudgeError, match=r"status 400: .*(first 3 questions alike|does not take such requests)"):
                judged(generations(["One.", "Two.", "Three."]), asker(judge, concurrency=concurrency), tmp_path)
        assert stored(tmp_path).is_empty()
        assert len(judge.requests) <= 2 * (concurrency + 2)  # those under way, and one for each of two refusals before the third
        judge.refuses = lambda body: None
        assert judged(generations(["One."]), asker(judge), tmp_path)["reason"].null_count() == 2


@pytest.mark.parametrize("message", ["Your credit balance is too low to access the API.", "billing hard limit has been reached"])
def test_an_account_that_runs_dry_loses_no_question(judge: Judge, message: str, tmp_path: Path) -> None:
    """Some endpoints say so with status 400, in the middle of a run."""
    judge.faults.extend([None] * 7 + [openai_error(message)] * 99)
    with pytest.raises(JudgeError, match=f"status 400: .*{message}"):
        judged(generations(["One.", "Two.", "Three."]), asker(judge, concurrency=1), tmp_path)
    judge.faults.clear()
    assert judged(generations(["One.", "Two.", "Three."]), asker(judge), tmp_path)["reason"].null_count() == 6


def test_a_refused_name_or_text_is_missing(tmp_path: Path) -> None:
    """As `saesteer explain` asks: nothing but one feature's name, which is refused; and then texts, of which one is."""
    features = [Evidence(0, n, (f"«Blood» {n}",), (), (), ()) for n in range(2)]
    with judge_server(answer=lambda prompt: f"{'Name' if 'NAME' in prompt else 'Answer'}: yes", refuses=refusing("Blood", AZURE)) as judge:
        one = asker(judge)
        with AnswerBook(tmp_path, naming_fingerprint(one), 60.0) as book:
            namer = LanguageModelNamer(one, book)
            assert [label.reason for label in namer.names(features)] == ["unreadable answer"] * 2
            assert namer.is_active([("storms", "The waves rose."), ("storms", "Blood everywhere")]) == [True, None]
        assert len(judge.requests) == 4


def test_a_refused_prompt_is_missing_with_its_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with judge_server(answer=lambda prompt: "Instruction: Mention it.", refuses=refusing("gore", AZURE)) as judge:
        writer = endpoint_asker(PromptWriter(base_url=judge.base_url, model="w", key_variable=None), {}, judge.data, 3)
        table = written_prompts({"a": "storms", "b": "gore"}, writer, tmp_path, 60.0)
    assert table["reason"].is_null().to_list() == [True] * 3 + [False] * 3
    assert table["reason"].drop_nulls().str.contains("refused").all()
    assert "the endpoint refused 3 questions, the first with: The response was filtered" in caplog.text


USAGE = {"prompt_tokens": 90, "completion_tokens": 12, "total_tokens": 102}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "Anthropic": ({}, {"logprobs": None}, {}),
    "Azure": ({"prompt_filter_results": [{"prompt_index": 0}]}, {"content_filter_results": {"hate": {"filtered": False}}}, {}),
    "Gemini": ({"usage": USAGE | {"total_tokens": 200}}, {}, {}),
    "llama.cpp": ({"timings": {"prompt_n": 90, "predicted_ms": 1.5}}, {}, {}),
    "Ollama": ({"system_fingerprint": "fp_ollama"}, {}, {}),
    "OpenAI": (
        {"object": "chat.completion", "usage": USAGE | {"prompt_tokens_details": {"cached_tokens": 0}}, "service_tier": "default"},
        {"logprobs": None},
        {"refusal": None, "annotations": []},
    ),
    "OpenRouter": ({"provider": "P", "usage": USAGE | {"cost": 0.0001}}, {"native_finish_reason": "STOP"}, {"reasoning": None}),
    "vLLM": (
        {"usage": USAGE | {"prompt_tokens_details": None}, "prompt_logprobs": None},
        {"stop_reason": None},
        {"reasoning_content": None, "tool_calls": []},
    ),
}
"""What a completion, its choice and its message hold besides what all have. Mistral's parts of a message: test_judge_endpoint.py."""


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_an_answer_in_the_form_of_each_server(form: tuple[dict[str, Any], dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    rows, (of_answer, of_choice, of_message) = generations(["The waves rose.", "A pawn moved"]), form
    with judge_server() as judge:
        plain = judged(rows, asker(judge), tmp_path / "plain")

    def answered(body: dict[str, Any]) -> Fault:
        message = {"role": "assistant", "content": agreeable(body["messages"][0]["content"])} | of_message
        choice = {"index": 0, "finish_reason": "stop", "message": message} | of_choice
        return Fault(200, body=json.dumps({"id": "x", "created": 1, "model": "m", "choices": [choice], "usage": USAGE} | of_answer))

    with judge_server(refuses=answered) as judge:
        one = asker(judge)
        assert judged(rows, one, tmp_path / "form").equals(plain)
        assert one.budget.total.tokens == len(judge.requests) * 102


def needs(param: str, message: str, code: str) -> Fault:
    return openai_error(message, param=param, code=code)


def reasoning_model(body: dict[str, Any]) -> Fault | None:
    """What OpenAI's o-series and gpt-5 say."""
    if "max_tokens" in body:
        message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return needs("max_tokens", message, "unsupported_parameter")
    if "temperature" in body:
        message = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
        return needs("temperature", message, "unsupported_value")
    return None


def deprecated_temperature(body: dict[str, Any]) -> Fault | None:
    """What an address says in OpenAI's form, of another company's models."""
    return plain_error("`temperature` is deprecated for this model.", 422) if "temperature" in body else None


@pytest.mark.parametrize("batch", [False, True], ids=["one by one", "batch"])
@pytest.mark.parametrize(
    ("refuses", "sent"),
    [
        (reasoning_model, {"max_completion_tokens": 200}),
        (deprecated_temperature, {"max_tokens": 200}),
    ],
)
def test_what_a_model_does_not_take_is_left_out(
    refuses: Callable[[dict[str, Any]], Fault | None], sent: dict[str, int], batch: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with judge_server(refuses=refuses) as judge:
        one = asker(judge, batch=batch, concurrency=1)
        assert judged(generations(["One.", "Two."]), one, tmp_path)["reason"].null_count() == 4
        last = [json.loads(line)["body"] for line in list(judge.files.values())[-2].splitlines()][-1] if batch else judge.requests[-1]
        assert {name: value for name, value in last.items() if name not in ("model", "messages")} == sent
        assert one.budget.spent.output_tokens == 12 * len(judge.answered)  # what was refused costs nothing
        n_asked, n_batches = len(judge.requests), len(judge.batches)
        assert judged(generations(["One.", "Two.", "Three."]), asker(judge, batch=batch), tmp_path)["reason"].null_count() == 6
        assert (len(judge.requests) - n_asked, len(judge.batches) - n_batches) == ((0, 1) if batch else (3, 0))  # remembered
    assert stored(tmp_path)["finish_reason"].unique().to_list() == ["stop"]
    (record,) = tmp_path.glob("*/request.json")
    assert json.loads(record.read_text()) == {"max_tokens_parameter": next(iter(sent)), "temperature": None}
    assert "takes no temperature" in caplog.text


def test_parameters_can_be_set(tmp_path: Path) -> None:
    with judge_server(refuses=reasoning_model) as judge:
        one = asker(judge, max_tokens_parameter="max_completion_tokens", temperature=None)
        judged(generations(["One."]), one, tmp_path)
        assert {frozenset(body) for body in judge.requests} == {frozenset(("model", "messages", "max_completion_tokens"))}
        assert len(judge.requests) == 3
    assert one.fingerprint["temperature"] is None
    assert one.settings.identity == {"model": "judge-1", "temperature": None}  # what rows depend on
    assert not list(tmp_path.glob("*/request.json"))
    plain = asker(judge)
    assert plain.fingerprint["temperature"] == 0
    assert plain.settings.identity == {"model": "judge-1"}


@pytest.mark.parametrize("text", ['{"max_tokens_parameter": "n", "temperature": null}', "[]", "nonsense"])
def test_a_record_of_other_parameters_is_refused(text: str, tmp_path: Path) -> None:
    """A colleague's, say: `n: 200` would ask for 200 answers at once."""
    with judge_server(refuses=deprecated_temperature) as judge:
        judged(generations(["One."]), asker(judge), tmp_path)
        (record,) = tmp_path.glob("*/request.json")
        record.write_text(text)
        n_asked = len(judge.requests)
        with pytest.raises(JudgeError, match=r"request\.json names no parameters that a request can have"):
            judged(generations(["Two."]), asker(judge), tmp_path)
        assert len(judge.requests) == n_asked


def test_a_parameter_that_is_never_taken_ends_the_run(tmp_path: Path) -> None:
    with judge_server(refuses=lambda body: needs("temperature", "temperature is not supported", "unsupported_parameter")) as judge:
        with pytest.raises(JudgeError, match="status 400: .*temperature is not supported"):
            judged(generations(["One."]), asker(judge, concurrency=1), tmp_path)
        assert len(judge.requests) <= 3


@pytest.mark.parametrize("status", [400, 401])
def test_every_tasks_error_is_read(status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """asyncio prints the traceback of each one that nobody has looked at."""
    with judge_server(delay=0.05) as judge:
        judge.faults.extend([Fault(status, wait=0.0)] * 99)
        with pytest.raises(JudgeError, match=f"status {status}"):
            judged(generations([f"Text {number}." for number in range(8)]), asker(judge, concurrency=8), tmp_path)
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_account_without_credit_is_named(judge: Judge, tmp_path: Path) -> None:
    judge.faults.append(openai_error("Insufficient credits", 402))
    with pytest.raises(JudgeError, match="status 402: .*Insufficient credits.* the account behind the key"):
        judged(generations(["One."]), asker(judge, concurrency=1), tmp_path)


@pytest.mark.parametrize("status", [301, 308])
def test_an_address_that_has_moved_is_named(judge: Judge, status: int, tmp_path: Path) -> None:
    judge.faults.append(Fault(status, body="", headers={"Location": f"{judge.base_url}/new/{KEY}/chat/completions"}))
    with pytest.raises(JudgeError, match=rf"status {status}: .*moved to '{judge.base_url}/new/\[key\]': write that in judge\.base_url"):
        judged(generations(["One."]), asker(judge, concurrency=1), tmp_path)
    assert len(judge.requests) == 1

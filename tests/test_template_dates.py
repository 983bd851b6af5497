"""Chat templates that write today's date: the date is the settings', whatever the day, wherever a template is rendered."""

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_models import tiny_model, tiny_tokenizer
from pydantic import ValidationError
from transformers.utils import chat_template_utils

from saesteer.core.files import text_id
from saesteer.engine.models import LanguageModel, language_model, prompt_token_ids
from saesteer.exchange.evaluation import harness_tokenizer
from saesteer.judge.answers import Ask
from saesteer.judge.local_model import local_asker
from saesteer.judge.rubric import Question
from saesteer.serve.model import Model
from saesteer.serve.requests import Message
from saesteer.settings import LocalModelJudge, load_experiment
from saesteer.settings.inputs import ChatSettings, ModelSettings
from saesteer.steps.step import steps_of

EXPERIMENTS = Path(__file__).parents[1] / "config/experiments"
TURNS = "{% for turn in messages %}[{{ turn.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
TEMPLATES = {
    "Llama 3.1": "{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}Today: {{ date_string }} " + TURNS,
    "Llama 3.2": (
        "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
        "Today: {{ date_string }} " + TURNS
    ),
    "Granite 3": "{{ \"Today's Date: \" + strftime_now('%B %d, %Y') + '.' }}" + TURNS,
    "gpt-oss": "{% macro today() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ today() }}" + TURNS,
    "the time of day": "{{ strftime_now('%A, %-d %B at %H:%M:%S, week %V') }}" + TURNS,
    "whitespace at the beginning": "\n  {% set day = strftime_now('%d.%m.%y') %}\n  {{ day }}\n" + TURNS,
}
DAYS = (datetime(2025, 1, 31, 9, 5), datetime(2031, 12, 25, 23, 59))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets the clock that transformers' templates read."""

    def set_to(now: datetime) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return now

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)

    return set_to


def chat_model(template: str, chat: ChatSettings | None = None) -> LanguageModel:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return language_model(tiny_model("llama").model, tokenizer, prompt_format="chat", chat=chat)


def written_everywhere(template: str, chat: dict[str, Any]) -> set[str]:
    """The conversation `ba` as it is steered, judged, served and evaluated with."""
    lm = chat_model(template, ChatSettings(**chat))
    judge = LocalModelJudge(kind="model", model={"path": "judge", "prompt_format": "chat", "chat": chat})
    asker = local_asker(chat_model(template), judge, "w")
    ids = [
        prompt_token_ids(lm, "ba"),
        asker._prompt(Ask(Question("fluency", text_id("ba"), "ba", "Rating"), 0)),
        Model._conversation_ids(SimpleNamespace(lm=lm), [Message(role="user", content="ba")]),
    ]
    evaluated = harness_tokenizer(lm).apply_chat_template([{"role": "user", "content": "ba"}], tokenize=False, add_generation_prompt=True)
    return {lm.tokenizer.decode(each) for each in [*ids, lm.tokenizer(evaluated, add_special_tokens=False)["input_ids"]]}


@pytest.mark.parametrize("chat", [{}, {"date": "2020-02-09"}], ids=["by default", "as set"])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_the_date_is_the_settings_on_every_day(template: str, chat: dict[str, Any], clock: Callable[[datetime], None]) -> None:
    """As transformers itself writes the template at the beginning of that day; Llama 3.1's is told it by `date_string`."""
    day = datetime.fromisoformat(chat.get("date", "2024-07-26"))
    clock(day)
    tokenizer = tiny_tokenizer()
    told = {} if "strftime_now" in template else {"date_string": day.strftime("%d %b %Y")}
    turns = [{"role": "user", "content": "ba"}]
    expected = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=True, **told)
    for now in DAYS:
        clock(now)
        assert written_everywhere(template, chat) == {tokenizer.decode(tokenizer(expected, add_special_tokens=False)["input_ids"])}


def test_a_template_without_a_date_is_the_models_own() -> None:
    lm = chat_model(TURNS)
    assert harness_tokenizer(lm).chat_template == TURNS
    assert lm.tokenizer.decode(prompt_token_ids(lm, "ba")) == "[ba]>"


def test_the_date_belongs_to_what_chat_texts_depend_on_and_to_nothing_else() -> None:
    plain = load_experiment("gemma-2-9b-it-concept500", EXPERIMENTS)
    plain = plain.model_copy(update={"model": ModelSettings(repo="a/b", prompt_format="plain")})
    chats = (None, ChatSettings(), ChatSettings(date=date(2020, 2, 9)))
    models = [ModelSettings(repo="a/b", prompt_format="chat", chat=chat) for chat in chats]
    of_plain, alone, default, other = (steps_of(plain.model_copy(update={"model": model})) for model in (plain.model, *models))
    assert "chat" not in of_plain["generations"].settings
    assert alone["generations"].settings["chat"]["date"] == "2024-07-26"
    assert alone["generations"].settings == default["generations"].settings != other["generations"].settings
    for step in ("logit_lens", "output_score", "input_score"):
        assert of_plain[step].settings == alone[step].settings == other[step].settings


def test_the_date_belongs_to_what_a_local_judges_answers_depend_on() -> None:
    def judge(**chat: Any) -> LocalModelJudge:
        return LocalModelJudge(kind="model", model={"path": "judge", "prompt_format": "chat", "chat": chat or None})

    experiment = load_experiment("gemma-2-9b-it-concept500", EXPERIMENTS)
    ours, default, other = judge(), judge(date="2024-07-26"), judge(date="2020-02-09")
    answers = [local_asker(chat_model(TURNS), each, "w").fingerprint for each in (ours, default, other)]
    assert answers[0] == answers[1] != answers[2]
    rows = [steps_of(experiment.model_copy(update={"judge": each}))["judge"].settings for each in (ours, default, other)]
    assert rows[0] == rows[1] != rows[2]
    assert rows[0]["chat"]["date"] == "2024-07-26"


def test_a_date_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="date"):
        ChatSettings(date="26 Jul 2024")

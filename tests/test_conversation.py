"""System prompt, earlier turns and thinking in a model's chat template, against texts written by hand."""

from pathlib import Path

import pytest
from engine_models import save_model, tiny_model
from pydantic import ValidationError
from test_prompts import TURNS, chat_tokenizer

from saesteer.engine.models import LanguageModel, language_model, load_language_model, prompt_token_ids
from saesteer.settings import load_experiment
from saesteer.settings.inputs import ChatSettings, ModelSettings
from saesteer.steps.step import steps_of

EXPERIMENTS = Path(__file__).parents[1] / "config/experiments"
THINKING = "{{ bos_token }}" + TURNS + "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}"
CHAT = ChatSettings(system="be bo", turns=(("di?", "da."),))


def chat_model(template: str, chat: ChatSettings) -> LanguageModel:
    return language_model(tiny_model("llama").model, chat_tokenizer(template), "tokenizer", "chat", chat)


def written(lm: LanguageModel, text: str) -> str:
    return lm.tokenizer.decode(prompt_token_ids(lm, text))


def test_a_prompt_comes_after_the_system_prompt_and_earlier_turns() -> None:
    expected = (
        "<bos><start_of_turn>system: be bo<end_of_turn>;<start_of_turn>user: di?<end_of_turn>;<start_of_turn>model: da.<end_of_turn>;"
        "<start_of_turn>user: ba<end_of_turn>;<start_of_turn>model:"
    )
    assert written(chat_model(THINKING, CHAT), "ba") == expected
    assert written(chat_model(THINKING, ChatSettings()), "ba") == "<bos>" + expected[expected.rindex("<start_of_turn>user") :]


def test_thinking_is_switched_off_and_on() -> None:
    off, on, own = (chat_model(THINKING, ChatSettings(enable_thinking=value)) for value in (False, True, None))
    assert written(off, "ba").endswith("<start_of_turn>model:no")
    assert written(on, "ba") == written(own, "ba")
    assert written(on, "ba").endswith("<start_of_turn>model:")


def test_what_a_template_refuses_or_leaves_out_is_refused() -> None:
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS
    with pytest.raises(ValueError, match=r"refuses this conversation \(System role not supported\); change model\.chat"):
        chat_model(no_system, CHAT)
    last_only = "{{ messages[-1].content }}"
    with pytest.raises(ValueError, match="its chat template leaves out 'be bo'; remove that from model.chat"):
        chat_model(last_only, CHAT)
    with pytest.raises(ValueError, match="its chat template knows no enable_thinking; remove that from model.chat"):
        chat_model(TURNS, ChatSettings(enable_thinking=False))


def test_loading_takes_the_conversation(tmp_path: Path) -> None:
    folder = save_model(chat_model(THINKING, CHAT), tmp_path)
    lm = load_language_model(folder, "float32", "cpu", "tokenizer", "chat", CHAT)
    assert written(lm, "ba") == written(chat_model(THINKING, CHAT), "ba")


def test_settings() -> None:
    chat = {"system": "be bo", "turns": [["di?", "da."]]}
    assert ModelSettings(path=Path("m"), prompt_format="chat", chat=chat).chat == CHAT
    with pytest.raises(ValidationError, match="need prompt_format chat"):
        ModelSettings(path=Path("m"), chat=chat)


def test_a_conversation_makes_texts_due_and_no_scores_and_none_changes_nothing() -> None:
    experiment = load_experiment("gemma-2-9b-it-concept500", EXPERIMENTS)
    other = experiment.model_copy(update={"model": experiment.model.model_copy(update={"prompt_format": "chat", "chat": CHAT})})
    before, after = steps_of(experiment), steps_of(other)
    assert "chat" not in before["generations"].settings
    assert after["generations"].settings["chat"] == CHAT.model_dump(mode="json")
    assert {step for step in before if before[step].settings != after[step].settings} >= {"generations"}
    assert all(before[step].settings == after[step].settings for step in ("logit_lens", "output_score", "input_score"))

"""How prompts are built: the ways there are, and a prompt in a model's chat template, after a system prompt and earlier turns, on a fixed
date."""

import json
import string
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any

from jinja2 import TemplateError

from saesteer.settings.inputs import ChatSettings

ALGORITHM_VERSION = 1

BOS_RULES = ("tokenizer", "always")
"""Beginning-of-sequence token of a text: as the tokenizer adds it; or always, also where the tokenizer (GPT-2's, Pythia's) adds none."""

PROMPT_FORMATS = ("plain", "chat")
"""plain: the model continues the prompt; chat: the prompt is a user's turn in the tokenizer's chat template, and the model answers it."""

_DATE_CODES = [f"%{flag}{letter}" for flag in ("", "-") for letter in string.ascii_letters]


def rendered(tokenizer: Any, chat: ChatSettings, turns: Sequence[dict[str, str]], **options: Any) -> Any:
    """Turns in the tokenizer's chat template, as `apply_chat_template` gives them, with the template's options and the date of `chat`."""
    template = dated_template(tokenizer, chat.date)
    return tokenizer.apply_chat_template(turns, chat_template=template, **chat.options, **options)


def dated_template(tokenizer: Any, day: date) -> str:
    """The tokenizer's chat template, for which it is the beginning of a given day. Templates learn the date by calling `strftime_now`,
    which transformers takes from the clock, or as `date_string`, which nobody passes; where one does, both are defined before it."""
    template: str = tokenizer.get_chat_template()
    if "strftime_now" not in template and "date_string" not in template:
        return template
    now = datetime.combine(day, time())
    codes = json.dumps([(code, now.strftime(code)) for code in _DATE_CODES])
    replaced = f"{{% for code, written in {codes} %}}{{% set its.text = its.text|replace(code, written) %}}{{% endfor %}}"
    now_macro = f"{{% macro strftime_now(format) %}}{{% set its = namespace(text=format) %}}{replaced}{{{{ its.text }}}}{{% endmacro %}}"
    return f"{now_macro}{{% set date_string = {json.dumps(now.strftime('%d %b %Y'))} %}}\n{template}"  # the line's end is the tag's


def conversation(tokenizer: Any, chat: ChatSettings, prompt: str) -> str:
    """The conversation as text, up to where the model answers."""
    written: str = rendered(tokenizer, chat, chat.messages(prompt), tokenize=False, add_generation_prompt=True)
    return written


def check_prompts(name: str, tokenizer: Any, bos: str, prompt_format: str, chat: ChatSettings) -> None:
    """Refuse ways of building prompts that do not exist or that the tokenizer has no means for."""
    for key, value, allowed in (("bos", bos, BOS_RULES), ("prompt_format", prompt_format, PROMPT_FORMATS)):
        if value not in allowed:
            raise ValueError(f"{key} is {value!r}, but must be one of {', '.join(allowed)}")
    if bos == "always" and tokenizer.bos_token_id is None:
        raise ValueError(f"{name}: its tokenizer has no beginning-of-sequence token; set bos to tokenizer")
    ends, bare = (tokenizer("a", add_special_tokens=adds)["input_ids"][-1:] for adds in (True, False))
    if ends == [tokenizer.eos_token_id] != bare:
        raise ValueError(
            f"{name}: its tokenizer ends every text with {tokenizer.eos_token}, after which no model goes on: set add_eos_token to false in"
            " its tokenizer_config.json, or take that token out of the post-processor of its tokenizer.json"
        )
    if prompt_format == "chat":
        if not tokenizer.chat_template:
            raise ValueError(f"{name}: its tokenizer has no chat template; set prompt_format to plain or take an instruction-tuned model")
        check_conversation(name, tokenizer, chat)


def check_conversation(name: str, tokenizer: Any, chat: ChatSettings) -> None:
    """Refuse what the chat template refuses, or leaves out without a word."""
    try:
        written = conversation(tokenizer, chat, "prompt")
    except TemplateError as error:
        raise ValueError(f"{name}: its chat template refuses this conversation ({error}); change model.chat") from error
    texts = [chat.system or "", *(text for turn in chat.turns for text in turn)]
    lost = [text for text in texts if text.strip() not in written]
    if lost:
        raise ValueError(f"{name}: its chat template leaves out {lost[0]!r}; remove that from model.chat")
    if chat.enable_thinking is not None:
        other = chat.model_copy(update={"enable_thinking": not chat.enable_thinking})
        if conversation(tokenizer, other, "prompt") == written:
            raise ValueError(f"{name}: its chat template knows no enable_thinking; remove that from model.chat")

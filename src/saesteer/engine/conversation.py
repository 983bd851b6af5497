"""A prompt in a model's chat template, after a system prompt and earlier turns."""

from typing import Any

from jinja2 import TemplateError

from saesteer.settings.inputs import ChatSettings

ALGORITHM_VERSION = 1


def conversation(tokenizer: Any, chat: ChatSettings, prompt: str) -> str:
    """The conversation as text, up to where the model answers."""
    written: str = tokenizer.apply_chat_template(chat.messages(prompt), tokenize=False, add_generation_prompt=True, **chat.options)
    return written


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

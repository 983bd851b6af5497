"""saesteer: which SAE feature to steer a language model with, how hard, and is it better than the alternatives?

The functions below are for notebooks and programs of one's own. They are loaded when first used, so that the workflow, which imports this
package in every job, waits neither for torch nor for sae-lens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saesteer.api import (
        Answer,
        LanguageModel,
        Sae,
        SaeMeta,
        Sampling,
        input_scores,
        load_model,
        load_sae,
        max_activating_examples,
        output_scores,
        recommend,
        recommend_less,
        steer,
        steered,
        top_logit_lens_tokens,
    )

__all__ = [
    "Answer",
    "LanguageModel",
    "Sae",
    "SaeMeta",
    "Sampling",
    "input_scores",
    "load_model",
    "load_sae",
    "max_activating_examples",
    "output_scores",
    "recommend",
    "recommend_less",
    "steer",
    "steered",
    "top_logit_lens_tokens",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("saesteer.api"), name)
    if name == "__version__":  # of the installed package: were it written here, each version would make every table due
        return import_module("importlib.metadata").version("saesteer")
    raise AttributeError(f"module 'saesteer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""What a client may ask for: checked before the model is touched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from saesteer.settings import Edit
from saesteer.settings.base import Seed, Temperature

MOST_TOKENS, MOST_SAMPLES, MOST_FEATURES, MOST_PROMPTS, LONGEST_PROMPT = 512, 16, 8, 16, 20_000

Strength = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]

Prompt = Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]
StopText = Annotated[str, Field(min_length=1, max_length=100)]


def _as_list(value: Any) -> Any:
    """OpenAI's forms take one text for a list of it."""
    return [value] if isinstance(value, str) else [] if value is None else value


class _Params(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FeatureStrength(_Params):
    """A feature, and how hard to steer with it."""

    layer: int = Field(ge=0)
    feature: int = Field(ge=0)
    factor: Strength


class FitStrength(_Params):
    """What a method of a comparison fitted for a concept."""

    method: str
    concept: str
    layer: int = Field(ge=0)
    factor: Strength | None = None


class SteeringField(_Params):
    """Features of one layer, or a fit; nothing: the model as it is."""

    features: list[FeatureStrength] = Field(default=[], max_length=MOST_FEATURES)
    fit: FitStrength | None = None
    edit: Edit = "addition"
    """What is done with a feature, as `sweep.edit`."""

    @model_validator(mode="after")
    def check(self) -> SteeringField:
        layers = sorted({of.layer for of in self.features})
        if len(layers) > 1:
            raise ValueError(f"the features are of layers {', '.join(map(str, layers))}: choose features of one layer")
        if len({of.feature for of in self.features}) < len(self.features):
            raise ValueError("a feature is named twice: name it once, with one factor")
        if self.features and self.fit:
            raise ValueError("name features or a fit, not both")
        if self.edit != "addition" and len(self.features) != 1:
            raise ValueError(f"edit {self.edit} takes one feature, not {len(self.features)}")
        if self.edit == "ablation" and self.features[0].factor != 1:
            raise ValueError("an ablation has no strength: its factor is 1")
        return self


class Message(_Params):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=LONGEST_PROMPT)


Conversation = Annotated[list[Message], Field(min_length=1, max_length=64)]


class SteerRequest(_Params):
    """A prompt that is continued, or a conversation that is answered, unsteered and steered."""

    prompt: Prompt | Conversation
    steering: SteeringField
    samples: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    temperature: Temperature | None = Field(default=None, le=2)
    seed: Seed | None = None


class FeatureRequest(_Params):
    """A text, and the feature that is looked at: its activations there or, under some steering, its top logit-lens tokens right after."""

    prompt: Prompt | Conversation
    steering: SteeringField = SteeringField()
    layer: int = Field(ge=0)
    feature: int = Field(ge=0)


class OpenAiRequest(_Params):
    """What both of OpenAI's forms have. Fields that are not supported are refused where they would change what is computed."""

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    temperature: Temperature = Field(default=1.0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    n: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    seed: Seed | None = None
    stop: Annotated[list[StopText], BeforeValidator(_as_list), Field(max_length=4)] = []
    stream: bool = False
    user: str | None = None
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    logprobs: Annotated[None, BeforeValidator(lambda value: None if value is False else value)] = None  # 0 asks for some
    logit_bias: dict[str, float] = Field(default={}, max_length=0)
    store: Literal[False] = False
    steering: SteeringField = SteeringField()

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, values: Any) -> Any:
        """A field that is null is one that was not sent."""
        return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values


class CompletionRequest(OpenAiRequest):
    prompt: Annotated[list[Prompt], BeforeValidator(_as_list), Field(min_length=1, max_length=MOST_PROMPTS)]
    echo: Literal[False] = False
    best_of: Literal[1] | None = None
    suffix: None = None


class ChatRequest(OpenAiRequest):
    messages: Conversation
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS, validation_alias=AliasChoices("max_tokens", "max_completion_tokens"))

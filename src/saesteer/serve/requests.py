"""What a client may ask for: checked before the model is touched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from saesteer.core.errors import SettingsError
from saesteer.engine.continuation import Sampling
from saesteer.settings.base import Seed, Temperature

MOST_TOKENS, MOST_SAMPLES, MOST_FEATURES, MOST_PROMPTS, LONGEST_PROMPT = 512, 16, 8, 16, 20_000

Strength = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]

Prompt = Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]


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

    @model_validator(mode="after")
    def check(self) -> SteeringField:
        layers = sorted({of.layer for of in self.features})
        if len(layers) > 1:
            raise ValueError(f"the features are of layers {', '.join(map(str, layers))}: choose features of one layer")
        if len({of.feature for of in self.features}) < len(self.features):
            raise ValueError("a feature is named twice: name it once, with one factor")
        if self.features and self.fit:
            raise ValueError("name features or a fit, not both")
        return self


class SteerRequest(_Params):
    """A prompt that is continued unsteered and steered."""

    prompt: Prompt
    steering: SteeringField
    samples: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    seed: Seed | None = None


class NextRequest(_Params):
    """A prompt, a setting, and the feature whose top logit-lens tokens are looked at."""

    prompt: Prompt
    steering: SteeringField
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
    stop: str | list[str] | None = None
    stream: bool = False
    user: str | None = None
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    logprobs: Literal[False] | None = None
    steering: SteeringField = SteeringField()

    def sampling(self, default_tokens: int) -> Sampling:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or [""]
        if len(stops) > 1 or len(stops[0]) > 1:
            raise SettingsError("stop: one character at most")
        return Sampling(self.max_tokens or default_tokens, self.temperature, 0, stops[0], self.top_p)


class CompletionRequest(OpenAiRequest):
    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=MOST_PROMPTS)]
    echo: Literal[False] = False
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class Message(_Params):
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=LONGEST_PROMPT)


class ChatRequest(OpenAiRequest):
    messages: list[Message] = Field(min_length=1, max_length=64)
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS, validation_alias=AliasChoices("max_tokens", "max_completion_tokens"))

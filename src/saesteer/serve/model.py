"""The model that is served, and what a request means for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import polars as pl
from jinja2 import TemplateError

from saesteer.core.counter_rng import hex_keys, streams, text_keys
from saesteer.core.errors import SettingsError
from saesteer.core.files import text_id
from saesteer.core.tokens import TextTokens
from saesteer.engine.activations import sparse_activations, special_ids
from saesteer.engine.continuation import Sampling
from saesteer.engine.conversation import rendered
from saesteer.engine.generate import next_log_probs
from saesteer.engine.generations import feature_edit, features_addition, placed, prompted_ids, set_name, text_of_factor
from saesteer.engine.hook_points import to_residual
from saesteer.engine.interventions import Addition, PromptText
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel, check_length, plain_token_ids, prompt_token_ids, with_bos
from saesteer.engine.saes import Sae, check_features
from saesteer.engine.steering import Intervention
from saesteer.exchange.fits import fit_of
from saesteer.run import Run
from saesteer.serve.requests import FeatureRequest, FeatureStrength, FitStrength, Message, SteeringField
from saesteer.serve.scheduler import TextRequest, as_batch
from saesteer.settings import Comparison
from saesteer.settings.base import canonical_factor
from saesteer.steps.generations import sampling_of

N_LENS = 10


@dataclass(frozen=True)
class Setting:
    """A way of steering."""

    layer: int
    intervention: Intervention
    factor: str
    keys: tuple[Any, ...]
    """What random numbers are drawn from besides prompt and sample: of one feature those of `saesteer steer`."""


@dataclass(frozen=True)
class Model:
    """What texts are made with."""

    run: Run
    lm: LanguageModel
    saes: Mapping[int, Sae]
    """By layer."""

    def setting(self, steering: SteeringField) -> Setting:
        """The setting that a request names; refused where the experiment has no such feature or fit."""
        if steering.fit:
            return self._fitted(steering.fit)
        features = steering.features or [FeatureStrength(layer=self.run.layers[0], feature=0, factor=0)]
        layer, (first, *more) = features[0].layer, features
        sae = self._sae_with(layer, [of.feature for of in features])
        if not more:
            factor = canonical_factor(first.factor)
            edit = steering.edit if float(factor) else "addition"  # factor 0 is unsteered, of a clamp too
            return Setting(layer, feature_edit(sae, first.feature, edit), factor, (layer, first.feature, *text_keys([factor])))
        factors = {of.feature: of.factor for of in features}
        return Setting(layer, features_addition(sae, factors), "1", (layer, *text_keys([set_name(factors)])))

    def unsteered(self, setting: Setting) -> Setting:
        """The model as it is, with the same random numbers whatever it is compared with; at factor 0 an addition shares its forwards. Some
        other interventions edit at factor 0 too."""
        plain = self.setting(SteeringField())
        is_addition = isinstance(setting.intervention, Addition)
        return replace(plain, layer=setting.layer, intervention=setting.intervention) if is_addition else plain

    def _sae_with(self, layer: int, features: Sequence[int]) -> Sae:
        """The SAE of a layer, which has these features."""
        self.run.check_layer(layer)
        check_features(features, self.saes[layer].meta.n_features, f"the SAE of layer {layer}")
        return self.saes[layer]

    def _fitted(self, strength: FitStrength) -> Setting:
        """A fit of the comparison."""
        if not isinstance(self.run.experiment, Comparison):
            raise SettingsError(f"{self.run.name} compares no methods: there are no fits to steer with")
        fit = fit_of(self.run, strength.method, strength.concept, strength.layer, strength.factor)
        intervention = placed(fit.intervention, self.saes[fit.layer], self.run.comparison.methods.sae_features)
        key = f"{fit.layer}/{fit.method}/{fit.concept}"
        return Setting(fit.layer, intervention, canonical_factor(fit.factor), tuple(text_keys([key, canonical_factor(fit.factor)])))

    def texts(
        self, prompt: str | Sequence[Message], setting: Setting, sampling: Sampling, samples: int, seed: int | None
    ) -> list[TextRequest]:
        """A text a sample, of a prompt or an answer to a conversation."""
        ids = self._prompt_ids(prompt, setting, sampling)
        check_length(self.lm, len(ids) + sampling.max_new_tokens)
        seed = self.run.experiment.sampling.seed if seed is None else seed
        written = prompt if isinstance(prompt, str) else json.dumps([message.model_dump() for message in prompt])
        keys = (*setting.keys, *hex_keys([text_id(written)]))
        numbers = [int(streams(seed, *keys, sample)) for sample in range(samples)]
        return [TextRequest(setting.layer, setting.intervention, setting.factor, stream, tuple(ids), sampling) for stream in numbers]

    def _prompt_ids(self, prompt: str | Sequence[Message], setting: Setting, sampling: Sampling) -> Sequence[int]:
        text, factor = setting.intervention, float(setting.factor)
        if not isinstance(prompt, str):
            return self._conversation_ids(self._prompted(prompt, text, factor) if isinstance(text, PromptText) else prompt)
        if isinstance(text, PromptText):
            return prompted_ids(self.lm, text, factor, prompt, sampling.max_new_tokens)
        return prompt_token_ids(self.lm, prompt)

    @staticmethod
    def _prompted(messages: Sequence[Message], text: PromptText, factor: float) -> list[Message]:
        """A conversation with the text of a factor before its last user turn, as `prompted_ids` puts it before a prompt."""
        users = [place for place, message in enumerate(messages) if message.role == "user"]
        if not users:
            raise SettingsError("prompting puts a text before the last user turn, and this conversation has none: add one")
        last, content = users[-1], messages[users[-1]].content
        turn = messages[last].model_copy(update={"content": f"{text_of_factor(text, factor)}\n\n{content}"})
        return [*messages[:last], turn, *messages[last + 1 :]]

    def _conversation_ids(self, messages: Sequence[Message]) -> list[int]:
        tokenizer = self.lm.tokenizer
        if not tokenizer.chat_template:
            raise SettingsError("this model has no chat template: ask for /v1/completions")
        turns = [message.model_dump() for message in messages]
        try:
            written = rendered(tokenizer, self.lm.chat, turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as fault:
            raise SettingsError(f"the model's chat template refuses this conversation: {fault}") from fault
        return with_bos(tokenizer(written, add_special_tokens=False)["input_ids"], self.lm.bos, tokenizer.bos_token_id)

    def next_log_probs(self, params: FeatureRequest) -> dict[str, Any]:
        """Top logit-lens tokens of a feature with their log-probabilities as the next token: tokens, unsteered, steered (nats)."""
        lens, setting = self._sae_with(params.layer, [params.feature]), self.setting(params.steering)
        in_residual = to_residual(self.lm, params.layer, lens.meta.hook_point)
        ((token_ids,), _) = top_logit_lens_tokens(self.lm, lens.W_dec[[params.feature]].float(), N_LENS, to_residual=in_residual)

        def log_probs(setting: Setting) -> list[float]:
            texts = self.texts(params.prompt, setting, self.sampling(1), 1, 0)
            values: list[float] = next_log_probs(self.lm, self.saes[setting.layer], setting.layer, *as_batch(texts))[0, token_ids].tolist()
            return values

        tokens = self.tokens.strings(token_ids.tolist())
        return {"tokens": tokens, "unsteered": log_probs(self.unsteered(setting)), "steered": log_probs(setting)}

    def activations(self, params: FeatureRequest) -> dict[str, Any]:
        """A text's ordinary tokens and a feature's activation at each; None at the first one, where activations are not measured, unless a
        special token stands before it."""
        sae, prompt = self._sae_with(params.layer, [params.feature]), params.prompt
        ids = plain_token_ids(self.lm, prompt) if isinstance(prompt, str) else self._conversation_ids(prompt)
        table = next(sparse_activations(self.lm, {params.layer: sae}, pl.DataFrame({"text_id": "text", "token_ids": [ids]})))
        active = table.explode("token_index", "feature", "value").filter(feature=params.feature)
        values = dict(active.select("token_index", "value").iter_rows())
        special = {*special_ids(self.lm)}
        places = [place for place, token in enumerate(ids) if token not in special]
        activations = [values.get(place, 0.0) if place else None for place in places]
        return {"tokens": self.tokens.strings([ids[place] for place in places]), "activations": activations}

    @cached_property
    def tokens(self) -> TextTokens:
        """The model's tokenizer, read once."""
        return self.run.tokens()

    @property
    def name(self) -> str:
        return self.run.experiment.model.name

    def sampling(self, max_tokens: int | None = None, temperature: float | None = None) -> Sampling:
        """The experiment's, with another longest text or another temperature."""
        given: dict[str, Any] = {"max_new_tokens": max_tokens, "temperature": temperature}
        return replace(sampling_of(self.run.experiment), **{name: value for name, value in given.items() if value is not None})

    def as_begun(self) -> dict[str, Any]:
        """What the page begins with: the experiment's sampling and, of a model that answers, the turns before and with an empty prompt."""
        sampling = self.run.experiment.sampling
        turns = self.lm.chat.messages("") if self.lm.prompt_format == "chat" else None
        return {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature, "seed": sampling.seed, "turns": turns}

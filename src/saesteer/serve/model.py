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
from saesteer.engine.continuation import Sampling
from saesteer.engine.conversation import rendered
from saesteer.engine.generate import next_log_probs
from saesteer.engine.generations import feature_addition, features_addition, placed, prompted_ids
from saesteer.engine.hook_points import to_residual
from saesteer.engine.interventions import PromptText
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel, check_length, prompt_token_ids, with_bos
from saesteer.engine.saes import Sae, check_features
from saesteer.engine.steering import Intervention
from saesteer.exchange.fits import fit_of
from saesteer.run import Run
from saesteer.serve.requests import FeatureStrength, FitStrength, Message, NextRequest, SteeringField
from saesteer.serve.scheduler import Text
from saesteer.settings import Comparison
from saesteer.settings.base import canonical_factor
from saesteer.steps.generations import sampling_of

UNSTEERED, N_LENS = "0", 10


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

    def setting(self, steering: SteeringField, is_unsteered: bool = False) -> Setting:
        """The setting that a request names, or the unsteered model in a form that can share its forwards; refused where the experiment has
        no such feature or fit."""
        if steering.fit:
            setting = self._fitted(steering.fit)
            if is_unsteered and isinstance(setting.intervention, PromptText):
                return self.setting(SteeringField())
            return replace(setting, factor=UNSTEERED) if is_unsteered else setting
        features = steering.features or [FeatureStrength(layer=self.run.layers[0], feature=0, factor=0)]
        layer = features[0].layer
        self.run.check_layer(layer)
        sae = self.saes[layer]
        check_features([of.feature for of in features], sae.meta.n_features, f"the SAE of layer {layer}")
        if len(features) == 1:
            factor = UNSTEERED if is_unsteered else canonical_factor(features[0].factor)
            return Setting(layer, feature_addition(sae, features[0].feature), factor, (layer, features[0].feature, *text_keys([factor])))
        key = ",".join(f"{of.feature}*{canonical_factor(of.factor)}" for of in features)
        addition = features_addition(sae, {of.feature: of.factor for of in features})
        return Setting(layer, addition, UNSTEERED if is_unsteered else "1", (layer, *text_keys([key])))

    def _fitted(self, strength: FitStrength) -> Setting:
        """A fit of the comparison."""
        if not isinstance(self.run.experiment, Comparison):
            raise SettingsError(f"{self.run.name} compares no methods: there are no fits to steer with")
        fit = fit_of(self.run, strength.method, strength.concept, strength.layer, strength.factor)
        intervention = placed(fit.intervention, self.saes[fit.layer], self.run.comparison.methods.sae_features)
        key = f"{fit.layer}/{fit.method}/{fit.concept}"
        return Setting(fit.layer, intervention, canonical_factor(fit.factor), tuple(text_keys([key, canonical_factor(fit.factor)])))

    def texts(self, prompt: str | Sequence[Message], setting: Setting, sampling: Sampling, samples: int, seed: int | None) -> list[Text]:
        """A text a sample, of a prompt or an answer to a conversation."""
        ids = self._prompt_ids(prompt, setting, sampling)
        check_length(self.lm, len(ids) + sampling.max_new_tokens)
        seed = self.run.steering.sampling.seed if seed is None else seed
        written = prompt if isinstance(prompt, str) else json.dumps([message.model_dump() for message in prompt])
        keys = (*setting.keys, *hex_keys([text_id(written)]))
        numbers = [int(streams(seed, *keys, sample)) for sample in range(samples)]
        return [Text(setting.layer, setting.intervention, setting.factor, stream, tuple(ids), sampling) for stream in numbers]

    def _prompt_ids(self, prompt: str | Sequence[Message], setting: Setting, sampling: Sampling) -> Sequence[int]:
        if not isinstance(prompt, str):
            return self._conversation_ids(prompt)
        if isinstance(setting.intervention, PromptText):
            return prompted_ids(self.lm, setting.intervention, float(setting.factor), prompt, sampling.max_new_tokens)
        return prompt_token_ids(self.lm, prompt)

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

    def next_log_probs(self, params: NextRequest) -> dict[str, Any]:
        """Top logit-lens tokens of a feature with their log-probabilities as the next token: tokens, unsteered, steered (nats)."""
        self.run.check_layer(params.layer)
        lens, setting = self.saes[params.layer], self.setting(params.steering)
        check_features([params.feature], lens.meta.n_features, f"the SAE of layer {params.layer}")
        ids = tuple(self._prompt_ids(params.prompt, self.setting(SteeringField()), self.sampling(1)))
        sae = self.saes[setting.layer]
        rows = {"row": [0, 1], "intervention": [0, 0], "prompt": [0, 0], "factor": [UNSTEERED, setting.factor], "stream": [0, 0]}
        frame = pl.DataFrame(rows, schema_overrides={"row": pl.UInt32, "stream": pl.UInt64})
        log_probs = next_log_probs(self.lm, sae, setting.layer, frame, [setting.intervention], [ids])
        in_residual = to_residual(self.lm, params.layer, lens.meta.hook_point)
        ((token_ids,), _) = top_logit_lens_tokens(self.lm, lens.W_dec[[params.feature]].float(), N_LENS, to_residual=in_residual)
        unsteered, steered = log_probs[:, token_ids].tolist()
        return {"tokens": self.tokens.strings(token_ids.tolist()), "unsteered": unsteered, "steered": steered}

    @cached_property
    def tokens(self) -> TextTokens:
        """The model's tokenizer, read once."""
        return self.run.tokens()

    @property
    def name(self) -> str:
        return self.run.experiment.model.name

    def sampling(self, max_tokens: int | None) -> Sampling:
        """The experiment's, with another longest text."""
        sampling = sampling_of(self.run.steering)
        return sampling if max_tokens is None else replace(sampling, max_new_tokens=max_tokens)

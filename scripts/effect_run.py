"""What the scripts that measure effects of steering share. Imports torch, so scripts import it only when rows are missing."""

from common import Job
from sae import open_sae

from saesteer.engine.models import LanguageModel, plain_token_ids
from saesteer.methods.fit.effects import EffectRun
from saesteer.sources.prefixes import effect_prompts


def effect_run(job: Job, lm: LanguageModel, layer: int) -> EffectRun:
    """What the effects of a layer's vectors share; its SAE is loaded."""
    settings = job.experiment.methods
    prompts = [ids for text in effect_prompts(settings) if (ids := plain_token_ids(lm, text))]  # "" has none where there is no BOS token
    return EffectRun(lm, open_sae(job, layer), layer, prompts, settings.effects, settings.seed)

"""The README's demonstration: texts of the shipped model, unsteered and steered, as the Python snippet beside it gives them."""

from pathlib import Path

import saesteer
from saesteer.core.markdown import escaped, table
from saesteer.sources.prefixes import read_prefixes

LAYER, FEATURE, FACTOR = 6, 548, 1.6
"""The feature of topic medicine with the highest judge score on the shipped experiment, and a factor a little above the
recommended one, 1.2."""
N_PROMPTS = 3


def demonstration(root: Path) -> str:
    """A Markdown table of the experiment's first prompts, a column unsteered and one steered."""
    prompts = list(read_prefixes(root / "config/prefixes.txt", N_PROMPTS).values())
    lm = saesteer.load_model(root / "data/world/model")
    sae = saesteer.load_sae(root / f"data/world/saes/layer_{LAYER:02d}")
    texts = saesteer.steer(lm, sae, features=[FEATURE], factors=[0, FACTOR], prompts=prompts)
    rows = [
        [prompt, *(escaped(texts.filter(prompt=prompt, factor=factor)["text"].item().strip()) for factor in (0.0, FACTOR))]
        for prompt in prompts
    ]
    return table(["prompt", "unsteered", f"feature {LAYER}/{FEATURE}, factor {FACTOR:g}"], rows)

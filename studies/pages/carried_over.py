"""What of the grammar's findings carries over to the public models: one line per finding, one column per model, from results in git."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from saesteer.core.markdown import number
from saesteer.methods.compare.tables import METHOD_DIFFERENCES
from saesteer.site.headline import times, with_interval
from studies.pages import methods, public
from studies.pages.findings import metrics, results_file
from studies.pages.results import SHIPPED
from studies.pages.tables import Row, Shown

MODELS = {SHIPPED: "the grammar's model", **public.MODELS}
"""Sweep -> model."""
DIFFERENCES = {
    "A labelled feature − a random direction": ("sae_label", "random_vector"),
    "P1's choice − the labelled feature": ("sae_label_output_score", "sae_label"),
    "The feature nearest to DiffMean − the labelled feature": ("sae_cosine", "sae_label"),
    "DiffMean − the labelled feature": ("diffmean", "sae_label"),
    "SAE-TS − DiffMean": ("sae_ts", "diffmean"),
    "ReFT-r1 − DiffMean": ("reft_r1", "diffmean"),
    "LoRA − ReFT-r1": ("lora", "reft_r1"),
    "LoRA − a prompt": ("lora", "prompting"),
}
"""Finding -> the two methods whose held-out scores are compared, paired over concepts."""
GAINS = {
    "The filter's net gain": "ratio",
    "The filter's net gain within layers": "within_layers",
}
"""Finding -> its name among the net gains of the registered variant."""


def _rows(root: Path) -> Iterator[Row]:
    """finding, model and what was measured."""
    for experiment, model in MODELS.items():
        shown = results_file(root, experiment).is_file()
        numbers = metrics(root, experiment)["filter"][public.REGISTERED]["all"]["net"] if shown else None
        for finding, name in GAINS.items():
            yield {"finding": finding, "model": model, "measured": times(numbers[name]) if numbers else public.NOT_RUN}
        folder = methods.FOLDER if experiment == SHIPPED else public.methods_folder(experiment)
        compared = (root / folder / f"{METHOD_DIFFERENCES.name}.csv").is_file()
        pairs = methods.results(root, METHOD_DIFFERENCES, folder) if compared else pl.DataFrame()
        for finding, pair in DIFFERENCES.items():
            measured = "; ".join(differences(pairs, *pair)) or number(None) if compared else public.NOT_RUN
            yield {"finding": finding, "model": model, "measured": measured}


def differences(pairs: pl.DataFrame, method: str, other: str) -> Iterator[str]:
    """METHOD_DIFFERENCES -> a method's mean less another's with its interval, at each layer; each pair is there in one order."""
    for row in pairs.filter(pl.concat_list("method", "other").list.sort() == sorted((method, other))).sort("layer").iter_rows(named=True):
        same_order = row["method"] == method
        yield with_interval(*(row["mean"], row["low"], row["high"]) if same_order else (-row["mean"], -row["high"], -row["low"]))


CARRIED_OVER = Shown(_rows, "finding", {"finding": "finding"} | {name: ("measured", {"model": name}) for name in MODELS.values()})

"""Labels of features by the experiment's judge: `saesteer explain`, and where a label comes from, in words.

The section `explanations` of the experiment file says which labels an experiment has. What the command tries beside it is computed by the
same step and stored with the same keys, so that it is not asked again once the file says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl

from saesteer.analysis.label_evidence import detection_interval
from saesteer.core.errors import SettingsError
from saesteer.core.markdown import printable
from saesteer.core.store import complete, read_rows
from saesteer.core.tables import write_summary
from saesteer.run import Run
from saesteer.settings import ExplanationSettings, ExplicitFeatures
from saesteer.sources.features import features_of
from saesteer.steps import explanations
from saesteer.steps.explanations import EXPLANATIONS
from saesteer.steps.features import FEATURES
from saesteer.steps.step import steps_of
from saesteer.summaries.features import described_features
from saesteer.workflow.outputs import TRIED
from saesteer.workflow.plan import complete_manifest, wanted_rows

STEP = EXPLANATIONS.name
_SOURCES = {"examples": "examples", "lens": "lens tokens", "both": "examples and lens tokens"}


@dataclass(frozen=True)
class Explained:
    """The labels that were made, and whether the experiment has them from now on."""

    rows: pl.DataFrame
    """EXPLANATIONS."""
    in_use: bool
    evidence: str


def explain(run: Run, evidence: str | None, chosen: Sequence[str]) -> Explained:
    """Name the experiment's features, or those `chosen` (LAYER/FEATURE), from this `evidence`, or from what the experiment file says."""
    experiment = run.steering
    if not experiment.is_rated:
        raise SettingsError(f"{run.name} has no judge to name its features: give it one, under the key judge (docs/judges.md)")
    written = experiment.explanations
    section = written or ExplanationSettings()
    section = section.model_copy(update={"evidence": evidence}) if evidence else section
    features = _chosen(run, chosen)
    in_use = section == written and not chosen
    tried = experiment.model_copy(update={"explanations": section, "features": ExplicitFeatures(kind="explicit", features=features)})
    of_run, manifests = replace(run, experiment=tried), []
    _check_inputs(of_run)
    step = steps_of(tried)[STEP]
    for group, layers in experiment.layer_groups.items():
        if of_group := [layer for layer in layers if layer in features]:
            manifest, compute = run.data / STEP / f"{'' if in_use else TRIED}{group}.json", partial(step.compute, of_run)
            manifests.append(manifest)
            if in_use:
                complete_manifest(run, manifest, layers, compute)
            else:
                wanted = wanted_rows(of_run, STEP, of_group)
                complete(manifest.parent, EXPLANATIONS, wanted, compute, manifest, run.workflow.part_seconds)
    if in_use and run.summary_path(FEATURES).is_file():
        write_summary(FEATURES, described_features(run, run.layers)[FEATURES.name], run.summary_path(FEATURES))
    return Explained(read_rows(EXPLANATIONS, manifests), in_use, section.evidence)


def _chosen(run: Run, chosen: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """Layer -> the features that are wanted, of those that the experiment has."""
    every = {layer: of_layer for layer in run.layers if (of_layer := features_of(run.experiment, layer))}
    if not chosen:
        return every
    pairs = []
    first = next(f"{layer}/{features[0]}" for layer, features in every.items())
    for name in chosen:
        layer, _, feature = name.partition("/")
        if not (layer.isdecimal() and feature.isdecimal()) or int(feature) not in every.get(int(layer), ()):
            raise SettingsError(f"--features {name}: {run.name} has no such feature; write LAYER/FEATURE, e.g. {first}")
        pairs.append((int(layer), int(feature)))
    return {layer: tuple(sorted({feature for at, feature in pairs if at == layer})) for layer in sorted({at for at, _ in pairs})}


def _check_inputs(run: Run) -> None:
    steps = steps_of(run.experiment)
    for name in (name for name in steps[STEP].inputs if name in steps):
        if absent := [path for path in run.manifests(name) if not path.is_file()]:
            raise SettingsError(f"{run.name} has no {name}: {absent[0]} is missing; run its workflow first")


def provenance(row: Mapping[str, Any], confidence: float) -> str:
    """Where a label comes from, and how well it detects the feature, from its row of EXPLANATIONS."""
    words = f"label by {printable(row['model'] or 'the judge')} from {_SOURCES[row['evidence']]}"
    if row["detection"] is None:
        return f"{words}, detection unknown"
    active, inactive = ((row[f"{name}_detected"], row[name]) for name in ("n_active", "n_inactive"))
    interval = detection_interval(active, inactive, confidence)
    return f"{words}, detection {row['detection']:.2f}" + (f" [{interval.low:.2f}, {interval.high:.2f}]" if interval else "")


def with_labels(run: Run, features: pl.DataFrame) -> pl.DataFrame:
    """FEATURES rows with the experiment's labels: `label`, and `labelled`, the label with its provenance; null where there is none."""
    has_labels = explanations.step(run.experiment) is not None
    rows = run.rows_if_any(EXPLANATIONS) if has_labels else pl.DataFrame(schema=EXPLANATIONS.schema)
    rows = rows.drop_nulls("label")
    shown = [f"{row['label']} ({provenance(row, run.experiment.intervals.confidence)})" for row in rows.iter_rows(named=True)]
    labels = rows.select("layer", "feature", "label", labelled=pl.Series(shown, dtype=pl.String))
    return features.join(labels, on=["layer", "feature"], how="left", maintain_order="left")


def lines(explained: Explained, run: Run) -> Iterator[str]:
    """What was made, one line per feature, and how it comes to be used."""
    for row in explained.rows.iter_rows(named=True):
        name = f"{row['layer']}/{row['feature']}"
        if row["label"] is None:
            yield f"{name}  no label: {row['reason']}"
        else:
            yield f"{name}  {row['label']} ({provenance(row, run.experiment.intervals.confidence)})"
    if not explained.in_use:
        yield (
            "These are tried only. For all features, and for `saesteer recommend` and the report to use them, write into the file of"
            f" {run.name} `explanations: {{evidence: {explained.evidence}}}` and run `saesteer explain {run.name}`: nothing is asked twice"
        )

"""Held-out scores of steering methods, with intervals; and the report that sets them beside the papers' figures."""

import polars as pl
from common import open_job

from saesteer.core.files import write_atomically
from saesteer.core.store import read_rows
from saesteer.core.tables import (
    ASKED_CONCEPTS,
    FEATURES,
    FITS,
    GEN_SUCCESS,
    GENERATIONS,
    JUDGEMENTS,
    METHOD_SUMMARIES,
    PERPLEXITY,
    of_fits,
    read_summary,
    write_summary,
)
from saesteer.methods.compare.layers import at_every_layer
from saesteer.methods.compare.paper_values import our_protocol
from saesteer.methods.compare.protocol import Rows
from saesteer.methods.compare.summaries import method_summaries
from saesteer.report.method_report import report_markdown

job = open_job(snakemake)
experiment, settings = job.experiment, job.experiment.methods
concepts = read_summary(ASKED_CONCEPTS, job.input("asked_concepts"))
steps = (GENERATIONS, PERPLEXITY, JUDGEMENTS, GEN_SUCCESS)  # the last where it chooses factors
texts, losses, ratings, success = (of_fits(read_rows(table, job.inputs.get(table.name, []))) for table in steps)
fits = read_rows(FITS, job.inputs["fits"], None, [name for name in FITS.columns if name not in ("tensors", "values")])
texts, losses, ratings, success, fits = (at_every_layer(made, experiment.layers) for made in (texts, losses, ratings, success, fits))
features = pl.concat(read_summary(FEATURES, path) for path in job.inputs["features"])
rows = Rows(texts, losses, ratings, fits, concepts, success.drop_nulls("gen_success_20"), features)
rater = getattr(experiment.judge, "model", experiment.judge.kind)
judge = rater if isinstance(rater, str) else rater.name

protocols = {layer: our_protocol(settings, experiment.model.name, layer, judge, concepts.height) for layer in sorted(experiment.layers)}
tables = method_summaries(rows, list(job.prefixes()), settings, experiment.best_factor, protocols)
for name, table in METHOD_SUMMARIES.items():
    write_summary(table, tables[name], job.outputs[name])
report = report_markdown(tables["methods"], tables["method_differences"], tables["method_published"], protocols, settings)
write_atomically(job.outputs["report"], lambda partial: partial.write_text(report, encoding="utf-8"))

"""Held-out scores of steering methods, with intervals; and the report that sets them beside the papers' figures."""

from dataclasses import replace

from common import open_job

from saesteer.core.files import write_atomically
from saesteer.core.store import read_rows
from saesteer.core.tables import (
    ASKED_CONCEPTS,
    FITS,
    LOGIT_LENS,
    METHOD_SUMMARIES,
    STEERED,
    STEERED_JUDGEMENTS,
    STEERED_PERPLEXITY,
    read_summary,
    write_summary,
)
from saesteer.core.tokens import load_tokens
from saesteer.methods.compare.paper_values import our_protocol
from saesteer.methods.compare.protocol import Rows
from saesteer.methods.compare.success import steered_success
from saesteer.methods.compare.summaries import method_summaries
from saesteer.report.method_report import report_markdown

job = open_job(snakemake)
experiment, settings = job.experiment, job.experiment.methods
asked = read_summary(ASKED_CONCEPTS, job.input("asked_concepts"))
fit_columns = [name for name in FITS.columns if name not in ("tensors", "values")]
steered, losses, ratings = (read_rows(table, job.inputs[table.name]) for table in (STEERED, STEERED_PERPLEXITY, STEERED_JUDGEMENTS))
rows = Rows(steered, losses, ratings, read_rows(FITS, job.inputs["fits"], None, fit_columns), asked)
if settings.factor_rule == "gen_success":
    lens = read_rows(LOGIT_LENS, job.inputs["logit_lens"])
    rows = replace(rows, success=steered_success(steered, rows.fits, lens, load_tokens(job.model_folder())))
judge = getattr(experiment.judge, "model", experiment.judge.kind)
judge_name = judge if isinstance(judge, str) else judge.name

protocols = {layer: our_protocol(settings, experiment.model.name, layer, judge_name, asked.height) for layer in sorted(experiment.layers)}
tables = method_summaries(rows, list(job.prefixes()), settings, protocols)
for name, table in METHOD_SUMMARIES.items():
    write_summary(table, tables[name], job.outputs[name])
report = report_markdown(tables["methods"], tables["method_differences"], tables["method_published"], protocols, settings)
write_atomically(job.outputs["report"], lambda partial: partial.write_text(report, encoding="utf-8"))

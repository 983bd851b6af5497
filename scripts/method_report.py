"""The report of a comparison of steering methods: its scores, at any cost and at equal cost, beside the papers' figures."""

from saesteer.core.files import write_text
from saesteer.methods.compare.tables import METHOD_EQUAL_COST, METHOD_SUMMARIES
from saesteer.site.method_report import report_markdown
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.summaries.comparisons import protocols
from saesteer.workflow.job import open_job

job = open_job(snakemake)
run = job.run
methods, differences, published = (run.summary(METHOD_SUMMARIES[name]) for name in ("methods", "method_differences", "method_published"))
by_layer = protocols(run, run.summary(COMPARED_CONCEPTS).height)
equal_cost = run.summary(METHOD_EQUAL_COST) if snakemake.input.equal_cost else None
write_text(job.outputs["report"], report_markdown(methods, differences, published, by_layer, run.comparison.methods, equal_cost))

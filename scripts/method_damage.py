"""Each method's score against what it breaks."""

from common import open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import DAMAGE, DAMAGE_SUMMARIES, METHOD_SUMMARIES, read_summary, write_summary
from saesteer.methods.compare.damage import method_damage

job = open_job(snakemake)
choices, methods = (read_summary(METHOD_SUMMARIES[name], job.input(name)) for name in ("method_choices", "methods"))
table = method_damage(read_rows(DAMAGE, job.inputs["damage"]), choices, methods, job.experiment.methods)
write_summary(DAMAGE_SUMMARIES["method_damage"], table, job.outputs["table"])

"""Each concept's steering prompts, written by the language model that the experiment names."""

import os

from common import open_job

from saesteer.core.tables import ASKED_CONCEPTS, read_summary, write_summary
from saesteer.core.tables.methods import STEERING_PROMPTS
from saesteer.judge.askers import endpoint_asker
from saesteer.judge.prompt_writing import written_prompts

job = open_job(snakemake)
concepts = dict(read_summary(ASKED_CONCEPTS, job.input("asked_concepts")).select("concept_id", "concept").iter_rows())
output = job.outputs["table"]
writer = endpoint_asker(job.experiment.methods.prompt_writer, os.environ, output.parents[1])
write_summary(STEERING_PROMPTS, written_prompts(concepts, writer, output.parent / "answers", job.workflow.part_seconds), output)

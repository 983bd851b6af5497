"""Digests of a model folder or data file."""

from common import open_job

from saesteer.files import write_json
from saesteer.pins import pin, pinned_path

job = open_job(snakemake)
name = job.wildcards["name"]
revisions = {"model": job.experiment.model.revision, "perplexity_model": job.experiment.perplexity.model.revision}
write_json(job.outputs["pin"], pin(pinned_path(job.experiment, name), revisions.get(name)))

"""Digests of a model or data file."""

import json
from pathlib import Path

from saesteer.core.files import write_json
from saesteer.sources.pins import MODELS, model_settings, pin, pin_of_fetched, pinned_path
from saesteer.workflow.job import open_job

job = open_job(snakemake)
name = job.wildcards["name"]
path = pinned_path(job.run.experiment, name)
if path is None:
    (place,) = snakemake.input
    fetched = json.loads(Path(place).read_text(encoding="utf-8"))
    pinned = pin_of_fetched(fetched["repo"], fetched["commit"], fetched["files"])
else:
    pinned = pin(path, model_settings(job.run.experiment, name).revision if name in MODELS else None)
write_json(job.outputs["pin"], pinned)

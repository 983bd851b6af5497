"""Digests of a model or data file."""

import json
from pathlib import Path

from common import open_job

from saesteer.core.files import write_json
from saesteer.sources.pins import MODELS, model_settings, pin, pin_of_fetched, pinned_path

job = open_job(snakemake)
name = job.wildcards["name"]
path = pinned_path(job.experiment, name)
if path is None:
    (place,) = snakemake.input
    fetched = json.loads(Path(place).read_text(encoding="utf-8"))
    pinned = pin_of_fetched(fetched["repo"], fetched["commit"], fetched["files"])
else:
    pinned = pin(path, model_settings(job.experiment, name).revision if name in MODELS else None)
write_json(job.outputs["pin"], pinned)

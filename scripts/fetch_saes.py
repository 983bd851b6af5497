"""SAEs of the hub in plain form."""

from dataclasses import asdict

from saesteer.core.files import value_digest, write_json
from saesteer.engine.sae_convert import fetch_and_convert
from saesteer.sources.pins import sae_entry
from saesteer.workflow.job import open_job

job = open_job(snakemake)
run, saes, cache = job.run, job.run.experiment.saes, job.run.workflow.cache_dir
# Other SAEs of an experiment of this name, in a project that shares the folder, lie elsewhere.
folder = run.workflow.downloads_dir / run.name / f"saes-{value_digest(saes.model_dump(mode='json'))[:16]}"
layers = {}
for layer in job.layers:
    out = folder / f"layer_{layer:02d}.safetensors"
    layers[str(layer)] = sae_entry(asdict(fetch_and_convert(saes, layer, cache, out)), out)
write_json(job.outputs["place"], {"folder": str(folder.absolute()), "layers": layers})

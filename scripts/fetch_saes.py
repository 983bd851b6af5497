"""SAEs of the hub in plain form."""

from dataclasses import asdict

from common import open_job

from saesteer.core.files import write_json
from saesteer.engine.sae_convert import fetch_and_convert
from saesteer.sources.pins import sae_entry

job = open_job(snakemake)
saes, cache = job.experiment.saes, job.workflow.cache_dir
folder = (cache or job.workflow.data_dir / "downloads") / job.wildcards["experiment"] / "saes"
layers = {}
for layer in job.layers:
    out = folder / f"layer_{layer:02d}.safetensors"
    layers[str(layer)] = sae_entry(asdict(fetch_and_convert(saes, layer, cache, out)), out)
write_json(job.outputs["place"], {"folder": str(folder.absolute()), "layers": layers})

"""SAEs of the hub in plain form."""

from common import open_job

from saesteer.files import write_json
from saesteer.saes import manifest_entry

job = open_job(snakemake)
saes, cache = job.experiment.saes, job.workflow.cache_dir
folder = (cache or job.workflow.data_dir / "downloads") / job.wildcards["experiment"] / "saes"
layers = {}
for layer in job.layers:
    from saesteer.sae_convert import fetch_and_convert

    layers[str(layer)] = manifest_entry(fetch_and_convert(saes, layer, cache, folder / f"layer_{layer:02d}.safetensors"), folder)
write_json(job.outputs["place"], {"folder": str(folder.absolute()), "layers": layers})

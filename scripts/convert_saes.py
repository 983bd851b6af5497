"""SAEs from sae-lens's form to plain safetensors and JSON, checked against what the experiment says of them."""

from pathlib import Path

from common import open_job

from saesteer.files import write_json
from saesteer.sae_convert import convert_sae

job = open_job(snakemake)
saes, manifest = job.experiment.saes, job.outputs["manifest"]
converted = {}
for layer in job.layers:
    out = manifest.parent / f"layer_{layer:02d}.safetensors"
    meta = convert_sae(Path(saes.path.format(layer=layer)), layer, f"resid_{saes.site}", saes.d_model, saes.n_features, out)
    converted[str(layer)] = {"fingerprint": meta.sha256, "file": out.name}
write_json(manifest, {"step": "saes", "layers": converted})

"""SAEs from sae-lens's form to plain safetensors and JSON, checked against what the experiment says of them."""

import json
from pathlib import Path

from common import open_job

from saesteer.code_digest import algorithm_version
from saesteer.files import write_json
from saesteer.pins import is_current, pin

job = open_job(snakemake)
saes, manifest = job.experiment.saes, job.outputs["manifest"]
converted = {}
for layer in job.layers:
    source, out = Path(saes.path.format(layer=layer)), manifest.parent / f"layer_{layer:02d}.safetensors"
    asked = {"layer": layer, "site": f"resid_{saes.site}", "d_model": saes.d_model, "n_features": saes.n_features}
    made_from = {"source_digest": pin(source)["digest"], "converter_version": algorithm_version("saesteer.sae_convert")}
    if not is_current(out, asked | made_from):
        from saesteer.sae_convert import convert_sae

        convert_sae(source, out=out, **asked)
    meta = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    converted[str(layer)] = {"fingerprint": meta["sha256"], "file": out.name}
write_json(manifest, {"step": "saes", "layers": converted})

"""SAEs from sae-lens's form to plain safetensors and JSON, checked against what the experiment says of them.

Those from the hub were converted where they were fetched, and stay there: only what results depend on is written here.
"""

import json
from pathlib import Path
from typing import Any

from saesteer.core.files import write_json
from saesteer.sources.pins import SAE_FILES, is_current, pin, sae_entry
from saesteer.workflow.code_digest import algorithm_versions
from saesteer.workflow.job import open_job

job = open_job(snakemake)
saes, manifest = job.run.experiment.saes, job.outputs["manifest"]


def converted(layer: int) -> dict[str, Any]:
    source, out = Path(saes.path.format(layer=layer)), manifest.parent / f"layer_{layer:02d}.safetensors"
    expected = {"layer": layer, "hook_point": saes.hook_point, "d_model": saes.d_model, "n_features": saes.n_features}
    made_from = {
        "decoder_rows": saes.decoder_rows,
        "source_digest": pin(source, patterns=SAE_FILES)["digest"],
        "converter_version": algorithm_versions("engine.sae_convert")["engine.sae_convert"],
    }
    if not is_current(out, expected | made_from):
        from saesteer.engine.sae_convert import convert_sae

        convert_sae(source, out=out, decoder_rows=saes.decoder_rows, **expected)
    return sae_entry(json.loads(out.with_suffix(".json").read_text(encoding="utf-8")), out)


if saes.from_hub:
    (place,) = snakemake.input
    fetched = json.loads(Path(place).read_text(encoding="utf-8"))["layers"]
    layers = {layer: {name: value for name, value in entry.items() if name != "sha256"} for layer, entry in fetched.items()}
else:
    layers = {str(layer): converted(layer) for layer in job.layers}
write_json(manifest, {"step": "saes", "layers": layers})

"""The SAEs of a job. Imports torch, so scripts import it only when rows are missing."""

import logging
from pathlib import Path

from common import Job, place
from gpu import available_device

from saesteer.core.store import read_manifest
from saesteer.engine.dtypes import number_type
from saesteer.engine.saes import Sae, load_sae

log = logging.getLogger("saesteer")


def sae_file(job: Job, layer: int) -> Path:
    """The converted SAE of a layer: beside its manifest, or where SAEs from the hub were put."""
    manifest = job.input("saes")
    entry = read_manifest(manifest)["layers"][str(layer)]
    folder = place(job.input("sae_files")) if job.experiment.saes.from_hub else manifest.parent
    return folder / entry["file"]


def open_sae(job: Job, layer: int) -> Sae:
    """Load the converted SAE of a layer."""
    sae = load_sae(sae_file(job, layer), number_type(job.experiment.model.dtype), available_device())
    log.info("SAE of layer %d: %s, digest %s", layer, sae.meta.source, sae.meta.source_digest[:16])
    return sae

"""The SAEs of a job. Imports torch, so scripts import it only when rows are missing."""

import logging
from pathlib import Path

from common import Job
from gpu import available_device

from saesteer.engine.dtypes import number_type
from saesteer.engine.saes import Sae, load_sae
from saesteer.sources.pins import converted_sae
from saesteer.workflow.plan import layer_groups

log = logging.getLogger("saesteer")


def sae_file(job: Job, layer: int) -> Path:
    """The converted SAE of a layer: beside its manifest, or where SAEs from the hub were put. The rule's input has those of the job's own
    layers, or of all groups of layers, in order."""
    manifests = job.inputs["saes"]
    groups = layer_groups(job.experiment).values() if len(manifests) > 1 else [job.experiment.layers]
    (number,) = (place for place, layers in enumerate(groups) if layer in layers)
    return converted_sae(manifests[number], job.inputs["sae_files"][number] if job.experiment.saes.from_hub else None, layer)


def open_sae(job: Job, layer: int) -> Sae:
    """Load the converted SAE of a layer."""
    sae = load_sae(sae_file(job, layer), number_type(job.experiment.model.dtype), available_device())
    log.info("SAE of layer %d: %s, digest %s", layer, sae.meta.source, sae.meta.source_digest[:16])
    return sae

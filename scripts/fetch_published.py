"""A file that a paper published, checked by its pinned SHA-256."""

from pathlib import Path

from saesteer.settings import load_workflow
from saesteer.sources.download import fetch_published
from saesteer.workflow.job import start_log

start_log(Path(snakemake.log[0]))
workflow = load_workflow(snakemake.config)
key = str(Path(snakemake.wildcards.file).with_suffix(""))
fetch_published(key, workflow.addresses.github, workflow.data_dir / "downloads", stated=workflow.published_digests)

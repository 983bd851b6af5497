"""A model of the hub or a package, or of a GGUF file, as a folder; refused at once when it does not fit the experiment."""

from functools import partial

from saesteer.core.files import write_json
from saesteer.sources.hub import model_config, model_tokenizer
from saesteer.sources.pins import model_settings
from saesteer.workflow.checks import check_model, check_model_config, check_tokens
from saesteer.workflow.job import open_job
from saesteer.workflow.model_files import model_files

job = open_job(snakemake)
run, experiment = job.run, job.run.experiment
name, cache = job.wildcards["name"], run.workflow.cache_dir
settings = model_settings(experiment, name)
check = partial(check_model_config, run.name, experiment, source=settings.name) if name == "model" else dict
if name == "model" and settings.repo:  # before gigabytes are fetched
    check(model_config(settings.repo, settings.revision, cache))
    check_tokens(experiment, model_tokenizer(settings.repo, settings.revision, cache))
fetched = model_files(settings, run.workflow, check)
if name == "model":
    check_model(run.name, experiment, fetched.folder)
    if settings.repo is None:
        check_tokens(experiment, fetched.folder)
place = {"folder": str(fetched.folder), "repo": fetched.repo, "commit": fetched.commit, "files": fetched.files}
write_json(job.outputs["place"], place)

"""A model of the Hugging Face hub into the hub's cache; refused at once when it does not fit the experiment."""

from saesteer.core.files import write_json
from saesteer.sources.hub import fetch_model, model_config, model_tokenizer
from saesteer.sources.pins import model_settings
from saesteer.workflow.checks import check_model, check_model_config, check_tokens
from saesteer.workflow.job import open_job

job = open_job(snakemake)
run, experiment = job.run, job.run.experiment
name, cache = job.wildcards["name"], run.workflow.cache_dir
settings = model_settings(experiment, name)
if name == "model":  # before gigabytes are fetched
    config = model_config(settings.repo, settings.revision, cache)
    check_model_config(run.name, experiment, config, settings.repo)
    check_tokens(experiment, model_tokenizer(settings.repo, settings.revision, cache))
fetched = fetch_model(settings.repo, settings.revision, cache)
if name == "model":
    check_model(run.name, experiment, fetched.folder)
place = {"folder": str(fetched.folder), "repo": fetched.repo, "commit": fetched.commit, "files": fetched.files}
write_json(job.outputs["place"], place)

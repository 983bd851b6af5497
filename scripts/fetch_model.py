"""A model of the Hugging Face hub into the hub's cache; refused at once when it does not fit the experiment."""

from common import open_job

from saesteer.core.files import write_json
from saesteer.sources.hub import fetch_model, model_config, model_tokenizer
from saesteer.sources.pins import model_settings
from saesteer.workflow.checks import check_model, check_model_config, check_tokens

job = open_job(snakemake)
name, cache = job.wildcards["name"], job.workflow.cache_dir
settings = model_settings(job.experiment, name)
if name == "model":  # before gigabytes are fetched
    config = model_config(settings.repo, settings.revision, cache)
    check_model_config(job.wildcards["experiment"], job.experiment, config, settings.repo)
    check_tokens(job.experiment, model_tokenizer(settings.repo, settings.revision, cache))
fetched = fetch_model(settings.repo, settings.revision, cache)
if name == "model":
    check_model(job.wildcards["experiment"], job.experiment, fetched.folder)
place = {"folder": str(fetched.folder), "repo": fetched.repo, "commit": fetched.commit, "files": fetched.files}
write_json(job.outputs["place"], place)

# Helpers for a cluster: what a job that runs a model asks for, and what stays on the submitting host. No rules here.

import functools
import os
from pathlib import Path

from saesteer.sources.model_size import n_gpus
from saesteer.workflow import plan
from saesteer.workflow.locks import cancel_left_jobs, explain_lock, put_before_slurm, record_run
from saesteer.workflow.terminal import SHELL_PREFIX, show_progress_only, stop_jobs_at_ctrl_c

IDLE = {"gpu": 0, "mem_mb": 1500, "runtime": 10, "gpu_model": None}
"""What a job asks for that has no key to compute."""
DEFAULTS = workflow.resource_settings.default_resources or {}  # the profile's
if workflow.is_main_process:
    explain_lock(Path(), logger)
# On a cluster Snakemake's messages say which jobs are submitted.
shows_all = workflow.output_settings.dryrun or DEFAULTS or workflow.output_settings.verbose or not workflow.modifier.is_main_snakefile()
if workflow.is_main_process and not shows_all:
    show_progress_only(logger)
if workflow.is_main_process and not workflow.output_settings.dryrun:
    stop_jobs_at_ctrl_c(logger)
    shell.prefix(SHELL_PREFIX)
if workflow.is_main_process and DEFAULTS:  # there are some whenever jobs are submitted
    put_before_slurm(SHIPPED / "slurm/bin", WORKFLOW.job_variables)


def share_of_cores(wildcards):
    """For threads: this machine's cores, shared among the jobs of the experiments' layers; a job on a cluster has one. A power of two, for
    PyTorch's GELU rounds otherwise at the ends of parts that are no whole vectors, and models' widths are divided by 2, 4 and 8."""
    cores = min(8, workflow.resource_settings.cores or 1, int((os.environ.get("OMP_NUM_THREADS") or "8").partition(",")[0]))
    n_jobs = sum(len(run.groups("generations")) for run in RUNS.values())
    return 1 if DEFAULTS else 2 ** (max(1, cores // n_jobs).bit_length() - 1)


def gpu_job(step):
    """For resources: a GPU and what the profile says; little, and no GPU, for a job that has no key to compute."""
    names = [name for name in (*IDLE, "slurm_partition") if name == "gpu" or name in DEFAULTS]
    return {name: functools.partial(resource_of, step, name) for name in names}


def resource_of(step, name, wildcards, input, attempt, threads, rulename, async_run):
    job = (wildcards, {"input": input, "attempt": attempt, "threads": threads, "rulename": rulename, "async_run": async_run})
    if has_keys_to_compute(step, wildcards, attempt):
        return n_gpus_of(step, *job) if name == "gpu" else profile_value(name, *job)
    return profile_value("cpu_partition", *job) if name == "slurm_partition" else IDLE[name]


def n_gpus_of(step, wildcards, job):
    """As many GPUs of the profile's `gpu_mb` as the step's largest model needs; one where the profile does not say how large they are."""
    if "gpu_mb" not in DEFAULTS:
        return 1
    models = plan.model_bytes(RUNS[wildcards.experiment], step)
    return n_gpus(models, profile_value("gpu_mb", wildcards, job) * 10**6)


def profile_value(name, wildcards, job):
    """What the profile's default-resources say; the partition is the same for jobs that need no GPU unless it names another."""
    name = "slurm_partition" if name == "cpu_partition" and name not in DEFAULTS else name
    return DEFAULTS[name].evaluate(wildcards, **job).value


def has_keys_to_compute(step, wildcards, attempt):
    """Whether a job has to compute something, as far as can be known while its inputs may still be missing."""
    run, layers = RUNS[wildcards.experiment].of_job(wildcards.layers)
    files = plan.files_of_keys(run, step, layers)
    seen = tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in files)
    return n_missing(step, wildcards.experiment, wildcards.layers, (seen, attempt)) != 0


@functools.cache
def n_missing(step, name, group, state):
    """Missing keys of a job, counted once for all its resources; `state` is what the count depends on besides."""
    run, layers = RUNS[name].of_job(group)
    return plan.n_missing(run, step, layers)


def failed_jobs():
    """For onerror: which jobs failed and which logs say why; in a long run their messages are far above."""
    lines = ["Failed jobs, and the logs that say why (SLURM's says so when a job was killed):"]
    for job in sorted(workflow.scheduler.failed, key=lambda job: [job.rule.name, *job.wildcards]):
        folder = Path(".snakemake/slurm_logs", f"rule_{job.rule.name}", "_".join(job.wildcards))
        of_slurm = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        lines.append(f"  {job.rule.name} {' '.join(job.wildcards)}: {' '.join(map(str, [*job.log, *of_slurm[-1:]]))}")
    return "\n".join(lines)


def print_findings():
    """For onsuccess: what was found in the experiments that this run was about, and what to do next."""
    from saesteer.site.headline import finished_words

    names = {getattr(job.wildcards, "experiment", None) for job in workflow.dag.jobs}
    for line in (line for name, run in RUNS.items() if name in names for line in finished_words(run)):
        print(line)

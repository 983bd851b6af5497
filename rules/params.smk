# What makes a job due besides its files: the code, settings and keys of its params. No rules here.

import functools

from saesteer.workflow.code_digest import code_digest


def code(script, *functions):
    """For params: digest of a rule's script, of functions that it calls by name, and of the package's modules that these use, since Snakemake
    notices the script only. A function, so that it is computed for the rules that are needed."""
    return lambda wildcards: code_digest(functions=functions, scripts=(SCRIPTS / script,))


def summary(name):
    """For params: which tables of saesteer.summaries are made (a rule that is used as a module's may have another name), their columns and
    their code."""
    of_name = summaries()[name]
    columns = plan.in_words({table.name: table.in_words for table in of_name.tables})
    return {"summary": name, "columns": columns, "code": code("summary.py", of_name.function)}


def setting(*sections):
    """For params: the values of sections of the experiment file that a job reads, in words."""
    return functools.partial(values_of_sections, sections)


def values_of_sections(sections, wildcards):
    experiment = EXPERIMENTS[wildcards.experiment].model_dump(mode="json")
    return plan.in_words({section: experiment[section] for section in sections if section in experiment})


def rows_of(step):
    """For params: the keys, settings and versions that a job of a step computes rows for, in words."""
    return {name: functools.partial(what_rows_depend_on, step, name) for name in ("rows", "settings", "versions")}


def what_rows_depend_on(step, name, wildcards):
    return wants_of(step, wildcards.experiment, wildcards.layers)[name]


@functools.cache
def wants_of(step, name, group):
    """What plan.params_of_rows says of a job."""
    run, layers = RUNS[name].of_job(group)
    return plan.params_of_rows(run, step, layers)

# Helpers of the study's rules. No rules here.

import os
from pathlib import Path

from studies.questions.registry import FIGURES as STUDY_FIGURES
from studies.questions.registry import SUMMARIES, code_of, further_outputs

os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [str(SHIPPED), os.getenv("PYTHONPATH")])))  # for jobs, which import studies
STUDY_SCRIPTS = SHIPPED / "studies/scripts"


def study_code(script, module):
    """For params: digest of a script of the study, of a module of studies.questions, and of all that they import."""
    return lambda wildcards: code_of(module.format(**wildcards), STUDY_SCRIPTS / script)


def study_tables(wildcards):
    """The tables that a figure of the study reads."""
    return {table: f"{TABLES}/{table}.parquet".format(**wildcards) for table in STUDY_FIGURES[wildcards.figure].tables}


def tables_by_group(table):
    """The files of a table that each group of layers has its own of."""
    return lambda wildcards: [
        f"{DATA}/{table}/{group}.parquet".format(**wildcards) for group in EXPERIMENTS[wildcards.experiment].layer_groups
    ]

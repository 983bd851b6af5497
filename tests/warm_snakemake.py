"""`snakemake`, whose first job that needs torch starts a process that imports the libraries; that job and all after it are forked from it.

Each would import them anew, which takes longer than what the small experiments of tests compute. The process lives as long as the run.
"""

import gc
import multiprocessing
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

LIBRARIES = ["matplotlib.pyplot", "transformers.models.gemma2.modeling_gemma2", "saesteer.figures.registry", "saesteer.workflow.job"]


def run(path: str) -> None:
    """A script, as `python` runs it."""
    sys.path[0] = str(Path(path).parent)
    gc.freeze()  # else looking for garbage copies all that was imported
    try:
        runpy.run_path(path, run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def run_forked(script: Any, path: str, edit: bool = False) -> None:
    """What PythonScript.execute_script does: the script in a process of its own, measured."""
    from snakemake.benchmark import benchmarked

    process = multiprocessing.Process(target=run, args=(path,))
    process.start()
    with benchmarked(process.pid if script.bench_record else False, script.bench_record):
        process.join()
    if process.exitcode:
        raise subprocess.CalledProcessError(process.exitcode, path)


if __name__ == "__main__":  # every forked process imports this file, but not Snakemake
    from snakemake.cli import main
    from snakemake.script import PythonScript

    run_cold = PythonScript.execute_script

    def run_cold_until_torch(script: Any, path: str, edit: bool = False) -> None:
        if script.resources.get("gpu") or script.rulename == "convert_saes":
            PythonScript.execute_script = run_forked
            run_forked(script, path, edit)
        else:
            run_cold(script, path, edit)

    multiprocessing.set_start_method("forkserver")
    multiprocessing.set_forkserver_preload(LIBRARIES)
    PythonScript.execute_script = run_cold_until_torch
    sys.exit(main())

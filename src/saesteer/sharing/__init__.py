"""Versions of results, shared through DVC: the only place that knows DVC's files and Snakemake's records of outputs.

Snakemake is the only graph: it decides what is due. DVC stores and versions what was made. Between them stands `provenance/`, in git:
for each output its SHA-256, its inputs' SHA-256, and Snakemake's own record of the job. `push` writes it; `pull` checks what came against
it and hands Snakemake the records of what agrees, so that a clone has nothing left to do, and anything that differs is seen as a change.
"""

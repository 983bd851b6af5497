"""What each step wants and what its rows depend on; checks before a run; locks, SLURM, digests of code."""

"""`snakemake` that asks SLURM for its jobs every two seconds, where the plugin waits ten seconds longer each time that none has ended."""

import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

RemoteExecutor.next_seconds_between_status_checks = property(lambda executor: 2, lambda executor, seconds: None)
sys.exit(main())

"""The application: how it shows errors, the options that several commands have, and what they share."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import saesteer
from saesteer.core.errors import SaesteerError
from saesteer.core.machine import complete_environment
from saesteer.workflow.locks import stale_locks

if TYPE_CHECKING:
    from saesteer.run import Run
    from saesteer.settings import Workflow


class _Commands(TyperGroup):
    """Shows what a user can mend as one message, whichever command raised it."""

    def invoke(self, ctx: Any) -> Any:
        arguments = ctx.args
        try:
            return super().invoke(ctx)
        except (SaesteerError, OSError) as error:
            typer.echo(f"{error}{_other_order(str(error), arguments)}", err=True)
            raise typer.Exit(1) from error


def _other_order(error: str, arguments: list[str]) -> str:
    """Where the first argument names no experiment, and the second does: that it comes first."""
    first, second = (*arguments, "", "")[:2]
    is_refused = error.startswith((f"experiment {first!r}: ", f"{first!r} cannot name an experiment"))
    return f"\n{second!r} is one: name it first" if is_refused and (_EXPERIMENTS / f"{second}.yaml").is_file() else ""


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def commands(group: str) -> Callable[..., Any]:
    """What makes a function a command of a group of `saesteer --help`."""
    return partial(app.command, rich_help_panel=group)


def _show_version(requested: bool) -> bool:
    if requested:
        typer.echo(f"saesteer {saesteer.__version__}")
        raise typer.Exit
    return requested


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)] = False,
) -> None:
    """Steer language models with features of sparse autoencoders. `snakemake` runs experiments; these commands are for all else."""
    complete_environment()


def _named(names: list[str] | None) -> list[str] | None:
    from saesteer.settings import experiment_name

    return names and [experiment_name(name) for name in names]


Finished = Annotated[str, typer.Argument(help="Name of a finished experiment.")]
FinishedComparison = Annotated[str, typer.Argument(help="Name of a finished comparison of methods.")]
Experiments = Annotated[list[str], typer.Argument(help="Names of experiments.", callback=_named)]
SomeExperiments = Annotated[
    list[str] | None,
    typer.Argument(help="Names of experiments; none: those of the configuration (pull: all that were published).", callback=_named),
]
Configfile = Annotated[Path, typer.Option(help="Configuration that names the experiments.")]
CONFIG, _EXPERIMENTS = Path("config/config.yaml"), Path("config/experiments")


def workflow_of(configfile: Path) -> "Workflow":
    """The settings of a configuration."""
    from saesteer.settings import read_workflow

    return read_workflow(configfile)


def run_of(experiment: str, configfile: Path) -> "Run":
    """An experiment in the folders of a configuration."""
    from saesteer.run import open_run

    return open_run(experiment, workflow_of(configfile))


def refuse_while_running(folder: Path = Path()) -> list[Path]:
    """The folder's locks, which nobody alive holds."""
    locks, holder = stale_locks(folder)
    if holder is not None:
        raise SaesteerError(f"a workflow is running here (process {holder}): wait for it, or stop it, then try again")
    return locks

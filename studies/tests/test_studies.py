"""Commands of studies/: what the Makefile calls is there, with the options that it gives."""

import re
import shlex

import pytest
import typer
from workflow_folder import ROOT

from studies.public import __main__ as public
from studies.world import __main__ as world

APPS = {"world": world.app, "public": public.app}
CALLS = re.findall(r"-m studies\.(\w+) (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("study", "words"), CALLS, ids=[f"{study} {words.split()[0]}" for study, words in CALLS])
def test_the_makefile_calls_a_command_as_it_is(study: str, words: str) -> None:
    command, *options = shlex.split(words.replace("$(SEED)", "0"))
    typer.main.get_command(APPS[study]).commands[command].make_context(command, options)


def test_every_command_has_a_target() -> None:
    named = {(study, words.split()[0]) for study, words in CALLS}
    assert named == {(study, name) for study, app in APPS.items() for name in typer.main.get_command(app).commands}

# %% [markdown]
# # Start
#
# > The `fairgrape` command, which can be stopped while it still imports

# %%
#| default_exp start

# %%
#| export
import signal
import sys

from fairgrape.experiment.paths import in_utf8

# %%
import contextlib
import io
import types
from unittest.mock import Mock, patch


# %% [markdown]
# [The command line](01_cli.ipynb) imports torch and the rest, which takes seconds. Ctrl-C in these seconds ends the command with a sentence, as it does later, and not with a traceback.

# %%
#| export
def main(
    arguments: list[str] | None = None,  # Default: the command line
) -> int:  # As `fairgrape.cli.main` says
    "The `fairgrape` command."
    if arguments is None:
        in_utf8()
    try:
        from fairgrape.cli import main as command

        return command(arguments)
    except KeyboardInterrupt:
        print("fairgrape: stopped before anything was started", file=sys.stderr)
        return 128 + signal.SIGINT


# %% [markdown]
# Two commands in the place of the real one: one ends well, and one is stopped.

# %%
def status_of(command: Mock) -> tuple[int, str]:
    "Exit status and words of `fairgrape status`, if the command were that"
    with (
        patch.dict(sys.modules, {"fairgrape.cli": types.SimpleNamespace(main=command)}),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        return main(["status"]), said.getvalue()


well, stopped = Mock(return_value=0), Mock(side_effect=KeyboardInterrupt)
status_of(well), status_of(stopped)

# %%
assert status_of(well) == (0, "") and well.call_args.args == (["status"],)
assert status_of(stopped) == (130, "fairgrape: stopped before anything was started\n")

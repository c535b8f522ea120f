# %% [markdown]
# # Start
#
# > The `fairgrape` command, which Ctrl-C can stop during its imports

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
# [The command line](01_cli.ipynb) imports torch and other libraries, which takes seconds. Ctrl-C during these seconds ends the command with a message, as it does later, instead of a traceback.

# %%
#| export
def main(
    arguments: list[str] | None = None,  # Default: the command line
) -> int:  # The exit status of `fairgrape.cli.main`
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
# Two mock commands: one succeeds, and one is stopped.

# %%
def status_of(command: Mock) -> tuple[int, str]:
    "Exit status and message of `fairgrape status` with a mock command."
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

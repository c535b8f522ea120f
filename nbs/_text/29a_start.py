# %% [markdown]
# # Starting at once
#
# > The `fairgrape` command: what takes long is begun before the rest is imported

# %%
#| default_exp start

# %%
#| export
import argparse
import signal
import sys
from collections.abc import Sequence

from fairgrape.settings import in_utf8
from fairgrape.workers import Local

# %%
import contextlib
import io
import subprocess
import types
from unittest.mock import Mock, patch

import psutil


# %% [markdown]
# Two processes of a sweep import torch and the rest: the one that plans it, and [the server](25_runner.ipynb) that forks its workers. On two slow cores that was 12 seconds, and then another 13, before the first run began.
# Neither needs the other for it. So the command looks at its words first, and where they mean a sweep on this machine the server starts to import at once; what is imported above is what it takes to start it.

# %%
#| export
def engine_ahead(
    words: Sequence[str], # What was said after `fairgrape`
) -> Local | None:        # An engine whose server is under way; None where the command has no use for one
    "Begin what a sweep or a study on this machine needs first. What is wrong with the words is left to the command to say."
    if not words or words[0] not in ("sweep", "study"): return None
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for flag in ("--dry_run", "--help", "-h"): parser.add_argument(flag, action="store_true")
    for option, default in (("--engine", "local"), ("--device", "")): parser.add_argument(option, default=default)
    for option, default in (("--workers", 0), ("--gpus_per_run", 1)): parser.add_argument(option, type=int, default=default)
    try:
        asked, _ = parser.parse_known_args(list(words[1:]))
        if asked.dry_run or asked.help or asked.h or asked.engine != "local": return None
        engine = Local(asked.workers, asked.gpus_per_run, asked.device)
        engine.begin()
    except (argparse.ArgumentError, ValueError, OSError): return None
    return engine


# %%
with patch.object(Local, "begin") as begun: asked = {words: engine_ahead(words.split()) for words in ("sweep demo --workers 2 --device cpu", "study rates --dataset utkface --fast", "status", "sweep demo --dry_run")}
{words: engine and (engine.size, engine.asked) for words, engine in asked.items()}

# %%
assert begun.call_count == 2 and [e and e.asked for e in asked.values()] == [(2, 1, "cpu"), (0, 1, ""), None, None]
with patch.object(Local, "begin") as begun:
    for words in ("", "run --workers 2", "sweep demo --help", "study rates -h", "sweep demo --engine ray", "sweep demo --workers two", "sweep demo --workers -1", "sweep demo --workers"):
        assert engine_ahead(words.split()) is None, words
assert not begun.called
with patch.object(Local, "begin", side_effect=OSError("no more processes")): assert engine_ahead(["sweep"]) is None      # the command says so, if it is still so then


# %% [markdown]
# Whatever the command comes to, the server does not outlive it: not where every run was there already, and not after an error. Ctrl-C may come while there is nothing but imports to stop.

# %%
#| export
def main(
    arguments: list[str] | None = None, # Default: the command line
) -> int:                               # As `fairgrape.cli.main` says
    "The `fairgrape` command."
    if arguments is None: in_utf8()
    given, engine = sys.argv[1:] if arguments is None else arguments, None
    try:
        engine = engine_ahead(given)
        from fairgrape.cli import main as command
        return command(given, engine)
    except KeyboardInterrupt:
        print("fairgrape: stopped before anything was started", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        if engine: engine.stop()


# %% [markdown]
# A command in the place of the real one sees the server at work. Afterwards it is gone, however the command ended.

# %%
servers = []
def command(given: list[str], ahead: Local | None) -> int:
    "Looks at the server, and ends as it is told"
    servers.append(psutil.Process(ahead.server.pid))
    assert servers[-1].is_running() and given[0] == "sweep"
    return dict(well=0).get(given[1]) if given[1] != "badly" else 1/0

with patch.dict(sys.modules, {"fairgrape.cli": types.SimpleNamespace(main=command)}):
    status = main(["sweep", "well", "--device", "cpu"])
    with contextlib.suppress(ZeroDivisionError): main(["sweep", "badly", "--device", "cpu"]); raise AssertionError("the error was swallowed")
status, [server.is_running() and server.status() for server in servers]

# %%
assert status == 0 and len(servers) == 2 and not any(s.is_running() and s.status() != psutil.STATUS_ZOMBIE for s in servers)
stopped = Mock(side_effect=KeyboardInterrupt)
with patch.dict(sys.modules, {"fairgrape.cli": types.SimpleNamespace(main=stopped)}), contextlib.redirect_stderr(io.StringIO()) as said: assert main(["status"]) == 130
assert "stopped before" in said.getvalue() and stopped.call_args.args == (["status"], None)

# %% [markdown]
# What is imported first must stay small, or it is no head start.

# %%
seen = subprocess.run([sys.executable, "-c", "import sys, fairgrape.start; print(*sorted({'torch', 'pandas', 'numba', 'matplotlib'} & set(sys.modules)))"], capture_output=True, text=True, check=True).stdout.split()
assert seen == []

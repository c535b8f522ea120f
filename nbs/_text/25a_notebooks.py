# %% [markdown]
# # Notebooks
#
# > A run is an executed notebook: where the template lies, how it is executed, and how its kernel gets around the imports

# %%
#| default_exp notebooks

# %%
#| export
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

import nbformat
import papermill
from fastcore.basics import patch
from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets.config import Config

# %%
import subprocess
from dataclasses import fields

tmp = Path(tempfile.mkdtemp())


# %% [markdown]
# A run is a notebook: the same one that a person opens to go through the method. papermill fills in the parameters and executes it; what is left behind is at once the log, the figures and the proof that they came from this code.
#
# Hundreds of runs are hundreds of worker processes, each of which only talks to a kernel. So this module imports no torch: a worker is there at once and small, and what takes long to import is imported once, by the kernel.
#
# ## The template
#
# A checkout has the templates beside the package, an installed wheel has them inside. The checkout's come first, so that whoever edits one runs what is edited.

# %%
#| export
def template(
    name: str = "prune", # "prune", "report" or "study"
) -> Path:               # The notebook
    "The parameterized notebook of that name: from the checkout, or from the installed package."
    package = Path(str(files("fairgrape")))
    found = [f for f in (package.parent / "nbs" / "templates" / f"{name}.ipynb", package / "templates" / f"{name}.ipynb") if f.is_file()]
    if not found: raise FileNotFoundError(f"no template {name!r}: there are prune, report and study")
    return found[0]


# %%
assert template().name == "prune.ipynb" and template("report").is_file() and template("study").is_file()
try: template("sweep")
except FileNotFoundError as e: print(e)
else: raise AssertionError("an unknown template was accepted")

# %% [markdown]
# The template's parameters and the library's settings are the same names with the same defaults, so nothing that can be set in Python cannot be set from the command line:

# %%
from fairgrape.experiment import KNOWN, PLACES, Settings

parameters = papermill.inspect_notebook(template())
{k: parameters[k]["default"] for k in ("dataset", "network", "method", "rate", "keep")}

# %%
defaults = {f.name: f.default for f in fields(Settings)}
assert tuple(parameters) == tuple(defaults) + PLACES == KNOWN
assert all(eval(parameters[k]["default"]) == v for k, v in defaults.items())


# %% [markdown]
# ## Whether it is whole
#
# papermill's own status cannot be trusted: after a kernel that was killed, every cell says `completed`. So the notebook is whole when papermill says of every code cell that it had *no* exception, which is another thing than not saying that it had one.

# %%
#| export
def notebook_is_whole(
    path: Path, # An executed notebook
) -> bool:      # Whether every code cell ran without an exception
    "Whether papermill went through the whole notebook."
    try: cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError): return False
    return all(c["metadata"].get("papermill", {}).get("exception") is False for c in cells if c["cell_type"] == "code")


# %% [markdown]
# Three notebooks of two cells: papermill went through both, stopped at the second, or never came to it. Then two that no longer are notebooks, as a killed process or a full disk leaves them.

# %%
def executed(*exceptions, name="x.ipynb"):
    "A notebook file in which papermill noted that of each code cell; None: nothing"
    noted = [{} if e is None else dict(papermill=dict(exception=e, status="completed")) for e in exceptions]
    (tmp / name).write_text(json.dumps(dict(cells=[dict(cell_type="markdown", metadata={})] + [dict(cell_type="code", metadata=m) for m in noted])))
    return tmp / name

[notebook_is_whole(executed(*cells)) for cells in ((False, False), (False, True), (False, None))]

# %%
assert [notebook_is_whole(executed(*cells)) for cells in ((False, False), (False, True), (False, None))] == [True, False, False]
for damaged in ('{"cells": [', "{}", "[]"):
    (tmp / "x.ipynb").write_text(damaged)
    assert not notebook_is_whole(tmp / "x.ipynb")
assert not notebook_is_whole(tmp / "none.ipynb") and not notebook_is_whole(template())          # absent; never executed


# %% [markdown]
# ## Executing one
#
# papermill saves the notebook after every cell, and a kill in the middle of a save leaves half a notebook. So it works on a file of another name, which gets its own name in one step at the end, whole or with the exception that stopped it.
# On the way the progress bars go, which write thousands of half lines into a notebook's error stream.

# %%
#| export
def _publish(part: Path, out: Path):
    "Give an executed notebook its own name, without progress bars."
    book = nbformat.read(part, 4)
    for cell in book.cells:
        if cell.cell_type == "code": cell.outputs = [o for o in cell.outputs if not (o.get("name") == "stderr" and "\r" in o.text)]
    with part.open("w", encoding="utf-8") as file:
        nbformat.write(book, file)
        file.flush(); os.fsync(file.fileno())
    part.replace(out)


# %%
def notebook(path, *codes, outputs=()):
    "A notebook file of code cells; the first is the one with the parameters"
    made = [nbformat.v4.new_code_cell(code, metadata=dict(tags=[] if i else ["parameters"])) for i, code in enumerate(codes)]
    made[-1].outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in outputs]
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=dict(kernelspec=dict(name="python3", language="python", display_name=""))), path)
    return path

notebook(tmp / "part.ipynb", "1 + 1", outputs=[("stderr", "epoch 1\repoch 2"), ("stderr", "a warning"), ("stdout", "a\rb")])
_publish(tmp / "part.ipynb", tmp / "out.ipynb")
[o.text for o in nbformat.read(tmp / "out.ipynb", 4).cells[0].outputs]

# %%
assert [o.text for o in nbformat.read(tmp / "out.ipynb", 4).cells[0].outputs] == ["a warning", "a\rb"] and not (tmp / "part.ipynb").exists()


# %% [markdown]
# Kernels talk over sockets. Files in a folder of their own, rather than ports, cannot be taken by the kernel beside this one. And the kernel is stopped at once when the notebook is through, without the seconds in which it could tidy up: all that matters is on the disk.

# %%
#| export
@contextmanager
def _sockets(kernel) -> Iterator[Config]:
    "papermill's configuration, for as long as the folder of its sockets is there."
    short = None if len(tempfile.gettempdir()) < 60 else "/tmp"                     # a socket's whole path may have some 100 characters
    with tempfile.TemporaryDirectory(prefix="fairgrape-", dir=short, ignore_cleanup_errors=True) as folder:
        client = {"shutdown_kernel": "immediate"} | ({"kernel_manager_class": type("Manager", (WaitingManager,), dict(kernel=kernel))} if kernel else {})
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}, "PapermillNotebookClient": client})


# %%
with _sockets(None) as config, _sockets(None) as other:
    sockets, beside = (Path(c["KernelManager"]["ip"]).parent for c in (config, other))
    assert sockets != beside and sockets.is_dir()
assert not sockets.exists() and config["KernelManager"]["transport"] == "ipc"
tempfile.tempdir, before = str(tmp / ("long" * 30)), tempfile.tempdir                             # as on a cluster's scratch disk
with _sockets(None) as far: assert len(far["KernelManager"]["ip"]) < 40
tempfile.tempdir = before
config["PapermillNotebookClient"]


# %%
#| export
def run_notebook(
    name: str | Path,   # A template, see `template`, or a notebook
    out: Path,          # The executed notebook
    parameters: dict,   # Its parameters
    log: bool = False,  # Pass on what the notebook prints
    kernel=None,        # A `Waiting` kernel; None: papermill starts one
) -> Path:              # The same path
    "Execute a template. Raises: papermill's error if a cell fails (the notebook is written all the same)."
    part, shown = out.with_name(f".{out.name}.part.ipynb"), dict(log_output=log, stdout_file=sys.stdout, stderr_file=sys.stderr) if log else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _sockets(kernel) as config:
            papermill.execute_notebook(name if isinstance(name, Path) else template(name), part, parameters, progress_bar=False, kernel_name="python3", config=config, **shown)
    finally:
        if part.is_file(): _publish(part, out)
    return out


# %% [markdown]
# A notebook of two cells, the second of which stops. What is left is one file, with the exception in it:

# %%
two = notebook(tmp / "two.ipynb", "rate = 0.9", "if rate > 1: raise ValueError(f'rate = {rate}')")
try: run_notebook(two, tmp / "runs" / "bad.ipynb", dict(rate=1.5))
except papermill.PapermillExecutionError as e: print(e.ename, e.evalue)
else: raise AssertionError("a bad rate was accepted")

# %%
assert [f.name for f in (tmp / "runs").iterdir()] == ["bad.ipynb"] and not notebook_is_whole(tmp / "runs" / "bad.ipynb")
assert "rate = 1.5" in nbformat.read(tmp / "runs" / "bad.ipynb", 4).cells[-1].outputs[0].evalue


# %% [markdown]
# ## A kernel that need not import
#
# On a slow core it takes ten seconds and more to import torch, pandas, matplotlib and the rest, and a small run takes no longer than that. So a sweep imports once, in a process that then does nothing but fork: each fork has everything loaded already, shares the memory,
# and goes its own way. jupyter's kernel manager can be told where its kernel comes from. Here it is a process that was forked beforehand, before anything in this one had started a thread, and that waits at a pipe for its connection file.

# %%
#| export
class Waiting:
    "A forked process that becomes a kernel once it is told its connection file; to jupyter it looks like a Popen"
    stdin = stdout = stderr = None

    def __init__(self):
        self.parent, self.returncode, (told, self.tell) = os.getpid(), None, os.pipe()
        self.pid = os.fork()
        if self.pid == 0: os.close(self.tell); self.become_kernel(told)
        os.close(told)

    def wait(self) -> int: return self.poll(0)
    def send_signal(self, number: int): os.kill(self.pid, number)
    def kill(self): self.send_signal(signal.SIGKILL)
    def terminate(self): self.send_signal(signal.SIGTERM)


# %% [markdown]
# To see the fork and the pipe by themselves: one that becomes no kernel, but ends with the number of letters it was told as its exit status.

# %%
class Letters(Waiting):
    def become_kernel(self, told): os._exit(len(os.read(told, 99)))

child = Letters()
os.write(child.tell, b"seven..")
ended = os.waitpid(child.pid, 0)
os.waitstatus_to_exitcode(ended[1])

# %%
assert ended == (child.pid, 7 << 8) and child.parent == os.getpid() != child.pid


# %% [markdown]
# jupyter asks again and again whether the kernel still lives. The system gives a child's status away once only, so it is kept.

# %%
#| export
@patch
def poll(self: Waiting, wait: int = os.WNOHANG) -> int | None:
    "Its exit status once it has ended"
    if self.returncode is None:
        pid, status = os.waitpid(self.pid, wait)
        if pid: self.returncode = os.waitstatus_to_exitcode(status)
    return self.returncode


# %%
killed, terminated = Letters(), Letters()
alive = killed.poll()
killed.kill(), terminated.terminate()
alive, killed.wait(), killed.poll(), terminated.wait()

# %%
assert alive is None and (killed.wait(), killed.poll(), terminated.wait()) == (-9, -9, -15)


# %% [markdown]
# What it is told: the arguments that a kernel is started with, the environment and the folder.

# %%
#| export
@patch
def begin(self: Waiting, arguments: list, env: dict, cwd: str):
    "Say what the kernel waits for"
    with os.fdopen(self.tell, "w") as pipe: json.dump([arguments, env, cwd], pipe)


# %%
child = Letters()
child.begin([], {}, ".")
child.wait()

# %%
assert child.wait() == len('[[], {}, "."]') == 13


# %% [markdown]
# With hundreds of forks of one program, `top` and `ps` would show the same word in every line. Where the system knows such names, each process says what it is.

# %%
#| export
def named(name: str):
    "Give this process a name of at most 15 letters, for `top` and `ps`, where the system knows such names."
    with suppress(OSError): Path("/proc/self/comm").write_text(name)


# %%
before = comm.read_text().strip() if (comm := Path("/proc/self/comm")).exists() else ""
named("fg-example")
now = comm.read_text().strip() if before else "a system without such names"
named(before)
now

# %%
assert now == ("fg-example" if before else "a system without such names")


# %% [markdown]
# And becoming a kernel: ipykernel's own application is started inside the fork, as `python -m ipykernel_launcher` would. It is told who its parent is, so that it ends when that is gone. An empty pipe means that the parent needed no kernel after all. However it ends, it ends here: nothing of the parent's
# work must go on in the fork.

# %%
#| export
@patch
def become_kernel(self: Waiting, told: int):
    "In the child: wait, then be a kernel until it is shut down"
    try:
        os.setsid(); named("fg-kernel")
        with os.fdopen(told) as pipe: text = pipe.read()
        if not text: os._exit(0)                                          # the parent ended without needing a kernel
        arguments, env, cwd = json.loads(text)
        os.environ.update(env); os.chdir(cwd)
        from ipykernel.kernelapp import IPKernelApp
        app = IPKernelApp.instance()
        app.initialize([*arguments, f"--IPKernelApp.parent_handle={self.parent}"])
        app.start()
    finally: os._exit(1)


# %%
spare, wrong = Waiting(), Waiting()
os.close(spare.tell)
wrong.begin([], {}, str(tmp / "nowhere"))              # there is no such folder to work in
spare.wait(), wrong.wait()

# %%
assert (spare.wait(), wrong.wait()) == (0, 1)


# %% [markdown]
# To jupyter a kernel comes from a provisioner, and the manager may be given one. This one starts nothing.

# %%
#| export
class WaitingProvisioner(LocalProvisioner):
    "Gives jupyter a kernel that waits, instead of starting one"
    async def launch_kernel(self, cmd: list[str], **kwargs):
        self.process, self.pid, self.pgid = self.parent.kernel, self.parent.kernel.pid, self.parent.kernel.pid
        self.process.begin(cmd[cmd.index("-f"):], kwargs.get("env") or {}, kwargs.get("cwd") or os.getcwd())
        return self.connection_info

class WaitingManager(AsyncKernelManager):
    "A kernel manager whose kernel waits already"
    kernel: Waiting = None

    async def _async_pre_start_kernel(self, **kw):
        if self.provisioner is None: self.provisioner = WaitingProvisioner(kernel_id="waiting", kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**kw)


# %% [markdown]
# Of the command that jupyter would have started, what follows the interpreter's own options is passed on:

# %%
class Said:
    pid, orders = 7, []
    def begin(self, *order): self.orders.append(order)

manager = type("Manager", (WaitingManager,), dict(kernel=Said()))()
launch = WaitingProvisioner(kernel_id="waiting", kernel_spec=manager.kernel_spec, parent=manager).launch_kernel(["python", "-m", "ipykernel_launcher", "-f", "connection.json"], env=dict(A="1"), cwd="/")
with suppress(StopIteration): launch.send(None)        # runs it to its end: nothing in it waits
Said.orders

# %%
assert Said.orders == [(["-f", "connection.json"], dict(A="1"), "/")]

# %% [markdown]
# A notebook in such a kernel, from a process that forks first. Its second cell asks where it is: in a child of the process that papermill runs in.

# %%
where = notebook(tmp / "where.ipynb", "rate = 0.9", "import os, psutil; print(rate, os.getppid(), psutil.Process().name())")
code = f"""
import os
from pathlib import Path
from fairgrape.notebooks import Waiting, run_notebook
kernel = Waiting()
run_notebook(Path({str(where)!r}), Path({str(tmp / "runs" / "where.ipynb")!r}), dict(rate=0.5), True, kernel)
print(os.getpid(), kernel.wait())"""
forked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
rate, parent, name, itself, status = forked.stdout.split()
f"rate {rate} in a process named {name}, which ended with {status}"

# %%
assert (rate, parent, status) == ("0.5", itself, "-9") and name == ("fg-kernel" if before else name), forked.stderr       # shut down at once
assert notebook_is_whole(tmp / "runs" / "where.ipynb")

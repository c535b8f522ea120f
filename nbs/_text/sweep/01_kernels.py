# %% [markdown]
# # Notebooks
#
# > A run is an executed notebook: its template, its execution, and a check for completeness

# %%
#| default_exp sweep.kernels

# %%
#| export
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import default
from traitlets.config import Config

from fairgrape.training.files import put

# %%
import os
from dataclasses import fields
from unittest.mock import patch

from jupyter_client.kernelspec import KernelSpec

import nbformat
import papermill

tmp = Path(tempfile.mkdtemp())


# %% [markdown]
# A run is a notebook, the same one that a reader opens to study the method. papermill fills in the parameters and executes it. The result is the log, the figures and the evidence that they came from this code.
#
# Hundreds of runs are hundreds of worker processes, each of which only talks to a kernel. This module therefore does not import torch: a worker starts quickly and stays small, and only its kernel loads torch.
#
# ## The template
#
# A checkout has the templates beside the package, an installed wheel has them inside. Those of the checkout come first, so edits take effect.

# %%
#| export
def template(
    name: str = "prune",  # "prune", "report" or "study"
) -> Path:  # The notebook
    "The parameterized notebook of that name: from the checkout, or from the installed package."
    package = Path(str(files("fairgrape")))
    found = [
        f
        for f in (
            package.parent / "nbs" / "templates" / f"{name}.ipynb",
            package / "templates" / f"{name}.ipynb",
        )
        if f.is_file()
    ]
    if not found:
        raise FileNotFoundError(f"no template {name!r}: choose prune, report or study")
    return found[0]


# %%
assert (
    template().name == "prune.ipynb"
    and template("report").is_file()
    and template("study").is_file()
)
try:
    template("sweep")
except FileNotFoundError as e:
    print(e)
else:
    raise AssertionError("an unknown template was accepted")

# %% [markdown]
# The parameters of the template and the settings of the library have the same names and defaults, so the command line can set everything that Python can:

# %%
from fairgrape.experiment.settings import KNOWN, PLACES, Settings

parameters = papermill.inspect_notebook(template())
{k: parameters[k]["default"] for k in ("dataset", "network", "method", "rate", "keep")}

# %%
defaults = {f.name: f.default for f in fields(Settings)}
assert tuple(parameters) == tuple(defaults) + PLACES == KNOWN
assert all(eval(parameters[k]["default"]) == v for k, v in defaults.items())


# %% [markdown]
# ## Complete notebooks
#
# papermill's own status is not reliable: after a kernel was killed, every cell says `completed`. A notebook is complete if papermill recorded for every code cell that it had *no* exception. A missing record is not enough.

# %%
#| export
def notebook_is_whole(
    path: Path,  # An executed notebook
) -> bool:  # Whether every code cell ran without an exception
    "Whether papermill executed the whole notebook."
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all(
        c["metadata"].get("papermill", {}).get("exception") is False
        for c in cells
        if c["cell_type"] == "code"
    )


# %% [markdown]
# Three notebooks of two cells: papermill executed both, stopped at the second, or never reached it. Then two files that are no valid notebooks, as a killed process or a full disk leaves them.

# %%
def executed(*exceptions, name="x.ipynb"):
    "A notebook file with this papermill record for each code cell; None: no record"
    noted = [
        {} if e is None else dict(papermill=dict(exception=e, status="completed"))
        for e in exceptions
    ]
    (tmp / name).write_text(
        json.dumps(
            dict(
                cells=[dict(cell_type="markdown", metadata={})]
                + [dict(cell_type="code", metadata=m) for m in noted]
            )
        )
    )
    return tmp / name


[notebook_is_whole(executed(*cells)) for cells in ((False, False), (False, True), (False, None))]

# %%
assert [
    notebook_is_whole(executed(*cells)) for cells in ((False, False), (False, True), (False, None))
] == [True, False, False]
for damaged in ('{"cells": [', "{}", "[]"):
    (tmp / "x.ipynb").write_text(damaged)
    assert not notebook_is_whole(tmp / "x.ipynb")
# absent; never executed
assert not notebook_is_whole(tmp / "none.ipynb") and not notebook_is_whole(template())


# %% [markdown]
# ## Executing one
#
# papermill saves the notebook after every cell, and a kill during a save leaves a truncated notebook. It therefore works on a temporary file, which is renamed in one step at the end, complete or with the exception that stopped it.
# Progress bars write thousands of partial lines into a notebook's error stream; they are removed before the renaming.

# %%
#| export
def _publish(part: Path, out: Path):
    "Rename an executed notebook to its final name, without progress bars."
    import nbformat  # imported here because most commands execute no notebook

    def is_bar(output: dict) -> bool:
        text = output.get("text", "")
        return output.get("name") == "stderr" and ("\r" in text or not text.strip())

    book = nbformat.read(part, 4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not is_bar(o)]
    nbformat.write(book, part)
    put(part, out)


# %%
def notebook(path, *codes, outputs=()):
    "A notebook file of code cells; the first has the parameters"
    made = [
        nbformat.v4.new_code_cell(code, metadata=dict(tags=[] if i else ["parameters"]))
        for i, code in enumerate(codes)
    ]
    made[-1].outputs = [
        nbformat.v4.new_output("stream", name=name, text=text) for name, text in outputs
    ]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=made,
            metadata=dict(kernelspec=dict(name="python3", language="python", display_name="")),
        ),
        path,
    )
    return path


notebook(
    tmp / "part.ipynb",
    "1 + 1",
    outputs=[
        ("stderr", "epoch 1\repoch 2"),
        ("stderr", "\n"),
        ("stderr", "a warning"),
        ("stdout", "a\rb"),
    ],
)
_publish(tmp / "part.ipynb", tmp / "out.ipynb")
[o.text for o in nbformat.read(tmp / "out.ipynb", 4).cells[0].outputs]

# %%
assert [o.text for o in nbformat.read(tmp / "out.ipynb", 4).cells[0].outputs] == [
    "a warning",
    "a\rb",
] and not (tmp / "part.ipynb").exists()


# %% [markdown]
# A run that never started leaves no notebook. It would contain no more than the template, and must not replace one that shows where an earlier attempt stopped.

# %%
#| export
def _began(part: Path) -> bool:
    "Whether papermill has started a cell of a notebook."
    import nbformat  # imported here because most commands execute no notebook

    cells = nbformat.read(part, 4).cells
    return any(cell.metadata.get("papermill", {}).get("start_time") for cell in cells)


# %%
began = notebook(tmp / "part.ipynb", "1 + 1", "2 + 2")
assert not _began(began)
book = nbformat.read(began, 4)
book.cells[0].metadata["papermill"] = dict(start_time="2026-11-28T12:00:00", exception=None)
nbformat.write(book, began)
assert _began(began)


# %% [markdown]
# Jupyter searches many folders for the kernel `python3`. The modules of a cluster set `JUPYTER_PATH`, and a kernel found there may belong to another Python without this package. A run therefore does not use an installed kernel: it starts that of its own Python.

# %%
#| export
class OwnKernel(AsyncKernelManager):
    "Starts the kernel of this Python, regardless of installed kernels."

    @default("kernel_spec_manager")
    def _no_installed_kernels(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


# %%
foreign = tmp / "jupyter" / "kernels" / "python3"
foreign.mkdir(parents=True)
(foreign / "kernel.json").write_text(
    json.dumps(dict(argv=["/elsewhere/python", "{connection_file}"], display_name="Python 3"))
)
with patch.dict(os.environ, JUPYTER_PATH=str(tmp / "jupyter")):
    installed = AsyncKernelManager(kernel_name="python3").kernel_spec.argv
    own = OwnKernel(kernel_name="python3").kernel_spec.argv
print(installed[0], Path(own[0]).name, *own[1:])
assert installed[0] == "/elsewhere/python" and own[0] == sys.executable
assert "ipykernel_launcher" in own


# %% [markdown]
# Kernels communicate over sockets. Socket files in a separate folder, in place of ports, cannot collide with those of another kernel. The kernel is killed when the notebook ends, without seconds for cleaning up: all results are on the disk.

# %%
#| export
@contextmanager
def _sockets() -> "Iterator[Config]":
    "papermill's configuration, with a temporary folder for its sockets."
    from traitlets.config import Config

    # the whole path of a socket is limited to about 100 characters
    short = None if len(tempfile.gettempdir()) < 60 else "/tmp"
    with tempfile.TemporaryDirectory(
        prefix="fairgrape-", dir=short, ignore_cleanup_errors=True
    ) as folder:
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}
        client = {"shutdown_kernel": "immediate", "kernel_manager_class": OwnKernel}
        yield Config({"KernelManager": sockets, "PapermillNotebookClient": client})


# %%
with _sockets() as config, _sockets() as other:
    sockets, beside = (Path(c["KernelManager"]["ip"]).parent for c in (config, other))
    assert sockets != beside and sockets.is_dir()
assert not sockets.exists() and config["KernelManager"]["transport"] == "ipc"
# as on a cluster's scratch disk
tempfile.tempdir, before = str(tmp / ("long" * 30)), tempfile.tempdir
with _sockets() as far:
    assert len(far["KernelManager"]["ip"]) < 40
tempfile.tempdir = before
config["PapermillNotebookClient"]


# %% [markdown]
# papermill treats braces in a path as the name of a parameter. In the name of a folder they are literal.

# %%
#| export
def _braced(path: Path) -> str:
    "A path for papermill, which formats its paths."
    return str(path).replace("{", "{{").replace("}", "}}")


# %%
print(_braced(Path("runs{2}/x.ipynb")))
assert _braced(Path("runs{2}/{rate}")).format(rate=0.9) == "runs{2}/{rate}"


# %%
#| export
def run_notebook(
    name: str | Path,  # A template, see `template`, or a notebook
    out: Path,  # The executed notebook
    parameters: dict,  # Its parameters
    log: bool = False,  # Print the output of the notebook
) -> Path:  # The same path
    """Execute a template.

    Raises: papermill's error if a cell fails (the notebook is still written); RuntimeError if the
    kernel does not start."""
    import papermill

    source = name if isinstance(name, Path) else template(name)
    part, made = out.with_name(f".{out.name}.part.ipynb"), not out.parent.exists()
    shown = dict(log_output=log, stdout_file=sys.stdout, stderr_file=sys.stderr) if log else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _sockets() as config:
            papermill.execute_notebook(
                _braced(source),
                _braced(part),
                parameters,
                progress_bar=False,
                kernel_name="python3",
                config=config,
                **shown,
            )
    except RuntimeError as e:
        if part.is_file() and not _began(part):
            raise RuntimeError(
                f"the notebook's kernel did not start ({e}): see its output above, and check that"
                f" {sys.executable} -m ipykernel_launcher starts"
            ) from e
        raise
    finally:
        if part.is_file() and _began(part):
            _publish(part, out)
        part.unlink(missing_ok=True)
        if made:
            with suppress(OSError):  # the folder is not empty
                out.parent.rmdir()
    return out


# %% [markdown]
# A notebook of two cells, the second of which raises an error. One file remains, with the exception in it:

# %%
two = notebook(tmp / "two.ipynb", "rate = 0.9", "if rate > 1: raise ValueError(f'rate = {rate}')")
try:
    run_notebook(two, tmp / "runs" / "bad.ipynb", dict(rate=1.5))
except papermill.PapermillExecutionError as e:
    print(e.ename, e.evalue)
else:
    raise AssertionError("a bad rate was accepted")

# %%
assert [f.name for f in (tmp / "runs").iterdir()] == ["bad.ipynb"] and not notebook_is_whole(
    tmp / "runs" / "bad.ipynb"
)
assert "rate = 1.5" in nbformat.read(tmp / "runs" / "bad.ipynb", 4).cells[-1].outputs[0].evalue

# %% [markdown]
# The kernel is that of this Python, even if `JUPYTER_PATH` has another, and folder names may have braces:

# %%
which = notebook(tmp / "which{0}.ipynb", "rate = 0.9", "import sys; print(rate, sys.executable)")
with patch.dict(os.environ, JUPYTER_PATH=str(tmp / "jupyter")):
    ran = run_notebook(which, tmp / "runs{2}" / "{rate}" / "out.ipynb", dict(rate=0.5))
said = nbformat.read(ran, 4).cells[-1].outputs[0].text.split()
print(ran.relative_to(tmp), said[0])
assert said == ["0.5", sys.executable] and [f.name for f in ran.parent.iterdir()] == ["out.ipynb"]

# %% [markdown]
# A kernel that does not start leaves no new folder, and no notebook in an existing one:

# %%
(tmp / "runs" / "bad.ipynb").write_text("as it was")
dies = dict(argv=[sys.executable, "-c", "raise SystemExit(3)"], display_name="", language="python")
with patch.object(KernelSpecManager, "get_kernel_spec", lambda *_: KernelSpec(**dies)):
    for out in (tmp / "runs" / "new" / "x.ipynb", tmp / "runs" / "bad.ipynb"):
        try:
            run_notebook(which, out, dict(rate=0.5))
        except RuntimeError as e:
            print(str(e).replace(sys.executable, "python"))
            assert "the notebook's kernel did not start (" in str(e)
        else:
            raise AssertionError("a dead kernel ran a notebook")

# %%
assert [f.name for f in (tmp / "runs").iterdir()] == ["bad.ipynb"]
assert (tmp / "runs" / "bad.ipynb").read_text() == "as it was"

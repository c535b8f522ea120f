# %% [markdown]
# # Settings
#
# > Where data and runs lie: settings.ini, then the environment, then an argument

# %%
#| default_exp settings

# %%
#| export
import os
from configparser import ConfigParser
from importlib.resources import files
from pathlib import Path

# %%
import tempfile


# %% [markdown]
# Two folders differ from machine to machine: where the data sets lie and where runs go. A file `settings.ini` names them for a project, an environment variable overrides it for a machine or a job,
# an argument overrides both for one call. (nbdev's own configuration is in pyproject.toml; this file is fairgrape's.)
#
# The file is looked for from the working folder upwards, so that a notebook in nbs/ and a shell in the root find the same one. Outside any project the package brings a copy of its own.

# %%
#| export
def settings_file(
    start: str | Path = ".", # Folder from which to look upwards
) -> Path:                   # The nearest settings.ini, or the package's own
    "Find the project's settings.ini; `FAIRGRAPE_SETTINGS` names another. Raises: FileNotFoundError if that one is missing."
    named = os.environ.get("FAIRGRAPE_SETTINGS")
    if named and not Path(named).is_file(): raise FileNotFoundError(f"FAIRGRAPE_SETTINGS = {named} is no file: name a settings.ini, or unset it")
    here = Path(start).resolve()
    found = [f / "settings.ini" for f in (here, *here.parents) if (f / "settings.ini").is_file()]
    packaged = Path(str(files("fairgrape"))) / "settings.ini"
    beside = packaged.parent.parent / "settings.ini"            # a checkout that is installed in place
    return Path(named) if named else found[0] if found else packaged if packaged.is_file() else beside


# %%
settings_file().name

# %%
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "settings.ini").write_text("[paths]\ndata_root = faces\nruns_root = /scratch/runs\n")
    (Path(folder) / "deep" / "er").mkdir(parents=True)
    assert settings_file(Path(folder) / "deep" / "er") == (Path(folder) / "settings.ini").resolve()
os.environ["FAIRGRAPE_SETTINGS"] = "/nowhere/settings.ini"
try: settings_file()
except FileNotFoundError as e: print(e)
else: raise AssertionError("a missing file was accepted")
finally: del os.environ["FAIRGRAPE_SETTINGS"]


# %%
#| export
def read_settings(
    start: str | Path = ".", # Folder from which to look upwards
) -> ConfigParser:           # Its sections: paths, and one for each grid of runs
    "Read settings.ini."
    parser = ConfigParser(interpolation=None)
    parser.read(settings_file(start), encoding="utf-8")
    return parser


# %%
dict(read_settings()["paths"])

# %%
assert {"data_root", "runs_root"} <= set(read_settings()["paths"])


# %% [markdown]
# A relative folder in the file is relative to the file, one in an argument to the working folder, as a shell would have it.

# %%
#| export
def root(
    kind: str,                        # "data", "runs" or "cache" (decoded images)
    argument: str | Path | None = None, # Overrides everything; None or "" → environment, then settings.ini
    start: str | Path = ".",          # Folder from which settings.ini is looked for
) -> Path:                            # Absolute folder; it need not exist yet
    "The folder of that kind: argument, else FAIRGRAPE_DATA_ROOT / _RUNS_ROOT / _CACHE_ROOT, else settings.ini."
    given = argument or os.environ.get(f"FAIRGRAPE_{kind.upper()}_ROOT")
    if given: return Path(given).expanduser().resolve()
    file = settings_file(start)
    folder = Path(read_settings(start).get("paths", f"{kind}_root", fallback=kind)).expanduser()
    base = Path.cwd() if file.parent.name == "fairgrape" and (file.parent / "__init__.py").exists() else file.parent
    return (base / folder).resolve()


# %%
root("data").name, root("runs", "/scratch/mine")

# %%
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "settings.ini").write_text("[paths]\ndata_root = faces\n")
    assert root("data", start=folder) == Path(folder).resolve() / "faces"
    os.environ["FAIRGRAPE_DATA_ROOT"] = "/mnt/faces"
    assert root("data", start=folder) == Path("/mnt/faces") and root("data", "/tmp", start=folder) == Path("/tmp").resolve()
    del os.environ["FAIRGRAPE_DATA_ROOT"]
    assert root("runs", start=folder) == Path(folder).resolve() / "runs"         # a name that the file leaves out


# %% [markdown]
# ## Nothing outside the runs folder
#
# A run writes into the runs folder and nowhere else, also where a name in a grid that someone sent says otherwise, or where a link leads out. `inside` is asked for every path before anything is written.

# %%
#| export
def inside(
    path: Path,      # A file or folder that will be written
    runs_root: Path, # The runs folder
) -> Path:           # The same path, absolute
    "The path, if it lies in the runs folder. Raises: ValueError if it leaves it."
    real, home = Path(path).expanduser().resolve(), Path(runs_root).resolve()
    if home not in real.parents: raise ValueError(f"{path} is outside of the runs folder {home}: give a place below it, or another runs_root")
    return home / real.relative_to(home)

def plain_name(name: str) -> str:
    "A run's name, if it is the name of one folder. Raises: ValueError otherwise."
    bad = not set("/\\\0").isdisjoint(name) or name.startswith(".") or ".." in name
    if bad: raise ValueError(f"name = {name!r}: it names a folder in the runs folder, so write it without /, \\, .. or a dot at its start")
    return name


# %%
tmp = Path(tempfile.mkdtemp())
inside(tmp / "runs" / "studies" / "page.html", tmp / "runs").relative_to(tmp)

# %%
(tmp / "runs").mkdir()
(tmp / "runs" / "link").symlink_to(tmp)
for out in (tmp / "page.html", tmp / "runs" / ".." / "page.html", tmp / "runs" / "link" / "page.html", tmp / "runs"):
    try: inside(out, tmp / "runs")
    except ValueError as e: print(str(e).replace(str(tmp), "…"))
    else: raise AssertionError(f"{out} was accepted")

# %%
assert plain_name("first-try_2") == "first-try_2" and plain_name("") == ""
for name in ("../up", "a/b", "/etc", ".hidden", "a..b", "a\\b"):
    try: plain_name(name)
    except ValueError as e: print(e)
    else: raise AssertionError(f"{name!r} was accepted")

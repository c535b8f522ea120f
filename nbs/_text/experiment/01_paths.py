# %% [markdown]
# # Paths
#
# > Where data and runs are: settings.ini, then the environment, then an argument

# %%
#| default_exp experiment.paths

# %%
#| export
import os
import re
import sys
from configparser import ConfigParser
from configparser import Error as BadFile
from importlib.resources import files
from pathlib import Path

import yaml

# %%
import subprocess
import tempfile

import fairgrape


# %% [markdown]
# Two folders differ from machine to machine: the folder of the data sets and the folder of the runs. The file `settings.ini` names them for a project, an environment variable overrides it for a machine or a job,
# and an argument overrides both for one call. (nbdev's configuration is in pyproject.toml; this file is fairgrape's.)
#
# The search for the file starts in the working folder and goes upwards, so a notebook in nbs/ and a shell in the root find the same one. Outside any project the package uses its own copy.

# %% [markdown]
# If the variable names a missing file, that is a mistake in a job's script, and a search elsewhere would hide it.

# %%
#| export
def _named_file() -> Path | None:
    """The file that FAIRGRAPE_SETTINGS names, if it names one. Raises: FileNotFoundError if it
    is missing.
    """
    named = os.environ.get("FAIRGRAPE_SETTINGS")
    if named and not Path(named).is_file():
        raise FileNotFoundError(
            f"FAIRGRAPE_SETTINGS = {named} is not a file: name a settings.ini, or unset it"
        )
    return Path(named) if named else None


# %%
os.environ["FAIRGRAPE_SETTINGS"] = "/nowhere/settings.ini"
try:
    _named_file()
except FileNotFoundError as e:
    print(e)
else:
    raise AssertionError("a missing file was accepted")
finally:
    del os.environ["FAIRGRAPE_SETTINGS"]
assert _named_file() is None


# %% [markdown]
# An installed package contains its own copy. In an editable checkout the copy is the project's file, one folder up, so there is
# only one to edit.

# %%
#| export
def _own_file() -> Path:
    "The settings.ini of the package."
    packaged = Path(str(files("fairgrape"))) / "settings.ini"
    return packaged if packaged.is_file() else packaged.parent.parent / "settings.ini"


# %%
_own_file().name

# %%
assert _own_file().is_file() and "[paths]" in _own_file().read_text()


# %%
#| export
def settings_file(
    start: str | Path = ".",  # Folder from which to look upwards
) -> Path:  # The nearest settings.ini, or the package's own
    """Find the project's settings.ini; `FAIRGRAPE_SETTINGS` names another. Raises:
    FileNotFoundError if that one is missing.
    """
    here = Path(start).resolve()
    above = (folder / "settings.ini" for folder in (here, *here.parents))
    return _named_file() or next((file for file in above if file.is_file()), None) or _own_file()


# %%
settings_file().name

# %%
with tempfile.TemporaryDirectory() as folder:
    project = Path(folder).resolve()
    (project / "settings.ini").write_text("[paths]\ndata_root = faces\nruns_root = /scratch/runs\n")
    (project / "deep" / "er").mkdir(parents=True)
    # the nearest, upwards
    assert settings_file(project / "deep" / "er") == project / "settings.ini"
    assert settings_file(Path(project.anchor)) == _own_file()  # outside any project
    os.environ["FAIRGRAPE_SETTINGS"] = str(project / "settings.ini")
    assert settings_file() == project / "settings.ini"  # the variable comes first
    del os.environ["FAIRGRAPE_SETTINGS"]


# %% [markdown]
# Values are literal: a percent sign in a folder's name is a percent sign, not configparser's interpolation.

# %%
#| export
def read_settings(
    start: str | Path = ".",  # Folder from which to look upwards
) -> ConfigParser:  # Its sections: paths, and one for each grid of runs
    "Read settings.ini. Raises: ValueError that names the file if it cannot be parsed."
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(settings_file(start), encoding="utf-8")
    except (BadFile, UnicodeDecodeError) as e:
        raise ValueError(
            f"{settings_file(start)}: not a readable settings file ({' '.join(str(e).split())})"
        ) from e
    return parser


# %%
dict(read_settings()["paths"])

# %%
assert {"data_root", "runs_root"} <= set(read_settings()["paths"])
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "settings.ini").write_text("[paths]\ndata_root = 50%(old)s\n")
    assert read_settings(folder)["paths"]["data_root"] == "50%(old)s"
    # no section, and a duplicate line
    for text in ("data_root = data\n", "[demo]\nrate = 0.9\nrate = 0.5\n"):
        (Path(folder) / "settings.ini").write_text(text)
        try:
            read_settings(folder)
        except ValueError as e:
            print(str(e).replace(folder, "…"))
            assert "settings.ini: not a readable settings file" in str(e)
        else:
            raise AssertionError("a bad file was read")


# %% [markdown]
# A relative folder in the file is relative to the file. A relative folder in an argument is relative to the working folder, as in a shell. The copy inside the
# installed package belongs to no project, so its folders are relative to the working folder too: nothing
# is written among installed files.

# %%
#| export
def _base(file: Path) -> Path:
    "The folder that relative folders in a settings file are relative to."
    packaged = file.parent.name == "fairgrape" and (file.parent / "__init__.py").exists()
    return Path.cwd() if packaged else file.parent


# %%
_base(Path("/srv/faces/settings.ini"))

# %%
assert _base(Path("/srv/faces/settings.ini")) == Path("/srv/faces")
# a project may have the same name
assert _base(Path("/srv/fairgrape/settings.ini")) == Path("/srv/fairgrape")
# some other package
assert _base(Path(os.__file__).parent / "json" / "settings.ini").name == "json"
assert _base(Path(fairgrape.__file__).parent / "settings.ini") == Path.cwd()


# %% [markdown]
# ## YAML
#
# Grids, run parameters and studies are YAML files. One reader parses all of them, because YAML 1.1 changes what people write: `010` is eight, `12:30:45` is 45045, `on` is true, and `1_000` is a thousand. Here these stay text,
# and a numeric setting reads its text as a decimal number. Ordinary numbers stay numbers. A tag such as `!!python/object` is still an error: nothing in a file is ever called.

# %%
#| export
class PlainYAML(yaml.SafeLoader):
    "YAML read literally: decimal numbers, `true` and `false`, and each key once."

    yaml_implicit_resolvers = {}

    def compose_mapping_node(self, anchor):
        node, lines = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(
                    f"{key.value} appears twice, in lines {lines[name]} and {line}: keep one"
                )
            lines[name] = line
        return node


for _tag, _written, _starts in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"([-+]?[0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    PlainYAML.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"({_written})$"), _starts
    )

# %%
SPELLED = "[010, 007, 12:30:45, 190:20:30.15, on, No, 1_000, 0b11, 2024-01-01, =]"
yaml.load(SPELLED, PlainYAML)

# %%
assert yaml.load(SPELLED, PlainYAML) == SPELLED.strip("[]").split(", ")
ordinary = "[0, 10, -3, 0x1F, 0.9, 1., .5, 1.0e-4, -.inf, true, False, null, ~, ws, 1e-4, '010']"
assert yaml.load(ordinary, PlainYAML) == yaml.safe_load(ordinary)
assert yaml.load("{a: &own {x: 1}, b: {<<: *own, x: 2}}", PlainYAML) == dict(
    a=dict(x=1), b=dict(x=2)
)
assert yaml.load("rate:", PlainYAML) == dict(rate=None)


# %% [markdown]
# A duplicate key is an error. YAML would take the last one, and half of a grid would be lost.

# %%
#| export
def read_yaml(path: str | Path) -> dict | list | str | None:
    """The content of a YAML file. Raises: ValueError that names the file if it is not YAML or
    has a duplicate key; OSError if it cannot be read.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), PlainYAML)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: not a readable YAML file ({' '.join(str(e).split())})") from e


# %%
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "grid.yaml"
    file.write_text("seed: [008, 009, 010]\nrate: 0.9\n")
    print(read_yaml(file))
    assert read_yaml(file) == dict(seed=["008", "009", "010"], rate=0.9)
    for text, told in (
        ("seed: 0\nrate: 0.9\nseed: 1\n", "seed appears twice, in lines 1 and 3"),
        ("cells:\n- {rate: 0.5, rate: 0.9}\n", "rate appears twice, in lines 2 and 2"),
        ("!!python/object/apply:os.system ['echo run']", "could not determine a constructor"),
        ("method: [ws", "expected ',' or ']'"),
    ):
        file.write_text(text)
        try:
            read_yaml(file)
        except ValueError as e:
            print(str(e).replace(folder, "…")[:120])
            assert told in str(e) and str(e).startswith(f"{file}: not a readable YAML file")
        else:
            raise AssertionError(f"{text!r} was read")


# %% [markdown]
# ## Paths
#
# `~` is the home folder, even where no shell expands it: in a YAML file, in settings.ini, in a notebook. A Windows path is meaningless on other systems, where it would create a folder with that odd name.
#
# The address of a bucket or a server is not a folder either. `s3://bucket/runs` would become a local folder `s3:`, where nobody looks for the results. Python's `Path` turns it into `s3:/bucket/runs`, so one slash is enough to refuse it.

# %%
#| export
def system_path(
    name: str,  # The setting that holds the path, for the error
    path: str,  # The path, with or without `~`
    system: str = os.name,  # "nt" for Windows
) -> str:  # The path with the home folder for `~`
    """A path on this system. Raises: ValueError for an address such as `s3://…`, and for
    a Windows path on another system.
    """
    if address := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", path):
        raise ValueError(
            f"{name} = {path!r} is an address ({address[1]}://), and only files and folders of"
            " this system can be used: mount it or copy it, and give its local path"
        )
    if system != "nt" and re.match(r"[A-Za-z]:[\\/]|\\\\", path):
        raise ValueError(
            f"{name} = {path!r} is a Windows path, and this system is not Windows: give the path"
            " on this system (C:\\ is /mnt/c/ in WSL)"
        )
    return os.path.expanduser(path)


# %%
assert (
    system_path("data_path", "~/faces") == str(Path.home() / "faces")
    and system_path("data_path", "my faces/a:b") == "my faces/a:b"
    and system_path("data_path", "my/s3://faces") == "my/s3://faces"
    and system_path("weights", "") == ""
)
assert system_path("data_path", r"C:\faces", system="nt") == r"C:\faces"
for path in (r"C:\Users\me\faces", "d:/faces", r"\\server\faces"):
    try:
        system_path("data_path", path, system="posix")
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{path} was accepted")
for path in ("s3://bucket/runs", "gs://bucket", "file:///runs", str(Path("hdfs://host/runs"))):
    try:
        system_path("runs_root", path)
    except ValueError as e:
        print(e)
        assert f"runs_root = {path!r} is an address ({path.split(':')[0]}://)" in str(e)
    else:
        raise AssertionError(f"{path} was accepted")


# %%
#| export
def root(
    kind: str,  # "data", "runs" or "cache" (decoded images)
    # Overrides everything; None or "" → environment, then settings.ini
    argument: str | Path | None = None,
    start: str | Path = ".",  # Folder from which settings.ini is looked for
) -> Path:  # Absolute folder; it need not exist yet
    """The folder of that kind: argument, else FAIRGRAPE_DATA_ROOT / _RUNS_ROOT / _CACHE_ROOT,
    else settings.ini.
    """
    given = argument or os.environ.get(f"FAIRGRAPE_{kind.upper()}_ROOT")
    if given:
        return Path(system_path(f"{kind}_root", str(given))).resolve()
    folder = Path(
        system_path(
            f"{kind}_root", read_settings(start).get("paths", f"{kind}_root", fallback=kind)
        )
    )
    return (_base(settings_file(start)) / folder).resolve()


# %%
root("data").name, root("runs", "/scratch/mine")

# %%
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "settings.ini").write_text("[paths]\ndata_root = faces\n")
    assert root("data", start=folder) == Path(folder).resolve() / "faces"
    os.environ["FAIRGRAPE_DATA_ROOT"] = "/mnt/faces"
    assert (
        root("data", start=folder) == Path("/mnt/faces")
        and root("data", "/tmp", start=folder) == Path("/tmp").resolve()
    )
    del os.environ["FAIRGRAPE_DATA_ROOT"]
    # a name that is not in the file
    assert root("runs", start=folder) == Path(folder).resolve() / "runs"
    assert root("runs", "~/runs") == (Path.home() / "runs").resolve()
    (Path(folder) / "settings.ini").write_text(
        "[paths]\ndata_root = ~/faces\nruns_root = C:\\\\runs\n"
    )
    assert root("data", start=folder) == (Path.home() / "faces").resolve()
    try:
        root("runs", start=folder)
    except ValueError as e:
        print(e)
        assert os.name != "nt" and "runs_root = " in str(e)
    else:
        assert os.name == "nt"
    # an address: in the file, in the environment, as an argument
    (Path(folder) / "settings.ini").write_text("[paths]\nruns_root = s3://bucket/runs\n")
    os.environ["FAIRGRAPE_DATA_ROOT"] = "gs://bucket/data"
    for kind, argument in (("runs", None), ("data", ""), ("cache", Path("s3://bucket/cache"))):
        try:
            root(kind, argument, start=folder)
        except ValueError as e:
            assert f"{kind}_root = " in str(e) and "is an address" in str(e)
        else:
            raise AssertionError(f"an address was taken for {kind}_root")
    del os.environ["FAIRGRAPE_DATA_ROOT"]


# %% [markdown]
# If the locale is not UTF-8, Python misreads file names, and a notebook cannot hold a folder `übung`. Label files and notebooks are always UTF-8, so the command restarts itself in Python's
# UTF-8 mode. Its kernels and workers inherit the mode.

# %%
#| export
def in_utf8():
    "Restart this program in Python's UTF-8 mode, unless it uses UTF-8 already."
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.execve(
        sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"}
    )


# %%
told = (
    "import sys; from fairgrape.experiment.paths import in_utf8; first ="
    " sys.getfilesystemencoding(); in_utf8(); print(first, sys.argv[1] == chr(252) + 'bung')"
)
ascii_only = os.environ | dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
spoken = subprocess.run(
    [sys.executable, "-c", told, "übung"],
    env=ascii_only,
    capture_output=True,
    text=True,
    check=True,
).stdout.split()
print(spoken)
assert spoken == ["utf-8", "True"]


# %% [markdown]
# ## Nothing outside the runs folder
#
# A run writes only into the runs folder, even if a name in someone else's grid or a symbolic link leads out of it. `inside` checks every path before anything is written.

# %%
#| export
def inside(
    path: Path,  # A file or folder that will be written
    runs_root: Path,  # The runs folder
) -> Path:  # The same path, absolute
    "The path, if it is in the runs folder. Raises: ValueError if it is not."
    real, home = Path(path).expanduser().resolve(), Path(runs_root).resolve()
    if home not in real.parents:
        raise ValueError(
            f"{path} is outside of the runs folder {home}: give a path below it, or another"
            " runs_root"
        )
    return home / real.relative_to(home)


# %%
tmp = Path(tempfile.mkdtemp())
inside(tmp / "runs" / "studies" / "page.html", tmp / "runs").relative_to(tmp)

# %%
(tmp / "runs").mkdir()
(tmp / "runs" / "link").symlink_to(tmp)
assert (
    inside(tmp / "runs" / "studies" / ".." / "page.html", tmp / "runs")
    == tmp.resolve() / "runs" / "page.html"
)
for out in (
    tmp / "page.html",
    tmp / "runs" / ".." / "page.html",
    tmp / "runs" / "link" / "page.html",
    tmp / "runs",
):
    try:
        inside(out, tmp / "runs")
    except ValueError as e:
        print(str(e).replace(str(tmp), "…"))
    else:
        raise AssertionError(f"{out} was accepted")


# %% [markdown]
# A run's name becomes one folder, so it may not be a path. It may not start with a dot either, because that would hide the run in a listing.

# %%
#| export
def plain_name(name: str) -> str:
    "A run's name, if it is the name of one folder. Raises: ValueError otherwise."
    bad = not set("/\\\0").isdisjoint(name) or name.startswith(".") or ".." in name
    if bad:
        raise ValueError(
            f"name = {name!r}: it names a folder in the runs folder, so write it without /, \\, .."
            " or a leading dot"
        )
    if len(name.encode()) > 200:
        raise ValueError(
            f"name = {name[:40]!r}… has {len(name.encode())} bytes: it names a folder, so use at"
            " most 200"
        )
    return name


# %%
plain_name("first-try_2")

# %%
assert plain_name("first-try_2") == "first-try_2" and plain_name("") == ""
for name in ("../up", "a/b", "/etc", ".hidden", "a..b", "a\\b", "long" * 51):
    try:
        plain_name(name)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{name!r} was accepted")


# %% [markdown]
# A name made from settings contains column names from a label file: `gender/sex` is one column and must not become two folders. Characters that a folder's name cannot contain become dashes. A long name is cut
# to 230 bytes, because the system allows 255 and the lock file adds a suffix.

# %%
#| export
def folder_name(
    text: str,  # Any text
) -> str:  # The text as the name of one folder
    "Make text a folder's name: unsuitable characters become dashes, long names are cut."
    safe = re.sub(r"[/\\\x00-\x1f\x7f]", "-", text)
    return safe.encode()[:230].decode(errors="ignore")


# %%
folder_name("folder-gender/sex-resnet10-ws")

# %%
assert (
    folder_name("folder-gender/sex-resnet10-ws") == "folder-gender-sex-resnet10-ws"
    and folder_name("a\\b\nc\0") == "a-b-c-"
)
assert folder_name("skin tone (1–6) é: [x]*") == "skin tone (1–6) é: [x]*"  # unchanged
# no character is cut in two
assert len(folder_name("é" * 300).encode()) == 230 and len(folder_name("aé" * 150).encode()) == 229

"""One record per setting: finished runs keep their folder names, and a new setting is one line."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from fairgrape.experiment.preparation import prepare, run_folder
from fairgrape.experiment.settings import Settings, identity, parameter_cell

REPO = Path(__file__).resolve().parents[2]

# settings → SHA-256 of their identity, as it was before the record of settings was made
IDENTITIES = [
    (dict(), "aa986f0ac14c7fb7"),
    (dict(seed=3), "81de6dba9a8c6a78"),
    (dict(rate=0.5), "95f97d0941d0c4df"),
    (dict(keep=0.5), "d71d76e39b95b5af"),
    (dict(method="dense"), "f6a22696bfd63cdf"),
    (dict(method="dense", rate=0.5, seed=1), "4e661aa9882790d0"),
    (dict(method="importance"), "4349334ba98e0dff"),
    (dict(method="importance", importance_cap=64, importance_batch=32), "460d0d19e1d5859e"),
    (dict(method="ws"), "4b3391ddbb536f61"),
    (dict(method="ws", rate="0.9", keep=0.5), "69be6ed3c487fb9a"),
    (dict(method="ws", steps="iterative"), "a642d12fcfef7877"),
    (dict(method="magnitude", scope="global"), "286e93e0c551cb64"),
    (dict(method="lottery"), "1aa5ee2f4aeb260d"),
    (dict(method="lottery_short", retrain_epochs=1, retrain_lr=0.0001), "931a646a3c20be55"),
    (dict(method="snip"), "d4e8caf57475ff59"),
    (dict(method="snip", scope="layer"), "6c63aefc926bee53"),
    (dict(method="grasp"), "7e48391c27afc7aa"),
    (dict(method="random", seed=4294967295), "04dde271ca6c607a"),
    (dict(steps="one shot"), "4151374d26ce9ef3"),
    (dict(scope="global"), "47686d9afe0f3e3f"),
    (dict(as_released=True), "3da328c78a7d6c24"),
    (dict(method="lottery", as_released=True), "c2cc5fc0e3fdcae2"),
    (dict(task="race*gender", groups="gender"), "ea854c9866046ad4"),
    (dict(classes="race=White,Black", imbalance="race=White:0.2"), "cb035cbc6f86ad97"),
    (dict(split="official", limit=500), "2b19468cc8927eac"),
    (dict(fit="squeeze", partial=True), "b6671a021e70826f"),
    (dict(network="resnet10", weights="none", image_size=64), "56478f2d360b5808"),
    (
        dict(epochs=1, lrs=0.001, batch=16, augment="none", precision="bf16", bootstrap=100),
        "87413c40de78c590",
    ),
    (dict(accumulate=2, compiled=True), "d4053e05e7648d78"),
    (dict(groups="clusters", clusters=4), "710f981325204af3"),
    (dict(importance_groups="clusters", clusters=2), "f628b3be08582470"),
    (dict(importance_on="race=White"), "28dbfac8d0fd89fe"),
    (dict(dataset="folder", data_path="/faces", task="shade", groups="tint"), "3a84c02e2f56292d"),
    (dict(weights="own.safetensors"), "ec67ff9e3aeadb25"),
    # what came later, and the dense network that it leaves alone
    (dict(recover="worst-group"), "4acb06328314a65b"),
    (dict(recover="constrained", tolerance=3.0), "28aa44b23eb50937"),
    (dict(epochs_in_all=200), "ec95a2404a4431de"),
    (dict(method="fairprune"), "72bb08f7771a4ea4"),
    (dict(scope="erk"), "d50f669f874c3ed1"),
    (dict(method="dense", recover="tail", epochs_in_all=7), "f6a22696bfd63cdf"),
]
# the same for folders on the rendered faces, whose names hold the labels and the images too
FOLDERS = [
    (dict(), "synthetic-expression-resnet10-fairgrape-0.99-layer-s0-e4af17c4"),
    (dict(method="dense"), "synthetic-expression-resnet10-dense-s0-4a7bed74"),
    (dict(method="ws"), "synthetic-expression-resnet10-ws-0.99-layer-s0-cd8cf0b1"),
    (dict(method="snip"), "synthetic-expression-resnet10-snip-0.99-global-s0-55fbdfac"),
    (dict(as_released=True), "synthetic-expression-resnet10-fairgrape-0.99-layer-s0-c4823f8c"),
    (
        dict(method="lottery", as_released=True),
        "synthetic-expression-resnet10-lottery-0.99-layer-s0-af0f3e22",
    ),
    (
        dict(fit="squeeze", partial=True),
        "synthetic-expression-resnet10-fairgrape-0.99-layer-s0-44728455",
    ),
    (
        dict(importance_groups="clusters", clusters=2),
        "synthetic-expression-resnet10-fairgrape-0.99-layer-s0-60b21cc5",
    ),
]


@pytest.mark.parametrize("given, digest", IDENTITIES)
def test_settings_keep_their_identity(given, digest):
    text = json.dumps(identity(Settings(**given)), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_runs_keep_their_folders(tmp_path):
    common = dict(
        dataset="synthetic",
        task="expression",
        groups="tone",
        network="resnet10",
        weights="none",
        image_size=16,
        epochs="1",
        lrs="1e-3",
    )
    places = {f"{kind}_root": tmp_path / kind for kind in ("data", "runs", "cache")}
    for given, name in FOLDERS:
        job = prepare(Settings(**(common | given)), progress=False, **places)
        assert run_folder(job).name == name


def parameters_of(template: Path) -> str:
    "The source of a template's parameter cell"
    cells = jupytext.read(template).cells
    return next(c.source for c in cells if "parameters" in c.metadata.get("tags", []))


def test_the_template_has_the_records_cell():
    templates = ("nbs/templates/prune.ipynb", "nbs/_text/templates/prune.py")
    for template in templates:
        assert parameters_of(REPO / template) == parameter_cell(), f"{template}: make sync"


LINE = (
    '    dropout: float = setting(0.0, "share of features dropped", "training", least=0, below=1,'
    ' since="0.2.0")\n'
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    "The package and the run's template, with one line more in the record"
    copy = tmp_path_factory.mktemp("settings")
    for name in ("fairgrape", "nbs/templates", "nbs/_text/templates", "nbs/_tools"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPO / name, copy / name, ignore=ignore)
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy2(REPO / name, copy / name)
    record = copy / "fairgrape" / "experiment" / "settings.py"
    before, after = record.read_text(encoding="utf-8").split("    seed: int = setting(", 1)
    record.write_text(f"{before}{LINE}    seed: int = setting({after}", encoding="utf-8")
    python(copy, "sys.path.insert(0, 'nbs/_tools'); import sync; sync.parameter_cell()")
    return copy


def python(copy: Path, program: str) -> str:
    "What a program prints that runs on the copy"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}"],
        cwd=copy,
        env=os.environ | dict(PYTHONPATH=str(copy), PATH=path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(copy: Path, *arguments: str) -> str:
    "What `fairgrape` says on the copy, on either stream"
    return python(
        copy,
        "sys.stderr = sys.stdout; from fairgrape.start import main; "
        f"sys.argv[1:] = {list(arguments)}\n"
        "try: main()\n"
        "except SystemExit: pass",
    )


def test_a_new_setting_is_one_line(copy):
    cell = parameters_of(copy / "nbs" / "templates" / "prune.ipynb")
    assert "dropout: float = 0.0  # share of features dropped" in cell.splitlines()
    assert len(cell.splitlines()) == len(parameter_cell().splitlines()) + 1
    assert parameters_of(copy / "nbs" / "_text" / "templates" / "prune.py") == cell
    for name in ("run", "sweep", "study"):
        said = " ".join(command(copy, name, "--help").split())
        assert (
            "--dropout X share of features dropped; at least 0 and below 1 (default: 0.0)" in said
        )
    assert "dropout = 1.0: choose a number" in command(copy, "run", "--dropout", "1")
    assert "dropout = 'much': it must be float" in command(copy, "run", "--dropout", "much")
    assert "dropout = -1.0: it must be at least 0" in command(copy, "sweep", "--dropout", "-1")
    found = python(
        copy,
        "import json; from fairgrape.experiment.settings import Settings, identity, settings_table;"
        "print(json.dumps([identity(Settings()), identity(Settings(dropout=0.5)),"
        " settings_table().loc['dropout', 'meaning']]))",
    )
    without, with_it, meaning = json.loads(found)
    assert without == identity(Settings()) and with_it == without | dict(dropout=0.5)
    assert meaning == "share of features dropped"

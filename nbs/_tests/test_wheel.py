"""The built wheel, installed into an empty environment, prunes and brings its templates; the
library part needs torch, numpy, numba and fastcore only.
"""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment that holds the wheel, and nothing of the checkout; dependencies are seen
    through a .pth file rather than downloaded again
    """
    home = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", home, REPO],
        check=True,
        capture_output=True,
    )
    venv.create(home / "env", with_pip=True)
    python = home / "env" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", *home.glob("*.whl")],
        check=True,
    )
    site = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    mine = subprocess.run(
        [sys.executable, "-c", "import site; print(site.getsitepackages()[0])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    Path(site, "dependencies.pth").write_text(mine + "\n")
    return python


def say(python: Path, code: str, cwd) -> str:
    done = subprocess.run([python, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_is_used_and_not_the_checkout(python, tmp_path):
    assert str(REPO / "fairgrape") not in say(
        python, "import fairgrape; print(fairgrape.__file__)", tmp_path
    )


def test_three_lines_prune(python, tmp_path):
    code = """
import torch
from fairgrape.method.pruning import prune_fair
net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
loader = [(torch.randn(8, 4), torch.arange(8) % 2, torch.arange(8) // 4)]
steps = prune_fair(net, loader, rate=0.5, groups=2, keep=0.7)
print(sum(int((m.weight != 0).sum()) for m in net if hasattr(m, 'weight')))"""
    assert say(python, code, tmp_path) == "18"


def test_the_library_part_imports_little(python, tmp_path):
    code = """
import sys
import torch, numba
before = set(sys.modules)
import fairgrape.method.pruning, fairgrape.methods.registry, fairgrape.methods.released
large = 'pandas torchvision tqdm matplotlib sklearn papermill fairlearn PIL safetensors'.split()
print(sorted({m.split('.')[0] for m in set(sys.modules) - before} & set(large)))"""
    assert say(python, code, tmp_path) == "[]"


def test_templates_and_settings_come_along(python, tmp_path):
    code = (
        "from fairgrape.sweep.kernels import template; from fairgrape.experiment.paths import"
        " read_settings; print(template('prune').name, template('report').name,"
        " template('study').name, 'demo' in read_settings())"
    )
    assert say(python, code, tmp_path) == "prune.ipynb report.ipynb study.ipynb True"
    assert (
        say(
            python,
            "from fairgrape.studies.studies import study_names, protocol_rows;"
            " print(len(study_names()), 'celeba' in protocol_rows())",
            tmp_path,
        )
        == "11 True"
    )

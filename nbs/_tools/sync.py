"""Bring text, notebooks and package together: `python nbs/_tools/sync.py [--outputs]`. The
newer of a notebook and its text wins.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parents[1]
TEXT = NBS / "_text"


def call(*command):
    subprocess.run([str(c) for c in command], cwd=NBS.parent, check=True)


def texts() -> list[Path]:
    "The py:percent twins of all notebooks, those of notebooks without one included"
    for book in sorted(
        p
        for p in NBS.rglob("*.ipynb")
        if not any(part[0] in "_." for part in p.relative_to(NBS).parts)
    ):
        if not (TEXT / book.relative_to(NBS)).with_suffix(".py").exists():
            call("jupytext", "--quiet", "--sync", book)
    return sorted(TEXT.rglob("*.py"))


def notebook(text: Path) -> Path:
    return (NBS / text.relative_to(TEXT)).with_suffix(".ipynb")


def plain(book: Path):
    """Drop what jupytext notes in a notebook that JupyterLab has opened: pyproject.toml says it
    already
    """
    content = json.loads(book.read_text(encoding="utf-8"))
    if content["metadata"].pop("jupytext", None):
        book.write_text(
            json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n",
            encoding="utf-8",
        )


def parameter_cell():
    """Write the settings' parameter cell into the run's template, made by the package as it is
    exported now
    """
    text = TEXT / "templates" / "prune.py"
    if not text.exists():
        return
    program = "from fairgrape.experiment.settings import parameter_cell; print(parameter_cell())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=NBS.parent,
        env=os.environ | dict(PYTHONPATH=str(NBS.parent)),
        check=True,
        capture_output=True,
        text=True,
    )
    old = text.read_text(encoding="utf-8")
    begin = '# %% tags=["parameters"]\n'
    before, rest = old.split(begin, 1)
    after = rest[rest.index("\n# %%") :]
    new = before + begin + done.stdout + after
    if new != old:
        text.write_text(new, encoding="utf-8")
        call("jupytext", "--quiet", "--sync", text)


def schema_file():
    "Write the schema of audits, as the package has it now, to where the site takes it from"
    program = (
        "from fairgrape.report.audit_page import SCHEMA, audit_schema;"
        " from fairgrape.training.files import write_json; from pathlib import Path;"
        " write_json(Path('nbs/_site/static') / SCHEMA, audit_schema())"
    )
    env = os.environ | dict(PYTHONPATH=str(NBS.parent))
    subprocess.run([sys.executable, "-c", program], cwd=NBS.parent, env=env, check=True)


def sync():
    "jupytext both ways, export, clean, and jupytext again since cleaning touches the notebooks"
    call("jupytext", "--quiet", "--sync", *texts())
    for text in texts():
        if '"kernelspec"' not in notebook(text).read_text(encoding="utf-8"):
            call("jupytext", "--quiet", "--set-kernel", "python3", notebook(text))
    call("nbdev-export")
    parameter_cell()
    schema_file()
    call("nbdev-clean")
    for text in texts():
        plain(notebook(text))
    call("jupytext", "--quiet", "--sync", *texts())


def outputs():
    "Run every notebook but the templates and keep what it shows"
    for text in texts():
        if "templates" in text.parts:
            continue
        print(notebook(text).relative_to(NBS.parent), flush=True)
        call(
            sys.executable,
            "-m",
            "jupyter",
            "nbconvert",
            "--to",
            "notebook",
            "--execute",
            "--inplace",
            "--ExecutePreprocessor.timeout=900",
            notebook(text),
        )


if __name__ == "__main__":
    sync()
    if "--outputs" in sys.argv:
        outputs()
        sync()

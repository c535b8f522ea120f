"""JupyterLab keeps a notebook and its text together: a word written in the browser is in both
files, and one written in the text is in the browser.

Takes half a minute, so only with `--nb-flags slow`. Without chromium it skips and says so, or
fails where FAIRGRAPE_NO_SKIP=1.
"""

import difflib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BOOK, TEXT = "nbs/experiment/01_paths.ipynb", "nbs/_text/experiment/01_paths.py"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
# asks nothing of the network
QUIET = [
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
]


def until(true, seconds: float = 600):
    """Wait until `true()`, and fail with its name if it does not come. A file that is half
    written is not true.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if true():
                return
        except ValueError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{true.__name__}: not within {seconds} s")


@pytest.fixture
def missing(request):
    "Not slow: skip. No browser: skip, loudly; or fail, where skipping is forbidden."
    if "slow" not in request.config.getoption("--nb-flags"):
        pytest.skip("JupyterLab in a browser: make test-slow")
    if CHROMIUM is not None:
        return
    what = "there is no chromium: apt-get install chromium, or name one with CHROMIUM"
    if os.environ.get("FAIRGRAPE_NO_SKIP") == "1":
        pytest.fail(f"FAIRGRAPE_NO_SKIP=1, but {what}", pytrace=False)
    pytest.skip(f"JUPYTERLAB IS NOT TESTED: {what}")


@pytest.fixture
def project(missing, tmp_path) -> Path:
    "A project of one notebook and its text; the package and the configuration are ours"
    root = tmp_path / "project"
    for name in (BOOK, TEXT, "pyproject.toml", "settings.ini"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, root / name)
    shutil.copytree(
        REPO / "fairgrape", root / "fairgrape", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "home").mkdir()
    return root


def surroundings(project: Path) -> dict:
    "A home of its own, so that no one's Jupyter settings count"
    mine = {
        k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "FAIRGRAPE", "XDG"))
    }
    return mine | dict(
        HOME=str(project.parent / "home"),
        PYTHONPATH=str(project),
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )


def call(project: Path, *command):
    subprocess.run(command, cwd=project, env=surroundings(project), check=True)


@pytest.fixture
def lab(project):
    "JupyterLab's address, as `make setup` leaves it: nbdev's hooks are installed"
    call(project, "git", "init", "-q")
    call(project, "nbdev-install-hooks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{s.getsockname()[1]}"
    log = open(project.parent / "lab.log", "w")
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            f"--port={address.rpartition(':')[2]}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=grape",
            f"--ServerApp.root_dir={project}",
            *QUIET,
        ],
        cwd=project,
        env=surroundings(project),
        stdout=log,
        stderr=log,
    )

    def the_server_answers():
        assert server.poll() is None, (project.parent / "lab.log").read_text()
        try:
            return urllib.request.urlopen(f"{address}/api", timeout=5).status == 200
        except (urllib.error.URLError, OSError):
            return False

    try:
        until(the_server_answers)
        yield address
    finally:
        server.terminate()  # it ends its kernels, too
        try:
            server.wait(300)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def state(book: Path) -> tuple[list, dict]:
    "Cells, and what else the notebook says but for jupytext's note of its own options"
    held = json.loads(book.read_text(encoding="utf-8"))
    return held.pop("cells"), held | dict(
        metadata={k: v for k, v in held["metadata"].items() if k != "jupytext"}
    )


def changed(old: str, new: str) -> list[str]:
    return [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[0] in "+-"]


def menu(page, entry: str, command: str):
    page.locator("li.lm-MenuBar-item", has_text=entry).click()
    page.locator(f".lm-Menu-item[data-command='{command}']").click()


# while it saves, a reload would ask first
def saved(page):
    page.wait_for_selector(".lm-TabBar-tab.jp-mod-dirty", state="detached")


def test_a_word_goes_both_ways_and_all_cells_run(project, lab):
    from playwright.sync_api import sync_playwright

    book, text = project / BOOK, project / TEXT
    (cells, rest), script = state(book), text.read_text(encoding="utf-8")
    at = [i for i, c in enumerate(cells) if c["cell_type"] == "markdown"][1]
    last = cells[at]["source"][-1]
    runs = sum(c["cell_type"] == "code" and bool(c["source"]) for c in cells)

    def outputs():
        return [c["outputs"] for c in state(book)[0] if c["cell_type"] == "code"]

    before = outputs()
    assert any(before) and script.count(f"# {last}\n") == 1
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=600_000)
        page = chromium.new_page(viewport=dict(width=1400, height=1000))
        page.set_default_timeout(600_000)
        page.goto(f"{lab}/lab/tree/{BOOK}?token=grape")
        page.wait_for_function(
            "document.querySelector('.jp-NotebookPanel"
            " .jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
        )

        # The browser's word is in the notebook and in the text
        cell = page.locator(".jp-NotebookPanel .jp-MarkdownCell").nth(1)
        cell.locator(".jp-RenderedMarkdown").dblclick()
        cell.locator(".cm-content").click()
        page.wait_for_selector(
            ".jp-Notebook.jp-mod-editMode .jp-MarkdownCell.jp-mod-active .cm-content:focus"
        )
        page.keyboard.press("Control+End")
        page.keyboard.type(" Pomegranate.")
        page.keyboard.press("Control+s")

        def both_files_have_the_word():
            written = text.read_text(encoding="utf-8")
            return (
                "Pomegranate" in str(state(book)[0])
                and "Pomegranate" in written
                and written.endswith(script[-200:])
            )

        until(both_files_have_the_word)
        saved(page)
        assert changed(script, text.read_text(encoding="utf-8")) == [
            f"- # {last}",
            f"+ # {last} Pomegranate.",
        ]

        # The text's word is in the browser
        text.write_text(
            text.read_text(encoding="utf-8").replace("Pomegranate.", "Pomegranate. Quince."),
            encoding="utf-8",
        )
        menu(page, "File", "docmanager:reload")
        cell = page.locator(".jp-NotebookPanel .jp-MarkdownCell", has_text="Pomegranate. Quince.")
        sure = page.locator(".jp-Dialog", has_text="Are you sure you want to reload").locator(
            "button.jp-mod-accept"
        )
        cell.or_(sure).first.wait_for()
        # once in twenty times JupyterLab takes the notebook that it just saved for unsaved, and
        # asks
        if sure.is_visible():
            sure.click()
        cell.wait_for()

        # Outputs that are thrown away come back
        menu(page, "Edit", "editmenu:clear-all")
        page.keyboard.press("Control+s")

        def the_outputs_are_gone():
            return not any(outputs())

        until(the_outputs_are_gone)
        saved(page)
        menu(page, "Run", "runmenu:run-all")
        page.locator(".jp-NotebookPanel .jp-CodeCell").last.locator(
            ".jp-InputPrompt", has_text=f"[{runs}]:"
        ).wait_for()
        menu(page, "File", "docmanager:save")

        def the_outputs_are_back():
            return any(outputs())

        until(the_outputs_are_back)
        chromium.close()

    call(project, "nbdev-clean")
    call(project, "jupytext", "--quiet", "--sync", TEXT)
    new, now = state(book)
    assert changed(script, text.read_text(encoding="utf-8")) == [
        f"- # {last}",
        f"+ # {last} Pomegranate. Quince.",
    ]
    cells[at]["source"][-1] += " Pomegranate. Quince."
    assert new == cells and now == rest

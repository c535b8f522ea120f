"""The documentation site, built and looked at in a browser: every page, every link, the search,
the theme, a phone's width, contrast.

Needs the extra `docs`, npm's packages (fetched once) and chromium; without them it skips and says
so, or fails where FAIRGRAPE_NO_SKIP=1.
"""

import ast
import asyncio
import functools
import html
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from fixtures import shown
from lengths import long

REPO = Path(__file__).resolve().parents[2]
BUILD = REPO / "nbs" / "_site" / "build.py"
RULES = [
    "color-contrast",
    "image-alt",
    "link-name",
    "button-name",
    "document-title",
    "html-has-lang",
    "label",
    "duplicate-id-aria",
    "svg-img-alt",
]


def missing(what: str):
    "Skip, loudly; or fail, where skipping is forbidden"
    if os.environ.get("FAIRGRAPE_NO_SKIP") == "1":
        pytest.fail(f"FAIRGRAPE_NO_SKIP=1, but {what}", pytrace=False)
    pytest.skip(f"THE SITE IS NOT TESTED: {what}", allow_module_level=True)


for name in ("sphinx", "myst_nb", "furo", "playwright"):
    if importlib.util.find_spec(name) is None:
        missing(f"{name} is not installed: pip install 'fairgrape[docs]'")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    missing("there is no chromium: apt-get install chromium, or name one with CHROMIUM")

from playwright.async_api import async_playwright  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
# milliseconds that a page may take where other work keeps the cores; Playwright's own limit is 30
# s
PATIENCE = 300_000

spec = importlib.util.spec_from_file_location("site_build", BUILD)
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def packages() -> Path:
    "What npm brings; here, not while tests are collected, which every worker does"
    try:
        return build.npm_packages()
    except SystemExit as e:
        missing(str(e))


@pytest.fixture(scope="module")
def site(tmp_path_factory, packages) -> Path:
    "The built site; FAIRGRAPE_SITE names one that is built already"
    if os.environ.get("FAIRGRAPE_SITE"):
        return Path(os.environ["FAIRGRAPE_SITE"]).resolve()
    out = tmp_path_factory.mktemp("site") / "html"
    before = {p: p.stat().st_mtime_ns for p in REPO.glob("nbs/**/*.ipynb")}
    done = subprocess.run([sys.executable, BUILD, "--out", out], capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    after = {p: p.stat().st_mtime_ns for p in before if p.exists()}
    assert sum(before[p] != t for p, t in after.items()) == 0, "the build touched notebooks"
    return out


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=site)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        yield chromium
        chromium.close()


def opened(browser, **how):
    "A new page that waits as long as a busy machine needs"
    page = browser.new_page(**how)
    page.set_default_timeout(PATIENCE)
    return page


class Page(HTMLParser):
    "What a page offers and asks for, and the `names` in its prose that lead nowhere"

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.pictures, self.unlinked = set(), [], [], []
        # depth of paragraphs and table cells, of links and headings; the code that is being read
        self.prose, self.linked, self.name = 0, 0, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get("id"):
            self.ids.add(a["id"])
        if tag == "a" and a.get("name"):
            self.ids.add(a["name"])
        for key in ("href", "src"):
            if a.get(key):
                self.links.append(a[key])
        if tag == "img":
            self.pictures.append((a.get("src", ""), a.get("alt")))
        self.prose += tag in ("p", "td")
        self.linked += tag in ("a", "dt", "h1", "h2", "h3", "h4")
        if tag == "code" and self.prose and not self.linked:
            self.name = ""

    def handle_data(self, data):
        if self.name is not None:
            self.name += data

    def handle_endtag(self, tag):
        self.prose -= tag in ("p", "td")
        self.linked -= tag in ("a", "dt", "h1", "h2", "h3", "h4")
        if tag == "code" and self.name is not None:
            self.unlinked.append(self.name)
            self.name = None


def urls(site: Path) -> list[str]:
    return sorted(
        p.relative_to(site).as_posix() for p in site.rglob("*.html") if "_static" not in p.parts
    )


@pytest.fixture(scope="module")
def parsed(site) -> dict[str, Page]:
    return {u: Page((site / u).read_text(encoding="utf-8")) for u in urls(site)}


def test_no_link_and_no_anchor_is_broken(site, parsed):
    broken = []
    for url, page in parsed.items():
        for link in page.links:
            at = urlsplit(link)
            if at.scheme or at.netloc or link.startswith("data:"):
                continue
            target = (site / url).parent / unquote(at.path) if at.path else site / url
            target = Path(os.path.normpath(target))
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                broken.append(f"{url}: {link}")
            elif (
                at.fragment
                and target.suffix == ".html"
                and unquote(at.fragment)
                not in parsed[target.relative_to(site).as_posix()].ids | {"", "top"}
            ):
                broken.append(f"{url}: {link} (no such anchor)")
    assert not broken, "\n".join(broken[:40])


def test_every_picture_has_an_alt_text_of_its_own(parsed):
    pictures = [
        (url, src, alt)
        for url, page in parsed.items()
        for src, alt in page.pictures
        if "_static/" not in src
    ]
    assert len(pictures) > 50 and not [p for p in pictures if not p[2] or len(p[2]) < 15]


def test_every_exported_definition_has_its_place(site, parsed):
    "In the pages, with an anchor, and in the API's table"
    api = (site / "modules.html").read_text(encoding="utf-8")
    anchors = set().union(*(page.ids for page in parsed.values()))
    names = [
        f"fairgrape.{m}.{n.name}"
        for m, tree in build.package().items()
        for n in build.definitions(tree)
        if isinstance(n, ast.ClassDef) or not build.patched(n)
    ]
    assert len(names) > 250 and not [n for n in names if n not in anchors or f"#{n}" not in api]


def test_every_run_and_study_has_a_page(site):
    books = [p for p in build.SHOWCASE.rglob("*.ipynb") if p.name in ("prune.ipynb", "study.ipynb")]
    assert books and not [
        p
        for p in books
        if not (site / "runs" / p.parent.relative_to(build.SHOWCASE))
        .with_name(f"{p.parent.name}.html")
        .is_file()
    ]


def test_every_notebook_has_a_page(site):
    pages = {b: build.page_name(b) for b in build.books()}
    pages |= {b: b.stem for b in build.NBS.glob("tutorials/*.ipynb")}
    assert len(pages) > 80
    assert not [b for b, n in pages.items() if not (site / f"{n}.html").is_file()]


def test_no_heading_is_lost(site):
    "Every heading of a notebook and of a text is on its page"
    pages = {b: build.page_name(b) for b in build.books()}
    others = [build.STORY, *build.NBS.glob("tutorials/*.ipynb"), *build.SITE.glob("*.md")]
    pages |= {p: p.stem for p in others}
    for path, name in pages.items():
        texts = (
            [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"]
            if path.suffix == ".ipynb"
            else [path.read_text(encoding="utf-8")]
        )
        asked = [
            h
            for text in texts
            for h in re.findall(r"^##+ ([\w ,:]+)$", build.FENCE.sub("", text), re.M)
        ]
        page = html.unescape((site / f"{name}.html").read_text(encoding="utf-8"))
        assert not [h for h in asked if f"{h}<" not in page], path


def test_every_notebook_was_executed():
    """Pages show the outputs that notebooks hold: one without any would be a page of code that
    never ran
    """
    books = {
        p.name: [c for c in nbformat.read(p, 4).cells if c.cell_type == "code"]
        for p in [build.STORY, *build.books(), *build.NBS.glob("tutorials/*.ipynb")]
    }
    assert not [name for name, cells in books.items() if not any(c.outputs for c in cells)], (
        "make outputs"
    )
    assert not [
        name
        for name, cells in books.items()
        if any(o.output_type == "error" for c in cells for o in c.outputs)
    ]


def test_prose_links_its_symbols(parsed):
    "A name of the package that only one thing has is a link wherever prose says it"
    lost = [
        f"{url}: {name}"
        for url, page in parsed.items()
        for name in page.unlinked
        if build.meant(name.removesuffix("()"), called=name.endswith("()"))
    ]
    assert (
        sum("#fairgrape." in link for page in parsed.values() for link in page.links) > 1000
        and not lost
    ), "\n".join(lost[:40])


def test_the_troubleshooting_page_quotes_errors_that_are_raised():
    headings = re.findall(
        r"^### (.*)$", (BUILD.parent / "troubleshooting.md").read_text(encoding="utf-8"), re.M
    )
    # strings as Python joins them: a long one stands on several lines
    nodes = (n for tree in build.package().values() for n in ast.walk(tree))
    said = "\n".join(
        n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)
    )
    assert len(headings) > 15 and not [h for h in headings if h not in said]


NPM = """#!/bin/bash
echo called >> calls; [ ! -e busy ] || exit 7
touch busy; sleep 0.5
for p in $WANTED; do
  mkdir -p node_modules/${p%:*}
  echo "{\\"version\\": \\"${p#*:}\\"}" > node_modules/${p%:*}/package.json
  sleep 0.5
done
rm busy
"""


def test_npm_runs_once_however_many_ask(tmp_path):
    "Every worker asks on a fresh machine; two npm in one folder break each other"
    copy = tmp_path / "nbs" / "_site" / "build.py"
    copy.parent.mkdir(parents=True)
    for name in ("build.py", "package.json"):
        shutil.copy(BUILD.with_name(name), copy.parent)
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(NPM)
    npm.chmod(0o755)
    ask = (
        "import runpy, sys; print(sum(1 for _ in"
        " runpy.run_path(sys.argv[1])['npm_packages']().glob('*/package.json')))"
    )
    env = os.environ | dict(
        PATH=f"{npm.parent}:{os.environ['PATH']}",
        WANTED=" ".join(f"{name}:{version}" for name, version in build.wanted().items()),
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", ask, copy], env=env, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert [w.communicate()[0].strip() for w in workers] == ["2"] * 4
    assert (copy.parent / "calls").read_text() == "called\n"


def kind(url: str) -> str:
    """Pages of one kind look alike: a run, a study, a chapter of the reference; the rest is of
    its own kind
    """
    if url.startswith("runs/"):
        return re.sub(r"[^/]+$", "", url) + ("index" if url.endswith("index.html") else "page")
    chapters = {f"{name.replace('.', '/')}.html" for name in build.package()}
    return "chapter" if url in chapters else url


async def look(address: str, jobs: list[tuple[str, str, int, bool]], tabs: int = 4) -> list[str]:
    "Visit (page, light or dark, width, with axe-core?) in several tabs at once; what is wrong"
    wrong, axe = [], (build.MODULES / "axe-core" / "axe.min.js").read_text(encoding="utf-8")

    async def tab(context, width):
        page, at = await context.new_page(), ""
        page.set_default_timeout(PATIENCE)
        page.on(
            "console",
            lambda m: wrong.append(f"{at}: console: {m.text}") if m.type == "error" else None,
        )
        page.on("pageerror", lambda e: wrong.append(f"{at}: {e}"))
        # aborted: the next page came
        page.on(
            "requestfailed",
            lambda r: (
                wrong.append(f"{at}: {r.url} {r.failure}")
                if r.failure != "net::ERR_ABORTED"
                else None
            ),
        )
        page.on(
            "response",
            lambda r: wrong.append(f"{at}: {r.url} {r.status}") if r.status >= 400 else None,
        )
        page.on(
            "request",
            lambda r: (
                wrong.append(f"{at}: asks for {r.url}")
                if not r.url.startswith((address, "data:", "blob:"))
                else None
            ),
        )
        while todo:
            at, contrast = todo.pop()
            await page.goto(f"{address}/{at}", wait_until="load")
            # formulas have a width, too
            await page.evaluate(
                "Promise.resolve(window.MathJax?.startup?.promise).then(() =>"
                " document.fonts.ready).then(() => true)"
            )
            if wide := await page.evaluate(WIDE):
                wrong.append(f"{at} ({width} px): wider than the window: {wide}")
            if lost := await page.evaluate(LOST):
                wrong.append(f"{at}: {lost} pictures are not there")
            if not contrast:
                continue
            await page.evaluate(axe)
            broken = (
                await page.evaluate(
                    "rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']})",
                    RULES,
                )
            )["violations"]
            wrong.extend(
                f"{at} ({scheme}, {width} px): {v['id']}: {n['html'][:120]}"
                f" {n['failureSummary'][:200]}"
                for v in broken
                for n in v["nodes"][:3]
            )

    async with async_playwright() as p:
        chromium = await p.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        for scheme, width in sorted({job[1:3] for job in jobs}):
            todo = [(url, contrast) for url, s, w, contrast in jobs if (s, w) == (scheme, width)]
            context = await chromium.new_context(
                viewport=dict(width=width, height=800), color_scheme=scheme
            )
            await asyncio.gather(*(tab(context, width) for _ in range(tabs)))
            await context.close()
        await chromium.close()
    return wrong


def test_every_page_loads_fits_a_phone_and_has_contrast(request, site, address):
    """Each at 390 px: no console error, no failing request, nothing from elsewhere, no horizontal
    scroll. One of each kind by axe-core, light and dark, on a phone and on a screen.

    Where time is short only that one of each kind is loaded; the other tests here still read them
    all.
    """
    jobs, seen = [], set()
    for url in urls(site):
        new = kind(url) not in seen
        if not new and not long(request):
            continue
        seen.add(kind(url))
        jobs += [(url, "light", 390, new)] + [
            (url, "dark", 390, True),
            (url, "light", 1400, True),
            (url, "dark", 1400, True),
        ] * new
    # an event loop of its own
    with ThreadPoolExecutor(1) as aside:
        wrong = aside.submit(asyncio.run, look(address, jobs)).result()
    assert not wrong, "\n".join(wrong[:30])


# the window and the text's column may not scroll sideways; a box inside it may
WIDE = """(() => {
    const column = document.querySelector('.content');
    const scrolls = e => /auto|scroll|hidden/.test(getComputedStyle(e).overflowX);
    const inside = e => {
        for (let p = e.parentElement; p && p !== column; p = p.parentElement)
            if (scrolls(p)) return true;
    };
    const fits = document.documentElement.scrollWidth <= innerWidth;
    if (fits && (!column || column.scrollWidth <= column.clientWidth + 1)) return '';
    return [...document.querySelectorAll('body *')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !inside(e))
        .slice(0, 3).map(e => e.tagName + '.' + e.className).join(', ') || 'something';
})()"""

LOST = (
    "[...document.querySelectorAll('.content img, article img')].filter(i => i.loading !== 'lazy'"
    " && !(i.complete && i.naturalWidth > 0)).length"
)


def test_pages_of_runs_show_their_pictures(site, parsed):
    "As many as the notebook has, each with its text"
    for book, name in build.finished().items():
        if book.suffix != ".ipynb":
            continue
        pictures = [
            src for src, alt in parsed[f"{name}.html"].pictures if "_static/" not in src and alt
        ]
        assert len(pictures) == len(shown(book)[0]) > 0, name


def test_search_finds_select_fair(address, browser):
    page = opened(browser)
    page.goto(f"{address}/index.html")
    page.fill("input[name=q]", "select_fair")
    page.press("input[name=q]", "Enter")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
    at = build.meant("select_fair", called=True)
    page.goto(next((link for link in found[:5] if at in link), found[0]))
    assert page.locator(f"[id='{at}']").count() == 1, found
    page.close()


def test_the_theme_toggles(address, browser):
    page = opened(browser, viewport=dict(width=1400, height=900), color_scheme="light")
    page.goto(f"{address}/index.html")

    def colour():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    seen = {colour()}
    for _ in range(3):
        page.click(".theme-toggle:visible")
        seen.add(colour())
    assert len(seen) == 2
    page.close()


def test_a_phone_has_the_menu(address, browser):
    page = opened(browser, viewport=dict(width=390, height=800))
    page.goto(f"{address}/index.html")
    entry = page.locator(".sidebar-tree a").first
    assert entry.bounding_box()["x"] < 0
    page.click("header label[for=__navigation]")
    page.wait_for_function("e => e.getBoundingClientRect().x >= 0", arg=entry.element_handle())
    entry.click()
    page.wait_for_url("**/story.html" if build.STORY.is_file() else "**/use.html")
    page.close()


def test_maths_is_set_without_a_network(address, browser):
    page = opened(browser)
    page.goto(f"{address}/method/importance.html")
    page.wait_for_selector("mjx-container")
    page.close()


def test_what_a_formula_says_to_screen_readers_takes_no_room(address, browser):
    """Its width would depend on the reader's fonts, and a long formula in a line would make a
    phone's page scroll sideways
    """
    page = opened(browser, viewport=dict(width=390, height=800))
    page.goto(f"{address}/by_hand.html")
    page.wait_for_selector("mjx-assistive-mml", state="attached")
    page.evaluate("MathJax.startup.promise.then(() => true)")
    hidden = page.locator("mjx-assistive-mml")
    boxes = hidden.evaluate_all("all => all.map(e => [e.offsetWidth, e.offsetHeight])")
    assert len(boxes) == page.locator("mjx-container").count() > 3 and all(
        max(box) <= 2 for box in boxes
    ), boxes
    assert all(text.strip() for text in hidden.all_text_contents())
    page.close()


def test_code_unfolds(address, browser):
    page = opened(browser)
    page.goto(f"{address}/method/selection.html")
    page.click("details summary >> nth=0")
    assert page.locator("details[open] pre").first.is_visible()
    page.close()

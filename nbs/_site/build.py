"""Build the documentation site: `python nbs/_site/build.py [--out _docs]`.

Notebooks are read, never written. nbdev's processor takes their directives, then their pages are
made in a temporary folder from the outputs that they hold: those came
from a whole run of each notebook and are in the repository (`make outputs` renews them), so that a
page takes no hour of training to make.
Each exported definition becomes its signature, its docments and its folded source; each `name` of
one in prose becomes a link to it. nbdev's own show_doc would do that by
running every cell that imports or exports, which needs all optional packages and gives no entries
for the index, so only its processors that run nothing are used.
"""

import argparse
import ast
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from functools import cache
from pathlib import Path

import nbformat
import yaml
from filelock import FileLock
from nbdev.doclinks import nbpath2html
from nbdev.process import NBProcessor
from nbdev.processors import ai_magics, filter_stream_, hide_, hide_line, rm_header_dash, strip_ansi
from nbformat.v4 import new_code_cell, new_markdown_cell

SITE = Path(__file__).resolve().parent
REPO = SITE.parents[1]
NBS, SHOWCASE = REPO / "nbs", REPO / "runs" / "showcase"
STORY, USE = NBS / "story.ipynb", SITE / "use.md"
MODULES = SITE / "node_modules"

# ---- what comes from npm: MathJax for the pages, axe-core for their test


def wanted() -> dict[str, str]:
    "npm package → version, from package.json"
    asked = json.loads((SITE / "package.json").read_text(encoding="utf-8"))
    return asked["dependencies"] | asked["devDependencies"]


def there(name: str, version: str) -> bool:
    file = MODULES / name / "package.json"
    return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["version"] == version


def lacking_packages() -> list[str]:
    return [f"{n} {v}" for n, v in wanted().items() if not there(n, v)]


NPM = [
    "npm",
    "install",
    "--silent",
    "--no-package-lock",
    "--no-audit",
    "--no-fund",
    "--ignore-scripts",
]


def npm_packages() -> Path:
    """nbs/_site/node_modules, filled once, by one process at a time. Raises: SystemExit without
    npm, or where npm cannot fetch them.
    """
    MODULES.mkdir(exist_ok=True)
    # two npm at once in one folder break each other, and a third would see half a package
    with FileLock(MODULES / ".fetching.lock"):
        lacking = lacking_packages()
        if not lacking:
            return MODULES
        if shutil.which("npm") is None:
            raise SystemExit(
                f"{' and '.join(lacking)}: not in {MODULES.relative_to(REPO)}, and there is no npm"
                " to fetch them. Install npm, or unpack the packages there"
            )
        done = subprocess.run(NPM, cwd=SITE, capture_output=True, text=True)
        if done.returncode or lacking_packages():
            raise SystemExit(
                f"npm cannot fetch {' and '.join(lacking)}; unpack them into"
                f" {MODULES.relative_to(REPO)} by hand."
                f" {(done.stderr or done.stdout).strip()[-300:]}"
            )
    return MODULES


def copy_mathjax(source: Path, target: Path):
    "The part of MathJax that the pages load: TeX in, HTML out, and its fonts"
    es5 = source / "es5"
    (target / "output").mkdir(parents=True)
    shutil.copy(es5 / "tex-mml-chtml.js", target)
    shutil.copytree(es5 / "output" / "chtml", target / "output" / "chtml")


# ---- definitions: what the package exports, read from its source


@cache
def package() -> dict[str, ast.Module]:
    "Module (`method.masks`) → its parsed source"
    home = REPO / "fairgrape"
    files = sorted(p for p in home.rglob("*.py") if not p.stem.startswith("_"))
    named = {".".join(p.relative_to(home).with_suffix("").parts): p for p in files}
    return {module: ast.parse(p.read_text(encoding="utf-8")) for module, p in named.items()}


def dotted(decorator: ast.expr) -> str:
    return ast.unparse(decorator).partition("(")[0]


def patched(node) -> str:
    "The class that a `@patch` method is for, else nothing"
    if not any(dotted(d) == "patch" for d in node.decorator_list):
        return ""
    return ast.unparse(node.args.args[0].annotation).strip("'\"")


def definitions(tree: ast.Module) -> list:
    "Public functions and classes of a module or a cell, in order"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [
        n
        for n in tree.body
        if isinstance(n, kinds)
        and not n.name.startswith("_")
        and not (isinstance(n, kinds[:2]) and patched(n).startswith("_"))
    ]


def constants(tree: ast.Module) -> dict[str, ast.stmt]:
    "Public names that a module or a cell assigns → where it does"
    targets = [
        (t, n)
        for n in tree.body
        if isinstance(n, (ast.Assign, ast.AnnAssign))
        for t in (n.targets if isinstance(n, ast.Assign) else [n.target])
    ]
    return {t.id: n for t, n in targets if isinstance(t, ast.Name) and not t.id.startswith("_")}


@cache
def symbols() -> dict[str, set[str]]:
    """Every way to write a symbol (`masks.prunable`, `prunable`, `Step.sparsity`) → the full
    names that it may mean
    """
    found = {}

    def add(full):
        parts = full.split(".")
        for i in range(len(parts)):
            found.setdefault(".".join(parts[i:]), set()).add(full)

    for module, tree in package().items():
        found.setdefault(f"fairgrape.{module}", set()).add(f"fairgrape.{module}")
        for node in definitions(tree):
            owner = "" if isinstance(node, ast.ClassDef) else patched(node)
            add(f"fairgrape.{module}.{owner + '.' if owner else ''}{node.name}")
            if isinstance(node, ast.ClassDef):
                for inner in definitions(node):
                    add(f"fairgrape.{module}.{node.name}.{inner.name}")
        for name in constants(tree):
            add(f"fairgrape.{module}.{name}")
    for name, module in public_names().items():
        found[f"fairgrape.{name}"] = {f"fairgrape.{module}.{name}"}
    return found


@cache
def tops() -> set[str]:
    "Full names of what modules define themselves, methods left out"
    defined = {
        module: [n.name for n in definitions(tree) if isinstance(n, ast.ClassDef) or not patched(n)]
        for module, tree in package().items()
    }
    return {
        f"fairgrape.{module}.{name}"
        for module, tree in package().items()
        for name in (*defined[module], *constants(tree))
    }


@cache
def setting_names() -> set[str]:
    "Names of settings, which in prose mean the setting, not a function of that name"
    found = [
        n
        for tree in package().values()
        for n in tree.body
        if isinstance(n, ast.ClassDef) and n.name == "Settings"
    ]
    if len(found) != 1:
        raise SystemExit(
            f"{len(found)} classes of the package are called Settings: the site takes a run's"
            " settings from the one"
        )
    return {n.target.id for n in found[0].body if isinstance(n, ast.AnnAssign)}


def meant(name: str, module: str = "", called: bool = False) -> str:
    """The full name of a symbol as prose writes it, or nothing. A name that several modules
    have means this module's.
    """
    full = symbols().get(name, set())
    here = {f for f in full if f.startswith(f"fairgrape.{module}.")}
    if "." not in name and not called and (name in setting_names() or (len(name) < 4 and not here)):
        return ""
    if "." not in name:
        full = full & tops() or (full if called else set())
    best = here & full or full
    return next(iter(best)) if len(best) == 1 else ""


# ---- prose

FENCE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)[ \t]*$|^\$\$.*?\$\$)", re.M | re.S)
NAMED = re.compile(r"(?<![`\[{}\w])`((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(\(\))?`(?!`)")
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\()([^()\s]+)(\))")


def link_names(text: str, module: str = "") -> str:
    "`name` → a link to where it is told, outside of headings, code and other links"

    def line(s):
        def one(m):
            before = s[: m.start()]
            if before.count("[") > before.count("]"):
                return m[0]
            full = meant(m[1], module, bool(m[2]))
            role = "py:mod" if full.removeprefix("fairgrape.") in package() else "py:obj"
            return f"{{{role}}}`{m[1]}{m[2] or ''} <{full}>`" if full else m[0]

        return s if s.startswith("#") else NAMED.sub(one, s)

    parts = FENCE.split(text)
    return "".join(
        p if i % 2 else "\n".join([line(s) for s in p.split("\n")]) for i, p in enumerate(parts)
    )


def short_headings(text: str) -> str:
    "An experiment's heading up to its first semicolon; its other settings go under it"
    return re.sub(
        r"(?m)^(#{2,4} [^;\n]{8,}); (\w)(.*)$", lambda m: f"{m[1]}\n\n{m[2].upper()}{m[3]}.", text
    )


class Pages:
    "Which file of the repository is which page, and where links between them lead"

    def __init__(self, out: Path, lax: bool = False):
        self.out, self.lax, self.of, self.extra = out, lax, {}, set()

    def page(self, source: Path, name: str):
        if name in self.of.values():
            raise SystemExit(
                f"{source.relative_to(REPO)} and"
                f" {next(p for p, n in self.of.items() if n == name).relative_to(REPO)} would both"
                f" be the page {name}"
            )
        self.of[source.resolve()] = name

    def linked_texts(self, source: Path) -> list[Path]:
        "Markdown files, or folders of them, that a page links to and that are no page yet"
        found = (
            (source.parent / m[2].partition("#")[0]).resolve()
            for m in LINK.finditer(source.read_text(encoding="utf-8"))
            if not re.match(r"[a-z]+:|#|/", m[2])
        )
        files = (q for p in found for q in (sorted(p.glob("*.md")) if p.is_dir() else [p]))
        return [
            p
            for p in dict.fromkeys(files)
            if p.suffix == ".md" and p.is_file() and p not in self.of and p.is_relative_to(REPO)
        ]

    def target(self, url: str, source: Path) -> str:
        "Where a link in `source` leads on the site"
        if re.match(r"[a-z]+:|#|/", url):
            return url
        path, hash_, anchor = url.partition("#")
        there = (source.parent / path).resolve()
        for real in (there, there / "README.md", there / "index.md"):
            if real in self.of:
                return f"/{self.of[real]}{real.suffix}{hash_}{anchor}"
        if there.is_file():
            return self.file(there)
        if not self.lax:
            raise SystemExit(f"{source.relative_to(REPO)}: the link {url} leads nowhere")
        print(f"{source.relative_to(REPO)}: the link {url} leads nowhere", file=sys.stderr)
        return ""

    def file(self, path: Path) -> str:
        "A file that is no page lies beside the pages as it is"
        where = Path("files") / path.relative_to(REPO)
        where = (
            where.with_name(where.name + ".txt")
            if where.suffix in ("", ".py", ".yaml", ".ini", ".md")
            else where
        )
        if where not in self.extra:
            self.extra.add(where)
            (self.out / where).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, self.out / where)
        return f"path:{where.as_posix()}"

    def prose(self, text: str, source: Path, name: str, module: str = "") -> str:
        "Markdown of the repository as markdown of the site"
        depth = "../" * name.count("/")

        def one(m):
            if m[1].startswith("!"):
                return (
                    m[1] + self.picture((source.parent / m[2]).resolve(), name) + m[3]
                    if not re.match(r"[a-z]+:", m[2])
                    else m[0]
                )
            if re.search(r"[(,]", m[2]):
                return m[0]
            if (source.parent / m[2]).is_dir() and not (
                source.parent / m[2] / "README.md"
            ).is_file():
                # a folder has no page: its name alone
                return m[1].removeprefix("[").removesuffix("](")
            to = self.target(m[2], source)
            return (
                m[1] + to.replace("path:", f"path:{depth}", 1) + m[3]
                if to
                else m[1].removeprefix("[").removesuffix("](")
            )

        parts = FENCE.split(text)
        linked = "".join(p if i % 2 else LINK.sub(one, p) for i, p in enumerate(parts))
        return link_names(short_headings(linked) if name.startswith("runs/") else linked, module)

    def picture(self, path: Path, name: str) -> str:
        if not path.is_file():
            raise SystemExit(f"{name}: there is no picture {path}")
        folder = (self.out / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name)
        return path.name


# ---- definitions as pages show them


def comments(source: str) -> tuple[dict[int, str], set[int]]:
    "Row → its comment, and the rows that hold nothing else"
    found, alone = {}, set()
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        if t.type == tokenize.COMMENT:
            found[t.start[0]] = t.string.lstrip("# ").strip()
            if not t.line[: t.start[1]].strip():
                alone.add(t.start[0])
    return found, alone


def told(part: ast.AST, found: dict[int, str], alone: set[int]) -> str:
    "The comment on a part's last row, or that on the comment-only rows above its first"
    if part.end_lineno in found:
        return found[part.end_lineno]
    words, row = [], part.lineno
    while (row := row - 1) in alone:
        words.insert(0, found[row])
    return " ".join(words)


def plain(text: str) -> str:
    return re.sub(r"<(?=[A-Za-z/])", r"\\<", text)


def docstring(node) -> str:
    "The docstring as markdown: what it raises and the like, in paragraphs of their own"
    text = plain(ast.get_docstring(node) or "")
    return re.sub(
        r"(?m)(?:^|(?<=[.:] ))(Raises|Shapes|Source|Units|Cost|Returns):", r"\n\n**\1:**", text
    ).strip()


def docments(node, source: str, module: str) -> list[str]:
    "Field-list lines for parameters (or a dataclass's fields) and the result"
    found, alone = comments(source)
    lines, seen = [], set()

    def field(name, kind, part):
        what = told(part, found, alone) if part.end_lineno not in seen else ""
        if isinstance(part, ast.AnnAssign) and (made := setting_call(part)):
            what = ast.literal_eval(made.args[1])
        seen.add(part.end_lineno)
        if what:
            lines.append(f":param {name}: {link_names(plain(what), module)}")
        if what and kind is not None:
            lines.append(f":type {name}: {ast.unparse(kind)}")

    if isinstance(node, ast.ClassDef):
        init = next(
            (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None
        )
        if init is None:
            for n in node.body:
                if isinstance(n, ast.AnnAssign):
                    field(n.target.id, n.annotation, n)
            return lines
        node = init
    a = node.args
    shown = [
        *a.posonlyargs,
        *a.args,
        *([a.vararg] if a.vararg else []),
        *a.kwonlyargs,
        *([a.kwarg] if a.kwarg else []),
    ]
    for arg in shown:
        field(arg.arg, arg.annotation, arg)
    if (
        node.returns is not None
        and (what := told(node.returns, found, alone))
        and node.returns.end_lineno not in seen
    ):
        lines.append(f":returns: {link_names(plain(what), module)}")
    return lines


def setting_call(field: ast.AnnAssign) -> ast.Call | None:
    "The call `setting(default, help, …)` that makes a field of the settings, if one does"
    value = field.value
    return value if isinstance(value, ast.Call) and ast.unparse(value.func) == "setting" else None


def field_text(field: ast.AnnAssign) -> str:
    "A dataclass's field as a parameter; of a setting only the default"
    made = setting_call(field)
    if made is None:
        return ast.unparse(field)
    default = ast.unparse(made.args[0])
    return f"{field.target.id}: {ast.unparse(field.annotation)} = {default}"


def signature(node) -> str:
    "What stands between a name and its docstring"
    if isinstance(node, ast.ClassDef):
        init = next(
            (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None
        )
        if init is None:
            fields_ = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            if not any(dotted(d).endswith("dataclass") for d in node.decorator_list) and not any(
                "NamedTuple" in ast.unparse(b) for b in node.bases
            ):
                return ""
            return f"({', '.join(field_text(f) for f in fields_)})"
        node = init
    text = ast.unparse(node.args)
    if node.args.args and node.args.args[0].arg in ("self", "cls"):
        text = re.sub(r"^(self|cls)(: *[\w.\[\]']+)?(, )?", "", text)
    return f"({text})" + (f" -> {ast.unparse(node.returns)}" if node.returns is not None else "")


def directive(
    kind: str, name: str, body: list[str], colons: int, options: tuple[str, ...] = ()
) -> str:
    return "\n".join([f"{':' * colons}{{py:{kind}}} {name}", *options, "", *body, ":" * colons])


def described(
    node, source: str, module: str, owner: str = "", colons: int = 4, inside: bool = False
) -> str:
    """One definition as a Python-domain directive: signature, docstring, docments; a class's
    methods inside it
    """
    owner = owner or (patched(node) if not isinstance(node, ast.ClassDef) else "")
    body = [link_names(docstring(node), module), ""]
    body += [*docments(node, source, module), ""]
    kind = (
        "class" if isinstance(node, ast.ClassDef) else "method" if owner or inside else "function"
    )
    options = ()
    if kind == "class":
        for inner in definitions(node):
            body.append(described(inner, source, module, "", colons - 1, inside=True) + "\n")
    elif any(dotted(d).endswith("property") for d in node.decorator_list):
        kind = "property"
    written = f"{owner + '.' if owner else ''}{node.name}" + (
        "" if kind == "property" else signature(node)
    )
    if kind == "property" and node.returns is not None:
        options = (f":type: {ast.unparse(node.returns)}",)
    return directive(kind, written, body, colons, options)


# ---- notebooks

# nbdev's processors that run no cell
QUIET = [strip_ansi, hide_line, filter_stream_, rm_header_dash, ai_magics, hide_]


def processed(notebook: Path):
    "A notebook as nbdev sees it: directives taken from each cell and obeyed, hidden cells gone"
    return NBProcessor(notebook, procs=QUIET, process=True).nb


def flag(cell, name: str) -> str | None:
    "What a directive of the cell says, `#| echo: false` or `#| slow`; None without it"
    return next((v.strip() for k, v in cell.directives_.items() if k.rstrip(":") == name), None)


@cache
def plot_words() -> dict[str, str]:
    "What the functions that plot say of themselves"
    return {
        n.name: (ast.get_docstring(n) or "").splitlines()[0]
        for t in package().values()
        for n in definitions(t)
        if n.name.startswith("plot_") and ast.get_docstring(n)
    }


def words(text: str) -> str:
    "Markdown as plain words in one line, for an alt text"
    text = re.sub(r"\{[\w:]+\}`([^`<]*?)(?: <[^>]*>)?`", r"\1", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"(?m)^ *[-*] |[`*_#>$\"\\]", "", text))
    return " ".join(text.replace("[", "(").replace("]", ")").split())


def shorter(text: str, length: int = 300) -> str:
    "The text, or its first words"
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0].rstrip(",;: ") + " …"


def alt_text(source: str, number: int, before: str) -> str:
    """What a picture shows: by the function that drew it and the last heading, or by the prose
    before it
    """
    calls = [name for name in re.findall(r"\b(plot_\w+)\(", source) if name in plot_words()]
    text = (
        plot_words()[calls[number % len(calls)]] + (f" {before}" if before else "")
        if calls
        else before
    )
    return shorter(words(text)) or "Figure, described in the text beside it"


def own_words(output) -> str:
    """What a picture says of itself: the text form that the notebook keeps beside it, unless
    that is only what kind of object it is
    """
    text = output.get("data", {}).get("text/plain", "")
    return "" if text.startswith("<") else text


def shown_output(cell, output, module) -> tuple[str, str] | None:
    "(kind, what) of an output: picture, markdown, html or other"
    data = output.get("data", {})
    for mime in ("image/png", "image/jpeg", "image/svg+xml"):
        if mime in data:
            return mime, data[mime]
    if "text/markdown" in data:
        return "markdown", data["text/markdown"]
    if output.get("name") == "stderr":
        return None
    if "text/html" in data:
        html = re.sub(r"<style scoped>.*?</style>", "", data["text/html"], flags=re.S)
        # a terminal's colours do not show on every ground
        html = (
            re.sub(r"(?:text-decoration-)?\bcolor: #[0-9a-f]{6};? ?", "", html)
            if "<pre" in html
            else html
        )
        output["data"] = {"text/html": f'<div class="scroll">{html}</div>'}
    return "other", ""


class Converter:
    "One notebook → one page"

    def __init__(self, pages: Pages, source: Path, name: str, module: str = ""):
        self.pages, self.source, self.name, self.module = pages, source, name, module
        self.cells, self.before, self.pictures = [], "", 0

    def markdown(self, text: str, shift: int = 0):
        text = self.pages.prose(text, self.source, self.name, self.module)
        self.cells.append(new_markdown_cell(text))
        paragraphs = [
            p
            for p in re.split(r"\n\s*\n", text)
            if p.strip() and not p.startswith(("|", "```", "$$", ":::"))
        ]
        if paragraphs:
            self.before = paragraphs[-1]

    def code(self, source: str, outputs: list, tags: tuple[str, ...] = ()):
        if source or outputs:
            self.cells.append(
                new_code_cell(
                    source, outputs=outputs, metadata={"tags": list(tags)} if tags else {}
                )
            )

    def save(self, mime: str, data: str, alt: str):
        "A picture beside the page, with its alt text"
        self.pictures += 1
        suffix = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}[mime]
        file = f"{Path(self.name).name}-{self.pictures}.{suffix}"
        target = (self.pages.out / self.name).with_name(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if suffix == "svg" else base64.b64decode(data))
        self.cells.append(new_markdown_cell(f"![{alt}]({file}){{.figure}}"))

    def outputs(
        self, source: str, outputs: list, tags: tuple[str, ...] = (), alt: str | None = None
    ):
        "Code with its outputs; pictures and markdown among them as cells of their own"
        kept, number, first = [], 0, True

        def flush():
            nonlocal kept, first
            if first or kept:
                self.code(source if first else "", kept, tags if first else ("remove-input",))
            kept, first = [], False

        for output in outputs:
            shown = shown_output(output, output, self.module)
            if shown is None:
                continue
            if shown[0] == "other":
                kept.append(output)
                continue
            flush()
            if shown[0] == "markdown":
                self.markdown(shown[1])
            else:
                self.save(
                    *shown, words(alt or own_words(output)) or alt_text(source, number, self.before)
                )
                number += 1
        if first or kept:
            flush()

    def export(self, source: str, outputs: list):
        "An exported cell: what it defines, then its folded source"
        tree = ast.parse(source)
        nodes, named = definitions(tree), constants(tree)
        for name, value in named.items():
            found, alone = comments(source)
            what = (
                found.get(value.end_lineno, "") or found.get(value.lineno - 1, "")
                if value.lineno - 1 in alone or value.end_lineno in found
                else ""
            )
            short = ast.unparse(value.value) if value.value is not None else ""
            options = (f":value: {short}",) if 0 < len(short) < 60 and "\n" not in short else ()
            self.cells.append(
                new_markdown_cell(
                    directive("data", name, [link_names(plain(what), self.module)], 4, options)
                )
            )
        for node in nodes:
            self.cells.append(new_markdown_cell(described(node, source, self.module)))
        self.outputs(source, outputs, ("hide-input",))

    def run(self, book) -> "nbformat.NotebookNode":
        for cell in book.cells:
            if cell.cell_type == "markdown":
                self.markdown(cell.source)
                continue
            if cell.cell_type != "code" or flag(cell, "include") == "false":
                continue
            outputs = (
                []
                if flag(cell, "output") == "false"
                else [nbformat.from_dict(o) for o in cell.get("outputs", [])]
            )
            if flag(cell, "default_exp") is not None:
                self.cells.append(
                    new_markdown_cell(f"```{{py:module}} fairgrape.{self.module}\n```")
                )
            elif flag(cell, "export") is not None or flag(cell, "exports") is not None:
                self.export(cell.source, outputs)
            else:
                # what was given is in the cell after it
                defaults = self.name.startswith("runs/") and "parameters" in cell.metadata.get(
                    "tags", []
                )
                folded = (
                    defaults
                    or flag(cell, "code-fold") is not None
                    or flag(cell, "exporti") is not None
                )
                tags = (
                    ("remove-input",)
                    if flag(cell, "echo") == "false"
                    else ("hide-input",)
                    if folded
                    else ()
                )
                self.outputs(cell.source, outputs, tags, flag(cell, "fig-alt"))
        kernel = dict(
            kernelspec=dict(name="python3", display_name="Python 3", language="python"),
            language_info=dict(name="python"),
        )
        return nbformat.v4.new_notebook(cells=self.cells, metadata=kernel)


def convert(pages: Pages, source: Path, name: str, title: str = ""):
    "Write a notebook's page"
    book = processed(source)
    module = next(
        (
            flag(c, "default_exp")
            for c in book.cells
            if c.cell_type == "code" and flag(c, "default_exp")
        ),
        "",
    )
    if title:
        book.cells[0].source = re.sub(r"^# .*", f"# {title}", book.cells[0].source, count=1)
    page = Converter(pages, source, name, module).run(book)
    page.cells.append(
        new_markdown_cell(
            f":::{{container}} made-from\nMade from `{source.relative_to(REPO)}`\n:::"
        )
    )
    target = pages.out / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    for i, cell in enumerate(page.cells):
        cell["id"] = f"c{i}"
    nbformat.write(page, target)


def write(pages: Pages, name: str, text: str):
    target = pages.out / f"{name}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


# ---- which pages there are

CHAPTERS = {  # folder of nbs/ → what the site calls it, in the order in which data flows
    "method": "The method",
    "methods": "Methods compared",
    "judge": "Judge",
    "data": "Faces",
    "networks": "Networks",
    "training": "Training",
    "experiment": "One run",
    "report": "Results",
    "studies": "Studies",
    "sweep": "Many runs",
    "": "Commands",
}
# beginnings of the tutorials' names, in the order in which to read them
LESSONS = "by_hand first_net own_model judging reading_the_report batch no_group reproduc".split()


def chapter(notebook: Path) -> str:
    "nbs/method/02_selection.ipynb → method; nbs/01_cli.ipynb → nothing"
    return "/".join(notebook.relative_to(NBS).parts[:-1])


def books() -> list[Path]:
    "The reference notebooks, chapter by chapter"
    return [b for c in CHAPTERS for b in sorted((NBS / c).glob("[0-9]*.ipynb"))]


def page_name(notebook: Path) -> str:
    "nbs/method/02_selection.ipynb → method/selection"
    return nbpath2html(notebook.relative_to(NBS)).with_suffix("").as_posix()


def own_texts() -> list[Path]:
    "The site's own pages, whose links are names of pages; USE links to files instead"
    return [p for p in sorted(SITE.glob("*.md")) if p != USE]


def lesson(notebook: Path) -> tuple[int, str]:
    return (
        next((i for i, n in enumerate(LESSONS) if notebook.stem.startswith(n)), len(LESSONS)),
        notebook.stem,
    )


def toctree(caption: str, entries: list[str], hidden: bool = True, depth: int = 1) -> str:
    options = [
        *([f":caption: {caption}"] if caption else []),
        *([":hidden:"] if hidden else []),
        f":maxdepth: {depth}",
    ]
    return "\n".join(["```{toctree}", *options, "", *entries, "```", ""])


def finished() -> dict[Path, str]:
    """Everything in runs/showcase that is read as a page → its name. A folder with a README is
    a part of its own.
    """
    found = {}
    for text in sorted(SHOWCASE.rglob("README.md"), key=lambda p: (len(p.parts), p)):
        folder = text.parent
        name = "/".join(["runs", *folder.relative_to(SHOWCASE).parts])
        found[text] = f"{name}/index"
        found |= {p: f"{name}/{p.stem}" for p in sorted(folder.glob("*.md")) if p != text} | {
            p: f"{name}/report" for p in folder.glob("report.ipynb")
        }
        found |= {
            p: f"{name}/{p.parent.name}"
            for p in sorted([*folder.glob("*/prune.ipynb"), *folder.glob("*/study.ipynb")])
        }
    return found


def finished_title(page: Path) -> str:
    """Several pages may not all be called 'One pruning run'; nothing where a page has a title
    of its own
    """
    part = "" if page.parent == SHOWCASE else f" {page.parent.name}"
    if page.name == "prune.ipynb":
        return run_title(page.parent)
    if page.name == "study.ipynb":
        return study_title(page)
    if page.name == "report.ipynb":
        return f"Report over the runs{': the' + part if part else ''}"
    return (
        f"Runs{': the' + part if part else ''}"
        if page.read_text(encoding="utf-8").startswith("# Showcase\n")
        else ""
    )


def run_title(folder: Path) -> str:
    "A run's title from its settings"
    s = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    how = f"{s['method']} at {s['rate']}, {s['scope']}" if s["method"] != "dense" else "dense"
    return f"{s['dataset']}, {s['network']}: {how}, seed {s['seed']}"


def section(text: str, heading: str) -> str:
    "A section of the README, without its heading"
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if not found:
        raise SystemExit(
            f"README.md has no section '## {heading}', which the site's pages are made of: see"
            " nbs/_site/build.py"
        )
    return found[1].strip("\n")


def messages() -> str:
    "A table of every error that the package raises, read from its source"

    def text(e):
        if isinstance(e, ast.Constant):
            return str(e.value)
        if isinstance(e, ast.JoinedStr):
            return "".join(v.value if isinstance(v, ast.Constant) else "…" for v in e.values)
        if isinstance(e, ast.BinOp) and isinstance(e.op, ast.Add):
            return text(e.left) + text(e.right)
        return "…"

    rows = []
    for module, tree in package().items():
        for top in tree.body:
            for n in ast.walk(top):
                if not (isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call) and n.exc.args):
                    continue
                said = re.sub(r"(… ?)+", "… ", text(n.exc.args[-1])).strip()
                if not re.search(r"[a-z]{3}.*[a-z]{3}", said):
                    continue
                where = (
                    f"{{py:obj}}`{top.name} <fairgrape.{module}.{top.name}>`"
                    if f"fairgrape.{module}.{getattr(top, 'name', '')}"
                    in symbols().get(getattr(top, "name", ""), ())
                    else f"{{py:mod}}`{module} <fairgrape.{module}>`"
                )
                kind = ast.unparse(n.exc.func)
                kind = kind if re.fullmatch(r"[A-Z]\w+", kind) else "as caught"
                rows.append(
                    f"| {re.sub(r'([|<`*_$])', lambda m: chr(92) + m[1], said)} | {kind} |"
                    f" {where} |"
                )
    return "\n".join(
        ["| Message | Type | Raised in |", "|---|---|---|", *sorted(set(rows), key=str.lower)]
    )


def first_words(node) -> str:
    "A definition's docstring up to its first empty line, for a table"
    text = plain(ast.get_docstring(node) or "").split("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")


@cache
def public_names() -> dict[str, str]:
    "Name → defining module, for what `fairgrape` itself offers"
    tree = ast.parse((REPO / "fairgrape" / "__init__.py").read_text(encoding="utf-8"))
    return next(
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and n.targets[0].id == "_DEFINED_IN"
    )


def public_page() -> str:
    "What a user calls, in one table"
    lines = [
        "# API",
        "",
        "> What `import fairgrape` offers, with the page that explains, shows and tests it",
        "",
        "All that the modules define besides is on [a page of its own](/modules.md).",
        "",
        "| Name | What it does |",
        "|---|---|",
    ]
    for name, module in public_names().items():
        node = next(n for n in definitions(package()[module]) if n.name == name)
        lines.append(
            f"| {{py:obj}}`fairgrape.{name} <fairgrape.{module}.{name}>` |"
            f" {link_names(first_words(node), module)} |"
        )
    return "\n".join(lines)


def modules_page(order: list[str]) -> str:
    "Every exported definition in one table a module"
    lines = [
        "# All modules",
        "",
        "> Every exported definition, with the page that explains, shows and tests it",
        "",
        "{ref}`Index of names <genindex>` · {ref}`index of modules <modindex>`",
        "",
    ]
    for module in [
        *(m for m in order if m in package()),
        *(m for m in package() if m not in order),
    ]:
        tree = package()[module]
        rows = []
        for n in definitions(tree):
            owner = "" if isinstance(n, ast.ClassDef) else patched(n)
            shown = f"{owner}.{n.name}" if owner else n.name
            rows.append(
                f"| {{py:obj}}`{shown} <fairgrape.{module}.{shown}>` |"
                f" {link_names(first_words(n), module)} |"
            )
        if rows:
            lines += [
                f"## {module}",
                "",
                f"{{py:mod}}`fairgrape.{module}`",
                "",
                "| Name | What it does |",
                "|---|---|",
                *rows,
                "",
            ]
    return "\n".join(lines)


def gather(out: Path, lax: bool = False) -> Pages:
    "Make all pages in `out`"
    pages = Pages(out, lax)
    tutorials, templates = (
        sorted((NBS / "tutorials").glob("*.ipynb"), key=lesson),
        sorted((NBS / "templates").glob("*.ipynb")),
    )
    names = (
        {STORY: "story"}
        | {b: page_name(b) for b in books()}
        | {b: b.stem for b in tutorials}
        | {b: f"templates/{b.stem}" for b in templates}
    )
    runs = finished()
    names |= {p: n for p, n in runs.items() if p.suffix == ".ipynb"}
    texts = {USE: "use", REPO / "data" / "README.md": "data_sets"} | {
        p: n for p, n in runs.items() if p.suffix == ".md"
    }
    texts |= {
        REPO / n: n.removesuffix(".md").lower()
        for n in ("CONTRIBUTING.md", "CHANGELOG.md")
        if (REPO / n).is_file()
    }
    for p, n in (names | texts).items():
        pages.page(p, n)
    for p in own_texts():
        pages.page(p, p.stem)
    pages.of[REPO / "README.md"] = "index"  # a link to the README leads to the front
    further, look_in = {}, [*texts]  # texts that others link to, told under the first that does
    while look_in:
        by = look_in.pop(0)
        for p in pages.linked_texts(by):
            n = "_".join(p.relative_to(REPO).with_suffix("").parts).lower()
            pages.page(p, n)
            texts[p] = n
            further.setdefault(texts[by], []).append(f"/{n}")
            look_in.append(p)

    for book, name in names.items():
        convert(pages, book, name, finished_title(book) if book in runs else "")

    readme = (REPO / "README.md").read_text(encoding="utf-8")
    for p, n in texts.items():
        text = p.read_text(encoding="utf-8")
        if n == "data_sets":
            text = re.sub(r"\A# .*", "# Where the data lies", text)
        if p in runs and finished_title(p):
            text = re.sub(r"\A# .*", f"# {finished_title(p)}", text)
        text = pages.prose(text, p, n)
        if p in runs and p.name == "README.md":
            inside = [
                f"/{name}"
                for page, name in runs.items()
                if page.suffix == ".ipynb" and name.rpartition("/")[0] == n.rpartition("/")[0]
            ]
            text += "\n## Each as an executed notebook\n\n" + toctree("", inside, hidden=False)
        if n in further:
            text += "\n" + toctree("", further[n])
        write(pages, n, text)
    write(
        pages,
        "limits",
        "# Limits and responsible use\n\n> What these pages cannot tell, and what not to do with"
        " them\n\n"
        + pages.prose(section(readme, "Limits and responsible use"), REPO / "README.md", "limits")
        + "\n",
    )

    story = [STORY.stem] if STORY.is_file() else []
    trees = [
        toctree("Start", [*story, "use", "data_sets", "limits"]),
        toctree("Tutorials", [t.stem for t in tutorials]),
    ]
    trees += [
        toctree(caption, [names[b] for b in books() if chapter(b) == c])
        for c, caption in CHAPTERS.items()
    ]
    trees += [
        toctree("What was measured", [n for p, n in runs.items() if p.suffix == ".md"]),
        toctree(
            "Look up",
            [
                "glossary",
                "troubleshooting",
                "api",
                "modules",
                *(f"templates/{t.stem}" for t in templates),
                *(n for n in ("contributing", "changelog") if n in texts.values()),
            ],
        ),
    ]
    known = {n: p.suffix for p, n in (names | texts).items()} | dict.fromkeys(
        ("limits", "glossary", "api", "modules", "troubleshooting"), ".md"
    )
    for p in own_texts():
        text = link_names(own_links(p, known))
        if p.stem == "index":
            text += "\n" + "\n".join(trees)
        if p.stem == "troubleshooting":
            text += "\n" + messages() + "\n"
        write(pages, p.stem, text)
    shutil.copy(SITE / "static" / "idea.svg", out / "idea.svg")
    write(pages, "api", public_page())
    write(pages, "modules", modules_page([page_name(b).replace("/", ".") for b in books()]))
    return pages


def own_links(page: Path, known: dict[str, str]) -> str:
    "The text of one of the site's own pages, whose links are names of pages"

    def one(m):
        if m[2] not in known:
            raise SystemExit(f"{page.relative_to(REPO)} links to {m[2]}, which is no page")
        return f"{m[1]}(/{m[2]}{known[m[2]]})"

    return re.sub(r"(?<!!)(\[[^\]]*\])\(([\w/]+)\)", one, page.read_text(encoding="utf-8"))


def study_title(notebook: Path) -> str:
    "A study's question from its file, and its folder's row"
    given = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"]["parameters"]
    file = NBS / "templates" / "studies" / f"{given['study']}.yaml"
    title = (
        yaml.safe_load(file.read_text(encoding="utf-8"))["title"]
        if file.is_file()
        else given["study"]
    )
    network = next(
        (
            n
            for n in ("efficientnet_lite0", "mobilenet_v2", "resnet34")
            if n in notebook.parent.name
        ),
        "",
    )
    rate = re.search(r"-(0\.\d+)-", notebook.parent.name)
    return (
        f"{title}: {given['row']}"
        + (f", {network}" if network else "")
        + (f", rate {rate[1]}" if rate and network else "")
    )


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--out", type=Path, default=REPO / "_docs", help="where the site goes")
    ask.add_argument("--jobs", default=str(min(4, os.cpu_count() or 1)))
    ask.add_argument(
        "--lax",
        action="store_true",
        help="a link to a file that is not there yet is said, and no error",
    )
    ask.add_argument("--keep", type=Path, help="leave the pages' source here (to look at)")
    args = ask.parse_args()
    mathjax = npm_packages() / "mathjax"
    with tempfile.TemporaryDirectory(prefix="fairgrape-site-") as work:
        source = Path(work) / "source"
        source.mkdir()
        gather(source, args.lax)
        shutil.copy(SITE / "conf.py", source)
        shutil.copytree(SITE / "static", source / "static")
        copy_mathjax(mathjax, source / "static" / "mathjax")
        if args.keep:
            shutil.rmtree(args.keep, ignore_errors=True)
            shutil.copytree(source, args.keep)
        fresh = Path(work) / "html"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "sphinx",
                "-b",
                "html",
                "-W",
                "--keep-going",
                "-q",
                "-j",
                args.jobs,
                "-d",
                str(Path(work) / "doctrees"),
                str(source),
                str(fresh),
            ]
        )
        if done.returncode:
            raise SystemExit(done.returncode)
        (fresh / ".nojekyll").touch()
        (fresh / ".buildinfo").unlink(missing_ok=True)
        shutil.rmtree(args.out, ignore_errors=True)
        shutil.move(fresh, args.out)
    print(f"{len(list(args.out.rglob('*.html')))} pages in {args.out}")


if __name__ == "__main__":
    main()

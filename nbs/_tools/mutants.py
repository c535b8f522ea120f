"""Break exported definitions, one at a time, and see whether their own notebook notices: `python
nbs/_tools/mutants.py [--n 10] [--seed 0] [--only 37_shares]`.

A mutant turns a comparison round, swaps an operator, negates a condition, changes a number or
drops a statement, somewhere in one definition. It is caught if the notebook fails (or hangs).
One that survives is either a gap in the tests or does the same as the original, which a reader
must judge. The table goes to runs/mutants.md.
"""

import argparse
import ast
import copy
import multiprocessing
import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook

NBS = Path(__file__).resolve().parents[1]
EXPORTED = re.compile(r"^#\|\s*exporti?\b", re.M)
COMPARISONS = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def changes(node: ast.AST) -> Iterator[tuple]:
    "What may be done to a node: a name, a function that does it to a copy of the node, and where"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield (
            "comparison turned round",
            lambda n: n.ops.__setitem__(0, COMPARISONS[type(n.ops[0])]()),
            node,
        )
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield "operator swapped", lambda n: setattr(n, "op", OPERATORS[type(n.op)]()), node
    if isinstance(node, (ast.If, ast.IfExp)):
        yield (
            "condition negated",
            lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test)),
            node,
        )
    if isinstance(node, ast.BoolOp):
        yield (
            "and/or swapped",
            lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And()),
            node,
        )
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "number changed", lambda n: setattr(n, "value", 2 * n.value + 1), node
    if isinstance(node, ast.FunctionDef):
        for i, statement in enumerate(node.body):
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                yield (
                    "statement dropped",
                    lambda n, i=i: n.body.__setitem__(i, ast.Pass()),
                    statement,
                )


def mutants(source: str) -> list[tuple[str, str, str, str]]:
    """Every mutant of a cell's definitions: the definition, what was done, the line before, the
    new source
    """
    tree, found = ast.parse(source), []
    inside = {
        id(n)
        for d in tree.body
        if isinstance(d, (ast.FunctionDef, ast.ClassDef))
        for n in ast.walk(d)
    }
    headers = [d.args for d in ast.walk(tree) if isinstance(d, (ast.FunctionDef, ast.Lambda))] + [
        part
        for d in ast.walk(tree)
        if isinstance(d, ast.FunctionDef)
        for part in (d.returns, *d.decorator_list)
        if part
    ]
    skipped = {id(n) for part in headers for n in ast.walk(part)}
    for at, node in enumerate(ast.walk(tree)):
        for what, change, where in (
            changes(node) if id(node) in inside and id(node) not in skipped else ()
        ):
            other = copy.deepcopy(tree)
            change(list(ast.walk(other))[at])
            name = next(
                d.name
                for d in tree.body
                if isinstance(d, (ast.FunctionDef, ast.ClassDef))
                and d.lineno <= where.lineno <= d.end_lineno
            )
            found.append(
                (
                    name,
                    what,
                    source.splitlines()[where.lineno - 1].strip(),
                    ast.unparse(ast.fix_missing_locations(other)),
                )
            )
    return found


def defines(cell) -> bool:
    return (
        cell.cell_type == "code"
        and bool(EXPORTED.search(cell.source))
        and any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in ast.parse(cell.source).body)
    )


def passes(path: Path):
    config = get_config(NBS)
    ok, _ = run_notebook(
        path,
        skip_flags=config.tst_flags.split(),
        basepath=config.config_path,
        showerr=False,
        cell_timeout=120,
    )
    sys.exit(not ok)


def survives(notebook: Path, index: int, source: str, seconds: float) -> bool:
    "Whether the notebook still passes with this source in its cell"
    book, other = nbformat.read(notebook, 4), notebook.with_name(f".mutant-{notebook.name}")
    directives = [line for line in book.cells[index].source.splitlines() if line.startswith("#|")]
    book.cells[index].source = "\n".join([*directives, source])
    nbformat.write(book, other)
    try:
        process = multiprocessing.get_context("spawn").Process(target=passes, args=(other,))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode == 0
    finally:
        other.unlink()


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--n", type=int, default=10, help="how many definitions")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", default="", help="one notebook")
    p.add_argument(
        "--seconds", type=float, default=300, help="a notebook that takes longer counts as caught"
    )
    p.add_argument("--out", default=str(NBS.parent / "runs" / "mutants.md"))
    args = p.parse_args()
    rng, books = random.Random(args.seed), sorted(NBS.glob(f"**/{args.only or '[0-9]*'}.ipynb"))
    cells = [
        (book, i, cell.source)
        for book in books
        for i, cell in enumerate(nbformat.read(book, 4).cells)
        if defines(cell)
    ]
    if not cells:
        p.error(f"no notebook {args.only}, or it exports nothing")
    rng.shuffle(cells)
    rows = []
    for book, i, source in cells:
        if len(rows) == args.n:
            break
        if not (found := mutants(source)):
            continue
        name, what, before, after = rng.choice(found)
        start = time.time()
        alive = survives(book, i, after, args.seconds)
        rows.append(
            f"| {book.stem} | `{name}` | {what} | `{before.replace('|', '∣')[:100]}` |"
            f" {'**survived**' if alive else 'caught'} |"
        )
        print(rows[-1], f"{time.time() - start:.0f} s", flush=True)
    lines = [
        (
            f"Seed {args.seed}: {len(rows)} of {len(cells)} cells that define something, one mutant"
            f" each; {sum('caught' in r for r in rows)} caught.\n"
        ),
        "| notebook | definition | what was done | in | |",
        "|---|---|---|---|---|",
        *rows,
    ]
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text("\n".join(lines) + "\n")
    print(f"\n{args.out}\n{lines[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

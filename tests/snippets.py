"""Parsers for the languages of examples and code: what is wrong with a snippet, said in one line."""

from __future__ import annotations

import ast
import importlib
import json
import sys
import xml.etree.ElementTree
from collections.abc import Callable

import graphql
import luaparser.ast
import pglast
import yaml
from tree_sitter import Language, Parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def python(code: str) -> None:
    """Python's own compiler; await may stand outside a function, since snippets show the inside of one."""
    compile(code, "snippet", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


def all_yaml(code: str) -> None:
    """Every document of a YAML stream."""
    list(yaml.safe_load_all(code))


def grammar(module: str, *frames: tuple[str, str], language: str = "language") -> Callable[[str], None]:
    """A tree-sitter grammar; a snippet may also parse inside one of the frames, such as a class or a function."""

    def parse(code: str) -> None:
        parser = Parser(Language(getattr(importlib.import_module(module), language)()))
        trees = [parser.parse((before + code + after).encode()) for before, after in (("", ""), *frames)]
        if all(tree.root_node.has_error for tree in trees):
            node = trees[0].root_node
            while broken := [child for child in node.children if child.has_error or child.is_missing]:
                node = broken[0]
            raise SyntaxError(f"does not parse near line {node.start_point[0] + 1}")

    return parse


PARSERS: dict[str, Callable[[str], object]] = {
    "bash": grammar("tree_sitter_bash"),
    "csharp": grammar("tree_sitter_c_sharp", ("class C { async Task F() {\n", "\n} }"), ("class C {\n", "\n}")),
    "go": grammar("tree_sitter_go", ("package p\nfunc f() {\n", "\n}\n"), ("package p\n", "\n")),
    "graphql": graphql.parse,
    "java": grammar("tree_sitter_java", ("class C { void f() {\n", "\n} }"), ("class C {\n", "\n}")),
    "json": json.loads,
    "lua": luaparser.ast.parse,
    "python": python,
    "rust": grammar("tree_sitter_rust", ("async fn f() {\n", "\n}"), ("impl S {\n", "\n}")),
    "sql": pglast.parse_sql,
    "toml": tomllib.loads,
    "typescript": grammar(
        "tree_sitter_typescript", ("class C {\n", "\n}"), ("async function f() {\n", "\n}"),
        language="language_typescript",
    ),
    "xml": xml.etree.ElementTree.fromstring,
    "yaml": all_yaml,
}  # fmt: skip

# Languages for which no parser is to be had without installing a server or a compiler.
UNPARSED = {
    "cql", "dockerfile", "hcl", "http", "ini", "logql", "mysql", "nginx", "promql", "properties", "proto", "text",
    "vcl",
}  # fmt: skip


def fault(language: str, code: str) -> str:
    """What is wrong with a snippet in that language, or an empty string."""
    if language in UNPARSED:
        return ""
    if language not in PARSERS:
        return f"no such language: expected one of {', '.join(sorted({*PARSERS, *UNPARSED}))}"
    try:
        PARSERS[language](code)
    except Exception as error:  # each parser has its own
        return f"is not {language}: {error}".partition("\n")[0]
    return ""

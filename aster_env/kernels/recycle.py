"""Proof that a session changed nothing but its own names, so that its process may serve another session.

A stock kernel takes most of a second of CPU time to start. Most cells that a model writes for arithmetic cannot
reach anything outside their namespace; a process that ran only such cells is as new once its names are reset.
"""

from __future__ import annotations

import ast
import builtins

PURE = frozenset(
    [
        "abs",
        "all",
        "any",
        "bin",
        "bool",
        "dict",
        "divmod",
        "enumerate",
        "float",
        "hex",
        "int",
        "len",
        "list",
        "max",
        "min",
        "oct",
        "ord",
        "pow",
        "print",
        "range",
        "repr",
        "reversed",
        "round",
        "set",
        "sorted",
        "str",
        "sum",
        "tuple",
        "zip",
        "True",
        "False",
        "None",
        "ArithmeticError",
        "IndexError",
        "KeyError",
        "NameError",
        "TypeError",
        "ValueError",
        "ZeroDivisionError",
    ]
)
"""Built-in names a contained cell may use: none gives access to modules, files, frames or attributes."""

_SHELL_NAMES = frozenset({"get_ipython", "In", "Out", "exit", "quit", "display"})
_FORBIDDEN = (frozenset(dir(builtins)) - PURE) | _SHELL_NAMES
_ALLOWED: tuple[type[ast.AST], ...] = (
    ast.Module, ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If, ast.Pass, ast.Break,
    ast.Continue, ast.Assert, ast.BoolOp, ast.NamedExpr, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Dict, ast.Set,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.Compare, ast.Call, ast.keyword,
    ast.FormattedValue, ast.JoinedStr, ast.Constant, ast.Subscript, ast.Slice, ast.Starred, ast.Name, ast.List,
    ast.Tuple, ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip


def is_contained(code: str) -> bool:
    """Whether a cell provably changes nothing but names of its own session.

    True only for code that parses as plain Python and holds nothing but expressions, assignments, loops and
    conditions over names, without imports, attributes, definitions, deletions, names that begin with an underscore,
    or calls to anything other than the built-ins in ``PURE`` by name. Everything else, magics included, is False.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_harmless(node) for node in ast.walk(tree))


def _is_harmless(node: ast.AST) -> bool:
    if not isinstance(node, _ALLOWED):
        return False
    if isinstance(node, ast.Name):
        return not node.id.startswith("_") and node.id not in _FORBIDDEN
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in PURE
    return True

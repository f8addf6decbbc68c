"""Which `$` expressions of a config only compute: those that put values together, told by their syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from monai.bundle import ReferenceResolver

#: Syntax that computes with what it is given. Lambdas, f-strings, powers and assignments are not among it.
_PLAIN = (
    *(ast.Expression, ast.Constant, ast.IfExp, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.Compare),
    *(ast.cmpop, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Subscript, ast.Slice),
    *(ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.comprehension, ast.expr_context, ast.keyword),
)
#: Functions that may be called, and methods of what a config has built.
_CALLS = {"abs", "dict", "float", "int", "len", "list", "load_card", "load_datalist", "max", "min", "round", "tuple"}
_METHODS = {"parameters", "run", "sampler", "section", "to"}
_TORCH = {"torch.device", "torch.cuda.is_available"}
_REFERENCES = "__local_refs"


class _AnyReference(dict):
    """Stands for the objects that MONAI puts in the place of `@name`."""

    def __contains__(self, key: object) -> bool:
        return True


def expression_fault(text: str) -> str | None:
    """Return why an expression might do more than compute, or None. It is parsed, never run.

    Args:
        text: without its `$`. References are replaced as MONAI does before it evaluates, so that what is judged is what
            would run, whatever stands around an `@`.
    """
    if "@#" in text or "@:" in text:
        return "a relative reference"
    replaced = ReferenceResolver.update_refs_pattern(f"${text}", _AnyReference())[1:]
    try:
        tree = ast.parse(replaced, mode="eval")
        nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "not an expression"
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if taken := bound & (_CALLS | {"torch", _REFERENCES}):
        return f"{min(taken)} is given another meaning"
    return next(_faults(tree, bound), None)


def _faults(node: ast.AST, bound: set[str]) -> Iterator[str]:
    """Yield what is not allowed in a tree."""
    if isinstance(node, ast.Call):
        yield from _call_faults(node, bound)
        return
    if isinstance(node, ast.Attribute):
        if _dotted(node) in _TORCH:
            return
        if node.attr.startswith("_"):
            yield f"the private name {node.attr}"
    elif isinstance(node, ast.Name):
        if node.id not in bound and node.id != _REFERENCES:
            yield f"the name {node.id}"
    elif not isinstance(node, _PLAIN):
        yield f"{type(node).__name__} in it"
    for child in ast.iter_child_nodes(node):
        yield from _faults(child, bound)


def _call_faults(node: ast.Call, bound: set[str]) -> Iterator[str]:
    function = node.func
    if isinstance(function, ast.Name):
        if function.id not in _CALLS:
            yield f"a call of {function.id}"
    elif _dotted(function) not in _TORCH:
        if not isinstance(function, ast.Attribute) or function.attr not in _METHODS:
            yield f"a call of {ast.unparse(function)[:40]}"
        else:
            yield from _faults(function.value, bound)
    for part in (*node.args, *node.keywords):
        yield from _faults(part, bound)


def _dotted(node: ast.AST) -> str | None:
    """Return the name of an attribute of a module, such as torch.cuda.is_available."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else None

"""Which `$` expressions of a config only compute: those that put values together, recognised by their syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

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
#: Folders that paths may be added to.
_FOLDERS = ("bundle_root", "dataset_dir", "output_dir", "evaluation_dir")
#: Names that an expression may not bind to something else.
_MEANT = _CALLS | {"torch", _REFERENCES}


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
    tree = _tree(text)
    if tree is None:
        return "not an expression"
    nodes = list(ast.walk(tree))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    taken = bound & _MEANT
    if taken:
        return f"{min(taken)} is redefined"
    return next(_faults(tree, bound | {_REFERENCES}), None)


def path_constants(text: str) -> Iterator[str]:
    """Yield the texts in an expression that may be parts of a path, but for one that is added to a folder of a config.

    Args:
        text: without its `$`.
    """
    tree = _tree(text)
    nodes = [] if tree is None else list(ast.walk(tree))
    below = {node.right for node in nodes if _adds_to_folder(node)}
    for node in nodes:
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if set("./\\~") & set(text) and node not in below:
            yield text


def _adds_to_folder(node: ast.AST) -> bool:
    match node:
        case ast.BinOp(ast.Subscript(slice=ast.Constant(value=name)), ast.Add(), ast.Constant(value=str(path))):
            return name in _FOLDERS and ".." not in path.split("/")
    return False


def _tree(text: str) -> ast.Expression | None:
    """Return the syntax tree of an expression, its references replaced; None if it is not one."""
    from monai.bundle import ReferenceResolver  # takes a second; only needed here

    try:
        tree = ast.parse(ReferenceResolver.update_refs_pattern(f"${text}", _AnyReference())[1:], mode="eval")
        list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree


def _faults(node: ast.AST, known: set[str]) -> Iterator[str]:
    """Yield what is not allowed in a tree; `known` are the names that stand for values."""
    if _dotted(node) in _TORCH:
        return
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
            parts = [*node.args, *node.keywords]
        case ast.Call(func=ast.Attribute(attr=method)) if method in _METHODS:
            parts = [node.func.value, *node.args, *node.keywords]
        case ast.Call(func=function) if _dotted(function) in _TORCH:
            parts = [*node.args, *node.keywords]
        case ast.Call(func=function):
            yield f"a call of {ast.unparse(function)[:40]}"
            parts = [*node.args, *node.keywords]
        case ast.Attribute(attr=name):
            if name.startswith("_"):
                yield f"the private name {name}"
            parts = [node.value]
        case ast.Name(id=name):
            if name not in known:
                yield f"the name {name}"
            parts = []
        case _:
            if not isinstance(node, _PLAIN):
                yield f"{type(node).__name__} in it"
            parts = list(ast.iter_child_nodes(node))
    for part in parts:
        yield from _faults(part, known)


def _dotted(node: ast.AST) -> str | None:
    """Return the name of an attribute of a module, such as torch.cuda.is_available."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(names)])

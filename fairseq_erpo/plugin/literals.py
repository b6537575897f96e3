"""A configuration is data: fairseq evaluates strings of it as Python, and here they may be literals
only.

A checkpoint's configuration comes from whoever made the file, and `eval` of a string in it runs
that person's code.
"""

import ast
import operator
import sys
from types import ModuleType
from typing import Any

# All that evaluates, before the loop at the end: whoever imports a part of this package first would
# leave the rest as it is.
import fairseq.criterions
import fairseq.models
import fairseq.optim
import fairseq.tasks  # noqa: F401

MOST = 10_000  # entries of a list; fairseq's own defaults have a few dozen
OPERATORS = {ast.Add: operator.add, ast.Mult: operator.mul}


def literal(text: str) -> Any:
    """The value of a literal, or of lists that are added and repeated: fairseq's defaults have
    `[(512, 3)] * 20`.

    Raises TypeError if `text` is no string, as `eval` does, and ValueError for anything but a
    literal.
    """
    if not isinstance(text, str):
        raise TypeError(f"a string is wanted, not {type(text).__name__}")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(
            f"{text[:80]!r} in the configuration is no literal, and is not evaluated"
        ) from None


def _value(node: ast.expr) -> Any:
    kind = OPERATORS.get(type(node.op)) if isinstance(node, ast.BinOp) else None
    if not isinstance(node, ast.BinOp) or kind is None:
        return ast.literal_eval(node)
    left, right = _value(node.left), _value(node.right)
    sequences = [side for side in (left, right) if isinstance(side, list | tuple)]
    if not sequences or (
        kind is operator.mul and len(sequences[0]) * max(_count(left), _count(right)) > MOST
    ):
        raise ValueError
    return kind(left, right)


def _count(side: Any) -> int:
    return side if isinstance(side, int) else 1


def only_literals(module: ModuleType) -> None:
    """Let the name `eval` mean `literal` in one module.

    A module's own names come before Python's.
    """
    vars(module)["eval"] = literal


for _name, _module in list(sys.modules.items()):
    if _name.partition(".")[0] in ("fairseq", "fairseq_cli"):
        only_literals(_module)

"""The text of a formula as MathML."""

import ast

from nanogpkant.report.section import Tree

MINUS = "\u2212"


def spoken(text: str) -> list[list[Tree]]:
    """A formula as the fit writes it, such as ``0.2 + 3*tanh(2*x - 1)``.

    An expression of log2(1 + d) is written as one of s, with ", s = log2(1 + d)" behind it.

    Returns:
        the pieces of each term: browsers break no line within a formula, but may between terms
        and, where one is long, between its pieces.
    """
    expression, _, where = text.partition(", s = ")
    found = _terms(ast.parse(expression.replace("^", "**"), mode="eval").body)
    if where:
        value = _tree(ast.parse(where, mode="eval").body)
        found[-1][-1] = ["mrow", found[-1][-1], ["mo", ","]]
        found.append([["mrow", ["mi", "s"], ["mo", "="], value]])
    return found


def _terms(node: ast.expr) -> list[list[Tree]]:
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            sign: Tree = ["mo", "+" if isinstance(op, ast.Add) else MINUS]
            first, *rest = _pieces(right)
            return [*_terms(left), [["mrow", sign, ["mtext", "\u00a0"], first], *rest]]
    return [_pieces(node)]


def _pieces(node: ast.expr) -> list[Tree]:
    """A product, its functions apart."""
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Call() as call):
            return [*_pieces(left), _tree(call)]
    return [_tree(node)]


def _tree(node: ast.expr) -> Tree:
    match node:
        case ast.Constant(value=int() | float() as value):
            return _number(value)
        case ast.Name(id=name):
            return ["mi", name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return ["mrow", ["mo", MINUS], _tree(operand)]
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return ["msup", _bracketed(left), _tree(right)]
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return ["mfrac", _tree(left), _tree(right)]
        case ast.BinOp(left=ast.Constant(value=value), op=ast.Mult(), right=right) if (
            f"{value:.4g}" == "1"
        ):
            return _bracketed(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return ["mrow", _bracketed(left), ["mo", "\u2062"], _bracketed(right)]
        case ast.BinOp(left=left, op=op, right=right):
            sign = "+" if isinstance(op, ast.Add) else MINUS
            return ["mrow", _tree(left), ["mo", sign], _tree(right)]
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return _call(name, _tree(argument))
    raise ValueError(f"{ast.unparse(node)} is no part of a formula")


def _call(name: str, argument: Tree) -> Tree:
    if name == "sqrt":
        return ["msqrt", argument]
    if name == "abs":
        return ["mrow", ["mo", "|"], argument, ["mo", "|"]]
    head: Tree = ["mi", name]
    if name == "log2":
        head = ["msub", ["mi", "log"], ["mn", "2"]]
    return ["mrow", head, ["mo", "\u2061"], ["mo", "("], argument, ["mo", ")"]]


def _bracketed(node: ast.expr) -> Tree:
    """A factor or base, in brackets where it is a sum."""
    is_sum = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)
    return ["mrow", ["mo", "("], _tree(node), ["mo", ")"]] if is_sum else _tree(node)


def _number(value: float) -> Tree:
    text = f"{value:.4g}"
    if "e" not in text:
        return ["mn", text]
    digits, _, power = text.partition("e")
    return ["mrow", ["mn", digits], ["mo", "·"], ["msup", ["mn", "10"], ["mn", str(int(power))]]]

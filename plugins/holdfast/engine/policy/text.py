"""The text of a policy, without Cedar: its tokens and statements, how deep they nest, and which line something is on.

Cedar's parser gives no positions, and a text that nests a thousand brackets ends the whole process (a stack overflow in
cedarpy 4.12.2, measured): so a text is looked at here first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: Brackets inside brackets, `else if` chains and repeated operators are counted against it; people write about ten.
MAX_NESTING = 100
#: Tokens in one statement: an operator chain of as many would exceed what Cedar evaluates.
MAX_STATEMENT_TOKENS = 5_000

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)|(?P<string>"(?:\\.|[^"\\])*")|(?P<word>[A-Za-z_0-9]+)|(?P<mark>::|==|!=|<=|>=|&&|\|\||.)""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a policy text.

    Args:
        text: as written.
        start: where it begins in the text, in characters.
        end: where it ends.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Statement:
    """One policy of a text: up to and with its semicolon."""

    tokens: tuple[Token, ...]

    @property
    def start(self) -> int:
        return self.tokens[0].start

    @property
    def end(self) -> int:
        return self.tokens[-1].end


def tokens(text: str) -> Iterator[Token]:
    """Its tokens, without spaces and comments."""
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            yield Token(match.group(), match.start(), match.end())


def statements(text: str) -> tuple[Statement, ...]:
    """Its policies in order; the last one may lack its semicolon."""
    found: list[Statement] = []
    current: list[Token] = []
    for token in tokens(text):
        current.append(token)
        if token.text == ";":
            found.append(Statement(tuple(current)))
            current = []
    return (*found, Statement(tuple(current))) if current else tuple(found)


def too_complex(statement: Statement) -> Token | None:
    """The token at which it becomes more than a policy that people write, ``None`` when it never does."""
    depth = chained = 0
    for number, token in enumerate(statement.tokens):
        if token.text in ("(", "[", "{"):
            depth += 1
        elif token.text in (")", "]", "}"):
            depth -= 1
        elif token.text in ("if", "+", "-", "*", "!", "&&", "||", "."):
            chained += 1
        if depth > MAX_NESTING or chained > MAX_STATEMENT_TOKENS // 10 or number >= MAX_STATEMENT_TOKENS:
            return token
    return None


def line_of(text: str, position: int) -> int:
    """The line of a position, from 1."""
    return text.count("\n", 0, position) + 1


def first_wrong(text: str, statement: Statement, error: Callable[[str], str | None]) -> Token:
    """The token at which a statement that does not parse stops being the beginning of one that does.

    Args:
        error: the parser's message for a text, ``None`` when it parses.
    """
    low, high = 0, len(statement.tokens)  # with so many tokens it is the beginning of one; with so many it is not
    while high - low > 1:
        middle = (low + high) // 2
        message = error(text[statement.start : statement.tokens[middle - 1].end])
        if message is None or "unexpected end of input" in message:
            low = middle
        else:
            high = middle
    return statement.tokens[high - 1]

"""A policy: read, checked against the schema, and asked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from holdfast.engine.policy.request import Request
from holdfast.engine.policy.text import Statement, first_wrong, line_of, statements, too_complex
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    import cedarpy

_FIX = "docs/reference/residency.md says what a policy may speak of"
#: Answers kept in this process: one for each policy and question.
_KEPT_ANSWERS = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What a policy says of one question.

    Args:
        allowed: a permit applies, no forbid does, and nothing went wrong.
        determining: the policies that decided, by their ``@id``, else ``<file>#<number>``; none: nothing permits it.
        errors: what went wrong; then it is not allowed, whatever else applied.
    """

    allowed: bool
    determining: tuple[str, ...]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """The policy of one residency class.

    Args:
        name: its file relative to the topology's folder, or ``residency.<class>`` when it was made of a list.
        text: in Cedar.
    """

    name: str
    text: str = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        """Hex, of its bytes in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def check(self) -> None:
        """Raises ConfigError: it does not parse, speaks of what the schema does not have, or says nothing."""
        if not self._statements:
            raise self._wrong("the policy permits nothing, for there is no statement in it", 0)
        for statement in self._statements:
            if (token := too_complex(statement)) is not None:
                raise self._wrong("the statement is too deeply nested or too long", token.start)
        for statement in self._statements:
            self._check_statement(statement)
        _parsed(self.text)

    def ask(self, request: Request) -> Answer:
        """Its answer; the same question is answered from memory. Raises ConfigError as `check`."""
        return _ask(self, request)

    # -- checking ------------------------------------------------------------------------------------------------------

    @cached_property
    def _statements(self) -> tuple[Statement, ...]:
        return statements(self.text)

    def _check_statement(self, statement: Statement) -> None:
        import cedarpy

        text = self.text[statement.start : statement.end]
        if (message := _syntax_error(text)) is not None:
            token = first_wrong(self.text, statement, _syntax_error)
            raise self._wrong(f"the policy is no Cedar: {message}", token.start, found=token.text)
        if any(token.text == "?" for token in statement.tokens):
            raise self._wrong("a template decides nothing", statement.start, expected="a policy without ?principal")
        found = cedarpy.validate_policies(text, _schema())
        if not found.validation_passed:
            message = re.sub(r"^for policy `\w+`, ", "", str(found.errors[0].error)) if found.errors else "not valid"
            raise self._wrong(f"the policy does not fit the schema: {message}", self._named_in(message, statement))

    def _named_in(self, message: str, statement: Statement) -> int:
        """Where in the statement the name stands that a message is about; else where the statement begins."""
        for quoted in re.findall(r"`([^`]+)`", message):
            last = re.split(r"[.:]", quoted)[-1]
            for token in statement.tokens:
                if last and token.text in (last, f'"{last}"'):
                    return token.start
        return statement.start

    def _wrong(self, what: str, position: int, *, expected: str | None = None, found: str | None = None) -> ConfigError:
        where = f"{self.name}, line {line_of(self.text, position)}"
        shown = None if found is None else repr(found if len(found) <= 60 else f"{found[:57]}...")
        return ConfigError(what, where=where, expected=expected, found=shown, fix=_FIX)

    # -- asking --------------------------------------------------------------------------------------------------------

    @cached_property
    def _names(self) -> dict[str, str]:
        return {f"policy{number}": f"{self.name}#{number}" for number in range(len(self._statements))}

    def evaluate(self, request: Request) -> Answer:
        """Its answer, worked out. `ask` remembers it."""
        import cedarpy

        try:
            result = cedarpy.is_authorized(request.as_cedar(), _parsed(self.text), request.entities(), _schema())
        except Exception as error:
            return Answer(False, (), (f"{type(error).__name__}: {error}",))
        told = result.diagnostics
        ids = told.id_annotations_by_reason
        determining = tuple(sorted(ids.get(reason) or self._names.get(reason, reason) for reason in told.reasons))
        errors = tuple(str(error) for error in told.errors)
        # Cedar leaves a policy out that fails while it is evaluated: a `forbid` could be lost that way.
        return Answer(result.decision is cedarpy.Decision.Allow and not errors, determining, errors)


def _syntax_error(text: str) -> str | None:
    import cedarpy

    try:
        cedarpy.PolicySet.from_str(text)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


@lru_cache(maxsize=1)
def _schema() -> cedarpy.Schema:
    import cedarpy

    return cedarpy.Schema.from_str(schema_text())


@lru_cache(maxsize=1)
def schema_text() -> str:
    """The schema that every policy is checked against, in Cedar's own form."""
    return resources.files("holdfast.engine.policy").joinpath("residency.cedarschema").read_text(encoding="utf-8")


@lru_cache(maxsize=64)
def _parsed(text: str) -> cedarpy.PolicySet:
    import cedarpy

    return cedarpy.PolicySet.from_str(text)


@lru_cache(maxsize=_KEPT_ANSWERS)
def _ask(policy: Policy, request: Request) -> Answer:
    _check_once(policy)
    return policy.evaluate(request)


@lru_cache(maxsize=64)
def _check_once(policy: Policy) -> None:
    policy.check()

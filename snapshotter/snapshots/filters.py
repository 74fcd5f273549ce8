"""containerd's filter language, as ``pkg/filters`` reads it. Pure.

::

    filter    := selector ("," selector)*        all must match; of several filters one must
    selector  := fieldpath (operator value)?     without an operator: the field is present
    fieldpath := field ("." field)*
    field     := quoted | [A-Za-z0-9_-]+
    operator  := "==" | "!=" | "~="              "~=" finds a regular expression
    value     := quoted | [^,\\s]+               not beginning with any of / | " , . = ! ~
    quoted    := a Go string literal in "..."; after "~=" also /.../ and |...|

White space is allowed before a token, not behind one. A field that is absent
equals nothing, differs from everything, and is empty to a regular expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from snapshotter.snapshots.errors import InvalidArgument

Field = Callable[[Sequence[str]], str | None]
"""Looks a field path up in the thing to be matched; None when it is absent."""

_SPACE = re.compile(r"\s*")
_FIELD = re.compile(r"[A-Za-z0-9_-]+")
_OPERATOR = re.compile(r"[=!~]+")
_VALUE = re.compile(r'(?![/|".=!~])[^,\s\x00-\x1f\x7f]+')
_QUOTED = re.compile(r"""(["/|])((?:\\[^\n]|(?!\1)[^\\\n])*)\1""")
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\])|([\"/|])|([0-7]{3})|x([0-9a-fA-F]{2})"
    r"|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.|$))"
)
_LETTERS = dict(zip("abfnrtv\\", "\a\b\f\n\r\t\v\\", strict=True))


@dataclass(frozen=True, slots=True)
class Selector:
    path: tuple[str, ...]
    operator: str
    """One of ``==``, ``!=``, ``~=``, or empty: the field is present."""
    value: str = ""
    pattern: re.Pattern[str] | None = None

    def matches(self, field: Field) -> bool:
        found = field(self.path)
        match self.operator:
            case "==":
                return found == self.value
            case "!=":
                return found is None or found != self.value
            case "~=" if self.pattern is not None:
                return self.pattern.search(found or "") is not None
        return found is not None


@dataclass(frozen=True, slots=True)
class Filters:
    """Alternatives; without any, everything matches."""

    alternatives: tuple[tuple[Selector, ...], ...]

    def match(self, field: Field) -> bool:
        return not self.alternatives or any(
            all(selector.matches(field) for selector in selectors)
            for selectors in self.alternatives
        )


def parse_filters(filters: Sequence[str]) -> Filters:
    """Raises :class:`InvalidArgument` for what containerd would not read either."""
    return Filters(tuple(_Parser(text).selectors() for text in filters))


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def selectors(self) -> tuple[Selector, ...]:
        if not self._text:
            return ()
        found = [self._selector()]
        while self._at < len(self._text):
            if self._text[self._at] != ",":
                raise self._error("a comma or the end")
            self._at += 1
            found.append(self._selector())
        return tuple(found)

    def _selector(self) -> Selector:
        path = [self._field()]
        while self._text.startswith(".", self._at):
            self._at += 1
            path.append(self._field())
        if self._at == len(self._text) or self._text[self._at] == ",":
            return Selector(tuple(path), "")
        operator = self._token(_OPERATOR)
        if operator is None or operator[0] not in ("==", "!=", "~="):
            raise self._error("==, != or ~=")
        value = self._value(regular=operator[0] == "~=")
        return Selector(tuple(path), operator[0], value, self._compiled(operator[0], value))

    def _field(self) -> str:
        if quoted := self._token(_QUOTED):
            return self._unquote(quoted, '"')
        if field := self._token(_FIELD):
            return field[0]
        raise self._error("a field")

    def _value(self, *, regular: bool) -> str:
        if quoted := self._token(_QUOTED):
            return self._unquote(quoted, '"/|' if regular else '"')
        if value := self._token(_VALUE):
            return value[0]
        raise self._error("a value")

    def _token(self, token: re.Pattern[str]) -> re.Match[str] | None:
        start = self._skip_space()
        match = token.match(self._text, start)
        if match is not None:
            self._at = match.end()
        return match

    def _skip_space(self) -> int:
        space = _SPACE.match(self._text, self._at)
        return self._at if space is None else space.end()

    def _unquote(self, quoted: re.Match[str], allowed: str) -> str:
        quote, body = quoted[1], quoted[2]
        if quote not in allowed:
            raise self._error('quotes of the form "..."')

        def escaped(match: re.Match[str]) -> bytes:
            letter, other, octal, byte, short, long, _ = match.groups()
            if letter:
                return _LETTERS[letter].encode()
            if other == quote:
                return quote.encode()
            if octal and int(octal, 8) < 256:
                return bytes([int(octal, 8)])
            if byte:
                return bytes.fromhex(byte)
            code = int(short or long or "110000", 16)
            if code > 0x10FFFF:
                raise self._error(f"an escape of a Go string, not {match[0]}")
            return chr(code).encode(errors="replace")

        raw, at = bytearray(), 0
        for match in _ESCAPE.finditer(body):
            raw += body[at : match.start()].encode() + escaped(match)
            at = match.end()
        raw += body[at:].encode()
        return raw.decode(errors="replace")

    def _compiled(self, operator: str, value: str) -> re.Pattern[str] | None:
        if operator != "~=":
            return None
        try:
            return re.compile(value)
        except (re.error, OverflowError) as error:
            raise self._error(f"a regular expression ({error})") from None

    def _error(self, expected: str) -> InvalidArgument:
        return InvalidArgument(
            f"filter {self._text!r}: expected {expected} at character {self._at + 1}"
        )

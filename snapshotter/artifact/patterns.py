"""Patterns that files are chosen by: gitignore(5), over the paths of a model. Pure.

- ``*.bin``: no slash, so a file or a directory of that name anywhere.
- ``original/*``, ``/config.json``: a slash at the beginning or inside, so from the root on.
- ``original/``: a slash at the end, so directories only, and with them what is below.
- ``*``, ``?``, ``[a-z]``, ``[!a-z]`` stay within a name; ``**/`` is any number of directories,
  ``/**`` everything below. ``\\`` makes the next character ordinary.
- ``!`` before a pattern takes back what those before it chose: the last that matches counts.

Different from git, a file can be taken back although its directory was chosen. Whatever the
pattern, matching takes time in the order of pattern times path.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from snapshotter.artifact.errors import PatternError
from snapshotter.artifact.names import PATH_LIMIT

_ANY = None
"""Stands for ``**``: any number of components."""


@dataclass(frozen=True, slots=True)
class Pattern:
    text: str
    """As it was written."""
    negated: bool
    directories_only: bool
    _components: tuple[re.Pattern[str] | None, ...]

    def matches(self, path: str) -> bool:
        """Whether it means ``path``, or a directory that ``path`` lies below."""
        components = path.split("/")
        wanted, end = self._components, len(self._components)
        states = set(_from(0, wanted))
        for place, component in enumerate(components):
            following: set[int] = set()
            for state in states:
                pattern = wanted[state]
                if pattern is _ANY:
                    following.add(state)
                    following.update(_from(state, wanted))
                elif pattern.fullmatch(component):
                    following.update(_from(state + 1, wanted))
            if end in following:
                if place < len(components) - 1 or not self.directories_only:
                    return True
                following.discard(end)
            states = following
        return False


def _from(state: int, wanted: Sequence[re.Pattern[str] | None]) -> Iterator[int]:
    """The state, and those behind it that need no component."""
    yield state
    while state < len(wanted) and wanted[state] is _ANY:
        state += 1
        yield state


@lru_cache(maxsize=1024)
def parse_pattern(text: str) -> Pattern:
    """Raises :class:`PatternError`."""
    if len(text) > PATH_LIMIT:
        raise PatternError(f"pattern {text[:80]!r}... is longer than {PATH_LIMIT} characters")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise _refused(text, "it has a control character, which no file name has")
    negated = text.startswith("!")
    body = text[negated:]
    body = body[1:] if body.startswith("./") else body
    directories_only = body.endswith("/")
    anchored = "/" in body.removesuffix("/")
    names = body.removesuffix("/").removeprefix("/").split("/")
    if names == [""]:
        raise _refused(text, "it names nothing; '*' is every file")
    components: list[re.Pattern[str] | None] = [] if anchored else [_ANY]
    for name in names:
        if name in ("", ".", ".."):
            raise _refused(text, f"it has a component {name!r}, which no path in a model has")
        components.append(_ANY if name == "**" else re.compile(_expression(name, text)))
    if components[-1] is _ANY:
        components.append(re.compile(".*"))  # what is below, not the directory itself
    return Pattern(text, negated, directories_only, tuple(components))


def _refused(text: str, why: str) -> PatternError:
    return PatternError(f"pattern {text[:120]!r} cannot be used: {why}")


def _expression(name: str, text: str) -> str:
    """A regular expression for one component, which never goes back behind a ``*`` it passed.

    That is right because the first place where the characters behind a ``*`` fit leaves
    the most for what comes after them; and it keeps many stars from taking for ever.
    """
    pieces = [""]
    place = 0
    while place < len(name):
        character = name[place]
        place += 1
        if character == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append("")
        elif character == "?":
            pieces[-1] += "."
        elif character == "[":
            piece, place = _set(name, place, text)
            pieces[-1] += piece
        else:
            if character == "\\":
                if place == len(name):
                    raise _refused(text, "it ends with a backslash")
                character = name[place]
                place += 1
            pieces[-1] += re.escape(character)
    first, *others = pieces
    if not others:
        return first
    *middle, last = others
    return first + "".join(f"(?>.*?{piece})" for piece in middle) + f".*{last}"


def _set(name: str, place: int, text: str) -> tuple[str, int]:
    """``[...]``, of which ``place`` is behind the bracket; and the place behind its end."""
    begin = place + (name[place : place + 1] in ("!", "^"))
    end = name.find("]", begin + 1)
    if end < 0:
        raise _refused(text, "a [ has no ]; a literal one is written \\[")
    inside = "".join(
        f"\\{character}" if character in "\\[]^&~|" else character for character in name[begin:end]
    )
    expression = f"[{'^' if begin > place else ''}{inside}]"
    try:
        re.compile(expression)
    except re.error:
        raise _refused(text, f"{name[place - 1 : end + 1]!r} is no set of characters") from None
    return expression, end + 1

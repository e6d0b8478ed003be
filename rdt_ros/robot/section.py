"""Reads a mapping of a YAML file key by key, so that a wrong file is refused with the key at fault."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

from rdt_ros.errors import InputError


class Section:
    """One mapping of a file; `path` is where it stands, for example `agilex.yaml: groups[0]`.

    Each `take` removes its key, `finish` refuses what nobody took. Every error is an InputError of one line.
    """

    def __init__(self, data: Any, path: str) -> None:
        if not isinstance(data, dict):
            raise InputError(f"{path}: expected a mapping, found {_show(data)}")
        self._rest = dict(data)
        self._taken: list[str] = []
        self.path = path

    def __contains__(self, key: str) -> bool:
        return key in self._rest

    def fail(self, key: str, expected: str, found: Any) -> InputError:
        """The error for one key, to be raised by the caller."""
        return InputError(f"{self.path}.{key}: expected {expected}, found {_show(found)}")

    def take(self, key: str) -> Any:
        """The raw value of a key that must be there."""
        if key not in self._rest:
            near = difflib.get_close_matches(key, self._rest, n=1)
            hint = f" (is {near[0]!r} meant?)" if near else ""
            raise InputError(f"{self.path}: missing key {key!r}{hint}")
        self._taken.append(key)
        return self._rest.pop(key)

    def text(self, key: str, choices: Sequence[str] | None = None) -> str:
        """A string that is not empty, one of `choices` where given."""
        value = self.take(key)
        if not isinstance(value, str) or not value:
            raise self.fail(key, "a text", value)
        if choices is not None and value not in choices:
            near = difflib.get_close_matches(value, choices, n=1)
            expected = f"{near[0]!r} perhaps" if len(choices) > 8 and near else "one of " + ", ".join(choices[:8])
            raise self.fail(key, expected, value)
        return value

    def number(self, key: str, *, above: float = -math.inf) -> float:
        """A finite number greater than `above`."""
        value = self.take(key)
        if not _is_number(value) or not value > above:
            raise self.fail(key, "a number" if above == -math.inf else f"a number above {above:g}", value)
        return float(value)

    def whole(self, key: str, *, least: int = 0) -> int:
        """A whole number of at least `least`."""
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.fail(key, f"a whole number of at least {least}", value)
        return value

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """A list of `count` finite numbers."""
        value = self.take(key)
        if not isinstance(value, list) or len(value) != count or not all(_is_number(v) for v in value):
            raise self.fail(key, f"a list of {count} numbers", value)
        return tuple(float(v) for v in value)

    def texts(self, key: str, count: int | None = None) -> tuple[str, ...]:
        """A list of different texts, of length `count` where given."""
        value = self.take(key)
        size = "" if count is None else f"{count} "
        texts = isinstance(value, list) and all(isinstance(v, str) and v for v in value)
        if not texts or len(set(value)) != len(value) or count not in (None, len(value)):
            raise self.fail(key, f"a list of {size}different texts", value)
        return tuple(value)

    def section(self, key: str) -> Section:
        """The mapping below a key."""
        return Section(self.take(key), f"{self.path}.{key}")

    def sections(self, key: str) -> list[Section]:
        """The list of mappings below a key; at least one."""
        value = self.take(key)
        if not isinstance(value, list) or not value:
            raise self.fail(key, "a list of mappings", value)
        return [Section(item, f"{self.path}.{key}[{i}]") for i, item in enumerate(value)]

    def finish(self) -> None:
        """Refuses keys that nobody took: they are misspelt or belong elsewhere."""
        for key in self._rest:
            near = difflib.get_close_matches(str(key), self._taken, n=1)
            hint = f", is {near[0]!r} meant?" if near else ""
            raise InputError(f"{self.path}: unknown key {key!r}{hint}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

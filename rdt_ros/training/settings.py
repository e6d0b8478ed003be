"""Nested settings out of YAML and back: types checked, unknown keys refused with the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rdt_ros import options
from rdt_ros.errors import InputError

Config = TypeVar("Config")


def read_settings(kind: type[Config], path: str | Path, assignments: typing.Sequence[str] = ()) -> Config:
    """Settings of a YAML file, changed by assignments `key.key=value`, in which a number is a place in a list."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    data = {} if data is None else data
    for assignment in assignments:
        _assign(data, assignment)
    return settings(kind, data, str(path))


def settings(kind: type[Config], data: object, where: str) -> Config:
    """A dataclass of `option` fields, of such dataclasses or tuples of them, from what YAML gives."""
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: expected settings with names, found {data!r}")
    types = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f", is {near[0]!r} meant?" if near else ""
            raise InputError(f"{where}: expected one of {', '.join(known)}, found {str(name)!r}{hint}")
    config = kind(**{name: _value(types[name], value, f"{where}: {name}") for name, value in data.items()})
    options.check(config, where)
    return config


def as_mapping(config: Any) -> dict[str, Any]:
    """What YAML takes, with every default written out; `settings` reads it back."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    return plain(dataclasses.asdict(config))


def write_settings(config: Any, path: Path) -> None:
    """The resolved settings as YAML; InputError where they cannot be written."""
    text = yaml.safe_dump(as_mapping(config), sort_keys=False, allow_unicode=True)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: could not be written: {error.strerror}") from None


def _value(kind: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return settings(kind, value, where)  # type: ignore[arg-type]
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, found {value!r}")
        return tuple(_value(item, one, f"{where}[{i}]") for i, one in enumerate(value))
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)  # type: ignore[arg-type]  # YAML takes 1e-4 for a text
        except (TypeError, ValueError):
            pass
    elif kind is str and isinstance(value, int | float | str) and not isinstance(value, bool):
        return str(value)
    elif type(value) is kind:
        return value
    raise InputError(f"{where}: expected {kind.__name__}, found {value!r}")


def _assign(data: Any, assignment: str) -> None:
    path, separator, text = assignment.partition("=")
    if not separator or not path:
        raise InputError(f"settings: expected key=value, found {assignment!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    *parents, last = path.split(".")
    for name in parents:
        data = _items(data, name, path)
    if isinstance(data, list):
        data[_index(data, last, path)] = value
    elif isinstance(data, dict):
        data[last] = "" if value is None else value
    else:
        raise InputError(f"settings: {path}: expected settings with names before {last!r}, found {data!r}")


def _items(data: Any, name: str, path: str) -> Any:
    if isinstance(data, list):
        return data[_index(data, name, path)]
    if isinstance(data, dict):
        return data.setdefault(name, {})
    raise InputError(f"settings: {path}: expected settings with names before {name!r}, found {data!r}")


def _index(data: list[Any], name: str, path: str) -> int:
    if not name.isdigit() or int(name) >= len(data):
        raise InputError(f"settings: {path}: expected a place from 0 to {len(data) - 1}, found {name!r}")
    return int(name)

"""From untrusted JSON to frozen dataclasses: every key and every type is checked, no code is run.

The schema is the dataclass itself: its fields are the keys, their annotations the types. Supported
are ``int``, ``float``, ``str``, ``bool``, ``Literal``, ``tuple[T, ...]``, ``tuple[T1, T2]``,
``dict[str, T]``, ``T | None`` and dataclasses of these.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ssgcam.errors import SsgcamError

T = TypeVar("T")
_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    NoneType: "null",
}


def decode(kind: type[T], value: Any, where: str) -> T:
    """Build a dataclass from parsed JSON.

    Args:
        kind: A dataclass of the types above.
        value: What ``json.loads`` returned.
        where: What the messages call it, such as ``"recipe 'malaria.json'"``.

    Returns:
        The instance; its own checks have run.

    Raises:
        SsgcamError: For an unknown or missing key or a value of a wrong type; it says where.
    """
    result: T = _decoded(kind, value, where, "")
    return result


def _decoded(kind: Any, value: Any, where: str, path: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # T | None
        inner = next(part for part in parts if part is not NoneType)
        return None if value is None else _decoded(inner, value, where, path)
    place = f"{where}: '{path or 'the file'}'"
    if origin is Literal:
        if value not in parts or isinstance(value, bool):
            choices = ", ".join(map(str, parts))
            raise SsgcamError(f"{place} is {value!r}; it must be one of {choices}")
        return value
    json_type: Any = dict if is_dataclass(kind) else list if origin is tuple else origin or kind
    allowed: Any = (int, float) if kind is float else json_type
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        found = _NAMES.get(type(value), type(value).__name__)
        raise SsgcamError(f"{place} is {found}, not {_NAMES[json_type]}")
    if is_dataclass(kind):
        return _dataclass(kind, value, where, path)
    if origin is tuple:
        if parts[1:] == (...,):
            parts = parts[:1] * len(value)
        if len(parts) != len(value):
            raise SsgcamError(f"{place} has {len(value)} values; it must have {len(parts)}")
        items = enumerate(zip(parts, value, strict=True))
        return tuple(_decoded(part, item, where, f"{path}[{k}]") for k, (part, item) in items)
    if origin is dict:
        return {key: _decoded(parts[1], value[key], where, f"{path}.{key}") for key in value}
    if kind is float and not math.isfinite(value):
        raise SsgcamError(f"{place} is {value}, not a finite number")
    return float(value) if kind is float else value


def _dataclass(kind: Any, value: dict[str, Any], where: str, path: str) -> Any:
    prefix = f"{path}." if path else ""
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    for name in value:
        if name not in known:
            raise SsgcamError(
                f"{where} has an unknown key '{prefix}{name}'; it may be written by a newer ssgcam or "
                "have a typing error"
            )
    for name, field in known.items():
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and name not in value:
            raise SsgcamError(f"{where} has no key '{prefix}{name}'; save it again or add it")
    decoded = {name: _decoded(hints[name], value[name], where, f"{prefix}{name}") for name in value}
    try:
        return kind(**decoded)
    except SsgcamError as error:
        raise SsgcamError(f"{where}{f', {path}' if path else ''}: {error}") from error

"""The options of a training as a TOML file: written beside the checkpoint, read again by `--config`.

A key is an option's name, so `--help` explains the file too.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import App, ArgumentCollection
from cyclopts.config import Toml

from retinanet.config import DataConfig, ModelConfig, TrainConfig
from retinanet.errors import UsageError
from retinanet.files import atomic_write

_LEFT_OUT = {"override"}
"""Said of one run alone: repeated from a file it would throw a training away."""


def config_path(model: Path) -> Path:
    """Where a model's options are kept: model.pth → model.config.toml."""
    return model.with_name(f"{model.stem}.config.toml")


def write_config(
    path: Path,
    inputs: Mapping[str, Path | None],
    configs: tuple[ModelConfig, DataConfig, TrainConfig],
    decided: Mapping[str, Any],
) -> None:
    """Write all options; those that are None as comments with what was `decided` for them, field → value."""
    lines = ["# Options of `retinanet train`; --config reads them again. What begins with # followed from the others."]
    lines += [_line(name, value, None) for name, value in inputs.items()]
    for config in configs:
        lines.append("")
        values = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _LEFT_OUT}
        lines += [_line(name, value, decided.get(name)) for name, value in values.items()]
    with atomic_write(path) as temporary:
        # A path may hold bytes that are no text.
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")


def _line(name: str, value: Any, decided: Any) -> str:
    key = name.replace("_", "-")
    if value is not None:
        return f"{key} = {_toml(value)}"
    return f"# {key} =" if decided is None else f"# {key} = {_toml(decided)}"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)  # booleans, and numbers, which both write alike


def take_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """For `App.config`: give the arguments that the command line lacks the values of the file at `--config`.

    Raises:
        UsageError: there is no such file, it is no TOML, or a value is not of its option's type.
    """
    of_option = {name: argument for argument in arguments for name in argument.names}
    given = [token.value for token in of_option["--config"].tokens]
    if not given:
        return
    values = _read(Path(given[0]))
    if "config" in values:
        raise UsageError(f"{given[0]} should hold options, but names another file with config; leave that out.")
    for key, value in values.items():
        argument = of_option.get(f"--{key}")  # cyclopts has a sentence for a key that is no option
        if argument is not None and not _fits(value, argument.hint):
            raise UsageError(
                f"{given[0]}: {key} = {json.dumps(value, default=str)} is not of the type that --{key} takes; "
                f"see `retinanet {' '.join(commands)} --help`."
            )
    Toml(given[0], use_commands_as_keys=False)(app, commands, arguments)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"--config takes a TOML file such as `retinanet train` writes, but {path} can't be read: {error}."
        ) from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of TOML may be given for an option of this type."""
    parts = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if get_origin(hint) is Literal:
        return value in parts
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            return False
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(kinds) and all(_fits(item, kind) for item, kind in zip(value, kinds, strict=True))
    if hint is float:
        return type(value) in (int, float)
    return type(value) is (str if hint is Path else hint)

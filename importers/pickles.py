"""Reads pickles without running what is in them.

A pickle names classes and functions, and a plain `pickle.load` calls them. Here a name is looked up in an allow-list; a
name that stands for something that an import does not need becomes an `Inert` record, and any other is refused.
"""

import _compat_pickle
import pickle
from collections.abc import Callable
from typing import IO, Any

from importers.problems import ImportProblem


class Inert:
    """Stands for an object of a class that is not here: keeps what the pickle gave it and does nothing.

    `arguments`: of its call. `state`: what `__setstate__` got. `items`: what was appended or set.
    """

    path = ""  # of the class it stands for, as the pickle names it

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.arguments = arguments or tuple(keywords.values())

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        record = super().__new__(cls)
        record.arguments, record.state, record.items = (), None, []
        return record

    arguments: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: Any) -> None:
        self.items.extend(items)

    add = append


def inert_class(path: str) -> type[Inert]:
    """A class of inert records that stand for objects of the class `path`."""
    return type(path.rpartition(".")[2] or "Inert", (Inert,), {"path": path})


class RestrictedUnpickler(pickle._Unpickler):  # Python's own: its memo is a dictionary, so no index allocates anything
    """Unpickles with `resolve` for every name. No class or function outside of it is reachable.

    `persistent`: what to make of a persistent id (torch's storages).
    """

    def __init__(
        self, file: IO[bytes], resolve: Callable[[str], Any], persistent: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(file)
        self.resolve = resolve
        self.persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        return self.resolve(python3_path(module, name))

    def persistent_load(self, pid: Any) -> Any:
        if self.persistent is None:
            raise ImportProblem("the pickle refers to something outside of itself")
        return self.persistent(pid)


def python3_path(module: str, name: str) -> str:
    """`module.name`, where a pickle of Python 2 has the older name of it."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def unpickle(
    file: IO[bytes], source: str, resolve: Callable[[str], Any], persistent: Callable[[Any], Any] | None = None
) -> Any:
    """The object of the pickle at `file`'s position. `resolve` gives what stands for a path, or None to refuse it.

    `source` names the file in errors. Raises ImportProblem for a path that is refused, or a broken pickle.
    """

    def resolve_or_refuse(path: str) -> Any:
        stand_in = resolve(path)
        if stand_in is None:
            raise ImportProblem(f"{source}: its pickle names {path}, which no checkpoint needs; nothing was run")
        return stand_in

    try:
        return RestrictedUnpickler(file, resolve_or_refuse, persistent).load()
    except ImportProblem:
        raise
    except Exception as error:  # a broken pickle fails in any of its operations
        raise ImportProblem(f"{source}: not a whole pickle ({type(error).__name__}: {error})") from error

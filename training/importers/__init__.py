"""Common formats of recorded outcomes: every file but `base` is one format, and the file's name is the format's.

Knows nothing of policies, nor of where an outcome goes.
"""

import inspect
from importlib import import_module
from pkgutil import iter_modules

from router.errors import DataError
from training.importers.base import Importer
from training.records import RecordFile


def formats() -> list[str]:
    """The formats there are."""
    return sorted(module.name for module in iter_modules(__path__) if module.name != "base")


def importer(name: str) -> Importer:
    """Imports the format's file. Raises `DataError` for one that is not there."""
    if name not in formats():
        raise DataError(f"no format is called {name!r}; there are: {', '.join(formats())}")
    module = import_module(f"{__name__}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Importer) and value.__module__ == module.__name__
    )
    return found()


def detect(file: RecordFile) -> Importer:
    """The one format that recognises the file. Raises `DataError`, with what there is, where none or several do."""
    head = file.head()
    known = [importer(name) for name in formats()]
    found = [one for one in known if one.recognises(head)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{file.path} could be {' or '.join(one.name for one in found)}: say which with --format")
    columns = list(dict.fromkeys(name for record in head for name in record.fields))
    lacking = {one.name: [name for name in one.needed if name not in columns] for one in known if one.needed}
    present = {one.name: len(one.needed) - len(lacking[one.name]) for one in known if one.needed}
    nearest = max(present, key=lambda name: (present[name], -len(lacking[name])))
    lacks = ""
    if present[nearest] and lacking[nearest]:
        lacks = f" The nearest is {nearest}, for which it lacks {', '.join(lacking[nearest])}."
    raise DataError(
        f"{file.path} is in no format that is known: {', '.join(one.name for one in known)}. It has the columns: "
        f"{', '.join(columns)}.{lacks} For a table of your own, --rename YOURS=prompt (and model, score)"
    )

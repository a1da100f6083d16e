"""What is done to every policy's estimate after it: each file is one step, and the file's name is its kind.

Knows nothing of how a policy estimates, nor of prices.
"""

import inspect
from importlib import import_module
from pkgutil import iter_modules

from router.errors import ArtifactError
from router.steps.base import Step


def step_class(kind: str) -> type[Step]:
    """Imports the step's file. Raises `ArtifactError` for a kind that is not there."""
    kinds = sorted(module.name for module in iter_modules(__path__) if module.name != "base")
    if kind not in kinds:
        raise ArtifactError(f"no step is called {kind!r}; there are: {', '.join(kinds)}")
    module = import_module(f"{__name__}.{kind}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Step) and value.__module__ == module.__name__
    )
    return found

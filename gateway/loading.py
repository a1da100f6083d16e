"""From settings to what is at work: experts, the policy on the pool, its encoder."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from policies import default_artifact, load_policy
from router.artifact import HEADER, Artifact, check_encoder
from router.config import EncoderSettings, PolicySettings, Settings
from router.config_experts import EndpointSettings, ExpertSettings, RemoteSettings, SimulatedSettings
from router.embedding import Encoder
from router.errors import PointsmanError
from router.expert_names import columns
from router.experts.base import Expert
from router.experts.prices import PriceMap, describe
from router.policy import Policy
from router.router import PolicyInUse
from router.types import ExpertSpec


def build_expert(settings: ExpertSettings, prices: PriceMap, connections: int) -> list[Expert]:
    """The expert of one entry of the configuration, address by address. Raises `ConfigError` without a price."""
    spec = describe(settings, prices)
    if isinstance(settings, EndpointSettings):
        from router.experts.endpoint import EndpointExpert

        addresses = range(len(settings.places()))
        return [EndpointExpert(settings, spec, connections=connections, index=index) for index in addresses]
    if isinstance(settings, RemoteSettings):
        from router.experts.remote import RemoteExpert

        return [RemoteExpert(settings, spec)]
    assert isinstance(settings, SimulatedSettings)
    from router.experts.simulated import SimulatedExpert

    return [SimulatedExpert(settings, spec)]


def digest_of(path: Path | None) -> bytes:
    """Of what a file holds; empty where there is none, or it cannot be read now: then reading it says so."""
    try:
        return b"" if path is None else hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""


def named_files(settings: Settings) -> tuple[Path, ...]:
    """What a configuration reads beside itself and its secrets: the policy, and what was measured for others."""
    semantic = None if settings.cache is None else settings.cache.semantic
    named = (None if semantic is None else semantic.calibration, settings.embeddings.pilots)
    return (artifact_folder(settings.policy) / HEADER, *(path for path in named if path is not None))


def digests_of_files(settings: Settings) -> tuple[bytes, ...]:
    return tuple(map(digest_of, named_files(settings)))


def artifact_folder(settings: PolicySettings) -> Path:
    return default_artifact() if settings.artifact == "default" else Path(settings.artifact)


def load_use(settings: PolicySettings, specs: Sequence[ExpertSpec]) -> tuple[PolicyInUse, Artifact]:
    """The configured policy, mapped onto the pool's chat experts. Raises `ArtifactError` or `ConfigError`."""
    policy, artifact = load_policy(artifact_folder(settings))
    return in_use(policy, artifact, specs), artifact


def in_use(policy: Policy, artifact: Artifact, specs: Sequence[ExpertSpec]) -> PolicyInUse:
    return PolicyInUse(
        policy=policy,
        version=artifact.version,
        columns=columns(artifact.experts, specs),
        reference=artifact.reference,
        trial=artifact.trial,
    )


def load_encoder(settings: EncoderSettings, artifact: Artifact) -> Encoder | None:
    """The encoder that the artifact was trained with; None for a policy that never reads the query."""
    if artifact.encoder is None:
        return None
    encoder = Encoder(settings)
    try:
        encoder.load()
        check_encoder(artifact, encoder.name, encoder.revision, encoder.dimension)
    except PointsmanError:
        encoder.close()  # its thread must not outlive it into the interpreter's end
        raise
    return encoder

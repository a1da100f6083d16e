"""Servers that move: a Sentinel's master, or the node of a cluster that keeps the ledger's keys.

    redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/SERVICE[/DB]
    redis+cluster://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]

with `rediss+` for TLS. All keys have one hash tag, so that one node has all of them and ordinary connections to it
do. A new connection asks the hosts in turn where that is; one that hears that it is at the wrong server (a master
that was demoted, a slot that has moved) ends, and the next one asks anew. Login and password in the URL are the
server's; Sentinels have their own.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, MovedError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import TimeoutError as TimedOut

Address = tuple[str, int]
TAG = b"ledger"
HOST_TIMEOUT_S = 0.3


@dataclass(frozen=True, slots=True)
class Place:
    """What such a URL says."""

    kind: Literal["sentinel", "cluster"]
    secure: bool
    username: str | None
    password: str | None
    hosts: tuple[Address, ...]
    service: str
    db: int


def place_of(url: str) -> Place | None:
    """None for a URL that names one server. Raises `ValueError` for one that is neither."""
    scheme, _, rest = url.partition("://")
    tls, _, kind = scheme.partition("+")
    if not kind:
        return None
    login, _, where = rest.rpartition("@")
    username, _, password = login.partition(":")
    hosts, _, path = where.partition("/")
    service, _, db = path.partition("/")
    known = kind in ("sentinel", "cluster") and tls in ("redis", "rediss")
    if not known or bool(service) != (kind == "sentinel"):
        raise ValueError(scheme)
    return Place(
        kind="sentinel" if kind == "sentinel" else "cluster",
        secure=tls == "rediss",
        username=unquote(username) or None,
        password=unquote(password) or None,
        hosts=tuple(_address(host) for host in hosts.split(",")),
        service=service,
        db=int(db or 0),
    )


def pool_at(
    place: Place, password: str | None, options: dict[str, Any], sentinels: tuple[str | None, str] | None = None
) -> BlockingConnectionPool:
    """Connections to wherever the server is when each is made; `sentinels`: their user and password."""
    login: dict[str, Any] = {"username": place.username, "password": password or place.password}
    tls: dict[str, Any] = {"ssl": True} if place.secure else {}
    asking = tls | {
        "socket_timeout": HOST_TIMEOUT_S,
        "socket_connect_timeout": HOST_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),  # the next host is asked instead
    }

    async def locate() -> Address:
        if place.kind == "sentinel":
            user, secret = sentinels or (None, None)
            return await _master(place, asking | {"username": user, "password": secret})
        return await _keeper(place, login | asking)

    kind = _SecureLocated if place.secure else _Located
    return BlockingConnectionPool(connection_class=kind, locate=locate, db=place.db, **login, **options)


class _Located(Connection):
    def __init__(self, *, locate: Callable[[], Awaitable[Address]], **options: Any) -> None:
        super().__init__(**options)
        self._locate = locate

    async def _connect(self) -> None:
        self.host, self.port = await self._locate()
        await super()._connect()  # type: ignore[no-untyped-call]  # redis-py's

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if "READONLY" in str(error) or isinstance(error, MovedError):
                await self.disconnect()
            raise


class _SecureLocated(_Located, SSLConnection):
    pass


async def _master(place: Place, options: dict[str, Any]) -> Address:
    """Raises redis-py's errors; that of a refused password only where no Sentinel knows the master."""
    sentinel: Any = Sentinel(list(place.hosts), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    refused, failed = "", []
    try:
        for one, (host, port) in zip(sentinel.sentinels, place.hosts, strict=True):
            try:
                state = (await one.sentinel_masters()).get(place.service)
            except AuthenticationError as error:
                refused = f"the Sentinel {host}:{port}: {error}; see ledger.sentinel_password"
            except (Unconnected, TimedOut) as error:
                failed.append(f"{host}:{port}: {error}")
            else:
                if state and sentinel.check_master_state(state, place.service):
                    return state["ip"], int(state["port"])
                failed.append(f"{host}:{port} knows of none")
    finally:
        for one in sentinel.sentinels:
            await one.aclose()
    if refused:
        raise AuthenticationError(refused)
    raise Unconnected(f"no Sentinel says which server is the master of {place.service!r} ({'; '.join(failed)})")


async def _keeper(place: Place, options: dict[str, Any]) -> Address:
    """Raises redis-py's errors."""
    slot, failed = key_slot(TAG), ""
    for host, port in place.hosts:
        client: Any = Redis(host=host, port=port, **options)
        try:
            ranges = await client.execute_command("CLUSTER SLOTS")
        except (RedisError, OSError) as error:
            failed = f"{host}:{port}: {error}"
            continue
        finally:
            await client.aclose()
        for first, last, (keeper, at, *_), *_ in ranges:
            if first <= slot <= last:
                return keeper.decode() or host, int(at)
        failed = f"{host}:{port} knows of no node with slot {slot}"
    raise Unconnected(f"no node of the cluster says who keeps the ledger ({failed})")


def _address(host: str) -> Address:
    name, colon, port = host.rpartition(":")
    if not colon or not name:
        raise ValueError(host)
    return name.strip("[]"), int(port)

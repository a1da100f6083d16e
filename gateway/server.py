"""Runs the application: one process, uvloop, a clear line when it is ready and when it cannot start."""

import asyncio
import gc
import logging
import math
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.app import Application, create_app
from gateway.configuration import Source
from router.config import Settings
from router.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

BACKLOG = 2048

log = logging.getLogger("pointsman")


def run(settings: Settings, on_ready: Callable[[str, str], None], source: Source | None = None) -> None:
    """Serves until a signal ends it. `on_ready` gets the URL and the policy's label. Raises our errors.

    `source` is the file that the settings were read from: it is read anew on SIGHUP, and when it changes.
    """
    import uvloop

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, on_ready, source))


async def _serve(settings: Settings, on_ready: Callable[[str, str], None], source: Source | None) -> None:
    bound = bind(settings.host, settings.port)
    app = create_app(settings, source)
    # the lifespan is entered here and not by uvicorn, so that an error of ours stays one
    async with app.router.lifespan_context(app):
        calm_collector()
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        bound.listen(BACKLOG)  # before anyone is told: who connects at once is kept waiting, not refused
        if source is not None:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, app.state.configuration.ask, "SIGHUP")
        on_ready(f"http://{shown}:{port}", app.service.router.use.label)
        await http_server(app).serve(sockets=[bound])
    owed = ", ".join(f"{count} {what}" for what, count in app.state.configuration.owed().items() if count)
    log.info("stopped; still owed to Redis: %s", owed or "nothing")


def http_server(app: Application) -> "uvicorn.Server":
    """A server for an application whose lifespan is entered already."""
    import uvicorn

    from gateway.protocol import Protocol, Server

    foundation, drain_s = app.service.foundation, app.service.settings.limits.drain_s

    def stopping(signal_name: str) -> None:
        if not foundation.draining:
            under_way = app.state.configuration.under_way
            log.info("%s: stopping; requests under way: %d, for %g s at most", signal_name, under_way, drain_s)
        foundation.draining = True

    return Server(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            log_level="warning",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=math.ceil(drain_s),
        ),
        stopping,
    )


def bind(host: str, port: int) -> socket.socket:
    """The listening socket. Raises `ConfigError` where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from error
    return bound


def calm_collector() -> None:
    """What start-up made lives as long as the process: the collector need not look at it again.

    Freezing it and collecting less often shortens the longest waits under many concurrent calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)

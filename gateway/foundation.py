"""What a gateway holds whatever its configuration says: opened once, shared by one `Service` after the other."""

import time

from gateway.auth import Keyring
from gateway.metrics import Metrics
from router.config import Settings
from router.keys.registry import Book, KeyRegistry
from router.ledger.admission import Admission
from router.ledger.caps import Caps
from router.ledger.figures import SharedFigures
from router.ledger.lease import Leases
from router.ledger.ledger import Ledger
from router.ledger.spending import Spending


class Foundation:
    """All methods belong to one event loop; building one opens nothing."""

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self.wait_s = settings.ledger.wait_ms / 1e3
        self.ledger = Ledger(settings.ledger)
        self.leases = Leases(self.ledger.client)
        self.figures = SharedFigures(self.ledger.client)
        self.spending = Spending(self.ledger.client, self.ledger.status().server)
        self.metrics = Metrics()
        self.metrics.watch_ledger(lambda: not self.ledger.degraded, lambda: self.ledger.owed)
        self.caps = Caps(settings)
        #: There from the first configuration on that limits anything.
        self.admission: Admission | None = None
        self.keyring = keyring
        self.server_secret = keyring.server_secret
        #: None without virtual keys.
        self.registry = (
            KeyRegistry(self.ledger.client, self.ledger.status().server, self.server_secret, self._keys_changed)
            if self.server_secret
            else None
        )
        self.ready = False
        self.draining = False  # told to stop: what is under way is finished, and balancers shall look elsewhere
        self.started_at = int(time.time())

    async def open(self) -> None:
        """Raises `LedgerError` for what a person has to mend, and `ConfigError`."""
        await self.ledger.open()
        if self.registry is not None:
            await self.registry.open()

    async def admit(self) -> Admission:
        """The admission, open."""
        if self.admission is None:
            spool = self.ledger.spool_folder("settlements")
            self.admission = admission = Admission(self.caps, self.ledger.client, self.wait_s, spool)
            self.metrics.watch_limits(
                lambda: not admission.degraded, lambda: admission.owed, lambda: admission.dropped
            )
            await admission.open()
        return self.admission

    def configure(self, settings: Settings, keyring: Keyring) -> None:
        """Goes by another configuration's caps and keys from now on."""
        self.caps.configure(settings)
        self.keyring = keyring
        if self.registry is not None and self.registry.known:
            self._keys_changed(self.registry.book)

    async def close(self) -> None:
        if self.registry is not None:
            await self.registry.close()
        await self.leases.close()
        await self.figures.close()
        if self.admission is not None:
            await self.admission.close()
        await self.ledger.close()

    def _keys_changed(self, book: Book) -> None:
        self.keyring.learn(book)
        teams = {name: team.caps for name, team in book.teams.items()}
        self.caps.learn(
            {
                key.name: key.caps + teams.get(key.team or "", ())
                for key in book.keys.values()
                if key.revoked_at is None
            }
        )

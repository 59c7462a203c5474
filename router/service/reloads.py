"""The artifact on the disk takes the place of the one that is served, while requests go on."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from router.errors import ConfigError, RouterError
from router.files import no_pause
from router.live import BUSY as IN_HAND
from router.live import LiveRouter
from router.router import Router
from router.service.metrics import RELOAD_OUTCOMES
from router.service.profiles_file import ProfilesFile
from router.service.settings import Settings
from router.types import JsonObject

logger = logging.getLogger(__name__)

# A thread that loads stands aside for so many times as long as it worked: what it needs, memory, caches and above all
# the interpreter, others need, too. A lower priority would be worse: a thread that waits for a core while it has the
# interpreter keeps all the others waiting.
REST_SHARE = 6.0
MAX_REST_S = 0.1
# Python's own 5 ms are as long as ten decisions take; a request needs the interpreter several times.
SWITCH_INTERVAL_S = 0.0001
OK, REFUSED, FAILED, BUSY = RELOAD_OUTCOMES


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of a reload.

    outcome: OK; REFUSED, the artifact is not in order; FAILED, it could not be loaded here; BUSY, another one is under
    way. artifact_id: what is served now. previous: what was before. reason: why it is still served; empty where it is
    not.
    """

    outcome: str
    artifact_id: str
    previous: str
    seconds: float
    reason: str = ""

    def to_json(self) -> JsonObject:
        """Return the wire form of one that was done."""
        return {"artifact_id": self.artifact_id, "previous": self.previous, "seconds": round(self.seconds, 3)}


class Pace:
    """Called between steps, rests in proportion to what the step took; nobody's answer waits for the thread's end."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()

    def __call__(self) -> None:
        """Rest."""
        worked_s = time.monotonic() - self._since_s
        time.sleep(min(MAX_REST_S, REST_SHARE * worked_s))
        self._since_s = time.monotonic()


def load_router(settings: Settings, *, before: Router | None = None, pause: Callable[[], object] = no_pause) -> Router:
    """Load the artifact that the settings name. before: the router whose place it takes. pause: as of the Router.

    Raises:
        ConfigError: they name none.
        ArtifactError, EncoderError: as ``Router.load``.
    """
    if settings.artifact is None:
        raise ConfigError("no directory of an artifact is configured, so that there is nothing to load")
    return Router.load(
        settings.artifact,
        before=before,
        pause=pause,
        cache_entries=settings.cache_entries,
        max_waiting=settings.max_waiting,
        encoder_threads=settings.encoder_threads,
        encoder_nice=settings.encoder_nice,
        max_sessions=settings.max_sessions,
        session_ttl_ms=1e3 * settings.session_ttl_s,
    )


class Reloads:
    """Reloads what is configured, one at a time, each in a thread of its own; to be called on the event loop."""

    def __init__(
        self, live: LiveRouter, settings: Settings, profiles: ProfilesFile, told: Callable[[Reloaded], object]
    ) -> None:
        """told: called after each, on the loop, before whoever asked for it hears of it."""
        self._live = live
        self._settings = settings
        self._profiles = profiles
        self._told = told
        self._running: asyncio.Task[Reloaded] | None = None
        self._again = False
        self._closed = False

    async def reload(self) -> Reloaded:
        """Load the configured directory anew and serve it; if anything is wrong, the old one stays.

        It goes on even if whoever asked for it leaves.
        """
        if self._running is None:
            return await asyncio.shield(self._start())
        now = self._live.artifact_id
        busy = Reloaded(BUSY, now, now, 0.0, IN_HAND)
        self._told(busy)
        return busy

    def on_signal(self) -> None:
        """Reload; where one is under way, once more after it, as that one may have read what was there before."""
        if self._running is None:
            self._start()
        else:
            self._again = True

    def close(self) -> None:
        """Let nothing take the place of what is served any more."""
        self._closed = True

    def _start(self) -> "asyncio.Task[Reloaded]":
        self._running = asyncio.get_running_loop().create_task(self._run())
        self._running.add_done_callback(self._ended)
        return self._running

    def _ended(self, task: "asyncio.Task[Reloaded]") -> None:
        self._running = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the reload ended with an unexpected %s", type(error).__name__)
        if self._again and not self._closed:
            self._again = False
            self._start()

    async def _run(self) -> Reloaded:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Reloaded] = loop.create_future()
        # A thread for each: one that has yielded to others cannot take that back. A daemon: the exit waits for none.
        threading.Thread(target=self._work, args=(loop, done), name="reload", daemon=True).start()
        reloaded = await done
        if reloaded.outcome == OK:
            logger.info(
                "artifact %s took the place of %s in %.3f s", reloaded.artifact_id, reloaded.previous, reloaded.seconds
            )
        else:
            logger.error("reload %s, artifact %s stays: %s", reloaded.outcome, reloaded.artifact_id, reloaded.reason)
        self._told(reloaded)
        return reloaded

    def _work(self, loop: asyncio.AbstractEventLoop, done: "asyncio.Future[Reloaded]") -> None:
        reloaded = None
        usual_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            reloaded = self._reload()
        finally:
            sys.setswitchinterval(usual_s)
            with suppress(RuntimeError):  # the loop was closed meanwhile, and nobody waits
                loop.call_soon_threadsafe(_settle, done, reloaded)

    def _reload(self) -> Reloaded:
        began = time.monotonic()
        previous, wrong, laid = self._live.artifact_id, FAILED, self._profiles.latest

        def load() -> Router:
            nonlocal previous, wrong, laid
            try:
                with self._live.lease() as before:
                    previous = before.artifact.id
                    router = load_router(self._settings, before=before, pause=Pace())
            except RouterError:
                wrong = REFUSED
                raise
            if self._closed:
                router.close()
                raise ConfigError("the service is about to end")
            laid = self._profiles.latest
            if laid is not None:
                router.use_profiles(laid)
            return router

        got = self._live.reload(load)
        outcome = OK if got.done else BUSY if got.busy else wrong
        if got.done and self._profiles.latest is not laid:  # they changed after they were laid over, before the swap
            self._profiles.lay_over()
        return Reloaded(outcome, got.artifact_id, previous, time.monotonic() - began, got.reason)


def _settle(done: "asyncio.Future[Reloaded]", reloaded: Reloaded | None) -> None:
    if done.done():
        return
    if reloaded is None:
        done.set_exception(RuntimeError("the thread of the reload ended early"))
    else:
        done.set_result(reloaded)

"""Which version is live: on the disk a link that is moved in one step, in a program one reference that is.

``models/live`` is a symbolic link to a version beside it, such as ``models/v7``. Who loads through it follows it once
(router.files.Folder), so that all files come from one version. What was live before stands in ``models/.live.history``,
one JSON object per line; the link alone says what is live.
"""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from router.artifact import MANIFEST, MAX_MANIFEST_BYTES, RouterArtifact, load_artifact
from router.encoder import ONNX_ERRORS
from router.errors import ArtifactError, RouterError
from router.files import Folder, parse_json, sync_directory
from router.router import Router
from router.tier import REPORT
from router.types import JsonObject

BUSY = "another reload is under way"


@dataclass(frozen=True, slots=True)
class Version:
    """An artifact beside a live link, as its manifest and report say: not verified.

    gain: of the best tier over the best fixed model, held out, with ``mean``, ``low`` and ``high``; None without.
    problem: why nothing else is known; empty where all is well.
    """

    name: str
    live: bool
    artifact_id: str = ""
    verdict: str = ""
    n_rows: int = 0
    gain: JsonObject | None = None
    problem: str = ""

    def to_json(self) -> JsonObject:
        """Return the wire form."""
        return {
            "name": self.name,
            "live": self.live,
            "artifact_id": self.artifact_id,
            "verdict": self.verdict,
            "n_rows": self.n_rows,
            "gain": self.gain,
            "problem": self.problem,
        }


def publish(directory: str | Path, live: str | Path) -> RouterArtifact:
    """Verify an artifact, let the link ``live`` point to it, and return it; nothing is copied or deleted.

    Raises:
        ArtifactError, EncoderError: as load_artifact; or ``live`` is no link, or cannot be written. It still points to
            what it pointed to.
    """
    link, target = Path(live), Path(directory).resolve()
    _check_free(link)
    artifact = load_artifact(target)
    _point(link, target, back=False)
    return artifact


def rollback(live: str | Path, to: str | Path | None = None) -> RouterArtifact:
    """Verify the version that was live before, or the one named, point ``live`` back to it, and return it.

    Once more goes further back.

    Raises:
        ArtifactError, EncoderError: none was live before, or it does not load any more. ``live`` points to what it
            pointed to.
    """
    link = Path(live)
    if to is None:
        *earlier, _ = _went_live(link)
        if not earlier:
            raise ArtifactError(f"{link}: no earlier version is known; name one with --to DIR")
        target = earlier[-1]
    else:
        target = Path(to).resolve()
    artifact = load_artifact(target)
    _point(link, target, back=True)
    return artifact


def current(live: str | Path) -> Path:
    """Return the directory that is live.

    Raises:
        ArtifactError: ``live`` is no link.
    """
    link = Path(live)
    try:
        return (link.parent / link.readlink()).resolve()
    except OSError as exc:
        raise ArtifactError(
            f"{link}: not a link to an artifact ({exc.strerror}); 'whichmodel publish' makes it"
        ) from exc


def versions(live: str | Path) -> list[Version]:
    """Return the artifacts beside ``live``, and the live one wherever it is, by name.

    Raises:
        ArtifactError: ``live`` is no link, or its directory cannot be read.
    """
    link = Path(live)
    now = current(link)
    try:
        found = {one.resolve() for one in link.parent.iterdir() if (one / MANIFEST).exists()}
    except OSError as exc:
        raise ArtifactError(f"{link.parent}: cannot be read: {exc.strerror}") from exc
    return [_version(one, one == now) for one in sorted({*found, now}, key=_natural)]


def _natural(path: Path) -> tuple[str, int, str]:
    """Return what sorts v10 behind v9."""
    head = path.name.rstrip("0123456789")
    return head, int(path.name[len(head) :] or -1), path.name


def _version(directory: Path, live: bool) -> Version:
    try:
        with Folder(directory) as folder:
            manifest = parse_json(folder.read(MANIFEST, at_most=MAX_MANIFEST_BYTES), directory / MANIFEST)
            name = f"{manifest['tiers'][0]}/{REPORT}"
            report = parse_json(folder.read(name, entry=manifest["files"][name]), directory / name)
        return Version(
            directory.name,
            live,
            artifact_id=str(manifest["artifact_id"]),
            verdict=str(manifest["verdict"]["label"]),
            n_rows=int(manifest["n_rows"]),
            gain=_gain(report.get("gain")),
        )
    except ArtifactError as exc:
        return Version(directory.name, live, problem=str(exc))
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        return Version(directory.name, live, problem=f"{directory / MANIFEST}: {exc!r}")


def _gain(raw: object) -> JsonObject | None:
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise TypeError("gain must be an object")
    return {name: float(raw[name]) for name in ("mean", "low", "high")}


def _check_free(link: Path) -> None:
    """Refuse to put a link in the place of anything else."""
    if link.exists() and not link.is_symlink():
        raise ArtifactError(f"{link}: exists and is no link; it will not be replaced")


def _point(link: Path, target: Path, *, back: bool) -> None:
    """Let ``link`` point to ``target`` by one rename, and wait until that is on the disk."""
    _check_free(link)
    beside = link.parent / f".{link.name}.{os.getpid()}.{threading.get_ident()}.link"
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        # First, so that a link that was moved is never without its history; a line without its link does no harm.
        _note(link, target, back=back)
        beside.unlink(missing_ok=True)
        beside.symlink_to(_seen_from(link.parent, target))
        beside.replace(link)
        sync_directory(link.parent)
    except OSError as exc:
        raise ArtifactError(f"{link}: cannot be written: {exc.strerror or exc}") from exc


def _seen_from(home: Path, target: Path) -> Path:
    """Return a target beside the link by its name alone, so that both can be moved together."""
    return Path(target.name) if target.parent == home.resolve() else target


def _history(link: Path) -> Path:
    return link.parent / f".{link.name}.history"


def _note(link: Path, target: Path, *, back: bool) -> None:
    line = json.dumps({"to": str(_seen_from(link.parent, target)), "back": back}) + "\n"
    descriptor = os.open(_history(link), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _went_live(link: Path) -> list[Path]:
    """Return what is live, last, and before it what was, each having followed the one before it.

    A rollback takes away what it left. The history may know of a move that was then not made: the link decides.
    """
    stack: list[Path] = []
    for target, back in _moves(link):
        if back and target in stack:
            del stack[len(stack) - stack[::-1].index(target) :]
        elif stack[-1:] != [target]:
            stack.append(target)
    now = current(link)
    if now in stack:
        del stack[len(stack) - stack[::-1].index(now) :]
    else:
        stack.append(now)
    return stack


def _moves(link: Path) -> list[tuple[Path, bool]]:
    """Return what the history says, without lines that a crash or a hand has damaged."""
    try:
        lines = _history(link).read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise ArtifactError(f"{_history(link)}: cannot be read: {exc.strerror}") from exc
    moves = []
    for line in lines:
        try:
            raw = json.loads(line)
            moves.append(((link.parent / raw["to"]).resolve(), raw["back"] is True))
        except (ValueError, KeyError, TypeError):
            continue
    return moves


@dataclass(frozen=True, slots=True)
class Reload:
    """What came of a reload. artifact_id: what is live now. reason: why it is still the old one; empty when it is new.

    busy: it was not tried, as another one was under way.
    """

    artifact_id: str
    reason: str = ""
    busy: bool = False

    @property
    def done(self) -> bool:
        """Whether the new one is live."""
        return not self.reason


class _Held:
    """A Router and how many requests are with it. All but ``router`` is under the lock of LiveRouter."""

    __slots__ = ("n_leases", "retired", "router")

    def __init__(self, router: Router) -> None:
        self.router = router
        self.n_leases = 0
        self.retired = False


class Lease:
    """The Router of one request from start to end; a context manager, or ended by ``release``."""

    __slots__ = ("_end", "_held")

    def __init__(self, held: _Held, end: Callable[[_Held], object]) -> None:
        self._held: _Held | None = held
        self._end = end

    @property
    def router(self) -> Router:
        """The Router to ask.

        Raises:
            ValueError: the lease was released.
        """
        if self._held is None:
            raise ValueError("the lease was released")
        return self._held.router

    def release(self) -> None:
        """End the lease; once more does nothing."""
        held, self._held = self._held, None
        if held is not None:
            self._end(held)

    def __enter__(self) -> Router:
        return self.router

    def __exit__(self, *_: object) -> None:
        self.release()


class LiveRouter:
    """Holds the Router that answers, and replaces it while others are asking.

    A request that began with the old one ends with it; the old one's threads are ended after the last of these.
    """

    def __init__(self, router: Router) -> None:
        """Answer with ``router``, which is closed in time by this object from now on."""
        self._held = _Held(router)
        self._lock = threading.Lock()
        self._reloading = threading.Lock()

    @property
    def artifact_id(self) -> str:
        """The id of the artifact that new requests are answered from."""
        return self._held.router.artifact.id

    def lease(self) -> Lease:
        """Take the Router that answers now, until the lease is released."""
        with self._lock:
            held = self._held
            held.n_leases += 1
        return Lease(held, self._end)

    def reload(self, load: Callable[[], Router]) -> Reload:
        """Load another Router, in this thread, and let it answer from now on; what cannot be loaded changes nothing.

        load: such as ``lambda: Router.load("models/live")``, which verifies, asks the canaries and warms up.
        """
        if not self._reloading.acquire(blocking=False):
            return Reload(self.artifact_id, BUSY, busy=True)
        try:
            router = load()
        except (RouterError, OSError, MemoryError, *ONNX_ERRORS) as exc:
            return Reload(self.artifact_id, " ".join(str(exc).split()) or type(exc).__name__)
        else:
            self._retire(_Held(router))
            return Reload(router.artifact.id)
        finally:
            self._reloading.release()

    def close(self) -> None:
        """End the threads of the Router once no request is with it; later requests get it as it then is."""
        self._retire(self._held)

    def _retire(self, successor: _Held) -> None:
        with self._lock:
            old, self._held = self._held, successor
            old.retired = True
            idle = old.n_leases == 0
        if idle:
            old.router.close()

    def _end(self, held: _Held) -> None:
        with self._lock:
            held.n_leases -= 1
            over = held.retired and held.n_leases == 0
        if over:
            held.router.close()

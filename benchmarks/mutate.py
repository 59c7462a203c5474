"""Damage to an artifact's directory, drawn at random: what disks, copies, hands and attackers do to files."""

import hashlib
import json
import os
import random
import shutil
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PAGE = 4096
MANIFEST, CANARIES = "manifest.json", "canaries.json"
Mutation = Callable[[Path, random.Random], None]
# What stands in the place of a value of JSON: other types, other signs, other sizes, and nothing at all.
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 10**6, 10**30, -(10**30), 0.5, -0.5, 1e308, 1e-308, "", "x", "ROUTE", "../x"),
    *([], {}, [[]], [1, 2, 3], {"a": 1}, "\ud800", "full", "static", "battles", "scores"),
)


def rebuild(home: Path, pristine: Mapping[str, bytes]) -> None:
    """Put the whole artifact back, whatever was made of its directory."""
    if home.is_symlink():
        home.unlink()
    shutil.rmtree(home, ignore_errors=True)
    for name, raw in pristine.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)


def is_changed(home: Path, pristine: Mapping[str, bytes]) -> bool:
    """Tell whether anything is otherwise than in the whole artifact; a manifest that only looks otherwise is not."""
    found = {str(one.relative_to(home)): one for one in home.rglob("*") if one.is_symlink() or not one.is_dir()}
    if set(found) != set(pristine):
        return True
    for name, path in found.items():
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > len(pristine[name]) + PAGE * 4:
            return True
        if name != MANIFEST and path.read_bytes() != pristine[name]:
            return True
    try:
        return bool(json.loads((home / MANIFEST).read_bytes()) != json.loads(pristine[MANIFEST]))
    except ValueError:
        return True


def content_files(home: Path) -> list[str]:
    """Return every file but the manifest, sorted."""
    names = [str(one.relative_to(home)) for one in home.rglob("*") if one.is_file() and not one.is_symlink()]
    return sorted(set(names) - {MANIFEST})


def _pick(home: Path, rng: random.Random, suffix: str = "") -> Path:
    """Return one file: any is as likely as any other, however large it is."""
    return home / rng.choice([name for name in content_files(home) if name.endswith(suffix)])


def flip_bit(home: Path, rng: random.Random) -> None:
    """Turn one bit of one file."""
    path = _pick(home, rng)
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def overwrite_bytes(home: Path, rng: random.Random) -> None:
    """Write up to 64 random bytes into a file."""
    path = _pick(home, rng)
    raw = bytearray(path.read_bytes())
    at = rng.randrange(len(raw))
    raw[at : at + rng.randint(1, 64)] = rng.randbytes(min(rng.randint(1, 64), len(raw) - at))
    path.write_bytes(raw)


def zero_page(home: Path, rng: random.Random) -> None:
    """Leave a page of a file empty, as a crash of a machine does."""
    path = _pick(home, rng)
    raw = bytearray(path.read_bytes())
    at = PAGE * rng.randrange(-(-len(raw) // PAGE))
    raw[at : at + PAGE] = bytes(len(raw[at : at + PAGE]))
    path.write_bytes(raw)


def truncate(home: Path, rng: random.Random) -> None:
    """Cut a file off, anywhere."""
    path = _pick(home, rng)
    os.truncate(path, rng.randrange(path.stat().st_size))


def extend(home: Path, rng: random.Random) -> None:
    """Let something follow the end of a file."""
    with _pick(home, rng).open("ab") as file:
        file.write(rng.choice((b"\0", b" ", b"\n", rng.randbytes(100), bytes(PAGE))))


def swap_files(home: Path, rng: random.Random) -> None:
    """Exchange two files, preferably of one kind."""
    first = _pick(home, rng)
    second = _pick(home, rng, rng.choice((first.suffix, "")))
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)


def duplicate_file(home: Path, rng: random.Random) -> None:
    """Write one file over another, preferably of one kind."""
    first = _pick(home, rng)
    _pick(home, rng, rng.choice((first.suffix, ""))).write_bytes(first.read_bytes())


def _array(home: Path, rng: random.Random) -> tuple[Path, np.ndarray]:
    path = _pick(home, rng, ".npy")
    return path, np.load(path, allow_pickle=False)


def array_value(home: Path, rng: random.Random) -> None:
    """Set one number of an array to another: a near one, a far one, or none."""
    path, array = _array(home, rng)
    at = rng.randrange(array.size)
    old = array.flat[at]
    if array.dtype.kind == "f":
        array.flat[at] = rng.choice((np.nan, np.inf, -np.inf, 0, -1, 1, 3e38, float(old) * 1.5, float(old) + 0.1, -old))
    elif array.dtype.kind == "b":
        array.flat[at] = not old
    else:
        limits = np.iinfo(array.dtype)
        array.flat[at] = rng.choice((limits.min, limits.max, 0, rng.randint(limits.min, limits.max)))
    np.save(path, array)


def array_rows(home: Path, rng: random.Random) -> None:
    """Exchange, repeat, reverse or drop rows of an array, or make it another type."""
    path, array = _array(home, rng)
    a, b = rng.randrange(len(array)), rng.randrange(len(array))
    change = rng.randrange(6)
    if change == 0:
        array[[a, b]] = array[[b, a]]
    elif change == 1:
        array[a] = array[b]
    elif change == 2:
        array = array[::-1]
    elif change == 3:
        array = np.delete(array, a, axis=0)
    elif change == 4:
        array = np.asfortranarray(array) if array.ndim == 2 else array[:, None]
    else:
        array = array.astype(rng.choice(("float16", "float64", "int64", "int8", "complex64", "<U2", ">f4")))
    np.save(path, array)


def array_header(home: Path, rng: random.Random) -> None:
    """Change what the header of an array says, not the numbers behind it."""
    path = _pick(home, rng, ".npy")
    raw = path.read_bytes()
    old, new = rng.choice(
        (
            (b"False", b"True "),
            (b"'<f4'", b"'<i4'"),
            (b"'|i1'", b"'|u1'"),
            (b"'|b1'", b"'|i1'"),
            (b"'<i4'", b"'|O8'"),
            (b"(", b"(9"),
            (b"(1", b"(-1"),
            (b"(", b"(" * 50),
            (b"}", b"} or 1"),
            (b"NUMPY\x01", b"NUMPY\x02"),
            (b"NUMPY\x01\x00v", b"NUMPY\x01\x00\xff"),
            (b", ", b", 10**9, "),
        )
    )
    path.write_bytes(raw[:128].replace(old, new, 1) + raw[128:])


def json_value(home: Path, rng: random.Random) -> None:
    """Change one value of a JSON file, however deep."""
    path = _pick(home, rng, ".json")
    raw = json.loads(path.read_bytes())
    _change_leaf(raw, rng)
    path.write_text(json.dumps(raw))


def json_shape(home: Path, rng: random.Random) -> None:
    """Take a member out of a JSON file, put one in, or exchange two."""
    path = _pick(home, rng, ".json")
    raw = json.loads(path.read_bytes())
    inner = rng.choice([raw, *(one for one in raw.values() if isinstance(one, dict | list) and one)])
    if isinstance(inner, list):
        a, b = rng.randrange(len(inner)), rng.randrange(len(inner))
        inner[a], inner[b] = inner[b], inner[a]
        if rng.random() < 0.5:
            del inner[a]
    else:
        a, b = rng.choice(list(inner)), rng.choice(list(inner))
        inner[a], inner[b] = inner[b], inner[a]
        if rng.random() < 0.5:
            inner[rng.choice(("x", a.upper()))] = inner.pop(a)
    path.write_text(json.dumps(raw))


def json_text(home: Path, rng: random.Random) -> None:
    """Write what only nearly is JSON, or JSON that nobody expects."""
    path = _pick(home, rng, ".json")
    text = path.read_text()
    digits = [at for at, one in enumerate(text) if one.isdigit()]
    at = rng.choice(digits) if digits else 0
    new = rng.choice(("NaN", "Infinity", "1e999", "-0", "9" * 5000, '"0"', "[" * 2000, "0x1", "\x00", "7", "3", "."))
    path.write_text(text[:at] + new + text[at + 1 :])


def manifest_field(home: Path, rng: random.Random) -> None:
    """Change one value of the manifest, however deep."""
    raw = json.loads((home / MANIFEST).read_bytes())
    _change_leaf(raw, rng)
    (home / MANIFEST).write_text(json.dumps(raw))


def manifest_shape(home: Path, rng: random.Random) -> None:
    """Take a member out of the manifest, or put one in."""
    raw = json.loads((home / MANIFEST).read_bytes())
    inner = rng.choice([raw, raw["files"], raw["pins"], *raw["pins"].values(), *raw["files"].values()])
    if rng.random() < 0.5:
        del inner[rng.choice(list(inner))]
    else:
        inner[rng.choice(("x", "../x", "/etc/passwd", "static/../won.npy", "models"))] = rng.choice(STRANGE)
    (home / MANIFEST).write_text(json.dumps(raw))


def _change_leaf(raw: Any, rng: random.Random) -> None:
    """Go down at random to a value, and change it."""
    while True:
        key: Any = rng.choice(list(raw)) if isinstance(raw, dict) else rng.randrange(len(raw))
        value = raw[key]
        if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
            break
        raw = value
    if isinstance(value, bool) or not isinstance(value, int | float) or rng.random() < 0.4:
        raw[key] = rng.choice(STRANGE)
    else:
        raw[key] = rng.choice((value + 1, value - 1, value * 1.01, -value, value / 2, value * 1e6))


def symlink_file(home: Path, rng: random.Random) -> None:
    """Put a link in the place of a file: to itself elsewhere, to another one, to a device, to nothing, to itself."""
    path = _pick(home, rng)
    aside = home.parent / "aside"
    shutil.copy(path, aside)
    other = _pick(home, rng)
    path.unlink()
    path.symlink_to(rng.choice((aside, other, Path("/dev/zero"), Path("/dev/stdin"), Path("none"), Path(path.name))))


def symlink_folder(home: Path, rng: random.Random) -> None:
    """Put a link in the place of a folder, to the very same one elsewhere."""
    folder = rng.choice(sorted(one for one in home.rglob("*") if one.is_dir()))
    aside = home.parent / "aside-folder"
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    folder.symlink_to(aside)


def hard_link(home: Path, rng: random.Random) -> None:
    """Give a file a second name, through which it could be changed."""
    aside = home.parent / "aside"
    aside.unlink(missing_ok=True)
    os.link(_pick(home, rng), aside)


def no_plain_file(home: Path, rng: random.Random) -> None:
    """Put a FIFO, a device, a socket or a folder in the place of a file."""
    path = rng.choice([_pick(home, rng), home / MANIFEST])
    path.unlink()
    what = rng.choice(("fifo", "device", "socket", "folder"))
    if what == "device" and os.geteuid() == 0:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
        except PermissionError:  # root, but in a box
            os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "socket":
        here = os.open(".", os.O_RDONLY)
        os.chdir(path.parent)  # the path of a socket may have 107 bytes
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
        os.fchdir(here)
        os.close(here)
    else:
        os.mkfifo(path)


def missing(home: Path, rng: random.Random) -> None:
    """Take a file or a folder away."""
    path = rng.choice(sorted(home.rglob("*")))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def huge_file(home: Path, rng: random.Random) -> None:
    """Make a file as long as a disk, with nothing in it, and let the manifest expect that."""
    path, size = _pick(home, rng), rng.choice((3 << 30, 20 << 30, 1 << 40))
    os.truncate(path, size)
    raw = json.loads((home / MANIFEST).read_bytes())
    raw["files"][str(path.relative_to(home))]["bytes"] = size
    sign(home, raw)


def extra_file(home: Path, rng: random.Random) -> None:
    """Leave a file in the directory that nobody asked for."""
    (home / rng.choice(("notes.txt", "vectors.npy", "static/extra.npy", ".hidden", "weights.bin"))).write_bytes(b"x")


CONTENT: tuple[Mutation, ...] = (
    *(flip_bit, overwrite_bytes, zero_page, truncate, extend, swap_files, duplicate_file),
    *(array_value, array_rows, array_header, json_value, json_shape, json_text),
)
IN_MANIFEST: tuple[Mutation, ...] = (manifest_field, manifest_shape)
IN_PLACE: tuple[Mutation, ...] = (
    *(symlink_file, symlink_folder, hard_link, no_plain_file, missing, huge_file, extra_file),
)


def sign(home: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with the id of what it says."""
    body = {name: value for name, value in manifest.items() if name != "artifact_id"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    (home / MANIFEST).write_text(json.dumps({**body, "artifact_id": digest}))


def rewrite_manifest(home: Path) -> None:
    """Let the manifest say what is now true of the damaged files: sizes, hashes, pins, and what learned.json says."""
    manifest = json.loads((home / MANIFEST).read_bytes())
    hashes: dict[str, str] = {}
    files = manifest.get("files")
    for name in [one for one in files if (home / one).is_file()] if isinstance(files, dict) else []:
        raw = (home / name).read_bytes()
        hashes[name] = hashlib.sha256(raw).hexdigest()
        if isinstance(files[name], dict):
            files[name] |= {"sha256": hashes[name], "bytes": len(raw)}
    pins = manifest.get("pins")
    for tier, own in pins.items() if isinstance(pins, dict) else ():
        _rewrite_pins(home / tier / "encoder", tier, own, hashes)
    learned = _parsed(home / "learned.json")
    manifest |= {name: learned[name] for name in ("models", "kind") if name in learned and name in manifest}
    tiers = manifest.get("tiers")
    if isinstance(tiers, list) and tiers and isinstance(tiers[0], str):
        verdict = _parsed(home / tiers[0] / "learned.json").get("verdict")
        manifest |= {"verdict": verdict} if isinstance(verdict, dict) and "verdict" in manifest else {}
    sign(home, manifest)


def _rewrite_pins(encoder: Path, tier: str, pins: Any, hashes: Mapping[str, str]) -> None:
    own = [hashes.get(f"{tier}/encoder/{name}") for name in ("encoder.json", "tokenizer.json", "model.onnx")]
    if not isinstance(pins, dict) or None in own:
        return
    digests = [bytes.fromhex(str(one)) for one in own]
    pins |= {
        "tokenizer_sha256": own[1],
        "model_sha256": own[2],
        "encoder_id": hashlib.sha256(b"".join(digests)).hexdigest(),
    }
    settings = _parsed(encoder / "encoder.json")
    pins |= {name: settings[name] for name in pins if name in settings}


def _parsed(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def draw(number: int, seed: int, only_rewritten: bool) -> tuple[Mutation, bool, random.Random]:
    """Return the mutation of this number, whether the manifest is rewritten afterwards, and its own chance.

    A third is rewritten; of the others two in three are content or manifest, one is what stands in the place of files.
    """
    rng = random.Random(f"{seed}:{number}")
    if only_rewritten or number % 3 == 0:
        return rng.choice((*CONTENT, *IN_MANIFEST)), True, rng
    if number % 9 in (1, 4, 7, 2):
        return rng.choice((*CONTENT, *IN_MANIFEST)), False, rng
    return rng.choice(IN_PLACE), False, rng

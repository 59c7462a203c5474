"""router/files.py: only plain files of one's own are read, and only arrays as they are written here."""

import hashlib
import io
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from router.errors import ArtifactError
from router.files import Folder, npy_bytes, parse_array, parse_json

WHERE = Path("home/x.npy")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "in" / "deep").mkdir(parents=True)
    (tmp_path / "home" / "in" / "deep" / "file").write_bytes(b"content")
    return tmp_path / "home"


def read(home: Path, name: str = "in/deep/file", **options: object) -> bytes:
    with Folder(home) as folder:
        return folder.read(name, **options)  # type: ignore[arg-type]


def put_link(path: Path) -> None:
    aside = path.parents[2].parent / "aside"
    path.rename(aside)
    path.symlink_to(aside)


def put_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def put_dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("none")


def put_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_socket(path: Path) -> None:
    path.unlink()
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.fchdir(here)
    os.close(here)


def put_device(path: Path) -> None:
    path.unlink()
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_hard_link(path: Path) -> None:
    os.link(path, path.with_name("another"))


def put_folder_link(path: Path) -> None:
    aside = path.parents[2].parent / "aside"
    path.parent.rename(aside)
    path.parent.symlink_to(aside)


def put_high_folder_link(path: Path) -> None:
    aside = path.parents[2].parent / "aside"
    path.parent.parent.rename(aside)
    path.parent.parent.symlink_to(aside)


def put_file_for_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.write_bytes(b"x")


@pytest.mark.parametrize(
    ("put", "wanted"),
    [
        (put_link, "it is a link"),
        (put_loop, "it is a link"),
        (put_dangling, "it is a link"),
        (put_fifo, "not a plain file"),
        (put_socket, "No such device or address"),
        (put_device, "not a plain file"),
        (put_folder, "not a plain file"),
        (put_hard_link, r"has 2 names \(hard links\)"),
        (put_folder_link, "Not a directory|it is a link"),
        (put_high_folder_link, "Not a directory|it is a link"),
        (put_file_for_folder, "Not a directory"),
        (Path.unlink, "No such file"),
    ],
)
def test_what_is_no_plain_file_of_its_own_is_refused_without_waiting(
    home: Path, put: Callable[[Path], None], wanted: str
) -> None:
    assert read(home) == b"content"
    put(home / "in" / "deep" / "file")
    with pytest.raises(ArtifactError, match=rf"home/in/deep/file: .*{wanted}"):
        read(home)


def test_size_and_hash_are_those_of_the_entry(home: Path) -> None:
    entry = {"bytes": 7, "sha256": hashlib.sha256(b"content").hexdigest()}
    assert read(home, entry=entry, at_most=7) == b"content"
    for wrong, wanted in (
        (entry | {"bytes": 8}, "7 bytes, the manifest says 8"),
        (entry | {"sha256": "0" * 64}, "altered or damaged"),
        ("entry", "altered or damaged"),
    ):
        with pytest.raises(ArtifactError, match=f"home/in/deep/file: {wanted}"):
            read(home, entry=wrong)


def test_a_file_above_the_limit_is_refused_before_it_is_read(home: Path) -> None:
    os.truncate(home / "in" / "deep" / "file", 1 << 40)
    with pytest.raises(ArtifactError, match="1099511627776 bytes is above the limit of 8589934592"):
        read(home)
    with pytest.raises(ArtifactError, match="above the limit of 6"):
        read(home, at_most=6)


def test_a_file_that_grows_while_it_is_read_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = os.fstat

    def growing(descriptor: int) -> os.stat_result:
        status = checked(descriptor)
        with (home / "in" / "deep" / "file").open("ab") as file:
            file.write(b"more")
        return status

    monkeypatch.setattr("router.files.os.fstat", growing)
    with pytest.raises(ArtifactError, match="was written to while it was read"):
        read(home)


def test_a_folder_stays_the_one_that_was_opened(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "in" / "deep").mkdir(parents=True)
    (other / "in" / "deep" / "file").write_bytes(b"other")
    (tmp_path / "live").symlink_to("home")
    with Folder(tmp_path / "live") as folder:
        assert folder.root == home.resolve()
        (tmp_path / "next").symlink_to("other")
        (tmp_path / "next").replace(tmp_path / "live")
        assert folder.read("in/deep/file") == b"content"
        home.rename(tmp_path / "renamed")
        assert folder.read("in/deep/file") == b"content"
    assert read(tmp_path / "live") == b"other"


def test_nothing_stays_open(home: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(20):
        read(home)
        for name in ("in/none/file", "in/deep"):
            with pytest.raises(ArtifactError):
                read(home, name)
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    assert after == before


@pytest.mark.parametrize(
    "make", [lambda path: path.symlink_to("loop"), lambda path: path.write_text("x"), lambda _: None]
)
def test_what_is_no_directory_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "loop")
    with pytest.raises(ArtifactError, match="loop: no such directory"):
        Folder(tmp_path / "loop")


FORMS = st.sampled_from(["int8", "uint8", "int32", "int64", "float32", "float64", "bool"])


@given(st.data(), FORMS, st.integers(1, 2))
def test_arrays_come_back_bit_for_bit_and_nobody_writes_to_them(data: st.DataObject, dtype: str, axes: int) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=axes, max_dims=axes, min_side=0, max_side=9))
    array = data.draw(arrays.arrays(dtype, shape))
    back = parse_array(npy_bytes(array), dtype, axes, WHERE)
    assert back.dtype == array.dtype and back.shape == array.shape and back.tobytes() == array.tobytes()
    assert not back.flags.writeable


def saved(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


GOOD = npy_bytes(np.arange(12, dtype=np.float32).reshape(3, 4))


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b"", "not a .npy array"),
        (GOOD[:20], "not a .npy array"),
        (saved(np.zeros((3, 4), np.float32), version=(2, 0)), "not a .npy array"),
        (saved(np.asfortranarray(np.ones((3, 4), np.float32))), "not a .npy array"),
        (saved(np.zeros((3, 4), [("a", "f4")])), "not a .npy array"),
        (GOOD.replace(b"False", b"True "), "not a .npy array"),
        (GOOD.replace(b"(3, 4)", b"(-3, 4)"), "not a .npy array"),
        (GOOD.replace(b"(3, 4)", b"(3, 4, 1)"), "not a .npy array"),
        (GOOD.replace(b"(3, 4)", b"(3L, 4)"), "not a .npy array"),
        (GOOD.replace(b" \n", b"1\n"), "not a .npy array"),
        (GOOD[:8] + b"\xff\xff" + GOOD[10:], "not a .npy array"),
        (npy_bytes(np.zeros((3, 4), np.float64)), "expected a 2-axis array of float32"),
        (npy_bytes(np.zeros((3, 4), ">f4")), "not a .npy array"),
        (npy_bytes(np.zeros(3, np.float32)), "expected a 2-axis array of float32"),
        (GOOD.replace(b"(3, 4)", b"(4, 4)"), r"48 bytes, but the shape \(4, 4\) of float32 takes 64"),
        (GOOD.replace(b"(3, 4), }      ", b"(999999999999, 4), }"[:15]), "not a .npy array|bytes, but"),
        (GOOD[:-1], "47 bytes, but the shape"),
        (GOOD + b"\0", "49 bytes, but the shape"),
    ],
)
def test_arrays_of_another_form_are_refused(raw: bytes, wanted: str) -> None:
    parse_array(GOOD, "float32", 2, WHERE)
    with pytest.raises(ArtifactError, match=rf"home/x\.npy: .*{wanted}"):
        parse_array(raw, "float32", 2, WHERE)


def test_a_truth_value_is_0_or_1() -> None:
    raw = npy_bytes(np.array([True, False]))
    assert parse_array(raw, "bool", 1, WHERE).tolist() == [True, False]
    with pytest.raises(ArtifactError, match="a truth value must be 0 or 1, got 2"):
        parse_array(raw[:-1] + b"\x02", "bool", 1, WHERE)


@given(st.binary(max_size=200), st.integers(0, 140))
def test_any_bytes_are_an_array_or_refused(raw: bytes, kept: int) -> None:
    with suppress(ArtifactError):
        parse_array(GOOD[:kept] + raw, "float32", 2, WHERE)


@pytest.mark.parametrize(
    "raw", [b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": [Infinity]}', b"[1]", b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_json_holds_numbers_that_are_some(raw: bytes) -> None:
    with pytest.raises(ArtifactError, match="x: "):
        parse_json(raw, Path("x"))

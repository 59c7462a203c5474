"""What several verbs have on the command line: ``--json``, and checked numbers, or argparse's own error for others."""

import argparse


def number(text: str) -> float:
    """Return any number."""
    try:
        return float(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"expected a number, got {text}") from exc


def amount(text: str) -> float:
    """Return a finite number of at least 0."""
    value = number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number of at least 0, got {text}")
    return value


def above_zero(text: str) -> float:
    """Return a finite number above 0."""
    value = number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return value


def key_share(text: str) -> float:
    """Return a share of at most 1, above 0."""
    value = number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and at most 1, got {text}")
    return value


def budget_ms(text: str) -> float:
    """Return a latency budget, 1 to 10,000 ms."""
    value = number(text)
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"expected 1 to 10,000, got {text}")
    return value


def held_out_share(text: str) -> float:
    """Return a share of rows that only measure, 0 to 0.5."""
    value = number(text)
    if not 0 <= value <= 0.5:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 0.5, got {text}")
    return value


def share(text: str) -> float:
    """Return a share, 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text}")
    return value


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def seed(text: str) -> int:
    """Return a seed, 0 to 2^32 - 1."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**32 - 1}, got {text}")
    return int(text)


def tokens(text: str) -> int:
    """Return a number of tokens, 0 to 100,000,000 as over HTTP."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) > 100_000_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 100,000,000, got {text}")
    return int(text)


def names(text: str | None) -> tuple[str, ...] | None:
    """Read a list of names, ``A,B``; None where the option was left out."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def add_json(command: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    command.add_argument("--json", action="store_true", help="print one JSON object as the last line of stdout")

"""Prompts from a file or stdin: lines of JSON, each an object with 'prompt' or 'messages'."""

import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from router.errors import DataError
from router.types import Messages


def read_prompts(path: str) -> Iterator[tuple[str, str | Messages]]:
    """Yield FILE:LINE and the prompt or messages of every line of a JSONL file ('-': stdin); blank lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line is no such object; it is named.
    """
    try:
        file: TextIO = sys.stdin if path == "-" else open(path, encoding="utf-8-sig")  # noqa: SIM115
        with file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{path}:{number}"
                    yield where, _prompt_of(line, where)
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read: {exc}") from exc


def _prompt_of(line: str, where: str) -> Any:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{where}: not JSON ({exc}); expected an object with 'prompt' or 'messages'") from exc
    if isinstance(row, dict) and ("prompt" in row) != ("messages" in row):
        if isinstance(row.get("prompt"), str):
            return row["prompt"]
        if isinstance(row.get("messages"), list):
            return row["messages"]
    raise DataError(f"{where}: expected an object with either 'prompt' (a string) or 'messages' (a list)")

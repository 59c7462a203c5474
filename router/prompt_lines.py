"""Files of prompts: one JSON object a line, with a prompt or with messages."""

import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from router.errors import DataError


def read_prompts(path: str) -> Iterator[Any]:
    """Yield the prompt or messages of every line of a JSONL file ('-': stdin).

    Raises:
        DataError: the file cannot be read, or a line is no such object; it is named.
    """
    try:
        file: TextIO = sys.stdin if path == "-" else open(path, encoding="utf-8-sig")  # noqa: SIM115
        with file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _prompt_of(line, f"{path}:{number}")
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

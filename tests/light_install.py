"""The serving half alone, from a built wheel and outside the checkout: run by `make test-light` in its own environment.

Not a pytest module: that environment has no pytest. Exits with a message where a promise does not hold.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ABSENT = ("torch", "pandas", "pyarrow", "sklearn", "datasets", "sentence_transformers", "matplotlib", "onnx")


def main() -> None:
    present = [name for name in ABSENT if importlib.util.find_spec(name) is not None]
    if present:
        sys.exit(f"the light install brings {present}")
    command = str(Path(sys.executable).parent / "whichmodel")
    with tempfile.TemporaryDirectory() as elsewhere:
        os.chdir(elsewhere)
        # The modules must come from the installed wheel, not from the checkout.
        where = run(
            [
                sys.executable,
                "-c",
                "import router, router.encoder as e; print(router.__file__, e.find_encoder('static'))",
            ]
        )
        if "site-packages" not in where.stdout or "_models" not in where.stdout:
            sys.exit(f"not the installed package, or its encoder is missing: {where.stdout}")
        if run([command, "--help"]).returncode != 0:
            sys.exit("whichmodel --help failed")
        Path("log.jsonl").write_text('{"prompt": "hi", "model_a": "a", "model_b": "b", "winner": "tie"}\n')
        for arguments, extra in (
            (["train", "log.jsonl", "--out", "out"], "train"),
            (["data", "inspect", "log.jsonl"], "train"),
            (["encoder", "distill", "--out", "out"], "encoders"),
        ):
            done = run([command, *arguments])
            one_line = done.stderr.strip().count("\n") == 0
            if done.returncode != 1 or f"whichmodel[{extra}]" not in done.stderr or not one_line:
                sys.exit(f"whichmodel {' '.join(arguments)}: expected exit 1 naming the extra, got {done}")
        absent = run([command, "serve", "nowhere"])
        if absent.returncode != 1 or "no such directory" not in absent.stderr:
            sys.exit(f"whichmodel serve nowhere: {absent}")
    print("light install: 5 passed, 0 failed")


def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()

"""Who may import whom: read from the sources, also inside functions, and from a fresh interpreter."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A room may import what lies on a lower layer, and beside it only what SIDEWAYS names.
LAYERS = {
    "router.errors": 0,
    "router.types": 0,
    "router.prompt": 0,
    "router.needs": 0,
    "router.features": 0,
    "router.deadline": 0,
    "router.files": 0,
    "router.onnx_file": 0,
    "router.forecast": 0,
    "router.marked": 0,
    "router.published_catalogue": 0,
    "router.artifact": 1,
    "router.cache": 1,
    "router.shadow_log": 1,
    "router.canaries": 1,
    "router.catalogue": 1,
    "router.constraints": 1,
    "router.flips": 1,
    "router.memory": 1,
    "router.misnamed": 1,
    "router.summary": 1,
    "router.encoder": 1,
    "router.index": 1,
    "router.estimate": 1,
    "router.pins": 1,
    "router.policies": 1,
    "router.policy": 1,
    "router.price_doubts": 1,
    "router.profiles": 1,
    "router.space": 1,
    "router.tier": 1,
    "router.session": 1,
    "router.about": 2,
    "router.intents": 2,
    "router.feedback": 2,
    "router.profile_import": 2,
    "router.rung": 2,
    "router.worker": 2,
    "router.router": 3,
    "router": 4,
    "router.live": 4,
    "router.drift": 4,
    "router.shadow_report": 3,
    "router.service": 5,
    "router.client": 4,
    "router.arguments": 0,
    "router.prompt_lines": 1,
    "router.cli_encoder": 4,
    "router.cli_forget": 4,
    "router.cli_route": 6,
    "router.cli_profiles": 4,
    "router.cli_feedback": 4,
    "router.cli_serve": 6,
    "router.cli_whatif": 6,
    "router.cli_live": 5,
    "router.cli_watch": 5,
    "router.cli": 7,
}
# Layer-1 rooms meet in router.router. The exceptions: the artifact and its tiers read and write the others' plain
# values, and three rooms take values that others give.
SIDEWAYS = {
    ("router.prompt", "router.errors"),
    ("router.files", "router.errors"),
    ("router.marked", "router.errors"),
    ("router.published_catalogue", "router.errors"),
    ("router.files", "router.types"),
    ("router.artifact", "router.canaries"),
    ("router.artifact", "router.encoder"),
    ("router.artifact", "router.estimate"),
    ("router.artifact", "router.memory"),
    ("router.artifact", "router.pins"),
    ("router.artifact", "router.profiles"),
    ("router.artifact", "router.tier"),
    ("router.canaries", "router.estimate"),
    ("router.canaries", "router.index"),
    ("router.canaries", "router.tier"),
    ("router.estimate", "router.index"),
    ("router.pins", "router.encoder"),
    ("router.pins", "router.index"),
    ("router.constraints", "router.catalogue"),
    ("router.flips", "router.constraints"),
    ("router.flips", "router.estimate"),
    ("router.flips", "router.policy"),
    ("router.needs", "router.types"),
    ("router.onnx_file", "router.errors"),
    ("router.policy", "router.catalogue"),
    ("router.policy", "router.constraints"),
    ("router.policy", "router.estimate"),
    ("router.summary", "router.policy"),
    ("router.tier", "router.encoder"),
    ("router.tier", "router.estimate"),
    ("router.tier", "router.index"),
    ("router.tier", "router.pins"),
    ("router.tier", "router.space"),
}
# Of these, the whole is one room.
PACKAGES = ("router.service", "router.feedback")
OFFLINE = ("torch", "pandas", "sklearn", "datasets", "sentence_transformers", "matplotlib", "training")
COMMAND_LINES = (
    *("router.cli", "router.cli_encoder", "router.cli_feedback", "router.cli_forget", "router.cli_live"),
    *("router.cli_route", "router.cli_serve", "router.cli_watch", "router.cli_whatif"),
)
ENCODER_MAKERS = ("torch", "model2vec", "sentence_transformers", "onnx", "transformers", "safetensors")
MAY_MAKE_ENCODERS = {"training.distill", "training.finetune", "training.export_encoder", "training.torch_encoder"}


def modules(package: str) -> dict[str, ast.Module]:
    """Return every module of a package, by dotted name, as a syntax tree."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text("utf-8"))
    return found


ROUTER, TRAINING = modules("router"), modules("training")
KNOWN = {*ROUTER, *TRAINING}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield every imported module by dotted name; of ``from package import module`` the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in KNOWN else str(node.module)


def at_import(tree: ast.Module) -> Iterator[str]:
    """Yield what is imported when the module is, that is outside of functions."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from imports(node)


def room(module: str) -> str:
    return next((one for one in PACKAGES if within(module, (one,))), module)


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in packages)


def test_the_walk_sees_imports_inside_functions() -> None:
    tree = ast.parse("def f():\n    import torch.nn\n    from router import errors\n")
    assert set(imports(tree)) == {"torch.nn", "router.errors"}
    assert not list(at_import(tree))


@pytest.mark.parametrize("name", sorted(ROUTER))
def test_router_imports_go_downwards(name: str) -> None:
    mine = room(name)
    assert mine in LAYERS, f"{name} has no layer yet"
    for target in {room(one) for one in imports(ROUTER[name]) if within(one, ("router",))} - {mine}:
        assert LAYERS[target] < LAYERS[mine] or (mine, target) in SIDEWAYS, f"{name} may not import {target}"


def test_every_edge_of_the_table_is_still_used() -> None:
    used = {(name, target) for name, tree in ROUTER.items() for target in imports(tree)}
    assert used >= SIDEWAYS


@pytest.mark.parametrize("name", sorted(ROUTER))
def test_router_never_needs_the_offline_half(name: str) -> None:
    found = at_import(ROUTER[name]) if name in COMMAND_LINES else imports(ROUTER[name])
    assert not [one for one in found if within(one, OFFLINE)]
    if name in COMMAND_LINES:
        heavy = [one for one in imports(ROUTER[name]) if within(one, OFFLINE) and not within(one, ("training",))]
        assert not heavy, "the command line reaches offline libraries through training only"


@pytest.mark.parametrize("name", sorted(TRAINING))
def test_training_leaves_the_service_and_pytorch_alone(name: str) -> None:
    found = set(imports(TRAINING[name]))
    assert not [one for one in found if within(one, ("router.service", "router.cli"))]
    if name not in MAY_MAKE_ENCODERS:
        assert not [one for one in found if within(one, ENCODER_MAKERS)]


def test_a_fresh_interpreter_loads_nothing_offline() -> None:
    online = [name for name in ROUTER if not name.endswith("__main__")]
    code = (
        "import importlib, json, sys\n"
        f"for name in {online!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"router", "numkong", "onnxruntime", "tokenizers"} <= loaded
    assert not loaded & {*OFFLINE, *ENCODER_MAKERS, "pyarrow", "scipy"}


def test_the_client_can_be_copied_alone() -> None:
    needed = set(imports(ROUTER["router.client"])) - {"router.errors"}
    assert {name.partition(".")[0] for name in needed} <= set(sys.stdlib_module_names)


def test_a_fresh_interpreter_loads_the_client_alone() -> None:
    code = "import json, sys, router.client\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "numpy" not in loaded
    assert {name for name in loaded if within(name, ("router",))} == {"router", "router.client", "router.errors"}


def test_training_says_which_extra_it_misses() -> None:
    """With a library of the extra missing, importing training is one line that names the extra."""
    code = (
        "import sys\n"
        "sys.modules['pandas'] = None\n"
        "from router.errors import ConfigError\n"
        "try:\n    import training\n"
        "except ConfigError as exc:\n    print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pandas" in done.stdout and "whichmodel[train]" in done.stdout


def violations(tree: ast.AST) -> list[str]:
    """Return what style and safety forbid in the sources of both halves."""
    found = []
    for node in ast.walk(tree):
        at = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Assert):
            found.append(f"{at}: assert")
        elif isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(one is None or ast.unparse(one) in ("Exception", "BaseException") for one in caught):
                found.append(f"{at}: broad except")
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in ("yaml.load", "yaml.unsafe_load", "torch.load", "eval", "exec"):
                found.append(f"{at}: {ast.unparse(node.func)}")
            if any(one.arg == "allow_pickle" and ast.unparse(one.value) != "False" for one in node.keywords):
                found.append(f"{at}: allow_pickle")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if any(within(one, ("pickle", "joblib", "dill", "shelve", "marshal")) for one in names):
                found.append(f"{at}: pickle")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "assert x",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept (ValueError, Exception):\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f)",
        "torch.load(f)",
        "import pickle",
        "from joblib import load",
    ],
)
def test_violations_are_seen(source: str) -> None:
    assert len(violations(ast.parse(source))) == 1


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_sources_hold_no_violation(name: str) -> None:
    assert violations({**ROUTER, **TRAINING}[name]) == []

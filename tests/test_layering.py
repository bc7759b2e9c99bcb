"""The layers of docs/design.md, read from the imports; and proof that each rule can fail."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "keyhole"

# From the bottom up; names on one line are neighbours and do not import each other, and nor do
# the modules of one folder, except for those that the folder shares (SHARED).
LAYERS = (
    ("errors", "secret", "eager", "outbox"),
    ("catalog",),
    ("wire",),
    ("dialects",),
    ("backends", "policy"),
    ("ports",),
    ("relay", "accounts"),
    ("asking",),
    ("exchange", "config", "io"),
    ("ledger",),
    ("server", "engine"),
    ("listening", "supervisor", "greeting", "pull", "prices"),
    ("bookkeeping",),
    ("main",),
    ("worker", "survey", "clerk"),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Modules that their neighbours in the same folder may import.
SHARED = {
    "dialects.base",
    "dialects.hf_body",
    "dialects.hf_parameters",
    "dialects.hf_replies",
    "dialects.tgi",
    "dialects.tgi_stream",
    "backends.base",
    "backends.chat",
    "backends.fanout",
    "backends.faults",
    "backends.originals",
    "backends.words",
    "policy.limits",
    "policy.pricing",
}
# Folders whose modules build on each other, in an order that their __init__ states.
ORDERED = {"wire", "config", "engine", "io", "ledger", "server", "cli"}
# Promised names that others open: they call up to the composition root when they are called.
OPENED_BY_OTHERS = {("server.app", "main"), ("server.flask", "main")}

PURE = {"wire", "dialects", "backends", "policy", "catalog", "errors", "secret"}
IMPURE = {
    *("asyncio", "socket", "time", "random", "os", "logging", "threading", "subprocess"),
    *("ssl", "httptools", "uvicorn", "flask", "sqlalchemy", "sqlite3", "numpy"),
}
WORKER_NEVER_LOADS = (
    *("numpy", "sqlalchemy", "tokenizers", "huggingface_hub", "rich"),
    *("pydantic", "genai_prices"),
)


def module_name(path: Path) -> str:
    """`dialects.tgi` for dialects/tgi.py; `dialects` for its __init__.py."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "keyhole"


def imports(code: str) -> Iterator[str]:
    """Every module that the code imports, anywhere in it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which layer is meant"
            yield node.module or ""
            if node.module in {"keyhole", *(f"keyhole.{name}" for name in RANK)}:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(module: str, code: str) -> list[str]:
    """What the code of a module imports and may not."""
    found = []
    package = module.partition(".")[0]
    for name in imports(code):
        if package in PURE and name.partition(".")[0] in IMPURE:
            found.append(f"{module} is pure and imports {name}")
        if not name.startswith("keyhole."):
            continue
        target = name.removeprefix("keyhole.")
        if is_refused(module, target):
            found.append(f"{module} imports {target}")
    return found


def is_refused(module: str, target: str) -> bool:
    package, target_package = module.partition(".")[0], target.partition(".")[0]
    if target_package not in RANK or module == "keyhole":
        return False
    if (module, target_package) in OPENED_BY_OTHERS:
        return False
    if package != target_package:
        return RANK[target_package] >= RANK[package]
    place = SOURCE / target.replace(".", "/")
    is_module = "." in target and (place.with_suffix(".py").exists() or place.is_dir())
    is_own = module.split(".")[:2] == target.split(".")[:2]  # a dialect that is a folder
    return is_module and package not in ORDERED and target not in SHARED and not is_own


def test_every_module_has_a_layer() -> None:
    """A new module or folder must be given its place."""
    names = {module_name(path).partition(".")[0] for path in SOURCE.rglob("*.py")}
    assert names - {"keyhole"} == set(RANK)


def test_no_module_imports_upwards_or_sideways() -> None:
    """Packages import downward only, and the pure ones import nothing that acts."""
    found = [
        violation
        for path in sorted(SOURCE.rglob("*.py"))
        for violation in violations(module_name(path), path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("wire.call", "import asyncio"),
        ("policy.routing", "def f():\n    import time"),
        ("dialects.generate", "from keyhole.exchange import Gateway"),
        ("dialects.generate", "from keyhole.dialects.openai import x"),
        ("dialects.generate", "from keyhole.dialects import openai"),
        ("dialects.generate", "from keyhole.dialects.openai.upstream import x"),
        ("dialects.openai.upstream", "from keyhole.dialects.huggingface import x"),
        ("backends.tgi", "from keyhole.backends.openai import OpenAi"),
        ("backends.tgi", "from keyhole.policy.routing import plan"),
        ("engine.app", "from keyhole.server.app import AsgiDoor"),
        ("io.transport", "from keyhole import config"),
        ("server.app", "from keyhole.supervisor import supervise"),
        ("exchange", "from keyhole.main import open_runtime"),
    ],
)
def test_a_bad_import_is_found(module: str, code: str) -> None:
    """Each rule refuses a sample that breaks it."""
    assert violations(module, code)


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("exchange", "import asyncio"),
        ("backends.tgi", "from keyhole.backends.base import Backend"),
        ("backends.tgi", "from keyhole.dialects.tgi import encode_request"),
        ("dialects.openai.upstream", "from keyhole.dialects.openai import CHAT"),
        ("server.flask", "from keyhole import main"),
        ("cli", "from keyhole.main import open_runtime"),
    ],
)
def test_a_good_import_passes(module: str, code: str) -> None:
    """The rules do not refuse what the design allows."""
    assert violations(module, code) == []


def test_import_cycles_do_not_exist() -> None:
    """Within the folders whose modules build on each other, too."""
    graph = {
        module_name(path): {
            name.removeprefix("keyhole.")
            for name in imports(path.read_text())
            if name.startswith("keyhole.")
        }
        for path in SOURCE.rglob("*.py")
    }
    for opened, target in OPENED_BY_OTHERS:
        graph[opened] -= {name for name in graph[opened] if name.partition(".")[0] == target}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"import cycle: {' -> '.join((*above, module))}"
        if module not in done:
            for target in graph.get(module, set()):
                visit(target, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_importing_any_module_does_nothing() -> None:
    """Each module imports alone: no output, no thread, no file opened for writing."""
    modules = sorted(module_name(path) for path in SOURCE.rglob("*.py"))
    names = [name if name == "keyhole" else f"keyhole.{name}" for name in modules]
    code = (
        "import importlib, sys, threading\n"
        "def watch(event, args):\n"
        "    writes = event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+')\n"
        "    if writes and '__pycache__' not in str(args[0]):\n"
        "        raise SystemExit(f'{event} {args}')\n"
        "    if event in ('socket.bind', 'socket.connect', 'subprocess.Popen'):\n"
        "        raise SystemExit(f'{event} {args}')\n"
        "sys.addaudithook(watch)\n"
        f"for name in {[n for n in names if not n.endswith('__main__')]!r}:\n"
        "    importlib.import_module(name)\n"
        "assert threading.active_count() == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_worker_stays_small() -> None:
    """The process that serves loads neither numbers nor databases nor the command line."""
    code = (
        "import sys, keyhole.worker\n"
        f"print([name for name in {WORKER_NEVER_LOADS!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

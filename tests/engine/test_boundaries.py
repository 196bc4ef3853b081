"""Who may import whom: the engine no page, the page no tensor; and engine modules import on a bare GPU machine."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.paths import ROOT

PAGE_PACKAGES = {"streamlit", "plotly"}
TENSOR_PACKAGES = {"torch", "torchvision", "captum"}
TORCH_FREE = (
    "engine.spec",
    "engine.registry",
    "engine.paths",
    "engine.demos",
    "engine.runs",
    "engine.explain.methods",
    "engine.pruning.cut",
    "engine.retune_ways",
    "engine.signatures",
    "engine.intake.reader",
    "engine.intake.uploads",
    "engine.intake.desk",
)
"""What app/ may import of the engine; packages with everything in them."""


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere, also inside functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            # "from engine.pruning import cut" imports engine.pruning.cut as much as "import engine.pruning.cut" does.
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inside if is_module(name)]
            found |= set(modules) if len(modules) == len(inside) else {node.module, *modules}
    return found


def is_module(name: str) -> bool:
    base = ROOT.joinpath(*name.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def loaded_after(statements: str) -> set[str]:
    """Top-level packages in ``sys.modules`` after ``statements`` in a fresh interpreter."""
    code = f"import json, sys\n{statements}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("path", sources("engine"), ids=module_name)
def test_no_engine_file_names_a_page_package(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(path)} & (PAGE_PACKAGES | {"app", "tests"})


def test_every_engine_module_imports_where_streamlit_plotly_and_captum_are_missing() -> None:
    names = [module_name(path) for path in sources("engine") if path.stem != "__main__"]
    assert len(names) > 15
    missing = "\n".join(
        [
            "class Missing:",
            "    def find_spec(self, name, path=None, target=None):",
            "        if name.partition('.')[0] in ('streamlit', 'plotly', 'captum'):",
            "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)",
            "sys.meta_path.insert(0, Missing())",
        ]
    )
    loaded = loaded_after(missing + "\nimport " + ", ".join(names))
    assert "torch" in loaded
    assert not loaded & (PAGE_PACKAGES | {"captum"})


def test_importing_the_engine_reads_no_argument_and_prints_nothing() -> None:
    names = [module_name(path) for path in sources("engine") if path.stem != "__main__"]
    code = "import " + ", ".join(names)
    done = subprocess.run(
        [sys.executable, "-c", code, "--nonsense"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", sources("app"), ids=module_name)
def test_no_app_file_imports_tensors(path: Path) -> None:
    named = imports(path)
    assert not {name.partition(".")[0] for name in named} & TENSOR_PACKAGES
    for name in named:
        if name.partition(".")[0] == "engine":
            free = any(name == module or name.startswith(f"{module}.") for module in TORCH_FREE)
            assert free, f"{name} is not one of the torch-free engine modules"


def test_what_the_app_imports_of_the_engine_loads_no_torch() -> None:
    used = {name for path in sources("app") for name in imports(path) if name.partition(".")[0] == "engine"}
    assert not loaded_after("\n".join(f"import {name}" for name in sorted(used))) & TENSOR_PACKAGES


def test_app_modules_load_no_torch() -> None:
    """All but the screens and the entry, which only run inside a page."""
    names = [module_name(path) for path in sources("app") if "views" not in path.parts and path.stem != "main"]
    assert names
    assert not loaded_after("\n".join(f"import {name}" for name in names)) & TENSOR_PACKAGES


#: What differs between operating systems or asks who a process is. ``os.getpid`` and ``os.replace`` are everywhere.
SYSTEM_MODULES = {
    "_posixsubprocess", "_winapi", "ctypes", "fcntl", "grp", "msvcrt", "multiprocessing", "posix", "psutil", "pty",
    "pwd", "resource", "signal", "subprocess", "termios", "winreg",
}  # fmt: skip
SYSTEM_CALLS = re.compile(
    r"kill(pg)?|fork(pty)?|set(sid|pgid|pgrp|uid|gid|e[ug]id|re[ug]id|res[ug]id|priority|ns)|get(sid|pgid|pgrp|ppid|uid|gid|"
    r"euid|egid|login|priority)|nice|wait(pid|id|3|4)?|exec[lv]p?e?|spawn[lv]p?e?|posix_spawnp?|popen|system|umask|abort|"
    r"unshare|chroot|pidfd_open|sched_\w+|register_at_fork|tc[gs]etpgrp|chown|mkfifo|startfile"
)
ONE_MODULE = "engine.runs.process"


def system_calls(source: str) -> set[str]:
    """Modules and functions of the operating system that a source names, however they are imported."""
    tree, found = ast.parse(source), set()
    names = {"os"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] in SYSTEM_MODULES}
            names |= {alias.asname for alias in node.names if alias.name == "os" and alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            top = node.module.partition(".")[0]
            if top in SYSTEM_MODULES:
                found.add(node.module)
            elif top == "os":
                found |= {f"os.{alias.name}" for alias in node.names if SYSTEM_CALLS.fullmatch(alias.name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            if SYSTEM_CALLS.fullmatch(node.attr):
                found.add(f"os.{node.attr}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/proc/"):
            found.add("/proc")
        elif isinstance(node, ast.keyword) and node.arg in ("preexec_fn", "start_new_session", "creationflags"):
            found.add(node.arg)
    return found


@pytest.mark.parametrize("path", [*sources("engine"), *sources("app")], ids=module_name)
def test_operating_system_calls_live_in_one_module(path: Path) -> None:
    if module_name(path) == ONE_MODULE:
        assert system_calls(path.read_text()) >= {"os.kill", "os.killpg", "signal", "subprocess", "/proc"}
    else:
        assert system_calls(path.read_text()) == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os\nos.kill(1, 0)", {"os.kill"}),
        ("import os as system\nsystem.setsid()", {"os.setsid"}),
        ("from os import getppid", {"os.getppid"}),
        ("def f():\n    import resource\n    resource.setrlimit(0, (1, 1))", {"resource"}),
        ("from signal import SIGTERM", {"signal"}),
        ("import multiprocessing.pool", {"multiprocessing.pool"}),
        ("run(x, preexec_fn=None)", {"preexec_fn"}),
        ("open(f'/proc/{1}/stat')", {"/proc"}),
        ("import os\nos.getpid(), os.replace('a', 'b'), os.fsync(1)", set()),
    ],
)
def test_the_search_for_operating_system_calls_finds_them(source: str, found: set[str]) -> None:
    assert system_calls(source) == found


def test_the_torch_free_modules_exist() -> None:
    for name in TORCH_FREE:
        assert is_module(name), name

"""Who may import whom, read from the sources; and what `import cascade_rt` costs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import cascade_rt

PACKAGE = Path(cascade_rt.__file__).parent

#: From the bottom to the top. A module imports modules of lower layers, and of its own layer those to its left.
LAYERS = (
    ("base", "errors chunks events network"),
    (
        "numeric core",
        "_kernels noise frame_faults neuron_faults decay quality baseline resample smoothing threshold gaps "
        "discretization simulation",
    ),
    ("models", "lazy graph published bundle catalogue checks live_graph stepper window_stepper engine"),
    (
        "composition",
        "dask_arrays stream offline suitability explanations recommendation latency ports receiving runstats "
        "publishing rows admission runner",
    ),
    ("files", "formats session results"),
    (
        "edges",
        "progress wirevalues codec triggers endpoints monitor registry plots report inference batch liveview testing "
        "benchmarks rehearsal rig loopback loopback_report recorded comparison rerun demo health",
    ),
    ("command line", "commands cli __main__"),
)
PLACE = {name: (level, number) for level, (_, names) in enumerate(LAYERS) for number, name in enumerate(names.split())}
CORE = LAYERS[1][1].split()
HEAVY = ("tensorflow", "keras", "tf2onnx", "onnxruntime", "onnx", "zmq", "numba", "scipy", "matplotlib", "h5py", "rich")


@dataclass(frozen=True)
class Import:
    """One import statement: the file, and the absolute dotted name it imports."""

    path: Path
    line: int
    module: str
    typing_only: bool

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(PACKAGE)}:{self.line}"


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "exported_models" not in path.parts)


def top_name(path: Path) -> str:
    """Name in the layering table: the module, or the subpackage it lies in."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing_only.update(id(inner) for child in node.body for inner in ast.walk(child))
    package = ["cascade_rt", *path.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import codec` and `from cascade_rt import codec` import modules.
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "cascade_rt" else [module]
        else:
            continue
        found += [Import(path, node.lineno, name, id(node) in typing_only) for name in names]
    return found


ALL = [found for path in sources() for found in imports_of(path)]


def test_every_module_has_its_place_in_the_table() -> None:
    unknown = {top_name(path) for path in sources()} - set(PLACE) - {"__init__"}
    assert not unknown, f"put {sorted(unknown)} into LAYERS, at the lowest place that its imports allow"


def test_imports_go_downwards() -> None:
    upward = []
    for found in ALL:
        parts = found.module.split(".")
        importer = top_name(found.path)
        if parts[0] != "cascade_rt" or importer == "__init__":
            continue
        imported = parts[1] if len(parts) > 1 else "__init__"
        if imported == "__version__":
            continue
        if imported not in PLACE:  # a public name, from the lazy front
            if importer not in ("cli", "commands", "__main__", "demo", "benchmarks"):
                upward.append(f"{found.place}: imports the package's front ({found.module})")
            continue
        if imported == importer:
            continue
        here, there = PLACE[importer], PLACE[imported]
        if there > here and not (found.typing_only and there[0] == here[0]):
            upward.append(f"{found.place}: {importer} imports {imported}, which lies above it")
    assert not upward, "\n".join(upward)


def importers(*modules: str) -> set[str]:
    return {str(found.path.relative_to(PACKAGE)) for found in ALL if found.module.split(".")[0] in modules}


def test_only_the_engine_knows_onnxruntime() -> None:
    assert importers("onnxruntime") == {"engine.py"}


def test_the_runtime_does_not_know_the_training() -> None:
    assert importers("tensorflow", "keras", "tf2onnx", "training") == set()


def test_no_pickle() -> None:
    # The loader of NumPy's object arrays builds plain containers and arrays, and refuses all else.
    assert importers("pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal") == {"formats/restricted.py"}
    allowed = [
        f"{path.name}:{node.lineno}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    ]
    assert not allowed


def test_the_numeric_core_has_no_files_sockets_clocks_threads_logging() -> None:
    outside = {
        "os",
        "pathlib",
        "io",
        "socket",
        "time",
        "threading",
        "multiprocessing",
        "logging",
        "zmq",
        "h5py",
        "queue",
    }
    seen = [
        f"{found.place}: {found.module}"
        for found in ALL
        if top_name(found.path) in CORE and found.module.split(".")[0] in outside and not found.typing_only
    ]
    assert not seen, seen


def test_only_the_command_line_prints() -> None:
    printing = {
        str(path.relative_to(PACKAGE))
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert {path for path in printing if path != "cli.py" and not path.startswith("commands")} == set()


def test_modules_stay_readable() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.glob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > 500} == {}


def test_no_module_hides_a_public_name() -> None:
    """Python puts an imported submodule into its package under its own name, which a function there must not have."""
    assert not set(cascade_rt.__all__) & {top_name(path) for path in sources()}


def test_at_most_twelve_public_names() -> None:
    assert 0 < len(cascade_rt.__all__) <= 12
    for name in cascade_rt.__all__:
        assert getattr(cascade_rt, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = cascade_rt.nothing


def in_fresh_process(code: str, cwd: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("statement", ["import cascade_rt", "from cascade_rt.cli import build_parser; build_parser()"])
def test_starting_is_fast_and_light(tmp_path: Path, statement: str) -> None:
    code = (
        "import json, sys, time; started = time.perf_counter(); "
        f"{statement}; took = time.perf_counter() - started; "
        f"print(json.dumps({{'took': took, 'heavy': [name for name in {HEAVY} if name in sys.modules]}}))"
    )
    runs = [in_fresh_process(code, tmp_path) for _ in range(3)]
    assert runs[0]["heavy"] == []
    assert min(float(str(run["took"])) for run in runs) < 0.5

"""What starting costs: `import cascade_rt` and the command line's help, each in fresh processes.

Bounds: each under 0.5 s (the fastest of some tries), with none of the heavy libraries loaded.
"""

from __future__ import annotations

import json
import subprocess
import sys

from _common import Checks, parse

HEAVY = ("tensorflow", "keras", "onnxruntime", "onnx", "zmq", "numba", "scipy", "matplotlib", "h5py")
STATEMENTS = {
    "import cascade_rt": "import cascade_rt",
    "command line": "from cascade_rt.cli import build_parser; build_parser()",
}


def start(statement: str) -> tuple[float, list[str]]:
    code = (
        f"import json, sys, time; started = time.perf_counter(); {statement}; took = time.perf_counter() - started; "
        f"print(json.dumps([took, [name for name in {HEAVY} if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, heavy = json.loads(done.stdout)
    return took, heavy


def main() -> None:
    args = parse(__doc__)
    checks = Checks(args)
    answers = {}
    for name, statement in STATEMENTS.items():
        runs = [start(statement) for _ in range(2 if args.smoke else 10)]
        answers[name] = {"seconds": [round(took, 4) for took, _ in runs], "heavy": runs[0][1]}
        checks.at_most(f"{name} (s)", round(min(took for took, _ in runs), 4), 0.5)
        checks.at_most(f"{name}, heavy libraries loaded", len(runs[0][1]), 0)
    checks.finish("import", runs=answers)


if __name__ == "__main__":
    main()

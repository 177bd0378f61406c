"""What the benchmarks share: options, models to run, the JSON answer and the exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade_rt.benchmarks import machine
from cascade_rt.bundle import find_bundle, import_cascade, list_models, write_bundle
from cascade_rt.chunks import ModelSpec
from cascade_rt.network import Layer, Network

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = "Global_EXC_30Hz_smoothing50ms_causalkernel"
CONDITIONED = "GCaMP8_EXC_30Hz_smoothing25ms"


def parse(description: str | None, *more: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """Read the options that all benchmarks have, and ``more`` of them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, no bounds: does it run at all?")
    parser.add_argument("--threads", type=int, default=None, help="threads (default: all cores)")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(os.environ.get("CASCADE_RT_SHARED", ROOT.parent / "shared")),
        help="folder with the reference recordings and published models",
    )
    for name, options in more:
        parser.add_argument(name, **options)
    return parser.parse_args()


class Checks:
    """Collects stated bounds and whether they hold; in a smoke run they are told but not required."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.results: list[dict[str, Any]] = []

    def at_most(self, what: str, value: float, bound: float) -> None:
        self._add(what, value, "<=", bound, value <= bound)

    def at_least(self, what: str, value: float, bound: float) -> None:
        self._add(what, value, ">=", bound, value >= bound)

    def _add(self, what: str, value: float, relation: str, bound: float, holds: bool) -> None:
        self.results.append({"what": what, "value": value, "bound": f"{relation} {bound:g}", "holds": bool(holds)})

    def finish(self, name: str, **answer: Any) -> None:
        """Print the JSON; exit with 1 if a bound fails."""
        failed = [check for check in self.results if not check["holds"]]
        whole = {"benchmark": name, "smoke": self._args.smoke, "checks": self.results, **answer, "machine": machine()}
        text = json.dumps(whole, indent=1, ensure_ascii=False)
        print(text)
        if self._args.out is not None:
            self._args.out.write_text(text + "\n", encoding="utf-8")
        for check in failed if not self._args.smoke else ():
            print(f"FAILED {check['what']}: {check['value']:g}, expected {check['bound']}", file=sys.stderr)
        sys.exit(1 if failed and not self._args.smoke else 0)


@contextmanager
def published_ensemble(args: argparse.Namespace) -> Iterator[Path]:
    """Yield the bundle of a published model; without the reference data one of random weights of its shape."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.shared / "cascade_models" / PUBLISHED
        target = Path(temporary) / PUBLISHED
        yield import_cascade(folder, target) if folder.is_dir() else random_ensemble(target)


def random_ensemble(target: Path, members: int = 5) -> Path:
    """Write a bundle of CASCADE's shape with random weights: as fast as a published one."""
    random = np.random.default_rng(0)

    def layer(taps: int, inputs: int, outputs: int, **rest: Any) -> Layer:
        kernel = random.standard_normal((members, taps, inputs, outputs)) / np.sqrt(taps * inputs)
        return Layer(kernel=kernel.astype(np.float32), bias=np.zeros((members, outputs), np.float32), **rest)

    network = Network(
        layers=(
            layer(32, 1, 30),
            layer(19, 30, 40, pool=1),
            layer(5, 40, 50, dilation=2, pool=2),
            layer(1, 50, 10, dilation=4),
            layer(1, 10, 1, dilation=4, relu=False),
        )
    )
    levels = (2.0, 3.0, 4.0)
    spec = ModelSpec(
        name=target.name,
        family="binned",
        frame_rate_hz=30.0,
        windowsize=network.receptive_field,
        lookaheads=(network.receptive_field // 2 - 1,),
        smoothing_s=0.05,
        causal_kernel=True,
        noise_levels=levels,
        ensemble_size=members,
        before_frac=0.5,
    )
    return write_bundle(target, spec, dict.fromkeys(levels, network), card="random weights\n", config={})


def conditioned_bundle() -> Path:
    """Folder of the shipped model, or of any installed one if it is not there."""
    names = list_models()
    return find_bundle(CONDITIONED if CONDITIONED in names else names[0])


def read_mat(path: Path) -> np.ndarray:
    """Read the recording of a reference .mat file, (n_neurons, n_frames)."""
    from scipy.io import loadmat

    return np.ascontiguousarray(loadmat(path)["dF_traces"], dtype=np.float32)

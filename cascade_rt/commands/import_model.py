"""``cascade-rt import``: make a published CASCADE model usable, from a folder or from the internet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import add_json, add_overwrite, check_free, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

_DESCRIPTION = """\
Turns a published CASCADE model (config.yaml and Model_NoiseLevel_*_Ensemble_*.h5) into a bundle that
cascade_rt runs. TensorFlow is not needed. The bundle goes to your model folder, where its name is enough
to use it, unless --out says otherwise."""

_EXAMPLES = """\
examples:
  cascade-rt import Pretrained_models/Global_EXC_30Hz_smoothing50ms_causalkernel
  cascade-rt import --download GC8_EXC_30Hz_smoothing25ms_high_noise
  cascade-rt import --download Global_EXC_30Hz_smoothing50ms --mirror /data/cascade_zips"""


def add_parser(subparsers: Any) -> None:
    """Add the command ``import``."""
    parser = subparsers.add_parser(
        "import",
        help="import a published CASCADE model, from a folder or by download",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="folder of a published CASCADE model")
    parser.add_argument("--download", metavar="NAME", help="fetch this model from the published registry")
    parser.add_argument("--registry", metavar="FILE|URL", help="registry to use instead of CASCADE's own")
    parser.add_argument("--mirror", metavar="FOLDER|URL", help="take NAME.zip from here instead of the registry's link")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the bundle goes (default: your model folder)")
    parser.add_argument("--name", help="name of the model here (default: its published name)")
    add_overwrite(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Import one model."""
    from cascade_rt.bundle import import_cascade, read_spec, user_model_folder

    if (args.folder is None) == (args.download is None):
        args.parser.error("give either a FOLDER or --download NAME")
    if args.download is None and (args.registry or args.mirror):
        args.parser.error("--registry and --mirror go with --download")
    if args.registry and args.mirror:
        args.parser.error("give either --registry or --mirror")
    published = args.folder.resolve().name if args.download is None else args.download
    out = args.out or user_model_folder() / (args.name or published)
    check_free([out], overwrite=args.overwrite)
    if args.download is None:
        folder = import_cascade(args.folder, out, name=args.name or published, overwrite=args.overwrite)
    else:
        for source in _downloaded(args, out.parent):
            folder = import_cascade(source, out, name=args.name or published, overwrite=args.overwrite)
    spec = read_spec(folder)
    if args.json:
        print_json({"folder": str(folder), **spec.to_dict()})
        return 0
    use = spec.name if args.out is None else str(folder)
    print(f"imported {spec.name} into {folder}")
    print(
        f"  {spec.frame_rate_hz:g} Hz, smoothing {1000 * spec.smoothing_s:g} ms, "
        f"{'causal' if spec.causal_kernel else 'symmetric'} kernel, look-ahead {spec.lookaheads[0]} frames, "
        f"noise levels {spec.noise_range[0]:g} to {spec.noise_range[1]:g}, {spec.ensemble_size} networks each"
    )
    print(f"use it: cascade-rt predict RECORDING --model {use} --frame-rate {spec.frame_rate_hz:g}")
    return 0


def _downloaded(args: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """Yield the unpacked published folder; it is gone afterwards."""
    import tempfile

    from cascade_rt.progress import progress
    from cascade_rt.registry import REGISTRY_URL, fetch_model

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-") as temporary:
        with progress(f"downloading {args.download}") as report:
            source = fetch_model(
                args.download,
                Path(temporary),
                registry=args.registry or REGISTRY_URL,
                mirror=args.mirror,
                report=report,
            )
        yield source

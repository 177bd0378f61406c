"""Score loaded models on ground truth, and others beside them on the same traces with the same noise."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.bundle import find_bundle, import_cascade
from cascade_rt.catalogue import fits_frame_rate
from cascade_rt.errors import ModelNotFoundError, TrainingError

from .evaluate import Kernel, engine_predictor, score
from .ground_truth import dataset_folders, find_dataset, read_datasets, resample
from .noised import NOISE_LEVELS, NoisedTraces
from .summary import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cascade_rt.chunks import ModelSpec

    from .evaluate import Score
    from .ground_truth import Recording

    #: Called with the share done and what is being scored.
    Show = Callable[[float, str], None]

__all__ = ["bundle_tables", "check_rates", "learnt_from", "load_any", "noised_traces", "rival_tables", "score_model"]


def load_any(source: str, *, published: Path | None = None) -> Any:
    """Load a model for scoring.

    Parameters
    ----------
    source : str
        Folder or name of a bundle; folder of published CASCADE weights, or the name of one in ``published``.
    published : Path, optional

    Returns
    -------
    cascade_rt.engine.Model

    Raises
    ------
    TrainingError
        There is no such model; names those there are.
    BundleError
        It is damaged or incomplete.
    """
    from cascade_rt.engine import load_model

    try:
        return load_model(find_bundle(source))
    except ModelNotFoundError as error:
        folders = [Path(source), *([published / source] if published is not None else [])]
        folder = next((f for f in folders if (f / "config.yaml").is_file()), None)
        if folder is None:
            raise TrainingError(f"{error}. Published weights were looked for in {published} (--published)") from error
    with tempfile.TemporaryDirectory() as temporary:
        return load_model(import_cascade(folder, Path(temporary) / "imported"))


def noised_traces(
    recordings: Sequence[Recording], frame_rate_hz: float, windowsize: int, noise_levels: Sequence[float]
) -> NoisedTraces:
    """Bring recordings to a model's frame rate; those shorter than its window (frames) are left out.

    Raises
    ------
    TrainingError
        None is left.
    """
    traces = [resample(r, frame_rate_hz) for r in recordings]
    usable = [t for t in traces if t is not None and t.n_frames >= windowsize]
    if not usable:
        raise TrainingError(
            f"nothing to score on: none of {len(recordings)} recordings has {windowsize} frames at {frame_rate_hz:g} Hz"
        )
    return NoisedTraces(usable, noise_levels=noise_levels)


def rival_tables(
    rivals: Sequence[Any],
    spec: ModelSpec,
    tests: NoisedTraces,
    ground_truth: Path,
    *,
    test: str,
    show: Show | None = None,
) -> list[Table]:
    """Score other models on the traces that a model was scored on.

    Parameters
    ----------
    rivals : sequence of cascade_rt.engine.Model
        Each is scored against true spikes smoothed with its own kernel, and with the model's if that is another.
    spec : ModelSpec
        Of the model.
    tests : NoisedTraces
        At the model's frame rate.
    ground_truth : Path
        Folder that they were read from.
    test : str
        As in the model's :class:`~training.summary.Table`.
    show : callable, optional

    Raises
    ------
    TrainingError
        A rival is for another frame rate.
    """
    check_rates(rivals, spec.name, spec.frame_rate_hz)
    tables = []
    for rival in rivals:
        kernels = list(dict.fromkeys([Kernel.of(rival.spec), Kernel.of(spec)]))
        seen = learnt_from(rival.spec, tests.datasets, ground_truth)
        note = f"; it was trained on {', '.join(seen)}" if seen else ""
        for kernel, table in zip(kernels, score_model(rival, tests, kernels, show), strict=True):
            whose = "its own" if kernel == kernels[0] else "the evaluated model's"
            title = f"{rival.spec.name} on the same neurons, against true spikes smoothed with {whose} {kernel}{note}"
            tables.append(
                Table(
                    title=title,
                    test=test,
                    model=rival.spec.name,
                    lookaheads=rival.spec.lookaheads,
                    scores=table,
                    rival=True,
                )
            )
    return tables


def bundle_tables(
    model: Any,
    ground_truth: Path,
    *,
    datasets: Sequence[str] = (),
    rivals: Sequence[Any] = (),
    noise_levels: Sequence[float] = NOISE_LEVELS,
    show: Show | None = None,
) -> list[Table]:
    """Score a finished model; datasets that it was trained on have a table of their own that says so.

    Parameters
    ----------
    model : cascade_rt.engine.Model
    ground_truth : Path
    datasets : sequence of str
        Names or numbers; every dataset that the model was not trained on if empty.
    rivals : sequence of cascade_rt.engine.Model
    noise_levels : sequence of float
    show : callable, optional

    Raises
    ------
    TrainingError
        There is no dataset to score it on, or a rival is for another frame rate.
    """
    spec = model.spec
    check_rates(rivals, spec.name, spec.frame_rate_hz)
    names = list(dict.fromkeys(find_dataset(ground_truth, name).name for name in datasets)) or list(
        dataset_folders(ground_truth)
    )
    seen = learnt_from(spec, names, ground_truth)
    unseen = [name for name in names if name not in seen]
    if not datasets:
        seen = []
        if not unseen:
            raise TrainingError(
                f"{spec.name} was trained on every dataset in {ground_truth}: name the datasets to score it on "
                "nevertheless with --datasets"
            )
    tables: list[Table] = []
    for test, title, group in (("unseen", _unseen(spec), unseen), ("seen", _SEEN, seen)):
        if not group:
            continue
        recordings, _ = read_datasets(ground_truth, group)
        tests = noised_traces(recordings, spec.frame_rate_hz, spec.windowsize, noise_levels)
        (scores,) = score_model(model, tests, [Kernel.of(spec)], show)
        title = f"{spec.name} on {title}"
        tables.append(Table(title=title, test=test, model=spec.name, lookaheads=spec.lookaheads, scores=scores))
        tables += rival_tables(rivals, spec, tests, ground_truth, test=test, show=show)
    return tables


def score_model(
    model: Any, tests: NoisedTraces, kernels: Sequence[Kernel], show: Show | None = None
) -> list[tuple[Score, ...]]:
    """Score a loaded model against true spikes smoothed with each kernel."""
    spec = model.spec
    progress = None if show is None else lambda done: show(done, f"scoring {spec.name}")
    found = score(tests, engine_predictor(model), lookaheads=spec.lookaheads, kernels=kernels, progress=progress)
    return [tuple(scores) for scores in found]


def learnt_from(spec: ModelSpec, datasets: Sequence[str], ground_truth: Path) -> list[str]:
    """Those of the datasets that a model was trained on, as far as it says.

    The numbers of the public database have shifted over time: a training dataset that the ground truth has not
    under its number is recognised by the rest of its name.
    """
    known = dataset_folders(ground_truth)
    listed = set(spec.training_datasets)
    moved = {_unnumbered(name) for name in listed - known.keys()} - {""}
    return [n for n in datasets if n in listed or n.split("-")[0] in listed or _unnumbered(n) in moved]


def check_rates(rivals: Sequence[Any], name: str, frame_rate_hz: float) -> None:
    """Raise TrainingError unless all rivals are for the frame rate of the model called ``name``."""
    for rival in rivals:
        rate = rival.spec.frame_rate_hz
        if not fits_frame_rate(frame_rate_hz, rate):
            raise TrainingError(
                f"{rival.spec.name} is for {rate:g} Hz and {name} for {frame_rate_hz:g} Hz: models are compared on "
                "the same traces; choose one for the same frame rate"
            )


_SEEN = "datasets that it WAS TRAINED ON, which says nothing about other neurons"


def _unseen(spec: ModelSpec) -> str:
    if not spec.training_datasets:
        return "datasets that it may have been trained on: it does not say on which it was"
    return "datasets that it was not trained on"


def _unnumbered(name: str) -> str:
    return name.partition("-")[2]

"""One training run from its configuration: read, fit, score, export. What the command line calls."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import TrainingError

from . import card
from .evaluate import Score, Scores, engine_predictor, score
from .export import conditioned_spec, export_bundle
from .fit import fit, training_traces
from .ground_truth import read_datasets, resample, split_neurons
from .tables import Table

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from .config import TrainingConfig
    from .fit import Report
    from .ground_truth import Problem, Recording, Trace

__all__ = ["Run"]

logger = logging.getLogger(__name__)

SCORES = "scores.json"


class Run:
    """A configuration, the ground truth, and the folder in which its training is kept.

    Parameters
    ----------
    config : TrainingConfig
    ground_truth : Path
        Folder of the datasets.
    folder : Path
        For checkpoints and scores.
    published : Path or None
        Folder of published CASCADE models, for ``config.reference``.
    """

    def __init__(
        self, config: TrainingConfig, *, ground_truth: Path, folder: Path, published: Path | None = None
    ) -> None:
        self.config, self.ground_truth, self.folder, self.published = config, ground_truth, folder, published
        self._recordings: list[Recording] | None = None
        self.problems: list[Problem] = []

    @property
    def recordings(self) -> list[Recording]:
        """Recordings of the training datasets."""
        if self._recordings is None:
            self._recordings, self.problems = read_datasets(self.ground_truth, self.config.datasets)
        return self._recordings

    def folds(self) -> list[set[tuple[str, str]]]:
        """Neurons left out of each fold of the cross-validation; empty if the configuration has none."""
        return split_neurons(self.recordings, self.config.folds, 0) if self.config.folds else []

    def fit(
        self, *, leave_out: Collection[tuple[str, str]] = (), part: str = "all", progress: Report | None = None
    ) -> Any:
        """Train, go on training, or load the finished network.

        Parameters
        ----------
        leave_out : collection of (dataset, neuron)
        part : str
            Subfolder: "all", or a fold.
        progress : callable, optional

        Returns
        -------
        keras.Model
        """
        traces = training_traces(self.recordings, self.config, leave_out=leave_out)
        return fit(traces, self.config, self.folder / part, progress=progress)

    def evaluate(self, *, progress: Report | None = None) -> list[Table]:
        """Score by cross-validation, on the test datasets, and the published reference beside it.

        Writes the scores of every neuron to ``scores.json`` in the run's folder.
        """
        config = self.config
        tables: list[Table] = []
        held_out: list[Score] = []
        for number, left in enumerate(self.folds()):
            model = self._engine(self.fit(leave_out=left, part=f"fold{number}", progress=progress))
            recordings = [r for r in self.recordings if (r.dataset, r.neuron) in left]
            held_out += self._score(self._traces(recordings), model)
        lookaheads = config.network.lookahead_frames
        if held_out:
            title = f"{config.folds}-fold cross-validation over neurons of the training datasets"
            tables.append(Table(title=title, lookaheads=lookaheads, scores=tuple(held_out)))
        if config.test_datasets:
            recordings, problems = read_datasets(self.ground_truth, config.test_datasets)
            self.problems += problems
            traces = self._traces(recordings)
            model = self._engine(self.fit(progress=progress))
            tables.append(
                Table(
                    title="Datasets that the model was not trained on",
                    lookaheads=lookaheads,
                    scores=tuple(self._score(traces, model)),
                )
            )
            if config.reference:
                tables += self._reference(traces)
        values = [
            {
                "title": t.title,
                "lookaheads": t.lookaheads,
                "scores": [asdict(s) | {"scores": s.scores} for s in t.scores],
            }
            for t in tables
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"digest": config.digest(), "tables": values})
        (self.folder / SCORES).write_text(text, encoding="utf-8")
        return tables

    def tables(self) -> list[Table]:
        """Scores that :meth:`evaluate` wrote; empty if it has not run.

        Raises
        ------
        TrainingError
            They belong to another configuration.
        """
        path = self.folder / SCORES
        if not path.exists():
            return []
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["digest"] != self.config.digest():
            raise TrainingError(f"{path} belongs to another configuration: run 'python -m training evaluate' again")
        return [
            Table(
                title=t["title"],
                lookaheads=tuple(t["lookaheads"]),
                scores=tuple(Score(**{**s, "scores": Scores(*s["scores"])}) for s in t["scores"]),
            )
            for t in values["tables"]
        ]

    def export(self, target: Path, *, overwrite: bool = False, progress: Report | None = None) -> tuple[Path, float]:
        """Write the bundle with its card; returns its folder and the largest difference to Keras."""
        model = self.fit(progress=progress)
        tables = self.tables()
        if not tables:
            logger.warning(
                "%s has no scores: run 'python -m training evaluate' first for a full card", self.config.name
            )
        text = card.card(self.config, tables, self.recordings)
        return self._export(model, target, text=text, overwrite=overwrite)

    # ── parts ──

    def _traces(self, recordings: Sequence[Recording]) -> list[Trace]:
        traces = (resample(r, self.config.frame_rate_hz) for r in recordings)
        return [t for t in traces if t is not None and t.n_frames >= self.config.network.receptive_field]

    def _score(self, traces: Sequence[Trace], model: Any, *, kernel: Any = None) -> list[Score]:
        spec = kernel or model.spec
        return score(
            traces,
            engine_predictor(model),
            lookaheads=model.spec.lookaheads,
            smoothing_s=spec.smoothing_s,
            causal_kernel=spec.causal_kernel,
        )

    def _export(self, model: Any, target: Path, *, text: str, overwrite: bool) -> tuple[Path, float]:
        config = self.config
        spec = conditioned_spec(
            config.name,
            config.network,
            frame_rate_hz=config.frame_rate_hz,
            smoothing_s=config.smoothing_s,
            causal_kernel=config.causal_kernel,
            training_datasets=config.datasets,
            model=model,
        )
        entries = card.bundle_config(config)
        return export_bundle(
            target, {None: [model]}, config.network, spec, card=text, config=entries, overwrite=overwrite
        )

    def _engine(self, model: Any) -> Any:
        """Load a Keras model the way users will run it: through a bundle."""
        from cascade_rt.engine import load_model

        with tempfile.TemporaryDirectory() as folder:
            path, _ = self._export(model, Path(folder) / self.config.name, text="", overwrite=False)
            return load_model(path)

    def _reference(self, traces: Sequence[Trace]) -> list[Table]:
        from cascade_rt.bundle import import_cascade
        from cascade_rt.engine import load_model

        source = (self.published or Path()) / self.config.reference
        if not source.is_dir():
            raise TrainingError(f"no published model {self.config.reference} in {self.published}; give --published")
        with tempfile.TemporaryDirectory() as folder:
            model = load_model(import_cascade(source, Path(folder) / "reference"))
        name, spec = self.config.reference, model.spec
        kind = "causal" if spec.causal_kernel else "Gaussian"
        own = tuple(self._score(traces, model))
        title = f"{name} (published), the same datasets, against true spikes smoothed with its own {kind} kernel"
        tables = [Table(title=title, lookaheads=spec.lookaheads, scores=own)]
        if spec.causal_kernel != self.config.causal_kernel:
            other = tuple(self._score(traces, model, kernel=self.config))
            title = f"{name} (published), the same datasets, against true spikes smoothed with this model's kernel"
            tables.append(Table(title=title, lookaheads=spec.lookaheads, scores=other))
        return tables

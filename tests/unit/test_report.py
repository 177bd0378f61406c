"""The report: what it says of good and bad recordings, that it stands on its own, and that nothing breaks it."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import report_samples as samples

from cascade_rt.quality import Finding
from cascade_rt.report import page, verdict, write_report
from cascade_rt.report.accuracy import expected_accuracy
from cascade_rt.report.figures import noise_histogram, population, rate_histogram, traces
from cascade_rt.report.literature import CASCADE, GCAMP8, PIPELINES, ground_truth_papers, unknown_datasets
from cascade_rt.report.methods import methods
from cascade_rt.report.wording import count, duration, mean_rate, number, sentence, series
from cascade_rt.session import Inference, InferOptions

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in order; keeps its text and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        assert not [name for name in values if name.startswith("on")]
        if tag == "img":
            self.images.append(values)
        if tag == "a":
            self.links.append(values["href"])
        elif "href" in values:
            self.loaded.append(values["href"])
        self.loaded += [values[name] for name in ("src", "srcset", "data", "poster") if name in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def svgs(self) -> list[str]:
        prefix = "data:image/svg+xml;base64,"
        assert all(image["src"].startswith(prefix) for image in self.images)
        return [base64.b64decode(image["src"].removeprefix(prefix)).decode("utf-8") for image in self.images]


def rendered(inference: Inference) -> Page:
    return Page(page.render_report(inference))


@pytest.fixture(scope="module")
def good() -> Inference:
    return samples.good()


@pytest.fixture(scope="module")
def bad() -> Inference:
    return samples.bad()


def undefined_numbers(svg: str) -> list[str]:
    """Numbers that a viewer would stumble over."""
    return re.findall(r"\b(?:nan|inf)\b", re.sub('base64,[^"]*', "", svg), re.IGNORECASE)


def small(**settings):
    return samples.inference_of(samples.random_plane(8, 900, **settings))


def finding(severity="warning", text="something was seen: do something", code="thing", **more):
    return Finding(code=code, severity=severity, text=text, **more)


# ---------------------------------------------------------------------------------------------------------- contents


def test_a_good_recording_is_called_good_with_its_numbers(good: Inference) -> None:
    shown = rendered(good)
    plane = good.planes[0]
    assert "Looks good" in shown.text
    assert "mouse1/suite2p" in shown.text
    assert f"{plane.expected_spikes:,.0f}" in shown.text
    assert f"{plane.mean_rate_hz:.3g} Hz" in shown.text
    assert f"{np.median(plane.noise_levels):.3g}" in shown.text
    for told in ("120 of 163 rows", "9,000 at 30 Hz: 5 min", samples.MODEL, "25 ms, symmetric kernel", "31 frames"):
        assert told in shown.text, told
    for reason in good.recommendation.reasons:
        assert (reason in shown.text) == (not reason.startswith("live,")), reason
    for version in samples.VERSIONS.values():
        assert version in shown.text
    assert all(str(path) in shown.text for path in good.outputs)


def test_a_bad_recording_says_what_is_wrong_the_worst_first(bad: Inference) -> None:
    shown = rendered(bad).text
    assert "Not usable as it is: the frame rate is given as 30 Hz" in shown
    assert "Looks good" not in shown
    found = bad.planes[0].findings
    places = [shown.index(f"{item.severity}{sentence(item.text)}") for item in found]
    assert places == sorted(places)
    assert [item.severity for item in found] == ["error", "warning", "warning", "warning", "note"]
    assert "43 of 77 neurons outside of the model's 0.5 to 10 (0 below, 43 above)" in shown
    assert "rows 37, 38, 39" in shown
    assert "frames 5000–5199" in shown
    assert "named by the user" not in shown
    assert "gives no results to publish" in shown


def test_verdicts() -> None:
    plane = samples.random_plane(4, 900)

    def level(*findings):
        return verdict(samples.inference_of(replace(plane, findings=findings)))

    assert level().level == "good"
    assert level(finding("note")).level == "good"
    one = level(finding(text="Something was seen: do this"), finding("note"))
    assert one == ("warning", "Look at one thing before you rely on it: something was seen.")
    assert level(finding(), finding(text="other: do that")).text.startswith("Look at 2 things")
    worst = level(finding(), finding("error", "ΔF/F is upside down. Turn it"))
    assert worst == ("error", "Not usable as it is: ΔF/F is upside down.")
    nothing = verdict(samples.inference_of(samples.undefined_plane()))
    assert nothing.level == "error"
    assert "no neuron has a spike probability (shorter than the model's window)" in nothing.text


def test_the_same_finding_in_several_planes_is_told_once() -> None:
    both, one = finding(text="in both: look"), finding(text="in one: look")
    planes = [samples.random_plane(3, 200, name="plane0", findings=(both,))]
    planes.append(samples.random_plane(3, 200, name="plane1", findings=(both, one)))
    shown = rendered(samples.inference_of(*planes)).text
    assert shown.count("In both: look.") == 1
    assert "In one: look.in plane1" in shown
    assert "Look at 2 things" in shown


def test_names_and_texts_are_escaped() -> None:
    hostile = "<script>alert('1')</script> & \"quoted\""
    plane = samples.random_plane(
        3, 200, name=hostile, findings=(finding(text=hostile),), facts=(hostile,), dff_description=hostile,
        why_undefined=[hostile] * 3,
    )  # fmt: skip
    options = InferOptions(indicator=hostile)
    other = samples.random_plane(3, 200, name="b")
    inference = samples.inference_of(plane, other, options=options, source=f"x/{hostile.replace('/', '')}.npy")
    shown = rendered(replace(inference, title=hostile, format=hostile, device=hostile, versions={"a": hostile}))
    assert "script" not in shown.tags
    assert shown.text.count(hostile) >= 8


def test_options_are_told() -> None:
    plane = samples.random_plane(4, 900, n_discrete=1234, kind="dff", dff_description="ΔF/F as the file has it")
    options = InferOptions(
        model=samples.MODEL, threshold="none", alignment="cascade", lookahead_frames=2, percent=True, fill_gaps=3
    )
    shown = rendered(samples.inference_of(plane, options=options, format="numpy", title="NumPy file")).text
    assert "named by the user (--model)" in shown
    assert "2 frames (67 ms)" in shown
    assert "placed as the published CASCADE software does, 1 frame earlier" in shown
    assert "1,234" in shown
    assert "not named (--indicator)" in shown
    assert "resampled" not in shown
    slow = samples.random_plane(4, 900, frame_rate_hz=10.0)
    assert "resampled to 30 Hz" in rendered(samples.inference_of(slow, options=InferOptions(resample=True))).text


# ---------------------------------------------------------------------------------------------- accuracy and methods


def test_accuracy_comes_from_the_card(good: Inference) -> None:
    found = expected_accuracy(good)
    card = (samples.find_bundle(samples.MODEL) / "CARD.md").read_text(encoding="utf-8")
    # ν of the sample is near 2, and its look-ahead is 31: this row of the card's own table.
    row = next(line for line in card.splitlines() if line.startswith("| DS31-GCaMP8m-m-V1 | 2 | "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert found.correlation == float(cells[4])
    assert found.rows[0].values["detected (%)"] == cells[12]
    assert found.rows[0].neurons == cells[2]
    assert "cross-validation" in found.about
    shown = rendered(good).text
    assert f"correlate with {found.correlation:.2f}" in shown
    assert "DS31-GCaMP8m-m-V1" in shown
    assert "DS30-GCaMP8f-m-V1" not in shown


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (InferOptions(), "depends on the indicator, which was not named"),
        (InferOptions(indicator="MyProbe7"), "no figures for MyProbe7"),
        (InferOptions(indicator="123"), "no figures for 123"),
    ],
)
def test_without_figures_the_report_points_to_the_card(options: InferOptions, told: str) -> None:
    plane = samples.random_plane(4, 900)
    inference = replace(samples.inference_of(plane), options=options, indicator=options.indicator)
    assert expected_accuracy(inference) is None
    shown = rendered(inference).text
    assert told in shown
    assert f"cascade-rt models {samples.MODEL}" in shown


def test_a_model_that_is_gone_does_no_harm() -> None:
    inference = small()
    gone = replace(inference, spec=replace(inference.spec, name="gone"))
    assert expected_accuracy(gone) is None
    assert "gone" in rendered(gone).text


def test_methods_have_the_numbers_of_the_run(good: Inference) -> None:
    told = methods(good)
    nu = good.planes[0].noise_levels
    for part in (
        "Calcium signals of GCaMP8m were recorded from 120 neurons at 30 Hz for 5 min (9,000 frames)",
        "extracted with Suite2p (Pachitariu et al., 2017)",
        samples.BASELINE,
        f"{np.median(nu):.3g} % Hz^-1/2 (median over neurons; range {nu.min():.3g} to {nu.max():.3g})",
        f"the model {samples.MODEL} (one network that was told the noise level)",
        "CASCADE (Rupprecht et al., 2021; Rupprecht et al., 2025)",
        "a Gaussian of 25 ms standard deviation",
        "31 frames (1033 ms) after the one described",
        "Negative estimates were set to 0",
        f"{good.planes[0].mean_rate_hz:.3g} Hz per neuron (120 neurons)",
        "cascade_rt 0.1.0 with onnxruntime 1.32.0, numpy 2.4.6 and Python 3.11.2",
    ):
        assert part in told.text, part
    assert [paper.doi for paper in told.papers] == [
        "10.1038/s41593-021-00895-5",
        "10.1101/2025.03.03.641129",
        "10.1038/s41586-023-05828-9",
        "10.1101/061507",
    ]
    shown = rendered(good)
    assert told.text in shown.text
    assert shown.links == [f"https://doi.org/{paper.doi}" for paper in told.papers]


def test_every_paper_cited_in_the_text_is_listed() -> None:
    for model in ("Global_EXC_30Hz_smoothing50ms", "OGB1_Cal520_zf_7.5Hz_smoothing200ms", samples.MODEL):
        for format in (*PIPELINES, "numpy"):
            told = methods(samples.inference_of(samples.random_plane(3, 200), model=model, format=format))
            cited = set(re.findall(r"[A-Z][\wü]+ (?:et al\.|and \w+), \d{4}b?", told.text))
            assert cited == {paper.short for paper in told.papers}, (model, format)


def test_methods_of_several_planes_speak_of_all() -> None:
    planes = [samples.random_plane(n, 600, name=f"plane{n}", seed=n) for n in (3, 5)]
    inference = samples.inference_of(*planes)
    told = methods(inference).text
    assert "8 neurons in 2 imaging planes at 30 Hz per plane" in told
    rates = [plane.mean_rate_hz for plane in planes]
    assert mean_rate(inference) == pytest.approx((3 * rates[0] + 5 * rates[1]) / 8)


def test_ground_truth_papers_follow_the_datasets_of_the_model() -> None:
    spec = small().spec
    assert GCAMP8 in ground_truth_papers(spec)
    assert CASCADE not in ground_truth_papers(spec)
    own = replace(spec, training_datasets=("DS09-GCaMP6f-m-V1", "DS14-GCaMP6s-m-V1", "my data", "DS99-X"))
    assert [paper.short for paper in ground_truth_papers(own)] == ["Chen et al., 2013"]
    assert unknown_datasets(own.training_datasets) == ["my data", "DS99-X"]
    shown = rendered(replace(small(), spec=own)).text
    assert "my data and DS99-X" in shown


# ------------------------------------------------------------------------------------------------ stands on its own


@pytest.mark.parametrize("which", ["good", "bad"])
def test_the_page_needs_nothing_but_itself(which: str, request: pytest.FixtureRequest) -> None:
    text = page.render_report(request.getfixturevalue(which))
    shown = Page(text)
    assert "script" not in shown.tags
    assert "iframe" not in shown.tags
    assert all(loaded.startswith("data:") for loaded in shown.loaded)
    assert all(link.startswith("https://doi.org/10.") for link in shown.links)
    assert not re.search(r"url\(|@import", text)
    assert len(shown.images) == 4
    for image in shown.images:
        assert len(image["alt"]) > 40
    for svg in shown.svgs():
        ElementTree.fromstring(svg)
        outside = re.findall(r'(?:href|src)="([^"]*)"', svg)
        assert all(target.startswith(("#", "data:image/png")) for target in outside)
        assert "<script" not in svg


def test_pictures_show_what_the_plane_holds(good: Inference) -> None:
    plane = good.planes[0]
    shown = traces(plane)
    for neuron in plane.examples.neurons:
        assert f">neuron {neuron}<" in shown.svg
    assert "time (s)" in shown.svg
    assert "ΔF/F" in shown.svg
    assert "spike rate (Hz)" in population(plane).svg
    assert f"{len(plane.raster_neurons)} neurons" in population(plane).alt
    assert "0 of 120 neurons outside" in noise_histogram(plane, (0.5, 10)).caption
    inside = int((plane.noise_levels > 2).sum())
    assert f"{120 - inside} below, 0 above" in noise_histogram(plane, (2, 10)).caption
    assert f"{np.median(plane.rates_hz):.3g} Hz" in rate_histogram(plane).caption


def test_numbers_in_pictures_are_whole() -> None:
    plane = samples.random_plane(4, 900)
    rates = np.array([0.00432, 0.001234, 1.2, 12.3])
    shown = traces(replace(plane, rates_hz=rates, examples=replace(plane.examples, neurons=(0, 1, 3))))
    assert all(f">{text} Hz, ν " in shown.svg for text in ("0.0043", "0.0012", "12.3"))
    quiet = replace(plane, rates_hz=np.array([0.0, 0.001, 1.2, 12.3]))
    assert "the first bar holds 2 neurons below 0.01 Hz" in rate_histogram(quiet).caption


def test_pictures_do_not_change_settings_of_matplotlib(good: Inference) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    first, second = traces(good.planes[0]), traces(good.planes[0])
    assert dict(matplotlib.rcParams) == before
    assert first == second


def test_six_large_planes_stay_far_below_five_megabytes(tmp_path: Path) -> None:
    planes = [samples.random_plane(n, 12000, seed=n, name=f"plane{n}") for n in (300, 301, 302, 303, 304, 305)]
    written = write_report(samples.inference_of(*planes), tmp_path / "report.html")
    assert written.stat().st_size < 4_000_000
    shown = Page(written.read_text(encoding="utf-8"))
    assert len(shown.images) == 24
    assert all(f"Plane plane{n}" in shown.text for n in range(300, 306))
    assert "open_result('mouse1/suite2p/cascade.h5')['plane300']" in shown.text.replace("\\\\", "/")


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: Inference) -> None:
    target = tmp_path / "a report & more.html"
    target.write_text("earlier", encoding="utf-8")

    def fails(self: Path, other: Path) -> Path:
        assert "<!DOCTYPE html>" in self.read_text(encoding="utf-8")
        assert target.read_text(encoding="utf-8") == "earlier"
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails)
        with pytest.raises(OSError, match="disk full"):
            write_report(good, target)
    assert target.read_text(encoding="utf-8") == "earlier"
    assert list(tmp_path.iterdir()) == [target]
    assert write_report(good, target) == target
    assert target.read_text(encoding="utf-8") == page.render_report(good)
    assert list(tmp_path.iterdir()) == [target]


# ---------------------------------------------------------------------------------------------- next to nothing in it


def silent_plane():
    plane = samples.random_plane(5, 300)
    return replace(
        plane,
        rates_hz=np.zeros(5),
        raster=np.zeros_like(plane.raster),
        expected_spikes=0.0,
        mean_rate_hz=0.0,
        noise_levels=np.zeros(5),
        examples=replace(plane.examples, dff=plane.examples.dff * 0, spike_prob=plane.examples.spike_prob * 0),
    )


DEGENERATE = {
    "one neuron": lambda: samples.random_plane(1, 900),
    "two frames": lambda: samples.random_plane(3, 2),
    "one frame": lambda: samples.random_plane(3, 1),
    "two bins": lambda: samples.random_plane(3, 900, n_bins=2),
    "many neurons": lambda: samples.random_plane(5000, 120),
    "silent": silent_plane,
    "hours": lambda: samples.random_plane(2, 2_000, frame_rate_hz=0.2),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_small_and_large_planes(name: str) -> None:
    plane = DEGENERATE[name]()
    shown = rendered(samples.inference_of(plane))
    assert len(shown.images) == 4
    for svg in shown.svgs():
        ElementTree.fromstring(svg)
        assert not undefined_numbers(svg)
    assert not re.search(r"\bnan\b", shown.text)


@pytest.mark.parametrize("n_neurons", [0, 1, 4])
def test_a_plane_without_any_value(n_neurons: int) -> None:
    plane = samples.undefined_plane(n_neurons)
    shown = rendered(samples.inference_of(plane))
    assert shown.images == []
    assert "no neuron has a spike probability and no neuron has a noise level" in shown.text
    assert "Not usable as it is" in shown.text
    assert "Noise levels could not be determined" in shown.text
    assert not re.search(r"\bnan\b", shown.text)


def test_a_neuron_that_is_partly_undefined_leaves_gaps() -> None:
    plane = samples.random_plane(3, 900)
    dff, prob = plane.examples.dff.copy(), plane.examples.spike_prob.copy()
    dff[0] = np.nan
    dff[1, 100:500] = np.nan
    prob[1, 100:500] = np.nan
    svg = traces(replace(plane, examples=replace(plane.examples, dff=dff, spike_prob=prob))).svg
    ElementTree.fromstring(svg)
    assert not undefined_numbers(svg)


def test_thinning_keeps_every_peak() -> None:
    from cascade_rt.report.figures import _thinned, _upright

    x = np.arange(10_000.0)
    y = np.zeros(10_000, np.float32)
    y[[17, 5000, 9999]] = 3.0
    y[[18, 6000]] = -2.0
    y[7000:7100] = np.nan
    kept_x, kept_y = _thinned(x, y)
    assert kept_x.size < 1500
    assert list(kept_x[kept_y == 3]) == [17, 5000, 9999]
    assert list(kept_x[kept_y == -2]) == [18, 6000]
    assert np.isnan(kept_y).any()
    kept_x, kept_y = _upright(x, y)
    assert kept_x.size < 20
    assert list(kept_x[kept_y > 0]) == [17, 5000, 9999]
    # Next to each peak a 0, so that it stays as narrow as it is.
    assert {4999, 5001} <= set(kept_x)


# ------------------------------------------------------------------------------------------------------------ wording


def test_wording() -> None:
    assert [number(x) for x in (0.0, 0.12345, 12.345, 999.6, 1234567.0, float("nan"))] == [
        "0", "0.123", "12.3", "1,000", "1,234,567", "–",
    ]  # fmt: skip
    assert [duration(s) for s in (0.5, 59, 60, 605, 3600, 6000)] == [
        "0.5 s", "59 s", "1 min", "10 min 5 s", "1 h 0 min", "1 h 40 min",
    ]  # fmt: skip
    assert [count(n, "neuron") for n in (0, 1, 2000)] == ["0 neurons", "1 neuron", "2,000 neurons"]
    assert [series(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert [sentence(text) for text in ("one", "ν is high", "Done.", "why?")] == [
        "One.",
        "ν is high.",
        "Done.",
        "why?".capitalize(),
    ]

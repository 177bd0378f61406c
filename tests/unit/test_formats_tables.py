"""Tables: separators, headers, times and numbers of the rows, and the place of what is wrong."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_rt.errors import FileFormatError, InputError
from cascade_rt.formats import csv_text, open_source, tables
from cascade_rt.lazy import LazyMatrix

DFF = np.random.default_rng(0).normal(size=(3, 40)).round(6)
TIMES = np.arange(40) / 12.5
NAMES = ["a", "b", "c"]


def frame(names=NAMES, **first):
    return pd.DataFrame({**first, **dict(zip(names, DFF, strict=True))})


def only(path, **options):
    with open_source(path, **options) as source:
        assert (source.format, source.files) == ("table", (path,))
        recording = source.only()
        return recording, np.array(recording.traces[:])


@pytest.fixture(params=["csv", "parquet"])
def save(request, tmp_path):
    def write(table, name="t", **options):
        path = tmp_path / f"{name}.{request.param}"
        if request.param == "csv":
            table.to_csv(path, index=False, **options)
        else:
            table.to_parquet(path, index=False)
        return path

    return write


def test_a_column_for_each_neuron(save):
    recording, traces = only(save(frame()))
    np.testing.assert_array_equal(traces, DFF)
    assert (recording.neuron_ids, recording.kind, recording.frame_rate_hz) == (("a", "b", "c"), "dff", None)
    assert recording.native["columns"] == ("a", "b", "c")
    assert recording.native["time_column"] is None
    assert only(save(frame()), kind="fluorescence")[0].kind == "fluorescence"


@pytest.mark.parametrize(
    ("name", "factor"),
    [("time", 1), ("Time (s)", 1), ("t_ms", 1000), ("Timestamps [ms]", 1000), ("TIME", 1), ("time_us", 1e6)],
)
def test_times_tell_the_rate(save, name, factor):
    path = save(frame(**{name: TIMES * factor}))
    recording, traces = only(path)
    np.testing.assert_array_equal(traces, DFF)
    assert recording.frame_rate_hz == pytest.approx(12.5)
    np.testing.assert_allclose(recording.timestamps, TIMES)
    assert recording.frames is None
    assert recording.native["time_column"] == name
    assert recording.neuron_ids == ("a", "b", "c")


def test_times_in_the_middle_and_numbers_beside_them(save):
    table = frame(Frame=np.arange(40))
    table.insert(2, "time", TIMES)
    recording, traces = only(save(table))
    np.testing.assert_array_equal(traces, DFF)
    assert recording.frame_rate_hz == pytest.approx(12.5)
    assert recording.native["time_column"] == "time"


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_of_frames_show_gaps(save, first):
    kept = np.delete(np.arange(43), [10, 11, 30])
    recording, traces = only(save(frame(frame=kept + first)))
    np.testing.assert_array_equal(traces, DFF)
    np.testing.assert_array_equal(recording.frames, kept)
    assert recording.frame_rate_hz is None
    assert any("3 frames are missing" in problem for problem in recording.problems)


def test_times_show_gaps(save):
    kept = np.delete(np.arange(43), [10, 11, 30])
    recording, _ = only(save(frame(time=kept / 12.5)))
    np.testing.assert_array_equal(recording.frames, kept)
    assert recording.frame_rate_hz == pytest.approx(12.5)


def test_times_without_a_unit_are_not_guessed(save):
    recording, traces = only(save(frame(timestamp=TIMES * 1000)))
    np.testing.assert_array_equal(traces, DFF)
    assert recording.frame_rate_hz is None
    assert recording.timestamps is None
    assert any("has no unit" in problem for problem in recording.problems)


def test_times_that_go_back_are_named(save):
    times = TIMES.copy()
    times[20] = 0
    recording, _ = only(save(frame(time=times)))
    assert recording.frame_rate_hz is None
    assert any("do not increase at frame 20" in problem for problem in recording.problems)


def test_a_first_column_that_increases_evenly_is_no_neuron(save):
    recording, traces = only(save(frame(x=TIMES)))
    np.testing.assert_array_equal(traces, DFF)
    assert recording.frame_rate_hz == pytest.approx(12.5)
    assert recording.native["time_column"] == "x"
    recording, traces = only(save(frame(x=np.arange(40)), "n"))
    np.testing.assert_array_equal(traces, DFF)
    assert recording.frame_rate_hz is None


def test_a_neuron_that_only_increases_stays(save):
    rising = np.sort(np.random.default_rng(1).normal(size=40))
    _, traces = only(save(frame(x=rising)))
    np.testing.assert_array_equal(traces, np.vstack([rising, DFF]))


def test_columns_that_all_increase_evenly_are_neurons(save):
    _, traces = only(save(pd.DataFrame({"a": np.arange(9.0), "b": np.arange(9.0) + 5})))
    assert traces.shape == (2, 9)


def test_empty_fields_are_nan(save):
    table = frame()
    table.loc[3, "b"] = np.nan
    table.loc[:1, "c"] = np.nan
    _, traces = only(save(table))
    np.testing.assert_array_equal(traces, table.to_numpy().T)


def test_a_row_for_each_neuron(save):
    table = pd.DataFrame(DFF, columns=[f"f{n}" for n in range(40)])
    table.insert(0, "neuron", [5, 7, 9])
    recording, traces = only(save(table), transposed=True)
    np.testing.assert_array_equal(traces, DFF)
    assert recording.neuron_ids == (5, 7, 9)
    assert recording.native["transposed"]
    table["neuron"] = ["n1", "n2", "n3"]
    recording, traces = only(save(table, "named"), transposed=True)
    np.testing.assert_array_equal(traces, DFF)
    assert recording.neuron_ids == ("n1", "n2", "n3")


def test_more_columns_than_rows_are_remarked_upon(save):
    recording, traces = only(save(pd.DataFrame(DFF, columns=[f"f{n}" for n in range(40)])))
    assert traces.shape == (40, 3)
    assert any("--transposed" in problem for problem in recording.problems)


@pytest.mark.parametrize("names", [("neuron", "frame", "value"), ("time (s)", "cell_id", "dff", "x")])
def test_long_format_is_named(save, names):
    table = pd.DataFrame({name: np.arange(6.0) for name in names})
    with pytest.raises(
        FileFormatError, match=r"long format.*table\.pivot\(index='(frame|time \(s\))', columns='(neuron|cell_id)'"
    ):
        open_source(save(table))


def test_options_that_mean_nothing_here(save):
    for options in ({"key": "a"}, {"neuropil_key": "b"}):
        with pytest.raises(InputError, match="leave out key"):
            open_source(save(frame()), **options)


def test_a_table_of_times_alone_is_refused(save):
    with pytest.raises(FileFormatError, match="no columns of neurons, only time"):
        open_source(save(pd.DataFrame({"time": TIMES})))


# --- text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_separators_headers_and_endings(tmp_path, separator, header, ending, encoding):
    path = tmp_path / ("t.tsv" if separator == "\t" else "t.csv")
    frame(["Zelle ä", "b", "c"]).to_csv(
        path, sep=separator, header=header, index=False, lineterminator=ending, encoding=encoding
    )
    recording, traces = only(path)
    np.testing.assert_array_equal(traces, DFF)
    assert recording.neuron_ids == (("Zelle ä", "b", "c") if header else ())
    assert recording.native["separator"] == separator


def test_commas_as_decimal_points(tmp_path):
    frame(time=TIMES).to_csv(tmp_path / "t.csv", sep=";", decimal=",", index=False)
    recording, traces = only(tmp_path / "t.csv")
    np.testing.assert_array_equal(traces, DFF)
    assert recording.frame_rate_hz == pytest.approx(12.5)


@pytest.mark.parametrize("index", [True, False])
def test_numbered_columns_of_pandas_are_a_header(tmp_path, index):
    pd.DataFrame(DFF.T).to_csv(tmp_path / "t.csv", index=index)
    recording, traces = only(tmp_path / "t.csv")
    np.testing.assert_array_equal(traces, DFF)
    assert recording.neuron_ids == ("0", "1", "2")


def test_one_column_quotes_remarks_and_empty_lines(tmp_path):
    (tmp_path / "t.csv").write_text("# written by hand\nx\n\n0.5\n" + "\n".join(map(str, DFF[0])) + "\n\n")
    np.testing.assert_array_equal(only(tmp_path / "t.csv")[1], [[0.5, *DFF[0]]])
    (tmp_path / "q.csv").write_text('"a, first","b"\n"1.5","2.5"\n3.5,"NA"\n')
    recording, traces = only(tmp_path / "q.csv")
    np.testing.assert_array_equal(traces, [[1.5, 3.5], [2.5, np.nan]])
    assert recording.neuron_ids == ("a, first", "b")


@pytest.mark.parametrize("block", [10, 8_000_000])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.1,abc,0.3", r"line 32, column 2 \('b'\): 'abc' is not a number"),
        ("0.1,0.2,1_000", r"line 32, column 3 \('c'\): '1_000' is not a number"),
        ("0.1,0.2", "line 32 has 2 values: expected 3"),
        ("0.1,0.2,0.3,0.4", "line 32 has 4 values: expected 3"),
    ],
)
def test_the_place_of_what_is_wrong_is_told(tmp_path, monkeypatch, line, message, block):
    monkeypatch.setattr(csv_text, "BLOCK_CHARACTERS", block)
    path = tmp_path / "t.csv"
    frame().to_csv(path, index=False)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:31], line, *lines[31:]]))
    with pytest.raises(FileFormatError, match=rf"t\.csv: {message}"):
        open_source(path)


def test_a_file_that_breaks_off_is_named(tmp_path):
    path = tmp_path / "t.csv"
    frame().to_csv(path, index=False)
    path.write_text(path.read_text()[:-12])
    with pytest.raises(FileFormatError, match="line 41 has 2 values"):
        open_source(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,b,c\n", "has a header and no rows"),
        (b"\xff\xfea\x00,\x00b\x00", "not a text file in UTF-8"),
        (b"PK\x03\x04\x00\x00\x00\n\x00", "is no text"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        open_source(tmp_path / "t.csv")


@pytest.mark.parametrize("transposed", [False, True])
def test_large_text_goes_through_a_scratch_file(tmp_path, monkeypatch, transposed):
    monkeypatch.setattr(csv_text, "SCRATCH_BYTES", 100)
    monkeypatch.setattr(csv_text, "BLOCK_CHARACTERS", 200)
    monkeypatch.setattr(csv_text.tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    path = tmp_path / "t.csv"
    table = pd.DataFrame(DFF) if transposed else frame(time=TIMES)
    table.to_csv(path, index=False)
    with open_source(path, transposed=transposed or None) as source:
        recording = source.only()
        assert isinstance(recording.traces, LazyMatrix)
        np.testing.assert_array_equal(recording.traces[:], DFF)
        np.testing.assert_array_equal(recording.traces[1:, 5:9], DFF[1:, 5:9])
        assert len(list((tmp_path / "scratch").rglob("*.raw"))) == 1
        del recording
    del source
    assert list((tmp_path / "scratch").iterdir()) == []
    path.write_text(path.read_text() + "x,y,z,w\n")
    with pytest.raises(FileFormatError):
        open_source(path, transposed=transposed or None)
    assert list((tmp_path / "scratch").iterdir()) == []


# --- Parquet ---------------------------------------------------------------------------------------------------


def parquet(path, group=7, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def test_parquet_is_read_piece_by_piece(tmp_path, monkeypatch):
    path = parquet(tmp_path / "t.pq", time=TIMES, **dict(zip(NAMES, DFF, strict=True)))
    with open_source(path) as source:
        traces = source.only().traces
        read = []
        original = pq.ParquetFile.read_row_groups
        monkeypatch.setattr(
            pq.ParquetFile,
            "read_row_groups",
            lambda file, groups, columns: read.append((groups, columns)) or original(file, groups, columns=columns),
        )
        np.testing.assert_array_equal(traces[1:2, 8:22], DFF[1:2, 8:22])
        assert read == [([1, 2, 3], ["b"])]
        for rows in (slice(None), slice(1, 3), [0, 2]):
            for start in range(0, 40, 3):
                for stop in (start + 1, start + 7, 40):
                    np.testing.assert_array_equal(traces[rows, start:stop], DFF[rows, start:stop])
        np.testing.assert_array_equal(traces[:, ::3], DFF[:, ::3])


def test_types_of_columns(tmp_path):
    path = parquet(tmp_path / "a.parquet", a=DFF[0].astype(np.float32), b=DFF[1].astype(np.float32))
    recording, traces = only(path)
    assert recording.traces.dtype == np.float32
    np.testing.assert_array_equal(traces, DFF[:2].astype(np.float32))
    path = parquet(tmp_path / "b.parquet", a=[1, None, 3], b=[0.5, 0.25, None])
    recording, traces = only(path)
    np.testing.assert_array_equal(traces, [[1, np.nan, 3], [0.5, 0.25, np.nan]])
    path = parquet(tmp_path / "c.parquet", a=[1.0, 2.0], condition=["x", "y"])
    with pytest.raises(FileFormatError, match="column 'condition' holds string: expected numbers"):
        open_source(path)


def test_the_index_of_pandas_is_no_neuron(tmp_path):
    table = frame()
    table.index = table.index + 1000
    table.to_parquet(tmp_path / "t.parquet", index=True)
    np.testing.assert_array_equal(only(tmp_path / "t.parquet")[1], DFF)


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.98])
def test_truncated_parquet_is_named(tmp_path, keep):
    path = parquet(tmp_path / "t.parquet", **dict(zip(NAMES, DFF, strict=True)))
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(FileFormatError, match=r"t\.parquet: not a readable Parquet file"):
        open_source(path)


def test_damage_inside_of_a_parquet_file_is_named(tmp_path):
    path = parquet(tmp_path / "t.parquet", 50, a=np.arange(1000.0) ** 1.1, b=np.arange(1000.0) ** 1.2)
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="cannot be read, the file is damaged"), open_source(path) as source:
        source.only().traces[:]


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    path = parquet(tmp_path / "t.parquet", a=DFF[0])
    frame().to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r'reading Parquet files needs.*pip install "cascade-rt\[tables\]"'):
        open_source(path)
    np.testing.assert_array_equal(only(tmp_path / "t.csv")[1], DFF), "text needs nothing"


def test_names_are_recognised(tmp_path):
    for name, expected in {"a.csv": True, "a.TSV": True, "a.parquet": True, "a.pq": True, "a.txt": False}.items():
        (tmp_path / name).touch()
        assert tables.recognises(tmp_path / name) is expected
    (tmp_path / "b.csv").mkdir()
    assert not tables.recognises(tmp_path / "b.csv")

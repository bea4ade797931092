"""What a run tells: summary, report, takes of one file, one fault in every episode, an overwrite with a mistake."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_kit import META, do, job, table, write_parquet, write_recordings

from robocache.cli.run import render
from robocache.engine.run import run
from robocache.errors import ConfigError, OutputError


def test_a_finding_is_told_once_with_its_worst_episode(tmp_path):
    """Three recordings repeat stamps; the summary has one line, the report all of it."""
    logs = tmp_path / "logs"
    for i, repeats in enumerate((1, 30, 5)):
        times = np.arange(400) * 10_000_000
        times[1 : repeats + 1] = times[0]
        q = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(1200.0)), 3)
        logs.mkdir(exist_ok=True)
        pq.write_table(pa.table({"time": times, "q": q, "grip": np.arange(400.0)}), logs / f"log_{i}.parquet")
    summary = do(job(logs, tmp_path / "out"))
    (found,) = [f for f in summary.findings if f.code == "duplicates" and f.subject.startswith("q")]
    assert (found.episodes, found.worst) == (3, "log_1.parquet")
    assert found.text == "q: 30 of 400 samples repeat the stamp of the one before"
    assert "  " + found.line in render(summary)
    report = json.loads((tmp_path / "out" / META / "_report.json").read_text())
    assert found.text in [f["text"] for f in report["findings"]]


def test_the_summary_says_how_much_of_the_time_is_kept(tmp_path):
    """grip is recorded for the second half alone."""
    times = np.arange(400) * 10_000_000
    logs = tmp_path / "logs"
    for name, rows in (("arm", slice(None)), ("hand", slice(200, None))):
        write_parquet(logs / f"run/{name}.parquet", time=times)
        pq.write_table(pq.read_table(logs / f"run/{name}.parquet")[rows], logs / f"run/{name}.parquet")
    made = job(
        logs, tmp_path / "out", input__episode="folder",
        features={"x": {"source": "arm.q"}, "g": {"source": "hand.grip"}},
    )  # fmt: skip
    summary = do(made)
    assert summary.kept == pytest.approx(1990 / 3990)
    (found,) = [f for f in summary.findings if f.code == "kept"]
    assert found.failed == 1 and "hand.grip begins 2.0 s late" in found.text
    assert any("quality: 49.9% of the time recorded is in rows" in line for line in render(summary))


def test_takes_of_one_file_become_episodes(tmp_path):
    """The stamps of the second recording start again twice."""
    logs = write_recordings(tmp_path / "logs", 1)
    times = np.concatenate([np.arange(200), np.arange(150), np.arange(50)]) * 10_000_000
    write_parquet(logs / "log_001.parquet", time=times, grip=np.arange(400.0))
    (q,) = run(job(logs, tmp_path / "whole")).quarantined
    assert "the clock goes back by 1.990 s at sample 200 of 400" in q.reason
    assert "set input.on_restart to split" in q.reason
    split = do(job(logs, tmp_path / "out", input__on_restart="split"))
    assert split.quarantined == () and split.episodes == 4
    rows = table(tmp_path / "out").to_pandas()
    starts = [rows[rows.episode_index == k]["action"].iloc[0] for k in (1, 2, 3)]
    assert starts == [0, 200, 350]
    again = run(job(logs, tmp_path / "out", input__on_restart="split"))
    assert again.skipped_shards == again.shards


def test_one_fault_in_every_episode_is_the_configs(tmp_path):
    """A wrong unit: not three quarantined recordings, but one mistake."""
    logs = write_recordings(tmp_path / "logs", 3)
    wrong = job(logs, tmp_path / "out", input__times__unit="us", timeline__rate_hz=1_000_000)
    with pytest.raises(ConfigError, match="none of the 3 episodes can be used, all for the same reason") as caught:
        run(wrong)
    assert "is input.times.unit right?" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"features": {"x": {"source": "nowhere"}}},
        {"input__times__column": "tt"},
        {"input__times__unit": "us", "timeline__rate_hz": 1_000_000},
        {"features": {"x": {"source": "q", "align": "slerp"}}},
    ],
)
def test_an_overwrite_with_a_mistake_replaces_nothing(tmp_path, change):
    logs = write_recordings(tmp_path / "logs", 2)
    do(job(logs, tmp_path / "out"))
    before = table(tmp_path / "out")
    with pytest.raises(ConfigError):
        run(job(logs, tmp_path / "out", **change), overwrite=True)
    assert table(tmp_path / "out").equals(before)
    do(job(logs, tmp_path / "out"))


def test_a_refusal_names_the_keys_that_differ(tmp_path):
    logs = write_recordings(tmp_path / "logs", 1)
    do(job(logs, tmp_path / "out"))
    with pytest.raises(OutputError, match=r"timeline.rate_hz was '50' and is '100'; choose another output.uri"):
        run(job(logs, tmp_path / "out", timeline__rate_hz=100, compute__threads=1))


def test_columns_that_most_recordings_no_longer_have(tmp_path):
    """The types are settled by the first listing, as a whole; what comes later is held to them, however much it is."""
    logs = tmp_path / "logs"
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1600)), 4)
    write_parquet(logs / "a.parquet", q=wide)
    write_recordings(logs, 2)
    (q,) = do(job(logs, tmp_path / "out")).quarantined  # the odd one, though it is the first
    assert q.id == "a.parquet"
    (logs / "a.parquet").unlink()
    assert do(job(logs, tmp_path / "out")).quarantined == ()
    for i in range(3):
        write_parquet(logs / f"z{i}.parquet", q=wide)
    summary = do(job(logs, tmp_path / "out"))
    assert [q.id for q in summary.quarantined] == ["z0.parquet", "z1.parquet", "z2.parquet"]
    assert summary.episodes == 2


def test_an_optional_source_that_is_absent_breaks_no_threshold(tmp_path):
    """One recording lacks a column that it may lack: its rows are kept, and it is told."""
    logs = write_recordings(tmp_path / "logs", 3)
    pq.write_table(pq.read_table(logs / "log_001.parquet").drop(["grip"]), logs / "log_001.parquet")
    features = {"q": {"source": "q"}, "grip": {"source": "grip", "optional": True}}
    made = job(logs, tmp_path / "out", features=features, quality__on_fail="quarantine")
    summary = do(made)
    assert (summary.episodes, summary.quarantined) == (3, ())
    (found,) = [f for f in summary.findings if f.code == "absent"]
    assert (found.subject, found.worst, found.failed) == ("grip", "log_001.parquet", 0)
    rows = table(tmp_path / "out").to_pandas()
    assert rows.groupby("episode_index")["grip.valid"].mean().tolist()[1] == 0.0
    assert (
        rows[rows.episode_index == 1]["grip"].isna().all()
        and (rows["q.valid"].groupby(rows.episode_index).mean() > 0.9).all()
    )


def test_a_clock_that_leaps_forward_makes_no_data(tmp_path):
    """After two seconds the clock is set three hours on: the rows between are told, and none of them is valid."""
    logs = write_recordings(tmp_path / "logs", 1)
    times = np.arange(400) * 10_000_000 + np.where(np.arange(400) < 200, 0, 3 * 3600 * 10**9)
    write_parquet(logs / "log_000.parquet", time=times)
    summary = do(job(logs, tmp_path / "out", features={"q": {"source": "q"}}, timeline__rate_hz=1))
    (gap,) = [f for f in summary.findings if f.code == "gap"]
    assert "q: has a gap of 3.00 h; rows in it hold nothing measured" in gap.text
    assert any("q: 0.0% of the rows are valid" in f.text and f.failed for f in summary.findings)
    valid = table(tmp_path / "out")["q.valid"].to_numpy(zero_copy_only=False)
    assert (valid.sum(), len(valid)) == (4, 10_804)
    (dense,) = run(job(logs, tmp_path / "dense", features={"q": {"source": "q"}}, timeline__rate_hz=200)).quarantined
    assert "400 samples over 10,804 s would make 2,160,800 rows at 200 Hz; a stamp is damaged" in dense.reason

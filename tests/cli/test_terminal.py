"""The command line on a terminal: what a person sees of each command, at several widths, and after Ctrl-C."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from terminal_kit import Terminal

from robocache import cli
from robocache.output.layout import manifest_file
from robocache.sample import write_samples

CONFIG = """
input: {uri: logs, max_failed_episodes: 1}
features:
  observation.state: {source: /joint_states.position, max_gap: 50ms}
  action: {source: /command.position, align: next}
timeline: {rate_hz: 50}
output: {uri: out, shard_mb: 1}
compute: {device: cpu}
"""
BAR = re.compile(
    r"(\d+)/(\d+) episodes(, \d+ quarantined)?, [\d,]+ rows/s, [\d.,]+ \w+/s [━╸╺ ]+ (-:--:--|\d:\d\d:\d\d)"
)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with ``logs`` (two good, one cut off), a config, and the output of a run."""
    work = tmp_path_factory.mktemp("terminal")
    write_samples(work / "logs", episodes=2, seconds=1.0)
    (work / "config.yaml").write_text(CONFIG)
    here = Path.cwd()
    os.chdir(work)
    try:
        assert cli.main(["run", "-q", "config.yaml", "output.uri=made"]) == cli.DONE
    finally:
        os.chdir(here)
    return work


def test_run(work):
    terminal = Terminal(work, "run", "config.yaml", "output.uri=narrow")
    assert terminal.end() == cli.DONE, terminal.text
    bar, summary, *rest = terminal.lines
    at = rest.index("quarantined: 1 of 3 episodes")
    assert BAR.fullmatch(bar).groups()[:3] == ("3", "3", ", 1 quarantined")
    assert 70 < len(bar) < 80  # it takes the width but for the last columns
    assert summary.startswith("narrow: ")
    assert " rows of 2 episodes in 1 parts, " in summary
    assert "".join(rest[at + 1 :]).startswith("  episode_002.mcap: ")
    assert terminal.tidy


def test_log_lines_stand_above_the_bar(work):
    terminal = Terminal(work, "-v", "run", "config.yaml", "output.uri=told", "input.max_failed_episodes=0", columns=160)
    assert terminal.end() == cli.FAILED, terminal.text
    lines = terminal.text.splitlines()
    at = next(k for k, line in enumerate(lines) if " rows of 2 episodes in 1 parts, " in line)
    *logged, bar = lines[:at]
    assert logged and all(re.match(r"\d{4}-\d\d-\d\d \S+ [A-Z]+ ", line) for line in logged)
    assert BAR.fullmatch(bar) and 150 < len(bar) < 160
    assert terminal.tidy


def test_a_run_on_a_dumb_terminal_writes_lines(work):
    terminal = Terminal(work, "run", "config.yaml", "output.uri=dumb", columns=160, TERM="dumb")
    assert terminal.end() == cli.DONE, terminal.text
    assert b"\x1b" not in terminal.raw
    assert re.search(r" INFO 3/3 episodes, \d+ rows/s, .*, 1 quarantined, 0 s left\n", terminal.text)
    assert " rows of 2 episodes" in terminal.text


def test_a_piped_result_is_the_summary_alone_while_the_bar_is_drawn_without_colours(work):
    terminal = Terminal(work, "run", "config.yaml", "--json", "output.uri=piped", piped=True, NO_COLOR="1")
    assert terminal.end() == cli.DONE, terminal.text
    assert json.loads(terminal.out)["episodes"] == 2
    assert BAR.fullmatch(terminal.text.strip())
    assert not re.search(rb"\x1b\[[\d;]*[34]\dm", terminal.raw)
    assert terminal.tidy


def slow_job(work: Path, recordings: int = 61) -> Path:
    """A run of seconds in shards of 1 MB; its manifest."""
    (work / "slow").mkdir()
    n = 65_000  # 1.04 MB
    table = {"time": 10**18 + np.arange(n) * 10**7, "x": np.random.default_rng(0).random(n)}
    pq.write_table(pa.table(table), work / "slow/log.parquet", compression="none", use_dictionary=False)
    for i in range(recordings - 1):
        os.link(work / "slow/log.parquet", work / f"slow/log_{i}.parquet")
    config = {
        "input": {"uri": "slow", "times": {"column": "time", "unit": "ns"}},
        "features": {"x": {"source": "x"}},
        "timeline": {"rate_hz": 20},
        "output": {"uri": "out", "shard_mb": 1},
        "compute": {"device": "cpu", "threads": 1},
    }
    (work / "slow.yaml").write_text(json.dumps(config))
    return work / "out" / manifest_file(1)


def test_ctrl_c_keeps_what_is_committed_and_leaves_the_terminal_as_it_was(tmp_path, monkeypatch, capsys):
    manifest = slow_job(tmp_path)
    terminal = Terminal(tmp_path, "run", "slow.yaml")
    terminal.wait_for("/61 episodes")
    while not manifest.exists():
        assert terminal.process.poll() is None
    assert terminal.screen.cursor.hidden
    terminal.press("\x03")
    assert terminal.end() == cli.STOPPED, terminal.text
    *bar, said = terminal.lines
    assert said == "robocache: stopped; what was committed is kept, run again to go on"
    assert len(bar) == 1 and BAR.fullmatch(bar[0])
    assert terminal.tidy
    committed = manifest.read_text().count("\n")
    assert 0 < committed < 61
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "slow.yaml"]) == cli.DONE
    assert f"{committed} of 61 shards were there already" in capsys.readouterr().out


def test_a_window_made_narrower_and_wider_while_a_run_goes_on(tmp_path):
    slow_job(tmp_path, 121)
    terminal = Terminal(tmp_path, "run", "slow.yaml", columns=160)
    terminal.wait_for("/121 episodes")
    terminal.resize(80)
    terminal.wait_for("9/121 episodes")
    assert all(len(line) <= 80 for line in terminal.lines)
    terminal.resize(120)
    assert terminal.end() == cli.DONE, terminal.text
    at = next(k for k, line in enumerate(terminal.lines) if " rows of 121 episodes" in line)
    bar = terminal.lines[at - 1]
    assert BAR.fullmatch(bar) and 100 < len(bar) <= 120
    assert terminal.tidy


def test_plan(work):
    terminal = Terminal(work, "plan", "config.yaml")
    assert terminal.end() == cli.DONE, terminal.text
    heads = [line.split()[0] for line in terminal.text.splitlines()]
    assert heads == ["input", "parts", "device", "rows", "bytes", "memory", "columns"]
    assert terminal.tidy


@pytest.mark.parametrize("columns", [80, 160])
def test_inspect_recordings(work, columns):
    terminal = Terminal(work, "inspect", "logs", "--limit", "1", columns=columns)
    assert terminal.end() == cli.DONE, terminal.text
    assert terminal.lines[0].startswith("episode_000.mcap  mcap  ")
    assert terminal.lines[1].split()[-3:] == ["longest", "dups", "late"]
    wrench = next(line for line in terminal.lines if line.startswith("/ft_sens") and " Hz " in line)
    assert abs(float(re.search(r"([\d.]+) Hz", wrench)[1]) - 1000) < 10
    assert terminal.lines[-1] == "... and 2 more; --limit 3 looks at all"
    assert terminal.tidy


def test_inspect_and_verify_an_output(work):
    terminal = Terminal(work, "inspect", "made")
    assert terminal.end() == cli.DONE, terminal.text
    assert terminal.lines[0] == "made: 2 episodes, 1 quarantined"
    assert re.search(r"│ action +│ fixed_size_list<\w+: float>\[7\] +│ 100.0% │", terminal.text)
    terminal = Terminal(work, "verify", "made")
    assert terminal.end() == cli.DONE, terminal.text
    assert re.fullmatch(
        r"made, version 1: 2 episodes, \d+ rows, 1 parts, 0.0 MB, 1 quarantined: whole\n", terminal.text
    )
    assert terminal.tidy


def test_doctor_and_sample(tmp_path):
    terminal = Terminal(tmp_path, "doctor")
    assert terminal.end() == cli.DONE, terminal.text
    assert {"python", "extension", "disk"} <= {line.split()[0] for line in terminal.lines}
    terminal = Terminal(tmp_path, "sample", "logs", "--episodes", "1", "--seconds", "1")
    assert terminal.end() == cli.DONE, terminal.text
    assert terminal.text.startswith("2 logs, ")


def test_ctrl_c_elsewhere_is_one_line_too(tmp_path):
    terminal = Terminal(tmp_path, "sample", "logs", "--episodes", "10000", "--seconds", "20")
    while not (tmp_path / "logs").exists():
        assert terminal.process.poll() is None
    terminal.press("\x03")
    assert terminal.end() == cli.STOPPED, terminal.text
    assert terminal.lines == ["robocache: stopped"]
    assert terminal.tidy


def test_a_mistake_is_one_line(work):
    terminal = Terminal(work, "run", "missing.yaml")
    assert terminal.end() == cli.USAGE
    assert terminal.lines == ["missing.yaml: cannot be read: No such file or directory"]
    terminal = Terminal(work, "run", "config.yaml", "input.uri=empty")
    assert terminal.end() == cli.REFUSED
    assert terminal.text.startswith("robocache: input.uri: nothing at ")
    assert terminal.tidy

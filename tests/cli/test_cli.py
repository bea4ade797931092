"""The command line: exit codes, messages without tracebacks, what it prints and what it leaves alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from process_kit import start

import robocache
from robocache import cli
from robocache.cli import progress
from robocache.output.layout import manifest_file
from robocache.sample import write_samples

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
input: {{uri: "{logs}", max_failed_episodes: {allowed}}}
features:
  observation.state: {{source: /joint_states.position, max_gap: 50ms}}
  action: {{source: /command.position, align: next}}
timeline: {{rate_hz: 50}}
output: {{uri: "{out}"}}
compute: {{device: cpu}}
"""


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A folder with ``logs`` (two good, one cut off) and a config that allows for that."""
    write_samples(tmp_path / "logs", episodes=2, seconds=1.0)
    write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(work: Path, *, logs: str = "logs/*.mcap", out: str = "out", allowed: int = 1) -> None:
    (work / "config.yaml").write_text(CONFIG.format(logs=logs, out=out, allowed=allowed))


def test_run_verify_and_rerun(work, capsys):
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    out = capsys.readouterr().out
    assert "rows of 2 episodes in 1 parts" in out
    assert "quarantined: 1 of 3 episodes" in out
    assert "episode_002.mcap: " in out
    assert cli.main(["verify", "out"]) == cli.DONE
    assert "out, version 1: 2 episodes" in capsys.readouterr().out
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    assert "1 of 1 shards were there already, of this config and input" in capsys.readouterr().out


def test_more_failures_than_allowed(work, capsys):
    assert cli.main(["run", "config.yaml", "input.max_failed_episodes=0"]) == cli.FAILED
    assert "more than max_failed_episodes allows" in capsys.readouterr().out
    assert cli.main(["run", "config.yaml"]) == cli.DONE  # the output is complete all the same


def test_verify_finds_damage(work, capsys):
    cli.main(["run", "config.yaml"])
    (part,) = (work / "out/data").iterdir()
    part.write_bytes(part.read_bytes()[:-1])
    assert cli.main(["verify", "out"]) == cli.FAILED
    assert "PROBLEM data/part-000000-" in capsys.readouterr().out


def test_mistakes_in_the_config_are_all_named(work, capsys):
    arguments = ["timeline.rate_hz=-5", "output.format=csv", "compute.treads=2"]
    assert cli.main(["run", "config.yaml", *arguments]) == cli.USAGE
    err = capsys.readouterr().err
    assert all(path in err for path in ("timeline.rate_hz", "output.format", "compute.treads"))
    assert cli.main(["run", "no such.yaml"]) == cli.USAGE
    assert "no such.yaml" in capsys.readouterr().err
    assert not (work / "out").exists()


def test_a_source_that_no_episode_has(work, capsys):
    assert cli.main(["run", "config.yaml", "features.action.source=/comand.position"]) == cli.USAGE
    assert "features.action[0].source: /comand.position is in none of 2 episodes" in capsys.readouterr().err


def test_refusals(work, capsys):
    assert cli.main(["run", "config.yaml", "input.uri=nothing/*.mcap"]) == cli.REFUSED
    assert "nothing/*.mcap" in capsys.readouterr().err
    assert cli.main(["verify", "logs"]) == cli.REFUSED
    assert "not an output of robocache run" in capsys.readouterr().err
    cli.main(["run", "config.yaml"])
    assert cli.main(["run", "config.yaml", "timeline.rate_hz=10"]) == cli.REFUSED
    assert "belongs to another config" in capsys.readouterr().err
    assert cli.main(["run", "--overwrite", "config.yaml", "timeline.rate_hz=10"]) == cli.DONE
    (work / "file").write_text("")
    assert cli.main(["run", "config.yaml", "output.uri=file"]) == cli.REFUSED


def test_storage_that_fails_is_no_traceback(work, capsys, monkeypatch):
    def failing(*_, **__):
        raise OSError(5, "the disk hiccups")

    monkeypatch.setattr("robocache.engine.listing.list_input", failing)
    monkeypatch.setattr("robocache.engine.retry.BACKOFF_S", 0)
    assert cli.main(["run", "config.yaml"]) == cli.REFUSED
    assert "the disk hiccups" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rnu config.yaml", "robocache: no command 'rnu' (did you mean 'run'?); see robocache --help"),
        ("fly", "robocache: no command 'fly'; see robocache --help"),
        ("run", "robocache run: the following arguments are required: CONFIG; see robocache run --help"),
        ("run config.yaml --overwrit", "robocache run: cannot take '--overwrit' (did you mean '--overwrite'?); see "),
        (
            "-v plan a.yaml b.yaml",
            "robocache plan: two configs: 'a.yaml' and 'b.yaml'; write an override as KEY=VALUE;",
        ),
        ("verify out more", "robocache verify: cannot take 'more'; see robocache verify --help"),
        ("inspect --limit many logs", "robocache inspect: argument --limit: invalid int value: 'many'; see "),
    ],
)
def test_a_wrong_command_line_is_one_line(line, said, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == cli.USAGE
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_no_command_is_answered_by_the_help(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == cli.USAGE
    err = capsys.readouterr().err
    assert err.startswith("usage: robocache")
    assert all(f"    {command} " in err for command in cli.COMMANDS)


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == cli.DONE
    assert capsys.readouterr().out == f"robocache {robocache.__version__}\n"


def test_overrides_and_options_stand_anywhere(work, capsys):
    line = ["run", "timeline.rate_hz=20", "-q", "config.yaml", "--overwrite", "output.uri=elsewhere"]
    assert cli.main(line) == cli.DONE
    out, err = capsys.readouterr()
    rows = pq.read_table("elsewhere/data")
    assert out.startswith(f"elsewhere: {len(rows)} rows")
    assert rows["time_ns"][1].as_py() - rows["time_ns"][0].as_py() == 50_000_000
    assert not err
    (work / "a=b.yaml").write_text((work / "config.yaml").read_text())
    assert cli.main(["-q", "plan", "a=b.yaml"]) == cli.DONE


def test_json(work, capsys):
    def document(*arguments: str) -> dict:
        cli.main([*arguments, "--json"])
        return json.loads(capsys.readouterr().out)

    plan = document("plan", "config.yaml")
    assert (plan["episodes"], plan["failed"], plan["shards"], plan["todo"], plan["version"]) == (3, 1, 1, 1, 0)
    assert plan["sample"]["columns"][1][0] == "action"
    run = document("run", "config.yaml")
    assert (run["episodes"], run["within_limit"], len(run["quarantined"])) == (2, True, 1)
    assert run["quarantined"][0]["id"] == "episode_002.mcap"
    assert document("verify", "out") == {
        **{key: run[key] for key in ("episodes", "rows", "parts")},
        "bytes": run["bytes_out"],
        "quarantined": 1,
        "problems": [],
        "passed_over": 0,
        "version": 1,
        "notes": [],
        "lerobot": "",
    }
    logs = document("inspect", "logs", "--limit", "1")
    assert (logs["of_episodes"], [e["id"] for e in logs["episodes"]]) == (3, ["episode_000.mcap"])
    joints = next(s for s in logs["episodes"][0]["streams"] if s["source"] == "/joint_states")
    assert joints["clock"]["step"] == pytest.approx(5e6, rel=0.01)
    columns = {c["name"]: c["valid"] for c in document("inspect", "out")["columns"]}
    assert columns["frame_index"] is None
    assert 0.5 < columns["observation.state"] < columns["action"]
    episode = document("inspect", "out", "--episode", "episode_001.mcap")
    rows = pq.read_table("out/data", columns=["episode_index"])["episode_index"].to_pylist().count(1)
    assert (episode["episode_index"], episode["rows"]) == (1, rows)


LEAVING = """
import atexit, sys
import robocache.cli.__main__ as process
class Late:
    def __del__(self):
        print("taken apart")
late = Late()
def main():
    atexit.register(print, "goodbye")
    if sys.argv[1:]:
        raise SystemExit(eval(sys.argv[1]))
    return 3
process.main = main
sys.exit(process.entry())
"""


@pytest.mark.parametrize(("arguments", "code"), [((), 3), (("2",), 2), (("None",), 0), (("'text'",), 1)])
def test_the_process_leaves_without_being_taken_apart(arguments, code):
    """Threads of pyarrow's may still let go of Python's buffers, and would abort it then."""
    ended = subprocess.run([sys.executable, "-c", LEAVING, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert (ended.returncode, ended.stdout) == (code, "goodbye\n"), ended.stderr


@pytest.mark.parametrize("module", ["robocache", "robocache.cli"])
@pytest.mark.parametrize(("words", "code"), [(["--version"], cli.DONE), (["rum"], cli.USAGE)])
def test_as_a_module(module, words, code):
    ended = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == code
    said = (
        f"robocache {robocache.__version__}\n"
        if code == cli.DONE
        else "robocache: no command 'rum' (did you mean 'run'?)"
    )
    assert (ended.stdout or ended.stderr).startswith(said)


def test_who_stops_reading_ends_the_command_quietly(work):
    process = start("inspect", "logs", "--episode", "episode_000.mcap", cwd=work)
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == ("", cli.DONE)


def test_a_shell_completes(capsys):
    assert cli.main(["completion", "bash"]) == cli.DONE
    script = capsys.readouterr().out
    for words, wanted in ((["ro", ""], "init run plan"), (["robocache", "rep"], "report"),
                          (["robocache", "run", "--o"], "--overwrite"), (["robocache", "run", "con"], ""),
                          (["robocache", "-q", "verify", "--j"], "--json")):  # fmt: skip
        line = " ".join(f"'{word}'" for word in words)
        ask = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _robocache; echo ${{COMPREPLY[@]}}"
        found = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
        assert found.stdout.strip().startswith(wanted) and not found.stderr
        assert wanted or not found.stdout.strip()
    for shell in ("zsh", "fish"):
        assert cli.main(["completion", shell]) == cli.DONE
        script = capsys.readouterr().out
        assert all(name in script for name in (*cli.COMMANDS, "overwrite", "dry-run"))
    assert cli.main(["completion", "fish"]) == cli.DONE


def test_plan_writes_nothing(work, capsys):
    before = sorted(work.rglob("*"))
    assert cli.main(["plan", "config.yaml"]) == cli.DONE
    assert sorted(work.rglob("*")) == before
    out = capsys.readouterr().out
    assert "3 episodes" in out
    assert "parts    of 1 of 1 shards of about 64 MB to be written" in out
    cli.main(["run", "config.yaml"])
    written = {p: p.stat().st_mtime_ns for p in work.rglob("*")}
    cli.main(["plan", "config.yaml"])
    out = capsys.readouterr().out
    assert "changes  since version 1: 0 new, 0 changed, 0 withdrawn, 3 kept" in out
    assert "parts    of 0 of 1 shards" in out
    assert {p: p.stat().st_mtime_ns for p in work.rglob("*")} == written


def test_inspect_recordings_and_output(work, capsys):
    assert cli.main(["inspect", "logs", "--limit", "1"]) == cli.DONE
    out = capsys.readouterr().out
    assert "/joint_states" in out
    assert "and 2 more" in out
    assert cli.main(["inspect", "logs/episode_001.mcap"]) == cli.DONE
    assert "NaN" in capsys.readouterr().out
    assert cli.main(["inspect", "logs", "--episode", "episode_001.mcap"]) == cli.DONE
    out = capsys.readouterr().out
    assert "episode_001.mcap" in out and "episode_000.mcap" not in out and "NaN" in out
    assert cli.main(["inspect", "logs", "--episode", "episode_9.mcap"]) == cli.USAGE
    assert "'episode_9.mcap' is none of 3 episodes" in capsys.readouterr().err
    assert cli.main(["inspect", "logs/episode_002.mcap"]) == cli.FAILED
    assert "cannot be read" in capsys.readouterr().out
    cli.main(["run", "config.yaml"])
    capsys.readouterr()
    assert cli.main(["inspect", "out"]) == cli.DONE
    assert "observation.state" in capsys.readouterr().out
    assert cli.main(["inspect", "out", "--episode", "episode_001.mcap"]) == cli.DONE
    assert "/joint_states.position" in capsys.readouterr().out


def test_inspect_takes_a_folder_as_an_episode(tmp_path, capsys):
    folder = tmp_path / "logs" / "run_1"
    folder.mkdir(parents=True)
    for name in ("arm", "force"):
        (folder / f"{name}.csv").write_text("timestamp,x\n0,1\n1,2\n")
    options = ["--time-column", "timestamp", "--episode-by", "folder"]
    assert cli.main(["inspect", str(tmp_path / "logs"), *options]) == cli.DONE
    out = capsys.readouterr().out
    assert "arm" in out and "force" in out and out.count(" csv ") == 1


def test_sample_and_doctor(tmp_path, capsys):
    assert cli.main(["sample", str(tmp_path / "s"), "--episodes", "1", "--seconds", "1"]) == cli.DONE
    assert len(list((tmp_path / "s").iterdir())) == 2
    assert cli.main(["doctor"]) == cli.DONE
    assert "torch" in capsys.readouterr().out
    assert cli.main(["--json", "doctor"]) == cli.DONE
    checks = {check["name"]: check["state"] for check in json.loads(capsys.readouterr().out)}
    assert checks["python"] == "ok" and set(checks.values()) <= {"ok", "missing", "off"}


def test_an_options_place_is_in_front_of_the_command_too(capsys):
    """And what no command takes is said as it is behind it."""
    for line in (["--json", "--frobnicate", "doctor"], ["doctor", "--frobnicate"]):
        with pytest.raises(SystemExit) as error:
            cli.main(line)
        assert error.value.code == cli.USAGE
        assert "robocache doctor: cannot take '--frobnicate'" in capsys.readouterr().err


def test_progress_logs_lines_where_there_is_no_terminal(work, caplog, monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    caplog.set_level("INFO", "robocache")
    assert cli.main(["run", "config.yaml", "output.shard_mb=1"]) == cli.DONE
    lines = [r.getMessage() for r in caplog.records if "episodes," in r.getMessage()]
    assert lines[0].startswith("0/3 episodes")
    assert lines[-1].startswith("3/3 episodes")
    assert "1 quarantined, 0 s left" in lines[-1]
    caplog.clear()
    cli.main(["run", "config.yaml", "output.shard_mb=1"])
    assert "nan" not in caplog.text


def slow_logs(folder: Path) -> Path:
    """Enough work for a run of seconds, in shards of 1 MB."""
    folder.mkdir()
    n = 65_000  # 1.04 MB
    table = {"time": 10**18 + np.arange(n) * 10**7, "x": np.random.default_rng(0).random(n)}
    pq.write_table(pa.table(table), folder / "log.parquet", compression="none", use_dictionary=False)
    for i in range(30):
        os.link(folder / "log.parquet", folder / f"log_{i}.parquet")
    return folder


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_a_run_and_keep_what_is_committed(tmp_path, signum, monkeypatch, capsys):
    config = {
        "input": {"uri": str(slow_logs(tmp_path / "slow")), "times": {"column": "time", "unit": "ns"}},
        "features": {"x": {"source": "x"}},
        "timeline": {"rate_hz": 20},
        "output": {"uri": "out", "shard_mb": 1},
        "compute": {"device": "cpu", "threads": 1},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    process = start("run", "config.yaml", cwd=tmp_path)
    manifest = tmp_path / "out" / manifest_file(1)
    while not manifest.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.STOPPED, err
    assert "stopped; what was committed is kept, run again to go on" in err
    assert "Traceback" not in err
    committed = manifest.read_text().count("\n")
    assert 0 < committed < 31
    assert not (tmp_path / "out/meta/robocache/_run.lock").exists()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    assert f"{committed} of 31 shards were there already" in capsys.readouterr().out


def test_garbage_is_collected_as_usual_behind_the_imports():
    """In a process of its own, whose collector nobody else has touched."""
    script = """
import gc, sys
from robocache.cli.__main__ import _FIRST_OBJECTS, _collect_later
usual = gc.get_threshold()
_collect_later()
assert gc.isenabled() and gc.get_threshold()[0] == _FIRST_OBJECTS
runs = gc.get_stats()[0]["collections"]
few = [[] for _ in range(_FIRST_OBJECTS // 2)]
assert gc.get_stats()[0]["collections"] == runs
many = [[] for _ in range(_FIRST_OBJECTS)]
assert gc.get_threshold() == usual and gc.get_stats()[0]["collections"] > runs
"""
    subprocess.run([sys.executable, "-c", script], check=True)

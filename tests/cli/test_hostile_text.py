"""Text that files bring along: shown escaped in every command and log line, in every encoding, and the end of none."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from process_kit import ROOT
from terminal_kit import Terminal

from robocache import cli
from robocache.cli import terminal
from robocache.cli.terminal import shown
from robocache.output.layout import EPISODES

CLEAR = "\x1b[2J\x1b]0;owned\x07"  # clears the screen and names the window
ESCAPED = r"\x1b[2J\x1b]0;owned\x07"
TABLE = "time_ms,{name}\n0,1\n100,2\n200,3\n"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("/joint_states.position[elbow] %s {} \\ é 中 🤖 نص", "/joint_states.position[elbow] %s {} \\ é 中 🤖 نص"),
        ("[bold]x[/x]", "[bold]x[/x]"),
        (f"a{CLEAR}b", f"a{ESCAPED}b"),
        ("\x00\x08\x7f\x80\x9b\x9f", r"\x00\x08\x7f\x80\x9b\x9f"),
        ("one\ntwo\rthree\tfour\x0b\x85\u2028\u2029", r"one\ntwo\rthree\tfour\x0b\x85\u2028\u2029"),
        ("\u202aa\u202bb\u202cc\u202dd\u202ee", r"\u202aa\u202bb\u202cc\u202dd\u202ee"),
        ("\u2066a\u2067b\u2068c\u2069\u200e\u200f\u061c", r"\u2066a\u2067b\u2068c\u2069\u200e\u200f\u061c"),
        ("caf\udce9 \ud800", r"caf\udce9 \ud800"),
    ],
)
def test_shown(text, safe):
    assert shown(text) == safe
    assert shown(safe) == safe


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    return tmp_path


def job(**features: str) -> None:
    config = {
        "input": {"uri": "logs", "max_failed_episodes": 9},
        "features": features,
        "timeline": {"rate_hz": 50},
        "output": {"uri": "out"},
        "compute": {"device": "cpu"},
    }
    Path("config.yaml").write_text(json.dumps(config))


def logs(name: str, *files: str | bytes) -> None:
    for file in files:
        with open(os.path.join(os.fsencode("logs"), os.fsencode(file)), "w") as log:
            log.write(TABLE.format(name=name))


@pytest.fixture
def hostile(work) -> Path:
    """A file, a column and a feature whose names would take the terminal over, and a file that cannot be used."""
    logs(f"q{CLEAR}", "a.csv", f"{CLEAR}.csv")
    Path(f"logs/{CLEAR}broken.csv").write_text("time_ms\nsoon\n")
    job(**{f"x{CLEAR}": f"q{CLEAR}"})
    return work


def test_escapes_in_names_are_shown_by_every_command(hostile, capsys):
    shows = {
        "plan config.yaml": [f"columns  x{ESCAPED} "],
        "-v run config.yaml": [f"  {ESCAPED}broken.csv: "],
        "inspect logs": [f"{ESCAPED}.csv 0.20 s ", f"q{ESCAPED} ", f"{ESCAPED}broken.csv\n"],
        "inspect out": [f"│ x{ESCAPED} │ "],
        f"inspect out --episode {CLEAR}.csv": [f"{ESCAPED}.csv  episode ", f"q{ESCAPED} "],
        f"inspect out --episode {CLEAR}broken.csv": [f"{ESCAPED}broken.csv\n", "quarantined:"],
        f"inspect out --episode {CLEAR}": [rf"--episode: '{ESCAPED}' is none of 3 episodes"],
        f"run {CLEAR}.yaml": [f"{ESCAPED}.yaml: cannot be read: No such file"],
        f"run config.yaml timeline.{CLEAR}=1": [r"timeline.\x1b: unknown key"],
        f"fly{CLEAR}": [ESCAPED],
    }
    for line, texts in shows.items():
        with contextlib.suppress(SystemExit):
            cli.main(line.split(" "))
        said = "".join(capsys.readouterr())
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", said), line
        assert all(text in said for text in texts), f"{line}\n{said}"


def test_escapes_in_names_do_not_reach_a_terminal(hostile):
    for line in ("-v run config.yaml", "inspect logs", "verify out"):
        person = Terminal(hostile, *line.split(), columns=160, NO_COLOR="1")
        assert person.end() in (cli.DONE, cli.FAILED), person.text
        assert b"\x1b[2J" not in person.raw and b"\x1b]" not in person.raw, line
        assert ESCAPED in person.text or line == "verify out"


def test_markup_is_text(work, capsys):
    logs("[/x]", "[red]a.csv")
    job(**{"[/x]": "q"})
    Path("logs/[red]a.csv").write_text(TABLE.format(name="q"))
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    capsys.readouterr()
    assert cli.main(["inspect", "out"]) == cli.DONE
    assert "│ [/x]" in capsys.readouterr().out
    assert cli.main(["inspect", "out", "--episode", "[red]a.csv"]) == cli.DONE
    assert "[red]a.csv  episode 0, " in capsys.readouterr().out
    assert cli.main(["inspect", "logs"]) == cli.DONE
    assert "[red]a.csv  csv" in capsys.readouterr().out


def test_verify_names_a_hostile_file_on_one_line(work, capsys):
    logs("q", "a.csv")
    job(x="q")
    assert cli.main(["run", "config.yaml"]) == cli.DONE
    Path(f"out/data/part-\nout: 9 episodes: whole{CLEAR}").write_bytes(b"")
    capsys.readouterr()
    assert cli.main(["verify", "out"]) == cli.FAILED
    problem, verdict = capsys.readouterr().out.splitlines()
    assert problem == rf"PROBLEM data/part-\nout: 9 episodes: whole{ESCAPED}: no record of this file"
    assert verdict.endswith(": 1 problems")


def test_log_lines_are_lines(capsys):
    handler = terminal.handler()
    record = logging.LogRecord("robocache", logging.WARNING, "", 0, "episode %s failed", (f"a\n{CLEAR}",), None)
    handler.handle(record)
    assert capsys.readouterr().err.endswith(rf" WARNING episode a\n{ESCAPED} failed" + "\n")
    try:
        raise ValueError(CLEAR)
    except ValueError:
        record = logging.LogRecord("robocache", logging.DEBUG, "", 0, "why", (), sys.exc_info())
    handler.handle(record)
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.splitlines()[-1] == f"ValueError: {ESCAPED}"


EACH = "import sys; from robocache import cli; sys.exit(max(cli.main(line.split(' ')) for line in sys.argv[1:]))"
LOCALES = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "strict": {"PYTHONIOENCODING": "ascii:strict"},
    "utf8": {"PYTHONUTF8": "1"},  # of which a test's own process is one
}


@pytest.mark.parametrize("locale", ["ascii", "strict", pytest.param("utf8", marks=pytest.mark.slow)])
def test_names_that_are_no_text_end_no_command(work, locale):
    """A file name that is not UTF-8, and one that ASCII does not have."""
    logs("q", b"caf\xe9.csv", "日.csv")
    job(x="q")
    environment = {**os.environ, **LOCALES[locale], "PYTHONPATH": str(ROOT)}
    lines = ["run config.yaml", "verify out", "inspect logs", "inspect out", r"inspect out --episode caf\udce9.csv"]
    command = [sys.executable, "-c", EACH, *lines]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    stored = pq.read_table(f"out/{EPISODES}")
    assert r"caf\udce9.csv" in stored["id"].to_pylist()
    assert r"caf\udce9.csv" in [Path(file).name for (file,) in stored["files"].to_pylist()]

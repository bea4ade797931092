"""Every command of docs/growing.md, in its order, and what it says that they print."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import robocache
from robocache import cli

PAGE = (Path(__file__).resolve().parents[1] / "docs/growing.md").read_text()


def test_the_week_of_a_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prelude, *_ = re.findall(r"```sh\n(record\(\).*?)```", PAGE, re.DOTALL)
    (config,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    Path("config.yaml").write_text(config)
    said, ran = "", 0
    for kind, block in re.findall(r"```(sh|text|python)\n(.*?)```", PAGE, re.DOTALL):
        if kind == "text":
            for line in block.splitlines():
                assert " ".join(line.split()) in said, line
            said = ""
        elif kind == "python":
            exec(block, {"robocache": robocache})
        else:
            for line in block.splitlines() if block != prelude else []:
                command, _, wanted = line.partition("  # exit ")
                if command.startswith("robocache "):
                    code = cli.main(command.split()[1:])
                    shown = capsys.readouterr()
                    said += " ".join((shown.out + shown.err).split())
                    assert code == int(wanted or 0), (line, said)
                    ran += 1
                else:
                    subprocess.run(["bash", "-ec", prelude + command], check=True)
    assert ran == 15

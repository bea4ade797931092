"""A folder of good and broken files: the run ends by itself, the good in the output, the broken in the quarantine.

44 broken copies of each of five formats, 220 in all. Bits are flipped where the format can notice: anywhere in an MCAP
chunk, in Parquet pages and HDF5 chunks written with a checksum, in HDF5's signature, in the shape of CSV or its digits
turned to letters. A format without checksums cannot tell a flipped value from another value, and nor can RoboCache.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from broken_files import CASES, CUTS, FLIPS, write_folder
from engine_kit import META
from omegaconf import OmegaConf
from process_kit import robocache

from robocache.output.verify import verify


def test_there_are_enough():
    assert len(CASES) * (CUTS + FLIPS + 4) >= 200


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> dict[str, tuple[Path, set[str], set[str]]]:
    """A run for each format: the output, the good and the bad episodes' ids."""
    found = {}
    for name, case in CASES.items():
        work = tmp_path_factory.mktemp(name)
        good, bad = write_folder(name, work / "logs")
        config = {
            "input": {"uri": str(work / "logs"), "format": name, "max_failed_episodes": len(bad)} | case.input,
            "features": {"state": {"source": case.source}},
            "timeline": {"rate_hz": 50},
            "output": {"uri": str(work / "out")},
            "compute": {"device": "cpu"},
        }
        OmegaConf.save(config, work / "config.yaml")
        ended = robocache("run", "config.yaml", cwd=work)
        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stderr
        found[name] = work / "out", good, bad
    return found


@pytest.mark.parametrize("name", CASES)
def test_good_files_get_through_and_broken_ones_are_named(ran, name):
    out, good, bad = ran[name]
    lines = (out / f"{META}/_quarantine.jsonl").read_text().splitlines()
    quarantined = {q["id"]: q for q in map(json.loads, lines)}
    written = pq.read_table(out / f"{META}/_episodes.pq").column("id").to_pylist()
    assert len(lines) == len(quarantined) == len(bad)
    assert {id[id.rfind("#") :] if "#" in id else id for id in written} == good
    assert {id[id.rfind("#") :] if "#" in id else id for id in quarantined} == bad
    for q in quarantined.values():
        assert q["files"]
        path = f"episode_{int(q['id'].rpartition('#')[2]):06d}" if name == "lerobot" else q["files"][0]
        assert path in q["reason"], q
        assert "unexpected" not in q["reason"]
        assert not q["retry"]
    assert verify(str(out)).problems == ()

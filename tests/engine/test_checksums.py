"""Damage that only a checksum can show: a changed digit in an uncompressed chunk, as mcap's own writer writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import robocache

mcap_writer = pytest.importorskip("mcap.writer")


@pytest.fixture
def work(tmp_path) -> Path:
    """Two logs of ten JSON messages 0.5, 1.5, ... in uncompressed chunks with CRCs; in ``b`` one digit has changed."""
    (tmp_path / "logs").mkdir()
    for name in ("a", "b"):
        with open(tmp_path / f"logs/{name}.mcap", "wb") as file:
            writer = mcap_writer.Writer(file, compression=mcap_writer.CompressionType.NONE)
            writer.start()
            schema = writer.register_schema("q", "jsonschema", b'{"type": "object"}')
            channel = writer.register_channel("/q", "json", schema)
            for i in range(10):
                data = json.dumps({"x": i + 0.5}).encode()
                writer.add_message(channel, log_time=10**9 + i * 10**7, data=data, publish_time=10**9 + i * 10**7)
            writer.finish()
    damaged = tmp_path / "logs/b.mcap"
    data = damaged.read_bytes()
    assert data.count(b'"x": 3.5') == 1
    damaged.write_bytes(data.replace(b'"x": 3.5', b'"x": 3.4'))
    return tmp_path


def run(work: Path, **changes):
    config = {
        "input": {"uri": str(work / "logs"), "max_failed_episodes": 1, **changes},
        "features": {"x": "/q.x"},
        "timeline": {"rate_hz": 100},
        "output": {"uri": str(work / "out")},
        "compute": {"device": "cpu"},
    }
    return robocache.run(config)


def test_a_changed_byte_in_an_uncompressed_chunk_is_found_by_its_checksum(work):
    summary = run(work)
    assert summary.episodes == 1
    (damaged,) = summary.quarantined
    assert damaged.id == "b.mcap" and not damaged.retry
    assert "has CRC 0x" in damaged.reason and "the file says 0x" in damaged.reason


def test_nothing_else_would_have_shown_it(work):
    assert run(work, verify_checksums=False).episodes == 2
    assert pytest.approx(3.4) in pq.read_table(work / "out/data")["x"].to_pylist()

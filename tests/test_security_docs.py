"""The configs of docs/security.md do what it says, and the limits in it are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from engine_kit import write_recordings

from robocache import video
from robocache.config import schema
from robocache.config.load import job_from_mapping
from robocache.engine.run import run
from robocache.errors import ConfigError
from robocache.formats import compression, wrapped
from robocache.formats.messages import definitions
from robocache.output import documents

PAGE = (Path(__file__).resolve().parent.parent / "docs/security.md").read_text()
CONFIGS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def test_files_of_strangers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recordings(tmp_path / "uploads", 1, samples=40)
    (tmp_path / "uploads/bad.parquet").write_bytes(b"PAR1 of a stranger PAR1")
    summary = run(CONFIGS[0] | {"compute": {**CONFIGS[0]["compute"], "threads": 1}})
    assert (summary.episodes, len(summary.quarantined), summary.within_limit) == (1, 1, True)


def test_a_password_is_refused():
    (told,) = re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)
    with pytest.raises(ConfigError) as raised:
        job_from_mapping(CONFIGS[1])
    assert told in raised.value.problems


def test_the_limits_are_those_of_the_code():
    assert (compression.MOST_UNPACKED, compression.RATIO, compression.MOST_CHUNK) == (128 << 20, 64, 512 << 20)
    assert (wrapped.MOST_BYTES, wrapped.MOST_RATIO) == (1 << 30, 200)
    assert video.MOST_PIXELS == 64 << 20
    assert schema.Input("").max_unpacked_mb << 20 == compression.MOST_UNPACKED
    assert (documents.UNPACKED, documents.LOOKED_AT, documents.MOST_GROUP) == (128 << 20, 4 << 30, 256 << 20)
    assert documents.RATIO == 64
    assert definitions.MAX_FIELDS == 20_000

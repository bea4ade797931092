"""Configs and what the tests of the configuration edge do with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from robocache.config.job import Job
from robocache.config.load import job_from_mapping
from robocache.errors import ConfigError

MINIMAL = """
input: {uri: logs/*.mcap}
features: {action: /command.position}
timeline: {rate_hz: 50}
output: {uri: out}
"""
FULL = """
input:
  uri: [s3://bucket/a, s3://bucket/b/*.csv]
  format: csv
  storage_options: {key: "${oc.env:ROBOCACHE_KEY,none}", client_kwargs: {endpoint_url: http://minio}}
  times: {column: t, unit: us}
  episode: '(?P<episode>\\d+)/(?P<table>\\w+)\\.csv$'
  stamp: log
  verify_checksums: false
  salvage: true
  max_failed_episodes: 2
  max_vanished: 1
  read_timeout: 2.5
  fingerprint: content
features:
  observation.state:
    - {source: "arm[q1,q2]", align: cubic, max_gap: 50ms, offset: -3ms, optional: true}
    - gripper[0]
  observation.pose: {source: "pose", align: pose, quaternion_order: wxyz}
timeline: {reference: camera, range: union}
output:
  {uri: "s3://bucket/out", format: arrow, compression: none, shard_mb: 8, part_mb: 9, row_group_rows: 7,
   keep_versions: 3,
   episode_id: true, name_separator: _, byte_stream_split: true, report: true,
   lerobot: {version: v2.1, task: go, invalid: keep},
   storage_options: {key: "${input.storage_options.key}"}}
compute: {device: cuda, max_memory_mb: 100, threads: 3, require_extension: true, processes: 4,
  isolate: true, isolate_memory_mb: 9}
cluster: {mode: local, max_attempts: 5, shard_deadline: 60}
splits: {train: 0.75, val: 0.25}
"""


def full_file(folder: Path) -> str:
    path = folder / "full.yaml"
    path.write_text(FULL)
    return str(path)


def job(text: str, *overrides: str) -> Job:
    config = OmegaConf.create(text)
    for override in overrides:
        key, _, value = override.partition("=")
        parsed = OmegaConf.to_container(OmegaConf.create(f"value: {value}"), resolve=False)
        OmegaConf.update(config, key, parsed["value"], merge=False)
    return job_from_mapping(config)


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        job(text, *overrides)
    return list(caught.value.problems)


def only_problem(text: str, *overrides: str) -> str:
    found = problems(text, *overrides)
    assert len(found) == 1, found
    return found[0]

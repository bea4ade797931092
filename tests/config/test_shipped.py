"""The configs in configs/: each loads, and finds in its recording every source it names, as wide as its mode takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from robocache.config.job import Job
from robocache.config.load import job_from_mapping, load_job
from robocache.config.resolved import resolved_yaml
from robocache.features import feature_type
from robocache.formats import list_episodes, read_episode
from robocache.ops.modes import WIDTHS
from robocache.sample import write_samples

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
#: config -> episodes that its recording has
REAL = {
    "husky": 1,
    "tilt_laser": 1,
    "screw_sindy": 1,
    "g1_inspire": 60,
    "robomimic": 10,
    "sawyer": 2,
    "kinect": 1,
    "vlp16": 1,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_reads_back_and_names_no_place_of_its_own(path, monkeypatch):
    monkeypatch.setenv("ROBOCACHE_TEST_DATA", "/elsewhere")
    made = load_job(str(path))
    assert job_from_mapping(OmegaConf.create(resolved_yaml(made))) == made
    assert made.input.uri[0].startswith(("/elsewhere/", "sample_logs/"))
    monkeypatch.delenv("ROBOCACHE_TEST_DATA")
    assert not load_job(str(path)).input.uri[0].startswith("/")


def check_first_episode(job: Job, episodes: int) -> None:
    refs = list_episodes(job.input)
    assert len(refs) == episodes
    episode = read_episode(refs[0], job.sources, job.input)
    assert set(episode.streams) == {source.key for source in job.sources}
    for feature in job.features:
        for source in feature.sources:
            stream = episode.streams[source.key]
            if feature.steps:
                feature_type(feature.name, [stream.type], feature.dtype, steps=feature.steps)
                continue
            assert isinstance(stream.values, np.ndarray)
            assert len(stream.times) > 1
            width = int(np.prod(stream.values.shape[1:]))
            assert width == WIDTHS.get(source.align, width) > 0, source


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
def test_it_fits_its_recording(name, data_dir, monkeypatch):
    monkeypatch.setenv("ROBOCACHE_TEST_DATA", str(data_dir))
    path = next(path for path in CONFIGS if path.stem == name)
    check_first_episode(load_job(str(path)), REAL[name])


def test_the_demo_fits_the_sample_logs(tmp_path, monkeypatch):
    write_samples(tmp_path / "sample_logs", episodes=2, seconds=2.0, seed=1)
    monkeypatch.chdir(tmp_path)
    job = load_job(str(next(path for path in CONFIGS if path.stem == "demo")))
    check_first_episode(job, 3)  # and a damaged one
    assert job.max_failed_episodes == 1

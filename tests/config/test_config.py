"""The configuration edge: what a config means, and that the resolved one means the same."""

from __future__ import annotations

import dataclasses
import pickle
from fractions import Fraction
from typing import get_args, get_type_hints

import pytest
from config_kit import FULL, MINIMAL, full_file, job
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from robocache.config.job import ClusterSpec, Feature, FeatureSource, Job, OutputSpec, SplitSpec, TimelineSpec
from robocache.config.load import job_from_mapping, load_job
from robocache.config.resolved import resolved_yaml
from robocache.config.schema import Source
from robocache.config.values import parse_duration, parse_rate
from robocache.formats import READERS
from robocache.formats.base import InputSpec, TableTimes
from robocache.ops import MODES
from robocache.output.lerobot.options import LeRobotOptions


def test_the_closed_sets_are_those_of_the_code_behind_them():
    assert get_args(get_type_hints(Source)["align"]) == ("auto", *MODES)
    for format in ("auto", *READERS):
        assert job(MINIMAL, f"input.format={format}").input.format == format


def test_minimal_config_has_the_defaults_of_the_job_types():
    expected = Job(
        input=InputSpec(uri=("logs/*.mcap",)),
        features=(Feature("action", (FeatureSource("/command.position"),)),),
        timeline=TimelineSpec(rate=Fraction(50)),
        output=OutputSpec("out"),
    )
    assert job(MINIMAL) == expected


def test_every_key_reaches_the_job(monkeypatch):
    monkeypatch.setenv("ROBOCACHE_KEY", "k")
    made = job(FULL)
    assert made.input == InputSpec(
        uri=("s3://bucket/a", "s3://bucket/b/*.csv"),
        format="csv",
        storage_options={"key": "k", "client_kwargs": {"endpoint_url": "http://minio"}},
        times=TableTimes(column="t", unit="us"),
        episode=r"(?P<episode>\d+)/(?P<table>\w+)\.csv$",
        stamp="log",
        verify_checksums=False,
        salvage=True,
        fingerprint="content",
    )
    assert (made.max_failed_episodes, made.max_vanished, made.read_timeout) == (2, 1, 2.5)
    assert made.splits == SplitSpec((("train", 0.75), ("val", 0.25)))
    assert made.features == (
        Feature(
            "observation.state",
            (
                FeatureSource("arm[q1,q2]", "cubic", max_gap=50_000_000, offset=-3_000_000, optional=True),
                FeatureSource("gripper[0]"),
            ),
        ),
        Feature("observation.pose", (FeatureSource("pose", "pose", quaternion_order="wxyz"),)),
    )
    assert made.timeline == TimelineSpec(reference="camera", range="union")
    tree = LeRobotOptions("v2.1", task="go", invalid="keep")
    assert made.output == OutputSpec(
        "s3://bucket/out", "arrow", "none", 8, 9, 7, 3, True, "_", True, tree, {"key": "k"}, True
    )
    assert dataclasses.asdict(made.compute) == {
        "device": "cuda",
        "max_memory_mb": 100,
        "threads": 3,
        "require_extension": True,
        "processes": 4,
        "isolate": True,
        "isolate_memory_mb": 9,
    }
    assert (made.cluster.max_attempts, made.cluster.shard_deadline) == (5, 60)
    assert pickle.loads(pickle.dumps(made)) == made  # it travels to workers: no OmegaConf node may be left in it


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("50ms", 50_000_000),
        ("1s", 10**9),
        ("250us", 250_000),
        ("10ns", 10),
        ("1.5s", 1_500_000_000),
        ("0s", 0),
        ("-3ms", -3_000_000),
        ("+2 ms", 2_000_000),
        (".5us", 500),
        ("9007199254.740993s", 9_007_199_254_740_993_000),  # 2**53 + 1 microseconds: no float holds it
    ],
)
def test_durations_are_exact(text, nanoseconds):
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["50", "ms", "1e3ms", "1 h", "1.5.2s", "", "nan s", "0.1ns", "1s2ms", "9223372037s", "٣ms"]
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match=r"write|finer|292 years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        (50, Fraction(50)),
        (29.97, Fraction(2997, 100)),
        ("30000/1001", Fraction(30000, 1001)),
        ("12.5", Fraction(25, 2)),
        (1e-3, Fraction(1, 1000)),
        (10**9, Fraction(10**9)),
    ],
)
def test_rates_are_exactly_what_is_written(value, rate):
    assert parse_rate(value) == rate


@pytest.mark.parametrize("value", [0, -5, float("nan"), float("inf"), "1/0", "fast", "", 2e9])
def test_what_is_no_rate(value):
    with pytest.raises(ValueError, match="rate above 0"):
        parse_rate(value)


def test_the_cluster_keys_reach_the_job():
    written = (
        "{mode: ray, address: 'ray-head:6379', workers: 4, gpus_per_worker: 0.5, cpus_per_worker: 2, memory_mb: 100}"
    )
    shared = ("input.uri=/mnt/logs", "output.uri=/mnt/out")
    made = job(MINIMAL, *shared, f"cluster={written}")
    assert made.cluster == ClusterSpec("ray", "ray-head:6379", 4, 0.5, 2.0, 100)
    assert made.identity() == job(MINIMAL, *shared).identity()
    local = job(MINIMAL, f"cluster={written}", "cluster.mode=local")  # the same config, by one override
    assert local.cluster.mode == "local"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("features.observation.pose.quaternion_order=xyzw", True),
        ("input.storage_options.key=other", True),
        ("input.max_failed_episodes=9", True),
        ("output.uri=elsewhere", True),
        ("compute={device: cpu}", True),
        ("features.observation.pose.align=slerp", False),
        ("features.observation.pose.max_gap=1s", False),
        ("input.verify_checksums=true", False),
        ("input.salvage=false", False),
        ("timeline.range=intersection", False),
        ("input.uri=elsewhere", True),
        ("input.max_vanished=9", True),
        ("input.read_timeout=9", True),
        ("input.fingerprint=version", True),
        ("splits={train: 0.5, val: 0.5}", True),
        ("output.shard_mb=9", True),
        ("output.part_mb=8", True),
        ("output.keep_versions=9", True),
        ("output.report=false", True),
        ("output.compression=auto", True),  # which is none for Arrow
        ("output.compression=zstd", False),
        ("output.episode_id=false", False),
        ("output.name_separator=.", False),
        ("output.byte_stream_split=false", False),
        ("output.row_group_rows=7", True),
        ("output.row_group_rows=300", False),
        ("output.lerobot.version=v3.0", True),
    ],
)
def test_what_is_part_of_the_identity(tmp_path, change, same):
    path = full_file(tmp_path)
    assert (load_job(path, [change]).identity() == load_job(path).identity()) == same


def test_overrides(tmp_path):
    made = load_job(
        full_file(tmp_path),
        [
            "timeline={rate_hz: 100}",
            "output.uri=out2",
            "features.observation.state[0].max_gap=1s",
            "features[observation.state][1]={source: gripper, align: previous}",
            "features[observation.effort]=arm[e1]",
            "features.observation.pose.align=slerp",
            "input.times.unit=ns",
        ],
    )
    assert made.timeline == TimelineSpec(rate=Fraction(100))
    assert made.output.uri == "out2"
    state, pose, effort = made.features
    assert (state.sources[0].max_gap, state.sources[0].align) == (10**9, "cubic")
    assert state.sources[1] == FeatureSource("gripper", "previous")
    assert pose.sources[0] == FeatureSource("pose", "slerp", quaternion_order="wxyz")
    assert (effort.name, effort.sources) == ("observation.effort", (FeatureSource("arm[e1]"),))
    assert made.input.times == TableTimes("t", "ns")


def test_an_override_reaches_the_longest_feature_name(tmp_path):
    path = tmp_path / "c.yaml"
    features = "features: {a: {source: /a}, a.b: {source: /b}, a.bc: {source: /c}}"
    path.write_text(MINIMAL.replace("features: {action: /command.position}", features))
    made = load_job(str(path), ["features.a.b.align=mean"])
    assert [f.sources[0].align for f in made.features] == ["auto", "mean", "auto"]


def test_the_resolved_config_keeps_no_secret(monkeypatch):
    monkeypatch.setenv("ROBOCACHE_KEY", "hunter2")
    made = job(FULL)
    text = resolved_yaml(made)
    assert text.startswith("# storage_options left out")
    assert "hunter2" not in text
    assert "minio" not in text
    public = dataclasses.replace(
        made,
        input=dataclasses.replace(made.input, storage_options={}),
        output=dataclasses.replace(made.output, storage_options={}),
    )
    assert job_from_mapping(OmegaConf.create(text)) == public
    assert "storage_options" not in resolved_yaml(public)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1).filter(str.strip)
SOURCES = st.builds(
    FeatureSource,
    source=TEXT.map(lambda t: t.replace("[", "").replace("]", "")).filter(str.strip) | st.just("/a.b[0:7]"),
    align=st.sampled_from(["linear", "cubic", "nearest", "previous", "next", "mean", "angle", "pose"]),
    max_gap=st.none() | st.integers(0, 2**63 - 1),
    offset=st.integers(-(2**62), 2**62),
    optional=st.booleans(),
)
TABLES = st.builds(TableTimes, column=TEXT, unit=st.sampled_from(["ns", "us", "ms", "s"]))
JOBS = st.builds(
    Job,
    input=st.builds(
        InputSpec,
        uri=st.tuples(st.sampled_from(["1e3", "yes", "a: b", "~", "0x10", "logs/${x}", "logs/\\${x}", "2020-01-01"])),
        format=st.sampled_from(["auto", "csv"]),
        times=st.none()
        | st.builds(TableTimes, column=TEXT, unit=st.sampled_from(["ns", "us", "ms", "s"]))
        | st.builds(TableTimes, rate_hz=st.fractions(Fraction(1, 1000), 10**6, max_denominator=10**6))
        | st.builds(TableTimes, columns=st.tuples(TEXT, TEXT), tables=st.dictionaries(TEXT, TABLES, max_size=2)),
        episode=st.sampled_from(["file", "folder", r"(?P<episode>\d+)\.x$", r"\\\${(?P<episode>.)}"]),
        stamp=st.sampled_from(["header", "log"]),
        verify_checksums=st.booleans(),
        salvage=st.booleans(),
    ),
    features=st.lists(SOURCES, min_size=1, max_size=3).map(lambda s: (Feature("observation.a b", tuple(s)),)),
    timeline=st.builds(
        TimelineSpec,
        rate=st.fractions(1, 10**6, max_denominator=10**6),
        range=st.sampled_from(["intersection", "union"]),
    )
    | st.just(TimelineSpec(reference="/x")),
    output=st.builds(OutputSpec, uri=st.just("out/Ünïcode dir"), compression=st.sampled_from(["zstd", "none"])),
    max_failed_episodes=st.integers(0, 10),
)


@settings(deadline=None, max_examples=30)
@given(JOBS)
def test_the_resolved_config_reads_back_as_the_same_job(made):
    again = job_from_mapping(OmegaConf.create(resolved_yaml(made)))
    assert again == made
    assert again.identity() == made.identity()


def test_select_takes_text_numbers_and_lists():
    def chosen(select):
        base = {"features": {"x": "x"}, "timeline": {"rate_hz": 1}, "output": {"uri": "out"}}
        return job_from_mapping({"input": {"uri": "a", "select": select}, **base}).input.select

    assert chosen([0, 3, 5]) == ("0", "3", "5") and chosen("train, demo_3") == ("train", "demo_3")
    assert chosen("0:50") == ("0:50",) and chosen("") == ()

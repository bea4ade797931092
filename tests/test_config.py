"""The configuration edge: what a config means, and that every mistake in it is reported, with its place, at once."""

from __future__ import annotations

import dataclasses
import pickle
from fractions import Fraction
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from robocache.config import job_from_mapping, load_job, parse_duration, parse_rate, resolved_yaml
from robocache.config_schema import Input, Source
from robocache.engine.job import ClusterSpec, Feature, FeatureSource, Job, OutputSpec, TimelineSpec
from robocache.errors import ConfigError
from robocache.formats import READERS
from robocache.formats.base import InputSpec, TableTimes
from robocache.ops import MODES

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
  max_failed_episodes: 2
features:
  observation.state:
    - {source: "arm[q1,q2]", align: cubic, max_gap: 50ms, offset: -3ms, optional: true}
    - gripper[0]
  observation.pose: {source: "pose", align: pose, quaternion_order: wxyz}
timeline: {reference: camera, range: union}
output:
  {uri: "s3://bucket/out", format: arrow, compression: none, shard_mb: 8,
   storage_options: {key: "${input.storage_options.key}"}}
compute: {device: cuda, max_memory_mb: 100, threads: 3, require_extension: true}
cluster: {mode: local, max_attempts: 5}
"""


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


def test_the_closed_sets_are_those_of_the_code_behind_them():
    formats, modes = get_type_hints(Input)["format"], get_type_hints(Source)["align"]
    assert get_args(formats) == ("auto", *READERS)
    assert get_args(modes) == MODES


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
    )
    assert made.max_failed_episodes == 2
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
    assert made.output == OutputSpec("s3://bucket/out", "arrow", "none", 8, {"key": "k"})
    assert dataclasses.asdict(made.compute) == {
        "device": "cuda",
        "max_memory_mb": 100,
        "threads": 3,
        "require_extension": True,
    }
    assert made.cluster.max_attempts == 5
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


def test_all_problems_are_reported_together_each_with_its_path():
    found = problems(
        """
        input: {uri: 7, formt: mcap, format: mpcap, stamp: 3, verify_checksums: 2, max_failed_episodes: -1}
        features:
          observation.state:
            - {source: /q, align: liner, max_gap: 50}
            - {surce: /g, max_gap: -50ms}
            - 7
          empty: []
          4: /x
        timeline: {rate_hz: -5}
        output: {compression: null, shard_mb: 0.5}
        compute: {threads: -1, max_memory_mb: 0}
        cluster: 3
        extra: 1
        """
    )
    text = "\n".join(found)
    expected = {
        "extra": "unknown key; the keys here are input, features",
        "input.uri": "found 7; write a path or URI",
        "input.formt": "unknown key; did you mean 'format'?",
        "input.format": "found 'mpcap'; did you mean 'mcap'?",
        "input.stamp": "found 3; write header or log",
        "input.verify_checksums": "found 2; write true or false",
        "input.max_failed_episodes": "found -1; write a whole number of 0 or more",
        "features.observation.state[0].align": "found 'liner'; did you mean 'linear'?",
        "features.observation.state[0].max_gap": "found 50; write a duration with its unit (ns, us,",
        "features.observation.state[1].surce": "unknown key; did you mean 'source'?",
        "features.observation.state[1].source": "missing; write a source path",
        "features.observation.state[1].max_gap": "found '-50ms'; write a duration of 0 or more",
        "features.observation.state[2]": "found 7; write a source path",
        "features.empty": "found an empty list; write",
        "features.4": "name a feature with text",
        "timeline.rate_hz": "found -5; write a rate above 0",
        "output.uri": "missing; write a path or URI",
        "output.compression": "found null; write zstd or none",
        "output.shard_mb": "found 0.5; write a whole number",
        "compute.threads": "found -1; write a whole number of 0 or more",
        "compute.max_memory_mb": "found 0; write a whole number of 1 or more",
        "cluster": "found 3; write a mapping with the keys mode, address",
    }
    for path, right in expected.items():
        assert f"{path}: {right}" in text
    assert len(found) == len(expected)


@pytest.mark.parametrize("section", ["input", "timeline", "output", "compute", "cluster"])
@pytest.mark.parametrize("value", ["3", "[a]", "text"])
def test_a_section_that_is_no_mapping(section, value):
    assert f"{section}: found " in only_problem(MINIMAL, f"{section}={value}")


def test_an_empty_config_names_what_it_needs():
    assert [line.partition(";")[0] for line in problems("{}")] == [
        "input.uri: missing",
        "features: missing",
        "output.uri: missing",
        "timeline: found neither rate_hz nor reference",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("input.times={column: t, rate_hz: 20}", "input.times: found both column and rate_hz"),
        ("input.times={unit: ms}", "input.times: found neither column nor rate_hz"),
        ("input.times={rate_hz: 20, unit: ms}", "input.times.unit: a unit belongs to a time column"),
        ("input.times={rate_hz: 0}", "input.times.rate_hz: found 0; write a rate above 0"),
        ("input.times={column: t, unit: min}", "input.times.unit: found 'min'; write ns, us, ms or s"),
        ("input={uri: a, format: mcap, times: {column: t}}", "input.times: mcap carries its own time"),
        ("input.episode='(?P<name>.*)'", "input.episode: found '(?P<name>.*)'; write file, folder, or"),
        ("input.episode=folders", "input.episode: found 'folders'; did you mean 'folder'?"),
        ("input.episode='('", "input.episode: found '('; not a regular expression"),
        ("input.uri=[]", "input.uri: found an empty list; write a path"),
        ("input.uri=a/x**", "input.uri: found 'a/x**'; Invalid pattern"),
        ("timeline={rate_hz: 50, reference: /x}", "timeline: found both rate_hz and reference"),
        ("timeline={}", "timeline: found neither rate_hz nor reference"),
        ("timeline={reference: '/x[0,,1]'}", "timeline.reference: source '/x[0,,1]': empty item"),
        ("timeline.rate_hz=true", "timeline.rate_hz: found true; write a rate"),
        ("features={}", "features: found an empty mapping; write a mapping"),
        ("features=[/a]", "features: found a list; write a mapping"),
        ("features.action=''", "features.action.source: found ''; write a source path"),
        ("features.action='/x[1,,2]'", "features.action.source: source '/x[1,,2]': empty item"),
        ("features.action={source: 3}", "features.action.source: found 3; write a source path"),
        ("features.action={source: /x, optional: 1}", "features.action.optional: found 1; write true or false"),
        (
            "features.action={source: '/x[0:3]', align: slerp}",
            "features.action.align: found 'slerp'; it takes 4 columns and /x[0:3] selects 3",
        ),
        (
            "features.action={source: '/x[a,b,c,0:2]', align: pose}",
            "features.action.align: found 'pose'; it takes 7 columns and /x[a,b,c,0:2] selects 5",
        ),
        (
            "features.action={source: /x, quaternion_order: wxyz}",
            "features.action.quaternion_order: found 'wxyz'; align linear knows no quaternions",
        ),
        ("features.frame_index=/x", "features.frame_index: every dataset has its own column"),
        ("features[action.valid]=/x", "features.action.valid: this column marks where action is valid"),
        ("output.uri=' '", "output.uri: found ' '; write a path or URI"),
        ("cluster.mode=slurm", "cluster.mode: found 'slurm'; write local or ray"),
        ("cluster={mode: ray, workers: -1}", "cluster.workers: found -1; write a whole number of 0 or more"),
        ("cluster={mode: ray, memory_mb: -1}", "cluster.memory_mb: found -1; write a whole number of 0 or more"),
        ("cluster={mode: ray, cpus_per_worker: 0}", "cluster.cpus_per_worker: found 0.0; write a fraction between 0"),
        ("cluster={mode: ray, cpus_per_worker: 1.5}", "cluster.cpus_per_worker: found 1.5; write a fraction"),
        ("cluster={mode: ray, gpus_per_worker: 1.5}", "cluster.gpus_per_worker: found 1.5; write 0, a fraction"),
    ],
)
def test_each_mistake_is_one_problem(override, problem):
    assert only_problem(MINIMAL, override).startswith(problem)


@pytest.mark.parametrize(("device", "gpus", "right"), [("cpu", 0.5, "write 0 or"), ("cuda", 0, "write more")])
def test_workers_have_the_device_that_is_asked_for(device, gpus, right):
    found = only_problem(MINIMAL, f"compute={{device: {device}}}", f"cluster={{mode: ray, gpus_per_worker: {gpus}}}")
    assert found.startswith(f"cluster.gpus_per_worker: found {float(gpus)}; compute.device is {device}; {right}")


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
    "override",
    [
        "features.action={source: '/x[0:3]', align: linear}",
        "features.action={source: '/x[3:]', align: pose}",  # how many columns that is, only the recording knows
        "features.action={source: '/x[-4:]', align: slerp}",
        "features.action={source: '/x[w,x,y,z]', align: slerp, quaternion_order: wxyz}",
        "features[other.valid]=/x",
        "timeline={rate_hz: null, reference: /x}",
        "timeline.rate_hz='24'",
        "input.times={rate_hz: 20, column: null}",
        "compute=",
        "cluster={mode: ray, gpus_per_worker: 0.25, cpus_per_worker: 0.5}",
        "cluster={mode: ray, gpus_per_worker: 2}",
    ],
)
def test_what_is_right_is_accepted(override):
    assert isinstance(job(MINIMAL, override), Job)


@pytest.mark.parametrize(
    ("source", "output", "overlaps"),
    [
        ("logs", "logs", True),
        ("logs", "./logs/", True),
        ("logs", "logs/out", True),
        ("logs/", "other/../logs/a/b", True),
        ("logs", "logs-out", False),
        ("logs/a", "logs", True),  # an overwrite would delete the recordings
        ("logs/*.mcap", "logs", True),
        ("logs/*.mcap", "logs/out", False),
        ("logs/*", "logs/out", True),  # the glob names the folder
        ("logs/**", "logs/out", True),
        ("logs/**/*.mcap", "logs/out", False),
        ("logs/**/*.parquet", "logs/out", True),
        ("logs/x.mcap", "logs", True),
        ("s3://b/logs", "s3://b/logs/out/", True),
        ("s3://b/logs/**", "s3://b/logs/out", True),
        ("s3://b/logs", "s3://c/logs", False),
        ("s3://b/logs", "b/logs", False),
        ("file:///data/logs", "/data/logs/out", True),
    ],
)
def test_output_must_lie_apart_from_the_input(source, output, overlaps):
    config = {
        "input": {"uri": source},
        "features": {"a": "/x"},
        "timeline": {"rate_hz": 1},
        "output": {"uri": output},
    }
    if overlaps:
        with pytest.raises(ConfigError, match=r"^output.uri: found .* it overlaps the input .*; write a folder apart"):
            job_from_mapping(config)
    else:
        assert job_from_mapping(config).output.uri == output


def test_output_behind_a_link_is_still_the_input(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "logs")
    assert only_problem(MINIMAL, f"input.uri={tmp_path}/logs", f"output.uri={tmp_path}/link/out").startswith(
        "output.uri"
    )


def test_interpolations(monkeypatch):
    monkeypatch.setenv("ROBOCACHE_RATE", "30")
    monkeypatch.delenv("ROBOCACHE_NOWHERE", raising=False)
    made = job(MINIMAL, "timeline.rate_hz=${oc.env:ROBOCACHE_RATE}", "output.uri=${oc.env:ROBOCACHE_NOWHERE,there}/x")
    assert (made.timeline.rate, made.output.uri) == (30, "there/x")
    found = problems(
        MINIMAL,
        "output.uri=${oc.env:ROBOCACHE_NOWHERE}",
        "features.action={source: '${nope.a}'}",
        "input.uri=['${nope.b}']",
        "timeline.rate_hz=???",
    )
    assert sorted(found) == [
        "features.action.source: Interpolation key 'nope.a' not found",
        "input.uri: Interpolation key 'nope.b' not found",
        "output.uri: Environment variable 'ROBOCACHE_NOWHERE' not found",
        "timeline.rate_hz: missing; replace ??? by a rate above 0 and up to 1e9 Hz, such as 50 or '30000/1001'",
    ]


@pytest.fixture
def full_file(tmp_path) -> str:
    path = tmp_path / "full.yaml"
    path.write_text(FULL)
    return str(path)


def test_overrides(full_file):
    made = load_job(
        full_file,
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
    assert [f.sources[0].align for f in made.features] == ["linear", "mean", "linear"]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("timeline.rate_hz", "override 'timeline.rate_hz': write path=value"),
        ("=3", "override '=3': write path=value"),
        ("output.uri=[1,", "override 'output.uri=[1,': cannot be applied: "),
        ("features.observation.state[9].align=mean", "override 'features.observation.state[9].align=mean': cannot be"),
        ("compute.thread=1", "compute.thread: unknown key; did you mean 'threads'?"),
        ("features.observation.state[0].aling=mean", "features.observation.state[0].aling: unknown key; did you mean"),
    ],
)
def test_wrong_overrides(full_file, override, problem):
    with pytest.raises(ConfigError) as caught:
        load_job(full_file, [override])
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{full_file}: {problem}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file"),
        (b"- a\n- b\n", "found a list; write a mapping with the keys input, features"),
        (b"3", "cannot be read"),
        (b"\xff\xfe", "cannot be"),
        (b"a: [1\nb: 2\n", "cannot be parsed: "),
        (b"input: {uri: a}\ninput: {uri: b}\n", "cannot be parsed: found duplicate key input (line 2, column 1)"),
        (b"a: ${b", "cannot be parsed: "),
        (b"a: !!python/object/apply:os.system [ls]\n", "cannot be parsed: could not determine a constructor"),
    ],
)
def test_files_that_are_no_config(tmp_path, content, problem):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_job(str(path))
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert len(caught.value.problems) == 1


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
JOBS = st.builds(
    Job,
    input=st.builds(
        InputSpec,
        uri=st.tuples(st.sampled_from(["1e3", "yes", "a: b", "~", "0x10", "logs/${x}", "logs/\\${x}", "2020-01-01"])),
        format=st.sampled_from(["auto", "csv"]),
        times=st.none()
        | st.builds(TableTimes, column=TEXT, unit=st.sampled_from(["ns", "us", "ms", "s"]))
        | st.builds(TableTimes, rate_hz=st.floats(1e-3, 1e6)),
        episode=st.sampled_from(["file", "folder", r"(?P<episode>\d+)\.x$", r"\\\${(?P<episode>.)}"]),
        stamp=st.sampled_from(["header", "log"]),
        verify_checksums=st.booleans(),
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


@settings(deadline=None, max_examples=100)
@given(JOBS)
def test_the_resolved_config_reads_back_as_the_same_job(made):
    again = job_from_mapping(OmegaConf.create(resolved_yaml(made)))
    assert again == made
    assert again.identity() == made.identity()

"""The configuration edge: every mistake in a config is reported, with its place, at once; what is none is not."""

from __future__ import annotations

import pytest
from config_kit import MINIMAL, full_file, job, only_problem, problems

from robocache.config.job import Job
from robocache.config.load import job_from_mapping, load_job
from robocache.errors import ConfigError


def test_all_problems_are_reported_together_each_with_its_path():
    found = problems(
        """
        input: {uri: 7, formt: mcap, format: mpcap, stamp: " ", verify_checksums: 2, max_failed_episodes: -1,
                read_timeout: -1}
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
        "input.stamp": "found ' '; write header, log, publish, or the path of a field of the message",
        "input.verify_checksums": "found 2; write true or false",
        "input.max_failed_episodes": "found -1; write a whole number of 0 or more",
        "input.read_timeout": "found -1.0; write seconds, or 0 for no limit",
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
        "output.compression": "found null; write auto, zstd or none",
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
            "features.action={source: /x, align: linear, quaternion_order: wxyz}",
            "features.action.quaternion_order: found 'wxyz'; align linear knows no quaternions",
        ),
        (
            "features.action={source: /x, align: nearest, period: deg}",
            "features.action.period: found 'deg'; align nearest knows no angles",
        ),
        (
            "features.action={source: /x, align: angle, period: 0}",
            "features.action.period: found 0; write rad, deg, or the number that one turn is",
        ),
        (
            "features.action={source: /x, align: mean, snap: 2ms}",
            "features.action.snap: found '2ms'; align mean does not snap; only previous and next do",
        ),
        (
            "features.action={source: /x, max_gap: soon}",
            "features.action.max_gap: found 'soon'; write a duration with its unit (ns, us, ms or s), such as 50ms, or",
        ),
        ("features.action={source: /x, dtype: double}", "features.action.dtype: found 'double'; write auto, bool"),
        ("features.action={sources: /x}", "features.action.sources: found '/x'; write a list of sources"),
        ("features.action={sources: [/x], align: mean}", "features.action.align: unknown key; the keys here are"),
        ("quality.min_kept=50", "quality.min_kept: found 50.0; write a share between 0 and 1"),
        ("quality.max_late=none", "quality.max_late: found 'none'; write a duration with its unit"),
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


def test_the_reference_has_one_offset():
    changes = "features={a: {source: /x, offset: 1ms}, b: /x}", "timeline={reference: /x}"
    assert only_problem(MINIMAL, *changes) == (
        "timeline.reference: /x has the offsets +0 ns, +1000000 ns in the features; give it one"
    )


@pytest.mark.parametrize(("device", "gpus", "right"), [("cpu", 0.5, "write 0 or"), ("cuda", 0, "write more")])
def test_workers_have_the_device_that_is_asked_for(device, gpus, right):
    found = only_problem(MINIMAL, f"compute={{device: {device}}}", f"cluster={{mode: ray, gpus_per_worker: {gpus}}}")
    assert found.startswith(f"cluster.gpus_per_worker: found {float(gpus)}; compute.device is {device}; {right}")


@pytest.mark.parametrize(
    "override",
    [
        "features.action={source: '/x[0:3]', align: linear}",
        "features.action={source: '/x[3:]', align: pose}",  # how many columns that is, only the recording knows
        "features.action={source: '/x[-4:]', align: slerp}",
        "features.action={source: '/x[w,x,y,z]', align: slerp, quaternion_order: wxyz}",
        "features[other.valid]=/x",
        "features.action='[Fx,Fy,0:2]'",  # columns of the only table
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
def test_wrong_overrides(tmp_path, override, problem):
    path = full_file(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_job(path, [override])
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{path}: {problem}")


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


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("https://ann:hunter2@host/logs/a.mcap", "holds the password of 'ann' at host"),
        ("s3://bucket/a.mcap?X-Amz-Signature=hunter2", "holds a secret, 'X-Amz-Signature', in the query behind"),
        ("zip://a.csv::https://host/a.zip?sig=hunter2&x=1", "holds a secret, 'sig', in the query behind '/a.zip'"),
    ],
)
def test_what_is_secret_stays_out_of_uris(uri, said):
    found = "\n".join(problems(MINIMAL.replace("logs/*.mcap", f"'{uri}'")))
    assert f"input.uri: {said}" in found and "storage_options" in found
    assert "hunter2" not in found


def test_brackets_without_end(tmp_path):
    path = tmp_path / "deep.yaml"
    path.write_text("features: " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match="nests lists or mappings hundreds deep"):
        load_job(str(path), [])

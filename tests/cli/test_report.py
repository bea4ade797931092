"""The page that ``robocache report`` writes: what it says, that nothing in it acts, and that it stays small."""

from __future__ import annotations

import json
import re
import shutil
import time
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import cloud_kit
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_kit import config, write_parquet

import robocache
from robocache import cli
from robocache.engine.page import page
from robocache.engine.page.overhead import is_cloud, overhead
from robocache.engine.page.shots import BROWSERS, shots
from robocache.engine.run import run
from robocache.output.facts import Facts, FeatureFacts, StreamFacts, outliers
from robocache.output.manifest import QuarantineRecord
from robocache.output.statistics import Moments, Statistics
from robocache.video import png

HOSTILE = "b_<img src=x onerror=alert(1)>&\u202e.parquet"
VOID = {"meta", "img", "br", "path", "rect"}


class Page(HTMLParser):
    """Checks the nesting, and keeps what is said and what is drawn."""

    def __init__(self, made: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(made)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.said)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def faults(tmp_path_factory) -> Path:
    """Six recordings, the fourth in degrees, one whose name is markup, with images; and one that is damaged."""
    root = tmp_path_factory.mktemp("report")
    names = ["a.parquet", HOSTILE, "c.parquet", "d.parquet", "e.parquet", "f.parquet"]
    for seed, name in enumerate(names):
        image = png(np.full((20, 30, 3), 40 * seed, np.uint8))
        write_parquet(root / "logs" / name, samples=120, seed=seed, image=pa.array([image] * 120))
    table = pq.read_table(root / "logs/d.parquet")
    degrees = pa.FixedSizeListArray.from_arrays(
        pa.array(np.degrees(table["q"].combine_chunks().flatten().to_numpy())), 3
    )
    pq.write_table(table.set_column(1, "q", degrees), root / "logs/d.parquet")
    (root / "logs/g.parquet").write_bytes(b"<script>alert(1)</script>")
    features = {"q": {"source": "q"}, "grip": {"source": "grip"}, "image": {"source": "image", "max_gap": "none"}}
    run(config(root / "logs", root / "out", features=features, input__max_failed_episodes=1))
    return root


def report(faults: Path, *options: str) -> Page:
    out = faults / "report.html"
    assert cli.main(["report", str(faults / "out"), "-o", str(out), *options]) == cli.DONE
    return Page(out.read_text())


def test_what_it_says(faults, capsys):
    found = report(faults)
    assert f"{faults / 'report.html'}: " in capsys.readouterr().out
    assert [a["id"] for a in found.all("section")] == [
        "quality", "streams", "rows", "features", *(a["id"] for a in found.all("section") if "episode" in a["id"]),
        "pictures", "left-out", "run",
    ]  # fmt: skip
    quality = found.text[found.text.index("Quality") : found.text.index("What was found in each source")]
    assert re.search(r"d\.parquet: q: each of its numbers spreads \d\d\.?\d* times as wide", found.text)
    assert "degrees where others have radians?" in quality
    assert "g.parquet" in found.text and "quarantined: 1 of 7 episodes" in quality
    images = found.all("img")
    assert len(images) == 4 and all(a["src"].startswith("data:image/png;base64,") and a["alt"] for a in images)
    assert 'class="dots"' in (faults / "report.html").read_text()
    assert "age, 99 %" in found.text


def test_made_as_a_run_ends(faults, tmp_path, caplog, monkeypatch):
    asked = {"features": {"q": {"source": "q"}}, "input__max_failed_episodes": 1}
    run(config(faults / "logs", tmp_path / "out", output__report=True, **asked))
    made = tmp_path / "out/meta/robocache/_report.html"
    assert "quarantined: 1 of 7 episodes" in Page(made.read_text()).text
    assert robocache.verify(str(tmp_path / "out")).problems == ()
    identity = robocache.Output.open(str(tmp_path / "out")).identity
    made.unlink()
    monkeypatch.setattr("robocache.engine.report.make", lambda output: 1 / 0)
    run(config(faults / "logs", tmp_path / "out", output__report=True, **asked))
    assert "_report.html was not made: ZeroDivisionError" in caplog.text and not made.exists()
    run(config(faults / "logs", tmp_path / "out", **asked))
    assert robocache.Output.open(str(tmp_path / "out")).identity == identity


def test_nothing_in_it_acts(faults):
    found, made = report(faults), (faults / "report.html").read_text()
    assert "script" not in {tag for tag, _ in found.tags}
    assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    assert "b_<img src=x onerror=alert(1)>&" in found.text and "\u202e" not in made
    assert not re.search(r"(src|href)=\"(?!#|data:)", made) and "url(" not in made and "@import" not in made


def test_who_cannot_see_it_is_told(faults):
    found = report(faults)
    drawings = found.all("svg")
    assert len(drawings) > 15 and all(a["role"] == "img" and a["aria-label"] for a in drawings)
    (document,) = found.all("html")
    assert document["lang"] == "en"
    assert all(a.get("scope") in ("row", "col") for a in found.all("th"))
    numbers = [k for k, (tag, _) in enumerate(found.tags) if tag in ("h1", "h2", "h3")]
    assert numbers and found.tags[numbers[0]][0] == "h1"


def test_episodes_that_are_asked_for(faults, capsys):
    assert {a["id"] for a in report(faults, "--episode", "d.parquet").all("section")} >= {"episode-0"}
    assert cli.main(["report", str(faults / "out"), "--episode", "dd.parquet"]) == cli.USAGE
    assert "did you mean 'd.parquet'?" in capsys.readouterr().err


def test_recordings_that_are_gone(faults, tmp_path):
    (faults / "logs").rename(tmp_path / "logs")
    try:
        found = report(faults)
    finally:
        (tmp_path / "logs").rename(faults / "logs")
    assert "shown as rows alone" in found.text
    assert 'class="dots"' not in (faults / "report.html").read_text()


def feature(std: np.ndarray, mean: np.ndarray) -> FeatureFacts:
    count, width = std.shape
    m = Moments(np.arange(count), np.full((count, width), 100.0), mean - 3 * std, mean + 3 * std, mean, std)
    total = Statistics.of(np.random.default_rng(0).standard_normal((500, width)))
    return FeatureFacts("q", tuple(map(str, range(width))), m, total)


def test_outliers_are_few_and_named():
    rng = np.random.default_rng(1)
    std, mean = rng.uniform(0.5, 2, (200, 3)), rng.normal(0, 0.3, (200, 3))
    assert outliers(feature(std, mean)) == []
    std[17] /= np.degrees(1)
    std[40, 1] *= 1000
    mean[90, 2] += 40
    std[120] = 0  # it rests, which is no fault
    found = {o.episode: o.text for o in outliers(feature(std, mean))}
    assert found.keys() == {17, 40, 90}
    assert "radians where others have degrees?" in found[17]
    assert found[40].startswith("1 spreads") and "mm" in found[40]
    assert found[90].startswith("2 lies")


def test_a_large_dataset_makes_a_small_page():
    count, rng = 10_000, np.random.default_rng(0)
    features = []
    for k in range(8):
        std = rng.uniform(0.5, 2, (count, 14))
        std[rng.integers(0, count, 50)] *= 57
        features.append(feature(std, rng.normal(0, 0.3, (count, 14))))
        features[-1] = FeatureFacts(f"feature.{k}", *list(vars(features[-1]).values())[1:])
    counts = {name: rng.integers(0, 50, count) for name in
              ("samples", "late", "late_by", "duplicates", "non_finite", "dropped", "gaps", "longest_gap")}  # fmt: skip
    found = counts | {"valid_share": rng.random(count)}
    facts = Facts(
        "s3://bucket/out", 3, "2026-01-01T00:00:00", Fraction(50), 10**9, np.arange(count),
        tuple(f"day_{k // 100}/run_{k:05d}.mcap" for k in range(count)), ("train",) * count, np.full(count, 100),
        np.ones(count), {f.name: rng.random(count) for f in features}, ({},) * count,
        tuple(StreamFacts(f"/topic_{k}.field", np.arange(count), found) for k in range(12)), tuple(features),
        tuple(QuarantineRecord(k, f"run_{k}", (f"run_{k}",), "it ends in the middle") for k in range(3000)), {},
    )  # fmt: skip
    began = time.perf_counter()
    made = page(facts, [("a topic is late", True)])
    assert len(made) < 3_000_000 and time.perf_counter() - began < 20
    assert "the first 100" in Page(made).text


def test_pictures_of_it(faults, tmp_path, monkeypatch, capsys):
    """As wide as asked for, nothing beside the window, and the browser says nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROME", raising=False)
    asked = ["report", str(faults / "out"), "-o", str(tmp_path / "page.html"), "--png", str(tmp_path / "png")]
    assert cli.main(asked) == cli.USAGE
    assert "install Chromium" in capsys.readouterr().err


@pytest.mark.slow
def test_drawn_by_chromium(faults, tmp_path):
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium on the PATH")
    page = tmp_path / "page.html"
    assert cli.main(["report", str(faults / "out"), "-o", str(page), "--png", str(tmp_path / "png")]) == cli.DONE
    for width, shot in shots(page).items():
        assert (shot.overflow, shot.complaints) == (0, ())
        size = np.frombuffer((tmp_path / f"png/report_{width}.png").read_bytes()[16:24], ">u4")
        assert size[0] == width and size[1] > 2000
        broken = page.with_name("broken.html")
    broken.write_text(
        page.read_text().replace("<main>", '<main><img src="https://example.org/x.png"><pre>' + "x" * 900)
    )
    (shot,) = shots(broken, [400]).values()
    assert shot.overflow > 0 and "Content Security Policy" in " ".join(shot.complaints)


def test_clouds_from_above():
    """Voxels, dense and sparse, and points: x to the right, y upwards."""
    voxels = {"voxels": json.dumps({"shape": [6, 4, 2]})}
    grid = np.zeros((6, 4, 2), bool)
    grid[0, 3] = grid[5, 0, 1] = True
    dense = pa.array([grid.tolist()], pa.list_(pa.list_(pa.list_(pa.bool_(), 2), 4), 6))
    places = [np.argwhere(grid).tolist()]
    sparse = pa.StructArray.from_arrays([pa.array(places, pa.list_(pa.list_(pa.int32(), 3)))], ["coordinates"])
    for column in (dense, sparse):
        image = overhead(pa.field("v", column.type, metadata=voxels), column[0])
        corners = image[0, 0], image[-1, -1], image[0, -1], image[-1, 0]
        assert image.shape[1] * 4 == image.shape[0] * 6 and image.shape[1] >= 160
        assert corners[0].sum() < corners[1].sum() < corners[2].sum() and (corners[2] == corners[3]).all()
    points = {"x": np.array([0, 0.01, 9.9, 10]), "y": np.array([0, 0, 4.9, 5]), "z": np.zeros(4)}
    cloud = pa.array([cloud_kit.pcd({k: v.astype(np.float32) for k, v in points.items()})])
    field = pa.field("c", pa.binary(), metadata={"kind": '"cloud"', "encoding": '"pcd"'})
    assert is_cloud(field)
    image = overhead(field, cloud[0])
    left, right = (image[:, half].sum(axis=(1, 2)).argmin() for half in (slice(0, 20), slice(-20, None)))
    assert left > right and image.shape[1] > 1.8 * image.shape[0]
    assert overhead(field, pa.array([None], pa.binary())[0]) is None

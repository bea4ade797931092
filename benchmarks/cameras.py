"""A camera's episode into a dataset and back: the frames and times of the source, each frame decoded once.

    python benchmarks/cameras.py [--frames 150] [--csv FILE]

One camera of 640 x 480 pixels at 30 Hz, with jitter, recorded in three ways: JPEG in a log's messages
(CompressedImage), H.264 in a log's messages (CompressedVideo) and an MP4. Each is read as it is and with ``decode``, a
row a frame (``timeline.reference``) and at 50 Hz, where rows share frames. What PyAV shows of the source by itself, and
the payloads that were recorded, say what is right, of what the loader decodes, too: any difference ends the script.
Needs the extras test and video.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "formats"))

from message_kit import T0, make, record, register, stamp

import robocache
from robocache.video import packets, read

HEIGHT, WIDTH = 480, 640
VIDEO = register(
    "foxglove_msgs/msg/CompressedVideo",
    "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
)
IMAGE = register("sensor_msgs/msg/CompressedImage", "std_msgs/Header header\nstring format\nuint8[] data\n")


class Counted:
    """PyAV, which counts the frames that its decoders give."""

    def __init__(self, inner: Any, count: list[int]):
        self._inner, self._count = inner, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._inner, name, value)

    def __enter__(self) -> Counted:
        return Counted(self._inner.__enter__(), self._count)

    def __exit__(self, *error: Any) -> Any:
        return self._inner.__exit__(*error)

    def open(self, *given: Any, **options: Any) -> Counted:
        return Counted(self._inner.open(*given, **options), self._count)

    @property
    def CodecContext(self) -> Any:  # noqa: N802
        return Counted(self._inner.CodecContext, self._count)

    def create(self, *given: Any) -> Counted:
        return Counted(self._inner.create(*given), self._count)

    def decode(self, *given: Any) -> Any:
        for frame in self._inner.decode(*given):
            self._count[0] += 1
            yield frame


def pictures(count: int) -> list[np.ndarray]:
    """A square that moves over a slope, with grain."""
    rng = np.random.default_rng(0)
    slope = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None] // np.array([5, 7, 9])
    found = []
    for k in range(count):
        picture = slope + rng.integers(0, 12, (HEIGHT, WIDTH, 1))
        picture[40:120, 4 * k % 560 : 4 * k % 560 + 80] = (220, 40, 60)
        found.append(picture.clip(0, 255).astype(np.uint8))
    return found


def encoded(frames: list[np.ndarray], codec: str, format: str, options: dict[str, str]) -> tuple[bytes, list[bytes]]:
    """A file, and its packets."""
    data, sent = io.BytesIO(), []
    with av.open(data, "w", format=format) as file:
        stream = file.add_stream(codec, rate=30, options=options)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for k, pixels in enumerate([*frames, None]):
            frame = None if pixels is None else av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if frame is not None:
                frame.pts, frame.time_base = k, Fraction(1, 30)
            for packet in stream.encode(frame):
                sent.append(bytes(packet))
                file.mux(packet)
    return data.getvalue(), sent


def shown(data: bytes, format: str) -> list[np.ndarray]:
    """What PyAV by itself shows of a file, frame by frame."""
    with av.open(io.BytesIO(data), format=format) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def write(folder: Path, count: int) -> dict[str, tuple[Path, str, np.ndarray, list[np.ndarray], list[bytes] | None]]:
    """Of each way: the recording, its source, the times of its frames, the frames as they are shown, its payloads."""
    frames = pictures(count)
    jitter = np.random.default_rng(1).integers(-3_000_000, 3_000_000, count)
    times = T0 + np.arange(count) * 33_333_333 + jitter
    quiet = {"tune": "zerolatency", "x264-params": "scenecut=0:keyint=15:min-keyint=15:bframes=0", "crf": "23"}
    stream, units = encoded(frames, "libx264", "h264", quiet)
    _, jpegs = encoded(frames, "mjpeg", "mjpeg", {})
    movie, _ = encoded(frames, "libx264", "mp4", {"crf": "23", "g": "15"})
    (folder / "movie.mp4").write_bytes(movie)
    video = [
        (t, make(VIDEO, stamp(t), "camera", np.frombuffer(unit, np.uint8), "h264"))
        for t, unit in zip(times.tolist(), units, strict=True)
    ]
    header = register("std_msgs/msg/Header", "builtin_interfaces/Time stamp\nstring frame_id\n")
    images = [
        (t, make(IMAGE, make(header, stamp(t), "camera"), "jpeg", np.frombuffer(jpeg, np.uint8)))
        for t, jpeg in zip(times.tolist(), jpegs, strict=True)
    ]
    record(folder / "video.mcap", {"/camera": (VIDEO, video)})
    record(folder / "images.mcap", {"/camera": (IMAGE, images)})
    own = np.array([round(Fraction(k, 30) * 10**9) for k in range(count)])
    jpeg_frames = [shown(jpeg, "mjpeg")[0] for jpeg in jpegs]
    return {
        "CompressedImage": (folder / "images.mcap", "/camera", times, jpeg_frames, jpegs),
        "CompressedVideo": (folder / "video.mcap", "/camera", times, shown(stream, "h264"), units),
        "mp4": (folder / "movie.mp4", "video", own, shown(movie, "mp4"), None),
    }


def dataset(uri: Path, out: Path, feature: dict[str, Any], timeline: dict[str, Any]) -> tuple[pa.Table, int, int]:
    """The rows, the bytes of the output, and how many frames were decoded for it."""
    count = [0]
    read.pyav = packets.pyav = lambda: Counted(av, count)
    robocache.run(
        {
            "input": {"uri": str(uri), "format": "video" if uri.suffix == ".mp4" else "auto"},
            "features": {"image": feature},
            "timeline": timeline,
            "output": {"uri": str(out)},
            "compute": {"device": "cpu", "threads": 1},
        }
    )
    size = sum(path.stat().st_size for path in (out / "data").glob("*.parquet"))
    return pq.read_table(out / "data"), size, count[0]


def must(right: bool, what: str) -> None:
    if not right:
        raise SystemExit(f"not as recorded: {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--csv", type=Path, help="CSV to write")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="robocache-cameras-") as made:
        for name, (uri, source, times, frames, payloads) in write(Path(made), args.frames).items():
            for k, (decode, timeline) in enumerate(
                (d, t) for d in (False, True) for t in ({"reference": source}, {"rate_hz": 50})
            ):
                feature = {"source": source, "align": "nearest"} | ({"decode": True} if decode else {})
                if decode and name != "mp4":
                    feature["decode"] = {"resize": [HEIGHT, WIDTH]}
                table, size, decoded = dataset(uri, Path(made) / f"{name}_{k}", feature, timeline)
                at = table["time_ns"].to_numpy()
                where = f"{name}, {timeline}, decode {decode}"
                if "reference" in timeline:
                    must(np.array_equal(at, times), f"{where}: times")
                after = np.searchsorted(times, at).clip(1, len(times) - 1)
                picked = np.where(at - times[after - 1] <= times[after] - at, after - 1, after)
                must(all(table["image.valid"].to_pylist()), f"{where}: valid rows")
                if decode:
                    flat = table["image"].combine_chunks().flatten().flatten().flatten()
                    pixels = np.asarray(flat).reshape(-1, HEIGHT, WIDTH, 3)
                    must(all(np.array_equal(p, frames[f]) for p, f in zip(pixels, picked, strict=True)), where)
                elif payloads is None:
                    must([row["frame"] for row in table["image"].to_pylist()] == picked.tolist(), where)
                else:
                    held = [row["bytes"] if isinstance(row, dict) else row for row in table["image"].to_pylist()]
                    must(held == [payloads[f] for f in picked], where)
                if not decode and name != "CompressedVideo":  # packets of a video are not decoded by the loader
                    items = robocache.Dataset(str(Path(made) / f"{name}_{k}"), decode=["image"])
                    loaded = (items[i]["image"].numpy().transpose(1, 2, 0) for i in range(len(items)))
                    must(all(map(np.array_equal, loaded, (frames[f] for f in picked))), f"{where}: loaded again")
                row = {
                    "recorded": name,
                    "decode": decode,
                    "rows": "a frame each" if "reference" in timeline else "50 Hz",
                    "frames": len(times),
                    "out_rows": len(at),
                    "frames_picked": len(set(picked.tolist())),
                    "frames_decoded": decoded,
                    "input_bytes": uri.stat().st_size,
                    "output_bytes": size,
                }
                print(row, flush=True)
                rows.append(row | common.machine("av", "pyarrow"))
    common.write_csv(args.csv, rows)


if __name__ == "__main__":
    main()

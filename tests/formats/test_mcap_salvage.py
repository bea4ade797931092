"""MCAP files without a summary, cut off or with damaged chunks: refused with the remedy, and salvaged where asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from damage import outcomes
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType
from message_kit import JOINTS, T0, joints, record

from robocache.errors import InputError
from robocache.formats import InputSpec, list_episodes, list_streams, read_episode
from robocache.types import EpisodeRef, FileStamp

COUNT = 200


def write(path: Path, **options) -> Path:
    sent = [(T0 + 5 + i, joints(T0 + i, ["a", "b"], [float(i), 1.0])) for i in range(COUNT)]
    other = [(T0 + 5 + i, joints(T0 + i, ["c"], [0.0])) for i in range(0, COUNT, 10)]
    return record(path, {"/joints": (JOINTS, sent), "/other": (JOINTS, other)}, chunk_size=4000, **options)


def salvaged(path: Path, source: str = "/joints.position[a]"):
    spec = InputSpec((str(path),), salvage=True)
    (ref,) = list_episodes(spec)
    episode = read_episode(ref, [source], spec)
    return episode.streams[source], episode.notes


@pytest.mark.parametrize("kind", ["zstd", "lz4", "none", "loose"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_of_a_file_that_was_cut_off_what_is_whole_is_read(tmp_path, kind, share):
    codec = CompressionType[{"loose": "NONE"}.get(kind, kind.upper())]
    path = write(tmp_path / "a.mcap", compression=codec, use_chunking=kind != "loose")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    (ref,) = list_episodes(InputSpec((str(path),)))
    assert "set input.salvage: true to read what is whole of it" in ref.failure
    stream, notes = salvaged(path)
    assert 0 < len(stream.times) < COUNT + (share > 0.5)  # the last tenth may be its summary alone
    np.testing.assert_array_equal(stream.times, T0 + np.arange(len(stream.times)))
    np.testing.assert_array_equal(stream.values[:, 0], np.arange(len(stream.times)))
    assert "a.mcap: its summary cannot be used; going through it found" in notes[0]
    assert len(stream.times) == COUNT or "bytes are lost" in notes[1]
    if kind in ("none", "loose"):  # all but the record in which it ends
        assert int(notes[1].rpartition("the last ")[2].split()[0].replace(",", "")) < 400


@pytest.mark.realdata
def test_a_real_one_gives_what_a_streaming_reader_gives(data_dir):
    path = data_dir / "more/mcap/test_sample_truncated.mcap"
    wanted: dict[str, list[int]] = {}
    channels = {}
    try:
        for record in StreamReader(path.open("rb")).records:
            if type(record).__name__ == "Channel":
                channels[record.id] = record.topic
            elif type(record).__name__ == "Message":
                wanted.setdefault(channels[record.channel_id], []).append(record.log_time)
    except Exception:  # where it was cut off
        assert wanted
    spec = InputSpec((str(path),), salvage=True, stamp="log")
    (ref,) = list_episodes(spec)
    found = {info.source: info.times.tolist() for info in list_streams(ref, spec) if len(info.times)}
    assert found == wanted
    assert sum(map(len, found.values())) == 14


@pytest.mark.parametrize("cut", [0, 40])  # bytes of its footer
def test_a_damaged_chunk_is_left_out_and_counted(tmp_path, cut):
    path = write(tmp_path / "a.mcap", compression=CompressionType.ZSTD)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"\x28\xb5\x2f\xfd", len(whole) // 2) + 12
    whole[at : at + 20] = bytes(20)
    path.write_bytes(whole[: len(whole) - cut])
    with pytest.raises(InputError):
        read_episode(EpisodeRef("a", "mcap", (FileStamp(str(path), -1, ""),)), ["/joints"], InputSpec((str(path),)))
    stream, notes = salvaged(path)
    assert COUNT // 2 < len(stream.times) < COUNT
    (said,) = [note for note in notes if "left out" in note]
    assert "a.mcap: chunk at byte" in said and "cannot be decompressed" in said


def test_a_whole_file_is_read_by_its_index_all_the_same(tmp_path):
    path = write(tmp_path / "a.mcap")
    stream, notes = salvaged(path)
    assert (len(stream.times), notes) == (COUNT, ())


def test_damage_is_survived(tmp_path):
    path = write(tmp_path / "a.mcap", compression=CompressionType.LZ4)
    seen = outcomes(path, ["/joints.position"], 100, salvage=True)
    assert set(seen) <= {"read", "refused"}
    assert seen["read"] > 20

"""What a training loop gets is what the rows say, window by window, each once, and again after a stop."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from engine_kit import config, write_parquet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset

import robocache
from robocache.engine.run import run
from robocache.output.order import Order, key_of, scattered
from robocache.output.rows import numpy_of
from robocache.output.torch.resident import Resident
from robocache.types import numpy_type
from robocache.video import png

FORMATS = ("parquet", "arrow", "packed", "lerobot")
STATE, ACTION = "observation.state", "action"


def image(seed: int, k: int) -> np.ndarray:
    return np.random.default_rng((seed, k)).integers(0, 256, (8, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """Five recordings of unlike lengths, with text, images, and a hole in which a source is not valid."""
    root = tmp_path_factory.mktemp("training")
    for seed, samples in enumerate((60, 140, 80, 200, 41)):
        task = [f"task {seed}"] * samples
        images = pa.array([png(image(seed, k % 7)) for k in range(samples)])
        grip = np.random.default_rng(seed).random(samples)
        grip[samples // 2 : samples // 2 + 9] = np.nan
        write_parquet(root / f"logs/log_{seed}.parquet", samples=samples, seed=seed, task=task, image=images, grip=grip)
    return root


@pytest.fixture(scope="module")
def outputs(logs) -> dict[str, str]:
    features = {
        "observation.state": [{"source": "q", "max_gap": "50ms"}, {"source": "grip", "max_gap": "50ms"}],
        "action": {"source": "q", "align": "next"},
        "instruction": {"source": "task", "align": "previous"},
        "image": {"source": "image"},
    }
    how: dict[str, dict[str, Any]] = {
        "packed": {"output__format": "arrow", "output__compression": "zstd", "output__row_group_rows": 30},
        "lerobot": {"output__format": "lerobot", "output__lerobot": {"invalid": "keep"}},
    }
    for name in FORMATS:
        told = {"features": features, "output__format": name, "output__shard_mb": 1, "output__row_group_rows": 50}
        run(config(logs / "logs", logs / name, **told | how.get(name, {})))
    return {name: str(logs / name) for name in FORMATS}


def table_of(uri: str) -> pa.Table:
    output = robocache.Output.open(uri)
    return pa.concat_tables([output.table(part) for part in output.parts])


def expected(table: pa.Table, row: int, name: str, steps: list[int]) -> tuple[np.ndarray, list[bool], list[bool]]:
    """Values, padding and validity of a window, one row after the other."""
    episode = table["episode_index"][row].as_py()
    mine = [k for k, e in enumerate(table["episode_index"].to_pylist()) if e == episode]
    values, pad, valid = [], [], []
    for step in steps:
        at = min(max(row + step, mine[0]), mine[-1])
        pad.append(at != row + step)
        values.append(table[name][at].as_py())
        valid.append(table[f"{name}.valid"][at].as_py() and not pad[-1])
    return np.array(values), pad, valid


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("cache_mb", [100, 0.004])
def test_windows_are_those_of_the_rows(outputs, name, cache_mb):
    table, steps = table_of(outputs[name]), {STATE: [-3, -1, 0], ACTION: list(range(6))}
    dataset = robocache.Dataset(outputs[name], delta_steps=steps, cache_mb=cache_mb)
    assert len(dataset) == table.num_rows
    rows = np.random.default_rng(0).permutation(len(dataset))[:60]
    (batch,) = DataLoader(Subset(dataset, rows.tolist()), batch_size=60)
    assert batch[STATE].shape == (60, 3, 4) and batch[ACTION].shape == (60, 6, 3)
    assert batch["instruction"] == [table["instruction"][int(r)].as_py() for r in rows]
    np.testing.assert_array_equal(batch["timestamp"], np.array(table["timestamp"])[rows])
    for k, row in enumerate(rows.tolist()):
        for key, each in steps.items():
            values, pad, valid = expected(table, row, key, each)
            np.testing.assert_array_equal(batch[key][k], values.astype(np.float32))
            assert batch[f"{key}_is_pad"][k].tolist() == pad
            assert batch[f"{key}.valid"][k].tolist() == valid
    item = dataset[int(rows[3])]
    assert torch.equal(item[ACTION], batch[ACTION][3]) and item["instruction"] == batch["instruction"][3]
    assert not batch[f"{STATE}.valid"].all() and batch[f"{ACTION}_is_pad"].any()


def test_times_are_rows_of_a_rate(outputs):
    by_time = robocache.Dataset(outputs["arrow"], delta_timestamps={ACTION: [-0.02, 0.0, 0.04]})
    by_step = robocache.Dataset(outputs["arrow"], delta_steps={ACTION: [-1, 0, 2]})
    a, b = by_time.__getitems__(range(40)).tensors, by_step.__getitems__(range(40)).tensors
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in (ACTION, f"{ACTION}_is_pad", f"{ACTION}.valid"))
    with pytest.raises(ValueError, match=r"0\.03 s is no row of a timeline of 50 Hz; the nearest is 0\.04 s"):
        robocache.Dataset(outputs["arrow"], delta_timestamps={ACTION: [0.03]})


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.integers(-300, 300), min_size=1, max_size=5),
    rows=st.lists(st.integers(0, 252), min_size=1, max_size=6),
    name=st.sampled_from(FORMATS),
)
def test_any_window(outputs, steps, rows, name):
    table = table_of(outputs[name])
    dataset = robocache.Dataset(outputs[name], delta_steps={ACTION: steps}, columns=[ACTION], cache_mb=0.01)
    tensors = dataset.__getitems__([row % len(dataset) for row in rows]).tensors
    for k, row in enumerate(rows):
        values, pad, valid = expected(table, row % len(dataset), ACTION, steps)
        np.testing.assert_array_equal(tensors[ACTION][k], values.astype(np.float32))
        assert (tensors[f"{ACTION}_is_pad"][k].tolist(), tensors[f"{ACTION}.valid"][k].tolist()) == (pad, valid)


def test_a_timeline_without_a_rate(logs):
    changes = {"timeline": {"reference": "q"}, "output__format": "arrow"}
    run(config(logs / "logs", logs / "stamps", features={"q": {"source": "q"}}, **changes))
    table = table_of(str(logs / "stamps"))
    dataset = robocache.Dataset(str(logs / "stamps"), delta_timestamps={"q": [-0.05, 0.0, 0.02]})
    tensors = dataset.__getitems__(range(len(dataset))).tensors
    episodes, stamps = table["episode_index"].to_numpy(), table["time_ns"].to_numpy()
    values = np.array(table["q"].to_pylist(), np.float32)
    for row in range(0, len(dataset), 7):
        mine = np.flatnonzero(episodes == episodes[row])
        for k, delta in enumerate((-50_000_000, 0, 20_000_000)):
            target = stamps[row] + delta
            nearest = mine[np.argmin(np.abs(stamps[mine] - target))]
            np.testing.assert_array_equal(tensors["q"][row, k], values[nearest])
            assert bool(tensors["q_is_pad"][row, k]) == (not stamps[mine[0]] <= target <= stamps[mine[-1]])


def test_on_s3(s3, outputs):
    """Blocks from there as from here, and on after a stop."""
    for name in ("parquet", "packed"):
        how = {"delta_steps": {ACTION: range(5)}, "columns": [ACTION, "instruction"], "cache_mb": 0.01}
        here = robocache.Dataset(outputs[name], **how)
        there = robocache.Dataset(s3.put(Path(outputs[name]), name), storage_options=s3.options, **how)
        wanted, stopped, again = (d.batches(40, seed=3, threads=1) for d in (here, there, there))
        found = list(itertools.islice(stopped, 4))
        again.load_state_dict(stopped.state_dict())
        for a, b in zip([*found, *again], wanted, strict=True):
            assert torch.equal(a[ACTION], b[ACTION]) and a["instruction"] == b["instruction"]


def test_images_are_decoded_when_asked(outputs):
    plain = robocache.Dataset(outputs["parquet"])
    assert "image" not in plain[0]
    dataset = robocache.Dataset(outputs["parquet"], columns=[], decode=["image"], delta_steps={"image": [-1, 0]})
    (batch,) = DataLoader(Subset(dataset, [5, 60]), batch_size=2)
    assert batch["image"].shape == (2, 2, 3, 8, 12) and batch["image"].dtype == torch.uint8
    recorded = {image(seed, k).tobytes() for seed in range(5) for k in range(7)}
    for frame in batch["image"][batch["image.valid"]]:
        assert frame.permute(1, 2, 0).contiguous().numpy().tobytes() in recorded
    raw = robocache.Dataset(outputs["arrow"], columns=["image"])[3]["image"]
    assert raw["bytes"].startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="'action' holds no images"):
        robocache.Dataset(outputs["arrow"], decode=[ACTION])


def test_normalised_and_filled(outputs):
    asked = {STATE: "mean_std", ACTION: {"mode": "q01_q99", "convention": "openvla", "mask": [True, False, True]}}
    dataset = robocache.Dataset(outputs["arrow"], normalize=asked, fill=0.0, delta_steps={STATE: [0, 1]})
    plain = robocache.Dataset(outputs["arrow"], delta_steps={STATE: [0, 1]})
    got, raw = (d.__getitems__(range(len(d))).tensors for d in (dataset, plain))
    told = plain.output.statistics
    mean, std = (np.array(told[STATE][s]) for s in ("mean", "std"))
    valid = raw[f"{STATE}.valid"].numpy()[..., None]
    wanted = np.where(valid, (raw[STATE].numpy() - mean) / (std + 1e-8), 0.0)
    np.testing.assert_allclose(got[STATE], wanted, rtol=1e-5, atol=1e-6)
    assert not valid.all()
    low, high = (np.array(told[ACTION][s]) for s in ("q01", "q99"))
    action = raw[ACTION].numpy()
    wanted = np.clip(2 * (action - low) / (high - low + 1e-8) - 1, -1, 1)
    wanted[:, 1] = action[:, 1]
    wanted[~raw[f"{ACTION}.valid"].numpy()] = 0.0
    np.testing.assert_allclose(got[ACTION], wanted, rtol=1e-5, atol=1e-6)
    inside = (wanted[:, 0] > -1) & (wanted[:, 0] < 1) & raw[f"{ACTION}.valid"].numpy()
    back = dataset.unnormalize(ACTION, got[ACTION])
    np.testing.assert_allclose(back[inside][:, 0], action[inside][:, 0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'instruction' holds no floats"):
        robocache.Dataset(outputs["arrow"], normalize={"instruction": "mean_std"})
    with pytest.raises(ValueError, match="lerobot has mean_std"):
        robocache.Dataset(outputs["arrow"], normalize="zscore")


@pytest.mark.parametrize("name", ["arrow", "parquet"])
def test_what_is_chosen(outputs, name):
    uri, table = outputs[name], table_of(outputs[name])
    rows = {e: table.filter(pa.compute.equal(table["episode_index"], e)) for e in range(5)}
    chosen = robocache.Dataset(uri, episodes=["log_3.parquet", 1], columns=[ACTION])
    assert len(chosen) == rows[1].num_rows + rows[3].num_rows
    found = chosen.__getitems__(range(len(chosen))).tensors
    for episode in (1, 3):
        mine = found["episode_index"] == episode
        np.testing.assert_array_equal(found[ACTION][mine], np.array(rows[episode][ACTION].to_pylist(), np.float32))
    long = robocache.Dataset(uri, episodes=lambda e: e["rows"] > 60 and e["metadata"] is not None, columns=[ACTION])
    assert set(long.rows.episodes) == {e for e in rows if rows[e].num_rows > 60}
    steps = {STATE: [-2, 0], ACTION: [0, 1, 2]}
    sound = robocache.Dataset(uri, require=[STATE, ACTION], delta_steps=steps)
    kept = sound.__getitems__(range(len(sound))).tensors
    assert all((kept[f"{key}.valid"] | kept[f"{key}_is_pad"]).all() for key in steps)
    every = robocache.Dataset(uri, delta_steps=steps)
    checked = every.__getitems__(range(len(every))).tensors
    good = np.logical_and.reduce([(checked[f"{k}.valid"] | checked[f"{k}_is_pad"]).all(dim=1) for k in steps])
    assert 0 < len(sound) == int(good.sum()) < len(every)
    for wrong, told in (({"episodes": [9]}, "no episode 9"), ({"split": "val"}, "there are none"),
                        ({"columns": ["actoin"]}, "no feature 'actoin'; there are observation.state, action"),
                        ({"delta_steps": {"nope": [0]}}, "no feature 'nope'"),
                        ({"delta_steps": {ACTION: []}}, "are empty"),
                        ({"episodes": lambda e: False}, "no episode is left")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            robocache.Dataset(uri, **wrong)


def windows_of(batches: Any) -> list[list[tuple[int, int]]]:
    return [list(zip(b["episode_index"].tolist(), b["frame_index"].tolist(), strict=True)) for b in batches]


@pytest.mark.parametrize("cache_mb", [100, 0.01])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("threads", [0, 2])
def test_each_window_once_an_epoch(outputs, cache_mb, world, threads):
    dataset = robocache.Dataset(outputs["parquet"], columns=[ACTION], cache_mb=cache_mb)
    epochs = []
    loaders = [dataset.batches(16, seed=5, rank=r, world=world, threads=threads) for r in range(world)]
    for _ in range(2):
        parts = [windows_of(loader) for loader in loaders]
        assert [len(p) for p in parts] == [len(loader) for loader in loaders]
        epochs.append([w for part in parts for batch in part for w in batch])
    everything = {(e, f) for e, f in windows_of([dataset.__getitems__(range(len(dataset))).tensors])[0]}
    for seen in epochs:
        assert len(seen) == len(set(seen)) == len(dataset) and set(seen) == everything
    assert epochs[0] != epochs[1]
    full = [len(b) for r in range(world) for b in windows_of(dataset.batches(16, drop_last=True, rank=r, world=world))]
    assert set(full) == {16} and len(full) == world * (len(dataset) // world // 16)


@pytest.mark.parametrize("threads", [0, 2])
def test_goes_on_after_any_batch(outputs, threads):
    dataset = robocache.Dataset(outputs["parquet"], columns=[ACTION], cache_mb=0.01)
    make = lambda n: dataset.batches(40, seed=3, threads=n)  # noqa: E731
    whole = make(0)
    through = windows_of(whole) + windows_of(whole)
    for stop in range(len(whole) + 2):
        first = make(threads)
        begun = windows_of(itertools.islice(itertools.chain(first, first), stop))
        again = make(2 - threads)
        again.load_state_dict(first.state_dict())
        rest = itertools.islice(itertools.chain(again, again, again), len(through) - stop)
        assert begun + windows_of(rest) == through
    with pytest.raises(ValueError, match="seed was 3 and is 4"):
        dataset.batches(40, seed=4).load_state_dict(whole.state_dict())


def test_worker_processes_keep_the_order(outputs):
    dataset = robocache.Dataset(outputs["parquet"], columns=[ACTION], cache_mb=0.01)
    alone = windows_of(dataset.batches(30, seed=1))
    batches = dataset.batches(30, seed=1)
    assert windows_of(DataLoader(batches, batch_size=None, num_workers=2)) == alone
    batches.load_state_dict(batches.state_dict(batch=3))  # what a loop had seen before it was stopped
    assert windows_of(DataLoader(batches, batch_size=None, num_workers=1)) == alone[3:]
    sampled = DataLoader(dataset, batch_size=30, sampler=dataset.sampler(seed=1), num_workers=2)
    assert windows_of(sampled) == alone


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_and_workers_stopped_after_any_batch(outputs, world):
    """0, 1 and 2 worker processes, and after the stop another number of them: each window once, the rest the same."""
    dataset = robocache.Dataset(outputs["parquet"], columns=[ACTION], cache_mb=0.01)
    seen = []
    for rank in range(world):
        make = lambda r=rank: dataset.batches(60, seed=4, rank=r, world=world)  # noqa: E731
        alone = windows_of(make())
        seen += [w for batch in alone for w in batch]
        for workers, others in itertools.product((0, 1, 2), (0, 1, 2)):
            for stop in range(len(alone)):
                first, again = make(), make()
                loader = DataLoader(first, batch_size=None, num_workers=workers)
                begun = windows_of(itertools.islice(loader, stop))
                again.load_state_dict(first.state_dict(batch=stop))
                rest = windows_of(DataLoader(again, batch_size=None, num_workers=others))
                assert begun + rest == alone, (rank, workers, others, stop)
    assert len(seen) == len(set(seen)) == len(dataset)


def test_stateful_dataloader(outputs):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    dataset = robocache.Dataset(outputs["arrow"], columns=[ACTION])
    alone = windows_of(dataset.batches(30, seed=1))

    def loaders(workers: int) -> list[Any]:
        by_batches = {"dataset": dataset.batches(30, seed=1), "batch_size": None}
        by_sampler = {"dataset": dataset, "batch_size": 30, "sampler": dataset.sampler(seed=1)}
        return [stateful.StatefulDataLoader(num_workers=workers, **how) for how in (by_batches, by_sampler)]

    for workers, stop in ((0, 4), (2, 3)):
        for first, again in zip(loaders(workers), loaders(workers), strict=True):
            begun = windows_of(itertools.islice(first, stop))
            again.load_state_dict(first.state_dict())
            assert begun + windows_of(again) == alone


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=12), budget=st.integers(0, 60), seed=st.integers(0, 99))
def test_an_order_is_a_permutation_known_in_any_stretch(counts, budget, seed):
    sizes = np.array(counts) + 1
    order = Order(np.array(counts), sizes, budget=budget, shuffle=True, seed=seed, epoch=1)
    whole = order.windows(0, order.total)
    assert sorted(whole) == list(range(sum(counts)))
    third = order.total // 3
    pieces = [order.windows(0, third), order.windows(third, order.total)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    shares = [order.share(rank, 3) for rank in range(3)]
    assert [s for share in shares for s in share][1:-1] == [shares[0][1]] * 2 + [shares[1][1]] * 2


def test_an_order_looks_like_chance():
    count = 20_000
    places = scattered(np.arange(count), count, key_of(7))
    assert abs(np.corrcoef(np.arange(count), places)[0, 1]) < 0.03
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.03
    assert np.bincount(places[:2000] * 20 // count, minlength=20).std() < 20  # of 100 each, 10 by chance
    assert (scattered(np.arange(count), count, key_of(8)) == places).mean() < 0.001


def test_the_version_stays(logs, outputs):
    import pickle

    where = {"features": {"q": {"source": "q"}}, "output__keep_versions": 1}
    run(config(logs / "logs", logs / "grown", **where))
    dataset = robocache.Dataset(str(logs / "grown"), cache_mb=0.005)
    before = dataset.__getitems__(range(len(dataset))).tensors
    copy = pickle.loads(pickle.dumps(dataset))
    write_parquet(logs / "more/log_9.parquet", samples=50, seed=9)
    both = {"input__uri": [str(logs / "logs"), str(logs / "more")], "output__keep_versions": 2}
    run(config(logs / "logs", logs / "grown", **{**where, **both}))
    assert len(robocache.Dataset(str(logs / "grown"))) > len(dataset)
    after = copy.__getitems__(range(len(copy))).tensors
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_wrong_part_is_told(logs, outputs):
    import shutil

    for name in ("arrow", "parquet"):
        shutil.copytree(outputs[name], logs / f"damaged_{name}")
        parts = sorted((logs / f"damaged_{name}/data").iterdir())
        swapped = parts[0].read_bytes()
        parts[0].write_bytes(swapped[: len(swapped) // 2])
        with pytest.raises(robocache.errors.OutputError, match="robocache verify"):
            robocache.Dataset(str(logs / f"damaged_{name}"), columns=[ACTION])[0]


def on_a_device(uri: str, device: str, **asked: Any) -> robocache.Dataset:
    """A dataset as with ``device``, of which there may be none here; of the CPU its kernel gathers in memory."""
    dataset = robocache.Dataset(uri, device=None if device == "cpu" else device, cache_mb=100, **asked)
    if device == "cpu":
        there = {name: key for name, key in dataset._keys.items() if key.resident}
        dataset.resident = Resident(dataset.rows, there, dataset._fill, torch.device("cpu"))
        dataset._plans = {steps: (window, kept) for steps, (window, names) in dataset._plans.items()
                          if (kept := [name for name in names if name not in there])}  # fmt: skip
    return dataset


@pytest.mark.parametrize("name", FORMATS)
def test_on_a_device_the_same_is_gathered_there(outputs, name):
    """Of a device without numbers the shapes are seen, and where they are; of this one the numbers."""
    asked = {"normalize": {STATE: "mean_std", ACTION: "openvla.q01_q99"}, "fill": 0.5,
             "delta_steps": {STATE: [-1, 0], ACTION: [3, -70, 0]}, "require": [ACTION]}  # fmt: skip
    wanted = robocache.Dataset(outputs[name], **asked).__getitems__(range(-90, 90)).tensors
    there = on_a_device(outputs[name], "meta", **asked).__getitems__(range(-90, 90)).tensors
    found = on_a_device(outputs[name], "cpu", **asked).__getitems__(range(-90, 90)).tensors
    assert list(wanted) == list(there) == list(found)
    for key, values in wanted.items():
        if isinstance(values, torch.Tensor):
            assert (there[key].shape, there[key].dtype) == (values.shape, values.dtype)
            assert there[key].device.type == "meta"
            torch.testing.assert_close(found[key], values, rtol=1e-6, atol=1e-6)
        else:
            assert found[key] == there[key] == values


@pytest.mark.parametrize("threads", [0, 2])
def test_batches_of_a_device_are_those_of_the_host(outputs, threads):
    asked = {"delta_steps": {ACTION: range(20)}, "columns": [ACTION, "instruction"]}
    here, there = robocache.Dataset(outputs["parquet"], **asked), on_a_device(outputs["parquet"], "cpu", **asked)
    assert here.together(7) == 1 < there.together(7)
    for drop_last in (False, True):
        for rank in range(2):
            how = {"seed": 2, "drop_last": drop_last, "rank": rank, "world": 2}
            wanted = list(here.batches(7, threads=0, **how))
            stopped, again = (there.batches(7, threads=threads, **how) for _ in range(2))
            found = list(itertools.islice(stopped, 11))
            again.load_state_dict(stopped.state_dict())
            found += list(again)
            assert len(found) == len(wanted) == len(again)
            for a, b in zip(found, wanted, strict=True):
                assert a.keys() == b.keys() and a["instruction"] == b["instruction"]
                assert all(torch.equal(a[key], b[key]) for key in a if key != "instruction")


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_no_pandas_is_imported_to_train(outputs, name):
    """It is 50 MB in each process, and pyarrow imports it as soon as it converts anything to NumPy."""
    pytest.importorskip("pandas")
    code = (
        "import sys, robocache;"
        "data = robocache.Dataset(sys.argv[1], delta_steps={'action': range(-2, 3)}, cache_mb=0.05);"
        "assert sum(len(b['frame_index']) for b in data.batches(4, seed=0)) == len(data);"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, outputs[name]], check=True)


@pytest.mark.parametrize("kind", [pa.int64(), pa.float32(), pa.uint8(), pa.bool_(), pa.float16()])
def test_numbers_of_arrow_as_numpy_has_them(kind):
    """Whole, sliced, in chunks, and none at all."""
    values = np.random.default_rng(0).integers(0, 2, 37)
    array = pa.array(values.astype(numpy_type(kind)), kind)
    for some, right in (
        (array, values),
        (array[11:30], values[11:30]),
        (array[:0], values[:0]),
        (array[9:9], values[:0]),
    ):
        for column in (some, pa.chunked_array([some, some[1:]], kind)):
            wanted = right if column is some else np.concatenate([right, right[1:]])
            found = numpy_of(column)
            assert found.dtype == numpy_type(kind) and found.tolist() == wanted.astype(found.dtype).tolist()

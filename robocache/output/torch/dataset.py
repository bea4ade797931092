"""A dataset that a run has made, as a training loop takes it: windows of rows, assembled a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from robocache.ops.normalize import STATISTICS, Normalization
from robocache.output.gather import gather
from robocache.output.lerobot.footage import Footage
from robocache.output.lerobot.others import open_dataset
from robocache.output.order import Order
from robocache.output.pictures import Pictures
from robocache.output.rows import Cached, Column, Mapped, Rows, Store, Whole, block_bytes
from robocache.output.schema import counts, marks
from robocache.output.torch.batches import Batches, WindowSampler, ranked
from robocache.output.torch.items import Batch
from robocache.output.torch.keys import Key
from robocache.output.torch.resident import Resident
from robocache.output.windows import Choice, Window, chosen_episodes, grid_steps, rising_times, whole_windows

#: Beside the features, where the output has them.
_INDEX = ("episode_index", "frame_index", "timestamp")
_HERE = Window(np.zeros(1, np.int64))
#: What batches that are assembled at once on a device take at most.
_TOGETHER_BYTES, _TOGETHER_WINDOWS = 64 << 20, 1 << 16


class Dataset(torch.utils.data.Dataset):
    """The windows of the output of ``robocache run`` at ``uri``, or of a LeRobot dataset that anybody made, one around
    each row: map-style, for a ``DataLoader``, or as :meth:`batches`. The version is that of the opening, whatever runs
    do meanwhile.

    delta_steps:      by feature, which rows, seen from the window's own: ``{"action": range(50)}``
    delta_timestamps: the same in seconds, as LeRobot has it: ``{"observation.state": [-0.02, 0.0]}``. On a timeline
                      with a rate a time must be that of a row, to ``tolerance_s``; else the nearest row is taken
    columns:          which features; None: all that are numbers or text, and what ``decode`` names
    decode:           features of images, or of frames of videos, which come as uint8 ``[3, height, width]``; the extra
                      ``video`` decodes
    normalize:        a mode of :func:`robocache.normalize` for all features of floats (``"mean_std"``), or by feature a
                      mode, ``"openpi.q01_q99"`` (convention and mode), or ``{"mode", "convention", "mask"}``
    statistics:       by feature, in place of those of the output, which are of all of its episodes
    fill:             what floats are, after normalising, where there is no valid number; None: as stored
    episodes:         which: numbers, ids, or a function of a row of the episode table (``metadata`` and ``quality`` as
                      dicts) that says whether
    split:            those of that split alone
    require:          features that must be valid all over their window: others are no windows of the dataset
    cache_mb:         what the rows may take in memory, 10^6 bytes. Where they fit they are read once, now; else blocks
                      of them are held. Arrow files of this machine that are not compressed are mapped instead
    device:           where batches come out. Numbers that fit in ``cache_mb`` lie there, and windows are gathered there

    An item is ``{feature: tensor [K, *shape]}``, without K where no deltas are given, text as ``str``; and beside it

    - ``"{feature}_is_pad"`` bool ``[K]``, with deltas: outside of the episode; there stands the nearest row of it
    - ``"{feature}.valid"`` bool ``[K]`` or a scalar: the feature's own validity, False of padding
    - ``episode_index``, ``frame_index``, ``timestamp`` of the window's own row

    ``ValueError``: no such feature, episode, split or mode, a time off the rows. ``OutputError``: ``uri`` is no output,
    or damaged.
    """

    def __init__(
        self,
        uri: str,
        *,
        delta_timestamps: Mapping[str, Iterable[float]] | None = None,
        delta_steps: Mapping[str, Iterable[int]] | None = None,
        columns: Sequence[str] | None = None,
        decode: Sequence[str] = (),
        normalize: str | Mapping[str, Any] | None = None,
        statistics: Mapping[str, Mapping[str, Any]] | None = None,
        fill: float | None = None,
        episodes: Choice | None = None,
        split: str | None = None,
        require: Sequence[str] = (),
        tolerance_s: float = 1e-4,
        cache_mb: float = 1024,
        device: str | torch.device | None = None,
        version: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ):
        self.output = open_dataset(uri, storage_options, version=version)
        self.rows = Rows.of(self.output, chosen_episodes(self.output, episodes, split))
        self.device, self._fill = torch.device(device or "cpu"), fill
        self.rate = self.output.rate
        self._keys = self._named(columns, decode)
        self._keys |= self._windowed(delta_timestamps or {}, delta_steps or {}, tolerance_s)
        self._keys |= self._normalised(normalize, statistics)
        needed = {key.column.name: key.column for key in self._keys.values()}
        needed |= {key.mark: Column(key.mark, (), np.dtype(bool)) for key in self._keys.values() if key.mark}
        payloads = any(column.payload for column in needed.values())
        #: Bytes of a row in memory, about.
        self._row = sum(column.nbytes for column in needed.values()) + payloads * self.rows.stored_row
        #: What lies on the device; None: batches are assembled on the host.
        self.resident, self._columns = self._on_device(needed, int(cache_mb * 1e6))
        self._store, self._budget = self._stored(list(self._columns.values()), int(cache_mb * 1e6))
        self._kept = self._required(require)
        #: By steps, what is gathered for them on the host: keys, and columns of marks.
        self._plans: dict[bytes, tuple[Window, list[str]]] = {}
        for name, key in self._keys.items():
            if self.resident is not None and key.resident:
                continue
            window = key.window or _HERE
            self._plans.setdefault(window.steps.tobytes(), (window, []))[1].append(name)

    # What there is

    def _named(self, columns: Sequence[str] | None, decode: Sequence[str]) -> dict[str, Key]:
        schema = self.output.schema
        mark = marks(schema)
        mark |= {count: mark[name] for name, count in counts(schema).items()}
        known = {name: Column.of(schema.field(name)) for name in mark}
        for name in (*(columns or ()), *decode):
            if name not in known:
                raise self._unknown(name, known)
        if columns is None:
            plain = [c.name for c in known.values() if (c.dtype is not None or c.text) and not c.image]
            columns = [name for name in known if name in plain or name in decode]
        keys = {n: Key(Column.of(schema.field(n)), None) for n in _INDEX if n in schema.names}
        for name in dict.fromkeys((*columns, *decode)):
            pictures = None
            if name in decode:
                refers = known[name].refers
                footage = Footage(self.output.videos, self.output.store.options) if refers else None
                pictures = Pictures.of(known[name], footage)
            keys[name] = Key(known[name], None, mark[name], pictures=pictures)
        return keys

    def _unknown(self, name: str, known: Iterable[str]) -> ValueError:
        return ValueError(f"{self.output.uri} has no feature {name!r}; there are {', '.join(known)}")

    def _feature(self, name: str) -> Key:
        key = self._keys.get(name)
        if key is None or not key.mark:
            raise self._unknown(name, (n for n, k in self._keys.items() if k.mark))
        return key

    def _windowed(
        self, seconds: Mapping[str, Iterable[float]], steps: Mapping[str, Iterable[int]], tolerance_s: float
    ) -> dict[str, Key]:
        made: dict[str, Key] = {}
        if both := sorted(set(seconds) & set(steps)):
            raise ValueError(f"delta_timestamps and delta_steps both have {both[0]!r}; give one of them")
        for name, rows in steps.items():
            made[name] = replace(self._feature(name), window=Window(np.asarray([*rows], np.int64)))
        if seconds and self.rate is None:
            furthest = max((abs(s) for each in seconds.values() for s in each), default=0.0)
            times = rising_times(self.rows, self.rows.column("time_ns"), int(furthest * 1e9) + 1)
        for name, each in seconds.items():
            if self.rate is not None:
                window = Window(grid_steps(name, each, self.rate, tolerance_s))
            else:
                window = Window(np.round(np.asarray([*each], np.float64) * 1e9).astype(np.int64), times)
            made[name] = replace(self._feature(name), window=window)
        for name, key in made.items():
            if key.window is not None and not len(key.window.steps):
                raise ValueError(f"the deltas of {name!r} are empty; leave it out for the row itself")
        return made

    def _normalised(
        self, asked: str | Mapping[str, Any] | None, given: Mapping[str, Mapping[str, Any]] | None
    ) -> dict[str, Key]:
        floats = [
            n for n, k in self._keys.items() if k.mark and k.column.dtype is not None and k.column.dtype.kind == "f"
        ]
        wanted = dict.fromkeys(floats, asked) if isinstance(asked, str) else dict(asked or {})
        known = {**self.output.statistics, **(given or {})} if wanted else {}
        made = {}
        for name, how in wanted.items():
            key = self._feature(name)
            if name not in floats:
                raise ValueError(f"normalize: {name!r} holds no floats; leave it out")
            told = {"mode": how} if isinstance(how, str) else dict(how)
            convention, _, mode = told["mode"].rpartition(".")
            convention = told.get("convention") or convention or "lerobot"
            if name not in known:
                raise ValueError(f"normalize: there are no statistics of {name!r}; give them as statistics")
            numbers = {k: torch.tensor(v, dtype=torch.float64, device=self.device)
                       for k, v in known[name].items() if k != "count" and None not in np.atleast_1d(v)}  # fmt: skip
            if missing := [s for s in STATISTICS.get(mode, ()) if s not in numbers]:
                raise ValueError(f"normalize: {name!r} has no {missing[0]}: a column of it never held a number")
            mask = None if told.get("mask") is None else tuple(map(bool, told["mask"]))
            width = key.column.width
            normal = Normalization("normalize", width, numbers, mode, convention, mask=mask, device=self.device)
            made[name] = replace(key, normal=normal)
        return made

    def _fits(self, most: int) -> bool:
        return self.rows.total * self._row <= most and self.rows.total < 2**31

    def _on_device(self, needed: dict[str, Column], most: int) -> tuple[Resident | None, dict[str, Column]]:
        """What lies on the device, and the columns that are read from elsewhere."""
        if self.device.type == "cpu" or not self._fits(most):
            return None, needed
        there = {name: key for name, key in self._keys.items() if key.resident}
        taken = {name for key in there.values() for name in (key.column.name, key.mark)}
        elsewhere = {name: column for name, column in needed.items() if name not in taken}
        return (Resident(self.rows, there, self._fill, self.device) if there else None), elsewhere

    def _stored(self, columns: list[Column], most: int) -> tuple[Store, int]:
        """The store, and how many bytes of its blocks a pool of the order may have, 0: any."""
        if self.device.type == "cpu" and Mapped.possible(self.rows):
            return Mapped(self.rows, columns), 0
        if self._fits(most):
            whole = Whole(self.rows, columns)
            if columns:
                whole.segment(0)  # now, so that processes that are forked from this one share it
            return whole, 0
        return Cached(self.rows, columns, self.rows.blocks(block_bytes(most), self._row), most), most // 2

    def _required(self, names: Sequence[str]) -> np.ndarray | None:
        if not names:
            return None
        keys = [self._feature(name) for name in names]
        kept = whole_windows(self.rows, [(k.window or _HERE, self.rows.column(k.mark)) for k in keys])
        if not len(kept):
            raise ValueError(f"{self.output.uri}: no window is valid all over in {', '.join(names)}")
        return kept

    def unnormalize(self, feature: str, values: Tensor) -> Tensor:
        """``values [..., *shape]`` of a feature as they were before ``normalize``: a policy's word for the robot."""
        key = self._feature(feature)
        if key.normal is None:
            return values
        flat = values.reshape(*values.shape[: values.dim() - len(key.column.shape)], key.column.width)
        return key.normal.inverse(flat).reshape(values.shape)

    # Windows

    def __len__(self) -> int:
        return self.rows.total if self._kept is None else len(self._kept)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.__getitems__([index])[0])

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """A batch, as PyTorch's ``DataLoader`` asks for it; ``default_collate`` takes it as it is."""
        if self.device.type == "cuda" and get_worker_info() is not None:
            raise ValueError("a DataLoader's worker processes cannot use the card of a dataset with device='cuda'; "
                             "iterate over its batches(), which come from the card")  # fmt: skip
        items = np.asarray(indices, np.int64)
        count = len(self)
        if items.size and (items.min() < -count or items.max() >= count):
            raise IndexError(f"the dataset has {count} windows, asked for {items.min()} to {items.max()}")
        items = np.where(items < 0, items + count, items)
        rows = items if self._kept is None else self._kept[items]
        out = {} if self.resident is None else self.resident.gather(rows)
        for window, names in self._plans.values():
            at, padded = window.around(rows, self.rows.ends)
            keys = [self._keys[name] for name in names]
            wanted = {name for key in keys for name in (key.column.name, key.mark) if name}
            columns = [self._columns[name] for name in sorted(wanted)]
            runs = np.asarray(~padded.any(axis=1) & window.run)
            found = gather(self._store, columns, at, runs)
            pad = self._tensor(padded)
            for name, key in zip(names, keys, strict=True):
                valid = found[key.mark][..., 0] & ~padded if key.mark else None
                value = self._finished(key, found[key.column.name], valid, at.shape)
                out[name] = value if key.window is not None else value[:, 0] if isinstance(value, Tensor) else value
                if key.window is not None:
                    out[f"{name}_is_pad"] = pad
                if valid is not None:
                    mask = self._tensor(valid)
                    out[f"{name}.valid"] = mask if key.window is not None else mask[:, 0]
        return Batch({name: out[name] for key in self._keys for name in (key, f"{key}_is_pad", f"{key}.valid")
                      if name in out}, len(rows))  # fmt: skip

    def together(self, batch_size: int) -> int:
        """How many batches are assembled at once: on a device, where a launch costs more than a batch, many."""
        if self.resident is None or any(key.pictures or key.column.payload for key in self._keys.values()):
            return 1
        window = sum(key.nbytes for key in self._keys.values())
        return max(1, min(_TOGETHER_BYTES // max(1, window), _TOGETHER_WINDOWS) // batch_size)

    def _finished(self, key: Key, values: Any, valid: Any, shape: tuple[int, ...]) -> Any:
        """What a batch has of a key: a tensor ``[B, K, *shape]``, or text.

        values: of NumPy ``[B, K, width]``, or Arrow's ``[B * K]``; valid: bool ``[B, K]``

        What is computed of NumPy's arrays is computed by the thread that asks: torch would have its own threads wait
        for each other at every step, which on a busy machine takes most of the time.
        """
        if key.pictures is not None:
            raw = values if isinstance(values, pa.ChunkedArray) else values.reshape(-1, values.shape[-1])
            pictures = key.pictures.decoded(raw)
            return self._tensor(pictures.reshape(*shape, *pictures.shape[1:]))
        if isinstance(values, pa.ChunkedArray):
            texts = values.to_pylist()
            return texts if key.window is None else [texts[k : k + shape[1]] for k in range(0, len(texts), shape[1])]
        if key.normal is not None:
            values = key.normal(values)
        if self._fill is not None and key.fillable:
            values[~valid[..., None] | np.isnan(values)] = self._fill
        return self._tensor(values.reshape(*shape, *key.column.shape))

    def _tensor(self, values: np.ndarray) -> Tensor:
        """On the device."""
        found = torch.from_numpy(values)
        if self.device.type == "cpu":
            return found
        return (found.pin_memory() if self.device.type == "cuda" else found).to(self.device, non_blocking=True)

    # Orders

    @property
    def pools(self) -> str:
        """What, beside the seed and the epoch, decides an order: the blocks that it keeps together; none in memory."""
        told = (self._budget, *self._store.starts.tolist()) if self._budget else ()
        return hashlib.sha256(repr(told).encode()).hexdigest()[:12]

    def order(self, *, shuffle: bool, seed: int, epoch: int) -> Order:
        """Of the windows in one epoch."""
        starts = np.append(self._store.starts, self.rows.total)
        edges = starts if self._kept is None else np.searchsorted(self._kept, starts)
        sizes = np.diff(starts) * self._row
        return Order(np.diff(edges), sizes, budget=self._budget, shuffle=shuffle, seed=seed, epoch=epoch)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world: int | None = None,
        threads: int = 1,
    ) -> Batches:
        """See :class:`Batches`."""
        return Batches(self, batch_size, shuffle, seed, drop_last, *ranked(rank, world), threads)

    def sampler(
        self, *, shuffle: bool = True, seed: int = 0, rank: int | None = None, world: int | None = None
    ) -> WindowSampler:
        """See :class:`WindowSampler`."""
        return WindowSampler(self, shuffle, seed, *ranked(rank, world))

"""Messages taken apart chunk by chunk, each chunk while it lies in the processor's cache, all its channels in one call.

A channel is taken so once its first messages, read window by window as those of any other, have told how its topic is
laid out, and as long as every message is as they are: numbers and texts that say what the numbers are. Whatever else a
message holds, and whatever is wrong with one, goes the other way, which words every refusal; so does all that follows
it in the channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from robocache.formats.messages.batch import Messages
from robocache.formats.messages.lowered import ChunkDecoder
from robocache.formats.messages.packed import PackedTopic
from robocache.formats.messages.topic import Collector

#: Of a chunk, by channel: uint64 ``[n]`` where in it the records of messages begin.
Entries: TypeAlias = Mapping[int, np.ndarray]


class Chunks:
    """The channels of one file of a recording: ``collectors`` by their ids, ``number`` is the file's."""

    def __init__(self, collectors: Mapping[int, Collector], number: int):
        self._collectors, self._number = collectors, number
        self._decoders: dict[int, ChunkDecoder] = {}
        # Channels of one topic take turns in its rows, so each is read window by window.
        count = Counter(id(collector) for collector in collectors.values())
        self._open = {channel for channel, found in collectors.items() if count[id(found)] == 1}

    @property
    def waiting(self) -> bool:
        """Whether a look at a few messages may have more of them taken. Where windows begin, and so which fault of
        several is told, is the same without the compiled decoder.
        """
        return bool(self._open)

    def take(self, chunk: np.ndarray, entries: Entries) -> Entries:
        """Take what messages of an unpacked chunk (uint8) can be; those of the channels that are left."""
        some = [channel for channel in entries if channel in self._decoders]
        if not some:
            return entries
        decoders = [self._decoders[channel] for channel in some]
        taken = ChunkDecoder.take(chunk, decoders, [entries[channel] for channel in some])
        for channel, good in zip(some, taken, strict=True):
            if not good:
                self._close(channel)
        return {channel: found for channel, found in entries.items() if channel not in self._decoders}

    def add(self, channel: int, messages: Messages) -> None:
        """Messages of a window, which follow those taken."""
        collector = self._collectors[channel]
        collector.add((self._number, channel), messages)
        if channel in self._open:
            self._open.discard(channel)
            topic, room = collector.topic, collector.room
            if isinstance(topic, PackedTopic) and room and messages.offloaded is None:
                decoder = topic.decoder(channel, messages.first(), room)
                if decoder is not None:
                    self._decoders[channel] = decoder

    def finish(self) -> None:
        """Nothing follows."""
        for channel in list(self._decoders):
            self._close(channel)

    def _close(self, channel: int) -> None:
        """What was taken is its topic's; what follows is read window by window."""
        found, collector = self._decoders.pop(channel).taken(), self._collectors[channel]
        if found is not None:
            assert isinstance(collector.topic, PackedTopic)
            collector.topic.keep(*found)
            collector.came((self._number, channel), found[0])

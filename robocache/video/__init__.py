"""What the bytes of a video mean, whatever file or message they came in, and how they are made. PyAV reads and encodes.

A frame of a file is a reference, :data:`FRAME`: the file, its number in the order in which frames are shown, and its
exact time stamp in units of ``time_base`` seconds. Frames that an edit list hides are none.
"""

from robocache.video.cut import check_times, cut, join, sort_of, times
from robocache.video.encode import CODECS, Encoding, encode, png
from robocache.video.packets import FFMPEG, PACKET, encoded_frames, encoded_image, group_frames, packet_frames, unfit
from robocache.video.read import (
    CONTAINERS,
    FRAME,
    MOST_PIXELS,
    Video,
    container,
    decoded_frames,
    image_codec,
    image_frame,
    is_key_frame,
    pyav,
    read_video,
)

__all__ = [
    "CODECS",
    "CONTAINERS",
    "FFMPEG",
    "FRAME",
    "MOST_PIXELS",
    "PACKET",
    "Encoding",
    "Video",
    "check_times",
    "container",
    "cut",
    "decoded_frames",
    "encode",
    "encoded_frames",
    "encoded_image",
    "group_frames",
    "image_codec",
    "image_frame",
    "is_key_frame",
    "join",
    "packet_frames",
    "png",
    "pyav",
    "read_video",
    "sort_of",
    "times",
    "unfit",
]

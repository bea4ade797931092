"""What the bytes of a point cloud mean, however they were packed: payloads in, columns out. Knows no file, no topic.

A cloud in a stream is a payload with ``about["kind"] == "cloud"``: a ``PointCloud2`` as :data:`MESSAGE`, or a whole
file as bytes with its format in ``about["encoding"]``, or an image of depths with its ``about["camera"]``.
"""

from robocache.clouds.columns import Cloud, Field
from robocache.clouds.payloads import ENCODINGS, decode_cloud, is_cloud, known_fields
from robocache.clouds.pointcloud2 import MESSAGE

__all__ = ["ENCODINGS", "MESSAGE", "Cloud", "Field", "decode_cloud", "is_cloud", "known_fields"]

"""Arrow's types of numbers and numpy's."""

import numpy as np
import pyarrow as pa
import pytest

from robocache.types import numpy_type


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(pa.bool_(), "?"), (pa.int8(), "i1"), (pa.uint16(), "u2"), (pa.int32(), "i4"), (pa.int64(), "i8"),
     (pa.uint64(), "u8"), (pa.float16(), "f2"), (pa.float32(), "f4"), (pa.float64(), "f8")],
)  # fmt: skip
def test_each_has_its_own(kind, dtype):
    assert numpy_type(kind) == np.dtype(dtype) == np.dtype(kind.to_pandas_dtype())

"""Values and keys of the landing: masks, Arrow types, and the set of keys that finds repeated records."""

import numpy as np
import pyarrow as pa

from iom_platform.extract.catalog import Keys
from iom_platform.extract.landing import arrow_schema
from iom_platform.extract.values import mask
from iom_platform.tables import QUARANTINE, TABLES


def test_masks_hide_letters_and_digits_of_any_script() -> None:
    assert mask("Ab-12 \u00e9\u0416\u6f22\u0663\u00b2\u216b") == "aa-99 aaa999"
    assert mask("a\tb\U0001f600") == "a\ufffda\ufffd"
    assert mask("1" * 40) == "9" * 40
    assert mask(None) is None


def test_every_dtype_has_an_arrow_type() -> None:
    for table in TABLES:
        assert arrow_schema(table).names == list(table.column_names)
    assert arrow_schema(QUARANTINE).field("file_row").type == pa.int64()


def test_keys_grow_over_batches() -> None:
    keys = Keys()
    first, same = keys.add(np.array([5, 3, 5]), np.array([1, 2, 1], dtype=np.uint64))
    assert (first.tolist(), same.tolist()) == ([True, True, False], [True, True, True])
    first, same = keys.add(np.array([4, 3, 5, 4]), np.array([7, 2, 9, 8], dtype=np.uint64))
    assert (first.tolist(), same.tolist()) == ([True, False, False, False], [True, True, False, False])
    assert keys.find(np.array([1, 3, 4, 5, 6])).tolist() == [-1, 0, 1, 2, -1]

"""Rows of a Hugging Face data set: one saved to a folder, or one of the hub by its name."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm.core.compat import datasets_config, hub_constants
from vlm.datasets.errors import DataError
from vlm.datasets.readers.records import ROWS_AT_ONCE, Record, arrow_records, file_format
from vlm.datasets.sources import note_fleeting
from vlm.pretrained.availability import hub_access

UNLABELLED = -1
"""Stands for a class label in a split whose labels are not published."""
_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def is_data_set(path: str) -> bool:
    """Whether this is a folder, or "owner/name" (with ":configuration" where it has several)."""
    if os.path.lexists(path):  # a broken link is not a name either
        return Path(path).is_dir()
    return bool(_NAME.fullmatch(path)) and file_format(path) is None


def splits_of(path: str) -> Collection[str]:
    """Names of the splits of a data set, as `is_data_set` takes it."""
    return _load(path).keys()


def read_data_set(path: str, split: str, columns: Collection[str]) -> Iterator[Record]:
    """Rows of a split; class labels come as their names (None for -1), images as bytes or path.
    Only the expected columns are read.

    Raises:
        DataError: `datasets` is not installed, or the data set cannot be loaded.
    """
    note_fleeting()  # the files of a data set are Hugging Face's own affair
    data = _load(path)[split]
    features = {name: data.features[name] for name in columns if name in data.features}
    chosen = data.select_columns([name for name in data.column_names if name in columns])
    batches = chosen.with_format("arrow").iter(ROWS_AT_ONCE)
    for record in arrow_records(batches, data.column_names, f"{path}, {split}"):
        for name, feature in features.items():
            record.values[name] = _with_names(record.values[name], feature)
        yield record


def _with_names(value: Any, feature: Any) -> Any:
    """The value with the names of its class labels, however deep these are."""
    if hasattr(feature, "int2str"):
        return feature.int2str(value) if value not in (None, UNLABELLED) else None
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        named = [_with_names(item, inner) for item in value]
        unlabelled = value and hasattr(inner, "int2str") and not any(named)
        return None if unlabelled else named
    if isinstance(value, dict) and isinstance(feature, dict):
        return {name: _with_names(item, feature[name]) for name, item in value.items()}
    return value


@lru_cache(maxsize=1)  # called for the splits' names, then for each
def _load(path: str) -> Any:
    """A `datasets.DatasetDict`, memory-mapped."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise DataError(
            f"{path}: folders and names are read with Hugging Face datasets, which is not "
            f"installed; install it with `pip install 'vlm-vqa[datasets]'`, or give a JSONL, CSV, "
            f"TSV or Parquet file."
        ) from None
    folder = Path(path)
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(path)
        elif folder.is_dir():
            loaded = datasets.load_dataset(path)
        else:
            loaded = _of_hub(path)
    # Whatever the hub, the network and the files bring.
    except Exception as error:
        what = (
            "cannot be loaded by Hugging Face datasets:"
            if folder.is_dir()
            else "there is no such file or folder. As a data set of the hub,"
        )
        raise DataError(f"{path}: {what} {' '.join(str(error).split())}") from error
    return loaded if hasattr(loaded, "keys") else {"train": loaded}


def _of_hub(path: str) -> Any:
    """A data set of the hub, or of the cache; `datasets` alone retries for minutes without a
    network."""
    import datasets

    constants, config = hub_constants(), datasets_config()
    name, _, configuration = path.partition(":")
    before = config.HF_HUB_OFFLINE
    with hub_access(name, what="data set", cache=config.HF_DATASETS_CACHE):
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE
        try:
            return datasets.load_dataset(name, configuration or None)
        finally:
            config.HF_HUB_OFFLINE = before

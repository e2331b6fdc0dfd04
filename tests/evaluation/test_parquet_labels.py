"""Labels that Parquet files bring along. Needs pyarrow: a slow test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import eval_case
from zoofast.cli import main


@pytest.mark.slow
def test_parquet_with_its_own_labels(run: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": data, "path": name} for name, data in files.items()]
    labels = [eval_case.label_of(Path(name).stem) for name in files]
    table = pyarrow.table({"image": images, "label": labels})
    parquet.write_table(table, tmp_path / "val.parquet", row_group_size=5)
    result = tmp_path / "result.json"
    given = eval_case.words(run, "-o", result, images=tmp_path / "val.parquet")
    for words in ([], ["--labels-from", "source"], ["--labels-from", given[2]]):
        assert main([*given[:3], *words, *given[4:]]) == 0
        assert result.read_text() == eval_case.result_of(files)

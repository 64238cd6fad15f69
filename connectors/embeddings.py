"""Embeddings in, one Parquet file out.

A row is a window: sensor_id, start_ns, end_ns, sample_rate_hz, gain, bands (K), embedding (K * D
float32, band-major). Values in the sensor's unit x gain (a power of two, one per sensor) were
embedded. The metadata names the model and says whether its weights were trained.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.messages import Window


class EmbeddingsFile:
    """A Parquet file that grows batch by batch.

    Args:
        path: Written anew; appears when all is written, a failed run leaves what was there.
        model_id: Model of all rows.
        trained: Whether its weights have learnt anything.
    """

    def __init__(self, path: Path, model_id: str, *, trained: bool) -> None:
        self._schema = pa.schema(
            [
                ("sensor_id", pa.string()),
                ("start_ns", pa.int64()),
                ("end_ns", pa.int64()),
                ("sample_rate_hz", pa.float64()),
                ("gain", pa.float64()),
                ("bands", pa.int32()),
                ("embedding", pa.list_(pa.float32())),
            ],
            metadata={"model_id": model_id, "trained": str(trained).lower()},
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._part = path, path.with_name(f"{path.name}.part")
        self._file = pq.ParquetWriter(self._part, self._schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None:
            self._part.replace(self._path)
        else:
            self._part.unlink()

    def write(
        self,
        windows: Sequence[Window],
        embeddings: Sequence[NDArray[np.float32]],
        gains: Sequence[float],
    ) -> None:
        """Append one batch.

        Args:
            windows: What was embedded.
            embeddings: (K, D) each, in the same order.
            gains: Factor from the sensor's unit to what was embedded, likewise.
        """
        columns = {
            "sensor_id": [window.sensor_id for window in windows],
            "start_ns": [window.start_ns for window in windows],
            "end_ns": [window.end_ns for window in windows],
            "sample_rate_hz": [window.sample_rate_hz for window in windows],
            "gain": list(gains),
            "bands": [len(embedding) for embedding in embeddings],
            "embedding": [embedding.reshape(-1) for embedding in embeddings],
        }
        self._file.write_table(pa.table(columns, schema=self._schema))

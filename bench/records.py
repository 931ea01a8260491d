"""The lines of a run's records file: checksums, parsing, upgrades from earlier schemas."""

from __future__ import annotations

import hashlib
import json

from bench.errors import StoreError
from bench.types import SCHEMA, Json, Quantity


def checksum(record: Json) -> str:
    """12 hex characters over everything in a record but its ``sum``."""
    text = json.dumps({k: v for k, v in record.items() if k != "sum"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _upgrade_0(record: Json) -> Json:
    """Schema 0 (before the first release): ``type`` for ``kind`` and bare numbers as metrics."""
    record = dict(record)
    record["kind"] = record.pop("type", record.get("kind"))
    method = "schema 0 record: no interval was kept"
    if "metrics" in record:
        record["metrics"] = {
            name: Quantity(float(v), provenance="measured", method=method).to_json()
            if isinstance(v, (int, float))
            else v
            for name, v in record["metrics"].items()
        }
    return record | {"schema": 1}


UPGRADERS = {0: _upgrade_0}


def upgrade(record: Json) -> Json:
    """Bring a record of any earlier schema to the present one.

    Raises:
        StoreError: when the record was written by a newer edgefit.
    """
    schema = int(record.get("schema", 0))
    if schema > SCHEMA:
        raise StoreError(
            "This run was written by a newer edgefit", f"record schema {schema}, known up to {SCHEMA}",
            "Upgrade edgefit to read it",
        )  # fmt: skip
    while schema < SCHEMA:
        record = UPGRADERS[schema](record)
        schema = int(record["schema"])
    return record


def parse_records(text: bytes) -> tuple[list[Json], list[tuple[int, str]]]:
    """Every good record of a records file, and (line number, reason) of each damaged line."""
    good: list[Json] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            bad.append((number, "not a whole JSON document"))
            continue
        if not isinstance(record, dict):
            bad.append((number, "not a record"))
        elif record.get("schema", 0) != 0 and record.get("sum") != checksum(record):
            bad.append((number, "its checksum does not match"))
        else:
            good.append(upgrade(record))
    return good, bad


def objects_of(record: Json) -> list[str]:
    """The sha256 of every object that a record names."""
    names = [record.get("samples"), record.get("predictions")]
    for part in ("model", "artifact"):
        value = record.get(part)
        if isinstance(value, dict):
            names.append(value.get("sha256"))
    return [n for n in names if isinstance(n, str)]

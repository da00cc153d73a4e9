"""Levels to HDF5 bytes and back, as the contract lays them out."""

from __future__ import annotations

from prunecli.store.decoding import decode_level, decode_store, opened
from prunecli.store.encoding import encode_level, encode_store
from prunecli.store.layout import FORMAT_VERSION, MAX_PRUNED_AT

__all__ = [
    "FORMAT_VERSION",
    "MAX_PRUNED_AT",
    "decode_level",
    "decode_store",
    "encode_level",
    "encode_store",
    "opened",
]

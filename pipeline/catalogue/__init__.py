"""Catalogue files: reading, validation as a whole, and the byte format in the journal."""

from __future__ import annotations

from pipeline.catalogue.load import load_catalogue
from pipeline.catalogue.wire import catalogue_from_bytes, catalogue_to_bytes

__all__ = ["catalogue_from_bytes", "catalogue_to_bytes", "load_catalogue"]

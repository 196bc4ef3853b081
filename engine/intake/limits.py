"""What an untrusted file may measure at most, and the one error that refuses it."""

from __future__ import annotations

MAX_FILE_BYTES = 2 * 2**30
MAX_ENTRIES = 50_000
MAX_NAME_BYTES = 512
MAX_PICKLE_BYTES = 48 * 2**20
MAX_OPERATIONS = 1_000_000
"""Steps of a pickle's program: an attack result with 28,000 poisoned images takes about as many."""
MAX_TENSORS = 20_000
MAX_DIMS = 16
MAX_HEADER_BYTES = 8 * 2**20
MAX_KEY_CHARS = 512
MAX_VALUES = 200_000
"""Values that a checkpoint may hold: an attack result has about five for each poisoned image."""
MAX_DEPTH = 40

READER_MEMORY = 448 * 2**20
"""Address space of the reading process beyond twice the largest tensor that must be copied."""


class Refused(ValueError):
    """A file that is not read; one line says what was expected and what came."""

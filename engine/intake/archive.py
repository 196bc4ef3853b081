"""Zip archives, strictly: every lie that an archive can tell about itself is refused before a byte is unpacked.

Readers disagree about broken archives (which of two directories counts, whether entries may overlap), and what one
checks another then opens. So there is one reading here: the central directory must end where its end record begins,
each local header must repeat what the directory says, no two entries may share a byte or a name, and no name may
lead anywhere. Plain stored entries are what torch writes; ``deflated=True`` also takes compressed ones, unpacked
under a budget that counts what comes out instead of believing what the header says.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from engine.intake.limits import MAX_ENTRIES, MAX_NAME_BYTES, Refused

STORED, DEFLATED = 0, 8
_END, _END64, _LOCATOR, _CENTRAL, _LOCAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"PK\x03\x04"
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_DESCRIPTOR = 0x8
_CHUNK = 1 << 20
_UNIX, _LINK, _REGULAR, _FOLDER = 3, 0o120000, 0o100000, 0o040000
_MAX_RATIO = 200


@dataclass(frozen=True)
class Entry:
    """One file of an archive: ``start`` is where its (compressed) bytes begin."""

    name: str
    size: int
    packed: int
    method: int
    crc: int
    start: int


class Archive:
    """The entries of an archive, checked as a whole when it is opened.

    Raises:
        Refused: for anything that is not one well-formed archive.
    """

    def __init__(self, file: BinaryIO, *, deflated: bool = False) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._methods = (STORED, DEFLATED) if deflated else (STORED,)
        self.entries = {entry.name: entry for entry in self._directory()}

    def chunks(self, entry: Entry, budget: int | None = None) -> Iterator[bytes]:
        """The bytes of an entry, a piece at a time; its length and checksum are checked at the end.

        Raises:
            Refused: if more than ``budget`` bytes come out, or not those that the directory announces.
        """
        limit = entry.size if budget is None else min(entry.size, budget)
        if entry.size > limit:
            raise Refused(f"expected at most {limit:,} bytes in {_shown(entry.name)}, got {entry.size:,}")
        unpack = zlib.decompressobj(-15) if entry.method == DEFLATED else None
        total, crc = 0, 0
        for raw in self._raw(entry):
            pieces = [raw] if unpack is None else _inflated(unpack, raw, entry.name)
            for piece in pieces:
                total += len(piece)
                if total > limit:
                    raise Refused(f"expected {entry.size:,} bytes in {_shown(entry.name)}, got more")
                crc = zlib.crc32(piece, crc)
                yield piece
        if unpack is not None and (not unpack.eof or unpack.unused_data):
            raise Refused(f"expected a complete compressed entry {_shown(entry.name)}, got a broken one")
        if total != entry.size:
            raise Refused(f"expected {entry.size:,} bytes in {_shown(entry.name)}, got {total:,}")
        if crc != entry.crc:
            raise Refused(f"expected the recorded checksum of {_shown(entry.name)}, got another: the file is damaged")

    def read(self, name: str, limit: int) -> bytes:
        """A whole entry of at most ``limit`` bytes."""
        entry = self.entries[name]
        if entry.size > limit:
            raise Refused(f"expected at most {limit:,} bytes in {_shown(name)}, got {entry.size:,}")
        return b"".join(self.chunks(entry))

    def _raw(self, entry: Entry) -> Iterator[bytes]:
        left = entry.packed
        self._file.seek(entry.start)
        while left:
            piece = self._file.read(min(left, _CHUNK))
            if not piece:
                raise Refused(f"expected {entry.packed:,} bytes in {_shown(entry.name)}, got a truncated file")
            left -= len(piece)
            # The caller may read another entry between two pieces.
            place = self._file.tell()
            yield piece
            self._file.seek(place)

    def _at(self, offset: int, size: int) -> bytes:
        if offset < 0 or offset + size > self._size:
            raise Refused("expected a complete zip archive, got one whose directory leads outside the file")
        self._file.seek(offset)
        return self._file.read(size)

    def _ends(self) -> tuple[int, int, int]:
        """(offset, size, entries) of the central directory, from the end record and its 64-bit twin."""
        if self._size < 22:
            raise Refused("expected a complete zip archive, got a truncated file")
        end = self._size - 22
        record = self._at(end, 22)
        if record[:4] != _END or record[20:] != b"\0\0":
            raise Refused("expected a zip archive that ends with its directory, got a truncated file or one with more")
        disk, first_disk, here, count, size, offset = struct.unpack("<HHHHII", record[4:20])
        limit = end
        if end >= 76 and self._at(end - 20, 4) == _LOCATOR:
            limit = end - 76
            disk64, end64, disks = struct.unpack("<IQI", self._at(end - 16, 16))
            if disk64 != 0 or disks != 1 or end64 != limit or self._at(limit, 4) != _END64:
                raise Refused("expected a zip64 record before the end of the archive, got a locator to elsewhere")
            length, _, _, a, b, here64, count64, size64, offset64 = struct.unpack("<QHHIIQQQQ", self._at(limit + 4, 52))
            for small, large, most in (
                (here, here64, 0xFFFF),
                (count, count64, 0xFFFF),
                (size, size64, 0xFFFFFFFF),
                (offset, offset64, 0xFFFFFFFF),
            ):
                if small not in (large, most):
                    raise Refused("expected the zip64 record to repeat the end record, got two that differ")
            if length != 44 or a or b:
                raise Refused("expected a plain zip64 record, got an extended one")
            here, count, size, offset = here64, count64, size64, offset64
        if disk or first_disk or here != count:
            raise Refused("expected an archive in one piece, got one of several volumes")
        if offset + size != limit:
            raise Refused("expected the directory right before the end of the archive, got a gap or a prefix")
        return offset, size, count

    def _directory(self) -> list[Entry]:
        offset, size, count = self._ends()
        if count > MAX_ENTRIES:
            raise Refused(f"expected at most {MAX_ENTRIES:,} entries in the archive, got {count:,}")
        if size > count * (46 + MAX_NAME_BYTES + 256):
            raise Refused("expected a directory of the size of its entries, got a larger one")
        data, at = self._at(offset, size), 0
        found: list[Entry] = []
        spans: list[tuple[int, int]] = []
        names: set[str] = set()
        for _ in range(count):
            if data[at : at + 4] != _CENTRAL or at + 46 > size:
                raise Refused("expected a directory entry for each file of the archive, got a broken directory")
            entry, header, at = self._entry(data, at)
            if entry.name.casefold() in names:
                raise Refused(f"expected each name once in the archive, got {_shown(entry.name)} twice")
            names.add(entry.name.casefold())
            end = entry.start + entry.packed
            if end > offset:
                raise Refused(f"expected {_shown(entry.name)} before the directory, got one that overlaps it")
            spans.append((header, end))
            found.append(entry)
        if at != size:
            raise Refused("expected a directory entry for each file of the archive, got more bytes than entries")
        spans.sort()
        for (_, end), (start, _) in zip(spans, spans[1:], strict=False):
            if start < end:
                raise Refused("expected entries that do not overlap, got two that share bytes")
        if spans and spans[0][0] != 0:
            raise Refused("expected an archive from the first byte of the file, got one behind other data")
        return found

    def _entry(self, data: bytes, at: int) -> tuple[Entry, int, int]:
        """One entry of the directory, where its local header lies, and where the next one begins."""
        (made_by, _, flags, method, _, _, crc, packed, size, name_n, extra_n, comment_n, disk, _, mode, header) = (
            struct.unpack("<HHHHHHIIIHHHHHII", data[at + 4 : at + 46])
        )
        stop = at + 46 + name_n + extra_n + comment_n
        if stop > len(data):
            raise Refused("expected a complete directory, got one that ends within an entry")
        raw = data[at + 46 : at + 46 + name_n]
        name = checked_name(raw)
        extra = data[at + 46 + name_n : at + 46 + name_n + extra_n]
        size, packed, header, disk = _wide(extra, size, packed, header, disk)
        if flags & _ENCRYPTED:
            raise Refused(f"expected no encryption, got an encrypted {_shown(name)}")
        if method not in self._methods:
            raise Refused(f"expected {_methods(self._methods)} entries, got method {method} in {_shown(name)}")
        if method == STORED and packed != size:
            raise Refused(f"expected {_shown(name)} as long as stored, got sizes {packed:,} and {size:,}")
        if method == DEFLATED and size > 1024 * _MAX_RATIO + packed * _MAX_RATIO:
            raise Refused(f"expected at most {_MAX_RATIO}-fold compression, got {size:,} bytes from {packed:,}")
        if disk:
            raise Refused("expected an archive in one piece, got one of several volumes")
        kind = (mode >> 16) & 0o170000
        if made_by >> 8 == _UNIX and kind not in (0, _REGULAR, _FOLDER):
            what = "a link" if kind == _LINK else "a special file"
            raise Refused(f"expected regular files in the archive, got {what}: {_shown(name)}")
        if name.endswith("/") and size:
            raise Refused(f"expected an empty entry for the folder {_shown(name)}, got {size:,} bytes")
        start = self._start(header, raw, flags, method, crc, packed, size)
        return Entry(name, size, packed, method, crc, start), header, stop

    def _start(self, header: int, raw: bytes, flags: int, method: int, crc: int, packed: int, size: int) -> int:
        """Where an entry's bytes begin; its local header must agree with the directory."""
        local = self._at(header, 30)
        l_flags, l_method, _, _, l_crc, l_packed, l_size, name_n, extra_n = struct.unpack("<HHHHIIIHH", local[6:30])
        if local[:4] != _LOCAL or self._at(header + 30, name_n) != raw or l_method != method:
            raise Refused(f"expected the header of {_shown(checked_name(raw))} to repeat the directory, got another")
        if (l_flags ^ flags) & (_ENCRYPTED | _DESCRIPTOR):
            raise Refused(
                f"expected the header of {_shown(checked_name(raw))} to repeat the directory, got other flags"
            )
        # With a descriptor behind the data, and in 64-bit entries, the fields here are empty.
        for told, known in ((l_packed, packed), (l_size, size), (l_crc, crc)):
            if told != known and not (flags & _DESCRIPTOR and told == 0) and told != 0xFFFFFFFF:
                raise Refused(
                    f"expected the header of {_shown(checked_name(raw))} to repeat the directory, got other sizes"
                )
        return header + 30 + name_n + extra_n


def _wide(extra: bytes, size: int, packed: int, header: int, disk: int) -> tuple[int, int, int, int]:
    """The 64-bit values of an entry, where its 32-bit fields say that there are some."""
    at, wide = 0, b""
    seen = False
    while at + 4 <= len(extra):
        tag, length = struct.unpack("<HH", extra[at : at + 4])
        if at + 4 + length > len(extra):
            raise Refused("expected complete extra fields in the archive, got a cut one")
        if tag == 1:
            if seen:
                raise Refused("expected one 64-bit field for an entry, got two")
            seen, wide = True, extra[at + 4 : at + 4 + length]
        at += 4 + length
    values = [size, packed, header, disk]
    for place, (most, width) in enumerate(((0xFFFFFFFF, 8), (0xFFFFFFFF, 8), (0xFFFFFFFF, 8), (0xFFFF, 4))):
        if values[place] == most:
            if len(wide) < width:
                raise Refused("expected a 64-bit size for an entry that announces one, got none")
            values[place] = int.from_bytes(wide[:width], "little")
            wide = wide[width:]
    return values[0], values[1], values[2], values[3]


def checked_name(raw: bytes) -> str:
    """The name of an entry, which must be relative, plain and lead nowhere else.

    Raises:
        Refused: for anything that some system could take for a path out of the archive's folder.
    """
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise Refused("expected names in UTF-8 in the archive, got other bytes") from None
    parts = name.removesuffix("/").split("/")
    if not name or len(raw) > MAX_NAME_BYTES or not name.isprintable():
        raise Refused(f"expected names of 1 to {MAX_NAME_BYTES} printable characters, got {_shown(name)}")
    if "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        raise Refused(f"expected names inside the archive, got {_shown(name)}, which leads out of it")
    return name


def _inflated(unpack: zlib._Decompress, raw: bytes, name: str) -> Iterator[bytes]:
    while raw:
        try:
            piece = unpack.decompress(raw, _CHUNK)
        except zlib.error:
            raise Refused(f"expected a readable compressed entry {_shown(name)}, got a broken one") from None
        raw = unpack.unconsumed_tail
        if piece:
            yield piece


def _methods(methods: tuple[int, ...]) -> str:
    return "stored" if methods == (STORED,) else "stored or deflated"


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")

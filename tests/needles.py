"""What a secret could look like in a byte stream: the needles of every search for leaks."""

import base64
import json
import struct
from collections.abc import Iterator

# RFC 7541, appendix B: printable characters by the length of their code, which is canonical.
HUFFMAN = {
    5: "012aceiost",
    6: " %-./3456789=A_bdfghlmnpru",
    7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: "&*,;XZ",
}

LEAST_BITS = 32  # shorter codes stand in a header by chance


def spellings(text: str) -> Iterator[bytes]:
    """A text as it could stand in a message: plain, in JSON, hexadecimal, base64 at any offset."""
    raw = text.encode()
    yield raw
    yield json.dumps(text)[1:-1].encode()
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for shift in range(3):
        for code in (base64.b64encode, base64.urlsafe_b64encode):
            yield code(b"\0" * shift + raw)[4:-4]  # its ends depend on what stands beside it


def images(*values: float) -> Iterator[bytes]:
    """Numbers in a row as bytes: float32 and float64, little-endian and big."""
    for order in "<>":
        for width in "fd":
            yield struct.pack(f"{order}{len(values)}{width}", *values)


def packed(text: bytes) -> Iterator[bytes]:
    """A text as HPACK's Huffman code puts it into a header, at any bit; nothing for other text."""
    codes = _huffman()
    characters = text.decode("latin-1")
    if not set(characters) <= codes.keys():
        return
    bits = "".join(codes[character] for character in characters)
    for shift in range(8):
        whole = bits[shift : shift + (len(bits) - shift) // 8 * 8]
        if len(whole) >= LEAST_BITS:
            yield int(whole, 2).to_bytes(len(whole) // 8, "big")


def _huffman() -> dict[str, str]:
    codes: dict[str, str] = {}
    code, before = 0, 5
    for length, characters in HUFFMAN.items():
        code <<= length - before
        before = length
        for character in characters:
            codes[character] = f"{code:0{length}b}"
            code += 1
    return codes

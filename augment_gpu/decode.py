"""Encoded bytes to uint8 RGB, with one kind of error, whatever the file holds."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

MAX_PIXELS = 178_956_970  # where Pillow itself refuses a picture: twice its Image.MAX_IMAGE_PIXELS

_TRANSPOSE = {  # EXIF orientation -> what puts the picture upright; 1 is upright already
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DecodeError(ValueError):
    """Bytes that give no picture. The message begins with the name that the caller gave them."""


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """Keeps Pillow from parsing the EXIF for a dpi on opening: that is slow, and warns about every damaged tag."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


# Pillow's classes are called directly, not through Image.open, for three reasons. Image.open is where Pillow warns of
# pictures above Image.MAX_IMAGE_PIXELS; max_pixels is our limit, and the warning can otherwise be silenced only for the
# whole process: warnings.catch_warnings swaps a global list, which another thread may swap back in the wrong order, and
# a permanent filter would also mute the caller's own use of Pillow. The price is that a few odd files can still warn
# (a GIF frame larger than its screen, damaged TIFF tags): the lesser evil. Second, a damaged file is never guessed to
# be in a format without a signature. Third, PostScript, which Pillow would hand to Ghostscript, stays out.
_FORMATS: tuple[tuple[type[ImageFile.ImageFile], int, tuple[bytes, ...]], ...] = (  # (class, offset, signatures there)
    (_Jpeg, 0, (b"\xff\xd8\xff",)),
    (PngImagePlugin.PngImageFile, 0, (b"\x89PNG\r\n\x1a\n",)),
    (WebPImagePlugin.WebPImageFile, 8, (b"WEBP",)),
    (GifImagePlugin.GifImageFile, 0, (b"GIF87a", b"GIF89a")),
    (BmpImagePlugin.BmpImageFile, 0, (b"BM",)),
    (TiffImagePlugin.TiffImageFile, 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),  # + is BigTIFF
    (PpmImagePlugin.PpmImageFile, 0, (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf")),
    (AvifImagePlugin.AvifImageFile, 4, (b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1")),
    (Jpeg2KImagePlugin.Jpeg2KImageFile, 0, (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
)


def decode(data: bytes, *, name: str = "image", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode one JPEG, PNG, WebP, GIF (first frame), BMP, TIFF (first page), PPM, AVIF or JPEG 2000 file.

    Gives (H, W, 3) uint8 RGB, C-contiguous and writable, which the caller owns. The EXIF orientation is applied. Alpha
    is dropped, as torchvision's default loader does. 16-bit grey is scaled, ``round(value * 255 / 65535)``.

    Raises DecodeError, beginning with `name`, for empty, truncated, damaged or unknown data, for float pixels, for
    integers beyond 16 bits, and for more than `max_pixels` pixels: these are refused before a pixel is decoded. Pillow
    decides what is damaged. It may be called from many threads, and changes no setting of Pillow's.
    """
    image, orientation = _open(data, name, max_pixels)
    with _as_decode_error(name, image.format):
        image.load()  # now, since late chunks of a PNG may still add the transparency that _rgb takes away
        return _rgb(image.transpose(_TRANSPOSE[orientation]) if orientation > 1 else image, name)


def image_size(data: bytes, *, name: str = "image", max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the picture that `decode` would give, from the header alone; raises the same DecodeError."""
    image, orientation = _open(data, name, max_pixels)
    width, height = image.size
    return (width, height) if orientation >= 5 else (height, width)


def _open(data: bytes, name: str, max_pixels: int) -> tuple[Image.Image, int]:
    """The picture, not decoded yet, and the EXIF orientation (1 to 8) that is still to be applied."""
    if not data:
        raise DecodeError(f"{name}: no data; an encoded image is wanted")
    opener = next((opener for opener, offset, signatures in _FORMATS if data.startswith(signatures, offset)), None)
    if opener is None:
        wanted = ", ".join(str(opener.format) for opener, _, _ in _FORMATS)
        raise DecodeError(f"{name}: not an image; it begins with {data[:8]!r}, and one of {wanted} is wanted")
    with _as_decode_error(name, opener.format):
        image = opener(io.BytesIO(data))
        if image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height} pixels"
            raise DecodeError(f"{name}: {image.format} of {size}; at most max_pixels={max_pixels} are decoded")
        return image, _orientation(_exif(image, data))


@contextmanager
def _as_decode_error(name: str, image_format: str | None) -> Iterator[None]:
    try:
        yield
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, EOFError, ...
        reason = str(error) or type(error).__name__
        verdict = "truncated" if "truncated" in reason.lower() else "damaged"
        if isinstance(error, Image.DecompressionBombError):
            verdict = "too large a"
        if reason == "not identified by this driver":  # Pillow's words for this
            reason = "no pixels (width or height is 0), or a header without size or colour mode"
        raise DecodeError(f"{name}: {verdict} {image_format}: {reason}") from error


def _rgb(image: Image.Image, name: str) -> np.ndarray:
    """(H, W, 3) uint8 from a loaded image of any mode."""
    if image.mode == "F":
        raise DecodeError(f"{name}: float pixels, whose range is unknown; integers of 8 or 16 bits are wanted")
    if image.mode.startswith("I"):  # "I", "I;16", "I;16B": 16-bit grey, which Pillow's convert would clip at 255
        grey = np.asarray(image)
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > 65535:
            raise DecodeError(f"{name}: integer pixels from {low} to {high}; they must lie in 0 to 65535")
        # 65535 / 255 = 257 is odd, so no value lies half-way, and this integer division rounds exactly.
        grey8 = ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey8[:, :, None], 3, axis=2)
    # Without its transparency, a palette is converted as before, but Pillow does not warn of what is lost.
    image.info.pop("transparency", None)
    return np.array(image.convert("RGB"))


def _exif(image: Image.Image, data: bytes) -> bytes:
    """The raw EXIF block of an opened file; empty where there is none, and for TIFF: Pillow itself turns it upright."""
    if image.format == "PNG" and "exif" not in image.info:
        # Pillow sees an eXIf chunk behind the pixels (exiftool writes it there) only after decoding, which is too late
        # for image_size. Walking the chunks reads 8 bytes of each.
        place = 8
        while place + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, place)
            if kind == b"eXIf":
                return data[place + 8 : place + 8 + length]
            place += 12 + length
    return bytes(image.info.get("exif", b""))


def _orientation(exif: bytes) -> int:
    """Orientation (1 to 8) in an EXIF block, with or without its "Exif" prefix; 1 where it is missing or unreadable.

    Pillow's own parser reads every tag, and warns or raises when one of the others is damaged. The layout is TIFF's:
    byte order, offset of the directory, number of 12-byte entries, each (tag, type, count, value).
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == 0x0112 and kind == 3:  # kind 3 is a 16-bit integer
                return value if value in _TRANSPOSE else 1
    except struct.error:  # the block ends early; its picture is still good
        return 1
    return 1

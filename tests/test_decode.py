"""decode: every format and mode against a hand calculation or Pillow, and every kind of damage as a DecodeError."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, WebPImagePlugin

from augment_gpu.decode import DecodeError, decode, image_size

LETTERS = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255), ".": (90, 90, 90)}
UPRIGHT = ("RG", "..", "BW")
STORED = {  # EXIF 2.32, table of Orientation: which side of the upright picture row 0 and column 0 of the file are
    1: ("RG", "..", "BW"),  # top, left
    2: ("GR", "..", "WB"),  # top, right
    3: ("WB", "..", "GR"),  # bottom, right
    4: ("BW", "..", "RG"),  # bottom, left
    5: ("R.B", "G.W"),  # left, top
    6: ("G.W", "R.B"),  # right, top
    7: ("W.G", "B.R"),  # right, bottom
    8: ("B.R", "W.G"),  # left, bottom
}


def picture(rows: Iterable[str]) -> np.ndarray:
    return np.array([[LETTERS[letter] for letter in row] for row in rows], dtype=np.uint8)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(image: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes = b"", tail: bytes = b"") -> bytes:
    """An 8-bit RGB PNG; `pixels` are its filtered rows, `tail` further chunks behind them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(pixels)) + tail + png_chunk(b"IEND", b"")


def refusal(function: Callable[..., Any], data: bytes, **options: Any) -> str | None:
    """The message of the DecodeError, or None for a picture; any other error fails the test."""
    try:
        function(data, **options)
    except DecodeError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("JPEG2000", {}),
        ("JPEG2000", {"no_jp2": True}),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (33, 47)])  # one pixel, one row, and odd sides
def test_lossless_formats_come_back(form: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    image = noise(*size)
    data = encode(image, form, **options)
    result = decode(data)
    np.testing.assert_array_equal(result, image)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert image_size(data) == size


@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("GIF", {}), ("AVIF", {"quality": 60})],
)
@pytest.mark.parametrize("size", [(1, 1), (33, 47)])
def test_lossy_formats_equal_pillow(form: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    data = encode(noise(*size), form, **options)
    np.testing.assert_array_equal(decode(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))
    assert image_size(data) == size


def test_first_frame_of_moving_pictures() -> None:
    frames = [Image.new("RGB", (16, 9), colour) for colour in ("red", "blue")]
    for form in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):  # MPO: a JPEG followed by others, as stereo cameras write
        data = encode(frames[0], form, save_all=True, append_images=frames[1:])
        assert decode(data).shape == (9, 16, 3), form
        np.testing.assert_allclose(decode(data)[4, 8], (255, 0, 0), atol=3, err_msg=form)  # JPEG and WebP are lossy


def test_modes_of_png() -> None:
    red_green = np.array([[(255, 0, 0), (0, 255, 0)]], dtype=np.uint8)
    grey = Image.fromarray(np.array([[0, 77]], dtype=np.uint8))
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    cases: dict[str, tuple[Image.Image, dict[str, Any], Any]] = {
        "1": (Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1"), {}, [[(0,) * 3, (255,) * 3]]),
        "L": (grey, {}, [[(0,) * 3, (77,) * 3]]),
        "L, one value transparent": (grey, {"transparency": 77}, [[(0,) * 3, (77,) * 3]]),
        "LA": (Image.merge("LA", (grey, Image.new("L", (2, 1), 9))), {}, [[(0,) * 3, (77,) * 3]]),
        "RGB, one colour transparent": (Image.fromarray(red_green), {"transparency": (255, 0, 0)}, red_green),
        # torchvision's default loader drops alpha and keeps the colour under it, also under alpha 0
        "RGBA": (Image.fromarray(np.dstack([red_green, np.array([[0, 128]], np.uint8)])), {}, red_green),
        "P": (palette, {}, red_green),
        "P, one entry transparent": (palette, {"transparency": 1}, red_green),
        "P, alpha for each entry": (palette, {"transparency": b"\x00\x80"}, red_green),  # Pillow warns of this one
    }
    for mode, (image, options, wanted) in cases.items():
        np.testing.assert_array_equal(decode(encode(image, "PNG", **options)), wanted, err_msg=mode)


def test_transparency_behind_the_pixels_of_a_png() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0])
    data = encode(palette, "PNG", transparency=b"\x80")
    chunk = png_chunk(b"tRNS", b"\x80")
    end = png_chunk(b"IEND", b"")
    late = data.replace(chunk, b"").replace(end, chunk + end)
    assert late != data
    np.testing.assert_array_equal(decode(late), [[(255, 0, 0)] * 2])  # and no warning


def test_cmyk_jpeg() -> None:
    data = encode(Image.new("CMYK", (16, 16), (0, 128, 255, 0)), "JPEG", quality=100)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    np.testing.assert_allclose(decode(data)[8, 8], (255, 127, 0), atol=2)  # 255 - ink; two levels for JPEG's rounding


VALUES16 = np.array([[0, 1, 128, 129, 256, 257, 385, 386, 32767, 32768, 65534, 65535]])


@pytest.mark.parametrize(
    ("form", "dtype", "mode"),
    [
        ("PNG", "<u2", "I;16"),
        ("TIFF", "<u2", "I;16"),
        ("TIFF", ">u2", "I;16B"),
        ("TIFF", "<i4", "I"),
        ("PPM", "<u2", "I"),
    ],
)
def test_16_bit_grey_is_scaled_and_not_clipped(form: str, dtype: str, mode: str) -> None:
    data = encode(VALUES16.astype(dtype), form)
    assert Image.open(io.BytesIO(data)).mode == mode
    wanted = [round(Fraction(int(value) * 255, 65535)) for value in VALUES16[0]]
    np.testing.assert_array_equal(decode(data), np.repeat(np.array([wanted])[:, :, None], 3, axis=2))


@pytest.mark.parametrize("value", [-5, 70_000])
def test_integers_beyond_16_bits_are_refused(value: int) -> None:
    with pytest.raises(DecodeError, match=rf"deep\.tif: integer pixels from {min(value, 7)} to {max(value, 7)}"):
        decode(encode(np.array([[7, value]], dtype=np.int32), "TIFF"), name="deep.tif")


@pytest.mark.parametrize("form", ["TIFF", "PPM"])
def test_float_pixels_are_refused(form: str) -> None:
    with pytest.raises(DecodeError, match=r"heat\.tif: float pixels"):
        decode(encode(np.ones((2, 3), dtype=np.float32), form), name="heat.tif")


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_exif_orientation(form: str, orientation: int) -> None:
    stored = picture(STORED[orientation])
    if form == "TIFF":
        data = encode(stored, form, tiffinfo={274: orientation})
    elif form in ("PNG", "WEBP"):
        data = encode(stored, form, exif=exif(orientation), **({"lossless": True} if form == "WEBP" else {}))
    else:  # lossy: squares of 16 pixels, whose middle survives
        data = encode(stored.repeat(16, 0).repeat(16, 1), form, exif=exif(orientation), quality=95)
    result = decode(data)
    assert image_size(data) == result.shape[:2]
    if form in ("JPEG", "AVIF"):
        assert result.shape == (48, 32, 3)
        np.testing.assert_allclose(result[8::16, 8::16], picture(UPRIGHT).astype(int), atol=16)  # chroma subsampling
    else:
        np.testing.assert_array_equal(result, picture(UPRIGHT))


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_behind_the_pixels_of_a_png(order: str) -> None:
    start = b"II*\0" if order == "<" else b"MM\0*"
    block = start + struct.pack(order + "IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0)
    stored = picture(STORED[6])
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    data = png(3, 2, rows, tail=png_chunk(b"eXIf", block))
    np.testing.assert_array_equal(decode(data), picture(UPRIGHT))
    assert image_size(data) == (3, 2)


def test_damaged_exif_leaves_the_picture_and_no_warning() -> None:
    # The maker's name, 1000 bytes at offset 9999, lies far behind the block's end.
    entries = struct.pack("<HHII", 0x010F, 2, 1000, 9999) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    data = encode(noise(8, 16), "JPEG", exif=block)
    with pytest.warns(UserWarning, match="Skipping tag 271|Truncated"):  # that Pillow by itself does warn
        Image.open(io.BytesIO(data))
    assert decode(data).shape == (16, 8, 3)  # and orientation 6, beside the damage, is still read
    for length in range(len(block)):
        cut = encode(noise(8, 16), "JPEG", exif=block[:length])
        assert decode(cut).shape in ((8, 16, 3), (16, 8, 3))
    assert decode(encode(noise(8, 16), "JPEG", exif=exif(9))).shape == (8, 16, 3)  # 9 is no orientation


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("AVIF", {}),
    ],
)
def test_every_prefix_decodes_or_raises_decode_error(form: str, options: dict[str, Any]) -> None:
    data = encode(noise(5, 9), form, **options)
    messages = [refusal(decode, data[:length], name="cut") for length in range(len(data))]
    refused = [message for message in messages if message is not None]
    assert all(message.startswith("cut: ") for message in refused)
    assert len(refused) > len(data) / 2


def test_truncation_and_damage_are_told_apart() -> None:
    jpeg = encode(noise(64, 64), "JPEG")
    assert image_size(jpeg[: len(jpeg) // 2]) == (64, 64)  # the header is whole
    with pytest.raises(DecodeError, match=r"photos/ça/猫\.jpg: truncated JPEG: ") as caught:
        decode(jpeg[: len(jpeg) // 2], name="photos/ça/猫.jpg")
    assert isinstance(caught.value.__cause__, OSError)
    flipped = bytearray(encode(noise(64, 64), "PNG"))
    flipped[2000] ^= 0xFF
    with pytest.raises(DecodeError, match=r"image: damaged PNG: "):
        decode(bytes(flipped))


def test_garbage() -> None:
    rng = np.random.default_rng(1)
    signatures = [
        b"",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF0000WEBPVP8 ",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"P6 ",
    ]
    for signature in signatures:
        for _ in range(40):
            data = signature + rng.bytes(int(rng.integers(0, 200)))
            for function in (decode, image_size):
                message = refusal(function, data, name="junk", max_pixels=10_000)
                assert message is None or message.startswith("junk: ")


@pytest.mark.parametrize("function", [decode, image_size])
def test_refusals_say_what_came(function: Callable[..., Any]) -> None:
    with pytest.raises(DecodeError, match=r"a\.jpg: no data"):
        function(b"", name="a.jpg")
    with pytest.raises(
        DecodeError, match=r"a\.txt: not an image; it begins with b'hello wo', and one of JPEG, PNG, WEBP"
    ):
        function(b"hello world", name="a.txt")
    with pytest.raises(DecodeError, match=r"a\.ps: not an image"):  # Pillow would start Ghostscript
        function(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", name="a.ps")
    for width, height in ((0, 5), (5, 0)):
        with pytest.raises(DecodeError, match=r"a\.png: damaged PNG: no pixels \(width or height is 0\)"):
            function(png(width, height), name="a.png")


@pytest.mark.parametrize("function", [decode, image_size])
def test_bombs_are_refused_by_their_header(function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded a bomb"))
    with pytest.raises(DecodeError, match=r"b\.png: PNG of 100000 x 100000 pixels; at most max_pixels=178956970"):
        function(png(100_000, 100_000), name="b.png")
    with pytest.raises(DecodeError, match="PNG of 3 x 2 pixels; at most max_pixels=5 "):
        function(png(3, 2), max_pixels=5)


def test_what_pillow_calls_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """WebP's decoder allocates its canvas on opening, so there Pillow's own limit comes before ours."""

    def check(self: object) -> None:
        raise Image.DecompressionBombError("Image size (400000000 pixels) exceeds limit")

    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "_open", check)
    with pytest.raises(DecodeError, match=r"b\.webp: too large a WEBP: Image size"):
        decode(encode(noise(2, 3), "WEBP"), name="b.webp")


def test_max_pixels_counts_alone_and_pillow_does_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert image_size(png(10_000, 10_000)) == (10_000, 10_000)  # above Pillow's warning, which would be an error here
    image = noise(10, 10)
    data = encode(image, "PNG")
    filters = list(warnings.filters)
    for limit in (60, 10):  # Pillow would warn at 100 pixels, then raise
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        np.testing.assert_array_equal(decode(data, max_pixels=100), image)
        assert limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters
    with pytest.raises(DecodeError, match="max_pixels=99"):
        decode(data, max_pixels=99)


@pytest.mark.parametrize(
    "error",
    [
        OSError("x"),
        SyntaxError("x"),
        ValueError("x"),
        struct.error("x"),
        EOFError(),
        IndexError("x"),
        KeyError("x"),
        zlib.error("x"),
    ],
)
def test_whatever_pillow_raises_is_a_decode_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(DecodeError, match=r"a\.png: damaged PNG: ('?x|EOFError)") as caught:
        decode(encode(noise(2, 3), "PNG"), name="a.png")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_not_the_files_fault_passes(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(error):
        decode(encode(noise(2, 3), "PNG"))


def test_many_threads() -> None:
    files = [encode(noise(40 + i, 50), form) for i, form in enumerate(("JPEG", "PNG", "WEBP", "GIF", "TIFF") * 2)]
    wanted = [decode(data) for data in files]
    limits, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for number, result in enumerate(pool.map(decode, files * 20)):
            np.testing.assert_array_equal(result, wanted[number % len(files)])
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == (limits, filters)

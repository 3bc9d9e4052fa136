"""Images are decoded as their content says, and everything else is refused in one sentence."""

import base64
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicpm
from minicpm.errors import BadImage, BadInput, MissingExtra
from minicpm.text.images.decoding import MAX_PIXELS, MAX_SIDE, decode
from minicpm.text.images.orientation import orientation
from minicpm.text.images.parts import MAX_BYTES, bytes_of_url, part_of_file
from minicpm.text.images.recognising import open_container
from minicpm.text.images.viewing import Viewer

Image = pytest.importorskip("PIL.Image", reason="`pip install 'minicpm[vision]'` runs this")
ImageOps = pytest.importorskip("PIL.ImageOps", reason="`pip install 'minicpm[vision]'` runs this")

FORMATS = pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])


def picture(width=9, height=6, mode="RGB", seed=0):
    """Random pixels of a mode, soft enough that lossy formats keep their gist."""
    random = np.random.default_rng(seed)
    channels = len(Image.new(mode, (1, 1)).getbands())
    coarse = random.integers(0, 256, (2, 3, channels), dtype=np.uint8)
    planes = [Image.fromarray(coarse[..., c]).resize((width, height)) for c in range(channels)]
    return planes[0].convert(mode) if channels == 1 else Image.merge(mode, planes)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def same(ours, theirs):
    return ours.mode == theirs.mode == "RGB" and np.array_equal(np.asarray(ours), np.asarray(theirs))


def sentence(data, **options):
    with pytest.raises(BadImage) as caught:
        decode(data, **options)
    return str(caught.value)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, *, bits=8, colour=2, body=b"", extra=b""):
    """A PNG whose header may promise more than there is."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [
        png_chunk(b"IHDR", header),
        extra,
        png_chunk(b"IDAT", zlib.compress(body)),
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# --- what is read -------------------------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("size", [(1, 1), (9, 6), (64, 1), (3, 50)], ids=str)
def test_a_plain_image_is_read_as_pillow_reads_it(kind, size):
    data = encoded(picture(*size), kind)
    assert same(decode(data), Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "PNG"), ("L", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("YCbCr", "JPEG")],
)
def test_other_colour_modes_become_rgb(mode, kind):
    source = picture().quantize(7) if mode == "P" else picture(mode=mode)
    data = encoded(source, kind)
    assert same(decode(data), Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"quality": 5}], ids=str)
def test_every_kind_of_jpeg_is_read(options):
    data = encoded(picture(40, 30), "JPEG", **options)
    assert same(decode(data), Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 10}, {"method": 0}], ids=str)
def test_every_kind_of_webp_is_read(options):
    data = encoded(picture(40, 30), "WEBP", **options)
    assert same(decode(data), Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_over_white(kind):
    image = picture(4, 1, "RGBA")
    image.putalpha(Image.fromarray(np.array([[0, 255, 128, 1]], dtype=np.uint8)))
    lossless = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    colours = np.asarray(image, dtype=float)
    share = colours[..., 3:] / 255
    expected = colours[..., :3] * share + 255 * (1 - share)
    got = np.asarray(decode(encoded(image, kind, **lossless)), dtype=float)
    assert np.abs(got - expected).max() <= 1  # rounding of Pillow's paste
    assert (got[0, 0] == 255).all()
    assert (got[0, 1] == colours[0, 1, :3]).all()


def test_a_transparent_palette_colour_becomes_white():
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    got = np.asarray(decode(encoded(image, transparency=1)))
    assert got.tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


def test_a_transparent_grey_or_colour_becomes_white():
    grey = encoded(Image.fromarray(np.array([[7, 8]], dtype=np.uint8)), transparency=7)
    assert np.asarray(decode(grey)).tolist() == [[[255] * 3, [8] * 3]]
    colour = encoded(
        Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)), transparency=(1, 2, 3)
    )
    assert np.asarray(decode(colour)).tolist() == [[[255] * 3, [4, 5, 6]]]


def test_sixteen_bits_become_their_upper_eight():
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype=np.uint16)
    got = np.asarray(decode(encoded(Image.fromarray(values))))
    assert got[0, :, 0].tolist() == [0, 0, 1, 0x12, 0xFF]
    row = b"\0" + b"".join(struct.pack(">HHH", v, v, v) for v in values[0].tolist())
    assert np.array_equal(np.asarray(decode(png(5, 1, bits=16, colour=2, body=row))), got)


@FORMATS
@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("order", ["little", "big"])
def test_pictures_are_turned_as_their_camera_was(kind, turned, order):
    image = picture()
    exif = Image.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif[0x010F] = "a maker"
    exif[0x0112] = turned
    data = encoded(image, kind, exif=exif)
    assert orientation(open_container(data).exif) == turned
    assert same(decode(data), ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"XX*\0\x08\0\0\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",  # a ninth orientation
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0\x06\0\0\0",  # text instead of a number
    ],
)
def test_unreadable_orientation_means_upright(exif):
    assert orientation(exif) == 1
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0" + exif)
    assert same(decode(data), Image.open(io.BytesIO(encoded(picture(), "JPEG"))).convert("RGB"))


def test_metadata_does_not_reach_the_decoder():
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    for kind in ("PNG", "JPEG"):
        data = encoded(picture(), kind, exif=exif, icc_profile=b"a profile " * 20)
        kept = open_container(data).pixels
        assert b"secret" in data
        assert b"secret" not in kept
        assert b"profile" not in kept
        assert same(decode(data), decode(encoded(picture(), kind)))


def test_the_first_frame_of_an_animation_is_read():
    frames = [picture(seed=seed) for seed in range(3)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert same(decode(data), frames[0])


# --- what is refused ----------------------------------------------------------------------------------------


def test_an_empty_file_is_refused():
    assert sentence(b"") == "The image is empty (0 bytes). Send the content of a PNG, JPEG or WebP file."


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"hello, I am called photo.png", "none of the image formats"),
        (b'<svg width="1" height="1"/>', "an SVG drawing"),
        (b'<?xml version="1.0"?>\n<svg/>', "an SVG drawing"),
        (b"  \n<!-- drawn --><SVG/>", "an SVG drawing"),
        (b"GIF89a\1\0\1\0", "a GIF image"),
        (b"\0\0\0\x18ftypheic", "an AVIF, HEIC or video file"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\x89PNG", "none of the image formats"),
    ],
)
def test_other_content_is_refused_by_what_it_is(data, name):
    told = sentence(data)
    assert f"The image is {name}" in told
    assert "only PNG, JPEG and WebP" in told


@FORMATS
def test_every_cut_of_a_file_is_refused(kind):
    data = encoded(picture(16, 16), kind)
    step = max(1, len(data) // 40)
    for length in range(13, len(data) - 3, step):
        told = sentence(data[:length])
        assert "cut off" in told or "damaged" in told


@pytest.mark.parametrize(
    "data",
    [
        png(50_000, 50_000),
        png(0xFFFFFFFF, 0xFFFFFFFF),
        png(MAX_PIXELS, 1),
        b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\1\1\x11\0\xff\xda\0\x02",
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
    ],
)
def test_too_many_pixels_are_refused_before_a_decoder_opens_the_file(data, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    assert "Make it smaller" in sentence(data)


def test_the_limit_of_pixels_is_exact_and_can_be_chosen():
    data = encoded(picture(5, 4))
    assert decode(data, max_pixels=20).size == (5, 4)
    assert "5 x 4 pixels, and at most 19" in sentence(data, max_pixels=19)
    assert f"{MAX_SIDE:,} a side" in sentence(data, max_pixels=19)


def test_pixels_beyond_the_header_are_not_decompressed():
    bomb = png(2, 2, body=b"\0" * 7 * 2 + b"\0" * (64 << 20))
    tracemalloc.start()
    assert decode(bomb).size == (2, 2)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        png(0, 5),
        png(4, 4, bits=3),
        png(4, 4, body=b"\0" * 7),
        png(4, 4)[:8] + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b""),
        png(4, 4, extra=png_chunk(b"CgBI", b"\x50\0\x20\2")),
        b"\xff\xd8\xff\xd9\0\0",
        b"\xff\xd8\xff\xe0\0\2\0\0\0\0",
        b"\xff\xd8\xff\xda\0\2",
        b"RIFF\x0c\0\0\0WEBPVP8L\0\0\0\0",
        b"RIFF\x04\0\0\0WEBP",
    ],
)
def test_damaged_files_are_refused(data):
    assert "damaged" in sentence(data)


def test_a_size_that_differs_from_the_first_header_is_refused():
    data = bytearray(encoded(picture(8, 8), "WEBP", exif=b"II*\0"))
    place = data.index(b"VP8X") + 8 + 4
    data[place] = 100
    assert "damaged" in sentence(bytes(data))


def test_bad_images_are_bad_input_and_hide_nothing_of_the_cause():
    with pytest.raises(BadInput) as caught:
        decode(png(4, 4))
    assert caught.value.__cause__ is not None


MUTATED = [encoded(picture(12, 10), kind) for kind in ("PNG", "JPEG", "WEBP")]
MUTATED += [
    encoded(picture(12, 10), "JPEG", progressive=True, exif=Image.Exif()),
    encoded(picture(12, 10).quantize(7), transparency=1),
    encoded(picture(12, 10, "CMYK"), "JPEG"),
    encoded(picture(12, 10), "WEBP", lossless=True, exif=b"II*\0\x08\0\0\0"),
]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    seed=st.sampled_from(MUTATED),
    edits=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 40),
    tail=st.binary(max_size=8),
)
def test_mutated_files_give_an_image_or_a_sentence(seed, edits, cut, tail):
    data = bytearray(seed)
    for place, value in edits:
        data[place % len(data)] = value
    data = bytes(data[: len(data) - cut]) + tail
    try:
        image = decode(data, max_pixels=1 << 16)
    except BadImage:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= 1 << 16


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x40\0\0\0WEBP"]),
)
def test_bytes_of_any_kind_give_an_image_or_a_sentence(data, head):
    with suppress(BadImage):
        decode(head + data, max_pixels=1 << 16)


# --- what the model sees ------------------------------------------------------------------------------------

HALF = Viewer(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = Viewer(6, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.mark.parametrize("viewer", [HALF, CLIP], ids=["half", "clip"])
@pytest.mark.parametrize("size", [(8, 8), (30, 7), (1, 1), (100, 100)], ids=str)
def test_a_view_is_resized_scaled_and_normalised(viewer, size):
    torch = pytest.importorskip("torch")
    image = picture(*size)
    small = image.resize((viewer.size, viewer.size), Image.Resampling.BICUBIC)
    values = torch.tensor(np.array(small)).permute(2, 0, 1).float().div(255)
    columns = (torch.tensor(x)[:, None, None] for x in (viewer.mean, viewer.std))
    expected = values.sub(next(columns)).div(next(columns))
    view = viewer.view(encoded(image))
    assert view.pixels.dtype == np.float32
    assert view.pixels.flags.c_contiguous
    assert torch.equal(torch.tensor(view.pixels), expected)


@pytest.mark.parametrize("viewer", [HALF, CLIP], ids=["half", "clip"])
def test_a_view_equals_torchvision(viewer):
    transforms = pytest.importorskip(
        "torchvision.transforms", reason="`pip install torchvision` runs this comparison"
    )
    steps = [
        transforms.Resize((viewer.size, viewer.size), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(viewer.mean, viewer.std),
    ]
    image = picture(50, 31)
    assert np.array_equal(viewer.view_of(image).pixels, transforms.Compose(steps)(image).numpy())


def test_equal_views_have_equal_digests_whatever_the_file():
    image = picture(8, 8)
    assert HALF.view(encoded(image)).digest == HALF.view(encoded(image, "WEBP", lossless=True)).digest
    assert HALF.view(encoded(image)).digest != HALF.view(encoded(picture(8, 8, seed=1))).digest


# --- where images come from ---------------------------------------------------------------------------------


@FORMATS
def test_a_file_becomes_a_part_that_holds_its_content(kind, tmp_path):
    data = encoded(picture(), kind)
    path = tmp_path / "a name without its kind"
    path.write_bytes(data)
    part = part_of_file(path)
    assert part["type"] == "image_url"
    assert part["image_url"]["url"].startswith(f"data:image/{kind.lower()};base64,")
    assert bytes_of_url(part["image_url"]["url"]) == data


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_a_file_that_cannot_be_read_is_named(name, tmp_path):
    with pytest.raises(BadImage, match="cannot be read"):
        part_of_file(tmp_path / name)


def test_a_text_file_named_png_is_refused(tmp_path):
    path = tmp_path / "photo.png"
    path.write_text("not a photo", encoding="utf-8")
    with pytest.raises(BadImage, match="whatever a file is called"):
        part_of_file(path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES * 100)
    with pytest.raises(BadImage, match="more than 20,971,520 bytes"):
        part_of_file(path)


@pytest.mark.parametrize(
    ("url", "data"),
    [
        ("data:image/png;base64,AAECAw==", b"\0\1\2\3"),
        ("DATA:;BASE64,AAECAw==", b"\0\1\2\3"),
        ("data:text/plain;charset=utf-8;base64,AAEC\n Aw==", b"\0\1\2\3"),
        ("data:image/png;base64,AAECAw%3D%3D", b"\0\1\2\3"),
        ("data:image/png;base64,+/+%2B", b"\xfb\xff\xbe"),
        ("data:image/png;base64,", b""),
    ],
)
def test_data_urls_are_decoded(url, data):
    assert bytes_of_url(url) == data


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://example.com/a.png", "not fetched from the network"),
        ("HTTP://example.com/a.png", "not fetched from the network"),
        ("file:///etc/passwd", "something else than a data URL"),
        ("/etc/passwd", "something else than a data URL"),
        ("photo.png", "something else than a data URL"),
        ("ftp://example.com/a.png", "something else than a data URL"),
        ("", "something else than a data URL"),
        ("data:image/png,abc", "not in base64"),
        ("data:image/png;base64", "not in base64"),
        ("data:image/png;base64,AAE", "not valid base64"),
        ("data:image/png;base64,AA*E", "not valid base64"),
        ("data:image/png;base64,日本", "not valid base64"),
        ("data:image/png;base64,\ud800", "not valid base64"),
    ],
)
def test_other_urls_are_refused(url, told):
    with pytest.raises(BadImage, match=told):
        bytes_of_url(url)


def test_a_data_url_beyond_the_limit_is_refused_before_it_is_decoded():
    with pytest.raises(BadImage, match="more than 20,971,520 bytes"):
        bytes_of_url("data:;base64," + "A" * (MAX_BYTES * 4 // 3 + 10))


def test_an_encoded_picture_survives_its_url():
    data = encoded(picture())
    assert bytes_of_url("data:image/webp;base64," + base64.b64encode(data).decode()) == data


def test_without_pillow_the_extra_is_named(monkeypatch):
    data = encoded(picture())
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"minicpm\[vision\]"):
        decode(data)


def test_no_module_of_the_room_imports_pillow_numpy_or_torch_by_itself():
    names = "container decoding jpeg orientation parts png recognising viewing webp".split()
    code = f"import sys; [__import__(f'minicpm.text.images.{{n}}') for n in {names!r}]; "
    code += "print([m for m in ('PIL', 'numpy', 'torch') if m in sys.modules])"
    sources = os.environ | {"PYTHONPATH": str(Path(minicpm.__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=sources
    )
    assert found.stdout.strip() == "[]"

"""`open_image`: every kind of file that turns up in image data sets, made here with Pillow."""

import io

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, features

from data_prep.tables.images import FORMATS, ImageError, open_image
from data_prep.tables.schema import FEATURES, problems

RNG = np.random.default_rng(0)
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:240:6, 0:240:4], 90), -1).astype(np.uint8)  # [40, 60, 3]
NOISE = Image.fromarray(RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data):
    image = open_image(data)
    assert image.mode == "RGB"
    assert not image.info
    return np.asarray(image).astype(int)


def test_a_png_comes_back_exactly_from_bytes_path_and_a_wrong_name(tmp_path):
    data = encoded(Image.fromarray(SMOOTH))
    path = tmp_path / "is a png é.jpg"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        assert np.array_equal(pixels(source), SMOOTH)


def test_formats_that_run_other_programs_are_refused(monkeypatch):
    called = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: called.append(1))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n0 0 64 64 rectfill showpage\n%%EOF\n"
    with pytest.raises(ImageError, match=r"not an image in any format that is read \(BMP, "):
        open_image(eps)
    row = {**dict.fromkeys(FEATURES, "x"), "clean_image": {"bytes": eps, "path": None}, "corrupt_image": None, "object_mask": None}
    assert any("clean_image does not decode" in problem for problem in problems(row | {"object_box": []}))
    assert called == []


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "AVIF" or features.check("avif")])
def test_every_format_of_the_list_opens(kind):
    assert pixels(encoded(Image.fromarray(SMOOTH), kind)).shape == SMOOTH.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels(encoded(Image.fromarray(SMOOTH), exif=exif)), turns[orientation](SMOOTH))


def test_broken_exif_leaves_the_image_as_it_is():
    assert pixels(encoded(Image.fromarray(SMOOTH), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", quality=95)).shape == SMOOTH.shape


def test_16_bit_grey_is_scaled_not_saturated():
    grey = RNG.integers(0, 65536, (20, 30)).astype(np.uint16)
    grey[0, :3] = 0, 257, 65535
    got = pixels(encoded(Image.fromarray(grey)))
    assert np.array_equal(got, np.rint(grey / 257).astype(int)[..., None].repeat(3, -1))
    assert got[0, :3, 0].tolist() == [0, 1, 255]
    assert np.array_equal(pixels(encoded(Image.fromarray(grey), "TIFF")), got)


@pytest.mark.parametrize(("dtype", "top"), [(np.int32, 65535), (np.int32, 255), (np.float32, 1), (np.float32, 255), (np.float32, 65535)])
def test_32_bit_grey_is_scaled_by_its_range(dtype, top):
    ramp = np.tile(np.linspace(0, top, 256), (8, 1)).astype(dtype)
    assert np.abs(pixels(encoded(Image.fromarray(ramp), "TIFF"))[..., 1] - np.arange(256)).max() <= 1


def test_grey_values_of_no_known_scale_are_refused():
    for values in (-1.0, np.nan, 1e6):
        with pytest.raises(ImageError, match="no known scale"):
            open_image(encoded(Image.fromarray(np.full((8, 8), values, np.float32)), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white(mode):
    alpha = np.zeros((40, 60), np.uint8)
    alpha[10:20], alpha[20:30] = 128, 255
    image = Image.fromarray(SMOOTH).convert(mode[:-1])
    opaque = np.asarray(image.convert("RGB")).astype(float)
    image.putalpha(Image.fromarray(alpha))
    share = alpha[..., None] / 255
    got = pixels(encoded(image))
    assert np.abs(got - (share * opaque + (1 - share) * 255)).max() <= 1
    assert (got[:10] == 255).all()


def test_transparent_palette_and_transparent_colour_key():
    palette = Image.fromarray(SMOOTH).quantize(16)
    first = np.asarray(palette) == 3
    got = pixels(encoded(palette, transparency=3))
    assert (got[first] == 255).all()
    assert np.array_equal(got[~first], np.asarray(palette.convert("RGB"))[~first])
    assert (pixels(encoded(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3))) == 255).all()
    assert (pixels(encoded(Image.new("L", (8, 8), 7), transparency=7)) == 255).all()


def test_modes_without_alpha():
    image = Image.fromarray(SMOOTH)
    assert np.array_equal(pixels(encoded(image.convert("1"))), np.asarray(image.convert("1").convert("RGB")))
    assert np.array_equal(pixels(encoded(image.quantize(8))), np.asarray(image.quantize(8).convert("RGB")))
    assert np.array_equal(pixels(encoded(image.convert("L"))), np.asarray(image.convert("L").convert("RGB")))
    assert np.abs(pixels(encoded(image.convert("CMYK"), "JPEG", quality=98, subsampling=0)) - SMOOTH).max() < 12
    assert np.abs(pixels(encoded(image, "JPEG", progressive=True, quality=98, subsampling=0)) - SMOOTH).max() < 12
    assert np.array_equal(pixels(encoded(image, "WEBP", lossless=True)), SMOOTH)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    assert (pixels(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"\xef\xbb\xbf \n<html><body>gone</body></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "LFS pointer"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"just some text", "not an image"),
        (encoded(NOISE)[:3000], "damaged or truncated"),
        (encoded(NOISE, "JPEG")[:1800], "damaged or truncated"),
        (encoded(NOISE, "GIF")[:1000], "damaged or truncated"),
        (encoded(NOISE, "WEBP")[:1000], "not an image|damaged or truncated"),
        (encoded(Image.new("RGB", (1, 1))), "1 x 1"),
        (encoded(Image.new("RGB", (1, 500))), "1 x 500"),
    ],
)
def test_what_is_no_usable_image_is_named_and_explained(tmp_path, data, says):
    path = tmp_path / "broken.jpg"
    path.write_bytes(data)
    for source, name in ((path, "broken.jpg"), (data, "image")):
        with pytest.raises(ImageError, match=says) as caught:
            open_image(source)
        assert name in str(caught.value)


def test_missing_files_folders_and_addresses(tmp_path):
    for source, says in ((tmp_path / "no.png", "no such file"), (tmp_path, "folder"), ("https://example.org/a.png", "web address")):
        with pytest.raises(ImageError, match=says):
            open_image(source)


def test_sizes_that_exhaust_memory_are_refused():
    with pytest.raises(ImageError, match="more than 1,000"):
        open_image(encoded(Image.new("L", (100, 100))), most_pixels=1000)
    bomb = encoded(Image.new("1", (15_000, 15_000)))
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match=r"too large|more than"):
        open_image(bomb)


def test_the_name_in_messages_can_be_given():
    with pytest.raises(ImageError, match=r"^row 3 of a.csv: "):
        open_image(b"", "row 3 of a.csv")

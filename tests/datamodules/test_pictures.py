"""PNG, JPEG, TIFF and .npy are read exactly, or refused with a way out."""

import struct
from pathlib import Path
from zlib import compress, crc32

import numpy as np
import pytest
from PIL import Image

from datamodules.reading.nifti import NiftiError
from datamodules.reading.pictures import channels_in, picture_grid, read_mask, read_picture

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)  # (H, W)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    Image.fromarray(pixels).convert(mode).save(path) if mode else Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".PNG"])
def test_gray_pictures_are_volumes_of_one_slice_with_x_to_the_right(
    tmp_path: Path, suffix: str
) -> None:
    path = saved(tmp_path / f"a{suffix}", GRAY)
    volume = read_picture(path, pixel_size=(0.5, 0.25))
    np.testing.assert_array_equal(volume.data, GRAY.T[:, :, None])
    np.testing.assert_array_equal(np.diag(volume.affine), [0.5, 0.25, 1, 1])
    assert picture_grid(path)[0] == (7, 5, 1)
    assert channels_in(path) == 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colors_are_the_last_axis(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a{suffix}", COLOR)
    np.testing.assert_array_equal(read_picture(path).data, COLOR.transpose(1, 0, 2)[:, :, None])
    assert channels_in(path) == 3


def test_values_of_16_and_32_bits_are_kept(tmp_path: Path) -> None:
    deep = (GRAY.astype(np.uint16) * 257) + 3
    np.testing.assert_array_equal(
        read_picture(saved(tmp_path / "a.png", deep)).data[..., 0], deep.T
    )
    real = GRAY.astype(np.float32) / 7
    np.testing.assert_array_equal(
        read_picture(saved(tmp_path / "a.tif", real)).data[..., 0], real.T
    )


def test_pages_of_a_tiff_are_slices(tmp_path: Path) -> None:
    pages = [Image.fromarray(GRAY + n) for n in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    data = read_picture(tmp_path / "a.tif").data
    assert data.shape == (7, 5, 4)
    np.testing.assert_array_equal(data[..., 3], (GRAY + 3).T)
    assert picture_grid(tmp_path / "a.tif")[0] == (7, 5, 4)


@pytest.mark.parametrize("array", [GRAY, COLOR, GRAY[..., None], GRAY.astype(np.float64)])
def test_arrays_of_npy(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    data = read_picture(tmp_path / "a.npy").data
    flat = data[:, :, 0] if array.ndim == 3 and array.shape[2] > 1 else data
    np.testing.assert_array_equal(flat, np.swapaxes(array, 0, 1).reshape(flat.shape))


def test_palettes_are_colors_of_images_and_indices_of_masks(tmp_path: Path) -> None:
    image = Image.fromarray(GRAY % 3, "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 90, 0])
    image.save(tmp_path / "a.png")
    colors = np.array([[10, 20, 30], [200, 0, 0], [0, 90, 0]], np.uint8)[GRAY % 3]
    np.testing.assert_array_equal(
        read_picture(tmp_path / "a.png").data[:, :, 0], colors.transpose(1, 0, 2)
    )
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").data[..., 0], GRAY.T % 3)


def test_opaque_alpha_is_dropped(tmp_path: Path) -> None:
    opaque = np.dstack([COLOR, np.full(GRAY.shape, 255, np.uint8)])
    np.testing.assert_array_equal(
        read_picture(saved(tmp_path / "b.png", opaque)).data[:, :, 0], COLOR.transpose(1, 0, 2)
    )


def test_masks_of_gray_in_rgb_have_its_values(tmp_path: Path) -> None:
    mask = np.where(GRAY > 100, 255, 0).astype(np.uint8)
    path = saved(tmp_path / "a.png", np.dstack([mask] * 3))
    np.testing.assert_array_equal(read_mask(path).data[..., 0], mask.T)


def test_masks_of_colors_have_color_codes(tmp_path: Path) -> None:
    colors = np.zeros((5, 7, 3), np.uint8)
    colors[1, 2] = (255, 0, 16)
    data = read_mask(saved(tmp_path / "a.png", colors)).data
    assert data[2, 1, 0] == 0xFF0010
    assert np.count_nonzero(data) == 1


def test_bilevel_masks_are_0_and_1(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.where(GRAY > 100, 255, 0).astype(np.uint8), "1")
    np.testing.assert_array_equal(read_mask(path).data[..., 0], (GRAY > 100).T)


def _deep_color(path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + RNG.bytes(2 * 6) for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _transparent(path: Path) -> None:
    saved(path, np.dstack([COLOR, GRAY]))


def _cut(path: Path) -> None:
    saved(path, RNG.integers(0, 256, (64, 64), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("write", "facts"),
    [
        (_deep_color, ["8 bits", "16"]),
        (_transparent, ["opaque"]),
        (_cut, ["complete"]),
        (lambda path: path.write_bytes(b"not a picture"), ["picture"]),
        (lambda path: None, ["exist"]),
    ],
)
def test_refused_pictures(tmp_path: Path, write, facts: list[str]) -> None:
    path = tmp_path / "a.png"
    write(path)
    with pytest.raises(NiftiError) as error:
        read_picture(path)
    assert all(fact in str(error.value) for fact in facts)
    assert error.value.fix


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((2, 2, 2, 2)), np.array([[object()]]), np.zeros((0, 3))]
)
def test_refused_arrays(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(NiftiError, match=r"npy|real numbers"):
        read_picture(tmp_path / "a.npy")


def test_white_is_a_color_where_labels_are_colors(tmp_path: Path) -> None:
    white = np.full((5, 7), 255, np.uint8)
    gray, rgb = saved(tmp_path / "l.png", white), saved(tmp_path / "c.png", white, "RGB")
    palette = saved(tmp_path / "p.png", white, "P")
    for path in (gray, rgb):
        assert set(read_mask(path).data.flat) == {255}
        assert set(read_mask(path, colors=True).data.flat) == {0xFFFFFF}
    assert set(read_mask(palette, colors=True).data.flat) == {0xFFFFFF}


def test_16_bits_of_several_channels_are_refused_in_tiff_and_gray_with_alpha(
    tmp_path: Path,
) -> None:
    pixels = np.arange(3 * 4, dtype="<u2").reshape(2, 2, 3) * 5000
    entries = [(256, 4, 2), (257, 4, 2), (258, 3, 3), (259, 3, 1), (262, 3, 2), (273, 4, 8),
               (277, 3, 3), (278, 4, 2), (279, 4, pixels.nbytes)]  # fmt: skip
    bits = 8 + pixels.nbytes
    table = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        count, value = (3, bits) if tag == 258 else (1, value)
        table += struct.pack("<HHII", tag, kind, count, value)
    head = struct.pack("<2sHI", b"II", 42, bits + 6)
    data = head + pixels.tobytes() + struct.pack("<3H", 16, 16, 16) + table + bytes(4)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(NiftiError, match="8 bits a channel"):
        read_picture(tmp_path / "a.tif")

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc32(name + body))

    rows = b"".join(b"\0" + struct.pack(">4H", 1000, 65535, 1001, 65535) for _ in range(2))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 2, 2, 16, 4, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(png + chunk(b"IDAT", compress(rows)) + chunk(b"IEND", b""))
    with pytest.raises(NiftiError, match="8 bits a channel"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_photographs_are_turned_as_exif_says(tmp_path: Path, turn: int) -> None:
    upright = {1: GRAY, 3: np.rot90(GRAY, 2), 6: np.rot90(GRAY, -1), 8: np.rot90(GRAY)}[turn]
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(GRAY).save(tmp_path / "a.png", exif=exif)
    volume = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(volume.data[:, :, 0], upright.T)
    assert picture_grid(tmp_path / "a.png")[0] == volume.data.shape

"""Reading PNG, JPEG, TIFF and ``.npy`` files as volumes of one slice, or of a stack's slices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datamodules.reading.nifti import NiftiError, Volume, access_fault

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")
_ALPHA = {"RGBA": "RGB", "LA": "L", "PA": "P"}
_FIX = "Save it again as PNG, TIFF or .npy."
_DEEP = (2, 4, 6)  # color types of PNG of which PIL keeps 8 bits: all but gray and palette
_TURN = 274  # tag of EXIF: how a camera was held; 5 to 8 swap the axes
_BITS = 258  # tag of TIFF: bits of each channel


def is_picture(path: Path) -> bool:
    """Return True if a name is that of a picture, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_picture(
    path: Path, *, pixel_size: Sequence[float] = (1.0, 1.0), dtype: type[np.floating] | None = None
) -> Volume:
    """Read a picture as a volume ``(X, Y, Z)``, or ``(X, Y, Z, C)`` if it has colors.

    X runs to the right and Y down, as in the picture; the pages of a TIFF are slices. A palette is
    resolved to colors, an alpha channel that is opaque everywhere is dropped, and a photograph is
    turned as its EXIF orientation says.

    Args:
        path: The file; an array of ``.npy`` is ``(H, W)``, or ``(H, W, C)``.
        pixel_size: Size of a pixel in mm along X and Y; the file does not say it.
        dtype: Type of the voxels; None keeps the file's own.

    Raises:
        NiftiError: The file is missing or damaged, or has pixels that cannot be read exactly.
    """
    data = _pixels(path, resolve=True)
    affine = _affine(pixel_size)
    return Volume(data if dtype is None else data.astype(dtype), affine, affine)


def read_mask(
    path: Path, *, pixel_size: Sequence[float] = (1.0, 1.0), colors: bool = False
) -> Volume:
    """Read a label picture ``(X, Y, Z)``: its values, or codes of its colors.

    A picture with a palette has the indices as values. The code of a color is ``65536 * red + 256
    * green + blue``; if all colors are gray, the values are those of the gray.

    Args:
        path: The file.
        pixel_size: Size of a pixel in mm along X and Y.
        colors: Whether the labels of the dataset are colors. Then palettes and grays of 8 bits are
            colors, too: white is white also in a picture without any other color.

    Raises:
        NiftiError: As :func:`read_picture`.
    """
    data = _pixels(path, resolve=colors)
    if colors and data.ndim == 3 and data.dtype == np.uint8:
        data = np.stack([data] * 3, axis=-1)
    if data.ndim == 4:
        first, others = data[..., :1], data[..., 1:]
        if data.shape[-1] not in (1, 3) or data.dtype != np.uint8:
            found = f"{data.shape[-1]} channels of {data.dtype}"
            raise NiftiError("a mask must have one channel, or red, green and blue", found, _FIX)
        if (first == others).all() and not colors:
            data = data[..., 0]
        else:
            red, green, blue = np.moveaxis(data.astype(np.int32), -1, 0)
            data = 65536 * red + 256 * green + blue
    affine = _affine(pixel_size)
    return Volume(data, affine, affine)


def picture_grid(
    path: Path, *, pixel_size: Sequence[float] = (1.0, 1.0)
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Return shape, file affine and true affine of a picture without reading its pixels.

    Raises:
        NiftiError: As :func:`read_picture`, for what the header can tell.
    """
    affine = _affine(pixel_size)
    if path.suffix.lower() == ".npy":
        height, width = _array(path, mapped=True).shape[:2]
        return (width, height, 1), affine, affine
    with _opened(path) as image:
        size = image.size[::-1] if image.getexif().get(_TURN, 1) >= 5 else image.size
        return (*size, getattr(image, "n_frames", 1)), affine, affine


def channels_in(path: Path) -> int:
    """Return the number of channels of a picture, without reading its pixels.

    Raises:
        NiftiError: As :func:`read_picture`, for what the header can tell.
    """
    if path.suffix.lower() == ".npy":
        shape = _array(path, mapped=True).shape
        return 1 if len(shape) == 2 else shape[2]
    with _opened(path) as image:
        mode = _ALPHA.get(image.mode, image.mode)
        return 3 if mode in ("RGB", "P", "YCbCr", "CMYK", "LAB", "HSV") else 1


def has_colors(path: Path) -> bool:
    """Return True if a picture has red, green and blue in 8 bits, without reading its pixels.

    Raises:
        NiftiError: As :func:`read_picture`, for what the header can tell.
    """
    deep = path.suffix.lower() == ".npy" and _array(path, mapped=True).dtype != np.uint8
    return channels_in(path) == 3 and not deep


def _affine(pixel_size: Sequence[float]) -> np.ndarray:
    return np.diag([*(float(size) for size in pixel_size), 1.0, 1.0])


def _pixels(path: Path, *, resolve: bool) -> np.ndarray:
    """Return pixels ``(X, Y, Z)`` or ``(X, Y, Z, C)``, of a palette the colors or the indices."""
    if path.suffix.lower() == ".npy":
        array = np.asarray(_array(path))
        array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
        return np.expand_dims(np.swapaxes(array, 0, 1), 2)
    with _opened(path) as image:
        if _deep_color(image, path):
            rule = f"a {image.format} of several channels must have 8 bits a channel"
            raise NiftiError(rule, "16, of which 8 would be lost", "Save it as .npy, or in 8 bits.")
        pages = []
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            try:
                upright = ImageOps.exif_transpose(image) if image.getexif() else image
                pages.append(np.asarray(_opaque(upright, resolve=resolve)))
            except (OSError, ValueError, SyntaxError) as error:
                raise NiftiError("the picture must be complete", str(error), _FIX) from error
    if any(page.shape != pages[0].shape for page in pages):
        rule = "the pages of a TIFF must have one size"
        raise NiftiError(rule, f"{pages[0].shape} and others", "Save one file a page.")
    stack = np.stack([np.swapaxes(page, 0, 1) for page in pages], axis=2)
    return stack.astype(np.uint8) if stack.dtype == bool else stack


def _opaque(image: Image.Image, *, resolve: bool) -> Image.Image:
    """Return an image in gray, RGB or indices; raise NiftiError if transparency would be lost."""
    if image.mode in _ALPHA:
        if image.getchannel("A").getextrema() != (255, 255):
            rule = "a picture must be opaque"
            raise NiftiError(rule, "transparent pixels", "Save it without an alpha channel.")
        image = image.convert(_ALPHA[image.mode])
    if image.mode in ("YCbCr", "CMYK", "LAB", "HSV") or (image.mode == "P" and resolve):
        return image.convert("RGB")
    return image


def _opened(path: Path) -> Image.Image:
    if fault := access_fault(path):
        raise NiftiError(*fault)
    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        found = " ".join(str(error).replace(str(path), "it").split())[:120]
        raise NiftiError("the file must be a picture", found, _FIX) from error


def _array(path: Path, *, mapped: bool = False) -> np.ndarray:
    if fault := access_fault(path):
        raise NiftiError(*fault)
    try:
        array: np.ndarray = np.load(path, allow_pickle=False, mmap_mode="r" if mapped else None)
    except (OSError, ValueError, EOFError) as error:
        raise NiftiError("the file must be an array of .npy", str(error)[:120], _FIX) from error
    if array.ndim not in (2, 3) or array.dtype.kind not in "iufb" or 0 in array.shape:
        rule = "an array must be (H, W) or (H, W, C), of real numbers"
        raise NiftiError(rule, f"shape {array.shape} of {array.dtype}", _FIX)
    return array


def _deep_color(image: Image.Image, path: Path) -> bool:
    """Return True if a PNG or TIFF stores several channels in 16 bits, of which PIL drops 8."""
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BITS, ())
        return len(bits) > 1 and max(bits) > 8
    if image.format != "PNG":
        return False
    with path.open("rb") as file:
        header = file.read(26)
    return len(header) == 26 and header[24] == 16 and header[25] in _DEEP

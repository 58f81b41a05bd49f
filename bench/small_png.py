"""Screenshots as small PNGs: at most 256 colours, each pixel an index.

A page has a few colours, and some thousand shades of them where letters end; nobody misses those that are rare.
"""

import base64
import struct
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

COLOURS: Final = 256
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_DECODE: Final = """async (png) => {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
  const drawing = new OffscreenCanvas(image.width, image.height).getContext("2d");
  drawing.drawImage(image, 0, 0);
  const { data } = drawing.getImageData(0, 0, image.width, image.height);
  const reader = new FileReader();
  const read = new Promise((resolve) => (reader.onload = resolve));
  reader.readAsDataURL(new Blob([data]));
  await read;
  return [image.width, image.height, reader.result.split(",")[1]];
}"""


def small_png(context: "BrowserContext", screenshot: bytes) -> bytes:
    """The same picture in fewer bytes; the browser decodes it."""
    page = context.new_page()
    width, height, data = page.evaluate(_DECODE, base64.b64encode(screenshot).decode())
    page.close()
    return indexed_png(np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[:, :, :3])


def indexed_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of `pixels`, u8 [height, width, 3]. Colours beyond the frequent ones become the most alike of these."""
    height, width, _ = pixels.shape
    found, index, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    kept = found[np.argsort(-counts, kind="stable")[:COLOURS]]
    away = np.square(found[:, None, :].astype(np.int32) - kept[None, :, :]).sum(axis=2)  # [found, kept]
    rows = away.argmin(axis=1).astype(np.uint8)[index].reshape(height, width)
    unfiltered = np.pad(rows, ((0, 0), (1, 0)))  # each row begins with its filter: 0, none
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", kept.tobytes()),
            _chunk(b"IDAT", zlib.compress(unfiltered.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

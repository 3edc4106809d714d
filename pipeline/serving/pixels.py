"""Pictures as files: uploads to codes, codes to PNG, JPEG or WebP, by a thread that decodes those that wait at once."""

import asyncio
import io
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tokenization.config.pictures import Transform
from tokenization.corpora.pictures import load_picture
from tokenization.vqgan.image_tokenizer import DECODE_BATCH, ImageTokenizer

FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True, eq=False)
class _Asked:
    work: Callable[[list[Any]], list[Any]]
    key: tuple[str, int]
    value: Any
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop


class Pixels:
    """The VQ-GAN of a replica, and its thread.

    Args:
        vqgan: encodes and decodes.
        transform: how uploads are cropped, and their limits.
    """

    def __init__(self, vqgan: ImageTokenizer, transform: Transform) -> None:
        self._vqgan, self._transform = vqgan, transform
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="decodes", daemon=True)
        self._thread.start()

    async def pixels_of(self, codes: list[int]) -> np.ndarray:
        """Decodes one picture: uint8 [S, S, 3]."""
        pixels: np.ndarray = await self._ask(self._decode, ("decode", len(codes)), codes)
        return pixels

    async def file_of(self, codes: list[int], format: str) -> bytes:
        """Decodes one picture to a file in one of `FORMATS`."""
        return await asyncio.to_thread(encoded, await self.pixels_of(codes), format)

    async def codes_of(self, content: bytes) -> np.ndarray:
        """Decodes, crops and encodes an upload: raw codes, int64 [N].

        Raises:
            ValueError: it is no picture within the limits.
        """
        codes: np.ndarray = await self._ask(self._encode, ("encode", id(content)), content)
        return codes

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join()

    async def _ask(self, work: Callable[[list[Any]], list[Any]], key: tuple[str, int], value: Any) -> Any:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._asked.put(_Asked(work, key, value, future, loop))
        return await future

    def _run(self) -> None:
        waiting: list[_Asked] = []
        while True:
            if not waiting:
                first = self._asked.get()
                if first is None:
                    return
                waiting.append(first)
            while not self._asked.empty():
                more = self._asked.get()
                if more is None:
                    return
                waiting.append(more)
            together = [asked for asked in waiting if asked.key == waiting[0].key][:DECODE_BATCH]
            waiting = [asked for asked in waiting if asked not in together]
            try:
                results = together[0].work([asked.value for asked in together])
            except Exception as error:  # whoever asked gets it
                results = [error] * len(together)
            for asked, result in zip(together, results, strict=True):
                if not asked.loop.is_closed():
                    asked.loop.call_soon_threadsafe(_answer, asked.future, result)

    def _decode(self, codes: list[list[int]]) -> list[np.ndarray]:
        return list(self._vqgan.decode_all(np.asarray(codes)))

    def _encode(self, contents: list[bytes]) -> list[np.ndarray]:
        return [self._vqgan.encode(load_picture(each, self._transform).pixels[None].copy())[0] for each in contents]


def encoded(pixels: np.ndarray, format: str) -> bytes:
    """A picture uint8 [S, S, 3] as a file in one of `FORMATS`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def unfinished(pixels: np.ndarray, num_codes: int, num_known: int, below: np.ndarray | None) -> np.ndarray:
    """A picture of which the first codes are known: the other patches are white, or those of the picture `below`,
    enlarged."""
    side, grid = len(pixels), round(num_codes**0.5)
    patch = side // grid
    shown = np.full_like(pixels, 255)
    if below is not None:
        shown = np.asarray(Image.fromarray(below).resize((side, side), Image.Resampling.BICUBIC)).copy()
    for number in range(num_known):
        top, left = number // grid * patch, number % grid * patch
        shown[top : top + patch, left : left + patch] = pixels[top : top + patch, left : left + patch]
    return shown


def _answer(future: "asyncio.Future[Any]", result: Any) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)

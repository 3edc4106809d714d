"""One loaded model that answers jobs: the engine's choices become text and pictures."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from pipeline.config.serving import ServingLimits
from pipeline.config.stage import INSTRUCTIONS
from pipeline.config.vocabulary import State
from pipeline.data.sequences import SequenceBuilder
from pipeline.errors import InputError
from pipeline.export.export import load_export
from pipeline.generation.continuous import ContinuousBatch
from pipeline.generation.documents import DocumentLimits
from pipeline.generation.pictures import Pictures, positions_after_prompt
from pipeline.generation.prompts_at_once import prompts_that_fit
from pipeline.generation.steps import Layout, Steps, Told, caption_steps, document_steps, picture_steps
from pipeline.model.mars import MarsForCausalLM
from pipeline.serving.engine import Chosen, Done, Engine, Ticket
from pipeline.serving.jobs import (
    CaptionJob,
    Codes,
    DocumentJob,
    Ended,
    Event,
    Job,
    PictureJob,
    PictureMade,
    Reason,
    Refused,
    Text,
)
from pipeline.serving.patches import patches_of
from pipeline.serving.pixels import Pixels, encoded, unfinished
from pipeline.serving.served_model import ServedModel
from tokenization.config.pictures import Transform
from tokenization.dtypes import fast_dtype
from tokenization.text_tokenizer import end_of_text_id
from tokenization.vqgan.image_tokenizer import ImageTokenizer

UNFINISHED_LETTER = "\ufffd"
"""What a tokenizer gives for bytes of a letter whose other bytes are yet to come."""


class Painter:
    """Answers jobs with a model.

    Args:
        served: the model.
        limits: limits of documents, which decide the size of the cache.
        num_rows: pictures, captions and documents made at once. On a GPU whose free memory does not hold the caches of
            so many, as many as fit.
        device: the model's device.
    """

    def __init__(self, served: ServedModel, limits: ServingLimits, num_rows: int, device: torch.device) -> None:
        self.served, export, self._num_active = served, Path(served.export), 0
        model = load_export(export, fast_dtype(device)).to(device)
        vqgan = ImageTokenizer(served.vqgan, device, getattr(torch, served.vqgan_dtype))
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(export)
        end_id, vocabulary = end_of_text_id(self._tokenizer), model.config.vocabulary
        self._layout = Layout(vocabulary, served.max_prompt_ids, served.num_codes, served.high, end_id)
        instructions = {language: self._tokenizer(text)["input_ids"] for language, text in INSTRUCTIONS.items()}
        self._builder = SequenceBuilder(vocabulary, instructions, end_id)
        documents = DocumentLimits(served.num_codes, limits.max_document_pictures, limits.max_document_text_ids)
        self._document_positions = min(limits.max_document_prompt_ids + documents.max_ids, served.max_positions)
        of_caption = max(map(len, instructions.values())) + 2 + served.num_codes + served.max_caption_ids
        of_picture = served.max_prompt_ids + positions_after_prompt(served.num_codes, served.high)
        capacity = max(self._document_positions, of_picture, of_caption)
        self.engine = Engine(ContinuousBatch(model, _rows_that_fit(model, num_rows, capacity, device), capacity))
        self._pixels = Pixels(vqgan, Transform(served.size_px, limits=served.limits))

    async def answer(self, job: Job) -> AsyncGenerator[Event, None]:
        """Does a job. Whoever stops listening frees its row."""
        self._num_active += 1
        try:
            async with aclosing(self._events_of(job)) as events:
                async for event in events:
                    yield event
        finally:
            self._num_active -= 1

    def _events_of(self, job: Job) -> AsyncGenerator[Event, None]:
        if isinstance(job, PictureJob):
            return self._picture(job)
        return self._caption(job) if isinstance(job, CaptionJob) else self._document(job)

    async def patches(self) -> bytes:
        """See `patches_of`."""
        return await patches_of(self._pixels, self._layout.vocabulary.codebook_size, lambda: self.engine.num_running)

    async def close(self) -> None:
        """Ends the threads after the jobs that have begun."""
        while self._num_active:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(self.engine.close)
        await asyncio.to_thread(self._pixels.close)

    async def _picture(self, job: PictureJob) -> AsyncGenerator[Event, None]:
        def steps(told: Told) -> Steps:
            return picture_steps(self._layout, job.prompt, job.seed, job.sampling, job.high, told)

        partial = _PartialPictures(self._pixels, self.served, job)
        num_codes = 0
        async for message in self._listening(steps, job.tells or job.num_partial > 0):
            if isinstance(message, Done):
                made: Pictures = message.result
                codes = made.codes[0].tolist()
                high_codes = None if made.high_codes is None else made.high_codes[0].tolist()
                content = await self._pixels.file_of(high_codes or codes, job.format)
                yield PictureMade(content, codes, high_codes)
                yield Ended(len(codes) + len(high_codes or []), "stop", time.monotonic() - message.first_at)
                return
            new = [code for _, ids in message for code in ids]
            if job.tells:
                yield Codes(num_codes, new)
            num_codes += len(new)
            if shown := await partial.after(new):
                yield shown

    async def _caption(self, job: CaptionJob) -> AsyncGenerator[Event, None]:
        try:
            codes = await self._pixels.codes_of(job.content)
        except ValueError as error:
            yield Refused(str(error))
            return
        prompt = self._builder.caption_prompt(np.asarray(codes), job.language)
        max_ids = min(job.max_ids, self.served.max_caption_ids)

        def steps(told: Told) -> Steps:
            return caption_steps(self._layout, prompt, max_ids, job.seed, job.sampling, told)

        letters = _Letters(self._tokenizer)
        async for message in self._listening(steps, tells=True):
            if isinstance(message, Done):
                if rest := letters.rest():
                    yield Text(rest)
                reason: Reason = "length" if len(message.result) == max_ids else "stop"
                yield Ended(len(message.result), reason, time.monotonic() - message.first_at)
            elif new := letters.add([each for _, ids in message for each in ids]):
                yield Text(new)

    async def _document(self, job: DocumentJob) -> AsyncGenerator[Event, None]:
        limits = DocumentLimits(self.served.num_codes, job.max_pictures, job.max_text_ids)

        def steps(told: Told) -> Steps:
            capacity = self._document_positions
            return document_steps(self._layout, job.prompt, limits, capacity, job.seed, job.sampling, told)

        letters, picture, num_codes, num_text_ids = _Letters(self._tokenizer), list[int](), 0, 0
        async for message in self._listening(steps, tells=True):
            if isinstance(message, Done):
                if rest := letters.rest():
                    yield Text(rest)
                reason: Reason = "length" if num_text_ids == job.max_text_ids else "stop"
                yield Ended(num_codes + num_text_ids, reason, time.monotonic() - message.first_at)
                return
            for state, ids in message:
                if state is State.TEXT and ids[0] < self._layout.vocabulary.text_vocab_size:
                    num_text_ids += 1
                    if new := letters.add(ids):
                        yield Text(new)
                    continue
                if rest := letters.rest():
                    yield Text(rest)
                if state is State.TEXT:
                    continue
                if job.tells:
                    yield Codes(num_codes, ids)
                picture, num_codes = picture + ids, num_codes + len(ids)
                if len(picture) == self.served.num_codes:
                    yield PictureMade(await self._pixels.file_of(picture, "PNG"), picture)
                    picture = []

    async def _listening(self, make_steps: Callable[[Told], Steps], tells: bool) -> AsyncGenerator[Chosen | Done, None]:
        """The messages of a row, up to its result. The row is freed if nobody listens any more."""
        ticket: Ticket = self.engine.submit(make_steps, tells)
        try:
            while True:
                message = await ticket.messages.get()
                if isinstance(message, BaseException):
                    raise message
                yield message
                if isinstance(message, Done):
                    return
        finally:
            self.engine.cancel(ticket)


class _Letters:
    """Text ids to text, without half a letter at the end."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer, self._ids, self._given = tokenizer, list[int](), 0

    def add(self, ids: list[int]) -> str:
        self._ids += ids
        return self._new(self._tokenizer.decode(self._ids).rstrip(UNFINISHED_LETTER))

    def rest(self) -> str:
        """What is left at the end of a text; the next text begins anew."""
        new = self._new(self._tokenizer.decode(self._ids)) if self._ids else ""
        self._ids, self._given = [], 0
        return new

    def _new(self, text: str) -> str:
        new, self._given = text[self._given :], max(self._given, len(text))
        return new


@dataclass
class _PartialPictures:
    """Makes the unfinished pictures of a job, at equal shares of its codes."""

    pixels: Pixels
    served: ServedModel
    job: PictureJob

    def __post_init__(self) -> None:
        self._codes: list[int] = []
        total = self.served.num_codes + (self.served.num_high_codes if self.job.high else 0)
        count = self.job.num_partial
        self._at = [total * (number + 1) // (count + 1) for number in range(count)]
        self._made = 0

    async def after(self, new: list[int]) -> PictureMade | None:
        """The next unfinished picture, if these codes complete its share."""
        self._codes += new
        if self._made == len(self._at) or len(self._codes) < self._at[self._made]:
            return None
        base = self._codes[: self.served.num_codes]
        known = self._codes[self.served.num_codes :]
        size = self.served.num_high_codes if known else self.served.num_codes
        below = await self.pixels.pixels_of(base) if known else None
        known = known or base
        pixels = await self.pixels.pixels_of(known + known[-1:] * (size - len(known)))
        shown = unfinished(pixels, size, len(known), below)
        content = await asyncio.to_thread(encoded, shown, self.job.format)
        self._made += 1
        return PictureMade(content, base, None, self._made - 1)


def _rows_that_fit(model: MarsForCausalLM, num_rows: int, capacity: int, device: torch.device) -> int:
    """`num_rows`, or as many as a GPU's free memory holds the caches of.

    Raises:
        InputError: it holds the cache of none.
    """
    if device.type != "cuda":
        return num_rows
    free, _ = torch.cuda.mem_get_info()
    element = model.head.visual_weight.element_size()
    fit = prompts_that_fit(model.config, capacity, 0, None, True, element, free)
    if not fit:
        raise InputError(
            f"the GPU has {free / 1e9:.1f} GB free, too few for the cache of one picture; end what else runs on it, or "
            "take one with more memory"
        )
    return min(num_rows, fit)

"""Decoding the pictures of a shard: in the process that reads it, or in several others that it sends parts to.

One process reads a shard in order, checks keys, captions and the archive, and makes the chunks. So tokens do not depend
on who decodes, which is most of the work.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from tokenization.config.pictures import Transform
from tokenization.config.workers import Workers
from tokenization.corpora.pictures import Picture, load_picture

Decoded = list[Picture | str]
"""Pictures, or messages why they cannot be used."""
Decoder = Callable[[Iterator[list[bytes]]], Iterator[Decoded]]
"""Decodes the pictures of groups, in their order."""
PART_PICTURES, PART_BYTES = 64, 8 << 20
"""A part ends with the group that reaches one of these."""
PARTS_AHEAD = 2
"""Parts that a part reader has, of which it decodes one."""


def decode(contents: list[bytes], transform: Transform) -> Decoded:
    """Decodes pictures."""
    found: Decoded = []
    for content in contents:
        try:
            found.append(load_picture(content, transform))
        except ValueError as error:
            found.append(str(error))
    return found


def decoder_here(transform: Transform) -> Decoder:
    """Decodes a group when its pictures are needed."""
    return lambda groups: (decode(contents, transform) for contents in groups)


class PartReader:
    """Actor that decodes parts of a shard which another process reads.

    Args:
        transform: of the pictures.
        with_high: make the squares of the high resolution, too. Otherwise whoever needs one decodes the picture again.
    """

    def __init__(self, transform: Transform, with_high: bool) -> None:
        self._transform, self._with_high = transform, with_high

    def ready(self) -> None:
        """Returns when the actor has started."""

    def decoded(self, part: list[list[bytes]]) -> list[Decoded]:
        """Decodes the pictures of some groups, in a form that can be sent."""
        return [[self._sendable(one) for one in decode(contents, self._transform)] for contents in part]

    def _sendable(self, picture: Picture | str) -> Picture | str:
        if isinstance(picture, str):
            return picture
        high = partial(_given, picture.high()) if picture.high and self._with_high else None
        return replace(picture, high=high)


def _given(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _again(content: bytes, transform: Transform) -> np.ndarray:
    high = load_picture(content, transform).high
    assert high is not None
    return high()


@dataclass
class Part:
    """Groups that are decoded together: by an actor, whose answer is awaited, or here."""

    groups: list[list[bytes]]
    actor: Any = None
    answer: Any = None
    here: list[Decoded] = field(default_factory=list)


class PartReaders:
    """A `Decoder` with actors of its own. It decodes a part itself while none of them is free, or if one dies.

    Args:
        transform, with_high: see `PartReader`.
        count: number of actors. They begin to work one by one, as Ray finds room for them.
        workers: the job's actors; part readers run where its readers do.
    """

    def __init__(self, transform: Transform, with_high: bool, count: int, workers: Workers) -> None:
        self._transform = transform
        actor: Any = ray.remote(
            num_cpus=0, resources=workers.reader_resources, label_selector=workers.reader_label_selector
        )(PartReader)
        self.starting = {(one := actor.remote(transform, with_high)).ready.remote(): one for _ in range(count)}
        self.has: dict[Any, int] = {}
        self._most_parts = PARTS_AHEAD * count + 1

    def __enter__(self) -> "PartReaders":
        return self

    def __exit__(self, *error: object) -> None:
        for actor in (*self.starting.values(), *self.has):
            ray.kill(actor)

    def __call__(self, groups: Iterator[list[bytes]]) -> Iterator[Decoded]:
        """Decodes the groups' pictures, in their order. Holds a few parts for each actor."""
        begun = deque[Part]()
        for part in parts_of(groups):
            begun.append(self._begin(part))
            while begun and (len(begun) > self._most_parts or self._is_done(begun[0])):
                yield from self._end(begun.popleft())
        while begun:
            yield from self._end(begun.popleft())

    def _begin(self, groups: list[list[bytes]]) -> Part:
        self._take_started()
        actor = min(self.has, key=self.has.__getitem__, default=None)
        if actor is None or self.has[actor] >= PARTS_AHEAD:
            return Part(groups, here=[decode(contents, self._transform) for contents in groups])
        self.has[actor] += 1
        return Part(groups, actor, actor.decoded.remote(groups))

    def _take_started(self) -> None:
        if self.starting:
            started, _ = ray.wait(list(self.starting), num_returns=len(self.starting), timeout=0)
            for one in started:
                actor = self.starting.pop(one)
                with suppress(RayError):  # its node has gone meanwhile
                    ray.get(one)
                    self.has[actor] = 0

    def _is_done(self, part: Part) -> bool:
        return not part.actor or bool(ray.wait([part.answer], timeout=0)[0])

    def _end(self, part: Part) -> list[Decoded]:
        if not part.actor:
            return part.here
        try:
            answer: list[Decoded] = ray.get(part.answer)
        except RayError:  # the actor has died
            self.has.pop(part.actor, None)
            return [decode(contents, self._transform) for contents in part.groups]
        if part.actor in self.has:
            self.has[part.actor] -= 1
        return [list(map(self._with_way, *pair)) for pair in zip(answer, part.groups, strict=True)]

    def _with_way(self, picture: Picture | str, content: bytes) -> Picture | str:
        """The picture with a way to its high resolution, where the part reader has made none."""
        if isinstance(picture, str) or picture.high or not self._transform.size_hr_px:
            return picture
        return replace(picture, high=partial(_again, content, self._transform))


def parts_of(groups: Iterator[list[bytes]]) -> Iterator[list[list[bytes]]]:
    """Joins groups to parts."""
    part, pictures, size = list[list[bytes]](), 0, 0
    for group in groups:
        part.append(group)
        pictures, size = pictures + len(group), size + sum(map(len, group))
        if pictures >= PART_PICTURES or size >= PART_BYTES:
            yield part
            part, pictures, size = [], 0, 0
    if part:
        yield part

"""Generates illustrated documents: the model writes text and opens pictures in it.

Each row's state decides which ids may come next. In text: any text id, or the base picture's opener. In a picture: a
code. After the last code the closer is forced, and text follows.

Shape letters: B prompts, R rows of the cache (2B with guidance: the conditional ones first), D hidden size.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.config.vocabulary import JointVocabulary, Role, State
from pipeline.generation.decoder import Decoder
from pipeline.generation.sampling import Sampling, choose, guide, uniform_numbers
from pipeline.model.mars import MarsForCausalLM

Segment = list[int] | np.ndarray
"""Text ids, or a picture's raw VQ indices, int64 [N]: as `SequenceBuilder.interleaved` takes them."""


@dataclass(frozen=True)
class DocumentLimits:
    """Limits of a document, in addition to its end id.

    Attributes:
        num_codes: N, the codes of a picture.
        max_pictures: openers are masked after this many pictures.
        max_text_ids: maximum ids of all text in a document.
    """

    num_codes: int
    max_pictures: int
    max_text_ids: int

    @property
    def max_ids(self) -> int:
        """Maximum number of ids after the prompt."""
        return self.max_text_ids + self.max_pictures * (self.num_codes + 2)


@dataclass(frozen=True)
class OpenerShare:
    """Statistics of openers at positions where no picture belongs: the share of positions whose most likely id is an
    opener, and the mean of the openers' total probability."""

    greedy: float
    probability: float


@dataclass
class _Document:
    """One row: its state, and the pending joint id, which runs next.

    `position` is the pending id's position; `picture_position` is its position in the picture, counted from the opener,
    or -1 in text.
    """

    vocabulary: JointVocabulary
    limits: DocumentLimits
    position: int
    pending_id: int = -1
    picture_position: int = -1
    num_pictures: int = 0
    num_text_ids: int = 0
    num_chosen: int = 0
    done: bool = False
    segments: list[list[int]] = field(default_factory=list)
    is_picture: list[bool] = field(default_factory=list)

    @property
    def in_picture(self) -> bool:
        return self.picture_position >= 0

    @property
    def position_in_picture(self) -> int:
        """The picture position of a pending visual id. A visual id outside of a picture is a closer."""
        return self.picture_position if self.in_picture else self.limits.num_codes + 1

    @property
    def state(self) -> State | None:
        """The state after the pending id, or None if nothing is chosen: the closer is forced, or the row is done."""
        if self.done or self.picture_position == self.limits.num_codes:
            return None
        return State.CODES if self.in_picture else State.TEXT

    @property
    def may_open(self) -> bool:
        return self.num_pictures < self.limits.max_pictures

    def close(self) -> None:
        """Forces the closer after the last code."""
        self.pending_id, self.picture_position = self.vocabulary.closer(Role.BASE), -1
        self.position += 1
        self.done = self.num_text_ids == self.limits.max_text_ids

    def take(self, joint_id: int, end_id: int) -> None:
        self.num_chosen += 1
        self.position += 1
        self.pending_id = joint_id
        if self.in_picture:
            self.picture_position += 1
            self.segments[-1].append(joint_id - self.vocabulary.code_offset)
        elif joint_id == self.vocabulary.opener(Role.BASE):
            self.num_pictures += 1
            self.picture_position = 0
            self._start_segment(picture=True)
        elif joint_id == end_id:
            self.done = True
        else:
            if not self.is_picture or self.is_picture[-1]:
                self._start_segment(picture=False)
            self.segments[-1].append(joint_id)
            self.num_text_ids += 1
            self.done = self.num_text_ids == self.limits.max_text_ids

    def _start_segment(self, picture: bool) -> None:
        self.segments.append([])
        self.is_picture.append(picture)

    def result(self) -> list[Segment]:
        pairs = zip(self.segments, self.is_picture, strict=True)
        return [np.asarray(segment, np.int64) if picture else segment for segment, picture in pairs]


@torch.no_grad()
def generate_documents(
    model: MarsForCausalLM,
    prompts: list[list[int]],
    limits: DocumentLimits,
    end_id: int,
    sampling: Sampling,
    seeds: list[int] | None = None,
    prompt_len: int = 0,
) -> list[list[Segment]]:
    """Continues each prompt of text ids. Returns texts and pictures in order, without borders and end id.

    The rows of a batch advance together, each in its own state. Every pass includes all rows, some of them idle, so
    that a row's document depends only on its prompt and its seed. With guidance, a picture's unconditional half begins
    at its opener; text is not guided.

    Args:
        model: the model.
        prompts: text ids, at least one each.
        limits: limits of the documents.
        end_id: the id that ends a document.
        sampling: sampling of ids and codes.
        seeds: one seed per row; None uses the sampling's seed for all rows.
        prompt_len: prompts are padded to this many ids; 0: to the longest of the batch.
    """
    assert all(prompts), "a document needs a prompt"
    vocabulary, device = model.config.vocabulary, model.head.visual_weight.device
    prompt_len = prompt_len or max(len(prompt) for prompt in prompts)
    num_rows = len(prompts) * (2 if sampling.guided else 1)
    decoder = Decoder(model, num_rows, prompt_len + limits.max_ids)
    num_draws = limits.max_text_ids + limits.max_pictures * (limits.num_codes + 1) + 1
    host = torch.device("cpu")
    uniform = uniform_numbers([sampling.seed] * len(prompts) if seeds is None else seeds, num_draws, host)
    documents = [_Document(vocabulary, limits, len(prompt) - 1) for prompt in prompts]

    ids = torch.tensor([[*prompt, *[0] * (prompt_len - len(prompt))] for prompt in prompts], device=device)
    positions = torch.arange(prompt_len, device=device).expand(len(prompts), -1)
    hidden = decoder.text(ids, positions, prompt_len)
    last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    hidden_RD = hidden.new_zeros(num_rows, hidden.shape[-1])
    hidden_RD[: len(prompts)] = hidden[torch.arange(len(prompts), device=device), last]
    num_seen = prompt_len
    while True:
        numbers = uniform[torch.arange(len(documents)), [document.num_chosen for document in documents]].to(device)
        _choose_ids(decoder, documents, hidden_RD, sampling, numbers, end_id)
        if all(document.done for document in documents):
            return [document.result() for document in documents]
        num_seen += 1
        hidden_RD = _run_pending(decoder, documents, hidden_RD, sampling, num_seen)


def _choose_ids(
    decoder: Decoder, documents: list[_Document], hidden_RD: Tensor, sampling: Sampling, numbers: Tensor, end_id: int
) -> None:
    """Chooses the next id of every unfinished document."""
    vocabulary, states = decoder.model.config.vocabulary, [document.state for document in documents]
    chosen: dict[State, list[int]] = {}
    if State.TEXT in states:
        logits = decoder.logits(hidden_RD[: len(documents)], State.TEXT)
        allowed = vocabulary.allowed(State.TEXT)
        for role in Role:
            closed = [role is not Role.BASE or not document.may_open for document in documents]
            column = int(allowed.places(torch.tensor(vocabulary.opener(role))))
            logits[:, column].masked_fill_(torch.tensor(closed, device=logits.device), float("-inf"))
        chosen[State.TEXT] = allowed.ids(choose(logits, sampling, numbers)).tolist()
    if State.CODES in states:
        logits = guide(decoder.logits(hidden_RD, State.CODES), sampling)
        chosen[State.CODES] = vocabulary.allowed(State.CODES).ids(choose(logits, sampling, numbers)).tolist()
    for row, (document, state) in enumerate(zip(documents, states, strict=True)):
        if state is not None:
            document.take(chosen[state][row], end_id)
        elif not document.done:
            document.close()


def _run_pending(
    decoder: Decoder, documents: list[_Document], hidden_RD: Tensor, sampling: Sampling, num_seen: int
) -> Tensor:
    """Runs each document's pending id through its expert. Returns the hidden states, [R, D]."""
    vocabulary, idle = decoder.model.config.vocabulary, decoder.idle_position
    ids = np.asarray([document.pending_id for document in documents])
    going = np.asarray([not document.done for document in documents])
    positions = np.asarray([document.position for document in documents])
    in_picture_R = np.asarray([document.position_in_picture for document in documents])
    is_visual = ids >= vocabulary.text_vocab_size
    if sampling.guided:
        # The unconditional half has its own positions: it begins at the opener and is idle outside of pictures.
        picture_positions = np.asarray([document.picture_position for document in documents])
        ids, is_visual = np.concatenate([ids, ids]), np.concatenate([is_visual, is_visual])
        positions = np.concatenate([positions, picture_positions])
        in_picture_R = np.concatenate([in_picture_R, in_picture_R])
        going = np.concatenate([going, going & (picture_positions >= 0)])
    device = hidden_RD.device
    for visual in (False, True):
        takes_part = going & (is_visual == visual)
        if not takes_part.any():
            continue
        rows = decoder.num_rows if visual else len(documents)  # the unconditional half is never in text
        filler = vocabulary.code_offset if visual else 0
        ids_B1 = torch.from_numpy(np.where(takes_part, ids, filler)[:rows, None]).to(device)
        at = torch.from_numpy(np.where(takes_part, positions, idle)[:rows, None]).to(device)
        seen = torch.from_numpy(np.where(takes_part, positions + 1, 1)[:rows, None]).to(device)
        if visual:
            in_picture = torch.from_numpy(in_picture_R[:rows, None]).to(device)
            hidden = decoder.visual(ids_B1, at, in_picture, seen, num_seen)
        else:
            hidden = decoder.text(ids_B1, at, num_seen)
        concerned = torch.from_numpy(takes_part[:rows, None]).to(device)
        hidden_RD[:rows] = torch.where(concerned, hidden[:, 0], hidden_RD[:rows])
    return hidden_RD


@torch.no_grad()
def opener_share(model: MarsForCausalLM, texts: list[list[int]]) -> OpenerShare:
    """Measures `OpenerShare` over all positions of plain texts of ids."""
    vocabulary, device = model.config.vocabulary, model.head.visual_weight.device
    greedy, probability, positions = 0, 0.0, 0
    for text in filter(None, texts):
        hidden = model.model(torch.tensor([text], device=device)).last_hidden_state[0]
        logits = model.head(hidden, State.TEXT).float()
        greedy += int((logits.argmax(-1) >= vocabulary.text_vocab_size).sum())
        probability += float(torch.softmax(logits, dim=-1)[:, vocabulary.text_vocab_size :].sum())
        positions += len(text)
    if not positions:
        raise ValueError("there is no text to look for openers in")
    return OpenerShare(greedy / positions, probability / positions)

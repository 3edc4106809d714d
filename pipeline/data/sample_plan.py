"""What each sample of a step becomes, from its lengths and its random draws alone: nothing of it is read."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np

from pipeline.config.stage import StageConfig
from pipeline.config.tasks import SHARED_KINDS, Kind, KindTraits, Task
from pipeline.config.vocabulary import Role
from pipeline.data.batch_work import visual_positions
from pipeline.data.sample_lengths import LANGUAGES, OTHER, SampleLengths
from pipeline.data.sequences import PLAIN_SHARE, SampleParts, Sequence, SequenceBuilder, count_document

KEY_BITS = (4, 4, 20, 1, 16, 18)
"""Bits for the parts of a key of `CountTable`: kind, language, caption ids, plain position or none, codes, and codes of
the high resolution. They are 63 together."""
NUM_DRAWS = 5
"""Random numbers of a sample: task, language, dropout, plain position, crop."""


@dataclass(frozen=True)
class SamplePlan:
    """The samples of a step, n of them.

    Attributes:
        kinds: `Kind` values, int64 [n].
        languages: the caption's index in `LANGUAGES`, or `OTHER`, int64 [n].
        starts, counts: the first caption id that is kept, and how many are, int64 [n].
        plain: caption position of the `Task.PLAIN_TEXT` label among the kept ids, -1 for none, int64 [n].
        num_run: positions that training runs, int64 [n].
        costs: FLOP of a sample's positions, in units of 2N (see `pipeline.planning.flops`), int64 [n].
        labels: labels of each `Task`, int64 [n, tasks].
        without_codes, without_instruction: samples that cannot be built, for want of high-resolution codes, or of a
            caption in a language that has a captioning instruction, bool [n].
    """

    kinds: np.ndarray
    languages: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    plain: np.ndarray
    num_run: np.ndarray
    costs: np.ndarray
    labels: np.ndarray
    without_codes: np.ndarray
    without_instruction: np.ndarray

    def take(self, samples: np.ndarray) -> "SamplePlan":
        """Those of some samples, by their numbers."""
        return SamplePlan(*(getattr(self, field.name)[samples] for field in fields(self)))


@dataclass
class CountTable:
    """What was counted for samples of the same lengths: there are few of them in a corpus, and many samples.

    Attributes:
        keys: a number for each kind of sample, ascending, int64 [known].
        counts: its counts, int64 [known, counts].
    """

    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 2 + len(Task)), np.int64))

    def look_up(self, parts: list[np.ndarray], count: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        """Returns the counts of each key, int64 [n, counts], and counts those that are new. `parts` are those of the
        keys in the order of `KEY_BITS`, [n] each."""
        numbers = np.zeros(len(parts[0]), np.int64)
        for part, bits in zip(parts, KEY_BITS, strict=True):
            numbers <<= bits
            numbers |= part
        at = np.minimum(np.searchsorted(self.keys, numbers), max(0, len(self.keys) - 1))
        new = self.keys[at] != numbers if len(self.keys) else np.ones(len(numbers), bool)
        if new.any():
            found, first = np.unique(numbers[new], return_index=True)
            samples = np.flatnonzero(new)[first]
            counts = [count([int(part[sample]) for part in parts]) for sample in samples]
            order = np.argsort(every := np.concatenate([self.keys, found]))
            self.keys, self.counts = every[order], np.concatenate([self.counts, counts])[order]
            at = np.searchsorted(self.keys, numbers)
        of_keys: np.ndarray = self.counts[at]
        return of_keys


@dataclass(frozen=True)
class SamplePlanner:
    """Plans the samples of one stage."""

    stage: StageConfig
    builder: SequenceBuilder
    _counted: CountTable = field(default_factory=CountTable, repr=False, compare=False)

    def plan(self, lengths: SampleLengths, draws: np.ndarray) -> SamplePlan:
        """Plans n samples from their draws, float64 [n, `NUM_DRAWS`]."""
        task, language, dropout, plain, crop = draws.T
        shared = np.array([SHARED_KINDS[name].value for name in self.stage.task_shares])
        kinds = shared[_pick(self.stage.task_shares, task)]
        kinds[lengths.pictures > 0] = Kind.INTERLEAVED.value
        asked = np.array([LANGUAGES.index(name) for name in self.stage.language_shares])
        languages = asked[_pick(self.stage.language_shares, language)]
        counts = lengths.caption_ids[np.arange(len(lengths)), languages]
        missing = counts < 0
        counts = np.where(missing, lengths.first_ids, counts)
        languages = np.where(missing, lengths.first_language, languages)
        starts, counts, plain_at = self._cut(kinds, counts, dropout, plain, crop)
        without_codes = _of_kinds(kinds, lambda traits: traits.needs_high_codes) & (lengths.high_codes == 0)
        without_instruction = _of_kinds(kinds, lambda traits: traits.has_instruction) & (languages == OTHER)
        of_sample = np.zeros((len(kinds), 2 + len(Task)), np.int64)
        possible = ~(without_codes | without_instruction)
        parts = [kinds, languages, counts, plain_at >= 0]
        if possible.all():
            of_sample = self._count(lengths, parts)
        else:
            of_sample[possible] = self._count(lengths.take(possible), [part[possible] for part in parts])
        return SamplePlan(
            kinds,
            languages,
            starts,
            counts,
            plain_at,
            num_run=of_sample[:, 0],
            costs=of_sample[:, 1],
            labels=of_sample[:, 2:],
            without_codes=without_codes,
            without_instruction=without_instruction,
        )

    def _cut(
        self, kinds: np.ndarray, counts: np.ndarray, dropout: np.ndarray, plain: np.ndarray, crop: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first id that is kept of each caption, how many are kept, and the plain position or -1."""
        cuttable = _of_kinds(kinds, lambda traits: traits.has_share and not traits.has_instruction)
        counts = np.where(cuttable & (dropout < self.stage.guidance_dropout), 0, counts)
        starts = np.zeros_like(counts)
        cropped = cuttable & (counts > 1) & (crop < self.stage.caption_crop)
        if cropped.any():
            place = crop[cropped] / self.stage.caption_crop * (counts[cropped] - 1)
            starts[cropped] = 1 + place.astype(np.int64)
        counts = counts - starts
        has_plain = cuttable & (counts > 1) & (plain < PLAIN_SHARE)
        positions = (plain / PLAIN_SHARE * (counts - 1)).astype(np.int64)
        return starts, counts, np.where(has_plain, positions, -1)

    def _count(self, lengths: SampleLengths, parts: list[np.ndarray]) -> np.ndarray:
        """Positions that are run, cost, and labels by task, of each sample, int64 [n, 2 + tasks]. `parts` are kinds,
        languages, caption ids, and whether there is a plain position [n]."""
        parts = [*parts, lengths.codes, lengths.high_codes]
        documents = parts[0] == Kind.INTERLEAVED.value
        if not documents.any():
            return self._counted.look_up(parts, self._counts_of)
        found = np.zeros((len(documents), 2 + len(Task)), np.int64)
        found[documents] = count_document(
            lengths.document_ids[documents],
            lengths.document_ids_before[documents],
            lengths.pictures[documents],
            lengths.codes[documents],
        )
        if not documents.all():
            found[~documents] = self._counted.look_up([part[~documents] for part in parts], self._counts_of)
        return found

    def _counts_of(self, key: list[int]) -> np.ndarray:
        """Counts a sample of such lengths by building one."""
        value, language, count, has_plain, codes, high_codes = key
        parts = SampleParts(
            [0] * count,
            LANGUAGES[language] if language != OTHER else "",
            np.zeros(codes, np.uint16),
            np.zeros(high_codes, np.uint16),
            None,
            0 if has_plain else None,
            Role[self.stage.high_resolution_role.upper()],
            self.stage.high_resolution_group,
        )
        return _counts(self.builder.sample(Kind(value), parts), self.builder)


def _counts(sequence: Sequence, builder: SequenceBuilder) -> np.ndarray:
    labels = np.bincount(sequence.label_tasks, minlength=len(Task))
    return np.concatenate([[sequence.num_run, cost_of(sequence, builder)], labels])


def cost_of(sequence: Sequence, builder: SequenceBuilder) -> int:
    """FLOP of the sequence's positions, in units of 2N."""
    num_visual = int(visual_positions(sequence, builder.vocabulary).sum())
    return 3 * num_visual + (1 if sequence.kind.has_text_prefix else 2) * (sequence.num_run - num_visual)


def _of_kinds(kinds: np.ndarray, chosen: Callable[[KindTraits], bool]) -> np.ndarray:
    """True for each sample whose kind has such traits, bool [n]."""
    is_chosen = np.zeros(1 + max(kind.value for kind in Kind), bool)
    is_chosen[[kind.value for kind in Kind if chosen(kind.traits)]] = True
    found: np.ndarray = is_chosen[kinds]
    return found


def _pick(shares: dict[str, float], draws: np.ndarray) -> np.ndarray:
    """The number of the share in which each draw lies."""
    bounds = np.cumsum(list(shares.values()))
    return np.minimum(np.searchsorted(bounds, draws, side="right"), len(shares) - 1)

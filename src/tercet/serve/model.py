"""The process that encodes: texts of all requests together, in passes of a bounded size.

A request's texts are tokenised as they come and wait in a queue; every pass takes some of each
request that waits, so that a short one never waits for the end of a long one. What fails in a pass
of several requests is tried again for each alone. Knows nothing of HTTP or indexes.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tercet.config import MAX_LENGTH, Head, Role, Weights
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder, encode_tokens
from tercet.errors import InputError
from tercet.explanation import explain
from tercet.runtime import GPU_BUDGET
from tercet.scores import SCORES, weighted_sum
from tercet.serve.processes import Reply
from tercet.tokenizer import TokenBatch

SHORT = 1 << 14  # characters that are tokenised at once; more are left to another thread
# Tokens of a pass: of texts of many lengths 2,048 are encoded 1.2 times as fast as 4,096.
CPU_TOKENS = 2048
LEAST = 256  # tokens that a request gets of a pass, however many wait
WAIT = 0.001  # seconds that a first text waits for others, where the last pass had several

Tell = Callable[[Any], None]


@dataclass
class _Job:
    """Texts of one request on their way through the model."""

    reply: Reply
    tokens: TokenBatch
    heads: tuple[Head, ...]
    finish: Callable[[Embeddings], Any]  # what is answered
    next: int = 0  # the first text that is in no pass yet
    parts: list[Embeddings] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return len(self.tokens) - self.next

    def result(self) -> Any:
        """What is answered when all texts are encoded."""
        return self.finish(_joined(self.parts))

    def take(self, room: int) -> int:
        """Texts from `next` on that fit in so many tokens, at least one."""
        ends = self.tokens.offsets[self.next + 1 :] - self.tokens.offsets[self.next]
        return max(1, int(ends.searchsorted(room, side="right")))


class Model:
    """Answers `encode`, `score`, `explain`, `tokenize` and `decode` with one Encoder."""

    def __init__(
        self,
        *,
        tell: Tell,
        model: str | None,
        revision: str | None = None,
        device: str | None = None,
        download: bool = True,
        budget: int | None = None,
    ) -> None:
        """tell gets (texts, tokens, seconds) of each pass; budget bounds its tokens."""
        self._tell = tell
        # Only this thread runs kernels: with threads of kernels for two of them there would be
        # more than cores, and then they sleep at once where they wait for each other.
        self._passes = ThreadPoolExecutor(1, thread_name_prefix="passes")

        def load() -> Encoder:
            encoder = Encoder.load(model, device=device, revision=revision, download=download)
            encoder.encode(["warm"], heads=encoder.heads)
            return encoder

        self.encoder = self._passes.submit(load).result()
        self.budget = budget or (CPU_TOKENS if self.encoder.device == "cpu" else GPU_BUDGET)
        self._jobs: list[_Job] = []
        self._tasks: list[tuple[Reply, Callable[[], Any]]] = []
        self._changed = threading.Condition()
        self._closing = False
        self._several = False
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="tokenize")
        self._answers = ThreadPoolExecutor(1, thread_name_prefix="answer")
        encoder = self.encoder
        settings = encoder.settings
        self.facts = {
            "source": encoder.source,
            "fingerprint": encoder.fingerprint,
            "heads": encoder.heads,
            "dims": encoder.dims,
            "max_length": encoder.max_length,
            "weights": asdict(encoder.weights),
            "sizes": _trained_sizes(settings.training),
            "min_score": encoder.min_score,
            "dtype": encoder.dtype,
            "device": encoder.device,
            "budget": self.budget,
            "tokenizer": encoder.tokenizer.backend.to_str(),
        }
        self._running = self._passes.submit(self._run)

    def handle(self, reply: Reply, method: str, arguments: Any, options: dict[str, Any]) -> None:
        """Begins to answer a call."""
        work: Callable[..., None] = getattr(self, f"_{method}")
        size = sum(len(text) for text in arguments[-1]) if isinstance(arguments[-1], list) else 0

        def begin() -> None:
            try:
                work(reply, *arguments, **options)
            except BaseException as error:  # noqa: BLE001 - it is answered
                reply.failed(error)

        if size <= SHORT:
            begin()
        else:
            self._pool.submit(begin)

    # What is asked

    def _encode(
        self,
        reply: Reply,
        texts: list[str] | list[list[int]],
        *,
        heads: tuple[Head, ...],
        role: Role = "passage",
        max_length: int | None = None,
        truncate: bool = True,
    ) -> None:
        """Embeddings of texts, or of token ids without special tokens."""
        tokens = self._tokens(texts, role, max_length, truncate)
        self.encoder.check(heads)
        self._add(_Job(reply, tokens, heads, lambda embeddings: embeddings))

    def _score(
        self,
        reply: Reply,
        query: str,
        passages: list[str],
        *,
        weights: Weights | None = None,
        truncate: bool = True,
    ) -> None:
        """Raw scores of each head and their sum, of one query with P passages; tokens read."""
        tokens = TokenBatch.join(
            [
                self._tokens([query], "query", None, truncate),
                self._tokens(passages, "passage", None, truncate),
            ]
        )
        heads = self.encoder.heads
        total = int(tokens.offsets[-1])

        def finish(embeddings: Embeddings) -> Any:
            sides = embeddings[:1], embeddings[1:]
            parts = {head: SCORES[head](*sides)[0] for head in heads}
            scores = weighted_sum(parts, weights or self.encoder.weights)
            return {"scores": scores.tolist(), "tokens": total} | {
                head: part.tolist() for head, part in parts.items()
            }

        self._add(_Job(reply, tokens, heads, finish))

    def _explain(self, reply: Reply, query: str, passage: str, title: str) -> None:
        self._add_task(reply, lambda: asdict(explain(self.encoder, query, passage, title=title)))

    def _tokenize(self, reply: Reply, special: bool, texts: list[str]) -> None:
        """Of each text its tokens: id, the token, whether it is special, its characters."""
        tokenizer = self.encoder.tokenizer
        out = []
        for text in texts:
            ids, spans = tokenizer.with_offsets(text)
            rows = [
                (token, tokenizer.backend.id_to_token(token), False, int(start), int(end))
                for token, (start, end) in zip(ids, spans, strict=True)
            ]
            ends = [
                (token, tokenizer.backend.id_to_token(token), True, None, None)
                for token in (tokenizer.cls_id, tokenizer.eos_id)
            ]
            out.append([ends[0], *rows, ends[1]] if special else rows)
        reply.done(out)

    def _decode(self, reply: Reply, skip_special: bool, ids: list[list[int]]) -> None:
        self._check_ids(ids)
        backend = self.encoder.tokenizer.backend
        reply.done([backend.decode(row, skip_special_tokens=skip_special) for row in ids])

    def _check_ids(self, rows: Sequence[Sequence[int]]) -> None:
        size = self.encoder.tokenizer.vocabulary
        for row, ids in enumerate(rows):
            if wrong := [token for token in ids if not 0 <= token < size]:
                raise InputError(f"input {row}: token id {wrong[0]} is not among the {size} ids")

    def _tokens(self, texts: Any, role: Role, max_length: int | None, truncate: bool) -> TokenBatch:
        limit = min(max_length or MAX_LENGTH, self.encoder.max_length)
        if texts and isinstance(texts[0], list):
            self._check_ids(texts)
            tokens = self.encoder.tokenizer.frame(texts, max_length=limit)
        else:
            tokens = self.encoder.tokenize(texts, max_length=limit, role=role)
        if not truncate and tokens.truncated.any():
            row = int(tokens.truncated.argmax())
            raise InputError(f"input {row} has more than {limit} tokens: shorten or truncate it")
        return tokens

    # Passes

    def _add(self, job: _Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def _add_task(self, reply: Reply, work: Callable[[], Any]) -> None:
        with self._changed:
            self._tasks.append((reply, work))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._tasks and not self._closing:
                    self._changed.wait()
                if not self._jobs and not self._tasks:
                    return
                if self._several and len(self._jobs) == 1:
                    self._changed.wait(WAIT)
                tasks, self._tasks = self._tasks, []
                chosen = self._choose()
            for reply, work in tasks:
                if not reply.cancelled:
                    _answer(reply, work)
            if chosen:
                self._several = len(chosen) > 1
                self._pass(chosen)

    def _choose(self) -> list[tuple[_Job, slice]]:
        """Texts of the next pass: of each job with the first one's heads a share, oldest first."""
        self._jobs = [job for job in self._jobs if not job.reply.cancelled]
        if not self._jobs:
            return []
        heads = self._jobs[0].heads
        jobs = [job for job in self._jobs if job.heads == heads]
        room = self.budget
        chosen: list[tuple[_Job, slice]] = []
        share = max(LEAST, room // len(jobs))
        for job in jobs:
            size = job.take(min(share if len(jobs) > 1 else room, room))
            first, last = job.next, min(job.next + size, len(job.tokens))
            used = int(job.tokens.offsets[last] - job.tokens.offsets[first])
            if chosen and used > room:
                break
            chosen.append((job, slice(first, last)))
            job.next = last
            room -= used
        self._jobs = [job for job in self._jobs if job.waiting]
        # who did not get all goes behind those that got nothing
        first_jobs = [job for job, _ in chosen]
        self._jobs.sort(key=lambda job: any(job is other for other in first_jobs))
        return chosen

    def _pass(self, chosen: list[tuple[_Job, slice]]) -> None:
        batches = [
            job.tokens
            if (part.start, part.stop) == (0, len(job.tokens))
            else job.tokens.take(np.arange(part.start, part.stop))
            for job, part in chosen
        ]
        start = time.perf_counter()
        try:
            rows = self._embed(TokenBatch.join(batches), chosen[0][0].heads)
        except BaseException as error:  # noqa: BLE001 - it is answered
            if len(chosen) == 1:
                self._drop(chosen[0][0], error)
            else:
                for one in chosen:
                    self._pass([one])
            return
        self._tell((len(rows), sum(len(b.ids) for b in batches), time.perf_counter() - start))
        first = 0
        for (job, _), batch in zip(chosen, batches, strict=True):
            job.parts.append(rows if len(chosen) == 1 else rows[first : first + len(batch)])
            first += len(batch)
            if not job.waiting:
                self._answers.submit(_answer, job.reply, job.result)

    def _embed(self, tokens: TokenBatch, heads: tuple[Head, ...]) -> Embeddings:
        encoder = self.encoder
        return encode_tokens(
            encoder.runtime, tokens, heads, budget=self.budget, fingerprint=encoder.fingerprint
        )

    def _drop(self, job: _Job, error: BaseException) -> None:
        with self._changed:
            self._jobs = [other for other in self._jobs if other is not job]
        job.reply.failed(error)

    def close(self) -> None:
        """Finishes what waits."""
        self._pool.shutdown()
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._running.result()
        self._answers.shutdown()


def _trained_sizes(training: Any) -> tuple[int, ...]:
    """The leading sizes of dense vectors that a training of ours trained (Matryoshka)."""
    try:
        return tuple(sorted(map(int, training["config"]["loss"]["dense_sizes"])))
    except (LookupError, TypeError, ValueError):
        return ()


def _joined(parts: list[Embeddings]) -> Embeddings:
    return parts[0] if len(parts) == 1 else Embeddings.concatenate(parts)


def _answer(reply: Reply, work: Callable[[], Any]) -> None:
    try:
        reply.done(work())
    except BaseException as error:  # noqa: BLE001 - it is answered
        reply.failed(error)

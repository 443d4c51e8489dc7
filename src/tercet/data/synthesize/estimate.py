"""What a run would ask and cost, before it starts. Knows nothing of endpoints."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tercet.data.shards import Shard
from tercet.data.synthesize.chat import ANSWER_TOKENS, ROLE_TOKENS, Answer, tokens_in
from tercet.data.synthesize.job import Synthesis

SHOWN = 3  # prompts
MILLION = 1_000_000
_AGAIN = 60  # tokens of what is said to a refused answer, about


@dataclass(frozen=True)
class Price:
    """What a model costs for a million tokens, in any currency."""

    tokens_in: float
    tokens_out: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """The cost of so many tokens."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / MILLION


@dataclass(frozen=True)
class Estimate:
    """Requests and tokens still to come: as they go if every first answer is good, and at most."""

    articles: int
    settled: int  # by answers in the journal
    tokens_in: int
    tokens_out: int
    most_requests: int  # retries of failed requests aside, which no endpoint counts
    most_tokens_in: int
    most_tokens_out: int
    left_out: dict[str, int]  # texts, by reason
    languages: dict[str, int]
    prompts: tuple[str, ...]  # the first ones

    @property
    def requests(self) -> int:
        """One for each article that is not settled."""
        return self.articles - self.settled


def estimate(
    job: Synthesis,
    shard: Shard,
    *,
    cut: Sequence[Shard] = (),
    show: Callable[[int], None] | None = None,
) -> Estimate:
    """Reads the input of a part, or of the whole, and counts what it would ask.

    cut: the parts whose journals have the answers so far, if it is not that part. Raises InputError
    where an input cannot be read or a journal is of other settings.
    """
    answers: dict[str, list[Answer]] = {}
    for part in cut or [shard]:
        if job.journal_path(part).exists():
            with job.journal(part) as journal:
                answers.update(journal.answers)
    left_out: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    articles = settled = first_in = most_requests = most_in = most_out = 0
    prompts: list[str] = []
    for task in job.tasks(shard, left_out):
        articles += 1
        if show is not None:
            show(articles)
        languages[task.lang] += 1
        if len(prompts) < SHOWN:
            prompts.append(task.prompt)
        given = answers.get(task.key, [])
        if job.outcome(task, given).done:
            settled += 1
            continue
        size = tokens_in(job.messages(task, given))
        first_in += size
        left = job.tries - len(given)
        most_requests += left
        most_out += left * job.max_tokens
        # each try repeats what was said before it
        most_in += left * size + (left * (left - 1) // 2) * (job.max_tokens + ROLE_TOKENS + _AGAIN)
    return Estimate(
        articles=articles,
        settled=settled,
        tokens_in=first_in,
        tokens_out=(articles - settled) * ANSWER_TOKENS,
        most_requests=most_requests,
        most_tokens_in=most_in,
        most_tokens_out=most_out,
        left_out=dict(sorted(left_out.items())),
        languages=dict(sorted(languages.items(), key=lambda pair: (-pair[1], pair[0]))),
        prompts=tuple(prompts),
    )

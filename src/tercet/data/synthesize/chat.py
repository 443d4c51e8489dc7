"""One answer of a language model through an OpenAI-compatible endpoint, /chat/completions.

Knows the protocol and nothing of what makes an answer good.
"""

from dataclasses import dataclass, field
from typing import Any

from tercet.data.synthesize.articles import tokens_of
from tercet.endpoint import Client, EndpointError
from tercet.errors import InputError

PATH = "chat/completions"
ROLE_TOKENS = 8  # around a message, about: templates differ
ANSWER_TOKENS = 30  # of a question, about; a model that thinks aloud takes more

Message = dict[str, str]


@dataclass(frozen=True)
class Asking:
    """How a model is asked."""

    model: str
    temperature: float = 0.7
    max_tokens: int = 512  # of an answer, thinking included
    body: dict[str, Any] = field(
        default_factory=dict
    )  # more fields of the request; null: leave out

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise InputError("the model needs a name, as the endpoint lists it")
        if not 0 <= self.temperature <= 2 or self.max_tokens < 1:
            raise InputError(
                f"the temperature lies in 0 to 2 and max_tokens counts from 1, got "
                f"{self.temperature} and {self.max_tokens}"
            )
        if fixed := {"messages", "n", "stream"} & self.body.keys():
            raise InputError(f"{', '.join(sorted(fixed))} cannot be set: one answer is read whole")


@dataclass(frozen=True)
class Answer:
    """What a model said, word for word, and what it took."""

    text: str
    finish: str | None  # "stop", "length", "content_filter" and so on
    tokens_in: int
    tokens_out: int


async def ask(client: Client, asking: Asking, messages: list[Message], seed: int) -> Answer:
    """One answer to a conversation; raises EndpointError as Client.post does, and for nonsense."""
    body = {
        "model": asking.model,
        "messages": messages,
        "temperature": asking.temperature,
        "max_tokens": asking.max_tokens,
        "seed": seed,
        **asking.body,
    }
    body = {name: value for name, value in body.items() if value is not None}
    expected = tokens_in(messages)
    reply = await client.post(PATH, body, tokens=expected + ANSWER_TOKENS)
    return parse(reply, expected)


def tokens_in(messages: list[Message]) -> int:
    """About how many tokens a conversation takes."""
    return sum(tokens_of(message["content"]) + ROLE_TOKENS for message in messages)


def parse(reply: Any, expected: int) -> Answer:
    """The first choice of a reply; without text it is empty. Raises EndpointError on other JSON."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list):
        raise EndpointError(
            f"the endpoint's answer has no list of 'choices' (it begins {str(reply)[:80]!r}): is "
            "it OpenAI-compatible?"
        )
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    message = first.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    finish = first.get("finish_reason")
    text = text if isinstance(text, str) else ""
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Answer(
        text=text,
        finish=finish if isinstance(finish, str) else None,
        tokens_in=_count(usage.get("prompt_tokens"), expected),
        tokens_out=_count(usage.get("completion_tokens"), tokens_of(text)),
    )


def _count(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and value >= 0 else otherwise

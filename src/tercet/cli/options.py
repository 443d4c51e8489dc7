"""Commands from functions: a signature says what a command takes, its docstring what it does.

Parameters before `*` are arguments, the others options; the docstring's section "Options:" has the
help of each, the signature its type and default, `Annotated[int, Opt(min=1)]` its bounds. A
parameter whose type is a dataclass stands for an option for each field. Knows nothing of what the
commands do.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from tercet.config import HEADS, Head, Weights, check_heads
from tercet.errors import InputError, printable
from tercet.records import Scalar


@dataclass(frozen=True)
class Opt:
    """What neither the type of a parameter nor the docstring can say."""

    min: float | None = None
    max: float | None = None
    open: bool = False  # the bounds themselves are not allowed
    parse: Callable[[Any], Any] | None = None  # the text that was given to the parameter's type
    many: bool = False  # parse takes a tuple of texts, each given with an option of its own
    join: str = ","  # what a default is shown with
    flag: str = ""  # its names, where they are not the parameter's, as in "-k"
    choices: tuple[str, ...] = ()
    metavar: str | None = None  # what a value is called, where the docstring has no other name
    help: str = ""  # where the docstring has none


def command(name: str | None = None) -> Callable[[Callable[..., Any]], click.Command]:
    """Makes a click command of a function, under its name or another.

    The docstring may end in a section "Options:" with a line `name METAVAR: help` for each
    parameter, whose help may go on in lines that are indented further.
    """

    def make(function: Callable[..., Any]) -> click.Command:
        about, helps = _docs(function)
        hints = get_type_hints(function, include_extras=True)
        params: list[click.Parameter] = []
        groups: dict[str, tuple[type[Any], list[str]]] = {}
        for parameter in inspect.signature(function).parameters.values():
            hint, default = hints[parameter.name], parameter.default
            if isinstance(hint, type) and is_dataclass(hint):  # an option for each field
                members = get_type_hints(hint, include_extras=True)
                helps = _docs(hint)[1] | helps
                params += [
                    _option(field.name, members[field.name], field.default, helps)
                    for field in fields(hint)
                ]
                groups[parameter.name] = (hint, [field.name for field in fields(hint)])
            elif parameter.kind is parameter.KEYWORD_ONLY:
                params.append(_option(parameter.name, hint, default, helps))
            else:
                params.append(_argument(parameter.name, hint, default, helps))
        if unknown := helps.keys() - {param.name for param in params}:
            raise TypeError(f"{function.__name__}: no option {', '.join(sorted(unknown))}")

        def call(**values: Any) -> Any:
            for into, (kind, names) in groups.items():
                values[into] = kind(**{name: values.pop(name) for name in names})
            return function(**values)

        return click.Command(name or function.__name__, callback=call, params=params, help=about)

    return make


def _docs(what: Any) -> tuple[str, dict[str, tuple[str | None, str]]]:
    """A docstring without its section "Options:", and that: name -> (metavar, help)."""
    about, _, section = (inspect.getdoc(what) or "").partition("\nOptions:\n")
    helps: dict[str, tuple[str | None, str]] = {}
    name = ""
    for line in section.splitlines():
        if line.startswith("    ") and name:
            metavar, text = helps[name]
            helps[name] = (metavar, f"{text} {line.strip()}")
        elif entry := re.fullmatch(r"(\w+)(?: (\S+))?:(?: (.*))?", line.strip()):
            name = entry[1]
            helps[name] = (entry[2], entry[3] or "")
    return about.rstrip(), helps


def _read(hint: Any) -> tuple[Any, Opt, bool]:
    """The plain type behind a hint, its Opt, and whether it may be given several times."""
    opt = Opt()
    while get_origin(hint) in (Annotated, Union, UnionType):
        if get_origin(hint) is Annotated:
            opt = next((part for part in get_args(hint)[1:] if isinstance(part, Opt)), opt)
            hint = get_args(hint)[0]
        else:
            hint = next(part for part in get_args(hint) if part is not NoneType)
    if opt.parse is not None:
        return str, opt, opt.many
    several = get_origin(hint) is tuple and get_args(hint)[-1] is ...
    if several:
        hint, inner, _ = _read(get_args(hint)[0])
        opt = opt if opt != Opt() else inner
    return hint, opt, several


def _type(kind: Any, opt: Opt) -> Any:
    if opt.choices or get_origin(kind) is Literal:
        return click.Choice(opt.choices or get_args(kind))
    if kind is Path:
        return click.Path(path_type=Path)
    if kind in (int, float) and not (opt.min is None and opt.max is None):
        bounds: Any = click.IntRange if kind is int else click.FloatRange
        shut = [opt.open and bound is not None for bound in (opt.min, opt.max)]
        return bounds(opt.min, opt.max, min_open=shut[0], max_open=shut[1])
    return kind if kind in (int, float) else str


def _callback(parse: Callable[[Any], Any] | None, default: Any) -> Any:
    """Texts are parsed; what the library says of a bad one is wrong usage."""
    if parse is None:
        return None

    def call(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if value is None or value == ():
            return () if default == () else None
        try:
            return parse(value)
        except (InputError, ValueError) as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return call


@dataclass(frozen=True)
class _Late:
    value: Callable[[], Any]


def default_of(where: str, name: str) -> Any:
    """The default that a field or parameter has in the library, imported when it is needed.

    where is a module, module:dataclass or module:function.
    """

    def value() -> Any:
        module, _, attribute = where.partition(":")
        owner = getattr(import_module(module), attribute) if attribute else import_module(module)
        if inspect.isfunction(owner):
            return inspect.signature(owner).parameters[name].default
        return getattr(owner, name)

    return _Late(value)


class _Option(click.Option):
    """An option whose default may stand in the library, or is shown as the text that gives it."""

    join: str | None = None

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        """The default, also for the help."""
        value = super().get_default(ctx, call=False)
        if isinstance(value, _Late):
            value = value.value()
        if self.join is None or value is None or self.multiple:
            return value
        return self.join.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _argument(name: str, hint: Any, default: Any, helps: Mapping[str, Any]) -> click.Argument:
    kind, opt, several = _read(hint)
    return click.Argument(
        [name],
        type=_type(kind, opt),
        nargs=-1 if several else 1,
        required=default is inspect.Parameter.empty,
        metavar=helps.get(name, (None, ""))[0] or opt.metavar,
        callback=_callback(opt.parse, default),
    )


def _option(name: str, hint: Any, default: Any, helps: Mapping[str, Any]) -> click.Option:
    kind, opt, several = _read(hint)
    metavar, text = helps.get(name, (None, ""))
    required = default is inspect.Parameter.empty or default is MISSING
    given: Any = None if required or default == () else default
    fallback: dict[str, Any] = {} if required else {"default": given}
    option = _Option(
        [name, *(opt.flag.split() or ["--" + name.replace("_", "-")])],
        help=text or opt.help,
        type=None if kind is bool else _type(kind, opt),
        is_flag=kind is bool,
        multiple=several,
        required=required,
        **fallback,
        show_default=given is not None and given is not False and given != "",
        metavar=metavar or opt.metavar,
        callback=_callback(opt.parse, default),
    )
    option.join = opt.join if opt.parse else None
    return option


@contextmanager
def as_usage(option: str) -> Iterator[None]:
    """What the library says of a bad value is told as wrong usage of the option."""
    try:
        yield
    except InputError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def parse_list(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """`a,b` -> ("a", "b"); of several values, all their parts."""
    values = (value,) if isinstance(value, str) else value
    return tuple(part.strip() for part in ",".join(values).split(",") if part.strip())


def parse_range(value: str) -> tuple[int, int]:
    """`60-500` -> (60, 500); raises ValueError for anything else."""
    first, dash, last = value.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        raise ValueError(f"{value!r} is not a range such as 2-200")
    return int(first), int(last)


def parse_weights(value: str) -> Weights:
    """`1,0.3,1` -> Weights(1, 0.3, 1); raises ValueError for anything but three numbers."""
    try:
        dense, sparse, multi = (float(part) for part in value.split(","))
    except ValueError:
        raise ValueError(
            f"{value!r} is not three numbers: give the weights of {', '.join(HEADS)}, as in 1,0.3,1"
        ) from None
    return Weights(dense, sparse, multi)


def parse_filters(values: tuple[str, ...]) -> Mapping[str, list[Scalar]]:
    """`lang=de` `lang=fr` -> {"lang": ["de", "fr"]}: values of a key are alternatives."""
    merged: dict[str, list[Scalar]] = {}
    for given in values:
        key, equals, value = given.partition("=")
        if not key.strip() or not equals:
            raise ValueError(f"{given!r} is not of the form key=value")
        merged.setdefault(key.strip(), []).extend(readings(value))
    return merged


def readings(text: str) -> list[Scalar]:
    """What a value on the command line can stand for: itself, and the number or bool it shows.

    >>> readings("de"), readings("2024"), readings("true")
    (['de'], ['2024', 2024], ['true', True])
    """
    try:
        parsed = json.loads(text)
    except ValueError:
        return [text]
    if isinstance(parsed, bool | int) or (isinstance(parsed, float) and abs(parsed) < 1e308):
        return [text, parsed]
    return [text]


Count = Annotated[int, Opt(min=1)]
Natural = Annotated[int, Opt(min=0)]
Tokens = Annotated[int, Opt(min=3)]  # of a text: [CLS] and </s> count
Share = Annotated[float, Opt(min=0, max=1)]
Names = Annotated[tuple[str, ...], Opt(parse=parse_list)]
Paths = Annotated[
    tuple[Path, ...], Opt(parse=lambda values: tuple(map(Path, parse_list(values))), many=True)
]
Range = Annotated[tuple[int, int], Opt(parse=parse_range, join="-", metavar="FROM-TO")]
Model = Annotated[
    str | None,
    Opt(
        metavar="MODEL",
        help="Folder of a checkpoint, or its id on the Hugging Face hub.  "
        "[default: the model that comes with Tercet]",
    ),
]
Revision = Annotated[
    str | None, Opt(metavar="NAME", help="Branch, tag or commit of a model on the hub.")
]
Device = Annotated[
    str | None, Opt(metavar="NAME", help="cpu, cuda or mps.  [default: the best there is]")
]
Heads = Annotated[
    tuple[Head, ...] | None,
    Opt(
        parse=lambda value: check_heads(parse_list(value)),
        metavar="LIST",
        help="Which of dense, sparse, multi, separated by commas.  [default: all the model has]",
    ),
]
HybridWeights = Annotated[
    Weights | None,
    Opt(
        parse=parse_weights,
        metavar="D,S,M",
        help="Weights of the dense, sparse and multi scores, as in 1,0.3,1.  "
        "[default: the model's own]",
    ),
]
Json = Annotated[bool, Opt(flag="--json", help="Print JSON for machines, one object a line.")]


@contextmanager
def kept(sentence: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C in the block is told with what was kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(sentence()) from None


def counted(counts: Mapping[str, int], most: int = 10) -> str:
    """The first counts, for people: `en 20, not said 5, and 3 more`."""
    named = [f"{name or 'not said'} {count:,}" for name, count in counts.items()]
    more = [f"and {len(named) - most:,} more"] if len(named) > most else []
    return ", ".join(named[:most] + more)


def echo(
    text: str = "", *, bold: bool = False, err: bool = False, nl: bool = True, **look: Any
) -> None:
    """Prints a text, which commands no terminal, whatever it quotes; `look` is click's style."""
    if bold or look:
        text = click.style(printable(text), bold=bold or None, **look)
    else:
        text = printable(text)
    click.echo(text, err=err, nl=nl)


def emit(record: Any) -> None:
    """Prints one line of JSON."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    # JSON itself escapes what comes before the space, not what some terminals obey besides
    click.echo(text.translate({code: f"\\u{code:04x}" for code in range(127, 160)}))

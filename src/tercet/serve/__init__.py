"""The HTTP server: embeddings, re-ranking and search for many clients from one command.

`app` answers requests as `routes` and `dialects` say, `processes` keeps what is heavy in processes
of its own, `model` is the one that encodes, `search` those that search and change a collection,
`wire` the shapes of requests and answers. Needs the extra `tercet[serve]`.
"""

"""The barest pass-through that FastAPI and aiohttp allow: a peer for the benchmark, and no part of the product.

It parses the request, renames the model and hands the answer on; no authentication, no metering, no routing.
Run as `UPSTREAM=http://127.0.0.1:PORT/v1 uvicorn barest:app`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

UPSTREAM = os.environ["UPSTREAM"] + "/chat/completions"
HEADERS = {"content-type": "application/json", "authorization": "Bearer upstream-key"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    body = orjson.loads(await request.body())
    body["model"] = str(body["model"]).removeprefix("peer/")
    upstream = await request.app.state.session.post(UPSTREAM, data=orjson.dumps(body), headers=HEADERS)
    if body.get("stream"):
        return StreamingResponse(upstream.content.iter_any(), upstream.status, media_type="text/event-stream")
    async with upstream:
        return Response(await upstream.read(), upstream.status, media_type="application/json")

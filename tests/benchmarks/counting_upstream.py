"""An OpenAI server that knows what it has answered: `counting_upstream.py PORT FILE MS`.

FILE has a record of every answer that was wholly handed to the kernel: the request's `user`, a number, and its
output tokens. It outlives a kill. An answer takes MS milliseconds and 1 to 100 tokens, for 10 of input.
"""

import asyncio
import json
import os
import struct
import sys
from pathlib import Path

INPUT_TOKENS = 10
_RECORD = struct.Struct("<qq")


def counted(path: Path) -> list[tuple[int, int]]:
    """The `user` and the output tokens of every answer; -1 where there was no user."""
    return list(_RECORD.iter_unpack(path.read_bytes())) if path.exists() else []


def completion(number: int, tokens: int) -> bytes:
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": tokens, "total_tokens": INPUT_TOKENS + tokens}
    message = {"role": "assistant", "content": "word " * tokens}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps(
        {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 0,
            "model": "up",
            "choices": [choice],
            "usage": usage,
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def main(port: int, path: Path, wait_s: float) -> None:
    file, number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
                asked = json.loads(await reader.readexactly(int(length or b"0")) or b"{}")
                number += 1
                tokens = 1 + number * 37 % 100
                await asyncio.sleep(wait_s)
                writer.write(completion(number, tokens))
                await writer.drain()
                if asked:  # a look at the server is not billed
                    os.write(file, _RECORD.pack(int(asked.get("user", -1)), tokens))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) / 1e3))

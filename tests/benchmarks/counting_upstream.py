"""An OpenAI server that knows what it has answered: `counting_upstream.py PORT FILE MS`.

FILE holds how many answers were wholly handed to the kernel, and their output tokens; it outlives a kill.
An answer takes MS milliseconds and 1 to 100 tokens, for 10 of input.
"""

import asyncio
import json
import mmap
import struct
import sys
from pathlib import Path

INPUT_TOKENS = 10


class Counter:
    """Sums of answers and output tokens in a mapped file."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(16))
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 16)

    def add(self, tokens: int) -> None:
        answers, sum_of_tokens = struct.unpack("<qq", self._map[:])
        self._map[:] = struct.pack("<qq", answers + 1, sum_of_tokens + tokens)


def counted(path: Path) -> tuple[int, int]:
    """Answers, and output tokens of all of them."""
    answers, tokens = struct.unpack("<qq", path.read_bytes()) if path.exists() else (0, 0)
    return answers, tokens


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
    counter, number = Counter(path), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length or b"0"))
                number += 1
                tokens = 1 + number * 37 % 100
                await asyncio.sleep(wait_s)
                writer.write(completion(number, tokens))
                await writer.drain()
                counter.add(tokens)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) / 1e3))

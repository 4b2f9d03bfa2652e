"""A proxy that does nothing but pass a call on: `python -m bench.llm_proxy URL`. It prints its port.

The floor of the router: the same server and the same client, with nothing in between.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
from aiohttp import web


async def main(upstream: str) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            async with http.post(f"{upstream}/chat/completions", data=await request.read()) as answer:
                if answer.content_type == "application/json":
                    return web.Response(body=await answer.read(), content_type="application/json")
                response = web.StreamResponse()
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                return response

        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", pass_on)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

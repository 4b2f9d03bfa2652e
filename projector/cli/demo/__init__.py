"""`projector demo`: one change travels the whole loop on real servers, then the views are proved from the log."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from projector.config import load_settings


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep data and logs, and say where they are.")] = False,
) -> None:
    """Play a story of two users and three devices through the whole loop, and end by itself."""
    import asyncio

    from projector.cli.demo.show import Show
    from projector.cli.demo.story import play
    from projector.embedded.environment import environment

    begun = time.monotonic()
    show = Show(as_json=as_json)
    # A stack of its own, also beside a `projector dev`; quick timers, since somebody is watching.
    settings = load_settings().model_copy(
        update={
            "topic_prefix": "demo",
            "slot_name": "demo",
            "publication_name": "demo",
            "apps": ("ai", "notes"),
            "due_interval_s": 0.1,
            "llm_base_url": "",
            "postgres_port": None,
            "kafka_port": None,
        }
    )
    state_dir = Path(tempfile.mkdtemp(prefix="projector-demo-"))
    try:
        with environment(settings, state_dir, show.progress) as env:
            show.servers(env, env.pipeline.start_scripted_model())
            env.pipeline.start_all()
            show.ready(time.monotonic() - begun)
            asyncio.run(play(env, show))
        show.end(time.monotonic() - begun)
    finally:
        if keep:
            show.progress(f"data and logs are kept in {state_dir}")
        else:
            shutil.rmtree(state_dir, ignore_errors=True)

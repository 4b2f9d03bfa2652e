"""How the demo looks: rich on a terminal, plain elsewhere, JSON lines for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from projector.cli.output import console, json_line

if TYPE_CHECKING:
    from projector.embedded.environment import Environment


class Show:
    """One method for each thing there is to tell."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._out = console()

    def progress(self, text: str) -> None:
        if self._json:
            json_line(event="progress", text=text)
        else:
            self._out.print(text, style="dim", markup=False)

    def servers(self, env: Environment, model: str) -> None:
        self._tell("servers", kafka=env.settings.kafka_bootstrap_servers, model=model, streams=len(_streams()))
        if not self._json:
            self._out.print("[bold]One change travels the whole loop[/], on a real PostgreSQL and a real Kafka")
            self._out.print(f"starting {', '.join(_streams())}; the model is a scripted one, no real LLM is asked")

    def ready(self, seconds: float) -> None:
        self._tell("ready", seconds=round(seconds, 2))
        if not self._json:
            self._out.print(f"[dim]everything is up after {seconds:.1f} s[/]")

    def act(self, title: str) -> None:
        self._tell("act", title=title)
        if not self._json:
            self._out.print(f"\n[bold]{title}[/]")

    def stage(self, name: str, ms: float, detail: str) -> None:
        """A stage of one change, `ms` after its commit."""
        self._tell("stage", stage=name, ms_since_commit=round(ms, 1), detail=detail)
        if not self._json:
            self._out.print(f"  [green]{name:<14}[/] {ms:>9.1f} ms   {detail}", soft_wrap=True)

    def fact(self, name: str, detail: str, **fields: Any) -> None:
        self._tell("fact", name=name, detail=detail, **fields)
        if not self._json:
            self._out.print(f"  [green]{name:<14}[/] {detail}", soft_wrap=True)

    def proof(self, rows: list[tuple[str, int, int, int]]) -> None:
        """For each view: its name, its rows, how many differ after the rebuild, how many from the fold in SQL."""
        if self._json:
            for view, count, rebuilt, folded in rows:
                json_line(event="proof", view=view, rows=count, differ_from_rebuild=rebuilt, differ_from_sql=folded)
            return
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for column in ("  view", "rows", "≠ rebuilt from offset 0", "≠ fold of sync_changes in SQL"):
            table.add_column(column, justify="left" if column.endswith("view") else "right")
        for view, count, rebuilt, folded in rows:
            table.add_row(f"  [green]{view}[/]", str(count), str(rebuilt), str(folded))
        self._out.print(table)

    def end(self, seconds: float) -> None:
        self._tell("end", seconds=round(seconds, 2), differences=0)
        if not self._json:
            self._out.print(f"\n[bold green]0 differences[/], everything stopped, {seconds:.1f} s in all")

    def _tell(self, event: str, **fields: Any) -> None:
        if self._json:
            json_line(event=event, **fields)


def _streams() -> tuple[str, ...]:
    from projector.embedded.pipeline import STREAMS

    return STREAMS

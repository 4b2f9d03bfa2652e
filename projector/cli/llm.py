"""`projector llm`: the file of aliases, what a name leads to, and places that name models instead."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from projector.cli.output import console, json_line
from projector.config import load_settings
from projector.errors import AliasConfigError, ConfigError, HardWiredModelError

if TYPE_CHECKING:
    from projector.llm.registry import Registry

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
File = Annotated[Path | None, typer.Argument(help="File of aliases; default: the one that PROJECTOR_LLM_CONFIG names.")]
FileOption = Annotated[
    Path | None, typer.Option("--config", help="File of aliases; default: the one that PROJECTOR_LLM_CONFIG names.")
]
Url = Annotated[str | None, typer.Option("--url", help="Of `run llm`; default: PROJECTOR_LLM_ADDRESS and _PORT.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Aliases of language models, and the service that answers them.")
    for command in (aliases, resolve, check, validate, reload, health):
        group.command(command.__name__)(command)
    app.add_typer(group, name="llm")


def aliases(config: FileOption = None, as_json: AsJson = False) -> None:
    """List the aliases and their chains; an entry whose provider has no key is marked."""
    registry = _registry(config)
    snapshot = registry.snapshot
    for alias in registry.list_aliases():
        entries = [(entry.name, entry.provider in snapshot.keys) for entry in alias.entries]
        if as_json:
            told = [{"entry": name, "configured": configured} for name, configured in entries]
            is_default = alias.name == snapshot.default
            json_line(alias=alias.name, description=alias.description, default=is_default, chain=told)
        else:
            mark = " (default)" if alias.name == snapshot.default else ""
            console().print(f"[bold]{alias.name}[/]{mark}  {alias.description}", soft_wrap=True)
            for name, configured in entries:
                console().print(f"  {name}{'' if configured else '  [yellow]not configured[/]'}", soft_wrap=True)


def resolve(
    name: Annotated[str, typer.Argument(help="An alias, provider/model, or '' for the default.")],
    config: FileOption = None,
    as_json: AsJson = False,
) -> None:
    """Show the chain that a name leads to, one entry a line."""
    alias = _registry(config).snapshot.route(name)
    if as_json:
        json_line(requested=name, alias=alias.name, chain=alias.chain)
    else:
        for entry in alias.chain:
            console().print(entry, soft_wrap=True)


def check(
    config: File = None,
    live: Annotated[bool, typer.Option("--live", help="Ask the providers whether they have the models.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read the file as the service would, and tell what is probably a mistake. Warnings do not fail."""
    registry = _registry(config)
    snapshot = registry.snapshot
    warnings = list(snapshot.config.warnings)
    for name, provider in snapshot.config.providers.items():
        if name not in snapshot.keys:
            warnings.append(f"{name}: {provider.key_env} is not set: never asked")
    if live:
        warnings += asyncio.run(_missing_models(registry))
    counts = {"aliases": len(snapshot.config.aliases), "providers": len(snapshot.config.providers)}
    if as_json:
        for warning in warnings:
            json_line(warning=warning)
        json_line(file=str(registry.path), valid=True, **counts)
        return
    for warning in warnings:
        console().print(f"[yellow]warning[/] {warning}", soft_wrap=True)
    console().print(f"{registry.path} is valid: {counts['aliases']} aliases, {counts['providers']} providers")


async def _missing_models(registry: Registry) -> list[str]:
    from projector.errors import RouteError
    from projector.llm.router import LLMRouter

    warnings = []
    async with LLMRouter(registry) as router:
        for provider in router.providers:
            try:
                offered = await router.offered(provider)
            except RouteError as error:
                warnings.append(f"{provider}: cannot be asked for its models: {error.message}")
                continue
            for entry in sorted(registry.snapshot.entries):
                name, _, model = entry.partition("/")
                if name == provider and model not in offered:
                    warnings.append(f"{entry}: {provider} does not list this model")
    return warnings


def validate(
    paths: Annotated[list[Path], typer.Argument(help="Trees or files, as a pre-commit hook gives them.")],
    config: FileOption = None,
    allow: Annotated[
        Path | None, typer.Option("--allow", help="YAML list of {path, name, reason}: places that may name a model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find models named in code and configuration where an alias should be: exit 0 none, 1 some, 2 wrong options."""
    from projector.llm.config import DEFAULT_NAMESPACE
    from projector.llm.scan import judged, read_allow_list, scan

    settings = load_settings()
    file = config or (Path(settings.llm_config) if settings.llm_config else None)
    providers = set(_registry(file).snapshot.config.providers) - {DEFAULT_NAMESPACE} if file else set()
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: not found", "name folders or files that exist")
    allowed = read_allow_list(allow) if allow else []
    own = {path.resolve() for path in (file, allow) if path is not None}
    places = [
        found for found in scan(paths, providers, base=Path.cwd()) if (Path.cwd() / found.path).resolve() not in own
    ]
    wrong, unused = judged(places, allowed)
    # Of a few files nothing follows about entries for the others.
    unused = unused if any(path.is_dir() for path in paths) else []
    for place in wrong:
        if as_json:
            json_line(path=place.path, line=place.line, name=place.text)
        else:
            console().print(f"{place.path}:{place.line}: {place.text}", soft_wrap=True, markup=False)
    for entry in unused:
        if as_json:
            json_line(allow=str(allow), line=entry.line, unused=entry.path)
        else:
            console().print(f"{allow}:{entry.line}: allows {entry.path}, where nothing is found", soft_wrap=True)
    if wrong or unused:
        raise HardWiredModelError(
            f"{len(wrong)} places name a model, {len(unused)} entries of the allow-list are unused"
        )


def reload(url: Url = None, as_json: AsJson = False) -> None:
    """Have a running `run llm` read its file again; calls under way go on. A bad file changes nothing."""
    told = _asked("POST", "/v1/aliases/reload", url)
    if as_json:
        json_line(**told)
    else:
        console().print(f"generation {told['old']} replaced by {told['new']}")


def health(
    url: Url = None,
    probe: Annotated[bool, typer.Option("--probe", help="Ask all providers first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how a running `run llm` sees its providers, and which of their models rest."""
    told = _asked("GET", f"/v1/health{'?probe=1' if probe else ''}", url)
    if as_json:
        json_line(**told)
        return
    console().print(f"[bold]{told['status']}[/]")
    for name, state in {**told["providers"], **told["models"]}.items():
        rest = f", for {state['open_for_s']:.0f} s more ({state['cause']})" if state["state"] == "open" else ""
        error = f"  {state['last_error']}" if state["last_error"] else ""
        console().print(f"  {name:<40} {state['state']}{rest}{error}", soft_wrap=True, markup=False)


def _asked(method: str, path: str, url: str | None) -> dict[str, Any]:
    import aiohttp

    settings = load_settings()
    base = (url or f"http://{settings.llm_address}:{settings.llm_port}").rstrip("/")
    key = settings.require_service_key("`run llm` answers nobody without it")
    try:
        status, told = asyncio.run(_answered(method, base + path, key))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ConfigError(f"{base}: {type(error).__name__}", "start `projector run llm`, or name its --url") from None
    if status == 422:
        raise AliasConfigError(told["error"]["message"])
    if status != 200:
        raise ConfigError(f"{base} answered {status}: {told['error']['message']}")
    return told


async def _answered(method: str, url: str, key: str) -> tuple[int, dict[str, Any]]:
    import aiohttp

    # The key is for the service alone: for no proxy that the environment names, and for nobody it might point to.
    headers = {"authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30), trust_env=False) as http,
        http.request(method, url, headers=headers, allow_redirects=False) as answer,
    ):
        return answer.status, orjson.loads(await answer.read())


def _registry(config: Path | None) -> Registry:
    from projector.llm.registry import Registry

    return Registry(config or load_settings().require_llm_config())

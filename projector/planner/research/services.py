"""The research services that are set, over one HTTP client."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from projector.config import Settings
from projector.errors import ConfigError
from projector.planner.research.deep import DeepResearch
from projector.planner.research.http import Service, http_client
from projector.planner.research.shallow import ShallowResearch


class ResearchServices:
    """Use as an async context manager. Each is None where its address is not set."""

    def __init__(self, news_url: str, research_url: str, key: str) -> None:
        self._http = http_client()
        self.shallow = ShallowResearch(Service(self._http, news_url, key)) if news_url else None
        self.deep = DeepResearch(Service(self._http, research_url, key)) if research_url else None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Raises ConfigError when deep research is on and nobody could do it."""
        if settings.deep_research and not settings.research_url:
            raise ConfigError("PROJECTOR_RESEARCH_URL is not set", "set it, or turn PROJECTOR_DEEP_RESEARCH off")
        return cls(settings.news_url, settings.research_url, settings.research_key.get_secret_value())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

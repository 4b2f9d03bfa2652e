"""Which model the planner asks: the chains of a file, or one endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from projector.config import Settings

if TYPE_CHECKING:
    from projector.llm.client import OpenAIChat
    from projector.llm.routed import RoutedChat


def chat_model(settings: Settings) -> RoutedChat | OpenAIChat:
    """To be used as an async context manager. Raises ConfigError when neither is set."""
    if settings.llm_config:
        from projector.llm.routed import RoutedChat

        return RoutedChat.from_settings(settings)
    from projector.llm.client import OpenAIChat

    return OpenAIChat.from_settings(settings)

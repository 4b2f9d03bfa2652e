"""What the commands about views share: which views are meant, and how differences end them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from projector.errors import ConfigError, DifferencesError

if TYPE_CHECKING:
    from projector.views.declared import View

Names = Annotated[list[str] | None, typer.Argument(metavar="[VIEW]...", help="Default: every view.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def chosen(names: list[str] | None) -> list[View]:
    """The views with these names, every view without any; raises ConfigError for a name that is none."""
    from projector.views.declared import VIEWS

    unknown = [name for name in names or () if name not in VIEWS]
    if unknown:
        raise ConfigError(f"there is no view {unknown[0]!r}", f"choose among: {', '.join(VIEWS)}")
    return [VIEWS[name] for name in names or VIEWS]


def raise_for(differences: int) -> None:
    """Raises DifferencesError when there are any."""
    if differences:
        raise DifferencesError(f"{differences} rows are not the fold of the log")

"""The tools that a server may plan with: writes that the owner's devices carry out. Reads stay on the devices."""

from __future__ import annotations

from projector.planner.tools import Parameter, Tool

CATALOGUE: tuple[Tool, ...] = (
    Tool(
        "create_task",
        "todo",
        "new to-do; dueDate is YYYY-MM-DD",
        (
            Parameter("title", "string", required=True),
            Parameter("dueDate", "string"),
            Parameter("priority", "string", enum=("low", "medium", "high")),
            Parameter("description", "string"),
        ),
    ),
    Tool(
        "complete_tasks_by_title",
        "todo",
        "mark every open to-do whose title contains the text (case-insensitive) as done; for when the id is unknown",
        (Parameter("titleMatch", "string", required=True),),
    ),
    Tool(
        "create_event",
        "calendar",
        "new calendar entry; times ISO 8601",
        (
            Parameter("title", "string", required=True),
            Parameter("startTime", "string", required=True),
            Parameter("endTime", "string", required=True),
            Parameter("isAllDay", "boolean"),
            Parameter("location", "string"),
            Parameter("description", "string"),
        ),
    ),
    Tool(
        "create_note",
        "notes",
        "new markdown note, returns its id",
        (Parameter("title", "string"), Parameter("content", "string", required=True)),
    ),
    Tool(
        "create_journal_entry",
        "journal",
        "new diary entry with optional mood",
        (
            Parameter("content", "string", required=True),
            Parameter("title", "string"),
            Parameter(
                "mood",
                "string",
                enum=(
                    "dankbar",
                    "glücklich",
                    "zufrieden",
                    "neutral",
                    "nachdenklich",
                    "traurig",
                    "gestresst",
                    "wütend",
                ),
            ),
        ),
    ),
    Tool(
        "create_habit",
        "habits",
        "new habit tracker; emoji icon, hex colour; returns id",
        (
            Parameter("title", "string", required=True),
            Parameter("icon", "string", required=True),
            Parameter("color", "string", required=True),
        ),
    ),
)

"""Who a row of ours is by: the agent that planned it."""

from __future__ import annotations


def agent_actor(agent_id: str, display_name: str, mission_id: str, iteration_id: str) -> dict[str, str]:
    """The actor of a planned iteration.

    `rationale` stays empty: clients put the mission's objective there, in the clear, on a row that every
    service can read.
    """
    return {
        "kind": "ai",
        "principalId": agent_id,
        "displayName": display_name,
        "missionId": mission_id,
        "iterationId": iteration_id,
        "rationale": "",
    }

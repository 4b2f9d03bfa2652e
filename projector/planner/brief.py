"""What a run asks, stored before the model is asked: a run that is taken up again, or replayed, asks the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from projector import metrics
from projector.llm.chat import ChatModel
from projector.logging import get
from projector.planner import versions
from projector.planner.agent import Agent
from projector.planner.asking import MayAsk
from projector.planner.conversation import Folding
from projector.planner.gathering import gathered_for
from projector.planner.inputs.resolve import Inputs
from projector.planner.loop import Format, always, converse, unjudged
from projector.planner.mission import Mission
from projector.planner.outcome import Outcome
from projector.planner.planning import Planning
from projector.planner.prompt import Prompt, prompt_of, quoted
from projector.planner.reminders import Quota
from projector.planner.steps import StepLog
from projector.planner.subagent import TASK
from projector.planner.tool_calls import Judge
from projector.planner.tools import Tool

log = get("planner")


@dataclass(frozen=True, slots=True)
class Asked:
    """A stored brief, brought to the types that a conversation takes."""

    alias: str
    prompt: Prompt
    tools: tuple[str, ...]
    max_rounds: int
    form: Format
    folding: Folding
    quota: Quota

    async def lead(
        self,
        model: ChatModel,
        tools: Sequence[Tool],
        log: StepLog,
        *,
        run_id: str,
        max_s: float = math.inf,
        judge: Judge = unjudged,
        may_ask: MayAsk = always,
    ) -> Outcome:
        """The conversation, see `converse`. `tools`: at least those that the brief names."""
        by_name = {tool.name: tool for tool in tools}
        return await converse(
            model,
            self.alias,
            self.prompt,
            # In the brief's order, which tells requests apart.
            [by_name[name] for name in self.tools],
            log,
            run_id=run_id,
            max_rounds=self.max_rounds,
            form=self.form,
            folding=self.folding,
            quota=self.quota,
            max_s=max_s,
            judge=judge,
            may_ask=may_ask,
        )


def brief_of(
    mission: Mission, agent: Agent, allowed: Sequence[Tool], inputs: Inputs, planning: Planning
) -> dict[str, Any]:
    """What is asked anew. `allowed`: the tools that the agent's policy leaves."""
    delegating = planning.sub_agents and planning.form == "calls"
    tools = [tool for tool in allowed if delegating or tool is not TASK]
    listed = tools if planning.form == "json" else None
    prompt = prompt_of(mission, agent, rounds=planning.max_rounds, listed=listed, inputs=inputs)
    if prompt.marker is not None:
        metrics.INJECTION_MARKERS.labels(source="prompt", marker=prompt.marker).inc()
        log.warning("injection marker in what the prompt tells", agent=agent.id, marker=prompt.marker)
    return {
        "version": versions.STEPS,
        "agentId": agent.id,
        "model": planning.alias,
        "maxRounds": planning.max_rounds,
        "tools": [tool.name for tool in tools],
        "format": planning.form,
        "window": planning.folding.window,
        "foldingModel": planning.folding.alias,
        "agentName": quoted(agent.name),
        "dailyTokens": agent.daily_tokens,
        "system": prompt.system,
        "user": prompt.user,
        "gatheredFor": gathered_for(mission),
        "inputs": inputs.to_json(),
        # Outlives them.
        "inputSizes": inputs.sizes,
    }


def may_go_on(brief: dict[str, Any], agent: Agent, allowed: Sequence[Tool]) -> bool:
    """Whether a run that paid for answers asks the same again: always, unless it may no longer.

    Tools that have come since, by another policy or another version of the program, are none of its.
    """
    return brief["agentId"] == agent.id and set(brief["tools"]) <= {tool.name for tool in allowed}


def asked(brief: dict[str, Any]) -> Asked:
    """Raises KeyError for a brief whose prompts are pruned: see `pruned.is_pruned`."""
    return Asked(
        brief["model"],
        Prompt(brief["system"], brief["user"]),
        tuple(brief["tools"]),
        brief["maxRounds"],
        brief["format"],
        Folding(brief["window"], brief["foldingModel"]),
        Quota(brief["agentName"], brief["dailyTokens"], brief["spentBefore"]),
    )

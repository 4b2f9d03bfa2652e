from __future__ import annotations

from dataclasses import replace

from projector.devices.timeline import MAX_LIMIT, by_iteration, timeline
from projector.log import actor as actors
from tests.fold.rows import insert, us


def by(iteration: str, second: float, *, mission: str = "m1", agent: str = "a1", app_id: str = "todo", **fields: str):
    """A row that an agent wrote."""
    actor = actors.agent(agent, f"Name {agent}", mission_id=mission, iteration_id=iteration, rationale=f"r{second}")
    return replace(
        insert(second, {"title": "x"}), app_id=app_id, table="tasks", record_id=f"t{second}", actor=actor.to_json()
    )


def test_two_iterations_give_two_buckets_the_newest_first():
    buckets = by_iteration([by("it-1", 1), by("it-1", 2), by("it-2", 3)])
    assert [(bucket.key, len(bucket.changes)) for bucket in buckets] == [("m1::it-2", 1), ("m1::it-1", 2)]
    assert (buckets[1].agent_id, buckets[1].agent_name, buckets[1].rationale) == ("a1", "Name a1", "r1")


def test_what_people_and_systems_wrote_is_ignored():
    user, system = actors.user("u1"), actors.system("projection")
    rows = [replace(by("it-1", 1), actor=actor) for actor in (user.to_json(), system.to_json(), None, "null")]
    assert by_iteration(rows) == timeline(rows) == []


def test_the_first_time_is_the_earliest_and_rows_stay_in_the_order_given():
    rows = [by("it-1", 5), by("it-1", 2), by("it-1", 9)]
    [bucket] = by_iteration(rows)
    assert (bucket.first_us, list(bucket.changes), bucket.rationale) == (us(2), rows, "r5")


def test_one_iteration_id_in_two_missions_gives_two_buckets():
    assert len(by_iteration([by("it-1", 1), by("it-1", 2, mission="m2")])) == 2


def test_the_newest_rows_of_a_mission_and_an_app_come_first_and_the_filters_come_before_the_limit():
    rows = [by("it", second, app_id="notes" if second % 2 else "todo", mission=f"m{second % 3}") for second in range(9)]
    assert timeline(rows) == rows[::-1]
    assert timeline(rows, limit=2, app_id="notes") == [rows[7], rows[5]]
    assert timeline(rows, mission_id="m0") == [rows[6], rows[3], rows[0]]


def test_a_timeline_is_bounded():
    rows = [by("it", second) for second in range(MAX_LIMIT + 5)]
    assert (len(timeline(rows)), len(timeline(rows, limit=9999)), timeline(rows, limit=-1)) == (200, MAX_LIMIT, [])


def test_buckets_of_one_agent_since_a_time_are_whole_or_not_at_all():
    rows = [by("it-1", 1), by("it-1", 9), by("it-2", 5, agent="a2")]
    assert [bucket.iteration_id for bucket in by_iteration(rows, since_us=us(2))] == ["it-2"]
    assert [bucket.iteration_id for bucket in by_iteration(rows, agent_id="a1")] == ["it-1"]


def test_the_plan_itself_and_rows_in_former_shapes_of_actors():
    former = replace(by("it-1", 2), actor='{"kind":"ai","missionId":"m1","iterationId":"it-1"}')
    plan = replace(by("it-1", 3), app_id="ai", table="aiMissions", record_id="m1")
    [bucket] = by_iteration([former, plan])
    assert (bucket.changes, bucket.agent_id) == ((former,), "legacy:ai-default")

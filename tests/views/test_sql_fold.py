from __future__ import annotations

import random

import orjson
from psycopg import sql

from projector.fold import derive, dump, fold, parse_instant
from projector.log.change import BadChange, decode
from projector.views.compare import log_fold
from projector.views.declared import MISSIONS
from projector.views.jsondiff import first_difference
from tests.views.log import at, early_deletes, row, value_of

KEYS = ["title", "cadence", "cadence.atHour", "cadence.at.hour", "a.b.c", "a.b", "a", "deletedAt"]
GRANT_KEYS = [
    *("grant", "grant.wrappedKey", "grant.expiresAt", "grant.tables", "grant.derivation", "grant.derivation.version"),
    *("grant.derivation.missionId", "grant.derivation.recordIds", "grant.a.b", "grant.a"),
]
ODD_KEYS = ["id", "updatedAt", "userId.x", "__fieldMeta", "__field_old", "__proto__", "", ".", "a..b", ".a", "0", "a.0"]
TINY, HUGE = orjson.Fragment("1e-400"), orjson.Fragment("-1e400")
"""Zero and infinite as doubles."""
VALUES = [None, 0, 0.0, TINY, False, "", "text", 7, 1.5, True, [], [1, {"b": 2}], {}, {"b": 1}, {"b": {"c": 2}, "0": 3}]
GRANT_VALUES = {
    "wrappedKey": ["enc:1:k", "enc:1:other", "", None],
    "expiresAt": [at(100), at(200), at(300), "soon", None],
    "derivation": [{"version": "v1", "missionId": "m1"}, {"version": None}, {"recordIds": ["n"]}, {}, None, "odd"],
    "version": ["v1", 2, 1.5, True, None],
    "missionId": ["m1", "m2", None],
}
STAMPS = [
    at(1),
    at(2),
    at(3),
    at(40),
    {"at": at(2), "actor": {}},
    {"at": 5},
    "",
    "soon",
    None,
    "2026-06-01T12:00:02+02:00",
]


def history(chance: random.Random, record_id: str):
    """Up to a dozen rows of one record, of every kind that writers store and some that nobody should."""
    if chance.random() < 0.25:
        yield from early_deletes(chance, record_id)
    for _ in range(chance.randint(1, 9)):
        op = chance.choice(["insert", "update", "update", "update", "delete"])
        keys = chance.sample(KEYS + ODD_KEYS, chance.randint(0, 6))
        data = {key: chance.choice(VALUES) for key in keys}
        if chance.random() < 0.5:
            data |= {key: grant_value(chance, key) for key in chance.sample(GRANT_KEYS, chance.randint(1, 6))}
        for key in ("deletedAt", "updatedAt", "createdAt"):
            if chance.random() < 0.3:
                data[key] = chance.choice([at(1), at(2), at(3), at(4), "", "soon", None, 5, {"at": at(2)}])
        if chance.random() < 0.03:
            data["a"] = chance.choice([HUGE, [{"b": HUGE}]])
        if chance.random() < 0.05:
            data = chance.choice([None, [1], "text"])
        one = row(op, record_id, chance.randint(1, 4), data if isinstance(data, dict) else {}, chance.randint(1, 4))
        one["data"] = data
        if isinstance(data, dict) and chance.random() < 0.5:
            one["field_meta"] = {key: chance.choice(STAMPS) for key in data if chance.random() < 0.8}
        if chance.random() < 0.3:
            one["space_id"] = chance.choice(["s1", "s2"])
        if chance.random() < 0.05:
            one["field_meta"] = None
        if chance.random() < 0.02:
            one["schema_version"] = 2
        yield one


def grant_value(chance: random.Random, key: str):
    if key == "grant" and chance.random() < 0.8:
        return {name: chance.choice(values) for name, values in GRANT_VALUES.items() if chance.random() < 0.7}
    return chance.choice(GRANT_VALUES.get(key.rpartition(".")[2], VALUES))


def stored(state):
    """The state as a row has it."""
    return orjson.loads(orjson.dumps(dump(state)))


def admitted(rows):
    for one in rows:
        try:
            yield decode(value_of(one))
        except BadChange:
            continue


async def test_two_folds_that_share_no_code_agree_on_every_history(log):
    chance = random.Random(20261125)
    histories = {f"m{number}": list(history(chance, f"m{number}")) for number in range(1500)}
    await log.store([one for rows in histories.values() for one in rows])
    await log.admin.execute("set enable_nestloop = off")
    statement = sql.SQL("with chosen as (select * from sync_changes) select * from ({}) as folded")
    cursor = await log.admin.execute(statement.format(log_fold(MISSIONS)))
    by_sql = {record_id: tuple(rest) for _, _, _, record_id, *rest in await cursor.fetchall()}
    by_program = {}
    grants = passed_over = later_ones = 0
    for record_id, rows in histories.items():
        changes = list(admitted(rows))
        if changes:
            state = fold(changes)
            record = derive(state)
            by_program[record_id] = (
                *(record.fields, record.deleted, record.deleted_at_us, record.complete, record.space_id),
                *(state.newest_us, record.updated_at_us, record.grant, stored(state)),
            )
            grants += record.grant is not None
            passed_over += state.first is not None and bool(state.early)
            later_ones += len(state.early) > 1
    assert len(by_sql) > 1400
    assert grants > 200
    assert passed_over > 100
    assert later_ones > 50
    different = {
        record_id: found
        for record_id, shown in by_program.items()
        if (found := first_difference(list(by_sql.get(record_id, ())), list(shown))) is not None
    }
    assert different == {}
    assert by_sql.keys() == by_program.keys()


async def test_instants_are_read_alike(log):
    samples = [
        *("2026-06-01T10:00:00.123Z", "2026-06-01T10:00:00Z", "2026-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
        *("1900-02-29T00:00:00Z", "2000-02-29T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        *("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59-00:01"),
        *("2026-06-01T10:00:00.1234567+05:30", "2026-06-01T10:00:00-23:59", "2026-06-01T10:00:00+24:00"),
        *("2026-06-01T10:00:00.Z", "2026-06-01T10:00:00.1234567890Z", "2026-06-01T10:00:00", "2026-06-01T10:00Z"),
        *("", "2026-06-01T10:00:00Z\n", " 2026-06-01T10:00:00Z", "\uff12026-06-01T10:00:00Z", "2026-06-01t10:00:00z"),
    ]
    chance = random.Random(20261125)
    for _ in range(3000):
        text = chance.choice(samples[:14])
        place = chance.randrange(len(text))
        samples.append(text[:place] + chance.choice("0123456789TZ:-+. ") + text[place + 1 :])
    statement = sql.SQL(
        "select mana_ai.fold_instant(text) from unnest({}::text[]) with ordinality as s (text, nr) order by nr"
    )
    read = [us for (us,) in await (await log.admin.execute(statement.format(samples))).fetchall()]
    different = {text: us for text, us in zip(samples, read, strict=True) if us != parse_instant(text)}
    assert different == {}
    assert sum(us is not None for us in read) > 500

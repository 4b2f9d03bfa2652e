-- The rows of `chosen` that the engine would not call dead letters.
select *
from chosen
where user_id <> ''
  and schema_version <= 1
  and octet_length(user_id) + octet_length(app_id) + octet_length(table_name) + octet_length(record_id) <= 2600
  and (data is null or jsonb_typeof(data) in ('object', 'null'))
  -- At most 100 objects and arrays inside each other, that of the row among them, and 100 segments in a key.
  and not coalesce(jsonb_path_exists(data, 'strict $.**{100}'), false)
  and not coalesce(jsonb_path_exists(field_meta, 'strict $.**{100}'), false)
  and not coalesce(jsonb_path_exists(actor, 'strict $.**{100}'), false)
  and not exists (
      select from jsonb_object_keys(case when jsonb_typeof(data) = 'object' then data else '{}' end) as key
      where length(key) - length(replace(key, '.', '')) >= 100)
  -- Numbers that as doubles, which is what devices hold, are infinite: 2^1024 - 2^970 and beyond.
  and not exists (
      select from unnest(array[data, field_meta, actor]) as value
      where jsonb_path_exists(value, 'strict $.** ? (@ >= 1.79769313486231580794e308 || @ <= -1.79769313486231580794e308)'))

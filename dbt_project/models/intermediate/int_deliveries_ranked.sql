-- The deliveries that describe the state for the as-of day: those of its recorded scope where one exists, else every
-- accepted one; of each source the newest full delivery and the increments after it, so none of a source without one.
-- A learner summary tells of no course.
with pinned as (
  select delivery_id
  from {{ source('raw', 'delivery_scope') }}
  where as_of_on = {{ as_of_on() }}
),

in_scope as (
  select delivery_id, source, delivered_on, scope, sha256
  from {{ source('raw', 'deliveries') }}
  where source <> 'learner_summary'
    and (
      delivery_id in (select delivery_id from pinned)
      or (is_accepted and not exists (select 1 from pinned))
    )
),

ordered as (
  select *, row_number() over (partition by source order by delivered_on, sha256) as position
  from in_scope
),

based as (
  select *, max(case when scope = 'full' then position end) over (partition by source) as base_position
  from ordered
),

in_effect as (
  select * from based where position >= base_position
),

named as (
  select substr(md5(string_agg(delivery_id, chr(10) order by delivery_id)), 1, 16) as delivery_set
  from in_effect
)

select
  in_effect.delivery_id,
  in_effect.source,
  in_effect.delivered_on,
  cast(in_effect.position - in_effect.base_position + 1 as integer) as delivery_rank,
  named.delivery_set
from in_effect
cross join named

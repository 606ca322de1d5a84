-- Per active cohort enrollment: the last 7 days' clicks against the 7-day blocks before them, from day 0.
with blocks as (
  select
    enrollments.enrollment_key,
    numbers.block
  from {{ ref('int_enrollments_selected') }} as enrollments
  inner join {{ ref('int_activities_summarized') }} as activities
    on activities.enrollment_key = enrollments.enrollment_key
  cross join lateral generate_series(1, {{ floor_divide('enrollments.course_day + 1', 7) }} - 1) as numbers (block)
),

clicks as (
  select
    days.enrollment_key,
    {{ floor_divide('enrollments.course_day - days.course_day', 7) }} as block,
    sum(days.clicks) as clicks
  from {{ ref('int_days_aggregated') }} as days
  inner join {{ ref('int_enrollments_selected') }} as enrollments
    on enrollments.enrollment_key = days.enrollment_key
  where days.course_day >= 0
  group by 1, 2
),

filled as (
  select
    blocks.enrollment_key,
    cast(coalesce(clicks.clicks, 0) as double precision) as clicks
  from blocks
  left join clicks
    on clicks.enrollment_key = blocks.enrollment_key
    and clicks.block = blocks.block
),

centered as (
  select enrollment_key, count(*) as blocks, {{ median('clicks') }} as median_clicks
  from filled
  group by enrollment_key
),

spread as (
  select filled.enrollment_key, {{ median('abs(filled.clicks - centered.median_clicks)') }} as mad_clicks
  from filled
  inner join centered on centered.enrollment_key = filled.enrollment_key
  group by filled.enrollment_key
)

select
  centered.enrollment_key,
  cast(centered.blocks as integer) as earlier_blocks,
  centered.median_clicks,
  spread.mad_clicks
from centered
inner join spread on spread.enrollment_key = centered.enrollment_key

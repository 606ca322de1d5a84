-- What is known at all of a running presentation's activity: any click row of anybody in it, up to the as-of day.
-- A source that has delivered nothing for over two days tells nothing of it: silence since then is its own, not the students'.
-- Only an increment can hold rows of somebody who is not enrolled, so only its rows are looked up.
with fresh as (
  select source
  from {{ ref('int_deliveries_ranked') }}
  group by source
  having max(delivered_on) >= {{ as_of_on() }} - 2
),

clicks as not materialized (
  select
    courses.course_key,
    clicks.student_pseudonym,
    clicks.clicked_at,
    deliveries.delivery_rank
  from {{ ref('stg_oulad__clicks') }} as clicks
  inner join {{ ref('int_deliveries_ranked') }} as deliveries
    on deliveries.delivery_id = clicks.delivery_id
  inner join {{ ref('int_courses_dated') }} as courses
    on courses.source = deliveries.source
    and courses.code_module = clicks.code_module
    and courses.code_presentation = clicks.code_presentation
  inner join fresh on fresh.source = courses.source
  where courses.is_running and clicks.course_day <= courses.course_day
),

observed as (
  select course_key, clicked_at
  from clicks
  where delivery_rank = 1
  union all
  select clicks.course_key, clicks.clicked_at
  from clicks
  inner join {{ ref('int_enrollments_joined') }} as enrollments
    on enrollments.course_key = clicks.course_key
    and enrollments.student_pseudonym = clicks.student_pseudonym
  where clicks.delivery_rank > 1
)

select
  course_key,
  true as is_observed,
  count(clicked_at) > 0 as has_timestamps
from observed
group by course_key

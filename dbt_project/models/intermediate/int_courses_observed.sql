-- What is known at all of a running presentation's activity: any click row of anybody in it, up to the as-of day.
-- A source that has delivered nothing for over two days tells nothing of it: silence since then is its own, not the students'.
-- Only an increment can hold rows of somebody who is not enrolled, so only its rows are looked up.
with fresh as (
  select source
  from {{ ref('int_deliveries_ranked') }}
  group by source
  having max(delivered_on) >= {{ as_of_on() }} - 2
),

-- a course is observed from its first click on, so the first is all that the rows of a whole delivery are asked for
first_clicks as (
  select
    delivery_id,
    code_module,
    code_presentation,
    min(course_day) as course_day,
    min(case when clicked_at is not null then course_day end) as timed_course_day
  from {{ ref('stg_oulad__clicks') }}
  group by delivery_id, code_module, code_presentation
),

running as (
  select
    courses.course_key,
    courses.course_day,
    courses.code_module,
    courses.code_presentation,
    deliveries.delivery_id,
    deliveries.delivery_rank
  from {{ ref('int_courses_dated') }} as courses
  inner join fresh on fresh.source = courses.source
  inner join {{ ref('int_deliveries_ranked') }} as deliveries on deliveries.source = courses.source
  where courses.is_running
),

observed as (
  select
    running.course_key,
    coalesce(first_clicks.timed_course_day <= running.course_day, false) as is_timed
  from running
  inner join first_clicks
    on first_clicks.delivery_id = running.delivery_id
    and first_clicks.code_module = running.code_module
    and first_clicks.code_presentation = running.code_presentation
    and first_clicks.course_day <= running.course_day
  where running.delivery_rank = 1
  union all
  select
    running.course_key,
    clicks.clicked_at is not null as is_timed
  from running
  inner join {{ ref('stg_oulad__clicks') }} as clicks
    on clicks.delivery_id = running.delivery_id
    and clicks.code_module = running.code_module
    and clicks.code_presentation = running.code_presentation
    and clicks.course_day <= running.course_day
  inner join {{ ref('int_enrollments_joined') }} as enrollments
    on enrollments.course_key = running.course_key
    and enrollments.student_pseudonym = clicks.student_pseudonym
  where running.delivery_rank > 1
    and exists (select 1 from {{ ref('int_deliveries_ranked') }} where delivery_rank > 1)
)

select
  course_key,
  true as is_observed,
  bool_or(is_timed) as has_timestamps
from observed
group by course_key

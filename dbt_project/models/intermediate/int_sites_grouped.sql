-- One row per site of a presentation in the state, with its activity group. A row of a presentation that no delivery in
-- effect holds is left out before the newest is taken: it must not hide the row of a known one.
with placed as (
  select
    sites.*,
    courses.course_key
  from {{ ref('stg_oulad__sites') }} as sites
  inner join {{ ref('int_courses_dated') }} as courses
    on courses.source = sites.source
    and courses.code_module = sites.code_module
    and courses.code_presentation = sites.code_presentation
),

newest as (
  {{ newest_rows('placed', ['site_id']) }}
)

select
  course_key,
  site_id,
  activity_type,
  {{ activity_group('activity_type') }} as activity_group
from newest

-- One row per assessment of a presentation in the state, with its cut-off. A row of a presentation that no delivery in
-- effect holds is left out before the newest is taken: it must not hide the row of a known one.
with placed as (
  select
    assessments.*,
    courses.course_key,
    courses.presentation_length_days
  from {{ ref('stg_oulad__assessments') }} as assessments
  inner join {{ ref('int_courses_dated') }} as courses
    on courses.source = assessments.source
    and courses.code_module = assessments.code_module
    and courses.code_presentation = assessments.code_presentation
),

newest as (
  {{ newest_rows('placed', ['assessment_id']) }}
)

select
  course_key,
  source,
  assessment_id,
  assessment_type,
  coalesce(cut_off_course_day, presentation_length_days) as cut_off_course_day
from newest

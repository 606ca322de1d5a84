-- One row per site of a presentation, with its activity group.
with sites as (
  {{ newest_rows(ref('stg_oulad__sites'), ['site_id']) }}
)

select
  courses.course_key,
  sites.site_id,
  sites.activity_type,
  {{ activity_group('sites.activity_type') }} as activity_group
from sites
inner join {{ ref('int_courses_dated') }} as courses
  on courses.source = sites.source
  and courses.code_module = sites.code_module
  and courses.code_presentation = sites.code_presentation

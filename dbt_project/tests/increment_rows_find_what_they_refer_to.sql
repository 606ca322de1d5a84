-- Records by file. A full delivery holds none, for there landing puts them into quarantine; so only increments are read.
{{ config(
  severity='warn',
  fail_calc='cast(coalesce(sum(records), 0) as bigint)',
  meta={
    'description': 'Counts records of increments in effect whose presentation, assessment or enrollment no delivery in effect '
      'holds, and warns. They make nothing until one does: deliver what they refer to, or mend them.',
    'dagster': {'ref': {'name': 'int_deliveries_ranked'}},
  },
) }}
with increments as (
  select delivery_id
  from {{ ref('int_deliveries_ranked') }}
  where delivery_rank > 1
),

orphans as (
  {%- for entity in ['assessments', 'sites', 'students'] %}
  select versions.delivery_id, versions.file_name
  from {{ ref('stg_oulad__' ~ entity) }} as versions
  inner join increments on increments.delivery_id = versions.delivery_id
  left join {{ ref('int_courses_dated') }} as courses
    on courses.source = versions.source
    and courses.code_module = versions.code_module
    and courses.code_presentation = versions.code_presentation
  where courses.course_key is null
  union all
  {%- endfor %}
  {%- for entity in ['registrations', 'clicks'] %}
  select versions.delivery_id, versions.file_name
  from {{ ref('stg_oulad__' ~ entity) }} as versions
  inner join increments on increments.delivery_id = versions.delivery_id
  left join {{ ref('int_enrollments_joined') }} as enrollments
    on enrollments.source = versions.source
    and enrollments.code_module = versions.code_module
    and enrollments.code_presentation = versions.code_presentation
    and enrollments.student_pseudonym = versions.student_pseudonym
  where enrollments.course_key is null
  union all
  {%- endfor %}
  select versions.delivery_id, versions.file_name
  from {{ ref('stg_oulad__submissions') }} as versions
  inner join increments on increments.delivery_id = versions.delivery_id
  left join {{ ref('int_assessments_dated') }} as assessments
    on assessments.source = versions.source
    and assessments.assessment_id = versions.assessment_id
  left join {{ ref('int_enrollments_joined') }} as enrollments
    on enrollments.course_key = assessments.course_key
    and enrollments.student_pseudonym = versions.student_pseudonym
  where enrollments.course_key is null
)

select delivery_id, file_name, count(*) as records
from orphans
group by delivery_id, file_name

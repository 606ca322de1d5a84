-- The cohort's click rows up to the as-of day, on narrow integer keys; everything about activity derives from here.
-- Per (enrollment, site, day) the rows of the newest delivery that has any stand. Only keys that a later delivery than
-- the first repeats can be superseded, so only those are looked up: with one delivery the lookup is empty.
with clicks as not materialized (
  select
    enrollments.enrollment_key,
    clicks.site_id,
    clicks.course_day,
    clicks.clicks,
    clicks.clicked_at,
    deliveries.delivery_rank
  from {{ ref('stg_oulad__clicks') }} as clicks
  inner join {{ ref('int_deliveries_ranked') }} as deliveries
    on deliveries.delivery_id = clicks.delivery_id
  inner join {{ ref('int_enrollments_selected') }} as enrollments
    on enrollments.source = deliveries.source
    and enrollments.code_module = clicks.code_module
    and enrollments.code_presentation = clicks.code_presentation
    and enrollments.student_pseudonym = clicks.student_pseudonym
  where clicks.course_day <= enrollments.course_day
),

corrected as (
  select enrollment_key, site_id, course_day, max(delivery_rank) as newest_rank
  from clicks
  where delivery_rank > 1
    -- looked at once and first: without such a delivery PostgreSQL then reads no click row here
    and exists (select 1 from {{ ref('int_deliveries_ranked') }} where delivery_rank > 1)
  group by enrollment_key, site_id, course_day
)

select
  clicks.enrollment_key,
  clicks.site_id,
  clicks.course_day,
  clicks.clicks,
  clicks.clicked_at
from clicks
left join corrected
  on corrected.enrollment_key = clicks.enrollment_key
  and corrected.site_id = clicks.site_id
  and corrected.course_day = clicks.course_day
where corrected.newest_rank is null or corrected.newest_rank = clicks.delivery_rank

-- Per active cohort enrollment: clicks by activity group and by period of the day, and how many of the course's sites
-- it has visited.
with visits as (
  select enrollment_key, site_id, cast(sum(clicks) as bigint) as clicks
  from {{ ref('int_clicks_resolved') }}
  group by enrollment_key, site_id
),

grouped as (
  select
    visits.enrollment_key,
    visits.clicks,
    sites.site_id is not null as is_course_site,
    coalesce(sites.activity_group, 'other') as activity_group
  from visits
  inner join {{ ref('int_enrollments_selected') }} as enrollments
    on enrollments.enrollment_key = visits.enrollment_key
  left join {{ ref('int_sites_grouped') }} as sites
    on sites.course_key = enrollments.course_key
    and sites.site_id = visits.site_id
),

by_group as (
  select
    enrollment_key,
    cast(count(*) filter (where is_course_site) as integer) as course_sites_visited
    {%- for group in activity_groups() %},
    cast(sum(case when activity_group = '{{ group }}' then clicks else 0 end) as bigint) as clicks_{{ group }}
    {%- endfor %}
  from grouped
  group by enrollment_key
),

timed as (
  select enrollment_key, clicks, {{ local_hour('clicked_at') }} as local_hour
  from {{ ref('int_clicks_resolved') }}
  where clicked_at is not null
),

by_period as (
  select
    enrollment_key
    {%- for period, hours in day_periods().items() %},
    cast(sum(case when local_hour between {{ hours[0] }} and {{ hours[1] }} then clicks else 0 end) as bigint)
      as clicks_{{ period }}
    {%- endfor %},
    cast(sum(clicks) as bigint) as clicks_timed
  from timed
  group by enrollment_key
)

select
  by_group.*,
  {%- for period in day_periods() %}
  by_period.clicks_{{ period }},
  {%- endfor %}
  by_period.clicks_timed
from by_group
left join by_period on by_period.enrollment_key = by_group.enrollment_key

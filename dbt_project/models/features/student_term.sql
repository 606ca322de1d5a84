{{ config(materialized='incremental', incremental_strategy='replace_day', on_schema_change='fail', full_refresh=false) }}
{{- refuse_another_day() }}
{%- set windows = [7, 14, 28] %}
{%- set groups = activity_groups() %}
{%- set periods = day_periods() %}
with site_counts as (
  select course_key, count(*) as sites
  from {{ ref('int_sites_grouped') }}
  group by course_key
),

{#- Unknown is null, a true zero is 0: the course must be observed for a student's silence to mean anything. #}
joined as (
  select
    enrollments.*,
    {{ floor_divide('enrollments.course_day + 1', 7) }} as complete_weeks,
    activities.enrollment_key is not null as is_active,
    activities.last_active_course_day,
    {%- for column in [
      'clicks_total', 'active_days_total', 'clicks_since_start', 'active_days_since_start', 'clicks_complete_weeks',
      'week_clicks_complete_weeks', 'active_days_complete_weeks', 'week_active_days_complete_weeks', 'clicks_history',
      'active_days_leading', 'active_days_trailing', 'active_day_pairs',
      'clicks_last_7_days', 'clicks_last_14_days', 'clicks_last_28_days',
      'active_days_last_7_days', 'active_days_last_14_days', 'active_days_last_28_days',
    ] %}
    case when enrollments.is_observed then coalesce(activities.{{ column }}, 0) end as {{ column }},
    {%- endfor %}
    {%- for weekday in range(7) %}
    activities.active_days_weekday_{{ weekday }},
    {%- endfor %}
    {%- for period in periods %}
    visits.clicks_{{ period }},
    {%- endfor %}
    visits.clicks_timed,
    {%- for column in ['logins_total', 'session_us'] %}
    case when activities.enrollment_key is null and enrollments.has_timestamps then 0 else activities.{{ column }} end as {{ column }},
    {%- endfor %}
    {%- for group in groups %}
    visits.clicks_{{ group }},
    {%- endfor %}
    case when enrollments.is_observed then coalesce(visits.course_sites_visited, 0) end as course_sites_visited,
    site_counts.sites,
    blocks.earlier_blocks,
    blocks.median_clicks,
    blocks.mad_clicks,
    submissions.submissions_due,
    submissions.submissions_made,
    submissions.submissions_late,
    submissions.submissions_missed,
    submissions.scores,
    submissions.score_micropct_sum,
    submissions.rank_score_micropct_sum,
    submissions.computer_marked_scores,
    submissions.computer_marked_score_micropct_sum
  from {{ ref('int_enrollments_selected') }} as enrollments
  inner join {{ ref('int_submissions_summarized') }} as submissions
    on submissions.enrollment_key = enrollments.enrollment_key
  left join {{ ref('int_activities_summarized') }} as activities
    on activities.enrollment_key = enrollments.enrollment_key
  left join {{ ref('int_visits_summarized') }} as visits
    on visits.enrollment_key = enrollments.enrollment_key
  left join {{ ref('int_blocks_compared') }} as blocks
    on blocks.enrollment_key = enrollments.enrollment_key
  left join site_counts
    on site_counts.course_key = enrollments.course_key
),

peers as (
  select
    course_key,
    {{ median('active_days_last_28_days') }} as active_days_median,
    {{ median('clicks_last_28_days') }} as clicks_median
  from joined
  group by course_key
)

select
  {{ as_of_on() }} as as_of_on,
  joined.student_pseudonym,
  joined.course_id,
  joined.source,
  joined.course_day,
  joined.course_week,
  joined.presentation_length_days,
  joined.is_observed,
  case
    when not joined.is_observed then 'course_not_observed'
    when not joined.is_active then 'never_active'
  end as activity_missing_reason,
  least(joined.course_day - greatest(joined.registered_course_day, 0), 28) as course_days_enrolled,
  -joined.registered_course_day as registration_lead_days,
  joined.num_of_prev_attempts,
  joined.studied_credits,
  joined.clicks_total,
  joined.active_days_total,
  {{ ratio('7 * joined.clicks_since_start', 'joined.course_day + 1') }} as clicks_per_week,
  {{ ratio('7 * joined.active_days_since_start', 'joined.course_day + 1') }} as active_days_per_week,
  {{ slope_over_ranks('joined.complete_weeks', 'joined.clicks_complete_weeks', 'joined.week_clicks_complete_weeks') }}
    as clicks_slope_per_week,
  {{ slope_over_ranks('joined.complete_weeks', 'joined.active_days_complete_weeks', 'joined.week_active_days_complete_weeks') }}
    as active_days_slope_per_week,
  {%- for length in windows %}
  joined.clicks_last_{{ length }}_days,
  {%- endfor %}
  {%- for length in windows %}
  joined.active_days_last_{{ length }}_days,
  {%- endfor %}
  case
    when joined.course_day >= 28
      then {{ share_of_both('joined.clicks_last_14_days * (joined.course_day - 13)', '14 * joined.clicks_history') }}
  end as clicks_14d_to_history,
  case
    when joined.earlier_blocks >= 3
      then (joined.clicks_last_7_days - joined.median_clicks) / (cast(1.4826 as double precision) * joined.mad_clicks + 1)
  end as clicks_anomaly_score,
  case when joined.is_active then joined.course_day - joined.last_active_course_day end as days_since_last_activity,
  {{ weekday_entropy('joined') }} as weekday_entropy_share,
  {{ weekly_autocorrelation('joined') }} as weekly_autocorrelation,
  {%- for group in groups %}
  {{ ratio('joined.clicks_' ~ group, 'joined.clicks_total') }} as share_clicks_{{ group }},
  {%- endfor %}
  {%- for period in periods %}
  {{ ratio('joined.clicks_' ~ period, 'joined.clicks_timed') }} as share_clicks_{{ period }},
  {%- endfor %}
  joined.logins_total,
  {{ ratio('joined.session_us', '60000000 * cast(joined.logins_total as bigint)') }} as session_minutes_mean,
  joined.session_us / cast(60000000 as double precision) as time_spent_minutes,
  joined.submissions_due,
  joined.submissions_made,
  joined.submissions_late,
  joined.submissions_missed,
  {{ ratio('joined.submissions_missed', 'joined.submissions_due') }} as submissions_missed_share,
  {{ ratio('joined.score_micropct_sum', '1000000 * joined.scores') }} as score_pct_mean,
  {{ slope_over_ranks('joined.scores', 'joined.score_micropct_sum', 'joined.rank_score_micropct_sum') }}
    / 1000000 as score_pct_slope,
  {{ ratio('joined.computer_marked_score_micropct_sum', '100000000 * joined.computer_marked_scores') }} as accuracy_share,
  {{ ratio('joined.course_sites_visited', 'joined.sites') }} as topic_progress_share,
  peers.active_days_median as peer_active_days_last_28_days_median,
  peers.clicks_median as peer_clicks_last_28_days_median,
  {{ share_of_both('joined.active_days_last_28_days', 'peers.active_days_median') }} as active_days_28d_to_peers,
  {{ share_of_both('joined.clicks_last_28_days', 'peers.clicks_median') }} as clicks_28d_to_peers,
  joined.gender,
  joined.region,
  joined.highest_education,
  joined.imd_band,
  joined.age_band,
  joined.disability,
  deliveries.delivery_set
from joined
inner join peers on peers.course_key = joined.course_key
cross join (select distinct delivery_set from {{ ref('int_deliveries_ranked') }}) as deliveries

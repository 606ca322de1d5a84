{#- The words of activity: groups of site types and periods of the day, in the order of tables.py. -#}
{% macro activity_groups() -%}
  {{ return({
    'content': ['oucontent', 'page', 'htmlactivity', 'dualpane', 'subpage', 'sharedsubpage', 'folder'],
    'forum': ['forumng', 'oucollaborate', 'ouelluminate', 'ouwiki'],
    'homepage': ['homepage'],
    'quiz': ['quiz', 'externalquiz', 'questionnaire', 'repeatactivity'],
    'resource': ['resource', 'url', 'glossary', 'dataplus'],
    'other': [],
  }) }}
{%- endmacro %}

{% macro activity_group(activity_type) -%}
  case
  {%- for group, types in activity_groups().items() if types %}
    when {{ activity_type }} in ({% for type in types %}'{{ type }}'{{ ', ' if not loop.last }}{% endfor %}) then '{{ group }}'
  {%- endfor %}
    else 'other'
  end
{%- endmacro %}

{#- First and last local hour of each period. -#}
{% macro day_periods() -%}
  {{ return({'night': (0, 5), 'morning': (6, 11), 'afternoon': (12, 17), 'evening': (18, 23)}) }}
{%- endmacro %}

{#- (ln n - sum n_k ln n_k / n) / ln 7 over the active days n_k of the seven weekdays; a fixed order of addition. -#}
{% macro weekday_entropy(relation) -%}
  {%- set n = relation ~ '.active_days_total' -%}
  case
    when {{ relation }}.is_active and {{ n }} = greatest(
      {%- for weekday in range(7) %}{{ relation }}.active_days_weekday_{{ weekday }}{{ ', ' if not loop.last }}{% endfor -%}
    ) then 0
    when {{ relation }}.is_active then least(1, (
      ln(cast({{ n }} as double precision)) - (
        {%- for weekday in range(7) -%}
        {%- set n_k = relation ~ '.active_days_weekday_' ~ weekday %}
        {{ n_k }} * ln(cast(greatest({{ n_k }}, 1) as double precision)){{ ' +' if not loop.last }}
        {%- endfor %}
      ) / {{ n }}
    ) / ln(cast(7 as double precision)))
  end
{%- endmacro %}

{#- Lag-7 autocorrelation of T = course_day + 1 daily 0/1 values with k ones, all in integers:
    (T^2 P - k T (A + B) + (T - 7) k^2) / (T k (T - k)); P pairs, A ones with a later, B with an earlier partner day. -#}
{% macro weekly_autocorrelation(relation) -%}
  {%- set t = '(cast(' ~ relation ~ '.course_day as bigint) + 1)' -%}
  {%- set k = relation ~ '.active_days_since_start' -%}
  case
    when {{ relation }}.is_active and {{ relation }}.course_day >= 21 then {{ ratio(
      t ~ ' * ' ~ t ~ ' * ' ~ relation ~ '.active_day_pairs'
        ~ ' - ' ~ k ~ ' * ' ~ t ~ ' * (' ~ relation ~ '.active_days_leading + ' ~ relation ~ '.active_days_trailing)'
        ~ ' + (' ~ t ~ ' - 7) * ' ~ k ~ ' * ' ~ k,
      t ~ ' * ' ~ k ~ ' * (' ~ t ~ ' - ' ~ k ~ ')'
    ) }}
  end
{%- endmacro %}

{#- Clicks and distinct sites per enrollment and day. Two groupings are faster in DuckDB than count(distinct); PostgreSQL
    counts along one sort, which takes a third of the time of millions of groups in a hash. -#}
{% macro aggregate_days(clicks) -%}
  {{ return(adapter.dispatch('aggregate_days')(clicks)) }}
{%- endmacro %}

{% macro default__aggregate_days(clicks) -%}
  select
    enrollment_key,
    course_day,
    cast(sum(clicks) as bigint) as clicks,
    cast(count(*) as integer) as sites_visited
  from (
    select enrollment_key, course_day, site_id, sum(clicks) as clicks
    from {{ clicks }}
    group by enrollment_key, course_day, site_id
  ) as sites
  group by enrollment_key, course_day
{%- endmacro %}

{% macro postgres__aggregate_days(clicks) -%}
  select
    enrollment_key,
    course_day,
    cast(sum(clicks) as bigint) as clicks,
    cast(count(distinct site_id) as integer) as sites_visited
  from {{ clicks }}
  group by enrollment_key, course_day
{%- endmacro %}

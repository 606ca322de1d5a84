{#- The as-of day and the institution's time zone: checked words that end up inside SQL text. -#}

{% macro as_of_text() -%}
  {%- set day = (var('as_of_on', none) or env_var('IOM_AS_OF_ON', '')) | string -%}
  {%- if not execute -%}
    {{ return('1970-01-01') }}
  {%- endif -%}
  {%- if not modules.re.fullmatch('[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])', day) -%}
    {{ exceptions.raise_compiler_error("as_of_on must be a day such as 2013-12-16, not '" ~ day ~ "'; set IOM_AS_OF_ON or --vars 'as_of_on: 2013-12-16'") }}
  {%- endif -%}
  {%- set year, month = day[:4] | int, day[5:7] | int -%}
  {%- set is_leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0 -%}
  {%- set lengths = [31, 29 if is_leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] -%}
  {%- if year < 1 or day[8:] | int > lengths[month - 1] -%}
    {{ exceptions.raise_compiler_error("as_of_on " ~ day ~ " is no day of the calendar; set IOM_AS_OF_ON to one that is") }}
  {%- endif -%}
  {{ return(day) }}
{%- endmacro %}

{% macro as_of_on() -%}
  cast('{{ as_of_text() }}' as date)
{%- endmacro %}

{% macro timezone() -%}
  {%- set zone = var('timezone', none) or env_var('IOM_INSTITUTION__TIMEZONE', 'UTC') -%}
  {%- if execute and zone not in modules.pytz.all_timezones -%}
    {{ exceptions.raise_compiler_error("time zone '" ~ zone ~ "' is no IANA time zone; write one such as Europe/London in IOM_INSTITUTION__TIMEZONE") }}
  {%- endif -%}
  {{ return(zone) }}
{%- endmacro %}

{#- Hour of the institution's day of a UTC timestamp; UTC itself skips a conversion that costs a second per ten million rows,
    and `extract` would be a numeric in PostgreSQL. -#}
{% macro local_hour(column) -%}
  {%- if timezone() == 'UTC' -%}
    date_part('hour', {{ column }})
  {%- else -%}
    date_part('hour', ({{ column }} at time zone 'UTC') at time zone '{{ timezone() }}')
  {%- endif -%}
{%- endmacro %}

{#- Microseconds since 1970 of a UTC timestamp, as an exact integer. -#}
{% macro epoch_microseconds(column) -%}
  {{ return(adapter.dispatch('epoch_microseconds')(column)) }}
{%- endmacro %}

{% macro default__epoch_microseconds(column) -%}
  cast(extract(epoch from {{ column }}) * 1000000 as bigint)
{%- endmacro %}

{% macro duckdb__epoch_microseconds(column) -%}
  epoch_us({{ column }})
{%- endmacro %}

{# The models before features hold the day that was built last: a features model built without them would call it another.
   A crash of PostgreSQL leaves them empty, since it keeps no log of them. #}
{% macro refuse_another_day() -%}
  {%- if execute and flags.WHICH in ('build', 'run') and model.resource_type == 'model' -%}
    {%- set courses = adapter.get_relation(this.database, 'intermediate', 'int_courses_dated') -%}
    {%- if courses -%}
      {%- set days = run_query('select cast(max(starts_on + course_day) as varchar) from ' ~ courses).columns[0].values() -%}
      {%- set staged = adapter.get_relation(this.database, 'staging', 'stg_oulad__courses') -%}
      {%- set were_emptied = not days[0] and target.type == 'postgres' and staged and run_query('select 1 from ' ~ staged ~ ' limit 1') | length > 0 -%}
      {%- if were_emptied or (days[0] and days[0][:10] != as_of_text()) -%}
        {{ exceptions.raise_compiler_error("the models before " ~ this.identifier ~ " hold " ~ (days[0] or 'no day')[:10] ~ " and not " ~ as_of_text() ~ "; build them with it: dbt build --select +" ~ this.identifier) }}
      {%- endif -%}
    {%- endif -%}
  {%- endif -%}
{%- endmacro %}

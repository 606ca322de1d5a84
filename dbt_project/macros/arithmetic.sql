{#- Exact arithmetic that both engines read alike. Sums over doubles depend on the order of the rows and so on
    the number of threads; everything here is summed as integers and divided once. -#}

{#- Whole quotient, rounded down; `/` of two integers is a double in DuckDB and an integer in PostgreSQL. -#}
{% macro floor_divide(value, divisor) -%}
  cast(floor(({{ value }}) / {{ divisor }}.0) as integer)
{%- endmacro %}

{% macro ratio(numerator, denominator) -%}
  (cast({{ numerator }} as double precision) / nullif(cast({{ denominator }} as double precision), 0))
{%- endmacro %}

{#- Slope of y over x = 1..n from the sums of y and of x*y: 6 (2 Sxy - (n + 1) Sy) / (n (n^2 - 1)). -#}
{% macro slope_over_ranks(n, sum_y, sum_xy) -%}
  {{ ratio("6 * (2 * " ~ sum_xy ~ " - (" ~ n ~ " + 1) * " ~ sum_y ~ ")",
           "cast(" ~ n ~ " as bigint) * (" ~ n ~ " * " ~ n ~ " - 1)") }}
{%- endmacro %}

{#- x / (x + y) of two non-negative values: 0.5 where they are equal, null where both are 0. -#}
{% macro share_of_both(x, y) -%}
  {{ ratio(x, "(" ~ x ~ ") + (" ~ y ~ ")") }}
{%- endmacro %}

{#- Median of integers, exact to the half. -#}
{% macro median(value) -%}
  percentile_cont(0.5) within group (order by cast({{ value }} as double precision))
{%- endmacro %}

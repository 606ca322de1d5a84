{#- PostgreSQL plans a fresh table by guesses until it is analyzed, and takes nested loops over millions of rows;
    DuckDB keeps its statistics by itself. -#}
{% macro gather_statistics(relation) -%}
  {{ return(adapter.dispatch('gather_statistics')(relation)) }}
{%- endmacro %}

{% macro default__gather_statistics(relation) -%}{%- endmacro %}

{% macro postgres__gather_statistics(relation) -%}
  analyze {{ relation }}
{%- endmacro %}

"""The report of a scored day: plain functions from frames to one self-contained HTML page; `page.py` puts it together.

Reading tables, writing the file and the clock do not belong here.
"""

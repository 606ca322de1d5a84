"""The twin's world: who studies, when, and what they do; known by construction.

Writing it as an extract belongs to `iom_platform.extract.synthetic`.
"""

"""Hold the files that a page consists of: a template, a style, and scripts without a framework.

What may enter: HTML, CSS and JavaScript that a person can read; no file that a tool has made. Start
with `passes.js`: what each step of each pass multiplies, and where it lies.
"""

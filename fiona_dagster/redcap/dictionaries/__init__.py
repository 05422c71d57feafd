"""Data dictionaries in REDCap's 18-column metadata format, and ``projects.csv`` with what they can't say.

Belongs here: one CSV per REDCap project (behaviour reference 7.1 to 7.5), nothing else.
"""

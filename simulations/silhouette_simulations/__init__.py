"""What exists only to answer a research question.

Public data sets, partners made from them, baselines, and the report that shows
what federation and privacy cost. Nothing else imports this package.
"""

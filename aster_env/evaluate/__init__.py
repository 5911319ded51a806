"""Evaluation of any policy on any environment: runs that resume, their statistics, comparisons and reports."""

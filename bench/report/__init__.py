"""Clocks and records of runs, and the tables, pages and pictures that are made from the records."""

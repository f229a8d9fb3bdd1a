"""Inputs that nobody would write by hand: damaged files (bytes.py).

The corpus is one small valid file of every format that is read.
"""

"""The worker: a fresh process that loads one artifact on one runtime and times it.

Runs as ``python -m bench.agent`` here and as ``python3 -m agent`` where only this folder was
copied: standard library, numpy and the one runtime, Python 3.8 syntax, relative imports.
"""

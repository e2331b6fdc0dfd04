"""Small modules that several packages need: names, files, digests, CPUs, optional packages.

May import errors and the C extensions, and no other package.
"""

"""Small modules that every other package needs: names, files, digests, CPUs, optional packages.

May import errors and the C extensions, and no other package.
"""

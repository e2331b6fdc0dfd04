"""Images to tensors: sources, recipes, the loader, one image (`prepare`), folders of tensors.

May import errors, the C extensions and base.
"""

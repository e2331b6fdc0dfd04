"""The built-in recipes, one TOML file each; docs/recipes.md explains the format. Holds no code."""

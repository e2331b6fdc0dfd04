"""The built-in recipes, one TOML file each; README.md explains the format. Holds no code."""

"""What several subcommands share: all output (`console`), arguments, recipes, scores."""

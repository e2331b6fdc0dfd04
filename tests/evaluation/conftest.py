from tests.support.eval_fixtures import files, run

__all__ = ["files", "run"]

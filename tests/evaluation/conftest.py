from tests.support import eval_fixtures

files, run = eval_fixtures.files, eval_fixtures.run

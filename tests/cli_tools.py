"Runs commands of the command line in the process of the test"
from typer.testing import CliRunner

from tsmeta.cli.main import app


def call(*args, code=0):
    "Runs a command in this process."
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == code, (done.exit_code, done.output, done.exception)
    if code: assert 'Traceback' not in done.output
    return done

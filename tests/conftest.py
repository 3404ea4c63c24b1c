"What holds for all tests"
import signal


def pytest_configure():
    "A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process they start"
    signal.signal(signal.SIGINT, signal.default_int_handler)

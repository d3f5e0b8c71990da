"""Launches a study: python launch.py --config=configs/quickstart.py."""
import signal
import sys

if __name__ == '__main__':  # Until somebody listens: without a traceback.
  signal.signal(signal.SIGINT, signal.SIG_DFL)


from jaxaug.commands import run
from jaxaug.core import interrupts


def main(argv) -> int:
  """Returns the exit status, see jaxaug.commands.run."""
  return run.main(argv, 'python launch.py')


if __name__ == '__main__':
  interrupts.leave(main(sys.argv[1:]))

"""Calls a command by its name: jaxaug NAME, or python -m jaxaug NAME."""
import ast
import importlib
import pathlib
import sys

from jaxaug.core import errors, exit_status, interrupts


def _commands() -> dict[str, str]:
  """Returns the files of commands/ and what each does, without an import."""
  files = sorted((pathlib.Path(__file__).parent / 'commands').glob('[!_]*.py'))
  return {f.stem: ast.get_docstring(ast.parse(f.read_text())).split('\n')[0]
          for f in files}


def main(argv=None) -> int:
  """Returns the exit status of the command, or 2 where there is no such."""
  name, *rest = (sys.argv[1:] if argv is None else argv) or ['--help']
  known = _commands()
  if name in ('-h', '--help'):
    print('usage: jaxaug NAME ...\n')
    for command, about in known.items():
      print(f'  {command:10}{about}')
    print('\njaxaug NAME --help says more.')
    return 0
  if name == '--version':
    print(sys.modules[__package__].__version__)
    return 0
  if name not in known:
    print(f'jaxaug: there is no command {name!r}; expected one of '
          f'{", ".join(known)}.{errors.nearest(name, known)}', file=sys.stderr)
    return 2
  loaded = []

  def load():
    with interrupts.deferred(fragile=True):
      loaded.append(importlib.import_module(f'jaxaug.commands.{name}'))
    interrupts.check()
  return exit_status.of(f'jaxaug {name}', load) or loaded[0].main(rest)


def script():
  """What the console script `jaxaug` calls."""
  interrupts.leave(main())


if __name__ == '__main__':
  script()

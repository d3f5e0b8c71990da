"""Launches a study: python launch.py --config=configs/quickstart.py."""
import argparse
import importlib.util
import os
import pathlib
import re
import shlex
import sys
import traceback

# As in study: `--help` answers before jax is imported.
STAGES = ('data', 'generate', 'pool', 'judge', 'audit', 'classify', 'quality',
          'results', 'report')


# What a stage was called before.
_RENAMED = {'evaluate': 'results'}


def _refuse(message):
  from jaxaug.core import errors
  raise errors.InputError(f'{message}; see --help')


def _parse(argv):
  """Returns the flags and the overrides (`--config.a.b=3`), apart."""
  parser = argparse.ArgumentParser(
      prog='launch.py', description='Does generated data help my classifier?',
      epilog='Any key of the config: --config.data.per_class=20, '
      '--config.arms[4].replace=0.3, --config.generators.cgan.steps=2000. '
      'The keys and their defaults are in configs/common.py.',
      allow_abbrev=False)
  parser.error = _refuse
  parser.add_argument('--config', required=True, metavar='FILE[:VARIANT]',
                      help='a file of configs/; ":smoke" shrinks it to seconds')
  parser.add_argument('--workdir', metavar='DIR',
                      help='default: runs/ and the name of the config')
  parser.add_argument('--stage', default='all', choices=('all', *STAGES, 'evaluate'),
                      help='stop after this stage; those before it that are '
                      'not done come first')
  parser.add_argument('--dry_run', action='store_true',
                      help='print what would be done, and what is done already')
  overrides = [a for a in argv if a.startswith('--config.')]
  flags = parser.parse_args([a for a in argv if a not in overrides])
  return flags, overrides


def _load(spec: str):
  """Returns what `get_config` of FILE[:VARIANT] returns."""
  from jaxaug.core import errors
  path, _, variant = spec.partition(':')
  if not os.path.isfile(path):
    known = sorted(str(p) for p in pathlib.Path('configs').glob('*.py')
                   if p.stem not in ('common', 'recipes', '__init__'))
    raise errors.InputError(
        f'--config: there is no file {path!r}; expected one such as '
        f'{", ".join(known) or "configs/quickstart.py"}.'
        f'{errors.nearest(path, known)}')
  root = str(pathlib.Path(__file__).parent)
  if root not in sys.path:
    sys.path.insert(0, root)  # Configs import configs.common.
  try:
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location('study_config', path))
    module.__spec__.loader.exec_module(module)
    config = module.get_config(variant or None)
  except (ArithmeticError, AttributeError, ImportError, LookupError, NameError,
          SyntaxError, TypeError, ValueError) as e:
    lines = [f', line {frame.lineno}' for frame in traceback.extract_tb(
        e.__traceback__) if frame.filename == path]
    raise errors.InputError(
        f'{path}{lines[-1] if lines else ""}: '
        f'{" ".join(str(e).split())[:300]}') from e
  return _known(config, path)


def _known(config, path: str):
  """Returns the config; InputError for a key that configs/common.py has not."""
  from configs import common
  from jaxaug.core import errors
  base = common.base()
  for where, keys, known in (('config', config, base),
                             ('config.data', config.data, base.data)):
    for key in keys:
      if key not in known:
        raise errors.InputError(
            f'{path}: there is no key {where}.{key}; expected one of '
            f'{", ".join(known)}.{errors.nearest(key, known)}')
  return config


def _rows():
  """Returns section -> the kind of a block's part, the key that names the
  part, and the keys that are not for the part."""
  from jaxaug.study import schema
  return {
      'generators': ('generators', 'model', schema.LOOP),
      'pools': ('selectors', 'selector', schema.POOL),
      'classifiers': ('classifiers', 'model', schema.CLASSIFIER),
      'judge': ('classifiers', 'model', schema.JUDGE),
  }


def _blocks(config):
  """Yields (path, block, its row of _rows)."""
  for section, row in _rows().items():
    if section == 'judge':
      yield section, config.judge, row
    else:
      for name, block in config[section].items():
        yield f'{section}.{name}', block, row


def _complete(config, overrides):
  """Gives every block its part's arguments, with the part's defaults.

  So that each can be named in an override; a block whose part is overridden
  drops what its new part does not take.
  """
  import inspect

  from jaxaug.augment import standard
  from jaxaug.core import registry
  from jaxaug.training import classifier
  given = dict(o.removeprefix('--config.').partition('=')[::2]
               for o in overrides)
  for path, block, (kind, key, own) in _blocks(config):
    where = f'config.{path}'
    name = given.get(f'{path}.{key}', block[key])
    build = registry.find(kind, name, f'{where}.{key}').build
    takes = registry.arguments(build)
    if kind == 'classifiers':
      takes = takes | registry.arguments(classifier.make)
    for extra in set(block.keys()) - {*takes, *own}:
      if f'{path}.{key}' not in given:
        registry.check(build, {extra: None}, where, also=(*own, *takes))
      del block[extra]
    for argument, default in takes.items():
      if argument not in block and default is not inspect.Parameter.empty:
        block[argument] = default
  takes = registry.arguments(standard.make)
  del takes['where']
  for block in config.augmentations.values():
    for argument in set(takes) - set(block.keys()):
      block[argument] = takes[argument]
  return config


def _children(node):
  if hasattr(node, 'keys'):
    return [str(k) for k in node.keys()]
  return [f'[{i}]' for i in range(len(node))] if isinstance(
      node, (tuple, list)) else []


def _check_path(config, override: str):
  """Raises InputError unless `--config.a.b[0].c=value` names a key."""
  from jaxaug.core import errors
  path, equals, _ = override.removeprefix('--').partition('=')
  if not equals:
    raise errors.InputError(f'{override}: expected {override}=VALUE.')
  node, walked = config, 'config'
  for part in re.findall(r'\[\d+\]|[^.\[\]]+', path)[1:]:
    known = _children(node)
    if part not in known:
      raise errors.InputError(
          f'{path}: there is no key {part!r} in {walked}; expected one of '
          f'{", ".join(known) or "none: it is a value"}.'
          f'{errors.nearest(part, known)}')
    index = int(part[1:-1]) if part[0] == '[' else part
    node = node[index]
    walked += part if part[0] == '[' else f'.{part}'


def _override(config, overrides):
  """Applies `--config.key=value` by ml_collections' own parsers."""
  from absl import flags
  from ml_collections import config_flags

  from configs import common
  from jaxaug.core import errors
  for override in overrides:
    _check_path(config, override)
    m = re.fullmatch(r'--config\.data\.(\w+)=None', override)
    if m and common.base().data[m[1]] is None:
      config.data[m[1]] = None  # Which the parsers cannot read.
      continue
    values, argv = flags.FlagValues(), ['launch.py', override]
    config_flags.DEFINE_config_dict('config', config, lock_config=True,
                                    flag_values=values, sys_argv=argv)
    try:
      values(argv)
    except (flags.Error, TypeError, ValueError, SyntaxError) as e:
      key, _, value = override.removeprefix('--').partition('=')
      reason = str(e).split(': ')[-1].strip().replace('\n', ' ')
      raise errors.InputError(
          f'{key}: {value!r} is of the wrong type ({reason}); expected one '
          'like the default in configs/common.py or its file.') from e
  return config


def _plain(value):
  """ConfigDict, tuples and placeholders -> what JSON has."""
  if hasattr(value, 'to_dict'):
    value = value.to_dict()
  if isinstance(value, dict):
    return {k: _plain(v) for k, v in value.items()}
  if isinstance(value, (tuple, list)):
    return [_plain(v) for v in value]
  return value


def _banner(flags):
  import jax

  from jaxaug.core import files
  from jaxaug.nn.cpu import convolution
  stamp = files.stamp()
  versions = '  '.join(f'{k} {v}' for k, v in stamp['versions'].items())
  devices = jax.devices()
  print(f'jaxaug  commit {stamp["commit"] or "none"}  config {flags.config}\n'
        f'{versions}\n{len(devices)} x {devices[0].device_kind} '
        f'({devices[0].platform})', flush=True)
  if devices[0].platform == 'cpu':
    print(convolution.way(len(devices))[1], flush=True)


def _dry_run(config, workdir):
  """Prints the plan: every unit, and whether it is done."""
  import rich.console
  import rich.table

  from jaxaug.study import run
  workdir = pathlib.Path(workdir)
  table = rich.table.Table('stage', 'unit', 'steps', 'state',
                           title=f'{config["name"]} in {workdir}')
  with run.plan(config, workdir) as study:
    rows = run.overview(study)
  for stage, name, steps, done in rows:
    runs = f' x {len(done)} runs' if len(done) > 1 else ''
    state = 'done' if all(done) else (
        f'{sum(done)} of {len(done)} done' if any(done) else 'to do')
    table.add_row(stage, name + runs, str(steps or ''), state)
  rich.console.Console().print(table)


def main(argv) -> int:
  """Returns the exit status: 0, 2 for a mistake, 128 + signal for a stop."""
  from jaxaug.core import errors, interrupts
  command = shlex.join(['python', 'launch.py', *argv])
  if chosen := os.environ.get('JAXAUG_CONVOLUTIONS'):
    command = f'JAXAUG_CONVOLUTIONS={shlex.quote(chosen)} {command}'
  interrupts.install()
  try:
    flags, overrides = _parse(argv)
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    with interrupts.deferred():  # Imports that are cut short fail in odd ways.
      from jaxaug.core import memory
      from jaxaug.nn.cpu import convolution
      from jaxaug.study import run
      from jaxaug.training import mesh
    interrupts.check()
    config = _load(flags.config)
    config = _override(_complete(config, overrides), overrides)
    config = _plain(config)
    workdir = flags.workdir or os.path.join('runs', config['name'])
    memory.keep()
    if mesh.initialize():
      raise errors.InputError(
          'the environment asks for several hosts; expected one: the stages '
          'write their files from one host')
    convolution.way()  # A wrong choice is refused before the work.
    if flags.dry_run:
      _dry_run(config, workdir)
      return 0
    _banner(flags)
    results = run.run(config, workdir, stage=_RENAMED.get(flags.stage, flags.stage),
                      command=command)
    if results:  # There are none before the stage results.
      import rich.console

      from jaxaug.study.report import table
      rich.console.Console().print(table.verdict_table(results))
      if flags.stage in ('all', 'report'):
        print(f'report: {os.path.join(workdir, "report.html")}')
    return 0
  except errors.InputError as e:
    print(f'launch.py: {e}', file=sys.stderr)
    return 2
  except OSError as e:  # A disk may fail anywhere.
    from jaxaug.core import files
    print(f'launch.py: {files.friendly(e, e.filename or ".")}',
          file=sys.stderr)
    return 2
  except (interrupts.Interrupted, KeyboardInterrupt) as e:
    interrupts.settle()
    signum = getattr(e, 'signum', 2)
    print(f'\nstopped by signal {signum}; this continues:\n{command}',
          file=sys.stderr)
    return 128 + signum


if __name__ == '__main__':
  from jaxaug.core import interrupts
  interrupts.leave(main(sys.argv[1:]))

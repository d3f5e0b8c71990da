"""Runs a study: jaxaug run --config=configs/quickstart.py."""
# Little is imported here, so that --help answers at once.
import collections
import os
import pathlib
import shlex
import sys

from jaxaug.core import errors, exit_status, interrupts

# As in jaxaug.study.run, which imports jax.
STAGES = ('data', 'represent', 'generate', 'pool', 'judge', 'audit', 'classify',
          'quality', 'results', 'report')
# What a stage was called before.
_RENAMED = {'evaluate': 'results'}


def _parse(argv, prog: str):
  """Returns the flags and the overrides (`--config.a.b=3`), apart."""
  parser = exit_status.parser(
      prog, 'Does generated data help my classifier?',
      epilog='Any key of the config: --config.data.per_class=20, '
      '--config.arms[4].replace=0.3, --config.generators.cgan.steps=2000. '
      'The keys and their defaults are in docs/config.md.')
  parser.add_argument('--config', required=True, metavar='FILE[:VARIANT]',
                      help='a file of configs/; ":smoke" shrinks it to seconds')
  parser.add_argument('--workdir', metavar='DIR',
                      help='default: runs/ and the name of the config')
  parser.add_argument('--stage', default='all',
                      choices=('all', *STAGES, *_RENAMED),
                      help='stop after this stage; those before it that are '
                      'not done come first')
  parser.add_argument('--dry_run', action='store_true',
                      help='print what would be done, and what is done already')
  overrides = [a for a in argv if a.startswith('--config.')]
  for word in argv:
    if word.startswith('--config.') and '=' not in word:
      raise errors.InputError(f'{word}: has no value; expected {word}=VALUE.')
  flags = parser.parse_args([a for a in argv if a not in overrides])
  return flags, overrides


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


def _dry_run(study, config, workdir):
  """Prints the plan: every task, and whether it is done."""
  import rich.console
  import rich.table

  workdir = pathlib.Path(workdir)
  table = rich.table.Table('stage', 'task', 'steps', 'state',
                           title=f'{config["name"]} in {workdir}')
  from jaxaug.study import failures
  with study.plan(config, workdir) as planned:
    rows = study.overview(planned)
    failed = failures.told(failures.of_study(planned))
  for stage, name, steps, parts in rows:
    counts = collections.Counter(parts)
    what = 'images' if stage == 'generate' else 'runs'
    several = f' x {len(parts)} {what}' if len(parts) > 1 else ''
    table.add_row(stage, name + several, str(steps or ''), ', '.join(
        state if len(counts) == 1 else f'{count} of {len(parts)} {state}'
        for state, count in sorted(counts.items())))
  rich.console.Console().print(table)
  for what, advice in failed:
    print(f'{what}: {advice}.')


def _holes(out, prog: str) -> bool:
  """Says what failed and what to do; returns whether there is any hole."""
  from jaxaug.study import failures
  from jaxaug.study.report import words
  for what, advice in failures.told(out.failures):
    print(f'{prog}: {what}. All that does not need it is done. What to do: '
          f'{advice}.', file=sys.stderr)
  classifiers = out.results['classifiers'] if out.results else {}
  missing = [f'{arm} of {name}' for name, entry in classifiers.items()
             for arm, *_ in words.without_verdict(entry)]
  if missing:
    print(f'{prog}: no verdict on {", ".join(missing)}.', file=sys.stderr)
  return bool(out.failures or missing)


def _conclude(results, stage: str, workdir):
  """Prints the verdicts, and where the report is."""
  import rich.console

  from jaxaug.study.report import table
  rich.console.Console().print(table.verdict_table(results))
  if stage in ('all', 'report'):
    print(f'report: {os.path.join(workdir, "report.html")}')


def _run(argv, prog: str, command: str) -> int:
  """Does what the command line says; raises for whatever ends it early.

  Returns 0, or 3 where a task of the study failed.
  """
  flags, overrides = _parse(argv, prog)
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  with interrupts.deferred(fragile=True):
    from jaxaug.core import memory
    from jaxaug.nn.cpu import convolution
    from jaxaug.study import config_file
    from jaxaug.study import run as study
    from jaxaug.training import mesh
  interrupts.check()
  config = config_file.load(flags.config, overrides)
  workdir = flags.workdir or os.path.join('runs', config['name'])
  memory.keep()
  if mesh.initialize():
    raise errors.InputError(
        'the environment asks for several hosts; expected one: the stages '
        'write their files from one host')
  convolution.way()  # A wrong choice is refused before the work.
  if flags.dry_run:
    _dry_run(study, config, workdir)
    return 0
  _banner(flags)
  stage = _RENAMED.get(flags.stage, flags.stage)
  out = study.run(config, workdir, stage=stage, command=command)
  if out.results:  # There are none before the stage results.
    _conclude(out.results, stage, workdir)
  return 3 if _holes(out, prog) else 0


def main(argv=None, called: str = 'jaxaug run') -> int:
  """Returns the exit status: 0, 2 for a mistake, 3 for a study that has a hole
  where a task failed, 128 + signal for a stop.

  Args:
    argv: the flags.
    called: what stands before them on the command line.
  """
  argv = sys.argv[1:] if argv is None else argv
  prog, command = called.removeprefix('python '), f'{called} {shlex.join(argv)}'
  if chosen := os.environ.get('JAXAUG_CONVOLUTIONS'):
    command = f'JAXAUG_CONVOLUTIONS={shlex.quote(chosen)} {command}'
  return exit_status.of(prog, lambda: _run(argv, prog, command),
                        f'; this continues:\n{command}')


if __name__ == '__main__':
  interrupts.leave(main())

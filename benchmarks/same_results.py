"""Whether two checkouts give the same results.json, times and stamps aside.

python -m benchmarks.same_results BEFORE AFTER [CONFIG[:VARIANT] ...]

BEFORE and AFTER are checkouts; every config's `:smoke` and the quickstart are
launched in each, one after the other, or the configs that are named. One line
a config; the exit status is 1 where some differ. Hours where caches are cold.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

VARYING = {'seconds', 'created', 'stamp', 'command', 'stages', 'commit'}


def numbers(value):
  """Returns what must be equal in two results."""
  if isinstance(value, dict):
    return {k: numbers(v) for k, v in value.items() if k not in VARYING}
  return [numbers(v) for v in value] if isinstance(value, list) else value


def differences(one, other, path: str = ''):
  """Yields the paths at which two JSON values differ."""
  if isinstance(one, dict) and isinstance(other, dict):
    for key in dict.fromkeys([*one, *other]):
      yield from differences(one.get(key), other.get(key), f'{path}.{key}')
  elif isinstance(one, list) and isinstance(other, list) and (
      len(one) == len(other)):
    for i, pair in enumerate(zip(one, other, strict=True)):
      yield from differences(*pair, f'{path}[{i}]')
  elif one != other:
    yield f'{path.lstrip(".")}: {one!r}, {other!r}'


def launch(checkout, config: str, workdir) -> dict:
  """Runs a study of a checkout and returns its numbers."""
  name, _, variant = config.partition(':')
  subprocess.run(
      [sys.executable, 'launch.py', f'--workdir={workdir}',
       f'--config=configs/{name}.py' + (f':{variant}' if variant else '')],
      cwd=checkout, check=True, stdout=subprocess.DEVNULL)
  return numbers(json.loads((workdir / 'results.json').read_text()))


def main(before, after, *configs) -> int:
  """Returns 0 where all results are equal, else 1."""
  found = sorted(f.stem for f in pathlib.Path(before, 'configs').glob('*.py')
                 if f.stem not in ('common', 'recipes', '__init__'))
  different = 0
  for config in configs or (*(f'{name}:smoke' for name in found),
                            'quickstart'):
    with tempfile.TemporaryDirectory() as scratch:
      pair = [launch(checkout, config, pathlib.Path(scratch) / side)
              for side, checkout in (('before', before), ('after', after))]
    apart = list(differences(*pair))
    different += bool(apart)
    print(f'{config}: {"equal" if not apart else "; ".join(apart[:5])}',
          flush=True)
  return int(different > 0)


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))

"""Writes docs/config.md: python docs/make_config.py.

From the comments of configs/common.py, and the signatures and docstrings of
what a config names. A test tells when it has to be written again.
"""
import inspect
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from configs import common  # noqa: E402
from jaxaug.augment import standard  # noqa: E402
from jaxaug.core import registry  # noqa: E402
from jaxaug.data import mixing  # noqa: E402
from jaxaug.study import arms, sections  # noqa: E402
from jaxaug.training import classifier  # noqa: E402

INTRO = """# Every key of a config

A config is what `get_config` of a file in `configs/` returns: `common.base()`,
edited. Any key can be overridden on the command line:
`--config.data.per_class=20`, `--config.generators.cgan.g_lr=4e-4`,
`--config.arms[2].add=0.5`, `--config.evaluation.metrics[0]=kid`. Several words
or numbers stand with commas between them (`fid,kid`, `8,16`), `None` empties a
key that may be empty. A key that does not exist, or a value of a wrong type, is
refused, with the line where it is a file's.

This page is written by `python docs/make_config.py`.
"""
# Kind -> heading, what a config says to get a block of it, its function.
KINDS = {
    'generators': ('Generators', '`config.generators.NAME = common.generator('
                   'MODEL, steps=..., KEY=VALUE)`', 'build'),
    'classifiers': ('Classifiers', '`config.classifiers.NAME = '
                    'common.classifier(MODEL, steps=..., KEY=VALUE)`; '
                    '`config.judge` likewise', 'build'),
    'selectors': ('Selectors', '`config.selectors.NAME = common.selector('
                  'SELECTOR, KEY=VALUE)`, and that name in `selectors` of a '
                  'pool or in `representatives` of a generator', 'build'),
    'datasets': ('Data sources', '`config.data.source = SOURCE`, and the keys '
                 'below in `config.data`', 'load'),
    'extractors': ('Feature extractors', '`config.evaluation.extractor = NAME`;'
                   ' their keys are for `jaxaug evaluate`: '
                   '`--extractor.KEY=VALUE`', 'build'),
    'image_metrics': ('Metrics of images', '`config.evaluation.metrics = (NAME,'
                      ' ...)`; their keys are for `jaxaug evaluate`: '
                      '`--NAME.KEY=VALUE`', 'compute'),
    'metrics': ('Metrics of classifiers', '`config.metric = NAME` chooses what '
                'the verdict is about; a report has all of them', 'compute'),
}


def _kind(annotation, default=inspect.Parameter.empty) -> str:
  """A type in words; where there is no annotation, that of the default."""
  if annotation is inspect.Parameter.empty:
    given = default not in (inspect.Parameter.empty, None)
    return type(default).__name__ if given else ''
  names = [getattr(k, '__name__', str(k)) if not str(k).startswith('tuple[')
           else str(k) for k in sections.members(annotation)]
  return ' or '.join(names).replace('NoneType', 'None')


def _table(rows) -> str:
  """Rows of (key, type, default, line) as a table."""
  lines = ['| key | type | default | |', '|---|---|---|---|']
  for key, kind, default, line in rows:
    shown = '' if default is inspect.Parameter.empty else f'`{default!r}`'
    line = line.removesuffix('.').rstrip(',')
    lines.append(f'| `{key}` | {kind} | {shown} | {line} |')
  return '\n'.join(lines) + '\n'


def _said(function) -> dict[str, str]:
  """Returns argument -> its line, from the section Args of a docstring."""
  found = re.search(r'^Args:\n((?:  .*\n|\n)*)',
                    f'{inspect.getdoc(function) or ""}\n', re.M)
  out = {}
  for names, words in re.findall(r'^  (\*{0,2}\w[\w, ]*): (.*(?:\n    .*)*)',
                                 found[1] if found else '', re.M):
    for name in names.split(', '):
      out[name] = ' '.join(words.split())
  return out


def _rows(function, leave=(), deep=False):
  """Rows of a function's keyword arguments; `deep`: of its rules' as well."""
  said = _said(function)
  for p in inspect.signature(function).parameters.values():
    if p.kind is p.KEYWORD_ONLY and p.name not in leave:
      yield (p.name, _kind(p.annotation, p.default), p.default,
             said.get(p.name, ''))
  for rule in registry.rules(function) if deep else ():
    yield from _rows(rule, leave, deep)


def _called(function) -> str:
  return f'{function.__module__.split(".")[-1]}.{function.__name__}'


# ------------------------------------------------------------------- the parts
def comments() -> dict[str, str]:
  """Returns key -> its comment in configs/common.py; that of a section stands
  before it."""
  said, above, key = {}, [], None
  for line in inspect.getsource(common.base).splitlines()[2:]:
    code, _, comment = line.partition('# ')
    if found := re.match(r'  (config\.[\w.]+) = ', code):
      key = found[1]
      said[key] = ' '.join([*above, comment]).strip()
      above = []
    elif comment and code == '  ':
      above.append(comment)
    elif comment and not code.strip():
      said[key] += f' {comment}'
  return said


def _sections(said) -> str:
  base, out = common.base().to_dict(), []
  for where, kinds in sections.KEYS.items():
    values = base if where == 'config' else base[where.split('.')[1]]
    out += [f'\n## {where}\n']
    if said.get(where):
      out += [f'{said[where]}\n']
    own = [key for key in kinds if kinds[key] is not dict]
    out += [_table((f'{where}.{key}', _kind(kinds[key]), values[key],
                    said[f'{where}.{key}']) for key in own)]
  lines = _said(common.classifier) | _said(classifier.make_optimizer) | {
      'augment': "a name of config.augmentations, or ''"}
  lines['model'] = lines.get('model', 'a file of classifiers/')
  out += ['\n## config.judge\n', f'{said["config.judge"]}\n',
          _table((f'config.judge.{key}', type(value).__name__, value,
                  lines[key]) for key, value in base['judge'].items())]
  blocks = [f'config.{key}' for key, kind in sections.KEYS['config'].items()
            if kind is dict and f'config.{key}' not in sections.KEYS]
  out += ['\n## Blocks by name\n', '| section | |', '|---|---|',
          *(f'| `{key}` | {said[key].rstrip(".")} |' for key in blocks)]
  return '\n'.join(out) + '\n'


def _arm_rows():
  said = _said(arms.Arm) | {
      key: line for key, line in _said(mixing.class_counts).items()
      if key in arms.HOW}
  for key, kind in list(arms.Arm.__annotations__.items())[1:]:
    default = arms.Arm._field_defaults[key]
    yield key, _kind(kind, default), default, said[key]


def _blocks() -> str:
  """What a block, an arm and a figure say beside what goes to their parts."""
  out = ['\n## Arms\n', '`common.arm(NAME, KEY=VALUE)`\n',
         _table(_arm_rows())]
  out += ['\n## Augmentations\n', '`config.augmentations.NAME = dict('
          'KEY=VALUE)`. ' + ' '.join(_about(standard.make).split()) + '\n',
          _table(_rows(standard.make))]
  out += ['\n## Pools\n', '`config.pools.NAME = common.pool(GENERATOR, '
          'KEY=VALUE)`\n', _table(_rows(common.pool)),
          '`config.pools.NAME = common.imported(PATH, KEY=VALUE)`, of images '
          'that somebody else made, with the keys of its source beside them '
          '([data sources](#data-sources), as `config.pools.NAME.KEY`)\n',
          _table(_rows(common.imported))]
  out += ['\n## Published figures\n', '`common.published(CLASSIFIER, ARM, '
          'VALUE, KEY=VALUE)`\n', _table(_rows(common.published))]
  return '\n'.join(out)


def _about(function) -> str:
  """The paragraph of a docstring before its Args, without the first line."""
  return inspect.getdoc(function).partition('\n\n')[2].partition('\n\nArgs:')[0]


def _kinds(leave) -> str:
  out, rules = [], []
  for kind, (heading, how, attribute) in KINDS.items():
    out += [f'\n## {heading}\n', f'{how}.\n']
    if kind in ('generators', 'classifiers'):
      out += ['Every one of them has:\n',
              _table(_rows(getattr(common, kind[:-1])))]
    if kind == 'classifiers':
      out += ['and for its training:\n', _table(_rows(classifier.make,
                                                     deep=True))]
    for name in registry.names(kind):
      if (kind, name) in leave:
        continue
      block = registry.find(kind, name)
      function = getattr(block, attribute)
      first = inspect.getdoc(block).split('\n')[0]
      out += [f'### {name}\n', f'{first}\n']
      rows = [*_rows(function, ('fit',))]
      if rows:
        out += [_table(rows)]
      for rule in registry.rules(function):
        out += [f'And the keys of [{_called(rule)}](#{_anchor(rule)}).\n']
        if rule not in rules:
          rules.append(rule)
  for rule in rules:
    out += [f'\n## {_called(rule)}\n', inspect.getdoc(rule).split('\n')[0] +
            '\n', _table(_rows(rule, ('spec', 'z_dim'), deep=True))]
  return '\n'.join(out)


def _anchor(function) -> str:
  return _called(function).replace('.', '').lower()


def page(leave=()) -> str:
  """Returns docs/config.md as it should be.

  leave: (kind, block) that it does not have.
  """
  parts = INTRO, _sections(comments()), _blocks(), _kinds(leave)
  return '\n'.join(parts).replace('\n\n\n', '\n\n')


if __name__ == '__main__':
  (ROOT / 'docs' / 'config.md').write_text(page())

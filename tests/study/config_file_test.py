"""What is wrong in a config file is one line: file, line, key, expectation."""
import pathlib
import sys

import pytest

from configs import common
from jaxaug.augment import standard
from jaxaug.core import errors, registry
from jaxaug.study import config_file, sections

ROOT = pathlib.Path(__file__).parents[2]
OWN = """
from configs import common
def get_config(arg=None):
  config = common.base()
  config.name = 'own'
  config.classifiers.c = common.classifier('cnn', steps=1)
  config.generators.g = common.generator('cgan', steps=1)
  config.arms = (common.arm('real'),)
  {edit}
  return common.finish(config, arg)
"""


def refused(tmp_path, edit, *overrides) -> str:
  """Returns what is said of a config with `edit` in its line 9."""
  file = tmp_path / 'own.py'
  file.write_text(OWN.format(edit=edit))
  with pytest.raises(errors.InputError) as caught:
    config_file.load(str(file), overrides)
  line = str(caught.value)
  assert '\n' not in line
  return line.replace(str(file), 'own.py')


@pytest.mark.parametrize('edit, key, nearest', [
    ('config.curve.evry = 1', 'config.curve.evry', 'every'),
    ('config.curve.update(evry=1)', 'config.curve.evry', 'every'),
    ('config.curve = dict(evry=1)', 'config.curve.evry', 'every'),
    ('config.curve = {"evry": 1}', 'config.curve.evry', 'every'),
    ('config.curve = type(config)({"evry": 1})', 'config.curve.evry', 'every'),
    ('config["curve"]["evry"] = 1', 'config.curve.evry', 'every'),
    ('c = config.curve; c.evry = 1', 'config.curve.evry', 'every'),
    ('config.evaluation.metrcs = ()', 'config.evaluation.metrcs', 'metrics'),
    ('config.audit.allow_leak = 1', 'config.audit.allow_leak', 'allow_leaks'),
    ('config.collapse.obedince = 0', 'config.collapse.obedince', 'obedience'),
    ('config.data.pth = "x"', 'config.data.pth', 'path'),
    ('config.judge.stpes = 1', 'config.judge.stpes', 'steps'),
    ('config.runz = 1', 'config.runz', 'runs'),
    ('config.generators.g.z_dims = 3', 'config.generators.g.z_dims', 'z_dim'),
    ('config.classifiers.c.epoch = 3', 'config.classifiers.c.epoch', 'epochs'),
    ('config.pools.p = common.pool("g", selecters=())',
     'config.pools.p.selecters', 'selectors'),
    ('config.selectors.s = common.selector("kmeans", cuont=3)',
     'config.selectors.s.cuont', 'count'),
    ('config.augmentations.a = dict(flp=0.5)', 'config.augmentations.a.flp',
     'flip'),
    ('config.arms = (common.arm("real", replase=1),)', 'config.arms[0].replase',
     'replace'),
])
def test_a_typo_in_any_section(tmp_path, edit, key, nearest):
  line = refused(tmp_path, edit)
  assert line.startswith(f'own.py, line 9: {key}: '), line
  assert 'expected one of' in line and f"Did you mean '{nearest}'?" in line


@pytest.mark.parametrize('edit, said', [
    ('config.runs = "five"', "config.runs: 'five'; expected a whole number."),
    ('config.runs = None', 'config.runs: None; expected a whole number.'),
    ('config.runs = True', 'config.runs: True; expected a whole number.'),
    ('config.seed = 0.5', 'config.seed: 0.5; expected a whole number.'),
    ('config.minority = "Coat"', "config.minority: 'Coat'; expected a tuple."),
    ('config.curve.every = "x"',
     "config.curve.every: 'x'; expected a whole number."),
    ('config.curve = dict(metric="fid", every="x", images=2)',
     "config.curve.every: 'x'; expected a whole number."),
    ('config.curve = 3', 'config.curve: 3; expected a dict.'),
    ('config.data.path = 3', 'config.data.path: 3; expected text or None.'),
    ('config.data.resize = 1.5',
     'config.data.resize: 1.5; expected a whole number or a tuple or None.'),
    ('config.audit.allow_leaks = "no"',
     "config.audit.allow_leaks: 'no'; expected True or False."),
    ('config.generators.g = 3', 'config.generators.g: 3; expected a dict.'),
    ('config.generators.g.steps = "x"',
     "config.generators.g.steps: 'x'; expected a whole number."),
    ('config.generators.g.spectral_norm = "no"',
     "config.generators.g.spectral_norm: 'no'; expected True or False."),
    ('config.judge.learning_rate = "fast"',
     "config.judge.learning_rate: 'fast'; expected a number."),
    ('config.arms = (common.arm("real", replace="half"),)',
     "config.arms[0].replace: 'half'; expected a number or None."),
    ('config.arms = (3,)', 'config.arms[0]: 3; expected a dict.'),
    ('config.curve = dict(every=1)',
     "config.curve: lacks 'metric'; expected all of metric, every, images."),
    ('config.generators.g = dict(model="cgan")', "config.generators.g: lacks "
     "'steps'; expected all of model, steps, batch_size."),
    ('config.alpha = 2', 'config.alpha: 2.0; expected more than 0, below 1.'),
])
def test_a_wrong_type_or_value(tmp_path, edit, said):
  assert refused(tmp_path, edit) == f'own.py, line 9: {said}'


@pytest.mark.parametrize('edit, said', [
    ('config.dta.per_class = 5', 'own.py, line 9: AttributeError: ~~dta~ '
     'Did you mean "data" instead of "dta"?~ (config.dta.per_class = 5)'),
    ('1 / 0', 'own.py, line 9: ZeroDivisionError: division by zero (1 / 0)'),
    ('open("/nix")', 'own.py, line 9: FileNotFoundError: [Errno 2] No such file'
     ' or directory: ~/nix~ (open("/nix"))'),
    ('raise KeyError', 'own.py, line 9: KeyError (raise KeyError)'),
    ('raise ValueError("a  " + "word " * 99)',
     'own.py, line 9: a ' + 'word ' * 98 + 'word (raise ValueError("a  " + '
     '"word " * 99))'),
    ('return 3', 'own.py: get_config returned 3; expected what common.base() '
     'returns, edited.'),
    ('a b', 'own.py, line 9: SyntaxError: invalid syntax (own.py, line 9)'),
    ('import no_such', "own.py, line 9: ModuleNotFoundError: No module named "
     "'no_such' (import no_such)"),
])
def test_an_error_inside_a_config(tmp_path, edit, said):
  assert refused(tmp_path, edit).replace('\\', '') == said.replace('~', "'")


def test_the_line_is_that_of_the_key_and_not_of_its_namesakes(tmp_path):
  edit = ('config.data.name = "x"\n'
          '  config.curve = dict(\n'
          '      metric="fid",\n'
          '      imags=3)')
  assert refused(tmp_path, edit).startswith(
      'own.py, line 12: config.curve.imags: ')
  # `config.name` stands in the file, config.data.name does not.
  assert refused(tmp_path, '', '--config.data.source=npz').startswith(
      'config.data.path: missing')


def test_an_override_is_not_the_fault_of_the_file(tmp_path):
  line = refused(tmp_path, 'config.runs = 3', '--config.runs=0')
  assert line.startswith('config.runs: 0; ')


def test_a_helper_of_the_config_that_errs_shows_the_line_that_called(tmp_path):
  line = refused(tmp_path, 'common.generator("cgan")')
  assert line.startswith('own.py, line 9: TypeError: generator() missing')


def test_configs_are_found_beside_the_file(tmp_path, monkeypatch):
  """Wherever the launch is from."""
  monkeypatch.setattr(sys, 'path', [p for p in sys.path
                                    if pathlib.Path(p).resolve() != ROOT])
  for module in ('configs', 'configs.common', 'configs.quickstart'):
    monkeypatch.delitem(sys.modules, module, raising=False)
  monkeypatch.chdir(tmp_path)
  config = config_file.load(f'{ROOT}/configs/quickstart.py:smoke')
  assert config['name'] == 'quickstart_smoke'


def test_every_key_has_a_default_in_common_and_a_type_in_sections():
  base = common.base().to_dict()
  sections.check(base)
  for where, kinds in sections.KEYS.items():
    section = base if where == 'config' else base[where.split('.')[1]]
    assert set(section) == set(kinds)
  blocks = {'generators': common.generator('x', steps=1),
            'classifiers': common.classifier('x'),
            'pools': common.imported('x'),
            'judge': common.base().judge}
  for name, block in blocks.items():
    assert sections.BLOCKS[name].keys() - {'epochs'} <= set(block)
  assert set(common.pool('x')) == sections.BLOCKS['pools'].keys() - {
      'source', 'split', 'trained_on'}


def test_a_block_is_complete_and_can_be_overridden(tmp_path):
  (tmp_path / 'own.py').write_text(OWN.format(edit=''))
  config = config_file.load(str(tmp_path / 'own.py'), [
      '--config.generators.g.z_dim=7', '--config.data.val_fraction=0.5',
      '--config.data.resize=(8,9)', '--config.classifiers.c.hidden=3'])
  assert config['generators']['g']['z_dim'] == 7
  taken = registry.arguments(registry.find('generators', 'cgan').build)
  assert config['generators']['g'].keys() == {
      'model', 'steps', 'batch_size', 'representatives', *taken}
  assert config['data']['resize'] == [8, 9]
  assert config['data']['val_fraction'] == 0.5


def test_parameters_are_those_of_the_rule_too():
  def rule(*, a: int = 1, b: str = ''):
    del a, b

  def build(spec, *, b: float = 2.0, **more: rule):
    del spec, b, more
  found = registry.parameters(build)
  assert list(found) == ['a', 'b'] and found['b'].annotation is float
  assert 'flip' in registry.parameters(standard.make)


@pytest.mark.parametrize('value, kind, fits', [
    (1, float, True), ([1], tuple, True), ((1, 2), tuple[int, ...], True),
    (None, int | None, True), (True, int, False), (True, bool, True),
    (1, bool, False), ('x', int | str, True), (1.5, int, False),
    ({}, tuple, False)])
def test_types(value, kind, fits):
  if fits:
    sections.check_type('x', value, kind)
  else:
    with pytest.raises(errors.InputError, match='^x: .*; expected '):
      sections.check_type('x', value, kind)


def test_an_error_of_a_relative_path_has_its_line_too(tmp_path, monkeypatch):
  (tmp_path / 'bad.py').write_text(
      'def get_config(arg=None):\n  return {}["no such"]\n')
  monkeypatch.chdir(tmp_path)
  for path in ('bad.py', f'../{tmp_path.name}/bad.py'):
    with pytest.raises(errors.InputError,
                       match=r"bad\.py, line 2: KeyError: 'no such'"):
      config_file.load(path)


def test_a_file_without_a_study_says_what_it_lacks(tmp_path):
  (tmp_path / 'empty.py').write_text('')
  with pytest.raises(errors.InputError, match=r'has no get_config\(variant\)'):
    config_file.load(str(tmp_path / 'empty.py'))


def test_a_data_source_has_keys_of_its_own(tmp_path):
  file = tmp_path / 'own.py'
  fake = "config.data.source = 'fake'; config.data."
  file.write_text(OWN.format(edit=f'{fake}height = 12'))
  config = config_file.load(str(file), ['--config.data.width=16'])
  assert [config['data'][k] for k in ('height', 'width', 'channels')] == [
      12, 16, 1]
  line = refused(tmp_path, f'{fake}hight = 12')
  assert line.startswith('own.py, line 9: config.data.hight: unknown key')
  assert "Did you mean 'height'?" in line


def test_a_section_that_a_file_removes_is_one_line(tmp_path):
  assert "lacks 'curve'" in refused(tmp_path, 'del config["curve"]')
  assert 'config.augmentations.a.where: unknown key' in refused(
      tmp_path, 'config.augmentations.a = dict(where="x")')


def test_classes_may_be_the_minority(tmp_path):
  spec, minority = 'configs/fmnist_rare.py', '--config.minority=Bag,Shirt'
  config = config_file.load(str(ROOT / spec), [minority])
  assert config['selectors']['representatives']['classes'] == ['Bag', 'Shirt']
  assert config['arms'][-1]['classes'] == ['Bag', 'Shirt']
  with pytest.raises(errors.InputError, match=(
      r'config\.minority: empty; expected names of classes, for config\.'
      r"selectors\.representatives\.classes is 'minority'")):
    config_file.load(str(ROOT / spec), ['--config.minority=()'])

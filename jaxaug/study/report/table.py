"""A study's verdicts as a table for the terminal."""
from jaxaug.study.report import words

_STYLES = {'helps': 'bold blue', 'hurts': 'bold red', 'baseline': 'dim'}


def verdict_table(results: dict):
  """Returns the verdicts as a rich.table.Table for the terminal."""
  from rich import box, table, text

  first = next(iter(results['classifiers'].values()))
  measure = first['label'].replace(' ', '\n')
  unit = ''
  if first['percent']:
    measure, unit = f'{measure} %', ', in points,'
  out = table.Table(
      title=f'Verdicts of {results["study"]}', title_justify='left',
      box=box.SIMPLE, padding=(0, 1, 0, 0), caption_justify='left',
      caption=f'Difference of the test {first["label"]} to the baseline, or '
              f'the arm named{unit} with its {words.level(results["alpha"])} '
              f'interval; {words.better(first)} is better; p after Holm.')
  minority = words.minority(results)
  if minority:
    out.caption += ('\nmin.: accuracy on ' + ', '.join(minority) +
                    ' alone, which was not tested.')
  out.add_column('arm', overflow='fold', min_width=12)
  for column in ('real +\nsynthetic', measure, 'difference', 'p'):
    out.add_column(column, justify='right', no_wrap=True)
  out.add_column('verdict', no_wrap=True)
  why, warned = {}, {}
  for name, classifier in results['classifiers'].items():
    out.add_row(text.Text(name, 'bold'))
    for arm, row in classifier['arms'].items():
      # As Text: a name may hold what rich takes for markup.
      *cells, verdict = _cells(arm, row, classifier, bool(minority))
      out.add_row(*map(text.Text, cells),
                  text.Text(verdict, _STYLES.get(verdict, '')))
      if warning := (row.get('copies') or {}).get('warning'):
        warned.setdefault(warning, {})[arm] = None
    for arm, entry in classifier['missing'].items():
      out.add_row(text.Text(f' {arm}'), '', '', '', '',
                  text.Text('missing', _STYLES['hurts']))
      why.setdefault(entry['why'], []).append(f'{arm} of {name}')
    out.add_section()
  for warning, arms in warned.items():
    out.caption += f'\nThe pool of {", ".join(arms)}: {warning}.'
  for cause, arms in list(why.items())[:3]:
    out.caption += f'\nMissing: {", ".join(arms)}: {cause}.'
  return out


def _cells(arm: str, row: dict, classifier: dict,
           minority: bool) -> tuple[str, ...]:
  """Returns what stands in an arm's row of the table."""
  name, difference, p = f' {arm}', '', ''
  if other := words.rival(row, classifier):
    name += f'\n  against {other}'
  mean = words.number(row['mean'], classifier)
  if row['std'] is not None:
    mean += f'\n± {words.number(row["std"], classifier)}'
  mean += f' ({row["n"]})'
  if minority:
    alone = row['metrics']['minority_accuracy']
    mean += f'\nmin. {words.number(alone["mean"], alone)}'
  if row['difference'] is not None:
    difference = words.change(row['difference'], classifier)
    p = words.p_value(row['p_corrected'])
    if row['low'] is not None:
      difference += (f'\n[{words.change(row["low"], classifier)}, '
                     f'{words.change(row["high"], classifier)}]')
  return (name, f'{row["real"]:,}\n+ {row["synthetic"]:,}',
          mean, difference, p, row['verdict'])

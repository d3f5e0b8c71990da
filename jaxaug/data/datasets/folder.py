"""Image files in folders: DIR/CLASS/..., also below train/, val/ and test/."""
from jaxaug.core import types
from jaxaug.data import layout, reading

_WHERE = 'config.data.path'


def load(*, path: str, ignore: tuple = (), **how: reading.how) -> types.Dataset:
  """Reads every image of a folder; without split folders all is 'train'.

  Classes are the sorted names of folders, images are in sorted order of their
  names, in whatever folders they lie below that of their class. See
  data/layout.py for the layouts that are known. Where StyleGAN's dataset.json
  stands in it, that says the labels. What systems leave behind (.DS_Store,
  __MACOSX) is not looked at.

  Args:
    path: the folder.
    ignore: patterns of names of files and folders to leave out, such as
      '*.heic' or 'unlabelled'.
    **how: see reading.how.

  Raises:
    InputError: no such folder, an empty one, a class without images or not in
      every split, images beside the class folders, a file that cannot be used,
      images of kinds that are not read, or images that differ in size.
  """
  root, names = layout.folder(path, _WHERE), None
  where, table = f'{_WHERE}: {root}', root / layout.TABLE
  described = (layout.described(table.read_bytes(), where)
               if table.is_file() else None)
  found = layout.walk(root, _WHERE, (*ignore, layout.TABLE)
                      if described else ignore)
  if described:
    parts, names = layout.labelled(described, found, (), where)
  else:
    parts = layout.arrange(found, _WHERE)
  return reading.dataset(
      root.absolute().name, parts, reading.how(**how), where,
      class_names=names, ignored=found.ignored)

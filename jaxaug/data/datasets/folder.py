"""Image files in folders: DIR/CLASS/..., also below train/, val/ and test/."""
from jaxaug.core import types
from jaxaug.data import layout, reading

_WHERE = 'config.data.path'


def load(*, path: str, ignore: tuple = (), **how: reading.how) -> types.Dataset:
  """Reads every image of a folder; without split folders all is 'train'.

  Classes are the sorted names of folders, images are in sorted order of their
  names, in whatever folders they lie below that of their class. See
  data/layout.py for the layouts that are known. What systems leave behind
  (.DS_Store, __MACOSX) is not looked at.

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
  root = layout.folder(path, _WHERE)
  found = layout.walk(root, _WHERE, ignore)
  return reading.dataset(
      root.absolute().name, layout.arrange(found, _WHERE),
      reading.how(**how), f'{_WHERE}: {root}', ignored=found.ignored)

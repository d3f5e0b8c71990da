"""Prepares a TFDS set: jaxaug prepare NAME [--data_dir=DIR]."""
import argparse
import sys

from jaxaug.core import errors


def main(argv=None) -> int:
  """Returns the exit code: 0, or 2 after one line on what was wrong."""
  parser = argparse.ArgumentParser(
      prog='jaxaug prepare',
      description='Downloads a TFDS set and prepares it for '
      'config.data.source=tfds. Needs tensorflow.')
  parser.add_argument('name', help='such as cifar10 or fashion_mnist')
  parser.add_argument('--data_dir', default='', help='where to put it; default '
                      '$TFDS_DATA_DIR or ~/tensorflow_datasets')
  parser.add_argument(
      '--fashion_mnist_files', default='', metavar='DIR',
      help='prepare fashion_mnist without a network from its four .gz files, '
      "such as Debian's /usr/share/datasets/fashion-mnist")
  args = parser.parse_args(argv)
  from jaxaug.data.datasets import tfds  # Here, so that --help is quick.
  try:
    with errors.net():
      print(tfds.prepare(args.name, args.data_dir, args.fashion_mnist_files))
  except errors.InputError as e:
    print(e, file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())

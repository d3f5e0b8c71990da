"""Prepares a TFDS set: jaxaug prepare NAME [--data_dir=DIR]."""
from jaxaug.core import exit_status, interrupts


def main(argv=None) -> int:
  """Returns the exit status, see core/exit_status.py."""
  parser = exit_status.parser(
      'jaxaug prepare', 'Downloads a TFDS set and prepares it for '
      'config.data.source=tfds. Needs tensorflow.')
  parser.add_argument('name', help='such as cifar10 or fashion_mnist')
  parser.add_argument('--data_dir', default='', help='where to put it; default '
                      '$TFDS_DATA_DIR or ~/tensorflow_datasets')
  parser.add_argument(
      '--fashion_mnist_files', default='', metavar='DIR',
      help='prepare fashion_mnist without a network from its four .gz files, '
      "such as Debian's /usr/share/datasets/fashion-mnist")

  def work():
    args = parser.parse_args(argv)
    from jaxaug.data.datasets import tfds  # Here, so that --help is quick.
    print(tfds.prepare(args.name, args.data_dir, args.fashion_mnist_files))
  return exit_status.of('jaxaug prepare', work)


if __name__ == '__main__':
  interrupts.leave(main())

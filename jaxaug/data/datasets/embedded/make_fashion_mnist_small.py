"""Makes fashion_mnist_small.npz from the four official Fashion-MNIST files.

python make_fashion_mnist_small.py DIR, where DIR holds
{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz, such as the folder
/usr/share/datasets/fashion-mnist of Debian's package dataset-fashion-mnist.
"""
import gzip
import hashlib
import pathlib
import sys

import numpy as np

NAMES = ('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal',
         'Shirt', 'Sneaker', 'Bag', 'Ankle boot')
SHA256 = {  # Of the decompressed files.
    'train-images-idx3':
        'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
    'train-labels-idx1':
        'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
    't10k-images-idx3':
        '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
    't10k-labels-idx1':
        '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34'}


def read(folder, name: str, header: int) -> np.ndarray:
  """Returns the bytes of one official file behind its header: uint8 [N]."""
  data = gzip.decompress((folder / f'{name}-ubyte.gz').read_bytes())
  assert hashlib.sha256(data).hexdigest() == SHA256[name], name
  return np.frombuffer(data, np.uint8, offset=header)


def main(folder: str):
  """Writes the first 500 and 200 images of each class, in official order."""
  arrays = {'class_names': np.array(NAMES)}
  for split, prefix, count in (('train', 'train', 500), ('test', 't10k', 200)):
    images = read(pathlib.Path(folder), f'{prefix}-images-idx3', 16)
    labels = read(pathlib.Path(folder), f'{prefix}-labels-idx1', 8)
    index = np.sort(np.concatenate(
        [np.flatnonzero(labels == c)[:count] for c in range(10)]))
    arrays[f'x_{split}'] = images.reshape(-1, 28, 28)[index]
    arrays[f'y_{split}'] = labels[index]
    arrays[f'{split}_index'] = index.astype(np.int32)
  np.savez_compressed(
      pathlib.Path(__file__).with_name('fashion_mnist_small.npz'), **arrays)


if __name__ == '__main__':
  main(sys.argv[1])
